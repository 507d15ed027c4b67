//! What dump and restore say, line by line, and whether that is success. Pure.
//!
//! Success is: dump's exit status 0, *and* its line `DUMP IS DONE`, *and* nothing from restore but what is known to be harmless,
//! *and* its status 0. Recorded on FreeBSD 13.2: restore's status is 0 for a stream that ends in the middle, a full disk, a
//! target that is not empty, a damaged header; dump's is 0 for a live file system where a snapshot was asked for. dump(8) goes on
//! after up to 32 read errors, too. Damage inside a file's data nobody notices.
//!
//! Of a file system that is dumped live (no snapshot), files that go meanwhile are told by restore as `not found on tape`. That is
//! natural there, and so no failure yet: the comparison of both sides decides ([`super::compare`]). From a snapshot it is one.

use super::dialect::DUMP_STATUS;
use crate::host::printable;

/// Lines kept for people.
const SHOWN: usize = 6;

/// What restore's script says right before it becomes restore: what came earlier is the login's own noise.
pub(super) const BEGINS: &str = "upgradectl-restore-begins";

/// Bytes of a tape block, in which dump counts (`protocols/dumprestore.h`, TP_BSIZE).
const BLOCK: u64 = 1024;

/// What dump has said so far.
#[derive(Clone, Debug, Default)]
pub struct DumpSaid {
    snapshot: bool,
    status: Option<i32>,
    done: bool,
    live: Option<String>,
    wrong: Vec<String>,
    odd: Vec<String>,
    estimated: Option<u64>,
    fraction: Option<f64>,
    date: Option<String>,
}

/// What restore has said so far.
#[derive(Clone, Debug, Default)]
pub struct RestoreSaid {
    snapshot: bool,
    jumps: u64,
    gone: u64,
    wrong: Vec<String>,
    count: u64,
}

/// Why a copy is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened, in one line.
    pub why: String,
    /// What the operator can do.
    pub help: String,
}

impl DumpSaid {
    /// Nothing yet; `snapshot`: it was asked for one.
    pub fn new(snapshot: bool) -> Self {
        Self { snapshot, ..Self::default() }
    }

    /// Takes a line of its standard error.
    pub fn hear(&mut self, line: &str) {
        if let Some(status) = line.strip_prefix(DUMP_STATUS) {
            self.status = status.trim().parse().ok();
            return;
        }
        let line = line.trim();
        let text = line.strip_prefix("DUMP: ").unwrap_or(line).trim_start();
        if text.is_empty() || self.notes(text) {
            return;
        }
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let bad = [
            "WARNING",
            "rror",
            "annot",
            "an't",
            "abort",
            "roken",
            "enied",
            "fail",
            "Fail",
            "No space",
            "not found",
            "nknown",
            "bad ",
        ];
        let list = if has(&bad) { &mut self.wrong } else { &mut self.odd };
        if list.len() < SHOWN {
            list.push(shown(text));
        }
    }

    /// What is understood and harmless.
    fn notes(&mut self, text: &str) -> bool {
        if text == "DUMP IS DONE" {
            self.done = true;
        } else if text.starts_with("WARNING: should use -L when dumping live") {
            self.live = Some(shown(text));
        } else if let Some(rest) = text.strip_prefix("Date of this level ") {
            self.date = self.date.take().or_else(|| rest.split_once(" dump: ").map(|(_, date)| shown(date)));
        } else if let Some(rest) = text.strip_prefix("estimated ") {
            let blocks = rest.split(' ').next().and_then(|blocks| blocks.parse::<u64>().ok());
            self.estimated = blocks.and_then(|blocks| blocks.checked_mul(BLOCK));
        } else if let Some((percent, _)) = text.split_once("% done") {
            let percent: Option<f64> = percent.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
            self.fraction = percent.map(|percent| percent / 100.0).or(self.fraction);
        } else {
            // FreeBSD 13.2 and Linux 0.4b47, recorded; `making an empty one`: dumpdates of our own, at first.
            let known = [
                "Date ",
                "Dumping ",
                "mapping (Pass ",
                "Cache ",
                "dumping (Pass ",
                "DUMP: ",
                "finished in ",
                "level ",
                "Closing ",
                "Label: ",
                "Writing ",
                "Volume ",
                "Average transfer rate",
                "WARNING: no file `",
            ];
            let blocks = text.bytes().take_while(u8::is_ascii_digit).count();
            return known.iter().any(|known| text.starts_with(known))
                || (blocks > 0 && text[blocks..].starts_with(" blocks ("));
        }
        true
    }

    /// Bytes it means to write.
    pub fn estimated(&self) -> Option<u64> {
        self.estimated
    }
    /// How far it says it is, 0..=1; every five minutes.
    pub fn fraction(&self) -> Option<f64> {
        self.fraction
    }
    /// Its date, as ctime(3) of the source writes it.
    pub fn date(&self) -> Option<&str> {
        self.date.as_deref()
    }
    /// Its exit status, where it says it itself; else the command's.
    pub(super) fn status(&self, of_command: i32) -> i32 {
        self.status.unwrap_or(of_command)
    }
}

impl RestoreSaid {
    /// Nothing yet; `snapshot`: what it reads was dumped from one.
    pub fn new(snapshot: bool) -> Self {
        Self { snapshot, ..Self::default() }
    }

    /// Takes a line of its standard error.
    pub fn hear(&mut self, line: &str) {
        let mut text = line.trim();
        if text == BEGINS {
            *self = Self::new(self.snapshot);
            return;
        }
        // A question answers itself where there is no terminal, and what follows stands on the same line.
        while let Some(rest) = text.strip_prefix("abort? [yn]").or_else(|| text.strip_prefix("restore: ")) {
            text = rest.trim_start();
        }
        if text.is_empty() || text.starts_with("cannot open /dev/tty: ") {
            return;
        }
        // The snapshot's own inode is on no tape; live, inodes go at any time. `got 0` is a lost place in the stream.
        if let Some(jump) = text.strip_prefix("expected next file ").filter(|jump| !jump.ends_with("got 0")) {
            self.jumps += 1;
            if (self.jumps == 1 || !self.snapshot) && jump.contains(", got ") {
                return;
            }
        }
        if !self.snapshot && text.ends_with("not found on tape") {
            self.gone += 1;
            return;
        }
        self.count += 1;
        if self.wrong.len() < SHOWN {
            self.wrong.push(shown(text));
        }
    }
}

/// Whether a copy is one: what has to be told of it, or why it is none. Statuses are those of the commands.
pub fn verdict(
    dump: &DumpSaid,
    dump_status: i32,
    restore: &RestoreSaid,
    restore_status: i32,
) -> Result<Vec<String>, Failure> {
    let status = dump.status(dump_status);
    let said = |lines: &[String]| if lines.is_empty() { "nothing".to_owned() } else { lines.join(" / ") };
    // A stream that breaks off makes restore complain, and a restore that breaks off makes dump: the one that did not begin it
    // says so.
    let cut = dump.wrong.iter().any(|line| line.contains("Broken pipe"));
    if restore_status != 0 && (cut || status == 0) || restore.count > 0 && (cut || (status == 0 && dump.done)) {
        let more = restore.count.saturating_sub(restore.wrong.len() as u64);
        let more = if more > 0 { format!(" (and {more} lines more)") } else { String::new() };
        let why = format!("restore (status {restore_status}) said: {}{more}", said(&restore.wrong));
        return Err(Failure { help: remedy(&restore.wrong), why });
    }
    if status != 0 {
        let why = format!("dump exited with {status} and said: {}", said(&dump.wrong));
        return Err(Failure { help: remedy(&dump.wrong), why });
    }
    if let Some(line) = dump.wrong.first() {
        let help = if line.contains("-L") { ASKED_SNAPSHOT.to_owned() } else { remedy(&dump.wrong) };
        return Err(Failure { why: format!("dump said: {}", dump.wrong.join(" / ")), help });
    }
    if let Some(line) = dump.live.as_ref().filter(|_| dump.snapshot) {
        return Err(Failure {
            why: format!("dump was to take a snapshot and said: {line}"),
            help: ASKED_SNAPSHOT.into(),
        });
    }
    if !dump.done {
        let why = "dump ended with 0 without the words DUMP IS DONE".to_owned();
        return Err(Failure { why, help: "look at the source's log, and begin again".into() });
    }
    let mut told = dump.odd.iter().map(|line| format!("dump said: {line}")).collect::<Vec<_>>();
    if restore.gone > 0 {
        told.push(format!("{} files went while they were dumped", restore.gone));
    }
    Ok(told)
}

const ASKED_SNAPSHOT: &str =
    "it dumped the live file system: see that .snap in its root is a directory and that it is mounted";

/// What helps, by what was said.
fn remedy(said: &[String]) -> String {
    let has = |word: &str| said.iter().any(|line| line.contains(word));
    let help = if has("No space left") && has("snapshot") {
        "remove a snapshot of that file system on the source (at most twenty are possible), or make room there"
    } else if has("No space left") || has("Disc quota") || has("out of inodes") {
        "make room in the target's file system"
    } else if has("File exists") || has("Is a directory") || has("Not a directory") {
        "the target was not empty: empty it"
    } else if has("ermission denied") || has("not permitted") {
        "log in as root, or with sudo = true"
    } else if has("nknown file system") || has("annot open") {
        "see that the device exists and is a file system that dump knows"
    } else if has("End-of-input") || has("incomplete operations") || has("Broken pipe") {
        "the stream was cut: see to the link and begin again"
    } else if has("read error") || has("Input/output error") {
        "the source's disk does not read: look at its log before anything else"
    } else {
        "look at both machines' logs, and begin again"
    };
    help.to_owned()
}

fn shown(text: &str) -> String {
    printable(text).chars().take(200).collect()
}
