//! The directory of definitions, and what xendomains(8) reads: guests that start with the host, saved memory images.
//!
//! All of it on this machine ([`super::shelf`] does the same on another). A definition is replaced whole, or not at all; it keeps its mode and its owner, and a link stays a
//! link. Nothing here knows what a definition says.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::{Path, PathBuf};

use crate::host::printable;
use crate::{Error, Result};

/// Bytes a definition may have.
pub const LIMIT: u64 = 1 << 20;
/// Ending of an autostart link that is switched off; xendomains does not see it, because its name begins with a dot.
pub const ASIDE: &str = ".upgradectl";

/// Where a dom0 keeps what this backend works on.
#[derive(Clone, Debug)]
pub struct Places {
    /// Definitions: `NAME.cfg`.
    pub definitions: PathBuf,
    /// Links to definitions of guests that start with the host; `None`: xendomains starts none.
    pub auto: Option<PathBuf>,
    /// Memory images that xendomains saved, by guest name.
    pub saved: Option<PathBuf>,
    /// What libxl keeps about running domains (`userdata-d.ID.UUID.KIND`).
    pub userdata: PathBuf,
}

impl Places {
    /// The places of a dom0 whose definitions are there; `defaults` is what its /etc/default/xendomains says.
    pub fn new(definitions: impl Into<PathBuf>, defaults: &str) -> Self {
        let place = |key: &str, usual: &str| match setting(defaults, key).as_deref() {
            None => Some(PathBuf::from(usual)),
            Some("") => None,
            Some(path) => Some(PathBuf::from(path)),
        };
        Self {
            definitions: definitions.into(),
            auto: place("XENDOMAINS_AUTO", "/etc/xen/auto"),
            saved: place("XENDOMAINS_SAVE", "/var/lib/xen/save"),
            userdata: "/var/lib/xen".into(),
        }
    }

    /// The file of a guest's definition. A name that is no plain file name is refused.
    pub fn definition(&self, guest: &str) -> Result<PathBuf> {
        let plain = !guest.is_empty()
            && guest.len() <= 200
            && guest.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
            && !guest.starts_with(['.', '-']);
        match plain {
            true => Ok(self.definitions.join(format!("{guest}.cfg"))),
            false => Err(Error::refused(
                format!("find the definition of {}", printable(guest)),
                "its name holds characters that the name of its file could not",
            )),
        }
    }

    /// The memory image that xendomains would resume instead of starting the guest, if there is one.
    pub fn image(&self, guest: &str) -> Option<PathBuf> {
        self.saved.as_ref().map(|saved| saved.join(guest))
    }

    /// What is there if libvirt started a domain: it keeps its XML with libxl's own data.
    pub fn of_libvirt(&self, id: u32, uuid: &str) -> PathBuf {
        self.userdata.join(format!("userdata-d.{id}.{uuid}.libvirt-xml"))
    }
}

/// Every definition's file of a directory, in name order.
pub fn all(definitions: &Path) -> Result<Vec<PathBuf>> {
    let doing = format!("list {}", definitions.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(definitions).map_err(|error| Error::io(&*doing, error))? {
        let path = entry.map_err(|error| Error::io(&*doing, error))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|extension| extension == "cfg") && !hidden {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// `KEY=value` of a shell's defaults file; the last one counts. What a shell would have to work out is as if it were not there.
fn setting(text: &str, key: &str) -> Option<String> {
    let mut values = text.lines().filter_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    let value = values.next_back()?.split(" #").next().unwrap_or_default().trim();
    let bare = value.trim_matches(['"', '\'']);
    (!bare.contains(['$', '`', '"', '\'', ' '])).then(|| bare.to_owned())
}

/// A definition's text; `None` if there is none.
pub fn read(path: &Path) -> Result<Option<String>> {
    let doing = || format!("read {}", path.display());
    let facts = match fs::metadata(path) {
        Ok(facts) => facts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(doing(), error)),
    };
    if !facts.is_file() || facts.len() > LIMIT {
        return Err(Error::refused(doing(), format!("it is not a file of at most {LIMIT} bytes")));
    }
    let bytes = fs::read(path).map_err(|error| Error::io(doing(), error))?;
    text(doing(), bytes).map(Some)
}

/// The text of a definition's bytes.
pub fn text(doing: String, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::new(doing, crate::Cause::Malformed(format!("line {line} is not UTF-8")))
            .help("convert it: iconv -f ISO-8859-1 -t UTF-8")
    })
}

/// A new text beside the file it shall become.
pub struct Draft {
    /// Where it is.
    pub path: PathBuf,
    target: PathBuf,
    existed: bool,
    done: bool,
}

impl Draft {
    /// Writes it, with the mode and owner of the file there, else 0600 and the directory's owner.
    pub fn write(path: &Path, text: &str) -> Result<Self> {
        let doing = || format!("write {}", path.display());
        // a link to where the definitions really are stays one
        let (target, like) = match fs::canonicalize(path) {
            Ok(target) => {
                let like = fs::metadata(&target).map_err(|error| Error::io(doing(), error))?;
                (target, Some(like))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), None),
            Err(error) => return Err(Error::io(doing(), error)),
        };
        let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(Error::refused(doing(), "it has no directory or no name"));
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}{ASIDE}", std::process::id()));
        let draft = Self { path: directory.join(hidden), existed: like.is_some(), done: false, target: target.clone() };
        let fill = || -> io::Result<()> {
            let _ = fs::remove_file(&draft.path);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft.path)?;
            file.write_all(text.as_bytes())?;
            let owner = match &like {
                Some(like) => (like.uid(), like.gid(), like.mode() & 0o7777),
                None => fs::metadata(directory).map(|directory| (directory.uid(), directory.gid(), 0o600))?,
            };
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (owner.0, owner.1) {
                fchown(&file, Some(owner.0), Some(owner.1))?;
            }
            file.set_permissions(fs::Permissions::from_mode(owner.2))?;
            file.sync_all()
        };
        fill().map_err(|error| Error::io(doing(), error))?;
        Ok(draft)
    }

    /// Puts it in the place of the file. Returns whether there was one.
    pub fn put(mut self) -> Result<bool> {
        let doing = format!("replace {}", self.target.display());
        fs::rename(&self.path, &self.target).map_err(|error| Error::io(&*doing, error))?;
        self.done = true;
        sync_directory(&self.target).map_err(|error| Error::io(doing, error))?;
        Ok(self.existed)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn sync_directory(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

/// Removes a definition's file.
pub fn remove(path: &Path) -> Result<()> {
    let doing = || format!("remove {}", path.display());
    let facts = fs::symlink_metadata(path).map_err(|error| Error::io(doing(), error))?;
    if facts.is_symlink() {
        return Err(Error::refused(doing(), "it is a link, and somebody made it one").help("remove it by hand"));
    }
    fs::remove_file(path).and_then(|()| sync_directory(path)).map_err(|error| Error::io(doing(), error))
}

/// How a guest stands in the directory of those that start with the host.
#[derive(Debug, Default)]
pub struct Links {
    /// Links to its definition that xendomains follows.
    pub on: Vec<PathBuf>,
    /// Links to it that were switched off.
    pub off: Vec<PathBuf>,
    /// Files that are no links and have its file's name: copies that do not follow the definition.
    pub copies: Vec<PathBuf>,
}

/// Looks for a definition in the directory of those that start with the host.
pub fn links(auto: &Path, definition: &Path) -> Result<Links> {
    let doing = || format!("look into {}", auto.display());
    let entries = match fs::read_dir(auto) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Links::default()),
        Err(error) => return Err(Error::io(doing(), error)),
    };
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let wanted = real(definition);
    let mut links = Links::default();
    for entry in entries {
        let path = entry.map_err(|error| Error::io(doing(), error))?.path();
        let name = path.file_name().map(|name| name.as_encoded_bytes().to_vec()).unwrap_or_default();
        let hidden = name.starts_with(b".");
        if !path.is_symlink() {
            if !hidden && path.file_name() == definition.file_name() {
                links.copies.push(path);
            }
        } else if real(&path) == wanted {
            match hidden {
                false => links.on.push(path),
                true if name.ends_with(ASIDE.as_bytes()) => links.off.push(path),
                true => {}
            }
        }
    }
    links.on.sort();
    links.off.sort();
    Ok(links)
}

/// The name of a link that is switched off.
pub fn aside(link: &Path) -> PathBuf {
    let mut hidden = OsString::from(".");
    hidden.push(link.file_name().unwrap_or_default());
    hidden.push(ASIDE);
    link.with_file_name(hidden)
}

/// The name it has when it is switched on again.
pub fn back(link: &Path) -> PathBuf {
    let name = link.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_prefix('.').unwrap_or(name);
    link.with_file_name(name.strip_suffix(ASIDE).unwrap_or(name))
}

/// Switches a link off, so that it can come back as it was.
pub fn put_aside(link: &Path) -> Result<()> {
    fs::rename(link, aside(link))
        .and_then(|()| sync_directory(link))
        .map_err(|error| Error::io(format!("switch {} off", link.display()), error))
}

/// Switches a link on again.
pub fn put_back(link: &Path) -> Result<()> {
    fs::rename(link, back(link))
        .and_then(|()| sync_directory(link))
        .map_err(|error| Error::io(format!("switch {} on", link.display()), error))
}

/// Links a definition into the directory of those that start with the host, which Debian's package does not make.
pub fn link(auto: &Path, definition: &Path) -> Result<()> {
    let link = auto.join(definition.file_name().unwrap_or_default());
    fs::create_dir_all(auto)
        .and_then(|()| symlink(definition, &link))
        .and_then(|()| sync_directory(&link))
        .map_err(|error| Error::io(format!("link {}", link.display()), error))
}

/// Whether these links are the one that [`link`] makes.
pub fn is_ours(links: &[PathBuf], auto: &Path, definition: &Path) -> bool {
    let ours = auto.join(definition.file_name().unwrap_or_default());
    links == [ours.as_path()] && fs::read_link(&ours).is_ok_and(|target| target == definition)
}

/// Removes a link.
pub fn unlink(link: &Path) -> Result<()> {
    fs::remove_file(link)
        .and_then(|()| sync_directory(link))
        .map_err(|error| Error::io(format!("remove {}", link.display()), error))
}
