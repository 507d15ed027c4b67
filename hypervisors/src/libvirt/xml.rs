//! What a domain XML says: the facts the lifecycle decides by (libvirt.org, formatdomain). Pure.
//!
//! Values come from operators and guests: they are data, never trusted to be sane. Errors are short sentences
//! that say what in the text makes no sense.

use std::net::IpAddr;
use std::path::PathBuf;

use super::tree::{Element, Tree};
use crate::{Disk, DiskSource, HostKernel, MacAddr, Mark, Nic};

/// Namespace of the run mark in `<metadata>`.
pub const MARK_NAMESPACE: &str = "urn:upgradectl:run:1";

/// What a domain XML says about a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainFacts {
    /// Kind of domain: `lxc`, `xen`, `kvm`, `qemu`, `test` …
    pub kind: String,
    /// Name.
    pub name: String,
    /// UUID as written.
    pub uuid: Option<String>,
    /// Memory in bytes (`<memory>`).
    pub memory_bytes: u64,
    /// Memory in bytes that it starts with (`<currentMemory>`), if said.
    pub current_memory_bytes: Option<u64>,
    /// Processors (the maximum if some start unplugged).
    pub vcpus: u32,
    /// Disks and file systems, in order.
    pub disks: Vec<Disk>,
    /// Network cards, in order. [`Nic::bridge`] of a card on a libvirt network is the network's name.
    pub nics: Vec<Nic>,
    /// Which of [`DomainFacts::nics`] are plugged into a libvirt network rather than a bridge.
    pub on_network: Vec<bool>,
    /// The run mark.
    pub mark: Option<Mark>,
    /// The kernel of the host that it is started with.
    pub kernel: Option<HostKernel>,
}

/// Reads a domain XML.
pub fn read(text: &str) -> Result<DomainFacts, String> {
    let tree = Tree::parse(text)?;
    let domain = tree.root();
    if domain.name() != "domain" {
        return Err(format!("<{}> is not a domain", domain.name()));
    }
    let kind = domain.attribute("type").ok_or("the domain has no type")?.to_owned();
    let name = domain.child("name").ok_or("the domain has no name")?.value().to_owned();
    if name.is_empty() {
        return Err("the domain's name is empty".to_owned());
    }
    let cards: Vec<_> = devices(domain).filter(|device| device.name() == "interface").collect();
    let nics = cards.iter().enumerate().map(|(i, card)| nic(*card, i, kind == "lxc")).collect::<Result<_, _>>()?;
    Ok(DomainFacts {
        name,
        uuid: domain.child("uuid").map(|uuid| uuid.value().trim().to_owned()),
        memory_bytes: domain.child("memory").map(bytes).transpose()?.unwrap_or(0),
        current_memory_bytes: domain.child("currentMemory").map(bytes).transpose()?,
        vcpus: match domain.child("vcpu") {
            None => 1,
            Some(vcpu) => vcpu.value().trim().parse().map_err(|_| format!("<vcpu> {:?} is no number", vcpu.value()))?,
        },
        disks: disks(domain),
        nics,
        on_network: cards.iter().map(|card| card.attribute("type") == Some("network")).collect(),
        mark: mark(domain)?.map(|element| read_mark(element)).transpose()?,
        kernel: kernel(domain),
        kind,
    })
}

/// Every device, in order.
pub(super) fn devices<'t>(domain: Element<'t>) -> impl Iterator<Item = Element<'t>> {
    domain.all("devices").flat_map(|devices| devices.elements())
}

/// The name of a disk or file system; `None` for other devices and for those without a target.
pub(super) fn disk_name<'t>(device: Element<'t>) -> Option<&'t str> {
    match device.name() {
        "filesystem" => device.child_attribute("target", "dir"),
        "disk" => device.child_attribute("target", "dev"),
        _ => None,
    }
}

/// The attribute of `<source>` that holds a path, by the device's type.
pub(super) fn source_attribute(device: Element<'_>) -> Option<&'static str> {
    match (device.name(), device.attribute("type").unwrap_or("mount")) {
        ("filesystem", "mount") => Some("dir"),
        (_, "file") => Some("file"),
        (_, "block") => Some("dev"),
        _ => None,
    }
}

/// The element of our run mark; more than one makes no sense.
pub(super) fn mark(domain: Element<'_>) -> Result<Option<Element<'_>>, String> {
    let mut marks = domain.all("metadata").flat_map(|m| m.elements()).filter(|e| e.is("run", MARK_NAMESPACE));
    match (marks.next(), marks.next()) {
        (_, Some(_)) => Err("the domain has two run marks".to_owned()),
        (mark, None) => Ok(mark),
    }
}

fn read_mark(element: Element<'_>) -> Result<Mark, String> {
    match (element.attribute("id"), element.attribute("role")) {
        (Some(id), Some(role)) => format!("{id}.{role}").parse(),
        _ => Err("the run mark has no id or no role".to_owned()),
    }
}

/// Bytes in a unit as libvirt writes and reads them (virScaleInteger: letters in any case).
pub(super) fn unit_bytes(unit: &str) -> Option<u64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "b" | "byte" | "bytes" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    })
}

fn bytes(element: Element<'_>) -> Result<u64, String> {
    let bad = || format!("<{}> {:?} is no size", element.name(), element.value());
    let unit = unit_bytes(element.attribute("unit").unwrap_or("KiB")).ok_or_else(bad)?;
    element.value().trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(bad)
}

/// A kernel of the host's; a boot loader that is started in its place reads the guest's own.
fn kernel(domain: Element<'_>) -> Option<HostKernel> {
    let os = domain.child("os")?;
    let text = |name: &'static str| Some(os.child(name)?.value().trim().to_owned()).filter(|text| !text.is_empty());
    let kernel =
        text("kernel").filter(|kernel| domain.child("bootloader").is_none() && !HostKernel::is_loader(kernel))?;
    Some(HostKernel { kernel, initrd: text("initrd"), arguments: text("cmdline") })
}

fn disks(domain: Element<'_>) -> Vec<Disk> {
    let mut disks: Vec<Disk> = devices(domain).filter_map(disk).collect();
    // a file system says that it is the root by its target; of disks the kernel's command line may, else it is the first
    if !disks.iter().any(|disk| disk.root) {
        let os = domain.child("os");
        let root = os.and_then(|os| os.child("root").map(|root| root.value())).or_else(|| {
            os?.child("cmdline")?.value().split_ascii_whitespace().find_map(|word| word.strip_prefix("root="))
        });
        let root = root.map(|root| root.trim().trim_start_matches("/dev/"));
        let named = |disk: &Disk, root: &str| {
            disk.name == root || disk.name == root.trim_end_matches(|c: char| c.is_ascii_digit())
        };
        let plain: Vec<bool> = devices(domain)
            .filter(|device| disk_name(*device).is_some())
            .map(|d| d.name() == "disk" && matches!(d.attribute("device"), None | Some("disk" | "lun")))
            .collect();
        let found = root.and_then(|root| disks.iter().position(|disk| named(disk, root)));
        if let Some(index) = found.or_else(|| plain.iter().position(|plain| *plain)) {
            disks[index].root = true;
        }
    }
    disks
}

fn disk(device: Element<'_>) -> Option<Disk> {
    let name = disk_name(device)?.to_owned();
    let source = device.child("source");
    let path = source_attribute(device).and_then(|attribute| Some((attribute, source?.attribute(attribute)?)));
    let source = match path {
        Some(("dir", path)) => DiskSource::Directory(PathBuf::from(path)),
        Some(("dev", path)) => DiskSource::Block(PathBuf::from(path)),
        Some((_, path)) => DiskSource::File(PathBuf::from(path)),
        None => {
            let kind = device.attribute("type").unwrap_or("mount");
            let words = ["protocol", "pool", "volume", "name", "dir", "usage", "dev"];
            let said = words.iter().filter_map(|word| source?.attribute(word));
            DiskSource::Other(std::iter::once(kind).chain(said).collect::<Vec<_>>().join(" "))
        }
    };
    Some(Disk {
        root: device.name() == "filesystem" && name == "/",
        readonly: device.child("readonly").is_some() || device.attribute("device") == Some("cdrom"),
        shareable: device.child("shareable").is_some(),
        name,
        source,
    })
}

fn nic(card: Element<'_>, index: usize, container: bool) -> Result<Nic, String> {
    let source = |attribute| card.child_attribute("source", attribute);
    let mac: Option<MacAddr> = card.child_attribute("mac", "address").map(str::parse).transpose()?;
    let filter = card.child("filterref");
    // `IP` parameters of a filter (formatnwfilter), addresses given to the guest (LXC) or to its vif (Xen)
    let parameters = filter.into_iter().flat_map(|filter| filter.all("parameter"));
    let named = parameters
        .filter(|p| {
            p.attribute("name").is_some_and(|name| name.eq_ignore_ascii_case("ip") || name.eq_ignore_ascii_case("ipv6"))
        })
        .filter_map(|p| p.attribute("value"));
    let given = card.all("ip").filter_map(|ip| ip.attribute("address"));
    let addresses: Vec<IpAddr> = named.chain(given).filter_map(|text| text.trim().parse().ok()).collect();
    Ok(Nic {
        name: match card.child_attribute("guest", "dev") {
            Some(name) => Some(name.to_owned()),
            None if container => Some(format!("eth{index}")),
            None => None,
        },
        mac,
        bridge: source("bridge").or(source("network")).or(source("dev")).unwrap_or_default().to_owned(),
        filter: filter.and_then(|filter| filter.attribute("filter")).map(str::to_owned),
        addresses,
    })
}
