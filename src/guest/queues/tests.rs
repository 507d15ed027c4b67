//! Queues in real directories.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

const RUN: &str = "mercure--k3f9";

/// Everything below a directory: kind, mode, time and content by path; directories' times only where `times`.
fn snapshot(root: &Path, times: bool) -> BTreeMap<PathBuf, String> {
    fn add(root: &Path, at: &Path, times: bool, to: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let mut what = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
            if meta.is_file() {
                what += &format!(" {}.{} x{} ", meta.mtime(), meta.mtime_nsec(), meta.nlink());
                what += &String::from_utf8_lossy(&fs::read(&path).unwrap());
            } else if meta.is_symlink() {
                what += &format!(" -> {}", fs::read_link(&path).unwrap().display());
            } else if times {
                what += &format!(" {}.{}", meta.mtime(), meta.mtime_nsec());
            }
            to.insert(path.strip_prefix(root).unwrap().to_owned(), what);
            if meta.is_dir() {
                add(root, &path, times, to);
            }
        }
    }
    let mut all = BTreeMap::new();
    add(root, root, times, &mut all);
    all
}

/// A guest with a postfix queue (directories and modes by postfix-files of 3.7.11-0+deb12u1) and at jobs.
fn guest() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let spool = root.path().join("var/spool/postfix");
    for (name, mode) in [
        ("maildrop", 0o730),
        ("incoming", 0o700),
        ("active", 0o700),
        ("deferred", 0o700),
        ("defer", 0o700),
        ("public", 0o710),
    ] {
        fs::create_dir_all(spool.join(name)).unwrap();
        fs::set_permissions(spool.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for hash in ["1", "A"] {
        fs::create_dir(spool.join("deferred").join(hash)).unwrap();
        fs::create_dir(spool.join("defer").join(hash)).unwrap();
    }
    for (path, text) in [("maildrop/8D0C320F2F", "m"), ("deferred/1/1B2C3", "d"), ("defer/1/1B2C3", "why")] {
        fs::write(spool.join(path), text).unwrap();
        fs::set_permissions(spool.join(path), fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::create_dir_all(root.path().join("var/spool/cron/atjobs")).unwrap();
    fs::write(root.path().join("var/spool/cron/atjobs/a00001019b2a3c"), "job").unwrap();
    fs::write(root.path().join("var/spool/cron/atjobs/.SEQ"), "1").unwrap();
    fs::create_dir_all(root.path().join("var/lib")).unwrap();
    symlink("/etc", root.path().join("var/spool/cups")).unwrap();
    root
}

fn tree(root: &tempfile::TempDir) -> Tree {
    Tree::open(root.path()).unwrap()
}

#[test]
fn known_queues_are_found_and_counted() {
    let root = guest();
    let queues = found(&tree(&root)).unwrap();
    let short: Vec<_> =
        queues.iter().map(|queue| (queue.service.as_str(), queue.directories.len(), queue.messages)).collect();
    assert_eq!(short, [("postfix", 5, 2), ("at", 1, 1)]);
    assert!(fits("*-H", "1pXyZ-H") && !fits("*-H", "1pXyZ-D") && !fits("ab*ba", "aba") && fits("envelope", "envelope"));
    assert_eq!(queue_directory("queue_directory = /srv/px\n"), Some("srv/px".into()));
    assert_eq!(queue_directory("queue_directory = $x/../y\nqueue_directory_x = /a/b"), None);
}

#[test]
fn jobs_of_at_on_freebsd_are_a_queue() {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in
        [("var/at/jobs/c00001019b2a3c", "job"), ("var/at/jobs/.lockfile", "1"), ("var/at/spool/c00002", "")]
    {
        fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
        fs::write(root.path().join(path), text).unwrap();
    }
    // What cron(8) is told itself is no job.
    fs::create_dir_all(root.path().join("var/cron/tabs")).unwrap();
    let queues = found(&tree(&root)).unwrap();
    assert_eq!(queues.len(), 1);
    assert_eq!((queues[0].directories.len(), queues[0].messages), (2, 1), "{queues:?}");
    assert!(!directories().unwrap().iter().any(|path| path.starts_with("var/cron")));
}

#[test]
fn aside_and_back_is_identity_and_both_can_be_repeated() {
    let root = guest();
    let tree = tree(&root);
    let before = snapshot(root.path(), false);
    assert_eq!(is_set_aside(&tree, RUN).unwrap(), Aside::Absent);
    assert!(set_aside(&tree, RUN).unwrap());
    assert!(!set_aside(&tree, RUN).unwrap());
    assert_eq!(is_set_aside(&tree, RUN).unwrap(), Aside::Present);
    assert!(found(&tree).unwrap().iter().all(|queue| queue.messages == 0));
    let spool = root.path().join("var/spool/postfix");
    assert_eq!(spool.join("maildrop").metadata().unwrap().mode() & 0o7777, 0o730);
    assert!(spool.join("deferred/A").is_dir(), "the top level stays");
    assert!(root.path().join("var/lib/upgradectl/aside").join(RUN).join("var/spool/postfix/deferred/1/1B2C3").exists());
    // Mail that comes up in the clone does not survive; the queue that is put back does.
    fs::write(spool.join("maildrop/CLONE"), "").unwrap();
    assert!(put_back(&tree, RUN).unwrap());
    assert!(!put_back(&tree, RUN).unwrap());
    assert_eq!(is_set_aside(&tree, RUN).unwrap(), Aside::Absent);
    assert_eq!(snapshot(root.path(), false), before);
}

#[test]
fn discarding_leaves_the_empty_queues_only() {
    let root = guest();
    let tree = tree(&root);
    set_aside(&tree, RUN).unwrap();
    assert!(discard(&tree, RUN).unwrap());
    assert!(!discard(&tree, RUN).unwrap());
    assert!(!root.path().join("var/lib/upgradectl").exists());
    assert_eq!(is_set_aside(&tree, RUN).unwrap(), Aside::Absent);
}

/// What a cut leaves, made by hand from the whole state: each is finished by either way.
#[test]
fn every_cut_can_be_finished_and_taken_back() {
    let maildrop = "var/spool/postfix/maildrop";
    let aside = format!("var/lib/upgradectl/aside/{RUN}/{maildrop}");
    let done = format!("var/lib/upgradectl/aside/{RUN}.done");
    let cuts: [&[(&str, &str, &str)]; 6] = [
        // Set aside: the record of completion is missing; also the last rename; also the one before; also the empty one.
        &[("rm", &done, "")],
        &[("rm", &done, ""), ("mv", maildrop, "~new")],
        &[("rm", &done, ""), ("mv", maildrop, "~new"), ("back", maildrop, "")],
        &[("rm", &done, ""), ("rmdir", maildrop, ""), ("back", maildrop, "")],
        // Put back: the empty one is out of the way; the queue is back, the empty one not yet removed.
        &[("rm", &done, ""), ("mv", maildrop, "~old")],
        &[("rm", &done, ""), ("mv", maildrop, "~old"), ("back", maildrop, "")],
    ];
    for (number, cut) in cuts.iter().enumerate() {
        for finish in [true, false] {
            let root = guest();
            let tree = tree(&root);
            let before = snapshot(root.path(), false);
            set_aside(&tree, RUN).unwrap();
            let whole = snapshot(root.path(), false);
            let at = |path: &str| root.path().join(path);
            for (what, path, suffix) in *cut {
                match *what {
                    "rm" => fs::remove_file(at(path)).unwrap(),
                    "rmdir" => fs::remove_dir(at(path)).unwrap(),
                    "mv" => fs::rename(at(path), at(&format!("{aside}{suffix}"))).unwrap(),
                    _ => fs::rename(at(&aside), at(path)).unwrap(),
                }
            }
            assert_eq!(is_set_aside(&tree, RUN).unwrap(), Aside::Partial);
            if finish {
                set_aside(&tree, RUN).unwrap();
                let mut now = snapshot(root.path(), false);
                now.retain(|path, _| !path.to_str().unwrap().contains("~old"));
                let no_time = |all: BTreeMap<PathBuf, String>| all.into_keys().collect::<Vec<_>>();
                assert_eq!(no_time(now), no_time(whole), "cut {number}");
            }
            put_back(&tree, RUN).unwrap();
            assert_eq!(snapshot(root.path(), false), before, "cut {number}, finished {finish}");
        }
    }
}

#[test]
fn a_list_of_the_guests_own_making_moves_nothing() {
    let root = guest();
    let tree = tree(&root);
    set_aside(&tree, RUN).unwrap();
    let list = root.path().join("var/lib/upgradectl/aside").join(format!("{RUN}.list"));
    for text in [r#"[{"path":"etc","aside":"usr"}]"#, r#"[{"path":"../x","aside":"y"}]"#, "nonsense"] {
        fs::write(&list, text).unwrap();
        assert!(put_back(&tree, RUN).is_err() && discard(&tree, RUN).is_err(), "{text}");
    }
}

#[test]
fn links_lead_nowhere() {
    let root = guest();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("mine"), "").unwrap();
    let spool = root.path().join("var/spool/postfix");
    fs::remove_dir(spool.join("active")).unwrap();
    symlink(outside.path(), spool.join("active")).unwrap();
    symlink(outside.path(), spool.join("deferred/out")).unwrap();
    symlink(".", spool.join("deferred/loop")).unwrap();
    nix::unistd::mkfifo(&spool.join("deferred/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let tree = tree(&root);
    let other = tempfile::tempdir().unwrap();
    let to = Tree::open(other.path()).unwrap();
    for queue in found(&tree).unwrap() {
        assert!(!queue.directories.contains(&"var/spool/postfix/active".into()));
        mirror(&tree, &to, &queue).unwrap();
    }
    let copied = other.path().join("var/spool/postfix/deferred");
    assert!(copied.join("out").is_symlink() && !copied.join("fifo").exists());
    set_aside(&tree, RUN).unwrap();
    put_back(&tree, RUN).unwrap();
    set_aside(&tree, RUN).unwrap();
    discard(&tree, RUN).unwrap();
    assert!(outside.path().join("mine").exists());
}

#[test]
fn a_mirror_is_exact_and_copies_once() {
    let (from, to) = (guest(), guest());
    let queue = &found(&tree(&from)).unwrap()[0];
    let old = to.path().join("var/spool/postfix");
    fs::write(old.join("maildrop/OTHER"), "not in the original").unwrap();
    fs::create_dir_all(old.join("deferred/1/1B2C3x/deep")).unwrap();
    fs::remove_file(old.join("defer/1/1B2C3")).unwrap();
    fs::create_dir(old.join("defer/1/1B2C3")).unwrap();
    fs::write(old.join("active/.upgradectl-mirror"), "cut").unwrap();
    let spool = from.path().join("var/spool/postfix");
    fs::hard_link(spool.join("deferred/1/1B2C3"), spool.join("deferred/A/same")).unwrap();

    let first = mirror(&tree(&from), &tree(&to), queue).unwrap();
    assert_eq!((first.files, first.removed), (4, 2));
    for directory in &queue.directories {
        assert_eq!(snapshot(&to.path().join(directory), true), snapshot(&from.path().join(directory), true));
    }
    fs::remove_file(spool.join("deferred/A/same")).unwrap();
    mirror(&tree(&from), &tree(&to), queue).unwrap();
    let again = mirror(&tree(&from), &tree(&to), queue).unwrap();
    assert_eq!(again, Mirrored { files: 3, ..Mirrored::default() });

    fs::remove_dir_all(&spool).unwrap();
    mirror(&tree(&from), &tree(&to), queue).unwrap();
    assert_eq!(fs::read_dir(old.join("maildrop")).unwrap().count(), 0, "what the original lacks is empty");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Any queue: aside and back is identity, and a mirror of it is it.
    #[test]
    fn any_queue_survives(files in proptest::collection::btree_map("[a-c]{1,2}(/[a-c]{1,2}){0,2}", "[a-z]{0,8}", 0..12)) {
        let (root, other) = (guest(), guest());
        let deferred = "var/spool/postfix/deferred";
        for (path, text) in &files {
            let path = root.path().join(deferred).join(path);
            // A path below a file cannot be made: such a case just has fewer files.
            if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.is_dir() {
                let _ = fs::write(path, text);
            }
        }
        let tree = tree(&root);
        let before = snapshot(root.path(), false);
        for queue in found(&tree).unwrap() {
            mirror(&tree, &Tree::open(other.path()).unwrap(), &queue).unwrap();
        }
        prop_assert_eq!(snapshot(&other.path().join(deferred), true), snapshot(&root.path().join(deferred), true));
        set_aside(&tree, RUN).unwrap();
        put_back(&tree, RUN).unwrap();
        prop_assert_eq!(snapshot(root.path(), false), before);
    }
}
