//! `mksnap_ffs`, and what dump(8) asks for with `-L`: a file in the file system's `.snap` whose flag is `snapshot`.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::filesystems;
use crate::host::Host;
use crate::say;
use crate::tools::chflags;

/// UFS has no room for more.
const MOST: usize = 20;

/// `mksnap_ffs FILE`.
pub fn mksnap_ffs(host: &Host, arguments: &[String]) -> u8 {
    let Some(file) = arguments.last() else {
        say::err("usage: mksnap_ffs snapshot_name\n       mksnap_ffs snapshot_mountpoint snapshot_name\n");
        return 1;
    };
    match make(host, file) {
        Ok(()) => 0,
        Err(wrong) => {
            say::err(&format!("mksnap_ffs: Cannot create snapshot {file}: {wrong}\n"));
            1
        }
    }
}

/// Makes one.
///
/// # Errors
/// The words of the C library.
pub fn make(host: &Host, file: &str) -> Result<(), String> {
    let on = filesystems::holding(host, file).filter(|of| of.kind == "ufs");
    let Some(on) = on else { return Err("Operation not supported".to_owned()) };
    let at = host.path(file);
    if at.exists() {
        return Err("File exists".to_owned());
    }
    if count(&host.path(&on.mountpoint)) >= MOST {
        return Err("No space left on device".to_owned());
    }
    let reason = |wrong: std::io::Error| say::reason(&wrong);
    let empty = std::fs::OpenOptions::new().write(true).create_new(true).open(&at).map_err(reason)?;
    empty.set_permissions(std::fs::Permissions::from_mode(0o440)).map_err(reason)?;
    // A new file has the group of its directory there.
    let group = at.parent().and_then(|directory| std::fs::metadata(directory).ok()).map(|directory| directory.gid());
    let _ = std::os::unix::fs::fchown(&empty, None, group);
    chflags::set(&at, &["snapshot".to_owned()]).map_err(reason)
}

/// How many snapshots a file system has, those in `.snap`.
fn count(mountpoint: &Path) -> usize {
    let entries = std::fs::read_dir(mountpoint.join(".snap")).into_iter().flatten().flatten();
    entries.filter(|entry| chflags::flags(&entry.path()).iter().any(|flag| flag == "snapshot")).count()
}

/// The inode of a snapshot, which `restore` finds missing.
pub fn inode(host: &Host, file: &str) -> u64 {
    std::fs::metadata(host.path(file)).map_or(4, |metadata| metadata.ino())
}

/// A copy of a file system's image at one instant, on a loop device of its own; both go with it.
pub struct Copy {
    /// The loop device.
    pub device: String,
    image: std::path::PathBuf,
}

impl Copy {
    /// Of a loop device's file, the file system frozen meanwhile.
    ///
    /// # Errors
    /// In words; a device that is no loop device has no file to copy.
    pub fn of(host: &Host, of: &filesystems::Filesystem, behind: &str) -> Result<Self, String> {
        let name = behind.rsplit('/').next().unwrap_or_default();
        let backing = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"))
            .map_err(|wrong| format!("{behind} is no loop device: {wrong}"))?;
        let image = host.of_state(&format!("snapshot-{}", std::process::id()));
        let run = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program)
                .args(arguments)
                .output()
                .map_err(|wrong| format!("{program}: {wrong}"))?;
            if !output.status.success() {
                return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            }
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let mountpoint = host.path(&of.mountpoint).display().to_string();
        run("/usr/sbin/fsfreeze", &["-f", &mountpoint])?;
        let to = image.display().to_string();
        let copied = run("/bin/cp", &["--sparse=always", "--reflink=auto", backing.trim(), &to]);
        run("/usr/sbin/fsfreeze", &["-u", &mountpoint])?;
        copied?;
        let device = run("/usr/sbin/losetup", &["--find", "--show", "--read-only", &to])?;
        Ok(Self { device, image })
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::process::Command::new("/usr/sbin/losetup").args(["--detach", &self.device]).status();
        let _ = std::fs::remove_file(&self.image);
    }
}
