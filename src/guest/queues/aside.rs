//! Setting queues aside, and putting them back.
//!
//! Each queue directory is renamed to `var/lib/upgradectl/aside/RUN/PATH` (on another file system: to
//! `.upgradectl-aside/RUN/PATH` at its top), and an empty one of the same mode, owner and attributes, with the same empty
//! directories one level below, takes its place. Per directory:
//!
//! ```text
//!  PATH          : queue ──┬──▶ (gone) ──▶ empty one
//!  aside/PATH    : –       └──▶ queue
//!  aside/PATH~new: empty one ────────────▶ –
//! ```
//!
//! Which directories, and where to, is written to `var/lib/upgradectl/aside/RUN.list` before the first rename;
//! `RUN.done` after the last. So every cut leaves a state that both ways can start from. The list lies in a guest that ran
//! in between: what it says is only ever used beneath the root.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, RenameFlags, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::found;
use crate::guest::beneath::{self, Beneath, MAX_DEPTH, io};
use crate::guest::tree::unfit;
use crate::guest::{FileEdit, GuestError, Tree};

const OURS: &str = "var/lib/upgradectl";
const ASIDE: &str = "var/lib/upgradectl/aside";
const ELSEWHERE: &str = ".upgradectl-aside";
/// Most directories at the top of a queue that are made again in the empty one.
const TOP: usize = 4_096;

/// How a guest's queues stand, by looking at its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// Nothing is set aside.
    Absent,
    /// Begun, one way or the other, and not finished.
    Partial,
    /// All that was found is set aside.
    Present,
}

/// Where one directory goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Move {
    path: PathBuf,
    aside: PathBuf,
}

impl Move {
    /// Paths beside `aside` for what is being made, and for what is being given up.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = OsString::from(self.aside.as_os_str());
        path.push(suffix);
        path.into()
    }
}

/// Sets every known queue aside. Returns whether anything was changed.
pub fn set_aside(tree: &Tree, run: &str) -> Result<bool, GuestError> {
    if is_set_aside(tree, run)? == Aside::Present {
        return Ok(false);
    }
    let root = Beneath::of(tree);
    let moves = match listed(tree, run)? {
        Some(moves) => moves,
        None => {
            let mut moves = Vec::new();
            for path in found(tree)?.into_iter().flat_map(|queue| queue.directories) {
                let aside = base(tree, &path)?.join(run).join(&path);
                moves.push(Move { path, aside });
            }
            root.make(Path::new(ASIDE), tree.owner())?;
            let text = serde_json::to_vec(&moves).map_err(|error| unfit(&list(run), error.to_string(), "rename it"))?;
            record(tree, &list(run), &text)?;
            moves
        }
    };
    for one in &moves {
        move_away(root, one, tree.owner())?;
    }
    record(tree, &done(run), b"")?;
    Ok(true)
}

/// Puts everything back as it was; what came into the empty queues meanwhile is dropped. Returns whether anything was changed.
pub fn put_back(tree: &Tree, run: &str) -> Result<bool, GuestError> {
    let Some(moves) = listed(tree, run)? else { return Ok(false) };
    let root = Beneath::of(tree);
    unrecord(tree, &done(run))?;
    for one in &moves {
        move_back(root, one)?;
    }
    tidy(tree, root, run, &moves)?;
    Ok(true)
}

/// Removes what was set aside for good: at promotion, when the queues are the original's. Returns whether anything was there.
pub fn discard(tree: &Tree, run: &str) -> Result<bool, GuestError> {
    let Some(moves) = listed(tree, run)? else { return Ok(false) };
    let root = Beneath::of(tree);
    for one in &moves {
        for path in [one.aside.clone(), one.beside("~new"), one.beside("~old")] {
            remove(root, &path)?;
        }
    }
    tidy(tree, root, run, &moves)?;
    Ok(true)
}

/// Absolute paths in the guest of what a run has set aside there: its list, and the rest.
pub fn aside_of(run: &str) -> [String; 4] {
    let path = |end: &str| format!("/{ASIDE}/{run}{end}");
    [path(".list"), path(""), path(".done"), format!("/{ELSEWHERE}/{run}")]
}

/// Looks how the queues stand.
pub fn is_set_aside(tree: &Tree, run: &str) -> Result<Aside, GuestError> {
    Ok(match (tree.exists(&list(run))?, tree.exists(&done(run))?) {
        (true, true) => Aside::Present,
        (true, false) => Aside::Partial,
        (false, _) => Aside::Absent,
    })
}

fn move_away(root: Beneath<'_>, one: &Move, owner: (u32, u32)) -> Result<(), GuestError> {
    let failed = |errno| io(&one.path, errno);
    let Some((parent, name)) = root.parent(&one.path)? else { return Ok(()) };
    let aside_parent = root.make(one.aside.parent().unwrap_or(Path::new("")), owner)?;
    let (Some(aside), fresh) = (one.aside.file_name(), one.beside("~new")) else { return Ok(()) };
    let Some(fresh) = fresh.file_name() else { return Ok(()) };
    let is_aside = beneath::stat(&aside_parent, aside).map_err(failed)?.is_some();
    let is_here = beneath::stat(&parent, &name).map_err(failed)?.is_some();
    match (is_aside, is_here) {
        (true, true) | (false, false) => return Ok(()),
        (false, true) => {
            empty_like(&parent, &name, &aside_parent, fresh).map_err(failed)?;
            rename(&parent, &name, &aside_parent, aside).map_err(failed)?;
        }
        // Cut between the two renames, here or on the way back: the empty one may have to be made again.
        (true, false) => empty_like(&aside_parent, aside, &aside_parent, fresh).map_err(failed)?,
    }
    rename(&aside_parent, fresh, &parent, &name).map_err(failed)
}

fn move_back(root: Beneath<'_>, one: &Move) -> Result<(), GuestError> {
    let failed = |errno| io(&one.path, errno);
    let Some((aside_parent, aside)) = root.parent(&one.aside)? else { return Ok(()) };
    if beneath::stat(&aside_parent, &aside).map_err(failed)?.is_some() {
        let Some((parent, name)) = root.parent(&one.path)? else {
            return Err(unfit(&one.path, "has no directory to be put back in", "create the directory in the guest"));
        };
        if beneath::stat(&parent, &name).map_err(failed)?.is_some() {
            let (Some((_, old)), path) = (root.parent(&one.beside("~old"))?, one.beside("~old")) else { return Ok(()) };
            remove(root, &path)?;
            rename(&parent, &name, &aside_parent, &old).map_err(failed)?;
        }
        rename(&aside_parent, &aside, &parent, &name).map_err(failed)?;
    }
    remove(root, &one.beside("~new"))?;
    remove(root, &one.beside("~old"))
}

/// Renames onto nothing.
fn rename(from: &OwnedFd, name: &OsStr, to: &OwnedFd, new: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // Older file systems do not know the flag; that nothing is there was looked at before.
        Err(Errno::INVAL) => rustix::fs::renameat(from, name, to, new)?,
        other => other?,
    }
    rustix::fs::fsync(to)?;
    rustix::fs::fsync(from)
}

/// Makes an empty directory like another one, with the directories at its top, whatever a cut left of it.
fn empty_like(from: &OwnedFd, name: &OsStr, to: &OwnedFd, new: &OsStr) -> rustix::io::Result<()> {
    beneath::remove(to, new, MAX_DEPTH)?;
    let model = beneath::child(from, name)?;
    let empty = directory_like(&model, to, new)?;
    for name in beneath::names(&model, TOP)? {
        if beneath::stat(&model, &name)?.is_some_and(|stat| beneath::is_directory(&stat)) {
            directory_like(&beneath::child(&model, &name)?, &empty, &name)?;
        }
    }
    rustix::fs::fsync(&empty)
}

/// Makes a directory with mode, owner and extended attributes of another.
pub(super) fn directory_like(model: &OwnedFd, to: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::mkdirat(to, name, Mode::RWXU) {
        Err(Errno::EXIST) => {}
        other => other?,
    }
    let directory = beneath::child(to, name)?;
    same_metadata(model, &directory)?;
    Ok(directory)
}

/// Gives an open file or directory owner, extended attributes and mode of another.
pub(super) fn same_metadata(model: &OwnedFd, file: &OwnedFd) -> rustix::io::Result<()> {
    let (wanted, stat) = (rustix::fs::fstat(model)?, rustix::fs::fstat(file)?);
    if (wanted.st_uid, wanted.st_gid) != (stat.st_uid, stat.st_gid) {
        rustix::fs::fchown(file, Some(Uid::from_raw(wanted.st_uid)), Some(Gid::from_raw(wanted.st_gid)))?;
    }
    let wanted_names = attribute_names(model)?;
    for name in attribute_names(file)?.iter().filter(|name| !wanted_names.contains(name)) {
        rustix::fs::fremovexattr(file, name.as_slice())?;
    }
    let mut value = vec![0; 65_536];
    for name in &wanted_names {
        let length = rustix::fs::fgetxattr(model, name.as_slice(), &mut value[..])?;
        rustix::fs::fsetxattr(file, name.as_slice(), &value[..length], XattrFlags::empty())?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(wanted.st_mode & 0o7777))
}

fn attribute_names(file: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = vec![0; 65_536];
    let length = match rustix::fs::flistxattr(file, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    Ok(names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Directory below which a queue can be moved by a rename: ours, or the top of the file system it lies on.
fn base(tree: &Tree, path: &Path) -> Result<PathBuf, GuestError> {
    let device = |path: &Path| Ok::<_, GuestError>(tree.metadata(path)?.map(|stat| stat.st_dev));
    let own = device(path)?;
    let mut top = path;
    for above in path.ancestors().skip(1) {
        if device(above)? != own {
            break;
        }
        top = above;
    }
    if top == path {
        return Err(unfit(
            path,
            "is a mount point of its own and cannot be set aside",
            "clone it as a detached volume",
        ));
    }
    let ours = [OURS, "var/lib", "var", ""].into_iter().map(|ours| device(Path::new(ours)));
    let ours = ours.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().next();
    Ok(if ours == own { PathBuf::from(ASIDE) } else { top.join(ELSEWHERE) })
}

fn list(run: &str) -> PathBuf {
    Path::new(ASIDE).join(format!("{run}.list"))
}

fn done(run: &str) -> PathBuf {
    Path::new(ASIDE).join(format!("{run}.done"))
}

fn listed(tree: &Tree, run: &str) -> Result<Option<Vec<Move>>, GuestError> {
    let path = list(run);
    let Some(text) = tree.read_text(&path)? else { return Ok(None) };
    let syntax = |line, why| GuestError::Syntax { path: crate::guest::tree::shown(&path), line, why };
    let moves: Vec<Move> = serde_json::from_str(&text).map_err(|error| syntax(error.line(), error.to_string()))?;
    let ours = |one: &Move| {
        [ASIDE, ELSEWHERE].iter().any(|place| one.aside.ends_with(Path::new(place).join(run).join(&one.path)))
    };
    match moves.iter().find(|one| !ours(one)) {
        Some(one) => Err(syntax(1, format!("{} is no place upgradectl sets queues aside in", one.aside.display()))),
        None => Ok(Some(moves)),
    }
}

fn record(tree: &Tree, path: &Path, bytes: &[u8]) -> Result<(), GuestError> {
    let after = Some(tree.new_file(bytes, 0o600));
    let edit = FileEdit { path: path.to_owned(), before: tree.image(path)?, after, why: String::new() };
    crate::guest::apply(tree, &[edit]).map(|_| ())
}

fn unrecord(tree: &Tree, path: &Path) -> Result<(), GuestError> {
    let edit = FileEdit { path: path.to_owned(), before: tree.image(path)?, after: None, why: String::new() };
    crate::guest::apply(tree, &[edit]).map(|_| ())
}

fn remove(root: Beneath<'_>, path: &Path) -> Result<(), GuestError> {
    match root.parent(path)? {
        Some((parent, name)) => beneath::remove(&parent, &name, MAX_DEPTH).map_err(|errno| io(path, errno)),
        None => Ok(()),
    }
}

/// Removes the records and the directories that are empty now, the list last but one: while it is there, all can be repeated.
fn tidy(tree: &Tree, root: Beneath<'_>, run: &str, moves: &[Move]) -> Result<(), GuestError> {
    for one in moves {
        let ends = one.aside.ancestors().find(|above| above.ends_with(run)).and_then(Path::parent);
        for above in one.aside.ancestors().skip(1).take_while(|above| Some(*above) != ends) {
            remove_empty(root, above)?;
        }
        if ends != Some(Path::new(ASIDE)) {
            remove_empty(root, ends.unwrap_or(Path::new(ASIDE)))?;
        }
    }
    unrecord(tree, &done(run))?;
    unrecord(tree, &list(run))?;
    remove_empty(root, Path::new(ASIDE))?;
    remove_empty(root, Path::new(OURS))
}

fn remove_empty(root: Beneath<'_>, path: &Path) -> Result<(), GuestError> {
    let Some((parent, name)) = root.parent(path)? else { return Ok(()) };
    match rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR | Errno::BUSY) => Ok(()),
        Err(errno) => Err(io(path, errno)),
    }
}
