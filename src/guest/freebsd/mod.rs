//! A FreeBSD server's files become a jail's: what is the host's goes, what the server did stays. Requirements J2 and J3.
//!
//! Two layers, one after the other, on the same files:
//! * the *reduction*, which stays: rc.conf(5) without hardware and network, fstab(5), periodic and cron without what a jail has
//!   not ([`rc`], [`noise`]). Lines go by being commented out with [`COMMENT`]; of rc.conf and fstab the originals are kept
//!   beside, with [`ORIGINAL`] at the end of the name.
//! * the *identity*, which promotion takes back: the clone's address where the server's stood ([`listen`]), its name if it gets
//!   another, and the services in quarantine ([`quarantine`]).
//!
//! Everything is planned on the files of [`wanted`], brought by [`super::far::fetch`], and nothing is executed: what only
//! sh(1) can tell is left alone and told. Releases from 4.x on; what an old rc.conf has and nobody knows stays. A file in an
//! 8-bit encoding (a comment in Latin-1, on an old server) keeps its bytes.

mod listen;
mod noise;
mod quarantine;
mod rc;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::quarantine::Held;
use super::tree::{FileImage, Overlay};
use super::{AddressChange, COMMENT, CloneSpec, FileEdit, GuestError, Tree, hosts, sshd};

/// What the name of a kept original ends with.
pub const ORIGINAL: &str = ".upgradectl-server";

/// Most notes of one plan.
const MAX_NOTES: usize = 40;

/// What makes a server's tree a jail's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailSpec {
    /// What becomes of the server's addresses; the interfaces do not matter here.
    pub addresses: Vec<AddressChange>,
    /// Name of the clone, if it is not the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Services switched off in addition to the shipped list: names of rc.d scripts, or of rc.conf variables without `_enable`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<String>,
    /// resolv.conf(5) of the jail host, for a tree that has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolv_conf: Option<String>,
    /// The tree is a jail's already: only the identity is put on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_jail: bool,
}

/// What becomes of a server's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reduced {
    /// All changes, from the files as they are.
    pub edits: Vec<FileEdit>,
    /// The last layer of them, which promotion takes back: from the reduced files to the clone's.
    pub identity: Vec<FileEdit>,
    /// Services in quarantine, by the name of their variable without `_enable` (or of their script).
    pub held: Vec<Held>,
    /// What people should know: `etc/rc.conf:12: code is kept: a condition or a loop`.
    pub notes: Vec<String>,
}

/// What planning reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Files and directories.
    pub paths: Vec<PathBuf>,
    /// Directories of files that are read if they name an address.
    pub places: Vec<PathBuf>,
    /// The addresses.
    pub words: Vec<String>,
}

/// The files to bring for [`plan`].
pub fn wanted(spec: &JailSpec) -> Wanted {
    let paths = [
        "etc/rc.conf",
        "etc/rc.conf.local",
        "etc/rc.conf.d",
        "etc/defaults",
        "etc/fstab",
        "etc/resolv.conf",
        "etc/hosts",
        "etc/crontab",
        "etc/periodic.conf",
        "etc/newsyslog.conf",
        "etc/syslog.conf",
        "etc/localtime",
        "etc/mail/aliases",
        "etc/aliases",
        "etc/ssh/sshd_config",
        "etc/rc.d",
        "usr/local/etc/rc.d",
        "usr/local/etc/rc.conf.d",
    ];
    let kept = ["etc/rc.conf", "etc/rc.conf.local", "etc/fstab"].map(|path| PathBuf::from(format!("{path}{ORIGINAL}")));
    Wanted { paths: paths.into_iter().map(PathBuf::from).chain(kept).collect(), places: places(), words: words(spec) }
}

/// Where files that name the server's address are looked for: configuration, and the cage that bind of FreeBSD 5 to 9 is in.
pub fn places() -> Vec<PathBuf> {
    ["etc", "usr/local/etc", "var/cron/tabs", "var/named/etc/namedb"].map(PathBuf::from).to_vec()
}

/// The addresses that are not the clone's.
pub fn words(spec: &JailSpec) -> Vec<String> {
    spec.addresses.iter().map(|change| change.old.to_string()).collect()
}

/// Plans what becomes of the files. Planning again on the result gives nothing.
pub fn plan(tree: &Tree, spec: &JailSpec) -> Result<Reduced, GuestError> {
    let mut files = Files { edits: Overlay::new(tree), notes: Vec::new() };
    if !spec.is_jail {
        rc::reduce(&mut files)?;
        noise::reduce(&mut files, spec)?;
    }
    let reduction = files.edits.edits();
    listen::rewrite(&mut files, spec)?;
    let clone = CloneSpec { addresses: spec.addresses.clone(), ..CloneSpec::default() };
    files.softly(|edits| hosts::rewrite(edits, &clone))?;
    files.softly(|edits| sshd::rewrite(edits, &clone))?;
    if let Some(name) = &spec.hostname {
        rc::rename(&mut files, name)?;
    }
    let held = quarantine::rewrite(&mut files, spec)?;
    let edits = files.edits.into_edits();
    let identity = since(&reduction, &edits);
    let mut notes = files.notes;
    if notes.len() > MAX_NOTES {
        let more = notes.len() - MAX_NOTES;
        notes.truncate(MAX_NOTES);
        notes.push(format!("and {more} more"));
    }
    Ok(Reduced { edits, identity, held, notes })
}

/// The part of `all` that comes after `first` was done.
fn since(first: &[FileEdit], all: &[FileEdit]) -> Vec<FileEdit> {
    let first: BTreeMap<&Path, &FileEdit> = first.iter().map(|edit| (edit.path.as_path(), edit)).collect();
    let mut since: Vec<FileEdit> = Vec::new();
    for edit in all {
        let found = first.get(edit.path.as_path());
        let before = found.map_or(&edit.before, |first| &first.after).clone();
        let told = found.and_then(|first| edit.why.strip_prefix(&first.why));
        let why = told.map_or(edit.why.as_str(), |rest| rest.trim_start_matches("; ")).to_owned();
        if before != edit.after {
            since.push(FileEdit { before, why, ..edit.clone() });
        }
    }
    // What the reduction changed and the identity changed back is in no edit of all.
    let back = |edit: &&&FileEdit| !all.iter().any(|other| other.path == edit.path);
    since.extend(first.values().filter(back).map(|edit| FileEdit {
        before: edit.after.clone(),
        after: edit.before.clone(),
        ..(*edit).clone()
    }));
    since.sort_by(|a, b| a.path.cmp(&b.path));
    since
}

/// A tree that is edited, and what is told of it.
struct Files<'t> {
    edits: Overlay<'t>,
    notes: Vec<String>,
}

impl Files<'_> {
    fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if self.notes.len() < 10 * MAX_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Does what another planner does; a file that is not fit for it is told and left alone.
    fn softly(&mut self, plan: impl FnOnce(&mut Overlay<'_>) -> Result<(), GuestError>) -> Result<(), GuestError> {
        match plan(&mut self.edits) {
            Err(GuestError::Unfit { path, why, .. }) => {
                self.note(format!("{path}: {why}; it is left alone"));
                Ok(())
            }
            other => other,
        }
    }

    /// The text of a regular file, bytes that are not UTF-8 as the characters of Latin-1; something that is no regular file is
    /// told and left alone.
    fn text(&mut self, path: &Path) -> Result<Option<String>, GuestError> {
        match self.edits.image(path) {
            Ok(None) => Ok(None),
            Ok(Some(FileImage::Regular { bytes, .. })) => Ok(Some(decoded(bytes))),
            Ok(Some(_)) | Err(GuestError::Unfit { .. }) => {
                self.note(format!("{}: is not a regular file; it is left alone", path.display()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sets the text of a file, in the encoding that it has.
    fn set(&mut self, path: &Path, text: &str, why: impl Into<String>) -> Result<(), GuestError> {
        match self.edits.image(path)? {
            Some(FileImage::Regular { bytes, mode, uid, gid, xattrs }) if std::str::from_utf8(&bytes).is_err() => {
                // What was decoded from bytes has no character above; what is put in is ASCII.
                let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
                self.edits.put(path, Some(FileImage::Regular { bytes, mode, uid, gid, xattrs }), why)
            }
            _ => self.edits.set_text(path, text.to_owned(), why),
        }
    }

    /// Keeps a file as it is beside, unless one is kept already.
    fn keep_original(&mut self, path: &Path) -> Result<(), GuestError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(ORIGINAL);
        let beside = path.with_file_name(name);
        match (self.edits.image(path)?, self.edits.image(&beside)) {
            (Some(image), Ok(None)) => self.edits.put(&beside, Some(image), "the server's, kept"),
            _ => Ok(()),
        }
    }

    /// Names in a directory that is none by a link only.
    fn names(&self, directory: &str) -> Result<Vec<PathBuf>, GuestError> {
        let path = Path::new(directory);
        if !matches!(self.edits.image(path), Ok(Some(FileImage::Directory { .. }))) {
            return Ok(Vec::new());
        }
        Ok(self.edits.list(path)?.into_iter().map(|name| path.join(name)).collect())
    }
}

fn decoded(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect())
}

/// The text with a mark before every line that is to go; `None` if there is none.
fn without(text: &str, goes: impl Fn(&str) -> bool) -> Option<String> {
    let mut new = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let says = line.trim();
        if !says.is_empty() && !says.starts_with('#') && goes(says) {
            new.push_str(COMMENT);
        }
        new.push_str(line);
    }
    (new != text).then_some(new)
}

/// The text with lines at its end.
fn with_lines(text: &str, lines: &[String]) -> String {
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{gap}{}\n", lines.join("\n"))
}
