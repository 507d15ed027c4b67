//! Steps that make a server's tree, brought to a jail host, a jail's: [`Prune`] what a jail does not need, [`Reduce`] its
//! configuration, and at promotion give it the server's [`Identity`].
//!
//! The tree lies on the jail host, in a directory; its jail is stopped, and its files are hostile. They are brought here to be
//! planned on and put there again ([`guest::far`]). What is done before promotion goes with the clone, so its undo has nothing to
//! do; that of [`Identity`] puts the clone's on again.

mod prune;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use hypervisors::{Change, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::files::{self, Expected, as_planned, recall, reversed};
use super::{Done, Probe, Step, StepError, StepRef, World};
use crate::guest::far::{self, FarError, Wanted};
use crate::guest::freebsd::{self, JailSpec, ORIGINAL, Reduced};
use crate::guest::restore::{Restored, restore_edits};
use crate::guest::{FileEdit, diff, leftovers};

pub use prune::{DEFAULT as DEFAULT_PRUNE, MOUNT_POINTS, Prune, paths as prune_paths, queue_paths};

/// Most places that are told.
const MAX_TOLD: usize = 20;

impl From<FarError> for StepError {
    fn from(error: FarError) -> Self {
        match error {
            FarError::Platform(error) => error.into(),
            FarError::Guest(error) => error.into(),
        }
    }
}

/// What becomes of a server's files: of the server itself (`root` is `/`), for a plan, or of its tree on the jail host.
pub async fn reduced(host: &dyn Host, root: &Path, spec: &JailSpec) -> Result<Reduced, StepError> {
    let wanted = freebsd::wanted(spec);
    let there = Wanted { paths: &wanted.paths, places: &wanted.places, words: &wanted.words };
    let there = far::fetch(host, root, there).await?;
    let mut reduced = freebsd::plan(&there.tree, spec)?;
    let behind =
        there.behind_links.iter().map(|path| format!("/{}: lies behind a link and is left alone", path.display()));
    reduced.notes.extend(behind);
    Ok(reduced)
}

/// The way back of an identity on the tree as it is now.
pub async fn restored(host: &dyn Host, root: &Path, identity: &[FileEdit]) -> Result<Restored, StepError> {
    let paths: Vec<PathBuf> = identity.iter().map(|edit| edit.path.clone()).collect();
    let there = far::fetch(host, root, Wanted { paths: &paths, ..Wanted::default() }).await?;
    if let Some(path) = there.behind_links.first() {
        let why = format!("/{}: lies behind a link now", path.display());
        return Err(StepError::failed(why, "put directories in the place of the links in the jail's tree"));
    }
    Ok(restore_edits(&there.tree, identity)?)
}

/// The diffs of edits, for a plan's page; kept originals are not shown.
pub fn shown(edits: &[FileEdit]) -> String {
    edits.iter().filter(|edit| !is_original(&edit.path)).map(diff).collect()
}

fn is_original(path: &Path) -> bool {
    path.to_string_lossy().ends_with(ORIGINAL)
}

pub(super) fn count(files: usize) -> String {
    if files == 1 { "1 file".to_owned() } else { format!("{files} files") }
}

/// Reduces the configuration of a server's tree to a jail's, with the clone's address and quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reduce {
    /// Inventory host: the jail host.
    pub host: String,
    /// The tree there.
    pub root: PathBuf,
    /// What changes.
    pub spec: JailSpec,
    /// What the plan saw on the server.
    pub expected: Vec<Expected>,
    /// The diff, as the plan saw it.
    pub diff: String,
}

impl Reduce {
    /// A step that does what was planned on the server.
    pub fn planned(host: impl Into<String>, root: PathBuf, spec: JailSpec, reduced: &Reduced) -> Self {
        let (expected, diff) = (files::expected(&reduced.edits), shown(&reduced.edits));
        Self { host: host.into(), root, spec, expected, diff }
    }

    async fn reduced(&self, world: &World) -> Result<Reduced, StepError> {
        reduced(&*world.hypervisor(&self.host)?.host(), &self.root, &self.spec).await
    }

    /// Where the server's addresses still stand.
    async fn left(&self, world: &World) -> Result<Vec<String>, StepError> {
        let (places, words) = (freebsd::places(), freebsd::words(&self.spec));
        let wanted = Wanted { places: &places, words: &words, ..Wanted::default() };
        let host = world.hypervisor(&self.host)?.host();
        let there = match far::fetch(&*host, &self.root, wanted).await {
            // There may be too much of it; it is for people only.
            Err(FarError::Platform(error)) if !error.is_unknown() => {
                return Ok(vec![format!("what still names the server's address was not looked for: {error}")]);
            }
            other => other?,
        };
        let found = leftovers::search(&there.tree, &words)?.into_iter().filter(|left| !is_original(&left.path));
        let mut told: Vec<String> =
            found.map(|left| format!("still there: /{}:{}: {}", left.path.display(), left.line, left.text)).collect();
        if told.len() > MAX_TOLD {
            let more = told.len() - MAX_TOLD;
            told.truncate(MAX_TOLD);
            told.push(format!("and {more} more places"));
        }
        Ok(told)
    }
}

#[async_trait]
impl Step for Reduce {
    fn title(&self) -> String {
        let changed = self.expected.iter().filter(|file| !is_original(&file.path)).count();
        match self.spec.is_jail {
            true => format!("give the clone an identity of its own ({})", count(changed)),
            false => format!("reduce the server's configuration to a jail's ({})", count(changed)),
        }
    }
    fn undo_title(&self) -> String {
        "goes with the clone".into()
    }
    fn diff(&self) -> Option<String> {
        Some(self.diff.clone())
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let left = files::expected(&self.reduced(world).await?.edits);
        Ok(match left {
            left if left.is_empty() => Probe::Present,
            left if left == self.expected => Probe::Absent,
            _ => Probe::Partial,
        })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let reduced = self.reduced(world).await?;
        as_planned(&reduced.edits, &self.expected)?;
        let mut found = files::keep(world, &reduced.edits)?;
        found["identity"] = files::keep(world, &reduced.identity)?["edits"].take();
        found["notes"] = json!(reduced.notes);
        found["held"] = json!(reduced.held.iter().map(|held| &held.unit).collect::<Vec<_>>());
        Ok(found)
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let edits = recall(world, found)?;
        let host = world.hypervisor(&self.host)?.host();
        let changed = far::put(&*host, &self.root, &edits).await?;
        let notes: Vec<String> = super::read(&found["notes"])?;
        let done = Done::new(if changed { Change::Changed } else { Change::Unchanged });
        let done = notes.into_iter().chain(self.left(world).await?).fold(done, Done::warn);
        let files: Vec<&PathBuf> = edits.iter().map(|edit| &edit.path).collect();
        Ok(done.with(json!({ "files": files, "held": found["held"] })))
    }
    async fn undo(&self, _: &World, _: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Gives the jail the server's identity: its address where [`Reduce`] put the clone's, its name, and its services without
/// quarantine. The reduction itself stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Inventory host: the jail host.
    pub host: String,
    /// The tree there.
    pub root: PathBuf,
    /// The [`Reduce`] that put the clone's identity on.
    pub reduce: StepRef,
    /// What the plan saw in the tree.
    pub expected: Vec<Expected>,
    /// The diff, as the plan saw it.
    pub diff: String,
}

impl Identity {
    /// A step that takes back what [`Reduce`] put on, as the tree was seen for the plan.
    pub fn planned(host: impl Into<String>, root: PathBuf, reduce: StepRef, restored: &Restored) -> Self {
        let (expected, diff) = (files::expected(&restored.edits), shown(&restored.edits));
        Self { host: host.into(), root, reduce, expected, diff }
    }

    /// The identity that [`Reduce`] put on, from the journal.
    pub fn recorded(world: &World, reduce: StepRef) -> Result<Vec<FileEdit>, StepError> {
        let found = world.memory.found(reduce)?.ok_or_else(|| {
            StepError::Memory(format!("step {} of plan {} is not in the journal", reduce.index + 1, reduce.plan))
        })?;
        recall(world, &json!({ "edits": found["identity"] }))
    }

    async fn restored(&self, world: &World) -> Result<Restored, StepError> {
        let identity = Self::recorded(world, self.reduce)?;
        restored(&*world.hypervisor(&self.host)?.host(), &self.root, &identity).await
    }

    async fn put(&self, world: &World, edits: &[FileEdit]) -> Result<Done, StepError> {
        let changed = far::put(&*world.hypervisor(&self.host)?.host(), &self.root, edits).await?;
        Ok(Done::new(if changed { Change::Changed } else { Change::Unchanged }))
    }
}

#[async_trait]
impl Step for Identity {
    fn title(&self) -> String {
        format!("give the jail the original's identity ({})", count(self.expected.len()))
    }
    fn undo_title(&self) -> String {
        "the clone's identity again".into()
    }
    fn taken_back(&self) -> String {
        "give the jail its own identity again".into()
    }
    fn diff(&self) -> Option<String> {
        Some(self.diff.clone())
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        Ok(if self.restored(world).await?.edits.is_empty() { Probe::Present } else { Probe::Absent })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let restored = self.restored(world).await?;
        as_planned(&restored.edits, &self.expected)?;
        let mut found = files::keep(world, &restored.edits)?;
        found["notes"] = json!(restored.notes);
        Ok(found)
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let done = self.put(world, &recall(world, found)?).await?;
        let notes: Vec<String> = super::read(&found["notes"])?;
        Ok(notes.into_iter().take(MAX_TOLD).fold(done, Done::warn))
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        self.put(world, &reversed(&recall(world, found)?)).await
    }
}
