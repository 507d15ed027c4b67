//! Compares what was recorded with what a stand-in printed. Rules take away what cannot be the same on another machine at
//! another time; each recording says which of them it needs, and what they do is said at each.

use super::recording::Case;
use super::stage::Got;

/// Makes a line comparable.
pub type Rule = fn(&str) -> String;

/// What differs, in words; nothing if all is the same.
pub fn difference(case: &Case, got: &Got, rules: &[Rule]) -> Option<String> {
    let same = fits(&case.output, &got.output, rules) && fits(&case.left, &got.left, rules) && case.exits == got.exits;
    if same {
        return None;
    }
    Some(format!(
        "line {}: $ {}\n--- recorded {:?}\n{}{}--- printed {:?}\n{}{}",
        case.line, case.command, case.exits, case.output, case.left, got.exits, got.output, got.left
    ))
}

/// Whether two texts are the same under the rules. `[... N lines left out ...]` stands for any lines.
fn fits(recorded: &str, printed: &str, rules: &[Rule]) -> bool {
    let plain = |text: &str| -> Vec<String> {
        text.lines().map(|line| rules.iter().fold(line.to_owned(), |line, rule| rule(&line))).collect()
    };
    let (recorded, printed) = (plain(recorded), plain(printed));
    match recorded.iter().position(|line| line.starts_with("[... ")) {
        None => recorded == printed,
        Some(at) => {
            let end = &recorded[at + 1..];
            printed.len() >= at + end.len()
                && printed[..at] == recorded[..at]
                && printed[printed.len() - end.len()..] == *end
        }
    }
}

#[test]
fn left_out_lines_stand_for_any() {
    assert!(fits("a\n[... 3 lines left out ...]\nz\n", "a\nb\nc\nz\n", &[]));
    assert!(!fits("a\n[... 3 lines left out ...]\nz\n", "a\nb\nc\ny\n", &[]));
    assert!(!fits("a\nb\n", "a\n", &[]));
}
