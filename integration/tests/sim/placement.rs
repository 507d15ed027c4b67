//! Two hosts of one simulated world: the guest's volumes are `here`'s, and whoever runs it may be `galaad`.

use std::fs;

use hypervisors::Power;
use hypervisors::sim::How;
use serde_json::Value;

use crate::bench::{Bench, Ending, WAY};

/// A bench with a second host, which sees the same volumes.
fn pool() -> Bench {
    let bench = Bench::new();
    bench.edit_inventory(
        "[guests.mercure]",
        "galaad = { hypervisor = \"sim\", state = \"REAL\", part = \"galaad\" }\n[guests.mercure]",
    );
    bench.edit_inventory("REAL", bench.path("world").to_str().unwrap());
    bench
}

/// A pool whose clone is placed on the other host.
fn elsewhere() -> Bench {
    let bench = pool();
    bench.edit_inventory("clone = { ", "clone = { runs_on = \"galaad\", ");
    bench
}

/// The guests that a host has, with their power.
fn guests(bench: &Bench, host: &str) -> Vec<(String, Power)> {
    let text = |path: String| fs::read_to_string(bench.path(&path)).ok();
    let json = |path| serde_json::from_str::<Value>(&text(path)?).ok();
    let mut all = Vec::new();
    for entry in fs::read_dir(bench.path("world/definitions")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let part = json(format!("world/parts/{file}")).map_or(String::new(), |part| part.as_str().unwrap().to_owned());
        if part == host {
            let runtime = json(format!("world/power/{file}"));
            let power = runtime.and_then(|runtime| serde_json::from_value(runtime["power"].clone()).ok());
            all.push((file.trim_end_matches(".json").to_owned(), power.unwrap_or(Power::Off)));
        }
    }
    all.sort_by(|a: &(String, Power), b| a.0.cmp(&b.0));
    all
}

fn power(bench: &Bench, host: &str, guest: &str) -> Option<Power> {
    guests(bench, host).into_iter().find(|(name, _)| name == guest).map(|(_, power)| power)
}

#[test]
fn the_clone_lives_on_the_other_host_and_production_stays_on_its_own() {
    let bench = elsewhere();
    let before = bench.picture();
    let said = bench.good("clone", "cloned");
    let run = bench.run_id();
    assert_eq!(guests(&bench, "galaad"), [(run.clone(), Power::On)]);
    assert_eq!(power(&bench, "", &run), None);
    assert_eq!(power(&bench, "", "mercure"), Some(Power::On));
    assert!(said.stdout.contains("see that galaad has"), "{said}");
    let live = bench.ctl.run(["--json", "status", "mercure", "--live"]).unwrap().expect(0).unwrap();
    assert_eq!(live.json().unwrap()["runs"][0]["clone"]["power"], "on", "{live}");
    for (verb, state) in &WAY[1..] {
        bench.good(verb, state);
    }
    assert_eq!(guests(&bench, "galaad"), []);
    assert_eq!(power(&bench, "", "mercure"), Some(Power::On));
    bench.good("rollback", "upgraded");
    assert_eq!(guests(&bench, "galaad"), [(run, Power::On)]);
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    bench.good("abort", "aborted");
    before.after_a_promotion().assert_same(&bench.picture().after_a_promotion(), "abort");
    assert_eq!(guests(&bench, "galaad"), []);
    assert!(fs::read_dir(bench.path("world/parts")).unwrap().next().is_none());
    bench.no_conflicts("two hosts");
}

#[test]
fn commit_leaves_nothing_on_the_other_host() {
    let bench = pool();
    let said = bench.verb_with("clone", &["--runs-on", "galaad"]);
    assert_eq!(said.state().as_deref(), Some("cloned"), "{said}");
    for (verb, state) in &WAY[1..] {
        bench.good(verb, state);
    }
    bench.good("commit", "committed");
    assert_eq!(guests(&bench, "galaad"), []);
    assert_eq!(power(&bench, "", "mercure"), Some(Power::On));
    bench.no_conflicts("commit");
}

#[test]
fn production_that_runs_elsewhere_is_moved_about_where_it_runs() {
    for clone_host in ["here", "galaad"] {
        let bench = pool();
        fs::create_dir_all(bench.path("world/parts")).unwrap();
        fs::write(bench.path("world/parts/mercure.json"), "\"galaad\"").unwrap();
        bench.edit_inventory("host = \"here\"", "host = \"here\"\nruns_on = \"galaad\"");
        let before = bench.picture();
        let said = bench.verb_with("clone", &["--runs-on", clone_host]);
        assert_eq!(said.state().as_deref(), Some("cloned"), "{said}");
        let run = bench.run_id();
        assert_eq!(power(&bench, if clone_host == "here" { "" } else { clone_host }, &run), Some(Power::On));
        for (verb, state) in &WAY[1..] {
            bench.good(verb, state);
        }
        assert_eq!(guests(&bench, "galaad"), [("mercure".to_owned(), Power::On)]);
        bench.good("abort", "aborted");
        before.after_a_promotion().assert_same(&bench.picture().after_a_promotion(), clone_host);
        bench.no_conflicts(clone_host);
    }
}

#[test]
fn a_controller_that_dies_finds_both_hosts_again() {
    for (op, how) in [
        ("define", How::KillAfter),
        ("start", How::KillBefore),
        ("start", How::KillAfter),
        ("shutdown", How::KillMid),
        ("undefine", How::KillMid),
        ("storage.mark", How::KillAfter),
    ] {
        let bench = elsewhere();
        let before = bench.picture();
        for (verb, state) in WAY {
            let killed = verb == if matches!(op, "define" | "start") { "clone" } else { "promote" };
            if !killed {
                bench.good(verb, state);
                continue;
            }
            bench.fault(op, "mercure", 1, how);
            let said = bench.verb(verb);
            assert_eq!(said.code, -1, "{op} {how:?}: {said}");
            let said = bench.verb("resume");
            assert_eq!((said.code, said.state().as_deref()), (0, Some(state)), "{op} {how:?}: {said}");
        }
        bench.good("abort", "aborted");
        before.after_a_promotion().assert_same(&bench.picture().after_a_promotion(), op);
        bench.no_conflicts(op);
    }
}

#[test]
fn an_interrupted_promotion_is_found_by_where_it_is() {
    let bench = elsewhere();
    bench.good_way_to("verified");
    bench.fault("start", "mercure", 1, How::KillBefore);
    assert_eq!(bench.verb("promote").code, -1);
    let said = bench.ctl_run(&["--json", "resume", "--interrupted"]);
    assert_eq!(said.code, 0, "{said}");
    assert_eq!(bench.state(), "upgraded");
    assert_eq!(power(&bench, "", "mercure"), Some(Power::On));
    assert_eq!(power(&bench, "galaad", &bench.run_id()), Some(Power::On));
    bench.no_conflicts("interrupted");
}

#[test]
fn leftovers_are_found_on_both_hosts() {
    let bench = elsewhere();
    bench.good("clone", "cloned");
    let run = bench.run_id();
    fs::remove_dir_all(bench.path("state")).unwrap();
    let said = bench.ctl.run(["--json", "gc", "--dry-run", "--from-world"]).unwrap().expect(0).unwrap();
    let found = said.json().unwrap()["found"].clone();
    let hosts: Vec<(&str, &str)> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["host"].as_str().unwrap(), one["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(hosts, [("here", "volume"), ("galaad", "definition")], "{said}");
    // A host that cannot be asked may run a guest on it.
    let (there, nowhere) = ("\", part = \"galaad\"", "-not\", part = \"galaad\"");
    bench.edit_inventory(there, nowhere);
    let said = bench.ctl.run(["--json", "gc", "--from-world", "--yes"]).unwrap();
    assert!(bench.path(&format!("world/volumes/{run}-root")).exists(), "{said}");
    assert!(said.stdout.contains("galaad cannot be asked"), "{said}");
    bench.edit_inventory(nowhere, there);
    // While the definition on the other host names its volume, that stays.
    let said = bench.ctl.run(["--json", "gc", "--from-world", "--yes"]).unwrap();
    assert_eq!(said.code, 0, "{said}");
    assert_eq!(guests(&bench, "galaad"), []);
    assert!(!bench.path(&format!("world/volumes/{run}-root")).exists(), "{said}");
    assert_eq!(power(&bench, "", "mercure"), Some(Power::On));
}

#[test]
fn what_the_other_host_lacks_is_told_before_anything_is_touched() {
    let bench = elsewhere();
    let before = bench.picture();
    // A machine of its own has too little memory there.
    bench.sim().configure(|config| config.capabilities.shares_host_kernel = false).unwrap();
    let there = bench.path("world/hostfs@galaad/proc");
    fs::create_dir_all(&there).unwrap();
    fs::write(there.join("meminfo"), "MemTotal: 9999 kB\nMemAvailable: 1024 kB\n").unwrap();
    let said = bench.verb("clone");
    assert_eq!(said.code, 7, "{said}");
    let error = said.ending()["error"].clone();
    assert!(error["causes"].to_string().contains("galaad has 1 MiB left"), "{said}");
    assert!(error["help"].to_string().contains("--runs-on"), "{said}");
    before.assert_same(&bench.picture(), "refused");
    // A disk that there is none of.
    fs::remove_dir_all(bench.path("world/hostfs@galaad")).unwrap();
    bench.edit_inventory("\"/srv/mail\" = \"detach\"", "\"/srv/mail\" = \"detach\", xvdz = { copy = \"/dev/x\" }");
    let said = bench.verb("clone");
    assert_eq!(said.code, 7, "{said}");
    assert!(said.stdout.contains("xvdz is not a disk of the guest"), "{said}");
    before.assert_same(&bench.picture(), "refused");
}
