//! The tree of a jail on a host of jails, with the run's own directory beside it: an empty one, that a server's file systems go into, or a clone
//! of another jail's. Its mark lies in that directory (`hypervisors`, the host's driver for trees).
//!
//! [`between`]: what goes from one jail's tree to another's.

pub mod between;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::storage::{Snapshot, zfs};
use hypervisors::{Change, Mark, Role, VolumeKind, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Done, Probe, Step, StepError, World};

/// Makes the tree of a jail, and the run's directory; taken back, all that came into them goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeTree {
    /// Inventory host.
    pub host: String,
    /// Run id.
    pub run: String,
    /// The tree.
    pub root: PathBuf,
    /// The run's directory.
    pub scratch: PathBuf,
    /// The dataset that it is, where the directory of jails is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// The tree, a dataset of its own, of which it is a clone as of this instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<PathBuf>,
}

/// Arguments: tree, run's directory, mark. Status 98: the tree is there and is not of this run.
const MARK: &str = "umask 077; if test -e \"$1\" -o -L \"$1\"; then test \"$(cat \"$2/mark\" 2>/dev/null)\" = \"$3\" || exit 98; fi; \
    mkdir -p \"$2\" && printf '%s\\n' \"$3\" >\"$2/mark.new\" && mv \"$2/mark.new\" \"$2/mark\" && sync";

/// After [`MARK`]. Arguments: as there, then the tree's dataset or nothing. Status 98: the dataset is there and is not of this run; 97: it is mounted
/// elsewhere.
const MAKE: &str = "if test -n \"$4\"; then p=org.upgradectl:run; m=$(zfs list -H -o $p \"$4\" 2>/dev/null); \
    case $m in \"$3\") ;; '') zfs create -o \"$p=$3\" \"$4\" || exit 1;; *) exit 98;; esac; \
    test \"$(zfs list -H -o mountpoint \"$4\")\" = \"$1\" || exit 97; \
    test \"$(zfs list -H -o mounted \"$4\")\" = yes || zfs mount \"$4\" || exit 1; fi; \
    { test -d \"$1\" || mkdir \"$1\"; } && chmod 0755 \"$1\"";

fn tree(root: &Path) -> VolumeRef {
    VolumeRef { kind: VolumeKind::Directory, path: root.to_owned() }
}

fn dataset(root: &Path) -> VolumeRef {
    VolumeRef { kind: VolumeKind::Zfs, path: root.to_owned() }
}

/// A path as an argument.
fn text(path: &Path) -> Result<&str, StepError> {
    path.to_str().filter(|text| text.starts_with('/')).ok_or_else(|| {
        let why = format!("{} is not an absolute path in UTF-8", path.display());
        StepError::failed(why, "mend jails in the inventory")
    })
}

impl MakeTree {
    fn mark(&self) -> Mark {
        Mark { run: self.run.clone(), role: Role::Clone }
    }

    fn foreign(&self) -> StepError {
        StepError::failed(
            format!("{} on {} is not of run {}", self.root.display(), self.host, self.run),
            "move it away, if it is of no use any more",
        )
    }
}

#[async_trait]
impl Step for MakeTree {
    fn title(&self) -> String {
        if let Some(of) = &self.of {
            return format!("clone {} to {} on {}", of.display(), self.root.display(), self.host);
        }
        let dataset = self.dataset.as_ref().map(|name| format!(" (dataset {name})")).unwrap_or_default();
        format!("make {}{dataset} on {}", self.root.display(), self.host)
    }
    fn undo_title(&self) -> String {
        "remove it".into()
    }
    fn taken_back(&self) -> String {
        format!("remove {} on {}", self.root.display(), self.host)
    }
    fn commands(&self, manners: &super::Manners) -> Vec<Vec<String>> {
        let owned = |words: &[&str]| manners.on(&self.host, words.iter().map(|word| (*word).to_owned()).collect());
        let (mark, root) = (format!("{}={}", zfs::RUN, self.mark()), self.root.display().to_string());
        match (&self.of, &self.dataset) {
            (Some(of), _) => {
                let (snapshot, place) = (format!("{}@{}", of.display(), self.run), format!("mountpoint={root}"));
                vec![
                    owned(&["zfs", "snapshot", "-o", &mark, &snapshot]),
                    owned(&["zfs", "clone", "-o", &mark, "-o", &place, &snapshot, &root]),
                ]
            }
            (None, Some(name)) => vec![owned(&["zfs", "create", "-o", &mark, name])],
            (None, None) => vec![owned(&["mkdir", &root])],
        }
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let volume = tree(&self.root);
        match hypervisor.storage(volume.kind)?.probe(&volume, &self.mark()).await? {
            Snapshot::Absent => Ok(Probe::Absent),
            Snapshot::Partial => Ok(Probe::Partial),
            Snapshot::Present if self.of.is_none() => Ok(Probe::Present),
            // A directory in its place is no clone yet.
            Snapshot::Present => {
                let clone = dataset(&self.root);
                match hypervisor.storage(clone.kind)?.probe(&clone, &self.mark()).await? {
                    Snapshot::Present => Ok(Probe::Present),
                    _ => Ok(Probe::Partial),
                }
            }
            Snapshot::Foreign(_) => Err(self.foreign()),
        }
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let mark = self.mark().to_string();
        let named = self.dataset.as_deref().unwrap_or_default();
        let script = match self.of {
            Some(_) => MARK.to_owned(),
            None => format!("{MARK} || exit 1; {MAKE}"),
        };
        let command = Command::new(["sh", "-c", &script, "sh", text(&self.root)?, text(&self.scratch)?, &mark, named]);
        let output = hypervisor.host().run(&command).await?;
        match output.status {
            98 => return Err(self.foreign()),
            97 => {
                let why = format!("{named} is not mounted at {}", self.root.display());
                return Err(StepError::failed(why, "let the datasets of jails inherit their mount points"));
            }
            _ => {}
        }
        output.checked(format!("make {}", self.root.display()), &command)?;
        if let Some(of) = &self.of {
            let (source, clone) = (dataset(of), dataset(&self.root));
            hypervisor.storage(clone.kind)?.snapshot(&source, &clone, &self.mark()).await?;
        }
        Ok(Change::Created.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        super::storage::remove(world, &self.host, [tree(&self.root)].iter()).await
    }
}

/// Keeps a tree for good: the run's directory goes, and with it the mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepTree {
    /// Inventory host.
    pub host: String,
    /// Run id.
    pub run: String,
    /// The tree.
    pub root: PathBuf,
    /// The run's directory.
    pub scratch: PathBuf,
}

#[async_trait]
impl Step for KeepTree {
    fn title(&self) -> String {
        format!("keep {} on {}", self.root.display(), self.host)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let volume = tree(&self.root);
        let facts = world.hypervisor(&self.host)?.storage(volume.kind)?.inspect(&volume).await?;
        Ok(if facts.is_some_and(|facts| facts.mark.is_some()) { Probe::Absent } else { Probe::Present })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let volume = tree(&self.root);
        Ok(world.hypervisor(&self.host)?.storage(volume.kind)?.mark(&volume, None).await?.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
