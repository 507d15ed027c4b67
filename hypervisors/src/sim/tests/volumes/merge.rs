//! Merges, cut wherever they can be cut.

use super::*;
use crate::storage::Access;

#[tokio::test]
async fn a_merge_wants_both_closed_shows_its_content_and_drains() {
    let world = like(Copies::Dependents);
    world.sim.configure(|config| config.merge_ms = 60_000).unwrap();
    let before = (world.facts(&world.root).await.block.unwrap().id, world.free().await);
    world.make(None).await.unwrap();
    let sibling = world.sim.volume_ref("sibling");
    let size = Some(CowSize::Bytes(8 * MIB));
    let request = CopyRequest { source: &world.root, target: &sibling, size };
    world.storage.snapshot_set(&[request], &mark("venus--aaaa")).await.unwrap();
    world.write(&world.root, "lost-by-merge", 1 << 20);
    world.write(&world.copy, "merged", 2 << 20);
    assert!(why(world.merge().await).contains("mercure is open: mercure runs on it"));
    world.sim.pause("mercure").await.unwrap();
    assert!(why(world.merge().await).contains("open"), "a paused guest has it open too");
    world.sim.destroy("mercure").await.unwrap();
    assert!(why(world.storage.merge(&[(&world.copy, &world.root)], "venus--aaaa").await).contains("run venus--aaaa"));
    let mail = world.sim.volume_ref("mercure-mail");
    assert!(why(world.storage.merge(&[(&world.copy, &mail)], RUN).await).contains("not a snapshot of mercure-mail"));
    assert_eq!(world.merge().await.unwrap(), Change::Changed);
    assert!(world.has(&world.root, "merged") && !world.has(&world.root, "lost-by-merge"));
    let block = world.facts(&world.root).await.block.unwrap();
    let Some(Merge::Draining { left_percent }) = block.merge else { panic!("{block:?}") };
    assert!((50.0..=100.0).contains(&left_percent), "{left_percent}");
    assert_eq!(block.id, before.0);
    // While it drains: begun is begun, production may start, nobody removes, renames or copies.
    assert_eq!(world.merge().await.unwrap(), Change::Unchanged);
    assert_eq!(world.sim.start("mercure").await.unwrap(), Change::Changed);
    assert!(run(&inside(&world.sim), "test -e /merged").await.status == 0);
    world.sim.destroy("mercure").await.unwrap();
    assert_eq!(world.state(&world.copy).await, Snapshot::Present);
    assert!(world.storage.open(&world.copy, Access::Read).await.is_err());
    assert!(why(world.storage.remove(&world.copy, RUN).await).contains("merge is under way"));
    assert!(why(world.storage.rename(&world.root, &world.sim.volume_ref("x")).await).contains("merge is under way"));
    let another = world.sim.volume_ref("another");
    assert!(why(world.storage.snapshot(&world.root, &another, &world.ours()).await).contains("under way"));
    assert!(
        why(world.storage.merge(&[(&sibling, &world.root)], "venus--aaaa").await)
            .contains("another snapshot is being merged")
    );
    // A sibling paid: 1 MiB of the origin's, then what the merge changed (both sides' 3 MiB).
    assert_eq!(world.facts(&sibling).await.fill_percent, Some(50.0));
    assert_eq!(world.facts(&sibling).await.block.unwrap().origin.as_deref(), Some("mercure"));
    let mut meta = world.sim.lock().unwrap().volume("mercure").unwrap().unwrap();
    let text = serde_json::to_string(&meta.merging.take().unwrap()).unwrap();
    let mut merging: serde_json::Value = serde_json::from_str(&text).unwrap();
    merging["begun"] = serde_json::json!([0, 1]);
    meta.merging = Some(serde_json::from_value(merging).unwrap());
    world.sim.lock().unwrap().set_volume("mercure", &meta).unwrap();
    assert_eq!(world.facts(&world.root).await.block.unwrap().merge, None, "drained");
    assert!(world.gone(&world.copy).await);
    assert_eq!(world.state(&world.copy).await, Snapshot::Absent);
    assert_eq!(world.merge().await.unwrap(), Change::Unchanged);
    assert_eq!(world.free().await, before.1 - 8 * MIB, "only the sibling's area is taken");
}

#[tokio::test]
async fn a_merge_is_repeated_from_wherever_it_was_cut() {
    for copies in [Copies::Dependents, Copies::Peers] {
        let world = like(copies);
        world.sim.destroy("mercure").await.unwrap();
        let swap = world.sim.volume_ref("mercure-swap");
        let swap_copy = world.sim.volume_ref("mercure--k3f9-xvda2");
        let set = [
            CopyRequest { source: &world.root, target: &world.copy, size: None },
            CopyRequest { source: &swap, target: &swap_copy, size: None },
        ];
        world.storage.snapshot_set(&set, &world.ours()).await.unwrap();
        world.write(&world.copy, "merged", 10);
        let merge = async || world.storage.merge(&[(&world.copy, &world.root), (&swap_copy, &swap)], RUN).await;
        world.cut("storage.merge", How::Fail);
        merge().await.unwrap_err();
        assert!(!world.has(&world.root, "merged"));
        world.cut("storage.merge", How::Partial);
        merge().await.unwrap_err();
        assert!(world.has(&world.root, "merged"), "the first has begun");
        assert_eq!(world.facts(&swap).await.block.unwrap().merge, Some(Merge::Waiting));
        assert!(world.storage.open(&swap_copy, Access::Read).await.is_err());
        assert!(why(world.storage.remove(&swap_copy, RUN).await).contains("merge is under way"));
        // One that waits does not begin while something is open.
        world.sim.start("mercure").await.unwrap();
        assert!(why(merge().await).contains("open"));
        world.sim.destroy("mercure").await.unwrap();
        world.cut("storage.merge", How::UnknownAfter);
        assert!(merge().await.unwrap_err().is_unknown());
        assert_eq!(merge().await.unwrap(), Change::Unchanged);
        for (snapshot, origin) in [(&world.copy, &world.root), (&swap_copy, &swap)] {
            assert!(world.gone(snapshot).await);
            assert_eq!(world.facts(origin).await.block.unwrap().merge, None);
        }
        assert_eq!(world.sim.start("mercure").await.unwrap(), Change::Changed);
    }
}

/// The states between two renames, which no fault reaches, made by hand.
#[tokio::test]
async fn a_merge_killed_between_its_renames_is_ended() {
    for copies in [Copies::Dependents, Copies::Peers] {
        for stage in 0..3 {
            let world = like(copies);
            world.sim.destroy("mercure").await.unwrap();
            world.make(None).await.unwrap();
            world.write(&world.root, "old", 1 << 20);
            world.write(&world.copy, "merged", 2 << 20);
            let other = world.sim.volume_ref("other");
            world.storage.snapshot(&world.root, &other, &mark("venus--aaaa")).await.unwrap();
            let used = world.facts(&world.copy).await.used_bytes;
            world.cut("storage.merge", How::Partial);
            world.merge().await.unwrap_err();
            let aside = world.sim.volumes().join(".mercure.merged");
            if stage > 0 {
                fs::rename(&world.root.path, &aside).unwrap();
            }
            if stage > 1 {
                fs::rename(&world.copy.path, &world.root.path).unwrap();
            }
            assert_eq!(world.facts(&world.root).await.block.unwrap().merge, Some(Merge::Waiting), "{stage}");
            assert_eq!(world.merge().await.unwrap(), Change::Changed, "{stage}");
            assert!(world.has(&world.root, "merged") && !world.has(&world.root, "old"), "{stage}");
            assert!(!aside.exists() && world.gone(&world.copy).await, "{stage}");
            assert_eq!(world.facts(&world.root).await.used_bytes, used, "{copies:?} {stage}");
            if copies == Copies::Dependents {
                let fill = world.sim.lock().unwrap();
                let meta = fill.volume("other").unwrap().unwrap();
                assert_eq!(fill.fill("other", &meta).unwrap(), 3 << 20, "{stage}");
            }
        }
    }
}

#[tokio::test]
async fn a_thin_merge_is_a_swap() {
    let world = like(Copies::Peers);
    world.sim.configure(|config| config.merge_ms = 60_000).unwrap();
    world.make(None).await.unwrap();
    world.write(&world.copy, "merged", 1 << 20);
    assert!(why(world.merge().await).contains("open"));
    world.sim.destroy("mercure").await.unwrap();
    world.write(&world.root, "lost", 3 << 20);
    let before = world.free().await;
    assert_eq!(world.merge().await.unwrap(), Change::Changed);
    let facts = world.facts(&world.root).await;
    let block = facts.block.unwrap();
    assert_eq!((block.merge, block.unfit, block.origin), (None, None, None));
    assert!(world.gone(&world.copy).await && world.has(&world.root, "merged") && !world.has(&world.root, "lost"));
    assert_eq!(facts.free_bytes, before + 3 * MIB);
    assert_eq!(facts.mark, None, "the original's mark stays what it was");
    world.sim.reboot_host().await.unwrap();
    assert_eq!(world.sim.start("mercure").await.unwrap(), Change::Unchanged);
}
