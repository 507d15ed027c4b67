//! The operator's file: read strictly, with places, and every guest it means found in the inventory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::spec::{Gate, Item, Limits, OnFailure, Spec, StopAt, Window};
use crate::inventory::read::{Item as Value, Section, did_you_mean};
use crate::inventory::values::parse_duration;
use crate::inventory::{GuestSpec, Inventory, InventoryError, Strategy, load_other};
use crate::lifecycle::state::Verb;

/// The batch that ships as the example: the seed's three servers become jails in one night.
pub const EXAMPLE: &str = include_str!("../../templates/consolidation.toml");

const VERBS: [(&str, Verb); 7] = [
    ("clone", Verb::Clone),
    ("upgrade", Verb::Upgrade),
    ("verify", Verb::Verify),
    ("promote", Verb::Promote),
    ("commit", Verb::Commit),
    ("rollback", Verb::Rollback),
    ("abort", Verb::Abort),
];
const FAILURES: [(&str, OnFailure); 3] =
    [("continue", OnFailure::Continue), ("stop", OnFailure::Stop), ("abort", OnFailure::Abort)];

/// Reads a batch file.
///
/// # Errors
/// The file cannot be read, or what is wrong with it, each with its place.
pub fn load(path: &Path, inventory: &Inventory) -> Result<Spec, InventoryError> {
    load_other(path, "a batch file", |top| batch(top, inventory))
}

/// The name of the batch that a file describes, whatever else is wrong with it.
pub fn name(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let table: toml::Table = text.parse().ok()?;
    Some(table.get("batch")?.get("name")?.as_str()?.to_owned())
}

fn batch(top: &Section<'_>, inventory: &Inventory) -> Option<Spec> {
    let Some(section) = top.section("batch") else {
        top.problem("the table [batch] is missing", Some("begin it with: [batch], name = \"…\", verbs = […]"));
        return None;
    };
    let name = section.need("name", "the batch is called so in status and reports: name = \"consolidation\"");
    let name = name.and_then(|item| item.parse(name_of_a_batch));
    let verbs = verbs(&section);
    let number = |key| section.integer::<usize>(key, 1..=10_000);
    let limits = Limits {
        parallel: number("parallel").unwrap_or(2),
        per_host: number("per_host"),
        per_link: number("per_link"),
        per_disk: number("per_disk"),
    };
    let window = section.parse("window", |text| text.parse::<Window>());
    let gates = [("ask", Gate::Ask), ("all-well", Gate::AllWell)];
    let between_waves = section.choice("between_waves", &gates).unwrap_or_default();
    let stop_at_failed = section.get("stop_at_failed").and_then(|item| stop_at(&item));
    let on_failure = section.choice("on_failure", &FAILURES).unwrap_or_default();
    let waves = section.get("waves");
    let mut items = section
        .need("items", "name the guests: [[batch.items]] with guest, host or tag")
        .map(|picks| select(&picks, on_failure, inventory))
        .unwrap_or_default();
    if let Some(waves) = waves {
        divide(&waves, &mut items);
    }
    if items.is_empty() && section.get("items").is_some_and(|items| items.is_array() && items.items().is_empty()) {
        section.problem("the key \"items\" names no guest", Some("[[batch.items]] with guest, host or tag"));
    }
    order(&section, &items);
    section.finish("a batch");
    if items.is_empty() {
        return None;
    }
    Some(Spec {
        name: name?,
        verbs: verbs?,
        limits,
        window,
        between_waves,
        stop_at_failed,
        items: items.into_iter().map(|picked| picked.item).collect(),
    })
}

fn name_of_a_batch(text: &str) -> Result<String, String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let sound = text.len() <= 50 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(known);
    if sound {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} cannot be used as a name: letters, digits, \".\", \"_\" and \"-\", at most 50"))
}

/// Verbs in the order of the lifecycle, or one of those that stand alone.
fn verbs(section: &Section<'_>) -> Option<Vec<Verb>> {
    let item = section.need("verbs", "what is done to each guest: verbs = [\"clone\", \"upgrade\", \"verify\"]")?;
    let verbs: Vec<Verb> = item.items().iter().map(|item| item.choice(&VERBS)).collect::<Option<_>>()?;
    let rank = |verb: &Verb| VERBS.iter().position(|(_, known)| known == verb);
    let alone = |verb: &Verb| matches!(verb, Verb::Rollback | Verb::Abort);
    let help =
        || Some("in the order clone, upgrade, verify, promote, commit; rollback and abort stand alone".to_owned());
    if verbs.is_empty() {
        item.problem("names no verb", help());
        return None;
    }
    if verbs.len() > 1 && verbs.iter().any(alone) || !verbs.is_sorted_by(|a, b| rank(a) < rank(b)) {
        item.problem("these verbs do not follow each other", help());
        return None;
    }
    Some(verbs)
}

fn stop_at(item: &Value<'_>) -> Option<StopAt> {
    if !item.is_string() {
        return item.integer(1..=10_000).map(StopAt::Guests);
    }
    item.parse(|text| {
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        percent
            .filter(|percent| (1..=100).contains(percent))
            .map(StopAt::Percent)
            .ok_or_else(|| format!("{text:?} is not a share such as \"20%\", or a number of guests such as 3"))
    })
}

/// A guest that was picked, and where.
struct Picked<'a> {
    item: Item,
    after: Option<Value<'a>>,
    named: Vec<String>,
}

fn select<'a>(picks: &Value<'a>, on_failure: OnFailure, inventory: &Inventory) -> Vec<Picked<'a>> {
    let picks: Vec<(Value<'a>, Section<'a>)> =
        picks.items().into_iter().filter_map(|item| item.section().map(|section| (item, section))).collect();
    // A guest that is named is not meant by a tag or a host beside it.
    let named: BTreeSet<String> = picks.iter().filter_map(|(_, pick)| pick.get("guest")?.string()).collect();
    let mut taken = BTreeSet::new();
    let mut items = Vec::new();
    for (place, pick) in picks {
        let guests = guests(&place, &pick, inventory);
        let direct = pick.get("guest").is_some();
        let names = pick.strings("after");
        let on_failure = pick.choice("on_failure", &FAILURES).unwrap_or(on_failure);
        let expected_s = pick.parse("expected", |text| parse_duration(text).map(|length| length.as_secs()));
        for guest in guests {
            if !direct && (named.contains(&guest.name) || taken.contains(&guest.name)) {
                continue;
            }
            if !taken.insert(guest.name.clone()) {
                place.problem(format!("{} is picked a second time", guest.name), None);
                continue;
            }
            let transfer = guest.clone.strategy == Some(Strategy::Transfer);
            items.push(Picked {
                item: Item {
                    guest: guest.name.clone(),
                    wave: 0,
                    after: Vec::new(),
                    on_failure,
                    expected_s,
                    host: guest.clone.runs_on.clone().unwrap_or_else(|| guest.runs_on.clone()),
                    disk: guest.host.clone(),
                    link: transfer.then(|| guest.host.clone()),
                    in_place: guest.clone.strategy == Some(Strategy::InPlace),
                },
                after: pick.get("after"),
                named: names.clone(),
            });
        }
        pick.finish("an item");
    }
    connect(&mut items);
    items
}

/// The guests that one entry picks.
fn guests<'i>(place: &Value<'_>, pick: &Section<'_>, inventory: &'i Inventory) -> Vec<&'i GuestSpec> {
    let words = ["guest", "host", "tag"].map(|key| pick.get(key));
    if words.iter().flatten().count() != 1 {
        let help = "guest = \"mercure\", or tag = \"web\", in an entry of its own";
        place.problem("has to pick by exactly one of guest, host and tag", Some(help.to_owned()));
        return Vec::new();
    }
    let [guest, host, tag] = words;
    if let Some(item) = guest {
        let Some(name) = item.string() else { return Vec::new() };
        let found = inventory.guests.get(&name);
        if found.is_none() {
            let near = did_you_mean(&name, inventory.guests.keys().map(String::as_str));
            item.problem(format!("{name:?} is not a guest of the inventory"), near);
        }
        return found.into_iter().collect();
    }
    let Some(item) = host.as_ref().or(tag.as_ref()) else { return Vec::new() };
    let Some(word) = item.string() else { return Vec::new() };
    let meant = |guest: &&GuestSpec| match host.is_some() {
        true => guest.host == word || guest.runs_on == word,
        false => guest.tags.contains(&word),
    };
    let found: Vec<&GuestSpec> = inventory.guests.values().filter(meant).collect();
    if found.is_empty() {
        let (what, known): (_, BTreeSet<&str>) = match host.is_some() {
            true => ("is on that host", inventory.hosts.keys().map(String::as_str).collect()),
            false => ("has that tag", inventory.guests.values().flat_map(|g| &g.tags).map(String::as_str).collect()),
        };
        item.problem(format!("no guest {what}"), did_you_mean(&word, known));
    }
    found
}

/// Names after which an item comes become items.
fn connect(items: &mut [Picked<'_>]) {
    let places: BTreeMap<String, usize> =
        items.iter().enumerate().map(|(index, picked)| (picked.item.guest.clone(), index)).collect();
    for (index, picked) in items.iter_mut().enumerate() {
        let mut after = BTreeSet::new();
        for name in &picked.named {
            match places.get(name) {
                Some(other) if *other != index => {
                    after.insert(*other);
                }
                // One of those that the same tag picks comes after itself: not meant.
                Some(_) => {}
                None => {
                    if let Some(place) = &picked.after {
                        let near = did_you_mean(name, places.keys().map(String::as_str));
                        place.problem(format!("{name:?} is not in this batch"), near);
                    }
                }
            }
        }
        picked.item.after = after.into_iter().collect();
    }
}

/// Divides the items into waves.
fn divide(waves: &Value<'_>, items: &mut [Picked<'_>]) {
    let mut begins = 0;
    let sizes = waves.items();
    for (wave, size) in sizes.iter().enumerate() {
        let rest = size.is_string();
        let many = match rest {
            true if wave + 1 < sizes.len() => {
                size.problem("stands last", Some("waves = [1, 5, \"rest\"]".to_owned()));
                return;
            }
            true => match size.choice(&[("rest", ())]) {
                Some(()) => items.len() - begins,
                None => return,
            },
            false => match size.integer::<usize>(1..=10_000) {
                Some(many) => many.min(items.len() - begins),
                None => return,
            },
        };
        items[begins..begins + many].iter_mut().for_each(|picked| picked.item.wave = wave);
        begins += many;
    }
    if begins < items.len() {
        let message = format!("have room for {begins} of {} guests", items.len());
        waves.problem(message, Some("end them with \"rest\"".to_owned()));
    }
}

/// What waits for itself, or for a later wave, never begins.
fn order(section: &Section<'_>, items: &[Picked<'_>]) {
    let mut waits: Vec<usize> = items.iter().map(|picked| picked.item.after.len()).collect();
    let mut dependents = vec![Vec::new(); items.len()];
    for (index, picked) in items.iter().enumerate() {
        for other in &picked.item.after {
            dependents[*other].push(index);
            if let Some(place) = picked.after.as_ref().filter(|_| items[*other].item.wave > picked.item.wave) {
                let (guest, later) = (&picked.item.guest, &items[*other].item.guest);
                place.problem(format!("{guest} waits for {later}, which is in a later wave"), None);
            }
        }
    }
    let mut free: Vec<usize> = (0..items.len()).filter(|index| waits[*index] == 0).collect();
    while let Some(index) = free.pop() {
        for dependent in &dependents[index] {
            waits[*dependent] -= 1;
            if waits[*dependent] == 0 {
                free.push(*dependent);
            }
        }
    }
    let circle: Vec<&str> =
        items.iter().zip(&waits).filter(|(_, waits)| **waits > 0).map(|(p, _)| p.item.guest.as_str()).collect();
    if !circle.is_empty() {
        section.problem(
            format!("wait for each other in a circle: {}", circle.join(", ")),
            Some("look at their \"after\""),
        );
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
