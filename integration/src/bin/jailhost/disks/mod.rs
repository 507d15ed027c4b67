//! File systems: which there are, and the programs that show, dump and restore them.

pub mod dump;
pub mod dump_asked;
pub mod dump_said;
pub mod dumpdates;
pub mod filesystems;
pub mod mount;
pub mod restore;
pub mod restore_said;
pub mod snapshots;
pub mod stream;
pub mod time;
pub mod zfs;
