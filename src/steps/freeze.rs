//! A running guest's file systems, held still for the instant of a snapshot: `fsfreeze(8)` in the guest, by a script that starts
//! its own timer first and thaws by itself, whatever happens to the controller or the link. Everything it needs while they
//! are frozen is in memory.
//!
//! Trust: a snapshot is of a frozen guest only if the timer had not fired when the thaw was asked for. Anything less certain
//! counts as not frozen.

use std::path::PathBuf;
use std::time::Duration;

use hypervisors::host::{Command, printable};
use hypervisors::{GuestLink, Host};
use serde::{Deserialize, Serialize};

use super::{StepError, World};

const SCRIPT: &str = include_str!("freeze.sh");
/// The name the script is run under.
pub const NAME: &str = "upgradectl-freeze";

/// How a guest is frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// The way into it.
    pub link: GuestLink,
    /// It thaws by itself after so long.
    pub seconds: u32,
    /// Disks whose file systems are left alone, by their names in the guest.
    pub skip: Vec<String>,
}

/// What became of freezing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Everything is frozen.
    Frozen,
    /// It is not, or that cannot be told; why.
    Not(String),
}

/// A short word of a script's answer, and the rest.
fn answer(text: &str) -> (String, String) {
    let line = text.lines().next().unwrap_or_default().trim();
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    (word.to_owned(), printable(rest).chars().take(200).collect())
}

impl Freeze {
    fn command(&self, verb: &str, run: &str) -> Command {
        let seconds = self.seconds.to_string();
        let head = ["sh", "-c", SCRIPT, NAME, verb, run, &seconds].map(str::to_owned);
        let patience = Duration::from_secs(u64::from(self.seconds) + 30);
        Command::new(head.into_iter().chain(self.skip.iter().cloned())).timeout(patience)
    }

    /// Whether a guest can be frozen: what would be, or why nothing.
    pub async fn possible(&self, guest: &dyn Host) -> Result<String, String> {
        let output = guest.run(&self.command("can", "-")).await.map_err(|error| error.to_string())?;
        match answer(&output.text()) {
            (word, points) if word == "can" => Ok(points),
            (word, why) if word == "none" => Err(format!("the guest has {why}")),
            _ => Err("the guest did not answer".to_owned()),
        }
    }

    /// Freezes.
    pub async fn begin(&self, guest: &dyn Host, run: &str) -> Held {
        match guest.run(&self.command("freeze", run)).await {
            Err(error) => Held::Not(error.to_string()),
            Ok(output) => match answer(&output.text()) {
                (word, _) if word == "frozen" => Held::Frozen,
                (word, why) if word == "failed" || word == "none" => Held::Not(why),
                (word, _) if word == "late" => Held::Not("it took too long".to_owned()),
                _ => Held::Not("the guest did not say that it is".to_owned()),
            },
        }
    }

    /// Thaws. [`Held::Frozen`]: it was frozen until now.
    pub async fn end(&self, guest: &dyn Host, run: &str) -> Held {
        match guest.run(&self.command("thaw", run)).await {
            Err(error) => Held::Not(error.to_string()),
            Ok(output) => match answer(&output.text()) {
                (word, _) if word == "thawed" => Held::Frozen,
                (word, at) if word == "fired" => {
                    Held::Not(format!("it had thawed by itself before the snapshot was taken, {at} s after its boot"))
                }
                (word, point) if word == "lost" => Held::Not(format!("{point} was thawed by someone else")),
                _ => Held::Not("the guest did not say that it was frozen until then".to_owned()),
            },
        }
    }
}

/// Beside the journal as long as a snapshot is not known to be of one instant: copies that are there while this is may be
/// of several.
pub struct Doubt(PathBuf);

impl Doubt {
    /// Of a run.
    pub fn of(world: &World) -> Self {
        Self(world.run_dir.join("freezing"))
    }
    /// Whether it is there.
    pub fn stands(&self) -> bool {
        self.0.exists()
    }
    /// Begins it, durably.
    pub fn begin(&self) -> Result<(), StepError> {
        let write = || {
            if let Some(directory) = self.0.parent() {
                std::fs::create_dir_all(directory)?;
            }
            std::fs::File::create(&self.0)?.sync_all()?;
            self.0.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
        };
        write().map_err(|error| hypervisors::Error::io(format!("write {}", self.0.display()), error).into())
    }
    /// Ends it.
    pub fn end(&self) -> Result<(), StepError> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(hypervisors::Error::io(format!("remove {}", self.0.display()), error).into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use hypervisors::host::LocalHost;

    use super::*;

    #[test]
    fn answers_are_a_word_and_the_rest_made_printable() {
        assert_eq!(answer("frozen /boot /\n"), ("frozen".to_owned(), "/boot /".to_owned()));
        assert_eq!(answer("thawed\nmore"), ("thawed".to_owned(), String::new()));
        assert_eq!(answer(""), (String::new(), String::new()));
        assert!(!answer("failed \u{1b}[31m").1.contains('\u{1b}'));
    }

    /// An ext4 file system on this machine, which is the only one that the script may touch.
    struct Bench {
        directory: tempfile::TempDir,
        name: String,
        freeze: Freeze,
    }

    fn sh(line: &str) -> String {
        let output = std::process::Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    impl Bench {
        fn new(seconds: u32) -> Option<Self> {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().display().to_string();
            let made = std::process::Command::new("sh")
                .args(["-c", "fsfreeze --version && grep -Eq '^[^ ]* (/run|/dev/shm) tmpfs' /proc/mounts && cd \"$1\" && truncate -s 16M image && mkfs.ext4 -q image && mkdir m && mount -o loop image m", "sh", &path])
                .output();
            if !made.is_ok_and(|made| made.status.success()) {
                eprintln!("SKIPPED: needs root, loop devices, e2fsprogs, fsfreeze and /run or /dev/shm in memory");
                return None;
            }
            let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
            let own = format!("{path}/m");
            let others = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let others = others.filter(|fields| fields[1] != own).filter_map(|fields| fields[0].strip_prefix("/dev/"));
            let skip = others.map(str::to_owned).collect();
            let link = GuestLink {
                name: "mercure".into(),
                address: [10, 0, 5, 12].into(),
                by: None,
                port: 22,
                user: "root".into(),
                key: None,
                sudo: false,
                known_hosts: PathBuf::new(),
                control_dir: PathBuf::new(),
                legacy: false,
            };
            let name = directory.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
            Some(Self { directory, name, freeze: Freeze { link, seconds, skip } })
        }
        fn point(&self) -> String {
            self.directory.path().join("m").display().to_string()
        }
        /// Whether something is written there within so long; what waits is not given up.
        fn writes_within(&self, patience: Duration) -> bool {
            let (file, done) = (format!("{}/x", self.point()), self.directory.path().join("done"));
            let _ = std::fs::remove_file(&done);
            sh(&format!("(echo > {file} && : > {}) > /dev/null 2>&1 &", done.display()));
            let begun = std::time::Instant::now();
            while !done.exists() && begun.elapsed() < patience {
                std::thread::sleep(Duration::from_millis(20));
            }
            done.exists()
        }
        fn is_still(&self) -> bool {
            !self.writes_within(Duration::from_millis(700))
        }
        /// On a busy machine that takes its time.
        fn writes(&self) -> bool {
            self.writes_within(Duration::from_secs(15))
        }
        async fn begin(&self) -> Held {
            self.freeze.begin(&LocalHost::new("here"), &self.name).await
        }
        async fn end(&self) -> Held {
            self.freeze.end(&LocalHost::new("here"), &self.name).await
        }
        fn state(&self) -> Option<PathBuf> {
            let name = format!("upgradectl-freeze-{}", self.name);
            ["/run", "/dev/shm"].iter().map(|place| PathBuf::from(place).join(&name)).find(|path| path.exists())
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let point = self.point();
            let _ = std::process::Command::new("fsfreeze").args(["-u", &point]).output();
            let _ = std::process::Command::new("umount").arg(&point).output();
            if let Some(state) = self.state() {
                let _ = std::fs::remove_dir_all(state);
            }
        }
    }

    /// One after the other: each would freeze what the others have mounted. And among mounts of its own, or it would freeze
    /// what other tests of this machine mount meanwhile.
    #[tokio::test]
    async fn a_file_system_is_held_still() {
        const ALONE: &str = "UPGRADECTL_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let again = std::process::Command::new("unshare")
                .args(["--mount", "--propagation", "private"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "steps::freeze::tests::a_file_system_is_held_still", "--nocapture"])
                .env(ALONE, "yes")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&again.stderr);
            eprintln!("{said}");
            // Where a test may not have mounts of its own it may not mount either.
            assert!(again.status.success() || said.contains("unshare failed"));
            return;
        }
        is_frozen_until_it_is_thawed().await;
        thaws_by_itself_and_says_so().await;
        what_someone_else_thawed_is_not_trusted().await;
    }

    async fn is_frozen_until_it_is_thawed() {
        let Some(bench) = Bench::new(27) else { return };
        assert_eq!(bench.freeze.possible(&LocalHost::new("here")).await, Ok(bench.point()));
        assert!(bench.writes());
        assert_eq!(bench.begin().await, Held::Frozen);
        assert!(bench.is_still());
        // As after a crash: begun once more. And whoever waits for the end of what it prints, as sshd does, is not kept until
        // the timer has run out.
        let again = bench.freeze.command("freeze", &bench.name).argv;
        let begun = std::time::Instant::now();
        let said = std::process::Command::new(&again[0]).args(&again[1..]).output().unwrap();
        assert_eq!(answer(&String::from_utf8_lossy(&said.stdout)).0, "frozen");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(bench.is_still());
        assert_eq!(bench.end().await, Held::Frozen);
        assert!(bench.writes());
        // A timer that is ended takes a moment to let go of what it keeps.
        let begun = std::time::Instant::now();
        while bench.state().is_some() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(bench.state(), None);
        assert!(matches!(bench.end().await, Held::Not(_)), "nothing was frozen");
        // The timers of both are gone.
        let sleeping = sh("ps -eo args= | grep -c '^sleep 27$' || true");
        assert_eq!(sleeping, "0");
    }

    async fn thaws_by_itself_and_says_so() {
        let Some(bench) = Bench::new(2) else { return };
        assert_eq!(bench.begin().await, Held::Frozen);
        assert!(bench.is_still());
        std::thread::sleep(Duration::from_millis(2500));
        assert!(bench.writes());
        let Held::Not(why) = bench.end().await else { panic!("the timer had fired") };
        assert!(why.contains("by itself"), "{why}");
        assert!(bench.state().is_none());
    }

    async fn what_someone_else_thawed_is_not_trusted() {
        let Some(bench) = Bench::new(27) else { return };
        assert_eq!(bench.begin().await, Held::Frozen);
        sh(&format!("fsfreeze -u {}", bench.point()));
        let Held::Not(why) = bench.end().await else { panic!("it was thawed") };
        assert!(why.contains("someone else"), "{why}");
        // And what someone else froze cannot be frozen: it is let go of as it was found, thawed by the first who can.
        sh(&format!("fsfreeze -f {}", bench.point()));
        assert!(matches!(bench.begin().await, Held::Not(_)));
    }
}
