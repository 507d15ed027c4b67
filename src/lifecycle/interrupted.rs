//! Runs whose owner is proven gone while production may be down: what `resume --interrupted` does, at boot and every
//! minute. Declaring it in the inventory approves it.

use std::sync::Arc;
use std::time::Instant;

use hypervisors::{Hypervisor, Power};

use super::app::App;
use super::back::Past;
use super::error::{Failure, exit};
use super::invocation::{Finish, Options};
use super::query;
use super::record::RunFacts;
use super::state::{State, Verb};
use crate::engine::{Emitter, Op, history};
use crate::inventory::IfInterrupted;
use crate::journal::{Journal, RunRecord};
use crate::steps::Action;

/// What is done about an interrupted run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The verb goes on.
    Resume,
    /// Back to the original.
    Rollback,
    /// Back to before the run: production had not moved yet.
    Abort,
    /// A person decides.
    Wait,
}

/// Whether the interrupted verb holds production down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// It does not.
    No,
    /// Production may be frozen for the instant of a copy.
    Frozen,
    /// Production may be stopped.
    Stopped,
}

/// Decides. `live`: the promoted guest has started (by strategy `origin`: production on its snapshot). Pure.
pub fn decide(state: State, down: Down, declared: Option<IfInterrupted>, live: bool) -> Decision {
    match (state, declared) {
        (State::Promoting, Some(IfInterrupted::Wait)) => Decision::Wait,
        (State::Promoting, Some(IfInterrupted::Resume)) => Decision::Resume,
        (State::Promoting, Some(IfInterrupted::Rollback)) => Decision::Rollback,
        (State::Promoting, None) if live => Decision::Resume,
        (State::Promoting, None) => Decision::Rollback,
        (State::Cloning, _) if down == Down::Stopped && !live => Decision::Abort,
        _ if down != Down::No => Decision::Resume,
        _ => Decision::Wait,
    }
}

impl App {
    /// Takes every run whose owner is proven gone and does with it as declared.
    ///
    /// # Errors
    /// If the journal cannot be read; what happens to a run is in its own finish.
    pub async fn resume_interrupted(&self, options: &Options) -> Result<Vec<Finish>, Failure> {
        let Some(_) = self.journal_read_only()? else { return Ok(Vec::new()) };
        let journal: Arc<dyn Journal> = self.journal()?;
        let mut finishes = Vec::new();
        for run in journal.runs(true)? {
            let emit = Arc::new(Emitter::new(self.sink.clone(), &run.guest, Verb::Resume.word()));
            emit.set_run(&run.id);
            let started = Instant::now();
            // One run that cannot be helped must not keep the others waiting.
            let finish = match self.interrupted(&journal, run, options, &emit).await {
                Ok(Some(finish)) => finish,
                Ok(None) => continue,
                Err(Failure(error)) => Finish { code: error.code, error: Some(error), ..Finish::default() },
            };
            emit.send(finish.event(started.elapsed()));
            finishes.push(finish);
        }
        Ok(finishes)
    }

    async fn interrupted(
        &self,
        journal: &Arc<dyn Journal>,
        run: RunRecord,
        options: &Options,
        emit: &Arc<Emitter>,
    ) -> Result<Option<Finish>, Failure> {
        let Some(state) = State::parse(&run.state).filter(|state| state.in_progress()) else { return Ok(None) };
        // A verb that ended by itself gave its lease back and told why: a person's to decide, unless it left production
        // down. The lease is not looked at alone: a page that was only read, or declined, took and gave it back too.
        let due = match journal.holder(&run.id)?.1 {
            Some(holder) => holder.is_gone(),
            None => history::open_outage(&journal.events(&run.id)?).is_some(),
        };
        let past = query::active(&**journal, &run.id)?;
        let Some(past) = past.filter(|_| due && run.stuck.is_none()) else { return Ok(None) };
        let record: RunFacts = serde_json::from_value(run.facts.clone())?;
        let hypervisor = self.sides(&record)?.production;
        let spec = self.spec(&run.guest)?;
        let outage = past.plan.steps.iter().any(|step| step.outage_begins);
        let down = match outage {
            true => Down::Stopped,
            false => down(state, power(&record, &spec.name, &*hypervisor).await?),
        };
        let undoing = past.plan.undoes.is_some();
        let live = is_live(&past, &*hypervisor).await?;
        let declared = spec.promote.if_interrupted.filter(|_| !undoing);
        let decision = if undoing { Decision::Resume } else { decide(state, down, declared, live) };
        let left =
            past.plan.steps.iter().zip(&past.histories).any(|(step, past)| step.temporary && past.to_be_undone());
        if decision == Decision::Wait && !left {
            return Ok(None);
        }
        let mut held = self.hold(journal.clone(), run, options, emit).await?;
        let options = Options { yes: true, ..options.clone() };
        let result = match decision {
            // The verb waits for a person; what was to live inside it alone does not.
            Decision::Wait => held.tidy_earlier(&options).await.map(|()| None),
            Decision::Resume => held.verb(Verb::Resume, &options).await.map(Some),
            Decision::Abort => held.verb(Verb::Abort, &options).await.map(Some),
            Decision::Rollback => held.verb(Verb::Rollback, &options).await.map(Some),
        };
        let _ = held.journal.release(&held.lease);
        result
    }
}

/// Whether production is down, by its power, in a verb that does not stop it.
fn down(state: State, power: Power) -> Down {
    match power {
        // Its host went down, and could not start it: its volumes had been renamed, and its definition did not say so yet.
        Power::Off if state == State::Committing => Down::Stopped,
        // A guest frozen for the instant of a snapshot is as good as down.
        Power::Paused => Down::Frozen,
        _ => Down::No,
    }
}

/// A machine's power, by its instance UUID; `None`: it is gone.
async fn of_machine(uuid: &str, hypervisor: &dyn Hypervisor) -> Result<Option<Power>, Failure> {
    let Some(machines) = hypervisor.machines() else { return Ok(None) };
    Ok(machines.machine(uuid).await?.map(|facts| facts.power))
}

/// Production's power: of a machine by its UUID, whatever it is called by now.
async fn power(record: &RunFacts, name: &str, hypervisor: &dyn Hypervisor) -> Result<Power, Failure> {
    match record.machine.as_ref().and_then(|machine| machine.vm.as_ref()) {
        Some(vm) => of_machine(&vm.uuid, hypervisor).await?.ok_or_else(|| {
            Failure::new(exit::REFUSED, format!("ask for the power of {name}")).cause("its machine is gone")
        }),
        None => Ok(hypervisor.power(name).await?),
    }
}

/// Whether the promoted guest has started: by the journal, or, if only the intent is there, by looking.
async fn is_live(past: &Past, hypervisor: &dyn Hypervisor) -> Result<bool, Failure> {
    for (step, history) in past.plan.steps.iter().zip(&past.histories).filter(|(step, _)| step.goes_live) {
        if !history.to_be_undone() {
            continue;
        }
        if history.status == history::Status::Done {
            return Ok(true);
        }
        return Ok(match &step.op {
            Op::Do(Action::Start(start)) => hypervisor.power(&start.guest).await? == Power::On,
            Op::Do(Action::StartMachine(start)) => of_machine(&start.of.uuid, hypervisor).await? == Some(Power::On),
            _ => continue,
        });
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undeclared_goes_back_until_it_is_live() {
        assert_eq!(decide(State::Promoting, Down::Stopped, None, false), Decision::Rollback);
        assert_eq!(decide(State::Promoting, Down::Stopped, None, true), Decision::Resume);
    }

    #[test]
    fn what_is_declared_is_done() {
        for live in [false, true] {
            assert_eq!(decide(State::Promoting, Down::Stopped, Some(IfInterrupted::Wait), live), Decision::Wait);
            assert_eq!(decide(State::Promoting, Down::Stopped, Some(IfInterrupted::Resume), live), Decision::Resume);
            assert_eq!(
                decide(State::Promoting, Down::Stopped, Some(IfInterrupted::Rollback), live),
                Decision::Rollback
            );
        }
    }

    #[test]
    fn other_verbs_go_on_only_if_production_may_be_down() {
        assert_eq!(decide(State::RollingBack, Down::Stopped, None, false), Decision::Resume);
        assert_eq!(decide(State::Upgrading, Down::No, None, false), Decision::Wait);
        assert_eq!(decide(State::Cloning, Down::No, None, false), Decision::Wait);
        assert_eq!(decide(State::Cloning, Down::Frozen, None, false), Decision::Resume);
    }

    #[test]
    fn a_clone_that_moves_production_is_given_up_until_production_has_moved() {
        assert_eq!(decide(State::Cloning, Down::Stopped, None, false), Decision::Abort);
        assert_eq!(decide(State::Cloning, Down::Stopped, None, true), Decision::Resume);
    }
}
