//! The machines that a command of a step can run on.

use std::collections::BTreeMap;
use std::sync::Arc;

use hypervisors::{GuestLink, Host, Hypervisor};
use serde::{Deserialize, Serialize};

use super::{StepError, World, known};

/// Where a command runs.
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

impl Place {
    /// The machine.
    pub fn of(&self, world: &World) -> Result<Arc<dyn Host>, StepError> {
        self.among(&world.hypervisors, &world.controller)
    }

    /// The machine, among these.
    pub(super) fn among(
        &self,
        hypervisors: &BTreeMap<String, Arc<dyn Hypervisor>>,
        controller: &Arc<dyn Host>,
    ) -> Result<Arc<dyn Host>, StepError> {
        Ok(match self {
            Place::Controller => controller.clone(),
            Place::Host(host) => known(hypervisors, host)?.host(),
            Place::Guest { host, link } => known(hypervisors, host)?.guest(link)?,
        })
    }

    /// As people call it.
    pub fn word(&self) -> &str {
        match self {
            Place::Controller => "the controller",
            Place::Host(host) => host,
            Place::Guest { link, .. } => &link.name,
        }
    }
}
