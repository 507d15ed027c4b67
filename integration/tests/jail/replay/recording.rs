//! Reads a recording: `$ COMMAND`, what was printed, `[exit N]`. Lines with `#` are remarks.

use std::path::Path;

/// A command and what came of it.
#[derive(Debug, Clone, Default)]
pub struct Case {
    /// Where in its file, from 1.
    pub line: usize,
    /// As it was typed.
    pub command: String,
    /// What was printed, both channels together; in a pipeline that of the right side.
    pub output: String,
    /// What the left side of a pipeline printed on its standard error.
    pub left: String,
    /// The exit status; of a pipeline both; of several programs at once each.
    pub exits: Vec<i32>,
}

/// A file of cases.
pub struct Recording {
    /// The file's name.
    pub name: String,
    /// In their order.
    pub cases: Vec<Case>,
}

impl Recording {
    /// Reads one of `jailhost/recordings/`.
    pub fn read(name: &str) -> Self {
        let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("jailhost/recordings").join(name);
        let text = std::fs::read_to_string(&at).expect("a recording");
        Self { name: name.to_owned(), cases: cases(&text) }
    }

    /// What a command printed, for the files that the recording shows.
    pub fn printed_by(&self, command: &str) -> &str {
        &self.cases.iter().find(|case| case.command == command).expect("a recorded command").output
    }
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    // Whether lines belong to the last case, and to which part of it.
    let (mut is_open, mut is_left) = (false, false);
    for (at, line) in text.lines().enumerate() {
        if let Some(command) = line.strip_prefix("$ ") {
            cases.push(Case { line: at + 1, command: command.to_owned(), ..Case::default() });
            (is_open, is_left) = (true, false);
            continue;
        }
        // Remarks within what is printed are the program's own, but for a case that never ended.
        if !is_open || line.starts_with("# never ends") || line.starts_with("# --- ") {
            is_open &= !line.starts_with('#');
            let more = cases.last_mut().filter(|case| !line.starts_with('#') && case.command.ends_with("& wait"));
            if let Some(case) = more {
                take(case, line, false, &mut is_open);
                is_open = false;
            }
            continue;
        }
        if line == "[stderr of the left side]" {
            is_left = true;
        } else if let Some(case) = cases.last_mut() {
            take(case, line, is_left, &mut is_open);
        }
    }
    cases
}

fn take(case: &mut Case, line: &str, is_left: bool, is_open: &mut bool) {
    let into = if is_left { &mut case.left } else { &mut case.output };
    if let Some(exits) = line.strip_prefix("[exits: left ").and_then(|rest| rest.strip_suffix(']')) {
        case.exits = exits.split(", right ").map(|exit| exit.parse().expect("an exit status")).collect();
        *is_open = false;
    } else if let Some((before, exit)) = line.strip_suffix(']').and_then(|line| line.rsplit_once("[exit ")) {
        into.push_str(before);
        case.exits.push(exit.parse().expect("an exit status"));
        *is_open = false;
    } else {
        into.push_str(line);
        into.push('\n');
    }
}

#[test]
fn recordings_are_read_whole() {
    let text = "# a remark\n$ one\nout\n[exit 0]\nstray\n$ l | r\nright\n[stderr of the left side]\nleft\n[exits: left 3, right 0]\n$ asks\nwhat? [exit 1]\n";
    let cases = cases(text);
    assert_eq!(cases.len(), 3);
    assert_eq!((cases[0].output.as_str(), &cases[0].exits), ("out\n", &vec![0]));
    assert_eq!((cases[1].output.as_str(), cases[1].left.as_str(), &cases[1].exits), ("right\n", "left\n", &vec![3, 0]));
    assert_eq!((cases[2].output.as_str(), &cases[2].exits), ("what? ", &vec![1]));
}
