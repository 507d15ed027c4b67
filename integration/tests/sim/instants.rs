//! Every instant of every verb: the controller is killed, panics, or finds its journal unwritable, before and after each
//! write of its journal. From there, both ways out.
//!
//! Between two writes lies a probe or one effect; what happens in the middle of an effect is [`crate::matrix`]'s. Which
//! writes there are is taken from a good run: a step that is new tomorrow is struck without a line here.

use crate::matrix::{self, Ground, Passage, tell, what_goes_wrong};

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
}

impl How {
    fn word(self) -> &'static str {
        match self {
            How::KillBefore => "kill-before",
            How::KillAfter => "kill-after",
            How::Panic => "panic",
            How::Full => "full",
            How::ReadOnly => "read-only",
        }
    }
}

/// The instants of a good run, from the kept beginning.
fn instants(ground: &Ground, passage: &Passage) -> Vec<Instant> {
    ground.bench.back_to("start");
    let (said, told) = ground.bench.verb_with_journal(passage.verb, "0 trace");
    assert_eq!(said.code, 0, "{said}");
    let lines = told.lines().map(|line| line.split_once(' ').unwrap());
    lines.map(|(number, what)| Instant { number: number.parse().unwrap(), what: what.to_owned() }).collect()
}

fn strike(ground: &Ground, passage: &Passage, instant: &Instant, how: How) {
    let Instant { number, what } = instant;
    let about = format!("{}: {} at write {number}, {what}", passage.verb, how.word());
    ground.bench.back_to("start");
    let (said, told) = ground.bench.verb_with_journal(passage.verb, &format!("{number} {}", how.word()));
    assert_eq!(told, format!("{number} {what}\n"), "{about}: another point was hit: {said}");
    match how {
        How::KillBefore | How::KillAfter => assert_eq!(said.code, -1, "{about}: was not killed: {said}"),
        // Giving the lease back is tried, not insisted on: whoever comes next sees that its holder is gone.
        How::Full | How::ReadOnly if what == "release" => assert_eq!(said.code, 0, "{about}: {said}"),
        How::Full | How::ReadOnly => assert_eq!(said.code, 11, "{about}: {said}"),
        // Within a step a panic is an effect that nobody can tell of: it is tried again.
        How::Panic if what == "blob" => {}
        How::Panic => assert_eq!(said.code, 70, "{about}: {said}"),
    }
    ground.bench.no_conflicts(&about);
    ground.both_ways(&about);
}

/// Strikes at every instant; tells of all that go wrong, not only the first.
fn every_instant(passage: &'static Passage) {
    let ground = Ground::new(passage);
    let instants = instants(&ground, passage);
    let steps = instants.iter().filter(|instant| instant.what.starts_with("intent ")).count();
    assert!(steps >= 1 && instants.len() > 2 * steps, "{} writes, {steps} steps", instants.len());
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for (index, instant) in instants.iter().enumerate() {
        let trouble = [How::Full, How::Panic, How::ReadOnly][index % 3];
        let mut hows = vec![How::KillBefore];
        if instant.begins() {
            hows.push(How::KillAfter);
        }
        // What a disk that is full does is the same on whatever volumes.
        if passage.on.is_none() {
            hows.push(trouble);
        }
        for how in hows {
            tried += 1;
            wrong.extend(what_goes_wrong(|| strike(&ground, passage, instant, how)));
        }
    }
    tell(passage, instants.len(), tried, &wrong);
}

macro_rules! instants {
    ($($name:ident: $passage:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            every_instant(&matrix::$passage);
        })+
    };
}

instants! {
    of_a_clone: CLONE,
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
}
