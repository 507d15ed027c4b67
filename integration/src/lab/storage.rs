//! The lab's disk: btrfs in a sparse loop file, mounted at `LAB/pool`.
//!
//! Invariant: `LAB` is a shared mount of its own, so that unmounting the pool reaches the mount namespaces of the
//! lab's daemon, of its guests' controllers and of other labs; a copy of the mount left in one of them would hold the
//! loop device for as long as it lives (mount_namespaces(7)).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Lab;
use crate::command::run;

/// The size the loop file may grow to; it takes what is written.
const SIZE: u64 = 24 << 30;

/// Makes the lab's directory and mounts its pool.
///
/// # Errors
/// A file could not be made or mounted.
pub fn up(lab: &Lab) -> Result<()> {
    fs::create_dir_all(lab.dir()).with_context(|| format!("making {}", lab.dir().display()))?;
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o700))?;
    run("mount").arg("--bind").arg(lab.dir()).arg(lab.dir()).output()?;
    // Its parent may be shared (systemd's default): leave that group before making one of its own.
    run("mount").arg("--make-private").arg(lab.dir()).output()?;
    run("mount").arg("--make-shared").arg(lab.dir()).output()?;
    let (image, pool) = (lab.path("pool.img"), lab.path("pool"));
    fs::File::create(&image)?.set_len(SIZE)?;
    fs::create_dir(&pool)?;
    run("mkfs.btrfs").arg("--quiet").arg(&image).output()?;
    // Without barriers: a lab need not survive a power cut, and dpkg asks for a flush after every file.
    run("mount").args(["-t", "btrfs", "-o", "loop,noatime,nobarrier"]).arg(&image).arg(&pool).output()?;
    for directory in ["images", "guests"] {
        fs::create_dir(pool.join(directory))?;
    }
    Ok(())
}

/// Makes a subvolume.
///
/// # Errors
/// As `btrfs subvolume create`.
pub fn subvolume(path: &Path) -> Result<()> {
    run("btrfs").args(["--quiet", "subvolume", "create"]).arg(path).output().map(drop)
}

/// Makes a writable snapshot.
///
/// # Errors
/// As `btrfs subvolume snapshot`.
pub fn snapshot(source: &Path, path: &Path) -> Result<()> {
    run("btrfs").args(["--quiet", "subvolume", "snapshot"]).arg(source).arg(path).output().map(drop)
}

/// Turns a directory into a subvolume with the same content.
///
/// # Errors
/// The content could not be moved over.
pub fn turn_into_subvolume(directory: &Path) -> Result<()> {
    let aside = directory.with_extension("aside");
    fs::rename(directory, &aside)?;
    subvolume(directory)?;
    let (mut from, mut to) = (aside.clone().into_os_string(), directory.as_os_str().to_owned());
    from.push("/.");
    to.push("/");
    run("cp").args(["--archive", "--reflink=auto"]).arg(from).arg(to).output()?;
    fs::remove_dir_all(&aside).with_context(|| format!("removing {}", aside.display()))
}

/// Mount points at or below a directory in this mount namespace, the last mounted first.
///
/// # Errors
/// /proc/self/mountinfo could not be read.
pub fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|at| at.starts_with(directory))
        .collect();
    mounts.reverse();
    Ok(mounts)
}

/// Loop devices on the lab's pool.
///
/// # Errors
/// As `losetup`.
pub fn loops(lab: &Lab) -> Result<Vec<String>> {
    let image = lab.path("pool.img");
    let list = run("losetup").args(["--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"]).output()?;
    Ok(list
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, file)| Path::new(file.trim_end_matches(" (deleted)")) == image)
        .map(|(device, _)| device.to_owned())
        .collect())
}

/// Unmounts everything of the lab and frees its loop device.
///
/// # Errors
/// Something is in use.
pub fn down(lab: &Lab) -> Result<()> {
    for at in mounts_below(lab.dir())? {
        run("umount").arg(at).output()?;
    }
    for device in loops(lab)? {
        run("losetup").args(["--detach", &device]).output()?;
    }
    Ok(())
}
