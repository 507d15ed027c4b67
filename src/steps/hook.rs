//! Hooks of the inventory: a command at a point of a verb, or a pair around it whose second half is guaranteed.

use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::{Change, GuestLink};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Done, Probe, Step, StepError, World};

/// Where a hook runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The machine upgradectl runs on.
    Controller,
    /// The host of the guest.
    Host(String),
    /// Inside a running guest.
    Guest {
        /// Inventory host.
        host: String,
        /// How to get in.
        link: GuestLink,
    },
}

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
}

impl Hook {
    async fn run(&self, world: &World, argv: &[String]) -> Result<Done, StepError> {
        let host = match &self.place {
            Place::Controller => world.controller.clone(),
            Place::Host(host) => world.hypervisor(host)?.host(),
            Place::Guest { host, link } => world.hypervisor(host)?.guest(link)?,
        };
        let command = Command::new(argv.to_vec()).timeout(Duration::from_secs(self.timeout_s));
        host.run(&command).await?.checked(format!("run hook {}", self.name), &command)?;
        Ok(Change::Changed.into())
    }
}

#[async_trait]
impl Step for Hook {
    fn title(&self) -> String {
        let place = match &self.place {
            Place::Controller => "the controller".to_owned(),
            Place::Host(host) => host.clone(),
            Place::Guest { link, .. } => link.name.clone(),
        };
        format!("run the hook {} on {place}", self.name)
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
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        // A foreign command cannot be looked at: it is run, and running it twice must be harmless (documented).
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        self.run(world, &self.argv).await
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        match &self.undo {
            Some(argv) => self.run(world, argv).await,
            None => Ok(Change::Unchanged.into()),
        }
    }
}
