//! The good way and the ways back from each of its states.

use std::fs;

use serde_json::Value;

use crate::bench::{Bench, WAY};

#[test]
fn commit_removes_the_original_and_every_mark() {
    let bench = Bench::new();
    bench.good_way_to("promoted");
    let run = bench.run_id();
    bench.good("commit", "committed");
    let picture = bench.picture();
    for (name, what) in &picture.0 {
        assert!(!name.starts_with("volumes/mercure/"), "{name} is still there");
        assert!(!what.contains("\"run\"") && !what.contains(&format!("{run}:")), "{name} bears a mark: {what}");
    }
    assert!(!bench.path("world/definitions").join(format!("{run}.json")).exists());
    bench.no_conflicts("commit");
}

#[test]
fn abort_from_every_state_returns_the_world() {
    let bench = Bench::new();
    let before = bench.picture();
    bench.keep("before");
    for (_, state) in WAY {
        bench.back_to("before");
        bench.good_way_to(state);
        bench.good("abort", "aborted");
        let mut after = bench.picture();
        if state == "promoted" {
            after = after.after_a_promotion();
        }
        before.assert_same(&after, state);
        bench.no_conflicts(state);
        assert_eq!(bench.state(), "none");
    }
}

#[test]
fn rollback_returns_the_world_and_promotion_works_again() {
    let bench = Bench::new();
    bench.good_way_to("verified");
    let before = bench.picture().after_a_promotion();
    bench.good("promote", "promoted");
    bench.good("rollback", "upgraded");
    before.assert_same(&bench.picture().after_a_promotion(), "after rollback");
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    bench.good("commit", "committed");
    bench.no_conflicts("rollback");
}

#[test]
fn an_original_that_was_off_at_promotion_is_off_afterwards() {
    for (verb, state) in [("rollback", "upgraded"), ("abort", "none")] {
        let bench = Bench::new();
        bench.good_way_to("verified");
        let file = bench.path("world/power/mercure.json");
        let mut power: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        power["power"] = "off".into();
        fs::write(&file, power.to_string()).unwrap();
        bench.good("promote", "promoted");
        let said = bench.verb(verb);
        assert_eq!((said.code, bench.state().as_str()), (0, state), "{verb}: {said}");
        let power: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(power["power"], "off", "{verb}: it was off");
        bench.no_conflicts(verb);
    }
}
