//! What the operator declares: hosts, guests, recipes, checks. Strict TOML; every error names its place.
//!
//! Reads files only; looks at no machine. What a later preflight refuses (platforms and strategies that are not there)
//! loads here.

mod model;
pub mod values;

pub use model::*;
