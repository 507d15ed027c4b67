//! The new base system over the old one.

use async_trait::async_trait;
use hypervisors::{Change, Host};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Tree, Work, act, ask, machine, noted, noting, present, shown, typed, unfinished, with_clone};
use crate::recipe::freebsd::world::Transcript;
use crate::recipe::freebsd::{Source, look};
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Name of the note of a world that is installed whole.
const WORLD: &str = "installed";

/// Takes the flag off that keeps files of the old base system from being replaced or removed (chflags(1), `schg`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearFlags {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
    /// The release that comes: files of its own have the flag again, and keep it.
    pub release: String,
}

/// Ends with 0 if a file below `$1` has the flag.
pub(super) const FLAGGED: &str = "test -n \"$(find \"$1\" -xdev -flags +schg -print 2>/dev/null | head -n 1)\"";

#[async_trait]
impl Step for ClearFlags {
    fn title(&self) -> String {
        format!("take the flag schg off the files of {}", self.tree.run)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        vec![
            manners
                .on(&self.tree.host, ["chflags", "-R", "noschg", &shown(&self.tree.root)].map(str::to_owned).to_vec()),
        ]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = machine(world, &self.tree.host)?;
        if noted(host.as_ref(), &self.tree.scratch, WORLD, &self.release).await? {
            return Ok(Probe::Present);
        }
        Ok(present(ask(host.as_ref(), FLAGGED, &[&shown(&self.tree.root)]).await?.status != 0))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = machine(world, &self.tree.host)?;
        let root = shown(&self.tree.root);
        // With -R no link is followed.
        act(host.as_ref(), "take the flag schg off", "chflags -R noschg \"$1\"", &[&root]).await?;
        if ask(host.as_ref(), FLAGGED, &[&root]).await?.status == 0 {
            return Err(StepError::failed(
                "chflags took the flag schg off nothing",
                "is the host's securelevel above 0? (sysctl kern.securelevel)",
            ));
        }
        Ok(Change::Changed.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// Installs a built world into the jail's tree. It is no transaction, but may be repeated at will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallWorld {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
    /// The source it was built from.
    #[serde(flatten)]
    pub source: Source,
    /// The release: `14.1-RELEASE-p5`.
    pub release: String,
    /// Its `__FreeBSD_version`.
    pub osrel: u32,
    /// Id of the job there, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
    /// How long it may take, in seconds.
    pub patience_s: u64,
}

impl InstallWorld {
    fn argv(&self) -> Vec<String> {
        self.source.make(&["installworld", &format!("DESTDIR={}", self.tree.root.display())])
    }
    /// Whether the tree is of the release. Its end is noted apart: what tells the release is installed early.
    async fn lies(&self, host: &dyn Host) -> Result<bool, StepError> {
        let now = look::tree(host, &self.tree.root).await?.release;
        Ok(now.is_some_and(|now| now.name == self.release || (now.osrel == self.osrel && self.osrel < 1_000_000)))
    }
}

#[async_trait]
impl Step for InstallWorld {
    fn title(&self) -> String {
        format!("install the world of {} into {}", self.release, self.tree.run)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        vec![manners.on(&self.tree.host, typed(&self.source.env(), self.argv()))]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = machine(world, &self.tree.host)?;
        let lies = self.lies(host.as_ref()).await?;
        let whole = noted(host.as_ref(), &self.tree.scratch, WORLD, &self.release).await?;
        Ok(match (lies, whole) {
            (true, true) => Probe::Present,
            (true, false) => Probe::Partial,
            (false, _) => Probe::Absent,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        // A world that replaces the loader under its own programs is run again, once.
        for attempt in 1.. {
            let mut transcript = Transcript::default();
            let mut take = |bytes: &[u8]| {
                transcript.feed(bytes);
                world.progress(transcript.progress(), None);
            };
            let argv = noting(&self.tree.scratch, WORLD, &self.release, &self.argv());
            let env = self.source.env();
            let work =
                Work { host: &self.tree.host, job: &self.job, argv: &argv, env: &env, patience_s: self.patience_s };
            let end = work.run(world, &mut take).await?;
            if end.well() && transcript.completed() {
                break;
            }
            if end.well() {
                return Err(StepError::failed(
                    format!("make installworld ended with 0 without installing a world: {}", transcript.cause()),
                    format!("look: make -C {} installworld", self.source.src.display()),
                ));
            }
            if attempt > 1 || !transcript.tripped() {
                return Err(unfinished(world, &self.tree.host, "make installworld", &end, transcript.cause()));
            }
        }
        let host = machine(world, &self.tree.host)?;
        if self.probe(world).await? == Probe::Present {
            return Ok(Change::Changed.into());
        }
        let now = look::tree(host.as_ref(), &self.tree.root).await?.release;
        let now = now.map_or("no release that can be told".to_owned(), |now| now.name);
        Err(StepError::failed(
            format!("make installworld ended well, but {} is {now}, not {}", self.tree.root.display(), self.release),
            "was the source changed after it was built? upgradectl upgrade plans it anew",
        ))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}
