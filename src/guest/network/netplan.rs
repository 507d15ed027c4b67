//! netplan: `/etc/netplan/*.yaml`, by netplan(5) and its YAML reference.
//!
//! Files are edited by place, never written anew: comments, quotes, order and indentation stay. What is taken off is
//! commented out; out of a flow sequence (`[a, b]`) it is cut, and a comment above says so. Later files add to
//! earlier ones, as far as that decides what an interface has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::super::splice::{OFF, Splices, address, becomes, lines};
use super::super::tree::{FileImage, Overlay, shown};
use super::super::{Address, GuestError, Interface, Method};
use super::yaml::{self, Node};
use super::{Job, method};

const DIRECTORY: &str = "etc/netplan";

struct File {
    path: PathBuf,
    text: String,
    root: Node,
}

impl File {
    fn syntax(&self, line: usize, why: impl Into<String>) -> GuestError {
        GuestError::Syntax { path: shown(&self.path), line, why: why.into() }
    }
    /// Every interface definition of the file: its id and its mapping.
    fn definitions(&self) -> impl Iterator<Item = (&str, &Node)> {
        let kinds = self.root.get("network").map_or(&[][..], Node::pairs).iter();
        kinds.flat_map(|(_, kind)| kind.pairs()).filter_map(|(id, node)| Some((id.text()?, node)))
    }
}

/// The interfaces, in order of their ids.
pub fn inspect(files: &Overlay<'_>) -> Result<Vec<Interface>, GuestError> {
    let mut found: BTreeMap<String, (Interface, [bool; 2])> = BTreeMap::new();
    for file in read(files)? {
        for (id, node) in file.definitions() {
            let (interface, dhcp) = found.entry(id.to_owned()).or_insert_with(|| (empty(id), [false; 2]));
            if let Some(name) = names(id, node).last().filter(|name| !name.contains(['*', '?', '['])) {
                interface.name = (*name).to_owned();
            }
            let mac = node.get("match").and_then(|m| m.get("macaddress")).or(node.get("macaddress"));
            interface.mac = mac.and_then(Node::text).and_then(|mac| mac.parse().ok()).or(interface.mac);
            for (family, key) in ["dhcp4", "dhcp6"].iter().enumerate() {
                dhcp[family] = node.get(key).map_or(dhcp[family], |value| value.text().is_some_and(yes));
            }
            for (ip, prefix, _, item) in addresses(&file, node)? {
                interface.addresses.push(Address { ip, prefix, file: file.path.clone(), line: item.line });
            }
            let gateways =
                ["gateway4", "gateway6"].iter().filter_map(|key| node.get(key)?.text()?.parse::<IpAddr>().ok());
            interface.gateways.extend(gateways);
            let routes = node.get("routes").map_or(&[][..], Node::items).iter();
            let via =
                routes.filter(|route| is_default(route)).filter_map(|route| route.get("via")?.text()?.parse().ok());
            interface.gateways.extend(via.collect::<Vec<IpAddr>>());
        }
    }
    let done = |(mut interface, dhcp): (Interface, [bool; 2])| {
        interface.ipv4 = method(dhcp[0], interface.addresses.iter().any(|address| address.ip.is_ipv4()));
        interface.ipv6 = method(dhcp[1], interface.addresses.iter().any(|address| address.ip.is_ipv6()));
        interface
    };
    Ok(found.into_values().map(done).collect())
}

fn empty(id: &str) -> Interface {
    Interface {
        name: id.to_owned(),
        mac: None,
        ipv4: Method::Other,
        ipv6: Method::Other,
        addresses: Vec::new(),
        gateways: Vec::new(),
        configured_by: "netplan".into(),
    }
}

/// The names an interface goes by: its id, `match: name`, `set-name`.
fn names<'n>(id: &'n str, node: &'n Node) -> Vec<&'n str> {
    let matched = node.get("match").and_then(|m| m.get("name")).and_then(Node::text);
    let set = node.get("set-name").and_then(Node::text);
    [Some(id), matched, set].into_iter().flatten().collect()
}

fn yes(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "true" | "yes" | "on" | "y")
}

fn is_default(route: &Node) -> bool {
    matches!(route.get("to").and_then(Node::text), Some("default" | "0.0.0.0/0" | "0/0" | "::/0"))
}

/// Address, prefix length, the scalar it stands in, and the item of the sequence.
type Found<'n> = (IpAddr, u8, &'n Node, &'n Node);

fn addresses<'n>(file: &File, node: &'n Node) -> Result<Vec<Found<'n>>, GuestError> {
    let mut found = Vec::new();
    for item in node.get("addresses").map_or(&[][..], Node::items) {
        // `- 10.0.0.1/24` or `- 10.0.0.1/24: {label: x}`.
        let scalar = item.pairs().first().map_or(item, |(key, _)| key);
        let text = scalar.text().unwrap_or("");
        let (ip, prefix, _) =
            address(text).ok_or_else(|| file.syntax(item.line, format!("{text:?} is not an address")))?;
        let prefix = prefix.ok_or_else(|| file.syntax(item.line, format!("{text} has no prefix length")))?;
        found.push((ip, prefix, scalar, item));
    }
    Ok(found)
}

/// Plans the edits in netplan's files.
pub(super) fn rewrite(edits: &mut Overlay<'_>, job: &mut Job) -> Result<(), GuestError> {
    let files = read(edits)?;
    // An interface's names may stand in another file than its addresses.
    let mut known: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, node) in files.iter().flat_map(File::definitions) {
        known.entry(id).or_default().extend(names(id, node));
    }
    let mut turned = Vec::new();
    for (id, names) in &known {
        if job.turns_to_dhcp(names.iter().copied()) {
            turned.push(*id);
        }
    }
    for file in &files {
        job.see_commented(&file.text);
        let mut splices = Splices::new(&file.text);
        for line in lines(&file.text, &['#']) {
            job.changes.replace_macs(&mut splices, line.range);
        }
        for (id, node) in file.definitions() {
            let to_dhcp = turned.contains(&id);
            rewrite_addresses(file, node, to_dhcp, &mut splices, job)?;
            rewrite_sources(file, node, &mut splices, job)?;
            if to_dhcp {
                turn_to_dhcp(file, node, &mut splices)?;
            }
        }
        if let Some((text, why)) = splices.finish() {
            let changed = yaml::read(&text).map_err(|(line, why)| file.syntax(line, why));
            changed.map_err(|error| {
                let help = "write its addresses in block style, one in a line";
                super::unfit(&file.path, format!("cannot be rewritten by place ({error})"), help)
            })?;
            edits.set_text(&file.path, text, why)?;
        }
    }
    Ok(())
}

fn rewrite_addresses(
    file: &File,
    node: &Node,
    to_dhcp: bool,
    splices: &mut Splices<'_>,
    job: &mut Job,
) -> Result<(), GuestError> {
    let Some((key, list)) = node.entry("addresses") else { return Ok(()) };
    let mut going = Vec::new();
    for (at, (old, _, scalar, _)) in addresses(file, node)?.into_iter().enumerate() {
        job.seen.insert(old);
        let new = match job.changes.address(old) {
            _ if to_dhcp && old.is_ipv4() => None,
            Some(new) => new,
            None => continue,
        };
        match new {
            Some(new) => replace_ip(file, scalar, old, new, splices)?,
            None => going.push((at, becomes(old, None))),
        }
    }
    if !going.is_empty() && going.len() == list.items().len() && node.pairs().len() == 1 && !list.is_flow() && !to_dhcp
    {
        // A definition may not be empty.
        line_before(file, key, "dhcp4: false", splices, &going[0].1)?;
    }
    items_off(file, (key, list), &going, splices)
}

/// `from:` of routes that is a changed address; with a taken-off one the route goes.
fn rewrite_sources(file: &File, node: &Node, splices: &mut Splices<'_>, job: &mut Job) -> Result<(), GuestError> {
    let Some((key, routes)) = node.entry("routes") else { return Ok(()) };
    let mut going = Vec::new();
    for (at, route) in routes.items().iter().enumerate() {
        let Some(from) = route.get("from") else { continue };
        let Some(old) = from.text().and_then(|text| text.parse::<IpAddr>().ok()) else { continue };
        job.seen.insert(old);
        match job.changes.address(old) {
            Some(Some(new)) => replace_ip(file, from, old, new, splices)?,
            Some(None) => going.push((at, becomes(old, None))),
            None => {}
        }
    }
    items_off(file, (key, routes), &going, splices)
}

fn replace_ip(file: &File, node: &Node, old: IpAddr, new: IpAddr, splices: &mut Splices<'_>) -> Result<(), GuestError> {
    let source = &file.text[node.range.clone()];
    let written = node.text().and_then(|text| text.split('/').next()).unwrap_or("");
    let Some(at) = source.find(written).filter(|_| !written.is_empty()) else {
        return Err(file.syntax(node.line, format!("address {old} is written with escapes")));
    };
    let start = node.range.start + at;
    splices.replace(start..start + written.len(), new.to_string(), becomes(old, Some(new)));
    Ok(())
}

fn turn_to_dhcp(file: &File, node: &Node, splices: &mut Splices<'_>) -> Result<(), GuestError> {
    let why = "the interface is turned to DHCP";
    match node.get("dhcp4") {
        Some(value) if value.text().is_some_and(yes) => {}
        Some(value) => splices.replace(value.range.clone(), "true", why),
        None if node.pairs().is_empty() && node.is_flow() => {
            let at = node.range.start + 1;
            splices.replace(at..at, "dhcp4: true", why);
        }
        None => {
            let Some((key, _)) = node.pairs().first() else { return Ok(()) };
            if node.is_flow() {
                splices.replace(key.range.start..key.range.start, "dhcp4: true, ", why);
            } else {
                line_before(file, key, "dhcp4: true", splices, why)?;
            }
        }
    }
    if let Some((key, value)) = node.entry("gateway4") {
        if node.is_flow() {
            let at = node.pairs().iter().position(|(k, _)| k.range == key.range).unwrap_or(0);
            let ranges: Vec<_> = node.pairs().iter().map(|(k, v)| k.range.start..v.range.end).collect();
            cut(&ranges, &[(at, why.to_owned())], splices);
        } else {
            whole_lines(file, key.range.start, value, key.line, splices, why)?;
        }
    }
    if let Some((key, routes)) = node.entry("routes") {
        let v4 =
            |route: &Node| route.get("via").and_then(Node::text).is_some_and(|via| via.parse::<Ipv4Addr>().is_ok());
        let going = routes.items().iter().enumerate().filter(|(_, route)| is_default(route) && v4(route));
        let going: Vec<_> = going.map(|(at, _)| (at, why.to_owned())).collect();
        items_off(file, (key, routes), &going, splices)?;
    }
    Ok(())
}

/// Puts a line before the one a key begins, indented like it.
fn line_before(file: &File, key: &Node, line: &str, splices: &mut Splices<'_>, why: &str) -> Result<(), GuestError> {
    let (at, text) = (key.range.start, &file.text);
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let indent = &text[start..at];
    if !indent.trim().is_empty() {
        return Err(file.syntax(key.line, "the definition does not begin a line"));
    }
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    splices.replace(start..start, format!("{indent}{line}{end}"), why);
    Ok(())
}

/// Takes items off a sequence; with the last one goes the key.
fn items_off(
    file: &File,
    (key, list): (&Node, &Node),
    going: &[(usize, String)],
    splices: &mut Splices<'_>,
) -> Result<(), GuestError> {
    if going.is_empty() {
        return Ok(());
    }
    let items = list.items();
    if list.is_flow() {
        let ranges: Vec<_> = items.iter().map(|item| item.range.clone()).collect();
        let start = file.text[..key.range.start].rfind('\n').map_or(0, |newline| newline + 1);
        let end = if file.text.contains("\r\n") { "\r\n" } else { "\n" };
        let gone: Vec<&str> = going.iter().map(|(at, _)| file.text[ranges[*at].clone()].trim()).collect();
        let note = gone.join(", ").replace(['\n', '\r'], " ");
        splices.replace(start..start, format!("{OFF}{note}{end}"), &going[0].1);
        cut(&ranges, going, splices);
        return Ok(());
    }
    for (at, why) in going {
        let item = &items[*at];
        let dash = file.text[..item.range.start].rfind('-').unwrap_or(item.range.start);
        whole_lines(file, dash, item, item.line, splices, why)?;
    }
    if going.len() == items.len() {
        splices.comment_out(key.range.clone(), &going[0].1);
    }
    Ok(())
}

/// Comments out what begins at `start` and ends with `node`, if it has its lines for itself.
fn whole_lines(
    file: &File,
    start: usize,
    node: &Node,
    line: usize,
    splices: &mut Splices<'_>,
    why: &str,
) -> Result<(), GuestError> {
    let before = &file.text[file.text[..start].rfind('\n').map_or(0, |newline| newline + 1)..start];
    if !before.trim().is_empty() {
        return Err(file.syntax(line, "cannot be taken off: it does not begin a line"));
    }
    splices.comment_out(start..node.range.end.max(start + 1), why);
    Ok(())
}

/// Cuts items out of a flow collection, each with one comma.
fn cut(ranges: &[std::ops::Range<usize>], going: &[(usize, String)], splices: &mut Splices<'_>) {
    let goes = |at: usize| going.iter().find(|(other, _)| *other == at);
    // While nothing stays before it, an item goes with the comma behind it, later ones with the comma before.
    let mut stays = false;
    for (at, range) in ranges.iter().enumerate() {
        match goes(at) {
            None => stays = true,
            Some((_, why)) if stays => splices.replace(ranges[at - 1].end..range.end, "", why),
            Some((_, why)) => {
                let end = ranges.get(at + 1).map_or(range.end, |next| next.start);
                splices.replace(range.start..end, "", why);
            }
        }
    }
}

fn read(files: &Overlay<'_>) -> Result<Vec<File>, GuestError> {
    let mut found = Vec::new();
    for name in files.list(DIRECTORY.as_ref())? {
        let Some(name) = name.to_str().filter(|name| name.ends_with(".yaml") && !name.starts_with('.')) else {
            continue;
        };
        let path = PathBuf::from(DIRECTORY).join(name);
        if matches!(files.image(&path)?, Some(FileImage::Directory { .. })) {
            continue;
        }
        let Some(text) = files.text(&path)? else { continue };
        let syntax = |(line, why): yaml::Error| GuestError::Syntax { path: shown(&path), line, why };
        if let Some(root) = yaml::read(&text).map_err(syntax)? {
            found.push(File { path, text, root });
        }
    }
    Ok(found)
}
