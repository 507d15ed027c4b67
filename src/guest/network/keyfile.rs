//! NetworkManager's own profiles: `/etc/NetworkManager/system-connections/*`, by nm-settings-keyfile(5) and GLib's key
//! files. An address is `address1=10.0.5.12/24` with its gateway behind it or in `gateway=`; in old files it is
//! `addresses1=10.0.5.12;24;10.0.5.1;`, for slash, comma and semicolon mean the same here.
//!
//! A method that needs an address and has none left is switched off, with what may not stand beside it then: NetworkManager
//! would refuse the whole profile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::splice::{Splices, address, becomes};
use super::super::tree::{FileImage, Overlay, shown};
use super::super::{Address, GuestError, Interface};
use super::{Job, method};

const DIRECTORY: &str = "etc/NetworkManager/system-connections";
/// Families: their group, and the method of one that is off (`disabled` is no word of IPv6's in old releases).
const FAMILIES: [(&str, &str); 2] = [("ipv4", "disabled"), ("ipv6", "ignore")];
/// What may not stand beside a method that is off.
const NOT_OFF: [&str; 3] = ["gateway", "dns", "dns-search"];
const TO_DHCP: &str = "the interface is turned to DHCP";

/// One profile.
struct File {
    path: PathBuf,
    text: String,
    /// Where each group's header ends, the first of that name.
    groups: BTreeMap<String, usize>,
    settings: Vec<Setting>,
}

/// `key=value` in a group.
struct Setting {
    group: String,
    key: String,
    value: Range<usize>,
    range: Range<usize>,
    line: usize,
}

/// An address as a profile has it.
struct Fixed {
    ip: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
}

impl File {
    fn syntax(&self, line: usize, why: impl Into<String>) -> GuestError {
        GuestError::Syntax { path: shown(&self.path), line, why: why.into() }
    }
    fn value(&self, setting: &Setting) -> &str {
        &self.text[setting.value.clone()]
    }
    /// The setting that counts: of two the later one.
    fn last(&self, group: &str, key: &str) -> Option<&Setting> {
        self.settings.iter().rfind(|setting| setting.group == group && setting.key == key)
    }
    fn get(&self, group: &str, key: &str) -> Option<&str> {
        self.last(group, key).map(|setting| self.value(setting)).filter(|value| !value.is_empty())
    }
    /// The interface it is for: what it is bound to, else what people call it.
    fn name(&self) -> &str {
        let file = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let called = || self.get("connection", "id").unwrap_or(file.strip_suffix(".nmconnection").unwrap_or(file));
        self.get("connection", "interface-name").unwrap_or_else(called)
    }
    /// The setting's address, if it is a setting for one.
    fn fixed(&self, setting: &Setting) -> Result<Option<Fixed>, GuestError> {
        let is_v4 = setting.group == FAMILIES[0].0;
        let digits = setting.key.strip_prefix("address").map(|rest| rest.strip_prefix("es").unwrap_or(rest));
        if !digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            || !FAMILIES.iter().any(|(group, _)| setting.group == *group)
            || self.value(setting).is_empty()
        {
            return Ok(None);
        }
        let value = self.value(setting);
        let wrong = || self.syntax(setting.line, format!("{value:?} is not ADDRESS/PREFIX or ADDRESS/PREFIX,GATEWAY"));
        let ip = |text: &str| text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == is_v4).ok_or_else(wrong);
        let mut parts = value.split(['/', ',', ';']).map(str::trim);
        let mut found =
            Fixed { ip: ip(parts.next().unwrap_or_default())?, prefix: if is_v4 { 24 } else { 64 }, gateway: None };
        let mut gateway = parts.next().unwrap_or_default();
        // `10.0.5.12/10.0.5.1` once was an address with its gateway.
        if let Ok(prefix) = gateway.parse::<u8>() {
            found.prefix = Some(prefix).filter(|prefix| *prefix <= if is_v4 { 32 } else { 128 }).ok_or_else(wrong)?;
            gateway = parts.next().unwrap_or_default();
        }
        if !gateway.is_empty() {
            found.gateway = Some(ip(gateway)?).filter(|gateway| !gateway.is_unspecified());
        }
        if parts.any(|more| !more.is_empty()) { Err(wrong()) } else { Ok(Some(found)) }
    }
    fn line_end(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }
}

/// The interfaces, by the names of the profiles' files.
pub fn inspect(files: &Overlay<'_>) -> Result<Vec<Interface>, GuestError> {
    let mut found = Vec::new();
    for file in read(files)? {
        let (mut addresses, mut gateways) = (Vec::new(), Vec::new());
        for setting in &file.settings {
            let counts =
                |_: &Fixed| file.last(&setting.group, &setting.key).is_some_and(|last| last.line == setting.line);
            if let Some(fixed) = file.fixed(setting)?.filter(counts) {
                let (path, line) = (file.path.clone(), setting.line);
                addresses.push(Address { ip: fixed.ip, prefix: fixed.prefix, file: path, line });
                gateways.extend(fixed.gateway);
            }
        }
        for (group, _) in FAMILIES {
            gateways.extend(file.get(group, "gateway").and_then(|value| value.parse::<IpAddr>().ok()));
        }
        let pins = [("ethernet", "mac-address"), ("802-3-ethernet", "mac-address")];
        let set = [("ethernet", "cloned-mac-address"), ("802-3-ethernet", "cloned-mac-address")];
        let mac = pins.iter().chain(&set).find_map(|(group, key)| file.get(group, key)?.parse().ok());
        let dynamic = |group, words: &[&str]| file.get(group, "method").is_some_and(|method| words.contains(&method));
        found.push(Interface {
            name: file.name().to_owned(),
            mac,
            ipv4: method(dynamic("ipv4", &["auto"]), addresses.iter().any(|address: &Address| address.ip.is_ipv4())),
            ipv6: method(dynamic("ipv6", &["dhcp"]), addresses.iter().any(|address| address.ip.is_ipv6())),
            addresses,
            gateways,
            configured_by: "keyfile".into(),
        });
    }
    Ok(found)
}

/// Plans the edits in NetworkManager's profiles.
pub(super) fn rewrite(edits: &mut Overlay<'_>, job: &mut Job) -> Result<(), GuestError> {
    for file in read(edits)? {
        job.see_commented(&file.text);
        let mut splices = Splices::new(&file.text);
        for setting in &file.settings {
            job.changes.replace_macs(&mut splices, setting.range.clone());
        }
        let to_dhcp = job.turns_to_dhcp([file.name()]);
        for (group, off) in FAMILIES {
            rewrite_family(&file, group, off, to_dhcp && group == FAMILIES[0].0, &mut splices, job)?;
        }
        if let Some((text, why)) = splices.finish() {
            edits.set_text(&file.path, text, why)?;
        }
    }
    Ok(())
}

fn rewrite_family(
    file: &File,
    group: &str,
    off: &str,
    to_dhcp: bool,
    splices: &mut Splices<'_>,
    job: &mut Job,
) -> Result<(), GuestError> {
    let own = || file.settings.iter().filter(|setting| setting.group == group);
    // What goes and what stays, and the gateways behind.
    let (mut gone, mut stays) = (None, false);
    let (mut gateway, mut other) = (None, None);
    for setting in own() {
        let Some(fixed) = file.fixed(setting)? else { continue };
        job.seen.insert(fixed.ip);
        let (change, why) = match job.changes.address(fixed.ip) {
            _ if to_dhcp => (Some(None), TO_DHCP.to_owned()),
            change => (change, becomes(fixed.ip, change.flatten())),
        };
        match change {
            Some(None) => {
                splices.comment_out(setting.range.clone(), &why);
                gateway = gateway.or(fixed.gateway.map(|gateway| (gateway, setting)));
                gone = Some(why);
                continue;
            }
            Some(Some(new)) => {
                let length = file.value(setting).find(['/', ',', ';']).unwrap_or(setting.value.len());
                let length = file.value(setting)[..length].trim_end().len();
                splices.replace(setting.value.start..setting.value.start + length, new.to_string(), &why);
            }
            None => {}
        }
        stays = true;
        other = other.or(fixed.gateway);
    }
    mentions(file, group, splices, job);
    if to_dhcp {
        return turn_to_dhcp(file, group, splices);
    }
    let Some(why) = gone else { return Ok(()) };
    if stays {
        // The gateway that stood behind the address serves those that stay.
        let is_only = other.is_none() && file.get(group, "gateway").is_none();
        if let Some((gateway, setting)) = gateway.filter(|_| is_only) {
            line_below(file, setting.range.end, &format!("gateway={gateway}"), splices, &why);
        }
        return Ok(());
    }
    if let Some(setting) = file.last(group, "method").filter(|setting| file.value(setting) == "manual") {
        splices.replace(setting.value.clone(), off, &why);
        for setting in own().filter(|setting| NOT_OFF.contains(&setting.key.as_str())) {
            splices.comment_out(setting.range.clone(), &why);
        }
    }
    Ok(())
}

fn turn_to_dhcp(file: &File, group: &str, splices: &mut Splices<'_>) -> Result<(), GuestError> {
    match (file.last(group, "method"), file.groups.get(group)) {
        (Some(setting), _) if file.value(setting) == "auto" => {}
        (Some(setting), _) => splices.replace(setting.value.clone(), "auto", TO_DHCP),
        (None, Some(end)) => line_below(file, *end, "method=auto", splices, TO_DHCP),
        // A profile that says nothing of IPv4 asks for a lease.
        (None, None) => {}
    }
    let default: BTreeSet<String> = file
        .settings
        .iter()
        .filter(|setting| {
            is_route(&setting.key) && file.value(setting).split(['/', ',', ';']).next() == Some("0.0.0.0")
        })
        .flat_map(|setting| [setting.key.clone(), format!("{}_options", setting.key)])
        .collect();
    for setting in file.settings.iter().filter(|setting| setting.group == group) {
        if setting.key == "gateway" || default.contains(&setting.key) {
            splices.comment_out(setting.range.clone(), TO_DHCP);
        }
    }
    Ok(())
}

fn is_route(key: &str) -> bool {
    let digits = key.strip_prefix("route").map(|rest| rest.strip_prefix('s').unwrap_or(rest));
    digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Changed addresses in rules and as the source of routes.
fn mentions(file: &File, group: &str, splices: &mut Splices<'_>, job: &Job) {
    for setting in file.settings.iter().filter(|setting| setting.group == group) {
        let route = setting.key.strip_suffix("_options").filter(|route| is_route(route));
        if route.is_none() && !setting.key.starts_with("routing-rule") {
            continue;
        }
        let mut at = setting.value.start;
        for word in file.value(setting).split_inclusive([' ', ',', '=', ';']) {
            let found = address(word.trim_end_matches([' ', ',', '=', ';']));
            match found.and_then(|(old, _, length)| Some((old, length, job.changes.address(old)?))) {
                Some((old, length, Some(new))) => {
                    splices.replace(at..at + length, new.to_string(), becomes(old, Some(new)));
                }
                Some((old, _, None)) => {
                    splices.comment_out(setting.range.clone(), becomes(old, None));
                    for of in file.settings.iter().filter(|of| of.group == group && Some(of.key.as_str()) == route) {
                        splices.comment_out(of.range.clone(), becomes(old, None));
                    }
                }
                None => {}
            }
            at += word.len();
        }
    }
}

/// Puts a line below the one that ends there.
fn line_below(file: &File, end: usize, line: &str, splices: &mut Splices<'_>, why: &str) {
    splices.replace(end..end, format!("{}{line}", file.line_end()), why);
}

/// Whether NetworkManager passes over a file by its name: hidden ones, backups, those of `mkstemp` (a dot and six letters
/// or digits at the end), certificates. Files below `/etc` need no `.nmconnection`.
fn is_ignored(name: &str) -> bool {
    let temporary = name
        .rsplit_once('.')
        .is_some_and(|(_, end)| end.len() == 6 && end.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let lower = name.to_ascii_lowercase();
    name.starts_with('.') || temporary || ["~", ".pem", ".der"].iter().any(|end| lower.ends_with(end))
}

fn read(files: &Overlay<'_>) -> Result<Vec<File>, GuestError> {
    let mut found = Vec::new();
    for name in files.list(Path::new(DIRECTORY))? {
        let Some(name) = name.to_str().filter(|name| !is_ignored(name)) else { continue };
        let path = Path::new(DIRECTORY).join(name);
        if matches!(files.image(&path)?, Some(FileImage::Directory { .. })) {
            continue;
        }
        if let Some(text) = files.text(&path)? {
            found.push(parse(path, text)?);
        }
    }
    Ok(found)
}

/// Reads a file line by line: no line goes on in the next, and comments have lines of their own.
fn parse(path: PathBuf, text: String) -> Result<File, GuestError> {
    let mut file = File { path, text: String::new(), groups: BTreeMap::new(), settings: Vec::new() };
    let (mut group, mut start) = (None, 0);
    for (at, physical) in text.split_inclusive('\n').enumerate() {
        let body = physical.trim_end_matches(['\n', '\r']);
        let (range, line) = (start..start + body.len(), at + 1);
        start += physical.len();
        let trimmed = body.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if let Some(head) = trimmed.strip_prefix('[') {
            let name = head.strip_suffix(']').ok_or_else(|| file.syntax(line, "a group without ]"))?;
            file.groups.entry(name.to_owned()).or_insert(range.end);
            group = Some(name.to_owned());
            continue;
        }
        let equals = body.find('=').ok_or_else(|| file.syntax(line, "neither a group nor KEY=VALUE"))?;
        let group = group.clone().ok_or_else(|| file.syntax(line, "a setting before the first group"))?;
        let from = range.start + equals + 1;
        let value = body[equals + 1..].trim();
        let from = from + (body[equals + 1..].len() - body[equals + 1..].trim_start().len());
        let key = body[..equals].trim().to_owned();
        file.settings.push(Setting { group, key, value: from..from + value.len(), range, line });
    }
    Ok(File { text, ..file })
}
