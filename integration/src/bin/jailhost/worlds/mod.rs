//! The base system: sources and the worlds made of them, configuration files merged, databases made, packages.

pub mod databases;
pub mod etcupdate;
pub mod lay;
pub mod make;
pub mod merge;
pub mod mergemaster;
pub mod obsolete;
pub mod pkg;
