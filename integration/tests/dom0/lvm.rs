//! LVM as the LVM driver stands on it: snapshots thick and thin, and their merges.

use anyhow::{Result, ensure};
use integration::dom0::{Toolstack, ring};

/// Two volumes' content differs from the first mebibyte to the last.
const MIB: u32 = 12;

#[test]
fn a_thick_snapshot_keeps_the_old_and_merges_back() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let vg = dom0.vg();
    vg.thick("o", "16m")?;
    let old = vg.fill("o", 1, MIB)?;
    vg.thick_snapshot("o", "s", "24m")?;
    let new = vg.fill("o", 2, MIB)?;
    ensure!(old != new && vg.checksum("o", MIB)? == new && vg.checksum("s", MIB)? == old);
    let snapshot = vg.volume("s")?;
    ensure!(snapshot.origin == "o" && snapshot.attr.starts_with("swi-a-s"), "{snapshot:?}");
    let refused = dom0.run(["lvcreate", "--snapshot", "--size", "4m", "--name", "t", "vg1/s"])?.expect(5)?;
    ensure!(refused.stderr.contains("not supported"), "{refused}");

    dom0.output(["lvconvert", "--merge", "vg1/s"])?;
    vg.merged("s")?;
    ensure!(vg.checksum("o", MIB)? == old);
    let origin = vg.volume("o")?;
    ensure!(origin.attr.starts_with("-wi-a-"), "{origin:?}");
    Ok(())
}

#[test]
fn a_merge_of_an_open_origin_waits_for_a_refresh() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let vg = dom0.vg();
    vg.thick("o", "16m")?;
    dom0.output(["mkfs.ext4", "-q", "/dev/vg1/o"])?;
    vg.thick_snapshot("o", "s", "24m")?;
    dom0.sh("mkdir -p /mnt/o; mount /dev/vg1/o /mnt/o; touch /mnt/o/new; sync")?;
    let delayed = dom0.run(["lvconvert", "--merge", "vg1/s"])?.expect(0)?;
    ensure!(
        format!("{}{}", delayed.stdout, delayed.stderr).contains("Delaying merge since origin is open"),
        "{delayed}"
    );
    let hidden = vg.volume("[s]")?;
    ensure!(hidden.attr.starts_with("Swi"), "{hidden:?}");

    dom0.output(["umount", "/mnt/o"])?;
    ensure!(vg.volume("[s]")?.attr.starts_with("Swi"), "closing the origin does not begin the merge");
    dom0.output(["lvchange", "--refresh", "vg1/o"])?;
    vg.merged("s")?;
    ensure!(vg.mounted("o", "ls")? == "lost+found");
    Ok(())
}

#[test]
fn an_overfull_thick_snapshot_is_invalid() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let vg = dom0.vg();
    vg.thick("o", "16m")?;
    vg.fill("o", 1, MIB)?;
    vg.thick_snapshot("o", "s", "4m")?;
    let new = vg.fill("o", 2, MIB)?;
    ensure!(vg.checksum("o", MIB)? == new, "production goes on");
    let snapshot = vg.volume("s")?;
    ensure!(snapshot.attr.starts_with("swi-I"), "{snapshot:?}");
    Ok(())
}

#[test]
fn a_thin_snapshot_keeps_the_old_and_merges_back() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let vg = dom0.vg();
    vg.pool("pool", "128m")?;
    vg.thin("o", "pool", "64m")?;
    let old = vg.fill("o", 1, MIB)?;
    vg.thin_snapshot("o", "s")?;
    let new = vg.fill("o", 2, MIB)?;
    ensure!(old != new && vg.checksum("o", MIB)? == new && vg.checksum("s", MIB)? == old);
    let snapshot = vg.volume("s")?;
    ensure!(snapshot.origin == "o" && snapshot.pool == "pool" && snapshot.attr.starts_with("Vwi-a-"), "{snapshot:?}");

    let said = dom0.run(["lvconvert", "--merge", "vg1/s"])?.expect(0)?;
    ensure!(format!("{}{}", said.stdout, said.stderr).contains("replaced origin"), "{said}");
    ensure!(vg.checksum("o", MIB)? == old && !vg.volumes()?.contains_key("s"));
    Ok(())
}
