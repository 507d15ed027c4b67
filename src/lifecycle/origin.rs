//! Strategy `origin`, the way of the seed report: production moves to the snapshot in a short outage, and the clone is
//! upgraded on the volume production had. After promotion nothing has to be merged; a way back from before it has to.
//!
//! Until production's start on the snapshot nothing is lost by simply removing the snapshot; from then on it holds what
//! production writes, and the only way back is the merge ([`production::fold`]).

use hypervisors::{Definition, DefinitionEdit, DiskEdit, Mark, Role};

use super::back::{Past, discard_aside};
use super::clone;
use super::detached::{Saved, drained, what_is_kept};
use super::error::Failure;
use super::facts::Facts;
use super::hooks::Hooks;
use super::page::{Page, Row};
use super::placement;
use super::production::{self, Fold};
use super::record::RunFacts;
use super::state::State;
use crate::engine::{OnFailure, Op, Plan, PlanStep, Stage, outages, undo_steps};
use crate::inventory::{GuestSpec, Strategy, Verb};
use crate::steps::{Action, domain, sha256, storage};

/// Production moves to snapshots of its disks, with fresh swap space.
///
/// # Errors
/// If its definition cannot be edited.
pub(super) fn move_production(facts: &Facts, record: &RunFacts) -> Result<Vec<PlanStep>, Failure> {
    let host = record.production_host();
    let mut edit = DefinitionEdit {
        mark: Some(Some(Mark { run: record.clone.name.clone(), role: Role::Production })),
        ..DefinitionEdit::default()
    };
    edit.disks.extend(record.sides().map(|(disk, to, _)| (disk.name.clone(), DiskEdit::Source(to.clone()))));
    let disks_before =
        record.sides().map(|(disk, _, from)| (disk.name.clone(), DiskEdit::Source(from.clone()))).collect();
    let snapshot = storage::Snapshot {
        host: host.to_owned(),
        guest: facts.spec.name.clone(),
        pause: false,
        copies: clone::copies(facts, record),
        role: Role::Production,
        freeze: None,
    };
    let define = domain::Define {
        host: host.to_owned(),
        definition: facts.hypervisor.derive(&facts.definition, &edit)?,
        replaces: Some(sha256(facts.definition.text.as_bytes())),
        disks_before,
    };
    let boots_s = if facts.hypervisor.capabilities().shares_host_kernel { 6.0 } else { 80.0 };
    // Swap space needs nothing of what production leaves: it is made while production is still up.
    let mut steps = clone::swaps(record, Role::Production);
    steps.push(PlanStep::new(Stage::Quiesce, production::autostart(record, false), 0.1));
    steps.push(production::stop(record));
    steps.push(PlanStep::new(Stage::Duplicate, snapshot, 1.0));
    steps.extend(Hooks::new(facts, record).with_volumes());
    // It was shut down: nothing is left to be replayed.
    steps.extend(clone::disarm(&record.host, record.copies().map(|(_, _, copy)| copy)));
    steps.extend(placement::visible(record, record.production_host(), record.sides().map(|(_, to, _)| to)));
    steps.push(PlanStep::new(Stage::Define, define, 0.3));
    steps.push(production::start(record).goes_live());
    steps.extend(production::up_again(record, boots_s));
    let autostart = production::autostart(record, facts.platform.autostart);
    steps.push(PlanStep::new(Stage::Start, autostart, 0.1).on_failure(OnFailure::Stop));
    Ok(steps)
}

/// What a way back by a merge rests on, as it is now.
pub struct Now {
    /// The definition production has afterwards, and the SHA-256 of the one that stands there now.
    pub definition: Option<(Definition, String)>,
    /// Whether production starts with its host afterwards.
    pub autostart: bool,
}

/// Whether production was moved, or may have been: its start on the snapshot was begun and not taken back.
pub fn moved(pasts: &[Past]) -> bool {
    pasts.iter().any(|past| past.plan.verb == "clone" && past.plan.undoes.is_none() && past.live())
}

/// `abort` by a merge: production keeps what it wrote (it is in the snapshot), the clone's upgrade goes. `None` if something
/// irreversible was begun. `restore`: detached data that goes back to what it was at promotion.
pub fn abort(
    spec: &GuestSpec,
    record: &RunFacts,
    pasts: &[Past],
    now: &Now,
    restore: &[Saved],
) -> Option<(Plan, Page)> {
    let hooks = Hooks::of(spec, record);
    let name = &spec.name;
    let in_place = record.strategy == Strategy::InPlace;
    let (mut first, mut inside, mut last) = (Vec::new(), Vec::new(), Vec::new());
    let mut promoted = false;
    // An abort that was cut short is planned again whole: what it did needs no undoing.
    for past in pasts.iter().rev().filter(|past| past.plan.verb != "abort") {
        promoted |= past.plan.verb == "promote" && past.live();
        for step in undo_steps(past.id, &past.plan, &past.histories)?.into_iter().filter(|step| !step.clone_side) {
            let Op::Undo(at, action) = &step.op else { continue };
            match action {
                // What came with the volumes has to let go of them.
                Action::Hook(_) if past.plan.steps[at.index].stage == Stage::Duplicate => inside.push(step),
                // What is merged is what the snapshot holds then; production has it open until it is stopped.
                Action::Return(_) | Action::DisarmFsck(_) => inside.push(step),
                Action::Hook(_) => last.push(step),
                Action::Snapshot(made) if made.role == Role::Detached => last.push(step),
                // Production and what it stands on: that is what folding is.
                Action::Snapshot(_) | Action::FreshSwap(_) | Action::MarkVolume(_) | Action::Autostart(_) => {}
                Action::Define(define) if define.definition.name == *name => {}
                Action::Start(start) if start.guest == *name => {}
                Action::Stop(stop) if stop.guest == *name => {}
                _ => first.push(step),
            }
        }
    }
    inside.extend(restore.iter().map(|saved| saved.step(record)));
    let (let_go, take_up) = hooks.around_merge();
    inside.extend(let_go);
    let mut steps = hooks.before(Verb::Abort);
    steps.extend(first);
    steps.extend(production::fold(
        record,
        Fold {
            definition: now.definition.clone(),
            autostart: now.autostart,
            before_merge: inside,
            after_merge: record
                .copies()
                .find(|(disk, ..)| disk.root)
                .and_then(|(_, root, _)| discard_aside(record, pasts, root, false))
                .into_iter()
                .chain(take_up)
                .collect(),
            proofs: production::up_again(record, record.boot_s.unwrap_or(6.0)),
            before: OnFailure::Stop,
        },
    ));
    steps.extend(drained(last, record, restore));
    steps.extend(hooks.after(Verb::Abort));
    let outages = outages(&steps, name);

    let mut page = Page::new(format!("Abort {}", record.clone.name));
    page.rows.push(Row::new("removed", format!("{} and all that was upgraded", record.clone.name)));
    let outage = outages.first().map_or(0.0, |outage| outage.expected_s);
    page.rows.push(Row::new("outage", format!("about {outage:.0} s, while the snapshot is merged back")));
    let wrote = format!("what {name} wrote to its own disks since it was");
    page.rows.push(match (in_place, promoted) {
        (true, _) => Row::new("lost", format!("what {name} wrote to its own disks since clone, the upgrade included")),
        (false, true) => Row::new("lost", format!("{wrote} promoted")),
        (false, false) => Row::new("kept", format!("{wrote} cloned")),
    });
    if promoted {
        page.rows.extend(what_is_kept(record, restore));
    }
    page.rows.push(Row::new("way back", "none once the merge has begun"));
    page.confirm = Some(name.clone());
    let plan = Plan {
        closes: true,
        undoes: pasts.first().map(|past| past.id),
        ..record.plan("abort", [State::Aborting, State::Aborted, State::Aborting], steps)
    };
    Some((plan, page))
}
