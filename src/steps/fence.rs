//! Fences inside a running clone: the one for the time of a verification is put up and taken down here, the clone's own
//! ([`crate::guest::fence`]) is proven to stand.

use std::net::IpAddr;

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::{Change, GuestLink, Host};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Done, Probe, Step, StepError, World};
use crate::guest::fence::{self, Family, VERIFYING_WALL, WALL};

/// A fence has fewer rules.
const MOST_RULES: usize = 100;

async fn run(guest: &dyn Host, argv: &[&str]) -> Result<String, StepError> {
    let command = Command::new(argv.iter().copied());
    Ok(guest.run(&command).await?.checked(argv.join(" "), &command)?.text())
}

/// The families the guest's kernel has.
async fn families(guest: &dyn Host) -> Result<Vec<Family>, StepError> {
    let command = Command::new(["test", "-e", "/proc/net/if_inet6"]);
    let ipv6 = guest.run(&command).await?.status == 0;
    Ok(if ipv6 { vec![Family::V4, Family::V6] } else { vec![Family::V4] })
}

/// Whether a wall stands among the rules that `ip rule show` printed.
fn stands(rules: &str, wall: u32) -> bool {
    let start = format!("{wall}:");
    rules.lines().any(|line| line.starts_with(&start) && line.trim_end().ends_with("unreachable"))
}

/// Whether the wall stands in every family; `None` if in some.
async fn standing(guest: &dyn Host, wall: u32) -> Result<Option<bool>, StepError> {
    let (mut up, mut all) = (0, 0);
    for family in families(guest).await? {
        let rules = run(guest, &["ip", family.option(), "rule", "show"]).await?;
        all += 1;
        up += usize::from(stands(&rules, wall));
    }
    Ok(if up == 0 { Some(false) } else { (up == all).then_some(true) })
}

/// Fences a guest's outgoing traffic by routing rules: everything but the way back to the controller is unreachable.
/// Stands before the clone's own fence, if it has one. Lives until it is taken back or the guest reboots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceOutgoing {
    host: String,
    link: GuestLink,
}

impl FenceOutgoing {
    /// Of this guest.
    pub fn new(host: &str, link: &GuestLink) -> Self {
        Self { host: host.to_owned(), link: link.clone() }
    }
}

/// Adds a rule; one that is there already is as good.
async fn add(guest: &dyn Host, family: Family, words: &[String]) -> Result<(), StepError> {
    let argv = ["ip", family.option(), "rule", "add"].into_iter().chain(words.iter().map(String::as_str));
    let command = Command::new(argv);
    let output = guest.run(&command).await?;
    if !String::from_utf8_lossy(&output.stderr).contains("File exists") {
        output.checked(command.argv.join(" "), &command)?;
    }
    Ok(())
}

/// Removes all rules of a preference.
async fn remove(guest: &dyn Host, family: Family, pref: &str) -> Result<(), StepError> {
    for _ in 0..MOST_RULES {
        let command = Command::new(["ip", family.option(), "rule", "del", "pref", pref]);
        if guest.run(&command).await?.status != 0 {
            break;
        }
    }
    Ok(())
}

#[async_trait]
impl Step for FenceOutgoing {
    fn title(&self) -> String {
        "fence the clone's outgoing traffic".into()
    }
    fn undo_title(&self) -> String {
        "open it again".into()
    }
    fn commands(&self, _manners: &super::Manners) -> Vec<Vec<String>> {
        let words = fence::wall(VERIFYING_WALL);
        vec![["ip", "rule", "add"].map(str::to_owned).into_iter().chain(words).collect()]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let guest = world.hypervisor(&self.host)?.guest(&self.link)?;
        Ok(match standing(&*guest, VERIFYING_WALL).await? {
            Some(true) => Probe::Present,
            Some(false) => Probe::Absent,
            None => Probe::Partial,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = world.hypervisor(&self.host)?.guest(&self.link)?;
        // Who we are, as the guest sees it: that way stays open.
        let seen = run(&*guest, &["printenv", "SSH_CONNECTION"]).await?;
        let Some(controller) = seen.split_whitespace().next().and_then(|word| word.parse::<IpAddr>().ok()) else {
            return Err(StepError::failed("the guest does not say where we come from", "let sshd set SSH_CONNECTION"));
        };
        for family in families(&*guest).await? {
            for words in fence::while_verifying(controller, family) {
                add(&*guest, family, &words).await?;
            }
        }
        match standing(&*guest, VERIFYING_WALL).await? {
            Some(true) => Ok(Change::Changed.into()),
            _ => Err(StepError::failed("the fence does not stand", "look at ip rule in the clone")),
        }
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = world.hypervisor(&self.host)?.guest(&self.link)?;
        for family in families(&*guest).await? {
            // The wall first: our own way is never cut off.
            for pref in fence::verifying_prefs() {
                remove(&*guest, family, &pref.to_string()).await?;
            }
        }
        Ok(Change::Changed.into())
    }
}

/// Proves that the clone's own fence stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveFenced {
    /// Inventory host.
    pub host: String,
    /// The way into the clone.
    pub link: GuestLink,
}

#[async_trait]
impl Step for ProveFenced {
    fn title(&self) -> String {
        format!("see that the fence of {} stands", self.link.name)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &super::Manners) -> Vec<Vec<String>> {
        vec![["ip", "rule", "show"].map(str::to_owned).to_vec()]
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = world.hypervisor(&self.host)?.guest(&self.link)?;
        match standing(&*guest, WALL).await? {
            Some(true) => Ok(Change::Unchanged.into()),
            _ => Err(StepError::failed(
                format!("{} has no fence although clone.network is \"fenced\"", self.link.name),
                "systemctl status upgradectl-fence in the clone says why",
            )),
        }
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// What the clone cannot be fenced for want of, by the running original; `None`: nothing is missing.
///
/// # Errors
/// The guest does not answer.
pub async fn unfit(guest: &dyn Host) -> Result<Option<&'static str>, hypervisors::Error> {
    let output = guest.run(&Command::new(["ip", "rule", "help"])).await?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if !["ipproto", "uidrange"].iter().all(|word| said.contains(word)) {
        return Ok(Some("its ip(8) knows no rules by protocol and user (iproute2 4.18 does)"));
    }
    if guest.run(&Command::new(["systemctl", "is-system-running"])).await?.text().trim().is_empty() {
        return Ok(Some("it is not booted by systemd, which puts the fence up before the network"));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_is_recognised_by_its_preference_and_its_end() {
        let rules = "0:\tfrom all lookup local\n8100:\tfrom all to 10.0.5.1 lookup main\n8199:\tfrom all unreachable\n";
        assert!(stands(rules, 8199) && !stands(rules, 8099) && !stands(rules, 199));
        assert!(!stands("8199:\tfrom all to 10.0.5.1 lookup main\n", 8199));
    }
}
