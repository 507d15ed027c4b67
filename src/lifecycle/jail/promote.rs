//! `promote` of a jail's clone: the original is stopped, and its definition points to the clone's tree. Production is down from the stop until the
//! promoted jail's checks have passed.
//!
//! Whether it starts with its host is left as it is: there is one definition of that name all the while, and one of the trees is its. If the host
//! goes down in between, it comes up on that tree. Before the promoted jail is started it is proven that it does not run on the other one; if it
//! does, the promotion is taken back.

use std::collections::BTreeMap;

use hypervisors::{Definition, DiskEdit, Role};

use super::{JailTree, both};
use crate::engine::{OnFailure, Plan, PlanStep, Stage, Undo, outages};
use crate::inventory::{CarryRule, GuestSpec, Verb};
use crate::lifecycle::clone::settle;
use crate::lifecycle::error::Failure;
use crate::lifecycle::hooks::Hooks;
use crate::lifecycle::page::{Page, Row};
use crate::lifecycle::production::{PATIENCE_S, look};
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::state::State;
use crate::lifecycle::transfer::promote::{way_back, what_comes_over};
use crate::steps::jail::between::{CarryBetween, ProveUnused, QueuesBetween, Trees};
use crate::steps::{Action, domain, storage};
use crate::verify::Side;

/// What promotion rests on, as it is now.
pub struct Now {
    /// The definition of the promoted jail, and the SHA-256 of the one that stands there.
    pub definition: (Definition, String),
    /// Queues that are brought over, relative to the root.
    pub queues: Vec<String>,
    /// What gives the clone its identity back.
    pub identity: Action,
}

/// The plan and its page. `number` counts the verifications.
///
/// # Errors
/// Nothing is remembered of its tree.
pub fn plan(spec: &GuestSpec, record: &RunFacts, now: Now, number: usize) -> Result<(Plan, Page), Failure> {
    let (name, host, clone) = (&spec.name, record.host.clone(), &record.clone.name);
    let (original, tree) = (both(record)?.0.clone(), JailTree::of(record)?);
    let trees = Trees {
        host: host.clone(),
        guest: name.clone(),
        original: original.path.clone(),
        clone: tree.root,
        scratch: tree.scratch,
    };
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Promote);
    let settled = || look(Stage::Settle, settle(&host, &record.clone), 5.0).clone_side();
    let stop = domain::Stop { host: host.clone(), guest: clone.clone(), patience_s: 60, force: true, link: None };
    steps.push(
        PlanStep::new(Stage::Fence, stop, 3.0)
            .clone_side()
            .undone_between(Vec::new(), vec![settled()])
            // A clone that was stopped is another one than was verified.
            .undone_to("upgraded"),
    );
    steps.push(PlanStep::new(Stage::Adopt, now.identity, 2.0).clone_side());
    let undefine = domain::Undefine { host: host.clone(), guest: clone.clone() };
    steps.push(PlanStep::new(Stage::Define, undefine, 0.5).clone_side());
    let carry = |last: bool| {
        let trees = trees.clone();
        spec.carry.iter().map(move |CarryRule::Rsync { path, exclude }| {
            let step = CarryBetween {
                trees: trees.clone(),
                path: path.to_string_lossy().trim_matches('/').to_owned(),
                exclude: exclude.clone(),
                through: (!last).then(|| record.original.clone()),
            };
            let stage = if last { Stage::FinalCarry } else { Stage::Carry };
            PlanStep::new(stage, step, if last { 1.0 } else { 5.0 }).undo(Undo::WithClone)
        })
    };
    steps.extend(carry(false).map(|step| step.on_failure(OnFailure::Warn)));
    let mark = storage::MarkVolume { host: host.clone(), volume: original.clone(), role: Some(Role::Original) };
    steps.push(PlanStep::new(Stage::Adopt, mark, 0.1));
    let outage_from = steps.len();
    let unused = |but| ProveUnused {
        host: host.clone(),
        addresses: record.addressing.original_places.iter().map(|place| place.address).collect(),
        but,
    };
    let stop = domain::Stop {
        host: host.clone(),
        guest: name.clone(),
        patience_s: PATIENCE_S,
        force: false,
        link: Some(record.original.clone()),
    };
    let now_stopped = look(Stage::Fence, stop.clone(), 1.0).on_failure(OnFailure::Stop);
    let back = Some((name.clone(), original.path.clone()));
    let proof = look(Stage::Fence, unused(back), 0.2).on_failure(OnFailure::Stop);
    let up = look(Stage::Settle, settle(&host, &record.original), 4.0).on_failure(OnFailure::Stop).outage_ends();
    steps.push(PlanStep::new(Stage::Fence, stop, 4.0).outage_begins().undone_between(vec![proof], vec![up]));
    steps.push(PlanStep::new(Stage::Fence, unused(None), 0.2).undo(Undo::Nothing));
    steps.extend(carry(true));
    if !now.queues.is_empty() {
        let queues = QueuesBetween { trees: trees.clone(), paths: now.queues.clone() };
        steps.push(PlanStep::new(Stage::FinalCarry, queues, 1.0));
    }
    let (definition, replaces) = now.definition;
    let disks = record.copies().map(|(disk, original, _)| (disk.name.clone(), DiskEdit::Source(original.clone())));
    let define = domain::Define {
        host: host.clone(),
        definition,
        replaces: Some(replaces),
        disks_before: disks.collect::<BTreeMap<_, _>>(),
    };
    // Whoever started it, it does not run on while its definition turns.
    steps.push(PlanStep::new(Stage::Define, define, 0.5).undone_between(vec![now_stopped], Vec::new()));
    let promoted = Some((name.clone(), trees.clone.clone()));
    steps.push(PlanStep::new(Stage::Fence, unused(promoted), 0.2).undo(Undo::Nothing));
    let start = domain::Start { host: host.clone(), guest: name.clone(), patience_s: 120, force: true };
    steps.push(PlanStep::new(Stage::Start, start, 5.0).goes_live());
    let checks = crate::lifecycle::verify::checks(spec, record, Side::Promoted, number);
    steps.push(
        PlanStep::new(Stage::Prove, checks, 5.0).undo(Undo::Nothing).on_failure(OnFailure::Unproven).outage_ends(),
    );
    let outage_s: f64 = steps[outage_from..].iter().map(|step| step.estimate_s).sum();
    steps.extend(hooks.after(Verb::Promote));
    debug_assert_eq!(outages(&steps, name).len(), 1);
    let page = page(spec, record, &original.path.display().to_string(), &now.queues, outage_s);
    Ok((record.plan("promote", [State::Promoting, State::Promoted, State::Verified], steps), page))
}

fn page(spec: &GuestSpec, record: &RunFacts, original: &str, queues: &[String], outage_s: f64) -> Page {
    let name = &record.original.name;
    let mut page = Page::new(format!("Promote {} to {name}", record.clone.name));
    if let Some(verification) = &record.verification {
        let text = format!("{}: {}", crate::lifecycle::local_time(verification.time), verification.summary);
        page.rows.push(Row::new("verified", text));
    }
    page.rows.push(Row::new("outage", format!("about {outage_s:.0} s")));
    page.rows.push(Row::new("the original", format!("is stopped, and kept at {original}")));
    what_comes_over(&mut page, &spec.carry, queues, &format!("{name} wrote since the clone was made"));
    way_back(&mut page, outage_s);
    page.rows.push(Row::new("commit", "no second outage; then the old system is gone"));
    page.confirm = Some(name.clone());
    page
}
