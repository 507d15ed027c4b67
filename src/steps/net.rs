//! Steps on addresses: the old owner proven silent, the new one announced.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::{Change, GuestLink, MacAddr, Power};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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

/// Learns the address of a guest that a DHCP server gave one: whoever has its hardware address on the link, proven by the
/// host key that ssh expects of it. Later commands find it the same way when the address has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnAddress {
    /// Inventory host.
    pub host: String,
    /// The way into the guest.
    pub link: GuestLink,
    /// How long it may take until it answers, in seconds.
    pub timeout_s: u64,
}

/// Pause between two looks for a guest that boots.
const LOOK_AGAIN: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 300 });

#[async_trait]
impl Step for LearnAddress {
    fn title(&self) -> String {
        let by = self.link.by.as_ref().map(|by| format!(" ({} on {})", by.mac, by.via));
        format!("learn the address of {}{}", self.link.name, by.unwrap_or_default())
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        // It may have changed since it was learnt.
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let (net, guest) = (hypervisor.net(), hypervisor.guest(&self.link)?);
        let begun = Instant::now();
        loop {
            let learn = async {
                let address = hypervisors::net::address(&*net, &self.link).await?;
                let command = Command::new(["true"]).timeout(Duration::from_secs(20));
                guest.run(&command).await.map(|_| address)
            };
            match learn.await {
                Ok(address) => return Ok(Done::new(Change::Changed).with(json!({ "address": address }))),
                Err(error) if error.is_unknown() && begun.elapsed() < Duration::from_secs(self.timeout_s) => {
                    world.progress(format!("looking for {}: {error}", self.link.name), None);
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(error) if error.is_unknown() => {
                    return Err(StepError::failed(
                        format!("{} was not found within {} s: {error}", self.link.name, self.timeout_s),
                        "look whether the DHCP server gave it a lease; or give it a static address: --ip .16",
                    ));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

fn listed(places: &[Place]) -> String {
    places.iter().map(|place| place.address.to_string()).collect::<Vec<_>>().join(", ")
}

/// Proves that nobody answers for the addresses any more. Fence first: never two owners of our making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveSilent {
    /// Inventory host.
    pub host: String,
    /// Which addresses.
    pub places: Vec<Place>,
    /// On a way back: the guest that is about to take them again. If it runs, the proof was held before it started: an
    /// attempt that was cut short got further than its journal. A stranger who answers is worth a warning there: production
    /// must not stay down for a machine that was there before us (a standby that took over, say).
    #[serde(default, alias = "before", skip_serializing_if = "Option::is_none")]
    pub back_to: Option<String>,
    /// Hardware addresses of the run's own guests beside those of the places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ours: Vec<MacAddr>,
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
        if let Some(guest) = &self.back_to
            && hypervisor.power(guest).await? == Power::On
        {
            return Ok(Change::Unchanged.into());
        }
        let net = hypervisor.net();
        let ours = |mac: MacAddr| self.ours.contains(&mac) || self.places.iter().any(|place| place.mac == Some(mac));
        let mut done = Done::new(Change::Unchanged);
        for place in &self.places {
            let mut owner = None;
            for _ in 0..5 {
                owner = net.owner(place.address, &place.via).await?;
                if owner.is_none() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let Some(mac) = owner else { continue };
            let why = format!("{} is still answered by {mac}", place.address);
            if self.back_to.is_some() && !ours(mac) {
                done = done.warn(format!("{why}, a machine of somebody else's"));
                continue;
            }
            return Err(StepError::failed(
                why,
                "find the machine with that hardware address; two owners of an address break both",
            ));
        }
        Ok(done)
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
