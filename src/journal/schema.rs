//! The tables.

/// Of runs: the format's own.
pub(super) const RUNS: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE runs (
  id TEXT PRIMARY KEY, guest TEXT NOT NULL, state TEXT NOT NULL, since TEXT NOT NULL, opened TEXT NOT NULL,
  closed TEXT, facts TEXT NOT NULL, stuck TEXT) STRICT;
CREATE UNIQUE INDEX one_open_run ON runs (guest) WHERE closed IS NULL;
CREATE TABLE leases (run TEXT PRIMARY KEY REFERENCES runs (id), epoch INTEGER NOT NULL, holder TEXT) STRICT;
CREATE TABLE plans (
  id INTEGER PRIMARY KEY, run TEXT NOT NULL REFERENCES runs (id), verb TEXT NOT NULL, digest TEXT NOT NULL,
  body TEXT NOT NULL, by TEXT NOT NULL, stored TEXT NOT NULL, outcome TEXT) STRICT;
CREATE TABLE events (
  run TEXT NOT NULL REFERENCES runs (id), seq INTEGER NOT NULL, epoch INTEGER NOT NULL, time TEXT NOT NULL,
  plan INTEGER, step INTEGER, kind TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (run, seq)) STRICT;
CREATE TABLE blobs (sha256 TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
";

/// A journal that keeps many runs is asked for one of them.
pub(super) const LATER: &str = "
CREATE INDEX IF NOT EXISTS plans_of_run ON plans (run);
CREATE INDEX IF NOT EXISTS runs_of_guest ON runs (guest);
";

/// Tables of batches; a journal that was made before there were any gets them when it is opened.
pub(super) const BATCHES: &str = "
CREATE TABLE IF NOT EXISTS batches (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, spec TEXT NOT NULL, progress TEXT NOT NULL, by TEXT NOT NULL,
  opened TEXT NOT NULL, closed TEXT, seq INTEGER NOT NULL) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_open_batch ON batches (name) WHERE closed IS NULL;
CREATE TABLE IF NOT EXISTS batch_items (
  batch INTEGER NOT NULL REFERENCES batches (id), item INTEGER NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (batch, item)) STRICT;
CREATE INDEX IF NOT EXISTS batch_news ON batch_items (batch, seq);
";
