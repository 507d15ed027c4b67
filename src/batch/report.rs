//! What became of a batch: of each guest the outcome, how long it took, how long production was down, its checks, the
//! configuration files left undecided, and what to type next.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::item::{Past, Stands};
use super::run::read_items;
use super::spec::Spec;
use crate::engine::ErrorInfo;
use crate::journal::{BatchRecord, Batches, Journal, RunRecord};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::query;
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::state::State;

/// The report of a batch.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this structure.
    pub schema: u32,
    /// Name.
    pub batch: String,
    /// Verbs, in order.
    pub verbs: Vec<&'static str>,
    /// Who began it.
    pub by: String,
    /// When it began.
    pub opened: Timestamp,
    /// When its last item ended.
    pub ended: Option<Timestamp>,
    /// Guests.
    pub guests: usize,
    /// Guests that ended well.
    pub well: usize,
    /// Guests that failed.
    pub failed: usize,
    /// Guests that never began.
    pub left: usize,
    /// One guest after the other, as the batch names them.
    pub items: Vec<ItemReport>,
}

/// The report of one guest.
#[derive(Clone, Debug, Serialize)]
pub struct ItemReport {
    /// Guest.
    pub guest: String,
    /// How it ended, or stands.
    pub outcome: Stands,
    /// After its failure its run was aborted.
    pub aborted: bool,
    /// Its run.
    pub run: Option<String>,
    /// State of its run.
    pub state: Option<String>,
    /// What was done.
    pub verbs: Vec<Past>,
    /// Seconds that took.
    pub elapsed_s: f64,
    /// Seconds production was down.
    pub outage_s: f64,
    /// The last verification: `4 passed, 1 held`.
    pub checks: Option<String>,
    /// Configuration files that the upgrade left undecided.
    pub conffiles: usize,
    /// Why it failed, or was left.
    pub error: Option<ErrorInfo>,
    /// Commands to go on with.
    pub next: Vec<String>,
}

/// The report of a batch, finished or not.
///
/// # Errors
/// If the journal cannot be read.
pub fn report(book: &Batches, journal: &dyn Journal, batch: &BatchRecord) -> Result<Report, Failure> {
    let spec: Spec = serde_json::from_value(batch.spec.clone())?;
    let records = read_items(book, batch.id)?;
    let number = |stands| records.iter().filter(|record| record.stands == stands).count();
    let mut items = Vec::new();
    for (item, record) in spec.items.iter().zip(&records) {
        let run = record.run.as_ref().map(|run| journal.run(run)).transpose()?.flatten();
        let told = run.as_ref().map(|run| of_run(journal, run)).transpose()?.unwrap_or_default();
        items.push(ItemReport {
            guest: item.guest.clone(),
            outcome: record.stands,
            aborted: record.aborted,
            run: record.run.clone(),
            state: run.map(|run| run.state),
            elapsed_s: record.past.iter().map(|past| past.elapsed_s).sum(),
            outage_s: record.past.iter().map(|past| past.outage_s).sum(),
            verbs: record.past.clone(),
            checks: told.checks,
            conffiles: told.conffiles,
            error: record.error.clone(),
            next: told.next,
        });
    }
    Ok(Report {
        schema: 1,
        batch: batch.name.clone(),
        verbs: spec.verbs.iter().map(|verb| verb.word()).collect(),
        by: batch.by.clone(),
        opened: batch.opened,
        ended: records.iter().filter_map(|record| record.ended).max(),
        guests: records.len(),
        well: number(Stands::Well),
        failed: number(Stands::Failed),
        left: number(Stands::Left),
        items,
    })
}

/// Writes a report into the state directory, in Markdown and as JSON; returns the place of the first.
///
/// # Errors
/// Exit code 11 with the place.
pub fn write(state: &Path, batch: &BatchRecord, report: &Report, text: &str) -> Result<PathBuf, Failure> {
    let directory = state.join("batches").join(&batch.name);
    let place = directory.join(format!("report-{}.md", batch.id));
    let json = serde_json::to_vec_pretty(report)?;
    let all = || -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        std::fs::write(place.with_extension("json"), json)?;
        std::fs::write(&place, text)
    };
    all().map_err(|error| {
        Failure::new(exit::JOURNAL, "write the report").cause(error.to_string()).place(place.display().to_string())
    })?;
    Ok(place)
}

#[derive(Default)]
struct OfRun {
    checks: Option<String>,
    conffiles: usize,
    next: Vec<String>,
}

fn of_run(journal: &dyn Journal, run: &RunRecord) -> Result<OfRun, Failure> {
    let facts: RunFacts = serde_json::from_value(run.facts.clone())?;
    let pasts = query::pasts(journal, &run.id)?;
    let active = pasts.last().filter(|past| !past.finished);
    let state = State::parse(&run.state);
    let words = state.map_or_else(Vec::new, |state| query::next(run, state, active, facts.strategy));
    let command = |word: &String| format!("upgradectl {word} {}", run.guest);
    Ok(OfRun {
        checks: facts.verification.map(|last| last.summary),
        conffiles: query::conffiles(&pasts).len(),
        next: words.iter().map(command).collect(),
    })
}
