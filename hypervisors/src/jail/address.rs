//! The values of `ip4.addr` and `ip6.addr` (jail(8)), and of `jail_NAME_ip` in an old rc.conf. Pure.
//!
//! `ADDRESS`, `INTERFACE|ADDRESS`, either with `/PREFIX` (of IPv4 also `/NETMASK`) and, after a blank, words for ifconfig(8)
//! (`netmask 255.255.255.0`, `vhid 1`). Several may stand in one value, separated by commas. What is read is written back as
//! it stood, an IPv6 address in the operator's spelling too.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// One address of a jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface that jail(8) gives the address to as an alias; without one, that of the parameter `interface`, or none.
    pub interface: Option<String>,
    /// The address.
    pub ip: IpAddr,
    /// Length of the prefix in bits; `None` if none is written (jail(8) takes 32 or 128).
    pub prefix: Option<u8>,
    /// Words for ifconfig(8).
    pub options: Option<String>,
    /// The address as it is written.
    written: String,
    /// What follows the address, as it is written.
    rest: String,
}

impl Address {
    /// The same on another address of its family; interface, prefix and options stay.
    pub fn with_ip(&self, ip: IpAddr) -> Result<Self, String> {
        if ip.is_ipv4() != self.ip.is_ipv4() {
            return Err(format!("{ip} is of another family than {}", self.ip));
        }
        let written = if ip == self.ip { self.written.clone() } else { ip.to_string() };
        Ok(Self { ip, written, ..self.clone() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(interface) = &self.interface {
            write!(f, "{interface}|")?;
        }
        write!(f, "{}{}", self.written, self.rest)
    }
}

/// Reads a value.
pub fn read(value: &str) -> Result<Vec<Address>, String> {
    value.split(',').map(one).collect()
}

/// Writes a value.
pub fn write(addresses: &[Address]) -> String {
    addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(",")
}

/// Replaces an address wherever it stands in the values of a list; `None` if it does not.
pub fn replaced(values: &[&str], old: IpAddr, new: IpAddr) -> Result<Option<Vec<String>>, String> {
    let mut found = false;
    let replace = |address: Address| match address.ip == old {
        true => {
            found = true;
            address.with_ip(new)
        }
        false => Ok(address),
    };
    let mut replace = replace;
    let mut out = Vec::new();
    for value in values {
        let addresses = read(value)?.into_iter().map(&mut replace).collect::<Result<Vec<_>, _>>()?;
        out.push(write(&addresses));
    }
    Ok(found.then_some(out))
}

fn one(text: &str) -> Result<Address, String> {
    let bad = |why: &str| format!("{text:?} is no address of a jail: {why}");
    let (interface, after) = match text.split_once('|') {
        Some((interface, after)) => (Some(interface), after),
        None => (None, text),
    };
    if interface.is_some_and(|name| !is_interface(name)) {
        return Err(bad("before | stands the name of an interface"));
    }
    let end = after.find(['/', ' ', '\t']).unwrap_or(after.len());
    let (written, rest) = after.split_at(end);
    let ip: IpAddr = written.parse().map_err(|_| bad("it has no IPv4 or IPv6 address"))?;
    let (slash, options) = match rest.split_once([' ', '\t']) {
        Some((slash, options)) => (slash, Some(options.to_owned())),
        None => (rest, None),
    };
    let prefix = match slash.strip_prefix('/') {
        None => None,
        Some(mask) => {
            Some(prefix(mask, ip).ok_or_else(|| bad("after / stands a prefix length or, of IPv4, a netmask"))?)
        }
    };
    if options.as_ref().is_some_and(|options| options.contains(|c: char| c.is_control())) {
        return Err(bad("it has control characters"));
    }
    let (interface, written, rest) = (interface.map(str::to_owned), written.to_owned(), rest.to_owned());
    Ok(Address { interface, ip, prefix, options, written, rest })
}

fn is_interface(name: &str) -> bool {
    // IFNAMSIZ with its NUL.
    (1..16).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte))
}

fn prefix(mask: &str, ip: IpAddr) -> Option<u8> {
    if ip.is_ipv4() && mask.contains('.') {
        let bits = u32::from(mask.parse::<Ipv4Addr>().ok()?);
        return (bits.leading_ones() + bits.trailing_zeros() >= 32).then(|| u8::try_from(bits.leading_ones()).ok())?;
    }
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let digits = !mask.is_empty() && mask.bytes().all(|byte| byte.is_ascii_digit());
    mask.parse().ok().filter(|length| digits && *length <= most)
}
