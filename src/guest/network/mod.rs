//! Network configuration in the guest's files: who has which address by which system, and giving the clone its own.
//!
//! What is understood, whichever of it is there: ifupdown, systemd-networkd, netplan, the network scripts of the Red Hat
//! family (ifcfg files) and NetworkManager's keyfiles. Only the address itself is replaced, prefix and gateway stay; what
//! is taken off is commented out with `# upgradectl: `. A file that cannot be understood stops everything; an address that
//! is to change and stands nowhere does too. One that stands in the files of two systems is changed in both.

pub mod ifcfg;
pub mod ifupdown;
pub mod keyfile;
pub mod netplan;
pub mod networkd;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::splice::{self, Changes, OFF};
use super::tree::{Overlay, Tree, unfit};
use super::{AddressChange, CloneSpec, FileEdit, GuestError, Interface, Method};

/// Where addresses are looked for, for messages.
const CONFIGURED: &str = "etc/network/interfaces, /etc/systemd/network, /etc/netplan, /etc/sysconfig/network-scripts, \
                          /etc/NetworkManager/system-connections";

/// What is understood, for messages.
pub const UNDERSTOOD: &str = "ifupdown, systemd-networkd, netplan, ifcfg files and NetworkManager's keyfiles";

/// The interfaces as the guest's files configure them, those of ifupdown first, then those of networkd, netplan, the
/// network scripts and NetworkManager.
pub fn inspect(tree: &Tree) -> Result<Vec<Interface>, GuestError> {
    interfaces(&Overlay::new(tree))
}

/// The same, with what is planned so far.
pub(super) fn interfaces(files: &Overlay<'_>) -> Result<Vec<Interface>, GuestError> {
    let mut found = ifupdown::inspect(files)?;
    found.extend(networkd::inspect(files)?);
    found.extend(netplan::inspect(files)?);
    found.extend(ifcfg::inspect(files)?);
    found.extend(keyfile::inspect(files)?);
    Ok(found)
}

/// Edits that give a machine other addresses, and change nothing else of it.
///
/// # Errors
/// As [`rewrite`].
pub fn moved(tree: &Tree, addresses: Vec<AddressChange>) -> Result<Vec<FileEdit>, GuestError> {
    let mut edits = Overlay::new(tree);
    rewrite(&mut edits, &CloneSpec { addresses, ..CloneSpec::default() })?;
    Ok(edits.into_edits())
}

/// Plans the edits that give the clone its addresses.
pub fn rewrite(edits: &mut Overlay<'_>, spec: &CloneSpec) -> Result<(), GuestError> {
    let mut job = Job {
        changes: Changes::new(spec)?,
        to_dhcp: spec.to_dhcp.iter().cloned().collect(),
        seen: BTreeSet::new(),
        dhcp: BTreeSet::new(),
    };
    ifupdown::rewrite(edits, &mut job)?;
    networkd::rewrite(edits, &mut job)?;
    netplan::rewrite(edits, &mut job)?;
    ifcfg::rewrite(edits, &mut job)?;
    keyfile::rewrite(edits, &mut job)?;
    for (old, new) in job.changes.addresses() {
        if !job.seen.contains(&old) && !new.is_some_and(|new| job.seen.contains(&new)) {
            let help = format!(
                "see how the guest gets the address; if by something else than {UNDERSTOOD}, change that first; a DHCP \
                 guest takes `--ip dhcp`"
            );
            return Err(unfit(Path::new(CONFIGURED), format!("address {old} stands in none of these files"), help));
        }
    }
    if let Some(name) = job.to_dhcp.difference(&job.dhcp).next() {
        let why = format!("interface {name} is configured in none of these files, so it cannot be turned to DHCP");
        return Err(unfit(Path::new(CONFIGURED), why, "name an interface that the guest configures by one of them"));
    }
    // What was written is read again: it is understood, and no address that had to go is left.
    for address in interfaces(edits)?.into_iter().flat_map(|interface| interface.addresses) {
        let ip = address.ip;
        if job.changes.address(ip).is_some() && !job.changes.addresses().any(|(_, new)| new == Some(ip)) {
            let why = format!("address {ip} would still stand in line {}", address.line);
            return Err(unfit(&address.file, why, "change it by hand in the guest first"));
        }
    }
    Ok(())
}

/// What is to be done, and what of it was met.
#[derive(Debug)]
pub struct Job {
    /// Address changes.
    changes: Changes,
    /// Interfaces turned to DHCP.
    to_dhcp: BTreeSet<String>,
    /// Addresses that were met where they can be changed, and in lines that an earlier rewriting commented out.
    seen: BTreeSet<IpAddr>,
    /// Interfaces of `to_dhcp` that were met.
    dhcp: BTreeSet<String>,
}

impl Job {
    /// Whether an interface that one of these names or patterns means shall be turned to DHCP.
    fn turns_to_dhcp<'n>(&mut self, patterns: impl IntoIterator<Item = &'n str>) -> bool {
        let mut met = false;
        for pattern in patterns {
            let named: Vec<&String> = self.to_dhcp.iter().filter(|name| matches(pattern, name)).collect();
            met |= !named.is_empty();
            self.dhcp.extend(named.into_iter().cloned());
        }
        met
    }

    /// Notes the addresses in lines that an earlier rewriting commented out.
    fn see_commented(&mut self, text: &str) {
        for line in text.lines().filter_map(|line| line.strip_prefix(OFF)) {
            for word in line.split(|c: char| !(c.is_ascii_hexdigit() || ".:/".contains(c))) {
                let word = word.strip_suffix(':').filter(|word| !word.ends_with(':')).unwrap_or(word);
                // Keyfiles may have the gateway behind another slash.
                let bare = || splice::address(word.split('/').next()?);
                if let Some((ip, _, _)) = splice::address(word).or_else(bare) {
                    self.seen.insert(ip);
                }
            }
        }
    }
}

/// Broadcast address and network of an IPv4 address.
fn subnet(ip: Ipv4Addr, prefix: u8) -> (Ipv4Addr, Ipv4Addr) {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    let network = ip.to_bits() & mask;
    (Ipv4Addr::from_bits(network | !mask), Ipv4Addr::from_bits(network))
}

/// The prefix length of a netmask, or of one that is written as a number.
fn netmask(text: &str) -> Option<u8> {
    match text.parse::<Ipv4Addr>() {
        Ok(mask) => {
            let ones = mask.to_bits().leading_ones();
            (mask.to_bits().count_ones() == ones).then_some(ones as u8)
        }
        Err(_) => text.parse().ok().filter(|prefix| *prefix <= 128),
    }
}

/// Method of one family of an interface.
fn method(dhcp: bool, fixed: bool) -> Method {
    match (dhcp, fixed) {
        (true, _) => Method::Dhcp,
        (false, true) => Method::Static,
        (false, false) => Method::Other,
    }
}

/// Longest pattern that can match, in bytes: names of interfaces have 15, names of files 255.
const PATTERN: usize = 1024;

/// Whether a name matches a pattern of glob(7): `*`, `?` and `[…]`. Takes time in proportion to both lengths, brackets apart.
fn matches(pattern: &str, name: &str) -> bool {
    if pattern.len() > PATTERN {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    // Places in the pattern at which the part of the name read so far may have arrived.
    let mut places = BTreeSet::from([0]);
    let stars = |places: &mut BTreeSet<usize>| {
        let mut at = 0;
        while at < pattern.len() {
            if pattern[at] == '*' && places.contains(&at) {
                places.insert(at + 1);
            }
            at += 1;
        }
    };
    stars(&mut places);
    for c in name.chars() {
        let mut next = BTreeSet::new();
        for at in places {
            match pattern.get(at) {
                Some('*') => drop(next.insert(at)),
                Some('?') => drop(next.insert(at + 1)),
                Some('[') => {
                    let Some(end) = (at + 2..pattern.len()).find(|end| pattern[*end] == ']') else { continue };
                    if in_set(&pattern[at + 1..end], c) {
                        next.insert(end + 1);
                    }
                }
                Some(letter) if *letter == c => drop(next.insert(at + 1)),
                _ => {}
            }
        }
        stars(&mut next);
        places = next;
    }
    places.contains(&pattern.len())
}

/// Whether a bracket expression (without its brackets) has a character.
fn in_set(set: &[char], c: char) -> bool {
    let (set, negated) = match set.split_first() {
        Some(('!' | '^', rest)) if !rest.is_empty() => (rest, true),
        _ => (set, false),
    };
    let ranges = set.windows(3).any(|range| range[1] == '-' && (range[0]..=range[2]).contains(&c));
    (ranges || set.contains(&c)) != negated
}

/// Files below a directory of a glob pattern, in name order; hidden ones only if the pattern says so.
fn glob(files: &Overlay<'_>, pattern: &Path) -> Result<Vec<PathBuf>, GuestError> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let std::path::Component::Normal(component) = component else { continue };
        let part = component.to_string_lossy();
        let mut next = Vec::new();
        for directory in found {
            if !part.contains(['*', '?', '[']) {
                next.push(directory.join(component));
                continue;
            }
            for name in files.list(&directory)? {
                let Some(name) = name.to_str() else { continue };
                if matches(&part, name) && (part.starts_with('.') || !name.starts_with('.')) {
                    next.push(directory.join(name));
                }
                if next.len() > super::tree::MAX_ENTRIES {
                    return Err(unfit(pattern, "matches too many files", "name fewer files"));
                }
            }
        }
        found = next;
    }
    Ok(found)
}
