//! The sim ring: the built binary drives the whole lifecycle on the simulated backend. No root, no lab.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "sim/batch.rs"]
mod batch;
#[path = "sim/bench.rs"]
mod bench;
#[path = "sim/detached.rs"]
mod detached;
#[path = "sim/dhcp.rs"]
mod dhcp;
#[path = "sim/fence.rs"]
mod fence;
#[path = "sim/freeze.rs"]
mod freeze;
#[path = "sim/hooks.rs"]
mod hooks;
#[path = "sim/hostile.rs"]
mod hostile;
#[path = "sim/instants.rs"]
mod instants;
#[path = "sim/kernel.rs"]
mod kernel;
#[path = "sim/leased.rs"]
mod leased;
#[path = "sim/light.rs"]
mod light;
#[path = "sim/matrix.rs"]
mod matrix;
#[path = "sim/placement.rs"]
mod placement;
#[path = "sim/quarantine.rs"]
mod quarantine;
#[path = "sim/readers.rs"]
mod readers;
#[path = "sim/refusals.rs"]
mod refusals;
#[path = "sim/strategies.rs"]
mod strategies;
#[path = "sim/stuck.rs"]
mod stuck;
#[path = "sim/trouble.rs"]
mod trouble;
#[path = "sim/watch.rs"]
mod watch;
#[path = "sim/ways.rs"]
mod ways;
