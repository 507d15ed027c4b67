//! The labs: real hypervisors built from distribution packages, and what the tests and the demo drive them with.
//!
//! Start reading at [`lab`] (guests on this machine) or [`dom0`] (an emulated Xen host). Nothing here links against the product: tests and the demo run the built binary
//! (`$UPGRADECTL_BIN`) as a user would ([`cli`]), and look at the world with the world's own tools.

pub mod cache;
pub mod cli;
pub mod command;
pub mod crash;
pub mod dom0;
pub mod lab;
pub mod mail;
pub mod process;
pub mod root;
pub mod ssh;
pub mod struck;
pub mod transfer;
pub mod vcenter;
pub mod verb;
pub mod walk;
