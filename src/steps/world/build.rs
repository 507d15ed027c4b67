//! A world that was not built yet.

use async_trait::async_trait;
use hypervisors::Change;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Work, machine, present, typed, unfinished, with_clone};
use crate::recipe::freebsd::world::Transcript;
use crate::recipe::freebsd::{Source, look};
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Builds the base system of a source tree. It stays when the clone goes: the next jail is glad of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildWorld {
    /// Jail host.
    pub host: String,
    /// Source.
    #[serde(flatten)]
    pub source: Source,
    /// Compilers at once.
    pub jobs: u32,
    /// Id of the job there, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
    /// How long it may take, in seconds.
    pub patience_s: u64,
}

impl BuildWorld {
    fn argv(&self) -> Vec<String> {
        self.source.make(&["-j", &self.jobs.max(1).to_string(), "buildworld"])
    }
}

#[async_trait]
impl Step for BuildWorld {
    fn title(&self) -> String {
        format!("build the world of {} on {}", self.source.src.display(), self.host)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        vec![manners.on(&self.host, typed(&self.source.env(), self.argv()))]
    }
    fn shared(&self) -> Option<String> {
        Some(format!("{}:world of {}", self.host, self.source.src.display()))
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = machine(world, &self.host)?;
        Ok(present(look::source(host.as_ref(), &self.source).await?.complete()))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let mut transcript = Transcript::default();
        let mut take = |bytes: &[u8]| {
            transcript.feed(bytes);
            world.progress(transcript.progress(), None);
        };
        let (argv, env) = (self.argv(), self.source.env());
        let work = Work { host: &self.host, job: &self.job, argv: &argv, env: &env, patience_s: self.patience_s };
        let end = work.run(world, &mut take).await?;
        if !end.well() {
            return Err(unfinished(world, &self.host, "make buildworld", &end, transcript.cause()));
        }
        let host = machine(world, &self.host)?;
        if look::source(host.as_ref(), &self.source).await?.complete() {
            return Ok(Change::Created.into());
        }
        Err(StepError::failed(
            "make buildworld ended well, but its objects are not where they are looked for",
            "upgrade.obj, if the host builds elsewhere than in /usr/obj",
        ))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}
