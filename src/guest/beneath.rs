//! Directories beneath a guest's root as descriptors, for what is not an edit of a file: walking, queues, time stamps.
//!
//! The way to a directory is resolved within the root (openat2(2), `RESOLVE_IN_ROOT`); from there on only names are
//! used, and a link is never followed. Depth and number of entries are bounded: a guest can be built to be endless.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::tree::{shown, unfit};
use super::{GuestError, Tree};

/// Deepest nesting of directories that is followed.
pub const MAX_DEPTH: usize = 32;

/// A guest's root, as the start of paths.
#[derive(Clone, Copy, Debug)]
pub struct Beneath<'a> {
    tree: &'a Tree,
}

impl<'a> Beneath<'a> {
    /// The root the tree has open.
    pub fn of(tree: &'a Tree) -> Self {
        Self { tree }
    }

    /// A directory, for reading; links on the way and at the end are followed within the root. `None`: there is none.
    pub fn directory(&self, path: &Path) -> Result<Option<OwnedFd>, GuestError> {
        self.tree.directory(path)
    }

    /// The directory a path is in, and its name there; `None`: there is no such directory.
    pub fn parent(&self, path: &Path) -> Result<Option<(OwnedFd, OsString)>, GuestError> {
        let path = relative(path)?;
        let Some(name) = path.file_name() else {
            return Err(unfit(&path, "is the root itself", "name something beneath it"));
        };
        let parent = self.directory(path.parent().unwrap_or(Path::new("")))?;
        Ok(parent.map(|parent| (parent, name.to_owned())))
    }

    /// Makes a directory and those above it (0755, of the given owner); what exists stays as it is.
    pub fn make(&self, path: &Path, owner: (u32, u32)) -> Result<OwnedFd, GuestError> {
        let path = relative(path)?;
        let mut at = PathBuf::new();
        for name in path.iter() {
            at.push(name);
            if self.directory(&at)?.is_some() {
                continue;
            }
            let Some((parent, name)) = self.parent(&at)? else { break };
            rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)).map_err(|errno| io(&at, errno))?;
            chown_new(&parent, &name, owner).map_err(|errno| io(&at, errno))?;
        }
        self.directory(&path)?.ok_or_else(|| io(&path, Errno::NOTDIR))
    }
}

fn chown_new(parent: &OwnedFd, name: &OsStr, (uid, gid): (u32, u32)) -> rustix::io::Result<()> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// stat(2) of a name, links not followed; `None`: there is nothing.
pub fn stat(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A directory by its name, not through a link.
pub fn child(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// A regular file by its name for reading, not through a link. It has to be known to be one: a FIFO does not hang
/// here, but a device may act on being opened.
pub fn file(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// Whether it is a directory itself.
pub fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whether it is a regular file itself.
pub fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Names in a directory in order; at most `limit` are read.
pub fn names(directory: &OwnedFd, limit: usize) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
        if names.len() >= limit {
            break;
        }
    }
    names.sort();
    Ok(names)
}

/// Removes a file, a link, or a directory with all that is in it; nothing there is fine.
pub fn remove(directory: &OwnedFd, name: &OsStr, depth: usize) -> rustix::io::Result<()> {
    match stat(directory, name)? {
        None => Ok(()),
        Some(found) if is_directory(&found) => {
            if depth == 0 {
                return Err(Errno::NAMETOOLONG);
            }
            let inner = child(directory, name)?;
            loop {
                let some = names(&inner, 4096)?;
                if some.is_empty() {
                    break;
                }
                for name in some {
                    remove(&inner, &name, depth - 1)?;
                }
            }
            rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
        }
        Some(_) => rustix::fs::unlinkat(directory, name, AtFlags::empty()),
    }
}

/// What a walk may still cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Entries to look at.
    pub entries: usize,
    /// When to stop.
    pub until: Option<Instant>,
}

impl Budget {
    /// Whether nothing is left of it.
    pub fn is_spent(&self) -> bool {
        self.entries == 0 || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// An entry found by [`walk`].
#[derive(Debug)]
pub struct Entry<'a> {
    /// Directory it is in.
    pub directory: &'a OwnedFd,
    /// Its name there.
    pub name: &'a OsStr,
    /// Its path relative to the root, as walked.
    pub path: &'a Path,
    /// What it is; links are not followed.
    pub stat: Stat,
}

/// Visits what is below a directory, at most `depth` levels deep, in name order, as long as the budget lasts. `visit`
/// says whether a directory is gone into. What cannot be opened is passed over: this is for searching.
pub fn walk(
    tree: Beneath<'_>,
    start: &Path,
    depth: usize,
    budget: &mut Budget,
    visit: &mut dyn FnMut(&Entry<'_>) -> Result<bool, GuestError>,
) -> Result<(), GuestError> {
    match tree.directory(start).ok().flatten() {
        Some(directory) => descend(&directory, start, depth.min(MAX_DEPTH), budget, visit),
        None => Ok(()),
    }
}

fn descend(
    directory: &OwnedFd,
    path: &Path,
    depth: usize,
    budget: &mut Budget,
    visit: &mut dyn FnMut(&Entry<'_>) -> Result<bool, GuestError>,
) -> Result<(), GuestError> {
    let names = names(directory, budget.entries).map_err(|errno| io(path, errno))?;
    for name in names {
        if budget.is_spent() {
            return Ok(());
        }
        budget.entries -= 1;
        let Ok(Some(stat)) = stat(directory, &name) else { continue };
        let path = path.join(&name);
        let goes_in = visit(&Entry { directory, name: &name, path: &path, stat })?;
        if goes_in && depth > 1 && is_directory(&stat) {
            let Ok(inner) = child(directory, &name) else { continue };
            descend(&inner, &path, depth - 1, budget, visit)?;
        }
    }
    Ok(())
}

/// The path without leading slash and `.`; `..` is refused.
pub fn relative(path: &Path) -> Result<PathBuf, GuestError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(unfit(path, "names a parent directory by ..", "write the path without .."));
            }
        }
    }
    Ok(clean)
}

/// Shorthand for [`GuestError::Io`].
pub fn io(path: &Path, errno: Errno) -> GuestError {
    GuestError::Io { path: shown(path), source: errno.into() }
}
