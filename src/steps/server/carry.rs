//! Data that a server wrote after its transfer, brought into the jail's tree at promotion, while the jail is stopped.

use std::path::PathBuf;

use async_trait::async_trait;
use hypervisors::Change;
use hypervisors::transfer::mirror::{Mirror, mirror};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Server;
use crate::steps::{Done, Probe, Step, StepError, World};

/// Mirrors a directory of the server into the jail's tree, with rsync of both: one file system, numeric ids, hard links; what the
/// server has not is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarryOver {
    /// The server.
    pub server: Server,
    /// The jail's tree.
    pub root: PathBuf,
    /// The run's own directory beside it.
    pub scratch: PathBuf,
    /// Directory on both, without slashes at its ends.
    pub path: String,
    /// rsync exclude patterns.
    pub exclude: Vec<String>,
    /// From the server whose services are stopped; otherwise in advance.
    pub last: bool,
}

/// How many files rsync brought, by its `--stats`.
pub(in crate::steps) fn transferred(stats: &str) -> Option<u64> {
    let count = stats.lines().find_map(|line| line.strip_prefix("Number of regular files transferred: "))?;
    count.replace([',', '.'], "").trim().parse().ok()
}

#[async_trait]
impl Step for CarryOver {
    fn title(&self) -> String {
        let when = if self.last { "carry the rest of" } else { "carry in advance" };
        format!("{when} /{} of {}", self.path, self.server.source.name)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        let mut words: Vec<String> = ["rsync", "-aHx", "--numeric-ids", "--delete", "--"].map(str::to_owned).to_vec();
        let exclude = self.exclude.iter().map(|pattern| format!("--exclude={pattern}"));
        words.splice(4..4, exclude);
        words.push(format!("{}:/{}/", self.server.source.name, self.path));
        words.push(format!("{}/", self.root.join(&self.path).display()));
        vec![manners.on(&self.server.host, words)]
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let source = self.server.there(world).await?;
        let target = world.hypervisor(&self.server.host)?.host();
        let (from, shell) = (format!("/{}", self.path), self.scratch.join("rsync-shell"));
        let what = Mirror {
            from: &from,
            root: &self.root,
            below: &self.path,
            exclude: &self.exclude,
            backup: None,
            shell: &shell,
            whole: false,
        };
        let stats = mirror(&*source, &*target, &what, !self.last).await?;
        let files = transferred(&stats);
        Ok(Done::new(Change::Changed).with(json!({ "files": files })))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
