//! The sim ring: the built binary drives the whole lifecycle on the simulated backend. No root, no lab.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "sim/bench.rs"]
mod bench;
#[path = "sim/matrix.rs"]
mod matrix;
#[path = "sim/refusals.rs"]
mod refusals;
#[path = "sim/trouble.rs"]
mod trouble;
#[path = "sim/ways.rs"]
mod ways;
