//! upgradectl: clone a guest from a snapshot, upgrade the clone, verify it, put it in the original's place.
//!
//! WHAT happens in WHICH order, safely. How a platform does it is the crate `hypervisors`. Arrows between the
//! modules only point down this list (a test reads the `use` lines):
//!
//! `cli` → `output` → `batch` → `lifecycle` → `inventory` → `engine` → `journal`, `engine` → `steps` → `recipe` →
//! `verify`, `guest` → `hypervisors`.

pub mod batch;
pub mod cli;
pub mod engine;
#[doc(hidden)]
pub mod fuzz;
pub mod guest;
pub mod inventory;
pub mod journal;
pub mod lifecycle;
pub mod output;
pub mod recipe;
pub mod steps;
pub mod verify;
