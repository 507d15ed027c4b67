//! Looking at runs: status, the record, conffiles. Reads the journal only, and what watches noted beside it of the fill of
//! snapshots.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::back::Past;
use super::decide::Choice;
use super::error::Failure;
use super::fill::{Seen, VolumeInfo};
use super::record::RunFacts;
use super::state::{State, Verb};
use crate::engine::history::Status;
use crate::engine::{OnFailure, Op, Plan};
use crate::inventory::Strategy;
use crate::journal::{EventKind, Journal, RunRecord};
use crate::recipe::conffiles::Conffile;
use crate::steps::Action;

/// The run's plans with what became of them, oldest first.
///
/// # Errors
/// If the journal cannot be read.
pub fn pasts(journal: &dyn Journal, run: &str) -> Result<Vec<Past>, Failure> {
    let events = journal.events(run)?;
    let mut pasts = Vec::new();
    for stored in journal.plans(run)? {
        let plan: Plan = serde_json::from_value(stored.body)?;
        pasts.push(Past { finished: stored.outcome.is_some(), ..Past::new(stored.id, plan, &events) });
    }
    Ok(pasts)
}

/// The newest plan of a run, if it is unfinished.
///
/// # Errors
/// If the journal cannot be read.
pub fn active(journal: &dyn Journal, run: &str) -> Result<Option<Past>, Failure> {
    let unfinished = journal.plans(run)?.last().is_some_and(|plan| plan.outcome.is_none());
    Ok(if unfinished { pasts(journal, run)?.pop() } else { None })
}

/// The open runs, or the one that a guest's name, a run's id or its end means.
///
/// # Errors
/// If the journal cannot be read.
pub fn open_runs(journal: &dyn Journal, word: Option<&str>) -> Result<Vec<RunRecord>, Failure> {
    let mut runs = journal.runs(true)?;
    runs.retain(|run| word.is_none_or(|word| means(run, word)));
    Ok(runs)
}

/// Whether a word on the command line means this run.
pub(super) fn means(run: &RunRecord, word: &str) -> bool {
    run.guest == word || run.id == word || run.id.rsplit_once("--").is_some_and(|(_, id)| id == word)
}

/// Whether production was never down in a run.
///
/// # Errors
/// If the journal cannot be read.
pub fn never_down(journal: &dyn Journal, run: &str) -> Result<bool, Failure> {
    Ok(!journal.events(run)?.iter().any(|event| event.kind == EventKind::OutageStarted))
}

/// Whether what was done in a run is more than a clone's: production lived on it for a time, or is worked on itself. Giving it up
/// would take something that was written there, which is for a person to say.
///
/// # Errors
/// If the journal cannot be read.
pub fn holds_production(journal: &dyn Journal, run: &RunRecord) -> Result<bool, Failure> {
    let facts: RunFacts = serde_json::from_value(run.facts.clone())?;
    Ok(facts.strategy == Strategy::InPlace || pasts(journal, &run.id)?.iter().any(Past::went_live))
}

/// The undecided configuration files that the newest collection found.
pub fn conffiles(pasts: &[Past]) -> Vec<Conffile> {
    pasts
        .iter()
        .rev()
        .flat_map(|past| past.plan.steps.iter().zip(&past.histories))
        .filter(|(step, _)| matches!(step.op.action().kind(), "conffiles.collect" | "world.undecided"))
        .find_map(|(_, past)| Vec::deserialize(&past.done.as_ref()?["done"]["data"]).ok())
        .unwrap_or_default()
}

/// What lay undecided in the clone before its first upgrade, by the plan of that; `None` if there was none.
pub fn conffiles_before(pasts: &[Past]) -> Option<BTreeMap<String, String>> {
    pasts.iter().flat_map(|past| &past.plan.steps).find_map(|step| match &step.op {
        Op::Do(Action::CollectConffiles(collect)) => Some(collect.older.clone()),
        _ => None,
    })
}

/// One line of `status`.
#[derive(Clone, Debug, Serialize)]
pub struct StatusLine {
    /// Run id.
    pub run: String,
    /// Guest.
    pub guest: String,
    /// State.
    pub state: String,
    /// Since when.
    pub since: jiff::Timestamp,
    /// Strategy.
    pub strategy: String,
    /// A verb was under way when its process went away.
    pub interrupted: bool,
    /// Who is at it.
    pub holder: Option<HolderInfo>,
    /// The clone.
    pub clone: CloneInfo,
    /// Its volumes.
    pub volumes: Vec<VolumeInfo>,
    /// The last verification.
    pub last_verification: Option<super::record::Verification>,
    /// Promoted with failing checks.
    pub unproven: Option<String>,
    /// Step an operator must decide about, counted from 1.
    pub stuck_step: Option<usize>,
    /// What is being done now, or was done last.
    pub now: Option<String>,
    /// What can be typed now: verbs or, if it is stuck, decisions.
    pub next: Vec<String>,
    /// Why the platform could not be asked, with `--live`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Who is at a run.
#[derive(Clone, Debug, Serialize)]
pub struct HolderInfo {
    /// Machine.
    pub host: String,
    /// Process.
    pub pid: i32,
    /// Login name.
    pub user: String,
}

/// Where the clone is.
#[derive(Clone, Debug, Serialize)]
pub struct CloneInfo {
    /// Inventory host.
    pub host: String,
    /// Its address.
    pub address: String,
    /// Its hardware address.
    pub mac: Option<String>,
    /// What the platform says, with `--live`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<hypervisors::Power>,
}

/// The verbs possible now. A verb that is done but for its tidying up can be resumed too.
pub fn possible(state: State, active: Option<&Past>, strategy: Strategy) -> Vec<Verb> {
    let verbs = state.verbs(active.is_some_and(Past::irreversible), strategy == Strategy::InPlace);
    let untidy = active.filter(|_| !verbs.contains(&Verb::Resume)).map(|_| Verb::Resume);
    untidy.into_iter().chain(verbs.iter().copied()).collect()
}

/// What can be typed now: the verbs that are possible or, of a stuck run, what a person can decide.
pub fn next(run: &RunRecord, state: State, active: Option<&Past>, strategy: Strategy) -> Vec<String> {
    let words: Vec<&str> = match run.stuck {
        Some(_) => Choice::ALL.iter().map(|choice| choice.word()).collect(),
        None => possible(state, active, strategy).into_iter().map(Verb::word).collect(),
    };
    words.into_iter().map(str::to_owned).collect()
}

/// Why a promoted run is unproven, if it is. The note of that is made when the promotion has ended: if the controller died
/// in between, the steps tell.
pub fn unproven(facts: &RunFacts, pasts: &[Past]) -> Option<String> {
    let promotion = || pasts.last().filter(|past| past.plan.verb == "promote" && past.plan.undoes.is_none());
    let failed = || {
        let past = promotion().filter(|past| past.finished)?;
        let mut steps = past.plan.steps.iter().zip(&past.histories);
        let (step, _) =
            steps.find(|(step, past)| step.on_failure == OnFailure::Unproven && past.status == Status::Intended)?;
        Some(format!("failed to {}", step.title()))
    };
    facts.unproven.clone().or_else(failed)
}

/// What the journal says of one run.
///
/// # Errors
/// If the journal cannot be read.
pub fn status(journal: &dyn Journal, run: &RunRecord) -> Result<StatusLine, Failure> {
    let facts: RunFacts = serde_json::from_value(run.facts.clone())?;
    let (_, holder) = journal.holder(&run.id)?;
    let holder = holder.filter(|holder| !holder.brief || holder.is_gone());
    // A verb that ended by itself gave its lease back; one that still has a holder, but no living one, was cut off.
    let cut_off = holder.as_ref().is_some_and(crate::journal::Holder::is_gone);
    let holder = holder.filter(|holder| !holder.is_gone());
    let state = State::parse(&run.state);
    let busy = state.is_some_and(State::in_progress);
    let past = active(journal, &run.id)?;
    let now = past.as_ref().and_then(|past| {
        let at = past.histories.iter().rposition(|step| step.status != crate::engine::history::Status::Pending)?;
        Some(format!("{}/{} {}", at + 1, past.plan.steps.len(), past.plan.steps[at].title()))
    });
    let next = state.map_or_else(Vec::new, |state| next(run, state, past.as_ref(), facts.strategy));
    let seen = Seen::read(&facts.run_dir);
    let place = facts.addressing.clone_places.first().and_then(|place| place.mac);
    let mac = place.or(facts.addressing.by.as_ref().map(|(mac, _)| *mac));
    Ok(StatusLine {
        run: run.id.clone(),
        guest: run.guest.clone(),
        state: run.state.clone(),
        since: run.since,
        strategy: super::strategy_word(facts.strategy).to_owned(),
        interrupted: busy && cut_off,
        holder: holder.map(|holder| HolderInfo { host: holder.host, pid: holder.pid, user: holder.user }),
        clone: CloneInfo {
            host: facts.host.clone(),
            address: facts.addressing.shown(),
            mac: mac.map(|mac| mac.to_string()),
            power: None,
        },
        volumes: facts
            .disks
            .iter()
            .filter_map(|disk| disk.target.as_ref())
            .map(|volume| seen.info(&volume.to_string()))
            .collect(),
        last_verification: facts.verification.clone(),
        unproven: unproven(&facts, &pasts(journal, &run.id)?),
        stuck_step: run.stuck.as_ref().map(|stuck| stuck.index + 1),
        now,
        next,
        trouble: None,
    })
}

/// The list of undecided configuration files, for people.
pub fn conffiles_list(files: &[Conffile]) -> String {
    crate::recipe::conffiles::list(files)
}

/// One undecided configuration file with its diff, for people.
pub fn conffile_shown(file: &Conffile, kept: Option<&[u8]>, offered: Option<&[u8]>) -> String {
    crate::recipe::conffiles::show(file, kept, offered)
}
