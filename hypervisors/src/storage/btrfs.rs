//! btrfs subvolumes, with the subvolumes nested in them (`btrfs-subvolume(8)`). A snapshot holds an empty directory where a
//! nested subvolume was; each is replaced by a snapshot of its own.
//!
//! Names come from guests. The list of `btrfs subvolume list` is a text in which a name may hold newlines and so forge lines;
//! every path taken from it is therefore walked from the volume's top without following links and has to be the
//! subvolume of the listed id, or nothing is done.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;

use super::marked::{TreeKind, TreeStorage, free_and_used, is_subvolume};
use super::{VolumeFacts, VolumeKind};
use crate::host::Command;
use crate::{Cause, Error, Host, Result};

/// The driver for btrfs subvolumes.
pub type BtrfsStorage = TreeStorage<Btrfs>;

/// What a snapshot of one subvolume takes, at most, on a busy disk.
const SNAPSHOT_S: f64 = 0.5;

/// What a btrfs subvolume does in its own way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Btrfs;

/// A line of `btrfs subvolume list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    id: u64,
    parent: u64,
    /// Beneath the subvolume that was asked about: relative to it. Elsewhere: from the top of the file system.
    path: String,
}

/// Reads the list. A line that does not begin like an entry continues the name before it.
pub(crate) fn parse_list(text: &str) -> Option<Vec<Listed>> {
    let mut entries: Vec<Listed> = Vec::new();
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        match parse_line(line) {
            Some(entry) => entries.push(entry),
            None if line.is_empty() && entries.is_empty() => {}
            None => {
                let name = &mut entries.last_mut()?.path;
                name.push('\n');
                name.push_str(line);
            }
        }
    }
    Some(entries)
}

/// `ID 257 gen 7 top level 256 path a/b`.
fn parse_line(line: &str) -> Option<Listed> {
    let (id, rest) = line.strip_prefix("ID ")?.split_once(" gen ")?;
    let (generation, rest) = rest.split_once(" top level ")?;
    let (parent, path) = rest.split_once(" path ")?;
    generation.parse::<u64>().ok()?;
    Some(Listed { id: id.parse().ok()?, parent: parent.parse().ok()?, path: path.to_owned() })
}

/// Everything below the subvolume `root`, which the list was asked about, as (id, path relative to it), parents before
/// children.
pub(crate) fn descendants(list: &[Listed], root: u64) -> Option<Vec<(u64, String)>> {
    let mut found: Vec<(u64, String)> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for entry in list.iter().filter(|entry| entry.parent == parent && entry.id != root) {
            if found.iter().any(|(id, _)| *id == entry.id) {
                return None;
            }
            parents.push(entry.id);
            found.push((entry.id, entry.path.clone()));
        }
    }
    found.sort_by_key(|(_, path)| Path::new(path).components().count());
    Some(found)
}

/// The path of `relative` below `top`, if nothing on the way is a link; the last component need not exist.
fn beneath(top: &Path, relative: &Path) -> io::Result<PathBuf> {
    let mut path = top.to_owned();
    for part in relative.components() {
        let bad = || io::Error::other(format!("{} does not lead beneath it", relative.display()));
        let Component::Normal(name) = part else { return Err(bad()) };
        if !fs::symlink_metadata(&path)?.is_dir() {
            return Err(bad());
        }
        path.push(name);
    }
    match fs::symlink_metadata(&path) {
        Ok(facts) if !facts.is_dir() => Err(io::Error::other(format!("{} is not a directory", path.display()))),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(path),
    }
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other("a name is not UTF-8"))
}

async fn btrfs(host: &dyn Host, doing: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(["btrfs"].iter().chain(arguments).copied());
    command.limit = 64 << 20;
    let output = host.run(&command).await?.checked(doing, &command)?;
    let malformed = |what: &str| Error::new(doing, Cause::Malformed(format!("btrfs printed {what}")));
    if output.truncated {
        return Err(malformed("too much"));
    }
    String::from_utf8(output.stdout)
        .map_err(|_| malformed("a subvolume name that is not UTF-8").help("rename or remove that subvolume"))
}

/// Subvolumes nested in `path`, relative to it, parents before children, each proven to be there.
async fn nested(host: &dyn Host, doing: &str, path: &str) -> Result<Vec<String>> {
    let id = async |path: &str| {
        let printed = btrfs(host, doing, &["inspect-internal", "rootid", path]).await?;
        let malformed = || Error::new(doing, Cause::Malformed("btrfs printed no subvolume id".into()));
        printed.trim().parse::<u64>().map_err(|_| malformed())
    };
    let list = btrfs(host, doing, &["subvolume", "list", path]).await?;
    let root = id(path).await?;
    let found = parse_list(&list).and_then(|list| descendants(&list, root)).ok_or_else(|| {
        Error::new(doing, Cause::Malformed("the list of nested subvolumes contradicts itself".into()))
    })?;
    let mut relative = Vec::new();
    for (listed, name) in found {
        let wrong = || {
            let shown = crate::host::printable(&name);
            Error::refused(doing, format!("subvolume {listed} is not found at {shown} in it"))
                .help("rename the subvolume, or remove it if it is not needed")
        };
        let place = beneath(Path::new(path), Path::new(&name)).map_err(|_| wrong())?;
        if !is_subvolume(&place).unwrap_or(false) || id(text(&place).map_err(|_| wrong())?).await? != listed {
            return Err(wrong());
        }
        relative.push(name);
    }
    Ok(relative)
}

async fn readonly(host: &dyn Host, doing: &str, path: &str) -> Result<bool> {
    Ok(btrfs(host, doing, &["property", "get", "-ts", path, "ro"]).await?.trim() == "ro=true")
}

#[async_trait]
impl TreeKind for Btrfs {
    const KIND: VolumeKind = VolumeKind::Btrfs;

    async fn look(&self, host: &dyn Host, path: &str) -> Result<VolumeFacts> {
        let doing = format!("inspect {path}");
        let nested = nested(host, &doing, path).await?;
        let (free_bytes, _) = free_and_used(Path::new(path)).map_err(|error| Error::io(&doing, error))?;
        let count = f64::from(u32::try_from(nested.len()).unwrap_or(u32::MAX)) + 1.0;
        Ok(VolumeFacts {
            used_bytes: None,
            free_bytes,
            snapshot_bytes: 0,
            pause_s: SNAPSHOT_S * count,
            nested: nested.into_iter().map(PathBuf::from).collect(),
            fill_percent: None,
            mark: None,
            block: None,
        })
    }

    async fn copy(&self, host: &dyn Host, from: &str, to: &str) -> Result<()> {
        let doing = format!("snapshot {from} to {to}");
        let nested = nested(host, &doing, from).await?;
        btrfs(host, &doing, &["subvolume", "snapshot", from, to]).await?;
        let mut frozen = Vec::new();
        for name in &nested {
            let wrong = |error| Error::io(&doing, error);
            let source = beneath(Path::new(from), Path::new(name)).map_err(wrong)?;
            let stub = beneath(Path::new(to), Path::new(name)).map_err(wrong)?;
            match fs::remove_dir(&stub) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
                _ => {}
            }
            let (source, stub) = (text(&source).map_err(wrong)?, text(&stub).map_err(wrong)?);
            btrfs(host, &doing, &["subvolume", "snapshot", source, stub]).await?;
            if readonly(host, &doing, source).await? {
                frozen.push(stub.to_owned());
            }
        }
        // Last, and children first: nothing could be put into a read-only one.
        for path in frozen.iter().rev() {
            btrfs(host, &doing, &["property", "set", "-ts", path, "ro", "true"]).await?;
        }
        Ok(())
    }

    async fn empty(&self, host: &dyn Host, path: &str) -> Result<()> {
        btrfs(host, &format!("make {path}"), &["subvolume", "create", path]).await.map(drop)
    }

    async fn delete(&self, host: &dyn Host, path: &str) -> Result<()> {
        let doing = format!("remove {path}");
        let mut all = vec![path.to_owned()];
        all.extend(nested(host, &doing, path).await?.into_iter().map(|name| format!("{path}/{name}")));
        // What is read-only keeps its children; parents first here, children first there.
        for path in &all {
            if readonly(host, &doing, path).await? {
                btrfs(host, &doing, &["property", "set", "-f", "-ts", path, "ro", "false"]).await?;
            }
        }
        for path in all.iter().rev() {
            btrfs(host, &doing, &["subvolume", "delete", path]).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Printed by `btrfs subvolume list MOUNT/o` of btrfs-progs 6.2 (Debian 12): nested ones relative to `o`, one with a newline
    /// in its name; another volume and its nested one from the top.
    const LIST: &str = "ID 256 gen 7 top level 5 path o\nID 257 gen 7 top level 256 path var/lib/machines\n\
                        ID 258 gen 7 top level 257 path var/lib/machines/deep\nID 260 gen 7 top level 256 path new\n\
                        line\nID 261 gen 9 top level 5 path s\nID 262 gen 9 top level 261 path s/x\n";

    #[test]
    fn nested_subvolumes_are_found_by_their_parents() {
        let list = parse_list(LIST).unwrap();
        let expected = [(260, "new\nline"), (257, "var/lib/machines"), (258, "var/lib/machines/deep")];
        assert_eq!(descendants(&list, 256).unwrap(), expected.map(|(id, path)| (id, path.to_owned())));
        assert_eq!(descendants(&list, 258).unwrap(), []);
        assert_eq!(descendants(&list, 5).unwrap().len(), 6);
        assert_eq!(parse_list("").unwrap(), []);
    }

    #[test]
    fn forged_lists_are_refused() {
        assert!(parse_list("rubbish\n").is_none());
        let cycle =
            "ID 300 gen 1 top level 301 path x\nID 301 gen 1 top level 300 path y\nID 300 gen 1 top level 256 path z\n";
        assert!(descendants(&parse_list(cycle).unwrap(), 256).is_none());
    }

    #[test]
    fn links_and_dots_lead_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("real")).unwrap();
        std::os::unix::fs::symlink("/etc", directory.path().join("link")).unwrap();
        for bad in ["../x", "/etc", "link/x", "link", "real/../link"] {
            assert!(beneath(directory.path(), Path::new(bad)).is_err(), "{bad}");
        }
        assert!(beneath(directory.path(), Path::new("real/new")).is_ok());
    }
}
