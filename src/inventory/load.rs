//! Finding and reading the files: the inventory and the directory beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, Error as TomlError};

use super::guests::{Known, check_name, guest};
use super::hosts::host;
use super::model::Inventory;
use super::read::{Item, Place, Problem, Problems, Section, Source};

/// An inventory has thousands of lines at most; beyond this it is something else.
const LIMIT: u64 = 4 << 20;

/// Why an inventory could not be loaded.
#[derive(Debug)]
pub enum InventoryError {
    /// A file could not be read.
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What is written there is wrong: every error found, in file order; never empty.
    Invalid(Vec<Problem>),
}

impl fmt::Display for InventoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "read the inventory {}: {source}", path.display()),
            Self::Invalid(problems) => {
                let count = problems.len();
                write!(f, "read the inventory: {count} error{}", if count == 1 { "" } else { "s" })?;
                problems.iter().try_for_each(|problem| write!(f, "\n{problem}"))
            }
        }
    }
}

impl std::error::Error for InventoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Invalid(_) => None,
        }
    }
}

/// Loads `path`, then `*.toml` of the directory beside it (`inventory.toml` has `inventory.d`), in name order.
pub fn load(path: &Path) -> Result<Inventory, InventoryError> {
    let mut sources = vec![read(path)?];
    for part in parts(&path.with_extension("d"))? {
        sources.push(read(&part)?);
    }
    parse(&sources)
}

/// The inventory that a text by itself would be.
pub(crate) fn parse_text(text: &str) -> Result<Inventory, InventoryError> {
    parse(&[Source { path: "inventory.toml".into(), text: text.to_owned() }])
}

/// Reads another file of the operator's in the same strict way: `read` asks for what it knows, and what nobody asked for
/// is an error with its place.
pub(crate) fn load_other<T>(
    path: &Path,
    of: &str,
    read_top: impl FnOnce(&Section<'_>) -> Option<T>,
) -> Result<T, InventoryError> {
    let sources = [read(path)?];
    let problems = Problems::new(&sources);
    let (table, errors) = DeTable::parse_recoverable(&sources[0].text);
    errors.iter().for_each(|error| syntax(&problems, 0, error));
    let mut value = None;
    if problems.is_empty() {
        let top = Section::top(&problems, 0, table.get_ref());
        version(&top, true);
        value = read_top(&top);
        top.finish(of);
    }
    match (problems.into_list(), value) {
        (list, Some(value)) if list.is_empty() => Ok(value),
        (list, _) => Err(InventoryError::Invalid(list)),
    }
}

fn read(path: &Path) -> Result<Source, InventoryError> {
    let io = |source| InventoryError::Io { path: path.to_owned(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(LIMIT + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > LIMIT {
        return Err(io(std::io::Error::other(format!("larger than {LIMIT} bytes"))));
    }
    Ok(Source { path: path.to_owned(), text })
}

fn parts(directory: &Path) -> Result<Vec<PathBuf>, InventoryError> {
    let io = |source| InventoryError::Io { path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut parts = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            parts.push(path);
        }
    }
    parts.sort();
    Ok(parts)
}

fn parse(sources: &[Source]) -> Result<Inventory, InventoryError> {
    let problems = Problems::new(sources);
    let tables: Vec<Spanned<DeTable<'_>>> = sources
        .iter()
        .enumerate()
        .map(|(file, source)| {
            let (table, errors) = DeTable::parse_recoverable(&source.text);
            errors.iter().for_each(|error| syntax(&problems, file, error));
            table
        })
        .collect();
    // What a broken file seems to say is not judged.
    let inventory = if problems.is_empty() { assemble(&problems, &tables) } else { Inventory::default() };
    let problems = problems.into_list();
    if problems.is_empty() { Ok(inventory) } else { Err(InventoryError::Invalid(problems)) }
}

fn syntax(problems: &Problems<'_>, file: usize, error: &TomlError) {
    let place = Place { file, span: error.span().unwrap_or_default(), key: String::new() };
    let message = error.message().trim().replace('\n', "; ");
    let help = message.starts_with("duplicate key").then(|| "a key or table may stand only once".to_owned());
    problems.add(&place, message, help);
}

fn assemble<'a>(problems: &'a Problems<'a>, tables: &'a [Spanned<DeTable<'a>>]) -> Inventory {
    let mut defaults: Option<Section<'a>> = None;
    let mut hosts: BTreeMap<String, Item<'a>> = BTreeMap::new();
    let mut guests: BTreeMap<String, Item<'a>> = BTreeMap::new();
    for (file, table) in tables.iter().enumerate() {
        let top = Section::top(problems, file, table.get_ref());
        version(&top, file == 0);
        if let Some(section) = top.section("defaults") {
            match &defaults {
                Some(first) => problems.again(section.place(), first.place()),
                None => defaults = Some(section),
            }
        }
        collect(problems, top.section("hosts"), &mut hosts);
        collect(problems, top.section("guests"), &mut guests);
        top.finish("the inventory");
    }
    let names: Vec<String> = hosts.keys().cloned().collect();
    let known = Known { hosts: &names };
    if let Some(defaults) = &defaults {
        // Judged by itself too: a slip in it is told even if no guest is declared.
        guest("", defaults.again(), &known, true);
    }
    let read_guest = |(name, item): (&String, &Item<'a>)| {
        let section = item.section()?.over(defaults.as_ref());
        Some((name.clone(), guest(name, section, &known, false)?))
    };
    Inventory {
        guests: guests.iter().filter_map(read_guest).collect(),
        hosts: hosts.iter().filter_map(|(name, item)| Some((name.clone(), host(item)?))).collect(),
    }
}

fn version(top: &Section<'_>, needed: bool) {
    match top.get("version") {
        None if needed => top.problem("the key \"version\" is missing", Some("begin the file with: version = 1")),
        None => {}
        Some(item) => {
            if let Some(version) = item.integer::<i64>(i64::MIN..=i64::MAX)
                && version != 1
            {
                item.problem(format!("version {version} is not known"), Some("this upgradectl reads version 1".into()));
            }
        }
    }
}

/// Adds a file's hosts or guests; a name that is there already is an error.
fn collect<'a>(problems: &Problems<'a>, section: Option<Section<'a>>, all: &mut BTreeMap<String, Item<'a>>) {
    let Some(section) = section else { return };
    for (name, item) in section.entries() {
        check_name(problems, &item.place, &name);
        match all.get(&name) {
            Some(first) => problems.again(&item.place, &first.place),
            None => {
                all.insert(name, item);
            }
        }
    }
}
