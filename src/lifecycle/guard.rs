//! A verb and the fill of the run's snapshots: what a lost or paused clone bars, and the watch beside a plan at work.

use std::time::Duration;

use hypervisors::Power;
use hypervisors::storage::Copies;
use serde_json::{Value, json};

use super::back::Past;
use super::error::{Failure, exit};
use super::fill::Seen;
use super::held::Held;
use super::invocation::Options;
use super::state::{State, Verb};
use super::watch::Watched;
use crate::engine::{Ended, Plan, Report};
use crate::inventory::Strategy;
use crate::journal::EventKind;
use crate::steps::Step as _;

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
            Verb::Resume => active.is_some_and(|past| match past.plan.verb.as_str() {
                _ if past.plan.undoes.is_some() => false,
                "upgrade" => true,
                // There is no clone once it is promoted: it is production that is verified.
                "verify" => state != State::Promoted,
                _ => false,
            }),
            Verb::Clone | Verb::Rollback | Verb::Commit | Verb::Abort => false,
        };
        // Nobody can be asked whether a guest is on of which nothing can be opened.
        if !works_with_it || self.jail_may_be_off(verb, state) || self.record.machine.is_some() {
            return Ok(());
        }
        let on_snapshot = self.record.strategy == Strategy::Snapshot && !matches!(state, State::Cloning);
        let usable = match self.watch().filter(|_| on_snapshot) {
            Some(watch) => watch.usable(&self.lease, !options.dry_run).await?,
            None => None,
        };
        let Some(why) = usable else { return self.started(options).await };
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

    /// Starts a clone that is off (its host went down, it was stopped, it crashed in the middle of its upgrade) and waits until
    /// it has settled. A start is repeatable, and every way back stops it: that it is noted is enough.
    async fn started(&self, options: &Options) -> Result<(), Failure> {
        let (world, record) = (self.world(options)?, &self.record);
        let name = match record.strategy {
            Strategy::InPlace => &self.spec.name,
            _ => &record.clone.name,
        };
        match self.clone.facts(name).await? {
            Some(facts) if facts.power == Power::Off => {}
            Some(_) => return Ok(()),
            None => {
                return Err(Failure::new(exit::REFUSED, format!("find {name}"))
                    .cause("it is not defined any more")
                    .help(format!(
                        "upgradectl abort {0} removes the rest of it; then clone {0} again",
                        self.spec.name
                    )));
            }
        }
        if options.dry_run {
            self.emit.warning(format!("{name} is off: it is started first"));
            return Ok(());
        }
        self.journal.append(&self.lease, None, None, EventKind::Note, &json!({ "starts": name }))?;
        self.emit.warning(format!("{name} was off, and is started"));
        self.clone.start(name).await?;
        let settle = super::clone::settle(record.clone_host(), &record.clone);
        settle.apply(&world, &Value::Null).await.map(drop).map_err(|error| {
            Failure::new(exit::REFUSED, format!("start {name}"))
                .cause(error.to_string())
                .help(format!("look at its console; or upgradectl abort {}", self.spec.name))
        })
    }

    /// Whether production is off and nothing in the rest of a commit starts it, although it starts with its host: that went
    /// down between the renames of its volumes and its definition, and did not find them.
    pub(super) async fn production_is_to_start(&self, past: &Past) -> Result<bool, Failure> {
        let (plan, name) = (&past.plan, &self.spec.name);
        let commits = plan.verb == Verb::Commit.word() && plan.undoes.is_none();
        if !commits || plan.steps.iter().any(|step| step.outage_begins) {
            return Ok(false);
        }
        let off = self.hypervisor.autostart(name).await? && self.hypervisor.power(name).await? == Power::Off;
        if off {
            self.journal.append(&self.lease, None, None, EventKind::Note, &json!({ "starts": name }))?;
        }
        Ok(off)
    }

    /// Starts production, which was off. A start is repeatable.
    pub(super) async fn start_production(&self) -> Result<(), Failure> {
        let name = &self.spec.name;
        self.emit.warning(format!("{name} was off, and is started"));
        self.hypervisor.start(name).await.map(drop).map_err(|error| {
            Failure::new(exit::PARTWAY, format!("start {name}")).cause(error.to_string()).help("start it by hand")
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
