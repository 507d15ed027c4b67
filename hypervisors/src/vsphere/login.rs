//! Who logs in: two lines, user and password, from a file or from a command's output. They are read when a session begins and
//! again when it has to be renewed, and are never stored, shown or put on a command line.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::host::{Command, LocalHost, observed};
use crate::{Error, Host as _, Result};

/// Longest text of credentials.
const MOST: u64 = 4096;

/// Where user and password come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A file that only its owner may read.
    File(PathBuf),
    /// What a command prints.
    Command(Vec<String>),
}

/// User and password.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Credentials {
    pub(super) async fn read(&self, doing: &str) -> Result<Login> {
        let local = LocalHost::new("controller");
        let bytes = match self {
            Self::File(path) => {
                let place = format!("{doing} from {}", path.display());
                let facts = std::fs::metadata(path).map_err(|error| Error::io(&*place, error))?;
                if facts.mode() & 0o077 != 0 {
                    return Err(Error::refused(place, "others than its owner may read or write it")
                        .help(format!("chmod 600 {}", path.display())));
                }
                local.read_file(path, MOST).await?.unwrap_or_default()
            }
            Self::Command(argv) => {
                let command = Command::new(argv.iter().cloned()).timeout(Duration::from_secs(120));
                // What it prints is for no log, nor for errors.
                let output = observed(Arc::new(|_| {}), local.run(&command)).await?;
                if output.status != 0 {
                    let why = format!("{} exited with {}", command.program(), output.status);
                    return Err(Error::refused(doing, why).help("it has to print two lines: user, password"));
                }
                output.stdout
            }
        };
        parse(&bytes).ok_or_else(|| {
            Error::refused(doing, "they are not two lines: user, password")
                .help("the first line is the user (user@domain), the second the password")
        })
    }
}

fn parse(bytes: &[u8]) -> Option<Login> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let (user, password) = (lines.next()?.trim(), lines.next()?);
    let sound = !user.is_empty() && !password.is_empty() && lines.all(|line| line.trim().is_empty());
    sound.then(|| Login { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn two_lines_are_user_and_password() {
        let login = parse(b"adm@vsphere.local\n  s3cret \n\n").unwrap();
        assert_eq!((login.user.as_str(), login.password.as_str()), ("adm@vsphere.local", "  s3cret "));
        assert!(!format!("{login:?}").contains("s3cret"));
        for bad in [&b"adm\n"[..], b"", b"\npw\n", b"adm\npw\nmore\n", b"adm\n\xff\n"] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_others_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcenter");
        std::fs::write(&path, "adm\npw\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Credentials::File(path.clone()).read("test").await.unwrap_err();
        assert!(error.help.unwrap().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Credentials::File(path).read("test").await.unwrap().user, "adm");
    }

    #[tokio::test]
    async fn a_command_tells_them_and_its_words_stay_out_of_errors() {
        let told = Credentials::Command(vec!["printf".into(), "adm\\npw\\n".into()]);
        assert_eq!(told.read("test").await.unwrap().password, "pw");
        let failed =
            Credentials::Command(vec!["sh".into(), "-c".into(), "echo s3cret; echo s3cret >&2; exit 3".into()]);
        let error = failed.read("test").await.unwrap_err().to_string();
        assert!(error.contains("exited with 3") && !error.contains("s3cret"), "{error}");
    }
}
