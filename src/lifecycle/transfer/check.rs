//! What is refused before a transfer touches anything, each with its remedy.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hypervisors::Host;
use hypervisors::host::Command;
use hypervisors::jail::ifconfig::Interface;
use hypervisors::transfer::System;

use super::{Facts, Transfer};
use crate::inventory::DiskRule;
use crate::lifecycle::error::Failure;
use crate::lifecycle::preflight::Findings;
use crate::lifecycle::record::RunFacts;
use crate::steps::server;
use crate::steps::transfer::Method;

/// What `clone` looks at.
///
/// # Errors
/// A machine cannot be asked; what is found wrong is a finding.
pub async fn for_clone(
    facts: &Facts,
    record: &RunFacts,
    run: &Transfer,
    findings: &mut Findings,
) -> Result<(), Failure> {
    way_back(facts, findings);
    server_is_fit(facts, findings);
    filesystems(facts, findings);
    host_is_fit(facts, findings);
    names(facts, record, findings);
    super::container::check(facts, run, findings).await?;
    let host = facts.hypervisor.host();
    let install = if facts.linux.is_some() { "apt install" } else { "pkg install" };
    if facts.method() == Method::Rsync {
        let why = ["method", "which copies by rsync need on both sides", install];
        all_have([&*host, &*facts.server], "rsync", why, findings).await?;
    }
    if !facts.spec.carry.is_empty() {
        let why = ["carry", "which carry rules need on both sides", install];
        all_have([&*host, &*facts.server], "rsync", why, findings).await?;
    }
    // A container's host is this machine: who answers is asked on the bridge itself.
    let via = run.container.as_ref().map(|_| run.interface.as_str());
    free(facts, via, record.addressing.clone, "--ip", findings).await?;
    if let Some(parking) = &run.parking {
        let place = format!("guests.{}.source.parking", facts.spec.name);
        free(facts, via, IpAddr::V4(parking.ip), &place, findings).await?;
    }
    Ok(())
}

/// A program that machines need for what `id` says.
pub(in crate::lifecycle) async fn all_have(
    machines: [&dyn Host; 2],
    program: &str,
    [id, why, how]: [&str; 3],
    findings: &mut Findings,
) -> Result<(), Failure> {
    for machine in machines {
        let command = Command::new(["sh", "-c", "command -v \"$1\"", "sh", program]);
        if machine.run(&command).await?.status != 0 {
            let why = format!("{} has no {program}, {why}", machine.name());
            findings.refuse(id, why, format!("install it there: {how} {program}"));
        }
    }
    Ok(())
}

/// Without one of the two, a promotion could not be taken back.
fn way_back(facts: &Facts, findings: &mut Findings) {
    match (facts.declared.parking, facts.declared.console) {
        (None, false) => findings.refuse(
            "parking",
            "after promotion the server could not be reached: it has neither a parking address nor a console",
            "source = { …, parking = \"an address for it after promotion\" }, or console = true if you can get at its console",
        ),
        (Some(IpAddr::V6(ip)), _) => {
            findings.refuse("parking", format!("{ip} is an IPv6 address"), "give it an IPv4 address to be parked at");
        }
        (Some(ip), _) if ip == IpAddr::V4(facts.address) => {
            findings.refuse("parking", format!("{ip} is the server's production address"), "choose another one");
        }
        (Some(ip), _) if !listens(facts, ip) => findings.refuse(
            "parking",
            format!("the server could not be reached at {ip}: its sshd listens on {} alone", facts.sshd.iter().flatten().cloned().collect::<Vec<_>>().join(", ")),
            "take ListenAddress out of its sshd_config, or reach it at its console: console = true instead of parking",
        ),
        (Some(ip), _) => findings.pass("parking", format!("the server goes to {ip} at promotion")),
        (None, true) => findings.warn("parking", "rollback needs somebody at the server's console"),
    }
}

/// Whether the server's sshd would answer at an address that it gets later, as far as that can be told.
fn listens(facts: &Facts, ip: IpAddr) -> bool {
    let any =
        |address: &String| matches!(address.as_str(), "*" | "0.0.0.0" | "[::]" | "::") || *address == ip.to_string();
    facts.sshd.as_ref().is_none_or(|addresses| addresses.is_empty() || addresses.iter().any(any))
}

fn server_is_fit(facts: &Facts, findings: &mut Findings) {
    let name = &facts.spec.name;
    let jail = facts.hypervisor.platform() == "jail";
    if jail && facts.source.system != System::Freebsd {
        findings.refuse(
            "source",
            format!("{name} runs no FreeBSD: it cannot become a jail"),
            "let it become a container: host = \"…\", one with hypervisor = \"libvirt\"",
        );
    }
    if !jail && facts.source.system != System::Linux {
        findings.refuse(
            "source",
            format!("{name} runs no Linux: it cannot become a container"),
            "let it become a jail: host = \"…\", one with hypervisor = \"jail\"",
        );
    }
    let Some((home, _)) = facts.home() else {
        findings.refuse(
            "address",
            format!("{} is no address of {name} itself, as it shows them", facts.address),
            "give the server's own address in source.ssh, not one that is translated to it",
        );
        return;
    };
    let others: Vec<String> = facts
        .interfaces
        .iter()
        .filter(|interface| interface.name != home.name)
        .flat_map(|interface| interface.addresses.iter().map(move |own| format!("{} on {}", own.ip, interface.name)))
        .filter(|text| !text.starts_with("127.") && !text.starts_with("::1 "))
        .collect();
    if !others.is_empty() {
        findings.warn("address", format!("stays with the server after promotion, too: {}", others.join(", ")));
    }
    if facts.method() == Method::Rsync {
        if facts.declared.compress || facts.declared.bandwidth.is_some() {
            findings.warn("method", "compress and bandwidth have no effect on a copy by rsync");
        }
    } else if facts.source.dump.is_none() {
        findings.refuse("dump", format!("{name} has no dump"), "install it there (FreeBSD has it in its base system)");
    }
    if facts.host_keys.is_empty() {
        findings.refuse(
            "host_keys",
            format!("{name} has no readable ssh host keys in /etc/ssh"),
            "let its sshd make some",
        );
    }
}

/// Every file system of the server is either moved or declared to stay.
fn filesystems(facts: &Facts, findings: &mut Findings) {
    let moved = facts.moved();
    let known = |point: &Path| facts.source.filesystems.iter().find(|one| one.mount == point);
    if moved.first().is_none_or(|first| first != Path::new("/")) {
        findings.refuse(
            "filesystems",
            "the root file system is not among those that go over",
            "filesystems = [\"/\", …]",
        );
    }
    for point in &moved {
        match known(point) {
            None => findings.refuse(
                "filesystems",
                format!("{} is no file system of {}", point.display(), facts.spec.name),
                format!("mounted there: {}", listed(facts.source.filesystems.iter().map(|one| &one.mount))),
            ),
            Some(one) if !facts.copies(one) => findings.refuse(
                "filesystems",
                format!("{} is {}, which dump does not read", point.display(), one.kind),
                format!("leave it with the server: disks = {{ {:?} = \"detach\" }}", point.display().to_string()),
            ),
            Some(_) => {}
        }
    }
    let stays = |point: &Path| facts.spec.disks.get(&point.to_string_lossy().into_owned()) == Some(&DiskRule::Detach);
    let undecided =
        facts.source.filesystems.iter().map(|one| &one.mount).filter(|point| !moved.contains(point) && !stays(point));
    let undecided = listed(undecided);
    if undecided.is_empty() {
        findings.pass("filesystems", format!("{} go over", listed(moved.iter())));
    } else {
        findings.refuse(
            "filesystems",
            format!("it is not said what becomes of {undecided}"),
            "add it to filesystems, or leave it with the server: disks = { \"/…\" = \"detach\" }",
        );
    }
}

fn listed<'a>(points: impl Iterator<Item = &'a PathBuf>) -> String {
    points.map(|point| point.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn host_is_fit(facts: &Facts, findings: &mut Findings) {
    let host = &facts.spec.host;
    let number = |release: &str| -> Option<(u32, u32)> {
        let mut parts = release.split('-').next()?.split('.');
        Some((parts.next()?.parse().ok()?, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
    };
    match (number(&facts.source.release), number(&facts.host_release)) {
        // Linux programs rest on no kernel of their age.
        _ if facts.linux.is_some() => {}
        (Some(server), Some(own)) if server > own => findings.refuse(
            "release",
            format!("the server's {} is newer than the kernel of {host}, {}", facts.source.release, facts.host_release),
            format!("upgrade {host} first: a jail cannot be newer than its host's kernel"),
        ),
        (Some(_), Some(_)) => {
            findings.pass("release", format!("{} under {}", facts.source.release, facts.host_release))
        }
        _ => {
            findings.warn("release", format!("{} and {} cannot be compared", facts.source.release, facts.host_release))
        }
    }
    let used: u64 = facts
        .moved()
        .iter()
        .filter_map(|point| facts.source.filesystems.iter().find(|one| one.mount == *point))
        .map(|one| one.used_bytes)
        .sum();
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match &facts.space {
        None => findings.refuse(
            "trees",
            format!("{host} has no directory {}", facts.trees.display()),
            "make it, or mend its name in [hosts]",
        ),
        Some(space) if space.free_bytes < used + used / 10 => findings.refuse(
            "space",
            format!(
                "{} MiB are in use on the server, {} MiB are free in {}",
                mib(used),
                mib(space.free_bytes),
                facts.trees.display()
            ),
            "make room there (a tenth more than what is in use), or leave a file system with the server",
        ),
        Some(space) => findings.pass("space", format!("{} MiB of {} MiB free", mib(used), mib(space.free_bytes))),
    }
}

fn names(facts: &Facts, record: &RunFacts, findings: &mut Findings) {
    let name = &facts.spec.name;
    let jail = facts.linux.is_none();
    if jail && (name.contains('.') || name.bytes().all(|byte| byte.is_ascii_digit())) {
        findings.refuse(
            "name",
            format!("a jail cannot be called {name}"),
            "name the guest without a dot, and not by a number alone",
        );
    }
    if facts.neighbours.iter().any(|other| other.name == *name) {
        findings.refuse(
            "name",
            format!("{} has a guest called {name}", facts.spec.host),
            "give the guest another name in the inventory",
        );
    }
    let vnet: Vec<&str> = facts.neighbours.iter().filter(|jail| jail.vnet).map(|jail| jail.name.as_str()).collect();
    if !vnet.is_empty() {
        // Whether it has one of ours is seen by asking for it.
        let why =
            format!("vnet, left alone: {} of {} (addresses set within are not read)", vnet.join(", "), facts.spec.host);
        findings.warn("vnet", why);
    }
    let ours = [Some(record.addressing.clone), Some(record.addressing.original)];
    for other in &facts.neighbours {
        let taken = other.nics.iter().flat_map(|nic| &nic.addresses).find(|ip| ours.contains(&Some(**ip)));
        if let Some(ip) = taken {
            findings.refuse(
                "address",
                format!("{ip} is an address of the guest {}", other.name),
                "choose a free address",
            );
        }
    }
}

/// An address that nobody has yet.
async fn free(
    facts: &Facts,
    via: Option<&str>,
    address: IpAddr,
    place: &str,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let Some(via) = via else {
        return unanswered(&*facts.hypervisor.host(), &facts.host_interfaces, address, place, findings).await;
    };
    if carries(&facts.host_interfaces, address) {
        findings.refuse("address", format!("{address} is an address of {} itself", facts.spec.host), choose(place));
        return Ok(());
    }
    match facts.hypervisor.net().owner(address, via).await? {
        Some(mac) => taken(&facts.spec.host, address, &mac.to_string(), place, findings),
        None => findings.pass("address", format!("nobody answers for {address}")),
    }
    Ok(())
}

fn carries(interfaces: &[Interface], address: IpAddr) -> bool {
    interfaces.iter().flat_map(|interface| &interface.addresses).any(|own| own.ip == address)
}

fn choose(place: &str) -> String {
    format!("choose a free one ({place})")
}

fn taken(host: &str, address: IpAddr, said: &str, place: &str, findings: &mut Findings) {
    findings.refuse("address", format!("{address} is taken, as {host} sees it: {said}"), choose(place));
}

/// An address that is not one of a host's and that nobody on its links answers for, as that host sees it.
///
/// # Errors
/// The host cannot be asked.
pub(in crate::lifecycle) async fn unanswered(
    host: &dyn Host,
    interfaces: &[Interface],
    address: IpAddr,
    place: &str,
    findings: &mut Findings,
) -> Result<(), Failure> {
    if carries(interfaces, address) {
        findings.refuse("address", format!("{address} is an address of {} itself", host.name()), choose(place));
        return Ok(());
    }
    match server::answers(host, address).await.map_err(super::tree::told)? {
        Some(said) => taken(host.name(), address, &said, place, findings),
        None => findings.pass("address", format!("nobody answers for {address}")),
    }
    Ok(())
}
