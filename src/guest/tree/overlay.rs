//! Edits on top of a tree, so that several rewriters can change one file and each sees what the ones before it did.
//!
//! Nothing is written here. Edits can be serialized: names and link targets are UTF-8.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{FileImage, Tree, relative, text_of, unfit};
use crate::guest::{FileEdit, GuestError};

/// A tree with edits on top of it, so that several rewriters can change one file.
#[derive(Debug)]
pub struct Overlay<'a> {
    tree: &'a Tree,
    edits: BTreeMap<PathBuf, FileEdit>,
}

impl<'a> Overlay<'a> {
    /// No edits yet.
    pub fn new(tree: &'a Tree) -> Self {
        Self { tree, edits: BTreeMap::new() }
    }

    /// The tree beneath, without the edits.
    pub fn tree(&self) -> &'a Tree {
        self.tree
    }

    /// The file as the edits leave it.
    pub fn image(&self, path: &Path) -> Result<Option<FileImage>, GuestError> {
        match self.edits.get(&relative(path)?) {
            Some(edit) => Ok(edit.after.clone()),
            None => self.tree.image(path),
        }
    }

    /// The text as the edits leave it, line ends untouched; see [`Tree::read_text`].
    pub fn text(&self, path: &Path) -> Result<Option<String>, GuestError> {
        self.image(path)?.map(|image| text_of(path, image)).transpose()
    }

    /// Sets a file's text. Mode, owner and extended attributes of an existing file stay; a new one is 0644 and the
    /// guest's root's.
    pub fn set_text(&mut self, path: &Path, text: String, why: impl Into<String>) -> Result<(), GuestError> {
        let image = match self.image(path)? {
            None => self.tree.new_file(text, 0o644),
            Some(FileImage::Regular { mode, uid, gid, xattrs, .. }) => {
                FileImage::Regular { bytes: text.into_bytes(), mode, uid, gid, xattrs }
            }
            Some(other) => {
                text_of(path, other)?;
                return Ok(());
            }
        };
        self.put(path, Some(image), why)
    }

    /// Sets what shall be at a path; `None` removes it. A second edit of one file joins the first.
    pub fn put(&mut self, path: &Path, after: Option<FileImage>, why: impl Into<String>) -> Result<(), GuestError> {
        let path = relative(path)?;
        let target = match &after {
            Some(FileImage::Symlink { target }) => target.as_path(),
            _ => Path::new(""),
        };
        if path.to_str().is_none() || target.to_str().is_none() {
            return Err(unfit(&path, "has a name that is not UTF-8", "rename it in the guest"));
        }
        let why = why.into();
        if let Some(edit) = self.edits.get_mut(&path) {
            if edit.after != after && !edit.why.contains(&why) {
                edit.why = format!("{}; {why}", edit.why);
            }
            edit.after = after;
        } else {
            let before = self.tree.image(&path)?;
            self.edits.insert(path.clone(), FileEdit { path, before, after, why });
        }
        Ok(())
    }

    /// Names in a directory as the edits leave it, sorted; none if it does not exist.
    pub fn list(&self, directory: &Path) -> Result<Vec<OsString>, GuestError> {
        let clean = relative(directory)?;
        let mut names = self.tree.list(&clean)?;
        for edit in self.edits.values().filter(|edit| edit.path.parent() == Some(&clean)) {
            let Some(name) = edit.path.file_name() else { continue };
            names.retain(|known| known != name);
            if edit.after.is_some() {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The edits so far, in path order; those that change nothing are left out.
    pub fn edits(&self) -> Vec<FileEdit> {
        self.edits.values().filter(|edit| edit.before != edit.after).cloned().collect()
    }

    /// The edits, in path order; those that change nothing are dropped.
    pub fn into_edits(self) -> Vec<FileEdit> {
        self.edits.into_values().filter(|edit| edit.before != edit.after).collect()
    }
}
