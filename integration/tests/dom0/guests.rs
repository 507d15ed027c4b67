//! Guests under libvirt.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::dom0::guest::{LEAST, MERCURE};
use integration::dom0::{Toolstack, ring};
use integration::lab::look::until;

#[test]
fn a_guest_of_libvirt_boots_from_a_logical_volume() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    dom0.vg().thick("mercure", LEAST)?;
    dom0.place(&MERCURE, "mercure")?;
    dom0.define(&MERCURE, "mercure", false)?;
    dom0.start("mercure")?;
    dom0.wait_for_guest(&MERCURE)?;

    let address = MERCURE.address();
    ensure!(dom0.in_guest(&address, ["hostname"])?.expect(0)?.stdout == "mercure\n");
    let root = dom0.in_guest(&address, ["findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", "/"])?.expect(0)?;
    ensure!(root.stdout.split_whitespace().eq(["/dev/xvda", "ext4"]), "{root}");
    ensure!(dom0.virsh(["domstate", "mercure"])?.trim() == "running");
    let open = dom0.vg().volume("mercure")?;
    ensure!(open.attr.as_bytes().get(5) == Some(&b'o'), "its volume is open: {open:?}");
    dom0.in_guest(&address, ["sh", "-c", "echo seen > /root/seen; sync"])?.expect(0)?;

    dom0.virsh(["shutdown", "mercure"])?;
    until(Duration::from_secs(180), || {
        let state = dom0.virsh(["domstate", "mercure"])?;
        ensure!(state.trim() == "shut off", "{state}");
        Ok(())
    })?;
    // The backend lets go of the volume a moment after the domain has ended.
    let seen = until(Duration::from_secs(60), || dom0.vg().mounted("mercure", "cat root/seen"))?;
    ensure!(seen == "seen", "{seen}");
    Ok(())
}
