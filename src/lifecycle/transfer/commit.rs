//! `commit` of a transfer: the guest is the server from now on. The old machine is left as promotion left it, fenced.

use hypervisors::{Definition, DefinitionEdit, Hypervisor, Power};

use crate::engine::{OnFailure, Plan, PlanStep, Stage, Undo};
use crate::inventory::{GuestSpec, Verb};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::hooks::Hooks;
use crate::lifecycle::page::{Page, Row};
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::state::State;
use crate::steps::{Action, container, domain, jail, sha256};

/// The plan and its page.
///
/// # Errors
/// The promoted guest does not run: nothing is made final on the journal's word alone.
pub async fn plan(spec: &GuestSpec, record: &RunFacts, hypervisor: &dyn Hypervisor) -> Result<(Plan, Page), Failure> {
    let (name, run) = (&spec.name, record.transferred()?);
    let refuse = |why: String| {
        Failure::new(exit::REFUSED, format!("commit {name}"))
            .cause(why)
            .help(format!("look at it on {}, or upgradectl rollback {name}", record.host))
    };
    if hypervisor.power(name).await? != Power::On {
        return Err(refuse(format!("the guest {name} does not run")));
    }
    let now = hypervisor.definition(name).await?.ok_or_else(|| refuse(format!("{name} is not defined")))?;
    let unmarked: Definition =
        hypervisor.derive(&now, &DefinitionEdit { mark: Some(None), ..DefinitionEdit::default() })?;
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Commit);
    let define = domain::Define {
        host: record.host.clone(),
        replaces: Some(sha256(now.text.as_bytes())),
        definition: unmarked,
        disks_before: std::collections::BTreeMap::new(),
    };
    steps.push(PlanStep::new(Stage::Tidy, define, 0.5).undo(Undo::Nothing));
    let (host, scratch) = (record.host.clone(), run.scratch.clone());
    let keep: Action = match &run.container {
        Some(own) => container::KeepRoot { host, volume: own.volume.clone(), scratch }.into(),
        None => jail::KeepTree { host, run: record.clone.name.clone(), root: run.root.clone(), scratch }.into(),
    };
    steps.push(PlanStep::new(Stage::Tidy, keep, 0.5).undo(Undo::None));
    for step in &mut steps {
        step.on_failure = OnFailure::Stop;
    }
    steps.extend(hooks.after(Verb::Commit));
    let mut page = Page::new(format!("Commit {} as {name}", record.clone.name));
    let server = match &run.parking {
        Some(parking) => format!("stays as it is, without its services, at {}", parking.ip),
        None => "stays as it is, off the network".to_owned(),
    };
    page.rows.push(Row::new("the server", server));
    page.rows.push(Row::new("lost", "the way back to it by upgradectl"));
    page.rows.push(Row::new("outage", "none"));
    page.confirm = Some(name.clone());
    let plan =
        Plan { closes: true, ..record.plan("commit", [State::Committing, State::Committed, State::Promoted], steps) };
    Ok((plan, page))
}
