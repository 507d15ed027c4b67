//! Jails as guests: what their configuration and the kernel say together. Pure.

use super::super::address;
use super::super::conf::{Config, Effective};
use super::super::managed::{Known, Managed, managed};
use super::super::wrong::{Place, Wrong};
use super::running::Running;
use super::texts::Texts;
use crate::{Disk, DiskSource, GuestFacts, Nic, Power};

/// Every jail: those of the configuration and those that run without one, by name.
pub fn all(texts: &Texts, running: &[Running]) -> Result<Vec<GuestFacts>, Wrong> {
    let mut guests = Vec::new();
    for (name, config) in texts.jails()? {
        guests.push(one(texts, &config, &name, running)?);
    }
    let strangers = running.iter().filter(|jail| !guests.iter().any(|guest| guest.name == jail.name));
    let strangers: Vec<GuestFacts> = strangers.map(stranger).collect();
    guests.extend(strangers);
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(guests)
}

/// One jail of the configuration.
pub fn one(texts: &Texts, config: &Config, name: &str, running: &[Running]) -> Result<GuestFacts, Wrong> {
    let effective = config.effective(name)?;
    let now = running.iter().find(|jail| jail.name == name);
    let root = effective.text("path").or(now.map(|jail| jail.path.as_str()));
    Ok(GuestFacts {
        name: name.to_owned(),
        uuid: None,
        power: if now.is_some() { Power::On } else { Power::Off },
        autostart: autostart(texts, config, name)?,
        memory_bytes: 0,
        vcpus: 0,
        disks: root.map(disk).into_iter().collect(),
        nics: nics(&effective, name)?,
        managed_save: false,
        mark: texts.mark_of(config, name)?,
        kernel: None,
        vnet: vnet(&effective) || now.is_some_and(|jail| jail.vnet),
    })
}

/// Whether a jail has a network stack of its own: `vnet` as a flag, or `new` (jail(8), vnet).
fn vnet(effective: &Effective) -> bool {
    let stated = effective.get("vnet").is_some_and(|vnet| match vnet.values.last() {
        Some(value) if value == "inherit" => false,
        Some(value) if value == "new" => true,
        _ => vnet.is_true(),
    });
    stated || effective.get("vnet.interface").is_some()
}

/// Why a jail's definition is not changed here, if it is not.
pub fn left_alone(config: &Config, name: &str) -> Option<&'static str> {
    let effective = config.effective(name).ok()?;
    vnet(&effective).then_some("it has a network stack of its own (vnet), and is left alone")
}

/// Whether a jail starts with its host: `jail_enable`, and it is in `jail_list` or, where that is not set, in the file that rc.d/jail
/// hands to jail(8) whole.
pub fn autostart(texts: &Texts, config: &Config, name: &str) -> Result<bool, Wrong> {
    if !texts.rc.jail_enable()? {
        return Ok(false);
    }
    if let Some(list) = texts.rc.jail_list()? {
        return Ok(list.iter().any(|listed| listed == name));
    }
    let shared = texts.rc.jail_files(name)?.pop();
    Ok(shared.as_deref() == Some(config.root()))
}

/// Whether another program keeps a jail.
pub fn kept_elsewhere(texts: &Texts, config: &Config, name: &str) -> Option<Managed> {
    let effective = config.effective(name).ok();
    managed(&Known {
        name,
        file: config.file_of(name).ok(),
        path: effective.as_ref().and_then(|effective| effective.text("path")),
        effective: effective.as_ref(),
        bastille_conf: texts.bastille(),
        present: &[],
    })
}

fn disk(path: &str) -> Disk {
    Disk {
        name: "/".to_owned(),
        source: DiskSource::Directory(path.into()),
        root: true,
        readonly: false,
        shareable: false,
    }
}

/// A card for each interface that holds addresses of the jail; one with a network stack of its own has those of `vnet.interface`.
fn nics(effective: &Effective, name: &str) -> Result<Vec<Nic>, Wrong> {
    let mut nics: Vec<Nic> = Vec::new();
    let nic = |interface: &str| Nic {
        name: Some(interface.to_owned()),
        mac: None,
        bridge: interface.to_owned(),
        filter: None,
        addresses: Vec::new(),
    };
    let common = effective.text("interface").unwrap_or_default();
    for family in ["ip4.addr", "ip6.addr"] {
        let place = || effective.get(family).and_then(|param| param.places.last().cloned());
        for value in effective.list(family) {
            let addresses = address::read(value).map_err(|what| {
                Wrong::new(place().unwrap_or_else(|| Place::whole("jail.conf")), format!("{name}: {what}"))
            })?;
            for address in addresses {
                let interface = address.interface.as_deref().unwrap_or(common);
                let at = nics.iter().position(|nic| nic.bridge == interface).unwrap_or_else(|| {
                    nics.push(nic(interface));
                    nics.len() - 1
                });
                nics[at].addresses.push(address.ip);
            }
        }
    }
    for interface in effective.list("vnet.interface") {
        nics.push(nic(interface));
    }
    Ok(nics)
}

/// A jail that runs without a definition here (iocage's, one of jail(8)'s command line): what it has is taken.
fn stranger(jail: &Running) -> GuestFacts {
    let addresses = jail.addresses.iter().filter_map(|address| address.parse().ok()).collect();
    GuestFacts {
        name: jail.name.clone(),
        uuid: None,
        power: Power::On,
        autostart: false,
        memory_bytes: 0,
        vcpus: 0,
        disks: vec![disk(&jail.path)],
        nics: vec![Nic { name: None, mac: None, bridge: String::new(), filter: None, addresses }],
        managed_save: false,
        mark: None,
        kernel: None,
        vnet: jail.vnet,
    }
}
