//! Long work in the clone: started detached there, followed from here, re-attached to after a lost link.
//!
//! A job is known by `BASE` (first attempt), `BASE-2`, `BASE-3` …: an attempt that failed or whose machine went down
//! under it is followed by a new one, one that runs or ended well is not started again. Losing the link never ends
//! the work and is never taken for its failure.

use std::future::Future;
use std::time::{Duration, Instant};

use hypervisors::host::{Job, JobStatus};
use hypervisors::{Cause, Error, Host, Result};

/// More attempts than anyone makes by hand.
const ATTEMPTS: u32 = 99;

/// Looks that may fail in the machine itself, one after the other, before the failure counts.
const FAILED_LOOKS: u32 = 5;

/// How long to follow, and how often to look.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two looks; a lost link is tried again at up to 15 times this.
    pub poll: Duration,
    /// All in all; afterwards the error is [`hypervisors::Cause::Unknown`] and the work goes on in the clone.
    pub total: Duration,
}

/// Gets the id of the attempt and the next bytes it printed.
pub type Sink<'a> = &'a mut (dyn FnMut(&str, &[u8]) + Send);

/// An attempt that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Id of the attempt.
    pub id: String,
    /// Exit status; `None`: the machine went down under it.
    pub status: Option<i32>,
    /// It was over before it was looked for: nothing was started.
    pub already: bool,
}

impl End {
    /// Whether it ended with status 0.
    pub fn well(&self) -> bool {
        self.status == Some(0)
    }
}

/// Repeats a call while the link is lost, until the deadline; and a few times if it fails in the machine itself: while
/// the C library is replaced there, the loader and the library do not match for an instant, and any program that is
/// started aborts (`*** stack smashing detected ***`, status 134). The scripts that look do not fail by themselves.
async fn patiently<T, F>(patience: Patience, deadline: Instant, mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut wait = patience.poll;
    let mut failures = 0;
    loop {
        match call().await {
            Err(error) if worth_repeating(&error, &mut failures) && Instant::now() + wait < deadline => {
                tokio::time::sleep(wait).await;
            }
            answer => return answer,
        }
        wait = (wait * 2).min(patience.poll * 15);
    }
}

fn worth_repeating(error: &Error, failures: &mut u32) -> bool {
    *failures += u32::from(!error.is_unknown());
    match error.cause {
        Cause::Unknown(_) => true,
        Cause::Command { .. } | Cause::Malformed(_) | Cause::NotFound(_) => *failures <= FAILED_LOOKS,
        _ => false,
    }
}

fn attempt_id(base: &str, attempt: u32) -> String {
    if attempt <= 1 { base.to_owned() } else { format!("{base}-{attempt}") }
}

/// The newest attempt (counted from 1; 0: none yet) and how it stands.
pub async fn newest(guest: &dyn Host, base: &str) -> Result<(u32, JobStatus)> {
    let mut newest = (0, JobStatus::Absent);
    for attempt in 1..=ATTEMPTS {
        match guest.job_status(&attempt_id(base, attempt)).await? {
            JobStatus::Absent => return Ok(newest),
            status => newest = (attempt, status),
        }
    }
    Err(Error::refused(format!("start {base}"), format!("{ATTEMPTS} attempts were made")))
}

/// Brings a piece of work to its end: attaches to a running attempt, is content with one that ended well, else starts
/// the next. `sink` gets everything the attempt printed, from its beginning, in pieces, at each look.
pub async fn run(
    guest: &dyn Host,
    base: &str,
    argv: &[String],
    env: &[(String, String)],
    patience: Patience,
    sink: Sink<'_>,
) -> Result<End> {
    let deadline = Instant::now() + patience.total;
    let (attempt, status) = patiently(patience, deadline, || newest(guest, base)).await?;
    let id = match status {
        JobStatus::Running { .. } => attempt_id(base, attempt),
        JobStatus::Ended { status: 0, .. } => {
            return Ok(End { id: attempt_id(base, attempt), status: Some(0), already: true });
        }
        _ => {
            let job = Job { id: attempt_id(base, attempt + 1), argv: argv.to_vec(), env: env.to_vec() };
            patiently(patience, deadline, || guest.job_start(&job)).await?;
            job.id
        }
    };
    follow(guest, id, patience, deadline, sink).await
}

async fn follow(guest: &dyn Host, id: String, patience: Patience, deadline: Instant, sink: Sink<'_>) -> Result<End> {
    let (mut seen, begun) = (0, Instant::now());
    loop {
        let status = patiently(patience, deadline, || guest.job_status(&id)).await?;
        loop {
            let piece = patiently(patience, deadline, || guest.job_output(&id, seen)).await?;
            seen += piece.len() as u64;
            sink(&id, &piece);
            if piece.is_empty() {
                break;
            }
        }
        match status {
            JobStatus::Running { .. } if Instant::now() >= deadline => {
                return Err(Error::unknown(format!("wait for {id}"), "it still runs in the clone")
                    .help("look at it with upgradectl ssh, then upgradectl resume"));
            }
            // Short work is not kept waiting, long work is not looked at often.
            JobStatus::Running { .. } => tokio::time::sleep(patience.poll.min(begun.elapsed() / 8)).await,
            JobStatus::Ended { status, .. } => return Ok(End { id, status: Some(status), already: false }),
            JobStatus::Lost => return Ok(End { id, status: None, already: false }),
            JobStatus::Absent => {
                return Err(Error::unknown(format!("wait for {id}"), "its record in the clone is gone"));
            }
        }
    }
}
