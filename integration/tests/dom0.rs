//! The dom0 ring: a real Xen host with real LVM, emulated. Needs root and what `integration/prerequisites` installs.
//!
//! Tests run one at a time in one machine (`src/dom0/ring.rs`). No guest boots in it: what stands on the volumes is the
//! simulated platform ([`world`]). Guests that boot take their time: `make soak`.

#[path = "dom0/divided.rs"]
mod divided;
#[path = "dom0/killed.rs"]
mod killed;
#[path = "dom0/lab.rs"]
mod lab;
#[path = "dom0/lvm.rs"]
mod lvm;
#[path = "dom0/power.rs"]
mod power;
#[path = "dom0/strategies.rs"]
mod strategies;
#[path = "dom0/trouble.rs"]
mod trouble;
#[path = "dom0/world.rs"]
mod world;
