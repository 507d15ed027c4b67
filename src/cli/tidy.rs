//! Setting up, looking for trouble and tidying up: `init`, `doctor`, `gc`.

use clap::Args;
use serde_json::json;

use super::context::Context;
use crate::lifecycle::{gc, init};
use crate::output::{self, json, out};

/// `init`.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// A host of this machine to declare in the new inventory (libvirt)
    host: Option<String>,
    /// Make a simulated world to practise in; needs no root with -i and --state
    #[arg(long, conflicts_with = "host")]
    sim: bool,
    /// With --sim: instead, a fleet of so many guests, and a batch file for them
    #[arg(long, requires = "sim", value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    guests: Option<u16>,
}

impl Init {
    pub(super) fn run(&self, context: &Context) -> u8 {
        let (inventory, state) = (context.inventory_path(), &context.state);
        let done = match self.guests {
            Some(guests) => init::fleet(inventory, state, guests.into()),
            None => init::init(inventory, state, self.host.as_deref(), self.sim),
        };
        match done {
            Ok(done) if context.json() => json::object(json!(done)),
            Ok(done) => out(&output::tidy::init(&done)),
            Err(failure) => return context.fail(&failure.0),
        }
        0
    }
}

/// `gc`.
#[derive(Debug, Args)]
pub(super) struct Gc {
    /// The state directory was lost: runs that it does not know are over
    #[arg(long)]
    from_world: bool,
    /// Take the mark off this object instead of removing anything
    #[arg(long, value_name = "OBJECT", conflicts_with = "from_world")]
    adopt: Option<String>,
    /// List what would be removed; touches nothing
    #[arg(long)]
    dry_run: bool,
    /// Approve the list just printed
    #[arg(short, long)]
    yes: bool,
}

impl Gc {
    pub(super) fn dry_run(&self) -> bool {
        self.dry_run
    }

    pub(super) fn run(&self, context: &Context) -> u8 {
        let wish =
            gc::Wish { from_world: self.from_world, adopt: self.adopt.clone(), yes: self.yes, dry_run: self.dry_run };
        let show = |found: &gc::Collected| {
            if !context.json() {
                out(&output::tidy::found(found));
            }
        };
        context.with_app(async |app| match app.gc(&wish, &show).await {
            Ok(done) if context.json() => {
                json::line(&done);
                done.exit_code
            }
            Ok(done) => {
                out(&output::tidy::collected(&done));
                if let Some(error) = &done.error {
                    context.fail(error);
                }
                done.exit_code
            }
            Err(failure) => context.fail(&failure.0),
        })
    }
}

/// `doctor`.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// A host or guest of the inventory; everything if left out
    what: Option<String>,
}

impl Doctor {
    pub(super) fn run(&self, context: &Context) -> u8 {
        context.with_app(async |app| match app.doctor(self.what.as_deref()).await {
            Ok(diagnosis) => {
                if context.json() {
                    json::line(&diagnosis);
                } else {
                    out(&output::tidy::doctor(&diagnosis, context.style()));
                }
                diagnosis.exit_code()
            }
            Err(failure) => context.fail(&failure.0),
        })
    }
}
