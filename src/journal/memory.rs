//! A journal that is a value, for tests that go back and forth between its states: [`Book`] is all that was written, and
//! [`MemoryJournal`] is the one that is open. What it promises is what [`super::SqliteJournal`] promises.
//!
//! Before every write, and after those that begin an effect, a [`Tap`] looks at the book; it can end everything there, as
//! the death of the controller does: nothing is written from then on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{EventKind, EventRecord, Holder, Journal, JournalError, Lease, PlanRecord, RunRecord, Stuck};

/// All that was written.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Runs, oldest first.
    pub runs: Vec<RunRecord>,
    /// Plans, oldest first.
    pub plans: Vec<Arc<PlanRecord>>,
    /// Events of all runs, oldest first, with their run.
    pub events: Vec<(String, Arc<EventRecord>)>,
    /// Epoch and holder by run.
    pub leases: BTreeMap<String, (i64, Option<Holder>)>,
}

/// Looks at the book at a write, of which it is told; `false`: the controller dies there.
pub type Tap = Box<dyn FnMut(&Book, &str) -> bool + Send>;

/// A journal in memory.
#[derive(Default)]
pub struct MemoryJournal {
    book: Mutex<Book>,
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    tap: Mutex<Option<Tap>>,
    dead: Mutex<bool>,
}

thread_local! {
    static INSTALLED: RefCell<Option<Arc<MemoryJournal>>> = const { RefCell::new(None) };
}

/// The one that this thread's programs open, whatever their state directory.
pub fn installed() -> Option<Arc<MemoryJournal>> {
    INSTALLED.with_borrow(Clone::clone)
}

impl MemoryJournal {
    /// An empty one, which this thread's programs open from now on.
    pub fn install() -> Arc<Self> {
        let journal = Arc::new(Self::default());
        INSTALLED.set(Some(journal.clone()));
        journal
    }

    /// What is written in it.
    pub fn book(&self) -> Book {
        self.open().clone()
    }

    /// Goes (back) to a state of it, with somebody who looks. Blobs are found by their contents: they stay.
    pub fn turn_to(&self, book: Book, tap: Option<Tap>) {
        *self.open() = book;
        *lock(&self.tap) = tap;
        *lock(&self.dead) = false;
    }

    fn open(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    fn alive(&self) -> Result<(), JournalError> {
        match *lock(&self.dead) {
            true => Err(JournalError::Unusable { path: "memory".into(), why: "the controller is dead".into() }),
            false => Ok(()),
        }
    }

    fn looked_at(&self, book: &Book, what: &str) -> Result<(), JournalError> {
        let goes_on = lock(&self.tap).as_mut().is_none_or(|tap| tap(book, what));
        *lock(&self.dead) |= !goes_on;
        self.alive()
    }

    fn write<T>(
        &self,
        what: &str,
        begins: bool,
        act: impl FnOnce(&mut Book) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        self.alive()?;
        let mut book = self.open();
        self.looked_at(&book, &format!("before {what}"))?;
        let result = act(&mut book)?;
        if begins {
            self.looked_at(&book, &format!("after {what}"))?;
        }
        Ok(result)
    }

    fn change<T>(
        &self,
        what: &str,
        begins: bool,
        lease: &Lease,
        act: impl FnOnce(&mut Book) -> T,
    ) -> Result<T, JournalError> {
        self.write(what, begins, |book| match book.leases.get(&lease.run) {
            Some((epoch, Some(_))) if *epoch == lease.epoch => Ok(act(book)),
            _ => Err(JournalError::Lost(lease.run.clone())),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Book {
    fn run_mut(&mut self, run: &str) -> Option<&mut RunRecord> {
        self.runs.iter_mut().find(|record| record.id == run)
    }

    fn enter(&mut self, lease: &Lease, state: &str, close: bool) {
        let now = Timestamp::now();
        if let Some(run) = self.run_mut(&lease.run) {
            (run.state, run.since) = (state.to_owned(), now);
            run.closed = run.closed.or(close.then_some(now));
        }
        self.add(lease, (None, None), EventKind::State, json!({ "state": state }));
    }

    fn add(&mut self, lease: &Lease, at: (Option<i64>, Option<usize>), kind: EventKind, data: Value) -> i64 {
        let of_run = self.events.iter().filter(|(run, _)| *run == lease.run);
        let seq = i64::try_from(of_run.count()).unwrap_or(i64::MAX) + 1;
        let (plan, step) = at;
        let event = EventRecord { seq, epoch: lease.epoch, time: Timestamp::now(), plan, step, kind, data };
        self.events.push((lease.run.clone(), Arc::new(event)));
        seq
    }
}

impl Journal for MemoryJournal {
    fn open_run(
        &self,
        id: &str,
        guest: &str,
        state: &str,
        facts: &Value,
        holder: &Holder,
    ) -> Result<Lease, JournalError> {
        self.write("open_run", true, |book| {
            if let Some(open) = book.runs.iter().find(|run| run.guest == guest && run.closed.is_none()) {
                return Err(JournalError::Open { guest: guest.to_owned(), run: open.id.clone() });
            }
            let now = Timestamp::now();
            book.runs.push(RunRecord {
                id: id.to_owned(),
                guest: guest.to_owned(),
                state: state.to_owned(),
                since: now,
                opened: now,
                closed: None,
                facts: facts.clone(),
                stuck: None,
            });
            book.leases.insert(id.to_owned(), (1, Some(holder.clone())));
            let lease = Lease { run: id.to_owned(), epoch: 1 };
            book.add(&lease, (None, None), EventKind::State, json!({ "state": state }));
            Ok(lease)
        })
    }
    fn runs(&self, open_only: bool) -> Result<Vec<RunRecord>, JournalError> {
        let book = self.open();
        Ok(book.runs.iter().rev().filter(|run| !open_only || run.closed.is_none()).cloned().collect())
    }
    fn open_of(&self, guest: &str) -> Result<Option<RunRecord>, JournalError> {
        Ok(self.open().runs.iter().find(|run| run.guest == guest && run.closed.is_none()).cloned())
    }
    fn run(&self, id: &str) -> Result<Option<RunRecord>, JournalError> {
        Ok(self.open().runs.iter().find(|run| run.id == id).cloned())
    }
    fn set_facts(&self, lease: &Lease, facts: &Value) -> Result<(), JournalError> {
        self.change("facts", false, lease, |book| {
            if let Some(run) = book.run_mut(&lease.run) {
                run.facts = facts.clone();
            }
        })
    }
    fn set_state(&self, lease: &Lease, state: &str, close: bool) -> Result<(), JournalError> {
        self.change(&format!("state {state}"), false, lease, |book| book.enter(lease, state, close))
    }
    fn set_stuck(&self, lease: &Lease, stuck: Option<&Stuck>) -> Result<(), JournalError> {
        self.change("stuck", false, lease, |book| {
            if let Some(run) = book.run_mut(&lease.run) {
                run.stuck = stuck.cloned();
            }
        })
    }
    fn holder(&self, run: &str) -> Result<(i64, Option<Holder>), JournalError> {
        self.open().leases.get(run).cloned().ok_or_else(|| JournalError::Missing(run.to_owned()))
    }
    fn acquire(&self, run: &str, seen: i64, holder: &Holder) -> Result<Lease, JournalError> {
        self.write("acquire", false, |book| match book.leases.get_mut(run) {
            Some((epoch, held)) if *epoch == seen => {
                (*epoch, *held) = (seen + 1, Some(holder.clone()));
                Ok(Lease { run: run.to_owned(), epoch: seen + 1 })
            }
            Some((_, Some(other))) => Err(JournalError::Held(other.clone().into())),
            _ => Err(JournalError::Lost(run.to_owned())),
        })
    }
    fn release(&self, lease: &Lease) -> Result<(), JournalError> {
        self.change("release", false, lease, |book| {
            if let Some((_, holder)) = book.leases.get_mut(&lease.run) {
                *holder = None;
            }
        })
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
        self.change(&format!("plan {verb}"), true, lease, |book| {
            let id = i64::try_from(book.plans.len()).unwrap_or(i64::MAX) + 1;
            book.plans.push(Arc::new(PlanRecord {
                id,
                run: lease.run.clone(),
                verb: verb.to_owned(),
                digest: digest.to_owned(),
                body: body.clone(),
                by: by.to_owned(),
                stored: Timestamp::now(),
                outcome: None,
            }));
            book.enter(lease, state, false);
            id
        })
    }
    fn finish_plan(
        &self,
        lease: &Lease,
        plan: i64,
        outcome: &str,
        state: &str,
        close: bool,
    ) -> Result<(), JournalError> {
        self.change(&format!("finish {plan} {outcome}"), false, lease, |book| {
            if let Some(plan) = book.plans.iter_mut().find(|record| record.id == plan && record.outcome.is_none()) {
                Arc::make_mut(plan).outcome = Some(outcome.to_owned());
            }
            book.enter(lease, state, close);
        })
    }
    fn plans(&self, run: &str) -> Result<Vec<PlanRecord>, JournalError> {
        Ok(self.open().plans.iter().filter(|plan| plan.run == run).map(|plan| (**plan).clone()).collect())
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
        let place = format!("{} {}", plan.unwrap_or(0), step.map_or(0, |at| at + 1));
        let what = format!("{} {place}", word.as_str().unwrap_or_default());
        let begins = matches!(kind, EventKind::Intent | EventKind::UndoIntent);
        self.change(&what, begins, lease, |book| book.add(lease, (plan, step), kind, data.clone()))
    }
    fn events(&self, run: &str) -> Result<Vec<EventRecord>, JournalError> {
        let book = self.open();
        Ok(book.events.iter().filter(|(of, _)| of == run).map(|(_, event)| (**event).clone()).collect())
    }
    fn put_blob(&self, bytes: &[u8]) -> Result<String, JournalError> {
        self.alive()?;
        let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        lock(&self.blobs).insert(sha256.clone(), bytes.to_vec());
        Ok(sha256)
    }
    fn blob(&self, sha256: &str) -> Result<Vec<u8>, JournalError> {
        lock(&self.blobs).get(sha256).cloned().ok_or_else(|| JournalError::Missing(format!("blob {sha256}")))
    }
}
