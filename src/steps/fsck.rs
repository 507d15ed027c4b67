//! Steps on the periodic check of ext file systems: switched off on volumes that are about to be started several times, and
//! set as it was when production is to keep them. By tune2fs(8), on volumes that nothing has open.
//!
//! A file system that is not replayed yet is replayed by tune2fs (e2fsprogs 1.47 does so before it writes), so this belongs to
//! copies and to volumes that were shut down, never to one that is in use. Other file systems have no such check: there is
//! nothing to do.

use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::{Change, Host, VolumeRef};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Probe, Step, StepError, StepRef, World};

/// How long a whole check may take.
const CHECK: Duration = Duration::from_secs(12 * 3600);
/// Mounts between giving the check back and the end of the guest's start: the last carry's and its own, and one to spare.
const MOUNTS_TO_COME: i64 = 3;
/// A check that comes due so soon counts as due.
const SOON: SignedDuration = SignedDuration::from_hours(48);

/// When a file system is checked at its mount by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Periodic {
    /// After so many mounts (`tune2fs -c`); 0 or less: never.
    pub mounts: i64,
    /// After so long, in seconds (`tune2fs -i`); 0: never.
    pub interval_s: u64,
}

impl Periodic {
    /// Never.
    pub const NEVER: Self = Self { mounts: -1, interval_s: 0 };

    /// Whether it never happens.
    pub fn is_never(self) -> bool {
        self.mounts <= 0 && self.interval_s == 0
    }
}

/// What `tune2fs -l` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// When it is checked.
    pub periodic: Periodic,
    /// Mounts since the last check.
    pub mounted: i64,
    /// The last check, in the zone of the host.
    pub checked: Option<DateTime>,
}

impl Found {
    /// Whether, checked as `periodic`, it would be at its next start.
    fn due(&self, periodic: Periodic, now: Timestamp) -> bool {
        let by_mounts = periodic.mounts > 0 && self.mounted + MOUNTS_TO_COME >= periodic.mounts;
        let since =
            self.checked.and_then(|checked| checked.to_zoned(TimeZone::system()).ok()).map(|then| then.timestamp());
        let interval = SignedDuration::from_secs(i64::try_from(periodic.interval_s).unwrap_or(i64::MAX));
        let by_time = periodic.interval_s > 0
            && since.is_none_or(|since| now.duration_since(since).saturating_add(SOON) >= interval);
        by_mounts || by_time
    }
}

/// Reads what `tune2fs -l` prints; the reason if something is missing.
///
/// # Errors
/// The line that is missing or is no number.
pub fn parse(text: &str) -> Result<Found, String> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    let number = |key: &str| {
        let word = value(key).and_then(|value| value.split_whitespace().next());
        word.and_then(|word| word.parse::<i64>().ok()).ok_or_else(|| format!("tune2fs tells no {key:?}"))
    };
    let interval_s = u64::try_from(number("Check interval")?).map_err(|_| "a negative interval".to_owned())?;
    Ok(Found {
        periodic: Periodic { mounts: number("Maximum mount count")?, interval_s },
        mounted: number("Mount count")?,
        checked: value("Last checked").and_then(|text| DateTime::strptime("%a %b %e %H:%M:%S %Y", text).ok()),
    })
}

fn show(device: &str) -> Command {
    Command::new(["tune2fs", "-l", device])
}

fn set(device: &str, periodic: Periodic) -> Command {
    let (mounts, interval) = (periodic.mounts.to_string(), format!("{}s", periodic.interval_s));
    Command::new(["tune2fs", "-c", &mounts, "-i", &interval, device])
}

fn check(device: &str) -> Command {
    Command::new(["e2fsck", "-f", "-p", device]).timeout(CHECK)
}

fn device(volume: &VolumeRef) -> String {
    volume.path.display().to_string()
}

/// Looks at a volume; `None`: it holds no ext file system.
async fn look(host: &dyn Host, volume: &VolumeRef) -> Result<Option<Found>, StepError> {
    let command = show(&device(volume));
    let output = host.run(&command).await?;
    if output.status != 0 && String::from_utf8_lossy(&output.stderr).contains("Bad magic number in super-block") {
        return Ok(None);
    }
    let output = output.checked(format!("look at the file system on {volume}"), &command)?;
    let found =
        parse(&output.text()).map_err(|why| StepError::failed(format!("{volume}: {why}"), "install e2fsprogs"))?;
    Ok(Some(found))
}

async fn tune(host: &dyn Host, volume: &VolumeRef, to: Periodic) -> Result<Done, StepError> {
    match look(host, volume).await? {
        None => return Ok(Change::Unchanged.into()),
        Some(found) if same(found.periodic, to) => return Ok(Change::Unchanged.into()),
        Some(_) => {}
    }
    let command = set(&device(volume), to);
    host.run(&command).await?.checked(format!("set the periodic check of {volume}"), &command)?;
    Ok(Change::Changed.into())
}

/// Never is never, however it is written.
fn same(one: Periodic, other: Periodic) -> bool {
    (one.mounts.max(0), one.interval_s) == (other.mounts.max(0), other.interval_s)
}

/// What was found before; `None`: no ext file system.
fn recorded(found: &Value) -> Result<Option<Periodic>, StepError> {
    super::read(&found["periodic"])
}

/// Switches the periodic check of a volume's file system off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disarm {
    /// Inventory host.
    pub host: String,
    /// The volume, which nothing has open.
    pub volume: VolumeRef,
}

#[async_trait]
impl Step for Disarm {
    fn title(&self) -> String {
        format!("switch the periodic fsck of {} off", self.volume)
    }
    fn undo_title(&self) -> String {
        "as it was".into()
    }
    fn taken_back(&self) -> String {
        format!("periodic fsck of {} as it was", self.volume)
    }
    fn commands(&self, _manners: &super::Manners) -> Vec<Vec<String>> {
        vec![set(&device(&self.volume), Periodic::NEVER).argv]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = world.hypervisor(&self.host)?.host();
        let armed = look(&*host, &self.volume).await?.is_some_and(|found| !found.periodic.is_never());
        Ok(if armed { Probe::Absent } else { Probe::Present })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let host = world.hypervisor(&self.host)?.host();
        Ok(json!({ "periodic": look(&*host, &self.volume).await?.map(|found| found.periodic) }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        tune(&*world.hypervisor(&self.host)?.host(), &self.volume, Periodic::NEVER).await
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let Some(before) = recorded(found)? else { return Ok(Change::Unchanged.into()) };
        tune(&*world.hypervisor(&self.host)?.host(), &self.volume, before).await
    }
}

/// Sets the periodic check as it was before [`Disarm`]. If it would come due at the next start, the file system is checked
/// here and now, while production still runs elsewhere, and not in the outage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rearm {
    /// Inventory host.
    pub host: String,
    /// The volume, which nothing has open.
    pub volume: VolumeRef,
    /// The step that switched it off.
    pub disarmed: StepRef,
}

impl Rearm {
    fn before(&self, world: &World) -> Result<Option<Periodic>, StepError> {
        world.memory.found(self.disarmed)?.map_or(Ok(None), |found| recorded(&found))
    }
}

#[async_trait]
impl Step for Rearm {
    fn title(&self) -> String {
        format!("periodic fsck of {} as it was; done now if it is due", self.volume)
    }
    fn undo_title(&self) -> String {
        "switch it off".into()
    }
    fn taken_back(&self) -> String {
        format!("switch the periodic fsck of {} off", self.volume)
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let Some(before) = self.before(world)? else { return Ok(Probe::Present) };
        let found = look(&*world.hypervisor(&self.host)?.host(), &self.volume).await?;
        let set = found.is_none_or(|found| same(found.periodic, before));
        Ok(if set { Probe::Present } else { Probe::Absent })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = world.hypervisor(&self.host)?.host();
        let (Some(before), Some(found)) = (self.before(world)?, look(&*host, &self.volume).await?) else {
            return Ok(Change::Unchanged.into());
        };
        let due = found.due(before, Timestamp::now());
        if due {
            world.progress(format!("checking {}", self.volume), None);
            let command = check(&device(&self.volume));
            let output = host.run(&command).await?;
            // 1: errors were corrected.
            if output.status > 1 {
                output.checked(format!("check the file system on {}", self.volume), &command)?;
            }
        }
        tune(&*host, &self.volume, before).await
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        if self.before(world)?.is_none() {
            return Ok(Change::Unchanged.into());
        }
        tune(&*world.hypervisor(&self.host)?.host(), &self.volume, Periodic::NEVER).await
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicBool;
    use std::sync::{Arc, Mutex};

    use hypervisors::VolumeKind;
    use hypervisors::host::LocalHost;
    use hypervisors::libvirt::Libvirt;
    use hypervisors::net::RealNet;

    use super::*;
    use crate::steps::Memory;

    const ARMED: Periodic = Periodic { mounts: 30, interval_s: 15_552_000 };

    fn fixture(name: &str) -> String {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/e2fsprogs-1.47.0");
        std::fs::read_to_string(dir.join(name)).unwrap()
    }

    #[test]
    fn what_tune2fs_tells_is_read() {
        let armed = parse(&fixture("armed.txt")).unwrap();
        assert_eq!((armed.periodic, armed.mounted), (ARMED, 0));
        assert_eq!(armed.checked.unwrap().date(), jiff::civil::date(2026, 11, 25));
        assert_eq!(parse(&fixture("needs-recovery.txt")).unwrap().periodic, ARMED);
        let disarmed = parse(&fixture("disarmed.txt")).unwrap();
        assert!(disarmed.periodic.is_never() && same(disarmed.periodic, Periodic { mounts: 0, interval_s: 0 }));
        for broken in ["", "Maximum mount count:      many\nCheck interval: 0\nMount count: 1\n"] {
            assert!(parse(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn a_check_is_due_by_mounts_or_by_time_and_also_if_that_cannot_be_told() {
        let checked = Timestamp::now() - SignedDuration::from_hours(24 * 100);
        let local = checked.to_zoned(TimeZone::system()).datetime();
        let found = |mounted| Found { periodic: Periodic::NEVER, mounted, checked: Some(local) };
        let due = |mounted, mounts, days: u64| {
            found(mounted).due(Periodic { mounts, interval_s: days * 86_400 }, Timestamp::now())
        };
        assert!(!due(26, 30, 0) && due(27, 30, 0) && due(40, 30, 0));
        assert!(!due(27, -1, 0) && !due(0, 30, 103) && due(0, 30, 101) && due(0, -1, 99));
        let never_told = Found { checked: None, ..found(0) };
        assert!(never_told.due(ARMED, Timestamp::now()) && !never_told.due(Periodic::NEVER, Timestamp::now()));
    }

    /// Remembers what one step found.
    #[derive(Default)]
    struct One(Mutex<Option<Value>>);
    impl Memory for One {
        fn keep(&self, _: &[u8]) -> Result<String, StepError> {
            Err(StepError::Memory("nothing is kept".into()))
        }
        fn recall(&self, _: &str) -> Result<Vec<u8>, StepError> {
            Err(StepError::Memory("nothing is kept".into()))
        }
        fn found(&self, _: StepRef) -> Result<Option<Value>, StepError> {
            Ok(self.0.lock().unwrap().clone())
        }
        fn done(&self, _: StepRef) -> Result<Option<Value>, StepError> {
            Ok(None)
        }
    }

    /// This machine, with an image of these bytes made an ext4 file system if `ext`.
    struct Bench {
        dir: tempfile::TempDir,
        memory: Arc<One>,
        world: World,
        volume: VolumeRef,
    }

    impl Bench {
        async fn new(ext: bool) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let image = dir.path().join("image");
            std::fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
            let host = Arc::new(LocalHost::new("here"));
            let memory = Arc::new(One::default());
            // Never connected to: these steps use its machine only.
            let libvirt = Libvirt::new("test:///default", host.clone(), Arc::new(RealNet), Vec::new());
            let world = World {
                hypervisors: [("here".to_owned(), Arc::new(libvirt) as Arc<dyn hypervisors::Hypervisor>)].into(),
                controller: host,
                run_dir: dir.path().to_owned(),
                run: "mercure--k3f9".into(),
                memory: memory.clone(),
                progress: Arc::new(|_, _| {}),
                observer: Arc::new(|_| {}),
                last: Value::Null,
                decision: None,
                stop: Arc::new(AtomicBool::new(false)),
            };
            let volume = VolumeRef { kind: VolumeKind::LvmThick, path: image };
            let bench = Self { dir, memory, world, volume };
            if ext {
                bench.run(&["mke2fs", "-q", "-t", "ext4"]).await;
                bench.run(&["tune2fs", "-c", "30", "-i", "15552000s"]).await;
            }
            bench
        }
        async fn run(&self, argv: &[&str]) {
            let argv = argv.iter().map(|word| (*word).to_owned()).chain([device(&self.volume)]);
            let command = Command::new(argv);
            self.world.controller.run(&command).await.unwrap().checked("prepare", &command).unwrap();
        }
        async fn found(&self) -> Option<Found> {
            look(&*self.world.controller, &self.volume).await.unwrap()
        }
        fn disarm(&self) -> Disarm {
            Disarm { host: "here".into(), volume: self.volume.clone() }
        }
        fn rearm(&self) -> Rearm {
            let disarmed = StepRef { plan: 1, index: 0 };
            Rearm { host: "here".into(), volume: self.volume.clone(), disarmed }
        }
        /// By the step's contract.
        async fn disarmed(&self) -> Value {
            let step = self.disarm();
            assert_eq!(step.probe(&self.world).await.unwrap(), Probe::Absent);
            let found = step.capture(&self.world).await.unwrap();
            *self.memory.0.lock().unwrap() = Some(found.clone());
            assert_eq!(step.apply(&self.world, &found).await.unwrap().change, Change::Changed);
            assert_eq!(step.probe(&self.world).await.unwrap(), Probe::Present);
            assert_eq!(step.apply(&self.world, &found).await.unwrap().change, Change::Unchanged);
            found
        }
    }

    #[tokio::test]
    async fn it_is_switched_off_and_taken_back_exactly() {
        let bench = Bench::new(true).await;
        let found = bench.disarmed().await;
        assert_eq!(bench.found().await.unwrap().periodic, Periodic::NEVER);
        for change in [Change::Changed, Change::Unchanged] {
            assert_eq!(bench.disarm().undo(&bench.world, &found).await.unwrap().change, change);
            assert_eq!(bench.found().await.unwrap().periodic, ARMED);
        }
        drop(bench.dir);
    }

    #[tokio::test]
    async fn promotion_sets_it_as_it_was_and_a_way_back_switches_it_off_again() {
        let bench = Bench::new(true).await;
        bench.disarmed().await;
        // It was mounted and not checked.
        bench.run(&["tune2fs", "-C", "3"]).await;
        let step = bench.rearm();
        assert_eq!(step.probe(&bench.world).await.unwrap(), Probe::Absent);
        step.apply(&bench.world, &Value::Null).await.unwrap();
        assert_eq!(step.probe(&bench.world).await.unwrap(), Probe::Present);
        let now = bench.found().await.unwrap();
        assert_eq!((now.periodic, now.mounted), (ARMED, 3), "it was not due: nothing was checked");
        step.undo(&bench.world, &Value::Null).await.unwrap();
        assert!(bench.found().await.unwrap().periodic.is_never());
    }

    #[tokio::test]
    async fn what_would_be_due_in_the_outage_is_checked_before_it() {
        let bench = Bench::new(true).await;
        bench.disarmed().await;
        bench.run(&["tune2fs", "-C", "29"]).await;
        bench.rearm().apply(&bench.world, &Value::Null).await.unwrap();
        let now = bench.found().await.unwrap();
        assert_eq!((now.periodic, now.mounted), (ARMED, 0), "e2fsck counts anew");
        assert!(!now.due(ARMED, Timestamp::now()));
    }

    #[tokio::test]
    async fn other_file_systems_and_those_that_are_never_checked_are_left_alone() {
        let bench = Bench::new(false).await;
        assert_eq!(bench.found().await, None);
        let found = bench.disarm().capture(&bench.world).await.unwrap();
        *bench.memory.0.lock().unwrap() = Some(found.clone());
        for step in [&bench.disarm() as &dyn Step, &bench.rearm()] {
            assert_eq!(step.probe(&bench.world).await.unwrap(), Probe::Present);
            assert_eq!(step.apply(&bench.world, &found).await.unwrap().change, Change::Unchanged);
            assert_eq!(step.undo(&bench.world, &found).await.unwrap().change, Change::Unchanged);
        }
        std::fs::remove_file(&bench.volume.path).unwrap();
        assert!(bench.disarm().probe(&bench.world).await.is_err(), "a device that is missing is no other file system");
    }
}
