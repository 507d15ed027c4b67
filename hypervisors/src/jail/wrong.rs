//! Where something stands in a text, and what is wrong there.

use std::fmt;

use crate::host::printable;

/// Characters that are told of something wrong.
const LONGEST: usize = 300;

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Path of the file.
    pub file: String,
    /// Line, from 1; 0 if it is about the whole file.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Place {
    /// The place of a byte of a file's text.
    pub(super) fn of(file: &str, text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Self { file: file.to_owned(), line, column: before[start..].chars().count() + 1 }
    }

    /// The place of a byte, by the positions at which the lines of the text begin.
    pub(super) fn by(file: &str, text: &str, lines: &[usize], at: usize) -> Self {
        let line = lines.partition_point(|start| *start <= at);
        let start = line.checked_sub(1).map_or(0, |line| lines[line]);
        let column = text.get(start..at).map_or(0, |before| before.chars().count()) + 1;
        Self { file: file.to_owned(), line: line.max(1), column }
    }

    /// A whole file.
    pub(super) fn whole(file: &str) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&printable(&self.file)),
            line => write!(f, "{}:{line}:{}", printable(&self.file), self.column),
        }
    }
}

/// What is wrong with a configuration, where, and what helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Wrong {
    /// Where.
    pub place: Place,
    /// What is wrong there.
    pub what: String,
    /// What the operator can do.
    pub help: Option<String>,
}

impl Wrong {
    /// Something wrong in a place.
    pub(super) fn new(place: Place, what: impl Into<String>) -> Self {
        // It tells of what stands in the file, whatever that is, and however long.
        let mut what = printable(&what.into());
        if let Some((end, _)) = what.char_indices().nth(LONGEST) {
            what.truncate(end);
            what.push('…');
        }
        Self { place, what, help: None }
    }

    /// Adds what the operator can do.
    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The positions at which the lines of a text begin.
pub(super) fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// Bytes a configuration may have; real ones are a few KiB.
pub(super) const LIMIT: usize = 1 << 20;

/// Refuses a text that no operator wrote.
pub(super) fn sane(file: &str, text: &str) -> Result<(), Wrong> {
    if text.len() > LIMIT {
        let what = format!("it has {} bytes, more than the {LIMIT} allowed", text.len());
        return Err(Wrong::new(Place::whole(file), what));
    }
    match text.find('\0') {
        Some(at) => Err(Wrong::new(Place::of(file, text, at), "a NUL character").help("take it out")),
        None => Ok(()),
    }
}
