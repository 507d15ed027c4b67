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
/// Levels of lists a value may have; xl uses two.
const DEPTH: usize = 16;
/// Words that begin a statement of Python, which xm's configuration files were.
const PYTHON: [&str; 14] =
    ["import", "from", "def", "if", "elif", "else", "for", "while", "try", "except", "return", "print", "class", "del"];

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
    places: Vec<usize>,
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
        Parser { lexer: Lexer { text, at: 0, line: 1 }, ahead: None }.file()
    }

    /// Every setting, in order, those that a later one replaces included.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// The settings that make up a name's value: the last `=` and every `+=` after it.
    pub fn effective(&self, name: &str) -> Vec<&Setting> {
        let mut found = Vec::new();
        for setting in self.settings.iter().filter(|setting| setting.name == name) {
            if !setting.add {
                found.clear();
            }
            found.push(setting);
        }
        found
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

#[derive(Clone, Debug)]
enum Token {
    Name(String),
    Atom(Atom),
    Comma,
    Open,
    Close,
    Set,
    Add,
    Semicolon,
    Newline,
    End,
}

impl Token {
    fn words(&self) -> String {
        match self {
            Self::Name(name) => format!("{name:?}"),
            Self::Atom(atom) => format!("{:?}", atom.text),
            Self::Comma => "a comma".into(),
            Self::Open => "\"[\"".into(),
            Self::Close => "\"]\"".into(),
            Self::Set => "\"=\"".into(),
            Self::Add => "\"+=\"".into(),
            Self::Semicolon => "\";\"".into(),
            Self::Newline => "the end of the line".into(),
            Self::End => "the end of the text".into(),
        }
    }
}

struct Placed {
    token: Token,
    span: Range<usize>,
    line: usize,
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    line: usize,
}

impl Lexer<'_> {
    fn next(&mut self) -> Result<Placed, Wrong> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let (start, line) = (self.at, self.line);
        let Some(first) = bytes.get(start) else {
            return Ok(Placed { token: Token::End, span: start..start, line });
        };
        let run = |from: usize, more: fn(u8) -> bool| {
            bytes[from..].iter().position(|byte| !more(*byte)).map_or(bytes.len(), |length| from + length)
        };
        let token = match first {
            b',' => self.single(Token::Comma),
            b'[' => self.single(Token::Open),
            b']' => self.single(Token::Close),
            b'=' => self.single(Token::Set),
            b';' => self.single(Token::Semicolon),
            b'\n' => {
                self.line += 1;
                self.single(Token::Newline)
            }
            b'+' if bytes.get(start + 1) == Some(&b'=') => {
                self.at += 2;
                Token::Add
            }
            b'#' => {
                let end = run(start, |byte| byte != b'\n');
                if end == bytes.len() {
                    return Err(Wrong::at(line, "a comment ends the text without a line end, which xl refuses")
                        .help("put a line end after it"));
                }
                (self.at, self.line) = (end + 1, line + 1);
                Token::Newline
            }
            b'a'..=b'z' => {
                self.at = run(start, |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'));
                Token::Name(self.text[start..self.at].to_owned())
            }
            b'0'..=b'9' => {
                self.at = run(start, |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'x'));
                let text = self.text[start..self.at].to_owned();
                let places = (start..=self.at).collect();
                Token::Atom(Atom { text, span: start..self.at, quote: None, line, places })
            }
            b'\'' | b'"' => self.string(char::from(*first))?,
            _ => return Err(self.stranger()),
        };
        Ok(Placed { token, span: start..self.at, line })
    }

    fn single(&mut self, token: Token) -> Token {
        self.at += 1;
        token
    }

    fn string(&mut self, quote: char) -> Result<Token, Wrong> {
        let (start, line) = (self.at, self.line);
        let open = || {
            Wrong::at(line, format!("a string that begins with {quote} does not end in its line"))
                .help("xl has no strings over several lines and no \"\"\" of Python: write it in one line")
        };
        if self.text[start..].starts_with(&quote.to_string().repeat(3)) {
            return Err(open());
        }
        let (mut text, mut places) = (String::new(), Vec::new());
        let mut rest = self.text[start + 1..].char_indices().map(|(at, c)| (start + 1 + at, c));
        while let Some((at, c)) = rest.next() {
            let said = match c {
                c if c == quote => {
                    places.push(at);
                    self.at = at + 1;
                    return Ok(Token::Atom(Atom { text, span: start..self.at, quote: Some(quote), line, places }));
                }
                '\n' => return Err(open()),
                '\0' => return Err(Wrong::at(line, "a NUL character in a string")),
                '\\' => match rest.next() {
                    Some((_, c @ ('"' | '\'' | '\\'))) => c,
                    Some((_, 'a')) => '\u{7}',
                    Some((_, 'b')) => '\u{8}',
                    Some((_, 'f')) => '\u{c}',
                    Some((_, 'n')) => '\n',
                    Some((_, 'r')) => '\r',
                    Some((_, 't')) => '\t',
                    Some((_, 'v')) => '\u{b}',
                    Some((_, c @ ('x' | '0'..='7'))) => {
                        return Err(Wrong::at(line, format!("xl does not read the escape \\{c}… as a character"))
                            .help("write the character itself"));
                    }
                    Some((_, '\n')) | None => return Err(open()),
                    Some((_, c)) => return Err(Wrong::at(line, format!("xl does not know the escape \\{c}"))),
                },
                c => c,
            };
            text.push(said);
            places.extend(std::iter::repeat_n(at, said.len_utf8()));
        }
        Err(open())
    }

    /// The error for a character that begins nothing.
    fn stranger(&self) -> Wrong {
        let rest = &self.text[self.at..];
        let c = rest.chars().next().unwrap_or(' ');
        let what = |words: &str| Wrong::at(self.line, words.to_owned());
        match c {
            '\r' => what("the line ends as on Windows (CR LF), which xl refuses").help("convert it: sed -i 's/\\r$//'"),
            '\u{feff}' => what("the text begins with a byte order mark, which xl refuses").help("take it out"),
            '-' if rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit) => {
                what("xl has no negative numbers").help("write it in quotes")
            }
            '(' | ')' | '{' | '}' | '.' | ':' | '+' | '-' | '%' | '*' | '/' | '\\' | '<' | '>' | '!' => {
                python(self.line)
            }
            'A'..='Z' | '_' => Wrong::at(self.line, format!("a name cannot begin with {c:?}: xl's are in lower case"))
                .help("xm read variables of Python; xl does not: write the values out"),
            c => Wrong::at(self.line, format!("{c:?} has no meaning here")),
        }
    }
}

fn python(line: usize) -> Wrong {
    Wrong::at(line, "this is Python, which xm ran and xl does not")
        .help("write the values out: xl.cfg(5) has strings, numbers and lists only")
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    ahead: Option<Placed>,
}

impl Parser<'_> {
    fn next(&mut self) -> Result<Placed, Wrong> {
        match self.ahead.take() {
            Some(placed) => Ok(placed),
            None => self.lexer.next(),
        }
    }

    /// The next token after line ends.
    fn next_line(&mut self) -> Result<Placed, Wrong> {
        loop {
            let placed = self.next()?;
            if !matches!(placed.token, Token::Newline) {
                return Ok(placed);
            }
        }
    }

    fn file(mut self) -> Result<Cfg, Wrong> {
        let mut cfg = Cfg { settings: Vec::new() };
        loop {
            let first = self.next()?;
            let name = match first.token {
                Token::End => return Ok(cfg),
                Token::Newline | Token::Semicolon => continue,
                Token::Name(name) => name,
                other => {
                    return Err(Wrong::at(first.line, format!("{} stands where a name should", other.words())));
                }
            };
            let operator = match self.next() {
                Ok(operator) => operator,
                Err(_) if PYTHON.contains(&name.as_str()) => return Err(python(first.line)),
                Err(wrong) => return Err(wrong),
            };
            let add = match operator.token {
                Token::Set => false,
                Token::Add => true,
                _ if PYTHON.contains(&name.as_str()) => return Err(python(first.line)),
                other => {
                    let what = format!("{} stands after {name:?} where \"=\" should", other.words());
                    return Err(Wrong::at(operator.line, what));
                }
            };
            let begin = self.next()?;
            let value = self.value(begin, 0)?;
            if add && let Some(before) = cfg.effective(&name).last() {
                let joins = matches!(
                    (&before.value, &value),
                    (Value::Atom(_), Value::Atom(_)) | (Value::List(_), Value::List(_))
                );
                if !joins {
                    return Err(Wrong::at(first.line, format!("{name}: += joins a list and a single value")));
                }
            }
            let span = first.span.start..value.span().end;
            cfg.settings.push(Setting { name, add, value, span, line: first.line });
            let end = self.next()?;
            match end.token {
                Token::Newline | Token::Semicolon => {}
                Token::End => return Ok(cfg),
                other => {
                    let what = format!("{} stands where the line should end", other.words());
                    return Err(Wrong::at(end.line, what).help("one setting to a line, or \";\" between them"));
                }
            }
        }
    }

    fn value(&mut self, begin: Placed, depth: usize) -> Result<Value, Wrong> {
        let (start, line) = (begin.span.start, begin.line);
        match begin.token {
            Token::Atom(atom) => return Ok(Value::Atom(atom)),
            Token::Open if depth < DEPTH => {}
            Token::Open => return Err(Wrong::at(line, format!("lists in more than {DEPTH} lists"))),
            Token::Name(name) => {
                return Err(Wrong::at(line, format!("{name} stands where a value should")).help(
                    "a value is a string in quotes, a number or a list; xl has no variables, no True and no None",
                ));
            }
            other => return Err(Wrong::at(line, format!("{} stands where a value should", other.words()))),
        }
        let mut items: Vec<Item> = Vec::new();
        loop {
            let next = self.next_line()?;
            if let Token::Close = next.token {
                return Ok(Value::List(List { span: start..next.span.end, items, line }));
            }
            let value = self.value(next, depth + 1)?;
            let after = self.next_line()?;
            let comma = match after.token {
                Token::Comma => Some(after.span.start),
                Token::Close => None,
                other => {
                    return Err(Wrong::at(after.line, format!("{} stands in a list, after an item", other.words()))
                        .help(format!("the list that begins in line {line} wants \",\" or \"]\"")));
                }
            };
            items.push(Item { value, comma });
            if comma.is_none() {
                return Ok(Value::List(List { span: start..after.span.end, items, line }));
            }
        }
    }
}
