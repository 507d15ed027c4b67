//! Interfaces and their addresses as FreeBSD's ifconfig(8) prints them, 4.x to 15. Pure.

use std::net::{IpAddr, Ipv4Addr};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its addresses, in order; link-local ones left out.
    pub addresses: Vec<Configured>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configured {
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
}

/// Reads the output of `ifconfig -a`; lines that are not understood are passed over, as they come from a guest.
pub fn read(text: &str) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for line in text.lines() {
        if !line.starts_with([' ', '\t']) {
            if let Some((name, _)) = line.split_once(": flags=") {
                interfaces.push(Interface { name: name.to_owned(), addresses: Vec::new() });
            }
            continue;
        }
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let (Some(interface), Some(address)) = (interfaces.last_mut(), address(&words)) {
            interface.addresses.push(address);
        }
    }
    interfaces
}

fn address(words: &[&str]) -> Option<Configured> {
    let after = |key: &str| words.iter().position(|word| *word == key).and_then(|at| words.get(at + 1)).copied();
    match words {
        ["inet", ip, ..] => {
            let (ip, prefix) = match ip.split_once('/') {
                Some((ip, prefix)) => (ip.parse().ok()?, prefix.parse().ok()?),
                None => (ip.parse().ok()?, mask(after("netmask")?)?),
            };
            Some(Configured { ip: IpAddr::V4(ip), prefix }).filter(|_| prefix <= 32)
        }
        ["inet6", ip, ..] => {
            let ip: std::net::Ipv6Addr = ip.split(['%', '/']).next()?.parse().ok()?;
            let prefix = after("prefixlen")?.parse().ok()?;
            (!ip.is_unicast_link_local() && prefix <= 128).then_some(Configured { ip: IpAddr::V6(ip), prefix })
        }
        _ => None,
    }
}

/// `0xffffff00` or `255.255.255.0`.
fn mask(text: &str) -> Option<u8> {
    let bits = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => u32::from(text.parse::<Ipv4Addr>().ok()?),
    };
    let prefix = bits.leading_ones();
    (bits.checked_shl(prefix).unwrap_or(0) == 0).then_some(u8::try_from(prefix).ok()?)
}

/// A netmask as a dotted quad.
pub fn netmask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(u32::from(32 - prefix.min(32))).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FreeBSD 13.2 and, in the older manner, 4.10.
    const TEXT: &str = "vtnet0: flags=8863<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST> metric 0 mtu 1500
\toptions=80028<VLAN_MTU,JUMBO_MTU,LINKSTATE>
\tether 52:54:00:12:34:56
\tinet 10.0.2.112 netmask 0xffffff00 broadcast 10.0.2.255
\tinet 10.0.2.113 netmask 0xffffffff broadcast 10.0.2.113
\tinet6 fe80::5054:ff:fe12:3456%vtnet0 prefixlen 64 scopeid 0x1
\tinet6 2001:db8::12 prefixlen 64
\tmedia: Ethernet autoselect (10Gbase-T <full-duplex>)
lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 16384
\tinet6 ::1 prefixlen 128 
\tinet 127.0.0.1 netmask 0xff000000 
\tinet x netmask 0xff000000
\tinet 10.0.0.1 netmask 0xff00ff00
";

    #[test]
    fn addresses_are_read() {
        let found = read(TEXT);
        let shown = |at: usize| {
            let one = |address: &Configured| format!("{}/{}", address.ip, address.prefix);
            found[at].addresses.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["vtnet0", "lo0"]);
        assert_eq!(shown(0), "10.0.2.112/24 10.0.2.113/32 2001:db8::12/64");
        assert_eq!(shown(1), "::1/128 127.0.0.1/8");
        assert_eq!(
            (netmask(24).to_string(), netmask(0).to_string(), netmask(32).to_string()),
            ("255.255.255.0".into(), "0.0.0.0".into(), "255.255.255.255".into())
        );
    }
}
