//! A guest or its clone on another host than the one that holds its volumes: what is looked at before anything is touched,
//! and the step that sees a new volume there before anybody runs on it.
//!
//! The other host has to see the same volumes, to have the same bridges on the same links, and the same toolstack. None of it
//! is taken on the inventory's word.

use std::path::Path;
use std::sync::Arc;

use hypervisors::host::Command;
use hypervisors::storage::Copies;
use hypervisors::{Bridged, Hypervisor, Sight, VolumeRef};

use super::error::Failure;
use super::facts::Facts;
use super::preflight::Findings;
use super::record::RunFacts;
use crate::engine::{PlanStep, Stage, Undo};
use crate::inventory::Strategy;
use crate::steps::visible::Visible;

/// How long another host may take to notice a volume that was just exported, in seconds.
const PATIENCE_S: u64 = 60;

/// Sees that a host has volumes that another holds; nothing, where it is the same host and they have the same paths.
pub fn visible<'a>(record: &RunFacts, on: &str, volumes: impl Iterator<Item = &'a VolumeRef>) -> Option<PlanStep> {
    let volumes: Vec<VolumeRef> = volumes.cloned().collect();
    let wanted = !volumes.is_empty() && (on != record.host || !record.paths_on(on).is_empty());
    let step = Visible { on: on.to_owned(), volumes, patience_s: PATIENCE_S };
    wanted.then(|| PlanStep::new(Stage::Define, step, 2.0).undo(Undo::Nothing))
}

/// What cloning looks at on the hosts that do not hold the volumes.
///
/// # Errors
/// A host cannot be asked.
pub async fn check(
    facts: &Facts,
    record: &RunFacts,
    holder: &Arc<dyn Hypervisor>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let mapped = record.disks.iter().any(|disk| disk.source_there.is_some() || disk.target_there.is_some());
    for name in facts.spec.paths.keys().filter(|name| !record.disks.iter().any(|disk| disk.name == **name)) {
        findings.refuse("disks", format!("{name} is not a disk of the guest"), "look at its definition");
    }
    if record.production_host() != record.host || mapped {
        original(facts, record, holder, findings).await?;
    }
    if record.production_host() != record.host {
        on_link(facts, record, findings).await?;
    }
    if record.clone_host() != record.host && record.strategy != Strategy::InPlace {
        same_platform(facts, record, findings);
        bridges(facts, record, findings).await?;
        kernels(facts, record, findings).await;
    }
    let mut hosts = vec![(record.clone_host(), &facts.clone_side)];
    if record.production_host() != record.clone_host() {
        // Promotion points production to what clone made.
        hosts.push((record.production_host(), &facts.hypervisor));
    }
    for (host, side) in hosts.into_iter().filter(|(host, _)| *host != record.host) {
        copies(record, host, side, holder, findings).await?;
    }
    if facts.copying()? == Copies::Peers && record.disks.iter().any(|disk| disk.target_there.is_some()) {
        findings.warn(
            "runs_on",
            "commit gives these volumes their old names: export them anew by those before production starts again",
        );
    }
    Ok(())
}

/// Production's volumes are what its own host sees.
async fn original(
    facts: &Facts,
    record: &RunFacts,
    holder: &Arc<dyn Hypervisor>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let host = record.production_host();
    for disk in record.disks.iter().filter(|disk| disk.target.is_some()) {
        let Some(volume) = &disk.source else { continue };
        let shown = disk.source_there.as_deref().unwrap_or(&volume.path).display();
        let (here, there) = (holder.sight(&volume.path).await?, facts.hypervisor.sight(&volume.path).await?);
        match (here, there) {
            (None, _) => findings.refuse(
                "runs_on",
                format!("{}: there is no {volume} on {}", disk.name, record.host),
                "name the volume on the guest's host: disks = { NAME = { volume = \"/dev/…\" } }",
            ),
            (_, None) => findings.refuse(
                "runs_on",
                format!("{}: {host} does not see {shown}", disk.name),
                "look at the export, or at runs_on in the inventory",
            ),
            (Some(here), Some(there)) if alike(&here, &there) => match here.identity.is_empty() {
                true => findings.warn("runs_on", format!("{}: nothing on {volume} tells it from others", disk.name)),
                false => findings.pass("runs_on", format!("{host} sees {volume}")),
            },
            (Some(_), Some(_)) => findings.refuse(
                "runs_on",
                format!("{}: {shown} on {host} is another volume than {volume} on {}", disk.name, record.host),
                "name the volume on the guest's host: disks = { NAME = { volume = \"/dev/…\" } }",
            ),
        }
    }
    Ok(())
}

/// Whether two hosts see one volume, while a guest may write to it.
fn alike(here: &Sight, there: &Sight) -> bool {
    (&here.kind, here.size_bytes, &here.identity) == (&there.kind, there.size_bytes, &there.identity)
}

/// This machine hears the guests' link: what it proves and announces there would else reach nobody.
async fn on_link(facts: &Facts, record: &RunFacts, findings: &mut Findings) -> Result<(), Failure> {
    let net = facts.hypervisor.net();
    for place in &record.addressing.original_places {
        let own = facts.addresses.iter().find(|own| own.ip == place.address).and_then(|own| own.mac);
        let interface = net.interface(&place.via).to_owned();
        let heard = match net.owner(place.address, &place.via).await {
            Ok(heard) => heard,
            Err(error) => {
                findings.refuse("links", error.to_string(), links(record.production_host(), &place.via));
                continue;
            }
        };
        match heard {
            Some(mac) if own.is_none_or(|own| own == mac) => {
                findings.pass("links", format!("{} answers on {interface}", place.address));
            }
            Some(mac) => findings.refuse(
                "links",
                format!("on {interface} here {} is answered by {mac}, which is not {}", place.address, facts.spec.name),
                links(record.production_host(), &place.via),
            ),
            None => findings.refuse(
                "links",
                format!("on {interface} here nobody answers for {}", place.address),
                links(record.production_host(), &place.via),
            ),
        }
    }
    Ok(())
}

fn links(host: &str, bridge: &str) -> String {
    format!(
        "give this machine an interface on that link, and name it: hosts.{host}.links = {{ {bridge:?} = \"eth1\" }} in the \
         inventory"
    )
}

/// A definition is only moved between hosts of one kind.
fn same_platform(facts: &Facts, record: &RunFacts, findings: &mut Findings) {
    let (ours, theirs) = (&facts.hypervisor, &facts.clone_side);
    if (ours.platform(), ours.capabilities()) == (theirs.platform(), theirs.capabilities()) {
        findings.pass("runs_on", format!("{} is {} too", record.clone_host(), theirs.platform()));
    } else {
        findings.refuse(
            "runs_on",
            format!(
                "{} is of another platform ({}) than {} ({}): the definition would not fit there",
                record.clone_host(),
                theirs.platform(),
                record.production_host(),
                ours.platform()
            ),
            "choose a host of the same platform: --runs-on",
        );
    }
}

/// The bridges of the original's cards are on the clone's host too, on the same links: what this machine sends is heard there.
async fn bridges(facts: &Facts, record: &RunFacts, findings: &mut Findings) -> Result<(), Failure> {
    let (net, host) = (facts.clone_side.net(), record.clone_host());
    let mut seen: Vec<&str> = facts.platform.nics.iter().map(|nic| nic.bridge.as_str()).collect();
    seen.sort_unstable();
    seen.dedup();
    for bridge in seen {
        let interface = net.interface(bridge).to_owned();
        let asked = facts.addresses.iter().find(|own| own.via == bridge);
        // Whoever answers: the question itself is what is to be heard there.
        if let Some(own) = asked
            && let Err(error) = net.owner(own.ip, bridge).await
        {
            findings.refuse("links", error.to_string(), links(host, bridge));
            continue;
        }
        let address = Path::new("/sys/class/net").join(&interface).join("address");
        let ours = match interface.contains('/') {
            true => None,
            false => super::world::controller().read_file(&address, 4096).await.ok().flatten(),
        };
        let ours = ours.and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse().ok()).unwrap_or_default();
        match facts.clone_side.bridged(bridge, ours).await? {
            Bridged::Heard => findings.pass("links", format!("{bridge} of {host} is on the link of {interface} here")),
            Bridged::Absent => findings.refuse(
                "links",
                format!("{host} has no bridge {bridge}"),
                "make one there, or choose another host: --runs-on",
            ),
            Bridged::Silent => findings.refuse(
                "links",
                format!("{bridge} of {host} does not hear what is sent on {interface} here: it is another link"),
                links(host, bridge),
            ),
            Bridged::Unknown => findings.warn(
                "links",
                format!(
                    "{bridge} of {host} is no bridge of the kernel's: whether it is on the same link cannot be told"
                ),
            ),
        }
    }
    Ok(())
}

/// Other kernels are worth knowing of where guests run on the host's own.
async fn kernels(facts: &Facts, record: &RunFacts, findings: &mut Findings) {
    if !facts.clone_side.capabilities().shares_host_kernel {
        return;
    }
    let command = Command::new(["uname", "-r"]);
    let (ours, theirs) = (facts.hypervisor.host(), facts.clone_side.host());
    if let (Ok(ours), Ok(theirs)) = (ours.run(&command).await, theirs.run(&command).await)
        && ours.stdout != theirs.stdout
    {
        let said = |output: hypervisors::host::Output| hypervisors::host::printable(output.text().trim());
        let text = format!(
            "{} has the kernel {}, {} has {}",
            record.production_host(),
            said(ours),
            record.clone_host(),
            said(theirs)
        );
        findings.warn("runs_on", text);
    }
}

/// Where the volumes that clone makes will be seen from another host: as far as that can be told before there are any.
async fn copies(
    record: &RunFacts,
    host: &str,
    side: &Arc<dyn Hypervisor>,
    holder: &Arc<dyn Hypervisor>,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let remedy = |name: &str| {
        format!(
            "name its path there: disks = {{ {name:?} = {{ copy = \"/dev/etherd/e3.6\" }} }}, and export it by a hook at = \"volumes\""
        )
    };
    for disk in &record.disks {
        let (Some(source), Some(target)) = (&disk.source, &disk.target) else { continue };
        if let Some(there) = disk.target_there.as_ref() {
            if disk.source_there.as_ref() == Some(there) {
                findings.refuse(
                    "runs_on",
                    format!("{}: {} is the original's own path", disk.name, there.display()),
                    remedy(&disk.name),
                );
            } else if !source.kind.opens_under_a_guest() && side.sight(&target.path).await?.is_some() {
                findings.refuse(
                    "runs_on",
                    format!("{}: there is a {} on {host} already", disk.name, there.display()),
                    "choose a path that nothing is exported as; or take the old export back",
                );
            }
            continue;
        }
        // Without a path of its own it appears beside its source, under the same name as here.
        let looked = match source.kind.opens_under_a_guest() {
            true => source.path.parent().unwrap_or(&source.path),
            false => &source.path,
        };
        match (holder.sight(looked).await?, side.sight(looked).await?) {
            (Some(here), Some(there)) if alike(&here, &there) => {
                findings.pass("runs_on", format!("{host} sees {}", looked.display()));
            }
            // A world without directories (the simulated one) has only volumes.
            (None, None) if side.sight(&source.path).await?.is_some() => {}
            (_, None) => findings.refuse(
                "runs_on",
                format!("{}: {host} does not see {}", disk.name, looked.display()),
                remedy(&disk.name),
            ),
            _ => findings.refuse(
                "runs_on",
                format!("{}: {} on {host} is not what it is on {}", disk.name, looked.display(), record.host),
                remedy(&disk.name),
            ),
        }
    }
    Ok(())
}
