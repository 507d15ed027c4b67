//! Steps on two machines of one platform, an original and its linked clone: made, switched on and off, and at the end one of them removed.
//!
//! Which machine is meant is said by its instance UUID; the clone's is the run's own. Names and hardware addresses are exchanged at
//! promotion, UUIDs never.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hypervisors::machines::{MachineFacts, NewMachine};
use hypervisors::{Cause, Change, Machines, Mark, Power, Role};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{PATIENCE, description, machines, one};
use crate::steps::domain::Stop;
use crate::steps::server::answers;
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Pause between two looks at a machine.
const LOOK: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 2000 });

/// How long a shutdown that may have been asked for is waited for.
const OUTLAST: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 60_000 });

/// One of the two machines of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// Inventory host.
    pub host: String,
    /// Instance UUID.
    pub uuid: String,
    /// What it is called, for people.
    pub shown: String,
}

impl Which {
    pub(super) fn machines(&self, world: &World) -> Result<std::sync::Arc<dyn Machines>, StepError> {
        machines(world, &self.host)
    }

    pub(super) async fn facts(&self, machines: &dyn Machines) -> Result<Option<MachineFacts>, StepError> {
        Ok(machines.machine(&self.uuid).await?)
    }

    pub(super) async fn there(&self, machines: &dyn Machines) -> Result<MachineFacts, StepError> {
        self.facts(machines).await?.ok_or_else(|| {
            StepError::failed(
                format!("there is no machine {} ({}) any more", self.shown, self.uuid),
                "look for it in the platform's own inventory",
            )
        })
    }

    async fn is_off(&self, machines: &dyn Machines) -> Result<bool, StepError> {
        Ok(self.facts(machines).await?.is_some_and(|facts| facts.power == Power::Off))
    }

    /// A command of the platform's own client, for people.
    pub(super) fn govc(&self, words: &[&str]) -> Vec<String> {
        let (verb, rest) = words.split_first().map_or(("", &[][..]), |(verb, rest)| (*verb, rest));
        let all = ["govc", verb, "-vm.uuid", &self.uuid].into_iter().chain(rest.iter().copied());
        all.map(str::to_owned).collect()
    }
}

/// Clones a machine from the run's snapshot, off, with all cards unplugged (kind `machine.clone`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneMachine {
    /// The original.
    pub of: Which,
    /// The run, which is the clone's name.
    pub run: String,
    /// The clone's UUID.
    pub uuid: String,
}

impl CloneMachine {
    /// Waits for what works on the original: it may be what makes the clone, begun by a call whose answer was lost.
    pub(super) async fn waited(
        &self,
        machines: &dyn Machines,
        progress: &(dyn Fn(String, Option<f64>) + Sync),
    ) -> Result<(), StepError> {
        let begun = Instant::now();
        while self.of.facts(machines).await?.is_some() && machines.busy(&self.of.uuid).await? {
            if begun.elapsed() >= PATIENCE {
                let what = format!("{} is still worked on: what that makes is not known yet", self.of.shown);
                return Err(StepError::Unknown(what));
            }
            progress(format!("{} is worked on: its end is waited for", self.of.shown), None);
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    fn made(&self) -> NewMachine {
        let mark = Mark { run: self.run.clone(), role: Role::Clone };
        NewMachine { name: self.run.clone(), uuid: self.uuid.clone(), mark }
    }
}

#[async_trait]
impl Step for CloneMachine {
    fn title(&self) -> String {
        format!("clone {} as {}, on disks of differences", self.of.shown, self.run)
    }
    fn undo_title(&self) -> String {
        "remove it with its disks".into()
    }
    fn taken_back(&self) -> String {
        format!("remove {} with its disks", self.run)
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        let words = ["govc", "vm.clone", "-vm", &self.of.uuid, "-link", "-snapshot", &self.run, "-on=false", &self.run];
        vec![words.map(str::to_owned).to_vec()]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let machines = self.of.machines(world)?;
        self.waited(&*machines, &*world.progress).await?;
        let clone = machines.machine(&self.uuid).await?;
        Ok(if clone.is_some() { Probe::Present } else { Probe::Absent })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let machines = self.of.machines(world)?;
        let original = self.of.there(&*machines).await?;
        let ours = original.snapshots.into_iter().filter(|one| one.description == description(&self.run)).collect();
        let snapshot = one(ours, &self.run)?.ok_or_else(|| {
            StepError::failed(format!("{} has no snapshot of {}", self.of.shown, self.run), "abort, and clone again")
        })?;
        Ok(machines.clone_linked(&self.of.uuid, &snapshot.id, &self.made()).await?.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let machines = self.of.machines(world)?;
        self.waited(&*machines, &*world.progress).await?;
        // One that the server has under a UUID of its own yet is found by its name and mark.
        let uuid = match machines.machine(&self.uuid).await? {
            Some(_) => self.uuid.clone(),
            None => match machines.find(&self.run).await {
                Ok(found) => found.uuid,
                Err(error) if matches!(error.cause, Cause::NotFound(_)) => return Ok(Change::Unchanged.into()),
                Err(error) => return Err(error.into()),
            },
        };
        match machines.machine(&uuid).await? {
            Some(facts) if facts.mark.as_ref() == Some(&self.made().mark) => {}
            Some(facts) if uuid == self.uuid => {
                return Err(StepError::failed(
                    format!("{} is not marked as the clone of {} any more", facts.machine.path, self.run),
                    "look what it is to anybody; remove it in the platform's own client, if it is of no use",
                ));
            }
            // Another one's, which has that name.
            _ => return Ok(Change::Unchanged.into()),
        }
        machines.power_off(&uuid).await?;
        Ok(machines.remove(&uuid, &self.run).await?.into())
    }
}

/// Switches a machine on (kind `machine.on`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartMachine {
    /// Which one.
    pub of: Which,
    /// Waits for its tools for so long, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools_s: Option<u64>,
    /// Taken back, it may take so long to shut down, in seconds.
    pub patience_s: u64,
    /// Then it is ended.
    pub force: bool,
}

/// Shuts a machine down. `force`: one that does not do it in time, or cannot be asked, is ended.
async fn shut_down(which: &Which, world: &World, patience_s: u64, force: bool) -> Result<Done, StepError> {
    let machines = which.machines(world)?;
    let Some(facts) = which.facts(&*machines).await? else { return Ok(Change::Unchanged.into()) };
    if facts.power == Power::Off {
        return Ok(Change::Unchanged.into());
    }
    if facts.tools.running {
        match machines.shutdown_guest(&which.uuid, Duration::from_secs(patience_s)).await {
            Ok(change) => return Ok(change.into()),
            Err(error) if error.is_unknown() && which.is_off(&*machines).await? => return Ok(Change::Changed.into()),
            Err(error) if error.is_unknown() && !force => {
                return Err(StepError::failed(
                    format!("{} did not shut down within {patience_s} s", which.shown),
                    "look at its console for what holds it up",
                ));
            }
            Err(error) if force && (error.is_unknown() || matches!(error.cause, Cause::Refused(_))) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !force {
        return Err(StepError::failed(
            format!("{} cannot be asked to shut down: its tools do not run", which.shown),
            "start its tools, or shut it down from inside: production is not ended as by a power cut",
        ));
    }
    let done = Done::new(machines.power_off(&which.uuid).await?);
    Ok(done.warn(format!("{} was ended: it was not shut down in {patience_s} s", which.shown)))
}

async fn switch_on(which: &Which, world: &World, tools_s: Option<u64>) -> Result<Done, StepError> {
    let machines = which.machines(world)?;
    let change = machines.power_on(&which.uuid).await?;
    let Some(patience) = tools_s.map(Duration::from_secs) else { return Ok(change.into()) };
    let begun = Instant::now();
    loop {
        let facts = which.there(&*machines).await?;
        if facts.tools.running {
            return Ok(change.into());
        }
        if facts.power == Power::Off {
            return Err(StepError::failed(
                format!("{} went off again", which.shown),
                "look at its console in the platform's own client",
            ));
        }
        if begun.elapsed() >= patience {
            return Err(StepError::failed(
                format!("the tools of {} do not answer after {} s", which.shown, patience.as_secs()),
                "its identity is changed by its tools, before it has a network: see that they start with it",
            ));
        }
        let fraction = begun.elapsed().as_secs_f64() / patience.as_secs_f64();
        world.progress(format!("waiting for the tools of {}", which.shown), Some(fraction.min(1.0)));
        tokio::time::sleep(LOOK.min(patience.saturating_sub(begun.elapsed()))).await;
    }
}

#[async_trait]
impl Step for StartMachine {
    fn title(&self) -> String {
        let tools = if self.tools_s.is_some() { ", and wait for its tools" } else { "" };
        format!("start {}{tools}", self.of.shown)
    }
    fn undo_title(&self) -> String {
        "shut it down".into()
    }
    fn taken_back(&self) -> String {
        format!("shut {} down", self.of.shown)
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        vec![self.of.govc(&["vm.power", "-on"])]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let facts = self.of.facts(&*self.of.machines(world)?).await?;
        Ok(match facts {
            Some(facts) if facts.power == Power::On && (self.tools_s.is_none() || facts.tools.running) => {
                Probe::Present
            }
            Some(facts) if facts.power == Power::On => Probe::Partial,
            _ => Probe::Absent,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        switch_on(&self.of, world, self.tools_s).await
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        shut_down(&self.of, world, self.patience_s, self.force).await
    }
}

/// Shuts a machine down, by its tools (kind `machine.off`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopMachine {
    /// Which one.
    pub of: Which,
    /// How long it may take, in seconds.
    pub patience_s: u64,
    /// One that does not go, or cannot be asked, is ended.
    pub force: bool,
    /// Taken back, its tools are waited for so long, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools_s: Option<u64>,
}

impl StopMachine {
    /// A shutdown that was asked for cannot be called back: it is waited for, or seen not to come. One whose tools have ended already is
    /// on its way down. Whether it is off.
    pub(super) async fn outlast(&self, machines: &dyn Machines) -> Result<bool, StepError> {
        let begun = Instant::now();
        loop {
            let facts = self.of.there(machines).await?;
            let least = if facts.tools.running { OUTLAST } else { OUTLAST.max(Duration::from_secs(self.patience_s)) };
            if facts.power == Power::Off || begun.elapsed() >= least {
                return Ok(facts.power == Power::Off);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[async_trait]
impl Step for StopMachine {
    fn title(&self) -> String {
        format!("shut {} down", self.of.shown)
    }
    fn undo_title(&self) -> String {
        "start it".into()
    }
    fn taken_back(&self) -> String {
        format!("start {}", self.of.shown)
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        vec![self.of.govc(&["vm.power", "-s"])]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let facts = self.of.there(&*self.of.machines(world)?).await?;
        Ok(if facts.power == Power::Off { Probe::Present } else { Probe::Absent })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let facts = self.of.there(&*self.of.machines(world)?).await?;
        Ok(json!({ "was": facts.power, "tools": facts.tools.running }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        shut_down(&self.of, world, self.patience_s, self.force).await
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        if Stop::found_off(found) {
            return Ok(Change::Unchanged.into());
        }
        // Without tools it was not even asked.
        let asked = world.last.is_null() && found["tools"] != json!(false);
        let late = asked && !self.outlast(&*self.of.machines(world)?).await?;
        let done = switch_on(&self.of, world, self.tools_s).await?;
        Ok(match late {
            true => done.warn(format!(
                "{} may have been asked to shut down, and is still on: start it if it goes off yet",
                self.of.shown
            )),
            false => done,
        })
    }
}

/// Gives a linked clone disks of its own, and proves that they stand on nobody else's (kind `machine.own_disks`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnDisks {
    /// Which one.
    pub of: Which,
}

#[async_trait]
impl Step for OwnDisks {
    fn title(&self) -> String {
        format!("give {} disks of its own", self.of.shown)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let facts = self.of.there(&*self.of.machines(world)?).await?;
        let own = facts.disks.iter().all(|disk| disk.parents.is_empty());
        Ok(if own { Probe::Present } else { Probe::Absent })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(self.of.machines(world)?.promote_disks(&self.of.uuid).await?.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Removes the original, with its disks and its snapshots, when nothing stands on them any more (kind `machine.remove`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveMachine {
    /// The original.
    pub of: Which,
    /// The run whose mark it bears.
    pub run: String,
    /// UUID of the machine that stood on its disks.
    pub heir: String,
    /// What the original's disks stood on when it was cloned; empty in plans of before this was recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
}

impl RemoveMachine {
    /// Whether the original's disks are of no use to anybody: its heir has its own, and it has none that was not cloned.
    pub(super) fn removable(&self, original: &MachineFacts, heir: &MachineFacts) -> Result<(), StepError> {
        if let Some(file) = heir.borrowed().first() {
            return Err(StepError::failed(
                format!("{} still stands on {file}", heir.machine.path),
                "its disks have to be its own before those of the original go: PromoteDisks_Task in the platform's client",
            ));
        }
        let (now, had) = (heir.disks.len(), self.disks.len().max(1));
        if now < had {
            return Err(StepError::failed(
                format!("{} has {now} disks now, and had {had}", heir.machine.path),
                "give it back what it had, or remove the original in the platform's own client and resume",
            ));
        }
        let cloned = |file: &str| self.disks.is_empty() || self.disks.iter().any(|known| known == file);
        match original.disks.iter().find(|disk| !cloned(disk.base())) {
            Some(disk) => Err(StepError::failed(
                format!("{} of {} is in no clone: {}", disk.label, original.machine.path, disk.base()),
                "it would be removed with it: detach it in the platform's own client and resume",
            )),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Step for RemoveMachine {
    fn title(&self) -> String {
        format!("remove {} with its disks", self.of.shown)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        vec![self.of.govc(&["vm.destroy"])]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let facts = self.of.facts(&*self.of.machines(world)?).await?;
        Ok(if facts.is_some() { Probe::Absent } else { Probe::Present })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let machines = self.of.machines(world)?;
        let Some(original) = self.of.facts(&*machines).await? else { return Ok(Change::Unchanged.into()) };
        let heir = Which { uuid: self.heir.clone(), ..self.of.clone() }.there(&*machines).await?;
        self.removable(&original, &heir)?;
        // A linked clone that somebody made by hand: the server would take its base away.
        let all = machines.all().await?;
        if let Some(other) = all.iter().find(|one| one.stands_on(&original)) {
            return Err(StepError::failed(
                format!("{} is not removed: disks of {} stand on its own", self.of.shown, other.machine.path),
                "remove that machine, or make its disks its own (PromoteDisks_Task; govc vm.clone without -link)",
            ));
        }
        Ok(machines.remove(&self.of.uuid, &self.run).await?.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Proves that the machine that had addresses is off, and that nobody answers for them as far as the controller hears (kind
/// `machine.quiet`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineQuiet {
    /// Who had them.
    pub of: Which,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// On a way back, who takes them again: it may have them already, because it never gave them up or somebody started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<Which>,
}

impl MachineQuiet {
    /// Proves by the platform that who had them is off; then tells whether who takes them again runs.
    pub(super) async fn given_up(&self, machines: &dyn Machines) -> Result<bool, StepError> {
        let facts = self.of.facts(machines).await?;
        if facts.is_some_and(|facts| facts.power != Power::Off) {
            return Err(StepError::failed(
                format!("{} is on, and has the address", self.of.shown),
                "shut it down in the platform's own client",
            ));
        }
        let Some(back) = &self.back else { return Ok(false) };
        Ok(back.facts(machines).await?.is_some_and(|facts| facts.power == Power::On))
    }
}

#[async_trait]
impl Step for MachineQuiet {
    fn title(&self) -> String {
        let all: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        let but = self.back.as_ref().map(|back| format!(" but {}", back.shown)).unwrap_or_default();
        format!("prove that {} is off, and nobody{but} answers for {}", self.of.shown, all.join(", "))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        if self.given_up(&*self.of.machines(world)?).await? {
            return Ok(Change::Unchanged.into());
        }
        for address in &self.addresses {
            if let Some(said) = answers(&*world.controller, *address).await? {
                return Err(StepError::failed(
                    format!("{address} is still answered: {said}"),
                    "find the machine that has it; two owners of an address break both",
                ));
            }
        }
        Ok(Change::Unchanged.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
