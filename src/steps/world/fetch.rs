//! Packages on their way, once for all jails of a host.
//!
//! What one jail has fetched lies beside the runs' own directories and is put into the next one's cache before that fetches the rest. It
//! goes with the last run; it may be removed at any time.
//!
//! A jail is not trusted with another's packages: its cache is read only if it is where its name says (no link leads out of the tree), a
//! file is copied, never linked, and kept only if its name bears the beginning of its own SHA-256, as pkg(8) names what it fetched
//! (`nginx-1.24.0~4811b47f77.pkg`). pkg compares size and checksum with the repository's before it installs a cached file, and fetches it
//! anew if they differ.

use std::path::PathBuf;

use async_trait::async_trait;
use hypervisors::Change;
use hypervisors::host::printable_tail;
use hypervisors::jail::passing_jail;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::packages::{FETCH, ITSELF, in_passing, passing_argv};
use super::{Tree, ask, machine, noted, present, shown, with_clone};
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Name of the note of packages that were fetched.
const FETCHED: &str = "fetched";
/// A package that is larger than this many bytes is fetched by each jail.
const LARGEST: &str = "1073741824";

/// Arguments: what lies beside, the jail's root, the largest, the passing jail: while that runs, nothing in the tree is sure. Copies into the jail's cache what is not there; prints how many.
pub(super) const SEED: &str = "jls -j \"$4\" jid >/dev/null 2>&1 && { echo 0; exit 0; }; s=$1 r=$(realpath \"$2\") || exit 1; test \"$(realpath \"$r/var/cache\" 2>/dev/null)\" = \"$r/var/cache\" || { echo 0; exit 0; }; \
    d=$r/var/cache/pkg; test -L \"$d\" && { echo 0; exit 0; }; mkdir -p \"$d\" || exit 1; n=0; \
    for f in \"$s\"/*; do test -f \"$f\" || continue; b=${f##*/}; if test -e \"$d/$b\" || test -L \"$d/$b\"; then continue; fi; \
    rm -rf \"$d/.new\"; cp \"$f\" \"$d/.new\" && mv -f \"$d/.new\" \"$d/$b\" || exit 1; n=$((n+1)); done; echo $n";

/// Arguments: the same. Copies out of the jail's cache what is not there; prints how many.
pub(super) const COLLECT: &str = "jls -j \"$4\" jid >/dev/null 2>&1 && { echo 0; exit 0; }; s=$1 r=$(realpath \"$2\") || exit 1; d=$r/var/cache/pkg; \
    test \"$(realpath \"$d\" 2>/dev/null)\" = \"$d\" || { echo 0; exit 0; }; mkdir -p \"$s\" && chmod 700 \"$s\" || exit 1; n=0; \
    for f in \"$d\"/*; do test -f \"$f\" || continue; test -L \"$f\" && continue; b=${f##*/}; test -e \"$s/$b\" && continue; \
    head -c \"$3\" <\"$f\" >\"$s/.new\" || exit 1; h=$(sha256 -q \"$s/.new\") || exit 1; \
    case $b in *[~-]\"$(printf %.10s \"$h\")\".*) mv -f \"$s/.new\" \"$s/$b\" || exit 1; n=$((n+1));; *) rm -f \"$s/.new\";; esac; done; echo $n";

/// Brings the packages of a jail for its new base system into its cache, with pkg(8) itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchPackages {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
    /// The release that they are for.
    pub release: String,
    /// Where those of all jails lie on the host.
    pub shared: PathBuf,
    /// Id of the job there, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
    /// How long it may take, in seconds.
    pub patience_s: u64,
}

impl FetchPackages {
    /// Copies between the jail's cache and what lies beside; how many.
    async fn copy(&self, world: &World, script: &str) -> Result<u64, StepError> {
        let host = machine(world, &self.tree.host)?;
        let passing = passing_jail(&self.tree.run);
        let answer =
            ask(host.as_ref(), script, &[&shown(&self.shared), &shown(&self.tree.root), LARGEST, &passing]).await?;
        String::from_utf8_lossy(&answer.stdout).trim().parse().map_err(|_| StepError::Failed {
            why: format!("ended with {}: {}", answer.status, printable_tail(&answer.stderr, 2)),
            help: None,
        })
    }
}

#[async_trait]
impl Step for FetchPackages {
    fn title(&self) -> String {
        format!("fetch the packages of {} for {}", self.tree.run, self.release)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        [ITSELF, FETCH].map(|command| manners.on(&self.tree.host, passing_argv(&self.tree, command))).to_vec()
    }
    fn shared(&self) -> Option<String> {
        Some(format!("{}:{}", self.tree.host, self.shared.display()))
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = machine(world, &self.tree.host)?;
        Ok(present(noted(host.as_ref(), &self.tree.scratch, FETCHED, &self.release).await?))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let mut done = Done::from(Change::Changed);
        // Without what the others have it takes longer, that is all.
        if let Err(error) = self.copy(world, SEED).await {
            done.warnings.push(format!("packages of other jails could not be used: {error}"));
        }
        let (patience_s, release) = (self.patience_s, &self.release);
        in_passing(world, &self.tree, &format!("{}-pkg", self.job), ITSELF, None, patience_s).await?;
        in_passing(world, &self.tree, &self.job, FETCH, Some((FETCHED, release)), patience_s).await?;
        if let Err(error) = self.copy(world, COLLECT).await {
            done.warnings.push(format!("what was fetched could not be kept for other jails: {error}"));
        }
        Ok(done)
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}
