//! What can go wrong with real volumes ([`crate::world`]): a snapshot that fills up, an original that was ended instead of
//! shut down. More of it: `make soak`.

use anyhow::{Result, ensure};
use integration::dom0::guest::MERCURE;
use integration::dom0::tale::Tale;
use integration::dom0::{Toolstack, ring};
use integration::walk::{Stage as _, Walk, ending};

use crate::killed::killed;
use crate::world::{World, share_table};

#[test]
fn a_full_snapshot_loses_the_clone_and_nothing_else() -> Result<()> {
    let world = World::new(true, ", snapshot = { size = \"32M\" }", "")?;
    let walk = Walk::new(&world, "snapshot", true);
    let before = world.around()?;
    walk.good("clone", "cloned")?;
    let run = walk.run()?;
    walk.write("mercure", "production")?;
    world.inside("mercure", "head -c 64M /dev/zero | tr '\\0' 'x' > root-much; sync -f .; rm root-much")?;
    let snapshot = world.dom0.vg().volume(&format!("{run}-root"))?;
    ensure!(snapshot.attr.starts_with("swi-I"), "{snapshot:?}");

    walk.write("mercure", "after")?;
    let said = walk.ctl("upgrade", &[])?;
    ensure!(said.code == 7, "{said}");
    for word in ["is lost", "the clone is lost with it, mercure is not", "upgradectl abort mercure"] {
        ensure!(said.stdout.contains(word), "{word:?} is not said: {said}");
    }
    walk.reads("mercure", &["after", "last=after", "production"])?;
    let said = walk.good("abort", "aborted")?;
    ensure!(ending(&said)?["outage_s"] == 0.0, "{said}");
    walk.reads("mercure", &["after", "last=after", "production"])?;
    walk.back(&before)
}

#[test]
fn a_killed_original_is_carried_from_a_thick_snapshot() -> Result<()> {
    killed(true)
}

/// As Debian's installer makes it when LVM is asked for: /boot on a partition, the rest in a volume group of the guest's.
const TABLE: &str = "label: gpt\nsize=24MiB\ntype=E6D6D379-F507-44C2-A23C-238F2A3DF928\n";
const FILL: &str = r#"
dd if=/share/table of=/dev/vg1/mercure bs=1M status=none
modprobe loop
disk=$(losetup --find --show --partscan /dev/vg1/mercure)
mkfs.ext4 -q "${disk}p1"
mkdir -p /run/lvm-loop
echo 'devices { filter = [ "a|^/dev/loop|", "r|.*|" ] }' > /run/lvm-loop/lvm.conf
LVM_SYSTEM_DIR=/run/lvm-loop vgcreate -q inside "${disk}p2"
losetup --detach "$disk"
"#;

#[test]
fn a_volume_group_inside_a_guest_is_refused_and_never_scanned() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    dom0.vg().thick("mercure", "64m")?;
    share_table(&dom0, 64 << 20, TABLE)?;
    dom0.sh(FILL)?;
    dom0.define(&MERCURE, "mercure", false)?;
    let tale = Tale::of(&dom0, Toolstack::Libvirt);
    tale.inventory("kernel = \"host\"\nclone = { ip = [\".16\"] }")?;
    let said = dom0.upgradectl(["clone", MERCURE.name])?.expect(7)?;
    for words in
        ["mercure: partition 2", "it holds a volume group of the guest's own", "volume of the host for each of its own"]
    {
        ensure!(said.stderr.contains(words) || said.stdout.contains(words), "{words:?} is not said: {said}");
    }
    tale.volumes_are("mercure")?;
    let groups = dom0.output(["vgs", "--noheadings", "--options", "vg_name"])?;
    ensure!(groups.trim() == "vg1", "the guest's own is seen by the host: {groups}");
    ensure!(dom0.output(["losetup", "--list", "--noheadings"])?.is_empty(), "a loop device is left");
    Ok(())
}
