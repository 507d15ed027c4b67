//! The durable record of every run: plans, intents, results, bytes "as it was".
//!
//! Invariants:
//! * Append-only: events are never changed. The intent of an effect is on disk before the effect starts.
//! * Every append carries run, epoch and sequence, and is refused when the epoch is not the lease's: a controller that
//!   lost its lease can write nothing any more.
//! * A guest has at most one open run (a unique index, not a convention).
//! * Blobs hold bytes as they were found; they may be keys, so they are never printed or exported.
//!
//! The journal knows nothing of steps: plans and events are JSON to it. [`Journal`] is a trait so that a shared
//! store can come later; [`sqlite::SqliteJournal`] is the one implementation.

mod batches;
#[cfg(debug_assertions)]
pub mod faults;
mod holder;
#[cfg(test)]
pub mod memory;
mod schema;
mod sqlite;

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use batches::{BatchRecord, Batches, Turn};
pub use holder::Holder;
pub use sqlite::SqliteJournal;

/// The on-disk format this program writes. Older ones are migrated or still read; newer ones are refused.
pub const FORMAT: i64 = 1;

/// One passage of a guest through the lifecycle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// `GUEST--` and four random characters.
    pub id: String,
    /// Guest name of the inventory.
    pub guest: String,
    /// State word of the lifecycle.
    pub state: String,
    /// When the state was entered.
    pub since: Timestamp,
    /// When the run began.
    pub opened: Timestamp,
    /// When it was closed; absent while it is open.
    pub closed: Option<Timestamp>,
    /// What the lifecycle has to know about the run, as it wrote it.
    pub facts: Value,
    /// The step an operator must decide about, if an undo failed.
    pub stuck: Option<Stuck>,
}

/// Where a run is stuck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// Plan number.
    pub plan: i64,
    /// Step, counted from 0.
    pub index: usize,
    /// Why its undo failed.
    pub why: String,
}

/// A stored plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanRecord {
    /// Number in the journal.
    pub id: i64,
    /// Run it belongs to.
    pub run: String,
    /// Verb it carries out.
    pub verb: String,
    /// Digest of its body.
    pub digest: String,
    /// The plan itself.
    pub body: Value,
    /// Who stored it: `user@host pid version`.
    pub by: String,
    /// When it was stored.
    pub stored: Timestamp,
    /// How it ended; absent while it is unfinished.
    pub outcome: Option<String>,
}

/// What happened to a step, or in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A step is about to be applied; data: what it found.
    Intent,
    /// A step was applied; data: what it did.
    Done,
    /// A step failed; data: the error.
    Failed,
    /// A step is about to be undone.
    UndoIntent,
    /// A step was undone; data: what was done.
    Undone,
    /// Undoing failed; data: the error.
    UndoFailed,
    /// An operator skipped a step; data: reason, who.
    Skipped,
    /// Production went down.
    OutageStarted,
    /// Production is up again.
    OutageEnded,
    /// The run's state changed; data: the state.
    State,
    /// An operator's decision or a remark; data: anything.
    Note,
}

/// One entry of the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Sequence in the run, from 1, without gaps.
    pub seq: i64,
    /// Epoch of the lease under which it was written.
    pub epoch: i64,
    /// When.
    pub time: Timestamp,
    /// Plan it belongs to, if any.
    pub plan: Option<i64>,
    /// Step it belongs to, if any, counted from 0.
    pub step: Option<usize>,
    /// What happened.
    pub kind: EventKind,
    /// Details.
    pub data: Value,
}

/// The right to change a run: its number grows with every holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The run.
    pub run: String,
    /// Every append is checked against it.
    pub epoch: i64,
}

/// Why the journal could not be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The state directory cannot be read or written.
    #[error("{path}: {why}", path = path.display())]
    Unusable {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Written by a newer program.
    #[error("{path}: format {found} is newer than this program knows ({FORMAT})", path = path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// The guest has an open run already.
    #[error("{guest} has an open run already: {run}")]
    Open {
        /// The guest.
        guest: String,
        /// Its run.
        run: String,
    },
    /// Another process holds the lease.
    #[error("held by {0}")]
    Held(Box<Holder>),
    /// This process lost its lease to another; nothing was written.
    #[error("the lease on {0} was taken over by another process")]
    Lost(String),
    /// There is no such run, plan or blob.
    #[error("{0} is not in the journal")]
    Missing(String),
    /// The database failed.
    #[error("journal: {0}")]
    Database(#[from] rusqlite::Error),
    /// A stored record cannot be read.
    #[error("journal: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// The record, as the engine and the lifecycle use it.
pub trait Journal: Send + Sync {
    /// Opens a run under a lease of epoch 1, in this state; refuses a second open run of the guest.
    fn open_run(
        &self,
        id: &str,
        guest: &str,
        state: &str,
        facts: &Value,
        holder: &Holder,
    ) -> Result<Lease, JournalError>;
    /// Runs, newest first; only open ones if asked.
    fn runs(&self, open_only: bool) -> Result<Vec<RunRecord>, JournalError>;
    /// The open run of a guest.
    fn open_of(&self, guest: &str) -> Result<Option<RunRecord>, JournalError>;
    /// One run by id.
    fn run(&self, id: &str) -> Result<Option<RunRecord>, JournalError>;
    /// Replaces the lifecycle's own facts of a run.
    fn set_facts(&self, lease: &Lease, facts: &Value) -> Result<(), JournalError>;
    /// Enters a state; with `close`, the run ends with it.
    fn set_state(&self, lease: &Lease, state: &str, close: bool) -> Result<(), JournalError>;
    /// Marks or unmarks a run as stuck.
    fn set_stuck(&self, lease: &Lease, stuck: Option<&Stuck>) -> Result<(), JournalError>;

    /// Who holds a run, with the epoch of the last lease.
    fn holder(&self, run: &str) -> Result<(i64, Option<Holder>), JournalError>;
    /// Takes the lease if its epoch is still `seen` (the caller has judged its holder); a new epoch begins.
    fn acquire(&self, run: &str, seen: i64, holder: &Holder) -> Result<Lease, JournalError>;
    /// Gives the lease back.
    fn release(&self, lease: &Lease) -> Result<(), JournalError>;

    /// Stores a plan whole, before its first step; enters its state in the same transaction.
    fn store_plan(
        &self,
        lease: &Lease,
        verb: &str,
        digest: &str,
        body: &Value,
        by: &str,
        state: &str,
    ) -> Result<i64, JournalError>;
    /// Ends a plan and enters a state in the same transaction; with `close`, the run ends too.
    fn finish_plan(
        &self,
        lease: &Lease,
        plan: i64,
        outcome: &str,
        state: &str,
        close: bool,
    ) -> Result<(), JournalError>;
    /// Plans of a run, oldest first.
    fn plans(&self, run: &str) -> Result<Vec<PlanRecord>, JournalError>;
    /// Appends an event; returns its sequence.
    fn append(
        &self,
        lease: &Lease,
        plan: Option<i64>,
        step: Option<usize>,
        kind: EventKind,
        data: &Value,
    ) -> Result<i64, JournalError>;
    /// Events of a run, oldest first.
    fn events(&self, run: &str) -> Result<Vec<EventRecord>, JournalError>;
    /// Stores bytes; returns their SHA-256 in hexadecimal.
    fn put_blob(&self, bytes: &[u8]) -> Result<String, JournalError>;
    /// Bytes by SHA-256.
    fn blob(&self, sha256: &str) -> Result<Vec<u8>, JournalError>;
}
