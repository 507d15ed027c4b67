//! `clone`: copies at one instant, a new identity, quarantine, first boot, baseline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hypervisors::storage::Access;
use hypervisors::{DefinitionEdit, DiskEdit, GuestLink, Mark, Role, VolumeRef};

use super::address::Addressing;
use super::error::Failure;
use super::facts::Facts;
use super::hooks::Hooks;
use super::page::{Page, Row};
use super::record::{RunDisk, RunFacts};
use crate::engine::plan::PLACEHOLDER;
use crate::engine::{Plan, PlanStep, Stage, Undo};
use crate::guest::mounts::SkeletonDirectory;
use crate::guest::{self, CloneSpec, Tree};
use crate::inventory::{DiskRule, Strategy, Verb};
use crate::steps::{domain, files, queues, sha256, storage, upgrade, verify};

/// What the command line asks for beside the guest.
#[derive(Clone, Debug, Default)]
pub struct CloneWishes {
    /// New hostname; `None` as declared.
    pub hostname: Option<String>,
    /// What services need of detached data ([`skeletons`]).
    pub skeletons: Vec<(PathBuf, Vec<SkeletonDirectory>)>,
}

/// Where the copy of a disk goes: beside its source, named by run and disk.
fn target(source: &VolumeRef, run: &str, disk: &str) -> VolumeRef {
    let word: String = disk
        .trim_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '_' { c } else { '-' })
        .collect();
    let word = if word.is_empty() { "root" } else { &word };
    let directory = source.path.parent().unwrap_or(Path::new("/"));
    VolumeRef { kind: source.kind, path: directory.join(format!("{run}-{word}")) }
}

/// Waits until a guest that was started lets us in and has finished booting.
pub fn settle(host: &str, link: &GuestLink) -> upgrade::Settle {
    upgrade::Settle { host: host.to_owned(), link: link.clone(), timeout_s: 300 }
}

/// A UUID that belongs to the run: RFC 9562 version 8, from the SHA-256 of the run id.
pub fn uuid(run: &str) -> String {
    let hash = sha256(format!("upgradectl {run}").as_bytes());
    format!("{}-{}-8{}-a{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32])
}

/// A machine-id(5) that belongs to the run.
fn machine_id(run: &str) -> String {
    sha256(format!("machine-id {run}").as_bytes())[..32].to_owned()
}

/// Puts a run's id, and what is made from it, in place of `GUEST--RUN` and what was made from that.
///
/// # Errors
/// Never for what serializes; the error is serde's.
pub fn bind(plan: &Plan, record: &RunFacts, run: &str) -> Result<(Plan, RunFacts), serde_json::Error> {
    let from = &record.clone.name;
    let bound = |text: String| {
        text.replace(&uuid(from), &uuid(run)).replace(&machine_id(from), &machine_id(run)).replace(from.as_str(), run)
    };
    let approved_as = Some(plan.digest());
    let plan = Plan { approved_as, ..serde_json::from_str(&bound(serde_json::to_string(plan)?))? };
    Ok((plan, serde_json::from_str(&bound(serde_json::to_string(record)?))?))
}

/// What is remembered of a run that this plan begins, with `GUEST--RUN` for its id.
pub fn record(
    facts: &Facts,
    addressing: &Addressing,
    strategy: Strategy,
    state: &Path,
    control_dir: &Path,
) -> Result<RunFacts, Failure> {
    let run = format!("{}--{PLACEHOLDER}", facts.spec.name);
    let run_dir = state.join("runs").join(&run);
    let link = |name: &str, address, known_hosts: PathBuf| GuestLink {
        name: name.to_owned(),
        address,
        port: facts.spec.ssh.port,
        user: facts.spec.ssh.user.clone(),
        key: facts.spec.ssh.key.clone(),
        sudo: facts.spec.ssh.sudo,
        known_hosts,
        control_dir: control_dir.to_owned(),
    };
    let disks = facts
        .disks
        .iter()
        .map(|disk| {
            let source = disk.volume.as_ref().ok().cloned();
            let copy = disk.rule == DiskRule::Clone;
            RunDisk {
                name: disk.disk.name.clone(),
                root: disk.disk.root,
                rule: disk.rule,
                target: source.as_ref().filter(|_| copy).map(|source| target(source, &run, &disk.disk.name)),
                source,
            }
        })
        .collect();
    let tree = Tree::open(facts.root.path())?;
    let hostname = tree.read_text(Path::new("etc/hostname"))?.unwrap_or_default().trim().to_owned();
    Ok(RunFacts {
        strategy,
        host: facts.spec.host.clone(),
        definition: sha256(facts.definition.text.as_bytes()),
        disks,
        addressing: addressing.clone(),
        original: link(&facts.spec.name, addressing.original, run_dir.join("known_hosts.original")),
        clone: link(&run, addressing.clone, run_dir.join("known_hosts")),
        quarantined: facts.quarantine.units.iter().map(|unit| unit.unit.clone()).collect(),
        hostname,
        codename: facts.codename.clone(),
        run_dir,
        verification: None,
        unproven: None,
        boot_s: None,
    })
}

/// The directories of detached data by mount point, where the data lies in a directory of this machine.
///
/// # Errors
/// If a detached volume that can be opened cannot be read.
pub async fn skeletons(facts: &Facts) -> Result<Vec<(PathBuf, Vec<SkeletonDirectory>)>, Failure> {
    let mut skeletons = Vec::new();
    for disk in facts.detached() {
        let mount_point = PathBuf::from(&disk.disk.name);
        let (true, Ok(volume)) = (mount_point.is_absolute(), &disk.volume) else { continue };
        let data = facts.hypervisor.storage(volume.kind)?.open(volume, Access::Glance).await?;
        skeletons.push((mount_point, guest::mounts::skeleton(&Tree::open(data.path())?)?));
    }
    Ok(skeletons)
}

/// What cloning changes in the guest's files.
fn clone_spec(facts: &Facts, record: &RunFacts, wishes: &CloneWishes) -> CloneSpec {
    let mut detached: Vec<PathBuf> =
        facts.detached().map(|disk| PathBuf::from(&disk.disk.name)).filter(|path| path.is_absolute()).collect();
    let declared = facts.spec.disks.iter().filter(|(_, rule)| **rule == DiskRule::Detach);
    detached.extend(declared.map(|(name, _)| PathBuf::from(name)).filter(|path| path.is_absolute()));
    detached.sort();
    detached.dedup();
    CloneSpec {
        addresses: record.addressing.changes.clone(),
        to_dhcp: Vec::new(),
        macs: record.addressing.macs.clone(),
        hostname: wishes.hostname.clone().or_else(|| facts.spec.clone.hostname.clone()),
        detached,
        skeletons: wishes.skeletons.clone(),
        quarantine: facts.spec.quarantine.off.clone(),
        machine_id: machine_id(&record.clone.name),
        host_keys: BTreeMap::new(),
    }
}

/// The plan, with `GUEST--RUN` for the run's id.
///
/// # Errors
/// If the guest's files or definition cannot be rewritten: place and remedy name them.
pub fn plan(facts: &Facts, record: &RunFacts, wishes: &CloneWishes) -> Result<(Plan, Page), Failure> {
    let name = &facts.spec.name;
    let run = &record.clone.name;
    let host = record.host.clone();
    let copies: Vec<storage::Pair> =
        record.copies().map(|(_, source, target)| storage::Pair::new(source.clone(), target.clone())).collect();
    let (_, root) = record.root().ok_or_else(|| {
        Failure::new(super::error::exit::REFUSED, format!("clone {name}")).cause("its root disk is not cloned")
    })?;
    let spec = clone_spec(facts, record, wishes);
    let tree = Tree::open(facts.root.path())?;
    let mut planned_spec = spec.clone();
    // The throw-away keys are made when the plan is carried out; what they replace is planned without them.
    planned_spec.host_keys = BTreeMap::new();
    let edits = guest::clone_edits(&tree, &planned_spec)?;
    let expected = files::expected(&edits);
    let diff = edits.iter().map(guest::diff).collect::<Vec<_>>().join("");

    let mut edit = DefinitionEdit {
        name: Some(run.clone()),
        uuid: Some(uuid(run)),
        mark: Some(Some(Mark { run: run.clone(), role: Role::Clone })),
        macs: record.addressing.by_card.clone(),
        memory_bytes: facts.spec.clone.memory_bytes,
        ..DefinitionEdit::default()
    };
    for disk in &record.disks {
        let change = disk.target.clone().map_or(DiskEdit::Remove, DiskEdit::Source);
        edit.disks.insert(disk.name.clone(), change);
    }
    let definition = facts.hypervisor.derive(&facts.definition, &edit)?;

    // Copies of nested or plain volumes are of one instant only if nothing is written meanwhile.
    let pause = facts.hypervisor.capabilities().can_pause;
    let pause_s: f64 = facts.cloned().filter_map(|(disk, _)| disk.facts.as_ref()).map(|seen| seen.pause_s).sum();
    let hooks = Hooks::new(facts, record);
    let boots = if facts.hypervisor.capabilities().shares_host_kernel { 8.0 } else { 80.0 };
    let mut needles: Vec<String> = record.addressing.changes.iter().map(|change| change.old.to_string()).collect();
    needles.extend(spec.hostname.as_ref().filter(|new| **new != record.hostname).map(|_| record.hostname.clone()));

    let mut steps = hooks.before(Verb::Clone);
    steps.push(PlanStep::new(
        Stage::Duplicate,
        storage::Snapshot { host: host.clone(), guest: name.clone(), pause, copies, role: Role::Clone },
        pause_s + 1.0,
    ));
    steps.push(
        PlanStep::new(
            Stage::Adapt,
            files::Rewrite {
                host: host.clone(),
                volume: root.clone(),
                spec,
                files: edits.len(),
                expected,
                diff,
                needles,
            },
            1.0,
        )
        .undo(Undo::WithClone),
    );
    if !facts.queues.is_empty() {
        steps.push(
            PlanStep::new(Stage::Adapt, queues::SetAside { host: host.clone(), volume: root.clone() }, 1.0)
                .undo(Undo::WithClone),
        );
    }
    steps.push(PlanStep::new(
        Stage::Define,
        domain::Define { host: host.clone(), definition, replaces: None, disks_before: BTreeMap::new() },
        1.0,
    ));
    steps.push(PlanStep::new(
        Stage::Start,
        domain::Start { host: host.clone(), guest: run.clone(), patience_s: 60, force: true },
        2.0,
    ));
    // The original is asked while the clone boots.
    steps.push(
        PlanStep::new(
            Stage::Settle,
            verify::TakeBaseline::new(&host, &record.original, &record.hostname, &facts.spec.checks),
            5.0,
        )
        .undo(Undo::Nothing),
    );
    steps.push(PlanStep::new(Stage::Settle, settle(&host, &record.clone), boots).undo(Undo::Nothing));
    steps.extend(hooks.after(Verb::Clone));

    let plan = Plan {
        format: 1,
        run: run.clone(),
        guest: name.clone(),
        verb: "clone".into(),
        approved_as: None,
        strategy: super::strategy_word(record.strategy).into(),
        during: "cloning".into(),
        done: "cloned".into(),
        failed: "aborted".into(),
        closes: false,
        failure_closes: true,
        undoes: None,
        outages: Vec::new(),
        steps,
    };
    Ok((plan, page(facts, record)))
}

fn page(facts: &Facts, record: &RunFacts) -> Page {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let mac = |index: usize| facts.platform.nics.get(index).and_then(|nic| nic.mac).map(|mac| mac.to_string());
    let new_mac = record.addressing.by_card.first().copied().flatten().map(|mac| mac.to_string());
    let memory = facts.spec.clone.memory_bytes.unwrap_or(facts.platform.memory_bytes);
    let hostname = facts.spec.clone.hostname.clone().map_or("hostname kept".into(), |name| format!("hostname {name}"));
    let mut page = Page::new(format!(
        "Clone {} by {} ({}, {}, {}).",
        facts.spec.name,
        super::strategy_word(record.strategy),
        record.host,
        facts.hypervisor.platform(),
        facts.release,
    ));
    page.sides.push(vec![
        "original".into(),
        record.addressing.original.to_string(),
        mac(0).unwrap_or_default(),
        "keeps serving".into(),
    ]);
    page.sides.push(vec![
        "clone".into(),
        record.addressing.clone.to_string(),
        new_mac.unwrap_or_default(),
        format!("{}, {hostname}", mib(memory)),
    ]);
    for disk in &record.disks {
        let source = disk.source.as_ref().map(ToString::to_string).unwrap_or_default();
        let becomes = match disk.rule {
            DiskRule::Clone => "copied",
            DiskRule::Swap => "fresh swap",
            DiskRule::Detach => "detached, out of the clone's fstab",
        };
        page.disks.push(vec![disk.name.clone(), source, becomes.into()]);
    }
    let off: Vec<&str> = facts.quarantine.units.iter().map(|unit| unit.unit.trim_end_matches(".service")).collect();
    page.rows.push(Row::new("quarantine", if off.is_empty() { "nothing".into() } else { off.join(", ") }));
    page
}
