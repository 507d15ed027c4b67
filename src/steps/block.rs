//! Steps on volumes that can fill and be merged: made fit for production, merged into their origins, drained; and fresh swap.
//!
//! Merging is begun by one step and waited for by another: production starts on the origin as soon as it has begun.

use std::time::Duration;

use async_trait::async_trait;
use hypervisors::storage::{BlockFacts, Merge as Merging, Snapshot as Found};
use hypervisors::{Change, Mark, Role, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::storage::{Pair, remove};
use super::{Done, Probe, Step, StepError, World};

/// How often a drain is looked at. Each look is an LVM command on a group that is busy anyway.
const LOOK: Duration = Duration::from_secs(5);
/// How often one that is nearly over is.
const LOOK_SOON: Duration = Duration::from_secs(1);

async fn facts(world: &World, host: &str, volume: &VolumeRef) -> Result<Option<BlockFacts>, StepError> {
    let storage = world.hypervisor(host)?.storage(volume.kind)?;
    Ok(storage.inspect(volume).await?.and_then(|facts| facts.block))
}

fn name(volume: &VolumeRef) -> String {
    volume.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Makes snapshots such that production can stand on them: they cannot fill, and come up with their host. Taking it back
/// changes nothing: larger than needed does no harm, and the space goes with the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grow {
    /// Inventory host.
    pub host: String,
    /// The snapshots.
    pub volumes: Vec<VolumeRef>,
}

#[async_trait]
impl Step for Grow {
    fn title(&self) -> String {
        let names: Vec<String> = self.volumes.iter().map(name).collect();
        format!("grow {} so that it cannot fill", names.join(", "))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self) -> Vec<Vec<String>> {
        self.volumes.iter().filter_map(hypervisors::storage::lvm::secure_argv).collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        for volume in &self.volumes {
            let Some(facts) = facts(world, &self.host, volume).await? else { continue };
            if let Some(lost) = facts.lost {
                return Err(StepError::failed(
                    format!("{volume}: {lost}"),
                    "the clone is lost with it: abort the run, and clone anew with a larger snapshot",
                ));
            }
            if facts.unfit.is_some() {
                return Ok(Probe::Absent);
            }
        }
        Ok(Probe::Present)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let mut change = Change::Unchanged;
        for volume in &self.volumes {
            let storage = world.hypervisor(&self.host)?.storage(volume.kind)?;
            if storage.secure(volume, &world.run).await? != Change::Unchanged {
                change = Change::Changed;
            }
        }
        Ok(change.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Makes a swap volume with the size, label and UUID of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshSwap {
    /// Inventory host.
    pub host: String,
    /// The swap volume it is made after, and the new one.
    pub swap: Pair,
    /// Role of the new one.
    pub role: Role,
}

#[async_trait]
impl Step for FreshSwap {
    fn title(&self) -> String {
        format!("make swap space {} like {}", name(&self.swap.target), self.swap.source)
    }
    fn undo_title(&self) -> String {
        "remove it".into()
    }
    fn taken_back(&self) -> String {
        format!("remove {}", self.swap.target)
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let mark = Mark { run: world.run.clone(), role: self.role };
        let target = &self.swap.target;
        match world.hypervisor(&self.host)?.storage(target.kind)?.probe_swap(target, &mark).await? {
            Found::Absent => Ok(Probe::Absent),
            Found::Partial => Ok(Probe::Partial),
            Found::Present => Ok(Probe::Present),
            Found::Foreign(what) => Err(StepError::failed(
                format!("{target} exists and is not of this run: {what}"),
                "move it away, or discard the run it belongs to",
            )),
        }
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let mark = Mark { run: world.run.clone(), role: self.role };
        let Pair { source, target, .. } = &self.swap;
        let storage = world.hypervisor(&self.host)?.storage(target.kind)?;
        Ok(storage.fresh_swap(source, target, &mark).await?.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        remove(world, &self.host, [&self.swap.target].into_iter()).await
    }
}

/// Begins merging snapshots into their origins, which show the snapshots' content from then on. Irreversible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    /// Inventory host.
    pub host: String,
    /// The origins (`source`) and the snapshots that go into them (`target`).
    pub merges: Vec<Pair>,
}

#[async_trait]
impl Step for Merge {
    fn title(&self) -> String {
        let words: Vec<String> =
            self.merges.iter().map(|pair| format!("{} into {}", name(&pair.target), pair.source)).collect();
        format!("merge {}", words.join(", "))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self) -> Vec<Vec<String>> {
        let targets: Vec<&VolumeRef> = self.merges.iter().map(|pair| &pair.target).collect();
        hypervisors::storage::lvm::merge_argv(&targets).into_iter().collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let mut begun = 0;
        let mut waits = false;
        for Pair { source, target, .. } in &self.merges {
            let Some(origin) = facts(world, &self.host, source).await? else {
                return Err(StepError::failed(
                    format!("{source} does not exist, so nothing can be merged into it"),
                    "look at the host's storage",
                ));
            };
            match origin.merge {
                Some(Merging::Draining { .. }) => begun += 1,
                Some(Merging::Waiting) => waits = true,
                // A snapshot that has been merged is gone. That it was there is in the journal: see `capture`.
                None if facts(world, &self.host, target).await?.is_none() => begun += 1,
                None => {}
            }
        }
        Ok(match begun {
            n if n == self.merges.len() => Probe::Present,
            0 if !waits => Probe::Absent,
            _ => Probe::Partial,
        })
    }
    /// UUIDs on both sides; refused where there is nothing to merge, which would otherwise look as if it were done.
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let mut ids = Vec::new();
        for Pair { source, target, .. } in &self.merges {
            let (origin, snapshot) = (facts(world, &self.host, source).await?, facts(world, &self.host, target).await?);
            match (origin, snapshot) {
                (Some(origin), Some(snapshot)) => ids.push(json!({ "origin": origin.id, "snapshot": snapshot.id })),
                (Some(origin), None) if origin.merge.is_some() => ids.push(json!({ "origin": origin.id })),
                _ => {
                    return Err(StepError::failed(
                        format!("{target} or {source} does not exist any more"),
                        "look at the host's storage; nothing was merged by this run",
                    ));
                }
            }
        }
        Ok(json!({ "ids": ids }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let mut change = Change::Unchanged;
        let mut kinds: Vec<_> = self.merges.iter().map(|pair| pair.target.kind).collect();
        kinds.sort();
        kinds.dedup();
        for kind in kinds {
            let merges: Vec<(&VolumeRef, &VolumeRef)> = self
                .merges
                .iter()
                .filter(|pair| pair.target.kind == kind)
                .map(|pair| (&pair.target, &pair.source))
                .collect();
            let storage = world.hypervisor(&self.host)?.storage(kind)?;
            if storage.merge(&merges, &world.run).await? != Change::Unchanged {
                change = Change::Changed;
            }
        }
        Ok(change.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Waits until what is merged into volumes has been copied. Whoever stands on them works on meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Inventory host.
    pub host: String,
    /// The origins.
    pub volumes: Vec<VolumeRef>,
}

impl Drain {
    /// What is left to copy, in percent of the fullest; `None` if nothing is.
    async fn left(&self, world: &World) -> Result<Option<f64>, StepError> {
        let mut left: Option<f64> = None;
        for volume in &self.volumes {
            match facts(world, &self.host, volume).await?.and_then(|facts| facts.merge) {
                None => {}
                Some(Merging::Draining { left_percent }) => left = Some(left.unwrap_or(0.0).max(left_percent)),
                Some(Merging::Waiting) => {
                    return Err(StepError::failed(
                        format!("the merge into {volume} waits and does not begin"),
                        "retry the step before this one, with both volumes closed",
                    ));
                }
            }
        }
        Ok(left)
    }
}

#[async_trait]
impl Step for Drain {
    fn title(&self) -> String {
        let names: Vec<String> = self.volumes.iter().map(ToString::to_string).collect();
        format!("wait until {} has drained", names.join(", "))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        Ok(if self.left(world).await?.is_none() { Probe::Present } else { Probe::Absent })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let mut first: Option<f64> = None;
        while let Some(left) = self.left(world).await? {
            let begun = *first.get_or_insert(left);
            let done = if begun > 0.0 { 1.0 - left / begun } else { 1.0 };
            world.progress(format!("draining, {left:.1} % left"), Some(done.clamp(0.0, 1.0)));
            tokio::time::sleep(if left > 1.0 { LOOK } else { LOOK_SOON }).await;
        }
        Ok(Change::Changed.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
