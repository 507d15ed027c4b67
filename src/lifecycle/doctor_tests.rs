//! What `doctor` tells of simulated worlds, whole ones and broken ones.

#![expect(clippy::unwrap_used, reason = "tests")]

use hypervisors::{Hypervisor, MacAddr};

use super::doctor::Diagnosis;
use super::error::exit;
use super::gc_tests::CLONED;
use super::preflight::Verdict;
use super::tests::{Lab, assert_same};
use crate::journal::Holder;

/// Findings of a verdict: place, id, detail.
fn told(diagnosis: &Diagnosis, verdict: Verdict) -> Vec<(&str, &str, &str)> {
    let fits = diagnosis.findings.iter().filter(|one| one.finding.verdict == verdict);
    fits.map(|one| (one.place.as_str(), one.finding.id.as_str(), one.finding.detail.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_world_is_refused_nothing_and_left_as_it_is() {
    let lab = Lab::new();
    let before = lab.world();
    let effects = lab.sim().trace().unwrap().len();
    let diagnosis = lab.app.doctor(None).await.unwrap();
    assert_eq!((diagnosis.exit_code(), told(&diagnosis, Verdict::Refused)), (exit::DONE, vec![]));
    let passed: Vec<(&str, &str)> = told(&diagnosis, Verdict::Passed).iter().map(|one| (one.0, one.1)).collect();
    for expected in [
        ("controller", "tools"),
        ("controller", "state"),
        ("controller", "journal"),
        ("controller", "scratch"),
        ("controller", "leftovers"),
        ("here", "platform"),
        ("mercure", "power"),
        ("mercure", "ssh"),
        ("mercure", "address"),
    ] {
        assert!(passed.contains(&expected), "{expected:?} in {passed:?}");
    }
    assert_same(&before, &lab.world());
    assert_eq!(lab.sim().trace().unwrap().iter().filter(|entry| entry.op != "guest.run").count(), effects);
    let json = serde_json::to_value(&diagnosis).unwrap();
    assert_eq!(json["schema"], 1);
    let keys: Vec<&String> = json["findings"][0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["place", "id", "verdict", "detail", "remedy"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clone_would_refuse_is_told_with_its_remedy() {
    let lab = Lab::new();
    let mac: MacAddr = "02:00:00:00:00:99".parse().unwrap();
    let taken = "10.0.5.16".parse().unwrap();
    lab.sim().configure(|config| _ = config.neighbours.insert(taken, mac)).unwrap();
    let diagnosis = lab.app.doctor(Some("mercure")).await.unwrap();
    assert_eq!(diagnosis.exit_code(), exit::REFUSED);
    let refused = told(&diagnosis, Verdict::Refused);
    assert_eq!((refused.len(), refused[0].0, refused[0].1), (1, "mercure", "address"), "{refused:?}");
    assert!(
        diagnosis.findings.iter().all(|one| one.finding.verdict != Verdict::Refused || one.finding.remedy.is_some())
    );
    // The host alone is sound.
    assert_eq!(
        lab.app.doctor(Some("here")).await.unwrap().findings.iter().filter(|one| one.place == "here").count(),
        1
    );
    assert_eq!(lab.app.doctor(Some("mercur")).await.unwrap_err().0.code, exit::USAGE);
    lab.sim().destroy("mercure").await.unwrap();
    let off = lab.app.doctor(Some("mercure")).await.unwrap();
    assert!(told(&off, Verdict::Refused).iter().any(|one| one.1 == "power"), "{off:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_runs_and_leftovers_are_told() {
    let lab = Lab::at(&CLONED).await;
    let run = lab.journal().runs(true).unwrap().remove(0).id;
    let whole = lab.app.doctor(None).await.unwrap();
    assert!(told(&whole, Verdict::Passed).contains(&("mercure", "run", &format!("{run} is cloned"))), "{whole:?}");
    let journal = lab.journal();
    // A holder with another start time: that process is gone.
    let gone = Holder { started: 1, ..Holder::this_process() };
    let (epoch, _) = journal.holder(&run).unwrap();
    let lease = journal.acquire(&run, epoch, &gone).unwrap();
    journal.set_state(&lease, "upgrading", false).unwrap();
    let interrupted = lab.app.doctor(Some("mercure")).await.unwrap();
    let refused = interrupted.findings.iter().find(|one| one.finding.verdict == Verdict::Refused).unwrap();
    assert!(refused.finding.detail.contains("interrupted while upgrading"), "{refused:?}");
    assert!(refused.finding.remedy.as_ref().unwrap().contains("upgradectl resume mercure"), "{refused:?}");
    lab.lose_state();
    let lost = lab.app.doctor(None).await.unwrap();
    let warned = told(&lost, Verdict::Warning);
    assert!(warned.iter().any(|one| one.1 == "leftovers" && one.2.contains(&run)), "{warned:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_or_directory_that_cannot_be_used_is_refused() {
    let mut lab = Lab::new();
    drop(lab.journal());
    let database = rusqlite::Connection::open(lab.app.state.join("journal.db")).unwrap();
    database.execute("UPDATE meta SET value = '99' WHERE key = 'format'", []).unwrap();
    let file = lab.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    lab.app.scratch = file.join("scratch");
    let diagnosis = lab.app.doctor(Some("here")).await.unwrap();
    let refused: Vec<&str> = told(&diagnosis, Verdict::Refused).iter().map(|one| one.1).collect();
    assert_eq!(refused, ["journal", "scratch", "clone"], "{diagnosis:?}");
    // A host that is not there any more.
    std::fs::remove_dir_all(lab.app.state.join("sim")).unwrap();
    let gone = lab.app.doctor(Some("here")).await.unwrap();
    assert!(told(&gone, Verdict::Refused).iter().any(|one| (one.0, one.1) == ("here", "platform")), "{gone:?}");
}
