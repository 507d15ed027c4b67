//! `upgrade`: the recipe inside the clone, detached there; then its reboot.

use std::sync::Arc;

use hypervisors::Hypervisor;

use super::error::{Failure, exit};
use super::hooks::Hooks;
use super::page::{Page, Row};
use super::preflight::{Finding, Verdict};
use super::record::RunFacts;
use crate::engine::{OnFailure, Plan, PlanStep, Stage, Undo};
use crate::inventory::{GuestSpec, Recipe, Verb};
use crate::recipe;
use crate::steps::{Action, upgrade};

/// A recipe's finding as one of ours.
pub fn finding(found: recipe::Finding) -> Finding {
    let verdict = match found.verdict {
        recipe::Verdict::Pass => Verdict::Passed,
        recipe::Verdict::Warn => Verdict::Warning,
        recipe::Verdict::Refuse => Verdict::Refused,
    };
    let remedy = Some(found.remedy).filter(|remedy| !remedy.is_empty());
    Finding { id: found.id, verdict, detail: found.detail, remedy }
}

/// What is looked at in the running clone before the upgrade.
///
/// # Errors
/// If the clone cannot be reached.
pub async fn preflight(
    spec: &GuestSpec,
    record: &RunFacts,
    hypervisor: &Arc<dyn Hypervisor>,
    continuing: bool,
) -> Result<Vec<Finding>, Failure> {
    match spec.upgrade.as_ref().map(|upgrade| &upgrade.recipe) {
        Some(Recipe::Debian { to }) => {
            let guest = hypervisor.guest(&record.clone)?;
            let found = recipe::debian::preflight(&*guest, to, continuing).await?;
            Ok(found.into_iter().map(finding).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// The plan. `continuing`: an earlier attempt stopped part-way.
///
/// # Errors
/// No recipe, or one that does not fit.
pub fn plan(spec: &GuestSpec, record: &RunFacts, continuing: bool) -> Result<(Plan, Page), Failure> {
    let refuse = |why: &str, help: &str| {
        Failure::new(exit::REFUSED, format!("plan the upgrade of {}", spec.name))
            .cause(why)
            .place(format!("guests.{}.upgrade in the inventory", spec.name))
            .help(help)
    };
    let Some(wanted) = &spec.upgrade else {
        return Err(refuse("no upgrade is declared", "upgrade = { recipe = \"debian\", to = \"trixie\" }"));
    };
    let host = &record.host;
    let link = &record.clone;
    let step = |stage, action: Action, estimate_s| {
        PlanStep::new(stage, action, estimate_s).undo(Undo::WithClone).on_failure(OnFailure::Stop)
    };
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Upgrade);
    let mut page = Page::new(format!("Upgrade {}.", link.name));
    match &wanted.recipe {
        Recipe::Debian { to } => {
            page.rows.push(Row::new("recipe", format!("Debian release upgrade to {to}")));
            steps.extend(upgrade::debian(host, link, to, continuing).into_iter().map(|(action, estimate_s)| {
                step(Stage::Recipe, action, estimate_s)
            }));
        }
        Recipe::Script { run } => {
            page.rows.push(Row::new("recipe", run.join(" ")));
            steps.push(step(Stage::Recipe, upgrade::Script::new(host, link, run).into(), 600.0));
        }
        _ => return Err(refuse("that recipe does not fit this guest", "recipes here: debian, script")),
    }
    steps.extend(hooks.after(Verb::Upgrade));
    let timeout_s = wanted.reboot_timeout_s.unwrap_or(600);
    steps.push(step(Stage::Reboot, upgrade::Reboot::new(host, link, timeout_s).into(), 15.0));
    steps.push(step(Stage::Settle, upgrade::CollectConffiles::new(host, link).into(), 2.0));
    page.rows.push(Row::new("production", "untouched; keeps serving"));
    Ok((
        Plan {
            format: 1,
            run: link.name.clone(),
            guest: spec.name.clone(),
            verb: "upgrade".into(),
            strategy: super::strategy_word(record.strategy).into(),
            during: "upgrading".into(),
            done: "upgraded".into(),
            failed: "upgrading".into(),
            closes: false,
            failure_closes: false,
            undoes: None,
            outages: Vec::new(),
            steps,
        },
        page,
    ))
}
