//! One machine for all tests of the ring: it stays up between them.
//!
//! nextest runs every test in a process of its own, one at a time for this ring. The first boots dom0 lab 1, each finds
//! it with an empty volume group and no guests, and `integration/test` takes it down after the last. A test may cut its
//! power, fill it or break it: what cannot be tidied is replaced by a new machine.
//!
//! (The other way, one test function with all cases in it, would name, time, choose and retry nothing; nextest's setup
//! scripts have no counterpart for the end.)

use anyhow::{Context as _, Result};

use super::{Dom0, Toolstack, image};

/// The ring's lab: by hand, `lab dom0` is number 0. `$UPGRADECTL_LAB_NUMBER` names another, which is used as it
/// stands, of whatever images it is.
const NUMBER: u8 = 1;

/// Puts trolls into the state in which a test finds it: guests gone, every volume removed, nothing of the product.
const TIDY: &str = r#"
if systemctl --quiet is-active libvirtd; then
    for guest in $(virsh -q -c xen:///system list --name); do
        [ "$guest" = Domain-0 ] || virsh -q -c xen:///system destroy "$guest"
    done
    for guest in $(virsh -q -c xen:///system list --all --name); do
        [ "$guest" = Domain-0 ] || virsh -q -c xen:///system undefine "$guest"
    done
fi
for guest in $(xl list | awk 'NR > 1 && $2 != 0 && $5 !~ /d/ { print $2 }'); do xl destroy "$guest"; done
rm -rf /etc/libvirt/libxl/*.xml /etc/libvirt/libxl/autostart/* /etc/xen/auto/* /etc/xen/*.cfg
for at in $(findmnt --noheadings --list --output SOURCE,TARGET | awk '$1 ~ "^/dev/(mapper/vg1-|loop)" { print $2 }' | sort -r); do
    umount "$at"
done
losetup --detach-all
rm -rf /mnt/* /etc/upgradectl /var/lib/upgradectl /var/lib/sim /root/*.xml /usr/local/bin/ssh
# A guest's disk backend lets go of a volume a moment after the guest is gone; a merge may be under way.
tries=0
until lvremove --quiet --yes --force --force vg1 2> /tmp/lvremove; do
    tries=$((tries + 1))
    [ "$tries" -lt 30 ] || { cat /tmp/lvremove >&2; exit 1; }
    sleep 1
done
[ "$(vgs --noheadings --options lv_count vg1)" -eq 0 ]
"#;

/// The ring's machine, on, with the toolstack a test needs.
///
/// # Errors
/// No machine comes up.
pub fn standing(toolstack: Toolstack) -> Result<Dom0> {
    let by_hand = std::env::var("UPGRADECTL_LAB_NUMBER").ok();
    let number = by_hand.as_deref().map_or(Ok(NUMBER), str::parse).context("UPGRADECTL_LAB_NUMBER")?;
    let dom0 = Dom0::numbered(number)?;
    if by_hand.is_some() && dom0.is_up() {
        tidy(&dom0)?;
        boot_for(&dom0, toolstack)?;
        return Ok(dom0);
    }
    match reuse(&dom0, toolstack) {
        Ok(true) => {}
        Ok(false) => dom0.up(toolstack)?,
        Err(error) => {
            eprintln!("lab: a new machine, the last test's cannot be used: {error:#}");
            dom0.up(toolstack)?;
        }
    }
    Ok(dom0)
}

/// Puts a machine into the state in which a test finds it: no guests, no volumes, nothing of the product.
///
/// # Errors
/// Something does not go.
pub fn tidy(dom0: &Dom0) -> Result<()> {
    dom0.output(["timeout", "300", "sh", "-euc", TIDY]).map(drop)
}

/// Makes what is there fit, if there is something made of the present images.
fn reuse(dom0: &Dom0, toolstack: Toolstack) -> Result<bool> {
    let images = image::built()?;
    let made_of = std::fs::read_to_string(dom0.path("image")).unwrap_or_default();
    if images.file_name().is_none_or(|name| name.to_string_lossy() != made_of) {
        return Ok(false);
    }
    if !dom0.is_up() {
        dom0.boot(toolstack)?;
    }
    tidy(dom0)?;
    boot_for(dom0, toolstack)?;
    Ok(true)
}

/// Boots a tidied machine anew if it is on for the other toolstack.
fn boot_for(dom0: &Dom0, toolstack: Toolstack) -> Result<()> {
    if dom0.toolstack()? == toolstack {
        return Ok(());
    }
    dom0.output(["sync"])?;
    dom0.power_cut()?;
    dom0.boot(toolstack)
}
