//! What happens inside the guest from clone to commit beside its identity, on the simulated platform.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hypervisors::sim::{Fault, How};
use hypervisors::{DiskSource, Hypervisor, Power};

use super::error::exit;
use super::invocation::Options;
use super::query;
use super::state::{State, Verb};
use super::tests::Lab;
use crate::engine::Op;
use crate::journal::Journal;
use crate::steps::Action;

const STAMP: &str = "var/lib/systemd/timers/stamp-logrotate.timer";

impl Lab {
    fn volume(&self, name: &str) -> PathBuf {
        self.app.state.join("sim/volumes").join(name)
    }

    /// The clone's root, while there is a run.
    fn clone_root(&self) -> PathBuf {
        let run = self.journal().runs(true).unwrap().remove(0);
        self.volume(&format!("{}-root", run.id))
    }

    pub(super) fn journal(&self) -> std::sync::Arc<dyn Journal> {
        self.app.journal().unwrap()
    }
}

fn stamp(path: PathBuf, ago_s: u64) -> SystemTime {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - ago_s);
    fs::File::options().append(true).create(true).open(&path).unwrap().set_modified(time).unwrap();
    time
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn detached_data_timers_and_queues_are_put_right() {
    let lab = Lab::new();
    let original = lab.volume("mercure");
    fs::create_dir_all(lab.volume("mercure-mail").join("lib-sympa/archive")).unwrap();
    symlink("/srv/mail/lib-sympa", original.join("var/lib/sympa")).unwrap();
    fs::create_dir_all(original.join("var/lib/systemd/timers")).unwrap();
    stamp(original.join(STAMP), 500);

    lab.good(Verb::Clone, State::Cloned).await;
    let clone = lab.clone_root();
    assert!(clone.join("srv/mail/lib-sympa/archive").is_dir(), "services find the directories of detached data");
    assert!(!clone.join("srv/mail/archive/2024.mbox").exists(), "but none of its files");
    lab.good(Verb::Upgrade, State::Upgraded).await;
    lab.good(Verb::Verify, State::Verified).await;

    // A package replaced the link; a job ran on each side.
    fs::remove_file(clone.join("var/lib/sympa")).unwrap();
    fs::create_dir(clone.join("var/lib/sympa")).unwrap();
    stamp(clone.join(STAMP), 100);
    let production = stamp(original.join(STAMP), 300);
    lab.good(Verb::Promote, State::Promoted).await;
    assert_eq!(fs::read_link(clone.join("var/lib/sympa")).unwrap(), PathBuf::from("/srv/mail/lib-sympa"));
    assert_eq!(clone.join(STAMP).metadata().unwrap().modified().unwrap(), production);
    assert!(!clone.join("srv/mail/lib-sympa").exists(), "empty directories of the skeleton are gone");

    lab.good(Verb::Rollback, State::Upgraded).await;
    assert!(clone.join("var/lib/sympa").is_dir(), "as the upgrade left it");
    assert!(clone.join("srv/mail/lib-sympa").is_dir());
    lab.good(Verb::Verify, State::Verified).await;
    lab.good(Verb::Promote, State::Promoted).await;
    let aside = clone.join("var/lib/upgradectl/aside");
    assert!(aside.exists(), "the queues set aside stay until commit");
    lab.good(Verb::Commit, State::Committed).await;
    assert!(!aside.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_knows_older_conffiles_and_shows_its_sources() {
    let lab = Lab::new();
    let older = "etc/dovecot/dovecot.conf.dpkg-old";
    fs::write(lab.volume("mercure").join(older), "old\n").unwrap();
    lab.sim().configure(|config| config.conffiles = vec!["/etc/postfix/main.cf".into()]).unwrap();
    lab.good(Verb::Clone, State::Cloned).await;
    lab.good(Verb::Upgrade, State::Upgraded).await;
    let run = lab.journal().runs(true).unwrap().remove(0).id;
    let pasts = query::pasts(&*lab.journal(), &run).unwrap();
    let found: Vec<_> = query::conffiles(&pasts).into_iter().map(|file| (file.path, file.older)).collect();
    assert_eq!(found, [("/etc/dovecot/dovecot.conf".to_owned(), true), ("/etc/postfix/main.cf".to_owned(), false)]);
    let sources = pasts.iter().flat_map(|past| &past.plan.steps).find_map(|step| match &step.op {
        Op::Do(Action::DebianSources(sources)) => sources.diff.clone(),
        _ => None,
    });
    assert!(sources.unwrap().contains("+deb http://mirror.example/debian trixie main"));
    // Another attempt does not take what the first one left for older.
    lab.good(Verb::Upgrade, State::Upgraded).await;
    let pasts = query::pasts(&*lab.journal(), &run).unwrap();
    let found: Vec<_> = query::conffiles(&pasts).into_iter().map(|file| file.older).collect();
    assert_eq!(found, [true, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_with_rename_brings_the_guest_back_to_its_paths() {
    let lab = Lab::new();
    for (verb, state) in [
        (Verb::Clone, State::Cloned),
        (Verb::Upgrade, State::Upgraded),
        (Verb::Verify, State::Verified),
        (Verb::Promote, State::Promoted),
    ] {
        lab.good(verb, state).await;
    }
    let clone = lab.clone_root();
    let release = fs::read_to_string(clone.join("etc/os-release")).unwrap();
    // The controller loses sight of the rename half-way: resume finishes it.
    let fault = Fault { op: "storage.rename".into(), object: None, nth: 1, how: How::Partial };
    lab.sim().inject(fault).unwrap();
    let options = Options { yes: true, rename: true, ..Options::default() };
    let stopped = lab.app.change(Verb::Commit, "mercure", &options).await;
    assert_eq!((stopped.code, stopped.state), (exit::PARTWAY, Some(State::Committing)), "{:?}", stopped.error);
    let finish = lab.app.change(Verb::Resume, "mercure", &options).await;
    assert_eq!((finish.code, finish.state), (exit::DONE, Some(State::Committed)), "{:?}", finish.error);
    assert!(finish.outage_s > 0.0);
    assert!(!clone.exists());
    assert_eq!(fs::read_to_string(lab.volume("mercure").join("etc/os-release")).unwrap(), release);
    let facts = lab.sim().facts("mercure").await.unwrap().unwrap();
    assert_eq!((facts.power, facts.autostart, facts.mark), (Power::On, true, None));
    assert_eq!(facts.disks[0].source, DiskSource::Directory(lab.volume("mercure")));
    for entry in lab.sim().trace().unwrap() {
        assert!(entry.conflicts.is_empty(), "{entry:?}");
    }
}
