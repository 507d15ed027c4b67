//! ifupdown: `/etc/network/interfaces` and what it sources, by interfaces(5) of Debian's ifupdown 0.8.
//!
//! A line whose first word is no keyword is an option of the stanza before it. Comments have lines of their own; a
//! backslash at a line's end continues it. Stanzas of bridges, bonds and VLANs keep everything but their addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::splice::{Splices, Word, address, becomes, lines, words};
use super::super::tree::{FileImage, Overlay, shown, unfit};
use super::super::{Address, GuestError, Interface, Method};
use super::{Job, glob, method, netmask, subnet};

const MAIN: &str = "etc/network/interfaces";
/// Files that may be sourced, all in all.
const MAX_FILES: usize = 1000;
/// Options that belong to a static address only.
const STATIC: [&str; 7] = ["address", "netmask", "broadcast", "network", "gateway", "pointopoint", "scope"];
/// Options that run commands.
const HOOKS: [&str; 6] = ["up", "down", "pre-up", "post-up", "pre-down", "post-down"];

/// One configuration file and what was understood of it.
struct File {
    path: PathBuf,
    text: String,
}

/// `iface NAME FAMILY METHOD` and its options.
struct Stanza<'t> {
    head: Vec<Word<'t>>,
    options: Vec<(Vec<Word<'t>>, Range<usize>, usize)>,
    range: Range<usize>,
}

impl<'t> Stanza<'t> {
    fn name(&self) -> &'t str {
        self.head[1].text
    }
    fn is(&self, family: &str, method: &str) -> bool {
        self.head.get(2).is_some_and(|word| word.text == family) && self.head.get(3).is_some_and(|w| w.text == method)
    }
    fn option(&self, name: &str) -> Option<Word<'t>> {
        self.options.iter().find(|(words, ..)| words[0].text == name).and_then(|(words, ..)| words.get(1).copied())
    }
    /// The address of a static stanza, with prefix length and line.
    fn address(&self, path: &Path) -> Result<Option<(IpAddr, u8, usize)>, GuestError> {
        if !self.is("inet", "static") && !self.is("inet6", "static") {
            return Ok(None);
        }
        let Some((option, _, line)) = self.options.iter().find(|(words, ..)| words[0].text == "address") else {
            return Ok(None);
        };
        let syntax = |why: String| GuestError::Syntax { path: shown(path), line: *line, why };
        let word = option.get(1).map_or("", |word| word.text);
        let (ip, prefix, _) = address(word).ok_or_else(|| syntax(format!("{word:?} is not an address")))?;
        let full = if ip.is_ipv4() { 32 } else { 64 };
        let prefix = match (prefix, self.option("netmask")) {
            (Some(prefix), _) => prefix,
            (None, None) => full,
            (None, Some(mask)) => {
                netmask(mask.text).ok_or_else(|| syntax(format!("{:?} is not a netmask", mask.text)))?
            }
        };
        Ok(Some((ip, prefix, *line)))
    }
    /// Whether the interface is more than a card with addresses.
    fn is_built(&self) -> bool {
        let built = |name: &str| {
            let name = name.replace('_', "-");
            name.starts_with("bridge-") || name.starts_with("bond-") || name.starts_with("vlan-") || name == "slaves"
        };
        self.options.iter().any(|(words, ..)| built(words[0].text))
    }
}

/// The interfaces, in file order; the stanzas of one name together.
pub fn inspect(files: &Overlay<'_>) -> Result<Vec<Interface>, GuestError> {
    let mut found: Vec<(Interface, [bool; 2])> = Vec::new();
    let mut places = BTreeMap::new();
    for file in read(files)? {
        for stanza in stanzas(&file)?.0 {
            let name = stanza.name();
            let at = *places.entry(name.to_owned()).or_insert_with(|| {
                found.push((empty(name), [false; 2]));
                found.len() - 1
            });
            let (interface, dhcp) = &mut found[at];
            dhcp[0] |= stanza.is("inet", "dhcp");
            dhcp[1] |= stanza.is("inet6", "dhcp");
            if let Some((ip, prefix, line)) = stanza.address(&file.path)? {
                interface.addresses.push(Address { ip, prefix, file: file.path.clone(), line });
            }
            interface.gateways.extend(stanza.option("gateway").and_then(|word| word.text.parse::<IpAddr>().ok()));
            let hwaddress = stanza.options.iter().find(|(words, ..)| words[0].text == "hwaddress");
            if let Some(mac) = hwaddress.and_then(|(words, ..)| words.iter().find_map(|word| word.text.parse().ok())) {
                interface.mac = Some(mac);
            }
        }
    }
    let done = |(mut interface, dhcp): (Interface, [bool; 2])| {
        interface.ipv4 = method(dhcp[0], interface.addresses.iter().any(|address| address.ip.is_ipv4()));
        interface.ipv6 = method(dhcp[1], interface.addresses.iter().any(|address| address.ip.is_ipv6()));
        interface
    };
    Ok(found.into_iter().map(done).collect())
}

fn empty(name: &str) -> Interface {
    Interface {
        name: name.to_owned(),
        mac: None,
        ipv4: Method::Other,
        ipv6: Method::Other,
        addresses: Vec::new(),
        gateways: Vec::new(),
        configured_by: "ifupdown".into(),
    }
}

/// Plans the edits in ifupdown's files.
pub(super) fn rewrite(edits: &mut Overlay<'_>, job: &mut Job) -> Result<(), GuestError> {
    let files = read(edits)?;
    let mut kept = BTreeSet::new();
    let mut gone = BTreeSet::new();
    let mut turned = BTreeSet::new();
    let mut work = Vec::new();
    for file in &files {
        job.see_commented(&file.text);
        let (stanzas, autos) = stanzas(file)?;
        let mut splices = Splices::new(&file.text);
        for stanza in &stanzas {
            let stays = rewrite_stanza(file, stanza, &mut splices, job, &mut turned)?;
            if stays { &mut kept } else { &mut gone }.insert(stanza.name().to_owned());
        }
        for line in lines(&file.text, &['#']) {
            job.changes.replace_macs(&mut splices, line.range);
        }
        work.push((file, autos, splices));
    }
    for (file, autos, mut splices) in work {
        for (words, range) in autos {
            let leaves = |word: &&Word<'_>| gone.contains(word.text) && !kept.contains(word.text);
            let leaving: Vec<&Word<'_>> = words[1..].iter().filter(leaves).collect();
            if leaving.is_empty() {
                continue;
            }
            if leaving.len() == words.len() - 1 {
                splices.comment_out(range, format!("interface {} has no address", leaving[0].text));
                continue;
            }
            for word in leaving {
                let before = file.text[..word.start].trim_end_matches([' ', '\t']).len();
                splices.replace(before..word.range().end, "", format!("interface {} has no address", word.text));
            }
        }
        if let Some((text, why)) = splices.finish() {
            edits.set_text(&file.path, text, why)?;
        }
    }
    Ok(())
}

/// Changes one stanza; tells whether it stays.
fn rewrite_stanza(
    file: &File,
    stanza: &Stanza<'_>,
    splices: &mut Splices<'_>,
    job: &mut Job,
    turned: &mut BTreeSet<String>,
) -> Result<bool, GuestError> {
    let name = stanza.name();
    let found = stanza.address(&file.path)?;
    job.seen.extend(found.map(|(ip, ..)| ip));
    rewrite_hooks(stanza, splices, job);
    if stanza.is("inet", "dhcp") && job.turns_to_dhcp([name]) {
        turned.insert(name.to_owned());
    }
    if stanza.is("inet", "static") && job.turns_to_dhcp([name]) {
        let why = format!("interface {name} is turned to DHCP");
        if !turned.insert(name.to_owned()) {
            // One stanza asks for the lease; the further addresses of this family go.
            return Ok(take_off(stanza, splices, &why));
        }
        splices.replace(stanza.head[3].range(), "dhcp", &why);
        static_options_off(stanza, splices, &why);
        return Ok(true);
    }
    let Some((old, prefix, _)) = found else { return Ok(true) };
    let Some(new) = job.changes.address(old) else { return Ok(true) };
    let why = becomes(old, new);
    let Some(new) = new else { return Ok(take_off(stanza, splices, &why)) };
    for (words, _, _) in &stanza.options {
        let Some(word) = words.get(1) else { continue };
        match (words[0].text, address(word.text), old, new) {
            ("address", Some((ip, _, length)), ..) if ip == old => {
                splices.replace(word.start..word.start + length, new.to_string(), &why);
            }
            ("broadcast" | "network", Some((IpAddr::V4(_), None, _)), IpAddr::V4(old), IpAddr::V4(new)) => {
                let (before, after) = (subnet(old, prefix), subnet(new, prefix));
                let value = if words[0].text == "broadcast" { after.0 } else { after.1 };
                if before != after && word.text != value.to_string() {
                    splices.replace(word.range(), value.to_string(), &why);
                }
            }
            _ => {}
        }
    }
    Ok(true)
}

/// Whole words in commands that are a changed address, with or without prefix length.
fn rewrite_hooks(stanza: &Stanza<'_>, splices: &mut Splices<'_>, job: &mut Job) {
    for (words, range, _) in stanza.options.iter().filter(|(words, ..)| HOOKS.contains(&words[0].text)) {
        for word in &words[1..] {
            let Some((old, _, length)) = address(word.text) else { continue };
            job.seen.insert(old);
            let Some(new) = job.changes.address(old) else { continue };
            match new {
                Some(new) => splices.replace(word.start..word.start + length, new.to_string(), becomes(old, Some(new))),
                None => splices.comment_out(range.clone(), becomes(old, None)),
            }
        }
    }
}

/// Takes a static stanza off; tells whether something of it stays.
fn take_off(stanza: &Stanza<'_>, splices: &mut Splices<'_>, why: &str) -> bool {
    if stanza.is_built() {
        splices.replace(stanza.head[3].range(), "manual", why);
        static_options_off(stanza, splices, why);
        return true;
    }
    splices.comment_out(stanza.range.clone(), why);
    for (_, range, _) in &stanza.options {
        splices.comment_out(range.clone(), why);
    }
    false
}

fn static_options_off(stanza: &Stanza<'_>, splices: &mut Splices<'_>, why: &str) {
    for (_, range, _) in stanza.options.iter().filter(|(words, ..)| STATIC.contains(&words[0].text)) {
        splices.comment_out(range.clone(), why);
    }
}

type Autos<'t> = Vec<(Vec<Word<'t>>, Range<usize>)>;

/// The `iface` stanzas of a file, and its `auto` and `allow-…` lines.
fn stanzas(file: &File) -> Result<(Vec<Stanza<'_>>, Autos<'_>), GuestError> {
    let (mut found, mut autos) = (Vec::new(), Vec::new());
    // Whether options belong to the last `iface`; those of a mapping are passed over.
    let mut inside: Option<bool> = None;
    for line in lines(&file.text, &['#']) {
        let words = words(&file.text, line.range.clone());
        let syntax = |why: String| GuestError::Syntax { path: shown(&file.path), line: line.number, why };
        let Some(first) = words.first() else { continue };
        match first.text {
            "iface" => {
                if words.len() < 2 {
                    return Err(syntax("iface without a name".into()));
                }
                let range = line.range;
                found.push(Stanza { head: words, options: Vec::new(), range });
                inside = Some(true);
            }
            "mapping" => inside = Some(false),
            "source" | "source-directory" | "source-dir" | "template" | "rename" => inside = None,
            keyword if keyword == "auto" || keyword.starts_with("allow-") => {
                autos.push((words, line.range));
                inside = None;
            }
            keyword if keyword.starts_with("no-auto-down") || keyword.starts_with("no-scripts") => inside = None,
            option => match (inside, found.last_mut()) {
                (Some(true), Some(stanza)) => stanza.options.push((words, line.range, line.number)),
                (Some(false), _) => {}
                _ => return Err(syntax(format!("option {option:?} stands outside a stanza"))),
            },
        }
    }
    Ok((found, autos))
}

/// The main file and all it sources, each once, in reading order.
fn read(files: &Overlay<'_>) -> Result<Vec<File>, GuestError> {
    let mut found: Vec<File> = Vec::new();
    let mut todo = vec![PathBuf::from(MAIN)];
    let mut met = BTreeSet::new();
    while let Some(path) = todo.pop() {
        if !met.insert(path.clone()) || matches!(files.image(&path)?, Some(FileImage::Directory { .. })) {
            continue;
        }
        let Some(text) = files.text(&path)? else { continue };
        if found.len() >= MAX_FILES {
            return Err(unfit(&path, format!("is more than the {MAX_FILES}th sourced file"), "source fewer files"));
        }
        let file = File { path, text };
        let mut sourced = Vec::new();
        for line in lines(&file.text, &['#']) {
            let words = words(&file.text, line.range.clone());
            if let [keyword @ ("source" | "source-directory" | "source-dir"), rest @ ..] =
                &words.iter().map(|word| word.text).collect::<Vec<_>>()[..]
            {
                for pattern in rest {
                    let named = source(files, &file.path, *keyword == "source", pattern, line.number)?;
                    sourced.extend(named);
                }
            }
        }
        todo.extend(sourced.into_iter().rev());
        found.push(file);
    }
    Ok(found)
}

/// The files one word of a `source` or `source-directory` line names.
fn source(
    files: &Overlay<'_>,
    from: &Path,
    plain: bool,
    pattern: &str,
    line: usize,
) -> Result<Vec<PathBuf>, GuestError> {
    let syntax = |why: String| GuestError::Syntax { path: shown(from), line, why };
    if pattern.contains(['$', '`', '~', '"', '\'', '{', '(']) {
        return Err(syntax(format!("{pattern:?} needs a shell to be understood")));
    }
    // A relative path is relative to the directory of the file that names it (interfaces(5)).
    let pattern = from.parent().unwrap_or(Path::new("")).join(pattern);
    let mut named = PathBuf::new();
    for component in pattern.components() {
        match component {
            std::path::Component::ParentDir => drop(named.pop()),
            std::path::Component::Normal(name) => named.push(name),
            _ => {}
        }
    }
    let found = glob(files, &named)?;
    if plain {
        return Ok(found);
    }
    let mut inside = Vec::new();
    for directory in found {
        let good = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let names = files.list(&directory)?;
        inside.extend(names.iter().filter_map(|name| name.to_str()).filter(|n| good(n)).map(|n| directory.join(n)));
    }
    Ok(inside)
}
