//! What `gc` finds and removes after a lost state directory at each state, and what it never does.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::sync::Arc;

use hypervisors::sim::{Fault, How};
use hypervisors::{Definition, Hypervisor, Mark, Power, Role, VolumeRef};

use super::app::Front;
use super::error::exit;
use super::gc::{Collected, Kind, Wish};
use super::page::Proposal;
use super::state::{State, Verb};
use super::tests::{Lab, assert_same};
use crate::journal::EventKind;

/// Answers as told, or not at all.
struct Answer(Option<bool>);

impl Front for Answer {
    fn show(&self, _: &Proposal, _: bool) {}
    fn confirm(&self, word: &str) -> Option<bool> {
        assert_eq!(word, "remove");
        self.0
    }
    fn ask(&self, _: &str, _: u8) -> Option<bool> {
        None
    }
}

impl Lab {
    pub(super) async fn at(path: &[(Verb, State)]) -> Self {
        let lab = Self::new();
        for (verb, state) in path {
            lab.good(*verb, *state).await;
        }
        lab
    }

    /// The state directory is gone, all but the simulated world in it.
    pub(super) fn lose_state(&self) {
        for entry in fs::read_dir(&self.app.state).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() == "sim" {
                continue;
            }
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }

    async fn gc(&self, from_world: bool) -> Collected {
        let wish = Wish { from_world, yes: true, ..Wish::default() };
        self.app.gc(&wish, &|_| {}).await.unwrap()
    }

    async fn adopt(&self, object: &str) -> Result<Collected, u8> {
        let wish = Wish { adopt: Some(object.to_owned()), ..Wish::default() };
        self.app.gc(&wish, &|_| {}).await.map_err(|failure| failure.0.code)
    }
}

/// What of the found may go: kind and role.
fn removable(collected: &Collected) -> Vec<(Kind, Role)> {
    collected.found.iter().filter(|one| one.removable).filter_map(|one| Some((one.kind, one.role?))).collect()
}

pub(super) const CLONED: [(Verb, State); 1] = [(Verb::Clone, State::Cloned)];
const PROMOTED: [(Verb, State); 4] = [
    (Verb::Clone, State::Cloned),
    (Verb::Upgrade, State::Upgraded),
    (Verb::Verify, State::Verified),
    (Verb::Promote, State::Promoted),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_an_open_run_are_no_leftovers() {
    let lab = Lab::at(&CLONED).await;
    for from_world in [false, true] {
        assert_eq!(lab.gc(from_world).await.found, []);
    }
    let run = lab.journal().runs(true).unwrap().remove(0).id;
    assert_eq!(lab.adopt(&run).await.unwrap_err(), exit::STATE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clone_whose_state_was_lost_goes_whole() {
    for steps in 1..=2 {
        let lab = Lab::new();
        let before = lab.world();
        for (verb, state) in &PROMOTED[..steps] {
            lab.good(*verb, *state).await;
        }
        lab.lose_state();
        let listed = lab.gc(false).await;
        assert_eq!((removable(&listed), listed.removed.len()), (Vec::new(), 0), "the run may be another controller's");
        assert!(listed.found.iter().all(|one| one.why.contains("--from-world")), "{listed:?}");
        let done = lab.gc(true).await;
        assert_eq!(removable(&done), [(Kind::Definition, Role::Clone), (Kind::Volume, Role::Clone)]);
        assert_eq!((done.exit_code, done.removed.len()), (exit::DONE, 2), "{done:?}");
        assert!(done.found[1].size_bytes.is_some());
        assert_same(&before, &lab.world());
        assert_eq!(lab.gc(true).await.found, [], "a second time there is nothing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_is_never_offered_and_can_be_adopted() {
    let lab = Lab::at(&PROMOTED).await;
    let sim = lab.sim();
    let original = sim.volume_ref("mercure").to_string();
    lab.lose_state();
    let done = lab.gc(true).await;
    let mut gone = removable(&done);
    gone.sort_by_key(|(_, role)| role.as_str());
    assert_eq!(gone, [(Kind::Volume, Role::Detached), (Kind::Volume, Role::Original)], "{done:?}");
    assert!(done.removed.contains(&original));
    assert_eq!(sim.power("mercure").await.unwrap(), Power::On);
    let production: Vec<_> = done.found.iter().filter(|one| one.role == Some(Role::Production)).cloned().collect();
    assert_eq!(production.len(), 2);
    for one in production {
        assert!(!one.removable && one.why.contains("--adopt"), "{one:?}");
        let name = one.object.rsplit('/').next().unwrap();
        assert_eq!(lab.adopt(name).await.unwrap().adopted, Some(one.object));
    }
    assert_eq!(lab.gc(true).await.found, []);
    assert_eq!(sim.facts("mercure").await.unwrap().unwrap().mark, None);
    assert_eq!(lab.adopt("nothing").await.unwrap_err(), exit::USAGE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_original_that_may_be_all_that_is_left_stays() {
    let lab = Lab::at(&PROMOTED).await;
    let sim = lab.sim();
    lab.lose_state();
    sim.destroy("mercure").await.unwrap();
    sim.undefine("mercure").await.unwrap();
    let text = r#"{"name": "mercure", "disks": [{"name": "/srv/mail", "volume": "mercure-mail"}]}"#.to_owned();
    sim.define(&Definition { name: "mercure".into(), text }).await.unwrap();
    let done = lab.gc(true).await;
    let original = done.found.iter().find(|one| one.role == Some(Role::Original)).unwrap();
    assert!(!original.removable && original.why.contains("all that is left"), "{original:?}");
    assert!(done.found.iter().filter(|one| one.role == Some(Role::Production)).all(|one| !one.removable));
}

/// A restoring that was cut off left its marks on the data itself, and the definition does not name it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_was_being_restored_stays() {
    for role in [Role::Detached, Role::Displaced] {
        let lab = Lab::at(&PROMOTED).await;
        let sim = lab.sim();
        let run = lab.journal().runs(true).unwrap().remove(0).id;
        let (data, saved) = (sim.volume_ref("mercure-mail"), sim.volume_ref(&format!("{run}-srv-mail.saved")));
        let storage = sim.storage(data.kind).unwrap();
        storage.mark(&data, Some(&Mark { run: run.clone(), role })).await.unwrap();
        storage.mark(&saved, Some(&Mark { run, role: Role::Displaced })).await.unwrap();
        lab.lose_state();
        sim.destroy("mercure").await.unwrap();
        sim.undefine("mercure").await.unwrap();
        let disk = |name: &str, volume: &str| {
            format!(r#"{{"name": "{name}", "volume": "{volume}", "root": {}}}"#, name == "/")
        };
        let text =
            format!(r#"{{"name": "mercure", "disks": [{}, {}]}}"#, disk("/", "mercure"), disk("/srv/mail", "lost"));
        sim.define(&Definition { name: "mercure".into(), text }).await.unwrap();
        let done = lab.gc(true).await;
        let found = |volume: &VolumeRef| {
            let one = done.found.iter().find(|one| one.object == volume.to_string());
            one.unwrap_or_else(|| panic!("{volume} is not in {done:?}"))
        };
        assert!(!found(&data).removable && found(&data).why.contains("--adopt"), "{done:?}");
        // While the guest lacks a disk this may be all there is of it.
        assert!(!found(&saved).removable, "{done:?}");
        assert!(storage.inspect(&data).await.unwrap().is_some() && storage.inspect(&saved).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_definition_names_stays() {
    let lab = Lab::at(&CLONED).await;
    let sim = lab.sim();
    let run = lab.journal().runs(true).unwrap().remove(0).id;
    lab.lose_state();
    let text = format!(r#"{{"name": "venus", "disks": [{{"name": "/", "volume": "{run}-root", "root": true}}]}}"#);
    sim.define(&Definition { name: "venus".into(), text }).await.unwrap();
    // The definition of a guest that was made from the clone's, mark and all, with a disk of its own.
    let clone = sim.definition(&run).await.unwrap().unwrap().text;
    let uuid = sim.facts(&run).await.unwrap().unwrap().uuid.unwrap();
    let text = clone
        .replace(&format!("\"name\": \"{run}\""), "\"name\": \"mars\"")
        .replace(&format!("{run}-root"), "mercure-mail")
        .replace(&uuid, "11111111-2222-4333-8444-555555555555");
    sim.define(&Definition { name: "mars".into(), text }).await.unwrap();
    let done = lab.gc(true).await;
    let why = |object: &str| done.found.iter().find(|one| one.object.ends_with(object)).map(|one| one.why.clone());
    assert!(why(&format!("{run}-root")).unwrap().contains("venus names it"), "{done:?}");
    assert!(why("mars").unwrap().contains("run's name"), "{done:?}");
    assert_eq!(done.removed, std::slice::from_ref(&run), "the clone's own definition may go, its volume not");
    assert!(sim.definition("mars").await.unwrap().is_some() && sim.definition("venus").await.unwrap().is_some());
    assert!(
        sim.storage(hypervisors::VolumeKind::Sim)
            .unwrap()
            .inspect(&sim.volume_ref(&format!("{run}-root")))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftovers_of_a_closed_run_go_and_its_journal_says_so() {
    let lab = Lab::at(&CLONED).await;
    let run = lab.journal().runs(true).unwrap().remove(0).id;
    lab.good(Verb::Abort, State::Aborted).await;
    let sim = lab.sim();
    let storage = sim.storage(hypervisors::VolumeKind::Sim).unwrap();
    let (source, whole) = (sim.volume_ref("mercure"), sim.volume_ref(&format!("{run}-root")));
    let mark = Mark { run: run.clone(), role: Role::Clone };
    storage.snapshot(&source, &whole, &mark).await.unwrap();
    // One that was only begun.
    let half = sim.volume_ref(&format!("{run}-half"));
    sim.inject(Fault { op: "storage.snapshot".into(), object: None, nth: 1, how: How::Partial }).unwrap();
    storage.snapshot(&source, &half, &mark).await.unwrap_err();

    let mut lab = lab;
    for (answer, code) in [(Some(false), exit::UNDECIDED), (None, exit::UNDECIDED)] {
        lab.app.front = Arc::new(Answer(answer));
        let refused = lab.app.gc(&Wish::default(), &|_| {}).await.unwrap_err();
        assert_eq!(refused.0.code, code);
        assert!(storage.inspect(&whole).await.unwrap().is_some());
    }
    let listed = lab.app.gc(&Wish { dry_run: true, yes: true, ..Wish::default() }, &|_| {}).await.unwrap();
    assert_eq!((listed.found.len(), listed.removed.len()), (2, 0));
    lab.app.front = Arc::new(Answer(Some(true)));
    let done = lab.app.gc(&Wish::default(), &|_| {}).await.unwrap();
    assert_eq!(done.removed.len(), 2, "{done:?}");
    assert!(storage.inspect(&whole).await.unwrap().is_none() && storage.inspect(&half).await.unwrap().is_none());
    let events = lab.journal().events(&run).unwrap();
    let note = events.iter().rfind(|event| event.kind == EventKind::Note).unwrap();
    assert_eq!(note.data["verb"], "gc");
    assert_eq!(lab.journal().run(&run).unwrap().unwrap().state, "aborted");
}
