//! Steps of an upgrade, inside the running clone.
//!
//! Package work is a detached job in the clone ([`crate::recipe::job`]): it survives a lost link, is attached to
//! again, and is tried anew after a failure, dpkg's own continuation first. All of it goes with the clone, so undo has
//! nothing to do, except for the package sources, which get their bytes back.
//!
//! A finished job is the clone's own record that its work is done; after the full upgrade the release and dpkg's audit
//! are looked at too.

mod debian;
mod system;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use hypervisors::host::JobStatus;
use hypervisors::{Change, GuestLink, Host};

use super::{Done, Probe, StepError, World};
use crate::recipe::job::{self, End, Patience};

pub use debian::{CollectConffiles, DebianClean, DebianConfigure, DebianSources, DebianUpdate, DebianUpgrade};
pub use system::{Reboot, Script, Settle};

/// How often a job is looked at.
const POLL: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 1000 });

/// Default of `patience_s`: two hours.
fn two_hours() -> u64 {
    7200
}

fn guest(world: &World, host: &str, link: &GuestLink) -> Result<Arc<dyn Host>, StepError> {
    Ok(world.hypervisor(host)?.guest(link)?)
}

/// The guest's name, as typed on the command line.
fn name(world: &World) -> &str {
    world.run.rsplit_once("--").map_or(world.run.as_str(), |(guest, _)| guest)
}

/// Undo of what goes with the clone.
fn with_clone() -> Result<Done, StepError> {
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

/// A command to run in the clone as a job.
struct Work<'a> {
    job: &'a str,
    argv: &'a [String],
    env: &'a [(String, String)],
    patience_s: u64,
}

impl Work<'_> {
    /// Brings it to its end; what it prints goes to `take` and to `output/JOB.log` of the run.
    async fn run(
        &self,
        world: &World,
        guest: &dyn Host,
        take: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<End, StepError> {
        let patience = Patience { poll: POLL, total: Duration::from_secs(self.patience_s) };
        let mut log: Option<File> = None;
        let mut sink = |id: &str, bytes: &[u8]| {
            // The log is for people; trouble with it must not stop the upgrade.
            if log.is_none() {
                log = open_log(world, id).ok();
            }
            if let Some(Err(error)) = log.as_mut().map(|log| log.write_all(bytes)) {
                tracing::debug!(%error, "writing the output of {id}");
            }
            take(bytes);
        };
        Ok(job::run(guest, self.job, self.argv, self.env, patience, &mut sink).await?)
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
