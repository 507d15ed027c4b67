//! Steps on the periodic check of ext file systems: switched off on volumes that are about to be started several times, and
//! set as it was when production is to keep them. By tune2fs(8), on volumes that nothing has open.
//!
//! A file system that is not replayed yet is replayed by tune2fs (e2fsprogs 1.47 does so before it writes), so this belongs to
//! copies and to volumes that were shut down, never to one that is in use. Other file systems have no such check: there is
//! nothing to do.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::storage::disk;
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

/// An ext file system on a volume.
struct Target {
    /// Number of its partition; 0: it fills the volume.
    number: u32,
    /// How e2fsprogs is told where it is: the device, or the device and where it begins.
    device: String,
    found: Found,
}

/// The ext file systems on a volume: one, those of its partitions, or none.
async fn targets(host: &dyn Host, volume: &VolumeRef) -> Result<Vec<Target>, StepError> {
    let whole = device(volume);
    if let Some(found) = look(host, volume, &whole).await? {
        return Ok(vec![Target { number: 0, device: whole, found }]);
    }
    let mut targets = Vec::new();
    for area in disk::areas(host, &format!("look what is on {volume}"), &volume.path).await? {
        let Some(number) = area.number.filter(|_| area.content.starts_with("ext")) else { continue };
        // As libext2fs reads it, after the name of the device.
        let device = format!("{whole}?offset={}", area.start);
        if let Some(found) = look(host, volume, &device).await? {
            targets.push(Target { number, device, found });
        }
    }
    Ok(targets)
}

/// Looks at a file system; `None`: it is no ext one.
async fn look(host: &dyn Host, volume: &VolumeRef, device: &str) -> Result<Option<Found>, StepError> {
    let command = show(device);
    let output = host.run(&command).await?;
    if output.status != 0 && String::from_utf8_lossy(&output.stderr).contains("Bad magic number in super-block") {
        return Ok(None);
    }
    let output = output.checked(format!("look at the file system on {volume}"), &command)?;
    let found =
        parse(&output.text()).map_err(|why| StepError::failed(format!("{volume}: {why}"), "install e2fsprogs"))?;
    Ok(Some(found))
}

/// Sets those that are named; the others stay as they are.
async fn tune(host: &dyn Host, volume: &VolumeRef, to: &BTreeMap<u32, Periodic>) -> Result<Done, StepError> {
    let mut change = Change::Unchanged;
    for target in targets(host, volume).await? {
        let Some(to) = to.get(&target.number).filter(|to| !same(target.found.periodic, **to)) else { continue };
        let command = set(&target.device, *to);
        host.run(&command).await?.checked(format!("set the periodic check of {volume}"), &command)?;
        change = Change::Changed;
    }
    Ok(change.into())
}

/// Never is never, however it is written.
fn same(one: Periodic, other: Periodic) -> bool {
    (one.mounts.max(0), one.interval_s) == (other.mounts.max(0), other.interval_s)
}

/// What was found before, by number of the partition; 0: of the whole volume.
fn recorded(found: &Value) -> Result<BTreeMap<u32, Periodic>, StepError> {
    let whole: Option<Periodic> = super::read(&found["periodic"])?;
    let mut all: BTreeMap<u32, Periodic> = match &found["partitions"] {
        Value::Null => BTreeMap::new(),
        partitions => super::read(partitions)?,
    };
    all.extend(whole.map(|whole| (0, whole)));
    Ok(all)
}

/// Never, for as many.
fn never(of: &BTreeMap<u32, Periodic>) -> BTreeMap<u32, Periodic> {
    of.keys().map(|number| (*number, Periodic::NEVER)).collect()
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
        let armed = targets(&*host, &self.volume).await?.iter().any(|target| !target.found.periodic.is_never());
        Ok(if armed { Probe::Absent } else { Probe::Present })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let host = world.hypervisor(&self.host)?.host();
        let found = targets(&*host, &self.volume).await?;
        let whole = found.iter().find(|target| target.number == 0).map(|target| target.found.periodic);
        let parts: BTreeMap<u32, Periodic> = found
            .iter()
            .filter(|target| target.number != 0)
            .map(|target| (target.number, target.found.periodic))
            .collect();
        Ok(match parts.is_empty() {
            true => json!({ "periodic": whole }),
            false => json!({ "periodic": whole, "partitions": parts }),
        })
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        tune(&*world.hypervisor(&self.host)?.host(), &self.volume, &never(&recorded(found)?)).await
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        tune(&*world.hypervisor(&self.host)?.host(), &self.volume, &recorded(found)?).await
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
    fn before(&self, world: &World) -> Result<BTreeMap<u32, Periodic>, StepError> {
        world.memory.found(self.disarmed)?.map_or(Ok(BTreeMap::new()), |found| recorded(&found))
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
        let before = self.before(world)?;
        if before.is_empty() {
            return Ok(Probe::Present);
        }
        let found = targets(&*world.hypervisor(&self.host)?.host(), &self.volume).await?;
        let set =
            |target: &Target| before.get(&target.number).is_none_or(|before| same(target.found.periodic, *before));
        Ok(if found.iter().all(set) { Probe::Present } else { Probe::Absent })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = world.hypervisor(&self.host)?.host();
        let before = self.before(world)?;
        if before.is_empty() {
            return Ok(Change::Unchanged.into());
        }
        for target in targets(&*host, &self.volume).await? {
            let Some(before) = before.get(&target.number) else { continue };
            if !target.found.due(*before, Timestamp::now()) {
                continue;
            }
            world.progress(format!("checking {}", self.volume), None);
            let command = check(&target.device);
            let output = host.run(&command).await?;
            // 1: errors were corrected.
            if output.status > 1 {
                output.checked(format!("check the file system on {}", self.volume), &command)?;
            }
        }
        tune(&*host, &self.volume, &before).await
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let before = self.before(world)?;
        if before.is_empty() {
            return Ok(Change::Unchanged.into());
        }
        tune(&*world.hypervisor(&self.host)?.host(), &self.volume, &never(&before)).await
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
                leased: Arc::new(crate::steps::leased::Keeper::new(|_| ())),
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
            look(&*self.world.controller, &self.volume, &device(&self.volume)).await.unwrap()
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
    async fn each_partition_of_a_disk_gets_its_own_back() {
        let bench = Bench::new(false).await;
        // An MBR with partitions of 2 and 1 MiB from 1 and 3 MiB on.
        let mut sector = [0; 512];
        for (at, start, sectors) in [(446, 2048_u32, 4096_u32), (462, 6144, 2047)] {
            sector[at + 4] = 0x83;
            sector[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            sector[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        let image = std::fs::File::options().write(true).open(&bench.volume.path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&image, &sector, 0).unwrap();
        let part = |mib: u64| format!("{}?offset={}", device(&bench.volume), mib << 20);
        for (mib, blocks, mounts) in [(1, "2048", "30"), (3, "1023", "20")] {
            let offset = format!("offset={}", mib << 20);
            for argv in [
                vec!["mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-E", &offset, &device(&bench.volume), blocks],
                vec!["tune2fs", "-c", mounts, &part(mib)],
            ] {
                let command = Command::new(argv);
                bench.world.controller.run(&command).await.unwrap().checked("prepare", &command).unwrap();
            }
        }
        let (path, world) = (bench.volume.clone(), &bench.world);
        let mounts = async || {
            let found = targets(&*world.controller, &path).await.unwrap();
            found.iter().map(|target| (target.number, target.found.periodic.mounts)).collect::<Vec<_>>()
        };
        assert_eq!(mounts().await, [(1, 30), (2, 20)]);
        bench.disarmed().await;
        assert_eq!(mounts().await, [(1, -1), (2, -1)]);
        let step = bench.rearm();
        assert_eq!(step.probe(world).await.unwrap(), Probe::Absent);
        step.apply(world, &Value::Null).await.unwrap();
        assert_eq!((mounts().await, step.probe(world).await.unwrap()), (vec![(1, 30), (2, 20)], Probe::Present));
        step.undo(world, &Value::Null).await.unwrap();
        assert_eq!(mounts().await, [(1, -1), (2, -1)]);
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
