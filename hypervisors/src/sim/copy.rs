//! Making simulated volumes and taking them away, each step such that a tree that is not whole can be told from one
//! that is: a copy is begun by an intent and ended by its mark, removal begins by turning the mark back into an intent.

use std::io;

use super::tree;
use super::volumes;
use super::world::{Locked, VolumeMeta, fresh_id};
use crate::storage::{Copies, CowSize, Snapshot};
use crate::{Change, Error, Mark, Result, Role};

impl Locked {
    /// How a fresh swap volume stands.
    pub fn swap_state(&self, name: &str, mark: &Mark) -> Result<Snapshot> {
        let state = self.snapshot_state(name, mark)?;
        let swap = self.volume(name)?.is_some_and(|meta| meta.swap.is_some());
        Ok(match state {
            Snapshot::Present if !swap => Snapshot::Foreign(format!("volume {name} is no swap space")),
            state => state,
        })
    }
    /// A volume was renamed: who has it open goes on having it open.
    pub fn users_follow(&self, from: &str, to: &str) -> Result<()> {
        for (guest, mut runtime) in self.running()? {
            if runtime.parsed()?.disks.iter().any(|disk| disk.volume == from) {
                runtime.follow(from, to);
                self.set_runtime(&guest, &runtime)?;
            }
        }
        Ok(())
    }
    /// Opening activates what its host has started without.
    pub fn activate(&self, name: &str) -> Result<()> {
        match self.volume(name)? {
            Some(meta) if meta.inactive => self.set_volume(name, &VolumeMeta { inactive: false, ..meta }),
            _ => Ok(()),
        }
    }

    fn erase(&mut self, doing: &str, name: &str) -> Result<()> {
        let tree = self.tree(name);
        let io = |error| Error::io(doing, error);
        tree::unlock(&tree).map_err(io)?;
        self.midpoint(doing)?;
        tree::remove(&tree).map_err(io)?;
        self.forget_volume(name)
    }

    /// Erases a volume whose mark or intent was looked at, and on which nothing runs.
    pub fn discard(&mut self, doing: &str, name: &str, mut meta: VolumeMeta) -> Result<()> {
        self.closed(doing, name)?;
        if let Some(mark) = meta.mark.take() {
            meta.intent = Some(mark);
        }
        self.set_volume(name, &meta)?;
        self.erase(doing, name)
    }

    /// Takes an area of the volume group, where there is one.
    pub fn take_area(&self, doing: &str, bytes: u64) -> Result<u64> {
        if self.copies()? != Copies::Dependents {
            return Ok(0);
        }
        let free = self.pool_free()?;
        if bytes > free {
            let why = format!("{} are needed, {} are free", volumes::amount(bytes), volumes::amount(free));
            return Err(Error::refused(doing, why).help("make room in the volume group"));
        }
        Ok(bytes)
    }

    /// Copies a volume to a name that nothing bears; `half`: a fault can strike in it.
    pub fn copy_volume(
        &mut self,
        doing: &str,
        (from, to): (&str, &str),
        size: Option<CowSize>,
        mark: &Mark,
        half: bool,
    ) -> Result<()> {
        let original = self.usable(doing, from)?;
        self.can_be_copied(doing, from, &original)?;
        if self.pool_free()? == 0 {
            return Err(Error::refused(doing, "the pool is full"));
        }
        let mut meta = VolumeMeta {
            capacity_bytes: original.capacity_bytes,
            used_bytes: original.used_bytes + self.growth(from, &original),
            nested: original.nested.clone(),
            swap: original.swap.clone(),
            id: fresh_id(to),
            intent: Some(mark.clone()),
            ..VolumeMeta::default()
        };
        let copies = self.copies()?;
        if copies != Copies::Trees {
            meta.origin = Some(Self::id(from, &original));
            meta.origin_base = self.turnover(from, &original);
            // What production is to stand on comes up with its host from the beginning (`lvcreate -k n`).
            meta.skip = copies == Copies::Peers && mark.role != Role::Production;
        }
        if copies == Copies::Dependents {
            let (bytes, can_fill) = volumes::area(size, meta.capacity_bytes);
            meta.area_bytes = self.take_area(doing, bytes)?;
            meta.limit_bytes = can_fill.then_some(bytes);
        }
        self.set_volume(to, &meta)?;
        let (source, target) = (self.tree(from), self.tree(to));
        let mut middle = || if half { self.midpoint(doing).map_err(CopyError) } else { Ok(()) };
        tree::copy(&source, &target, &mut middle)
            .map_err(|CopyError(error)| Error { doing: doing.to_owned(), ..error })?;
        meta.base_bytes = tree::size(&target);
        meta.mark = meta.intent.take();
        self.set_volume(to, &meta)
    }

    /// Copies of one instant: what an attempt cut short has left is made again with the rest.
    pub fn copy_set(&mut self, set: &[(String, String, Option<CowSize>)], mark: &Mark) -> Result<Change> {
        let mut left = Vec::new();
        for (from, to, _) in set {
            match self.snapshot_state(to, mark)? {
                Snapshot::Foreign(why) => return Err(Error::refused(format!("snapshot {from} as {to}"), why)),
                Snapshot::Absent => {}
                Snapshot::Partial => left.push((to, false)),
                Snapshot::Present => left.push((to, true)),
            }
        }
        if left.len() == set.len() && left.iter().all(|(_, whole)| *whole) {
            return Ok(Change::Unchanged);
        }
        // All that can be refused is refused before the first is made.
        let mut areas = 0;
        for (from, to, size) in set {
            let doing = format!("snapshot {from} as {to}");
            let original = self.usable(&doing, from)?;
            self.can_be_copied(&doing, from, &original)?;
            areas += volumes::area(*size, original.capacity_bytes).0;
        }
        for (name, _) in left {
            let meta = self.volume(name)?.unwrap_or_default();
            self.discard(&format!("make {name} again"), name, meta)?;
        }
        self.take_area(&format!("snapshot {} volumes", set.len()), areas)?;
        for (index, (from, to, size)) in set.iter().enumerate() {
            self.copy_volume(&format!("snapshot {from} as {to}"), (from, to), *size, mark, index == set.len() / 2)?;
        }
        Ok(Change::Created)
    }

    /// What would be lost with a volume, or bars its removal.
    pub fn may_remove(&self, doing: &str, name: &str, meta: &VolumeMeta) -> Result<()> {
        self.closed(doing, name)?;
        if meta.merging.is_some() || self.merging_into(name, meta)?.is_some() {
            return Err(Error::refused(doing, "a merge is under way"));
        }
        let snapshots = self.snapshots_of(name, meta)?;
        if self.copies()? == Copies::Dependents && !snapshots.is_empty() {
            let names: Vec<String> = snapshots.into_iter().map(|(name, _)| name).collect();
            return Err(Error::refused(doing, format!("its snapshots would go with it: {}", names.join(", "))));
        }
        Ok(())
    }

    /// A volume of a run that is whole.
    pub fn own(&self, doing: &str, name: &str, run: &str) -> Result<VolumeMeta> {
        match self.volume(name)? {
            None => Err(Error::not_found(doing, format!("volume {name} does not exist"))),
            Some(meta) if meta.mark.as_ref().is_none_or(|mark| mark.run != run) || meta.intent.is_some() => {
                Err(Error::refused(doing, format!("it is not a whole volume of run {run}")))
            }
            Some(meta) => Ok(meta),
        }
    }
}

/// Carries both kinds of failure out of [`tree::copy`].
struct CopyError(Error);
impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self(Error::io("copy the volume's files", error))
    }
}
