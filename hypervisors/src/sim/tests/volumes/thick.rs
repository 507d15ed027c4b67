//! Thick volumes: sizes, areas that fill, snapshots that live by their origin.

use super::*;
use crate::storage::Access;

#[tokio::test]
async fn a_size_is_chosen_by_policy_and_explained() {
    let world = like(Copies::Dependents);
    let size = async |policy| world.storage.size_snapshot(&world.root, policy).await.map(Option::unwrap);
    // 8 GiB in chunks of 4 KiB, 16 bytes for each, whole extents.
    let most = 8 * 1024 * MIB + 36 * MIB;
    let covering = size(None).await.unwrap();
    assert_eq!((covering.size, covering.bytes, covering.covering_bytes), (CowSize::Covering, most, most));
    assert!(covering.why.contains("cannot fill"), "{}", covering.why);
    let fixed = size(Some(SizePolicy::Bytes(5 * MIB))).await.unwrap();
    assert_eq!((fixed.size, fixed.bytes), (CowSize::Bytes(8 * MIB), 8 * MIB));
    assert!(fixed.why.contains("it can fill: covering is 8.0 GiB"), "{}", fixed.why);
    assert_eq!(size(Some(SizePolicy::PercentOrigin(25))).await.unwrap().bytes, 2048 * MIB);
    assert_eq!(size(Some(SizePolicy::PercentOrigin(200))).await.unwrap().size, CowSize::Covering);
    let used = size(Some(SizePolicy::PercentUsed(50))).await.unwrap();
    assert_eq!(used.bytes, 600 * MIB);
    assert!(used.why.contains("50 % of 1.2 GiB used"), "{}", used.why);
    world.sim.configure(|config| config.pool_free_bytes = 2048 * MIB).unwrap();
    let estimate = size(None).await.unwrap();
    assert_eq!(estimate.bytes, 1320 * MIB);
    assert!(estimate.why.contains("covering does not fit into 2.0 GiB free"), "{}", estimate.why);
    assert!(size(Some(SizePolicy::Covering)).await.is_err(), "it does not fit");
    let peers = like(Copies::Peers);
    assert_eq!(peers.storage.size_snapshot(&peers.root, None).await.unwrap(), None);
}

#[tokio::test]
async fn a_thick_snapshot_takes_room_lives_by_its_origin_and_has_no_snapshots() {
    let world = like(Copies::Dependents);
    let before = world.free().await;
    assert_eq!(world.make(Some(CowSize::Bytes(64 * MIB))).await.unwrap(), Change::Created);
    assert_eq!(world.make(Some(CowSize::Bytes(64 * MIB))).await.unwrap(), Change::Unchanged);
    assert_eq!(world.free().await, before - 64 * MIB);
    let block = world.facts(&world.copy).await.block.unwrap();
    assert_eq!((block.origin.as_deref(), block.open, block.lost), (Some("mercure"), Some(false), None));
    assert!(block.unfit.unwrap().starts_with("it can fill"));
    assert_eq!(block.size_bytes, 8 << 30);
    assert_eq!(world.facts(&world.root).await.block.unwrap().snapshots, [RUN]);
    let second = world.sim.volume_ref("second");
    assert!(why(world.storage.snapshot(&world.copy, &second, &world.ours()).await).contains("a snapshot itself"));
    assert!(world.storage.size_snapshot(&world.copy, None).await.is_err());
    // Even a marked origin does not go before its snapshots.
    world.sim.destroy("mercure").await.unwrap();
    world.storage.mark(&world.root, Some(&world.ours())).await.unwrap();
    assert!(why(world.storage.remove(&world.root, RUN).await).contains("snapshots would go with it: mercure--k3f9"));
    assert_eq!(world.storage.remove(&world.copy, RUN).await.unwrap(), Change::Removed);
    assert_eq!(world.free().await, before);
    assert_eq!(world.storage.remove(&world.root, RUN).await.unwrap(), Change::Removed);
}

#[tokio::test]
async fn origin_and_snapshot_fill_the_same_area_until_it_is_lost() {
    let world = like(Copies::Dependents);
    world.make(Some(CowSize::Bytes(4 * MIB))).await.unwrap();
    world.write(&world.root, "grown", 2 << 20);
    assert_eq!(world.facts(&world.copy).await.fill_percent, Some(50.0));
    world.write(&world.copy, "grown", 1 << 20);
    assert_eq!(world.facts(&world.copy).await.fill_percent, Some(75.0));
    assert_eq!(world.facts(&world.root).await.fill_percent, None);
    // A guest of its own stands on it when production fills it.
    let original = world.sim.definition("mercure").await.unwrap().unwrap();
    let edit = DefinitionEdit {
        name: Some(RUN.into()),
        uuid: Some("u".into()),
        disks: [
            ("/".into(), DiskEdit::Source(world.copy.clone())),
            ("xvda2".into(), DiskEdit::Remove),
            ("/srv/mail".into(), DiskEdit::Remove),
        ]
        .into(),
        ..Default::default()
    };
    let interfaces = world.copy.path.join("etc/network/interfaces");
    let text = fs::read_to_string(&interfaces).unwrap().replace("10.0.5.12", "10.0.5.16");
    fs::write(interfaces, text).unwrap();
    world.sim.define(&world.sim.derive(&original, &edit).unwrap()).await.unwrap();
    world.sim.start(RUN).await.unwrap();
    assert_eq!(world.facts(&world.copy).await.block.unwrap().open, Some(true));
    let guest = world.sim.guest(&link(&world.sim, "mercure", "10.0.5.16")).unwrap();
    assert_eq!(run(&guest, "hostname").await.status, 0);
    world.write(&world.root, "more", 2 << 20);
    assert!(guest.run(&Command::new(["hostname"])).await.is_err());
    assert_eq!(run(&inside(&world.sim), "hostname").await.status, 0, "production is not touched");
    fs::remove_file(world.root.path.join("more")).unwrap();
    let facts = world.facts(&world.copy).await;
    assert_eq!(facts.fill_percent, Some(100.0));
    assert!(facts.block.unwrap().lost.unwrap().contains("lost"));
    assert!(world.storage.open(&world.copy, Access::Read).await.is_err());
    assert_eq!(world.state(&world.copy).await, Snapshot::Partial);
    assert!(why(world.storage.secure(&world.copy, RUN).await).contains("lost"));
    // It is not made again under a running guest.
    assert!(why(world.storage.snapshot(&world.root, &world.copy, &world.ours()).await).contains("runs on it"));
    world.sim.destroy(RUN).await.unwrap();
    assert!(world.sim.start(RUN).await.is_err());
    world.sim.destroy("mercure").await.unwrap();
    assert!(why(world.merge().await).contains("lost"));
    assert_eq!(world.make(Some(CowSize::Bytes(4 * MIB))).await.unwrap(), Change::Created);
    assert_eq!(world.state(&world.copy).await, Snapshot::Present);
}

#[tokio::test]
async fn a_secured_snapshot_cannot_fill_and_takes_its_room() {
    let world = like(Copies::Dependents);
    let before = world.free().await;
    world.make(Some(CowSize::Bytes(4 * MIB))).await.unwrap();
    assert!(world.storage.secure(&world.copy, "venus--aaaa").await.is_err());
    world.sim.configure(|config| config.pool_free_bytes = 1024 * MIB).unwrap();
    assert!(why(world.storage.secure(&world.copy, RUN).await).contains("are free"));
    world.sim.configure(|config| config.pool_free_bytes = 20 << 30).unwrap();
    for how in [How::Fail, How::Partial] {
        world.cut("storage.secure", how);
        world.storage.secure(&world.copy, RUN).await.unwrap_err();
        assert!(world.facts(&world.copy).await.block.unwrap().unfit.is_some(), "{how:?}");
    }
    world.cut("storage.secure", How::UnknownAfter);
    assert!(world.storage.secure(&world.copy, RUN).await.unwrap_err().is_unknown());
    assert_eq!(world.storage.secure(&world.copy, RUN).await.unwrap(), Change::Unchanged);
    assert_eq!(world.free().await, before - 8 * 1024 * MIB - 36 * MIB);
    world.write(&world.root, "a", 6 << 20);
    world.write(&world.copy, "b", 6 << 20);
    let facts = world.facts(&world.copy).await;
    assert_eq!((facts.block.as_ref().unwrap().unfit.clone(), facts.block.unwrap().lost), (None, None));
    assert!((0.1..1.0).contains(&facts.fill_percent.unwrap()), "{:?}", facts.fill_percent);
    // A covering one has nothing to gain, and one without room is not made.
    let other = world.sim.volume_ref("other");
    world.storage.snapshot(&world.root, &other, &world.ours()).await.unwrap();
    assert_eq!(world.storage.secure(&other, RUN).await.unwrap(), Change::Unchanged);
    let third = world.sim.volume_ref("third");
    assert!(why(world.storage.snapshot(&world.root, &third, &world.ours()).await).contains("are free"));
    assert_eq!(world.state(&third).await, Snapshot::Absent);
    // Of a set for which there is room only in part, none is made.
    world.storage.remove(&other, RUN).await.unwrap();
    let mail = world.sim.volume_ref("mercure-mail");
    let set = [(&world.root, &other), (&mail, &third)];
    let set = set.map(|(source, target)| CopyRequest { source, target, size: None });
    assert!(why(world.storage.snapshot_set(&set, &world.ours()).await).contains("are free"));
    assert_eq!(world.state(&other).await, Snapshot::Absent);
}

#[tokio::test]
async fn an_area_is_grown_in_use_as_far_as_there_is_room_and_never_beyond_covering() {
    let world = like(Copies::Dependents);
    let before = world.free().await;
    world.make(Some(CowSize::Bytes(8 * MIB))).await.unwrap();
    world.write(&world.root, "grown", 6 << 20);
    let grow = async |by, run| world.storage.extend(&world.copy, by, run).await;
    let area = async || world.facts(&world.copy).await.block.unwrap().area_bytes;
    assert_eq!((world.facts(&world.copy).await.fill_percent, area().await), (Some(75.0), Some(8 * MIB)));
    assert!(grow(CowSize::Bytes(MIB), "venus--aaaa").await.is_err(), "it is of another run");
    assert_eq!(grow(CowSize::Bytes(MIB), RUN).await.unwrap(), Change::Changed);
    assert_eq!((world.facts(&world.copy).await.fill_percent, area().await), (Some(50.0), Some(12 * MIB)));
    assert_eq!(world.free().await, before - 12 * MIB);
    world.sim.configure(|config| config.pool_free_bytes = 16 * MIB).unwrap();
    assert!(why(grow(CowSize::Bytes(8 * MIB), RUN).await).contains("4.0 MiB are free"));
    world.cut("storage.extend", How::Partial);
    grow(CowSize::Bytes(MIB), RUN).await.unwrap_err();
    assert_eq!(area().await, Some(12 * MIB), "nothing was done");
    world.sim.configure(|config| config.pool_free_bytes = 20 << 30).unwrap();
    assert_eq!(grow(CowSize::Bytes(1 << 40), RUN).await.unwrap(), Change::Changed);
    let facts = world.facts(&world.copy).await;
    assert_eq!((facts.block.unwrap().unfit, area().await), (None, Some(8 * 1024 * MIB + 36 * MIB)));
    assert_eq!(grow(CowSize::Covering, RUN).await.unwrap(), Change::Unchanged, "it cannot fill any more");

    world.storage.remove(&world.copy, RUN).await.unwrap();
    world.make(Some(CowSize::Bytes(4 * MIB))).await.unwrap();
    world.write(&world.root, "more", 6 << 20);
    assert!(why(grow(CowSize::Bytes(MIB), RUN).await).contains("lost"));
    let peers = like(Copies::Peers);
    peers.make(None).await.unwrap();
    let error = peers.storage.extend(&peers.copy, CowSize::Covering, RUN).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Unsupported(_)), "{error}");
}
