//! What is refused before a guest is upgraded in place without anything that leads back, each with its remedy.

use std::net::IpAddr;

use hypervisors::host::{Command, printable, printable_tail};
use hypervisors::machines::MachineFacts;
use hypervisors::{Host, Power};

use super::{Facts, Linked};
use crate::inventory::{GuestSpec, HookPlace, Recipe, Strategy};
use crate::lifecycle::error::Failure;
use crate::lifecycle::preflight::{Findings, recipe_finding};
use crate::recipe::yum::{Seen, findings, offered};

/// What `clone` looks at.
pub fn for_clone(facts: &Facts, strategy: Option<Strategy>, accept_loss: bool, found: &mut Findings) {
    let spec = &facts.spec;
    declared(spec, strategy, facts.machine.is_some(), found);
    let loses = strategy != Some(Strategy::Linked);
    match &facts.machine {
        Some(machine) => {
            same(&spec.name, machine, facts.seen.uuid.as_deref(), facts.address, found);
            covered(spec, machine, loses, accept_loss, found);
        }
        None if !accept_loss => found.refuse(
            "loss",
            format!("{} has no hypervisor that could take a snapshot: what an upgrade makes of packages cannot be taken back", spec.host),
            "take a backup by whoever runs the machine; --accept-loss says that you have one",
        ),
        None => {}
    }
    look(&facts.seen, found);
}

/// Whether the guest that answers over ssh is the machine: a snapshot of another one leads nowhere. By the UUID that its BIOS tells it;
/// where it cannot be read, by the addresses that its tools report.
pub fn same(name: &str, machine: &MachineFacts, uuid: Option<&str>, address: IpAddr, found: &mut Findings) {
    let path = &machine.machine.path;
    let remedy = format!(
        "name the machine that answers at {address} (guests.{name}.vm), or the address of {path} (guests.{name}.ssh)"
    );
    match (uuid, &machine.bios) {
        (Some(own), Some(bios)) if same_uuid(own, bios) => {
            found.pass("machine", format!("{path} is what answers at {address}, by its BIOS UUID"));
        }
        (Some(own), Some(bios)) => {
            let what = format!("{address} is another machine than {path}: its BIOS UUID is {own}, not {bios}");
            found.refuse("machine", what, remedy);
        }
        _ if machine.addresses.contains(&address) => {
            found.pass("machine", format!("{path} has {address}, by its tools"));
        }
        _ if !machine.addresses.is_empty() => {
            let told: Vec<String> = machine.addresses.iter().map(IpAddr::to_string).collect();
            let what = format!("the tools of {path} report {}, not {address}", told.join(", "));
            found.refuse("machine", what, remedy);
        }
        _ => found.warn(
            "machine",
            format!("nothing tells that {path} is what answers at {address}: its BIOS UUID cannot be read, its tools report no address"),
        ),
    }
}

/// Whether the cards of a machine can be given away and taken back.
pub fn cards(machine: &MachineFacts, linked: &Linked, found: &mut Findings) {
    for nic in &machine.nics {
        let label = &nic.label;
        if machine.power == Power::On && nic.connected != nic.start_connected {
            let (is, starts) = match nic.connected {
                true => ("is plugged in", "out"),
                false => ("is not plugged in", "in"),
            };
            let what =
                format!("{label} {is}, and is {starts} at the next start: promotion and rollback start the machine");
            found.refuse("cards", what, "let it be at start what it is now, in the platform's own client");
        }
        if nic.network.is_empty() {
            let what = format!("the network of {label} has no name by which it could be plugged in again");
            found.refuse("cards", what, "plug it into a port group, or use in-place");
        }
        if let Some(kind) = nic.mac_type.as_ref().filter(|kind| !kind.eq_ignore_ascii_case("manual")) {
            let what =
                format!("the hardware address of {label} was chosen by the platform ({kind}): it goes over as such");
            found.warn("cards", what);
        }
    }
    for mac in linked.clone.iter().filter_map(|card| card.mac).filter(|mac| !is_free(mac.0)) {
        let what = format!("{mac} is not to be set by hand");
        found.refuse("mac", what, "leave it out, or choose one of 00:50:56:00:00:00 to 00:50:56:3f:ff:ff");
    }
}

/// Whether a hardware address may be set by hand: neither one of a group, nor of the ranges that VMware's products choose from.
fn is_free(mac: [u8; 6]) -> bool {
    let reserved = matches!(
        mac,
        [0x00, 0x50, 0x56, 0x40..=0xff, _, _] | [0x00, 0x0c, 0x29, _, _, _] | [0x00, 0x05, 0x69, _, _, _]
    );
    mac[0] & 1 == 0 && !reserved
}

/// What cannot be brought over from a guest without systemd: its services could not be stopped for certain meanwhile.
///
/// # Errors
/// It does not answer.
pub async fn without_systemd(facts: &Facts, found: &mut Findings) -> Result<(), Failure> {
    let name = &facts.spec.name;
    let queues = queues(&*facts.guest).await?;
    for (id, what) in [("carry", !facts.spec.carry.is_empty()), ("queues", !queues.is_empty())] {
        if what {
            found.refuse(
                id,
                unstoppable(name, &queues),
                "leave carry rules out; a guest with queues is upgraded by in-place",
            );
        }
    }
    Ok(())
}

/// Why nothing is brought over from a guest without systemd.
pub fn unstoppable(name: &str, queues: &[String]) -> String {
    let which = if queues.is_empty() { String::new() } else { format!(" (queues: {})", queues.join(", ")) };
    format!(
        "{name} does not start by systemd: its services could not be stopped for certain while data is brought over{which}"
    )
}

/// Arguments: directories beneath the root. Prints those that are there.
const THERE: &str = "for d do test -d \"/$d\" && echo \"/$d\"; done; exit 0";

/// The directories of known queues that a guest has.
async fn queues(guest: &dyn Host) -> Result<Vec<String>, Failure> {
    let known = crate::guest::queues::directories()?;
    let known = known.iter().map(|directory| directory.to_string_lossy().into_owned());
    let command = Command::new(["sh", "-c", THERE, "sh"].map(str::to_owned).into_iter().chain(known));
    let text = guest.run(&command).await?.checked("look for queues", &command)?.text();
    Ok(text.lines().map(printable).collect())
}

/// Whether the machines are what `clone` saw, before production goes down for what would fail then.
pub fn unchanged(linked: &Linked, original: &MachineFacts, clone: &MachineFacts, found: &mut Findings) {
    for (machine, cards) in [(original, &linked.original), (clone, &linked.clone)] {
        let (path, now, had) = (&machine.machine.path, machine.nics.len(), cards.len());
        if now != had {
            let what = format!("{path} has {now} network cards, and had {had} when it was cloned");
            found.refuse("cards", what, "give it the cards that it had, in the platform's own client");
        }
    }
    for (nic, card) in original.nics.iter().zip(&linked.original) {
        let (path, label) = (&original.machine.path, &nic.label);
        if let Some(had) = card.network.as_ref().filter(|had| **had != nic.network) {
            let what = format!("{label} of {path} is in {} now, and was in {had} when it was cloned", nic.network);
            found.refuse("cards", what, format!("put it back into {had}; or abort, and clone again"));
        }
        if let (Some(had), Some(mac)) = (card.mac, nic.mac.filter(|mac| card.mac != Some(*mac))) {
            let what = format!("{label} of {path} has {mac} now, and had {had} when it was cloned");
            found.refuse("cards", what, format!("give it {had} again; or abort, and clone again"));
        }
    }
    let cloned = |file: &str| linked.disks.is_empty() || linked.disks.iter().any(|known| known == file);
    for disk in original.disks.iter().filter(|disk| !cloned(disk.base())) {
        let what = format!(
            "{} of {} came after the clone, which lacks it: {}",
            disk.label,
            original.machine.path,
            disk.base()
        );
        found.refuse("disks", what, "abort, and clone again; or detach it");
    }
}

/// Whether two UUIDs are one. SMBIOS before 2.6 said nothing of the byte order of the first three fields, and systems show either.
fn same_uuid(one: &str, other: &str) -> bool {
    let bytes = |text: &str| -> Vec<String> {
        let digits: Vec<char> = text.to_ascii_lowercase().chars().filter(char::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| pair.iter().collect()).collect()
    };
    let (one, other) = (bytes(one), bytes(other));
    if one.len() != 16 || other.len() != 16 {
        return false;
    }
    let swapped: Vec<&String> = [3, 2, 1, 0, 5, 4, 7, 6].iter().map(|at| &other[*at]).chain(&other[8..]).collect();
    one == other || one.iter().eq(swapped)
}

/// Whether a snapshot leads back to all of a machine.
fn covered(spec: &GuestSpec, machine: &MachineFacts, loses: bool, accept_loss: bool, found: &mut Findings) {
    let name = &spec.name;
    if loses && !accept_loss {
        found.refuse(
            "loss",
            format!("{name} itself is upgraded: going back to the snapshot loses what it wrote meanwhile"),
            "--accept-loss says that this is known",
        );
    }
    for disk in machine.disks.iter().filter(|disk| disk.independent || disk.raw || disk.shared) {
        let why = match disk {
            _ if disk.raw => "is a device of the storage, passed through",
            _ if disk.shared => "is shared with other machines",
            _ => "is independent: snapshots pass it by",
        };
        let remedy = "detach it for as long, or make it dependent: the snapshot has to lead back to all of the machine";
        found.refuse("disks", format!("{} of {name} {why}", disk.label), remedy);
    }
    if machine.needs_consolidation {
        found.refuse(
            "snapshots",
            format!("disks of {name} are to be consolidated first"),
            "consolidate them in the platform's own client",
        );
    }
    if let Some(other) = machine.snapshots.first() {
        let what = match loses {
            true => "they stay",
            false => "its clone has none of them, and commit removes them with the original",
        };
        found.warn("snapshots", format!("{name} has snapshots of others ({}): {what}", other.name));
    }
    if machine.template {
        found.refuse("template", format!("{name} is a template"), "make a machine of it first");
    }
    match machine.tools.running {
        true => found.pass("quiesce", "its tools answer: file systems are quiesced for the snapshot"),
        false => found.warn("quiesce", "its tools do not answer the platform: the snapshot is as after a power cut"),
    }
}

/// What the inventory asks for that cannot be done here.
fn declared(spec: &GuestSpec, strategy: Option<Strategy>, api: bool, found: &mut Findings) {
    let can = match strategy {
        Some(Strategy::InPlace) => true,
        Some(Strategy::Linked) => api,
        _ => false,
    };
    if !can {
        let (what, remedy) = match api {
            true => {
                ("machines of this host are cloned by linked, or upgraded in place", "\"linked\" }, or \"in-place\"")
            }
            false => ("it has nothing that could make a clone", "\"in-place\" }"),
        };
        found.refuse("strategy", format!("{}: {what}", spec.host), format!("clone = {{ strategy = {remedy}"));
    }
    if !spec.upgrade.as_ref().is_some_and(|upgrade| matches!(upgrade.recipe, Recipe::YumKernel(_))) {
        let what = "only the recipe yum-kernel knows a way back on a guest without a snapshot".to_owned();
        found.refuse("recipe", what, "upgrade = { recipe = \"yum-kernel\" }");
    }
    for hook in spec.hooks.iter().filter(|hook| hook.on == HookPlace::Host) {
        let what = format!("the hook {:?} runs on the host, where nobody gets in", hook.name);
        found.refuse("hooks", what, "on = \"original\", or on = \"controller\"");
    }
}

/// What the guest itself stands in the way with.
pub fn look(seen: &Seen, found: &mut Findings) {
    found.0.extend(findings(seen).into_iter().map(recipe_finding));
}

/// Whether a newer kernel is offered: what the guest's repositories say, past its excludes.
///
/// # Errors
/// The guest does not answer.
pub async fn newer(guest: &dyn Host, seen: &Seen, found: &mut Findings) -> hypervisors::Result<bool> {
    Ok(match offered(guest, seen).await? {
        Ok(Some(true)) => {
            found.pass("yum.offered", "a newer kernel is offered");
            true
        }
        // One that was installed before, and not booted yet, is booted now.
        Ok(Some(false)) => {
            let waiting = seen.waiting();
            match &waiting {
                Some(kernel) => found.pass("yum.offered", format!("{kernel} is installed and was not booted yet")),
                None => found
                    .warn("yum.offered", "no newer kernel is offered: packages are updated, and nothing is rebooted"),
            }
            waiting.is_some()
        }
        Ok(None) => {
            found.pass("yum.offered", "what is offered is seen once the exclude is lifted");
            true
        }
        Err(said) => {
            let what = format!("the guest's repositories cannot be asked: {}", printable_tail(said.as_bytes(), 2));
            found.refuse(
                "yum.repositories",
                what,
                "make them reachable from the guest, or disable the one that is not",
            );
            false
        }
    })
}
