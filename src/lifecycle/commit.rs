//! `commit`: the original goes, the promoted guest stays. The only verb that destroys the original.

use hypervisors::{DefinitionEdit, Hypervisor, VolumeRef};

use super::error::Failure;
use super::hooks::Hooks;
use super::page::{Page, Row};
use super::record::RunFacts;
use crate::engine::{OnFailure, Plan, PlanStep, Stage, Undo};
use crate::guest::Tree;
use crate::guest::queues::{self, Aside};
use crate::inventory::{GuestSpec, Verb};
use crate::steps::queues::Discard;
use crate::steps::{domain, sha256, storage};

/// The plan and its page.
///
/// # Errors
/// If the definition cannot be edited, or the promoted guest's files cannot be looked at.
pub async fn plan(
    spec: &GuestSpec,
    record: &RunFacts,
    hypervisor: &dyn Hypervisor,
    saved: Vec<VolumeRef>,
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
    if let Some(current) = hypervisor.definition(name).await? {
        let definition =
            hypervisor.derive(&current, &DefinitionEdit { mark: Some(None), ..DefinitionEdit::default() })?;
        if definition.text != current.text {
            let replaces = Some(sha256(current.text.as_bytes()));
            let define = domain::Define { host: host.clone(), definition, replaces };
            steps.push(forward(PlanStep::new(Stage::Tidy, define, 0.3)));
        }
    }
    if let Some((_, root)) = record.root() {
        let tree = Tree::open(&hypervisor.storage(root.kind)?.open(root).await?)?;
        if queues::is_set_aside(&tree, run)? != Aside::Absent {
            let discard = Discard { host: host.clone(), volume: root.clone() };
            let step = PlanStep::new(Stage::Tidy, discard, 1.0).undo(Undo::None);
            steps.push(step.on_failure(OnFailure::Warn));
        }
    }
    steps.extend(hooks.after(Verb::Commit));
    let mut page = Page::new(format!("Commit {}", record.clone.name));
    let gone: Vec<String> = originals.iter().map(ToString::to_string).collect();
    page.rows.push(Row::new("destroyed", format!("the original: {}", gone.join(", "))));
    page.rows.push(Row::new("outage", "none"));
    page.rows.push(Row::new("way back", "none: the old system is gone"));
    page.confirm = Some(name.clone());
    let plan = Plan {
        format: 1,
        run: record.clone.name.clone(),
        guest: name.clone(),
        verb: "commit".into(),
        strategy: super::strategy_word(record.strategy).into(),
        during: "committing".into(),
        done: "committed".into(),
        failed: "committing".into(),
        closes: true,
        failure_closes: false,
        undoes: None,
        outages: Vec::new(),
        steps,
    };
    Ok((plan, page))
}
