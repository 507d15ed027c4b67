//! Snapshots that can fill, and merging.

use super::*;
use crate::storage::{BlockFacts, CopyRequest, CowSize, Merge};

async fn block(sim: &Sim, name: &str) -> Option<BlockFacts> {
    let storage = sim.storage(VolumeKind::Sim).unwrap();
    storage.inspect(&sim.volume_ref(name)).await.unwrap().and_then(|facts| facts.block)
}

#[tokio::test]
async fn a_snapshot_with_a_size_fills_until_it_is_grown() {
    let (_dir, sim) = world();
    let storage = sim.storage(VolumeKind::Sim).unwrap();
    let (source, target) = (sim.volume_ref("mercure"), sim.volume_ref("mercure--k3f9"));
    let set = [CopyRequest { source: &source, target: &target, size: Some(CowSize::Bytes(10_000)) }];
    storage.snapshot_set(&set, &mark("mercure--k3f9")).await.unwrap();
    let facts = block(&sim, "mercure--k3f9").await.unwrap();
    assert_eq!((facts.origin.as_deref(), facts.unfit.is_some()), (Some("mercure"), true));
    assert_eq!(block(&sim, "mercure").await.unwrap().snapshots, ["mercure--k3f9"]);
    assert!(storage.secure(&target, "other--0000").await.is_err());
    assert_eq!(storage.secure(&target, "mercure--k3f9").await.unwrap(), Change::Changed);
    assert_eq!(storage.secure(&target, "mercure--k3f9").await.unwrap(), Change::Unchanged);
    fs::write(target.path.join("var/log/big"), [0; 20_000]).unwrap();
    assert_eq!(block(&sim, "mercure--k3f9").await.unwrap().lost, None);
    sim.limit_volume("mercure--k3f9", Some(10_000)).unwrap();
    assert!(block(&sim, "mercure--k3f9").await.unwrap().lost.is_some());
    assert!(storage.secure(&target, "mercure--k3f9").await.is_err());
}

#[tokio::test]
async fn a_merge_goes_forward_from_wherever_it_stopped() {
    for how in [None, Some(How::Fail), Some(How::Partial)] {
        let (_dir, sim) = world();
        let storage = sim.storage(VolumeKind::Sim).unwrap();
        clone(&sim, "mercure--k3f9").await;
        let (origin, snapshot) = (sim.volume_ref("mercure"), sim.volume_ref("mercure--k3f9"));
        let merges = [(&snapshot, &origin)];
        let error = storage.merge(&merges, "mercure--k3f9").await.unwrap_err();
        assert!(error.to_string().contains("mercure runs on it"), "{error}");
        sim.destroy("mercure").await.unwrap();
        assert!(storage.merge(&merges, "venus--aaaa").await.is_err());
        if let Some(how) = how {
            let partial = how == How::Partial;
            sim.inject(Fault { op: "storage.merge".into(), object: None, nth: 1, how }).unwrap();
            storage.merge(&merges, "mercure--k3f9").await.unwrap_err();
            let waits = block(&sim, "mercure").await.unwrap().merge == Some(Merge::Waiting);
            assert_eq!(waits, partial, "decided, or not at all");
            assert_eq!(sim.start("mercure").await.is_err(), partial, "it does not start half merged");
            sim.destroy("mercure").await.unwrap();
        }
        assert_eq!(storage.merge(&merges, "mercure--k3f9").await.unwrap(), Change::Changed);
        assert!(fs::read_to_string(origin.path.join("etc/network/interfaces")).unwrap().contains("10.0.5.16"));
        assert!(storage.inspect(&snapshot).await.unwrap().is_none());
        let mut lefts = Vec::new();
        while let Some(Merge::Draining { left_percent }) = block(&sim, "mercure").await.unwrap().merge {
            lefts.push(left_percent);
        }
        assert!(lefts.len() >= 2 && lefts.is_sorted_by(|a, b| a > b), "{lefts:?}");
        assert_eq!(storage.merge(&merges, "mercure--k3f9").await.unwrap(), Change::Unchanged);
        sim.start("mercure").await.unwrap();
    }
}
