//! Checks of a guest from the outside and the inside, and the baseline they are compared with.
//!
//! Sees an address, a [`hypervisors::Net`] and a [`hypervisors::Host`], whatever the platform.

mod check;

pub use check::{Check, CheckKind, HttpCheck, Login, MailboxCheck, RecordType, TlsMode, When, with_standard};
