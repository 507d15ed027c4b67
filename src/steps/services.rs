//! Services that a verification needs, started in the clone for that time alone, with outgoing traffic fenced.

use std::net::IpAddr;

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::{Change, GuestLink, Host};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Done, Probe, Step, StepError, World};

async fn run(guest: &dyn Host, argv: &[&str]) -> Result<String, StepError> {
    let command = Command::new(argv.iter().copied());
    Ok(guest.run(&command).await?.checked(argv.join(" "), &command)?.text())
}

/// Starts quarantined services of the clone; taken back, they are stopped and masked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartWhileVerifying {
    host: String,
    link: GuestLink,
    /// What is started.
    units: Vec<String>,
    /// What is masked of these services: the units themselves, their templates, sockets, timers.
    masked: Vec<String>,
}

/// The service a unit belongs to: `postfix` of `postfix.service`, `postfix@.service`, `postfix@`.
pub fn service(unit: &str) -> &str {
    let name = unit.rsplit_once('.').map_or(unit, |(name, kind)| match kind {
        "service" | "socket" | "timer" | "path" => name,
        _ => unit,
    });
    name.split('@').next().unwrap_or(name)
}

fn full(name: &str) -> String {
    if name.rsplit_once('.').is_some_and(|(_, kind)| matches!(kind, "service" | "socket" | "timer" | "path")) {
        name.to_owned()
    } else {
        format!("{name}.service")
    }
}

impl StartWhileVerifying {
    /// Of this clone, these services of those that are off.
    pub fn new(host: &str, link: &GuestLink, services: &[String], off: &[String]) -> Self {
        let wanted = |unit: &&String| services.iter().any(|name| service(name) == service(unit));
        Self {
            host: host.to_owned(),
            link: link.clone(),
            units: services.iter().map(|name| full(name)).collect(),
            masked: off.iter().filter(wanted).map(|unit| full(unit)).collect(),
        }
    }

    async fn each(&self, world: &World, verb: &str, units: &[String]) -> Result<(), StepError> {
        let guest = world.hypervisor(&self.host)?.guest(&self.link)?;
        for unit in units {
            run(&*guest, &["systemctl", verb, unit]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Step for StartWhileVerifying {
    fn title(&self) -> String {
        format!("start {} for the verification", self.units.join(", "))
    }
    fn undo_title(&self) -> String {
        "stop and mask them again".into()
    }
    fn commands(&self) -> Vec<Vec<String>> {
        let argv = |verb: &str, unit: &String| vec!["systemctl".to_owned(), verb.to_owned(), unit.clone()];
        let unmask = self.masked.iter().map(|unit| argv("unmask", unit));
        unmask.chain(self.units.iter().map(|unit| argv("start", unit))).collect()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        self.each(world, "unmask", &self.masked).await?;
        self.each(world, "start", &self.units).await?;
        Ok(Change::Changed.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        self.each(world, "stop", &self.units).await?;
        self.each(world, "mask", &self.masked).await?;
        Ok(Change::Changed.into())
    }
}

/// Fences a guest's outgoing traffic by its own routing table: everything but the way back to the controller is
/// unreachable. Lives until it is taken back or the guest reboots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceOutgoing {
    host: String,
    link: GuestLink,
}

/// More specific than the default route and than any on-link route: halves of the whole and of the link.
fn halves(network: IpAddr, prefix: u8) -> Vec<String> {
    match network {
        IpAddr::V4(ip) if prefix < 32 => {
            let bits = u32::from(ip) & (u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0));
            let upper = bits | (1 << (31 - prefix));
            [bits, upper].map(|half| format!("{}/{}", std::net::Ipv4Addr::from(half), prefix + 1)).to_vec()
        }
        IpAddr::V6(ip) if prefix < 128 => {
            let bits = u128::from(ip) & (u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0));
            let upper = bits | (1 << (127 - prefix));
            [bits, upper].map(|half| format!("{}/{}", std::net::Ipv6Addr::from(half), prefix + 1)).to_vec()
        }
        _ => Vec::new(),
    }
}

impl FenceOutgoing {
    /// Of this guest.
    pub fn new(host: &str, link: &GuestLink) -> Self {
        Self { host: host.to_owned(), link: link.clone() }
    }

    /// The addresses and prefixes of the guest's interfaces, from `ip -j addr show`.
    async fn networks(guest: &dyn Host) -> Result<Vec<(IpAddr, u8)>, StepError> {
        let text = run(guest, &["ip", "-j", "addr", "show"]).await?;
        let links: Value = serde_json::from_str(&text)
            .map_err(|error| StepError::failed(format!("ip -j addr: {error}"), "install iproute2 in the guest"))?;
        let mut networks = vec![(IpAddr::from([0; 4]), 0), (IpAddr::from([0u8; 16]), 0)];
        for link in links.as_array().into_iter().flatten().filter(|link| link["ifname"] != "lo") {
            for info in link["addr_info"].as_array().into_iter().flatten().filter(|info| info["scope"] == "global") {
                let address = info["local"].as_str().and_then(|text| text.parse().ok());
                let prefix = info["prefixlen"].as_u64().and_then(|prefix| u8::try_from(prefix).ok());
                networks.extend(address.zip(prefix));
            }
        }
        Ok(networks)
    }

    async fn routes(&self, world: &World, verb: &str) -> Result<Done, StepError> {
        let guest = world.hypervisor(&self.host)?.guest(&self.link)?;
        // Who we are, as the guest sees it: that way stays open.
        let seen = run(&*guest, &["printenv", "SSH_CONNECTION"]).await?;
        let Some(controller) = seen.split_whitespace().next().and_then(|word| word.parse::<IpAddr>().ok()) else {
            return Err(StepError::failed("the guest does not say where we come from", "let sshd set SSH_CONNECTION"));
        };
        let route = run(&*guest, &["ip", "route", "get", &controller.to_string()]).await?;
        let words: Vec<&str> = route.split_whitespace().collect();
        let after = |key: &str| words.iter().position(|word| *word == key).and_then(|at| words.get(at + 1)).copied();
        let width = if controller.is_ipv4() { 32 } else { 128 };
        let own = format!("{controller}/{width}");
        let mut commands = Vec::new();
        if let Some(device) = after("dev").filter(|device| *device != "lo") {
            let mut argv = vec!["ip", "route", verb, &own];
            if let Some(gateway) = after("via") {
                argv.extend(["via", gateway]);
            }
            argv.extend(["dev", device]);
            commands.push(argv.into_iter().map(str::to_owned).collect::<Vec<_>>());
        }
        for (network, prefix) in Self::networks(&*guest).await? {
            let family = if network.is_ipv4() { "-4" } else { "-6" };
            for half in halves(network, prefix) {
                commands.push(["ip", family, "route", verb, "unreachable", &half].map(str::to_owned).to_vec());
            }
        }
        // Our own way is the first to be opened and the last to be given up: never cut off in between.
        if verb == "del" {
            commands.reverse();
        }
        for argv in &commands {
            self.tolerant(&*guest, argv, verb).await?;
        }
        Ok(Change::Changed.into())
    }

    /// Taking back what is not there is no failure.
    async fn tolerant(&self, guest: &dyn Host, argv: &[String], verb: &str) -> Result<(), StepError> {
        let command = Command::new(argv.to_vec());
        let output = guest.run(&command).await?;
        if verb != "del" {
            output.checked(argv.join(" "), &command)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Step for FenceOutgoing {
    fn title(&self) -> String {
        "fence the clone's outgoing traffic".into()
    }
    fn undo_title(&self) -> String {
        "open it again".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        self.routes(world, "replace").await
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        self.routes(world, "del").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_belongs_to_its_service() {
        for unit in
            ["postfix", "postfix@", "postfix.service", "postfix@.service", "postfix@-.service", "postfix.socket"]
        {
            assert_eq!(service(unit), "postfix");
        }
        assert_eq!(service("foo.bar"), "foo.bar");
    }

    #[test]
    fn halves_cover_the_whole_and_are_more_specific() {
        assert_eq!(halves(IpAddr::from([0; 4]), 0), ["0.0.0.0/1", "128.0.0.0/1"]);
        assert_eq!(halves(IpAddr::from([10, 0, 5, 16]), 24), ["10.0.5.0/25", "10.0.5.128/25"]);
        assert_eq!(halves(IpAddr::from([10, 0, 5, 16]), 32), Vec::<String>::new());
        assert_eq!(halves(IpAddr::from([0u8; 16]), 0), ["::/1", "8000::/1"]);
    }
}
