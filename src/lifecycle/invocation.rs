//! What the command line gives an invocation, and what it gets back.

use std::time::Duration;

use super::page::Proposal;
use super::record::RunFacts;
use super::state::State;
use crate::engine::EventBody;
use crate::inventory::Strategy;
use crate::inventory::values::AddressWish;
use crate::steps::Side as Decision;

/// Asks the operator. Implemented by the command line.
pub trait Front: Send + Sync {
    /// Shows a plan. `asking`: an answer is about to be asked for.
    fn show(&self, proposal: &Proposal, asking: bool);
    /// Asks for the word; `None` if nobody can be asked.
    fn confirm(&self, word: &str) -> Option<bool>;
    /// Asks yes or no, the latter if nothing is typed; `None` if nobody can be asked. `interrupted`: exit code of a Ctrl-C.
    fn ask(&self, question: &str, interrupted: u8) -> Option<bool>;
}

/// What the command line says beside verb and guest.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Addresses for the clone.
    pub ip: Vec<AddressWish>,
    /// Hardware addresses for the clone, `[NIC=]MAC`.
    pub mac: Vec<String>,
    /// Strategy.
    pub strategy: Option<Strategy>,
    /// Hostname of the clone.
    pub hostname: Option<String>,
    /// `rollback`, `abort`: detached data to restore as it was at promotion, named as in the definition.
    pub restore_detached: Vec<String>,
    /// Host that runs the clone.
    pub runs_on: Option<String>,
    /// `commit`: the guest returns to the paths of its original.
    pub rename: bool,
    /// `clone` by strategy `in-place`: what production writes from then on is lost by `abort`, and that is accepted.
    pub accept_loss: bool,
    /// Plan only.
    pub dry_run: bool,
    /// Approves the page just printed.
    pub yes: bool,
    /// Approves this plan only.
    pub approve: Option<String>,
    /// How long to wait for the lock.
    pub wait: Duration,
    /// End the old holder first.
    pub take_over: bool,
    /// Whose version of an object wins.
    pub decision: Option<Decision>,
}

/// How an invocation ended.
#[derive(Clone, Debug, Default)]
pub struct Finish {
    /// Run.
    pub run: Option<String>,
    /// State it is in.
    pub state: Option<State>,
    /// Exit code.
    pub code: u8,
    /// Seconds production was down.
    pub outage_s: f64,
    /// What went wrong.
    pub error: Option<crate::engine::ErrorInfo>,
    /// Verbs to go on with.
    pub next: Vec<String>,
    /// The run's facts, for the closing words.
    pub record: Option<RunFacts>,
    /// Nothing was carried out: this was a plan.
    pub planned: bool,
}

impl Finish {
    /// The last event of a verb.
    pub(super) fn event(&self, elapsed: Duration) -> EventBody {
        EventBody::VerbFinished {
            state: self.state.map(|state| state.word().to_owned()),
            exit_code: self.code,
            elapsed_s: elapsed.as_secs_f64(),
            outage_s: self.outage_s,
            error: self.error.clone(),
            next: self.next.clone(),
        }
    }
}
