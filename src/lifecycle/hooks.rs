//! The inventory's hooks as steps of a verb.

use super::facts::Facts;
use super::record::RunFacts;
use crate::engine::{OnFailure, PlanStep, Stage, Undo};
use crate::inventory::{GuestSpec, Hook, HookPlace, HookPoint, HookTime, Verb};
use crate::steps::Action;
use crate::steps::hook::{Hook as Step, Place};

/// Turns the hooks of a guest into steps.
pub struct Hooks<'a> {
    spec: &'a GuestSpec,
    record: &'a RunFacts,
}

impl<'a> Hooks<'a> {
    /// Hooks of the guest that is about to be cloned.
    pub fn new(facts: &'a Facts, record: &'a RunFacts) -> Self {
        Self { spec: &facts.spec, record }
    }

    /// Hooks of a guest with a run.
    pub fn of(spec: &'a GuestSpec, record: &'a RunFacts) -> Self {
        Self { spec, record }
    }

    /// Steps before a verb: the first halves of pairs around it (their second halves are guaranteed), then those at
    /// this point.
    pub fn before(&self, verb: Verb) -> Vec<PlanStep> {
        let around = self.spec.hooks.iter().filter_map(|hook| match &hook.when {
            HookTime::Around { verbs, before, after, lease_s } if verbs.contains(&verb) => {
                let argv = before.clone().unwrap_or_else(|| vec!["true".into()]);
                let step = Step { lease_s: *lease_s, ..self.step(hook, &argv, after.as_ref()) };
                let step = PlanStep::new(Stage::Announce, step, 1.0).temporary();
                let step = if hook.on == HookPlace::Clone { step.clone_side() } else { step };
                Some(step.on_failure(failure(verb, HookPoint::Before)))
            }
            _ => None,
        });
        around.chain(self.at(HookPoint::Before, verb)).collect()
    }

    /// Steps after a verb.
    pub fn after(&self, verb: Verb) -> Vec<PlanStep> {
        self.at(HookPoint::After, verb).collect()
    }

    /// Steps that follow the making of the run's volumes.
    pub fn with_volumes(&self) -> Vec<PlanStep> {
        let steps = self.at(HookPoint::Volumes, Verb::Clone);
        steps.map(|step| PlanStep { stage: Stage::Duplicate, ..step }).collect()
    }

    /// Steps that take those back before the volumes go for good, each with the way back while that has not begun.
    pub fn without_volumes(&self) -> Vec<PlanStep> {
        let back = |step: PlanStep| match step.op.action() {
            Action::Hook(hook) => {
                let argv = hook.undo.clone()?;
                let hook = Step { undo: Some(hook.argv.clone()), argv, ..hook.clone() };
                Some(PlanStep::new(Stage::Quiesce, hook, 1.0))
            }
            _ => None,
        };
        self.at(HookPoint::Volumes, Verb::Clone).filter_map(back).collect()
    }

    /// Steps right before a merge, while production is stopped, and those that take them back before it starts.
    pub fn around_merge(&self) -> (Vec<PlanStep>, Vec<PlanStep>) {
        let staged = |step: PlanStep| PlanStep { stage: Stage::Quiesce, ..step };
        let back = |step: &PlanStep| match step.op.action() {
            Action::Hook(hook) => {
                let argv = hook.undo.clone()?;
                Some(staged(
                    PlanStep::new(Stage::Fold, Step { undo: None, argv, ..hook.clone() }, 1.0).undo(Undo::Nothing),
                ))
            }
            _ => None,
        };
        let before: Vec<PlanStep> = self.at(HookPoint::Merge, Verb::Commit).map(staged).collect();
        let after = before.iter().filter_map(back).collect();
        (before, after)
    }

    fn at(&self, wanted: HookPoint, verb: Verb) -> impl Iterator<Item = PlanStep> {
        self.spec.hooks.iter().filter_map(move |hook| match &hook.when {
            HookTime::At { point, verb: at, run, undo } if *point == wanted && *at == verb => {
                let class = if undo.is_some() { Undo::Own } else { Undo::Nothing };
                let step = self.step(hook, run, undo.as_ref());
                let step = PlanStep::new(Stage::Announce, step, 1.0).undo(class).on_failure(failure(verb, wanted));
                Some(if hook.on == HookPlace::Clone { step.clone_side() } else { step })
            }
            _ => None,
        })
    }

    fn step(&self, hook: &Hook, argv: &[String], undo: Option<&Vec<String>>) -> Step {
        let guest = |link: &hypervisors::GuestLink| Place::Guest { host: self.record.host.clone(), link: link.clone() };
        let place = match hook.on {
            HookPlace::Controller => Place::Controller,
            HookPlace::Host => Place::Host(self.record.host.clone()),
            HookPlace::Clone => guest(&self.record.clone),
            HookPlace::Original => guest(&self.record.original),
        };
        Step {
            name: hook.name.clone(),
            place,
            argv: argv.iter().map(|word| self.fill(word)).collect(),
            undo: undo.map(|argv| argv.iter().map(|word| self.fill(word)).collect()),
            timeout_s: hook.timeout_s.unwrap_or(600),
            lease_s: None,
        }
    }

    /// Replaces the placeholders inside one argument; never a shell.
    fn fill(&self, word: &str) -> String {
        word.replace("{run}", &self.record.clone.name)
            .replace("{clone}", &self.record.clone.name)
            .replace("{original}", &self.record.original.name)
            .replace("{clone_address}", &self.record.addressing.clone.to_string())
            .replace("{original_address}", &self.record.addressing.original.to_string())
            .replace("{runs_on}", self.record.production_host())
            .replace("{clone_runs_on}", self.record.clone_host())
    }
}

/// What a failing hook means: a way back is not held up by one, and after going live nothing is undone by itself.
fn failure(verb: Verb, point: HookPoint) -> OnFailure {
    match (verb, point) {
        (Verb::Upgrade, _) => OnFailure::Stop,
        (Verb::Promote, HookPoint::After) => OnFailure::Unproven,
        (Verb::Rollback | Verb::Abort | Verb::Commit, _) => OnFailure::Warn,
        _ => OnFailure::Undo,
    }
}
