//! New jails in a jail.conf(5): written, and put at the end of a file. Pure.
//!
//! A new jail says only what the host's wildcards do not say for it already, so that it reads like its neighbours.

use std::fmt::Write as _;

use super::super::wrong::{Place, Wrong};
use super::edit::{Edited, Setting};
use super::{Config, Dialect, Files, write};
use crate::Mark;

/// What a new jail is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJail<'a> {
    /// Its name.
    pub name: &'a str,
    /// The run it belongs to.
    pub mark: Option<&'a Mark>,
    /// Parameters it must have, in order.
    pub wanted: Vec<(&'a str, Setting)>,
    /// Parameters it gets unless a wildcard says something of them.
    pub usual: Vec<(&'a str, Setting)>,
}

impl Config {
    /// The block of a new jail, as it would stand in this configuration; it is not put there.
    pub fn block_for(&self, jail: &NewJail<'_>) -> Result<String, Wrong> {
        // An empty jail of that name shows what wildcards give it.
        let empty = self.add(&self.root, &format!("{} {{\n}}\n", name(&self.root, jail.name)?))?.config;
        let given = empty.effective(jail.name)?;
        let usual = jail.usual.iter().filter(|(name, _)| given.get(name).is_none());
        let wanted = jail.wanted.iter().filter(|(name, setting)| match (given.get(name), setting) {
            (Some(given), Setting::Values(values)) => given.values != *values,
            (Some(given), Setting::Flag(on)) => given.is_true() != *on,
            (None, _) => true,
        });
        let mut text = format!("{} {{\n", name(&self.root, jail.name)?);
        if let Some(mark) = jail.mark {
            let _ = writeln!(text, "\t# {}", super::mark::words(mark));
        }
        for (name, setting) in wanted.chain(usual) {
            let line = match setting {
                Setting::Flag(on) => write::flag(name, *on),
                Setting::Values(values) => {
                    let written: Option<Vec<String>> =
                        values.iter().map(|value| write::value(value, Some('"'))).collect();
                    let written = written.ok_or_else(|| {
                        Wrong::new(
                            Place::whole(&self.root),
                            format!("{values:?} cannot be written: it has control characters"),
                        )
                    })?;
                    format!("{name} = {}", written.join(", "))
                }
            };
            let _ = writeln!(text, "\t{line};");
        }
        text.push_str("}\n");
        Ok(text)
    }

    /// Puts the block of a jail that is not there at the end of a file.
    pub fn add(&self, file: &str, block: &str) -> Result<Edited, Wrong> {
        let old = self.text(file);
        let gap = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
        let config = self.with(file, format!("{old}{gap}{}\n", block.trim_end_matches('\n')))?;
        let new: Vec<String> =
            config.jails().into_iter().filter(|jail| !self.jails().contains(jail)).map(str::to_owned).collect();
        let [jail] = new.as_slice() else {
            return Err(Wrong::new(Place::whole(file), "what shall stand there is not one new jail"));
        };
        config.effective(jail)?;
        self.others_same(&config, &[jail])?;
        Ok(Edited::of(config, file.to_owned()))
    }
}

/// The name of the one jail that a text defines.
pub fn name_of(block: &str) -> Result<String, Wrong> {
    const HERE: &str = "the definition";
    let files = Files::from([(HERE.to_owned(), block.to_owned())]);
    let config = Config::read(HERE, &files, Dialect::Including)?;
    match config.jails().as_slice() {
        [jail] => Ok((*jail).to_owned()),
        _ => Err(Wrong::new(Place::whole(HERE), "it is not the block of one jail")),
    }
}

/// A name as it is written before a brace.
fn name(file: &str, name: &str) -> Result<String, Wrong> {
    let sound = !super::is_wildcard(name)
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        && !name.bytes().all(|byte| byte.is_ascii_digit());
    if sound {
        Ok(name.to_owned())
    } else {
        Err(Wrong::new(Place::whole(file), format!("a jail cannot be called {name:?}")))
    }
}
