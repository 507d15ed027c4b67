//! A stuck run: `retry`, `skip`, `abandon`. An undo failed, and only a person can say what is true.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::app::App;
use super::error::{Failure, exit};
use super::invocation::{Finish, Options};
use super::query;
use super::state::Verb;
use crate::engine::{Emitter, Op};
use crate::journal::{EventKind, Holder};

/// What the operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Try the step again.
    Retry,
    /// Take the step as done: the operator saw to it.
    Skip,
    /// Give the run up; what is left is listed.
    Abandon,
}

impl Choice {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Retry, Self::Skip, Self::Abandon];

    /// As it is typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Abandon => "abandon",
        }
    }
}

impl App {
    /// Carries out a decision about a stuck run. `step` is counted from 1 and must be the stuck one.
    pub async fn decide(&self, choice: Choice, word: &str, step: usize, reason: &str, options: &Options) -> Finish {
        let verb = choice.word();
        let started = Instant::now();
        let emit = Arc::new(Emitter::new(self.sink.clone(), word, verb));
        let finish = match self.try_decide(choice, word, step, reason, options, &emit).await {
            Ok(finish) => finish,
            Err(Failure(error)) => Finish { code: error.code, error: Some(error), ..Finish::default() },
        };
        emit.send(finish.event(started.elapsed()));
        finish
    }

    async fn try_decide(
        &self,
        choice: Choice,
        word: &str,
        step: usize,
        reason: &str,
        options: &Options,
        emit: &Arc<Emitter>,
    ) -> Result<Finish, Failure> {
        let journal = self.journal()?;
        let (guest, run) = self.guest(word, Some(&*journal))?;
        let nothing = |why: String, help: &str| {
            Failure::new(exit::STATE, format!("decide about {guest}")).cause(why).help(help.to_owned())
        };
        let run = run.ok_or_else(|| nothing(format!("{guest} has no open run"), "upgradectl status"))?;
        emit.set_run(&run.id);
        let mut held = self.hold(journal, run, options, emit).await?;
        let Some(stuck) = held.run.stuck.clone() else {
            let _ = held.journal.release(&held.lease);
            return Err(nothing(format!("{} is not stuck", held.run.id), "upgradectl status shows what is possible"));
        };
        if stuck.index + 1 != step {
            let _ = held.journal.release(&held.lease);
            let why = format!("{} is stuck at step {}, not {step}", held.run.id, stuck.index + 1);
            return Err(nothing(why, "upgradectl status shows the step"));
        }
        let who = Holder::this_process();
        let note = json!({ "decision": choice.word(), "reason": reason, "by": who.user });
        let result = async {
            held.journal.append(&held.lease, Some(stuck.plan), Some(stuck.index), EventKind::Note, &note)?;
            match choice {
                Choice::Retry => {}
                Choice::Skip => {
                    held.journal.append(&held.lease, Some(stuck.plan), Some(stuck.index), EventKind::Skipped, &note)?;
                    // The step whose undo failed counts as taken back: the operator saw to it.
                    if let Some(past) = query::active(&*held.journal, &held.run.id)?
                        && let Some(Op::Undo(at, _)) = past.plan.steps.get(stuck.index).map(|step| &step.op)
                    {
                        let (plan, index) = (Some(at.plan), Some(at.index));
                        held.journal.append(&held.lease, plan, index, EventKind::Undone, &note)?;
                    }
                }
                Choice::Abandon => {
                    held.tidy_earlier(options).await?;
                    held.journal.set_stuck(&held.lease, None)?;
                    held.journal.finish_plan(&held.lease, stuck.plan, "abandoned", "aborted", true)?;
                    emit.warning(format!(
                        "{} is given up; what it left bears its mark: upgradectl gc --from-world",
                        held.run.id
                    ));
                    return held.finish(exit::DONE, 0.0, None);
                }
            }
            held.journal.set_stuck(&held.lease, None)?;
            held.run.stuck = None;
            held.verb(Verb::Resume, options).await
        }
        .await;
        let _ = held.journal.release(&held.lease);
        result
    }
}
