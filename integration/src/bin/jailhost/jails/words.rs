//! The words of a jail.conf(5): strings quoted and bare, variables in them, comments of three kinds.

use std::iter::Peekable;
use std::str::Chars;

/// A piece of a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Text(String),
    /// `$name` or `${name}`.
    Variable(String),
}

/// A word or a sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// A string; bare and quoted ones mean the same.
    String(Vec<Piece>),
    /// One of `{ } ; , =`, and `+` for `+=`.
    Sign(char),
}

/// What is no word.
#[derive(Debug, PartialEq, Eq)]
pub struct NoWord {
    /// From 1.
    pub line: usize,
    /// What stands there.
    pub near: String,
}

/// Letters, digits and these make bare strings; anything else has to be quoted.
const BARE: &str = "_-.:/|*@%!?+^~[]()<>&`";

/// Reads a whole file into words, each with its line.
pub fn read(text: &str) -> Result<Vec<(Word, usize)>, NoWord> {
    let mut line = 1;
    let mut words = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(&letter) = rest.peek() {
        match letter {
            '\n' => {
                line += 1;
                rest.next();
            }
            letter if letter.is_ascii_whitespace() => {
                rest.next();
            }
            '#' => skip_line(&mut rest),
            '/' if ahead(&rest, "//") => skip_line(&mut rest),
            '/' if ahead(&rest, "/*") => line += skip_comment(&mut rest, line)?,
            '{' | '}' | ';' | ',' | '=' => {
                words.push((Word::Sign(letter), line));
                rest.next();
            }
            '+' if ahead(&rest, "+=") => {
                words.push((Word::Sign('+'), line));
                rest.next();
                rest.next();
            }
            _ => {
                let began = line;
                words.push((Word::String(string(&mut rest, &mut line)?), began));
            }
        }
    }
    Ok(words)
}

/// A string: pieces bare and quoted that touch each other are one.
fn string(rest: &mut Peekable<Chars<'_>>, line: &mut usize) -> Result<Vec<Piece>, NoWord> {
    let began = *line;
    let no_word = |near: &str| NoWord { line: began, near: near.to_owned() };
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut found = false;
    while let Some(&letter) = rest.peek() {
        match letter {
            '"' => {
                rest.next();
                loop {
                    match rest.next().ok_or_else(|| no_word("unterminated string"))? {
                        '"' => break,
                        '\\' => escaped(rest, &mut text, line).ok_or_else(|| no_word("\\"))?,
                        '$' => variable(rest, &mut text, &mut pieces).ok_or_else(|| no_word("$"))?,
                        letter => {
                            *line += usize::from(letter == '\n');
                            text.push(letter);
                        }
                    }
                }
            }
            '\'' => {
                rest.next();
                loop {
                    match rest.next().ok_or_else(|| no_word("unterminated string"))? {
                        '\'' => break,
                        '\\' if rest.peek().is_some_and(|next| ['\'', '\\'].contains(next)) => {
                            text.extend(rest.next());
                        }
                        letter => {
                            *line += usize::from(letter == '\n');
                            text.push(letter);
                        }
                    }
                }
            }
            '\\' => {
                rest.next();
                escaped(rest, &mut text, line).ok_or_else(|| no_word("\\"))?;
            }
            '$' => {
                rest.next();
                variable(rest, &mut text, &mut pieces).ok_or_else(|| no_word("$"))?;
            }
            '+' if ahead(rest, "+=") => break,
            letter if letter.is_ascii_alphanumeric() || BARE.contains(letter) => {
                text.push(letter);
                rest.next();
            }
            _ => break,
        }
        found = true;
    }
    if !found {
        return Err(no_word(&rest.next().map(String::from).unwrap_or_default()));
    }
    if !text.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// After a backslash: C's letters, else the letter itself.
fn escaped(rest: &mut Peekable<Chars<'_>>, text: &mut String, line: &mut usize) -> Option<()> {
    match rest.next()? {
        'n' => text.push('\n'),
        't' => text.push('\t'),
        'r' => text.push('\r'),
        '\n' => *line += 1,
        letter if letter.is_ascii_alphanumeric() => return None,
        letter => text.push(letter),
    }
    Some(())
}

/// After a dollar sign: `name` or `{name}`.
fn variable(rest: &mut Peekable<Chars<'_>>, text: &mut String, pieces: &mut Vec<Piece>) -> Option<()> {
    let braced = rest.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(letter) = rest.next_if(|&l| l.is_ascii_alphanumeric() || l == '_' || (braced && l == '.')) {
        name.push(letter);
    }
    if name.is_empty() || (braced && rest.next() != Some('}')) {
        return None;
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(std::mem::take(text)));
    }
    pieces.push(Piece::Variable(name));
    Some(())
}

fn ahead(rest: &Peekable<Chars<'_>>, what: &str) -> bool {
    rest.clone().take(what.len()).eq(what.chars())
}

fn skip_line(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|&letter| letter != '\n').is_some() {}
}

/// Skips a C comment; how many lines it has.
fn skip_comment(rest: &mut Peekable<Chars<'_>>, line: usize) -> Result<usize, NoWord> {
    let mut lines = 0;
    while !ahead(rest, "*/") {
        match rest.next() {
            Some('\n') => lines += 1,
            Some(_) => {}
            None => return Err(NoWord { line, near: "unterminated comment".to_owned() }),
        }
    }
    rest.next();
    rest.next();
    Ok(lines)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::{Piece, Word, read};

    fn text(text: &str) -> Word {
        Word::String(vec![Piece::Text(text.to_owned())])
    }

    #[test]
    fn strings_bare_and_quoted() {
        let words = read("# c\n a.b+=\"x\\\"y\" 'z$a'; /* c\n */ p = \"/j/$name\"d, ${path}; // end").unwrap();
        let words: Vec<Word> = words.into_iter().map(|(word, _)| word).collect();
        assert_eq!(words[..5], [text("a.b"), Word::Sign('+'), text("x\"y"), text("z$a"), Word::Sign(';')]);
        let path = vec![Piece::Text("/j/".to_owned()), Piece::Variable("name".to_owned()), Piece::Text("d".to_owned())];
        assert_eq!(words[7], Word::String(path));
        assert_eq!(words[9], Word::String(vec![Piece::Variable("path".to_owned())]));
    }

    #[test]
    fn what_is_no_word_is_told_with_its_line() {
        assert_eq!(read("a;\nb = \"x").unwrap_err().line, 2);
        assert_eq!(read("a = ä;").unwrap_err().near, "ä");
        assert!(read("/* never").is_err());
    }
}
