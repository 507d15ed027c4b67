//! Definitions under git or subversion: a change of ours is committed there, alone, as soon as it stands.
//!
//! * Only the one path is committed; nothing is pushed (a commit of subversion goes to its repository, as it does). Hooks run as
//!   they do for anybody. Whatever fails there is told and nothing more: the definition stands.
//! * A file that is not under control, or is ignored, stays so. A new one is added.
//! * A file with changes that nobody committed keeps them so: ours is not committed on top. When ours is taken back the file is,
//!   to the repository too, as it was found.
//! * A file in which subversion would expand keywords is not committed: the commit would change its bytes under us.
//! * The commands run as the owner of the directory, so that neither the repository's files nor its hooks become root's.
//!
//! Linux and FreeBSD hosts: setpriv(1) there, chroot(8) with `-u` and `-g` and the same root here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::host::{Command, Output, printable, printable_tail};
use crate::{Host, Result, occasion};

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
    kind: Kind,
    file: PathBuf,
    /// Words before a command that make it run as the owner of the file's directory.
    as_owner: Vec<String>,
    standing: Standing,
}

/// Arguments: path. A line each: the path behind links, `git` or `svn` if a working copy is around it, what changes users, the numbers of
/// our user, the owner and the group of its directory. The file itself may not be there.
const LOOK: &str = "f=$(readlink -f -- \"$1\" 2>/dev/null); test -n \"$f\" || f=$1; d=$(dirname -- \"$f\"); w=$d; \
    while :; do if test -e \"$w/.git\"; then k=git; break; elif test -d \"$w/.svn\"; then k=svn; break; fi; \
    case $w in /|.) exit 0;; esac; w=$(dirname -- \"$w\"); done; \
    printf '%s\\n%s\\n' \"$f\" $k; if command -v setpriv >/dev/null 2>&1; then echo setpriv; else echo chroot; fi; id -u; \
    stat -f '%u %g' -- \"$d\" 2>/dev/null | grep '^[0-9]* [0-9]*$' || stat -c '%u %g' -- \"$d\"";

/// Looks at a file before it is changed; `None` if it is not in a working copy.
pub async fn before(host: &Arc<dyn Host>, file: &Path) -> Option<Versioned> {
    let command = Command::new(["sh", "-c", LOOK, "sh", file.to_str()?]);
    let text = host.run(&command).await.ok().filter(|output| output.status == 0)?.text();
    let lines: Vec<&str> = text.lines().collect();
    let [file, kind, changer, ours, owner] = lines.as_slice() else { return None };
    let kind = if *kind == "git" { Kind::Git } else { Kind::Svn };
    let as_owner = as_owner(changer, ours, owner);
    // A link's target is what changes.
    let versioned =
        Versioned { host: Arc::clone(host), kind, file: PathBuf::from(file), as_owner, standing: Standing::Clean };
    let standing = versioned.stand(&**host).await.unwrap_or_else(Standing::Keep);
    Some(Versioned { standing, ..versioned })
}

/// Commits a change of a file, if it is versioned; what goes wrong there is told. `message` stands for the reason of the occasion, if
/// there is none.
pub async fn commit(before: Option<Versioned>, message: String) {
    let Some(before) = before else { return };
    if let Some(words) = before.after(&occasion::reason().unwrap_or(message)).await {
        occasion::notice(words);
    }
}

impl Versioned {
    /// Commits what was done to the file since. Returns what people should know.
    async fn after(&self, message: &str) -> Option<String> {
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
        let test = Command::new(["test", "-e", &self.file.to_string_lossy()]);
        let there = host.run(&test).await.map_err(|error| error.to_string())?.status == 0;
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
        let mut whole = self.as_owner.clone();
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

/// The words before a command that make it run as the owner of a directory; none if that is us, or we could not. `ours`: our
/// user's number; `owner`: the owner's and the group's.
fn as_owner(changer: &str, ours: &str, owner: &str) -> Vec<String> {
    let Some((user, group)) = owner.split_once(' ').filter(|(user, _)| ours == "0" && *user != "0") else {
        return Vec::new();
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match changer {
        "setpriv" => {
            let (user, group) = (format!("--reuid={user}"), format!("--regid={group}"));
            words(&["setpriv", &user, &group, "--clear-groups", "--reset-env", "--"])
        }
        // Root's HOME, whose files git would not be allowed to read, is not theirs.
        _ => {
            let path = "PATH=/usr/local/bin:/usr/bin:/bin";
            words(&["chroot", "-u", user, "-g", group, "-G", group, "/", "env", "-i", path, "HOME=/nonexistent"])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::as_owner;

    #[test]
    fn the_owner_commits() {
        assert!(as_owner("setpriv", "0", "0 0").is_empty() && as_owner("chroot", "1000", "1001 1001").is_empty());
        assert_eq!(as_owner("setpriv", "0", "1001 1002")[..3], ["setpriv", "--reuid=1001", "--regid=1002"]);
        assert_eq!(
            as_owner("chroot", "0", "1001 1002")[..8],
            ["chroot", "-u", "1001", "-g", "1002", "-G", "1002", "/"]
        );
        assert!(as_owner("chroot", "0", "").is_empty());
    }
}
