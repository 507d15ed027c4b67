//! A promotion from an original that was ended instead of shut down.

use anyhow::{Result, ensure};
use integration::walk::{Stage as _, Walk, outage};

use crate::world::World;

/// Ends production by pulling its disks: what it has synced is in its journal. What stands on its volumes goes on from there.
pub fn killed(thick: bool) -> Result<()> {
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

    let said = walk.good("promote", "promoted")?;
    eprintln!("an outage of {:.1} s", outage(&said)?);
    let taken = world.dom0.sh("grep -h 'lvcreate.*replayed' /var/lib/upgradectl/runs/*/output/*.log")?;
    ensure!(taken.lines().count() == 1, "it was replayed more than once:\n{taken}");
    ensure!(world.inside("mercure", "cat home/probe/letter")? == "late", "what only the journal had is carried");
    ensure!(world.needs_recovery("mercure")?, "the original's own journal was replayed");
    let host = world.dom0.output(["ls", "-A", "/home"])?;
    ensure!(host.is_empty(), "the host's own /home was written to: {host}");
    let volumes = world.volumes()?;
    ensure!(!volumes.iter().any(|volume| volume.contains("replayed")), "{volumes:?}");
    walk.write("mercure", "promoted")?;
    walk.reads("mercure", &["last=promoted", "promoted"])
}
