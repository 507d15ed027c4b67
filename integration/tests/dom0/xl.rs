//! Guests under xl: a configuration file, and xendomains at boot.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::dom0::guest::{LEAST, MERCURE};
use integration::dom0::{Toolstack, ring};
use integration::lab::look::until;

#[test]
fn xendomains_starts_a_guest_after_a_power_cut() -> Result<()> {
    // Its definition is written beforehand: the power cut is the change of the toolstack, one boot for both.
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    dom0.vg().thick("mercure", LEAST)?;
    dom0.place(&MERCURE, "mercure")?;
    dom0.define_for(Toolstack::Xl, &MERCURE, "mercure", true)?;
    dom0.output(["sync"])?;

    dom0.power_cut()?;
    dom0.boot(Toolstack::Xl)?;
    ensure!(dom0.run(["systemctl", "is-active", "libvirtd"])?.code != 0, "both toolstacks run");
    dom0.wait_for_guest(&MERCURE)?;
    let address = MERCURE.address();
    ensure!(dom0.in_guest(&address, ["hostname"])?.expect(0)?.stdout == "mercure\n");
    ensure!(dom0.domains()?.contains_key("mercure"));

    dom0.output(["xl", "shutdown", "-w", "mercure"])?;
    until(Duration::from_secs(60), || {
        let left = dom0.domains()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}
