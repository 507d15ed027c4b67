//! Copying file systems with real programs: Linux' dump and restore, ext4 on loop devices, an sshd of its own with keys of its own.
//! The server is this machine by way of ssh; the tree is a directory of it. Needs root, `dump` and `openssh-server`.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../hypervisors/tests/common/skip.rs"]
mod skip;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hypervisors::host::LocalHost;
use hypervisors::net::RealNet;
use hypervisors::transfer::{Compression, Source};
use hypervisors::xl::Xl;
use hypervisors::{Change, GuestLink, Hypervisor};
use serde_json::Value;
use skip::skip;
use upgradectl::steps::leased::Keeper;
use upgradectl::steps::transfer::{Moved, Transfer};
use upgradectl::steps::{Done, Memory, Probe, Step, StepError, StepRef, World};

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Process::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn noise(bytes: u64) -> Vec<u8> {
    let mut noise = Vec::new();
    std::fs::File::open("/dev/urandom").unwrap().take(bytes).read_to_end(&mut noise).unwrap();
    noise
}

/// A file system of the server.
const FILE_SYSTEMS: [&str; 3] = ["a", "a/inner", "c"];
const MIB: u64 = 1 << 20;

/// Server, host and tree; all of it goes when it is dropped.
struct Lab {
    directory: tempfile::TempDir,
    daemon: Child,
    link: GuestLink,
    world: World,
    mounted: Vec<PathBuf>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for mount in self.mounted.iter().rev() {
            let _ = Process::new("umount").arg("--lazy").arg(mount).status();
        }
    }
}

/// These steps remember nothing.
struct Nothing;

impl Memory for Nothing {
    fn keep(&self, _: &[u8]) -> Result<String, StepError> {
        Err(StepError::Memory("nothing is kept".into()))
    }
    fn recall(&self, _: &str) -> Result<Vec<u8>, StepError> {
        Err(StepError::Memory("nothing is kept".into()))
    }
    fn found(&self, _: StepRef) -> Result<Option<Value>, StepError> {
        Ok(None)
    }
    fn done(&self, _: StepRef) -> Result<Option<Value>, StepError> {
        Ok(None)
    }
}

impl Lab {
    /// `None`, said on stderr, where it cannot be.
    fn new() -> Option<Self> {
        let missing = ["/usr/sbin/sshd", "/usr/sbin/dump", "/usr/sbin/restore"]
            .into_iter()
            .find(|path| !Path::new(path).exists());
        if missing.is_some() || !nix::unistd::geteuid().is_root() {
            skip("openssh-server, dump and root");
            return None;
        }
        std::fs::create_dir_all("/run/sshd").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["hostkey", "key"] {
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", at(name).to_str().unwrap()]);
        }
        std::fs::copy(at("key.pub"), at("authorized")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/hostkey\nAuthorizedKeysFile {0}/authorized\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n",
            directory.path().display()
        );
        std::fs::write(at("config"), config).unwrap();
        std::fs::write(at("known"), format!("servera {}", std::fs::read_to_string(at("hostkey.pub")).unwrap()))
            .unwrap();
        let daemon = Process::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(at("config"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "sshd does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        let link = GuestLink {
            name: "servera".into(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            by: None,
            port,
            user: "root".into(),
            key: Some(at("key")),
            sudo: false,
            known_hosts: at("known"),
            control_dir: at("control"),
            legacy: false,
        };
        let host = Arc::new(LocalHost::new("jailhost"));
        std::fs::create_dir(at("run")).unwrap();
        // Never asked for its guests: these steps use the machine, and the way into the server.
        let xl = Xl::new(at("definitions"), host.clone(), Arc::new(RealNet), Vec::new());
        let world = World {
            hypervisors: [("jailhost".to_owned(), Arc::new(xl) as Arc<dyn Hypervisor>)].into(),
            controller: host,
            run_dir: at("run"),
            run: "servera--k3f9".into(),
            memory: Arc::new(Nothing),
            progress: Arc::new(|_, _| ()),
            observer: Arc::new(|_| ()),
            last: Value::Null,
            decision: None,
            leased: Arc::new(Keeper::new(|_| ())),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let mut lab = Self { directory, daemon, link, world, mounted: Vec::new() };
        lab.populate();
        Some(lab)
    }

    fn server(&self, name: &str) -> PathBuf {
        self.directory.path().join("server").join(name)
    }
    fn root(&self) -> PathBuf {
        self.directory.path().join("jails/servera--k3f9")
    }
    fn copy(&self, name: &str) -> PathBuf {
        self.root().join(self.server(name).strip_prefix("/").unwrap())
    }

    fn mount(&mut self, arguments: &[&str], at: &Path) {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &[arguments, &[at.to_str().unwrap()]].concat());
        self.mounted.push(at.to_owned());
    }

    /// Three file systems with some of everything in them, and the tree they go into.
    fn populate(&mut self) {
        for name in FILE_SYSTEMS {
            let image = self.directory.path().join(format!("{}.img", name.replace('/', "-")));
            std::fs::File::create(&image).unwrap().set_len(48 * MIB).unwrap();
            run("mkfs.ext4", &["-q", "-O", "^has_journal", image.to_str().unwrap()]);
            let at = self.server(name);
            self.mount(&["-o", "loop", image.to_str().unwrap()], &at);
            let put = |path: &str, bytes: &[u8]| {
                let path = at.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            };
            for number in 0..60 {
                put(&format!("etc/file {number}"), format!("{number}\n").repeat(number * 7).as_bytes());
            }
            // What no compressor makes small.
            put("var/big", &noise(4 * MIB));
            put("var/log/messages", b"begun\n");
            std::fs::File::create(at.join("var/sparse")).unwrap().set_len(5 * MIB).unwrap();
            std::fs::hard_link(at.join("var/big"), at.join("etc/big too")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", at.join("etc/link")).unwrap();
            std::os::unix::fs::chown(at.join("etc/file 3"), Some(12345), Some(54)).unwrap();
            std::fs::set_permissions(at.join("etc/file 4"), std::fs::Permissions::from_mode(0o4751)).unwrap();
            run("mkfifo", &[at.join("etc/fifo").to_str().unwrap()]);
            run("mknod", &[at.join("etc/null").to_str().unwrap(), "c", "1", "3"]);
            run("touch", &["-d", "2001-01-01", at.join("etc/file 5").to_str().unwrap()]);
        }
        // What the dump of `/` would have brought.
        for name in ["a", "c"] {
            std::fs::create_dir_all(self.copy(name)).unwrap();
        }
        // The past, so that nothing of it counts as changed meanwhile.
        std::thread::sleep(Duration::from_millis(1100));
    }

    async fn source(&self) -> Source {
        let hypervisor = self.world.hypervisor("jailhost").unwrap();
        Source::look(&*hypervisor.guest(&self.link).unwrap()).await.unwrap()
    }

    async fn step(&self, names: &[&str]) -> Transfer {
        let source = self.source().await;
        let moved = |name: &&str| {
            let mount = self.server(name);
            let found = source.filesystems.iter().find(|one| one.mount == mount).unwrap();
            assert!(found.dumpable(source.system) && found.used_bytes > 4 * MIB, "{found:?}");
            Moved { mount, device: found.device.clone(), used_bytes: found.used_bytes, snapshot: false }
        };
        Transfer {
            method: Default::default(),
            apart: Vec::new(),
            host: "jailhost".into(),
            source: self.link.clone(),
            run: "servera--k3f9".into(),
            root: self.root(),
            scratch: self.directory.path().join("jails/.upgradectl/servera--k3f9"),
            dialect: source.dump.unwrap(),
            filesystems: names.iter().map(moved).collect(),
            level: 0,
            keeps_symtable: false,
            compression: None,
            bandwidth: None,
            patience_s: 60,
        }
    }

    async fn probe(&self, step: &Transfer) -> Probe {
        step.probe(&self.world).await.unwrap()
    }
    async fn apply(&self, step: &Transfer) -> Result<Done, StepError> {
        step.apply(&self.world, &Value::Null).await
    }

    /// Names and bytes of both sides, by eyes of our own.
    fn assert_same(&self, name: &str) {
        let (server, copy) = (seen(&self.server(name)), seen(&self.copy(name)));
        assert!(server.len() > 70);
        assert_eq!(server.keys().collect::<Vec<_>>(), copy.keys().collect::<Vec<_>>(), "{name}");
        assert!(server == copy, "the bytes of {name} differ");
        assert!(!self.copy(name).join("restoresymtable").exists());
    }
}

/// Every entry of one file system: name, mode, owner, size, links; and bytes.
fn seen(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut seen = BTreeMap::new();
    let device = root.metadata().unwrap().dev();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let facts = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if facts.dev() != device || (name == "inner" && facts.is_dir()) {
                continue;
            }
            let bytes = if facts.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
            let size = if facts.is_dir() { 0 } else { facts.size() };
            let links = if facts.is_dir() { 0 } else { facts.nlink() };
            seen.insert(format!("{name} {:o} {}:{} {size} {links}", facts.mode(), facts.uid(), facts.gid()), bytes);
            if facts.is_dir() {
                todo.push(path);
            }
        }
    }
    seen
}

fn why(outcome: Result<Done, StepError>) -> String {
    let error = outcome.unwrap_err();
    assert!(error.help().is_some(), "no remedy for: {error}");
    format!("{error} ({})", error.help().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_file_systems_nested_packed_and_what_changed_since() {
    let Some(lab) = Lab::new() else { return };
    let mut step = lab.step(&FILE_SYSTEMS).await;
    step.keeps_symtable = true;
    step.compression = Compression::common(&lab.source().await.compressions, &[Compression::Zstd, Compression::Gzip]);
    assert!(step.compression.is_some());
    let dates = format!("/var/lib/upgradectl/transfer/{}", step.run);
    // What a run that was cut short left.
    drop(std::fs::remove_dir_all(&dates));
    assert_eq!(lab.probe(&step).await, Probe::Absent);
    let done = lab.apply(&step).await.unwrap();
    assert_eq!((done.change, done.data["filesystems"].as_array().unwrap().len()), (Change::Created, 3));
    assert!(done.data["filesystems"][0]["bytes"].as_u64().unwrap() > 4 * MIB);
    assert_eq!(lab.probe(&step).await, Probe::Present);
    // Nothing is copied twice.
    assert_eq!(lab.apply(&step).await.unwrap().change, Change::Unchanged);
    assert_eq!(std::fs::read_dir(&dates).unwrap().count(), 3);
    for name in FILE_SYSTEMS {
        assert!(lab.copy(name).join("restoresymtable").exists());
    }

    // The server goes on; the second pass brings what changed, and takes what went.
    for name in FILE_SYSTEMS {
        let at = lab.server(name);
        std::fs::write(at.join("var/log/messages"), "begun\nand went on\n").unwrap();
        std::fs::write(at.join("etc/new"), "new").unwrap();
        std::fs::remove_file(at.join("etc/file 7")).unwrap();
        std::fs::rename(at.join("etc/file 8"), at.join("etc/file eight")).unwrap();
    }
    let second = Transfer { level: 1, keeps_symtable: false, compression: None, ..step.clone() };
    assert_eq!(lab.probe(&second).await, Probe::Absent);
    let done = lab.apply(&second).await.unwrap();
    assert!(done.data["filesystems"][0]["bytes"].as_u64().unwrap() < 4 * MIB, "it was all copied again");
    assert_eq!(lab.probe(&second).await, Probe::Present);
    for name in FILE_SYSTEMS {
        lab.assert_same(name);
    }
    assert!(!Path::new(&dates).exists(), "dump's dates are left on the server");
    let left: Vec<_> =
        std::fs::read_dir(step.scratch.join("transfer")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 6, "only stamps are left: {left:?}");

    // The tree of another server, or another device: planned anew.
    let other = Transfer { root: "/nowhere".into(), ..second.clone() };
    assert_ne!(lab.probe(&other).await, Probe::Present);
    let mut moved = second;
    moved.filesystems[0].device = "/dev/nosuch".into();
    assert!(matches!(lab.apply(&moved).await, Err(StepError::Changed(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_cut_in_the_middle_is_no_copy_and_is_begun_again() {
    let Some(lab) = Lab::new() else { return };
    let mut step = lab.step(&["a"]).await;
    // More than all buffers on the way hold.
    std::fs::write(lab.server("a").join("var/huge"), noise(24 * MIB)).unwrap();
    step.bandwidth = Some(8 * MIB);
    let daemon = lab.daemon.id();
    let cut = async {
        // In the middle of the largest file.
        let huge = lab.copy("a").join("var/huge");
        while std::fs::metadata(&huge).map_or(0, |facts| facts.len()) < MIB {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        kill_children(daemon);
    };
    let (outcome, ()) = tokio::join!(lab.apply(&step), cut);
    let error = outcome.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    assert!(error.to_string().contains("copy /") && error.help().unwrap().contains("resume"), "{error}");
    assert_eq!(lab.probe(&step).await, Probe::Partial);
    // Someone of the dead server's could have left this behind.
    std::fs::create_dir_all(lab.copy("a").join("etc/deep/er")).unwrap();
    let outside = lab.directory.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("precious"), "kept").unwrap();
    std::os::unix::fs::symlink(&outside, lab.copy("a").join("etc/deep/out")).unwrap();
    step.bandwidth = None;
    lab.apply(&step).await.unwrap();
    assert_eq!(lab.probe(&step).await, Probe::Present);
    lab.assert_same("a");
    assert!(outside.join("precious").exists(), "emptying left the tree");
}

/// Kills what the sshd has forked, and not itself: the sessions are gone as with the network.
fn kill_children(daemon: u32) {
    let status = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let pid = entry.unwrap().file_name().into_string().unwrap();
        if let Ok(number) = pid.parse::<i32>()
            && status(&pid).lines().any(|line| line == format!("PPid:\t{daemon}"))
        {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(number), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_finds_no_room_and_the_others_are_not_copied_again() {
    let Some(mut lab) = Lab::new() else { return };
    let mut step = lab.step(&FILE_SYSTEMS).await;
    let at = lab.copy("c");
    lab.mount(&["-t", "tmpfs", "-o", "size=2m", "none"], &at);
    // Seen before anything is copied.
    let told = why(lab.apply(&step).await);
    assert!(told.contains("need") && told.contains("make room"), "{told}");
    assert_eq!(lab.probe(&step).await, Probe::Absent);
    // It grew after it was planned: restore runs into it, and says so with whatever status.
    step.filesystems.last_mut().unwrap().used_bytes = 0;
    let told = why(lab.apply(&step).await);
    assert!(told.contains("/server/c of servera") && told.contains("No space left"), "{told}");
    assert!(told.contains("make room in the target"), "{told}");
    assert_eq!(lab.probe(&step).await, Probe::Partial);
    let stamp = |name: &str| {
        let name = lab.server(name).to_str().unwrap()[1..].replace('/', "%2f");
        let path = step.scratch.join(format!("transfer/{name}.0.done"));
        path.metadata().map(|facts| facts.mtime_nsec()).ok()
    };
    // The one inside another comes in a later wave, which was not begun.
    assert!(stamp("a").is_some() && stamp("c").is_none() && stamp("a/inner").is_none());
    let before = stamp("a");
    run("mount", &["-o", "remount,size=64m", lab.copy("c").to_str().unwrap()]);
    let done = lab.apply(&step).await.unwrap();
    let copied: Vec<&str> =
        done.data["filesystems"].as_array().unwrap().iter().map(|one| one["mount"].as_str().unwrap()).collect();
    assert_eq!(copied, [lab.server("c").to_str().unwrap(), lab.server("a/inner").to_str().unwrap()]);
    assert_eq!(stamp("a"), before);
    for name in FILE_SYSTEMS {
        lab.assert_same(name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_target_stays_and_what_the_server_is_doing_is_told() {
    let Some(lab) = Lab::new() else { return };
    let mut step = lab.step(&["c"]).await;
    std::fs::write(lab.copy("c").join("theirs"), "x").unwrap();
    let told = why(lab.apply(&step).await);
    assert!(told.contains("is not empty: theirs"), "{told}");
    assert_eq!(lab.probe(&step).await, Probe::Absent);
    assert_eq!(std::fs::read_dir(lab.copy("c")).unwrap().count(), 1);
    std::fs::remove_file(lab.copy("c").join("theirs")).unwrap();

    // A link in the place of the mount point leads nowhere.
    std::fs::remove_dir(lab.copy("c")).unwrap();
    std::os::unix::fs::symlink("/tmp", lab.copy("c")).unwrap();
    let told = why(lab.apply(&step).await);
    assert!(told.contains("no directory of the tree"), "{told}");
    std::fs::remove_file(lab.copy("c")).unwrap();
    std::fs::create_dir(lab.copy("c")).unwrap();

    // restore would write its table through it.
    let link = lab.server("c").join("restoresymtable");
    std::os::unix::fs::symlink("/tmp/elsewhere", &link).unwrap();
    let told = why(lab.apply(&step).await);
    assert!(told.contains("is a link"), "{told}");
    std::fs::remove_file(&link).unwrap();

    // The server works on while it is dumped.
    step.bandwidth = Some(8 * MIB);
    let stop = Arc::new(AtomicBool::new(false));
    let (at, seen) = (lab.server("c"), Arc::clone(&stop));
    let busy = std::thread::spawn(move || {
        let mut number = 0;
        while !seen.load(Ordering::Relaxed) {
            std::fs::write(at.join(format!("var/log/new {number}")), vec![b'x'; 5000]).unwrap();
            std::fs::write(at.join("var/log/messages"), "line\n".repeat(number)).unwrap();
            if number < 40 {
                std::fs::remove_file(at.join(format!("etc/file {number}"))).unwrap();
            }
            number += 1;
            std::thread::sleep(Duration::from_millis(30));
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let outcome = lab.apply(&step).await;
    stop.store(true, Ordering::Relaxed);
    busy.join().unwrap();
    let warnings = outcome.unwrap().warnings.join("\n");
    assert!(warnings.contains("entries changed on the server meanwhile") && warnings.contains("live"), "{warnings}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_or_bent_in_the_copy_is_found() {
    let Some(lab) = Lab::new() else { return };
    let hypervisor = lab.world.hypervisor("jailhost").unwrap();
    let source = hypervisor.guest(&lab.link).unwrap();
    let step = lab.step(&["c"]).await;
    lab.apply(&step).await.unwrap();
    lab.assert_same("c");
    let place = step.filesystems[0].place(&step.root);
    let both = hypervisors::transfer::compare::Both {
        source: &*source,
        mount: &step.filesystems[0].mount,
        target: &*hypervisor.host(),
        place: &place,
        inside: &[],
        since: i64::MAX,
        spool: &lab.world.run_dir,
    };
    let compared = hypervisors::transfer::compare::compare(&both).await.unwrap();
    assert_eq!((compared.wrong.count, compared.changed.count), (0, 0), "{compared:?}");
    assert!(compared.entries > 70);
    let copy = lab.copy("c");
    std::fs::remove_file(copy.join("etc/file 1")).unwrap();
    std::fs::write(copy.join("etc/file 2"), "short").unwrap();
    std::os::unix::fs::chown(copy.join("etc/file 3"), Some(1), Some(54)).unwrap();
    std::fs::write(copy.join("etc/strange"), "").unwrap();
    let compared = hypervisors::transfer::compare::compare(&both).await.unwrap();
    let expected = [
        "/etc/file 1 is missing",
        "/etc/file 2: 28 bytes there, 5 in the copy",
        "/etc/file 3: owner 12345:54 there, 1:54 in the copy",
        "/etc/strange is not on the source",
    ];
    assert_eq!(compared.wrong.examples, expected);
}
