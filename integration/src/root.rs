//! Debian roots, made by mmdebstrap from a directory: `packages`, `files/` and `setup`, as `guests/README.md` explains.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Result;
use sha2::{Digest as _, Sha256};

use crate::command::run;

/// Debian 12: what the labs upgrade from.
const SUITE: &str = "bookworm";

/// What a root is made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A tar file.
    Tar,
    /// A directory.
    Directory,
}

impl Format {
    fn option(self) -> &'static str {
        match self {
            Format::Tar => "--format=tar",
            Format::Directory => "--format=directory",
        }
    }
}

/// Makes the root of a directory.
///
/// # Errors
/// mmdebstrap failed: no mirror, or a mistake in the directory.
pub fn build(source: &Path, format: Format, target: &Path) -> Result<()> {
    run("mmdebstrap")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(options(source, format)?)
        .arg(SUITE)
        .arg(target)
        .output()
        .map(drop)
}

/// How mmdebstrap makes the root of a directory.
fn options(source: &Path, format: Format) -> Result<Vec<String>> {
    let packages = packages(&fs::read_to_string(source.join("packages"))?);
    let mut options: Vec<String> =
        ["--quiet", "--variant=minbase", format.option(), "--skip=cleanup/reproducible"].map(str::to_owned).into();
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

/// What the root depends on: names, modes and contents below its directory, the suite, and mmdebstrap's options.
///
/// # Errors
/// The directory could not be read.
pub fn hash(source: &Path, format: Format) -> Result<String> {
    let mut digest = Sha256::new();
    digest.update(SUITE);
    for option in options(source, format)? {
        // The same wherever the tree is checked out.
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
        let first = hash(place.path(), Format::Tar).unwrap();
        assert_eq!(hash(place.path(), Format::Tar).unwrap(), first);
        fs::write(place.path().join("files/motd"), "b").unwrap();
        assert_ne!(hash(place.path(), Format::Tar).unwrap(), first);
        fs::write(place.path().join("files/motd"), "a").unwrap();
        fs::rename(place.path().join("files/motd"), place.path().join("files/issue")).unwrap();
        assert_ne!(hash(place.path(), Format::Tar).unwrap(), first);
    }
}
