//! What has to hold in every state, whatever struck.

use std::collections::BTreeSet;

use serde_json::Value;

use super::state::Reading;
use super::world::World;
use crate::inventory::Strategy;
use crate::lifecycle::back::Past;
use crate::lifecycle::state::State;

/// The original's root, and production's name.
const ORIGINAL: &str = "mercure";

/// A run's name in a mark (`RUN.ROLE`).
fn owner(mark: &Value) -> Option<&str> {
    mark.as_str()?.rsplit_once('.').map(|(run, _)| run)
}

/// The volumes that a definition names, by the names they have now.
fn disks(definition: &Value, renamed: &Value) -> Vec<String> {
    let disks = definition["disks"].as_array().into_iter().flatten();
    let names = disks.filter_map(|disk| disk["volume"].as_str());
    names.map(|name| renamed[name].as_str().unwrap_or(name).to_owned()).collect()
}

/// What is wrong with a state of a run. `first`: the world before it.
pub fn broken(first: &World, now: &World, reading: &Reading) -> Vec<String> {
    let mut wrong = Vec::new();
    let state = State::parse(&reading.run.state).unwrap();
    original_is_kept(first, now, reading, &mut wrong);
    let renamed = reading.in_hand().is_some_and(Past::irreversible);
    production_cannot_fill(now, renamed, &mut wrong);
    nothing_without_a_run(now, Some(&reading.run.id), &mut wrong);
    served_or_announced(now, reading.outage, &mut wrong);
    if !state.in_progress() && reading.run.stuck.is_none() && !reading.active {
        let powers = now.powers();
        let production = &powers[ORIGINAL];
        // A promotion whose last step failed says so.
        let starts = production["autostart"] == true || reading.unproven();
        if production["power"] != "on" || !starts || reading.outage {
            wrong.push(format!("{} rests, and production is not as it was found: {production}", reading.run.state));
        }
    }
    wrong
}

/// What is wrong with a world in which a run was closed.
pub fn broken_after(first: &World, now: &World, state: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    production_cannot_fill(now, false, &mut wrong);
    nothing_without_a_run(now, None, &mut wrong);
    served_or_announced(now, false, &mut wrong);
    let (before, after) = (first.volumes(), now.volumes());
    if before.len() != after.len() {
        wrong.push(format!("{state}, and the volumes are {:?}", after.keys()));
    }
    if now.powers().get(ORIGINAL).is_none_or(|power| power["autostart"] != true) {
        wrong.push(format!("{state}, and production does not start with its host"));
    }
    if now.definitions().len() != 1 {
        wrong.push(format!("{state}, and defined are {:?}", now.definitions().keys()));
    }
    if state == State::Aborted.word() {
        if first.definitions() != now.definitions() {
            wrong.push(format!("aborted, and the definition is not as it was: {:?}", now.definitions()));
        }
        for volume in before.keys() {
            if first.contents(volume) != now.contents(volume) {
                wrong.push(format!("aborted, and {volume} is not as it was"));
            }
        }
    }
    wrong
}

/// Until something irreversible is begun there is a whole volume with all that the original held: the original's own or,
/// where the strategy changes that, the one from which it comes back.
fn original_is_kept(first: &World, now: &World, reading: &Reading, wrong: &mut Vec<String>) {
    if first.contents("mercure-mail") != now.contents("mercure-mail") {
        wrong.push("detached data was changed".to_owned());
    }
    if reading.in_hand().is_some_and(Past::irreversible) {
        return;
    }
    let wanted = first.contents(ORIGINAL);
    let copy = format!("{}-root", reading.run.id);
    let mut places = vec![ORIGINAL];
    if reading.facts.strategy != Strategy::Snapshot {
        places.push(&copy);
    }
    let volumes = now.volumes();
    let whole = |name: &str| {
        let meta = volumes.get(name);
        meta.is_some_and(|meta| meta["intent"].is_null() && meta["invalid"] != true) && now.contents(name) == wanted
    };
    if !places.iter().any(|name| whole(name)) {
        wrong.push(format!("nothing irreversible was begun, and what the original held is on none of {places:?}"));
    }
}

/// What production runs on, or would be started on with its host, is there, cannot fill and comes up with its host. `renamed`: a
/// commit gives its volumes their names back under it, and its definition follows.
fn production_cannot_fill(now: &World, renamed: bool, wrong: &mut Vec<String>) {
    let (powers, definitions, volumes) = (now.powers(), now.definitions(), now.volumes());
    let Some(power) = powers.get(ORIGINAL) else { return };
    let mut stands_on: BTreeSet<String> = BTreeSet::new();
    if let Some(live) = power["live"].as_str() {
        stands_on.extend(disks(&serde_json::from_str(live).unwrap(), &power["renamed"]));
    }
    if let Some(definition) = definitions.get(ORIGINAL).filter(|_| power["autostart"] == true) {
        stands_on.extend(disks(definition, &Value::Null));
    }
    for name in stands_on {
        match volumes.get(name.as_str()) {
            Some(meta) if meta["limit_bytes"].is_null() && meta["skip"] != true => {}
            None if renamed => {}
            meta => wrong.push(format!("production stands on {name}: {meta:?}")),
        }
    }
}

/// Everything that bears a mark bears that of the open run, and no guest but production starts with its host.
fn nothing_without_a_run(now: &World, run: Option<&str>, wrong: &mut Vec<String>) {
    for (name, meta) in now.volumes() {
        for mark in ["mark", "intent"] {
            if owner(&meta[mark]).is_some_and(|owner| Some(owner) != run) {
                wrong.push(format!("volume {name} is {}'s, of which the journal has no open run", meta[mark]));
            }
        }
    }
    for (name, definition) in now.definitions() {
        if owner(&definition["mark"]).is_some_and(|owner| Some(owner) != run) {
            wrong.push(format!("{name} is defined as {}'s, of which the journal has no open run", definition["mark"]));
        }
    }
    for (name, power) in now.powers() {
        if name != ORIGINAL && power["autostart"] == true {
            wrong.push(format!("{name} starts with its host"));
        }
    }
}

/// Production serves, or is down within an outage that the journal tells of.
fn served_or_announced(now: &World, outage: bool, wrong: &mut Vec<String>) {
    let powers = now.powers();
    let serves = powers.get(ORIGINAL).is_some_and(|power| power["power"] == "on");
    if !serves && !outage {
        wrong.push("production is down, and no outage was begun".to_owned());
    }
}
