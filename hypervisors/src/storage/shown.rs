//! Directories of opened volumes, shown to a program that works at paths (rsync): in a mount namespace that only it sees, each
//! is mounted where a path leads to it.
//!
//! A program that is given `/proc/PID/fd/N` may resolve it and go on with what the kernel prints for it (rsync does; seen:
//! 3.5.0). For a directory of an opened volume that is a path from the root of *its* namespace, `/home` say, and leads to
//! the `/home` of this machine. So here nothing is looked up again: what is mounted is the very directory behind a descriptor
//! (`open_tree(2)`), taken from the namespace that holds its volume ([`super::parts`]) into one that is this machine's with
//! nothing else added. It has the attributes of the opened volume (`nosuid,nodev,noexec`), and what is mounted further down
//! does not come along.
//!
//! No process lives in that namespace until the program is started in it. It goes with the program and the descriptor, however
//! either ends.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use rustix::mount::OpenTreeFlags;

use super::{Opened, parts};
use crate::{Error, Result};

/// A directory to be shown.
#[derive(Debug)]
pub struct Place {
    /// The directory. Closed before the volume it is in.
    pub directory: OwnedFd,
    /// That volume, which is a mount.
    pub opened: Opened,
    /// The directory of this machine in whose place it is shown.
    pub point: PathBuf,
}

/// This machine with some directories shown. Volumes stay open as long as this lives.
#[derive(Debug)]
pub struct Shown {
    space: OwnedFd,
    _places: Vec<Place>,
}

impl Shown {
    /// Shows these directories. `doing` names it in errors.
    ///
    /// # Errors
    /// One is of no mount, or the kernel refuses (older than Linux 5.2, no root).
    pub async fn new(doing: &str, places: Vec<Place>) -> Result<Self> {
        crate::host::blocking(doing.to_owned(), move |doing| {
            let space = parts::aside(|| shown(&places)).map_err(|error| Error::io(doing, error))?;
            Ok(Self { space, _places: places })
        })
        .await
    }

    /// A command as it is to be run on this machine (`nsenter(1)`), to see them.
    pub fn argv(&self, command: Vec<String>) -> Vec<String> {
        let space = format!("--mount=/proc/{}/fd/{}", std::process::id(), self.space.as_raw_fd());
        ["nsenter".to_owned(), space, "--".to_owned()].into_iter().chain(command).collect()
    }
}

fn shown(places: &[Place]) -> io::Result<OwnedFd> {
    let go = |space: &OwnedFd| nix::sched::setns(space, CloneFlags::CLONE_NEWNS).map_err(io::Error::from);
    // A thread that shares its root and working directory with others cannot change namespaces.
    nix::sched::unshare(CloneFlags::CLONE_FS)?;
    let machine = parts::namespace()?;
    let mut copies = Vec::new();
    for Place { directory, opened, point } in places {
        let no_mount = || io::Error::other(format!("{} is no mount", opened.path().display()));
        // A mount can be copied only where it is.
        go(&opened.space()?.ok_or_else(no_mount)?)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        copies.push((rustix::mount::open_tree(directory, "", flags)?, point));
        go(&machine)?;
    }
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    let space = parts::namespace()?;
    // Nothing gets out of it, while what this machine unmounts goes in it too: a long copy keeps no file system busy.
    let nothing: Option<&str> = None;
    nix::mount::mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)?;
    for (copy, point) in copies {
        parts::put(&copy, rustix::fs::CWD, point)?;
    }
    Ok(space)
}
