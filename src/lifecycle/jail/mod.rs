//! Runs on a jail of its own dataset by strategy `snapshot`: a clone of the dataset becomes the tree of a second jail on the same host, which is
//! upgraded from there, stopped, and takes the original's name and address.
//!
//! A jail's tree is opened on its host alone, by commands. So the plans are those of a server that becomes a jail ([`super::transfer`]) where the
//! two are alike: identity, base system, first start. There is no parking: both jails are of one host, which says what runs. The original
//! stays defined by its own definition, which promotion points to the clone's tree.
//!
//! * `facts`: what is known of the jail and its host, and what is refused before anything is touched.
//! * `clone`, `promote`, `commit`: the plan of each verb. `run`: a run under its lease.

mod clone;
mod commit;
mod facts;
mod promote;
mod run;

use std::path::PathBuf;

use hypervisors::VolumeRef;

use super::error::{Failure, exit};
use super::record::RunFacts;
use facts::Facts;

/// The tree of a run's jail on its host, a server's or another jail's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JailTree {
    /// The tree.
    pub root: PathBuf,
    /// The run's own directory beside it.
    pub scratch: PathBuf,
    /// Release of the original.
    pub release: String,
}

impl JailTree {
    /// That of a run.
    ///
    /// # Errors
    /// It is no run on a jail.
    pub fn of(record: &RunFacts) -> Result<Self, Failure> {
        if let Some(run) = &record.transfer {
            return Ok(Self { root: run.root.clone(), scratch: run.scratch.clone(), release: run.release.clone() });
        }
        let root = both(record)?.1.path.clone();
        let directory = root.parent().unwrap_or(&root);
        let scratch = directory.join(hypervisors::jail::RUNS).join(&record.clone.name);
        Ok(Self { scratch, root, release: record.codename.clone() })
    }
}

/// The original's volume and the clone's.
fn both(record: &RunFacts) -> Result<(&VolumeRef, &VolumeRef), Failure> {
    record.root().ok_or_else(|| {
        Failure::new(exit::JOURNAL, format!("read {}", record.clone.name)).cause("nothing is remembered of its tree")
    })
}
