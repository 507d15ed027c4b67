//! A guest's root directory, opened so that no path leads out of it (openat2(2) with `RESOLVE_IN_ROOT` and
//! `RESOLVE_NO_MAGICLINKS`), and the images of files that are read from and written to it.
//!
//! Paths are relative to the root; a leading slash is allowed and means the same, `..` is refused. Links are followed,
//! within the root, for the directories on the way to a file and never at the last component. Every kind of file is
//! recognised through an `O_PATH` descriptor before it is opened, so that neither a FIFO can hang nor a device be
//! touched. Sizes and numbers are bounded ([`MAX_FILE`], [`MAX_ENTRIES`]).
//!
//! Reading is here, planning in [`overlay`](Overlay), writing in `apply`, telling people in `diff`.

mod apply;
mod diff;
mod overlay;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use hypervisors::host::is_hidden;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::GuestError;
pub use overlay::Overlay;

pub(super) use apply::{apply, temporary};
pub(super) use diff::diff;

/// Largest regular file that is read, in bytes (1 MiB). Configuration is far smaller.
pub const MAX_FILE: u64 = 1 << 20;
/// Most names a directory may have to be listed.
pub const MAX_ENTRIES: usize = 65_536;
/// Most extended attribute bytes of one file: names, and each value (the kernel's own limit, xattr(7)).
const MAX_XATTR: usize = 65_536;
/// Most bytes of the values together; file systems have no limit for these.
const MAX_XATTRS: usize = 1 << 20;

/// A file as it is or shall be, metadata included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileImage {
    /// A regular file.
    Regular {
        /// Its bytes (base64 when serialized).
        #[serde(with = "base64")]
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Extended attributes (ACLs, capabilities, labels included; base64 when serialized).
        #[serde(default, with = "base64::map")]
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

/// What another machine says of a file that is here as a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A guest's root.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
    owner: (u32, u32),
    recorded: HashMap<u64, Recorded>,
    /// What the directory stands on, if that goes when it is dropped. Behind `root`, so that it is dropped after it.
    _kept: Option<Box<dyn Any + Send + Sync>>,
}

impl Tree {
    /// Opens a guest's root directory.
    pub fn open(path: &Path) -> Result<Self, GuestError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = |errno: Errno| GuestError::Io { path: printable(path.as_os_str()), source: errno.into() };
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&root).map_err(failed)?;
        Ok(Self {
            root,
            path: path.to_owned(),
            owner: (stat.st_uid, stat.st_gid),
            recorded: HashMap::new(),
            _kept: None,
        })
    }

    /// Keeps something (a mount) for as long as the tree is used.
    #[must_use]
    pub fn keeping(self, stands_on: impl Any + Send + Sync) -> Self {
        Self { _kept: Some(Box::new(stands_on)), ..self }
    }

    /// Takes mode and owner of copies from what was said of the files they are of, by the number of each copy's inode.
    /// Extended attributes of such copies are this machine's, and are left out.
    pub(super) fn recorded(self, recorded: HashMap<u64, Recorded>) -> Result<Self, GuestError> {
        let root = rustix::fs::fstat(&self.root).map_err(|errno| io(Path::new(""), errno))?;
        let owner = recorded.get(&root.st_ino).map_or(self.owner, |root| (root.uid, root.gid));
        Ok(Self { owner, recorded, ..self })
    }

    /// Where it was opened, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Owner and group of the root directory: what root is in the guest, also where its user ids are shifted.
    pub fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// Image of a new regular file, owned by the guest's root.
    pub fn new_file(&self, bytes: impl Into<Vec<u8>>, mode: u32) -> FileImage {
        let (uid, gid) = self.owner;
        FileImage::Regular { bytes: bytes.into(), mode, uid, gid, xattrs: BTreeMap::new() }
    }

    /// Image of a new directory, owned by the guest's root.
    pub fn new_directory(&self, mode: u32) -> FileImage {
        let (uid, gid) = self.owner;
        FileImage::Directory { mode, uid, gid }
    }

    /// The file as it is; `None` if there is none. Regular files up to [`MAX_FILE`], links and directories; anything
    /// else is [`GuestError::Unfit`].
    pub fn image(&self, path: &Path) -> Result<Option<FileImage>, GuestError> {
        let Some((file, stat)) = self.look(path)? else { return Ok(None) };
        let mode = stat.st_mode & 0o7777;
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        let unfit = |what: &str| {
            Err(unfit(path, what, "put a regular file in its place, or leave what concerns it out of the plan"))
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.regular(path, &file, &stat).map(Some),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&file, "", Vec::new()).map_err(|errno| io(path, errno))?;
                Ok(Some(FileImage::Symlink { target: OsString::from_vec(target.into_bytes()).into() }))
            }
            FileType::Directory => Ok(Some(FileImage::Directory { mode, uid, gid })),
            FileType::Fifo => unfit("is a FIFO"),
            FileType::Socket => unfit("is a socket"),
            _ => unfit("is a device"),
        }
    }

    fn regular(&self, path: &Path, file: &OwnedFd, stat: &Stat) -> Result<FileImage, GuestError> {
        let too_large = || {
            let why = format!("is larger than {} KiB", MAX_FILE / 1024);
            unfit(path, why, "a configuration file is smaller; look what it is")
        };
        if u64::try_from(stat.st_size).is_ok_and(|size| size > MAX_FILE) {
            return Err(too_large());
        }
        let file = reopen(file, OFlags::RDONLY).map_err(|errno| io(path, errno))?;
        let copy = self.recorded.contains_key(&stat.st_ino);
        let xattrs = if copy { BTreeMap::new() } else { xattrs(path, &file)? };
        let mut bytes = Vec::new();
        let read = File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes);
        read.map_err(|source| GuestError::Io { path: shown(path), source })?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(too_large());
        }
        Ok(FileImage::Regular { bytes, mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, xattrs })
    }

    /// Text of a regular file; `None` if there is none. A link, or bytes that are not UTF-8, are
    /// [`GuestError::Unfit`].
    pub fn read_text(&self, path: &Path) -> Result<Option<String>, GuestError> {
        self.image(path)?.map(|image| text_of(path, image)).transpose()
    }

    /// Names in a directory (links to it are followed within the root), sorted; none if it does not exist.
    pub fn list(&self, path: &Path) -> Result<Vec<OsString>, GuestError> {
        let Some(directory) = self.directory(path)? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(directory).map_err(|errno| io(path, errno))? {
            let entry = entry.map_err(|errno| io(path, errno))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
            if names.len() > MAX_ENTRIES {
                let why = format!("has more than {MAX_ENTRIES} entries");
                return Err(unfit(path, why, "tidy the directory up in the guest"));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether something of that name exists (a dangling link does).
    pub fn exists(&self, path: &Path) -> Result<bool, GuestError> {
        Ok(self.look(path)?.is_some())
    }

    /// What stat(2) says of the file itself (links are not followed); `None` if there is none.
    pub fn metadata(&self, path: &Path) -> Result<Option<Stat>, GuestError> {
        Ok(self.look(path)?.map(|(_, stat)| stat))
    }

    /// A directory opened for reading (links are followed within the root), to be handed over by its descriptor;
    /// `None` if there is none.
    pub fn directory(&self, path: &Path) -> Result<Option<OwnedFd>, GuestError> {
        self.open_directory(&relative(path)?, path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The file as an `O_PATH` descriptor, and what it is.
    fn look(&self, path: &Path) -> Result<Option<(OwnedFd, Stat)>, GuestError> {
        let Some((parent, name)) = self.parent(path)? else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&parent, &name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(io(path, errno)),
        };
        let mut stat = rustix::fs::fstat(&file).map_err(|errno| io(path, errno))?;
        if let Some(said) = self.recorded.get(&stat.st_ino) {
            stat.st_mode = (stat.st_mode & !0o7777) | said.mode;
            (stat.st_uid, stat.st_gid) = (said.uid, said.gid);
        }
        Ok(Some((file, stat)))
    }

    /// The directory a file is in, and the file's name in it; `None` if there is no such directory.
    fn parent(&self, path: &Path) -> Result<Option<(OwnedFd, OsString)>, GuestError> {
        let clean = relative(path)?;
        // The root itself is its own entry.
        let name = clean.file_name().unwrap_or(OsStr::new(".")).to_owned();
        let parent = clean.parent().unwrap_or(Path::new(""));
        Ok(self.open_directory(parent, path, OFlags::PATH | OFlags::DIRECTORY)?.map(|parent| (parent, name)))
    }

    fn open_directory(&self, clean: &Path, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>, GuestError> {
        let clean = if clean.as_os_str().is_empty() { Path::new(".") } else { clean };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // EAGAIN: the kernel could not rule out an escape because something was renamed meanwhile (openat2(2)).
        for _ in 0..64 {
            return match rustix::fs::openat2(&self.root, clean, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Ok(directory) => Ok(Some(directory)),
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
                Err(Errno::AGAIN) => continue,
                Err(Errno::LOOP) => Err(unfit(path, "lies behind a loop of links", "repair the links in the guest")),
                Err(errno) => Err(io(path, errno)),
            };
        }
        Err(io(path, Errno::AGAIN))
    }
}

/// Opens what an `O_PATH` descriptor stands for: the very file that was looked at, whatever its name is by now.
fn reopen(file: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())
}

/// All extended attributes of an open file.
fn xattrs(path: &Path, file: &OwnedFd) -> Result<BTreeMap<String, Vec<u8>>, GuestError> {
    let mut names = vec![0; MAX_XATTR];
    let length = match rustix::fs::flistxattr(file, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(io(path, errno)),
    };
    let (mut found, mut total) = (BTreeMap::new(), 0);
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = std::str::from_utf8(name).map_err(|_| {
            unfit(path, "has an extended attribute whose name is not UTF-8", "remove it with setfattr -x")
        })?;
        let mut value = vec![0; MAX_XATTR];
        let length = rustix::fs::fgetxattr(file, name, &mut value[..]).map_err(|errno| io(path, errno))?;
        value.truncate(length);
        value.shrink_to_fit();
        total += length;
        if total > MAX_XATTRS {
            let why = format!("has more than {} KiB of extended attributes", MAX_XATTRS / 1024);
            return Err(unfit(path, why, "look at them with getfattr -d -m -, and remove them with setfattr -x"));
        }
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

/// Text of an image, or why it has none.
fn text_of(path: &Path, image: FileImage) -> Result<String, GuestError> {
    match image {
        FileImage::Regular { bytes, .. } => String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            unfit(path, format!("is not UTF-8 text (line {line})"), "convert it in the guest, for example with iconv")
        }),
        FileImage::Symlink { target } => {
            let why = format!("is a symbolic link to {}; not followed", printable(target.as_os_str()));
            Err(unfit(path, why, "replace the link by the file in the guest"))
        }
        FileImage::Directory { .. } => Err(unfit(path, "is a directory", "put a regular file in its place")),
    }
}

/// The path without leading slash and `.`; `..` is refused.
fn relative(path: &Path) -> Result<PathBuf, GuestError> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(unfit(path, "names a parent directory by ..", "write the path without .."));
            }
        }
    }
    Ok(clean)
}

/// A path of the guest for messages: with leading slash and without control characters.
pub(super) fn shown(path: &Path) -> String {
    printable(Path::new("/").join(path).as_os_str())
}

/// Text of a guest for a terminal: control characters and bytes that are not UTF-8 are escaped.
fn printable(text: &OsStr) -> String {
    let escape = |c: char| if is_hidden(c) { c.escape_default().to_string() } else { c.to_string() };
    text.to_string_lossy().chars().map(escape).collect()
}

/// Shorthand for [`GuestError::Unfit`].
pub(super) fn unfit(path: &Path, why: impl Into<String>, help: impl Into<String>) -> GuestError {
    GuestError::Unfit { path: shown(path), why: why.into(), help: help.into() }
}

fn io(path: &Path, errno: Errno) -> GuestError {
    GuestError::Io { path: shown(path), source: errno.into() }
}

/// Bytes as base64 (RFC 4648) in stored plans.
mod base64 {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64.decode(String::deserialize(from)?.as_bytes()).map_err(D::Error::custom)
    }

    /// The same for the values of a map.
    pub mod map {
        use std::collections::BTreeMap;

        use super::{BASE64, Deserialize, Deserializer, Error, Serializer};

        pub fn serialize<S: Serializer>(map: &BTreeMap<String, Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
            to.collect_map(map.iter().map(|(name, value)| (name, BASE64.encode(value))))
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Vec<u8>>, D::Error> {
            let decode = |(name, value): (String, String)| Ok((name, BASE64.decode(value.as_bytes())?));
            let map: Result<_, data_encoding::DecodeError> =
                BTreeMap::<String, String>::deserialize(from)?.into_iter().map(decode).collect();
            map.map_err(D::Error::custom)
        }
    }
}
