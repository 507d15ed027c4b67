//! What `init` made. Pure.

use hypervisors::host::printable;

use super::format::hanging;
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
