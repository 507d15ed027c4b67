//! Steps on volumes: copies at one instant, marks, removal.

use std::collections::BTreeSet;

use async_trait::async_trait;
use hypervisors::storage::{CopyRequest, CowSize, Snapshot as Found, lvm};
use hypervisors::{Change, DiskSource, Mark, Power, Role, VolumeKind, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::freeze::{Doubt, Freeze, Held};
use super::leased::Leased;
use super::place::Place;
use super::shown::lv;
use super::{Act, Done, Manners, Probe, Step, StepError, World};

/// A guest that is paused for a copy is woken by its host so many seconds after it has last heard of us.
const PAUSE_S: u64 = 30;

/// One volume and the copy made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// What is copied.
    pub source: VolumeRef,
    /// The copy.
    pub target: VolumeRef,
    /// Size of the copy's own area, for kinds of volume that have one; absent: so large that it cannot fill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<CowSize>,
}

impl Pair {
    /// A copy with no area of its own, or one that cannot fill.
    pub fn new(source: &VolumeRef, target: &VolumeRef) -> Self {
        Self { source: source.clone(), target: target.clone(), size: None }
    }
}

/// The last part of a volume's path.
pub(super) fn file_name(volume: &VolumeRef) -> String {
    volume.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Volumes as they are named in a sentence.
pub(super) fn listed(volumes: &[VolumeRef]) -> String {
    volumes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Each kind once.
pub(super) fn kinds(kinds: impl Iterator<Item = VolumeKind>) -> BTreeSet<VolumeKind> {
    kinds.collect()
}

/// Makes writable copies of a set of volumes as they are at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Inventory host.
    pub host: String,
    /// Guest that runs on the sources.
    pub guest: String,
    /// Whether it is paused for the instant.
    pub pause: bool,
    /// What is copied where.
    pub copies: Vec<Pair>,
    /// Role of the copies.
    pub role: Role,
    /// Its file systems are frozen for the instant; if that does not work out it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
}

impl Snapshot {
    fn mark(&self, world: &World) -> Mark {
        Mark { run: world.run.clone(), role: self.role }
    }

    /// The pause as a change that its host takes back by itself, if it has a command for that.
    async fn leased_pause(&self, world: &World) -> Result<Option<Leased>, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let leased = |reversal| Leased {
            name: format!("the pause of {}", self.guest),
            place: Place::Host(self.host.clone()),
            reversal,
            seconds: PAUSE_S,
            limit_s: PAUSE_S,
        };
        Ok(hypervisor.resume_command(&self.guest).await?.map(leased))
    }

    /// Pauses the guest, and sees to it that its host wakes it if we do not. Where nothing keeps time (no systemd, no at) it
    /// stays paused until the run is gone on with. Why the host cannot, if something else is in the way.
    async fn pause(&self, world: &World) -> Result<Option<String>, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        if !self.pause || hypervisor.power(&self.guest).await? == Power::Off {
            return Ok(None);
        }
        Doubt::of(world).begin()?;
        let mut cannot = None;
        if let Some(leased) = self.leased_pause(world).await?
            // That it works is tried while there is nothing to do for it.
            && let Err(error) = leased.make(world, &leased.reversal).await
        {
            leased.forget(world).await?;
            cannot = Some(error.to_string());
        }
        hypervisor.pause(&self.guest).await?;
        Ok(cannot)
    }

    async fn thaw(&self, world: &World) -> Result<(), StepError> {
        if !self.pause {
            return Ok(());
        }
        let hypervisor = world.hypervisor(&self.host)?;
        if hypervisor.power(&self.guest).await? == Power::Paused {
            hypervisor.resume(&self.guest).await?;
        }
        let leased = if Doubt::of(world).stands() { self.leased_pause(world).await? } else { None };
        match leased {
            Some(leased) => leased.forget(world).await,
            None => Ok(()),
        }
    }

    /// Removes what an interrupted attempt left: that is not of this instant.
    async fn clear(&self, world: &World) -> Result<(), StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let mark = self.mark(world);
        for Pair { target, .. } in &self.copies {
            let storage = hypervisor.storage(target.kind)?;
            if let Found::Partial | Found::Present = storage.probe(target, &mark).await? {
                storage.remove(target, &world.run).await?;
            }
        }
        Ok(())
    }

    async fn take(&self, world: &World) -> Result<(), StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        for kind in kinds(self.copies.iter().map(|pair| pair.source.kind)) {
            let of_kind = self.copies.iter().filter(|pair| pair.source.kind == kind);
            let requests: Vec<CopyRequest<'_>> =
                of_kind.map(|Pair { source, target, size }| CopyRequest { source, target, size: *size }).collect();
            let names: Vec<String> = requests.iter().map(|copy| copy.source.to_string()).collect();
            world.progress(format!("copying {}", names.join(", ")), None);
            hypervisor.storage(kind)?.snapshot_set(&requests, &self.mark(world)).await?;
        }
        Ok(())
    }

    async fn take_paused(&self, world: &World) -> Result<Option<String>, StepError> {
        self.clear(world).await?;
        let cannot = self.pause(world).await?;
        self.take(world).await?;
        let power = world.hypervisor(&self.host)?.power(&self.guest).await?;
        if self.pause && power == Power::On {
            return Err(StepError::failed(
                format!("{} went on while it was copied", self.guest),
                "something resumed it; its host does if this program stands still for too long",
            ));
        }
        Ok(cannot)
    }

    /// Takes the copies while the guest's file systems are frozen; why not, if they were not all the while.
    async fn take_frozen(&self, world: &World, freeze: &Freeze) -> Result<Held, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        if hypervisor.power(&self.guest).await? != Power::On {
            return Ok(Held::Not(format!("{} is not running", self.guest)));
        }
        let guest = hypervisor.guest(&freeze.link)?;
        self.clear(world).await?;
        Doubt::of(world).begin()?;
        world.progress(format!("freezing {}", self.guest), None);
        if let Held::Not(why) = freeze.begin(&*guest, &world.run).await {
            return Ok(Held::Not(why));
        }
        let taken = self.take(world).await;
        let held = freeze.end(&*guest, &world.run).await;
        taken.map(|()| held)
    }

    /// Ends what an attempt left frozen. It thaws by itself otherwise.
    async fn let_go(&self, world: &World) -> Result<(), StepError> {
        let Some(freeze) = self.freeze.as_ref().filter(|_| Doubt::of(world).stands()) else { return Ok(()) };
        let hypervisor = world.hypervisor(&self.host)?;
        if hypervisor.power(&self.guest).await? == Power::On {
            freeze.end(&*hypervisor.guest(&freeze.link)?, &world.run).await;
        }
        Ok(())
    }

    /// How the copies come to be of one instant, in the plan; trees are always taken of a paused guest.
    fn instant(&self) -> &'static str {
        match &self.freeze {
            Some(_) => ", frozen",
            None if self.pause && !self.copies.iter().any(|pair| pair.source.kind.opens_under_a_guest()) => ", paused",
            None => "",
        }
    }
}

#[async_trait]
impl Step for Snapshot {
    fn title(&self) -> String {
        let names: Vec<String> =
            self.copies.iter().map(|pair| format!("{} as {}", pair.source, file_name(&pair.target))).collect();
        format!("snapshot {}{}", names.join(", "), self.instant())
    }
    fn undo_title(&self) -> String {
        "remove it".into()
    }
    fn taken_back(&self) -> String {
        let targets: Vec<VolumeRef> = self.copies.iter().map(|pair| pair.target.clone()).collect();
        format!("remove {}", listed(&targets))
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        let copy = |pair: &Pair| {
            if let Some(argv) = lvm::snapshot_argv(&pair.source, &pair.target, pair.size) {
                return argv;
            }
            let words: &[&str] = match pair.source.kind {
                VolumeKind::Btrfs => &["btrfs", "subvolume", "snapshot"],
                _ => &["cp", "-a", "--reflink=auto"],
            };
            let volumes = [pair.source.to_string(), pair.target.to_string()];
            words.iter().map(|word| (*word).to_owned()).chain(volumes).collect()
        };
        // In the guest, of all it has mounted; paused only where that fails.
        let hold = |act, flag: &str| match &self.freeze {
            Some(_) => vec![["fsfreeze", flag, "MOUNTPOINT…"].map(str::to_owned).to_vec()],
            None if self.pause => manners.act(&self.host, act, &self.guest),
            None => Vec::new(),
        };
        let copies = self.copies.iter().map(copy);
        hold(Act::Pause, "-f").into_iter().chain(copies).chain(hold(Act::Resume, "-u")).collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let mark = self.mark(world);
        let (mut present, mut begun) = (0, Doubt::of(world).stands());
        for Pair { target, .. } in &self.copies {
            match hypervisor.storage(target.kind)?.probe(target, &mark).await? {
                Found::Absent => {}
                Found::Partial => begun = true,
                Found::Present => present += 1,
                Found::Foreign(what) => {
                    return Err(StepError::failed(
                        format!("{target} exists and is not of this run: {what}"),
                        "move it away, or discard the run it belongs to",
                    ));
                }
            }
        }
        let paused = self.pause && hypervisor.power(&self.guest).await? == Power::Paused;
        Ok(match present {
            0 if !begun && !paused => Probe::Absent,
            n if n == self.copies.len() && !begun && !paused => Probe::Present,
            _ => Probe::Partial,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let mut done = Done::new(Change::Created);
        if let Some(freeze) = &self.freeze {
            match self.take_frozen(world, freeze).await? {
                Held::Frozen => {
                    Doubt::of(world).end()?;
                    return Ok(done.with(json!({ "instant": "frozen" })));
                }
                Held::Not(why) => {
                    done = done.warn(format!("{} was paused for the snapshot, not frozen: {why}", self.guest));
                    self.let_go(world).await?;
                }
            }
        }
        let taken = self.take_paused(world).await;
        let thawed = self.thaw(world).await;
        if let Some(why) = taken.and_then(|cannot| thawed.map(|()| cannot))? {
            done = done.warn(format!("{} cannot wake {} by itself: {why}", self.host, self.guest));
        }
        Doubt::of(world).end()?;
        Ok(if self.freeze.is_some() { done.with(json!({ "instant": "paused" })) } else { done })
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        self.let_go(world).await?;
        self.thaw(world).await?;
        let done = remove(world, &self.host, self.copies.iter().map(|pair| &pair.target)).await?;
        Doubt::of(world).end()?;
        Ok(done)
    }
}

/// Removes volumes that bear this run's mark. Irreversible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveVolumes {
    /// Inventory host.
    pub host: String,
    /// What is removed, with what is nested in it.
    pub volumes: Vec<VolumeRef>,
}

pub(super) async fn remove<'a>(
    world: &World,
    host: &str,
    volumes: impl Iterator<Item = &'a VolumeRef> + Send,
) -> Result<Done, StepError> {
    let hypervisor = world.hypervisor(host)?;
    let mut change = Change::Unchanged;
    let mut guests = Vec::new();
    // A guest of another host may stand on it.
    for platform in world.hypervisors.values() {
        guests.extend(platform.list().await?);
    }
    for volume in volumes {
        // Whatever the journal says: what a definition stands on is not removed.
        let owner = guests.iter().find(|guest| {
            guest.disks.iter().any(|disk| {
                matches!(&disk.source, DiskSource::Directory(path) | DiskSource::Block(path) | DiskSource::File(path) if *path == volume.path)
            })
        });
        if let Some(owner) = owner {
            return Err(StepError::failed(
                format!("{volume} is not removed: {} stands on it by its definition", owner.name),
                format!("look which volume {} should stand on, and mend its definition", owner.name),
            ));
        }
        if hypervisor.storage(volume.kind)?.remove(volume, &world.run).await? != Change::Unchanged {
            change = Change::Removed;
        }
    }
    Ok(change.into())
}

#[async_trait]
impl Step for RemoveVolumes {
    fn title(&self) -> String {
        format!("remove {}", listed(&self.volumes))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        let remove = |volume: &VolumeRef| match volume.kind {
            VolumeKind::Btrfs => ["btrfs", "subvolume", "delete", &volume.to_string()].map(str::to_owned).to_vec(),
            VolumeKind::Directory | VolumeKind::Sim => ["rm", "-r", &volume.to_string()].map(str::to_owned).to_vec(),
            VolumeKind::Zfs => ["zfs", "destroy", "-r", &volume.to_string()].map(str::to_owned).to_vec(),
            VolumeKind::LvmThick | VolumeKind::LvmThin => ["lvremove", &lv(volume)].map(str::to_owned).to_vec(),
        };
        self.volumes.iter().map(remove).collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        for volume in &self.volumes {
            if hypervisor.storage(volume.kind)?.inspect(volume).await?.is_some() {
                return Ok(Probe::Absent);
            }
        }
        Ok(Probe::Present)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        remove(world, &self.host, self.volumes.iter()).await
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

/// Says on a volume what it is for, so that nothing removes it by mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkVolume {
    /// Inventory host.
    pub host: String,
    /// The volume.
    pub volume: VolumeRef,
    /// Its role from now on; `None` removes the mark.
    pub role: Option<Role>,
}

#[async_trait]
impl Step for MarkVolume {
    fn title(&self) -> String {
        match self.role {
            Some(role) => format!("mark {} as {}", self.volume, role.as_str()),
            None => format!("remove the mark from {}", self.volume),
        }
    }
    fn undo_title(&self) -> String {
        "mark it as before".into()
    }
    fn taken_back(&self) -> String {
        format!("mark {} as before", self.volume)
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let wanted = self.role.map(|role| Mark { run: world.run.clone(), role });
        let storage = world.hypervisor(&self.host)?.storage(self.volume.kind)?;
        match storage.inspect(&self.volume).await? {
            Some(facts) if facts.mark == wanted => Ok(Probe::Present),
            Some(_) => Ok(Probe::Absent),
            None => Err(StepError::failed(format!("{} does not exist", self.volume), "look at the host's storage")),
        }
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let storage = world.hypervisor(&self.host)?.storage(self.volume.kind)?;
        let mark = storage.inspect(&self.volume).await?.and_then(|facts| facts.mark);
        Ok(json!({ "mark": mark }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let mark = self.role.map(|role| Mark { run: world.run.clone(), role });
        let storage = world.hypervisor(&self.host)?.storage(self.volume.kind)?;
        Ok(storage.mark(&self.volume, mark.as_ref()).await?.into())
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let mark: Option<Mark> = super::read(&found["mark"])?;
        let storage = world.hypervisor(&self.host)?.storage(self.volume.kind)?;
        if storage.inspect(&self.volume).await?.is_none() {
            return Ok(Change::Unchanged.into());
        }
        Ok(storage.mark(&self.volume, mark.as_ref()).await?.into())
    }
}

/// Gives a volume another name; nothing may run on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameVolume {
    /// Inventory host.
    pub host: String,
    /// The volume as it is called.
    pub from: VolumeRef,
    /// What it shall be called, beside it.
    pub to: VolumeRef,
}

#[async_trait]
impl Step for RenameVolume {
    fn title(&self) -> String {
        format!("rename {} to {}", self.from, file_name(&self.to))
    }
    fn undo_title(&self) -> String {
        "its old name".into()
    }
    fn commands(&self, _manners: &super::Manners) -> Vec<Vec<String>> {
        match self.from.kind {
            VolumeKind::LvmThick | VolumeKind::LvmThin => {
                vec![vec!["lvrename".into(), lv(&self.from), lv(&self.to)]]
            }
            _ => vec![vec!["mv".into(), "-nT".into(), self.from.to_string(), self.to.to_string()]],
        }
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let storage = world.hypervisor(&self.host)?.storage(self.from.kind)?;
        let (old, new) = (storage.inspect(&self.from).await?, storage.inspect(&self.to).await?);
        Ok(match (old.is_some(), new.is_some()) {
            (true, false) => Probe::Absent,
            (false, true) => Probe::Present,
            // A driver may be half-way; one that is not refuses to apply it.
            (true, true) => Probe::Partial,
            (false, false) => {
                return Err(StepError::failed(format!("{} does not exist", self.from), "look at the host's storage"));
            }
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(world.hypervisor(&self.host)?.storage(self.from.kind)?.rename(&self.from, &self.to).await?.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(world.hypervisor(&self.host)?.storage(self.from.kind)?.rename(&self.to, &self.from).await?.into())
    }
}
