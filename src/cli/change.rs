//! The verbs that change the world.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::context::Context;
use super::{resume, run};
use crate::inventory::Strategy;
use crate::inventory::values::{AddressWish, parse_duration};
use crate::lifecycle::app::Options;
use crate::lifecycle::state::Verb;
use crate::steps::Side;

/// Changing verbs; `plan VERB` shows what each would do.
#[derive(Debug, Subcommand)]
pub(super) enum Changing {
    /// Make a quarantined copy of a running guest, under an address of its own
    Clone(CloneArgs),
    /// Upgrade the clone by the guest's recipe; the original keeps serving
    Upgrade(OnGuest),
    /// Check the clone against the original's baseline (promoted: check the guest)
    Verify(OnGuest),
    /// Put the verified clone in the original's place, under its identity
    Promote(OnGuest),
    /// Give production back to the original, as before promote
    Rollback(BackArgs),
    /// Keep the promoted guest for good and remove the old system
    Commit(CommitArgs),
    /// Remove the clone; the original is as before clone, byte for byte
    Abort(BackArgs),
    /// Clone, upgrade and verify, stopping at the first that does not end well
    Run(run::Run),
    /// Go on with an interrupted verb, exactly as planned
    Resume(resume::Resume),
}

/// The plan of a verb.
#[derive(Debug, Args)]
pub(super) struct PlanOf {
    #[command(subcommand)]
    pub(super) verb: Changing,
}

/// A verb on a guest or its run.
#[derive(Debug, Args)]
pub(super) struct OnGuest {
    /// Guest, run, or the end of the run's id (mercure, mercure--k3f9, k3f9)
    guest: String,
    #[command(flatten)]
    approval: Approval,
    #[command(flatten)]
    hold: Hold,
}

/// `commit`.
#[derive(Debug, Args)]
pub(super) struct CommitArgs {
    #[command(flatten)]
    on: OnGuest,
    /// Bring the guest back to the paths of its original; restarts it (an outage, named)
    #[arg(long)]
    rename: bool,
}

/// `rollback` and `abort`.
#[derive(Debug, Args)]
pub(super) struct BackArgs {
    #[command(flatten)]
    on: OnGuest,
    /// Restore this detached disk as it was at promotion, instead of keeping what was written since
    #[arg(long, value_name = "DISK")]
    restore_detached: Vec<String>,
}

/// `clone`.
#[derive(Debug, Args)]
pub(super) struct CloneArgs {
    /// Guest of the inventory
    guest: String,
    #[command(flatten)]
    wishes: Wishes,
    #[command(flatten)]
    approval: Approval,
    #[command(flatten)]
    hold: Hold,
}

/// What a clone should be like.
#[derive(Debug, Args)]
pub(super) struct Wishes {
    /// Address for the clone: last octets (.16), a full address, or dhcp
    #[arg(long, value_name = "[NIC=]ADDR")]
    ip: Vec<AddressWish>,
    /// Hardware address for the clone
    #[arg(long, value_name = "[NIC=]MAC")]
    mac: Vec<String>,
    /// How the clone is made
    #[arg(long, value_enum, value_name = "STRATEGY")]
    strategy: Option<StrategyWord>,
    /// Hostname of the clone; the original's if left out
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Host of the inventory that runs the clone; the guest's own if left out
    #[arg(long, value_name = "HOST")]
    runs_on: Option<String>,
    /// By strategy in-place: accept that abort loses what the guest writes from now on
    #[arg(long)]
    accept_loss: bool,
}

/// Strategies as they are typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum StrategyWord {
    Snapshot,
    Origin,
    Transfer,
    Linked,
    InPlace,
}

impl From<StrategyWord> for Strategy {
    fn from(word: StrategyWord) -> Self {
        match word {
            StrategyWord::Snapshot => Self::Snapshot,
            StrategyWord::Origin => Self::Origin,
            StrategyWord::Transfer => Self::Transfer,
            StrategyWord::Linked => Self::Linked,
            StrategyWord::InPlace => Self::InPlace,
        }
    }
}

/// Looking and approving.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Approval {
    /// Show the plan only; touches nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Approve the page just printed; decides nothing
    #[arg(short, long)]
    pub(super) yes: bool,
    /// Approve this plan only: if the facts changed, end with 6 and the new page
    #[arg(long, value_name = "DIGEST", conflicts_with = "yes", value_parser = digest)]
    pub(super) approve: Option<String>,
}

/// The run's lock, and objects that someone else changed.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Hold {
    /// Wait so long for another upgradectl on this run (90s, 15m)
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// End the other upgradectl on this run first
    #[arg(long)]
    take_over: bool,
    /// Where someone else changed an object: ours wins
    #[arg(long, conflicts_with = "theirs")]
    ours: bool,
    /// Where someone else changed an object: theirs wins
    #[arg(long)]
    theirs: bool,
}

fn digest(text: &str) -> Result<String, String> {
    let hex = text.len() == 6 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if hex { Ok(text.to_owned()) } else { Err("a plan's digest has six digits, such as 5f2c91".to_owned()) }
}

impl Hold {
    pub(super) fn options(&self) -> Options {
        let decision = match (self.ours, self.theirs) {
            (true, _) => Some(Side::Ours),
            (_, true) => Some(Side::Theirs),
            _ => None,
        };
        Options { wait: self.wait.unwrap_or_default(), take_over: self.take_over, decision, ..Options::default() }
    }
}

impl Approval {
    pub(super) fn options(&self, hold: &Hold, context: &Context) -> Options {
        Options {
            dry_run: self.dry_run || context.plan_only,
            yes: self.yes,
            approve: self.approve.clone(),
            ..hold.options()
        }
    }
}

impl Wishes {
    pub(super) fn fill(&self, options: Options) -> Options {
        Options {
            ip: self.ip.clone(),
            mac: self.mac.clone(),
            strategy: self.strategy.map(Strategy::from),
            hostname: self.hostname.clone(),
            runs_on: self.runs_on.clone(),
            accept_loss: self.accept_loss,
            ..options
        }
    }
}

impl Changing {
    pub(super) fn dry_run(&self) -> bool {
        match self {
            Self::Clone(clone) => clone.approval.dry_run,
            Self::Run(run) => run.approval.dry_run,
            Self::Commit(commit) => commit.on.approval.dry_run,
            Self::Resume(resume) => resume.approval.dry_run,
            Self::Rollback(back) | Self::Abort(back) => back.on.approval.dry_run,
            Self::Upgrade(on) | Self::Verify(on) | Self::Promote(on) => on.approval.dry_run,
        }
    }

    pub(super) fn run(&self, context: &Context) -> u8 {
        let (verb, guest, options) = match self {
            Self::Run(run) => return run.run(context),
            Self::Resume(resume) => return resume.run(context),
            Self::Clone(clone) => {
                let options = clone.approval.options(&clone.hold, context);
                (Verb::Clone, &clone.guest, clone.wishes.fill(options))
            }
            Self::Upgrade(on) => on.verb(Verb::Upgrade, context),
            Self::Verify(on) => on.verb(Verb::Verify, context),
            Self::Promote(on) => on.verb(Verb::Promote, context),
            Self::Rollback(back) => back.verb(Verb::Rollback, context),
            Self::Commit(commit) => {
                let (verb, guest, options) = commit.on.verb(Verb::Commit, context);
                (verb, guest, Options { rename: commit.rename, ..options })
            }
            Self::Abort(back) => back.verb(Verb::Abort, context),
        };
        context.with_app(async |app| {
            let finish = app.change(verb, guest, &options).await;
            context.close(app, verb.word(), &finish)
        })
    }
}

impl BackArgs {
    fn verb(&self, verb: Verb, context: &Context) -> (Verb, &String, Options) {
        let (verb, guest, options) = self.on.verb(verb, context);
        (verb, guest, Options { restore_detached: self.restore_detached.clone(), ..options })
    }
}

impl OnGuest {
    fn verb(&self, verb: Verb, context: &Context) -> (Verb, &String, Options) {
        (verb, &self.guest, self.approval.options(&self.hold, context))
    }
}
