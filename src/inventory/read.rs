//! Strict reading of TOML with places: every value is asked for by its key, what nobody asked for is an error, and
//! all errors of a file are collected.
//!
//! Knows TOML, not the inventory. A [`Section`] may have a second layer (`[defaults]`) that gives what the first has not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One error of the inventory, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File.
    pub file: PathBuf,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// The key with its tables: `guests.mercure.clone.ip`. Empty if the file could not be parsed.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
    /// What the operator can do.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file.display(), self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// A file that was read.
pub(crate) struct Source {
    pub path: PathBuf,
    pub text: String,
}

/// Files and the problems found in them. A problem is kept once, however often its place is read.
pub(crate) struct Problems<'a> {
    sources: &'a [Source],
    found: RefCell<BTreeMap<(usize, usize, String), Problem>>,
}

impl<'a> Problems<'a> {
    pub fn new(sources: &'a [Source]) -> Self {
        Self { sources, found: RefCell::default() }
    }

    pub fn into_list(self) -> Vec<Problem> {
        self.found.into_inner().into_values().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// Notes that something is defined for the second time.
    pub fn again(&self, place: &Place, first: &Place) {
        let source = &self.sources[first.file];
        let line = source.text[..first.span.start].matches('\n').count() + 1;
        let help = format!("it stands in {}:{line} already", source.path.display());
        self.add(place, "is defined a second time", Some(help));
    }

    pub fn add(&self, place: &Place, message: impl Into<String>, help: Option<String>) {
        let message = message.into();
        let source = &self.sources[place.file];
        let mut offset = place.span.start.min(source.text.len());
        while !source.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &source.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        self.found.borrow_mut().entry((place.file, offset, message.clone())).or_insert_with(|| Problem {
            file: source.path.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: place.key.clone(),
            message,
            help,
        });
    }
}

/// Where something stands.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub file: usize,
    pub span: Range<usize>,
    pub key: String,
}

struct Layer<'a> {
    table: &'a DeTable<'a>,
    place: Place,
}

/// A table that is being read.
pub(crate) struct Section<'a> {
    problems: &'a Problems<'a>,
    layers: Vec<Layer<'a>>,
    known: RefCell<Vec<&'static str>>,
}

/// A value that is being read.
pub(crate) struct Item<'a> {
    problems: &'a Problems<'a>,
    value: &'a DeValue<'a>,
    pub place: Place,
}

/// The closest of some words, if one is close: `did you mean "quarantine"?`.
pub(crate) fn did_you_mean<'w>(word: &str, known: impl IntoIterator<Item = &'w str>) -> Option<String> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(word.len()).div_ceil(3))
        .min()
        .map(|(_, candidate)| format!("did you mean \"{candidate}\"?"))
}

fn one_of<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    words.into_iter().collect::<Vec<_>>().join(", ")
}

impl<'a> Section<'a> {
    /// The top of a file.
    pub fn top(problems: &'a Problems<'a>, file: usize, table: &'a DeTable<'a>) -> Self {
        let layer = Layer { table, place: Place { file, span: 0..0, key: String::new() } };
        Self { problems, layers: vec![layer], known: RefCell::default() }
    }

    /// The same table, to be read once more.
    pub fn again(&self) -> Self {
        Self { problems: self.problems, layers: Vec::new(), known: RefCell::default() }.over(Some(self))
    }

    /// The same with another section beneath it.
    pub fn over(mut self, beneath: Option<&Section<'a>>) -> Self {
        for layer in beneath.into_iter().flat_map(|section| &section.layers) {
            self.layers.push(Layer { table: layer.table, place: layer.place.clone() });
        }
        self
    }

    /// Where the table begins.
    pub fn place(&self) -> &Place {
        &self.layers[0].place
    }

    /// Notes a problem with the table itself.
    pub fn problem(&self, message: impl Into<String>, help: Option<&str>) {
        self.problems.add(self.place(), message, help.map(str::to_owned));
    }

    /// Every key with its value, uppermost layer first; all count as known. For tables whose keys are names.
    pub fn entries(&self) -> Vec<(String, Item<'a>)> {
        let mut entries: Vec<(String, Item<'a>)> = Vec::new();
        for layer in &self.layers {
            for (key, value) in layer.table.iter() {
                let name = key.get_ref().to_string();
                if !entries.iter().any(|(known, _)| *known == name) {
                    let item = self.item(layer, &name, key.span(), value);
                    entries.push((name, item));
                }
            }
        }
        entries
    }

    /// A key's value, from the uppermost layer that has it.
    pub fn get(&self, key: &'static str) -> Option<Item<'a>> {
        self.known.borrow_mut().push(key);
        self.layers.iter().find_map(|layer| {
            let (name, value) = layer.table.get_key_value(key)?;
            Some(self.item(layer, key, name.span(), value))
        })
    }

    /// A key's value; its absence is a problem.
    pub fn need(&self, key: &'static str, help: &str) -> Option<Item<'a>> {
        let item = self.get(key);
        if item.is_none() {
            self.problem(format!("the key \"{key}\" is missing"), Some(help));
        }
        item
    }

    /// A table, with the tables of the same key in lower layers beneath it.
    pub fn section(&self, key: &'static str) -> Option<Section<'a>> {
        self.known.borrow_mut().push(key);
        let mut layers = Vec::new();
        for layer in &self.layers {
            if let Some((name, value)) = layer.table.get_key_value(key)
                && let Some(section) = self.item(layer, key, name.span(), value).section()
            {
                layers.extend(section.layers);
            }
        }
        (!layers.is_empty()).then(|| Section { problems: self.problems, layers, known: RefCell::default() })
    }

    fn item(&self, layer: &Layer<'a>, key: &str, span: Range<usize>, value: &'a Spanned<DeValue<'a>>) -> Item<'a> {
        let path = &layer.place.key;
        let key = if path.is_empty() { key_word(key) } else { format!("{path}.{}", key_word(key)) };
        // A table's own span may be empty or far away (dotted keys); its key is where people look.
        let span = if value.get_ref().is_table() { span } else { value.span() };
        Item { problems: self.problems, value: value.get_ref(), place: Place { file: layer.place.file, span, key } }
    }

    /// A key's string.
    pub fn string(&self, key: &'static str) -> Option<String> {
        self.get(key).and_then(|item| item.string())
    }
    /// A key's string, read by a parser whose errors are fragments.
    pub fn parse<T>(&self, key: &'static str, parser: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.get(key).and_then(|item| item.parse(parser))
    }
    /// A key's word, one of these.
    pub fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.get(key).and_then(|item| item.choice(words))
    }
    /// A key's truth value, false if absent.
    pub fn flag(&self, key: &'static str) -> bool {
        self.get(key).and_then(|item| item.boolean()).unwrap_or(false)
    }
    /// A key's integer within a range.
    pub fn integer<T: TryFrom<i64>>(&self, key: &'static str, range: std::ops::RangeInclusive<i64>) -> Option<T> {
        self.get(key).and_then(|item| item.integer(range))
    }
    /// A key's array of strings, empty if absent.
    pub fn strings(&self, key: &'static str) -> Vec<String> {
        self.get(key).map(|item| item.strings()).unwrap_or_default()
    }
    /// A key's command: an array with at least a program.
    pub fn argv(&self, key: &'static str) -> Option<Vec<String>> {
        self.get(key).and_then(|item| item.argv())
    }
    /// A key's absolute path.
    pub fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.parse(key, absolute_path)
    }
    /// A key's duration, in seconds.
    pub fn seconds(&self, key: &'static str) -> Option<u64> {
        self.parse(key, |text| super::values::parse_duration(text).map(|duration| duration.as_secs()))
    }

    /// Everything was asked for: what is left is unknown. `of` says of what, for the help line.
    pub fn finish(self, of: &str) {
        let known = self.known.borrow();
        for layer in &self.layers {
            for (name, value) in layer.table.iter() {
                let key = name.get_ref().as_ref();
                if known.contains(&key) {
                    continue;
                }
                let mut place = self.item(layer, key, name.span(), value).place;
                place.span = name.span();
                let help = did_you_mean(key, known.iter().copied())
                    .unwrap_or_else(|| format!("{of} has: {}", one_of(known.iter().copied())));
                self.problems.add(&place, "unknown key", Some(help));
            }
        }
    }
}

/// A key as it is written in TOML: in quotes where it has to be, nothing of it hidden.
pub(crate) fn key_word(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if bare { key.to_owned() } else { format!("{key:?}") }
}

/// Reads an absolute path without `..`.
pub(crate) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let sound = text.starts_with('/') && !text.contains('\0') && !text.split('/').any(|part| part == "..");
    if sound { Ok(PathBuf::from(text)) } else { Err(format!("{text:?} is not an absolute path without \"..\"")) }
}

impl<'a> Item<'a> {
    /// Notes a problem with this value.
    pub fn problem(&self, message: impl Into<String>, help: Option<String>) {
        self.problems.add(&self.place, message, help);
    }

    fn wrong_type(&self, wanted: &str) {
        self.problem(format!("is {}, not {wanted}", with_article(self.value.type_str())), None);
    }

    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub fn section(&self) -> Option<Section<'a>> {
        let Some(table) = self.value.as_table() else {
            self.wrong_type("a table");
            return None;
        };
        let layers = vec![Layer { table, place: self.place.clone() }];
        Some(Section { problems: self.problems, layers, known: RefCell::default() })
    }

    pub fn string(&self) -> Option<String> {
        let Some(text) = self.value.as_str() else {
            self.wrong_type("a string");
            return None;
        };
        if text.is_empty() {
            self.problem("is empty", Some("leave the key out if you do not need it".into()));
            return None;
        }
        if text.contains('\0') {
            self.problem("contains a NUL character", None);
            return None;
        }
        Some(text.to_owned())
    }

    pub fn parse<T>(&self, parser: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        parser(&self.string()?).map_err(|message| self.problem(message, None)).ok()
    }

    pub fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known = || words.iter().map(|(word, _)| *word);
            let help = did_you_mean(&text, known());
            self.problem(format!("{text:?} is not one of {}", one_of(known())), help);
        }
        found
    }

    pub fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.wrong_type("true or false");
        }
        value
    }

    pub fn integer<T: TryFrom<i64>>(&self, range: std::ops::RangeInclusive<i64>) -> Option<T> {
        let Some(integer) = self.value.as_integer() else {
            self.wrong_type("a number");
            return None;
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|n| range.contains(n));
        let value = number.and_then(|n| T::try_from(n).ok());
        if value.is_none() {
            self.problem(format!("{integer} is not between {} and {}", range.start(), range.end()), None);
        }
        value
    }

    pub fn is_array(&self) -> bool {
        self.value.is_array()
    }

    /// Whether it is written in quotes.
    pub fn is_string(&self) -> bool {
        self.value.as_str().is_some()
    }

    pub fn items(&self) -> Vec<Item<'a>> {
        let Some(array) = self.value.as_array() else {
            self.wrong_type("an array");
            return Vec::new();
        };
        let element = |(index, value): (usize, &'a Spanned<DeValue<'a>>)| Item {
            problems: self.problems,
            value: value.get_ref(),
            place: Place { file: self.place.file, span: value.span(), key: format!("{}[{index}]", self.place.key) },
        };
        array.iter().enumerate().map(element).collect()
    }

    pub fn strings(&self) -> Vec<String> {
        self.items().iter().filter_map(Item::string).collect()
    }

    pub fn argv(&self) -> Option<Vec<String>> {
        if self.value.is_str() {
            self.problem("is a string, not an array", Some("write a command as [\"program\", \"argument\"]".into()));
            return None;
        }
        let items = self.items();
        let text = |item: &Item<'_>| match item.value.as_str() {
            Some("") => Some(String::new()),
            _ => item.string(),
        };
        let argv: Option<Vec<String>> = items.iter().map(text).collect();
        let argv = argv?;
        if argv.first().is_none_or(String::is_empty) {
            if self.value.is_array() {
                self.problem("names no program", Some("write a command as [\"program\", \"argument\"]".into()));
            }
            return None;
        }
        Some(argv)
    }
}

fn with_article(word: &str) -> String {
    let article = if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {word}")
}
