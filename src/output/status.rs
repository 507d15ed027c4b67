//! The table of `status`. Pure.

use hypervisors::Power;
use hypervisors::host::printable;
use jiff::Timestamp;

use super::Style;
use super::closing::short;
use super::format::{ago, table};
use super::watch::fullest;
use crate::lifecycle::query::StatusLine;

/// One line a run. `live`: the platform was asked too.
pub fn render(lines: &[StatusLine], now: Timestamp, style: Style) -> String {
    if lines.is_empty() {
        return "no open runs\n".to_owned();
    }
    let head = ["GUEST", "RUN", "STATE", "SINCE", "CLONE", "FILL", "NOW"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for line in lines {
        rows.push(vec![
            printable(&line.guest),
            short(&line.run).to_owned(),
            line.state.clone(),
            ago(line.since, now),
            line.clone.address.clone(),
            fullest(&line.volumes, now),
            doing(line),
        ]);
    }
    let text = table(0, &rows);
    ["INTERRUPTED", "STUCK", "LOST"].iter().fold(text, |text, word| text.replace(word, &style.bad(word)))
}

fn doing(line: &StatusLine) -> String {
    let next = line.next.join(", ");
    let power = match line.clone.power {
        Some(Power::On) => "clone on; ",
        Some(Power::Off) => "clone off; ",
        Some(Power::Paused) => "clone paused; ",
        None => "",
    };
    let now = if let Some(step) = line.stuck_step {
        format!("STUCK at step {step}: retry, skip, abandon")
    } else if line.volumes.iter().any(|volume| volume.lost.is_some()) {
        "LOST: the snapshot filled up; abort cleans up".to_owned()
    } else if line.interrupted {
        format!("INTERRUPTED: {next}")
    } else if let Some(now) = line.now.as_ref().filter(|_| line.holder.is_some()) {
        printable(now)
    } else if let Some(why) = &line.unproven {
        format!("unproven: {}", printable(why))
    } else if line.last_verification.as_ref().is_some_and(|last| !last.passed) {
        "verification failed".to_owned()
    } else {
        format!("next: {next}")
    };
    let trouble = line.trouble.as_ref().map(|why| format!("; {}", printable(why))).unwrap_or_default();
    format!("{power}{now}{trouble}")
}
