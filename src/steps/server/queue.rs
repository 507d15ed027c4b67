//! A queue of mail or jobs at promotion: the stopped server's goes into the jail, and comes back from there on the way back, so that
//! nothing that was accepted is lost, and nothing is done twice.
//!
//! The jail's own queues were emptied when it was made. On the way back only what was brought over whole comes back: half a copy would
//! take from the server what it still has. What the server has and the jail has dealt with meanwhile is laid aside there, not removed.

use std::path::PathBuf;

use async_trait::async_trait;
use hypervisors::Change;
use hypervisors::host::{Command, printable_tail};
use hypervisors::transfer::mirror::{Mirror, mirror};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Server;
use crate::steps::{Done, Probe, Step, StepError, World};

/// Mirrors a queue of the stopped server into the stopped jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorQueue {
    /// The server.
    pub server: Server,
    /// The jail's tree.
    pub root: PathBuf,
    /// The run's own directory beside it.
    pub scratch: PathBuf,
    /// Directory on both, without slashes at its ends: `var/spool/mqueue`.
    pub path: String,
}

/// Arguments: tree, directory in it. Whether no link leads out of the tree. Its jail is stopped: nothing changes meanwhile.
pub(crate) const WITHIN: &str = "r=$(realpath \"$1\") && test \"$(realpath \"$r/$2\")\" = \"$r/$2\"";

impl MirrorQueue {
    async fn back(&self, world: &World) -> Result<Option<String>, StepError> {
        let server = self.server.there(world).await?;
        let jails = world.hypervisor(&self.server.host)?.host();
        let root = self.root.to_string_lossy();
        let within = Command::new(["sh", "-c", WITHIN, "sh", &root, &self.path]);
        if jails.run(&within).await?.status != 0 {
            return Err(StepError::failed("a link leads out of the jail's tree", "look at it"));
        }
        let shell = PathBuf::from(format!("/var/db/.upgradectl-{}-shell", self.server.run));
        let aside = format!("/var/db/upgradectl-{}-aside/{}", self.server.run, self.path);
        let from = self.root.join(&self.path).to_string_lossy().into_owned();
        let what = Mirror {
            from: &from,
            root: "/".as_ref(),
            below: &self.path,
            exclude: &[],
            backup: Some(&aside),
            shell: &shell,
        };
        let done = mirror(&*jails, &*server, &what, false).await;
        let script = "rm -f -- \"$1\"; test -d \"$2\"";
        let command = Command::new(["sh", "-c", script, "sh", &shell.to_string_lossy(), &aside]);
        let kept = server.run(&command).await?.status == 0;
        done?;
        Ok(kept.then_some(aside))
    }
}

#[async_trait]
impl Step for MirrorQueue {
    fn title(&self) -> String {
        format!("bring the queue /{} of {} over", self.path, self.server.source.name)
    }
    fn undo_title(&self) -> String {
        "bring back what is in it".into()
    }
    fn commands(&self, manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        let mut words: Vec<String> = ["rsync", "-aHx", "--numeric-ids", "--delete", "--"].map(str::to_owned).to_vec();
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
        let what =
            Mirror { from: &from, root: &self.root, below: &self.path, exclude: &[], backup: None, shell: &shell };
        mirror(&*source, &*target, &what, false).await?;
        Ok(Done::new(Change::Changed).with(json!({ "whole": true })))
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        if world.last.is_null() {
            return Ok(Change::Unchanged.into());
        }
        let mut done = Done::new(Change::Changed);
        // The server must serve again, whatever becomes of what the jail accepted; that is still in its tree.
        match self.back(world).await {
            Ok(None) => {}
            Ok(Some(aside)) => done.warnings.push(format!(
                "what the jail has dealt with of /{} is laid aside on {}: {aside}",
                self.path, self.server.source.name
            )),
            Err(error) => done.warnings.push(format!(
                "what the jail accepted into /{} did not come back ({}); it lies in {}",
                self.path,
                printable_tail(error.to_string().as_bytes(), 2),
                self.root.join(&self.path).display()
            )),
        }
        Ok(done)
    }
}
