//! `make soak`: what takes longer than a ring may, on the emulated Xen host: a release upgrade from Debian's own mirror, and
//! the strategies with guests that boot; and every way of every strategy, with what can go wrong, on volumes under guests
//! that do not. And every step of a server that becomes a jail, in the native lab.

#[path = "dom0/divided.rs"]
mod divided;
#[path = "soak/far.rs"]
mod far;
#[path = "soak/jails.rs"]
mod jails;
#[path = "dom0/killed.rs"]
mod killed;
#[path = "soak/lvm_driver.rs"]
mod lvm_driver;
#[path = "soak/program.rs"]
mod program;
#[path = "soak/story.rs"]
mod story;
#[path = "soak/strategies.rs"]
mod strategies;
#[path = "soak/trouble.rs"]
mod trouble;
#[path = "dom0/world.rs"]
mod world;
#[path = "soak/xl.rs"]
mod xl;
#[path = "soak/xl_backend.rs"]
mod xl_backend;

use anyhow::{Result, ensure};
use integration::dom0::guest::MERCURE;
use integration::dom0::tale::{CLONE, Tale, Thickness};
use integration::dom0::{Toolstack, ring};

/// What a script recipe leaves.
const SCRIPT: &str = "kernel = \"host\"\nupgrade = { recipe = \"script\", run = [\"touch\", \"/etc/upgraded\"] }\n";

/// A whole run from `clone` to `commit` under libvirt; both sides write.
fn whole_run(on: Thickness, strategy: &str) -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let tale = Tale::begin(&dom0, Toolstack::Libvirt, on, "1g")?;
    tale.start()?;
    tale.inventory(&format!("{SCRIPT}clone = {{ ip = [\".16\"], strategy = \"{strategy}\" }}"))?;
    let (definition, original) = (tale.definition()?, MERCURE.address());
    tale.verb("clone", &["--yes"])?;
    tale.writes(&original, "production")?;
    tale.writes(CLONE, "clone")?;
    tale.verb("upgrade", &[])?;
    tale.verb("verify", &[])?;
    tale.verb("promote", &["--yes"])?;
    tale.production_has("clone")?;
    dom0.in_guest(&original, ["test", "-e", "/etc/upgraded"])?.expect(0)?;
    tale.verb("rollback", &["--yes"])?;
    tale.production_has("production")?;
    tale.verb("promote", &["--yes"])?;
    tale.production_has("clone")?;
    tale.verb("commit", &["--yes"])?;
    tale.production_has("clone")?;
    ensure!(tale.definition()? == definition, "its definition is as it was:\n{}", tale.definition()?);
    tale.volumes_are(match on {
        Thickness::Thick => "mercure",
        Thickness::Thin => "[lvol0_pmspare] mercure pool [pool_tdata] [pool_tmeta]",
    })
}

#[test]
fn snapshot_on_a_thick_volume() -> Result<()> {
    whole_run(Thickness::Thick, "snapshot")
}

#[test]
fn snapshot_on_a_thin_volume() -> Result<()> {
    whole_run(Thickness::Thin, "snapshot")
}

#[test]
fn origin_on_a_thick_volume() -> Result<()> {
    whole_run(Thickness::Thick, "origin")
}

#[test]
fn origin_on_a_thin_volume() -> Result<()> {
    whole_run(Thickness::Thin, "origin")
}

#[test]
fn a_release_upgrade_of_a_clone_on_a_snapshot() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let tale = Tale::begin(&dom0, Toolstack::Libvirt, Thickness::Thick, "2g")?;
    dom0.vg().mounted("mercure", "mv etc/apt/debian etc/apt/sources.list")?;
    dom0.open_mirror()?;
    tale.start()?;
    tale.inventory(
        "kernel = \"host\"\nupgrade = { recipe = \"debian\", to = \"trixie\" }\nclone = { ip = [\".16\"] }",
    )?;
    let original = MERCURE.address();
    tale.verb("clone", &[])?;
    tale.writes(&original, "production")?;
    tale.verb("upgrade", &[])?;
    let version = ["cat", "/etc/debian_version"];
    ensure!(dom0.in_guest(CLONE, version)?.expect(0)?.stdout.starts_with("13"));
    ensure!(dom0.in_guest(&original, version)?.expect(0)?.stdout.starts_with("12"));
    tale.verb("verify", &[])?;
    tale.verb("promote", &["--yes"])?;
    ensure!(dom0.in_guest(&original, version)?.expect(0)?.stdout.starts_with("13"));
    tale.verb("commit", &["--yes"])?;
    ensure!(dom0.in_guest(&original, version)?.expect(0)?.stdout.starts_with("13"));
    tale.volumes_are("mercure")
}
