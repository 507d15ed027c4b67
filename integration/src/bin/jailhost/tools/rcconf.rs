//! rc.conf(5) as far as it is assignments: `name="value"`, the last one counts. Defaults first, then rc.conf, rc.conf.local.

use std::path::Path;

use crate::host::Host;

/// The files of a root and what they assign.
pub struct RcConf {
    /// The variables that the defaults set.
    pub defaults: Vec<(String, String)>,
    /// The variables that the host's own files set.
    pub own: Vec<(String, String)>,
}

impl RcConf {
    /// Of the system whose root is a directory of this machine.
    pub fn of(_: &Host, root: &Path) -> Self {
        let read = |name: &str| assignments(&std::fs::read_to_string(root.join(name)).unwrap_or_default());
        let mut own = read("etc/rc.conf");
        own.extend(read("etc/rc.conf.local"));
        Self { defaults: read("etc/defaults/rc.conf"), own }
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<String> {
        let last = |list: &[(String, String)]| {
            list.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        last(&self.own).or_else(|| last(&self.defaults))
    }

    /// Whether it says yes, as `checkyesno` reads it.
    pub fn is_yes(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| ["yes", "true", "on", "1"].contains(&value.to_lowercase().as_str()))
    }
}

/// The assignments of a text. What a shell would do with anything else is not done.
pub fn assignments(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(assignment).collect()
}

/// The assignment of a line.
pub fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let (name, value) = line.split_once('=')?;
    if name.is_empty() || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
        return None;
    }
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next().unwrap_or_default(),
        _ => value.split([' ', '\t', ';', '#']).next().unwrap_or_default(),
    };
    Some((name.to_owned(), value.to_owned()))
}
