//! `upgrade`: the recipe inside the clone, detached there; then its reboot.

use std::collections::BTreeMap;
use std::sync::Arc;

use hypervisors::{GuestLink, Hypervisor};

use super::error::{Failure, exit};
use super::hooks::Hooks;
use super::page::{Page, Row};
use super::preflight::{Finding, recipe_finding};
use super::record::RunFacts;
use super::state::State;
use crate::engine::{OnFailure, Plan, PlanStep, Stage, Undo};
use crate::inventory::{GuestSpec, Recipe, Verb};
use crate::recipe;
use crate::recipe::debian::Release;
use crate::recipe::debian::apt::Phase;
use crate::steps::{Action, upgrade};

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
            Ok(found.into_iter().map(recipe_finding).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// What the plan of an upgrade tells of the running clone.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Undecided configuration files that lie there from before the upgrade, path to SHA-256.
    pub older: BTreeMap<String, String>,
    /// What happens to the package sources.
    pub sources: Option<String>,
}

impl Seen {
    /// Looks at the running clone. `older`: what an earlier attempt of this run saw before it changed anything.
    ///
    /// # Errors
    /// If the clone cannot be reached, or its package sources cannot be rewritten.
    pub async fn look(
        spec: &GuestSpec,
        record: &RunFacts,
        hypervisor: &Arc<dyn Hypervisor>,
        older: Option<BTreeMap<String, String>>,
    ) -> Result<Self, Failure> {
        let guest = hypervisor.guest(&record.clone)?;
        let older = match older {
            Some(older) => older,
            None => recipe::conffiles::leftovers(&*guest).await?,
        };
        let mut sources = None;
        if let Some(Recipe::Debian { to }) = spec.upgrade.as_ref().map(|upgrade| &upgrade.recipe)
            && let (Some(from), Some(to)) = (Release::named(&record.codename), Release::named(to))
        {
            let files = recipe::debian::source_files(&*guest, from, to).await?;
            sources = Some(recipe::debian::source_diff(&files)).filter(|diff| !diff.is_empty());
        }
        Ok(Self { older, sources })
    }
}

fn step(stage: Stage, action: impl Into<Action>, estimate_s: f64) -> PlanStep {
    PlanStep::new(stage, action, estimate_s).undo(Undo::WithClone).on_failure(OnFailure::Stop)
}

/// The release notes' way: sources, minimal upgrade, full upgrade, tidying.
fn debian(
    host: &str,
    link: &GuestLink,
    from: &str,
    to: &str,
    continuing: bool,
    diff: Option<String>,
    job: &dyn Fn(&str) -> String,
) -> Vec<PlanStep> {
    let (host, link, to) = (host.to_owned(), link.clone(), to.to_owned());
    let patience_s = 2 * 3600;
    let full = |phase, job| upgrade::DebianUpgrade {
        host: host.clone(),
        link: link.clone(),
        phase,
        to: to.clone(),
        job,
        patience_s,
    };
    let sources =
        upgrade::DebianSources { host: host.clone(), link: link.clone(), from: from.to_owned(), to: to.clone(), diff };
    let update = upgrade::DebianUpdate { host: host.clone(), link: link.clone(), job: job("update"), patience_s };
    let mut steps = vec![step(Stage::Prepare, sources, 1.0)];
    if continuing {
        let configure =
            upgrade::DebianConfigure { host: host.clone(), link: link.clone(), job: job("configure"), patience_s };
        steps.push(step(Stage::Recipe, configure, 10.0));
    }
    steps.push(step(Stage::Prepare, update, 10.0));
    steps.push(step(Stage::Recipe, full(Phase::Minimal, job("minimal")), 60.0));
    steps.push(step(Stage::Recipe, full(Phase::Full, job("full")), 120.0));
    let clean = upgrade::DebianClean { host: host.clone(), link: link.clone(), job: job("clean"), patience_s };
    steps.push(step(Stage::Recipe, clean, 5.0));
    steps
}

/// The plan. `continuing`: an earlier attempt stopped part-way.
///
/// # Errors
/// No recipe, or one that does not fit.
pub fn plan(
    spec: &GuestSpec,
    record: &RunFacts,
    from: &str,
    continuing: bool,
    number: usize,
    seen: &Seen,
) -> Result<(Plan, Page), Failure> {
    let refuse = |why: &str, help: &str| {
        Failure::new(exit::REFUSED, format!("plan the upgrade of {}", spec.name))
            .cause(why)
            .place(format!("guests.{}.upgrade in the inventory", spec.name))
            .help(help)
    };
    let Some(wanted) = &spec.upgrade else {
        return Err(refuse("no upgrade is declared", "upgrade = { recipe = \"debian\", to = \"trixie\" }"));
    };
    let host = &record.clone_host().to_owned();
    let link = &record.clone;
    let word = upgrade::job_word(link);
    let job = |what: &str| format!("{word}-{number}-{what}");
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Upgrade);
    let mut page = Page::new(format!("Upgrade {}.", link.name));
    match &wanted.recipe {
        Recipe::Debian { to } => {
            page.rows.push(Row::new("recipe", format!("Debian release upgrade to {to}")));
            steps.extend(debian(host, link, from, to, continuing, seen.sources.clone(), &job));
        }
        Recipe::Script { run } => {
            page.rows.push(Row::new("recipe", run.join(" ")));
            let script = upgrade::Script {
                host: host.clone(),
                link: link.clone(),
                argv: run.clone(),
                job: job("script"),
                patience_s: 24 * 3600,
            };
            steps.push(step(Stage::Recipe, script, 600.0));
        }
        _ => return Err(refuse("that recipe does not fit this guest", "recipes here: debian, script")),
    }
    steps.extend(hooks.after(Verb::Upgrade));
    let timeout_s = wanted.reboot_timeout_s.unwrap_or(600);
    steps.push(step(
        Stage::Reboot,
        upgrade::Reboot { host: host.clone(), link: link.clone(), vm: None, timeout_s },
        15.0,
    ));
    steps.push(step(
        Stage::Settle,
        upgrade::CollectConffiles { host: host.clone(), link: link.clone(), older: seen.older.clone() },
        2.0,
    ));
    steps.extend(super::clone::fenced(record).map(|step| step.on_failure(OnFailure::Stop)));
    page.rows.push(Row::new("production", "untouched; keeps serving"));
    Ok((record.plan("upgrade", [State::Upgrading, State::Upgraded, State::Upgrading], steps), page))
}
