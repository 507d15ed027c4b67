//! Executes a stored plan, from wherever the journal says it got to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hypervisors::Power;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::event::{Emitter, ErrorInfo, EventBody, StepInfo, StepOutcome};
use super::guarded::{Answer, Work, guarded};
use super::history::{self, Status, StepHistory};
use super::shared;
use super::standing::take_up;
use super::undo::{OnRequest, on_request, undo_plan};
use super::{OnFailure, Op, Plan, PlanStep};
use crate::journal::{EventKind, Journal, JournalError, Lease, Stuck};
use crate::steps::{Action, Done, Probe, StepError, StepRef, World};

/// How often an uncertain step is looked at and tried again.
const ATTEMPTS: u32 = 3;

/// How long after the first time; the next waits twice as long.
const AGAIN: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 1000 });

/// How a plan ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done. `unproven`: checks failed after going live. `untidy`: a temporary change could not be taken
    /// back yet (the plan stays open; resume tries again).
    Done {
        /// Why the run is unproven.
        unproven: Option<ErrorInfo>,
        /// What could not be tidied.
        untidy: Option<ErrorInfo>,
    },
    /// A step failed and everything was undone.
    Undone(ErrorInfo),
    /// Stopped part-way, by a failure or by the operator (`None`).
    Stopped(Option<ErrorInfo>),
    /// Ended in its failure state.
    Failed(ErrorInfo),
    /// An undo failed: the operator decides.
    Stuck(ErrorInfo),
}

/// The end of a plan with what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// How it ended.
    pub ended: Ended,
    /// Seconds production was down in this invocation.
    pub outage_s: f64,
}

/// Why the engine could not go on at all. The world is as the journal says; nothing was improvised.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The journal failed: no effect was started after that.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A stored plan cannot be read.
    #[error("stored plan: {0}")]
    Plan(#[from] serde_json::Error),
}

/// Runs plans of one run under its lease.
pub struct Engine {
    journal: Arc<dyn Journal>,
    lease: Lease,
    world: World,
    emit: Arc<Emitter>,
    outage_since: Option<Timestamp>,
    outage_s: f64,
}

impl Engine {
    /// An engine for a run. An outage that an earlier process left open goes on being counted.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn new(journal: Arc<dyn Journal>, lease: Lease, world: World, emit: Arc<Emitter>) -> Result<Self, EngineError> {
        let events = journal.events(&lease.run)?;
        let outage_since = history::open_outage(&events);
        Ok(Self { journal, lease, world, emit, outage_since, outage_s: 0.0 })
    }

    /// Executes a stored plan to its end.
    ///
    /// # Errors
    /// Only when the journal fails; what goes wrong in the world is in the report.
    pub async fn execute(&mut self, id: i64, plan: &Plan) -> Result<Report, EngineError> {
        let events = self.journal.events(&self.lease.run)?;
        let mut histories = history::of_plan(&events, id, plan.steps.len());
        let work_left = plan.steps.iter().zip(&histories).any(|(step, past)| {
            !step.temporary && matches!(past.status, Status::Pending | Status::Intended | Status::Undoing)
        });
        let mut unproven = None;
        // What a crash left undecided about the clone stays undecided until a person or a whole plan settles it.
        let mut clone_left =
            plan.steps.iter().zip(&histories).any(|(step, past)| step.clone_side && past.status == Status::Skipped);
        let mut redo = vec![false; plan.steps.len()];
        if let Some(from) = self.drifted(plan, &histories).await {
            for (index, past) in histories.iter_mut().enumerate().skip(from) {
                if past.status == Status::Done {
                    past.status = Status::Intended;
                    redo[index] = true;
                }
            }
        }
        if work_left {
            for index in take_up(&self.world, &self.emit, plan, &histories).await {
                histories[index].status = Status::Intended;
            }
        }
        for (index, step) in plan.steps.iter().enumerate() {
            let again = step.temporary && work_left && histories[index].status == Status::Undone;
            let finished = matches!(histories[index].status, Status::Done | Status::Skipped | Status::Undone);
            if (finished && !again) || (step.temporary && !work_left) {
                if finished && step.outage_ends {
                    self.outage_ended(id)?;
                }
                continue;
            }
            if self.world.stop.load(Ordering::Relaxed) {
                match on_request(plan, &histories) {
                    OnRequest::GoOn => {}
                    OnRequest::Undo => {
                        let cause = ErrorInfo {
                            message: format!("finish {}", plan.verb),
                            causes: vec!["stopped on request while production was down".into()],
                            ..ErrorInfo::default()
                        };
                        return self.undo_everything(id, plan, &histories, cause).await;
                    }
                    OnRequest::Stop => {
                        let untidy = self.tidy(id, plan, &mut histories).await?;
                        return Ok(self.report(Ended::Stopped(untidy)));
                    }
                }
            }
            // A clone whose way back failed somewhere stays as it is: started with production's identity it would be a
            // second owner of production's address.
            if clone_left && step.clone_side && step.on_failure == OnFailure::Warn {
                self.record(id, index, EventKind::Skipped, &Value::Null)?;
                continue;
            }
            if step.outage_begins {
                self.outage_started(id, plan)?;
            }
            let result = match &step.op {
                Op::Do(action) => self.apply(id, plan, index, step, action, &mut histories[index]).await?,
                Op::Undo(at, action) => {
                    self.take_back_as_step(id, plan, index, step, (*at, redo[index]), action).await?
                }
            };
            if let Err(error) = result {
                let cause = self.error_info(step, &error);
                match step.on_failure {
                    OnFailure::Warn => {
                        clone_left |= step.clone_side;
                        self.emit.warning(format!("{}: {error}", step.title()));
                    }
                    OnFailure::Unproven => {
                        unproven.get_or_insert(cause);
                    }
                    OnFailure::End => {
                        let untidy = self.tidy(id, plan, &mut histories).await?;
                        if untidy.is_none() {
                            self.journal.finish_plan(&self.lease, id, "failed", &plan.failed, plan.failure_closes)?;
                        }
                        return Ok(self.report(Ended::Failed(cause)));
                    }
                    OnFailure::Stop => {
                        if matches!(step.op, Op::Undo(..)) {
                            let stuck = Stuck { plan: id, index, why: cause.causes.join(": ") };
                            self.journal.set_stuck(&self.lease, Some(&stuck))?;
                            return Ok(self.report(Ended::Stuck(cause)));
                        }
                        self.tidy(id, plan, &mut histories).await?;
                        return Ok(self.report(Ended::Stopped(Some(cause))));
                    }
                    OnFailure::Undo => return self.undo_everything(id, plan, &histories, cause).await,
                }
            }
            if step.outage_ends {
                self.outage_ended(id)?;
            }
        }
        // No plan that is done leaves production down. One that takes back an outage that was announced, and in which
        // the controller was killed before it stopped anything, has no step that ends it.
        self.outage_ended(id)?;
        let untidy = self.tidy(id, plan, &mut histories).await?;
        if untidy.is_none() {
            self.journal.finish_plan(&self.lease, id, "done", &plan.done, plan.closes)?;
        } else {
            self.journal.set_state(&self.lease, &plan.done, false)?;
        }
        Ok(self.report(Ended::Done { unproven, untidy }))
    }

    /// The first step of a resumed plan that the world does not agree with any more: a guest that was started is off
    /// (its host went down), one that was stopped is on (its host or a person started it). From there on all is done
    /// again: a stopped side that ran meanwhile has to be carried again.
    async fn drifted(&self, plan: &Plan, histories: &[StepHistory]) -> Option<usize> {
        let mut last: BTreeMap<(&str, &str), (usize, bool)> = BTreeMap::new();
        for (index, (step, _)) in
            plan.steps.iter().zip(histories).enumerate().filter(|(_, (_, past))| past.status == Status::Done)
        {
            let (host, guest, on) = match &step.op {
                Op::Do(Action::Start(start)) => (&start.host, &start.guest, true),
                Op::Undo(_, Action::Start(start)) => (&start.host, &start.guest, false),
                Op::Do(Action::Stop(stop)) => (&stop.host, &stop.guest, false),
                Op::Undo(_, Action::Stop(stop)) => (&stop.host, &stop.guest, true),
                _ => continue,
            };
            last.insert((host, guest), (index, on));
        }
        let mut first = None;
        for ((host, guest), (index, on)) in last {
            let Ok(hypervisor) = self.world.hypervisor(host) else { continue };
            let Ok(power) = hypervisor.power(guest).await else { continue };
            // Once its definition was changed, whoever started it started the right side.
            let redefined = || {
                plan.steps.iter().zip(histories).skip(index).any(|(step, past)| {
                    past.status == Status::Done
                        && matches!(step.op.action(), Action::Define(define) if define.definition.name == guest)
                })
            };
            // Nor is it anybody's else when its own start was begun, and the controller went before it could say so.
            let ours = || {
                plan.steps.iter().zip(histories).skip(index).any(|(step, past)| {
                    let starts = match &step.op {
                        Op::Do(Action::Start(start)) => start.guest == guest,
                        Op::Undo(_, Action::Stop(stop)) => stop.guest == guest,
                        _ => false,
                    };
                    starts && past.status == Status::Intended
                })
            };
            let gone = on && power == Power::Off && matches!(hypervisor.facts(guest).await, Ok(Some(_)));
            if gone || (!on && power == Power::On && !redefined() && !ours()) {
                first = Some(first.map_or(index, |other: usize| other.min(index)));
            }
        }
        first
    }

    fn report(&self, ended: Ended) -> Report {
        Report { ended, outage_s: self.outage_s }
    }

    /// Undoes everything of a plan by a plan of its own, so that a crash in the middle resumes the undoing.
    async fn undo_everything(
        &mut self,
        id: i64,
        plan: &Plan,
        histories: &[StepHistory],
        cause: ErrorInfo,
    ) -> Result<Report, EngineError> {
        let Some(undo) = undo_plan(id, plan, histories) else {
            return Ok(self.report(Ended::Stopped(Some(cause))));
        };
        let undo_id = self.store(&undo, &undo.during)?;
        let report = Box::pin(self.execute(undo_id, &undo)).await?;
        Ok(match report.ended {
            Ended::Done { .. } => self.report(Ended::Undone(cause)),
            Ended::Stuck(mut why) => {
                why.causes.insert(0, format!("undoing after: {}", cause.causes.join(": ")));
                self.report(Ended::Stuck(why))
            }
            other => self.report(other),
        })
    }

    /// Stores a plan, whole, before its first step.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub fn store(&self, plan: &Plan, state: &str) -> Result<i64, EngineError> {
        let holder = crate::journal::Holder::this_process();
        let by = format!("{}@{} pid {} upgradectl {}", holder.user, holder.host, holder.pid, env!("CARGO_PKG_VERSION"));
        let body = serde_json::to_value(plan)?;
        Ok(self.journal.store_plan(&self.lease, &plan.verb, &plan.digest(), &body, &by, state)?)
    }

    /// Applies one step by the contract. The outer error is the journal's, the inner one the world's.
    async fn apply(
        &self,
        id: i64,
        plan: &Plan,
        index: usize,
        step: &PlanStep,
        action: &Action,
        past: &mut StepHistory,
    ) -> Result<Result<(), StepError>, EngineError> {
        let info = self.info(id, plan, index, step);
        let started = Instant::now();
        self.emit.step_started(&info, step.estimate_s);
        let _turn = match action.step().shared() {
            Some(thing) => Some(shared::turn(&thing).await),
            None => None,
        };
        let result = self.apply_probed(id, index, action, past).await?;
        let elapsed_s = started.elapsed().as_secs_f64();
        match &result {
            Ok(done) => {
                self.record(id, index, EventKind::Done, &json!({ "done": done, "elapsed_s": elapsed_s }))?;
                past.status = Status::Done;
                for warning in &done.warnings {
                    self.emit.warning(warning.clone());
                }
                self.emit.send(EventBody::StepFinished {
                    step: info,
                    outcome: done.change.into(),
                    elapsed_s,
                    error: None,
                });
            }
            Err(error) => {
                let described = self.error_info(step, error);
                self.record(id, index, EventKind::Failed, &json!({ "error": described, "elapsed_s": elapsed_s }))?;
                let outcome = if error.is_unknown() { StepOutcome::Unknown } else { StepOutcome::Failed };
                self.emit.send(EventBody::StepFinished { step: info, outcome, elapsed_s, error: Some(described) });
            }
        }
        Ok(result.map(|_| ()))
    }

    async fn apply_probed(
        &self,
        id: i64,
        index: usize,
        action: &Action,
        past: &mut StepHistory,
    ) -> Result<Result<Done, StepError>, EngineError> {
        let known = past.found.is_some() && past.status != Status::Undone;
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(AGAIN * attempt).await;
            }
            let probe = match guarded(action, &self.world, Work::Probe).await {
                Ok(Answer::Probe(probe)) => probe,
                Ok(Answer::Value(_) | Answer::Done(_)) => Probe::Unknown("no answer".into()),
                Err(error) if error.is_unknown() => Probe::Unknown(error.to_string()),
                Err(error) => return Ok(Err(error)),
            };
            if let Probe::Unknown(why) = &probe {
                last = Some(StepError::Unknown(why.clone()));
                continue;
            }
            if !known && past.status != Status::Intended {
                let found = match guarded(action, &self.world, Work::Capture).await {
                    Ok(Answer::Value(found)) => found,
                    Ok(_) => Value::Null,
                    Err(error) if error.is_unknown() => {
                        last = Some(error);
                        continue;
                    }
                    Err(error) => return Ok(Err(error)),
                };
                self.record(id, index, EventKind::Intent, &found)?;
                past.found = Some(found);
                past.status = Status::Intended;
            } else if past.status != Status::Intended {
                let found = past.found.clone().unwrap_or(Value::Null);
                self.record(id, index, EventKind::Intent, &found)?;
                past.status = Status::Intended;
            }
            if probe == Probe::Present {
                let change = if last.is_some() { hypervisors::Change::Changed } else { hypervisors::Change::Unchanged };
                return Ok(Ok(Done::new(change)));
            }
            let found = past.found.clone().unwrap_or(Value::Null);
            match guarded(action, &self.world, Work::Apply(found)).await {
                Ok(Answer::Done(done)) => return Ok(Ok(done)),
                Ok(_) => last = Some(StepError::Unknown("no answer".into())),
                Err(error) if error.is_unknown() => last = Some(error),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Err(last.unwrap_or_else(|| StepError::Unknown("cannot be told".into()))))
    }

    /// An undo that is a step of a stored undo plan: recorded for both plans.
    async fn take_back_as_step(
        &self,
        id: i64,
        plan: &Plan,
        index: usize,
        step: &PlanStep,
        (at, redo): (StepRef, bool),
        action: &Action,
    ) -> Result<Result<(), StepError>, EngineError> {
        let info = self.info(id, plan, index, step);
        self.emit.step_started(&info, step.estimate_s);
        self.record(id, index, EventKind::Intent, &Value::Null)?;
        let result = self.take_back(at, redo, action, info).await?;
        if result.is_ok() {
            self.record(id, index, EventKind::Done, &Value::Null)?;
        }
        Ok(result)
    }

    /// Undoes a step, trying again while its effect is uncertain.
    async fn take_back(
        &self,
        at: StepRef,
        redo: bool,
        action: &Action,
        info: StepInfo,
    ) -> Result<Result<(), StepError>, EngineError> {
        let started = Instant::now();
        let events = self.journal.events(&self.lease.run)?;
        let past = history::of_plan(&events, at.plan, at.index + 1).pop().unwrap_or_default();
        if past.status == Status::Undone && !redo {
            return Ok(Ok(()));
        }
        let found = past.found.unwrap_or(Value::Null);
        let mut world = self.world.clone();
        world.last = past.done.map_or(Value::Null, |done| done["done"].clone());
        self.record(at.plan, at.index, EventKind::UndoIntent, &Value::Null)?;
        let mut result = Err(StepError::Unknown("not tried".into()));
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(AGAIN * attempt).await;
            }
            result = match guarded(action, &world, Work::Undo(found.clone())).await {
                Ok(Answer::Done(done)) => Ok(done),
                Ok(_) => Err(StepError::Unknown("no answer".into())),
                Err(error) => Err(error),
            };
            if !matches!(&result, Err(error) if error.is_unknown()) {
                break;
            }
        }
        let elapsed_s = started.elapsed().as_secs_f64();
        match &result {
            Ok(done) => {
                self.record(at.plan, at.index, EventKind::Undone, &json!({ "done": done, "elapsed_s": elapsed_s }))?;
                for warning in &done.warnings {
                    self.emit.warning(warning.clone());
                }
                self.emit.send(EventBody::StepUndone {
                    step: info,
                    outcome: StepOutcome::Undone,
                    elapsed_s,
                    error: None,
                });
            }
            Err(error) => {
                let described = describe(&info.title, error);
                self.record(at.plan, at.index, EventKind::UndoFailed, &json!({ "error": described }))?;
                let outcome = if error.is_unknown() { StepOutcome::Unknown } else { StepOutcome::Failed };
                self.emit.send(EventBody::StepUndone { step: info, outcome, elapsed_s, error: Some(described) });
            }
        }
        Ok(result.map(|_| ()))
    }

    /// Takes back what earlier plans of the run left of their temporary changes; returns the first trouble.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub async fn tidy_earlier(&self, id: i64, plan: &Plan) -> Result<Option<ErrorInfo>, EngineError> {
        let events = self.journal.events(&self.lease.run)?;
        let mut histories = history::of_plan(&events, id, plan.steps.len());
        self.tidy(id, plan, &mut histories).await
    }

    /// Undoes the temporary steps of a plan, in reverse; returns the first trouble.
    async fn tidy(
        &self,
        id: i64,
        plan: &Plan,
        histories: &mut [StepHistory],
    ) -> Result<Option<ErrorInfo>, EngineError> {
        let mut trouble = None;
        for (index, step) in plan.steps.iter().enumerate().rev() {
            let Op::Do(action) = &step.op else { continue };
            if !step.temporary || !histories[index].to_be_undone() {
                continue;
            }
            let info = self.info(id, plan, index, step);
            match self.take_back(StepRef { plan: id, index }, false, action, info).await? {
                Ok(()) => histories[index].status = Status::Undone,
                Err(error) => {
                    trouble.get_or_insert(self.error_info(step, &error));
                }
            }
        }
        Ok(trouble)
    }

    fn info(&self, id: i64, plan: &Plan, index: usize, step: &PlanStep) -> StepInfo {
        StepInfo {
            plan: id,
            index: index + 1,
            of: plan.steps.len(),
            kind: step.op.action().kind(),
            stage: step.stage,
            title: step.title(),
        }
    }

    fn error_info(&self, step: &PlanStep, error: &StepError) -> ErrorInfo {
        describe(&step.title(), error)
    }

    fn record(&self, plan: i64, index: usize, kind: EventKind, data: &Value) -> Result<(), EngineError> {
        self.journal.append(&self.lease, Some(plan), Some(index), kind, data)?;
        Ok(())
    }

    fn outage_started(&mut self, id: i64, plan: &Plan) -> Result<(), EngineError> {
        if self.outage_since.is_none() {
            self.journal.append(&self.lease, Some(id), None, EventKind::OutageStarted, &Value::Null)?;
            self.outage_since = Some(Timestamp::now());
            let expected_s = plan.outages.first().map_or(0.0, |outage| outage.expected_s);
            self.emit.send(EventBody::OutageStarted { expected_s });
        }
        Ok(())
    }

    fn outage_ended(&mut self, id: i64) -> Result<(), EngineError> {
        if let Some(since) = self.outage_since.take() {
            self.journal.append(&self.lease, Some(id), None, EventKind::OutageEnded, &Value::Null)?;
            let elapsed_s = Timestamp::now().duration_since(since).as_secs_f64();
            self.outage_s += elapsed_s;
            self.emit.send(EventBody::OutageEnded { elapsed_s });
        }
        Ok(())
    }
}

/// An error as it is shown: what failed, its causes, its hint.
fn describe(title: &str, error: &StepError) -> ErrorInfo {
    ErrorInfo {
        code: 0,
        message: title.to_owned(),
        causes: error.to_string().lines().map(str::to_owned).collect(),
        place: None,
        help: error.help().map(str::to_owned),
    }
}
