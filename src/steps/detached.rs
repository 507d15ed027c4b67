//! Detached data goes back to what it was at promotion. Irreversible: what was written since is given up.
//!
//! How far it got is told by the marks on the two volumes alone, and at every instant there is a whole volume at the data's
//! own path, which the guest's definition names:
//!
//! | | at its path | at the snapshot's |
//! |---|---|---|
//! | absent | data, its own mark or none | snapshot, *detached* |
//! | marked | data, *displaced* | snapshot, *detached* |
//! | exchanged | snapshot, *detached* | data, *displaced* |
//! | present | snapshot, the data's own mark or none | data, *displaced* |
//!
//! The displaced data is removed by the undo of the snapshot that promotion took, at the end of the way back.
//!
//! Where copies are no trees of their own (logical volumes) the snapshot is merged into the data instead, which shows the old
//! content at once, thick ones while the merge still drains; the snapshot goes with it, and nothing is displaced. It is
//! *absent* as long as the snapshot is there, *present* once the merge has begun or the snapshot is gone.

use std::time::Duration;

use async_trait::async_trait;
use hypervisors::storage::{Copies, Merge, Snapshot as Found};
use hypervisors::{Change, DiskSource, Mark, Power, Role, Storage, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Probe, Step, StepError, World};

/// Puts a snapshot of detached data in the data's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreDetached {
    /// Inventory host.
    pub host: String,
    /// The disk's name in the definition.
    pub disk: String,
    /// The data.
    pub volume: VolumeRef,
    /// The snapshot; what was in the data's place afterwards.
    pub saved: VolumeRef,
}

/// How far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Absent,
    Marked,
    Exchanged,
    Present,
}

impl RestoreDetached {
    fn mark(world: &World, role: Role) -> Mark {
        Mark { run: world.run.clone(), role }
    }

    async fn mark_of(&self, storage: &dyn Storage, volume: &VolumeRef) -> Result<Option<Mark>, StepError> {
        match storage.inspect(volume).await? {
            Some(facts) => Ok(facts.mark),
            None => Err(StepError::failed(format!("{volume} does not exist"), "look at the host's storage")),
        }
    }

    async fn stands(&self, world: &World, storage: &dyn Storage) -> Result<At, StepError> {
        let (at, other) = (self.mark_of(storage, &self.volume).await?, self.mark_of(storage, &self.saved).await?);
        let role = |mark: &Option<Mark>| mark.as_ref().filter(|mark| mark.run == world.run).map(|mark| mark.role);
        match (role(&at), role(&other)) {
            (None, Some(Role::Detached)) => Ok(At::Absent),
            (Some(Role::Displaced), Some(Role::Detached)) => Ok(At::Marked),
            (Some(Role::Detached), Some(Role::Displaced)) => Ok(At::Exchanged),
            (None, Some(Role::Displaced)) => Ok(At::Present),
            _ => {
                let word = |mark: Option<Mark>| mark.map_or("no mark".to_owned(), |mark| mark.to_string());
                let (at, other) = (word(at), word(other));
                Err(StepError::failed(
                    format!(
                        "{} bears {at}, {} bears {other}: that is no restoring of this run",
                        self.volume, self.saved
                    ),
                    "look at both; someone changed them",
                ))
            }
        }
    }

    /// How far a merge got.
    async fn merged(&self, world: &World, storage: &dyn Storage) -> Result<At, StepError> {
        let Some(data) = storage.inspect(&self.volume).await? else {
            return Err(StepError::failed(format!("{} does not exist", self.volume), "look at the host's storage"));
        };
        let saved = storage.probe(&self.saved, &Self::mark(world, Role::Detached)).await?;
        match (data.block.and_then(|block| block.merge), saved) {
            (Some(Merge::Draining { .. }), _) | (None, Found::Absent) => Ok(At::Present),
            (Some(Merge::Waiting), _) => Ok(At::Marked),
            (None, Found::Present) => Ok(At::Absent),
            (None, Found::Partial) => Err(StepError::failed(
                format!("{}, the snapshot of {}, is lost", self.saved, self.volume),
                "what is there can only be kept; look at both",
            )),
            (None, Found::Foreign(why)) => Err(StepError::failed(
                format!("{} is not of this run: {why}", self.saved),
                "look at both; someone changed them",
            )),
        }
    }

    /// Merges the snapshot into the data. Whoever had them open may let go a moment after the guest's end.
    async fn merge(&self, world: &World, storage: &dyn Storage) -> Result<Done, StepError> {
        if self.merged(world, storage).await? == At::Present {
            return Ok(Change::Unchanged.into());
        }
        self.nothing_runs_on_it(world).await?;
        for _ in 0..10 {
            let block = storage.inspect(&self.volume).await?.and_then(|facts| facts.block);
            if block.is_none_or(|block| block.open == Some(false)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(storage.merge(&[(&self.saved, &self.volume)], &world.run).await?.into())
    }

    /// Refuses while anything runs on the data.
    async fn nothing_runs_on_it(&self, world: &World) -> Result<(), StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        for guest in hypervisor.list().await?.iter().filter(|guest| guest.power != Power::Off) {
            if guest.disks.iter().any(|disk| stands_on(&disk.source, &self.volume)) {
                return Err(StepError::failed(
                    format!("{} runs on {}", guest.name, self.volume),
                    format!("stop {}, then resume", guest.name),
                ));
            }
        }
        Ok(())
    }
}

/// Whether a disk is this volume.
pub fn stands_on(source: &DiskSource, volume: &VolumeRef) -> bool {
    matches!(source, DiskSource::Directory(path) | DiskSource::Block(path) | DiskSource::File(path) if *path == volume.path)
}

#[async_trait]
impl Step for RestoreDetached {
    fn title(&self) -> String {
        format!("restore {} as it was at promotion", self.disk)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let storage = world.hypervisor(&self.host)?.storage(self.volume.kind)?;
        let stands = match storage.copies() {
            Copies::Trees => self.stands(world, &*storage).await?,
            Copies::Peers | Copies::Dependents => self.merged(world, &*storage).await?,
        };
        Ok(match stands {
            At::Absent => Probe::Absent,
            At::Marked | At::Exchanged => Probe::Partial,
            At::Present => Probe::Present,
        })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let storage = world.hypervisor(&self.host)?.storage(self.volume.kind)?;
        let mark = self.mark_of(&*storage, &self.volume).await?.filter(|mark| mark.run != world.run);
        Ok(json!({ "mark": mark }))
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let own: Option<Mark> = super::read(&found["mark"])?;
        let storage = world.hypervisor(&self.host)?.storage(self.volume.kind)?;
        if storage.copies() != Copies::Trees {
            return self.merge(world, &*storage).await;
        }
        let mut change = Change::Unchanged;
        loop {
            match self.stands(world, &*storage).await? {
                At::Present => return Ok(change.into()),
                at => {
                    self.nothing_runs_on_it(world).await?;
                    match at {
                        At::Absent => storage.mark(&self.volume, Some(&Self::mark(world, Role::Displaced))).await?,
                        At::Marked => {
                            storage.exchange(&self.volume, &self.saved, &Self::mark(world, Role::Detached)).await?
                        }
                        At::Exchanged | At::Present => storage.mark(&self.volume, own.as_ref()).await?,
                    };
                    change = Change::Changed;
                }
            }
        }
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
