//! Hooks of the inventory: a command at a point of a verb, or a pair around it whose second half is guaranteed.

use std::time::Duration;

use async_trait::async_trait;
use hypervisors::Change;
use hypervisors::host::Command;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::leased::Leased;
use super::{Done, Probe, Step, StepError, World};

pub use super::place::Place;

/// A command declared in the inventory. Its undo is the declared one (for a pair: the second half).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Its name in the inventory.
    pub name: String,
    /// Where it runs.
    pub place: Place,
    /// Program and arguments, placeholders replaced.
    pub argv: Vec<String>,
    /// What takes it back.
    pub undo: Option<Vec<String>>,
    /// Time-out in seconds.
    pub timeout_s: u64,
    /// Its undo is carried out by the machine itself, once the engine has not been heard of for so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<u64>,
}

impl Hook {
    async fn run(&self, world: &World, argv: &[String]) -> Result<Done, StepError> {
        let host = self.place.of(world)?;
        let command = Command::new(argv.to_vec()).timeout(Duration::from_secs(self.timeout_s));
        host.run(&command).await?.checked(format!("run hook {}", self.name), &command)?;
        Ok(Change::Changed.into())
    }
}

#[async_trait]
impl Step for Hook {
    fn title(&self) -> String {
        format!("run the hook {} on {}", self.name, self.place.word())
    }
    fn undo_title(&self) -> String {
        self.undo.as_ref().map_or_else(|| "-".into(), |argv| argv.join(" "))
    }
    fn taken_back(&self) -> String {
        match &self.undo {
            Some(argv) => format!("{}: {} (hook)", self.name, argv.join(" ")),
            None => self.title(),
        }
    }
    fn commands(&self, manners: &super::Manners) -> Vec<Vec<String>> {
        vec![match &self.place {
            Place::Host(host) => manners.on(host, self.argv.clone()),
            Place::Controller | Place::Guest { .. } => self.argv.clone(),
        }]
    }
    fn leased(&self) -> Option<Leased> {
        Some(Leased {
            name: self.name.clone(),
            place: self.place.clone(),
            reversal: self.undo.clone()?,
            seconds: self.lease_s?,
            limit_s: self.timeout_s,
        })
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        // A foreign command cannot be looked at: it is run, and running it twice must be harmless (documented).
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let Some(leased) = self.leased() else { return self.run(world, &self.argv).await };
        let done = Done::new(Change::Changed);
        Ok(match leased.make(world, &self.argv).await? {
            Ok(()) => done,
            Err(why) => done.warn(format!(
                "{}: {} cannot take it back by itself ({why}): without the controller, nobody does",
                self.name,
                self.place.word()
            )),
        })
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        if let Some(leased) = self.leased() {
            leased.take_back(world).await?;
            return Ok(Change::Changed.into());
        }
        match &self.undo {
            Some(argv) => self.run(world, argv).await,
            None => Ok(Change::Unchanged.into()),
        }
    }
}
