//! Configuration files of a tree on another machine: brought here to be planned on ([`fetch`]), and edits put there ([`put`]).
//!
//! The tree is a stopped guest's, and hostile. Nothing of it is followed there but directories that are directories; what
//! comes is read by a strict reader ([`tar`]) and unpacked, beneath a private temporary directory that goes with the result,
//! with modes of our own: a file that is setuid there is not so here. Mode and owner are what the other machine said of it, so
//! that planning does not need root. Regular files up to [`super::tree::MAX_FILE`], links and directories come; what is none
//! of these is not there for planning, and putting something in its place is refused.
//!
//! Invariants of [`put`]: a file that is neither as found nor as planned stops everything before the first write, each file is
//! replaced in one step, what was put is read again and compared. Extended attributes and ACLs are not carried.

pub(crate) mod tar;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use hypervisors::host::{Command, printable_tail, shell_quote};
use hypervisors::{Cause, Error, Host};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use self::tar::{Entry, Kind};
use super::tree::{MAX_FILE, Recorded, shown, temporary, unfit};
use super::{FileEdit, FileImage, GuestError, Tree, diff};

/// Most that comes of one tree, in bytes (32 MiB).
const MOST: usize = 32 << 20;
/// How long packing or putting may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Failures of working on a tree of another machine.
#[derive(Debug, thiserror::Error)]
pub enum FarError {
    /// The machine could not be asked, or refused.
    #[error(transparent)]
    Platform(#[from] Error),
    /// A file of the tree is not as it has to be.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// Files of a tree of another machine.
#[derive(Debug)]
pub struct Fetched {
    /// The files, with the modes and owners they have there.
    pub tree: Tree,
    /// What was asked for and lies behind a link there: it was not looked at.
    pub behind_links: Vec<PathBuf>,
}

/// Everything that is asked for, of a tree on `host`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Files, and directories with all that is in them, relative to the root of the tree; what is not there is left out.
    pub paths: &'a [PathBuf],
    /// Below these also every file that has one of `words` in it.
    pub places: &'a [PathBuf],
    /// See `places`.
    pub words: &'a [String],
}

/// Brings files of a tree here.
pub async fn fetch(host: &dyn Host, root: &Path, wanted: Wanted<'_>) -> Result<Fetched, FarError> {
    let here = tempfile::Builder::new().prefix("upgradectl-").tempdir();
    let here = here.map_err(|error| Error::io("make a temporary directory", error))?;
    let mut unpack = Unpack::into(here.path())?;
    let mut behind_links = Vec::new();
    for (paths, words) in [(wanted.paths, &[][..]), (wanted.places, wanted.words)] {
        let asked: Vec<&str> = paths.iter().map(|path| plain(path)).collect::<Result<_, _>>()?;
        if asked.is_empty() || (std::ptr::eq(paths, wanted.places) && words.is_empty()) {
            continue;
        }
        let packed = pack(host, root, &asked, words).await?;
        behind_links.extend(packed.behind_links);
        let damaged = |why: String| Error::refused(format!("read what {} packed", host.name()), format!("it {why}"));
        let entries = tar::read(&packed.bytes).map_err(damaged)?;
        if entries.last().is_none_or(|last| !last.path.as_os_str().is_empty()) {
            return Err(damaged("is not complete".to_owned()).into());
        }
        for entry in &entries {
            unpack.entry(entry)?;
        }
    }
    let tree = Tree::open(here.path())?.recorded(unpack.recorded)?.keeping(here);
    behind_links.sort();
    behind_links.dedup();
    Ok(Fetched { tree, behind_links })
}

struct Packed {
    bytes: Vec<u8>,
    behind_links: Vec<PathBuf>,
}

async fn pack(host: &dyn Host, root: &Path, paths: &[&str], words: &[String]) -> Result<Packed, FarError> {
    let words = words.join("\n");
    let arguments: Vec<&str> = [text(root)?, &words].into_iter().chain(paths.iter().copied()).collect();
    let mut command = script("fetch", include_str!("far/fetch.sh"), &arguments).timeout(PATIENCE);
    command.limit = MOST;
    let doing = format!("pack files of {} on {}", root.display(), host.name());
    let output = host.run(&command).await?;
    if output.truncated {
        let why = format!("they are more than {} MiB", MOST >> 20);
        return Err(Error::refused(doing, why).help("look what makes the configuration so large").into());
    }
    let output = output.checked(doing, &command)?;
    let told = String::from_utf8_lossy(&output.stderr);
    let behind_links =
        told.lines().filter_map(|line| line.strip_prefix("behind a link: ")).map(PathBuf::from).collect();
    Ok(Packed { bytes: output.stdout, behind_links })
}

/// Unpacks archives beneath a directory that is ours.
struct Unpack {
    root: OwnedFd,
    recorded: HashMap<u64, Recorded>,
}

impl Unpack {
    fn into(directory: &Path) -> Result<Self, FarError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty()).map_err(|errno| failed(Path::new(""), errno))?;
        Ok(Self { root, recorded: HashMap::new() })
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), FarError> {
        let path = &entry.path;
        let wrong = |errno| FarError::from(failed(path, errno));
        let Some(name) = path.file_name() else {
            return self.record(&self.root.try_clone().map_err(|error| wrong(of(&error)))?, entry);
        };
        let parent = self.directory(path.parent().unwrap_or(Path::new("")))?;
        let bytes = match &entry.kind {
            Kind::Directory => {
                let directory = self.directory(path)?;
                return self.record(&directory, entry);
            }
            Kind::Link(target) => {
                return match rustix::fs::symlinkat(target, &parent, name) {
                    // It was asked for twice.
                    Ok(()) | Err(Errno::EXIST) => Ok(()),
                    Err(errno) => Err(wrong(errno)),
                };
            }
            Kind::File(bytes) => bytes.to_vec(),
            Kind::Same(other) => self.read(other)?,
        };
        if bytes.len() as u64 > MAX_FILE {
            return Err(unfit(path, "is larger than it was a moment ago", "try again").into());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            Err(Errno::EXIST) => return Ok(()),
            Err(errno) => return Err(wrong(errno)),
        };
        self.record(&file, entry)?;
        std::io::Write::write_all(&mut std::fs::File::from(file), &bytes).map_err(|error| wrong(of(&error)))
    }

    fn record(&mut self, file: &OwnedFd, entry: &Entry<'_>) -> Result<(), FarError> {
        let stat = rustix::fs::fstat(file).map_err(|errno| failed(&entry.path, errno))?;
        self.recorded.insert(stat.st_ino, Recorded { mode: entry.mode, uid: entry.uid, gid: entry.gid });
        Ok(())
    }

    /// A directory beneath, made if it is not there; no link leads to it.
    fn directory(&self, path: &Path) -> Result<OwnedFd, FarError> {
        let wrong = |errno| FarError::from(failed(path, errno));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = self.root.try_clone().map_err(|error| wrong(of(&error)))?;
        for name in path.iter() {
            at = match rustix::fs::openat(&at, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&at, name, Mode::RWXU).map_err(wrong)?;
                    rustix::fs::openat(&at, name, flags, Mode::empty()).map_err(wrong)?
                }
                other => other.map_err(wrong)?,
            };
        }
        Ok(at)
    }

    /// What a file that was unpacked has in it.
    fn read(&self, path: &Path) -> Result<Vec<u8>, FarError> {
        let wrong = |errno| FarError::from(failed(path, errno));
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve).map_err(wrong)?;
        let mut bytes = Vec::new();
        let read = std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes);
        read.map_err(|error| wrong(of(&error)))?;
        Ok(bytes)
    }
}

fn failed(path: &Path, errno: Errno) -> GuestError {
    GuestError::Io { path: shown(path), source: errno.into() }
}

fn of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Puts edits into a tree; returns whether anything was changed. A file that is neither `before` nor `after` stops everything
/// before the first write. Putting twice changes nothing, and putting reversed edits takes back what was put.
pub async fn put(host: &dyn Host, root: &Path, edits: &[FileEdit]) -> Result<bool, FarError> {
    let mut pending = left(host, root, edits).await?;
    if pending.is_empty() {
        return Ok(false);
    }
    // What comes to be in path order (directories before what is in them), then what goes, in reverse.
    pending.sort_by(|a, b| a.path.cmp(&b.path));
    let (mut going, coming): (Vec<&FileEdit>, Vec<&FileEdit>) =
        pending.into_iter().partition(|edit| edit.after.is_none());
    going.reverse();
    let mut arguments = vec![text(root)?.to_owned()];
    let mut archive = Vec::new();
    for edit in coming.into_iter().chain(going) {
        let path = plain(&edit.path)?;
        let name = edit.path.file_name().unwrap_or_default();
        let beside = edit.path.with_file_name(temporary(name));
        let word = match (&edit.before, &edit.after) {
            (_, None) => "gone",
            (_, Some(FileImage::Directory { .. })) => "dir",
            (None, _) => "new",
            _ => "file",
        };
        let temporary = if matches!(word, "new" | "file") { text(&beside)? } else { "" };
        arguments.extend([word, path, temporary].map(str::to_owned));
        let at = if word == "dir" { &edit.path } else { &beside };
        archive.extend(edit.after.as_ref().map(|image| packed(at, image)));
    }
    let command = script("put", include_str!("far/put.sh"), &arguments).timeout(PATIENCE).stdin(tar::write(&archive));
    let doing = format!("put {} files into {} on {}", edits.len(), root.display(), host.name());
    let output = host.run(&command).await?;
    if output.status == 65 {
        return Err(Error::new(doing, Cause::Refused(printable_tail(&output.stderr, 1))).into());
    }
    output.checked(doing.as_str(), &command)?;
    match left(host, root, edits).await?.first() {
        None => Ok(true),
        Some(edit) => Err(Error::refused(doing, format!("{} is still as it was", shown(&edit.path))).into()),
    }
}

/// Those of the edits that are not made yet; an error if a file is neither as found nor as planned.
pub async fn left<'e>(host: &dyn Host, root: &Path, edits: &'e [FileEdit]) -> Result<Vec<&'e FileEdit>, FarError> {
    let paths: Vec<PathBuf> = edits.iter().map(|edit| edit.path.clone()).collect();
    let there = fetch(host, root, Wanted { paths: &paths, ..Wanted::default() }).await?;
    if let Some(path) = there.behind_links.first() {
        return Err(unfit(path, "lies behind a link", "put directories in the place of the links in the guest").into());
    }
    let mut left = Vec::new();
    for edit in edits {
        let has_attributes =
            |image: &FileImage| matches!(image, FileImage::Regular { xattrs, .. } if !xattrs.is_empty());
        if edit.after.as_ref().is_some_and(has_attributes) {
            return Err(unfit(&edit.path, "has extended attributes", "they are not written on another machine").into());
        }
        let current = there.tree.image(&edit.path)?;
        if current == edit.after {
            continue;
        }
        if current != edit.before {
            let since = FileEdit { after: current, ..edit.clone() };
            return Err(GuestError::Changed { path: shown(&edit.path), diff: diff(&since) }.into());
        }
        left.push(edit);
    }
    Ok(left)
}

fn packed<'e>(at: &Path, image: &'e FileImage) -> Entry<'e> {
    let (mode, uid, gid, kind) = match image {
        FileImage::Regular { bytes, mode, uid, gid, .. } => (*mode, *uid, *gid, Kind::File(bytes)),
        FileImage::Symlink { target } => (0o777, 0, 0, Kind::Link(target.clone())),
        FileImage::Directory { mode, uid, gid } => (*mode, *uid, *gid, Kind::Directory),
    };
    Entry { path: at.to_owned(), mode, uid, gid, kind }
}

/// A script of several lines with its arguments, whatever those hold, as a command that a csh login shell (root's on FreeBSD
/// before 14) hands on unharmed: it takes a newline or `!` even in quotes for its own, and what is in a hostile name behind it
/// for a command. So nothing of that sort is in the words; printf(1) makes them of `\0ooo`.
pub(crate) fn script<S: AsRef<str>>(name: &str, script: &str, arguments: &[S]) -> Command {
    let whole = format!("set -- {}\n{script}", shell_quote(arguments));
    let mut encoded = String::with_capacity(whole.len() + whole.len() / 8);
    for c in whole.chars() {
        match c {
            '\\' => encoded.push_str("\\\\"),
            '\n' => encoded.push_str("\\n"),
            '!' | '\'' | '\0'..='\u{1f}' | '\u{7f}' => encoded.push_str(&format!("\\0{:03o}", u32::from(c))),
            c => encoded.push(c),
        }
    }
    Command::new(["sh", "-c", "eval \"$(printf %b \"$1\")\"", name, encoded.as_str()])
}

/// A path of a tree as an argument: beneath it, and UTF-8.
fn plain(path: &Path) -> Result<&str, GuestError> {
    let sound = path.components().all(|part| matches!(part, Component::Normal(_)));
    if path.as_os_str().is_empty() || !sound || path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(unfit(path, "is no path beneath the tree", "write it without .. and slashes at its ends"));
    }
    text(path)
}

fn text(path: &Path) -> Result<&str, GuestError> {
    path.to_str().ok_or_else(|| unfit(path, "has a name that is not UTF-8", "rename it"))
}
