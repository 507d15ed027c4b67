//! Data brought from the original to the clone by rule, first while both run, then from the stopped original.

use std::os::fd::AsRawFd;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::storage::Access;
use hypervisors::{Change, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Probe, Step, StepError, World, files};

/// Mirrors a subtree with rsync: one file system, numeric ids, hard links, ACLs, extended attributes; what the
/// source has not is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carry {
    /// Inventory host.
    pub host: String,
    /// Root volume of the original.
    pub from: VolumeRef,
    /// Root volume of the clone.
    pub to: VolumeRef,
    /// Directory in the guest, without leading slash.
    pub path: String,
    /// rsync exclude patterns.
    pub exclude: Vec<String>,
    /// The last copy, from the stopped original: what it left behind must be whole.
    pub last: bool,
}

impl Carry {
    fn argv(&self, from: &str, to: &str, more: &[&str]) -> Vec<String> {
        let mut argv: Vec<String> =
            ["rsync", "-aHAXx", "--numeric-ids", "--delete", "--stats"].map(str::to_owned).to_vec();
        argv.extend(more.iter().map(|&flag| flag.to_owned()));
        argv.extend(self.exclude.iter().map(|pattern| format!("--exclude={pattern}")));
        argv.extend(["--".to_owned(), format!("{from}/"), format!("{to}/")]);
        argv
    }

    /// How many files would be copied or deleted now.
    pub async fn pending(&self, world: &World) -> Result<u64, StepError> {
        let output = self.rsync(world, &["--dry-run", "--itemize-changes"]).await?;
        Ok(output.lines().filter(|line| line.starts_with(['>', '*', 'c', 'h'])).count() as u64)
    }

    async fn rsync(&self, world: &World, more: &[&str]) -> Result<String, StepError> {
        let (from, to) = match (self.last, more.contains(&"--dry-run")) {
            (_, true) => (Access::Glance, Access::Glance),
            (true, _) => (Access::Read, Access::Write),
            (false, _) => (Access::Glance, Access::Write),
        };
        let source = files::open_for(world, &self.host, &self.from, from).await?;
        let target = files::open_for(world, &self.host, &self.to, to).await?;
        // The directories are opened beneath the guests' roots and handed over by descriptor, so that no link in a
        // guest, present or made meanwhile, leads rsync out of it.
        let from = source.directory(self.path.as_ref())?;
        let to = target.directory(self.path.as_ref())?;
        let Some(from) = from else {
            return Err(StepError::failed(
                format!("/{} is not in the original", self.path),
                "mend the carry rule in the inventory",
            ));
        };
        let Some(to) = to else {
            return Err(StepError::failed(
                format!("/{} is not in the clone", self.path),
                "make the directory there (a hook at = \"after-upgrade\"), or mend the carry rule",
            ));
        };
        let here = |fd: &std::os::fd::OwnedFd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        let command = Command::new(self.argv(&here(&from), &here(&to), more)).timeout(Duration::from_secs(24 * 3600));
        let output = world.controller.run(&command).await?;
        // 24: files vanished while they were copied; natural while the original runs.
        if output.status == 24 && !self.last {
            return Ok(output.text());
        }
        let text = output.checked(format!("carry /{}", self.path), &command)?.text();
        if self.last {
            // What is journalled as carried survives a power cut.
            rustix::fs::syncfs(&to)
                .map_err(|error| hypervisors::Error::io("write the carried files out", error.into()))?;
        }
        Ok(text)
    }
}

#[async_trait]
impl Step for Carry {
    fn title(&self) -> String {
        let when = if self.last { "carry the rest of" } else { "carry in advance" };
        format!("{when} /{}", self.path)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self) -> Vec<Vec<String>> {
        let (from, to) = (self.from.path.join(&self.path), self.to.path.join(&self.path));
        vec![self.argv(&from.to_string_lossy(), &to.to_string_lossy(), &[])]
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let stats = self.rsync(world, &[]).await?;
        let files = stats
            .lines()
            .find_map(|line| line.strip_prefix("Number of regular files transferred: "))
            .and_then(|count| count.replace([',', '.'], "").trim().parse::<u64>().ok());
        Ok(Done::new(Change::Changed).with(json!({ "files": files })))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
