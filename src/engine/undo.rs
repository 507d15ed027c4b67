//! Plans backwards: which steps take back what the journal holds of a plan, with the proofs that belong between them, and
//! what a request to stop means. Pure.

use super::history::{Status, StepHistory};
use super::{OnFailure, Op, Plan, PlanStep, Stage, Undo};
use crate::steps::domain::Stop;
use crate::steps::{Action, StepRef};

/// The steps that take back what the journal holds of a plan, in reverse. `None` if something irreversible was begun.
pub(crate) fn undo_steps(id: i64, plan: &Plan, histories: &[StepHistory]) -> Option<Vec<PlanStep>> {
    let (mut steps, mut late) = (Vec::new(), Vec::new());
    for (index, step) in plan.steps.iter().enumerate().rev() {
        let Op::Do(action) = &step.op else { continue };
        if !histories.get(index).is_some_and(StepHistory::to_be_undone) {
            continue;
        }
        match step.undo {
            // What a way back did for good (it went to its end, or there would be no other) stays as it is.
            Undo::None if plan.undoes.is_some() => {}
            Undo::None => return None,
            Undo::WithClone | Undo::Nothing => {}
            Undo::Own => {
                // Neither the clone nor a command of the operator's holds up production's way back.
                let tolerant = step.clone_side || matches!(action, Action::Hook(_));
                let steps = if step.undo_late { &mut late } else { &mut steps };
                steps.extend(step.before_undo.iter().cloned());
                let mut undo = PlanStep::new(Stage::Restore, action.clone(), step.estimate_s)
                    .undo(Undo::None)
                    .on_failure(if tolerant { OnFailure::Warn } else { OnFailure::Stop });
                undo.op = Op::Undo(StepRef { plan: id, index }, action.clone());
                undo.clone_side = step.clone_side;
                undo.outage_begins = step.goes_live;
                // A guest that was found off stays off: there is nothing to wait for.
                let found = histories[index].found.as_ref();
                let stays_off =
                    matches!(action, Action::Stop(_) | Action::StopMachine(_)) && found.is_some_and(Stop::found_off);
                let after = if stays_off { &[][..] } else { &step.after_undo };
                undo.outage_ends = step.outage_begins && !after.iter().any(|step| step.outage_ends);
                steps.push(undo);
                steps.extend(after.iter().cloned());
            }
        }
    }
    steps.append(&mut late);
    Some(steps)
}

/// The plan that undoes a plan. `None` if something irreversible was begun.
pub(super) fn undo_plan(id: i64, plan: &Plan, histories: &[StepHistory]) -> Option<Plan> {
    let begun = |index: usize| histories.get(index).is_some_and(StepHistory::to_be_undone);
    let undone_to =
        plan.steps.iter().enumerate().filter(|(index, _)| begun(*index)).find_map(|(_, step)| step.undone_to.clone());
    Some(Plan {
        undoes: Some(id),
        done: undone_to.unwrap_or_else(|| plan.failed.clone()),
        closes: plan.failure_closes,
        steps: undo_steps(id, plan, histories)?,
        ..plan.clone()
    })
}

/// What a request to stop means.
pub(super) enum OnRequest {
    /// Not now.
    GoOn,
    /// Everything is undone.
    Undo,
    /// After the step in hand.
    Stop,
}

/// What a request to stop means. It never leaves production down, and a way back is never left half-way: before the
/// promoted guest is live everything is undone, after that the verb goes on to its end.
pub(super) fn on_request(plan: &Plan, histories: &[StepHistory]) -> OnRequest {
    let past = || plan.steps.iter().zip(histories);
    let begun = past().any(|(step, past)| step.outage_begins && past.status != Status::Pending);
    let live = past().any(|(step, past)| step.goes_live && past.to_be_undone());
    if plan.undoes.is_some() {
        OnRequest::GoOn
    } else if !begun {
        OnRequest::Stop
    } else if !live && undo_steps(0, plan, histories).is_some() {
        OnRequest::Undo
    } else {
        OnRequest::GoOn
    }
}
