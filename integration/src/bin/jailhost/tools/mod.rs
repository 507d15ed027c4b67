//! The small programs of a host.

pub mod chflags;
pub mod find;
pub mod ls;
pub mod rcconf;
pub mod release;
pub mod rm;
pub mod sha256;
pub mod stat;
pub mod sysctl;
pub mod sysrc;
