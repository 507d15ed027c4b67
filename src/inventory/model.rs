//! The inventory as the rest of the program sees it: plain data, `[defaults]` merged into every guest, every value
//! checked. Form and meaning: the reference page of the inventory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use hypervisors::MacAddr;
use serde::{Deserialize, Serialize};

use super::values::Size;
use crate::verify::Check;

/// Everything the operator declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Machines that run guests or hold their volumes, by name.
    pub hosts: BTreeMap<String, HostSpec>,
    /// Guests, by name.
    pub guests: BTreeMap<String, GuestSpec>,
}

/// The platform of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HypervisorKind {
    /// libvirt, with any of its drivers.
    Libvirt,
    /// Xen's own toolstack.
    Xl,
    /// FreeBSD jails.
    Jail,
    /// vCenter or ESXi.
    Vsphere,
    /// The simulated platform.
    Sim,
    /// No platform can be reached: guests are upgraded in place over ssh.
    None,
}

/// A machine that runs guests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    /// Its platform.
    pub hypervisor: HypervisorKind,
    /// Connection URI (libvirt); the platform's default if absent.
    pub uri: Option<String>,
    /// How to get there; absent: the controller's own machine.
    pub ssh: Option<SshSpec>,
    /// Directory of the definitions (xl: `NAME.cfg`).
    pub definitions: Option<PathBuf>,
    /// Directory of the jails.
    pub jails: Option<PathBuf>,
    /// Directory in which servers that are transferred become trees of containers (libvirt).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trees: Option<PathBuf>,
    /// Directory of the simulated world (sim); beside the journal if absent.
    pub state: Option<PathBuf>,
    /// Which host of the simulated world it is (sim); the first if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Interfaces of the controller that are on the links of this host's bridges, by bridge; the bridge's name if absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, String>,
    /// Address of the API (vsphere).
    pub url: Option<String>,
    /// Certificate authority of the API.
    pub ca: Option<PathBuf>,
    /// SHA-256 thumbprint of the API's certificate, instead of an authority.
    pub thumbprint: Option<String>,
    /// Where user and password of the API come from.
    pub credentials: Option<Credentials>,
}

/// Where a user name and a password come from: two lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credentials {
    /// A file of the controller.
    File(PathBuf),
    /// What a command prints on the controller.
    Command(Vec<String>),
}

/// How to log in to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshSpec {
    /// Name or address; for a guest, discovered if absent.
    pub address: Option<String>,
    /// Port of sshd.
    pub port: u16,
    /// Login name.
    pub user: String,
    /// Private key file; the agent's or default keys if absent.
    pub key: Option<PathBuf>,
    /// Commands are run by `sudo -n`.
    pub sudo: bool,
    /// Old ciphers and key types are allowed, for this machine only.
    pub legacy: bool,
}

impl Default for SshSpec {
    fn default() -> Self {
        Self { address: None, port: 22, user: "root".into(), key: None, sudo: false, legacy: false }
    }
}

/// A guest and all that is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSpec {
    /// Its name in the inventory and on the platform.
    pub name: String,
    /// Host of definition and volumes; it exists in [`Inventory::hosts`].
    pub host: String,
    /// Host that runs it; [`GuestSpec::host`] if not declared. It exists too.
    pub runs_on: String,
    /// How to log in.
    pub ssh: SshSpec,
    /// What happens to disks, by their name in the definition; undeclared: [`DiskRule::Clone`].
    pub disks: BTreeMap<String, DiskRule>,
    /// Disks whose volumes the definition names by another path than [`GuestSpec::host`] does.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub paths: BTreeMap<String, DiskPaths>,
    /// What is switched off in the clone.
    pub quarantine: Quarantine,
    /// How it is upgraded.
    pub upgrade: Option<UpgradeSpec>,
    /// What `promote` does in trouble.
    pub promote: PromoteSpec,
    /// Declared checks; see [`crate::verify::with_standard`].
    pub checks: Vec<Check>,
    /// Data brought from the original at promotion.
    pub carry: Vec<CarryRule>,
    /// How the clone is made.
    pub clone: CloneDefaults,
    /// Commands of the operator's own.
    pub hooks: Vec<Hook>,
    /// The guest's kernel lives on the host.
    pub kernel: Option<KernelPlace>,
    /// What `transfer` reads.
    pub source: Option<SourceSpec>,
    /// Path or instance UUID of the machine (vsphere).
    pub vm: Option<String>,
    /// Who logs in to its own system by way of its tools (vsphere, strategy `linked`).
    pub guest_login: Option<Credentials>,
    /// Words by which batches select guests.
    pub tags: Vec<String>,
}

/// What happens to a disk when the guest is cloned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskRule {
    /// The clone gets a copy.
    #[default]
    Clone,
    /// The clone gets fresh swap space instead.
    Swap,
    /// Stays with the original; taken out of the clone and of its fstab.
    Detach,
}

/// The two names of a disk that is reached over a network: on the host that holds its volume, and where it is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPaths {
    /// The volume on [`GuestSpec::host`], where the definition names another path (`/dev/etherd/e1.13`).
    pub volume: Option<PathBuf>,
    /// The path by which the hosts that run guests see the volume that `clone` makes; `{run}` is replaced.
    pub copy: Option<PathBuf>,
}

/// What is switched off in the clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Services in addition to the shipped list.
    pub off: Vec<String>,
    /// Services started for `verify` alone.
    pub while_verifying: Vec<String>,
}

/// How a guest is upgraded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeSpec {
    /// The recipe and what it needs.
    #[serde(flatten)]
    pub recipe: Recipe,
    /// How long a reboot may take, in seconds; the recipe's default if absent.
    pub reboot_timeout_s: Option<u64>,
}

/// The shipped recipes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "recipe", rename_all = "kebab-case")]
pub enum Recipe {
    /// Debian release upgrade.
    Debian {
        /// Code name of the release: `trixie`.
        to: String,
    },
    /// `yum update` with a new kernel.
    YumKernel(YumKernel),
    /// The base system of a stopped FreeBSD jail, from its host.
    FreebsdWorld(FreebsdWorld),
    /// The operator's own program, run inside the clone.
    Script {
        /// Program and arguments.
        run: Vec<String>,
    },
}

/// How the kernel of a guest of the Red Hat family on VMware is updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct YumKernel {
    /// The program that applies VMware's tools to a new kernel, and its arguments, where it is not the one that is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// How often that is tried.
    #[serde(default = "three")]
    pub tools_attempts: u32,
}

impl Default for YumKernel {
    fn default() -> Self {
        Self { tools: None, tools_attempts: three() }
    }
}

fn three() -> u32 {
    3
}

/// How the base system of a jail is upgraded. Paths are the jail host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreebsdWorld {
    /// What brings the new base system.
    #[serde(default)]
    pub method: WorldMethod,
    /// Source tree.
    pub src: PathBuf,
    /// Where its object trees are, if not `/usr/obj` (`MAKEOBJDIRPREFIX`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obj: Option<PathBuf>,
    /// A missing buildworld is made.
    #[serde(default)]
    pub build: bool,
    /// The old release's tree of configuration files, for a jail that has none to compare with: a tarball, or its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Packages are reinstalled for the new base system.
    #[serde(default = "yes")]
    pub packages: bool,
    /// With [`WorldMethod::FreebsdUpdate`]: the release, if not the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

fn yes() -> bool {
    true
}

/// What brings a new base system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorldMethod {
    /// `make installworld` from a built source.
    #[default]
    Installworld,
    /// freebsd-update(8).
    FreebsdUpdate,
}

/// What `promote` does in trouble.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteSpec {
    /// A check fails after going live.
    pub if_check_fails: IfCheckFails,
    /// The controller dies while production is down; unset: by how far it got.
    pub if_interrupted: Option<IfInterrupted>,
}

/// What happens if a check fails after going live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfCheckFails {
    /// The operator is asked; without a terminal: keep.
    #[default]
    Ask,
    /// Rolled back.
    Rollback,
    /// Stays promoted, unproven.
    Keep,
}

/// What the boot unit does with an interrupted promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfInterrupted {
    /// Back to the original.
    Rollback,
    /// On to the clone.
    Resume,
    /// Nothing: a person decides.
    Wait,
}

/// Data brought from the original at promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CarryRule {
    /// A subtree, mirrored by rsync.
    Rsync {
        /// Absolute path in the guest; a trailing slash means the content.
        path: PathBuf,
        /// rsync exclude patterns.
        exclude: Vec<String>,
    },
}

/// How a clone is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The clone runs on the snapshot.
    Snapshot,
    /// Production moves to the snapshot, the clone runs on the origin.
    Origin,
    /// File systems are dumped into a jail.
    Transfer,
    /// A linked clone (vsphere).
    Linked,
    /// No clone: the guest itself.
    InPlace,
}

/// What `clone` does unless told otherwise on its command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneDefaults {
    /// Strategy; the platform's default if absent.
    pub strategy: Option<Strategy>,
    /// Addresses as for `--ip`: `[NIC=]ADDR`; each parses as [`super::values::AddressWish`].
    pub ip: Vec<String>,
    /// Hardware address.
    pub mac: MacRule,
    /// New host name; `None` keeps it.
    pub hostname: Option<String>,
    /// Host that runs the clone; the original's if absent. It exists.
    pub runs_on: Option<String>,
    /// Memory of the clone; the original's if absent.
    pub memory_bytes: Option<u64>,
    /// Whether the clone's network is fenced.
    pub network: NetworkRule,
    /// What a fenced clone may reach in addition; each parses as [`super::values::Allowed`].
    pub allow: Vec<String>,
    /// Policy of the snapshot.
    pub snapshot: SnapshotPolicy,
    /// Interface of the host that carries the clone's address (jails).
    pub interface: Option<String>,
    /// Network that the clone's cards are plugged into (vsphere); the original's own if absent.
    pub portgroup: Option<String>,
}

/// The clone's hardware address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MacRule {
    /// Last octet follows the address, if the original's does.
    #[default]
    Derive,
    /// Drawn in the platform's range.
    Random,
    /// This one.
    Fixed(MacAddr),
}

/// Whether the clone's network is fenced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkRule {
    /// As the original's.
    #[default]
    Open,
    /// Controller, DNS, package mirrors and [`CloneDefaults::allow`] only.
    Fenced,
}

/// How large a snapshot is made and when it is grown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPolicy {
    /// Size; covering, else the estimate, if absent.
    pub size: Option<Size>,
    /// Grown when this full, in percent.
    pub extend_at: Option<u8>,
    /// Grown by this much.
    pub extend_by: Option<Size>,
}

/// Where the guest's kernel lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelPlace {
    /// On the host: the recipe needs no guest kernel.
    Host,
}

/// What `transfer` reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSpec {
    /// How to log in to the server.
    pub ssh: SshSpec,
    /// File systems to transfer, the root first.
    pub filesystems: Vec<PathBuf>,
    /// How they are copied; by what both sides have if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<CopyMethod>,
    /// Its address after promotion, so that rollback can reach it.
    pub parking: Option<IpAddr>,
    /// It can be reached by console instead.
    pub console: bool,
    /// What the jail's tree is rid of, instead of the shipped list: paths relative to it, a slash at the end to empty a
    /// directory and keep it, a `*` in the last part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<Vec<String>>,
    /// The copy is packed on its way.
    pub compress: bool,
    /// Bytes a second that the copy may take; `None`: no limit.
    pub bandwidth: Option<u64>,
}

/// How a server's file systems are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyMethod {
    /// dump(8) into restore(8).
    Dump,
    /// rsync(1) on both sides.
    Rsync,
}

/// The verbs that change the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Make the clone.
    Clone,
    /// Upgrade it.
    Upgrade,
    /// Check it.
    Verify,
    /// Put it in the original's place.
    Promote,
    /// Back to before `promote`.
    Rollback,
    /// Make it final.
    Commit,
    /// Back to before `clone`.
    Abort,
}

impl Verb {
    /// Every verb, in the order of a run.
    pub const ALL: [Self; 7] =
        [Self::Clone, Self::Upgrade, Self::Verify, Self::Promote, Self::Rollback, Self::Commit, Self::Abort];

    /// As typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Clone => "clone",
            Self::Upgrade => "upgrade",
            Self::Verify => "verify",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Commit => "commit",
            Self::Abort => "abort",
        }
    }
}

/// A command of the operator's own. `{run} {clone} {original} {clone_address} {original_address}` are replaced
/// inside one argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Name in plans; unique per guest.
    pub name: String,
    /// Where it runs.
    pub on: HookPlace,
    /// When it runs, and what.
    #[serde(flatten)]
    pub when: HookTime,
    /// Ended after this long, in seconds; the engine's default if absent.
    pub timeout_s: Option<u64>,
}

/// Where a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookPlace {
    /// On the guest's host.
    Host,
    /// Inside the clone.
    Clone,
    /// Inside the original.
    Original,
    /// On the controller.
    Controller,
}

/// When a hook runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookTime {
    /// `before` and `after` each of these verbs; `after` on success, failure, abort and after a crash.
    Around {
        /// The verbs.
        verbs: Vec<Verb>,
        /// Command before the verb.
        before: Option<Vec<String>>,
        /// Command after the verb, whatever became of it.
        after: Option<Vec<String>>,
        /// Its machine runs `after` by itself, once the controller has not been heard of for so many seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease_s: Option<u64>,
    },
    /// A step like any other, before or after a verb.
    At {
        /// Before or after.
        point: HookPoint,
        /// The verb.
        verb: Verb,
        /// Command.
        run: Vec<String>,
        /// Command that takes it back; absent: undone by discarding the clone.
        undo: Option<Vec<String>>,
    },
}

/// Before or after a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookPoint {
    /// Before its first step.
    Before,
    /// After its last step.
    After,
    /// With the volumes that it makes: right after, and taken back right before they are removed or merged.
    Volumes,
    /// Around a merge: right before it, while production is stopped, and taken back right before production starts.
    Merge,
}
