//! A picture of the original: what must be there again, byte for byte, after `abort` or `rollback`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use integration::lab::Lab;

/// What the guest's own people look after; a guest that runs or boots writes elsewhere.
const KEPT: [&str; 4] = ["etc", "root", "home", "srv"];

/// The guest as its host has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    definition: String,
    autostart: bool,
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

/// One file: kind and permissions, owner, group, time, and content (a link's target, nothing for the rest).
type File = (u32, u32, u32, i64, Vec<u8>);

impl Picture {
    /// Takes one of a guest whose root is a directory of the host.
    pub fn of(lab: &Lab, guest: &str, root: &Path) -> Result<Picture> {
        let mut files = BTreeMap::new();
        let mut todo: Vec<PathBuf> = KEPT.iter().map(PathBuf::from).collect();
        while let Some(path) = todo.pop() {
            let there = root.join(&path);
            let meta = fs::symlink_metadata(&there).with_context(|| format!("looking at {}", there.display()))?;
            let content = if meta.is_symlink() {
                fs::read_link(&there)?.into_os_string().into_encoded_bytes()
            } else if meta.is_file() {
                fs::read(&there)?
            } else {
                Vec::new()
            };
            if meta.is_dir() {
                for entry in fs::read_dir(&there)? {
                    todo.push(path.join(entry?.file_name()));
                }
            }
            files.insert(path, (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), content));
        }
        let (definition, autostart) = (definition(lab, guest)?, autostart(lab, guest)?);
        Ok(Picture { definition, autostart, root: root.to_owned(), files })
    }

    /// Takes another one of the same guest, which must be equal.
    pub fn still(&self, lab: &Lab, guest: &str) -> Result<()> {
        let now = Picture::of(lab, guest, &self.root)?;
        ensure!(
            now.definition == self.definition,
            "the definition was\n{}\nand is\n{}",
            self.definition,
            now.definition
        );
        ensure!(now.autostart == self.autostart, "autostart is {}", now.autostart);
        let all = self.files.keys().chain(now.files.keys());
        let other: Vec<&PathBuf> = all.filter(|path| self.files.get(*path) != now.files.get(*path)).collect();
        ensure!(other.is_empty(), "not as before: {other:?}");
        Ok(())
    }
}

/// What libvirt would start, with everything.
pub fn definition(lab: &Lab, guest: &str) -> Result<String> {
    lab.virsh(["dumpxml", "--inactive", "--security-info", guest])
}

/// Whether it starts with its host.
pub fn autostart(lab: &Lab, guest: &str) -> Result<bool> {
    let info = lab.virsh(["dominfo", guest])?;
    let line = info.lines().find_map(|line| line.strip_prefix("Autostart:")).context("no autostart in dominfo")?;
    Ok(line.trim() == "enable")
}

/// Every subvolume of the lab's pool.
pub fn subvolumes(lab: &Lab) -> Result<Vec<String>> {
    let list = integration::command::run("btrfs").args(["subvolume", "list"]).arg(lab.path("pool")).output()?;
    let mut paths: Vec<String> =
        list.lines().filter_map(|line| Some(line.split_once(" path ")?.1.to_owned())).collect();
    paths.sort();
    Ok(paths)
}
