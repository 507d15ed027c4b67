//! `run`: one verb after the other, as long as each ends well.

use clap::Args;

use super::change::{Approval, Hold, Wishes};
use super::context::Context;
use crate::lifecycle::state::Verb;

/// `run`.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Guest of the inventory
    guest: String,
    /// Promote it too, if the verification passed
    #[arg(long)]
    promote: bool,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    pub(super) approval: Approval,
    #[command(flatten)]
    hold: Hold,
}

impl Run {
    pub(super) fn run(&self, context: &Context) -> u8 {
        let options = self.wishes.fill(self.approval.options(&self.hold, context));
        // Only the first plan can be made before anything is done.
        let verbs: &[Verb] = match (options.dry_run, self.promote) {
            (true, _) => &[Verb::Clone],
            (false, false) => &[Verb::Clone, Verb::Upgrade, Verb::Verify],
            (false, true) => &[Verb::Clone, Verb::Upgrade, Verb::Verify, Verb::Promote],
        };
        context.with_app(async |app| {
            for verb in verbs {
                let finish = app.change(*verb, &self.guest, &options).await;
                let code = context.close(app, verb.word(), &finish);
                if code != 0 {
                    return code;
                }
            }
            0
        })
    }
}
