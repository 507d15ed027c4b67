//! Replays what a real FreeBSD 13.2 printed against the stand-ins, case by case in the recorded order, and compares what
//! is printed and the exit statuses. A recorded case is either replayed here or stands in the table of those that do not
//! apply, with its reason; one that does neither fails, and so does a line of the table that no case needs.

mod compare;
mod etcupdate;
mod host_tools;
mod lifecycle;
mod needs_root;
mod recording;
mod stage;
mod standins;
mod unit_standin;
mod world;
mod zfs;

use compare::Rule;
use recording::{Case, Recording};
use stage::Stage;

/// A case of a recording that is not replayed: its command as recorded, and why.
type NotApplying = (&'static str, &'static str);

/// Replays a recording. `before` prepares what happened between two cases without a word in the recording.
fn replay(
    stage: &Stage,
    recording: &Recording,
    not_applying: &[NotApplying],
    rules: &[Rule],
    before: impl Fn(&Stage, &Case),
) {
    let mut unused: Vec<&str> = not_applying.iter().map(|(command, _)| *command).collect();
    let mut differences = Vec::new();
    let mut replayed = 0;
    for case in &recording.cases {
        before(stage, case);
        if not_applying.iter().any(|(command, _)| *command == case.command) {
            unused.retain(|command| *command != case.command);
            continue;
        }
        replayed += 1;
        let got = stage.run(case);
        differences.extend(compare::difference(case, &got, rules));
    }
    println!("{}: {replayed} cases replayed, {} do not apply", recording.name, recording.cases.len() - replayed);
    assert!(unused.is_empty(), "listed as not applying, but not recorded: {unused:#?}");
    assert!(differences.is_empty(), "{}\n{} of {replayed} cases differ", differences.join("\n"), differences.len());
}
