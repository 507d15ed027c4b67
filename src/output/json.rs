//! For programs: changing verbs print one event a line, queries one object. Field names are the interface page's.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};

use super::neutral::escaped;
use super::writer::{self, Stream};
use crate::engine::{ErrorInfo, Event, EventBody, Op, Plan, Sink, Undo};
use crate::lifecycle::app::Front;
use crate::lifecycle::page::Proposal;
use crate::steps::Action;

/// Version of every object.
pub const SCHEMA: u32 = 1;

/// An event as it is printed.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    event: &'a Event,
    /// Events left out just before this one.
    #[serde(skip_serializing_if = "is_none")]
    dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_none(number: &u64) -> bool {
    *number == 0
}

/// A sink that prints each event as a line; silent if the invocation only plans. What only accompanies a step is left
/// out while the reader does not keep up; the next event tells how many.
pub fn sink(plan_only: bool) -> Sink {
    sink_to(plan_only, |line, detail| {
        if detail {
            writer::offer(Stream::Out, line)
        } else {
            writer::put(Stream::Out, line);
            true
        }
    })
}

/// The same to `put`, which gets a line and whether it may be left out, and says whether it was not.
pub(super) fn sink_to(plan_only: bool, put: impl Fn(&str, bool) -> bool + Send + Sync + 'static) -> Sink {
    let dropped = Mutex::new(0);
    Arc::new(move |event| {
        if plan_only {
            return;
        }
        let mut dropped = dropped.lock().unwrap_or_else(PoisonError::into_inner);
        let detail = matches!(event.body, EventBody::Command { .. } | EventBody::Progress { .. });
        if let Ok(line) = serde_json::to_string(&Line { event, dropped: *dropped }) {
            *dropped = if put(&(escaped(line) + "\n"), detail) { 0 } else { *dropped + 1 };
        }
    })
}

/// Prints a value on a line of its own.
pub fn line(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        super::out(&(escaped(text) + "\n"));
    }
}

/// Prints the object of a query.
pub fn object(fields: Value) {
    let mut object = json!({ "schema": SCHEMA });
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields);
    }
    line(&object);
}

/// A query that failed.
pub fn failure(error: &ErrorInfo) {
    object(json!({ "error": error }));
}

/// Never asks; shows a plan only if that is all that was asked for.
#[derive(Debug)]
pub struct JsonFront {
    /// The invocation only plans.
    pub plan_only: bool,
}

impl Front for JsonFront {
    fn show(&self, proposal: &Proposal, _asking: bool) {
        if self.plan_only {
            object(plan(proposal));
        }
    }
    fn confirm(&self, _word: &str) -> Option<bool> {
        None
    }
    fn ask(&self, _question: &str, _interrupted: u8) -> Option<bool> {
        None
    }
}

/// The fields of a plan.
pub fn plan(proposal: &Proposal) -> Value {
    let Proposal { plan, findings, manners, .. } = proposal;
    let steps: Vec<Value> = plan
        .steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            let action = step.op.action();
            json!({
                "index": index + 1,
                "kind": action.kind(),
                "stage": step.stage,
                "title": step.title(),
                "commands": action.step().commands(manners),
                "diff": action.step().diff(),
                "undo": undo(plan, index),
                "irreversible": plan.irreversible(index),
                "estimate_s": step.estimate_s,
            })
        })
        .collect();
    json!({
        "digest": plan.digest(),
        "guest": plan.guest,
        "verb": plan.verb,
        "strategy": plan.strategy,
        "steps": steps,
        "outages": plan.outages,
        "preflight": findings,
    })
}

/// The undo class in the words of the interface page: `own`, `with N`, `nothing` (it leaves nothing), `none`.
fn undo(plan: &Plan, index: usize) -> String {
    match plan.steps[index].undo {
        Undo::Own => "own".to_owned(),
        Undo::WithClone => duplicated(plan).map_or("with clone".to_owned(), |step| format!("with {step}")),
        Undo::Nothing => "nothing".to_owned(),
        Undo::None if matches!(plan.steps[index].op, Op::Undo(..)) => "nothing".to_owned(),
        Undo::None => "none".to_owned(),
    }
}

/// The step (counted from 1) of this plan that makes the clone's volumes: what happens inside them goes with it.
pub fn duplicated(plan: &Plan) -> Option<usize> {
    plan.steps
        .iter()
        .position(|step| matches!(&step.op, Op::Do(Action::Snapshot(made)) if made.role == hypervisors::Role::Clone))
        .map(|index| index + 1)
}
