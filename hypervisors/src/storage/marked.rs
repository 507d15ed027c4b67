//! What all volumes that are directory trees have in common: marks, the intent beside a target, and the order of writes
//! by which a crash leaves nothing that is mistaken for something else. What a kind does in its own way is [`TreeKind`].
//!
//! The mark is the xattr `trusted.upgradectl.run` on the tree's top directory (`RUNID.ROLE`). A copy inherits the mark of its
//! source, and a guest can write xattrs on its own root, so that a half-made target cannot be told by what is inside it.
//! Therefore the intent lies beside it, where only the host writes: `.NAME.upgradectl`, holding the mark to be.
//!
//! Order in a snapshot: intent (durable) → copy → inherited mark off → contents durable → mark on → intent off.
//! A tree that is filled from elsewhere goes the same way: intent → empty tree ([`Storage::make`]) → its content, whoever brings it
//! → the rest ([`Storage::whole`]).
//! Whatever has an intent beside it is partial, marked or not: nobody relies on it yet, so it may be removed and made again.
//! Removal takes the tree's top directory last, and the intent after it, so that it can be repeated until it is done.
//!
//! All this reads and writes directories of this machine; on another host it is unsupported.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::{Access, Mark, Opened, Snapshot, Storage, VolumeFacts, VolumeKind, VolumeRef};
use crate::host::{blocking, replace};
use crate::{Cause, Change, Error, Host, Result};

/// The xattr that holds a mark.
const MARK: &CStr = c"trusted.upgradectl.run";
/// End of the name of an intent.
const INTENT: &str = ".upgradectl";
/// Marks are short; more is not ours.
const MARK_MOST: usize = 256;
/// `BTRFS_SUPER_MAGIC` (`statfs(2)`).
const BTRFS_MAGIC: u64 = 0x9123_683e;
/// The inode number of every subvolume's top directory (`btrfs-subvolume(8)`).
const SUBVOLUME_INODE: u64 = 256;

/// What one kind of tree does in its own way. Paths are absolute, in UTF-8 and without `..`.
#[async_trait]
pub trait TreeKind: Send + Sync + fmt::Debug + Default {
    /// The kind.
    const KIND: VolumeKind;
    /// Everything but the mark.
    async fn look(&self, host: &dyn Host, path: &str) -> Result<VolumeFacts>;
    /// Makes an empty tree, which does not exist.
    async fn empty(&self, host: &dyn Host, path: &str) -> Result<()>;
    /// Copies `from` to `to`, which does not exist.
    async fn copy(&self, host: &dyn Host, from: &str, to: &str) -> Result<()>;
    /// Removes a tree, its top directory last.
    async fn delete(&self, host: &dyn Host, path: &str) -> Result<()>;
}

/// The driver for one kind of tree on this machine.
#[derive(Clone, Debug)]
pub struct TreeStorage<K> {
    host: Arc<dyn Host>,
    tree: K,
}

impl<K: TreeKind> TreeStorage<K> {
    /// A driver whose commands run on `host`.
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self { host, tree: K::default() }
    }

    /// The volume's path, if this driver may work on it.
    fn path<'a>(&self, doing: &str, volume: &'a VolumeRef) -> Result<&'a str> {
        self.local(doing)?;
        let fits = volume.path.is_absolute()
            && volume.path.file_name().is_some()
            && volume.path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        match volume.path.to_str() {
            Some(text) if fits && volume.kind == K::KIND && !text.contains('\0') => Ok(text),
            _ => Err(Error::refused(doing, format!("{:?} is not the path of a {:?} volume", volume.path, K::KIND))),
        }
    }

    fn local(&self, doing: &str) -> Result<()> {
        if self.host.is_local() {
            return Ok(());
        }
        let why = format!("the directories of {} cannot be worked on from here", self.host.name());
        Err(Error::new(doing, Cause::Unsupported(why)).help(format!("run upgradectl on {}", self.host.name())))
    }
}

/// What is found at and beside a path.
#[derive(Clone, Debug)]
struct Seen {
    /// Kind of what is there; `None` if nothing is.
    there: Option<There>,
    /// Text of the mark.
    mark: Option<String>,
    /// The mark in the intent.
    intent: Option<Mark>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    Tree,
    Other,
}

impl Seen {
    fn at(path: &Path, kind: VolumeKind) -> io::Result<Self> {
        let there = match fs::symlink_metadata(path) {
            Ok(facts) if facts.is_dir() && (kind != VolumeKind::Btrfs || is_subvolume(path)?) => Some(There::Tree),
            Ok(_) => Some(There::Other),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            Err(error) => return Err(error),
        };
        let mark = if there == Some(There::Tree) { get_mark(path)? } else { None };
        let intent = match fs::read(intent_path(path)) {
            Ok(bytes) => Some(parse_intent(&bytes)?),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { there, mark, intent })
    }

    fn stands(&self, run: &str) -> Snapshot {
        let foreign = |what: String| Snapshot::Foreign(crate::host::printable(&what));
        match (&self.intent, self.there) {
            (Some(intent), _) if intent.run != run => foreign(format!("run {} is making something there", intent.run)),
            (_, Some(There::Other)) => foreign("something else is there".into()),
            (Some(_), _) => Snapshot::Partial,
            (None, None) => Snapshot::Absent,
            (None, Some(There::Tree)) => match &self.mark {
                Some(mark) if parsed(mark).is_some_and(|mark| mark.run == run) => Snapshot::Present,
                Some(mark) => foreign(format!("it is marked {mark}")),
                None => foreign("it bears no mark".into()),
            },
        }
    }
}

fn parsed(mark: &str) -> Option<Mark> {
    mark.parse().ok()
}

fn parse_intent(bytes: &[u8]) -> io::Result<Mark> {
    let text = std::str::from_utf8(bytes).ok().and_then(|text| text.trim_end().parse().ok());
    text.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the intent beside it cannot be read"))
}

/// `.NAME.upgradectl` beside `NAME`.
fn intent_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(INTENT);
    path.with_file_name(name)
}

/// What kind of volume a directory is, by looking: a btrfs subvolume, else a plain directory.
pub fn detect(path: &Path) -> Result<VolumeKind> {
    let doing = || format!("look at {}", path.display());
    let facts = fs::symlink_metadata(path).map_err(|error| Error::io(doing(), error))?;
    if !facts.is_dir() {
        return Err(Error::refused(doing(), "it is not a directory"));
    }
    let subvolume = is_subvolume(path).map_err(|error| Error::io(doing(), error))?;
    Ok(if subvolume { VolumeKind::Btrfs } else { VolumeKind::Directory })
}

/// The kind of volume that a new tree in a directory becomes: a subvolume where there can be one, else a plain directory.
pub fn fresh(directory: &Path) -> Result<VolumeKind> {
    let btrfs = on_btrfs(directory).map_err(|error| Error::io(format!("look at {}", directory.display()), error))?;
    Ok(if btrfs { VolumeKind::Btrfs } else { VolumeKind::Directory })
}

pub(super) fn on_btrfs(path: &Path) -> io::Result<bool> {
    let facts = nix::sys::statfs::statfs(path)?;
    // The type's width differs between platforms, the number does not.
    Ok(u64::try_from(facts.filesystem_type().0).is_ok_and(|magic| magic == BTRFS_MAGIC))
}

pub(super) fn is_subvolume(path: &Path) -> io::Result<bool> {
    Ok(fs::symlink_metadata(path)?.ino() == SUBVOLUME_INODE && on_btrfs(path)?)
}

/// Bytes that can still be written where `path` lies, and bytes in use there.
pub(super) fn free_and_used(path: &Path) -> io::Result<(u64, u64)> {
    let facts = nix::sys::statvfs::statvfs(path)?;
    let unit = facts.fragment_size();
    Ok((facts.blocks_available() * unit, facts.blocks().saturating_sub(facts.blocks_free()) * unit))
}

/// Whether something is mounted on (`itself`) or beneath a directory, by `/proc/self/mountinfo` (`proc(5)`): its mount point.
pub(super) fn mounted_beneath(path: &Path, itself: bool) -> io::Result<Option<PathBuf>> {
    let real = fs::canonicalize(path)?;
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(mount_points(&table).find(|point| point.starts_with(&real) && (itself || *point != real)))
}

fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(|field| {
        let mut bytes = Vec::new();
        let mut rest = field;
        // Blank, tab, newline and backslash are written as \ooo.
        while let [first, tail @ ..] = rest {
            let octal = match tail {
                [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                    Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
                }
                _ => None,
            };
            bytes.push(octal.unwrap_or(*first));
            rest = if octal.is_some() { &tail[3..] } else { tail };
        }
        PathBuf::from(OsString::from_vec(bytes))
    })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn get_mark(path: &Path) -> io::Result<Option<String>> {
    let (path, mut buffer) = (c_path(path)?, vec![0_u8; MARK_MOST]);
    // SAFETY: both strings end in NUL, the buffer is valid for its length.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), MARK.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if let Ok(length) = usize::try_from(length) {
        buffer.truncate(length);
        return Ok(Some(String::from_utf8_lossy(&buffer).into_owned()));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENODATA | libc::EOPNOTSUPP) => Ok(None),
        // Longer than any mark of ours: a mark, and not ours.
        Some(libc::ERANGE) => Ok(Some("something too long".into())),
        _ => Err(error),
    }
}

fn set_mark(path: &Path, mark: Option<&Mark>) -> io::Result<()> {
    let path = c_path(path)?;
    let result = match mark.map(Mark::to_string) {
        // SAFETY: both strings end in NUL, the value is valid for its length.
        Some(value) => unsafe { libc::lsetxattr(path.as_ptr(), MARK.as_ptr(), value.as_ptr().cast(), value.len(), 0) },
        // SAFETY: both strings end in NUL.
        None => unsafe { libc::lremovexattr(path.as_ptr(), MARK.as_ptr()) },
    };
    let error = io::Error::last_os_error();
    let gone_already = mark.is_none() && matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP));
    if result == 0 || gone_already { Ok(()) } else { Err(error) }
}

/// Makes all that was written to the file system of `path` durable.
fn sync_file_system(path: &Path) -> io::Result<()> {
    let directory = fs::File::open(path)?;
    // SAFETY: a valid descriptor.
    if unsafe { libc::syncfs(directory.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn drop_intent(path: &Path) -> io::Result<()> {
    match fs::remove_file(intent_path(path)) {
        Ok(()) => sync_directory_of(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// `renameat2(2)`, durable; `how`: `RENAME_NOREPLACE` or `RENAME_EXCHANGE`.
fn rename(from: &Path, to: &Path, how: libc::c_uint) -> io::Result<()> {
    let (from_c, to_c) = (c_path(from)?, c_path(to)?);
    // SAFETY: both strings end in NUL.
    let result = unsafe { libc::renameat2(libc::AT_FDCWD, from_c.as_ptr(), libc::AT_FDCWD, to_c.as_ptr(), how) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    sync_directory_of(to)?;
    sync_directory_of(from)
}

/// File work that may block, with its errors worded.
async fn io_work<T: Send + 'static>(doing: &str, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    blocking(doing.to_owned(), move |doing| work().map_err(|error| Error::io(doing, error))).await
}

async fn seen(doing: &str, volume: &VolumeRef) -> Result<Seen> {
    let volume = volume.clone();
    io_work(doing, move || Seen::at(&volume.path, volume.kind)).await
}

/// Whether a mark can be written, and read again.
fn writable(doing: &str, mark: &Mark) -> Result<()> {
    let text = mark.to_string();
    let sound = text.parse().as_ref() == Ok(mark) && text.len() <= MARK_MOST && !mark.run.contains('\n');
    if sound { Ok(()) } else { Err(Error::refused(doing, "its mark cannot be written")) }
}

/// The content is there: inherited mark off, durable, mark on, intent off.
async fn finish(doing: &str, volume: &VolumeRef, mark: &Mark) -> Result<()> {
    let (place, mark) = (volume.path.clone(), mark.clone());
    io_work(doing, move || {
        set_mark(&place, None)?;
        sync_file_system(&place)?;
        set_mark(&place, Some(&mark))?;
        sync_file_system(&place)?;
        drop_intent(&place)
    })
    .await
}

#[async_trait]
impl<K: TreeKind> Storage for TreeStorage<K> {
    fn kind(&self) -> VolumeKind {
        K::KIND
    }

    async fn inspect(&self, volume: &VolumeRef) -> Result<Option<VolumeFacts>> {
        let doing = format!("inspect {volume}");
        let path = self.path(&doing, volume)?;
        let seen = seen(&doing, volume).await?;
        match seen.there {
            None => Ok(None),
            Some(There::Other) => Err(Error::refused(doing, format!("it is not a {:?} volume", K::KIND))),
            Some(There::Tree) => {
                let mut facts = self.tree.look(&*self.host, path).await?;
                facts.mark = seen.mark.as_deref().and_then(parsed).filter(|_| seen.intent.is_none());
                Ok(Some(facts))
            }
        }
    }

    async fn snapshot(&self, source: &VolumeRef, target: &VolumeRef, mark: &Mark) -> Result<Change> {
        let doing = format!("snapshot {source} to {target}");
        let (from, to) = (self.path(&doing, source)?, self.path(&doing, target)?);
        if target.path.starts_with(&source.path) || source.path.starts_with(&target.path) {
            return Err(Error::refused(doing, "one lies in the other"));
        }
        writable(&doing, mark)?;
        let target_seen = seen(&doing, target).await?;
        match target_seen.stands(&mark.run) {
            Snapshot::Present => return Ok(Change::Unchanged),
            Snapshot::Foreign(what) => {
                return Err(
                    Error::refused(doing, what).help(format!("look at {target}; move it away if it is not needed"))
                );
            }
            Snapshot::Partial | Snapshot::Absent => {}
        }
        match seen(&doing, source).await? {
            Seen { intent: Some(_), .. } => return Err(Error::refused(doing, "the source itself is half-made")),
            Seen { there: Some(There::Tree), .. } => {}
            Seen { there: None, .. } => return Err(Error::not_found(doing, format!("{source} does not exist"))),
            _ => return Err(Error::refused(doing, format!("{source} is not a {:?} volume", K::KIND))),
        }
        let (place, intent) = (target.path.clone(), format!("{mark}\n"));
        io_work(&doing, move || replace(&intent_path(&place), intent.as_bytes(), 0o600)).await?;
        if target_seen.there.is_some() {
            self.tree.delete(&*self.host, to).await?;
        }
        self.tree.copy(&*self.host, from, to).await?;
        finish(&doing, target, mark).await?;
        Ok(Change::Created)
    }

    async fn make(&self, volume: &VolumeRef, mark: &Mark) -> Result<Change> {
        let doing = format!("make {volume}");
        let path = self.path(&doing, volume)?;
        writable(&doing, mark)?;
        let there = seen(&doing, volume).await?;
        match there.stands(&mark.run) {
            Snapshot::Present => return Ok(Change::Unchanged),
            Snapshot::Foreign(what) => {
                return Err(
                    Error::refused(doing, what).help(format!("look at {volume}; move it away if it is not needed"))
                );
            }
            Snapshot::Partial if there.there.is_some() => return Ok(Change::Unchanged),
            Snapshot::Partial | Snapshot::Absent => {}
        }
        let (place, intent) = (volume.path.clone(), format!("{mark}\n"));
        io_work(&doing, move || replace(&intent_path(&place), intent.as_bytes(), 0o600)).await?;
        self.tree.empty(&*self.host, path).await?;
        Ok(Change::Created)
    }

    async fn whole(&self, volume: &VolumeRef, mark: &Mark) -> Result<Change> {
        let doing = format!("mark {volume}");
        self.path(&doing, volume)?;
        writable(&doing, mark)?;
        let seen = seen(&doing, volume).await?;
        match seen.stands(&mark.run) {
            Snapshot::Present => Ok(Change::Unchanged),
            Snapshot::Partial if seen.there.is_some() => finish(&doing, volume, mark).await.map(|()| Change::Changed),
            Snapshot::Foreign(what) => Err(Error::refused(doing, what)),
            Snapshot::Partial | Snapshot::Absent => Err(Error::not_found(doing, "it does not exist")),
        }
    }

    async fn probe(&self, target: &VolumeRef, mark: &Mark) -> Result<Snapshot> {
        let doing = format!("look at {target}");
        self.path(&doing, target)?;
        Ok(seen(&doing, target).await?.stands(&mark.run))
    }

    async fn remove(&self, volume: &VolumeRef, run: &str) -> Result<Change> {
        let doing = format!("remove {volume}");
        let path = self.path(&doing, volume)?;
        let seen = seen(&doing, volume).await?;
        match seen.stands(run) {
            Snapshot::Absent => return Ok(Change::Unchanged),
            Snapshot::Foreign(what) => return Err(Error::refused(doing, format!("it is not of run {run}: {what}"))),
            Snapshot::Present | Snapshot::Partial => {}
        }
        let place = volume.path.clone();
        if seen.there.is_some() {
            let mounted = io_work(&doing, move || mounted_beneath(&place, true)).await?;
            if let Some(point) = mounted {
                let point = crate::host::printable(&point.display().to_string());
                return Err(
                    Error::refused(doing, format!("something is mounted on {point}")).help(format!("umount {point}"))
                );
            }
            self.tree.delete(&*self.host, path).await?;
        }
        let place = volume.path.clone();
        io_work(&doing, move || drop_intent(&place)).await?;
        Ok(Change::Removed)
    }

    async fn mark(&self, volume: &VolumeRef, mark: Option<&Mark>) -> Result<Change> {
        let doing = format!("mark {volume}");
        self.path(&doing, volume)?;
        let seen = seen(&doing, volume).await?;
        if seen.intent.is_some() {
            return Err(Error::refused(doing, "it is half-made"));
        }
        if seen.there != Some(There::Tree) {
            return Err(Error::not_found(doing, format!("there is no {:?} volume", K::KIND)));
        }
        if seen.mark == mark.map(Mark::to_string) {
            return Ok(Change::Unchanged);
        }
        let (place, mark) = (volume.path.clone(), mark.cloned());
        io_work(&doing, move || {
            set_mark(&place, mark.as_ref())?;
            fs::File::open(&place)?.sync_all()
        })
        .await?;
        Ok(Change::Changed)
    }

    async fn rename(&self, from: &VolumeRef, to: &VolumeRef) -> Result<Change> {
        let doing = format!("rename {from} to {to}");
        self.path(&doing, from)?;
        self.path(&doing, to)?;
        let (old, new) = (seen(&doing, from).await?, seen(&doing, to).await?);
        if old.intent.is_some() || new.intent.is_some() {
            return Err(Error::refused(doing, "a half-made volume is in the way"));
        }
        match (old.there, new.there) {
            (None, Some(There::Tree)) => return Ok(Change::Unchanged),
            (None, _) => return Err(Error::not_found(doing, format!("{from} does not exist"))),
            (Some(_), Some(_)) => return Err(Error::refused(doing, format!("{to} exists"))),
            (Some(There::Other), None) => {
                return Err(Error::refused(doing, format!("{from} is not a {:?} volume", K::KIND)));
            }
            (Some(There::Tree), None) => {}
        }
        let (old, new) = (from.path.clone(), to.path.clone());
        blocking(doing, move |doing| {
            rename(&old, &new, libc::RENAME_NOREPLACE).map_err(|error| match error.raw_os_error() {
                Some(libc::EXDEV) => Error::refused(doing, "that is another file system"),
                Some(libc::EEXIST) => Error::refused(doing, "the new name exists"),
                _ => Error::io(doing, error),
            })
        })
        .await?;
        Ok(Change::Changed)
    }

    async fn exchange(&self, volume: &VolumeRef, saved: &VolumeRef, mark: &Mark) -> Result<Change> {
        let doing = format!("exchange {volume} and {saved}");
        self.path(&doing, volume)?;
        self.path(&doing, saved)?;
        let (at, other) = (seen(&doing, volume).await?, seen(&doing, saved).await?);
        if at.intent.is_some() || other.intent.is_some() {
            return Err(Error::refused(doing, "one of them is half-made"));
        }
        for (seen, which) in [(&at, volume), (&other, saved)] {
            if seen.there != Some(There::Tree) {
                return Err(Error::not_found(doing, format!("there is no {:?} volume at {which}", K::KIND)));
            }
        }
        let wanted = Some(mark.to_string());
        match (at.mark == wanted, other.mark == wanted) {
            (false, true) => {}
            (true, false) => return Ok(Change::Unchanged),
            _ => return Err(Error::refused(doing, format!("not exactly one of them bears the mark {mark}"))),
        }
        let (at, other) = (volume.path.clone(), saved.path.clone());
        blocking(doing, move |doing| {
            for path in [&at, &other] {
                if let Some(point) = mounted_beneath(path, true).map_err(|error| Error::io(doing, error))? {
                    let point = crate::host::printable(&point.display().to_string());
                    return Err(Error::refused(doing, format!("something is mounted on {point}"))
                        .help(format!("umount {point}")));
                }
            }
            rename(&at, &other, libc::RENAME_EXCHANGE).map_err(|error| match error.raw_os_error() {
                Some(libc::EXDEV) => Error::refused(doing, "they are on different file systems"),
                _ => Error::io(doing, error),
            })
        })
        .await?;
        Ok(Change::Changed)
    }

    async fn marked(&self, directory: &Path) -> Result<Vec<(VolumeRef, Mark)>> {
        let doing = format!("list the marked volumes in {}", directory.display());
        self.local(&doing)?;
        let directory = directory.to_owned();
        let found = io_work(&doing, move || {
            let mut found = BTreeMap::new();
            let mut intents = BTreeMap::new();
            for entry in fs::read_dir(&directory)? {
                let (name, path) = entry.map(|entry| (entry.file_name(), entry.path()))?;
                let bytes = name.as_bytes();
                let aim = bytes.strip_prefix(b".").and_then(|rest| rest.strip_suffix(INTENT.as_bytes()));
                if let Some(aim) = aim.filter(|aim| !aim.is_empty()) {
                    let target = directory.join(OsString::from_vec(aim.to_vec()));
                    // A leftover counts under the mark it was to get, whatever it inherited from its source.
                    if let Ok(mark) = fs::read(&path).and_then(|bytes| parse_intent(&bytes)) {
                        let kind = detect(&target).unwrap_or(K::KIND);
                        intents.insert(target, (kind, mark));
                    }
                } else if let (Ok(kind), Ok(Some(mark))) = (detect(&path), get_mark(&path)) {
                    parsed(&mark).map(|mark| found.insert(path, (kind, mark)));
                }
            }
            found.extend(intents);
            Ok(found)
        })
        .await?;
        let ours = found.into_iter().filter(|(_, (kind, _))| *kind == K::KIND);
        Ok(ours.map(|(path, (kind, mark))| (VolumeRef { kind, path }, mark)).collect())
    }

    async fn open(&self, volume: &VolumeRef, _access: Access) -> Result<Opened> {
        let doing = format!("open {volume}");
        self.path(&doing, volume)?;
        match seen(&doing, volume).await?.there {
            Some(There::Tree) => Ok(Opened::directory(volume.path.clone())),
            _ => Err(Error::not_found(doing, format!("there is no {:?} volume", K::KIND))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;

    #[test]
    fn mount_points_are_unescaped() {
        let table =
            b"22 1 0:20 / /sys rw - sysfs sysfs rw\n36 35 98:0 / /a\\040b\\134c rw - ext4 /dev/x rw\n\nshort line\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, [PathBuf::from("/sys"), PathBuf::from("/a b\\c")]);
    }

    #[test]
    fn an_intent_decides_before_any_mark() {
        let mark = |run: &str| Mark { run: run.into(), role: Role::Clone };
        let seen = |there, mark: Option<&str>, intent| Seen { there, mark: mark.map(str::to_owned), intent };
        let tree = Some(There::Tree);
        assert_eq!(seen(None, None, None).stands("r"), Snapshot::Absent);
        assert_eq!(seen(tree, Some("r.production"), None).stands("r"), Snapshot::Present);
        assert_eq!(seen(tree, Some("q.production"), Some(mark("r"))).stands("r"), Snapshot::Partial);
        assert_eq!(seen(tree, Some("r.clone"), Some(mark("r"))).stands("r"), Snapshot::Partial);
        assert_eq!(seen(None, None, Some(mark("r"))).stands("r"), Snapshot::Partial);
        for foreign in [
            seen(tree, None, None),
            seen(tree, Some("rr.clone"), None),
            seen(tree, Some("r"), None),
            seen(tree, Some("r.clone"), Some(mark("q"))),
            seen(Some(There::Other), None, None),
            seen(Some(There::Other), None, Some(mark("r"))),
        ] {
            assert!(matches!(foreign.stands("r"), Snapshot::Foreign(_)), "{foreign:?}");
        }
    }
}
