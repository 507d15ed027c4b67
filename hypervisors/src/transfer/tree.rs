//! The target: a directory of a tree on another machine. What stands in the tree came from a server and is hostile: a directory is
//! entered only if no link leads to it, and nothing is removed below a mount.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{PATH, df, source};
use crate::host::{Command, Host};
use crate::{Cause, Change, Error, Result};

/// A directory of a tree on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Root of the tree.
    pub root: PathBuf,
    /// Below it, without a slash in front; empty for the root itself.
    pub below: PathBuf,
}

/// What restore(8) leaves for a later level; in the root of what it restored.
pub const SYMTABLE: &str = "restoresymtable";

/// Goes to the directory; arguments: root, directory below it. No link may lead there.
pub(super) const ENTER: &str = "cd -- \"$1\" || exit 90; r=$(pwd -P); test -z \"$2\" || { cd -- \"./$2\" && \
    test \"$(pwd -P)\" = \"${r%/}/$2\"; } || { echo 'no directory of the tree is there' >&2; exit 91; }; ";

/// `.`, `..` and nothing else? At most three names.
const HOLDS: &str = "ls -a | sed -e '/^[.]$/d' -e '/^[.][.]$/d' -e 5q";

/// A restore of ours that was left behind (its link went) writes no more; arguments from the third: its TMPDIR.
const END_RESTORE: &str = "if test -s \"$3/pid\"; then p=$(cat \"$3/pid\"); case $(ps -p \"$p\" -o command= 2>/dev/null) in \
    *restore*) kill -9 \"$p\"; sleep 1 ;; esac; fi; ";

/// Flags first, where there are any; then all below, and no link is followed (find's -delete walks by descriptors).
const EMPTY: &str = "if type chflags >/dev/null 2>&1; then chflags -R noschg . || exit 1; \
    chflags -R nosunlnk,nosappnd . 2>/dev/null; fi; find . -xdev -mindepth 1 -delete";

impl Place {
    /// Its path.
    pub fn path(&self) -> PathBuf {
        if self.below.as_os_str().is_empty() { self.root.clone() } else { self.root.join(&self.below) }
    }
    /// As arguments of [`ENTER`].
    pub(super) fn arguments(&self, doing: &str) -> Result<[String; 2]> {
        let down = self.below.is_absolute() || self.below.components().any(|part| part.as_os_str() == OsStr::new(".."));
        if !self.root.is_absolute() || down {
            return Err(Error::refused(doing, format!("{} is no directory of a tree", self.path().display())));
        }
        Ok([text(doing, &self.root)?, text(doing, &self.below)?])
    }
}

/// A path as an argument.
pub(super) fn text(doing: &str, path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) if !text.contains(['\0', '\n']) => Ok(text.to_owned()),
        _ => Err(Error::refused(doing, format!("{} cannot be handed over", path.display()))),
    }
}

/// A command in a place.
pub(super) fn within(place: &Place, doing: &str, script: &str, more: &[String]) -> Result<Command> {
    let script = format!("{PATH}{ENTER}{script}");
    let argv = ["sh", "-c", &script, "sh"].map(str::to_owned);
    Ok(Command::new(argv.into_iter().chain(place.arguments(doing)?).chain(more.iter().cloned())))
}

/// The first names in a directory; `None` if there is no such directory in the tree.
pub async fn holds(host: &dyn Host, place: &Place) -> Result<Option<Vec<String>>> {
    let doing = format!("look into {} of {}", place.path().display(), host.name());
    let command = within(place, &doing, HOLDS, &[])?;
    let output = host.run(&command).await?;
    if matches!(output.status, 90 | 91) {
        return Ok(None);
    }
    let printed = output.checked(doing, &command)?.text();
    Ok(Some(printed.lines().take(3).map(crate::host::printable).collect()))
}

/// Empties a directory that a copy was begun in. The restore of that copy, if it is left, is ended first; `temporary`: its TMPDIR.
///
/// # Errors
/// Something is mounted below; something does not go.
pub async fn empty(host: &dyn Host, place: &Place, temporary: &Path) -> Result<Change> {
    let doing = format!("empty {} of {}", place.path().display(), host.name());
    let command = within(place, &doing, "pwd -P", &[])?;
    let here = host.run(&command).await?.checked(&doing, &command)?.text();
    let here = PathBuf::from(here.trim_end_matches('\n'));
    let mounts = source::mounted(host).await?;
    if let Some(mount) = mounts.iter().find(|mount| mount.point != here && mount.point.starts_with(&here)) {
        let why = format!("{} is mounted below it", mount.point.display());
        return Err(Error::refused(doing, why).help("unmount it"));
    }
    let script = format!("{END_RESTORE}{EMPTY}");
    let command = within(place, &doing, &script, &[text(&doing, temporary)?])?.timeout(Duration::from_secs(6 * 3600));
    host.run(&command).await?.checked(doing, &command)?;
    Ok(Change::Removed)
}

/// Bytes that are free where a directory is, and the device that tells file systems apart.
pub async fn free(host: &dyn Host, place: &Place) -> Result<(String, u64)> {
    let doing = format!("see what is free in {} of {}", place.path().display(), host.name());
    let command = within(place, &doing, "if df -kP . 2>/dev/null; then :; else df -k .; fi", &[])?;
    let printed = host.run(&command).await?.checked(&doing, &command)?.text();
    let free = df(&printed).into_iter().next().map(|(device, usage)| (device, usage.free_bytes));
    free.ok_or_else(|| Error::new(doing, Cause::Malformed("df printed no file system".into())))
}

/// Removes what restore keeps for a later level.
pub async fn forget_symtable(host: &dyn Host, place: &Place) -> Result<Change> {
    let doing = format!("remove {} of {}", place.path().join(SYMTABLE).display(), host.name());
    let command = within(place, &doing, "rm -f ./restoresymtable", &[])?;
    host.run(&command).await?.checked(doing, &command)?;
    Ok(Change::Removed)
}

/// Whether restore's table for a later level is there.
pub async fn has_symtable(host: &dyn Host, place: &Place) -> Result<bool> {
    let doing = format!("look for {} of {}", place.path().join(SYMTABLE).display(), host.name());
    let command = within(place, &doing, "test -f ./restoresymtable || exit 9", &[])?;
    let output = host.run(&command).await?;
    Ok(output.status != 9 && output.checked(doing, &command)?.status == 0)
}

/// Removes an empty `.snap`, which came along because it was made for the dump.
pub async fn forget_snap(host: &dyn Host, place: &Place) -> Result<Change> {
    let doing = format!("remove {} of {}", place.path().join(".snap").display(), host.name());
    let command = within(place, &doing, "test -d ./.snap || exit 0; rmdir ./.snap", &[])?;
    host.run(&command).await?.checked(doing, &command)?;
    Ok(Change::Removed)
}
