//! Tests of the libvirt backend: on texts, and against libvirt's own `test:///default` driver (no root needed).

mod backend;
mod corpus;
mod text;
