//! What a server is and has, as far as copying its file systems asks. Reading it changes nothing there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::snap::{self, Snap};
use super::{Compression, Dialect, Mounted, PATH, System, df, table};
use crate::host::{Command, Host};
use crate::{Cause, Error, Result};

/// A server whose file systems can be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// What it runs.
    pub system: System,
    /// `uname -r`: `13.2-RELEASE`, `6.1.0-13-amd64`.
    pub release: String,
    /// What is mounted and on a disk, by mount point. `/` is first.
    pub filesystems: Vec<FileSystem>,
    /// Its /etc/fstab, swap and network mounts included.
    pub fstab: Vec<Mounted>,
    /// What its dump can; `None` if it has none.
    pub dump: Option<Dialect>,
    /// What it could pack a stream with.
    pub compressions: Vec<Compression>,
}

/// A mounted file system of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// Mount point.
    pub mount: PathBuf,
    /// Device it is dumped by.
    pub device: String,
    /// Type, as the system calls it.
    pub kind: String,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Where dump's snapshots would be; FreeBSD's UFS only.
    pub snap: Snap,
}

impl FileSystem {
    /// Whether the source's dump reads this type.
    pub fn dumpable(&self, system: System) -> bool {
        match system {
            System::Freebsd => self.kind == "ufs",
            System::Linux => matches!(self.kind.as_str(), "ext2" | "ext3" | "ext4"),
        }
    }
}

/// What prints the table of mounts; on either system one of the two is there.
const MOUNTS: &str =
    "if test -r /proc/self/mounts && test \"$(uname -s)\" = Linux; then cat /proc/self/mounts; else mount -p; fi";

/// All names of a large file system are looked at.
const LONG: Duration = Duration::from_secs(1800);

/// Largest fstab that is read.
const FSTAB: u64 = 256 << 10;

impl Source {
    /// Looks at a server.
    ///
    /// # Errors
    /// It cannot be reached; it is neither FreeBSD nor Linux; what it prints is not understood.
    pub async fn look(host: &dyn Host) -> Result<Self> {
        let doing = format!("look at the file systems of {}", host.name());
        let (system, release) = uname(host).await?;
        let mounted = mounted(host).await?;
        let usage = match system {
            System::Freebsd => text(host, &doing, "df -k").await?,
            System::Linux => text(host, &doing, "df -kP").await?,
        };
        let usage = df(&usage);
        let mut filesystems: Vec<FileSystem> = Vec::new();
        // A mount hides what was mounted there before it.
        for mount in mounted.into_iter().rev().filter(|mount| mount.device.starts_with("/dev/")) {
            if filesystems.iter().any(|known| known.mount == mount.point) {
                continue;
            }
            let used_bytes = usage.get(&mount.device).map_or(0, |usage| usage.used_bytes);
            let snap = match (system, mount.kind.as_str()) {
                (System::Freebsd, "ufs") => snap::state(host, &mount.point).await?,
                _ => Snap::None,
            };
            let Mounted { device, point, kind, .. } = mount;
            // Nobody who stays on one file system goes into a subvolume: it is one of its own, whose bytes are counted with its
            // file system's.
            if system == System::Linux && kind == "btrfs" {
                let nested = subvolumes(host, &point).await?;
                for point in nested
                    .into_iter()
                    .filter(|point| !filesystems.iter().any(|one| one.mount == *point))
                    .collect::<Vec<_>>()
                {
                    let (device, kind) = (device.clone(), kind.clone());
                    filesystems.push(FileSystem { mount: point, device, kind, used_bytes: 0, snap });
                }
            }
            filesystems.push(FileSystem { mount: point, device, kind, used_bytes, snap });
        }
        filesystems.sort_by(|one, other| one.mount.cmp(&other.mount));
        if filesystems.first().is_none_or(|first| first.mount != Path::new("/")) {
            let why = "no device is mounted as its root".to_owned();
            return Err(Error::new(doing, Cause::Unsupported(why)).help("ZFS and network roots are not copied by dump"));
        }
        let fstab = host.read_file(Path::new("/etc/fstab"), FSTAB).await?.unwrap_or_default();
        Ok(Self {
            system,
            filesystems,
            fstab: table(&fstab),
            dump: dialect(host, system, &release).await?,
            release,
            compressions: compressions(host).await?,
        })
    }

    /// The file system that holds a path.
    pub fn holding(&self, path: &Path) -> Option<&FileSystem> {
        let holds = self.filesystems.iter().filter(|filesystem| path.starts_with(&filesystem.mount));
        holds.max_by_key(|filesystem| filesystem.mount.as_os_str().len())
    }
}

/// Arguments: mount point. Directories in it that begin a subvolume (inode 256, btrfs-subvolume(8)) and are mounted nowhere.
const SUBVOLUMES: &str = "find \"$1\" -xdev -mindepth 1 -type d -inum 256 2>/dev/null; exit 0";

/// Most subvolumes that are gone into.
const MOST_SUBVOLUMES: usize = 1000;

/// Subvolumes of a mounted btrfs, in their places, those in others behind them.
async fn subvolumes(host: &dyn Host, mount: &Path) -> Result<Vec<PathBuf>> {
    let doing = format!("look for subvolumes in {} of {}", mount.display(), host.name());
    let (mut found, mut looked): (Vec<PathBuf>, usize) = (Vec::new(), 0);
    let mut at = mount.to_owned();
    loop {
        let Some(path) = at.to_str() else { return Err(Error::refused(doing, "a name in it is not UTF-8")) };
        let command = Command::new(["sh", "-c", &format!("{PATH}{SUBVOLUMES}"), "sh", path]).timeout(LONG);
        let printed = host.run(&command).await?.checked(&doing, &command)?.text();
        found.extend(printed.lines().filter(|line| line.starts_with('/')).map(PathBuf::from));
        if found.len() > MOST_SUBVOLUMES {
            let why = format!("there are more than {MOST_SUBVOLUMES}");
            return Err(Error::refused(doing, why).help("remove snapshots that lie among its files"));
        }
        let Some(next) = found.get(looked) else { return Ok(found) };
        (at, looked) = (next.clone(), looked + 1);
    }
}

/// System and release.
async fn uname(host: &dyn Host) -> Result<(System, String)> {
    let doing = format!("learn what {} runs", host.name());
    let printed = text(host, &doing, "uname -s; uname -r").await?;
    let mut lines = printed.lines().map(str::trim);
    let system = match lines.next() {
        Some("FreeBSD") => System::Freebsd,
        Some("Linux") => System::Linux,
        other => {
            let other = crate::host::printable(other.unwrap_or("nothing"));
            let why = format!("it says it is {other}; FreeBSD and Linux can be copied from");
            return Err(Error::new(doing, Cause::Unsupported(why)));
        }
    };
    let release = lines.next().unwrap_or_default().chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    Ok((system, release))
}

/// What is mounted on a machine, in the order of mounting.
pub async fn mounted(host: &dyn Host) -> Result<Vec<Mounted>> {
    let doing = format!("list the mounts of {}", host.name());
    Ok(table(text(host, &doing, MOUNTS).await?.as_bytes()))
}

/// What `dump` alone prints is its usage, with status 1; 127 says that there is none.
async fn dialect(host: &dyn Host, system: System, release: &str) -> Result<Option<Dialect>> {
    let command = script("dump </dev/null 2>&1");
    let output = host.run(&command).await?;
    Ok((output.status != 127).then(|| Dialect::of(system, release, &output.text())))
}

/// What a machine could pack and unpack a stream with.
pub async fn compressions(host: &dyn Host) -> Result<Vec<Compression>> {
    let mut found = Vec::new();
    for one in [Compression::Zstd, Compression::Gzip] {
        let probe = format!("echo | {} | {} >/dev/null", one.packs(), one.unpacks());
        let command = script(&format!("type {} >/dev/null 2>&1 || exit 9; {probe}", one.program()));
        if host.run(&command).await?.status == 0 {
            found.push(one);
        }
    }
    Ok(found)
}

fn script(script: &str) -> Command {
    Command::new(["sh", "-c", &format!("{PATH}{script}")]).timeout(Duration::from_secs(120))
}

async fn text(host: &dyn Host, doing: &str, line: &str) -> Result<String> {
    let command = script(line);
    Ok(host.run(&command).await?.checked(doing, &command)?.text())
}
