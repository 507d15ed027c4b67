//! debian
pub mod apt;
pub mod release;
pub mod sources;
