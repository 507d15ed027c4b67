//! What etcupdate(8) prints, and what its answers mean. Pure.
//!
//! Its order of words is `etcupdate COMMAND -D DIR`. `resolve` is never run: at the end of its input it asks for ever.

use std::path::{Path, PathBuf};

/// Where it keeps its trees, below the root it works on.
pub const WORK: &str = "var/db/etcupdate";

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// New in the release.
    Added,
    /// In both, changed differently: nobody but a person can tell.
    Conflict,
    /// Gone with the release.
    Deleted,
    /// Changed in both, and put together.
    Merged,
    /// The release's, as nothing was changed in it.
    Updated,
}

/// What a merge came to, or would come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What happens to which file.
    pub actions: Vec<(Action, String)>,
    /// What it leaves to people.
    pub warnings: Vec<String>,
    /// Everything else: why it did nothing.
    pub other: Vec<String>,
}

impl Told {
    /// Reads the output of a merge, of a dry run or of `status`.
    pub fn read(text: &str) -> Self {
        let mut told = Self::default();
        let mut warnings = false;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if line.trim_end() == "Warnings:" {
                warnings = true;
            } else if warnings {
                told.warnings.push(hypervisors::host::printable(line.trim()));
            } else if let Some(action) = action(line) {
                told.actions.push(action);
            } else {
                told.other.push(hypervisors::host::printable(line.trim()));
            }
        }
        told
    }
    /// Files that it could not put together.
    pub fn conflicts(&self) -> impl Iterator<Item = &str> {
        self.actions.iter().filter(|(action, _)| *action == Action::Conflict).map(|(_, path)| path.as_str())
    }
    /// How many files met with an action.
    pub fn count(&self, action: Action) -> usize {
        self.actions.iter().filter(|(other, _)| *other == action).count()
    }
    /// The aliases' database has to be made anew by newaliases(1), which it only does for the machine it runs on.
    pub fn wants_newaliases(&self) -> bool {
        self.warnings.iter().any(|warning| warning.contains("newaliases"))
    }
    /// It found no tree of the old release to compare with.
    pub fn no_base(&self) -> bool {
        self.other.iter().any(|line| line.starts_with("No previous tree to compare against"))
    }
}

/// `  C /etc/login.conf`.
fn action(line: &str) -> Option<(Action, String)> {
    let (letter, path) = line.strip_prefix("  ")?.split_once(' ')?;
    let action = match letter {
        "A" => Action::Added,
        "C" => Action::Conflict,
        "D" => Action::Deleted,
        "M" => Action::Merged,
        "U" => Action::Updated,
        _ => return None,
    };
    path.starts_with('/').then(|| (action, hypervisors::host::printable(path)))
}

/// How a merge is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Only what installworld needs: accounts and groups.
    pub pre_world: bool,
    /// Nothing is written.
    pub dry: bool,
    /// Lines that differ in their `$FreeBSD$` alone are the same.
    pub ignore_ids: bool,
}

/// The argv of a merge from a tarball of the new release's tree.
pub fn merge(root: &Path, tarball: &Path, how: How) -> Vec<String> {
    let mut argv = vec!["etcupdate".to_owned()];
    let flags = [("-p", how.pre_world), ("-n", how.dry), ("-F", how.ignore_ids)];
    argv.extend(flags.into_iter().filter(|(_, wanted)| *wanted).map(|(flag, _)| flag.to_owned()));
    argv.extend(["-D".to_owned(), shown(root), "-t".to_owned(), shown(tarball)]);
    argv
}

/// The argv that makes the tree of the old release known.
pub fn extract(root: &Path, tarball: &Path) -> Vec<String> {
    let (root, tarball) = (shown(root), shown(tarball));
    ["etcupdate", "extract", "-D", &root, "-t", &tarball].map(str::to_owned).to_vec()
}

/// The argv that makes a tarball of a release's tree from its source. `built`: generated files are taken from its buildworld.
pub fn build(src: &Path, work: &Path, tarball: &Path, built: bool) -> Vec<String> {
    let mut argv = vec!["etcupdate".to_owned(), "build".to_owned()];
    argv.extend(built.then(|| "-B".to_owned()));
    argv.extend(["-d".to_owned(), shown(work), "-s".to_owned(), shown(src), shown(tarball)]);
    argv
}

/// The argv that says what is left of the last merge.
pub fn status(root: &Path) -> Vec<String> {
    vec!["etcupdate".to_owned(), "status".to_owned(), "-D".to_owned(), shown(root)]
}

/// The tree of the release that was merged last, below a root.
pub fn current(root: &Path) -> PathBuf {
    root.join(WORK).join("current")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
