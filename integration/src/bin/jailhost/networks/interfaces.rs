//! Interfaces and addresses: a file `interfaces/NAME` of the state each, lines `ether MAC`, `inet ADDRESS/PREFIX`,
//! `inet6 …`, `down`; or what this machine has, through `ip`.

use std::net::IpAddr;
use std::process::Command;

use crate::host::Host;
use crate::persona::Real;

/// An interface.
#[derive(Debug, Default, Clone)]
pub struct Interface {
    /// Its name as the host calls it.
    pub name: String,
    /// Its address on the link.
    pub ether: Option<String>,
    /// Its addresses and their prefixes, in their order.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Administratively down.
    pub is_down: bool,
}

/// All of them, by name.
pub fn all(host: &Host) -> Vec<Interface> {
    if host.persona.network == Real::Real {
        return real(host);
    }
    let Ok(entries) = std::fs::read_dir(host.of_state("interfaces")) else {
        // The one the recordings were made with.
        let ether = Some("52:54:00:12:34:56".to_owned());
        return vec![Interface { name: "vtnet0".to_owned(), ether, ..Interface::default() }];
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.contains(".new"));
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let mut interface = Interface { name: name.clone(), ..Interface::default() };
            for line in host.state_text(&format!("interfaces/{name}")).lines() {
                match line.trim().split_once(' ') {
                    Some(("ether", ether)) => interface.ether = Some(ether.to_owned()),
                    Some((_, address)) => interface.addresses.extend(parsed(address)),
                    None => interface.is_down |= line.trim() == "down",
                }
            }
            interface
        })
        .collect()
}

fn parsed(address: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = address.split_once('/')?;
    Some((address.parse().ok()?, prefix.parse().ok()?))
}

/// What `ip` says of this machine.
fn real(host: &Host) -> Vec<Interface> {
    let Ok(said) = Command::new("ip").args(["-json", "addr", "show"]).output() else { return Vec::new() };
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
    let of = |link: &serde_json::Value| {
        let own = link["ifname"].as_str()?.to_owned();
        let pretended = host.persona.interfaces.iter().find(|(_, real)| *real == own);
        let addresses = link["addr_info"].as_array().into_iter().flatten().filter_map(|address| {
            let prefix = u8::try_from(address["prefixlen"].as_u64()?).ok()?;
            Some((address["local"].as_str()?.parse().ok()?, prefix))
        });
        Some(Interface {
            name: pretended.map_or_else(|| own.clone(), |(name, _)| name.clone()),
            ether: (link["link_type"] == "ether").then(|| link["address"].as_str().unwrap_or_default().to_owned()),
            addresses: addresses.collect(),
            is_down: !link["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP")),
        })
    };
    said.as_array().into_iter().flatten().filter_map(of).collect()
}

/// Writes an interface of the state.
pub fn keep(host: &Host, interface: &Interface) {
    let mut text = interface.ether.as_ref().map(|ether| format!("ether {ether}\n")).unwrap_or_default();
    for (address, prefix) in &interface.addresses {
        text += &format!("{} {address}/{prefix}\n", if address.is_ipv4() { "inet" } else { "inet6" });
    }
    if interface.is_down {
        text += "down\n";
    }
    host.write_state(&format!("interfaces/{}", interface.name), &text);
}

fn find(host: &Host, name: &str) -> Result<Interface, String> {
    all(host)
        .into_iter()
        .find(|interface| interface.name == name)
        .ok_or_else(|| format!("interface {name} does not exist"))
}

/// Adds an address; `false` if it was there already. What goes wrong is what ifconfig says after its name.
pub fn add(host: &Host, name: &str, address: IpAddr, prefix: u8) -> Result<bool, String> {
    let _lock = host.lock();
    let mut interface = find(host, name)?;
    let there = interface.addresses.iter().any(|(known, _)| *known == address);
    if host.persona.network == Real::Real {
        return if there { Ok(false) } else { ip(host, "add", name, address, prefix).map(|()| true) };
    }
    interface.addresses.retain(|(known, _)| *known != address);
    interface.addresses.push((address, prefix));
    keep(host, &interface);
    Ok(!there)
}

/// Takes an address away.
pub fn remove(host: &Host, name: &str, address: IpAddr) -> Result<(), String> {
    let _lock = host.lock();
    let mut interface = find(host, name)?;
    let Some(at) = interface.addresses.iter().position(|(known, _)| *known == address) else {
        return Err("ioctl (SIOCDIFADDR): Can't assign requested address".to_owned());
    };
    let (_, prefix) = interface.addresses.remove(at);
    if host.persona.network == Real::Real {
        return ip(host, "del", name, address, prefix);
    }
    keep(host, &interface);
    Ok(())
}

fn ip(host: &Host, verb: &str, name: &str, address: IpAddr, prefix: u8) -> Result<(), String> {
    let run = Command::new("ip")
        .args(["addr", verb, &format!("{address}/{prefix}"), "dev", &host.persona.real_interface(name)])
        .output();
    match run {
        Ok(run) if run.status.success() => Ok(()),
        Ok(run) => Err(format!("ioctl: {}", String::from_utf8_lossy(&run.stderr).trim())),
        Err(wrong) => Err(format!("ip: {wrong}")),
    }
}
