//! The plan of each verb of a run on a guest itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Machine, Vm, worked_on};
use crate::engine::{OnFailure, Op, Outage, Plan, PlanStep, Stage, Undo, undo_steps};
use crate::inventory::{GuestSpec, Recipe, Verb, YumKernel};
use crate::lifecycle::back::Past;
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::hooks::Hooks;
use crate::lifecycle::page::{Page, Row};
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::state::State;
use crate::recipe::yum::Seen;
use crate::steps::machine::{Made, RemoveSnapshot, RevertMachine, SnapshotMachine};
use crate::steps::{Action, StepRef, upgrade, verify};

/// A verb that takes the exclude off and dies: the guest puts it back after so many seconds.
const LEASE_S: u64 = 900;
/// How long packages may take, in seconds.
const PATIENCE_S: u64 = 4 * 3600;

/// What of packages does not come back.
fn lost(record: &RunFacts, machine: &Machine) -> Row {
    if machine.vm.is_some() {
        return Row::new("lost", format!("by going back: what {} wrote since `clone`", record.original.name));
    }
    Row::new(
        "lost",
        format!(
            "packages of {} as they were: only the backup of who runs the machine brings them back",
            record.original.name
        ),
    )
}

/// `clone`: the guest is measured.
pub fn clone(spec: &GuestSpec, record: &RunFacts, machine: &Machine, seen: &Seen) -> (Plan, Page) {
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Clone);
    let baseline = verify::TakeBaseline::new(&record.host, &record.original, &record.hostname, &spec.checks);
    steps.push(PlanStep::new(Stage::Announce, baseline, 5.0).undo(Undo::Nothing));
    steps.extend(machine.vm.as_ref().map(|vm| {
        let snapshot = SnapshotMachine {
            host: record.host.clone(),
            uuid: vm.uuid.clone(),
            guest: spec.name.clone(),
            run: record.clone.name.clone(),
            quiesce: vm.quiesce,
        };
        PlanStep::new(Stage::Duplicate, snapshot, 20.0)
    }));
    steps.extend(hooks.after(Verb::Clone));
    let mut page = Page::new(format!("Upgrade {} itself, in place ({}, {}).", spec.name, record.host, machine.release));
    page.rows.push(Row::new("kernel", format!("{}, kept to fall back to", machine.kernel)));
    page.rows.push(Row::new("tools", tools(seen)));
    for exclude in &seen.excludes {
        page.rows.push(Row::new(
            "exclude",
            format!("{} in {}, line {}", exclude.patterns.join(" "), exclude.file.display(), exclude.first),
        ));
    }
    match &machine.vm {
        Some(vm) => {
            page.rows.push(Row::new("machine", vm.path.clone()));
            page.rows.push(Row::new("now", "a snapshot is made; the guest keeps serving"));
            page.rows.push(Row::new("way back", format!("upgradectl abort {}: back to the snapshot", spec.name)));
        }
        None => {
            page.rows.push(Row::new("now", "nothing is changed: the guest is measured, and keeps serving"));
            page.rows.push(Row::new(
                "way back",
                format!(
                    "upgradectl abort {}: boots {} and gives every file that was changed its bytes back",
                    spec.name, machine.kernel
                ),
            ));
            page.rows.push(Row::new(
                "backup",
                "yours to have, by who runs the machine: that you approve says that there is one",
            ));
        }
    }
    page.rows.push(lost(record, machine));
    page.confirm = Some(spec.name.clone());
    let plan =
        Plan { failure_closes: true, ..record.plan("clone", [State::Cloning, State::Cloned, State::Aborted], steps) };
    (plan, page)
}

fn tools(seen: &Seen) -> String {
    match seen.tools_again() {
        Some(program) => format!("{}: {} applies them at the first boot", seen.tools.word(), program.join(" ")),
        None => format!("{}: nothing has to be applied again", seen.tools.word()),
    }
}

/// What the plan of an upgrade rests on.
pub struct Look {
    /// The guest as it is.
    pub seen: Seen,
    /// A newer kernel is expected.
    pub newer: bool,
    /// Undecided configuration files that lay there before the run, path to SHA-256.
    pub older: BTreeMap<String, String>,
}

/// `upgrade`: packages, then kernels past what hides them; then the new kernel is booted once, and proven.
pub fn upgrade(spec: &GuestSpec, record: &RunFacts, machine: &Machine, look: &Look, number: usize) -> (Plan, Page) {
    let (seen, newer) = (&look.seen, look.newer);
    let name = &spec.name;
    let (host, link) = (record.host.clone(), worked_on(record).clone());
    let declared = match spec.upgrade.as_ref().map(|upgrade| &upgrade.recipe) {
        Some(Recipe::YumKernel(declared)) => declared.clone(),
        _ => YumKernel::default(),
    };
    let word = upgrade::job_word(&record.clone);
    let step = |stage, action: Action, estimate_s| PlanStep::new(stage, action, estimate_s).on_failure(OnFailure::Stop);
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Upgrade);
    let linked = machine.linked.is_some();
    let mut page = Page::new(match linked {
        true => format!("Upgrade {}.", record.clone.name),
        false => format!("Upgrade {name} itself."),
    });
    page.rows.push(Row::new("recipe", format!("all packages of {}, and its kernel", machine.release)));

    let tool = seen.tool.clone();
    let update = |packages: Vec<String>, options: Vec<String>, what: &str| {
        let job = format!("{word}-{number}-{what}");
        let tool = tool.clone()?;
        Some(upgrade::YumUpdate {
            host: host.clone(),
            link: link.clone(),
            vm: machine.uuid(),
            tool,
            packages,
            options,
            before: machine.kernel.clone(),
            job,
            patience_s: PATIENCE_S,
        })
    };
    steps.extend(update(Vec::new(), Vec::new(), "update").map(|it| step(Stage::Recipe, it.into(), 120.0)));
    if newer && seen.hidden() {
        let past = tool.as_ref().and_then(|tool| tool.past.clone());
        let lifted = past.is_none();
        let mut options: Vec<String> = past.into_iter().filter(|_| !seen.excludes.is_empty()).collect();
        if seen.locked {
            options.push("--disableplugin=versionlock".to_owned());
        }
        // A switch of the command leaves nothing behind; a file has to be put back.
        let mut files: BTreeMap<&PathBuf, Vec<upgrade::Lines>> = BTreeMap::new();
        for exclude in seen.excludes.iter().filter(|_| lifted) {
            let lines = upgrade::Lines { first: exclude.first, last: exclude.last, says: exclude.says.clone() };
            files.entry(&exclude.file).or_default().push(lines);
        }
        for (file, lines) in files {
            let lift = upgrade::LiftExclude {
                host: host.clone(),
                link: link.clone(),
                file: file.clone(),
                lines,
                sha256: seen.digests.get(file).cloned().unwrap_or_default(),
                run: record.clone.name.clone(),
                lease_s: LEASE_S,
            };
            steps.push(step(Stage::Recipe, lift.into(), 1.0).temporary());
        }
        let how = if lifted && !seen.excludes.is_empty() {
            "its lines are commented out for as long, and put back for certain".to_owned()
        } else {
            options.join(" ")
        };
        page.rows.push(Row::new("exclude", format!("{}: {how}", seen.names().join(", "))));
        steps.extend(update(seen.names(), options, "kernel").map(|it| step(Stage::Recipe, it.into(), 60.0)));
    }
    if newer {
        steps.extend(boots(record, machine, seen, &declared, spec.upgrade.as_ref().and_then(|it| it.reboot_timeout_s)));
    }
    let collect = upgrade::CollectConffiles {
        host: record.host.clone(),
        link: worked_on(record).clone(),
        older: look.older.clone(),
    };
    steps.push(step(Stage::Settle, collect.into(), 2.0).undo(Undo::Nothing));
    if machine.vm.is_some() {
        // All of it goes when the machine is brought back.
        for step in steps.iter_mut().filter(|step| step.undo == Undo::Own && !step.temporary) {
            step.undo = if matches!(step.op.action(), Action::Hook(_)) { Undo::Own } else { Undo::WithClone };
        }
    }
    steps.extend(hooks.after(Verb::Upgrade));

    let production = match linked {
        true => format!("{name} keeps serving; the clone is upgraded"),
        false => format!("{name} itself is upgraded; its services restart as they are replaced"),
    };
    page.rows.push(Row::new("production", production));
    let plan = record.plan("upgrade", [State::Upgrading, State::Upgraded, State::Upgrading], steps);
    if linked {
        page.rows.push(Row::new("tools", tools(seen)));
        page.rows.push(Row::new("outage", "none"));
        page.rows.push(Row::new("way back", format!("upgradectl abort {name}: the clone goes")));
        return (plan, page);
    }
    match plan.outages.first().map(|outage: &Outage| outage.expected_s) {
        Some(expected_s) => {
            page.rows.push(Row::new("tools", tools(seen)));
            page.rows.push(Row::new(
                "kernel",
                format!("the new one is booted once; {} stays the default until commit", machine.kernel),
            ));
            page.rows.push(Row::new(
                "outage",
                format!("about {expected_s:.0} s for the reboots, and what the upgrade takes from services"),
            ));
        }
        None => page.rows.push(Row::new("outage", "none but what the upgrade takes from services")),
    }
    let back = match &machine.vm {
        Some(_) => format!("upgradectl abort {name}: back to the snapshot of {}", record.clone.name),
        None => format!("upgradectl abort {name}: {} and the files that were changed", machine.kernel),
    };
    page.rows.push(Row::new("way back", back));
    page.rows.push(lost(record, machine));
    page.confirm = Some(name.clone());
    (plan, page)
}

/// From the installed kernel to the one that runs and is proven.
fn boots(
    record: &RunFacts,
    machine: &Machine,
    seen: &Seen,
    declared: &YumKernel,
    timeout_s: Option<u64>,
) -> Vec<PlanStep> {
    let (host, link, before) = (record.host.clone(), worked_on(record).clone(), machine.kernel.clone());
    let timeout_s = timeout_s.unwrap_or(900);
    let step = |stage, action: Action, estimate_s| PlanStep::new(stage, action, estimate_s).on_failure(OnFailure::Stop);
    let mut steps = Vec::new();
    let prove = upgrade::ProveInitramfs {
        host: host.clone(),
        link: link.clone(),
        before: before.clone(),
        drivers: seen.drivers.iter().cloned().collect(),
    };
    steps.push(step(Stage::Prove, prove.into(), 2.0).undo(Undo::Nothing));
    let program = declared.tools.clone().or_else(|| seen.tools_again());
    let hook = program.zip(seen.init).map(|(program, init)| upgrade::ToolsHook {
        host: host.clone(),
        link: link.clone(),
        run: record.clone.name.clone(),
        before: before.clone(),
        init,
        program,
        modules: machine.modules.clone(),
        attempts: declared.tools_attempts,
    });
    let applies = hook.is_some();
    steps.extend(hook.map(|hook| step(Stage::Reboot, hook.into(), 1.0)));
    let once = upgrade::BootOnce { host: host.clone(), link: link.clone(), before: before.clone() };
    steps.push(step(Stage::Reboot, once.into(), 1.0));
    let reboot = upgrade::Reboot { host: host.clone(), link: link.clone(), vm: machine.uuid(), timeout_s };
    let itself = machine.linked.is_none();
    let reboot = step(Stage::Reboot, reboot.into(), 90.0).undo(Undo::Nothing);
    steps.push(if itself { reboot.outage_begins() } else { reboot });
    if applies {
        let wait = upgrade::ToolsApplied { host: host.clone(), link: link.clone(), before: before.clone(), timeout_s };
        steps.push(step(Stage::Reboot, wait.into(), 120.0).undo(Undo::Nothing));
    }
    let settle = upgrade::Settle { host: host.clone(), link: link.clone(), vm: machine.uuid(), timeout_s };
    let settle = step(Stage::Settle, settle.into(), 5.0).undo(Undo::Nothing);
    steps.push(if itself { settle.outage_ends() } else { settle });
    steps.push(machine.proof(record, worked_on(record), true).on_failure(OnFailure::Stop));
    if !itself {
        // A clone is started again to be promoted, and goes if it does not serve.
        let default = upgrade::MakeDefault { host, link, before: machine.kernel.clone() };
        steps.push(step(Stage::Prove, default.into(), 0.5));
    }
    steps
}

/// Whether a new kernel was to be booted, by what was begun.
pub fn booted(pasts: &[Past]) -> bool {
    begun(pasts, |action| matches!(action, Action::BootOnce(_)))
}

/// Whether anything was begun in the guest itself.
pub fn touched(pasts: &[Past]) -> bool {
    begun(pasts, |action| !matches!(action, Action::Hook(_) | Action::TakeBaseline(_) | Action::SnapshotMachine(_)))
}

fn begun(pasts: &[Past], wanted: impl Fn(&Action) -> bool) -> bool {
    let steps = pasts.iter().flat_map(|past| past.plan.steps.iter().zip(&past.histories));
    steps
        .into_iter()
        .any(|(step, past)| past.to_be_undone() && matches!(step.op, Op::Do(_)) && wanted(step.op.action()))
}

fn forget(record: &RunFacts) -> PlanStep {
    let forget = upgrade::Forget {
        host: record.host.clone(),
        link: record.original.clone(),
        jobs: upgrade::job_word(&record.clone),
    };
    PlanStep::new(Stage::Tidy, forget, 0.5).undo(Undo::Nothing).on_failure(OnFailure::Warn)
}

/// `commit`: the kernel that runs is the one that is booted from now on.
///
/// # Errors
/// The journal does not have the snapshot.
pub fn commit(spec: &GuestSpec, record: &RunFacts, machine: &Machine, pasts: &[Past]) -> Result<(Plan, Page), Failure> {
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Commit);
    if booted(pasts) {
        steps.push(machine.proof(record, &record.original, true).on_failure(OnFailure::Stop));
        let default = upgrade::MakeDefault {
            host: record.host.clone(),
            link: record.original.clone(),
            before: machine.kernel.clone(),
        };
        steps.push(PlanStep::new(Stage::Fold, default, 0.5).undo(Undo::None).on_failure(OnFailure::Stop));
    }
    if let Some(vm) = &machine.vm {
        let remove = RemoveSnapshot { of: made(spec, record, vm, pasts)? };
        steps.push(PlanStep::new(Stage::Fold, remove, 30.0).undo(Undo::None).on_failure(OnFailure::Stop));
    }
    steps.push(forget(record));
    steps.extend(hooks.after(Verb::Commit));
    let mut page = Page::new(format!("Commit the upgrade of {}.", spec.name));
    page.rows.push(Row::new("kernel", "the one that runs is booted from now on"));
    page.rows.push(Row::new("kept", format!("{} stays installed, as long as yum keeps it", machine.kernel)));
    page.rows.push(Row::new("lost", "the way back by upgradectl"));
    page.rows.push(Row::new("outage", "none"));
    page.confirm = Some(spec.name.clone());
    let plan =
        Plan { closes: true, ..record.plan("commit", [State::Committing, State::Committed, State::Verified], steps) };
    Ok((plan, page))
}

/// The run's snapshot, by the step that made it.
///
/// # Errors
/// The journal does not have it.
pub fn made(spec: &GuestSpec, record: &RunFacts, vm: &Vm, pasts: &[Past]) -> Result<Made, Failure> {
    let steps = pasts
        .iter()
        .flat_map(|past| past.plan.steps.iter().enumerate().map(move |(index, step)| (past.id, index, step)));
    let mut making = steps.filter(|(.., step)| matches!(step.op, Op::Do(Action::SnapshotMachine(_))));
    let (plan, index, _) = making.next().ok_or_else(|| {
        Failure::new(exit::JOURNAL, format!("find the snapshot of {}", spec.name)).cause("no plan of this run made one")
    })?;
    Ok(Made {
        host: record.host.clone(),
        uuid: vm.uuid.clone(),
        guest: spec.name.clone(),
        run: record.clone.name.clone(),
        by: StepRef { plan, index },
    })
}

/// `abort` of a machine that has a snapshot: back to it, if the guest was worked on; then it goes.
///
/// # Errors
/// The journal does not have the snapshot.
pub fn back(spec: &GuestSpec, record: &RunFacts, machine: &Machine, pasts: &[Past]) -> Result<(Plan, Page), Failure> {
    let name = &spec.name;
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Abort);
    let worked_on = touched(pasts);
    for past in pasts.iter().rev().filter(|past| past.plan.verb != "abort") {
        // What was done inside goes with what was written; the guest need not answer.
        let undos = undo_steps(past.id, &past.plan, &past.histories).unwrap_or_default();
        steps.extend(undos.into_iter().filter(|step| matches!(step.op.action(), Action::Hook(_))));
    }
    let made = machine.vm.as_ref().map(|vm| made(spec, record, vm, pasts)).transpose()?;
    let stop = |step: PlanStep| step.on_failure(OnFailure::Stop);
    if let (true, Some(made)) = (worked_on, &made) {
        let revert = RevertMachine { to: made.clone(), start: true };
        steps.push(stop(PlanStep::new(Stage::Fold, revert, 60.0).undo(Undo::None)).outage_begins());
        let timeout_s = spec.upgrade.as_ref().and_then(|upgrade| upgrade.reboot_timeout_s).unwrap_or(900);
        let settle =
            upgrade::Settle { host: record.host.clone(), link: record.original.clone(), vm: machine.uuid(), timeout_s };
        steps.push(stop(PlanStep::new(Stage::Settle, settle, 60.0).undo(Undo::Nothing)).outage_ends());
        steps.push(stop(machine.proof(record, &record.original, false)));
    }
    if let Some(made) = made {
        steps.push(stop(PlanStep::new(Stage::Tidy, RemoveSnapshot { of: made }, 30.0).undo(Undo::None)));
    }
    steps.extend(hooks.after(Verb::Abort));
    let mut page = Page::new(format!("Abort {}.", record.clone.name));
    page.rows.push(Row::new("removed", format!("the snapshot {}", record.clone.name)));
    match worked_on {
        true => {
            page.rows.push(Row::new("lost", format!("what {name} wrote since `clone`, the upgrade included")));
            page.rows.push(Row::new("outage", "about 2 m: the machine is brought back and started"));
            page.rows.push(Row::new("way back", "none once it is brought back"));
            page.confirm = Some(name.clone());
        }
        false => page.rows.push(Row::new("outage", "none: the guest was not worked on")),
    }
    let plan = Plan {
        closes: true,
        undoes: pasts.first().map(|past| past.id),
        ..record.plan("abort", [State::Aborting, State::Aborted, State::Aborting], steps)
    };
    Ok((plan, page))
}

/// What takes a plan back where no snapshot does: that is what a step's own undo is left out for.
fn undos(past: &Past) -> Option<Vec<PlanStep>> {
    let mut plan = past.plan.clone();
    for step in plan.steps.iter_mut().filter(|step| step.undo == Undo::WithClone) {
        step.undo = Undo::Own;
    }
    undo_steps(past.id, &plan, &past.histories)
}

/// `abort` without a snapshot: files as they were, the old kernel booted. `runs`: the kernel that runs now. `None` if something
/// irreversible was begun.
pub fn abort(
    spec: &GuestSpec,
    record: &RunFacts,
    machine: &Machine,
    pasts: &[Past],
    runs: &str,
) -> Option<(Plan, Page)> {
    let name = &spec.name;
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Abort);
    for past in pasts.iter().rev().filter(|past| past.plan.verb != "abort") {
        steps.extend(undos(past)?);
    }
    let reboots = runs != machine.kernel;
    let stop = |step: PlanStep| step.undo(Undo::Nothing).on_failure(OnFailure::Stop);
    if reboots {
        let (host, link) = (record.host.clone(), record.original.clone());
        let timeout_s = spec.upgrade.as_ref().and_then(|upgrade| upgrade.reboot_timeout_s).unwrap_or(900);
        let reboot = upgrade::Reboot { host: host.clone(), link: link.clone(), vm: machine.uuid(), timeout_s };
        steps.push(stop(PlanStep::new(Stage::Reboot, reboot, 90.0)).outage_begins());
        let settle = upgrade::Settle { host, link, vm: machine.uuid(), timeout_s };
        steps.push(stop(PlanStep::new(Stage::Settle, settle, 5.0)).outage_ends());
    }
    if touched(pasts) {
        steps.push(stop(machine.proof(record, &record.original, false)));
    }
    steps.push(forget(record));
    steps.extend(hooks.after(Verb::Abort));
    let mut page = Page::new(format!("Abort {}.", record.clone.name));
    let updated = begun(pasts, |action| matches!(action, Action::YumUpdate(_)));
    page.rows.push(Row::new(
        "kernel",
        if reboots { format!("{} is booted again", machine.kernel) } else { format!("{} runs", machine.kernel) },
    ));
    page.rows.push(Row::new("files", "every one that was changed gets its bytes back"));
    if updated {
        page.rows.push(Row::new(
            "packages",
            "stay as they were updated: they come back by the backup of who runs the machine, or as far as `yum history undo` goes",
        ));
        page.confirm = Some(name.clone());
    }
    page.rows.push(Row::new("outage", if reboots { "about 90 s for the reboot" } else { "none" }));
    let plan = Plan {
        closes: true,
        undoes: pasts.first().map(|past| past.id),
        ..record.plan("abort", [State::Aborting, State::Aborted, State::Aborting], steps)
    };
    Some((plan, page))
}
