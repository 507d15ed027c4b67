//! Addresses that rc.conf(5) gives interfaces: `ifconfig_IF`, `ifconfig_IF_aliasN`, `ifconfig_IF_ipv6`. Pure.
//!
//! rc.conf(5): aliases are numbered from 0 without a gap; one behind a gap is not set.

use std::net::IpAddr;

use super::super::wrong::Wrong;
use super::{Rc, Value};

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The variable it stands in.
    pub variable: String,
    /// The interface as the variable names it: dots and the like are underscores.
    pub interface: String,
    /// The number of the alias; `None` for the interface's own.
    pub number: Option<u32>,
    /// The address.
    pub ip: IpAddr,
}

impl Rc {
    /// Every address, in the order of the file. Variables whose value only sh can tell have none here.
    pub fn aliases(&self) -> Vec<Alias> {
        let mut found: Vec<Alias> = Vec::new();
        for assign in self.assigns() {
            let Some((interface, number)) = interface_of(&assign.name) else { continue };
            let last = self.last_assign(&assign.name).is_some_and(|last| last.span == assign.span);
            if let (true, Value::Is(value)) = (last, self.value(&assign.name)) {
                let of = |ip| Alias { variable: assign.name.clone(), interface: interface.clone(), number, ip };
                found.extend(addresses(&value).into_iter().map(|(_, ip)| of(ip)));
            }
        }
        found
    }

    /// The number that the next alias of an interface gets; an error if there is a gap before one.
    pub fn next_alias(&self, interface: &str) -> Result<u32, Wrong> {
        let of = |number: u32| format!("ifconfig_{interface}_alias{number}");
        let next = (0..).find(|number| self.value(&of(*number)) == Value::Unset).unwrap_or_default();
        let behind = self.assigns().find(|assign| {
            interface_of(&assign.name).is_some_and(|(name, number)| name == interface && number > Some(next))
        });
        match behind {
            Some(assign) => Err(Wrong::new(
                self.place(assign.span.start),
                format!("{} is behind a gap: {} is missing", assign.name, of(next)),
            )
            .help("number the aliases from 0 without a gap")),
            None => Ok(next),
        }
    }

    /// Replaces an address in a variable; masks, keywords and options stay.
    pub fn set_address(&self, variable: &str, old: IpAddr, new: IpAddr) -> Result<Self, Wrong> {
        let wrong = |what: String| {
            let at = self.last_assign(variable).map_or(0, |assign| assign.span.start);
            Wrong::new(self.place(at), what)
        };
        if old.is_ipv4() != new.is_ipv4() {
            return Err(wrong(format!("{new} is of another family than {old}")));
        }
        let Value::Is(value) = self.value(variable) else {
            return Err(wrong(format!("{variable} has no value that is known")));
        };
        let found = addresses(&value).into_iter().find(|(_, ip)| *ip == old);
        let (at, _) = found.ok_or_else(|| wrong(format!("{variable} does not have the address {old}")))?;
        let end = value[at..].find(|c: char| c == '/' || c.is_ascii_whitespace()).map_or(value.len(), |end| at + end);
        self.set(variable, &format!("{}{new}{}", &value[..at], &value[end..]))
    }
}

/// The interface and the number of an alias, by the name of a variable.
fn interface_of(name: &str) -> Option<(String, Option<u32>)> {
    let rest = name.strip_prefix("ifconfig_").or_else(|| name.strip_prefix("ipv6_ifconfig_"))?;
    if let Some((interface, number)) = rest.rsplit_once("_alias") {
        return Some((interface.to_owned(), Some(number.parse().ok()?)));
    }
    let rest = rest.strip_suffix("_ipv6").unwrap_or(rest);
    (!rest.is_empty() && !["_name", "_descr", "_vlans"].iter().any(|end| rest.ends_with(end)))
        .then(|| (rest.to_owned(), None))
}

/// The addresses among the words of ifconfig(8), and where each stands. What follows `netmask`, `broadcast` and a gateway is
/// none.
fn addresses(value: &str) -> Vec<(usize, IpAddr)> {
    let mut found = Vec::new();
    let mut before = "";
    for word in value.split_ascii_whitespace() {
        let at = word.as_ptr() as usize - value.as_ptr() as usize;
        let bare = word.split('/').next().unwrap_or_default();
        if !["netmask", "broadcast", "dest", "vhid", "ether"].contains(&before)
            && let Ok(ip) = bare.parse()
        {
            found.push((at, ip));
        }
        before = word;
    }
    found
}
