//! The images of the dom0 lab, built once and kept in the [`cache`] as one directory:
//!
//! ```text
//!  xen vmlinuz initrd.img    what qemu boots
//!  root.img                  trolls, the Xen host: ext4
//!  guest.img                 mercure, a paravirtual guest: ext4, to be copied into a logical volume
//!  key key.pub               the key that both know, and that trolls has for its guests
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::cache;
use crate::command::run;
use crate::lab::timed;
use crate::root::{self, Format};

/// Size of trolls' root; sparse, a quarter is used.
const ROOT_SIZE: &str = "4g";

/// Size of a guest's root: what is copied for each guest, and the least its volume must have.
const GUEST_SIZE: &str = "640m";

/// How the file systems are made. 256-byte inodes and the rest are mke2fs' own choice, as in an installed Debian.
const MKE2FS: [&str; 5] = ["-q", "-t", "ext4", "-E", "nodiscard"];

/// Directories of kernel modules that a guest gets: no hardware's, nor what only makes a real processor faster (`arch`).
const GUEST_MODULES: [&str; 6] = ["block", "crypto", "fs", "lib", "mm", "net"];

/// The directory with the images, built now if the cache does not have it.
///
/// # Errors
/// mmdebstrap failed: no mirror, or a mistake in `integration/dom0`.
pub fn built() -> Result<PathBuf> {
    let source = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("dom0").join(name);
    let (trolls, guest) = (source("trolls"), source("guest"));
    let mut digest = Sha256::new();
    for part in [root::hash(&trolls, Format::Directory)?, root::hash(&guest, Format::Directory)?] {
        digest.update(part);
    }
    // This file as well: it is a part of what makes the images.
    digest.update(include_str!("image.rs"));
    let hash: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    cache::kept("dom0", &hash, "", |unfinished| {
        eprintln!("lab: building the images of the dom0 lab: some minutes, once");
        fs::create_dir(unfinished)?;
        fs::set_permissions(unfinished, fs::Permissions::from_mode(0o700))?;
        fs::write(unfinished.join(cache::MARK), "")?;
        timed("key", || make_key(unfinished))?;
        timed("root of trolls", || make_trolls(&trolls, unfinished))?;
        timed("root of a guest", || make_guest(&guest, unfinished))?;
        fs::remove_dir_all(unfinished.join("trolls"))?;
        Ok(fs::remove_dir_all(unfinished.join("guest"))?)
    })
}

fn make_key(images: &Path) -> Result<()> {
    run("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "upgradectl dom0 lab", "-f"])
        .arg(images.join("key"))
        .output()
        .map(drop)
}

fn make_trolls(source: &Path, images: &Path) -> Result<()> {
    let root = images.join("trolls");
    root::build(source, Format::Directory, &root)?;
    let ssh = let_in(&root, images)?;
    fs::copy(images.join("key"), ssh.join("id_ed25519"))?;
    fs::copy(images.join("key.pub"), ssh.join("id_ed25519.pub"))?;

    let boot = root.join("boot");
    let kernel = kernel(&root)?;
    fs::copy(boot.join(format!("vmlinuz-{kernel}")), images.join("vmlinuz"))?;
    fs::copy(boot.join(format!("initrd.img-{kernel}")), images.join("initrd.img"))?;
    // qemu's multiboot loader wants it unpacked.
    let xen = run("gzip").args(["--decompress", "--stdout"]).arg(boot.join("xen-4.17-amd64.gz")).finish()?;
    anyhow::ensure!(xen.status.success(), "unpacking Xen: {}", String::from_utf8_lossy(&xen.stderr));
    fs::write(images.join("xen"), xen.stdout)?;
    file_system(&root, &images.join("root.img"), ROOT_SIZE)
}

fn make_guest(source: &Path, images: &Path) -> Result<()> {
    let (root, trolls) = (images.join("guest"), images.join("trolls"));
    root::build(source, Format::Directory, &root)?;
    let_in(&root, images)?;
    let kernel = kernel(&trolls)?;
    let modules = format!("usr/lib/modules/{kernel}");
    let (from, to) = (trolls.join(&modules), root.join(&modules));
    fs::create_dir_all(to.join("kernel"))?;
    for directory in GUEST_MODULES {
        run("cp").arg("--archive").arg(from.join("kernel").join(directory)).arg(to.join("kernel")).output()?;
    }
    for file in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(from.join(file), to.join(file))?;
    }
    run("chroot").arg(&root).args(["depmod", &kernel]).output()?;
    file_system(&root, &images.join("guest.img"), GUEST_SIZE)
}

/// Makes a root accept the lab's key; its `/root/.ssh`.
fn let_in(root: &Path, images: &Path) -> Result<PathBuf> {
    let ssh = root.join("root/.ssh");
    fs::create_dir_all(&ssh)?;
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700))?;
    fs::copy(images.join("key.pub"), ssh.join("authorized_keys"))?;
    Ok(ssh)
}

/// The version of the one kernel in a root.
fn kernel(root: &Path) -> Result<String> {
    let entries = fs::read_dir(root.join("usr/lib/modules"))?;
    let mut versions = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let version = versions.next().context("no kernel in the root")?;
    anyhow::ensure!(versions.next().is_none(), "several kernels in the root");
    version
}

fn file_system(root: &Path, image: &Path, size: &str) -> Result<()> {
    run("mke2fs").args(MKE2FS).arg("-d").arg(root).arg(image).arg(size).output().map(drop)
}
