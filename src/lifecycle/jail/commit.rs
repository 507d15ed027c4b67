//! `commit` of a jail: its clone is made independent of the original, which goes.

use std::collections::BTreeMap;

use hypervisors::storage::zfs;
use hypervisors::{DefinitionEdit, Hypervisor, Power};

use super::{JailTree, both};
use crate::engine::{OnFailure, Plan, PlanStep, Stage, Undo};
use crate::inventory::{GuestSpec, Verb};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::hooks::Hooks;
use crate::lifecycle::page::{Page, Row};
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::state::State;
use crate::steps::{domain, jail, sha256, storage};

/// The plan and its page.
///
/// # Errors
/// The promoted jail does not run; something else lives by the original.
pub async fn plan(spec: &GuestSpec, record: &RunFacts, hypervisor: &dyn Hypervisor) -> Result<(Plan, Page), Failure> {
    let (name, host) = (&spec.name, record.host.clone());
    let (original, tree) = (both(record)?.0.clone(), JailTree::of(record)?);
    let refuse =
        |why: String, help: String| Failure::new(exit::REFUSED, format!("commit {name}")).cause(why).help(help);
    let look = || format!("look at it on {host}, or upgradectl rollback {name}");
    if hypervisor.power(name).await? != Power::On {
        return Err(refuse(format!("the jail {name} does not run"), look()));
    }
    let now = hypervisor.definition(name).await?.ok_or_else(|| refuse(format!("{name} is not defined"), look()))?;
    let (there, run) = (hypervisor.host(), &record.clone.name);
    let dataset = zfs::at(&*there, &original.path).await?.ok_or_else(|| {
        refuse(format!("{} is no dataset any more", original.path.display()), format!("look at it on {host}: zfs list"))
    })?;
    let others = zfs::in_the_way(&*there, &dataset).await?;
    if let Some(other) = others.iter().find(|other| other.mountpoint != tree.root) {
        return Err(refuse(
            match &other.origin {
                Some(origin) => format!("{} lives by {origin}, which would go with the original", other.name),
                None => format!("{} is a dataset within the original, and would go with it", other.name),
            },
            match &other.origin {
                Some(_) => format!("on {host}: zfs promote {0}, or zfs destroy {0}", other.name),
                None => format!("on {host}: zfs rename {}, out of it", other.name),
            },
        ));
    }
    // Older ones become the clone's, which is promoted.
    let snapshots = zfs::snapshots(&*there, &dataset).await?;
    let younger: Vec<String> = snapshots.into_iter().skip_while(|name| name != run).skip(1).collect();

    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Commit);
    let edit = DefinitionEdit { mark: Some(None), ..DefinitionEdit::default() };
    let unmarked = hypervisor.redefined(&now, &edit).await?;
    let define = domain::Define {
        host: host.clone(),
        replaces: Some(sha256(now.text.as_bytes())),
        definition: unmarked,
        disks_before: BTreeMap::new(),
    };
    steps.push(PlanStep::new(Stage::Tidy, define, 0.5).undo(Undo::Nothing));
    let remove = storage::RemoveVolumes { host: host.clone(), volumes: vec![original] };
    steps.push(PlanStep::new(Stage::Fold, remove, 2.0).undo(Undo::None));
    let keep = jail::KeepTree { host, run: run.clone(), root: tree.root, scratch: tree.scratch };
    steps.push(PlanStep::new(Stage::Tidy, keep, 0.5).undo(Undo::None));
    for step in &mut steps {
        step.on_failure = OnFailure::Stop;
    }
    steps.extend(hooks.after(Verb::Commit));
    let mut page = Page::new(format!("Commit {run} as {name}"));
    page.rows.push(Row::new("destroyed", format!("the original: {}", dataset.name)));
    if !younger.is_empty() {
        let names: Vec<String> = younger.iter().map(|name| format!("{}@{name}", dataset.name)).collect();
        page.rows.push(Row::new("with it", format!("its snapshots since the clone was made: {}", names.join(", "))));
    }
    page.rows.push(Row::new("outage", "none"));
    page.confirm = Some(name.clone());
    let plan =
        Plan { closes: true, ..record.plan("commit", [State::Committing, State::Committed, State::Promoted], steps) };
    Ok((plan, page))
}
