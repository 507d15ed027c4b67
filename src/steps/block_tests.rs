//! The steps of [`super::block`] and the snapshot of a set, on the simulated platform.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use hypervisors::host::LocalHost;
use hypervisors::sim::{Sim, seed};
use hypervisors::storage::{CowSize, SizedSnapshot};
use hypervisors::{Change, Hypervisor, Role, VolumeKind, VolumeRef};
use serde_json::Value;

use super::block::{Drain, FreshSwap, Grow, Merge};
use super::storage::{Pair, Snapshot};
use super::{Action, Memory, Probe, Step, StepError, StepRef, World};

/// These steps remember nothing.
struct Nothing;
impl Memory for Nothing {
    fn keep(&self, _: &[u8]) -> Result<String, StepError> {
        Err(StepError::Memory("nothing is kept".into()))
    }
    fn recall(&self, _: &str) -> Result<Vec<u8>, StepError> {
        Err(StepError::Memory("nothing is kept".into()))
    }
    fn found(&self, _: StepRef) -> Result<Option<Value>, StepError> {
        Ok(None)
    }
    fn done(&self, _: StepRef) -> Result<Option<Value>, StepError> {
        Ok(None)
    }
}

struct Bench {
    sim: Arc<Sim>,
    world: World,
    told: Arc<Mutex<Vec<Option<f64>>>>,
    _directory: tempfile::TempDir,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let sim = Arc::new(seed(&directory.path().join("sim")).unwrap());
    let platform: Arc<dyn Hypervisor> = sim.clone();
    let told: Arc<Mutex<Vec<Option<f64>>>> = Arc::default();
    let teller = told.clone();
    let world = World {
        hypervisors: BTreeMap::from([("here".to_owned(), platform)]),
        controller: Arc::new(LocalHost::new("controller")),
        run_dir: directory.path().into(),
        run: "mercure--k3f9".into(),
        memory: Arc::new(Nothing),
        progress: Arc::new(move |_, fraction| teller.lock().unwrap().push(fraction)),
        observer: Arc::new(|_| ()),
        last: Value::Null,
        decision: None,
        stop: Arc::new(AtomicBool::new(false)),
    };
    Bench { sim, world, told, _directory: directory }
}

fn snapshot(sim: &Sim, size: Option<u64>) -> Snapshot {
    let sized = size.map(|bytes| SizedSnapshot {
        size: CowSize::Bytes(bytes),
        bytes,
        covering_bytes: 1 << 30,
        why: "2.3 GiB (as set: 110 % of 2.1 GiB used); it can fill: covering is 8.0 GiB".into(),
    });
    let pair = Pair { size: sized, ..Pair::new(sim.volume_ref("mercure"), sim.volume_ref("mercure--k3f9")) };
    Snapshot { host: "here".into(), guest: "mercure".into(), pause: true, copies: vec![pair], role: Role::Clone }
}

#[tokio::test]
async fn a_snapshot_that_can_fill_is_grown_merged_and_drained() {
    let bench = bench();
    let Bench { sim, world, told, .. } = &bench;
    let snapshot = snapshot(sim, Some(100_000));
    assert!(snapshot.title().contains("it can fill: covering is 8.0 GiB"));
    snapshot.apply(world, &Value::Null).await.unwrap();
    assert_eq!(snapshot.probe(world).await.unwrap(), Probe::Present);
    let pair = &snapshot.copies[0];

    let grow = Grow { host: "here".into(), volumes: vec![pair.target.clone()] };
    assert_eq!(grow.probe(world).await.unwrap(), Probe::Absent);
    assert_eq!(grow.apply(world, &Value::Null).await.unwrap().change, Change::Changed);
    assert_eq!(grow.probe(world).await.unwrap(), Probe::Present);
    grow.undo(world, &Value::Null).await.unwrap();
    assert_eq!(grow.probe(world).await.unwrap(), Probe::Present, "it stays grown");

    let merge = Merge { host: "here".into(), merges: vec![pair.clone()] };
    let drain = Drain { host: "here".into(), volumes: vec![pair.source.clone()] };
    let found = merge.capture(world).await.unwrap();
    assert_eq!(found["ids"][0]["snapshot"], "mercure--k3f9");
    assert_eq!(merge.probe(world).await.unwrap(), Probe::Absent);
    assert!(merge.apply(world, &found).await.is_err(), "its guest runs");
    sim.destroy("mercure").await.unwrap();
    assert_eq!(merge.apply(world, &found).await.unwrap().change, Change::Changed);
    assert_eq!(merge.probe(world).await.unwrap(), Probe::Present);
    assert_eq!(merge.apply(world, &found).await.unwrap().change, Change::Unchanged);
    told.lock().unwrap().clear();
    drain.apply(world, &Value::Null).await.unwrap();
    assert!(!told.lock().unwrap().is_empty() && told.lock().unwrap().iter().all(Option::is_some));
    assert_eq!(drain.probe(world).await.unwrap(), Probe::Present);
    // What was never there is not taken for merged.
    assert!(merge.capture(world).await.is_err());
}

#[tokio::test]
async fn a_lost_snapshot_is_told_before_anything_else() {
    let bench = bench();
    let Bench { sim, world, .. } = &bench;
    let snapshot = snapshot(sim, None);
    snapshot.apply(world, &Value::Null).await.unwrap();
    std::fs::write(snapshot.copies[0].target.path.join("etc/large"), [0; 9000]).unwrap();
    sim.limit_volume("mercure--k3f9", Some(1000)).unwrap();
    let grow = Grow { host: "here".into(), volumes: vec![snapshot.copies[0].target.clone()] };
    let error = grow.probe(world).await.unwrap_err();
    assert!(error.to_string().contains("filled up") && error.help().unwrap().contains("abort"), "{error}");
    snapshot.undo(world, &Value::Null).await.unwrap();
    assert_eq!(snapshot.probe(world).await.unwrap(), Probe::Absent);
}

#[tokio::test]
async fn a_platform_without_swap_volumes_says_so() {
    let bench = bench();
    let Bench { sim, world, .. } = &bench;
    let swap = Pair::new(sim.volume_ref("mercure"), sim.volume_ref("mercure--k3f9-swap"));
    let step = FreshSwap { host: "here".into(), swap, role: Role::Clone };
    assert_eq!(step.probe(world).await.unwrap(), Probe::Absent);
    assert!(step.apply(world, &Value::Null).await.is_err());
    assert_eq!(step.undo(world, &Value::Null).await.unwrap().change, Change::Unchanged);
}

#[test]
fn commands_and_data_are_readable() {
    let lv = |name: &str| VolumeRef { kind: VolumeKind::LvmThick, path: format!("/dev/vg1/{name}").into() };
    let pair = Pair::new(lv("mercure"), lv("mercure--k3f9-xvda1"));
    let snapshot = Snapshot {
        host: "here".into(),
        guest: "mercure".into(),
        pause: true,
        copies: vec![pair.clone()],
        role: Role::Clone,
    };
    let line = |argv: &[String]| argv.join(" ");
    assert_eq!(
        line(&snapshot.commands()[0]),
        "lvcreate -s -c 4096b -l 100%ORIGIN --addtag upgradectl… -n mercure--k3f9-xvda1 vg1/mercure"
    );
    let merge = Merge { host: "here".into(), merges: vec![pair.clone()] };
    assert_eq!(line(&merge.commands()[0]), "lvconvert -b --merge vg1/mercure--k3f9-xvda1");
    assert_eq!(merge.title(), "merge mercure--k3f9-xvda1 into /dev/vg1/mercure");
    let grow = Grow { host: "here".into(), volumes: vec![pair.target.clone()] };
    assert_eq!(line(&grow.commands()[0]), "lvextend -l 200%ORIGIN vg1/mercure--k3f9-xvda1");
    // As it stands in a stored plan; one from before sizes were stored still loads.
    let stored = serde_json::to_value(Action::from(snapshot.clone())).unwrap();
    let source = serde_json::json!({ "kind": "lvm_thick", "path": "/dev/vg1/mercure" });
    assert_eq!((&stored["kind"], &stored["copies"][0]["source"]), (&"storage.snapshot".into(), &source));
    assert_eq!(serde_json::from_value::<Action>(stored).unwrap(), Action::from(snapshot));
}
