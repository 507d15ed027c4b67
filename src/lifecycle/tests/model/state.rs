//! What tells one state from another: the world, and of the journal what anything still depends on.
//!
//! Two journals that differ only in what is over (steps that were taken back count as never begun, plans of which nothing
//! is left are forgotten) lead on alike: that is what makes the states finite. It is an abstraction of the key only; what is
//! gone on from is always a whole journal and a whole world.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::world::{World, replaced};
use crate::engine::history::{Status, StepHistory};
use crate::engine::{Op, Plan, PlanStep, Undo, history};
use crate::inventory::Strategy;
use crate::journal::memory::Book;
use crate::journal::{PlanRecord, RunRecord};
use crate::lifecycle::back::Past;
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::state::State;
use crate::lifecycle::{clone, in_place, origin, query};
use crate::steps::Action;

/// What a book says of its open run.
pub struct Reading {
    pub run: RunRecord,
    pub facts: RunFacts,
    pub pasts: Vec<Past>,
    /// The newest plan is unfinished: it is the last of them.
    pub active: bool,
    /// Production is down, by the journal.
    pub outage: bool,
}

/// Reads books; a plan that was read once is remembered.
#[derive(Default)]
pub struct Reader {
    plans: HashMap<usize, (Arc<PlanRecord>, Plan)>,
    /// The world whose key was made last, for which run, without what.
    world: Option<(Arc<World>, String, Option<String>, String)>,
}

impl Reader {
    fn plan(&mut self, record: &Arc<PlanRecord>) -> &Plan {
        let address = Arc::as_ptr(record) as usize;
        let read = || (record.clone(), serde_json::from_value(record.body.clone()).unwrap());
        &self.plans.entry(address).or_insert_with(read).1
    }

    /// `None`: no run is open.
    pub fn read(&mut self, book: &Book) -> Option<Reading> {
        let run = book.runs.iter().find(|run| run.closed.is_none())?;
        let events: Vec<_> =
            book.events.iter().filter(|(of, _)| *of == run.id).map(|(_, event)| (**event).clone()).collect();
        let records: Vec<_> = book.plans.iter().filter(|plan| plan.run == run.id).collect();
        let pasts = records.iter().map(|record| Past {
            finished: record.outcome.is_some(),
            ..Past::new(record.id, self.plan(record).clone(), &events)
        });
        let pasts = pasts.collect();
        Some(Reading {
            facts: serde_json::from_value(run.facts.clone()).unwrap(),
            active: records.last().is_some_and(|plan| plan.outcome.is_none()),
            outage: history::open_outage(&events).is_some(),
            run: run.clone(),
            pasts,
        })
    }

    /// What a write was about: the title of its step beside its number.
    pub fn told(&mut self, book: &Book, what: &str) -> String {
        let numbers: Vec<usize> = what.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [plan, step] = numbers[..] else { return what.to_owned() };
        let record = book.plans.iter().find(|record| usize::try_from(record.id) == Ok(plan));
        let title = record.and_then(|record| Some(self.plan(record).steps.get(step.checked_sub(1)?)?.title()));
        title.map_or_else(|| what.to_owned(), |title| format!("{what}: {title}"))
    }
}

/// Whether anything still depends on a step that is over.
fn matters(step: &PlanStep, past: &StepHistory) -> bool {
    let bears = match &step.op {
        Op::Undo(..) => false,
        Op::Do(_) => step.temporary || step.goes_live || matches!(step.undo, Undo::Own | Undo::None),
    };
    bears && past.to_be_undone()
}

/// A step of an older plan: whether it may have left something is all that a way back asks; of what a promotion saved, whether it
/// was whole.
fn left(step: &PlanStep, past: &StepHistory) -> String {
    let whole = matches!(step.op, Op::Do(Action::Snapshot(_))) && past.status == Status::Done;
    let status = match past.status {
        Status::Intended | Status::Done | Status::Undoing if !whole => "left".to_owned(),
        status => format!("{status:?}"),
    };
    line(step, past, &status)
}

/// A step of the plan in hand. One that was begun is begun again: that it was matters where taking it back depends on it, or
/// the look at who runs.
fn ahead(step: &PlanStep, past: &StepHistory) -> String {
    let power = matches!(step.op.action(), Action::Start(_) | Action::Stop(_));
    let told = power || step.outage_begins || matches!((&step.op, step.undo), (Op::Do(_), Undo::Own | Undo::None));
    let status = match past.status {
        Status::Pending | Status::Intended if !told => "ahead".to_owned(),
        status => format!("{status:?}"),
    };
    line(step, past, &status)
}

fn line(step: &PlanStep, past: &StepHistory, status: &str) -> String {
    // What was found of a definition or a file is bytes: the world tells them.
    let found = match step.op.action() {
        Action::Autostart(_) | Action::Stop(_) | Action::MarkVolume(_) => past.found.as_ref(),
        _ => None,
    };
    format!("{} {status} {}", step.title(), found.map(ToString::to_string).unwrap_or_default())
}

impl Reading {
    /// Words that belong to this run alone.
    pub fn words(&self) -> Vec<(String, &'static str)> {
        words(&self.run.id)
    }

    /// The plan in hand.
    pub fn in_hand(&self) -> Option<&Past> {
        self.pasts.last().filter(|_| self.active)
    }

    /// Nothing leads on from here but to the end of an abort.
    fn aborting(&self) -> bool {
        self.run.state == State::Aborting.word()
    }

    /// The volume of which the files are of no use any more: that of a clone on its way to be removed.
    fn given_up(&self) -> Option<String> {
        let clone = self.aborting() && self.facts.strategy == Strategy::Snapshot;
        clone.then(|| "world/volumes/RUN-root/".to_owned())
    }

    /// The promoted guest did not prove that all is well with it.
    pub fn unproven(&self) -> bool {
        query::unproven(&self.facts, &self.pasts).is_some()
    }

    /// What tells it from others.
    pub fn key(&self) -> String {
        let Self { run, facts, pasts, outage, .. } = self;
        let aborting = self.aborting();
        let mut key = vec![format!("{} outage={outage}", run.state)];
        key.extend((!aborting).then(|| format!("unproven={}", self.unproven())));
        key.extend(match facts.strategy {
            Strategy::InPlace => Some(format!("touched={}", in_place::touched(pasts))),
            Strategy::Origin => Some(format!("moved={}", origin::moved(pasts))),
            // Another attempt at an upgrade goes on with the one before.
            _ => (!aborting && pasts.iter().any(|past| past.plan.verb == "upgrade")).then(|| "tried".to_owned()),
        });
        for past in &pasts[..pasts.len() - usize::from(self.active)] {
            let steps = past.plan.steps.iter().zip(&past.histories);
            // An abort takes nothing back that only restores the clone.
            let bears = steps.filter(|(step, past)| matters(step, past) && !(aborting && step.clone_side));
            let lines: Vec<String> = bears.map(|(step, past)| left(step, past)).collect();
            if !lines.is_empty() {
                key.push(format!("{} undoing={}", past.plan.verb, past.plan.undoes.is_some()));
                key.extend(lines.into_iter().map(|line| format!("  {line}")));
            }
        }
        if let Some(past) = self.in_hand() {
            key.push(format!(
                "in hand: {} undoing={} to {}",
                past.plan.verb,
                past.plan.undoes.is_some(),
                past.plan.done
            ));
            let mut powers = BTreeMap::new();
            for (step, past) in past.plan.steps.iter().zip(&past.histories) {
                let over = matches!(past.status, Status::Done | Status::Skipped | Status::Undone);
                if !over || past.status == Status::Skipped || matters(step, past) {
                    key.push(format!("  {}", ahead(step, past)));
                }
                if over && step.outage_ends {
                    key.push("  the outage has ended once".to_owned());
                }
                match step.op.action() {
                    Action::Start(start) if past.status == Status::Done => powers.insert(&start.guest, step.title()),
                    Action::Stop(stop) if past.status == Status::Done => powers.insert(&stop.guest, step.title()),
                    _ => None,
                };
            }
            key.extend(powers.into_values().map(|title| format!("  last: {title}")));
        }
        if let Some(stuck) = &run.stuck {
            let last = pasts.last().is_some_and(|past| past.id == stuck.plan);
            let left = pasts.last().map_or(0, |past| past.plan.steps.len() - stuck.index);
            key.push(format!("stuck {last} {left} steps before the end"));
        }
        replaced(&key.join("\n"), &self.words())
    }
}

fn words(run: &str) -> Vec<(String, &'static str)> {
    let suffix = run.rsplit("--").next().unwrap_or(run);
    vec![
        (clone::uuid(run), "UUID"),
        (clone::machine_id(run), "MACHINE"),
        (run.to_owned(), "RUN"),
        (format!("--{suffix}"), "--RUN"),
    ]
}

impl Reader {
    fn world_key(&mut self, world: &Arc<World>, run: &str, but: Option<String>) -> String {
        if let Some((last, of, without, key)) = &self.world
            && Arc::ptr_eq(last, world)
            && (of.as_str(), without) == (run, &but)
        {
            return key.clone();
        }
        let key = world.key(&words(run), but.as_deref());
        self.world = Some((world.clone(), run.to_owned(), but, key.clone()));
        key
    }

    /// What tells a state from all others.
    pub fn key(&mut self, book: &Book, world: &Arc<World>) -> String {
        match self.read(book) {
            Some(reading) => {
                let world = self.world_key(world, &reading.run.id, reading.given_up());
                format!("{}\n\n{world}", reading.key())
            }
            None => {
                let (run, state) = book.runs.last().map_or(("no run", "no run"), |run| (&run.id, &run.state));
                format!("{state}\n\n{}", self.world_key(world, run, None))
            }
        }
    }
}
