//! A jail.conf(5): its statements, and what they make of one jail. Written from the manual page, apart from the product's
//! reader; what the page does not say is an error here.

use std::collections::BTreeMap;

use super::parameters::{Meaning, meaning};
use super::words::{self, Piece, Word};
use crate::host::Host;

/// `name = value, …;`, `name += value, …;` or `name;`.
#[derive(Debug, Clone)]
struct Statement {
    name: String,
    /// A variable, `$name`.
    is_variable: bool,
    added: bool,
    /// None for a switch.
    values: Option<Vec<Vec<Piece>>>,
}

/// A block and its statements. The statements outside of blocks are of the block `*` (jail.conf(5)).
#[derive(Debug, Clone)]
struct Block {
    name: String,
    statements: Vec<Statement>,
}

/// A configuration as it was read.
#[derive(Debug, Default)]
pub struct Conf {
    blocks: Vec<Block>,
}

/// A parameter of a jail: its values, or whether it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A list; most have one element.
    List(Vec<String>),
    /// A switch.
    On(bool),
}

/// One jail's parameters, in the order in which they were first named.
#[derive(Debug, Clone, Default)]
pub struct Jail {
    /// Its name.
    pub name: String,
    /// Its parameters.
    pub parameters: Vec<(String, Value)>,
}

impl Jail {
    /// The values of a parameter; none if it is not there.
    pub fn list(&self, name: &str) -> &[String] {
        match self.parameters.iter().find(|(known, _)| known == name) {
            Some((_, Value::List(values))) => values,
            _ => &[],
        }
    }

    /// The last value of a parameter.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.list(name).last().map(String::as_str)
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.parameters.iter().any(|(known, value)| known == name && *value == Value::On(true))
    }
}

impl Conf {
    /// Reads a file and what it includes. The error is what jail(8) says after its own name.
    pub fn read(host: &Host, file: &str) -> Result<Self, String> {
        let mut conf = Self::default();
        conf.take(host, file, 0)?;
        Ok(conf)
    }

    fn take(&mut self, host: &Host, file: &str, depth: usize) -> Result<(), String> {
        let text = host.read(file).map_err(|wrong| format!("{file}: {}", crate::say::reason(&wrong)))?;
        self.take_text(host, file, &text, depth)
    }

    fn take_text(&mut self, host: &Host, file: &str, text: &str, depth: usize) -> Result<(), String> {
        let words = words::read(text).map_err(|wrong| format!("{file} line {}: {}", wrong.line, near(&wrong.near)))?;
        let end = words.last().map_or(1, |(_, line)| *line);
        let mut open: Option<Block> = None;
        let mut rest = words.into_iter().peekable();
        while let Some((word, line)) = rest.next() {
            let bad = |what: &str| format!("{file} line {line}: {}", near(what));
            let name = match word {
                Word::Sign('}') => match open.take() {
                    Some(block) => {
                        self.blocks.push(block);
                        continue;
                    }
                    None => return Err(bad("}")),
                },
                Word::Sign(';') => continue,
                Word::Sign(sign) => return Err(bad(&sign.to_string())),
                Word::String(name) => name,
            };
            let (name, is_variable) = match name.as_slice() {
                [Piece::Text(name)] => (name.clone(), false),
                [Piece::Variable(name)] => (name.clone(), true),
                _ => return Err(bad("$")),
            };
            match rest.peek().map(|(word, _)| word) {
                Some(Word::Sign('{')) if !is_variable && open.is_none() => {
                    rest.next();
                    open = Some(Block { name, statements: Vec::new() });
                    continue;
                }
                Some(Word::String(_)) if name == ".include" && open.is_none() => {
                    let Some((Word::String(pattern), _)) = rest.next() else { continue };
                    self.include(host, &pattern, depth).map_err(|wrong| format!("{file} line {line}: {wrong}"))?;
                    if !matches!(rest.next(), Some((Word::Sign(';'), _))) {
                        return Err(bad(".include"));
                    }
                    continue;
                }
                _ => {}
            }
            let (added, values) = match rest.next().map(|(word, _)| word) {
                Some(Word::Sign(';')) => (false, None),
                Some(Word::Sign(sign @ ('=' | '+'))) => {
                    let mut values = Vec::new();
                    loop {
                        match rest.next() {
                            Some((Word::String(value), _)) => values.push(value),
                            _ => return Err(bad("=")),
                        }
                        match rest.next() {
                            Some((Word::Sign(','), _)) => {}
                            Some((Word::Sign(';'), _)) => break,
                            _ => return Err(bad("=")),
                        }
                    }
                    (sign == '+', Some(values))
                }
                _ => return Err(bad(&name)),
            };
            let statement = Statement { name, is_variable, added, values };
            match &mut open {
                Some(block) => block.statements.push(statement),
                None => self.blocks.push(Block { name: "*".to_owned(), statements: vec![statement] }),
            }
        }
        match open {
            Some(_) => Err(format!("{file} line {end}: syntax error")),
            None => Ok(()),
        }
    }

    /// `.include "pattern";`: a `*` in the last part only is all the stand-in knows of glob(3).
    fn include(&mut self, host: &Host, pattern: &[Piece], depth: usize) -> Result<(), String> {
        let [Piece::Text(pattern)] = pattern else { return Err("variables in .include".to_owned()) };
        if depth > 32 {
            return Err("included too deep".to_owned());
        }
        let (directory, last) = pattern.rsplit_once('/').ok_or("a relative .include is not played")?;
        let Some((before, after)) = last.split_once('*') else { return self.take(host, pattern, depth + 1) };
        if directory.contains(['*', '?', '[']) || after.contains(['*', '?', '[']) || before.contains(['?', '[']) {
            return Err(format!("{pattern}: this pattern is not played"));
        }
        let mut names: Vec<String> = std::fs::read_dir(host.path(directory))
            .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        names.retain(|name| name.starts_with(before) && name.ends_with(after) && !name.starts_with('.'));
        names.sort();
        for name in names {
            self.take(host, &format!("{directory}/{name}"), depth + 1)?;
        }
        Ok(())
    }

    /// The names of the jails that are defined, in their order.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for block in self.blocks.iter().filter(|block| !block.name.contains('*')) {
            if !names.contains(&block.name) {
                names.push(block.name.clone());
            }
        }
        names
    }

    /// One jail, with all that applies to it: blocks in the order of the file, wildcards among them.
    pub fn jail(&self, name: &str) -> Result<Option<Jail>, String> {
        if !self.names().iter().any(|known| known == name) {
            return Ok(None);
        }
        let mut raw: Vec<(String, Option<Vec<Vec<Piece>>>)> =
            vec![("name".to_owned(), Some(vec![vec![Piece::Text(name.to_owned())]]))];
        let mut variables: BTreeMap<String, Vec<Vec<Piece>>> = BTreeMap::new();
        let mut switches: BTreeMap<String, bool> = BTreeMap::new();
        for statement in self.blocks.iter().filter(|block| fits(&block.name, name)).flat_map(|block| &block.statements)
        {
            if statement.is_variable {
                let values = statement.values.clone().ok_or("a variable without a value")?;
                let known = variables.entry(statement.name.clone()).or_default();
                if !statement.added {
                    known.clear();
                }
                known.extend(values);
                continue;
            }
            let (key, value) = match (meaning(&statement.name), &statement.values) {
                (Meaning::Unknown, _) => return Err(format!("{name}: unknown parameter: {}", statement.name)),
                (Meaning::Switch { name: key, on }, None) => {
                    switches.insert(key.clone(), on);
                    (key, None)
                }
                (Meaning::Switch { name: key, on }, Some(values)) => {
                    // "Boolean parameters … can also be set to true and false"; vnet takes new and inherit.
                    let said = match values.as_slice() {
                        [value] => match value.as_slice() {
                            [Piece::Text(text)] => text.as_str(),
                            _ => "",
                        },
                        _ => "",
                    };
                    let said = match said {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        "new" if key == "vnet" => true,
                        "inherit" if key == "vnet" => false,
                        other => return Err(format!("{name}: {key}: unknown boolean value \"{other}\"")),
                    };
                    switches.insert(key.clone(), said == on);
                    (key, None)
                }
                (Meaning::Value, values) => (statement.name.clone(), values.clone()),
            };
            match raw.iter_mut().find(|(known, _)| *known == key) {
                Some((_, Some(old))) if statement.added => old.extend(value.unwrap_or_default()),
                Some((_, old)) => *old = value,
                None => raw.push((key, value)),
            }
        }
        let mut parameters = Vec::new();
        for (key, values) in &raw {
            let value = match values {
                None if switches.contains_key(key) => Value::On(switches[key]),
                None => Value::List(Vec::new()),
                Some(values) => Value::List(
                    values
                        .iter()
                        .map(|value| {
                            expanded(value, &raw, &variables, 0).map_err(|wrong| format!("{name}: {key}: {wrong}"))
                        })
                        .collect::<Result<_, _>>()?,
                ),
            };
            parameters.push((key.clone(), value));
        }
        let name = parameters.iter().find(|(key, _)| key == "name").map_or(name, |(_, value)| match value {
            Value::List(values) => values.last().map_or(name, String::as_str),
            Value::On(_) => name,
        });
        Ok(Some(Jail { name: name.to_owned(), parameters: parameters.clone() }))
    }
}

/// A value with its variables filled in, from variables and parameters alike.
fn expanded(
    value: &[Piece],
    raw: &[(String, Option<Vec<Vec<Piece>>>)],
    variables: &BTreeMap<String, Vec<Vec<Piece>>>,
    depth: usize,
) -> Result<String, String> {
    if depth > 16 {
        return Err("variable loop".to_owned());
    }
    let mut text = String::new();
    for piece in value {
        match piece {
            Piece::Text(piece) => text += piece,
            Piece::Variable(name) => {
                let known = variables
                    .get(name)
                    .or_else(|| raw.iter().find(|(key, _)| key == name).and_then(|(_, v)| v.as_ref()));
                let values = known.ok_or_else(|| format!("variable \"{name}\" not found"))?;
                let values: Result<Vec<_>, _> = values.iter().map(|v| expanded(v, raw, variables, depth + 1)).collect();
                text += &values?.join(",");
            }
        }
    }
    Ok(text)
}

/// Whether a block applies to a jail: its name, or a wildcard in a part of it.
fn fits(block: &str, name: &str) -> bool {
    if block == "*" || block == name {
        return true;
    }
    let (mut blocks, mut names) = (block.split('.'), name.split('.'));
    loop {
        match (blocks.next(), names.next()) {
            (None, None) => return block.contains('*'),
            (Some("*"), Some(_)) => {}
            (Some(of_block), Some(of_name)) if of_block == of_name => {}
            _ => return false,
        }
    }
}

fn near(what: &str) -> String {
    if what.is_empty() { "syntax error".to_owned() } else { format!("syntax error near \"{what}\"") }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::Conf;
    use crate::host::Host;

    fn read(text: &str) -> Result<Conf, String> {
        let nowhere = Host { root: "/nonexistent".into(), state: "/nonexistent".into(), persona: Default::default() };
        let mut conf = Conf::default();
        conf.take_text(&nowhere, "jail.conf", text, 0).map(|()| conf)
    }

    #[test]
    fn what_applies_to_a_jail() {
        let conf = read(
            "$base = /data; path = \"$base/$name\"; mount.devfs;\n\
             a { host.hostname = $name.example; ip4.addr = 10.0.0.1; ip4.addr += \"em0|10.0.0.2/32\"; nopersist; }\n\
             * { exec.start = one, two; mount.nodevfs; }\n b { path = /b; }",
        )
        .unwrap();
        assert_eq!(conf.names(), ["a", "b"]);
        let a = conf.jail("a").unwrap().unwrap();
        assert_eq!((a.value("path"), a.value("host.hostname")), (Some("/data/a"), Some("a.example")));
        assert_eq!(a.list("ip4.addr"), ["10.0.0.1", "em0|10.0.0.2/32"]);
        assert_eq!(a.list("exec.start"), ["one", "two"]);
        assert!(!a.is_on("mount.devfs") && !a.is_on("persist"));
        assert_eq!(conf.jail("b").unwrap().unwrap().value("path"), Some("/b"));
        assert!(conf.jail("c").unwrap().is_none());
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert_eq!(read("a { b = c }").err().unwrap(), "jail.conf line 1: syntax error near \"=\"");
        assert!(read("a {").is_err() && read("}").is_err() && read("a = ;").is_err());
        let of = |text: &str| read(text).unwrap().jail("a").unwrap_err();
        assert_eq!(of("a { pathh = /; }"), "a: unknown parameter: pathh");
        assert_eq!(of("a { path = $nosuch; }"), "a: path: variable \"nosuch\" not found");
        assert!(of("a { path = $path; }").contains("loop"));
    }
}
