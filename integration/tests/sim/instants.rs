//! Every instant of every verb: the controller is killed, panics, or finds its journal unwritable, before and after each
//! write of its journal, or in the middle of it. From there, both ways out.
//!
//! Between two writes lies a probe or one effect; what happens in the middle of an effect is [`crate::matrix`]'s. Which
//! writes there are is taken from a good run: a step that is new tomorrow is struck without a line here.

use std::fs::File;

use hypervisors::sim;
use integration::cli::Said;

use crate::matrix::{self, Ground, Passage, Strike, Struck, tell, what_goes_wrong};

/// A write of a good run: its number, and what is written.
struct Instant {
    number: u32,
    what: String,
}

impl Instant {
    /// Whether an effect is next: the instant after this write is not the one before the following.
    fn begins(&self) -> bool {
        ["intent ", "undo_intent ", "plan ", "open_run"].iter().any(|word| self.what.starts_with(word))
    }
}

/// How the controller fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    KillBefore,
    KillAfter,
    Panic,
    Full,
    ReadOnly,
    /// Killed, and the machine with it: of the last write there is a part only.
    Torn,
}

impl How {
    fn word(self) -> &'static str {
        match self {
            How::KillBefore => "kill-before",
            How::KillAfter | How::Torn => "kill-after",
            How::Panic => "panic",
            How::Full => "full",
            How::ReadOnly => "read-only",
        }
    }
}

/// A verb from the kept beginning, an operation of which fails, if any is named.
struct Verb<'a> {
    ground: &'a Ground,
    passage: &'a Passage,
    failing: Option<&'a Strike>,
}

impl Verb<'_> {
    fn run(&self, fault: &str) -> (Said, String) {
        self.ground.bench.back_to("start");
        if let Some(failing) = self.failing {
            self.ground.bench.fault(&failing.op, &failing.object, failing.nth, sim::How::Fail);
        }
        let ran = self.ground.bench.verb_with_journal(self.passage.verb, fault);
        self.ground.bench.no_faults();
        ran
    }

    /// Its instants, by a run in which nothing strikes; and how that ended.
    fn instants(&self) -> (i32, Vec<Instant>) {
        let (said, told) = self.run("0 trace");
        let lines = told.lines().map(|line| line.split_once(' ').unwrap());
        let instants = lines.map(|(number, what)| Instant { number: number.parse().unwrap(), what: what.to_owned() });
        (said.code, instants.collect())
    }

    fn strike(&self, instant: &Instant, how: How) {
        let Instant { number, what } = instant;
        let about = format!("{}: {how:?} at write {number}, {what}", self.passage.verb);
        let (said, told) = self.run(&format!("{number} {}", how.word()));
        assert_eq!(told, format!("{number} {what}\n"), "{about}: another point was hit: {said}");
        match how {
            How::KillBefore | How::KillAfter => assert_eq!(said.code, -1, "{about}: was not killed: {said}"),
            How::Torn => {
                let wal = File::options().write(true).open(self.ground.bench.path("state/journal.db-wal")).unwrap();
                wal.set_len(wal.metadata().unwrap().len() - 100).unwrap();
            }
            // Giving the lease back is tried, not insisted on: whoever comes next sees that its holder is gone.
            How::Full | How::ReadOnly if what == "release" => assert_ne!(said.code, 11, "{about}: {said}"),
            How::Full | How::ReadOnly => assert_eq!(said.code, 11, "{about}: {said}"),
            // Within a step a panic is an effect that nobody can tell of: it is tried again.
            How::Panic if what == "blob" => {}
            How::Panic => assert_eq!(said.code, 70, "{about}: {said}"),
        }
        self.ground.bench.no_conflicts(&about);
        self.ground.both_ways(&about);
        // What the world is like between two effects of an undoing is met here alone.
        if self.failing.is_some() && how == How::KillBefore && instant.begins() {
            self.ground.state_lost_too(&about);
        }
    }

    /// Strikes at all of these; tells of all that go wrong, not only the first.
    fn strike_all(&self, instants: &[Instant]) {
        let (mut wrong, mut struck) = (Vec::new(), Struck::default());
        for (index, instant) in instants.iter().enumerate() {
            let mut hows = vec![How::KillBefore];
            if instant.begins() {
                hows.push(How::KillAfter);
            }
            // What a disk that is full does is the same on whatever volumes, and at neighbours.
            if self.passage.on.is_none() && index % 2 == 0 {
                hows.push([How::Full, How::Panic, How::ReadOnly, How::Torn][index / 2 % 4]);
            }
            for how in hows {
                struck.tried += 1;
                struck.kills += usize::from(matches!(how, How::KillBefore | How::KillAfter | How::Torn));
                wrong.extend(what_goes_wrong(|| self.strike(instant, how)));
            }
        }
        tell(self.passage, instants.len(), &struck, &wrong);
    }
}

/// Every instant of a good run.
fn every_instant(passage: &'static Passage) {
    let ground = Ground::new(passage);
    let verb = Verb { ground: &ground, passage, failing: None };
    let (code, instants) = verb.instants();
    assert_eq!(code, 0);
    let steps = instants.iter().filter(|instant| instant.what.starts_with("intent ")).count();
    assert!(steps >= 1 && instants.len() > 2 * steps, "{} writes, {steps} steps", instants.len());
    verb.strike_all(&instants);
}

/// Every instant of the undoing that follows when the last operation fails that can.
fn every_instant_of_undoing(passage: &'static Passage) {
    let ground = Ground::new(passage);
    for failing in ground.strikes.iter().rev() {
        let verb = Verb { ground: &ground, passage, failing: Some(failing) };
        let (code, instants) = verb.instants();
        let failed = instants.iter().position(|instant| instant.what.starts_with("failed "));
        // Undone, and not only tidied up.
        let undone = |at: &usize| instants[*at..].iter().any(|instant| instant.what.starts_with("plan "));
        if let Some(failed) = failed.filter(undone).filter(|_| code == 1) {
            return verb.strike_all(&instants[failed..]);
        }
    }
    panic!("no failure is undone");
}

macro_rules! instants {
    ($every:ident; $($name:ident: $passage:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            $every(&matrix::$passage);
        })+
    };
}

instants! {
    every_instant;
    // With a hook whose reversal stands in the original meanwhile.
    of_a_clone: CLONE_LEASED,
    of_an_upgrade: UPGRADE,
    of_a_verification: VERIFY,
    of_a_promotion: PROMOTE,
    of_a_rollback: ROLLBACK,
    of_a_commit: COMMIT,
    of_an_abort: ABORT,
    of_an_abort_of_a_clone: ABORT_CLONE,
    of_a_clone_by_origin: CLONE_ORIGIN,
    of_a_thick_clone: CLONE_THICK,
    of_a_promotion_by_origin: PROMOTE_ORIGIN,
    of_a_thick_commit: COMMIT_THICK,
    of_a_thin_commit: COMMIT_THIN,
    of_an_abort_by_origin: ABORT_ORIGIN,
    of_a_clone_in_place: CLONE_IN_PLACE,
    of_an_upgrade_in_place: UPGRADE_IN_PLACE,
    of_a_commit_in_place: COMMIT_IN_PLACE,
    of_an_abort_in_place: ABORT_IN_PLACE,
    of_a_thick_promotion: PROMOTE_THICK,
    of_a_thick_rollback: ROLLBACK_THICK,
    of_a_thick_abort: ABORT_THICK,
    of_a_rollback_by_origin: ROLLBACK_ORIGIN,
    of_a_commit_by_origin: COMMIT_ORIGIN,
}

instants! {
    every_instant_of_undoing;
    of_an_undone_clone: CLONE,
    of_an_undone_promotion: PROMOTE,
    of_an_undone_promotion_by_origin: PROMOTE_ORIGIN,
}
