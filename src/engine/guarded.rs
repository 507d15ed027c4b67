//! A step's code, run apart: a panic in it is an uncertain step, not the end of the program.

use std::sync::Arc;

use hypervisors::host::observed;
use hypervisors::occasion::Occasion;
use serde_json::Value;

use crate::steps::{Action, Done, Probe, StepError, World};

/// What is asked of a step.
pub(super) enum Work {
    /// How the world stands.
    Probe,
    /// What undo will need.
    Capture,
    /// To bring it about.
    Apply(Value),
    /// To take it back.
    Undo(Value),
}

/// What a step answers.
pub(super) enum Answer {
    /// To a probe.
    Probe(Probe),
    /// To a capture.
    Value(Value),
    /// To the rest.
    Done(Done),
}

/// Runs a step's code in a task of its own, so that a panic in it is an uncertain step and not the end of the program. What a
/// platform has to tell about it is told with the step's own warnings.
pub(super) async fn guarded(action: &Action, world: &World, work: Work) -> Result<Answer, StepError> {
    let (action, world) = (action.clone(), world.clone());
    let observer = world.observer.clone();
    let title = if matches!(work, Work::Undo(_)) { action.step().taken_back() } else { action.step().title() };
    let occasion = Occasion::new(format!("{}: {title}", world.run));
    let work = async move {
        let step = action.step();
        match work {
            Work::Probe => step.probe(&world).await.map(Answer::Probe),
            Work::Capture => step.capture(&world).await.map(Answer::Value),
            Work::Apply(found) => step.apply(&world, &found).await.map(Answer::Done),
            Work::Undo(found) => step.undo(&world, &found).await.map(Answer::Done),
        }
    };
    let mut answer = tokio::spawn(observed(observer, Arc::clone(&occasion).during(work)))
        .await
        .unwrap_or_else(|error| Err(StepError::Unknown(format!("this program failed in the step: {error}"))));
    if let Ok(Answer::Done(done)) = &mut answer {
        done.warnings.extend(occasion.notices());
    }
    answer
}
