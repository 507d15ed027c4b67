//! Tests of the xl backend: on texts, and against a Xen in memory that answers as the recorded one did.

mod backend;
mod corpus;
mod fake;
mod recording;
mod text;
mod versions;
