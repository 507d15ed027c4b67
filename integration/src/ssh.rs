//! ssh as the labs use it: nothing of the user's configuration, the lab's key, as root.

use std::path::Path;

use crate::command::{Run, run};

/// What every connection to a lab's machine has. They are made anew each time, so their keys are not checked.
pub const OPTIONS: [&str; 9] =
    ["-q", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];

/// Begins an ssh command line; more options, `root@ADDRESS`, `--` and [`words`] are to follow.
pub fn client(key: &Path) -> Run {
    run("ssh").args(OPTIONS).arg("-i").arg(key)
}

/// A command's words for the remote shell, which splits and expands what ssh joins with blanks.
pub fn words<'a>(command: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = String> {
    command.into_iter().map(quoted)
}

/// One word for a POSIX shell.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_remote_shell_whole() {
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
