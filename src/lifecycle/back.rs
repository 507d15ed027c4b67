//! The ways back, `rollback` and `abort`, as plans: the undos of what the journal holds, in reverse.

use hypervisors::VolumeRef;

use super::detached::{Saved, drained, what_is_kept};
use super::hooks::Hooks;
use super::page::{Page, Row};
use super::record::RunFacts;
use super::state::State;
use crate::engine::history::{self, StepHistory};
use crate::engine::{OnFailure, Op, Plan, PlanStep, Stage, Undo, outages, undo_steps};
use crate::inventory::{GuestSpec, Verb};
use crate::journal::EventRecord;
use crate::steps::{Action, queues};

/// A stored plan with what became of its steps.
pub struct Past {
    /// Number in the journal.
    pub id: i64,
    /// The plan.
    pub plan: Plan,
    /// Its steps' histories.
    pub histories: Vec<StepHistory>,
    /// It has ended, one way or the other.
    pub finished: bool,
}

impl Past {
    /// Of a stored plan that is not finished.
    pub fn new(id: i64, plan: Plan, events: &[EventRecord]) -> Self {
        let histories = history::of_plan(events, id, plan.steps.len());
        Self { id, plan, histories, finished: false }
    }

    /// Whether something irreversible was begun.
    pub fn irreversible(&self) -> bool {
        (0..self.plan.steps.len())
            .any(|index| self.plan.irreversible(index) && self.histories[index].status != history::Status::Pending)
    }

    /// Whether the promoted guest was ever begun to go live, whatever became of that.
    pub fn went_live(&self) -> bool {
        self.plan
            .steps
            .iter()
            .zip(&self.histories)
            .any(|(step, past)| step.goes_live && past.status != history::Status::Pending)
    }

    /// Whether the promoted guest is live, or was.
    pub fn live(&self) -> bool {
        self.plan.steps.iter().zip(&self.histories).any(|(step, past)| step.goes_live && past.to_be_undone())
    }
}

/// Detached data is restored right before the original starts: by then its definition is back, so that nothing else can
/// be started on it.
fn with_restores(mut undos: Vec<PlanStep>, record: &RunFacts, restore: &[Saved]) -> Vec<PlanStep> {
    let starts =
        |step: &PlanStep| matches!(&step.op, Op::Undo(_, Action::Stop(stop)) if stop.guest == record.original.name);
    if let Some(start) = undos.iter().position(starts) {
        let proofs = undos[..start].iter().rev().take_while(|step| matches!(step.op, Op::Do(_))).count();
        let at = start - proofs;
        undos.splice(at..at, restore.iter().map(|saved| saved.step(record)));
        undos = drained(undos, record, restore);
    }
    undos
}

/// A way back from `promoted` set the original's own queues aside, when the promoted guest's came in their place: in the end
/// they go. `root`: where they are by then; `running`: a guest runs on
/// it.
pub(super) fn discard_aside(record: &RunFacts, pasts: &[Past], root: &VolumeRef, running: bool) -> Option<PlanStep> {
    let returned =
        |past: &Past| {
            past.plan.steps.iter().zip(&past.histories).any(|(step, past)| {
                matches!(step.op, Op::Do(Action::Return(_))) && past.status != history::Status::Pending
            })
        };
    let discard = match running {
        true => queues::Discard::of_a_running(record.production_host(), root, &record.original),
        false => queues::Discard { host: record.host.clone(), volume: root.clone(), inside: None },
    };
    let step = PlanStep::new(Stage::Tidy, discard, 0.5).undo(Undo::Nothing).on_failure(OnFailure::Warn);
    pasts.iter().any(returned).then_some(step)
}

/// `rollback`: the world as before `promote`. `None` if something irreversible was begun.
/// `restore`: detached data that goes back to what it was at promotion.
pub fn rollback(spec: &GuestSpec, record: &RunFacts, promote: &Past, restore: &[Saved]) -> Option<(Plan, Page)> {
    let hooks = Hooks::of(spec, record);
    let undos = undo_steps(promote.id, &promote.plan, &promote.histories)?;
    let mut steps = hooks.before(Verb::Rollback);
    steps.extend(with_restores(undos, record, restore));
    steps.extend(hooks.after(Verb::Rollback));
    let name = &spec.name;
    let mut page = Page::new(format!("Roll {name} back to its original"));
    let outages = outages(&steps, name);
    page.rows
        .push(Row::new("outage", outages.first().map_or("none".into(), |o| format!("about {:.0} s", o.expected_s))));
    if promote.live() || !restore.is_empty() {
        page.rows.push(Row::new(
            "lost",
            format!("what {name} wrote to its own disks since it was promoted stays on the clone"),
        ));
        page.rows.extend(what_is_kept(record, restore));
        page.confirm = Some(name.clone());
    }
    page.rows.push(Row::new("verified", "void afterwards: verify again before promoting again"));
    let plan = Plan {
        undoes: Some(promote.id),
        ..record.plan("rollback", [State::RollingBack, State::Upgraded, State::Promoted], steps)
    };
    Some((plan, page))
}

/// `abort`: the world as before `clone`, from the plans of the run, oldest first. `None` if something irreversible was
/// begun. `restore`: detached data that goes back to what it was at promotion.
pub fn abort(spec: &GuestSpec, record: &RunFacts, pasts: &[Past], restore: &[Saved]) -> Option<(Plan, Page)> {
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Abort);
    let mut live = false;
    for past in pasts.iter().rev() {
        live |= past.live();
        let mut undos = undo_steps(past.id, &past.plan, &past.histories)?;
        // What only restores the clone is of no use: the clone goes. Temporary changes are taken back in any case.
        undos.retain(|step| !step.clone_side);
        steps.extend(with_restores(undos, record, restore));
    }
    if let Some((root, _)) = record.root() {
        steps.extend(discard_aside(record, pasts, root, true));
    }
    steps.extend(hooks.after(Verb::Abort));
    let name = &spec.name;
    let outages = outages(&steps, name);
    let mut page = Page::new(format!("Abort {}", record.clone.name));
    let with = match (&record.transfer, &record.machine) {
        (Some(_), _) => ", its definition and its tree",
        (_, Some(_)) => " with its disks, and its snapshot",
        _ => ", its definition and volumes",
    };
    page.rows.push(Row::new("removed", format!("{}{with}", record.clone.name)));
    page.rows
        .push(Row::new("outage", outages.first().map_or("none".into(), |o| format!("about {:.0} s", o.expected_s))));
    if live || !restore.is_empty() {
        page.rows.push(Row::new("lost", format!("what {name} wrote to its own disks since it was promoted")));
        page.rows.extend(what_is_kept(record, restore));
        page.confirm = Some(name.clone());
    }
    let plan = Plan {
        closes: true,
        undoes: pasts.first().map(|past| past.id),
        ..record.plan("abort", [State::Aborting, State::Aborted, State::Aborting], steps)
    };
    Some((plan, page))
}
