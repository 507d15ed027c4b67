//! Ctrl-C stops after the step in hand, twice at once; a lost terminal stops nothing.
//!
//! The journal is consistent at every instant, so ending at once is no more than an interrupted verb. Children run in
//! process groups of their own: the terminal's signals do not reach them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::lifecycle::error::exit;
use crate::output::err;
use crate::output::front::Person;

/// Watches from now on. `stop` is set by the first Ctrl-C (or SIGTERM); the second ends the program.
pub(super) fn watch(stop: Arc<AtomicBool>, person: Arc<Person>) {
    // A handler that does nothing keeps a hang-up from ending the program, and is not inherited by children.
    if let Ok(mut hangup) = signal(SignalKind::hangup()) {
        tokio::spawn(async move { while hangup.recv().await.is_some() {} });
    }
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        if let Ok(signal) = signal(kind) {
            tokio::spawn(count(signal, stop.clone(), person.clone()));
        }
    }
}

async fn count(mut signal: Signal, stop: Arc<AtomicBool>, person: Arc<Person>) {
    while signal.recv().await.is_some() {
        if let Some(code) = person.interrupt_code() {
            err("\nnot approved; nothing was changed\n");
            std::process::exit(code.into());
        }
        if stop.swap(true, Ordering::Relaxed) {
            err("\nstopped at once; upgradectl status shows what is possible\n");
            std::process::exit(exit::PARTWAY.into());
        }
        err("\nstopping after the step in hand; again to stop now\n");
    }
}
