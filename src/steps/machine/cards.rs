//! What the world knows a machine by, given and taken away: network cards with their hardware addresses, name, mark.

use async_trait::async_trait;
use hypervisors::machines::{MachineNic, NicEdit};
use hypervisors::{Change, MacAddr, Mark, Power};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::linked::Which;
use crate::steps::{Done, Manners, Probe, Step, StepError, World, read};

/// How a card is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Hardware address; `None`: as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Network; `None`: as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Plugged in, now if the machine is on, and when it starts.
    pub connected: bool,
}

impl Card {
    fn of(nic: &MachineNic) -> Self {
        Self { mac: nic.mac, network: Some(nic.network.clone()), connected: nic.start_connected }
    }

    fn fits(&self, nic: &MachineNic, on: bool) -> bool {
        self.mac.is_none_or(|mac| nic.mac == Some(mac))
            && self.network.as_ref().is_none_or(|network| nic.network == *network)
            && nic.start_connected == self.connected
            && (nic.connected == self.connected || !on)
    }

    fn edit(&self, nic: &MachineNic, on: bool) -> NicEdit {
        NicEdit {
            key: nic.key,
            connected: on.then_some(self.connected),
            start_connected: Some(self.connected),
            network: self.network.clone(),
            mac: self.mac,
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
    async fn set(&self, world: &World, cards: &[Card]) -> Result<Done, StepError> {
        let machines = self.of.machines(world)?;
        let facts = self.of.there(&*machines).await?;
        let on = facts.power != Power::Off;
        if facts.nics.len() != cards.len() {
            return Err(StepError::failed(
                format!("{} has {} network cards now, and had {}", self.of.shown, facts.nics.len(), cards.len()),
                "give it the cards that it had, in the platform's own client",
            ));
        }
        let edits: Vec<NicEdit> = facts.nics.iter().zip(cards).map(|(nic, card)| card.edit(nic, on)).collect();
        Ok(machines.edit_nics(&self.of.uuid, &edits).await?.into())
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
        self.set(world, &self.cards).await
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let cards: Vec<Card> = read(&found["cards"])?;
        self.set(world, &cards).await
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
    async fn set(&self, world: &World, name: &str, mark: Option<&Mark>) -> Result<Done, StepError> {
        let machines = self.of.machines(world)?;
        let marked = machines.set_mark(&self.of.uuid, mark).await?;
        let named = machines.rename(&self.of.uuid, name).await?;
        Ok(if named == Change::Unchanged { marked } else { named }.into())
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
        self.set(world, &self.name, self.mark.as_ref()).await
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let (name, mark): (String, Option<Mark>) = (read(&found["name"])?, read(&found["mark"])?);
        self.set(world, &name, mark.as_ref()).await
    }
}
