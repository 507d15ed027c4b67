//! The xl backend in trolls: its own test for a real dom0 (`hypervisors/tests/dom0_xen.rs`) on a guest with two roots.

use anyhow::{Result, ensure};
use integration::dom0::guest::{LEAST, MERCURE};
use integration::dom0::{Toolstack, ring};

use crate::program;

#[test]
fn a_guest_of_xl_goes_through_all_that_the_backend_does() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Xl)?;
    for volume in ["mercure", "other"] {
        dom0.vg().thick(volume, LEAST)?;
        dom0.place(&MERCURE, volume)?;
    }
    dom0.define(&MERCURE, "mercure", false)?;
    let (other, address) = (dom0.vg().device("other"), format!("{}:22", MERCURE.address()));
    let given = [
        "UPGRADECTL_XEN_GUEST=/etc/xen/mercure.cfg".to_owned(),
        format!("UPGRADECTL_XEN_OTHER={other}"),
        format!("UPGRADECTL_XEN_ADDRESS={address}"),
    ];
    program::passes(&dom0, "dom0_xen", &given)?;
    ensure!(!dom0.domains()?.contains_key("mercure"), "it left a guest");
    Ok(())
}
