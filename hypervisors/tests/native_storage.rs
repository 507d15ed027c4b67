//! [`BtrfsStorage`] and [`DirectoryStorage`] on a real btrfs, made in an image file and mounted by the test. Needs root, loop
//! devices and btrfs-progs.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "common/run.rs"]
mod run;
#[path = "common/skip.rs"]
mod skip;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hypervisors::host::LocalHost;
use hypervisors::storage::{Access, BtrfsStorage, DirectoryStorage, Snapshot, detect, fresh};
use hypervisors::{Cause, Change, Mark, Role, Storage, VolumeKind, VolumeRef};
use run::run;
use skip::skip;

/// A mounted btrfs; unmounted when dropped, and proven to leave nothing.
struct Lab {
    directory: tempfile::TempDir,
}

impl Lab {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (image, mount) = (directory.path().join("image"), directory.path().join("mount"));
        fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
        fs::create_dir(&mount).unwrap();
        let (image, mount) = (image.to_str().unwrap(), mount.to_str().unwrap());
        let made = run("mkfs.btrfs", &["-q", image]).and_then(|_| run("mount", &["-o", "loop", image, mount]));
        if let Err(why) = made {
            skip(format_args!("root, loop devices and btrfs-progs: {why}"));
            return None;
        }
        Some(Self { directory })
    }
    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join("mount").join(name)
    }
    fn volume(&self, name: &str) -> VolumeRef {
        VolumeRef { kind: VolumeKind::Btrfs, path: self.at(name) }
    }
    fn plain(&self, name: &str) -> VolumeRef {
        VolumeRef { kind: VolumeKind::Directory, path: self.at(name) }
    }
    fn subvolume(&self, name: &str) {
        run("btrfs", &["subvolume", "create", self.at(name).to_str().unwrap()]).unwrap();
    }
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.at("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
    fn subvolumes(&self) -> usize {
        run("btrfs", &["subvolume", "list", self.at("").to_str().unwrap()]).unwrap().matches("ID ").count()
    }
    /// Unmounts, and proves that the loop device is gone too.
    fn close(self) {
        run("umount", &[self.at("").to_str().unwrap()]).unwrap();
        let image = self.directory.path().join("image");
        assert_eq!(run("losetup", &["-j", image.to_str().unwrap()]).unwrap(), "", "a loop device is left");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // After `close` there is nothing to unmount; after a failed test this is the tidying.
        let _ = run("umount", &[self.at("").to_str().unwrap()]);
    }
}

fn mark(run: &str, role: Role) -> Mark {
    Mark { run: run.into(), role }
}
fn btrfs() -> BtrfsStorage {
    BtrfsStorage::new(Arc::new(LocalHost::new("here")))
}
fn directory() -> DirectoryStorage {
    DirectoryStorage::new(Arc::new(LocalHost::new("here")))
}
fn refused<T: std::fmt::Debug>(result: hypervisors::Result<T>) {
    let error = result.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)), "{error:?}");
}

/// A guest with nested subvolumes of every sort, their names as nasty as a guest can make them.
fn guest(lab: &Lab) {
    lab.subvolume("o");
    fs::write(lab.at("o/file"), "root").unwrap();
    fs::create_dir_all(lab.at("o/var/lib")).unwrap();
    for nested in ["o/var/lib/machines", "o/var/lib/machines/deep", "o/-rf $(id) 'x'", "o/new\nline", "o/frozen"] {
        lab.subvolume(nested);
        fs::write(lab.at(nested).join("inner"), nested).unwrap();
    }
    fs::set_permissions(lab.at("o/var/lib/machines"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(lab.at("o/var/lib/machines"), Some(12), Some(34)).unwrap();
    run("btrfs", &["property", "set", "-ts", lab.at("o/frozen").to_str().unwrap(), "ro", "true"]).unwrap();
    symlink("/", lab.at("o/link")).unwrap();
}

#[tokio::test]
async fn a_subvolume_with_nested_ones_is_snapshotted_marked_and_removed() {
    let Some(lab) = Lab::new() else { return };
    guest(&lab);
    assert_eq!(detect(&lab.at("o")).unwrap(), VolumeKind::Btrfs);
    assert_eq!(detect(&lab.at("o/var")).unwrap(), VolumeKind::Directory);
    refused(detect(&lab.at("o/link")));
    let (source, target, clone) = (lab.volume("o"), lab.volume("o--k3f9"), mark("o--k3f9", Role::Clone));

    let facts = btrfs().inspect(&source).await.unwrap().unwrap();
    assert_eq!((facts.nested.len(), facts.snapshot_bytes, facts.mark), (5, 0, None));
    assert!(facts.free_bytes > 0);
    assert!(btrfs().inspect(&lab.volume("none")).await.unwrap().is_none());
    refused(btrfs().inspect(&lab.volume("o/var")).await);
    assert_eq!(btrfs().probe(&target, &clone).await.unwrap(), Snapshot::Absent);

    assert_eq!(btrfs().snapshot(&source, &target, &clone).await.unwrap(), Change::Created);
    assert_eq!(btrfs().snapshot(&source, &target, &clone).await.unwrap(), Change::Unchanged);
    assert_eq!(btrfs().probe(&target, &clone).await.unwrap(), Snapshot::Present);
    for nested in ["var/lib/machines", "var/lib/machines/deep", "-rf $(id) 'x'", "new\nline", "frozen"] {
        let inner = fs::read_to_string(target.path.join(nested).join("inner")).unwrap();
        assert_eq!(inner, format!("o/{nested}"));
        assert_eq!(detect(&target.path.join(nested)).unwrap(), VolumeKind::Btrfs);
    }
    let machines = fs::metadata(target.path.join("var/lib/machines")).unwrap();
    assert_eq!((machines.mode() & 0o7777, machines.uid(), machines.gid()), (0o700, 12, 34));
    assert!(fs::write(target.path.join("frozen/x"), "").is_err(), "a read-only subvolume became writable");
    fs::write(target.path.join("var/lib/machines/deep/new"), "").unwrap();
    assert!(!lab.at("o/var/lib/machines/deep/new").exists());
    assert_eq!(btrfs().marked(&lab.at("")).await.unwrap(), [(target.clone(), clone.clone())]);
    assert!(directory().marked(&lab.at("")).await.unwrap().is_empty());
    assert_eq!(btrfs().open(&target, Access::Write).await.unwrap().path(), target.path);

    // Another run may neither take it nor remove it; nothing unmarked is removed.
    assert!(matches!(btrfs().probe(&target, &mark("x--0000", Role::Clone)).await.unwrap(), Snapshot::Foreign(_)));
    refused(btrfs().snapshot(&source, &target, &mark("x--0000", Role::Clone)).await);
    refused(btrfs().remove(&target, "x--0000").await);
    refused(btrfs().remove(&source, "o--k3f9").await);

    // A snapshot of a marked volume does not inherit the mark, and promotion's change of role keeps it ours.
    assert_eq!(btrfs().mark(&target, Some(&mark("o--k3f9", Role::Production))).await.unwrap(), Change::Changed);
    assert_eq!(btrfs().probe(&target, &clone).await.unwrap(), Snapshot::Present);
    let second = lab.volume("o--0001");
    btrfs().snapshot(&target, &second, &mark("o--0001", Role::Clone)).await.unwrap();
    assert_eq!(btrfs().inspect(&second).await.unwrap().unwrap().mark, Some(mark("o--0001", Role::Clone)));
    assert_eq!(btrfs().remove(&second, "o--0001").await.unwrap(), Change::Removed);

    // Renamed, never over something.
    let moved = lab.volume("moved");
    refused(btrfs().rename(&target, &source).await);
    assert_eq!(btrfs().rename(&target, &moved).await.unwrap(), Change::Changed);
    assert_eq!(btrfs().rename(&target, &moved).await.unwrap(), Change::Unchanged);

    // What is mounted in it holds it.
    fs::create_dir(moved.path.join("mnt")).unwrap();
    let point = moved.path.join("mnt");
    run("mount", &["-t", "tmpfs", "none", point.to_str().unwrap()]).unwrap();
    refused(btrfs().remove(&moved, "o--k3f9").await);
    run("umount", &[point.to_str().unwrap()]).unwrap();

    assert_eq!(btrfs().remove(&moved, "o--k3f9").await.unwrap(), Change::Removed);
    assert_eq!(btrfs().remove(&moved, "o--k3f9").await.unwrap(), Change::Unchanged);
    assert_eq!(lab.names(), ["o"]);
    assert_eq!(lab.subvolumes(), 6);
    assert_eq!(fs::read_to_string(lab.at("o/var/lib/machines/deep/inner")).unwrap(), "o/var/lib/machines/deep");

    // A name that forges a line of the list, naming another guest's subvolume, stops everything.
    lab.subvolume("other");
    lab.subvolume("o/x\nID 999 gen 1 top level 256 path ..");
    refused(btrfs().snapshot(&source, &target, &clone).await);
    assert_eq!(btrfs().probe(&target, &clone).await.unwrap(), Snapshot::Partial);
    assert_eq!(btrfs().remove(&target, "o--k3f9").await.unwrap(), Change::Removed);
    assert_eq!(lab.names(), ["o", "other"]);

    assert_eq!(btrfs().mark(&source, Some(&clone)).await.unwrap(), Change::Changed);
    assert_eq!(btrfs().mark(&source, None).await.unwrap(), Change::Changed);
    assert_eq!(btrfs().mark(&source, None).await.unwrap(), Change::Unchanged);
    lab.close();
}

/// Every place a crash can leave a snapshot at: it is partial to its own run, foreign to others, and made or removed whole.
#[tokio::test]
async fn leftovers_of_a_crash_are_partial() {
    let Some(lab) = Lab::new() else { return };
    guest(&lab);
    let (source, target, clone) = (lab.volume("o"), lab.volume("t"), mark("t--1111", Role::Clone));
    // The source is production of an earlier run, then even of this one: the inherited mark proves nothing.
    for inherited in ["q--2222", "t--1111"] {
        btrfs().mark(&source, Some(&mark(inherited, Role::Production))).await.unwrap();
        for stage in ["intent", "root", "nested", "marked"] {
            for again in [true, false] {
                let intent = lab.at(".t.upgradectl");
                fs::write(&intent, "t--1111.clone\n").unwrap();
                let snapshot = |name: &str| {
                    let (from, to) = (lab.at("o").join(name), lab.at("t").join(name));
                    let _ = fs::remove_dir(&to);
                    run("btrfs", &["subvolume", "snapshot", from.to_str().unwrap(), to.to_str().unwrap()]).unwrap();
                };
                match stage {
                    "root" => snapshot(""),
                    "nested" => ["", "var/lib/machines"].into_iter().for_each(snapshot),
                    "marked" => {
                        fs::remove_file(&intent).unwrap();
                        btrfs().snapshot(&source, &target, &clone).await.unwrap();
                        fs::write(&intent, "t--1111.clone\n").unwrap();
                    }
                    _ => {}
                }
                let stands = btrfs().probe(&target, &clone).await.unwrap();
                assert_eq!(stands, Snapshot::Partial, "{inherited} {stage}");
                assert!(matches!(
                    btrfs().probe(&target, &mark("x--0000", Role::Clone)).await.unwrap(),
                    Snapshot::Foreign(_)
                ));
                refused(btrfs().remove(&target, "x--0000").await);
                refused(btrfs().snapshot(&source, &target, &mark("x--0000", Role::Clone)).await);
                let marked = btrfs().marked(&lab.at("")).await.unwrap();
                assert!(marked.contains(&(target.clone(), clone.clone())), "{stage}: {marked:?}");
                if again {
                    assert_eq!(btrfs().snapshot(&source, &target, &clone).await.unwrap(), Change::Created);
                    assert_eq!(btrfs().probe(&target, &clone).await.unwrap(), Snapshot::Present);
                    assert!(target.path.join("var/lib/machines/deep/inner").exists());
                }
                assert_eq!(btrfs().remove(&target, "t--1111").await.unwrap(), Change::Removed);
                assert_eq!(btrfs().probe(&target, &clone).await.unwrap(), Snapshot::Absent);
                assert_eq!((lab.names(), lab.subvolumes()), (vec!["o".to_owned()], 6), "{inherited} {stage}");
            }
        }
    }
    // Something that is not a subvolume never is a leftover of ours.
    fs::create_dir(lab.at("t")).unwrap();
    fs::write(lab.at(".t.upgradectl"), "t--1111.clone\n").unwrap();
    refused(btrfs().remove(&target, "t--1111").await);
    assert!(lab.at("t").exists());
    lab.close();
}

/// A tree whose content comes from elsewhere is nobody's but its run's until it is whole; a mark that came with the content is not its own.
#[tokio::test]
async fn a_tree_that_is_made_empty_is_marked_when_it_is_whole() {
    let Some(lab) = Lab::new() else { return };
    // A guest of another run once was where the content comes from.
    let marked = lab.plain("content");
    fs::create_dir(&marked.path).unwrap();
    fs::write(marked.path.join("file"), "x").unwrap();
    directory().mark(&marked, Some(&mark("q--2222", Role::Production))).await.unwrap();
    async fn one(storage: &dyn Storage, from: &Path, volume: &VolumeRef, other: &VolumeRef) {
        let from = from.to_string_lossy();
        let own = mark("d--k3f9", Role::Clone);
        assert_eq!(storage.make(volume, &own).await.unwrap(), Change::Created);
        assert_eq!(storage.probe(volume, &own).await.unwrap(), Snapshot::Partial);
        run("cp", &["-a", "--preserve=xattr", "-T", &from, volume.path.to_str().unwrap()]).unwrap();
        assert_eq!(storage.make(volume, &own).await.unwrap(), Change::Unchanged);
        refused(storage.make(volume, &mark("q--2222", Role::Clone)).await);
        refused(storage.remove(volume, "q--2222").await);
        assert_eq!(storage.whole(volume, &own).await.unwrap(), Change::Changed);
        assert_eq!(storage.whole(volume, &own).await.unwrap(), Change::Unchanged);
        assert_eq!(storage.inspect(volume).await.unwrap().unwrap().mark, Some(own.clone()));
        storage.remove(volume, "d--k3f9").await.unwrap();
        // Given up half-way.
        storage.make(other, &own).await.unwrap();
        fs::write(other.path.join("file"), "x").unwrap();
        assert_eq!(storage.remove(other, "d--k3f9").await.unwrap(), Change::Removed);
        assert!(storage.whole(other, &own).await.is_err());
    }
    assert_eq!(fresh(&lab.at("")).unwrap(), VolumeKind::Btrfs);
    one(&btrfs(), &marked.path, &lab.volume("a"), &lab.volume("b")).await;
    one(&directory(), &marked.path, &lab.plain("c"), &lab.plain("d")).await;
    assert!(lab.names() == ["content"] && lab.subvolumes() == 0, "{:?}", lab.names());
    lab.close();
}

#[tokio::test]
async fn a_directory_is_copied_whole_and_removed_without_leaving_it() {
    let Some(lab) = Lab::new() else { return };
    let (source, target, clone) = (lab.plain("d"), lab.plain("d--k3f9"), mark("d--k3f9", Role::Clone));
    fs::create_dir_all(lab.at("d/sub")).unwrap();
    fs::write(lab.at("d/one"), "bytes").unwrap();
    fs::hard_link(lab.at("d/one"), lab.at("d/sub/two")).unwrap();
    fs::write(lab.at("outside"), "kept").unwrap();
    symlink("../outside", lab.at("d/link")).unwrap();
    symlink(lab.at(""), lab.at("d/dirlink")).unwrap();
    fs::File::create(lab.at("d/holes")).unwrap().set_len(50 << 20).unwrap();
    std::os::unix::fs::chown(lab.at("d/sub"), Some(12), Some(34)).unwrap();
    fs::set_permissions(lab.at("d/sub"), fs::Permissions::from_mode(0o2751)).unwrap();
    directory().mark(&source, Some(&mark("q--2222", Role::Production))).await.unwrap();

    let facts = directory().inspect(&source).await.unwrap().unwrap();
    assert!(facts.used_bytes.is_some_and(|bytes| bytes < 10 << 20) && facts.pause_s >= 1.0, "{facts:?}");

    // What is mounted beneath is not part of a directory.
    run("mount", &["-t", "tmpfs", "none", lab.at("d/sub").to_str().unwrap()]).unwrap();
    refused(directory().snapshot(&source, &target, &clone).await);
    run("umount", &[lab.at("d/sub").to_str().unwrap()]).unwrap();
    assert_eq!(directory().probe(&target, &clone).await.unwrap(), Snapshot::Partial);

    assert_eq!(directory().snapshot(&source, &target, &clone).await.unwrap(), Change::Created);
    assert_eq!(directory().snapshot(&source, &target, &clone).await.unwrap(), Change::Unchanged);
    assert_eq!(directory().inspect(&target).await.unwrap().unwrap().mark, Some(clone.clone()));
    let at = |name: &str| fs::symlink_metadata(target.path.join(name)).unwrap();
    assert_eq!((at("one").nlink(), at("one").ino()), (2, at("sub/two").ino()));
    assert_eq!((at("sub").mode() & 0o7777, at("sub").uid(), at("sub").gid()), (0o2751, 12, 34));
    assert_eq!((at("holes").len(), at("holes").blocks()), (50 << 20, 0));
    assert!(at("link").is_symlink());

    // A half-made copy is told from a whole one, and made again.
    fs::write(lab.at(".d--k3f9.upgradectl"), "d--k3f9.clone\n").unwrap();
    fs::remove_file(target.path.join("one")).unwrap();
    assert_eq!(directory().probe(&target, &clone).await.unwrap(), Snapshot::Partial);
    assert_eq!(directory().snapshot(&source, &target, &clone).await.unwrap(), Change::Created);
    assert_eq!(fs::read(target.path.join("one")).unwrap(), b"bytes");

    refused(directory().remove(&target, "x--0000").await);
    run("mount", &["-t", "tmpfs", "none", target.path.join("sub").to_str().unwrap()]).unwrap();
    refused(directory().remove(&target, "d--k3f9").await);
    run("umount", &[target.path.join("sub").to_str().unwrap()]).unwrap();
    assert_eq!(directory().remove(&target, "d--k3f9").await.unwrap(), Change::Removed);
    assert_eq!(lab.names(), ["d", "outside"]);
    assert_eq!(fs::read_to_string(lab.at("outside")).unwrap(), "kept");

    for (from, to) in [("d", "d/inside"), ("d", "d")] {
        refused(directory().snapshot(&lab.plain(from), &lab.plain(to), &clone).await);
    }
    let dotted = VolumeRef { kind: VolumeKind::Directory, path: Path::new(&lab.at("")).join("../d") };
    refused(directory().remove(&dotted, "d--k3f9").await);
    lab.close();
}

#[tokio::test]
async fn volumes_exchange_their_names_with_all_that_is_nested_in_them() {
    let Some(lab) = Lab::new() else { return };
    guest(&lab);
    let (data, saved) = (lab.volume("o"), lab.volume("o--k3f9-data.saved"));
    let detached = mark("o--k3f9", Role::Detached);
    btrfs().snapshot(&data, &saved, &detached).await.unwrap();
    fs::write(lab.at("o/file"), "written since").unwrap();
    fs::write(lab.at("o/var/lib/machines/deep/inner"), "written since").unwrap();
    let ids =
        |volume: &VolumeRef| run("btrfs", &["inspect-internal", "rootid", volume.path.to_str().unwrap()]).unwrap();
    let (new, old) = (ids(&data), ids(&saved));

    assert_eq!(btrfs().exchange(&data, &saved, &detached).await.unwrap(), Change::Changed);
    assert_eq!((ids(&data), ids(&saved)), (old, new));
    assert_eq!(btrfs().exchange(&data, &saved, &detached).await.unwrap(), Change::Unchanged, "told by the mark");
    assert_eq!(fs::read_to_string(lab.at("o/file")).unwrap(), "root");
    assert_eq!(fs::read_to_string(lab.at("o/var/lib/machines/deep/inner")).unwrap(), "o/var/lib/machines/deep");
    assert_eq!(fs::read_to_string(saved.path.join("var/lib/machines/deep/inner")).unwrap(), "written since");
    assert_eq!(
        btrfs().inspect(&data).await.unwrap().unwrap().mark,
        Some(detached.clone()),
        "a mark goes with its volume"
    );
    assert_eq!(btrfs().inspect(&saved).await.unwrap().unwrap().mark, None);
    assert_eq!(btrfs().inspect(&data).await.unwrap().unwrap().nested.len(), 5);

    // Neither or both bear the mark; one is not there; something is mounted in it.
    refused(btrfs().exchange(&data, &saved, &mark("o--0001", Role::Detached)).await);
    btrfs().mark(&saved, Some(&detached)).await.unwrap();
    refused(btrfs().exchange(&data, &saved, &detached).await);
    btrfs().mark(&data, None).await.unwrap();
    assert!(btrfs().exchange(&data, &lab.volume("none"), &detached).await.is_err());
    let inside = lab.at("o/var");
    run("mount", &["-t", "tmpfs", "none", inside.to_str().unwrap()]).unwrap();
    refused(btrfs().exchange(&data, &saved, &detached).await);
    run("umount", &[inside.to_str().unwrap()]).unwrap();
    assert_eq!(btrfs().exchange(&data, &saved, &detached).await.unwrap(), Change::Changed);
    assert_eq!(fs::read_to_string(lab.at("o/file")).unwrap(), "written since");
    lab.close();
}
