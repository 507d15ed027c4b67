//! The verbs that only look.

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::context::Context;
use crate::journal::{Journal, SqliteJournal};
use crate::lifecycle::error::Failure;
use crate::lifecycle::query;
use crate::output::{self, json, out};

/// `status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Guest, run, or the end of the run's id; every open run if left out
    guest: Option<String>,
}

impl Status {
    pub(super) fn run(&self, context: &Context) -> u8 {
        match self.lines(context) {
            Ok(lines) if context.json() => json::object(json!({ "runs": lines })),
            Ok(lines) => out(&output::status::render(&lines, Timestamp::now(), context.style())),
            Err(failure) => return context.fail(&failure.0),
        }
        0
    }

    fn lines(&self, context: &Context) -> Result<Vec<query::StatusLine>, Failure> {
        let Some(journal) = SqliteJournal::open_read_only(&context.state)? else { return Ok(Vec::new()) };
        let runs = query::open_runs(&journal, self.guest.as_deref())?;
        runs.iter().map(|run| query::status(&journal, run)).collect()
    }
}
