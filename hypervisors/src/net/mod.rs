//! The network as a machine sees it: who answers for an address, announcing one, connecting to one.

mod found;
pub(crate) mod frame;
mod linked;
mod real;

pub(crate) use found::inside;
pub use found::{address, known_address};
pub use linked::Linked;
pub use real::{OwnAddress, RealNet, own_addresses};

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Result;

/// A hardware address, displayed as `00:16:3e:00:05:0c`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bad = || format!("{text:?} is not a hardware address such as 00:16:3e:00:05:0c");
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = String;
    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

/// A byte stream to a service.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The network as one machine sees it.
#[async_trait]
pub trait Net: Send + Sync + fmt::Debug {
    /// The interface of this machine that is on the link behind `via`.
    fn interface<'a>(&'a self, via: &'a str) -> &'a str {
        via
    }
    /// Who answers for an address on the link behind the interface `via` (ARP for IPv4, neighbour solicitation for
    /// IPv6), asked afresh, not from a cache. `None` after about a second of silence. The machine's own
    /// addresses count: an address of the machine itself is answered by the interface's own hardware address.
    async fn owner(&self, address: IpAddr, via: &str) -> Result<Option<MacAddr>>;
    /// The IPv4 address of the machine with this hardware address on the link behind `via`: every address of the link's
    /// own network is asked for, and what it says by itself is heard. `None` after about a second. A network of more than
    /// 4096 addresses is not asked, only heard.
    async fn find(&self, mac: MacAddr, via: &str) -> Result<Option<IpAddr>>;
    /// Tells the neighbours that `address` is at `mac` now (gratuitous ARP, unsolicited neighbour advertisement).
    async fn announce(&self, address: IpAddr, mac: MacAddr, via: &str) -> Result<()>;
    /// The own address that packets to `to` carry as their source, by the routing table; nothing is sent.
    async fn source(&self, to: IpAddr) -> Result<IpAddr>;
    /// Connects by TCP. A refusal is [`crate::Cause::Refused`], silence [`crate::Cause::Unknown`].
    async fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<Box<dyn Stream>>;
    /// Sends one UDP datagram and returns the first answer.
    async fn ask(&self, to: SocketAddr, payload: &[u8], timeout: Duration) -> Result<Vec<u8>>;
}
