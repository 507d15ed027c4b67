//! A journal that fails where it is told to: what the crash proof strikes with. In debug builds only; no released program
//! listens to it.
//!
//! Every intent, result and state is one write, and all of them pass here: counting them reaches every point of every step
//! of every verb, those still to be written included. A kill before a write of [`EventKind::Intent`] is before the intent,
//! one after it is after the intent, one before the write of [`EventKind::Done`] is after the effect and before its result.
//!
//! `$UPGRADECTL_JOURNAL_FAULT` is `N HOW FILE`: at the Nth write (from 1) of this process [`How`] happens, and FILE says at
//! which one it did. `N HOW=WORDS FILE` counts only writes that begin so: `1 kill-after=intent_3_7 FILE` strikes behind the intent of
//! the third plan's seventh step, whatever was written before (blanks are written as `_`). `0 trace FILE` lets all of them pass and
//! writes them down.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::ffi;
use serde_json::Value;

use super::{EventKind, EventRecord, Holder, Journal, JournalError, Lease, PlanRecord, RunRecord, Stuck};

const VARIABLE: &str = "UPGRADECTL_JOURNAL_FAULT";

/// What happens at a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Nothing; it is written down.
    Trace,
    /// The process is killed (SIGKILL), nothing of it is written.
    KillBefore,
    /// It is written, and the process is killed.
    KillAfter,
    /// A panic in its place.
    Panic,
    /// The disk is full, from here on.
    Full,
    /// The file system is read-only, from here on.
    ReadOnly,
}

/// A journal with a fault.
struct Faulty {
    inner: Arc<dyn Journal>,
    fault: Fault,
    writes: AtomicU64,
    /// Of those, the ones that count.
    counted: AtomicU64,
}

/// What the environment asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    at: u64,
    how: How,
    /// What a write has to begin with to count; empty: any.
    words: String,
    told: PathBuf,
}

/// The journal, with the fault that the environment asks for.
pub fn wrapped(inner: Arc<dyn Journal>) -> Arc<dyn Journal> {
    match std::env::var(VARIABLE) {
        Ok(wish) => match read(&wish) {
            Some(fault) => Arc::new(Faulty { inner, fault, writes: AtomicU64::new(0), counted: AtomicU64::new(0) }),
            None => panic!("{VARIABLE}: {wish:?} is not N HOW FILE"),
        },
        Err(_) => inner,
    }
}

fn read(wish: &str) -> Option<Fault> {
    let mut parts = wish.splitn(3, ' ');
    let at = parts.next()?.parse().ok()?;
    let how = parts.next()?;
    let (how, words) = how.split_once('=').unwrap_or((how, ""));
    let how = match how {
        "trace" => How::Trace,
        "kill-before" => How::KillBefore,
        "kill-after" => How::KillAfter,
        "panic" => How::Panic,
        "full" => How::Full,
        "read-only" => How::ReadOnly,
        _ => return None,
    };
    Some(Fault { at, how, words: words.replace('_', " "), told: parts.next()?.into() })
}

/// Whether a write begins with these words.
fn says(what: &str, words: &str) -> bool {
    what.strip_prefix(words).is_some_and(|rest| words.is_empty() || rest.is_empty() || rest.starts_with(' '))
}

fn kill() -> ! {
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    unreachable!("SIGKILL is not survived")
}

impl Faulty {
    /// One write; `what` says of what.
    fn write<T>(&self, what: &str, write: impl FnOnce() -> Result<T, JournalError>) -> Result<T, JournalError> {
        let Fault { at, how, words, told } = &self.fault;
        let number = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        let stays = matches!(how, How::Full | How::ReadOnly) && self.counted.load(Ordering::SeqCst) >= *at;
        let counts = says(what, words);
        let counted = if counts { self.counted.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
        if *how != How::Trace && counted != *at && !stays {
            return write();
        }
        if !stays {
            let file = OpenOptions::new().create(true).append(true).open(told);
            let written = file.and_then(|mut file| file.write_all(format!("{number} {what}\n").as_bytes()));
            assert!(written.is_ok(), "{}: {written:?}", told.display());
        }
        match how {
            How::Trace => write(),
            How::KillBefore => kill(),
            How::KillAfter => {
                let _ = write();
                kill()
            }
            How::Panic => panic!("told to, at write {number}: {what}"),
            How::Full => Err(failure(ffi::SQLITE_FULL, "database or disk is full")),
            How::ReadOnly => Err(failure(ffi::SQLITE_READONLY, "attempt to write a readonly database")),
        }
    }
}

fn failure(code: i32, words: &str) -> JournalError {
    JournalError::Database(rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(words.to_owned())))
}

impl Journal for Faulty {
    fn open_run(
        &self,
        id: &str,
        guest: &str,
        state: &str,
        facts: &Value,
        holder: &Holder,
    ) -> Result<Lease, JournalError> {
        self.write("open_run", || self.inner.open_run(id, guest, state, facts, holder))
    }
    fn runs(&self, open_only: bool) -> Result<Vec<RunRecord>, JournalError> {
        self.inner.runs(open_only)
    }
    fn open_of(&self, guest: &str) -> Result<Option<RunRecord>, JournalError> {
        self.inner.open_of(guest)
    }
    fn run(&self, id: &str) -> Result<Option<RunRecord>, JournalError> {
        self.inner.run(id)
    }
    fn set_facts(&self, lease: &Lease, facts: &Value) -> Result<(), JournalError> {
        self.write("facts", || self.inner.set_facts(lease, facts))
    }
    fn set_state(&self, lease: &Lease, state: &str, close: bool) -> Result<(), JournalError> {
        self.write(&format!("state {state}"), || self.inner.set_state(lease, state, close))
    }
    fn set_stuck(&self, lease: &Lease, stuck: Option<&Stuck>) -> Result<(), JournalError> {
        self.write("stuck", || self.inner.set_stuck(lease, stuck))
    }
    fn holder(&self, run: &str) -> Result<(i64, Option<Holder>), JournalError> {
        self.inner.holder(run)
    }
    fn acquire(&self, run: &str, seen: i64, holder: &Holder) -> Result<Lease, JournalError> {
        self.write("acquire", || self.inner.acquire(run, seen, holder))
    }
    fn release(&self, lease: &Lease) -> Result<(), JournalError> {
        self.write("release", || self.inner.release(lease))
    }
    fn store_plan(
        &self,
        lease: &Lease,
        verb: &str,
        digest: &str,
        body: &Value,
        by: &str,
        state: &str,
    ) -> Result<i64, JournalError> {
        let steps = body["steps"].as_array().map_or(0, Vec::len);
        self.write(&format!("plan {verb} {steps}"), || self.inner.store_plan(lease, verb, digest, body, by, state))
    }
    fn finish_plan(
        &self,
        lease: &Lease,
        plan: i64,
        outcome: &str,
        state: &str,
        close: bool,
    ) -> Result<(), JournalError> {
        self.write(&format!("finish {plan} {outcome}"), || self.inner.finish_plan(lease, plan, outcome, state, close))
    }
    fn plans(&self, run: &str) -> Result<Vec<PlanRecord>, JournalError> {
        self.inner.plans(run)
    }
    fn append(
        &self,
        lease: &Lease,
        plan: Option<i64>,
        step: Option<usize>,
        kind: EventKind,
        data: &Value,
    ) -> Result<i64, JournalError> {
        let word = serde_json::to_value(kind)?;
        let what =
            format!("{} {} {}", word.as_str().unwrap_or_default(), plan.unwrap_or(0), step.map_or(0, |at| at + 1));
        self.write(&what, || self.inner.append(lease, plan, step, kind, data))
    }
    fn events(&self, run: &str) -> Result<Vec<EventRecord>, JournalError> {
        self.inner.events(run)
    }
    fn put_blob(&self, bytes: &[u8]) -> Result<String, JournalError> {
        self.write("blob", || self.inner.put_blob(bytes))
    }
    fn blob(&self, sha256: &str) -> Result<Vec<u8>, JournalError> {
        self.inner.blob(sha256)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_whole_or_not_at_all() {
        let fault = read("1 kill-after=intent_3_7 /tmp/a file").unwrap();
        assert_eq!((fault.at, fault.how, fault.words.as_str()), (1, How::KillAfter, "intent 3 7"));
        assert_eq!(fault.told, PathBuf::from("/tmp/a file"));
        assert_eq!(read("0 trace /tmp/told").unwrap().words, "");
        assert!(says("intent 3 7", "intent 3 7") && says("plan clone 7", "plan") && says("facts", ""));
        assert!(!says("intent 3 71", "intent 3 7") && !says("plan clone 7", "intent"));
        assert_eq!(read("1 explode /tmp/told"), None);
        assert_eq!(read("1 kill-after"), None);
    }
}
