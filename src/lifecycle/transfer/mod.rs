//! Servers that become jails.

pub mod world;
