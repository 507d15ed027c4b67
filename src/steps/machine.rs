//! Steps on a whole machine, by the API of who runs it: a snapshot that leads back, the way back to it, and its removal.
//! [`linked`]: steps on a machine and its clone; [`cards`]: on what they are known by; [`inside`]: on their files, by their tools;
//! [`across`], [`queues`]: from one to the other.
//!
//! A snapshot is known by the id that making it returned; the journal has it. If the process died between the call and the journal,
//! or the platform gave new ids since (it does when a machine is registered anew), it is told by its description, which holds the
//! run's id and is no other run's.

pub mod across;
pub mod cards;
pub mod inside;
pub mod linked;
pub mod queues;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hypervisors::machines::SnapshotFacts;
use hypervisors::{Change, Machines, Power};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Manners, Probe, Step, StepError, StepRef, World};

/// Between two looks at a machine that is worked on, and how long that is waited for.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 3000 });
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 600 });

fn machines(world: &World, host: &str) -> Result<Arc<dyn Machines>, StepError> {
    world.hypervisor(host)?.machines().ok_or_else(|| {
        StepError::failed(
            format!("{host} has no API for whole machines"),
            "hypervisor = \"vsphere\" in the inventory, as it was",
        )
    })
}

/// What the description of a run's snapshot says.
fn description(run: &str) -> String {
    format!("upgradectl {run}: leads back; removed by commit or abort")
}

/// The run whose snapshot this is, by its description.
pub fn run_of(snapshot: &SnapshotFacts) -> Option<&str> {
    let run = snapshot.description.split_once(' ')?.1.split_once(':')?.0;
    (snapshot.description == description(run)).then_some(run)
}

async fn snapshots(machines: &dyn Machines, uuid: &str) -> Result<Vec<SnapshotFacts>, StepError> {
    let facts = machines.machine(uuid).await?;
    let facts = facts.ok_or_else(|| {
        StepError::failed(format!("there is no machine {uuid} any more"), "look for it in the platform's own inventory")
    })?;
    Ok(facts.snapshots)
}

/// Makes a snapshot of a machine that leads back (kind `machine.snapshot`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMachine {
    /// Inventory host.
    pub host: String,
    /// Instance UUID of the machine.
    pub uuid: String,
    /// What it is called in the inventory.
    pub guest: String,
    /// The run.
    pub run: String,
    /// The guest's file systems are quiesced, by its tools.
    pub quiesce: bool,
}

impl SnapshotMachine {
    /// The run's snapshot, as the platform has it. Where there is none, what works on the machine is waited for: it may be what makes
    /// it, begun by a call whose answer was lost.
    async fn made(
        &self,
        machines: &dyn Machines,
        progress: &(dyn Fn(String, Option<f64>) + Sync),
    ) -> Result<Option<SnapshotFacts>, StepError> {
        let begun = Instant::now();
        loop {
            // Asked first: what has ended by then is seen.
            let busy = machines.busy(&self.uuid).await?;
            let all = snapshots(machines, &self.uuid).await?;
            let ours = all.into_iter().filter(|one| one.description == description(&self.run)).collect();
            match one(ours, &self.run)? {
                None if busy && begun.elapsed() < PATIENCE => {
                    progress(format!("{} is worked on: its end is waited for", self.guest), None);
                    tokio::time::sleep(LOOK).await;
                }
                None if busy => {
                    let what = format!("{} is still worked on: what that makes is not known yet", self.guest);
                    return Err(StepError::Unknown(what));
                }
                found => return Ok(found),
            }
        }
    }
}

/// A run's snapshot among those of its machine. An id may have become another's; its name is the run's, as long as nobody renamed it.
fn ours(all: Vec<SnapshotFacts>, id: Option<&str>, run: &str) -> Result<Option<SnapshotFacts>, StepError> {
    let says = |one: &SnapshotFacts| one.description == description(run);
    let known = |one: &&SnapshotFacts| Some(one.id.as_str()) == id && (says(one) || one.name == run);
    match all.iter().find(known) {
        Some(found) => Ok(Some(found.clone())),
        None => one(all.into_iter().filter(says).collect(), run),
    }
}

/// Removes a snapshot, if there is one, and folds what its disks left: one that was busy is folded when that is asked for once more.
///
/// # Errors
/// The platform does not answer, or refuses.
pub async fn remove(machines: &dyn Machines, uuid: &str, snapshot: Option<SnapshotFacts>) -> Result<Done, StepError> {
    let removed = match snapshot {
        Some(snapshot) => machines.remove_snapshot(uuid, &snapshot.id).await?,
        None => Change::Unchanged,
    };
    match machines.machine(uuid).await? {
        Some(facts) if facts.needs_consolidation => Ok(machines.consolidate(uuid).await?.into()),
        _ => Ok(removed.into()),
    }
}

/// At most one.
fn one(found: Vec<SnapshotFacts>, run: &str) -> Result<Option<SnapshotFacts>, StepError> {
    match found.len() {
        0 | 1 => Ok(found.into_iter().next()),
        many => Err(StepError::failed(
            format!("{many} snapshots say that they are of {run}"),
            "remove all but the oldest in the platform's own client: it is the one that leads back",
        )),
    }
}

#[async_trait]
impl Step for SnapshotMachine {
    fn title(&self) -> String {
        format!("snapshot {} as {}", self.guest, self.run)
    }
    fn undo_title(&self) -> String {
        "remove it".into()
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        vec![
            ["govc", "snapshot.create", "-vm.uuid", &self.uuid, "-m=false", &format!("-q={}", self.quiesce), &self.run]
                .map(str::to_owned)
                .to_vec(),
        ]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let made = self.made(&*machines(world, &self.host)?, &*world.progress).await?;
        Ok(if made.is_some() { Probe::Present } else { Probe::Absent })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let machines = machines(world, &self.host)?;
        if let Some(made) = self.made(&*machines, &*world.progress).await? {
            return Ok(Done::new(Change::Unchanged).with(json!({ "snapshot": made.id })));
        }
        let id = machines.snapshot(&self.uuid, &self.run, &description(&self.run), self.quiesce).await?;
        Ok(Done::new(Change::Created).with(json!({ "snapshot": id })))
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let machines = machines(world, &self.host)?;
        let Some(facts) = machines.machine(&self.uuid).await? else { return Ok(Change::Unchanged.into()) };
        let found = match world.last["data"]["snapshot"].as_str() {
            Some(id) => ours(facts.snapshots, Some(id), &self.run)?,
            None => self.made(&*machines, &*world.progress).await?,
        };
        remove(&*machines, &self.uuid, found).await
    }
}

/// A snapshot of a machine that an earlier plan made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Inventory host.
    pub host: String,
    /// Instance UUID of the machine.
    pub uuid: String,
    /// What it is called in the inventory.
    pub guest: String,
    /// The run.
    pub run: String,
    /// The step that made it.
    pub by: StepRef,
}

impl Made {
    /// As the platform has it; `None`: it is gone.
    async fn found(&self, world: &World, machines: &dyn Machines) -> Result<Option<SnapshotFacts>, StepError> {
        let all = snapshots(machines, &self.uuid).await?;
        let done = world.memory.done(self.by)?;
        let id = done.as_ref().and_then(|done| done["data"]["snapshot"].as_str());
        ours(all, id, &self.run)
    }

    async fn must(&self, world: &World, machines: &dyn Machines) -> Result<String, StepError> {
        let found = self.found(world, machines).await?.map(|found| found.id);
        found.ok_or_else(|| {
            StepError::failed(
                format!("the snapshot of {} is gone", self.run),
                format!(
                    "upgradectl abort {0} goes back without it, upgradectl commit {0} keeps the upgrade",
                    self.guest
                ),
            )
        })
    }

    /// Whether it stands.
    ///
    /// # Errors
    /// The platform does not answer, or has the machine no more.
    pub async fn stands(&self, world: &World) -> Result<bool, StepError> {
        Ok(self.found(world, &*machines(world, &self.host)?).await?.is_some())
    }
}

/// Brings a machine back to the run's snapshot, and starts it (kind `machine.revert`). What was written since is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevertMachine {
    /// The snapshot.
    pub to: Made,
    /// It is started afterwards.
    pub start: bool,
}

#[async_trait]
impl Step for RevertMachine {
    fn title(&self) -> String {
        format!("bring {} back to {}{}", self.to.guest, self.to.run, if self.start { ", and start it" } else { "" })
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        let word = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mut all = vec![word(&["govc", "snapshot.revert", "-vm.uuid", &self.to.uuid, &self.to.run])];
        if self.start {
            all.push(word(&["govc", "vm.power", "-on", "-vm.uuid", &self.to.uuid]));
        }
        all
    }
    /// A machine does not tell whether it wrote since: it is brought back once more. Without the snapshot it is not even begun: what
    /// was begun and cannot be taken back shuts every other way.
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        self.to.must(world, &*machines(world, &self.to.host)?).await?;
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let machines = machines(world, &self.to.host)?;
        let id = self.to.must(world, &*machines).await?;
        machines.revert(&self.to.uuid, &id).await?;
        if self.start {
            machines.power_on(&self.to.uuid).await?;
        }
        Ok(Change::Changed.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Removes the run's snapshot (kind `machine.remove_snapshot`). What was written since stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveSnapshot {
    /// The snapshot.
    pub of: Made,
}

#[async_trait]
impl Step for RemoveSnapshot {
    fn title(&self) -> String {
        format!("remove the snapshot {} of {}", self.of.run, self.of.guest)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        vec![["govc", "snapshot.remove", "-vm.uuid", &self.of.uuid, &self.of.run].map(str::to_owned).to_vec()]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let machines = machines(world, &self.of.host)?;
        let gone = self.of.found(world, &*machines).await?.is_none();
        let folded = machines.machine(&self.of.uuid).await?.is_none_or(|facts| !facts.needs_consolidation);
        Ok(match (gone, folded) {
            (true, true) => Probe::Present,
            (true, false) => Probe::Partial,
            (false, _) => Probe::Absent,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let machines = machines(world, &self.of.host)?;
        remove(&*machines, &self.of.uuid, self.of.found(world, &*machines).await?).await
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Starts a machine that is off, before its guest is worked in.
///
/// # Errors
/// The platform does not answer.
pub async fn started(machines: &dyn Machines, uuid: &str) -> Result<bool, hypervisors::Error> {
    match machines.machine(uuid).await?.map(|facts| facts.power) {
        Some(Power::Off) => machines.power_on(uuid).await.map(|change| change != Change::Unchanged),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests;
