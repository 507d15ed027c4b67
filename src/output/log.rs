//! The record of a run. Pure.

use hypervisors::host::printable;

use super::format::{WIDTH, count, hanging, measured, time, width, wrap};
use crate::lifecycle::log::{PlanLog, RunLog};

/// The whole record.
pub fn render(log: &RunLog) -> String {
    let until = log.closed.map_or("now".to_owned(), time);
    let outage = if log.outage_s > 0.0 { measured(log.outage_s) } else { "none".to_owned() };
    let head = format!(
        "{} is {}: {} to {until}, {}. Outage: {outage}.",
        log.run,
        log.state.replace('_', " "),
        time(log.opened),
        count(log.plans.len(), "plan"),
    );
    let mut text = hanging("", &printable(&head));
    for plan in &log.plans {
        text.push('\n');
        text.push_str(&of_plan(plan));
    }
    if !log.decisions.is_empty() {
        text.push_str("\nDecisions\n");
        for decision in &log.decisions {
            let step = decision.step.map(|step| format!(" step {step}")).unwrap_or_default();
            let plan = decision.plan.map(|plan| format!(" of plan {plan}")).unwrap_or_default();
            let what = format!("{}{step}{plan} by {}: {}", decision.decision, decision.by, decision.reason);
            text.push_str(&hanging(&format!("  {}  ", time(decision.time)), &printable(&what)));
        }
    }
    if !log.watch.is_empty() {
        text.push_str("\nSnapshots\n");
        for note in &log.watch {
            let what =
                if note.outcome == "done" { note.text.clone() } else { format!("{}: {}", note.outcome, note.text) };
            text.push_str(&hanging(&format!("  {}  ", time(note.time)), &printable(&what)));
        }
    }
    text
}

fn of_plan(plan: &PlanLog) -> String {
    let undoes = plan.undoes.map(|undone| format!(" (takes plan {undone} back)")).unwrap_or_default();
    let outcome = plan.outcome.as_deref().unwrap_or("unfinished");
    let head = format!("Plan {} {}: {}{undoes}: {outcome}", plan.plan, plan.digest, plan.verb);
    let mut text = hanging("", &printable(&head));
    text.push_str(&hanging("     ", &printable(&format!("{}, {}", time(plan.stored), plan.by))));
    let outcomes: Vec<String> = plan
        .steps
        .iter()
        .map(|step| if step.undone { format!("{}, undone", step.outcome) } else { step.outcome.clone() })
        .collect();
    let longest = outcomes.iter().map(|outcome| width(outcome)).max().unwrap_or(0);
    let room = WIDTH - 5 - 2 - longest - 2 - 7;
    for (step, outcome) in plan.steps.iter().zip(&outcomes) {
        let title = wrap(&printable(&step.title), room);
        for (row, line) in title.iter().enumerate() {
            let row = if row == 0 {
                let elapsed = step.elapsed_s.map(measured).unwrap_or_default();
                format!("{:>3}  {line:room$}  {outcome:longest$}  {elapsed:>7}", step.index)
            } else {
                format!("     {line}")
            };
            text.push_str(row.trim_end());
            text.push('\n');
        }
        for line in step.error.iter().flat_map(|error| error.lines()) {
            text.push_str(&hanging("       ", &printable(line)));
        }
    }
    let left = plan.of - plan.steps.len();
    if left > 0 && plan.outcome.as_deref() != Some("done") {
        text.push_str(&format!("     {} not begun\n", count(left, "step")));
    }
    text
}
