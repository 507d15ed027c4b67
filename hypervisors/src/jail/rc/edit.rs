//! Changes of one variable of an rc.conf(5) that leave every other byte alone, as sysrc(8) makes them. Pure.
//!
//! The last assignment is the one that is changed: it is the one that counts. What comes out is read again: the variable must be
//! what was asked, and all else must stand there as it stood. Where code has a part in a variable it is not edited.

use std::ops::Range;

use super::super::conf::cut::{Cut, cut, with_lines};
use super::super::wrong::{Place, Wrong};
use super::{Assign, Rc, Statement, Value, is_name};

impl Rc {
    /// Sets a variable: where it is set last, or in a line of its own at the end.
    pub fn set(&self, name: &str, value: &str) -> Result<Self, Wrong> {
        if !is_name(name) {
            return Err(self.broken(format!("{name:?} is not the name of a variable")));
        }
        if self.known(name)? == Value::Is(value.to_owned()) {
            return Ok(self.clone());
        }
        let cuts = match self.last_assign(name) {
            Some(assign) => vec![(assign.value_span.clone(), self.quoted(value, assign.quote)?)],
            None => vec![self.appended(&format!("{name}={}", self.quoted(value, Some('"'))?))],
        };
        self.edited(name, cuts, &Value::Is(value.to_owned()))
    }

    /// Takes every assignment of a variable out.
    pub fn unset(&self, name: &str) -> Result<Self, Wrong> {
        self.known(name)?;
        let spans = self.assigns().filter(|assign| assign.name == name).map(|assign| self.with_separator(&assign.span));
        let spans: Vec<Range<usize>> = spans.collect();
        let cuts = with_lines(&self.text, &spans).into_iter().map(|span| (span, String::new())).collect();
        self.edited(name, cuts, &Value::Unset)
    }

    /// Adds a word at the end of a list, unless it is there.
    pub fn add_word(&self, name: &str, word: &str) -> Result<Self, Wrong> {
        self.is_word(word)?;
        let before = self.known(name)?;
        let old = before.text().unwrap_or_default();
        if old.split_ascii_whitespace().any(|other| other == word) {
            return Ok(self.clone());
        }
        let Some(assign) = self.last_assign(name).filter(|assign| assign.quote.is_some() && before.text().is_some())
        else {
            return self.set(name, [old, word].join(" ").trim_ascii());
        };
        // Within the quotes, so that what stands there (a variable, say) stays.
        let at = assign.value_span.end - 1;
        let blank = if old.ends_with([' ', '\t', '\n']) { "" } else { " " };
        let wanted = Value::Is(format!("{old}{blank}{word}"));
        self.edited(name, vec![(at..at, format!("{blank}{word}"))], &wanted)
    }

    /// Takes a word out of a list.
    pub fn remove_word(&self, name: &str, word: &str) -> Result<Self, Wrong> {
        self.is_word(word)?;
        let before = self.known(name)?;
        let (Some(old), Some(assign)) = (before.text(), self.last_assign(name)) else { return Ok(self.clone()) };
        if !old.split_ascii_whitespace().any(|other| other == word) {
            return Ok(self.clone());
        }
        let kept: Vec<&str> = old.split_ascii_whitespace().filter(|other| *other != word).collect();
        if let Some(cuts) = self.word_cuts(assign, word)
            && let Ok(edited) = Self::parse(&self.file, &cut(&self.text, cuts.clone()).unwrap_or_default())
            && edited.words(name) == kept
        {
            let wanted = edited.value(name);
            return self.edited(name, cuts, &wanted);
        }
        self.set(name, &kept.join(" "))
    }

    /// Where a word stands in a value as it is written, each with one blank beside it.
    fn word_cuts(&self, assign: &Assign, word: &str) -> Option<Vec<Cut>> {
        assign.quote?;
        let inside = assign.value_span.start + 1..assign.value_span.end - 1;
        let text = &self.text[inside.clone()];
        let mut cuts: Vec<Cut> = Vec::new();
        for (at, _) in text.match_indices(word) {
            let (before, after) = (&text[..at], &text[at + word.len()..]);
            let blank = |c: char| c.is_ascii_whitespace();
            if !(before.is_empty() || before.ends_with(blank)) || !(after.is_empty() || after.starts_with(blank)) {
                continue;
            }
            let start = inside.start + at;
            let span = match (before.ends_with([' ', '\t']), after.starts_with([' ', '\t'])) {
                (true, _) => start - 1..start + word.len(),
                (false, true) => start..start + word.len() + 1,
                (false, false) => start..start + word.len(),
            };
            cuts.push((span, String::new()));
        }
        (!cuts.is_empty()).then_some(cuts)
    }

    fn is_word(&self, word: &str) -> Result<(), Wrong> {
        match !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'\\$`".contains(&byte)) {
            true => Ok(()),
            false => Err(self.broken(format!("{word:?} cannot be a word of a list"))),
        }
    }

    fn broken(&self, what: impl Into<String>) -> Wrong {
        Wrong::new(Place::whole(&self.file), what)
    }

    /// What a variable is, if code has no part in it.
    pub(super) fn known(&self, name: &str) -> Result<Value, Wrong> {
        match self.value(name) {
            Value::Unknown(place) => Err(Wrong::new(place, format!("{name} is set by code here, which is not edited"))
                .help("write the value out, or change it by hand")),
            known => Ok(known),
        }
    }

    pub(super) fn quoted(&self, value: &str, quote: Option<char>) -> Result<String, Wrong> {
        if value.contains(|c: char| c.is_control() && c != '\t') {
            return Err(self.broken(format!("{value:?} cannot be written: it has control characters")));
        }
        let bare =
            !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./:,@%+".contains(&byte));
        Ok(match quote {
            None if bare => value.to_owned(),
            Some('\'') if !value.contains('\'') => format!("'{value}'"),
            _ => {
                let mut out = String::from('"');
                for c in value.chars() {
                    if "\"\\$`".contains(c) {
                        out.push('\\');
                    }
                    out.push(c);
                }
                out + "\""
            }
        })
    }

    /// A line at the end.
    pub(super) fn appended(&self, line: &str) -> Cut {
        let end = self.text.len();
        match self.text.is_empty() || self.text.ends_with('\n') {
            true => (end..end, format!("{line}\n")),
            false => (end..end, format!("\n{line}")),
        }
    }

    /// An assignment with the semicolon after it, if it has one.
    pub(super) fn with_separator(&self, span: &Range<usize>) -> Range<usize> {
        let after = &self.text[span.end..];
        let blanks = after.len() - after.trim_start_matches([' ', '\t']).len();
        let semicolon = after[blanks..].starts_with(';') && !after[blanks..].starts_with(";;");
        span.start..span.end + if semicolon { blanks + 1 } else { 0 }
    }

    fn edited(&self, name: &str, cuts: Vec<Cut>, wanted: &Value) -> Result<Self, Wrong> {
        let text = cut(&self.text, cuts).ok_or_else(|| self.broken("two edits of one place"))?;
        let edited = Self::parse(&self.file, &text)?;
        if edited.value(name) != *wanted {
            return Err(self.broken(format!("{name} is not read back as {wanted:?}")));
        }
        let is_own = |other: &str| other == name;
        if self.others(&is_own) != edited.others(&is_own) {
            return Err(self.broken(format!("the edit of {name} would change something else")));
        }
        Ok(edited)
    }

    /// All that is not an assignment of certain variables, as it stands there.
    pub(super) fn others(&self, is_own: &dyn Fn(&str) -> bool) -> Vec<&str> {
        let spans = self.statements.iter().filter_map(|statement| match statement {
            Statement::Assign(assign) if is_own(&assign.name) => None,
            Statement::Assign(assign) => Some(&assign.span),
            Statement::Code(code) => Some(&code.span),
        });
        spans.map(|span| &self.text[span.clone()]).collect()
    }
}
