//! Routing rules of a simulated guest (ip-rule(8)): what leaves it, and what does not.
//!
//! A boot takes them from the files of a fence (`etc/upgradectl`), if its unit is wanted; `ip rule` changes them. They go
//! with the boot.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::tree;
use super::world::{HostConfig, Sim};
use crate::{Error, Result};

/// A rule; those of one preference are asked in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rule {
    ipv6: bool,
    pref: u32,
    to: Option<(IpAddr, u8)>,
    uids: Option<(u32, u32)>,
    protocol: Option<String>,
    port: Option<u16>,
    /// Looks a route up; else everything is unreachable.
    open: bool,
}

impl Rule {
    /// Reads what follows `ip -4 rule add`.
    pub fn parse(ipv6: bool, words: &[&str]) -> std::result::Result<Self, String> {
        let mut rule = Self { ipv6, pref: 0, to: None, uids: None, protocol: None, port: None, open: true };
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            if *word == "unreachable" {
                rule.open = false;
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("Error: {word} wants a value."))?;
            let bad = || format!("Error: argument \"{value}\" is wrong: invalid {word}");
            match *word {
                "pref" => rule.pref = value.parse().map_err(|_| bad())?,
                "to" => {
                    let (address, prefix) = value.split_once('/').ok_or_else(bad)?;
                    rule.to = Some((address.parse().map_err(|_| bad())?, prefix.parse().map_err(|_| bad())?));
                }
                "uidrange" => {
                    let (from, to) = value.split_once('-').ok_or_else(bad)?;
                    rule.uids = Some((from.parse().map_err(|_| bad())?, to.parse().map_err(|_| bad())?));
                }
                // The simulated guest has no protocols(5), as a small one has not.
                "ipproto" => {
                    let name = [("6", "tcp"), ("17", "udp")].into_iter().find(|(number, _)| number == value);
                    rule.protocol = Some(
                        name.ok_or_else(|| format!("Error: argument \"{value}\" is wrong: Invalid \"ipproto\" value"))?
                            .1
                            .to_owned(),
                    );
                }
                "dport" => rule.port = Some(value.parse().map_err(|_| bad())?),
                "lookup" if *value == "main" => {}
                _ => return Err(bad()),
            }
        }
        Ok(rule)
    }

    /// Its preference, with which `ip rule del` finds it, in its family.
    pub fn is(&self, ipv6: bool, pref: u32) -> bool {
        self.ipv6 == ipv6 && self.pref == pref
    }

    /// Its preference.
    pub fn pref(&self) -> u32 {
        self.pref
    }

    /// Its family.
    pub fn ipv6(&self) -> bool {
        self.ipv6
    }

    fn meets(&self, from: u32, protocol: &str, to: SocketAddr) -> bool {
        self.ipv6 == to.is_ipv6()
            && self.to.is_none_or(|network| within(network, to.ip()))
            && self.uids.is_none_or(|(first, last)| (first..=last).contains(&from))
            && self.protocol.as_ref().is_none_or(|wanted| wanted == protocol)
            && self.port.is_none_or(|port| port == to.port())
    }

    /// A line of `ip rule show`.
    pub fn shown(&self) -> String {
        let mut line = format!("{}:\tfrom all", self.pref);
        if let Some((address, prefix)) = self.to {
            line += &format!(" to {address}/{prefix}");
        }
        if let Some(protocol) = &self.protocol {
            line += &format!(" ipproto {protocol}");
        }
        if let Some(port) = self.port {
            line += &format!(" dport {port}");
        }
        if let Some((first, last)) = self.uids {
            line += &format!(" uidrange {first}-{last}");
        }
        line + if self.open { " lookup main\n" } else { " unreachable\n" }
    }
}

fn within((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            a.to_bits() & mask == b.to_bits() & mask
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            a.to_bits() & mask == b.to_bits() & mask
        }
        _ => false,
    }
}

/// Whether packets of a user's process to there find a route: the first rule that meets them decides.
pub(super) fn let_out(rules: &[Rule], uid: u32, protocol: &str, to: SocketAddr) -> bool {
    let mut meeting: Vec<&Rule> = rules.iter().filter(|rule| rule.meets(uid, protocol, to)).collect();
    meeting.sort_by_key(|rule| rule.pref);
    meeting.first().is_none_or(|rule| rule.open)
}

/// The rules that a boot sets: those of the fence in the guest's files, its resolvers and the names it follows.
pub(super) fn at_boot(root: &Path, config: &HostConfig) -> Vec<Rule> {
    let text = |path: &str| tree::resolve(root, Path::new(path), true).and_then(fs::read_to_string).unwrap_or_default();
    let wanted = "etc/systemd/system/sysinit.target.wants/upgradectl-fence.service";
    if tree::resolve(root, Path::new(wanted), true).is_err() {
        return Vec::new();
    }
    let mut rules = Vec::new();
    for (ipv6, file) in [(false, "etc/upgradectl/fence4"), (true, "etc/upgradectl/fence6")] {
        for line in text(file).lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let ["rule", "add", words @ ..] = words.as_slice() else { break };
            // As `ip -batch`: the first line that is wrong ends it.
            let Ok(rule) = Rule::parse(ipv6, words) else { break };
            rules.push(rule);
        }
    }
    let mut open = |address: IpAddr, port: u16| {
        let full = if address.is_ipv4() { 32 } else { 128 };
        for protocol in ["tcp", "udp"] {
            rules.push(Rule {
                ipv6: address.is_ipv6(),
                pref: 8150,
                to: Some((address, full)),
                uids: None,
                protocol: (port > 0).then(|| protocol.to_owned()),
                port: (port > 0).then_some(port),
                open: true,
            });
        }
    };
    for line in text("etc/resolv.conf").lines() {
        if let Some(address) = line.strip_prefix("nameserver ").and_then(|rest| rest.trim().parse().ok()) {
            open(address, 53);
        }
    }
    for line in text("etc/upgradectl/fence-names").lines() {
        if let Some((name, port)) = line.split_once(' ')
            && let (Some(address), Ok(port)) = (config.names.get(name), port.parse())
        {
            open(*address, port);
        }
    }
    rules
}

impl Sim {
    /// Whether a new TCP connection of a process of this user (number) leaves a running guest.
    pub fn lets_out(&self, guest: &str, uid: u32, to: SocketAddr) -> Result<bool> {
        let world = self.lock()?;
        let runtime = world.runtime(guest)?;
        if runtime.live.is_none() {
            return Err(Error::not_found(format!("connect from {guest}"), "it does not run"));
        }
        Ok(let_out(&runtime.rules, uid, "tcp", to))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_meets_decides() {
        let rule = |line: &str| Rule::parse(false, &line.split(' ').collect::<Vec<_>>()).unwrap();
        let rules = [
            rule("pref 8199 unreachable"),
            rule("pref 8100 to 10.0.5.1/32 lookup main"),
            rule("pref 8100 uidrange 100-100 lookup main"),
            rule("pref 8150 to 192.0.2.53/32 ipproto 17 dport 53 lookup main"),
        ];
        let out = |uid, protocol, to: &str| let_out(&rules, uid, protocol, to.parse().unwrap());
        assert!(out(0, "tcp", "10.0.5.1:40022") && !out(0, "tcp", "10.0.5.2:25"));
        assert!(out(100, "tcp", "198.51.100.7:80") && !out(0, "tcp", "198.51.100.7:80"));
        assert!(out(0, "udp", "192.0.2.53:53") && !out(0, "tcp", "192.0.2.53:53") && !out(0, "udp", "192.0.2.53:54"));
        assert!(out(0, "tcp", "[2001:db8::1]:25"), "the other family has no wall");
        assert_eq!(rules[3].shown(), "8150:\tfrom all to 192.0.2.53/32 ipproto udp dport 53 lookup main\n");
        assert!(Rule::parse(false, &["pref", "x"]).is_err() && Rule::parse(false, &["fwmark", "1"]).is_err());
    }
}
