//! Whole virtual machines behind an API (vCenter, ESXi): what such a platform offers beyond [`crate::Hypervisor`], in types that know
//! nothing of its protocol.
//!
//! * A machine is named by its instance UUID, which stays when it is renamed, moved or reverted ([`Machines::find`] tells it).
//! * A snapshot is named by the id that making it returned. Names of snapshots need not be unique, and are for people.
//! * Everything made for a run carries its [`Mark`]; nothing without it is ever destroyed.
//! * Every operation is safe to repeat. Errors with [`crate::Cause::Unknown`] may have had their effect: look again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Change, Host, MacAddr, Mark, Power, Result};

/// A machine that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its instance UUID, lower case.
    pub uuid: String,
    /// Inventory path: `/DC0/vm/web/web1`, as the platform writes it (`/` within a name is `%2f`).
    pub path: String,
    /// The last part of the path.
    pub name: String,
}

/// Everything about a machine that a decision may rest on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// Which one it is.
    pub machine: Machine,
    /// BIOS UUID, lower case, as its system sees it (SMBIOS); `None`: the platform does not tell.
    pub bios: Option<String>,
    /// Power state now. Suspended to disk is [`Power::Paused`].
    pub power: Power,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Virtual processors.
    pub cpus: u32,
    /// Disks, in the order of the definition.
    pub disks: Vec<MachineDisk>,
    /// Network cards, in the order of the definition.
    pub nics: Vec<MachineNic>,
    /// VMware tools in the guest, as the platform sees them.
    pub tools: Tools,
    /// All snapshots, a parent before its children.
    pub snapshots: Vec<SnapshotFacts>,
    /// The snapshot that the running state descends from.
    pub current_snapshot: Option<String>,
    /// Its run mark.
    pub mark: Option<Mark>,
    /// Addresses that the tools report.
    pub addresses: Vec<IpAddr>,
    /// A snapshot was removed and its disks could not be folded: [`Machines::consolidate`] does.
    pub needs_consolidation: bool,
    /// A template cannot be started.
    pub template: bool,
}

impl MachineFacts {
    /// Files of other machines' that this one's disks stand on: the backing chains, without those in its own directories. Empty
    /// after disks were promoted.
    pub fn borrowed(&self) -> Vec<&str> {
        let own: Vec<&str> = self.disks.iter().filter_map(|disk| directory(&disk.file)).collect();
        let chain = self.disks.iter().flat_map(|disk| disk.parents.iter().map(String::as_str));
        chain.filter(|file| directory(file).is_none_or(|place| !own.contains(&place))).collect()
    }

    /// Whether this machine cannot be without another: a disk of it, or what one stands on, lies where the other's disks do.
    pub fn stands_on(&self, other: &Self) -> bool {
        let theirs: Vec<&str> = other.disks.iter().filter_map(|disk| directory(&disk.file)).collect();
        let files = self.disks.iter().flat_map(|disk| disk.parents.iter().chain([&disk.file]));
        self.machine.uuid != other.machine.uuid
            && files.filter_map(|file| directory(file)).any(|place| theirs.contains(&place))
    }
}

/// `[datastore] directory` of a file.
fn directory(file: &str) -> Option<&str> {
    file.rsplit_once('/').map(|(directory, _)| directory)
}

/// A virtual disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDisk {
    /// Its key among the machine's devices.
    pub key: i32,
    /// Its label: `Hard disk 1`.
    pub label: String,
    /// The file it is written to: `[datastore] web1/web1.vmdk`; empty for a disk that is no file.
    pub file: String,
    /// The files that one stands on, the nearest first.
    pub parents: Vec<String>,
    /// Size in bytes.
    pub bytes: u64,
    /// Snapshots pass it by (`independent_persistent`, `independent_nonpersistent`): a clone from a snapshot lacks it.
    pub independent: bool,
    /// A device of the storage, passed through.
    pub raw: bool,
    /// Other machines may write to it.
    pub shared: bool,
}

impl MachineDisk {
    /// The file that all of it stands on: it stays when snapshots are made and folded.
    pub fn base(&self) -> &str {
        self.parents.last().unwrap_or(&self.file)
    }
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineNic {
    /// Its key among the machine's devices.
    pub key: i32,
    /// Its label: `Network adapter 1`.
    pub label: String,
    /// Hardware address.
    pub mac: Option<MacAddr>,
    /// Who chose it, in the platform's words (`manual`, `generated`, `assigned`): which ranges it may be of depends on that.
    pub mac_type: Option<String>,
    /// Network or port group it is plugged into, by name where the definition has one, else by its key.
    pub network: String,
    /// Plugged in now (meaningful while the machine is on).
    pub connected: bool,
    /// Plugged in when the machine starts.
    pub start_connected: bool,
}

/// The guest's VMware tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    /// Where they come from, if the platform knows.
    pub kind: ToolsKind,
    /// They answer: guest operations, quiescing and shutdown work.
    pub running: bool,
    /// The platform's word on their version (`guestToolsCurrent`, `guestToolsUnmanaged` …), if it has one.
    pub version: Option<String>,
}

/// How the tools were installed (`guest.toolsInstallType`, vSphere 6.5 and later).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolsKind {
    /// Not told.
    #[default]
    Unknown,
    /// VMware's tar file: bound to a kernel.
    Tar,
    /// VMware's packages for a distribution: bound to its kernels.
    Osp,
    /// The distribution's own open-vm-tools.
    Open,
    /// Windows.
    Msi,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFacts {
    /// Its id, for all that is done with it.
    pub id: String,
    /// Its name. Others may have the same.
    pub name: String,
    /// Its description.
    pub description: String,
    /// When it was made, as the platform writes it (RFC 3339).
    pub created: String,
    /// The id of the snapshot it was made on.
    pub parent: Option<String>,
    /// The guest's file systems were quiesced by the tools.
    pub quiesced: bool,
}

/// What becomes of one network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicEdit {
    /// Which one ([`MachineNic::key`]).
    pub key: i32,
    /// Plugged in now.
    pub connected: Option<bool>,
    /// Plugged in when the machine starts.
    pub start_connected: Option<bool>,
    /// Another network, by name; a name that more than one network of the machine's data center has is refused.
    pub network: Option<String>,
    /// Another hardware address; the machine has to be off.
    pub mac: Option<MacAddr>,
    /// As what it is set ([`MachineNic::mac_type`]); without it, a new one is `manual`.
    pub mac_type: Option<String>,
}

/// A clone to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMachine {
    /// Its name, in the folder of its original.
    pub name: String,
    /// Its instance UUID, lower case.
    pub uuid: String,
    /// Its run mark.
    pub mark: Mark,
}

/// A login in a guest. Never shown, never stored.
#[derive(Clone)]
pub struct GuestLogin {
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for GuestLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A platform with an API for whole virtual machines.
#[async_trait]
pub trait Machines: Send + Sync + fmt::Debug {
    /// The one machine of this inventory path (begins with `/`), instance or BIOS UUID, or name.
    ///
    /// # Errors
    /// [`crate::Cause::NotFound`]; [`crate::Cause::Refused`] if several are meant, naming all of them by path.
    async fn find(&self, wanted: &str) -> Result<Machine>;
    /// Everything about a machine; `None` if there is none of this UUID.
    async fn machine(&self, uuid: &str) -> Result<Option<MachineFacts>>;
    /// All machines, templates too, as far as the user that logs in sees them.
    async fn all(&self) -> Result<Vec<MachineFacts>>;
    /// Whether anything works on a machine now, or is about to: what it makes may not be there yet.
    async fn busy(&self, uuid: &str) -> Result<bool>;

    /// Makes a snapshot without memory and returns its id. Quiescing is refused unless the tools run: the platform would
    /// silently leave it out. Not repeatable by itself: look for the description first.
    async fn snapshot(&self, uuid: &str, name: &str, description: &str, quiesce: bool) -> Result<String>;
    /// Brings a machine back to a snapshot of its own. One made without memory leaves it off.
    async fn revert(&self, uuid: &str, snapshot: &str) -> Result<Change>;
    /// Removes one snapshot, not its children.
    async fn remove_snapshot(&self, uuid: &str, snapshot: &str) -> Result<Change>;

    /// Clones a machine from a snapshot, on disks that hold the differences only; off, with all cards disconnected, marked.
    /// A machine of that name and mark that is already there is the clone; another is refused.
    async fn clone_linked(&self, uuid: &str, snapshot: &str, new: &NewMachine) -> Result<Change>;
    /// As [`Machines::clone_linked`], with disks of its own.
    async fn clone_full(&self, uuid: &str, snapshot: &str, new: &NewMachine) -> Result<Change>;

    /// Changes network cards, all in one step.
    async fn edit_nics(&self, uuid: &str, edits: &[NicEdit]) -> Result<Change>;
    /// Sets or removes the run mark (extraConfig `upgradectl.run`).
    async fn set_mark(&self, uuid: &str, mark: Option<&Mark>) -> Result<Change>;
    /// Gives a machine another name. Its files keep theirs.
    async fn rename(&self, uuid: &str, name: &str) -> Result<Change>;
    /// Changes memory and processors; the machine has to be off.
    async fn resize(&self, uuid: &str, memory_bytes: Option<u64>, cpus: Option<u32>) -> Result<Change>;

    /// Starts a machine.
    async fn power_on(&self, uuid: &str) -> Result<Change>;
    /// Ends a machine at once, as a power cut does.
    async fn power_off(&self, uuid: &str) -> Result<Change>;
    /// Asks the guest, by its tools, to shut down, and waits; after `patience` an error with [`crate::Cause::Unknown`].
    async fn shutdown_guest(&self, uuid: &str, patience: Duration) -> Result<Change>;

    /// Gives a linked clone disks of its own. Refused while it has snapshots.
    async fn promote_disks(&self, uuid: &str) -> Result<Change>;
    /// Folds what removed snapshots left.
    async fn consolidate(&self, uuid: &str) -> Result<Change>;
    /// Removes a machine with its disks. Refused unless it is off and carries the mark of `run`.
    async fn remove(&self, uuid: &str, run: &str) -> Result<Change>;

    /// The inside of a running guest by way of its tools: no network is needed.
    fn inside(&self, uuid: &str, login: GuestLogin) -> Arc<dyn Host>;
    /// The same, with the login that the platform was given for a guest. It is read anew each time.
    ///
    /// # Errors
    /// There is none for this guest, or it cannot be read.
    async fn enter(&self, uuid: &str, guest: &str) -> Result<Arc<dyn Host>>;

    /// Calls of the API so far, by name.
    fn calls(&self) -> BTreeMap<String, u64>;
    /// Ends the session. The next call begins another.
    async fn close(&self) -> Result<()>;
}
