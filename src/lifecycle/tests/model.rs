//! The model check: every sequence of verbs, crashes and failures from *no run* on, breadth first, until no new state
//! appears. The instants and the matrix of the sim ring strike one verb from a kept good beginning; this strikes again and
//! again, from every state that a strike has led to.
//!
//! What is checked is the product itself: [`App`] with its planners, engine and steps, in this process, on the simulated
//! platform. Only the journal is another one, in memory ([`crate::journal::memory`]), so that a state (a journal and a
//! world) is a value that can be gone back to.
//!
//! ```text
//! state ── offered by `status` ──▶ the verb is carried out
//!            at each write of the journal, before it (and after those that begin an effect): the controller dies there
//!              ─▶ a state
//!            the first operation on the world fails, whole or half-way ─▶ undone, stopped or stuck ─▶ states
//!            nothing strikes ─▶ has to be accepted, and to end well ─▶ a state
//! ```
//!
//! In every state: [`invariants`]. At every operation between: what a real world would not survive (two owners of an
//! address, two writers of a volume), by the world's trace. Of all states together: [`Search::terminates`].
//!
//! A verb that leads from a state in which a controller died to one that is known is not followed further: the death there
//! has been, and what comes after it is the other state's. From states in which a verb has ended it is followed to its end.

mod invariants;
mod state;
mod world;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hypervisors::Hypervisor as _;
use hypervisors::sim::{self, Fault, How, Sim, TraceEntry};
use hypervisors::storage::Copies;

use self::state::Reader;
use self::world::World;
use super::Yes;
use crate::inventory::Strategy;
use crate::journal::Journal as _;
use crate::journal::memory::{Book, MemoryJournal};
use crate::lifecycle::app::App;
use crate::lifecycle::decide::Choice;
use crate::lifecycle::error::exit;
use crate::lifecycle::invocation::{Finish, Options};
use crate::lifecycle::query;
use crate::lifecycle::state::{State, Verb};

/// How a verb may end that was struck.
const ENDS: [u8; 7] =
    [exit::DONE, exit::UNDONE, exit::UNPROVEN, exit::STUCK, exit::REFUSED, exit::PARTWAY, exit::UNTIDY];

/// A guest, and how it is upgraded.
struct Shape {
    copies: Copies,
    strategy: Strategy,
    /// The snapshot can fill until promotion secures it.
    can_fill: bool,
    /// Of the states in which a controller died, one of so many is gone on from, unless all are asked for.
    one_of: usize,
    /// So many states and ways there are at least: a search that found fewer has not searched.
    at_least: (usize, usize),
}

/// A way on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Verb(Verb),
    /// `resume --interrupted`, by a timer.
    Interrupted,
    Decide(Choice),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Verb(verb) => f.write_str(verb.word()),
            Way::Interrupted => f.write_str("resume --interrupted"),
            Way::Decide(choice) => f.write_str(choice.word()),
        }
    }
}

/// A state: what a controller finds that is started now.
struct Node {
    book: Book,
    world: Arc<World>,
    /// How it was come to: from where, and by what.
    from: Option<(usize, String)>,
    /// The controller died, or was about to go on.
    cut_off: bool,
    /// The state word of its run; of a closed one, if there was one.
    state: Option<State>,
    /// The step of which a person has to decide, from 1.
    stuck: Option<usize>,
    closed: bool,
    /// Its ways were gone.
    explored: bool,
    /// Where each offered way leads when nothing strikes.
    leads: Vec<(Way, usize)>,
}

/// States that were found, by what tells them apart.
#[derive(Default)]
struct Found {
    reader: Reader,
    numbers: HashMap<String, usize>,
}

/// A look at one run of the product: the states it comes by.
struct Look {
    start: String,
    /// Ends it where it comes to a known state.
    stops: bool,
    /// A fault waits for an operation.
    waits: bool,
    /// The world as it was seen last, and how much it had told of itself.
    world: Arc<World>,
    trace: u64,
    passed: Vec<(String, String, Book, Arc<World>)>,
    stopped_at: Option<usize>,
}

/// What a run of the product did.
struct Ran {
    finishes: Vec<Finish>,
    look: Look,
    trace: Vec<TraceEntry>,
    /// Where it ended.
    book: Book,
    world: Arc<World>,
}

/// The search.
struct Search {
    shape: &'static Shape,
    one_of: usize,
    root: tempfile::TempDir,
    app: App,
    journal: Arc<MemoryJournal>,
    runtime: tokio::runtime::Runtime,
    found: Arc<Mutex<Found>>,
    nodes: Vec<Node>,
    queue: VecDeque<usize>,
    /// The world as it lies on the disk.
    now: Arc<World>,
    ways: usize,
    strikes: usize,
}

fn inventory(shape: &Shape, world: &str) -> String {
    let strategy = crate::lifecycle::strategy_word(shape.strategy);
    let swap = if shape.copies == Copies::Trees { "" } else { ", xvda2 = \"swap\"" };
    let size = if shape.can_fill { ", snapshot = { size = \"30%USED\" }" } else { "" };
    format!(
        r#"version = 1
[hosts]
here = {{ hypervisor = "sim", state = "{world}" }}
[guests.mercure]
host = "here"
disks = {{ "/srv/mail" = "detach"{swap} }}
upgrade = {{ recipe = "script", run = ["touch", "/etc/upgraded"] }}
clone = {{ ip = [".16"], strategy = "{strategy}"{size} }}
"#
    )
}

impl Search {
    fn new(shape: &'static Shape) -> Self {
        let place = ["/dev/shm", "/tmp"].iter().find_map(|place| tempfile::tempdir_in(place).ok());
        let root = place.unwrap();
        let path = root.path().canonicalize().unwrap();
        let sim = sim::seed_with(&path.join("world"), shape.copies).unwrap();
        sim.configure(|config| config.silence_ms = 0).unwrap();
        // Of the guest's files only those matter on which the lifecycle works.
        let guest = path.join("world/volumes/mercure");
        fs::write(guest.join("var/lib/dpkg/status"), "").unwrap();
        for needless in [
            "boot",
            "etc/apt",
            "etc/cron.d",
            "etc/dovecot",
            "etc/nginx",
            "home/probe",
            "lib/systemd/system/dovecot.service",
            "lib/systemd/system/nginx.service",
            "etc/systemd/system/multi-user.target.wants/dovecot.service",
            "etc/systemd/system/multi-user.target.wants/nginx.service",
            "usr/share",
            "var/cache",
            "var/lib/apt",
            "var/www",
        ] {
            let place = guest.join(needless);
            if place.is_dir() { fs::remove_dir_all(place) } else { fs::remove_file(place) }.unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // It runs what is left.
        runtime.block_on(async {
            sim.destroy("mercure").await.unwrap();
            sim.start("mercure").await.unwrap();
        });
        let file = path.join("inventory.toml");
        fs::write(&file, inventory(shape, path.join("world").to_str().unwrap())).unwrap();
        let state = path.join("state");
        fs::create_dir(&state).unwrap();
        let app = App {
            inventory: crate::inventory::load(&file).unwrap(),
            scratch: state.join("run"),
            state,
            sink: Arc::new(|_| {}),
            front: Arc::new(Yes),
            stop: Arc::default(),
        };
        let now = Arc::new(World::read(&path));
        let mut search = Self {
            shape,
            // All, for who has the time.
            one_of: std::env::var_os("UPGRADECTL_MODEL_WHOLE").map_or(shape.one_of, |_| 1),
            root,
            app,
            journal: MemoryJournal::install(),
            runtime,
            found: Arc::default(),
            nodes: Vec::new(),
            queue: VecDeque::new(),
            now: now.clone(),
            ways: 0,
            strikes: 0,
        };
        let key = search.found.lock().unwrap().reader.key(&Book::default(), &now);
        search.add(key, Book::default(), now, None, false);
        search
    }

    fn path(&self) -> PathBuf {
        self.root.path().canonicalize().unwrap()
    }

    fn sim(&self) -> Sim {
        Sim::open(&self.path().join("world")).unwrap()
    }

    /// Keeps a state, if it is new, and looks whether all is well in it.
    fn add(
        &mut self,
        key: String,
        book: Book,
        world: Arc<World>,
        from: Option<(usize, String)>,
        cut_off: bool,
    ) -> usize {
        let number = self.nodes.len();
        let mut found = self.found.lock().unwrap();
        if let Some(known) = found.numbers.get(&key) {
            return *known;
        }
        found.numbers.insert(key, number);
        let reading = found.reader.read(&book);
        drop(found);
        let run = book.runs.last();
        let state = run.map(|run| State::parse(&run.state).unwrap());
        let stuck = reading.as_ref().and_then(|reading| reading.run.stuck.as_ref()).map(|stuck| stuck.index + 1);
        let closed = reading.is_none();
        self.nodes.push(Node { book, world, from, cut_off, state, stuck, closed, explored: false, leads: Vec::new() });
        let (first, now) = (&self.nodes[0].world, &self.nodes[number].world);
        let wrong = match (&reading, state) {
            (Some(reading), _) => invariants::broken(first, now, reading),
            (None, Some(state)) => invariants::broken_after(first, now, state.word()),
            (None, None) => Vec::new(),
        };
        if !wrong.is_empty() {
            let about = reading.map(|reading| reading.key()).unwrap_or_default();
            panic!("{}\n{}\n\nin this state:\n{about}", self.story(number), wrong.join("\n"));
        }
        let rests = state.is_some_and(|state| !state.in_progress()) && stuck.is_none();
        let chosen = !cut_off || rests || number.is_multiple_of(self.one_of);
        if !closed && chosen || number == 0 {
            self.queue.push_back(number);
        }
        number
    }

    /// How a state is come to, by the shortest way.
    fn story(&self, number: usize) -> String {
        let mut lines = Vec::new();
        let mut at = number;
        while let Some((from, by)) = &self.nodes[at].from {
            lines.push(format!("  {by}"));
            at = *from;
        }
        lines.push("  a guest without a run".to_owned());
        lines.reverse();
        format!("state {number} is come to so:\n{}\n", lines.join("\n"))
    }

    /// Goes to a state.
    fn go_to(&mut self, number: usize) {
        let (path, target) = (self.path(), self.nodes[number].world.clone());
        target.put(&path, &self.now);
        for left in ["trace.jsonl", "faults.json"] {
            let _ = fs::remove_file(path.join("world").join(left));
        }
        self.now = target;
        self.journal.turn_to(self.nodes[number].book.clone(), None);
    }

    fn in_place(&self) -> bool {
        self.shape.strategy == Strategy::InPlace
    }

    /// The ways that are offered in a state.
    fn offered(&mut self, number: usize) -> Vec<Way> {
        self.go_to(number);
        let node = &self.nodes[number];
        let Some(run) = self.journal.runs(true).unwrap().pop() else { return vec![Way::Verb(Verb::Clone)] };
        let status = query::status(&*self.journal, &run).unwrap();
        assert_eq!(status.stuck_step, node.stuck);
        let word = |word: &String| match Choice::ALL.iter().find(|choice| choice.word() == word) {
            Some(choice) => Way::Decide(*choice),
            None => Way::Verb(serde_json::from_value(word.as_str().into()).unwrap()),
        };
        let mut ways: Vec<Way> = status.next.iter().map(word).collect();
        // A way back that could not bring the clone up again has warned of it. What works with the clone waits for it in vain
        // then, and fails, as it should: a minute each.
        let clone_is_up = node.world.powers().get(run.id.as_str()).is_some_and(|power| power["power"] == "on");
        if matches!(node.state, Some(State::Upgraded | State::Verified)) && !clone_is_up && !self.in_place() {
            ways.retain(|way| !matches!(way, Way::Verb(Verb::Upgrade | Verb::Verify | Verb::Promote)));
        }
        if node.cut_off {
            ways.push(Way::Interrupted);
        }
        ways
    }

    /// Goes a way from a state. `fault` strikes the first operation on the world that it names.
    fn go(&mut self, number: usize, way: Way, fault: Option<Fault>) -> Ran {
        self.go_to(number);
        let path = self.path();
        let mut book = self.nodes[number].book.clone();
        if way == Way::Interrupted {
            // The controller is gone, and another process looks.
            for holder in book.leases.values_mut().filter_map(|(_, holder)| holder.as_mut()) {
                holder.started += 1;
            }
        }
        let waits = fault.is_some();
        if let Some(fault) = fault {
            self.sim().inject(fault).unwrap();
        }
        let start = self.found.lock().unwrap().reader.key(&book, &self.now);
        let by_hand = matches!(way, Way::Decide(Choice::Skip | Choice::Abandon));
        let stops = (self.nodes[number].cut_off || waits) && !by_hand;
        let look = Arc::new(Mutex::new(Look {
            start,
            stops,
            waits,
            world: self.now.clone(),
            trace: 0,
            passed: Vec::new(),
            stopped_at: None,
        }));
        let (seen, found, root) = (look.clone(), self.found.clone(), path.clone());
        let tap =
            move |book: &Book, what: &str| seen.lock().unwrap().at_write(&mut found.lock().unwrap(), &root, book, what);
        self.journal.turn_to(book, Some(Box::new(tap)));

        let stuck = self.nodes[number].stuck.unwrap_or_default();
        let options = Options { yes: true, accept_loss: self.in_place(), ..Options::default() };
        let finishes = self.runtime.block_on(async {
            match way {
                Way::Verb(verb) => vec![self.app.change(verb, "mercure", &options).await],
                Way::Decide(choice) => vec![self.app.decide(choice, "mercure", stuck, "so it is", &options).await],
                Way::Interrupted => self.app.resume_interrupted(&options).await.unwrap(),
            }
        });
        let book = self.journal.book();
        self.journal.turn_to(Book::default(), None);
        let look = Arc::into_inner(look).unwrap().into_inner().unwrap();
        // Where it was stopped nothing has been done since.
        self.now = if look.stopped_at.is_some() { look.world.clone() } else { Arc::new(World::read(&path)) };
        let trace = self.sim().trace().unwrap();
        for entry in &trace {
            assert!(
                entry.conflicts.is_empty(),
                "{}  {way}\nand then {} {}: {:?}",
                self.story(number),
                entry.op,
                entry.object,
                entry.conflicts
            );
        }
        Ran { finishes, look, trace, book, world: self.now.clone() }
    }

    /// Keeps the states that a run came by, and where it ended.
    fn keep(&mut self, number: usize, by: &str, ran: Ran) -> (usize, Vec<Finish>, Vec<TraceEntry>) {
        let Ran { mut finishes, look, trace, book, world } = ran;
        if look.stopped_at.is_some() {
            // Who is told to die has nothing to say.
            finishes.clear();
        }
        for (what, key, book, world) in look.passed {
            let told = self.found.lock().unwrap().reader.told(&book, &what);
            self.add(key, book, world, Some((number, format!("{by}, and the controller dies {told}"))), true);
        }
        let end = look.stopped_at.unwrap_or_else(|| {
            let key = self.found.lock().unwrap().reader.key(&book, &world);
            let code = finishes.first().map_or(exit::DONE, |finish| finish.code);
            self.add(key, book, world, Some((number, format!("{by}, and it ends with exit code {code}"))), false)
        });
        (end, finishes, trace)
    }

    /// Goes every way from a state: struck by nothing, and by a failure of the first operation.
    fn explore(&mut self, number: usize) {
        for way in self.offered(number) {
            let ran = self.go(number, way, None);
            self.ways += 1;
            if let Way::Decide(choice @ (Choice::Skip | Choice::Abandon)) = way {
                // What a person said is true is that person's: it has to be accepted, and is not gone on from.
                let (code, error) = ran.finishes.first().map(|finish| (finish.code, finish.error.clone())).unwrap();
                let well = code == exit::DONE || choice == Choice::Skip && ENDS.contains(&code);
                assert!(well, "{}  {way}\nis offered, and: {error:?}", self.story(number));
                continue;
            }
            let (end, finishes, trace) = self.keep(number, &way.to_string(), ran);
            for finish in &finishes {
                let story = self.story(number);
                assert_eq!(finish.code, exit::DONE, "{story}  {way}\nis offered, and: {:?}", finish.error);
            }
            self.nodes[number].explored = true;
            self.nodes[number].leads.push((way, end));
            let Some(first) = trace.first().filter(|_| way != Way::Interrupted) else { continue };
            // Others have no halves.
            let halves = first.op.starts_with("storage.");
            for how in [How::Fail, How::Partial].into_iter().filter(|how| *how == How::Fail || halves) {
                let fault = Fault { op: first.op.clone(), object: None, nth: 1, how };
                let ran = self.go(number, way, Some(fault));
                self.strikes += 1;
                let by = format!("{way}, {} {} fails ({how:?})", first.op, first.object);
                let (_, finishes, _) = self.keep(number, &by, ran);
                for finish in finishes {
                    let story = self.story(number);
                    assert!(ENDS.contains(&finish.code), "{story}  {by}\nends with: {:?}", finish.error);
                }
            }
        }
    }

    /// From every state some way that is offered leads to rest or to the end; what is resumed comes to one of them, and an
    /// abort to the end, unless something irreversible lies between.
    fn terminates(&self) {
        let rests = |node: &Node| node.closed || node.state.is_some_and(|state| !state.in_progress());
        let follow = |from: usize, way: Way| {
            let lead = |at: usize, way: Way| self.nodes[at].leads.iter().find(|(of, _)| *of == way).map(|(_, to)| *to);
            let mut at = lead(from, way)?;
            for _ in 0..self.nodes.len() {
                if self.nodes[at].closed {
                    return Some(at);
                }
                match lead(at, Way::Verb(Verb::Resume)) {
                    Some(next) => at = next,
                    None => return Some(at),
                }
            }
            None
        };
        for (number, node) in self.nodes.iter().enumerate().filter(|(number, node)| node.explored && *number > 0) {
            for (way, _) in &node.leads {
                let end = follow(number, *way);
                let well = end.is_some_and(|end| match way {
                    // Of what was left out nothing is known.
                    _ if !self.nodes[end].explored && !self.nodes[end].closed => self.nodes[end].cut_off,
                    Way::Verb(Verb::Abort) => self.nodes[end].state == Some(State::Aborted) && self.nodes[end].closed,
                    _ => rests(&self.nodes[end]) && self.nodes[end].stuck.is_none(),
                });
                let waits = *way == Way::Interrupted && end == Some(number);
                assert!(well || waits, "{}  {way}, resumed again and again, leads to {end:?}", self.story(number));
            }
            assert!(!node.leads.is_empty(), "{}  nothing is offered", self.story(number));
        }
    }
}

impl Look {
    /// At a write of the journal. `false`: the controller dies there.
    fn at_write(&mut self, found: &mut Found, root: &std::path::Path, book: &Book, what: &str) -> bool {
        let struck =
            self.waits && !fs::read_to_string(root.join("world/faults.json")).is_ok_and(|text| text.contains("op"));
        // What a failure leads to in the same process is told from a death by the plan that undoes.
        if struck && what.starts_with("after plan") {
            self.waits = false;
        }
        // The result of an effect comes right behind it, and most effects are in the trace.
        let trace = fs::metadata(root.join("world/trace.jsonl")).map_or(0, |meta| meta.len());
        let result =
            ["done", "failed", "undone", "undo_failed"].iter().any(|word| what.starts_with(&format!("before {word} ")));
        if result || trace != self.trace {
            (self.world, self.trace) = (Arc::new(World::read(root)), trace);
        }
        let world = self.world.clone();
        let key = found.reader.key(book, &world);
        if key == self.start {
            return true;
        }
        if let Some(number) = found.numbers.get(&key) {
            if self.stops && !self.waits {
                self.stopped_at = Some(*number);
            }
            return self.stopped_at.is_none();
        }
        if !self.passed.iter().any(|(_, other, ..)| *other == key) {
            self.passed.push((what.to_owned(), key, book.clone(), world));
        }
        true
    }
}

/// Searches all states.
fn check(shape: &'static Shape) {
    let begun = std::time::Instant::now();
    let mut search = Search::new(shape);
    while let Some(number) = search.queue.pop_front() {
        search.explore(number);
    }
    search.terminates();
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for node in &search.nodes {
        *states.entry(node.state.map_or("no run", State::word)).or_default() += 1;
    }
    let (all, ways) = (search.nodes.len(), search.ways + search.strikes);
    println!("{all} states, {ways} ways ({} struck), {:.1?}: {states:?}", search.strikes, begun.elapsed());
    assert!(all >= shape.at_least.0 && ways >= shape.at_least.1, "only {all} states and {ways} ways");
    for state in [State::Aborted, State::Committed] {
        assert!(states.contains_key(state.word()), "no way leads to {}", state.word());
    }
}

macro_rules! shapes {
    ($($name:ident: $copies:ident $strategy:ident $can_fill:literal $one_of:literal $states:literal $ways:literal),+ $(,)?) => {
        $(#[test]
        fn $name() {
            static SHAPE: Shape = Shape {
                copies: Copies::$copies,
                strategy: Strategy::$strategy,
                can_fill: $can_fill,
                one_of: $one_of,
                at_least: ($states, $ways),
            };
            check(&SHAPE);
        })+
    };
}

shapes! {
    trees: Trees Snapshot false 40 200 55,
    thick_that_can_fill: Dependents Snapshot true 60 250 55,
    thin: Peers Snapshot false 60 300 60,
    thick_by_origin: Dependents Origin false 60 320 50,
    thin_by_origin: Peers Origin false 60 320 50,
    thick_in_place: Dependents InPlace false 9 80 40,
    thin_in_place: Peers InPlace false 9 80 40,
}
