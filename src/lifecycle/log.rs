//! The record of a run for people and programs: plans, who, when, steps with outcome and duration, decisions. Reads the
//! journal and the step logs only; bytes "as it was" stay in the journal.

use std::io::Read as _;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::error::{Failure, exit};
use super::query::means;
use super::record::RunFacts;
use super::step_log;
use super::watch::{self, Noted};
use crate::engine::{Op, Plan, Stage};
use crate::journal::{EventKind, EventRecord, Journal, RunRecord};

/// A step's log is read up to here (bytes); it stops growing a little above 4 MiB.
const LIMIT: u64 = 8 << 20;

/// The record of a run.
#[derive(Clone, Debug, Serialize)]
pub struct RunLog {
    /// Run id.
    pub run: String,
    /// Guest.
    pub guest: String,
    /// State.
    pub state: String,
    /// When it began.
    pub opened: Timestamp,
    /// When it was closed.
    pub closed: Option<Timestamp>,
    /// Seconds production was down, all plans together.
    pub outage_s: f64,
    /// Plans, oldest first.
    pub plans: Vec<PlanLog>,
    /// What operators decided.
    pub decisions: Vec<Decision>,
    /// What was done about snapshots that fill.
    pub watch: Vec<Noted>,
}

/// One plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlanLog {
    /// Number in the journal.
    pub plan: i64,
    /// Verb.
    pub verb: String,
    /// Digest.
    pub digest: String,
    /// The plan that it takes back, if it does.
    pub undoes: Option<i64>,
    /// `user@host pid N upgradectl VERSION`.
    pub by: String,
    /// When it was stored.
    pub stored: Timestamp,
    /// How it ended; `None`: it is unfinished.
    pub outcome: Option<String>,
    /// Steps that were begun.
    pub steps: Vec<StepEntry>,
    /// Number of steps of the plan.
    pub of: usize,
}

/// One step that was begun.
#[derive(Clone, Debug, Serialize)]
pub struct StepEntry {
    /// Counted from 1.
    pub index: usize,
    /// Kind.
    pub kind: &'static str,
    /// Stage.
    pub stage: Stage,
    /// Title.
    pub title: String,
    /// When it was begun first.
    pub started: Timestamp,
    /// What came of it last: the outcomes of events, `skipped`, or `begun` if that is all that is known.
    pub outcome: String,
    /// How long that took.
    pub elapsed_s: Option<f64>,
    /// It was taken back later.
    pub undone: bool,
    /// Why it failed last, if it did.
    pub error: Option<String>,
}

/// What an operator decided about a step.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// When.
    pub time: Timestamp,
    /// `retry`, `skip` or `abandon`.
    pub decision: String,
    /// Plan.
    pub plan: Option<i64>,
    /// Step, counted from 1.
    pub step: Option<usize>,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
}

/// The run that a word means: an open run, else a closed one by its id, else the guest's newest.
///
/// # Errors
/// If there is none, or the journal cannot be read.
pub fn find(journal: Option<&dyn Journal>, word: &str) -> Result<RunRecord, Failure> {
    let runs = journal.map_or(Ok(Vec::new()), |journal| journal.runs(false))?;
    let open = runs.iter().find(|run| run.closed.is_none() && means(run, word));
    open.or_else(|| runs.iter().find(|run| means(run, word))).cloned().ok_or_else(|| {
        Failure::new(exit::USAGE, format!("find a run of {word}"))
            .cause("no guest or run of that name is in the journal")
            .help("upgradectl status names the open runs; is it another state directory (--state)?")
    })
}

/// The record of a run.
///
/// # Errors
/// If the journal cannot be read.
pub fn of_run(journal: &dyn Journal, run: &RunRecord) -> Result<RunLog, Failure> {
    let events = journal.events(&run.id)?;
    let mut plans = Vec::new();
    for stored in journal.plans(&run.id)? {
        let plan: Plan = serde_json::from_value(stored.body)?;
        plans.push(PlanLog {
            plan: stored.id,
            verb: stored.verb,
            digest: stored.digest,
            undoes: plan.undoes,
            by: stored.by,
            stored: stored.stored,
            outcome: stored.outcome,
            steps: steps(stored.id, &plan, &events),
            of: plan.steps.len(),
        });
    }
    Ok(RunLog {
        run: run.id.clone(),
        guest: run.guest.clone(),
        state: run.state.clone(),
        opened: run.opened,
        closed: run.closed,
        outage_s: outage(&events),
        plans,
        decisions: events.iter().filter_map(decision).collect(),
        watch: watch::notes(&events),
    })
}

fn outage(events: &[EventRecord]) -> f64 {
    let mut since = None;
    let mut seconds = 0.0;
    for event in events {
        match event.kind {
            EventKind::OutageStarted => since = since.or(Some(event.time)),
            EventKind::OutageEnded => {
                seconds += since.take().map_or(0.0, |since| event.time.duration_since(since).as_secs_f64());
            }
            _ => {}
        }
    }
    seconds
}

fn decision(event: &EventRecord) -> Option<Decision> {
    let text = |key: &str| event.data[key].as_str().map(str::to_owned);
    (event.kind == EventKind::Note).then_some(())?;
    Some(Decision {
        time: event.time,
        decision: text("decision")?,
        plan: event.plan,
        step: event.step.map(|step| step + 1),
        reason: text("reason").unwrap_or_default(),
        by: text("by").unwrap_or_default(),
    })
}

fn steps(id: i64, plan: &Plan, events: &[EventRecord]) -> Vec<StepEntry> {
    let mut entries: Vec<Option<StepEntry>> = vec![None; plan.steps.len()];
    for event in events.iter().filter(|event| event.plan == Some(id)) {
        let Some((index, step)) = event.step.and_then(|index| Some((index, plan.steps.get(index)?))) else { continue };
        let entry = entries[index].get_or_insert_with(|| StepEntry {
            index: index + 1,
            kind: step.op.action().kind(),
            stage: step.stage,
            title: step.title(),
            started: event.time,
            outcome: "begun".to_owned(),
            elapsed_s: None,
            undone: false,
            error: None,
        });
        let elapsed = event.data["elapsed_s"].as_f64();
        match event.kind {
            EventKind::Done => {
                let done = event.data["done"]["change"].as_str().unwrap_or("done");
                entry.outcome = if matches!(step.op, Op::Undo(..)) { "undone" } else { done }.to_owned();
                entry.elapsed_s = elapsed.or(Some(event.time.duration_since(entry.started).as_secs_f64()));
                (entry.undone, entry.error) = (false, None);
            }
            EventKind::Failed | EventKind::UndoFailed => {
                entry.outcome = "failed".to_owned();
                entry.elapsed_s = elapsed.or(entry.elapsed_s);
                entry.error = Some(causes(&event.data["error"]));
            }
            EventKind::Undone => entry.undone = true,
            EventKind::Skipped => entry.outcome = "skipped".to_owned(),
            _ => {}
        }
    }
    entries.into_iter().flatten().collect()
}

fn causes(error: &Value) -> String {
    let causes: Vec<&str> = error["causes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    causes.join("\n")
}

/// What the commands of a step printed. `plan`: the run's newest plan that has a log of such a step if left out; `step`
/// is counted from 1. Not neutralised for a terminal.
///
/// # Errors
/// If there is no such log.
pub fn of_step(journal: &dyn Journal, run: &RunRecord, plan: Option<i64>, step: usize) -> Result<String, Failure> {
    let facts: RunFacts = serde_json::from_value(run.facts.clone())?;
    let plans = journal.plans(&run.id)?;
    let wanted = plans.iter().rev().filter(|stored| plan.is_none_or(|plan| stored.id == plan));
    for stored in wanted {
        if let Some(text) = read(&step_log::path(&facts.run_dir, stored.id, step)) {
            return Ok(text);
        }
    }
    Err(Failure::new(exit::USAGE, format!("show what step {step} printed"))
        .cause("no command of such a step was run on a machine")
        .help(format!("upgradectl log {} lists the steps; --step PLAN.STEP names one of an older plan", run.guest)))
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(LIMIT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
