//! Built images, kept outside the tree under a hash of all that made them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};

/// Where built images are kept if `UPGRADECTL_LAB_CACHE` does not say otherwise.
pub const DEFAULT_CACHE: &str = "/var/cache/upgradectl-lab";

/// An image is built again after so long: an old one upgrades slower each week, as packages pile up at the mirror.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// The image `NAME-HASH` and an ending (`.tar`, `.bin` for a program, or none for a directory), built now if the cache does not have it; those
/// of other hashes go. `build` makes it under the name it is given.
///
/// # Errors
/// That of `build`, or a file could not be written or removed.
pub fn kept(name: &str, hash: &str, ending: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache();
    fs::create_dir_all(&cache)?;
    // Two labs may come up at once: the second waits for the first's image.
    let lock = fs::File::create(cache.join(format!("{name}.lock")))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("locking the cache")?;
    let built = cache.join(format!("{name}-{hash}{ending}"));
    if built.metadata().and_then(|found| found.modified()).is_ok_and(|at| at.elapsed().is_ok_and(|age| age < KEPT_FOR))
    {
        return Ok(built);
    }
    for entry in fs::read_dir(&cache)?.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(&format!("{name}-")) {
            remove(&entry.path())?;
        }
    }
    let unfinished = cache.join(format!("{name}-unfinished{ending}"));
    build(&unfinished).with_context(|| format!("building the image {name}"))?;
    fs::rename(&unfinished, &built)?;
    Ok(built)
}

/// Removes the cache.
///
/// # Errors
/// A file could not be removed, or there are files that no lab put there.
pub fn forget_all() -> Result<()> {
    let cache = cache();
    if !cache.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(&cache)? {
        let path = entry?.path();
        let ours = |ending: &std::ffi::OsStr| ending == "tar" || ending == "bin" || ending == "lock";
        if path.extension().is_some_and(ours) || path.join(MARK).exists() {
            remove(&path)?;
        }
    }
    fs::remove_dir(&cache).with_context(|| format!("removing {}", cache.display()))
}

/// An image that is a directory has this file in it, so that [`forget_all`] knows it.
pub const MARK: &str = ".upgradectl-lab";

fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    result.with_context(|| format!("removing {}", path.display()))
}

fn cache() -> PathBuf {
    std::env::var_os("UPGRADECTL_LAB_CACHE").map_or_else(|| DEFAULT_CACHE.into(), PathBuf::from)
}
