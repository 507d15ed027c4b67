//! A plan that is taken up again: what its machines took back by themselves while nobody renewed it.

use super::event::Emitter;
use super::history::{Status, StepHistory};
use super::{Op, Plan};
use crate::steps::World;

/// Takes up the care for a plan's leased changes, where it is to be gone on with. The steps of those that are gone, and have
/// to be made again: the rest of the plan rests on them.
pub(super) async fn take_up(world: &World, emit: &Emitter, plan: &Plan, histories: &[StepHistory]) -> Vec<usize> {
    let mut gone = Vec::new();
    for (index, (step, past)) in plan.steps.iter().zip(histories).enumerate() {
        let made = match &step.op {
            Op::Do(_) => past.status == Status::Done,
            // It stands until its turn has come.
            Op::Undo(..) => matches!(past.status, Status::Pending | Status::Intended),
        };
        let Some(leased) = step.op.action().step().leased().filter(|_| made) else { continue };
        match leased.hold(world).await {
            Ok(true) => {}
            Ok(false) if matches!(step.op, Op::Do(_)) => {
                emit.warning(format!(
                    "{}: {} took it back by itself while nobody renewed it; it is made again",
                    leased.name,
                    leased.place.word()
                ));
                gone.push(index);
            }
            Ok(false) => {}
            Err(error) => emit.warning(format!("{}: it cannot be told whether it stands: {error}", leased.name)),
        }
    }
    gone
}
