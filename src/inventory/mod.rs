//! What the operator declares: hosts, guests, recipes, checks. Strict TOML; every error names its place.
//!
//! Reads files only; looks at no machine. What a later preflight refuses (platforms and strategies that are not there)
//! loads here.

mod checks;
mod guests;
mod hosts;
mod load;
mod model;
pub(crate) mod read;
pub mod values;

pub use load::{InventoryError, load};
pub(crate) use load::{load_other, parse_text};
pub use model::*;
pub use read::Problem;

/// The inventory that `init` writes: every key, commented.
pub const STARTER: &str = include_str!("../../templates/inventory.toml");

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod hostile_tests;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
