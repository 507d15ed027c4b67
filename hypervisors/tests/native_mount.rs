//! Opening the file system of a block device, on loop devices made and taken away by the test. Needs root, loop devices,
//! e2fsprogs and, for its part, xfsprogs.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "common/run.rs"]
mod run;
#[path = "common/skip.rs"]
mod skip;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use hypervisors::host::{Command, LocalHost};
use hypervisors::storage::{Access, Opened, Place, Shown, open_device};
use hypervisors::{Cause, Host, Result};
use run::run;
use skip::skip;

/// An image file on a loop device; taken away when dropped.
struct Disk {
    directory: tempfile::TempDir,
    device: PathBuf,
}

impl Disk {
    fn new(mkfs: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        let (image, (program, options)) = (image.to_str().unwrap(), mkfs.split_first().unwrap());
        let made = run(program, &[options, &[image]].concat()).and_then(|_| run("losetup", &["-f", "--show", image]));
        match made {
            Ok(device) => Some(Self { directory, device: device.trim().into() }),
            Err(why) => {
                skip(format_args!("root, loop devices and {program}: {why}"));
                None
            }
        }
    }
    async fn open(&self, access: Access) -> Result<Opened> {
        open_device(&LocalHost::new("here"), "open it", &self.device, access).await
    }
    /// The image's bytes, as one number.
    fn sum(&self) -> String {
        run("sync", &[]).unwrap();
        run("sha256sum", &[self.directory.path().join("image").to_str().unwrap()]).unwrap()
    }
    /// Leaves it as a guest that was ended does: mounted and written, the image copied meanwhile.
    fn ended_hard(&self) {
        let point = self.directory.path().join("point");
        fs::create_dir(&point).unwrap();
        run("mount", &[self.device.to_str().unwrap(), point.to_str().unwrap()]).unwrap();
        fs::write(point.join("late"), "written").unwrap();
        run("sync", &["-f", point.to_str().unwrap()]).unwrap();
        let (image, copy) = (self.directory.path().join("image"), self.directory.path().join("copy"));
        run("sync", &[self.device.to_str().unwrap()]).unwrap();
        fs::copy(&image, &copy).unwrap();
        run("umount", &[point.to_str().unwrap()]).unwrap();
        let bytes = fs::read(&copy).unwrap();
        fs::File::options().write(true).open(&self.device).unwrap().write_all_at(&bytes, 0).unwrap();
        run("sync", &[]).unwrap();
    }
    /// Proves that nothing is left behind, and takes the device away.
    fn close(self) {
        let device = self.device.to_str().unwrap().to_owned();
        assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&device));
        // A device that something has open would only be cleared later.
        run("losetup", &["-d", &device]).unwrap();
        let left = run("losetup", &["-a"]).unwrap();
        let image = self.directory.path().join("image");
        for gone in [device.as_str(), image.to_str().unwrap()] {
            assert!(!left.split([' ', '(', ')', ':']).any(|word| word == gone), "{gone} is still used:\n{left}");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("losetup", &["-d", self.device.to_str().unwrap_or_default()]);
    }
}

fn copied_through_a_child(from: &Path, to: &Path) -> String {
    let (from, to) = (format!("{}/", from.display()), format!("{}/", to.display()));
    run("rsync", &["-aHAXx", "--", &from, &to]).unwrap()
}

const EXT4: [&str; 3] = ["mkfs.ext4", "-q", "-F"];
const XFS: [&str; 3] = ["mkfs.xfs", "-q", "-f"];

#[tokio::test]
async fn an_opened_volume_is_read_and_written_and_leaves_nothing() {
    for mkfs in [EXT4, XFS] {
        let Some(disk) = Disk::new(&mkfs) else { continue };
        let written = disk.open(Access::Write).await.unwrap();
        assert!(written.is_mount());
        fs::create_dir(written.path().join("etc")).unwrap();
        fs::write(written.path().join("etc/hostname"), "mercure\n").unwrap();
        let flags = nix::sys::statvfs::statvfs(written.path()).unwrap().flags();
        for flag in [nix::sys::statvfs::FsFlags::ST_NOSUID, nix::sys::statvfs::FsFlags::ST_NOEXEC] {
            assert!(flags.contains(flag), "{flags:?}");
        }
        run("mknod", &[written.path().join("node").to_str().unwrap(), "c", "1", "3"]).unwrap();
        assert!(fs::read(written.path().join("node")).is_err(), "a device of the guest's works on the host");
        fs::remove_file(written.path().join("node")).unwrap();

        // Twice in one process is one mount; and a child reaches it.
        let again = disk.open(Access::Glance).await.unwrap();
        assert_eq!(again.path(), written.path());
        let copy = tempfile::tempdir().unwrap();
        copied_through_a_child(again.path(), copy.path());
        assert_eq!(fs::read_to_string(copy.path().join("etc/hostname")).unwrap(), "mercure\n");
        assert!(again.used_bytes().unwrap() > 0);
        let path = written.path().to_owned();
        drop((written, again));
        assert!(!path.join("etc").exists());

        // Reading writes nothing.
        let before = disk.sum();
        for access in [Access::Read, Access::Glance] {
            let read = disk.open(access).await.unwrap();
            assert_eq!(fs::read_to_string(read.path().join("etc/hostname")).unwrap(), "mercure\n");
            let error = fs::write(read.path().join("x"), "").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            let error = disk.open(Access::Write).await.unwrap_err();
            assert!(matches!(error.cause, Cause::Refused(_)), "{error:?}");
        }
        assert_eq!(disk.sum(), before, "{mkfs:?}");
        disk.close();
    }
}

/// A program that resolves the path it is given finds the guest's `/etc` there, and not this machine's.
#[tokio::test]
async fn a_program_is_shown_a_directory_as_often_as_wanted() {
    for mkfs in [EXT4, XFS] {
        let Some(disk) = Disk::new(&mkfs) else { continue };
        let written = disk.open(Access::Write).await.unwrap();
        fs::create_dir(written.path().join("etc")).unwrap();
        fs::write(written.path().join("etc/hostname"), "mercure\n").unwrap();
        let points = tempfile::tempdir().unwrap();
        for round in 0..3 {
            let point = points.path().join(if round == 1 { "other" } else { "point" });
            fs::create_dir_all(&point).unwrap();
            let directory = fs::File::open(written.path().join("etc")).unwrap().into();
            let place = Place { directory, opened: written.clone(), point: point.clone() };
            let shown = Shown::new("show it", vec![place]).await.unwrap();
            let script = format!("cd $(realpath {0}); ls -A; cat hostname; echo {round} > round", point.display());
            let argv = shown.argv(["sh", "-euc", &script].map(str::to_owned).to_vec());
            let output = LocalHost::new("here").run(&Command::new(argv)).await.unwrap();
            let before = if round == 0 { "" } else { "round\n" };
            assert_eq!(output.text(), format!("hostname\n{before}mercure\n"), "{output:?}");
            assert_eq!(fs::read_to_string(written.path().join("etc/round")).unwrap(), format!("{round}\n"));
            assert_eq!(fs::read_dir(point).unwrap().count(), 0);
        }
        drop(written);
        disk.close();
    }
}

#[tokio::test]
async fn a_journal_that_would_be_replayed_is_told_and_not_replayed() {
    for mkfs in [EXT4, XFS] {
        let Some(disk) = Disk::new(&mkfs) else { continue };
        disk.ended_hard();
        let before = disk.sum();
        let error = disk.open(Access::Read).await.unwrap_err();
        assert!(matches!(error.cause, Cause::DirtyJournal(_)), "{mkfs:?}: {error:?}");
        drop(disk.open(Access::Glance).await.unwrap());
        assert_eq!(disk.sum(), before, "{mkfs:?}");
        // Opened for writing it is replayed, and clean afterwards.
        let written = disk.open(Access::Write).await.unwrap();
        assert_eq!(fs::read_to_string(written.path().join("late")).unwrap(), "written");
        drop(written);
        let read = disk.open(Access::Read).await.unwrap();
        assert!(read.path().join("late").exists());
        drop(read);
        disk.close();
    }
}

#[tokio::test]
async fn a_copy_stands_beside_its_original() {
    for mkfs in [EXT4, XFS] {
        let (Some(original), Some(copy)) = (Disk::new(&mkfs), Disk::new(&mkfs)) else { continue };
        drop(original.open(Access::Write).await.unwrap());
        let image = fs::read(original.directory.path().join("image")).unwrap();
        fs::File::options().write(true).open(&copy.device).unwrap().write_all_at(&image, 0).unwrap();
        let (from, to) = (original.open(Access::Read).await.unwrap(), copy.open(Access::Write).await.unwrap());
        fs::write(to.path().join("only-here"), "").unwrap();
        assert!(!from.path().join("only-here").exists());
        drop((from, to));
        original.close();
        copy.close();
    }
}

#[tokio::test]
async fn what_is_not_one_plain_file_system_is_refused() {
    let cases: [(&[&str], &str); 4] = [
        (&["mkfs.btrfs", "-q", "-f"], "btrfs"),
        (&["mkswap", "-q"], "swap"),
        (&["true", "partition"], "none can be opened (1 nothing known)"),
        (&["true"], "nothing"),
    ];
    for (make, word) in cases {
        let Some(disk) = Disk::new(make) else { continue };
        if make.len() == 2 && make[0] == "true" {
            // One partition of type 83, from sector 2048 on; the signature.
            let device = fs::File::options().write(true).open(&disk.device).unwrap();
            device.write_all_at(&[0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 8, 0], 446).unwrap();
            device.write_all_at(&[0x55, 0xaa], 510).unwrap();
            device.sync_all().unwrap();
        }
        for access in [Access::Write, Access::Read, Access::Glance] {
            let error = disk.open(access).await.unwrap_err();
            assert!(matches!(error.cause, Cause::Refused(_)) && error.to_string().contains(word), "{error:?}");
        }
        disk.close();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(open_device(&LocalHost::new("here"), "open it", file.path(), Access::Read).await.is_err());
}

/// Not a test of its own: what [`a_killed_process_leaves_nothing`] starts and kills.
#[tokio::test]
async fn opens_and_waits_to_be_killed() {
    let Ok(device) = std::env::var("UPGRADECTL_TEST_DEVICE") else { return };
    let access = if std::env::var("UPGRADECTL_TEST_READ").is_ok() { Access::Read } else { Access::Write };
    let opened = open_device(&LocalHost::new("here"), "open it", Path::new(&device), access).await.unwrap();
    println!("open at {}", opened.path().display());
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_killed_process_leaves_nothing() {
    for (mkfs, read) in [(EXT4, false), (XFS, false), (XFS, true)] {
        let Some(disk) = Disk::new(&mkfs) else { continue };
        let mut command = Process::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "opens_and_waits_to_be_killed", "--nocapture"])
            .env("UPGRADECTL_TEST_DEVICE", &disk.device);
        if read {
            command.env("UPGRADECTL_TEST_READ", "1");
        }
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        assert!(lines.any(|line| line.unwrap().contains("open at /proc/")), "it did not open {mkfs:?}");
        // Its mount is its own: this process cannot have the device exclusively now, and can once it is gone.
        let host = LocalHost::new("here");
        let busy = host.run(&Command::new(["mkfs.ext4", "-q", "-n", disk.device.to_str().unwrap()])).await.unwrap();
        let words = String::from_utf8_lossy(&busy.stderr).into_owned();
        assert!(read || words.contains("in use") || words.contains("mounted"), "{words}");
        child.kill().unwrap();
        child.wait().unwrap();
        disk.close();
    }
}
