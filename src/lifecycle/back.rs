//! The ways back, `rollback` and `abort`, as plans: the undos of what the journal holds, in reverse, with the proofs that
//! belong between them.

use super::clone::{fenced, learnt, settle};
use super::hooks::Hooks;
use super::page::{Page, Row};
use super::record::RunFacts;
use crate::engine::history::{self, StepHistory};
use crate::engine::{OnFailure, Op, Outage, Plan, PlanStep, Stage, Undo, undo_steps};
use crate::inventory::{GuestSpec, Verb};
use crate::journal::EventRecord;
use crate::steps::{Action, net};

/// A stored plan with what became of its steps.
pub struct Past {
    /// Number in the journal.
    pub id: i64,
    /// The plan.
    pub plan: Plan,
    /// Its steps' histories.
    pub histories: Vec<StepHistory>,
}

impl Past {
    /// Of a stored plan.
    pub fn new(id: i64, plan: Plan, events: &[EventRecord]) -> Self {
        let histories = history::of_plan(events, id, plan.steps.len());
        Self { id, plan, histories }
    }

    /// Whether something irreversible was begun.
    pub fn irreversible(&self) -> bool {
        (0..self.plan.steps.len()).any(|index| {
            self.plan.irreversible(index)
                && self.histories[index].status != history::Status::Pending
                && self.plan.undoes.is_none()
        })
    }

    /// Whether the promoted guest is live, or was.
    pub fn live(&self) -> bool {
        self.plan.steps.iter().zip(&self.histories).any(|(step, past)| step.goes_live && past.to_be_undone())
    }
}

/// Puts the proofs between the undos: nobody answers before the original starts; it is announced and waited for.
fn with_proofs(undos: Vec<PlanStep>, record: &RunFacts) -> Vec<PlanStep> {
    let host = &record.host;
    let places = &record.addressing.original_places;
    let proof = |stage, action: Action, estimate_s| {
        PlanStep::new(stage, action, estimate_s).undo(Undo::Nothing).on_failure(OnFailure::Warn)
    };
    let mut steps = Vec::new();
    for mut step in undos {
        let (stops_promoted, starts_original) = match &step.op {
            Op::Undo(_, Action::Start(start)) => (start.guest == record.original.name, false),
            Op::Undo(_, Action::Stop(stop)) => (false, stop.guest == record.original.name),
            _ => (false, false),
        };
        let starts_clone = matches!(&step.op, Op::Undo(_, Action::Stop(stop)) if stop.guest == record.clone.name);
        if starts_original {
            let silent = net::ProveSilent {
                host: host.clone(),
                places: places.clone(),
                before: Some(record.original.name.clone()),
            };
            // Two owners would break both: this one is not only worth a warning.
            steps.push(proof(Stage::Fence, silent.into(), 0.5).on_failure(OnFailure::Stop));
        }
        step.outage_ends = false;
        if step.clone_side {
            step.on_failure = OnFailure::Warn;
        }
        let clone_side = step.clone_side;
        steps.push(step);
        if stops_promoted {
            continue;
        }
        if starts_original {
            let announce = net::Announce { host: host.clone(), places: places.clone() };
            steps.push(proof(Stage::Start, announce.into(), 0.1));
            let settled = proof(Stage::Settle, settle(host, &record.original).into(), 6.0);
            // Until the original lets us in again the way back is not done.
            steps.push(settled.on_failure(OnFailure::Stop).outage_ends());
        }
        if starts_clone && clone_side {
            if let Some(learnt) = learnt(record) {
                steps.push(learnt.on_failure(OnFailure::Warn).clone_side());
            }
            let mut settle = proof(Stage::Settle, settle(host, &record.clone).into(), 8.0);
            settle.clone_side = true;
            steps.push(settle);
            if let Some(fenced) = fenced(record) {
                steps.push(fenced.on_failure(OnFailure::Warn).clone_side());
            }
        }
    }
    steps
}

fn outages(steps: &[PlanStep], name: &str) -> Vec<Outage> {
    let Some(from) = steps.iter().position(|step| step.outage_begins) else { return Vec::new() };
    let until = steps.iter().position(|step| step.outage_ends).unwrap_or(steps.len() - 1);
    let expected_s = steps[from..=until.max(from)].iter().map(|step| step.estimate_s).sum();
    vec![Outage { guest: name.to_owned(), expected_s }]
}

/// `rollback`: the world as before `promote`. `None` if something irreversible was begun.
pub fn rollback(spec: &GuestSpec, record: &RunFacts, promote: &Past) -> Option<(Plan, Page)> {
    let hooks = Hooks::of(spec, record);
    let undos = undo_steps(promote.id, &promote.plan, &promote.histories)?;
    let mut steps = hooks.before(Verb::Rollback);
    steps.extend(with_proofs(undos, record));
    steps.extend(hooks.after(Verb::Rollback));
    let name = &spec.name;
    let mut page = Page::new(format!("Roll {name} back to its original"));
    let outages = outages(&steps, name);
    page.rows
        .push(Row::new("outage", outages.first().map_or("none".into(), |o| format!("about {:.0} s", o.expected_s))));
    if promote.live() {
        page.rows.push(Row::new(
            "lost",
            format!("what {name} wrote to its own disks since it was promoted stays on the clone"),
        ));
        page.rows.push(Row::new("kept", "mail and job queues go back to the original; detached data keeps its writes"));
        page.confirm = Some(name.clone());
    }
    page.rows.push(Row::new("verified", "void afterwards: verify again before promoting again"));
    let plan = Plan {
        format: 1,
        run: record.clone.name.clone(),
        guest: name.clone(),
        verb: "rollback".into(),
        approved_as: None,
        strategy: super::strategy_word(record.strategy).into(),
        during: "rolling_back".into(),
        done: "upgraded".into(),
        failed: "promoted".into(),
        closes: false,
        failure_closes: false,
        undoes: Some(promote.id),
        outages,
        steps,
    };
    Some((plan, page))
}

/// `abort`: the world as before `clone`, from the plans of the run, oldest first. `None` if something irreversible was
/// begun.
pub fn abort(spec: &GuestSpec, record: &RunFacts, pasts: &[Past]) -> Option<(Plan, Page)> {
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Abort);
    let mut live = false;
    for past in pasts.iter().rev() {
        live |= past.live();
        let mut undos = undo_steps(past.id, &past.plan, &past.histories)?;
        // What only restores the clone is of no use: the clone goes. Temporary changes are taken back in any case.
        undos.retain(|step| !step.clone_side);
        steps.extend(with_proofs(undos, record));
    }
    steps.extend(hooks.after(Verb::Abort));
    let name = &spec.name;
    let outages = outages(&steps, name);
    let mut page = Page::new(format!("Abort {}", record.clone.name));
    page.rows.push(Row::new("removed", format!("{}, its definition and volumes", record.clone.name)));
    page.rows
        .push(Row::new("outage", outages.first().map_or("none".into(), |o| format!("about {:.0} s", o.expected_s))));
    if live {
        page.rows.push(Row::new("lost", format!("what {name} wrote to its own disks since it was promoted")));
        page.rows.push(Row::new("kept", "mail and job queues go back to the original; detached data keeps its writes"));
        page.confirm = Some(name.clone());
    }
    let plan = Plan {
        format: 1,
        run: record.clone.name.clone(),
        guest: name.clone(),
        verb: "abort".into(),
        approved_as: None,
        strategy: super::strategy_word(record.strategy).into(),
        during: "aborting".into(),
        done: "aborted".into(),
        failed: "aborting".into(),
        closes: true,
        failure_closes: false,
        undoes: pasts.first().map(|past| past.id),
        outages,
        steps,
    };
    Some((plan, page))
}
