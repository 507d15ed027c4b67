//! What happens when a simulated guest starts and stops: it takes its addresses and services from its own files.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::addresses::{self, Configured};
use super::definition::{self, Parsed};
use super::tree;
use super::world::{HostConfig, LiveNic, Locked, Runtime, VolumeMeta, now_ms};
use crate::{Cause, Error, MacAddr, Power, Result};

impl Locked {
    /// Starts a guest that is off by this definition. Refuses if a volume is missing or not whole. An address or
    /// volume that another running guest has is not refused (no real platform does) but noted as a conflict.
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
        self.midpoint(&doing)?;
        let root = self.tree(&root.volume);
        let mut runtime = self.runtime(guest)?;
        runtime.boots += 1;
        runtime.power = Power::On;
        runtime.boot_id = uuid(&format!("{} {guest} {} {}", self.sim.dir().display(), runtime.boots, now_ms()));
        runtime.booted_ms = now_ms();
        runtime.live = Some(text.to_owned());
        runtime.nics = nics(&parsed, &addresses::read(&root), &config, &runtime.boot_id);
        (runtime.units, runtime.failed) = services(&root, &config);
        self.note_conflicts(guest, &parsed, &runtime)?;
        self.set_runtime(guest, &runtime)
    }

    /// Ends a guest: its addresses are silent, its jobs are settled or lost.
    pub fn halt(&mut self, guest: &str) -> Result<()> {
        let runtime = self.runtime(guest)?;
        if let Ok(parsed) = runtime.parsed() {
            self.settle_jobs(guest, &parsed, &runtime, true)?;
        }
        let off = Runtime { autostart: runtime.autostart, boots: runtime.boots, ..Runtime::default() };
        self.set_runtime(guest, &off)
    }

    /// A volume that can be read: there, whole, not overflown.
    pub fn usable(&self, doing: &str, volume: &str) -> Result<VolumeMeta> {
        let meta = self.volume(volume)?.filter(|_| self.tree(volume).is_dir());
        let Some(meta) = meta else {
            return Err(Error::not_found(doing, format!("volume {volume} does not exist")));
        };
        if meta.intent.is_some() {
            return Err(Error::refused(doing, format!("volume {volume} is not whole")));
        }
        if self.is_full(volume, &meta)? {
            let why = format!("volume {volume}: input/output error, the snapshot is full and lost");
            return Err(Error::new(doing, Cause::Platform(why)));
        }
        Ok(meta)
    }

    fn note_conflicts(&mut self, guest: &str, parsed: &Parsed, runtime: &Runtime) -> Result<()> {
        let neighbours = self.sim.config()?.neighbours;
        for (other, theirs) in self.running()? {
            if other == guest {
                continue;
            }
            for nic in &runtime.nics {
                for twin in theirs.nics.iter().filter(|twin| twin.bridge == nic.bridge) {
                    if twin.mac == nic.mac {
                        self.conflicts.push(format!("{} is the hardware address of {guest} and {other}", nic.mac));
                    }
                    for (ip, _) in nic.addresses.iter().filter(|(ip, _)| twin.addresses.iter().any(|(a, _)| a == ip)) {
                        self.conflicts.push(format!("{ip} is the address of {guest} and {other}"));
                    }
                }
            }
            for disk in theirs.parsed()?.disks.iter().filter(|disk| !disk.readonly && !disk.shareable) {
                if parsed.disks.iter().any(|mine| mine.volume == disk.volume && !mine.readonly) {
                    self.conflicts.push(format!("volume {} is written by {guest} and {other}", disk.volume));
                }
            }
        }
        for (ip, _) in runtime.nics.iter().flat_map(|nic| &nic.addresses) {
            if neighbours.contains_key(ip) {
                self.conflicts.push(format!("{ip} is the address of {guest} and of a neighbour"));
            }
        }
        Ok(())
    }
}

fn nics(parsed: &Parsed, configured: &[Configured], config: &HostConfig, boot_id: &str) -> Vec<LiveNic> {
    let live = |(index, nic): (usize, crate::Nic)| {
        let name = nic.name.unwrap_or_default();
        let mac = nic.mac.unwrap_or_else(|| drawn_mac(&format!("{boot_id} {index}")));
        let of_nic = |c: &&Configured| c.matches.map_or(c.name == name, |wanted| wanted == mac);
        let mine: Vec<&Configured> = configured.iter().filter(of_nic).collect();
        let mac = mine.iter().find_map(|c| c.mac).unwrap_or(mac);
        let mut addresses: Vec<(IpAddr, u8)> = mine.iter().flat_map(|c| c.addresses.clone()).collect();
        if mine.iter().any(|c| c.dhcp) {
            addresses.extend(config.leases.get(&mac.to_string()).map(|ip| (*ip, 24)));
        }
        LiveNic { name, mac, bridge: nic.bridge, addresses }
    };
    parsed.nics().into_iter().enumerate().map(live).collect()
}

/// The services that a boot starts: enabled, present, not masked; and of these, those that fail.
fn services(root: &Path, config: &HostConfig) -> (BTreeSet<String>, BTreeSet<String>) {
    enabled(root).into_iter().filter(|unit| unit_state(root, unit) == "enabled").partition(|unit| !fails(config, unit))
}

/// Whether the world says that a service fails to start.
pub(super) fn fails(config: &HostConfig, unit: &str) -> bool {
    config.failing_units.contains(unit)
        || unit.strip_suffix(".service").is_some_and(|u| config.failing_units.contains(u))
}

/// Units with a link in `etc/systemd/system/*.wants`.
fn enabled(root: &Path) -> BTreeSet<String> {
    let system = root.join("etc/systemd/system");
    let wants = fs::read_dir(system).into_iter().flatten().flatten();
    let wants = wants.filter(|entry| entry.file_name().to_string_lossy().ends_with(".wants"));
    let units = wants.flat_map(|entry| fs::read_dir(entry.path()).into_iter().flatten().flatten());
    units.filter_map(|unit| unit.file_name().into_string().ok()).filter(|unit| unit.ends_with(".service")).collect()
}

/// `masked`, `enabled`, `disabled` or `not-found`, as `systemctl is-enabled` says.
pub(super) fn unit_state(root: &Path, unit: &str) -> &'static str {
    let own = root.join("etc/systemd/system").join(unit);
    if fs::read_link(&own).is_ok_and(|target| target == Path::new("/dev/null")) {
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

fn drawn_mac(seed: &str) -> MacAddr {
    let digest = Sha256::digest(seed.as_bytes());
    MacAddr([0x02, digest[0], digest[1], digest[2], digest[3], digest[4]])
}
