//! What `init` made, what `doctor` found, what `gc` found and removed. Pure.

use hypervisors::host::printable;

use super::Style;
use super::format::{bytes, count, hanging, table};
use super::page::warning;
use crate::lifecycle::doctor::Diagnosis;
use crate::lifecycle::gc::{Collected, Kind};
use crate::lifecycle::init::Initialised;
use crate::lifecycle::preflight::Verdict;

/// What was made, what was there, and what to do next.
pub fn init(done: &Initialised) -> String {
    let mut text = String::new();
    for (label, paths) in [("made", &done.made), ("kept", &done.kept)] {
        for path in paths {
            text.push_str(&format!("  {label}  {}\n", printable(&path.display().to_string())));
        }
    }
    for (number, next) in done.next.iter().enumerate() {
        text.push_str(&hanging(if number == 0 { "next: " } else { "      " }, &printable(next)));
    }
    text
}

/// What `gc` found, and what it would do with each.
pub fn found(found: &Collected) -> String {
    let mut text = String::new();
    let mut rows = Vec::new();
    for one in &found.found {
        let kind = match one.kind {
            Kind::Definition => "definition",
            Kind::Volume => "volume",
            Kind::Machine => "machine",
            Kind::Snapshot => "snapshot",
            Kind::Reversal => "reversal",
        };
        let verb = match (one.removable, one.kind) {
            (true, Kind::Reversal) => "run",
            (true, _) => "remove",
            (false, _) => "keep",
        };
        rows.push(vec![
            verb.to_owned(),
            kind.to_owned(),
            one.size_bytes.map(bytes).unwrap_or_default(),
            printable(&format!("{} on {}: {}", one.object, one.host, one.why)),
        ]);
    }
    text.push_str(&table(2, &rows));
    if found.found.is_empty() {
        text.push_str("nothing is left over\n");
    }
    for host in &found.unreachable {
        text.push_str(&hanging("  ! ", &format!("not looked at: {}", printable(host))));
    }
    text
}

/// What `gc` did.
pub fn collected(done: &Collected) -> String {
    let mut text = String::new();
    if !done.removed.is_empty() {
        text.push_str(&format!("{} removed\n", count(done.removed.len(), "object")));
    }
    if let Some(object) = &done.adopted {
        text.push_str(&hanging("", &printable(&format!("{object} is yours now: its mark is gone"))));
    }
    text
}

/// What `doctor` found, place by place: what is as it should be in one line, the rest with its remedy.
pub fn doctor(diagnosis: &Diagnosis, style: Style) -> String {
    let mut places: Vec<&str> = diagnosis.findings.iter().map(|placed| placed.place.as_str()).collect();
    places.dedup();
    let mut text = String::new();
    for place in places {
        let here = || diagnosis.findings.iter().filter(|placed| placed.place == place).map(|placed| &placed.finding);
        let number = |verdict| here().filter(|finding| finding.verdict == verdict).count();
        let mut parts = vec![format!("{} passed", number(Verdict::Passed))];
        for (verdict, word) in [(Verdict::Warning, "warning"), (Verdict::Refused, "failure")] {
            if number(verdict) > 0 {
                parts.push(count(number(verdict), word));
            }
        }
        text.push_str(&format!("{}: {}\n", printable(place), parts.join(", ")));
        for finding in here().filter(|finding| finding.verdict != Verdict::Passed) {
            text.push_str(&warning(&finding.detail, finding.verdict == Verdict::Refused, style));
            if let Some(remedy) = finding.remedy.as_deref().filter(|remedy| !remedy.is_empty()) {
                text.push_str(&hanging("    ", &format!("help: {}", printable(remedy))));
            }
        }
    }
    text
}
