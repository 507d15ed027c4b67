//! A verb and the fill of the run's snapshots: what a lost or paused clone bars, and the watch beside a plan at work.

use std::time::Duration;

use hypervisors::storage::Copies;

use super::back::Past;
use super::error::{Failure, exit};
use super::fill::Seen;
use super::held::Held;
use super::invocation::Options;
use super::state::{State, Verb};
use super::watch::Watched;
use crate::engine::{Ended, Plan, Report};
use crate::inventory::Strategy;

impl Held<'_> {
    /// The watch of this run, if its copies can fill.
    fn watch(&self) -> Option<Watched> {
        let fills = self.record.copying != Copies::Trees;
        fills.then(|| {
            let (journal, hypervisor) = (self.journal.clone(), self.clone.clone());
            Watched::new(journal, hypervisor, self.record.clone(), Some(&self.spec), Duration::from_secs(30))
        })
    }

    /// What watches while this plan is carried out. Verbs that discard or fold the snapshots need none.
    pub(super) fn watched(&self, plan: &Plan) -> Option<Watched> {
        let watch = self.watch()?;
        match plan.verb.as_str() {
            _ if plan.undoes.is_some() => None,
            "clone" | "upgrade" | "verify" => Some(watch),
            // The clone is about to be stopped, and its snapshot secured.
            "promote" => Some(watch.without_pausing()),
            _ => None,
        }
    }

    /// A verb that works with the clone is refused if the clone is lost, or paused for want of room.
    pub(super) async fn needs_the_clone(
        &self,
        verb: Verb,
        state: State,
        active: Option<&Past>,
        options: &Options,
    ) -> Result<(), Failure> {
        let works_with_it = match verb {
            Verb::Upgrade | Verb::Promote => true,
            Verb::Verify => state != State::Promoted,
            // A promotion that was cut short has to end one way or the other, and by then its snapshot cannot fill.
            Verb::Resume => active.is_some_and(|past| {
                past.plan.undoes.is_none() && matches!(past.plan.verb.as_str(), "upgrade" | "verify")
            }),
            Verb::Clone | Verb::Rollback | Verb::Commit | Verb::Abort => false,
        };
        let on_snapshot = self.record.strategy == Strategy::Snapshot && !matches!(state, State::Cloning);
        let Some(watch) = self.watch().filter(|_| works_with_it && on_snapshot) else {
            return Ok(());
        };
        let Some(why) = watch.usable(&self.lease, !options.dry_run).await? else { return Ok(()) };
        let lost = Seen::read(&self.record.run_dir).0.values().any(|history| history.lost.is_some());
        let failure = Failure::new(exit::REFUSED, format!("{} {}", verb.word(), self.spec.name)).cause(why);
        Err(match lost {
            true => failure.help(format!("upgradectl abort {} removes what is left of the clone", self.spec.name)),
            false => failure.help(format!(
                "make room where its snapshot lies and type the verb again; or upgradectl abort {}",
                self.spec.name
            )),
        })
    }

    /// A failure says so if a snapshot was lost meanwhile: whatever else went wrong came of that.
    pub(super) fn mention_loss(&self, report: &mut Report) {
        let error = match &mut report.ended {
            Ended::Undone(error) | Ended::Stopped(Some(error)) | Ended::Failed(error) | Ended::Stuck(error) => error,
            Ended::Done { .. } | Ended::Stopped(None) => return,
        };
        let seen = Seen::read(&self.record.run_dir);
        if let Some((volume, why)) = seen.0.iter().find_map(|(name, history)| Some((name, history.lost.as_ref()?))) {
            error.causes.push(format!("{volume}: {why}"));
            error.help = Some(format!(
                "the clone is lost, {0} is not: upgradectl abort {0} cleans up; then clone again with a larger snapshot",
                self.spec.name
            ));
        }
    }
}
