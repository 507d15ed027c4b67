//! The most telling ways of the strategies on real volumes, by the simulated platform ([`crate::world`]): a promotion taken
//! back on thick ones that are disks with partitions, the merge with which `origin` gives up, the renames with which thin ones are committed. All ways of
//! all strategies: `make soak`.

use anyhow::Result;
use integration::walk::Walk;

use crate::divided::divided;
use crate::world::World;

#[test]
fn a_thick_snapshot_of_a_disk_with_partitions_is_promoted_and_taken_back() -> Result<()> {
    divided(true)
}

#[test]
fn a_thick_origin_is_given_up_by_a_merge() -> Result<()> {
    Walk::new(&World::by("origin", true)?, "origin", true).abort_before_promotion()
}

#[test]
fn a_thin_snapshot_is_committed_by_renaming() -> Result<()> {
    Walk::new(&World::by("snapshot", false)?, "snapshot", false).commit()
}
