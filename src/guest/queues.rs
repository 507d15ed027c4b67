//! Queues: what a service has accepted and not yet done. A clone must not do it a second time.
//!
//! The rules are in `templates/quarantine.toml`. In the clone the queues are set aside ([`set_aside`]) before its first
//! start; at promotion they are made exactly those of the stopped original ([`mirror()`]); rollback mirrors the other way
//! with the original's own set aside. Queues may be large, so they are moved and copied here, not edited as files.
//! The trees' guests must be stopped.
//!
//! **Postfix.** The name of a queue file encodes the inode number of the file (short queue ids, the default), and a copy
//! gets another inode. postfix-script(1) runs postsuper(1) in `start` before the daemons (`check-fatal`: "We must scan all
//! queues for mis-named queue files before the mail system can run", 3.7.11-0+deb12u1), which renames such files and their
//! defer, bounce and trace logs; qmgr(8) then moves what was active back to incoming. Long queue ids need no renaming.
//! What matters here is that modes (0700 marks a whole message) and modification times (the next try of a deferred one)
//! are kept.

mod aside;
mod mirror;

use std::path::{Path, PathBuf};

use super::beneath::{self, Beneath, Budget};
use super::quarantine::{QueueRule, tables};
use super::{GuestError, Tree};

pub use aside::{Aside, aside_of, discard, is_set_aside, put_back, set_aside};
pub use mirror::{Mirrored, mirror};

/// Most entries of a queue that are counted.
const COUNTED: usize = 1_000_000;

/// A queue of this guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// `postfix`
    pub service: String,
    /// Names of the services that work on it, as in the quarantine.
    pub units: Vec<String>,
    /// Its directories, relative to the root; all below them is the queue.
    pub directories: Vec<PathBuf>,
    /// Messages or jobs in it, by file names; at least so many.
    pub messages: u64,
}

/// The known queues of this guest: those of which a directory exists. A directory that is a link is not one.
pub fn found(tree: &Tree) -> Result<Vec<Queue>, GuestError> {
    let beneath = Beneath::of(tree);
    let mut queues = Vec::new();
    for rule in &tables()?.queue {
        let mut queue =
            Queue { service: rule.service.clone(), units: rule.units.clone(), directories: Vec::new(), messages: 0 };
        for spool in spools(tree, rule)? {
            for name in &rule.below {
                let path = spool.join(name);
                if !is_directory(tree, &path)? {
                    continue;
                }
                if rule.count.is_empty() || rule.count.contains(name) {
                    queue.messages += count(beneath, &path, &rule.messages)?;
                }
                queue.directories.push(path);
            }
        }
        if !queue.directories.is_empty() {
            queues.push(queue);
        }
    }
    Ok(queues)
}

/// The directories of the known queues, relative to the root, for a tree that is elsewhere. Those of several instances of a service
/// (`postfix-*`), and what a configuration names, are not among them.
pub fn directories() -> Result<Vec<PathBuf>, GuestError> {
    let plain = |rule: &'static QueueRule| {
        rule.spools.iter().filter(|spool| !spool.ends_with('*')).map(move |spool| (rule, spool))
    };
    let below = |(rule, spool): (&'static QueueRule, &'static String)| {
        rule.below.iter().map(move |name| Path::new(spool).join(name))
    };
    Ok(tables()?.queue.iter().flat_map(plain).flat_map(below).collect())
}

/// Services that keep a queue beneath a mount point (absolute), of those of which a unit is `held`.
pub fn kept_in(point: &Path, held: impl Fn(&String) -> bool) -> Result<Vec<String>, GuestError> {
    let beneath = |spool: &String| Path::new("/").join(spool).starts_with(point);
    let rules = tables()?.queue.iter().filter(|rule| rule.spools.iter().any(beneath) && rule.units.iter().any(&held));
    Ok(rules.map(|rule| rule.service.clone()).collect())
}

/// The spool directories of a rule, a `*` at the end of the last component spelt out, and postfix's own setting.
fn spools(tree: &Tree, rule: &QueueRule) -> Result<Vec<PathBuf>, GuestError> {
    let mut spools = Vec::new();
    for spool in &rule.spools {
        let path = Path::new(spool);
        match (spool.strip_suffix('*'), path.parent()) {
            (Some(start), Some(parent)) => {
                let names = tree.list(parent)?.into_iter().map(|name| parent.join(name));
                spools.extend(names.filter(|path| path.to_str().is_some_and(|path| path.starts_with(start))));
            }
            _ => spools.push(path.to_owned()),
        }
    }
    if rule.service == "postfix"
        && let Ok(Some(text)) = tree.read_text(Path::new("etc/postfix/main.cf"))
        && let Some(path) = queue_directory(&text)
        && !spools.contains(&path)
    {
        spools.push(path);
    }
    Ok(spools)
}

/// postconf(5) `queue_directory`, if it is written as a plain absolute path.
fn queue_directory(main_cf: &str) -> Option<PathBuf> {
    let value = main_cf.lines().rev().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim_end() == "queue_directory").then(|| value.trim())
    })?;
    let path = beneath::relative(Path::new(value)).ok()?;
    (value.starts_with('/') && !value.contains('$') && path.components().count() > 1).then_some(path)
}

fn is_directory(tree: &Tree, path: &Path) -> Result<bool, GuestError> {
    Ok(tree.metadata(path)?.is_some_and(|stat| beneath::is_directory(&stat)))
}

/// Counts regular files whose names fit, hidden ones excepted.
fn count(tree: Beneath<'_>, path: &Path, pattern: &str) -> Result<u64, GuestError> {
    let mut messages = 0;
    let mut budget = Budget { entries: COUNTED, until: None };
    beneath::walk(tree, path, beneath::MAX_DEPTH, &mut budget, &mut |entry| {
        let fits = entry.name.to_str().is_some_and(|name| !name.starts_with('.') && fits(pattern, name));
        messages += u64::from(fits && beneath::is_file(&entry.stat));
        Ok(true)
    })?;
    Ok(messages)
}

/// Whether a name fits a pattern with at most one `*`.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests;
