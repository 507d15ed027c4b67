//! `commit`: the original goes, the promoted guest stays. The only verb that destroys the original.

use std::collections::BTreeMap;

use hypervisors::storage::Access;
use hypervisors::{DefinitionEdit, DiskEdit, DiskSource, Hypervisor, Power, VolumeRef};

use super::error::{Failure, exit};
use super::hooks::Hooks;
use super::page::{Page, Row};
use super::preflight::Findings;
use super::record::RunFacts;
use crate::engine::{OnFailure, Outage, Plan, PlanStep, Stage, Undo};
use crate::guest::Tree;
use crate::guest::queues::{self, Aside};
use crate::inventory::{GuestSpec, Verb};
use crate::steps::queues::Discard;
use crate::steps::{domain, sha256, storage};
use crate::verify::Side;

/// How long production may take to shut down for a rename, in seconds.
const PATIENCE_S: u64 = 180;

/// The restart that brings the guest back to the paths of its original: stop, rename, define, start, checks. The originals
/// are gone by then, and the marks are off. Its autostart is off meanwhile: started half-way, it would not find its disks.
async fn restart(
    spec: &GuestSpec,
    record: &RunFacts,
    hypervisor: &dyn Hypervisor,
    number: usize,
) -> Result<Vec<PlanStep>, Failure> {
    let (host, name) = (&record.host, &spec.name);
    let current = hypervisor.definition(name).await?.ok_or_else(|| {
        Failure::new(exit::REFUSED, format!("commit {name}")).cause("it is not defined").help("commit without --rename")
    })?;
    let mut edit = DefinitionEdit { mark: Some(None), ..DefinitionEdit::default() };
    for (disk, source, _) in record.copies() {
        edit.disks.insert(disk.name.clone(), DiskEdit::Source(source.clone()));
    }
    let definition = hypervisor.derive(&current, &edit)?;
    let autostart = hypervisor.autostart(name).await?;
    let starts = |on| domain::Autostart { host: host.clone(), guest: name.clone(), on };
    let mut steps = vec![PlanStep::new(Stage::Quiesce, starts(false), 0.1)];
    let stop =
        domain::Stop { host: host.clone(), guest: name.clone(), patience_s: PATIENCE_S, force: false, link: None };
    steps.push(PlanStep::new(Stage::Quiesce, stop, 4.0).outage_begins());
    for (_, source, target) in record.copies() {
        let rename = storage::RenameVolume { host: host.clone(), from: target.clone(), to: source.clone() };
        steps.push(PlanStep::new(Stage::Fold, rename, 0.2));
    }
    let define = domain::Define {
        host: host.clone(),
        definition,
        replaces: Some(sha256(current.text.as_bytes())),
        disks_before: BTreeMap::new(),
    };
    steps.push(PlanStep::new(Stage::Fold, define, 0.3));
    let start = domain::Start { host: host.clone(), guest: name.clone(), patience_s: PATIENCE_S, force: false };
    steps.push(PlanStep::new(Stage::Start, start, 1.0));
    let boots = record.boot_s.unwrap_or(if hypervisor.capabilities().shares_host_kernel { 6.0 } else { 80.0 });
    let checks = super::verify::checks(spec, record, Side::Promoted, number);
    steps.push(PlanStep::new(Stage::Prove, checks, boots).undo(Undo::Nothing).outage_ends());
    steps.push(PlanStep::new(Stage::Tidy, starts(autostart), 0.1));
    for step in &mut steps {
        let proof = step.stage == Stage::Prove;
        step.on_failure = if proof { OnFailure::Unproven } else { OnFailure::Stop };
    }
    Ok(steps)
}

/// Proves that production runs, and stands on what stays: nothing is destroyed on the journal's word alone.
///
/// # Errors
/// If the platform does not answer; what is found wrong is a finding.
pub async fn proof(record: &RunFacts, hypervisor: &dyn Hypervisor, findings: &mut Findings) -> Result<(), Failure> {
    let name = &record.original.name;
    let Some(facts) = hypervisor.facts(name).await? else {
        findings.refuse("production", format!("{name} is not defined"), "define it again, or upgradectl rollback");
        return Ok(());
    };
    if facts.power == Power::On {
        findings.pass("production", "running");
    } else {
        findings.refuse(
            "production",
            format!("{name} is not running"),
            format!("start it and look at it, or upgradectl rollback {name}"),
        );
    }
    for (disk, source, target) in record.copies() {
        let now = facts.disks.iter().find(|now| now.name == disk.name);
        let stands = now.is_some_and(|now| matches!(&now.source, DiskSource::Directory(path) | DiskSource::Block(path) | DiskSource::File(path) if *path == target.path));
        if stands {
            findings.pass("production", format!("{} is {target}", disk.name));
        } else {
            findings.refuse(
                "production",
                format!("{name} does not stand on the promoted {target}: commit would destroy {source}"),
                format!("look at its definition; upgradectl rollback {name} leads back to {source}"),
            );
        }
    }
    Ok(())
}

/// The plan and its page. `rename`: the guest returns to the paths of its original, at the price of a restart; the number
/// is that of its checks.
///
/// # Errors
/// If the definition cannot be edited, or the promoted guest's files cannot be looked at.
pub async fn plan(
    spec: &GuestSpec,
    record: &RunFacts,
    hypervisor: &dyn Hypervisor,
    saved: Vec<VolumeRef>,
    rename: Option<usize>,
) -> Result<(Plan, Page), Failure> {
    let host = record.host.clone();
    let name = &spec.name;
    let run = &record.clone.name;
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Commit);
    let forward = |step: PlanStep| step.on_failure(OnFailure::Stop);
    let originals: Vec<VolumeRef> = record.copies().map(|(_, source, _)| source.clone()).collect();
    steps.push(
        forward(PlanStep::new(
            Stage::Fold,
            storage::RemoveVolumes { host: host.clone(), volumes: originals.clone() },
            2.0,
        ))
        .undo(Undo::None),
    );
    if !saved.is_empty() {
        let remove = storage::RemoveVolumes { host: host.clone(), volumes: saved };
        steps.push(forward(PlanStep::new(Stage::Fold, remove, 1.0)).undo(Undo::None));
    }
    for (_, _, target) in record.copies() {
        let mark = storage::MarkVolume { host: host.clone(), volume: target.clone(), role: None };
        steps.push(forward(PlanStep::new(Stage::Tidy, mark, 0.1)));
    }
    if rename.is_none()
        && let Some(current) = hypervisor.definition(name).await?
    {
        let definition =
            hypervisor.derive(&current, &DefinitionEdit { mark: Some(None), ..DefinitionEdit::default() })?;
        if definition.text != current.text {
            let replaces = Some(sha256(current.text.as_bytes()));
            let define = domain::Define { host: host.clone(), definition, replaces, disks_before: BTreeMap::new() };
            steps.push(forward(PlanStep::new(Stage::Tidy, define, 0.3)));
        }
    }
    if let Some((_, root)) = record.root() {
        let opened = hypervisor.storage(root.kind)?.open(root, Access::Glance).await?;
        let tree = Tree::open(opened.path())?;
        if queues::is_set_aside(&tree, run)? != Aside::Absent {
            let discard = Discard { host: host.clone(), volume: root.clone() };
            let step = PlanStep::new(Stage::Tidy, discard, 1.0).undo(Undo::None);
            steps.push(step.on_failure(OnFailure::Warn));
        }
    }
    let mut outages = Vec::new();
    if let Some(number) = rename {
        let restart = restart(spec, record, hypervisor, number).await?;
        let expected_s = restart.iter().skip(1).take(restart.len() - 2).map(|step| step.estimate_s).sum();
        outages.push(Outage { guest: name.clone(), expected_s });
        steps.extend(restart);
    }
    steps.extend(hooks.after(Verb::Commit));
    let mut page = Page::new(format!("Commit {}", record.clone.name));
    let gone: Vec<String> = originals.iter().map(ToString::to_string).collect();
    page.rows.push(Row::new("destroyed", format!("the original: {}", gone.join(", "))));
    let outage = outages.first().map_or("none".to_owned(), |outage| {
        format!("about {:.0} s: {name} is restarted under the paths of its original", outage.expected_s)
    });
    page.rows.push(Row::new("outage", outage));
    page.rows.push(Row::new("way back", "none: the old system is gone"));
    page.confirm = Some(name.clone());
    let plan = Plan {
        format: 1,
        run: record.clone.name.clone(),
        guest: name.clone(),
        verb: "commit".into(),
        approved_as: None,
        strategy: super::strategy_word(record.strategy).into(),
        during: "committing".into(),
        done: "committed".into(),
        failed: "promoted".into(),
        closes: true,
        failure_closes: false,
        undoes: None,
        outages,
        steps,
    };
    Ok((plan, page))
}
