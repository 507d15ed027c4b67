//! Steps on block volumes beyond copies: fresh swap space, snapshots made fit for production, snapshots merged into what they
//! were made of.

use std::time::Duration;

use async_trait::async_trait;
use hypervisors::storage::{Merge as MergeState, Snapshot as Found};
use hypervisors::{Change, Mark, Role, VolumeKind, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shown::lv;
use super::storage::{Pair, file_name, listed};
use super::{Done, Probe, Step, StepError, World};

/// How often a merge that drains is looked at.
const LOOK: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 2 });

/// Makes empty swap space of the size, label and UUID of an existing one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshSwap {
    /// Inventory host.
    pub host: String,
    /// The swap volume it is like.
    pub like: VolumeRef,
    /// The new one.
    pub target: VolumeRef,
    /// What it is for.
    pub role: Role,
}

impl FreshSwap {
    fn mark(&self, world: &World) -> Mark {
        Mark { run: world.run.clone(), role: self.role }
    }
}

#[async_trait]
impl Step for FreshSwap {
    fn title(&self) -> String {
        format!("create swap {}", self.target)
    }
    fn undo_title(&self) -> String {
        "remove it".into()
    }
    fn taken_back(&self) -> String {
        format!("remove {}", self.target)
    }
    fn commands(&self, _manners: &super::Manners) -> Vec<Vec<String>> {
        let name = file_name(&self.target);
        let group = lv(&self.target).split('/').next().unwrap_or_default().to_owned();
        vec![
            ["lvcreate", "--name", &name, "--size", "(as the original's)", &group].map(str::to_owned).to_vec(),
            ["mkswap", "--label", "(kept)", "--uuid", "(kept)", &self.target.to_string()].map(str::to_owned).to_vec(),
        ]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let storage = world.hypervisor(&self.host)?.storage(self.target.kind)?;
        match storage.probe_swap(&self.target, &self.mark(world)).await? {
            Found::Absent => Ok(Probe::Absent),
            Found::Partial => Ok(Probe::Partial),
            Found::Present => Ok(Probe::Present),
            Found::Foreign(what) => Err(StepError::failed(
                format!("{} exists and is not of this run: {what}", self.target),
                "move it away, or discard the run it belongs to",
            )),
        }
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let storage = world.hypervisor(&self.host)?.storage(self.target.kind)?;
        Ok(storage.fresh_swap(&self.like, &self.target, &self.mark(world)).await?.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        super::storage::remove(world, &self.host, std::iter::once(&self.target)).await
    }
}

/// Makes snapshots of this run fit for production to stand on: they can no longer fill, and come up with their host.
/// There is nothing to take back: a larger snapshot is only larger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secure {
    /// Inventory host.
    pub host: String,
    /// The snapshots.
    pub volumes: Vec<VolumeRef>,
}

#[async_trait]
impl Step for Secure {
    fn title(&self) -> String {
        format!("make {} so large that it cannot fill", listed(&self.volumes))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &super::Manners) -> Vec<Vec<String>> {
        let grow = |volume: &VolumeRef| match volume.kind {
            VolumeKind::LvmThin => ["lvchange", "--setactivationskip", "n", &lv(volume)].map(str::to_owned).to_vec(),
            _ => ["lvextend", "--extents", "200%ORIGIN", &lv(volume)].map(str::to_owned).to_vec(),
        };
        self.volumes.iter().map(grow).collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        for volume in &self.volumes {
            let storage = world.hypervisor(&self.host)?.storage(volume.kind)?;
            let Some(facts) = storage.inspect(volume).await? else {
                return Err(StepError::failed(format!("{volume} does not exist"), "look at the host's storage"));
            };
            if let Some(why) = facts.block.as_ref().and_then(|block| block.lost.clone()) {
                return Err(StepError::failed(
                    format!("{volume} is lost: {why}"),
                    "abort the run; production never stood on it",
                ));
            }
            if facts.block.is_some_and(|block| block.unfit.is_some()) {
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

/// Proves that nothing on the host has volumes open: a merge would wait for whoever has, until the next boot of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveClosed {
    /// Inventory host.
    pub host: String,
    /// Which volumes.
    pub volumes: Vec<VolumeRef>,
}

#[async_trait]
impl Step for ProveClosed {
    fn title(&self) -> String {
        format!("prove that nothing has {} open", listed(&self.volumes))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        for volume in &self.volumes {
            let storage = world.hypervisor(&self.host)?.storage(volume.kind)?;
            let mut open = true;
            for look in 0..10 {
                if look > 0 {
                    // Whoever closes it may be a moment behind the guest's end.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                // A merge that has begun, in an attempt that was cut short, has taken the snapshot away.
                let block = storage.inspect(volume).await?.and_then(|facts| facts.block);
                open = block.is_some_and(|block| block.merge.is_none() && block.open != Some(false));
                if !open {
                    break;
                }
            }
            if open {
                return Err(StepError::failed(
                    format!("{volume} is still open"),
                    format!(
                        "find who has it open (an export, a mount, another guest): lsof, dmsetup info, for {volume}"
                    ),
                ));
            }
        }
        Ok(Change::Unchanged.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Merges snapshots of this run into what they were made of. Irreversible from its beginning; nothing may run on either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    /// Inventory host.
    pub host: String,
    /// Origin (`source`) and snapshot (`target`) of each.
    pub merges: Vec<Pair>,
}

impl Merge {
    fn snapshots(&self) -> Vec<VolumeRef> {
        self.merges.iter().map(|pair| pair.target.clone()).collect()
    }
}

#[async_trait]
impl Step for Merge {
    fn title(&self) -> String {
        let origins: Vec<VolumeRef> = self.merges.iter().map(|pair| pair.source.clone()).collect();
        format!("merge {} into {}", listed(&self.snapshots()), listed(&origins))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &super::Manners) -> Vec<Vec<String>> {
        let merge = |pair: &Pair| ["lvconvert", "--merge", &lv(&pair.target)].map(str::to_owned).to_vec();
        self.merges.iter().map(merge).collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let mut begun = 0;
        for Pair { source, target, .. } in &self.merges {
            let storage = hypervisor.storage(source.kind)?;
            let Some(origin) = storage.inspect(source).await? else {
                return Err(StepError::failed(format!("{source} does not exist"), "look at the host's storage"));
            };
            let state = origin.block.and_then(|block| block.merge);
            let gone = storage.inspect(target).await?.is_none();
            if matches!(state, Some(MergeState::Draining { .. })) || (state.is_none() && gone) {
                begun += 1;
            }
        }
        Ok(match begun {
            0 => Probe::Absent,
            all if all == self.merges.len() => Probe::Present,
            _ => Probe::Partial,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let mut change = Change::Unchanged;
        for kind in super::storage::kinds(self.merges.iter().map(|pair| pair.source.kind)) {
            let pairs: Vec<(&VolumeRef, &VolumeRef)> = self
                .merges
                .iter()
                .filter(|pair| pair.source.kind == kind)
                .map(|pair| (&pair.target, &pair.source))
                .collect();
            if hypervisor.storage(kind)?.merge(&pairs, &world.run).await? != Change::Unchanged {
                change = Change::Changed;
            }
        }
        Ok(change.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Waits until merges that have begun are through. The origin shows the merged content from the beginning, so production
/// runs meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Inventory host.
    pub host: String,
    /// The origins.
    pub origins: Vec<VolumeRef>,
    /// How long that may take, in seconds.
    pub patience_s: u64,
}

impl Drained {
    /// Percent that is still to be copied of the slowest; `None`: all are through.
    async fn left(&self, world: &World) -> Result<Option<f64>, StepError> {
        let mut left: Option<f64> = None;
        for origin in &self.origins {
            let storage = world.hypervisor(&self.host)?.storage(origin.kind)?;
            let state = storage.inspect(origin).await?.and_then(|facts| facts.block).and_then(|block| block.merge);
            let percent = match state {
                None => continue,
                Some(MergeState::Waiting) => 100.0,
                Some(MergeState::Draining { left_percent }) => left_percent,
            };
            left = Some(left.unwrap_or(0.0).max(percent));
        }
        Ok(left)
    }
}

#[async_trait]
impl Step for Drained {
    fn title(&self) -> String {
        format!("wait until the merge into {} is through", listed(&self.origins))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        Ok(if self.left(world).await?.is_none() { Probe::Present } else { Probe::Absent })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let until = tokio::time::Instant::now() + Duration::from_secs(self.patience_s);
        while let Some(left) = self.left(world).await? {
            if tokio::time::Instant::now() > until {
                return Err(StepError::Unknown(format!("the merge is not through: {left:.0} % left")));
            }
            world.progress("the merge drains; production runs", Some((100.0 - left) / 100.0));
            tokio::time::sleep(LOOK).await;
        }
        Ok(Change::Changed.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
