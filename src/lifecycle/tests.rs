//! Whole lifecycles on the simulated platform, in this process. The ring *sim* does the same through the binary, with
//! every fault; these tell quickly where it breaks.

#![expect(clippy::unwrap_used, reason = "tests")]

mod model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hypervisors::Hypervisor;
use hypervisors::sim::{self, Sim};

use super::app::App;
use super::error::exit;
use super::invocation::{Finish, Front, Options};
use super::page::Proposal;
use super::state::{State, Verb};
use crate::engine::Event;

const INVENTORY: &str = r#"
version = 1
[hosts]
here = { hypervisor = "sim" }
[guests.mercure]
host = "here"
disks = { "/srv/mail" = "detach" }
upgrade = { recipe = "debian", to = "trixie" }
checks = [{ kind = "imap" }, { kind = "http" }, { kind = "smtp", rcpt = "probe@mercure" }]
carry = [{ kind = "rsync", path = "/home/" }]
[guests.mercure.clone]
ip = [".16"]
"#;

struct Yes;

impl Front for Yes {
    fn show(&self, _: &Proposal, _: bool) {}
    fn confirm(&self, _: &str) -> Option<bool> {
        Some(true)
    }
    fn ask(&self, _: &str, _: u8) -> Option<bool> {
        Some(false)
    }
}

pub(super) struct Lab {
    pub(super) dir: tempfile::TempDir,
    pub(super) app: App,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Lab {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        sim::seed(&state.join("sim")).unwrap();
        let inventory = dir.path().join("inventory.toml");
        std::fs::write(&inventory, INVENTORY).unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = events.clone();
        let app = App {
            inventory: crate::inventory::load(&inventory).unwrap(),
            scratch: state.join("run"),
            state,
            sink: Arc::new(move |event: &Event| seen.lock().unwrap().push(event.clone())),
            front: Arc::new(Yes),
            stop: Arc::default(),
        };
        Self { dir, app, events }
    }

    pub(super) fn sim(&self) -> Sim {
        Sim::open(&self.app.state.join("sim")).unwrap()
    }

    pub(super) async fn verb(&self, verb: Verb) -> Finish {
        let options = Options { wait: Duration::ZERO, yes: true, ..Options::default() };
        self.app.change(verb, "mercure", &options).await
    }

    pub(super) async fn good(&self, verb: Verb, state: State) {
        let finish = self.verb(verb).await;
        let events = self.events.lock().unwrap();
        let tail: Vec<String> =
            events.iter().rev().take(12).rev().map(|event| serde_json::to_string(event).unwrap()).collect();
        assert_eq!((finish.code, finish.state), (exit::DONE, Some(state)), "{:?}\n{}", finish.error, tail.join("\n"));
    }

    /// What must be as before: definitions, autostart and power, and every file of the volumes.
    pub(super) fn world(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut world = BTreeMap::new();
        let root = self.app.state.join("sim");
        for part in ["definitions", "volumes"] {
            read(&root.join(part), &root, &mut world);
        }
        // Job records and accounting beside the trees are not the guest's.
        world.retain(|path, _| !(path.starts_with("volumes") && path.components().count() == 2));
        world
    }
}

fn read(dir: &Path, root: &Path, world: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_owned();
        if path.is_symlink() {
            world.insert(name, std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
        } else if path.is_dir() {
            world.insert(name, Vec::new());
            read(&path, root, world);
        } else {
            world.insert(name, std::fs::read(&path).unwrap());
        }
    }
}

pub(super) fn assert_same(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>) {
    let changed: Vec<&PathBuf> = before
        .keys()
        .chain(after.keys())
        .filter(|path| before.get(*path) != after.get(*path) && !path.to_string_lossy().contains("lib/upgradectl"))
        .collect();
    assert!(changed.is_empty(), "changed: {changed:?}");
}

fn no_conflicts(sim: &Sim) {
    for entry in sim.trace().unwrap() {
        assert!(entry.conflicts.is_empty(), "{entry:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_clone_to_commit_with_a_rollback_on_the_way() {
    let lab = Lab::new();
    lab.good(Verb::Clone, State::Cloned).await;
    lab.good(Verb::Upgrade, State::Upgraded).await;
    lab.good(Verb::Verify, State::Verified).await;
    lab.good(Verb::Promote, State::Promoted).await;
    lab.good(Verb::Rollback, State::Upgraded).await;
    lab.good(Verb::Verify, State::Verified).await;
    lab.good(Verb::Promote, State::Promoted).await;
    lab.good(Verb::Commit, State::Committed).await;
    no_conflicts(&lab.sim());
    let _ = &lab.dir;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abort_leads_back_from_every_state() {
    let path = [
        (Verb::Clone, State::Cloned),
        (Verb::Upgrade, State::Upgraded),
        (Verb::Verify, State::Verified),
        (Verb::Promote, State::Promoted),
    ];
    for length in 1..=path.len() {
        let lab = Lab::new();
        let before = lab.world();
        for (verb, state) in &path[..length] {
            lab.good(*verb, *state).await;
        }
        lab.good(Verb::Abort, State::Aborted).await;
        assert_same(&before, &lab.world());
        no_conflicts(&lab.sim());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_destroys_nothing_that_production_stands_on() {
    let lab = Lab::new();
    let found = lab.sim().definition("mercure").await.unwrap().unwrap();
    for (verb, state) in [
        (Verb::Clone, State::Cloned),
        (Verb::Upgrade, State::Upgraded),
        (Verb::Verify, State::Verified),
        (Verb::Promote, State::Promoted),
    ] {
        lab.good(verb, state).await;
    }
    // Somebody brought the old definition back: the guest's next start is the original's.
    lab.sim().define(&found).await.unwrap();
    let finish = lab.verb(Verb::Commit).await;
    assert_eq!(
        (finish.code, lab.sim().volume_ref("mercure").path.exists()),
        (exit::REFUSED, true),
        "{:?}",
        finish.error
    );
    no_conflicts(&lab.sim());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_plan_looks_again_who_runs() {
    use crate::inventory::{Hook, HookPlace, HookTime};
    let mut lab = Lab::new();
    let flag = lab.dir.path().join("flag");
    let around = HookTime::Around {
        verbs: vec![crate::inventory::Verb::Promote],
        before: None,
        after: Some(vec!["test".into(), "-e".into(), flag.display().to_string()]),
        lease_s: None,
    };
    let hook = Hook { name: "watcher".into(), on: HookPlace::Controller, when: around, timeout_s: None };
    lab.app.inventory.guests.get_mut("mercure").unwrap().hooks.push(hook);
    for (verb, state) in
        [(Verb::Clone, State::Cloned), (Verb::Upgrade, State::Upgraded), (Verb::Verify, State::Verified)]
    {
        lab.good(verb, state).await;
    }
    let finish = lab.verb(Verb::Promote).await;
    assert_eq!((finish.code, finish.state), (exit::UNTIDY, Some(State::Promoted)), "{:?}", finish.error);
    // The host goes down before the verb is tidied up: what the journal calls started is off.
    lab.sim().destroy("mercure").await.unwrap();
    std::fs::write(&flag, "").unwrap();
    lab.good(Verb::Resume, State::Promoted).await;
    assert_eq!(lab.sim().power("mercure").await.unwrap(), hypervisors::Power::On);
    no_conflicts(&lab.sim());
}

#[test]
fn the_periodic_check_is_switched_off_on_block_volumes_only() {
    use hypervisors::{VolumeKind, VolumeRef};

    let volume = |kind| VolumeRef { kind, path: "/dev/vg1/mercure--k3f9-xvda1".into() };
    let kinds = [VolumeKind::Btrfs, VolumeKind::Directory, VolumeKind::Sim, VolumeKind::LvmThick, VolumeKind::LvmThin];
    let volumes = kinds.map(volume);
    let steps = super::clone::disarm("here", volumes.iter());
    let titles: Vec<String> = steps.iter().map(crate::engine::PlanStep::title).collect();
    assert_eq!(titles, ["switch the periodic fsck of /dev/vg1/mercure--k3f9-xvda1 off"; 2]);
    assert!(steps.iter().all(|step| step.op.action().kind() == "fsck.disarm"));
}
