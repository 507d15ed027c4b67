//! What a definition says: the facts the lifecycle decides by. Pure.

use std::path::{Path, PathBuf};

use super::cfg::{Atom, Cfg, Wrong};
use super::spec::{self, DiskSpec, VifSpec};
use crate::{Disk, DiskSource, HostKernel, Mark, Nic};

/// How a run mark begins: a comment line of its own, the first of the text when it is set.
pub const MARK: &str = "# upgradectl run ";
/// xl's bridge where none is named (xl-network-configuration(5)).
const BRIDGE: &str = "xenbr0";
/// What xl gives a guest that does not say how much memory it wants.
const MEMORY: u64 = 32 << 20;

/// What a definition says about a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CfgFacts {
    /// Name.
    pub name: String,
    /// UUID as written; xl draws one at each start if there is none.
    pub uuid: Option<String>,
    /// Memory in bytes that it starts with.
    pub memory_bytes: u64,
    /// Memory in bytes that it can grow to, if said.
    pub maxmem_bytes: Option<u64>,
    /// Processors (the maximum if some start unplugged).
    pub vcpus: u32,
    /// Disks, in order.
    pub disks: Vec<Disk>,
    /// Network cards, in order.
    pub nics: Vec<Nic>,
    /// Names that its cards' interfaces have on the host, by card.
    pub vifnames: Vec<Option<String>>,
    /// The run mark.
    pub mark: Option<Mark>,
    /// The kernel of the host that it is started with.
    pub kernel: Option<HostKernel>,
}

/// Reads a definition.
pub fn read(text: &str) -> Result<CfgFacts, Wrong> {
    of(&Cfg::parse(text)?, text)
}

/// What a text that was read says.
pub fn of(cfg: &Cfg, text: &str) -> Result<CfgFacts, Wrong> {
    let name = cfg.text("name")?.ok_or_else(|| Wrong::new("it sets no name, which xl needs"))?;
    if name.is_empty() {
        return Err(Wrong::new("its name is empty"));
    }
    let mebibytes = |key: &str| -> Result<Option<u64>, Wrong> {
        let Some(number) = cfg.number(key)? else { return Ok(None) };
        number.checked_mul(1 << 20).map(Some).ok_or_else(|| Wrong::new(format!("{key} = {number} MiB is too much")))
    };
    let (memory, maxmem) = (mebibytes("memory")?, mebibytes("maxmem")?);
    let vcpus = cfg.number("maxvcpus")?.or(cfg.number("vcpus")?).unwrap_or(1);
    let vifs = cfg.strings("vif")?.into_iter().map(read_vif).collect::<Result<Vec<_>, _>>()?;
    Ok(CfgFacts {
        name,
        uuid: cfg.text("uuid")?.map(|uuid| uuid.to_ascii_lowercase()),
        memory_bytes: memory.or(maxmem).unwrap_or(MEMORY),
        maxmem_bytes: maxmem,
        vcpus: u32::try_from(vcpus).map_err(|_| Wrong::new(format!("{vcpus} processors are too many")))?,
        disks: disks(cfg)?,
        vifnames: vifs.iter().map(|vif| vif.vifname.as_ref().map(|(name, _)| name.clone())).collect(),
        nics: vifs.into_iter().map(nic).collect(),
        mark: mark(text)?,
        kernel: kernel(cfg)?,
    })
}

/// Reads a disk of `disk = […]`.
pub(super) fn read_disk(atom: &Atom) -> Result<DiskSpec, Wrong> {
    spec::disk(&atom.text).map_err(|why| Wrong::at(atom.line, format!("disk {:?}: {why}", atom.text)))
}

/// Reads a card of `vif = […]`.
pub(super) fn read_vif(atom: &Atom) -> Result<VifSpec, Wrong> {
    spec::vif(&atom.text).map_err(|why| Wrong::at(atom.line, format!("vif {:?}: {why}", atom.text)))
}

/// The line of the run mark, with its line end, and what it says; more than one makes no sense.
pub(super) fn mark_line(text: &str) -> Result<Option<(std::ops::Range<usize>, Mark)>, Wrong> {
    let mut found = None;
    let mut start = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let span = start..start + line.len();
        start = span.end;
        let Some(words) = line.strip_prefix(MARK) else { continue };
        let bad = || Wrong::at(index + 1, "this run mark is not \"# upgradectl run RUN role ROLE\"");
        let (run, role) = words.trim_ascii_end().split_once(" role ").ok_or_else(bad)?;
        let mark = format!("{run}.{role}").parse().map_err(|_| bad())?;
        if found.replace((span, mark)).is_some() {
            return Err(Wrong::at(index + 1, "a second run mark"));
        }
    }
    Ok(found)
}

fn mark(text: &str) -> Result<Option<Mark>, Wrong> {
    Ok(mark_line(text)?.map(|(_, mark)| mark))
}

fn disks(cfg: &Cfg) -> Result<Vec<Disk>, Wrong> {
    let specs = cfg.strings("disk")?.into_iter().map(read_disk).collect::<Result<Vec<_>, _>>()?;
    let plain = specs.iter().position(|spec| !spec.cdrom);
    let root = root_device(cfg)?;
    let named = root.and_then(|root| {
        specs
            .iter()
            .position(|spec| spec.vdev == root || spec.vdev == root.trim_end_matches(|c: char| c.is_ascii_digit()))
    });
    let root = named.or(plain);
    Ok(specs.into_iter().enumerate().map(|(index, spec)| disk(spec, root == Some(index))).collect())
}

/// A kernel of the host's; a boot loader takes the guest's own.
fn kernel(cfg: &Cfg) -> Result<Option<HostKernel>, Wrong> {
    let text = |name: &str| Ok::<_, Wrong>(cfg.text(name)?.filter(|text| !text.is_empty()));
    match text("kernel")?.filter(|kernel| !HostKernel::is_loader(kernel)) {
        Some(kernel) if text("bootloader")?.is_none() => Ok(Some(HostKernel {
            kernel,
            initrd: text("ramdisk")?,
            arguments: Some(command_line(cfg)?).filter(|line| !line.is_empty()),
        })),
        _ => Ok(None),
    }
}

/// The kernel's command line. xl: `cmdline` wins over `root` and `extra`.
fn command_line(cfg: &Cfg) -> Result<String, Wrong> {
    let line = match (cfg.text("cmdline")?, cfg.text("root")?, cfg.text("extra")?) {
        (Some(line), _, _) => line,
        (None, Some(root), extra) => format!("root={root} {}", extra.unwrap_or_default()),
        (None, None, extra) => extra.unwrap_or_default(),
    };
    Ok(line.trim().to_owned())
}

/// The device that the kernel's command line names as root, without `/dev/`.
fn root_device(cfg: &Cfg) -> Result<Option<String>, Wrong> {
    let line = command_line(cfg)?;
    let root = line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("root=")).next_back();
    Ok(root.map(|root| root.trim_start_matches("/dev/").to_owned()))
}

fn disk(spec: DiskSpec, root: bool) -> Disk {
    let source = match (&spec.script, &spec.backend) {
        (Some(script), _) if !script.is_empty() => DiskSource::Other(format!("script {script} {}", spec.target)),
        (_, Some(domain)) if !matches!(domain.as_str(), "" | "0" | "Domain-0") => {
            DiskSource::Other(format!("of domain {domain} {}", spec.target))
        }
        _ if spec.target.is_empty() => DiskSource::Other("empty drive".to_owned()),
        _ => {
            // what does not begin with / lies in /dev
            let path = Path::new("/dev").join(&spec.target);
            if spec.phy || path.starts_with("/dev") { DiskSource::Block(path) } else { DiskSource::File(path) }
        }
    };
    Disk { name: spec.vdev, source, root, readonly: spec.readonly, shareable: false }
}

fn nic(vif: VifSpec) -> Nic {
    Nic {
        name: None,
        mac: vif.mac.map(|(mac, _)| mac),
        bridge: vif.bridge.or(vif.gateway).unwrap_or_else(|| BRIDGE.to_owned()),
        filter: None,
        addresses: vif.addresses.into_iter().map(|(address, _)| address).collect(),
    }
}

/// The path of a disk on the host, if it has one.
pub(super) fn path(source: &DiskSource) -> Option<&PathBuf> {
    match source {
        DiskSource::Block(path) | DiskSource::File(path) | DiskSource::Directory(path) => Some(path),
        DiskSource::Other(_) => None,
    }
}
