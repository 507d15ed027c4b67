//! The one event stream: what happens, as it happens. Terminal, log, JSON lines and reports are made from it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hypervisors::Change;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where events go. Must not block for long and must not fail.
pub type Sink = Arc<dyn Fn(&Event) + Send + Sync>;

/// Something that happened in a verb.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Version of this structure.
    pub schema: u32,
    /// Sequence in this invocation, from 1.
    pub seq: u64,
    /// When (UTC).
    pub time: Timestamp,
    /// Run id, once there is one.
    pub run: Option<String>,
    /// Guest.
    pub guest: String,
    /// Verb.
    pub verb: String,
    /// What.
    #[serde(flatten)]
    pub body: EventBody,
}

/// Which step an event is about.
#[derive(Clone, Debug, Serialize)]
pub struct StepInfo {
    /// Number of its plan in the journal.
    pub plan: i64,
    /// Counted from 1.
    pub index: usize,
    /// Number of steps.
    pub of: usize,
    /// Kind.
    pub kind: &'static str,
    /// Stage.
    pub stage: super::Stage,
    /// Title.
    pub title: String,
}

/// An error, for JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// Exit code it leads to.
    pub code: u8,
    /// What failed, after "failed to".
    pub message: String,
    /// Causes, outermost first.
    pub causes: Vec<String>,
    /// Where (file, option, object).
    pub place: Option<String>,
    /// What to do.
    pub help: Option<String>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words of the interface page")]
pub enum StepOutcome {
    Created,
    Changed,
    Unchanged,
    Removed,
    Undone,
    Failed,
    Unknown,
}

impl From<Change> for StepOutcome {
    fn from(change: Change) -> Self {
        match change {
            Change::Created => Self::Created,
            Change::Changed => Self::Changed,
            Change::Removed => Self::Removed,
            Change::Unchanged => Self::Unchanged,
        }
    }
}

/// The kinds of event and what they carry. Fields are added, never renamed or dropped.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "described by the interface page, field by field")]
pub enum EventBody {
    VerbStarted {
        plan: String,
        steps: usize,
        expected_s: f64,
    },
    Preflight {
        id: String,
        verdict: String,
        detail: String,
        remedy: Option<String>,
    },
    ApprovalNeeded {
        plan: String,
    },
    StepStarted {
        step: StepInfo,
        estimate_s: f64,
    },
    Command {
        step: Option<StepInfo>,
        host: String,
        argv: Vec<String>,
        status: Option<i32>,
        elapsed_s: f64,
    },
    Progress {
        step: StepInfo,
        detail: String,
        percent: Option<f64>,
    },
    StepFinished {
        step: StepInfo,
        outcome: StepOutcome,
        elapsed_s: f64,
        error: Option<ErrorInfo>,
    },
    StepUndone {
        step: StepInfo,
        outcome: StepOutcome,
        elapsed_s: f64,
        error: Option<ErrorInfo>,
    },
    OutageStarted {
        expected_s: f64,
    },
    OutageEnded {
        elapsed_s: f64,
    },
    Check {
        check: crate::verify::CheckResult,
    },
    Warning {
        message: String,
    },
    VerbFinished {
        state: Option<String>,
        exit_code: u8,
        elapsed_s: f64,
        outage_s: f64,
        error: Option<ErrorInfo>,
        next: Vec<String>,
    },
}

/// Numbers and sends the events of one invocation.
pub struct Emitter {
    sink: Sink,
    seq: AtomicU64,
    run: Mutex<Option<String>>,
    current: Mutex<Option<StepInfo>>,
    guest: String,
    verb: String,
}

impl Emitter {
    /// Events of this verb on this guest go to `sink`.
    pub fn new(sink: Sink, guest: &str, verb: &str) -> Self {
        Self {
            sink,
            seq: AtomicU64::new(0),
            run: Mutex::new(None),
            current: Mutex::new(None),
            guest: guest.to_owned(),
            verb: verb.to_owned(),
        }
    }
    /// From now on events bear this run id.
    pub fn set_run(&self, run: &str) {
        *self.run.lock().unwrap_or_else(PoisonError::into_inner) = Some(run.to_owned());
    }
    /// Sends an event.
    pub fn send(&self, body: EventBody) {
        let event = Event {
            schema: 1,
            seq: self.seq.fetch_add(1, Ordering::Relaxed) + 1,
            time: Timestamp::now().round(jiff::Unit::Millisecond).unwrap_or_default(),
            run: self.run.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            guest: self.guest.clone(),
            verb: self.verb.clone(),
            body,
        };
        (self.sink)(&event);
    }
    /// Sends a warning.
    pub fn warning(&self, message: String) {
        self.send(EventBody::Warning { message });
    }
    /// A step begins; progress and commands that follow are its.
    pub fn step_started(&self, info: &StepInfo, estimate_s: f64) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.clone());
        self.send(EventBody::StepStarted { step: info.clone(), estimate_s });
    }
    /// Progress of the step in hand.
    pub fn progress(&self, detail: String, fraction: Option<f64>) {
        let current = self.current();
        if let Some(step) = current {
            self.send(EventBody::Progress { step, detail, percent: fraction.map(|fraction| fraction * 100.0) });
        }
    }
    /// The step in hand.
    pub fn current(&self) -> Option<StepInfo> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
