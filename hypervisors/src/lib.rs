//! HOW a platform does it: running guests, their definitions, their volumes, the machine beneath them.
//!
//! This crate knows nothing of plans, journals or runs. It offers small operations that are safe to
//! repeat ([`Change`] says what was done, "nothing to do" included) and facts read from the world. It
//! never renders templates: it gets bytes.
//!
//! * [`host`]: a machine; the only place that starts a process.
//! * [`net`]: who owns an address, announcing one, connecting to one.
//! * [`storage`]: volumes and their snapshots.
//! * [`libvirt`], [`xl`], [`jail`], [`sim`]: platforms, each an implementation of [`Hypervisor`].
//! * [`bare`]: a platform that offers nothing but its guests.
//! * [`jail`]: FreeBSD jails, their configuration as texts among it.
//! * [`machines`]: whole virtual machines behind an API; `vsphere` (a cargo feature): VMware's.
//! * [`transfer`]: a server's file systems, copied while it runs into a tree on another machine.
//! * [`Placed`]: a platform made of two, one that holds the volumes and one that runs the guests; [`sight`]: what each sees.
//! * `versions`: definitions under git or subversion.
//! * [`occasion`]: why something is done, and what a platform has to tell about it.

pub mod bare;
pub mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod host;
pub mod jail;
pub mod libvirt;
pub mod machines;
pub mod net;
pub mod occasion;
mod placed;
pub mod sight;
pub mod sim;
pub mod storage;
pub mod transfer;
mod versions;
#[cfg(feature = "vsphere")]
pub mod vsphere;
pub mod xl;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use error::{Cause, Error, Result};
pub use host::{ByMac, GuestLink, Host};
pub use machines::Machines;
pub use net::{MacAddr, Net};
pub use placed::Placed;
pub use sight::{Bridged, FreeMemory, Sight};
pub use storage::{Mark, Role, Storage, VolumeKind, VolumeRef};

/// What an idempotent operation did. `Unchanged` is a success: the world already was as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The object did not exist and does now.
    Created,
    /// The object existed and is different now.
    Changed,
    /// The object existed and is gone.
    Removed,
    /// Nothing had to be done.
    Unchanged,
}

/// Power state of a guest, as the platform tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// Running (or about to: booting counts).
    On,
    /// Not running.
    Off,
    /// Frozen in memory by the platform.
    Paused,
}

/// What a platform can and cannot do. The lifecycle decides by these, never by a platform's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Guests share the host's kernel (containers, jails): an upgrade needs no kernel of its own.
    pub shares_host_kernel: bool,
    /// A reboot from inside uses the definition the guest was started with, not the stored one.
    pub reboots_from_memory: bool,
    /// A guest can be paused for the instant of a snapshot.
    pub can_pause: bool,
}

/// Where a disk's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskSource {
    /// A directory on the host that is the guest's file system (containers).
    Directory(PathBuf),
    /// A block device on the host.
    Block(PathBuf),
    /// An image file on the host.
    File(PathBuf),
    /// Anything else (network, passthrough, volume of a pool …), in the platform's words; never cloned.
    Other(String),
}

/// One disk or file system of a guest, as its definition names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The name used in the inventory and in plans: the device (`xvda1`) or, for a file system, its target (`/srv/mail`).
    pub name: String,
    /// Where its bytes are.
    pub source: DiskSource,
    /// Holds the guest's root file system, as far as the definition tells (target `/`, first disk).
    pub root: bool,
    /// Read-only for the guest.
    pub readonly: bool,
    /// Declared shareable between guests.
    pub shareable: bool,
}

/// One network card of a guest, as its definition describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The name inside the guest, where the definition fixes it (libvirt-lxc `<guest dev=…>`), else `eth0`, `eth1` … by order for containers, else absent.
    pub name: Option<String>,
    /// Hardware address; `None` if the platform draws one at each start.
    pub mac: Option<MacAddr>,
    /// Bridge or network on the host it is plugged into; also the interface by which the host sees the guest.
    pub bridge: String,
    /// Name of a packet filter that may name addresses (libvirt nwfilter), if any.
    pub filter: Option<String>,
    /// Addresses the definition itself names (filter parameters, `vif ip=`).
    pub addresses: Vec<IpAddr>,
}

/// A kernel on the host that a guest is started with, with no boot loader of the guest's in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKernel {
    /// Path of the kernel on the host.
    pub kernel: String,
    /// Path of its initrd there.
    #[serde(default)]
    pub initrd: Option<String>,
    /// Its command line.
    #[serde(default)]
    pub arguments: Option<String>,
}

impl HostKernel {
    /// Whether a kernel of the host's is a boot loader (pv-grub, pygrub's kin) that starts the guest's own.
    pub(crate) fn is_loader(kernel: &str) -> bool {
        let name = kernel.rsplit('/').next().unwrap_or(kernel);
        name.contains("grub") || name == "hvmloader"
    }
}

/// What the platform knows about a guest, without looking inside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFacts {
    /// Platform name.
    pub name: String,
    /// Platform UUID, where there is one.
    pub uuid: Option<String>,
    /// Power state now.
    pub power: Power,
    /// Starts with its host.
    pub autostart: bool,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Virtual processors.
    pub vcpus: u32,
    /// Disks and file systems, in the order of the definition.
    pub disks: Vec<Disk>,
    /// Network cards, in the order of the definition.
    pub nics: Vec<Nic>,
    /// A saved memory image exists; starting would resume it.
    pub managed_save: bool,
    /// The run mark on the definition, if any.
    pub mark: Option<Mark>,
    /// The kernel of the host that it is started with; `None`: it boots its own, or shares the host's.
    pub kernel: Option<HostKernel>,
    /// A jail with a network stack of its own (vnet): its addresses are set within, and known to nobody here. Such a guest is shown and
    /// left alone.
    #[serde(default)]
    pub vnet: bool,
}

/// A stored guest definition, byte for byte as the platform gave it (libvirt: inactive, with secrets).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Platform name of the guest it defines.
    pub name: String,
    /// The text (domain XML, xl.cfg, sim JSON).
    pub text: String,
}

/// What happens to one disk in an edited definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskEdit {
    /// Points to this volume instead.
    Source(VolumeRef),
    /// Left out.
    Remove,
}

/// An edit of a definition. What is not named stays as it is, understood or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionEdit {
    /// New platform name.
    pub name: Option<String>,
    /// New UUID.
    pub uuid: Option<String>,
    /// Run mark to set (`Some(None)` removes one).
    pub mark: Option<Option<Mark>>,
    /// New hardware addresses by card, in definition order (`None`: unchanged).
    pub macs: Vec<Option<MacAddr>>,
    /// What becomes of addresses that the definition itself names ([`Nic::addresses`]): another, or taken out. Rewritten
    /// where a host routes by them (xl's `vif ip=`); libvirt's filters are not rewritten.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Disk edits by disk name.
    pub disks: BTreeMap<String, DiskEdit>,
    /// New memory size in bytes.
    pub memory_bytes: Option<u64>,
    /// New number of processors.
    pub vcpus: Option<u32>,
    /// Another kernel of the host, for a guest that is started with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<HostKernel>,
}

/// An address of a guest that is to be defined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAddress {
    /// Interface of the host that carries it.
    pub interface: Option<String>,
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
}

/// A guest that a host has no definition of yet, nor one to derive it from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewGuest {
    /// Platform name.
    pub name: String,
    /// Directory of the host that is its root file system.
    pub root: PathBuf,
    /// Its hostname, for platforms that set it.
    pub hostname: String,
    /// Its addresses.
    pub addresses: Vec<NewAddress>,
    /// Its run mark.
    pub mark: Option<Mark>,
    /// What is particular to a container; jails have none of it.
    pub container: Option<NewContainer>,
}

/// What a container needs beside what every new guest needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewContainer {
    /// Its UUID.
    pub uuid: String,
    /// Name of its network card, inside.
    pub card: String,
    /// Hardware address of the card.
    pub mac: MacAddr,
    /// Its memory in bytes.
    pub memory_bytes: u64,
}

/// A platform that runs guests. Every operation is safe to repeat; errors whose effect is uncertain (lost
/// link, time-out) have [`Cause::Unknown`], and the caller looks at the world again.
#[async_trait]
pub trait Hypervisor: Send + Sync + fmt::Debug {
    /// The machine that runs the guests.
    fn host(&self) -> Arc<dyn Host>;
    /// The network as this machine sees it.
    fn net(&self) -> Arc<dyn Net>;
    /// What the platform can do.
    fn capabilities(&self) -> Capabilities;
    /// A word for people and for the inventory's `hypervisor` key (`libvirt`, `xl`, `sim`).
    fn platform(&self) -> &'static str;

    /// Every defined guest (name order), with all facts.
    async fn list(&self) -> Result<Vec<GuestFacts>>;
    /// One guest's facts; `None` if it is not defined.
    async fn facts(&self, guest: &str) -> Result<Option<GuestFacts>>;
    /// One guest's stored definition; `None` if it is not defined.
    async fn definition(&self, guest: &str) -> Result<Option<Definition>>;
    /// Writes the definition of a guest that is new to this host, by the convention of its other guests; it is not stored.
    async fn compose(&self, guest: &NewGuest) -> Result<Definition> {
        let why = format!("a definition is made from another one on {}", self.platform());
        Err(Error::new(format!("write a definition of {}", guest.name), Cause::Unsupported(why)))
    }
    /// Applies an edit to a definition; pure. Everything not named by the edit is preserved byte for byte.
    fn derive(&self, original: &Definition, edit: &DefinitionEdit) -> Result<Definition>;
    /// The definition of a guest that shall run beside another as its copy: [`Hypervisor::derive`] of the other's, with what the platform
    /// says of it elsewhere (wildcards of a jail.conf(5)); it is not stored.
    async fn copy_of(&self, guest: &str, edit: &DefinitionEdit) -> Result<Definition> {
        let doing = format!("write a definition like that of {guest}");
        let original = self.definition(guest).await?.ok_or_else(|| Error::not_found(doing, "it is not defined"))?;
        self.derive(&original, edit)
    }
    /// [`Hypervisor::derive`] of a definition that is stored, with what the platform says of it elsewhere (variables of a jail.conf(5)).
    async fn redefined(&self, stored: &Definition, edit: &DefinitionEdit) -> Result<Definition> {
        self.derive(stored, edit)
    }
    /// Stores a definition under its name (same UUID: replaces). The running guest is not touched, but where a reboot from
    /// inside would use the definition it was started with and that can be changed, it uses the new one from then on.
    async fn define(&self, definition: &Definition) -> Result<Change>;
    /// Removes a definition. Refuses while the guest is on.
    async fn undefine(&self, guest: &str) -> Result<Change>;

    /// Power state. An undefined guest is `Off`; where a guest is found by a name that people change, it is
    /// [`Cause::NotFound`].
    async fn power(&self, guest: &str) -> Result<Power>;
    /// Starts a defined guest (a paused one is resumed); returns when the platform says it runs.
    async fn start(&self, guest: &str) -> Result<Change>;
    /// Asks the guest to shut down and waits until it is off; after `patience`, an error with [`Cause::Unknown`].
    async fn shutdown(&self, guest: &str, patience: Duration) -> Result<Change>;
    /// Ends the guest at once, as a power cut does.
    async fn destroy(&self, guest: &str) -> Result<Change>;
    /// Freezes a running guest.
    async fn pause(&self, guest: &str) -> Result<Change>;
    /// Thaws a paused guest.
    async fn resume(&self, guest: &str) -> Result<Change>;
    /// The command of the host's own that thaws a guest if it is paused, and does nothing otherwise; `None` if the host has none.
    async fn resume_command(&self, guest: &str) -> Result<Option<Vec<String>>>;
    /// Whether the guest starts with its host; an undefined guest does not.
    async fn autostart(&self, guest: &str) -> Result<bool>;
    /// Sets whether the guest starts with its host.
    async fn set_autostart(&self, guest: &str, on: bool) -> Result<Change>;

    /// The volume behind a disk, recognised by looking at it (a directory that is a btrfs subvolume, say).
    async fn volume(&self, disk: &Disk) -> Result<VolumeRef>;
    /// The driver for a kind of volume on this host.
    fn storage(&self, kind: VolumeKind) -> Result<Arc<dyn Storage>>;
    /// The inside of a running guest, as a machine commands can be run on.
    fn guest(&self, link: &GuestLink) -> Result<Arc<dyn Host>>;

    /// The platform that holds the volumes, if that is another than the one that runs the guests.
    fn holder(&self) -> Option<Arc<dyn Hypervisor>> {
        None
    }
    /// What it offers for whole machines, if it has an API for such.
    fn machines(&self) -> Option<Arc<dyn Machines>> {
        None
    }
    /// What this host sees behind the path of a volume; `None` if there is nothing.
    async fn sight(&self, path: &Path) -> Result<Option<Sight>> {
        sight::look(&*self.host(), path).await
    }
    /// Whether a bridge of this host has heard a hardware address that was just in use on a link.
    async fn bridged(&self, bridge: &str, mac: MacAddr) -> Result<Bridged> {
        sight::bridged(&*self.host(), bridge, mac).await
    }
    /// Memory that guests of this host could be given; `None` if it cannot be told.
    async fn free_memory(&self) -> Result<Option<FreeMemory>> {
        let available = sight::available(&*self.host()).await?;
        Ok(available.map(|free_bytes| FreeMemory { free_bytes, more_bytes: 0 }))
    }
}
