//! `clone`: copies at one instant, a new identity, quarantine, first boot, baseline.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hypervisors::storage::{Access, Copies};
use hypervisors::{ByMac, DefinitionEdit, DiskEdit, GuestLink, Mark, Power, Role, VolumeKind, VolumeRef};

use super::address::Addressing;
use super::error::Failure;
use super::facts::Facts;
use super::hooks::Hooks;
use super::page::{Page, Row};
use super::record::{RunDisk, RunFacts};
use super::state::State;
use super::{filesystems, in_place, origin, placement};
use crate::engine::plan::PLACEHOLDER;
use crate::engine::{OnFailure, Outage, Plan, PlanStep, Stage, Undo, outages};
use crate::guest::fence::{Destination, Fence, Way};
use crate::guest::mounts::SkeletonDirectory;
use crate::guest::{self, CloneSpec, Tree};
use crate::inventory::values::{Allowed, AllowedTo};
use crate::inventory::{DiskRule, NetworkRule, Strategy, Verb};
use crate::steps::freeze::Freeze;
use crate::steps::{block, domain, files, fsck, net, queues, sha256, storage, upgrade, verify};

/// What the command line asks for beside the guest.
#[derive(Clone, Debug, Default)]
pub struct CloneWishes {
    /// New hostname; `None` as declared.
    pub hostname: Option<String>,
    /// What services need of detached data ([`skeletons`]).
    pub skeletons: Vec<(PathBuf, Vec<SkeletonDirectory>)>,
    /// What the clone may reach ([`fence`]); everything if absent.
    pub fence: Option<Fence>,
    /// How the original is frozen for the snapshot ([`freeze`]); it is paused if absent.
    pub freeze: Option<Freeze>,
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
    upgrade::Settle { host: host.to_owned(), link: link.clone(), vm: None, timeout_s: 300 }
}

/// A UUID that belongs to the run: RFC 9562 version 8, from the SHA-256 of the run id.
pub fn uuid(run: &str) -> String {
    let hash = sha256(format!("upgradectl {run}").as_bytes());
    format!("{}-{}-8{}-a{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32])
}

/// A machine-id(5) that belongs to the run.
pub(super) fn machine_id(run: &str) -> String {
    sha256(format!("machine-id {run}").as_bytes())[..32].to_owned()
}

/// A name as a part of a variable's, as definitions that are variables have it (rc.conf(5)).
fn variable(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// Puts a run's id, and what is made from it, in place of `GUEST--RUN` and what was made from that.
///
/// # Errors
/// Never for what serializes; the error is serde's.
pub fn bind(plan: &Plan, record: &RunFacts, run: &str) -> Result<(Plan, RunFacts), serde_json::Error> {
    let from = &record.clone.name;
    let bound = |text: String| {
        let text = text.replace(&uuid(from), &uuid(run)).replace(&machine_id(from), &machine_id(run));
        text.replace(from.as_str(), run).replace(&variable(from), &variable(run))
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
        by: None,
        port: facts.spec.ssh.port,
        user: facts.spec.ssh.user.clone(),
        key: facts.spec.ssh.key.clone(),
        sudo: facts.spec.ssh.sudo,
        known_hosts,
        control_dir: control_dir.to_owned(),
        legacy: false,
    };
    let disks = facts
        .disks
        .iter()
        .map(|disk| {
            let source = disk.volume.as_ref().ok().cloned();
            let copy = match disk.rule {
                DiskRule::Clone => true,
                DiskRule::Swap => strategy != Strategy::InPlace,
                DiskRule::Detach => false,
            };
            let copied = source.as_ref().filter(|_| copy);
            let there = facts.spec.paths.get(&disk.disk.name).and_then(|paths| paths.copy.as_ref());
            RunDisk {
                source_there: source.as_ref().and_then(|source| facts.paths.get(&source.path).cloned()),
                target_there: copied.and(there).map(|there| there.to_string_lossy().replace("{run}", &run).into()),
                name: disk.disk.name.clone(),
                root: disk.disk.root,
                rule: disk.rule,
                target: copied.map(|source| target(source, &run, &disk.disk.name)),
                source,
            }
        })
        .collect();
    let elsewhere = |host: &String| (*host != facts.spec.host).then(|| host.clone());
    let tree = Tree::open(facts.root.path())?;
    let hostname = tree.read_text(Path::new("etc/hostname"))?.unwrap_or_default().trim().to_owned();
    let original = link(&facts.spec.name, addressing.original, run_dir.join("known_hosts.original"));
    let clone = match strategy {
        Strategy::InPlace => {
            GuestLink { name: run.clone(), known_hosts: run_dir.join("known_hosts"), ..original.clone() }
        }
        _ => GuestLink {
            by: addressing.by.clone().map(|(mac, via)| ByMac { mac, via, known: run_dir.join("address") }),
            ..link(&run, addressing.clone, run_dir.join("known_hosts"))
        },
    };
    Ok(RunFacts {
        strategy,
        copying: facts.copying()?,
        host: facts.spec.host.clone(),
        production_on: elsewhere(&facts.spec.runs_on),
        clone_on: elsewhere(match (strategy, &facts.spec.clone.runs_on) {
            // There is no clone but the guest itself.
            (Strategy::InPlace, _) | (_, None) => &facts.spec.runs_on,
            (_, Some(host)) => host,
        }),
        definition: sha256(facts.definition.text.as_bytes()),
        disks,
        addressing: addressing.clone(),
        original,
        clone,
        quarantined: match strategy {
            Strategy::InPlace => Vec::new(),
            _ => facts.quarantine.units.iter().map(|unit| unit.unit.clone()).collect(),
        },
        fenced: strategy != Strategy::InPlace && facts.spec.clone.network == NetworkRule::Fenced,
        hostname,
        codename: facts.codename.clone(),
        run_dir,
        verification: None,
        unproven: None,
        boot_s: None,
        transfer: None,
        machine: None,
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
    // Of a disk with partitions, only its root would be opened.
    for one in filesystems::detached(&facts.placed).filter(|one| one.number.is_none() && mountable(&one.content)) {
        let Some(disk) = facts.detached().find(|disk| disk.disk.name == one.disk) else { continue };
        let Ok(volume) = &disk.volume else { continue };
        let data = facts.hypervisor.storage(volume.kind)?.open(volume, Access::Glance).await?;
        skeletons.push((one.point.clone(), guest::mounts::skeleton(&Tree::open(data.path())?)?));
    }
    Ok(skeletons)
}

/// Whether data is a file system that is opened on a host.
fn mountable(content: &str) -> bool {
    matches!(content, "ext2" | "ext3" | "ext4" | "xfs")
}

/// What a fenced clone may reach: the controller, as the clone sees it, and what is allowed.
///
/// # Errors
/// If there is no way to an address of the clone.
pub async fn fence(facts: &Facts, addressing: &Addressing) -> Result<Option<Fence>, Failure> {
    if facts.spec.clone.network != NetworkRule::Fenced {
        return Ok(None);
    }
    let mut ways: Vec<Way> = Vec::new();
    // Where the clone's address is a DHCP server's to choose, it is on the original's link.
    let mut leading: Vec<IpAddr> = addressing.clone_places.iter().map(|place| place.address).collect();
    leading.extend(addressing.by.as_ref().map(|_| addressing.original));
    for address in leading {
        let controller = facts.hypervisor.net().source(address).await?.into();
        if !ways.contains(&controller) {
            ways.push(controller);
        }
    }
    let allowed = facts.spec.clone.allow.iter().filter_map(|text| text.parse::<Allowed>().ok());
    ways.extend(allowed.map(|Allowed { to, port }| {
        let to = match to {
            AllowedTo::Network(address, prefix) => Destination::Network { address, prefix },
            AllowedTo::Name(name) => Destination::Name(name),
        };
        Way { to, port }
    }));
    Ok(Some(Fence { ways }))
}

/// Learns the address, where a DHCP server chooses it.
pub fn learnt(record: &RunFacts) -> Option<PlanStep> {
    let step = net::LearnAddress { host: record.clone_host().to_owned(), link: record.clone.clone(), timeout_s: 120 };
    record.clone.by.as_ref().map(|_| PlanStep::new(Stage::Settle, step, 3.0).undo(Undo::Nothing))
}

/// Sees that the fence stands, where there is one.
pub fn fenced(record: &RunFacts) -> Option<PlanStep> {
    let step = crate::steps::fence::ProveFenced { host: record.clone_host().to_owned(), link: record.clone.clone() };
    record.fenced.then(|| PlanStep::new(Stage::Settle, step, 0.5).undo(Undo::Nothing))
}

/// What cloning changes in the guest's files.
fn clone_spec(facts: &Facts, record: &RunFacts, wishes: &CloneWishes) -> CloneSpec {
    let mut detached: Vec<PathBuf> =
        facts.detached().map(|disk| PathBuf::from(&disk.disk.name)).filter(|path| path.is_absolute()).collect();
    let declared = facts.spec.disks.iter().filter(|(_, rule)| **rule == DiskRule::Detach);
    detached.extend(declared.map(|(name, _)| PathBuf::from(name)).filter(|path| path.is_absolute()));
    detached.extend(filesystems::detached(&facts.placed).map(|one| one.point.clone()));
    detached.sort();
    detached.dedup();
    CloneSpec {
        addresses: record.addressing.changes.clone(),
        to_dhcp: record.addressing.dhcp.clone(),
        macs: record.addressing.macs.clone(),
        hostname: wishes.hostname.clone().or_else(|| facts.spec.clone.hostname.clone()),
        detached,
        skeletons: wishes.skeletons.clone(),
        quarantine: facts.spec.quarantine.off.clone(),
        fence: wishes.fence.clone(),
        machine_id: machine_id(&record.clone.name),
        host_keys: BTreeMap::new(),
    }
}

/// The copies that are made, with their sizes.
pub(super) fn copies(facts: &Facts, record: &RunFacts) -> Vec<storage::Pair> {
    let size = |name: &str| {
        let disk = facts.disks.iter().find(|disk| disk.disk.name == name);
        disk.and_then(|disk| disk.sized.as_ref()).map(|sized| sized.size)
    };
    record
        .copies()
        .map(|(disk, source, target)| storage::Pair { size: size(&disk.name), ..storage::Pair::new(source, target) })
        .collect()
}

/// Fresh swap space, for whoever of the two runs on the copies.
pub(super) fn swaps(record: &RunFacts, role: Role) -> Vec<PlanStep> {
    let fresh = |(_, like, target): (&RunDisk, &VolumeRef, &VolumeRef)| block::FreshSwap {
        host: record.host.clone(),
        like: like.clone(),
        target: target.clone(),
        role,
    };
    record.swaps().map(fresh).map(|step| PlanStep::new(Stage::Duplicate, step, 1.0)).collect()
}

/// A frozen guest thaws by itself after so long, in seconds, and so much more for each volume.
const THAWS_AFTER: (u32, u32) = (25, 5);

/// How the original's file systems can be held still, where a snapshot is of blocks and it runs meanwhile: whether its own
/// system can freeze them. `link`: the way into it now.
///
/// # Errors
/// The reason if it cannot; `None`: it is of no use here.
pub async fn freeze(facts: &Facts, strategy: Strategy, link: &GuestLink) -> Option<Result<Freeze, String>> {
    if facts.copying().ok()? == Copies::Trees || strategy == Strategy::Origin || facts.platform.power != Power::On {
        return None;
    }
    let volumes = u32::try_from(facts.cloned().count()).unwrap_or(u32::MAX);
    let freeze = Freeze {
        link: link.clone(),
        seconds: THAWS_AFTER.1.saturating_mul(volumes).saturating_add(THAWS_AFTER.0),
        skip: facts.detached().map(|disk| disk.disk.name.clone()).collect(),
    };
    let guest = match facts.hypervisor.guest(link) {
        Ok(guest) => guest,
        Err(error) => return Some(Err(error.to_string())),
    };
    Some(freeze.possible(&*guest).await.map(|_| freeze))
}

/// Copies at one instant, while production runs.
pub(super) fn duplicate(facts: &Facts, record: &RunFacts, freeze: Option<&Freeze>, role: Role) -> PlanStep {
    // Copies of nested or plain volumes are of one instant only if nothing is written meanwhile.
    let pause = facts.hypervisor.capabilities().can_pause;
    let pause_s: f64 = facts.cloned().filter_map(|(disk, _)| disk.facts.as_ref()).map(|seen| seen.pause_s).sum();
    let snapshot = storage::Snapshot {
        host: record.production_host().to_owned(),
        guest: facts.spec.name.clone(),
        pause,
        copies: copies(facts, record),
        role,
        freeze: freeze.map(|freeze| Freeze { link: record.original.clone(), ..freeze.clone() }),
    };
    PlanStep::new(Stage::Duplicate, snapshot, pause_s + 1.0)
}

/// The periodic check of ext file systems is switched off on volumes that are about to be started more often than usual.
/// Only where a volume is opened as a block device on the host; nothing may have it open. Promotion sets it as it was,
/// by [`fsck::Rearm`].
pub(super) fn disarm<'a>(host: &str, volumes: impl Iterator<Item = &'a VolumeRef>) -> Vec<PlanStep> {
    let block = |volume: &&VolumeRef| matches!(volume.kind, VolumeKind::LvmThick | VolumeKind::LvmThin);
    let step = |volume: &VolumeRef| fsck::Disarm { host: host.to_owned(), volume: volume.clone() };
    volumes.filter(block).map(|volume| PlanStep::new(Stage::Adapt, step(volume), 0.5)).collect()
}

/// The clone's files become its own.
fn adapt(facts: &Facts, record: &RunFacts, wishes: &CloneWishes, root: &VolumeRef) -> Result<Vec<PlanStep>, Failure> {
    let host = record.host.clone();
    let spec = clone_spec(facts, record, wishes);
    let tree = Tree::open(facts.root.path())?;
    let mut planned_spec = spec.clone();
    // The throw-away keys are made when the plan is carried out; what they replace is planned without them.
    planned_spec.host_keys = BTreeMap::new();
    let edits = guest::clone_edits(&tree, &planned_spec)?;
    let expected = files::expected(&edits);
    let diff = edits.iter().map(guest::diff).collect::<Vec<_>>().join("");
    let mut needles: Vec<String> = record.addressing.changes.iter().map(|change| change.old.to_string()).collect();
    needles.extend(spec.hostname.as_ref().filter(|new| **new != record.hostname).map(|_| record.hostname.clone()));
    let volume = root.clone();
    let rewrite = files::Rewrite { host: host.clone(), volume, spec, files: edits.len(), expected, diff, needles };
    let mut steps = vec![PlanStep::new(Stage::Adapt, rewrite, 1.0).undo(Undo::WithClone)];
    if !facts.queues.is_empty() {
        let aside = queues::SetAside { host, volume: root.clone() };
        steps.push(PlanStep::new(Stage::Adapt, aside, 1.0).undo(Undo::WithClone));
    }
    Ok(steps)
}

/// The baseline of the original, as it is before anything is upgraded.
pub(super) fn baseline(facts: &Facts, record: &RunFacts) -> PlanStep {
    let baseline =
        verify::TakeBaseline::new(record.production_host(), &record.original, &record.hostname, &facts.spec.checks);
    PlanStep::new(Stage::Settle, baseline, 5.0).undo(Undo::Nothing)
}

/// The clone is defined, started and waited for.
fn come_up(facts: &Facts, record: &RunFacts) -> Result<Vec<PlanStep>, Failure> {
    let (host, run) = (record.clone_host().to_owned(), &record.clone.name);
    let mut edit = DefinitionEdit {
        name: Some(run.clone()),
        uuid: Some(uuid(run)),
        mark: Some(Some(Mark { run: run.clone(), role: Role::Clone })),
        macs: record.addressing.by_card.clone(),
        addresses: record.addressing.changes.iter().map(|change| (change.old, change.new)).collect(),
        memory_bytes: facts.spec.clone.memory_bytes,
        ..DefinitionEdit::default()
    };
    edit.disks.extend(record.sides().map(|(disk, _, clone)| (disk.name.clone(), DiskEdit::Source(clone.clone()))));
    let left = record.disks.iter().filter(|disk| !record.sides().any(|(other, ..)| other.name == disk.name));
    edit.disks.extend(left.map(|disk| (disk.name.clone(), DiskEdit::Remove)));
    let definition = facts.clone_side.derive(&facts.definition, &edit)?;
    let boots = if facts.hypervisor.capabilities().shares_host_kernel { 8.0 } else { 80.0 };
    let define = domain::Define { host: host.clone(), definition, replaces: None, disks_before: BTreeMap::new() };
    let start = domain::Start { host: host.clone(), guest: run.clone(), patience_s: 20, force: true };
    let mut steps = vec![PlanStep::new(Stage::Define, define, 1.0), PlanStep::new(Stage::Start, start, 2.0)];
    // The original is asked while the clone boots; a whole machine that boots would disturb it, and it the answers.
    let at = if facts.hypervisor.capabilities().shares_host_kernel { steps.len() } else { 0 };
    steps.insert(at, baseline(facts, record));
    steps.extend(learnt(record));
    steps.push(PlanStep::new(Stage::Settle, settle(&host, &record.clone), boots).undo(Undo::Nothing));
    steps.extend(fenced(record));
    Ok(steps)
}

/// The plan, with `GUEST--RUN` for the run's id.
///
/// # Errors
/// If the guest's files or definition cannot be rewritten: place and remedy name them.
pub fn plan(facts: &Facts, record: &RunFacts, wishes: &CloneWishes) -> Result<(Plan, Page), Failure> {
    let name = &facts.spec.name;
    let hooks = Hooks::new(facts, record);
    let mut steps = hooks.before(Verb::Clone);
    if record.strategy == Strategy::InPlace {
        steps.extend(in_place::clone(facts, record, wishes.freeze.as_ref()));
    } else {
        let (_, root) = record.root().ok_or_else(|| {
            Failure::new(super::error::exit::REFUSED, format!("clone {name}")).cause("its root disk is not cloned")
        })?;
        let mut clone = adapt(facts, record, wishes, root)?;
        // After the clone's files were opened: by then its journal is replayed, which could bring old settings back.
        let copied = record.sides().filter(|(disk, ..)| disk.rule == DiskRule::Clone).map(|(.., clone)| clone);
        clone.extend(disarm(&record.host, copied).into_iter().map(|step| step.undo(Undo::WithClone)));
        clone.extend(placement::visible(record, record.clone_host(), record.sides().map(|(.., clone)| clone)));
        clone.extend(come_up(facts, record)?);
        if record.strategy == Strategy::Origin {
            steps.extend(origin::move_production(facts, record)?);
            // To take production back would be a second outage: from here on the run stays where it stopped.
            clone = clone.into_iter().map(|step| step.on_failure(OnFailure::Stop)).collect();
        } else {
            steps.push(duplicate(facts, record, wishes.freeze.as_ref(), Role::Clone));
            steps.extend(swaps(record, Role::Clone));
            steps.extend(hooks.with_volumes());
        }
        steps.extend(clone);
    }
    steps.extend(hooks.after(Verb::Clone));
    let outages = outages(&steps, name);
    let page = page(facts, record, &outages);
    let plan =
        Plan { failure_closes: true, ..record.plan("clone", [State::Cloning, State::Cloned, State::Aborted], steps) };
    Ok((plan, page))
}

fn page(facts: &Facts, record: &RunFacts, outages: &[Outage]) -> Page {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let mac = |index: usize| facts.platform.nics.get(index).and_then(|nic| nic.mac).map(|mac| mac.to_string());
    let new_mac = record.addressing.by_card.first().copied().flatten().map(|mac| mac.to_string());
    let memory = facts.spec.clone.memory_bytes.unwrap_or(facts.platform.memory_bytes);
    let hostname = facts.spec.clone.hostname.clone().map_or("hostname kept".into(), |name| format!("hostname {name}"));
    let mut page = Page::new(format!(
        "Clone {} by {} ({}, {}, {}).",
        facts.spec.name,
        super::strategy_word(record.strategy),
        record.production_host(),
        facts.hypervisor.platform(),
        facts.release,
    ));
    // The hosts stand there where they are not all the same.
    let placed = record.production_host() != record.host || record.clone_host() != record.host;
    let on = |host: &str| if placed { format!("on {host}, ") } else { String::new() };
    page.sides.push(vec![
        "original".into(),
        record.addressing.original.to_string(),
        mac(0).unwrap_or_default(),
        on(record.production_host())
            + match record.strategy {
                Strategy::Origin => "moves to the snapshot",
                Strategy::InPlace => "is upgraded itself; the snapshot leads back",
                _ => "keeps serving",
            },
    ]);
    if record.strategy != Strategy::InPlace {
        page.sides.push(vec![
            "clone".into(),
            record.addressing.shown(),
            new_mac.unwrap_or_default(),
            format!("{}{}, {hostname}", on(record.clone_host()), mib(memory)),
        ]);
    }
    for disk in &record.disks {
        let source = disk.source.as_ref().map(ToString::to_string).unwrap_or_default();
        let sized = facts.disks.iter().find(|seen| seen.disk.name == disk.name).and_then(|seen| seen.sized.as_ref());
        let becomes = match (disk.rule, sized) {
            (DiskRule::Clone, Some(sized)) => format!("snapshot, {}", sized.why),
            (DiskRule::Clone, None) => "copied".into(),
            (DiskRule::Swap, _) if record.strategy == Strategy::InPlace => "stays".into(),
            (DiskRule::Swap, _) => "fresh swap".into(),
            (DiskRule::Detach, _) if record.strategy == Strategy::InPlace => {
                "not snapshotted: keeps what is written".into()
            }
            (DiskRule::Detach, _) => "detached, out of the clone's fstab".into(),
        };
        page.disks.push(vec![disk.name.clone(), source, becomes]);
        let seen = facts.disks.iter().find(|seen| seen.disk.name == disk.name);
        let parts = seen.map(|seen| filesystems::shown(seen, &facts.placed)).unwrap_or_default();
        page.disks.extend(parts.into_iter().map(|(name, what)| vec![format!("  {name}"), what, String::new()]));
    }
    let off: Vec<&str> = facts.quarantine.units.iter().map(|unit| unit.unit.trim_end_matches(".service")).collect();
    if record.strategy == Strategy::InPlace {
        page.rows
            .push(Row::new("way back", "abort: the guest as it is now; what it writes from now on is lost with it"));
    } else {
        page.rows.push(Row::new("quarantine", if off.is_empty() { "nothing".into() } else { off.join(", ") }));
    }
    if record.fenced {
        let mut open = vec!["this controller".to_owned(), "its resolvers".to_owned()];
        open.extend(facts.apt_user.map(|_| "its package mirrors".to_owned()));
        open.extend(facts.spec.clone.allow.iter().cloned());
        page.rows.push(Row::new("fenced", format!("it reaches {} only", open.join(", "))));
    }
    if let Some(outage) = outages.first() {
        page.rows
            .push(Row::new("outage", format!("about {:.0} s, while {} moves", outage.expected_s, facts.spec.name)));
        page.rows.push(Row::new("way back", "abort: a second outage; what production writes is kept"));
        page.confirm = Some(facts.spec.name.clone());
    }
    page
}
