//! File systems: which there are, and the programs that show, dump and restore them.

pub mod filesystems;
pub mod mount;
pub mod snapshots;
pub mod time;
