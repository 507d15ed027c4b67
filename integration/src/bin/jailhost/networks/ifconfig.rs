//! `ifconfig`: shows interfaces, adds and takes away addresses.

use std::net::IpAddr;

use super::interfaces::{self, Interface};
use crate::host::Host;
use crate::persona::Real;
use crate::{faults, say};

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let all = interfaces::all(host);
    match arguments.as_slice() {
        [] | ["-a"] => {
            say::out(&all.iter().map(shown).collect::<String>());
            0
        }
        ["-l"] => {
            let names: Vec<&str> = all.iter().map(|interface| interface.name.as_str()).collect();
            say::out(&format!("{}\n", names.join(" ")));
            0
        }
        [option, ..] if option.starts_with('-') => say::not_played(option),
        [name, "create"] if host.persona.network == Real::Noted => {
            interfaces::keep(host, &Interface { name: (*name).to_owned(), ..Interface::default() });
            0
        }
        [name, rest @ ..] => {
            let Some(interface) = all.iter().find(|interface| interface.name == *name) else {
                return say::wrong(&format!("interface {name} does not exist"));
            };
            if rest.is_empty() {
                say::out(&shown(interface));
                return 0;
            }
            if faults::lies() {
                return 0;
            }
            match change(host, name, rest) {
                Ok(()) => 0,
                Err(wrong) => say::wrong(&wrong),
            }
        }
    }
}

fn change(host: &Host, name: &str, words: &[&str]) -> Result<(), String> {
    let mut words = words.iter().copied().peekable();
    let family = match words.peek().copied() {
        Some(family @ ("inet" | "inet6")) => {
            words.next();
            family
        }
        _ => "inet",
    };
    let mut address: Option<IpAddr> = None;
    let mut prefix: Option<u8> = None;
    let mut is_taken = false;
    while let Some(word) = words.next() {
        match word {
            "alias" | "add" | "up" => {}
            "-alias" | "delete" => is_taken = true,
            "netmask" => {
                let mask = words.next().unwrap_or_default();
                prefix = Some(mask_prefix(mask).ok_or_else(|| format!("{mask}: bad value"))?);
            }
            "prefixlen" => {
                let said = words.next().unwrap_or_default();
                prefix = Some(said.parse().map_err(|_| format!("{said}: bad value"))?);
            }
            "broadcast" => {
                words.next();
            }
            word if address.is_none() => {
                let (text, own) = word.split_once('/').map_or((word, None), |(text, own)| (text, Some(own)));
                let parsed: IpAddr = text.parse().map_err(|_| format!("{word}: bad value"))?;
                if parsed.is_ipv4() != (family == "inet") {
                    return Err(format!("{word}: bad value"));
                }
                if let Some(own) = own {
                    prefix = Some(
                        own.parse()
                            .ok()
                            .filter(|p| *p <= if parsed.is_ipv4() { 32 } else { 128 })
                            .ok_or_else(|| format!("{word}: bad value"))?,
                    );
                }
                address = Some(parsed);
            }
            word => return Err(format!("{word}: bad value")),
        }
    }
    let Some(address) = address else { return Ok(()) };
    if is_taken {
        return interfaces::remove(host, name, address);
    }
    let otherwise = match address {
        IpAddr::V4(address) => match address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        },
        IpAddr::V6(_) => 64,
    };
    interfaces::add(host, name, address, prefix.unwrap_or(otherwise)).map(|_| ())
}

/// `255.255.255.0` or `0xffffff00`.
fn mask_prefix(mask: &str) -> Option<u8> {
    let bits = match mask.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => mask.parse::<std::net::Ipv4Addr>().ok()?.to_bits(),
    };
    let prefix = bits.leading_ones();
    (bits.checked_shl(prefix).unwrap_or(0) == 0).then_some(u8::try_from(prefix).ok()?)
}

fn shown(interface: &Interface) -> String {
    let name = &interface.name;
    let is_loopback = name.starts_with("lo");
    let flags = match (is_loopback, interface.is_down) {
        (true, _) => "8049<UP,LOOPBACK,RUNNING,MULTICAST>",
        (false, false) => "8863<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST>",
        (false, true) => "8822<BROADCAST,SIMPLEX,MULTICAST>",
    };
    let mut text = format!("{name}: flags={flags} metric 0 mtu {}\n", if is_loopback { 16384 } else { 1500 });
    text += if is_loopback {
        "\toptions=680003<RXCSUM,TXCSUM,LINKSTATE,RXCSUM_IPV6,TXCSUM_IPV6>\n"
    } else {
        "\toptions=80028<VLAN_MTU,JUMBO_MTU,LINKSTATE>\n"
    };
    if let Some(ether) = &interface.ether {
        text += &format!("\tether {ether}\n");
    }
    for (address, prefix) in &interface.addresses {
        match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
                text += &format!("\tinet {address} netmask 0x{mask:08x}");
                if !is_loopback {
                    text += &format!(" broadcast {}", std::net::Ipv4Addr::from_bits(address.to_bits() | !mask));
                }
                text += "\n";
            }
            IpAddr::V6(address) => {
                let scope = if address.is_unicast_link_local() { format!("%{name}") } else { String::new() };
                text += &format!("\tinet6 {address}{scope} prefixlen {prefix}\n");
            }
        }
    }
    if is_loopback {
        return text + "\tgroups: lo\n\tnd6 options=21<PERFORMNUD,AUTO_LINKLOCAL>\n";
    }
    text + "\tmedia: Ethernet autoselect (10Gbase-T <full-duplex>)\n\tstatus: active\n\tnd6 options=29<PERFORMNUD,IFDISABLED,AUTO_LINKLOCAL>\n"
}

#[cfg(test)]
mod tests {
    use super::mask_prefix;

    #[test]
    fn masks() {
        assert_eq!(mask_prefix("255.255.255.0"), Some(24));
        assert_eq!(mask_prefix("0xffffffff"), Some(32));
        assert_eq!(mask_prefix("0.0.0.0"), Some(0));
        assert_eq!(mask_prefix("255.0.255.0"), None);
    }
}
