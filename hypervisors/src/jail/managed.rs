//! Jails that another program keeps: Bastille and iocage. They have their own idea of what a jail's files say, write them anew, and
//! find a clone of ours or lose their own jail; such jails are refused. Pure: by what is known of paths and texts.
//!
//! Bastille: `bastille.conf` (sh(1)) names `bastille_jailsdir`, by default /usr/local/bastille/jails; a jail is a directory there
//! with `jail.conf`, `fstab` and `root`. iocage: no jail.conf at all but `config.json` in POOL/iocage/jails/NAME beside `root`;
//! running, it is called `ioc-NAME`.

use super::conf::Effective;
use super::rc::{Rc, Value};

/// Default of `bastille_jailsdir`.
const BASTILLE: &str = "/usr/local/bastille/jails";

/// The program that keeps a jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// Bastille (sysutils/bastille).
    Bastille,
    /// iocage (sysutils/iocage), iocell and ioc, which came of it.
    Iocage,
}

/// A jail that is kept by another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Managed {
    /// By which.
    pub by: Manager,
    /// How that is seen.
    pub why: String,
    /// What the operator can do.
    pub help: &'static str,
}

/// What is known of a jail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'k> {
    /// Its name: in its configuration, or as jls(8) shows it.
    pub name: &'k str,
    /// The file that defines it.
    pub file: Option<&'k str>,
    /// The directory that is its root.
    pub path: Option<&'k str>,
    /// Its parameters.
    pub effective: Option<&'k Effective>,
    /// The text of /usr/local/etc/bastille/bastille.conf.
    pub bastille_conf: Option<&'k str>,
    /// Paths that are there: `config.json` beside the root, say.
    pub present: &'k [&'k str],
}

/// Whether a jail is kept by another program, and how that is seen.
pub fn managed(known: &Known<'_>) -> Option<Managed> {
    bastille(known).or_else(|| iocage(known))
}

fn bastille(known: &Known<'_>) -> Option<Managed> {
    let directory = known.bastille_conf.and_then(jails_directory).unwrap_or_else(|| BASTILLE.to_owned());
    let directories = [directory.as_str(), BASTILLE];
    let fstab = known.effective.and_then(|effective| effective.text("mount.fstab"));
    let seen = [("it is defined by", known.file), ("its root is", path(known)), ("it is mounted by", fstab)];
    let below = |path: &str| directories.iter().any(|directory| is_below(directory, path));
    let (what, path) = seen.into_iter().find_map(|(what, path)| Some((what, path.filter(|path| below(path))?)))?;
    Some(Managed {
        by: Manager::Bastille,
        why: format!("{what} {path}, in the directory of Bastille's jails"),
        help: "upgrade it by Bastille, or make it a jail of /etc/jail.conf outside of that directory",
    })
}

fn iocage(known: &Known<'_>) -> Option<Managed> {
    let help = "upgrade it by iocage, or make it a jail of /etc/jail.conf outside of iocage's dataset";
    let found = |why: String| Some(Managed { by: Manager::Iocage, why, help });
    if let Some(name) = known.name.strip_prefix("ioc-") {
        return found(format!("it is called ioc-{name}, as iocage calls its jails"));
    }
    let path = path(known)?;
    let home = path.trim_end_matches('/').strip_suffix("/root")?;
    if let Some((dataset, _)) = home.split_once("/iocage/jails/") {
        return found(format!("its root is {path}, in the jails of {dataset}/iocage"));
    }
    let config = format!("{home}/config.json");
    let there = known.present.iter().any(|present| *present == config);
    if there { found(format!("{config} is there, which iocage keeps its jails by")) } else { None }
}

fn path<'k>(known: &Known<'k>) -> Option<&'k str> {
    known.path.or_else(|| known.effective?.text("path"))
}

fn is_below(directory: &str, path: &str) -> bool {
    let directory = directory.trim_end_matches('/');
    !directory.is_empty() && path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// `bastille_jailsdir`; if sh alone can tell it, none.
fn jails_directory(text: &str) -> Option<String> {
    match Rc::parse("bastille.conf", text).ok()?.value("bastille_jailsdir") {
        Value::Is(directory) if directory.starts_with('/') => Some(directory),
        _ => None,
    }
}
