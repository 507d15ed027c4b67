//! The dom0 lab: a real Xen host with real LVM, libvirt and xl, in a machine emulated by qemu. No KVM, no module of
//! this machine's kernel, nothing of its network is used.
//!
//! ```text
//!  this machine ── 127.0.0.1:PORT ── qemu (TCG) ── Xen 4.17 ─┬─ dom0 trolls: Debian 12, xenbr0 10.0.5.1/24
//!                                                            └─ guests: mercure 10.0.5.12 …
//!  /dev/vda root.img    trolls' root, a copy of the image    /dev/vdb vg1.img    volume group vg1, 12 GiB, sparse
//!  /dev/vdc guest.img   a guest's root, read-only            /share   share/     files for trolls, read-only
//! ```
//!
//! Parts: [`image`] (built once, cached outside the lab), [`machine`] with its [`monitor`], [`session`] (commands and
//! files in trolls, the product among them), [`vg`], [`guest`],
//! [`tale`] (what tests tell of a guest that boots), [`ring`] (one machine for all tests).
//!
//! Invariants: a lab owns one directory and one process, and nothing else of the machine; what runs in trolls is reached
//! by ssh as root. A boot is for libvirt *or* for xl with xendomains ([`Toolstack`]): their services exclude each other.

pub mod guest;
pub mod image;
pub mod machine;
pub mod monitor;
pub mod ring;
pub mod session;
pub mod tale;
pub mod vg;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use crate::command::run;
use crate::lab::{directory, timed};

/// How large the volume group may grow; it takes of this machine what is written.
const VG_SIZE: u64 = 12 << 30;

/// Files of the image that a lab uses as they are.
const SHARED: [&str; 6] = ["xen", "vmlinuz", "initrd.img", "guest.img", "key", "key.pub"];

/// Who manages guests in a boot of dom0. libvirtd.service and xendomains.service conflict: starting one stops the
/// other, and guests may go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toolstack {
    /// libvirt, `xen:///system`.
    Libvirt,
    /// xl, and xendomains for what is linked in /etc/xen/auto.
    Xl,
}

impl Toolstack {
    /// Its name: `libvirt` or `xl`.
    pub fn name(self) -> &'static str {
        match self {
            Toolstack::Libvirt => "libvirt",
            Toolstack::Xl => "xl",
        }
    }

    /// The toolstack of this name.
    pub fn named(name: &str) -> Option<Toolstack> {
        [Toolstack::Libvirt, Toolstack::Xl].into_iter().find(|toolstack| toolstack.name() == name)
    }

    /// Keeps the other one's services off for a boot (systemd-debug-generator(8)), so that nothing on the disk changes.
    fn kernel_words(self) -> &'static str {
        match self {
            Toolstack::Libvirt => "systemd.mask=xendomains.service",
            Toolstack::Xl => {
                "systemd.mask=libvirtd.service systemd.mask=libvirtd.socket systemd.mask=libvirtd-ro.socket systemd.mask=libvirtd-admin.socket"
            }
        }
    }
}

/// A dom0 lab, up or down.
#[derive(Debug, Clone)]
pub struct Dom0 {
    number: u8,
    dir: PathBuf,
}

impl Dom0 {
    /// dom0 lab `number` (0 to 9): directory `DIR/dom0-NUMBER`.
    ///
    /// # Errors
    /// As [`crate::lab::Lab::numbered`].
    pub fn numbered(number: u8) -> Result<Dom0> {
        Ok(Dom0 { number, dir: directory(number, "dom0-")? })
    }

    /// Its number.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Something in its directory.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.join(below)
    }

    /// The key that trolls and its guests know.
    pub fn key(&self) -> PathBuf {
        self.path("key")
    }

    /// A new machine, booted, with an empty volume group vg1; what is left of an earlier lab of this number goes first.
    ///
    /// # Errors
    /// Whatever could not be built; the rest stays for a look until [`Dom0::down`] or the next `up`.
    pub fn up(&self, toolstack: Toolstack) -> Result<()> {
        let begun = Instant::now();
        self.prepare()?;
        self.boot(toolstack)?;
        timed("vg1", || vg::make(self))?;
        eprintln!("lab: dom0 {} up in {:.1} s", self.number, begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// A new machine, off; what is left of an earlier lab of this number goes first.
    ///
    /// # Errors
    /// The images could not be built or copied.
    pub fn prepare(&self) -> Result<()> {
        check()?;
        self.down()?;
        let images = timed("images", image::built)?;
        timed("disks", || self.make_disks(&images))
    }

    /// Puts the machine's disks, and what it boots from, into the lab's directory.
    fn make_disks(&self, images: &Path) -> Result<()> {
        fs::create_dir_all(self.path("share"))?;
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700))?;
        for file in SHARED {
            let (from, to) = (images.join(file), self.path(file));
            // Linked, they outlive a rebuild of the image; not if cache and labs are on different file systems.
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
            }
        }
        let root = images.join("root.img");
        run("cp").args(["--sparse=always", "--reflink=auto"]).arg(root).arg(self.path("root.img")).output()?;
        fs::File::create(self.path("vg1.img"))?.set_len(VG_SIZE)?;
        let made_of = images.file_name().context("the images' directory has a name")?;
        Ok(fs::write(self.path("image"), made_of.as_encoded_bytes())?)
    }

    /// Switches the machine on and waits until trolls has settled and its toolstack answers. Its disks are as they are.
    ///
    /// # Errors
    /// It is on already, or does not come up; the end of its console is in the error.
    pub fn boot(&self, toolstack: Toolstack) -> Result<()> {
        timed("qemu", || self.power_on(toolstack))?;
        timed("trolls to ssh", || session::wait_for_ssh(self))?;
        timed("trolls settled", || session::wait_settled(self, toolstack))
    }

    /// Switches the machine on and leaves it to its boot.
    ///
    /// # Errors
    /// It is on already, or qemu does not run.
    pub fn power_on(&self, toolstack: Toolstack) -> Result<()> {
        ensure!(self.path("root.img").exists(), "dom0 lab {} is not there: lab dom0 up", self.number);
        ensure!(!machine::is_up(self), "dom0 lab {} is on", self.number);
        fs::write(self.path("toolstack"), toolstack.name())?;
        machine::start(self, toolstack)
    }

    /// Takes the power from the machine: what was only in its memory is lost.
    ///
    /// # Errors
    /// The process does not end.
    pub fn power_cut(&self) -> Result<()> {
        session::forget(self);
        machine::cut(self)
    }

    /// Limits what the disk of the volume group takes, in bytes a second, until the machine's next start.
    ///
    /// # Errors
    /// qemu refuses.
    pub fn slow_volumes(&self, written: u64) -> Result<()> {
        // bps bps_rd bps_wr iops iops_rd iops_wr; it prints nothing unless it refuses.
        let said = monitor::human(&self.path("monitor"), &format!("block_set_io_throttle vdb 0 0 {written} 0 0 0"))?;
        ensure!(said.trim().is_empty(), "qemu: {said}");
        Ok(())
    }

    /// Power cut and boot with the toolstack it had.
    ///
    /// # Errors
    /// As [`Dom0::power_cut`] and [`Dom0::boot`].
    pub fn power_cycle(&self) -> Result<()> {
        self.power_cut()?;
        self.boot(self.toolstack()?)
    }

    /// Whether the machine is on.
    pub fn is_up(&self) -> bool {
        machine::is_up(self)
    }

    /// The toolstack of this boot, or of the last one.
    ///
    /// # Errors
    /// The lab is not there.
    pub fn toolstack(&self) -> Result<Toolstack> {
        let name = fs::read_to_string(self.path("toolstack")).context("dom0 is not there: lab dom0 up")?;
        Toolstack::named(&name).with_context(|| format!("a toolstack: {name}"))
    }

    /// Takes down all that is there of this lab.
    ///
    /// # Errors
    /// What could not be removed; calling again goes on.
    pub fn down(&self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        self.power_cut()?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("removing {}", self.dir.display()))?;
        if let Some(base) = self.dir.parent() {
            // Shared by all labs: goes with the last.
            let _ = fs::remove_dir(base);
        }
        Ok(())
    }

    /// What of this lab is on the machine now, a line each; empty after [`Dom0::down`].
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        if self.is_up() {
            left.push(format!("qemu runs, trolls at 127.0.0.1:{}", session::port(self).unwrap_or_default()));
        }
        if self.dir.exists() {
            left.push(format!("directory {}", self.dir.display()));
        }
        left
    }
}

/// Whether a dom0 lab can be built here.
fn check() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "a lab needs root: it makes file systems with other users' files");
    let tools = [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("mmdebstrap", "mmdebstrap"),
        ("mke2fs", "e2fsprogs"),
        ("gzip", "gzip"),
        ("ssh", "openssh-client"),
        ("ssh-keygen", "openssh-client"),
    ];
    let missing = crate::lab::prerequisites::missing(&tools);
    if !missing.is_empty() {
        bail!("missing: {}; run integration/prerequisites dom0", missing.join(", "));
    }
    Ok(())
}
