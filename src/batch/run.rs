//! Moves a batch on: takes items, carries their verbs out, writes down how they ended. Several controllers may be at one
//! batch; what they know of each other is the journal.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::crew::{Crew, Done};
use super::expect;
use super::item::{self, ItemRecord, Outcome, Stands};
use super::schedule::{Ending, Halt, Schedule, Standing, Tally};
use super::spec::{Gate, Spec};
use super::tell::{AtWork, News, Overview, Teller};
use super::window::{Hours, hours};
use crate::engine::ErrorInfo;
use crate::journal::{BatchRecord, Batches, Holder, Journal, JournalError, Turn};
use crate::lifecycle::app::App;
use crate::lifecycle::error::{Failure, exit};

/// How often a controller looks for what others did, for Ctrl-C and for the hour.
const TICK: Duration = Duration::from_millis(200);
/// How often it asks the journal while others are at the batch too.
const LOOK: Duration = Duration::from_secs(1);

/// How a batch stands as a whole, as it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Wave in hand, counted from 0.
    pub wave: usize,
}

/// Why a controller has nothing to do any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Every item has ended.
    Over,
    /// The next wave wants an approval.
    Gate,
    /// The wave did not end well, and the next one begins only if it does.
    NotWell,
    /// A failure stopped it.
    Halted(Halt),
    /// Nothing that is left fits before the window closes.
    Hours,
    /// A person stopped it.
    Stopped,
    /// Somebody closed the batch.
    Closed,
}

/// One controller at one batch.
pub struct Controller {
    app: Arc<App>,
    journal: Arc<dyn Journal>,
    book: Arc<Batches>,
    batch: i64,
    /// What was approved.
    pub spec: Arc<Spec>,
    schedule: Schedule,
    records: Vec<ItemRecord>,
    seen: i64,
    me: Holder,
    crew: Crew<Outcome>,
    at_work: HashMap<usize, Instant>,
    others: BTreeSet<usize>,
    teller: Arc<dyn Teller>,
    closed: bool,
    shown: Option<Instant>,
}

/// Stores a new batch. `None`: one of that name is open and has not ended.
///
/// # Errors
/// If the journal cannot be used.
pub fn begin(book: &Batches, spec: &Spec) -> Result<Option<BatchRecord>, Failure> {
    let items = vec![serde_json::to_value(ItemRecord::default())?; spec.items.len()];
    let (body, progress) = (serde_json::to_value(spec)?, serde_json::to_value(Progress::default())?);
    let holder = Holder::this_process();
    let by = format!("{}@{} pid {} upgradectl {}", holder.user, holder.host, holder.pid, env!("CARGO_PKG_VERSION"));
    let store = || book.begin(&spec.name, &body, &progress, &items, &by);
    if let Some(batch) = store()? {
        return Ok(Some(batch));
    }
    // One that has come to its end, with failures, makes room for a new one.
    if let Some(old) = book.newest(&spec.name)? {
        let ended = |record: &ItemRecord| matches!(record.stands, Stands::Well | Stands::Failed | Stands::Left);
        let over = read_items(book, old.id)?.iter().all(ended);
        if over {
            close(book, &old)?;
            return Ok(store()?);
        }
    }
    Ok(None)
}

/// Closes a batch; what it began stays as it is.
///
/// # Errors
/// If the journal cannot be used.
pub fn close(book: &Batches, batch: &BatchRecord) -> Result<(), Failure> {
    book.turn(batch.id, 0, |_, _| Ok(Turn { close: true, ..Turn::default() }))?;
    Ok(())
}

/// The items of a batch.
///
/// # Errors
/// If the journal cannot be read.
pub fn read_items(book: &Batches, batch: i64) -> Result<Vec<ItemRecord>, Failure> {
    book.items(batch)?.into_iter().map(|body| Ok(serde_json::from_value(body)?)).collect()
}

/// The schedule of a batch as its records say.
pub fn schedule(spec: &Spec, progress: Progress, records: &[ItemRecord], lengths: Vec<Vec<f64>>) -> Schedule {
    let mut schedule = Schedule::new(spec, lengths);
    records.iter().enumerate().for_each(|(index, record)| schedule.set(index, standing(record)));
    schedule.enter_wave(progress.wave);
    schedule
}

fn standing(record: &ItemRecord) -> Standing {
    match record.stands {
        Stands::Waiting => Standing::Waiting,
        Stands::Between => Standing::Between(record.verb),
        Stands::Working => Standing::Working(record.verb),
        Stands::Well => Standing::Ended(Ending::Well),
        Stands::Failed => Standing::Ended(Ending::Failed),
        Stands::Left => Standing::Ended(Ending::Left),
    }
}

impl Controller {
    /// Takes a place at a batch. `failed`: what failed is tried again, what was left for that is taken up.
    ///
    /// # Errors
    /// If the journal cannot be used.
    pub fn new(
        app: Arc<App>,
        book: Arc<Batches>,
        batch: &BatchRecord,
        teller: Arc<dyn Teller>,
        failed: bool,
    ) -> Result<Self, Failure> {
        let spec: Spec = serde_json::from_value(batch.spec.clone())?;
        let lengths = expect::lengths(&spec, &app.inventory, |guest| book.lengths(guest).unwrap_or_default());
        let mut controller = Self {
            schedule: Schedule::new(&spec, lengths),
            records: vec![ItemRecord::default(); spec.items.len()],
            spec: Arc::new(spec),
            journal: app.journal()?,
            app,
            book,
            batch: batch.id,
            seen: -1,
            me: Holder::this_process(),
            crew: Crew::new(),
            at_work: HashMap::new(),
            others: BTreeSet::new(),
            teller,
            closed: false,
            shown: None,
        };
        controller.turn(|this| if failed { this.again() } else { Ok(Vec::new()) })?;
        // Whoever goes on knows of the failures there were.
        controller.schedule.go_on();
        Ok(controller)
    }

    /// One turn: what others did is seen, what `decide` changes is stored.
    fn turn(&mut self, decide: impl FnOnce(&mut Self) -> Result<Vec<usize>, JournalError>) -> Result<(), Failure> {
        let (batch, seen, wave) = (self.batch, self.seen, self.schedule.wave());
        let book = self.book.clone();
        self.seen = book.turn(batch, seen, |stored, news| {
            self.closed = stored.closed;
            let progress: Progress = serde_json::from_value(stored.progress.clone())?;
            self.schedule.enter_wave(progress.wave.max(wave));
            for (index, body) in news {
                self.learn(index, serde_json::from_value(body)?);
            }
            let changed = decide(self)?;
            let bodies = changed.iter().map(|index| Ok((*index, serde_json::to_value(&self.records[*index])?)));
            let items = bodies.collect::<Result<Vec<(usize, Value)>, JournalError>>()?;
            let now = Progress { wave: self.schedule.wave() };
            let progress = (now != progress).then(|| serde_json::to_value(now)).transpose()?;
            let close = !self.closed && self.schedule.over() && self.schedule.total().well == self.records.len();
            Ok(Turn { progress, items, close })
        })?;
        Ok(())
    }

    /// What another controller wrote of an item.
    fn learn(&mut self, index: usize, record: ItemRecord) {
        if index >= self.records.len() || self.at_work.contains_key(&index) {
            return;
        }
        self.others.remove(&index);
        if record.stands == Stands::Working {
            self.others.insert(index);
        }
        self.put(index, record);
    }

    fn put(&mut self, index: usize, record: ItemRecord) {
        self.schedule.set(index, standing(&record));
        self.records[index] = record;
    }

    /// What failed waits again, and what was left for it.
    fn again(&mut self) -> Result<Vec<usize>, JournalError> {
        let ended = |record: &ItemRecord| matches!(record.stands, Stands::Failed | Stands::Left);
        let again: Vec<usize> = (0..self.records.len()).filter(|index| ended(&self.records[*index])).collect();
        for index in &again {
            let mut record = self.records[*index].clone();
            let run = record.run.as_ref().map(|run| self.journal.run(run)).transpose()?.flatten();
            let anew = record.over || run.is_none_or(|run| run.closed.is_some());
            record.stands = if anew { Stands::Waiting } else { Stands::Between };
            if anew {
                (record.verb, record.run) = (0, None);
            }
            (record.error, record.ended) = (None, None);
            (record.aborted, record.over) = (false, false);
            self.put(*index, record);
        }
        Ok(again)
    }

    /// Works until there is nothing to do.
    ///
    /// # Errors
    /// If the journal cannot be used. What is in hand is finished first.
    pub async fn run(&mut self) -> Result<End, Failure> {
        self.wait_for_the_window().await;
        let result = loop {
            if let Err(failure) = self.take() {
                break Err(failure);
            }
            self.show();
            if let Some(end) = self.ended() {
                break Ok(end);
            }
            if let Some(done) = self.wait().await
                && let Err(failure) = self.note(done)
            {
                break Err(failure);
            }
        };
        // The journal cannot be written any more: what is in hand ends as it can.
        while result.is_err() && !self.crew.is_idle() {
            let _ = self.crew.next().await;
        }
        result
    }

    /// Waits until one of the items in hand has done something, or it is time to look around.
    async fn wait(&mut self) -> Option<Done<Outcome>> {
        let (since, stopping) = (Instant::now(), self.stopping());
        while since.elapsed() < LOOK && self.stopping() == stopping {
            tokio::select! {
                done = self.crew.next() => return Some(done),
                () = tokio::time::sleep(TICK) => {}
            }
            self.show();
        }
        None
    }

    fn stopping(&self) -> bool {
        self.app.stop.load(Ordering::Relaxed)
    }

    async fn wait_for_the_window(&self) {
        let Some(window) = self.spec.window else { return };
        // Whatever wants no guest to begin need not wait.
        if self.schedule.over() || self.schedule.at_gate() || self.schedule.halted().is_some() {
            return;
        }
        let mut told = false;
        while let Hours::Closed(opens) = hours(window, &Zoned::now()) {
            if self.stopping() {
                return;
            }
            if !std::mem::replace(&mut told, true) {
                self.teller.news(&News::BatchWaits { opens });
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Takes what may go on now.
    fn take(&mut self) -> Result<(), Failure> {
        let mut taken: Vec<(usize, usize)> = Vec::new();
        let mut ended: Vec<usize> = Vec::new();
        let mut waves = Vec::new();
        let left = match self.spec.window.map(|window| hours(window, &Zoned::now())) {
            None => f64::INFINITY,
            Some(Hours::Open(closes)) => closes.duration_since(Timestamp::now()).as_secs_f64(),
            Some(Hours::Closed(_)) => 0.0,
        };
        self.turn(|this| {
            let mut changed = this.reclaim();
            while let Some((index, other)) = this.schedule.orphan() {
                let mut record = this.records[index].clone();
                record.stands = Stands::Left;
                record.ended = Some(Timestamp::now());
                record.error = Some(left_for(&this.spec, index, other));
                this.put(index, record);
                ended.push(index);
                changed.push(index);
            }
            if this.closed || this.stopping() {
                return Ok(changed);
            }
            if this.schedule.at_gate() && this.spec.between_waves == Gate::AllWell && this.all_well() {
                let wave = this.schedule.wave();
                waves.push((wave, this.schedule.tally(wave)));
                this.schedule.enter_wave(wave + 1);
            }
            this.schedule.set_elsewhere(this.others.len());
            while let Some((index, verb)) = this.schedule.next(|seconds| seconds <= left) {
                let mut record = this.records[index].clone();
                (record.stands, record.verb, record.holder) = (Stands::Working, verb, Some(this.me.clone()));
                record.begun = record.begun.or(Some(Timestamp::now()));
                // Should this controller die, its successor knows which run it was.
                let open = this.journal.open_of(&this.spec.items[index].guest)?;
                record.run = open.map(|run| run.id).or(record.run);
                this.put(index, record);
                taken.push((index, verb));
                changed.push(index);
            }
            Ok(changed)
        })?;
        for (wave, tally) in waves {
            self.tell_wave(wave, tally);
        }
        for index in ended {
            self.tell_end(index);
        }
        for (index, verb) in taken {
            self.spawn(index, verb);
        }
        Ok(())
    }

    /// Items whose controller is proven gone.
    fn reclaim(&mut self) -> Vec<usize> {
        let gone = |index: &usize| self.records[*index].holder.as_ref().is_none_or(Holder::is_gone);
        let gone: Vec<usize> = self.others.iter().copied().filter(gone).collect();
        for index in &gone {
            self.others.remove(index);
            let mut record = self.records[*index].clone();
            (record.stands, record.holder) = (Stands::Between, None);
            self.put(*index, record);
        }
        gone
    }

    fn all_well(&self) -> bool {
        (0..=self.schedule.wave()).all(|wave| self.schedule.tally(wave).well == self.schedule.tally(wave).guests)
    }

    fn spawn(&mut self, index: usize, verb: usize) {
        let (app, spec, record) = (self.app.clone(), self.spec.clone(), self.records[index].clone());
        let guest = spec.items[index].guest.clone();
        let expected_s = self.schedule.left_s(index, verb) - self.schedule.left_s(index, verb + 1);
        self.teller.news(&News::ItemStarted { guest, verb: spec.verbs[verb], expected_s });
        self.at_work.insert(index, Instant::now());
        self.crew.begin(index, move || async move {
            let item = &spec.items[index];
            item::go_on(&app, &item.guest, &spec.verbs, &record, item.on_failure).await
        });
    }

    /// Writes down what became of an item.
    fn note(&mut self, (index, outcome): Done<Outcome>) -> Result<(), Failure> {
        let outcome = outcome.unwrap_or_else(|why| {
            Outcome::Cannot(ErrorInfo {
                code: exit::BUG,
                message: format!("go on with {}", self.spec.items[index].guest),
                causes: vec![why],
                help: Some("this is a bug: please report it; the run can be resumed".to_owned()),
                ..ErrorInfo::default()
            })
        });
        self.at_work.remove(&index);
        let mut record = self.records[index].clone();
        record.holder = None;
        let mut told = None;
        match outcome {
            Outcome::Elsewhere(place) => (record.stands, record.verb) = (Stands::Between, place),
            Outcome::Nothing => record.stands = Stands::Well,
            Outcome::Cannot(error) => (record.stands, record.error) = (Stands::Failed, Some(error)),
            Outcome::Ended { past, run, error, stopped, aborted, over } => {
                record.run = run.or(record.run);
                // That a person stopped it is no failure.
                let error = error.filter(|_| !stopped);
                (record.aborted, record.over) = (aborted, over);
                told = Some((past.clone(), error.clone()));
                let more = record.verb + 1 < self.spec.verbs.len();
                match (&error, stopped) {
                    (_, true) if over => (record.stands, record.run, record.verb) = (Stands::Between, None, 0),
                    (_, true) => record.stands = Stands::Between,
                    (Some(_), _) => record.stands = Stands::Failed,
                    (None, _) if more => (record.stands, record.verb) = (Stands::Between, record.verb + 1),
                    (None, _) => record.stands = Stands::Well,
                }
                record.error = error;
                record.past.push(past);
            }
        }
        let ended = matches!(record.stands, Stands::Well | Stands::Failed);
        record.ended = ended.then(Timestamp::now);
        self.put(index, record);
        self.turn(|_| Ok(vec![index]))?;
        if let Some((past, error)) = told {
            let guest = self.spec.items[index].guest.clone();
            let (verb, exit_code) = (past.verb, past.code);
            let (elapsed_s, outage_s) = (past.elapsed_s, past.outage_s);
            self.teller.news(&News::ItemVerbEnded { guest, verb, exit_code, elapsed_s, outage_s, error });
        }
        if ended {
            self.tell_end(index);
        }
        Ok(())
    }

    fn tell_end(&self, index: usize) {
        let record = &self.records[index];
        self.teller.news(&News::ItemEnded {
            guest: self.spec.items[index].guest.clone(),
            run: record.run.clone(),
            stands: record.stands,
            aborted: record.aborted,
            error: record.error.clone(),
        });
    }

    fn tell_wave(&self, wave: usize, tally: Tally) {
        let Tally { guests, well, failed, .. } = tally;
        self.teller.news(&News::WaveEnded { wave: wave + 1, guests, well, failed });
    }

    /// Whether there is nothing to do any more, and why.
    fn ended(&self) -> Option<End> {
        if !self.crew.is_idle() {
            return None;
        }
        if self.schedule.over() {
            return Some(End::Over);
        }
        if self.closed {
            return Some(End::Closed);
        }
        if self.stopping() {
            return Some(End::Stopped);
        }
        if !self.others.is_empty() {
            return None;
        }
        if let Some(halt) = self.schedule.halted() {
            return Some(End::Halted(halt));
        }
        if self.schedule.at_gate() {
            return Some(match self.spec.between_waves {
                Gate::Ask => End::Gate,
                Gate::AllWell => End::NotWell,
            });
        }
        Some(End::Hours)
    }

    /// A person approves the next wave.
    ///
    /// # Errors
    /// If the journal cannot be used.
    pub fn next_wave(&mut self) -> Result<(), Failure> {
        self.turn(|this| {
            if this.schedule.at_gate() {
                this.schedule.enter_wave(this.schedule.wave() + 1);
                this.schedule.go_on();
            }
            Ok(Vec::new())
        })
    }

    /// Numbers of the wave in hand, which is counted from 1.
    pub fn wave(&self) -> (usize, Tally) {
        (self.schedule.wave() + 1, self.schedule.tally(self.schedule.wave()))
    }

    /// Numbers of the whole.
    pub fn total(&self) -> Tally {
        self.schedule.total()
    }

    /// The guest of an item.
    pub fn guest(&self, index: usize) -> &str {
        &self.spec.items[index].guest
    }

    fn show(&mut self) {
        if self.shown.replace(Instant::now()).is_some_and(|last| last.elapsed() < TICK / 2) {
            return;
        }
        let longest = self.at_work.keys().copied().max_by(|a, b| {
            let chain = |index: usize| self.schedule.chain_s(index) - self.passed_s(index);
            chain(*a).total_cmp(&chain(*b)).then(b.cmp(a))
        });
        let mut at_work: Vec<(usize, AtWork)> = self
            .at_work
            .iter()
            .map(|(index, since)| {
                let verb = self.records[*index].verb;
                let expected_s = self.schedule.left_s(*index, verb) - self.schedule.left_s(*index, verb + 1);
                let guest = self.spec.items[*index].guest.clone();
                let longest = longest == Some(*index) && self.at_work.len() > 1;
                (*index, AtWork { guest, verb: self.spec.verbs[verb], since: *since, expected_s, longest })
            })
            .collect();
        at_work.sort_by_key(|(index, _)| *index);
        self.teller.overview(&Overview {
            wave: (self.schedule.wave() + 1, self.spec.waves()),
            total: self.schedule.total(),
            at_work: at_work.into_iter().map(|(_, line)| line).collect(),
            elsewhere: self.others.len(),
            left_s: self.left_s(),
        });
    }

    /// Seconds of an item that are behind it.
    fn passed_s(&self, index: usize) -> f64 {
        let verb = self.records[index].verb;
        let before = self.schedule.left_s(index, 0) - self.schedule.left_s(index, verb);
        let this = self.schedule.left_s(index, verb) - self.schedule.left_s(index, verb + 1);
        before + self.at_work.get(&index).map_or(0.0, |since| since.elapsed().as_secs_f64().min(this))
    }

    /// What is left, spread over the places there are, and no less than the longest chain.
    fn left_s(&self) -> f64 {
        let (work, chain) = self.schedule.left(|index| self.passed_s(index));
        #[expect(clippy::cast_precision_loss, reason = "a number of guests at a time")]
        let places = self.spec.limits.parallel as f64;
        chain.max(work / places)
    }
}

fn left_for(spec: &Spec, index: usize, other: usize) -> ErrorInfo {
    let (guest, other) = (&spec.items[index].guest, &spec.items[other].guest);
    ErrorInfo {
        code: exit::SOME_FAILED,
        message: format!("begin {guest}"),
        causes: vec![format!("it comes after {other}, which did not end well")],
        place: None,
        help: Some(format!("mend {other}, then go on with --failed")),
    }
}
