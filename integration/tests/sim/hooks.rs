//! The operator's hooks: the second half of a pair runs however the verb ends.

use std::fs;

use hypervisors::sim::How;
use hypervisors::storage::Copies;

use crate::bench::{Bench, Ending as _};

/// A pair on the controller around these verbs, which writes down when it runs.
fn bench(verbs: &str) -> Bench {
    let bench = Bench::new();
    let log = bench.path("log");
    let say = |what: &str| format!("[\"/bin/sh\", \"-c\", \"echo {what} {{run}} >> {}\"]", log.display());
    let text = fs::read_to_string(bench.path("inventory.toml")).unwrap();
    let hook = format!(
        "[[guests.mercure.hooks]]\nname = \"pair\"\naround = [{verbs}]\non = \"controller\"\nbefore = {}\nafter = {}\n",
        say("before"),
        say("after")
    );
    bench.inventory(&format!("{text}{hook}"));
    bench
}

/// `b` for each first half, `a` for each second one.
fn log(bench: &Bench) -> String {
    let text = fs::read_to_string(bench.path("log")).unwrap_or_default();
    text.lines().map(|line| if line.starts_with("before mercure--") { 'b' } else { 'a' }).collect()
}

#[test]
fn pair_around_a_verb_that_succeeds() {
    let bench = bench("\"clone\", \"promote\", \"rollback\"");
    bench.good_way_to("promoted");
    assert_eq!(log(&bench), "baba");
    bench.good("rollback", "upgraded");
    assert_eq!(log(&bench), "bababa");
    bench.good("abort", "aborted");
    assert_eq!(log(&bench), "bababa");
}

#[test]
fn pair_around_a_verb_that_fails() {
    let bench = bench("\"clone\"");
    let before = bench.picture();
    bench.fault("define", "", 1, How::Fail);
    assert_eq!(bench.verb("clone").code, 1);
    assert_eq!(log(&bench), "ba");
    before.assert_same(&bench.picture(), "after a failed clone");
}

#[test]
fn pair_around_a_verb_that_stops_part_way() {
    let bench = bench("\"upgrade\"");
    bench.good_way_to("cloned");
    bench.fault("guest.job_start", "", 2, How::Fail);
    assert_eq!(bench.verb("upgrade").code, 8);
    assert_eq!(log(&bench), "ba");
    bench.good("resume", "upgraded");
    assert_eq!(log(&bench), "baba");
}

#[test]
fn pair_around_a_verb_whose_controller_is_killed() {
    for (verb, state) in [("resume", "cloned"), ("abort", "aborted")] {
        let bench = bench("\"clone\"");
        bench.fault("define", "", 1, How::KillAfter);
        assert_eq!(bench.verb("clone").code, -1);
        assert_eq!(log(&bench), "b");
        bench.good(verb, state);
        assert!(log(&bench).ends_with('a'), "{verb}: {}", log(&bench));
        bench.no_conflicts(verb);
    }
}

#[test]
fn pair_whose_second_half_fails_is_tidied_later() {
    let bench = Bench::with(
        r#"
[[guests.mercure.hooks]]
name = "pair"
around = ["clone"]
on = "host"
before = ["/before"]
after = ["/after"]
"#,
    );
    fs::write(bench.path("world/hostfs/before"), "exit 0\n").unwrap();
    fs::write(bench.path("world/hostfs/after"), "exit 3\n").unwrap();
    let said = bench.verb("clone");
    assert_eq!((said.code, said.state().as_deref()), (10, Some("cloned")), "{said}");
    fs::write(bench.path("world/hostfs/after"), "exit 0\n").unwrap();
    bench.good("resume", "cloned");
    let ran = bench.trace().iter().filter(|entry| entry.object == "/after").count();
    assert_eq!(ran, 2);
    bench.good("upgrade", "upgraded");
}

#[test]
fn first_half_that_fails_stops_the_verb() {
    let bench = Bench::with(
        r#"
[[guests.mercure.hooks]]
name = "pair"
around = ["clone"]
on = "host"
before = ["/before"]
after = ["true"]
"#,
    );
    fs::write(bench.path("world/hostfs/before"), "exit 1\n").unwrap();
    let before = bench.picture();
    assert_eq!(bench.verb("clone").code, 1);
    before.assert_same(&bench.picture(), "after a failed hook");
    assert!(!bench.trace().iter().any(|entry| entry.op.starts_with("storage")));
}

#[test]
fn hook_in_the_clone_gets_its_words_filled_in() {
    let bench = Bench::with(
        r#"
[[guests.mercure.hooks]]
name = "mark"
at = "after-upgrade"
on = "clone"
run = ["touch", "/root/{run} {original} {clone_address} {original_address}; exit 1"]
"#,
    );
    bench.good_way_to("upgraded");
    let run = bench.run_id();
    let file = format!("root/{run} mercure 10.0.5.16 10.0.5.12; exit 1");
    assert!(bench.volume(&format!("{run}-root"), &file).exists());
    assert!(!bench.volume("mercure", &file).exists());
}

/// What was done to these objects, in order.
fn order(bench: &Bench, ops: &[&str]) -> Vec<String> {
    let trace = bench.trace();
    let wanted = trace.iter().filter(|entry| ops.contains(&entry.op.as_str()) || entry.object.starts_with("/export"));
    wanted.map(|entry| if entry.op == "host.run" { entry.object.clone() } else { entry.op.clone() }).collect()
}

#[test]
fn hook_at_the_volumes_comes_with_them_and_goes_before_them() {
    let more = "[[guests.mercure.hooks]]\nname = \"export\"\nat = \"volumes\"\non = \"host\"\n\
                run = [\"/export\", \"{run}\"]\nundo = [\"/export\", \"off\", \"{run}\"]\n";
    let world = || {
        let bench = Bench::on(Copies::Dependents, more);
        fs::write(bench.path("world/hostfs/export"), "exit 0\n").unwrap();
        bench.sim().configure(|config| config.pool_free_bytes = 60 << 30).unwrap();
        bench
    };
    let bench = world();
    bench.good("clone", "cloned");
    let (on, off) = (format!("/export {}", bench.run_id()), format!("/export off {}", bench.run_id()));
    assert_eq!(order(&bench, &["storage.fresh_swap", "define"]), ["storage.fresh_swap", &on, "define"]);
    bench.good("abort", "aborted");
    let after = order(&bench, &["undefine", "storage.remove"]);
    assert_eq!(after[1..4], ["undefine".to_owned(), off, "storage.remove".to_owned()]);

    // A clone that fails takes itself back in the same order.
    let bench = world();
    bench.fault("define", "", 1, How::Fail);
    assert_eq!(bench.verb("clone").code, 1);
    let all = order(&bench, &["storage.remove"]);
    assert!(all[1].starts_with("/export off") && all[2] == "storage.remove", "{all:?}");

    // Merging wants the volumes closed, after production was stopped.
    let bench = world();
    bench.good_way_to("promoted");
    let before = order(&bench, &["shutdown", "storage.merge", "start"]).len();
    bench.good("commit", "committed");
    let all = order(&bench, &["shutdown", "storage.merge", "start"]);
    assert_eq!(all[before], "shutdown");
    assert!(all[before + 1].starts_with("/export off"), "{all:?}");
    assert_eq!(all[before + 2..], ["storage.merge", "start"]);
    bench.no_conflicts("export");

    // By strategy origin production stands on them.
    let bench = world();
    bench.edit_inventory("clone = { ip = [\".16\"] }", "clone = { ip = [\".16\"], strategy = \"origin\" }");
    let said = bench.verb_with("clone", &["--yes"]);
    assert_eq!(said.code, 0, "{said}");
    let before = order(&bench, &["shutdown", "storage.merge", "start"]).len();
    bench.good("abort", "aborted");
    let all = order(&bench, &["shutdown", "storage.merge", "start"]);
    let off = all.iter().position(|one| one.starts_with("/export off")).unwrap();
    assert!(off > before && all[off - 1] == "shutdown" && all[off + 1] == "storage.merge", "{all:?}");
    assert_eq!(all.iter().filter(|one| one.starts_with("/export off")).count(), 1);
}

#[test]
fn hook_at_the_merge_lets_go_of_the_original_and_takes_it_up_again() {
    let more = "[[guests.mercure.hooks]]\nname = \"its own export\"\nat = \"merge\"\non = \"host\"\n\
                run = [\"/export\", \"off\", \"{runs_on}\"]\nundo = [\"/export\", \"on\", \"{clone_runs_on}\"]\n";
    let world = || {
        let bench = Bench::on(Copies::Dependents, more);
        fs::write(bench.path("world/hostfs/export"), "exit 0\n").unwrap();
        bench.sim().configure(|config| config.pool_free_bytes = 60 << 30).unwrap();
        bench
    };
    let wanted = ["shutdown", "/export off here", "storage.merge", "/export on here", "start"];
    let bench = world();
    bench.good_way_to("promoted");
    let before = order(&bench, &["shutdown", "storage.merge", "start"]).len();
    bench.good("commit", "committed");
    assert_eq!(order(&bench, &["shutdown", "storage.merge", "start"])[before..], wanted);

    // A commit that cannot merge takes it up again before production starts.
    let bench = world();
    bench.good_way_to("promoted");
    let before = order(&bench, &["shutdown", "storage.merge", "start"]).len();
    bench.fault("storage.merge", "", 1, How::Fail);
    bench.verb("commit");
    let all = order(&bench, &["shutdown", "start"])[before..].to_vec();
    assert_eq!(all[..2], wanted[..2], "{all:?}");
    bench.no_conflicts("merge");

    let bench = world();
    bench.edit_inventory("clone = { ip = [\".16\"] }", "clone = { ip = [\".16\"], strategy = \"origin\" }");
    bench.good("clone", "cloned");
    let before = order(&bench, &["shutdown", "storage.merge", "start"]).len();
    bench.good("abort", "aborted");
    let all = order(&bench, &["shutdown", "storage.merge", "start"])[before..].to_vec();
    assert_eq!(all[all.len() - 5..], wanted, "{all:?}");
}
