//! Guest images: a Debian root per directory of `integration/guests`, built once and kept as a tar file outside the
//! tree under the hash of all that made it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

use crate::command::run;

/// Where built images are kept if `UPGRADECTL_LAB_CACHE` does not say otherwise.
pub const DEFAULT_CACHE: &str = "/var/cache/upgradectl-lab";

/// Debian 12: what the labs upgrade from.
const SUITE: &str = "bookworm";

/// An image is built again after so long: an old one upgrades slower each week, as packages pile up at the mirror.
const KEPT_FOR: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

/// The tar file of an image, built now if the cache does not have it.
///
/// # Errors
/// mmdebstrap failed: no mirror, or a mistake in the image's directory.
pub fn tar(image: &str) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests").join(image);
    let cache = cache();
    fs::create_dir_all(&cache)?;
    // Two labs may come up at once: the second waits for the first's image.
    let lock = fs::File::create(cache.join(format!("{image}.lock")))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("locking the cache")?;
    let built = cache.join(format!("{image}-{}.tar", hash(&source)?));
    if built.metadata().and_then(|found| found.modified()).is_ok_and(|at| at.elapsed().is_ok_and(|age| age < KEPT_FOR))
    {
        return Ok(built);
    }
    for entry in fs::read_dir(&cache)?.filter_map(Result::ok) {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(&format!("{image}-")) {
            fs::remove_file(entry.path())?;
        }
    }
    eprintln!("lab: building the image {image}: a minute, once");
    let unfinished = cache.join(format!("{image}-unfinished.tar"));
    build(&source, &unfinished).with_context(|| format!("building the image {image}"))?;
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
        if path.extension().is_some_and(|extension| extension == "tar" || extension == "lock") {
            fs::remove_file(path)?;
        }
    }
    fs::remove_dir(&cache).with_context(|| format!("removing {}", cache.display()))
}

fn cache() -> PathBuf {
    std::env::var_os("UPGRADECTL_LAB_CACHE").map_or_else(|| DEFAULT_CACHE.into(), PathBuf::from)
}

fn build(source: &Path, tar: &Path) -> Result<()> {
    run("mmdebstrap")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(options(source)?)
        .arg(SUITE)
        .arg(tar)
        .output()
        .map(drop)
}

/// How mmdebstrap makes the image of a directory.
fn options(source: &Path) -> Result<Vec<String>> {
    let packages = packages(&fs::read_to_string(source.join("packages"))?);
    let mut options: Vec<String> =
        ["--quiet", "--variant=minbase", "--format=tar", "--skip=cleanup/reproducible"].map(str::to_owned).into();
    options.push(format!("--include={packages}"));
    if source.join("files").exists() {
        options.push(format!("--customize-hook=sync-in {} /", source.join("files").display()));
    }
    // An executable's path: mmdebstrap runs it with the root as its argument (mmdebstrap(1), HOOKS).
    options.push(format!("--customize-hook={}", source.join("setup").display()));
    Ok(options)
}

/// The names in a `packages` file, for `--include`.
fn packages(list: &str) -> String {
    let lines = list.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(",")
}

/// What the image depends on: names, modes and contents below its directory, the suite, and mmdebstrap's options.
fn hash(source: &Path) -> Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut digest = Sha256::new();
    digest.update(SUITE);
    // Where the checkout lies makes no difference: two of them share their images.
    for option in options(source)? {
        digest.update(option.replace(&source.display().to_string(), ""));
    }
    let mut todo = vec![source.to_owned()];
    while let Some(path) = todo.pop() {
        digest.update(path.strip_prefix(source)?.as_os_str().as_encoded_bytes());
        digest.update((fs::metadata(&path)?.permissions().mode() & 0o777).to_le_bytes());
        if path.is_dir() {
            let mut entries = fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
            entries.sort();
            todo.extend(entries);
        } else {
            let content = fs::read(&path)?;
            digest.update(content.len().to_le_bytes());
            digest.update(content);
        }
    }
    Ok(digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blank_lines_are_no_packages() {
        assert_eq!(packages("# all\nudev\n\ndbus # bus\n"), "udev,dbus");
    }

    #[test]
    fn any_change_makes_another_image() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("files")).unwrap();
        fs::write(place.path().join("packages"), "udev").unwrap();
        fs::write(place.path().join("files/motd"), "a").unwrap();
        let first = hash(place.path()).unwrap();
        assert_eq!(hash(place.path()).unwrap(), first);
        fs::write(place.path().join("files/motd"), "b").unwrap();
        assert_ne!(hash(place.path()).unwrap(), first);
        fs::write(place.path().join("files/motd"), "a").unwrap();
        fs::rename(place.path().join("files/motd"), place.path().join("files/issue")).unwrap();
        assert_ne!(hash(place.path()).unwrap(), first);
    }
}
