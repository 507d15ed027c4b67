//! What is said, held to what was recorded on FreeBSD 13.2 and with Linux' dump 0.4b47.

use super::said::{DumpSaid, Failure, RestoreSaid, verdict};

const RECORDED: &str = include_str!("../../../integration/jailhost/recordings/dump-restore.txt");

/// What followed a recorded command, up to the next one; `nth` of those that begin so, from 0.
fn recorded(command: &str, nth: usize) -> &'static str {
    let (at, _) = RECORDED.match_indices(&format!("\n$ {command}")).nth(nth).unwrap_or_else(|| panic!("{command}"));
    let after = &RECORDED[at + 3..];
    let body = &after[after.find('\n').unwrap() + 1..];
    let end = body.match_indices('\n').map(|(at, _)| at + 1).find(|at| body[*at..].starts_with(['$', '#']));
    &body[..end.unwrap_or(body.len())]
}

/// `[exit N]`, or `[exits: left N, right M]`.
fn exits(block: &str) -> (i32, i32) {
    let numbers: Vec<i32> = block
        .lines()
        .rev()
        .find(|line| line.starts_with("[exit"))
        .unwrap()
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    (numbers[0], *numbers.last().unwrap())
}

fn dumped(block: &str, snapshot: bool) -> DumpSaid {
    let mut said = DumpSaid::new(snapshot);
    let lines = block.split_once("[stderr of the left side]\n").map_or(block, |(_, left)| left);
    lines.lines().filter(|line| !line.starts_with("[exit")).for_each(|line| said.hear(line));
    said
}
fn restored(block: &str, snapshot: bool) -> RestoreSaid {
    let mut said = RestoreSaid::new(snapshot);
    let lines = block.split_once("[stderr of the left side]\n").map_or(block, |(right, _)| right);
    lines.lines().filter(|line| !line.starts_with("[exit")).for_each(|line| said.hear(line));
    said
}

/// A dump's recording with a restore that has nothing to say.
fn of_dump(command: &str, nth: usize, snapshot: bool) -> Result<Vec<String>, Failure> {
    let block = recorded(command, nth);
    verdict(&dumped(block, snapshot), exits(block).0, &RestoreSaid::new(snapshot), 0)
}
/// A restore's recording with a dump that went well.
fn of_restore(command: &str, nth: usize) -> Result<Vec<String>, Failure> {
    let good = dumped(recorded("dump -0aL -f /dev/null /dev/vtbd2", 0), true);
    let block = recorded(command, nth);
    assert!(block.split("[exit ").nth(1).unwrap().starts_with('0'), "restore lies: its status is 0");
    verdict(&good, 0, &restored(block, true), 0)
}

#[test]
fn live_copies_that_were_whole() {
    for command in ["dump -0uaL -C 16 -f - /src | restore -rf -", "dump -1uaL -C 16 -f - /src | restore -rf -"] {
        let block = recorded(command, 0);
        let (left, right) = exits(block);
        let dump = dumped(block, true);
        assert_eq!(verdict(&dump, left, &restored(block, true), right), Ok(vec![]), "{command}");
        assert!(dump.estimated().is_some());
    }
    let first = dumped(recorded("dump -0uaL -C 16 -f - /src", 0), true);
    assert_eq!(first.estimated(), Some(23046 << 10));
    assert_eq!(first.date(), Some("Sun Nov 22 01:43:12 2026"));
    assert_eq!(of_dump("dump -0aL -f /dev/null /dev/vtbd2", 0, true), Ok(vec![]));
    // Journaled soft updates; whole restores.
    assert_eq!(of_dump("timeout 120 dump -0aL", 0, true), Ok(vec![]));
    assert_eq!(of_restore("cd /data/x1 && restore -rf /data/d0", 0), Ok(vec![]));
    // Two of them in one recording.
    let both = recorded("TMPDIR=/data/t5 restore -rf /data/d0", 0).split_inclusive("[exit 0]\n");
    let good = || dumped(recorded("dump -0aL -f /dev/null /dev/vtbd2", 0), true);
    let judged: Vec<_> = both.map(|one| verdict(&good(), 0, &restored(one, true), 0)).collect();
    assert_eq!(judged, [Ok(vec![]), Ok(vec![])]);
}

#[test]
fn a_dump_that_quietly_was_none_of_a_snapshot() {
    let no_snap = of_dump("dump -0aL -f /dev/null /src", 0, true).unwrap_err();
    assert!(
        no_snap.why.contains("-L requested but snapshot location") && no_snap.help.contains(".snap"),
        "{no_snap:?}"
    );
    let unmounted = of_dump("umount /src; dump -0aL", 0, true).unwrap_err();
    assert!(unmounted.why.contains("unmounted"), "{unmounted:?}");
    // Live because nobody asked for more: natural.
    assert_eq!(of_dump("dump -0a -f /dev/null /src", 0, false), Ok(vec![]));
    assert!(of_dump("dump -0a -f /dev/null /src", 0, true).is_err());
}

#[test]
fn dumps_that_failed() {
    for (command, nth, word) in [
        ("dump -0aL -f /dev/null /src/etc", 0, "unmounted"),
        ("dump -0aL -f /dev/null /\n", 0, "unknown file system"),
        ("dump -0aL -f /dev/null /nosuch", 0, "No such file"),
        ("dump -0aZ -f - /src", 0, "exited with 1"),
        ("dump -0aL -f - /src | head -c 200000", 0, "exited with 3"),
        ("dump -0aL -f /dev/null /src", 2, "No space left"),
        ("su -m nobody", 0, "ermission denied"),
    ] {
        let failure = of_dump(command, nth, true).unwrap_err();
        assert!(failure.why.contains(word), "{command}: {failure:?}");
    }
    assert!(of_dump("dump -0aL -f /dev/null /src", 2, true).unwrap_err().help.contains("snapshot"));
    // Status 0 and no word of its end; a status of its own in a pipe that ends well.
    let mut said = DumpSaid::new(false);
    said.hear("  DUMP: dumping (Pass IV) [regular files]");
    assert!(verdict(&said, 0, &RestoreSaid::new(false), 0).unwrap_err().why.contains("DUMP IS DONE"));
    said.hear("  DUMP: DUMP IS DONE");
    said.hear("upgradectl-dump-status 3");
    assert!(verdict(&said, 0, &RestoreSaid::new(false), 0).unwrap_err().why.contains("exited with 3"));
}

#[test]
fn restores_that_lied() {
    for (command, nth, word, help) in [
        ("cd /data/x2 && head -c 11028480 /data/d0 | restore -rf", 0, "incomplete operations", "cut"),
        ("cd /data/x2 && head -c 11028480 /data/d0 | restore -ryf", 0, "incomplete operations", "cut"),
        ("cd /data/x3 && (head -c 21856960", 0, "Checksum error", ""),
        ("cd /data/x4 && restore", 0, "File exists", "not empty"),
        ("restore -rf /data/d0 & restore -rf", 0, "missing from directory", ""),
        ("cd /mnt2 && restore", 0, "No space left", "room"),
    ] {
        let failure = of_restore(command, nth).unwrap_err();
        assert!(failure.why.contains(word) && failure.help.contains(help), "{command}: {failure:?}");
        assert!(!failure.why.chars().any(char::is_control));
    }
    // Nobody notices this, restore least of all; the module says so.
    assert_eq!(of_restore("cd /data/x3 && (head -c 3000000 /data/d0", 0), Ok(vec![]));
}

/// dump and restore 0.4b47 on ext4, their standard error as it came.
const LINUX_WHOLE: &str = "  DUMP: Date of this level 0 dump: Thu Nov 26 14:09:03 2026\n  DUMP: Dumping /dev/loop0 (/src) to standard output\n  \
    DUMP: Label: none\n  DUMP: Writing 10 Kilobyte records\n  DUMP: mapping (Pass I) [regular files]\n  DUMP: mapping (Pass II) \
    [directories]\n  DUMP: estimated 22199 blocks.\n  DUMP: Volume 1 started with block 1 at: Thu Nov 26 14:09:03 2026\n  DUMP: \
    dumping (Pass III) [directories]\n  DUMP: dumping (Pass IV) [regular files]\n  DUMP: 12.50% done at 3 kB/s, finished in 0:07\n  \
    DUMP: Volume 1 completed at: Thu Nov 26 14:09:03 2026\n  DUMP: Volume 1 22220 blocks (21.70MB)\n  DUMP: 22220 blocks (21.70MB)\n  \
    DUMP: finished in less than a second\n  DUMP: Date of this level 0 dump: Thu Nov 26 14:09:03 2026\n  DUMP: Date this dump \
    completed:  Thu Nov 26 14:09:03 2026\n  DUMP: Average transfer rate: 0 kB/s\n  DUMP: DUMP IS DONE\n";

#[test]
fn linux() {
    let dump = dumped(LINUX_WHOLE, false);
    assert_eq!((dump.estimated(), dump.fraction()), (Some(22199 << 10), Some(0.125)));
    let tty = "restore: cannot open /dev/tty: No such device or address\n";
    let of = |said: &str, status| verdict(&dump, 0, &restored(&format!("{tty}{said}"), false), status);
    assert_eq!(of("", 0), Ok(vec![]));
    // A file that went while it was dumped: the comparison tells whether that is all.
    assert_eq!(of("./sparse: (inode 48) not found on tape\nexpected next file 48, got 50\n", 0).unwrap().len(), 1);
    for (said, status, help) in [
        (
            "./sparse: (inode 48) not found on tape\nWarning: End-of-input encountered while extracting ./big\n",
            0,
            "cut",
        ),
        ("restore: ./d: File exists\nrestore: ./d/f 1: cannot create file: Is a directory\n", 0, "not empty"),
        ("restore: write error extracting inode 47, name ./big\nwrite: No space left on device\n", 1, "room"),
        ("", 1, "logs"),
    ] {
        let failure = of(said, status).unwrap_err();
        assert!(failure.help.contains(help), "{failure:?}");
    }
    let reader_went = dumped("  DUMP: Broken pipe\n  DUMP: The ENTIRE dump is aborted.\n", false);
    let full = restored("write: No space left on device\n", false);
    assert!(verdict(&reader_went, 3, &full, 1).unwrap_err().why.starts_with("restore"), "who began it is named");
    let cannot = dumped("  DUMP: Cannot open /dev/vda\n  DUMP: The ENTIRE dump is aborted.\n", false);
    let nothing = restored("restore: Tape is not a dump tape\n", false);
    assert!(verdict(&cannot, 3, &nothing, 1).unwrap_err().why.starts_with("dump exited with 3"));
}

#[test]
fn a_login_that_talks_says_nothing_of_restore() {
    let said =
        restored("stdin: is not a tty\nupgradectl-restore-begins\ncannot open /dev/tty: Device not configured\n", true);
    assert_eq!(verdict(&dumped(recorded("dump -0aL -f /dev/null /dev/vtbd2", 0), true), 0, &said, 0), Ok(vec![]));
    let mut dump = dumped(recorded("dump -0aL -f /dev/null /dev/vtbd2", 0), true);
    dump.hear("stdin: is not a tty");
    assert_eq!(verdict(&dump, 0, &said, 0).unwrap().len(), 1);
    // From a snapshot nothing goes, and one jump is the snapshot itself.
    for line in [
        "./x: not found on tape\n",
        "expected next file 9, got 4\nexpected next file 12, got 11\n",
        "expected next file 9, got 0\n",
    ] {
        assert!(verdict(&dumped(LINUX_WHOLE, true), 0, &restored(line, true), 0).is_err(), "{line}");
    }
}

mod any {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever restore says that is not known to be harmless, in whatever company, is a failure.
        #[test]
        fn anything_else_is_a_failure(noise in "[a-z][a-z :/.]{3,40}", before in 0usize..3) {
            prop_assume!(!noise.contains("not found on tape"));
            let harmless = ["cannot open /dev/tty: x\n", "", "expected next file 9, got 4\n"];
            let said = format!("{}{noise}\n", harmless[before]);
            let noise = noise.trim();
            let harmless = noise.is_empty() || noise == "restore:" || noise.starts_with("cannot open /dev/tty: ");
            let judged = verdict(&dumped(LINUX_WHOLE, false), 0, &restored(&said, false), 0);
            prop_assert_eq!(judged.is_ok(), harmless);
        }
        #[test]
        fn any_text_is_heard(line in any::<String>()) {
            DumpSaid::new(true).hear(&line);
            RestoreSaid::new(false).hear(&line);
        }
    }
}
