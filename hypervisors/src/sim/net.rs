//! The network of the simulated world: one bridge, its guests, its neighbours, the machine itself.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;

use super::world::Sim;
use super::{rules, services};
use crate::net::Stream;
use crate::{Error, MacAddr, Net, Power, Result};

/// The network as the simulated machine sees it.
#[derive(Clone, Debug)]
pub struct SimNet(pub(super) Sim);

impl SimNet {
    /// Waits as long as silence takes to be told, or until patience ends.
    async fn silence(&self, patience: Duration) -> Result<()> {
        let silence = Duration::from_millis(self.0.config()?.silence_ms);
        tokio::time::sleep(silence.min(patience)).await;
        Ok(())
    }
}

#[async_trait]
impl Net for SimNet {
    async fn owner(&self, address: IpAddr, via: &str) -> Result<Option<MacAddr>> {
        let owners = self
            .0
            .observe("net.owner", &address.to_string(), |world| {
                let config = world.sim.config()?;
                let mut owners: Vec<MacAddr> = Vec::new();
                if via == config.bridge && config.addresses.contains(&address) {
                    owners.push(config.mac);
                }
                if via == config.bridge {
                    owners.extend(config.neighbours.get(&address));
                }
                let guests = world.owners(address)?;
                owners.extend(guests.iter().filter(|(_, nic)| nic.bridge == via).map(|(_, nic)| nic.mac));
                Ok(owners)
            })
            .await?;
        if owners.len() > 1 {
            let conflict = format!("{address} has {} owners", owners.len());
            self.0
                .effect("net.conflict", &address.to_string(), |world| {
                    world.conflicts.push(conflict);
                    Ok(())
                })
                .await?;
        }
        if owners.is_empty() {
            self.silence(Duration::MAX).await?;
        }
        Ok(owners.first().copied())
    }

    async fn find(&self, mac: MacAddr, via: &str) -> Result<Option<IpAddr>> {
        let found = self
            .0
            .observe("net.find", &mac.to_string(), |world| {
                let running = world.running()?;
                let nics =
                    running.iter().filter(|(_, guest)| guest.power == Power::On).flat_map(|(_, guest)| &guest.nics);
                let mut mine = nics.filter(|nic| nic.mac == mac && nic.bridge == via).flat_map(|nic| &nic.addresses);
                Ok(mine.find(|(address, _)| address.is_ipv4()).map(|(address, _)| *address))
            })
            .await?;
        if found.is_none() {
            self.silence(Duration::MAX).await?;
        }
        Ok(found)
    }

    async fn announce(&self, address: IpAddr, mac: MacAddr, via: &str) -> Result<()> {
        self.0.effect("net.announce", &format!("{address} at {mac} on {via}"), |_| Ok(())).await
    }

    async fn source(&self, to: IpAddr) -> Result<IpAddr> {
        let own = self.0.config()?.addresses;
        own.into_iter()
            .find(|own| own.is_ipv4() == to.is_ipv4())
            .ok_or_else(|| Error::not_found(format!("find the way to {to}"), "network is unreachable"))
    }

    async fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<Box<dyn Stream>> {
        let doing = format!("connect to {to}");
        let place = self
            .0
            .observe("net.connect", &to.to_string(), |world| {
                let Some((guest, _)) = world.owners(to.ip())?.into_iter().next() else { return Ok(None) };
                let runtime = world.runtime(&guest)?;
                let back = world.sim.config()?.addresses.first().map(|own| SocketAddr::new(*own, 40_022));
                if back.is_some_and(|back| !rules::let_out(&runtime.rules, 0, "tcp", back)) {
                    return Ok(None);
                }
                let Some(service) = services::behind(to.port(), &runtime.units) else {
                    return Err(Error::refused(&doing, "connection refused"));
                };
                let root = runtime.parsed()?.root().map(|disk| disk.volume.clone()).unwrap_or_default();
                world.usable(&doing, &root)?;
                Ok(Some(services::Place { sim: world.sim.clone(), guest, root: world.tree(&root), service }))
            })
            .await?;
        let Some(place) = place else {
            self.silence(timeout).await?;
            return Err(Error::unknown(doing, "connection timed out"));
        };
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        // The client's end notices when the service stops: the stream ends. There is nobody to tell about more.
        drop(tokio::spawn(services::serve(place, theirs)));
        Ok(Box::new(ours))
    }

    async fn ask(&self, to: SocketAddr, _payload: &[u8], timeout: Duration) -> Result<Vec<u8>> {
        self.silence(timeout).await?;
        Err(Error::unknown(format!("ask {to}"), "no answer"))
    }
}
