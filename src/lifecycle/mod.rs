//! States, verbs, and how each verb comes to its plan: facts and declarations in, a [`crate::engine::Plan`] out.
//!
//! * [`state`]: which verb is allowed when.
//! * [`facts`], [`filesystems`], [`address`], [`preflight`]: what a plan rests on, chosen and checked before anything is touched.
//! * [`clone`], [`upgrade`], [`verify`], [`promote`], [`back`] (rollback, abort), [`commit`]: one plan each; [`detached`]: what those of
//!   the ways back leave to be decided.
//! * [`origin`], [`in_place`]: what the strategies of these names do in their own way; [`production`]: steps all share.
//! * [`transfer`]: a server that becomes a guest; `jail`: a jail on ZFS; `machine`: a guest of which nothing can be opened from here.
//! * [`app`]: one invocation: the run, its lease, the approval, the engine, the exit code.
//! * [`fill`], [`watch`]: snapshots that fill, and what is done before one is lost.
//! * [`interrupted`], [`decide`]: what happens to runs whose owner is gone, or that are stuck.
//! * [`init`], [`query`], [`doctor`], [`gc`] with its judges: beginning, looking, and tidying up.
//!
//! May not: start processes, print, or know a platform's name. Plans are made by pure functions; only [`app`] acts.

pub mod address;
pub mod app;
pub mod back;
pub mod clone;
pub mod commit;
pub mod decide;
mod definitions;
pub mod detached;
pub mod doctor;
pub mod error;
pub mod facts;
pub mod filesystems;
pub mod fill;
pub mod gc;
mod guard;
pub mod held;
pub mod hooks;
pub mod in_place;
pub mod init;
pub mod interrupted;
pub mod invocation;
mod jail;
mod judge;
mod judge_machines;
pub mod leased;
pub mod live;
pub mod log;
mod machine;
pub mod memory;
pub mod origin;
pub mod page;
mod placement;
pub mod preflight;
pub mod production;
pub mod promote;
pub mod query;
pub mod record;
pub mod state;
mod step_log;
pub mod transfer;
pub mod upgrade;
pub mod verify;
pub mod watch;
pub mod world;

use jiff::Timestamp;

use crate::inventory::Strategy;

/// A strategy as it is typed.
pub fn strategy_word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Snapshot => "snapshot",
        Strategy::Origin => "origin",
        Strategy::Transfer => "transfer",
        Strategy::Linked => "linked",
        Strategy::InPlace => "in-place",
    }
}

/// A time as people write it here: `22 Nov 21:04`, in the system's time zone.
pub fn local_time(time: Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%-d %b %H:%M").to_string()
}

#[cfg(test)]
mod doctor_tests;
#[cfg(test)]
mod gc_tests;
#[cfg(test)]
mod guest_tests;
#[cfg(test)]
mod tests;
