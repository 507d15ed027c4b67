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

/// Arguments: mount point, name. An older mksnap_ffs(8) wants the mount point too. Status 9: there is no snapshot.
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::host::{Job, JobStatus, LocalHost, Output};

    /// A machine whose mksnap_ffs is a script.
    #[derive(Debug)]
    struct Machine {
        host: LocalHost,
        directory: tempfile::TempDir,
    }

    #[async_trait::async_trait]
    impl Host for Machine {
        fn name(&self) -> &str {
            self.host.name()
        }
        fn is_local(&self) -> bool {
            true
        }
        async fn run(&self, command: &Command) -> Result<Output> {
            let path = format!("{}:/usr/bin:/bin", self.directory.path().join("bin").display());
            self.host.run(&command.clone().env("PATH", path)).await
        }
        async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
            self.host.read_file(path, limit).await
        }
        async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
            self.host.write_file(path, bytes, mode).await
        }
        async fn job_start(&self, job: &Job) -> Result<Change> {
            self.host.job_start(job).await
        }
        async fn job_status(&self, id: &str) -> Result<JobStatus> {
            self.host.job_status(id).await
        }
        async fn job_forget(&self, id: &str) -> Result<Change> {
            self.host.job_forget(id).await
        }
        async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
            self.host.job_output(id, from).await
        }
    }

    impl Machine {
        fn new(mksnap_ffs: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            std::fs::create_dir(directory.path().join("bin")).unwrap();
            std::fs::create_dir(directory.path().join("fs")).unwrap();
            for (name, script) in [("mksnap_ffs", mksnap_ffs), ("chgrp", "exit 0")] {
                let path = directory.path().join("bin").join(name);
                std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            Self { host: LocalHost::new("server"), directory }
        }
        fn mount(&self) -> std::path::PathBuf {
            self.directory.path().join("fs")
        }
    }

    /// FreeBSD 13.2 takes the name alone (recorded); older ones the mount point, too.
    const NEW: &str = "test $# -eq 1 || { echo 'usage: mksnap_ffs snapshot_name' >&2; exit 1; }; echo x >\"$1\"";
    const OLD: &str = "test $# -eq 2 || { echo 'usage: mksnap_ffs mountpoint snapshot_name' >&2; exit 64; }; test -d \"$1\" && echo x >\"$2\"";

    #[tokio::test]
    async fn the_directory_is_made_and_removed_and_a_snapshot_is_tried() {
        for mksnap_ffs in [NEW, OLD] {
            let machine = Machine::new(mksnap_ffs);
            let mount = machine.mount();
            assert_eq!(state(&machine, &mount).await.unwrap(), Snap::Missing);
            assert_eq!(unmake(&machine, &mount).await.unwrap(), Change::Removed);
            make(&machine, &mount).await.unwrap();
            assert_eq!(mount.join(".snap").metadata().unwrap().permissions().mode() & 0o7777, 0o770);
            assert_eq!(state(&machine, &mount).await.unwrap(), Snap::Directory);
            assert_eq!(fails(&machine, &mount, "ours").await.unwrap(), None);
            assert_eq!(std::fs::read_dir(mount.join(".snap")).unwrap().count(), 0, "the snapshot stays");
            std::fs::write(mount.join(".snap/theirs"), "x").unwrap();
            assert!(unmake(&machine, &mount).await.is_err(), "it was not empty");
            std::fs::remove_file(mount.join(".snap/theirs")).unwrap();
            unmake(&machine, &mount).await.unwrap();
            assert!(!mount.join(".snap").exists());
        }
    }

    #[tokio::test]
    async fn why_there_is_none_is_told() {
        let machine = Machine::new(
            "echo \"mksnap_ffs: Cannot create snapshot $1: No space left on device\" >&2; echo partial >\"$1\"; exit 1",
        );
        make(&machine, &machine.mount()).await.unwrap();
        let why = fails(&machine, &machine.mount(), "ours").await.unwrap().unwrap();
        assert!(why.contains("No space left on device"), "{why}");
        assert_eq!(std::fs::read_dir(machine.mount().join(".snap")).unwrap().count(), 0);
        // A link would lead the snapshot elsewhere.
        std::fs::remove_dir(machine.mount().join(".snap")).unwrap();
        std::os::unix::fs::symlink("/tmp", machine.mount().join(".snap")).unwrap();
        assert_eq!(state(&machine, &machine.mount()).await.unwrap(), Snap::Foreign);
    }
}
