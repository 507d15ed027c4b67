//! The strategies' table on real volumes, by the simulated platform ([`crate::world`]): every way of each strategy, thick and
//! thin. A guest walks all of them, one after the other.

use anyhow::Result;
use integration::walk::Walk;

use crate::divided::divided;
use crate::world::World;

fn walk(strategy: &'static str, thick: bool, ways: impl Fn(&Walk<'_>) -> Result<()>) -> Result<()> {
    let world = World::by(strategy, thick)?;
    ways(&Walk::new(&world, strategy, thick))
}

/// Every way there is and back.
fn all(walk: &Walk<'_>) -> Result<()> {
    walk.abort_before_promotion()?;
    walk.rollback_and_abort()?;
    walk.commit()
}

#[test]
fn snapshot_thick() -> Result<()> {
    walk("snapshot", true, all)
}

#[test]
fn snapshot_thin() -> Result<()> {
    walk("snapshot", false, all)
}

#[test]
fn origin_thick() -> Result<()> {
    walk("origin", true, all)
}

#[test]
fn origin_thin() -> Result<()> {
    walk("origin", false, all)
}

#[test]
fn in_place_thick() -> Result<()> {
    walk("in-place", true, |walk| walk.in_place())
}

#[test]
fn in_place_thin() -> Result<()> {
    walk("in-place", false, |walk| walk.in_place())
}

#[test]
fn snapshot_thin_of_a_disk_with_partitions() -> Result<()> {
    divided(false)
}
