//! The file system of a block volume, opened without leaving a mount behind: a *detached* mount (`fsopen(2)`, `fsmount(2)`,
//! Linux 5.2) that no mount table shows, reached through a descriptor of this process, and gone with it, however the
//! process ends. It is `nosuid,nodev,noexec`, and a guest's own wish of what happens on errors (`errors=panic`) is
//! overruled: what is mounted here was written by a guest.
//!
//! Only file systems that can stand beside a copy of themselves on one kernel are opened: ext and XFS (`nouuid`). btrfs is
//! refused, because a second file system of the same id can damage the first.
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

use super::readonly;
use crate::host::Command;
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
    /// Bytes in use in the file system.
    pub fn used_bytes(&self) -> io::Result<u64> {
        super::marked::free_and_used(&self.path).map(|(_, used)| used)
    }
}

/// A detached mount; the kernel dissolves it when the descriptor is closed.
#[derive(Debug)]
struct Mount {
    descriptor: OwnedFd,
    access: Access,
}

/// File systems that are opened, by the kernel's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileSystem {
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

/// Opens the file system that fills a block device of this machine.
pub async fn open_device(host: &dyn Host, doing: &str, device: &Path, access: Access) -> Result<Opened> {
    let system = recognise(doing, &probe(host, doing, device).await?)?;
    let (doing, device) = (doing.to_owned(), device.to_owned());
    crate::host::blocking(doing, move |doing| mount(doing, &device, system, access)).await
}

/// What is on a device, as `blkid -p` tells: `TYPE`, `UUID`, `LABEL`, `PTTYPE` …; empty if nothing is.
pub(super) async fn probe(host: &dyn Host, doing: &str, device: &Path) -> Result<BTreeMap<String, String>> {
    let path = device.to_str().ok_or_else(|| Error::refused(doing, "its path is not UTF-8"))?;
    let command = Command::new(["blkid", "-p", "-o", "export", "--", path]);
    let output = host.run(&command).await?;
    match output.status {
        2 => Ok(BTreeMap::new()),
        8 => Err(Error::refused(doing, "it bears the marks of more than one file system")
            .help(format!("wipefs {path} lists them; take the wrong ones off"))),
        _ => Ok(parse_export(&output.checked(doing, &command)?.text())),
    }
}

/// `KEY=value` lines; blanks and quotes in values are escaped by a backslash (`blkid(8)`).
fn parse_export(text: &str) -> BTreeMap<String, String> {
    let unescape = |value: &str| {
        let mut chars = value.chars();
        let mut plain = String::new();
        while let Some(c) = chars.next() {
            plain.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
        plain
    };
    text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), unescape(value))).collect()
}

fn recognise(doing: &str, found: &BTreeMap<String, String>) -> Result<FileSystem> {
    let (why, help) = match (found.get("TYPE").map(String::as_str), found.get("PTTYPE")) {
        (Some("ext2" | "ext3" | "ext4"), _) => return Ok(FileSystem::Ext),
        (Some("xfs"), _) => return Ok(FileSystem::Xfs),
        (Some("btrfs"), _) => (
            "it holds a btrfs, and two of the same id on one machine can damage each other".to_owned(),
            "let the guest have its btrfs on the host directly, or upgrade it in place",
        ),
        (Some("LVM2_member"), _) => (
            "it holds a volume group of the guest's own".to_owned(),
            "upgradectl does not look into a guest's own volume groups; declare the disk detached",
        ),
        (Some("crypto_LUKS"), _) => ("it is encrypted".to_owned(), "declare the disk detached"),
        (Some(other), _) => (
            format!("it holds {}, not a file system that can be opened here", crate::host::printable(other)),
            "ext2, ext3, ext4 and xfs can be",
        ),
        (None, Some(table)) => (
            format!("it holds a partition table ({}), not a file system", crate::host::printable(table)),
            "upgradectl opens volumes that are one file system; give the guest a volume for each (xvda1, xvda2 …)",
        ),
        (None, None) => ("nothing on it is recognised as a file system".to_owned(), "ext2, ext3, ext4 and xfs are"),
    };
    Err(Error::refused(doing, why).help(help))
}

fn mount(doing: &str, device: &Path, system: FileSystem, access: Access) -> Result<Opened> {
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
    if access == Access::Read && system == FileSystem::Ext && ext_needs_replay(&file).map_err(io_error)? {
        return Err(dirty(doing));
    }
    // XFS has no flag that says so; but on a device that cannot be written the kernel refuses to replay.
    let through = match (system, access) {
        (FileSystem::Xfs, Access::Read) => Some(readonly::Loop::over(&file).map_err(io_error)?),
        _ => None,
    };
    let source = through.as_ref().map_or(device, readonly::Loop::path);
    let descriptor = attach(source, system, access).map_err(|(errno, said)| match errno {
        Errno::ROFS => dirty(doing),
        Errno::NOSYS => Error::new(doing, Cause::Unsupported("this kernel is older than Linux 5.2".into())),
        Errno::BUSY => {
            Error::refused(doing, "something has it open").help("no guest may run on it, nothing may mount it")
        }
        _ if said.is_empty() => Error::io(doing, errno.into()),
        _ => Error::io(doing, io::Error::new(io::Error::from(errno).kind(), said)),
    })?;
    let mount = Arc::new(Mount { descriptor, access });
    open.insert(facts.rdev(), Arc::downgrade(&mount));
    Ok(opened(mount))
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
        words.push(crate::host::printable(text.get(2..).unwrap_or_default().trim()));
    }
    words.join(" / ")
}

/// Whether an ext file system would replay its journal, or was not unmounted if it has none: the superblock's state and
/// feature words (`ext4(5)`; Documentation/filesystems/ext4/super.rst).
fn ext_needs_replay(device: &File) -> io::Result<bool> {
    let mut block = [0; 256];
    device.read_exact_at(&mut block, 1024)?;
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

    fn found(text: &str) -> BTreeMap<String, String> {
        parse_export(text)
    }

    /// Printed by util-linux 2.38.1.
    #[test]
    fn what_blkid_says_is_read_and_judged() {
        let ext = found("DEVNAME=/dev/loop0\nLABEL=my\\ root\nUUID=62f0\nVERSION=1.0\nTYPE=ext4\nUSAGE=filesystem\n");
        assert_eq!(ext["LABEL"], "my root");
        assert_eq!(recognise("d", &ext).unwrap(), FileSystem::Ext);
        assert_eq!(recognise("d", &found("TYPE=xfs\n")).unwrap(), FileSystem::Xfs);
        for (text, word) in [
            ("TYPE=btrfs\n", "same id"),
            ("TYPE=LVM2_member\n", "own"),
            ("TYPE=crypto_LUKS\n", "encrypted"),
            ("TYPE=swap\n", "swap"),
            ("PTUUID=1\nPTTYPE=dos\n", "partition table (dos)"),
            ("", "nothing"),
        ] {
            let error = recognise("d", &found(text)).unwrap_err();
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
