//! Runs by strategy `transfer`: a server of its own becomes a guest, and takes the server's place: a FreeBSD server a jail on a host of
//! jails, a Linux server a container of this machine.
//!
//! What other strategies do with volumes and definitions of one platform is here done between two machines: the server is read over
//! ssh, the jail lives in a directory of its host, and nothing of either is opened on this machine. A container's tree is opened, like
//! that of every other clone, and its upgrade is theirs. The verbs, their states and
//! ways back are those of every run.
//!
//! * `facts`: what is known of the server and of the host; `check`: what is refused before anything is touched.
//! * `clone`, `upgrade`, `promote`, `commit`: the plan of each verb. The ways back are those of `super::back`.
//! * `world`: the steps of a recipe. `tree`: what is done to the jail's files; `parking`: what becomes of the server's rc.conf; `queues`: which of
//!   its queues are brought over at promotion.
//! * `container`: what is a container's in all of that.
//! * `run`: a run of this strategy under its lease.

pub(super) mod check;
pub(super) mod clone;
mod commit;
mod container;
mod facts;
mod parking;
pub(super) mod promote;
mod queues;
mod run;
pub(super) mod tree;
mod upgrade;
pub(crate) mod world;

pub use facts::Facts;
pub(super) use facts::way_in;
pub(super) use queues::mirrored as queues;

use std::path::{Path, PathBuf};

use hypervisors::{MacAddr, VolumeRef};
use serde::{Deserialize, Serialize};

use crate::steps::server::{Old, Parking, Server};

/// What is remembered of a run of this strategy beside what every run remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// The jail's tree on its host.
    pub root: PathBuf,
    /// The run's own directory there.
    pub scratch: PathBuf,
    /// Interface of the host that carries the jail's addresses.
    pub interface: String,
    /// Length of the prefix that the jail's addresses have there.
    pub prefix: u8,
    /// The server.
    pub server: Server,
    /// The server's own interface.
    pub server_interface: String,
    /// The addresses that the server gives up at promotion, the primary one first.
    pub old: Vec<Old>,
    /// Where it goes then; `None`: off the network.
    pub parking: Option<Parking>,
    /// Release of the server (`uname -r`).
    pub release: String,
    /// What it becomes, if not a jail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
}

/// What is remembered of a container beside that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its tree.
    pub volume: VolumeRef,
    /// Its UUID, as clone and in the server's place.
    pub uuid: String,
    /// Hardware address of its card.
    pub mac: MacAddr,
    /// That of the server's.
    pub server_mac: Option<MacAddr>,
    /// Its memory in bytes.
    pub memory_bytes: u64,
}

/// The run's own directory beneath the directory of jails.
fn scratch(jails: &Path, run: &str) -> PathBuf {
    jails.join(hypervisors::jail::RUNS).join(run)
}
