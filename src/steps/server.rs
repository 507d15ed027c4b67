//! Steps on a server whose place a guest takes: its services stopped, its address given up for another one by which it stays within
//! reach, and the proof that nobody answers for its address any more.
//!
//! The server is not a guest of any platform: everything goes over ssh into it. After promotion a guest with the same host keys
//! answers at its old address, so who answers is looked at ([`Server::there`]).

mod carry;
mod park;
mod queue;
mod services;

use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::{Command, SshHost, printable_tail};
use hypervisors::{Change, GuestLink, Host, Power};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use carry::CarryOver;
pub(in crate::steps) use carry::transferred;
pub use park::{Old, Park, Parking};
pub use queue::MirrorQueues;
pub use services::{StopServices, running};

use super::{Done, Probe, Step, StepError, World};

/// Where a run keeps its things on a server: beneath it, a directory of the run's id.
pub const DIRECTORY: &str = "/var/db/upgradectl";

/// The ways into a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Inventory host whose guest takes its place.
    pub host: String,
    /// At the address that it has in production.
    pub source: GuestLink,
    /// At the address that it has after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parking: Option<GuestLink>,
    /// The run.
    pub run: String,
    /// UUID of the container that takes its place; `None`: a jail does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// Arguments: the run's directory on the server, UUID of the container made of it. Whether this is the server, and neither a jail nor the
/// container made of it: libvirt tells a container's init its UUID.
const ITSELF: &str = "test -d \"$1\" && exit 0; test \"$(sysctl -n security.jail.jailed 2>/dev/null)\" = 1 && exit 1; \
    test -n \"$2\" && tr '\\000' '\\n' 2>/dev/null </proc/1/environ | grep -qxF \"LIBVIRT_LXC_UUID=$2\" && exit 1; exit 0";

impl Server {
    fn directory(&self) -> String {
        format!("{DIRECTORY}/{}", self.run)
    }

    async fn is_it(&self, host: &dyn Host) -> Result<bool, StepError> {
        let command =
            Command::new(["sh", "-c", ITSELF, "sh", &self.directory(), self.container.as_deref().unwrap_or_default()])
                .timeout(Duration::from_secs(20));
        match host.run(&command).await {
            Ok(output) => Ok(output.status == 0),
            // Nobody is there, or nobody we know.
            Err(error) if error.is_unknown() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The server, at the address of production, if it is there.
    pub async fn at_home(&self, world: &World) -> Result<Option<Arc<dyn Host>>, StepError> {
        let host = world.hypervisor(&self.host)?.guest(&self.source)?;
        Ok(self.is_it(&*host).await?.then_some(host))
    }

    /// The server at its parking address, if it is there.
    pub async fn parked(&self, world: &World) -> Result<Option<Arc<dyn Host>>, StepError> {
        let Some(link) = &self.parking else { return Ok(None) };
        let host = world.hypervisor(&self.host)?.guest(link)?;
        Ok(self.is_it(&*host).await?.then_some(host))
    }

    /// Another machine is or was behind the address of production: a connection that stands there would only time out.
    async fn look_anew(&self) {
        // Where none stands there is nothing to end.
        let _ = SshHost::for_guest(&self.source).disconnect().await;
    }

    /// The server, and whether it is at the address of production; `None`: it answers nowhere. Where it is not, only a time-out says so:
    /// both are asked at once.
    pub async fn found(&self, world: &World) -> Result<Option<(Arc<dyn Host>, bool)>, StepError> {
        let (mut home, mut parked) = (pin!(self.at_home(world)), pin!(self.parked(world)));
        let (first, at_home) = tokio::select! {
            found = &mut home => (found?, true),
            found = &mut parked => (found?, false),
        };
        Ok(match first {
            Some(host) => Some((host, at_home)),
            None if at_home => parked.await?.map(|host| (host, false)),
            None => home.await?.map(|host| (host, true)),
        })
    }

    /// The server, wherever it is.
    ///
    /// # Errors
    /// It answers nowhere: [`StepError::Unknown`].
    pub async fn there(&self, world: &World) -> Result<Arc<dyn Host>, StepError> {
        if let Some((host, _)) = self.found(world).await? {
            return Ok(host);
        }
        let parking = self.parking.as_ref().map(|link| format!(", nor at {}", link.address)).unwrap_or_default();
        Err(StepError::Unknown(format!("{} does not answer at {}{parking}", self.source.name, self.source.address)))
    }
}

/// Arguments: path. Its permission bits in octal, by FreeBSD's stat(1) or by Linux's; 644 where there is neither.
const MODE: &str =
    "{ stat -f %Lp -- \"$1\" 2>/dev/null || stat -c %a -- \"$1\" 2>/dev/null; } | grep '^[0-7][0-7]*$' || echo 644";

async fn run(host: &dyn Host, doing: &str, argv: &[&str]) -> Result<String, StepError> {
    let command = Command::new(argv.iter().copied()).timeout(Duration::from_secs(120));
    Ok(host.run(&command).await?.checked(doing, &command)?.text())
}

/// Proves that nobody on the link of a host answers for addresses any more, as that host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveQuiet {
    /// Inventory host.
    pub host: String,
    /// Which addresses.
    pub addresses: Vec<IpAddr>,
    /// The link on which they are asked for from this machine, if the host is this machine; else the host asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// On a way back: the guest that gave them up, and the server that takes them again. If the guest runs, it has not; and the server
    /// may have them already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<(String, Server)>,
}

/// Arguments: address. Status 0: somebody answers, and what is known of him is printed. Who had the address a while ago is forgotten first. `-t` is a limit in seconds to one ping(8) and a
/// limit in hops to another; either does.
const ANSWERS: &str = "case $1 in *:*) p=ping6; command -v ping6 >/dev/null 2>&1 || p='ping -6';; *) p=ping;; esac; \
    { arp -d \"$1\" || ip neigh flush to \"$1\"; } >/dev/null 2>&1; $p -c 2 -t 3 \"$1\" >/dev/null 2>&1 && { echo 'it answers'; exit 0; }; \
    case $1 in *:*) exit 1;; esac; \
    a=$({ arp -n \"$1\" || ip neigh show to \"$1\"; } 2>/dev/null | grep -i '[0-9a-f][0-9a-f]*:[0-9a-f][0-9a-f]*:[0-9a-f]' | grep -vi incomplete | grep -v FAILED); \
    test -n \"$a\" && echo \"$a\"";

/// Who answers for an address on a link of a machine, in a few words of that machine's; `None`: nobody.
///
/// # Errors
/// It cannot be asked.
pub async fn answers(host: &dyn Host, address: IpAddr) -> Result<Option<String>, StepError> {
    let command = Command::new(["sh", "-c", ANSWERS, "sh", &address.to_string()]).timeout(Duration::from_secs(60));
    let output = host.run(&command).await?;
    Ok((output.status == 0).then(|| printable_tail(&output.stdout, 1)))
}

#[async_trait]
impl Step for ProveQuiet {
    fn title(&self) -> String {
        let all: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        format!("prove that nobody answers for {}", all.join(", "))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        if let Some((guest, server)) = &self.back {
            if hypervisor.power(guest).await? == Power::On {
                return Err(StepError::failed(
                    format!("{guest} runs, and has the address"),
                    format!("stop it on {}", self.host),
                ));
            }
            server.look_anew().await;
            if matches!(server.found(world).await?, Some((_, true))) {
                return Ok(Change::Unchanged.into());
            }
        }
        let host = hypervisor.host();
        for address in &self.addresses {
            let mut said = None;
            for _ in 0..5 {
                said = match &self.via {
                    Some(via) => hypervisor.net().owner(*address, via).await?.map(|mac| mac.to_string()),
                    None => answers(&*host, *address).await?,
                };
                if said.is_none() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            if let Some(said) = said {
                return Err(StepError::failed(
                    format!("{address} is still answered, as {} sees it: {said}", self.host),
                    "find the machine that has it; two owners of an address break both",
                ));
            }
        }
        Ok(Change::Unchanged.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// A file of the server, as text.
async fn text(host: &dyn Host, path: &str) -> Result<Option<String>, StepError> {
    let bytes = host.read_file(Path::new(path), 1 << 20).await?;
    bytes
        .map(String::from_utf8)
        .transpose()
        .map_err(|_| StepError::failed(format!("{path} of {} is not UTF-8", host.name()), "convert it: iconv -t UTF-8"))
}
