#![expect(clippy::unwrap_used, reason = "tests")]
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command as Process, Output as Ended};

use hypervisors::Result;
use hypervisors::host::{Job, LocalHost, Output, job as host_job};

use super::*;
use crate::recipe::yum::config;

/// yum.conf of the report.
const SEED: &str = include_str!("../../recipe/yum/tests/nifty-yum.conf");

struct File {
    dir: tempfile::TempDir,
    found: Vec<config::Exclude>,
    sum: String,
}

impl File {
    fn new(text: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("yum.conf"), text).unwrap();
        fs::set_permissions(dir.path().join("yum.conf"), fs::Permissions::from_mode(0o640)).unwrap();
        let found = config::excludes(Path::new("yum.conf"), text);
        Self { found, sum: crate::steps::sha256(text), dir }
    }
    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("yum.conf")
    }
    fn read(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }
    fn step(&self) -> LiftExclude {
        let lines = |one: &config::Exclude| Lines { first: one.first, last: one.last, says: one.says.clone() };
        LiftExclude {
            host: "cloud".into(),
            link: update(0).link,
            file: self.path(),
            lines: self.found.iter().map(lines).collect(),
            sha256: self.sum.clone(),
            run: "web1--k3f9".into(),
            lease_s: 900,
        }
    }
    /// The file with its lines commented out.
    fn lifted(&self, text: &[u8]) -> Vec<u8> {
        self.found.iter().fold(text.to_vec(), |text, one| config::lifted(&text, one.first, one.last))
    }
    fn process(&self, verb: &str) -> Process {
        let argv = self.step().argv(verb);
        let mut process = Process::new(&argv[0]);
        process.args(&argv[1..]).arg(&self.sum);
        process
    }
    fn run(&self, verb: &str) -> Ended {
        self.process(verb).output().unwrap()
    }
    fn does(&self, verb: &str) {
        let output = self.run(verb);
        assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
    }
    fn files(&self) -> usize {
        fs::read_dir(self.dir.path()).unwrap().count()
    }
}

#[test]
fn the_file_comes_back_byte_for_byte() {
    for text in [
        SEED,
        "[main]\nexclude=kernel*\n  foo\n\tbar\nx=1\n",
        "[main]\r\nexclude=kernel*\r\nx=1",
        "[main]\n# \u{e9}\nexclude=kernel",
        "[main]\nexclude=kernel*\n  foo\nx=1\n[base]\nexclude=kernel\n[updates]\nbaseurl=x\nexcludepkgs=kernel*\n",
    ] {
        let file = File::new(text.as_bytes());
        let before = fs::metadata(file.path()).unwrap();
        file.does("lift");
        file.does("lift");
        let lifted = file.lifted(text.as_bytes());
        assert_eq!(file.read().strip_suffix(b"\n"), lifted.strip_suffix(b"\n").or(Some(&lifted)), "{text}");
        assert_eq!(file.run("state").stdout, b"lifted\n");
        file.does("restore");
        file.does("restore");
        assert_eq!(file.read(), text.as_bytes());
        let after = fs::metadata(file.path()).unwrap();
        assert_eq!((before.mode(), before.mtime(), before.uid()), (after.mode(), after.mtime(), after.uid()));
        assert_eq!(file.files(), 1, "nothing else is left");
    }
}

/// Of each shell that a guest's `sh` may be.
#[test]
fn two_excludes_of_one_file_are_one_step() {
    let text = "[main]\nexclude=kernel*\n  foo\nx=1\n[base]\nexclude=kernel\n";
    let file = File::new(text.as_bytes());
    let step = file.step();
    assert_eq!(step.title(), format!("comment lines 2 to 3, 6 of {} out", file.path().display()));
    let diff = step.diff().unwrap();
    assert!(diff.ends_with("@@ -2,2 +2,2 @@\n-exclude=kernel*\n-  foo\n+#exclude=kernel*\n+#  foo\n@@ -6,1 +6,1 @@\n-exclude=kernel\n+#exclude=kernel\n"), "{diff}");
    for shell in ["dash", "bash"] {
        let does = |verb: &str| {
            let argv = step.argv(verb);
            assert!(Process::new(shell).args(&argv[1..]).arg(&file.sum).status().unwrap().success(), "{verb}");
        };
        does("lift");
        assert_eq!(file.read(), b"[main]\n#exclude=kernel*\n#  foo\nx=1\n[base]\n#exclude=kernel\n");
        // Somebody else's line in between.
        let changed = String::from_utf8(file.read()).unwrap().replace("x=1", "x=2");
        fs::write(file.path(), changed).unwrap();
        does("restore");
        assert_eq!(file.read(), text.replace("x=1", "x=2").as_bytes());
        fs::write(file.path(), text).unwrap();
    }
}

#[test]
fn what_someone_else_changed_stays() {
    let file = File::new(SEED.as_bytes());
    file.does("lift");
    let mut text = String::from_utf8(file.read()).unwrap();
    text = text.replace("[main]", "[main]\nproxy=http://x").replace("keepcache=0", "keepcache=1");
    fs::write(file.path(), &text).unwrap();
    assert_eq!(file.run("state").stdout, b"foreign\n");
    file.does("restore");
    assert_eq!(String::from_utf8(file.read()).unwrap(), text.replace("#exclude=", "exclude="));
    assert_eq!(file.files(), 1);

    let file = File::new(SEED.as_bytes());
    file.does("lift");
    fs::write(file.path(), "[main]\n").unwrap();
    let output = file.run("restore");
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not there any more"));
    assert_eq!((file.read(), file.files()), (b"[main]\n".to_vec(), 2), "the kept copy stays");
}

#[test]
fn a_file_that_changed_since_the_plan_is_not_touched() {
    let file = File::new(SEED.as_bytes());
    let text = SEED.replace("gpgcheck=1", "gpgcheck=0");
    fs::write(file.path(), &text).unwrap();
    assert_eq!(file.run("lift").status.code(), Some(77));
    assert_eq!((file.read(), file.files()), (text.into_bytes(), 1));
}

/// An awk that fails half-way, or is not there, takes nothing out of the file.
#[test]
fn what_could_not_be_written_takes_no_files_place() {
    for text in ["echo '[main]'; exit 2", "exit 0", "exit 127"] {
        let file = File::new(SEED.as_bytes());
        let shims = tempfile::tempdir().unwrap();
        fs::write(shims.path().join("awk"), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(shims.path().join("awk"), fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", shims.path().display());
        assert!(!file.process("lift").env("PATH", path).status().unwrap().success(), "{text}");
        assert_eq!(file.read(), SEED.as_bytes(), "{text}");
        file.does("restore");
        assert_eq!((file.read(), file.files()), (SEED.as_bytes().to_vec(), 1));
    }
}

/// Killed at each command that changes anything, and at the beginning of each way back.
#[test]
fn killed_at_any_instant_it_comes_back() {
    for verb in ["lift", "restore"] {
        let mut nth = 0;
        loop {
            nth += 1;
            let file = File::new(SEED.as_bytes());
            if verb == "restore" {
                file.does("lift");
            }
            let shims = tempfile::tempdir().unwrap();
            for name in ["cp", "mv", "sync", "cat", "rm"] {
                let at = shims.path().join(name);
                let real = format!("/bin/{name}");
                let counter = shims.path().join("count").display().to_string();
                let text = format!(
                    "#!/bin/sh\nn=$(($(/bin/cat {counter} 2>/dev/null || echo 0) + 1)); echo $n > {counter}\n\
                     [ $n -ne {nth} ] || {{ kill -9 $PPID; exit 1; }}\nexec {real} \"$@\"\n"
                );
                fs::write(&at, text).unwrap();
                fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
            }
            let path = format!("{}:/usr/bin:/bin", shims.path().display());
            let ended = file.process(verb).env("PATH", path).output().unwrap();
            let said = file.read();
            let lifted = file.lifted(SEED.as_bytes());
            assert!(
                said == SEED.as_bytes() || said == lifted,
                "{verb}, command {nth}: {}",
                String::from_utf8_lossy(&said)
            );
            file.does("restore");
            assert_eq!((file.read(), file.files()), (SEED.as_bytes().to_vec(), 1), "{verb}, command {nth}");
            if ended.status.success() {
                assert!(nth > 3, "{verb}: {nth} commands");
                break;
            }
        }
    }
}

/// This machine, with jobs beneath a directory.
#[derive(Debug)]
struct Machine {
    local: LocalHost,
    jobs: PathBuf,
}

#[async_trait]
impl Host for Machine {
    fn name(&self) -> &str {
        "web1"
    }
    fn is_local(&self) -> bool {
        true
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        self.local.run(command).await
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.local.read_file(path, limit).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        self.local.write_file(path, bytes, mode).await
    }
    async fn job_start(&self, work: &Job) -> Result<Change> {
        host_job::start(self, &self.jobs, work).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        host_job::status(self, &self.jobs, id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        host_job::forget(self, &self.jobs, id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        host_job::output(self, &self.jobs, id, from).await
    }
}

fn update(patience_s: u64) -> YumUpdate {
    let link = GuestLink {
        name: "web1".into(),
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        by: None,
        port: 22,
        user: "root".into(),
        key: None,
        sudo: false,
        known_hosts: "/x".into(),
        control_dir: "/x".into(),
        legacy: false,
    };
    YumUpdate {
        host: "cloud".into(),
        link,
        vm: None,
        tool: Tool { program: "yum".into(), past: None },
        packages: Vec::new(),
        options: Vec::new(),
        before: "2.6.18-128.el5".into(),
        job: "web1--k3f9-2-update".into(),
        patience_s,
    }
}

#[test]
fn what_is_shown_is_not_what_keeps_the_default() {
    let update = update(1);
    let work = update.work();
    assert!(work.ends_with(&["keep", "/boot/vmlinuz-2.6.18-128.el5", "yum", "-y", "update"].map(str::to_owned)));
    let shown = update.commands(&Manners::default());
    assert_eq!(shown[0], ["yum", "-y", "update"]);
    assert_eq!(shown[1], ["grubby", "--set-default", "/boot/vmlinuz-2.6.18-128.el5"]);
}

/// An update that goes on in the guest would make its kernel the default after the way back has set it.
#[tokio::test]
async fn the_way_back_waits_for_an_update_that_still_works() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine { local: LocalHost::new("web1"), jobs: dir.path().join("jobs") };
    let (done, told) = (dir.path().join("done"), std::sync::Mutex::new(0));
    let progress = |_: String, _: f64| *told.lock().unwrap() += 1;
    update(0).idle(&machine, &progress).await.unwrap();
    assert_eq!(*told.lock().unwrap(), 0, "none was begun");

    let argv = ["sh", "-c", "sleep 2; : > $0", done.to_str().unwrap()].map(str::to_owned).to_vec();
    machine.job_start(&Job { id: update(0).job, argv, env: Vec::new() }).await.unwrap();
    let refused = update(0).idle(&machine, &progress).await.unwrap_err();
    assert!(refused.to_string().contains("yum still works in web1"), "{refused}");
    update(60).idle(&machine, &progress).await.unwrap();
    assert!(done.exists() && *told.lock().unwrap() > 0);
}
