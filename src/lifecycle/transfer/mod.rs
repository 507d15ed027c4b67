//! Runs by strategy `transfer`: a server of its own becomes a jail on a host of jails, and takes the server's place.
//!
//! What other strategies do with volumes and definitions of one platform is here done between two machines: the server is read over
//! ssh, the jail lives in a directory of its host, and nothing of either is opened on this machine. The verbs, their states and
//! ways back are those of every run.
//!
//! * `facts`: what is known of the server and of the host; `check`: what is refused before anything is touched.
//! * `clone`, `upgrade`, `promote`, `commit`: the plan of each verb. The ways back are those of `super::back`.
//! * `world`: the steps of a recipe. `tree`: what is done to the jail's files; `parking`: what becomes of the server's rc.conf; `queues`: which of
//!   its queues are brought over at promotion.
//! * `run`: a run of this strategy under its lease.

mod check;
mod clone;
mod commit;
mod facts;
mod parking;
mod promote;
mod queues;
mod run;
mod tree;
mod upgrade;
pub(crate) mod world;

pub use facts::Facts;

use std::path::{Path, PathBuf};

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
}

/// The run's own directory beneath the directory of jails.
fn scratch(jails: &Path, run: &str) -> PathBuf {
    jails.join(hypervisors::jail::RUNS).join(run)
}
