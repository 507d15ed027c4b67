//! The native ring: real guests (libvirt LXC) on this machine. Needs root and what `integration/prerequisites` installs.
//!
//! Tests of this ring run one at a time (`.config/nextest.toml`), in lab 1, so that the demo's lab 0 may stand beside.

#[path = "native/lab.rs"]
mod lab;
#[path = "native/lifecycle.rs"]
mod lifecycle;
#[path = "native/picture.rs"]
mod picture;
#[path = "native/trial.rs"]
mod trial;
