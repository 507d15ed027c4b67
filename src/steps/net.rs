//! Steps on addresses: the old owner proven silent, the new one announced.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::{Change, MacAddr, Power};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Done, Probe, Step, StepError, World};

/// An address, where it is on the link, and by which interface of the host it is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The address.
    pub address: IpAddr,
    /// Interface of the host that is on its link.
    pub via: String,
    /// Who announces it.
    pub mac: Option<MacAddr>,
}

fn listed(places: &[Place]) -> String {
    places.iter().map(|place| place.address.to_string()).collect::<Vec<_>>().join(", ")
}

/// Proves that nobody answers for the addresses any more. Fence first: never two owners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveSilent {
    /// Inventory host.
    pub host: String,
    /// Which addresses.
    pub places: Vec<Place>,
    /// The guest that is about to take them. If it runs, the proof was held before it started: an attempt that was
    /// cut short got further than its journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

#[async_trait]
impl Step for ProveSilent {
    fn title(&self) -> String {
        format!("prove that nobody answers for {}", listed(&self.places))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        if let Some(guest) = &self.before
            && hypervisor.power(guest).await? == Power::On
        {
            return Ok(Change::Unchanged.into());
        }
        let net = hypervisor.net();
        for place in &self.places {
            let mut owner = None;
            for _ in 0..5 {
                owner = net.owner(place.address, &place.via).await?;
                if owner.is_none() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            if let Some(mac) = owner {
                return Err(StepError::failed(
                    format!("{} is still answered by {mac}", place.address),
                    "find the machine with that hardware address; two owners of an address break both",
                ));
            }
        }
        Ok(Change::Unchanged.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Tells the neighbours where the addresses are now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// Inventory host.
    pub host: String,
    /// Which addresses; those without a hardware address are left out.
    pub places: Vec<Place>,
}

#[async_trait]
impl Step for Announce {
    fn title(&self) -> String {
        format!("announce {} to the neighbours", listed(&self.places))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let net = world.hypervisor(&self.host)?.net();
        for place in &self.places {
            if let Some(mac) = place.mac {
                net.announce(place.address, mac, &place.via).await?;
            }
        }
        Ok(Change::Changed.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
