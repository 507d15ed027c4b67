//! What the lifecycle remembers of a run beside its plans: the `facts` column of the journal.

use std::path::PathBuf;

use hypervisors::{GuestLink, VolumeRef};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::address::Addressing;
use crate::inventory::{DiskRule, Strategy};

/// A disk of the guest and the clone's copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDisk {
    /// Name in the definition.
    pub name: String,
    /// Holds the root file system.
    pub root: bool,
    /// What became of it.
    pub rule: DiskRule,
    /// The original's volume.
    pub source: Option<VolumeRef>,
    /// The clone's.
    pub target: Option<VolumeRef>,
}

/// The last verification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// When.
    pub time: Timestamp,
    /// Nothing failed.
    pub passed: bool,
    /// `4 passed, 1 held, 1 later`.
    pub summary: String,
    /// On which side.
    pub promoted: bool,
}

/// Facts of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// Strategy.
    pub strategy: Strategy,
    /// Inventory host.
    pub host: String,
    /// SHA-256 of the original's definition as clone found it.
    pub definition: String,
    /// Disks.
    pub disks: Vec<RunDisk>,
    /// Addresses.
    pub addressing: Addressing,
    /// The way into the original, and into the promoted guest (which is the original to the world).
    pub original: GuestLink,
    /// The way into the clone.
    pub clone: GuestLink,
    /// Units switched off in the clone.
    pub quarantined: Vec<String>,
    /// The clone's network is fenced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fenced: bool,
    /// Hostname of the original.
    pub hostname: String,
    /// Code name of the release the original runs (`bookworm`; empty if it has none).
    pub codename: String,
    /// Run's directory.
    pub run_dir: PathBuf,
    /// The last verification.
    #[serde(default)]
    pub verification: Option<Verification>,
    /// Promoted with failing checks.
    #[serde(default)]
    pub unproven: Option<String>,
    /// Seconds from start to reachable, as measured on the clone.
    #[serde(default)]
    pub boot_s: Option<f64>,
}

impl RunFacts {
    /// The root's volumes: original and clone.
    pub fn root(&self) -> Option<(&VolumeRef, &VolumeRef)> {
        let disk = self.disks.iter().find(|disk| disk.root)?;
        Some((disk.source.as_ref()?, disk.target.as_ref()?))
    }

    /// Copied disks: original's volume and clone's.
    pub fn copies(&self) -> impl Iterator<Item = (&RunDisk, &VolumeRef, &VolumeRef)> {
        self.disks.iter().filter_map(|disk| Some((disk, disk.source.as_ref()?, disk.target.as_ref()?)))
    }

    /// Volumes of detached data.
    pub fn detached(&self) -> impl Iterator<Item = (&RunDisk, &VolumeRef)> {
        self.disks
            .iter()
            .filter(|disk| disk.rule == DiskRule::Detach)
            .filter_map(|disk| Some((disk, disk.source.as_ref()?)))
    }
}
