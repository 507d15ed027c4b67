//! Snapshots of blocks are taken of a frozen guest: it thaws by itself if nobody thaws it, and what was not frozen all the
//! while is taken again with the guest paused.

use std::fs;
use std::time::Duration;

use hypervisors::sim::How;
use hypervisors::storage::Copies;
use integration::cli::Said;
use serde_json::{Value, json};

use crate::bench::{Bench, Ending as _};

/// A world on thick volumes whose guests are so.
fn bench(change: &Value) -> Bench {
    let bench = Bench::with_copies(Copies::Dependents, "snapshot");
    configure(&bench, change);
    bench
}

fn configure(bench: &Bench, change: &Value) {
    let path = bench.path("world/host.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let (have, new) = (config.as_object_mut().unwrap(), change.as_object().unwrap());
    have.extend(new.iter().map(|(key, value)| (key.clone(), value.clone())));
    fs::write(path, config.to_string()).unwrap();
}

/// The operations of the world that bear on it, in order: `freeze`, `snapshot`, `thaw`, `pause`, `resume`.
fn operations(bench: &Bench) -> Vec<&'static str> {
    let named = |entry: hypervisors::sim::TraceEntry| match entry.op.as_str() {
        "pause" => Some("pause"),
        "resume" => Some("resume"),
        "storage.snapshot_set" => Some("snapshot"),
        "guest.run" if entry.object.contains("file systems still") => Some("script"),
        _ => None,
    };
    bench.trace().into_iter().filter_map(named).collect()
}

fn frozen(bench: &Bench) -> bool {
    let text = fs::read_to_string(bench.path("world/power/mercure.json")).unwrap();
    !serde_json::from_str::<Value>(&text).unwrap()["frozen"].is_null()
}

fn plan(bench: &Bench) -> Said {
    bench.ctl.run(["plan", "clone", "mercure"]).unwrap()
}

/// What the journal has of the snapshot.
fn instant(bench: &Bench) -> &'static str {
    let files = ["state/journal.db", "state/journal.db-wal"].map(|name| fs::read(bench.path(name)).unwrap_or_default());
    let has = |words: &str| files.iter().any(|bytes| bytes.windows(words.len()).any(|part| part == words.as_bytes()));
    match (has("\"instant\":\"frozen\""), has("\"instant\":\"paused\"")) {
        (true, false) => "frozen",
        (false, true) => "paused",
        other => panic!("the journal says {other:?}"),
    }
}

#[test]
fn a_guest_is_frozen_for_its_snapshot_and_not_paused() {
    for copies in [Copies::Dependents, Copies::Peers] {
        let bench = Bench::with_copies(copies, "snapshot");
        let page = plan(&bench).expect(0).unwrap();
        assert!(page.stdout.contains(", frozen"), "{page}");
        bench.good("clone", "cloned");
        assert_eq!(operations(&bench), ["script", "snapshot", "script"], "{copies:?}");
        assert!(!frozen(&bench));
        bench.good("abort", "aborted");
    }
}

#[test]
fn a_guest_that_cannot_freeze_is_paused_and_the_plan_says_so() {
    let bench = bench(&json!({ "fsfreeze": false }));
    let page = plan(&bench).expect(0).unwrap();
    assert!(!page.stdout.contains(", frozen") && page.stdout.contains("no fsfreeze"), "{page}");
    bench.good("clone", "cloned");
    assert_eq!(operations(&bench), ["pause", "snapshot", "resume"]);
}

#[test]
fn a_snapshot_taken_after_the_timer_fired_is_taken_again() {
    let bench = bench(&json!({ "freeze_ms": 200 }));
    bench.fault("storage.snapshot_set", "", 1, How::DelayMs(400));
    let said = bench.good("clone", "cloned");
    assert_eq!(operations(&bench), ["script", "snapshot", "script", "script", "pause", "snapshot", "resume"]);
    assert!(said.stdout.contains("thawed by itself before the snapshot was taken"), "{said}");
    assert_eq!(instant(&bench), "paused");
    assert!(!frozen(&bench));
    bench.no_conflicts("retaken");
}

#[test]
fn a_controller_that_dies_leaves_a_guest_frozen_no_longer_than_its_timer_runs() {
    let bench = bench(&json!({ "freeze_ms": 1500 }));
    bench.fault("storage.snapshot_set", "", 1, How::KillAfter);
    assert_eq!(bench.verb("clone").code, -1);
    bench.no_faults();
    assert!(frozen(&bench));
    bench.keep("frozen");
    std::thread::sleep(Duration::from_millis(1600));

    // The copies are there (the kill came before that was traced), and nobody knows of which instant: they are taken again.
    let said = bench.verb("resume");
    assert_eq!((said.code, said.state().as_deref()), (0, Some("cloned")), "{said}");
    assert_eq!(operations(&bench), ["script", "script", "snapshot", "script"]);
    assert_eq!(instant(&bench), "frozen");
    assert!(!frozen(&bench));

    bench.back_to("frozen");
    assert_eq!(bench.verb("abort").code, 0);
    assert!(!frozen(&bench), "it is thawed at once on the way back");
    assert_eq!(bench.state(), "none");
}

#[test]
fn a_link_that_is_lost_while_it_is_frozen_is_no_proof() {
    let bench = bench(&json!({}));
    // The first is asked whether it can; the third thaws.
    bench.fault("guest.run", "file systems still", 3, How::UnknownAfter);
    let said = bench.good("clone", "cloned");
    let done = operations(&bench);
    assert!(done.ends_with(&["pause", "snapshot", "resume"]), "{done:?}: {said}");
    assert_eq!(instant(&bench), "paused");
    assert!(!frozen(&bench));
}
