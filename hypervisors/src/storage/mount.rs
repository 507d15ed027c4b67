//! The file system of a block volume, opened without leaving a mount behind: a *detached* mount (`fsopen(2)`, `fsmount(2)`,
//! Linux 5.2) that no mount table shows, reached through a descriptor of this process, and gone with it, however the
//! process ends. It is `nosuid,nodev,noexec`, and a guest's own wish of what happens on errors (`errors=panic`) is
//! overruled: what is mounted here was written by a guest.
//!
//! Only file systems that can stand beside a copy of themselves on one kernel are opened: ext and XFS (`nouuid`). btrfs is
//! refused, because a second file system of the same id can damage the first.
//!
//! A disk with a partition table is opened at the partition that is the guest's root, with those of its other partitions that
//! its fstab mounts in their places ([`super::parts`]).
//!
//! Races: the same volume opened twice in one process shares one mount, as the kernel would share its superblock; one that
//! is open for reading is not opened for writing. What else on the host has a volume open is the driver's to know.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::disk::{self, Area};
use super::{parts, readonly};
use crate::host::printable;
use crate::{Cause, Error, Host, Result};

/// What a volume is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read and write, while no guest runs on it (for containers also while one does). A journal is replayed.
    Write,
    /// To read, while no guest runs on it. Not a byte of it is written: a journal that would have to be replayed is
    /// [`Cause::DirtyJournal`].
    Read,
    /// To look, whoever runs on it: as it lies on the disk at this instant, a running guest's latest writes missing, for
    /// plans and estimates only. Not a byte of it is written.
    Glance,
}

/// An opened volume. Its files are reachable as long as this or a clone of it lives; afterwards nothing is left.
#[derive(Clone, Debug)]
pub struct Opened {
    path: PathBuf,
    mount: Option<Arc<Mount>>,
}

impl Opened {
    /// A directory that is there anyway.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mount: None }
    }
    /// The directory. For a mount it is `/proc/PID/fd/N`, good for this process and, as root, for its children.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Whether it is there only as long as this lives.
    pub fn is_mount(&self) -> bool {
        self.mount.is_some()
    }
    /// File systems that are mounted in it, as paths beneath it, outer ones first.
    pub fn nested(&self) -> &[PathBuf] {
        self.mount.as_ref().map_or(&[], |mount| &mount.nested)
    }
    /// A descriptor for the mount namespace that holds it, if it is a mount. Where it is in none yet, it is put into one: the
    /// thread is there afterwards.
    pub(super) fn space(&self) -> io::Result<Option<OwnedFd>> {
        let Some(mount) = &self.mount else { return Ok(None) };
        let mut space = mount.space.lock().unwrap_or_else(PoisonError::into_inner);
        let space = match &mut *space {
            Some(space) => space,
            none => none.insert(parts::alone(&mount.descriptor)?),
        };
        space.try_clone().map(Some)
    }
    /// Bytes that are free in the file system and in those nested in it.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let free = |path: &Path| super::marked::free_and_used(path).map(|(free, _)| free);
        self.nested().iter().try_fold(free(&self.path)?, |sum, point| Ok(sum + free(&self.path.join(point))?))
    }
    /// Bytes in use in the file system; of those nested in it, what lies there is not counted.
    pub fn used_bytes(&self) -> io::Result<u64> {
        super::marked::free_and_used(&self.path).map(|(_, used)| used)
    }
}

/// A mount that no table shows; the kernel dissolves it when what holds it is closed. In the order of closing.
#[derive(Debug)]
struct Mount {
    descriptor: OwnedFd,
    /// The mount namespace that holds it and what is nested in it, if it is in one.
    space: Mutex<Option<OwnedFd>>,
    nested: Vec<PathBuf>,
    access: Access,
    _loops: Vec<readonly::Loop>,
}

/// What is mounted.
enum On {
    Whole(FileSystem),
    /// Partitions that can be; and one that cannot, in which the root may be if it is in none of them.
    Parts(Vec<(Area, FileSystem)>, Option<Area>),
}

/// File systems that are opened, by the kernel's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSystem {
    /// ext2, ext3, ext4: one driver mounts all.
    Ext,
    Xfs,
}

/// The open mounts of this process, by device number.
static OPEN: Mutex<BTreeMap<u64, Weak<Mount>>> = Mutex::new(BTreeMap::new());

/// Whether this process has a device open.
pub(super) fn is_ours(device: &Path) -> bool {
    let Ok(facts) = std::fs::metadata(device) else { return false };
    OPEN.lock().unwrap_or_else(PoisonError::into_inner).get(&facts.rdev()).is_some_and(|mount| mount.strong_count() > 0)
}

/// Opens the file system that fills a block device of this machine, or the guest's root on it if it is divided.
pub async fn open_device(host: &dyn Host, doing: &str, device: &Path, access: Access) -> Result<Opened> {
    let size = device.to_owned();
    let size = crate::host::blocking(doing.to_owned(), move |doing| {
        let end = |mut file: File| io::Seek::seek(&mut file, io::SeekFrom::End(0));
        File::open(&size).and_then(end).map_err(|error| Error::io(doing, error))
    })
    .await?;
    let layout = disk::layout(host, doing, device, size).await?;
    let on = match (&layout.table, layout.areas.as_slice()) {
        (None, [whole]) => On::Whole(recognise(doing, &whole.content)?),
        _ => On::Parts(openable(doing, &layout.areas)?, in_the_way(&layout.areas).cloned()),
    };
    let (doing, device) = (doing.to_owned(), device.to_owned());
    crate::host::blocking(doing, move |doing| mount(doing, &device, &on, access)).await
}

/// The partitions that could be a guest's root or belong to it.
fn openable(doing: &str, areas: &[Area]) -> Result<Vec<(Area, FileSystem)>> {
    let able: Vec<(Area, FileSystem)> =
        areas.iter().filter_map(|area| Some((area.clone(), file_system(&area.content)?))).collect();
    if !able.is_empty() {
        return Ok(able);
    }
    // What stands in the way, if anything is known to; else that nothing was found.
    match in_the_way(areas) {
        Some(area) => recognise(&named(doing, area), &area.content).map(|_| Vec::new()),
        None => {
            let held: Vec<String> = areas
                .iter()
                .filter(|area| !area.container)
                .map(|area| {
                    let what = if area.content.is_empty() { "nothing known" } else { &area.content };
                    format!("{} {}", area.number.unwrap_or_default(), printable(what))
                })
                .collect();
            let why = format!("it is a disk with partitions, and none can be opened ({})", held.join(", "));
            Err(Error::refused(doing, why).help("ext2, ext3, ext4 and xfs can be"))
        }
    }
}

fn named(doing: &str, area: &Area) -> String {
    format!("{doing}: partition {}", area.number.unwrap_or_default())
}

/// A partition that may hold a root and is not looked into.
fn in_the_way(areas: &[Area]) -> Option<&Area> {
    let barred = |area: &&Area| matches!(area.content.as_str(), "LVM2_member" | "crypto_LUKS" | "btrfs");
    areas.iter().filter(|area| !area.container).find(barred)
}

/// The driver for a content by blkid's name, if it is one that is opened here.
fn file_system(content: &str) -> Option<FileSystem> {
    match content {
        "ext2" | "ext3" | "ext4" => Some(FileSystem::Ext),
        "xfs" => Some(FileSystem::Xfs),
        _ => None,
    }
}

/// Why some content is not opened, and what helps.
pub(super) fn unopenable(content: &str) -> (String, &'static str) {
    match content {
        "btrfs" => (
            "it holds a btrfs, and two of the same id on one machine can damage each other".to_owned(),
            "let the guest have its btrfs on the host directly, or upgrade it in place",
        ),
        "LVM2_member" => (
            "it holds a volume group of the guest's own".to_owned(),
            "upgradectl does not look into a guest's own volume groups: a copy of it would bear the same ids; declare the disk \
             detached, or give the guest a volume of the host for each of its own",
        ),
        "crypto_LUKS" => ("it is encrypted".to_owned(), "declare the disk detached"),
        "" => ("nothing on it is recognised as a file system".to_owned(), "ext2, ext3, ext4 and xfs are"),
        other => (
            format!("it holds {}, not a file system that can be opened here", printable(other)),
            "ext2, ext3, ext4 and xfs can be",
        ),
    }
}

fn recognise(doing: &str, content: &str) -> Result<FileSystem> {
    file_system(content).ok_or_else(|| {
        let (why, help) = unopenable(content);
        Error::refused(doing, why).help(help)
    })
}

fn mount(doing: &str, device: &Path, on: &On, access: Access) -> Result<Opened> {
    let io_error = |error| Error::io(doing, error);
    let facts = std::fs::metadata(device).map_err(io_error)?;
    if !facts.file_type().is_block_device() {
        return Err(Error::refused(doing, format!("{} is not a block device", device.display())));
    }
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|_, mount| mount.strong_count() > 0);
    if let Some(there) = open.get(&facts.rdev()).and_then(Weak::upgrade) {
        return match (there.access, access) {
            (have, want) if have == want || have == Access::Write => Ok(opened(there)),
            (Access::Read, Access::Glance) => Ok(opened(there)),
            _ => Err(Error::refused(doing, "it is still open for reading")),
        };
    }
    let file = File::open(device).map_err(io_error)?;
    // A guest writes past this machine's buffers: what they hold from an earlier look may be old.
    readonly::flush_buffers(&file).map_err(io_error)?;
    let mount = match on {
        On::Whole(system) => whole(doing, device, &file, *system, access)?,
        On::Parts(able, barred) => divided(doing, device, able, barred.as_ref(), access)?,
    };
    let mount = Arc::new(mount);
    open.insert(facts.rdev(), Arc::downgrade(&mount));
    Ok(opened(mount))
}

/// A device that is one file system.
fn whole(doing: &str, device: &Path, file: &File, system: FileSystem, access: Access) -> Result<Mount> {
    let io_error = |error| Error::io(doing, error);
    if access == Access::Read && system == FileSystem::Ext && ext_needs_replay(file, 0).map_err(io_error)? {
        return Err(dirty(doing));
    }
    // XFS has no flag that says so; but on a device that cannot be written the kernel refuses to replay.
    let through = match (system, access) {
        (FileSystem::Xfs, Access::Read) => Some(readonly::Loop::over(file, None, false).map_err(io_error)?),
        _ => None,
    };
    let source = through.as_ref().map_or(device, readonly::Loop::path);
    let mount = attach(source, system, access).map_err(|trouble| worded(doing, trouble))?;
    held(doing, parts::Part { mount, through }, Vec::new(), access)
}

fn held(doing: &str, top: parts::Part, nested: Vec<(PathBuf, parts::Part)>, access: Access) -> Result<Mount> {
    let parts::Together { root, space, nested, loops } =
        parts::together(top, nested).map_err(|error| Error::io(doing, error))?;
    Ok(Mount { descriptor: root, space: Mutex::new(space), nested, access, _loops: loops })
}

/// One partition of a device, with the loop device it is mounted through.
fn part(doing: &str, file: &File, (area, system): &(Area, FileSystem), access: Access) -> Result<parts::Part> {
    let io_error = |error| Error::io(doing, error);
    if access == Access::Read && *system == FileSystem::Ext && ext_needs_replay(file, area.start).map_err(io_error)? {
        return Err(dirty(doing));
    }
    let window = Some((area.start, area.bytes));
    let through = readonly::Loop::over(file, window, access == Access::Write).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io_error(error).help("a partition is opened through a loop device: modprobe loop"),
        _ => io_error(error),
    })?;
    let mount = attach(through.path(), *system, access).map_err(|trouble| worded(doing, trouble))?;
    Ok(parts::Part { mount, through: Some(through) })
}

/// A device with partitions: the guest's root, and in their places the others that its fstab mounts.
fn divided(
    doing: &str,
    device: &Path,
    able: &[(Area, FileSystem)],
    barred: Option<&Area>,
    access: Access,
) -> Result<Mount> {
    let mut options = File::options();
    let file =
        options.read(true).write(access == Access::Write).open(device).map_err(|error| Error::io(doing, error))?;
    let named = |area: &Area| named(doing, area);
    let mut trouble = None;
    let mut candidates = Vec::new();
    for one in able {
        let fstab = match part(&named(&one.0), &file, one, Access::Glance) {
            Ok(seen) => parts::fstab(&seen.mount),
            Err(error) => {
                trouble.get_or_insert(error);
                None
            }
        };
        candidates.push((&one.0, fstab.map(|text| disk::entries(&text))));
    }
    let root = match (disk::root_of(&candidates), trouble) {
        (Ok(root), _) => root,
        (Err(_), Some(error)) => return Err(error),
        (Err(why), None) => {
            if let Some(area) = barred {
                recognise(&named(area), &area.content)?;
            }
            return Err(
                Error::refused(doing, why).help("the root's /etc/fstab has to name it: / by UUID, LABEL or PARTUUID")
            );
        }
    };
    let entries = candidates[root].1.clone().unwrap_or_default();
    let mut inner: Vec<(PathBuf, usize)> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.auto && !entry.point.as_os_str().is_empty()) {
        let Some(at) = (0..able.len()).find(|at| *at != root && disk::names(&entry.spec, &able[*at].0)) else {
            continue;
        };
        if !inner.iter().any(|(point, other)| *point == entry.point || *other == at) {
            inner.push((entry.point.clone(), at));
        }
    }
    inner.sort();
    let top = part(&named(&able[root].0), &file, &able[root], access)?;
    let mut nested = Vec::new();
    for (point, at) in inner {
        nested.push((point, part(&named(&able[at].0), &file, &able[at], access)?));
    }
    held(doing, top, nested, access)
}

/// The kernel's refusal of a mount.
fn worded(doing: &str, (errno, said): (Errno, String)) -> Error {
    match errno {
        Errno::ROFS => dirty(doing),
        Errno::NOSYS => Error::new(doing, Cause::Unsupported("this kernel is older than Linux 5.2".into())),
        Errno::BUSY => {
            Error::refused(doing, "something has it open").help("no guest may run on it, nothing may mount it")
        }
        _ if said.is_empty() => Error::io(doing, errno.into()),
        _ => Error::io(doing, io::Error::new(io::Error::from(errno).kind(), said)),
    }
}

fn opened(mount: Arc<Mount>) -> Opened {
    let path = format!("/proc/{}/fd/{}", std::process::id(), mount.descriptor.as_raw_fd());
    Opened { path: path.into(), mount: Some(mount) }
}

fn dirty(doing: &str) -> Error {
    let why = "its journal is not clean: the guest on it was ended, not shut down";
    Error::new(doing, Cause::DirtyJournal(why.into())).help("start the guest and shut it down")
}

/// The mount, or the kernel's words.
fn attach(source: &Path, system: FileSystem, access: Access) -> Result<OwnedFd, (Errno, String)> {
    let (name, mut flags) = match system {
        FileSystem::Ext => ("ext4", vec![]),
        FileSystem::Xfs => ("xfs", vec!["nouuid"]),
    };
    let read_only = access != Access::Write;
    if read_only {
        flags.push("ro");
    }
    match (system, access) {
        (FileSystem::Ext, Access::Read | Access::Glance) => flags.push("noload"),
        (FileSystem::Xfs, Access::Glance) => flags.push("norecovery"),
        _ => {}
    }
    let quiet = |errno| (errno, String::new());
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).map_err(quiet)?;
    let configure = || -> Result<(), Errno> {
        fsconfig_set_string(&context, "source", source)?;
        if system == FileSystem::Ext {
            fsconfig_set_string(&context, "errors", "remount-ro")?;
        }
        flags.iter().try_for_each(|flag| fsconfig_set_flag(&context, *flag))?;
        fsconfig_create(&context)
    };
    if let Err(errno) = configure() {
        return Err((errno, said(&context)));
    }
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(quiet)
}

/// The messages that the kernel keeps with a file system context, each read as one.
fn said(context: &OwnedFd) -> String {
    let Ok(copy) = context.try_clone() else { return String::new() };
    let mut file = File::from(copy);
    let mut words = Vec::new();
    let mut buffer = [0; 512];
    while let Ok(length) = file.read(&mut buffer) {
        if length == 0 || words.len() == 8 {
            break;
        }
        // `e `, `w ` or `i ` stands before each.
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        words.push(printable(text.get(2..).unwrap_or_default().trim()));
    }
    words.join(" / ")
}

/// Whether an ext file system would replay its journal, or was not unmounted if it has none: the superblock's state and
/// feature words (`ext4(5)`; Documentation/filesystems/ext4/super.rst).
fn ext_needs_replay(device: &File, start: u64) -> io::Result<bool> {
    let mut block = [0; 256];
    device.read_exact_at(&mut block, start + 1024)?;
    Ok(ext_dirty(&block))
}

fn ext_dirty(superblock: &[u8; 256]) -> bool {
    let word =
        |at: usize| u32::from_le_bytes([superblock[at], superblock[at + 1], superblock[at + 2], superblock[at + 3]]);
    const HAS_JOURNAL: u32 = 0x4;
    const RECOVER: u32 = 0x4;
    const CLEANLY_UNMOUNTED: u32 = 0x1;
    let (state, compatible, incompatible) = (word(0x38) >> 16, word(0x5c), word(0x60));
    incompatible & RECOVER != 0 || (compatible & HAS_JOURNAL == 0 && state & CLEANLY_UNMOUNTED == 0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn contents_are_judged() {
        assert_eq!(file_system("ext4"), Some(FileSystem::Ext));
        assert_eq!(recognise("d", "xfs").unwrap(), FileSystem::Xfs);
        for (content, word) in [
            ("btrfs", "same id"),
            ("LVM2_member", "own"),
            ("crypto_LUKS", "encrypted"),
            ("swap", "swap"),
            ("", "nothing"),
        ] {
            let error = recognise("d", content).unwrap_err();
            assert!(error.to_string().contains(word) && error.help.is_some(), "{error}");
        }
    }

    #[test]
    fn of_partitions_those_that_can_be_opened_are_taken_and_else_it_is_said_why() {
        let holding = |contents: &[&str]| -> Vec<Area> {
            let area = |(number, content): (u32, &&str)| Area {
                number: Some(number),
                content: (*content).to_owned(),
                ..Area::default()
            };
            (1..).zip(contents).map(area).collect()
        };
        let able = openable("d", &holding(&["vfat", "ext4", "swap", "xfs"])).unwrap();
        assert_eq!(able.iter().map(|(area, _)| area.number.unwrap()).collect::<Vec<_>>(), [2, 4]);
        for (contents, word) in [
            (&["vfat", "LVM2_member"][..], "partition 2: it holds a volume group of the guest's own"),
            (&["crypto_LUKS"], "encrypted"),
            (&["btrfs"], "same id"),
            (&["swap", ""], "1 swap, 2 nothing known"),
        ] {
            let error = openable("open it", &holding(contents)).unwrap_err();
            assert!(error.to_string().contains(word) && error.help.is_some(), "{error}");
        }
    }

    #[test]
    fn a_journal_to_be_replayed_is_seen_in_the_superblock() {
        let block = |state: u8, compatible: u8, incompatible: u8| {
            let mut block = [0; 256];
            (block[0x3a], block[0x5c], block[0x60]) = (state, compatible, incompatible);
            ext_dirty(&block)
        };
        assert!(!block(1, 0x3c, 0xc2) && block(1, 0x3c, 0xc6), "with a journal its flag decides");
        assert!(!block(1, 0x38, 0x02) && block(0, 0x38, 0x02), "without one, the state does");
    }
}
