//! The network scripts of the Red Hat family: `/etc/sysconfig/network-scripts/ifcfg-*`, with aliases, ranges, routes and
//! rules, and `/etc/sysconfig/network`, by initscripts' `sysconfig.txt` and its scripts `ifup-eth`, `ifup-aliases` and
//! `ifup-routes`, and by nm-settings-ifcfg-rh(5), which reads the same files.
//!
//! An address is `IPADDR`, or one of `IPADDR0`, `IPADDR1` … with what has its number. From 2 on numbers may leave no gap:
//! where one goes, those behind it move up. A range of addresses (`ifcfg-eth0-range0`) is told and not rewritten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::super::splice::{Splices, address, becomes, lines, words};
use super::super::sysconfig::{Setting, Variables};
use super::super::tree::{FileImage, Overlay, unfit};
use super::super::{Address, GuestError, Interface};
use super::{Job, method, netmask, subnet};

const DIRECTORY: &str = "etc/sysconfig/network-scripts";
const GLOBAL: &str = "etc/sysconfig/network";
/// Ends of the names of files that the scripts pass over (`__sed_discard_ignored_files` of initscripts' `functions`).
const IGNORED: [&str; 7] = ["~", ".bak", ".old", ".orig", ".rpmnew", ".rpmorig", ".rpmsave"];
/// Parts of the names of all variables that are asked for here.
const CONCERN: [&str; 9] =
    ["DEVICE", "BOOTPROTO", "ADDR", "PREFIX", "NETMASK", "BROADCAST", "NETWORK", "GATEWAY", "DHCPV6C"];
/// Variables that have the number of an address.
const NUMBERED: [&str; 8] = ["IPADDR", "PREFIX", "NETMASK", "BROADCAST", "GATEWAY", "LABEL", "ARPCHECK", "ARPUPDATE"];
/// What an address has without a number, and aliases inherit.
const BARE: [&str; 4] = ["PREFIX", "NETMASK", "BROADCAST", "NETWORK"];
/// Variables that name an address of the machine's own, which another one gives it.
const MENTIONS: [&str; 6] =
    ["SRCADDR", "SRC", "MY_INNER_IPADDR", "MY_OUTER_IPADDR", "IPV6TUNNELIPV4LOCAL", "IPV6TO4_IPV4ADDR"];
const TO_DHCP: &str = "the interface is turned to DHCP";

/// One `ifcfg-` file.
struct Profile {
    /// What stands behind `ifcfg-` in its name.
    suffix: String,
    file: Variables,
}

impl Profile {
    fn device(&self) -> &str {
        self.file.value("DEVICE").unwrap_or(&self.suffix)
    }
    /// The file an alias or a range belongs to, by its suffix, and which one it is.
    fn parent(&self) -> Option<(&str, &str)> {
        self.suffix.split_once(':').or_else(|| self.range())
    }
    fn range(&self) -> Option<(&str, &str)> {
        self.suffix.split_once("-range")
    }
    /// Every assignment of an IPv4 address: its number, if it has one, and the address.
    fn ipv4(&self) -> Result<Vec<(Setting<'_>, Option<u8>, Ipv4Addr)>, GuestError> {
        let mut found = Vec::new();
        for setting in self.file.settings() {
            let Some(number) = number(setting.name(), "IPADDR") else { continue };
            let value = setting.value()?;
            if !value.is_empty() {
                let wrong = |_| self.file.syntax(setting.line(), format!("{value:?} is not an IPv4 address"));
                found.push((setting, number, value.parse().map_err(wrong)?));
            }
        }
        Ok(found)
    }
    /// The addresses of a variable for IPv6, as they are written, with their prefix lengths (64 by default).
    fn ipv6<'t>(&self, setting: &Setting<'t>) -> Result<Vec<(&'t str, Ipv6Addr, u8)>, GuestError> {
        let mut found = Vec::new();
        for word in setting.value()?.split_whitespace() {
            let Some((IpAddr::V6(ip), prefix, _)) = address(word) else {
                return Err(self.file.syntax(setting.line(), format!("{word:?} is not an IPv6 address")));
            };
            found.push((word, ip, prefix.unwrap_or(64)));
        }
        Ok(found)
    }
    /// The first and the last address of a range, which `ifup-aliases` takes if they differ in the last byte alone.
    fn bounds(&self) -> Option<(Setting<'_>, Ipv4Addr, Ipv4Addr)> {
        self.range()?;
        let read = |name| self.file.value(name)?.parse::<Ipv4Addr>().ok();
        let (first, last) = (read("IPADDR_START")?, read("IPADDR_END")?);
        (first <= last && first.octets()[..3] == last.octets()[..3]).then_some((
            self.file.last("IPADDR_START")?,
            first,
            last,
        ))
    }
}

/// The number in a variable's name, if it is this variable.
fn number(name: &str, variable: &str) -> Option<Option<u8>> {
    let digits = name.strip_prefix(variable)?;
    if digits.is_empty() {
        return Some(None);
    }
    // `IPADDR01` is nobody's.
    digits.parse::<u8>().ok().filter(|number| number.to_string() == digits).map(Some)
}

fn numbered(base: &str, number: Option<u8>) -> String {
    number.map_or(base.to_owned(), |number| format!("{base}{number}"))
}

/// The interfaces, by the names of their files.
pub fn inspect(files: &Overlay<'_>) -> Result<Vec<Interface>, GuestError> {
    let profiles = profiles(files)?;
    let mut found = interfaces(&profiles)?;
    if let Some(global) = Variables::read(files, Path::new(GLOBAL), &["GATEWAY"])?
        && let Some((gateway, served)) = global_gateway(&global, &found)
    {
        found[served].gateways.push(gateway);
    }
    Ok(found)
}

fn interfaces(profiles: &[Profile]) -> Result<Vec<Interface>, GuestError> {
    let mut found = Vec::new();
    for profile in profiles {
        let file = &profile.file;
        let mut addresses = Vec::new();
        let mut add = |ip, prefix, line| addresses.push(Address { ip, prefix, file: file.path.clone(), line });
        // Of two assignments the later one counts.
        let fixed: BTreeMap<Option<u8>, _> =
            profile.ipv4()?.into_iter().map(|(s, n, ip)| (n, (ip, s.line()))).collect();
        for (number, (ip, line)) in fixed {
            add(IpAddr::V4(ip), prefix(profiles, profile, number, ip)?, line);
        }
        if let Some((start, first, last)) = profile.bounds() {
            for bits in first.to_bits()..=last.to_bits() {
                add(Ipv4Addr::from_bits(bits).into(), prefix(profiles, profile, None, first)?, start.line());
            }
        }
        for name in ["IPV6ADDR", "IPV6ADDR_SECONDARIES"] {
            if let Some(setting) = file.last(name) {
                let all = profile.ipv6(&setting)?;
                all.into_iter().for_each(|(_, ip, prefix)| add(ip.into(), prefix, setting.line()));
            }
        }
        let gateway = |setting: Setting<'_>| {
            let named = number(setting.name(), "GATEWAY").is_some() || setting.name() == "IPV6_DEFAULTGW";
            let value = setting.value().ok().filter(|_| named)?;
            value.split('%').next()?.parse::<IpAddr>().ok()
        };
        let gateways = file.settings().filter_map(gateway).collect();
        let mac = |name| file.value(name)?.parse().ok();
        let dhcp = [
            file.value("BOOTPROTO").is_some_and(is_dhcp),
            file.value("DHCPV6C")
                .is_some_and(|value| ["yes", "true", "t", "y", "1"].iter().any(|yes| value.eq_ignore_ascii_case(yes))),
        ];
        let name = match profile.range() {
            Some((device, range)) => format!("{device}:range{range}"),
            None => profile.device().to_owned(),
        };
        found.push(Interface {
            name,
            mac: mac("HWADDR").or_else(|| mac("MACADDR")),
            ipv4: method(dhcp[0], addresses.iter().any(|address: &Address| address.ip.is_ipv4())),
            ipv6: method(dhcp[1], addresses.iter().any(|address| address.ip.is_ipv6())),
            addresses,
            gateways,
            configured_by: "ifcfg".into(),
        });
    }
    Ok(found)
}

fn is_dhcp(protocol: &str) -> bool {
    ["dhcp", "bootp"].iter().any(|dynamic| protocol.eq_ignore_ascii_case(dynamic))
}

/// The prefix length of an address: its own, an alias's by the file it belongs to, at last that of its class, as ipcalc(1)
/// has it.
fn prefix(profiles: &[Profile], profile: &Profile, number: Option<u8>, ip: Ipv4Addr) -> Result<u8, GuestError> {
    let own = |profile: &Profile, number: Option<u8>| {
        for base in ["PREFIX", "NETMASK"] {
            let name = numbered(base, number);
            let Some(setting) = profile.file.last(&name) else { continue };
            let value = setting.value()?;
            if !value.is_empty() {
                let read = match base {
                    "PREFIX" => value.parse().ok(),
                    _ => netmask(value),
                };
                let wrong = || profile.file.syntax(setting.line(), format!("{value:?} is no {name}"));
                return read.filter(|prefix| *prefix <= 32).ok_or_else(wrong).map(Some);
            }
        }
        Ok(None)
    };
    if let Some(prefix) = own(profile, number)? {
        return Ok(prefix);
    }
    if let Some((parent, _)) = profile.parent()
        && let Some(parent) = profiles.iter().find(|other| other.suffix == parent)
        && let Some(prefix) = own(parent, None)?
    {
        return Ok(prefix);
    }
    Ok(match ip.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        _ => 24,
    })
}

/// The gateway of `/etc/sysconfig/network`, and whose it is: `GATEWAYDEV`'s, else the interface's in whose net it is.
fn global_gateway(global: &Variables, interfaces: &[Interface]) -> Option<(IpAddr, usize)> {
    let gateway = global.value("GATEWAY")?.parse::<Ipv4Addr>().ok()?;
    let serves = |interface: &Interface| match global.value("GATEWAYDEV") {
        Some(device) => interface.name == device,
        None => interface.addresses.iter().any(|address| match address.ip {
            IpAddr::V4(ip) => subnet(ip, address.prefix) == subnet(gateway, address.prefix),
            IpAddr::V6(_) => false,
        }),
    };
    Some((gateway.into(), interfaces.iter().position(serves)?))
}

/// Plans the edits in the files of the network scripts.
pub(super) fn rewrite(edits: &mut Overlay<'_>, job: &mut Job) -> Result<(), GuestError> {
    let profiles = profiles(edits)?;
    let interfaces = interfaces(&profiles)?;
    let mut turned = BTreeSet::new();
    let mut work = Vec::new();
    for profile in &profiles {
        refuse_range(profile, job)?;
        let is_own = profile.parent().is_none();
        let to_dhcp = is_own && job.turns_to_dhcp([profile.device()]);
        if to_dhcp {
            turned.insert(profile.device());
        }
        let mut splices = Splices::new(profile.file.text());
        rewrite_profile(&profiles, profile, to_dhcp, &mut splices, job)?;
        work.push((&profile.file.path, splices));
    }
    let global = Variables::read(edits, Path::new(GLOBAL), &["GATEWAY"])?;
    if let Some(global) = &global {
        let mut splices = Splices::new(global.text());
        if let Some((_, served)) = global_gateway(global, &interfaces)
            && turned.contains(interfaces[served].name.as_str())
        {
            off(global, |name| name == "GATEWAY", &mut splices, TO_DHCP)?;
        }
        work.push((&global.path, splices));
    }
    for (path, splices) in work {
        if let Some((text, why)) = splices.finish() {
            edits.set_text(path, text, why)?;
        }
    }
    for path in named(edits, &["route-", "route6-", "rule-", "rule6-"])? {
        rewrite_words(edits, &path.1, job)?;
    }
    Ok(())
}

fn refuse_range(profile: &Profile, job: &Job) -> Result<(), GuestError> {
    let (Some((device, _)), Some((_, first, last))) = (profile.range(), profile.bounds()) else { return Ok(()) };
    let inside = |ip: &IpAddr| matches!(ip, IpAddr::V4(ip) if (first..=last).contains(ip));
    match job.changes.addresses().map(|(old, _)| old).find(inside) {
        Some(ip) => {
            let why = format!("gives {device} a range of addresses, {ip} among them, which is not rewritten");
            Err(unfit(&profile.file.path, why, format!("write them as IPADDR0, IPADDR1 … in ifcfg-{device} first")))
        }
        None => Ok(()),
    }
}

fn rewrite_profile(
    profiles: &[Profile],
    profile: &Profile,
    to_dhcp: bool,
    splices: &mut Splices<'_>,
    job: &mut Job,
) -> Result<(), GuestError> {
    let file = &profile.file;
    job.see_commented(file.text());
    for line in lines(file.text(), &['#']) {
        job.changes.replace_macs(splices, line.range);
    }
    rewrite_ipv4(profiles, profile, to_dhcp, splices, job)?;
    if to_dhcp {
        match file.last("BOOTPROTO") {
            Some(protocol) if is_dhcp(protocol.value()?) => {}
            Some(protocol) => protocol.set(splices, "dhcp", TO_DHCP),
            None => splices.replace(0..0, format!("BOOTPROTO=dhcp{}", file.line_end()), TO_DHCP),
        }
    }
    rewrite_ipv6(profile, splices, job)?;
    for setting in file.settings().filter(|setting| MENTIONS.contains(&setting.name())) {
        let Some((old, _, length)) = setting.value().ok().and_then(address) else { continue };
        match job.changes.address(old) {
            Some(Some(new)) => {
                let rest = &setting.value()?[length..];
                setting.set(splices, &format!("{new}{rest}"), &becomes(old, Some(new)));
            }
            Some(None) => setting.off(splices, None, &becomes(old, None))?,
            None => {}
        }
    }
    Ok(())
}

/// Changes the IPv4 addresses of a file.
fn rewrite_ipv4(
    profiles: &[Profile],
    profile: &Profile,
    to_dhcp: bool,
    splices: &mut Splices<'_>,
    job: &mut Job,
) -> Result<(), GuestError> {
    let file = &profile.file;
    let all = profile.ipv4()?;
    job.seen.extend(all.iter().map(|(_, _, ip)| IpAddr::V4(*ip)));
    let becomes_of = |old: Ipv4Addr| match job.changes.address(old.into()) {
        _ if to_dhcp => Some(None),
        change => change,
    };
    // Of two assignments the later one counts: with it goes the number.
    let counts: BTreeMap<Option<u8>, Ipv4Addr> = all.iter().map(|(_, number, ip)| (*number, *ip)).collect();
    let gone = |number: &Option<u8>| counts.get(number).is_some_and(|ip| becomes_of(*ip) == Some(None));
    for (setting, number, old) in &all {
        let why = if to_dhcp { TO_DHCP.to_owned() } else { becomes((*old).into(), becomes_of(*old).flatten()) };
        match becomes_of(*old) {
            _ if gone(number) => setting.off(splices, None, &why)?,
            Some(None) => setting.off(splices, None, &why)?,
            Some(Some(IpAddr::V4(new))) => {
                setting.set(splices, &new.to_string(), &why);
                let prefix = prefix(profiles, profile, *number, *old)?;
                let (before, after) = (subnet(*old, prefix), subnet(new, prefix));
                if before != after && counts.get(number) == Some(old) {
                    follow(file, &numbered("BROADCAST", *number), after.0, splices, &why);
                    if number.is_none_or(|number| number == 0) {
                        follow(file, "NETWORK", after.1, splices, &why);
                    }
                }
            }
            _ => {}
        }
    }
    let going: BTreeSet<Option<u8>> = counts.keys().copied().filter(gone).collect();
    let stays = going.len() < counts.len();
    let why = match going.first().and_then(|number| counts.get(number)) {
        _ if to_dhcp => TO_DHCP.to_owned(),
        Some(ip) => becomes((*ip).into(), None),
        None => return Ok(()),
    };
    let of_gone = |name: &str| {
        let mut numbers = NUMBERED[1..].iter().filter_map(|base| number(name, base)?);
        numbers.any(|number| going.contains(&Some(number)))
    };
    // Aliases inherit what has no number.
    let heir = |other: &Profile| other.parent().is_some_and(|(parent, _)| parent == profile.suffix);
    let bare = going.contains(&None) && !profiles.iter().any(heir);
    let last = |name: &str| !stays && number(name, "GATEWAY").is_some();
    off(file, |name| of_gone(name) || last(name) || bare && BARE.contains(&name), splices, &why)?;
    move_up(file, &counts, &going, splices, &why);
    Ok(())
}

/// Comments out every assignment of some variables.
fn off(file: &Variables, goes: impl Fn(&str) -> bool, splices: &mut Splices<'_>, why: &str) -> Result<(), GuestError> {
    file.settings().filter(|setting| goes(setting.name())).try_for_each(|setting| setting.off(splices, None, why))
}

/// What is counted from an address follows it, where it is written at all.
fn follow(file: &Variables, name: &str, value: Ipv4Addr, splices: &mut Splices<'_>, why: &str) {
    for setting in file.settings().filter(|setting| setting.name() == name) {
        if setting.value().is_ok_and(|value| value.parse::<Ipv4Addr>().is_ok()) {
            setting.set(splices, &value.to_string(), why);
        }
    }
}

/// The readers stop at the first number from 2 on that has no address: those behind a gap move up.
fn move_up(
    file: &Variables,
    counts: &BTreeMap<Option<u8>, Ipv4Addr>,
    going: &BTreeSet<Option<u8>>,
    splices: &mut Splices<'_>,
    why: &str,
) {
    let read = (2..=u8::MAX).take_while(|number| counts.contains_key(&Some(*number)));
    let kept = read.filter(|number| !going.contains(&Some(*number)));
    let moves: BTreeMap<u8, u8> = kept.zip(2..).filter(|(old, new)| old != new).collect();
    for setting in file.settings() {
        let found = NUMBERED.iter().find_map(|base| Some((base, number(setting.name(), base)??)));
        if let Some((base, new)) = found.and_then(|(base, old)| Some((base, moves.get(&old)?))) {
            splices.replace(setting.name_range(), format!("{base}{new}"), why);
        }
    }
}

fn rewrite_ipv6(profile: &Profile, splices: &mut Splices<'_>, job: &mut Job) -> Result<(), GuestError> {
    let file = &profile.file;
    let mut gone = None;
    let mut stays = false;
    for setting in file.settings().filter(|s| ["IPV6ADDR", "IPV6ADDR_SECONDARIES"].contains(&s.name())) {
        let (mut new, mut why, mut taken) = (Vec::new(), String::new(), false);
        for (word, old, _) in profile.ipv6(&setting)? {
            job.seen.insert(old.into());
            let change = job.changes.address(old.into());
            if let Some(change) = change {
                why = becomes(old.into(), change);
            }
            match change {
                Some(None) => taken = true,
                Some(Some(ip)) => {
                    let rest = word.find('/').map_or("", |at| &word[at..]);
                    new.push(format!("{ip}{rest}"));
                }
                None => new.push(word.to_owned()),
            }
        }
        stays |= !new.is_empty();
        match (taken, new.is_empty()) {
            (true, true) => setting.off(splices, None, &why)?,
            (true, false) => setting.off(splices, Some(&new.join(" ")), &why)?,
            (false, _) if !why.is_empty() => setting.set(splices, &new.join(" "), &why),
            (false, _) => {}
        }
        gone = gone.or(taken.then_some(why));
    }
    match gone {
        Some(why) if !stays => off(file, |name| name == "IPV6_DEFAULTGW", splices, &why),
        _ => Ok(()),
    }
}

/// Addresses among the words that `ip route add` and `ip rule add` get.
fn rewrite_words(edits: &mut Overlay<'_>, path: &Path, job: &Job) -> Result<(), GuestError> {
    if matches!(edits.image(path)?, Some(FileImage::Directory { .. })) {
        return Ok(());
    }
    let Some(text) = edits.text(path)? else { return Ok(()) };
    let mut splices = Splices::new(&text);
    for line in lines(&text, &['#']) {
        for word in words(&text, line.range.clone()) {
            let Some((old, _, length)) = address(word.text) else { continue };
            match job.changes.address(old) {
                Some(Some(new)) => {
                    splices.replace(word.start..word.start + length, new.to_string(), becomes(old, Some(new)));
                }
                Some(None) => splices.comment_out(line.range.clone(), becomes(old, None)),
                None => {}
            }
        }
    }
    match splices.finish() {
        Some((text, why)) => edits.set_text(path, text, why),
        None => Ok(()),
    }
}

fn profiles(files: &Overlay<'_>) -> Result<Vec<Profile>, GuestError> {
    let mut found = Vec::new();
    for (suffix, path) in named(files, &["ifcfg-"])? {
        found.extend(Variables::read(files, &path, &CONCERN)?.map(|file| Profile { suffix, file }));
    }
    Ok(found)
}

/// Files whose names begin so and that the scripts do not pass over: the rest of the name, and the path.
fn named(files: &Overlay<'_>, beginnings: &[&str]) -> Result<Vec<(String, PathBuf)>, GuestError> {
    let mut found = Vec::new();
    for name in files.list(Path::new(DIRECTORY))? {
        let Some(name) = name.to_str().filter(|name| !IGNORED.iter().any(|end| name.ends_with(end))) else { continue };
        if let Some(rest) = beginnings.iter().find_map(|beginning| name.strip_prefix(beginning)) {
            found.push((rest.to_owned(), Path::new(DIRECTORY).join(name)));
        }
    }
    Ok(found)
}
