//! Setting up and tidying up: `init`.

use clap::Args;
use serde_json::json;

use super::context::Context;
use crate::lifecycle::init;
use crate::output::{self, json, out};

/// `init`.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// A host of this machine to declare in the new inventory (libvirt)
    host: Option<String>,
    /// Make a simulated world to practise in; needs no root with -i and --state
    #[arg(long, conflicts_with = "host")]
    sim: bool,
}

impl Init {
    pub(super) fn run(&self, context: &Context) -> u8 {
        match init::init(context.inventory_path(), &context.state, self.host.as_deref(), self.sim) {
            Ok(done) if context.json() => json::object(json!(done)),
            Ok(done) => out(&output::tidy::init(&done)),
            Err(failure) => return context.fail(&failure.0),
        }
        0
    }
}
