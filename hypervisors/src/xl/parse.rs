//! The grammar of an xl.cfg(5), as libxlu_cfg has it: from a text to its settings. Pure.

use std::ops::Range;

use super::cfg::{Atom, Item, List, Setting, Value, Wrong, effective};

/// Levels of lists a value may have; xl uses two.
const DEPTH: usize = 16;
/// Words that begin a statement of Python, which xm's configuration files were.
const PYTHON: [&str; 14] =
    ["import", "from", "def", "if", "elif", "else", "for", "while", "try", "except", "return", "print", "class", "del"];

/// Reads a text's settings, in order.
pub(super) fn settings(text: &str) -> Result<Vec<Setting>, Wrong> {
    Parser { lexer: Lexer { text, at: 0, line: 1 }, ahead: None }.file()
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

    fn file(mut self) -> Result<Vec<Setting>, Wrong> {
        let mut settings: Vec<Setting> = Vec::new();
        loop {
            let first = self.next()?;
            let name = match first.token {
                Token::End => return Ok(settings),
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
            if add && let Some(before) = effective(&settings, &name).last() {
                let joins = matches!(
                    (&before.value, &value),
                    (Value::Atom(_), Value::Atom(_)) | (Value::List(_), Value::List(_))
                );
                if !joins {
                    return Err(Wrong::at(first.line, format!("{name}: += joins a list and a single value")));
                }
            }
            let span = first.span.start..value.span().end;
            settings.push(Setting { name, add, value, span, line: first.line });
            let end = self.next()?;
            match end.token {
                Token::Newline | Token::Semicolon => {}
                Token::End => return Ok(settings),
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

/// `free_memory : MIB` of `xl info` (xl(1)), in bytes.
pub fn free_memory(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.strip_prefix("free_memory"))?;
    line.trim_start().strip_prefix(':')?.trim().parse::<u64>().ok()?.checked_mul(1 << 20)
}
