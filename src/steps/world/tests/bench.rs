//! A jail host with a jail of 13.2, a source of 14.1 with its buildworld, and a source of 13.2.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hypervisors::host::{Command, Job, JobStatus, LocalHost, Output, job};
use hypervisors::net::RealNet;
use hypervisors::xl::Xl;
use hypervisors::{Change, Host, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::super::{EtcTree, InstallWorld, Tree};
use crate::engine::PlanStep;
use crate::inventory::{FreebsdWorld, WorldMethod};
use crate::lifecycle::transfer::world as planned;
use crate::recipe::freebsd::Source;
use crate::recipe::{Finding, Verdict, sha256};
use crate::steps::{Done, Memory, Probe, StepError, StepRef, World};

pub const RUN: &str = "ServerA--k3f9";

const PROGRAMS: &[&str] = &[
    "uname",
    "freebsd-version",
    "sysctl",
    "chflags",
    "find",
    "sha256",
    "make",
    "etcupdate",
    "pwd_mkdb",
    "cap_mkdb",
    "services_mkdb",
    "mergemaster",
    "mount",
    "umount",
    "jls",
    "jail",
    "freebsd-update",
];

/// This machine, with programs of FreeBSD's before its own.
#[derive(Clone, Debug)]
pub struct Machine {
    local: LocalHost,
    dir: PathBuf,
}

#[async_trait]
impl Host for Machine {
    fn name(&self) -> &str {
        "jailhost"
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        let path = format!("{}/bin:{}", self.dir.display(), std::env::var("PATH").unwrap());
        let fake = self.dir.join("fake").display().to_string();
        self.local.run(&command.clone().env("PATH", path).env("FAKE", fake)).await
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.local.read_file(path, limit).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        self.local.write_file(path, bytes, mode).await
    }
    async fn job_start(&self, work: &Job) -> Result<Change> {
        job::start(self, &self.dir.join("jobs"), work).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        job::status(self, &self.dir.join("jobs"), id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        job::forget(self, &self.dir.join("jobs"), id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        job::output(self, &self.dir.join("jobs"), id, from).await
    }
}

#[derive(Default)]
struct Kept(Mutex<BTreeMap<String, Vec<u8>>>);

impl Memory for Kept {
    fn keep(&self, bytes: &[u8]) -> std::result::Result<String, StepError> {
        self.0.lock().unwrap().insert(sha256(bytes), bytes.to_vec());
        Ok(sha256(bytes))
    }
    fn recall(&self, sha256: &str) -> std::result::Result<Vec<u8>, StepError> {
        Ok(self.0.lock().unwrap()[sha256].clone())
    }
    fn found(&self, _: StepRef) -> std::result::Result<Option<Value>, StepError> {
        Ok(None)
    }
    fn done(&self, _: StepRef) -> std::result::Result<Option<Value>, StepError> {
        Ok(None)
    }
}

pub struct Bench {
    dir: TempDir,
    pub machine: Machine,
    pub world: World,
    pub tree: Tree,
    pub spec: FreebsdWorld,
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

const OLD: &[(&str, &str)] = &[
    ("etc/defaults/rc.conf", "old defaults\n"),
    (
        "etc/master.passwd",
        "root:*:0:0::0:0:Charlie &:/root:/bin/sh\nnobody:*:65534:65534::0:0:x:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("etc/group", "wheel:*:0:root\n"),
    ("etc/login.conf", "default:\\\n\t:umask=022:\n"),
    ("etc/newsyslog.conf", "/var/log/maillog  640  7  *  @T00  JC\n"),
    ("etc/mail/aliases", "postmaster: root\n"),
    ("etc/services", "ssh 22/tcp\n"),
    ("etc/rc.d/gptboot", "#!/bin/sh\n"),
];
const NEW: &[(&str, &str)] = &[
    ("etc/defaults/rc.conf", "new defaults\n"),
    (
        "etc/master.passwd",
        "root:*:0:0::0:0:Charlie &:/root:/bin/sh\n_newd:*:601:601::0:0:New daemon:/nonexistent:/usr/sbin/nologin\nnobody:*:65534:65534::0:0:x:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("etc/group", "wheel:*:0:root\n_newd:*:601:\n"),
    ("etc/login.conf", "default:\\\n\t:umask=027:\n"),
    ("etc/newsyslog.conf", "/var/log/maillog  640  14  *  @T00  JC\n"),
    ("etc/mail/aliases", "postmaster: root\nabuse: root\n"),
    ("etc/services", "ssh 22/tcp\nhttp 80/tcp\n"),
    ("etc/rc.d/newthing", "#!/bin/sh\n"),
];

impl Bench {
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("world").unwrap();
        let top = fs::canonicalize(dir.path()).unwrap();
        let script = top.join("bin/freebsd.sh");
        write(&script, include_str!("freebsd.sh"));
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        for program in PROGRAMS {
            std::os::unix::fs::symlink("freebsd.sh", top.join("bin").join(program)).unwrap();
        }
        fs::create_dir_all(top.join("fake/jails")).unwrap();
        let root = top.join("jails").join(RUN);
        for (path, text) in OLD {
            write(&root.join(path), text);
            write(&top.join("oldsrc").join(path), text);
        }
        for (path, text) in NEW {
            write(&top.join("src").join(path), text);
        }
        let machine = Machine { local: LocalHost::new("jailhost"), dir: top.clone() };
        let host: Arc<dyn Host> = Arc::new(machine.clone());
        let platform = Arc::new(Xl::new(top.join("xen"), host, Arc::new(RealNet), Vec::new()));
        let world = World {
            hypervisors: BTreeMap::from([("jailhost".to_owned(), platform as _)]),
            controller: Arc::new(LocalHost::new("controller")),
            run_dir: top.join("run"),
            run: RUN.into(),
            memory: Arc::new(Kept::default()),
            progress: Arc::new(|_, _| ()),
            observer: Arc::new(|_| ()),
            last: Value::Null,
            decision: None,
            leased: Arc::new(crate::steps::leased::Keeper::new(|_| ())),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let tree =
            Tree { host: "jailhost".into(), run: RUN.into(), scratch: top.join("jails/.upgradectl").join(RUN), root };
        let spec = FreebsdWorld {
            method: WorldMethod::Installworld,
            src: top.join("src"),
            obj: None,
            build: false,
            base: None,
            packages: true,
            to: None,
        };
        let bench = Self { dir, machine, world, tree, spec };
        bench.release("src", "14.1", "RELEASE-p5", 1_401_000);
        bench.release("oldsrc", "13.2", "RELEASE", 1_302_001);
        for file in ["bin/sh/sh", "usr.bin/yes/yes"] {
            write(&bench.objects().join(file), "x\n");
        }
        write(&bench.objects().join("bin/freebsd-version/freebsd-version"), "USERLAND_VERSION=\"14.1-RELEASE-p5\"\n");
        for (name, text) in [
            ("kernel", "1401000"),
            ("running", "14.1-RELEASE-p5"),
            ("installed", "14.1-RELEASE-p5"),
            ("securelevel", "-1"),
            ("network", ""),
            ("features", "kern.features.compat_freebsd13\nkern.features.inet"),
            ("old-files", "/usr/games/fortune"),
            ("old-libs", "/lib/libedit.so.7"),
            ("schg", &format!("{}/lib/libc.so.7", bench.tree.root.display())),
        ] {
            bench.set(name, text);
        }
        fs::write(bench.at("fake/new-elf"), crate::recipe::freebsd::tests::binary(false, Some(1_401_000))).unwrap();
        // What the administrators of 13.2 made of it.
        bench.write("bin/freebsd-version", "USERLAND_VERSION=\"13.2-RELEASE\"\n");
        bench.write("usr/include/osreldate.h", "#define __FreeBSD_version 1302001\n");
        bench.write("lib/libc.so.7", "old libc\n");
        bench.write("lib/libedit.so.7", "x\n");
        bench.write("usr/games/fortune", "x\n");
        bench.write("etc/master.passwd", &format!("{}alice:*:1001:1001::0:0:Alice:/home/alice:/bin/sh\n", OLD[1].1));
        bench.write("etc/newsyslog.conf", "/var/log/maillog 640 30 * @T00 J\n");
        bench.write("etc/login.conf", "default:\\\n\t:umask=077:\n");
        bench.write("var/db/pkg/local.sqlite", "x\n");
        for program in ["usr/local/sbin/pkg-static", "usr/bin/newaliases"] {
            bench.write(program, "x\n");
            fs::set_permissions(bench.tree.root.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let httpd = bench.tree.root.join("usr/local/bin/httpd");
        fs::create_dir_all(httpd.parent().unwrap()).unwrap();
        fs::write(&httpd, crate::recipe::freebsd::tests::binary(false, Some(1_302_001))).unwrap();
        fs::set_permissions(&httpd, fs::Permissions::from_mode(0o755)).unwrap();
        bench
    }

    fn objects(&self) -> PathBuf {
        let src = self.at("src");
        self.at("fake/obj").join(src.strip_prefix("/").unwrap()).join("amd64.amd64")
    }
    pub fn at(&self, path: &str) -> PathBuf {
        self.machine.dir.join(path)
    }
    pub fn set(&self, name: &str, text: &str) {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        write(&self.at("fake").join(name), &format!("{text}{end}"));
    }
    pub fn fake(&self, name: &str) -> String {
        fs::read_to_string(self.at("fake").join(name)).unwrap()
    }
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.tree.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
    pub fn has(&self, path: &str) -> bool {
        self.tree.root.join(path).exists()
    }
    pub fn write(&self, path: &str, text: &str) {
        write(&self.tree.root.join(path), text);
    }
    pub fn kept(&self, sha256: &str) -> String {
        self.world.recall_text(sha256).unwrap()
    }
    pub fn source(&self) -> Source {
        Source { src: self.at("src"), obj: None }
    }
    /// Makes a source one of that release.
    pub fn release(&self, src: &str, revision: &str, branch: &str, osrel: u32) {
        let src = self.at(src);
        write(&src.join("Makefile"), "\n");
        write(&src.join("sys/conf/newvers.sh"), &format!("REVISION=\"{revision}\"\nBRANCH=\"{branch}\"\n"));
        write(&src.join("sys/sys/param.h"), &format!("#define __FreeBSD_version {osrel}\n"));
        write(&src.join("etc/rc.d/Makefile"), "\n");
    }
    pub async fn build(&self) {
        let src = self.at("src").display().to_string();
        self.sh(&["make", "-C", &src, "buildworld"]).await;
    }
    pub async fn sh(&self, argv: &[&str]) {
        let command = Command::new(argv.iter().copied());
        self.machine.run(&command).await.unwrap().checked("do", &command).unwrap();
    }

    pub fn install(&self, job: &str) -> InstallWorld {
        InstallWorld {
            tree: self.tree.clone(),
            source: self.source(),
            release: "14.1-RELEASE-p5".into(),
            osrel: 1_401_000,
            job: job.into(),
            patience_s: 60,
        }
    }
    pub fn etc_tree(&self, src: &str, release: &str) -> EtcTree {
        EtcTree {
            tree: self.tree.clone(),
            source: Source { src: self.at(src), obj: None },
            release: release.into(),
            built: false,
            tarball: self.at(&format!("jails/.upgradectl/etc-{release}.tbz")),
        }
    }

    pub async fn findings(&self) -> Vec<Finding> {
        planned::preflight(&self.machine, &self.tree.root, &self.tree.scratch, &self.spec).await.unwrap().1
    }
    pub async fn refused(&self) -> Vec<String> {
        let refused = self.findings().await.into_iter().filter(|finding| finding.verdict == Verdict::Refuse);
        refused.map(|finding| format!("{}: {}", finding.id, finding.detail)).collect()
    }
    pub async fn plan(&self) -> Vec<PlanStep> {
        let Tree { root, scratch, .. } = &self.tree;
        let (facts, _) = planned::preflight(&self.machine, root, scratch, &self.spec).await.unwrap();
        planned::steps("jailhost", RUN, root, scratch, &self.spec, &facts, &|what| format!("servera-k3f9-1-{what}"))
    }
    /// Applies what is not there, as the engine does; `twice`: as if its end had not been heard of.
    pub async fn run(&self, plan: &[PlanStep], twice: bool) -> std::result::Result<Vec<Done>, StepError> {
        let mut all = Vec::new();
        for step in plan {
            let step = step.op.action().step();
            let probe = step.probe(&self.world).await?;
            assert!(!matches!(probe, Probe::Unknown(_)), "{}: {probe:?}", step.title());
            all.push(match probe {
                Probe::Present => Done::new(Change::Unchanged),
                _ => {
                    let done = step.apply(&self.world, &Value::Null).await?;
                    if twice {
                        step.apply(&self.world, &Value::Null).await?;
                    }
                    done
                }
            });
        }
        Ok(all)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Shown when a test fails.
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.dir.path().join("fake/log")).unwrap_or_default());
        }
    }
}
