//! What is known of the simulated volumes: how full they are, what they are copies of, and how they look from outside.
//!
//! Copies are whole trees in every world. What makes them dependents (thick) or peers (thin) is the account kept beside
//! them: what changes in an origin fills its snapshots too, a snapshot's area or a pool's space is taken, an origin is
//! missed. An origin is named by its id, so that a rename need not touch its snapshots.

use std::fs;

use super::boot;
use super::world::{Locked, VolumeMeta};
use crate::storage::{BlockFacts, Copies, CowSize, SizePolicy, SizedSnapshot, Snapshot, VolumeFacts};
use crate::{Error, Mark, Result};

/// Areas are made in whole extents.
const EXTENT_BYTES: u64 = 4 << 20;
/// A snapshot's chunk, and what it takes in the table of exceptions.
const CHUNK_BYTES: u64 = 4096;
const EXCEPTION_BYTES: u64 = 16;
/// What an upgrade is expected to rewrite, in percent of the used space, where nothing is set.
const ESTIMATE_PERCENT: u16 = 110;
/// A covering snapshot never says more (lvm2 2.03.16: 98.85).
const COVERING_PERCENT: f64 = 98.8;

/// Bytes with which a snapshot's area cannot fill: room for every chunk, and the table.
pub(super) fn covering(capacity_bytes: u64) -> u64 {
    let chunks = capacity_bytes.div_ceil(CHUNK_BYTES);
    whole(capacity_bytes.saturating_add(chunks.saturating_mul(EXCEPTION_BYTES)).saturating_add(2 * CHUNK_BYTES))
}

/// Bytes in whole extents.
pub(super) fn whole(bytes: u64) -> u64 {
    bytes.div_ceil(EXTENT_BYTES).saturating_mul(EXTENT_BYTES)
}

/// The area a snapshot gets, and whether it can fill.
pub(super) fn area(size: Option<CowSize>, capacity_bytes: u64) -> (u64, bool) {
    let most = covering(capacity_bytes);
    match size {
        Some(CowSize::Bytes(bytes)) if whole(bytes.max(1)) < most => (whole(bytes.max(1)), true),
        _ => (most, false),
    }
}

/// Bytes as people say them.
pub(super) fn amount(bytes: u64) -> String {
    match bytes {
        0..=0x3fff_ffff => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

fn percent(part: u64, of: u64) -> f64 {
    part as f64 * 100.0 / (of.max(1) as f64)
}

impl Locked {
    pub fn copies(&self) -> Result<Copies> {
        Ok(self.sim.config()?.copies)
    }

    /// What names a volume for good. One of a world made before there were ids gets one from its name.
    pub fn id(name: &str, meta: &VolumeMeta) -> String {
        if meta.id.is_empty() { boot::uuid(&format!("volume {name}")) } else { meta.id.clone() }
    }

    /// Every volume; of the two names that a rename cut in half leaves, the one that has the files.
    pub fn all_volumes(&self) -> Result<Vec<(String, VolumeMeta)>> {
        let mut all: Vec<(String, VolumeMeta)> = Vec::new();
        for name in self.volume_names()? {
            let Some(meta) = self.volume(&name)? else { continue };
            let twin = all.iter_mut().find(|(other, theirs)| Self::id(other, theirs) == Self::id(&name, &meta));
            match twin {
                Some(twin) if self.tree(&name).is_dir() => *twin = (name, meta),
                Some(_) => {}
                None => all.push((name, meta)),
            }
        }
        Ok(all)
    }
    pub fn by_id(&self, id: &str) -> Result<Option<(String, VolumeMeta)>> {
        Ok(self.all_volumes()?.into_iter().find(|(name, meta)| Self::id(name, meta) == id))
    }
    pub fn snapshots_of(&self, name: &str, meta: &VolumeMeta) -> Result<Vec<(String, VolumeMeta)>> {
        let id = Self::id(name, meta);
        Ok(self.all_volumes()?.into_iter().filter(|(_, meta)| meta.origin.as_ref() == Some(&id)).collect())
    }

    /// Bytes a volume has grown by since it was made.
    pub fn growth(&self, name: &str, meta: &VolumeMeta) -> u64 {
        meta.written_bytes + super::tree::size(&self.tree(name)).saturating_sub(meta.base_bytes)
    }
    /// Bytes ever changed in a volume: what its snapshots had to keep.
    pub fn turnover(&self, name: &str, meta: &VolumeMeta) -> u64 {
        meta.turnover_bytes + self.growth(name, meta)
    }
    /// Bytes in a snapshot's area: what was changed in itself, and in its origin.
    pub fn fill(&self, name: &str, meta: &VolumeMeta) -> Result<u64> {
        let own = self.growth(name, meta);
        let (Some(origin), Copies::Dependents) = (&meta.origin, self.copies()?) else { return Ok(own) };
        let Some((origin, theirs)) = self.by_id(origin)? else { return Ok(own) };
        Ok(own + self.turnover(&origin, &theirs).saturating_sub(meta.origin_base))
    }
    /// Whether a snapshot has outgrown its limit; once it has, it stays lost.
    pub fn is_full(&self, name: &str, meta: &VolumeMeta) -> Result<bool> {
        let Some(limit) = meta.limit_bytes.filter(|_| !meta.invalid) else { return Ok(meta.invalid) };
        if self.fill(name, meta)? <= limit {
            return Ok(false);
        }
        self.set_volume(name, &VolumeMeta { invalid: true, ..meta.clone() })?;
        Ok(true)
    }

    /// Bytes that can still be taken from the pool or the volume group.
    pub fn pool_free(&self) -> Result<u64> {
        let config = self.sim.config()?;
        let mut free = config.pool_free_bytes;
        for (name, meta) in self.all_volumes()? {
            free = free.saturating_sub(match config.copies {
                Copies::Dependents => meta.area_bytes,
                Copies::Trees | Copies::Peers => self.growth(&name, &meta),
            });
        }
        Ok(free)
    }
    /// How full the pool is, in percent: what its volumes hold, shared parts once.
    fn pool_percent(&self) -> Result<f64> {
        let free = self.pool_free()?;
        let own = self.all_volumes()?.into_iter().filter(|(_, meta)| meta.origin.is_none());
        let size = self.sim.config()?.pool_free_bytes.saturating_add(own.map(|(_, meta)| meta.used_bytes).sum());
        Ok(percent(size.saturating_sub(free), size))
    }
    /// Bytes that the user of a volume can still write. A thick snapshot takes more than its area holds, and is lost.
    pub fn room(&self, name: &str, meta: &VolumeMeta) -> Result<u64> {
        let left = meta.capacity_bytes.saturating_sub(meta.used_bytes + self.growth(name, meta));
        Ok(match self.copies()? {
            Copies::Dependents => left,
            Copies::Trees | Copies::Peers => left.min(self.pool_free()?),
        })
    }

    pub fn volume_facts(&self, name: &str, meta: &VolumeMeta) -> Result<VolumeFacts> {
        let copies = self.copies()?;
        let used = meta.used_bytes.saturating_add(self.growth(name, meta));
        let full = self.is_full(name, meta)?;
        let fill = self.fill(name, meta)?;
        Ok(VolumeFacts {
            used_bytes: Some(used),
            free_bytes: match copies {
                Copies::Trees => self.room(name, meta)?,
                Copies::Peers | Copies::Dependents => self.pool_free()?,
            },
            // All of a thin copy may be written anew; a thick one's area is chosen by policy.
            snapshot_bytes: if copies == Copies::Peers { used } else { 0 },
            pause_s: 0.0,
            nested: meta.nested.clone(),
            fill_percent: match (copies, meta.limit_bytes) {
                _ if full => Some(100.0),
                (Copies::Peers, _) => Some(self.pool_percent()?),
                (_, Some(limit)) => Some(percent(fill, limit)),
                (Copies::Dependents, None) if meta.origin.is_some() => {
                    Some(percent(fill, meta.area_bytes).min(COVERING_PERCENT))
                }
                (_, None) => None,
            },
            block: match copies {
                Copies::Trees => None,
                Copies::Peers | Copies::Dependents => Some(self.block_facts(name, meta, full)?),
            },
            mark: meta.mark.clone().filter(|_| meta.intent.is_none()),
        })
    }
    fn block_facts(&self, name: &str, meta: &VolumeMeta, full: bool) -> Result<BlockFacts> {
        let origin = meta.origin.as_ref().map(|id| self.by_id(id)).transpose()?.flatten();
        Ok(BlockFacts {
            id: Self::id(name, meta),
            size_bytes: meta.capacity_bytes,
            open: Some(self.user_of(name)?.is_some()),
            origin: origin.map(|(name, _)| name),
            snapshots: self.snapshots_of(name, meta)?.into_iter().map(|(name, _)| name).collect(),
            lost: full.then(|| "the snapshot filled up, and is lost".to_owned()),
            unfit: match meta.limit_bytes {
                Some(limit) => {
                    let (has, most) = (amount(limit), amount(covering(meta.capacity_bytes)));
                    Some(format!("it can fill: it has {has}, covering is {most}"))
                }
                None => meta.skip.then(|| "it would not come up with its host (activation skip)".to_owned()),
            },
            merge: meta.merging.as_ref().map(super::merge::Merging::stands),
            area_bytes: meta.limit_bytes.or(meta.origin.as_ref().map(|_| meta.area_bytes)).filter(|bytes| *bytes > 0),
        })
    }

    /// How a copy stands. One that is lost is of no use, and may be made again: where lost volumes are a thing of the
    /// platform, it counts as partial.
    pub fn snapshot_state(&self, name: &str, mark: &Mark) -> Result<Snapshot> {
        let tree = fs::symlink_metadata(self.tree(name)).is_ok();
        let Some(meta) = self.volume(name)? else {
            let what = format!("{} has no metadata", self.tree(name).display());
            return Ok(if tree { Snapshot::Foreign(what) } else { Snapshot::Absent });
        };
        Ok(match (&meta.intent, &meta.mark) {
            (Some(intent), _) if intent.run == mark.run => Snapshot::Partial,
            (None, Some(found)) if found.run == mark.run && self.merging_into(name, &meta)?.is_some() => {
                Snapshot::Present
            }
            (None, Some(found)) if found.run == mark.run && tree => {
                let lost = self.copies()? == Copies::Dependents && self.is_full(name, &meta)?;
                if lost { Snapshot::Partial } else { Snapshot::Present }
            }
            (_, Some(found)) | (Some(found), None) => Snapshot::Foreign(format!("volume {name} belongs to {found}")),
            (None, None) => Snapshot::Foreign(format!("volume {name} has no mark")),
        })
    }
    /// The running guest that stands on a volume.
    pub fn user_of(&self, name: &str) -> Result<Option<String>> {
        for (guest, runtime) in self.running()? {
            if runtime.parsed()?.disks.iter().any(|disk| disk.volume == name) {
                return Ok(Some(guest));
            }
        }
        Ok(None)
    }
    pub fn closed(&self, doing: &str, name: &str) -> Result<()> {
        match self.user_of(name)? {
            Some(guest) => Err(Error::refused(doing, format!("{guest} runs on it"))),
            None => Ok(()),
        }
    }

    /// The host starts: what is to be skipped is not there afterwards.
    pub fn deactivate_skipped(&self) -> Result<()> {
        for (name, meta) in self.all_volumes()?.into_iter().filter(|(_, meta)| meta.skip) {
            self.set_volume(&name, &VolumeMeta { inactive: true, ..meta })?;
        }
        Ok(())
    }

    /// The size of a snapshot's area by a policy; without one covering if there is room, else the estimate.
    pub fn size_snapshot(&self, doing: &str, name: &str, policy: Option<SizePolicy>) -> Result<SizedSnapshot> {
        let meta = self.usable(doing, name)?;
        self.can_be_copied(doing, name, &meta)?;
        let free = self.pool_free()?;
        let (capacity, used) = (meta.capacity_bytes, meta.used_bytes + self.growth(name, &meta));
        let covering_bytes = covering(capacity);
        let share = |of: u64, percent: u16| of / 100 * u64::from(percent);
        let (wanted, reason) = match policy {
            Some(SizePolicy::Covering) => (covering_bytes, "as set".to_owned()),
            Some(SizePolicy::Bytes(bytes)) => (bytes, "as set".to_owned()),
            Some(SizePolicy::PercentOrigin(percent)) => (share(capacity, percent), format!("as set: {percent} %")),
            Some(SizePolicy::PercentUsed(percent)) => {
                (share(used, percent), format!("as set: {percent} % of {} used", amount(used)))
            }
            None if covering_bytes <= free => (covering_bytes, "covering".to_owned()),
            None => (
                share(used, ESTIMATE_PERCENT),
                format!(
                    "estimate: {ESTIMATE_PERCENT} % of {} used; covering does not fit into {} free",
                    amount(used),
                    amount(free)
                ),
            ),
        };
        let (bytes, can_fill) = area(Some(CowSize::Bytes(wanted)), capacity);
        if bytes > free {
            let why = format!("a snapshot of {} does not fit: {} are free", amount(bytes), amount(free));
            return Err(Error::refused(doing, why).help("make room in the volume group"));
        }
        let (size, outlook) = match can_fill {
            true => (CowSize::Bytes(bytes), format!("it can fill: covering is {}", amount(covering_bytes))),
            false => (CowSize::Covering, "it cannot fill".to_owned()),
        };
        Ok(SizedSnapshot { size, bytes, covering_bytes, why: format!("{} ({reason}); {outlook}", amount(bytes)) })
    }
    /// Whether the platform makes snapshots of a volume.
    pub fn can_be_copied(&self, doing: &str, name: &str, meta: &VolumeMeta) -> Result<()> {
        if self.copies()? == Copies::Dependents && meta.origin.is_some() {
            return Err(Error::refused(doing, format!("{name} is a snapshot itself, of which there are none")));
        }
        if meta.merging.is_some() {
            return Err(Error::refused(doing, format!("a merge into {name} is under way")));
        }
        Ok(())
    }
}
