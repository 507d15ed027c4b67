//! Volumes of the simulated world: copied trees that pretend to be copy-on-write and can fill up.
//!
//! A snapshot is begun by an intent in the volume's metadata and ended by its mark; removal begins by turning the
//! mark back into an intent. So a tree that is not whole can always be told from one that is.

use std::fs;
use std::path::Path;

use async_trait::async_trait;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::definition::volume_name;
use super::volumes;
use super::world::{Locked, Sim, VolumeMeta, fresh_id};
use crate::storage::{Access, Copies, CopyRequest, CowSize, Opened, SizePolicy, SizedSnapshot, Snapshot, VolumeFacts};
use crate::{Cause, Change, Error, Mark, Result, Storage, VolumeKind, VolumeRef};

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
}

#[async_trait]
impl Storage for SimStorage {
    fn kind(&self) -> VolumeKind {
        VolumeKind::Sim
    }
    fn copies(&self) -> Copies {
        self.0.config().unwrap_or_default().copies
    }

    async fn inspect(&self, volume: &VolumeRef) -> Result<Option<VolumeFacts>> {
        let name = self.name(volume)?;
        self.0
            .observe("storage.inspect", &name, |world| {
                world.settle_merges()?;
                let meta = world.volume(&name)?;
                meta.map(|meta| world.volume_facts(&name, &meta)).transpose()
            })
            .await
    }

    async fn snapshot(&self, source: &VolumeRef, target: &VolumeRef, mark: &Mark) -> Result<Change> {
        let (from, to) = (self.name(source)?, self.name(target)?);
        let doing = format!("snapshot {from} as {to}");
        self.0
            .effect("storage.snapshot", &format!("{from} as {to}"), |world| {
                world.settle_merges()?;
                match world.snapshot_state(&to, mark)? {
                    Snapshot::Present => return Ok(Change::Unchanged),
                    Snapshot::Partial => {
                        let meta = world.volume(&to)?.unwrap_or_default();
                        world.discard(&doing, &to, meta)?;
                    }
                    Snapshot::Foreign(why) => return Err(Error::refused(doing, why)),
                    Snapshot::Absent => {}
                }
                world.copy_volume(&doing, (&from, &to), None, mark, true)?;
                Ok(Change::Created)
            })
            .await
    }

    async fn probe(&self, target: &VolumeRef, mark: &Mark) -> Result<Snapshot> {
        let name = self.name(target)?;
        self.0
            .observe("storage.probe", &name, |world| {
                world.settle_merges()?;
                world.snapshot_state(&name, mark)
            })
            .await
    }

    async fn remove(&self, volume: &VolumeRef, run: &str) -> Result<Change> {
        let name = self.name(volume)?;
        let doing = format!("remove {name}");
        self.0
            .effect("storage.remove", &name, |world| {
                world.settle_merges()?;
                let Some(meta) = world.volume(&name)? else {
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
                world.may_remove(&doing, &name, &meta)?;
                // Among peers a copy stays, and holds by itself what it shared.
                for (copy, theirs) in world.snapshots_of(&name, &meta)? {
                    world.set_volume(&copy, &theirs.alone())?;
                }
                world.discard(&doing, &name, meta)?;
                Ok(Change::Removed)
            })
            .await
    }

    async fn mark(&self, volume: &VolumeRef, mark: Option<&Mark>) -> Result<Change> {
        let name = self.name(volume)?;
        self.0
            .effect("storage.mark", &name, |world| {
                let doing = format!("mark {name}");
                world.settle_merges()?;
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
                world.settle_merges()?;
                let exists = |name: &str| fs::symlink_metadata(world.tree(name)).is_ok();
                let (source, target) = (world.volume(&from)?, world.volume(&to)?);
                // Order: new metadata, tree, old metadata. A tree without metadata never appears; after a crash the
                // tree tells which of the two metadata files is the true one.
                match (&source, exists(&from), exists(&to)) {
                    (None, false, true) if target.is_some() => return Ok(Change::Unchanged),
                    (Some(_), false, true) if target.is_some() => {
                        world.users_follow(&from, &to)?;
                        world.forget_volume(&from)?;
                        return Ok(Change::Changed);
                    }
                    (Some(_), true, false) => {}
                    (Some(_), true, true) => return Err(Error::refused(doing, format!("{to} exists"))),
                    _ => return Err(Error::not_found(doing, format!("volume {from} does not exist"))),
                }
                if world.copies()? != Copies::Peers {
                    world.closed(&doing, &from)?;
                }
                let meta = source.unwrap_or_default();
                if meta.merging.is_some() || world.merging_into(&from, &meta)?.is_some() {
                    return Err(Error::refused(doing, "a merge is under way"));
                }
                world.set_volume(&to, &VolumeMeta { id: Locked::id(&from, &meta), ..meta })?;
                world.midpoint(&doing)?;
                fs::rename(world.tree(&from), world.tree(&to)).map_err(|error| Error::io(doing, error))?;
                world.users_follow(&from, &to)?;
                world.forget_volume(&from)?;
                Ok(Change::Changed)
            })
            .await
    }

    async fn exchange(&self, volume: &VolumeRef, saved: &VolumeRef, mark: &Mark) -> Result<Change> {
        let (at, other) = (self.name(volume)?, self.name(saved)?);
        let doing = format!("exchange {at} and {other}");
        self.0
            .effect("storage.exchange", &format!("{at} and {other}"), |world| {
                let (here, there) = (world.usable(&doing, &at)?, world.usable(&doing, &other)?);
                match (here.mark.as_ref() == Some(mark), there.mark.as_ref() == Some(mark)) {
                    (false, true) => {}
                    (true, false) => return Ok(Change::Unchanged),
                    _ => return Err(Error::refused(doing, format!("not exactly one of them bears the mark {mark}"))),
                }
                for name in [&at, &other] {
                    if let Some(guest) = world.user_of(name)? {
                        return Err(Error::refused(doing, format!("{guest} runs on {name}")));
                    }
                }
                // One instant on a real file system, where the mark is in the volume: no point half-way.
                renameat2(AT_FDCWD, &world.tree(&at), AT_FDCWD, &world.tree(&other), RenameFlags::RENAME_EXCHANGE)
                    .map_err(|error| Error::io(&doing, error.into()))?;
                world.set_volume(&at, &there)?;
                world.set_volume(&other, &here)?;
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
                world.settle_merges()?;
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
                world.settle_merges()?;
                world.activate(&name)?;
                world.usable(&format!("open {name}"), &name)?;
                Ok(Opened::directory(world.tree(&name)))
            })
            .await
    }

    async fn snapshot_set(&self, copies: &[CopyRequest<'_>], mark: &Mark) -> Result<Change> {
        if self.copies() == Copies::Trees {
            for copy in copies {
                self.snapshot(copy.source, copy.target, mark).await?;
            }
            return Ok(Change::Created);
        }
        let named = |copy: &CopyRequest<'_>| Ok((self.name(copy.source)?, self.name(copy.target)?, copy.size));
        let set: Vec<_> = copies.iter().map(named).collect::<Result<_>>()?;
        let list: Vec<String> = set.iter().map(|(from, to, _)| format!("{from} as {to}")).collect();
        self.0
            .effect("storage.snapshot_set", &list.join(", "), |world| {
                world.settle_merges()?;
                world.copy_set(&set, mark)
            })
            .await
    }

    async fn size_snapshot(&self, source: &VolumeRef, policy: Option<SizePolicy>) -> Result<Option<SizedSnapshot>> {
        let name = self.name(source)?;
        if self.copies() != Copies::Dependents {
            return Ok(None);
        }
        let doing = format!("choose the size of a snapshot of {name}");
        self.0
            .observe("storage.size_snapshot", &name, |world| {
                world.settle_merges()?;
                world.size_snapshot(&doing, &name, policy).map(Some)
            })
            .await
    }

    async fn secure(&self, volume: &VolumeRef, run: &str) -> Result<Change> {
        let name = self.name(volume)?;
        let doing = format!("make {name} fit for production");
        self.0
            .effect("storage.secure", &name, |world| {
                world.settle_merges()?;
                let meta = world.own(&doing, &name, run)?;
                if world.is_full(&name, &meta)? {
                    return Err(Error::refused(doing, "the snapshot filled up, and is lost"));
                }
                let can_fill = meta.limit_bytes.is_some() && world.copies()? == Copies::Dependents;
                if !can_fill && !meta.skip && !meta.inactive {
                    return Ok(Change::Unchanged);
                }
                let mut fit = VolumeMeta { skip: false, inactive: false, ..meta };
                if can_fill {
                    let wanted = volumes::covering(fit.capacity_bytes).max(fit.area_bytes);
                    world.take_area(&doing, wanted - fit.area_bytes)?;
                    (fit.area_bytes, fit.limit_bytes) = (wanted, None);
                }
                world.midpoint(&doing)?;
                world.set_volume(&name, &fit)?;
                Ok(Change::Changed)
            })
            .await
    }

    async fn extend(&self, volume: &VolumeRef, by: CowSize, run: &str) -> Result<Change> {
        let name = self.name(volume)?;
        let doing = format!("grow {name}");
        if self.copies() != Copies::Dependents {
            return Err(Error::new(doing, Cause::Unsupported("it has no area of its own".into())));
        }
        self.0
            .effect("storage.extend", &name, |world| {
                world.settle_merges()?;
                let meta = world.own(&doing, &name, run)?;
                if world.is_full(&name, &meta)? {
                    return Err(Error::refused(doing, "the snapshot filled up, and is lost"));
                }
                let Some(has) = meta.limit_bytes else { return Ok(Change::Unchanged) };
                if world.merging_into(&name, &meta)?.is_some() {
                    return Err(Error::refused(doing, "it is being merged"));
                }
                let most = volumes::covering(meta.capacity_bytes);
                let wanted = match by {
                    CowSize::Bytes(bytes) => volumes::whole(has.saturating_add(bytes)).min(most),
                    CowSize::Covering => most,
                };
                world.take_area(&doing, wanted.saturating_sub(has))?;
                world.midpoint(&doing)?;
                let limit_bytes = (wanted < most).then_some(wanted);
                world.set_volume(&name, &VolumeMeta { area_bytes: wanted, limit_bytes, ..meta })?;
                Ok(Change::Changed)
            })
            .await
    }

    async fn merge(&self, merges: &[(&VolumeRef, &VolumeRef)], run: &str) -> Result<Change> {
        let named = |(snapshot, origin): &(&VolumeRef, &VolumeRef)| Ok((self.name(snapshot)?, self.name(origin)?));
        let pairs: Vec<(String, String)> = merges.iter().map(named).collect::<Result<_>>()?;
        let list: Vec<String> = pairs.iter().map(|(snapshot, origin)| format!("{snapshot} into {origin}")).collect();
        let doing = format!("merge {}", list.join(", "));
        if self.copies() == Copies::Trees {
            return Err(Error::new(doing, Cause::Unsupported("trees cannot be merged".into())));
        }
        self.0
            .effect("storage.merge", &list.join(", "), |world| {
                world.settle_merges()?;
                // All that can be refused is refused before the first is begun.
                let mut begin = Vec::new();
                for (snapshot, origin) in &pairs {
                    if world.to_merge(&doing, snapshot, origin, run)? {
                        begin.push((snapshot, origin));
                    }
                }
                for (index, (snapshot, origin)) in begin.iter().enumerate() {
                    world.begin_merge(&doing, snapshot, origin, index == begin.len() / 2)?;
                }
                world.settle_merges()?;
                Ok(if begin.is_empty() { Change::Unchanged } else { Change::Changed })
            })
            .await
    }

    async fn fresh_swap(&self, like: &VolumeRef, target: &VolumeRef, mark: &Mark) -> Result<Change> {
        let (like, name) = (self.name(like)?, self.name(target)?);
        let doing = format!("make swap space {name}");
        if self.copies() == Copies::Trees {
            return Err(Error::new(doing, Cause::Unsupported("trees cannot be swap space".into())));
        }
        self.0
            .effect("storage.fresh_swap", &format!("{name} like {like}"), |world| {
                world.settle_merges()?;
                match world.swap_state(&name, mark)? {
                    Snapshot::Present => return Ok(Change::Unchanged),
                    Snapshot::Partial => {
                        let meta = world.volume(&name)?.unwrap_or_default();
                        world.discard(&doing, &name, meta)?;
                    }
                    Snapshot::Foreign(why) => return Err(Error::refused(doing, why)),
                    Snapshot::Absent => {}
                }
                let Some(model) = world.volume(&like)? else {
                    return Err(Error::not_found(doing, format!("volume {like} does not exist")));
                };
                let Some(swap) = model.swap else {
                    return Err(Error::refused(doing, format!("{like} holds no swap space")));
                };
                let mut meta = VolumeMeta {
                    capacity_bytes: model.capacity_bytes,
                    area_bytes: world.take_area(&doing, model.capacity_bytes)?,
                    id: fresh_id(&name),
                    intent: Some(mark.clone()),
                    ..VolumeMeta::default()
                };
                world.set_volume(&name, &meta)?;
                fs::create_dir(world.tree(&name)).map_err(|error| Error::io(&doing, error))?;
                world.midpoint(&doing)?;
                (meta.swap, meta.mark) = (Some(swap), meta.intent.take());
                world.set_volume(&name, &meta)?;
                Ok(Change::Created)
            })
            .await
    }

    async fn probe_swap(&self, target: &VolumeRef, mark: &Mark) -> Result<Snapshot> {
        let name = self.name(target)?;
        self.0
            .observe("storage.probe_swap", &name, |world| {
                world.settle_merges()?;
                world.swap_state(&name, mark)
            })
            .await
    }
}
