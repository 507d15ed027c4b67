//! Files of another machine, by shell scripts that never change, run through [`Host::run`]: the same over ssh and by way of a
//! guest's tools. The scripts hold no newline and no `!`, so that a csh login shell hands them on whole.

use std::path::Path;

use super::{Command, Host, Stdin, Stdout};
use crate::{Cause, Change, Error, Result};

/// Arguments: path, limit. Status 97: too large, 98: `ls` says why it cannot be seen, 99: not a file.
const READ: &str = "LC_ALL=C ls -d -- \"$1\" >/dev/null || exit 98; test -f \"$1\" || exit 99; \
    test $(($(wc -c <\"$1\"))) -le \"$2\" || exit 97; exec cat -- \"$1\"";

/// Arguments: path, mode in octal, length; the bytes are on standard input, and a link lost half-way leaves the file as it was.
const WRITE: &str = "umask 077; n=created; t=\"$1.$$.upgradectl\"; rm -f -- \"$t\"; set -C; \
    trap 'rm -f -- \"$t\"' EXIT; trap 'exit 1' HUP INT TERM PIPE; \
    cat >\"$t\" && test $(($(wc -c <\"$t\"))) -eq \"$3\" || { echo 'the bytes did not arrive whole' >&2; exit 1; }; \
    if test -L \"$1\"; then n=changed; \
    elif test -d \"$1\"; then echo 'it is a directory' >&2; exit 1; \
    elif test -e \"$1\"; then n=changed; m=$(stat -c %a -- \"$1\" 2>/dev/null || stat -f %Lp -- \"$1\"); \
    if test -f \"$1\" && test \"$m\" = \"$2\" && cmp -s -- \"$t\" \"$1\"; then echo unchanged; exit 0; fi; fi; \
    chmod \"$2\" \"$t\" && { sync \"$t\" 2>/dev/null || sync; } && \
    { mv -fT -- \"$t\" \"$1\" 2>/dev/null || mv -fh -- \"$t\" \"$1\"; } && \
    { sync \"$(dirname -- \"$1\")\" 2>/dev/null || sync; } && echo $n";

/// As [`Host::read_file`].
pub(crate) async fn read(host: &dyn Host, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let doing = format!("read {} on {}", path.display(), host.name());
    let path = utf8(&doing, path)?;
    let mut command = Command::new(["sh", "-c", READ, "sh", path, &limit.to_string()]);
    // The limit holds for the messages on stderr too; the script minds the file's size.
    let limit_here = usize::try_from(limit).unwrap_or(usize::MAX);
    command.limit = limit_here.saturating_add(1).max(4096);
    let output = host.run(&command).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status {
        98 if said.contains("No such file or directory") || said.contains("Not a directory") => Ok(None),
        99 => Err(Error::refused(doing, "it is not a file")),
        97 => Err(Error::refused(doing, format!("it is larger than {limit} bytes"))),
        0 if output.stdout.len() > limit_here => Err(Error::refused(doing, format!("it is larger than {limit} bytes"))),
        _ => Ok(Some(output.checked(doing, &command)?.stdout)),
    }
}

/// As [`Host::write_file`].
pub(crate) async fn write(host: &dyn Host, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
    let doing = format!("write {} on {}", path.display(), host.name());
    let path = utf8(&doing, path)?;
    let (mode, length) = (format!("{mode:o}"), bytes.len().to_string());
    let mut command = Command::new(["sh", "-c", WRITE, "sh", path, &mode, &length]);
    command.stdin = Stdin::Bytes(bytes.to_owned());
    command.stdout = Stdout::Capture;
    let output = host.run(&command).await?.checked(&doing, &command)?;
    match output.text().trim() {
        "created" => Ok(Change::Created),
        "changed" => Ok(Change::Changed),
        "unchanged" => Ok(Change::Unchanged),
        _ => Err(Error::new(doing, Cause::Malformed("the script's answer was not understood".into()))),
    }
}

fn utf8<'a>(doing: &str, path: &'a Path) -> Result<&'a str> {
    match path.to_str() {
        Some(text) if path.is_absolute() && !text.contains('\0') => Ok(text),
        _ => Err(Error::refused(doing, "it is not an absolute path in UTF-8")),
    }
}
