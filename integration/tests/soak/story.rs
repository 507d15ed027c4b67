//! A guest on a thin volume under libvirt: cloned from a running original, promoted, taken back, given up. Both sides write
//! before each verb.

use anyhow::{Result, ensure};
use integration::dom0::guest::{LEAST, MERCURE};
use integration::dom0::tale::{CLONE, Tale, Thickness};
use integration::dom0::{Toolstack, ring};

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
