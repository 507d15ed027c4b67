//! Compares what was recorded with what a stand-in printed. Rules take away what cannot be the same on another machine at
//! another time; each recording says which of them it needs, and what they do is said at each.

use super::recording::Case;
use super::stage::Got;

/// Makes a line comparable.
pub type Rule = fn(&str) -> String;

/// What a rule makes of a line that is not compared at all.
pub const DROPPED: &str = "\0";

/// What differs, in words; nothing if all is the same.
pub fn difference(case: &Case, got: &Got, rules: &[Rule]) -> Option<String> {
    let by_file = case.command.starts_with("etcupdate diff ");
    let same = if by_file {
        files_fit(&case.output, &got.output)
    } else {
        fits(&case.output, &got.output, rules) && fits(&case.left, &got.left, rules)
    } && case.exits == got.exits;
    if same {
        return None;
    }
    let short = |text: &str| -> String {
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.len().saturating_sub(15).max(15);
        let shown = lines.iter().enumerate().filter(|(at, _)| *at < 15 || *at >= end);
        shown.map(|(_, line)| format!("{line}\n")).collect()
    };
    Some(format!(
        "line {}: $ {}\n--- recorded {:?}\n{}{}--- printed {:?}\n{}{}",
        case.line,
        case.command,
        case.exits,
        short(&case.output),
        short(&case.left),
        got.exits,
        short(&got.output),
        short(&got.left)
    ))
}

/// Whether two texts are the same under the rules. `[... N lines left out ...]` stands for any lines.
fn fits(recorded: &str, printed: &str, rules: &[Rule]) -> bool {
    let plain = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| rules.iter().fold(line.to_owned(), |line, rule| rule(&line)));
        lines.filter(|line| line != DROPPED).collect()
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

/// `etcupdate diff` goes through a directory in its own order: the differences are compared file by file.
fn files_fit(recorded: &str, printed: &str) -> bool {
    let blocks = |text: &str| -> Vec<String> { text.split("Index: ").skip(1).map(str::to_owned).collect() };
    let (recorded, mut printed) = (blocks(recorded), blocks(printed));
    let whole = recorded.iter().all(|block| !block.contains("[... "));
    for block in &recorded {
        // What is left out begins in one file and ends in another.
        let found = match block.split_once("[... ").and_then(|(head, rest)| Some((head, rest.split_once('\n')?.1))) {
            Some((head, tail)) => {
                printed.iter().any(|other| other.ends_with(tail)) && printed.iter().any(|other| other.starts_with(head))
            }
            None => printed.iter().any(|other| other == block),
        };
        if !found {
            return false;
        }
        printed.retain(|other| other != block);
    }
    !whole || printed.is_empty()
}

#[test]
fn differences_are_compared_file_by_file() {
    assert!(files_fit("Index: a\n1\nIndex: b\n2\n", "Index: b\n2\nIndex: a\n1\n"));
    assert!(!files_fit("Index: a\n1\n", "Index: a\n1\nIndex: b\n2\n"));
    assert!(!files_fit("Index: a\n1\nIndex: b\n2\n", "Index: a\n1\n"));
    assert!(files_fit("Index: a\n1\n[... 9 lines left out ...]\n4\n", "Index: c\n3\n4\nIndex: a\n1\n2\n"));
}

#[test]
fn left_out_lines_stand_for_any() {
    assert!(fits("a\n[... 3 lines left out ...]\nz\n", "a\nb\nc\nz\n", &[]));
    assert!(!fits("a\n[... 3 lines left out ...]\nz\n", "a\nb\nc\ny\n", &[]));
    assert!(!fits("a\nb\n", "a\n", &[]));
}
