//! The tree of a container that a server's file systems go into, on this machine: made empty, and marked when it is whole; what the
//! server's files lose to be a container's; and at the end the tree kept for good.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::storage::Snapshot;
use hypervisors::{Change, Host, MacAddr, Mark, Role, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::files::{self, Expected, as_planned, recall};
use super::{Done, Manners, Probe, Step, StepError, World};
use crate::guest::{self, FileEdit, container};

/// A run's own directory beside its tree.
async fn forget(host: &dyn Host, scratch: &Path) -> Result<(), StepError> {
    let doing = format!("remove {}", scratch.display());
    let script = "rm -rf -- \"$1\" && { rmdir -- \"${1%/*}\" 2>/dev/null; exit 0; }";
    let command = Command::new(["sh", "-c", script, "sh", &scratch.to_string_lossy()]);
    host.run(&command).await?.checked(doing, &command)?;
    Ok(())
}

/// Makes the empty tree, and the run's directory; taken back, all that came into them goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeRoot {
    /// Inventory host.
    pub host: String,
    /// Run id.
    pub run: String,
    /// The tree.
    pub volume: VolumeRef,
    /// The run's directory.
    pub scratch: PathBuf,
}

fn mark(run: &str) -> Mark {
    Mark { run: run.to_owned(), role: Role::Clone }
}

#[async_trait]
impl Step for MakeRoot {
    fn title(&self) -> String {
        format!("make {}", self.volume)
    }
    fn undo_title(&self) -> String {
        "remove it".into()
    }
    fn taken_back(&self) -> String {
        format!("remove {}", self.volume)
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        let make: &[&str] = match self.volume.kind {
            hypervisors::VolumeKind::Btrfs => &["btrfs", "subvolume", "create"],
            _ => &["mkdir"],
        };
        let words = make.iter().map(|word| (*word).to_owned()).chain([self.volume.to_string()]);
        vec![manners.on(&self.host, words.collect())]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let storage = world.hypervisor(&self.host)?.storage(self.volume.kind)?;
        match storage.probe(&self.volume, &mark(&self.run)).await? {
            Snapshot::Absent => Ok(Probe::Absent),
            Snapshot::Partial => Ok(Probe::Partial),
            Snapshot::Present => Ok(Probe::Present),
            Snapshot::Foreign(what) => Err(StepError::failed(
                format!("{} is not of run {}: {what}", self.volume, self.run),
                "move it away, if it is of no use any more",
            )),
        }
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let change = hypervisor.storage(self.volume.kind)?.make(&self.volume, &mark(&self.run)).await?;
        let command = Command::new(["mkdir", "-p", "-m", "0700", &self.scratch.to_string_lossy()]);
        hypervisor.host().run(&command).await?.checked(format!("make {}", self.scratch.display()), &command)?;
        Ok(change.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let change = hypervisor.storage(self.volume.kind)?.remove(&self.volume, &self.run).await?;
        forget(&*hypervisor.host(), &self.scratch).await?;
        Ok(change.into())
    }
}

/// Marks the tree: what was copied into it is all there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeRoot {
    /// Inventory host.
    pub host: String,
    /// Run id.
    pub run: String,
    /// The tree.
    pub volume: VolumeRef,
}

#[async_trait]
impl Step for WholeRoot {
    fn title(&self) -> String {
        format!("mark {} as whole", self.volume)
    }
    fn undo_title(&self) -> String {
        "goes with the clone".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let storage = world.hypervisor(&self.host)?.storage(self.volume.kind)?;
        Ok(match storage.probe(&self.volume, &mark(&self.run)).await? {
            Snapshot::Present => Probe::Present,
            _ => Probe::Absent,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let storage = world.hypervisor(&self.host)?.storage(self.volume.kind)?;
        Ok(storage.whole(&self.volume, &mark(&self.run)).await?.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Takes out of the tree what only the server had: its devices, the hardware address of its card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contain {
    /// Inventory host.
    pub host: String,
    /// The tree.
    pub volume: VolumeRef,
    /// Hardware addresses that become others.
    pub macs: BTreeMap<String, MacAddr>,
    /// What the plan saw on the server.
    pub expected: Vec<Expected>,
    /// The diff, as the plan saw it.
    pub diff: String,
}

impl Contain {
    async fn edits(&self, world: &World) -> Result<Vec<FileEdit>, StepError> {
        Ok(container::plan(&files::open(world, &self.host, &self.volume).await?, &self.macs)?)
    }
}

#[async_trait]
impl Step for Contain {
    fn title(&self) -> String {
        format!("make the server's configuration a container's ({})", super::reduce::count(self.expected.len()))
    }
    fn undo_title(&self) -> String {
        "goes with the clone".into()
    }
    fn diff(&self) -> Option<String> {
        Some(self.diff.clone())
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        Ok(if self.edits(world).await?.is_empty() { Probe::Present } else { Probe::Absent })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let edits = self.edits(world).await?;
        as_planned(&edits, &self.expected)?;
        files::keep(world, &edits)
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let edits = recall(world, found)?;
        let changed = guest::apply(&files::open(world, &self.host, &self.volume).await?, &edits)?;
        let done = Done::new(if changed { Change::Changed } else { Change::Unchanged });
        Ok(done.with(json!({ "files": edits.iter().map(|edit| edit.path.clone()).collect::<Vec<_>>() })))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Keeps a tree for good: its mark goes, and the run's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepRoot {
    /// Inventory host.
    pub host: String,
    /// The tree.
    pub volume: VolumeRef,
    /// The run's directory.
    pub scratch: PathBuf,
}

#[async_trait]
impl Step for KeepRoot {
    fn title(&self) -> String {
        format!("keep {}", self.volume)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let facts = world.hypervisor(&self.host)?.storage(self.volume.kind)?.inspect(&self.volume).await?;
        Ok(if facts.is_some_and(|facts| facts.mark.is_some()) { Probe::Absent } else { Probe::Present })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let change = hypervisor.storage(self.volume.kind)?.mark(&self.volume, None).await?;
        forget(&*hypervisor.host(), &self.scratch).await?;
        Ok(change.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
