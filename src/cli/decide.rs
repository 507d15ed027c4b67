//! `retry`, `skip`, `abandon`: a person decides about a stuck run.

use clap::{Args, Subcommand};

use super::change::Hold;
use super::context::Context;
use crate::lifecycle::decide::Choice;

/// Decisions.
#[derive(Debug, Subcommand)]
pub(super) enum Deciding {
    /// Try the step again that a stuck run could not take back
    Retry(Decision),
    /// Take the stuck step as done: you saw to it yourself
    Skip(Decision),
    /// Give a stuck run up; what it leaves behind is named
    Abandon(Decision),
}

/// A decision, with its reason for the record.
#[derive(Debug, Args)]
pub(super) struct Decision {
    /// Guest, run, or the end of the run's id
    guest: String,
    /// The stuck step, as `status` shows it
    #[arg(long, value_name = "N")]
    step: usize,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    hold: Hold,
}

impl Deciding {
    pub(super) fn run(&self, context: &Context) -> u8 {
        let (choice, verb, decision) = match self {
            Self::Retry(decision) => (Choice::Retry, "retry", decision),
            Self::Skip(decision) => (Choice::Skip, "skip", decision),
            Self::Abandon(decision) => (Choice::Abandon, "abandon", decision),
        };
        let options = decision.hold.options();
        context.with_app(async |app| {
            let finish = app.decide(choice, &decision.guest, decision.step, &decision.reason, &options).await;
            context.close(app, verb, &finish)
        })
    }
}
