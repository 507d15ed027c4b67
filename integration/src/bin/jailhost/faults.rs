//! The file `faults` of the state: how programs are made to fail. A line each,
//!
//!     PROGRAM [WORD] = exit N ["MESSAGE"] | die-after BYTES | hang SECONDS | kill | lie   [xCOUNT | always]
//!
//! It is met by the next use of the program whose arguments contain the word (in any of them; none is any use), and with
//! each use its count, one unless said otherwise, goes down; at none the line is taken away. The first line that fits
//! counts. A line that is not understood is an error of every program: a fault that never strikes proves nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::host::Host;
use crate::say;

static LIES: AtomicBool = AtomicBool::new(false);

/// Whether this use of the program says that it did what it did not do.
pub fn lies() -> bool {
    LIES.load(Ordering::SeqCst)
}

#[derive(Debug, PartialEq, Clone)]
struct Fault {
    program: String,
    word: Option<String>,
    action: Action,
    /// How many uses are left; `None` is all of them.
    left: Option<u32>,
}

#[derive(Debug, PartialEq, Clone)]
enum Action {
    Exit(u8, Option<String>),
    DieAfter(u64),
    Hang(u64),
    Kill,
    Lie,
}

/// Uses up the fault that fits. A status is what the program ends with at once; `None` lets it run.
pub fn meet(host: &Host, program: &str, arguments: &[String]) -> Option<u8> {
    match strike(host, program, arguments)? {
        Action::Exit(status, message) => {
            if let Some(message) = message {
                say::err(&format!("{program}: {message}\n"));
            }
            return Some(status);
        }
        Action::DieAfter(bytes) => say::die_after(bytes),
        Action::Hang(seconds) => std::thread::sleep(std::time::Duration::from_secs(seconds)),
        Action::Kill => say::kill_myself(),
        Action::Lie => LIES.store(true, Ordering::SeqCst),
    }
    None
}

fn strike(host: &Host, program: &str, arguments: &[String]) -> Option<Action> {
    if !host.of_state("faults").exists() {
        return None;
    }
    let _lock = host.lock();
    let text = host.state_text("faults");
    let mut rest = String::new();
    let mut met = None;
    for line in text.lines() {
        let said = line.trim();
        if said.is_empty() || said.starts_with('#') {
            rest += &format!("{line}\n");
            continue;
        }
        let fault = match parse(said) {
            Ok(fault) => fault,
            Err(wrong) => {
                say::err(&format!("jailhost: {}: {wrong}: {said}\n", host.of_state("faults").display()));
                std::process::exit(70);
            }
        };
        let fits = met.is_none()
            && fault.program == program
            && fault.word.as_ref().is_none_or(|word| arguments.iter().any(|argument| argument.contains(word)));
        if !fits {
            rest += &format!("{line}\n");
            continue;
        }
        match fault.left {
            None => rest += &format!("{line}\n"),
            Some(1) => {}
            Some(count) => {
                let without = said.rsplit_once(" x").map_or(said, |(before, _)| before);
                rest += &format!("{without} x{}\n", count - 1);
            }
        }
        met = Some(fault.action);
    }
    if met.is_some() {
        host.write_state("faults", &rest);
    }
    met
}

fn parse(line: &str) -> Result<Fault, &'static str> {
    let (when, what) = line.split_once(" = ").ok_or("no ' = '")?;
    let mut when = when.split_whitespace();
    let program = when.next().ok_or("no program")?.to_owned();
    let word = when.next().map(str::to_owned);
    if when.next().is_some() {
        return Err("more than one word");
    }
    let mut what = what.trim();
    let mut left = Some(1);
    if let Some(before) = what.strip_suffix(" always") {
        (what, left) = (before, None);
    } else if let Some((before, count)) = what.rsplit_once(" x")
        && let Ok(count) = count.parse::<u32>()
    {
        (what, left) = (before, Some(count.max(1)));
    }
    let (verb, value) = what.trim().split_once(' ').unwrap_or((what.trim(), ""));
    let action = match verb {
        "exit" => {
            let (status, message) = value.split_once(' ').unwrap_or((value, ""));
            let message = message.trim().trim_matches('"');
            let message = (!message.is_empty()).then(|| message.to_owned());
            Action::Exit(status.parse().map_err(|_| "no status")?, message)
        }
        "die-after" => Action::DieAfter(value.parse().map_err(|_| "no number of bytes")?),
        "hang" => Action::Hang(value.parse().map_err(|_| "no number of seconds")?),
        "kill" if value.is_empty() => Action::Kill,
        "lie" if value.is_empty() => Action::Lie,
        _ => return Err("no such action"),
    };
    Ok(Fault { program, word, action, left })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::{Action, parse};

    #[test]
    fn lines_are_read_or_refused() {
        let fault = parse("dump -0 = exit 3 \"read error from /dev/ad0\" x2").unwrap();
        assert_eq!((fault.word.as_deref(), fault.left), (Some("-0"), Some(2)));
        assert_eq!(fault.action, Action::Exit(3, Some("read error from /dev/ad0".to_owned())));
        assert_eq!(parse("jail = lie always").unwrap().left, None);
        assert_eq!(parse("jail = die-after 200").unwrap().action, Action::DieAfter(200));
        assert_eq!(parse("jail -c NAME = kill"), Err("more than one word"));
        assert_eq!(parse("jail = explode"), Err("no such action"));
    }

    #[test]
    fn each_use_counts_down() {
        let directory = tempfile::tempdir().unwrap();
        let host = crate::host::Host {
            root: directory.path().to_owned(),
            state: directory.path().to_owned(),
            persona: crate::persona::Persona::default(),
        };
        host.write_state("faults", "# why\njail -c = kill x2\njls = hang 1\n");
        let create = ["-c".to_owned(), "A".to_owned()];
        assert_eq!(super::strike(&host, "jail", &["-r".to_owned()]), None);
        assert_eq!(super::strike(&host, "jail", &create), Some(Action::Kill));
        assert_eq!(host.state_text("faults"), "# why\njail -c = kill x1\njls = hang 1\n");
        assert_eq!(super::strike(&host, "jail", &create), Some(Action::Kill));
        assert_eq!(super::strike(&host, "jail", &create), None);
        assert_eq!(host.state_text("faults"), "# why\njls = hang 1\n");
    }
}
