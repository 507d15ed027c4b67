//! Definitions under git or subversion: a change of ours is committed there, alone, as soon as it stands.
//!
//! * Only the one path is committed; nothing is pushed (a commit of subversion goes to its repository, as it does). Hooks run as
//!   they do for anybody. Whatever fails there is told and nothing more: the definition stands.
//! * A file that is not under control, or is ignored, stays so. A new one is added.
//! * A file with changes that nobody committed keeps them so: ours is not committed on top. When ours is taken back the file is,
//!   to the repository too, as it was found.
//! * A file in which subversion would expand keywords is not committed: the commit would change its bytes under us.
//! * The commands run as the owner of the directory, so that neither the repository's files nor its hooks become root's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::shelf::Shelf;
use crate::host::{Command, Output, printable, printable_tail};
use crate::{Host, Result};

/// A commit may run hooks and talk to a server.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Git,
    Svn,
}

/// How a file stood before it was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// As committed last.
    Clean,
    /// Not there, and never was or not any more.
    New,
    /// Nobody's business here: not under control, ignored.
    Uncontrolled,
    /// Not to be committed, and why.
    Keep(String),
}

/// A file that is about to be changed, as its repository sees it.
#[derive(Clone, Debug)]
pub struct Versioned {
    host: Arc<dyn Host>,
    shelf: Shelf,
    kind: Kind,
    file: PathBuf,
    standing: Standing,
}

/// Looks at a file before it is changed; `None` if it is not in a working copy.
pub async fn before(host: &Arc<dyn Host>, file: &Path) -> Option<Versioned> {
    let shelf = Shelf::new(host);
    // a link's target is what changes
    let file = shelf.real(file).await;
    let kind = kind(&shelf, &file).await?;
    let versioned = Versioned { host: Arc::clone(host), shelf, kind, file, standing: Standing::Clean };
    let standing = versioned.stand(&**host).await.unwrap_or_else(Standing::Keep);
    Some(Versioned { standing, ..versioned })
}

/// The nearest working copy around a file.
async fn kind(shelf: &Shelf, file: &Path) -> Option<Kind> {
    for directory in file.ancestors().skip(1) {
        if shelf.exists(&directory.join(".git")).await.ok()? {
            return Some(Kind::Git);
        }
        if shelf.exists(&directory.join(".svn/.")).await.ok()? {
            return Some(Kind::Svn);
        }
    }
    None
}

impl Versioned {
    /// Commits what was done to the file since. Returns what people should know.
    pub async fn after(&self, message: &str) -> Option<String> {
        let host = &*self.host;
        let name = self.file.display();
        let result = match &self.standing {
            Standing::Uncontrolled => return None,
            // as committed again, or never seen there: nothing of ours is missing
            Standing::Keep(_) if matches!(self.stand(host).await, Ok(Standing::Clean | Standing::New)) => return None,
            Standing::Keep(why) => Err(why.clone()),
            Standing::Clean | Standing::New => match self.kind {
                Kind::Git => self.commit_to_git(host, message).await,
                Kind::Svn => self.commit_to_svn(host, message).await,
            },
        };
        result.err().map(|why| format!("the change of {name} is not committed: {why}"))
    }

    async fn stand(&self, host: &dyn Host) -> std::result::Result<Standing, String> {
        let there = self.shelf.exists(&self.file).await.map_err(|error| error.to_string())?;
        let dirty = || {
            Standing::Keep(
                "it had changes that nobody had committed, which stay so; commit or revert them by hand".to_owned(),
            )
        };
        match self.kind {
            Kind::Git => {
                let status = self.git_status(host).await?;
                Ok(match status.get(..2) {
                    None if there => Standing::Clean,
                    None => Standing::New,
                    Some("??" | "!!") => Standing::Uncontrolled,
                    Some(_) => dirty(),
                })
            }
            Kind::Svn => {
                let status = self.svn_status(host).await?;
                Ok(match status.chars().next() {
                    None if there && self.has_keywords(host).await? => {
                        let why = "subversion would expand keywords in it (svn:keywords), and so change it";
                        Standing::Keep(why.to_owned())
                    }
                    None if there => Standing::Clean,
                    None => Standing::New,
                    Some('?' | 'I') => Standing::Uncontrolled,
                    Some(_) => dirty(),
                })
            }
        }
    }

    /// `XY PATH` of git-status(1), empty if there is nothing to tell.
    async fn git_status(&self, host: &dyn Host) -> std::result::Result<String, String> {
        let status = self.git(host, &["status", "--porcelain=v1", "--ignored", "--untracked-files=all"]).await?;
        Ok(status.text())
    }

    async fn commit_to_git(&self, host: &dyn Host, message: &str) -> std::result::Result<(), String> {
        let status = self.git_status(host).await?;
        // as committed, or ignored
        if status.is_empty() || status.starts_with("!!") {
            return Ok(());
        }
        let add = status.starts_with("??");
        if add {
            self.git(host, &["add"]).await?;
        }
        let commit = self.git(host, &["commit", "--quiet", "--only", "--message", message]).await;
        if commit.is_err() && add {
            // what was not there before is not left half added
            let _ = self.git(host, &["reset", "--quiet"]).await;
        }
        commit.map(|_| ())
    }

    async fn git(&self, host: &dyn Host, words: &[&str]) -> std::result::Result<Output, String> {
        let (directory, name) = self.split();
        let email = format!("user.email=upgradectl@{}", host.name());
        let mut argv = vec!["git", "-C", &directory, "--literal-pathspecs", "--no-optional-locks"];
        argv.extend(["-c", "user.name=upgradectl", "-c", &email, "-c", "commit.gpgSign=false"]);
        argv.extend(words);
        argv.extend(["--", &name]);
        self.run(host, &argv).await
    }

    /// The line of `svn status` for the file, empty if there is nothing to tell.
    async fn svn_status(&self, host: &dyn Host) -> std::result::Result<String, String> {
        Ok(self.svn(host, &["status", "--no-ignore", "--depth=empty"]).await?.text())
    }

    async fn has_keywords(&self, host: &dyn Host) -> std::result::Result<bool, String> {
        let properties = self.svn(host, &["proplist"]).await?.text();
        Ok(properties.lines().any(|line| line.trim() == "svn:keywords"))
    }

    async fn commit_to_svn(&self, host: &dyn Host, message: &str) -> std::result::Result<(), String> {
        let status = self.svn_status(host).await?;
        let added = match status.chars().next() {
            // as committed, or ignored
            None | Some('I') => return Ok(()),
            Some('?') => {
                // automatic properties could turn keywords on
                self.svn(host, &["add", "--quiet", "--no-auto-props"]).await?;
                true
            }
            Some('!') => {
                self.svn(host, &["delete", "--quiet"]).await?;
                false
            }
            Some(_) => false,
        };
        let commit = self.svn(host, &["commit", "--quiet", "--message", message]).await;
        if commit.is_err() && added {
            // the file stays; it is only not added any more
            let _ = self.svn(host, &["revert", "--quiet"]).await;
        }
        commit.map(|_| ())
    }

    async fn svn(&self, host: &dyn Host, words: &[&str]) -> std::result::Result<Output, String> {
        let (directory, name) = self.split();
        let path = format!("{directory}/{name}@");
        let mut argv = vec!["svn"];
        argv.extend(words);
        argv.extend(["--non-interactive", &path]);
        self.run(host, &argv).await
    }

    fn split(&self) -> (String, String) {
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        let name = self.file.file_name().unwrap_or_default();
        (directory.to_string_lossy().into_owned(), name.to_string_lossy().into_owned())
    }

    async fn run(&self, host: &dyn Host, argv: &[&str]) -> std::result::Result<Output, String> {
        let owner = self.shelf.owner(self.file.parent().unwrap_or(Path::new("/"))).await;
        let mut whole = as_owner(owner);
        whole.extend(argv.iter().map(|word| (*word).to_owned()));
        let command = Command::new(whole).timeout(PATIENCE).env("GIT_TERMINAL_PROMPT", "0");
        let output: Result<Output> = host.run(&command).await;
        let output = output.map_err(|error| error.to_string())?;
        if output.status == 0 {
            return Ok(output);
        }
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        let verb = argv.iter().find(|word| VERBS.contains(word)).unwrap_or(&"");
        Err(format!("{} {verb} exited with {}: {}", argv[0], output.status, printable(&printable_tail(said, 3))))
    }
}

/// The commands used of git and subversion.
const VERBS: [&str; 7] = ["status", "add", "commit", "reset", "delete", "revert", "proplist"];

/// The words before a command that make it run as the owner of a directory; none if that is us, or we could not. `owner`: our
/// user's number, the owner's and the group's.
fn as_owner(owner: Option<(u32, u32, u32)>) -> Vec<String> {
    let Some((0, user, group)) = owner.filter(|(ours, user, _)| ours != user) else { return Vec::new() };
    let (user, group) = (format!("--reuid={user}"), format!("--regid={group}"));
    ["setpriv", &user, &group, "--clear-groups", "--reset-env", "--"].map(str::to_owned).to_vec()
}
