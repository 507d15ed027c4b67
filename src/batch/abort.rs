//! Giving up what a batch made.

use std::sync::atomic::Ordering;

use super::run;
use super::spec::digest_of;
use super::status::status;
use crate::engine::ErrorInfo;
use crate::journal::{BatchRecord, Batches, Journal, RunRecord};
use crate::lifecycle::app::{App, Options};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::query;
use crate::lifecycle::state::{State, Verb};

/// A guest and its run.
pub type GuestRun = (String, String);

/// What would be given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abortion {
    /// Clones that are removed.
    pub runs: Vec<GuestRun>,
    /// Guests on whose clone production lives, or has lived, or which are worked on themselves: what was written there would be lost.
    /// That is for a person to say, guest by guest.
    pub kept: Vec<GuestRun>,
}

/// Whether giving a run up takes nothing but a clone.
fn is_but_a_clone(journal: &dyn Journal, run: &RunRecord) -> Result<bool, Failure> {
    let state = State::parse(&run.state);
    let moved =
        matches!(state, Some(State::Promoting | State::Promoted | State::Committing | State::RollingBack) | None);
    Ok(!moved && !query::holds_production(journal, run)?)
}

impl Abortion {
    /// What `batch abort` would do now: with the runs that this batch has begun, and no others.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn of(app: &App, book: &Batches, journal: &dyn Journal, batch: &BatchRecord) -> Result<Self, Failure> {
        let mut abortion = Self::default();
        for line in status(book, journal, &app.inventory, batch)?.items {
            let Some(run) = line.run.as_ref().map(|run| journal.run(run)).transpose()?.flatten() else { continue };
            if run.closed.is_some() || run.opened < batch.opened {
                continue;
            }
            let which = if is_but_a_clone(journal, &run)? { &mut abortion.runs } else { &mut abortion.kept };
            which.push((line.guest, run.id));
        }
        Ok(abortion)
    }

    /// Stands for all of it.
    pub fn digest(&self) -> String {
        digest_of(&self.runs)
    }

    /// Closes the batch, so that no controller begins anything of it any more, and aborts its runs one after the other. `tell`
    /// hears of each. Returns the exit code.
    ///
    /// # Errors
    /// If the journal cannot be used.
    pub async fn carry_out(
        &self,
        app: &App,
        book: &Batches,
        journal: &dyn Journal,
        batch: &BatchRecord,
        tell: impl Fn(&str, Option<&ErrorInfo>),
    ) -> Result<u8, Failure> {
        if batch.closed.is_none() {
            run::close(book, batch)?;
        }
        let mut code = exit::DONE;
        for (guest, run) in &self.runs {
            if app.stop.load(Ordering::Relaxed) {
                return Ok(exit::PARTWAY);
            }
            // Another controller may have gone on with it since the page was shown.
            let Some(now) = journal.run(run)?.filter(|now| now.closed.is_none()) else { continue };
            if !is_but_a_clone(journal, &now)? {
                let error = ErrorInfo {
                    code: exit::STATE,
                    message: format!("abort {guest}"),
                    causes: vec![format!("it is {} by now", now.state.replace('_', " "))],
                    help: Some(format!("upgradectl status {guest}")),
                    ..ErrorInfo::default()
                };
                tell(guest, Some(&error));
                code = exit::SOME_FAILED;
                continue;
            }
            let options = Options { yes: true, ..Options::default() };
            let finish = app.change(Verb::Abort, run, &options).await;
            tell(guest, finish.error.as_ref());
            if finish.code != exit::DONE {
                code = exit::SOME_FAILED;
            }
        }
        Ok(code)
    }
}
