//! Reading `[hosts]` and logins.

use std::collections::BTreeMap;

use super::model::{Credentials, HostSpec, HypervisorKind, SshSpec};
use super::read::{Item, Section};

/// Reads one host.
pub(super) fn host(item: &Item<'_>) -> Option<HostSpec> {
    let section = item.section()?;
    let words = [
        ("libvirt", HypervisorKind::Libvirt),
        ("xl", HypervisorKind::Xl),
        ("jail", HypervisorKind::Jail),
        ("vsphere", HypervisorKind::Vsphere),
        ("sim", HypervisorKind::Sim),
        ("none", HypervisorKind::None),
    ];
    let help = "one of libvirt, xl, jail, vsphere, sim, none";
    // An unreadable platform makes every other key of the host doubtful: they are not judged.
    let hypervisor = section.need("hypervisor", help)?.choice(&words)?;
    let mut spec = HostSpec {
        hypervisor,
        uri: None,
        ssh: section.section("ssh").map(|section| ssh(section, true)),
        definitions: None,
        jails: None,
        trees: None,
        state: None,
        part: None,
        links: section.section("links").map(|section| links(&section)).unwrap_or_default(),
        url: None,
        ca: None,
        thumbprint: None,
        credentials: None,
    };
    match hypervisor {
        HypervisorKind::Libvirt => {
            spec.uri = section.string("uri");
            spec.trees = section.path("trees");
        }
        HypervisorKind::Xl => spec.definitions = section.path("definitions"),
        HypervisorKind::Jail => spec.jails = section.path("jails"),
        HypervisorKind::Sim => {
            spec.state = section.path("state");
            spec.part = section.parse("part", user_name);
        }
        HypervisorKind::Vsphere => {
            spec.url = section.need("url", "url = \"https://vcenter.example\"").and_then(|item| item.parse(https_url));
            spec.ca = section.path("ca");
            spec.thumbprint = section.parse("thumbprint", thumbprint);
            spec.credentials = section.section("credentials").and_then(credentials);
        }
        HypervisorKind::None => {}
    }
    section.finish(&format!("a host with hypervisor = \"{}\"", words.iter().find(|w| w.1 == hypervisor)?.0));
    Some(spec)
}

/// Names of interfaces, by names of interfaces.
fn links(section: &Section<'_>) -> BTreeMap<String, String> {
    let entries = section.entries().into_iter();
    entries.filter_map(|(name, item)| Some((name, item.parse(interface_name)?))).collect()
}

fn interface_name(text: &str) -> Result<String, String> {
    let sound = text.len() <= 15 && !text.starts_with(['.', '-']) && !text.contains(['/', ' ', ':']);
    if sound { Ok(text.to_owned()) } else { Err(format!("{text:?} is not the name of an interface")) }
}

/// Reads a login. A host's or a source's must say where; a guest's address is discovered.
pub(super) fn ssh(section: Section<'_>, needs_address: bool) -> SshSpec {
    let default = SshSpec::default();
    let address = match needs_address {
        true => section.need("address", "address = \"host.example\""),
        false => section.get("address"),
    };
    let spec = SshSpec {
        address: address.and_then(|item| item.parse(host_name)),
        port: section.integer("port", 1..=65535).unwrap_or(default.port),
        user: section.parse("user", user_name).unwrap_or(default.user),
        key: section.path("key"),
        sudo: section.flag("sudo"),
        legacy: section.flag("legacy"),
    };
    section.finish("ssh");
    spec
}

pub(super) fn credentials(section: Section<'_>) -> Option<Credentials> {
    let file = section.path("file").map(Credentials::File);
    let command = section.argv("command").map(Credentials::Command);
    let both = file.is_some() && command.is_some();
    if both || (file.is_none() && command.is_none()) {
        section.problem(
            "names not exactly one of file and command",
            Some("{ file = \"/path\" } holds two lines: user, password"),
        );
    }
    section.finish("credentials");
    file.or(command)
}

/// A host name or an address; never something ssh could take for an option.
fn host_name(text: &str) -> Result<String, String> {
    let known = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
    let sound = text.len() <= 253
        && text.chars().all(known)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == ':');
    if sound { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a host name or an address")) }
}

fn user_name(text: &str) -> Result<String, String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let sound = text.len() <= 32 && text.chars().all(known) && !text.starts_with('-');
    if sound { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a user name")) }
}

fn https_url(text: &str) -> Result<String, String> {
    let sound = text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && !rest.contains(['@', ' ', '\n']));
    if sound {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not an address such as \"https://vcenter.example\""))
    }
}

fn thumbprint(text: &str) -> Result<String, String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let sound = digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit());
    if sound {
        Ok(digits.to_ascii_lowercase())
    } else {
        Err(format!("{text:?} is not a SHA-256 thumbprint (64 hexadecimal digits)"))
    }
}
