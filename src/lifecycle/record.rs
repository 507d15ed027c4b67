//! What the lifecycle remembers of a run beside its plans: the `facts` column of the journal.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hypervisors::storage::Copies;
use hypervisors::{GuestLink, VolumeRef};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::address::Addressing;
use super::error::{Failure, exit};
use super::machine::Machine;
use super::state::State;
use super::transfer::Transfer;
use crate::engine::{Plan, PlanStep, outages};
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
    /// The volume the original had when it was cloned.
    pub source: Option<VolumeRef>,
    /// The one `clone` made: a copy of it, or fresh swap space.
    pub target: Option<VolumeRef>,
    /// The path by which definitions name the original's volume, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_there: Option<PathBuf>,
    /// The path by which other hosts see the one `clone` made, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_there: Option<PathBuf>,
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
    /// How the copies stand to what they were made of.
    #[serde(default)]
    pub copying: Copies,
    /// Inventory host that holds the volumes.
    pub host: String,
    /// Inventory host that defines and runs production, if it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub production_on: Option<String>,
    /// Inventory host that defines and runs the clone, if it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_on: Option<String>,
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
    /// What a run by strategy `transfer` remembers beside that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Box<Transfer>>,
    /// What a run on a guest itself, of which nothing can be opened, remembers beside that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Box<Machine>>,
}

impl RunFacts {
    /// A plan of a verb on this run, which it leaves open and which takes nothing back. The states are those while it runs,
    /// when all is done, and when it was undone or ended in failure.
    pub fn plan(&self, verb: &str, [during, done, failed]: [State; 3], steps: Vec<PlanStep>) -> Plan {
        let guest = &self.original.name;
        Plan {
            format: 1,
            run: self.clone.name.clone(),
            guest: guest.clone(),
            verb: verb.into(),
            approved_as: None,
            strategy: super::strategy_word(self.strategy).into(),
            during: during.word().into(),
            done: done.word().into(),
            failed: failed.word().into(),
            closes: false,
            failure_closes: false,
            undoes: None,
            outages: outages(&steps, guest),
            steps,
        }
    }

    /// What a run by strategy `transfer` remembers.
    ///
    /// # Errors
    /// It is of another strategy.
    pub fn transferred(&self) -> Result<&Transfer, Failure> {
        self.transfer.as_deref().ok_or_else(|| {
            Failure::new(exit::JOURNAL, format!("read {}", self.clone.name))
                .cause("nothing is remembered of its transfer")
        })
    }

    /// What a run on a guest itself remembers.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn of_machine(&self) -> Result<&Machine, Failure> {
        self.machine.as_deref().ok_or_else(|| {
            Failure::new(exit::JOURNAL, format!("read {}", self.clone.name))
                .cause("nothing is remembered of its kernel")
        })
    }

    /// The host that defines and runs production: the original before promotion, the promoted guest after it.
    pub fn production_host(&self) -> &str {
        self.production_on.as_deref().unwrap_or(&self.host)
    }

    /// The host that defines and runs the clone.
    pub fn clone_host(&self) -> &str {
        self.clone_on.as_deref().unwrap_or(&self.host)
    }

    /// The paths by which definitions on a host name volumes that have another one where they lie.
    pub fn paths_on(&self, host: &str) -> BTreeMap<PathBuf, PathBuf> {
        let path =
            |volume: &Option<VolumeRef>, there: &Option<PathBuf>| Some((volume.as_ref()?.path.clone(), there.clone()?));
        let sources = self.disks.iter().filter_map(|disk| path(&disk.source, &disk.source_there));
        let elsewhere = self.disks.iter().filter(|_| host != self.host);
        sources.chain(elsewhere.filter_map(|disk| path(&disk.target, &disk.target_there))).collect()
    }

    /// The root's volumes: the one production stands on before promotion, and the clone's.
    pub fn root(&self) -> Option<(&VolumeRef, &VolumeRef)> {
        self.sides().find(|(disk, ..)| disk.root).map(|(_, production, clone)| (production, clone))
    }

    /// Disks of which there are two volumes, with the one production stands on before promotion and the clone's: copied
    /// ones and swap space. By strategy `origin` production moved to the copy.
    pub fn sides(&self) -> impl Iterator<Item = (&RunDisk, &VolumeRef, &VolumeRef)> {
        self.disks.iter().filter_map(|disk| {
            let (source, target) = (disk.source.as_ref()?, disk.target.as_ref()?);
            Some(if self.strategy == Strategy::Origin { (disk, target, source) } else { (disk, source, target) })
        })
    }

    /// Copied disks: the original's volume, and the copy that `clone` made of it.
    pub fn copies(&self) -> impl Iterator<Item = (&RunDisk, &VolumeRef, &VolumeRef)> {
        self.made(DiskRule::Clone)
    }

    /// Swap disks: the original's volume, and the fresh one that `clone` made.
    pub fn swaps(&self) -> impl Iterator<Item = (&RunDisk, &VolumeRef, &VolumeRef)> {
        self.made(DiskRule::Swap)
    }

    fn made(&self, rule: DiskRule) -> impl Iterator<Item = (&RunDisk, &VolumeRef, &VolumeRef)> {
        let of_rule = self.disks.iter().filter(move |disk| disk.rule == rule);
        of_rule.filter_map(|disk| Some((disk, disk.source.as_ref()?, disk.target.as_ref()?)))
    }

    /// Volumes of detached data.
    pub fn detached(&self) -> impl Iterator<Item = (&RunDisk, &VolumeRef)> {
        self.disks
            .iter()
            .filter(|disk| disk.rule == DiskRule::Detach)
            .filter_map(|disk| Some((disk, disk.source.as_ref()?)))
    }
}
