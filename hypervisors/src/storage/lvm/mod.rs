//! Logical volumes of LVM2, thick and thin, by its own commands and their JSON reports.
//!
//! Marks are tags (`upgradectl.RUNID.ROLE`), set by the command that creates, so that a crash leaves nothing unmarked. A
//! thick snapshot that LVM had not finished is a volume with our tag and without an origin: [`Snapshot::Partial`]. One that
//! filled up is lost for ever, and counts as partial too: it is of no use and may be made again.
//!
//! Invariants: nothing is removed that lacks the run's tag, that is open, that has snapshots or is being merged, and LVM
//! itself checks tag and snapshots once more under its lock. A merge is never left to the next activation: all is closed
//! before it is decided, and one that someone put off is begun.
//!
//! Races: LVM's lock orders commands; what was seen before a command may have changed when it runs, so commands name volumes
//! by UUID where they can (removal), and refuse by themselves where they cannot (existing names, lack of space).

mod attr;
mod command;
mod driver;
#[cfg(test)]
mod fake;
mod look;
pub(crate) mod name;
pub(crate) mod report;
mod size;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attr::{Kind, State};
pub use look::{look_anew, one_look};
use name::LvName;
pub use name::canonical;
use report::{Lv, Report};

use super::{BlockFacts, CowSize, Merge, Snapshot, VolumeFacts, VolumeKind, VolumeRef};
use crate::host::{Command, Output, printable_tail};
use crate::{Cause, Error, Host, Result};

/// How long what was in use may take to be let go of.
const LETS_GO: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 10_000 });
/// Seconds that one LVM command is expected to take with a guest frozen.
const COMMAND_S: f64 = 1.5;
/// Share of a thin pool that stays free, in percent, whatever else is asked of it.
const POOL_RESERVE_PERCENT: u64 = 10;
/// How full a thin pool's data or metadata may be when something new is to stand in it, in percent.
const POOL_FULL_PERCENT: f64 = 90.0;

/// The driver for logical volumes of one kind.
#[derive(Clone, Debug)]
pub struct LvmStorage {
    host: Arc<dyn Host>,
    kind: VolumeKind,
}

impl LvmStorage {
    /// For volumes whose snapshots are thick.
    pub fn thick(host: Arc<dyn Host>) -> Self {
        Self { host, kind: VolumeKind::LvmThick }
    }
    /// For volumes in thin pools.
    pub fn thin(host: Arc<dyn Host>) -> Self {
        Self { host, kind: VolumeKind::LvmThin }
    }

    fn name(&self, doing: &str, volume: &VolumeRef) -> Result<LvName> {
        if volume.kind == self.kind {
            return LvName::checked(doing, &volume.path);
        }
        Err(Error::refused(doing, format!("it is a {:?} volume, not {:?}", volume.kind, self.kind)))
    }

    /// Runs a command that changes something.
    async fn run(&self, doing: &str, command: &Command) -> Result<Output> {
        look_anew();
        let output = self.host.run(command).await?;
        if output.status == 0 { Ok(output) } else { Err(failed(doing, command, &output)) }
    }

    /// A volume group, or `None` if there is none of that name.
    async fn group(&self, doing: &str, vg: &str) -> Result<Option<Report>> {
        group(&*self.host, doing, vg).await
    }

    /// A volume group once none of these volumes is open any more, or after a while: the disk backend of a guest that has stopped,
    /// and udev that looks at what was written, let go a moment later.
    async fn let_go(&self, doing: &str, vg: &str, names: &[&LvName]) -> Result<Report> {
        let begun = Instant::now();
        loop {
            let report = self.group(doing, vg).await?.unwrap_or_default();
            let mut found = names.iter().filter_map(|name| Some((name, report.volume(&name.lv)?)));
            if !found.any(|(name, lv)| self.held(name, lv) == Some(true)) || begun.elapsed() >= LETS_GO {
                return Ok(report);
            }
            tokio::time::sleep(LETS_GO / 20).await;
            look::look_anew();
        }
    }

    /// A volume group and one of its volumes, which has to be of this driver's kind.
    async fn look(&self, doing: &str, name: &LvName) -> Result<(Report, Option<Lv>)> {
        let report = self.group(doing, &name.vg).await?.unwrap_or_default();
        self.find(doing, name, report)
    }

    fn find(&self, doing: &str, name: &LvName, report: Report) -> Result<(Report, Option<Lv>)> {
        let found = report.volume(&name.lv).cloned();
        if let Some(lv) = &found
            && kind_of(lv) != self.kind
        {
            return Err(Error::refused(doing, format!("{name} is not {}", words(self.kind))));
        }
        Ok((report, found))
    }
}

/// The volume that a block device of a definition is, if it is a logical one.
pub async fn recognise(host: &dyn Host, path: &Path) -> Result<VolumeRef> {
    let doing = format!("recognise {}", path.display());
    let Some(name) = LvName::of(path) else {
        let why =
            format!("{} is a block device, not a logical volume", crate::host::printable(&path.display().to_string()));
        return Err(
            Error::new(doing, Cause::Unsupported(why)).help("name it /dev/VG/LV in the definition if it is one")
        );
    };
    let report = group(host, &doing, &name.vg).await?;
    match report.as_ref().and_then(|report| report.volume(&name.lv)) {
        Some(lv) => Ok(VolumeRef { kind: kind_of(lv), path: name.path() }),
        None => Err(Error::not_found(doing, format!("there is no logical volume {name}"))),
    }
}

/// The command that a snapshot comes down to, for people; `None` for other kinds.
pub fn snapshot_argv(source: &VolumeRef, target: &VolumeRef, size: Option<CowSize>) -> Option<Vec<String>> {
    let (from, to) = (LvName::of(&source.path)?, LvName::of(&target.path)?);
    let command = match source.kind {
        VolumeKind::LvmThick => command::create_thick(&from, &to.lv, size.unwrap_or(CowSize::Covering), "upgradectl…"),
        VolumeKind::LvmThin => command::create_thin(&from, &to.lv, "upgradectl…"),
        _ => return None,
    };
    Some(command::shown(command))
}

/// The command that makes a snapshot fit for production, for people; `None` for other kinds.
pub fn secure_argv(volume: &VolumeRef) -> Option<Vec<String>> {
    let name = LvName::of(&volume.path)?;
    match volume.kind {
        VolumeKind::LvmThick => Some(command::shown(command::extend_covering(&name))),
        VolumeKind::LvmThin => Some(command::shown(command::unskip(&name))),
        _ => None,
    }
}

/// The command that begins merging, for people; `None` for other kinds.
pub fn merge_argv(snapshots: &[&VolumeRef]) -> Option<Vec<String>> {
    let ours = snapshots.iter().filter(|volume| matches!(volume.kind, VolumeKind::LvmThick | VolumeKind::LvmThin));
    let names: Vec<String> = ours.filter_map(|volume| LvName::of(&volume.path)).map(|name| name.to_string()).collect();
    (!names.is_empty()).then(|| command::shown(command::merge(&names)))
}

async fn group(host: &dyn Host, doing: &str, vg: &str) -> Result<Option<Report>> {
    if let Some(report) = look::seen(host.name(), vg) {
        return Ok(Some(report));
    }
    let command = command::inventory(vg);
    let output = host.run(&command).await?;
    let missing = |line: &str| line.contains(&format!("Volume group \"{vg}\" not found"));
    if output.status != 0 && String::from_utf8_lossy(&output.stderr).lines().any(missing) {
        return Ok(None);
    }
    if output.status != 0 {
        return Err(failed(doing, &command, &output));
    }
    match report::parse(&output.text()) {
        Ok(report) if !output.truncated => {
            look::saw(host.name(), vg, &report);
            Ok(Some(report))
        }
        Ok(_) => Err(Error::new(doing, Cause::Malformed("the volume group's report was cut off".into()))),
        Err(why) => Err(Error::new(doing, Cause::Malformed(why))),
    }
}

/// A failed command, with what helps where its words are known.
fn failed(doing: &str, command: &Command, output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said_of = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let shown = printable_tail(&output.stderr, 2);
    if said_of(&["insufficient free space", "Insufficient free space", "insufficient suitable allocatable extents"]) {
        return Error::refused(doing, shown).help("make room in the volume group, or ask for a smaller snapshot");
    }
    if said_of(&["duplicate PV", "PV UUID was already found", "Duplicate PV"]) {
        return Error::refused(doing, shown).help(
            "two devices bear one physical volume's UUID: a guest's own volume group, seen through its volume and a copy of it. \
             Keep the host's LVM off the guests' volumes (devices/global_filter or the devices file), or give the copy new ids \
             (vgimportclone)",
        );
    }
    if said_of(&["Snapshots of snapshots are not supported"]) {
        return Error::refused(doing, shown).help("a thick snapshot cannot be snapshotted; merge or remove it first");
    }
    if said_of(&["already exists in volume group"]) {
        return Error::refused(doing, shown);
    }
    if said_of(&[" in use."]) {
        return Error::refused(doing, shown).help("something has it open: a guest that runs on it, a mount");
    }
    let cause = Cause::Command {
        program: command.program().to_owned(),
        status: output.status,
        stderr: printable_tail(&output.stderr, 3),
    };
    Error::new(doing, cause)
}

fn kind_of(lv: &Lv) -> VolumeKind {
    if lv.is_thin() { VolumeKind::LvmThin } else { VolumeKind::LvmThick }
}

fn words(kind: VolumeKind) -> &'static str {
    if kind == VolumeKind::LvmThin { "in a thin pool" } else { "an ordinary (thick) volume" }
}

/// How a snapshot of a run stands.
fn stands(lv: Option<&Lv>, run: &str) -> Snapshot {
    let Some(lv) = lv else { return Snapshot::Absent };
    if !lv.is_of(run) {
        return Snapshot::Foreign(match lv.marks().first() {
            Some(mark) => crate::host::printable(&format!("it is marked {mark}")),
            None => "it bears no mark".into(),
        });
    }
    if lv.origin.is_none() || lost(lv, None).is_some() { Snapshot::Partial } else { Snapshot::Present }
}

/// Why a volume is lost.
fn lost(lv: &Lv, pool: Option<&Lv>) -> Option<String> {
    match (lv.attr.state, lv.attr.health) {
        (State::Invalid, _) => Some("the snapshot filled up, and is lost".into()),
        (State::MergeFailed, _) => Some("merging it failed".into()),
        (_, Some('F')) => Some("its thin pool failed".into()),
        (_, Some('p')) => Some("parts of it are on a disk that is missing".into()),
        _ if pool.is_some_and(|pool| pool.attr.health == Some('F')) => Some("its thin pool failed".into()),
        _ => None,
    }
}

/// Bytes at which a thick snapshot's area cannot fill.
fn covering_of(report: &Report, snapshot: &Lv) -> Option<u64> {
    let origin = report.volume(snapshot.origin.as_deref()?)?;
    Some(size::covering(origin.size_bytes, snapshot.chunk_bytes, report.extent_bytes))
}

/// Why production should not stand on it.
fn unfit(report: &Report, lv: &Lv) -> Option<String> {
    let full = |percent: Option<f64>| percent.is_some_and(|percent| percent > POOL_FULL_PERCENT);
    if let Some(pool) = lv.pool.as_deref().and_then(|pool| report.pool(pool)) {
        return match pool.attr.health {
            Some('D') => Some("its thin pool has no space left".into()),
            Some('M') => Some("its thin pool's metadata can no longer be written".into()),
            _ if full(pool.data_percent) || full(pool.metadata_percent) => Some("its thin pool is nearly full".into()),
            _ if lv.attr.skip => Some("it would not come up with its host (activation skip)".into()),
            _ => None,
        };
    }
    let covering = covering_of(report, lv)?;
    (lv.size_bytes < covering)
        .then(|| format!("it can fill: it has {}, covering is {}", size::amount(lv.size_bytes), size::amount(covering)))
}

/// How a merge into a volume stands.
fn merge_into(report: &Report, origin: &Lv) -> Option<Merge> {
    if origin.attr.kind != Kind::MergingOrigin {
        return None;
    }
    // Only while it drains does the origin itself have a percentage. What is thin does not drain.
    Some(match origin.data_percent.filter(|_| !origin.is_thin()) {
        Some(left_percent) => Merge::Draining { left_percent },
        None if report.snapshots(&origin.name).any(|snapshot| snapshot.attr.merging()) => Merge::Waiting,
        None => Merge::Draining { left_percent: 0.0 },
    })
}

fn facts(report: &Report, lv: &Lv) -> VolumeFacts {
    let pool = lv.pool.as_deref().and_then(|name| report.pool(name));
    let percent = |of: u64, percent: Option<f64>| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an estimate"
        )]
        percent.map(|percent| (of as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil() as u64)
    };
    let mapped = percent(lv.size_bytes, lv.data_percent).filter(|_| lv.is_thin());
    let fill = |full: Option<f64>| if lv.attr.state == State::Invalid { Some(100.0) } else { full };
    let origin = lv.origin.as_deref().and_then(|name| report.volume(name));
    VolumeFacts {
        used_bytes: mapped,
        free_bytes: pool.map_or(report.free_bytes, |pool| {
            pool.size_bytes.saturating_sub(percent(pool.size_bytes, pool.data_percent).unwrap_or(pool.size_bytes))
        }),
        snapshot_bytes: match pool {
            // All of it may be written anew; then there has to be something left.
            Some(pool) => mapped.unwrap_or(lv.size_bytes) + pool.size_bytes * POOL_RESERVE_PERCENT / 100,
            // Its size is chosen by policy: [`crate::Storage::size_snapshot`].
            None => 0,
        },
        pause_s: COMMAND_S,
        nested: Vec::new(),
        fill_percent: match pool {
            Some(pool) => pool.data_percent.into_iter().chain(pool.metadata_percent).reduce(f64::max),
            None if lv.origin.is_some() => fill(lv.data_percent),
            None => None,
        },
        mark: lv.marks().into_iter().next(),
        block: Some(BlockFacts {
            id: lv.uuid.clone(),
            size_bytes: origin.filter(|_| !lv.is_thin()).map_or(lv.size_bytes, |origin| origin.size_bytes),
            open: lv.attr.open,
            area_bytes: (lv.origin.is_some() && !lv.is_thin()).then_some(lv.size_bytes),
            origin: lv.origin.clone(),
            snapshots: report.snapshots(&lv.name).map(|snapshot| snapshot.name.clone()).collect(),
            lost: lost(lv, pool),
            unfit: unfit(report, lv),
            merge: merge_into(report, lv),
        }),
    }
}
