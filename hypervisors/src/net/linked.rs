//! The network of another host's bridges, as this machine sees it: by its own interfaces on the same links.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{MacAddr, Net, Stream};
use crate::Result;

/// A network in which a bridge of another host stands for an interface of this machine.
#[derive(Clone, Debug)]
pub struct Linked {
    net: Arc<dyn Net>,
    links: BTreeMap<String, String>,
}

impl Linked {
    /// Interfaces of this machine by the bridge whose link they are on; a bridge that is not named has the same name here.
    pub fn new(net: Arc<dyn Net>, links: BTreeMap<String, String>) -> Self {
        Self { net, links }
    }
    fn here<'a>(&'a self, via: &'a str) -> &'a str {
        self.links.get(via).map_or(via, String::as_str)
    }
}

#[async_trait]
impl Net for Linked {
    fn interface<'a>(&'a self, via: &'a str) -> &'a str {
        self.here(via)
    }
    async fn owner(&self, address: IpAddr, via: &str) -> Result<Option<MacAddr>> {
        self.net.owner(address, self.here(via)).await
    }
    async fn find(&self, mac: MacAddr, via: &str) -> Result<Option<IpAddr>> {
        self.net.find(mac, self.here(via)).await
    }
    async fn announce(&self, address: IpAddr, mac: MacAddr, via: &str) -> Result<()> {
        self.net.announce(address, mac, self.here(via)).await
    }
    async fn source(&self, to: IpAddr) -> Result<IpAddr> {
        self.net.source(to).await
    }
    async fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<Box<dyn Stream>> {
        self.net.connect(to, timeout).await
    }
    async fn ask(&self, to: SocketAddr, payload: &[u8], timeout: Duration) -> Result<Vec<u8>> {
        self.net.ask(to, payload, timeout).await
    }
}
