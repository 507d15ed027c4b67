//! The assignments of a file that sh(1) reads, and all else as code whose extent is known. Pure.
//!
//! Quotes, backslashes and continued lines are those of the Shell Command Language of POSIX (2.2). Whatever may hold an
//! assignment back (`if`, a loop, a function, a here-document) is code to its end, the assignments within it included.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::super::wrong::{Place, Wrong};
use super::{Assign, Code, Statement, is_name};

/// Bytes a value may have; one that is longer by its variables has no known value.
const LONGEST: usize = 64 << 10;

/// Reads the statements of a file.
pub(super) fn statements(file: &str, text: &str) -> Result<Vec<Statement>, Wrong> {
    let mut reader = Reader { file, text, at: 0, known: BTreeMap::new(), out: Vec::new() };
    while reader.command()? {}
    Ok(reader.out)
}

/// The names that a piece of code may set: those that stand before a `=`, or are words of `read`, `export` and their kin.
pub(super) fn may_set(code: &str) -> BTreeSet<String> {
    let code = code.replace("\\\n", "");
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names: BTreeSet<String> = BTreeSet::new();
    for (at, _) in code.match_indices('=') {
        let start = code[..at].rfind(|c: char| !part(c)).map_or(0, |before| before + 1);
        names.insert(code.get(start..at).unwrap_or_default().to_owned());
    }
    for line in code.lines() {
        let words = line.split(|c: char| !part(c)).filter(|word| !word.is_empty());
        if words.clone().any(|word| ["read", "unset", "getopts", "eval", "for"].contains(&word)) {
            names.extend(words.map(str::to_owned));
        }
    }
    names.retain(|name| is_name(name));
    names
}

/// A word of an assignment.
struct Said {
    /// What it says, if that is known.
    value: Option<String>,
    span: Range<usize>,
    quote: Option<char>,
}

struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    at: usize,
    /// What variables are so far.
    known: BTreeMap<String, Option<String>>,
    out: Vec<Statement>,
}

impl<'t> Reader<'t> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    fn wrong(&self, at: usize, what: impl Into<String>) -> Wrong {
        Wrong::new(Place::of(self.file, self.text, at), what)
    }

    fn blanks(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            match rest.as_bytes() {
                [b' ' | b'\t' | b'\r', ..] => self.at += 1,
                [b'\\', b'\n', ..] => self.at += 2,
                _ => return,
            }
        }
    }

    /// Reads one command; `false` at the end.
    fn command(&mut self) -> Result<bool, Wrong> {
        self.blanks();
        match self.byte(self.at) {
            None => return Ok(false),
            Some(b'\n' | b';') => self.at += 1,
            Some(b'#') => self.at += self.text[self.at..].find('\n').unwrap_or(self.text.len() - self.at),
            Some(_) => {
                let start = self.at;
                let mut found = Vec::new();
                match self.assigns(&mut found)? {
                    None => {
                        for assign in found {
                            self.known.insert(assign.name.clone(), assign.value.clone());
                            self.out.push(Statement::Assign(assign));
                        }
                    }
                    Some(why) => self.code(start, why)?,
                }
            }
        }
        Ok(true)
    }

    /// Reads assignments up to the end of the command; why it is code, if it is.
    fn assigns(&mut self, found: &mut Vec<Assign>) -> Result<Option<&'static str>, Wrong> {
        loop {
            self.blanks();
            let start = self.at;
            match self.byte(start) {
                None | Some(b'\n' | b';' | b'#') => return Ok(None),
                Some(_) => {}
            }
            let rest = &self.text[start..];
            let end = rest.bytes().position(|byte| !byte.is_ascii_alphanumeric() && byte != b'_').unwrap_or(rest.len());
            if !is_name(&rest[..end]) || rest.as_bytes().get(end) != Some(&b'=') {
                return Ok(Some("a command"));
            }
            self.at = start + end + 1;
            let said = self.word(found)?;
            let (name, span) = (rest[..end].to_owned(), start..said.span.end);
            found.push(Assign { name, value: said.value, span, value_span: said.span, quote: said.quote });
            if matches!(self.byte(self.at), Some(b'|' | b'&' | b'<' | b'>' | b'(' | b')')) {
                return Ok(Some("a command"));
            }
        }
    }

    /// Reads a word; `before`: what the same command assigns before it.
    fn word(&mut self, before: &[Assign]) -> Result<Said, Wrong> {
        let start = self.at;
        let mut value = Some(String::new());
        let (mut parts, mut quote) = (0, None);
        while let Some(byte) = self.byte(self.at) {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'|' | b'&' | b'<' | b'>' | b'(' | b')' => break,
                b'\'' => {
                    let inside = self.text[self.at + 1..].find('\'').ok_or_else(|| self.open('\''))?;
                    push(&mut value, &self.text[self.at + 1..self.at + 1 + inside]);
                    self.at += inside + 2;
                    quote = Some('\'');
                }
                b'"' => {
                    self.double(&mut value, before)?;
                    quote = Some('"');
                }
                b'\\' if self.byte(self.at + 1) == Some(b'\n') => self.at += 2,
                b'\\' => {
                    match self.text[self.at + 1..].chars().next() {
                        Some(c) => {
                            push(&mut value, c.encode_utf8(&mut [0; 4]));
                            self.at += 1 + c.len_utf8();
                        }
                        // The last of the file: shells differ.
                        None => (value, self.at) = (None, self.at + 1),
                    }
                }
                b'$' | b'`' => self.expansion(&mut value, before)?,
                b'~' if value.as_deref().is_none_or(|value| value.is_empty() || value.ends_with(':')) => {
                    value = None;
                    self.at += 1;
                }
                _ => {
                    let c = self.text[self.at..].chars().next().unwrap_or(' ');
                    push(&mut value, c.encode_utf8(&mut [0; 4]));
                    self.at += c.len_utf8();
                }
            }
            parts += 1;
        }
        Ok(Said { value, span: start..self.at, quote: quote.filter(|_| parts == 1) })
    }

    fn open(&self, quote: char) -> Wrong {
        self.wrong(self.at, format!("a string that begins with {quote} here does not end"))
            .help("end it with the same quote")
    }

    fn double(&mut self, value: &mut Option<String>, before: &[Assign]) -> Result<(), Wrong> {
        let start = self.at;
        self.at += 1;
        loop {
            let rest = &self.text[self.at..];
            match rest.as_bytes() {
                [] => {
                    self.at = start;
                    return Err(self.open('"'));
                }
                [b'"', ..] => {
                    self.at += 1;
                    return Ok(());
                }
                [b'\\', b'\n', ..] => self.at += 2,
                [b'\\', c @ (b'$' | b'`' | b'"' | b'\\'), ..] => {
                    push(value, char::from(*c).encode_utf8(&mut [0; 4]));
                    self.at += 2;
                }
                [b'$' | b'`', ..] => self.expansion(value, before)?,
                _ => {
                    let special = rest.bytes().skip(1).position(|byte| b"\"\\$`".contains(&byte));
                    let length = special.map_or(rest.len(), |end| end + 1);
                    push(value, &rest[..length]);
                    self.at += length;
                }
            }
        }
    }

    /// Reads what a `$` or a backquote here begins.
    fn expansion(&mut self, value: &mut Option<String>, before: &[Assign]) -> Result<(), Wrong> {
        let rest = &self.text[self.at..];
        let name_end = |from: usize| {
            let after = &rest[from..];
            from + after.bytes().position(|byte| !byte.is_ascii_alphanumeric() && byte != b'_').unwrap_or(after.len())
        };
        let name = match rest.as_bytes() {
            // A line continued in the middle of a name.
            [b'$', b'\\', b'\n', ..] => {
                *value = None;
                self.at += 1;
                return Ok(());
            }
            [b'$', b'{', ..] => {
                let end = name_end(2);
                (rest.as_bytes().get(end) == Some(&b'}')).then(|| (&rest[2..end], end + 1))
            }
            [b'$', byte, ..] if byte.is_ascii_alphabetic() || *byte == b'_' => {
                let end = name_end(1);
                Some((&rest[1..end], end))
            }
            [b'$', b'(', ..] | [b'`', ..] => None,
            [b'$', byte, ..] if byte.is_ascii_digit() || b"?$#*@!-".contains(byte) => {
                *value = None;
                self.at += 2;
                return Ok(());
            }
            _ => {
                push(value, "$");
                self.at += 1;
                return Ok(());
            }
        };
        match name.filter(|(name, _)| is_name(name)) {
            Some((name, length)) => {
                self.at += length;
                let goes_on = !rest[..length].ends_with('}') && rest[length..].starts_with("\\\n");
                if goes_on {
                    *value = None;
                    return Ok(());
                }
                let here = before.iter().rfind(|assign| assign.name == name).map(|assign| &assign.value);
                match here.or_else(|| self.known.get(name)) {
                    Some(Some(known)) => push(value, known),
                    _ => *value = None,
                }
            }
            None => {
                *value = None;
                self.substitution()?;
            }
        }
        Ok(())
    }

    /// Goes past a substitution that is not evaluated, by its quotes and brackets.
    fn substitution(&mut self) -> Result<(), Wrong> {
        let start = self.at;
        let mut ends: Vec<u8> = Vec::new();
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let last = ends.last().copied();
            match rest {
                [] => {
                    return Err(self
                        .wrong(start, "a substitution that begins here does not end")
                        .help("it is sh's to evaluate, but its end must be found"));
                }
                [b'\\', ..] if last != Some(b'\'') => self.at += 1,
                [byte, ..] if Some(*byte) == last => drop(ends.pop()),
                _ if last == Some(b'\'') => {}
                [b'$', b'(', ..] => {
                    ends.push(b')');
                    self.at += 1;
                }
                [b'$', b'{', ..] => {
                    ends.push(b'}');
                    self.at += 1;
                }
                [b'(', ..] if last == Some(b')') => ends.push(b')'),
                [b'`', ..] => ends.push(b'`'),
                [b'"', ..] => ends.push(b'"'),
                [b'\'', ..] if last != Some(b'"') => ends.push(b'\''),
                _ => {}
            }
            self.at = (self.at + 1).min(self.text.len());
            if ends.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes code to the end of its line, or of what it opens.
    fn code(&mut self, start: usize, why: &'static str) -> Result<(), Wrong> {
        self.at = start;
        let (mut open, mut why) = (Vec::new(), why);
        // Whether a word here is a command, and whether the line goes on after it.
        let (mut first, mut goes_on) = (true, false);
        loop {
            self.blanks();
            let rest = &self.text[self.at..];
            match rest.as_bytes() {
                [] => break,
                [b'\n', ..] if open.is_empty() && !goes_on => break,
                [b'\n' | b';', ..] => {
                    (first, self.at) = (true, self.at + 1);
                    goes_on &= rest.starts_with('\n');
                    continue;
                }
                [b'#', ..] => {
                    self.at += rest.find('\n').unwrap_or(rest.len());
                    continue;
                }
                [b'<', b'<', ..] => {
                    // Where it ends is not looked for: all the rest is left alone.
                    (self.at, why) = (self.text.len(), "a here-document");
                    break;
                }
                [b'(', ..] => {
                    if first {
                        open.push(")");
                    }
                    (first, self.at, goes_on) = (true, self.at + 1, false);
                    continue;
                }
                [b')', ..] => {
                    if open.last() == Some(&")") {
                        open.pop();
                    }
                    // What follows a pattern of `case`, or the brackets of a function, is a command.
                    (first, self.at, goes_on) = (true, self.at + 1, false);
                    continue;
                }
                [b'&', b'&', ..] => {
                    (first, self.at, goes_on) = (true, self.at + 2, true);
                    continue;
                }
                [b'|' | b'&', ..] => {
                    (first, goes_on, self.at) = (true, rest.starts_with('|'), self.at + 1);
                    continue;
                }
                [b'<' | b'>', ..] => {
                    self.at += 1;
                    continue;
                }
                _ => {}
            }
            let said = self.word(&[])?;
            let word = &self.text[said.span];
            goes_on = false;
            let closes = first && open.last() == Some(&word);
            let opens = match word {
                "if" => Some("fi"),
                "case" => Some("esac"),
                "for" | "while" | "until" => Some("done"),
                "{" => Some("}"),
                _ => None,
            };
            if closes {
                open.pop();
            } else if let Some(end) = opens.filter(|_| first) {
                open.push(end);
                if open.len() == 1 {
                    why = if end == "}" { "a function or a group" } else { "a condition or a loop" };
                }
            }
            first =
                matches!(word, "if" | "then" | "else" | "elif" | "do" | "while" | "until" | "{" | "!" | "in") || closes;
        }
        let end = start + self.text[start..self.at].trim_end().len();
        for name in may_set(&self.text[start..end]) {
            self.known.insert(name, None);
        }
        self.out.push(Statement::Code(Code { span: start..end, why }));
        Ok(())
    }
}

fn push(value: &mut Option<String>, more: &str) {
    if let Some(text) = value {
        text.push_str(more);
        if text.len() > LONGEST {
            *value = None;
        }
    }
}
