//! Detached data on a way back: kept with what was written since promotion, or restored from the snapshot that promotion
//! took. Asked per volume; kept when nobody is asked. And the ways back themselves, from the look to the execution.

use hypervisors::storage::{Copies, Snapshot as Found};
use hypervisors::{Mark, Power, Role};
use serde_json::Value;

use super::app::{Offer, refused};
use super::back::{self, Past};
use super::error::{Failure, exit};
use super::held::Held;
use super::invocation::{Finish, Options};
use super::page::{Proposal, Row};
use super::preflight::{Finding, Verdict};
use super::record::RunFacts;
use super::state::Verb;
use super::{in_place, origin};
use crate::engine::history::Status;
use crate::engine::{OnFailure, Op, Plan, PlanStep, Stage, Undo};
use crate::inventory::Strategy;
use crate::steps::block::Drained;
use crate::steps::detached::{RestoreDetached, stands_on};
use crate::steps::storage::Pair;
use crate::steps::{Action, StepError};

/// How long a merge may drain, in seconds; it is looked at, not timed.
const DRAINS_S: u64 = 24 * 3600;

/// Detached data with the snapshot that promotion took of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The disk's name in the definition.
    pub disk: String,
    /// The data and its snapshot.
    pub pair: Pair,
}

impl Saved {
    /// The step that restores it.
    pub(super) fn step(&self, record: &RunFacts) -> PlanStep {
        let restore = RestoreDetached {
            host: record.production_host().to_owned(),
            disk: self.disk.clone(),
            volume: self.pair.source.clone(),
            saved: self.pair.target.clone(),
        };
        // Started on the wrong data, the original would write to it: better down until someone has looked.
        PlanStep::new(Stage::Restore, restore, 0.3).undo(Undo::None).on_failure(OnFailure::Stop)
    }
}

/// Puts a wait for restored data that is still being merged before the removal of its snapshot.
pub(super) fn drained(mut steps: Vec<PlanStep>, record: &RunFacts, restore: &[Saved]) -> Vec<PlanStep> {
    let removal =
        |step: &PlanStep| matches!(&step.op, Op::Undo(_, Action::Snapshot(made)) if made.role == Role::Detached);
    let at = steps.iter().position(removal).filter(|_| record.copying != Copies::Trees && !restore.is_empty());
    if let Some(at) = at {
        let origins = restore.iter().map(|saved| saved.pair.source.clone()).collect();
        let wait = Drained { host: record.host.clone(), origins, patience_s: DRAINS_S };
        steps.insert(at, PlanStep::new(Stage::Tidy, wait, 5.0).undo(Undo::Nothing));
    }
    steps
}

/// What can be restored: detached data that a promoted guest, which is or was live, may have written to.
pub fn saved(record: &RunFacts, pasts: &[Past]) -> Vec<Saved> {
    let of_promotion = |past: &&Past| past.plan.verb == "promote" && past.plan.undoes.is_none();
    let live = |past: &&Past| {
        past.plan.steps.iter().zip(&past.histories).any(|(step, past)| step.goes_live && past.status != Status::Pending)
    };
    let Some(promote) = pasts.iter().rfind(of_promotion).filter(live) else { return Vec::new() };
    let done = promote.plan.steps.iter().zip(&promote.histories).filter(|(_, past)| past.status == Status::Done);
    let pairs = done.filter_map(|(step, _)| match &step.op {
        Op::Do(Action::Snapshot(snapshot)) if snapshot.role == Role::Detached => Some(&snapshot.copies),
        _ => None,
    });
    let named = |pair: &Pair| {
        let (disk, _) = record.detached().find(|(_, source)| **source == pair.source)?;
        Some(Saved { disk: disk.name.clone(), pair: pair.clone() })
    };
    pairs.flatten().filter_map(named).collect()
}

/// What the page says of queues and detached data. `restore`: what is not kept.
pub(super) fn what_is_kept(record: &RunFacts, restore: &[Saved]) -> Vec<Row> {
    let guest = &record.original.name;
    let mut rows = match &record.transfer {
        None => vec![Row::new("kept", "mail and job queues go back to the original")],
        Some(_) => Vec::new(),
    };
    for (disk, _) in record.detached() {
        let name = &disk.name;
        rows.push(if restore.iter().any(|saved| saved.disk == *name) {
            let what = format!("{name} as it was when {guest} was promoted; what was written to it since is lost");
            Row::new("restored", what)
        } else {
            Row::new("kept", format!("what was written to {name} since {guest} was promoted"))
        });
    }
    rows
}

/// Those of the saved ones that the command line names.
fn named(saved: &[Saved], record: &RunFacts, verb: Verb, names: &[String]) -> Result<Vec<Saved>, Failure> {
    let guest = &record.original.name;
    let failure = |code| Failure::new(code, format!("{} {guest}", verb.word()));
    let mut chosen: Vec<Saved> = Vec::new();
    for name in names {
        let place = format!("--restore-detached {name}");
        if let Some(one) = saved.iter().find(|one| one.disk == *name) {
            if !chosen.contains(one) {
                chosen.push(one.clone());
            }
        } else if record.detached().any(|(disk, _)| disk.name == *name) {
            return Err(failure(exit::REFUSED)
                .cause(format!("no promoted guest has written to {name}, or promotion took no snapshot of it"))
                .place(place)
                .help("leave it out: it is kept as it is; nothing was changed"));
        } else {
            let detached: Vec<&str> = record.detached().map(|(disk, _)| disk.name.as_str()).collect();
            let help = match detached.as_slice() {
                [] => format!("{guest} has no detached disks"),
                names => format!("detached disks, as the definition names them: {}", names.join(", ")),
            };
            return Err(failure(exit::USAGE).cause(format!("{name} is no detached disk")).place(place).help(help));
        }
    }
    Ok(chosen)
}

impl Held<'_> {
    /// `rollback` or `abort`.
    pub(super) async fn way_back(&mut self, verb: Verb, options: &Options) -> Result<Finish, Failure> {
        let pasts = self.pasts()?;
        let saved = saved(&self.record, &pasts);
        let mut restore = named(&saved, &self.record, verb, &options.restore_detached)?;
        self.can_be_restored(verb, &restore).await?;
        let merging = match self.record.strategy {
            _ if verb == Verb::Rollback => false,
            Strategy::Origin => origin::moved(&pasts),
            Strategy::InPlace => in_place::touched(&pasts),
            _ => false,
        };
        let merging = if merging { Some(self.before_merging(&pasts, options).await?) } else { None };
        let mut proposal = self.plan_back(verb, &pasts, merging.as_ref(), &restore)?;
        self.nothing_foreign(&proposal.plan, &pasts, options).await?;
        match self.app.offer(&proposal, options, &self.emit)? {
            Offer::Ended(finish) => return Ok(*finish),
            Offer::Approved => {}
            Offer::Asking => {
                if restore.is_empty() {
                    restore = self.asked(&saved);
                }
                if !restore.is_empty() && options.restore_detached.is_empty() {
                    self.can_be_restored(verb, &restore).await?;
                    proposal = self.plan_back(verb, &pasts, merging.as_ref(), &restore)?;
                    self.app.front.show(&proposal, true);
                }
                self.app.confirm(&proposal, &self.emit)?;
            }
        }
        self.execute_new(&proposal.plan, options).await
    }

    fn plan_back(
        &self,
        verb: Verb,
        pasts: &[Past],
        merging: Option<&origin::Now>,
        restore: &[Saved],
    ) -> Result<Proposal, Failure> {
        let made = if let Some(now) = merging {
            origin::abort(&self.spec, &self.record, pasts, now, restore)
        } else if verb == Verb::Rollback {
            let promote = pasts.iter().rfind(|past| past.plan.verb == "promote" && past.plan.undoes.is_none());
            promote.and_then(|past| back::rollback(&self.spec, &self.record, past, restore))
        } else {
            back::abort(&self.spec, &self.record, pasts, restore)
        };
        let (plan, page) = made.ok_or_else(|| {
            Failure::new(exit::STATE, format!("{} {}", verb.word(), self.spec.name))
                .cause("a step that cannot be taken back was begun")
                .help(format!("go on: upgradectl resume {}", self.spec.name))
        })?;
        Ok(Proposal { plan, page, findings: Vec::new(), manners: self.app.manners() })
    }

    /// What a person wants restored, asked per volume; nothing if nobody can be asked.
    fn asked(&self, saved: &[Saved]) -> Vec<Saved> {
        let guest = &self.spec.name;
        let wanted = |one: &&Saved| {
            let question = format!(
                "{} keeps what was written to it since {guest} was promoted.\nRestore it as it was then instead?",
                one.disk
            );
            self.app.front.ask(&question, exit::UNDECIDED) == Some(true)
        };
        saved.iter().filter(wanted).cloned().collect()
    }

    /// Refuses now what would fail while production is down.
    async fn can_be_restored(&self, verb: Verb, restore: &[Saved]) -> Result<(), Failure> {
        let refuse = |why: String, remedy: &str| {
            let finding =
                Finding { id: "detached".into(), verdict: Verdict::Refused, detail: why, remedy: Some(remedy.into()) };
            Err(refused(verb.word(), &self.spec.name, &finding))
        };
        let mark = Mark { run: self.run.id.clone(), role: Role::Detached };
        for Saved { pair: Pair { source, target, .. }, .. } in restore {
            let storage = self.hypervisor.storage(source.kind)?;
            if storage.probe(target, &mark).await? != Found::Present || storage.inspect(source).await?.is_none() {
                return refuse(format!("{target}, the snapshot of {source}, is not there"), "keep what is there");
            }
            let guests = self.hypervisor.list().await?;
            let other = guests.iter().find(|guest| {
                guest.name != self.spec.name
                    && guest.power != Power::Off
                    && guest.disks.iter().any(|disk| stands_on(&disk.source, source))
            });
            if let Some(other) = other {
                return refuse(format!("{} runs on {source} too", other.name), "stop it first");
            }
        }
        Ok(())
    }

    /// Refuses a way back that would overwrite what someone else changed, unless it is decided whose version wins:
    /// before it touches anything, for half-way production would be down for a question.
    async fn nothing_foreign(&self, plan: &Plan, pasts: &[Past], options: &Options) -> Result<(), Failure> {
        if options.decision.is_some() {
            return Ok(());
        }
        let world = self.world(options)?;
        for step in &plan.steps {
            let Op::Undo(at, action) = &step.op else { continue };
            let past = pasts.iter().find(|past| past.id == at.plan).and_then(|past| past.histories.get(at.index));
            let other = match action {
                _ if step.clone_side || past.is_none_or(|past| past.done.is_none()) => None,
                Action::NameMachine(named) => named.foreign(&world).await?,
                Action::SetCards(set) => set.foreign(&world).await?,
                _ => None,
            };
            if let Some(what) = other {
                return Err(Failure::new(exit::UNDECIDED, format!("{} {}", plan.verb, self.spec.name))
                    .cause(what)
                    .cause("somebody else changed it")
                    .help("--ours sets it as it was before promotion, --theirs keeps it as it is now"));
            }
            let Action::Define(define) = action else { continue };
            let production = define.replaces.is_some();
            let Some(found) = past.and_then(|past| past.found.as_ref()) else { continue };
            let last = past.and_then(|past| past.done.as_ref()).map_or(&Value::Null, |done| &done["done"]);
            if let Some(StepError::Foreign { what, diff }) = define.foreign(&world, found, last).await? {
                let help = if production {
                    "--ours brings back the definition as it was, --theirs keeps the change on the original's disks"
                } else {
                    "--ours removes it all the same, --theirs leaves it"
                };
                return Err(Failure::new(exit::UNDECIDED, format!("{} {}", plan.verb, self.spec.name))
                    .cause(format!("{what} was changed by someone else"))
                    .cause(diff)
                    .help(help));
            }
        }
        Ok(())
    }
}
