//! Runs on guests of which nothing can be opened from here: over ssh, and by the API of who runs them. Recipe `yum-kernel`. By strategy
//! `in-place` the guest itself is upgraded: the old kernel stays the one that is booted, until `commit` makes the new one that.
//!
//! * By strategy `linked` a clone of the machine is worked on instead, and takes its place (`linked`).
//! * Whoever runs the machine lets nobody at its hypervisor: `clone` measures and touches nothing. `abort` boots the old kernel and
//!   gives every file that was changed its bytes back; packages stay, and it says so.
//! * An API takes a snapshot of it ([`Vm`]): `clone` does, `abort` brings the machine back to it, `commit` removes it.
//!
//! * `facts`: what is known of the guest; `check`: what is refused. `plan`: the plan of each verb. `run`: a run under its lease.

mod check;
mod facts;
mod linked;
mod plan;
mod run;
#[cfg(test)]
mod tests;

pub use facts::Facts;

use std::net::IpAddr;

use hypervisors::GuestLink;
use serde::{Deserialize, Serialize};

use super::record::RunFacts;
use crate::engine::{PlanStep, Stage, Undo};
use crate::inventory::Strategy;
use crate::steps::machine::cards::Card;
use crate::steps::upgrade::ProveKernel;

/// What is remembered of a run of this kind beside what every run remembers: the guest as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The kernel that ran (`uname -r`).
    pub kernel: String,
    /// Its release, by the first line of `/etc/redhat-release`.
    pub release: String,
    /// Modules of VMware's that were loaded.
    pub modules: Vec<String>,
    /// VMware's tools ran.
    pub tools: bool,
    /// The machine, where an API takes a snapshot of it; `None`: nothing leads back but the old kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Vm>,
    /// Its clone, by strategy `linked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked: Option<Linked>,
}

/// A linked clone, and what the two machines exchange at promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    /// Instance UUID of the clone.
    pub uuid: String,
    /// The original's network cards, in their order.
    pub original: Vec<Card>,
    /// The clone's.
    pub clone: Vec<Card>,
    /// Addresses that go over to it.
    pub addresses: Vec<IpAddr>,
    /// What the original's disks stood on when it was cloned; empty in runs of before this was recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
}

/// A machine of a platform with an API for such.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Instance UUID.
    pub uuid: String,
    /// Inventory path, for people.
    pub path: String,
    /// Its tools answered: the snapshot is quiesced.
    pub quiesce: bool,
}

/// The way into the system that is upgraded: the clone's, if there is one.
fn worked_on(record: &RunFacts) -> &GuestLink {
    match record.strategy {
        Strategy::Linked => &record.clone,
        _ => &record.original,
    }
}

impl Machine {
    /// Instance UUIDs of the machines of a run: the guest's, and its clone's.
    pub(super) fn uuids(&self) -> Vec<String> {
        let clone = self.linked.as_ref().map(|clone| clone.uuid.clone());
        self.vm.as_ref().map(|vm| vm.uuid.clone()).into_iter().chain(clone).collect()
    }

    /// Instance UUID of the machine that is worked on: the clone, if there is one.
    fn uuid(&self) -> Option<String> {
        let clone = self.linked.as_ref().map(|clone| &clone.uuid);
        clone.or(self.vm.as_ref().map(|vm| &vm.uuid)).cloned()
    }

    /// The proof that a newer kernel runs with all that the old one had; or that the old one does.
    fn proof(&self, record: &RunFacts, link: &GuestLink, newer: bool) -> PlanStep {
        let prove = ProveKernel {
            host: record.host.clone(),
            link: link.clone(),
            before: self.kernel.clone(),
            newer,
            modules: self.modules.clone(),
            tools: self.tools,
        };
        PlanStep::new(Stage::Prove, prove, 2.0).undo(Undo::Nothing)
    }
}
