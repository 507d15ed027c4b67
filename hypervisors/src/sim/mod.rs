//! A complete simulated platform whose world lies on disk, so that the whole lifecycle (clone, upgrade, verify,
//! promote, rollback, commit, abort and every crash in between) can be tried by an ordinary user.
//!
//! ```text
//! DIR/host.json           the machine and how it behaves: memory, pool, latency, failures of guests
//! DIR/definitions/N.json  stored definitions, bytes as given
//! DIR/power/N.json        power, autostart, and of a running guest its live definition, addresses, units
//! DIR/volumes/N/          a volume's files: a real directory tree
//! DIR/volumes/N.json      its capacity, mark, fill, origin, and the detached jobs of the guest whose root it is
//! DIR/hostfs/             files of the simulated host
//! DIR/hostfs@NAME/        files of another host of the same world (`Sim::part`)
//! DIR/parts/GUEST.json    the host that defines and runs a guest, if it is not the first
//! DIR/faults.json         failures waiting to be injected, each consumed once
//! DIR/trace.jsonl         every effect, with who ran and which addresses they had afterwards
//! DIR/lock                flock, held for one operation
//! ```
//!
//! Invariants: every operation that changes the world goes through `Sim::effect`, which takes the lock, the
//! latency and the faults, and writes the trace; every file is replaced by rename, so a killed controller leaves
//! either the old or the new one. There is no fsync: the world survives `kill -9`, not a power cut. Nothing of
//! the world is cached in memory, so that two controllers see the same one. Nothing starts a process.
//!
//! A world can be held to real disks: then its volumes are logical volumes ([`lvm`]).

mod addresses;
mod boot;
mod commands;
mod copy;
mod definition;
mod effect;
mod file;
mod guest;
mod host;
mod hypervisor;
mod jobs;
mod leased;
mod lvm;
mod merge;
mod net;
mod rules;
mod seed;
mod services;
mod storage;
mod tree;
mod volumes;
mod world;

pub use effect::{Fault, How, Running, TraceEntry};
pub use guest::SimGuest;
pub use host::SimHost;
pub use net::SimNet;
pub use seed::{FleetGuest, PER_HOST, fleet_of, seed, seed_fleet, seed_with};
pub use storage::SimStorage;
pub use world::{HostConfig, Sim, UpgradeFailure};

#[cfg(test)]
mod tests;
