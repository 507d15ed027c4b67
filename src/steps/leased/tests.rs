//! The scripts for real, beneath a directory that stands for the machine's root. systemd is played by a script that keeps
//! which units are active; time passes by what stands in the file that says when a change is due.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use hypervisors::host::{Job, JobStatus, LocalHost, Output, Stdin};
use hypervisors::{Change, Result};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::steps::{Memory, StepRef};

const SYSTEMCTL: &str = r#"#!/bin/sh
active=ROOT/active
verb= units=
for word in "$@"; do
    case $word in
        -*) ;;
        *) if [ -z "$verb" ]; then verb=$word; else units="$units $word"; fi ;;
    esac
done
for unit in $units; do
    case $verb in
        start | restart)
            [ -e "ROOT/etc/systemd/system/$unit" ] || { echo "Unit $unit not found." >&2; exit 5; }
            : > "$active/$unit"
            ;;
        stop) rm -f "$active/$unit" ;;
        is-active) [ -e "$active/$unit" ] || exit 3 ;;
        reset-failed) ;;
        *) exit 1 ;;
    esac
done
"#;

const SYSTEMD_RUN: &str = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"\n";

/// A machine whose root is a directory.
#[derive(Debug)]
struct Machine {
    local: LocalHost,
    root: PathBuf,
}

impl Machine {
    fn beneath(&self, text: &str) -> String {
        text.replace("root=\n", &format!("root={}\n", self.root.display()))
    }
}

#[async_trait]
impl Host for Machine {
    fn name(&self) -> &str {
        "machine"
    }
    fn is_local(&self) -> bool {
        true
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        let path = format!("{}/bin:{}", self.root.display(), std::env::var("PATH").unwrap());
        let mut command = command.clone().env("PATH", path);
        command.argv = command.argv.iter().map(|word| self.beneath(word)).collect();
        if let Stdin::Bytes(bytes) = &command.stdin {
            command.stdin = Stdin::Bytes(self.beneath(std::str::from_utf8(bytes).unwrap()).into_bytes());
        }
        self.local.run(&command).await
    }
    async fn read_file(&self, _: &Path, _: u64) -> Result<Option<Vec<u8>>> {
        unreachable!()
    }
    async fn write_file(&self, _: &Path, _: &[u8], _: u32) -> Result<Change> {
        unreachable!()
    }
    async fn job_start(&self, _: &Job) -> Result<Change> {
        unreachable!()
    }
    async fn job_status(&self, _: &str) -> Result<JobStatus> {
        unreachable!()
    }
    async fn job_forget(&self, _: &str) -> Result<Change> {
        unreachable!()
    }
    async fn job_output(&self, _: &str, _: u64) -> Result<Vec<u8>> {
        unreachable!()
    }
}

struct Nothing;

impl Memory for Nothing {
    fn keep(&self, _: &[u8]) -> std::result::Result<String, StepError> {
        unreachable!()
    }
    fn recall(&self, _: &str) -> std::result::Result<Vec<u8>, StepError> {
        unreachable!()
    }
    fn found(&self, _: StepRef) -> std::result::Result<Option<Value>, StepError> {
        unreachable!()
    }
    fn done(&self, _: StepRef) -> std::result::Result<Option<Value>, StepError> {
        unreachable!()
    }
}

struct Bench {
    dir: TempDir,
    world: World,
    told: Arc<Mutex<Vec<String>>>,
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for part in ["bin", "active", "run/systemd/system", "etc/systemd/system", "var/lib"] {
            std::fs::create_dir_all(root.join(part)).unwrap();
        }
        std::fs::write(root.join("etc/machine-id"), "0123\n").unwrap();
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let tell = Arc::clone(&told);
        let world = World {
            hypervisors: BTreeMap::new(),
            controller: Arc::new(Machine { local: LocalHost::new("machine"), root: root.clone() }),
            run_dir: root,
            run: "mercure--k3f9".into(),
            memory: Arc::new(Nothing),
            progress: Arc::new(|_, _| ()),
            observer: Arc::new(|_| ()),
            last: Value::Null,
            decision: None,
            leased: Arc::new(Keeper::new(move |message| tell.lock().unwrap().push(message))),
            stop: Arc::new(AtomicBool::new(false)),
        };
        let bench = Self { dir, world, told };
        bench.tool("systemctl", SYSTEMCTL);
        bench.tool("systemd-run", SYSTEMD_RUN);
        bench
    }
    /// A program of the machine.
    fn tool(&self, name: &str, text: &str) {
        let file = self.path("bin").join(name);
        std::fs::write(&file, text.replace("ROOT", self.path("").to_str().unwrap().trim_end_matches('/'))).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(path)
    }
    /// A change that writes `before` into a log, and its reversal `after`.
    fn leased(&self, seconds: u64) -> Leased {
        self.reversed_by(self.say("after"), seconds)
    }
    fn reversed_by(&self, reversal: Vec<String>, seconds: u64) -> Leased {
        Leased { name: "watcher".into(), place: Place::Controller, reversal, seconds, limit_s: 20 }
    }
    fn say(&self, what: &str) -> Vec<String> {
        ["sh", "-c", "echo $2 >> $1", "sh", self.path("log").to_str().unwrap(), what].map(str::to_owned).into()
    }
    async fn made(&self, leased: &Leased) {
        leased.make(&self.world, &self.say("before")).await.unwrap().unwrap();
    }
    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }
    fn directory(&self, leased: &Leased) -> PathBuf {
        self.path("var/lib/upgradectl/leased").join(leased.id(&self.world.run))
    }
    /// What the timer does.
    async fn tick(&self, leased: &Leased, more: &[&str]) -> i32 {
        let file = self.directory(leased).join("tick");
        let argv = ["sh".to_owned(), file.display().to_string()].into_iter();
        let command = Command::new(argv.chain(more.iter().map(|word| (*word).to_owned())));
        self.world.controller.run(&command).await.unwrap().status
    }
    /// It is due in so many seconds of this boot, or of an earlier one.
    fn due(&self, leased: &Leased, seconds: i64, this_boot: bool) {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let boot = if this_boot { boot.trim() } else { "another" };
        let up = std::fs::read_to_string("/proc/uptime").unwrap();
        let up: f64 = up.split(' ').next().unwrap().parse().unwrap();
        let text = format!("{boot}\n{}\n", up as i64 + seconds);
        std::fs::write(self.path(&format!("run/upgradectl-leased-{}", leased.id(&self.world.run))), text).unwrap();
    }
    async fn left(&self) -> Vec<Standing> {
        standing(&*self.world.controller).await.unwrap()
    }
    /// Nothing of it is anywhere.
    fn nothing_left(&self) {
        let mut found = Vec::new();
        let mut dirs = vec![self.path("")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.to_str().unwrap().contains("upgradectl") {
                    found.push(path.clone());
                }
                if path.is_dir() && !path.is_symlink() {
                    dirs.push(path);
                }
            }
        }
        assert!(found.is_empty(), "{found:?}");
    }
}

#[tokio::test]
async fn it_stands_before_the_change_is_made_and_is_gone_when_that_is_taken_back() {
    let bench = Bench::new();
    let leased = bench.leased(600);
    let standing = format!("test -x {}/../.. && test -s {0}/tick", bench.directory(&leased).display());
    let before = vec!["sh".into(), "-c".into(), standing];
    leased.make(&bench.world, &before).await.unwrap().unwrap();
    bench.made(&leased).await;
    let left = bench.left().await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].run, "mercure--k3f9");
    assert!(
        left[0].about.starts_with("watcher: sh -c") && left[0].left_s.is_some_and(|s| (500..=540).contains(&s)),
        "{left:?}"
    );
    let mode = std::fs::metadata(bench.directory(&leased)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(bench.tick(&leased, &[]).await, 0);
    assert_eq!(bench.log(), "before");
    leased.take_back(&bench.world).await.unwrap();
    assert_eq!(bench.log(), "before after");
    bench.nothing_left();
    assert!(bench.left().await.is_empty());
    // Taking back twice is harmless.
    leased.take_back(&bench.world).await.unwrap();
    assert_eq!(bench.log(), "before after after");
    assert!(bench.told.lock().unwrap().is_empty());
}

#[tokio::test]
async fn nobody_renews_it_and_it_is_taken_back() {
    let bench = Bench::new();
    let leased = bench.leased(600);
    bench.made(&leased).await;
    bench.due(&leased, 30, true);
    bench.tick(&leased, &[]).await;
    assert_eq!(bench.log(), "before");
    assert!(leased.hold(&bench.world).await.unwrap());
    bench.due(&leased, -1, true);
    assert!(leased.hold(&bench.world).await.unwrap(), "renewed in the last moment");
    bench.tick(&leased, &[]).await;
    assert_eq!(bench.log(), "before");
    bench.due(&leased, -1, true);
    assert_eq!(bench.tick(&leased, &[]).await, 0);
    assert_eq!(bench.log(), "before after");
    bench.nothing_left();
    assert!(!leased.hold(&bench.world).await.unwrap());
    leased.take_back(&bench.world).await.unwrap();
    assert_eq!(bench.log(), "before after after");
    bench.nothing_left();
}

#[tokio::test]
async fn a_scope_that_cannot_be_made_is_done_without() {
    let bench = Bench::new();
    bench.tool("systemd-run", "#!/bin/sh\nexit 1\n");
    let leased = bench.leased(600);
    bench.made(&leased).await;
    bench.due(&leased, -1, true);
    assert_eq!(bench.tick(&leased, &[]).await, 0);
    assert_eq!(bench.log(), "before after");
    bench.nothing_left();
}

#[tokio::test]
async fn a_reversal_that_fails_is_tried_again() {
    let bench = Bench::new();
    let flag = bench.path("flag").display().to_string();
    let leased = bench.reversed_by(vec!["test".into(), "-e".into(), flag.clone()], 600);
    bench.made(&leased).await;
    bench.due(&leased, -1, true);
    assert_eq!(bench.tick(&leased, &[]).await, 1);
    assert_eq!(bench.left().await.len(), 1);
    let error = leased.take_back(&bench.world).await.unwrap_err();
    assert!(error.to_string().contains("take watcher back"), "{error}");
    assert_eq!(bench.left().await.len(), 1);
    std::fs::write(flag, "").unwrap();
    assert_eq!(bench.tick(&leased, &[]).await, 0);
    bench.nothing_left();
}

#[tokio::test]
async fn a_boot_begins_its_time_anew() {
    let bench = Bench::new();
    let leased = bench.leased(600);
    bench.made(&leased).await;
    bench.due(&leased, -1000, false);
    bench.tick(&leased, &[]).await;
    assert_eq!(bench.log(), "before");
    assert!(bench.left().await[0].left_s.is_some_and(|s| s > 500));
    // /run is empty after it.
    std::fs::remove_file(bench.path(&format!("run/upgradectl-leased-{}", leased.id(&bench.world.run)))).unwrap();
    bench.tick(&leased, &[]).await;
    assert_eq!(bench.log(), "before");
    bench.due(&leased, 0, true);
    bench.tick(&leased, &[]).await;
    assert_eq!(bench.log(), "before after");
    bench.nothing_left();
}

#[tokio::test]
async fn a_copy_of_the_machine_drops_it_unused() {
    let bench = Bench::new();
    let leased = bench.leased(600);
    bench.made(&leased).await;
    std::fs::write(bench.path("etc/machine-id"), "4567\n").unwrap();
    assert!(!leased.hold(&bench.world).await.unwrap());
    bench.due(&leased, -1, true);
    bench.tick(&leased, &[]).await;
    assert_eq!(bench.log(), "before");
    bench.nothing_left();
}

#[tokio::test]
async fn making_it_and_taking_it_back_exclude_each_other() {
    let bench = Bench::new();
    let leased = bench.leased(600);
    let slow = format!("echo begun >> {0}; sleep 27 & sleep 2; echo ended >> {0}", bench.path("log").display());
    let slow = ["sh".to_owned(), "-c".to_owned(), slow];
    let make = leased.make(&bench.world, &slow);
    let meanwhile = async {
        while bench.log() != "begun" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bench.due(&leased, -1, true);
        assert_eq!(bench.tick(&leased, &[]).await, 0);
        // Not even who insists comes in between.
        assert_eq!(bench.tick(&leased, &["now"]).await, 75);
        assert_eq!(bench.log(), "begun");
    };
    let (made, ()) = tokio::join!(make, meanwhile);
    made.unwrap().unwrap();
    // Its time began when it was made; and what it left running does not keep anybody out.
    bench.tick(&leased, &[]).await;
    assert_eq!(bench.log(), "begun ended");
    assert_eq!(bench.tick(&leased, &["now"]).await, 0);
    assert_eq!(bench.log(), "begun ended after");
    bench.nothing_left();
}

#[tokio::test]
async fn a_change_that_fails_is_still_taken_back() {
    let bench = Bench::new();
    let leased = bench.leased(600);
    let error = leased.make(&bench.world, &words("false")).await.unwrap_err();
    assert!(error.to_string().contains("false"), "{error}");
    assert_eq!(bench.left().await.len(), 1);
    leased.take_back(&bench.world).await.unwrap();
    bench.nothing_left();
}

#[tokio::test]
async fn where_nothing_keeps_time_it_is_made_without() {
    let bench = Bench::new();
    std::fs::remove_dir_all(bench.path("run/systemd")).unwrap();
    let leased = bench.leased(600);
    let why = leased.make(&bench.world, &bench.say("before")).await.unwrap().unwrap_err();
    assert!(why.contains("neither systemd nor"), "{why}");
    bench.nothing_left();
    leased.take_back(&bench.world).await.unwrap();
    assert_eq!(bench.log(), "before after");
}

/// at(1) is played by a script that numbers its jobs.
#[tokio::test]
async fn where_there_is_no_systemd_at_keeps_time() {
    let bench = Bench::new();
    std::fs::remove_dir_all(bench.path("run/systemd")).unwrap();
    std::fs::write(bench.path("run/atd.pid"), "1\n").unwrap();
    let at = "#!/bin/sh\n[ \"$*\" = 'now + 1 minute' ] || exit 1\nn=$(cat ROOT/n 2> /dev/null || echo 0); n=$((n + 1)); echo $n > ROOT/n\n\
              cat > ROOT/active/$n; echo 'warning: commands will be executed using /bin/sh' >&2\n\
              echo \"job $n at Thu Nov 26 08:00:00 2026\" >&2\n";
    bench.tool("at", at);
    bench.tool("atrm", "#!/bin/sh\nrm ROOT/active/$1\n");
    let jobs = || {
        let mut names: Vec<String> = std::fs::read_dir(bench.path("active"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let run_job = async |name: &str| {
        let file = bench.path("active").join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let ended = bench.world.controller.run(&Command::new(["sh", "-c", &text])).await.unwrap();
        assert!(ended.stdout.is_empty() && ended.stderr.is_empty(), "it would be mailed: {ended:?}");
        ended.status
    };
    let leased = bench.leased(600);
    bench.made(&leased).await;
    assert_eq!(jobs(), ["1"]);
    assert_eq!(run_job("1").await, 0);
    assert_eq!(jobs(), ["2"], "each look queues the next");
    assert!(bench.left().await[0].left_s.is_some());
    leased.take_back(&bench.world).await.unwrap();
    assert!(jobs().is_empty());
    bench.nothing_left();

    bench.made(&leased).await;
    bench.due(&leased, -1, true);
    assert_eq!(run_job("3").await, 0);
    assert_eq!(bench.log(), "before after before after");
    assert!(jobs().is_empty());
    bench.nothing_left();
}

#[tokio::test]
async fn it_is_renewed_and_told_of_when_it_is_gone() {
    let bench = Bench::new();
    let leased = bench.leased(5);
    bench.made(&leased).await;
    bench.due(&leased, 1, true);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(bench.left().await[0].left_s.is_some_and(|s| s >= 2), "{:?}", bench.left().await);
    assert_eq!(bench.tick(&leased, &["now"]).await, 0);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let told = bench.told.lock().unwrap().clone();
    assert!(told.len() == 1 && told[0].contains("no reversal of it stands"), "{told:?}");
}

#[tokio::test]
async fn what_is_let_go_of_is_not_renewed() {
    let bench = Bench::new();
    let leased = bench.leased(5);
    bench.made(&leased).await;
    bench.world.leased.let_go(&leased.id(&bench.world.run));
    bench.due(&leased, 1, true);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    bench.tick(&leased, &[]).await;
    assert_eq!(bench.log(), "before after");
}

#[tokio::test]
async fn units_are_as_systemd_wants_them() {
    let bench = Bench::new();
    let leased = bench.leased(600);
    bench.made(&leased).await;
    let id = leased.id(&bench.world.run);
    let unit = |kind: &str| bench.path(&format!("etc/systemd/system/upgradectl-leased-{id}.{kind}"));
    assert!(bench.path(&format!("etc/systemd/system/timers.target.wants/upgradectl-leased-{id}.timer")).exists());
    let timer = std::fs::read_to_string(unit("timer")).unwrap();
    assert!(timer.contains("OnActiveSec=60\nOnUnitInactiveSec=60\n"), "{timer}");
    let service = std::fs::read_to_string(unit("service")).unwrap();
    let line = service.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    // Nothing in it that systemd.service(5) gives a meaning to.
    let plain = |c: char| c.is_ascii_alphanumeric() || "=/ ._-".contains(c);
    assert!(line.chars().all(plain), "{line}");
    let verify = Command::new(["systemd-analyze".into(), "verify".into(), unit("timer").display().to_string()]);
    match LocalHost::new("here").run(&verify).await {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let ours: Vec<&str> = said.lines().filter(|line| line.contains("upgradectl-leased")).collect();
            assert!(ours.is_empty(), "{said}");
        }
        Err(error) => println!("systemd-analyze is not here: {error}"),
    }
}

#[test]
fn what_a_machine_says_is_taken_apart() {
    let standing = parse("mercure--k3f9-0a1b2c3d 42 watcher: x \u{1b}[31m").unwrap();
    assert_eq!((standing.run.as_str(), standing.left_s), ("mercure--k3f9", Some(42)));
    assert_eq!(standing.about, "watcher: x \u{fffd}[31m");
    assert_eq!(parse("mercure--k3f9-0a1b2c3d dead ").unwrap().left_s, None);
    for line in ["", "x", "x 1 y", "../x-1 1 y", "a/b-1 1"] {
        assert_eq!(parse(line), None, "{line}");
    }
}

#[test]
fn times_are_told_in_words() {
    assert_eq!([5, 90, 600, 7200, 3660].map(human), ["5 s", "90 s", "10 min", "2 h", "61 min"]);
    assert_eq!([5, 8, 40, 600].map(tick), [1, 2, 10, 60]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// The machine runs exactly the words that were declared, whatever they are.
    #[test]
    fn a_reversal_keeps_its_words(words in proptest::collection::vec("[^\0]{0,12}", 1..5), name in "[^\0]{0,12}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new();
            let out = bench.path("out").display().to_string();
            let mut reversal = vec!["sh".to_owned(), "-c".into(), format!("printf '%s\\0' \"$@\" > {out}"), "sh".into()];
            reversal.extend(words.iter().cloned());
            let leased = Leased { name, ..bench.reversed_by(reversal, 600) };
            leased.make(&bench.world, &["true".to_owned()]).await.unwrap().unwrap();
            let expected: String = words.iter().map(|word| format!("{word}\0")).collect();
            assert_eq!(bench.tick(&leased, &["now"]).await, 0);
            assert_eq!(std::fs::read_to_string(&out).unwrap(), expected);
            std::fs::remove_file(&out).unwrap();
            leased.take_back(&bench.world).await.unwrap();
            assert_eq!(std::fs::read_to_string(&out).unwrap(), expected);
            bench.nothing_left();
        });
    }
}
