//! The words and signs of a jail.conf(5), as jail(8)'s own lexer finds them. Pure.
//!
//! What the manual does not say and the lexer does: `//` begins a comment wherever it stands outside quotes, in the middle of
//! an unquoted path too; so do `#` and `/*`. Escapes count in single quotes as well, only variables do not. A `$` that begins
//! no variable is itself. What stands side by side without a blank is one word, whatever its quotes.

use std::ops::Range;

use super::super::wrong::{Place, Wrong};
use super::Dialect;

/// A part of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// What it says, escapes read.
    Text(String),
    /// The value of this variable or parameter.
    Var(String),
}

/// A word: what stands together without a blank.
#[derive(Clone, Debug)]
pub(super) struct Word {
    /// Its parts; more than one where quotes or variables change, which no name may have.
    pub pieces: Vec<Piece>,
    /// Where it stands, quotes included.
    pub span: Range<usize>,
    /// Its quotes, if all of it stands in one pair.
    pub quote: Option<char>,
}

/// What the lexer finds.
#[derive(Clone, Debug)]
pub(super) enum Token {
    Word(Word),
    Add(Range<usize>),
    Sign(char, Range<usize>),
    End(usize),
}

impl Token {
    pub(super) fn span(&self) -> Range<usize> {
        match self {
            Self::Word(word) => word.span.clone(),
            Self::Add(span) | Self::Sign(_, span) => span.clone(),
            Self::End(at) => *at..*at,
        }
    }
}

/// Bytes of which unquoted words are made, beside `$ * + / \`.
pub(super) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_!%&()-.:<>?@[]^`|~".contains(&byte)
}

fn begins_variable(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

pub(super) struct Lexer<'t> {
    pub(super) file: &'t str,
    pub(super) text: &'t str,
    pub(super) at: usize,
    pub(super) dialect: Dialect,
    /// Where the first comment began.
    pub(super) comment: Option<usize>,
}

/// Where a comment stands within a statement.
pub(super) fn first_comment(
    file: &str,
    text: &str,
    span: &Range<usize>,
    dialect: Dialect,
) -> Result<Option<usize>, Wrong> {
    let mut lexer = Lexer { file, text, at: span.start, dialect, comment: None };
    while lexer.at < span.end {
        lexer.next()?;
    }
    Ok(lexer.comment)
}

impl Lexer<'_> {
    pub(super) fn wrong(&self, at: usize, what: impl Into<String>) -> Wrong {
        Wrong::new(Place::of(self.file, self.text, at), what)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    fn run(&self, from: usize, more: impl Fn(u8) -> bool) -> usize {
        let rest = &self.text.as_bytes()[from..];
        from + rest.iter().position(|byte| !more(*byte)).unwrap_or(rest.len())
    }

    /// Goes past blanks and comments.
    fn skip(&mut self) -> Result<(), Wrong> {
        loop {
            let rest = &self.text[self.at..];
            match rest.as_bytes() {
                [b' ' | b'\t' | b'\n', ..] => self.at += 1,
                [b'\r', ..] if self.dialect == Dialect::Including => self.at += 1,
                [b'#', ..] | [b'/', b'/', ..] => {
                    self.comment.get_or_insert(self.at);
                    self.at = self.run(self.at, |byte| byte != b'\n');
                }
                [b'/', b'*', ..] => match rest[2..].find("*/") {
                    Some(end) => {
                        self.comment.get_or_insert(self.at);
                        self.at += 2 + end + 2;
                    }
                    None => {
                        return Err(self
                            .wrong(self.at, "a comment that begins here does not end")
                            .help("end it with */"));
                    }
                },
                _ => return Ok(()),
            }
        }
    }

    pub(super) fn next(&mut self) -> Result<Token, Wrong> {
        self.skip()?;
        let start = self.at;
        let Some(first) = self.byte(start) else { return Ok(Token::End(start)) };
        match first {
            b',' | b';' | b'=' | b'{' | b'}' => {
                self.at += 1;
                Ok(Token::Sign(char::from(first), start..self.at))
            }
            b'+' if self.byte(start + 1) == Some(b'=') => {
                self.at += 2;
                Ok(Token::Add(start..self.at))
            }
            _ => self.word().map(Token::Word),
        }
    }

    fn word(&mut self) -> Result<Word, Wrong> {
        let start = self.at;
        let (mut pieces, mut parts, mut quote) = (Vec::new(), 0, None);
        while let Some(byte) = self.byte(self.at) {
            match byte {
                b'/' if matches!(self.byte(self.at + 1), Some(b'/' | b'*')) => break,
                b'+' if self.byte(self.at + 1) == Some(b'=') => break,
                b'*' | b'+' | b'/' => {
                    pieces.push(Piece::Text(char::from(byte).to_string()));
                    self.at += 1;
                }
                b'$' => pieces.push(self.variable(None)?),
                b'\\' if self.byte(self.at + 1).is_some_and(|byte| !byte.is_ascii()) => {
                    self.at += 1;
                    return Err(self.stranger());
                }
                b'\\' => {
                    let mut said = Vec::new();
                    self.escape(&mut said)?;
                    pieces.push(self.text_piece(said, self.at)?);
                }
                b'\'' | b'"' => {
                    quote = Some(char::from(byte));
                    self.quoted(byte, &mut pieces)?;
                }
                byte if is_plain(byte) => {
                    let end = self.run(self.at, is_plain);
                    pieces.push(Piece::Text(self.text[self.at..end].to_owned()));
                    self.at = end;
                }
                _ => break,
            }
            parts += 1;
        }
        if self.at == start {
            return Err(self.stranger());
        }
        Ok(Word { pieces, span: start..self.at, quote: quote.filter(|_| parts == 1) })
    }

    /// The error for a character that begins nothing.
    fn stranger(&self) -> Wrong {
        let c = self.text[self.at..].chars().next().unwrap_or(' ');
        match c {
            '\r' => self
                .wrong(self.at, "the line ends as on Windows (CR LF), which jail(8) of this release refuses")
                .help("convert it: sed -i '' 's/\\r$//'"),
            '\u{feff}' => self.wrong(self.at, "a byte order mark, which jail(8) refuses").help("take it out"),
            // As a number it is negative, and so the end of the input.
            c if !c.is_ascii() => self
                .wrong(self.at, format!("{c:?} outside quotes, where jail(8) stops reading without a word"))
                .help("put the value in quotes"),
            c => self.wrong(self.at, format!("{c:?} has no meaning outside quotes")).help("put the value in quotes"),
        }
    }

    fn text_piece(&self, said: Vec<u8>, at: usize) -> Result<Piece, Wrong> {
        match String::from_utf8(said) {
            Ok(text) if !text.contains('\0') => Ok(Piece::Text(text)),
            Ok(_) => Err(self.wrong(at, "an escape makes a NUL character, where jail(8) ends the value")),
            Err(_) => {
                Err(self.wrong(at, "escapes make a text that is not UTF-8").help("write the characters themselves"))
            }
        }
    }

    /// Reads what a backslash here and what follows it says.
    fn escape(&mut self, said: &mut Vec<u8>) -> Result<(), Wrong> {
        let at = self.at + 1;
        let Some(c) = self.text[at..].chars().next() else {
            return Err(self.wrong(self.at, "a backslash ends the file").help("take it out"));
        };
        self.at = at + c.len_utf8();
        let code = match c {
            '\n' => return Ok(()),
            '0'..='7' => {
                let end = (at + 3).min(self.run(at, |byte| matches!(byte, b'0'..=b'7')));
                self.at = end;
                // As jail(8): what does not fit into a byte loses its top.
                u16::from_str_radix(&self.text[at..end], 8).unwrap_or_default().to_le_bytes()[0]
            }
            'x' => {
                let end = (at + 3).min(self.run(at + 1, |byte| byte.is_ascii_hexdigit()));
                self.at = end;
                u8::from_str_radix(&self.text[at + 1..end], 16).unwrap_or_default()
            }
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            c => {
                said.extend(c.to_string().bytes());
                return Ok(());
            }
        };
        said.push(code);
        Ok(())
    }

    /// Reads a variable where a `$` stands; the `$` itself if none begins there. `end`: the quote that ends the string.
    fn variable(&mut self, end: Option<u8>) -> Result<Piece, Wrong> {
        let start = self.at;
        match self.byte(start + 1) {
            Some(byte) if begins_variable(byte) => {
                self.at = self.run(start + 1, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
                Ok(Piece::Var(self.text[start + 1..self.at].to_owned()))
            }
            Some(b'{') => {
                let stop = self.run(start + 2, |byte| !b"\n{}\\".contains(&byte) && Some(byte) != end);
                match self.byte(stop) {
                    Some(b'}') => {
                        self.at = stop + 1;
                        Ok(Piece::Var(self.text[start + 2..stop].to_owned()))
                    }
                    Some(b'\\') => Err(self.wrong(stop, "a backslash in the name of a variable").help("take it out")),
                    _ => Err(self.wrong(start, "a variable that begins here does not end").help("end it with }")),
                }
            }
            _ => {
                self.at += 1;
                Ok(Piece::Text("$".to_owned()))
            }
        }
    }

    fn quoted(&mut self, quote: u8, pieces: &mut Vec<Piece>) -> Result<(), Wrong> {
        let start = self.at;
        let (mut said, mut empty) = (Vec::new(), true);
        self.at += 1;
        loop {
            match self.byte(self.at) {
                None => {
                    let what = format!("a string that begins with {} here does not end", char::from(quote));
                    return Err(self.wrong(start, what).help("end it with the same quote"));
                }
                Some(byte) if byte == quote => break,
                Some(b'\\') => self.escape(&mut said)?,
                Some(b'$') if quote == b'"' => {
                    pieces.push(self.text_piece(std::mem::take(&mut said), start)?);
                    pieces.push(self.variable(Some(quote))?);
                    empty = false;
                }
                Some(byte) => {
                    said.push(byte);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        if empty || !said.is_empty() {
            pieces.push(self.text_piece(said, start)?);
        }
        Ok(())
    }
}
