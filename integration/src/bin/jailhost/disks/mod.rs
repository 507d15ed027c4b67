//! File systems: which there are, and the programs that show, dump and restore them.

pub mod dump;
pub mod dumpdates;
pub mod filesystems;
pub mod mount;
pub mod restore;
pub mod said;
pub mod snapshots;
pub mod stream;
pub mod time;
