//! Queues of mail and jobs at promotion: the stopped server's go into the jail, and come back from there on the way back, so that
//! nothing that was accepted is lost, and nothing is done twice.
//!
//! The jail's own queues were emptied when it was made. On the way back only what was brought over whole comes back: half a copy would
//! take from the server what it still has. What the server has and the jail has dealt with meanwhile is laid aside there, not removed.
//! What cannot come back is kept on the jail host: the server has to serve again, whatever becomes of it.

use std::path::PathBuf;

use async_trait::async_trait;
use hypervisors::host::{Command, printable_tail};
use hypervisors::transfer::mirror::{Mirror, mirror};
use hypervisors::{Change, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Server, running};
use crate::steps::{Done, Probe, Step, StepError, World};

/// Mirrors queues of the stopped server into the stopped jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorQueues {
    /// The server.
    pub server: Server,
    /// The jail's tree.
    pub root: PathBuf,
    /// The run's own directory beside it.
    pub scratch: PathBuf,
    /// Directories on both, without slashes at their ends: `var/spool/mqueue`.
    pub paths: Vec<String>,
    /// The services that were stopped on the server: nothing comes back under one that runs.
    pub services: Vec<String>,
}

/// What is a service's own in a queue, and no message: a process id, statistics.
const OWN: &str = "sm-client.*";

/// Arguments: tree, directory in it. Whether no link leads out of the tree. Its jail is stopped: nothing changes meanwhile.
const WITHIN: &str = "r=$(cd -P \"$1\" && pwd -P) && test \"$(cd -P \"$r/$2\" && pwd -P)\" = \"$r/$2\"";

/// Arguments: tree, directory in it, where it is kept.
const KEEP: &str = "mkdir -p \"$3/$2\" && chmod 700 \"$3\" && cp -Rp \"$1/$2/.\" \"$3/$2\"";

impl MirrorQueues {
    async fn within(&self, jails: &dyn Host, path: &str) -> Result<bool, StepError> {
        let command = Command::new(["sh", "-c", WITHIN, "sh", &self.root.to_string_lossy(), path]);
        Ok(jails.run(&command).await?.status == 0)
    }

    /// One of them comes back; what the server had beside it is laid aside there.
    async fn back(&self, jails: &dyn Host, server: &dyn Host, path: &str) -> Result<Option<String>, StepError> {
        let shell = PathBuf::from(format!("/var/db/.upgradectl-{}-shell", self.server.run));
        let aside = format!("/var/db/upgradectl-{}-aside/{path}", self.server.run);
        let from = self.root.join(path).to_string_lossy().into_owned();
        let exclude = [OWN.to_owned()];
        let what = Mirror {
            from: &from,
            root: "/".as_ref(),
            below: path,
            exclude: &exclude,
            backup: Some(&aside),
            shell: &shell,
            whole: false,
        };
        let done = mirror(jails, server, &what, false).await;
        let script = "rm -f -- \"$1\"; test -d \"$2\"";
        let command = Command::new(["sh", "-c", script, "sh", &shell.to_string_lossy(), &aside]);
        let kept = server.run(&command).await?.status == 0;
        done?;
        Ok(kept.then_some(aside))
    }

    /// Keeps one of them beside the tree, which may go; where.
    async fn keep(&self, jails: &dyn Host, path: &str) -> Result<PathBuf, StepError> {
        let mut place = self.scratch.clone().into_os_string();
        place.push(".queues");
        let place = PathBuf::from(place);
        let doing = format!("keep /{path} of the jail");
        let command =
            Command::new(["sh", "-c", KEEP, "sh", &self.root.to_string_lossy(), path, &place.to_string_lossy()]);
        jails.run(&command).await?.checked(doing, &command)?;
        Ok(place.join(path))
    }
}

#[async_trait]
impl Step for MirrorQueues {
    fn title(&self) -> String {
        let paths: Vec<String> = self.paths.iter().map(|path| format!("/{path}")).collect();
        format!("bring {} of {} over", paths.join(", "), self.server.source.name)
    }
    fn undo_title(&self) -> String {
        "bring back what is in them".into()
    }
    fn commands(&self, manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        let command = |path: &String| {
            let mut words: Vec<String> =
                ["rsync", "-aHx", "--numeric-ids", "--delete", "--"].map(str::to_owned).to_vec();
            words.insert(4, format!("--exclude={OWN}"));
            words.push(format!("{}:/{path}/", self.server.source.name));
            words.push(format!("{}/", self.root.join(path).display()));
            manners.on(&self.server.host, words)
        };
        self.paths.iter().map(command).collect()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let source = self.server.there(world).await?;
        let target = world.hypervisor(&self.server.host)?.host();
        let (shell, exclude) = (self.scratch.join("rsync-shell"), [OWN.to_owned()]);
        for path in &self.paths {
            let from = format!("/{path}");
            let what = Mirror {
                from: &from,
                root: &self.root,
                below: path,
                exclude: &exclude,
                backup: None,
                shell: &shell,
                whole: false,
            };
            mirror(&*source, &*target, &what, false).await?;
        }
        Ok(Done::new(Change::Changed).with(json!({ "whole": true })))
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        // Half of them are not taken for all.
        if world.last.is_null() {
            return Ok(Change::Unchanged.into());
        }
        let mut done = Done::new(Change::Changed);
        let jails = world.hypervisor(&self.server.host)?.host();
        let server = self.server.there(world).await?;
        let serves = running(&*server).await?.into_iter().find(|service| self.services.contains(service));
        for path in &self.paths {
            if !self.within(&*jails, path).await? {
                done.warnings.push(format!("/{path} of the jail leads out of its tree: it was not brought back"));
                continue;
            }
            let back = match &serves {
                Some(service) => Err(StepError::failed(format!("{service} runs there again"), "")),
                None => self.back(&*jails, &*server, path).await,
            };
            match back {
                Ok(None) => {}
                Ok(Some(aside)) => done.warnings.push(format!(
                    "what the jail has dealt with of /{path} is laid aside on {}: {aside}",
                    self.server.source.name
                )),
                Err(error) if error.is_unknown() => return Err(error),
                Err(error) => {
                    let why = printable_tail(error.to_string().as_bytes(), 2);
                    let place = self.keep(&*jails, path).await?;
                    done.warnings.push(format!(
                        "what the jail has in /{path} did not come back ({why}); it is kept on {}: {}",
                        self.server.host,
                        place.display()
                    ));
                }
            }
        }
        Ok(done)
    }
}
