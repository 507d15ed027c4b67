//! Steps between two machines of which neither reaches the other, at the promotion of a linked clone: its services are stopped, and what
//! the original wrote meanwhile is brought over, through us ([`mirror`]). Both are reached over ssh.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::transfer::mirror::{Mirror, mirror};
use hypervisors::{Change, GuestLink, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::linked::Which;
use crate::guest::queues;
use crate::steps::server::{running, transferred};
use crate::steps::{Done, Manners, Probe, Step, StepError, World, read};

/// Where rsync's shell lies on a machine that data is brought to. It is made anew each time.
pub(super) const SHELL: &str = "/run/upgradectl-rsync-shell";

pub(super) fn guest(world: &World, host: &str, link: &GuestLink) -> Result<Arc<dyn Host>, StepError> {
    Ok(world.hypervisor(host)?.guest(link)?)
}

/// Empties the known queues of a clone: what is in them is its original's to work on, and comes over at promotion (kind
/// `machine.empty_queues`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmptyQueues {
    /// The clone.
    pub of: Which,
    /// The guest, whose login is used.
    pub guest: String,
}

/// Arguments: directories beneath the root. Files of those that are there and no links lead to are removed, but for hidden ones.
const EMPTY: &str = "for d do p=$(cd -P \"/$d\" 2>/dev/null && pwd -P) || continue; test \"$p\" = \"/$d\" || continue; \
    find \"$p\" -xdev -type f '(' -name '.*' -o -exec rm -f {} + ')' || exit 1; done; sync";

#[async_trait]
impl Step for EmptyQueues {
    fn title(&self) -> String {
        format!("empty the mail and job queues of {}", self.of.shown)
    }
    fn undo_title(&self) -> String {
        "goes with the clone".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = super::machines(world, &self.of.host)?.enter(&self.of.uuid, &self.guest).await?;
        let known = queues::directories()?;
        let known = known.iter().map(|directory| directory.to_string_lossy().into_owned());
        let words = ["sh", "-c", EMPTY, "sh"].map(str::to_owned).into_iter().chain(known);
        let command = Command::new(words).timeout(Duration::from_secs(300));
        host.run(&command).await?.checked(format!("empty the queues of {}", self.of.shown), &command)?;
        Ok(Change::Changed.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Stops the services of a clone that is about to be shut down: none of them writes beside what is brought over (kind
/// `machine.services`). They start with it, or when this is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopInside {
    /// Inventory host.
    pub host: String,
    /// How to get into the clone.
    pub link: GuestLink,
}

impl StopInside {
    /// What came of it is what runs afterwards: systemctl fails for all of them where one refuses.
    async fn act(&self, inside: &dyn Host, verb: &str, units: Vec<String>) -> Result<(), StepError> {
        let words = ["systemctl", verb].map(str::to_owned).into_iter().chain(units);
        let command = Command::new(words).timeout(Duration::from_secs(180));
        inside.run(&command).await?;
        Ok(())
    }
}

#[async_trait]
impl Step for StopInside {
    fn title(&self) -> String {
        format!("stop the services of {}", self.link.name)
    }
    fn undo_title(&self) -> String {
        "start them again".into()
    }
    fn taken_back(&self) -> String {
        format!("start the services of {} again", self.link.name)
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let left = running(&*guest(world, &self.host, &self.link)?).await?;
        Ok(if left.is_empty() { Probe::Present } else { Probe::Absent })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        Ok(json!({ "running": running(&*guest(world, &self.host, &self.link)?).await? }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let inside = guest(world, &self.host, &self.link)?;
        let units = running(&*inside).await?;
        if units.is_empty() {
            return Ok(Change::Unchanged.into());
        }
        self.act(&*inside, "stop", units).await?;
        let left = running(&*inside).await?;
        let done = Done::new(Change::Changed);
        Ok(if left.is_empty() { done } else { done.warn(format!("still running there: {}", left.join(", "))) })
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let was: Vec<String> = read(&found["running"])?;
        let inside = guest(world, &self.host, &self.link)?;
        let now = running(&*inside).await?;
        let mut missing: Vec<String> = was.into_iter().filter(|unit| !now.contains(unit)).collect();
        if missing.is_empty() {
            return Ok(Change::Unchanged.into());
        }
        self.act(&*inside, "start", missing.clone()).await?;
        let now = running(&*inside).await?;
        missing.retain(|unit| !now.contains(unit));
        let done = Done::new(Change::Changed);
        Ok(if missing.is_empty() { done } else { done.warn(format!("did not start again: {}", missing.join(", "))) })
    }
}

/// Mirrors a directory of the original to the same place of its clone, with rsync of both: one file system, numeric ids, hard links; what
/// the original has not is deleted (kind `machine.carry`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarryAcross {
    /// Inventory host.
    pub host: String,
    /// How to get into the original.
    pub from: GuestLink,
    /// How to get into the clone.
    pub to: GuestLink,
    /// Directory on both, without slashes at its ends.
    pub path: String,
    /// rsync exclude patterns.
    pub exclude: Vec<String>,
    /// From services that are stopped; otherwise in advance.
    pub last: bool,
}

#[async_trait]
impl Step for CarryAcross {
    fn title(&self) -> String {
        let when = if self.last { "carry the rest of" } else { "carry in advance" };
        format!("{when} /{} of {}", self.path, self.from.name)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        let mut words: Vec<String> = ["rsync", "-aHx", "--numeric-ids", "--delete"].map(str::to_owned).to_vec();
        words.extend(self.exclude.iter().map(|pattern| format!("--exclude={pattern}")));
        words.extend(["--".to_owned(), format!("{}:/{}/", self.from.name, self.path)]);
        words.push(format!("{}:/{}/", self.to.name, self.path));
        vec![words]
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let (from, to) = (guest(world, &self.host, &self.from)?, guest(world, &self.host, &self.to)?);
        let path = format!("/{}", self.path);
        let what = Mirror {
            from: &path,
            root: Path::new("/"),
            below: &self.path,
            exclude: &self.exclude,
            backup: None,
            shell: Path::new(SHELL),
            whole: false,
        };
        let stats = mirror(&*from, &*to, &what, !self.last).await?;
        Ok(Done::new(Change::Changed).with(json!({ "files": transferred(&stats) })))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
