//! A plan: data, stored whole with its digest before its first step.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::steps::{Action, StepRef};

/// The run id that stands in a plan until it is bound to a run: `mercure--RUN`.
pub const PLACEHOLDER: &str = "RUN";

/// What stage of its verb a step belongs to; the same on every platform (`docs/`, lifecycle).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words of the lifecycle page")]
pub enum Stage {
    Announce,
    Quiesce,
    Duplicate,
    Adapt,
    Define,
    Start,
    Settle,
    Prepare,
    Recipe,
    Reboot,
    Carry,
    Fence,
    FinalCarry,
    Adopt,
    Prove,
    Fold,
    Tidy,
    Check,
    Restore,
}

/// How a step is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// By its own undo.
    Own,
    /// It goes when what the clone plan duplicated is discarded; nothing to do.
    WithClone,
    /// It leaves nothing to take back (a wait, a check, a proof).
    Nothing,
    /// Never: irreversible.
    None,
}

/// What a step does: applies an action, or takes back a step of an earlier plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Applies an action.
    Do(Action),
    /// Takes back what that step did.
    Undo(StepRef, Action),
}

impl Op {
    /// The action applied or taken back.
    pub fn action(&self) -> &Action {
        match self {
            Op::Do(action) | Op::Undo(_, action) => action,
        }
    }
}

/// What a failing step means for the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Everything is undone: as before the verb.
    Undo,
    /// The run stays in its verb: resume, abort, or the verb again.
    Stop,
    /// The plan ends in its failure state (a verification that failed).
    End,
    /// Production is on the promoted guest already: go on, and mark the run unproven.
    Unproven,
    /// Worth a warning only.
    Warn,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanStep {
    /// Its stage.
    pub stage: Stage,
    /// What it does.
    pub op: Op,
    /// How it is taken back.
    pub undo: Undo,
    /// What its failure means.
    pub on_failure: OnFailure,
    /// Lives inside the verb only: undone at its end, however it ends.
    #[serde(default, skip_serializing_if = "is_false")]
    pub temporary: bool,
    /// Taking it back only restores the clone; left out when the clone is discarded anyway, and when one before it failed
    /// and was only worth a warning.
    #[serde(default, skip_serializing_if = "is_false")]
    pub clone_side: bool,
    /// Its undo only tidies up: it comes after service is restored.
    #[serde(default, skip_serializing_if = "is_false")]
    pub undo_late: bool,
    /// Production goes down when it begins.
    #[serde(default, skip_serializing_if = "is_false")]
    pub outage_begins: bool,
    /// Production is up again when it has ended.
    #[serde(default, skip_serializing_if = "is_false")]
    pub outage_ends: bool,
    /// When it has been done, the promoted guest is live: nothing is undone by itself any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub goes_live: bool,
    /// What has to be proven right before it is taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before_undo: Vec<PlanStep>,
    /// What belongs right behind its taking back (a guest that was stopped is announced and waited for).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after_undo: Vec<PlanStep>,
    /// Where a plan that is undone leads once this step was begun, if not to [`Plan::failed`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone_to: Option<String>,
    /// Expected duration in seconds.
    pub estimate_s: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

impl PlanStep {
    /// A step with its own undo that stops nothing from being undone.
    pub fn new(stage: Stage, action: impl Into<Action>, estimate_s: f64) -> Self {
        Self {
            stage,
            op: Op::Do(action.into()),
            undo: Undo::Own,
            on_failure: OnFailure::Undo,
            temporary: false,
            clone_side: false,
            undo_late: false,
            outage_begins: false,
            outage_ends: false,
            goes_live: false,
            before_undo: Vec::new(),
            after_undo: Vec::new(),
            undone_to: None,
            estimate_s,
        }
    }
    /// Its undo class.
    #[must_use]
    pub fn undo(mut self, undo: Undo) -> Self {
        self.undo = undo;
        self
    }
    /// What its failure means.
    #[must_use]
    pub fn on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }
    /// Undone at the end of the verb.
    #[must_use]
    pub fn temporary(mut self) -> Self {
        self.temporary = true;
        self
    }
    /// Concerns the clone only.
    #[must_use]
    pub fn clone_side(mut self) -> Self {
        self.clone_side = true;
        self
    }
    /// Its undo waits until service is restored.
    #[must_use]
    pub fn undo_late(mut self) -> Self {
        self.undo_late = true;
        self
    }
    /// Production goes down when it begins.
    #[must_use]
    pub fn outage_begins(mut self) -> Self {
        self.outage_begins = true;
        self
    }
    /// Production is up again when it has ended.
    #[must_use]
    pub fn outage_ends(mut self) -> Self {
        self.outage_ends = true;
        self
    }
    /// The promoted guest is live once it is done.
    #[must_use]
    pub fn goes_live(mut self) -> Self {
        self.goes_live = true;
        self
    }
    /// What surrounds its taking back, on every way back.
    #[must_use]
    pub fn undone_between(mut self, before: Vec<PlanStep>, after: Vec<PlanStep>) -> Self {
        (self.before_undo, self.after_undo) = (before, after);
        self
    }
    /// Once begun, undoing the plan leads to this state.
    #[must_use]
    pub fn undone_to(mut self, state: &str) -> Self {
        self.undone_to = Some(state.to_owned());
        self
    }
    /// As an operator would say it.
    pub fn title(&self) -> String {
        match &self.op {
            Op::Do(action) => action.step().title(),
            Op::Undo(_, action) => action.step().taken_back(),
        }
    }
}

/// An expected outage of production.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// Whose.
    pub guest: String,
    /// Expected length in seconds.
    pub expected_s: f64,
}

/// The outage that steps make, from the first that begins one to the first after it that ends it.
pub fn outages(steps: &[PlanStep], guest: &str) -> Vec<Outage> {
    let Some(from) = steps.iter().position(|step| step.outage_begins) else { return Vec::new() };
    let until = steps.iter().skip(from).position(|step| step.outage_ends).map_or(steps.len() - 1, |ends| from + ends);
    let expected_s = steps[from..=until].iter().map(|step| step.estimate_s).sum();
    vec![Outage { guest: guest.to_owned(), expected_s }]
}

/// What is done, in order, and where it leads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Format of this structure.
    pub format: u32,
    /// Run id (or `GUEST--RUN` until it is bound).
    pub run: String,
    /// Guest.
    pub guest: String,
    /// Verb it carries out.
    pub verb: String,
    /// Digest of the plan that was shown and approved, before a new run's own words (id, UUID) were put in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_as: Option<String>,
    /// Strategy of the run.
    pub strategy: String,
    /// State while it runs.
    pub during: String,
    /// State when all is done.
    pub done: String,
    /// State when it was undone (unless a step says otherwise), or ended in failure ([`OnFailure::End`]).
    pub failed: String,
    /// The run is closed with `done`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub closes: bool,
    /// The run is closed with `failed`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub failure_closes: bool,
    /// It takes back an earlier plan (named here); a failure of it leaves the run stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<i64>,
    /// Outages of production, in order.
    pub outages: Vec<Outage>,
    /// The steps.
    pub steps: Vec<PlanStep>,
}

impl Plan {
    /// First six hexadecimal digits of the SHA-256 of what is done, run id and estimates left out: the same facts
    /// and the same request give the same digest.
    pub fn digest(&self) -> String {
        if let Some(digest) = &self.approved_as {
            return digest.clone();
        }
        let mut value = serde_json::to_value(self).unwrap_or(Value::Null);
        if let Some(steps) = value.get_mut("steps").and_then(Value::as_array_mut) {
            for step in steps.iter_mut().filter_map(Value::as_object_mut) {
                step.shift_remove("estimate_s");
            }
        }
        if let Some(plan) = value.as_object_mut() {
            plan.shift_remove("outages");
        }
        let text = value.to_string().replace(&self.run, "RUN");
        Sha256::digest(text.as_bytes()).iter().take(3).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Seconds all steps together are expected to take.
    pub fn estimate_s(&self) -> f64 {
        self.steps.iter().map(|step| step.estimate_s).sum()
    }

    /// Whether a step cannot be taken back.
    pub fn irreversible(&self, index: usize) -> bool {
        self.steps.get(index).is_some_and(|step| step.undo == Undo::None && matches!(step.op, Op::Do(_)))
    }
}
