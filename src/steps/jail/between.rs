//! What goes from the tree of a jail to that of its clone, on one host: data by rsync, queues there and back. And the proof that no jail that
//! runs has an address which another takes.
//!
//! A tree is read from outside only while its jail is stopped: whoever is root in a jail that runs could put a link in the way. In advance the jail
//! itself is asked, over ssh.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::transfer::mirror::{Mirror, mirror};
use hypervisors::{Change, GuestLink, Host, Power};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::steps::server::transferred;
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// The two trees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trees {
    /// Inventory host.
    pub host: String,
    /// The original.
    pub guest: String,
    /// The original's tree.
    pub original: PathBuf,
    /// The clone's.
    pub clone: PathBuf,
    /// The run's own directory.
    pub scratch: PathBuf,
}

/// Arguments: tree, directory in it. Whether it is there and no link leads to it. Its jail is stopped: nothing changes meanwhile.
const PLAIN: &str = "r=$(cd -P \"$1\" && pwd -P) && test \"$(cd -P \"$r/$2\" 2>/dev/null && pwd -P)\" = \"$r/$2\"";

impl Trees {
    /// Refused while the original runs.
    async fn stopped(&self, world: &World) -> Result<(), StepError> {
        match world.hypervisor(&self.host)?.power(&self.guest).await? {
            Power::Off => Ok(()),
            _ => Err(StepError::failed(
                format!("{} runs, and its tree is not read from outside", self.guest),
                format!("stop it on {}", self.host),
            )),
        }
    }

    async fn plain(&self, host: &dyn Host, tree: &Path, path: &str) -> Result<bool, StepError> {
        let command = Command::new(["sh", "-c", PLAIN, "sh", &tree.to_string_lossy(), path]);
        Ok(host.run(&command).await?.status == 0)
    }

    /// Mirrors a directory from one tree to the other; what rsync tells of it.
    async fn mirrored(
        &self,
        host: &dyn Host,
        [from, to]: [&Path; 2],
        path: &str,
        exclude: &[String],
        backup: Option<&str>,
    ) -> Result<String, StepError> {
        if !self.plain(host, from, path).await? {
            return Err(StepError::failed(
                format!("/{path} is not in {}, or lies behind a link", from.display()),
                "put a directory in the place of the link, or mend the rule",
            ));
        }
        let (from, shell) = (from.join(path).to_string_lossy().into_owned(), self.scratch.join("rsync-shell"));
        let what = Mirror { from: &from, root: to, below: path, exclude, backup, shell: &shell, whole: false };
        Ok(mirror(host, host, &what, false).await?)
    }

    fn rsync(&self, manners: &Manners, path: &str, exclude: &[String]) -> Vec<String> {
        let mut words = ["rsync", "-aHx", "--numeric-ids", "--delete"].map(str::to_owned).to_vec();
        words.extend(exclude.iter().map(|pattern| format!("--exclude={pattern}")));
        words.push("--".to_owned());
        words.extend([&self.original, &self.clone].map(|tree| format!("{}/", tree.join(path).display())));
        manners.on(&self.host, words)
    }
}

/// Mirrors a directory of the original into its clone's tree: one file system, numeric ids, hard links; what the original has not is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarryBetween {
    /// From where to where.
    pub trees: Trees,
    /// Directory in both, without slashes at its ends.
    pub path: String,
    /// rsync exclude patterns.
    pub exclude: Vec<String>,
    /// In advance, from the original that runs, by this way in; absent: from the stopped one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<GuestLink>,
}

#[async_trait]
impl Step for CarryBetween {
    fn title(&self) -> String {
        let when = if self.through.is_none() { "carry the rest of" } else { "carry in advance" };
        format!("{when} /{} of {}", self.path, self.trees.guest)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        vec![self.trees.rsync(manners, &self.path, &self.exclude)]
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.trees.host)?;
        let (host, trees) = (hypervisor.host(), &self.trees);
        let stats = match &self.through {
            Some(link) => {
                let (from, shell) = (format!("/{}", self.path), trees.scratch.join("rsync-shell"));
                let what = Mirror {
                    from: &from,
                    root: &trees.clone,
                    below: &self.path,
                    exclude: &self.exclude,
                    backup: None,
                    shell: &shell,
                    whole: false,
                };
                mirror(&*hypervisor.guest(link)?, &*host, &what, true).await?
            }
            None => {
                trees.stopped(world).await?;
                let way = [trees.original.as_path(), &trees.clone];
                trees.mirrored(&*host, way, &self.path, &self.exclude, None).await?
            }
        };
        Ok(Done::new(Change::Changed).with(json!({ "files": transferred(&stats) })))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// What is a service's own in a queue, and no message: a process id, statistics.
const OWN: &str = "sm-client.*";

/// Makes queues of the clone those of the stopped original; taken back, the stopped clone's become the original's, and what that had beside them is
/// laid aside beside the run's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuesBetween {
    /// From where to where.
    pub trees: Trees,
    /// Directories in both, without slashes at their ends: `var/spool/mqueue`.
    pub paths: Vec<String>,
}

#[async_trait]
impl Step for QueuesBetween {
    fn title(&self) -> String {
        let paths: Vec<String> = self.paths.iter().map(|path| format!("/{path}")).collect();
        format!("bring {} of {} over", paths.join(", "), self.trees.guest)
    }
    fn undo_title(&self) -> String {
        "bring back what is in them".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        self.paths.iter().map(|path| self.trees.rsync(manners, path, &[OWN.to_owned()])).collect()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let (host, trees) = (world.hypervisor(&self.trees.host)?.host(), &self.trees);
        trees.stopped(world).await?;
        for path in &self.paths {
            let way = [trees.original.as_path(), &trees.clone];
            trees.mirrored(&*host, way, path, &[OWN.to_owned()], None).await?;
        }
        Ok(Done::new(Change::Changed).with(json!({ "whole": true })))
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        // Half of them are not taken for all.
        if world.last.is_null() {
            return Ok(Change::Unchanged.into());
        }
        let (host, trees) = (world.hypervisor(&self.trees.host)?.host(), &self.trees);
        // One name is both jails': whichever runs, runs on them.
        trees.stopped(world).await?;
        let mut done = Done::new(Change::Changed);
        for path in &self.paths {
            // Not in a tree: what lies there is its jail's, links too.
            let mut aside = trees.scratch.clone().into_os_string();
            aside.push(".aside");
            let aside = PathBuf::from(aside).join(path).to_string_lossy().into_owned();
            let way = [trees.clone.as_path(), &trees.original];
            match trees.mirrored(&*host, way, path, &[OWN.to_owned()], Some(&aside)).await {
                Ok(_) if host.run(&Command::new(["test", "-d", &aside])).await?.status == 0 => {
                    done.warnings.push(format!(
                        "what the promoted {} has dealt with of /{path} is laid aside on {}: {aside}",
                        trees.guest, trees.host
                    ))
                }
                Ok(_) => {}
                Err(error) if error.is_unknown() => return Err(error),
                // Production has to serve again; the clone, which has them, stays.
                Err(error) => done
                    .warnings
                    .push(format!("/{path} was not brought back, and is kept in {}: {error}", trees.clone.display())),
            }
        }
        Ok(done)
    }
}

/// Proves that no jail that runs on a host has one of these addresses. Jails share their host's: what that has itself disturbs nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveUnused {
    /// Inventory host.
    pub host: String,
    /// Which addresses.
    pub addresses: Vec<IpAddr>,
    /// The guest that may have them by now, and the tree on which it then has to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub but: Option<(String, PathBuf)>,
}

/// Arguments: jail, tree. Status 0: that is what it runs on.
const RUNS_ON: &str = "p=$(jls -j \"$1\" path) && test \"$p\" -ef \"$2\"";

impl ProveUnused {
    async fn on_its_tree(&self, world: &World, guest: &str, tree: &Path) -> Result<(), StepError> {
        let command = Command::new(["sh", "-c", RUNS_ON, "sh", guest, &tree.to_string_lossy()]);
        if world.hypervisor(&self.host)?.host().run(&command).await?.status == 0 {
            return Ok(());
        }
        Err(StepError::failed(
            format!("{guest} runs, and not on {}: somebody started it meanwhile", tree.display()),
            format!("stop it on {}: service jail onestop {guest}", self.host),
        ))
    }
}

#[async_trait]
impl Step for ProveUnused {
    fn title(&self) -> String {
        let all: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        format!("prove that no jail uses {}", all.join(", "))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let running = world.hypervisor(&self.host)?.list().await?;
        for guest in running.iter().filter(|guest| guest.power == Power::On) {
            if let Some((_, tree)) = self.but.as_ref().filter(|(but, _)| guest.name == *but) {
                self.on_its_tree(world, &guest.name, tree).await?;
                continue;
            }
            if let Some(ip) = guest.nics.iter().flat_map(|nic| &nic.addresses).find(|ip| self.addresses.contains(ip)) {
                return Err(StepError::failed(
                    format!("{ip} is used by the jail {}, which runs", guest.name),
                    format!("stop it on {}: service jail onestop {}", self.host, guest.name),
                ));
            }
        }
        Ok(Change::Unchanged.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
