//! A guest under xl on a thick volume: started by xendomains, and taken through a whole run with small packages.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::dom0::guest::MERCURE;
use integration::dom0::tale::{CLONE, Tale, Thickness};
use integration::dom0::{Toolstack, ring};
use integration::lab::look::until;

/// Packages that a release upgrade may want room for.
const SIZE: &str = "1g";

#[test]
fn from_clone_to_commit_with_small_packages() -> Result<()> {
    // Its definition is written beforehand: the power cut is the change of the toolstack, one boot for both.
    let dom0 = ring::standing(Toolstack::Libvirt)?;
    let tale = Tale::begin(&dom0, Toolstack::Xl, Thickness::Thick, SIZE)?;
    tale.inventory(
        "kernel = \"host\"\nupgrade = { recipe = \"debian\", to = \"trixie\" }\nclone = { ip = [\".16\"] }",
    )?;
    dom0.sh(
        "cd /etc/xen; rm -rf .git; git init --quiet; git config user.name root; git config user.email root@trolls.lab
        git add mercure.cfg; git commit --quiet --message start; sync",
    )?;
    dom0.power_cut()?;
    dom0.boot(Toolstack::Xl)?;
    ensure!(dom0.run(["systemctl", "is-active", "libvirtd"])?.code != 0, "both toolstacks run");
    dom0.wait_for_guest(&MERCURE)?;
    let (original, definition) = (MERCURE.address(), tale.definition()?);

    tale.verb("clone", &[])?;
    tale.writes(&original, "production")?;
    tale.writes(CLONE, "clone")?;
    tale.verb("upgrade", &[])?;
    let release =
        dom0.in_guest(CLONE, ["sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME; cat /etc/lab-tool.conf"])?;
    ensure!(release.stdout == "trixie\nlevel = 12 # ours\n", "{release}");
    let conffiles = dom0.upgradectl(["conffiles", "list", "mercure"])?.expect(0)?;
    ensure!(conffiles.stdout.contains("/etc/lab-tool.conf"), "{conffiles}");
    tale.verb("verify", &[])?;
    tale.verb("promote", &["--yes"])?;
    tale.production_has("clone")?;
    tale.writes(&original, "promoted")?;
    ensure!(tale.definition()? != definition && tale.autostart()? == "mercure.cfg", "{}", tale.autostart()?);

    let said = tale.verb("commit", &["--yes"])?;
    ensure!(said.stdout.contains("committed"), "{said}");
    tale.production_has("clone promoted")?;
    ensure!(tale.definition()? == definition, "its definition is as it was:\n{}", tale.definition()?);
    tale.volumes_are("mercure")?;
    ensure!(dom0.domains()?.keys().eq(["mercure"]), "{:?}", dom0.domains()?);
    let status = dom0.sh("cd /etc/xen; git status --short --untracked-files=no; git log --format=%s")?;
    ensure!(status.lines().count() >= 3 && status.lines().last() == Some("start"), "commits of its own: {status}");

    dom0.output(["xl", "shutdown", "-w", "mercure"])?;
    until(Duration::from_secs(60), || {
        let left = dom0.domains()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}
