//! What happens when a simulated guest starts and stops: it takes its addresses and services from its own files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::addresses::{self, Configured};
use super::definition::{self, Parsed};
use super::world::{HostConfig, LiveNic, Locked, Runtime, VolumeMeta};
use super::{rules, tree};
use crate::{Cause, Error, MacAddr, Power, Result};

impl Locked {
    /// Starts a guest that is off by this definition. Refuses if a volume is missing or not whole. An address or
    /// volume that another running guest has is not refused (no real platform does); the trace shows it.
    pub fn boot(&mut self, guest: &str, text: &str) -> Result<()> {
        let doing = format!("start {guest}");
        let parsed = definition::parse(text)?;
        let config = self.sim.config()?;
        for disk in &parsed.disks {
            self.usable(&doing, &disk.volume)?;
        }
        let Some(root) = parsed.root() else {
            return Err(Error::refused(doing, "its definition names no root disk"));
        };
        self.plug(&doing, &parsed)?;
        self.midpoint(&doing)?;
        let root = self.tree(&root.volume);
        let mut runtime = self.runtime(guest)?;
        runtime.boots += 1;
        runtime.power = Power::On;
        runtime.boot_id = uuid(&format!("{} {guest} {} {}", self.sim.dir().display(), runtime.boots, now_ms()));
        runtime.booted_ms = now_ms();
        runtime.live = Some(text.to_owned());
        runtime.renamed.clear();
        let free =
            |ip: &IpAddr| -> Result<bool> { Ok(!config.neighbours.contains_key(ip) && self.owners(*ip)?.is_empty()) };
        let mut pool = Vec::new();
        for ip in &config.lease_pool {
            if free(ip)? {
                pool.push(*ip);
            }
        }
        runtime.nics = nics(&parsed, &addresses::read(&root), (&config, pool), &runtime.boot_id);
        // /run is made anew by each boot.
        for name in tree::names(&root, "run") {
            let Ok(place) = tree::resolve(&root, &Path::new("run").join(name), false) else { continue };
            let gone =
                if place.is_dir() && !place.is_symlink() { fs::remove_dir_all(place) } else { fs::remove_file(place) };
            gone.map_err(|error| Error::io(&doing, error))?;
        }
        runtime.rules = rules::at_boot(&root, &config);
        (runtime.units, runtime.failed) = services(&root, &config);
        self.set_runtime(guest, &runtime)
    }

    /// Ends a guest: its addresses are silent, its jobs are settled or lost. `clean`: it has shut down.
    pub fn halt(&mut self, guest: &str, clean: bool) -> Result<()> {
        let runtime = self.runtime(guest)?;
        if let Ok(parsed) = runtime.parsed() {
            self.settle_jobs(guest, &parsed, &runtime, true)?;
            self.unplug(&parsed, clean)?;
        }
        let off = Runtime { autostart: runtime.autostart, boots: runtime.boots, ..Runtime::default() };
        self.set_runtime(guest, &off)
    }

    /// A volume that can be read: there, whole, not overflown.
    pub fn usable(&self, doing: &str, volume: &str) -> Result<VolumeMeta> {
        if let Some(group) = self.sim.group()? {
            self.readable(doing, &group, volume)?;
            return Ok(self.volume(volume)?.unwrap_or_default());
        }
        let meta = self.volume(volume)?.filter(|_| self.tree(volume).is_dir());
        let Some(meta) = meta else {
            return Err(Error::not_found(doing, format!("volume {volume} does not exist")));
        };
        if meta.intent.is_some() {
            return Err(Error::refused(doing, format!("volume {volume} is not whole")));
        }
        if let Some(origin) = self.merging_into(volume, &meta)? {
            return Err(Error::refused(doing, format!("volume {volume} is being merged into {origin}")));
        }
        if meta.inactive {
            let why = format!("volume {volume} is not active: its host started without it (activation skip)");
            return Err(Error::refused(doing, why));
        }
        if self.is_full(volume, &meta)? {
            let why = format!("volume {volume}: input/output error, the snapshot is full and lost");
            return Err(Error::new(doing, Cause::Platform(why)));
        }
        Ok(meta)
    }

    /// What no real world would survive, among the guests that run now: two owners of an address, two writers of a volume.
    /// A paused guest owns no address.
    pub fn standing_conflicts(&self, running: &[(String, Runtime)]) -> Result<Vec<String>> {
        let neighbours = self.sim.config()?.neighbours;
        let mut claims: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let mut claim = |what: String, guest| claims.entry(what).or_default().push(guest);
        for (guest, runtime) in running {
            for nic in runtime.nics.iter().filter(|_| runtime.power == Power::On) {
                claim(format!("{} on {}", nic.mac, nic.bridge), guest.as_str());
                for (ip, _) in &nic.addresses {
                    claim(format!("{ip} on {}", nic.bridge), guest);
                    if neighbours.contains_key(ip) {
                        claim(format!("{ip} on {}", nic.bridge), "a neighbour");
                    }
                }
            }
            for disk in runtime.parsed()?.disks.iter().filter(|disk| !disk.readonly && !disk.shareable) {
                claim(format!("volume {}", disk.volume), guest);
            }
        }
        let shared = claims.into_iter().filter(|(_, guests)| guests.len() > 1);
        Ok(shared.map(|(what, guests)| format!("{what} is claimed by {}", guests.join(" and "))).collect())
    }
}

fn nics(
    parsed: &Parsed,
    configured: &[Configured],
    (config, pool): (&HostConfig, Vec<IpAddr>),
    boot_id: &str,
) -> Vec<LiveNic> {
    let mut pool = pool.into_iter();
    let live = |(index, nic): (usize, crate::Nic)| {
        let name = nic.name.unwrap_or_default();
        let mac = nic.mac.unwrap_or_else(|| drawn_mac(&format!("{boot_id} {index}")));
        let of_nic = |c: &&Configured| c.matches.map_or(c.name == name, |wanted| wanted == mac);
        let mine: Vec<&Configured> = configured.iter().filter(of_nic).collect();
        let mac = mine.iter().find_map(|c| c.mac).unwrap_or(mac);
        let mut addresses: Vec<(IpAddr, u8)> = mine.iter().flat_map(|c| c.addresses.clone()).collect();
        if mine.iter().any(|c| c.dhcp) {
            let lease = config.leases.get(&mac.to_string()).copied().or_else(|| pool.next());
            addresses.extend(lease.map(|ip| (ip, 24)));
        }
        LiveNic { name, mac, bridge: nic.bridge, addresses }
    };
    parsed.nics().into_iter().enumerate().map(live).collect()
}

/// The services that a boot starts: enabled, present, not masked; and of these, those that fail.
fn services(root: &Path, config: &HostConfig) -> (BTreeSet<String>, BTreeSet<String>) {
    enabled(root)
        .into_iter()
        .filter(|unit| unit_state(root, unit) == "enabled" && meets_condition(root, unit))
        .partition(|unit| !fails(config, unit))
}

/// Whether what the `ConditionPathExists=` of a unit's drop-ins name is there (systemd.unit(5)).
pub(super) fn meets_condition(root: &Path, unit: &str) -> bool {
    let directory = Path::new("etc/systemd/system").join(format!("{unit}.d"));
    tree::names(root, &directory).into_iter().all(|name| {
        let text = tree::resolve(root, &directory.join(name), true).and_then(fs::read_to_string).unwrap_or_default();
        let wanted = text.lines().find_map(|line| line.strip_prefix("ConditionPathExists="));
        wanted.is_none_or(|path| tree::resolve(root, Path::new(path), true).is_ok_and(|place| place.exists()))
    })
}

/// Whether the world says that a service fails to start.
pub(super) fn fails(config: &HostConfig, unit: &str) -> bool {
    config.failing_units.contains(unit)
        || unit.strip_suffix(".service").is_some_and(|u| config.failing_units.contains(u))
}

/// Units with a link in `etc/systemd/system/*.wants`.
fn enabled(root: &Path) -> BTreeSet<String> {
    let system = Path::new("etc/systemd/system");
    let wants = tree::names(root, system).into_iter().filter(|name| name.ends_with(".wants"));
    wants.flat_map(|wants| tree::names(root, system.join(wants))).filter(|unit| unit.ends_with(".service")).collect()
}

/// `masked`, `enabled`, `disabled` or `not-found`, as `systemctl is-enabled` says.
pub(super) fn unit_state(root: &Path, unit: &str) -> &'static str {
    let own = tree::resolve(root, &Path::new("etc/systemd/system").join(unit), false);
    if own.and_then(fs::read_link).is_ok_and(|target| target == Path::new("/dev/null")) {
        return "masked";
    }
    let exists = |dir: &str| tree::resolve(root, &Path::new(dir).join(unit), true).is_ok_and(|path| path.is_file());
    if !["etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system"].into_iter().any(exists) {
        return "not-found";
    }
    if enabled(root).contains(unit) { "enabled" } else { "disabled" }
}

/// A random-looking version 4 UUID that follows from `seed`.
pub(super) fn uuid(seed: &str) -> String {
    let digest = Sha256::digest(seed.as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// An id for a volume that is being made.
pub(super) fn fresh_id(name: &str) -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    uuid(&format!("volume {name} {nanos}"))
}

/// Milliseconds since the epoch.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn drawn_mac(seed: &str) -> MacAddr {
    let digest = Sha256::digest(seed.as_bytes());
    MacAddr([0x02, digest[0], digest[1], digest[2], digest[3], digest[4]])
}
