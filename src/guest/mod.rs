//! Reading and rewriting a guest's own files, beneath its root, as a directory.
//!
//! Everything here is pure planning over a [`Tree`]: functions read the tree and return [`FileEdit`]s; only
//! [`apply`] writes. A mounted guest is hostile: no path leaves the root, no link is followed at its last
//! component, nothing of the guest is executed.

mod beneath;
pub mod container;
pub mod far;
pub mod fence;
pub mod freebsd;
pub mod hostname;
pub mod hosts;
pub mod keys;
pub mod leftovers;
pub mod mounts;
pub mod network;
pub mod quarantine;
pub mod queues;
pub mod restore;
mod splice;
pub mod sshd;
mod sysconfig;
pub mod system;
pub mod tree;
pub mod udev;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use hypervisors::MacAddr;
use serde::{Deserialize, Serialize};

pub use tree::{FileImage, Tree};

/// What stands before a line that the clone shall not read. The line is the rest, byte for byte.
pub const COMMENT: &str = "# upgradectl: ";

/// One change of one file: what is there, what shall be there. `None` is absence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEdit {
    /// Path relative to the guest's root, without leading slash.
    pub path: PathBuf,
    /// What was found.
    pub before: Option<FileImage>,
    /// What shall be there.
    pub after: Option<FileImage>,
    /// Why, in a few words: `address 10.0.5.12 becomes 10.0.5.16`.
    pub why: String,
}

/// Failures of reading or rewriting a guest's files.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Path in the guest, with leading slash.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not of a kind that is rewritten (a link, device, too large, not text …).
    #[error("{path}: {why}")]
    Unfit {
        /// Path in the guest, with leading slash.
        path: String,
        /// Why it is not rewritten.
        why: String,
        /// What the operator can do.
        help: String,
    },
    /// The file cannot be understood at a place.
    #[error("{path}:{line}: {why}")]
    Syntax {
        /// Path in the guest, with leading slash.
        path: String,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// The file is neither as it was found nor as it shall be; nothing was written.
    #[error("{path}: was changed meanwhile, it is neither as found nor as planned")]
    Changed {
        /// Path in the guest, with leading slash.
        path: String,
        /// From what was found to what is there now, for people.
        diff: String,
    },
    /// A change cannot be carried over into a file that was changed meanwhile.
    #[error("{path}: {why}")]
    Ambiguous {
        /// Path in the guest, with leading slash.
        path: String,
        /// What differs.
        why: String,
        /// The conflicting merge, for people.
        diff: String,
    },
}

/// How an interface gets its IPv4 or IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Written in the file.
    Static,
    /// From a DHCP server.
    Dhcp,
    /// No addresses, router advertisements only, or something else that is left alone.
    Other,
}

/// One address of an interface as the guest's files configure it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// File it stands in, relative to the root.
    pub file: PathBuf,
    /// Line, counted from 1.
    pub line: usize,
}

/// One interface as the guest's files configure it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Name in the guest (`eth0`); for networkd/netplan a match by MAC gives the name of the stanza, for ifcfg and keyfiles
    /// that of the file or of the connection.
    pub name: String,
    /// MAC the configuration pins it to, if any.
    pub mac: Option<MacAddr>,
    /// IPv4 method.
    pub ipv4: Method,
    /// IPv6 method.
    pub ipv6: Method,
    /// Static addresses, in file order.
    pub addresses: Vec<Address>,
    /// Gateways named for it.
    pub gateways: Vec<IpAddr>,
    /// `ifupdown`, `networkd`, `netplan`, `ifcfg` or `keyfile`.
    pub configured_by: String,
}

/// What happens to one address of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressChange {
    /// Interface in the guest.
    pub interface: String,
    /// The address it has.
    pub old: IpAddr,
    /// The address it gets; `None`: taken off.
    pub new: Option<IpAddr>,
}

/// Everything that makes the clone not be the original. Built by the lifecycle, applied by [`clone_edits`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneSpec {
    /// Addresses changed or taken off.
    pub addresses: Vec<AddressChange>,
    /// Interfaces turned to DHCP (`--ip dhcp`): the static configuration of that family goes.
    pub to_dhcp: Vec<String>,
    /// Hardware addresses, old to new.
    pub macs: BTreeMap<String, MacAddr>,
    /// New hostname; `None` keeps it.
    pub hostname: Option<String>,
    /// Mount points whose data stays with the original (absolute).
    pub detached: Vec<PathBuf>,
    /// Directories made beneath the mount points of detached data, which services need to start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skeletons: Vec<(PathBuf, Vec<mounts::SkeletonDirectory>)>,
    /// systemd unit names (without suffix: services) and init scripts switched off in addition to the shipped list.
    pub quarantine: Vec<String>,
    /// What the clone may reach; everything if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<fence::Fence>,
    /// 32 hexadecimal digits for the clone's machine-id (derived from the run, so that it is the same at each try).
    pub machine_id: String,
    /// Throw-away ssh host keys: file name below `etc/ssh` (`ssh_host_ed25519_key`, `….pub`) to bytes.
    pub host_keys: BTreeMap<String, String>,
}

/// Unified diff of an edit, for people; private keys and files that are not text are named, not shown.
pub fn diff(edit: &FileEdit) -> String {
    tree::diff(edit)
}

/// What cloning changes in the guest's files, in path order, each file once. Applying the result and calling this again
/// gives nothing. Files that need no change are not listed.
pub fn clone_edits(tree: &Tree, spec: &CloneSpec) -> Result<Vec<FileEdit>, GuestError> {
    let mut edits = tree::Overlay::new(tree);
    network::rewrite(&mut edits, spec)?;
    udev::rewrite(&mut edits, spec)?;
    hosts::rewrite(&mut edits, spec)?;
    hostname::rewrite(&mut edits, spec)?;
    sshd::rewrite(&mut edits, spec)?;
    mounts::rewrite(&mut edits, spec)?;
    for (mount_point, skeleton) in &spec.skeletons {
        mounts::skeleton_edits(&mut edits, mount_point, skeleton)?;
    }
    system::rewrite(&mut edits, spec)?;
    keys::rewrite(&mut edits, spec)?;
    quarantine::rewrite(&mut edits, spec)?;
    fence::rewrite(&mut edits, spec)?;
    Ok(edits.into_edits())
}

/// Writes edits into the tree. A file that is neither `before` nor `after` stops everything before the first write.
/// Returns whether anything was changed.
pub fn apply(tree: &Tree, edits: &[FileEdit]) -> Result<bool, GuestError> {
    tree::apply(tree, edits)
}

#[cfg(test)]
mod hostile_tests;
