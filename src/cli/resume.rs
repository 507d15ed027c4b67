//! `resume`: of one guest, or of every run whose owner is proven gone.

use clap::Args;

use super::change::{Approval, Hold};
use super::context::Context;
use crate::lifecycle::state::Verb;

/// `resume`.
#[derive(Debug, Args)]
pub(super) struct Resume {
    /// Guest, run, or the end of the run's id
    #[arg(required_unless_present = "interrupted")]
    guest: Option<String>,
    /// Every run that its controller left while production may be down, as the inventory says; asks nothing
    #[arg(long, conflicts_with_all = ["guest", "dry_run"])]
    interrupted: bool,
    #[command(flatten)]
    pub(super) approval: Approval,
    #[command(flatten)]
    hold: Hold,
}

impl Resume {
    pub(super) fn run(&self, context: &Context) -> u8 {
        let options = self.approval.options(&self.hold, context);
        context.with_app(async |app| {
            let Some(guest) = &self.guest else {
                return match app.resume_interrupted(&options).await {
                    Ok(finishes) => {
                        // The first trouble is what a unit should see.
                        let codes = finishes.iter().map(|finish| context.close(app, Verb::Resume.word(), finish));
                        codes.fold(0, |first, code| if first == 0 { code } else { first })
                    }
                    Err(failure) => context.fail(&failure.0),
                };
            };
            let finish = app.change(Verb::Resume, guest, &options).await;
            context.close(app, Verb::Resume.word(), &finish)
        })
    }
}
