//! rc.conf(5) as far as it is plain: assignments of sh(1), which programs like sysrc(8) and this one can read and change.
//!
//! The file is a program. What is more than an assignment of words and earlier variables (commands, substitutions,
//! conditions) is kept, told of, and never evaluated; a variable that it may set has no known value, and is not edited.
//! A file that is read in by the file (`. /etc/other`) is such code: it is told of, and what it sets is not known here.
//!
//! * `parse`: from a text to its statements. [`edit`]: one variable set, unset, a word more or less in a list.
//! * [`kind`]: what a variable is about, for the reduction of a server's rc.conf to what a jail needs.
//! * [`jails`]: the jails of rc.d/jail's conventions. [`variables`]: one of the old way as a definition. [`alias`]: addresses of interfaces.

pub mod alias;
pub mod edit;
pub mod jails;
pub mod kind;
mod parse;
pub mod variables;

use std::collections::BTreeMap;
use std::ops::Range;

use super::wrong::{Place, Wrong, line_starts, sane};

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Rc {
    file: String,
    text: String,
    lines: Vec<usize>,
    statements: Vec<Statement>,
    /// The last assignment of each name.
    last: BTreeMap<String, usize>,
    /// Names that code may set, by the code that last does.
    touched: BTreeMap<String, usize>,
}

/// Something that sh(1) would do.
#[derive(Clone, Debug)]
pub enum Statement {
    /// `name=value`.
    Assign(Assign),
    /// Anything else.
    Code(Code),
}

/// An assignment.
#[derive(Clone, Debug)]
pub struct Assign {
    /// The variable.
    pub name: String,
    /// What it gets; `None` if that takes more than words and variables known by then.
    pub value: Option<String>,
    /// From the name to the end of the value.
    pub span: Range<usize>,
    /// The value as it is written.
    pub value_span: Range<usize>,
    /// Its quotes, if all of it stands in one pair.
    pub quote: Option<char>,
}

/// Code that is left alone.
#[derive(Clone, Debug)]
pub struct Code {
    /// Where it stands: whole lines, or the rest of one.
    pub span: Range<usize>,
    /// What makes it more than assignments.
    pub why: &'static str,
}

/// What is known of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The file does not set it; /etc/defaults/rc.conf may.
    Unset,
    /// It is this.
    Is(String),
    /// Code has a part in it; where.
    Unknown(Place),
}

impl Value {
    /// The value, if it is known and not empty, as rc.d/jail looks at it.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Is(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }
}

impl Rc {
    /// Reads a file.
    pub fn parse(file: &str, text: &str) -> Result<Self, Wrong> {
        sane(file, text)?;
        let statements = parse::statements(file, text)?;
        let (mut last, mut touched) = (BTreeMap::new(), BTreeMap::new());
        for (index, statement) in statements.iter().enumerate() {
            match statement {
                Statement::Assign(assign) => drop(last.insert(assign.name.clone(), index)),
                Statement::Code(code) => {
                    for name in parse::may_set(&text[code.span.clone()]) {
                        touched.insert(name, index);
                    }
                }
            }
        }
        let (file, text, lines) = (file.to_owned(), text.to_owned(), line_starts(text));
        Ok(Self { file, text, lines, statements, last, touched })
    }

    /// The text, byte for byte.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the file does, in order.
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// The assignments, in order, those that a later one replaces included.
    pub fn assigns(&self) -> impl Iterator<Item = &Assign> {
        self.statements.iter().filter_map(|statement| match statement {
            Statement::Assign(assign) => Some(assign),
            Statement::Code(_) => None,
        })
    }

    /// Code that is kept and not evaluated: where, and what makes it code.
    pub fn code(&self) -> impl Iterator<Item = (Place, &'static str)> {
        self.statements.iter().filter_map(|statement| match statement {
            Statement::Assign(assign) if assign.value.is_none() => {
                Some((self.place(assign.span.start), "a value that only sh can tell"))
            }
            Statement::Assign(_) => None,
            Statement::Code(code) => Some((self.place(code.span.start), code.why)),
        })
    }

    /// What a variable is at the end of the file.
    pub fn value(&self, name: &str) -> Value {
        if let Some(index) = self.touched.get(name)
            && let Statement::Code(code) = &self.statements[*index]
        {
            return Value::Unknown(self.place(code.span.start));
        }
        match self.last_assign(name) {
            None => Value::Unset,
            Some(assign) => match &assign.value {
                Some(value) => Value::Is(value.clone()),
                None => Value::Unknown(self.place(assign.value_span.start)),
            },
        }
    }

    fn last_assign(&self, name: &str) -> Option<&Assign> {
        match &self.statements[*self.last.get(name)?] {
            Statement::Assign(assign) => Some(assign),
            Statement::Code(_) => None,
        }
    }

    /// The words of a list.
    pub fn words(&self, name: &str) -> Vec<String> {
        let value = self.value(name);
        value.text().into_iter().flat_map(str::split_ascii_whitespace).map(str::to_owned).collect()
    }

    /// The place of a byte.
    pub fn place(&self, at: usize) -> Place {
        Place::by(&self.file, &self.text, &self.lines, at)
    }
}

/// Whether a word is yes to rc.subr(8): `YES`, `TRUE`, `ON` or `1`, in letters of any size.
pub fn is_yes(value: &str) -> bool {
    ["yes", "true", "on", "1"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

/// Whether a word can be the name of a variable.
fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
