//! Steps on the files of a volume no guest runs on: the clone's identity put on, production's put back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::storage::{Access, Opened};
use hypervisors::{Change, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Probe, Step, StepError, StepRef, World, sha256};
use crate::guest::{self, CloneSpec, FileEdit, GuestError, Tree};

/// A file as the plan expects it, before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Path beneath the guest's root.
    pub path: PathBuf,
    /// SHA-256 of its image before and after (its JSON), absence included.
    pub change: String,
}

/// What a list of edits comes to, for comparison of plan and reality. What belongs to one run only (throw-away keys,
/// machine-id) is left out.
pub fn expected(edits: &[FileEdit]) -> Vec<Expected> {
    let of_the_run = |path: &Path| {
        path.ends_with("machine-id") || (path.starts_with("etc/ssh") && path.to_string_lossy().contains("host_"))
    };
    edits
        .iter()
        .filter(|edit| !of_the_run(&edit.path))
        .map(|edit| Expected {
            path: edit.path.clone(),
            change: sha256(&serde_json::to_vec(&(&edit.before, &edit.after)).unwrap_or_default()),
        })
        .collect()
}

/// Refuses edits that are not those of the plan.
pub(super) fn as_planned(edits: &[FileEdit], planned: &[Expected]) -> Result<(), StepError> {
    let now = expected(edits);
    let changed: Vec<String> = now
        .iter()
        .filter(|file| !planned.contains(file))
        .chain(planned.iter().filter(|file| !now.iter().any(|other| other.path == file.path)))
        .map(|file| format!("/{}", file.path.display()))
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    Err(StepError::Changed(format!("changed in the guest since the plan was made: {}", changed.join(", "))))
}

/// A volume that no guest runs on (for containers also while one does), to read and write.
pub(super) async fn open(world: &World, host: &str, volume: &VolumeRef) -> Result<Tree, StepError> {
    open_for(world, host, volume, Access::Write).await
}

/// A volume for what `access` says.
pub(super) async fn open_for(world: &World, host: &str, volume: &VolumeRef, access: Access) -> Result<Tree, StepError> {
    Ok(tree_of(&world.hypervisor(host)?.storage(volume.kind)?.open(volume, access).await?)?)
}

/// The files of an opened volume, which stays open as long as they are used.
pub(super) fn tree_of(opened: &Opened) -> Result<Tree, GuestError> {
    Ok(Tree::open(opened.path())?.keeping(opened.clone()))
}

pub(super) fn reversed(edits: &[FileEdit]) -> Vec<FileEdit> {
    edits
        .iter()
        .rev()
        .map(|edit| FileEdit { before: edit.after.clone(), after: edit.before.clone(), ..edit.clone() })
        .collect()
}

pub(super) fn keep(world: &World, edits: &[FileEdit]) -> Result<Value, StepError> {
    let bytes = serde_json::to_vec(edits).map_err(|error| StepError::Memory(error.to_string()))?;
    Ok(json!({ "edits": world.memory.keep(&bytes)? }))
}

pub(super) fn recall(world: &World, found: &Value) -> Result<Vec<FileEdit>, StepError> {
    let Some(sha) = found["edits"].as_str() else { return Ok(Vec::new()) };
    serde_json::from_slice(&world.memory.recall(sha)?).map_err(|error| StepError::Memory(error.to_string()))
}

/// What the two file steps say of themselves.
fn names(edits: &[Expected], most: usize) -> String {
    let mut names: Vec<String> = edits.iter().take(most).map(|file| format!("/{}", file.path.display())).collect();
    if edits.len() > most {
        names.push(format!("{} more", edits.len() - most));
    }
    names.join(", ")
}

fn beneath(path: &Path, mount_point: &Path) -> bool {
    path.starts_with(mount_point.strip_prefix("/").unwrap_or(mount_point))
}

/// Makes the copy of a guest not be the guest: address, keys, mounts, quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// Inventory host.
    pub host: String,
    /// Root volume of the clone.
    pub volume: VolumeRef,
    /// What changes.
    pub spec: CloneSpec,
    /// How many files change.
    #[serde(default)]
    pub files: usize,
    /// What the plan saw on the live guest.
    pub expected: Vec<Expected>,
    /// The diff, as the plan saw it.
    pub diff: String,
    /// Words that may still name the original afterwards: addresses, names.
    pub needles: Vec<String>,
}

impl Rewrite {
    fn key_dir(world: &World) -> PathBuf {
        world.run_dir.join("hostkeys")
    }

    /// A spec with the run's throw-away host keys, if they have been made.
    pub(super) fn keyed(spec: &CloneSpec, world: &World) -> Result<CloneSpec, StepError> {
        Ok(CloneSpec { host_keys: read_keys(&Self::key_dir(world))?, ..spec.clone() })
    }

    pub(super) async fn make_keys(world: &World) -> Result<(), StepError> {
        let dir = Self::key_dir(world);
        if !read_keys(&dir)?.is_empty() {
            return Ok(());
        }
        let unwritable = |error| StepError::Platform(hypervisors::Error::io("make throw-away host keys", error));
        std::fs::create_dir_all(&dir).map_err(unwritable)?;
        let file = dir.join("ssh_host_ed25519_key");
        let _ = std::fs::remove_file(&file);
        let argv =
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", world.run.as_str(), "-f", &file.to_string_lossy()]
                .map(str::to_owned);
        let command = Command::new(argv).timeout(Duration::from_secs(20));
        world.controller.run(&command).await?.checked("make throw-away host keys", &command)?;
        // The clone is about to get them: what a power cut leaves must not be another key, or half of one.
        for path in [&file, &file.with_extension("pub"), &dir] {
            std::fs::File::open(path).and_then(|file| file.sync_all()).map_err(unwritable)?;
        }
        Ok(())
    }

    /// The line by which the clone's host key is expected.
    pub fn known_hosts(world: &World) -> Result<String, StepError> {
        let keys = read_keys(&Self::key_dir(world))?;
        Ok(guest::keys::known_hosts(&world.run, &guest::keys::public_keys_of(&keys)))
    }
}

fn read_keys(dir: &Path) -> Result<BTreeMap<String, String>, StepError> {
    let mut keys = BTreeMap::new();
    for name in ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"] {
        match std::fs::read_to_string(dir.join(name)) {
            // Begun, and cut off.
            Ok(text) if text.is_empty() => return Ok(BTreeMap::new()),
            Ok(text) => {
                keys.insert(name.to_owned(), text);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(hypervisors::Error::io("read the throw-away host keys", error).into()),
        }
    }
    Ok(keys)
}

#[async_trait]
impl Step for Rewrite {
    fn title(&self) -> String {
        // Directories beneath detached mount points are many and say little.
        let bones = |file: &&Expected| !self.spec.skeletons.iter().any(|(point, _)| beneath(&file.path, point));
        format!("rewrite {} files in the clone", self.expected.iter().filter(bones).count())
    }
    fn undo_title(&self) -> String {
        "goes with the clone".into()
    }
    fn diff(&self) -> Option<String> {
        Some(self.diff.clone())
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let spec = Self::keyed(&self.spec, world)?;
        if spec.host_keys.is_empty() {
            return Ok(Probe::Absent);
        }
        let tree = open(world, &self.host, &self.volume).await?;
        let left = guest::clone_edits(&tree, &spec)?;
        let known = std::fs::read_to_string(world.run_dir.join("known_hosts")).unwrap_or_default();
        let keys = Self::known_hosts(world)?;
        Ok(match left.len() {
            0 if known == keys => Probe::Present,
            _ => Probe::Partial,
        })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        Self::make_keys(world).await?;
        let tree = open(world, &self.host, &self.volume).await?;
        let edits = guest::clone_edits(&tree, &Self::keyed(&self.spec, world)?)?;
        let now = expected(&edits);
        if now != self.expected {
            let changed: Vec<String> = now
                .iter()
                .filter(|file| !self.expected.contains(file))
                .chain(self.expected.iter().filter(|file| !now.iter().any(|other| other.path == file.path)))
                .map(|file| format!("/{}", file.path.display()))
                .collect();
            return Err(StepError::Changed(format!(
                "changed in the guest since the plan was made: {}",
                changed.join(", ")
            )));
        }
        let mut found = keep(world, &edits)?;
        found["links"] = json!(guest::mounts::links_into(&tree, &self.spec.detached)?);
        Ok(found)
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let edits = recall(world, found)?;
        let tree = open(world, &self.host, &self.volume).await?;
        let changed = guest::apply(&tree, &edits)?;
        let known_hosts = world.run_dir.join("known_hosts");
        world.controller.write_file(&known_hosts, Self::known_hosts(world)?.as_bytes(), 0o600).await?;
        let mut done = Done::new(if changed { Change::Changed } else { Change::Unchanged });
        for left in guest::leftovers::search(&tree, &self.needles)?.into_iter().take(20) {
            done = done.warn(format!("still there: /{}:{}: {}", left.path.display(), left.line, left.text));
        }
        Ok(done.with(json!({ "files": edits.iter().map(|edit| edit.path.clone()).collect::<Vec<_>>() })))
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let tree = open(world, &self.host, &self.volume).await?;
        let changed = guest::apply(&tree, &reversed(&recall(world, found)?))?;
        Ok(Done::new(if changed { Change::Changed } else { Change::Unchanged }))
    }
}

/// Gives the clone production's identity back: everything [`Rewrite`] changed, as it was, or as the upgrade made
/// it with production's values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// Inventory host.
    pub host: String,
    /// Root volume of the clone.
    pub volume: VolumeRef,
    /// The step that changed it.
    pub rewrite: StepRef,
    /// What the plan saw on the clone.
    pub expected: Vec<Expected>,
    /// The diff, as the plan saw it.
    pub diff: String,
}

impl Restore {
    /// The edits that [`Rewrite`] made, from the journal.
    pub fn recorded(world: &World, rewrite: StepRef) -> Result<Vec<FileEdit>, StepError> {
        let found = world.memory.found(rewrite)?.ok_or_else(|| {
            StepError::Memory(format!("step {} of plan {} is not in the journal", rewrite.index + 1, rewrite.plan))
        })?;
        recall(world, &found)
    }

    /// The links into detached data that [`Rewrite`] found, from the journal: path in the root, target as written.
    pub fn links(world: &World, rewrite: StepRef) -> Result<Vec<(PathBuf, PathBuf)>, StepError> {
        let found = world.memory.found(rewrite)?.unwrap_or_default();
        // Runs of before this was recorded have none.
        if found["links"].is_null() { Ok(Vec::new()) } else { super::read(&found["links"]) }
    }

    async fn edits(&self, world: &World) -> Result<guest::restore::Restored, StepError> {
        let tree = open(world, &self.host, &self.volume).await?;
        Ok(guest::restore::restore_edits(&tree, &Self::recorded(world, self.rewrite)?)?)
    }
}

#[async_trait]
impl Step for Restore {
    fn title(&self) -> String {
        format!("give the clone production's identity back ({})", names(&self.expected, 2))
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
        Ok(if self.edits(world).await?.edits.is_empty() { Probe::Present } else { Probe::Absent })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let edits = self.edits(world).await?.edits;
        as_planned(&edits, &self.expected)?;
        keep(world, &edits)
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let tree = open(world, &self.host, &self.volume).await?;
        let changed = guest::apply(&tree, &recall(world, found)?)?;
        Ok(Done::new(if changed { Change::Changed } else { Change::Unchanged }))
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let tree = open(world, &self.host, &self.volume).await?;
        let changed = guest::apply(&tree, &reversed(&recall(world, found)?))?;
        Ok(Done::new(if changed { Change::Changed } else { Change::Unchanged }))
    }
}
