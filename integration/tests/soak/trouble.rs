//! What can go wrong with real volumes ([`crate::world`]), as far as the dom0 ring has no time for it.

use anyhow::{Result, ensure};
use integration::walk::{Stage as _, Walk, ending, same};

use crate::killed::killed;
use crate::world::World;

#[test]
fn without_room_nothing_is_touched() -> Result<()> {
    let world = World::by("origin", true)?;
    let walk = Walk::new(&world, "origin", true);
    // 200 MiB are left, covering is 456.
    world
        .dom0
        .sh("lvcreate -q -y -l 100%FREE -n full vg1; lvreduce -q -y -f -L -200m vg1/full; lvchange -q -a n vg1/full")?;
    let before = world.around()?;
    let said = walk.ctl("clone", &[])?;
    ensure!(said.code == 7, "{said}");
    let error = ending(&said)?["error"].to_string();
    ensure!(error.contains("MiB") && error.contains("make room in the volume group"), "{said}");
    same(&before, &world.around()?, "refused")?;
    // By `snapshot` there is room for the estimate, and promotion is refused where there is none to cover.
    let volumes = world.volumes()?;
    walk.leads("clone", &["--strategy", "snapshot"], "cloned")?;
    walk.good("upgrade", "upgraded")?;
    walk.good("verify", "verified")?;
    let said = walk.ctl("promote", &[])?;
    ensure!(said.code != 0 && said.stdout.contains("make room in the volume group"), "{said}");
    walk.write("mercure", "serves")?;
    walk.good("abort", "aborted")?;
    ensure!(world.volumes()? == volumes, "{:?}", world.volumes()?);
    same(&before, &world.around()?, "aborted")
}

#[test]
fn a_killed_original_is_carried_from_a_thin_snapshot() -> Result<()> {
    killed(false)
}

/// Production stands on a thick snapshot, of which there is no other.
#[test]
fn a_killed_thick_snapshot_is_not_promoted() -> Result<()> {
    let world = World::by("origin", true)?;
    let walk = Walk::new(&world, "origin", true);
    walk.good("clone", "cloned")?;
    let run = walk.run()?;
    walk.good("upgrade", "upgraded")?;
    walk.good("verify", "verified")?;
    walk.write("mercure", "production")?;
    world.kill("mercure")?;
    let said = walk.ctl("promote", &[])?;
    ensure!(said.code == 1 && said.stdout.contains("its journal is not clean"), "{said}");
    ensure!(world.needs_recovery(&format!("{run}-root"))?, "production's journal was replayed");
    walk.good("abort", "aborted")?;
    walk.reads("mercure", &["last=production", "production"])?;
    walk.own_volumes()
}

/// Given up from each state that the walks do not give up from.
fn abort_from_every_state(strategy: &'static str, thick: bool) -> Result<()> {
    let world = World::by(strategy, thick)?;
    let walk = Walk::new(&world, strategy, thick);
    let before = world.around()?;
    let way = [("clone", "cloned"), ("upgrade", "upgraded"), ("verify", "verified")];
    for last in [1, 3] {
        for (verb, state) in way.iter().take(last) {
            walk.good(verb, state)?;
        }
        walk.write("mercure", &format!("state{last}"))?;
        walk.good("abort", "aborted")?;
        walk.back(&before)?;
    }
    walk.reads("mercure", &["last=state3", "state1", "state3"])?;
    walk.abort_after_rollback()
}

#[test]
fn abort_from_every_state_by_snapshot_thick() -> Result<()> {
    abort_from_every_state("snapshot", true)
}

#[test]
fn abort_from_every_state_by_snapshot_thin() -> Result<()> {
    abort_from_every_state("snapshot", false)
}

#[test]
fn abort_from_every_state_by_origin_thick() -> Result<()> {
    abort_from_every_state("origin", true)
}

#[test]
fn abort_from_every_state_by_origin_thin() -> Result<()> {
    abort_from_every_state("origin", false)
}
