//! For programs: changing verbs print one event a line, queries one object. Field names are the interface page's.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::engine::{ErrorInfo, Op, Plan, Sink, Undo};
use crate::lifecycle::app::Front;
use crate::lifecycle::page::Proposal;
use crate::steps::Action;

/// Version of every object.
pub const SCHEMA: u32 = 1;

/// A sink that prints each event as a line; silent if the invocation only plans.
pub fn sink(plan_only: bool) -> Sink {
    Arc::new(move |event| {
        if !plan_only {
            line(event);
        }
    })
}

/// Prints a value on a line of its own.
pub fn line(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        super::out(&(text + "\n"));
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
    fn ask(&self, _question: &str) -> Option<bool> {
        None
    }
}

/// The fields of a plan.
pub fn plan(proposal: &Proposal) -> Value {
    let Proposal { plan, findings, .. } = proposal;
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
                "commands": action.step().commands(),
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
