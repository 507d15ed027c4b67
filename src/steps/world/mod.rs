//! Steps that upgrade the base system of a stopped jail from its host ([`crate::recipe::freebsd`]).
//!
//! | step | on the jail host | present when |
//! |---|---|---|
//! | [`BuildWorld`] | `make buildworld` | the objects are there, of this source |
//! | [`ClearFlags`] | `chflags -R noschg` | nothing of the old base system is left with the flag |
//! | [`EtcTree`] | `etcupdate build` | the tarball is there, and no older than its source |
//! | [`EtcBase`] | `etcupdate extract` | the jail has a tree to compare with |
//! | [`EtcUpdate`] | `etcupdate`, before the world and after it | a dry run has nothing to do |
//! | [`InstallWorld`] | `make installworld` | the tree is of the release, and the install came to its end |
//! | [`MergeMaster`] | `mergemaster -a` (targets older than 10) | its end is noted |
//! | [`ReplaceRcd`] | rc.d replaced whole | it is the release's |
//! | [`FreebsdUpdate`] | `freebsd-update` instead of all of these | its end is noted |
//! | [`DeleteOld`], [`DeleteOldLibs`] | `make delete-old`, `delete-old-libs` | `make check-old` finds none |
//! | [`FetchPackages`] | `pkg-static install -f pkg`, `upgrade -fF`, in a passing jail | its end is noted |
//! | [`Packages`] | `pkg-static upgrade -f`, in a passing jail | its end is noted |
//! | [`CollectUndecided`] | nothing: it reads what the merges left aside | – |
//!
//! All of it happens below the jail's root or in the run's scratch on the jail host and goes with the clone; undo has nothing to do.
//! What a step leaves of its end is noted in the scratch ([`NOTES`]), by the very script that came to the end, so that it is there also
//! if nobody was listening. Nothing of the jail's tree is run outside a jail.

mod accounts;
mod build;
mod etc;
mod fetch;
mod install;
mod mergemaster;
mod old;
mod packages;
mod undecided;
mod update;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hypervisors::Host;
use hypervisors::host::{Command, Output};
use serde::{Deserialize, Serialize};

use super::upgrade::{POLL, logged, name, with_clone};
use super::{Probe, StepError, World};
use crate::recipe::job::{self, End, Patience};

pub use build::BuildWorld;
pub use etc::{EtcBase, EtcTree, EtcUpdate};
pub use fetch::FetchPackages;
pub use install::{ClearFlags, InstallWorld};
pub use mergemaster::{MergeMaster, ReplaceRcd};
pub use old::{DeleteOld, DeleteOldLibs};
pub use packages::Packages;
pub use undecided::CollectUndecided;
pub use update::FreebsdUpdate;

/// Directory in the scratch with a file for each piece of work that came to its end; it holds the release that it was for.
const NOTES: &str = "world";
/// Directory in the scratch with the new versions of files that were left undecided, by their paths in the jail.
const UNDECIDED: &str = "etcupdate/undecided";

/// How long work that ends by itself in a minute may take.
const SHORT: Duration = Duration::from_secs(15 * 60);

/// The tree of a stopped jail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Jail host, by its name in the inventory.
    pub host: String,
    /// Run id, which is the jail's name.
    pub run: String,
    /// The jail's root on the jail host.
    pub root: PathBuf,
    /// The run's own directory on the jail host.
    pub scratch: PathBuf,
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The machine that has the tree.
fn machine(world: &World, host: &str) -> Result<Arc<dyn Host>, StepError> {
    Ok(world.hypervisor(host)?.host())
}

/// Runs a script with arguments; whatever its status.
async fn ask(host: &dyn Host, script: &str, arguments: &[&str]) -> Result<Output, StepError> {
    let argv = ["sh", "-c", script, "sh"].into_iter().chain(arguments.iter().copied());
    Ok(host.run(&Command::new(argv).timeout(SHORT)).await?)
}

/// Runs a script that has to end well.
async fn act(host: &dyn Host, doing: &str, script: &str, arguments: &[&str]) -> Result<Output, StepError> {
    let argv = ["sh", "-c", script, "sh"].into_iter().chain(arguments.iter().copied());
    let command = Command::new(argv).timeout(SHORT);
    Ok(host.run(&command).await?.checked(doing, &command)?)
}

/// Whether a piece of work is noted as done for a release.
async fn noted(host: &dyn Host, scratch: &Path, what: &str, release: &str) -> Result<bool, StepError> {
    let note = shown(&scratch.join(NOTES).join(what));
    let script = "test -f \"$1\" && test \"$(cat \"$1\")\" = \"$2\"";
    Ok(ask(host, script, &[&note, release]).await?.status == 0)
}

/// The end of a script whose `$1` is the directory of notes, `$2` the name of the note and `$3` what it holds.
const NOTE: &str = "mkdir -p \"$1\" && echo \"$3\" >\"$1/$2.new\" && mv -f \"$1/$2.new\" \"$1/$2\"";

/// A command that notes its end.
fn noting(scratch: &Path, what: &str, release: &str, command: &[String]) -> Vec<String> {
    let script = format!("d=$1 n=$2 t=$3; shift 3; \"$@\" || exit $?; set -- \"$d\" \"$n\" \"$t\"; {NOTE}");
    let notes = shown(&scratch.join(NOTES));
    let head = ["sh", "-c", &script, "sh", &notes, what, release].map(str::to_owned);
    head.into_iter().chain(command.iter().cloned()).collect()
}

/// Work on the jail host that goes on when the link is lost.
struct Work<'a> {
    host: &'a str,
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
        let host = machine(world, self.host)?;
        let end = job::run(host.as_ref(), self.job, self.argv, self.env, patience, &mut sink).await?;
        if end.already {
            // Its end was not heard of: what it printed still tells.
            let mut seen = 0;
            loop {
                let piece = host.job_output(&end.id, seen).await?;
                if piece.is_empty() {
                    break;
                }
                seen += piece.len() as u64;
                sink(&end.id, &piece);
            }
        }
        Ok(end)
    }
}

/// A step that did not come to its end by its own word.
fn unfinished(world: &World, host: &str, what: &str, end: &End, cause: &str) -> StepError {
    let guest = name(world);
    match end.status {
        None => StepError::failed(format!("{host} went down during {what}"), format!("upgradectl resume {guest}")),
        Some(status) => StepError::failed(
            format!("{what} ended with status {status}: {cause}"),
            format!(
                "look: upgradectl log {guest}; mend it on {host}, then upgradectl resume {guest} (it is run again), or \
                 upgradectl upgrade {guest}"
            ),
        ),
    }
}

/// Present or not, by a yes or no.
fn present(yes: bool) -> Probe {
    if yes { Probe::Present } else { Probe::Absent }
}

/// `env A=B COMMAND`, as one would type it.
fn typed(env: &[(String, String)], command: Vec<String>) -> Vec<String> {
    if env.is_empty() {
        return command;
    }
    let pairs = env.iter().map(|(key, value)| format!("{key}={value}"));
    std::iter::once("env".to_owned()).chain(pairs).chain(command).collect()
}
