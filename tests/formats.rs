//! Every journal format ever shipped still loads: its runs, its stored plans, what became of their steps, its blobs.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use upgradectl::journal::{Journal, SqliteJournal};
use upgradectl::lifecycle::query;

#[test]
fn format_1_loads() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/journal-format-1/journal.db");
    let state = tempfile::tempdir().unwrap();
    std::fs::copy(fixture, state.path().join("journal.db")).unwrap();
    let journal = SqliteJournal::open(state.path()).unwrap();
    let run = journal.runs(true).unwrap().pop().unwrap();
    assert_eq!((run.guest.as_str(), run.state.as_str()), ("mercure", "upgraded"));
    let verbs: Vec<String> = journal.plans(&run.id).unwrap().into_iter().map(|plan| plan.verb).collect();
    assert_eq!(verbs, ["clone", "upgrade", "verify", "promote", "rollback"]);
    let pasts = query::pasts(&journal, &run.id).unwrap();
    assert!(pasts.iter().all(|past| !past.plan.steps.is_empty() && !past.irreversible()));
    let status = query::status(&journal, &run).unwrap();
    assert_eq!(status.next, ["verify", "upgrade", "abort"]);
    let definition = run.facts["definition"].as_str().unwrap();
    assert!(journal.blob(definition).unwrap().starts_with(b"{"));
}
