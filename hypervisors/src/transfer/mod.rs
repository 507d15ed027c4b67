//! A server's file systems, copied while it runs into a tree on another machine: `dump` there, `restore` here, ourselves in
//! between. All of it over [`Host`](crate::Host); nothing here knows jails, plans or journals.
//!
//! * [`Source`]: what the server is and has: system, mounted file systems, the letters its dump knows.
//! * [`DumpLine`] and [`Place`]: the commands on either side. [`snap`]: whether dump can work on a snapshot.
//! * [`pump`]: what flows between them: bounded, measured, limited on request.
//! * [`said`]: what dump and restore said, and whether that is success. Their exit statuses are not (restore's is 0 whatever
//!   happens, FreeBSD 13.2).
//! * [`Pass`]: one file system moved: all of these together.
//! * [`compare`]: names, types, sizes, owners, modes and flags of both sides, once more.
//! * [`tree`]: the target: whether it is empty, emptying it, room.
//!
//! Scripts run by old systems' sh, and are handed on by a csh login shell: no newline, no `!`, no option of GNU's alone where
//! nothing asked for it first. What either side prints is hostile: bounded, parsed strictly, made printable.

pub mod compare;
mod dialect;
mod listing;
pub mod mirror;
mod mounts;
mod pass;
pub mod pump;
pub mod said;
pub mod snap;
mod sorted;
mod source;
pub mod tree;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

pub use dialect::{Compression, Dialect, DumpLine, Since, System};
pub use mounts::{Mounted, Usage, df, table};
pub use pass::{Pass, Passed, Progress};
pub use source::{FileSystem, Source, compressions, mounted};
pub use tree::Place;

/// What finds dump, restore and mksnap_ffs where a login's path has no `sbin`; before it what the path has.
const PATH: &str = "PATH=\"$PATH:/sbin:/usr/sbin:/usr/local/bin\"; export PATH; LC_ALL=C; export LC_ALL; ";
