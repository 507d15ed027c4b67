//! `promote`: the clone takes the original's place. Production is down from the stop of the original until the
//! promoted guest's checks have passed, and only what must be inside that time is inside it.

use std::path::PathBuf;
use std::sync::Arc;

use hypervisors::storage::{Copies, SizePolicy};
use hypervisors::{Cause, Definition, DiskEdit, Hypervisor, Role, VolumeKind, VolumeRef};

use super::clone::{fenced, learnt, settle};
use super::error::{Failure, exit};
use super::hooks::Hooks;
use super::page::{Page, Row};
use super::placement;
use super::preflight::Findings;
use super::production::{self, look};
use super::record::RunFacts;
use super::state::State;
use crate::engine::{OnFailure, Plan, PlanStep, Stage, Undo};
use crate::guest::{self, FileEdit, Tree};
use crate::inventory::{CarryRule, GuestSpec, Strategy, Verb};
use crate::steps::{StepRef, adopt, block, carry, domain, files, fsck, left, net, queues, storage};
use crate::verify::Side;

/// What promotion rests on, as it is now.
pub struct Now {
    /// The definition of the promoted guest.
    pub definition: Definition,
    /// SHA-256 of the definition that stands there now; another one if ours was chosen over someone else's.
    pub replaces: String,
    /// Whether the original starts with its host.
    pub autostart: bool,
    /// What giving the identity back changes in the clone's files.
    pub restore: Vec<FileEdit>,
    /// Notes of it.
    pub notes: Vec<String>,
    /// Links of the root into detached data, as clone found them.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// The step that put the clone's identity on.
    pub rewrite: StepRef,
    /// Volumes of the clone whose periodic check was switched off, and the steps that did so.
    pub disarmed: Vec<(VolumeRef, StepRef)>,
    /// Files each carry rule would copy now.
    pub pending: Vec<(String, Option<u64>)>,
    /// Queues of the original, with their messages.
    pub queues: Vec<(String, u64)>,
    /// Snapshots that can be taken of detached data.
    pub saves: Vec<storage::Pair>,
    /// Undecided configuration files.
    pub conffiles: usize,
}

fn carries(spec: &GuestSpec, record: &RunFacts, last: bool) -> Vec<carry::Carry> {
    let Some((from, to)) = record.root() else { return Vec::new() };
    spec.carry
        .iter()
        .map(|CarryRule::Rsync { path, exclude }| carry::Carry {
            host: record.host.clone(),
            from: from.clone(),
            to: to.clone(),
            path: path.to_string_lossy().trim_matches('/').to_owned(),
            exclude: exclude.clone(),
            last,
            through: (!last && !from.kind.opens_under_a_guest()).then(|| record.original.clone()),
        })
        .collect()
}

/// The carry rules, for a look at what they would bring.
pub fn carry_rules(spec: &GuestSpec, record: &RunFacts) -> Vec<carry::Carry> {
    carries(spec, record, false)
}

/// The way up of a clone that was stopped: found, waited for, and seen to be fenced again, if it is.
fn clone_up_again(record: &RunFacts) -> Vec<PlanStep> {
    let settled = look(Stage::Settle, settle(record.clone_host(), &record.clone), 8.0);
    let steps = learnt(record).into_iter().chain([settled]).chain(fenced(record));
    steps.map(|step| step.on_failure(OnFailure::Warn).clone_side()).collect()
}

/// Where a snapshot of detached data goes.
fn saved(source: &VolumeRef, run: &str, disk: &str) -> VolumeRef {
    let word = disk.trim_matches('/').replace('/', "-");
    let directory = source.path.parent().unwrap_or(std::path::Path::new("/"));
    VolumeRef { kind: source.kind, path: directory.join(format!("{run}-{word}.saved")) }
}

/// The snapshots that can be taken of detached data: where copying is cheap, and where there is room for what cannot fill.
///
/// # Errors
/// The host's storage cannot be looked at.
pub async fn saves(record: &RunFacts, hypervisor: &dyn Hypervisor) -> Result<Vec<storage::Pair>, Failure> {
    let mut saves = Vec::new();
    let mut taken = 0;
    for (disk, source) in record.detached().filter(|(_, source)| source.kind != VolumeKind::Directory) {
        let storage = hypervisor.storage(source.kind)?;
        let Some(facts) = storage.inspect(source).await? else { continue };
        let sized = match storage.size_snapshot(source, Some(SizePolicy::Covering)).await {
            Err(error) if matches!(error.cause, Cause::Refused(_)) => continue,
            sized => sized?,
        };
        let bytes = sized.as_ref().map_or(0, |sized| sized.bytes);
        let nested =
            facts.block.as_ref().is_some_and(|block| block.origin.is_some() && storage.copies() == Copies::Dependents);
        if nested || (sized.is_some() && taken + bytes > facts.free_bytes) {
            continue;
        }
        taken += bytes;
        let size = sized.map(|sized| sized.size);
        let target = saved(source, &record.clone.name, &disk.name);
        saves.push(storage::Pair { size, ..storage::Pair::new(source, &target) });
    }
    Ok(saves)
}

/// The plan and its page.
///
/// # Errors
/// If the definition cannot be edited.
pub fn plan(
    spec: &GuestSpec,
    record: &RunFacts,
    hypervisor: &Arc<dyn Hypervisor>,
    now: &Now,
    number: usize,
    findings: &mut Findings,
) -> Result<(Plan, Page), Failure> {
    let name = &spec.name;
    let run = &record.clone.name;
    let host = record.host.clone();
    let (production_host, clone_host) = (record.production_host().to_owned(), record.clone_host().to_owned());
    let (old_root, new_root) =
        record.root().ok_or_else(|| Failure::new(exit::REFUSED, format!("promote {run}")).cause("no root volume"))?;
    let carry_first = carries(spec, record, false);
    let carry_last = carries(spec, record, true);
    let disks_before =
        record.sides().map(|(disk, production, _)| (disk.name.clone(), DiskEdit::Source(production.clone()))).collect();
    let boots = record.boot_s.unwrap_or(if hypervisor.capabilities().shares_host_kernel { 6.0 } else { 80.0 });
    let expected = files::expected(&now.restore);
    let diff = now.restore.iter().map(guest::diff).collect::<Vec<_>>().join("");

    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Promote);
    // A device cannot be written to from outside while a guest runs on it: there the clone is stopped first, and what is
    // carried in advance only shortens the outage.
    let early = new_root.kind.opens_under_a_guest();
    let mut carry_first: Vec<PlanStep> =
        carry_first.into_iter().map(|rule| PlanStep::new(Stage::Carry, rule, 3.0).undo(Undo::WithClone)).collect();
    if early {
        steps.append(&mut carry_first);
    }
    steps.push(
        PlanStep::new(
            Stage::Fence,
            domain::Stop { host: clone_host.clone(), guest: run.clone(), patience_s: 60, force: true, link: None },
            4.0,
        )
        .clone_side()
        .undone_between(Vec::new(), clone_up_again(record))
        // A clone that was stopped is another one than was verified.
        .undone_to("upgraded"),
    );
    steps.extend(carry_first.into_iter().map(|step| step.on_failure(OnFailure::Warn)));
    steps.push(
        PlanStep::new(
            Stage::Adopt,
            files::Restore { host: host.clone(), volume: new_root.clone(), rewrite: now.rewrite, expected, diff },
            1.0,
        )
        .clone_side(),
    );
    if !now.links.is_empty() {
        let relink = adopt::Relink { host: host.clone(), volume: new_root.clone(), links: now.links.clone() };
        steps.push(PlanStep::new(Stage::Adopt, relink, 0.1).clone_side());
    }
    for (volume, disarmed) in &now.disarmed {
        let rearm = fsck::Rearm { host: host.clone(), volume: volume.clone(), disarmed: *disarmed };
        steps.push(PlanStep::new(Stage::Adopt, rearm, 1.0).clone_side());
    }
    steps.push(
        PlanStep::new(Stage::Define, domain::Undefine { host: clone_host, guest: run.clone() }, 1.0).clone_side(),
    );
    // Before the outage begins: production's host may be another than the clone's.
    steps.extend(placement::visible(record, record.production_host(), record.sides().map(|(.., clone)| clone)));
    let copies: Vec<VolumeRef> = record.copies().map(|(_, _, copy)| copy.clone()).collect();
    if record.strategy == Strategy::Snapshot && record.copying != Copies::Trees {
        let secure = block::Secure { host: host.clone(), volumes: copies };
        steps.push(PlanStep::new(Stage::Adopt, secure, 2.0).undo(Undo::Nothing));
    }
    for (_, production, clone) in record.sides() {
        let mark = |volume: &VolumeRef, role| storage::MarkVolume { host: host.clone(), volume: volume.clone(), role };
        // By strategy `origin` the clone's volumes are production's old ones, which never bear a mark.
        if record.strategy == Strategy::Snapshot {
            steps.push(PlanStep::new(Stage::Adopt, mark(clone, Some(Role::Production)), 0.1));
        }
        steps.push(PlanStep::new(Stage::Adopt, mark(production, Some(Role::Original)), 0.1));
    }
    steps.push(PlanStep::new(Stage::Fence, production::autostart(record, false), 0.1));
    let outage_from = steps.len();
    steps.push(production::stop(record));
    steps.push(PlanStep::new(Stage::Fence, production::silent(record, None), 0.5).undo(Undo::Nothing));
    if !old_root.kind.opens_under_a_guest() {
        let replayed = left::Replayed { host: host.clone(), volume: old_root.clone() };
        steps.push(PlanStep::new(Stage::FinalCarry, replayed, 0.0).temporary().undo_late());
    }
    for rule in carry_last {
        steps.push(PlanStep::new(Stage::FinalCarry, rule, 1.0).undo(Undo::WithClone));
    }
    let restamp = adopt::Restamp { host: host.clone(), from: old_root.clone(), to: new_root.clone() };
    steps.push(PlanStep::new(Stage::FinalCarry, restamp, 0.1).undo(Undo::WithClone));
    if !now.queues.is_empty() {
        let mirror = queues::Mirror { host: host.clone(), from: old_root.clone(), to: new_root.clone() };
        steps.push(PlanStep::new(Stage::FinalCarry, mirror, 0.2).clone_side());
        let back = queues::Return {
            host: production_host.clone(),
            guest: name.clone(),
            promoted: new_root.clone(),
            original: old_root.clone(),
        };
        steps.push(PlanStep::new(Stage::FinalCarry, back, 0.1));
    }
    if !now.saves.is_empty() {
        let snapshot = storage::Snapshot {
            host: production_host.clone(),
            guest: name.clone(),
            pause: false,
            copies: now.saves.clone(),
            role: Role::Detached,
            freeze: None,
        };
        steps.push(PlanStep::new(Stage::FinalCarry, snapshot, 0.2).undo_late());
    }
    steps.push(PlanStep::new(
        Stage::Define,
        domain::Define {
            host: production_host.clone(),
            replaces: Some(now.replaces.clone()),
            definition: now.definition.clone(),
            disks_before,
        },
        0.3,
    ));
    steps.push(production::start(record).goes_live());
    let live = |step: PlanStep| step.undo(Undo::Nothing).on_failure(OnFailure::Unproven);
    steps.push(live(PlanStep::new(
        Stage::Start,
        net::Announce { host: production_host, places: record.addressing.original_places.clone() },
        0.1,
    )));
    let checks = super::verify::checks(spec, record, Side::Promoted, number);
    steps.push(live(PlanStep::new(Stage::Prove, checks, boots)).outage_ends());
    let outage_s: f64 = steps[outage_from..].iter().map(|step| step.estimate_s).sum();
    steps.push(
        PlanStep::new(Stage::Prove, production::autostart(record, now.autostart), 0.1).on_failure(OnFailure::Unproven),
    );
    steps.extend(hooks.after(Verb::Promote));

    let plan = record.plan("promote", [State::Promoting, State::Promoted, State::Verified], steps);
    for note in &now.notes {
        findings.warn("identity", note.clone());
    }
    for (disk, source) in record.detached() {
        if !now.saves.iter().any(|pair| pair.source == *source) {
            findings.warn("detached", format!("{} cannot be snapshotted: rollback keeps its new writes", disk.name));
        }
    }
    Ok((plan, page(record, now, outage_s)))
}

fn page(record: &RunFacts, now: &Now, outage_s: f64) -> Page {
    let name = &record.original.name;
    let mut page = Page::new(format!("Promote {} to {name}", record.clone.name));
    if let Some(verification) = &record.verification {
        page.rows
            .push(Row::new("verified", format!("{}: {}", super::local_time(verification.time), verification.summary)));
    }
    page.rows.push(Row::new("outage", format!("about {outage_s:.0} s")));
    let mut carried: Vec<String> = now
        .pending
        .iter()
        .map(|(path, files)| match files {
            Some(files) => format!("{path} ({files} changes so far)"),
            None => path.clone(),
        })
        .collect();
    carried.extend(now.queues.iter().map(|(service, messages)| format!("{service}'s queue ({messages} so far)")));
    if !carried.is_empty() {
        page.rows.push(Row::new("carried", carried.join(", ")));
    }
    let since = record.disks.iter().find(|disk| disk.root).map(|_| "the clone was made").unwrap_or_default();
    page.rows.push(Row::new("left behind", format!("all else that {name} wrote since {since}")));
    for (disk, source) in record.detached() {
        let is_saved = now.saves.iter().any(|pair| pair.source == *source);
        let back = if is_saved { "keeps its new writes, or restores it" } else { "keeps its new writes" };
        let text = format!("{} ({source}), shared with the original: rollback {back}", disk.name);
        page.rows.push(Row::new("attached", text));
    }
    if now.conffiles > 0 {
        page.rows.push(Row::new(
            "conffiles",
            format!("{} kept, undecided (upgradectl conffiles list {name})", now.conffiles),
        ));
    }
    page.rows.push(Row::new(
        "way back",
        format!("rollback, about {outage_s:.0} s; what the clone itself got since is lost"),
    ));
    let fold = record.strategy == Strategy::Snapshot && record.copying == Copies::Dependents;
    page.rows.push(Row::new(
        "commit",
        if fold {
            format!("needs a second outage of about {outage_s:.0} s; then the old system is gone")
        } else {
            "no second outage; then the old system is gone".to_owned()
        },
    ));
    page.confirm = Some(name.clone());
    page
}

/// Looks at the clone's files for what giving the identity back will change.
///
/// # Errors
/// [`crate::guest::GuestError::Ambiguous`] where the upgrade and production disagree.
pub fn restoration(root: &Tree, recorded: &[FileEdit]) -> Result<guest::restore::Restored, Failure> {
    Ok(guest::restore::restore_edits(root, recorded)?)
}
