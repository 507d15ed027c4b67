//! A guest on a thin volume under libvirt: cloned from a running original, promoted, taken back, given up. Both sides write
//! before each verb. And one that cannot freeze: paused for the copy, it is woken by its host.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::dom0::guest::{LEAST, MERCURE};
use integration::dom0::tale::{CLONE, Tale, Thickness};
use integration::dom0::{Toolstack, ring};
use integration::lab::look::until;

#[test]
fn a_promotion_is_taken_back_and_the_clone_given_up() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let tale = Tale::begin(&dom0, Toolstack::Libvirt, Thickness::Thin, LEAST)?;
    tale.start()?;
    let original = MERCURE.address();
    let root = dom0.in_guest(&original, ["findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", "/"])?.expect(0)?;
    ensure!(root.stdout.split_whitespace().eq(["/dev/xvda", "ext4"]), "{root}");
    let open = dom0.vg().volume("mercure")?;
    ensure!(open.attr.as_bytes().get(5) == Some(&b'o'), "its volume is open: {open:?}");
    let keys = "kernel = \"host\"\nupgrade = { recipe = \"script\", run = [\"touch\", \"/etc/upgraded\"] }\nclone = { ip = [\".16\"] }";
    tale.inventory(keys)?;
    let (definition, boot) = (tale.definition()?, ["cat", "/proc/sys/kernel/random/boot_id"]);
    let booted = dom0.in_guest(&original, boot)?.expect(0)?.stdout;

    tale.writes(&original, "before")?;
    let said = tale.verb("clone", &[])?;
    ensure!(said.stderr.contains(", frozen: created"), "it was not frozen for the snapshot: {said}");
    ensure!(!said.stderr.contains("not frozen"), "it was not frozen for the snapshot: {said}");
    ensure!(dom0.in_guest(&original, boot)?.expect(0)?.stdout == booted, "production was restarted");
    tale.writes(&original, "production")?;
    tale.writes(CLONE, "clone")?;
    ensure!(tale.reads(CLONE)? == "before clone", "{}", tale.reads(CLONE)?);
    tale.verb("upgrade", &[])?;
    tale.verb("verify", &[])?;
    tale.verb("promote", &["--yes"])?;
    tale.production_has("before clone")?;
    tale.writes(&original, "promoted")?;
    ensure!(tale.autostart()? == "mercure", "{}", tale.autostart()?);

    tale.verb("rollback", &["--yes"])?;
    tale.production_has("before production")?;
    ensure!(tale.definition()? == definition, "{}", tale.definition()?);
    ensure!(tale.reads(CLONE)? == "before clone promoted", "{}", tale.reads(CLONE)?);
    tale.verb("abort", &["--yes"])?;
    tale.production_has("before production")?;
    ensure!(tale.definition()? == definition && tale.autostart()? == "mercure", "{}", tale.definition()?);
    tale.volumes_are("[lvol0_pmspare] mercure pool [pool_tdata] [pool_tmeta]")?;
    ensure!(dom0.domains()?.keys().eq(["mercure"]), "{:?}", dom0.domains()?);
    Ok(())
}

/// The controller is killed while production is paused for the copy, and nobody comes back.
fn a_pause_ends_by_itself(toolstack: Toolstack, paused: &str) -> Result<()> {
    let dom0 = ring::standing(toolstack)?;
    let tale = Tale::begin(&dom0, toolstack, Thickness::Thick, LEAST)?;
    tale.start()?;
    tale.inventory(
        "kernel = \"host\"\nupgrade = { recipe = \"script\", run = [\"true\"] }\nclone = { ip = [\".16\"] }",
    )?;
    let original = MERCURE.address();
    dom0.in_guest(&original, ["chmod", "a-x", "/usr/sbin/fsfreeze"])?.expect(0)?;
    let killed = dom0.sh(&format!(
        "upgradectl clone mercure --yes > /root/clone.log 2>&1 & clone=$!
        for look in $(seq 1000); do {paused} && break; kill -0 $clone || break; sleep 0.1; done
        kill -9 $clone || {{ cat /root/clone.log; exit 1; }}
        sleep 2; {paused} && echo paused"
    ))?;
    ensure!(killed.ends_with("paused"), "{killed}");
    let stands = "ls /var/lib/upgradectl/leased /etc/systemd/system 2>/dev/null | grep mercure--";
    ensure!(dom0.sh(stands)?.lines().count() >= 3, "{}", dom0.sh(stands)?);
    until(Duration::from_secs(60), || dom0.sh(&format!("! {paused}")))?;
    dom0.wait_for_guest(&MERCURE)?;
    until(Duration::from_secs(30), || dom0.sh(&format!("! {stands}")))?;
    tale.writes(&original, "served")?;
    tale.verb("resume", &["--yes"])?;
    ensure!(tale.reads(CLONE)? == "served", "what was copied before is copied again: {}", tale.reads(CLONE)?);
    ensure!(!dom0.sh(&format!("{paused} || echo no"))?.is_empty(), "it is paused");
    tale.verb("abort", &["--yes"])?;
    tale.production_has("served")?;
    tale.volumes_are("mercure")
}

#[test]
fn a_pause_under_libvirt_ends_by_itself() -> Result<()> {
    a_pause_ends_by_itself(Toolstack::Libvirt, "virsh -q -c xen:///system domstate mercure | grep -q paused")
}

#[test]
fn a_pause_under_xl_ends_by_itself() -> Result<()> {
    a_pause_ends_by_itself(Toolstack::Xl, "xl list mercure | grep -q -e --p---")
}
