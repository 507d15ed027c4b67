//! The verbs that only look: `status`, `log`, `conffiles`.

use clap::{Args, Subcommand};
use hypervisors::host::printable;
use jiff::Timestamp;
use serde_json::json;

use super::context::Context;
use crate::journal::{Journal, RunRecord, SqliteJournal};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::{log, query};
use crate::output::{self, json, out};

/// `status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Guest, run, or the end of the run's id; every open run if left out
    guest: Option<String>,
    /// Ask the platforms too: power and fill level
    #[arg(long)]
    live: bool,
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
        let mut lines = runs.iter().map(|run| query::status(&journal, run)).collect::<Result<Vec<_>, _>>()?;
        if self.live {
            let app = context.app(context.inventory()?);
            context.block_on(async {
                for (run, line) in runs.iter().zip(&mut lines) {
                    app.look(run, line).await;
                }
            })?;
        }
        Ok(lines)
    }
}

/// A run in the journal, open or closed.
fn run_of(context: &Context, word: &str) -> Result<(SqliteJournal, RunRecord), Failure> {
    let journal = SqliteJournal::open_read_only(&context.state)?;
    let run = log::find(journal.as_ref().map(|journal| journal as &dyn Journal), word)?;
    // A run that was found was found in a journal.
    let journal = journal.ok_or_else(|| Failure::new(exit::JOURNAL, "open the journal"))?;
    Ok((journal, run))
}

/// `log`.
#[derive(Debug, Args)]
pub(super) struct Log {
    /// Guest, run (also a closed one), or the end of the run's id
    guest: String,
    /// What the commands of a step printed: step of the newest plan that has it, or PLAN.STEP
    #[arg(long, value_name = "N", value_parser = step)]
    step: Option<(Option<i64>, usize)>,
}

/// `7` or `3.7`.
fn step(text: &str) -> Result<(Option<i64>, usize), String> {
    let bad = || format!("{text:?} is not a step such as 7, or 3.7 (step 7 of plan 3)");
    let (plan, step) = match text.split_once('.') {
        Some((plan, step)) => (Some(plan.parse().map_err(|_| bad())?), step),
        None => (None, text),
    };
    Ok((plan, step.parse().ok().filter(|step| *step > 0).ok_or_else(bad)?))
}

impl Log {
    pub(super) fn run(&self, context: &Context) -> u8 {
        match self.show(context) {
            Ok(()) => 0,
            Err(failure) => context.fail(&failure.0),
        }
    }

    fn show(&self, context: &Context) -> Result<(), Failure> {
        let (journal, run) = run_of(context, &self.guest)?;
        if let Some((plan, step)) = self.step {
            let text = log::of_step(&journal, &run, plan, step)?;
            if context.json() {
                json::object(json!({ "run": run.id, "plan": plan, "step": step, "text": text }));
            } else {
                out(&text.lines().map(|line| printable(line) + "\n").collect::<String>());
            }
            return Ok(());
        }
        let log = log::of_run(&journal, &run)?;
        if context.json() {
            json::object(json!(log));
        } else {
            out(&output::log::render(&log));
        }
        Ok(())
    }
}

/// `conffiles`.
#[derive(Debug, Subcommand)]
pub(super) enum Conffiles {
    /// List the configuration files that the upgrade left undecided
    List {
        /// Guest, run, or the end of the run's id
        guest: String,
    },
    /// Show how the two versions of each file (or of one) differ
    Show {
        /// Guest, run, or the end of the run's id
        guest: String,
        /// The file in force, as `conffiles list` names it
        path: Option<String>,
    },
}

impl Conffiles {
    pub(super) fn run(&self, context: &Context) -> u8 {
        match self.show(context) {
            Ok(()) => 0,
            Err(failure) => context.fail(&failure.0),
        }
    }

    fn show(&self, context: &Context) -> Result<(), Failure> {
        let (Self::List { guest } | Self::Show { guest, .. }) = self;
        let (journal, run) = run_of(context, guest)?;
        let mut files = query::conffiles(&query::pasts(&journal, &run.id)?);
        if let Self::Show { path: Some(path), .. } = self {
            files.retain(|file| file.path == *path);
            if files.is_empty() {
                return Err(Failure::new(exit::USAGE, format!("show {path}"))
                    .cause("the upgrade left no such file undecided")
                    .help(format!("upgradectl conffiles list {guest}")));
            }
        }
        if context.json() {
            // Contents may hold secrets: they are for a terminal only.
            json::object(json!({ "run": run.id, "guest": run.guest, "conffiles": files }));
        } else if matches!(self, Self::List { .. }) {
            out(&if files.is_empty() { "none\n".to_owned() } else { query::conffiles_list(&files) });
        } else {
            for file in &files {
                let bytes = |sha: &Option<String>| sha.as_ref().map(|sha| journal.blob(sha)).transpose();
                let (current, other) = (bytes(&file.in_force)?, bytes(&file.other)?);
                out(&query::conffile_shown(file, current.as_deref(), other.as_deref()));
            }
        }
        Ok(())
    }
}
