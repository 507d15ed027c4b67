//! Worlds whose volumes are like LVM's: dependents (thick) and peers (thin), cut wherever they can be cut.

use super::*;
use crate::storage::{Copies, CopyRequest, CowSize, Merge, SizePolicy, VolumeFacts};
use crate::{Result, Storage, VolumeRef};

const RUN: &str = "mercure--k3f9";
const MIB: u64 = 1 << 20;

struct World {
    _dir: TempDir,
    sim: Sim,
    storage: Arc<dyn Storage>,
    root: VolumeRef,
    copy: VolumeRef,
}

fn like(copies: Copies) -> World {
    let dir = tempfile::tempdir().unwrap();
    let sim = seed_with(&dir.path().join("sim"), copies).unwrap();
    let storage = sim.storage(VolumeKind::Sim).unwrap();
    let (root, copy) = (sim.volume_ref("mercure"), sim.volume_ref(RUN));
    World { _dir: dir, sim, storage, root, copy }
}

impl World {
    fn ours(&self) -> Mark {
        mark(RUN)
    }
    async fn make(&self, size: Option<CowSize>) -> Result<Change> {
        let copy = CopyRequest { source: &self.root, target: &self.copy, size };
        self.storage.snapshot_set(&[copy], &self.ours()).await
    }
    async fn facts(&self, volume: &VolumeRef) -> VolumeFacts {
        self.storage.inspect(volume).await.unwrap().unwrap()
    }
    async fn gone(&self, volume: &VolumeRef) -> bool {
        self.storage.inspect(volume).await.unwrap().is_none()
    }
    async fn state(&self, volume: &VolumeRef) -> Snapshot {
        self.storage.probe(volume, &self.ours()).await.unwrap()
    }
    async fn merge(&self) -> Result<Change> {
        self.storage.merge(&[(&self.copy, &self.root)], RUN).await
    }
    async fn free(&self) -> u64 {
        self.facts(&self.root).await.free_bytes
    }
    fn write(&self, volume: &VolumeRef, name: &str, bytes: usize) {
        fs::write(volume.path.join(name), vec![b'x'; bytes]).unwrap();
    }
    fn has(&self, volume: &VolumeRef, name: &str) -> bool {
        volume.path.join(name).exists()
    }
    fn cut(&self, op: &str, how: How) {
        self.sim.inject(Fault { op: op.into(), object: None, nth: 1, how }).unwrap();
    }
    /// Points a guest's disk to a volume; it is started by hand.
    async fn stand_on(&self, disk: &str, volume: &VolumeRef) {
        let definition = self.sim.definition("mercure").await.unwrap().unwrap();
        let disks = [(disk.to_owned(), DiskEdit::Source(volume.clone()))].into();
        let edit = DefinitionEdit { disks, ..Default::default() };
        self.sim.define(&self.sim.derive(&definition, &edit).unwrap()).await.unwrap();
    }
}

fn why(result: Result<Change>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn a_seeded_world_has_swap_and_says_what_its_copies_are() {
    for copies in [Copies::Dependents, Copies::Peers] {
        let world = like(copies);
        assert_eq!(world.storage.copies(), copies);
        let facts = world.sim.facts("mercure").await.unwrap().unwrap();
        let names: Vec<_> = facts.disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!((names, facts.power), (vec!["/", "xvda2", "/srv/mail"], Power::On));
        assert!(fs::read_to_string(world.root.path.join("etc/fstab")).unwrap().contains("\n/dev/xvda2 none swap sw"));
        let block = world.facts(&world.sim.volume_ref("mercure-swap")).await.block.unwrap();
        assert_eq!((block.size_bytes, block.open, block.origin, block.merge), (512 * MIB, Some(true), None, None));
        assert_eq!(world.facts(&world.root).await.used_bytes, Some(1200 * MIB), "nothing has grown yet");
    }
    let trees = like(Copies::Trees);
    assert_eq!(trees.facts(&trees.root).await.block, None);
    assert_eq!(trees.make(Some(CowSize::Bytes(MIB))).await.unwrap(), Change::Created);
    assert!(matches!(trees.merge().await.unwrap_err().cause, Cause::Unsupported(_)));
    let swap = trees.sim.volume_ref("s");
    let error = trees.storage.fresh_swap(&trees.root, &swap, &trees.ours()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Unsupported(_)), "{error}");
    assert_eq!(trees.storage.secure(&trees.copy, RUN).await.unwrap(), Change::Unchanged);
    assert_eq!(trees.storage.size_snapshot(&trees.root, None).await.unwrap(), None);
}

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
    assert!(world.storage.open(&world.copy).await.is_err());
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
}

#[tokio::test]
async fn a_set_cut_in_half_is_made_again_whole() {
    for copies in [Copies::Dependents, Copies::Peers] {
        let world = like(copies);
        let mail = world.sim.volume_ref("mercure-mail");
        let mail_copy = world.sim.volume_ref("mercure--k3f9-mail");
        let size = Some(CowSize::Bytes(64 * MIB));
        let set = [
            CopyRequest { source: &world.root, target: &world.copy, size },
            CopyRequest { source: &mail, target: &mail_copy, size },
        ];
        let make = async || world.storage.snapshot_set(&set, &world.ours()).await;
        world.cut("storage.snapshot_set", How::Fail);
        make().await.unwrap_err();
        assert_eq!(world.state(&world.copy).await, Snapshot::Absent);
        world.cut("storage.snapshot_set", How::Partial);
        make().await.unwrap_err();
        assert_eq!(world.state(&world.copy).await, Snapshot::Present);
        assert_eq!(world.state(&mail_copy).await, Snapshot::Partial);
        world.write(&world.root, "later", 10);
        assert_eq!(make().await.unwrap(), Change::Created);
        assert!(world.has(&world.copy, "later"), "both are of one instant");
        assert_eq!(world.state(&mail_copy).await, Snapshot::Present);
        assert_eq!(make().await.unwrap(), Change::Unchanged);
        // Or what was made is removed one by one, a half one too.
        world.storage.remove_all(&[&world.copy, &mail_copy], RUN).await.unwrap();
        world.cut("storage.snapshot_set", How::Partial);
        make().await.unwrap_err();
        for volume in [&world.copy, &mail_copy] {
            world.cut("storage.remove", How::Partial);
            world.storage.remove(volume, RUN).await.unwrap_err();
            assert_eq!(world.state(volume).await, Snapshot::Partial);
            assert_eq!(world.storage.remove(volume, RUN).await.unwrap(), Change::Removed);
            assert!(world.gone(volume).await);
        }
        assert_eq!(world.storage.marked(&world.sim.volumes()).await.unwrap(), []);
    }
}

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
    assert!(world.storage.open(&world.copy).await.is_err());
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
        assert!(world.storage.open(&swap_copy).await.is_err());
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
async fn peers_outlive_each_other_in_a_pool_that_fills() {
    let world = like(Copies::Peers);
    world.sim.destroy("mercure").await.unwrap();
    world.make(None).await.unwrap();
    let second = world.sim.volume_ref("second");
    assert_eq!(world.storage.snapshot(&world.copy, &second, &world.ours()).await.unwrap(), Change::Created);
    let facts = world.facts(&world.copy).await;
    assert_eq!(facts.block.as_ref().unwrap().origin.as_deref(), Some("mercure"));
    assert_eq!(facts.snapshot_bytes, 1200 * MIB);
    let fill = facts.fill_percent.unwrap();
    assert_eq!(world.facts(&world.root).await.fill_percent, Some(fill), "one pool");
    world.sim.configure(|config| config.pool_free_bytes = 100 * MIB).unwrap();
    world.write(&world.copy, "grown", 50 << 20);
    let facts = world.facts(&world.root).await;
    assert_eq!(facts.free_bytes, 50 * MIB);
    assert!(facts.fill_percent.unwrap() > fill);
    // The origin goes, the copy stays and is nobody's snapshot.
    world.write(&world.root, "more", 10 << 20);
    world.storage.mark(&world.root, Some(&world.ours())).await.unwrap();
    world.cut("storage.remove", How::Partial);
    world.storage.remove(&world.root, RUN).await.unwrap_err();
    assert_eq!(world.storage.remove(&world.root, RUN).await.unwrap(), Change::Removed);
    let facts = world.facts(&world.copy).await;
    assert_eq!((facts.block.unwrap().origin, facts.used_bytes), (None, Some(1250 * MIB)));
    assert_eq!(facts.free_bytes, 50 * MIB);
    assert!(world.has(&world.copy, "etc/hostname"));
    world.write(&world.copy, "full", 50 << 20);
    let third = world.sim.volume_ref("third");
    assert!(why(world.storage.snapshot(&world.copy, &third, &world.ours()).await).contains("pool is full"));
}

#[tokio::test]
async fn a_peer_is_renamed_under_its_guest_whose_definition_does_not_follow() {
    for from_memory in [true, false] {
        let world = like(Copies::Peers);
        let capabilities = Capabilities { reboots_from_memory: from_memory, ..world.sim.capabilities() };
        world.sim.configure(|config| config.capabilities = capabilities).unwrap();
        let id = world.facts(&world.root).await.block.unwrap().id;
        let (old, between) = (world.root.clone(), world.sim.volume_ref("between"));
        world.cut("storage.rename", How::Partial);
        world.storage.rename(&old, &between).await.unwrap_err();
        assert_eq!(world.storage.rename(&old, &between).await.unwrap(), Change::Changed);
        assert_eq!(world.storage.rename(&old, &between).await.unwrap(), Change::Unchanged);
        let new = world.sim.volume_ref("renamed");
        world.storage.rename(&between, &new).await.unwrap();
        let block = world.facts(&new).await.block.unwrap();
        assert_eq!((block.id, block.open), (id, Some(true)), "{from_memory}");
        let guest = world.sim.guest(&link(&world.sim, "renamed", "10.0.5.12")).unwrap();
        assert_eq!(guest.write_file(Path::new("/root/new"), b"x", 0o600).await.unwrap(), Change::Created);
        assert!(world.has(&new, "root/new"));
        let disks = world.sim.facts("mercure").await.unwrap().unwrap().disks;
        assert_eq!(world.sim.volume(&disks[0]).await.unwrap_err().cause.to_string(), "volume mercure does not exist");
        // With a definition that names it, a reboot by the definition comes up; one from memory does not.
        world.stand_on("/", &new).await;
        run(&guest, "systemctl reboot").await;
        let power = world.sim.power("mercure").await.unwrap();
        assert_eq!(power, if from_memory { Power::Off } else { Power::On });
        world.sim.start("mercure").await.unwrap();
        run(&guest, "systemctl reboot").await;
        assert_eq!(world.sim.power("mercure").await.unwrap(), Power::On, "started by it, it remembers it");
    }
    let world = like(Copies::Peers);
    world.storage.rename(&world.root, &world.sim.volume_ref("renamed")).await.unwrap();
    world.sim.reboot_host().await.unwrap();
    assert_eq!(world.sim.power("mercure").await.unwrap(), Power::Off, "its definition names what is not there");
    assert!(world.sim.trace().unwrap().last().unwrap().conflicts[0].contains("volume mercure does not exist"));
    let thick = like(Copies::Dependents);
    assert!(why(thick.storage.rename(&thick.root, &thick.copy).await).contains("runs on it"));
}

#[tokio::test]
async fn a_rename_cut_in_half_keeps_snapshots_and_accounts() {
    let world = like(Copies::Peers);
    world.make(None).await.unwrap();
    let free = world.free().await;
    let new = world.sim.volume_ref("renamed");
    world.cut("storage.rename", How::Partial);
    world.storage.rename(&world.root, &new).await.unwrap_err();
    assert_eq!(world.facts(&world.copy).await.block.unwrap().origin.as_deref(), Some("mercure"));
    world.storage.rename(&world.root, &new).await.unwrap();
    assert_eq!(world.facts(&world.copy).await.block.unwrap().origin.as_deref(), Some("renamed"));
    assert_eq!(world.facts(&new).await.block.unwrap().snapshots, [RUN]);
    // Killed after the files were moved: metadata of both, files under the new name, the guest not told.
    let world = like(Copies::Peers);
    let new = world.sim.volume_ref("renamed");
    world.cut("storage.rename", How::Partial);
    world.storage.rename(&world.root, &new).await.unwrap_err();
    fs::rename(&world.root.path, &new.path).unwrap();
    assert_eq!(world.storage.rename(&world.root, &new).await.unwrap(), Change::Changed);
    assert_eq!(world.facts(&new).await.block.unwrap().open, Some(true));
    assert_eq!(world.facts(&new).await.free_bytes, free);
}

#[tokio::test]
async fn a_peer_not_secured_does_not_come_up_with_its_host() {
    let world = like(Copies::Peers);
    world.sim.destroy("mercure").await.unwrap();
    world.make(None).await.unwrap();
    assert!(world.facts(&world.copy).await.block.unwrap().unfit.unwrap().contains("activation skip"));
    world.stand_on("/", &world.copy).await;
    assert_eq!(world.sim.start("mercure").await.unwrap(), Change::Changed, "it was activated when it was made");
    world.sim.reboot_host().await.unwrap();
    assert_eq!(world.sim.power("mercure").await.unwrap(), Power::Off);
    assert!(world.sim.trace().unwrap().last().unwrap().conflicts[0].contains("activation skip"));
    assert!(world.sim.start("mercure").await.is_err());
    // Opening activates it once.
    world.storage.open(&world.copy).await.unwrap();
    assert_eq!(world.sim.start("mercure").await.unwrap(), Change::Changed);
    world.sim.reboot_host().await.unwrap();
    assert_eq!(world.sim.power("mercure").await.unwrap(), Power::Off);
    world.cut("storage.secure", How::Partial);
    world.storage.secure(&world.copy, RUN).await.unwrap_err();
    assert_eq!(world.storage.secure(&world.copy, RUN).await.unwrap(), Change::Changed);
    assert_eq!(world.storage.secure(&world.copy, RUN).await.unwrap(), Change::Unchanged);
    assert_eq!(world.facts(&world.copy).await.block.unwrap().unfit, None);
    for _ in 0..2 {
        world.sim.reboot_host().await.unwrap();
        assert_eq!(world.sim.power("mercure").await.unwrap(), Power::On);
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

#[tokio::test]
async fn fresh_swap_is_like_the_original_and_made_again_when_cut() {
    for copies in [Copies::Dependents, Copies::Peers] {
        let world = like(copies);
        let (swap, fresh) = (world.sim.volume_ref("mercure-swap"), world.sim.volume_ref("mercure--k3f9-xvda2"));
        let make = async || world.storage.fresh_swap(&swap, &fresh, &world.ours()).await;
        let probe = async || world.storage.probe_swap(&fresh, &world.ours()).await.unwrap();
        let before = world.free().await;
        assert_eq!(probe().await, Snapshot::Absent);
        assert!(why(world.storage.fresh_swap(&world.root, &fresh, &world.ours()).await).contains("no swap space"));
        world.cut("storage.fresh_swap", How::Partial);
        make().await.unwrap_err();
        assert_eq!(probe().await, Snapshot::Partial);
        assert!(matches!(world.storage.probe_swap(&fresh, &mark("venus--aaaa")).await.unwrap(), Snapshot::Foreign(_)));
        world.cut("storage.fresh_swap", How::UnknownAfter);
        assert!(make().await.unwrap_err().is_unknown());
        assert_eq!(probe().await, Snapshot::Present);
        assert_eq!(make().await.unwrap(), Change::Unchanged);
        let facts = world.facts(&fresh).await;
        let block = facts.block.unwrap();
        assert_eq!((block.size_bytes, block.origin, block.unfit), (512 * MIB, None, None));
        assert_eq!(facts.mark, Some(world.ours()));
        let taken = if copies == Copies::Dependents { 512 * MIB } else { 0 };
        assert_eq!(world.free().await, before - taken);
        let text = fs::read_to_string(world.sim.volumes().join("mercure--k3f9-xvda2.json")).unwrap();
        let of = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["swap"].clone();
        let original = of(&fs::read_to_string(world.sim.volumes().join("mercure-swap.json")).unwrap());
        assert_eq!((of(&text)["label"].clone(), of(&text)), (serde_json::json!("swap"), original));
        assert!(matches!(world.storage.probe_swap(&world.root, &world.ours()).await.unwrap(), Snapshot::Foreign(_)));
        // Production comes up with it.
        world.sim.destroy("mercure").await.unwrap();
        world.stand_on("xvda2", &fresh).await;
        world.sim.reboot_host().await.unwrap();
        assert_eq!(world.sim.power("mercure").await.unwrap(), Power::On);
        assert!(why(world.storage.remove(&fresh, RUN).await).contains("runs on it"));
        world.sim.destroy("mercure").await.unwrap();
        assert_eq!(world.storage.remove(&fresh, RUN).await.unwrap(), Change::Removed);
        assert_eq!(world.free().await, before);
    }
}

/// Does nothing by itself: what `killed_controllers_leave_whole_volumes` kills.
#[tokio::test]
async fn victim() {
    let (Ok(dir), Ok(op)) = (std::env::var("SIM_VICTIM"), std::env::var("SIM_VICTIM_OP")) else { return };
    let sim = Sim::open(Path::new(&dir)).unwrap();
    perform(&sim, &op).await.unwrap();
}

async fn perform(sim: &Sim, op: &str) -> Result<Change> {
    let storage = sim.storage(VolumeKind::Sim).unwrap();
    let (root, copy, swap) = (sim.volume_ref("mercure"), sim.volume_ref(RUN), sim.volume_ref("mercure-swap"));
    let size = Some(CowSize::Bytes(64 * MIB));
    match op {
        "snapshot_set" => storage.snapshot_set(&[CopyRequest { source: &root, target: &copy, size }], &mark(RUN)).await,
        "secure" => storage.secure(&copy, RUN).await,
        "fresh_swap" => storage.fresh_swap(&swap, &sim.volume_ref("fresh"), &mark(RUN)).await,
        "remove" => storage.remove(&copy, RUN).await,
        _ => storage.merge(&[(&copy, &root)], RUN).await,
    }
}

#[tokio::test]
async fn killed_controllers_leave_whole_volumes() {
    use std::os::unix::process::ExitStatusExt;
    for copies in [Copies::Dependents, Copies::Peers] {
        for op in ["snapshot_set", "secure", "fresh_swap", "remove", "merge"] {
            for how in [How::KillBefore, How::KillMid, How::KillAfter] {
                let world = like(copies);
                world.sim.destroy("mercure").await.unwrap();
                if op != "snapshot_set" {
                    perform(&world.sim, "snapshot_set").await.unwrap();
                    world.write(&world.copy, "merged", 10);
                }
                world.cut(&format!("storage.{op}"), how);
                let victim = std::process::Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "sim::tests::volumes::victim"])
                    .env("SIM_VICTIM", world.sim.dir())
                    .env("SIM_VICTIM_OP", op)
                    .output()
                    .unwrap();
                assert_eq!(victim.status.signal(), Some(9), "{copies:?} {op} {how:?}");
                let again = perform(&world.sim, op).await.unwrap();
                assert_eq!(again == Change::Unchanged, how == How::KillAfter, "{copies:?} {op} {how:?}: {again:?}");
                assert_eq!(perform(&world.sim, op).await.unwrap(), Change::Unchanged, "{copies:?} {op} {how:?}");
                match op {
                    "snapshot_set" => assert_eq!(world.state(&world.copy).await, Snapshot::Present),
                    "secure" => assert_eq!(world.facts(&world.copy).await.block.unwrap().unfit, None),
                    "fresh_swap" => assert!(!world.gone(&world.sim.volume_ref("fresh")).await),
                    "remove" => assert!(world.gone(&world.copy).await),
                    _ => assert!(world.has(&world.root, "merged") && world.gone(&world.copy).await),
                }
                assert_eq!(world.sim.start("mercure").await.unwrap(), Change::Changed);
            }
        }
    }
}
