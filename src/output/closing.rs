//! The last words of a changing verb: what is now, how long production was down, what to do next and how to go back.

use hypervisors::host::printable;

use super::format::{count, hanging, measured, width};
use super::terminal::Seen;
use super::{Style, error};
use crate::engine::ErrorInfo;
use crate::inventory::{DiskRule, Strategy};
use crate::lifecycle::app::Finish;
use crate::lifecycle::error::exit;
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::state::State;
use crate::verify::{Report, Side, Verdict};

/// What the closing words rest on.
pub struct Ending<'a> {
    /// The verb that was typed.
    pub verb: &'a str,
    /// How it ended.
    pub finish: &'a Finish,
    /// What was seen of it.
    pub seen: &'a Seen,
    /// The report of its checks, if it made any.
    pub report: Option<&'a Report>,
    /// Production was never down in this run.
    pub never_down: bool,
}

/// What goes to standard output.
pub fn result(ending: &Ending<'_>, style: Style) -> String {
    let Ending { finish, report, .. } = ending;
    let (Some(run), Some(state), Some(record)) = (&finish.run, finish.state, &finish.record) else {
        return String::new();
    };
    let mut text = report.map(|report| checks(ending, report, record, state, style)).unwrap_or_default();
    if !matches!(finish.code, exit::DONE | exit::UNPROVEN | exit::UNTIDY) {
        return text;
    }
    let guest = &record.original.name;
    let itself = record.machine.is_some() && record.strategy == Strategy::InPlace;
    let down = outage(finish, ending.seen);
    let line = |sentence: &str| hanging("", &printable(sentence));
    if ending.report.is_none() || state == State::Promoted && ending.verb == "promote" {
        text.push_str(&match state {
            State::Cloned if itself => {
                line(&format!("{guest} is measured, and nothing of it was changed. {down}"))
            }
            State::Cloned => line(&format!(
                "{run} is cloned: {} on {}, quarantined. {down}",
                record.addressing.shown(),
                record.clone_host()
            )),
            State::Upgraded if ending.verb == "rollback" => line(&format!(
                "{guest} is rolled back: the original serves again. {down} {run} is kept at {}, quarantined.",
                record.addressing.clone
            )),
            State::Upgraded if itself => line(&format!("{guest} itself is upgraded. {down}")),
            State::Upgraded => line(&format!("{run} is upgraded. {down}")),
            State::Promoted => promoted(ending, record, guest, &down),
            State::Committed if itself => {
                line(&format!("{guest} is committed: the new kernel is booted from now on. {down} Record: {}", record_of(run)))
            }
            State::Committed if record.transfer.is_some() => line(&format!(
                "{guest} is committed: the new guest is the server now; the old machine stays as it is, fenced. {down} Record: {}",
                record_of(run)
            )),
            State::Committed => {
                line(&format!("{guest} is committed: the old system is gone. {down} Record: {}", record_of(run)))
            }
            State::Aborted => aborted(ending, record, guest, run),
            state => line(&format!("{run} is {}. {down}", state.word().replace('_', " "))),
        });
    }
    text.push_str(&next(state, guest, finish.code, record.strategy == Strategy::InPlace));
    text
}

/// What goes to standard error: the failure, with a way on if the failure itself names none.
pub fn failure(ending: &Ending<'_>, style: Style) -> String {
    let finish = ending.finish;
    let Some(mut failure) = finish.error.clone() else { return String::new() };
    // The table has told what failed.
    if finish.code == exit::UNPROVEN && ending.report.is_some() {
        return failure.help.as_deref().map(error::help).unwrap_or_default();
    }
    let guest = finish.record.as_ref().map_or("GUEST", |record| &record.original.name);
    if let Some(way) = way_on(finish, guest) {
        failure.help = Some(match failure.help.take().filter(|help| !help.is_empty()) {
            Some(help) => format!("{help}\n{way}"),
            None => way,
        });
    }
    error::render(&failure, style)
}

/// A failure that no run knows of.
pub fn plain_failure(failure: &ErrorInfo, style: Style) -> String {
    error::render(failure, style)
}

fn way_on(finish: &Finish, guest: &str) -> Option<String> {
    let run = finish.run.as_deref()?;
    Some(match finish.code {
        // A promotion that got as far as stopping the clone.
        exit::UNDONE if finish.state == Some(State::Upgraded) => {
            format!("it was undone; the clone was restarted: upgradectl verify {guest}; {}", record_of(run))
        }
        exit::UNDONE => format!("it was undone: all is as before the verb; {}", record_of(run)),
        exit::PARTWAY => {
            let verbs: Vec<String> = finish.next.iter().map(|verb| format!("upgradectl {verb} {guest}")).collect();
            format!("go on or back: {}", verbs.join(", or "))
        }
        exit::UNTIDY => format!("upgradectl resume {guest} finishes it"),
        exit::STUCK => format!("upgradectl status {guest} shows the step; then retry, skip or abandon"),
        _ => return None,
    })
}

fn record_of(run: &str) -> String {
    format!("upgradectl log {}", short(run))
}

/// The end of a run's id: `k3f9`.
pub fn short(run: &str) -> &str {
    run.rsplit_once("--").map_or(run, |(_, id)| id)
}

fn outage(finish: &Finish, seen: &Seen) -> String {
    if finish.outage_s <= 0.0 {
        return "Outage: none.".to_owned();
    }
    let expected = seen.expected_s.map(|expected| format!(" (expected {expected:.0})")).unwrap_or_default();
    format!("Outage {}{expected}.", measured(finish.outage_s))
}

fn checks(ending: &Ending<'_>, report: &Report, record: &RunFacts, state: State, style: Style) -> String {
    let promoting = report.side == Side::Promoted && ending.verb == "promote";
    let all_passed = report.count(Verdict::Passed) == report.checks.len();
    if promoting && all_passed && state == State::Promoted {
        return String::new();
    }
    let mut table = report.table();
    if !promoting {
        // Nothing to colour in a table that is fit for a pipe but the one word that matters.
        table = table.replace("  FAILED  ", &format!("  {}  ", style.bad("FAILED")));
    }
    let untouched = if report.side == Side::Clone {
        format!(" {} ({}) was not touched.", record.original.name, record.addressing.original)
    } else {
        String::new()
    };
    format!("{table}\n{}", hanging("", &format!("{}.{untouched}", report.summary())))
}

fn promoted(ending: &Ending<'_>, record: &RunFacts, guest: &str, down: &str) -> String {
    let proven = if ending.finish.code == exit::UNPROVEN { " but unproven" } else { "" };
    let passed = ending.report.filter(|report| report.passed()).map_or(0, |report| report.count(Verdict::Passed));
    let passed = if passed > 0 { format!(" {} passed.", count(passed, "check")) } else { String::new() };
    // By strategy `origin` it is the promoted guest that stands on what was the original's.
    let production = record.sides().filter(|(disk, ..)| disk.rule == DiskRule::Clone);
    let kept: Vec<String> = production.map(|(_, original, _)| original.to_string()).collect();
    let first = hanging("", &printable(&format!("{guest} is promoted{proven}. {down}{passed}")));
    let kept = match &record.transfer {
        None if record.strategy == Strategy::Linked => {
            format!("The original is off, and kept: {}.original.", record.clone.name)
        }
        None => format!("The original is stopped and kept: {}.", kept.join(", ")),
        Some(transfer) => match &transfer.parking {
            Some(parking) => format!("The server is kept, without its services, at {}.", parking.ip),
            None => "The server is kept, off the network.".to_owned(),
        },
    };
    format!("{first}{}", hanging("", &printable(&kept)))
}

fn aborted(ending: &Ending<'_>, record: &RunFacts, guest: &str, run: &str) -> String {
    if let Some(machine) = record.machine.as_ref().filter(|_| record.strategy == Strategy::InPlace) {
        let mut text = hanging("  kernel    ", &format!("{} runs", machine.kernel));
        text.push_str(&hanging("  files     ", "as they were before"));
        let updated = ending.seen.undone.iter().any(|(kind, _)| *kind == "yum.update");
        let packages = if updated { "stay as they were updated" } else { "were not touched" };
        text.push_str(&hanging("  packages  ", packages));
        text.push_str(&hanging(
            "",
            &format!("{guest} is given up. {} Record: {}", outage(ending.finish, ending.seen), record_of(run)),
        ));
        return text;
    }
    let took = |wanted: &str| ending.seen.undone.iter().any(|(kind, _)| *kind == wanted);
    let mut removed = vec![run.to_owned()];
    if took("guest.define") {
        removed.push("its definition".to_owned());
    }
    if took("machine.snapshot") {
        removed.push("its snapshot".to_owned());
    }
    if took("storage.snapshot") {
        removed.push(count(record.disks.iter().filter(|disk| disk.target.is_some()).count(), "volume"));
    }
    if took("jail.tree") || took("container.tree") {
        removed.push("its tree".to_owned());
    }
    let mut text = hanging("  removed   ", &removed.join(", "));
    let hooks = ending.seen.undone.iter().filter(|(kind, _)| *kind == "hook");
    for (_, title) in hooks {
        text.push_str(&hanging("  restored  ", &printable(title)));
    }
    let original = if ending.never_down && record.transfer.is_some() {
        "never stopped; nothing of it was changed".to_owned()
    } else if ending.never_down {
        "never stopped; its definition unchanged".to_owned()
    } else {
        match ending.finish.outage_s {
            down if down > 0.0 => format!("serves again after {}; its definition as before clone", measured(down)),
            _ => "kept serving; its definition as before clone".to_owned(),
        }
    };
    text.push_str(&hanging("  original  ", &original));
    text.push_str(&hanging("", &format!("{guest} is as it was. Record: {}", record_of(run))));
    text
}

/// `itself`: there is no clone, the guest itself is upgraded.
fn next(state: State, guest: &str, code: u8, itself: bool) -> String {
    let (next, undo) = match state {
        State::Cloned => ("upgrade", "abort"),
        State::Upgraded if code == exit::UNPROVEN => ("upgrade", "abort"),
        State::Upgraded => ("verify", "abort"),
        State::Verified if itself => ("commit", "abort"),
        State::Verified => ("promote", "abort"),
        State::Promoted if code == exit::UNPROVEN => ("verify", "rollback"),
        State::Promoted => ("commit", "rollback"),
        _ => return String::new(),
    };
    let next = format!("next: upgradectl {next} {guest}");
    let gap = 40_usize.saturating_sub(width(&next)).max(2);
    format!("{next}{:gap$}undo: upgradectl {undo} {guest}\n", "")
}
