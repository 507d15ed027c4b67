//! Volumes of the simulated world: copied trees that pretend to be copy-on-write and can fill up.
//!
//! A snapshot is begun by an intent in the volume's metadata and ended by its mark; removal begins by turning the
//! mark back into an intent. So a tree that is not whole can always be told from one that is.

use std::fs;
use std::io;
use std::path::Path;

use async_trait::async_trait;

use super::definition::volume_name;
use super::tree;
use super::world::{Locked, Sim, VolumeMeta};
use crate::storage::{Access, CopyRequest, CowSize, Opened, Snapshot, VolumeFacts};
use crate::{Change, Error, Mark, Result, Storage, VolumeKind, VolumeRef};

/// The driver for volumes of the simulated world.
#[derive(Clone, Debug)]
pub struct SimStorage(pub(super) Sim);

impl SimStorage {
    fn name(&self, volume: &VolumeRef) -> Result<String> {
        if volume.kind != VolumeKind::Sim {
            return Err(Error::refused(format!("use volume {volume}"), "it is not of the simulated world"));
        }
        volume_name(&volume.path, &self.0.volumes())
    }

    /// Copies a tree; with a size it can fill.
    async fn copy(&self, source: &VolumeRef, target: &VolumeRef, size: Option<CowSize>, mark: &Mark) -> Result<Change> {
        let (from, to) = (self.name(source)?, self.name(target)?);
        let doing = format!("snapshot {from} as {to}");
        self.0
            .effect("storage.snapshot", &format!("{from} as {to}"), |world| {
                match world.snapshot_state(&to, mark)? {
                    Snapshot::Present => return Ok(Change::Unchanged),
                    Snapshot::Partial => world.erase(&doing, &to)?,
                    Snapshot::Foreign(why) => return Err(Error::refused(doing, why)),
                    Snapshot::Absent => {}
                }
                let original = world.usable(&doing, &from)?;
                if world.pool_free()? == 0 {
                    return Err(Error::refused(doing, "the pool is full"));
                }
                let mut meta = VolumeMeta {
                    capacity_bytes: original.capacity_bytes,
                    used_bytes: original.used_bytes + world.growth(&from, &original),
                    nested: original.nested.clone(),
                    origin: Some(from.clone()),
                    limit_bytes: match size {
                        Some(CowSize::Bytes(bytes)) => Some(bytes),
                        Some(CowSize::Covering) | None => None,
                    },
                    intent: Some(mark.clone()),
                    ..VolumeMeta::default()
                };
                world.set_volume(&to, &meta)?;
                let (source, target) = (world.tree(&from), world.tree(&to));
                tree::copy(&source, &target, &mut || world.midpoint(&doing).map_err(CopyError))
                    .map_err(|CopyError(error)| Error { doing: doing.clone(), ..error })?;
                meta.base_bytes = tree::size(&target);
                meta.mark = meta.intent.take();
                world.set_volume(&to, &meta)?;
                Ok(Change::Created)
            })
            .await
    }
}

impl Locked {
    /// Bytes a volume has grown by since it was made.
    pub fn growth(&self, name: &str, meta: &VolumeMeta) -> u64 {
        meta.written_bytes + tree::size(&self.tree(name)).saturating_sub(meta.base_bytes)
    }
    /// Bytes that can still be written in the pool.
    pub fn pool_free(&self) -> Result<u64> {
        let mut free = self.sim.config()?.pool_free_bytes;
        for name in self.volume_names()? {
            if let Some(meta) = self.volume(&name)? {
                free = free.saturating_sub(self.growth(&name, &meta));
            }
        }
        Ok(free)
    }
    /// Whether a snapshot has outgrown its limit; once it has, it stays lost.
    pub fn is_full(&self, name: &str, meta: &VolumeMeta) -> Result<bool> {
        if meta.invalid || meta.limit_bytes.is_none_or(|limit| self.growth(name, meta) <= limit) {
            return Ok(meta.invalid);
        }
        self.set_volume(name, &VolumeMeta { invalid: true, ..meta.clone() })?;
        Ok(true)
    }
    fn volume_facts(&self, name: &str, meta: &VolumeMeta) -> Result<VolumeFacts> {
        let growth = self.growth(name, meta);
        let used = meta.used_bytes.saturating_add(growth);
        let full = self.is_full(name, meta)?;
        let percent = |limit: u64| if full { 100.0 } else { growth as f64 * 100.0 / (limit.max(1) as f64) };
        Ok(VolumeFacts {
            used_bytes: Some(used),
            free_bytes: self.pool_free()?.min(meta.capacity_bytes.saturating_sub(used)),
            snapshot_bytes: 0,
            pause_s: 0.0,
            nested: meta.nested.clone(),
            fill_percent: meta.limit_bytes.map(percent),
            mark: meta.mark.clone(),
            block: Some(self.block_facts(name, meta, full)?),
        })
    }
    fn snapshot_state(&self, name: &str, mark: &Mark) -> Result<Snapshot> {
        let tree = fs::symlink_metadata(self.tree(name)).is_ok();
        Ok(match self.volume(name)? {
            None if !tree => Snapshot::Absent,
            None => Snapshot::Foreign(format!("{} has no metadata", self.tree(name).display())),
            Some(VolumeMeta { intent: Some(intent), .. }) if intent.run == mark.run => Snapshot::Partial,
            Some(VolumeMeta { intent: None, mark: Some(found), .. }) if found.run == mark.run && tree => {
                Snapshot::Present
            }
            Some(VolumeMeta { mark: Some(found), .. } | VolumeMeta { intent: Some(found), .. }) => {
                Snapshot::Foreign(format!("volume {name} belongs to {found}"))
            }
            Some(_) => Snapshot::Foreign(format!("volume {name} has no mark")),
        })
    }
    /// The running guest that stands on a volume.
    pub(super) fn user_of(&self, name: &str) -> Result<Option<String>> {
        for (guest, runtime) in self.running()? {
            if runtime.parsed()?.disks.iter().any(|disk| disk.volume == name) {
                return Ok(Some(guest));
            }
        }
        Ok(None)
    }
    fn erase(&mut self, doing: &str, name: &str) -> Result<()> {
        let tree = self.tree(name);
        let io = |error| Error::io(doing, error);
        unlock_directories(&tree).map_err(io)?;
        self.midpoint(doing)?;
        match fs::remove_dir_all(&tree) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        self.forget_volume(name)
    }
}

/// An ordinary user cannot empty a directory without write permission, even his own.
pub(super) fn unlock_directories(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta?,
    };
    if !meta.is_dir() {
        return Ok(());
    }
    if meta.permissions().mode() & 0o700 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    fs::read_dir(path)?.try_for_each(|entry| unlock_directories(&entry?.path()))
}

/// Carries both kinds of failure out of [`tree::copy`].
struct CopyError(Error);
impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self(Error::io("copy the volume's files", error))
    }
}

#[async_trait]
impl Storage for SimStorage {
    fn kind(&self) -> VolumeKind {
        VolumeKind::Sim
    }

    async fn inspect(&self, volume: &VolumeRef) -> Result<Option<VolumeFacts>> {
        let name = self.name(volume)?;
        self.0
            .observe("storage.inspect", &name, |world| {
                let meta = world.volume(&name)?;
                meta.map(|meta| world.volume_facts(&name, &meta)).transpose()
            })
            .await
    }

    async fn snapshot(&self, source: &VolumeRef, target: &VolumeRef, mark: &Mark) -> Result<Change> {
        self.copy(source, target, None, mark).await
    }

    async fn snapshot_set(&self, copies: &[CopyRequest<'_>], mark: &Mark) -> Result<Change> {
        for copy in copies {
            self.copy(copy.source, copy.target, copy.size, mark).await?;
        }
        Ok(Change::Created)
    }

    async fn secure(&self, volume: &VolumeRef, run: &str) -> Result<Change> {
        let name = self.name(volume)?;
        let doing = format!("make {name} fit for production");
        self.0.effect("storage.secure", &name, |world| world.secure(&doing, &name, run)).await
    }

    async fn merge(&self, merges: &[(&VolumeRef, &VolumeRef)], run: &str) -> Result<Change> {
        let mut change = Change::Unchanged;
        for (snapshot, origin) in merges {
            let (above, below) = (self.name(snapshot)?, self.name(origin)?);
            let doing = format!("merge {above} into {below}");
            let merged =
                self.0.effect("storage.merge", &above, |world| world.merge(&doing, &above, &below, run)).await?;
            if merged != Change::Unchanged {
                change = merged;
            }
        }
        Ok(change)
    }

    async fn probe(&self, target: &VolumeRef, mark: &Mark) -> Result<Snapshot> {
        let name = self.name(target)?;
        self.0.observe("storage.probe", &name, |world| world.snapshot_state(&name, mark)).await
    }

    async fn remove(&self, volume: &VolumeRef, run: &str) -> Result<Change> {
        let name = self.name(volume)?;
        let doing = format!("remove {name}");
        self.0
            .effect("storage.remove", &name, |world| {
                let Some(mut meta) = world.volume(&name)? else {
                    return match fs::symlink_metadata(world.tree(&name)) {
                        Ok(_) => Err(Error::refused(doing, "it has no mark")),
                        Err(_) => Ok(Change::Unchanged),
                    };
                };
                let owner = meta.mark.clone().or(meta.intent.clone());
                match &owner {
                    Some(mark) if mark.run == run => {}
                    Some(mark) => return Err(Error::refused(doing, format!("it belongs to {mark}"))),
                    None => return Err(Error::refused(doing, "it has no mark")),
                }
                if let Some(guest) = world.user_of(&name)? {
                    return Err(Error::refused(doing, format!("{guest} runs on it")));
                }
                meta.mark = None;
                meta.intent = owner;
                world.set_volume(&name, &meta)?;
                world.erase(&doing, &name)?;
                Ok(Change::Removed)
            })
            .await
    }

    async fn mark(&self, volume: &VolumeRef, mark: Option<&Mark>) -> Result<Change> {
        let name = self.name(volume)?;
        self.0
            .effect("storage.mark", &name, |world| {
                let doing = format!("mark {name}");
                let Some(meta) = world.volume(&name)? else {
                    return Err(Error::not_found(doing, format!("volume {name} does not exist")));
                };
                if meta.intent.is_some() {
                    return Err(Error::refused(doing, "it is not whole"));
                }
                if meta.mark.as_ref() == mark {
                    return Ok(Change::Unchanged);
                }
                world.set_volume(&name, &VolumeMeta { mark: mark.cloned(), ..meta })?;
                Ok(Change::Changed)
            })
            .await
    }

    async fn rename(&self, from: &VolumeRef, to: &VolumeRef) -> Result<Change> {
        let (from, to) = (self.name(from)?, self.name(to)?);
        let doing = format!("rename {from} to {to}");
        self.0
            .effect("storage.rename", &format!("{from} to {to}"), |world| {
                let exists = |name: &str| fs::symlink_metadata(world.tree(name)).is_ok();
                let (source, target) = (world.volume(&from)?, world.volume(&to)?);
                // Order: new metadata, tree, old metadata. A tree without metadata never appears; after a crash the
                // tree tells which of the two metadata files is the true one.
                match (&source, exists(&from), exists(&to)) {
                    (None, false, true) if target.is_some() => return Ok(Change::Unchanged),
                    (Some(_), false, true) if target.is_some() => {
                        world.forget_volume(&from)?;
                        return Ok(Change::Changed);
                    }
                    (Some(_), true, false) => {}
                    (Some(_), true, true) => return Err(Error::refused(doing, format!("{to} exists"))),
                    _ => return Err(Error::not_found(doing, format!("volume {from} does not exist"))),
                }
                if let Some(guest) = world.user_of(&from)? {
                    return Err(Error::refused(doing, format!("{guest} runs on it")));
                }
                let meta = source.unwrap_or_default();
                world.set_volume(&to, &meta)?;
                world.midpoint(&doing)?;
                fs::rename(world.tree(&from), world.tree(&to)).map_err(|error| Error::io(doing, error))?;
                world.forget_volume(&from)?;
                Ok(Change::Changed)
            })
            .await
    }

    async fn marked(&self, directory: &Path) -> Result<Vec<(VolumeRef, Mark)>> {
        if directory != self.0.volumes() {
            return Ok(Vec::new());
        }
        self.0
            .observe("storage.marked", &directory.display().to_string(), |world| {
                let mut marked = Vec::new();
                for name in world.volume_names()? {
                    let mark = world.volume(&name)?.and_then(|meta| meta.mark.or(meta.intent));
                    marked.extend(mark.map(|mark| (self.0.volume_ref(&name), mark)));
                }
                Ok(marked)
            })
            .await
    }

    async fn open(&self, volume: &VolumeRef, _access: Access) -> Result<Opened> {
        let name = self.name(volume)?;
        self.0
            .observe("storage.open", &name, |world| {
                world.usable(&format!("open {name}"), &name)?;
                Ok(Opened::directory(world.tree(&name)))
            })
            .await
    }
}
