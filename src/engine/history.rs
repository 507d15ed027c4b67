//! What the journal says about the steps of a plan. Pure.

use serde_json::Value;

use crate::journal::{EventKind, EventRecord};

/// How far a step got, by the journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepHistory {
    /// What was captured with the first intent since it was last undone.
    pub found: Option<Value>,
    /// How it stands.
    pub status: Status,
    /// What its last completed application returned.
    pub done: Option<Value>,
}

/// How a step stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing was tried.
    #[default]
    Pending,
    /// An intent without a result: anything may have happened.
    Intended,
    /// Applied (an undo step: carried out).
    Done,
    /// Begun to be taken back.
    Undoing,
    /// Taken back.
    Undone,
    /// Skipped by an operator.
    Skipped,
}

impl StepHistory {
    /// Whether the world may hold something of it.
    pub fn to_be_undone(&self) -> bool {
        matches!(self.status, Status::Intended | Status::Done | Status::Undoing)
    }
}

/// Histories of the `steps` steps of a plan.
pub fn of_plan(events: &[EventRecord], plan: i64, steps: usize) -> Vec<StepHistory> {
    let mut histories = vec![StepHistory::default(); steps];
    for event in events.iter().filter(|event| event.plan == Some(plan)) {
        let Some(history) = event.step.and_then(|step| histories.get_mut(step)) else { continue };
        match event.kind {
            EventKind::Intent => {
                if history.found.is_none() || history.status == Status::Undone {
                    history.found = Some(event.data.clone());
                }
                history.status = Status::Intended;
            }
            EventKind::Done => {
                history.done = Some(event.data.clone());
                history.status = Status::Done;
            }
            EventKind::UndoIntent => history.status = Status::Undoing,
            EventKind::Undone => history.status = Status::Undone,
            EventKind::Skipped => history.status = Status::Skipped,
            _ => {}
        }
    }
    histories
}

/// Since when production is down by the journal, if it is.
pub fn open_outage(events: &[EventRecord]) -> Option<jiff::Timestamp> {
    events.iter().fold(None, |since, event| match event.kind {
        EventKind::OutageStarted => since.or(Some(event.time)),
        EventKind::OutageEnded => None,
        _ => since,
    })
}
