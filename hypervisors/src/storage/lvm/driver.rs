//! [`LvmStorage`] as a [`Storage`]. What is decided here is decided from one report of the volume group.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;

use super::name::{self, LvName};
use super::report::{Lv, Report};
use super::{LvmStorage, command, covering_of, facts, kind_of, lost, merge_into, size, stands, unfit};
use crate::storage::disk::{self, Layout};
use crate::storage::mount::{self, Access, Opened};
use crate::storage::{
    Copies, CopyRequest, CowSize, Merge, SizePolicy, SizedSnapshot, Snapshot, Storage, VolumeFacts, VolumeKind,
    VolumeRef,
};
use crate::{Cause, Change, Error, Mark, Result};

impl LvmStorage {
    fn thin_kind(&self) -> bool {
        self.kind == VolumeKind::LvmThin
    }

    /// Whether this machine's processes other than this one have it open.
    pub(super) fn held(&self, name: &LvName, lv: &Lv) -> Option<bool> {
        if self.host.is_local() && mount::is_ours(&name.path()) { Some(false) } else { lv.attr.open }
    }

    fn may_remove(&self, doing: &str, report: &Report, lv: &Lv, run: &str) -> Result<()> {
        if let Snapshot::Foreign(why) = stands(Some(lv), run) {
            return Err(Error::refused(doing, format!("it is not of run {run}: {why}")));
        }
        let snapshots: Vec<&str> = report.snapshots(&lv.name).map(|snapshot| snapshot.name.as_str()).collect();
        if !lv.is_thin() && (lv.attr.has_snapshots() || !snapshots.is_empty()) {
            return Err(Error::refused(doing, format!("its snapshots would go with it: {}", snapshots.join(", "))));
        }
        if lv.attr.merging() || lv.attr.has_snapshots() {
            return Err(Error::refused(doing, "a merge is under way"));
        }
        match lv.attr.open {
            Some(false) => Ok(()),
            _ => Err(Error::refused(doing, "something has it open").help("stop the guest that runs on it")),
        }
    }

    async fn mkswap(&self, doing: &str, like: &LvName, name: &LvName) -> Result<()> {
        let found = disk::probe(&*self.host, doing, &like.path(), None).await?;
        // A guest that hibernated has its image there; the place is swap space all the same.
        if !matches!(found.get("TYPE").map(String::as_str), Some("swap" | "swsuspend")) {
            return Err(Error::refused(doing, format!("{like} holds no swap space")).help("declare it as what it is"));
        }
        let field = |key| found.get(key).map(String::as_str);
        let command = command::mkswap(name, field("UUID"), field("LABEL"));
        self.host.run(&command).await?.checked(doing, &command).map(drop)
    }

    /// Bytes in use in the file systems on a volume. Of a disk with partitions what is not one that is opened here counts whole:
    /// swap space is written all over.
    async fn used(&self, volume: &VolumeRef) -> Result<Option<u64>> {
        let layout = self.layout(volume).await?.unwrap_or_default();
        if layout.table.is_none() {
            return Ok(self.open(volume, Access::Glance).await?.used_bytes().ok());
        }
        let whole: u64 = layout.areas.iter().filter(|area| !area.container).map(|area| area.bytes).sum();
        let Ok(opened) = self.open(volume, Access::Glance).await else { return Ok(Some(whole)) };
        Ok(opened.free_bytes().ok().map(|free| whole.saturating_sub(free)))
    }

    /// What stands in the way of merging: both sides have to be closed, everywhere.
    fn closed(doing: &str, report: &Report, volumes: &[&Lv]) -> Result<()> {
        if report.shared {
            return Err(Error::refused(doing, "the volume group is shared with other hosts, which may have it open")
                .help("make it exclusive to this host first"));
        }
        match volumes.iter().find(|lv| lv.attr.open != Some(false)) {
            None => Ok(()),
            Some(lv) => Err(Error::refused(doing, format!("{} is open: the merge would not begin now", lv.name))
                .help("stop the guest that runs on it, and unmount it everywhere")),
        }
    }

    async fn merge_in(&self, vg: &str, merges: &[(LvName, LvName)], run: &str) -> Result<Change> {
        let names: Vec<String> = merges.iter().map(|(snapshot, _)| snapshot.to_string()).collect();
        let doing = format!("merge {}", names.join(", "));
        let report = self.group(&doing, vg).await?.unwrap_or_default();
        let mut begin = Vec::new();
        for (snapshot, origin) in merges {
            begin.extend(self.to_begin(&doing, &report, snapshot, origin, run)?);
        }
        if !begin.is_empty() {
            self.run(&doing, &command::merge(&begin)).await?;
        }
        let report = if begin.is_empty() { report } else { self.group(&doing, vg).await?.unwrap_or_default() };
        let changed = self.begin_waiting(&doing, &report, vg, merges).await? || !begin.is_empty();
        Ok(if changed { Change::Changed } else { Change::Unchanged })
    }

    /// The snapshot's name if its merge has yet to be asked for.
    fn to_begin(
        &self,
        doing: &str,
        report: &Report,
        snapshot: &LvName,
        origin: &LvName,
        run: &str,
    ) -> Result<Option<String>> {
        let Some(below) = report.volume(&origin.lv) else {
            return Err(Error::not_found(doing, format!("there is no {origin} to merge into")));
        };
        // Once merged it is gone.
        let Some(above) = report.volume(&snapshot.lv) else { return Ok(None) };
        if !above.is_of(run) || kind_of(above) != self.kind {
            return Err(Error::refused(doing, format!("{snapshot} is not of run {run}")));
        }
        if above.origin.as_deref() != Some(origin.lv.as_str()) {
            return Err(Error::refused(doing, format!("{snapshot} is not a snapshot of {origin}")));
        }
        if above.attr.merging() {
            return Ok(None);
        }
        if let Some(why) = lost(above, None) {
            return Err(Error::refused(doing, format!("{snapshot}: {why}")));
        }
        if merge_into(report, below).is_some() {
            return Err(Error::refused(doing, format!("another snapshot is being merged into {origin}"))
                .help("wait until it has drained"));
        }
        Self::closed(doing, report, &[above, below])?;
        Ok(Some(snapshot.to_string()))
    }

    /// A snapshot of this run that is not lost, with its volume group.
    async fn living(&self, doing: &str, name: &LvName, run: &str) -> Result<(Report, Lv)> {
        let (report, found) = self.look(doing, name).await?;
        let Some(lv) = found else { return Err(Error::not_found(doing, format!("{name} does not exist"))) };
        if !lv.is_of(run) {
            return Err(Error::refused(doing, format!("it is not of run {run}")));
        }
        match lost(&lv, None) {
            Some(why) => Err(Error::refused(doing, why)),
            None => Ok((report, lv)),
        }
    }

    /// Begins merges that were put off, and sees that someone waits for the end of those that drain.
    async fn begin_waiting(&self, doing: &str, report: &Report, vg: &str, merges: &[(LvName, LvName)]) -> Result<bool> {
        let state = |origin: &LvName| report.volume(&origin.lv).and_then(|lv| merge_into(report, lv));
        let (mut waiting, mut draining) = (Vec::new(), Vec::new());
        for (snapshot, origin) in merges {
            match state(origin) {
                Some(Merge::Waiting) => {
                    let sides: Vec<&Lv> =
                        [snapshot, origin].into_iter().filter_map(|name| report.volume(&name.lv)).collect();
                    Self::closed(doing, report, &sides)?;
                    waiting.push(origin.to_string());
                }
                Some(Merge::Draining { .. }) => draining.push(origin.to_string()),
                None => {}
            }
        }
        if !draining.is_empty() {
            self.run(doing, &command::poll(&draining)).await?;
        }
        if waiting.is_empty() {
            return Ok(false);
        }
        self.run(doing, &command::refresh(&waiting)).await?;
        let report = self.group(doing, vg).await?.unwrap_or_default();
        for (_, origin) in merges {
            if report.volume(&origin.lv).and_then(|lv| merge_into(&report, lv)) == Some(Merge::Waiting) {
                return Err(Error::refused(doing, format!("the merge into {origin} does not begin"))
                    .help("look what has it open (lsof, xl list, virsh domblklist), close it, and go on"));
            }
        }
        Ok(true)
    }
}

#[async_trait]
impl Storage for LvmStorage {
    fn kind(&self) -> VolumeKind {
        self.kind
    }

    fn copies(&self) -> Copies {
        if self.thin_kind() { Copies::Peers } else { Copies::Dependents }
    }

    async fn inspect(&self, volume: &VolumeRef) -> Result<Option<VolumeFacts>> {
        let doing = format!("inspect {volume}");
        let name = self.name(&doing, volume)?;
        let (report, found) = self.look(&doing, &name).await?;
        Ok(found.map(|lv| facts(&report, &lv)))
    }

    async fn snapshot(&self, source: &VolumeRef, target: &VolumeRef, mark: &Mark) -> Result<Change> {
        match self.probe(target, mark).await? {
            Snapshot::Present => return Ok(Change::Unchanged),
            Snapshot::Foreign(what) => {
                return Err(Error::refused(format!("snapshot {source} as {target}"), what)
                    .help(format!("look at {target}; rename it if it is needed")));
            }
            Snapshot::Partial => {
                self.remove(target, &mark.run).await?;
            }
            Snapshot::Absent => {}
        }
        self.snapshot_set(&[CopyRequest { source, target, size: None }], mark).await
    }

    async fn snapshot_set(&self, copies: &[CopyRequest<'_>], mark: &Mark) -> Result<Change> {
        // All that can be refused is refused before the first is made.
        let mut commands = Vec::new();
        for copy in copies {
            let doing = format!("snapshot {} as {}", copy.source, copy.target);
            let (from, to) = (self.name(&doing, copy.source)?, self.name(&doing, copy.target)?);
            if from.vg != to.vg {
                return Err(Error::refused(doing, "a snapshot is made in its origin's volume group"));
            }
            let tag = name::tag(&doing, mark)?;
            let command = match self.thin_kind() {
                true => command::create_thin(&from, &to.lv, &tag),
                false => command::create_thick(&from, &to.lv, copy.size.unwrap_or(CowSize::Covering), &tag),
            };
            commands.push((doing, command));
        }
        for (doing, command) in &commands {
            self.run(doing, command).await?;
        }
        Ok(Change::Created)
    }

    async fn size_snapshot(&self, source: &VolumeRef, policy: Option<SizePolicy>) -> Result<Option<SizedSnapshot>> {
        let doing = format!("choose the size of a snapshot of {source}");
        let name = self.name(&doing, source)?;
        let (report, found) = self.look(&doing, &name).await?;
        let Some(lv) = found else { return Err(Error::not_found(doing, format!("{name} does not exist"))) };
        if lv.is_thin() {
            return Ok(None);
        }
        if lv.origin.is_some() {
            return Err(Error::refused(doing, "it is a snapshot itself, of which LVM makes no snapshot"));
        }
        let covering = size::covering(lv.size_bytes, size::CHUNK_BYTES, report.extent_bytes);
        let count = match policy {
            Some(SizePolicy::PercentUsed(_)) => true,
            None => covering > report.free_bytes,
            Some(_) => false,
        };
        let used_bytes = match count {
            true => self.used(source).await?,
            false => None,
        };
        let known = size::Known {
            origin_bytes: lv.size_bytes,
            used_bytes,
            extent_bytes: report.extent_bytes,
            free_bytes: report.free_bytes,
        };
        size::choose(policy, &known)
            .map(Some)
            .map_err(|why| Error::refused(doing, why).help("make room in the volume group, or set clone.snapshot.size"))
    }

    async fn probe(&self, target: &VolumeRef, mark: &Mark) -> Result<Snapshot> {
        let doing = format!("look at {target}");
        let name = self.name(&doing, target)?;
        Ok(stands(self.look(&doing, &name).await?.1.as_ref(), &mark.run))
    }

    async fn remove(&self, volume: &VolumeRef, run: &str) -> Result<Change> {
        self.remove_all(&[volume], run).await
    }

    async fn remove_all(&self, volumes: &[&VolumeRef], run: &str) -> Result<Change> {
        let mut groups: BTreeMap<String, Vec<LvName>> = BTreeMap::new();
        let list: Vec<String> = volumes.iter().map(ToString::to_string).collect();
        let doing = format!("remove {}", list.join(", "));
        for volume in volumes {
            let name = self.name(&doing, volume)?;
            groups.entry(name.vg.clone()).or_default().push(name);
        }
        let mut change = Change::Unchanged;
        for (vg, names) in groups {
            let report = self.let_go(&doing, &vg, &names.iter().collect::<Vec<_>>()).await?;
            let mut gone = Vec::new();
            for name in &names {
                let Some(lv) = report.volume(&name.lv) else { continue };
                self.may_remove(&format!("remove {name}"), &report, lv, run)?;
                let tag = lv.tags.iter().find(|tag| name::mark(tag).is_some_and(|mark| mark.run == run));
                gone.extend(tag.map(|tag| (lv.uuid.as_str(), tag.as_str())));
            }
            if gone.is_empty() {
                continue;
            }
            self.run(&doing, &command::remove(&vg, &gone)).await?;
            // What no longer answers to its UUID and tag is left alone, without an error.
            let left = self.group(&doing, &vg).await?.unwrap_or_default();
            if let Some(lv) = left.volumes.iter().find(|lv| gone.iter().any(|(uuid, _)| lv.uuid == *uuid)) {
                return Err(Error::refused(doing, format!("{} was changed by someone else meanwhile", lv.name)));
            }
            change = Change::Removed;
        }
        Ok(change)
    }

    async fn mark(&self, volume: &VolumeRef, mark: Option<&Mark>) -> Result<Change> {
        let doing = format!("mark {volume}");
        let name = self.name(&doing, volume)?;
        let Some(lv) = self.look(&doing, &name).await?.1 else {
            return Err(Error::not_found(doing, format!("{name} does not exist")));
        };
        let wanted = mark.map(|mark| name::tag(&doing, mark)).transpose()?;
        let old: Vec<String> =
            lv.tags.iter().filter(|tag| name::mark(tag).is_some() && Some(*tag) != wanted.as_ref()).cloned().collect();
        let add = wanted.as_deref().filter(|tag| !lv.tags.iter().any(|have| have == tag));
        if old.is_empty() && add.is_none() {
            return Ok(Change::Unchanged);
        }
        self.run(&doing, &command::tags(&name, &old, add)).await?;
        Ok(Change::Changed)
    }

    async fn rename(&self, from: &VolumeRef, to: &VolumeRef) -> Result<Change> {
        let doing = format!("rename {from} to {to}");
        let (old, new) = (self.name(&doing, from)?, self.name(&doing, to)?);
        if old.vg != new.vg {
            return Err(Error::refused(doing, "that is another volume group"));
        }
        let (report, found) = self.look(&doing, &old).await?;
        // Whatever bears a name, pools and hidden volumes included, is in the way.
        let taken = report.volumes.iter().find(|lv| lv.name == new.lv);
        let lv = match (found, taken) {
            (None, Some(there)) if there.is_volume() && kind_of(there) == self.kind => return Ok(Change::Unchanged),
            (None, _) => return Err(Error::not_found(doing, format!("{old} does not exist"))),
            (Some(_), Some(_)) => return Err(Error::refused(doing, format!("{new} exists"))),
            (Some(lv), None) => lv,
        };
        if lv.attr.merging() {
            return Err(Error::refused(doing, "it is being merged"));
        }
        self.run(&doing, &command::rename(&old, &new)).await?;
        match self.look(&doing, &new).await?.1 {
            Some(there) if there.uuid == lv.uuid => Ok(Change::Changed),
            _ => Err(Error::unknown(doing, format!("{new} is not the volume that {old} was"))),
        }
    }

    async fn marked(&self, directory: &Path) -> Result<Vec<(VolumeRef, Mark)>> {
        let doing = format!("list the marked volumes in {}", directory.display());
        let Some(vg) = name::group_of(directory) else { return Ok(Vec::new()) };
        let Some(report) = self.group(&doing, &vg).await? else { return Ok(Vec::new()) };
        let ours = report.volumes.iter().filter(|lv| lv.is_volume() && kind_of(lv) == self.kind);
        Ok(ours
            .filter_map(|lv| {
                let name = LvName { vg: vg.clone(), lv: lv.name.clone() };
                Some((VolumeRef { kind: self.kind, path: name.path() }, lv.marks().into_iter().next()?))
            })
            .collect())
    }

    async fn layout(&self, volume: &VolumeRef) -> Result<Option<Layout>> {
        let doing = format!("look what is on {volume}");
        let name = self.name(&doing, volume)?;
        let (report, found) = self.look(&doing, &name).await?;
        let Some(lv) = found else { return Err(Error::not_found(doing, format!("{name} does not exist"))) };
        let size = facts(&report, &lv).block.map_or(lv.size_bytes, |block| block.size_bytes);
        disk::layout(&*self.host, &doing, &name.path(), size).await.map(Some)
    }

    async fn open(&self, volume: &VolumeRef, access: Access) -> Result<Opened> {
        let doing = format!("open {volume}");
        let name = self.name(&doing, volume)?;
        if !self.host.is_local() {
            let why = format!("the volumes of {} cannot be opened from here", self.host.name());
            return Err(
                Error::new(doing, Cause::Unsupported(why)).help(format!("run upgradectl on {}", self.host.name()))
            );
        }
        let report = match access {
            Access::Glance => self.group(&doing, &name.vg).await?.unwrap_or_default(),
            _ => self.let_go(&doing, &name.vg, &[&name]).await?,
        };
        let (report, found) = self.find(&doing, &name, report)?;
        let Some(lv) = found else { return Err(Error::not_found(doing, format!("{name} does not exist"))) };
        if let Some(why) = lost(&lv, lv.pool.as_deref().and_then(|pool| report.pool(pool))) {
            return Err(Error::refused(doing, why));
        }
        if lv.attr.merging() {
            return Err(Error::refused(doing, "it is being merged; its origin shows what is in it"));
        }
        if access != Access::Glance && self.held(&name, &lv) != Some(false) {
            return Err(Error::refused(doing, "something has it open")
                .help("stop the guest that runs on it, and unmount it on the host"));
        }
        match (lv.attr.state, access) {
            (super::State::Active, _) => {}
            (_, Access::Glance) => {
                return Err(
                    Error::refused(doing, "it is not active").help(format!("activate it: lvchange -ay -K {name}"))
                );
            }
            _ => {
                self.run(&doing, &command::activate(&name)).await?;
            }
        }
        mount::open_device(&*self.host, &doing, &name.path(), access).await
    }

    async fn secure(&self, volume: &VolumeRef, run: &str) -> Result<Change> {
        let doing = format!("make {volume} fit for production");
        let name = self.name(&doing, volume)?;
        let (report, lv) = self.living(&doing, &name, run).await?;
        let Some(why) = unfit(&report, &lv) else { return Ok(Change::Unchanged) };
        if !lv.is_thin() {
            let missing = covering_of(&report, &lv).unwrap_or(0).saturating_sub(lv.size_bytes);
            if missing > report.free_bytes {
                let (needed, free) = (size::amount(missing), size::amount(report.free_bytes));
                return Err(Error::refused(doing, format!("{why}; {needed} more are needed, {free} are free"))
                    .help("make room in the volume group"));
            }
            self.run(&doing, &command::extend_covering(&name)).await?;
        } else if lv.attr.skip {
            self.run(&doing, &command::unskip(&name)).await?;
        }
        let (report, after) = self.look(&doing, &name).await?;
        match after.and_then(|lv| lost(&lv, None).or_else(|| unfit(&report, &lv))) {
            None => Ok(Change::Changed),
            Some(why) => Err(Error::refused(doing, why)),
        }
    }

    async fn extend(&self, volume: &VolumeRef, by: CowSize, run: &str) -> Result<Change> {
        let doing = format!("grow {volume}");
        let name = self.name(&doing, volume)?;
        let (report, lv) = self.living(&doing, &name, run).await?;
        let Some(covering) = covering_of(&report, &lv).filter(|_| !lv.is_thin()) else {
            let why = "only the area of a thick snapshot grows; a thin pool grows by itself or by lvextend";
            return Err(Error::new(doing, Cause::Unsupported(why.into())));
        };
        let room = covering.saturating_sub(lv.size_bytes);
        let more = match by {
            CowSize::Covering => room,
            CowSize::Bytes(bytes) => size::whole(bytes, report.extent_bytes).min(room),
        };
        if more == 0 {
            return Ok(Change::Unchanged);
        }
        if more > report.free_bytes {
            let (needed, free) = (size::amount(more), size::amount(report.free_bytes));
            return Err(Error::refused(doing, format!("{needed} more are wanted, {free} are free"))
                .help("make room in the volume group: at 100 % the snapshot is lost"));
        }
        self.run(&doing, &command::extend(&name, more)).await?;
        Ok(Change::Changed)
    }

    async fn merge(&self, merges: &[(&VolumeRef, &VolumeRef)], run: &str) -> Result<Change> {
        let mut groups: BTreeMap<String, Vec<(LvName, LvName)>> = BTreeMap::new();
        for (snapshot, origin) in merges {
            let doing = format!("merge {snapshot} into {origin}");
            let (above, below) = (self.name(&doing, snapshot)?, self.name(&doing, origin)?);
            if above.vg != below.vg {
                return Err(Error::refused(doing, "they are not of one volume group"));
            }
            groups.entry(above.vg.clone()).or_default().push((above, below));
        }
        let mut change = Change::Unchanged;
        for (vg, merges) in groups {
            if self.merge_in(&vg, &merges, run).await? != Change::Unchanged {
                change = Change::Changed;
            }
        }
        Ok(change)
    }

    async fn fresh_swap(&self, like: &VolumeRef, target: &VolumeRef, mark: &Mark) -> Result<Change> {
        let doing = format!("make swap space {target}");
        let (from, to) = (self.name(&doing, like)?, self.name(&doing, target)?);
        let (report, found) = self.look(&doing, &to).await?;
        let origin = report.volume(&from.lv).filter(|_| from.vg == to.vg);
        let Some(origin) = origin else {
            return Err(Error::not_found(doing, format!("there is no {from} in volume group {}", to.vg)));
        };
        let pool = match (&origin.pool, self.thin_kind()) {
            (Some(pool), true) => Some(pool.as_str()),
            (None, false) => None,
            _ => return Err(Error::refused(doing, format!("{from} is not {}", super::words(self.kind)))),
        };
        match self.probe_swap(target, mark).await? {
            Snapshot::Present => return Ok(Change::Unchanged),
            Snapshot::Foreign(what) => return Err(Error::refused(doing, what)),
            // Begun: whatever lies there is ours, and of the right size unless the original was resized meanwhile.
            Snapshot::Partial if found.is_some_and(|lv| lv.size_bytes < origin.size_bytes) => {
                return Err(Error::refused(doing, "it is there and smaller than the original's")
                    .help("the original's was resized meanwhile: undo this step and begin again"));
            }
            Snapshot::Partial => {}
            Snapshot::Absent => {
                let tag = name::tag(&doing, mark)?;
                self.run(&doing, &command::create_empty(&to, origin.size_bytes, pool, &tag)).await?;
            }
        }
        self.mkswap(&doing, &from, &to).await?;
        Ok(Change::Created)
    }

    async fn probe_swap(&self, target: &VolumeRef, mark: &Mark) -> Result<Snapshot> {
        let doing = format!("look at {target}");
        let name = self.name(&doing, target)?;
        let (_, found) = self.look(&doing, &name).await?;
        match stands(found.as_ref(), &mark.run) {
            Snapshot::Partial | Snapshot::Present => {}
            other => return Ok(other),
        }
        let there = disk::probe(&*self.host, &doing, &name.path(), None).await?;
        Ok(if there.get("TYPE").is_some_and(|kind| kind == "swap") { Snapshot::Present } else { Snapshot::Partial })
    }
}
