//! File systems on their way: several beside each other, each from what its directory holds to its stamp.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::Poll;
use std::time::Duration;

use hypervisors::host::{Command, printable};
use hypervisors::transfer::compare::{Both, Compared, compare};
use hypervisors::transfer::pump::{Brake, Flow};
use hypervisors::transfer::snap::{self, Snap};
use hypervisors::transfer::tree::SYMTABLE;
use hypervisors::transfer::{Mounted, Pass, Place, Progress, Since, tree};
use hypervisors::{Error, Host};
use serde::{Deserialize, Serialize};

use super::stamp::{Stamp, Stamps};
use super::{Method, Moved, Transfer};
use crate::steps::{StepError, World};

/// What a file system takes more in another: directories, other block sizes.
const MORE: f64 = 1.05;

/// A step at work.
pub(super) struct Moving<'a> {
    pub step: &'a Transfer,
    pub world: &'a World,
    pub source: &'a dyn Host,
    pub target: &'a dyn Host,
    pub stamps: &'a Stamps,
    /// What is mounted on the source.
    pub mounts: &'a [Mounted],
}

/// A file system that was copied just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub mount: PathBuf,
    #[serde(flatten)]
    pub flow: Flow,
    /// Which end was the slower one.
    pub brake: Brake,
    pub compared: Compared,
    #[serde(skip)]
    pub told: Vec<String>,
}

/// How the directory is before dump begins.
struct Prepared<'a> {
    moved: &'a Moved,
    place: Place,
    /// 0 where level 1 has to be all of it: an earlier attempt broke off.
    level: u8,
    since: Since,
}

impl<'a> Moving<'a> {
    /// Copies those of a wave that are not done, beside each other; each to its end, whatever becomes of the others.
    pub(super) async fn wave(&self, wave: &[&'a Moved]) -> Result<Vec<Outcome>, StepError> {
        let mut prepared = Vec::new();
        for moved in wave {
            let done = self.stamps.done(moved, self.step.level).await?;
            if !done.is_some_and(|stamp| stamp.is_of(self.step, moved)) {
                prepared.push(self.prepare(moved).await?);
            }
        }
        self.room(&prepared).await?;
        let limit = self.step.bandwidth.map(|all| (all / prepared.len().max(1) as u64).max(1));
        let board = Board { lines: Mutex::new(BTreeMap::new()), world: self.world };
        let work = prepared
            .iter()
            .map(|one| Box::pin(self.copy(one, limit, &board)) as Pin<Box<dyn Future<Output = _> + Send + '_>>);
        let mut outcomes = Vec::new();
        let mut failed = Vec::new();
        for (one, outcome) in prepared.iter().zip(together(work.collect()).await) {
            match outcome {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => failed.push((one.moved, error)),
            }
        }
        match all_of(failed) {
            Some(error) => Err(error),
            None => Ok(outcomes),
        }
    }

    /// Brings the directory to what restore may be run in, or says why it is not.
    async fn prepare<'m>(&self, moved: &'m Moved) -> Result<Prepared<'m>, StepError> {
        let place = moved.place(&self.step.root);
        let at = || format!("{} of {}", place.path().display(), self.target.name());
        let name = moved.mount.display();
        let mut level = self.step.level;
        let below = match level {
            0 => None,
            _ => self.stamps.done(moved, 0).await?.filter(|stamp| stamp.is_of(self.step, moved)),
        };
        if level > 0 {
            if below.is_none() {
                let why = format!("{name} has no copy that what changed could be added to");
                return Err(StepError::failed(why, "copy all of it first"));
            }
            if self.stamps.is_begun(moved, level).await? {
                level = 0;
            } else if !tree::has_symtable(self.target, &place).await? {
                let why = format!("{SYMTABLE} is not in {} any more, so what changed cannot be added", at());
                return Err(StepError::failed(why, "copy all of it again: abort and clone"));
            }
        }
        let begun = self.stamps.is_begun(moved, self.step.level).await?;
        let holds = tree::holds(self.target, &place).await?.ok_or_else(|| {
            StepError::failed(
                format!("{} is no directory of the tree", at()),
                "a link or nothing stands there: it has to be a directory, brought along with the file system above",
            )
        })?;
        if begun && self.step.method == Method::Dump {
            self.world.progress(format!("emptying {}", at()), None);
            self.stamps.forget(moved).await?;
            tree::empty(self.target, &place, &self.stamps.temporary(moved)).await?;
        } else if level == 0 && !begun && !holds.is_empty() {
            let why = format!("{} is not empty: {} is in it", at(), holds.join(", "));
            return Err(StepError::failed(why, "look at what it is and remove it; nothing was done to it"));
        }
        let since = match (self.step.dated(), self.step.dialect.dumpdates, level, below.and_then(|stamp| stamp.date)) {
            (false, ..) => Since::Nothing,
            (true, true, 0, _) => Since::Dates(self.step.dates(moved)),
            (true, true, _, _) if self.has_dates(moved).await? => Since::Dates(self.step.dates(moved)),
            (true, false, 0, _) => Since::Nothing,
            (.., Some(date)) => Since::Told(date),
            (.., None) => {
                let why =
                    format!("the date of the copy of {name} is not known, so what changed since cannot be asked for");
                return Err(StepError::failed(why, "copy all of it again: abort and clone"));
            }
        };
        Ok(Prepared { moved, place, level, since })
    }

    /// Whether what is copied whole finds room, all of it together.
    async fn room(&self, prepared: &[Prepared<'_>]) -> Result<(), StepError> {
        let mut needs: BTreeMap<String, (u64, u64, Vec<String>)> = BTreeMap::new();
        for one in prepared.iter().filter(|one| one.level == 0) {
            let (device, free) = tree::free(self.target, &one.place).await?;
            let need = needs.entry(device).or_insert((0, free, Vec::new()));
            need.0 += (one.moved.used_bytes as f64 * MORE) as u64;
            need.2.push(one.moved.mount.display().to_string());
        }
        for (device, (bytes, free, names)) in needs {
            if bytes > free {
                let (names, device) = (names.join(", "), printable(&device));
                let why = format!(
                    "{names} need {} on {device} of {}, and {} are free",
                    size(bytes),
                    self.target.name(),
                    size(free)
                );
                return Err(StepError::failed(why, "make room there, then resume"));
            }
        }
        Ok(())
    }

    /// One file system, to its stamp.
    async fn copy(&self, one: &Prepared<'_>, limit: Option<u64>, board: &Board<'_>) -> Result<Outcome, StepError> {
        let moved = one.moved;
        self.stamps.begin(moved, self.step.level).await?;
        if self.step.method == Method::Rsync {
            let mirrored = self.mirrored(moved).await?;
            let compared = self.compare(one, mirrored.since).await?;
            return self.whole(one, mirrored.flow, None, compared, mirrored.told).await;
        }
        self.not_a_link(moved).await?;
        if let Since::Dates(_) = one.since {
            self.make_dates().await?;
        }
        let since = self.now().await?;
        let dump = self.step.dump_line(moved, one.level, one.since.clone());
        let temporary = self.stamps.temporary(moved);
        let pass = Pass {
            source: self.source,
            target: self.target,
            mount: &moved.mount,
            dump: &dump,
            place: &one.place,
            temporary: &temporary,
            compression: self.step.compression,
            limit,
            timeout: Duration::from_secs(self.step.patience_s),
        };
        let with_snap = moved.snapshot && self.step.dialect.snapshot;
        let ours = with_snap && self.make_snap(moved).await?;
        let tried = if with_snap { self.try_snap(moved).await } else { Ok(()) };
        let passed = match tried {
            Ok(()) => pass.run(&|progress| board.tell(&moved.mount, progress)).await.map_err(StepError::from),
            Err(error) => Err(error),
        };
        board.close(&moved.mount);
        if ours {
            // What went wrong before is what is told.
            let unmade = self.unmake_snap(moved).await;
            if passed.is_ok() {
                unmade?;
                tree::forget_snap(self.target, &one.place).await?;
            }
        }
        let passed = passed?;
        let compared = self.compare(one, since).await?;
        if !self.step.keeps_symtable {
            tree::forget_symtable(self.target, &one.place).await?;
        }
        let mut told = passed.told;
        if !dump.snapshot || !self.step.dialect.snapshot {
            told.push("it was copied live, without a snapshot".into());
        }
        self.whole(one, passed.flow, passed.date, compared, told).await
    }

    /// Its copy is one: the stamp says so, and what is to be told is told.
    async fn whole(
        &self,
        one: &Prepared<'_>,
        flow: Flow,
        date: Option<String>,
        compared: Compared,
        mut told: Vec<String>,
    ) -> Result<Outcome, StepError> {
        let moved = one.moved;
        let stamp = Stamp {
            source: self.step.source.name.clone(),
            mount: moved.mount.clone(),
            device: moved.device.clone(),
            root: self.step.root.clone(),
            date,
            bytes: flow.bytes,
        };
        // A level that had to be all of it is the lower one, too.
        for level in one.level..=self.step.level {
            self.stamps.finish(moved, level, &stamp).await?;
        }
        let changed = &compared.changed;
        if changed.count > 0 {
            told.push(format!(
                "{} entries changed on the server meanwhile: {}",
                changed.count,
                changed.examples.join("; ")
            ));
        }
        Ok(Outcome { mount: moved.mount.clone(), flow, brake: flow.brake(), compared, told })
    }

    async fn compare(&self, one: &Prepared<'_>, since: i64) -> Result<Compared, StepError> {
        let mount = &one.moved.mount;
        self.world.progress(format!("comparing {} with its copy", mount.display()), None);
        let inside = self.inside(one.moved);
        let both = Both {
            source: self.source,
            mount,
            target: self.target,
            place: &one.place,
            inside: &inside,
            since,
            spool: &self.world.run_dir,
        };
        let compared = compare(&both).await?;
        if compared.wrong.count > 0 {
            let (count, examples) = (compared.wrong.count, compared.wrong.examples.join("; "));
            let why = format!(
                "the copy of {} differs in {count} of {} entries: {examples}",
                mount.display(),
                compared.entries
            );
            return Err(StepError::failed(
                why,
                "resume copies it again; if it differs again, look at these on both sides",
            ));
        }
        Ok(compared)
    }

    /// restore writes its table by this name: a link of the server's must not lead it elsewhere.
    async fn not_a_link(&self, moved: &Moved) -> Result<(), StepError> {
        let path = moved.mount.join(SYMTABLE);
        let command = Command::new(["sh", "-c", "test -L \"$1\" || exit 9", "sh", &path.to_string_lossy()]);
        match self.source.run(&command).await?.status {
            0 => Err(StepError::failed(
                format!("{} of {} is a link, and restore would write through it", path.display(), self.source.name()),
                "remove it there",
            )),
            _ => Ok(()),
        }
    }

    /// The second, by the source's clock.
    pub(super) async fn now(&self) -> Result<i64, StepError> {
        let doing = format!("read the clock of {}", self.source.name());
        let command = Command::new(["date", "+%s"]);
        let printed = self.source.run(&command).await?.checked(&doing, &command)?.text();
        let malformed = |_| Error::new(doing, hypervisors::Cause::Malformed(printable(&printed)));
        Ok(printed.trim().parse().map_err(malformed)?)
    }

    /// Sees to `.snap`; whether it is ours to remove.
    async fn make_snap(&self, moved: &Moved) -> Result<bool, StepError> {
        let ours = self.stamps.made_snap(moved).await?;
        match snap::state(self.source, &moved.mount).await? {
            Snap::Directory | Snap::None => Ok(ours),
            Snap::Missing => {
                self.stamps.makes_snap(moved).await?;
                snap::make(self.source, &moved.mount).await?;
                Ok(true)
            }
            Snap::Foreign => {
                let path = moved.mount.join(".snap");
                let why =
                    format!("{} of {} is no directory, so dump takes no snapshot", path.display(), self.source.name());
                Err(StepError::failed(why, "give it another name there, then resume"))
            }
        }
    }

    async fn try_snap(&self, moved: &Moved) -> Result<(), StepError> {
        self.world.progress(format!("trying a snapshot of {}", moved.mount.display()), None);
        match snap::fails(self.source, &moved.mount, &format!("upgradectl-{}", self.step.run)).await? {
            None => Ok(()),
            Some(why) => Err(StepError::failed(
                format!("there is no snapshot of {} of {}: {why}", moved.mount.display(), self.source.name()),
                "remove snapshots there (at most twenty are possible) or make room, then resume; a system that has none is planned without",
            )),
        }
    }

    /// Removes the `.snap` that was made for dump.
    pub(super) async fn unmake_snap(&self, moved: &Moved) -> Result<(), StepError> {
        snap::unmake(self.source, &moved.mount).await?;
        self.stamps.unmade_snap(moved).await
    }

    async fn make_dates(&self) -> Result<(), StepError> {
        let doing = format!("make a place for dump's dates on {}", self.source.name());
        let directory = self.step.dates_directory();
        let command = Command::new(["sh", "-c", "umask 077; mkdir -p -- \"$1\"", "sh", &directory]);
        self.source.run(&command).await?.checked(doing, &command)?;
        Ok(())
    }

    async fn has_dates(&self, moved: &Moved) -> Result<bool, StepError> {
        let command = Command::new(["test", "-s", &self.step.dates(moved)]);
        Ok(self.source.run(&command).await?.status == 0)
    }

    /// Removes what dump wrote its dates in, and the directories above as far as they are empty.
    pub(super) async fn forget_dates(&self) -> Result<(), StepError> {
        let doing = format!("remove dump's dates from {}", self.source.name());
        let script = "test -d \"$1\" || exit 0; rm -rf -- \"$1\" && { rmdir \"${1%/*}\" && rmdir \"${1%/*/*}\"; } 2>/dev/null; test ! -d \"$1\"";
        let command = Command::new(["sh", "-c", script, "sh", &self.step.dates_directory()]);
        self.source.run(&command).await?.checked(doing, &command)?;
        Ok(())
    }
}

/// One line of progress for all of them.
struct Board<'a> {
    lines: Mutex<BTreeMap<PathBuf, Progress>>,
    world: &'a World,
}

impl Board<'_> {
    fn tell(&self, mount: &Path, progress: Progress) {
        let mut lines = self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        lines.insert(mount.to_owned(), progress);
        let line = |(mount, at): (&PathBuf, &Progress)| {
            let left = at.left.map(|left| format!(", {} left", minutes(left))).unwrap_or_default();
            format!("{} {} at {}/s{left}", mount.display(), size(at.moved), size(at.rate as u64))
        };
        let text: Vec<String> = lines.iter().map(line).collect();
        let least = lines.values().map(|at| at.fraction).reduce(|one, other| Some(one?.min(other?))).flatten();
        self.world.progress(text.join("; "), least);
    }
    fn close(&self, mount: &Path) {
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(mount);
    }
}

fn minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value >= 1024.0 {
            (value, unit) = (value / 1024.0, next);
        }
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// The failures as one: the first that is certain, and the others behind it.
fn all_of(mut failed: Vec<(&Moved, StepError)>) -> Option<StepError> {
    let first = failed.iter().position(|(_, error)| !error.is_unknown()).unwrap_or(0);
    if failed.len() < 2 {
        return failed.pop().map(|(_, error)| error);
    }
    let (_, error) = failed.remove(first);
    let others: Vec<String> =
        failed.iter().map(|(moved, error)| format!("{}: {error}", moved.mount.display())).collect();
    let why = format!("{error}; and so did {}", others.join("; "));
    Some(match error.is_unknown() {
        true => StepError::Unknown(why),
        false => StepError::Failed { why, help: error.help().map(str::to_owned) },
    })
}

/// All to their ends, in one task: what they log is observed, and dropping it drops them.
async fn together<T>(mut work: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
    let mut done: Vec<Option<T>> = work.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (one, done) in work.iter_mut().zip(&mut done) {
            if done.is_none()
                && let Poll::Ready(value) = one.as_mut().poll(cx)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_for_people() {
        assert_eq!((size(512), size(1536), size(41 << 30)), ("512 B".into(), "1.5 KiB".into(), "41.0 GiB".into()));
        let all = [5, 90, 7300].map(|seconds| minutes(Duration::from_secs(seconds)));
        assert_eq!(all, ["5 s", "1 min", "2 h 01 min"]);
    }
}
