//! Giving up what a batch made.

use std::sync::atomic::Ordering;

use super::run;
use super::spec::digest_of;
use super::status::status;
use crate::engine::ErrorInfo;
use crate::journal::{BatchRecord, Batches, Journal};
use crate::lifecycle::app::{App, Options};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::state::{State, Verb};

/// A guest and its run.
pub type GuestRun = (String, String);

/// What would be given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abortion {
    /// Clones that are removed.
    pub runs: Vec<GuestRun>,
    /// Guests that were promoted: what they wrote since would be lost. That is for a person to say, guest by guest.
    pub kept: Vec<GuestRun>,
}

impl Abortion {
    /// What `batch abort` would do now.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn of(app: &App, book: &Batches, journal: &dyn Journal, batch: &BatchRecord) -> Result<Self, Failure> {
        let mut abortion = Self::default();
        for line in status(book, journal, &app.inventory, batch)?.items {
            let (Some(run), Some(state)) = (line.run, line.state.as_deref().and_then(State::parse)) else { continue };
            match state {
                State::Committed | State::Aborted => {}
                State::Promoting | State::Promoted | State::Committing => abortion.kept.push((line.guest, run)),
                _ => abortion.runs.push((line.guest, run)),
            }
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
