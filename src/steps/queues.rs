//! Steps on mail and job queues: the clone never works on them, nothing is sent twice, nothing accepted is lost.

use async_trait::async_trait;
use hypervisors::host::{Command, Output};
use hypervisors::{Change, GuestLink, Power, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Probe, Step, StepError, World, files, left};
use crate::guest::queues::{self, Aside};
use crate::guest::{GuestError, Tree};

/// Sets the queues of the clone aside, before its first start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Inventory host.
    pub host: String,
    /// Root volume of the clone.
    pub volume: VolumeRef,
}

#[async_trait]
impl Step for SetAside {
    fn title(&self) -> String {
        "set the clone's mail and job queues aside".into()
    }
    fn undo_title(&self) -> String {
        "goes with the clone".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let tree = files::open(world, &self.host, &self.volume).await?;
        Ok(match queues::is_set_aside(&tree, &world.run)? {
            Aside::Absent => Probe::Absent,
            Aside::Partial => Probe::Partial,
            Aside::Present => Probe::Present,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let tree = files::open(world, &self.host, &self.volume).await?;
        let changed = queues::set_aside(&tree, &world.run)?;
        Ok(Done::new(if changed { Change::Changed } else { Change::Unchanged }))
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let tree = files::open(world, &self.host, &self.volume).await?;
        let changed = queues::put_back(&tree, &world.run)?;
        Ok(Done::new(if changed { Change::Changed } else { Change::Unchanged }))
    }
}

/// Makes the queues of `to` those of `from`; returns the number of messages.
fn mirror_all(from: &Tree, to: &Tree) -> Result<u64, GuestError> {
    let mut all = queues::found(from)?;
    let messages = all.iter().map(|queue| queue.messages).sum();
    // A queue only the target has is emptied: what is in it was never the source's.
    for queue in queues::found(to)? {
        match all.iter_mut().find(|known| known.service == queue.service) {
            Some(known) => {
                for directory in queue.directories {
                    if !known.directories.contains(&directory) {
                        known.directories.push(directory);
                    }
                }
            }
            None => all.push(queue),
        }
    }
    for queue in &all {
        queues::mirror(from, to, queue)?;
    }
    Ok(messages)
}

/// Brings the queues of the stopped original to the clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Inventory host.
    pub host: String,
    /// Root volume of the stopped original.
    pub from: VolumeRef,
    /// Root volume of the stopped clone.
    pub to: VolumeRef,
}

#[async_trait]
impl Step for Mirror {
    fn title(&self) -> String {
        "carry the mail and job queues".into()
    }
    fn undo_title(&self) -> String {
        "empty the clone's".into()
    }
    fn taken_back(&self) -> String {
        "empty the clone's mail and job queues".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let to = files::open(world, &self.host, &self.to).await?;
        let from = left::open(world, &self.host, &self.from).await?;
        let messages = mirror_all(&from.tree, &to)?;
        Ok(Done::new(Change::Changed).with(json!({ "messages": messages })))
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        // What the original sent or sends is not to be sent by the clone: from a tree without queues all are emptied.
        let nothing = world.run_dir.join("empty");
        let unwritable = |error| StepError::Platform(hypervisors::Error::io("make an empty directory", error));
        std::fs::create_dir_all(&nothing).map_err(unwritable)?;
        let clone = files::open(world, &self.host, &self.to).await?;
        mirror_all(&Tree::open(&nothing)?, &clone)?;
        Ok(Change::Changed.into())
    }
}

/// From here on the promoted guest's queues are the ones that count: taking the promotion back brings them to the
/// original (its own, as they were when it stopped, are set aside). Doing it changes nothing; it stands right before the
/// promoted guest's start, when both queues are the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Return {
    /// Inventory host.
    pub host: String,
    /// Platform name of both: it must be off when this is taken back.
    pub guest: String,
    /// Root volume of the promoted guest.
    pub promoted: VolumeRef,
    /// Root volume of the original.
    pub original: VolumeRef,
}

#[async_trait]
impl Step for Return {
    fn title(&self) -> String {
        "hand the queues over to the promoted guest".into()
    }
    fn undo_title(&self) -> String {
        "bring the queues back to the original".into()
    }
    fn taken_back(&self) -> String {
        "bring the queues back to the original".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        if world.hypervisor(&self.host)?.power(&self.guest).await? != Power::Off {
            return Err(StepError::failed(
                format!("{} is running: its queues cannot be exchanged under it", self.guest),
                format!("stop {} first, then retry", self.guest),
            ));
        }
        let promoted = files::open(world, &self.host, &self.promoted).await?;
        let original = files::open(world, &self.host, &self.original).await?;
        queues::set_aside(&original, &world.run)?;
        let messages = mirror_all(&promoted, &original)?;
        Ok(Done::new(Change::Changed).with(json!({ "messages": messages })))
    }
}

/// Removes the queues that were set aside, for good: those in use are the ones that count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discard {
    /// Inventory host.
    pub host: String,
    /// Root volume of the guest that serves from now on.
    pub volume: VolumeRef,
    /// The way into it, if it runs by then and its volume cannot be written to from outside meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<GuestLink>,
}

impl Discard {
    /// Of a guest that runs by then. `link`: the way into it.
    pub fn of_a_running(host: &str, volume: &VolumeRef, link: &GuestLink) -> Self {
        let inside = (!volume.kind.opens_under_a_guest()).then(|| link.clone());
        Self { host: host.to_owned(), volume: volume.clone(), inside }
    }

    async fn run(&self, world: &World, link: &GuestLink, argv: &[&str]) -> Result<Output, StepError> {
        let command = Command::new(argv.iter().copied());
        Ok(world.hypervisor(&self.host)?.guest(link)?.run(&command).await?)
    }
}

#[async_trait]
impl Step for Discard {
    fn title(&self) -> String {
        "remove the queues that were set aside".into()
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        if let Some(link) = &self.inside {
            let [list, ..] = queues::aside_of(&world.run);
            let there = self.run(world, link, &["test", "-e", &list]).await?.status == 0;
            return Ok(if there { Probe::Absent } else { Probe::Present });
        }
        let tree = files::open(world, &self.host, &self.volume).await?;
        Ok(match queues::is_set_aside(&tree, &world.run)? {
            Aside::Absent => Probe::Present,
            Aside::Partial | Aside::Present => Probe::Absent,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        if let Some(link) = &self.inside {
            let [list, rest @ ..] = queues::aside_of(&world.run);
            // The list last: it is what `probe` looks at.
            for path in rest.iter().chain([&list]) {
                let argv = ["rm", "-rf", "--one-file-system", "--", path];
                let output = self.run(world, link, &argv).await?;
                output.checked(format!("remove {path} in {}", link.name), &Command::new(argv))?;
            }
            return Ok(Change::Removed.into());
        }
        let tree = files::open(world, &self.host, &self.volume).await?;
        let changed = queues::discard(&tree, &world.run)?;
        Ok(Done::new(if changed { Change::Removed } else { Change::Unchanged }))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
