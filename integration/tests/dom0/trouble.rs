//! What can go wrong with real volumes ([`crate::world`]): a snapshot that fills up, an original that was ended instead of
//! shut down. More of it: `make soak`.

use anyhow::{Result, ensure};
use integration::walk::{Stage as _, Walk, ending};

use crate::killed::killed;
use crate::world::World;

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
fn a_killed_original_is_carried_from_a_thick_snapshot() -> Result<()> {
    killed(true)
}
