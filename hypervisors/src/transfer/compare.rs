//! Both sides once more, name by name: what dump and restore did not tell is seen here, damage inside a file's data excepted.
//!
//! The source lives. What changed there since the dump began is told, and is no error: its own times say so, or those of a
//! directory above it. Not compared: a directory's size, a link's permissions (systems differ), times, what dump leaves out
//! (`nodump`, `.snap`), sockets (restore skips them), and what is mounted below.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::listing::{Entry, entry, list};
use super::tree::{Place, SYMTABLE};
use crate::host::{Host, blocking, printable};
use crate::{Error, Result};

/// Differences named.
const EXAMPLES: usize = 5;
/// Directories remembered because what is below them follows from them.
const REMEMBERED: usize = 200_000;
/// chflags(2): what dump and restore carry: nodump, immutable, append, opaque, undeletable of users; archived, immutable, append,
/// undeletable of root. ZFS sets others by itself.
const FLAGS: u32 = 0x1f | 0x17_0000;
const NODUMP: u32 = 1;

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Both<'a> {
    /// The server.
    pub source: &'a dyn Host,
    /// Mount point there.
    pub mount: &'a Path,
    /// Where the copy is.
    pub target: &'a dyn Host,
    /// In which directory.
    pub place: &'a Place,
    /// Mount points below, relative to `mount`.
    pub inside: &'a [PathBuf],
    /// Second, by the source's clock, in which the dump began.
    pub since: i64,
    /// Directory of this machine for what does not fit memory.
    pub spool: &'a Path,
}

/// How two trees differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Entries looked at.
    pub entries: u64,
    /// Differences that are failures.
    pub wrong: Differences,
    /// Differences because the source went on.
    pub changed: Differences,
    /// Entries that are not copied: `nodump`, sockets.
    pub left_out: u64,
    /// Flags were seen on both sides.
    pub flags: bool,
}

/// Some differences.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differences {
    /// How many.
    pub count: u64,
    /// The first of them, in words.
    pub examples: Vec<String>,
}

impl Differences {
    fn add(&mut self, words: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(words());
        }
    }
}

/// Lists both sides and compares.
pub async fn compare(both: &Both<'_>) -> Result<Compared> {
    let doing = format!("compare {} of {} with its copy", both.mount.display(), both.source.name());
    let mut leave_out = both.inside.to_vec();
    leave_out.extend([PathBuf::from(".snap"), PathBuf::from(SYMTABLE)]);
    let mount = Place { root: both.mount.to_owned(), below: PathBuf::new() };
    let (source, target) = tokio::join!(
        list(both.source, &mount, &leave_out, true, both.spool),
        list(both.target, both.place, &leave_out, false, both.spool)
    );
    let (source, target, since) = (source?, target?, both.since);
    blocking(doing, move |doing| merged(source, target, since).map_err(|error| Error::io(doing, error))).await
}

/// A record as it was sorted: name, zero, fields.
fn parts(record: &[u8]) -> (&[u8], Option<Entry>) {
    let zero = record.iter().position(|byte| *byte == 0).unwrap_or(record.len());
    (&record[..zero], entry(record.get(zero + 1..).unwrap_or_default()))
}

/// Goes through both in order.
pub(super) fn merged(
    source: impl Iterator<Item = io::Result<Vec<u8>>>,
    target: impl Iterator<Item = io::Result<Vec<u8>>>,
    since: i64,
) -> io::Result<Compared> {
    let mut source = source.peekable();
    let mut target = target.peekable();
    let mut seen = Seen { since, ..Seen::default() };
    loop {
        // Names, not whole records: a name that another begins with comes first in either order.
        let order = match (source.peek(), target.peek()) {
            (None, None) => break,
            (Some(Ok(one)), Some(Ok(other))) => parts(one).0.cmp(parts(other).0),
            (_, None) | (Some(Err(_)), _) => std::cmp::Ordering::Less,
            (None, _) | (_, Some(Err(_))) => std::cmp::Ordering::Greater,
        };
        let one = if order.is_le() { source.next().transpose()? } else { None };
        let other = if order.is_ge() { target.next().transpose()? } else { None };
        seen.compared.entries += 1;
        match (one.as_deref().map(parts), other.as_deref().map(parts)) {
            (Some((name, one)), Some((_, other))) => seen.both(name, one, other),
            (Some((name, one)), None) => seen.missing(name, one),
            (None, Some((name, other))) => seen.more(name, other),
            (None, None) => (),
        }
    }
    Ok(seen.compared)
}

#[derive(Default)]
struct Seen {
    since: i64,
    compared: Compared,
    /// Directories of the source that dump leaves out with all below.
    nodump: HashSet<Vec<u8>>,
    /// Directories that came, or whose names changed, since.
    touched: HashSet<Vec<u8>>,
}

/// The directories above a name, nearest first.
fn above(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &name[..at])
}

fn remember(set: &mut HashSet<Vec<u8>>, name: &[u8]) {
    if set.len() < REMEMBERED {
        set.insert(name.to_owned());
    }
}

impl Seen {
    fn fresh(&self, entry: &Entry) -> bool {
        entry.mtime >= self.since || entry.ctime >= self.since
    }

    fn both(&mut self, name: &[u8], one: Option<Entry>, other: Option<Entry>) {
        // The second line of a name with a newline has no fields on either side.
        let (Some(one), Some(other)) = (one, other) else {
            if one.is_some() != other.is_some() {
                self.compared.wrong.add(|| format!("{} was not listed whole", shown(name)));
            }
            return;
        };
        if one.kind == b'd' && self.fresh(&one) {
            remember(&mut self.touched, name);
        }
        if one.kind == b'd' && one.flags.is_some_and(|flags| flags & NODUMP != 0) {
            remember(&mut self.nodump, name);
        }
        self.compared.flags |= one.flags.is_some() && other.flags.is_some();
        let differing = differing(&one, &other);
        if differing.is_empty() {
            return;
        }
        let differences = if self.fresh(&one) { &mut self.compared.changed } else { &mut self.compared.wrong };
        differences.add(|| format!("{}: {}", shown(name), differing.join(", ")));
    }

    fn missing(&mut self, name: &[u8], one: Option<Entry>) {
        let Some(one) = one else {
            return self.compared.wrong.add(|| format!("{} is missing", shown(name)));
        };
        let nodump =
            one.flags.is_some_and(|flags| flags & NODUMP != 0) || above(name).any(|up| self.nodump.contains(up));
        if nodump || one.kind == b's' {
            if one.kind == b'd' {
                remember(&mut self.nodump, name);
            }
            self.compared.left_out += 1;
            return;
        }
        // A directory that was given another name keeps the old times of what is in it.
        let came = self.fresh(&one) || above(name).any(|up| self.touched.contains(&came_as(up)));
        if came {
            if one.kind == b'd' {
                remember(&mut self.touched, &came_as(name));
                remember(&mut self.touched, name);
            }
            self.compared.changed.add(|| format!("{} is new", shown(name)));
        } else {
            self.compared.wrong.add(|| format!("{} is missing", shown(name)));
        }
    }

    fn more(&mut self, name: &[u8], other: Option<Entry>) {
        // It went, and the directory that it was in says that something did; below one that went, all did.
        let parent = above(name).next().unwrap_or_default();
        if self.touched.contains(parent) {
            if other.is_some_and(|other| other.kind == b'd') {
                remember(&mut self.touched, name);
            }
            self.compared.changed.add(|| format!("{} went", shown(name)));
        } else {
            self.compared.wrong.add(|| format!("{} is not on the source", shown(name)));
        }
    }
}

/// The mark of a directory that is new as a whole; no name has a zero byte.
fn came_as(name: &[u8]) -> Vec<u8> {
    [name, b"\0"].concat()
}

fn differing(one: &Entry, other: &Entry) -> Vec<String> {
    let mut words = Vec::new();
    let kind = |kind: u8| match kind {
        b'f' => "a file",
        b'd' => "a directory",
        b'l' => "a link",
        b'p' => "a fifo",
        b's' => "a socket",
        b'c' | b'b' => "a device",
        _ => "something else",
    };
    if one.kind != other.kind {
        return vec![format!("{} there, {} in the copy", kind(one.kind), kind(other.kind))];
    }
    if matches!(one.kind, b'f' | b'l') && one.size != other.size {
        words.push(format!("{} bytes there, {} in the copy", one.size, other.size));
    }
    if (one.uid, one.gid) != (other.uid, other.gid) {
        words.push(format!("owner {}:{} there, {}:{} in the copy", one.uid, one.gid, other.uid, other.gid));
    }
    if one.kind != b'l' && one.mode != other.mode {
        words.push(format!("mode {:04o} there, {:04o} in the copy", one.mode, other.mode));
    }
    if let (Some(here), Some(there)) = (one.flags.map(|flags| flags & FLAGS), other.flags.map(|flags| flags & FLAGS))
        && here != there
    {
        words.push(format!("flags {here:#x} there, {there:#x} in the copy"));
    }
    words
}

fn shown(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    printable(name.strip_prefix('.').unwrap_or(&name)).chars().take(200).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Since 1000. `NAME FIELDS` per line.
    fn judged(source: &[&str], target: &[&str]) -> Compared {
        let sorted = |lines: &[&str]| {
            let record =
                |line: &&str| line.split_once(" ").map(|(name, fields)| format!("{name}\0{fields}").into_bytes());
            let mut records: Vec<Vec<u8>> = lines.iter().map(|line| record(line).unwrap()).collect();
            records.sort();
            records.into_iter().map(Ok)
        };
        merged(sorted(source), sorted(target), 1000).unwrap()
    }
    fn wrong(compared: &Compared) -> Vec<&str> {
        assert_eq!(compared.wrong.count as usize, compared.wrong.examples.len());
        compared.wrong.examples.iter().map(String::as_str).collect()
    }

    #[test]
    fn two_of_a_kind() {
        let tree = [
            "./a 40755 512 0 0 5 5 0",
            "./a/x 100644 7 1 2 5 5 131072",
            "./a-b 120777 3 0 0 5 5 0",
            ". 40755 512 0 0 5 5 0",
        ];
        let other = [
            ". d 755 4096 0 0 9.5 9.5 -",
            "./a d 755 4096 0 0 9.5 9.5 -",
            "./a/x f 644 7 1 2 5.0 9.9 -",
            "./a-b l 755 3 0 0 5.0 9.9 -",
        ];
        let compared = judged(&tree, &other);
        assert_eq!((compared.entries, compared.flags), (4, false));
        assert_eq!((compared.wrong, compared.changed), (Differences::default(), Differences::default()));
        assert!(judged(&tree, &tree).flags);
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let root = ". 40755 512 0 0 5 5 0";
        for (source, target, words) in [
            (&[root, "./x 100644 7 0 0 5 5 0"][..], &[root][..], "/x is missing"),
            (&[root], &[root, "./x 100644 7 0 0 5 5 0"], "/x is not on the source"),
            (&["./x 100644 7 0 0 5 5 0"], &["./x 100644 6 0 0 5 5 0"], "/x: 7 bytes there, 6 in the copy"),
            (&["./x 100644 7 0 0 5 5 0"], &["./x 40755 6 0 0 5 5 0"], "/x: a file there, a directory in the copy"),
            (&["./x 100644 7 0 0 5 5 0"], &["./x 100644 7 0 5 5 5 0"], "/x: owner 0:0 there, 0:5 in the copy"),
            (&["./x 104755 7 0 0 5 5 0"], &["./x 100755 7 0 0 5 5 0"], "/x: mode 4755 there, 0755 in the copy"),
            (
                &["./x 100644 7 0 0 5 5 131072"],
                &["./x 100644 7 0 0 5 5 2048"],
                "/x: flags 0x20000 there, 0x0 in the copy",
            ),
        ] {
            let compared = judged(source, target);
            assert_eq!((wrong(&compared), compared.changed.count), (vec![words], 0));
        }
    }

    #[test]
    fn what_lives_on_is_told_and_no_error() {
        let compared = judged(
            &[
                ". 40755 512 0 0 1005 1005 0",
                "./log 100644 900 0 0 1003 1003 0",
                "./new 100644 1 0 0 1004 1004 0",
                // Came here by another name: its own ctime says so, what is in it is as old as it was.
                "./moved 40755 512 0 0 5 1002 0",
                "./moved/old 100644 1 0 0 5 5 0",
                "./moved/old/deep 100644 1 0 0 5 5 0",
                // Something came into this one, which excuses nothing else in it.
                "./spool 40755 512 0 0 1001 1001 0",
                "./spool/lost 100644 1 0 0 5 5 0",
                "./still 40755 512 0 0 5 5 0",
            ],
            &[
                ". 40755 512 0 0 1005 1005 0",
                "./log 100644 800 0 0 999 2000 0",
                "./gone 40755 512 0 0 5 5 0",
                "./gone/too 100644 1 0 0 5 5 0",
                "./spool 40755 512 0 0 1001 1001 0",
                "./still 40755 512 0 0 5 5 0",
                "./still/strange 100644 1 0 0 5 5 0",
            ],
        );
        assert_eq!(wrong(&compared), ["/spool/lost is missing", "/still/strange is not on the source"]);
        assert_eq!(compared.changed.count, 7);
        assert_eq!(compared.changed.examples[0], "/gone went");
    }

    #[test]
    fn what_dump_leaves_out_is_not_missed() {
        let compared = judged(
            &[
                ". 40755 512 0 0 5 5 0",
                "./cache 40755 512 0 0 5 5 1",
                "./cache/big 100644 1 0 0 5 5 0",
                "./cache/d 40755 1 0 0 5 5 0",
                "./cache/d/x 100644 1 0 0 5 5 0",
                "./nodump 100644 7 0 0 5 5 1",
                "./sock 140755 0 0 0 5 5 0",
            ],
            &[". 40755 512 0 0 5 5 0"],
        );
        assert_eq!((wrong(&compared).len(), compared.left_out), (0, 6));
    }

    #[test]
    fn names_with_newlines_and_broken_lines() {
        let two = ["./a 100644 7 0 0 5 5 0", "second/line "];
        assert_eq!(judged(&two, &two).wrong.count, 0);
        assert_eq!(wrong(&judged(&two, &two[..1])), ["second/line is missing"]);
        assert_eq!(wrong(&judged(&["./a 100644 7 0 0 5 5 0"], &["./a nonsense"])), ["/a was not listed whole"]);
    }
}
