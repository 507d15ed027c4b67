//! `doctor`: what is present and what is missing on the controller, on each host and for each guest. It looks and changes
//! nothing; what it learns of a guest's ssh keys lies in the scratch directory, as before every clone.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hypervisors::VolumeKind;
use hypervisors::storage::Copies;
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use super::address::{self, Addressing};
use super::app::{App, write_private};
use super::clone::{self, CloneWishes};
use super::error::{Failure, exit};
use super::preflight::{self, Finding, Findings, Verdict, installed};
use super::query;
use super::record::RunFacts;
use crate::inventory::values::AddressWish;
use crate::inventory::{GuestSpec, HostSpec, HypervisorKind, SnapshotPolicy, Strategy};
use crate::journal::{Journal, RunRecord};
use crate::steps::leased::{DIRECTORY, standing};

/// Less free space than this for the journal is refused, in bytes.
const STATE_BYTES: u64 = 64 << 20;

/// One finding and where it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// `controller`, a host or a guest of the inventory.
    pub place: String,
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
}

/// Everything `doctor` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Version of this structure.
    pub schema: u32,
    /// In the order controller, hosts, guests.
    pub findings: Vec<Placed>,
}

impl Diagnosis {
    /// 0 if nothing is refused, else 7.
    pub fn exit_code(&self) -> u8 {
        let refused = self.findings.iter().any(|one| one.finding.verdict == Verdict::Refused);
        if refused { exit::REFUSED } else { exit::DONE }
    }

    fn at(&mut self, place: &str, findings: Findings) {
        let placed = findings.0.into_iter().map(|finding| Placed { place: place.to_owned(), finding });
        self.findings.extend(placed);
    }
}

/// Something that wants attention, with what helps.
fn warn(findings: &mut Findings, id: &str, detail: impl Into<String>, remedy: impl Into<String>) {
    findings.warn(id, detail);
    if let Some(last) = findings.0.last_mut() {
        last.remedy = Some(remedy.into());
    }
}

/// A failure as a finding.
fn refuse(findings: &mut Findings, id: &str, failure: Failure) {
    let Failure(error) = failure;
    let why = error.causes.join(": ");
    let detail = match &error.place {
        Some(place) => format!("failed to {}: {why} ({place})", error.message),
        None => format!("failed to {}: {why}", error.message),
    };
    findings.refuse(id, detail, error.help.unwrap_or_default());
}

impl App {
    /// Looks at everything, or at one host or guest with what it stands on.
    ///
    /// # Errors
    /// Exit code 2 if no host or guest is called so.
    pub async fn doctor(&self, word: Option<&str>) -> Result<Diagnosis, Failure> {
        let journal = self.journal_read_only();
        let runs = match &journal {
            Ok(Some(journal)) => journal.runs(true).unwrap_or_default(),
            _ => Vec::new(),
        };
        let guest = match word {
            Some(word) if !self.inventory.hosts.contains_key(word) => {
                Some(self.guest(word, journal.as_ref().ok().and_then(|journal| journal.as_deref()))?.0)
            }
            _ => None,
        };
        let spec = guest.as_ref().map(|name| self.spec(name)).transpose()?;
        let host = spec.map(|spec| spec.host.as_str()).or(word);
        let mut diagnosis = Diagnosis { schema: 1, findings: Vec::new() };

        let mut findings = Findings::default();
        self.controller(&journal, &mut findings);
        if guest.is_none() {
            self.left(&mut findings).await;
        }
        diagnosis.at("controller", findings);
        for (name, spec) in self.inventory.hosts.iter().filter(|(name, _)| host.is_none_or(|host| host == *name)) {
            let mut findings = Findings::default();
            self.host(name, spec, &mut findings).await;
            diagnosis.at(name, findings);
        }
        let wanted = |spec: &GuestSpec| match (&guest, word) {
            (Some(guest), _) => spec.name == *guest,
            (None, Some(host)) => spec.host == host,
            (None, None) => true,
        };
        for spec in self.inventory.guests.values().filter(|spec| wanted(spec)) {
            let mut findings = Findings::default();
            match (&journal, runs.iter().find(|run| run.guest == spec.name)) {
                (Ok(Some(journal)), Some(run)) => open(&**journal, run, &mut findings),
                _ => self.fit(spec, &mut findings).await,
            }
            diagnosis.at(&spec.name, findings);
        }
        Ok(diagnosis)
    }

    fn controller(&self, journal: &Result<Option<std::sync::Arc<dyn Journal>>, Failure>, findings: &mut Findings) {
        let real = |spec: &HostSpec| spec.hypervisor != HypervisorKind::Sim;
        let real = self.inventory.hosts.values().any(real);
        let mut wanted = vec![("ssh-keygen", "openssh-client", true), ("ssh", "openssh-client", real)];
        wanted.push(("rsync", "rsync", self.inventory.guests.values().any(|spec| !spec.carry.is_empty())));
        for (tool, package, _) in wanted.into_iter().filter(|(_, _, needed)| *needed) {
            if installed(tool) {
                findings.pass("tools", tool);
            } else {
                findings.refuse("tools", format!("{tool} is missing"), format!("apt install {package}"));
            }
        }
        state(&self.state, findings);
        match journal {
            Ok(None) => findings.pass("journal", "none yet"),
            Ok(Some(journal)) => match journal.runs(true) {
                Ok(open) => findings.pass("journal", format!("readable, {} open runs", open.len())),
                Err(error) => refuse(findings, "journal", error.into()),
            },
            Err(failure) => refuse(findings, "journal", failure.clone()),
        }
        writable("scratch", &self.scratch, findings);
        if real {
            units(Path::new("/etc/systemd/system"), findings);
            if let Some(why) = self.fills(journal) {
                watcher(Path::new("/etc/systemd/system"), &why, findings);
            }
        }
        if self.inventory.hosts.is_empty() {
            warn(findings, "inventory", "no hosts are declared", "put this machine into [hosts]");
        } else if self.inventory.guests.is_empty() {
            warn(findings, "inventory", "no guests are declared", "put a guest into [guests]");
        }
    }

    /// Why something has to watch snapshots on this machine, if so.
    fn fills(&self, journal: &Result<Option<std::sync::Arc<dyn Journal>>, Failure>) -> Option<String> {
        let runs = match journal {
            Ok(Some(journal)) => journal.runs(true).unwrap_or_default(),
            _ => Vec::new(),
        };
        let record = |run: &RunRecord| RunFacts::deserialize(&run.facts).ok();
        let fills = |run: &&RunRecord| record(run).is_some_and(|record| record.copying != Copies::Trees);
        if let Some(run) = runs.iter().find(fills) {
            return Some(format!("{} stands on snapshots that can fill", run.id));
        }
        let declared = |spec: &&GuestSpec| spec.clone.snapshot != SnapshotPolicy::default();
        self.inventory
            .guests
            .values()
            .find(declared)
            .map(|spec| format!("guests.{}.clone.snapshot in the inventory wants it", spec.name))
    }

    async fn left(&self, findings: &mut Findings) {
        let found = match self.leftovers(false).await {
            Ok(found) => found.found,
            // The journal's own finding tells why.
            Err(_) => return,
        };
        match found.len() {
            0 => findings.pass("leftovers", "none"),
            count => {
                let names: Vec<&str> = found.iter().take(3).map(|one| one.object.as_str()).collect();
                let more = if count > 3 { format!(" and {} more", count - 3) } else { String::new() };
                let detail = format!("marked objects of no open run: {}{more}", names.join(", "));
                warn(findings, "leftovers", detail, "upgradectl gc lists them and says which may go");
            }
        }
    }

    async fn host(&self, name: &str, spec: &HostSpec, findings: &mut Findings) {
        let hypervisor = match self.hypervisor(name) {
            Ok(hypervisor) => hypervisor,
            Err(failure) => return refuse(findings, "platform", failure),
        };
        let guests = match hypervisor.list().await {
            Ok(guests) => guests,
            Err(error) => {
                let mut failure = Failure::from(error);
                failure
                    .0
                    .help
                    .get_or_insert_with(|| "look at the platform's service and at hosts in the inventory".into());
                return refuse(findings, "platform", failure);
            }
        };
        findings.pass("platform", format!("{} answers, {} guests", hypervisor.platform(), guests.len()));
        let declared = |name: &str| self.inventory.guests.get(name).is_some_and(|guest| guest.host == *name);
        let mut btrfs = false;
        for disk in guests.iter().filter(|guest| declared(&guest.name)).flat_map(|guest| &guest.disks) {
            btrfs |= hypervisor.volume(disk).await.is_ok_and(|volume| volume.kind == VolumeKind::Btrfs);
        }
        match (btrfs, installed("btrfs")) {
            (true, false) => findings.refuse("tools", "btrfs is missing", "apt install btrfs-progs"),
            (true, true) => findings.pass("tools", "btrfs"),
            (false, _) => {}
        }
        if spec.hypervisor == HypervisorKind::Jail {
            let detail = "jails: unproven, tried against played programs of FreeBSD only";
            warn(findings, "unproven", detail.to_owned(), "try it with a server you can lose first");
        }
        if spec.hypervisor == HypervisorKind::Libvirt
            && let Some(uri) = spec.uri.as_deref().filter(|uri| !uri.starts_with("lxc:"))
        {
            let detail = format!("{uri}: unproven, only lxc:/// has been tried with real guests");
            warn(findings, "unproven", detail, "try it with a guest you can lose first");
        }
    }

    /// Whether a guest without an open run could be cloned now.
    async fn fit(&self, spec: &GuestSpec, findings: &mut Findings) {
        // The host's own finding tells why its platform cannot be used.
        for host in [&spec.host, &spec.runs_on] {
            if self.hypervisor(host).is_err() {
                return warn(findings, "platform", format!("{host} cannot be used"), "see the host");
            }
        }
        if let Err(failure) = self.try_fit(spec, findings).await {
            refuse(findings, "clone", failure);
        }
        // Told of the controller.
        findings.0.retain(|finding| finding.id != "tools");
    }

    async fn try_fit(&self, spec: &GuestSpec, findings: &mut Findings) -> Result<(), Failure> {
        if self.is_machine(spec) {
            return self.machine_fits(spec, findings).await;
        }
        let strategy = spec.clone.strategy.unwrap_or(Strategy::Snapshot);
        if strategy == Strategy::Transfer {
            return self.transfer_fits(spec, findings).await;
        }
        if self.is_jail(spec)? {
            return self.jail_fits(spec, strategy, findings).await;
        }
        let mut facts = self.gather(spec).await?;
        let wishes: Vec<AddressWish> = spec.clone.ip.iter().filter_map(|wish| wish.parse().ok()).collect();
        facts.size_copies(strategy).await?;
        let addressing = match facts.primary() {
            _ if strategy == Strategy::InPlace => address::unchanged(&facts)?,
            Some(primary) if wishes.is_empty() => {
                let remedy =
                    format!("clone.ip = [\".16\"] in the inventory, or upgradectl clone {} --ip .16", spec.name);
                warn(findings, "address", "none is declared for the clone", remedy);
                unaddressed(primary.ip)
            }
            _ => address::choose(&facts, &wishes, &[])?,
        };
        let record = clone::record(&facts, &addressing, strategy, &self.state, &self.scratch)?;
        let mut link = record.original.clone();
        link.known_hosts = self.scratch.join(format!("known_hosts.{}", spec.name));
        write_private(&link.known_hosts, &crate::guest::keys::known_hosts(&spec.name, &facts.host_keys))?;
        preflight::for_clone(&facts, &addressing, strategy, true, &link, findings).await?;
        // There is no open run whose it could be.
        let guest = facts.hypervisor.guest(&link)?;
        for left in standing(&*guest).await.unwrap_or_default() {
            let when =
                left.left_s.map_or("its timer is gone".to_owned(), |left_s| format!("due in {} s", left_s.max(0)));
            let detail = format!("a change of {} stands that is to be taken back ({when}): {}", left.run, left.about);
            let remedy = format!("take it back there: sh {DIRECTORY}/{}/tick now", left.id);
            warn(findings, "lease", detail, remedy);
        }
        let wishes = CloneWishes {
            freeze: None,
            hostname: None,
            skeletons: clone::skeletons(&facts).await?,
            fence: clone::fence(&facts, &addressing).await?,
        };
        clone::plan(&facts, &record, &wishes)?;
        Ok(())
    }
}

/// A clone whose address is not known yet.
fn unaddressed(original: std::net::IpAddr) -> Addressing {
    Addressing {
        changes: Vec::new(),
        macs: std::collections::BTreeMap::new(),
        by_card: Vec::new(),
        original,
        clone: original,
        dhcp: Vec::new(),
        by: None,
        original_places: Vec::new(),
        clone_places: Vec::new(),
    }
}

/// What there is to say of an open run.
fn open(journal: &dyn Journal, run: &RunRecord, findings: &mut Findings) {
    let status = match query::status(journal, run) {
        Ok(status) => status,
        Err(failure) => return refuse(findings, "run", failure),
    };
    let word = run.state.replace('_', " ");
    let next =
        |verbs: &[String]| verbs.iter().map(|verb| format!("upgradectl {verb} {}", run.guest)).collect::<Vec<_>>();
    if let Some(stuck) = &run.stuck {
        let remedy = format!("decide: upgradectl retry, skip or abandon {} --step {}", run.guest, stuck.index + 1);
        findings.refuse("run", format!("{} is stuck at step {}: {}", run.id, stuck.index + 1, stuck.why), remedy);
    } else if let Some(lost) = status.volumes.iter().find_map(|volume| volume.lost.as_ref()) {
        let remedy = format!("upgradectl abort {}; production was not touched", run.guest);
        findings.refuse("run", format!("the clone of {} is lost: {lost}", run.id), remedy);
    } else if status.interrupted {
        findings.refuse("run", format!("{} was interrupted while {word}", run.id), next(&status.next).join(", or "));
    } else {
        findings.pass("run", format!("{} is {word}", run.id));
    }
    if let Some(why) = status.unproven {
        warn(findings, "run", format!("{} is promoted and unproven: {why}", run.id), next(&status.next).join(", or "));
    }
}

/// The state directory: there, private, writable, with room.
fn state(path: &Path, findings: &mut Findings) {
    writable("state", path, findings);
    if !path.exists() {
        return;
    }
    if path.metadata().is_ok_and(|facts| facts.permissions().mode() & 0o077 != 0) {
        let remedy = format!("chmod 700 {}", path.display());
        warn(findings, "state", format!("{} can be entered by others than its owner", path.display()), remedy);
    }
    if let Ok(facts) = nix::sys::statvfs::statvfs(path) {
        let free = facts.blocks_available().saturating_mul(facts.fragment_size());
        if free < STATE_BYTES {
            let detail = format!("{} MiB are left in {}", free >> 20, path.display());
            findings.refuse("state", detail, "make room there: without it the journal cannot be written");
        }
    }
}

/// Whether a directory can be written in, or made.
fn writable(id: &str, path: &Path, findings: &mut Findings) {
    let Some(there) = path.ancestors().find(|path| path.exists()) else {
        return findings.refuse(id, format!("{} is no path", path.display()), "give another directory: --state DIR");
    };
    let allowed = there.is_dir() && access(there, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
    let is_there = there == path;
    let path = path.display();
    match (allowed, is_there) {
        (false, _) => findings.refuse(
            id,
            format!("{} cannot be written in", there.display()),
            "run as root, or give another directory: --state DIR",
        ),
        (true, true) => findings.pass(id, format!("{path} can be written in")),
        (true, false) => findings.pass(id, format!("{path} is not there yet and can be made")),
    }
}

/// Whether the shipped units that end what a killed controller left are enabled: at boot, and every minute.
fn units(systemd: &Path, findings: &mut Findings) {
    let links = ["timers.target.wants/upgradectl-resume.timer", "multi-user.target.wants/upgradectl-resume.service"];
    let missing: Vec<&str> = links
        .into_iter()
        .filter(|link| systemd.join(link).symlink_metadata().is_err())
        .filter_map(|link| link.rsplit('/').next())
        .collect();
    if missing.is_empty() {
        return findings.pass("units", "interrupted promotions are taken care of");
    }
    let detail = format!(
        "{} not enabled: if this machine or upgradectl dies in the middle of a promotion, production stays down until \
         somebody comes",
        missing.join(" and ")
    );
    let remedy =
        format!("copy templates/systemd/* to {}, then systemctl enable {}", systemd.display(), missing.join(" "));
    warn(findings, "units", detail, remedy);
}

/// Whether the shipped unit that watches snapshots fill is enabled, and why it should be.
fn watcher(systemd: &Path, why: &str, findings: &mut Findings) {
    const UNIT: &str = "upgradectl-watch.service";
    if systemd.join("multi-user.target.wants").join(UNIT).symlink_metadata().is_ok() {
        return findings.pass("watch", "snapshots are watched while they fill");
    }
    let detail =
        format!("{UNIT} not enabled: between verbs nobody extends a snapshot before it is full and lost ({why})");
    let remedy = format!("copy templates/systemd/{UNIT} to {}, then systemctl enable --now {UNIT}", systemd.display());
    warn(findings, "watch", detail, remedy);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn both_units_have_to_be_enabled() {
        let dir = tempfile::tempdir().unwrap();
        let look = || {
            let mut findings = Findings::default();
            units(dir.path(), &mut findings);
            findings.0.remove(0)
        };
        assert!(look().remedy.unwrap().ends_with("upgradectl-resume.timer upgradectl-resume.service"));
        for (wants, unit) in [("timers", "timer"), ("multi-user", "service")] {
            assert_eq!(look().verdict, Verdict::Warning);
            let wants = dir.path().join(format!("{wants}.target.wants"));
            std::fs::create_dir(&wants).unwrap();
            // As systemctl enable makes it; where it leads is not looked at.
            let unit = format!("upgradectl-resume.{unit}");
            symlink(format!("/etc/systemd/system/{unit}"), wants.join(unit)).unwrap();
        }
        assert_eq!(look().verdict, Verdict::Passed);
    }

    #[test]
    fn the_watch_is_wanted_with_its_reason_until_it_is_enabled() {
        let dir = tempfile::tempdir().unwrap();
        let look = || {
            let mut findings = Findings::default();
            watcher(dir.path(), "mercure--k3f9 fills", &mut findings);
            findings.0.remove(0)
        };
        let found = look();
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(
            found.detail.contains("mercure--k3f9 fills") && found.remedy.unwrap().ends_with("upgradectl-watch.service")
        );
        let wants = dir.path().join("multi-user.target.wants");
        std::fs::create_dir(&wants).unwrap();
        symlink("/etc/systemd/system/upgradectl-watch.service", wants.join("upgradectl-watch.service")).unwrap();
        assert_eq!(look().verdict, Verdict::Passed);
    }
}
