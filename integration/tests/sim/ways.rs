//! The good way and the ways back from each of its states.

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
