//! Which item may go on now. Pure: knows lengths, limits and order, nothing of guests, clocks or journals, so that a
//! night can be played through in a moment (the plan does).
//!
//! An item that has begun keeps its place among `parallel` and `per_host` until it has ended; `per_disk` and `per_link` are
//! held for the verbs that need them only. `parallel` is what one controller takes; the others hold for all together. Of what may begin, the item at the head of the longest chain goes first: a long
//! guest that is begun last is what makes a night long (R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969).

use std::collections::HashMap;

use super::spec::{Limits, OnFailure, Spec, StopAt};
use crate::lifecycle::state::Verb;

/// How an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not begun.
    Waiting,
    /// It has begun, and this verb (by its place) is next: nobody is at it.
    Between(usize),
    /// Somebody is at this verb.
    Working(usize),
    /// It has ended.
    Ended(Ending),
}

/// How an item ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every verb ended well.
    Well,
    /// A verb did not.
    Failed,
    /// It never began: what it comes after did not end well.
    Left,
}

/// Why nothing begins though something is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// An item failed whose policy is to stop.
    Failure(usize),
    /// Too many of this wave failed.
    Share(usize),
}

#[derive(Clone)]
struct Unit {
    wave: usize,
    after: Vec<usize>,
    stops: bool,
    host: usize,
    disk: usize,
    link: Option<usize>,
    /// Expected length of each verb in seconds.
    lengths: Vec<f64>,
    /// Its own length with that of the longest chain behind it.
    chain: f64,
    standing: Standing,
}

/// A batch in motion.
#[derive(Clone)]
pub struct Schedule {
    units: Vec<Unit>,
    /// Items in the order in which they begin.
    order: Vec<usize>,
    limits: Limits,
    verbs: Vec<Verb>,
    stop_at: Option<StopAt>,
    wave: usize,
    halted: Option<Halt>,
    begun: usize,
    elsewhere: usize,
    working: usize,
    working_on: Vec<usize>,
    per_host: Vec<usize>,
    per_disk: Vec<usize>,
    per_link: Vec<usize>,
    /// Of each wave: guests, ended, failed.
    tally: Vec<Tally>,
}

/// Numbers of a wave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Guests.
    pub guests: usize,
    /// Ended, in whatever way.
    pub ended: usize,
    /// Ended well.
    pub well: usize,
    /// Failed.
    pub failed: usize,
}

/// A verb that copies, merges or removes volumes.
fn heavy(verb: Verb) -> bool {
    !matches!(verb, Verb::Upgrade | Verb::Verify)
}

/// A verb that brings data over the network, for guests that are moved over one.
fn moves(verb: Verb) -> bool {
    matches!(verb, Verb::Clone | Verb::Promote)
}

impl Schedule {
    /// Nothing has begun. `lengths`: of each item, of each verb, in seconds.
    pub fn new(spec: &Spec, lengths: Vec<Vec<f64>>) -> Self {
        let mut known: HashMap<&str, usize> = HashMap::new();
        let mut number = |name| {
            let next = known.len();
            *known.entry(name).or_insert(next)
        };
        let units: Vec<Unit> = spec
            .items
            .iter()
            .zip(lengths)
            .map(|(item, lengths)| Unit {
                wave: item.wave,
                after: item.after.clone(),
                stops: item.on_failure == OnFailure::Stop,
                host: number(item.host.as_str()),
                disk: number(item.disk.as_str()),
                link: item.link.as_ref().map(|link| number(link.as_str())),
                chain: lengths.iter().sum(),
                lengths,
                standing: Standing::Waiting,
            })
            .collect();
        let places = vec![0; known.len()];
        let mut tally = vec![Tally::default(); spec.waves()];
        units.iter().for_each(|unit| tally[unit.wave].guests += 1);
        let mut schedule = Self {
            order: (0..units.len()).collect(),
            units,
            limits: spec.limits,
            verbs: spec.verbs.clone(),
            stop_at: spec.stop_at_failed,
            wave: 0,
            halted: None,
            begun: 0,
            elsewhere: 0,
            working: 0,
            working_on: places.clone(),
            per_host: places.clone(),
            per_disk: places.clone(),
            per_link: places,
            tally,
        };
        schedule.chains();
        schedule
    }

    /// Lengths of the chains behind each item, and the order that follows from them.
    fn chains(&mut self) {
        let mut waits = vec![0; self.units.len()];
        self.units.iter().flat_map(|unit| &unit.after).for_each(|other| waits[*other] += 1);
        // From the ends of the chains to their heads.
        let mut ends: Vec<usize> = (0..self.units.len()).filter(|index| waits[*index] == 0).collect();
        while let Some(index) = ends.pop() {
            let chain = self.units[index].chain;
            for other in self.units[index].after.clone() {
                let own: f64 = self.units[other].lengths.iter().sum();
                self.units[other].chain = self.units[other].chain.max(own + chain);
                waits[other] -= 1;
                if waits[other] == 0 {
                    ends.push(other);
                }
            }
        }
        let units = &self.units;
        self.order.sort_by(|a, b| {
            units[*a].wave.cmp(&units[*b].wave).then(units[*b].chain.total_cmp(&units[*a].chain)).then(a.cmp(b))
        });
    }

    /// Says how an item stands now.
    pub fn set(&mut self, index: usize, standing: Standing) {
        self.count(index, false);
        self.units[index].standing = standing;
        self.count(index, true);
        let unit = &self.units[index];
        if standing == Standing::Ended(Ending::Failed) {
            let tally = self.tally[unit.wave];
            let share = self.stop_at.is_some_and(|most| most.reached(tally.failed, tally.guests));
            let why = unit.stops.then_some(Halt::Failure(index)).or(share.then_some(Halt::Share(unit.wave)));
            self.halted = self.halted.or(why);
        }
    }

    fn count(&mut self, index: usize, add: bool) {
        let change = |number: &mut usize| if add { *number += 1 } else { *number -= 1 };
        let unit = &self.units[index];
        match unit.standing {
            Standing::Waiting => {}
            Standing::Between(_) | Standing::Working(_) => {
                change(&mut self.begun);
                change(&mut self.per_host[unit.host]);
            }
            Standing::Ended(ending) => {
                let tally = &mut self.tally[unit.wave];
                change(&mut tally.ended);
                match ending {
                    Ending::Well => change(&mut tally.well),
                    Ending::Failed => change(&mut tally.failed),
                    Ending::Left => {}
                }
            }
        }
        if let Standing::Working(verb) = unit.standing {
            change(&mut self.working);
            change(&mut self.working_on[unit.host]);
            if heavy(self.verbs[verb]) {
                change(&mut self.per_disk[unit.disk]);
            }
            if let Some(link) = unit.link.filter(|_| moves(self.verbs[verb])) {
                change(&mut self.per_link[link]);
            }
        }
    }

    /// Something that may go on now, with the place of its verb. `fits` says whether so many seconds are left.
    pub fn next(&self, fits: impl Fn(f64) -> bool) -> Option<(usize, usize)> {
        if self.halted.is_some() {
            return None;
        }
        let within = |number: usize, limit: Option<usize>| limit.is_none_or(|most| number < most);
        let free = |unit: &Unit, verb: usize| {
            let verb = self.verbs[verb];
            (!heavy(verb) || within(self.per_disk[unit.disk], self.limits.per_disk))
                && unit.link.is_none_or(|link| !moves(verb) || within(self.per_link[link], self.limits.per_link))
        };
        let ready = |index: &usize| -> Option<(usize, usize)> {
            let unit = &self.units[*index];
            match unit.standing {
                Standing::Between(verb)
                    if within(self.working_on[unit.host], self.limits.per_host)
                        && free(unit, verb)
                        && fits(unit.lengths[verb]) =>
                {
                    Some((*index, verb))
                }
                _ => None,
            }
        };
        // Those that have begun may be more than the limits allow: they failed and are tried again, or were another's.
        if self.begun > 0
            && self.working.saturating_sub(self.elsewhere) < self.limits.parallel
            && let Some(found) = self.order.iter().find_map(ready)
        {
            return Some(found);
        }
        if self.begun.saturating_sub(self.elsewhere) >= self.limits.parallel {
            return None;
        }
        let well = |other: &usize| self.units[*other].standing == Standing::Ended(Ending::Well);
        self.order.iter().copied().take_while(|index| self.units[*index].wave <= self.wave).find_map(|index| {
            let unit = &self.units[index];
            let begins = unit.standing == Standing::Waiting
                && within(self.per_host[unit.host], self.limits.per_host)
                && unit.after.iter().all(well)
                && free(unit, 0)
                && fits(unit.lengths.iter().sum());
            begins.then_some((index, 0))
        })
    }

    /// An item that will never begin, because one that it comes after did not end well; with that one.
    pub fn orphan(&self) -> Option<(usize, usize)> {
        let lost =
            |other: &&usize| matches!(self.units[**other].standing, Standing::Ended(Ending::Failed | Ending::Left));
        let mut waiting = self.order.iter().filter(|index| self.units[**index].standing == Standing::Waiting);
        waiting.find_map(|index| Some((*index, *self.units[*index].after.iter().find(lost)?)))
    }

    /// How an item stands.
    pub fn standing(&self, index: usize) -> Standing {
        self.units[index].standing
    }

    /// Expected length of an item's verbs from this one on.
    pub fn left_s(&self, index: usize, verb: usize) -> f64 {
        self.units[index].lengths.get(verb..).unwrap_or_default().iter().sum()
    }

    /// Length of the chain that an item heads, itself included.
    pub fn chain_s(&self, index: usize) -> f64 {
        self.units[index].chain
    }

    /// Seconds of work that are left, and of the longest chain. `passed` says how much of an item that has begun is behind it.
    pub fn left(&self, passed: impl Fn(usize) -> f64) -> (f64, f64) {
        let mut left = (0.0, 0.0_f64);
        for (index, unit) in self.units.iter().enumerate() {
            let behind = match unit.standing {
                Standing::Ended(_) => continue,
                Standing::Waiting => 0.0,
                Standing::Between(_) | Standing::Working(_) => passed(index),
            };
            let own: f64 = unit.lengths.iter().sum();
            left = (left.0 + (own - behind).max(0.0), left.1.max(unit.chain - behind));
        }
        left
    }

    /// The wave in hand.
    pub fn wave(&self) -> usize {
        self.wave
    }

    /// So many items are in the hands of other controllers: they are not among this one's `parallel`.
    pub fn set_elsewhere(&mut self, items: usize) {
        self.elsewhere = items;
    }

    /// Goes on to a wave.
    pub fn enter_wave(&mut self, wave: usize) {
        self.wave = wave;
    }

    /// Numbers of a wave.
    pub fn tally(&self, wave: usize) -> Tally {
        self.tally[wave]
    }

    /// Numbers of all waves.
    pub fn total(&self) -> Tally {
        self.tally.iter().fold(Tally::default(), |sum, wave| Tally {
            guests: sum.guests + wave.guests,
            ended: sum.ended + wave.ended,
            well: sum.well + wave.well,
            failed: sum.failed + wave.failed,
        })
    }

    /// The wave in hand has ended, and there is another.
    pub fn at_gate(&self) -> bool {
        let ended = |wave: &Tally| wave.ended == wave.guests;
        self.wave + 1 < self.tally.len() && self.tally[..=self.wave].iter().all(ended)
    }

    /// Everything has ended.
    pub fn over(&self) -> bool {
        self.tally.iter().all(|wave| wave.ended == wave.guests)
    }

    /// Items that have begun and not ended.
    pub fn begun(&self) -> usize {
        self.begun
    }

    /// Why nothing new begins.
    pub fn halted(&self) -> Option<Halt> {
        self.halted
    }

    /// What halted it is forgotten: a person goes on.
    pub fn go_on(&mut self) {
        self.halted = None;
    }

    /// Plays the rest through as if every verb took what is expected of it and ended well; the seconds it takes. Of an item
    /// in hand only what is behind its verb is known, so that verb counts whole.
    pub fn play(mut self) -> f64 {
        let mut now = 0.0;
        let mut ends: Vec<(f64, usize, usize)> = Vec::new();
        for index in 0..self.units.len() {
            if let Standing::Working(verb) = self.units[index].standing {
                ends.push((self.units[index].lengths[verb], index, verb));
            }
        }
        self.halted = None;
        loop {
            while let Some((index, verb)) = self.next(|_| true) {
                self.set(index, Standing::Working(verb));
                ends.push((now + self.units[index].lengths[verb], index, verb));
            }
            let Some(first) = (0..ends.len()).min_by(|a, b| ends[*a].0.total_cmp(&ends[*b].0)) else {
                if !self.at_gate() {
                    return now;
                }
                self.wave += 1;
                continue;
            };
            let (end, index, verb) = ends.swap_remove(first);
            now = end;
            let next = verb + 1;
            let last = next == self.verbs.len();
            self.set(index, if last { Standing::Ended(Ending::Well) } else { Standing::Between(next) });
        }
    }

    /// The least time in which all of it could be done, whatever the order: the longest chain, and the work of every host
    /// spread over the places it has.
    pub fn ideal_s(&self) -> f64 {
        let own = |unit: &Unit| unit.lengths.iter().sum::<f64>();
        #[expect(clippy::cast_precision_loss, reason = "numbers of guests")]
        let shared = |work: f64, places: usize| work / places as f64;
        let chain = self.units.iter().map(|unit| unit.chain).fold(0.0, f64::max);
        let all = shared(self.units.iter().map(own).sum(), self.limits.parallel);
        let mut per_host = vec![0.0; self.per_host.len()];
        self.units.iter().for_each(|unit| per_host[unit.host] += own(unit));
        let host = self
            .limits
            .per_host
            .map_or(0.0, |places| per_host.iter().map(|work| shared(*work, places)).fold(0.0, f64::max));
        chain.max(all).max(host)
    }
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
