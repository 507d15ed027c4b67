//! A look before a guest is started on another host than the one that holds its volumes: that host sees them, and they are
//! these. An export that leads to another volume would let a clone write to production's disks.

use std::time::Duration;

use async_trait::async_trait;
use hypervisors::{Change, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Done, Probe, Step, StepError, World};

/// How often the other host is asked.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 500 });

/// How long another volume may be seen, as one that was exported by the same name before goes.
const SETTLES: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 5 });

/// Waits until a host sees volumes that another holds, and sees that they are the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visible {
    /// Inventory host that is to see them.
    pub on: String,
    /// The volumes, by their paths where they lie.
    pub volumes: Vec<VolumeRef>,
    /// How long they may take to appear, in seconds.
    pub patience_s: u64,
}

impl Visible {
    /// What is wrong, if anything is, and whether waiting may help.
    async fn wrong(&self, world: &World) -> Result<Option<(String, bool)>, StepError> {
        let there = world.hypervisor(&self.on)?;
        let Some(holder) = there.holder() else { return Ok(None) };
        for volume in &self.volumes {
            let (Some(ours), theirs) = (holder.sight(&volume.path).await?, there.sight(&volume.path).await?) else {
                return Ok(Some((format!("there is no {volume}"), false)));
            };
            match theirs {
                None => return Ok(Some((format!("{} does not see {volume}", self.on), true))),
                Some(theirs) if theirs != ours => {
                    return Ok(Some((format!("what {} sees as {volume} is another volume", self.on), false)));
                }
                Some(_) => {}
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Step for Visible {
    fn title(&self) -> String {
        let names: Vec<String> = self.volumes.iter().map(ToString::to_string).collect();
        format!("see that {} has {}", self.on, names.join(", "))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        Ok(if self.wrong(world).await?.is_none() { Probe::Present } else { Probe::Absent })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let begun = tokio::time::Instant::now();
        while let Some((why, may_come)) = self.wrong(world).await? {
            let patience = if may_come { Duration::from_secs(self.patience_s) } else { SETTLES };
            if begun.elapsed() >= patience {
                return Err(StepError::failed(
                    why,
                    "look at the hook that exports it (at = \"volumes\") and at copy of the disk in the inventory",
                ));
            }
            world.progress(why, None);
            tokio::time::sleep(LOOK).await;
        }
        Ok(Change::Unchanged.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
