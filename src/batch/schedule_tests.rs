#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::batch::spec::{Gate, Item};

fn item(host: &str, after: &[usize], wave: usize) -> Item {
    Item {
        guest: "g".into(),
        wave,
        after: after.to_vec(),
        on_failure: OnFailure::Continue,
        expected_s: None,
        host: host.into(),
        disk: host.into(),
        link: None,
        in_place: false,
    }
}

fn spec(parallel: usize, items: Vec<Item>) -> Spec {
    Spec {
        name: "night".into(),
        verbs: vec![Verb::Clone, Verb::Upgrade],
        limits: Limits { parallel, per_host: None, per_link: None, per_disk: None },
        window: None,
        between_waves: Gate::Ask,
        stop_at_failed: None,
        items,
    }
}

fn schedule(spec: &Spec, lengths: &[f64]) -> Schedule {
    Schedule::new(spec, lengths.iter().map(|length| vec![length / 2.0; 2]).collect())
}

fn begin(schedule: &mut Schedule) -> Option<usize> {
    let (index, verb) = schedule.next(|_| true)?;
    schedule.set(index, Standing::Working(verb));
    Some(index)
}

#[test]
fn the_longest_chain_begins_first_and_limits_hold() {
    let mut spec = spec(3, vec![item("a", &[], 0), item("a", &[], 0), item("b", &[], 0), item("b", &[2], 0)]);
    spec.limits.per_host = Some(1);
    let mut schedule = schedule(&spec, &[10.0, 30.0, 5.0, 40.0]);
    assert_eq!(begin(&mut schedule), Some(2), "45 s with what comes after it");
    assert_eq!(begin(&mut schedule), Some(1));
    assert_eq!(begin(&mut schedule), None, "both hosts are taken");
    schedule.set(2, Standing::Ended(Ending::Well));
    assert_eq!(begin(&mut schedule), Some(3));
    schedule.set(1, Standing::Between(1));
    assert_eq!(schedule.next(|_| true), Some((1, 1)), "it keeps its place on its host");
}

#[test]
fn those_that_are_tried_again_keep_to_the_limits() {
    let mut spec = spec(2, (0..6).map(|index| item(if index < 3 { "a" } else { "b" }, &[], 0)).collect());
    spec.limits.per_host = Some(1);
    let mut schedule = schedule(&spec, &[1.0; 6]);
    (0..6).for_each(|index| schedule.set(index, Standing::Between(1)));
    assert_eq!((begin(&mut schedule), begin(&mut schedule), begin(&mut schedule)), (Some(0), Some(3), None));
    schedule.set(0, Standing::Ended(Ending::Well));
    assert_eq!((begin(&mut schedule), begin(&mut schedule)), (Some(1), None));
    schedule.set_elsewhere(1);
    assert_eq!(begin(&mut schedule), None, "hosts are everybody's");
}

#[test]
fn disks_and_links_are_held_for_the_verbs_that_need_them() {
    let moved = |host: &str| Item { link: Some("jails".into()), disk: "jails".into(), ..item(host, &[], 0) };
    let mut spec = spec(9, vec![moved("a"), moved("b"), item("c", &[], 0)]);
    (spec.limits.per_link, spec.limits.per_disk) = (Some(1), Some(9));
    let mut schedule = schedule(&spec, &[3.0, 2.0, 1.0]);
    assert_eq!((begin(&mut schedule), begin(&mut schedule), begin(&mut schedule)), (Some(0), Some(2), None));
    // An upgrade moves nothing.
    schedule.set(0, Standing::Working(1));
    assert_eq!(begin(&mut schedule), Some(1));
}

#[test]
fn a_failure_ends_what_comes_after_it_and_may_stop_the_rest() {
    let mut spec = spec(1, vec![item("a", &[], 0), item("a", &[0], 0), item("a", &[1], 0), item("a", &[], 0)]);
    let mut going = schedule(&spec, &[9.0, 1.0, 1.0, 1.0]);
    going.set(0, Standing::Ended(Ending::Failed));
    assert_eq!(going.orphan(), Some((1, 0)));
    going.set(1, Standing::Ended(Ending::Left));
    assert_eq!(going.orphan(), Some((2, 1)));
    going.set(2, Standing::Ended(Ending::Left));
    assert_eq!((going.orphan(), begin(&mut going)), (None, Some(3)));

    spec.items[0].on_failure = OnFailure::Stop;
    let mut stops = schedule(&spec, &[9.0, 1.0, 1.0, 1.0]);
    stops.set(0, Standing::Ended(Ending::Failed));
    assert_eq!((stops.halted(), begin(&mut stops)), (Some(Halt::Failure(0)), None));
    stops.go_on();
    assert_eq!(begin(&mut stops), Some(3));
}

#[test]
fn a_wave_waits_for_the_one_before_and_stops_at_its_share() {
    let mut spec = spec(9, (0..6).map(|index| item("a", &[], usize::from(index > 0))).collect());
    spec.stop_at_failed = Some(StopAt::Percent(40));
    let mut schedule = schedule(&spec, &[1.0; 6]);
    assert_eq!((begin(&mut schedule), begin(&mut schedule)), (Some(0), None));
    assert!(!schedule.at_gate());
    schedule.set(0, Standing::Ended(Ending::Well));
    assert!(schedule.at_gate() && !schedule.over());
    schedule.enter_wave(1);
    (1..6).for_each(|index| schedule.set(index, Standing::Working(0)));
    schedule.set(1, Standing::Ended(Ending::Failed));
    assert_eq!(schedule.halted(), None);
    schedule.set(2, Standing::Ended(Ending::Failed));
    assert_eq!(schedule.halted(), Some(Halt::Share(1)));
}

#[test]
fn nothing_begins_that_does_not_fit() {
    let spec = spec(9, vec![item("a", &[], 0), item("a", &[], 0)]);
    let mut schedule = schedule(&spec, &[100.0, 10.0]);
    assert_eq!(schedule.next(|seconds| seconds <= 50.0), Some((1, 0)));
    schedule.set(0, Standing::Between(1));
    assert_eq!(schedule.next(|seconds| seconds <= 50.0), Some((0, 1)), "its last verb fits");
}

#[test]
fn a_night_is_played_through() {
    let spec = spec(2, (0..4).map(|_| item("a", &[], 0)).collect());
    let mut schedule_ = schedule(&spec, &[10.0, 6.0, 4.0, 4.0]);
    assert!((schedule_.ideal_s() - 12.0).abs() < 1e-9);
    schedule_.set(3, Standing::Ended(Ending::Well));
    assert!((schedule_.play() - 10.0).abs() < 1e-9);
}

proptest! {
    /// Whatever the lengths and limits: everything ends, no limit is broken, and the night is no longer than the bound of
    /// list scheduling (Graham 1969): the sum of what must be done one after the other and what can be spread.
    #[test]
    fn every_batch_comes_to_its_end(
        lengths in proptest::collection::vec(1.0..1000.0f64, 1..30),
        parallel in 1usize..6,
        per_host in proptest::option::of(1usize..3),
        after in proptest::collection::vec(proptest::option::of(0usize..30), 30),
        hosts in proptest::collection::vec(0usize..3, 30),
    ) {
        let items = (0..lengths.len()).map(|index| {
            // Only earlier ones: no circles.
            let after: Vec<usize> = after[index].filter(|other| *other < index).into_iter().collect();
            item(["a", "b", "c"][hosts[index]], &after, 0)
        });
        let mut spec = spec(parallel, items.collect());
        spec.limits.per_host = per_host;
        let mut running = schedule(&spec, &lengths);
        let ideal = running.ideal_s();
        let played = schedule(&spec, &lengths).play();
        prop_assert!(played >= ideal - 1e-6);
        prop_assert!(played <= lengths.iter().sum::<f64>() + 1e-6);
        // By hand, in another order of endings.
        let mut at_work: Vec<(usize, usize)> = Vec::new();
        while !running.over() {
            while let Some((index, verb)) = running.next(|_| true) {
                running.set(index, Standing::Working(verb));
                at_work.push((index, verb));
            }
            prop_assert!(at_work.len() <= parallel);
            for host in ["a", "b", "c"] {
                let there = at_work.iter().filter(|(index, _)| spec.items[*index].host == host).count();
                prop_assert!(per_host.is_none_or(|most| there <= most));
            }
            let (index, verb) = at_work.pop().unwrap();
            running.set(index, if verb == 1 { Standing::Ended(Ending::Well) } else { Standing::Between(1) });
        }
        prop_assert_eq!(running.total().well, lengths.len());
    }
}
