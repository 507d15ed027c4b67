//! What is looked at before anything is touched, each refusal with its remedy. The findings for `clone`; the other
//! verbs add their own.

use std::net::IpAddr;
use std::path::Path;

use hypervisors::host::Command;
use hypervisors::storage::Copies;
use hypervisors::{GuestLink, Host, Power};
use serde::{Deserialize, Serialize};

use super::address::Addressing;
use super::error::Failure;
use super::facts::Facts;
use super::filesystems;
use crate::guest::{AddressChange, Interface, Tree};
use crate::inventory::{CarryRule, DiskRule, HookTime, KernelPlace, NetworkRule, Recipe, Strategy};
use crate::steps::fence;

/// How a check before the plan came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Passed,
    /// The plan goes on; the operator should know.
    Warning,
    /// The plan is refused.
    Refused,
}

/// One check before the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable word.
    pub id: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// Collects findings.
#[derive(Debug, Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    fn add(&mut self, id: &str, verdict: Verdict, detail: impl Into<String>, remedy: Option<String>) {
        self.0.push(Finding { id: id.to_owned(), verdict, detail: detail.into(), remedy });
    }
    /// As it should be.
    pub fn pass(&mut self, id: &str, detail: impl Into<String>) {
        self.add(id, Verdict::Passed, detail, None);
    }
    /// The operator should know.
    pub fn warn(&mut self, id: &str, detail: impl Into<String>) {
        self.add(id, Verdict::Warning, detail, None);
    }
    /// Refused, with its remedy.
    pub fn refuse(&mut self, id: &str, detail: impl Into<String>, remedy: impl Into<String>) {
        self.add(id, Verdict::Refused, detail, Some(remedy.into()));
    }
    /// The first refusal.
    pub fn refusal(&self) -> Option<&Finding> {
        self.0.iter().find(|finding| finding.verdict == Verdict::Refused)
    }
}

/// What `clone` looks at.
///
/// # Errors
/// If the world cannot be looked at; what is found wrong is a finding.
pub async fn for_clone(
    facts: &Facts,
    addressing: &Addressing,
    strategy: Strategy,
    accept_loss: bool,
    link: &GuestLink,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let copying = facts.copying()?;
    scope(facts, strategy, copying, findings);
    if strategy == Strategy::InPlace && !accept_loss {
        findings.refuse(
            "accept_loss",
            "abort will lose what the guest writes from now on: there is no clone",
            "if that is acceptable: --accept-loss",
        );
    }
    power(facts, findings);
    disks(facts, copying, findings);
    filesystems::check(facts, findings);
    sizes(facts, strategy, copying, findings);
    definition(facts, addressing, findings);
    // A free address takes its time to be silent; the guest is asked meanwhile.
    let (mut heard, mut told) = (Findings::default(), Findings::default());
    let asking = async {
        if facts.platform.power == Power::On {
            inside(facts, link, &mut told).await;
        }
    };
    let (reached, ()) = tokio::join!(addresses(facts, addressing, &mut heard), asking);
    reached?;
    findings.0.append(&mut heard.0);
    if !addressing.dhcp.is_empty() {
        by_dhcp(facts, addressing, findings);
    }
    if strategy != Strategy::InPlace {
        memory(facts, findings).await?;
    }
    kernel(facts, findings).await;
    checks(facts, findings);
    tools(facts, findings).await;
    findings.0.append(&mut told.0);
    Ok(())
}

fn scope(facts: &Facts, strategy: Strategy, copying: Copies, findings: &mut Findings) {
    match strategy {
        Strategy::Snapshot => findings.pass("strategy", "snapshot"),
        // Both lead back by a merge.
        Strategy::Origin | Strategy::InPlace if copying != Copies::Trees => {
            findings.pass("strategy", super::strategy_word(strategy));
        }
        other => findings.refuse(
            "strategy",
            format!("strategy {other:?} is not possible on this platform").to_lowercase(),
            "use strategy = \"snapshot\"",
        ),
    }
    if facts.spec.clone.snapshot.size.is_some() && copying != Copies::Dependents {
        findings.warn("snapshot", "clone.snapshot has no effect here: these copies share what is not written");
    }
    if facts.spec.clone.network == NetworkRule::Fenced {
        if facts.apt_user.is_none() {
            findings.warn("network", "it has no user _apt: its package mirrors have to stand in clone.allow");
        }
    } else if !facts.spec.clone.allow.is_empty() {
        findings.warn("network", "clone.allow has no effect without clone.network = \"fenced\"");
    }
}

fn power(facts: &Facts, findings: &mut Findings) {
    let name = &facts.spec.name;
    match facts.platform.power {
        Power::On => findings.pass("power", "running"),
        Power::Off => findings.refuse(
            "power",
            format!("{name} is not running: there is nothing to compare the clone with"),
            format!("start {name} first"),
        ),
        Power::Paused => {
            findings.refuse("power", format!("{name} is paused"), "resume it first");
        }
    }
    if facts.platform.managed_save {
        findings.refuse(
            "managed_save",
            format!("{name} has a saved memory image that would be resumed instead of booted"),
            "start it from the image, or remove the image (virsh managedsave-remove; xl: /var/lib/xen/save)",
        );
    }
}

/// Copies that have a size of their own: whether there is room, and what promotion will need.
fn sizes(facts: &Facts, strategy: Strategy, copying: Copies, findings: &mut Findings) {
    let sized = || facts.disks.iter().filter_map(|disk| Some((disk, disk.sized.as_ref()?)));
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let wanted: u64 = sized().map(|(_, sized)| sized.bytes).sum();
    let covering: u64 = sized().map(|(_, sized)| sized.covering_bytes).sum();
    let Some(free) = sized().filter_map(|(disk, _)| Some(disk.facts.as_ref()?.free_bytes)).min() else { return };
    if wanted > free {
        findings.refuse(
            "space",
            format!("the snapshots take {}, free are {}", gib(wanted), gib(free)),
            "make room in the volume group, or set a smaller clone.snapshot.size (strategy snapshot only)",
        );
    } else if copying == Copies::Dependents && strategy == Strategy::Snapshot && wanted < covering {
        findings.warn("space", format!("promote will need {} more", gib(covering - wanted)));
        findings.warn(
            "fill",
            "the snapshot can fill, and the clone would be lost with it: let upgradectl-watch.service extend it (upgradectl \
             watch shows how it fills)",
        );
    }
    for (disk, facts) in facts.disks.iter().filter_map(|disk| Some((disk, disk.facts.as_ref()?))) {
        let Some(block) = facts.block.as_ref().filter(|_| disk.rule == DiskRule::Clone) else { continue };
        let name = &disk.disk.name;
        if let Some(origin) = &block.origin {
            findings.refuse(
                "disks",
                format!("{name} is itself a snapshot (of {origin})"),
                "finish what it was made for first: merge it, or copy it to a volume of its own",
            );
        }
        if block.merge.is_some() {
            findings.refuse("disks", format!("a snapshot is being merged into {name}"), "wait until it is through");
        }
        if !block.snapshots.is_empty() && copying == Copies::Dependents {
            findings.refuse(
                "disks",
                format!("{name} has snapshots already: {}", block.snapshots.join(", ")),
                "remove them, or finish the run they belong to: each slows the volume down, and commit would lose them",
            );
        }
    }
}

fn disks(facts: &Facts, copying: Copies, findings: &mut Findings) {
    let known = |name: &str| {
        facts.disks.iter().any(|disk| disk.disk.name == name) || facts.network_mounts.iter().any(|mount| mount == name)
    };
    for name in facts.spec.disks.keys().filter(|name| !known(name)) {
        let names: Vec<&str> = facts.disks.iter().map(|disk| disk.disk.name.as_str()).collect();
        findings.refuse(
            "disks",
            format!("{name} is not a disk of the guest"),
            format!("its disks: {}", names.join(", ")),
        );
    }
    for mount in facts.network_mounts.iter().filter(|mount| !facts.spec.disks.contains_key(*mount)) {
        findings.refuse(
            "network_mounts",
            format!("{mount} is mounted from the network: the clone would write there as the original does"),
            format!("declare it: disks = {{ \"{mount}\" = \"detach\" }}"),
        );
    }
    for disk in facts.disks.iter().filter(|disk| disk.rule != DiskRule::Detach) {
        let name = &disk.disk.name;
        let detach = format!("declare it: disks = {{ \"{name}\" = \"detach\" }}");
        match (&disk.volume, &disk.facts) {
            _ if disk.rule == DiskRule::Swap && copying == Copies::Trees => {
                findings.refuse("disks", format!("{name}: fresh swap is not possible on this platform"), detach);
            }
            _ if disk.disk.shareable => {
                findings.refuse("disks", format!("{name} is shared with other guests"), detach);
            }
            (Err(why), _) => findings.refuse("disks", format!("{name} cannot be cloned: {why}"), detach),
            (Ok(volume), None) => {
                findings.refuse("disks", format!("{name}: {volume} does not exist"), "look at the host's storage");
            }
            (Ok(_), Some(seen))
                if seen.mark.is_some()
                    && seen.mark.as_ref().is_some_and(|m| m.role != hypervisors::Role::Production) =>
            {
                findings.refuse(
                    "disks",
                    format!("{name} bears the mark of another run"),
                    "upgradectl status; gc removes what an earlier run left",
                );
            }
            // Copies with a size of their own are counted together.
            (Ok(_), Some(_)) if disk.sized.is_some() || disk.rule == DiskRule::Swap => {}
            (Ok(_), Some(seen)) => space(name, seen, findings),
        }
    }
}

fn space(name: &str, seen: &hypervisors::storage::VolumeFacts, findings: &mut Findings) {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    // A release upgrade rewrites most of what is installed, and unpacks it first.
    let wanted = seen.snapshot_bytes.saturating_add(seen.used_bytes.unwrap_or(1 << 30));
    if seen.free_bytes < seen.snapshot_bytes {
        findings.refuse(
            "space",
            format!("{name}: the copy needs {}, free are {}", gib(seen.snapshot_bytes), gib(seen.free_bytes)),
            "make room on the host",
        );
    } else if seen.free_bytes < wanted {
        findings.warn("space", format!("{name}: {} free; an upgrade may need {}", gib(seen.free_bytes), gib(wanted)));
    } else {
        findings.pass("space", format!("{name}: {} free", gib(seen.free_bytes)));
    }
}

fn definition(facts: &Facts, addressing: &Addressing, findings: &mut Findings) {
    for nic in &facts.platform.nics {
        if let Some(filter) = &nic.filter {
            findings.refuse(
                "filters",
                format!("its network card has the filter {filter}, which may name the address"),
                "take the filter out of the definition for the time of the run",
            );
        }
    }
    for other in facts.neighbours.iter().filter(|other| other.name != facts.platform.name) {
        for (place, nic) in other.nics.iter().flat_map(|nic| addressing.clone_places.iter().map(move |p| (p, nic))) {
            if nic.addresses.contains(&place.address) {
                findings.refuse(
                    "address",
                    format!("{} stands in the definition of {}", place.address, other.name),
                    "choose a free address",
                );
            }
        }
        for mac in addressing.by_card.iter().flatten() {
            if other.nics.iter().any(|nic| nic.mac == Some(*mac)) {
                findings.refuse("mac", format!("{mac} belongs to {}", other.name), "give another one: --mac");
            }
        }
    }
    for mac in addressing.by_card.iter().flatten() {
        if facts.platform.nics.iter().any(|nic| nic.mac == Some(*mac)) {
            findings.refuse("mac", format!("{mac} is the original's own"), "give another one: --mac");
        }
    }
    let taken_off = |change: &&AddressChange| {
        change.new.is_none() && !(change.old.is_ipv4() && addressing.dhcp.contains(&change.interface))
    };
    for change in addressing.changes.iter().filter(taken_off) {
        findings.warn("addresses", format!("{} ({}) is taken off the clone", change.old, change.interface));
    }
}

/// A clone whose address is known only when it runs.
fn by_dhcp(facts: &Facts, addressing: &Addressing, findings: &mut Findings) {
    let named = |argv: &Option<Vec<String>>| argv.iter().flatten().any(|word| word.contains("{clone_address}"));
    for hook in facts.spec.hooks.iter().filter(|_| addressing.by.is_some()) {
        let early = match &hook.when {
            HookTime::Around { before, after, .. } => named(before) || named(after),
            HookTime::At { run, undo, .. } => named(&Some(run.clone())) || named(undo),
        };
        if early {
            findings.refuse(
                "address",
                format!("the hook {} names {{clone_address}}, which a DHCP server chooses later", hook.name),
                "run it in the clone (on = \"clone\"), or give the clone a static address: --ip .16",
            );
        }
    }
    // networkd and NetworkManager have clients of their own; ifup(8), Debian's and Red Hat's, calls one of these.
    const CLIENTS: [&str; 3] = ["dhclient", "dhcpcd", "udhcpc"];
    let there = |program: &str| {
        let places = ["usr/sbin", "sbin", "usr/bin", "bin"];
        let tree = Tree::open(facts.root.path());
        tree.is_ok_and(|tree| places.iter().any(|place| tree.exists(&Path::new(place).join(program)).unwrap_or(false)))
    };
    let by_scripts =
        |of: &Interface| of.configured_by == "ifupdown" || of.configured_by == "ifcfg" && !there("NetworkManager");
    let asks = |interface: &String| facts.interfaces.iter().any(|of| of.name == *interface && by_scripts(of));
    match CLIENTS.into_iter().find(|client| there(client)) {
        Some(_) => findings.pass("address", "a DHCP server chooses it"),
        None if !addressing.dhcp.iter().any(asks) => findings.pass("address", "a DHCP server chooses it"),
        None => findings.refuse(
            "address",
            "the guest has no DHCP client",
            "install one in it (apt: isc-dhcp-client, yum: dhclient), or --ip .16",
        ),
    }
}

async fn addresses(facts: &Facts, addressing: &Addressing, findings: &mut Findings) -> Result<(), Failure> {
    let net = facts.hypervisor.net();
    for place in &addressing.clone_places {
        match net.owner(place.address, &place.via).await? {
            Some(mac) => findings.refuse(
                "address",
                format!("{} answers {} from {mac}", place.address, asked(place.address)),
                "choose a free address",
            ),
            None => findings.pass("address", format!("{} is free", place.address)),
        }
    }
    Ok(())
}

fn asked(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ARP" } else { "neighbour solicitation" }
}

/// Memory on the host that will run the clone.
async fn memory(facts: &Facts, findings: &mut Findings) -> Result<(), Failure> {
    let wanted = facts.spec.clone.memory_bytes.unwrap_or(facts.platform.memory_bytes);
    let mib = |bytes: u64| bytes >> 20;
    let Some(free) = facts.clone_side.free_memory().await? else { return Ok(()) };
    let host = facts.clone_side.host();
    let left = format!("{} has {} MiB left", host.name(), mib(free.free_bytes));
    if free.free_bytes >= wanted {
        findings.pass("memory", format!("{} MiB for the clone", mib(wanted)));
    } else if facts.clone_side.capabilities().shares_host_kernel {
        findings.warn("memory", format!("{left}; the clone may use up to {} MiB", mib(wanted)));
    } else if free.free_bytes.saturating_add(free.more_bytes) >= wanted {
        findings.warn(
            "memory",
            format!("{left} for guests; for the clone's {} MiB it has to give up its own", mib(wanted)),
        );
    } else {
        findings.refuse(
            "memory",
            format!("{left}, the clone needs {} MiB", mib(wanted)),
            "give the clone less: clone.memory; or run it elsewhere: --runs-on",
        );
    }
    Ok(())
}

/// A kernel that lies on the host is not upgraded with the guest: whoever runs such a guest has to have said so.
async fn kernel(facts: &Facts, findings: &mut Findings) {
    let declared = facts.spec.kernel == Some(KernelPlace::Host);
    let name = &facts.spec.name;
    let Some(found) = &facts.platform.kernel else {
        if declared {
            findings.refuse(
                "kernel",
                format!("kernel = \"host\", but {name}'s definition names no kernel of the host: it boots its own"),
                format!("take kernel out of guests.{name}"),
            );
        }
        return;
    };
    let shown = hypervisors::host::printable(&found.kernel);
    let own: Vec<String> = facts.addresses.iter().map(|own| own.ip.to_string()).collect();
    let words =
        found.arguments.iter().flat_map(|line| line.split(|c: char| !(c.is_ascii_hexdigit() || ".:".contains(c))));
    let named =
        |word: &str| own.iter().any(|ip| word.split("::").chain(word.split(':')).any(|part| part == ip) || word == ip);
    if let Some(word) = words.into_iter().find(|word| named(word)) {
        findings.refuse(
            "kernel",
            format!(
                "the kernel's command line in {name}'s definition names its address ({word}): the clone would take it"
            ),
            "let the guest configure its network itself, and take it out of the command line",
        );
    }
    if !declared {
        let (detail, remedy) = (
            format!(
                "{name} is started with {shown}, a kernel of the host, which an upgrade of the guest does not replace"
            ),
            format!(
                "if the guest shall run with it after the upgrade: kernel = \"host\" in guests.{name}; else let it boot its own \
                 (pygrub, pvgrub) first"
            ),
        );
        match facts.spec.upgrade.as_ref().map(|upgrade| &upgrade.recipe) {
            Some(Recipe::Debian { .. }) => findings.refuse("kernel", detail, remedy),
            _ => findings.warn("kernel", format!("{detail}; {remedy}")),
        }
        return;
    }
    let mut there = true;
    let mut hosts = vec![facts.hypervisor.host(), facts.clone_side.host()];
    hosts.dedup_by(|a, b| a.name() == b.name());
    for (host, file) in
        hosts.iter().flat_map(|host| std::iter::once(&found.kernel).chain(&found.initrd).map(move |file| (host, file)))
    {
        let command = Command::new(["test", "-f", file]);
        if host.run(&command).await.is_ok_and(|output| output.status == 1) {
            there = false;
            let file = hypervisors::host::printable(file);
            findings.refuse(
                "kernel",
                format!("{file} is not on {}: the guest would not start there", host.name()),
                format!("put it there, or name another in the definition of {name}"),
            );
        }
    }
    if there {
        findings.pass("kernel", format!("the host's, {shown}"));
    }
    let newer =
        |check: &crate::verify::Check| matches!(check.kind, crate::verify::CheckKind::Kernel { newer: true, .. });
    if facts.spec.checks.iter().any(newer) {
        findings.warn(
            "kernel",
            "a check wants a newer kernel: it passes only if the clone's definition is given one before it is verified",
        );
    }
}

fn checks(facts: &Facts, findings: &mut Findings) {
    for name in &facts.quarantine.unknown {
        findings.warn("quarantine", format!("{name} (quarantine.off) is not installed"));
    }
    let off: Vec<&str> = facts.quarantine.units.iter().map(|unit| unit.unit.as_str()).collect();
    let mailer = off.iter().any(|unit| ["postfix", "exim4", "sendmail"].iter().any(|name| unit.starts_with(name)));
    if mailer && facts.spec.checks.iter().any(|check| check.kind.word() == "smtp") {
        findings.warn("checks", "smtp is checked after promotion only: the mailer is quarantined");
    }
}

/// Whether a program of that name is on the controller's `PATH`.
pub fn installed(tool: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|dir| Path::new(dir).join(tool).is_file())
}

async fn tools(facts: &Facts, findings: &mut Findings) {
    let mut wanted = vec![("ssh-keygen", "openssh-client")];
    if facts.spec.carry.iter().any(|rule| matches!(rule, CarryRule::Rsync { .. })) {
        wanted.push(("rsync", "rsync"));
    }
    for (tool, package) in wanted {
        if installed(tool) {
            findings.pass("tools", tool);
        } else {
            findings.refuse("tools", format!("{tool} is missing here"), format!("apt install {package}"));
        }
    }
}

/// A recipe's finding as one of ours.
pub fn recipe_finding(found: crate::recipe::Finding) -> Finding {
    use crate::recipe::Verdict as Recipe;
    let verdict = match found.verdict {
        Recipe::Pass => Verdict::Passed,
        Recipe::Warn => Verdict::Warning,
        Recipe::Refuse => Verdict::Refused,
    };
    let remedy = Some(found.remedy).filter(|remedy| !remedy.is_empty());
    Finding { id: found.id, verdict, detail: found.detail, remedy }
}

/// What the running original says: reachable, packages in order.
async fn inside(facts: &Facts, link: &GuestLink, findings: &mut Findings) {
    let guest = match facts.hypervisor.guest(link) {
        Ok(guest) => guest,
        Err(error) => return findings.refuse("ssh", error.to_string(), "mend ssh in the inventory"),
    };
    let command = Command::new(["true"]);
    let reached = match guest.run(&command).await {
        Ok(output) => output.checked("run a command", &command).map(|_| ()),
        Err(error) => Err(error),
    };
    if let Err(error) = reached {
        let help = error.help.clone().unwrap_or_else(|| {
            format!("make ssh {}@{} work for upgradectl (guests.{}.ssh)", link.user, link.address, facts.spec.name)
        });
        return findings.refuse("ssh", format!("{} cannot be reached by ssh: {error}", facts.spec.name), help);
    }
    findings.pass("ssh", format!("{} lets us in", link.address));
    let command = Command::new(["id", "-u"]);
    match guest.run(&command).await {
        Ok(output) if output.text().trim() == "0" => findings.pass("root", "commands run as root there"),
        Ok(_) => findings.refuse(
            "root",
            format!("{} is not root on {}", link.user, facts.spec.name),
            "log in as root, or let the user sudo without a password and set ssh = { sudo = true }",
        ),
        Err(error) => findings.refuse("root", error.to_string(), error.help.clone().unwrap_or_default()),
    }
    live_addresses(facts, &*guest, findings).await;
    if facts.spec.clone.network == NetworkRule::Fenced {
        match fence::unfit(&*guest).await {
            Ok(None) => findings.pass("network", "the clone can be fenced"),
            Ok(Some(why)) => findings.refuse(
                "network",
                format!("its clone cannot be fenced: {why}"),
                "use clone.network = \"open\"; its services are quarantined either way",
            ),
            Err(error) => findings.refuse("network", error.to_string(), error.help.clone().unwrap_or_default()),
        }
    }
    match facts.spec.upgrade.as_ref().map(|upgrade| &upgrade.recipe) {
        Some(Recipe::Debian { to }) => match crate::recipe::debian::preflight(&*guest, to, false).await {
            Ok(found) => findings.0.extend(found.into_iter().map(recipe_finding)),
            Err(error) => findings.refuse("recipe", error.to_string(), "look at the guest's packages"),
        },
        Some(Recipe::Script { .. }) => {}
        Some(_) => findings.refuse("recipe", "that recipe does not fit this guest", "recipes here: debian, script"),
        None => findings.warn("recipe", "no upgrade is declared; upgrade will want one"),
    }
}

/// Addresses the guest has but its files do not name: a cluster's, a VRRP router's. The clone must not bring them up.
async fn live_addresses(facts: &Facts, guest: &dyn Host, findings: &mut Findings) {
    let command = Command::new(["ip", "-j", "addr", "show"]);
    let Ok(output) = guest.run(&command).await else { return };
    let Ok(links) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else { return };
    let infos =
        links.as_array().into_iter().flatten().flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
    for info in infos.filter(|info| info["scope"] == "global" && info["dynamic"] != true) {
        let Some(ip) = info["local"].as_str().and_then(|text| text.parse::<IpAddr>().ok()) else { continue };
        if !facts.addresses.iter().any(|own| own.ip == ip) {
            findings.refuse(
                "address",
                format!(
                    "{} holds {ip}, which its network configuration does not name (a cluster or VRRP address?)",
                    facts.spec.name
                ),
                "take it out of the cluster for the time of the run, or write the address into its configuration",
            );
        }
    }
}
