//! `commit`: the original goes, the promoted guest stays. The only verb that destroys the original.

use std::collections::BTreeMap;

use hypervisors::storage::{Access, Copies};
use hypervisors::{Definition, DefinitionEdit, DiskEdit, DiskSource, Hypervisor, Power, VolumeRef};

use super::error::{Failure, exit};
use super::hooks::Hooks;
use super::page::{Page, Row};
use super::preflight::Findings;
use super::production::{self, Fold, PATIENCE_S};
use super::record::RunFacts;
use super::state::State;
use crate::engine::{OnFailure, Plan, PlanStep, Stage, Undo, outages};
use crate::guest::Tree;
use crate::guest::queues::{self, Aside};
use crate::inventory::{GuestSpec, Strategy, Verb};
use crate::steps::queues::Discard;
use crate::steps::{domain, net, sha256, storage};
use crate::verify::Side;

/// The restart that brings the guest back to the paths of its original: stop, rename, define, start, checks. The originals
/// are gone by then, and the marks are off. Its autostart is off meanwhile: started half-way, it would not find its disks.
async fn restart(
    spec: &GuestSpec,
    record: &RunFacts,
    hypervisor: &dyn Hypervisor,
    number: usize,
) -> Result<Vec<PlanStep>, Failure> {
    let (host, name) = (record.production_host(), &spec.name);
    let current = hypervisor.definition(name).await?.ok_or_else(|| {
        Failure::new(exit::REFUSED, format!("commit {name}")).cause("it is not defined").help("commit without --rename")
    })?;
    let mut edit = DefinitionEdit { mark: Some(None), ..DefinitionEdit::default() };
    for (disk, source, _) in record.copies() {
        edit.disks.insert(disk.name.clone(), DiskEdit::Source(source.clone()));
    }
    let definition = hypervisor.derive(&current, &edit)?;
    let autostart = hypervisor.autostart(name).await?;
    let starts = |on| domain::Autostart { host: host.to_owned(), guest: name.clone(), on };
    let mut steps = vec![PlanStep::new(Stage::Quiesce, starts(false), 0.1)];
    let stop =
        domain::Stop { host: host.to_owned(), guest: name.clone(), patience_s: PATIENCE_S, force: false, link: None };
    steps.push(PlanStep::new(Stage::Quiesce, stop, 4.0).outage_begins());
    for (_, source, target) in record.copies() {
        let rename = storage::RenameVolume { host: record.host.clone(), from: target.clone(), to: source.clone() };
        steps.push(PlanStep::new(Stage::Fold, rename, 0.2));
    }
    let define = domain::Define {
        host: host.to_owned(),
        definition,
        replaces: Some(sha256(current.text.as_bytes())),
        disks_before: BTreeMap::new(),
    };
    steps.push(PlanStep::new(Stage::Fold, define, 0.3));
    let start = domain::Start { host: host.to_owned(), guest: name.clone(), patience_s: PATIENCE_S, force: false };
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
    for (disk, source, target) in record.sides() {
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

/// What commit rests on, as it is now.
pub struct Now {
    /// Snapshots of detached data that promotion took.
    pub saved: Vec<VolumeRef>,
    /// Number of the next report of checks.
    pub number: usize,
    /// Whether production starts with its host.
    pub autostart: bool,
}

/// Whether there are queues on a root that this run set aside.
async fn set_aside(hypervisor: &dyn Hypervisor, root: &VolumeRef, run: &str) -> Result<bool, Failure> {
    let opened = hypervisor.storage(root.kind)?.open(root, Access::Glance).await?;
    Ok(queues::is_set_aside(&Tree::open(opened.path())?, run)? != Aside::Absent)
}

/// Production's definition with an edit, as a step; `None` if it says so already.
async fn redefine(
    record: &RunFacts,
    hypervisor: &dyn Hypervisor,
    edit: DefinitionEdit,
) -> Result<Option<(Definition, String)>, Failure> {
    let Some(current) = hypervisor.definition(&record.original.name).await? else { return Ok(None) };
    let definition = hypervisor.derive(&current, &DefinitionEdit { mark: Some(None), ..edit })?;
    Ok((definition.text != current.text).then(|| (definition, sha256(current.text.as_bytes()))))
}

/// Disks that point to the volumes `clone` found.
fn found_disks(record: &RunFacts) -> BTreeMap<String, DiskEdit> {
    let found = record.copies().chain(record.swaps());
    found.map(|(disk, original, _)| (disk.name.clone(), DiskEdit::Source(original.clone()))).collect()
}

/// The plan and its page. `rename`: the guest returns to the paths of its original, at the price of a restart.
///
/// # Errors
/// If the definition cannot be edited, or the promoted guest's files cannot be looked at.
pub async fn plan(
    spec: &GuestSpec,
    record: &RunFacts,
    hypervisor: &dyn Hypervisor,
    now: Now,
    rename: bool,
) -> Result<(Plan, Page), Failure> {
    let host = record.host.clone();
    let name = &spec.name;
    let run = &record.clone.name;
    let hooks = Hooks::of(spec, record);
    let fold = record.strategy == Strategy::Snapshot && record.copying == Copies::Dependents;
    let forward = |step: PlanStep| step.on_failure(OnFailure::Stop);
    let remove = |volumes: Vec<VolumeRef>, estimate_s| {
        let remove = storage::RemoveVolumes { host: host.clone(), volumes };
        forward(PlanStep::new(Stage::Fold, remove, estimate_s)).undo(Undo::None)
    };
    let mark = |volume: &VolumeRef| {
        let mark = storage::MarkVolume { host: host.clone(), volume: volume.clone(), role: None };
        forward(PlanStep::new(Stage::Tidy, mark, 0.1))
    };
    let define = |(definition, replaces): (Definition, String)| {
        let disks_before = BTreeMap::new();
        let define = domain::Define {
            host: record.production_host().to_owned(),
            definition,
            replaces: Some(replaces),
            disks_before,
        };
        forward(PlanStep::new(Stage::Tidy, define, 0.3))
    };
    // What is given up: by `in-place` the snapshot, which nobody ever ran on.
    let gone: Vec<VolumeRef> = match record.strategy {
        Strategy::InPlace => record.copies().map(|(_, _, copy)| copy.clone()).collect(),
        _ => record.sides().map(|(_, production, _)| production.clone()).collect(),
    };
    let renames = record.strategy == Strategy::Snapshot && record.copying == Copies::Peers;
    let mut discard = None;
    if record.strategy != Strategy::InPlace
        && let Some((_, root)) = record.root()
        && set_aside(hypervisor, root, run).await?
    {
        // By then it may bear another name.
        let back = fold || renames;
        let volume = record.copies().find(|(disk, ..)| disk.root && back).map_or(root, |(_, original, _)| original);
        let aside = match fold {
            true => Discard { host: host.clone(), volume: volume.clone(), inside: None },
            false => Discard::of_a_running(record.production_host(), volume, &record.original),
        };
        let step = PlanStep::new(Stage::Tidy, aside, 1.0).undo(Undo::None);
        discard = Some(step.on_failure(OnFailure::Warn));
    }
    let mut steps = hooks.before(Verb::Commit);
    if fold {
        let boots = record.boot_s.unwrap_or(if hypervisor.capabilities().shares_host_kernel { 6.0 } else { 80.0 });
        let checks = super::verify::checks(spec, record, Side::Promoted, now.number);
        let places = record.addressing.original_places.clone();
        let proofs = vec![
            production::look(Stage::Start, net::Announce { host: record.production_host().to_owned(), places }, 0.1),
            PlanStep::new(Stage::Prove, checks, boots)
                .undo(Undo::Nothing)
                .on_failure(OnFailure::Unproven)
                .outage_ends(),
        ];
        let edit = DefinitionEdit { disks: found_disks(record), ..DefinitionEdit::default() };
        let definition = redefine(record, hypervisor, edit).await?;
        let (let_go, take_up) = hooks.around_merge();
        let fold = Fold {
            definition,
            autostart: now.autostart,
            before_merge: hooks.without_volumes().into_iter().chain(let_go).collect(),
            after_merge: discard.take().into_iter().chain(take_up).collect(),
            proofs,
            before: OnFailure::Undo,
        };
        steps.extend(production::fold(record, fold));
    } else {
        if record.strategy == Strategy::Origin {
            steps.extend(hooks.without_volumes().into_iter().map(forward));
        }
        steps.push(remove(gone.clone(), 2.0));
    }
    if !now.saved.is_empty() {
        steps.push(remove(now.saved, 1.0));
    }
    if renames {
        // Peers can be renamed under a running guest; its definition follows at once.
        for (_, old, new) in record.sides() {
            let rename = storage::RenameVolume { host: host.clone(), from: new.clone(), to: old.clone() };
            steps.push(forward(PlanStep::new(Stage::Fold, rename, 0.2)));
        }
        let edit = DefinitionEdit { disks: found_disks(record), ..DefinitionEdit::default() };
        steps.extend(redefine(record, hypervisor, edit).await?.map(define));
        steps.extend(record.sides().map(|(_, old, _)| mark(old)));
    } else if !fold && record.strategy != Strategy::InPlace {
        if record.strategy == Strategy::Snapshot {
            steps.extend(record.sides().map(|(_, _, clone)| mark(clone)));
        }
        if !rename {
            steps.extend(redefine(record, hypervisor, DefinitionEdit::default()).await?.map(define));
        }
    }
    steps.extend(discard);
    if rename {
        steps.extend(restart(spec, record, hypervisor, now.number).await?);
    }
    steps.extend(hooks.after(Verb::Commit));
    let outages = outages(&steps, name);
    let mut page = Page::new(format!("Commit {}", record.clone.name));
    let gone: Vec<String> = gone.iter().map(ToString::to_string).collect();
    page.rows.push(match record.strategy {
        Strategy::InPlace => Row::new("destroyed", format!("the snapshot that leads back: {}", gone.join(", "))),
        _ if fold => {
            Row::new("destroyed", format!("the original's content: {} become what was promoted", gone.join(", ")))
        }
        _ => Row::new("destroyed", format!("the original: {}", gone.join(", "))),
    });
    let outage = outages.first().map_or("none".to_owned(), |outage| {
        let why = if fold { "while the snapshot is merged" } else { "to be restarted under the paths of its original" };
        format!("about {:.0} s: {name} is down {why}", outage.expected_s)
    });
    page.rows.push(Row::new("outage", outage));
    page.rows.push(Row::new("way back", "none: the old system is gone"));
    page.confirm = Some(name.clone());
    let failed = if record.strategy == Strategy::InPlace { State::Verified } else { State::Promoted };
    let plan = Plan { closes: true, ..record.plan("commit", [State::Committing, State::Committed, failed], steps) };
    Ok((plan, page))
}
