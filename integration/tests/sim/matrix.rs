//! Every operation that a verb does to the world fails, and the controller is killed right after it: from there, both
//! ways out. Which operations there are is taken from the trace of a good run, so none is forgotten.

use hypervisors::sim::{How, TraceEntry};
use hypervisors::storage::Copies;
use integration::crash::{self, End, Figures};

use crate::bench::{Bench, Ending as _, Picture};
use crate::leased;

/// Where a fault strikes.
#[derive(Debug, Clone)]
pub struct Strike {
    pub op: String,
    pub object: String,
    pub nth: u32,
}

/// A verb with what leads to it.
pub struct Passage {
    /// Kind of volume and strategy; `None`: trees, by `snapshot`.
    pub on: Option<(Copies, &'static str)>,
    /// What stands at the end of the inventory.
    more: &'static str,
    pub verb: &'static str,
    /// Verbs before it, with the states they lead to.
    before: &'static [(&'static str, &'static str)],
    /// The state it leads to.
    pub done: &'static str,
    /// States it may end in when an operation fails, by exit code.
    failing: &'static [(i32, &'static str)],
}

pub const CLONE: Passage =
    Passage { on: None, more: "", verb: "clone", before: &[], done: "cloned", failing: &[(1, "aborted"), (7, "")] };
pub const UPGRADE: Passage = Passage {
    on: None,
    more: "",
    verb: "upgrade",
    before: &[("clone", "cloned")],
    done: "upgraded",
    failing: &[(8, "upgrading"), (7, "")],
};
pub const VERIFY: Passage = Passage {
    on: None,
    more: "",
    verb: "verify",
    before: &[("clone", "cloned"), ("upgrade", "upgraded")],
    done: "verified",
    failing: &[(3, "upgraded"), (10, "verified")],
};
const VERIFIED: &[(&str, &str)] = &[("clone", "cloned"), ("upgrade", "upgraded"), ("verify", "verified")];
pub const PROMOTE: Passage = Passage {
    on: None,
    more: "",
    verb: "promote",
    before: VERIFIED,
    done: "promoted",
    failing: &[(1, "verified"), (1, "upgraded"), (3, "promoted")],
};
const PROMOTED: &[(&str, &str)] =
    &[("clone", "cloned"), ("upgrade", "upgraded"), ("verify", "verified"), ("promote", "promoted")];
pub const ROLLBACK: Passage = Passage {
    on: None,
    more: "",
    verb: "rollback",
    before: PROMOTED,
    done: "upgraded",
    failing: &[(4, "rolling_back"), (8, "rolling_back")],
};
pub const COMMIT: Passage =
    Passage { on: None, more: "", verb: "commit", before: PROMOTED, done: "committed", failing: &[(8, "committing")] };
pub const ABORT: Passage = Passage {
    on: None,
    more: "",
    verb: "abort",
    before: PROMOTED,
    done: "aborted",
    failing: &[(4, "aborting"), (8, "aborting")],
};
pub const ABORT_CLONE: Passage = Passage {
    on: None,
    more: "",
    verb: "abort",
    before: &[("clone", "cloned")],
    done: "aborted",
    failing: &[(4, "aborting"), (8, "aborting")],
};

const THICK: Copies = Copies::Dependents;
const THIN: Copies = Copies::Peers;
pub const CLONE_ORIGIN: Passage = Passage {
    on: Some((THICK, "origin")),
    // Once production has moved, the clone stays where it stopped.
    failing: &[(1, "aborted"), (7, ""), (8, "cloning")],
    ..CLONE
};
/// Something is changed in the original meanwhile, and its reversal stands there.
pub const CLONE_LEASED: Passage =
    Passage { more: leased::IN_ORIGINAL, failing: &[(1, "aborted"), (7, ""), (10, "cloned")], ..CLONE };
/// The guest is frozen for the snapshot.
pub const CLONE_THICK: Passage = Passage { on: Some((THICK, "snapshot")), ..CLONE };
pub const PROMOTE_ORIGIN: Passage = Passage { on: Some((THIN, "origin")), ..PROMOTE };
pub const COMMIT_THICK: Passage = Passage {
    on: Some((THICK, "snapshot")),
    failing: &[(1, "promoted"), (8, "committing"), (3, "committed")],
    ..COMMIT
};
pub const COMMIT_THIN: Passage = Passage { on: Some((THIN, "snapshot")), ..COMMIT };
pub const ABORT_ORIGIN: Passage = Passage { on: Some((THICK, "origin")), ..ABORT };
pub const CLONE_IN_PLACE: Passage = Passage { on: Some((THICK, "in-place")), ..CLONE };
pub const UPGRADE_IN_PLACE: Passage =
    Passage { on: Some((THICK, "in-place")), failing: &[(1, "cloned"), (8, "upgrading"), (7, "")], ..UPGRADE };
pub const COMMIT_IN_PLACE: Passage = Passage { on: Some((THICK, "in-place")), before: VERIFIED, ..COMMIT };
pub const ABORT_IN_PLACE: Passage = Passage { on: Some((THICK, "in-place")), before: VERIFIED, ..ABORT };
pub const PROMOTE_THICK: Passage = Passage { on: Some((THICK, "snapshot")), ..PROMOTE };
pub const ROLLBACK_ORIGIN: Passage = Passage { on: Some((THICK, "origin")), ..ROLLBACK };
pub const ROLLBACK_THICK: Passage = Passage { on: Some((THICK, "snapshot")), ..ROLLBACK };
pub const ABORT_THICK: Passage = Passage { on: Some((THICK, "snapshot")), ..ABORT };
pub const COMMIT_ORIGIN: Passage = Passage { on: Some((THICK, "origin")), ..COMMIT };
const ABORT_CLONE_ORIGIN: Passage = Passage { on: Some((THICK, "origin")), ..ABORT_CLONE };

/// The operations of a good run of the verb.
pub fn strikes(trace: &[TraceEntry], run: &str) -> Vec<Strike> {
    // The next run has another id.
    let pattern = |object: &str| object.split_once(run).map_or(object, |(start, _)| start).to_owned();
    let mut strikes: Vec<Strike> = Vec::new();
    for (index, entry) in trace.iter().enumerate() {
        let object = pattern(&entry.object);
        let same = |other: &&TraceEntry| other.op == entry.op && other.object.contains(&object);
        let nth = u32::try_from(trace[..=index].iter().filter(same).count()).unwrap();
        strikes.push(Strike { op: entry.op.clone(), object, nth });
    }
    strikes
}

/// A world in which one verb can be done again and again from the same beginning.
pub struct Ground {
    pub bench: Bench,
    passage: &'static Passage,
    /// Before the run.
    first: Picture,
    /// Before the verb.
    start: Picture,
    pub strikes: Vec<Strike>,
}

impl Ground {
    pub fn new(passage: &'static Passage) -> Self {
        let bench = match passage.on {
            Some((copies, strategy)) => Bench::with_copies(copies, strategy),
            None => Bench::with(passage.more),
        };
        let first = bench.picture();
        for (verb, state) in passage.before {
            bench.good(verb, state);
        }
        bench.keep("start");
        let start = bench.picture();
        let before = bench.trace().len();
        bench.good(passage.verb, passage.done);
        let run = if passage.verb == "clone" { bench.run_id() } else { "\0".to_owned() };
        let mut strikes = strikes(&bench.trace()[before..], &run);
        if passage.verb == "verify" {
            // It only looks: what it looks at fails.
            let looks = [("guest.run", 1), ("guest.run", 2), ("guest.run", 4), ("guest.run", 6)];
            strikes = looks.map(|(op, nth)| Strike { op: op.to_owned(), object: String::new(), nth }).to_vec();
        }
        assert!(!strikes.is_empty());
        Self { bench, passage, first, start, strikes }
    }

    /// The verb.
    pub fn verb(&self) -> &'static str {
        self.passage.verb
    }

    /// Without what a promotion leaves behind; by strategy `origin` the clone is on what was production's volume.
    fn around(&self, picture: Picture) -> Picture {
        let mut picture = picture.after_a_promotion();
        if self.passage.on.is_some_and(|(_, strategy)| strategy == "origin") {
            picture.0.retain(|name, _| !name.starts_with("volumes/mercure/") && !name.contains("/var/lib/upgradectl"));
        }
        picture
    }

    /// The world is as before the run.
    fn as_before_the_run(&self, about: &str) {
        self.first.assert_same(&self.bench.picture(), about);
        self.bench.no_conflicts(about);
        assert_eq!(self.bench.state(), "none", "{about}");
    }

    /// Goes on to the state the verb leads to.
    fn forward(&self, about: &str) {
        let Passage { verb, done, .. } = self.passage;
        for _ in 0..4 {
            let state = self.bench.state();
            if state == *done || (state == "none" && matches!(*done, "committed" | "aborted")) {
                self.bench.no_conflicts(about);
                return;
            }
            let stuck = self.bench.run().and_then(|run| run["stuck_step"].as_u64());
            let said = if let Some(step) = stuck {
                let step = step.to_string();
                self.bench.verb_with("retry", &["--step", &step, "--reason", "the fault is gone"])
            } else if state.ends_with("ing") || state == "rolling_back" {
                self.bench.verb("resume")
            } else if *verb == "promote" && state == "upgraded" {
                self.bench.verb("verify")
            } else {
                self.bench.verb(verb)
            };
            // Going on with the undoing of a verb that had failed is well done, too.
            assert_eq!(said.code, 0, "{about}, going on from {state}: {said}");
        }
        panic!("{about}: the way forward does not lead to {done} but to {}", self.bench.state());
    }

    /// Takes everything back.
    pub fn backward(&self, about: &str) {
        let state = self.bench.state();
        if state == "none" && self.passage.verb == "commit" {
            // It was done when it struck: there is no way back.
            return;
        }
        if let Some(step) = self.bench.run().and_then(|run| run["stuck_step"].as_u64()) {
            let step = step.to_string();
            let said = self.bench.verb_with("retry", &["--step", &step, "--reason", "the fault is gone"]);
            assert_eq!(said.code, 0, "{about}, trying again: {said}");
        }
        if self.bench.state() != "none" {
            let said = self.bench.verb("abort");
            if said.code == 9 && matches!(self.passage.verb, "commit" | "abort") {
                // Past what cannot be taken back there is one way only.
                self.forward(about);
                if self.passage.verb == "abort" {
                    self.as_before_the_run(about);
                }
                return;
            }
            assert_eq!(said.code, 0, "{about}, abort from {state}: {said}");
        }
        self.as_before_the_run(about);
    }

    /// One fault, both ways out.
    fn strike(&self, strike: &Strike, how: How) {
        let about = format!("{} with {how:?} at {strike:?}", self.passage.verb);
        self.bench.back_to("start");
        self.bench.fault(&strike.op, &strike.object, strike.nth, how);
        let said = self.bench.verb(self.passage.verb);
        self.bench.no_faults();
        self.bench.no_conflicts(&about);
        match how {
            How::KillBefore | How::KillMid | How::KillAfter if said.code == -1 => {}
            How::KillBefore | How::KillMid | How::KillAfter => panic!("{about}: was not killed: {said}"),
            _ if said.code == 0 => assert_eq!(said.state().as_deref(), Some(self.passage.done), "{about}: {said}"),
            _ => {
                let ending = (said.code, said.state().unwrap_or_default());
                let known = self.passage.failing.iter().any(|(code, state)| *code == ending.0 && *state == ending.1);
                assert!(known, "{about}: ended {ending:?}: {said}");
            }
        }
        if said.code == 1 || said.code == 7 {
            let start = self.around(self.start.clone());
            start.assert_same(&self.around(self.bench.picture()), &format!("{about}, undone"));
        }
        if said.code == 0 && self.passage.verb == "commit" {
            // It was tried again, and is done: there is no way back.
            return;
        }
        self.both_ways(&about);
        self.state_lost_too(&about);
    }

    /// The third way from the instant of [`Self::both_ways`].
    pub fn state_lost_too(&self, about: &str) {
        if self.bench.path("kept/struck").exists() {
            self.bench.back_to("struck");
            self.state_lost(about);
        }
    }

    /// The state directory is gone with the controller: `gc --from-world` removes what only the run needed, and leaves
    /// whatever production stands on; the rest can be adopted, and nothing that bears a mark is left then. What was leased
    /// the machines take back themselves.
    fn state_lost(&self, about: &str) {
        let about = &format!("{about}, state lost");
        std::fs::remove_dir_all(self.bench.path("state")).unwrap();
        self.bench.sim().tick(leased::LONG).unwrap();
        let after = self.collect(about);
        let only_beside = matches!(self.passage.verb, "clone" | "upgrade" | "verify");
        if only_beside && self.passage.on.is_none_or(|(_, strategy)| strategy == "snapshot") {
            let differs = self.first.difference(&after);
            assert!(differs.is_empty(), "{about}: the world differs:\n{}", differs.join("\n"));
        }
    }

    /// No run is open: `gc` removes what nobody needs, and nothing else; the rest is adopted. The world between the two.
    pub fn collect(&self, about: &str) -> Picture {
        let before = self.bench.picture();
        let gc = |more: &[&str]| {
            let said = self.bench.ctl_run(&[&["--json", "gc"], more].concat());
            assert_eq!(said.code, 0, "{about}, gc {more:?}: {said}");
            said.json().unwrap()
        };
        let collected = gc(&["--from-world", "--yes"]);
        assert_eq!(collected["unreachable"], serde_json::json!([]), "{about}: {collected:#}");
        let after = self.bench.picture();
        let removed: Vec<&str> =
            collected["removed"].as_array().unwrap().iter().filter_map(|one| one.as_str()).collect();
        for line in before.difference(&after) {
            let name = line.trim_start().split_once(':').unwrap().0;
            let of_the_run = removed.iter().any(|object| {
                let object = object.rsplit('/').next().unwrap();
                let name = name.split_once('/').unwrap().1;
                name.strip_prefix(object).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
            });
            assert!(of_the_run && !after.0.contains_key(name), "{about}: {line}\nremoved: {removed:?}");
        }
        self.stands(about, &before, &after);
        for one in collected["found"].as_array().unwrap().iter().filter(|one| one["removable"] == false) {
            assert!(!one["why"].as_str().unwrap().is_empty(), "{about}: {one}");
            gc(&["--adopt", one["object"].as_str().unwrap()]);
        }
        let left = gc(&["--from-world", "--dry-run"]);
        assert_eq!(left["found"], serde_json::json!([]), "{about}: adopted, and found again");
        let marks: Vec<_> =
            self.bench.picture().0.into_iter().filter(|(_, what)| what.contains("upgradectl.")).collect();
        assert!(marks.is_empty(), "{about}: {marks:?}");
        self.stands(about, &before, &self.bench.picture());
        after
    }

    /// Production can be started: each volume that its definition names is there, whole and with all its files. Where it
    /// could not be when it struck, in the middle of a commit's renames, that is told.
    fn stands(&self, about: &str, before: &Picture, now: &Picture) {
        let text = std::fs::read_to_string(self.bench.path("world/definitions/mercure.json")).unwrap();
        let definition: serde_json::Value = serde_json::from_str(&text).unwrap();
        for disk in definition["disks"].as_array().unwrap() {
            let volume = disk["volume"].as_str().unwrap();
            if !before.0.contains_key(&format!("volumes/{volume}.json")) {
                let said = self.bench.ctl_run(&["doctor"]);
                assert!(said.stdout.contains("does not exist"), "{about}: {volume} is missing: {said}");
                continue;
            }
            assert!(now.0[&format!("volumes/{volume}.json")].contains("intent=null"), "{about}: {volume}");
            let tree = format!("volumes/{volume}/");
            let files = |picture: &Picture| picture.0.iter().filter(|(name, _)| name.starts_with(&tree)).count();
            assert_eq!(files(before), files(now), "{about}: {volume}");
        }
    }

    /// Both ways out, from copies of this instant.
    pub fn both_ways(&self, about: &str) {
        self.bench.keep("struck");
        self.forward(&format!("{about}, forward"));
        if self.bench.path("kept/struck").exists() {
            self.bench.back_to("struck");
            self.backward(&format!("{about}, backward"));
        }
    }
}

/// Strikes every operation; tells of all that go wrong, not only the first.
fn every_strike(passage: &'static Passage, how: How) {
    let ground = Ground::new(passage);
    let mut wrong = Vec::new();
    for strike in &ground.strikes {
        wrong.extend(what_goes_wrong(|| ground.strike(strike, how)));
    }
    let kills = matches!(how, How::KillBefore | How::KillMid | How::KillAfter);
    let strikes = ground.strikes.len();
    tell(passage, strikes, &Struck { tried: strikes, kills: if kills { strikes } else { 0 } }, &wrong);
}

/// Strikes of a test.
#[derive(Default)]
pub struct Struck {
    pub tried: usize,
    /// Those of them that ended the controller by `kill -9`.
    pub kills: usize,
}

/// Counts what was struck, and tells of what went wrong.
pub fn tell(passage: &Passage, points: usize, strikes: &Struck, wrong: &[String]) {
    let Struck { tried, kills } = *strikes;
    let well = tried - wrong.len();
    let figures = Figures { points, hit: tried, resumed_ok: well, aborted_ok: well };
    let (tmp, test) = (env!("CARGO_TARGET_TMPDIR"), std::thread::current().name().unwrap().to_owned());
    crash::count(tmp, "sim", passage.verb, &test, figures).unwrap();
    crash::count_ends(tmp, End::Kills, &test, kills, kills.saturating_sub(wrong.len())).unwrap();
    assert!(wrong.is_empty(), "{} of {tried} go wrong:\n{}", wrong.len(), wrong.join("\n----\n"));
}

/// The words with which something panics.
pub fn what_goes_wrong(act: impl FnOnce()) -> Option<String> {
    let why = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).err()?;
    let text = why.downcast_ref::<String>().cloned();
    Some(text.or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
}

macro_rules! strikes {
    ($($name:ident: $passage:ident $how:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            every_strike(&$passage, How::$how);
        })+
    };
}

strikes! {
    clone_fails: CLONE Fail,
    clone_is_killed: CLONE KillAfter,
    upgrade_fails: UPGRADE Fail,
    upgrade_is_killed: UPGRADE KillAfter,
    verify_fails: VERIFY Fail,
    verify_is_killed: VERIFY KillAfter,
    promote_fails: PROMOTE Fail,
    promote_is_killed: PROMOTE KillAfter,
    promote_is_killed_half_way: PROMOTE KillMid,
    promote_is_killed_before: PROMOTE KillBefore,
    clone_is_killed_half_way: CLONE KillMid,
    leased_clone_fails: CLONE_LEASED Fail,
    leased_clone_is_killed: CLONE_LEASED KillAfter,
    clone_loses_the_link: CLONE UnknownAfter,
    rollback_fails: ROLLBACK Fail,
    rollback_is_killed: ROLLBACK KillAfter,
    commit_fails: COMMIT Fail,
    commit_is_killed: COMMIT KillAfter,
    abort_fails: ABORT Fail,
    abort_is_killed: ABORT KillAfter,
    abort_of_a_clone_fails: ABORT_CLONE Fail,
    abort_of_a_clone_is_killed: ABORT_CLONE KillAfter,
    thick_clone_fails: CLONE_THICK Fail,
    thick_clone_is_killed: CLONE_THICK KillAfter,
    thick_clone_is_killed_half_way: CLONE_THICK KillMid,
    thick_clone_loses_the_link: CLONE_THICK UnknownAfter,
    origin_clone_fails: CLONE_ORIGIN Fail,
    origin_clone_is_killed: CLONE_ORIGIN KillAfter,
    origin_clone_is_killed_half_way: CLONE_ORIGIN KillMid,
    origin_promote_fails: PROMOTE_ORIGIN Fail,
    origin_promote_is_killed: PROMOTE_ORIGIN KillAfter,
    origin_abort_fails: ABORT_ORIGIN Fail,
    origin_abort_is_killed: ABORT_ORIGIN KillAfter,
    origin_abort_of_a_clone_is_killed: ABORT_CLONE_ORIGIN KillAfter,
    origin_abort_of_a_clone_is_killed_half_way: ABORT_CLONE_ORIGIN KillMid,
    thick_commit_fails: COMMIT_THICK Fail,
    thick_commit_is_killed: COMMIT_THICK KillAfter,
    thick_commit_is_killed_half_way: COMMIT_THICK KillMid,
    thin_commit_fails: COMMIT_THIN Fail,
    thin_commit_is_killed: COMMIT_THIN KillAfter,
    in_place_clone_is_killed: CLONE_IN_PLACE KillAfter,
    in_place_upgrade_fails: UPGRADE_IN_PLACE Fail,
    in_place_upgrade_is_killed: UPGRADE_IN_PLACE KillAfter,
    in_place_upgrade_is_killed_half_way: UPGRADE_IN_PLACE KillMid,
    in_place_commit_is_killed: COMMIT_IN_PLACE KillAfter,
    in_place_abort_fails: ABORT_IN_PLACE Fail,
    in_place_abort_is_killed: ABORT_IN_PLACE KillAfter,
    in_place_abort_is_killed_half_way: ABORT_IN_PLACE KillMid,
    thick_promote_is_killed: PROMOTE_THICK KillAfter,
    thick_rollback_is_killed: ROLLBACK_THICK KillAfter,
    thick_abort_is_killed: ABORT_THICK KillAfter,
    origin_rollback_is_killed: ROLLBACK_ORIGIN KillAfter,
    origin_commit_is_killed: COMMIT_ORIGIN KillAfter,
}
