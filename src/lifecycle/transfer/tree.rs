//! What is done to a jail's tree: how the server's file systems come into it, what a jail does not need of them, the base system.

use std::path::Path;
use std::sync::Arc;

use hypervisors::Hypervisor;
use hypervisors::host::job;
use hypervisors::transfer::snap::Snap;
use hypervisors::transfer::{Dialect, compressions};

use super::{Facts, world};
use crate::engine::{Op, PlanStep, Stage};
use crate::guest::freebsd::JailSpec;
use crate::inventory::{GuestSpec, Recipe};
use crate::lifecycle::back::Past;
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::jail::JailTree;
use crate::lifecycle::preflight::{Finding, Findings, recipe_finding};
use crate::lifecycle::record::RunFacts;
use crate::steps::{Action, StepError, StepRef, World, reduce, transfer};

/// Bytes a second that a copy is expected to make.
const RATE: f64 = 30e6;

/// How the file systems go over, the root first, the others together; and what becomes of them there.
///
/// # Errors
/// A machine cannot be asked.
pub async fn steps(facts: &Facts, record: &RunFacts) -> Result<Steps, Failure> {
    let run = record.transferred()?;
    let method = facts.method();
    let dialect = match (facts.source.dump, method) {
        (Some(dialect), _) => dialect,
        (None, transfer::Method::Rsync) => Dialect::of(facts.source.system, "", ""),
        (None, transfer::Method::Dump) => return Err(Failure::new(exit::REFUSED, "find dump on the server")),
    };
    let moved: Vec<transfer::Moved> = facts
        .moved()
        .iter()
        .filter_map(|point| facts.source.filesystems.iter().find(|one| one.mount == *point))
        .map(|one| transfer::Moved {
            mount: one.mount.clone(),
            device: one.device.clone(),
            used_bytes: one.used_bytes,
            snapshot: dialect.snapshot && matches!(one.snap, Snap::Directory | Snap::Missing),
        })
        .collect();
    let theirs = compressions(&*facts.hypervisor.host()).await?;
    let compression =
        facts.declared.compress.then(|| facts.source.compressions.iter().find(|one| theirs.contains(one)).copied());
    let step = |filesystems: Vec<transfer::Moved>| transfer::Transfer {
        host: record.host.clone(),
        source: record.original.clone(),
        run: record.clone.name.clone(),
        root: run.root.clone(),
        scratch: run.scratch.clone(),
        dialect,
        method,
        filesystems,
        apart: match method {
            transfer::Method::Dump => Vec::new(),
            transfer::Method::Rsync => facts.source.filesystems.iter().map(|one| one.mount.clone()).collect(),
        },
        level: 0,
        keeps_symtable: false,
        compression: compression.flatten(),
        bandwidth: facts.declared.bandwidth,
        patience_s: 3 * 24 * 3600,
    };
    let rate = facts.declared.bandwidth.map_or(RATE, |limit| RATE.min(limit as f64));
    let (root, others): (Vec<_>, Vec<_>) = moved.into_iter().partition(|one| one.mount == Path::new("/"));
    let moves = [root, others].into_iter().filter(|some| !some.is_empty()).map(|some| {
        let bytes: u64 = some.iter().map(|one| one.used_bytes).sum();
        PlanStep::new(Stage::Duplicate, step(some), bytes as f64 / rate + 2.0)
    });
    if run.container.is_some() {
        let (adapts, held) = super::container::adapts(facts, record)?;
        return Ok(Steps { moves: moves.collect(), adapts, held });
    }
    let spec = JailSpec {
        addresses: record.addressing.changes.clone(),
        hostname: facts.spec.clone.hostname.clone(),
        quarantine: facts.spec.quarantine.off.clone(),
        ..JailSpec::default()
    };
    // On the server as it is: what differs in its copy, because it changed meanwhile, stops the step.
    let reduced = reduce::reduced(&*facts.server, Path::new("/"), &spec).await.map_err(told)?;
    let prune = reduce::Prune {
        host: record.host.clone(),
        root: run.root.clone(),
        scratch: run.scratch.clone(),
        paths: reduce::prune_paths(facts.declared.prune.as_deref(), &facts.moved()),
        mount_points: reduce::MOUNT_POINTS.map(str::to_owned).to_vec(),
    };
    let adapts = vec![
        PlanStep::new(Stage::Adapt, prune, 10.0),
        PlanStep::new(Stage::Adapt, reduce::Reduce::planned(&record.host, run.root.clone(), spec, &reduced), 3.0),
    ];
    let held = reduced.held.iter().map(|held| held.unit.clone()).collect();
    Ok(Steps { moves: moves.collect(), adapts, held })
}

/// How a server becomes a jail's tree.
pub struct Steps {
    /// Its file systems go over.
    pub moves: Vec<PlanStep>,
    /// What a jail does not need goes.
    pub adapts: Vec<PlanStep>,
    /// Services in quarantine.
    pub held: Vec<String>,
}

pub(in crate::lifecycle) fn told(error: StepError) -> Failure {
    let failure = Failure::new(exit::REFUSED, "read the server's configuration").cause(error.to_string());
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// The upgrade of a jail's base system.
#[derive(Default)]
pub struct BaseSystem {
    /// The recipe's steps.
    pub steps: Vec<PlanStep>,
    /// What was looked at for it.
    pub findings: Vec<Finding>,
    /// From which release to which, as far as that can be told.
    pub way: Option<String>,
}

/// The upgrade of the base system by the guest's recipe. Without a recipe there is none.
///
/// # Errors
/// The host cannot be asked.
pub async fn upgrade(
    spec: &GuestSpec,
    record: &RunFacts,
    hypervisor: &Arc<dyn Hypervisor>,
    number: usize,
) -> Result<BaseSystem, Failure> {
    let tree = JailTree::of(record)?;
    let Some(Recipe::FreebsdWorld(recipe)) = spec.upgrade.as_ref().map(|upgrade| &upgrade.recipe) else {
        return Ok(BaseSystem::default());
    };
    let host = hypervisor.host();
    let (facts, found) = world::preflight(&*host, &tree.root, &tree.scratch, recipe).await?;
    let name = &record.clone.name;
    let word = job::word(name);
    let mut findings: Vec<Finding> = found.into_iter().map(recipe_finding).collect();
    findings.extend(at_work(&job::running(&*host, Path::new(job::DIRECTORY), &format!("{word}-")).await?, record));
    let job = |what: &str| format!("{word}-{number}-{what}");
    let steps = world::steps(&record.host, name, &tree.root, &tree.scratch, recipe, &facts, &job);
    let way = facts.target(&world::wanted(recipe).method).map(|to| match &facts.tree.release {
        Some(from) => format!("{from} to {to}"),
        None => format!("to {to}"),
    });
    Ok(BaseSystem { steps, findings, way })
}

/// Work of an attempt that was interrupted goes on by itself: two at once would spoil the tree.
fn at_work(running: &[String], record: &RunFacts) -> Option<Finding> {
    let mut findings = Findings::default();
    let guest = &record.original.name;
    findings.refuse(
        "at_work",
        format!("an earlier attempt is still at work on {}: {}", record.host, running.join(", ")),
        format!("upgradectl resume {guest} goes on with it; upgradectl abort {guest} ends it"),
    );
    findings.0.pop().filter(|_| !running.is_empty())
}

/// What gives the jail its original's identity, and what is to be told of it.
///
/// # Errors
/// The clone's own changes are not in the journal; the upgrade and they disagree.
pub async fn identity(
    record: &RunFacts,
    pasts: &[Past],
    world: &World,
    hypervisor: &Arc<dyn Hypervisor>,
) -> Result<(Action, Vec<String>), Failure> {
    let root = JailTree::of(record)?.root;
    let steps = pasts
        .iter()
        .flat_map(|past| past.plan.steps.iter().enumerate().map(move |(index, step)| (past.id, index, step)));
    let reduce = steps
        .filter(|(_, _, step)| matches!(&step.op, Op::Do(Action::Reduce(_))))
        .map(|(plan, index, _)| StepRef { plan, index })
        .next()
        .ok_or_else(|| Failure::new(exit::JOURNAL, "find what clone changed in the original's files"))?;
    let recorded = reduce::Identity::recorded(world, reduce).map_err(told)?;
    let restored = reduce::restored(&*hypervisor.host(), &root, &recorded).await.map_err(told)?;
    let notes = restored.notes.clone();
    Ok((reduce::Identity::planned(&record.host, root, reduce, &restored).into(), notes))
}
