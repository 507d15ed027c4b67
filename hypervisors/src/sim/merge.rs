//! Snapshots of the simulated world that behave as thick ones do: they can fill, are grown so that they cannot, and are
//! merged into their origins, which takes its time.
//!
//! A merge is decided by a word in the origin's metadata. From then on it only goes forward: the origin's tree goes, the
//! snapshot's takes its place, and the origin drains, a little at each look.

use std::fs;
use std::io;

use super::storage::unlock_directories;
use super::world::{Locked, VolumeMeta};
use crate::storage::{BlockFacts, Merge};
use crate::{Change, Error, Mark, Result};

/// Looks after which a merge has drained.
const LOOKS: u32 = 3;

impl Locked {
    /// What is known of a volume as a block volume. Looking drains.
    pub(super) fn block_facts(&self, name: &str, meta: &VolumeMeta, full: bool) -> Result<BlockFacts> {
        let merge = match (&meta.merging, meta.draining) {
            (Some(_), _) => Some(Merge::Waiting),
            (None, 0) => None,
            (None, left) => {
                self.set_volume(name, &VolumeMeta { draining: left - 1, ..meta.clone() })?;
                Some(Merge::Draining { left_percent: f64::from(left) * 100.0 / f64::from(LOOKS) })
            }
        };
        let of = |other: &VolumeMeta| other.origin.as_deref() == Some(name);
        let mut snapshots = Vec::new();
        for other in self.volume_names()? {
            snapshots.extend(self.volume(&other)?.filter(of).map(|_| other));
        }
        Ok(BlockFacts {
            id: name.to_owned(),
            size_bytes: meta.capacity_bytes,
            open: Some(self.user_of(name)?.is_some()),
            origin: meta.origin.clone(),
            snapshots,
            lost: full.then(|| "the snapshot filled up, and is lost".to_owned()),
            unfit: meta.limit_bytes.map(|limit| format!("it can fill: it has {limit} bytes")),
            merge,
        })
    }

    /// Makes a snapshot of this run never fill.
    pub(super) fn secure(&mut self, doing: &str, name: &str, run: &str) -> Result<Change> {
        let Some(meta) = self.volume(name)? else { return Err(Error::not_found(doing, "it does not exist")) };
        if meta.mark.as_ref().is_none_or(|mark: &Mark| mark.run != run) {
            return Err(Error::refused(doing, format!("it is not of run {run}")));
        }
        if self.is_full(name, &meta)? {
            return Err(Error::refused(doing, "the snapshot filled up, and is lost"));
        }
        let Some(limit) = meta.limit_bytes else { return Ok(Change::Unchanged) };
        if self.pool_free()? < meta.capacity_bytes.saturating_sub(limit) {
            return Err(Error::refused(doing, "the pool has not enough room"));
        }
        self.set_volume(name, &VolumeMeta { limit_bytes: None, ..meta })?;
        Ok(Change::Changed)
    }

    /// Merges a snapshot of this run into its origin.
    pub(super) fn merge(&mut self, doing: &str, snapshot: &str, origin: &str, run: &str) -> Result<Change> {
        let Some(below) = self.volume(origin)? else {
            return Err(Error::not_found(doing, format!("there is no {origin} to merge into")));
        };
        if let Some(name) = &below.merging {
            if name != snapshot {
                return Err(Error::refused(doing, format!("{name} is being merged into {origin}")));
            }
            return self.finish_merge(doing, snapshot, origin).map(|()| Change::Changed);
        }
        // Once merged it is gone.
        let Some(above) = self.volume(snapshot)? else { return Ok(Change::Unchanged) };
        if above.intent.is_some() || above.mark.as_ref().is_none_or(|mark| mark.run != run) {
            return Err(Error::refused(doing, format!("{snapshot} is not of run {run}")));
        }
        if above.origin.as_deref() != Some(origin) {
            return Err(Error::refused(doing, format!("{snapshot} is not a snapshot of {origin}")));
        }
        if self.is_full(snapshot, &above)? {
            return Err(Error::refused(doing, "the snapshot filled up, and is lost"));
        }
        for side in [snapshot, origin] {
            if let Some(guest) = self.user_of(side)? {
                return Err(Error::refused(doing, format!("{side} is open: {guest} runs on it")));
            }
        }
        self.set_volume(origin, &VolumeMeta { merging: Some(snapshot.to_owned()), ..below })?;
        self.finish_merge(doing, snapshot, origin).map(|()| Change::Changed)
    }

    fn finish_merge(&mut self, doing: &str, snapshot: &str, origin: &str) -> Result<()> {
        let (from, to) = (self.tree(snapshot), self.tree(origin));
        let failed = |error| Error::io(doing, error);
        self.midpoint(doing)?;
        if fs::symlink_metadata(&from).is_ok() {
            unlock_directories(&to).map_err(failed)?;
            match fs::remove_dir_all(&to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
            fs::rename(&from, &to).map_err(failed)?;
        }
        let above = self.volume(snapshot)?;
        let Some(below) = self.volume(origin)? else { return Err(Error::not_found(doing, "the origin is gone")) };
        let mut meta = VolumeMeta { merging: None, draining: LOOKS, ..below };
        if let Some(above) = above {
            (meta.used_bytes, meta.base_bytes, meta.written_bytes) =
                (above.used_bytes, above.base_bytes, above.written_bytes);
            meta.jobs = above.jobs;
            self.forget_volume(snapshot)?;
        }
        self.set_volume(origin, &meta)
    }
}
