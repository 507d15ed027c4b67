//! Ctrl-C stops after the step in hand, twice at once; a lost terminal stops nothing. Once a verb has ended, Ctrl-C ends
//! the wait for a reader.
//!
//! The journal is consistent at every instant, so ending at once is no more than an interrupted verb. Children run in
//! process groups of their own: the terminal's signals do not reach them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::lifecycle::error::exit;
use crate::output::front::Person;
use crate::output::{end, err};

/// The verb has not ended.
const RUNNING: i32 = -1;

/// Watches from now on. `stop` is set by the first Ctrl-C (or SIGTERM); the second ends the program.
/// What is returned takes the exit code of a verb that has ended.
pub(super) fn watch(stop: Arc<AtomicBool>, person: Arc<Person>) -> Arc<AtomicI32> {
    let ended = Arc::new(AtomicI32::new(RUNNING));
    // A handler that does nothing keeps a hang-up from ending the program, and is not inherited by children.
    if let Ok(mut hangup) = signal(SignalKind::hangup()) {
        tokio::spawn(async move { while hangup.recv().await.is_some() {} });
    }
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        if let Ok(signal) = signal(kind) {
            tokio::spawn(count(signal, stop.clone(), person.clone(), ended.clone()));
        }
    }
    ended
}

async fn count(mut signal: Signal, stop: Arc<AtomicBool>, person: Arc<Person>, ended: Arc<AtomicI32>) {
    while signal.recv().await.is_some() {
        if let Ok(code) = u8::try_from(ended.load(Ordering::Relaxed)) {
            end(code);
        }
        if let Some(code) = person.interrupt_code() {
            err("\nnot approved; nothing was changed\n");
            end(code);
        }
        if stop.swap(true, Ordering::Relaxed) {
            err("\nstopped at once; upgradectl status shows what is possible\n");
            end(exit::PARTWAY);
        }
        err("\nstopping after the step in hand; again to stop now\n");
    }
}
