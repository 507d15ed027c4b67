//! A guest's file systems, put together as it mounts them: a mount namespace that holds nothing but the guest's root and what
//! is mounted in it, that no process lives in, and that goes with the descriptors that hold it, however this process ends.
//!
//! A mount can be put into another, or copied to be shown to a program ([`super::shown`]), only within a mount namespace, and the
//! kernel changes the namespace of a thread: so a thread of its own makes it, and ends.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::MoveMountFlags;

use super::readonly::Loop;

/// No fstab is larger.
const FSTAB_MOST: u64 = 1 << 20;

/// A mounted file system that stands nowhere yet.
#[derive(Debug)]
pub struct Part {
    pub mount: OwnedFd,
    /// The loop device it is mounted through, if any.
    pub through: Option<Loop>,
}

/// File systems put together.
#[derive(Debug)]
pub struct Together {
    pub root: OwnedFd,
    /// The namespace that holds them, if there is more than one.
    pub space: Option<OwnedFd>,
    /// What is mounted, beneath the root.
    pub nested: Vec<PathBuf>,
    pub loops: Vec<Loop>,
}

/// The fstab of a root file system; `None` if it is none.
pub fn fstab(root: &OwnedFd) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(root, "etc/fstab", flags, Mode::empty(), within).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(FSTAB_MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Mounts file systems in another, outer ones first. A mount point that does not exist is passed over: the guest mounts nothing
/// there either.
pub fn together(top: Part, nested: Vec<(PathBuf, Part)>) -> io::Result<Together> {
    if nested.is_empty() {
        let loops = top.through.into_iter().collect();
        return Ok(Together { root: top.mount, space: None, nested: Vec::new(), loops });
    }
    aside(|| joined(top, nested))
}

/// Works in a thread of its own, which may go to other namespaces.
pub fn aside<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".into());
        let joined = thread.spawn_scoped(scope, work)?.join();
        joined.map_err(|_| io::Error::other("the thread that mounts ended early"))?
    })
}

/// Puts a mount that stands nowhere into a namespace of its own, in which the thread is afterwards.
pub fn alone(mount: &OwnedFd) -> io::Result<OwnedFd> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    let space = namespace()?;
    let nothing: Option<&str> = None;
    nix::mount::mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    // Any directory does: it is gone with all that was the host's two calls later.
    put(mount, rustix::fs::CWD, "/proc")?;
    nix::unistd::fchdir(mount)?;
    nix::unistd::pivot_root(".", ".")?;
    nix::mount::umount2(".", MntFlags::MNT_DETACH)?;
    Ok(space)
}

/// The mount namespace of this thread.
pub fn namespace() -> io::Result<OwnedFd> {
    File::open("/proc/thread-self/ns/mnt").map(OwnedFd::from)
}

fn joined(top: Part, nested: Vec<(PathBuf, Part)>) -> io::Result<Together> {
    let space = Some(alone(&top.mount)?);
    let loops = top.through.into_iter().collect();
    let mut whole = Together { root: top.mount, space, nested: Vec::new(), loops };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Not through links: paths of what is nested are used as they stand.
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    for (point, Part { mount, through }) in nested {
        let Ok(place) = rustix::fs::openat2(&whole.root, &point, flags, Mode::empty(), within) else { continue };
        put(&mount, &place, "")?;
        whole.nested.push(point);
        whole.loops.extend(through);
    }
    Ok(whole)
}

/// Puts a mount at a place.
pub fn put(mount: &OwnedFd, place: impl std::os::fd::AsFd, path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    flags.set(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH, path.as_os_str().is_empty());
    Ok(rustix::mount::move_mount(mount, "", place, path, flags)?)
}
