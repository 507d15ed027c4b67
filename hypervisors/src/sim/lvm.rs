//! A simulated world on real disks: its volumes are logical volumes of a volume group of this machine, and the real driver
//! works on them. Power, services, addresses and jobs stay simulated; the machine is this one.
//!
//! ```text
//! host.json              "volume_group": "vg1"
//! /dev/vg1/N             a volume: a disk named by a path holds an ext4, another one swap space
//! volumes/N.device       while a guest runs on it, what it sees of it: a link to a loop device, which the volume stays
//!                        under when it is renamed. LVM sees the volume open, and not mounted, as under a real guest
//! volumes/N/             where that is mounted then; of a disk with a GPT the partitions whose names are paths (`/`, `/home`), there
//! volumes/N/.jobs.json   detached jobs, with the guest's files as those of a real one
//! ```
//!
//! Who makes such a world makes and fills the volumes, and leaves `volumes/` to the guests. What a guest has not synced is in
//! no snapshot of its volume. A guest that shuts down unmounts; one that is destroyed loses its disks while it writes, and
//! leaves a dirty journal. When this machine has booted, so has the world's host (`boot.json`). Needs root.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MsFlags, mount, umount};

use super::definition::{DiskEntry, Parsed};
use super::world::{Locked, Sim, VolumeMeta, read_json, write_json};
use crate::host::LocalHost;
use crate::storage::LvmStorage;
use crate::{Cause, DiskSource, Error, Host, Result, Storage};

nix::ioctl_read!(ext4_shutdown, b'X', 125, u32);
nix::ioctl_none_bad!(loop_ctl_get_free, 0x4c82);
nix::ioctl_write_int_bad!(loop_set_fd, 0x4c00);
nix::ioctl_none_bad!(loop_clr_fd, 0x4c01);
nix::ioctl_write_int_bad!(loop_set_direct_io, 0x4c08);
nix::ioctl_write_ptr_bad!(loop_set_status64, 0x4c04, [u32; 58]);

/// `EXT4_GOING_FLAGS_LOGFLUSH`: what was synced is in the journal, and nothing more is written.
const JOURNAL_ONLY: u32 = 1;
/// `LO_FLAGS_PARTSCAN`, in `lo_flags` of `struct loop_info64`, its 14th word.
const PARTSCAN: u32 = 8;

impl Sim {
    /// The volume group its volumes are in, if they are logical volumes.
    pub(super) fn group(&self) -> Result<Option<String>> {
        Ok(self.config()?.volume_group)
    }
    /// The directory whose entries definitions name.
    pub(super) fn named_in(&self) -> Result<PathBuf> {
        Ok(self.group()?.map_or_else(|| self.volumes(), |group| Path::new("/dev").join(group)))
    }
    /// Where a disk's bytes are, by the name in the definition.
    pub(super) fn source(&self, name: &str) -> Result<DiskSource> {
        let path = self.named_in()?.join(name);
        Ok(if self.group()?.is_some() { DiskSource::Block(path) } else { DiskSource::Directory(path) })
    }
    /// Whoever opens the world first after this machine has booted finds its guests as their host's boot leaves them.
    pub(super) fn boot_with_its_machine(&self) -> Result<()> {
        if self.group()?.is_none() {
            return Ok(());
        }
        let doing = "look when this machine has booted";
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(|error| Error::io(doing, error))?;
        let noted = self.dir().join("boot.json");
        let mut world = self.lock()?;
        match read_json::<String>(&noted)? {
            Some(last) if last == boot => return Ok(()),
            Some(_) => {
                // The loop devices went with the machine.
                for entry in fs::read_dir(self.volumes()).map_err(|error| Error::io(doing, error))?.flatten() {
                    let path = entry.path();
                    if path.extension().is_some_and(|ending| ending == "device") {
                        fs::remove_file(&path).map_err(|error| Error::io(doing, error))?;
                    } else {
                        let _ = fs::remove_dir(path);
                    }
                }
                let result = world.reboot();
                let outcome = result.as_ref().err().map_or_else(|| "ok".to_owned(), ToString::to_string);
                world.trace("reboot_host", "host", outcome, None)?;
                result?;
            }
            None => {}
        }
        write_json(&noted, &boot)?;
        world.settle(&noted).map_err(|error| Error::io(doing, error))
    }
    /// The machine itself, if the world is on its disks.
    pub(super) fn real_host(&self) -> Option<Arc<dyn Host>> {
        let config = self.config().ok()?;
        config.volume_group?;
        Some(Arc::new(LocalHost::new(config.name)))
    }
    /// Its drivers, then.
    pub(super) fn real_storage(&self) -> Option<Vec<Arc<dyn Storage>>> {
        let host = self.real_host()?;
        Some(vec![Arc::new(LvmStorage::thick(host.clone())), Arc::new(LvmStorage::thin(host))])
    }
}

impl Locked {
    fn link(&self, volume: &str) -> PathBuf {
        self.sim.volumes().join(format!("{volume}.device"))
    }

    /// A starting guest takes hold of its volumes.
    pub fn plug(&self, doing: &str, parsed: &Parsed) -> Result<()> {
        let Some(group) = self.sim.group()? else { return Ok(()) };
        for (index, disk) in parsed.disks.iter().enumerate() {
            let device = Path::new("/dev").join(&group).join(&disk.volume);
            let plugged = match self.user_of(&disk.volume)? {
                Some(guest) => Err(Error::refused(doing, format!("{} is in use by {guest}", disk.volume))),
                None => {
                    // What a killed controller left.
                    self.pull(disk, false);
                    self.plug_in(disk, &device)
                        .map_err(|error| Error::new(doing, Cause::Platform(format!("{}: {error}", device.display()))))
                }
            };
            if plugged.is_err() {
                for disk in &parsed.disks[..index] {
                    self.pull(disk, true);
                }
                return plugged;
            }
        }
        Ok(())
    }
    fn plug_in(&self, disk: &DiskEntry, volume: &Path) -> io::Result<()> {
        let device = attach(volume)?;
        let link = self.link(&disk.volume);
        let tree = self.tree(&disk.volume);
        let hold = || {
            symlink(&device, &link)?;
            if disk.is_swap() {
                return Ok(());
            }
            fs::create_dir_all(&tree)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            for (device, point) in file_systems(&device)? {
                mount(Some(&device), &tree.join(point), Some("ext4"), flags, None::<&str>)?;
            }
            Ok(())
        };
        hold().inspect_err(|_| {
            let _ = let_go(&device, &tree);
            let _ = detach(&device);
            let _ = fs::remove_file(&link);
        })
    }

    /// An ending guest lets go of its volumes; `clean`: it has shut down.
    pub fn unplug(&self, parsed: &Parsed, clean: bool) -> Result<()> {
        if self.sim.group()?.is_some() {
            parsed.disks.iter().for_each(|disk| self.pull(disk, clean));
        }
        Ok(())
    }
    /// What cannot be pulled stays open, which LVM then tells.
    fn pull(&self, disk: &DiskEntry, clean: bool) {
        let link = self.link(&disk.volume);
        let Ok(device) = fs::read_link(&link) else { return };
        let tree = self.tree(&disk.volume);
        if !disk.is_swap() {
            let points = file_systems(&device).unwrap_or_default().into_iter().map(|(_, point)| tree.join(point));
            for point in points.filter(|_| !clean) {
                let Ok(root) = File::open(point) else { continue };
                let mut how = JOURNAL_ONLY;
                // SAFETY: the kernel reads one u32 through the pointer; the descriptor is open.
                let _ = unsafe { ext4_shutdown(root.as_raw_fd(), &raw mut how) };
            }
            if let_go(&device, &tree).is_ok() {
                let _ = fs::remove_dir(&tree);
            }
        }
        if !tree.is_dir() && detach(&device).is_ok() {
            let _ = fs::remove_file(link);
        }
    }

    /// Whether a volume's bytes can be read: a snapshot that filled up gives errors alone.
    pub fn readable(&self, doing: &str, group: &str, volume: &str) -> Result<()> {
        let link = self.link(volume);
        let device = if link.is_symlink() { link } else { Path::new("/dev").join(group).join(volume) };
        let mut bytes = vec![0; 8192];
        let from = bytes.as_ptr().align_offset(4096);
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(&device)
            .and_then(|file| file.read_exact_at(&mut bytes[from..from + 4096], 0))
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::not_found(doing, format!("volume {volume} does not exist")),
                _ => Error::new(doing, Cause::Platform(format!("volume {volume}: {error}"))),
            })
    }

    /// On real disks a file outlives a power cut as a real platform's does.
    pub fn settle(&self, path: &Path) -> io::Result<()> {
        match self.sim.group() {
            Ok(Some(_)) if path.exists() => File::open(path)?.sync_all(),
            _ => Ok(()),
        }
    }

    /// What stands beside a volume's files in a world of trees; of one that no guest runs on, nothing is known.
    pub fn described(&self, volume: &str) -> Result<Option<VolumeMeta>> {
        if !self.link(volume).is_symlink() {
            return Ok(None);
        }
        let tree = self.tree(volume);
        let Ok(room) = rustix::fs::statvfs(&tree) else { return Ok(Some(VolumeMeta::default())) };
        let capacity_bytes = room.f_blocks * room.f_frsize;
        Ok(Some(VolumeMeta {
            capacity_bytes,
            used_bytes: capacity_bytes - room.f_bavail * room.f_frsize,
            // Its files are counted already.
            base_bytes: u64::MAX,
            jobs: read_json(&tree.join(".jobs.json"))?.unwrap_or_default(),
            ..VolumeMeta::default()
        }))
    }
    /// Keeps of such a description what no file system tells: the jobs.
    pub fn describe(&self, volume: &str, meta: &VolumeMeta) -> Result<()> {
        let file = self.tree(volume).join(".jobs.json");
        if !meta.jobs.is_empty() {
            return write_json(&file, &meta.jobs);
        }
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("forget a job", error)),
            _ => Ok(()),
        }
    }
}

impl DiskEntry {
    fn is_swap(&self) -> bool {
        !self.name.starts_with('/')
    }
}

/// What a guest mounts of its disk, outer ones first: device, and point beneath its root.
fn file_systems(device: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let Some(name) = device.file_name() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new("/sys/class/block").join(name))? {
        let entry = entry?;
        // Everything else in that directory has no such line.
        let facts = fs::read_to_string(entry.path().join("uevent")).unwrap_or_default();
        let point = facts.lines().find_map(|line| line.strip_prefix("PARTNAME=/"));
        found.extend(point.map(|point| (device.with_file_name(entry.file_name()), PathBuf::from(point))));
    }
    found.sort_by(|one, other| one.1.cmp(&other.1));
    Ok(if found.is_empty() { vec![(device.to_owned(), PathBuf::new())] } else { found })
}

fn let_go(device: &Path, tree: &Path) -> io::Result<()> {
    for (_, point) in file_systems(device)?.into_iter().rev() {
        // EINVAL: nothing is mounted there.
        umount(&tree.join(point)).or_else(|errno| if errno == nix::Error::EINVAL { Ok(()) } else { Err(errno) })?;
    }
    Ok(())
}

/// A loop device over a volume with its partitions, past this machine's buffers as a guest's disk is; it stays until it is detached.
fn attach(volume: &Path) -> io::Result<PathBuf> {
    let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
    let (control, backing) = (open(Path::new("/dev/loop-control"))?, open(volume)?);
    for _ in 0..32 {
        // SAFETY: takes no argument and returns a number; the descriptor is open.
        let number = unsafe { loop_ctl_get_free(control.as_raw_fd()) }?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        // SAFETY: both take a number, and both descriptors are open.
        match unsafe { loop_set_fd(device.as_raw_fd(), backing.as_raw_fd()) } {
            Ok(_) => {
                let mut status = [0; 58];
                status[13] = PARTSCAN;
                unsafe { loop_set_direct_io(device.as_raw_fd(), 1) }?;
                // SAFETY: the kernel reads a `struct loop_info64`, which is as large.
                unsafe { loop_set_status64(device.as_raw_fd(), &raw const status) }?;
                return Ok(path);
            }
            // Someone else took it between the two calls.
            Err(nix::errno::Errno::EBUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other("no loop device could be had"))
}

fn detach(device: &Path) -> io::Result<()> {
    let file = File::open(device)?;
    // SAFETY: takes no argument; the descriptor is open.
    unsafe { loop_clr_fd(file.as_raw_fd()) }?;
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use super::super::seed_with;
    use super::*;
    use crate::storage::Copies;
    use crate::{DefinitionEdit, DiskEdit, Hypervisor, VolumeKind, VolumeRef};

    #[tokio::test]
    async fn disks_are_devices_of_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let sim = seed_with(&dir.path().join("sim"), Copies::Dependents).unwrap();
        sim.configure(|config| config.volume_group = Some("vg1".into())).unwrap();
        let facts = sim.facts("mercure").await.unwrap().unwrap();
        assert_eq!(facts.disks[0].source, DiskSource::Block("/dev/vg1/mercure".into()));
        assert_eq!(facts.disks[1].source, DiskSource::Block("/dev/vg1/mercure-swap".into()));
        let copy = VolumeRef { kind: VolumeKind::LvmThick, path: "/dev/vg1/mercure--k3f9-root".into() };
        let disks = BTreeMap::from([("/".to_owned(), DiskEdit::Source(copy))]);
        let original = sim.definition("mercure").await.unwrap().unwrap();
        let edited = sim.derive(&original, &DefinitionEdit { disks, ..DefinitionEdit::default() }).unwrap();
        assert!(edited.text.contains("\"volume\": \"mercure--k3f9-root\""), "{}", edited.text);
        assert!(sim.storage(VolumeKind::LvmThin).is_ok() && sim.storage(VolumeKind::Sim).is_err());
    }
}
