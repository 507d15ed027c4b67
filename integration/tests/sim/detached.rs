//! Detached data on the ways back: kept, or restored as it was at promotion; and a restoring that is struck anywhere.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hypervisors::sim::How;
use hypervisors::storage::Copies;
use nix::pty::openpty;

use crate::bench::{Bench, Ending as _, Picture, WAY};
use crate::matrix::strikes;

const MBOX: &str = "archive/2024.mbox";
const RESTORE: [&str; 2] = ["--restore-detached", "/srv/mail"];

/// A promoted guest that has written to its detached data; the world before its promotion.
struct Ground {
    bench: Bench,
    before: Picture,
    old: Vec<u8>,
}

/// Sets a number of the simulated machine.
fn configure(bench: &Bench, key: &str, value: u64) {
    let path = bench.path("world/host.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value.into();
    fs::write(&path, config.to_string()).unwrap();
}

impl Ground {
    fn new() -> Self {
        Self::on(None)
    }

    /// On volumes of a kind by a strategy; `None`: trees, by `snapshot`.
    fn on(kind: Option<(Copies, &str)>) -> Self {
        let bench = kind.map_or_else(Bench::new, |(copies, strategy)| Bench::with_copies(copies, strategy));
        if kind.is_some() {
            // Covering snapshots of all disks have room.
            configure(&bench, "pool_free_bytes", 200 << 30);
        }
        // By strategy `origin` a clone asks.
        for (verb, state) in &WAY[..3] {
            bench.good(verb, state);
        }
        let (before, old) = (bench.picture(), fs::read(bench.volume("mercure-mail", MBOX)).unwrap());
        bench.good("promote", "promoted");
        fs::write(bench.volume("mercure-mail", MBOX), "rewritten by the new release").unwrap();
        fs::write(bench.volume("mercure-mail", "new.mbox"), "accepted since").unwrap();
        Self { bench, before, old }
    }

    /// What the data is: `Some(true)` as at promotion, `Some(false)` as written since; `None`: neither, or not whole.
    fn is_old(&self) -> Option<bool> {
        let mbox = fs::read(self.bench.volume("mercure-mail", MBOX)).ok()?;
        match (mbox == self.old, self.bench.volume("mercure-mail", "new.mbox").exists()) {
            (true, false) => Some(true),
            (false, true) if mbox == b"rewritten by the new release" => Some(false),
            _ => None,
        }
    }

    /// Nothing is left of a snapshot or of what was displaced, and the data bears its own mark: none.
    #[track_caller]
    fn tidy(&self, about: &str) {
        let left = |entry: &fs::DirEntry| entry.file_name().to_str().unwrap().contains(".saved");
        let volumes = fs::read_dir(self.bench.path("world/volumes")).unwrap();
        assert_eq!(volumes.filter(|entry| left(entry.as_ref().unwrap())).count(), 0, "{about}: a snapshot is left");
        let meta = fs::read_to_string(self.bench.path("world/volumes/mercure-mail.json")).unwrap();
        let meta: serde_json::Value = serde_json::from_str(&meta).unwrap();
        assert!(meta["mark"].is_null() && meta["intent"].is_null(), "{about}: {meta}");
        self.bench.no_conflicts(about);
    }
}

#[test]
fn kept_unless_it_is_said() {
    for verb in ["rollback", "abort"] {
        let ground = Ground::new();
        let plan = ground.bench.ctl_run(&["plan", verb, "mercure"]);
        assert!(
            plan.stdout.contains("what was written to /srv/mail") && !plan.stdout.contains("IRREVERSIBLE"),
            "{plan}"
        );
        let said = ground.bench.verb(verb);
        assert_eq!((said.code, ground.is_old()), (0, Some(false)), "{said}");
        ground.tidy(verb);
    }
}

#[test]
fn restored_as_it_was_at_promotion() {
    for (verb, state) in [("rollback", "upgraded"), ("abort", "aborted")] {
        let ground = Ground::new();
        let plan = ground.bench.ctl_run(&["plan", verb, "mercure", RESTORE[0], RESTORE[1]]);
        assert!(plan.stdout.contains("restored") && plan.stdout.contains("IRREVERSIBLE"), "{plan}");
        let json = ground.bench.ctl_run(&["--json", "plan", verb, "mercure", RESTORE[0], RESTORE[1]]).json().unwrap();
        let steps = json["steps"].as_array().unwrap();
        let at =
            |title: &str| steps.iter().position(|step| step["title"].as_str().unwrap().starts_with(title)).unwrap();
        let restore = at("restore /srv/mail as it was");
        assert!(steps[restore]["irreversible"] == true && steps[restore]["kind"] == "storage.restore", "{json}");
        assert!(restore < steps.len() - 1 && at("remove") > restore, "it is displaced first and removed late");
        assert_eq!(ground.is_old(), Some(false), "a plan touches nothing");

        let said = ground.bench.verb_with(verb, &RESTORE);
        assert_eq!((said.code, said.state().as_deref(), ground.is_old()), (0, Some(state), Some(true)), "{said}");
        ground.tidy(verb);
        let mail = |picture: &Picture| -> Vec<(String, String)> {
            let all = picture.0.iter().filter(|(name, _)| name.contains("mercure-mail"));
            all.map(|(name, what)| (name.clone(), what.clone())).collect()
        };
        assert_eq!(mail(&ground.bench.picture()), mail(&ground.before), "{verb}");
        if verb == "rollback" {
            // What was done for good does not stand in the way of what comes after it.
            for (verb, state) in [("verify", "verified"), ("promote", "promoted"), ("rollback", "upgraded")] {
                ground.bench.good(verb, state);
            }
            ground.bench.good("abort", "aborted");
            ground.tidy("afterwards");
            assert_eq!(ground.is_old(), Some(true));
        }
    }
}

#[test]
fn on_logical_volumes_it_is_restored_by_a_merge() {
    for copies in [Copies::Dependents, Copies::Peers] {
        for strategy in ["snapshot", "origin"] {
            for (verb, state) in [("rollback", "upgraded"), ("abort", "aborted")] {
                let about = format!("{copies:?} {strategy} {verb}");
                let ground = Ground::on(Some((copies, strategy)));
                let plan = ground.bench.ctl_run(&["plan", verb, "mercure", RESTORE[0], RESTORE[1]]);
                assert!(plan.stdout.contains("restored") && plan.stdout.contains("IRREVERSIBLE"), "{about}: {plan}");
                assert_eq!(ground.is_old(), Some(false), "{about}: a plan touches nothing");
                let said = ground.bench.verb_with(verb, &RESTORE);
                assert_eq!((said.code, said.state().as_deref()), (0, Some(state)), "{about}: {said}");
                assert_eq!(ground.is_old(), Some(true), "{about}");
                ground.tidy(&about);

                let ground = Ground::on(Some((copies, strategy)));
                let said = ground.bench.verb(verb);
                assert_eq!((said.code, ground.is_old()), (0, Some(false)), "{about}, kept: {said}");
                ground.tidy(&about);
            }
        }
    }
}

#[test]
fn production_runs_while_restored_data_still_drains() {
    let ground = Ground::on(Some((Copies::Dependents, "snapshot")));
    configure(&ground.bench, "merge_ms", 3000);
    let said = ground.bench.verb_with("rollback", &RESTORE);
    assert_eq!((said.code, ground.is_old()), (0, Some(true)), "{said}");
    assert!(said.took > Duration::from_secs(3), "it waits for the end of the merge: {said}");
    assert!(said.ending()["outage_s"].as_f64().unwrap() < 2.0, "and production does not: {said}");
    ground.tidy("drained");
}

#[test]
fn what_cannot_be_restored_is_refused_before_anything_is_touched() {
    let ground = Ground::new();
    let effects = ground.bench.trace().len();
    let said = ground.bench.verb_with("rollback", &["--restore-detached", "/srv/male"]);
    assert_eq!(said.code, 2, "{said}");
    assert!(said.ending()["error"].to_string().contains("names them: /srv/mail"), "{said}");
    let said = ground.bench.verb_with("abort", &["--restore-detached", "/"]);
    assert_eq!(said.code, 2, "a cloned disk is no detached one: {said}");
    // Its snapshot is gone.
    let name = format!("{}-srv-mail.saved", ground.bench.run_id());
    let (tree, kept) = (ground.bench.volume(&name, ""), ground.bench.path("kept-snapshot"));
    fs::rename(&tree, &kept).unwrap();
    let said = ground.bench.verb_with("rollback", &RESTORE);
    assert_eq!(said.code, 7, "{said}");
    fs::rename(&kept, &tree).unwrap();
    assert_eq!((ground.bench.trace().len(), ground.bench.state().as_str()), (effects, "promoted"));
    assert_eq!(ground.is_old(), Some(false));

    ground.bench.good("rollback", "upgraded");
    let said = ground.bench.verb_with("abort", &RESTORE);
    assert_eq!((said.code, ground.bench.state().as_str()), (7, "upgraded"), "nothing is there to restore from: {said}");
}

/// A terminal with somebody at it who answers.
fn at_a_terminal(bench: &Bench, args: &[&str], answers: &[(&str, &str)]) -> (i32, String) {
    let pty = openpty(None, None).unwrap();
    let side = || pty.slave.try_clone().unwrap();
    let mut command = bench.ctl.command(args.iter().copied());
    let mut child: Child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
    drop((command, pty.slave));
    let (mut master, shown) = (File::from(pty.master), Arc::new(Mutex::new(String::new())));
    let (mut reader, text) = (master.try_clone().unwrap(), shown.clone());
    let reading = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = reader.read(&mut bytes) {
            text.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    });
    let begun = Instant::now();
    let mut seen = 0;
    for (question, answer) in answers {
        loop {
            let text = shown.lock().unwrap().clone();
            if let Some(at) = text[seen..].find(question) {
                seen += at + question.len();
                break;
            }
            if begun.elapsed() > Duration::from_secs(15) {
                child.kill().unwrap();
                panic!("{question:?} is not asked: {text}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        master.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    let code = child.wait().unwrap().code().unwrap_or(-1);
    reading.join().unwrap();
    let text = shown.lock().unwrap().clone();
    (code, text)
}

#[test]
fn asked_at_the_terminal_after_the_page_and_before_the_approval() {
    let ground = Ground::new();
    ground.bench.keep("promoted");
    let approve = ("Type mercure to go on: ", "mercure");
    for (answer, old, pages) in [("", false, 1), ("n", false, 1), ("y", true, 2)] {
        let asked = [("instead? [y/N] ", answer), approve];
        let (code, text) = at_a_terminal(&ground.bench, &["rollback", "mercure"], &asked);
        assert_eq!((code, ground.is_old()), (0, Some(old)), "{answer:?}: {text}");
        let count = text.matches("Roll mercure back").count();
        assert_eq!(count, pages, "the page is shown again if the answer changes it: {text}");
        assert_eq!(text.contains("cannot be taken back"), old, "{text}");
        ground.tidy(answer);
        ground.bench.back_to("promoted");
    }
    // What the command line says is not asked; what is approved by it is kept.
    let said = ["rollback", "mercure", RESTORE[0], RESTORE[1]];
    let (code, text) = at_a_terminal(&ground.bench, &said, &[approve]);
    assert_eq!((code, ground.is_old(), text.contains("[y/N]")), (0, Some(true), false), "{text}");
    ground.bench.back_to("promoted");
    let (code, text) = at_a_terminal(&ground.bench, &["rollback", "mercure", "--yes"], &[]);
    assert_eq!((code, ground.is_old(), text.contains("[y/N]")), (0, Some(false), false), "{text}");
    ground.bench.back_to("promoted");
    let declined = [("[y/N] ", "y"), ("go on: ", "no")];
    let (code, text) = at_a_terminal(&ground.bench, &["abort", "mercure"], &declined);
    assert_eq!((code, ground.is_old(), ground.bench.state().as_str()), (6, Some(false), "promoted"), "{text}");
}

/// Every operation of a way back with a restoring is struck in this way; then it is resumed.
fn struck(verb: &str, done: &str, how: How) {
    struck_on(None, verb, done, how);
}

fn struck_on(kind: Option<(Copies, &str)>, verb: &str, done: &str, how: How) {
    let ground = Ground::on(kind);
    let bench = &ground.bench;
    bench.keep("promoted");
    let before = bench.trace().len();
    assert_eq!(bench.verb_with(verb, &RESTORE).code, 0);
    let all = strikes(&bench.trace()[before..], "\0");
    assert!(
        all.iter().filter(|strike| strike.object.contains("mercure-mail")).count()
            >= if kind.is_some() { 1 } else { 3 },
        "{all:?}"
    );
    let mut begun = 0;
    for strike in &all {
        let about = format!("{verb} with {how:?} at {strike:?}");
        bench.back_to("promoted");
        bench.fault(&strike.op, &strike.object, strike.nth, how);
        let said = bench.verb_with(verb, &RESTORE);
        bench.no_faults();
        assert!(ground.is_old().is_some(), "{about}: the data is not whole: {said}");

        // The state directory is lost: whatever gc takes for leftovers, the data is not among them.
        bench.keep("struck");
        fs::remove_dir_all(bench.path("state")).unwrap();
        let was = ground.is_old();
        bench.ctl_run(&["gc", "--from-world", "--yes"]);
        assert_eq!(ground.is_old(), was, "{about}: gc removed the data");
        bench.back_to("struck");

        if bench.state() == done || (bench.state() == "none" && done == "aborted") {
            assert_eq!(said.code, 0, "{about}: {said}");
        } else if bench.run().unwrap()["stuck_step"].is_null() {
            let next = bench.run().unwrap()["next"].clone();
            if next == serde_json::json!(["resume"]) {
                begun += 1;
                for other in ["rollback", "abort", "commit"] {
                    let said = bench.verb(other);
                    assert_eq!(said.code, 9, "{about}: {other} is not refused: {said}");
                }
            }
            let said = bench.verb("resume");
            assert_eq!(said.code, 0, "{about}: {said}");
        } else {
            let step = bench.run().unwrap()["stuck_step"].to_string();
            let said = bench.verb_with("retry", &["--step", &step, "--reason", "the fault is gone"]);
            assert_eq!(said.code, 0, "{about}: {said}");
        }
        assert_eq!(ground.is_old(), Some(true), "{about}");
        let state = if done == "aborted" { "none" } else { done };
        assert_eq!(bench.state(), state, "{about}");
        if how != How::Fail {
            ground.tidy(&about);
        }
        bench.no_conflicts(&about);
    }
    // A lost link stops nothing: the engine looks, and goes on.
    let expected = match (how, kind) {
        (How::UnknownAfter, _) => 0,
        // A merge is one operation.
        (_, Some(_)) => 1,
        (_, None) => 3,
    };
    assert!(begun >= expected, "only {begun} strikes came past the beginning of the restoring");
}

#[test]
fn a_rollback_that_restores_is_killed_before() {
    struck("rollback", "upgraded", How::KillBefore);
}

#[test]
fn a_rollback_that_restores_is_killed_half_way() {
    struck("rollback", "upgraded", How::KillMid);
}

#[test]
fn a_rollback_that_restores_is_killed_after() {
    struck("rollback", "upgraded", How::KillAfter);
}

#[test]
fn a_rollback_that_restores_fails() {
    struck("rollback", "upgraded", How::Fail);
}

#[test]
fn a_rollback_that_restores_loses_the_link() {
    struck("rollback", "upgraded", How::UnknownAfter);
}

#[test]
fn an_abort_that_restores_is_killed_after() {
    struck("abort", "aborted", How::KillAfter);
}

#[test]
fn a_rollback_that_merges_detached_data_is_killed_half_way() {
    struck_on(Some((Copies::Dependents, "snapshot")), "rollback", "upgraded", How::KillMid);
}

#[test]
fn a_rollback_that_merges_detached_data_is_killed_after() {
    struck_on(Some((Copies::Dependents, "snapshot")), "rollback", "upgraded", How::KillAfter);
}

#[test]
fn a_rollback_that_swaps_thin_detached_data_is_killed_after() {
    struck_on(Some((Copies::Peers, "snapshot")), "rollback", "upgraded", How::KillAfter);
}

#[test]
fn an_abort_that_merges_detached_data_fails() {
    struck_on(Some((Copies::Dependents, "snapshot")), "abort", "aborted", How::Fail);
}

#[test]
fn the_boot_unit_finishes_a_restoring() {
    let ground = Ground::new();
    ground.bench.fault("storage.exchange", "", 1, How::KillAfter);
    assert_eq!(ground.bench.verb_with("rollback", &RESTORE).code, -1);
    let said = ground.bench.ctl_run(&["--json", "resume", "--interrupted"]);
    assert_eq!((said.code, ground.bench.state().as_str(), ground.is_old()), (0, "upgraded", Some(true)), "{said}");
    ground.tidy("resumed");
}
