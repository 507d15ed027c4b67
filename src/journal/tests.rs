#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::super::*;
use super::*;

fn journal() -> (tempfile::TempDir, SqliteJournal) {
    let dir = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(&dir.path().join("state")).unwrap();
    (dir, journal)
}

fn opened(journal: &SqliteJournal) -> Lease {
    journal.open_run("mercure--k3f9", "mercure", "cloning", &json!({}), &Holder::this_process()).unwrap()
}

#[test]
fn a_guest_has_one_open_run() {
    let (_dir, journal) = journal();
    let lease = opened(&journal);
    let again = journal.open_run("mercure--aaaa", "mercure", "cloning", &json!({}), &Holder::this_process());
    assert!(matches!(again, Err(JournalError::Open { run, .. }) if run == "mercure--k3f9"));
    journal.set_state(&lease, "aborted", true).unwrap();
    journal.open_run("mercure--aaaa", "mercure", "cloning", &json!({}), &Holder::this_process()).unwrap();
}

#[test]
fn a_lost_lease_writes_nothing() {
    let (_dir, journal) = journal();
    let old = opened(&journal);
    let new = journal.acquire(&old.run, old.epoch, &Holder::this_process()).unwrap();
    let before = journal.events(&old.run).unwrap().len();
    assert!(matches!(
        journal.append(&old, None, None, EventKind::Note, &json!(1)),
        Err(JournalError::Lost(run)) if run == old.run
    ));
    assert!(matches!(journal.set_state(&old, "cloned", false), Err(JournalError::Lost(_))));
    assert_eq!(journal.events(&old.run).unwrap().len(), before);
    journal.append(&new, None, None, EventKind::Note, &json!(1)).unwrap();
    assert!(matches!(journal.acquire(&old.run, old.epoch, &Holder::this_process()), Err(JournalError::Held(_))));
    journal.release(&new).unwrap();
    assert!(matches!(journal.append(&new, None, None, EventKind::Note, &json!(1)), Err(JournalError::Lost(_))));
}

#[test]
fn what_was_written_is_read_after_reopening() {
    let (dir, journal) = journal();
    let lease = opened(&journal);
    let plan = journal.store_plan(&lease, "clone", "5f2c91", &json!({"steps": []}), "me", "cloning").unwrap();
    journal.append(&lease, Some(plan), Some(0), EventKind::Intent, &json!({"found": null})).unwrap();
    let sha = journal.put_blob(b"as it was").unwrap();
    journal.finish_plan(&lease, plan, "done", "cloned", false).unwrap();
    drop(journal);
    let journal = SqliteJournal::open_read_only(&dir.path().join("state")).unwrap().unwrap();
    assert_eq!(journal.blob(&sha).unwrap(), b"as it was");
    assert_eq!(journal.plans(&lease.run).unwrap()[0].outcome.as_deref(), Some("done"));
    assert_eq!(journal.run(&lease.run).unwrap().unwrap().state, "cloned");
    let seqs: Vec<i64> = journal.events(&lease.run).unwrap().iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as i64).collect::<Vec<_>>());
}

#[test]
fn a_newer_format_is_refused() {
    let (dir, journal) = journal();
    journal.lock().execute("UPDATE meta SET value = '99'", []).unwrap();
    drop(journal);
    let state = dir.path().join("state");
    assert!(matches!(SqliteJournal::open(&state), Err(JournalError::Newer { found: 99, .. })));
    assert!(matches!(SqliteJournal::open_read_only(&state), Err(JournalError::Newer { found: 99, .. })));
}

#[test]
fn the_state_directory_is_private() {
    let (dir, _journal) = journal();
    let mode = fs::metadata(dir.path().join("state")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_file_in_place_of_the_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::write(&state, "").unwrap();
    let error = SqliteJournal::open(&state).unwrap_err().to_string();
    assert!(error.contains("state"), "{error}");
}
