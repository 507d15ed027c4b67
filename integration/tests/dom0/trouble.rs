//! What can go wrong with real volumes ([`super::world`]): a snapshot that fills up, a volume group without room, and an
//! original that was ended instead of shut down.

use anyhow::{Result, ensure};

use super::walk::{Stage as _, Walk, ending, same};
use super::world::World;

#[test]
fn a_full_snapshot_loses_the_clone_and_nothing_else() -> Result<()> {
    let world = World::new(true, ", snapshot = { size = \"32M\" }", "")?;
    let walk = Walk::new(&world, "snapshot", true);
    let before = world.around()?;
    walk.good("clone", "cloned")?;
    let run = walk.run()?;
    walk.write("mercure", "production")?;
    world.inside("mercure", "head -c 64M /dev/zero | tr '\\0' 'x' > root-much; sync -f .; rm root-much")?;
    let snapshot = world.dom0.vg().volume(&format!("{run}-root"))?;
    ensure!(snapshot.attr.starts_with("swi-I"), "{snapshot:?}");

    walk.write("mercure", "after")?;
    let said = walk.ctl("upgrade", &[])?;
    ensure!(said.code == 7, "{said}");
    for word in ["is lost", "the clone is lost with it, mercure is not", "upgradectl abort mercure"] {
        ensure!(said.stdout.contains(word), "{word:?} is not said: {said}");
    }
    walk.reads("mercure", &["after", "last=after", "production"])?;
    let said = walk.good("abort", "aborted")?;
    ensure!(ending(&said)?["outage_s"] == 0.0, "{said}");
    walk.reads("mercure", &["after", "last=after", "production"])?;
    walk.back(&before)
}

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

/// Ends production by pulling its disks: what it has synced is in its journal. What stands on its volumes goes on from there.
fn killed(thick: bool) -> Result<()> {
    let carry = "carry = [{ kind = \"rsync\", path = \"/home/\" }]\n";
    let world = World::new(thick, "", carry)?;
    let walk = Walk::new(&world, "snapshot", thick);
    walk.good("clone", "cloned")?;
    walk.good("upgrade", "upgraded")?;
    walk.good("verify", "verified")?;
    walk.write("mercure", "production")?;
    world.inside("mercure", "echo late > home/probe/letter; sync -f .")?;
    world.kill("mercure")?;
    ensure!(world.needs_recovery("mercure")?, "the original's journal is clean");

    walk.good("promote", "promoted")?;
    ensure!(world.inside("mercure", "cat home/probe/letter")? == "late", "what only the journal had is carried");
    ensure!(world.needs_recovery("mercure")?, "the original's own journal was replayed");
    let volumes = world.volumes()?;
    ensure!(!volumes.iter().any(|volume| volume.contains("replayed")), "{volumes:?}");
    walk.write("mercure", "promoted")?;
    walk.good("abort", "aborted")?;
    walk.reads("mercure", &["last=production", "production"])?;
    ensure!(world.inside("mercure", "cat home/probe/letter")? == "late", "it replays its journal when it starts");
    walk.own_volumes()
}

#[test]
fn a_killed_original_is_carried_from_a_thick_snapshot() -> Result<()> {
    killed(true)
}

#[test]
fn soak_a_killed_original_is_carried_from_a_thin_snapshot() -> Result<()> {
    killed(false)
}

/// Production stands on a thick snapshot, of which there is no other.
#[test]
fn soak_a_killed_thick_snapshot_is_not_promoted() -> Result<()> {
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
#[test]
fn soak_abort_from_every_state() -> Result<()> {
    for thick in [true, false] {
        for strategy in ["snapshot", "origin"] {
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
            walk.abort_after_rollback()?;
        }
    }
    Ok(())
}
