//! The parsers against what FreeBSD 13.2 printed, and what preflight makes of facts.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use super::elf::{self, Built};
use super::etcupdate::{Action, Told};
use super::look::{HostFacts, SourceFacts, TreeFacts};
use super::world::{Old, Transcript, check_old, deleted, without};
use super::{Facts, Method, Release, Source, Wanted, look, preflight, update};
use crate::recipe::Verdict;

const ETCUPDATE: &str = include_str!("../fixtures/freebsd-13.2/etcupdate.txt");
const WORLD: &str = include_str!("../fixtures/freebsd-13.2/world.txt");
const TOOLS: &str = include_str!("../fixtures/freebsd-13.2/host-tools.txt");

/// Every recorded case: command, output, exit status.
fn recorded(text: &str) -> Vec<(String, String, i32)> {
    let mut cases: Vec<(String, String, i32)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            cases.push((command.to_owned(), String::new(), -1));
            open = true;
        } else if let Some((rest, status)) = line.split_once("[exit ").filter(|_| open) {
            let case = cases.last_mut().unwrap();
            case.1 += rest;
            case.2 = status.trim_end_matches(']').parse().unwrap();
            open = false;
        } else if open {
            let case = cases.last_mut().unwrap();
            case.1 += line;
            case.1.push('\n');
        }
    }
    cases
}

fn case(text: &str, command: &str, nth: usize) -> (String, i32) {
    let mut found = recorded(text).into_iter().filter(|case| case.0 == command);
    let case = found.nth(nth).unwrap_or_else(|| panic!("{command} was not recorded"));
    (case.1, case.2)
}

#[test]
fn every_recorded_merge_and_status_is_understood() {
    let mut seen = 0;
    for (command, output, status) in recorded(ETCUPDATE) {
        let merges = command.starts_with("etcupdate -") || command.starts_with("etcupdate status");
        let status_after = command.contains("etcupdate status -D $J");
        if !(merges || status_after) {
            continue;
        }
        seen += 1;
        let told = Told::read(&output);
        assert_eq!(told.other.is_empty(), status == 0, "{command}: {told:?}");
        assert_eq!(told.no_base(), output.starts_with("No previous tree"), "{command}");
    }
    assert!(seen >= 10, "{seen}");
}

#[test]
fn a_recorded_merge_counts_what_it_did() {
    let (output, status) = case(ETCUPDATE, "etcupdate -D /data/jails/ServerA -t /data/new.tbz", 1);
    let told = Told::read(&output);
    let count = |action| told.count(action);
    assert_eq!(status, 0);
    assert_eq!(
        (count(Action::Added), count(Action::Deleted), count(Action::Updated), count(Action::Merged)),
        (1, 1, 3, 3)
    );
    assert_eq!(told.conflicts().collect::<Vec<_>>(), ["/etc/login.conf", "/etc/newsyslog.conf"]);
    assert!(told.wants_newaliases() && told.warnings.len() == 1);
    let (dry, _) = case(ETCUPDATE, "etcupdate -n -D /data/jails/ServerA -t /data/new.tbz", 0);
    assert_eq!(Told::read(&dry), told);
    let (refused, status) = case(ETCUPDATE, "etcupdate -D /data/jails/ServerA -t /data/new.tbz", 2);
    assert_eq!(
        (status, Told::read(&refused).other),
        (1, vec!["Conflicts remain from previous update, aborting.".to_owned()])
    );
    let hostile = Told::read("  C /etc/\x1b[2J\nC /etc/x\n  Z /etc/x\n  C etc\n");
    assert_eq!((hostile.actions.len(), hostile.other.len()), (1, 3));
}

fn transcript(text: &str) -> Transcript {
    let mut transcript = Transcript::default();
    for piece in text.as_bytes().chunks(7) {
        transcript.feed(piece);
    }
    transcript
}

#[test]
fn the_frame_of_installworld_is_followed() {
    let (output, status) = case(WORLD, "make installworld DESTDIR=/data/jails/ServerA", 0);
    let whole = transcript(&output);
    assert!(status == 0 && whole.completed() && !whole.tripped());
    let cut = transcript(output.split("Installing everything completed").next().unwrap());
    assert!(!cut.completed());
    assert_eq!(cut.progress(), "Installing everything");
    let (output, status) = case(TOOLS, "make -C /usr/src installworld DESTDIR=/data/jails/ServerA", 0);
    let failed = transcript(&output);
    assert!(status == 2 && !failed.completed());
    assert_eq!(failed.cause(), "make: don't know how to make installworld. Stop");
    let busy = transcript(">>> Installing everything started on Sun\n---\n===> usr.bin/yes (install)\n");
    assert_eq!(busy.progress(), "Installing everything: usr.bin/yes");
    assert!(transcript("ld-elf.so.1: /lib/libc.so.7: version FBSD_1.7 required\n").tripped());
}

#[test]
fn what_is_old_is_read() {
    let (output, _) = case(WORLD, "make check-old DESTDIR=/data/jails/ServerA", 0);
    let libraries = vec!["/lib/libedit.so.7".to_owned()];
    assert_eq!(check_old(&output, "/data/jails/ServerA"), Old { libraries, ..Old::default() });
    let more = ">>> Checking for old files\n/j//etc/rc.d/x\nmake: warning\n/elsewhere/y\n>>> Checking for old directories\n/j/usr/games\n";
    let old = check_old(more, "/j/");
    assert_eq!(
        (old.files, old.libraries.len(), old.directories),
        (vec!["/etc/rc.d/x".to_owned()], 0, vec!["/usr/games".to_owned()])
    );
    let (output, _) = case(WORLD, "make delete-old -DBATCH_DELETE_OLD_FILES DESTDIR=/data/jails/ServerA", 0);
    assert!(deleted(&output) && !deleted(output.split(">>> Old directories removed").next().unwrap()));
    assert_eq!(
        without("# x\nWITHOUT_MAN=yes\n WITHOUT_SENDMAIL ?= 1\nWITH_X=1\nWITHOUT_CLEAN=\nWITHOUT_\n#WITHOUT_Y=1\n"),
        ["WITHOUT_MAN", "WITHOUT_SENDMAIL"]
    );
    let said = "x\nbeen downloaded, however, because the files have been modified\nlocally:\n/etc/a\n/etc/b\nThe following:\n/etc/c\n";
    assert_eq!(update::kept(said), ["/etc/a", "/etc/b"]);
}

/// An ELF file with a note of FreeBSD's.
pub(crate) fn binary(narrow: bool, osrel: Option<u32>) -> Vec<u8> {
    let mut file = vec![0u8; 4096];
    file[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', if narrow { 1 } else { 2 }, 1, 1, 9]);
    let mut put =
        |at: usize, value: u32, size: usize| file[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    let (table, size, count, header) = if narrow { (28, 42, 44, 32u32) } else { (32, 54, 56, 56) };
    put(table, 64, 4);
    put(size, header, 2);
    put(count, 2, 2);
    let note = 64 + header as usize;
    put(note, 4, 4);
    put(note + if narrow { 4 } else { 8 }, 512, 4);
    put(note + if narrow { 16 } else { 32 }, 48, 4);
    for (at, value) in [(512, 8), (516, 4), (520, 2), (532, 0), (536, 8), (540, 4), (544, 1)] {
        put(at, value, 4);
    }
    if let Some(osrel) = osrel {
        put(556, osrel, 4);
        file[524..532].copy_from_slice(b"FreeBSD\0");
        file[548..556].copy_from_slice(b"FreeBSD\0");
    }
    file
}

#[test]
fn binaries_say_what_they_were_built_for() {
    assert_eq!(elf::built(&binary(false, Some(1_302_001))), Some(Built { narrow: false, osrel: Some(1_302_001) }));
    assert_eq!(elf::built(&binary(true, Some(491_000))), Some(Built { narrow: true, osrel: Some(491_000) }));
    assert_eq!(elf::built(&binary(true, None)), Some(Built { narrow: true, osrel: None }));
    let mut linux = binary(false, None);
    linux[7] = 0;
    assert_eq!(elf::built(&linux), None);
    assert_eq!(elf::built(b"#!/bin/sh"), None);
    let mut answer = Vec::new();
    for (name, osrel) in [("/usr/local/bin/a", 491_000), ("/usr/local/bin/b", 492_000), ("/usr/local/bin/c", 1_400_097)]
    {
        let mut padded = name.as_bytes().to_vec();
        padded.resize(512, 0);
        answer.extend(padded);
        answer.extend(binary(true, Some(osrel)));
    }
    let found = elf::foreign(&answer[..answer.len() - 1], 14);
    assert_eq!((found.seen, found.narrow), (2, 2));
    assert_eq!(found.older.get(&4), Some(&(2, "/usr/local/bin/a".to_owned())));
}

proptest::proptest! {
    #[test]
    fn no_file_brings_the_reader_down(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600), at in 0usize..64) {
        let mut file = binary(bytes.len() % 2 == 0, Some(1));
        let end = (at + bytes.len()).min(file.len());
        file[at.max(6)..end.max(6)].copy_from_slice(&bytes[..end.max(6) - at.max(6)]);
        let _ = elf::built(&file);
        let _ = elf::built(&bytes);
    }
}

fn good() -> (Facts, Wanted) {
    let release = Release { name: "14.1-RELEASE-p5".into(), osrel: 1_401_000 };
    let facts = Facts {
        host: HostFacts {
            kernel: Some(1_401_000),
            running: "14.1-RELEASE-p5".into(),
            installed: "14.1-RELEASE-p5".into(),
            world: "14.1-RELEASE-p6".into(),
            arch: "amd64".into(),
            cpus: 4,
            securelevel: Some(-1),
            compat: vec!["compat_freebsd12".into(), "compat_freebsd_32bit".into()],
            tools: ["make", "etcupdate", "mergemaster", "freebsd-update"].map(str::to_owned).to_vec(),
            without: Vec::new(),
        },
        source: SourceFacts {
            built: Some(release.name.clone()),
            release: Some(release),
            objects: Some("/usr/obj/usr/src/amd64.amd64".into()),
            missing: Vec::new(),
        },
        tree: TreeFacts {
            release: Some(Release { name: "13.2-RELEASE".into(), osrel: 1_302_001 }),
            base: true,
            pkg: true,
            ..TreeFacts::default()
        },
        ..Facts::default()
    };
    let source = Source { src: "/usr/src".into(), obj: None };
    (facts, Wanted { method: Method::Source(source), build: false, base: None, packages: true })
}

/// What a change of the facts comes to: id, verdict and remedy of what does not pass.
fn amiss(change: impl FnOnce(&mut Facts, &mut Wanted)) -> Vec<(String, Verdict, String)> {
    let (mut facts, mut wanted) = good();
    change(&mut facts, &mut wanted);
    let found =
        preflight(&facts, &wanted, Path::new("/data/jails/A--k3f9"), Path::new("/data/jails/.upgradectl/A--k3f9"));
    let found = found.into_iter().filter(|finding| finding.verdict != Verdict::Pass);
    found.map(|finding| (finding.id, finding.verdict, format!("{}: {}", finding.detail, finding.remedy))).collect()
}

#[test]
fn what_speaks_against_it_is_told_with_a_remedy() {
    assert_eq!(amiss(|_, _| ()), []);
    type Change = fn(&mut Facts, &mut Wanted);
    let cases: [(Change, &str, Verdict, &str); 17] = [
        (|f, _| f.source.release = None, "freebsd.source", Verdict::Refuse, "upgrade.src"),
        (|f, _| f.host.kernel = Some(1_400_097), "freebsd.kernel", Verdict::Refuse, "upgrade the host first"),
        (
            |f, _| {
                f.host.kernel = Some(1_302_001);
                f.host.running = "13.2-RELEASE".into();
            },
            "freebsd.kernel",
            Verdict::Refuse,
            "boot the host into its installed kernel, 14.1",
        ),
        (|f, _| f.tree.release.as_mut().unwrap().osrel = 1_500_000, "freebsd.release", Verdict::Refuse, "downgraded"),
        (|f, _| f.tree.release = None, "freebsd.release", Verdict::Refuse, "is it a FreeBSD system"),
        (
            |f, _| f.source.missing.push("bin/sh/sh".into()),
            "freebsd.world",
            Verdict::Refuse,
            "make -C /usr/src buildworld",
        ),
        (
            |f, _| f.source.built = Some("14.1-RELEASE-p4".into()),
            "freebsd.world",
            Verdict::Refuse,
            "the source is 14.1-RELEASE-p5",
        ),
        (
            |f, w| {
                f.source.built = None;
                w.build = true;
            },
            "freebsd.world",
            Verdict::Warn,
            "it is built first",
        ),
        (
            |f, _| f.host.without = vec!["WITHOUT_MAN".into()],
            "freebsd.src_conf",
            Verdict::Warn,
            "delete-old takes that away",
        ),
        (|f, _| f.host.securelevel = Some(1), "freebsd.securelevel", Verdict::Refuse, "kern_securelevel_enable"),
        (|f, _| f.tree.flags = vec!["/bin/rcp".into()], "freebsd.flags", Verdict::Warn, "chflags noschg is a step"),
        (|f, _| f.tree.outside = vec!["tmp".into()], "freebsd.links", Verdict::Refuse, "relative link"),
        (|f, _| f.tree.base = false, "freebsd.base", Verdict::Refuse, "no tree of 13.2-RELEASE: base ="),
        (|f, _| f.host.tools.clear(), "freebsd.merge", Verdict::Refuse, "no etcupdate"),
        (|f, _| f.tree.pkg = false, "freebsd.packages", Verdict::Warn, "old libraries stay"),
        (
            |f, _| f.foreign.older = [(4, (3, "/usr/local/sbin/httpd".to_owned()))].into(),
            "freebsd.compat",
            Verdict::Warn,
            "misc/compat4x; the host's kernel lacks COMPAT_FREEBSD4",
        ),
        (
            |_, w| w.base = Some(PathBuf::from("/data/my base")),
            "freebsd.path",
            Verdict::Refuse,
            "absolute path of letters",
        ),
    ];
    for (change, id, verdict, says) in cases {
        let found = amiss(change);
        let hit = found.iter().find(|finding| finding.0 == id).unwrap_or_else(|| panic!("{id}: {found:?}"));
        assert!(hit.1 == verdict && hit.2.contains(says), "{id}: {hit:?}");
    }
}

#[test]
fn the_tool_that_merges_is_that_of_the_target() {
    let old = |f: &mut Facts, _: &mut Wanted| {
        f.source.release = Some(Release { name: "6.2-RELEASE-p6".into(), osrel: 602_000 })
    };
    let found = amiss(|f, w| {
        old(f, w);
        f.source.built = Some("6.2-RELEASE-p6".into());
        f.tree.release = Some(Release { name: "4.x".into(), osrel: 491_000 });
        f.tree.base = false;
    });
    assert_eq!(found.iter().map(|f| (f.0.as_str(), f.1)).collect::<Vec<_>>(), [("freebsd.merge", Verdict::Warn)]);
    let binary = amiss(|_, w| w.method = Method::Binary(None));
    assert_eq!(binary[0].0, "freebsd.merge");
    let (facts, _) = good();
    assert_eq!(facts.target(&Method::Binary(None)).unwrap().name, "14.1-RELEASE");
}

#[test]
fn scripts_survive_a_csh_login_shell() {
    for script in [look::HOST, look::SOURCE, look::TREE, elf::BINARIES] {
        assert!(!script.contains(['\n', '!']), "{script}");
    }
}
