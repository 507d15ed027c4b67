//! How full the run's snapshots are, how fast they fill, and what follows from that. Pure but for the file of samples.
//!
//! A snapshot that fills up is lost, and the clone with it; production is not. What is written to production fills it as
//! well as what the clone writes, so pausing the clone stops only its half: it buys time, no more.
//!
//! Samples lie beside the journal (`runs/RUNID/fill.json`), not in it: whoever looks notes them, without a lease, and
//! nothing but what people are shown depends on them.

use std::collections::BTreeMap;
use std::path::Path;

use hypervisors::storage::{CowSize, VolumeFacts};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::inventory::SnapshotPolicy;
use crate::inventory::values::Size;

/// Grown when this full, in percent, where nothing is declared.
const EXTEND_AT: u8 = 70;
/// Grown by this share of its size, in percent, where nothing is declared.
const EXTEND_BY: Size = Size::Percent(20);
/// What cannot be extended is not left to fill beyond this, in percent, nor beyond `extend_at` if that is more.
const PAUSE_AT: f64 = 90.0;
/// How much emptier than [`PAUSE_AT`] what cannot be extended at all has to be before the clone goes on, in percent.
const SLACK: f64 = 5.0;
/// Samples are kept this long, in seconds: the rate is that of the last hour.
const WINDOW_S: f64 = 3600.0;
/// From samples closer than this no rate is told, in seconds.
const SPAN_S: f64 = 10.0;
/// Number of samples kept of a volume.
const SAMPLES: usize = 120;

/// A volume at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub time: Timestamp,
    /// How full, in percent of its area or pool.
    pub percent: f64,
    /// Bytes of its own area, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area_bytes: Option<u64>,
}

impl Sample {
    /// What is used, in bytes; of a pool, in percent.
    fn used(&self) -> f64 {
        self.percent * self.whole() / 100.0
    }
    fn whole(&self) -> f64 {
        self.area_bytes.map_or(100.0, |bytes| bytes as f64)
    }
}

/// What is known of one volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Oldest first.
    pub samples: Vec<Sample>,
    /// It can fill up.
    #[serde(default)]
    pub can_fill: bool,
    /// Why it is lost, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

impl History {
    /// Percent a second of what it is now, over the last hour, while it only grew; `None` if that cannot be told yet.
    fn rate(&self) -> Option<f64> {
        let last = self.samples.last()?;
        let since = |sample: &Sample| last.time.duration_since(sample.time).as_secs_f64();
        let growing = self.samples.windows(2).rposition(|pair| pair[1].used() < pair[0].used()).map_or(0, |at| at + 1);
        let first =
            self.samples[growing..].iter().find(|sample| since(sample) <= WINDOW_S || self.samples.len() == 2)?;
        let seconds = since(first);
        (seconds >= SPAN_S).then(|| (last.used() - first.used()) / last.whole() * 100.0 / seconds)
    }

    /// How it stands, for people and programs.
    pub fn info(&self, name: &str) -> VolumeInfo {
        let last = self.samples.last();
        let rate = self.rate().filter(|_| self.can_fill && self.lost.is_none());
        VolumeInfo {
            name: name.to_owned(),
            fill_percent: last.map(|sample| sample.percent),
            full_in_s: last
                .zip(rate.filter(|rate| *rate > 0.0))
                .map(|(last, rate)| (100.0 - last.percent).max(0.0) / rate),
            rate_percent_per_h: rate.map(|rate| rate * 3600.0),
            area_bytes: last.and_then(|sample| sample.area_bytes),
            can_fill: self.can_fill,
            lost: self.lost.clone(),
            seen: last.map(|sample| sample.time),
        }
    }
}

/// A volume of the clone, as it was seen last.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VolumeInfo {
    /// Where it is.
    pub name: String,
    /// How full the snapshot or its pool is, where that is a danger.
    pub fill_percent: Option<f64>,
    /// Seconds until it is full, if it fills on as it did.
    pub full_in_s: Option<f64>,
    /// How fast it fills, in percent of its size an hour.
    pub rate_percent_per_h: Option<f64>,
    /// Size of the snapshot's own area.
    pub area_bytes: Option<u64>,
    /// It can fill up: it, or its pool, is smaller than what may be written.
    pub can_fill: bool,
    /// Why it is lost, if it is.
    pub lost: Option<String>,
    /// When it was looked at.
    pub seen: Option<Timestamp>,
}

/// What was seen of a run's volumes, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen(pub BTreeMap<String, History>);

const FILE: &str = "fill.json";

impl Seen {
    /// What was noted in a run's directory. What cannot be read was never seen.
    pub fn read(run_dir: &Path) -> Self {
        let bytes = std::fs::read(run_dir.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Notes it there. Failing to is no trouble: it is looked at again soon.
    pub fn write(&self, run_dir: &Path) {
        let whole = || -> std::io::Result<()> {
            let new = run_dir.join(format!("{FILE}.{}.new", std::process::id()));
            std::fs::write(&new, serde_json::to_vec(self)?)?;
            std::fs::rename(new, run_dir.join(FILE))
        };
        if let Err(error) = whole() {
            tracing::warn!(%error, "what was seen of the snapshots cannot be noted in {}", run_dir.display());
        }
    }

    /// Adds what was seen of a volume; of one that is gone, nothing is known any more.
    pub fn note(&mut self, name: &str, facts: Option<&VolumeFacts>, time: Timestamp) {
        let Some((facts, percent)) = facts.and_then(|facts| Some((facts, facts.fill_percent?))) else {
            self.0.remove(name);
            return;
        };
        let history = self.0.entry(name.to_owned()).or_default();
        (history.can_fill, history.lost) = (can_fill(facts), lost(facts));
        history.samples.retain(|sample| sample.time < time);
        let area_bytes = facts.block.as_ref().and_then(|block| block.area_bytes);
        history.samples.push(Sample { time, percent, area_bytes });
        let old = |sample: &Sample| time.duration_since(sample.time).as_secs_f64() > WINDOW_S;
        // One from before the window tells more than none.
        let from = history.samples.iter().filter(|sample| old(sample)).count();
        let from = if history.samples.len() - from < 2 { from.saturating_sub(1) } else { from };
        history.samples.drain(..from.max(history.samples.len().saturating_sub(SAMPLES)));
    }

    /// How a volume stands.
    pub fn info(&self, name: &str) -> VolumeInfo {
        self.0.get(name).cloned().unwrap_or_default().info(name)
    }
}

/// Whether a volume can fill up. One that is fit for production cannot; a pool always can.
fn can_fill(facts: &VolumeFacts) -> bool {
    let own = facts.block.as_ref().filter(|block| block.area_bytes.is_some());
    facts.fill_percent.is_some() && own.is_none_or(|block| block.unfit.is_some() || block.lost.is_some())
}

/// Why a volume is lost, if it is.
pub fn lost(facts: &VolumeFacts) -> Option<String> {
    match &facts.block {
        Some(block) => block.lost.clone(),
        None => facts.fill_percent.filter(|percent| *percent >= 100.0).map(|_| "it is full".to_owned()),
    }
}

/// When a snapshot is grown, and by how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    extend_at: f64,
    extend_by: Size,
}

impl Policy {
    /// As declared for the guest.
    pub fn of(declared: &SnapshotPolicy) -> Self {
        Self {
            extend_at: declared.extend_at.unwrap_or(EXTEND_AT).into(),
            extend_by: declared.extend_by.unwrap_or(EXTEND_BY),
        }
    }

    /// Where the clone is paused if nothing else helps.
    pub fn pause_at(&self) -> f64 {
        PAUSE_AT.max(self.extend_at)
    }

    /// What a volume needs. `full_in_s`: when it will be full by the rate so far; `look_s`: how long until it is looked at
    /// again.
    pub fn need(&self, facts: &VolumeFacts, full_in_s: Option<f64>, look_s: f64) -> Need {
        let Some(percent) = facts.fill_percent.filter(|_| can_fill(facts)) else { return Need::Nothing };
        if let Some(why) = lost(facts) {
            return Need::Lost(why);
        }
        let area = facts.block.as_ref().and_then(|block| block.area_bytes);
        let settled = if area.is_some() { self.extend_at } else { self.pause_at() - SLACK };
        if percent < settled {
            return Need::Nothing;
        }
        // Time for one look that comes too late, and for what it decides.
        let soon = area.is_some() && full_in_s.is_some_and(|left| left < 2.0 * look_s + 5.0);
        let urgent = percent >= self.pause_at() || soon;
        match area {
            Some(area) if facts.free_bytes > 0 => {
                let wanted = self.growth(area, percent);
                Need::Extend { by: CowSize::Bytes(wanted.min(facts.free_bytes)), urgent }
            }
            _ => Need::Room { urgent, own: area.is_some(), free_bytes: facts.free_bytes },
        }
    }

    /// Bytes with which it is less full than `extend_at`: whole steps of `extend_by`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes below 2^53, never negative")]
    fn growth(&self, area: u64, percent: f64) -> u64 {
        let used = area as f64 * percent / 100.0;
        let step = match self.extend_by {
            Size::Bytes(bytes) => bytes as f64,
            Size::Percent(share) => area as f64 * f64::from(share) / 100.0,
            Size::PercentUsed(share) => used * f64::from(share) / 100.0,
        }
        .max(1.0);
        let missing = used * 100.0 / self.extend_at - area as f64;
        let steps = (missing / step).floor() + 1.0;
        (step * steps.max(1.0)).ceil() as u64
    }
}

/// What a volume needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Need {
    /// Nothing: it is far from full, or cannot fill.
    Nothing,
    /// To be grown.
    Extend {
        /// By this much.
        by: CowSize,
        /// If that fails, nothing may be written to it any more.
        urgent: bool,
    },
    /// Room that is not there.
    Room {
        /// It is about to fill.
        urgent: bool,
        /// It has an area of its own (else it is its pool that lacks room).
        own: bool,
        /// What is free where it lies.
        free_bytes: u64,
    },
    /// It is lost.
    Lost(String),
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use hypervisors::storage::BlockFacts;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn snapshot(percent: f64, area_mib: u64, free_mib: u64) -> VolumeFacts {
        VolumeFacts {
            fill_percent: Some(percent),
            free_bytes: free_mib * MIB,
            block: Some(BlockFacts {
                id: String::new(),
                size_bytes: 8 << 30,
                open: Some(true),
                origin: Some("mercure".into()),
                snapshots: Vec::new(),
                lost: None,
                unfit: Some("it can fill".into()),
                merge: None,
                area_bytes: Some(area_mib * MIB),
            }),
            ..VolumeFacts::default()
        }
    }

    fn pool(percent: f64) -> VolumeFacts {
        let mut facts = snapshot(percent, 0, 100);
        let block = facts.block.as_mut().unwrap();
        (block.area_bytes, block.unfit) = (None, None);
        facts
    }

    fn policy(at: Option<u8>, by: Option<Size>) -> Policy {
        Policy::of(&SnapshotPolicy { size: None, extend_at: at, extend_by: by })
    }

    fn extended(policy: Policy, facts: &VolumeFacts) -> Option<(u64, bool)> {
        match policy.need(facts, None, 30.0) {
            Need::Extend { by: CowSize::Bytes(bytes), urgent } => Some((bytes.div_ceil(MIB), urgent)),
            _ => None,
        }
    }

    #[test]
    fn a_snapshot_is_grown_in_steps_until_it_is_less_full_than_declared() {
        let default = policy(None, None);
        assert_eq!(default.need(&snapshot(69.9, 100, 1000), None, 30.0), Need::Nothing);
        assert_eq!(extended(default, &snapshot(70.0, 100, 1000)), Some((20, false)));
        assert_eq!(extended(default, &snapshot(83.0, 100, 1000)), Some((20, false)));
        // 84 of 120 would be 70 % again.
        assert_eq!(extended(default, &snapshot(84.0, 100, 1000)), Some((40, false)));
        assert_eq!(extended(default, &snapshot(95.0, 100, 1000)), Some((40, true)));
        let own = policy(Some(80), Some(Size::Bytes(512 * MIB)));
        assert_eq!(own.need(&snapshot(79.0, 100, 1000), None, 30.0), Need::Nothing);
        assert_eq!(extended(own, &snapshot(80.0, 100, 1000)), Some((512, false)));
        assert_eq!(extended(policy(None, Some(Size::PercentUsed(50))), &snapshot(80.0, 100, 1000)), Some((40, false)));
    }

    #[test]
    fn no_more_is_asked_for_than_there_is() {
        assert_eq!(extended(policy(None, None), &snapshot(84.0, 100, 12)), Some((12, false)));
        let none = policy(None, None).need(&snapshot(84.0, 100, 0), None, 30.0);
        assert_eq!(none, Need::Room { urgent: false, own: true, free_bytes: 0 });
    }

    #[test]
    fn it_is_urgent_when_it_is_nearly_full_or_will_be_before_the_next_look() {
        let urgent = |policy: Policy, percent, left| match policy.need(&snapshot(percent, 100, 0), left, 30.0) {
            Need::Room { urgent, .. } => urgent,
            other => panic!("{other:?}"),
        };
        let default = policy(None, None);
        assert!(urgent(default, 90.0, None) && !urgent(default, 89.0, Some(3600.0)));
        assert!(urgent(default, 75.0, Some(40.0)));
        assert!(urgent(policy(Some(95), None), 95.0, None));
        assert_eq!(policy(Some(95), None).need(&snapshot(94.0, 100, 0), Some(1.0), 30.0), Need::Nothing);
    }

    #[test]
    fn what_cannot_fill_needs_nothing_and_what_is_lost_is_lost() {
        let mut covering = snapshot(98.5, 8200, 0);
        covering.block.as_mut().unwrap().unfit = None;
        assert_eq!(policy(None, None).need(&covering, Some(1.0), 30.0), Need::Nothing);
        let mut gone = snapshot(100.0, 100, 1000);
        gone.block.as_mut().unwrap().lost = Some("full".into());
        assert_eq!(policy(None, None).need(&gone, None, 30.0), Need::Lost("full".into()));
        assert_eq!(policy(None, None).need(&VolumeFacts::default(), None, 30.0), Need::Nothing);
    }

    #[test]
    fn a_pool_cannot_be_grown_from_here() {
        let need = |percent| policy(None, None).need(&pool(percent), Some(1.0), 30.0);
        assert_eq!(need(84.0), Need::Nothing);
        assert_eq!(need(86.0), Need::Room { urgent: false, own: false, free_bytes: 100 * MIB });
        assert_eq!(need(91.0), Need::Room { urgent: true, own: false, free_bytes: 100 * MIB });
    }

    fn seen(samples: &[(i64, f64, u64)]) -> VolumeInfo {
        let mut seen = Seen::default();
        for (second, percent, area_mib) in samples {
            seen.note("v", Some(&snapshot(*percent, *area_mib, 0)), Timestamp::from_second(*second).unwrap());
        }
        seen.info("v")
    }

    fn rate(samples: &[(i64, f64, u64)]) -> Option<f64> {
        seen(samples).rate_percent_per_h.map(|rate| (rate * 1000.0).round() / 1000.0)
    }

    #[test]
    fn the_rate_is_that_of_the_last_hour_in_percent_of_what_it_is_now() {
        assert_eq!(rate(&[(0, 10.0, 100), (600, 15.0, 100)]), Some(30.0));
        let info = seen(&[(0, 10.0, 100), (600, 15.0, 100)]);
        assert_eq!((info.full_in_s.map(f64::round), info.fill_percent), (Some(10_200.0), Some(15.0)));
        // Grown to twice its size, it is half as full and fills half as fast.
        assert_eq!(rate(&[(0, 10.0, 100), (600, 15.0, 100), (1200, 10.0, 200)]), Some(15.0));
        // What was before the last hour counts only if nothing else is known.
        let still = [(0, 0.0, 100), (10_000, 50.0, 100), (11_800, 50.0, 100)];
        assert_eq!((rate(&still), seen(&still).full_in_s), (Some(0.0), None));
        assert_eq!(rate(&[(0, 10.0, 100), (7200, 30.0, 100)]), Some(10.0));
        // A snapshot made anew fills from its own beginning.
        assert_eq!(rate(&[(0, 80.0, 100), (600, 1.0, 100), (1200, 2.0, 100)]), Some(6.0));
        assert_eq!(rate(&[(0, 10.0, 100), (5, 11.0, 100)]), None, "too close to tell");
    }

    #[test]
    fn samples_are_kept_in_a_file_and_do_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Seen::default();
        for second in 0..500 {
            seen.note("v", Some(&snapshot(1.0, 100, 0)), Timestamp::from_second(second).unwrap());
        }
        seen.write(dir.path());
        let mut read = Seen::read(dir.path());
        assert_eq!((read.0["v"].samples.len(), &read), (SAMPLES, &seen));
        read.note("v", None, Timestamp::from_second(501).unwrap());
        assert_eq!(read.info("v").fill_percent, None, "it is gone");
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Seen::read(dir.path()), Seen::default());
    }
}
