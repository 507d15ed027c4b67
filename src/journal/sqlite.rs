//! The journal in SQLite: WAL, `synchronous=FULL`, one database in a directory of mode 0700.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::schema;
use super::{EventKind, EventRecord, FORMAT, Holder, Journal, JournalError, Lease, PlanRecord, RunRecord, Stuck};

/// The journal of one state directory.
#[derive(Debug)]
pub struct SqliteJournal {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl SqliteJournal {
    /// Opens the journal of a state directory for writing, creating both if needed.
    ///
    /// # Errors
    /// [`JournalError::Unusable`] if the directory cannot be written, [`JournalError::Newer`] if a newer program wrote it.
    pub fn open(state: &Path) -> Result<Self, JournalError> {
        let unusable = |why: std::io::Error| JournalError::Unusable { path: state.to_owned(), why: why.to_string() };
        if !state.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(unusable)?;
        }
        if fs::metadata(state).map_err(unusable)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(state, fs::Permissions::from_mode(0o700)).map_err(unusable)?;
        }
        let path = state.join("journal.db");
        let journal = Self::connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        journal.prepare().map_err(|error| match error {
            JournalError::Database(error) => JournalError::Unusable { path, why: error.to_string() },
            other => other,
        })?;
        Ok(journal)
    }

    /// Opens an existing journal for reading only; `None` if there is none yet.
    ///
    /// # Errors
    /// As [`SqliteJournal::open`].
    pub fn open_read_only(state: &Path) -> Result<Option<Self>, JournalError> {
        let path = state.join("journal.db");
        if !path.try_exists().map_err(|e| JournalError::Unusable { path: state.to_owned(), why: e.to_string() })? {
            return Ok(None);
        }
        let journal = Self::connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        journal.check_format().map_err(|error| match error {
            JournalError::Database(error) => JournalError::Unusable { path, why: error.to_string() },
            other => other,
        })?;
        Ok(Some(journal))
    }

    fn connect(path: &Path, flags: OpenFlags) -> Result<Self, JournalError> {
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(|error| JournalError::Unusable { path: path.to_owned(), why: error.to_string() })?;
        connection.busy_timeout(Duration::from_secs(10))?;
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    fn prepare(&self) -> Result<(), JournalError> {
        let mut connection = self.lock();
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let fresh: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if fresh == 0 {
            tx.execute_batch(schema::RUNS)?;
            tx.execute("INSERT INTO meta VALUES ('format', ?1)", [FORMAT.to_string()])?;
        }
        // What came later and an older program does not miss.
        tx.execute_batch(schema::LATER)?;
        tx.execute_batch(schema::BATCHES)?;
        tx.commit()?;
        drop(connection);
        self.check_format()
    }

    fn check_format(&self) -> Result<(), JournalError> {
        let text: String =
            self.lock().query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0))?;
        let found = text.parse().unwrap_or(i64::MAX);
        if found > FORMAT { Err(JournalError::Newer { path: self.path.clone(), found }) } else { Ok(()) }
    }

    /// Its connection, for the record of batches in the same database.
    pub(super) fn into_connection(self) -> Mutex<Connection> {
        self.connection
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a change under a lease: nothing is written if the epoch has moved on.
    fn change<T>(
        &self,
        lease: &Lease,
        act: impl FnOnce(&Transaction<'_>) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let current: Option<i64> = tx
            .query_row("SELECT epoch FROM leases WHERE run = ?1 AND holder IS NOT NULL", [&lease.run], |row| row.get(0))
            .optional()?;
        if current != Some(lease.epoch) {
            return Err(JournalError::Lost(lease.run.clone()));
        }
        let result = act(&tx)?;
        tx.commit()?;
        Ok(result)
    }
}

fn now() -> String {
    Timestamp::now().to_string()
}

fn word<T: Serialize>(value: T) -> Result<String, JournalError> {
    Ok(serde_json::to_value(value)?.as_str().unwrap_or_default().to_owned())
}

pub(super) fn column<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    let text: String = row.get(index)?;
    serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error)))
}

pub(super) fn time(row: &Row<'_>, index: usize) -> rusqlite::Result<Timestamp> {
    let text: String = row.get(index)?;
    text.parse().map_err(|error: jiff::Error| {
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn run_record(row: &Row<'_>) -> rusqlite::Result<RunRecord> {
    Ok(RunRecord {
        id: row.get(0)?,
        guest: row.get(1)?,
        state: row.get(2)?,
        since: time(row, 3)?,
        opened: time(row, 4)?,
        closed: if row.get::<_, Option<String>>(5)?.is_some() { Some(time(row, 5)?) } else { None },
        facts: column(row, 6)?,
        stuck: if row.get::<_, Option<String>>(7)?.is_some() { Some(column(row, 7)?) } else { None },
    })
}

const RUN: &str = "SELECT id, guest, state, since, opened, closed, facts, stuck FROM runs";

fn enter(tx: &Transaction<'_>, lease: &Lease, state: &str, close: bool) -> Result<(), JournalError> {
    let now = now();
    tx.execute(
        "UPDATE runs SET state = ?2, since = ?3, closed = CASE WHEN ?4 THEN ?3 ELSE closed END WHERE id = ?1",
        params![lease.run, state, now, close],
    )?;
    add(tx, lease, None, None, EventKind::State, &json!({ "state": state }))?;
    Ok(())
}

fn add(
    tx: &Transaction<'_>,
    lease: &Lease,
    plan: Option<i64>,
    step: Option<usize>,
    kind: EventKind,
    data: &Value,
) -> Result<i64, JournalError> {
    let seq: i64 =
        tx.query_row("SELECT coalesce(max(seq), 0) + 1 FROM events WHERE run = ?1", [&lease.run], |row| row.get(0))?;
    tx.execute(
        "INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            lease.run,
            seq,
            lease.epoch,
            now(),
            plan,
            step.map(|step| i64::try_from(step).unwrap_or(i64::MAX)),
            word(kind)?,
            data.to_string()
        ],
    )?;
    Ok(seq)
}

impl Journal for SqliteJournal {
    fn open_run(
        &self,
        id: &str,
        guest: &str,
        state: &str,
        facts: &Value,
        holder: &Holder,
    ) -> Result<Lease, JournalError> {
        let mut connection = self.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let open: Option<String> = tx
            .query_row("SELECT id FROM runs WHERE guest = ?1 AND closed IS NULL", [guest], |row| row.get(0))
            .optional()?;
        if let Some(run) = open {
            return Err(JournalError::Open { guest: guest.to_owned(), run });
        }
        let now = now();
        tx.execute(
            "INSERT INTO runs VALUES (?1, ?2, ?3, ?4, ?4, NULL, ?5, NULL)",
            params![id, guest, state, now, facts.to_string()],
        )?;
        tx.execute("INSERT INTO leases VALUES (?1, 1, ?2)", params![id, serde_json::to_string(holder)?])?;
        let lease = Lease { run: id.to_owned(), epoch: 1 };
        add(&tx, &lease, None, None, EventKind::State, &json!({ "state": state }))?;
        tx.commit()?;
        Ok(lease)
    }

    fn runs(&self, open_only: bool) -> Result<Vec<RunRecord>, JournalError> {
        let connection = self.lock();
        let filter = if open_only { " WHERE closed IS NULL" } else { "" };
        let mut statement = connection.prepare(&format!("{RUN}{filter} ORDER BY opened DESC"))?;
        let rows = statement.query_map([], run_record)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn open_of(&self, guest: &str) -> Result<Option<RunRecord>, JournalError> {
        let sql = format!("{RUN} WHERE guest = ?1 AND closed IS NULL");
        Ok(self.lock().query_row(&sql, [guest], run_record).optional()?)
    }

    fn run(&self, id: &str) -> Result<Option<RunRecord>, JournalError> {
        Ok(self.lock().query_row(&format!("{RUN} WHERE id = ?1"), [id], run_record).optional()?)
    }

    fn set_facts(&self, lease: &Lease, facts: &Value) -> Result<(), JournalError> {
        self.change(lease, |tx| {
            tx.execute("UPDATE runs SET facts = ?2 WHERE id = ?1", params![lease.run, facts.to_string()])?;
            Ok(())
        })
    }

    fn set_state(&self, lease: &Lease, state: &str, close: bool) -> Result<(), JournalError> {
        self.change(lease, |tx| enter(tx, lease, state, close))
    }

    fn set_stuck(&self, lease: &Lease, stuck: Option<&Stuck>) -> Result<(), JournalError> {
        let text = stuck.map(serde_json::to_string).transpose()?;
        self.change(lease, |tx| {
            tx.execute("UPDATE runs SET stuck = ?2 WHERE id = ?1", params![lease.run, text])?;
            Ok(())
        })
    }

    fn holder(&self, run: &str) -> Result<(i64, Option<Holder>), JournalError> {
        let found: Option<(i64, Option<String>)> = self
            .lock()
            .query_row("SELECT epoch, holder FROM leases WHERE run = ?1", [run], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (epoch, holder) = found.ok_or_else(|| JournalError::Missing(run.to_owned()))?;
        Ok((epoch, holder.map(|text| serde_json::from_str(&text)).transpose()?))
    }

    fn acquire(&self, run: &str, seen: i64, holder: &Holder) -> Result<Lease, JournalError> {
        let text = serde_json::to_string(holder)?;
        let changed = self.lock().execute(
            "UPDATE leases SET epoch = epoch + 1, holder = ?3 WHERE run = ?1 AND epoch = ?2",
            params![run, seen, text],
        )?;
        if changed == 1 {
            return Ok(Lease { run: run.to_owned(), epoch: seen + 1 });
        }
        match self.holder(run)? {
            (_, Some(other)) => Err(JournalError::Held(other.into())),
            (_, None) => Err(JournalError::Lost(run.to_owned())),
        }
    }

    fn release(&self, lease: &Lease) -> Result<(), JournalError> {
        self.change(lease, |tx| {
            tx.execute("UPDATE leases SET holder = NULL WHERE run = ?1", [&lease.run])?;
            Ok(())
        })
    }

    fn store_plan(
        &self,
        lease: &Lease,
        verb: &str,
        digest: &str,
        body: &Value,
        by: &str,
        state: &str,
    ) -> Result<i64, JournalError> {
        self.change(lease, |tx| {
            tx.execute(
                "INSERT INTO plans (run, verb, digest, body, by, stored) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![lease.run, verb, digest, body.to_string(), by, now()],
            )?;
            let id = tx.last_insert_rowid();
            enter(tx, lease, state, false)?;
            Ok(id)
        })
    }

    fn finish_plan(
        &self,
        lease: &Lease,
        plan: i64,
        outcome: &str,
        state: &str,
        close: bool,
    ) -> Result<(), JournalError> {
        self.change(lease, |tx| {
            tx.execute(
                "UPDATE plans SET outcome = ?3 WHERE id = ?1 AND run = ?2 AND outcome IS NULL",
                params![plan, lease.run, outcome],
            )?;
            enter(tx, lease, state, close)
        })
    }

    fn plans(&self, run: &str) -> Result<Vec<PlanRecord>, JournalError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare("SELECT id, run, verb, digest, body, by, stored, outcome FROM plans WHERE run = ?1 ORDER BY id")?;
        let rows = statement.query_map([run], |row| {
            Ok(PlanRecord {
                id: row.get(0)?,
                run: row.get(1)?,
                verb: row.get(2)?,
                digest: row.get(3)?,
                body: column(row, 4)?,
                by: row.get(5)?,
                stored: time(row, 6)?,
                outcome: row.get(7)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn append(
        &self,
        lease: &Lease,
        plan: Option<i64>,
        step: Option<usize>,
        kind: EventKind,
        data: &Value,
    ) -> Result<i64, JournalError> {
        self.change(lease, |tx| add(tx, lease, plan, step, kind, data))
    }

    fn events(&self, run: &str) -> Result<Vec<EventRecord>, JournalError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare("SELECT seq, epoch, time, plan, step, kind, data FROM events WHERE run = ?1 ORDER BY seq")?;
        let rows = statement.query_map([run], |row| {
            let kind: String = row.get(5)?;
            let step: Option<i64> = row.get(4)?;
            Ok(EventRecord {
                seq: row.get(0)?,
                epoch: row.get(1)?,
                time: time(row, 2)?,
                plan: row.get(3)?,
                step: step.and_then(|step| usize::try_from(step).ok()),
                kind: serde_json::from_value(Value::String(kind)).map_err(|error| {
                    rusqlite::Error::FromSqlConversionFailure(5, rusqlite::types::Type::Text, Box::new(error))
                })?,
                data: column(row, 6)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn put_blob(&self, bytes: &[u8]) -> Result<String, JournalError> {
        let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        self.lock().execute("INSERT OR IGNORE INTO blobs VALUES (?1, ?2)", params![sha256, bytes])?;
        Ok(sha256)
    }

    fn blob(&self, sha256: &str) -> Result<Vec<u8>, JournalError> {
        self.lock()
            .query_row("SELECT bytes FROM blobs WHERE sha256 = ?1", [sha256], |row| row.get(0))
            .optional()?
            .ok_or_else(|| JournalError::Missing(format!("blob {sha256}")))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
