//! The tree of a jail that a server's file systems go into, on a host of jails, with the run's own directory beside it.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::{Command, printable_tail};
use hypervisors::{Change, Mark, Role};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Done, Probe, Step, StepError, World};

/// Where the jails of a run have their things: beneath the directory of jails.
pub const DIRECTORY: &str = ".upgradectl";

/// Makes the empty tree of a jail, and the run's directory; taken back, all that came into them goes.
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
}

/// Arguments: tree, run's directory, mark. Status 98: the tree is there and is not of this run.
const MAKE: &str = "umask 077; if test -e \"$1\" -o -L \"$1\"; then test \"$(cat \"$2/mark\" 2>/dev/null)\" = \"$3\" || exit 98; fi; \
    mkdir -p \"$2\" && printf '%s\\n' \"$3\" >\"$2/mark.new\" && mv \"$2/mark.new\" \"$2/mark\" && sync && \
    { test -d \"$1\" || mkdir \"$1\"; } && chmod 0755 \"$1\"";

/// Arguments: tree, run's directory. Prints the mark, or nothing, then whether the tree is there.
const LOOK: &str = "cat \"$2/mark\" 2>/dev/null || echo; test -d \"$1\" -a ! -L \"$1\" && echo there || { test -e \"$1\" -o -L \"$1\" && echo other || echo none; }";

/// Arguments: tree, run's directory, mark. Status 98: not of this run, 97: something is mounted in it. File flags are taken off first
/// (chflags(1)); no link is followed. The mark goes last.
const REMOVE: &str = "test \"$(cat \"$2/mark\" 2>/dev/null)\" = \"$3\" || { test -e \"$1\" -o -L \"$1\" && exit 98; exit 0; }; \
    test -L \"$1\" && exit 98; \
    mount -p 2>/dev/null | awk -v r=\"$1/\" 'index($2 \"/\", r) == 1 { print $2; found = 1 } END { exit !found }' && exit 97; \
    if test -d \"$1\"; then command -v chflags >/dev/null 2>&1 && chflags -R -P 0 \"$1\" 2>/dev/null; rm -rf -- \"$1\" || exit 1; fi; \
    test -e \"$1\" && { echo \"$1 is still there\" >&2; exit 1; }; \
    find \"$2\" ! -path \"$2/mark\" ! -path \"$2\" -prune -exec rm -rf -- {} + ; rm -rf -- \"$2\"; rmdir -- \"$(dirname -- \"$2\")\" 2>/dev/null; exit 0";

impl MakeTree {
    fn mark(&self) -> String {
        Mark { run: self.run.clone(), role: Role::Clone }.to_string()
    }

    fn words(&self, script: &str, more: &[String]) -> Result<Vec<String>, StepError> {
        let path = |path: &PathBuf| match path.to_str().filter(|text| text.starts_with('/')) {
            Some(text) => Ok(text.to_owned()),
            None => Err(StepError::failed(
                format!("{} is not an absolute path in UTF-8", path.display()),
                "mend jails in the inventory",
            )),
        };
        let words = ["sh", "-c", script, "sh"].map(str::to_owned).into_iter();
        Ok(words.chain([path(&self.root)?, path(&self.scratch)?]).chain(more.iter().cloned()).collect())
    }
}

#[async_trait]
impl Step for MakeTree {
    fn title(&self) -> String {
        format!("make {} on {}", self.root.display(), self.host)
    }
    fn undo_title(&self) -> String {
        "remove it".into()
    }
    fn taken_back(&self) -> String {
        format!("remove {} on {}", self.root.display(), self.host)
    }
    fn commands(&self, manners: &super::Manners) -> Vec<Vec<String>> {
        let words = ["mkdir".to_owned(), self.root.display().to_string()];
        vec![manners.on(&self.host, words.to_vec())]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = world.hypervisor(&self.host)?.host();
        let command = Command::new(self.words(LOOK, &[])?);
        let text = host.run(&command).await?.checked(format!("look at {}", self.root.display()), &command)?.text();
        let mut lines = text.lines();
        let ours = lines.next() == Some(self.mark().as_str());
        Ok(match (ours, lines.next_back()) {
            (true, Some("there")) => Probe::Present,
            (true, _) => Probe::Partial,
            (false, Some("none")) => Probe::Absent,
            (false, _) => return Err(self.foreign()),
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = world.hypervisor(&self.host)?.host();
        let command = Command::new(self.words(MAKE, &[self.mark()])?);
        let output = host.run(&command).await?;
        if output.status == 98 {
            return Err(self.foreign());
        }
        output.checked(format!("make {}", self.root.display()), &command)?;
        Ok(Change::Created.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = world.hypervisor(&self.host)?.host();
        let command = Command::new(self.words(REMOVE, &[self.mark()])?).timeout(Duration::from_secs(4 * 3600));
        let output = host.run(&command).await?;
        match output.status {
            98 => Err(self.foreign()),
            97 => Err(StepError::failed(
                format!("something is mounted in {}: {}", self.root.display(), printable_tail(&output.stdout, 3)),
                format!("unmount it on {}", self.host),
            )),
            _ => {
                output.checked(format!("remove {}", self.root.display()), &command)?;
                Ok(Change::Removed.into())
            }
        }
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

/// Arguments: run's directory. The mark goes last.
const FORGET: &str = "test -d \"$1\" || exit 0; for f in \"$1\"/* \"$1\"/.[!.]*; do test \"$f\" = \"$1/mark\" || rm -rf -- \"$f\" || exit 1; done; \
    rm -rf -- \"$1\" && { rmdir -- \"$(dirname -- \"$1\")\" 2>/dev/null; exit 0; }";

#[async_trait]
impl Step for KeepTree {
    fn title(&self) -> String {
        format!("keep {} on {}", self.root.display(), self.host)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = world.hypervisor(&self.host)?.host();
        let command = Command::new(["test", "-d", &self.scratch.to_string_lossy()]);
        Ok(if host.run(&command).await?.status == 0 { Probe::Absent } else { Probe::Present })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = world.hypervisor(&self.host)?.host();
        let command = Command::new(["sh", "-c", FORGET, "sh", &self.scratch.to_string_lossy()]);
        let command = command.timeout(Duration::from_secs(3600));
        host.run(&command).await?.checked(format!("tidy {} up", self.scratch.display()), &command)?;
        Ok(Change::Removed.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

impl MakeTree {
    fn foreign(&self) -> StepError {
        StepError::failed(
            format!("{} on {} is not of run {}", self.root.display(), self.host, self.run),
            "move it away, if it is of no use any more",
        )
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::process::Command as Process;

    use super::*;

    fn sh(script: &str, words: &[&str]) -> (i32, String) {
        let output = Process::new("sh").args(["-c", script, "sh"]).args(words).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[test]
    fn a_tree_is_made_and_removed_by_its_own_run_alone() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name).to_string_lossy().into_owned();
        let (root, scratch, mark) = (at("jails/A--k3f9"), at("jails/.upgradectl/A--k3f9"), "A--k3f9.clone");
        std::fs::create_dir_all(at("jails")).unwrap();
        assert_eq!(sh(LOOK, &[&root, &scratch]).1, "\nnone\n");
        assert_eq!(sh(MAKE, &[&root, &scratch, mark]).0, 0);
        assert_eq!(sh(MAKE, &[&root, &scratch, mark]).0, 0, "twice is harmless");
        assert_eq!(sh(LOOK, &[&root, &scratch]).1, format!("{mark}\nthere\n"));
        std::fs::write(at("kept"), "x").unwrap();
        std::os::unix::fs::symlink(place.path(), at("jails/A--k3f9/out")).unwrap();
        std::fs::create_dir_all(at("jails/.upgradectl/A--k3f9/transfer/tmp")).unwrap();
        assert_eq!(sh(REMOVE, &[&root, &scratch, "B--k3f9.clone"]).0, 98);
        assert_eq!(sh(MAKE, &[&root, &scratch, "B--k3f9.clone"]).0, 98);
        assert!(std::path::Path::new(&root).exists());
        assert_eq!(sh(REMOVE, &[&root, &scratch, mark]).0, 0);
        assert_eq!(sh(REMOVE, &[&root, &scratch, mark]).0, 0);
        assert!(!std::path::Path::new(&root).exists() && !std::path::Path::new(&at("jails/.upgradectl")).exists());
        assert!(std::path::Path::new(&at("kept")).exists());
        // Somebody else's, and one that is a link.
        std::fs::create_dir_all(&root).unwrap();
        assert_eq!(sh(REMOVE, &[&root, &scratch, mark]).0, 98);
        assert_eq!(sh(MAKE, &[&root, &scratch, mark]).0, 98);
    }
}
