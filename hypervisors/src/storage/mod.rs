//! Volumes: what a disk's bytes stand on, and what can be done with them (snapshot, open, remove, mark).

pub(crate) mod btrfs;
mod directory;
pub mod disk;
pub mod lvm;
mod marked;
mod mount;
mod parts;
mod readonly;
mod shown;
pub mod zfs;

pub use btrfs::BtrfsStorage;
pub use directory::DirectoryStorage;
pub use lvm::{LvmStorage, look_anew, one_look};
pub use marked::{detect, fresh};
pub use mount::{Access, Opened, open_device};
pub use shown::{Place, Shown};
pub use zfs::ZfsStorage;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Cause, Change, Disk, DiskSource, Error, Host, Result};

/// Kinds of volume, each with its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeKind {
    /// A btrfs subvolume, with the subvolumes nested in it.
    Btrfs,
    /// A plain directory: copied (reflinked where the file system can), which takes its guest's pause.
    Directory,
    /// A logical volume whose snapshots are thick: they have an area of their own that can fill, and merging one takes time.
    LvmThick,
    /// A logical volume in a thin pool: origin and snapshot are peers, the pool can fill, and merging is a swap.
    LvmThin,
    /// A ZFS file system (FreeBSD): a copy is a clone of a snapshot.
    Zfs,
    /// A volume of the simulated world.
    Sim,
}

impl VolumeKind {
    /// Whether a volume's files can be read and written from outside while a guest runs on it: trees can, devices cannot.
    pub fn opens_under_a_guest(self) -> bool {
        !matches!(self, VolumeKind::LvmThick | VolumeKind::LvmThin)
    }
}

/// A volume: its kind and its absolute path on its host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VolumeRef {
    /// What it is.
    pub kind: VolumeKind,
    /// Where it is (absolute, without `..`).
    pub path: PathBuf,
}

impl fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// What an object is for; `gc` decides by it. Serialized as its lower-case name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Belongs to the clone; goes when the run is aborted.
    Clone,
    /// Production stands on it; never removed by `gc`.
    Production,
    /// The original, kept until commit.
    Original,
    /// A snapshot of detached data, taken at promotion.
    Detached,
    /// Detached data as it was before it was restored from such a snapshot: to be removed.
    Displaced,
}

impl Role {
    /// The word in marks.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Clone => "clone",
            Role::Production => "production",
            Role::Original => "original",
            Role::Detached => "detached",
            Role::Displaced => "displaced",
        }
    }
}

/// The ownership mark on an object: which run made it, and its role. Nothing unmarked is ever removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Run id, `mercure--k3f9`.
    pub run: String,
    /// Its role.
    pub role: Role,
}

impl fmt::Display for Mark {
    /// `RUNID.ROLE`, the form in xattrs and tags.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.run, self.role.as_str())
    }
}

impl std::str::FromStr for Mark {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (run, role) = text.rsplit_once('.').ok_or_else(|| format!("{text:?} is not RUNID.ROLE"))?;
        let role = match role {
            "clone" => Role::Clone,
            "production" => Role::Production,
            "original" => Role::Original,
            "detached" => Role::Detached,
            "displaced" => Role::Displaced,
            other => return Err(format!("{other:?} is not a role")),
        };
        Ok(Mark { run: run.to_owned(), role })
    }
}

/// What a driver sees of a volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeFacts {
    /// Bytes in use, as far as that is cheap to know (a directory: `None`).
    pub used_bytes: Option<u64>,
    /// Bytes that can still be written where it lies.
    pub free_bytes: u64,
    /// Bytes that a snapshot needs at once (0 for copy-on-write, the used space for a plain copy).
    pub snapshot_bytes: u64,
    /// How long a snapshot of it keeps the guest paused, estimated, in seconds.
    pub pause_s: f64,
    /// Volumes nested in it, relative to its path (they are snapshotted and removed with it).
    pub nested: Vec<PathBuf>,
    /// Fill level of the snapshot or its pool in percent, where filling up is a danger.
    pub fill_percent: Option<f64>,
    /// Its mark.
    pub mark: Option<Mark>,
    /// What is known of a block volume beyond that; `None` for other kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockFacts>,
}

/// What is known of a block volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockFacts {
    /// Its UUID on the host, which it keeps when it is renamed.
    pub id: String,
    /// Its size as its user sees it (a snapshot: that of its origin).
    pub size_bytes: u64,
    /// Something on its host has it open; `None` if that cannot be told.
    pub open: Option<bool>,
    /// Name of the volume it is a snapshot of.
    pub origin: Option<String>,
    /// Names of its snapshots.
    pub snapshots: Vec<String>,
    /// Why it is lost, if it is: a snapshot that filled up.
    pub lost: Option<String>,
    /// Why production should not stand on it as it is, if so: a snapshot that can fill, or would not come up with its host.
    pub unfit: Option<String>,
    /// A snapshot is being merged into it.
    pub merge: Option<Merge>,
    /// Bytes of its own copy-on-write area, of which [`VolumeFacts::fill_percent`] is a share; `None` if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area_bytes: Option<u64>,
}

/// How a merge of a snapshot into its origin stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// Decided, and not begun: it waits until both volumes are closed and something begins it.
    Waiting,
    /// Under way. The origin shows the snapshot's content already.
    Draining {
        /// Share of the snapshot's area that is still to be copied, in percent.
        left_percent: f64,
    },
}

/// How large the copy-on-write area of a snapshot shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SizePolicy {
    /// So large that it cannot fill.
    Covering,
    /// This many bytes.
    Bytes(u64),
    /// Percent of the origin's size.
    PercentOrigin(u16),
    /// Percent of what is in use in the origin's file system.
    PercentUsed(u16),
}

/// The size a snapshot is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CowSize {
    /// The driver's own maximum, with which it cannot fill.
    Covering,
    /// This many bytes, rounded up to what the driver can make.
    Bytes(u64),
}

/// A size that was chosen by a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizedSnapshot {
    /// What is asked of the driver.
    pub size: CowSize,
    /// Bytes it takes.
    pub bytes: u64,
    /// Bytes that covering takes: what promotion will need.
    pub covering_bytes: u64,
    /// The choice explained, for the plan.
    pub why: String,
}

/// One volume of a set, and the copy to be made of it.
#[derive(Clone, Copy, Debug)]
pub struct CopyRequest<'a> {
    /// What is copied.
    pub source: &'a VolumeRef,
    /// The copy.
    pub target: &'a VolumeRef,
    /// Size of its copy-on-write area, for kinds that have one; `None`: covering.
    pub size: Option<CowSize>,
}

/// How the copies of a kind of volume stand to what they were made of. The lifecycle decides by this, never by a kind's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Copies {
    /// Trees of their own: either can go, none is ever merged, and a guest that runs on one cannot be moved to another name.
    #[default]
    Trees,
    /// Peers in a pool: either can go, either can be renamed while it is open, and a merge is a swap.
    Peers,
    /// A copy lives by its origin and goes with it, has an area of its own that can fill, and becomes the origin only by a
    /// merge that takes time.
    Dependents,
}

/// A driver for one kind of volume on one host.
#[async_trait]
pub trait Storage: Send + Sync + fmt::Debug {
    /// The kind it drives.
    fn kind(&self) -> VolumeKind;
    /// How its copies stand to their sources.
    fn copies(&self) -> Copies {
        Copies::Trees
    }
    /// Looks at a volume; `None` if there is none.
    async fn inspect(&self, volume: &VolumeRef) -> Result<Option<VolumeFacts>>;
    /// Makes `target` a writable copy of `source` as it is now, nested volumes included, marked. The mark is set
    /// last: an unmarked or half-made target is [`Snapshot::Partial`] and is removed and made again. A target
    /// with another mark is refused. The caller pauses the guest if needed.
    async fn snapshot(&self, source: &VolumeRef, target: &VolumeRef, mark: &Mark) -> Result<Change>;
    /// Makes an empty volume of this run, for content that comes from elsewhere; until [`Storage::whole`] it is
    /// [`Snapshot::Partial`]. One that was begun stays as it is, with what is in it.
    async fn make(&self, volume: &VolumeRef, _mark: &Mark) -> Result<Change> {
        let why = format!("{:?} volumes are not made empty", self.kind());
        Err(Error::new(format!("make {volume}"), Cause::Unsupported(why)))
    }
    /// The content of a volume that was made is there: it is marked.
    async fn whole(&self, volume: &VolumeRef, _mark: &Mark) -> Result<Change> {
        let why = format!("{:?} volumes are not made empty", self.kind());
        Err(Error::new(format!("mark {volume}"), Cause::Unsupported(why)))
    }
    /// How a snapshot stands.
    async fn probe(&self, target: &VolumeRef, mark: &Mark) -> Result<Snapshot>;
    /// Removes a volume and what is nested in it. Refuses one whose mark is not of this run (or, for `partial`
    /// leftovers of [`Storage::snapshot`], one without that attempt's own intent mark).
    async fn remove(&self, volume: &VolumeRef, run: &str) -> Result<Change>;
    /// Sets or (with `None`) removes the mark on an existing volume.
    async fn mark(&self, volume: &VolumeRef, mark: Option<&Mark>) -> Result<Change>;
    /// Renames a volume on the same file system.
    async fn rename(&self, from: &VolumeRef, to: &VolumeRef) -> Result<Change>;
    /// Lets two volumes of one file system, with all that is nested in them, exchange their names at one instant: there is
    /// a whole volume under either name at any time. Told by a mark, so that it can be repeated: the volume that bears
    /// `mark` is at `saved` before and at `volume` afterwards. Nothing may run on either.
    async fn exchange(&self, volume: &VolumeRef, saved: &VolumeRef, _mark: &Mark) -> Result<Change> {
        let why = format!("{:?} volumes cannot exchange their names", self.kind());
        Err(Error::new(format!("exchange {volume} and {saved}"), Cause::Unsupported(why)))
    }
    /// Every marked volume in a directory (not deeper).
    async fn marked(&self, directory: &Path) -> Result<Vec<(VolumeRef, Mark)>>;
    /// What lies on a block volume: a file system, or partitions; `None` for kinds that are trees of files.
    async fn layout(&self, _volume: &VolumeRef) -> Result<Option<disk::Layout>> {
        Ok(None)
    }
    /// The volume's files, beneath a directory of this machine, for as long as the result lives. A disk with partitions: the
    /// guest's root, with those of its partitions that its fstab mounts.
    async fn open(&self, volume: &VolumeRef, access: Access) -> Result<Opened>;

    /// Makes copies of a set of volumes in the shortest time the kind allows: the guest is frozen meanwhile. Every target was
    /// probed and is absent. After a failure some may have been made: they are probed, and removed or kept, one by one.
    async fn snapshot_set(&self, copies: &[CopyRequest<'_>], mark: &Mark) -> Result<Change> {
        for copy in copies {
            self.snapshot(copy.source, copy.target, mark).await?;
        }
        Ok(Change::Created)
    }
    /// Chooses the size of a snapshot's own area; `None` for kinds whose snapshots have none.
    async fn size_snapshot(&self, _source: &VolumeRef, _policy: Option<SizePolicy>) -> Result<Option<SizedSnapshot>> {
        Ok(None)
    }
    /// Removes several volumes of a run. See [`Storage::remove`].
    async fn remove_all(&self, volumes: &[&VolumeRef], run: &str) -> Result<Change> {
        let mut change = Change::Unchanged;
        for volume in volumes {
            if self.remove(volume, run).await? != Change::Unchanged {
                change = Change::Removed;
            }
        }
        Ok(change)
    }
    /// Makes a snapshot of this run such that production can stand on it: it cannot fill, and comes up with its host. Cannot
    /// be taken back, nor need it be. For kinds whose copies are so from the beginning there is nothing to do.
    async fn secure(&self, volume: &VolumeRef, run: &str) -> Result<Change> {
        match self.inspect(volume).await? {
            Some(facts) if facts.mark.as_ref().is_some_and(|mark| mark.run == run) => Ok(Change::Unchanged),
            Some(_) => Err(Error::refused(format!("secure {volume}"), format!("it is not of run {run}"))),
            None => Err(Error::not_found(format!("secure {volume}"), "it does not exist")),
        }
    }
    /// Grows the copy-on-write area of a snapshot of this run while it is in use: by [`CowSize::Bytes`] (rounded up to what the
    /// driver can make), or as far as covering, and never beyond that. One that cannot fill stays as it is. Done twice it
    /// grows twice: who does not know whether it was done looks at [`BlockFacts::area_bytes`].
    async fn extend(&self, volume: &VolumeRef, _by: CowSize, run: &str) -> Result<Change> {
        let why = format!("{:?} volumes have no area of their own that could be grown", self.kind());
        Err(Error::new(format!("grow {volume} (run {run})"), Cause::Unsupported(why)))
    }
    /// Merges snapshots of this run into their origins, which then show the snapshots' content; the snapshots go. Nothing may
    /// have any of them open: a merge that would only begin later is refused, and one that waits is begun. Irreversible
    /// from its beginning. Returns once all have begun; [`BlockFacts::merge`] of the origins tells when they have drained.
    /// An origin is named with its snapshot, because the latter is gone when this is repeated.
    async fn merge(&self, merges: &[(&VolumeRef, &VolumeRef)], run: &str) -> Result<Change> {
        let names: Vec<String> = merges.iter().map(|(snapshot, _)| snapshot.to_string()).collect();
        let why = format!("{:?} volumes cannot be merged", self.kind());
        Err(Error::new(format!("merge {} (run {run})", names.join(", ")), Cause::Unsupported(why)))
    }
    /// Makes an empty swap volume of the size of `like`, with the label and UUID of the swap space there, marked.
    async fn fresh_swap(&self, like: &VolumeRef, target: &VolumeRef, mark: &Mark) -> Result<Change> {
        let why = format!("{:?} volumes cannot be swap space", self.kind());
        Err(Error::new(format!("make {target} (swap like {like}, {mark})"), Cause::Unsupported(why)))
    }
    /// How a fresh swap volume stands.
    async fn probe_swap(&self, target: &VolumeRef, mark: &Mark) -> Result<Snapshot> {
        self.probe(target, mark).await
    }
}

/// The volume behind a disk, recognised by looking at it.
///
/// # Errors
/// It is of a kind that there is no driver for, or lies on another machine.
pub(crate) async fn behind(host: &dyn Host, disk: &Disk) -> Result<VolumeRef> {
    let doing = format!("recognise the volume of {}", disk.name);
    let (what, path) = match &disk.source {
        DiskSource::Directory(path) if host.is_local() => {
            let path = path.clone();
            return crate::host::blocking(doing, move |_| detect(&path).map(|kind| VolumeRef { kind, path })).await;
        }
        DiskSource::Directory(path) => ("a directory of another machine", path.display().to_string()),
        DiskSource::Block(path) => return lvm::recognise(host, path).await,
        DiskSource::File(path) => ("an image file", path.display().to_string()),
        DiskSource::Other(words) => ("a source of another kind", words.clone()),
    };
    let why = format!("it is {what} ({}), which this version cannot clone", crate::host::printable(&path));
    Err(Error::new(doing, Cause::Unsupported(why))
        .help(format!("detach it from the clone in the inventory: disks = {{ {:?} = \"detach\" }}", disk.name)))
}

/// The driver for a kind of volume, of those a host has.
///
/// # Errors
/// It has none.
pub(crate) fn driver(drivers: &[Arc<dyn Storage>], kind: VolumeKind, host: &dyn Host) -> Result<Arc<dyn Storage>> {
    drivers.iter().find(|storage| storage.kind() == kind).map(Arc::clone).ok_or_else(|| {
        let why = format!("this host has no driver for {kind:?} volumes");
        Error::new(format!("reach the volumes of {}", host.name()), Cause::Unsupported(why))
    })
}

/// How a snapshot stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// Nothing there.
    Absent,
    /// Begun by this run and not finished.
    Partial,
    /// There, whole, with this run's mark.
    Present,
    /// Something is there that this run did not make.
    Foreign(String),
}
