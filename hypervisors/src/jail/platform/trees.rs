//! Trees of jails that runs made, in a directory of the host: found by their marks, removed, kept for good.
//!
//! On a host whose directory of jails is a dataset of ZFS, a tree is a dataset of its own, marked by a property too: it goes only by
//! `zfs destroy -r`, and only if that says that it is the run's.
//!
//! A tree's mark lies beside it, not in it: what is in a tree is its jail's. `DIRECTORY/.upgradectl/RUN/mark` says `RUN.ROLE`, and is the
//! first thing that is made of a tree and the last that goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::host::{Command, job, printable_tail};
use crate::storage::{Access, Opened, Snapshot, VolumeFacts, zfs};
use crate::{Cause, Change, Error, Host, Mark, Result, Storage, VolumeKind, VolumeRef};

/// Where the runs of a directory of jails have their things.
pub const RUNS: &str = ".upgradectl";

/// Arguments: directory. A line `RUN MARK` for each run that has things there.
const MARKED: &str = "cd \"$1/.upgradectl\" 2>/dev/null || exit 0; for r in *; do test -f \"$r/mark\" && printf '%s %s\\n' \"$r\" \"$(cat \"$r/mark\")\"; done; exit 0";

/// Arguments: tree, the run's directory. Prints the mark, or an empty line, then what is at the tree's place, then kibibytes that are free.
const LOOK: &str = "cat \"$2/mark\" 2>/dev/null || echo; \
    if test -d \"$1\" -a ! -L \"$1\"; then echo there; elif test -e \"$1\" -o -L \"$1\"; then echo other; else echo none; fi; \
    df -k \"$(dirname \"$1\")\" 2>/dev/null | tail -1";

/// Arguments: tree, the run's directory, run, the tree's dataset or nothing. Status 98: not of this run, 97: something is mounted in it, 96: there
/// is none. File flags are taken off first (chflags(1)); no link is followed. A jail that was stopped keeps its tree for as long as a connection of
/// its is remembered (a minute): that is waited for. The mark stays.
const REMOVE: &str = "case \"$(cat \"$2/mark\" 2>/dev/null)\" in \"$3\".*) ;; *) test -e \"$1\" -o -L \"$1\" && exit 98; exit 96;; esac; \
    test -L \"$1\" && exit 98; \
    m=$(mount -p 2>/dev/null | awk -v r=\"$1/\" -v d=\"$4\" '(d == \"\" || $1 != d) && index($2 \"/\", r) == 1 { print $2 }'); test -n \"$m\" && { echo \"$m\"; exit 97; }; \
    if test -n \"$4\"; then i=0; while m=$(zfs destroy -r \"$4\" 2>&1); s=$?; test $s -ne 0; do \
    case $m in *busy*) test $i -lt 45 || { echo \"$m\" >&2; exit 1; };; *) echo \"$m\" >&2; exit 1;; esac; i=$((i+1)); sleep 2; done; rmdir -- \"$1\" 2>/dev/null; elif test -d \"$1\"; then command -v chflags >/dev/null 2>&1 && chflags -R 0 \"$1\" 2>/dev/null; rm -rf -- \"$1\" || exit 1; fi; \
    test -e \"$1\" && { echo \"$1 is still there\" >&2; exit 1; }; exit 0";

/// Arguments: tree, name. What was left of a jail that was made for one command ([`passing_jail`]) goes, and its devices.
const PASSED: &str = "jls -j \"$2\" jid >/dev/null 2>&1 && jail -r \"$2\" >/dev/null 2>&1; \
    jls path 2>/dev/null | grep -qxF \"$1\" && exit 0; i=0; while test $i -lt 5 && mount -p 2>/dev/null | awk -v d=\"$1/dev\" '$2 == d { f = 1 } END { exit 1 - f }'; do \
    umount \"$1/dev\" || break; i=$((i+1)); done; exit 0";

/// The name of a jail that a run makes of its tree for one command: not the run's, which is not started. A dot would be a child's.
pub fn passing_jail(run: &str) -> String {
    format!("{}_upgrade", run.replace(['.', '/'], "_"))
}

/// Arguments: tree, the run's directory. Everything goes, the mark last; with the last run what runs had in common.
const FORGET: &str = "test -d \"$2\" || exit 0; for f in \"$2\"/* \"$2\"/.[A-Za-z0-9]*; do test \"$f\" = \"$2/mark\" || rm -rf -- \"$f\" || exit 1; done; \
    rm -rf -- \"$2\" && { ls \"${2%/*}\"/*/mark >/dev/null 2>&1 || rm -rf -- \"${2%/*}\"/etc-*.tbz* \"${2%/*}\"/packages-*; rmdir -- \"${2%/*}\" 2>/dev/null; exit 0; }";

/// The driver for the trees of a host of jails.
#[derive(Clone, Debug)]
pub struct Trees {
    host: Arc<dyn Host>,
}

/// The run's own directory beside its tree.
fn scratch(tree: &Path, run: &str) -> PathBuf {
    tree.parent().unwrap_or(Path::new("/")).join(RUNS).join(run)
}

/// The run whose tree this is, by its name.
fn run_of(tree: &Path) -> String {
    tree.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Trees {
    /// Of a machine.
    pub fn new(host: &Arc<dyn Host>) -> Self {
        Self { host: Arc::clone(host) }
    }

    fn command(script: &str, words: &[&str]) -> Command {
        Command::new(["sh", "-c", script, "sh"].into_iter().chain(words.iter().copied()))
    }

    /// The mark of a tree, what is at its place, and bytes that are free there.
    async fn look(&self, tree: &Path) -> Result<(Option<Mark>, String, u64)> {
        let doing = format!("look at {} on {}", tree.display(), self.host.name());
        let command = Self::command(LOOK, &[&tree.to_string_lossy(), &scratch(tree, &run_of(tree)).to_string_lossy()]);
        let text = self.host.run(&command).await?.checked(doing, &command)?.text();
        let mut lines = text.lines();
        let mark = lines.next().and_then(|line| line.trim().parse().ok());
        let place = lines.next().unwrap_or_default().to_owned();
        let free = lines.next().and_then(|line| line.split_ascii_whitespace().nth(3)?.parse::<u64>().ok());
        Ok((mark, place, free.unwrap_or(0) << 10))
    }

    /// Ends and forgets the jobs of a run: an upgrade is this machine's work, not the jail's, and goes on by itself.
    async fn end_jobs(&self, run: &str) -> Result<()> {
        job::end(&*self.host, Path::new(job::DIRECTORY), &format!("{}-", job::word(run))).await
    }

    /// Ends what a run still does to its tree.
    async fn stop_work(&self, tree: &Path, run: &str) -> Result<()> {
        self.end_jobs(run).await?;
        let doing = format!("end what works on {} on {}", tree.display(), self.host.name());
        let command = Self::command(PASSED, &[&tree.to_string_lossy(), &passing_jail(run)]);
        self.host.run(&command).await?.checked(doing, &command).map(drop)
    }

    fn unsupported<T>(what: &str, volume: &VolumeRef) -> Result<T> {
        Err(Error::new(format!("{what} {volume}"), Cause::Unsupported("trees of jails are not copied".into())))
    }
}

#[async_trait]
impl Storage for Trees {
    fn kind(&self) -> VolumeKind {
        VolumeKind::Directory
    }

    async fn inspect(&self, volume: &VolumeRef) -> Result<Option<VolumeFacts>> {
        let (mark, place, free_bytes) = self.look(&volume.path).await?;
        Ok((place == "there").then(|| VolumeFacts { free_bytes, mark, ..VolumeFacts::default() }))
    }

    async fn snapshot(&self, source: &VolumeRef, _target: &VolumeRef, _mark: &Mark) -> Result<Change> {
        Self::unsupported("copy", source)
    }

    async fn probe(&self, target: &VolumeRef, mark: &Mark) -> Result<Snapshot> {
        let (found, place, _) = self.look(&target.path).await?;
        Ok(match (found.as_ref() == Some(mark), place.as_str()) {
            (true, "there") => Snapshot::Present,
            (true, _) => Snapshot::Partial,
            (false, "none") => Snapshot::Absent,
            (false, _) => Snapshot::Foreign(format!("{} is not of run {}", target.path.display(), mark.run)),
        })
    }

    async fn remove(&self, volume: &VolumeRef, run: &str) -> Result<Change> {
        let doing = format!("remove {} on {}", volume.path.display(), self.host.name());
        // By the tree's own name: a run's mark says nothing of another run's tree.
        let (tree, scratch) = (volume.path.to_string_lossy(), scratch(&volume.path, &run_of(&volume.path)));
        if run == run_of(&volume.path) {
            self.stop_work(&volume.path, run).await?;
        }
        let dataset = match zfs::made_for(&*self.host, &volume.path).await? {
            Some(dataset) if dataset.mark.as_ref().is_none_or(|mark| mark.run != run) => {
                return Err(Error::refused(doing, format!("the dataset {} is not of run {run}", dataset.name))
                    .help("zfs destroy it by hand, if it is of no use any more"));
            }
            dataset => dataset.map(|dataset| dataset.name).unwrap_or_default(),
        };
        let scratch = scratch.to_string_lossy();
        let command = Self::command(REMOVE, &[&tree, &scratch, run, &dataset]).timeout(Duration::from_secs(4 * 3600));
        let output = self.host.run(&command).await?;
        let none = output.status == 96;
        match output.status {
            96 => Ok(()),
            98 => Err(Error::refused(&*doing, format!("it is not of run {run}"))
                .help("move it away, if it is of no use any more")),
            97 => Err(Error::refused(
                &*doing,
                format!("something is mounted in it: {}", printable_tail(&output.stdout, 3)),
            )
            .help("unmount it there")),
            _ => output.checked(&*doing, &command).map(drop),
        }?;
        // By the tree's own name once more; the mark is the last that goes.
        if run == run_of(&volume.path) {
            zfs::ZfsStorage::new(&self.host).forget_beside(volume, run).await?;
        }
        if none {
            return Ok(Change::Unchanged);
        }
        let command = Self::command(FORGET, &[&tree, &scratch]).timeout(Duration::from_secs(3600));
        self.host.run(&command).await?.checked(doing, &command).map(|_| Change::Removed)
    }

    /// Without a mark a tree is its jail's for good: the run's directory beside it goes.
    async fn mark(&self, volume: &VolumeRef, mark: Option<&Mark>) -> Result<Change> {
        if mark.is_some() {
            return Self::unsupported("mark", volume);
        }
        let doing = format!("keep {} on {}", volume.path.display(), self.host.name());
        self.end_jobs(&run_of(&volume.path)).await?;
        if let Some(dataset) = zfs::at(&*self.host, &volume.path).await?.filter(|dataset| dataset.mark.is_some()) {
            let command = Command::new(["zfs", "inherit", zfs::RUN, &dataset.name]);
            self.host.run(&command).await?.checked(&*doing, &command)?;
        }
        // A commit that was cut short may have left its snapshot, which is the clone's by now.
        zfs::ZfsStorage::new(&self.host).forget_beside(volume, &run_of(&volume.path)).await?;
        let scratch = scratch(&volume.path, &run_of(&volume.path));
        let command = Self::command(FORGET, &[&volume.path.to_string_lossy(), &scratch.to_string_lossy()]);
        let command = command.timeout(Duration::from_secs(3600));
        self.host.run(&command).await?.checked(doing, &command).map(|_| Change::Changed)
    }

    async fn rename(&self, from: &VolumeRef, _to: &VolumeRef) -> Result<Change> {
        Self::unsupported("rename", from)
    }

    async fn marked(&self, directory: &Path) -> Result<Vec<(VolumeRef, Mark)>> {
        let doing = format!("look for trees of runs in {} on {}", directory.display(), self.host.name());
        let command = Self::command(MARKED, &[&directory.to_string_lossy()]);
        let text = self.host.run(&command).await?.checked(doing, &command)?.text();
        let one = |line: &str| {
            let (run, mark) = line.split_once(' ')?;
            let mark: Mark = mark.trim().parse().ok()?;
            // Whoever wrote another run's name there had no tree of that run made.
            (mark.run == run).then(|| (VolumeRef { kind: VolumeKind::Directory, path: directory.join(run) }, mark))
        };
        Ok(text.lines().filter_map(one).collect())
    }

    async fn open(&self, volume: &VolumeRef, _access: Access) -> Result<Opened> {
        Self::unsupported("open", volume)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::Role;
    use crate::host::LocalHost;

    fn made(jails: &Path, run: &str, mark: &str) -> VolumeRef {
        std::fs::create_dir_all(jails.join(run).join("etc")).unwrap();
        let scratch = jails.join(RUNS).join(run);
        std::fs::create_dir_all(scratch.join("transfer/tmp")).unwrap();
        std::fs::write(scratch.join("mark"), format!("{mark}\n")).unwrap();
        std::fs::write(scratch.join(".hidden"), "x").unwrap();
        VolumeRef { kind: VolumeKind::Directory, path: jails.join(run) }
    }

    #[tokio::test]
    async fn trees_are_found_by_their_marks_and_removed_by_their_own_run() {
        let place = tempfile::tempdir().unwrap();
        let jails = place.path();
        let trees = Trees::new(&(Arc::new(LocalHost::new("jailhost")) as Arc<dyn Host>));
        assert!(trees.marked(jails).await.unwrap().is_empty());
        let (a, b) = (made(jails, "A--k3f9", "A--k3f9.clone"), made(jails, "B--7wq2", "B--7wq2.clone"));
        made(jails, "C--0000", "A--k3f9.clone");
        made(jails, "D--0000", "odd");
        std::os::unix::fs::symlink(jails, a.path.join("out")).unwrap();
        let mark = |run: &str| Mark { run: run.into(), role: Role::Clone };
        assert_eq!(trees.marked(jails).await.unwrap(), [(a.clone(), mark("A--k3f9")), (b.clone(), mark("B--7wq2"))]);
        assert_eq!(trees.inspect(&a).await.unwrap().unwrap().mark, Some(mark("A--k3f9")));
        assert_eq!(trees.probe(&a, &mark("A--k3f9")).await.unwrap(), Snapshot::Present);
        assert!(matches!(trees.probe(&a, &mark("B--7wq2")).await.unwrap(), Snapshot::Foreign(_)));
        assert!(matches!(trees.remove(&a, "B--7wq2").await.unwrap_err().cause, Cause::Refused(_)));
        assert_eq!(trees.remove(&a, "A--k3f9").await.unwrap(), Change::Removed);
        trees.remove(&a, "A--k3f9").await.unwrap();
        assert!(!a.path.exists() && !jails.join(RUNS).join("A--k3f9").exists() && b.path.join("etc").exists());
        assert_eq!(trees.probe(&a, &mark("A--k3f9")).await.unwrap(), Snapshot::Absent);
        // Kept for good.
        trees.mark(&b, None).await.unwrap();
        assert!(b.path.join("etc").exists() && !jails.join(RUNS).join("B--7wq2").exists());
        assert!(
            matches!(trees.remove(&b, "B--7wq2").await.unwrap_err().cause, Cause::Refused(_)),
            "nobody's but its jail's"
        );
        // One that is a link is nobody's.
        made(jails, "E--1111", "E--1111.clone");
        std::fs::remove_dir_all(jails.join("E--1111")).unwrap();
        std::os::unix::fs::symlink(b.path.as_path(), jails.join("E--1111")).unwrap();
        let e = VolumeRef { kind: VolumeKind::Directory, path: jails.join("E--1111") };
        assert!(trees.remove(&e, "E--1111").await.is_err() && b.path.join("etc").exists());
    }
}
