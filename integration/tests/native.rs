//! The native ring: real guests (libvirt LXC) on this machine. Needs root and what `integration/prerequisites` installs.
//!
//! Tests of this ring run one at a time (`.config/nextest.toml`), in lab 1, so that the demo's lab 0 may stand beside.

#[path = "native/batch.rs"]
mod batch;
#[path = "native/demo.rs"]
mod demo;
#[path = "native/detached.rs"]
mod detached;
#[path = "native/dhcp.rs"]
mod dhcp;
#[path = "native/fence.rs"]
mod fence;
#[path = "native/hardship.rs"]
mod hardship;
#[path = "native/interruptions.rs"]
mod interruptions;
#[path = "native/kills.rs"]
mod kills;
#[path = "native/lab.rs"]
mod lab;
#[path = "native/leased.rs"]
mod leased;
#[path = "native/lifecycle.rs"]
mod lifecycle;
#[path = "native/mail.rs"]
mod mail;
#[path = "native/picture.rs"]
mod picture;
#[path = "native/pool.rs"]
mod pool;
#[path = "native/redhat.rs"]
mod redhat;
#[path = "native/refusals.rs"]
mod refusals;
#[path = "native/server.rs"]
mod server;
#[path = "native/shapes.rs"]
mod shapes;
#[path = "native/trial.rs"]
mod trial;
