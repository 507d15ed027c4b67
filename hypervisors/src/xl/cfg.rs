//! The text of an xl.cfg(5), read as Xen's own parser (libxlu_cfg) reads it, with the place of everything in it. Pure.
//!
//! `NAME = VALUE` or `NAME += VALUE`, one to a line or separated by `;`; a value is a string, a number or a list of values,
//! which may go over lines. Invariants: every span lies on character borders of the text; what xl refuses is refused here
//! (Python, Windows line ends, a comment that ends the file without a line end), with its place and what helps; what xl reads
//! as something else than it says (octal and hexadecimal escapes, which libxlu drops or refuses) is refused too.

use std::fmt;
use std::ops::Range;

/// Bytes a definition may have; real ones are a few KiB.
const LIMIT: usize = 1 << 20;
/// What is wrong with a text, where, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Line, from 1; 0 if it is about the whole text.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
    /// What the operator can do.
    pub help: Option<String>,
}

impl Wrong {
    /// Something wrong with the whole text.
    pub fn new(what: impl Into<String>) -> Self {
        Self { line: 0, what: what.into(), help: None }
    }
    /// Something wrong in a line.
    pub fn at(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into(), help: None }
    }
    /// Adds what the operator can do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.what),
            line => write!(f, "line {line}: {}", self.what),
        }
    }
}

impl std::error::Error for Wrong {}

/// A text that was read.
#[derive(Clone, Debug)]
pub struct Cfg {
    settings: Vec<Setting>,
}

/// One `NAME = VALUE`.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The name.
    pub name: String,
    /// `+=`: joined to what the name had before.
    pub add: bool,
    /// The value.
    pub value: Value,
    /// From the name to the end of the value.
    pub span: Range<usize>,
    /// Line of the name, from 1.
    pub line: usize,
}

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string or a number.
    Atom(Atom),
    /// A list.
    List(List),
}

/// A string or a number.
#[derive(Clone, Debug)]
pub struct Atom {
    /// What it says.
    pub text: String,
    /// Where it stands, quotes included.
    pub span: Range<usize>,
    /// Its quotes; `None`: a number.
    pub quote: Option<char>,
    /// Line, from 1.
    pub line: usize,
    /// Where each byte of `text` comes from, and the end.
    pub(super) places: Vec<usize>,
}

impl Atom {
    /// Where a part of what it says stands in the text.
    pub fn place(&self, part: Range<usize>) -> Range<usize> {
        self.places[part.start]..self.places[part.end]
    }
}

/// A list.
#[derive(Clone, Debug)]
pub struct List {
    /// Where it stands, brackets included.
    pub span: Range<usize>,
    /// What is in it.
    pub items: Vec<Item>,
    /// Line of its bracket, from 1.
    pub line: usize,
}

/// An item of a list.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its value.
    pub value: Value,
    /// The comma after it.
    pub comma: Option<usize>,
}

impl Value {
    /// Where it stands.
    pub fn span(&self) -> Range<usize> {
        match self {
            Self::Atom(atom) => atom.span.clone(),
            Self::List(list) => list.span.clone(),
        }
    }
    /// What it says, without the places.
    pub fn said(&self) -> String {
        match self {
            Self::Atom(atom) => format!("{:?}", atom.text),
            Self::List(list) => {
                format!("[{}]", list.items.iter().map(|item| item.value.said()).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl Cfg {
    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        if text.len() > LIMIT {
            return Err(Wrong::new(format!("it has {} bytes, more than the {LIMIT} allowed", text.len())));
        }
        super::parse::settings(text).map(|settings| Self { settings })
    }

    /// Every setting, in order, those that a later one replaces included.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The settings that make up a name's value: the last `=` and every `+=` after it.
    pub fn effective(&self, name: &str) -> Vec<&Setting> {
        effective(&self.settings, name)
    }

    /// A single value: its parts (more than one if it is put together by `+=`); empty if it is not set.
    pub fn atoms(&self, name: &str) -> Result<Vec<&Atom>, Wrong> {
        let parts = self.effective(name).into_iter().map(|setting| match &setting.value {
            Value::Atom(atom) => Ok(atom),
            Value::List(_) => {
                Err(Wrong::at(setting.line, format!("{name} is a list, and xl ignores it: it wants a single value")))
            }
        });
        parts.collect()
    }

    /// A single value; `None` if it is not set.
    pub fn text(&self, name: &str) -> Result<Option<String>, Wrong> {
        let parts = self.atoms(name)?;
        Ok((!parts.is_empty()).then(|| parts.iter().map(|atom| atom.text.as_str()).collect()))
    }

    /// A number (decimal, `0x…` or `0…`, in quotes or not, as strtol(3) reads it); `None` if it is not set.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Wrong> {
        let parts = self.atoms(name)?;
        let Some(last) = parts.last() else { return Ok(None) };
        if parts.len() > 1 {
            return Err(Wrong::at(last.line, format!("{name} is a number, and xl does not join numbers by +=")));
        }
        let bad = || Wrong::at(last.line, format!("{name} = {:?} is not a whole number", last.text));
        let text = last.text.trim_ascii_start();
        let read = match (text.strip_prefix("0x"), text.strip_prefix('0')) {
            (Some(hex), _) => u64::from_str_radix(hex, 16),
            (None, Some(octal)) if !octal.is_empty() => u64::from_str_radix(octal, 8),
            _ => text.parse(),
        };
        read.map(Some).map_err(|_| bad())
    }

    /// The lists that a name's list is joined of; empty if it is not set.
    pub fn lists(&self, name: &str) -> Result<Vec<&List>, Wrong> {
        let parts = self.effective(name).into_iter().map(|setting| match &setting.value {
            Value::List(list) => Ok(list),
            Value::Atom(_) => {
                Err(Wrong::at(setting.line, format!("{name} is a single value, and xl ignores it: it wants a list")))
            }
        });
        parts.collect()
    }

    /// The strings of a name's list.
    pub fn strings(&self, name: &str) -> Result<Vec<&Atom>, Wrong> {
        let items = self.lists(name)?.into_iter().flat_map(|list| &list.items).map(|item| match &item.value {
            Value::Atom(atom) => Ok(atom),
            Value::List(list) => Err(Wrong::at(list.line, format!("{name} holds a list where xl wants a string"))),
        });
        items.collect()
    }
}

/// See [`Cfg::effective`].
pub(super) fn effective<'s>(settings: &'s [Setting], name: &str) -> Vec<&'s Setting> {
    let mut found = Vec::new();
    for setting in settings.iter().filter(|setting| setting.name == name) {
        if !setting.add {
            found.clear();
        }
        found.push(setting);
    }
    found
}
