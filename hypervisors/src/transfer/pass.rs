//! One file system moved once: dump there, restore here, the pump between them, and the verdict over all three.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::host::{Command, Host, Output, Stream};
use crate::{Cause, Error, Result};

use super::pump::{End, Flow, pump};
use super::said::{BEGINS, DumpSaid, RestoreSaid, verdict};
use super::tree::{Place, text, within};
use super::{Compression, DumpLine};

/// How often progress is told.
const TICK: Duration = Duration::from_secs(1);
/// A rate is that of so many ticks.
const TICKS: usize = 10;
/// A dump whose reader went away ends by itself; where its ssh server is too old to be told, it is ended with its link.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Behind [`super::tree::ENTER`]; the third argument is the TMPDIR: two restores of one dump in one TMPDIR destroy each other
/// (recorded). The pid lets a later attempt end a restore whose link went.
const RESTORE: &str =
    "umask 077; rm -rf -- \"$3\"; mkdir -p -- \"$3\" || exit 1; TMPDIR=$3; export TMPDIR; umask 022; ";
const BECOME: &str = "echo $$ >\"$TMPDIR/pid\"; exec restore -rf -";

/// What is to be moved.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// The server.
    pub source: &'a dyn Host,
    /// Where the copy goes.
    pub target: &'a dyn Host,
    /// Mount point on the server, for messages.
    pub mount: &'a Path,
    /// What is asked of dump.
    pub dump: &'a DumpLine<'a>,
    /// In which directory; it is empty, or holds the lower level and its symbol table.
    pub place: &'a Place,
    /// Directory for restore's temporary files; made, and what is in it is removed.
    pub temporary: &'a Path,
    /// Packed on its way.
    pub compression: Option<Compression>,
    /// Bytes a second at most, as they go over the wire.
    pub limit: Option<u64>,
    /// Ended after this long.
    pub timeout: Duration,
}

/// A file system that was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// What flowed, and who waited.
    pub flow: Flow,
    /// The dump's date, as ctime(3) of the source writes it: a later level counts from it.
    pub date: Option<String>,
    /// What has to be told to people.
    pub told: Vec<String>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Bytes that have reached the target, as they go over the wire.
    pub moved: u64,
    /// Bytes a second, over the last seconds.
    pub rate: f64,
    /// 0..=1, by dump's own estimate.
    pub fraction: Option<f64>,
    /// Time left, by the rate.
    pub left: Option<Duration>,
}

impl Pass<'_> {
    /// The command of the target: restore's, in the directory.
    pub fn restore(&self) -> Result<Command> {
        let doing = self.doing();
        let script = match self.compression {
            None => format!("{RESTORE}echo {BEGINS} >&2; {BECOME}"),
            Some(packed) => {
                let (program, unpacks) = (packed.program(), packed.unpacks());
                let unpack = format!(
                    "{{ {unpacks}; s=$?; test $s -eq 0 || test $s -eq 141 || echo \"{program} exited with $s\" >&2; }}"
                );
                format!("{RESTORE}echo {BEGINS} >&2; {unpack} | sh -c '{BECOME}'")
            }
        };
        Ok(within(self.place, &doing, &script, &[text(&doing, self.temporary)?])?.timeout(self.timeout))
    }

    fn doing(&self) -> String {
        let (mount, place) = (self.mount.display(), self.place.path());
        format!("copy {mount} of {} to {} of {}", self.source.name(), place.display(), self.target.name())
    }

    /// Moves it.
    ///
    /// # Errors
    /// [`Cause::Unknown`] if a link was lost or time ran out; else what dump or restore did not do, with a remedy. The target is
    /// then not a copy, whatever is in it.
    pub async fn run(&self, progress: &(dyn Fn(Progress) + Sync)) -> Result<Passed> {
        let restore = self.restore()?;
        let dump = self.dump.command(self.compression).timeout(self.timeout);
        let right = self.target.stream(&restore).await?;
        let left = self.source.stream(&dump).await?;
        let Stream { stdin, stdout, running: dumping } = left;
        // dump asks nothing.
        drop(stdin);
        let Stream { stdin: into, stdout: mut chatter, running: restoring } = right;

        let dump_said = Mutex::new(DumpSaid::new(self.dump.snapshot));
        let mut restore_said = RestoreSaid::new(self.dump.snapshot);
        let moved = AtomicU64::new(0);
        let wake = tokio::sync::Notify::new();
        let flow = async {
            let flowed = pump(stdout, into, self.limit, &moved).await;
            if !matches!(flowed.1, End::Whole) {
                wake.notify_one();
            }
            flowed
        };
        let dumped = async {
            let too_long = async {
                wake.notified().await;
                tokio::time::sleep(LAST_WORDS).await;
            };
            tokio::select! {
                ended = dumping.ended(|line| lock(&dump_said).hear(line)) => Some(ended),
                () = too_long => None,
            }
        };
        let restored = restoring.ended(|line| restore_said.hear(line));
        let mut sink = tokio::io::sink();
        let quiet = async {
            let _ = tokio::io::copy(&mut chatter, &mut sink).await;
        };
        let all = async { tokio::join!(flow, dumped, restored, quiet) };
        let ((flow, end), dumped, restored, ()) = tokio::select! {
            all = all => all,
            never = self.tell(&moved, &dump_said, progress) => match never {},
        };
        let mut dump_said = dump_said.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.judge(flow, &end, dumped, restored, &mut dump_said, &restore_said)
    }

    fn judge(
        &self,
        flow: Flow,
        end: &End,
        dumped: Option<Result<Output>>,
        restored: Result<Output>,
        dump_said: &mut DumpSaid,
        restore_said: &RestoreSaid,
    ) -> Result<Passed> {
        let doing = || self.doing();
        let lost = |error: Error, whom: &dyn Host| match error.is_unknown() {
            true => Error::unknown(doing(), error.to_string())
                .help(format!("see to the link to {}, then resume: what is finished is not copied again", whom.name())),
            false => Error { doing: format!("{}: {}", doing(), error.doing), ..error },
        };
        let restored = restored.map_err(|error| lost(error, self.target));
        // A dump that was cut off because the target failed is not to blame.
        let closed = matches!(end, End::TargetClosed);
        if closed {
            // What it said of that itself may not have got through any more.
            dump_said.hear("Broken pipe");
        }
        let dump_status = match dumped {
            Some(Ok(output)) => output.status,
            Some(Err(error)) if !closed => return Err(lost(error, self.source)),
            Some(Err(_)) | None => 3,
        };
        let restored = restored?;
        if matches!(restored.status, 90 | 91) {
            let why = format!("{} is no directory of the tree", self.place.path().display());
            return Err(Error::refused(doing(), why).help("a link or nothing stands there; look at it"));
        }
        if restored.status == 127 && restored.stderr.len() < 300 {
            let why = format!("restore cannot be run on {}", self.target.name());
            return Err(Error::not_found(doing(), why).help("install it there"));
        }
        if let End::Failed(error) = end {
            return Err(Error::unknown(doing(), format!("the stream broke: {error}")));
        }
        match verdict(dump_said, dump_status, restore_said, restored.status) {
            Ok(told) => Ok(Passed { flow, date: dump_said.date().map(str::to_owned), told }),
            Err(failure) => Err(Error::new(doing(), Cause::Platform(failure.why)).help(failure.help)),
        }
    }

    /// Tells progress for ever.
    async fn tell(
        &self,
        moved: &AtomicU64,
        said: &Mutex<DumpSaid>,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Infallible {
        let mut ticks = VecDeque::from([(Instant::now(), 0)]);
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval.tick().await;
        loop {
            interval.tick().await;
            let (now, moved) = (Instant::now(), moved.load(Ordering::Relaxed));
            let rate = ticks.front().map_or(0.0, |(since, before)| {
                moved.saturating_sub(*before) as f64 / now.duration_since(*since).as_secs_f64().max(1e-3)
            });
            ticks.push_back((now, moved));
            if ticks.len() > TICKS {
                ticks.pop_front();
            }
            let (estimated, by_dump) = {
                let said = lock(said);
                (said.estimated().filter(|_| self.compression.is_none()), said.fraction())
            };
            progress(reckoned(moved, rate, estimated, by_dump));
        }
    }
}

/// Progress by dump's estimate of the bytes, or, where they are packed, by what it says of itself.
fn reckoned(moved: u64, rate: f64, estimated: Option<u64>, by_dump: Option<f64>) -> Progress {
    let Some(estimated) = estimated.filter(|estimated| *estimated > 0) else {
        return Progress { moved, rate, fraction: by_dump, left: None };
    };
    let fraction = (moved as f64 / estimated as f64).min(1.0);
    let left = estimated.saturating_sub(moved) as f64 / rate;
    // A stalled stream has no end in sight.
    let left = Duration::try_from_secs_f64(left).ok().filter(|left| left.as_secs() < 100 * 24 * 3600);
    Progress { moved, rate, fraction: Some(fraction), left }
}

fn lock(said: &Mutex<DumpSaid>) -> std::sync::MutexGuard<'_, DumpSaid> {
    said.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_reckoned_by_the_estimate() {
        let at = reckoned(250, 50.0, Some(1000), Some(0.9));
        assert_eq!((at.fraction, at.left), (Some(0.25), Some(Duration::from_secs(15))));
        assert_eq!(reckoned(250, 50.0, None, Some(0.9)).fraction, Some(0.9));
        assert_eq!(reckoned(250, 0.0, Some(1000), None).left, None);
        assert_eq!(reckoned(2000, 5.0, Some(1000), None).fraction, Some(1.0));
    }
}
