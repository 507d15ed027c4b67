//! The statements of a jail.conf(5): from a text to its jails and parameters, with the place of everything. Pure.

use std::ops::Range;

use super::super::wrong::{Wrong, sane};
use super::Dialect;
use super::lex::{Lexer, Piece, Token, Word};

/// Levels of jails within jails.
const DEPTH: usize = 32;

/// A statement.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// `name = value;` and its kin.
    Param(Param),
    /// `name { … }`.
    Block(Block),
    /// `.include "pattern";`.
    Include(Include),
}

impl Item {
    pub(super) fn span(&self) -> Range<usize> {
        match self {
            Self::Param(param) => param.span.clone(),
            Self::Block(block) => block.span.clone(),
            Self::Include(include) => include.span.clone(),
        }
    }
}

/// A parameter or a variable with its value.
#[derive(Clone, Debug)]
pub(super) struct Param {
    /// The name, of a variable without its `$`.
    pub name: String,
    /// A variable, for substitution only.
    pub var: bool,
    /// `+=`: added to what there was.
    pub add: bool,
    /// The values; none where only the name stands.
    pub values: Vec<Word>,
    /// From the name to the semicolon, included.
    pub span: Range<usize>,
}

/// A jail.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Its name, as it stands there.
    pub name: String,
    /// Where the name stands, its quotes included.
    pub name_span: Range<usize>,
    /// The quotes of the name.
    pub quote: Option<char>,
    /// Just after the opening brace.
    pub open: usize,
    /// From the name to the closing brace, included.
    pub span: Range<usize>,
    /// What stands in it.
    pub items: Vec<Item>,
}

/// Another file's statements.
#[derive(Clone, Debug)]
pub(super) struct Include {
    /// Paths with wildcards, and where each stands.
    pub patterns: Vec<(String, Range<usize>)>,
    /// From the name to the semicolon, included.
    pub span: Range<usize>,
}

/// Reads the statements of a file.
pub(super) fn parse(file: &str, text: &str, dialect: Dialect) -> Result<Vec<Item>, Wrong> {
    sane(file, text)?;
    let mut parser = Parser { lexer: Lexer { file, text, at: 0, dialect, comment: None } };
    parser.items(0).map(|(items, _)| items)
}

struct Parser<'t> {
    lexer: Lexer<'t>,
}

impl Parser<'_> {
    fn words(&self, token: &Token) -> String {
        match token {
            Token::End(_) => "the end of the file".to_owned(),
            token => format!("{:?}", &self.lexer.text[token.span()]),
        }
    }

    /// Statements up to the brace that closes them, or the end of the file; and where that ends.
    fn items(&mut self, depth: usize) -> Result<(Vec<Item>, usize), Wrong> {
        let mut items = Vec::new();
        loop {
            let token = self.lexer.next()?;
            match token {
                Token::Sign(';', _) => {}
                Token::Sign('}', span) if depth > 0 => return Ok((items, span.end)),
                Token::End(at) if depth == 0 => return Ok((items, at)),
                Token::End(at) => {
                    return Err(self.lexer.wrong(at, "the file ends within a jail").help("end the jail with }"));
                }
                Token::Word(word) => items.push(self.statement(&word, depth)?),
                other => {
                    let what = format!("{} stands where a name should", self.words(&other));
                    return Err(self
                        .lexer
                        .wrong(other.span().start, what)
                        .help("a statement is NAME = VALUE; or NAME; or NAME { … }"));
                }
            }
        }
    }

    fn statement(&mut self, first: &Word, depth: usize) -> Result<Item, Wrong> {
        let start = first.span.start;
        let (name, var) = match first.pieces.as_slice() {
            [Piece::Text(name)] => (name.clone(), false),
            [Piece::Var(name)] => (name.clone(), true),
            _ => {
                let what = format!(
                    "{:?} is put together of several words, which a name must not be",
                    &self.lexer.text[first.span.clone()]
                );
                return Err(self.lexer.wrong(start, what).help("put all of it in one pair of quotes"));
            }
        };
        let mut next = self.lexer.next()?;
        if matches!(next, Token::Sign('{', _)) && !var {
            return self.block(first, name, next.span().end, depth).map(Item::Block);
        }
        let (mut add, mut bare) = (false, false);
        let mut values = Vec::new();
        match next {
            Token::Sign(';', span) => {
                return Ok(Item::Param(Param { name, var, add, values, span: start..span.end }));
            }
            Token::Sign('=', _) => next = self.lexer.next()?,
            Token::Add(_) => {
                add = true;
                next = self.lexer.next()?;
            }
            _ => bare = true,
        }
        loop {
            match next {
                Token::Word(word) => values.push(word),
                other => {
                    let what = match bare && values.is_empty() {
                        true => format!("{} after {name:?}, where =, += or ; should stand", self.words(&other)),
                        false => format!("{} stands where a value should", self.words(&other)),
                    };
                    return Err(self.lexer.wrong(other.span().start, what).help("put values with signs in quotes"));
                }
            }
            next = match self.lexer.next()? {
                Token::Sign(',', _) => self.lexer.next()?,
                Token::Sign(';', span) => {
                    let span = start..span.end;
                    if name == ".include" && !var {
                        return self.include(values, bare, span).map(Item::Include);
                    }
                    return Ok(Item::Param(Param { name, var, add, values, span }));
                }
                other => {
                    let what = format!("{} stands where a semicolon should, after {name:?}", self.words(&other));
                    return Err(self
                        .lexer
                        .wrong(other.span().start, what)
                        .help("every parameter ends with a semicolon"));
                }
            };
        }
    }

    fn block(&mut self, first: &Word, name: String, open: usize, depth: usize) -> Result<Block, Wrong> {
        let start = first.span.start;
        if depth > 0 && self.lexer.dialect == Dialect::Plain {
            return Err(self
                .lexer
                .wrong(start, "a jail within a jail, which jail(8) of this release refuses")
                .help("write it beside the other, with the name PARENT.CHILD"));
        }
        if depth == DEPTH {
            return Err(self.lexer.wrong(start, format!("jails within jails, more than {DEPTH} deep")));
        }
        if name.is_empty() {
            return Err(self.lexer.wrong(start, "a jail without a name"));
        }
        let (items, end) = self.items(depth + 1)?;
        Ok(Block { name, name_span: first.span.clone(), quote: first.quote, open, span: start..end, items })
    }

    fn include(&self, values: Vec<Word>, bare: bool, span: Range<usize>) -> Result<Include, Wrong> {
        if self.lexer.dialect == Dialect::Plain {
            return Err(self
                .lexer
                .wrong(span.start, ".include, which jail(8) of this release does not know")
                .help("write the jails into this file, or give each a file /etc/jail.NAME.conf of its own"));
        }
        if !bare {
            return Err(self
                .lexer
                .wrong(span.start, ".include with = is no include to jail(8), but an unknown parameter")
                .help("write it as .include \"file\";"));
        }
        let literal = |word: Word| {
            let text = word.pieces.iter().map(|piece| match piece {
                Piece::Text(text) => Ok(text.as_str()),
                Piece::Var(name) => Err(self
                    .lexer
                    .wrong(word.span.start, format!("the variable {name:?} in the path of an include"))
                    .help("write the path out")),
            });
            Ok((text.collect::<Result<String, Wrong>>()?, word.span.clone()))
        };
        Ok(Include { patterns: values.into_iter().map(literal).collect::<Result<_, Wrong>>()?, span })
    }
}
