//! Opening guests' disks that have partitions, on a loop device made and taken away by the test. Needs root, loop devices,
//! sfdisk, e2fsprogs and xfsprogs.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "common/run.rs"]
mod run;
#[path = "common/skip.rs"]
mod skip;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use hypervisors::host::{Command, Host as _, LocalHost};
use hypervisors::storage::{Access, Opened, Place, Shown, open_device};
use hypervisors::{Cause, Result};
use run::run;
use skip::skip;

const MIB: u64 = 1 << 20;

/// What is on a partition: start and size in MiB, the program that fills it (`""`: none), its label.
type Part<'a> = (u64, u64, &'a str, &'a str);

/// A disk image with partitions, on a loop device that does not show them.
struct Disk {
    directory: tempfile::TempDir,
    device: PathBuf,
}

impl Disk {
    fn new(script: &str, parts: &[Part<'_>]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        fs::File::create(&image).unwrap().set_len(440 * MIB).unwrap();
        let made = || -> std::result::Result<PathBuf, String> {
            let mut sfdisk = Process::new("sfdisk")
                .args(["-q", image.to_str().unwrap()])
                .stdin(Stdio::piped())
                .spawn()
                .map_err(|error| error.to_string())?;
            std::io::Write::write_all(&mut sfdisk.stdin.take().unwrap(), script.as_bytes()).unwrap();
            assert!(sfdisk.wait().unwrap().success(), "sfdisk does not take\n{script}");
            for (start, size, program, label) in parts {
                Self::fill(directory.path(), &image, *start, *size, program, label)?;
            }
            run("losetup", &["-f", "--show", image.to_str().unwrap()]).map(|device| device.trim().into())
        };
        match made() {
            Ok(device) => Some(Self { directory, device }),
            Err(why) => {
                skip(format_args!("root, loop devices, sfdisk and mkfs: {why}"));
                None
            }
        }
    }
    fn fill(
        directory: &Path,
        image: &Path,
        start: u64,
        size: u64,
        program: &str,
        label: &str,
    ) -> std::result::Result<(), String> {
        let options: &[&str] = match program {
            "mkfs.ext4" => &["-q", "-F", "-L", label],
            "mkfs.xfs" => &["-q", "-L", label],
            "mkswap" => &["-q", "-L", label],
            "mkfs.btrfs" => &["-q", "-L", label],
            // A physical volume, as far as blkid looks: lvm2's pvcreate is not needed for it.
            "pv" => {
                let mut sector = [0; 512];
                sector[..8].copy_from_slice(b"LABELONE");
                sector[8] = 1;
                sector[20] = 32;
                sector[24..32].copy_from_slice(b"LVM2 001");
                let checksum = initial_crc(&sector[20..]);
                sector[16..20].copy_from_slice(&checksum.to_le_bytes());
                let image = fs::File::options().write(true).open(image).unwrap();
                image.write_all_at(&sector, start * MIB + 512).unwrap();
                return Ok(());
            }
            _ => return Ok(()),
        };
        let part = directory.join("part");
        fs::File::create(&part).unwrap().set_len(size * MIB).unwrap();
        run(program, &[options, &[part.to_str().unwrap()]].concat())?;
        let (of, seek) = (format!("of={}", image.display()), format!("seek={start}"));
        run("dd", &[&format!("if={}", part.display()), &of, "bs=1M", &seek, "conv=notrunc,sparse", "status=none"])?;
        fs::remove_file(part).unwrap();
        Ok(())
    }
    async fn open(&self, access: Access) -> Result<Opened> {
        open_device(&LocalHost::new("here"), "open it", &self.device, access).await
    }
    /// Writes into the file system of a partition, by mounting it alone.
    fn within(&self, start: u64, size: u64, work: impl FnOnce(&Path)) {
        let point = self.directory.path().join("point");
        fs::create_dir_all(&point).unwrap();
        let options = format!("loop,offset={},sizelimit={}", start * MIB, size * MIB);
        run("mount", &["-o", &options, self.device.to_str().unwrap(), point.to_str().unwrap()]).unwrap();
        work(&point);
        run("umount", &[point.to_str().unwrap()]).unwrap();
    }
    /// Mounts of it or of its partitions that this process can see. Other work on the machine has loop devices too.
    fn mounted(&self) -> Vec<String> {
        let device = self.device.to_str().unwrap();
        let loops = run("losetup", &["-a"]).unwrap();
        let upon = loops.lines().filter(|line| line.contains(&format!("({device})")));
        let ours: Vec<_> = upon.filter_map(|line| line.split(':').next()).chain([device]).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().filter(|line| line.split(' ').any(|word| ours.contains(&word))).map(str::to_owned).collect()
    }
    fn sum(&self) -> String {
        run("sync", &[]).unwrap();
        run("sha256sum", &[self.directory.path().join("image").to_str().unwrap()]).unwrap()
    }
    /// Proves that nothing is left behind, and takes the device away.
    fn close(self) {
        let device = self.device.to_str().unwrap().to_owned();
        run("losetup", &["-d", &device]).unwrap();
        let image = self.directory.path().join("image");
        let used = |left: &str| left.split(['(', ')']).any(|word| word == image.to_str().unwrap());
        let mut left = run("losetup", &["-a"]).unwrap();
        for _ in 0..200 {
            if !used(&left) {
                return;
            }
            // The machine's own udev may be looking at it.
            std::thread::sleep(std::time::Duration::from_millis(10));
            left = run("losetup", &["-a"]).unwrap();
        }
        panic!("it is still used:\n{left}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("losetup", &["-d", self.device.to_str().unwrap_or_default()]);
    }
}

/// LVM's checksum of a label (lib/misc/crc.c).
fn initial_crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xf597_a6cf, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

const GPT: &str = "label: gpt\nstart=1MiB, size=16MiB, name=boot\nstart=17MiB, size=16MiB, type=S\n\
    start=33MiB, size=320MiB, name=root\nstart=353MiB, size=32MiB\n";

/// Root, /boot and /var on partitions of one disk, named in three ways; its swap among them.
fn guest(system: &str) -> Option<Disk> {
    let parts = [(1, 16, "mkfs.ext4", "boot"), (17, 16, "mkswap", "swap"), (33, 320, system, "root")];
    let disk = Disk::new(GPT, &[&parts[..], &[(353, 32, "mkfs.ext4", "var")]].concat())?;
    disk.within(33, 320, |root| {
        for directory in ["etc", "boot", "var"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        let fstab = "PARTLABEL=root / auto errors=remount-ro 0 1\n/dev/xvda1 /boot ext4 defaults 0 2\n\
                     LABEL=var /var ext4 defaults 0 2\nLABEL=swap none swap sw 0 0\nUUID=none /srv ext4 defaults 0 2\n";
        fs::write(root.join("etc/fstab"), fstab).unwrap();
        fs::write(root.join("var/hidden"), "beneath the mount").unwrap();
    });
    disk.within(353, 32, |var| fs::create_dir_all(var.join("spool/postfix")).unwrap());
    disk.within(1, 16, |boot| fs::write(boot.join("vmlinuz"), "kernel").unwrap());
    Some(disk)
}

#[tokio::test]
async fn a_disk_with_partitions_is_opened_as_the_guest_mounts_it() {
    for system in ["mkfs.ext4", "mkfs.xfs"] {
        let Some(disk) = guest(system) else { continue };
        let opened = disk.open(Access::Write).await.unwrap();
        assert_eq!(opened.nested(), [PathBuf::from("boot"), PathBuf::from("var")]);
        let root = opened.path().to_owned();
        assert_eq!(fs::read_to_string(root.join("boot/vmlinuz")).unwrap(), "kernel");
        assert!(root.join("var/spool/postfix").is_dir() && !root.join("var/hidden").exists());
        assert_ne!(root.join("var").metadata().unwrap().dev(), root.join("etc").metadata().unwrap().dev());
        fs::write(root.join("etc/hostname"), "mercure\n").unwrap();
        fs::write(root.join("var/spool/postfix/mail"), "queued").unwrap();
        // Nothing of this machine is to be reached, and no mount of it is held.
        assert_eq!(fs::read_dir(&root).unwrap().count(), if system == "mkfs.ext4" { 4 } else { 3 });
        assert_eq!(disk.mounted(), [""; 0]);
        let flags = nix::sys::statvfs::statvfs(&root.join("var")).unwrap().flags();
        for flag in [nix::sys::statvfs::FsFlags::ST_NOSUID, nix::sys::statvfs::FsFlags::ST_NOEXEC] {
            assert!(flags.contains(flag), "{flags:?}");
        }
        // A child reaches it all.
        let copy = tempfile::tempdir().unwrap();
        run("rsync", &["-aHAX", &format!("{}/", root.display()), copy.path().to_str().unwrap()]).unwrap();
        assert!(copy.path().join("var/spool/postfix/mail").is_file());
        let again = disk.open(Access::Glance).await.unwrap();
        assert_eq!(again.path(), root);
        drop((opened, again));
        assert!(!root.join("etc").exists());

        let before = disk.sum();
        for access in [Access::Read, Access::Glance] {
            let read = disk.open(access).await.unwrap();
            assert_eq!(fs::read_to_string(read.path().join("etc/hostname")).unwrap(), "mercure\n");
            assert_eq!(fs::read_to_string(read.path().join("var/spool/postfix/mail")).unwrap(), "queued");
            for place in ["x", "var/x", "boot/x"] {
                let error = fs::write(read.path().join(place), "").unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            }
            assert!(read.free_bytes().unwrap() > 200 * MIB, "of three file systems");
            assert!(disk.open(Access::Write).await.is_err());
        }
        assert_eq!(disk.sum(), before, "{system}: reading wrote");
        disk.close();
    }
}

#[tokio::test]
async fn a_copy_of_a_disk_stands_beside_it_and_a_logical_partition_can_be_the_root() {
    let script = "label: dos\nstart=1MiB, size=100MiB, type=83\nstart=101MiB, size=16MiB, type=82\n\
        start=117MiB, size=320MiB, type=5\nstart=118MiB, size=310MiB, type=83\n";
    let make = || Disk::new(script, &[(1, 100, "mkfs.ext4", "boot"), (118, 310, "mkfs.xfs", "root")]);
    let (Some(original), Some(copy)) = (make(), make()) else { return };
    original.within(118, 310, |root| {
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/fstab"), "/dev/sda5 / xfs defaults\n").unwrap();
    });
    let image = fs::read(original.directory.path().join("image")).unwrap();
    fs::File::options().write(true).open(&copy.device).unwrap().write_all_at(&image, 0).unwrap();
    let (from, to) = (original.open(Access::Read).await.unwrap(), copy.open(Access::Write).await.unwrap());
    fs::write(to.path().join("only-here"), "").unwrap();
    assert!(!from.path().join("only-here").exists() && from.nested().is_empty());
    drop((from, to));
    original.close();
    copy.close();
}

#[tokio::test]
async fn a_journal_of_a_partition_that_would_be_replayed_is_told_and_not_replayed() {
    for system in ["mkfs.ext4", "mkfs.xfs"] {
        let Some(disk) = guest(system) else { continue };
        let image = disk.directory.path().join("image");
        // As a guest that was ended does: mounted and written, the image taken meanwhile.
        let taken = std::cell::RefCell::new(Vec::new());
        disk.within(33, 320, |root| {
            fs::write(root.join("late"), "written").unwrap();
            run("sync", &["-f", root.to_str().unwrap()]).unwrap();
            run("sync", &[]).unwrap();
            *taken.borrow_mut() = fs::read(&image).unwrap();
        });
        fs::File::options().write(true).open(&disk.device).unwrap().write_all_at(&taken.into_inner(), 0).unwrap();
        let before = disk.sum();
        let error = disk.open(Access::Read).await.unwrap_err();
        assert!(matches!(error.cause, Cause::DirtyJournal(_)), "{system}: {error:?}");
        drop(disk.open(Access::Glance).await.unwrap());
        assert_eq!(disk.sum(), before, "{system}");
        let written = disk.open(Access::Write).await.unwrap();
        assert_eq!(fs::read_to_string(written.path().join("late")).unwrap(), "written");
        drop(written);
        drop(disk.open(Access::Read).await.unwrap());
        disk.close();
    }
}

#[tokio::test]
async fn what_a_guest_could_contrive_leads_nowhere() {
    // Mount points that are links, an fstab that is one out of the root, a device in its place.
    let Some(disk) = guest("mkfs.ext4") else { return };
    disk.within(33, 320, |root| {
        fs::remove_dir(root.join("boot")).unwrap();
        symlink("/tmp", root.join("boot")).unwrap();
    });
    let opened = disk.open(Access::Write).await.unwrap();
    assert_eq!(opened.nested(), [PathBuf::from("var")], "nothing is mounted through a link");
    drop(opened);
    disk.within(33, 320, |root| {
        fs::remove_file(root.join("etc/fstab")).unwrap();
        symlink("../../../../etc/fstab", root.join("etc/fstab")).unwrap();
    });
    let error = disk.open(Access::Write).await.unwrap_err();
    assert!(error.to_string().contains("none of its partitions"), "{error}");
    disk.within(33, 320, |root| {
        fs::remove_file(root.join("etc/fstab")).unwrap();
        run("mkfifo", &[root.join("etc/fstab").to_str().unwrap()]).unwrap();
    });
    let error = disk.open(Access::Glance).await.unwrap_err();
    assert!(error.to_string().contains("none of its partitions"), "{error}");
    disk.close();
}

#[tokio::test]
async fn disks_that_cannot_be_opened_say_why() {
    let one = "label: gpt\nstart=1MiB, size=200MiB\n";
    let cases: [(&str, &[Part<'_>], &str); 5] = [
        (one, &[(1, 200, "mkfs.btrfs", "b")], "partition 1: it holds a btrfs"),
        (one, &[(1, 200, "pv", "")], "volume group of the guest's own"),
        (one, &[(1, 200, "mkswap", "s")], "none can be opened (1 swap)"),
        (one, &[(1, 200, "", "")], "1 nothing known"),
        ("label: gpt\n", &[], "nothing on it"),
    ];
    for (script, parts, word) in cases {
        let Some(disk) = Disk::new(script, parts) else { continue };
        let error = disk.open(Access::Glance).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Refused(_)) && error.to_string().contains(word), "{word}: {error}");
        assert!(error.help.is_some());
        disk.close();
    }
    // Two partitions of an MBR that overlap, and one that reaches beyond the end.
    for (entries, word) in
        [(&[(2048_u32, 204_800_u32), (4096, 204_800)][..], "overlap"), (&[(2048, 0x7000_0000)], "be trusted")]
    {
        let Some(disk) = Disk::new("label: dos\n", &[]) else { continue };
        let device = fs::File::options().write(true).open(&disk.device).unwrap();
        for (at, (start, sectors)) in (0..).zip(entries) {
            let mut entry = [0; 16];
            entry[4] = 0x83;
            entry[8..12].copy_from_slice(&start.to_le_bytes());
            entry[12..].copy_from_slice(&sectors.to_le_bytes());
            device.write_all_at(&entry, 446 + at * 16).unwrap();
        }
        device.sync_all().unwrap();
        drop(device);
        let error = disk.open(Access::Write).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        disk.close();
    }
}

/// A directory of an opened disk, to be shown at `point`.
fn place(opened: &Opened, path: &str, point: &Path) -> Place {
    fs::create_dir_all(point).unwrap();
    let directory = fs::File::open(opened.path().join(path)).unwrap().into();
    Place { directory, opened: opened.clone(), point: point.to_owned() }
}

#[tokio::test]
async fn a_program_is_shown_directories_of_disks_and_nothing_else_changes() {
    let (Some(original), Some(copy)) = (guest("mkfs.ext4"), guest("mkfs.xfs")) else { return };
    // What a guest could contrive: links out of it, a program, a device.
    original.within(353, 32, |var| {
        symlink("/", var.join("spool/out")).unwrap();
        symlink("/etc", var.join("lib")).unwrap();
        fs::write(var.join("spool/mail"), "queued").unwrap();
        fs::copy("/bin/true", var.join("spool/program")).unwrap();
    });
    original.within(33, 320, |root| fs::write(root.join("etc/motd"), "hello").unwrap());
    let before = original.sum();
    let points = tempfile::tempdir().unwrap();
    let (from, to) = (points.path().join("from"), points.path().join("to"));
    let host = LocalHost::new("here");
    {
        let source = original.open(Access::Read).await.unwrap();
        let target = copy.open(Access::Write).await.unwrap();
        let run = async |path: &str, argv: &[&str]| {
            let places = vec![place(&source, path, &from), place(&target, path, &to)];
            let shown = Shown::new("show them", places).await.unwrap();
            let argv = shown.argv(argv.iter().map(|word| (*word).to_owned()).collect());
            host.run(&Command::new(argv)).await.unwrap()
        };
        let (a, b) = (format!("{}/", from.display()), format!("{}/", to.display()));
        // A partition of its own, the root, and the root of all, into which the others are mounted.
        for path in ["var/spool", "etc", "."] {
            let output = run(path, &["rsync", "-aHAXx", "--delete", "--", &a, &b]).await;
            assert_eq!(output.status, 0, "{path}: {output:?}");
        }
        assert_eq!(fs::read_to_string(target.path().join("var/spool/mail")).unwrap(), "queued");
        assert_eq!(fs::read_link(target.path().join("var/spool/out")).unwrap(), PathBuf::from("/"));
        assert_eq!(fs::read_to_string(target.path().join("etc/motd")).unwrap(), "hello");
        assert!(target.path().join("boot/vmlinuz").is_file(), "what is mounted further down is left alone");
        // The volumes' own attributes hold there too.
        let output = run("var/spool", &[&format!("{a}program")]).await;
        assert_ne!(output.status, 0, "something of a guest was run: {output:?}");
        let output = run("var/spool", &["findmnt", "-n", "-o", "OPTIONS", "-M", from.to_str().unwrap()]).await;
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(output.text().trim().split(',').any(|word| word == option), "{option}: {output:?}");
        }
        let output = run("etc", &["touch", &format!("{a}x")]).await;
        assert!(output.status != 0 && !source.path().join("etc/x").exists(), "{output:?}");
        // Nothing of it is seen outside.
        for point in [&from, &to] {
            assert_eq!(fs::read_dir(point).unwrap().count(), 0);
            assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(point.to_str().unwrap()));
        }
    }
    assert_eq!(original.sum(), before, "the original was written to");
    original.close();
    copy.close();
}

#[tokio::test]
async fn only_what_is_a_mount_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let opened = Opened::directory(directory.path());
    let place = place(&opened, ".", &directory.path().join("point"));
    let error = Shown::new("show it", vec![place]).await.unwrap_err();
    assert!(error.to_string().contains("show it"), "{error}");
}

/// Not a test of its own: what [`a_killed_process_leaves_nothing`] starts and kills.
#[tokio::test]
async fn opens_and_waits_to_be_killed() {
    let Ok(device) = std::env::var("UPGRADECTL_TEST_DISK") else { return };
    let opened = open_device(&LocalHost::new("here"), "open it", Path::new(&device), Access::Write).await.unwrap();
    let point = tempfile::tempdir().unwrap();
    let _shown = Shown::new("show it", vec![place(&opened, "var", point.path())]).await.unwrap();
    println!("open at {}", opened.path().display());
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_killed_process_leaves_nothing() {
    let Some(disk) = guest("mkfs.ext4") else { return };
    let mut command = Process::new(std::env::current_exe().unwrap());
    command.args(["--exact", "opens_and_waits_to_be_killed", "--nocapture"]).env("UPGRADECTL_TEST_DISK", &disk.device);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("open at /proc/")), "it did not open");
    let device = disk.device.to_str().unwrap().to_owned();
    let over_it =
        || run("losetup", &["-a"]).unwrap().lines().filter(|line| line.contains(&format!("({device})"))).count();
    assert_eq!(over_it(), 3, "root, /boot and /var");
    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..200 {
        if over_it() == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(over_it(), 0);
    disk.close();
}
