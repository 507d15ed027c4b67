//! `clone` of a transfer: the server's file systems go into a tree of the host, live; the tree becomes a guest's, and the guest is defined.
//! A jail is left stopped; a container is upgraded from inside, so it starts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use hypervisors::jail::ifconfig::netmask;
use hypervisors::storage::Copies;
use hypervisors::{Definition, Mark, NewAddress, NewGuest, Role, VolumeKind, VolumeRef};

use super::{Facts, Transfer, container, parking, scratch};
use crate::engine::plan::PLACEHOLDER;
use crate::engine::{Plan, PlanStep, Stage, Undo};
use crate::guest::AddressChange;
use crate::inventory::values::{AddressTo, AddressWish, complete_ip};
use crate::inventory::{DiskRule, Strategy, Verb};
use crate::lifecycle::address::Addressing;
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::facts::release;
use crate::lifecycle::hooks::Hooks;
use crate::lifecycle::page::{Page, Row};
use crate::lifecycle::record::{RunDisk, RunFacts};
use crate::lifecycle::state::State;
use crate::steps::container::MakeRoot;
use crate::steps::net::Place;
use crate::steps::server::{Old, Server};
use crate::steps::transfer::Method;
use crate::steps::{Action, domain, jail, verify};

fn refused(guest: &str, why: impl Into<String>, place: &str, help: &str) -> Failure {
    Failure::new(exit::REFUSED, format!("choose an address for the clone of {guest}"))
        .cause(why.into())
        .place(place)
        .help(help)
}

fn refuse(facts: &Facts, why: impl Into<String>, place: &str, help: &str) -> Failure {
    refused(&facts.spec.name, why, place, help)
}

/// The clone's address, by the one wish there is.
pub(in crate::lifecycle) fn address(guest: &str, own: Ipv4Addr, wishes: &[AddressWish]) -> Result<IpAddr, Failure> {
    let refuse = |why: String, help: &str| refused(guest, why, "--ip", help);
    let help = "give one, such as --ip .113, or set clone.ip in the inventory";
    let wish = match wishes {
        [wish] => wish,
        [] => return Err(refuse("no address was given for the clone".to_owned(), help)),
        _ => return Err(refuse("it is cloned at one address".to_owned(), help)),
    };
    let ip = match &wish.to {
        AddressTo::Partial(tail) => complete_ip(tail, own).map(IpAddr::V4).map_err(|why| refuse(why, help))?,
        AddressTo::Full(ip) => *ip,
        AddressTo::Dhcp => return Err(refuse("its clone has a fixed address".to_owned(), help)),
    };
    match ip == IpAddr::V4(own) {
        true => Err(refuse(format!("{ip} is the original's own address"), "choose a free address")),
        false => Ok(ip),
    }
}

/// The interface of the host for an address, and the length of the prefix with which it is given: in a network where the host has an
/// address already, an alias stands for itself alone (ifconfig(8)).
fn carried(facts: &Facts, address: IpAddr) -> Result<(String, u8), Failure> {
    let near = |own: &hypervisors::jail::ifconfig::Configured| match (own.ip, address) {
        (IpAddr::V4(own_ip), IpAddr::V4(ip)) => {
            let mask = u32::from(netmask(own.prefix));
            own.prefix < 32 && u32::from(own_ip) & mask == u32::from(ip) & mask
        }
        (IpAddr::V6(own_ip), IpAddr::V6(ip)) => {
            let shift = 128 - u32::from(own.prefix);
            own.prefix < 128 && u128::from(own_ip).checked_shr(shift) == u128::from(ip).checked_shr(shift)
        }
        _ => false,
    };
    let alone = if address.is_ipv4() { 32 } else { 128 };
    let found = facts.host_interfaces.iter().find(|interface| interface.addresses.iter().any(near));
    if facts.linux.is_some() {
        return bridge(facts, found.map(|interface| interface.name.clone()));
    }
    let length = facts.home().map_or(alone, |(_, prefix)| if address.is_ipv4() { prefix } else { alone });
    let place = format!("guests.{}.clone in the inventory", facts.spec.name);
    match (&facts.spec.clone.interface, found) {
        (Some(name), _) => match facts.host_interfaces.iter().find(|interface| interface.name == *name) {
            Some(interface) => Ok((name.clone(), if interface.addresses.iter().any(near) { alone } else { length })),
            None => {
                let names: Vec<&str> = facts.host_interfaces.iter().map(|interface| interface.name.as_str()).collect();
                Err(refuse(
                    facts,
                    format!("{} has no interface {name}", facts.spec.host),
                    &place,
                    &format!("its interfaces: {}", names.join(", ")),
                ))
            }
        },
        (None, Some(interface)) => Ok((interface.name.clone(), alone)),
        (None, None) => Err(refuse(
            facts,
            format!("no interface of {} is in a network with {address}", facts.spec.host),
            &place,
            "name the interface that shall carry it: clone = { interface = \"em0\" }",
        )),
    }
}

/// The bridge of this machine that a container's card is put into.
fn bridge(facts: &Facts, found: Option<String>) -> Result<(String, u8), Failure> {
    let is_bridge = |name: &str| Path::new("/sys/class/net").join(name).join("bridge").is_dir();
    let place = format!("guests.{}.clone in the inventory", facts.spec.name);
    let help = "name the bridge: clone = { interface = \"br0\" }";
    match facts.spec.clone.interface.clone().or(found) {
        Some(name) if is_bridge(&name) => Ok((name, facts.home().map_or(32, |(_, prefix)| prefix))),
        Some(name) => Err(refuse(facts, format!("{name} of {} is no bridge", facts.spec.host), &place, help)),
        None => Err(refuse(facts, format!("no bridge of {} is in its network", facts.spec.host), &place, help)),
    }
}

/// What is remembered of a run that this plan begins, with `GUEST--RUN` for its id.
///
/// # Errors
/// An address that does not fit.
pub fn record(facts: &Facts, wishes: &[AddressWish], state: &Path, control_dir: &Path) -> Result<RunFacts, Failure> {
    let name = &facts.spec.name;
    let run = format!("{name}--{PLACEHOLDER}");
    let run_dir = state.join("runs").join(&run);
    let (new, old) = (address(name, facts.address, wishes)?, IpAddr::V4(facts.address));
    let (interface, prefix) = carried(facts, new)?;
    let root = facts.trees.join(&run);
    let container = container::record(facts, &run, &root)?;
    let card = |server: bool| container.as_ref().and_then(|own| if server { own.server_mac } else { Some(own.mac) });
    let place = |address, server| Place { address, via: interface.clone(), mac: card(server) };
    let (home, home_prefix) = facts.home().map(|(home, prefix)| (home.clone(), prefix)).unzip();
    // The primary one first: it goes over, and so do the others of its interface.
    let mut given_up: Vec<Old> =
        home.iter().flat_map(|home| &home.addresses).map(|own| Old { ip: own.ip, prefix: own.prefix }).collect();
    given_up.sort_by_key(|own| own.ip != old);
    let original = facts.link(name, old, run_dir.join("known_hosts.original"), control_dir);
    let parked = match facts.declared.parking {
        Some(IpAddr::V4(ip)) => Some(parking::place(ip, facts.address, home_prefix.unwrap_or(24), facts.gateway)),
        _ => None,
    };
    let server = Server {
        host: facts.spec.host.clone(),
        source: original.clone(),
        container: container.as_ref().map(|own| own.uuid.clone()),
        // By the same keys: the name under which they are known stays.
        parking: parked.map(|parking| hypervisors::GuestLink { address: IpAddr::V4(parking.ip), ..original.clone() }),
        run: run.clone(),
    };
    let changes = given_up.iter().map(|own| AddressChange {
        interface: home.as_ref().map(|home| home.name.clone()).unwrap_or_default(),
        old: own.ip,
        new: (own.ip == old).then_some(new),
    });
    Ok(RunFacts {
        strategy: Strategy::Transfer,
        copying: Copies::Trees,
        host: facts.spec.host.clone(),
        production_on: None,
        clone_on: None,
        definition: String::new(),
        disks: vec![RunDisk {
            name: "/".to_owned(),
            root: true,
            rule: DiskRule::Clone,
            source: None,
            target: Some(match &container {
                Some(own) => own.volume.clone(),
                None => VolumeRef { kind: VolumeKind::Directory, path: root.clone() },
            }),
            source_there: None,
            target_there: None,
        }],
        addressing: Addressing {
            changes: changes.collect(),
            macs: BTreeMap::new(),
            by_card: Vec::new(),
            original: old,
            clone: new,
            dhcp: Vec::new(),
            by: None,
            original_places: given_up.iter().map(|own| place(own.ip, true)).collect(),
            clone_places: vec![place(new, false)],
        },
        clone: facts.link(&run, new, run_dir.join("known_hosts"), control_dir),
        original,
        quarantined: Vec::new(),
        fenced: false,
        hostname: facts.hostname.clone(),
        codename: facts.linux.as_ref().map_or_else(|| facts.source.release.clone(), |linux| release(&linux.tree).1),
        run_dir,
        verification: None,
        unproven: None,
        boot_s: None,
        transfer: Some(Box::new(Transfer {
            scratch: scratch(&facts.trees, &run),
            root,
            interface,
            prefix,
            server,
            server_interface: home.map(|home| home.name).unwrap_or_default(),
            old: given_up,
            parking: parked,
            release: facts.source.release.clone(),
            container,
        })),
        machine: None,
    })
}

/// The jail that the tree becomes: at the clone's address, or at the server's.
///
/// # Errors
/// Nothing is remembered of the transfer.
pub fn guest(record: &RunFacts, promoted: bool) -> Result<NewGuest, Failure> {
    let run = record.transferred()?;
    let address = |ip| NewAddress { interface: Some(run.interface.clone()), ip, prefix: run.prefix };
    let alone = |ip: IpAddr| if ip.is_ipv4() { run.prefix } else { 128 };
    Ok(match promoted {
        true => NewGuest {
            name: record.original.name.clone(),
            root: run.root.clone(),
            hostname: record.hostname.clone(),
            addresses: run.old.iter().map(|own| NewAddress { prefix: alone(own.ip), ..address(own.ip) }).collect(),
            mark: Some(Mark { run: record.clone.name.clone(), role: Role::Production }),
            container: container::particulars(run),
        },
        false => NewGuest {
            name: record.clone.name.clone(),
            root: run.root.clone(),
            hostname: record.hostname.clone(),
            addresses: vec![address(record.addressing.clone)],
            mark: Some(Mark { run: record.clone.name.clone(), role: Role::Clone }),
            container: container::particulars(run),
        },
    })
}

/// The plan, with `GUEST--RUN` for the run's id. `moves`, `adapts`: how the file systems go over, and what becomes of them there.
///
/// # Errors
/// Nothing is remembered of the transfer.
pub fn plan(
    facts: &Facts,
    record: &RunFacts,
    definition: Definition,
    moves: Vec<PlanStep>,
    adapts: Vec<PlanStep>,
) -> Result<(Plan, Page), Failure> {
    let run = record.transferred()?;
    let host = record.host.clone();
    let hooks = Hooks::of(&facts.spec, record);
    let mut steps = hooks.before(Verb::Clone);
    let baseline = verify::TakeBaseline::new(&host, &record.original, &record.hostname, &facts.spec.checks);
    steps.push(PlanStep::new(Stage::Announce, baseline, 5.0).undo(Undo::Nothing));
    let (name, scratch) = (record.clone.name.clone(), run.scratch.clone());
    let tree: Action = match &run.container {
        Some(own) => MakeRoot { host: host.clone(), run: name, volume: own.volume.clone(), scratch }.into(),
        None => jail::MakeTree {
            host: host.clone(),
            run: name,
            root: run.root.clone(),
            scratch,
            dataset: dataset(facts, record),
            of: None,
        }
        .into(),
    };
    steps.push(PlanStep::new(Stage::Duplicate, tree, 0.5));
    steps.extend(moves);
    steps.extend(hooks.with_volumes());
    steps.extend(adapts.into_iter().map(|step| step.undo(Undo::WithClone)));
    let define = domain::Define { host, definition, replaces: None, disks_before: BTreeMap::new() };
    steps.push(PlanStep::new(Stage::Define, define, 0.5));
    if run.container.is_some() {
        steps.extend(container::come_up(record));
    }
    steps.extend(hooks.after(Verb::Clone));
    let plan =
        Plan { failure_closes: true, ..record.plan("clone", [State::Cloning, State::Cloned, State::Aborted], steps) };
    Ok((plan, page(facts, record, run)))
}

/// The dataset that the jail's tree is.
fn dataset(facts: &Facts, record: &RunFacts) -> Option<String> {
    facts.dataset.as_ref().map(|jails| format!("{jails}/{}", record.clone.name))
}

fn page(facts: &Facts, record: &RunFacts, run: &Transfer) -> Page {
    let name = &facts.spec.name;
    let mut page = Page::new(match &facts.linux {
        None => format!(
            "Transfer {name} into a jail ({}, FreeBSD {} under {}).",
            facts.spec.host, facts.source.release, facts.host_release
        ),
        Some(linux) => {
            let by = if facts.method() == Method::Dump { "dump" } else { "rsync" };
            format!("Transfer {name} into a container ({}, {}) by {by}.", facts.spec.host, release(&linux.tree).0)
        }
    });
    page.sides.push(vec![
        "original".into(),
        record.addressing.original.to_string(),
        run.server_interface.clone(),
        "keeps serving".into(),
    ]);
    page.sides.push(vec![
        "clone".into(),
        record.addressing.shown(),
        run.interface.clone(),
        if run.container.is_some() { "a container, quarantined" } else { "a jail, left stopped" }.into(),
    ]);
    let moved = facts.moved();
    for one in &facts.source.filesystems {
        let point = one.mount.display().to_string();
        let what = format!("{} ({}, {} MiB used)", one.device, one.kind, one.used_bytes.div_ceil(1 << 20));
        let becomes = if moved.contains(&one.mount) { "goes over" } else { "stays with the server" };
        page.disks.push(vec![point, what, becomes.into()]);
    }
    let dataset = dataset(facts, record).map(|name| format!(", the dataset {name}")).unwrap_or_default();
    page.rows.push(Row::new("tree", format!("{} on {}{dataset}", run.root.display(), facts.spec.host)));
    if let Some(parking) = &run.parking {
        page.rows
            .push(Row::new("parking", format!("the server goes to {} when the clone takes its place", parking.ip)));
    }
    page
}
