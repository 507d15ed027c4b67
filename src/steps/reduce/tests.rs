//! The steps on a tree of this machine, by real sh, find, tar and rm.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use hypervisors::Hypervisor;
use hypervisors::host::LocalHost;
use hypervisors::libvirt::Libvirt;
use hypervisors::net::RealNet;

use super::*;
use crate::guest::{AddressChange, GuestError};
use crate::steps::{Action, Memory, sha256};

/// Keeps bytes, and what steps found.
#[derive(Default)]
struct Kept {
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    found: Mutex<BTreeMap<StepRef, Value>>,
}

impl Memory for Kept {
    fn keep(&self, bytes: &[u8]) -> Result<String, StepError> {
        let sha = sha256(bytes);
        self.blobs.lock().unwrap().insert(sha.clone(), bytes.to_vec());
        Ok(sha)
    }
    fn recall(&self, sha256: &str) -> Result<Vec<u8>, StepError> {
        self.blobs.lock().unwrap().get(sha256).cloned().ok_or_else(|| StepError::Memory("not kept".into()))
    }
    fn found(&self, step: StepRef) -> Result<Option<Value>, StepError> {
        Ok(self.found.lock().unwrap().get(&step).cloned())
    }
    fn done(&self, _: StepRef) -> Result<Option<Value>, StepError> {
        Ok(None)
    }
}

struct Bench {
    dir: tempfile::TempDir,
    memory: Arc<Kept>,
    world: World,
}

const REDUCE: StepRef = StepRef { plan: 1, index: 3 };

impl Bench {
    /// A jail host with a tree of these files.
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(LocalHost::new("jailhost"));
        let memory = Arc::new(Kept::default());
        // Never connected to: these steps use its machine only.
        let platform = Libvirt::new("test:///default", host.clone(), Arc::new(RealNet), Vec::new());
        let world = World {
            hypervisors: [("jailhost".to_owned(), Arc::new(platform) as Arc<dyn Hypervisor>)].into(),
            controller: host,
            run_dir: dir.path().to_owned(),
            run: "ServerA--k3f9".into(),
            memory: memory.clone(),
            progress: Arc::new(|_, _| {}),
            observer: Arc::new(|_| {}),
            last: Value::Null,
            decision: None,
            leased: Arc::new(crate::steps::leased::Keeper::new(|_| ())),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let bench = Self { dir, memory, world };
        for (path, text) in files {
            bench.write(path, text);
        }
        bench
    }
    fn root(&self) -> PathBuf {
        self.dir.path().join("jails/ServerA--k3f9")
    }
    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }
    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }
    fn prune(&self) -> Prune {
        Prune {
            host: "jailhost".into(),
            root: self.root(),
            scratch: self.dir.path().join("jails/.upgradectl/ServerA--k3f9"),
            paths: prune_paths(None, &["/".into(), "/usr".into()]),
            mount_points: MOUNT_POINTS.map(str::to_owned).to_vec(),
        }
    }
    fn spec(&self) -> JailSpec {
        let (old, new) = ("10.11.12.13".parse().unwrap(), "10.11.12.113".parse().ok());
        JailSpec { addresses: vec![AddressChange { interface: "fxp0".into(), old, new }], ..JailSpec::default() }
    }
    async fn reduce(&self) -> Reduce {
        let reduced = reduced(&*self.world.controller, &self.root(), &self.spec()).await.unwrap();
        Reduce::planned("jailhost", self.root(), self.spec(), &reduced)
    }
    async fn identity(&self) -> Identity {
        let recorded = Identity::recorded(&self.world, REDUCE).unwrap();
        let restored = restored(&*self.world.controller, &self.root(), &recorded).await.unwrap();
        Identity::planned("jailhost", self.root(), REDUCE, &restored)
    }
    async fn probe(&self, step: &dyn Step) -> Probe {
        step.probe(&self.world).await.unwrap()
    }
    /// By the step's contract: captured once, applied twice.
    async fn done(&self, step: &dyn Step) -> (Value, Done) {
        let found = step.capture(&self.world).await.unwrap();
        let done = step.apply(&self.world, &found).await.unwrap();
        assert_eq!(self.probe(step).await, Probe::Present);
        assert_eq!(step.apply(&self.world, &found).await.unwrap().change, Change::Unchanged);
        (found, done)
    }
}

const SERVER: [(&str, &str); 14] = [
    ("etc/rc.conf", "hostname=\"ServerA\"\nifconfig_fxp0=\"inet 10.11.12.13\"\nsshd_enable=\"YES\"\n"),
    ("etc/fstab", "/dev/ad0s1a / ufs rw 1 1\n"),
    ("etc/ssh/sshd_config", "ListenAddress 10.11.12.13\n"),
    ("etc/localtime", "TZif"),
    ("usr/local/etc/app.conf", "bind = 10.11.12.13\n"),
    ("usr/src/Makefile", ""),
    ("usr/ports/www/Makefile", ""),
    ("usr/restoresymtable", ""),
    ("boot/kernel/kernel", ""),
    ("kernel.GENERIC", ""),
    ("kernel", ""),
    ("dev/.hidden", ""),
    ("tmp/a b", ""),
    ("usr/home/x", ""),
];

fn names(at: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(at).unwrap().map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_tree_is_pruned_and_its_etc_is_kept() {
    let bench = Bench::new(&SERVER);
    let prune = bench.prune();
    assert_eq!(bench.probe(&prune).await, Probe::Absent);
    let (_, done) = bench.done(&prune).await;
    assert_eq!((done.change, done.warnings), (Change::Removed, Vec::new()));
    assert_eq!(names(&bench.root()), ["dev", "etc", "tmp", "usr"]);
    assert_eq!(names(&bench.at("usr")), ["home", "local", "ports"]);
    for empty in ["dev", "tmp", "usr/ports"] {
        assert_eq!(names(&bench.at(empty)), Vec::<String>::new(), "{empty}");
    }
    let backup = prune.scratch.join("backup");
    assert_eq!(names(&backup), ["etc.tar"]);
    assert_eq!(fs::metadata(backup.join("etc.tar")).unwrap().permissions().mode() & 0o777, 0o600);
    // What has come since is no longer the server's.
    let before = fs::read(backup.join("etc.tar")).unwrap();
    bench.write("etc/rc.conf", "");
    bench.write("tmp/new", "");
    assert_eq!(bench.probe(&prune).await, Probe::Partial);
    bench.done(&prune).await;
    assert_eq!(fs::read(backup.join("etc.tar")).unwrap(), before);
    prune.undo(&bench.world, &Value::Null).await.unwrap();
    let listed = hypervisors::host::Command::new(["tar", "-tf", &backup.join("etc.tar").to_string_lossy()]);
    let listed = bench.world.controller.run(&listed).await.unwrap().text();
    assert!(listed.contains("./etc/rc.conf\n") && listed.contains("./etc/ssh/sshd_config\n"), "{listed}");
}

#[tokio::test]
async fn pruning_does_not_leave_the_tree() {
    let bench = Bench::new(&[("etc/rc.conf", ""), ("outside/keep/file", ""), ("real/x", "")]);
    let outside = bench.at("../outside");
    fs::rename(bench.at("outside"), &outside).unwrap();
    // Links out of the tree wherever something is to be removed or emptied.
    for link in ["boot", "dev", "tmp", "kernel.old", "restoresymtable"] {
        symlink(&outside, bench.at(link)).unwrap();
    }
    symlink(&outside, bench.at("usr")).unwrap();
    fs::create_dir(outside.join("src")).unwrap();
    fs::create_dir(bench.at("modules")).unwrap();
    symlink(&outside, bench.at("modules/in it")).unwrap();
    bench.write("kernel -rf\n$(id)", "");
    let (_, done) = bench.done(&bench.prune()).await;
    assert_eq!(names(&outside), ["keep", "src"]);
    assert_eq!(names(&outside.join("keep")), ["file"]);
    assert_eq!(names(&bench.root()), ["dev", "etc", "real", "tmp", "usr"]);
    assert!(fs::symlink_metadata(bench.at("dev")).unwrap().is_dir(), "a mount point is a directory");
    assert!(done.warnings.iter().any(|told| told.starts_with("usr/src lies behind a link")), "{:?}", done.warnings);
    assert!(done.warnings.contains(&"tmp is a link and is left alone".to_owned()), "{:?}", done.warnings);
}

#[tokio::test]
async fn pruning_refuses_what_it_cannot_know() {
    let bench = Bench::new(&[("etc/rc.conf", ""), ("boot/x", "")]);
    for path in ["../x", "/boot", "boot/../../x", "*"] {
        let prune = Prune { paths: vec![path.into()], ..bench.prune() };
        let error = prune.apply(&bench.world, &Value::Null).await.unwrap_err();
        assert!(error.to_string().contains("is no path beneath the tree"), "{error}");
    }
    fs::rename(bench.at("etc"), bench.at("etc2")).unwrap();
    symlink("etc2", bench.at("etc")).unwrap();
    let error = bench.prune().apply(&bench.world, &Value::Null).await.unwrap_err();
    assert!(error.to_string().contains("etc is not a directory"), "{error}");
    assert!(bench.at("boot/x").exists(), "nothing goes before etc is kept");
}

#[tokio::test]
async fn a_server_is_reduced_and_promoted_and_taken_back() {
    let bench = Bench::new(&SERVER);
    let reduce = bench.reduce().await;
    assert!(reduce.diff.contains("+ListenAddress 10.11.12.113") && !reduce.diff.contains(ORIGINAL), "{}", reduce.diff);
    assert_eq!(bench.probe(&reduce).await, Probe::Absent);
    let (found, done) = bench.done(&reduce).await;
    assert_eq!(done.warnings, ["still there: /usr/local/etc/app.conf:1: bind = 10.11.12.13"]);
    assert_eq!(done.data["held"], json!(["cron", "sendmail"]));
    assert_eq!(bench.read("etc/rc.conf.upgradectl-server"), SERVER[0].1);
    assert_eq!(bench.read("etc/ssh/sshd_config"), "ListenAddress 10.11.12.113\n");
    bench.memory.found.lock().unwrap().insert(REDUCE, found);
    reduce.undo(&bench.world, &Value::Null).await.unwrap();
    let clone = bench.read("etc/rc.conf");
    assert!(clone.contains("\ncron_enable=\"NO\""), "{clone}");

    // The world upgrade has been here.
    bench.write("etc/ssh/sshd_config", "# new\nListenAddress 10.11.12.113\n");
    let identity = bench.identity().await;
    assert_eq!(bench.probe(&identity).await, Probe::Absent);
    let (found, done) = bench.done(&identity).await;
    assert_eq!(done.warnings, ["/etc/ssh/sshd_config: production's values go into the upgraded file"]);
    assert_eq!(bench.read("etc/ssh/sshd_config"), "# new\nListenAddress 10.11.12.13\n");
    let expected = "hostname=\"ServerA\"\n# upgradectl: ifconfig_fxp0=\"inet 10.11.12.13\"\nsshd_enable=\"YES\"\n";
    assert_eq!(bench.read("etc/rc.conf"), expected);
    for change in [Change::Changed, Change::Unchanged] {
        assert_eq!(identity.undo(&bench.world, &found).await.unwrap().change, change);
        assert_eq!(bench.read("etc/rc.conf"), clone);
        assert_eq!(bench.read("etc/ssh/sshd_config"), "# new\nListenAddress 10.11.12.113\n");
    }
    // A file of which the clone's value is gone cannot be promoted.
    bench.write("etc/ssh/sshd_config", "ListenAddress 10.11.12.200\n");
    let error = identity.capture(&bench.world).await.unwrap_err();
    assert!(matches!(error, StepError::Guest(GuestError::Ambiguous { .. })), "{error}");
}

#[tokio::test]
async fn what_changed_since_the_plan_is_not_improvised_upon() {
    let bench = Bench::new(&SERVER);
    let reduce = bench.reduce().await;
    bench.write("etc/fstab", "/dev/ad1s1a / ufs rw 1 1\n");
    let error = reduce.capture(&bench.world).await.unwrap_err();
    assert!(
        matches!(&error, StepError::Changed(what) if what.ends_with(": /etc/fstab, /etc/fstab.upgradectl-server")),
        "{error}"
    );
    // Between capture and apply.
    let reduce = bench.reduce().await;
    let found = reduce.capture(&bench.world).await.unwrap();
    bench.write("etc/ssh/sshd_config", "ListenAddress 10.11.12.13\nPort 23\n");
    let error = reduce.apply(&bench.world, &found).await.unwrap_err();
    assert!(matches!(error, StepError::Guest(GuestError::Changed { .. })), "{error}");
    assert_eq!(bench.read("etc/rc.conf"), SERVER[0].1, "nothing was written");
}

#[tokio::test]
async fn steps_are_data() {
    let bench = Bench::new(&SERVER);
    let reduce = bench.reduce().await;
    let identity =
        Identity { host: "jailhost".into(), root: bench.root(), reduce: REDUCE, expected: vec![], diff: String::new() };
    for (action, kind) in [
        (Action::from(bench.prune()), "jail.prune"),
        (Action::from(reduce), "jail.reduce"),
        (Action::from(identity), "jail.identity"),
    ] {
        assert_eq!(action.kind(), kind);
        let text = serde_json::to_string(&action).unwrap();
        assert_eq!(serde_json::from_str::<Action>(&text).unwrap(), action);
        assert!(!action.step().title().is_empty());
    }
}
