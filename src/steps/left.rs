//! What a stopped guest left behind, to be read. A journal that is not clean (the guest was ended, not shut down) is never
//! replayed on the guest's own volume, which is to be as it was if the promotion is taken back: it is replayed in a
//! throw-away snapshot, and that is read instead. Where there can be none (a thick snapshot cannot be snapshotted), the
//! journal bars the way.

use hypervisors::storage::{Access, Copies, CopyRequest, Opened};
use hypervisors::{Cause, Mark, Role, VolumeRef};

use super::{StepError, World, files};
use crate::guest::Tree;

/// A volume as its guest left it.
pub(super) struct Left {
    /// Its files.
    pub tree: Tree,
    /// What they are in.
    pub opened: Opened,
    /// The snapshot they are in, if not in the volume itself.
    thrown_away: Option<VolumeRef>,
}

impl Left {
    /// Ends the reading, whatever came of it.
    ///
    /// # Errors
    /// What came of it; else why the snapshot is still there.
    pub async fn closing<T>(self, world: &World, host: &str, came: Result<T, StepError>) -> Result<T, StepError> {
        drop((self.tree, self.opened));
        let Some(copy) = self.thrown_away else { return came };
        let removed = world.hypervisor(host)?.storage(copy.kind)?.remove(&copy, &world.run).await;
        let came = came?;
        removed?;
        Ok(came)
    }
}

/// Opens a volume that no guest runs on, to read what is there.
///
/// # Errors
/// [`Cause::DirtyJournal`] where the journal can be replayed nowhere.
pub(super) async fn open(world: &World, host: &str, volume: &VolumeRef) -> Result<Left, StepError> {
    let storage = world.hypervisor(host)?.storage(volume.kind)?;
    let dirty = match storage.open(volume, Access::Read).await {
        Ok(opened) => return Ok(Left { tree: files::tree_of(&opened)?, opened, thrown_away: None }),
        Err(error) if matches!(error.cause, Cause::DirtyJournal(_)) => error,
        Err(error) => return Err(error.into()),
    };
    let is_snapshot = |facts: &hypervisors::storage::VolumeFacts| facts.block.as_ref()?.origin.clone();
    let nested = storage.inspect(volume).await?.as_ref().and_then(is_snapshot).is_some();
    if nested && storage.copies() == Copies::Dependents {
        return Err(dirty.into());
    }
    let copy = replayed(world, volume);
    world.progress(format!("{volume} was not shut down: its journal is replayed in {copy}"), None);
    forget(world, host, volume).await?;
    let size = storage.size_snapshot(volume, None).await?.map(|sized| sized.size);
    let mark = Mark { run: world.run.clone(), role: Role::Clone };
    let request = CopyRequest { source: volume, target: &copy, size };
    storage.snapshot_set(&[request], &mark).await?;
    // Opened to be written once, the journal is replayed.
    let opened = match storage.open(&copy, Access::Write).await {
        Ok(opened) => files::tree_of(&opened).map(|tree| (tree, opened)).map_err(StepError::from),
        Err(error) => Err(error.into()),
    };
    match opened {
        Ok((tree, opened)) => Ok(Left { tree, opened, thrown_away: Some(copy) }),
        Err(error) => {
            storage.remove(&copy, &world.run).await?;
            Err(error)
        }
    }
}

/// Removes the snapshot that an interrupted reading left.
///
/// # Errors
/// It cannot be looked at or removed.
pub(super) async fn forget(world: &World, host: &str, volume: &VolumeRef) -> Result<(), StepError> {
    if !volume.kind.opens_under_a_guest() {
        world.hypervisor(host)?.storage(volume.kind)?.remove(&replayed(world, volume), &world.run).await?;
    }
    Ok(())
}

fn replayed(world: &World, volume: &VolumeRef) -> VolumeRef {
    VolumeRef { kind: volume.kind, path: volume.path.with_file_name(format!("{}.replayed", world.run)) }
}
