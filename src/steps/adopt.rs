//! Steps that make the stopped clone fit to be production, beside its identity ([`super::files::Restore`]): links into
//! detached data that an upgrade replaced, and the time stamps of persistent timers.

use std::path::PathBuf;

use async_trait::async_trait;
use hypervisors::{Change, VolumeRef};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Probe, Step, StepError, World, files, left};
use crate::guest::{self, mounts, system};

/// Puts back links into detached data where a package put nothing or an empty directory in their place; what has
/// content is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relink {
    /// Inventory host.
    pub host: String,
    /// Root volume of the stopped clone.
    pub volume: VolumeRef,
    /// The links as they were when it was cloned: path in the root, target as written.
    pub links: Vec<(PathBuf, PathBuf)>,
}

#[async_trait]
impl Step for Relink {
    fn title(&self) -> String {
        let names: Vec<String> = self.links.iter().take(2).map(|(path, _)| format!("/{}", path.display())).collect();
        let more = if self.links.len() > 2 { " …" } else { "" };
        format!("see that links into detached data are there ({}{more})", names.join(", "))
    }
    fn undo_title(&self) -> String {
        "as the upgrade left them".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let tree = files::open(world, &self.host, &self.volume).await?;
        let lost = mounts::lost_links(&tree, &self.links)?;
        // Links that cannot be put back have to be told, by applying it.
        Ok(if lost == mounts::LostLinks::default() { Probe::Present } else { Probe::Absent })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let tree = files::open(world, &self.host, &self.volume).await?;
        files::keep(world, &mounts::lost_links(&tree, &self.links)?.edits)
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let tree = files::open(world, &self.host, &self.volume).await?;
        let changed = guest::apply(&tree, &files::recall(world, found)?)?;
        let done = Done::new(if changed { Change::Changed } else { Change::Unchanged });
        Ok(mounts::lost_links(&tree, &self.links)?.warnings.into_iter().fold(done, Done::warn))
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let tree = files::open(world, &self.host, &self.volume).await?;
        let changed = guest::apply(&tree, &files::reversed(&files::recall(world, found)?))?;
        Ok(Done::new(if changed { Change::Changed } else { Change::Unchanged }))
    }
}

/// Gives the persistent timers of the stopped clone the stamps of the stopped original, so that each job runs when
/// production's would have, neither twice nor all at once. Goes with the clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restamp {
    /// Inventory host.
    pub host: String,
    /// Root volume of the stopped original.
    pub from: VolumeRef,
    /// Root volume of the stopped clone.
    pub to: VolumeRef,
}

#[async_trait]
impl Step for Restamp {
    fn title(&self) -> String {
        "set the timers' time stamps to the original's".into()
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    /// A stamp that only the clone has becomes the present: there is no telling whether that was done.
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let original = left::open(world, &self.host, &self.from).await?;
        let stamps = system::stamps(&original.tree)?;
        drop(original);
        let tree = files::open(world, &self.host, &self.to).await?;
        let changed = system::restamp(&tree, &stamps, Timestamp::now().as_second())?;
        let change = if changed > 0 { Change::Changed } else { Change::Unchanged };
        Ok(Done::new(change).with(json!({ "timers": changed })))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
