//! What is a container's in a transfer: a Linux server's files, brought here to be planned on; its definition, its tree, its identity, and
//! what the server's network configuration becomes while it is parked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hypervisors::host::{Command, LocalHost};
use hypervisors::{Host, MacAddr, NewContainer};
use sha2::{Digest, Sha256};

use super::{Container, Facts, Transfer};
use crate::engine::{Op, PlanStep, Stage, Undo};
use crate::guest::far::{self, Wanted};
use crate::guest::{self, AddressChange, CloneSpec, FileEdit, Tree};
use crate::inventory::DiskRule;
use crate::lifecycle::back::Past;
use crate::lifecycle::clone::{machine_id, settle, uuid};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::preflight::Findings;
use crate::lifecycle::record::RunFacts;
use crate::steps::{Action, StepRef, World, container, domain, files, queues};

/// Memory of a container whose clone has none declared, in bytes: a limit, not a reservation.
const MEMORY: u64 = 2 << 30;

/// A Linux server, as far as a container made of it is concerned.
#[derive(Debug)]
pub struct Linux {
    /// Its configuration, as it is now.
    pub tree: Tree,
    /// Hardware address of the card that has its address.
    pub mac: Option<MacAddr>,
    /// Why that card cannot be a container's, if so.
    pub odd: Option<&'static str>,
    /// This machine has a restore(8).
    pub restores: bool,
}

/// Arguments: interface. What it is, if it is no plain card, and its hardware address.
const CARD: &str = "d=/sys/class/net/$1; if test -d \"$d/bridge\"; then echo bridge; elif test -d \"$d/bonding\"; then echo bond; \
    elif test -e \"/proc/net/vlan/$1\"; then echo VLAN; else echo card; fi; cat \"$d/address\"";

impl Linux {
    /// Looks at a server. `home`: the interface that has its address.
    ///
    /// # Errors
    /// It cannot be asked; its configuration cannot be read.
    pub async fn look(server: &dyn Host, home: Option<&str>) -> Result<Self, Failure> {
        let paths = guest::container::wanted()?;
        let there = far::fetch(server, Path::new("/"), Wanted { paths: &paths, ..Wanted::default() }).await;
        let there = there.map_err(|error| super::tree::told(error.into()))?;
        let mut odd = None;
        let mut mac = None;
        if let Some(home) = home {
            let command = Command::new(["sh", "-c", CARD, "sh", home]);
            let text = server.run(&command).await?.checked("look at the server's card", &command)?.text();
            let mut lines = text.lines();
            odd = match lines.next() {
                Some("bridge") => Some("a bridge"),
                Some("bond") => Some("a bond"),
                Some("VLAN") => Some("a VLAN"),
                _ => None,
            };
            mac = lines.next().and_then(|line| line.trim().parse().ok());
        }
        let command = Command::new(["sh", "-c", "PATH=$PATH:/sbin:/usr/sbin; command -v restore"]);
        let restores = LocalHost::new("controller").run(&command).await?.status == 0;
        Ok(Self { tree: there.tree, mac, odd, restores })
    }

    /// What its files configure as a fixed address: the interface.
    fn configures(&self, address: IpAddr) -> Result<Option<String>, Failure> {
        let all = guest::network::inspect(&self.tree)?;
        let has = |one: &guest::Interface| one.addresses.iter().any(|own| own.ip == address);
        Ok(all.into_iter().find(has).map(|one| one.name))
    }
}

/// What is refused of a server that becomes a container.
///
/// # Errors
/// Its files cannot be understood.
pub async fn check(facts: &Facts, run: &Transfer, findings: &mut Findings) -> Result<(), Failure> {
    let (Some(linux), Some(_)) = (&facts.linux, &run.container) else { return Ok(()) };
    let name = &facts.spec.name;
    let address = IpAddr::V4(facts.address);
    match linux.configures(address)? {
        Some(_) => findings.pass("address", format!("{address} is a fixed address of {name}")),
        None => findings.refuse(
            "address",
            format!("{address} does not stand in the network configuration of {name} as a fixed address"),
            format!("give it a fixed one ({} are understood)", guest::network::UNDERSTOOD),
        ),
    }
    if let Some(odd) = linux.odd {
        findings.refuse(
            "address",
            format!("{name} has its address on {odd} ({}), and a container has a card alone", run.server_interface),
            "give the address to a plain card first",
        );
    }
    if !guest::container::has_systemd(&linux.tree)? {
        findings.refuse(
            "services",
            format!("{name} does not start by systemd: its services could not be stopped for certain at promotion"),
            "put systemd on it, or move its services by hand",
        );
    }
    let stays =
        |point: &PathBuf| facts.spec.disks.get(&point.to_string_lossy().into_owned()) == Some(&DiskRule::Detach);
    for mount in guest::container::network_mounts(&linux.tree)?.iter().filter(|mount| !stays(mount)) {
        findings.refuse(
            "network_mounts",
            format!("{} is mounted from the network, which a container does not do", mount.display()),
            format!("leave it with the server: disks = {{ {:?} = \"detach\" }}", mount.display().to_string()),
        );
    }
    if let Some(parking) = &run.parking
        && let Some((_, prefix)) = facts.home()
        && !near(parking.ip.to_bits(), facts.address.to_bits(), prefix)
    {
        findings.refuse(
            "parking",
            format!("{} is in another network than {name}, whose files say how its own is reached", parking.ip),
            "park it in its own network",
        );
    }
    if facts.spec.clone.network != crate::inventory::NetworkRule::Open {
        findings.refuse("network", "a server's clone cannot be fenced yet", "leave clone.network out");
    }
    for (path, what) in [("etc/default/grub", "a boot loader"), ("etc/initramfs-tools", "an initramfs")] {
        if linux.tree.exists(Path::new(path))? {
            findings.warn("kernel", format!("{name} has packages for {what}: what a container does not need can make its upgrade fail; remove them by a hook (at = \"before-upgrade\")"));
            break;
        }
    }
    Ok(())
}

fn near(one: u32, other: u32, prefix: u8) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    one & mask == other & mask
}

/// What is remembered of the container that a server becomes.
///
/// # Errors
/// The directory of trees cannot be looked at.
pub fn record(facts: &Facts, run: &str, root: &Path) -> Result<Option<Container>, Failure> {
    let Some(linux) = &facts.linux else { return Ok(None) };
    let kind = hypervisors::storage::fresh(&facts.trees)?;
    // libvirt's own prefix of containers and others.
    let hash = Sha256::digest(format!("{} {:?}", facts.spec.name, facts.address).as_bytes());
    let mac = match facts.spec.clone.mac {
        crate::inventory::MacRule::Fixed(mac) => mac,
        _ => MacAddr([0x52, 0x54, 0, hash[0], hash[1], hash[2]]),
    };
    Ok(Some(Container {
        volume: hypervisors::VolumeRef { kind, path: root.to_owned() },
        uuid: uuid(run),
        mac,
        server_mac: linux.mac,
        memory_bytes: facts.spec.clone.memory_bytes.unwrap_or(MEMORY),
    }))
}

/// What its definition says of a container; `None`: it is a jail's.
pub fn particulars(run: &Transfer) -> Option<NewContainer> {
    let own = run.container.as_ref()?;
    Some(NewContainer {
        uuid: own.uuid.clone(),
        card: run.server_interface.clone(),
        mac: own.mac,
        memory_bytes: own.memory_bytes,
    })
}

/// What its tree needs to be a container's, and the clone's own; the units that are switched off in it.
///
/// # Errors
/// Files that are not understood.
pub fn adapts(facts: &Facts, record: &RunFacts) -> Result<(Vec<PlanStep>, Vec<String>), Failure> {
    let run = record.transferred()?;
    let (Some(linux), Some(own)) = (&facts.linux, &run.container) else { return Ok((Vec::new(), Vec::new())) };
    let host = record.host.clone();
    let volume = own.volume.clone();
    let tree = &linux.tree;
    let shown = |edits: &[FileEdit]| edits.iter().map(guest::diff).collect::<String>();
    let macs: BTreeMap<String, MacAddr> = own.server_mac.iter().map(|mac| (mac.to_string(), own.mac)).collect();
    let contained = guest::container::plan(tree, &macs)?;
    let quarantine = guest::quarantine::planned(tree, &facts.spec.quarantine.off)?;
    // The copy is this machine's own: what is planned first is there for what is planned next.
    guest::apply(tree, &contained)?;
    let spec = CloneSpec {
        addresses: record.addressing.changes.clone(),
        hostname: facts.spec.clone.hostname.clone(),
        quarantine: facts.spec.quarantine.off.clone(),
        machine_id: machine_id(&record.clone.name),
        ..CloneSpec::default()
    };
    let edits = guest::clone_edits(tree, &spec)?;
    let mut needles: Vec<String> = record.addressing.changes.iter().map(|change| change.old.to_string()).collect();
    needles.extend(spec.hostname.as_ref().filter(|new| **new != record.hostname).map(|_| record.hostname.clone()));
    let whole = container::WholeRoot { host: host.clone(), run: record.clone.name.clone(), volume: volume.clone() };
    let contain = container::Contain {
        host: host.clone(),
        volume: volume.clone(),
        macs,
        expected: files::expected(&contained),
        diff: shown(&contained),
    };
    let rewrite = files::Rewrite {
        host: host.clone(),
        volume: volume.clone(),
        spec,
        files: edits.len(),
        expected: files::expected(&edits),
        diff: shown(&edits),
        needles,
    };
    let aside = queues::SetAside { host, volume };
    let steps = vec![
        PlanStep::new(Stage::Duplicate, whole, 1.0),
        PlanStep::new(Stage::Adapt, contain, 0.5),
        PlanStep::new(Stage::Adapt, rewrite, 1.0),
        PlanStep::new(Stage::Adapt, aside, 1.0),
    ];
    let units = quarantine.units.into_iter().map(|held| held.unit).collect();
    Ok((steps, units))
}

/// The container starts, in quarantine.
pub fn come_up(record: &RunFacts) -> Vec<PlanStep> {
    let (host, guest) = (record.host.clone(), record.clone.name.clone());
    let start = domain::Start { host: host.clone(), guest, patience_s: 20, force: true };
    vec![
        PlanStep::new(Stage::Start, start, 2.0),
        PlanStep::new(Stage::Settle, settle(&host, &record.clone), 10.0).undo(Undo::Nothing),
    ]
}

/// What gives the container the server's identity, and what is to be told of it.
///
/// # Errors
/// The clone's own changes are not in the journal; the upgrade and they disagree.
pub async fn identity(
    record: &RunFacts,
    own: &Container,
    pasts: &[Past],
    world: &World,
) -> Result<(Action, Vec<String>), Failure> {
    let steps = pasts
        .iter()
        .flat_map(|past| past.plan.steps.iter().enumerate().map(move |(index, step)| (past.id, index, step)));
    let rewrite = steps
        .filter(|(_, _, step)| matches!(&step.op, Op::Do(Action::Rewrite(_))))
        .map(|(plan, index, _)| StepRef { plan, index })
        .next()
        .ok_or_else(|| Failure::new(exit::JOURNAL, "find what clone changed in the server's files"))?;
    let recorded = files::Restore::recorded(world, rewrite).map_err(super::tree::told)?;
    let storage = world.hypervisor(&record.host).map_err(super::tree::told)?.storage(own.volume.kind)?;
    let opened = storage.open(&own.volume, hypervisors::storage::Access::Glance).await?;
    let restored = guest::restore::restore_edits(&Tree::open(opened.path())?, &recorded)?;
    let restore = files::Restore {
        host: record.host.clone(),
        volume: own.volume.clone(),
        rewrite,
        expected: files::expected(&restored.edits),
        diff: restored.edits.iter().map(guest::diff).collect(),
    };
    Ok((restore.into(), restored.notes))
}

/// What the server's network configuration becomes while it is parked, and the difference.
///
/// # Errors
/// It cannot be read, or not be understood.
pub async fn parked(server: &dyn Host, run: &Transfer) -> Result<(Vec<FileEdit>, String), Failure> {
    let places = ["etc/network", "etc/netplan", "etc/systemd/network", "usr/lib/systemd/network"];
    let red_hat = ["etc/sysconfig/network", "etc/sysconfig/network-scripts", "etc/NetworkManager/system-connections"];
    let paths: Vec<PathBuf> = places.iter().chain(&red_hat).map(PathBuf::from).collect();
    let there = far::fetch(server, Path::new("/"), Wanted { paths: &paths, ..Wanted::default() }).await;
    let there = there.map_err(|error| super::tree::told(error.into()))?;
    let primary = run.old.first().map(|old| old.ip);
    let parking = run.parking.as_ref().map(|parking| IpAddr::V4(parking.ip));
    let change = |old: &crate::steps::server::Old| AddressChange {
        interface: run.server_interface.clone(),
        old: old.ip,
        new: parking.filter(|_| Some(old.ip) == primary),
    };
    let edits = guest::network::moved(&there.tree, run.old.iter().map(change).collect())?;
    let diff = edits.iter().map(guest::diff).collect();
    Ok((edits, diff))
}
