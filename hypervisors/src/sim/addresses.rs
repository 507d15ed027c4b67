//! Which addresses a simulated guest takes when it starts: a small reader of `/etc/network/interfaces`
//! (interfaces(5): `auto`, `allow-hotplug`, `iface … inet|inet6 static|dhcp`, `address`, `netmask`, `hwaddress`) and of
//! `systemd.network(5)` (`[Match] Name= MACAddress=`, `Address=`, `DHCP=`). It stands for the guest's own network setup,
//! not for the program's rewriter, and shares no code with it.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::tree;
use crate::MacAddr;

/// What a guest's files say about one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Configured {
    /// Interface name; empty if it is matched by hardware address.
    pub name: String,
    /// Matched by this hardware address (networkd).
    pub matches: Option<MacAddr>,
    /// Hardware address it is given.
    pub mac: Option<MacAddr>,
    /// Static addresses with prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Asks a DHCP server.
    pub dhcp: bool,
    /// Default gateway.
    pub gateway: Option<IpAddr>,
}

/// Reads all that a tree configures.
pub(super) fn read(root: &Path) -> Vec<Configured> {
    let mut text = read_text(root, "etc/network/interfaces");
    for name in tree::names(root, "etc/network/interfaces.d") {
        text.push('\n');
        text.push_str(&read_text(root, &format!("etc/network/interfaces.d/{name}")));
    }
    let mut all = interfaces(&text);
    let networks = tree::names(root, "etc/systemd/network").into_iter().filter(|name| name.ends_with(".network"));
    all.extend(networks.map(|name| network(&read_text(root, &format!("etc/systemd/network/{name}")))));
    all
}

fn read_text(root: &Path, path: &str) -> String {
    tree::resolve(root, Path::new(path), true).and_then(fs::read_to_string).unwrap_or_default()
}

fn address(text: &str, netmask: Option<&str>) -> Option<(IpAddr, u8)> {
    let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
    let ip: IpAddr = ip.parse().ok()?;
    let full = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = match (prefix, netmask) {
        (Some(prefix), _) => prefix.parse().ok()?,
        (None, Some(mask)) => match mask.parse() {
            Ok(IpAddr::V4(mask)) => u8::try_from(mask.to_bits().count_ones()).ok()?,
            _ => mask.parse().ok()?,
        },
        (None, None) => full,
    };
    (prefix <= full).then_some((ip, prefix))
}

fn interfaces(text: &str) -> Vec<Configured> {
    let mut up = BTreeSet::new();
    let mut found: Vec<Configured> = Vec::new();
    let mut inside: Option<(Configured, Option<String>, Option<String>)> = None;
    let mut finish = |stanza: &mut Option<(Configured, Option<String>, Option<String>)>| {
        if let Some((mut configured, ip, mask)) = stanza.take() {
            configured.addresses.extend(ip.and_then(|ip| address(&ip, mask.as_deref())));
            found.push(configured);
        }
    };
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["auto" | "allow-hotplug" | "allow-auto", names @ ..] => {
                finish(&mut inside);
                up.extend(names.iter().map(|name| (*name).to_owned()));
            }
            ["iface", name, "inet" | "inet6", method, ..] => {
                finish(&mut inside);
                let configured =
                    Configured { name: (*name).to_owned(), dhcp: *method == "dhcp", ..Configured::default() };
                inside = (*method == "static" || *method == "dhcp").then_some((configured, None, None));
            }
            ["iface" | "mapping" | "source" | "source-directory" | "rename" | "template", ..] => finish(&mut inside),
            [key, value, rest @ ..] => {
                let Some((configured, ip, mask)) = &mut inside else { continue };
                match *key {
                    "address" => *ip = Some((*value).to_owned()),
                    "netmask" => *mask = Some((*value).to_owned()),
                    "gateway" => configured.gateway = value.parse().ok(),
                    "hwaddress" => configured.mac = rest.first().unwrap_or(value).parse().ok(),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    finish(&mut inside);
    found.retain(|configured| up.contains(&configured.name));
    for configured in &mut found {
        // `eth0:1` is a label of eth0.
        if let Some((name, _)) = configured.name.split_once(':') {
            configured.name = name.to_owned();
        }
    }
    found
}

fn network(text: &str) -> Configured {
    let mut configured = Configured::default();
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim();
        match (section, key.trim()) {
            ("[Match]", "Name") => configured.name = value.to_owned(),
            ("[Match]", "MACAddress" | "PermanentMACAddress") => configured.matches = value.parse().ok(),
            ("[Link]", "MACAddress") => configured.mac = value.parse().ok(),
            ("[Network]" | "[Address]", "Address") => configured.addresses.extend(address(value, None)),
            ("[Network]", "DHCP") => configured.dhcp = value == "yes" || value == "ipv4" || value == "true",
            ("[Network]", "Gateway") => configured.gateway = value.parse().ok(),
            _ => {}
        }
    }
    configured
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn ifupdown() {
        let text = "# eth9\nauto lo eth0 eth0:1\niface lo inet loopback\niface eth0 inet static\n  address 10.0.5.12\n  netmask 255.255.255.0\n  gateway 10.0.5.1\n  hwaddress ether 00:16:3e:00:05:0c\niface eth0:1 inet static\n  address 10.0.5.13/24\nallow-hotplug eth1\niface eth1 inet dhcp\niface eth2 inet static\n  address 10.0.5.99/24\n";
        let found = interfaces(text);
        assert_eq!(found.len(), 3, "eth2 is not brought up: {found:?}");
        assert_eq!(found[0].addresses, [("10.0.5.12".parse().unwrap(), 24)]);
        assert_eq!(found[0].mac, Some("00:16:3e:00:05:0c".parse().unwrap()));
        assert_eq!(found[0].gateway, Some("10.0.5.1".parse().unwrap()));
        assert_eq!((found[1].name.as_str(), &found[1].addresses), ("eth0", &vec![("10.0.5.13".parse().unwrap(), 24)]));
        assert!(found[2].dhcp);
    }

    #[test]
    fn networkd() {
        let found = network(
            "[Match]\nMACAddress=00:16:3e:00:05:0c\n[Network]\nAddress=10.0.5.12/24\nAddress=2001:db8::c/64\nDHCP=no\n",
        );
        assert_eq!(found.addresses.len(), 2);
        assert!(found.matches.is_some() && found.mac.is_none() && !found.dhcp);
    }
}
