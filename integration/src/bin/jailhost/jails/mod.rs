//! Jails: their configuration, the running ones, and the programs that make and show them.

pub mod conf;
pub mod jail;
pub mod jexec;
pub mod jls;
pub mod obsolete;
pub mod parameters;
pub mod running;
pub mod service;
pub mod starting;
pub mod words;
