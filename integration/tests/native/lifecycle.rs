//! Every verb on a real guest, and the ways back from every state.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, ensure};
use integration::lab::guest::TINY;

use super::picture::{Picture, autostart, definition, subvolumes};
use super::trial::{QUICK, Trial};

#[test]
fn the_whole_lifecycle() -> Result<()> {
    let trial = Trial::tiny()?;
    let (lab, address, clone) = (&trial.lab, trial.address(), trial.clone_address());
    lab.ssh(&address, ["sh", "-c", "echo mine > /root/mine; echo kept > /var/cache/kept"])?;
    let before = Picture::of(lab, "tiny", &trial.root())?;
    let (domains, trees, volumes) = (lab.domains()?, lab.trees()?, subvolumes(lab)?);
    let id = lab.domain_id("tiny")?;

    trial.says("plan clone tiny", 0)?;
    ensure!(
        lab.domains()? == domains && subvolumes(lab)? == volumes && !trial.product.state().join("journal.db").exists()
    );

    trial.says("clone tiny", 0)?;
    let name = trial.name()?;
    let root = lab.path(format!("pool/guests/{name}-root"));
    ensure!(lab.ssh(&clone, ["cat", "/root/mine", "/var/cache/kept"])? == "mine\nkept");
    // The nested subvolume is one in the clone as well, and another one: btrfs subvolumes have inode 256.
    let nested = fs::metadata(root.join("var/cache"))?;
    ensure!(nested.ino() == 256 && nested.dev() != fs::metadata(trial.root().join("var/cache"))?.dev());
    ensure!(!autostart(lab, &name)?, "a clone must not start with its host");
    let machine_id = |address: &str| lab.ssh(address, ["cat", "/etc/machine-id"]);
    ensure!(machine_id(&address)? != machine_id(&clone)?);

    trial.says("promote tiny --yes", 9)?;
    trial.says("upgrade tiny", 0)?;
    ensure!(lab.ssh(&clone, ["cat", "/root/upgraded"])?.is_empty());
    trial.says("promote tiny --yes", 9)?;
    trial.says("verify tiny", 0)?;
    before.still(lab, "tiny")?;
    ensure!(lab.domain_id("tiny")? == id, "the original was restarted");

    // Nobody can be asked here: without a word of approval production stays up.
    trial.says("promote tiny", 6)?;
    trial.says("promote tiny --approve 000000", 6)?;
    ensure!(lab.domain_id("tiny")? == id && trial.state()? == "verified");

    let events = trial.says("promote tiny --yes --json", 0)?.events()?;
    let outage = events.last().and_then(|last| last["outage_s"].as_f64()).context("no outage")?;
    ensure!(outage > 0.5 && outage < 60.0, "{outage}");
    ensure!(lab.ssh(&address, ["ls", "/root/mine", "/root/upgraded"])?.lines().count() == 2);
    ensure!(
        lab.ssh(&address, ["cat", "/etc/machine-id"])?
            == fs::read_to_string(trial.root().join("etc/machine-id"))?.trim()
    );
    ensure!(lab.ssh(&clone, ["true"]).is_err(), "the clone's address is given up");
    ensure!(autostart(lab, "tiny")? && definition(lab, "tiny")?.contains(&format!("{name}-root")));
    ensure!(lab.domains()?.keys().eq(["tiny"]));

    trial.says("rollback tiny --yes", 0)?;
    before.still(lab, "tiny")?;
    ensure!(lab.ssh(&address, ["ls", "/root"])? == "mine");
    ensure!(lab.ssh(&clone, ["ls", "/root"])? == "mine\nupgraded");
    // Its verification is void.
    trial.says("promote tiny --yes", 9)?;
    trial.all(&["verify tiny", "promote tiny --yes", "verify tiny", "commit tiny --yes"])?;

    ensure!(lab.ssh(&address, ["ls", "/root"])? == "mine\nupgraded");
    ensure!(lab.domains()? == domains && autostart(lab, "tiny")?);
    ensure!(!trial.root().exists() && lab.trees()?.len() == trees.len(), "{:?}", lab.trees()?);
    ensure!(trial.run()?.is_none());
    ensure!(!definition(lab, "tiny")?.contains("urn:upgradectl"), "{}", definition(lab, "tiny")?);

    // What stands now is a guest like any other: a restart of the host, and a next run, find it so.
    lab.virsh(["destroy", "tiny"])?;
    trial.start()?;
    trial.all(&["clone tiny", "abort tiny"])
}

#[test]
fn abort_from_every_state_leaves_the_world_as_it_was() -> Result<()> {
    let trial = Trial::tiny()?;
    let lab = &trial.lab;
    let before = Picture::of(lab, "tiny", &trial.root())?;
    let (domains, volumes, id) = (lab.domains()?, subvolumes(lab)?, lab.domain_id("tiny")?);

    let to_upgraded = ["clone tiny", "upgrade tiny"];
    let to_verified = ["clone tiny", "upgrade tiny", "verify tiny"];
    let to_promoted = ["clone tiny", "upgrade tiny", "verify tiny", "promote tiny --yes"];
    let back_again = [&to_promoted[..], &["rollback tiny --yes"]].concat();
    for (state, way) in [
        ("cloned", &to_upgraded[..1]),
        ("upgraded", &to_upgraded[..]),
        ("verified", &to_verified[..]),
        ("promoted", &to_promoted[..]),
        ("upgraded", &back_again[..]),
    ] {
        trial.all(way)?;
        ensure!(trial.state()? == state);
        trial.says("abort tiny --yes", 0)?;
        before.still(lab, "tiny").with_context(|| format!("aborted from {state} after {way:?}"))?;
        ensure!(lab.domains()? == domains && subvolumes(lab)? == volumes, "{:?}", subvolumes(lab)?);
        ensure!(trial.run()?.is_none());
        let promoted = way.iter().any(|verb| verb.starts_with("promote"));
        ensure!(promoted || lab.domain_id("tiny")? == id, "aborting from {state} restarted the original");
        ensure!(lab.ssh(&trial.address(), ["hostname"])? == TINY.name);
    }

    // An upgrade that fails stays where it stopped.
    trial.declare(r#"upgrade = { recipe = "script", run = ["false"] }"#)?;
    trial.all(&["clone tiny"])?;
    trial.says("upgrade tiny", 8)?;
    ensure!(trial.state()? == "upgrading");
    trial.says("verify tiny", 9)?;
    trial.says("abort tiny", 0)?;
    before.still(lab, "tiny")?;
    ensure!(subvolumes(lab)? == volumes);
    trial.declare(QUICK)
}

#[test]
fn what_someone_else_changed_is_not_overwritten() -> Result<()> {
    let trial = Trial::tiny()?;
    let lab = &trial.lab;
    let memory = |kib: u32| format!("<memory unit='KiB'>{kib}</memory>");
    let edit = |from: u32, to: u32| trial.redefine(|text| text.replace(&from.to_string(), &to.to_string()));
    let (found, theirs, later) = (256 << 10, 320 << 10, 384 << 10);
    trial.all(&["clone tiny", "upgrade tiny", "verify tiny"])?;
    edit(found, theirs)?;
    let id = lab.domain_id("tiny")?;

    let said = trial.says("promote tiny --yes", 6)?;
    ensure!(said.stderr.contains("327680") && said.stderr.contains("--theirs"), "{said}");
    ensure!(lab.domain_id("tiny")? == id && trial.state()? == "verified");
    trial.says("promote tiny --yes --theirs", 0)?;
    ensure!(definition(lab, "tiny")?.contains(&memory(theirs)), "the change went live");

    // And once more, while it is promoted: rollback would take it back unseen.
    edit(theirs, later)?;
    let promoted = lab.domain_id("tiny")?;
    let said = trial.says("rollback tiny --yes", 6)?;
    ensure!(said.stderr.contains("393216"), "{said}");
    ensure!(lab.domain_id("tiny")? == promoted, "production went down for a question");
    trial.says("rollback tiny --yes --ours", 0)?;
    ensure!(definition(lab, "tiny")?.contains(&memory(theirs)), "rolled back to what promote found");
    trial.says("abort tiny", 0)?;
    ensure!(definition(lab, "tiny")?.contains(&memory(theirs)), "aborting a clone leaves the original's definition");
    Ok(())
}
