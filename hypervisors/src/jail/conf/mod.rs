//! jail.conf(5) as jail(8) reads it: its files, what they make of one jail, and edits of one jail.
//!
//! * `lex`, `parse`, `glob`: from a text to its statements. What jail(8) refuses is refused, with its place and what helps.
//! * [`Config`]: the statements of a file and of all it includes, and the jails they define.
//! * [`effective`]: the parameters of one jail, each with where it comes from.
//! * [`edit`]: changes of one jail that leave every other byte alone. `add`: new jails.

mod add;
pub(super) mod cut;
pub mod edit;
pub mod effective;
mod glob;
mod lex;
pub(super) mod mark;
mod parse;
mod write;

use std::collections::BTreeMap;
use std::ops::Range;

pub use self::add::{NewJail, name_of};
pub use self::effective::Effective;
use self::lex::{Piece, Word};
use self::parse::{Block, Include, Item, Param, parse};
use super::wrong::{Place, Wrong, line_starts};

/// Texts by absolute path.
pub type Files = BTreeMap<String, String>;

/// Files within files that jail(8) reads.
const DEPTH: usize = 32;

/// Which jail(8) reads the file. The two differ in more than `.include`: to the old one parameters outside of jails count from
/// where they stand, to the new one all of them count from where the first one stands, so that one below all jails no longer
/// overrides them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Without `.include` (9.1 to 12): jails in jails are refused too.
    Plain,
    /// With `.include`; in jail.conf(5) since June 2023.
    Including,
}

/// A configuration: a file and all that it includes.
#[derive(Clone, Debug)]
pub struct Config {
    root: String,
    files: Files,
    dialect: Dialect,
    definitions: Vec<Definition>,
    /// Where the lines of each file begin.
    lines: BTreeMap<String, Vec<usize>>,
    /// Definitions by name.
    names: BTreeMap<String, Vec<usize>>,
}

/// A jail, or a wildcard that gives parameters to jails.
#[derive(Clone, Debug)]
struct Definition {
    /// Its name; for a jail within a jail that of its parents too.
    name: String,
    /// A wildcard.
    wild: bool,
    /// Where it is; parameters outside of jails have no block.
    block: Option<InFile<Block>>,
    params: Vec<InFile<Param>>,
}

/// Something in a file.
#[derive(Clone, Debug)]
struct InFile<T> {
    file: String,
    it: T,
}

impl Config {
    /// Reads a file and what it includes. A file that is included by its name and is not among the texts is an error.
    pub fn read(root: &str, files: &Files, dialect: Dialect) -> Result<Self, Wrong> {
        let mut loader = Loader::new(files, dialect, true);
        loader.file(root, &[], 0)?;
        let lines = files.iter().map(|(name, text)| (name.clone(), line_starts(text))).collect();
        let definitions = loader.definitions;
        let mut names: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, definition) in definitions.iter().enumerate() {
            names.entry(definition.name.clone()).or_default().push(index);
        }
        Ok(Self { root: root.to_owned(), files: files.clone(), dialect, definitions, lines, names })
    }

    /// The paths, with wildcards, of what a file includes as far as the texts are known: to be looked up on the host, added to
    /// the texts, and asked for again until nothing is added.
    pub fn wanted(root: &str, files: &Files, dialect: Dialect) -> Result<Vec<String>, Wrong> {
        let mut loader = Loader::new(files, dialect, false);
        loader.file(root, &[], 0)?;
        Ok(loader.wanted)
    }

    /// The file that was read first.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Names of the jails, in order; wildcards left out.
    pub fn jails(&self) -> Vec<&str> {
        let jails = self.definitions.iter().filter(|definition| !definition.wild);
        jails.map(|definition| definition.name.as_str()).collect()
    }

    /// The file in which a jail's own block stands.
    pub fn file_of(&self, jail: &str) -> Result<&str, Wrong> {
        Ok(&self.own(jail)?.1.file)
    }

    /// A jail's own block, byte for byte. [`Config::with_block`] puts it back.
    pub fn block(&self, jail: &str) -> Result<&str, Wrong> {
        let (_, block) = self.own(jail)?;
        Ok(&self.text(&block.file)[block.it.span.clone()])
    }

    pub(super) fn text(&self, file: &str) -> &str {
        self.files.get(file).map_or("", String::as_str)
    }

    fn place(&self, file: &str, at: usize) -> Place {
        Place::by(file, self.text(file), self.lines.get(file).map_or(&[], Vec::as_slice), at)
    }

    /// The same configuration with another text of one file.
    fn with(&self, file: &str, text: String) -> Result<Self, Wrong> {
        let mut files = self.files.clone();
        files.insert(file.to_owned(), text);
        Self::read(&self.root, &files, self.dialect)
    }

    /// A jail's definition; two of one name are refused, since which of them jail(8) finds is chance.
    fn own(&self, jail: &str) -> Result<(&Definition, &InFile<Block>), Wrong> {
        let missing = || Wrong::new(Place::whole(&self.root), format!("there is no jail {jail:?}"));
        if is_wildcard(jail) {
            return Err(missing().help("a name with * as a part gives parameters to jails and is none itself"));
        }
        let mut named = self.names.get(jail).into_iter().flatten().map(|index| &self.definitions[*index]);
        let found = named.next().and_then(|found| Some((found, found.block.as_ref()?))).ok_or_else(missing)?;
        match named.next().and_then(|second| second.block.as_ref()) {
            Some(second) => {
                let place = self.place(&second.file, second.it.span.start);
                Err(Wrong::new(place, format!("jail {jail:?} is defined a second time")).help("keep one of the two"))
            }
            None => Ok(found),
        }
    }
}

/// Whether a name is a wildcard to jail(8): `*` as one whole part between dots. `web*` is an ordinary name.
fn is_wildcard(name: &str) -> bool {
    name.split('.').any(|part| part == "*")
}

/// Whether a wildcard gives parameters to a jail: a `*` in the middle stands for one part, at the end for one or more.
fn applies(wildcard: &str, jail: &str) -> bool {
    let (mut wild, mut name) = (wildcard, jail);
    while let (Some((wild_part, wild_rest)), Some((part, rest))) = (wild.split_once('.'), name.split_once('.')) {
        if wild_part != part && wild_part != "*" {
            return false;
        }
        (wild, name) = (wild_rest, rest);
    }
    wild == name || wild == "*"
}

struct Loader<'f> {
    files: &'f Files,
    dialect: Dialect,
    strict: bool,
    definitions: Vec<Definition>,
    /// Where parameters outside of jails are collected.
    global: Option<usize>,
    wanted: Vec<String>,
    /// Files read so far: a tree of includes may name one again and again.
    read: usize,
}

impl<'f> Loader<'f> {
    fn new(files: &'f Files, dialect: Dialect, strict: bool) -> Self {
        Self { files, dialect, strict, definitions: Vec::new(), global: None, wanted: Vec::new(), read: 0 }
    }

    fn file(&mut self, path: &str, inside: &[usize], depth: usize) -> Result<(), Wrong> {
        let files = self.files;
        let text = files.get(path).ok_or_else(|| Wrong::new(Place::whole(path), "there is no such file"))?;
        self.read += 1;
        let items = parse(path, text, self.dialect)?;
        self.items(path, items, inside, depth)
    }

    /// `inside`: the jails around, outermost first.
    fn items(&mut self, file: &str, items: Vec<Item>, inside: &[usize], depth: usize) -> Result<(), Wrong> {
        for item in items {
            match item {
                Item::Param(param) => {
                    let at = inside.last().copied().unwrap_or_else(|| self.global());
                    self.definitions[at].params.push(InFile { file: file.to_owned(), it: param });
                }
                Item::Block(block) => {
                    let parent = inside.last().map(|parent| format!("{}.", self.definitions[*parent].name));
                    let name = parent.unwrap_or_default() + &block.name;
                    let within = block.items.clone();
                    let block = Some(InFile { file: file.to_owned(), it: block });
                    let wild = is_wildcard(&name);
                    self.definitions.push(Definition { name, wild, block, params: Vec::new() });
                    let inside: Vec<usize> = inside.iter().copied().chain([self.definitions.len() - 1]).collect();
                    self.items(file, within, &inside, depth)?;
                }
                Item::Include(include) => self.include(file, &include, inside, depth)?,
            }
        }
        Ok(())
    }

    /// To the old jail(8) a jail ends the parameters outside of jails before it, to the new one there is one place for all.
    fn global(&mut self) -> usize {
        let last = self.definitions.len().checked_sub(1);
        let open = match self.dialect {
            Dialect::Plain => last.filter(|last| self.definitions[*last].name == "*"),
            Dialect::Including => self.global,
        };
        open.unwrap_or_else(|| {
            self.definitions.push(Definition { name: "*".to_owned(), wild: true, block: None, params: Vec::new() });
            self.global = Some(self.definitions.len() - 1);
            self.definitions.len() - 1
        })
    }

    fn include(&mut self, file: &str, include: &Include, inside: &[usize], depth: usize) -> Result<(), Wrong> {
        let wrong = |at: &Range<usize>, what: String| {
            Wrong::new(Place::of(file, self.files.get(file).map_or("", String::as_str), at.start), what)
        };
        if depth == DEPTH || self.read > 10_000 {
            let what = format!("files include each other, more than {DEPTH} deep");
            return Err(wrong(&include.span, what).help("a file must not include itself"));
        }
        for (pattern, at) in &include.patterns {
            let folder = file.rfind('/').map_or("", |slash| &file[..=slash]);
            let path = if pattern.starts_with('/') { pattern.clone() } else { format!("{folder}{pattern}") };
            let found: Vec<String> = match glob::is_pattern(&path) {
                true => self.files.keys().filter(|name| glob::matches(&path, name)).cloned().collect(),
                false => self.files.contains_key(&path).then(|| path.clone()).into_iter().collect(),
            };
            if found.is_empty() && self.strict && !glob::is_pattern(&path) {
                let what = format!("{path} is included, and is not there: jail(8) reads nothing then");
                return Err(wrong(at, what).help("make the file, or take the line out"));
            }
            if !self.wanted.contains(&path) {
                self.wanted.push(path);
            }
            for name in found {
                self.file(&name, inside, depth + 1)?;
            }
        }
        Ok(())
    }
}
