//! Steps on production that several verbs share: it is stopped, proven silent, started; and *folded*, back onto the volume
//! it was cloned from, by a merge. Pure.

use hypervisors::Definition;

use super::clone::settle;
use super::record::RunFacts;
use crate::engine::{OnFailure, PlanStep, Stage, Undo};
use crate::steps::{Action, block, domain, net, storage};

/// How long production may take to shut down, in seconds.
pub const PATIENCE_S: u64 = 180;

/// How long a merge may drain, in seconds.
const DRAIN_S: u64 = 7 * 24 * 3600;

/// A look between two steps: nothing of it is taken back, and its failure is worth a warning.
pub fn look(stage: Stage, action: impl Into<Action>, estimate_s: f64) -> PlanStep {
    PlanStep::new(stage, action, estimate_s).undo(Undo::Nothing).on_failure(OnFailure::Warn)
}

/// Nobody answers for production's addresses. `back_to`: on a way back, the guest that takes them again.
pub fn silent(record: &RunFacts, back_to: Option<String>) -> net::ProveSilent {
    net::ProveSilent {
        host: record.production_host().to_owned(),
        places: record.addressing.original_places.clone(),
        back_to,
        ours: record.addressing.by_card.iter().copied().flatten().collect(),
    }
}

/// Its autostart, set.
pub fn autostart(record: &RunFacts, on: bool) -> domain::Autostart {
    domain::Autostart { host: record.production_host().to_owned(), guest: record.original.name.clone(), on }
}

/// The way up after a stop: announced, and waited for. The outage ends when it lets us in.
pub fn up_again(record: &RunFacts, boots_s: f64) -> Vec<PlanStep> {
    let places = record.addressing.original_places.clone();
    vec![
        look(Stage::Start, net::Announce { host: record.production_host().to_owned(), places }, 0.1),
        look(Stage::Settle, settle(record.production_host(), &record.original), boots_s)
            .on_failure(OnFailure::Stop)
            .outage_ends(),
    ]
}

/// Production is stopped: the outage begins. Taken back, it is started as soon as nobody of ours answers in its place, and
/// until it lets us in again the way back is not done.
pub fn stop(record: &RunFacts) -> PlanStep {
    let name = &record.original.name;
    let stop = domain::Stop {
        host: record.production_host().to_owned(),
        guest: name.clone(),
        patience_s: PATIENCE_S,
        force: false,
        link: Some(record.original.clone()),
    };
    // Two owners would break both: this one is not only worth a warning.
    let proof = look(Stage::Fence, silent(record, Some(name.clone())), 0.5).on_failure(OnFailure::Stop);
    let boots_s = record.boot_s.unwrap_or(6.0);
    PlanStep::new(Stage::Fence, stop, 4.0).outage_begins().undone_between(vec![proof], up_again(record, boots_s))
}

/// Production is started.
pub fn start(record: &RunFacts) -> PlanStep {
    let start = domain::Start {
        host: record.production_host().to_owned(),
        guest: record.original.name.clone(),
        patience_s: PATIENCE_S,
        force: false,
    };
    PlanStep::new(Stage::Start, start, 1.0)
}

/// How production is folded.
pub struct Fold {
    /// The definition it has afterwards, and the SHA-256 of the one that stands there now; `None`: it stays as it is.
    pub definition: Option<(Definition, String)>,
    /// Whether it starts with its host afterwards.
    pub autostart: bool,
    /// Steps between its stop and the merge.
    pub before_merge: Vec<PlanStep>,
    /// Steps between the merge and its start: its volumes can be opened then.
    pub after_merge: Vec<PlanStep>,
    /// What proves that it serves again; the outage ends with the last.
    pub proofs: Vec<PlanStep>,
    /// What a failure before the merge means.
    pub before: OnFailure,
}

/// Production returns to the volumes it was cloned from, which become what the run's snapshots hold: stopped, merged
/// (irreversible from there), defined, started. The merge drains while it runs.
pub fn fold(record: &RunFacts, fold: Fold) -> Vec<PlanStep> {
    let host = &record.host;
    let merges: Vec<storage::Pair> =
        record.copies().map(|(_, origin, copy)| storage::Pair::new(origin, copy)).collect();
    let origins: Vec<_> = merges.iter().map(|pair| pair.source.clone()).collect();
    let both = merges.iter().flat_map(|pair| [pair.source.clone(), pair.target.clone()]).collect();
    let mut before = vec![PlanStep::new(Stage::Quiesce, autostart(record, false), 0.1), stop(record)];
    before.extend(fold.before_merge);
    let closed = block::ProveClosed { host: host.clone(), volumes: both };
    before.push(PlanStep::new(Stage::Quiesce, closed, 0.5).undo(Undo::Nothing));
    let mut steps: Vec<PlanStep> = before.into_iter().map(|step| step.on_failure(fold.before)).collect();

    let mut after = vec![PlanStep::new(Stage::Fold, block::Merge { host: host.clone(), merges }, 2.0).undo(Undo::None)];
    if let Some((definition, replaces)) = fold.definition {
        let define = domain::Define {
            host: record.production_host().to_owned(),
            definition,
            replaces: Some(replaces),
            disks_before: Default::default(),
        };
        after.push(PlanStep::new(Stage::Fold, define, 0.3));
    }
    after.extend(fold.after_merge);
    let proof = silent(record, Some(record.original.name.clone()));
    after.push(look(Stage::Fence, proof, 0.5));
    after.push(start(record));
    steps.extend(after.into_iter().map(|step| match step.on_failure {
        OnFailure::Warn => step,
        _ => step.on_failure(OnFailure::Stop),
    }));
    steps.extend(fold.proofs);
    let stays = |step: PlanStep| step.on_failure(OnFailure::Stop);
    steps.push(stays(PlanStep::new(Stage::Tidy, autostart(record, fold.autostart), 0.1)));
    let drained = block::Drained { host: host.clone(), origins, patience_s: DRAIN_S };
    steps.push(stays(PlanStep::new(Stage::Fold, drained, 60.0).undo(Undo::Nothing)));
    let swaps: Vec<_> = record.swaps().map(|(_, _, fresh)| fresh.clone()).collect();
    if !swaps.is_empty() {
        let remove = storage::RemoveVolumes { host: host.clone(), volumes: swaps };
        steps.push(stays(PlanStep::new(Stage::Tidy, remove, 1.0).undo(Undo::None)));
    }
    // What a promotion had marked as the original is production's own again.
    for volume in record.copies().chain(record.swaps()).map(|(_, original, _)| original.clone()) {
        let mark = storage::MarkVolume { host: host.clone(), volume, role: None };
        steps.push(stays(PlanStep::new(Stage::Tidy, mark, 0.1)));
    }
    steps
}
