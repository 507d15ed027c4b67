//! `verify`: the clone (or the promoted guest) against the baseline of the original.

use super::hooks::Hooks;
use super::page::Page;
use super::record::RunFacts;
use super::state::State;
use crate::engine::{OnFailure, Plan, PlanStep, Stage, Undo};
use crate::inventory::{GuestSpec, Strategy, Verb};
use crate::steps::{Action, fence, services, verify};
use crate::verify::Side;

/// How long checks are repeated before they count as failed, in seconds: a clone has settled before it is checked, a
/// promoted guest is still booting, and takes as long as the clone took.
fn deadline_s(record: &RunFacts, side: Side) -> u64 {
    match side {
        Side::Clone => 10,
        Side::Promoted => (record.boot_s.unwrap_or(0.0).min(1200.0) * 3.0).ceil().max(60.0) as u64,
    }
}

/// The step that runs all checks.
pub fn checks(spec: &GuestSpec, record: &RunFacts, side: Side, number: usize) -> verify::RunChecks {
    let (host, link, quarantined) = match side {
        Side::Clone => {
            let started = &spec.quarantine.while_verifying;
            let off = record
                .quarantined
                .iter()
                .filter(|unit| !started.iter().any(|wanted| services::service(wanted) == services::service(unit)));
            (record.clone_host(), &record.clone, off.cloned().collect())
        }
        Side::Promoted => (record.production_host(), &record.original, Vec::new()),
    };
    verify::RunChecks::new(
        host,
        link,
        &record.hostname,
        side,
        &spec.checks,
        quarantined,
        deadline_s(record, side),
        &format!("checks-{number}"),
    )
}

/// The plan. `number` counts the verifications of the run, for the report's file names. `proof`: what is proven beside the checks.
pub fn plan(spec: &GuestSpec, record: &RunFacts, side: Side, number: usize, proof: Option<PlanStep>) -> (Plan, Page) {
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Verify);
    let started = &spec.quarantine.while_verifying;
    if side == Side::Clone && !started.is_empty() {
        let step = |action: Action| PlanStep::new(Stage::Prepare, action, 2.0).temporary().clone_side();
        steps.push(step(fence::FenceOutgoing::new(record.clone_host(), &record.clone).into()));
        steps.push(step(
            services::StartWhileVerifying::new(record.clone_host(), &record.clone, started, &record.quarantined).into(),
        ));
    }
    steps.extend(proof.map(|step| step.on_failure(OnFailure::End)));
    steps.push(
        PlanStep::new(Stage::Check, checks(spec, record, side, number), 10.0)
            .undo(Undo::Nothing)
            .on_failure(OnFailure::End),
    );
    steps.extend(hooks.after(Verb::Verify));
    let (link, during, done, failed) = match side {
        Side::Clone => (&record.clone, State::Verifying, State::Verified, State::Upgraded),
        Side::Promoted if record.strategy == Strategy::InPlace => {
            (&record.original, State::Verifying, State::Verified, State::Upgraded)
        }
        Side::Promoted => (&record.original, State::Promoted, State::Promoted, State::Promoted),
    };
    let plan = record.plan("verify", [during, done, failed], steps);
    (plan, Page::new(format!("Verify {} at {}.", record.clone.name, link.address)))
}
