//! Volumes: what a disk's bytes stand on, and what can be done with them (snapshot, open, remove, mark).

mod btrfs;
mod directory;
mod marked;

pub use btrfs::BtrfsStorage;
pub use directory::DirectoryStorage;
pub use marked::detect;

use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Change, Result};

/// Kinds of volume, each with its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeKind {
    /// A btrfs subvolume, with the subvolumes nested in it.
    Btrfs,
    /// A plain directory: copied (reflinked where the file system can), which takes its guest's pause.
    Directory,
    /// A volume of the simulated world.
    Sim,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
}

/// A driver for one kind of volume on one host.
#[async_trait]
pub trait Storage: Send + Sync + fmt::Debug {
    /// The kind it drives.
    fn kind(&self) -> VolumeKind;
    /// Looks at a volume; `None` if there is none.
    async fn inspect(&self, volume: &VolumeRef) -> Result<Option<VolumeFacts>>;
    /// Makes `target` a writable copy of `source` as it is now, nested volumes included, marked. The mark is set
    /// last: an unmarked or half-made target is [`Snapshot::Partial`] and is removed and made again. A target
    /// with another mark is refused. The caller pauses the guest if needed.
    async fn snapshot(&self, source: &VolumeRef, target: &VolumeRef, mark: &Mark) -> Result<Change>;
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
    async fn exchange(&self, volume: &VolumeRef, saved: &VolumeRef, mark: &Mark) -> Result<Change>;
    /// Every marked volume in a directory (not deeper).
    async fn marked(&self, directory: &Path) -> Result<Vec<(VolumeRef, Mark)>>;
    /// A directory of this machine beneath which the volume's files are, for reading and writing while no guest
    /// runs on it (for containers also while one does).
    async fn open(&self, volume: &VolumeRef) -> Result<PathBuf>;
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
