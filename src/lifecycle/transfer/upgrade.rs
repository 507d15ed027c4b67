//! `upgrade` of a jail: the base system of the stopped jail, from its host; then its first start.

use super::tree::BaseSystem;
use crate::engine::{OnFailure, Plan, PlanStep, Stage, Undo};
use crate::inventory::{FreebsdWorld, GuestSpec, Recipe, Verb, WorldMethod};
use crate::lifecycle::clone::settle;
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::hooks::Hooks;
use crate::lifecycle::jail::JailTree;
use crate::lifecycle::page::{Page, Row};
use crate::lifecycle::production::look;
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::state::State;
use crate::steps::domain;

/// The clone is started.
pub fn start(record: &RunFacts) -> PlanStep {
    let start =
        domain::Start { host: record.host.clone(), guest: record.clone.name.clone(), patience_s: 60, force: true };
    PlanStep::new(Stage::Start, start, 5.0).on_failure(OnFailure::Stop)
}

/// The plan and its page. `base`: what the recipe does.
///
/// # Errors
/// A recipe that does not fit.
pub fn plan(spec: &GuestSpec, record: &RunFacts, base: BaseSystem, running: bool) -> Result<(Plan, Page), Failure> {
    let release = JailTree::of(record)?.release;
    let mut page = Page::new(format!("Upgrade {}.", record.clone.name));
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Upgrade);
    if running {
        let stop = domain::Stop {
            host: record.host.clone(),
            guest: record.clone.name.clone(),
            patience_s: 60,
            force: true,
            link: None,
        };
        steps.push(PlanStep::new(Stage::Prepare, stop, 3.0).clone_side().on_failure(OnFailure::Stop));
    }
    match spec.upgrade.as_ref().map(|upgrade| &upgrade.recipe) {
        None => page.rows.push(Row::new("recipe", format!("none: {} stays {release}", spec.name))),
        Some(Recipe::FreebsdWorld(FreebsdWorld { method, src, .. })) => {
            let by = match method {
                WorldMethod::Installworld => format!("from {} on {}", src.display(), record.host),
                WorldMethod::FreebsdUpdate => format!("by freebsd-update on {}", record.host),
            };
            page.rows.push(Row::new("recipe", format!("FreeBSD base system {by}")));
            page.rows.extend(base.way.map(|way| Row::new("release", way)));
        }
        Some(_) => {
            return Err(Failure::new(exit::REFUSED, format!("plan the upgrade of {}", spec.name))
                .cause("that recipe does not fit a jail")
                .place(format!("guests.{}.upgrade in the inventory", spec.name))
                .help("upgrade = { recipe = \"freebsd-world\" }, or none"));
        }
    }
    steps.extend(base.steps);
    steps.push(start(record));
    steps.push(
        look(Stage::Settle, settle(&record.host, &record.clone), 5.0).undo(Undo::Nothing).on_failure(OnFailure::Stop),
    );
    steps.extend(hooks.after(Verb::Upgrade));
    page.rows.push(Row::new("production", "untouched; keeps serving"));
    Ok((record.plan("upgrade", [State::Upgrading, State::Upgraded, State::Upgrading], steps), page))
}
