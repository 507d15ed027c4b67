#![expect(clippy::unwrap_used, reason = "tests")]
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command as Process, Output};

use super::*;

#[test]
fn modules_by_their_files() {
    let there = modules(
        "-rw-r--r-- 1 root root 9 lib/modules/5.14/kernel/drivers/scsi/vmw_pvscsi.ko.xz\nkernel/fs/ext4/ext4.ko\n/x/a-b.ko.zst x.kox y.txt\n",
    );
    assert!(there.iter().eq(["a_b", "ext4", "vmw_pvscsi"].iter()));
    let wanted = ["pvscsi", "a-b", "xfs"].map(str::to_owned);
    assert_eq!(missing(&wanted, &there), ["xfs"]);
}

/// A boot loader whose tools write down what they are told.
struct Loader(tempfile::TempDir);

impl Loader {
    /// `grubby` ends with this status.
    fn new(grubby: i32) -> Self {
        let loader = Self(tempfile::tempdir().unwrap());
        let said = loader.0.path().join("said").display().to_string();
        loader.tool("grubby", &format!("echo \"grubby $*\" >> {said}; exit {grubby}"));
        loader.tool("sync", ":");
        loader
    }
    fn tool(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fn run(&self, shell: &str, words: &[&str]) -> Output {
        let path = format!("{}:/usr/bin:/bin", self.0.path().display());
        Process::new(shell).args(["-c", BOOT, "sh"]).args(words).env("PATH", path).output().unwrap()
    }
    fn said(&self) -> String {
        let said = self.0.path().join("said");
        let text = fs::read_to_string(&said).unwrap_or_default();
        let _ = fs::remove_file(said);
        text
    }
}

/// The package of a kernel makes that the default: whatever becomes of its installation, the old one is so afterwards.
#[test]
fn what_installs_kernels_leaves_the_old_one_the_default() {
    const OLD: &str = "/boot/vmlinuz-5.14.0-70.el9.x86_64";
    for shell in ["dash", "bash"] {
        let loader = Loader::new(0);
        for (status, ends) in [(0, 0), (1, 1), (100, 100)] {
            loader.tool("yum", &format!("grubby --set-default=new; echo \"$1 $2 $3\"; exit {status}"));
            let output = loader.run(shell, &["keep", OLD, "yum", "-y", "update", "a b"]);
            assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(ends), &b"-y update a b\n"[..]));
            assert_eq!(loader.said(), format!("grubby --set-default=new\ngrubby --set-default {OLD}\n"));
        }
        // One that cannot be told is no success.
        let loader = Loader::new(3);
        loader.tool("yum", "exit 0");
        assert_eq!(loader.run(shell, &["keep", OLD, "yum", "-y", "update"]).status.code(), Some(1));
        loader.tool("yum", "exit 7");
        assert_eq!(loader.run(shell, &["keep", OLD, "yum", "-y", "update"]).status.code(), Some(7));
    }
}

/// By this machine's own kernel: a module that it has not stops the way forth, and not the way back.
#[tokio::test]
async fn a_module_that_is_not_loaded_shuts_no_way_back() {
    let prove = |newer: bool, module: &str| ProveKernel {
        host: "cloud".into(),
        link: GuestLink {
            name: "web1".into(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            by: None,
            port: 22,
            user: "root".into(),
            key: None,
            sudo: false,
            known_hosts: "/x".into(),
            control_dir: "/x".into(),
            legacy: false,
        },
        before: "2.6.18-128.el5".into(),
        newer,
        modules: [module].iter().filter(|module| !module.is_empty()).map(|module| (*module).to_owned()).collect(),
        tools: false,
    };
    let guest = hypervisors::host::LocalHost::new("web1");
    for (newer, module, stops, warnings) in
        [(true, "none_such", true, 0), (false, "none_such", false, 1), (true, "", false, 0), (false, "", false, 0)]
    {
        let prove = prove(newer, module);
        let lacks = prove.lacks(&guest, "2.6.18-128.el5", "web1").await.unwrap();
        match prove.proven("2.6.18-128.el5", lacks) {
            Ok(done) => assert_eq!((stops, done.warnings.len()), (false, warnings), "{newer} {module}"),
            Err(error) => assert!(stops && error.to_string().contains("no module none_such"), "{error}"),
        }
    }
}
