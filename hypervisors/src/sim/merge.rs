//! Merging a snapshot into its origin.
//!
//! ```text
//! decided    ORIGIN.json names the snapshot            Merge::Waiting: begun by whoever asks again
//! swapping   ORIGIN/ set aside, SNAPSHOT/ takes its place, what was set aside is erased
//! begun      ORIGIN.json describes the new content     Merge::Draining until its time has come
//! settled    SNAPSHOT.json removed, ORIGIN.json forgets the merge, when somebody next looks
//! ```
//!
//! Each arrow is one replaced file or one rename, and repeats from wherever it was cut. Peers do not drain.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::tree;
use super::world::{Locked, VolumeMeta, now_ms};
use crate::storage::{Copies, Merge};
use crate::{Error, Result};

/// A merge that is decided or under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Merging {
    /// Id of the snapshot.
    pub snapshot: String,
    /// The origin's account once it has the snapshot's content.
    becomes: Account,
    /// When it began and when it will have drained, in milliseconds since the epoch.
    begun: Option<(u64, u64)>,
}

/// What a volume holds; as in [`VolumeMeta`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Account {
    used_bytes: u64,
    base_bytes: u64,
    written_bytes: u64,
    turnover_bytes: u64,
}

impl Merging {
    /// How it stands now.
    pub fn stands(&self) -> Merge {
        let Some((began, ends)) = self.begun else { return Merge::Waiting };
        let left = ends.saturating_sub(now_ms()) as f64 * 100.0;
        Merge::Draining { left_percent: (left / (ends.saturating_sub(began).max(1) as f64)).min(100.0) }
    }
}

impl Locked {
    /// Name of the volume that a snapshot is being merged into.
    pub fn merging_into(&self, name: &str, meta: &VolumeMeta) -> Result<Option<String>> {
        if meta.origin.is_none() {
            return Ok(None);
        }
        let id = Self::id(name, meta);
        let into = |meta: &VolumeMeta| meta.merging.as_ref().is_some_and(|merging| merging.snapshot == id);
        Ok(self.all_volumes()?.into_iter().find(|(_, meta)| into(meta)).map(|(name, _)| name))
    }

    /// Ends the merges whose time has come: their snapshots go.
    pub fn settle_merges(&self) -> Result<()> {
        for (origin, meta) in self.all_volumes()? {
            let Some(merging) = &meta.merging else { continue };
            if merging.begun.is_none_or(|(_, ends)| ends > now_ms()) {
                continue;
            }
            if let Some((snapshot, _)) = self.by_id(&merging.snapshot)? {
                self.forget_volume(&snapshot)?;
            }
            self.set_volume(&origin, &VolumeMeta { merging: None, ..meta })?;
        }
        Ok(())
    }

    /// Whether a merge has yet to begin; an error if it may not.
    pub fn to_merge(&self, doing: &str, snapshot: &str, origin: &str, run: &str) -> Result<bool> {
        let refused = |why: String| Err(Error::refused(doing, why));
        let Some(below) = self.volume(origin)? else {
            return Err(Error::not_found(doing, format!("there is no {origin} to merge into")));
        };
        // Once merged it is gone.
        let Some(above) = self.volume(snapshot)? else { return Ok(false) };
        if above.mark.as_ref().is_none_or(|mark| mark.run != run) || above.intent.is_some() {
            return refused(format!("{snapshot} is not a whole volume of run {run}"));
        }
        if below.intent.is_some() || below.mark.as_ref().is_some_and(|mark| mark.run != run) {
            return refused(format!("{origin} is of another run, or not whole"));
        }
        if above.origin != Some(Self::id(origin, &below)) {
            return refused(format!("{snapshot} is not a snapshot of {origin}"));
        }
        if below.merging.is_none() && !self.tree(snapshot).is_dir() {
            return refused(format!("{snapshot} has no files"));
        }
        match &below.merging {
            Some(merging) if merging.snapshot != Self::id(snapshot, &above) => {
                return refused(format!("another snapshot is being merged into {origin}"));
            }
            Some(Merging { begun: Some(_), .. }) => return Ok(false),
            _ => {}
        }
        if self.is_full(snapshot, &above)? {
            return refused(format!("{snapshot} filled up, and is lost"));
        }
        for name in [snapshot, origin] {
            if let Some(guest) = self.user_of(name)? {
                let why = format!("{name} is open: {guest} runs on it, and the merge would not begin now");
                return Err(Error::refused(doing, why).help("stop the guest"));
            }
        }
        Ok(true)
    }

    /// Begins a merge for which [`Self::to_merge`] found nothing in the way; `half`: a fault can strike in it.
    pub fn begin_merge(&mut self, doing: &str, snapshot: &str, origin: &str, half: bool) -> Result<()> {
        let (above, below) = (self.volume(snapshot)?.unwrap_or_default(), self.volume(origin)?.unwrap_or_default());
        let known = below.merging.as_ref().map(|merging| merging.becomes);
        // Once the files are swapped, only what was noted before tells what they had become.
        let swapped = !self.tree(snapshot).is_dir();
        let becomes = match known.filter(|_| swapped || !self.tree(origin).is_dir()) {
            Some(becomes) => becomes,
            None => self.account(snapshot, &above, origin, &below)?,
        };
        let mut merging = Merging { snapshot: Self::id(snapshot, &above), becomes, begun: None };
        let below = VolumeMeta { merging: Some(merging.clone()), id: Self::id(origin, &below), ..below };
        self.set_volume(origin, &below)?;
        if half {
            self.midpoint(doing)?;
        }
        self.swap_trees(snapshot, origin).map_err(|error| Error::io(doing, error))?;
        let config = self.sim.config()?;
        let drains = if config.copies == Copies::Dependents { config.merge_ms } else { 0 };
        let now = now_ms();
        merging.begun = Some((now, now.saturating_add(drains)));
        let merged = VolumeMeta {
            used_bytes: becomes.used_bytes,
            base_bytes: becomes.base_bytes,
            written_bytes: becomes.written_bytes,
            turnover_bytes: becomes.turnover_bytes,
            nested: above.nested,
            swap: above.swap,
            jobs: above.jobs,
            merging: Some(merging),
            ..below
        };
        self.set_volume(origin, &merged)
    }

    /// What the origin holds after the merge. Other snapshots of a thick one pay for it with their own areas.
    fn account(&self, snapshot: &str, above: &VolumeMeta, origin: &str, below: &VolumeMeta) -> Result<Account> {
        let size = tree::size(&self.tree(snapshot));
        Ok(match self.copies()? {
            Copies::Dependents => Account {
                used_bytes: above.used_bytes + self.growth(snapshot, above),
                base_bytes: size,
                written_bytes: 0,
                turnover_bytes: self.turnover(origin, below) + self.fill(snapshot, above)?,
            },
            Copies::Peers | Copies::Trees => {
                let above = above.clone().alone();
                Account {
                    used_bytes: above.used_bytes,
                    base_bytes: above.base_bytes,
                    written_bytes: above.written_bytes,
                    turnover_bytes: 0,
                }
            }
        })
    }

    fn swap_trees(&self, snapshot: &str, origin: &str) -> io::Result<()> {
        let (above, below) = (self.tree(snapshot), self.tree(origin));
        // No volume has such a name.
        let aside: PathBuf = self.sim.volumes().join(format!(".{origin}.merged"));
        if above.is_dir() {
            if below.is_dir() {
                tree::remove(&aside)?;
                fs::rename(&below, &aside)?;
            }
            fs::rename(&above, &below)?;
        }
        tree::remove(&aside)
    }
}

impl VolumeMeta {
    /// A peer whose origin is gone: it holds by itself what it shared.
    pub fn alone(self) -> Self {
        Self {
            used_bytes: self.used_bytes.saturating_sub(self.origin_base),
            written_bytes: self.written_bytes + self.origin_base,
            origin: None,
            origin_base: 0,
            ..self
        }
    }
}
