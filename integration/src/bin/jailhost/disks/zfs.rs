//! `zfs`: `list`, `get`, `create`, `destroy`, `snapshot`, `clone`, `promote`, `set`, `inherit`, `mount`, as far as the product asks, by the manual
//! pages of OpenZFS 2.1 and the words that its users quote in their reports. Nothing of it is recorded.
//!
//! The file `zfs` of the state has a line for each dataset: `NAME MOUNTPOINT ORIGIN PROPERTIES`, separated by tabs, `-` for none; snapshots
//! stand behind their file system, in the order in which they were made. A file system's files are those at its mount point; a
//! snapshot's lie in the state, copied.

use std::path::{Path, PathBuf};

use super::filesystems::Filesystem;
use crate::host::Host;
use crate::jails::running;
use crate::{faults, say};

#[derive(Clone, Debug)]
struct Dataset {
    name: String,
    /// Set here; else inherited.
    mountpoint: Option<String>,
    origin: Option<String>,
    /// User properties that are set here.
    own: Vec<(String, String)>,
}

struct Pool {
    all: Vec<Dataset>,
}

/// What fails, in the program's words.
type Failed = String;

impl Dataset {
    fn is_snapshot(&self) -> bool {
        self.name.contains('@')
    }
}

/// Properties that are kept and shown, and do nothing.
const NATIVE: [&str; 5] = ["atime", "compression", "exec", "quota", "refquota"];

fn parent(name: &str) -> Option<&str> {
    name.rsplit_once('/').map(|(parent, _)| parent)
}

/// Where the files of a snapshot are.
fn kept(host: &Host, snapshot: &str) -> PathBuf {
    host.of_state("zfs-snapshots").join(snapshot.replace('/', "%"))
}

/// Copies a tree; Linux' own cp knows flags as the extended attributes that they are here.
fn copy(from: &Path, to: &Path) -> Result<(), Failed> {
    let made = to.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|wrong| say::reason(&wrong));
    made?;
    let status =
        std::process::Command::new("/bin/cp").args(["-a", "-x", "--reflink=auto", "-T"]).arg(from).arg(to).status();
    if status.is_ok_and(|status| status.success()) { Ok(()) } else { Err("I/O error".to_owned()) }
}

impl Pool {
    fn read(host: &Host) -> Self {
        let option = |word: &str| (word != "-").then(|| word.to_owned());
        let line = |line: &str| {
            let words: Vec<&str> = line.split('\t').collect();
            let [name, mountpoint, origin, own] = words.as_slice() else { return None };
            let own = own.split(',').filter_map(|one| one.split_once('='));
            let own = own.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            Some(Dataset { name: (*name).to_owned(), mountpoint: option(mountpoint), origin: option(origin), own })
        };
        Self { all: host.state_text("zfs").lines().filter_map(line).collect() }
    }

    fn keep(&self, host: &Host) {
        let text = |of: &Dataset| {
            let own: Vec<String> = of.own.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let own = if own.is_empty() { "-".to_owned() } else { own.join(",") };
            let or = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
            format!("{}\t{}\t{}\t{own}\n", of.name, or(&of.mountpoint), or(&of.origin))
        };
        host.write_state("zfs", &self.all.iter().map(text).collect::<String>());
    }

    fn find(&self, name: &str) -> Option<&Dataset> {
        self.all.iter().find(|of| of.name == name)
    }

    fn needed(&self, name: &str) -> Result<&Dataset, Failed> {
        self.find(name).ok_or_else(|| format!("cannot open '{name}': dataset does not exist"))
    }

    fn mountpoint(&self, of: &Dataset) -> String {
        match (&of.mountpoint, parent(&of.name)) {
            (Some(own), _) => own.clone(),
            (None, Some(above)) => match self.find(above).map(|above| self.mountpoint(above)) {
                Some(above) if above != "none" => {
                    format!("{}/{}", above.trim_end_matches('/'), of.name.rsplit('/').next().unwrap_or_default())
                }
                _ => "none".to_owned(),
            },
            (None, None) => format!("/{}", of.name),
        }
    }

    /// A user property and whether it is set there itself. Snapshots inherit those of their file system.
    fn property(&self, of: &Dataset, name: &str) -> Option<(String, bool)> {
        if let Some((_, value)) = of.own.iter().find(|(own, _)| own == name) {
            return Some((value.clone(), true));
        }
        let above = of.name.split_once('@').map(|(file_system, _)| file_system).or_else(|| parent(&of.name))?;
        self.property(self.find(above)?, name).map(|(value, _)| (value, false))
    }

    fn column(&self, host: &Host, of: &Dataset, column: &str) -> Result<String, Failed> {
        let sizes = || nix::sys::statvfs::statvfs(&host.path(self.mountpoint(of))).ok();
        Ok(match column {
            "name" => of.name.clone(),
            "mountpoint" | "mounted" | "available" if of.is_snapshot() => "-".to_owned(),
            "mountpoint" => self.mountpoint(of),
            "mounted" => if host.path(self.mountpoint(of)).is_dir() { "yes" } else { "no" }.to_owned(),
            "origin" => of.origin.clone().unwrap_or_else(|| "-".to_owned()),
            "used" => "98304".to_owned(),
            "available" => sizes().map_or(0, |sizes| sizes.blocks_available() * sizes.fragment_size()).to_string(),
            user if user.contains(':') => self.property(of, user).map_or_else(|| "-".to_owned(), |(value, _)| value),
            other => return Err(format!("bad property list: invalid property '{other}'")),
        })
    }

    /// Clones of snapshots of these datasets that are not among them.
    fn dependents(&self, going: &[String]) -> Vec<String> {
        let lives_by = |of: &&Dataset| of.origin.as_ref().is_some_and(|origin| going.contains(origin));
        self.all.iter().filter(lives_by).filter(|of| !going.contains(&of.name)).map(|of| of.name.clone()).collect()
    }
}

/// Mounted datasets, for `mount` and `df`.
pub fn mounted(host: &Host) -> Vec<Filesystem> {
    let pool = Pool::read(host);
    let one = |of: &Dataset| Filesystem {
        device: of.name.clone(),
        mountpoint: pool.mountpoint(of),
        kind: "zfs".to_owned(),
        options: ["local", "noatime", "nfsv4acls"].map(str::to_owned).to_vec(),
        behind: None,
        is_mounted: true,
    };
    let mounted = |of: &&Dataset| !of.is_snapshot() && host.path(pool.mountpoint(of)).is_dir();
    pool.all.iter().filter(mounted).map(one).collect()
}

/// What was typed: flags, values of `-o`, names.
struct Asked {
    flags: Vec<char>,
    values: Vec<(char, String)>,
    names: Vec<String>,
}

impl Asked {
    fn read(arguments: &[String], flags: &str, with_value: &str) -> Result<Self, u8> {
        let mut asked = Self { flags: Vec::new(), values: Vec::new(), names: Vec::new() };
        let mut rest = arguments.iter().peekable();
        while let Some(word) = rest.next_if(|word| word.starts_with('-') && word.len() > 1) {
            if word == "--" {
                break;
            }
            for (at, letter) in word.char_indices().skip(1) {
                if flags.contains(letter) {
                    asked.flags.push(letter);
                } else if with_value.contains(letter) {
                    let behind = &word[at + 1..];
                    let value = if behind.is_empty() { rest.next().cloned() } else { Some(behind.to_owned()) };
                    let Some(value) = value else {
                        say::err(&format!("missing argument for '{letter}' option\n"));
                        return Err(2);
                    };
                    asked.values.push((letter, value));
                    break;
                } else if "RfvnpudVbsSmkOl".contains(letter) {
                    return Err(say::not_played(&format!("-{letter}")));
                } else {
                    say::err(&format!("invalid option '{letter}'\n"));
                    return Err(2);
                }
            }
        }
        asked.names = rest.cloned().collect();
        Ok(asked)
    }

    fn has(&self, flag: char) -> bool {
        self.flags.contains(&flag)
    }

    fn of(&self, letter: char) -> Vec<&str> {
        self.values.iter().filter(|(of, _)| *of == letter).map(|(_, value)| value.as_str()).collect()
    }

    /// Properties that are to be set.
    fn set(&self) -> Result<Vec<(String, String)>, Failed> {
        let one = |text: &str| {
            let (name, value) =
                text.split_once('=').ok_or_else(|| format!("missing '=' for property=value argument '{text}'"))?;
            let user = name.contains(':')
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b":-._".contains(&byte));
            match user || name == "mountpoint" || NATIVE.contains(&name) {
                true => Ok((name.to_owned(), value.to_owned())),
                false => Err(format!("cannot set property: invalid property '{name}'")),
            }
        };
        self.of('o').into_iter().map(one).collect()
    }
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.: ".contains(&byte);
    !name.is_empty() && name.split('/').all(|part| !part.is_empty() && part.bytes().all(fits))
}

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let Some((verb, rest)) = arguments.split_first() else {
        say::err("missing command\nusage: zfs command args ...\n");
        return 2;
    };
    let _lock = host.lock();
    let mut pool = Pool::read(host);
    let asked = match verb.as_str() {
        "list" => Asked::read(rest, "Hpr", "otsd"),
        "get" => Asked::read(rest, "Hp", "os"),
        "create" | "clone" | "snapshot" | "snap" => Asked::read(rest, "", "o"),
        "destroy" => Asked::read(rest, "r", ""),
        "promote" | "set" | "inherit" | "mount" => Asked::read(rest, "", ""),
        "rename" | "rollback" | "send" | "receive" | "unmount" | "umount" | "hold" | "release" | "diff" | "upgrade" => {
            return say::not_played(verb);
        }
        other => {
            say::err(&format!("unrecognized command '{other}'\nusage: zfs command args ...\n"));
            return 2;
        }
    };
    let asked = match asked {
        Ok(asked) => asked,
        Err(status) => return status,
    };
    let done = match verb.as_str() {
        "list" => list(host, &pool, &asked),
        "get" => get(&pool, &asked),
        _ if faults::lies() => Ok(()),
        "create" => create(host, &mut pool, &asked),
        "destroy" => destroy(host, &mut pool, &asked),
        "snapshot" | "snap" => snapshot(host, &mut pool, &asked),
        "clone" => clone(host, &mut pool, &asked),
        "promote" => promote(host, &mut pool, &asked),
        "set" => set(&mut pool, &asked),
        "inherit" => inherit(&mut pool, &asked),
        _ => mount(host, &pool, &asked),
    };
    match done {
        Ok(()) => {
            if !["list", "get", "mount"].contains(&verb.as_str()) {
                pool.keep(host);
            }
            0
        }
        Err(wrong) => {
            say::err(&format!("{wrong}\n"));
            1
        }
    }
}

fn list(host: &Host, pool: &Pool, asked: &Asked) -> Result<(), Failed> {
    let columns: Vec<&str> =
        asked.of('o').last().copied().unwrap_or("name,used,available,mountpoint").split(',').collect();
    if !asked.has('H') {
        return Err("jailhost: zfs list is played with -H only".to_owned());
    }
    let kind = asked.of('t').last().copied().unwrap_or("filesystem");
    let mut shown = Vec::new();
    for name in &asked.names {
        let found = match name.starts_with('/') {
            // The file system that a path is on.
            true => {
                let path = host.pretended(name);
                let at = Path::new(&path);
                if !host.path(&path).exists() {
                    return Err(format!("cannot open '{name}': No such file or directory"));
                }
                let holding = pool.all.iter().filter(|of| !of.is_snapshot() && at.starts_with(pool.mountpoint(of)));
                holding.max_by_key(|of| pool.mountpoint(of).len()).ok_or(format!("'{name}': not a ZFS filesystem"))?
            }
            false => pool.needed(name)?,
        };
        let below = |of: &&Dataset| {
            of.name == found.name
                || asked.has('r') && of.name.strip_prefix(&found.name).is_some_and(|rest| rest.starts_with(['/', '@']))
        };
        // Volumes are not played: there are none.
        let of_kind =
            |of: &&Dataset| kind.split(',').any(|kind| (kind == "snapshot") == of.is_snapshot() || kind == "all");
        shown.extend(pool.all.iter().filter(below).filter(of_kind));
    }
    if asked.names.is_empty() {
        shown.extend(pool.all.iter().filter(|of| of.is_snapshot() == (kind == "snapshot")));
    }
    for of in shown {
        let cells: Result<Vec<String>, Failed> = columns.iter().map(|column| pool.column(host, of, column)).collect();
        say::out(&format!("{}\n", cells?.join("\t")));
    }
    Ok(())
}

fn get(pool: &Pool, asked: &Asked) -> Result<(), Failed> {
    // What is set on a file system itself.
    if let ([all, name], ["property,value"], ["local,received"]) =
        (asked.names.as_slice(), asked.of('o').as_slice(), asked.of('s').as_slice())
        && all == "all"
        && asked.has('H')
    {
        let of = pool.needed(name)?;
        let place = of.mountpoint.iter().map(|place| ("mountpoint".to_owned(), place.clone()));
        for (property, value) in place.chain(of.own.iter().cloned()) {
            say::out(&format!("{property}\t{value}\n"));
        }
        return Ok(());
    }
    let ([property, name], ["value"], true) = (asked.names.as_slice(), asked.of('o').as_slice(), asked.has('H')) else {
        return Err("jailhost: zfs get is played as get -H -o value PROPERTY NAME".to_owned());
    };
    let of = pool.needed(name)?;
    let local = asked.of('s').contains(&"local");
    match pool.property(of, property) {
        Some((value, own)) if own || !local => say::out(&format!("{value}\n")),
        None if !local => say::out("-\n"),
        _ => {}
    }
    Ok(())
}

fn made(
    pool: &mut Pool,
    host: &Host,
    name: &str,
    origin: Option<&str>,
    set: Vec<(String, String)>,
) -> Result<(), Failed> {
    let verb = "cannot create";
    if !is_name(name) {
        return Err(format!("{verb} '{name}': invalid character in name"));
    }
    if pool.find(name).is_some() {
        return Err(format!("{verb} '{name}': dataset already exists"));
    }
    if parent(name).is_none_or(|above| pool.find(above).is_none()) {
        return Err(format!("{verb} '{name}': parent does not exist"));
    }
    let mountpoint = set.iter().find(|(name, _)| name == "mountpoint").map(|(_, value)| value.clone());
    let own = set.into_iter().filter(|(name, _)| name != "mountpoint").collect();
    let of = Dataset { name: name.to_owned(), mountpoint, origin: origin.map(str::to_owned), own };
    let at = host.path(pool.mountpoint(&of));
    // The old one would not mount over what is there; that of FreeBSD does, and hides it.
    if std::fs::read_dir(&at).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!("jailhost: {} is not empty: what would be hidden is not played", at.display()));
    }
    match origin {
        Some(origin) => copy(&kept(host, origin), &at)?,
        None => std::fs::create_dir_all(&at)
            .map_err(|wrong| format!("cannot mount '{}': {}", at.display(), say::reason(&wrong)))?,
    }
    pool.all.push(of);
    Ok(())
}

fn create(host: &Host, pool: &mut Pool, asked: &Asked) -> Result<(), Failed> {
    let [name] = asked.names.as_slice() else { return Err("missing filesystem argument".to_owned()) };
    made(pool, host, name, None, asked.set()?)
}

fn clone(host: &Host, pool: &mut Pool, asked: &Asked) -> Result<(), Failed> {
    let [snapshot, name] = asked.names.as_slice() else {
        return Err("missing source or target dataset argument".to_owned());
    };
    if !pool.needed(snapshot)?.is_snapshot() {
        return Err(format!("cannot open '{snapshot}': operation not applicable to datasets of this type"));
    }
    if snapshot.split(['/', '@']).next() != name.split('/').next() {
        return Err(format!("cannot create '{name}': source and target pools differ"));
    }
    made(pool, host, name, Some(snapshot), asked.set()?)
}

fn snapshot(host: &Host, pool: &mut Pool, asked: &Asked) -> Result<(), Failed> {
    let [name] = asked.names.as_slice() else { return Err("missing snapshot argument".to_owned()) };
    let Some((of, word)) = name.split_once('@') else {
        return Err(format!("cannot create snapshot '{name}': not a snapshot name"));
    };
    let source = pool.needed(of)?;
    if !is_name(word) || word.contains('/') {
        return Err(format!("cannot create snapshot '{name}': invalid character in name"));
    }
    if pool.find(name).is_some() {
        return Err(format!("cannot create snapshot '{name}': dataset already exists\nno snapshots were created"));
    }
    copy(&host.path(pool.mountpoint(source)), &kept(host, name))?;
    let own = asked.set()?;
    // Behind the file system and its older snapshots.
    let at = pool
        .all
        .iter()
        .rposition(|one| one.name == of || one.name.starts_with(&format!("{of}@")))
        .map_or(0, |at| at + 1);
    pool.all.insert(at, Dataset { name: name.clone(), mountpoint: None, origin: None, own });
    Ok(())
}

fn destroy(host: &Host, pool: &mut Pool, asked: &Asked) -> Result<(), Failed> {
    let [name] = asked.names.as_slice() else { return Err("missing dataset argument".to_owned()) };
    let of = pool.needed(name)?.clone();
    let within = |one: &&Dataset| one.name.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(['/', '@']));
    let children: Vec<String> = pool.all.iter().filter(within).map(|one| one.name.clone()).collect();
    if !asked.has('r') && !children.is_empty() {
        let list = children.join("\n");
        return Err(format!(
            "cannot destroy '{name}': filesystem has children\nuse '-r' to destroy the following datasets:\n{list}"
        ));
    }
    let going: Vec<String> = children.into_iter().chain([name.clone()]).collect();
    let dependents = pool.dependents(&going);
    if !dependents.is_empty() {
        let kind = if of.is_snapshot() { "snapshot" } else { "filesystem" };
        let list = dependents.join("\n");
        return Err(format!(
            "cannot destroy '{name}': {kind} has dependent clones\nuse '-R' to destroy the following datasets:\n{list}"
        ));
    }
    for one in &going {
        let Some(one) = pool.find(one).filter(|one| !one.is_snapshot()) else { continue };
        let at = pool.mountpoint(one);
        if running::all(host).iter().any(|jail| Path::new(&jail.path).starts_with(&at)) {
            return Err(format!("cannot unmount '{at}': pool or dataset is busy"));
        }
    }
    for one in &going {
        let Some(one) = pool.find(one) else { continue };
        let at = if one.is_snapshot() { kept(host, &one.name) } else { host.path(pool.mountpoint(one)) };
        if let Err(wrong) = std::fs::remove_dir_all(&at)
            && wrong.kind() != std::io::ErrorKind::NotFound
        {
            return Err(format!("cannot destroy '{name}': {}", say::reason(&wrong)));
        }
    }
    pool.all.retain(|one| !going.contains(&one.name));
    Ok(())
}

/// The snapshot that was cloned, and any before it, are the clone's afterwards; the file system that it was made from is a clone of it.
fn promote(host: &Host, pool: &mut Pool, asked: &Asked) -> Result<(), Failed> {
    let [name] = asked.names.as_slice() else { return Err("missing clone filesystem argument".to_owned()) };
    let Some(origin) = pool.needed(name)?.origin.clone() else {
        return Err(format!("cannot promote '{name}': not a cloned filesystem"));
    };
    let (source, _) = origin.split_once('@').unwrap_or((&origin, ""));
    let of_source = |one: &Dataset| one.name.starts_with(&format!("{source}@"));
    let last = pool.all.iter().position(|one| one.name == origin).unwrap_or_default();
    let moving: Vec<String> =
        pool.all[..=last].iter().filter(|one| of_source(one)).map(|one| one.name.clone()).collect();
    let moved = |old: &str| format!("{name}@{}", old.split_once('@').map_or("", |(_, word)| word));
    if let Some(taken) = moving.iter().find(|old| pool.find(&moved(old)).is_some()) {
        return Err(format!(
            "cannot promote '{name}': snapshot name '{}' from origin conflicts with '{}' from target",
            taken,
            moved(taken)
        ));
    }
    let before = pool.find(source).and_then(|source| source.origin.clone());
    for old in &moving {
        let _ = std::fs::rename(kept(host, old), kept(host, &moved(old)));
    }
    for one in &mut pool.all {
        if one.name == *name {
            one.origin.clone_from(&before);
        } else if one.name == source {
            one.origin = Some(moved(&origin));
        } else if let Some(old) = one.origin.clone().filter(|old| moving.contains(old)) {
            one.origin = Some(moved(&old));
        }
        if moving.contains(&one.name) {
            one.name = moved(&one.name);
        }
    }
    Ok(())
}

fn set(pool: &mut Pool, asked: &Asked) -> Result<(), Failed> {
    let [assign, name] = asked.names.as_slice() else { return Err("missing property=value argument".to_owned()) };
    let asked = Asked { flags: Vec::new(), values: vec![('o', assign.clone())], names: Vec::new() };
    pool.needed(name)?;
    for (property, value) in asked.set()? {
        for of in pool.all.iter_mut().filter(|of| of.name == *name) {
            of.own.retain(|(own, _)| *own != property);
            of.own.push((property.clone(), value.clone()));
        }
    }
    Ok(())
}

fn inherit(pool: &mut Pool, asked: &Asked) -> Result<(), Failed> {
    let [property, name] = asked.names.as_slice() else { return Err("missing property argument".to_owned()) };
    pool.needed(name)?;
    for of in pool.all.iter_mut().filter(|of| of.name == *name) {
        of.own.retain(|(own, _)| own != property);
    }
    Ok(())
}

fn mount(host: &Host, pool: &Pool, asked: &Asked) -> Result<(), Failed> {
    let [name] = asked.names.as_slice() else { return Err("jailhost: zfs mount is played with one name".to_owned()) };
    let at = host.path(pool.mountpoint(pool.needed(name)?));
    match at.is_dir() {
        true => Err(format!("cannot mount '{name}': filesystem already mounted")),
        false => std::fs::create_dir_all(&at).map_err(|wrong| say::reason(&wrong)),
    }
}
