//! [`LvmStorage`] on a real LVM: a volume group on a loop device, made and taken away by the test. Needs root, lvm2,
//! device-mapper with snapshot and thin-pool targets, and e2fsprogs.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "common/run.rs"]
mod run;

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use hypervisors::host::LocalHost;
use hypervisors::storage::lvm::recognise;
use hypervisors::storage::{Access, BlockFacts, CopyRequest, CowSize, LvmStorage, Merge, SizePolicy, Snapshot};
use hypervisors::{Cause, Change, Mark, Role, Storage, VolumeKind, VolumeRef};
use run::run;

const RUN: &str = "mercure--k3f9";

/// A volume group of 900 MiB; taken away when dropped.
struct Group {
    name: String,
    device: String,
    _directory: tempfile::TempDir,
}

impl Group {
    fn new(name: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        fs::File::create(&image).unwrap().set_len(900 << 20).unwrap();
        let name = format!("upgradectl-{name}");
        let made = run("dmsetup", &["version"])
            .and_then(|_| run("losetup", &["-f"]))
            .map(|device| device.trim().to_owned())
            .and_then(|device| run("losetup", &[&device, image.to_str().unwrap()]).map(|_| device))
            .and_then(|device| run("vgcreate", &["-q", &name, &device]).map(|_| device));
        match made {
            Ok(device) => Some(Self { name, device, _directory: directory }),
            Err(why) => {
                eprintln!("SKIPPED: needs root, loop devices, device-mapper and lvm2: {why}");
                None
            }
        }
    }
    fn lvcreate(&self, arguments: &[&str]) {
        run("lvcreate", &[&["-q", "-y"], arguments, &[&self.name]].concat()).unwrap();
    }
    fn volume(&self, kind: VolumeKind, name: &str) -> VolumeRef {
        VolumeRef { kind, path: self.path(name) }
    }
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/dev").join(&self.name).join(name)
    }
    fn mkfs(&self, name: &str) {
        run("mkfs.ext4", &["-q", self.path(name).to_str().unwrap()]).unwrap();
    }
    fn overwrite(&self, name: &str) {
        let mut device = fs::File::options().write(true).open(self.path(name)).unwrap();
        let noise: Vec<u8> = (0..1u32 << 18).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
        while device.write_all(&noise).is_ok() {}
        // A snapshot that was lost on the way says so here, which is not what this is for.
        let _ = device.sync_all();
    }
    fn names(&self) -> Vec<String> {
        let names = run("lvs", &["--noheadings", "-o", "lv_name", &self.name]).unwrap();
        names.split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = run("vgremove", &["-q", "-f", "-y", &self.name]);
        let _ = run("losetup", &["-d", &self.device]);
    }
}

fn drivers() -> (LvmStorage, LvmStorage) {
    let host = Arc::new(LocalHost::new("here"));
    (LvmStorage::thick(host.clone()), LvmStorage::thin(host))
}
fn mark(role: Role) -> Mark {
    Mark { run: RUN.into(), role }
}
#[track_caller]
fn refused<T: std::fmt::Debug>(result: hypervisors::Result<T>, word: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)) && error.to_string().contains(word), "{error:?}");
}
async fn block(storage: &LvmStorage, volume: &VolumeRef) -> BlockFacts {
    storage.inspect(volume).await.unwrap().unwrap().block.unwrap()
}
async fn write(storage: &LvmStorage, volume: &VolumeRef, name: &str, bytes: &[u8]) {
    let opened = storage.open(volume, Access::Write).await.unwrap();
    fs::write(opened.path().join(name), bytes).unwrap();
    fs::File::open(opened.path().join(name)).unwrap().sync_all().unwrap();
}
async fn read(storage: &LvmStorage, volume: &VolumeRef, name: &str) -> Vec<u8> {
    let opened = storage.open(volume, Access::Read).await.unwrap();
    fs::read(opened.path().join(name)).unwrap()
}
async fn drained(storage: &LvmStorage, origin: &VolumeRef) -> bool {
    for _ in 0..600 {
        match block(storage, origin).await.merge {
            None => return true,
            Some(Merge::Waiting) => return false,
            Some(Merge::Draining { .. }) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    false
}

#[tokio::test]
async fn a_thick_clone_from_snapshot_to_merge() {
    let Some(group) = Group::new("thick") else { return };
    let (thick, thin) = drivers();
    let volume = |name| group.volume(VolumeKind::LvmThick, name);
    group.lvcreate(&["-L", "128m", "-n", "o"]);
    group.lvcreate(&["-L", "64m", "-n", "p"]);
    group.mkfs("o");
    group.mkfs("p");
    let (o, p, s, q) = (volume("o"), volume("p"), volume("mercure--k3f9-xvda1"), volume("mercure--k3f9-xvdb1"));
    let mapper = format!("/dev/mapper/{}-o", group.name.replace('-', "--"));
    assert_eq!(recognise(&LocalHost::new("here"), mapper.as_ref()).await.unwrap(), o);
    refused(thin.inspect(&group.volume(VolumeKind::LvmThin, "o")).await, "thin");
    write(&thick, &o, "file", b"production").await;

    let sized = thick.size_snapshot(&o, None).await.unwrap().unwrap();
    assert_eq!((sized.size, sized.bytes), (CowSize::Covering, 132 << 20));
    let used = thick.size_snapshot(&o, Some(SizePolicy::PercentUsed(110))).await.unwrap().unwrap();
    assert!(used.bytes < 64 << 20 && used.why.contains("used"), "{used:?}");
    let set = [
        CopyRequest { source: &o, target: &s, size: Some(sized.size) },
        CopyRequest { source: &p, target: &q, size: Some(CowSize::Bytes(12 << 20)) },
    ];
    assert_eq!(thick.snapshot_set(&set, &mark(Role::Clone)).await.unwrap(), Change::Created);
    let facts = thick.inspect(&s).await.unwrap().unwrap();
    assert_eq!(facts.mark, Some(mark(Role::Clone)));
    let facts = facts.block.unwrap();
    assert_eq!((facts.size_bytes, facts.origin.as_deref(), &facts.unfit), (128 << 20, Some("o"), &None), "{facts:?}");
    assert!(block(&thick, &q).await.unfit.unwrap().contains("can fill"));
    assert_eq!(thick.snapshot(&o, &s, &mark(Role::Clone)).await.unwrap(), Change::Unchanged);
    refused(thick.size_snapshot(&s, None).await, "snapshot itself");
    let upon = [CopyRequest { source: &s, target: &volume("x"), size: None }];
    refused(thick.snapshot_set(&upon, &mark(Role::Clone)).await, "not supported");

    // The clone is written, production is not; both are open at once.
    write(&thick, &s, "file", b"clone").await;
    assert_eq!(read(&thick, &o, "file").await, b"production");
    let opened = (thick.open(&o, Access::Read).await.unwrap(), thick.open(&s, Access::Write).await.unwrap());
    assert_eq!(fs::read(opened.0.path().join("file")).unwrap(), b"production");
    refused(thick.merge(&[(&s, &o)], RUN).await, "open");
    refused(thick.remove(&s, RUN).await, "open");
    drop(opened);

    // What can fill does, and is told; what was grown to covering does not.
    group.overwrite("p");
    assert!(block(&thick, &q).await.lost.is_some());
    assert_eq!(thick.probe(&q, &mark(Role::Clone)).await.unwrap(), Snapshot::Partial);
    refused(thick.open(&q, Access::Write).await, "filled up");
    assert_eq!(thick.remove(&q, RUN).await.unwrap(), Change::Removed);
    let small = [CopyRequest { source: &p, target: &q, size: Some(CowSize::Bytes(12 << 20)) }];
    thick.snapshot_set(&small, &mark(Role::Clone)).await.unwrap();
    assert_eq!(thick.extend(&q, CowSize::Bytes(5 << 20), RUN).await.unwrap(), Change::Changed);
    assert!(block(&thick, &q).await.unfit.unwrap().contains("it has 20 MiB"));
    assert_eq!(thick.secure(&q, RUN).await.unwrap(), Change::Changed);
    assert_eq!(thick.secure(&q, RUN).await.unwrap(), Change::Unchanged);
    group.overwrite("p");
    group.overwrite("mercure--k3f9-xvdb1");
    let filled = thick.inspect(&q).await.unwrap().unwrap();
    assert!(filled.fill_percent.is_some_and(|percent| percent > 90.0 && percent < 100.0), "{filled:?}");
    assert_eq!(filled.block.unwrap().lost, None);

    // Nothing of another run, nothing unmarked, nothing with snapshots goes.
    refused(thick.remove(&q, "x--0000").await, "not of run");
    refused(thick.remove(&o, RUN).await, "no mark");
    thick.mark(&o, Some(&mark(Role::Original))).await.unwrap();
    refused(thick.remove(&o, RUN).await, "snapshots");
    assert_eq!(thick.mark(&o, None).await.unwrap(), Change::Changed);
    assert_eq!(thick.remove_all(&[&q], RUN).await.unwrap(), Change::Removed);

    // Renamed while something has it open.
    let held = fs::File::open(&s.path).unwrap();
    let t = volume("renamed");
    assert_eq!(thick.rename(&s, &t).await.unwrap(), Change::Changed);
    assert_eq!(thick.rename(&s, &t).await.unwrap(), Change::Unchanged);
    assert_eq!(block(&thick, &t).await.id, facts.id);
    refused(thick.merge(&[(&t, &o)], RUN).await, "open");
    refused(thick.open(&t, Access::Write).await, "open");
    // Someone merges all the same, which puts it off; closing is not enough, doing it again is.
    run("lvconvert", &["-q", "-b", "--merge", &format!("{}/renamed", group.name)]).unwrap();
    assert_eq!(block(&thick, &o).await.merge, Some(Merge::Waiting));
    refused(thick.merge(&[(&t, &o)], RUN).await, "open");
    drop(held);
    assert_eq!(block(&thick, &o).await.merge, Some(Merge::Waiting));
    assert_eq!(thick.merge(&[(&t, &o)], RUN).await.unwrap(), Change::Changed);
    assert!(drained(&thick, &o).await);
    assert_eq!(read(&thick, &o, "file").await, b"clone");
    assert_eq!(thick.merge(&[(&t, &o)], RUN).await.unwrap(), Change::Unchanged);

    // The way it goes when nobody meddles; the origin is used while it drains.
    thick.snapshot(&o, &s, &mark(Role::Clone)).await.unwrap();
    write(&thick, &s, "large", &vec![7; 40 << 20]).await;
    assert_eq!(thick.merge(&[(&s, &o)], RUN).await.unwrap(), Change::Changed);
    assert_eq!(read(&thick, &o, "large").await.len(), 40 << 20);
    assert!(drained(&thick, &o).await);
    let mut names = group.names();
    names.sort();
    assert_eq!(names, ["o", "p"]);
}

#[tokio::test]
async fn a_thin_clone_from_snapshot_to_swap() {
    let Some(group) = Group::new("thin") else { return };
    let (_, thin) = drivers();
    let volume = |name| group.volume(VolumeKind::LvmThin, name);
    run("lvcreate", &["-q", "-L", "400m", "-T", &format!("{}/pool", group.name)]).unwrap();
    run("lvcreate", &["-q", "-V", "128m", "-T", &format!("{}/pool", group.name), "-n", "o"]).unwrap();
    group.mkfs("o");
    let (o, s) = (volume("o"), volume("mercure--k3f9-xvda1"));
    write(&thin, &o, "file", b"production").await;
    assert_eq!(thin.size_snapshot(&o, None).await.unwrap(), None);
    assert_eq!(thin.snapshot(&o, &s, &mark(Role::Clone)).await.unwrap(), Change::Created);
    write(&thin, &s, "file", b"clone").await;
    assert_eq!(read(&thin, &o, "file").await, b"production");
    let facts = block(&thin, &s).await;
    assert_eq!((facts.unfit, facts.open), (None, Some(false)));
    // As one made by hand is.
    run("lvchange", &["-q", "--setactivationskip", "y", &format!("{}/mercure--k3f9-xvda1", group.name)]).unwrap();
    run("lvchange", &["-q", "-an", &format!("{}/mercure--k3f9-xvda1", group.name)]).unwrap();
    assert!(block(&thin, &s).await.unfit.is_some());
    refused(thin.open(&s, Access::Glance).await, "not active");
    assert_eq!(read(&thin, &s, "file").await, b"clone");
    assert_eq!(thin.secure(&s, RUN).await.unwrap(), Change::Changed);
    assert_eq!(thin.secure(&s, RUN).await.unwrap(), Change::Unchanged);

    let held = fs::File::open(&o.path).unwrap();
    refused(thin.merge(&[(&s, &o)], RUN).await, "open");
    drop(held);
    assert_eq!(thin.merge(&[(&s, &o)], RUN).await.unwrap(), Change::Changed);
    assert_eq!(block(&thin, &o).await.merge, None);
    assert_eq!(read(&thin, &o, "file").await, b"clone");
    assert_eq!(thin.merge(&[(&s, &o)], RUN).await.unwrap(), Change::Unchanged);

    // Peers: the origin goes, the snapshot stays and takes its name.
    thin.snapshot(&o, &s, &mark(Role::Clone)).await.unwrap();
    thin.mark(&o, Some(&mark(Role::Original))).await.unwrap();
    assert_eq!(thin.remove(&o, RUN).await.unwrap(), Change::Removed);
    assert_eq!(thin.rename(&s, &o).await.unwrap(), Change::Changed);
    assert_eq!(read(&thin, &o, "file").await, b"clone");
    assert_eq!(thin.marked(&group.path("")).await.unwrap(), [(o, mark(Role::Clone))]);
}

#[tokio::test]
async fn fresh_swap_has_the_old_label_and_uuid() {
    let Some(group) = Group::new("swap") else { return };
    let (thick, thin) = drivers();
    let uuid = "0d7a2c14-8a6b-4c31-9d2e-5f0c1b2a3948";
    run("lvcreate", &["-q", "-L", "200m", "-T", &format!("{}/pool", group.name)]).unwrap();
    for (storage, kind) in [(&thick, VolumeKind::LvmThick), (&thin, VolumeKind::LvmThin)] {
        if kind == VolumeKind::LvmThick {
            group.lvcreate(&["-L", "32m", "-n", "swap"]);
        } else {
            run("lvcreate", &["-q", "-V", "32m", "-T", &format!("{}/pool", group.name), "-n", "swap"]).unwrap();
        }
        let path = group.path("swap");
        run("mkswap", &["-U", uuid, "-L", "old swap", path.to_str().unwrap()]).unwrap();
        let (like, target) = (group.volume(kind, "swap"), group.volume(kind, "mercure--k3f9-xvda2"));
        assert_eq!(storage.probe_swap(&target, &mark(Role::Clone)).await.unwrap(), Snapshot::Absent);
        assert_eq!(storage.fresh_swap(&like, &target, &mark(Role::Clone)).await.unwrap(), Change::Created);
        assert_eq!(storage.probe_swap(&target, &mark(Role::Clone)).await.unwrap(), Snapshot::Present);
        assert_eq!(storage.fresh_swap(&like, &target, &mark(Role::Clone)).await.unwrap(), Change::Unchanged);
        let found = run("blkid", &["-p", "-o", "export", target.path.to_str().unwrap()]).unwrap();
        assert!(found.contains(uuid) && found.contains("LABEL=old\\ swap"), "{found}");
        assert_eq!(block(storage, &target).await.size_bytes, 32 << 20);
        let mut start = vec![0; 4096];
        fs::File::open(&target.path).unwrap().read_exact(&mut start).unwrap();
        assert_eq!(&start[4086..], b"SWAPSPACE2");
        refused(storage.open(&target, Access::Write).await, "swap");
        assert_eq!(storage.remove(&target, RUN).await.unwrap(), Change::Removed);
        run("lvremove", &["-q", "-y", &format!("{}/swap", group.name)]).unwrap();
    }
}

/// What promotion and a way back do with detached data: a covering snapshot of it as it was, and a merge of that.
#[tokio::test]
async fn detached_data_goes_back_to_what_it_was() {
    let Some(group) = Group::new("detached") else { return };
    group.lvcreate(&["-L", "64m", "-n", "mail"]);
    let pool = format!("{}/pool", group.name);
    run("lvcreate", &["-q", "-y", "-L", "200m", "-T", &pool, "-V", "64m", "-n", "lists"]).unwrap();
    let (thick, thin) = drivers();
    for (storage, kind, name) in [(&thick, VolumeKind::LvmThick, "mail"), (&thin, VolumeKind::LvmThin, "lists")] {
        group.mkfs(name);
        let (data, saved) = (group.volume(kind, name), group.volume(kind, &format!("{RUN}-{name}.saved")));
        write(storage, &data, "mbox", b"old").await;
        let uuid = block(storage, &data).await.id;
        let size = storage.size_snapshot(&data, Some(SizePolicy::Covering)).await.unwrap().map(|sized| sized.size);
        let copy = CopyRequest { source: &data, target: &saved, size };
        storage.snapshot_set(&[copy], &mark(Role::Detached)).await.unwrap();
        write(storage, &data, "mbox", b"written since").await;
        write(storage, &data, "new", &[7; 1 << 20]).await;

        assert_eq!(storage.probe(&saved, &mark(Role::Detached)).await.unwrap(), Snapshot::Present);
        storage.merge(&[(&saved, &data)], RUN).await.unwrap();
        // At once, drained or not; and again changes nothing.
        assert_eq!(read(storage, &data, "mbox").await, b"old", "{kind:?}");
        storage.merge(&[(&saved, &data)], RUN).await.unwrap();
        for _ in 0..600 {
            if block(storage, &data).await.merge.is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(storage.probe(&saved, &mark(Role::Detached)).await.unwrap(), Snapshot::Absent);
        let opened = storage.open(&data, Access::Read).await.unwrap();
        assert!(!opened.path().join("new").exists() && fs::read(opened.path().join("mbox")).unwrap() == b"old");
        drop(opened);
        let after = block(storage, &data).await;
        eprintln!("{kind:?}: {uuid} became {}", after.id);
        assert!(after.snapshots.is_empty() && after.merge.is_none());
        assert_eq!(storage.inspect(&data).await.unwrap().unwrap().mark, None, "the data bears no mark of the run");
        // The removal at the end of the way back finds nothing left.
        assert_eq!(storage.remove(&saved, RUN).await.unwrap(), Change::Unchanged);
    }
}

/// A guest's whole disk: a partition table within a volume, opened at its root through loop devices, and nothing is left.
#[tokio::test]
async fn a_disk_with_partitions_is_copied_as_one_and_opened_by_partition() {
    let Some(group) = Group::new("disk") else { return };
    group.lvcreate(&["-L", "96m", "-n", "mercure"]);
    let device = group.path("mercure");
    // An MBR: /boot of 16 MiB from 1 MiB on, the root of 64 MiB from 17 MiB on.
    let mut sector = [0; 512];
    for (at, start, sectors) in [(446, 2048_u32, 32_768_u32), (462, 34_816, 131_072)] {
        sector[at + 4] = 0x83;
        sector[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        sector[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::File::options().write(true).open(&device).unwrap().write_all(&sector).unwrap();
    let disk = device.to_str().unwrap();
    for (offset, blocks) in [("1048576", "16384"), ("17825792", "65536")] {
        let offset = format!("offset={offset}");
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", "-E", &offset, disk, blocks]).unwrap();
    }
    let point = tempfile::tempdir().unwrap();
    let options = ["-o", "loop,offset=17825792,sizelimit=67108864", disk, point.path().to_str().unwrap()];
    run("mount", &options).unwrap();
    fs::create_dir_all(point.path().join("etc")).unwrap();
    fs::create_dir_all(point.path().join("boot")).unwrap();
    fs::write(point.path().join("etc/fstab"), "/dev/xvda2 / ext4\n/dev/xvda1 /boot ext4\n").unwrap();
    run("umount", &[point.path().to_str().unwrap()]).unwrap();

    let (thick, _) = drivers();
    let (origin, copy) = (group.volume(VolumeKind::LvmThick, "mercure"), group.volume(VolumeKind::LvmThick, "copy"));
    let layout = thick.layout(&origin).await.unwrap().unwrap();
    assert_eq!((layout.table.as_deref(), layout.areas.len()), (Some("dos"), 2), "{layout:?}");
    thick.snapshot(&origin, &copy, &mark(Role::Clone)).await.unwrap();
    assert_eq!(thick.layout(&copy).await.unwrap().unwrap().areas, layout.areas, "of the origin's size");
    let opened = thick.open(&copy, Access::Write).await.unwrap();
    assert_eq!(opened.nested(), [PathBuf::from("boot")]);
    fs::write(opened.path().join("etc/hostname"), "clone\n").unwrap();
    fs::write(opened.path().join("boot/vmlinuz"), "new").unwrap();
    drop(opened);
    let (old, new) = (thick.open(&origin, Access::Read).await.unwrap(), thick.open(&copy, Access::Read).await.unwrap());
    assert!(!old.path().join("etc/hostname").exists() && !old.path().join("boot/vmlinuz").exists());
    assert_eq!(fs::read_to_string(new.path().join("boot/vmlinuz")).unwrap(), "new");
    drop((old, new));
    assert!(!run("losetup", &["-a"]).unwrap().contains(&group.name), "no loop device is left");
    assert_eq!(block(&thick, &copy).await.open, Some(false));
    assert_eq!(thick.remove(&copy, RUN).await.unwrap(), Change::Removed);
}
