//! What `init` made, what `gc` found and removed. Pure.

use hypervisors::host::printable;

use super::format::{bytes, count, hanging, table};
use crate::lifecycle::gc::{Collected, Kind};
use crate::lifecycle::init::Initialised;

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
        };
        rows.push(vec![
            if one.removable { "remove" } else { "keep" }.to_owned(),
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
