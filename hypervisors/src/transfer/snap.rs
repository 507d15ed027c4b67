//! Snapshots that FreeBSD's `dump -L` makes for itself below `.snap` of the file system's root.
//!
//! Without that directory dump warns, dumps the live file system, and exits 0 (recorded on 13.2): so the directory is made
//! where it is missing, and a snapshot is tried first: with journaled soft updates before 13.2, with twenty of them, or
//! without room, there is none.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PATH;
use crate::host::{Command, Host, printable_tail};
use crate::{Change, Error, Result};

/// Where dump's snapshots would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Snap {
    /// A directory `.snap` is there.
    Directory,
    /// Nothing of that name.
    Missing,
    /// Something else of that name: a link or a file.
    Foreign,
    /// The file system has no such thing.
    None,
}

/// A large file system is still for minutes while it makes one.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Arguments: mount point without a slash at its end.
const STATE: &str = "if test -L \"$1/.snap\"; then echo foreign; elif test -d \"$1/.snap\"; then echo directory; \
    elif test -e \"$1/.snap\"; then echo foreign; else echo missing; fi";

/// Group and mode as mksnap_ffs(8) asks for them.
const MAKE: &str = "umask 077; mkdir \"$1/.snap\" && chgrp operator \"$1/.snap\" && chmod 770 \"$1/.snap\"";

/// Arguments: mount point, name. Before FreeBSD 8 mksnap_ffs(8) wanted the mount point too. Status 9: there is no snapshot.
const TRY: &str = "f=\"$1/.snap/$2\"; rm -f \"$f\"; e=$(mksnap_ffs \"$f\" 2>&1) || case $e in \
    *usage*) e=$(mksnap_ffs \"${1:-/}\" \"$f\" 2>&1) ;; *) false ;; esac || { rm -f \"$f\"; echo \"$e\" >&2; exit 9; }; rm -f \"$f\"";

/// What stands at `.snap`.
pub async fn state(host: &dyn Host, mount: &Path) -> Result<Snap> {
    let doing = doing("look for", mount, host);
    let command = command(STATE, &doing, mount, &[])?;
    match host.run(&command).await?.checked(&doing, &command)?.text().trim() {
        "directory" => Ok(Snap::Directory),
        "missing" => Ok(Snap::Missing),
        _ => Ok(Snap::Foreign),
    }
}

/// Makes the directory, which must be missing.
pub async fn make(host: &dyn Host, mount: &Path) -> Result<Change> {
    let doing = doing("make", mount, host);
    let command = command(MAKE, &doing, mount, &[])?;
    host.run(&command).await?.checked(doing, &command)?;
    Ok(Change::Created)
}

/// Removes the directory that [`make`] made, if it is empty.
pub async fn unmake(host: &dyn Host, mount: &Path) -> Result<Change> {
    let doing = doing("remove", mount, host);
    let command = command("test -d \"$1/.snap\" || exit 0; rmdir \"$1/.snap\"", &doing, mount, &[])?;
    host.run(&command).await?.checked(doing, &command)?;
    Ok(Change::Removed)
}

/// Makes a snapshot of this name and removes it again; why there is none, if there is none.
pub async fn fails(host: &dyn Host, mount: &Path, name: &str) -> Result<Option<String>> {
    let doing = format!("try a snapshot of {} of {}", mount.display(), host.name());
    let command = command(TRY, &doing, mount, &[name])?.timeout(PATIENCE);
    let output = host.run(&command).await?;
    if output.status == 9 {
        return Ok(Some(printable_tail(&output.stderr, 1)));
    }
    output.checked(doing, &command)?;
    Ok(None)
}

fn doing(what: &str, mount: &Path, host: &dyn Host) -> String {
    format!("{what} {} of {}", mount.join(".snap").display(), host.name())
}

fn command(script: &str, doing: &str, mount: &Path, more: &[&str]) -> Result<Command> {
    let Some(mount) = mount.to_str().filter(|_| mount.is_absolute()) else {
        return Err(Error::refused(doing, "the mount point is not an absolute path in UTF-8"));
    };
    let script = format!("{PATH}{script}");
    let mount = mount.trim_end_matches('/');
    Ok(Command::new(["sh", "-c", &script, "sh", mount].into_iter().chain(more.iter().copied())))
}
