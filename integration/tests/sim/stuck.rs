//! Every operation of an undo fails for good: the run is stuck, or goes on untidily. From copies of that instant what a person
//! may decide: `retry`, `skip`, `abandon`.

use hypervisors::sim::How;

use crate::bench::Ending as _;
use crate::matrix::{self, Ground, Passage, Strike, Struck, strikes, tell, what_goes_wrong};

/// More often than anything is tried again by itself.
const FOR_GOOD: u32 = 12;

/// A verb whose undoing is struck: it fails itself at one operation, if it is not an undoing from its beginning.
struct Undoing {
    ground: Ground,
    failing: Option<Strike>,
    /// The operations of the undoing.
    strikes: Vec<Strike>,
}

impl Undoing {
    fn new(passage: &'static Passage) -> Self {
        let ground = Ground::new(passage);
        if matches!(passage.verb, "rollback" | "abort") {
            let strikes = ground.strikes.clone();
            return Self { ground, failing: None, strikes };
        }
        // The last operation that can fail: most is undone then.
        for failing in ground.strikes.iter().rev() {
            ground.bench.back_to("start");
            let before = ground.bench.trace().len();
            ground.bench.fault(&failing.op, &failing.object, failing.nth, How::Fail);
            let said = ground.bench.verb(passage.verb);
            ground.bench.no_faults();
            let trace = ground.bench.trace();
            let at = trace.iter().position(|entry| entry.seq > before as u64 && entry.fault.is_some());
            if let Some(at) = at.filter(|at| said.code == 1 && at + 1 < trace.len()) {
                let run = said.ending()["run"].as_str().unwrap_or("\0").to_owned();
                let strikes = strikes(&trace[at + 1..], if passage.verb == "clone" { &run } else { "\0" });
                let failing = Some(failing.clone());
                return Self { ground, failing, strikes };
            }
        }
        panic!("no failure is undone");
    }

    /// The run is stuck, or could do without this operation.
    fn strike(&self, strike: &Strike) {
        let Self { ground: Ground { bench, .. }, failing, .. } = self;
        let about = format!("{} whose undoing fails at {strike:?}", self.ground.verb());
        bench.back_to("start");
        let mut nth = strike.nth;
        if let Some(failing) = failing {
            bench.fault(&failing.op, &failing.object, failing.nth, How::Fail);
            // Faults count from now on, those of the verb itself included.
            nth += self.before(strike);
        }
        for _ in 0..FOR_GOOD {
            bench.fault(&strike.op, &strike.object, nth, How::Fail);
        }
        let said = bench.verb(self.ground.verb());
        bench.no_faults();
        bench.no_conflicts(&about);
        let Some(step) = bench.run().and_then(|run| run["stuck_step"].as_u64()) else {
            assert_ne!(said.code, 4, "{about}: {said}");
            let definition = bench.run().map(|run| format!("world/definitions/{}.json", run["run"].as_str().unwrap()));
            let clone_is_gone =
                bench.state() == "upgraded" && definition.is_some_and(|file| !bench.path(&file).exists());
            return if clone_is_gone { self.ground.backward(&about) } else { self.ground.both_ways(&about) };
        };
        assert_eq!(said.code, 4, "{about}: {said}");
        for verb in ["promote", "upgrade", "commit", "abort"] {
            assert_eq!(bench.verb(verb).code, 4, "{about}: {verb} of a stuck run");
        }
        let step = step.to_string();
        let decide = |choice: &str| bench.verb_with(choice, &["--step", &step, "--reason", "looked at"]);
        bench.keep("stuck");

        // The fault is gone.
        self.ground.both_ways(&format!("{about}, tried again"));

        // Nobody did it by hand: whatever comes next may find that out, and stop. Nothing is lost by it.
        bench.back_to("stuck");
        let mut said = decide("skip");
        for _ in 0..4 {
            let stuck = bench.run().and_then(|run| run["stuck_step"].as_u64()).map(|step| step.to_string());
            said = match (bench.state().as_str(), stuck) {
                ("none", _) => break,
                (_, Some(step)) => bench.verb_with("abandon", &["--step", &step, "--reason", "looked at"]),
                _ => bench.verb("abort"),
            };
        }
        assert_eq!(bench.state(), "none", "{about}, skipped: {said}");
        bench.no_conflicts(&about);
        self.ground.collect(&format!("{about}, skipped"));

        bench.back_to("stuck");
        let said = decide("abandon");
        assert_eq!((said.code, bench.state().as_str()), (0, "none"), "{about}, abandoned: {said}");
        self.ground.collect(&format!("{about}, abandoned"));
    }

    /// How often the verb itself does such a thing until it fails.
    fn before(&self, strike: &Strike) -> u32 {
        let failing = self.failing.as_ref().unwrap();
        let mut count = 0;
        for one in &self.ground.strikes {
            count += u32::from(one.op == strike.op && one.object.contains(&strike.object));
            if (&one.op, &one.object, one.nth) == (&failing.op, &failing.object, failing.nth) {
                break;
            }
        }
        count
    }
}

fn every_undo_that_fails(passage: &'static Passage) {
    let undoing = Undoing::new(passage);
    let mut wrong = Vec::new();
    for strike in &undoing.strikes {
        wrong.extend(what_goes_wrong(|| undoing.strike(strike)));
    }
    let tried = undoing.strikes.len();
    tell(passage, tried, &Struck { tried, kills: 0 }, &wrong);
}

macro_rules! undoing {
    ($($name:ident: $passage:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            every_undo_that_fails(&matrix::$passage);
        })+
    };
}

undoing! {
    a_clone: CLONE,
    a_promotion: PROMOTE,
    a_rollback: ROLLBACK,
    an_abort: ABORT,
    an_abort_of_a_clone: ABORT_CLONE,
    a_thick_clone: CLONE_THICK,
    an_abort_by_origin: ABORT_ORIGIN,
    an_abort_in_place: ABORT_IN_PLACE,
}
