//! Trouble in the middle: someone else's changes, a second controller, signals, an undo that fails, and what the boot unit
//! does about an interrupted run.

use std::fs;
use std::time::{Duration, Instant};

use hypervisors::sim::How;
use hypervisors::storage::Copies;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{Bench, Ending as _};
use crate::leased::at_once;

fn definition(bench: &Bench) -> String {
    fs::read_to_string(bench.path("world/definitions/mercure.json")).unwrap()
}

/// Someone gives the guest another CPU.
fn edit_definition(bench: &Bench) -> String {
    let text = definition(bench);
    let edited = text.replace("\"vcpus\": 1", "\"vcpus\": 2");
    assert_ne!(text, edited);
    fs::write(bench.path("world/definitions/mercure.json"), &edited).unwrap();
    edited
}

#[test]
fn definition_changed_before_promotion() {
    for (side, vcpus) in [("--theirs", 2), ("--ours", 1)] {
        let bench = Bench::new();
        bench.good_way_to("verified");
        let found = definition(&bench);
        let edited = edit_definition(&bench);
        let effects = bench.trace().len();
        let said = bench.verb("promote");
        assert_eq!((said.code, bench.state().as_str()), (6, "verified"), "{said}");
        let error = said.ending()["error"].to_string();
        for word in ["--ours", "--theirs", "+  \\\"vcpus\\\": 2"] {
            assert!(error.contains(word), "{word} is not in {error}");
        }
        assert_eq!((definition(&bench), bench.trace().len()), (edited.clone(), effects));

        let said = bench.verb_with("promote", &[side]);
        assert_eq!(said.code, 0, "{side}: {said}");
        assert!(definition(&bench).contains(&format!("\"vcpus\": {vcpus}")), "{side}");
        // Rollback returns the definition that promote found, abort the one that clone found.
        bench.good("rollback", "upgraded");
        assert_eq!(definition(&bench), edited, "{side}: after rollback");
        let said = bench.verb("abort");
        assert_eq!(said.code, 0, "{side}: {said}");
        assert!([&edited, &found].contains(&&definition(&bench)), "{side}: after abort");
        bench.no_conflicts(side);
    }
}

#[test]
fn definition_changed_after_promotion() {
    for verb in ["rollback", "abort"] {
        let bench = Bench::new();
        let found = definition(&bench);
        bench.good_way_to("promoted");
        let edited = edit_definition(&bench);
        let effects = bench.trace().len();
        let said = bench.verb(verb);
        assert_eq!((said.code, bench.state().as_str()), (6, "promoted"), "{said}");
        let error = said.ending()["error"].to_string();
        assert!(error.contains("+  \\\"vcpus\\\": 2") && error.contains("--theirs"), "no diff or no choice: {error}");
        assert_eq!((definition(&bench), bench.trace().len()), (edited.clone(), effects), "{verb} went ahead");
        let said = bench.verb_with(verb, &["--ours"]);
        assert_eq!(said.code, 0, "{verb}: {said}");
        assert_eq!(definition(&bench), found, "{verb}");
        bench.no_conflicts(verb);
    }
}

/// Their change stays; what it stands on goes back all the same, or production would stand on the clone.
#[test]
fn theirs_keeps_the_change_on_the_originals_disks() {
    for verb in ["rollback", "abort"] {
        let bench = Bench::new();
        let found = definition(&bench);
        bench.good_way_to("promoted");
        edit_definition(&bench);
        let said = bench.verb_with(verb, &["--theirs"]);
        assert_eq!(said.code, 0, "{verb}: {said}");
        let expected = found.replace("\"vcpus\": 1", "\"vcpus\": 2");
        assert_eq!(definition(&bench), expected, "{verb}");
        bench.no_conflicts(verb);
    }
}

/// Starts a verb that takes long at this operation, and waits until it is there.
fn slow(bench: &Bench, verb: &str, op: &str, object: &str, ms: u64) -> std::process::Child {
    bench.fault(op, object, 1, How::DelayMs(ms));
    let child = bench.spawn(&["--json", verb, "mercure", "--yes"]);
    let begun = Instant::now();
    while bench.path("world/faults.json").exists() && !bench.sim().faults().unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{verb} does not come to {op}");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn second_controller() {
    let bench = Bench::new();
    bench.good_way_to("verified");
    let first = slow(&bench, "promote", "shutdown", "mercure", 3_000);
    let output = bench.ctl.run(["--json", "abort", "mercure", "--yes"]).unwrap();
    assert_eq!(output.code, 5, "{output}");
    assert!(output.stdout.contains(&format!("{}", first.id())), "the holder is not named: {output}");
    let said = bench.ended(first, &["promote"]);
    assert_eq!((said.code, said.state().as_deref()), (0, Some("promoted")), "{said}");
    bench.no_conflicts("two controllers");
}

#[test]
fn two_clones_at_once() {
    let bench = Bench::new();
    let first = slow(&bench, "clone", "storage.snapshot", "", 1_500);
    let output = bench.ctl.run(["--json", "clone", "mercure"]).unwrap();
    assert_eq!(output.code, 5, "{output}");
    assert_eq!(bench.ended(first, &["clone"]).code, 0);
    bench.no_conflicts("two clones");
}

#[test]
fn take_over_ends_the_first() {
    let bench = Bench::new();
    let before = bench.picture();
    bench.good_way_to("verified");
    let first = slow(&bench, "promote", "shutdown", "mercure", 60_000);
    let output = bench.ctl.run(["--json", "abort", "mercure", "--yes", "--take-over"]).unwrap();
    assert_eq!((output.code, output.state().as_deref()), (0, Some("aborted")), "{output}");
    assert_eq!(bench.ended(first, &["promote"]).code, -1, "the first one lived on");
    before.assert_same(&bench.picture().after_a_promotion(), "after abort");
    bench.no_conflicts("take-over");
}

#[test]
fn take_over_ends_the_children_of_the_first() {
    let bench = Bench::with(
        r#"
[[guests.mercure.hooks]]
name = "long"
at = "before-upgrade"
on = "controller"
run = ["/bin/sh", "-c", "sleep 61.75; true"]
"#,
    );
    bench.good_way_to("cloned");
    let first = bench.spawn(&["--json", "upgrade", "mercure"]);
    let sleeping = || {
        let all = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
        all.filter(|line| line == b"sleep\x0061.75\0").count()
    };
    let begun = Instant::now();
    while sleeping() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the hook does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = bench.ctl.run(["--json", "abort", "mercure", "--yes", "--take-over"]).unwrap();
    assert_eq!(output.code, 0, "{output}");
    assert_eq!(sleeping(), 0, "a child of the first lives on");
    assert_eq!(bench.ended(first, &["upgrade"]).code, -1);
}

#[test]
fn killed_controller_leaves_no_lock() {
    let bench = Bench::new();
    let before = bench.picture();
    let mut first = slow(&bench, "clone", "storage.snapshot", "", 60_000);
    first.kill().unwrap();
    assert_eq!(bench.ended(first, &["clone"]).code, -1);
    let run = bench.run().unwrap();
    assert_eq!((run["state"].as_str(), run["interrupted"].as_bool()), (Some("cloning"), Some(true)));
    bench.good("abort", "aborted");
    before.assert_same(&bench.picture(), "after abort");
}

#[test]
fn ctrl_c_ends_after_the_step_in_hand() {
    let bench = Bench::new();
    let first = slow(&bench, "clone", "storage.snapshot", "", 700);
    kill(Pid::from_raw(i32::try_from(first.id()).unwrap()), Signal::SIGINT).unwrap();
    let said = bench.ended(first, &["clone"]);
    assert_eq!((said.code, said.state().as_deref()), (8, Some("cloning")), "{said}");
    assert!(bench.trace().iter().any(|entry| entry.op == "storage.snapshot" && entry.outcome == "ok"));
    assert!(!bench.trace().iter().any(|entry| entry.op == "define"), "it went on");
    bench.good("resume", "cloned");
    bench.no_conflicts("Ctrl-C");
}

#[test]
fn ctrl_c_does_not_leave_production_down() {
    let bench = Bench::new();
    bench.good_way_to("verified");
    let first = slow(&bench, "promote", "shutdown", "mercure", 0);
    kill(Pid::from_raw(i32::try_from(first.id()).unwrap()), Signal::SIGINT).unwrap();
    bench.ended(first, &["promote"]);
    let power = fs::read_to_string(bench.path("world/power/mercure.json")).unwrap();
    assert!(power.contains("\"power\": \"on\""), "production is down: {power}");
    bench.no_conflicts("Ctrl-C in a promotion");
}

#[test]
fn a_lost_terminal_stops_nothing() {
    let bench = Bench::new();
    let first = slow(&bench, "clone", "storage.snapshot", "", 500);
    kill(Pid::from_raw(i32::try_from(first.id()).unwrap()), Signal::SIGHUP).unwrap();
    let said = bench.ended(first, &["clone"]);
    assert_eq!((said.code, said.state().as_deref()), (0, Some("cloned")), "{said}");
}

/// A rollback whose undo of the definition fails.
fn stuck() -> (Bench, String) {
    let bench = Bench::new();
    bench.good_way_to("promoted");
    bench.fault("define", "mercure", 1, How::Fail);
    let said = bench.verb("rollback");
    assert_eq!((said.code, said.state().as_deref()), (4, Some("rolling_back")), "{said}");
    for verb in ["rollback", "abort", "commit"] {
        let said = bench.verb(verb);
        assert_eq!(said.code, 4, "{verb} of a stuck run: {said}");
    }
    let step = bench.run().unwrap()["stuck_step"].as_u64().unwrap().to_string();
    (bench, step)
}

#[test]
fn stuck_and_tried_again() {
    let (bench, step) = stuck();
    let said = bench.verb_with("retry", &["--step", "99", "--reason", "wrong step"]);
    assert_eq!(said.code, 9, "{said}");
    let said = bench.verb_with("retry", &["--step", &step, "--reason", "mended"]);
    assert_eq!((said.code, said.state().as_deref()), (0, Some("upgraded")), "{said}");
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    bench.no_conflicts("retry");
}

#[test]
fn stuck_and_skipped() {
    let (bench, step) = stuck();
    // The operator does it by hand.
    let original = fs::read(bench.path("world/definitions/mercure.json")).unwrap();
    let text = String::from_utf8(original).unwrap();
    let run = bench.run_id();
    let start = text.replace(&format!("{run}-root"), "mercure");
    fs::write(bench.path("world/definitions/mercure.json"), start).unwrap();
    let said = bench.verb_with("skip", &["--step", &step, "--reason", "defined by hand"]);
    assert_eq!((said.code, said.state().as_deref()), (0, Some("upgraded")), "{said}");
    bench.no_conflicts("skip");
}

#[test]
fn stuck_and_given_up() {
    let (bench, step) = stuck();
    let said = bench.verb_with("abandon", &["--step", &step, "--reason", "by hand from here"]);
    assert_eq!(said.code, 0, "{said}");
    assert_eq!(bench.state(), "none");
}

/// A promotion whose controller is killed after this operation; what the boot unit makes of it.
#[track_caller]
fn interrupted(policy: &str, op: &str, leads_to: &str, code: i32) {
    let bench = Bench::new();
    if !policy.is_empty() {
        bench.edit_inventory("clone =", &format!("promote = {{ if_interrupted = \"{policy}\" }}\nclone ="));
    }
    bench.good_way_to("verified");
    bench.fault(op, "mercure", if op == "shutdown" { 2 } else { 1 }, How::KillAfter);
    assert_eq!(bench.verb("promote").code, -1);
    assert_eq!(bench.state(), "promoting");
    let said = bench.ctl_run(&["--json", "resume", "--interrupted"]);
    assert_eq!((said.code, bench.state().as_str()), (code, leads_to), "{policy:?} after {op}: {said}");
    let power = fs::read_to_string(bench.path("world/power/mercure.json")).unwrap();
    let serves = power.contains("\"power\": \"on\"");
    assert_eq!(serves, leads_to != "promoting" || op == "start", "{policy:?} after {op}: {power}");
    bench.no_conflicts(policy);
    // It is not done twice.
    let effects = bench.trace().len();
    assert_eq!(bench.ctl_run(&["--json", "resume", "--interrupted"]).code, 0);
    assert_eq!(bench.trace().len(), effects);
}

#[test]
fn interrupted_promotion_undeclared() {
    interrupted("", "shutdown", "upgraded", 0);
    interrupted("", "start", "promoted", 0);
}

#[test]
fn interrupted_promotion_rolled_back() {
    interrupted("rollback", "shutdown", "upgraded", 0);
    interrupted("rollback", "start", "upgraded", 0);
}

#[test]
fn interrupted_promotion_resumed() {
    interrupted("resume", "shutdown", "promoted", 0);
    interrupted("resume", "start", "promoted", 0);
}

#[test]
fn interrupted_promotion_waits() {
    interrupted("wait", "shutdown", "promoting", 0);
    interrupted("wait", "start", "promoting", 0);
}

#[test]
fn host_that_reboots_in_the_middle_starts_one_of_the_pair() {
    let bench = Bench::new();
    let before = bench.picture();
    bench.good_way_to("verified");
    bench.fault("shutdown", "mercure", 2, How::KillAfter);
    assert_eq!(bench.verb("promote").code, -1);
    let runtime = reboot(&bench);
    assert!(!runtime.contains("--"), "the clone started with its host: {runtime}");
    bench.good("abort", "aborted");
    before.assert_same(&bench.picture().after_a_promotion(), "after abort");
    bench.no_conflicts("host reboot");
}

/// What a reboot of the host leaves: every guest off, those with autostart on. Returns who runs.
fn reboot(bench: &Bench) -> String {
    let mut runs = String::new();
    for entry in fs::read_dir(bench.path("world/power")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        if text.contains("\"autostart\": true") {
            runs += path.file_name().unwrap().to_str().unwrap();
        } else {
            fs::write(&path, text.replace("\"power\": \"on\"", "\"power\": \"off\"")).unwrap();
        }
    }
    runs
}

#[test]
fn checks_that_fail_after_going_live() {
    for (policy, state) in [("keep", "promoted"), ("rollback", "upgraded"), ("ask", "promoted")] {
        let bench = Bench::new();
        bench.edit_inventory("clone =", &format!("promote = {{ if_check_fails = \"{policy}\" }}\nclone ="));
        let check = "{ kind = \"tcp\", port = 4242, when = \"promoted\", deadline = \"1s\" }";
        bench.edit_inventory("{ kind = \"imap\" }", check);
        bench.good_way_to("verified");
        let said = bench.verb("promote");
        assert_eq!((said.code, said.state().as_deref()), (3, Some(state)), "{policy}: {said}");
        bench.no_conflicts(policy);
        if state == "promoted" {
            assert!(bench.run().unwrap()["unproven"].is_string(), "{policy}: not marked");
            bench.good("rollback", "upgraded");
        }
    }
}

#[test]
fn somebody_else_who_answers_for_production_stops_a_promotion() {
    let bench = Bench::new();
    bench.good_way_to("verified");
    let before = bench.picture().after_a_promotion();
    let mac = "00:16:3e:00:00:99".parse().unwrap();
    let world = bench.sim();
    let own = "10.0.5.12".parse().unwrap();
    world
        .configure(|host| {
            host.neighbours.insert(own, mac);
        })
        .unwrap();
    let said = bench.verb("promote");
    // Production serves again although the stranger still answers, and the clone has to be verified anew.
    assert_eq!((said.code, said.state().as_deref()), (1, Some("upgraded")), "{said}");
    assert!(said.ending()["error"].to_string().contains("00:16:3e:00:00:99"), "{said}");
    assert!(said.stdout.contains("a machine of somebody else's"), "{said}");
    before.assert_same(&bench.picture().after_a_promotion(), "undone");
    assert_eq!(bench.verb("promote").code, 9);
    world.configure(|host| host.neighbours.clear()).unwrap();
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
}

/// Production starts again by itself only where nobody of ours still answers for it, and is down until it lets us in.
#[test]
fn an_undone_promotion_proves_silence_and_waits_for_production() {
    let bench = Bench::new();
    bench.good_way_to("verified");
    let before = bench.picture().after_a_promotion();
    let world = bench.sim();
    let own = "10.0.5.12".parse().unwrap();
    let production = "00:16:3e:00:05:0c".parse().unwrap();
    world.configure(|host| _ = host.neighbours.insert(own, production)).unwrap();
    let said = bench.verb("promote");
    assert_eq!((said.code, said.state().as_deref()), (8, Some("promoting")), "{said}");
    assert!(said.ending()["error"].to_string().contains("00:16:3e:00:05:0c"), "{said}");
    world.configure(|host| host.neighbours.clear()).unwrap();

    let said = bench.good("resume", "upgraded");
    before.assert_same(&bench.picture().after_a_promotion(), "undone");
    let events = said.events().unwrap();
    let at = |event: &str, title: &str| {
        let found = events.iter().position(|line| {
            line["event"] == event && (title.is_empty() || line["step"]["title"].as_str().unwrap_or_default() == title)
        });
        found.unwrap_or_else(|| panic!("no {event} {title}: {said}"))
    };
    let silent = at("step_finished", "prove that nobody answers for 10.0.5.12");
    let started = at("step_undone", "start mercure again");
    let settled = at("step_finished", "wait until mercure has settled");
    assert!(silent < started && started < settled && settled < at("outage_ended", ""), "{said}");
}

/// The verb ended by itself and gave its lease back, but production is down: the boot unit does not leave it so.
#[test]
fn the_boot_unit_takes_up_a_promotion_that_ended_with_production_down() {
    let bench = Bench::new();
    bench.good_way_to("verified");
    let before = bench.picture().after_a_promotion();
    let world = bench.sim();
    let own = "10.0.5.12".parse().unwrap();
    let production = "00:16:3e:00:05:0c".parse().unwrap();
    world.configure(|host| _ = host.neighbours.insert(own, production)).unwrap();
    assert_eq!(bench.verb("promote").code, 8);
    let said = bench.ctl_run(&["--json", "resume", "--interrupted"]);
    assert_eq!((said.code, bench.state().as_str()), (8, "promoting"), "{said}");
    world.configure(|host| host.neighbours.clear()).unwrap();
    let said = bench.ctl_run(&["--json", "resume", "--interrupted"]);
    assert_eq!((said.code, bench.state().as_str()), (0, "upgraded"), "{said}");
    before.assert_same(&bench.picture().after_a_promotion(), "undone");
    let events = bench.trace().len();
    assert_eq!(bench.ctl_run(&["resume", "--interrupted"]).code, 0);
    assert_eq!(bench.trace().len(), events, "nothing is left to do");
}

/// The host goes down between the renames of a thin commit and the definition that follows them: it does not find production's
/// disk when it starts it.
#[test]
fn the_boot_unit_ends_a_commit_that_keeps_production_from_starting() {
    let bench = Bench::with_copies(Copies::Peers, "snapshot");
    bench.good_way_to("promoted");
    bench.fault("define", "mercure", 1, How::KillBefore);
    assert_eq!(bench.verb("commit").code, -1);
    at_once(bench.sim().reboot_host()).unwrap();
    let power = || fs::read_to_string(bench.path("world/power/mercure.json")).unwrap();
    assert!(power().contains("\"power\": \"off\""), "its disk was found");
    let said = bench.ctl_run(&["--json", "resume", "--interrupted"]);
    assert_eq!((said.code, bench.state().as_str()), (0, "none"), "{said}");
    assert!(said.stdout.contains("mercure was off, and is started"), "{said}");
    assert!(power().contains("\"power\": \"on\""), "{said}");
}

/// Its systemctl does not know `--wait`, and its boot takes a while.
#[test]
fn a_guest_with_an_old_systemd_is_waited_for() {
    let bench = Bench::new();
    bench.sim().configure(|host| (host.systemd, host.boot_ms) = (215, 300)).unwrap();
    bench.good("clone", "cloned");
    bench.good("abort", "aborted");
}

#[test]
fn no_space_for_the_upgrade() {
    let bench = Bench::new();
    let before = bench.picture();
    bench.good_way_to("cloned");
    bench.sim().configure(|host| host.pool_free_bytes = 1 << 20).unwrap();
    let said = bench.verb("upgrade");
    assert_eq!((said.code, bench.state().as_str()), (7, "cloned"), "{said}");
    assert!(said.ending()["error"].to_string().contains("0 MiB free"), "{said}");
    bench.good("abort", "aborted");
    before.assert_same(&bench.picture(), "after abort");
}
