//! Progress for people: one line that moves on a terminal, one plain line a finished step elsewhere. What is remembered
//! here of the events (checks, undone steps, expected outage) makes the closing words. Nothing here waits for the
//! terminal but a question.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hypervisors::host::{printable, shell_quote};

use super::format::{about, clock, measured, width};
use super::front::Person;
use super::page::{self, Look};
use super::{Style, detail, err, out, writer};
use crate::engine::event::{Event, StepInfo, StepOutcome};
use crate::engine::{EventBody, Sink};
use crate::lifecycle::app::Front;
use crate::lifecycle::error::exit;
use crate::lifecycle::page::Proposal;
use crate::verify::CheckResult;

/// How much is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Errors and results only.
    pub quiet: bool,
    /// Commands and diffs too.
    pub verbose: bool,
    /// A line that moves.
    pub moving: bool,
    /// The invocation only plans.
    pub plan_only: bool,
    /// Colours of standard error.
    pub style: Style,
    /// Colours of standard output.
    pub out_style: Style,
}

/// What was seen of a verb.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Results of checks.
    pub checks: Vec<CheckResult>,
    /// Kinds and titles of steps taken back.
    pub undone: Vec<(&'static str, String)>,
    /// Expected outage in seconds.
    pub expected_s: Option<f64>,
}

impl Seen {
    /// Remembers what an event tells.
    pub fn note(&mut self, event: &EventBody) {
        match event {
            EventBody::Check { check } => self.checks.push(check.clone()),
            EventBody::OutageStarted { expected_s } => self.expected_s = Some(*expected_s),
            EventBody::StepUndone { step, outcome: StepOutcome::Undone, .. } => {
                self.undone.push((step.kind, step.title.clone()));
            }
            _ => {}
        }
    }
}

#[derive(Default)]
struct Inner {
    moving: bool,
    seen: Seen,
    preflight: Vec<String>,
    warned: BTreeSet<String>,
    step: Arc<Mutex<Line>>,
}

/// The moving line.
#[derive(Default)]
struct Line {
    head: String,
    detail: String,
    since: Option<Instant>,
    estimate_s: f64,
}

impl Line {
    fn text(&self, columns: usize) -> String {
        let elapsed = self.since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        let mut times = clock(elapsed);
        if self.estimate_s >= 1.0 {
            times.push_str(&format!(" of about {}", clock(self.estimate_s)));
        }
        let room = columns.saturating_sub(width(&times) + 2).max(1);
        let mut left: String = format!("{}{}", self.head, self.detail);
        if width(&left) > room {
            left = left.chars().take(room - 1).chain(['…']).collect();
        }
        format!("{left:room$}  {times}")
    }
}

/// The terminal, as a sink of events and as the one who asks.
pub struct Terminal {
    manner: Manner,
    /// Who is asked.
    pub person: Arc<Person>,
    inner: Mutex<Inner>,
}

impl Terminal {
    /// A terminal that tells things in this manner.
    pub fn new(manner: Manner, person: Arc<Person>) -> Arc<Self> {
        Arc::new(Self { manner, person, inner: Mutex::default() })
    }

    /// Its sink.
    pub fn sink(self: &Arc<Self>) -> Sink {
        let terminal = self.clone();
        Arc::new(move |event| terminal.event(event))
    }

    /// What was seen since the last time this was asked.
    pub fn seen(&self) -> Seen {
        std::mem::take(&mut self.lock().seen)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, event: &Event) {
        let mut inner = self.lock();
        inner.seen.note(&event.body);
        match &event.body {
            EventBody::Preflight { verdict, detail, .. } if verdict == "warning" => {
                inner.preflight.push(detail.clone())
            }
            EventBody::VerbStarted { .. } => {
                for detail in std::mem::take(&mut inner.preflight) {
                    self.tell(&page::warning(&detail, false, self.manner.style), false);
                }
            }
            EventBody::StepStarted { step, estimate_s } => self.begin(&mut inner, step, *estimate_s),
            EventBody::Progress { detail, percent, .. } => {
                let percent = percent.map(|percent| format!(" {percent:.0} %")).unwrap_or_default();
                let mut line = inner.step.lock().unwrap_or_else(PoisonError::into_inner);
                line.detail = format!("{}{percent}", printable(detail));
            }
            EventBody::StepFinished { step, outcome, elapsed_s, .. }
            | EventBody::StepUndone { step, outcome, elapsed_s, .. } => {
                self.step_line(step, word(*outcome), *elapsed_s);
            }
            EventBody::Command { host, argv, status, elapsed_s, .. } if self.manner.verbose => {
                let status = match status {
                    Some(0) => String::new(),
                    Some(status) => format!(", status {status}"),
                    None => ", did not end".to_owned(),
                };
                let shown = printable(&shell_quote(argv));
                detail(&format!("      {host}$ {shown}  ({}{status})\n", measured(*elapsed_s)));
            }
            EventBody::OutageStarted { expected_s } => {
                let line = format!("{} is down now, for about {}\n", event.guest, about(*expected_s));
                self.plain(&line);
            }
            EventBody::OutageEnded { elapsed_s } => {
                self.plain(&format!("{} is up again after {}\n", event.guest, measured(*elapsed_s)));
            }
            EventBody::Warning { message } if inner.warned.insert(message.clone()) => {
                self.tell(&page::warning(message, false, self.manner.style), true);
            }
            EventBody::VerbFinished { .. } => {
                rest(&mut inner);
                inner.preflight.clear();
            }
            _ => {}
        }
    }

    fn begin(&self, inner: &mut Inner, step: &StepInfo, estimate_s: f64) {
        {
            let mut line = inner.step.lock().unwrap_or_else(PoisonError::into_inner);
            *line = Line {
                head: format!("[{}/{}] ", step.index, step.of),
                detail: printable(&step.title),
                since: Some(Instant::now()),
                estimate_s,
            };
        }
        if self.manner.moving && !self.manner.quiet {
            inner.moving = true;
            let line = inner.step.clone();
            writer::moving(Some(Arc::new(move |columns| {
                line.lock().unwrap_or_else(PoisonError::into_inner).text(columns)
            })));
        }
    }

    /// A finished step; on a terminal the moving line has told it already.
    fn step_line(&self, step: &StepInfo, word: &str, elapsed_s: f64) {
        let failed = word == "FAILED" || word == "uncertain";
        let line =
            format!("[{}/{}] {}: {word}, {}\n", step.index, step.of, printable(&step.title), measured(elapsed_s));
        if !self.manner.moving || self.manner.verbose || failed {
            self.tell(&line, false)
        }
    }

    fn plain(&self, line: &str) {
        if !self.manner.moving || self.manner.verbose {
            self.tell(line, false);
        }
    }

    fn tell(&self, text: &str, always: bool) {
        if self.manner.quiet && !always {
            return;
        }
        err(text);
    }
}

fn word(outcome: StepOutcome) -> &'static str {
    match outcome {
        StepOutcome::Created => "created",
        StepOutcome::Changed => "changed",
        StepOutcome::Unchanged => "unchanged",
        StepOutcome::Removed => "removed",
        StepOutcome::Undone => "undone",
        StepOutcome::Failed => "FAILED",
        StepOutcome::Unknown => "uncertain",
    }
}

/// Takes the moving line away.
fn rest(inner: &mut Inner) {
    if std::mem::take(&mut inner.moving) {
        writer::moving(None);
    }
}

impl Front for Terminal {
    fn show(&self, proposal: &Proposal, _asking: bool) {
        let mut inner = self.lock();
        inner.preflight.clear();
        let verbose = self.manner.verbose;
        if self.manner.plan_only {
            out(&page::plan(proposal, Look { verbose, style: self.manner.out_style }));
        } else {
            let look = Look { verbose, style: self.manner.style };
            let text = if proposal.page.confirm.is_some() {
                page::approval(proposal, look)
            } else {
                page::plan(proposal, look)
            };
            self.tell(&text, true);
        }
    }

    fn confirm(&self, word: &str) -> Option<bool> {
        let answer = self.person.answer(&format!("Type {word} to go on: "), exit::UNDECIDED)?;
        Some(answer == word)
    }

    fn ask(&self, question: &str, interrupted: u8) -> Option<bool> {
        rest(&mut self.lock());
        let answer = self.person.answer(&format!("{question} [y/N] "), interrupted)?;
        Some(matches!(answer.to_lowercase().as_str(), "y" | "yes"))
    }
}
