//! The record of batches, beside that of runs: what was approved, how each item stands, who is at it.
//!
//! Invariants:
//! * A change is a *turn*: in one transaction a controller sees everything that others changed since its last turn,
//!   decides, and writes. Two controllers of one batch can therefore never take the same item, and both keep to its limits.
//! * At most one batch of a name is open.
//!
//! Knows nothing of verbs or guests: specs and items are JSON to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use serde_json::Value;

use super::JournalError;
use super::sqlite::{SqliteJournal, column, time};

/// A batch as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRecord {
    /// Number in the journal.
    pub id: i64,
    /// Name.
    pub name: String,
    /// What was approved.
    pub spec: Value,
    /// How it stands as a whole.
    pub progress: Value,
    /// Who began it: `user@host pid version`.
    pub by: String,
    /// When it began.
    pub opened: Timestamp,
    /// When it was closed; absent while it is open.
    pub closed: Option<Timestamp>,
}

/// How a batch stands as a whole, in a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// As it was written last.
    pub progress: Value,
    /// It is over.
    pub closed: bool,
}

/// What a controller decides in its turn.
#[derive(Debug, Default)]
pub struct Turn {
    /// How the batch stands as a whole from now on, if that changes.
    pub progress: Option<Value>,
    /// Items that change.
    pub items: Vec<(usize, Value)>,
    /// The batch is over.
    pub close: bool,
}

/// The batches of one state directory.
#[derive(Debug)]
pub struct Batches {
    connection: Mutex<Connection>,
}

const BATCH: &str = "SELECT id, name, spec, progress, by, opened, closed FROM batches";

fn batch_record(row: &Row<'_>) -> rusqlite::Result<BatchRecord> {
    Ok(BatchRecord {
        id: row.get(0)?,
        name: row.get(1)?,
        spec: column(row, 2)?,
        progress: column(row, 3)?,
        by: row.get(4)?,
        opened: time(row, 5)?,
        closed: if row.get::<_, Option<String>>(6)?.is_some() { Some(time(row, 6)?) } else { None },
    })
}

fn number(item: usize) -> i64 {
    i64::try_from(item).unwrap_or(i64::MAX)
}

impl Batches {
    /// Opens the record of a state directory for writing, creating it if needed.
    ///
    /// # Errors
    /// As [`SqliteJournal::open`].
    pub fn open(state: &Path) -> Result<Self, JournalError> {
        Ok(Self { connection: SqliteJournal::open(state)?.into_connection() })
    }

    /// Opens an existing record for reading only; `None` if there is none yet.
    ///
    /// # Errors
    /// As [`SqliteJournal::open_read_only`].
    pub fn open_read_only(state: &Path) -> Result<Option<Self>, JournalError> {
        let Some(journal) = SqliteJournal::open_read_only(state)? else { return Ok(None) };
        let connection = journal.into_connection();
        let known: i64 = connection.lock().unwrap_or_else(PoisonError::into_inner).query_row(
            "SELECT count(*) FROM sqlite_schema WHERE name = 'batches'",
            [],
            |row| row.get(0),
        )?;
        Ok((known > 0).then_some(Self { connection }))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a batch whole, with the beginning of each item; `None` if one of that name is open.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin(
        &self,
        name: &str,
        spec: &Value,
        progress: &Value,
        items: &[Value],
        by: &str,
    ) -> Result<Option<BatchRecord>, JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let open: i64 =
            tx.query_row("SELECT count(*) FROM batches WHERE name = ?1 AND closed IS NULL", [name], |row| row.get(0))?;
        if open > 0 {
            return Ok(None);
        }
        tx.execute(
            "INSERT INTO batches (name, spec, progress, by, opened, seq) VALUES (?1, ?2, ?3, ?4, ?5, 0)",
            params![name, spec.to_string(), progress.to_string(), by, Timestamp::now().to_string()],
        )?;
        let id = tx.last_insert_rowid();
        let mut insert = tx.prepare("INSERT INTO batch_items VALUES (?1, ?2, 0, ?3)")?;
        for (item, body) in items.iter().enumerate() {
            insert.execute(params![id, number(item), body.to_string()])?;
        }
        drop(insert);
        let batch = tx.query_row(&format!("{BATCH} WHERE id = ?1"), [id], batch_record)?;
        tx.commit()?;
        Ok(Some(batch))
    }

    /// The newest batch of a name, open or closed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn newest(&self, name: &str) -> Result<Option<BatchRecord>, JournalError> {
        let sql = format!("{BATCH} WHERE name = ?1 ORDER BY id DESC LIMIT 1");
        Ok(self.lock().query_row(&sql, [name], batch_record).optional()?)
    }

    /// How long the steps of each verb of a guest took the last time it ended well, in seconds: what it waited in between is not counted.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn lengths(&self, guest: &str) -> Result<BTreeMap<String, f64>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT p.verb, (SELECT sum(json_extract(e.data, '$.elapsed_s')) FROM events e
                             WHERE e.run = p.run AND e.plan = p.id AND e.kind = 'done')
             FROM runs r JOIN plans p ON p.run = r.id WHERE r.guest = ?1 AND p.outcome = 'done'
               AND json_extract(p.body, '$.undoes') IS NULL ORDER BY p.id",
        )?;
        let mut rows = statement.query([guest])?;
        let mut lengths = BTreeMap::new();
        while let Some(row) = rows.next()? {
            if let Some(seconds) = row.get::<_, Option<f64>>(1)? {
                lengths.insert(row.get(0)?, seconds);
            }
        }
        Ok(lengths)
    }

    /// Every item, in order.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn items(&self, batch: i64) -> Result<Vec<Value>, JournalError> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT body FROM batch_items WHERE batch = ?1 ORDER BY item")?;
        let rows = statement.query_map([batch], |row| column(row, 0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One turn: `decide` gets how the batch stands as a whole, whether it is closed, and the items that were changed after
    /// `seen`; what it decides is written before anybody else has a turn. Returns what `seen` is next time.
    ///
    /// # Errors
    /// If it cannot be read or written; nothing is changed then.
    pub fn turn(
        &self,
        batch: i64,
        seen: i64,
        decide: impl FnOnce(&Standing, Vec<(usize, Value)>) -> Result<Turn, JournalError>,
    ) -> Result<i64, JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Not the spec: it is as long as the batch.
        let (standing, seq): (Standing, i64) = tx
            .prepare_cached("SELECT progress, closed IS NOT NULL, seq FROM batches WHERE id = ?1")?
            .query_row([batch], |row| Ok((Standing { progress: column(row, 0)?, closed: row.get(1)? }, row.get(2)?)))?;
        let news: Vec<(usize, Value)> = tx
            .prepare_cached("SELECT item, body FROM batch_items WHERE batch = ?1 AND seq > ?2 ORDER BY item")?
            .query_map(params![batch, seen], |row| {
                Ok((usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX), column(row, 1)?))
            })?
            .collect::<Result<_, _>>()?;
        let turn = decide(&standing, news)?;
        if turn.items.is_empty() && turn.progress.is_none() && !turn.close {
            return Ok(seq);
        }
        let next = seq + 1;
        let now = Timestamp::now().to_string();
        tx.execute(
            "UPDATE batches SET seq = ?2, progress = coalesce(?3, progress), closed = CASE WHEN ?4 THEN ?5 ELSE closed END
             WHERE id = ?1",
            params![batch, next, turn.progress.map(|value| value.to_string()), turn.close, now],
        )?;
        for (item, body) in &turn.items {
            tx.prepare_cached("UPDATE batch_items SET seq = ?3, body = ?4 WHERE batch = ?1 AND item = ?2")?
                .execute(params![batch, number(*item), next, body.to_string()])?;
        }
        tx.commit()?;
        Ok(next)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn begun(state: &Path) -> (Batches, BatchRecord) {
        let batches = Batches::open(state).unwrap();
        let batch = batches.begin("night", &json!({}), &json!(0), &[json!("a"), json!("b")], "me").unwrap().unwrap();
        (batches, batch)
    }

    #[test]
    fn a_name_is_open_once_and_may_come_again() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Batches::open_read_only(dir.path()).unwrap().is_none());
        let (batches, batch) = begun(dir.path());
        assert!(batches.begin("night", &json!({}), &json!(0), &[], "me").unwrap().is_none());
        batches.turn(batch.id, 0, |_, _| Ok(Turn { close: true, ..Turn::default() })).unwrap();
        assert!(batches.newest("night").unwrap().unwrap().closed.is_some());
        assert!(batches.begin("night", &json!({}), &json!(0), &[], "me").unwrap().is_some());
        assert!(batches.newest("other").unwrap().is_none());
    }

    #[test]
    fn a_turn_sees_what_the_other_controller_did_and_nothing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let (one, batch) = begun(dir.path());
        let other = Batches::open(dir.path()).unwrap();
        let take = |item, word: &str| Turn { items: vec![(item, json!(word))], ..Turn::default() };
        let seen = one.turn(batch.id, 0, |_, news| {
            assert!(news.is_empty());
            Ok(take(0, "one's"))
        });
        let theirs = other.turn(batch.id, 0, |_, news| {
            assert_eq!(news, [(0, json!("one's"))]);
            Ok(take(1, "other's"))
        });
        let seen = one.turn(batch.id, seen.unwrap(), |_, news| {
            assert_eq!(news, [(1, json!("other's"))]);
            Ok(Turn::default())
        });
        assert_eq!(seen.unwrap(), theirs.unwrap());
        assert_eq!(one.items(batch.id).unwrap(), [json!("one's"), json!("other's")]);
    }

    #[test]
    fn a_turn_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (batches, batch) = begun(dir.path());
        let failed = batches.turn(batch.id, 0, |_, _| Err(JournalError::Missing("x".into())));
        assert!(failed.is_err());
        assert_eq!(batches.items(batch.id).unwrap(), [json!("a"), json!("b")]);
    }
}
