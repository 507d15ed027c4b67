//! The main job on a real Xen host: a guest on a thick logical volume is cloned from a snapshot, upgraded, promoted, and the
//! snapshot merged. One guest boots ten times; the strategies' other cells are proven on the simulated platform.

use anyhow::{Result, ensure};
use integration::dom0::guest::{LEAST, MERCURE};
use integration::dom0::{Dom0, Toolstack, ring};

/// The clone's address.
const CLONE: &str = "10.0.5.16";

const INVENTORY: &str = r#"version = 1
[defaults]
ssh = { user = "root", key = "/root/.ssh/id_ed25519" }
[hosts]
trolls = { hypervisor = "libvirt", uri = "xen:///system" }
[guests.mercure]
host = "trolls"
upgrade = { recipe = "script", run = ["touch", "/etc/upgraded"] }
clone = { ip = [".16"] }
"#;

/// A file that a side wrote.
fn writes(dom0: &Dom0, address: &str, name: &str) -> Result<()> {
    dom0.in_guest(address, ["sh", "-c", &format!("echo > /root/{name}; sync")])?.expect(0).map(drop)
}

/// Which of the files a side has.
fn reads(dom0: &Dom0, address: &str) -> Result<String> {
    Ok(dom0.in_guest(address, ["ls", "/root"])?.expect(0)?.stdout.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The volumes of vg1.
fn volumes(dom0: &Dom0) -> Result<String> {
    let listed = dom0.output(["lvs", "--all", "--noheadings", "--options", "lv_name", "vg1"])?;
    Ok(listed.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn from_clone_to_commit_on_a_thick_volume() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    dom0.vg().thick("mercure", LEAST)?;
    dom0.place(&MERCURE, "mercure")?;
    dom0.define(&MERCURE, "mercure", false)?;
    dom0.start("mercure")?;
    dom0.wait_for_guest(&MERCURE)?;
    dom0.install_product()?;
    dom0.upload("/etc/upgradectl/inventory.toml", INVENTORY)?;
    let before = dom0.virsh(["dumpxml", "--inactive", "mercure"])?;
    let original = MERCURE.address();

    dom0.upgradectl(["clone", "mercure"])?.expect(0)?;
    ensure!(volumes(&dom0)?.split(' ').count() == 2, "{}", volumes(&dom0)?);
    writes(&dom0, &original, "production")?;
    writes(&dom0, CLONE, "clone")?;
    dom0.upgradectl(["upgrade", "mercure"])?.expect(0)?;
    dom0.upgradectl(["verify", "mercure"])?.expect(0)?;
    dom0.upgradectl(["promote", "mercure", "--yes"])?.expect(0)?;
    ensure!(reads(&dom0, &original)? == "clone", "{}", reads(&dom0, &original)?);
    dom0.in_guest(&original, ["test", "-e", "/etc/upgraded"])?.expect(0)?;

    dom0.upgradectl(["commit", "mercure", "--yes"])?.expect(0)?;
    ensure!(volumes(&dom0)? == "mercure", "{}", volumes(&dom0)?);
    ensure!(reads(&dom0, &original)? == "clone", "{}", reads(&dom0, &original)?);
    let after = dom0.virsh(["dumpxml", "--inactive", "mercure"])?;
    ensure!(after == before, "its definition is as it was:\n{after}");
    Ok(())
}
