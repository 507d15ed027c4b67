//! `clone` of a jail: a clone of its dataset, with an identity of its own, in quarantine, defined as a second jail. It is left stopped.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use hypervisors::storage::Copies;
use hypervisors::{Definition, DefinitionEdit, DiskEdit, Mark, Role, VolumeKind, VolumeRef};

use super::{Facts, JailTree};
use crate::engine::plan::PLACEHOLDER;
use crate::engine::{Plan, PlanStep, Stage, Undo};
use crate::guest::AddressChange;
use crate::inventory::values::AddressWish;
use crate::inventory::{DiskRule, Strategy, Verb};
use crate::lifecycle::address::Addressing;
use crate::lifecycle::error::Failure;
use crate::lifecycle::hooks::Hooks;
use crate::lifecycle::page::{Page, Row};
use crate::lifecycle::record::{RunDisk, RunFacts};
use crate::lifecycle::state::State;
use crate::lifecycle::transfer::clone::address;
use crate::steps::net::Place;
use crate::steps::reduce::Prune;
use crate::steps::{domain, jail, sha256, verify};

/// What is remembered of a run that this plan begins, with `GUEST--RUN` for its id. `release` and what is in quarantine are told later.
///
/// # Errors
/// An address that does not fit.
pub fn record(facts: &Facts, wishes: &[AddressWish], state: &Path, control_dir: &Path) -> Result<RunFacts, Failure> {
    let name = &facts.spec.name;
    let run = format!("{name}--{PLACEHOLDER}");
    let run_dir = state.join("runs").join(&run);
    let (new, own) = (address(name, facts.address, wishes)?, IpAddr::V4(facts.address));
    let mut places: Vec<Place> = Vec::new();
    for nic in &facts.platform.nics {
        places.extend(nic.addresses.iter().map(|ip| Place { address: *ip, via: nic.bridge.clone(), mac: None }));
    }
    let via = places.iter().find(|place| place.address == own).map(|place| place.via.clone()).unwrap_or_default();
    let change = |place: &Place| AddressChange {
        interface: place.via.clone(),
        old: place.address,
        new: (place.address == own).then_some(new),
    };
    let target = VolumeRef { kind: VolumeKind::Directory, path: facts.trees.join(&run) };
    Ok(RunFacts {
        strategy: Strategy::Snapshot,
        copying: Copies::Trees,
        host: facts.spec.host.clone(),
        production_on: None,
        clone_on: None,
        definition: sha256(facts.definition.text.as_bytes()),
        disks: vec![RunDisk {
            name: "/".to_owned(),
            root: true,
            rule: DiskRule::Clone,
            source: Some(VolumeRef { kind: VolumeKind::Zfs, path: facts.root.clone() }),
            target: Some(target),
            source_there: None,
            target_there: None,
        }],
        addressing: Addressing {
            changes: places.iter().map(change).collect(),
            macs: BTreeMap::new(),
            by_card: Vec::new(),
            original: own,
            clone: new,
            dhcp: Vec::new(),
            by: None,
            original_places: places,
            clone_places: vec![Place { address: new, via, mac: None }],
        },
        original: facts.link(name, own, run_dir.join("known_hosts.original"), control_dir),
        clone: facts.link(&run, new, run_dir.join("known_hosts"), control_dir),
        quarantined: Vec::new(),
        fenced: false,
        hostname: facts.hostname.clone(),
        codename: String::new(),
        run_dir,
        verification: None,
        unproven: None,
        boot_s: None,
        transfer: None,
        machine: None,
    })
}

/// What the clone's definition has of its own.
pub fn edit(record: &RunFacts) -> DefinitionEdit {
    let run = record.clone.name.clone();
    let disks = record.copies().map(|(disk, _, copy)| (disk.name.clone(), DiskEdit::Source(copy.clone())));
    DefinitionEdit {
        name: Some(run.clone()),
        mark: Some(Some(Mark { run, role: Role::Clone })),
        disks: disks.collect(),
        addresses: record.addressing.changes.iter().map(|change| (change.old, change.new)).collect(),
        ..DefinitionEdit::default()
    }
}

/// The plan and its page. `adapt`: what gives the clone its identity.
///
/// # Errors
/// Nothing is remembered of its tree.
pub fn plan(
    facts: &Facts,
    record: &RunFacts,
    definition: Definition,
    adapt: PlanStep,
) -> Result<(Plan, Page), Failure> {
    let tree = JailTree::of(record)?;
    let (host, run) = (record.host.clone(), record.clone.name.clone());
    let hooks = Hooks::of(&facts.spec, record);
    let mut steps = hooks.before(Verb::Clone);
    let baseline = verify::TakeBaseline::new(&host, &record.original, &record.hostname, &facts.spec.checks);
    steps.push(PlanStep::new(Stage::Announce, baseline, 5.0).undo(Undo::Nothing));
    let clone = jail::MakeTree {
        host: host.clone(),
        run,
        root: tree.root.clone(),
        scratch: tree.scratch.clone(),
        dataset: None,
        of: Some(facts.root.clone()),
    };
    steps.push(PlanStep::new(Stage::Duplicate, clone, 1.0));
    steps.extend(hooks.with_volumes());
    let empty = Prune {
        host: host.clone(),
        root: tree.root.clone(),
        scratch: tree.scratch.clone(),
        paths: crate::steps::reduce::queue_paths(),
        mount_points: Vec::new(),
    };
    steps.push(PlanStep::new(Stage::Adapt, empty, 1.0).undo(Undo::WithClone));
    steps.push(adapt.undo(Undo::WithClone));
    let define = domain::Define { host, definition, replaces: None, disks_before: BTreeMap::new() };
    steps.push(PlanStep::new(Stage::Define, define, 0.5));
    steps.extend(hooks.after(Verb::Clone));
    let plan =
        Plan { failure_closes: true, ..record.plan("clone", [State::Cloning, State::Cloned, State::Aborted], steps) };
    Ok((plan, page(facts, record, &tree)))
}

fn page(facts: &Facts, record: &RunFacts, tree: &JailTree) -> Page {
    let name = &facts.spec.name;
    let mut page = Page::new(format!("Clone the jail {name} ({}, FreeBSD {}).", facts.spec.host, tree.release));
    let via = |places: &[Place]| places.first().map(|place| place.via.clone()).unwrap_or_default();
    let shown = &record.addressing;
    page.sides.push(vec![
        "original".into(),
        shown.original.to_string(),
        via(&shown.original_places),
        "keeps serving".into(),
    ]);
    page.sides.push(vec![
        "clone".into(),
        shown.shown(),
        via(&shown.clone_places),
        "a second jail, left stopped".into(),
    ]);
    let dataset = facts.dataset.as_ref().map(|dataset| dataset.name.clone()).unwrap_or_default();
    page.disks.push(vec![
        "/".into(),
        format!("{dataset} at {}", facts.root.display()),
        "cloned from a snapshot".into(),
    ]);
    page.rows.push(Row::new("tree", format!("{} on {}", tree.root.display(), facts.spec.host)));
    page.rows.push(Row::new(
        "left out",
        "what its host mounts into it and does for it outside (mount, exec.prestart …): promotion brings it back",
    ));
    page
}
