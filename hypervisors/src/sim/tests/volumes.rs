//! Worlds whose volumes are like LVM's: dependents (thick) and peers (thin), cut wherever they can be cut.

mod merge;
mod thick;
mod thin;

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

/// Does nothing by itself: what `killed` kills.
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
async fn killed_controllers_leave_whole_thick_volumes() {
    killed(Copies::Dependents).await;
}
#[tokio::test]
async fn killed_controllers_leave_whole_thin_volumes() {
    killed(Copies::Peers).await;
}

async fn killed(copies: Copies) {
    use std::os::unix::process::ExitStatusExt;
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
