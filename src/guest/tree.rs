//! A guest's root directory, opened so that no path leads out of it (openat2 with RESOLVE_IN_ROOT), and the images
//! of files that are read from and written to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{FileEdit, GuestError};

/// A file as it is or shall be, metadata included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileImage {
    /// A regular file.
    Regular {
        /// Its bytes (base64 when serialized).
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Extended attributes (ACLs, capabilities, labels included).
        xattrs: BTreeMap<String, Vec<u8>>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as written.
        target: PathBuf,
    },
    /// A directory (its content is not part of the image).
    Directory {
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// A guest's root.
#[derive(Debug)]
pub struct Tree {
    root: std::os::fd::OwnedFd,
    path: PathBuf,
}

/// A tree with edits on top of it, so that several rewriters can change one file.
#[derive(Debug)]
pub struct Overlay<'a> {
    tree: &'a Tree,
    edits: BTreeMap<PathBuf, FileEdit>,
}

impl Tree {
    /// Opens a guest's root directory.
    pub fn open(path: &Path) -> Result<Self, GuestError> {
        let file =
            std::fs::File::open(path).map_err(|source| GuestError::Io { path: path.display().to_string(), source })?;
        Ok(Self { root: file.into(), path: path.to_owned() })
    }
    /// Where it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl<'a> Overlay<'a> {
    /// No edits yet.
    pub fn new(tree: &'a Tree) -> Self {
        Self { tree, edits: BTreeMap::new() }
    }
    /// The edits, in path order; those that change nothing are dropped.
    pub fn into_edits(self) -> Vec<FileEdit> {
        self.edits.into_values().filter(|edit| edit.before != edit.after).collect()
    }
}

pub(super) fn diff(_edit: &FileEdit) -> String {
    String::new()
}

pub(super) fn apply(_tree: &Tree, _edits: &[FileEdit]) -> Result<bool, GuestError> {
    Ok(false)
}
