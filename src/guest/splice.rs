//! Changing a few places of a text and nothing else: replacements by byte range, lines commented out, hardware and
//! network addresses found as whole words. Line ends and everything that is not named stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use hypervisors::MacAddr;
use hypervisors::host::printable;

use super::{CloneSpec, GuestError};

/// What a line is commented out with. Recognised again, so that the second rewriting finds the first.
pub const OFF: &str = "# upgradectl: ";

/// Most reasons that are told of one file.
const REASONS: usize = 20;

/// Changes of one text, collected and then applied at once.
#[derive(Debug)]
pub struct Splices<'t> {
    text: &'t str,
    parts: BTreeMap<(usize, usize), String>,
    off: BTreeSet<usize>,
    why: Vec<String>,
}

impl<'t> Splices<'t> {
    /// No changes yet.
    pub fn new(text: &'t str) -> Self {
        Self { text, parts: BTreeMap::new(), off: BTreeSet::new(), why: Vec::new() }
    }

    /// Replaces a range; the later of two changes of the same range wins. An empty range inserts, one after the other.
    pub fn replace(&mut self, range: Range<usize>, with: impl Into<String>, why: impl Into<String>) {
        let part = self.parts.entry((range.start, range.end)).or_default();
        if range.is_empty() {
            part.push_str(&with.into());
        } else {
            *part = with.into();
        }
        self.because(why);
    }

    /// Comments out every line the range touches; other changes in these lines are dropped.
    pub fn comment_out(&mut self, range: Range<usize>, why: impl Into<String>) {
        let mut start = self.text[..range.start].rfind('\n').map_or(0, |at| at + 1);
        loop {
            self.off.insert(start);
            match self.text[start..range.end.max(start)].find('\n') {
                Some(at) if start + at + 1 < range.end => start += at + 1,
                _ => break,
            }
        }
        self.because(why);
    }

    fn because(&mut self, why: impl Into<String>) {
        // Reasons name what stands in the guest's files.
        let why = printable(&why.into());
        if self.why.len() <= REASONS && !self.why.contains(&why) {
            self.why.push(if self.why.len() == REASONS { "and so on".to_owned() } else { why });
        }
    }

    /// The new text and why; `None` if it is the same.
    pub fn finish(self) -> Option<(String, String)> {
        // Where the line of a place begins: the places come in order.
        let (mut line, mut seen) = (0, 0);
        let mut is_off = |at: usize| {
            line = self.text[seen..at].rfind('\n').map_or(line, |newline| seen + newline + 1);
            seen = at;
            self.off.contains(&line)
        };
        let mut parts: Vec<(Range<usize>, &str)> = self
            .parts
            .iter()
            .filter(|((start, end), _)| !is_off(*start) || start == end)
            .map(|((start, end), with)| (*start..*end, with.as_str()))
            .collect();
        parts.extend(self.off.iter().map(|start| (*start..*start, OFF)));
        parts.sort_by_key(|(range, with)| (range.start, range.end, *with == OFF));
        let (mut new, mut done) = (String::with_capacity(self.text.len() + 64), 0);
        for (range, with) in parts.into_iter().filter(|(range, with)| !(range.is_empty() && with.is_empty())) {
            if range.start < done {
                continue;
            }
            new.push_str(&self.text[done..range.start]);
            new.push_str(with);
            done = range.end;
        }
        new.push_str(&self.text[done..]);
        (new != self.text).then(|| (new, self.why.join(", ")))
    }
}

/// A logical line: physical lines joined by a backslash at their ends, comments and empty lines left out.
#[derive(Clone, Debug)]
pub struct Line {
    /// Where it is, without the last line end.
    pub range: Range<usize>,
    /// Number of its first physical line, from 1.
    pub number: usize,
}

/// The logical lines of a text. `comment`: the characters a comment line begins with.
pub fn lines(text: &str, comment: &[char]) -> Vec<Line> {
    let mut found = Vec::new();
    let (mut start, mut number) = (0, 0);
    let mut open: Option<Line> = None;
    for physical in text.split_inclusive('\n') {
        number += 1;
        let body = physical.trim_end_matches(['\n', '\r']);
        let range = start..start + body.len();
        start += physical.len();
        let mut line = match open.take() {
            Some(line) => Line { range: line.range.start..range.end, ..line },
            None if body.trim().is_empty() || body.trim_start().starts_with(comment) => continue,
            None => Line { range, number },
        };
        if body.ends_with('\\') {
            open = Some(line);
        } else {
            line.range.end = line.range.end.max(line.range.start);
            found.push(line);
        }
    }
    found.extend(open);
    found
}

/// A word in a text.
#[derive(Clone, Copy, Debug)]
pub struct Word<'t> {
    /// Byte offset in the text.
    pub start: usize,
    /// The word.
    pub text: &'t str,
}

impl Word<'_> {
    /// Where it is.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }
}

/// The words of a range: between white space; a backslash at a line's end counts as white space.
pub fn words(text: &str, range: Range<usize>) -> Vec<Word<'_>> {
    let mut found = Vec::new();
    let mut start = None;
    let slice = &text[range.clone()];
    for (at, c) in slice.char_indices() {
        let rest = &slice.as_bytes()[at..];
        let gap = c.is_whitespace() || rest == b"\\" || rest.starts_with(b"\\\n") || rest.starts_with(b"\\\r\n");
        match (gap, start) {
            (false, None) => start = Some(at),
            (true, Some(from)) => {
                found.push(Word { start: range.start + from, text: &slice[from..at] });
                start = None;
            }
            _ => {}
        }
    }
    if let Some(from) = start {
        found.push(Word { start: range.start + from, text: &slice[from..] });
    }
    found
}

/// Reads `A` or `A/p`: the address, the prefix length, and how long the address is in bytes.
pub fn address(word: &str) -> Option<(IpAddr, Option<u8>, usize)> {
    let (ip, prefix) = match word.split_once('/') {
        Some((ip, prefix)) => (ip, Some(prefix.parse().ok()?)),
        None => (word, None),
    };
    let parsed: IpAddr = ip.parse().ok()?;
    prefix.is_none_or(|prefix: u8| prefix <= if parsed.is_ipv4() { 32 } else { 128 }).then_some(())?;
    Some((parsed, prefix, ip.len()))
}

/// What a specification says of addresses, read once.
#[derive(Debug)]
pub struct Changes {
    addresses: BTreeMap<IpAddr, Option<IpAddr>>,
    macs: BTreeMap<MacAddr, MacAddr>,
}

impl Changes {
    /// Reads a specification; contradictions and changes of the address family are refused.
    pub fn new(spec: &CloneSpec) -> Result<Self, GuestError> {
        let wrong = |why: String| super::tree::unfit(Path::new(""), why, "correct the plan's addresses");
        let mut addresses = BTreeMap::new();
        for change in &spec.addresses {
            let old = change.old;
            if change.new.is_some_and(|new| new.is_ipv4() != old.is_ipv4()) {
                return Err(wrong(format!("address {old} shall become one of another family")));
            }
            if addresses.insert(old, change.new).is_some_and(|other| other != change.new) {
                return Err(wrong(format!("address {old} shall become two different things")));
            }
        }
        let mut macs = BTreeMap::new();
        for (old, new) in &spec.macs {
            macs.insert(old.parse().map_err(wrong)?, *new);
        }
        Ok(Self { addresses, macs })
    }

    /// What becomes of an address: `None`: it stays; `Some(None)`: it is taken off.
    pub fn address(&self, old: IpAddr) -> Option<Option<IpAddr>> {
        self.addresses.get(&old).copied()
    }

    /// Every address that changes.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, Option<IpAddr>)> {
        self.addresses.iter().map(|(old, new)| (*old, *new))
    }

    /// Replaces old hardware addresses in a range, in the notation (`:` or `-`, upper case) that is there.
    pub fn replace_macs(&self, splices: &mut Splices<'_>, range: Range<usize>) {
        let text = splices.text;
        let part = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'-'));
        for at in range.start..(range.end + 1).saturating_sub(17) {
            let Some(word) = text.get(at..at + 17) else { continue };
            let Ok(old) = word.parse::<MacAddr>() else { continue };
            let bytes = text.as_bytes();
            let whole = !part(at.checked_sub(1).and_then(|before| bytes.get(before))) && !part(bytes.get(at + 17));
            let Some(new) = self.macs.get(&old).filter(|_| whole) else { continue };
            let mut with = new.to_string();
            if word.contains('-') {
                with = with.replace(':', "-");
            }
            if word.contains(|c: char| c.is_ascii_uppercase()) {
                with = with.to_uppercase();
            }
            splices.replace(at..at + 17, with, format!("hardware address {old} becomes {new}"));
        }
    }
}

/// Why an address changes, in the words of a plan.
pub fn becomes(old: IpAddr, new: Option<IpAddr>) -> String {
    match new {
        Some(new) => format!("address {old} becomes {new}"),
        None => format!("address {old} is taken off"),
    }
}
