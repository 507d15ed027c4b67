//! Writing edits into a tree: everything is checked before the first write, each file is then replaced in one step.
//!
//! A new file is made under a temporary name (`.upgradectl-` and 16 hexadecimal digits that depend on the file's name)
//! in the same directory, brought to its owner, mode, attributes and bytes, synced, and renamed into place. An apply
//! that was cut off leaves files that are each either as before or as after, and at most such temporary names, which
//! the next one replaces. Order: what comes to be in path order (directories before what is in them), then what goes,
//! in reverse.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, IFlags, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::{FileImage, Tree, diff, io, reopen, shown, unfit};
use crate::guest::{FileEdit, GuestError};

/// Writes edits into the tree; see [`crate::guest::apply`].
pub fn apply(tree: &Tree, edits: &[FileEdit]) -> Result<bool, GuestError> {
    let mut pending = Vec::new();
    for edit in edits {
        if needs_writing(tree, edit)? {
            pending.push(edit);
        }
    }
    for edit in edits {
        if let Some((directory, name)) = tree.parent(&edit.path)? {
            remove(&directory, &temporary(&name)).map_err(|errno| refused(&edit.path, errno))?;
        }
    }
    pending.sort_by(|a, b| a.path.cmp(&b.path));
    let (going, coming): (Vec<_>, Vec<_>) = pending.iter().copied().partition(|edit| edit.after.is_none());
    for edit in coming.iter().chain(going.iter().rev()) {
        write(tree, edit)?;
    }
    Ok(!pending.is_empty())
}

/// Whether the file still has to be written; an error if it is neither as found nor as planned, or cannot be written.
fn needs_writing(tree: &Tree, edit: &FileEdit) -> Result<bool, GuestError> {
    let current = tree.image(&edit.path)?;
    if current == edit.after {
        return Ok(false);
    }
    if current != edit.before {
        let change = FileEdit { after: current, ..edit.clone() };
        return Err(GuestError::Changed { path: shown(&edit.path), diff: diff(&change) });
    }
    let Some((directory, _)) = tree.parent(&edit.path)? else { return Ok(true) };
    let frozen = |file: &OwnedFd| {
        let flags = reopen(file, OFlags::RDONLY).and_then(rustix::fs::ioctl_getflags);
        // File systems without such flags say so; writing then tells.
        flags.is_ok_and(|flags| flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND))
    };
    let plain = matches!(current, Some(FileImage::Regular { .. } | FileImage::Directory { .. }));
    let file = if plain { tree.look(&edit.path)? } else { None };
    if frozen(&directory) || file.is_some_and(|(file, _)| frozen(&file)) {
        return Err(immutable(&edit.path));
    }
    Ok(true)
}

fn immutable(path: &Path) -> GuestError {
    let path = path.to_owned();
    let help = format!("chattr -i -a {} (and on its directory) in the guest", shown(&path));
    unfit(&path, "is immutable or append-only (lsattr shows i or a)", help)
}

fn refused(path: &Path, errno: Errno) -> GuestError {
    match errno {
        Errno::PERM => unfit(
            path,
            "may not be changed: not permitted",
            "run as root; if that is so, see lsattr for the attributes i and a",
        ),
        errno => io(path, errno),
    }
}

/// Brings one file to what it shall be.
fn write(tree: &Tree, edit: &FileEdit) -> Result<(), GuestError> {
    let path = &edit.path;
    let Some((directory, name)) = tree.parent(path)? else {
        return Err(unfit(path, "has no directory to be in", "create the directory in the guest"));
    };
    let failed = |errno| refused(path, errno);
    let was_directory = matches!(edit.before, Some(FileImage::Directory { .. }));
    match &edit.after {
        None => remove(&directory, &name).map_err(failed)?,
        Some(FileImage::Directory { mode, uid, gid }) if was_directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&directory, &name, flags, Mode::empty()).map_err(failed)?;
            own(&file, *mode, *uid, *gid).map_err(failed)?;
        }
        Some(image) => {
            let temporary = temporary(&name);
            create(&directory, &temporary, image, path)?;
            // rename(2) replaces a file by a file in one step; only a directory has to go first, or comes last.
            if was_directory || (edit.before.is_some() && matches!(image, FileImage::Directory { .. })) {
                remove(&directory, &name).map_err(failed)?;
            }
            rustix::fs::renameat(&directory, &temporary, &directory, &name).map_err(failed)?;
        }
    }
    let directory = reopen(&directory, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
    rustix::fs::fsync(directory).map_err(failed)
}

/// Makes a file under its temporary name.
fn create(directory: &OwnedFd, name: &OsStr, image: &FileImage, path: &Path) -> Result<(), GuestError> {
    let failed = |errno| refused(path, errno);
    match image {
        FileImage::Symlink { target } => rustix::fs::symlinkat(target, directory, name).map_err(failed),
        FileImage::Directory { mode, uid, gid } => {
            rustix::fs::mkdirat(directory, name, Mode::RWXU).map_err(failed)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(failed)?;
            own(&file, *mode, *uid, *gid).map_err(failed)
        }
        FileImage::Regular { bytes, mode, uid, gid, xattrs } => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
            let mut file = File::from(file);
            file.write_all(bytes).map_err(|source| GuestError::Io { path: shown(path), source })?;
            let file = OwnedFd::from(file);
            own(&file, *mode, *uid, *gid).map_err(failed)?;
            // After the owner (a change of it drops capabilities) and with the mode set again (an ACL's mask is in it).
            for inherited in super::xattrs(path, &file)?.keys().filter(|name| !xattrs.contains_key(*name)) {
                rustix::fs::fremovexattr(&file, inherited.as_str()).map_err(failed)?;
            }
            for (name, value) in xattrs {
                rustix::fs::fsetxattr(&file, name.as_str(), value, XattrFlags::empty()).map_err(failed)?;
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(*mode)).map_err(failed)?;
            rustix::fs::fsync(&file).map_err(failed)
        }
    }
}

/// Sets owner, where it differs (others than root may not even set what is so already), and mode.
fn own(file: &OwnedFd, mode: u32, uid: u32, gid: u32) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    if (stat.st_uid, stat.st_gid) != (uid, gid) {
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
}

/// Removes a file or an empty directory; none is fine.
fn remove(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    let removed = match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR),
        other => other,
    };
    if removed == Err(Errno::NOENT) { Ok(()) } else { removed }
}

pub(in crate::guest) fn temporary(name: &OsStr) -> OsString {
    let digest = Sha256::digest(name.as_bytes());
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!(".upgradectl-{hex}").into()
}
