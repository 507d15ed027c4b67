//! What a jail does not need goes: sources, ports, the kernel, what was in /dev. `etc` is backed up first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::{Output, printable_tail};
use hypervisors::{Cause, Change, Error};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::guest::far;

use super::super::{Done, Manners, Probe, Step, StepError, World};

/// What is removed unless the inventory names something else (requirement J2). A `/` at the end keeps the directory.
pub const DEFAULT: [&str; 11] = [
    "usr/src",
    "usr/obj",
    "usr/ports/",
    "boot",
    "kernel*",
    "modules",
    "modules.old",
    "dev/",
    "proc/",
    "tmp/",
    "restoresymtable",
];
/// Directories that are there and empty afterwards, for the jail host to mount something on.
pub const MOUNT_POINTS: [&str; 2] = ["dev", "usr/ports"];
/// How long removing may take: a ports tree is a hundred thousand files on an old disk.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);

/// The list of [`Prune::paths`] for a server with these file systems: what restore(8) and snapshots leave in each of them goes
/// too, and what is in known queues. `configured`: the inventory's list, which takes the place of [`DEFAULT`].
pub fn paths(configured: Option<&[String]>, filesystems: &[PathBuf]) -> Vec<String> {
    let default = || DEFAULT.map(str::to_owned).to_vec();
    let mut paths = configured.map_or_else(default, <[String]>::to_vec);
    paths.extend(queue_paths());
    for filesystem in filesystems {
        let below = filesystem.strip_prefix("/").unwrap_or(filesystem);
        for name in ["restoresymtable", ".snap"] {
            let path = below.join(name).to_string_lossy().into_owned();
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths
}

/// What is in known queues: what waits there is the original's to send, and comes over at promotion.
pub fn queue_paths() -> Vec<String> {
    let queues = crate::guest::queues::directories().unwrap_or_default();
    queues.iter().map(|directory| format!("{}/", directory.display())).collect()
}

/// Takes out of a stopped jail's tree what a jail does not need, and keeps a tar of `etc` as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// Inventory host: the jail host.
    pub host: String,
    /// The tree there.
    pub root: PathBuf,
    /// The run's own directory there; the backup is `backup/etc.tar` in it.
    pub scratch: PathBuf,
    /// What goes, relative to the tree: `usr/src`; `tmp/` is emptied and stays; the last part may have a `*`.
    pub paths: Vec<String>,
    /// Directories that are there and empty afterwards, relative to the tree.
    pub mount_points: Vec<String>,
}

impl Prune {
    fn backup(&self) -> PathBuf {
        self.scratch.join("backup")
    }

    /// Runs the script; what it says on standard output, and what it tells.
    async fn run(&self, world: &World, verb: &str) -> Result<(Output, Vec<String>), StepError> {
        for path in self.paths.iter().chain(&self.mount_points) {
            if !is_sound(path) {
                let why = format!("{path:?} is no path beneath the tree");
                return Err(StepError::failed(why, "correct source.prune in the inventory, and clone again"));
            }
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (root, backup, count) = (text(&self.root), text(&self.backup()), self.paths.len().to_string());
        let fixed = [verb, &root, &backup, &count].into_iter();
        let words: Vec<&str> = fixed.chain(self.paths.iter().chain(&self.mount_points).map(String::as_str)).collect();
        let command = far::script("prune", include_str!("prune.sh"), &words).timeout(PATIENCE);
        let doing = format!("prune {}", self.root.display());
        let output = world.hypervisor(&self.host)?.host().run(&command).await?;
        if output.status == 65 {
            return Err(Error::new(doing, Cause::Refused(printable_tail(&output.stderr, 1))).into());
        }
        let told = String::from_utf8_lossy(&output.stderr);
        let told = told.lines().filter_map(|line| line.strip_prefix("told: ").map(hypervisors::host::printable));
        let told = told.take(20).collect();
        Ok((output.checked(doing, &command)?, told))
    }

    /// What is left to do.
    async fn left(&self, world: &World) -> Result<Vec<String>, StepError> {
        let (output, _) = self.run(world, "look").await?;
        Ok(output.text().lines().map(hypervisors::host::printable).collect())
    }
}

/// Whether a path leads beneath a tree and has a `*` in its last part only.
fn is_sound(path: &str) -> bool {
    let bare = path.strip_suffix('/').unwrap_or(path);
    let mut parts: Vec<&str> = bare.split('/').collect();
    let last = parts.pop().unwrap_or_default();
    let named = |part: &&str| {
        !["", ".", ".."].contains(part) && !part.contains(|c: char| c.is_control() || "[]?\\".contains(c))
    };
    parts.iter().all(|part| named(part) && !part.contains('*'))
        && named(&last)
        && !last.trim_matches(['*', '.']).is_empty()
}

#[async_trait]
impl Step for Prune {
    fn title(&self) -> String {
        let names: Vec<&str> = self.paths.iter().take(3).map(|path| path.trim_end_matches('/')).collect();
        let more = if self.paths.len() > 3 { " …" } else { "" };
        format!("remove {}{more} from the jail's tree", names.join(", "))
    }
    fn undo_title(&self) -> String {
        "goes with the clone".into()
    }
    fn commands(&self, _: &Manners) -> Vec<Vec<String>> {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut backup = words("tar -cf");
        backup.extend(
            [self.backup().join("etc.tar"), "-C".into(), self.root.clone(), "etc".into()]
                .map(|word: PathBuf| word.to_string_lossy().into_owned()),
        );
        let targets = self.paths.iter().map(|path| {
            let path = self.root.join(path).to_string_lossy().into_owned();
            if path.ends_with('/') { path + "*" } else { path }
        });
        let targets: Vec<String> = targets.collect();
        let with = |line: &str| words(line).into_iter().chain(targets.iter().cloned()).collect();
        let places = self.mount_points.iter().map(|path| self.root.join(path).to_string_lossy().into_owned());
        vec![backup, with("chflags -R noschg"), with("rm -rf"), words("mkdir -p").into_iter().chain(places).collect()]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let left = self.left(world).await?;
        Ok(match left.first().map(String::as_str) {
            None => Probe::Present,
            // The backup comes first.
            Some("etc") => Probe::Absent,
            Some(_) => Probe::Partial,
        })
    }
    async fn apply(&self, world: &World, _: &Value) -> Result<Done, StepError> {
        if self.left(world).await?.is_empty() {
            return Ok(Change::Unchanged.into());
        }
        let (_, told) = self.run(world, "prune").await?;
        let left = self.left(world).await?;
        if let Some(first) = left.first() {
            let help = format!("look at it in {} on {}", self.root.display(), self.host);
            return Err(StepError::failed(format!("{first}: it could not be removed"), help));
        }
        Ok(told.into_iter().fold(Done::new(Change::Removed), Done::warn))
    }
    async fn undo(&self, _: &World, _: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_beneath_the_tree() {
        let all = paths(None, &["/".into(), "/usr".into(), "/var".into()]);
        assert!(all.iter().all(|path| is_sound(path)), "{all:?}");
        assert!(all.contains(&"var/restoresymtable".into()) && all.contains(&".snap".into()));
        assert_eq!(all.iter().filter(|path| *path == "restoresymtable").count(), 1);
        // Whatever is configured, nobody's queue is sent twice.
        let none = paths(Some(&[]), &["/".into()]);
        assert!(none.contains(&"var/spool/mqueue/".into()) && none.contains(&"var/spool/postfix/deferred/".into()));
        assert_eq!(none.iter().filter(|path| !path.starts_with("var/")).count(), 2, "{none:?}");
        for path in [
            "", "/", "/etc", "..", "a/..", "a//b", "./a", "*", "a/*", "*/a", "a*/b", "a\nb", "a?", ".*", "a/./", "[ab]",
        ] {
            assert!(!is_sound(path), "{path:?}");
        }
        for path in ["kernel*", "usr/obj/", "a b", "var/log/old.*"] {
            assert!(is_sound(path), "{path:?}");
        }
    }
}
