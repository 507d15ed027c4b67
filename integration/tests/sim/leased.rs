//! Leased changes: the machine takes back by itself what nobody renews.

use std::fs;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hypervisors::Hypervisor as _;
use hypervisors::sim::How;
use integration::cli::Said;

use crate::bench::{Bench, Picture};

/// A pair inside the original, leased for ten minutes: a file that is there while it is paused.
pub const IN_ORIGINAL: &str = r#"
[[guests.mercure.hooks]]
name = "watcher"
around = ["clone"]
on = "original"
before = ["touch", "/root/paused"]
after = ["rm", "-f", "/root/paused"]
lease = "10m"
"#;

const ON_HOST: &str = r#"
[[guests.mercure.hooks]]
name = "watcher"
around = ["clone"]
on = "host"
before = ["/watcher", "pause"]
after = ["/watcher", "resume"]
lease = "10m"
"#;

/// More than its time.
pub const LONG: Duration = Duration::from_secs(11 * 60);
const SHORT: Duration = Duration::from_secs(8 * 60);

fn paused(bench: &Bench) -> bool {
    bench.volume("mercure", "root/paused").exists()
}

/// Reversals that stand in a volume.
fn standing(bench: &Bench, volume: &str) -> usize {
    fs::read_dir(bench.volume(volume, "var/lib/upgradectl/leased")).map_or(0, Iterator::count)
}

/// How often this was done to the world.
fn done(bench: &Bench, what: &str) -> usize {
    bench.trace().iter().filter(|entry| entry.object.contains(what)).count()
}

/// A clone whose controller is killed for good when the definition is made, and the world before it.
fn killed(more: &str) -> (Bench, Picture) {
    let bench = Bench::with(more);
    fs::write(bench.path("world/hostfs/watcher"), "exit 0\n").unwrap();
    let before = bench.picture();
    bench.fault("define", "", 1, How::KillAfter);
    assert_eq!(bench.verb("clone").code, -1);
    (bench, before)
}

/// What the world does without latency is done when it is asked for.
pub fn at_once<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits"),
    }
}

fn warnings(said: &Said) -> Vec<String> {
    let events = said.events().unwrap();
    let warned = events.iter().filter(|event| event["event"] == "warning");
    warned.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_the_engine_takes_back_itself_leaves_nothing() {
    let bench = Bench::with(IN_ORIGINAL);
    let before = bench.picture();
    let plan = bench.ctl.run(["plan", "clone", "mercure"]).unwrap().expect(0).unwrap();
    let text = plan.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let promise = "watcher: taken back by mercure itself at the latest 10 min after the controller is gone";
    assert!(text.contains(promise), "{plan}");
    let said = bench.good("clone", "cloned");
    assert_eq!(warnings(&said), Vec::<String>::new());
    assert!(!paused(&bench) && standing(&bench, "mercure") == 0);
    // The clone found its original's in its copy, and dropped it.
    let run = bench.run_id();
    bench.sim().tick(LONG).unwrap();
    assert_eq!(standing(&bench, &format!("{run}-root")), 0);
    assert!(bench.volume(&format!("{run}-root"), "root/paused").exists());
    bench.good("abort", "aborted");
    before.assert_same(&bench.picture(), "after a leased change");
}

#[test]
fn a_controller_that_never_comes_back() {
    let (bench, _) = killed(IN_ORIGINAL);
    assert!(paused(&bench) && standing(&bench, "mercure") == 1);
    bench.sim().tick(SHORT).unwrap();
    assert!(paused(&bench), "before its time");
    bench.sim().tick(LONG).unwrap();
    assert!(!paused(&bench) && standing(&bench, "mercure") == 0);

    let (bench, _) = killed(ON_HOST);
    let lies = || bench.path("world/hostfs/var/lib/upgradectl/leased").exists();
    assert!(lies());
    bench.sim().tick(LONG).unwrap();
    assert!(!lies());
}

#[test]
fn a_controller_that_never_comes_back_and_a_guest_that_reboots() {
    let (bench, _) = killed(IN_ORIGINAL);
    at_once(bench.sim().destroy("mercure")).unwrap();
    bench.sim().tick(LONG).unwrap();
    assert!(paused(&bench), "it is off");
    at_once(bench.sim().start("mercure")).unwrap();
    // Its time begins anew with the boot.
    bench.sim().tick(SHORT).unwrap();
    assert!(paused(&bench));
    bench.sim().tick(SHORT + LONG).unwrap();
    assert!(!paused(&bench) && standing(&bench, "mercure") == 0);
}

#[test]
fn resume_makes_again_what_was_taken_back_meanwhile() {
    // In time: it stands, and is renewed.
    let (bench, _) = killed(IN_ORIGINAL);
    bench.sim().tick(SHORT).unwrap();
    let made = done(&bench, "touch /root/paused");
    let said = bench.good("resume", "cloned");
    assert_eq!(warnings(&said), Vec::<String>::new());
    assert_eq!(done(&bench, "touch /root/paused"), made);
    assert!(!paused(&bench) && standing(&bench, "mercure") == 0);

    // Too late: the rest of the verb rests on it.
    let (bench, before) = killed(IN_ORIGINAL);
    bench.sim().tick(LONG).unwrap();
    bench.fault("start", "", 1, How::KillBefore);
    let killed_again = bench.verb("resume");
    assert_eq!(killed_again.code, -1, "{killed_again}");
    assert!(paused(&bench) && standing(&bench, "mercure") == 1);
    bench.sim().tick(LONG).unwrap();
    let said = bench.good("resume", "cloned");
    let told = warnings(&said);
    assert!(told.len() == 1 && told[0].contains("mercure took it back by itself"), "{told:?}");
    assert_eq!(done(&bench, "touch /root/paused"), 3);
    assert!(!paused(&bench) && standing(&bench, "mercure") == 0);
    bench.good("abort", "aborted");
    before.assert_same(&bench.picture(), "after all that");
}

#[test]
fn abort_needs_it_no_more() {
    for later in [SHORT, LONG] {
        let (bench, before) = killed(IN_ORIGINAL);
        bench.sim().tick(later).unwrap();
        let said = bench.good("abort", "aborted");
        assert_eq!(warnings(&said), Vec::<String>::new());
        before.assert_same(&bench.picture(), "aborted");
        bench.no_conflicts("abort");
    }
}

/// Production is paused for the instant of a copy: its host wakes it.
#[test]
fn a_pause_ends_by_itself() {
    let power = |bench: &Bench| fs::read_to_string(bench.path("world/power/mercure.json")).unwrap();
    for (way, state) in [("resume", "cloned"), ("abort", "aborted")] {
        let bench = Bench::new();
        let before = bench.picture();
        bench.fault("storage.snapshot", "", 1, How::KillMid);
        assert_eq!(bench.verb("clone").code, -1);
        bench.no_faults();
        assert!(power(&bench).contains("\"power\": \"paused\""));
        bench.sim().tick(Duration::from_secs(31)).unwrap();
        assert!(power(&bench).contains("\"power\": \"on\""));
        assert!(!bench.path("world/hostfs/var/lib/upgradectl").exists());
        // What was copied until then is of no instant: it is copied again.
        bench.good(way, state);
        if way == "resume" {
            assert_eq!(done(&bench, "upgradectl-leased make"), 2);
            bench.good("abort", "aborted");
        }
        before.assert_same(&bench.picture(), way);
    }
}

#[test]
fn a_machine_without_timers_is_told_of() {
    let bench = Bench::with(IN_ORIGINAL);
    bench.sim().configure(|config| config.timers = false).unwrap();
    let plan = bench.ctl.run(["plan", "clone", "mercure"]).unwrap().expect(0).unwrap();
    let text = plan.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("! watcher: mercure cannot take it back by itself"), "{plan}");
    let said = bench.good("clone", "cloned");
    let told = warnings(&said);
    assert!(told.iter().any(|warning| warning.contains("cannot take it back by itself")), "{told:?}");
    assert!(!paused(&bench));
}

#[test]
fn a_reversal_that_is_left_is_named_and_carried_out() {
    let (bench, before) = killed(ON_HOST);
    // Nobody knows its run any more.
    fs::remove_dir_all(bench.path("state")).unwrap();
    let said = bench.ctl.run(["doctor"]).unwrap();
    assert!(said.stdout.contains("mercure--"), "{said}");
    let listed = bench.ctl.run(["--json", "gc", "--dry-run"]).unwrap().expect(0).unwrap().json().unwrap();
    let reversal = |json: &serde_json::Value| {
        let all = json["found"].as_array().unwrap().clone();
        all.into_iter().find(|one| one["kind"] == "reversal").unwrap()
    };
    let one = reversal(&listed);
    assert!(one["removable"] == false && one["why"].as_str().unwrap().contains("watcher: /watcher resume"), "{one}");
    let said = bench.ctl.run(["--json", "gc", "--from-world", "--yes"]).unwrap().expect(0).unwrap();
    assert!(reversal(&said.json().unwrap())["removable"] == true, "{said}");
    assert!(!bench.path("world/hostfs/var/lib/upgradectl/leased").exists());
    before.assert_same(&bench.picture(), "gathered");
}

#[test]
fn a_reversal_inside_a_guest_is_named() {
    let (bench, _) = killed(IN_ORIGINAL);
    fs::remove_dir_all(bench.path("state")).unwrap();
    let said = bench.ctl.run(["doctor", "mercure"]).unwrap();
    let text = said.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("is to be taken back") && text.contains("tick now"), "{said}");
}
