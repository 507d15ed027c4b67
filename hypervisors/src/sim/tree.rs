//! Directory trees: finding a path beneath a root, copying, measuring.
//!
//! Links are followed as the guest would, with `/` meaning its root, so that no path leads out of it. This is
//! enough for a world that only its owner writes to; a real guest's mounted disk needs openat2.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, FileTimes};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};

/// Links followed before a path counts as a loop, as in Linux.
const LINKS: usize = 40;

/// The place on this machine of a guest's path. With `follow`, a link at the end is followed too. Parts that do not
/// exist are taken as they are, for a file about to be made.
pub(super) fn resolve(root: &Path, path: &Path, follow: bool) -> io::Result<PathBuf> {
    let mut rest: VecDeque<OsString> = parts(path);
    let mut at = PathBuf::new();
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let here = root.join(&at).join(&part);
        let is_link = fs::symlink_metadata(&here).is_ok_and(|meta| meta.is_symlink());
        if !is_link || (rest.is_empty() && !follow) {
            at.push(&part);
            continue;
        }
        links += 1;
        if links > LINKS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many levels of symbolic links"));
        }
        let target = fs::read_link(&here)?;
        if target.is_absolute() {
            at = PathBuf::new();
        }
        for part in parts(&target).into_iter().rev() {
            rest.push_front(part);
        }
    }
    Ok(root.join(at))
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

/// Copies a tree: files, directories, links; modes and times, as root owners too. Devices, sockets and pipes are left
/// out. `half` is called once, when about half of the top directory has been copied. The target is made.
pub(super) fn copy<E: From<io::Error>>(
    from: &Path,
    to: &Path,
    half: &mut dyn FnMut() -> Result<(), E>,
) -> Result<(), E> {
    let root = nix::unistd::geteuid().is_root();
    fs::create_dir(to)?;
    let mut names: Vec<_> = fs::read_dir(from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    for (index, name) in names.iter().enumerate() {
        if index == names.len() / 2 {
            half()?;
        }
        copy_entry(&from.join(name), &to.join(name), root)?;
    }
    if names.is_empty() {
        half()?;
    }
    finish(&fs::symlink_metadata(from)?, to, root)?;
    Ok(())
}

fn copy_entry(from: &Path, to: &Path, root: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
        return if root { lchown(to, Some(meta.uid()), Some(meta.gid())) } else { Ok(()) };
    }
    if meta.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy_entry(&from.join(&name), &to.join(&name), root)?;
        }
    } else if meta.is_file() {
        fs::copy(from, to)?;
    } else {
        return Ok(());
    }
    finish(&meta, to, root)
}

/// Owner, mode, times; in this order, because a change of owner clears set-id bits.
fn finish(meta: &fs::Metadata, to: &Path, root: bool) -> io::Result<()> {
    if root {
        lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    }
    let times = FileTimes::new().set_modified(meta.modified()?);
    // Reading suffices to set the times of one's own file; its mode comes after, as it may forbid even that.
    fs::File::open(to)?.set_times(times)?;
    fs::set_permissions(to, meta.permissions())
}

/// Removes a tree, if there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    unlock(path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An ordinary user cannot empty a directory without write permission, even his own.
pub(super) fn unlock(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta?,
    };
    if !meta.is_dir() {
        return Ok(());
    }
    if meta.permissions().mode() & 0o700 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    fs::read_dir(path)?.try_for_each(|entry| unlock(&entry?.path()))
}

/// Names in a directory of the guest, sorted; none if it cannot be read.
pub(super) fn names(root: &Path, path: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = resolve(root, path.as_ref(), true).and_then(fs::read_dir) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Bytes of all files of a tree; what cannot be read counts as nothing.
pub(super) fn size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    fs::read_dir(path).map_or(0, |entries| entries.flatten().map(|entry| size(&entry.path())).sum())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn no_path_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        symlink("/etc/passwd", root.join("abs")).unwrap();
        symlink("../../../../etc", root.join("a/b/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let at = |path: &str| resolve(root, Path::new(path), true);
        assert_eq!(at("/abs").unwrap(), root.join("etc/passwd"));
        assert_eq!(at("a/b/up/shadow").unwrap(), root.join("etc/shadow"));
        assert_eq!(at("../../a/./b/../x").unwrap(), root.join("a/x"));
        assert_eq!(resolve(root, Path::new("abs"), false).unwrap(), root.join("abs"));
        assert!(at("loop").is_err());
    }

    #[test]
    fn a_copy_keeps_modes_links_and_times_and_stops_half_way() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("etc")).unwrap();
        fs::write(from.join("etc/key"), "secret").unwrap();
        fs::set_permissions(from.join("etc/key"), fs::Permissions::from_mode(0o400)).unwrap();
        fs::set_permissions(from.join("etc"), fs::Permissions::from_mode(0o555)).unwrap();
        symlink("etc/key", from.join("link")).unwrap();
        let to = dir.path().join("to");
        copy::<io::Error>(&from, &to, &mut || Ok(())).unwrap();
        let meta = |path: &str| (fs::symlink_metadata(from.join(path)), fs::symlink_metadata(to.join(path)));
        for path in ["etc", "etc/key"] {
            let (old, new) = meta(path);
            let (old, new) = (old.unwrap(), new.unwrap());
            assert_eq!((old.mode(), old.modified().unwrap()), (new.mode(), new.modified().unwrap()), "{path}");
        }
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("etc/key"));
        assert_eq!(size(&from), size(&to));
        let half = dir.path().join("half");
        copy(&from, &half, &mut || Err(io::Error::other("stop"))).unwrap_err();
        assert!(half.join("etc").exists() && !half.join("link").exists());
    }
}
