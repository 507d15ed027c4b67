//! FreeBSD jails: how their configuration is written, read and edited, and the platform of a host of jails ([`Jails`]). All but
//! `platform` works on texts alone and asks no host.
//!
//! A jail is defined by the host's convention: a block of jail.conf(5), or the `jail_NAME_…` variables of rc.conf(5) that
//! rc.d/jail turns into such a block. Both are shared by all jails of a host and written by people, so an edit is a set of
//! cuts for one jail: every other byte stays, what comes out is read again, and if it does not say exactly what was asked,
//! or says anything else of another jail, it is an error.
//!
//! * [`conf`]: jail.conf(5) as jail(8) reads it: its words, its statements, what they make of one jail, edits.
//! * [`rc`]: rc.conf(5) as far as it is plain assignments, which of its lines are of what kind, the old `jail_…` variables.
//! * [`ifconfig`]: addresses a machine has.
//! * [`address`]: the values of `ip4.addr` and `ip6.addr`.
//! * [`managed`]: jails that another program keeps, which are left alone.
//! * `platform`: a host's files and programs.

pub mod address;
pub mod conf;
pub mod ifconfig;
pub mod managed;
mod platform;
pub mod rc;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
mod wrong;

pub use platform::{Jails, RUNS, passing_jail};
pub use wrong::{Place, Wrong};
