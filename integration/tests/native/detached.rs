//! Detached data on a real btrfs: kept on one way back, restored with its nested subvolumes on another that is killed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Result, ensure};
use integration::command::run;
use integration::verb::event;

use super::picture::{Picture, definition, subvolumes};
use super::trial::{QUICK, Trial};

#[test]
fn detached_data_is_kept_or_restored() -> Result<()> {
    let trial = Trial::tiny()?;
    let (lab, address) = (&trial.lab, trial.address());
    let data = lab.path("pool/guests/tiny-data");
    for volume in [data.clone(), data.join("box")] {
        run("btrfs").args(["subvolume", "create"]).arg(&volume).output()?;
        fs::write(volume.join("mail"), "old")?;
    }
    lab.virsh(["destroy", "tiny"])?;
    let disk = format!(
        "    <filesystem type='mount'>\n      <source dir='{}'/>\n      <target dir='/srv/data'/>\n    </filesystem>\n    <interface",
        data.display()
    );
    trial.redefine(|text| text.replacen("    <interface", &disk, 1))?;
    trial.declare(&format!("{QUICK}\ndisks = {{ \"/srv/data\" = \"detach\" }}"))?;
    trial.start()?;
    let read = || lab.ssh(&address, ["cat", "/srv/data/mail", "/srv/data/box/mail"]);
    let write = || {
        lab.ssh(
            &address,
            ["sh", "-c", "echo new > /srv/data/mail; echo new > /srv/data/box/mail; touch /srv/data/more"],
        )
    };
    ensure!(read()? == "oldold");
    let before = Picture::of(lab, "tiny", &trial.root())?;

    trial.all(&["clone tiny", "upgrade tiny", "verify tiny"])?;
    let (cloned, found) = (subvolumes(lab)?, definition(lab, "tiny")?);
    trial.says("promote tiny --yes", 0)?;
    write()?;
    trial.says("rollback tiny --yes", 0)?;
    ensure!(read()? == "new\nnew" && data.join("more").exists(), "kept, when nobody says anything");
    ensure!(subvolumes(lab)? == cloned);
    for volume in [&data, &data.join("box")] {
        fs::write(volume.join("mail"), "old")?;
    }
    fs::remove_file(data.join("more"))?;

    trial.all(&["verify tiny", "promote tiny --yes"])?;
    write()?;
    let said = trial.says("plan rollback tiny --restore-detached /srv/data", 0)?;
    ensure!(said.stdout.contains("IRREVERSIBLE") && said.stdout.contains("/srv/data as it was"), "{said}");
    let mut rollback = trial.begin("rollback tiny --yes --restore-detached /srv/data")?;
    rollback.until(event("step_finished", "storage.restore", "as it was at promotion"))?;
    rollback.kill()?;
    trial.says("abort tiny --yes", 9)?;
    trial.says("resume tiny", 0)?;
    ensure!(read()? == "oldold" && !data.join("more").exists(), "restored");
    // Under its own path, with the nested one in its place; nothing of the other is left, and the mark is off.
    ensure!([&data, &data.join("box")].iter().all(|volume| fs::metadata(volume).is_ok_and(|meta| meta.ino() == 256)));
    ensure!(definition(lab, "tiny")? == found && subvolumes(lab)?.len() == cloned.len(), "{:?}", subvolumes(lab)?);
    before.still(lab, "tiny")?;
    trial.says("abort tiny --yes", 0)?;
    ensure!(read()? == "oldold");
    let gc = trial.says("gc --dry-run --json", 0)?.json()?;
    ensure!(gc["found"].as_array().is_some_and(Vec::is_empty), "a mark is left: {gc}");
    before.still(lab, "tiny")
}
