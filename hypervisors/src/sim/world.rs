//! The world on disk: where its parts lie, the lock, reading and replacing its files.
//!
//! Only [`Locked`] reads state that an effect depends on, and only it writes. `host.json` may be read without the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::boot;
pub(super) use super::boot::{fresh_id, now_ms};
use super::definition::{self, Parsed, plain_name};
use super::effect::How;
use super::file::FILE_LIMIT;
pub(super) use super::file::{read_bounded, read_json, replace, write_json};
use super::tree;
use crate::storage::Copies;
use crate::{Capabilities, Cause, Error, MacAddr, Mark, Power, Result, VolumeKind, VolumeRef};

/// The simulated machine and how it and its guests behave: `host.json`. Absent keys have the values of [`Default`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// The machine's name.
    pub name: String,
    /// Memory for guests in bytes.
    pub memory_bytes: u64,
    /// How copies of its volumes stand to their sources: `trees`, `peers` (as thin LVs) or `dependents` (as thick ones).
    pub copies: Copies,
    /// The volume group of this machine in which its volumes are logical volumes, of the kind that `copies` says; they are
    /// made, and filled, by who makes the world. `None`: they are directories of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_group: Option<String>,
    /// Bytes that can still be written to volumes, all together; what grows later is subtracted. With `dependents`: bytes
    /// free in the volume group; areas of snapshots and fresh volumes are subtracted.
    pub pool_free_bytes: u64,
    /// How long a merge drains with `dependents`, in milliseconds.
    pub merge_ms: u64,
    /// Name of its bridge.
    pub bridge: String,
    /// Hardware address of the bridge.
    pub mac: MacAddr,
    /// The machine's own addresses on the bridge.
    pub addresses: Vec<IpAddr>,
    /// Other machines on the bridge, by address.
    pub neighbours: BTreeMap<IpAddr, MacAddr>,
    /// What its DHCP server hands out, by hardware address; others get something of the pool.
    pub leases: BTreeMap<String, IpAddr>,
    /// Addresses for whoever has no lease of its own: the first that nobody has.
    pub lease_pool: Vec<IpAddr>,
    /// What its resolver knows.
    pub names: BTreeMap<String, IpAddr>,
    /// How long each operation takes, in milliseconds.
    pub latency_ms: u64,
    /// How long it takes to tell that nobody answers on the network, in milliseconds; the real thing waits about a second.
    pub silence_ms: u64,
    /// How long a guest says `starting`, in milliseconds.
    pub boot_ms: u64,
    /// How long a guest takes to shut down, in milliseconds.
    pub shutdown_ms: u64,
    /// How long a detached job takes, in milliseconds.
    pub job_ms: u64,
    /// The same for single guests and their clones, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub job_ms_of: BTreeMap<String, u64>,
    /// What the platform can do.
    pub capabilities: Capabilities,
    /// Services (`nginx.service` or `nginx`) that fail whenever they are started.
    pub failing_units: BTreeSet<String>,
    /// Configuration files (`/etc/postfix/main.cf`) that an upgrade brings a new version of.
    pub conffiles: Vec<PathBuf>,
    /// A package whose upgrade fails.
    pub upgrade_fails: Option<UpgradeFailure>,
    /// Bytes that one package's upgrade writes.
    pub package_bytes: u64,
    /// Guests can freeze their file systems.
    pub fsfreeze: bool,
    /// A frozen guest thaws by itself after so many milliseconds, whatever it was asked for.
    pub freeze_ms: Option<u64>,
    /// The machine and its guests have timers: what is leased is taken back by itself.
    pub timers: bool,
    /// The guests' systemd; before 232 it cannot wait.
    pub systemd: u32,
}

/// A package that cannot be configured until the operator mends the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeFailure {
    /// The package.
    pub package: String,
    /// What its maintainer script prints.
    pub message: String,
    /// It succeeds once this file exists in the guest.
    pub until: PathBuf,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            name: "here".into(),
            memory_bytes: 8 << 30,
            copies: Copies::Trees,
            volume_group: None,
            pool_free_bytes: 20 << 30,
            merge_ms: 0,
            bridge: "br5".into(),
            mac: MacAddr([0x52, 0x54, 0, 0, 5, 1]),
            addresses: vec![IpAddr::from([10, 0, 5, 1])],
            neighbours: BTreeMap::new(),
            leases: BTreeMap::new(),
            lease_pool: Vec::new(),
            names: BTreeMap::new(),
            latency_ms: 0,
            silence_ms: 20,
            boot_ms: 0,
            shutdown_ms: 0,
            job_ms: 0,
            job_ms_of: BTreeMap::new(),
            capabilities: Capabilities { shares_host_kernel: true, reboots_from_memory: true, can_pause: true },
            failing_units: BTreeSet::new(),
            conffiles: vec!["/etc/postfix/main.cf".into()],
            upgrade_fails: None,
            package_bytes: 2 << 20,
            fsfreeze: true,
            freeze_ms: None,
            timers: true,
            systemd: 252,
        }
    }
}

/// What is known of a guest besides its definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Runtime {
    pub power: Power,
    pub autostart: bool,
    /// How often it was booted; distinguishes boots.
    pub boots: u64,
    pub boot_id: String,
    /// Milliseconds since the epoch.
    pub booted_ms: u64,
    /// The definition it was started with.
    pub live: Option<String>,
    /// Volumes renamed under it: the name in `live`, and the name now. What it has open follows, what it reboots by does not.
    pub renamed: BTreeMap<String, String>,
    pub nics: Vec<LiveNic>,
    /// Routing rules beside the system's own.
    pub rules: Vec<super::rules::Rule>,
    /// Services that run, with suffix.
    pub units: BTreeSet<String>,
    /// Services that failed to start, with suffix.
    pub failed: BTreeSet<String>,
    /// Its file systems are frozen, or were until their timer fired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Frozen>,
}

/// Frozen file systems.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Frozen {
    /// Who asked for it.
    pub name: String,
    /// When the guest's own timer fires, in milliseconds since the epoch.
    pub until_ms: u64,
}

impl Default for Runtime {
    fn default() -> Self {
        Self {
            power: Power::Off,
            autostart: false,
            boots: 0,
            boot_id: String::new(),
            booted_ms: 0,
            live: None,
            renamed: BTreeMap::new(),
            nics: Vec::new(),
            rules: Vec::new(),
            units: BTreeSet::new(),
            failed: BTreeSet::new(),
            frozen: None,
        }
    }
}

/// A card of a running guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LiveNic {
    pub name: String,
    pub mac: MacAddr,
    pub bridge: String,
    /// Addresses with their prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Runtime {
    /// Addresses that answer: none while it is off or paused.
    pub fn answers(&self, address: IpAddr) -> Option<&LiveNic> {
        let has = |nic: &&LiveNic| nic.addresses.iter().any(|(a, _)| *a == address);
        self.nics.iter().filter(|_| self.power == Power::On).find(has)
    }
    /// The definition it runs by, with its volumes under the names they have now.
    pub fn parsed(&self) -> Result<Parsed> {
        let mut parsed = definition::parse(self.live.as_deref().unwrap_or_default())?;
        for disk in &mut parsed.disks {
            if let Some(now) = self.renamed.get(&disk.volume) {
                disk.volume.clone_from(now);
            }
        }
        Ok(parsed)
    }
    /// A volume was renamed: what it has open follows.
    pub fn follow(&mut self, from: &str, to: &str) {
        let known = self.renamed.iter().find(|(_, now)| *now == from).map(|(named, _)| named.clone());
        self.renamed.insert(known.unwrap_or_else(|| from.to_owned()), to.to_owned());
    }
}

/// What lies beside a volume's tree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct VolumeMeta {
    /// Size of its file system in bytes.
    pub capacity_bytes: u64,
    /// Bytes it held when it was made (what a real guest would hold, not the size of the few simulated files).
    pub used_bytes: u64,
    /// Real size of the simulated files when it was made.
    pub base_bytes: u64,
    /// Bytes that package upgrades have written since, as far as no file stands for them.
    pub written_bytes: u64,
    /// A snapshot that differs by more is dead.
    pub limit_bytes: Option<u64>,
    /// What names it for good; see `Locked::id`.
    pub id: String,
    /// Id of the volume it is a snapshot of, which may be gone.
    pub origin: Option<String>,
    /// What its origin's `Locked::turnover` was when it was made.
    pub origin_base: u64,
    /// Bytes that had been changed in it before its present content was merged into it.
    pub turnover_bytes: u64,
    /// Bytes it takes of the volume group, where nothing is shared.
    pub area_bytes: u64,
    /// A merge into it that is decided or under way.
    pub merging: Option<super::merge::Merging>,
    /// It is not activated when its host starts.
    pub skip: bool,
    /// Its host has started since, without it.
    pub inactive: bool,
    /// The swap space it is.
    pub swap: Option<SwapSpace>,
    /// It was full once: its content is lost.
    pub invalid: bool,
    /// Run mark, in the form of [`Mark`]'s `Display`.
    #[serde(with = "mark_text")]
    pub mark: Option<Mark>,
    /// Who is making or removing it; the tree is not whole while this is set.
    #[serde(with = "mark_text")]
    pub intent: Option<Mark>,
    /// Volumes nested in it, relative.
    pub nested: Vec<PathBuf>,
    /// Detached work of the guest whose root this is.
    pub jobs: BTreeMap<String, super::jobs::Record>,
}

/// What `mkswap` leaves in a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SwapSpace {
    pub label: String,
    pub uuid: String,
}

mod mark_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::Mark;

    pub fn serialize<S: Serializer>(mark: &Option<Mark>, to: S) -> Result<S::Ok, S::Error> {
        match mark {
            Some(mark) => to.collect_str(mark),
            None => to.serialize_none(),
        }
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Mark>, D::Error> {
        let text: Option<String> = Option::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A simulated world. Cheap to clone; all state is on disk.
#[derive(Clone, Debug)]
pub struct Sim {
    dir: Arc<Path>,
    part: Arc<str>,
}

impl Sim {
    /// Opens the world in a directory made by [`Sim::create`] or [`super::seed()`].
    pub fn open(dir: &Path) -> Result<Self> {
        let doing = || format!("open the simulated world {}", dir.display());
        let path = dir.canonicalize().map_err(|error| Error::io(doing(), error))?;
        if !path.join("host.json").is_file() {
            return Err(Error::not_found(doing(), "there is no host.json in it")
                .help("`upgradectl init --sim` makes a simulated world"));
        }
        let sim = Self { dir: path.into(), part: "".into() };
        sim.boot_with_its_machine()?;
        Ok(sim)
    }

    /// Makes an empty world. Refuses a directory that has one.
    pub fn create(dir: &Path, config: &HostConfig) -> Result<Self> {
        let doing = || format!("make the simulated world {}", dir.display());
        let io = |error| Error::io(doing(), error);
        if dir.join("host.json").exists() {
            return Err(Error::refused(doing(), "there is one already"));
        }
        for part in ["volumes", "definitions", "power", "hostfs"] {
            fs::create_dir_all(dir.join(part)).map_err(io)?;
        }
        write_json(&dir.join("host.json"), config)?;
        Self::open(dir)
    }

    /// The directory it lies in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Another host of the same world, by a name: it sees the same volumes and the same network, and has guests and files
    /// (`hostfs@NAME/`) of its own. The host without a name is the first.
    #[must_use]
    pub fn part(&self, name: &str) -> Self {
        Self { dir: Arc::clone(&self.dir), part: name.into() }
    }

    /// The name of this host among those of its world; empty for the first.
    pub(super) fn part_name(&self) -> &str {
        &self.part
    }

    /// Where this host's own files lie.
    pub(super) fn hostfs(&self) -> PathBuf {
        match &*self.part {
            "" => self.dir.join("hostfs"),
            name => self.dir.join(format!("hostfs@{name}")),
        }
    }

    /// The machine as `host.json` describes it now.
    pub fn config(&self) -> Result<HostConfig> {
        read_json(&self.dir.join("host.json"))?
            .ok_or_else(|| Error::not_found("read host.json", "the simulated world is gone"))
    }

    /// Changes `host.json`; takes effect with the next operation.
    pub fn configure(&self, change: impl FnOnce(&mut HostConfig)) -> Result<()> {
        let _lock = self.lock()?;
        let mut config = self.config()?;
        change(&mut config);
        write_json(&self.dir.join("host.json"), &config)
    }

    /// A volume of this world, existing or not.
    pub fn volume_ref(&self, name: &str) -> VolumeRef {
        VolumeRef { kind: VolumeKind::Sim, path: self.volumes().join(name) }
    }

    /// Registers the directory `volumes/NAME`, filled by the caller (made if absent), as a volume.
    pub fn add_volume(&self, name: &str, capacity_bytes: u64, used_bytes: u64) -> Result<VolumeRef> {
        let volume = self.volume_ref(name);
        definition::volume_name(&volume.path, &self.volumes())?;
        let world = self.lock()?;
        fs::create_dir_all(&volume.path).map_err(|error| Error::io(format!("make volume {name}"), error))?;
        let base_bytes = tree::size(&volume.path);
        let id = fresh_id(name);
        let meta = VolumeMeta { capacity_bytes, used_bytes, base_bytes, id, ..VolumeMeta::default() };
        world.set_volume(name, &meta)?;
        Ok(volume)
    }

    /// Makes a volume of swap space.
    pub fn add_swap(&self, name: &str, capacity_bytes: u64, label: &str) -> Result<VolumeRef> {
        let volume = self.add_volume(name, capacity_bytes, 0)?;
        let world = self.lock()?;
        let swap = Some(SwapSpace { label: label.to_owned(), uuid: boot::uuid(&format!("swap {name}")) });
        let meta = VolumeMeta { swap, ..world.volume(name)?.unwrap_or_default() };
        world.set_volume(name, &meta)?;
        Ok(volume)
    }

    /// Makes a volume die when it has grown by more than this since it was made (`None`: never).
    pub fn limit_volume(&self, name: &str, bytes: Option<u64>) -> Result<()> {
        let world = self.lock()?;
        let mut meta = world
            .volume(name)?
            .ok_or_else(|| Error::not_found(format!("limit volume {name}"), "there is no such volume"))?;
        meta.limit_bytes = bytes;
        world.set_volume(name, &meta)
    }

    pub(super) fn volumes(&self) -> PathBuf {
        self.dir.join("volumes")
    }

    /// Takes the lock. Held for one operation and never over an await.
    pub(super) fn lock(&self) -> Result<Locked> {
        let doing = "lock the simulated world";
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.dir.join("lock"))
            .map_err(|error| Error::io(doing, error))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| Error::io(doing, errno.into()))?;
        Ok(Locked { sim: self.clone(), _lock: lock, fault: None, conflicts: Vec::new() })
    }
}

/// The world while this operation has it alone.
#[derive(Debug)]
pub(super) struct Locked {
    pub sim: Sim,
    _lock: Flock<File>,
    /// A fault that strikes in the middle.
    pub fault: Option<How>,
    /// What this operation has brought about and a real world would not survive; goes into the trace.
    pub conflicts: Vec<String>,
}

impl Locked {
    fn file(&self, part: &str, name: &str) -> Result<PathBuf> {
        if !plain_name(name) {
            return Err(Error::refused(format!("use the name {name:?}"), "it cannot be a name of the simulated world"));
        }
        Ok(self.sim.dir.join(part).join(format!("{name}.json")))
    }
    fn names(&self, part: &str) -> Result<Vec<String>> {
        let path = self.sim.dir.join(part);
        let doing = || format!("read {}", path.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(|error| Error::io(doing(), error))? {
            let name = entry.map_err(|error| Error::io(doing(), error))?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".json")).filter(|name| plain_name(name));
            names.extend(name.map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Names of all defined guests, sorted.
    pub fn defined(&self) -> Result<Vec<String>> {
        self.names("definitions")
    }
    /// A stored definition's text.
    pub fn definition(&self, guest: &str) -> Result<Option<String>> {
        let path = self.file("definitions", guest)?;
        let bytes = read_bounded(&path, FILE_LIMIT).map_err(|error| Error::io(format!("read {guest}"), error))?;
        bytes
            .map(String::from_utf8)
            .transpose()
            .map_err(|_| Error::new(format!("read the definition of {guest}"), Cause::Malformed("not UTF-8".into())))
    }
    /// Stores a definition's text; `None` removes it.
    pub fn set_definition(&self, guest: &str, text: Option<&str>) -> Result<()> {
        let path = self.file("definitions", guest)?;
        match text {
            Some(text) => replace(&path, text.as_bytes()),
            None => fs::remove_file(&path),
        }
        .and_then(|()| self.settle(&path))
        .map_err(|error| Error::io(format!("store the definition of {guest}"), error))
    }
    /// The host that a guest is defined on; empty: the first.
    pub fn part_of(&self, guest: &str) -> Result<String> {
        Ok(read_json(&self.file("parts", guest)?)?.unwrap_or_default())
    }
    /// Notes the host that a guest is defined on.
    pub fn set_part(&self, guest: &str, part: &str) -> Result<()> {
        let path = self.file("parts", guest)?;
        match part {
            "" => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::io(format!("place {guest}"), error))
                }
                _ => Ok(()),
            },
            _ => {
                let directory = self.sim.dir().join("parts");
                fs::create_dir_all(directory).map_err(|error| Error::io(format!("place {guest}"), error))?;
                write_json(&path, &part)
            }
        }
    }
    /// What is known of a guest's power; a guest never seen is off.
    pub fn runtime(&self, guest: &str) -> Result<Runtime> {
        Ok(read_json(&self.file("power", guest)?)?.unwrap_or_default())
    }
    pub fn set_runtime(&self, guest: &str, runtime: &Runtime) -> Result<()> {
        let path = self.file("power", guest)?;
        write_json(&path, runtime)?;
        self.settle(&path).map_err(|error| Error::io(format!("write {}", path.display()), error))
    }
    /// Forgets power and autostart of an undefined guest.
    pub fn forget_runtime(&self, guest: &str) -> Result<()> {
        match fs::remove_file(self.file("power", guest)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("forget {guest}"), error)),
            _ => Ok(()),
        }
    }
    /// Every guest that is not off, sorted.
    pub fn running(&self) -> Result<Vec<(String, Runtime)>> {
        let mut running = Vec::new();
        for name in self.names("power")? {
            let runtime = self.runtime(&name)?;
            if runtime.power != Power::Off {
                running.push((name, runtime));
            }
        }
        Ok(running)
    }
    /// The running guests that answer for an address, with the card.
    pub fn owners(&self, address: IpAddr) -> Result<Vec<(String, LiveNic)>> {
        let running = self.running()?;
        Ok(running.into_iter().filter_map(|(name, rt)| rt.answers(address).cloned().map(|nic| (name, nic))).collect())
    }
    /// Names of all volumes with metadata, sorted.
    pub fn volume_names(&self) -> Result<Vec<String>> {
        self.names("volumes")
    }
    pub fn volume(&self, name: &str) -> Result<Option<VolumeMeta>> {
        if self.sim.group()?.is_some() {
            return self.described(name);
        }
        read_json(&self.file("volumes", name)?)
    }
    pub fn set_volume(&self, name: &str, meta: &VolumeMeta) -> Result<()> {
        if self.sim.group()?.is_some() {
            return self.describe(name, meta);
        }
        write_json(&self.file("volumes", name)?, meta)
    }
    pub fn forget_volume(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.file("volumes", name)?) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("forget {name}"), error)),
            _ => Ok(()),
        }
    }
    pub fn tree(&self, volume: &str) -> PathBuf {
        self.sim.volumes().join(volume)
    }
}
