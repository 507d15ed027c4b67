//! How a batch stands, from the journal alone.

use jiff::Timestamp;
use serde::Serialize;

use super::expect;
use super::item::{ItemRecord, Stands};
use super::run::{Progress, read_items, schedule};
use super::spec::Spec;
use crate::inventory::Inventory;
use crate::journal::{BatchRecord, Batches, Holder, Journal};
use crate::lifecycle::error::Failure;

/// A batch.
#[derive(Clone, Debug, Serialize)]
pub struct BatchStatus {
    /// Name.
    pub batch: String,
    /// Who began it.
    pub by: String,
    /// When.
    pub opened: Timestamp,
    /// When it was closed, if it is.
    pub closed: Option<Timestamp>,
    /// Wave in hand, counted from 1.
    pub wave: usize,
    /// Number of waves.
    pub waves: usize,
    /// Guests.
    pub guests: usize,
    /// Guests that ended well.
    pub well: usize,
    /// Guests that failed.
    pub failed: usize,
    /// Seconds that the rest is expected to take.
    pub left_s: f64,
    /// Its items.
    pub items: Vec<ItemLine>,
}

/// An item.
#[derive(Clone, Debug, Serialize)]
pub struct ItemLine {
    /// Guest.
    pub guest: String,
    /// Wave, counted from 1.
    pub wave: usize,
    /// How it stands in the batch.
    pub stands: Stands,
    /// Its controller is gone: `batch resume` goes on with it.
    pub interrupted: bool,
    /// The verb in hand, or next.
    pub verb: Option<&'static str>,
    /// Its run.
    pub run: Option<String>,
    /// State of its run.
    pub state: Option<String>,
    /// Seconds that its verbs took so far.
    pub elapsed_s: f64,
    /// Why it failed or was left.
    pub error: Option<String>,
}

/// The newest batch of a name.
///
/// # Errors
/// If the journal cannot be read.
pub fn status(
    book: &Batches,
    journal: &dyn Journal,
    inventory: &Inventory,
    batch: &BatchRecord,
) -> Result<BatchStatus, Failure> {
    let spec: Spec = serde_json::from_value(batch.spec.clone())?;
    let progress: Progress = serde_json::from_value(batch.progress.clone())?;
    let records = read_items(book, batch.id)?;
    let lengths = expect::lengths(&spec, inventory, |guest| book.lengths(guest).unwrap_or_default());
    let schedule = schedule(&spec, progress, &records, lengths);
    let total = schedule.total();
    let items = spec.items.iter().zip(&records).map(|(item, record)| {
        // A run that its controller has not written down yet is the guest's open one.
        let run = match &record.run {
            Some(run) => journal.run(run)?,
            None if matches!(record.stands, Stands::Between | Stands::Working) => journal.open_of(&item.guest)?,
            None => None,
        };
        let more = matches!(record.stands, Stands::Waiting | Stands::Between | Stands::Working | Stands::Failed);
        Ok(ItemLine {
            guest: item.guest.clone(),
            wave: item.wave + 1,
            stands: record.stands,
            interrupted: interrupted(record),
            verb: spec.verbs.get(record.verb).filter(|_| more).map(|verb| verb.word()),
            run: run.as_ref().map(|run| run.id.clone()),
            state: run.map(|run| run.state),
            elapsed_s: record.past.iter().map(|past| past.elapsed_s).sum(),
            error: record.error.as_ref().map(|error| error.causes.last().unwrap_or(&error.message).clone()),
        })
    });
    Ok(BatchStatus {
        batch: batch.name.clone(),
        by: batch.by.clone(),
        opened: batch.opened,
        closed: batch.closed,
        wave: progress.wave + 1,
        waves: spec.waves(),
        guests: total.guests,
        well: total.well,
        failed: total.failed,
        items: items.collect::<Result<_, Failure>>()?,
        left_s: if batch.closed.is_some() { 0.0 } else { schedule.play() },
    })
}

fn interrupted(record: &ItemRecord) -> bool {
    record.stands == Stands::Working && record.holder.as_ref().is_none_or(Holder::is_gone)
}
