//! Steps on the files of a machine's own system while nothing can reach it but its tools: the clone's identity put on, production's put
//! back. The files are brought here to be planned on and put there again ([`guest::far`]); what is written counts from the next start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use hypervisors::{Change, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::linked::Which;
use crate::guest::far::{self, Wanted};
use crate::guest::restore::{Restored, restore_edits};
use crate::guest::{self, CloneSpec, FileEdit, leftovers};
use crate::steps::files::{self, Expected, Rewrite, as_planned, recall, reversed};
use crate::steps::reduce::count;
use crate::steps::{Done, Probe, Step, StepError, StepRef, World};

/// Most places that are told.
const MAX_TOLD: usize = 20;

async fn enter(world: &World, of: &Which, guest: &str) -> Result<Arc<dyn Host>, StepError> {
    Ok(super::machines(world, &of.host)?.enter(&of.uuid, guest).await?)
}

/// What is brought here of a system for its identity to be planned on.
///
/// # Errors
/// It cannot be asked; its files cannot be read.
pub async fn files_of(host: &dyn Host) -> Result<far::Fetched, StepError> {
    let paths = guest::container::wanted()?;
    Ok(far::fetch(host, Path::new("/"), Wanted { paths: &paths, ..Wanted::default() }).await?)
}

async fn put(host: &dyn Host, edits: &[FileEdit]) -> Result<Done, StepError> {
    let changed = far::put(host, Path::new("/"), edits).await?;
    Ok(Done::new(if changed { Change::Changed } else { Change::Unchanged }))
}

/// Makes a clone that has no network yet not be its original: address, keys, quarantine (kind `machine.rewrite`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewriteInside {
    /// The clone.
    pub of: Which,
    /// The guest, whose login is used.
    pub guest: String,
    /// What changes.
    pub spec: CloneSpec,
    /// What the plan saw on the original.
    pub expected: Vec<Expected>,
    /// The diff, as the plan saw it.
    pub diff: String,
    /// Words that may still name the original afterwards: addresses, names.
    pub needles: Vec<String>,
}

impl RewriteInside {
    async fn edits(&self, world: &World, host: &dyn Host) -> Result<Vec<FileEdit>, StepError> {
        let there = files_of(host).await?;
        Ok(guest::clone_edits(&there.tree, &Rewrite::keyed(&self.spec, world)?)?)
    }
}

#[async_trait]
impl Step for RewriteInside {
    fn title(&self) -> String {
        format!("rewrite {} in {} by its tools", count(self.expected.len()), self.of.shown)
    }
    fn undo_title(&self) -> String {
        "goes with the clone".into()
    }
    fn diff(&self) -> Option<String> {
        Some(self.diff.clone())
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        if Rewrite::keyed(&self.spec, world)?.host_keys.is_empty() {
            return Ok(Probe::Absent);
        }
        let host = enter(world, &self.of, &self.guest).await?;
        let known = std::fs::read_to_string(world.run_dir.join("known_hosts")).unwrap_or_default();
        let whole = self.edits(world, &*host).await?.is_empty() && known == Rewrite::known_hosts(world)?;
        Ok(if whole { Probe::Present } else { Probe::Partial })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        Rewrite::make_keys(world).await?;
        let host = enter(world, &self.of, &self.guest).await?;
        let edits = self.edits(world, &*host).await?;
        as_planned(&edits, &self.expected)?;
        files::keep(world, &edits)
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let edits = recall(world, found)?;
        let host = enter(world, &self.of, &self.guest).await?;
        let done = put(&*host, &edits).await?;
        let known_hosts = world.run_dir.join("known_hosts");
        world.controller.write_file(&known_hosts, Rewrite::known_hosts(world)?.as_bytes(), 0o600).await?;
        let left = leftovers::search(&files_of(&*host).await?.tree, &self.needles)?;
        let told = left.into_iter().take(MAX_TOLD);
        let told = told.map(|left| format!("still there: /{}:{}: {}", left.path.display(), left.line, left.text));
        let files: Vec<&PathBuf> = edits.iter().map(|edit| &edit.path).collect();
        Ok(told.fold(done, Done::warn).with(json!({ "files": files })))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Gives a clone without a network production's identity: what [`RewriteInside`] changed, as it was, or as the upgrade made it with
/// production's values (kind `machine.identity`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreInside {
    /// The clone.
    pub of: Which,
    /// The guest, whose login is used.
    pub guest: String,
    /// The step that changed it.
    pub rewrite: StepRef,
    /// What the plan saw in the clone.
    pub expected: Vec<Expected>,
    /// The diff, as the plan saw it.
    pub diff: String,
}

impl RestoreInside {
    /// What giving the identity back changes in a clone as it is now. `host`: its inside.
    ///
    /// # Errors
    /// The upgrade and production disagree; the journal does not have what was changed.
    pub async fn restored(host: &dyn Host, world: &World, rewrite: StepRef) -> Result<Restored, StepError> {
        let recorded = files::Restore::recorded(world, rewrite)?;
        let paths: Vec<PathBuf> = recorded.iter().map(|edit| edit.path.clone()).collect();
        let there = far::fetch(host, Path::new("/"), Wanted { paths: &paths, ..Wanted::default() }).await?;
        if let Some(path) = there.behind_links.first() {
            let why = format!("/{}: lies behind a link now", path.display());
            return Err(StepError::failed(why, "put directories in the place of the links in the clone"));
        }
        Ok(restore_edits(&there.tree, &recorded)?)
    }

    async fn now(&self, world: &World) -> Result<(Arc<dyn Host>, Vec<FileEdit>), StepError> {
        let host = enter(world, &self.of, &self.guest).await?;
        let edits = Self::restored(&*host, world, self.rewrite).await?.edits;
        Ok((host, edits))
    }
}

#[async_trait]
impl Step for RestoreInside {
    fn title(&self) -> String {
        format!("give {} production's identity back ({})", self.of.shown, count(self.expected.len()))
    }
    fn undo_title(&self) -> String {
        "the clone's identity again".into()
    }
    fn taken_back(&self) -> String {
        "give the clone its own identity again".into()
    }
    fn diff(&self) -> Option<String> {
        Some(self.diff.clone())
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        Ok(if self.now(world).await?.1.is_empty() { Probe::Present } else { Probe::Absent })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let (_, edits) = self.now(world).await?;
        as_planned(&edits, &self.expected)?;
        files::keep(world, &edits)
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        put(&*enter(world, &self.of, &self.guest).await?, &recall(world, found)?).await
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        put(&*enter(world, &self.of, &self.guest).await?, &reversed(&recall(world, found)?)).await
    }
}
