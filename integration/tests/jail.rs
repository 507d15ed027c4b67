//! The jail ring: the fake jail host (`jailhost/README.md`) held to what a real FreeBSD printed, and the product on it.
//! Dump and restore need root, for their loop devices.

#[path = "jail/base_system.rs"]
mod base_system;
#[path = "jail/batch.rs"]
mod batch;
#[path = "jail/replay/mod.rs"]
mod replay;
#[path = "jail/whole.rs"]
mod whole;
#[path = "jail/zfs.rs"]
mod zfs;
