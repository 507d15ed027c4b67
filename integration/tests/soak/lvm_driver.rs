//! The LVM driver in trolls: its own tests for a real device-mapper (`hypervisors/tests/dom0_lvm.rs`), in a volume group of
//! theirs on a loop device.

use anyhow::Result;
use integration::dom0::{Toolstack, ring};

use crate::program;

#[test]
fn volumes_go_through_all_that_the_driver_does() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    // trolls looks for volume groups on its second disk alone, as a host of guests should.
    dom0.upload("/run/lvm-loop/lvm.conf", "devices { filter = [ \"a|^/dev/loop|\", \"r|.*|\" ] }\n")?;
    dom0.output(["modprobe", "loop"])?;
    let environment = ["LVM_SYSTEM_DIR=/run/lvm-loop", "TMPDIR=/var/tmp"].map(str::to_owned);
    program::passes(&dom0, "dom0_lvm", &environment).map(drop)
}
