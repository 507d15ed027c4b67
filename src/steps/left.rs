//! What a stopped guest left behind, to be read. A journal that is not clean (the guest was ended, not shut down) is never
//! replayed on the guest's own volume, which is to be as it was if the promotion is taken back: it is replayed in a
//! throw-away snapshot, and that is read instead. Where there can be none (a thick snapshot cannot be snapshotted), the
//! journal bars the way.
//!
//! The first reader that needs the snapshot takes it, those that follow read the same. [`Replayed`] stands before them: it sees
//! to it that none is older than the stop it comes after, and that none is left at the end, however that comes.

use async_trait::async_trait;
use hypervisors::storage::{Access, Copies, CopyRequest, Opened};
use hypervisors::{Cause, Change, Mark, Role, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Done, Probe, Step, StepError, World, files};
use crate::guest::Tree;

/// A volume as its guest left it.
pub(super) struct Left {
    /// Its files.
    pub tree: Tree,
    /// What they are in.
    pub opened: Opened,
}

/// Opens a volume that no guest runs on, to read what is there.
///
/// # Errors
/// [`Cause::DirtyJournal`] where the journal can be replayed nowhere.
pub(super) async fn open(world: &World, host: &str, volume: &VolumeRef) -> Result<Left, StepError> {
    let storage = world.hypervisor(host)?.storage(volume.kind)?;
    let left = |opened: Opened| -> Result<Left, StepError> { Ok(Left { tree: files::tree_of(&opened)?, opened }) };
    let dirty = match storage.open(volume, Access::Read).await {
        Ok(opened) => return left(opened),
        Err(error) if matches!(error.cause, Cause::DirtyJournal(_)) => error,
        Err(error) => return Err(error.into()),
    };
    let copy = replayed(world, volume);
    if !is_there(&copy) {
        let is_snapshot = |facts: &hypervisors::storage::VolumeFacts| facts.block.as_ref()?.origin.clone();
        let nested = storage.inspect(volume).await?.as_ref().and_then(is_snapshot).is_some();
        if nested && storage.copies() == Copies::Dependents {
            return Err(dirty.into());
        }
        world.progress(format!("{volume} was not shut down: its journal is replayed in {copy}"), None);
        forget(world, host, volume).await?;
        let size = storage.size_snapshot(volume, None).await?.map(|sized| sized.size);
        let mark = Mark { run: world.run.clone(), role: Role::Clone };
        let request = CopyRequest { source: volume, target: &copy, size };
        storage.snapshot_set(&[request], &mark).await?;
    }
    // Opened to be written, the journal is replayed, unless it is already.
    left(storage.open(&copy, Access::Write).await?)
}

/// Whether a snapshot is there that can be opened. One that is not active is as good as none, and is taken anew.
fn is_there(copy: &VolumeRef) -> bool {
    copy.path.exists()
}

/// Removes the snapshot, if there is one.
async fn forget(world: &World, host: &str, volume: &VolumeRef) -> Result<Change, StepError> {
    Ok(world.hypervisor(host)?.storage(volume.kind)?.remove(&replayed(world, volume), &world.run).await?)
}

fn replayed(world: &World, volume: &VolumeRef) -> VolumeRef {
    VolumeRef { kind: volume.kind, path: volume.path.with_file_name(format!("{}.replayed", world.run)) }
}

/// Stands between the stop of the original and all that reads what it left. Doing it removes a snapshot of before that stop, taking
/// it back (at the end of the verb) the one that was taken by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// Inventory host.
    pub host: String,
    /// Root volume of the original.
    pub volume: VolumeRef,
}

#[async_trait]
impl Step for Replayed {
    fn title(&self) -> String {
        format!("read {}, whose journal is replayed in a snapshot if it is not clean", self.volume)
    }
    fn undo_title(&self) -> String {
        "remove that snapshot".into()
    }
    fn taken_back(&self) -> String {
        format!("remove the snapshot in which the journal of {} was replayed, if there is one", self.volume)
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        Ok(if is_there(&replayed(world, &self.volume)) { Probe::Partial } else { Probe::Absent })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        // Without a look at the volume group where there is none: production is down.
        if is_there(&replayed(world, &self.volume)) {
            forget(world, &self.host, &self.volume).await?;
        }
        Ok(Change::Unchanged.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(forget(world, &self.host, &self.volume).await?.into())
    }
}
