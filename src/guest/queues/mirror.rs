//! Making a queue exactly another guest's: files, directories, links, modes, owners, attributes, times; what is not
//! there is removed. FIFOs, sockets and devices are neither copied nor removed.
//!
//! A file is copied under a temporary name and renamed when it is whole, with its time already set; so a mirror that was
//! cut off is started again and copies only what is missing. A file counts as the same by size, modification time, mode
//! and owner, as both sides' guests are stopped and only a mirror sets times to the nanosecond.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Queue;
use super::aside::{directory_like, same_metadata};
use crate::guest::beneath::{self, Beneath, MAX_DEPTH, io as failed};
use crate::guest::tree::{shown, unfit};
use crate::guest::{GuestError, Tree};

const TEMPORARY: &str = ".upgradectl-mirror";
/// Most entries of one directory.
const ENTRIES: usize = 4_000_000;

/// What a mirror did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// Regular files that are in the queue now.
    pub files: u64,
    /// Bytes of those that had to be copied.
    pub bytes: u64,
    /// Entries removed because the other side does not have them.
    pub removed: u64,
    /// Entries copied, made or mended.
    pub changed: u64,
}

/// Makes the directories of a queue in `to` those of `from`. A queue directory that `from` lacks is emptied; one that
/// `to` lacks is made, its parents included (0755, root's).
pub fn mirror(from: &Tree, to: &Tree, queue: &Queue) -> Result<Mirrored, GuestError> {
    let (source, target) = (Beneath::of(from), Beneath::of(to));
    let mut run = Run { target, links: HashMap::new(), done: Mirrored::default() };
    for path in &queue.directories {
        let parent = target.make(path.parent().unwrap_or(Path::new("")), to.owner())?;
        let Some(name) = path.file_name() else { continue };
        let existing = beneath::stat(&parent, name).map_err(|errno| failed(path, errno))?;
        let model = match source.parent(path)? {
            Some((parent, name)) => match beneath::child(&parent, &name) {
                Err(Errno::NOENT) => None,
                other => Some(other.map_err(|errno| failed(path, errno))?),
            },
            None => None,
        };
        let Some(model) = model else {
            if existing.is_some_and(|stat| beneath::is_directory(&stat)) {
                let empty = beneath::child(&parent, name).map_err(|errno| failed(path, errno))?;
                run.remove_others(&empty, path, &[])?;
            }
            continue;
        };
        run.directory(&model, &parent, name, path, MAX_DEPTH)?;
    }
    Ok(run.done)
}

struct Run<'a> {
    target: Beneath<'a>,
    /// First path, relative to the target's root, of a file with several names, by the source's device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    done: Mirrored,
}

impl Run<'_> {
    fn directory(
        &mut self,
        model: &OwnedFd,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        depth: usize,
    ) -> Result<(), GuestError> {
        let error = |errno| failed(path, errno);
        if depth == 0 {
            return Err(unfit(path, "is nested too deeply for a queue", "look what it is"));
        }
        match beneath::stat(parent, name).map_err(error)? {
            Some(stat) if beneath::is_directory(&stat) => {}
            Some(_) => beneath::remove(parent, name, 1).map_err(error)?,
            None => self.done.changed += 1,
        }
        let target = directory_like(model, parent, name).map_err(error)?;
        let names = beneath::names(model, ENTRIES).map_err(error)?;
        if names.len() >= ENTRIES {
            return Err(unfit(path, "has too many entries for a queue", "look what it is"));
        }
        self.remove_others(&target, path, &names)?;
        for name in &names {
            let path = path.join(name);
            let error = |errno| failed(&path, errno);
            let Some(stat) = beneath::stat(model, name).map_err(error)? else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let inner = beneath::child(model, name).map_err(error)?;
                    self.directory(&inner, &target, name, &path, depth - 1)?;
                }
                FileType::RegularFile => self.file(model, &stat, &target, name, &path)?,
                FileType::Symlink => self.symlink(model, &stat, &target, name).map_err(error)?,
                _ => {}
            }
        }
        let stat = rustix::fs::fstat(model).map_err(error)?;
        rustix::fs::futimens(&target, &times(&stat)).map_err(error)?;
        rustix::fs::fsync(&target).map_err(error)
    }

    /// Removes what the source does not name; `names` is in order.
    fn remove_others(&mut self, target: &OwnedFd, path: &Path, names: &[OsString]) -> Result<(), GuestError> {
        let error = |errno| failed(path, errno);
        for name in beneath::names(target, ENTRIES).map_err(error)? {
            let Some(stat) = beneath::stat(target, &name).map_err(error)? else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let ours = matches!(kind, FileType::Directory | FileType::RegularFile | FileType::Symlink);
            if ours && names.binary_search(&name).is_err() {
                beneath::remove(target, &name, MAX_DEPTH).map_err(error)?;
                self.done.removed += u64::from(name != TEMPORARY);
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        model: &OwnedFd,
        stat: &Stat,
        target: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), GuestError> {
        let error = |errno| failed(path, errno);
        self.done.files += 1;
        let existing = beneath::stat(target, name).map_err(error)?;
        let first = (stat.st_nlink > 1).then(|| self.links.get(&(stat.st_dev, stat.st_ino))).flatten();
        if let Some((parent, first)) = first.map(|first| self.target.parent(first)).transpose()?.flatten() {
            let linked = beneath::stat(&parent, &first).map_err(error)?;
            if existing.zip(linked).is_some_and(|(a, b)| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)) {
                return Ok(());
            }
            beneath::remove(target, name, MAX_DEPTH).map_err(error)?;
            rustix::fs::linkat(&parent, &first, target, name, AtFlags::empty()).map_err(error)?;
            self.done.changed += 1;
            return Ok(());
        }
        // A file that has other names here may be one with a file it is not one with there.
        let same = existing.is_some_and(|existing| same(stat, &existing) && existing.st_nlink == 1);
        if !same {
            if existing.is_some_and(|existing| !beneath::is_file(&existing)) {
                beneath::remove(target, name, MAX_DEPTH).map_err(error)?;
            }
            self.done.bytes += copy(model, stat, target, name, path)?;
            self.done.changed += 1;
        }
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        Ok(())
    }

    fn symlink(&mut self, model: &OwnedFd, stat: &Stat, target: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
        let to = rustix::fs::readlinkat(model, name, Vec::new())?;
        let existing = beneath::stat(target, name)?;
        let is_link = existing.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        if !(is_link && rustix::fs::readlinkat(target, name, Vec::new())? == to) {
            beneath::remove(target, name, MAX_DEPTH)?;
            rustix::fs::symlinkat(OsStr::from_bytes(to.as_bytes()), target, name)?;
            self.done.changed += 1;
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(target, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// Whether a file is the copy of another.
fn same(a: &Stat, b: &Stat) -> bool {
    let facts = |stat: &Stat| {
        (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_mtime, i128::from(stat.st_mtime_nsec))
    };
    facts(a) == facts(b)
}

fn times(stat: &Stat) -> Timestamps {
    let nanoseconds = |value: u64| value.try_into().unwrap_or_default();
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: nanoseconds(stat.st_atime_nsec) },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds(stat.st_mtime_nsec) },
    }
}

/// Copies a file whole or not at all; returns its size.
fn copy(model: &OwnedFd, stat: &Stat, target: &OwnedFd, name: &OsStr, path: &Path) -> Result<u64, GuestError> {
    let error = |errno| failed(path, errno);
    let source = beneath::file(model, name).map_err(error)?;
    beneath::remove(target, OsStr::new(TEMPORARY), MAX_DEPTH).map_err(error)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let new = rustix::fs::openat(target, TEMPORARY, flags, Mode::RUSR | Mode::WUSR).map_err(error)?;
    let (mut source, mut new) = (File::from(source), File::from(new));
    let bytes = io::copy(&mut source, &mut new).map_err(|source| GuestError::Io { path: shown(path), source })?;
    let (source, new) = (OwnedFd::from(source), OwnedFd::from(new));
    same_metadata(&source, &new).map_err(error)?;
    rustix::fs::futimens(&new, &times(stat)).map_err(error)?;
    rustix::fs::fsync(&new).map_err(error)?;
    rustix::fs::renameat(target, TEMPORARY, target, name).map_err(error)?;
    Ok(bytes)
}
