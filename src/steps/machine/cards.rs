//! What the world knows a machine by, given and taken away: network cards with their hardware addresses, name, mark.

use async_trait::async_trait;
use hypervisors::machines::{MachineNic, NicEdit};
use hypervisors::{Cause, Change, MacAddr, Machines, Mark, Power};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::linked::Which;
use crate::steps::{Done, Manners, Probe, Side, Step, StepError, World, read};

/// How a card is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Hardware address; `None`: as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Who chose it, in the platform's words; `None`: as it is, and a new one is set by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_type: Option<String>,
    /// Network; `None`: as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Plugged in, now if the machine is on, and when it starts.
    pub connected: bool,
}

impl Card {
    /// As it is.
    pub fn of(nic: &MachineNic) -> Self {
        let mac_type = nic.mac_type.clone();
        Self { mac: nic.mac, mac_type, network: Some(nic.network.clone()), connected: nic.start_connected }
    }

    fn fits(&self, nic: &MachineNic, on: bool) -> bool {
        let kind = |wanted: &String| nic.mac_type.as_ref().is_some_and(|now| now.eq_ignore_ascii_case(wanted));
        self.mac.is_none_or(|mac| nic.mac == Some(mac))
            && self.mac_type.as_ref().is_none_or(kind)
            && self.network.as_ref().is_none_or(|network| nic.network == *network)
            && nic.start_connected == self.connected
            && (nic.connected == self.connected || !on)
    }

    fn is_elsewhere(&self, nic: &MachineNic) -> bool {
        self.network.as_ref().is_some_and(|network| *network != nic.network)
    }

    fn edit(&self, nic: &MachineNic, on: bool) -> NicEdit {
        NicEdit {
            key: nic.key,
            connected: on.then_some(self.connected),
            start_connected: Some(self.connected),
            network: self.network.clone(),
            mac: self.mac,
            mac_type: self.mac_type.clone(),
        }
    }
}

/// Plugs the cards of a machine in or out, and gives them their hardware addresses (kind `machine.cards`). Those change only while it
/// is off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetCards {
    /// Which one.
    pub of: Which,
    /// Its cards, in their order.
    pub cards: Vec<Card>,
}

impl SetCards {
    /// Sets these cards, each of the machine's in its turn. What the platform made of a hardware address is looked at: "the server might
    /// override the specified value for Generated or Assigned" (`VirtualEthernetCard.macAddress`). Returns what it did, and what it
    /// overrode.
    async fn set(
        &self,
        machines: &dyn Machines,
        cards: &[(&MachineNic, Card)],
        on: bool,
    ) -> Result<(Change, Option<String>), StepError> {
        let edits: Vec<NicEdit> = cards.iter().map(|(nic, card)| card.edit(nic, on)).collect();
        let change = machines.edit_nics(&self.of.uuid, &edits).await?;
        let now = self.of.there(machines).await?.nics;
        let other = cards.iter().find_map(|(nic, card)| {
            let is = now.iter().find(|one| one.key == nic.key)?.mac;
            card.mac.filter(|mac| is != Some(*mac)).map(|mac| format!("{mac} of {} became another", self.of.shown))
        });
        Ok((change, other))
    }

    /// What somebody else made of the networks that this gave, in a sentence.
    pub(super) async fn elsewhere(&self, machines: &dyn Machines) -> Result<Option<String>, StepError> {
        let Some(facts) = self.of.facts(machines).await? else { return Ok(None) };
        let same = facts.nics.len() == self.cards.len();
        let mut other = facts.nics.iter().zip(&self.cards).filter(|(nic, card)| same && card.is_elsewhere(nic));
        Ok(other.next().map(|(nic, card)| {
            let set = card.network.as_deref().unwrap_or_default();
            format!("{} of {} was in {set}, and is in {} now", nic.label, self.of.shown, nic.network)
        }))
    }

    /// The same for whoever decides whether it is overwritten.
    ///
    /// # Errors
    /// The platform does not answer.
    pub async fn foreign(&self, world: &World) -> Result<Option<String>, StepError> {
        self.elsewhere(&*self.of.machines(world)?).await
    }

    pub(super) async fn exchange(&self, machines: &dyn Machines) -> Result<Done, StepError> {
        let facts = self.of.there(machines).await?;
        if facts.nics.len() != self.cards.len() {
            let (shown, now, had) = (&self.of.shown, facts.nics.len(), self.cards.len());
            return Err(StepError::failed(
                format!("{shown} has {now} network cards now, and had {had}"),
                "give it the cards that it had, in the platform's own client",
            ));
        }
        let cards: Vec<(&MachineNic, Card)> = facts.nics.iter().zip(self.cards.iter().cloned()).collect();
        match self.set(machines, &cards, facts.power != Power::Off).await? {
            (change, None) => Ok(change.into()),
            (_, Some(other)) => {
                Err(StepError::failed(other, "the platform chose it: see what it says of that address"))
            }
        }
    }

    /// Nothing that somebody did to the machine meanwhile holds up production's way back: one that is gone has no address, and of
    /// other cards than it had those that were set are set as they were, the rest is unplugged.
    pub(super) async fn taken(&self, machines: &dyn Machines, found: &[Card]) -> Result<Done, StepError> {
        let Some(facts) = self.of.facts(machines).await? else { return Ok(Change::Unchanged.into()) };
        let (now, had) = (facts.nics.len(), found.len());
        let was = |nic: &MachineNic| {
            let at = self.cards.iter().position(|card| card.mac.is_some() && card.mac == nic.mac);
            at.and_then(|at| found.get(at)).cloned().unwrap_or_default()
        };
        let each = facts.nics.iter().enumerate();
        let cards: Vec<(&MachineNic, Card)> =
            each.map(|(at, nic)| (nic, if now == had { found[at].clone() } else { was(nic) })).collect();
        let (change, other) = self.set(machines, &cards, facts.power != Power::Off).await?;
        let mut done = Done::new(change);
        if now != had {
            let shown = &self.of.shown;
            done = done
                .warn(format!("{shown} has {now} network cards now, and had {had}: those that are new are unplugged"));
        }
        Ok(match other {
            Some(other) => done.warn(other),
            None => done,
        })
    }
}

#[async_trait]
impl Step for SetCards {
    fn title(&self) -> String {
        let plugged = match (self.cards.iter().any(|card| card.connected), self.cards.iter().all(|card| card.connected))
        {
            (_, true) => "connect",
            (true, false) => "set",
            (false, _) => "disconnect",
        };
        let macs: Vec<String> = self.cards.iter().filter_map(|card| card.mac).map(|mac| mac.to_string()).collect();
        let macs = if macs.is_empty() { String::new() } else { format!(", as {}", macs.join(", ")) };
        format!("{plugged} the network cards of {}{macs}", self.of.shown)
    }
    fn undo_title(&self) -> String {
        "as they were".into()
    }
    fn taken_back(&self) -> String {
        format!("set the network cards of {} as they were", self.of.shown)
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        let verb = if self.cards.iter().any(|card| card.connected) { "device.connect" } else { "device.disconnect" };
        let each = 0..self.cards.len();
        each.map(|at| self.of.govc(&[verb, &format!("ethernet-{at}")])).collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let facts = self.of.there(&*self.of.machines(world)?).await?;
        let on = facts.power != Power::Off;
        let fits = facts.nics.len() == self.cards.len()
            && facts.nics.iter().zip(&self.cards).all(|(nic, card)| card.fits(nic, on));
        Ok(if fits { Probe::Present } else { Probe::Absent })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let facts = self.of.there(&*self.of.machines(world)?).await?;
        Ok(json!({ "cards": facts.nics.iter().map(Card::of).collect::<Vec<_>>() }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        self.exchange(&*self.of.machines(world)?).await
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let mut cards: Vec<Card> = read(&found["cards"])?;
        let machines = self.of.machines(world)?;
        // Somebody's other network stays, if that was decided.
        if world.decision == Some(Side::Theirs)
            && let Some(facts) = self.of.facts(&*machines).await?
            && facts.nics.len() == self.cards.len()
        {
            for ((was, set), nic) in cards.iter_mut().zip(&self.cards).zip(&facts.nics) {
                was.network = was.network.take().filter(|_| !set.is_elsewhere(nic));
            }
        }
        self.taken(&*machines, &cards).await
    }
}

/// Gives a machine another name and another mark (kind `machine.name`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameMachine {
    /// Which one.
    pub of: Which,
    /// Its name.
    pub name: String,
    /// What it is to the run; `None`: nothing any more.
    pub mark: Option<Mark>,
}

impl NameMachine {
    async fn set(&self, machines: &dyn Machines, name: &str, mark: Option<&Mark>) -> Result<Done, StepError> {
        let marked = machines.set_mark(&self.of.uuid, mark).await?;
        let named = machines.rename(&self.of.uuid, name).await?;
        Ok(if named == Change::Unchanged { marked } else { named }.into())
    }

    /// What somebody else made of the name that this gave, in a sentence.
    pub(super) async fn renamed(&self, machines: &dyn Machines) -> Result<Option<String>, StepError> {
        let facts = self.of.facts(machines).await?.filter(|facts| facts.machine.name != self.name);
        Ok(facts.map(|facts| {
            format!("{} was named {}, and is called {} now", self.of.shown, self.name, facts.machine.name)
        }))
    }

    /// The same for whoever decides whether it is overwritten.
    ///
    /// # Errors
    /// The platform does not answer.
    pub async fn foreign(&self, world: &World) -> Result<Option<String>, StepError> {
        self.renamed(&*self.of.machines(world)?).await
    }

    /// A machine that is gone has no name; one that keeps its own must not keep production down.
    pub(super) async fn taken(
        &self,
        machines: &dyn Machines,
        name: &str,
        mark: Option<&Mark>,
    ) -> Result<Done, StepError> {
        if self.of.facts(machines).await?.is_none() {
            return Ok(Change::Unchanged.into());
        }
        match self.set(machines, name, mark).await {
            Err(StepError::Platform(error)) if matches!(error.cause, Cause::Refused(_) | Cause::Platform(_)) => {
                let what = format!("{} could not be named and marked as it was: {error}", self.of.shown);
                Ok(Done::new(Change::Unchanged).warn(what))
            }
            done => done,
        }
    }
}

#[async_trait]
impl Step for NameMachine {
    fn title(&self) -> String {
        let role = match self.mark.as_ref().map(|mark| mark.role) {
            Some(role) => format!("mark {} as {}", self.of.shown, role.as_str()),
            None => format!("take the mark off {}", self.of.shown),
        };
        if self.of.shown == self.name { role } else { format!("{role}, and name it {}", self.name) }
    }
    fn undo_title(&self) -> String {
        "as it was".into()
    }
    fn taken_back(&self) -> String {
        format!("name and mark {} as it was", self.of.shown)
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        let mark = self.mark.as_ref().map(Mark::to_string).unwrap_or_default();
        vec![
            self.of.govc(&["vm.change", "-e", &format!("upgradectl.run={mark}")]),
            self.of.govc(&["vm.change", "-name", &self.name]),
        ]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let facts = self.of.there(&*self.of.machines(world)?).await?;
        Ok(match (facts.machine.name == self.name, facts.mark == self.mark) {
            (true, true) => Probe::Present,
            (false, false) => Probe::Absent,
            _ => Probe::Partial,
        })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let facts = self.of.there(&*self.of.machines(world)?).await?;
        Ok(json!({ "name": facts.machine.name, "mark": facts.mark }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        self.set(&*self.of.machines(world)?, &self.name, self.mark.as_ref()).await
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let (mut name, mark): (String, Option<Mark>) = (read(&found["name"])?, read(&found["mark"])?);
        let machines = self.of.machines(world)?;
        // Somebody's other name stays, if that was decided.
        if world.decision == Some(Side::Theirs)
            && let Some(facts) = self.of.facts(&*machines).await?
            && facts.machine.name != self.name
        {
            name = facts.machine.name;
        }
        self.taken(&*machines, &name, mark.as_ref()).await
    }
}
