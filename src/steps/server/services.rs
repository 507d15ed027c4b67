//! The services of a server, stopped for good: what runs there must not write, mail or answer beside the guest that takes its place.

use async_trait::async_trait;
use hypervisors::{Change, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Server, run};
use crate::steps::{Done, Probe, Step, StepError, World};

/// Lists what runs and is to be stopped. With service(8) (FreeBSD 7.3 and later): enabled services whose status says that they run,
/// but for what the way in needs. Older systems: daemons of the base system that act or answer, by their processes.
const LIST: &str = "PATH=$PATH:/sbin:/usr/sbin:/usr/local/sbin:/usr/local/bin; export PATH; \
    if command -v service >/dev/null 2>&1; then for s in $(service -e); do n=${s##*/}; \
    case $n in sshd|syslogd|devd|moused|powerd|watchdogd|netif|routing|jail) continue;; esac; \
    case $(service \"$n\" onestatus 2>/dev/null </dev/null) in *'is running'*) echo \"$n\";; esac; done; \
    else for n in cron sendmail named inetd lpd portmap; do ps -axo ucomm | grep -q \"^$n *$\" && echo \"$n\"; done; exit 0; fi";

/// Arguments: what (`stop`, `start`), name.
const ACT: &str = "PATH=$PATH:/sbin:/usr/sbin:/usr/local/sbin:/usr/local/bin; export PATH; \
    if command -v service >/dev/null 2>&1; then service \"$2\" \"one$1\" </dev/null >/dev/null 2>&1; \
    else case $1 in stop) killall -STOP \"$2\";; start) killall -CONT \"$2\";; esac; fi; exit 0";

/// Stops the services of a server; taken back, those that were found running are started, the last one first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopServices {
    /// The server.
    pub server: Server,
    /// As they ran when the plan was made, in the order in which they start.
    pub services: Vec<String>,
}

/// The services of a server that run now, in the order in which they start.
///
/// # Errors
/// It cannot be asked.
pub async fn running(host: &dyn Host) -> Result<Vec<String>, StepError> {
    let doing = format!("ask {} for its services", host.name());
    let text = run(host, &doing, &["sh", "-c", LIST]).await?;
    let known = |name: &&str| {
        name.len() <= 100
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && !name.starts_with('-')
    };
    Ok(text.lines().map(str::trim).filter(known).filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

impl StopServices {
    /// Those of the plan that run now.
    async fn still(&self, host: &dyn Host) -> Result<Vec<String>, StepError> {
        let now = running(host).await?;
        Ok(self.services.iter().filter(|name| now.contains(name)).cloned().collect())
    }

    async fn act(&self, host: &dyn Host, what: &str, name: &str) -> Result<(), StepError> {
        run(host, &format!("{what} {name} of {}", self.server.source.name), &["sh", "-c", ACT, "sh", what, name])
            .await
            .map(drop)
    }
}

#[async_trait]
impl Step for StopServices {
    fn title(&self) -> String {
        match self.services.is_empty() {
            true => format!("stop the services of {}: none runs", self.server.source.name),
            false => format!("stop {} of {}", self.services.join(", "), self.server.source.name),
        }
    }
    fn undo_title(&self) -> String {
        "start them again".into()
    }
    fn taken_back(&self) -> String {
        format!("start the services of {} again", self.server.source.name)
    }
    fn commands(&self, _manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        let stop = |name: &String| ["service", name, "onestop"].map(str::to_owned).to_vec();
        self.services.iter().rev().map(stop).collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = self.server.there(world).await?;
        let left = self.still(&*host).await?.len();
        Ok(match left {
            0 => Probe::Present,
            left if left == self.services.len() => Probe::Absent,
            _ => Probe::Partial,
        })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let host = self.server.there(world).await?;
        Ok(json!({ "running": running(&*host).await? }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = self.server.there(world).await?;
        let begun = self.still(&*host).await?;
        for name in begun.iter().rev() {
            world.progress(format!("stopping {name}"), None);
            self.act(&*host, "stop", name).await?;
        }
        // What another one starts again (a supervisor, a dependency) would write and answer all the same.
        let left = self.still(&*host).await?;
        match left.is_empty() {
            true => Ok(if begun.is_empty() { Change::Unchanged } else { Change::Changed }.into()),
            false => Err(StepError::failed(
                format!("{} of {} did not stop", left.join(", "), self.server.source.name),
                "stop it by hand, and type the verb again",
            )),
        }
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let was: Vec<String> = crate::steps::read(&found["running"])?;
        let host = self.server.there(world).await?;
        let mut change = Change::Unchanged;
        let now = running(&*host).await?;
        for name in self.services.iter().filter(|name| was.contains(name) && !now.contains(name)) {
            self.act(&*host, "start", name).await?;
            change = Change::Changed;
        }
        let now = running(&*host).await?;
        let missing: Vec<&str> =
            self.services.iter().filter(|name| was.contains(name) && !now.contains(name)).map(String::as_str).collect();
        match missing.as_slice() {
            [] => Ok(change.into()),
            missing => Ok(Done::new(change).warn(format!(
                "{} of {} did not start again",
                missing.join(", "),
                self.server.source.name
            ))),
        }
    }
}
