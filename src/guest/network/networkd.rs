//! systemd-networkd: `.network`, `.netdev` and `.link` files and their drop-ins, by systemd.network(5),
//! systemd.link(5) and systemd.syntax(7).
//!
//! A file below `/etc` hides the one of the same name below `/usr/lib`; a link to `/dev/null` masks it. The address
//! `0.0.0.0/p` (any free network) and files that match nothing by name or hardware address are nobody's address.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::splice::{Splices, address, becomes, lines, words};
use super::super::tree::{FileImage, Overlay, shown};
use super::super::{Address, GuestError, Interface};
use super::{Job, matches, method, subnet};

/// Where files are looked for, the strongest first.
const DIRECTORIES: [&str; 3] = ["etc/systemd/network", "usr/lib/systemd/network", "lib/systemd/network"];

/// One file: a unit or a drop-in of one.
struct File {
    path: PathBuf,
    text: String,
}

/// A unit and its drop-ins.
struct Unit {
    name: String,
    files: Vec<File>,
}

/// One setting.
struct Setting<'t> {
    section: &'t str,
    /// Number of the section in its file, so that two `[Address]` are two.
    nth: usize,
    key: &'t str,
    value: Range<usize>,
    range: Range<usize>,
    line: usize,
}

/// The interfaces of `.network` files that name one, in file order.
pub fn inspect(files: &Overlay<'_>) -> Result<Vec<Interface>, GuestError> {
    let mut found = Vec::new();
    for unit in units(files)? {
        let Some(stem) = unit.name.strip_suffix(".network") else { continue };
        let (mut mac, mut addresses, mut gateways) = (None, Vec::new(), Vec::new());
        let (mut name, mut dhcp) = (None, [false; 2]);
        for file in &unit.files {
            for setting in settings(file)? {
                let value = &file.text[setting.value.clone()];
                match (setting.section, setting.key) {
                    ("Match", "Name") => name = name_of(value),
                    ("Match", "MACAddress" | "PermanentMACAddress") | ("Link", "MACAddress") => {
                        mac = value.split_whitespace().next().and_then(|word| word.parse().ok()).or(mac);
                    }
                    ("Network", "DHCP") => dhcp = families(value),
                    ("Network" | "Address", "Address") => {
                        let (ip, prefix) = match read_address(file, &setting)? {
                            Some((ip, prefix, _)) if !ip.is_unspecified() => (ip, prefix),
                            _ => continue,
                        };
                        let prefix = prefix.unwrap_or(if ip.is_ipv4() { 32 } else { 128 });
                        addresses.push(Address { ip, prefix, file: file.path.clone(), line: setting.line });
                    }
                    ("Network" | "Route", "Gateway") => gateways.extend(value.parse::<std::net::IpAddr>()),
                    _ => {}
                }
            }
        }
        let name = match (name, mac) {
            (Some(name), _) => name,
            (None, Some(_)) => stem.to_owned(),
            // A pattern (`en*`): whoever it is, it is somebody only if addresses come from it.
            (None, None) if addresses.is_empty() && !unit.files[0].path.starts_with(DIRECTORIES[0]) => continue,
            (None, None) => stem.to_owned(),
        };
        if addresses.is_empty() && !unit.files.iter().any(|file| file.path.starts_with(DIRECTORIES[0])) {
            continue;
        }
        let ipv4 = method(dhcp[0], addresses.iter().any(|address| address.ip.is_ipv4()));
        let ipv6 = method(dhcp[1], addresses.iter().any(|address| address.ip.is_ipv6()));
        let configured_by = "networkd".into();
        found.push(Interface { name, mac, ipv4, ipv6, addresses, gateways, configured_by });
    }
    Ok(found)
}

/// Plans the edits in networkd's files.
pub(super) fn rewrite(edits: &mut Overlay<'_>, job: &mut Job) -> Result<(), GuestError> {
    let mut taken = BTreeSet::new();
    for unit in units(edits)? {
        let network = unit.name.ends_with(".network");
        let mut named = Vec::new();
        for file in &unit.files {
            for setting in settings(file)? {
                if (setting.section, setting.key) == ("Match", "Name") {
                    named = file.text[setting.value].split_whitespace().collect();
                }
            }
        }
        // A file that matches by something else goes by its own name, as in `inspect`.
        if name_of(&named.join(" ")).is_none() {
            named.push(unit.name.trim_end_matches(".network"));
        }
        // Only the first file that matches an interface configures it.
        let wanted = |name: &&String| !taken.contains(*name) && named.iter().any(|pattern| matches(pattern, name));
        let names: Vec<String> = job.to_dhcp.iter().filter(|name| network && wanted(name)).cloned().collect();
        let to_dhcp = job.turns_to_dhcp(names.iter().map(String::as_str));
        taken.extend(names);
        let mut dhcp_set = false;
        let mut done = Vec::new();
        for file in &unit.files {
            job.see_commented(&file.text);
            let mut splices = Splices::new(&file.text);
            let settings = settings(file)?;
            for setting in &settings {
                job.changes.replace_macs(&mut splices, setting.range.clone());
                if network {
                    rewrite_address(file, setting, &settings, &mut splices, job)?;
                    if to_dhcp {
                        dhcp_set |= turn_to_dhcp(file, setting, &settings, &mut splices);
                    }
                }
            }
            done.push(splices);
        }
        if to_dhcp && !dhcp_set {
            add_dhcp(&unit.files[0], &mut done[0]);
        }
        for (file, splices) in unit.files.iter().zip(done) {
            if let Some((text, why)) = splices.finish() {
                edits.set_text(&file.path, text, why)?;
            }
        }
    }
    Ok(())
}

fn rewrite_address(
    file: &File,
    setting: &Setting<'_>,
    all: &[Setting<'_>],
    splices: &mut Splices<'_>,
    job: &mut Job,
) -> Result<(), GuestError> {
    let own = matches!((setting.section, setting.key), ("Network" | "Address", "Address"));
    if !own && !matches!(setting.key, "PreferredSource") {
        return Ok(());
    }
    let Some((old, prefix, length)) = read_address(file, setting)? else { return Ok(()) };
    job.seen.insert(old);
    let Some(new) = job.changes.address(old) else { return Ok(()) };
    let why = becomes(old, new);
    let Some(new) = new else {
        match setting.section {
            "Address" => section_off(setting, all, &file.text, splices, &why),
            _ => splices.comment_out(setting.range.clone(), &why),
        }
        return Ok(());
    };
    splices.replace(setting.value.start..setting.value.start + length, new.to_string(), &why);
    let (std::net::IpAddr::V4(old), std::net::IpAddr::V4(new), Some(prefix)) = (old, new, prefix) else {
        return Ok(());
    };
    let (before, after) = (subnet(old, prefix), subnet(new, prefix));
    for other in all.iter().filter(|other| own && other.nth == setting.nth && other.key == "Broadcast") {
        if before != after && file.text[other.value.clone()].parse::<std::net::Ipv4Addr>().is_ok() {
            splices.replace(other.value.clone(), after.0.to_string(), &why);
        }
    }
    Ok(())
}

/// Turns one setting of an interface to DHCP; tells whether it is the `DHCP=` that now says so.
fn turn_to_dhcp(file: &File, setting: &Setting<'_>, all: &[Setting<'_>], splices: &mut Splices<'_>) -> bool {
    let why = "the interface is turned to DHCP";
    let value = &file.text[setting.value.clone()];
    let v4 = address(value).filter(|(ip, ..)| ip.is_ipv4());
    match (setting.section, setting.key) {
        ("Network", "DHCP") => {
            match families(value) {
                [true, _] => {}
                [false, true] => splices.replace(setting.value.clone(), "yes", why),
                [false, false] => splices.replace(setting.value.clone(), "ipv4", why),
            }
            return true;
        }
        ("Network", "Address" | "Gateway") if v4.is_some() => splices.comment_out(setting.range.clone(), why),
        ("Address", "Address") if v4.is_some() => section_off(setting, all, &file.text, splices, why),
        ("Route", "Gateway") if v4.is_some() => {
            let special = |other: &&Setting<'_>| {
                other.nth == setting.nth && other.key == "Destination" && file.text[other.value.clone()] != *"0.0.0.0/0"
            };
            if all.iter().find(special).is_none() {
                section_off(setting, all, &file.text, splices, why);
            }
        }
        _ => {}
    }
    false
}

/// Puts `DHCP=ipv4` below the first `[Network]`, or both at the end.
fn add_dhcp(file: &File, splices: &mut Splices<'_>) {
    let why = "the interface is turned to DHCP";
    let end = if file.text.contains("\r\n") { "\r\n" } else { "\n" };
    let head =
        lines(&file.text, &['#', ';']).into_iter().find(|line| file.text[line.range.clone()].trim() == "[Network]");
    match head {
        Some(head) => splices.replace(head.range.end..head.range.end, format!("{end}DHCP=ipv4"), why),
        None => {
            let gap = if file.text.ends_with('\n') || file.text.is_empty() { "" } else { end };
            // A backslash at the end would take what follows to itself; an empty line ends that.
            let open =
                file.text.trim_end_matches("\n").trim_end_matches('\r').ends_with('\\') && !file.text.ends_with("\n\n");
            let gap = if open { format!("{gap}{end}") } else { gap.to_owned() };
            let at = file.text.len();
            splices.replace(at..at, format!("{gap}[Network]{end}DHCP=ipv4{end}"), why);
        }
    }
}

/// Comments out the whole section a setting is in.
fn section_off(setting: &Setting<'_>, all: &[Setting<'_>], text: &str, splices: &mut Splices<'_>, why: &str) {
    let inside: Vec<&Setting<'_>> = all.iter().filter(|other| other.nth == setting.nth).collect();
    let first = inside.first().map_or(setting.range.start, |first| first.range.start);
    if let Some(head) = text[..first].rfind('[') {
        splices.comment_out(head..head + 1, why);
    }
    for other in inside {
        splices.comment_out(other.range.clone(), why);
    }
}

/// The address of an `Address=` or `PreferredSource=`; none if it is empty (which resets) or a keyword.
fn read_address(
    file: &File,
    setting: &Setting<'_>,
) -> Result<Option<(std::net::IpAddr, Option<u8>, usize)>, GuestError> {
    let value = &file.text[setting.value.clone()];
    match address(value) {
        None if value.is_empty() || setting.key != "Address" => Ok(None),
        None => Err(GuestError::Syntax {
            path: shown(&file.path),
            line: setting.line,
            why: format!("{value:?} is not an address"),
        }),
        found => Ok(found),
    }
}

/// The first name of a `Name=` that is no pattern.
fn name_of(value: &str) -> Option<String> {
    let name = value.split_whitespace().next()?;
    (!name.contains(['*', '?', '[', '!'])).then(|| name.to_owned())
}

/// Whether `DHCP=` asks for IPv4 and for IPv6 (old words included).
fn families(value: &str) -> [bool; 2] {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" | "y" | "t" | "both" => [true, true],
        "ipv4" | "v4" => [true, false],
        "ipv6" | "v6" => [false, true],
        _ => [false, false],
    }
}

fn settings(file: &File) -> Result<Vec<Setting<'_>>, GuestError> {
    let (mut section, mut nth) = ("", 0);
    let mut found = Vec::new();
    for line in lines(&file.text, &['#', ';']) {
        let text = &file.text[line.range.clone()];
        let syntax = |why: &str| GuestError::Syntax { path: shown(&file.path), line: line.number, why: why.into() };
        let trimmed = text.trim();
        if let Some(head) = trimmed.strip_prefix('[') {
            section = head.strip_suffix(']').ok_or_else(|| syntax("a section without ]"))?;
            nth += 1;
            continue;
        }
        let at = text.find('=').ok_or_else(|| syntax("neither a section nor KEY=VALUE"))?;
        if section.is_empty() {
            return Err(syntax("a setting before the first section"));
        }
        let start = line.range.start + at + 1;
        let value = words(&file.text, start..line.range.end);
        let value = match (value.first(), value.last()) {
            (Some(first), Some(last)) => first.start..last.range().end,
            _ => start..start,
        };
        found.push(Setting { section, nth, key: text[..at].trim(), value, range: line.range, line: line.number });
    }
    Ok(found)
}

/// Every unit that is in force, by name, with its drop-ins.
fn units(files: &Overlay<'_>) -> Result<Vec<Unit>, GuestError> {
    let wanted = |name: &str| [".network", ".netdev", ".link"].iter().any(|suffix| name.ends_with(suffix));
    let mut found = Vec::new();
    for (name, path) in names(files, "", &wanted)? {
        let mut unit = Unit { name, files: Vec::new() };
        if let Some(text) = read(files, &path)? {
            unit.files.push(File { path, text });
            for (_, path) in names(files, &format!("{}.d", unit.name), &|name| name.ends_with(".conf"))? {
                unit.files.extend(read(files, &path)?.map(|text| File { path, text }));
            }
            found.push(unit);
        }
    }
    Ok(found)
}

/// Names in a directory of all three places, each where it is strongest.
fn names(
    files: &Overlay<'_>,
    below: &str,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, PathBuf>, GuestError> {
    let mut found = BTreeMap::new();
    for directory in DIRECTORIES {
        let directory = Path::new(directory).join(below);
        for name in files.list(&directory)? {
            if let Some(name) = name.to_str().filter(|name| wanted(name)) {
                found.entry(name.to_owned()).or_insert_with(|| directory.join(name));
            }
        }
    }
    Ok(found)
}

/// A file's text; none if it is masked.
fn read(files: &Overlay<'_>, path: &Path) -> Result<Option<String>, GuestError> {
    match files.image(path)? {
        Some(FileImage::Symlink { target }) if target == Path::new("/dev/null") => Ok(None),
        Some(FileImage::Directory { .. }) => Ok(None),
        _ => Ok(files.text(path)?.filter(|text| !text.trim().is_empty())),
    }
}
