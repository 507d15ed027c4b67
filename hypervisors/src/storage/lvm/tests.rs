//! The fake LVM held to the recordings, and the driver on the fake: every partial state, and a crash at every command.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use super::fake::{self, Crash, EXTENT, FakeLvm, Merging, Volume};
use super::*;
use crate::storage::{CopyRequest, CowSize, Merge, SizePolicy, Storage};
use crate::{Change, Mark, Role};

const RECORDED: &str = include_str!("../../../tests/fixtures/lvm2-2.03.16/snapshots.txt");
const RUN: &str = "mercure--k3f9";

/// A command of the recordings with what it printed and its status.
struct Step<'a> {
    command: &'a str,
    printed: Vec<&'a str>,
    status: i32,
}

fn recorded() -> Vec<Step<'static>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    for line in RECORDED.lines().filter(|line| !line.starts_with("# ")) {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command, printed: Vec::new(), status: 0 });
        } else if let (Some(status), Some(step)) = (line.strip_prefix("[exit "), steps.last_mut()) {
            step.status = status.trim_end_matches(']').parse().unwrap();
        } else if let Some(step) = steps.last_mut() {
            step.printed.push(line);
        }
    }
    steps
}

/// Does to the fake what a recorded command did.
fn replay(fake: &FakeLvm, command: &str) -> Option<i32> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let device = |prefix: &str| {
        let path = words.iter().find_map(|word| word.strip_prefix(prefix)).unwrap();
        path.rsplit('/').next().unwrap().to_owned()
    };
    match words[0] {
        // Read from the fake's state below.
        "lvs" | "ls" | "cat" | "sleep" | "mkfs.ext4" | "md5sum" | "echo" | "sync" => None,
        "dd" if command.contains("of=/dev/vg1/") => {
            fake.with(|state| state.overwrite(&device("of=")));
            None
        }
        // Through a file system on s, of which it takes nearly all.
        "dd" => {
            fake.with(|state| state.volumes.get_mut("s").unwrap().used = 226 << 8);
            None
        }
        "mount" if words.contains(&"nouuid") => None,
        "mount" => {
            fake.with(|state| state.volumes.get_mut(&device("/dev/vg1/")).unwrap().open = true);
            None
        }
        "umount" => {
            // /m holds production or the snapshot, /n the thin clone; one of them is open.
            fake.with(|state| {
                let names: Vec<String> =
                    state.volumes.iter().filter(|(_, volume)| volume.open).map(|(name, _)| name.clone()).collect();
                let name = if words[1] == "/n" { names.last() } else { names.first() };
                state.volumes.get_mut(name.unwrap()).unwrap().open = false;
            });
            None
        }
        _ => Some(fake.shell(command).status),
    }
}

/// Every recorded `lvs` of a command against the fake: attributes and, where a volume was overwritten, sizes and fill.
fn compare(fake: &FakeLvm, step: &Step<'_>) -> usize {
    let Some(header) = step.printed.iter().position(|line| line.trim_start().starts_with("LV ")) else { return 0 };
    let mut compared = 0;
    for line in &step.printed[header + 1..] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words[0].trim_matches(['[', ']']);
        if ["lvol0_pmspare", "pool_tdata", "pool_tmeta"].contains(&name) {
            continue;
        }
        assert!(fake.with(|state| state.volumes.contains_key(name)), "there is no {name} after {}", step.command);
        let attr = fake.with(|state| state.attr(name));
        assert_eq!(attr, words[1], "{name} after {}", step.command);
        assert_eq!(words[0].starts_with('['), attr.starts_with('S'), "{name}");
        if let Some(size) = words.iter().find(|word| word.ends_with("00m")) {
            let extents = fake.with(|state| state.volumes[name].extents);
            assert_eq!(*size, format!("{}.00m", (extents * EXTENT) >> 20), "{name} after {}", step.command);
        }
        if let Some(percent) = words.iter().find(|word| word.parse::<f64>().is_ok_and(|percent| percent > 50.0)) {
            assert_eq!(*percent, fake.with(|state| state.percent(name)), "{name} after {}", step.command);
        }
        compared += 1;
    }
    compared
}

#[test]
fn the_fake_behaves_as_recorded() {
    let fake = FakeLvm::new(2000);
    let (mut statuses, mut rows) = (0, 0);
    let mut looks = 0;
    for step in recorded() {
        if step.command.contains("--reportformat json") {
            continue;
        }
        for part in step.command.split(';') {
            let part = part.trim();
            if part.starts_with("lvs") {
                // Merging next to nothing was over before the look, much of it by the next one.
                looks += 1;
                fake.with(fake::State::drain);
                rows += compare(&fake, &step);
                (0..70).for_each(|_| fake.with(fake::State::drain));
            } else if let Some(status) = replay(&fake, part.trim_end_matches("2>&1 | tail -1")) {
                if part == step.command {
                    assert_eq!(status, step.status, "{part}");
                }
                statuses += 1;
            }
        }
    }
    assert!(statuses > 35 && rows > 40 && looks > 20, "only {statuses} commands and {rows} rows were compared");
}

/// A volume group with a thick and a thin volume of 1 GiB and a swap volume of each kind.
struct Bench {
    fake: Arc<FakeLvm>,
    thick: LvmStorage,
    thin: LvmStorage,
}

fn bench() -> Bench {
    let fake = Arc::new(FakeLvm::new(2000));
    for line in [
        "lvcreate -q -L 1024m -n o vg1",
        "lvcreate -q -L 512m -n p vg1",
        "lvcreate -q -L 128m -n swap vg1",
        "lvcreate -q -L 2048m -T vg1/pool",
        "lvcreate -q -V 1024m -T vg1/pool -n t",
        "lvcreate -q -V 128m -T vg1/pool -n tswap",
    ] {
        assert_eq!(fake.shell(line).status, 0, "{line}");
    }
    fake.with(|state| {
        for swap in ["swap", "tswap"] {
            state.volumes.get_mut(swap).unwrap().signature = "LABEL=old\\ swap\nUUID=01-ab\nTYPE=swap\n".into();
        }
        state.volumes.get_mut("t").unwrap().used = 600 << 20;
        state.log.clear();
    });
    Bench { thick: LvmStorage::thick(fake.clone()), thin: LvmStorage::thin(fake.clone()), fake }
}

impl Bench {
    fn names(&self) -> Vec<String> {
        self.fake.with(|state| state.volumes.keys().cloned().collect())
    }
    fn change<T>(&self, name: &str, change: impl FnOnce(&mut Volume) -> T) -> T {
        self.fake.with(|state| change(state.volumes.get_mut(name).unwrap()))
    }
    /// Programs run since the last time.
    fn ran(&self) -> Vec<String> {
        self.fake.with(|state| std::mem::take(&mut state.log)).into_iter().map(|argv| argv[0].clone()).collect()
    }
}

fn thick(name: &str) -> VolumeRef {
    VolumeRef { kind: VolumeKind::LvmThick, path: Path::new("/dev/vg1").join(name) }
}
fn thin(name: &str) -> VolumeRef {
    VolumeRef { kind: VolumeKind::LvmThin, path: Path::new("/dev/vg1").join(name) }
}
fn mark(run: &str, role: Role) -> Mark {
    Mark { run: run.into(), role }
}
fn clone() -> Mark {
    mark(RUN, Role::Clone)
}
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, word: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)) && error.to_string().contains(word), "{error:?}");
}
async fn block(storage: &LvmStorage, volume: &VolumeRef) -> BlockFacts {
    storage.inspect(volume).await.unwrap().unwrap().block.unwrap()
}

#[tokio::test]
async fn a_set_is_snapshotted_by_one_command_each() {
    let bench = bench();
    let (o, p, a, b) = (thick("o"), thick("p"), thick("run-o"), thick("run-p"));
    let set = [
        CopyRequest { source: &o, target: &a, size: Some(CowSize::Covering) },
        CopyRequest { source: &p, target: &b, size: Some(CowSize::Bytes(100 << 20)) },
    ];
    assert_eq!(bench.thick.snapshot_set(&set, &clone()).await.unwrap(), Change::Created);
    assert_eq!(bench.ran(), ["lvcreate", "lvcreate"]);
    for target in [&a, &b] {
        assert_eq!(bench.thick.probe(target, &clone()).await.unwrap(), Snapshot::Present);
    }
    let facts = bench.thick.inspect(&a).await.unwrap().unwrap();
    assert_eq!((facts.mark, facts.fill_percent), (Some(clone()), Some(0.0)));
    let facts = facts.block.unwrap();
    assert_eq!((facts.size_bytes, facts.origin.as_deref(), facts.unfit), (1 << 30, Some("o"), None));
    let fills = block(&bench.thick, &b).await;
    assert_eq!(fills.unfit.unwrap(), "it can fill: it has 100 MiB, covering is 516 MiB");
    assert_eq!(block(&bench.thick, &o).await.snapshots, ["run-o"]);
    let marked = bench.thick.marked(Path::new("/dev/vg1")).await.unwrap();
    assert_eq!(marked, [(a.clone(), clone()), (b, clone())]);
    assert!(bench.thin.marked(Path::new("/dev/vg1")).await.unwrap().is_empty());
    assert!(bench.thick.marked(Path::new("/srv")).await.unwrap().is_empty());
    // Of another kind, or of another volume group, nothing is made.
    bench.ran();
    let elsewhere = VolumeRef { path: "/dev/vg2/x".into(), ..a };
    for target in [&elsewhere, &thin("x")] {
        let set = [
            CopyRequest { source: &o, target: &thick("y"), size: None },
            CopyRequest { source: &o, target, size: None },
        ];
        assert!(bench.thick.snapshot_set(&set, &clone()).await.is_err());
    }
    assert!(bench.ran().is_empty());
}

#[tokio::test]
async fn kinds_are_told_apart() {
    let bench = bench();
    for (path, kind) in [("o", VolumeKind::LvmThick), ("t", VolumeKind::LvmThin)] {
        let path = Path::new("/dev/mapper").join(format!("vg1-{path}"));
        assert_eq!(recognise(&*bench.fake, &path).await.unwrap().kind, kind);
    }
    for nothing in ["/dev/vg1/none", "/dev/vg1/pool", "/dev/vg7/o", "/dev/sda"] {
        assert!(recognise(&*bench.fake, Path::new(nothing)).await.is_err(), "{nothing}");
    }
    refused(bench.thick.inspect(&thick("t")).await, "thick");
    refused(bench.thin.inspect(&thin("o")).await, "thin");
    refused(bench.thin.inspect(&thick("o")).await, "LvmThick");
    assert!(bench.thick.inspect(&thick("none")).await.unwrap().is_none());
    assert!(bench.thick.inspect(&VolumeRef { path: "/dev/vg7/o".into(), ..thick("o") }).await.unwrap().is_none());
}

#[tokio::test]
async fn what_fills_is_lost_and_made_again() {
    let bench = bench();
    let (o, s) = (thick("o"), thick("s"));
    let small = [CopyRequest { source: &o, target: &s, size: Some(CowSize::Bytes(64 << 20)) }];
    bench.thick.snapshot_set(&small, &clone()).await.unwrap();
    bench.fake.with(|state| state.overwrite("o"));
    let facts = bench.thick.inspect(&s).await.unwrap().unwrap();
    assert_eq!((facts.fill_percent, facts.block.unwrap().lost.is_some()), (Some(100.0), true));
    assert_eq!(bench.thick.probe(&s, &clone()).await.unwrap(), Snapshot::Partial);
    refused(bench.thick.secure(&s, RUN).await, "filled up");
    refused(bench.thick.merge(&[(&s, &o)], RUN).await, "filled up");
    assert_eq!(bench.thick.snapshot(&o, &s, &clone()).await.unwrap(), Change::Created);
    // This one covers: nothing fills it.
    bench.fake.with(|state| (state.overwrite("o"), state.overwrite("s")));
    assert_eq!(bench.thick.probe(&s, &clone()).await.unwrap(), Snapshot::Present);
    assert_eq!(bench.thick.snapshot(&o, &s, &clone()).await.unwrap(), Change::Unchanged);
}

#[tokio::test]
async fn growing_to_covering_cannot_be_half_of_it() {
    let bench = bench();
    let (o, s) = (thick("o"), thick("s"));
    let small = [CopyRequest { source: &o, target: &s, size: Some(CowSize::Bytes(64 << 20)) }];
    bench.thick.snapshot_set(&small, &clone()).await.unwrap();
    refused(bench.thick.secure(&s, "other--0000").await, "not of run");
    refused(bench.thick.extend(&s, CowSize::Bytes(1), "other--0000").await, "not of run");
    assert_eq!(bench.thick.extend(&s, CowSize::Bytes(1), RUN).await.unwrap(), Change::Changed);
    assert_eq!(bench.change("s", |volume| volume.extents), 17);
    assert!(bench.thick.extend(&o, CowSize::Bytes(1), RUN).await.is_err());
    assert_eq!(bench.thick.secure(&s, RUN).await.unwrap(), Change::Changed);
    assert_eq!(bench.thick.secure(&s, RUN).await.unwrap(), Change::Unchanged);
    assert_eq!(bench.change("s", |volume| volume.extents), 258);
    assert_eq!(bench.thick.extend(&s, CowSize::Bytes(1 << 30), RUN).await.unwrap(), Change::Unchanged);
    bench.fake.with(|state| (state.overwrite("o"), state.overwrite("s")));
    assert_eq!(block(&bench.thick, &s).await.lost, None);
    // Without room it is refused before anything is asked of LVM.
    let full = bench.fake.with(|state| std::mem::replace(&mut state.extents, 0));
    bench.change("s", |volume| (volume.extents, volume.used) = (16, 0));
    bench.ran();
    refused(bench.thick.secure(&s, RUN).await, "are free");
    refused(bench.thick.extend(&s, CowSize::Bytes(1), RUN).await, "are free");
    assert_eq!(bench.ran(), ["lvs", "lvs"]);
    bench.fake.with(|state| state.extents = full);
    assert_eq!(bench.thick.secure(&s, RUN).await.unwrap(), Change::Changed);
}

#[tokio::test]
async fn thin_snapshots_come_up_by_themselves_and_their_pool_is_watched() {
    let bench = bench();
    let (t, s) = (thin("t"), thin("s"));
    assert_eq!(bench.thin.size_snapshot(&t, Some(SizePolicy::PercentUsed(10))).await.unwrap(), None);
    assert_eq!(bench.thin.snapshot(&t, &s, &clone()).await.unwrap(), Change::Created);
    assert!(bench.change("s", |volume| volume.active && !volume.skip));
    assert_eq!(bench.thin.secure(&s, RUN).await.unwrap(), Change::Unchanged);
    bench.change("s", |volume| volume.skip = true);
    assert!(block(&bench.thin, &s).await.unfit.unwrap().contains("skip"));
    assert_eq!(bench.thin.secure(&s, RUN).await.unwrap(), Change::Changed);
    let facts = bench.thin.inspect(&t).await.unwrap().unwrap();
    assert_eq!(facts.used_bytes.map(|bytes| bytes >> 20), Some(599));
    // Two times 600 MiB of 2 GiB are mapped; a further snapshot could need 600 MiB and the reserve.
    assert!(facts.free_bytes < 849 << 20 && facts.snapshot_bytes > 804 << 20, "{facts:?}");
    assert_eq!(facts.fill_percent.map(f64::round), Some(59.0));
    bench.change("t", |volume| volume.used = 1300 << 20);
    assert!(block(&bench.thin, &s).await.unfit.unwrap().contains("nearly full"));
    refused(bench.thin.secure(&s, RUN).await, "nearly full");
    // Origin and snapshot are peers: the origin may go.
    bench.thin.mark(&t, Some(&mark(RUN, Role::Original))).await.unwrap();
    assert_eq!(bench.thin.remove(&t, RUN).await.unwrap(), Change::Removed);
    assert_eq!(bench.thin.rename(&s, &t).await.unwrap(), Change::Changed);
    assert_eq!(bench.names(), ["o", "p", "pool", "swap", "t", "tswap"]);
}

#[tokio::test]
async fn nothing_is_removed_that_is_not_of_the_run_or_has_something_upon_it() {
    let bench = bench();
    let (o, s) = (thick("o"), thick("s"));
    bench.thick.snapshot(&o, &s, &clone()).await.unwrap();
    refused(bench.thick.remove(&o, RUN).await, "bears no mark");
    refused(bench.thick.remove(&s, "mercure--0000").await, "mercure--k3f9.clone");
    refused(bench.thick.snapshot(&o, &s, &mark("mercure--0000", Role::Clone)).await, "marked");
    bench.thick.mark(&o, Some(&mark(RUN, Role::Original))).await.unwrap();
    refused(bench.thick.remove(&o, RUN).await, "snapshots would go with it: s");
    bench.change("s", |volume| volume.open = true);
    refused(bench.thick.remove(&s, RUN).await, "open");
    // Whoever has it open lets go of it in a moment.
    bench.change("s", |volume| volume.lets_go = Some(2));
    // Between the look and the command someone else takes it: LVM is told what it has to be.
    bench.fake.with(|state| {
        state.meanwhile =
            Some(|volumes| volumes.get_mut("s").unwrap().tags = vec!["upgradectl.x--0000.production".into()]);
    });
    refused(bench.thick.remove(&s, RUN).await, "someone else");
    bench.change("s", |volume| volume.tags = vec![format!("upgradectl.{RUN}.clone")]);
    assert_eq!(bench.thick.remove_all(&[&s, &thick("none")], RUN).await.unwrap(), Change::Removed);
    assert_eq!(bench.thick.remove_all(&[&s, &thick("none")], RUN).await.unwrap(), Change::Unchanged);
    // One that gets a snapshot between the look and the command stays, and so does the snapshot.
    bench.fake.with(|state| {
        state.meanwhile = Some(|volumes| {
            let foreign = Volume { origin: Some("o".into()), extents: 4, chunk: 4096, ..Volume::default() };
            volumes.insert("foreign".into(), foreign);
        });
    });
    refused(bench.thick.remove(&o, RUN).await, "someone else");
    assert!(bench.names().contains(&"foreign".to_owned()));
}

#[tokio::test]
async fn marks_change_in_one_command_and_renames_are_followed_by_uuid() {
    let bench = bench();
    let (o, s, n) = (thick("o"), thick("s"), thick("n"));
    bench.thick.snapshot(&o, &s, &clone()).await.unwrap();
    bench.change("s", |volume| volume.tags.push("backup".into()));
    bench.ran();
    let production = mark(RUN, Role::Production);
    assert_eq!(bench.thick.mark(&s, Some(&production)).await.unwrap(), Change::Changed);
    assert_eq!(bench.ran(), ["lvs", "lvchange"]);
    assert_eq!(bench.thick.mark(&s, Some(&production)).await.unwrap(), Change::Unchanged);
    assert_eq!(bench.change("s", |volume| volume.tags.clone()), ["backup", "upgradectl.mercure--k3f9.production"]);
    assert_eq!(bench.thick.mark(&s, None).await.unwrap(), Change::Changed);
    assert_eq!(bench.change("s", |volume| volume.tags.clone()), ["backup"]);
    let hostile = mark("a,b", Role::Clone);
    refused(bench.thick.mark(&s, Some(&hostile)).await, "tag");

    let uuid = block(&bench.thick, &s).await.id;
    bench.change("s", |volume| volume.open = true);
    assert_eq!(bench.thick.rename(&s, &n).await.unwrap(), Change::Changed);
    assert_eq!(bench.thick.rename(&s, &n).await.unwrap(), Change::Unchanged);
    assert_eq!(block(&bench.thick, &n).await.id, uuid);
    refused(bench.thick.rename(&n, &o).await, "exists");
    refused(bench.thick.rename(&n, &thick("pool")).await, "exists");
    assert!(bench.thick.rename(&thick("none"), &thick("none2")).await.is_err());
}

#[tokio::test]
async fn a_plan_looks_once_until_something_changes() {
    let bench = bench();
    let (o, s) = (thick("o"), thick("s"));
    let plan = async || {
        bench.ran();
        bench.thick.size_snapshot(&o, None).await.unwrap();
        assert_eq!(bench.thick.inspect(&s).await.unwrap(), None);
    };
    plan().await;
    assert_eq!(bench.ran(), ["lvs", "lvs"], "every look is a new one");
    one_look(async {
        plan().await;
        assert_eq!(bench.ran(), ["lvs"]);
        // Its own change is seen.
        bench.thick.snapshot(&o, &s, &clone()).await.unwrap();
        assert!(bench.thick.inspect(&s).await.unwrap().is_some());
        assert_eq!(bench.ran(), ["lvcreate", "lvs"]);
    })
    .await;
    one_look(async {
        assert!(bench.thick.inspect(&s).await.unwrap().is_some());
        look_anew();
        bench.change("s", |volume| volume.tags.clear());
        assert_eq!(bench.thick.inspect(&s).await.unwrap().unwrap().mark, None);
    })
    .await;
}

#[tokio::test]
async fn a_thick_merge_begins_at_once_and_drains() {
    let bench = bench();
    let (o, s, p, q) = (thick("o"), thick("s"), thick("p"), thick("q"));
    bench.thick.snapshot(&o, &s, &clone()).await.unwrap();
    bench.thick.snapshot(&p, &q, &clone()).await.unwrap();
    bench.change("s", |volume| (volume.used, volume.content) = (40_000, "new".into()));
    let merges = [(&s, &o), (&q, &p)];
    // Whatever is open would put it off: refused, and nothing is decided.
    for open in ["o", "q"] {
        bench.change(open, |volume| volume.open = true);
        bench.ran();
        refused(bench.thick.merge(&merges, RUN).await, "is open");
        assert_eq!(bench.ran(), ["lvs"]);
        bench.change(open, |volume| volume.open = false);
    }
    bench.fake.with(|state| state.shared = true);
    refused(bench.thick.merge(&merges, RUN).await, "shared");
    bench.fake.with(|state| state.shared = false);
    refused(bench.thick.merge(&merges, "x--0000").await, "not of run");
    refused(bench.thick.merge(&[(&s, &p)], RUN).await, "not a snapshot of");

    bench.ran();
    assert_eq!(bench.thick.merge(&merges, RUN).await.unwrap(), Change::Changed);
    let ran = bench.fake.with(|state| state.log.clone());
    assert!(
        ran.iter().any(|argv| argv[0] == "lvconvert" && argv.ends_with(&["vg1/s".into(), "vg1/q".into()])),
        "{ran:?}"
    );
    let Some(Merge::Draining { left_percent }) = block(&bench.thick, &o).await.merge else {
        panic!("it does not drain")
    };
    assert!(left_percent > 0.0);
    assert_eq!(bench.change("o", |volume| volume.content.clone()), "new");
    // Meanwhile neither is removed, renamed or merged into again; repeating it is harmless.
    refused(bench.thick.remove(&s, RUN).await, "merge");
    refused(bench.thick.rename(&s, &thick("z")).await, "merged");
    bench.thick.merge(&merges, RUN).await.unwrap();
    for _ in 0..300 {
        bench.fake.with(fake::State::drain);
    }
    assert_eq!(block(&bench.thick, &o).await.merge, None);
    assert_eq!(bench.thick.merge(&merges, RUN).await.unwrap(), Change::Unchanged);
    assert!(!bench.names().contains(&"s".to_owned()));
}

#[tokio::test]
async fn a_merge_that_was_put_off_is_begun_and_never_left() {
    let bench = bench();
    for (storage, origin, snapshot) in [(&bench.thick, thick("o"), thick("s")), (&bench.thin, thin("t"), thin("u"))] {
        let name = snapshot.path.file_name().unwrap().to_str().unwrap().to_owned();
        let below = origin.path.file_name().unwrap().to_str().unwrap().to_owned();
        storage.snapshot(&origin, &snapshot, &clone()).await.unwrap();
        bench.change(&name, |volume| volume.content = "new".into());
        // Someone opens it between the look and the command.
        bench.fake.with(|state| {
            state.meanwhile = Some(|volumes| {
                ["s", "u"].iter().for_each(|name| {
                    volumes.get_mut(*name).into_iter().for_each(|volume| volume.open = true);
                })
            });
        });
        refused(storage.merge(&[(&snapshot, &origin)], RUN).await, "is open");
        assert_eq!(block(storage, &origin).await.merge, Some(Merge::Waiting));
        refused(storage.merge(&[(&snapshot, &origin)], RUN).await, "is open");
        // Closing it is not enough.
        bench.change(&name, |volume| volume.open = false);
        assert_eq!(block(storage, &origin).await.merge, Some(Merge::Waiting));
        assert_eq!(storage.merge(&[(&snapshot, &origin)], RUN).await.unwrap(), Change::Changed);
        assert_ne!(block(storage, &origin).await.merge, Some(Merge::Waiting));
        assert_eq!(bench.change(&below, |volume| volume.content.clone()), "new");
        (0..300).for_each(|_| bench.fake.with(fake::State::drain));
    }
}

#[tokio::test]
async fn fresh_swap_is_what_the_guest_expects() {
    let bench = bench();
    for (storage, like, target) in [(&bench.thick, thick("swap"), thick("s")), (&bench.thin, thin("tswap"), thin("u"))]
    {
        assert_eq!(storage.probe_swap(&target, &clone()).await.unwrap(), Snapshot::Absent);
        assert_eq!(storage.fresh_swap(&like, &target, &clone()).await.unwrap(), Change::Created);
        assert_eq!(storage.fresh_swap(&like, &target, &clone()).await.unwrap(), Change::Unchanged);
        let name = target.path.file_name().unwrap().to_str().unwrap();
        let (signature, extents) = bench.change(name, |volume| (volume.signature.clone(), volume.extents));
        assert_eq!((signature.as_str(), extents), ("LABEL=old swap\nUUID=01-ab\nTYPE=swap\n", 32));
        refused(storage.fresh_swap(&like, &target, &mark("x--0000", Role::Clone)).await, "marked");
        assert_eq!(storage.remove(&target, RUN).await.unwrap(), Change::Removed);
    }
    refused(bench.thick.fresh_swap(&thick("o"), &thick("s"), &clone()).await, "no swap space");
    assert_eq!(bench.thick.remove(&thick("s"), RUN).await.unwrap(), Change::Removed);
}

#[tokio::test]
async fn the_size_is_chosen_by_what_the_group_has() {
    let bench = bench();
    let sized = bench.thick.size_snapshot(&thick("o"), None).await.unwrap().unwrap();
    assert_eq!((sized.size, sized.bytes), (CowSize::Covering, 1032 << 20));
    let sized = bench.thick.size_snapshot(&thick("o"), Some(SizePolicy::PercentOrigin(20))).await.unwrap().unwrap();
    assert_eq!((sized.size, sized.covering_bytes), (CowSize::Bytes(208 << 20), 1032 << 20));
    bench.thick.snapshot(&thick("o"), &thick("s"), &clone()).await.unwrap();
    refused(bench.thick.size_snapshot(&thick("s"), None).await, "snapshot itself");
    // Here the file system of a volume of another machine cannot be looked at.
    let unknown = bench.thick.size_snapshot(&thick("p"), Some(SizePolicy::PercentUsed(110))).await.unwrap_err();
    assert!(matches!(unknown.cause, Cause::Unsupported(_)), "{unknown:?}");
}

/// Whichever command the controller dies at, before, within or after it: what is left is told, and doing it again ends well.
#[tokio::test]
async fn a_crash_at_any_command_is_mended_by_doing_it_again() {
    for how in [Crash::Before, Crash::Half, Crash::After] {
        for at in 1..6 {
            let bench = bench();
            let (o, p, s, q) = (thick("o"), thick("p"), thick("s"), thick("q"));
            let mut crashed = 0;
            bench.fake.with(|state| state.crash = Some((at, how)));
            loop {
                let work = async {
                    for (source, target) in [(&o, &s), (&p, &q)] {
                        bench.thick.snapshot(source, target, &clone()).await?;
                    }
                    bench.thick.fresh_swap(&thick("swap"), &thick("new"), &clone()).await?;
                    bench.thick.mark(&s, Some(&mark(RUN, Role::Production))).await
                };
                match work.await {
                    Ok(_) => break,
                    Err(error) => assert!(error.is_unknown(), "{error:?}"),
                }
                crashed += 1;
                // Nothing of it is unmarked: everything new is the run's, and another run may not touch it.
                for name in bench.names() {
                    if !["o", "p", "pool", "swap", "t", "tswap"].contains(&name.as_str()) {
                        assert!(bench.change(&name, |volume| volume.tags[0].starts_with("upgradectl.mercure--k3f9.")));
                        refused(bench.thick.remove(&thick(&name), "x--0000").await, "not of run");
                    }
                }
            }
            assert_eq!(crashed, 1, "no crash at command {at}");
            for (target, origin) in [(&s, "o"), (&q, "p")] {
                let facts = block(&bench.thick, target).await;
                assert_eq!((facts.origin.as_deref(), facts.unfit), (Some(origin), None));
            }
            assert_eq!(bench.thick.probe_swap(&thick("new"), &clone()).await.unwrap(), Snapshot::Present);
            // And all of it can be taken back, whatever the way here was.
            let all = [thick("s"), thick("q"), thick("new")];
            bench.thick.remove_all(&all.iter().collect::<Vec<_>>(), RUN).await.unwrap();
            assert_eq!(bench.names(), ["o", "p", "pool", "swap", "t", "tswap"]);
        }
    }
}

/// The same for what cannot be undone.
#[tokio::test]
async fn a_crash_in_a_merge_is_mended_by_doing_it_again() {
    for how in [Crash::Before, Crash::After] {
        for busy in [false, true] {
            let bench = bench();
            let (o, s) = (thick("o"), thick("s"));
            bench.thick.snapshot(&o, &s, &clone()).await.unwrap();
            bench.change("s", |volume| (volume.used, volume.content) = (9000, "new".into()));
            bench.fake.with(|state| state.crash = Some((1, how)));
            bench.thick.merge(&[(&s, &o)], RUN).await.unwrap_err();
            if busy {
                // Whoever waited for its end died with the controller.
                assert!(bench.thick.merge(&[(&s, &o)], RUN).await.is_ok());
            }
            bench.thick.merge(&[(&s, &o)], RUN).await.unwrap();
            let began = bench.change("s", |volume| volume.merging);
            assert!(matches!(began, Some(Merging::Draining(_))), "{began:?}");
            assert_eq!(bench.change("o", |volume| volume.content.clone()), "new");
        }
    }
}

#[test]
fn known_words_of_lvm_come_with_help() {
    let command = command::inventory("vg1");
    for (stderr, word) in [
        ("  Volume group \"vg1\" has insufficient free space (3 extents): 64 required.\n", "room"),
        ("  Cannot update volume group vg1 with duplicate PV devices.\n", "vgimportclone"),
        ("  Snapshots of snapshots are not supported.\n", "merge or remove"),
        ("  Logical volume vg1/s in use.\n", "guest"),
    ] {
        let output = Output { status: 5, stderr: stderr.into(), ..Output::default() };
        let error = failed("do it", &command, &output);
        assert!(error.help.as_ref().is_some_and(|help| help.contains(word)), "{error:?}");
        assert!(matches!(error.cause, Cause::Refused(_)));
    }
}
