//! Batches for people: the page that is approved, the table that moves, a line for each thing that happens, the status, the
//! report. For programs the news are lines of JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hypervisors::host::printable;
use jiff::Timestamp;
use serde::Serialize;

use super::closing::short;
use super::format::{about, clock, count, hanging, measured, table, time, width};
use super::terminal::Manner;
use super::{Style, detail, err, json, writer};
use crate::batch::abort::Abortion;
use crate::batch::item::Stands;
use crate::batch::preflight::Found;
use crate::batch::report::{ItemReport, Report};
use crate::batch::schedule::Schedule;
use crate::batch::spec::{Gate, Limits, OnFailure, Spec, StopAt};
use crate::batch::status::{BatchStatus, ItemLine};
use crate::batch::tell::{AtWork, News, Overview, Teller};
use crate::batch::window;
use crate::engine::event::{Event, StepInfo};
use crate::engine::{ErrorInfo, EventBody, Sink};
use crate::lifecycle::error::exit;
use crate::lifecycle::state::Verb;

/// Guests that a page names one by one; a plan names all.
const NAMED: usize = 40;
/// Guests at work that the table shows.
const SHOWN: usize = 15;

/// The page of a batch. `found`: what a look at each guest found, if they were looked at.
pub fn page(spec: &Spec, schedule: Schedule, found: Option<&[Found]>, plan_only: bool) -> String {
    let guests = count(spec.items.len(), "guest");
    let touches = if plan_only { " This plan touches nothing." } else { "" };
    let mut text = hanging("", &format!("Batch {}: {} of {guests}.{touches}", spec.name, spec.words()));
    text.push('\n');
    text.push_str(&table(2, &rows(spec, &schedule)));
    text.push('\n');
    let mut lines = vec![vec!["GUEST".to_owned(), "HOST".into(), "WAVE".into(), "EXPECTED".into(), "REMARKS".into()]];
    let named = if plan_only { spec.items.len() } else { NAMED.min(spec.items.len()) };
    for (index, item) in spec.items.iter().enumerate().take(named) {
        let mut remarks = Vec::new();
        if !item.after.is_empty() {
            let others: Vec<&str> = item.after.iter().map(|other| spec.items[*other].guest.as_str()).collect();
            remarks.push(format!("after {}", others.join(", ")));
        }
        match item.on_failure {
            OnFailure::Continue => {}
            OnFailure::Stop => remarks.push("its failure stops the batch".into()),
            OnFailure::Abort => remarks.push("given up if it fails".into()),
        }
        if let Some(found) = found.and_then(|found| found.get(index)) {
            remarks.push(looked(spec, found));
        }
        lines.push(vec![
            item.guest.clone(),
            item.host.clone(),
            (item.wave + 1).to_string(),
            about(schedule.left_s(index, 0)),
            printable(&remarks.join("; ")),
        ]);
    }
    text.push_str(&table(2, &lines));
    if spec.items.len() > named {
        text.push_str(&format!("  … and {} more, which `batch plan` names\n", spec.items.len() - named));
    }
    text.push_str(&format!("\nPlan {}.\n", spec.digest()));
    text
}

fn looked(spec: &Spec, found: &Found) -> String {
    match found {
        Found::Ready(0) => "ready".to_owned(),
        Found::Ready(place) => format!("has a run: goes on with {}", spec.verbs[*place].word()),
        Found::Resumes(place) => format!("interrupted: {} is resumed", spec.verbs[*place].word()),
        Found::Nothing => "nothing is left to do".to_owned(),
        Found::NotLooked => "not looked at".to_owned(),
        Found::Wrong(error) => format!("WILL FAIL: {}", cause(error)),
    }
}

fn rows(spec: &Spec, schedule: &Schedule) -> Vec<Vec<String>> {
    let Limits { parallel, per_host, per_link, per_disk } = spec.limits;
    let mut at_a_time = vec![count(parallel, "guest")];
    let limits = [(per_host, "of a host"), (per_link, "into a host over the network"), (per_disk, "on a host's disks")];
    at_a_time.extend(limits.iter().filter_map(|(most, what)| Some(format!("{} {what}", (*most)?))));
    let mut rows = vec![vec!["at a time".to_owned(), at_a_time.join(", ")]];
    if let Some(window) = spec.window {
        let text = format!("{window}: nothing begins that is expected to last longer");
        rows.push(vec!["window".into(), text]);
    }
    if spec.waves() > 1 {
        let sizes: Vec<String> = (0..spec.waves()).map(|wave| schedule.tally(wave).guests.to_string()).collect();
        let gate = match spec.between_waves {
            Gate::Ask => "each after an approval",
            Gate::AllWell => "each if all went well in the one before",
        };
        rows.push(vec!["waves".into(), format!("{}; {gate}", sizes.join(", "))]);
    }
    if let Some(most) = spec.stop_at_failed {
        let most = match most {
            StopAt::Guests(most) => count(most, "failure"),
            StopAt::Percent(most) => format!("failures of {most} %"),
        };
        let of = if spec.waves() > 1 { "of a wave" } else { "of the batch" };
        rows.push(vec!["stops".into(), format!("at {most} {of}: nothing new begins")]);
    }
    let in_place = spec.items.iter().any(|item| item.in_place) && spec.verbs.contains(&Verb::Upgrade);
    if in_place || spec.verbs.iter().any(|verb| !matches!(verb, Verb::Clone | Verb::Upgrade | Verb::Verify)) {
        let text = "production of each guest is interrupted; the pages of the verbs are approved with this one";
        rows.push(vec!["outages".into(), text.into()]);
    }
    let (played, ideal) = (schedule.clone().play(), schedule.ideal_s());
    let mut length = format!("about {}, without failures", about(played));
    if played > ideal * 1.05 {
        length.push_str(&format!("; in no order less than {}", about(ideal)));
    }
    if let Some(window) = spec.window.filter(|window| played > window::length_s(*window)) {
        length.push_str(&format!("; the window {window} is shorter: what is left is for another night"));
    }
    rows.push(vec!["length".into(), length]);
    rows
}

/// The innermost cause of a failure, in a line.
fn cause(error: &ErrorInfo) -> String {
    error.causes.iter().rev().find(|cause| !cause.is_empty()).unwrap_or(&error.message).trim().replace('\n', " ")
}

/// What people see while a batch goes on: it takes the events of all its guests, and the batch's own news.
pub struct Board {
    manner: Manner,
    name: String,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    steps: BTreeMap<String, Step>,
    overview: Overview,
    since: Option<Instant>,
}

/// What a guest is at.
#[derive(Clone)]
struct Step {
    head: String,
    detail: String,
    since: Instant,
    estimate_s: f64,
}

impl Board {
    /// The board of a batch.
    pub fn new(name: &str, manner: Manner) -> Arc<Self> {
        Arc::new(Self { manner, name: name.to_owned(), inner: Arc::default() })
    }

    /// Its sink.
    pub fn sink(self: &Arc<Self>) -> Sink {
        let board = self.clone();
        Arc::new(move |event| board.event(event))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, event: &Event) {
        let mut inner = self.lock();
        match &event.body {
            EventBody::StepStarted { step, estimate_s } => {
                inner.steps.insert(event.guest.clone(), Step::new(step, *estimate_s));
            }
            EventBody::Progress { detail, percent, .. } => {
                if let Some(step) = inner.steps.get_mut(&event.guest) {
                    let percent = percent.map(|percent| format!("{percent:.0} % ")).unwrap_or_default();
                    // What is cut off at the end of the line is the least of it.
                    step.detail = format!("{percent}{}", printable(detail));
                }
            }
            EventBody::VerbFinished { .. } => {
                inner.steps.remove(&event.guest);
            }
            EventBody::Warning { message } => self.line(&format!("{}: ! {}", event.guest, printable(message)), false),
            EventBody::OutageStarted { expected_s } => {
                self.line(&format!("{} is down now, for about {}", event.guest, about(*expected_s)), false);
            }
            EventBody::OutageEnded { elapsed_s } => {
                self.line(&format!("{} is up again after {}", event.guest, measured(*elapsed_s)), false);
            }
            EventBody::StepFinished { step, elapsed_s, .. } if self.manner.verbose => {
                let (guest, title) = (&event.guest, printable(&step.title));
                detail(&format!("{guest}: [{}/{}] {title}: {}\n", step.index, step.of, measured(*elapsed_s)));
            }
            _ => {}
        }
    }

    /// Tells a line; `always`: even if asked to be quiet.
    fn line(&self, text: &str, always: bool) {
        if always || !self.manner.quiet {
            err(&hanging("", text));
        }
    }
}

impl Step {
    fn new(step: &StepInfo, estimate_s: f64) -> Self {
        let head = format!("[{}/{}] ", step.index, step.of);
        Self { head, detail: printable(&step.title), since: Instant::now(), estimate_s }
    }
}

impl Teller for Board {
    fn news(&self, news: &News) {
        let style = self.manner.style;
        match news {
            News::BatchStarted { .. } => self.lock().since = Some(Instant::now()),
            News::BatchWaits { opens } => {
                self.line(&format!("the window is closed: waiting until {}", time(*opens)), true);
            }
            News::ItemStarted { guest, verb, expected_s } => {
                if !self.manner.moving {
                    self.line(&format!("{guest}: {} begins, about {}", verb.word(), about(*expected_s)), false);
                }
            }
            News::ItemVerbEnded { guest, verb, exit_code, elapsed_s, outage_s, error } => {
                let outage = if *outage_s > 0.0 { format!(", outage {}", measured(*outage_s)) } else { String::new() };
                let took = format!("{}{outage}", clock(*elapsed_s));
                let verb = verb.word();
                match error {
                    None if *exit_code == exit::DONE => self.line(&format!("{guest}: {verb} done, {took}"), false),
                    None => self.line(&format!("{guest}: {verb} stopped, {took}"), true),
                    Some(error) => {
                        let why = printable(&cause(error));
                        let text = hanging("", &format!("{guest}: {verb} FAILED, {took}: {why}"));
                        err(&text.replacen("FAILED", &style.bad("FAILED"), 1));
                    }
                }
            }
            News::ItemEnded { guest, stands, aborted, error, .. } => match (stands, error) {
                (Stands::Left, Some(error)) => self.line(&format!("{guest}: LEFT: {}", printable(&cause(error))), true),
                (Stands::Failed, _) if *aborted => self.line(&format!("{guest}: its clone was given up"), true),
                (Stands::Failed, Some(error)) if error.code == exit::STATE || error.code == exit::BUG => {
                    self.line(&format!("{guest}: FAILED: {}", printable(&cause(error))), true);
                }
                _ => {}
            },
            News::WaveEnded { wave, guests, well, failed } => {
                self.line(&format!("wave {wave} has ended: {well} of {guests} well, {failed} failed"), true);
            }
            News::BatchEnded { .. } => writer::moving(None),
        }
    }

    fn overview(&self, overview: &Overview) {
        self.lock().overview = overview.clone();
        if self.manner.moving && !self.manner.quiet {
            let (name, inner) = (self.name.clone(), self.inner.clone());
            writer::moving(Some(Arc::new(move |columns| {
                let inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
                lines(&name, &inner, columns.saturating_sub(1).max(20))
            })));
        }
    }
}

/// The table that moves.
fn lines(name: &str, inner: &Inner, columns: usize) -> String {
    let Overview { wave: (wave, waves), total, at_work, elsewhere, left_s } = &inner.overview;
    let mut head = format!("{name}: ");
    if *waves > 1 {
        head.push_str(&format!("wave {wave} of {waves}, "));
    }
    head.push_str(&format!("{} of {} ended", total.ended, total.guests));
    if total.failed > 0 {
        head.push_str(&format!(", {} failed", total.failed));
    }
    if *elsewhere > 0 {
        head.push_str(&format!(", {elsewhere} elsewhere"));
    }
    let passed = inner.since.map_or(0.0, |since| since.elapsed().as_secs_f64());
    let mut lines = vec![two_sides(&head, &format!("{}, about {} left", clock(passed), clock(*left_s)), columns)];
    let widest = at_work.iter().take(SHOWN).map(|line| width(&line.guest)).max().unwrap_or(0).min(20);
    for line in at_work.iter().take(SHOWN) {
        lines.push(of_guest(line, inner.steps.get(&line.guest), widest, columns));
    }
    if at_work.len() > SHOWN {
        lines.push(format!("  … and {} more", at_work.len() - SHOWN));
    }
    lines.join("\n")
}

fn of_guest(line: &AtWork, step: Option<&Step>, widest: usize, columns: usize) -> String {
    let star = if line.longest { '*' } else { ' ' };
    let left = format!("{star} {:widest$}  {:8} ", cut(&line.guest, widest), line.verb.word());
    let (what, passed, estimate) = match step {
        Some(step) => (format!("{}{}", step.head, step.detail), step.since.elapsed().as_secs_f64(), step.estimate_s),
        None => ("looking".to_owned(), line.since.elapsed().as_secs_f64(), 0.0),
    };
    let mut times = clock(passed);
    if estimate >= 1.0 {
        times.push_str(&format!(" of {}", clock(estimate)));
    }
    two_sides(&format!("{left}{what}"), &times, columns)
}

/// A text at each end of a line; the left one gives way.
fn two_sides(left: &str, right: &str, columns: usize) -> String {
    let room = columns.saturating_sub(width(right) + 2).max(1);
    format!("{:room$}  {right}", cut(left, room))
}

fn cut(text: &str, room: usize) -> String {
    if width(text) <= room {
        text.to_owned()
    } else {
        text.chars().take(room.saturating_sub(1)).chain(['…']).collect()
    }
}

/// The news as lines of JSON.
pub struct Lines(pub String);

#[derive(Serialize)]
struct Line<'a> {
    schema: u32,
    time: Timestamp,
    batch: &'a str,
    #[serde(flatten)]
    news: &'a News,
}

impl Teller for Lines {
    fn news(&self, news: &News) {
        let time = Timestamp::now().round(jiff::Unit::Millisecond).unwrap_or_default();
        json::line(&Line { schema: json::SCHEMA, time, batch: &self.0, news });
    }
    fn overview(&self, _overview: &Overview) {}
}

/// The table of `batch status`.
pub fn status(status: &BatchStatus, style: Style) -> String {
    let mut head = format!("{}: ", status.batch);
    if status.waves > 1 {
        head.push_str(&format!("wave {} of {}, ", status.wave, status.waves));
    }
    let ended = status.items.iter().filter(|item| matches!(item.stands, Stands::Well | Stands::Failed | Stands::Left));
    head.push_str(&format!(
        "{} of {} ended, {} well, {} failed",
        ended.count(),
        status.guests,
        status.well,
        status.failed
    ));
    match status.closed {
        Some(closed) => head.push_str(&format!("; closed {}", time(closed))),
        None if status.left_s >= 1.0 => head.push_str(&format!("; about {} left", about(status.left_s))),
        None => {}
    }
    let mut rows = vec![["GUEST", "RUN", "STATE", "TIME", "NOW"].map(str::to_owned).to_vec()];
    for item in &status.items {
        rows.push(vec![
            item.guest.clone(),
            item.run.as_deref().map_or("-", short).to_owned(),
            item.state.clone().unwrap_or_else(|| "-".into()),
            if item.elapsed_s > 0.0 { clock(item.elapsed_s) } else { "-".into() },
            doing(item, status),
        ]);
    }
    let text = format!("{}\n{}", hanging("", &head), table(0, &rows));
    ["INTERRUPTED", "FAILED", "LEFT"].iter().fold(text, |text, word| text.replace(word, &style.bad(word)))
}

fn doing(item: &ItemLine, status: &BatchStatus) -> String {
    let verb = item.verb.unwrap_or("-");
    let why = printable(&item.error.clone().unwrap_or_default());
    match item.stands {
        Stands::Waiting if item.wave > status.wave => format!("waits for wave {}", item.wave),
        Stands::Waiting => "waits".to_owned(),
        Stands::Between => format!("next: {verb}"),
        Stands::Working if item.interrupted => format!("INTERRUPTED in {verb}"),
        Stands::Working => verb.to_owned(),
        Stands::Well => "done".to_owned(),
        Stands::Failed => format!("FAILED in {verb}: {why}"),
        Stands::Left => format!("LEFT: {why}"),
    }
}

/// The last words of a batch.
pub fn closing(report: &Report, why: Option<&str>, place: &Path, file: &Path) -> String {
    let Report { batch, guests, well, failed, left, .. } = report;
    let mut text = hanging("", &format!("{batch}: {well} of {guests} ended well, {failed} failed, {left} left."));
    if let Some(why) = why {
        text.push_str(&hanging("", &printable(why)));
    }
    for item in report.items.iter().filter(|item| item.error.is_some()).take(SHOWN) {
        let why = item.error.as_ref().map(cause).unwrap_or_default();
        text.push_str(&hanging(&format!("  {}: ", item.guest), &printable(&why)));
        if let Some(next) = item.next.first() {
            text.push_str(&format!("    go on: {next}\n"));
        }
    }
    if *failed > 0 {
        let file = file.display();
        text.push_str(&hanging("", &format!("again: upgradectl batch resume {file} --failed")));
    }
    text.push_str(&format!("report: {}\n", printable(&place.display().to_string())));
    text
}

/// What `batch abort` gives up, and what it leaves.
pub fn abortion(name: &str, Abortion { runs, kept }: &Abortion) -> String {
    let mut text =
        hanging("", &format!("Abort batch {name}: {} given up, nothing new begins.", count(runs.len(), "clone")));
    text.push('\n');
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (guest, run) in runs.iter().take(NAMED) {
        rows.push(vec![guest.clone(), short(run).to_owned(), "the clone is removed; the original is as it was".into()]);
    }
    for (guest, run) in kept.iter().take(NAMED) {
        let text = format!("production was or is there: not touched; upgradectl status {guest}");
        rows.push(vec![guest.clone(), short(run).to_owned(), text]);
    }
    text.push_str(&table(2, &rows));
    text
}

/// The report, in Markdown.
pub fn report(report: &Report) -> String {
    let mut text = format!("# Batch {}\n\n", report.batch);
    let verbs = report.verbs.join(", ");
    text.push_str(&format!("{verbs} of {}. Begun {}", count(report.guests, "guest"), time(report.opened)));
    if let Some(ended) = report.ended {
        let took = ended.duration_since(report.opened).as_secs_f64();
        text.push_str(&format!(", last ended {} ({} later)", time(ended), clock(took)));
    }
    text.push_str(&format!(
        ". **{} well, {} failed, {} left**, {} to come.\n\n",
        report.well,
        report.failed,
        report.left,
        report.guests - report.well - report.failed - report.left
    ));
    text.push_str(
        "| guest | outcome | run | state | time | outage | checks | conffiles |\n|---|---|---|---|---|---|---|---|\n",
    );
    for item in &report.items {
        let cell = |text: Option<&str>| printable(text.unwrap_or("-")).replace('|', "\\|");
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
            item.guest,
            outcome(item),
            cell(item.run.as_deref().map(short)),
            cell(item.state.as_deref()),
            clock(item.elapsed_s),
            if item.outage_s > 0.0 { measured(item.outage_s) } else { "none".into() },
            cell(item.checks.as_deref()),
            if item.conffiles == 0 { "-".to_owned() } else { format!("{} undecided", item.conffiles) },
        ));
    }
    text.push_str(&troubles(report));
    let next: Vec<&ItemReport> = report.items.iter().filter(|item| item.outcome == Stands::Well).collect();
    let next: Vec<&String> = next.iter().filter_map(|item| item.next.first()).collect();
    if !next.is_empty() {
        text.push_str("\n## What may come next\n\n");
        next.iter().for_each(|command| text.push_str(&format!("    {command}\n")));
    }
    text
}

fn outcome(item: &ItemReport) -> &'static str {
    match item.outcome {
        Stands::Waiting => "not begun",
        Stands::Between => "not finished",
        Stands::Working => "in hand",
        Stands::Well => "well",
        Stands::Failed if item.aborted => "**failed**, given up",
        Stands::Failed => "**failed**",
        Stands::Left => "**left**",
    }
}

fn troubles(report: &Report) -> String {
    let mut text = String::new();
    for item in &report.items {
        let Some(error) = &item.error else { continue };
        text.push_str(&format!("\n### {}: failed to {}\n\n", item.guest, printable(&error.message)));
        for cause in error.causes.iter().filter(|cause| !cause.is_empty()) {
            cause.lines().for_each(|line| text.push_str(&format!("    {}\n", printable(line))));
        }
        let remedies = error.help.iter().flat_map(|help| help.lines()).map(printable);
        let verbs = item.next.iter().map(|command| format!("`{command}`"));
        let ways: Vec<String> = remedies.filter(|line| !line.is_empty()).chain(verbs).collect();
        if !ways.is_empty() {
            text.push_str("\nTo go on:\n\n");
            ways.iter().for_each(|way| text.push_str(&format!("* {way}\n")));
        }
    }
    if text.is_empty() { text } else { format!("\n## What failed\n{text}") }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
