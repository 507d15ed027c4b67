//! Steps of an upgrade, inside the running clone.
//!
//! Package work is a detached job in the clone ([`crate::recipe::job`]): it survives a lost link, is attached to
//! again, and is tried anew after a failure, dpkg's own continuation first. All of it goes with the clone, so undo has
//! nothing to do, except for the package sources, which get their bytes back.
//!
//! A finished job is the clone's own record that its work is done; after the full upgrade the release and dpkg's audit
//! are looked at too.

mod debian;
mod kernel;
mod system;
mod tools;
mod yum;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use hypervisors::host::JobStatus;
use hypervisors::{Change, GuestLink, Host, Power};

use super::{Done, Probe, StepError, World};
use crate::recipe::job::{self, End, Patience};

pub use debian::{CollectConffiles, DebianClean, DebianConfigure, DebianSources, DebianUpdate, DebianUpgrade};
pub use kernel::{BootOnce, MakeDefault, ProveInitramfs, ProveKernel};
pub use system::{Forget, Reboot, Script, Settle};
pub use tools::{ToolsApplied, ToolsHook};
pub use yum::{LiftExclude, Lines, YumUpdate};

/// How often a job is looked at.
pub(super) const POLL: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 1000 });

/// How often it is looked whether a guest that is waited for runs at all.
const LOOK_AT_POWER: Duration = Duration::from_secs(5);

/// Default of `patience_s`: two hours.
fn two_hours() -> u64 {
    7200
}

fn guest(world: &World, host: &str, link: &GuestLink) -> Result<Arc<dyn Host>, StepError> {
    Ok(world.hypervisor(host)?.guest(link)?)
}

/// What the ids of a run's jobs begin with: its id, as far as such ids may have it.
pub fn job_word(link: &GuestLink) -> String {
    link.name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// The guest's name, as typed on the command line.
pub(super) fn name(world: &World) -> &str {
    world.run.rsplit_once("--").map_or(world.run.as_str(), |(guest, _)| guest)
}

/// Undo of what goes with the clone.
pub(super) fn with_clone() -> Result<Done, StepError> {
    Ok(Change::Unchanged.into())
}

/// How a piece of work stands, by its newest attempt.
async fn probe_job(guest: &dyn Host, job: &str) -> Result<Probe, StepError> {
    Ok(match job::newest(guest, job).await?.1 {
        JobStatus::Absent => Probe::Absent,
        JobStatus::Ended { status: 0, .. } => Probe::Present,
        JobStatus::Running { .. } | JobStatus::Ended { .. } | JobStatus::Lost => Probe::Partial,
    })
}

/// A guest that steps work in.
#[derive(Clone, Copy)]
struct At<'a> {
    /// Inventory host.
    host: &'a str,
    /// How to get in.
    link: &'a GuestLink,
    /// Instance UUID, where the platform knows it by one.
    vm: Option<&'a str>,
}

impl<'a> At<'a> {
    /// A guest that the platform knows by its name.
    fn new(host: &'a str, link: &'a GuestLink) -> Self {
        Self { host, link, vm: None }
    }

    /// What the platform knows it by: its UUID; else the run's name, unless the original itself is upgraded.
    async fn domain<'w>(&'w self, world: &'w World) -> Result<&'w str, StepError> {
        if let Some(vm) = self.vm {
            return Ok(vm);
        }
        let known = world.hypervisor(self.host)?.facts(&self.link.name).await?.is_some();
        Ok(if known { &self.link.name } else { name(world) })
    }

    /// Returns when the platform says, and says again, that it is off: what waits for it waits in vain.
    async fn is_off(&self, world: &World) {
        self.goes_off(world, false).await;
    }

    /// The same, for one that boots: a platform that sees its tools tells of them meanwhile.
    async fn stays_off(&self, world: &World) {
        self.goes_off(world, true).await;
    }

    async fn goes_off(&self, world: &World, boots: bool) {
        let mut off = 0;
        while off < 2 {
            tokio::time::sleep(LOOK_AT_POWER).await;
            let Ok(hypervisor) = world.hypervisor(self.host) else { continue };
            let power = match (self.vm, hypervisor.machines()) {
                (Some(vm), Some(machines)) => machines.machine(vm).await.ok().flatten().map(|facts| {
                    if boots {
                        let tools = if facts.tools.running { "answer" } else { "do not answer yet" };
                        world.progress(format!("waiting for {}: its tools {tools}", self.link.name), None);
                    }
                    facts.power
                }),
                _ => match self.domain(world).await {
                    Ok(domain) => hypervisor.power(domain).await.ok(),
                    Err(_) => continue,
                },
            };
            off = if power == Some(Power::Off) { off + 1 } else { 0 };
        }
    }
}

/// A command to run in the clone as a job.
struct Work<'a> {
    at: At<'a>,
    /// What works, in messages.
    what: &'a str,
    job: &'a str,
    argv: &'a [String],
    env: &'a [(String, String)],
    patience_s: u64,
}

impl Work<'_> {
    /// Brings it to its end; what it prints goes to `take` and to `output/JOB.log` of the run.
    async fn run(&self, world: &World, take: &mut (dyn FnMut(&[u8]) + Send)) -> Result<End, StepError> {
        let patience = Patience { poll: POLL, total: Duration::from_secs(self.patience_s) };
        let mut sink = logged(world, take);
        let guest = guest(world, self.at.host, self.at.link)?;
        tokio::select! {
            end = job::run(guest.as_ref(), self.job, self.argv, self.env, patience, &mut sink) => Ok(end?),
            () = self.at.is_off(world) => Err(went_down(world, self.what)),
        }
    }
}

/// Takes what a job prints: it goes to `output/JOB.log` of the run, and to `take`.
pub(super) fn logged<'a>(
    world: &'a World,
    take: &'a mut (dyn FnMut(&[u8]) + Send),
) -> impl FnMut(&str, &[u8]) + Send + 'a {
    let mut log: Option<File> = None;
    move |id, bytes| {
        // The log is for people; trouble with it must not stop the upgrade.
        if log.is_none() {
            log = open_log(world, id).ok();
        }
        if let Some(Err(error)) = log.as_mut().map(|log| log.write_all(bytes)) {
            tracing::debug!(%error, "writing the output of {id}");
        }
        take(bytes);
    }
}

fn open_log(world: &World, id: &str) -> std::io::Result<File> {
    let dir = world.run_dir.join("output");
    fs::create_dir_all(&dir)?;
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(format!("{id}.log")))
}

/// The error of work whose machine went down under it.
fn went_down(world: &World, what: &str) -> StepError {
    let guest = name(world);
    StepError::failed(format!("the clone went down during {what}"), format!("upgradectl resume {guest}"))
}
