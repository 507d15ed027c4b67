//! Who may change a run: taking its lease, judging its holder, ending an old one.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::journal::{Holder, Journal, JournalError, Lease};

/// How long a holder that has it for one short action is waited for, whatever was asked.
const BRIEF: Duration = Duration::from_secs(60);

/// Takes the lease of a run. A holder that is proven gone is succeeded (children it left are ended first); one that
/// lives makes this wait up to `wait`, then fail with [`JournalError::Held`]. With `take_over` the holder is ended
/// first, with everything it started on this machine: an epoch cannot stop a command in flight.
///
/// # Errors
/// [`JournalError::Held`] by a living holder, or the journal's own trouble.
pub async fn take(journal: &dyn Journal, run: &str, take_over: bool, wait: Duration) -> Result<Lease, JournalError> {
    let me = Holder::this_process();
    let began = tokio::time::Instant::now();
    loop {
        let (epoch, holder) = journal.holder(run)?;
        let patience = |brief: bool| if brief { wait.max(BRIEF) } else { wait };
        match holder {
            Some(other) if other.is_this_process() => {}
            Some(other) if other.is_gone() => end_children(&other).await?,
            Some(other) if take_over => end(&other).await?,
            Some(other) if began.elapsed() >= patience(other.brief) => return Err(JournalError::Held(other.into())),
            Some(other) => {
                tokio::time::sleep(Duration::from_millis(if other.brief { 50 } else { 500 })).await;
                continue;
            }
            None => {}
        }
        // Somebody was faster: who it is decides.
        match journal.acquire(run, epoch, &me) {
            Err(JournalError::Held(_) | JournalError::Lost(_)) => {}
            other => return other,
        }
    }
}

/// A lease for one short action.
pub struct Borrowed {
    /// The lease.
    pub lease: Lease,
    before: Option<Holder>,
}

/// Takes the lease of a run for one short action; `None` if a living process holds it. A holder that is gone is put back
/// afterwards: that its verb was interrupted stays to be seen, and what it left running stays its successor's to end.
///
/// # Errors
/// The journal's own trouble.
pub fn borrow(journal: &dyn Journal, run: &str) -> Result<Option<Borrowed>, JournalError> {
    let (epoch, before) = journal.holder(run)?;
    if before.as_ref().is_some_and(|holder| !holder.is_gone()) {
        return Ok(None);
    }
    match journal.acquire(run, epoch, &Holder { brief: true, ..Holder::this_process() }) {
        Ok(lease) => Ok(Some(Borrowed { lease, before })),
        Err(JournalError::Held(_) | JournalError::Lost(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Borrowed {
    /// Gives it back.
    ///
    /// # Errors
    /// The journal's own trouble; it was taken over meanwhile.
    pub fn give_back(self, journal: &dyn Journal) -> Result<(), JournalError> {
        match &self.before {
            Some(gone) => journal.acquire(&self.lease.run, self.lease.epoch, gone).map(|_| ()),
            None => journal.release(&self.lease),
        }
    }
}

/// Ends a living holder and its children.
async fn end(holder: &Holder) -> Result<(), JournalError> {
    let here = Holder::this_process();
    if holder.boot != here.boot {
        return Err(JournalError::Held(holder.clone().into()));
    }
    let pid = Pid::from_raw(holder.pid);
    let _ = kill(pid, Signal::SIGKILL);
    for _ in 0..100 {
        if holder.is_gone() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if !holder.is_gone() {
        return Err(JournalError::Held(holder.clone().into()));
    }
    end_children(holder).await
}

/// Ends what the holder started on this machine and left running. If that cannot be done, the holder still holds.
async fn end_children(holder: &Holder) -> Result<(), JournalError> {
    let (marker, pid) = (holder.marker.clone(), holder.pid);
    match tokio::task::spawn_blocking(move || hypervisors::host::end_marked(&marker, pid)).await {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(ended)) => {
            tracing::warn!(ended, "ended processes left by {holder}");
            Ok(())
        }
        _ => Err(JournalError::Held(Box::new(holder.clone()))),
    }
}
