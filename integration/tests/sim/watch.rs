//! Snapshots that fill: extended, or the clone paused and let go again; lost ones; verbs at work; watches cut short.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use hypervisors::sim::How;
use hypervisors::storage::Copies;
use integration::cli::Said;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bench::{Bench, Ending as _};

const MIB: u64 = 1 << 20;

/// A clone on a snapshot of 100 MiB, with this much more free in the volume group.
fn cloned(free_mib: u64) -> Bench {
    let bench = Bench::on(Copies::Dependents, "");
    bench.edit_inventory("clone = { ip = [\".16\"] }", "clone = { ip = [\".16\"], snapshot = { size = \"100M\" } }");
    let room = (100 + 512 + free_mib) * MIB;
    bench.sim().configure(|config| (config.pool_free_bytes, config.package_bytes) = (room, 1 << 14)).unwrap();
    bench.good("clone", "cloned");
    bench
}

/// Production writes until it has written this much.
fn production_writes(bench: &Bench, mib: u64) {
    let file = File::create(bench.volume("mercure", "var/log/grown")).unwrap();
    file.set_len(mib * MIB).unwrap();
}

fn clone_writes(bench: &Bench, mib: u64) {
    let file = File::create(bench.volume(&format!("{}-root", bench.run_id()), "var/log/grown")).unwrap();
    file.set_len(mib * MIB).unwrap();
}

fn look(bench: &Bench) -> (i32, Value) {
    let said = bench.ctl_run(&["--json", "watch", "--once"]);
    (said.code, said.json().unwrap()["runs"][0].clone())
}

fn fill(run: &Value) -> f64 {
    run["volumes"][0]["fill_percent"].as_f64().unwrap()
}

fn did(run: &Value) -> Vec<(&str, bool)> {
    let did = run["did"].as_array().unwrap().iter();
    did.map(|did| (did["action"].as_str().unwrap(), did["done"].as_bool().unwrap())).collect()
}

fn clone_power(bench: &Bench) -> String {
    let run = bench.run_id();
    let text = fs::read_to_string(bench.path("world/power").join(format!("{run}.json"))).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["power"].as_str().unwrap().to_owned()
}

fn area_mib(run: &Value) -> u64 {
    run["volumes"][0]["area_bytes"].as_u64().unwrap() / MIB
}

/// What the record says was done about snapshots.
fn record(bench: &Bench, of: &str) -> Vec<(String, String)> {
    let said = bench.ctl.run(["--json", "log", of]).unwrap().expect(0).unwrap();
    let log = said.json().unwrap();
    let text = |note: &Value, key: &str| note[key].as_str().unwrap().to_owned();
    log["watch"].as_array().unwrap().iter().map(|note| (text(note, "action"), text(note, "outcome"))).collect()
}

#[track_caller]
fn says(said: &Said, words: &[&str]) {
    let all = format!("{}{}", said.stdout, said.stderr);
    // Wrapped lines are one text.
    let all = all.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(all.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn a_snapshot_is_extended_by_the_guests_policy() {
    let bench = cloned(200);
    let (code, run) = look(&bench);
    assert_eq!((code, did(&run)), (0, vec![]));
    assert!(fill(&run) < 5.0 && run["volumes"][0]["can_fill"] == true, "{run}");
    production_writes(&bench, 40);
    clone_writes(&bench, 35);
    let (code, run) = look(&bench);
    assert_eq!((code, did(&run), area_mib(&run)), (0, vec![("extend", true)], 120), "{run}");
    assert!((60.0..70.0).contains(&fill(&run)), "{run}");
    assert_eq!(look(&bench).1["did"], serde_json::json!([]), "once is enough");
    // As declared, from now on.
    bench.edit_inventory("size = \"100M\"", "size = \"100M\", extend_at = 50, extend_by = \"80M\"");
    assert_eq!(area_mib(&look(&bench).1), 200);
    assert_eq!(record(&bench, "mercure"), [("extend".into(), "done".into()), ("extend".into(), "done".into())]);
    says(&bench.ctl.run(["log", "mercure"]).unwrap(), &["Snapshots", "extended", "by 20 MiB"]);
    // Status tells what was seen, without asking.
    let status = bench.run().unwrap();
    assert_eq!(status["volumes"][0]["area_bytes"].as_u64(), Some(200 * MIB));
    assert!((35.0..40.0).contains(&status["volumes"][0]["fill_percent"].as_f64().unwrap()), "{status}");
    says(&bench.ctl.run(["status"]).unwrap(), &["38 %"]);
    production_writes(&bench, 50);
    says(&bench.ctl.run(["status", "--live"]).unwrap(), &["43 %"]);
    bench.good("upgrade", "upgraded");
    bench.good("abort", "aborted");
    bench.no_conflicts("extended");
}

#[test]
fn it_is_never_extended_beyond_what_covers() {
    let bench = cloned(20_000);
    bench.edit_inventory("size = \"100M\"", "size = \"100M\", extend_by = \"9G\"");
    production_writes(&bench, 75);
    let (code, run) = look(&bench);
    assert_eq!((code, area_mib(&run)), (0, 8 * 1024 + 36), "{run}");
    assert_eq!(run["volumes"][0]["can_fill"], false);
    says(&bench.ctl.run(["watch", "--once"]).unwrap(), &["cannot fill"]);
}

#[test]
fn without_room_the_clone_is_paused_and_goes_on_when_there_is_some() {
    let bench = cloned(0);
    production_writes(&bench, 80);
    let (code, run) = look(&bench);
    assert_eq!((code, did(&run), clone_power(&bench).as_str()), (0, vec![], "on"), "{run}");
    assert!(run["warnings"][0].as_str().unwrap().contains("cannot be extended: 0 MiB are free"), "{run}");
    production_writes(&bench, 93);
    let (code, run) = look(&bench);
    assert_eq!((code, did(&run), clone_power(&bench).as_str()), (6, vec![("pause", true)], "paused"), "{run}");
    assert_eq!((run["paused"].as_bool(), run["needs_a_person"].as_bool()), (Some(true), Some(true)));
    let said = bench.ctl_run(&["watch", "--once"]);
    assert_eq!(said.code, 6, "{said}");
    says(&said, &["clone PAUSED: no room", "That only buys time: what mercure writes fills the snapshot too"]);
    assert_eq!(
        bench.sim().trace().unwrap().iter().filter(|entry| entry.op == "pause").count(),
        1,
        "once; clone froze the original"
    );
    // The clone cannot be worked with; nothing waits for it in vain.
    let said = bench.verb("upgrade");
    assert_eq!((said.code, bench.state().as_str()), (7, "cloned"), "{said}");
    says(&said, &["is paused", "there is no room", "abort"]);
    // Half of the room that is wanted is taken, and does not let it go on.
    let free = |mib: u64| bench.sim().configure(|config| config.pool_free_bytes += mib * MIB).unwrap();
    free(16);
    let (code, run) = look(&bench);
    assert_eq!((code, area_mib(&run), clone_power(&bench).as_str()), (6, 116, "paused"), "{run}");
    free(100);
    let (code, run) = look(&bench);
    assert_eq!((code, clone_power(&bench).as_str(), run["paused"].as_bool()), (0, "on", Some(false)), "{run}");
    assert_eq!(did(&run), [("extend", true), ("resume", true)]);
    bench.good("upgrade", "upgraded");
    bench.good("abort", "aborted");
    bench.no_conflicts("paused");
}

#[test]
fn a_verb_lets_a_paused_clone_go_on_by_itself_if_there_is_room_and_abort_does_without() {
    let bench = cloned(0);
    production_writes(&bench, 93);
    assert_eq!(look(&bench).0, 6);
    bench.sim().configure(|config| config.pool_free_bytes += 200 * MIB).unwrap();
    // A plan touches nothing.
    let said = bench.ctl_run(&["plan", "upgrade", "mercure"]);
    assert_eq!((said.code, clone_power(&bench).as_str()), (7, "paused"), "{said}");
    bench.good("upgrade", "upgraded");
    assert_eq!(clone_power(&bench), "on");

    let bench = cloned(0);
    production_writes(&bench, 93);
    assert_eq!(look(&bench).0, 6);
    bench.good("abort", "aborted");
    bench.no_conflicts("abort of a paused clone");
}

#[test]
fn somebody_elses_pause_is_left_alone() {
    let bench = cloned(200);
    let file = bench.path("world/power").join(format!("{}.json", bench.run_id()));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"power\": \"on\"", "\"power\": \"paused\"")).unwrap();
    let (code, seen) = look(&bench);
    assert_eq!((code, did(&seen), clone_power(&bench).as_str()), (0, vec![], "paused"), "{seen}");
}

#[test]
fn a_lost_snapshot_is_told_once_bars_the_verbs_and_abort_cleans_up() {
    let bench = cloned(200);
    let free = bench.sim().config().unwrap();
    bench.good("upgrade", "upgraded");
    production_writes(&bench, 300);
    let (code, run) = look(&bench);
    assert_eq!((code, did(&run), fill(&run)), (6, vec![("lost", true)], 100.0), "{run}");
    assert_eq!((look(&bench).0, record(&bench, "mercure").len()), (6, 1));
    says(&bench.ctl.run(["watch", "--once"]).unwrap(), &["LOST: abort cleans up", "mercure was not touched"]);
    says(&bench.ctl.run(["status"]).unwrap(), &["100 %", "LOST: the snapshot filled up; abort cleans up"]);
    says(&bench.ctl.run(["doctor", "mercure"]).unwrap().expect(7).unwrap(), &["is lost", "upgradectl abort mercure"]);
    for verb in ["upgrade", "verify"] {
        let said = bench.verb(verb);
        assert_eq!((said.code, bench.state().as_str()), (7, "upgraded"), "{said}");
        says(&said, &["is lost", "the clone is lost with it, mercure is not", "upgradectl abort mercure"]);
    }
    fs::remove_file(bench.volume("mercure", "var/log/grown")).unwrap();
    let run = bench.run_id();
    bench.good("abort", "aborted");
    assert!(!bench.volume(&format!("{run}-root"), "").exists());
    assert_eq!(bench.sim().config().unwrap().pool_free_bytes, free.pool_free_bytes);
    bench.no_conflicts("lost");
    bench.good("clone", "cloned");
}

/// Starts a verb that takes long at this operation, and waits until it is there.
fn slow(bench: &Bench, verb: &str, op: &str, object: &str, ms: u64) -> std::process::Child {
    bench.fault(op, object, 1, How::DelayMs(ms));
    let child = bench.spawn(&["--json", verb, "mercure"]);
    let begun = Instant::now();
    while !bench.sim().faults().unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{verb} does not come to {op}");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn a_verb_at_work_is_left_alone_and_watches_by_itself() {
    let bench = cloned(200);
    let verb = slow(&bench, "upgrade", "guest.job_start", "", 9_000);
    production_writes(&bench, 75);
    let output = bench.ctl.run(["--json", "watch", "--once"]).unwrap().expect(0).unwrap();
    let run = output.json().unwrap()["runs"][0].clone();
    assert_eq!((did(&run), area_mib(&run), run["holder"]["pid"].as_u64()), (vec![], 100, Some(u64::from(verb.id()))));
    let said = bench.ended(verb, &["upgrade"]);
    assert_eq!((said.code, said.state().as_deref()), (0, Some("upgraded")), "{said}");
    says(&said, &["extended", "by 20 MiB"]);
    assert_eq!(record(&bench, "mercure"), [("extend".into(), "done".into())]);
    assert_eq!(area_mib(&look(&bench).1), 120);
}

#[test]
fn a_snapshot_lost_in_a_verb_is_named_as_the_cause() {
    let bench = cloned(0);
    let verb = slow(&bench, "upgrade", "guest.job_start", "", 7_000);
    production_writes(&bench, 300);
    let said = bench.ended(verb, &["upgrade"]);
    assert_eq!((said.code, said.state().as_deref()), (8, Some("upgrading")), "{said}");
    assert!(said.ending()["error"].to_string().contains("is lost"), "{said}");
    says(&said, &["the clone is lost, mercure is not: upgradectl abort mercure cleans up"]);
    let said = bench.verb("resume");
    assert_eq!(said.code, 7, "{said}");
    bench.good("abort", "aborted");
}

#[test]
fn a_watch_that_is_killed_leaves_a_whole_journal() {
    for (op, how, outcome) in [
        ("storage.extend", How::KillBefore, 120),
        ("storage.extend", How::KillMid, 120),
        ("storage.extend", How::KillAfter, 120),
        ("pause", How::KillBefore, 0),
        ("pause", How::KillAfter, 0),
    ] {
        let bench = cloned(if op == "pause" { 0 } else { 200 });
        production_writes(&bench, if op == "pause" { 93 } else { 75 });
        bench.fault(op, "", 1, how);
        let said = bench.ctl_run(&["--json", "watch", "--once"]);
        assert_eq!(said.code, -1, "{op} {how:?}: {said}");
        let action = if op == "pause" { "pause" } else { "extend" };
        assert_eq!(record(&bench, "mercure"), [(action.to_owned(), "begun".to_owned())], "{op} {how:?}");
        // Nobody has to repair anything: the next look decides by what there is.
        let (code, run) = look(&bench);
        if op == "pause" {
            assert_eq!((code, run["paused"].as_bool()), (6, Some(true)), "{op} {how:?}: {run}");
            bench.sim().configure(|config| config.pool_free_bytes += 200 * MIB).unwrap();
            assert_eq!((look(&bench).0, clone_power(&bench).as_str()), (0, "on"), "{op} {how:?}");
        } else {
            assert_eq!((code, area_mib(&run)), (0, outcome), "{op} {how:?}: {run}");
        }
        bench.good("upgrade", "upgraded");
        bench.good("abort", "aborted");
        bench.no_conflicts("killed watch");
    }
}

#[test]
fn what_a_killed_verb_left_stays_interrupted_and_is_watched() {
    let bench = cloned(200);
    let mut verb = slow(&bench, "upgrade", "guest.job_start", "", 60_000);
    verb.kill().unwrap();
    bench.ended(verb, &["upgrade"]);
    assert_eq!(bench.run().unwrap()["interrupted"], true);
    production_writes(&bench, 75);
    assert_eq!(did(&look(&bench).1), [("extend", true)]);
    assert_eq!(bench.run().unwrap()["interrupted"], true, "that the verb was interrupted is still to be seen");
    bench.good("resume", "upgraded");
    bench.no_conflicts("interrupted");
}

#[test]
fn a_verb_waits_for_a_watch_in_the_middle_of_an_action() {
    let bench = cloned(200);
    production_writes(&bench, 75);
    bench.fault("storage.extend", "", 1, How::DelayMs(1_500));
    let watch = bench.ctl.command(["watch", "--once"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !bench.sim().faults().unwrap().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the watch does not extend");
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = bench.verb("upgrade");
    assert_eq!((said.code, said.state().as_deref()), (0, Some("upgraded")), "{said}");
    assert!(bench.ended(watch, &["watch"]).code == 0);
    assert_eq!(record(&bench, "mercure"), [("extend".into(), "done".into())]);
}

#[test]
fn it_repeats_in_a_log_by_lines_that_tell_something_new_and_ends_when_asked() {
    let bench = cloned(0);
    let mut watch = bench.spawn(&["watch", "--every", "1s"]);
    let wait = |words: &str| {
        let begun = Instant::now();
        while !fs::read_to_string(bench.path("stdout")).unwrap().contains(words) {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{words:?} is not told: {}",
                fs::read_to_string(bench.path("stdout")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait("is 0 %");
    production_writes(&bench, 93);
    wait("paused mercure--");
    wait("That only buys time");
    bench.sim().configure(|config| config.pool_free_bytes += 200 * MIB).unwrap();
    wait("goes on: there is room");
    std::thread::sleep(Duration::from_millis(2_200));
    assert!(watch.try_wait().unwrap().is_none());
    kill(Pid::from_raw(i32::try_from(watch.id()).unwrap()), Signal::SIGTERM).unwrap();
    let said = bench.ended(watch, &["watch"]);
    assert_eq!(said.code, 0, "{said}");
    assert_eq!(said.stdout.matches("That only buys time").count(), 1, "{said}");
    assert!(!said.stdout.contains('\x1b') && said.stdout.lines().count() < 9, "{said}");
}
