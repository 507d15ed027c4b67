//! What is known about a guest before anything is planned: its platform's view, its own files, its neighbours.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hypervisors::storage::disk::Layout;
use hypervisors::storage::{Access, Copies, Opened, SizePolicy, SizedSnapshot, VolumeFacts};
use hypervisors::{Definition, Disk, GuestFacts, Hypervisor, MacAddr, VolumeRef};

use super::error::{Failure, exit};
use super::filesystems::{self, Placed};
use crate::guest::quarantine::Quarantine;
use crate::guest::queues::Queue;
use crate::guest::{self, Interface, Tree};
use crate::inventory::values::Size;
use crate::inventory::{DiskRule, GuestSpec, Strategy};

/// A disk with what becomes of it.
#[derive(Clone, Debug)]
pub struct DiskFacts {
    /// As the definition names it.
    pub disk: Disk,
    /// What the inventory says.
    pub rule: DiskRule,
    /// The volume behind it, or why it cannot be told.
    pub volume: Result<VolumeRef, String>,
    /// What its driver sees.
    pub facts: Option<VolumeFacts>,
    /// How large its copy is made, for kinds of volume whose copies have a size ([`Facts::size_copies`]).
    pub sized: Option<SizedSnapshot>,
    /// What lies on it, where it is a block volume, or why that cannot be told.
    pub layout: Result<Option<Layout>, String>,
}

/// An address of the guest with where it is on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// Interface in the guest.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Position of the network card in the definition.
    pub nic: Option<usize>,
    /// Bridge of the host it is on.
    pub via: String,
    /// Hardware address of that card.
    pub mac: Option<MacAddr>,
}

/// Everything a plan for a guest rests on.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What the inventory declares.
    pub spec: GuestSpec,
    /// Its platform.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The platform its clone will be on.
    pub clone_side: Arc<dyn Hypervisor>,
    /// Paths by which its definition names volumes that have another one on the host that holds them, by that one.
    pub paths: BTreeMap<PathBuf, PathBuf>,
    /// The platform's view.
    pub platform: GuestFacts,
    /// Its definition.
    pub definition: Definition,
    /// Its disks.
    pub disks: Vec<DiskFacts>,
    /// Its root file system, as it lies on the host now.
    pub root: Opened,
    /// Its interfaces, by its own files.
    pub interfaces: Vec<Interface>,
    /// Its static addresses.
    pub addresses: Vec<OwnAddress>,
    /// Operating system, as people say it.
    pub release: String,
    /// Its code name.
    pub codename: String,
    /// Public ssh host keys.
    pub host_keys: Vec<String>,
    /// What would be switched off in a clone.
    pub quarantine: Quarantine,
    /// Mail and job queues it has.
    pub queues: Vec<Queue>,
    /// Number of the user that apt downloads as.
    pub apt_user: Option<u32>,
    /// Network mounts of its fstab.
    pub network_mounts: Vec<String>,
    /// Its file systems by its fstab, where they are found on its disks.
    pub placed: Vec<Placed>,
    /// All guests of the hosts concerned.
    pub neighbours: Vec<GuestFacts>,
}

impl Facts {
    /// Reads everything; changes nothing.
    ///
    /// # Errors
    /// Unknown guest on the platform, files that cannot be read, a platform that does not answer.
    pub async fn gather(
        spec: &GuestSpec,
        hypervisor: &Arc<dyn Hypervisor>,
        paths: BTreeMap<PathBuf, PathBuf>,
    ) -> Result<Self, Failure> {
        let name = &spec.name;
        let Some(platform) = hypervisor.facts(name).await? else {
            return Err(Failure::new(exit::REFUSED, format!("find {name}"))
                .cause(format!("{} has no guest of that name", spec.runs_on))
                .place(format!("guests.{name} in the inventory"))
                .help(format!("the guests there: {}", list(hypervisor).await)));
        };
        if platform.vnet {
            return Err(Failure::new(exit::REFUSED, format!("look at {name}"))
                .cause("it has a network stack of its own (vnet), and is left alone")
                .place(format!("guests.{name} in the inventory"))
                .help("upgrade it by hand, or give it an address of the host's instead of vnet"));
        }
        let definition = hypervisor
            .definition(name)
            .await?
            .ok_or_else(|| Failure::new(exit::REFUSED, format!("read the definition of {name}")))?;
        let mut disks = Vec::new();
        for disk in &platform.disks {
            let rule = spec.disks.get(&disk.name).copied().unwrap_or_default();
            let volume = hypervisor.volume(disk).await.map_err(|error| error.to_string());
            let facts = match &volume {
                Ok(volume) => hypervisor.storage(volume.kind)?.inspect(volume).await?,
                Err(_) => None,
            };
            let layout = match (&volume, &facts) {
                (Ok(volume), Some(_)) => {
                    hypervisor.storage(volume.kind)?.layout(volume).await.map_err(|error| error.to_string())
                }
                _ => Ok(None),
            };
            disks.push(DiskFacts { disk: disk.clone(), rule, volume, facts, sized: None, layout });
        }
        let root = Self::root_volume(name, &disks)?;
        let root = hypervisor.storage(root.kind)?.open(root, Access::Glance).await?;
        let tree = Tree::open(root.path())?;
        let interfaces = guest::network::inspect(&tree)?;
        let (release, codename) = release(&tree);
        Ok(Self {
            addresses: addresses(&interfaces, &platform),
            interfaces,
            release,
            codename,
            host_keys: guest::keys::public_keys(&tree)?,
            quarantine: guest::quarantine::planned(&tree, &spec.quarantine.off)?,
            queues: guest::queues::found(&tree)?,
            apt_user: guest::fence::apt_user(&tree)?,
            network_mounts: guest::mounts::network_mounts(&tree)?
                .into_iter()
                .map(|entry| entry.file.display().to_string())
                .collect(),
            placed: filesystems::placed(&guest::mounts::fstab(&tree)?, &disks),
            neighbours: hypervisor.list().await?,
            spec: spec.clone(),
            hypervisor: hypervisor.clone(),
            clone_side: hypervisor.clone(),
            paths,
            platform,
            definition,
            disks,
            root,
        })
    }

    /// Adds the guests of the host that will run the clone.
    ///
    /// # Errors
    /// That platform does not answer.
    pub async fn look_around(&mut self) -> Result<(), Failure> {
        if Arc::ptr_eq(&self.hypervisor, &self.clone_side) {
            return Ok(());
        }
        for guest in self.clone_side.list().await? {
            if !self.neighbours.iter().any(|known| known.name == guest.name && known.uuid == guest.uuid) {
                self.neighbours.push(guest);
            }
        }
        Ok(())
    }

    fn root_volume<'a>(name: &str, disks: &'a [DiskFacts]) -> Result<&'a VolumeRef, Failure> {
        let refuse = |why: String| {
            Failure::new(exit::REFUSED, format!("find the root file system of {name}"))
                .cause(why)
                .help("upgradectl needs a root file system it can open on the host: a directory or a btrfs subvolume")
        };
        let disk =
            disks.iter().find(|disk| disk.disk.root).ok_or_else(|| refuse("its definition names none".to_owned()))?;
        disk.volume.as_ref().map_err(|why| refuse(why.clone()))
    }

    /// The volumes that are copied: disk name and source.
    pub fn cloned(&self) -> impl Iterator<Item = (&DiskFacts, &VolumeRef)> {
        self.disks
            .iter()
            .filter(|disk| disk.rule == DiskRule::Clone)
            .filter_map(|disk| Some((disk, disk.volume.as_ref().ok()?)))
    }

    /// How the copies of its disks stand to the disks, by the root's volume.
    ///
    /// # Errors
    /// There is no driver for that kind of volume on the host.
    pub fn copying(&self) -> Result<Copies, Failure> {
        match self.disks.iter().find(|disk| disk.disk.root).map(|disk| &disk.volume) {
            Some(Ok(volume)) => Ok(self.hypervisor.storage(volume.kind)?.copies()),
            _ => Ok(Copies::Trees),
        }
    }

    /// Chooses how large the copies are made, where that matters.
    ///
    /// # Errors
    /// The host's storage cannot be looked at.
    pub async fn size_copies(&mut self, strategy: Strategy) -> Result<(), Failure> {
        let policy = match (strategy, self.spec.clone.snapshot.size) {
            // Production is going to stand on it, or only it leads back.
            (Strategy::Origin | Strategy::InPlace, _) => Some(SizePolicy::Covering),
            (_, Some(Size::Bytes(bytes))) => Some(SizePolicy::Bytes(bytes)),
            (_, Some(Size::Percent(percent))) => Some(SizePolicy::PercentOrigin(percent)),
            (_, Some(Size::PercentUsed(percent))) => Some(SizePolicy::PercentUsed(percent)),
            (_, None) => None,
        };
        for disk in self.disks.iter_mut().filter(|disk| disk.rule == DiskRule::Clone) {
            if let Ok(volume) = &disk.volume {
                disk.sized = self.hypervisor.storage(volume.kind)?.size_snapshot(volume, policy).await?;
            }
        }
        Ok(())
    }

    /// Disks left with the original.
    pub fn detached(&self) -> impl Iterator<Item = &DiskFacts> {
        self.disks.iter().filter(|disk| disk.rule == DiskRule::Detach)
    }

    /// The address by which the guest is reached: the first static IPv4 address, else the first static one.
    pub fn primary(&self) -> Option<&OwnAddress> {
        self.addresses.iter().find(|own| own.ip.is_ipv4()).or_else(|| self.addresses.first())
    }
}

async fn list(hypervisor: &Arc<dyn Hypervisor>) -> String {
    match hypervisor.list().await {
        Ok(all) if !all.is_empty() => all.into_iter().map(|guest| guest.name).collect::<Vec<_>>().join(", "),
        _ => "none".to_owned(),
    }
}

/// Which card an interface of the guest's files is: by pinned MAC, by name, else by order.
fn addresses(interfaces: &[Interface], platform: &GuestFacts) -> Vec<OwnAddress> {
    let real: Vec<&Interface> =
        interfaces.iter().filter(|interface| interface.name != "lo" && !interface.name.contains(':')).collect();
    let card = |interface: &Interface| {
        let base = interface.name.split([':', '.']).next().unwrap_or_default();
        let by_mac = interface.mac.and_then(|mac| platform.nics.iter().position(|nic| nic.mac == Some(mac)));
        let by_name = || platform.nics.iter().position(|nic| nic.name.as_deref() == Some(base));
        let by_order = || {
            let position = real.iter().position(|other| other.name == base)?;
            (position < platform.nics.len()).then_some(position)
        };
        by_mac.or_else(by_name).or_else(by_order)
    };
    let mut all = Vec::new();
    for interface in interfaces.iter().filter(|interface| interface.name != "lo") {
        let nic = card(interface);
        for address in interface.addresses.iter().filter(|address| !link_local(address.ip)) {
            let own = OwnAddress {
                interface: interface.name.clone(),
                ip: address.ip,
                prefix: address.prefix,
                nic,
                via: nic.map(|nic| platform.nics[nic].bridge.clone()).unwrap_or_default(),
                mac: nic.and_then(|nic| platform.nics[nic].mac),
            };
            // Two systems may have files for one interface.
            match all.iter_mut().find(|known: &&mut OwnAddress| known.ip == own.ip) {
                Some(known) if known.nic.is_none() => *known = own,
                Some(_) => {}
                None => all.push(own),
            }
        }
    }
    all
}

/// An address that every machine has, or may have on every link.
pub(super) fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// The operating system as os-release(5) names it, and its code name.
pub(super) fn release(tree: &Tree) -> (String, String) {
    let text = ["etc/os-release", "usr/lib/os-release"]
        .into_iter()
        .find_map(|path| tree.read_text(Path::new(path)).ok().flatten())
        .unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        hypervisors::host::printable(line.unwrap_or_default().trim_matches('"'))
    };
    let name = match (value("ID").as_str(), value("VERSION_ID")) {
        ("debian", version) if !version.is_empty() => format!("Debian {version}"),
        _ if !value("PRETTY_NAME").is_empty() => value("PRETTY_NAME"),
        _ => "unknown system".to_owned(),
    };
    (name, value("VERSION_CODENAME"))
}
