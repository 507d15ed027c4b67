//! What a batch tells while it goes on, and to whom.

use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use super::item::Stands;
use super::schedule::Tally;
use crate::engine::ErrorInfo;
use crate::lifecycle::state::Verb;

/// Something that people are told when it happens.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "described by the reference page, field by field")]
pub enum News {
    BatchStarted { guests: usize, verbs: Vec<Verb>, waves: usize },
    BatchWaits { opens: Timestamp },
    ItemStarted { guest: String, verb: Verb, expected_s: f64 },
    ItemVerbEnded { guest: String, verb: Verb, exit_code: u8, elapsed_s: f64, outage_s: f64, error: Option<ErrorInfo> },
    ItemEnded { guest: String, run: Option<String>, stands: Stands, aborted: bool, error: Option<ErrorInfo> },
    WaveEnded { wave: usize, guests: usize, well: usize, failed: usize },
    BatchEnded { exit_code: u8, guests: usize, well: usize, failed: usize, left: usize, why: Option<String> },
}

/// A guest that is worked on, for the table.
#[derive(Clone, Debug)]
pub struct AtWork {
    /// Guest.
    pub guest: String,
    /// Verb in hand.
    pub verb: Verb,
    /// Since when.
    pub since: Instant,
    /// Seconds expected of this verb.
    pub expected_s: f64,
    /// It heads the longest chain.
    pub longest: bool,
}

/// How a batch stands, for the table.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// Wave in hand, counted from 1, and their number.
    pub wave: (usize, usize),
    /// Numbers.
    pub total: Tally,
    /// What this controller works on.
    pub at_work: Vec<AtWork>,
    /// Items that other controllers work on.
    pub elsewhere: usize,
    /// Seconds that are left, as far as one can tell.
    pub left_s: f64,
}

/// Who is told how a batch goes on. Must not block.
pub trait Teller: Send + Sync {
    /// Something happened.
    fn news(&self, news: &News);
    /// The table has changed.
    fn overview(&self, overview: &Overview);
}
