//! ZFS file systems as volumes, on a host that is reached by commands: a copy is a clone of a snapshot.
//!
//! What is rested on (the manual pages of OpenZFS 2.1, those of FreeBSD 13 and later):
//!
//! * zfs-list(8): a dataset may be named by "the absolute pathname" of what is mounted; a user property may be a column.
//! * zfs-snapshot(8): "All previous modifications by successful system calls to the file system are part of the snapshots", taken
//!   atomically; `-o` sets a property on it.
//! * zfs-clone(8): "The target dataset can be located anywhere in the ZFS hierarchy (but must be within the same pool)"; "the clone
//!   creates an implicit dependency between the parent and child", so the snapshot "cannot be destroyed as long as a clone exists".
//! * zfs-promote(8): "makes it possible to destroy the dataset that the clone was created from. The clone parent-child dependency
//!   relationship is reversed"; "the snapshot that was cloned, and any snapshots previous to this snapshot, are now owned by the
//!   promoted clone".
//! * zfs-destroy(8): `-r` destroys all children, snapshots among them; without `-R`, which is never used here, nothing that other file
//!   systems depend on goes.
//! * zfsprops(7): names of user properties have a colon; they are inherited, "can be arbitrary" and "are never validated". Here
//!   `org.upgradectl:run` is `RUN.ROLE`, the ownership mark, and counts only where it is set on the dataset itself.
//!
//! A volume is named by its mount point. Datasets within it are not copied with it: such a volume is refused. The snapshot of a run is
//! `DATASET@RUN`, marked as the clone is. It goes with the clone or, if that was made independent of its source, after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::{Access, Mark, Opened, Role, Snapshot, Storage, VolumeFacts, VolumeKind, VolumeRef};
use crate::host::Command;
use crate::{Cause, Change, Error, Host, Result};

/// The user property that marks what a run made.
pub const RUN: &str = "org.upgradectl:run";

/// Properties that a clone is given of those that its original has of its own, beside the operator's: limits, and how files are kept and used
/// (zfsprops(7)). Not what takes space (reservations), is another's business (sharing, where it is mounted), or comes with the snapshot.
const CARRIED: [&str; 21] = [
    "aclinherit",
    "aclmode",
    "acltype",
    "atime",
    "checksum",
    "compression",
    "copies",
    "devices",
    "exec",
    "logbias",
    "primarycache",
    "quota",
    "recordsize",
    "redundant_metadata",
    "refquota",
    "relatime",
    "secondarycache",
    "setuid",
    "snapdir",
    "sync",
    "xattr",
];

/// Columns of a dataset; the mark comes last.
const COLUMNS: &str = "name,mountpoint,origin,used,available,org.upgradectl:run";

/// Arguments: what to list, columns, more options. A line of the columns for each; nothing without ZFS. A mark that is inherited is another
/// dataset's, and left out.
const LIST: &str = "command -v zfs >/dev/null 2>&1 || exit 0; t=$(printf '\\t'); \
    zfs list -H -p -o \"$2\" $3 \"$1\" 2>/dev/null | while IFS= read -r l; do case $l in *\"$t-\") printf '%s\\n' \"$l\";; \
    *) printf '%s\\t%s\\n' \"${l%\"$t\"*}\" \"$(zfs get -H -s local -o value org.upgradectl:run \"${l%%\"$t\"*}\" 2>/dev/null)\";; \
    esac; done; exit 0";

/// A file system of ZFS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// `zroot/jails/web`.
    pub name: String,
    /// Where it is mounted, or would be.
    pub mountpoint: PathBuf,
    /// The snapshot it is a clone of.
    pub origin: Option<String>,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Its mark.
    pub mark: Option<Mark>,
}

/// Reads what [`LIST`] prints.
fn read(text: &str) -> Vec<Dataset> {
    let one = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        let [name, mountpoint, origin, used, available, mark] = words.as_slice() else { return None };
        Some(Dataset {
            name: (*name).to_owned(),
            mountpoint: PathBuf::from(mountpoint),
            origin: (*origin != "-").then(|| (*origin).to_owned()),
            used_bytes: used.parse().ok()?,
            free_bytes: available.parse().ok()?,
            mark: mark.parse().ok(),
        })
    };
    text.lines().filter_map(one).collect()
}

async fn list(host: &dyn Host, what: &str, options: &str) -> Result<Vec<Dataset>> {
    let command = Command::new(["sh", "-c", LIST, "sh", what, COLUMNS, options]);
    let doing = format!("look for datasets at {what} on {}", host.name());
    Ok(read(&host.run(&command).await?.checked(doing, &command)?.text()))
}

/// The dataset whose mount point a path is; `None` if it is none's, or the host has no ZFS.
///
/// # Errors
/// The host cannot be asked.
pub async fn at(host: &dyn Host, path: &Path) -> Result<Option<Dataset>> {
    let Some(text) = path.to_str() else { return Ok(None) };
    Ok(list(host, text, "").await?.into_iter().find(|dataset| dataset.mountpoint == path))
}

/// The dataset whose files a path is among.
///
/// # Errors
/// The host cannot be asked.
pub async fn holding(host: &dyn Host, path: &Path) -> Result<Option<Dataset>> {
    let Some(text) = path.to_str() else { return Ok(None) };
    Ok(list(host, text, "").await?.into_iter().next())
}

/// The marked dataset that would be mounted at a path, and perhaps is not.
///
/// # Errors
/// The host cannot be asked.
pub async fn made_for(host: &dyn Host, path: &Path) -> Result<Option<Dataset>> {
    if let Some(dataset) = at(host, path).await? {
        return Ok(Some(dataset));
    }
    let Some(near) = holding(host, path.parent().unwrap_or(path)).await? else { return Ok(None) };
    let all = list(host, pool(&near.name), "-r -t filesystem").await?;
    Ok(all.into_iter().find(|dataset| dataset.mountpoint == path && dataset.mark.is_some()))
}

/// What stands in the way of a clone of a file system, or of its end: file systems and volumes within it, by name or by where they are mounted, and
/// clones that live by its snapshots.
///
/// # Errors
/// The host cannot be asked.
pub async fn in_the_way(host: &dyn Host, of: &Dataset) -> Result<Vec<Dataset>> {
    let within = format!("{}/", of.name);
    let lives_by = format!("{}@", of.name);
    let all = list(host, pool(&of.name), "-r -t filesystem,volume").await?;
    let is = |one: &Dataset| {
        let beneath = one.mountpoint != of.mountpoint && one.mountpoint.starts_with(&of.mountpoint);
        one.name.starts_with(&within)
            || beneath
            || one.origin.as_ref().is_some_and(|origin| origin.starts_with(&lives_by))
    };
    Ok(all.into_iter().filter(is).collect())
}

/// Snapshots of a file system, by their names after the `@`, in the order in which they were taken.
///
/// # Errors
/// The host cannot be asked.
pub async fn snapshots(host: &dyn Host, of: &Dataset) -> Result<Vec<String>> {
    let options = "-r -t snapshot -s creation";
    let command = Command::new(["sh", "-c", LIST, "sh", &of.name, &format!("name,{RUN}"), options]);
    let text = host.run(&command).await?.checked(format!("look for snapshots of {}", of.name), &command)?.text();
    let own = format!("{}@", of.name);
    let name = |line: &str| Some(line.split('\t').next()?.strip_prefix(&own)?.to_owned());
    Ok(text.lines().filter_map(name).collect())
}

/// The driver.
#[derive(Clone, Debug)]
pub struct ZfsStorage {
    host: Arc<dyn Host>,
}

impl ZfsStorage {
    /// Of a machine.
    pub fn new(host: &Arc<dyn Host>) -> Self {
        Self { host: Arc::clone(host) }
    }

    async fn zfs(&self, doing: &str, words: &[&str]) -> Result<()> {
        let command = Command::new(["zfs"].iter().chain(words).copied());
        self.host.run(&command).await?.checked(doing, &command).map(drop)
    }

    async fn there(&self, volume: &VolumeRef) -> Result<Option<Dataset>> {
        at(&*self.host, &volume.path).await
    }

    async fn needed(&self, doing: &str, volume: &VolumeRef) -> Result<Dataset> {
        self.there(volume).await?.ok_or_else(|| Error::not_found(doing, format!("{volume} is no dataset")))
    }

    /// Snapshots of a run in the datasets of a pool: name, and the mark that is set on each.
    async fn snapshots(&self, doing: &str, pool: &str, run: &str) -> Result<Vec<(String, Mark)>> {
        let command = Command::new(["sh", "-c", LIST, "sh", pool, &format!("name,{RUN}"), "-r -t snapshot"]);
        let text = self.host.run(&command).await?.checked(doing, &command)?.text();
        let one = |line: &str| {
            let (name, mark) = line.split_once('\t')?;
            let mark: Mark = mark.parse().ok()?;
            (mark.run == run && name.ends_with(&format!("@{run}"))).then(|| (name.to_owned(), mark))
        };
        Ok(text.lines().filter_map(one).collect())
    }

    /// A dataset of the pool in which a volume is, or would be: the one that holds the directory around it.
    async fn near(&self, volume: &VolumeRef) -> Result<Option<Dataset>> {
        holding(&*self.host, volume.path.parent().unwrap_or(Path::new("/"))).await
    }

    /// The properties that a dataset has of its own, as `NAME=VALUE`: a clone gets none by itself.
    async fn own_properties(&self, doing: &str, dataset: &str) -> Result<Vec<String>> {
        let words = ["zfs", "get", "-H", "-p", "-s", "local,received", "-o", "property,value", "all", dataset];
        let command = Command::new(words);
        let text = self.host.run(&command).await?.checked(doing, &command)?.text();
        let one = |line: &str| {
            let (name, value) = line.split_once('\t')?;
            let carried = CARRIED.contains(&name) || (name.contains(':') && name != RUN);
            carried.then(|| format!("{name}={value}"))
        };
        Ok(text.lines().filter_map(one).collect())
    }

    /// Removes the snapshots that a run took in the pool of a dataset. No clone lives by them any more.
    async fn forget(&self, near: Option<&Dataset>, run: &str) -> Result<Change> {
        let doing = format!("remove the snapshots of {run} on {}", self.host.name());
        let Some(near) = near else { return Ok(Change::Unchanged) };
        let mut change = Change::Unchanged;
        for (snapshot, _) in self.snapshots(&doing, pool(&near.name), run).await? {
            self.zfs(&doing, &["destroy", &snapshot]).await?;
            change = Change::Removed;
        }
        Ok(change)
    }

    /// What a run's clone was made of goes after it: the snapshots that the run took where a volume is, or was.
    ///
    /// # Errors
    /// The host cannot be asked; something else has come to live by one of them.
    pub async fn forget_beside(&self, volume: &VolumeRef, run: &str) -> Result<Change> {
        let near = self.near(volume).await?;
        self.forget(near.as_ref(), run).await
    }

    /// Whether there is something of that name, whatever it is.
    async fn is_taken(&self, path: &Path) -> Result<bool> {
        let command = Command::new(["sh", "-c", "test -e \"$1\" -o -L \"$1\"", "sh", &path.to_string_lossy()]);
        Ok(self.host.run(&command).await?.status == 0)
    }
}

/// The pool of a dataset.
fn pool(dataset: &str) -> &str {
    dataset.split(['/', '@']).next().unwrap_or(dataset)
}

/// The name of the dataset that a copy becomes: beside its source, called as its mount point.
fn beside(source: &str, target: &Path) -> Result<String> {
    let word = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    match source.rsplit_once('/') {
        Some((parent, _)) if !word.is_empty() && word.bytes().all(fits) => Ok(format!("{parent}/{word}")),
        _ => Err(Error::refused(
            format!("name a dataset for {}", target.display()),
            format!("{source} is a pool's own, or the name is none for a dataset"),
        )
        .help("put each jail into a dataset of its own: zfs create POOL/jails/NAME")),
    }
}

#[async_trait]
impl Storage for ZfsStorage {
    fn kind(&self) -> VolumeKind {
        VolumeKind::Zfs
    }

    async fn inspect(&self, volume: &VolumeRef) -> Result<Option<VolumeFacts>> {
        Ok(self.there(volume).await?.map(|dataset| VolumeFacts {
            used_bytes: Some(dataset.used_bytes),
            free_bytes: dataset.free_bytes,
            mark: dataset.mark,
            ..VolumeFacts::default()
        }))
    }

    async fn snapshot(&self, source: &VolumeRef, target: &VolumeRef, mark: &Mark) -> Result<Change> {
        let doing = format!("clone {source} to {target}");
        let original = self.needed(&doing, source).await?;
        match self.probe(target, mark).await? {
            Snapshot::Present => return Ok(Change::Unchanged),
            Snapshot::Foreign(why) => return Err(Error::refused(doing, why)),
            // What was begun and not finished is made again, as it is now.
            Snapshot::Partial => drop(self.remove(target, &mark.run).await?),
            Snapshot::Absent => {}
        }
        let nested = in_the_way(&*self.host, &original).await?;
        if let Some(inner) = nested.iter().find(|dataset| dataset.origin.is_none()) {
            let why = format!("{} is a dataset within it, which would not be in the clone", inner.name);
            return Err(
                Error::refused(doing, why).help("move it out of the jail's dataset, or upgrade the jail by hand")
            );
        }
        let clone = beside(&original.name, &target.path)?;
        let (of_run, place) = (format!("{RUN}={mark}"), format!("mountpoint={}", target.path.display()));
        let snapshot = format!("{}@{}", original.name, mark.run);
        self.zfs(&doing, &["snapshot", "-o", &of_run, &snapshot]).await?;
        let own = self.own_properties(&doing, &original.name).await?;
        let mut words = vec!["clone", "-o", &of_run, "-o", &place];
        words.extend(own.iter().flat_map(|own| ["-o", own.as_str()]));
        words.extend([snapshot.as_str(), &clone]);
        self.zfs(&doing, &words).await?;
        Ok(Change::Created)
    }

    async fn probe(&self, target: &VolumeRef, mark: &Mark) -> Result<Snapshot> {
        let doing = format!("look at {target}");
        Ok(match self.there(target).await? {
            Some(dataset) if dataset.mark.as_ref() == Some(mark) => Snapshot::Present,
            Some(dataset) => Snapshot::Foreign(format!("{} is not of run {}", dataset.name, mark.run)),
            None if self.is_taken(&target.path).await? => {
                Snapshot::Foreign(format!("{target} is there, and no dataset"))
            }
            None => match self.near(target).await? {
                Some(near) if !self.snapshots(&doing, pool(&near.name), &mark.run).await?.is_empty() => {
                    Snapshot::Partial
                }
                _ => Snapshot::Absent,
            },
        })
    }

    /// An original goes too, once its mark says that it is one: the run's clone is promoted first, for it lives by the original's snapshot.
    async fn remove(&self, volume: &VolumeRef, run: &str) -> Result<Change> {
        let doing = format!("remove {volume} on {}", self.host.name());
        let mut change = Change::Unchanged;
        let near = self.near(volume).await?;
        if let Some(dataset) = self.there(volume).await? {
            let Some(mark) = dataset.mark.as_ref().filter(|mark| mark.run == run) else {
                return Err(Error::refused(doing, format!("{} is not of run {run}", dataset.name))
                    .help("move it away, if it is of no use any more"));
            };
            if mark.role == Role::Original {
                let lives_by = format!("{}@{run}", dataset.name);
                let is_clone = |one: &Dataset| {
                    one.origin.as_deref() == Some(&*lives_by) && one.mark.as_ref().is_some_and(|mark| mark.run == run)
                };
                let there = in_the_way(&*self.host, &dataset).await?;
                if let Some(other) = there.iter().find(|one| !is_clone(one)) {
                    let why =
                        format!("{} is within {}, or lives by it, and would go with it", other.name, dataset.name);
                    return Err(Error::refused(doing, why).help("move it away, or zfs promote it"));
                }
                for clone in &there {
                    self.zfs(&doing, &["promote", &clone.name]).await?;
                }
            }
            self.zfs(&doing, &["destroy", "-r", &dataset.name]).await?;
            change = Change::Removed;
        }
        Ok(match self.forget(near.as_ref(), run).await? {
            Change::Removed => Change::Removed,
            _ => change,
        })
    }

    async fn mark(&self, volume: &VolumeRef, mark: Option<&Mark>) -> Result<Change> {
        let doing = format!("mark {volume}");
        let dataset = self.needed(&doing, volume).await?;
        if dataset.mark.as_ref() == mark {
            return Ok(Change::Unchanged);
        }
        match mark {
            Some(mark) => self.zfs(&doing, &["set", &format!("{RUN}={mark}"), &dataset.name]).await?,
            None => self.zfs(&doing, &["inherit", RUN, &dataset.name]).await?,
        }
        Ok(Change::Changed)
    }

    async fn rename(&self, from: &VolumeRef, _to: &VolumeRef) -> Result<Change> {
        Err(Error::new(format!("rename {from}"), Cause::Unsupported("datasets keep their names".into())))
    }

    /// Those that are no run's own tree: that is known by the mark beside it, whatever it is made of.
    async fn marked(&self, directory: &Path) -> Result<Vec<(VolumeRef, Mark)>> {
        let place = VolumeRef { kind: VolumeKind::Zfs, path: directory.join("any") };
        let Some(near) = self.near(&place).await? else { return Ok(Vec::new()) };
        let all = list(&*self.host, pool(&near.name), "-r -t filesystem").await?;
        let here = all.into_iter().filter(|one| one.mountpoint.parent() == Some(directory));
        let one = |one: Dataset| Some((VolumeRef { kind: VolumeKind::Zfs, path: one.mountpoint }, one.mark?));
        Ok(here.filter_map(one).filter(|(volume, mark)| volume.path.file_name() != Some(mark.run.as_ref())).collect())
    }

    async fn open(&self, volume: &VolumeRef, _access: Access) -> Result<Opened> {
        let why = "its files are on another machine".to_owned();
        Err(Error::new(format!("open {volume}"), Cause::Unsupported(why)))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_others_left_out() {
        let text = "zroot/jails\t/usr/jails\t-\t98304\t1024\t-\nzroot/jails/a\t/usr/jails/a\tzroot/jails/web@a--k3f9\t1\t2\ta--k3f9.clone\n\
            odd\tline\nzroot/x\t/x\t-\tmany\t2\t-\n";
        let found = read(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].origin.as_deref(), &found[0].mark), (None, &None));
        let mark = Mark { run: "a--k3f9".into(), role: Role::Clone };
        assert_eq!((found[1].origin.as_deref(), &found[1].mark), (Some("zroot/jails/web@a--k3f9"), &Some(mark)));
    }

    #[test]
    fn a_copy_is_named_beside_its_source() {
        assert_eq!(
            beside("zroot/jails/web", Path::new("/usr/jails/web--k3f9-root")).unwrap(),
            "zroot/jails/web--k3f9-root"
        );
        for (source, target) in [("zroot", "/a"), ("zroot/web", "/"), ("zroot/web", "/a b"), ("zroot/web", "/a@b")] {
            assert!(beside(source, Path::new(target)).is_err(), "{source} {target}");
        }
        assert_eq!((pool("zroot/a/b"), pool("tank"), pool("tank@x")), ("zroot", "tank", "tank"));
    }

    #[test]
    fn scripts_survive_a_csh_login_shell() {
        assert!(!LIST.contains(['!', '\n']));
    }
}
