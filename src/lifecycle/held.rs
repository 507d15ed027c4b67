//! A run under its lease: each verb's look at the world, its plan, its execution and its conclusion.

use std::path::Path;
use std::sync::Arc;

use hypervisors::storage::{Access, Copies};
use hypervisors::{Hypervisor, Role};
use serde_json::{Value, json};

use super::app::App;
use super::back::Past;
use super::error::{Failure, exit};
use super::invocation::{Finish, Options};
use super::memory::RunMemory;
use super::page::{Page, Proposal};
use super::preflight::{Finding, Findings, Verdict};
use super::record::{RunFacts, Verification};
use super::state::{State, Verb};
use super::step_log::StepLog;
use super::{commit, in_place, leased, promote, upgrade, verify, world};
use crate::engine::history::Status;
use crate::engine::{Emitter, Ended, Engine, ErrorInfo, EventBody, Op, Plan, Report};
use crate::guest::Tree;
use crate::inventory::{GuestSpec, IfCheckFails, Strategy};
use crate::journal::{EventKind, Journal, Lease, RunRecord};
use crate::steps::leased::Keeper;
use crate::steps::{Action, StepRef, World, carry, files};
use crate::verify::{Report as CheckReport, Side};

/// A run under its lease, with all that its plans need.
pub(super) struct Held<'a> {
    pub(super) app: &'a App,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) lease: Lease,
    pub(super) run: RunRecord,
    pub(super) record: RunFacts,
    pub(super) spec: GuestSpec,
    /// Production's platform.
    pub(super) hypervisor: Arc<dyn Hypervisor>,
    /// The clone's platform.
    pub(super) clone: Arc<dyn Hypervisor>,
    pub(super) emit: Arc<Emitter>,
}

impl Held<'_> {
    pub(super) fn state(&self) -> Result<State, Failure> {
        let run = self.journal.run(&self.run.id)?.map_or_else(|| self.run.state.clone(), |run| run.state);
        State::parse(&run).ok_or_else(|| {
            Failure::new(exit::JOURNAL, format!("read {}", self.run.id))
                .cause(format!("unknown state {run}"))
                .help("use the upgradectl that wrote it")
        })
    }

    /// The run's plans with what became of them, oldest first.
    pub(super) fn pasts(&self) -> Result<Vec<Past>, Failure> {
        super::query::pasts(&*self.journal, &self.run.id)
    }

    /// The newest plan, if it is unfinished.
    pub(super) fn active(&self) -> Result<Option<Past>, Failure> {
        super::query::active(&*self.journal, &self.run.id)
    }

    /// Carries out a verb on this run.
    pub(super) async fn verb(&mut self, verb: Verb, options: &Options) -> Result<Finish, Failure> {
        let state = self.state()?;
        let active = self.active()?;
        if let Some(stuck) = &self.run.stuck {
            return Err(Failure::new(exit::STUCK, format!("{} {}", verb.word(), self.spec.name))
                .cause(format!("the run is stuck at step {}: {}", stuck.index + 1, stuck.why))
                .help("decide: upgradectl retry, skip or abandon"));
        }
        let irreversible = active.as_ref().is_some_and(Past::irreversible);
        let possible = super::query::possible(state, active.as_ref(), self.record.strategy);
        if !possible.contains(&verb) {
            let allowed: Vec<&str> = possible.iter().map(|verb| verb.word()).collect();
            let cause = if irreversible {
                "a step that cannot be taken back was begun".to_owned()
            } else {
                format!("{} is {}", self.run.id, state.word().replace('_', " "))
            };
            let failure = Failure::new(exit::STATE, format!("{} {}", verb.word(), self.spec.name)).cause(cause);
            return Err(match (verb, state) {
                (Verb::Promote | Verb::Rollback, _) if self.record.strategy == Strategy::InPlace => failure
                    .cause("the guest itself is upgraded: there is no clone to exchange it with")
                    .help("upgradectl commit keeps the upgrade, upgradectl abort goes back"),
                (Verb::Promote, State::Cloned | State::Upgraded) => {
                    failure.help("promotion wants a passing verification: upgradectl verify")
                }
                _ => failure.help(format!("possible now: {}", allowed.join(", "))),
            });
        }
        self.needs_the_clone(verb, state, active.as_ref(), options).await?;
        let transfer = self.record.transfer.is_some();
        let machine = self.record.machine.is_some();
        let jail = self.is_of_jail();
        match verb {
            Verb::Upgrade if machine => self.upgrade_machine(options).await,
            Verb::Commit if machine => self.commit_machine(options).await,
            Verb::Abort if machine => self.abort_machine(options).await,
            Verb::Promote if machine => self.promote_machine(options).await,
            Verb::Upgrade if jail => self.upgrade_jail(options).await,
            Verb::Promote if transfer => self.promote_transferred(options).await,
            Verb::Commit if transfer => self.commit_transferred(options).await,
            Verb::Promote if jail => self.promote_jail(options).await,
            Verb::Commit if jail => self.commit_jail(options).await,
            Verb::Resume => match active {
                Some(past) => self.resume(past, options).await,
                // The controller went before it could store the plan: nothing was begun, so there is nothing to go on with.
                None if state == State::Cloning && !options.dry_run => {
                    self.journal.set_state(&self.lease, State::Aborted.word(), true)?;
                    self.finish(exit::DONE, 0.0, None)
                }
                None => self.finish(exit::DONE, 0.0, None),
            },
            Verb::Upgrade => self.upgrade(state, options).await,
            Verb::Verify => self.verify(state, options).await,
            Verb::Promote => self.promote(options).await,
            Verb::Rollback | Verb::Abort => self.way_back(verb, options).await,
            Verb::Commit => self.commit(options).await,
            Verb::Clone => Err(Failure::new(exit::BUG, "clone an open run")),
        }
    }

    async fn upgrade(&mut self, state: State, options: &Options) -> Result<Finish, Failure> {
        let continuing = state == State::Upgrading || self.tried(Verb::Upgrade)?;
        let findings = upgrade::preflight(&self.spec, &self.record, &self.hypervisor, continuing).await?;
        // A refusal explains more than a look that fails.
        let seen = if findings.iter().any(|finding| finding.verdict == Verdict::Refused) {
            upgrade::Seen::default()
        } else {
            let older = super::query::conffiles_before(&self.pasts()?);
            upgrade::Seen::look(&self.spec, &self.record, &self.hypervisor, older).await?
        };
        let number = self.journal.plans(&self.run.id)?.len() + 1;
        let (mut plan, mut page) =
            upgrade::plan(&self.spec, &self.record, &self.record.codename, continuing, number, &seen)?;
        if self.record.strategy == Strategy::InPlace {
            in_place::upgrade(&mut plan, &mut page);
        }
        self.propose(plan, page, findings, options).await
    }

    async fn verify(&mut self, state: State, options: &Options) -> Result<Finish, Failure> {
        let itself = state == State::Promoted || self.record.strategy == Strategy::InPlace;
        let side = if itself { Side::Promoted } else { Side::Clone };
        let (plan, page) = verify::plan(&self.spec, &self.record, side, self.checks_number()?, self.kernel_proof()?);
        self.propose(plan, page, Vec::new(), options).await
    }

    async fn promote(&mut self, options: &Options) -> Result<Finish, Failure> {
        let mut findings = Findings::default();
        let now = self.now(options).await?;
        let number = self.checks_number()?;
        let (plan, page) = promote::plan(&self.spec, &self.record, &self.hypervisor, &now, number, &mut findings)?;
        self.propose(plan, page, findings.0, options).await
    }

    async fn commit(&mut self, options: &Options) -> Result<Finish, Failure> {
        if let Some(why) = &self.record.unproven {
            self.emit.warning(format!("the promotion is unproven: {why}"));
        }
        let saved = self
            .pasts()?
            .iter()
            .flat_map(|past| past.plan.steps.iter().zip(&past.histories))
            .filter(|(_, past)| past.status == Status::Done)
            .filter_map(|(step, _)| match &step.op {
                Op::Do(Action::Snapshot(snapshot)) if snapshot.role == Role::Detached => {
                    Some(snapshot.copies.iter().map(|pair| pair.target.clone()))
                }
                _ => None,
            })
            .flatten()
            .collect();
        let trees = self.record.copying == Copies::Trees;
        if options.rename && !trees {
            return Err(Failure::new(exit::USAGE, format!("commit {}", self.spec.name))
                .cause("its volumes get their names back in any case")
                .place("--rename")
                .help("leave it out"));
        }
        let now = commit::Now {
            saved,
            number: self.checks_number()?,
            autostart: self.hypervisor.autostart(&self.spec.name).await?,
        };
        let mut findings = Findings::default();
        if self.record.strategy != Strategy::InPlace {
            commit::proof(&self.record, &*self.hypervisor, &mut findings).await?;
        }
        if let Some(finding) = findings.refusal() {
            return Err(super::app::refused("commit", &self.spec.name, finding));
        }
        let (plan, page) = commit::plan(&self.spec, &self.record, &*self.hypervisor, now, options.rename).await?;
        self.propose(plan, page, findings.0, options).await
    }

    async fn resume(&mut self, past: Past, options: &Options) -> Result<Finish, Failure> {
        if options.dry_run {
            let page = Page::new(format!("Resume {} of {}", past.plan.verb, self.run.id));
            self.app
                .front
                .show(&Proposal { plan: past.plan, page, findings: Vec::new(), manners: self.app.manners() }, false);
            return Ok(Finish { planned: true, ..Finish::default() });
        }
        let starts = self.production_is_to_start(&past).await?;
        let finish = self.run_plan(past.id, &past.plan, options).await?;
        if starts && finish.code == exit::DONE {
            self.start_production().await?;
        }
        Ok(finish)
    }

    pub(super) async fn propose(
        &mut self,
        plan: Plan,
        page: Page,
        findings: Vec<Finding>,
        options: &Options,
    ) -> Result<Finish, Failure> {
        let mut findings = Findings(findings);
        leased::check(&plan, &self.app.platforms(&self.record)?, None, &mut findings).await;
        let proposal = Proposal { plan, page, findings: findings.0, manners: self.app.manners() };
        if let Some(finish) = self.app.approve(&proposal, options, &self.emit)? {
            return Ok(finish);
        }
        self.execute_new(&proposal.plan, options).await
    }

    /// Stores a plan and executes it.
    pub(super) async fn execute_new(&mut self, plan: &Plan, options: &Options) -> Result<Finish, Failure> {
        let by = crate::journal::Holder::this_process();
        let note = json!({ "verb": plan.verb, "user": by.user, "host": by.host, "pid": by.pid });
        self.journal.append(&self.lease, None, None, EventKind::Note, &note)?;
        if plan.verb != Verb::Abort.word() {
            // An abort takes them back as steps of its own, those inside the clone excepted.
            self.tidy_earlier(options).await?;
        }
        let engine = self.engine(options)?;
        let id = engine.store(plan, &plan.during)?;
        drop(engine);
        self.run_plan(id, plan, options).await
    }

    /// Takes back what earlier plans of this run left of their temporary changes. Trouble is a warning.
    pub(super) async fn tidy_earlier(&self, options: &Options) -> Result<(), Failure> {
        let engine = self.engine(options)?;
        for past in self.pasts()? {
            if let Some(trouble) = engine.tidy_earlier(past.id, &past.plan).await? {
                self.emit.warning(format!("not taken back: {}: {}", trouble.message, trouble.causes.join(": ")));
            }
        }
        Ok(())
    }

    fn engine(&self, options: &Options) -> Result<Engine, Failure> {
        hypervisors::storage::look_anew();
        Ok(Engine::new(self.journal.clone(), self.lease.clone(), self.world(options)?, self.emit.clone())?)
    }

    /// The world that this run's steps work on.
    pub(super) fn world(&self, options: &Options) -> Result<World, Failure> {
        let (emit, warn) = (self.emit.clone(), self.emit.clone());
        Ok(World {
            hypervisors: self.app.platforms(&self.record)?,
            controller: world::controller(),
            run_dir: self.record.run_dir.clone(),
            run: self.run.id.clone(),
            memory: Arc::new(RunMemory::new(self.journal.clone(), &self.run.id)),
            progress: Arc::new(move |detail, fraction| emit.progress(detail, fraction)),
            observer: self.observer(),
            last: Value::Null,
            decision: options.decision,
            leased: Arc::new(Keeper::new(move |message| warn.warning(message))),
            stop: self.app.stop.clone(),
        })
    }

    /// Writes what every command printed to the log of its step (`output/PLAN-STEP.log`), and tells of it.
    fn observer(&self) -> hypervisors::host::CommandObserver {
        let (emit, log) = (self.emit.clone(), StepLog::new(&self.record.run_dir));
        Arc::new(move |command| {
            let step = emit.current();
            log.write(step.as_ref(), command);
            emit.send(EventBody::Command {
                step,
                host: command.host.clone(),
                argv: command.argv.clone(),
                status: command.status,
                elapsed_s: command.elapsed.as_secs_f64(),
            });
        })
    }

    /// Executes a stored plan from where it got to, and concludes.
    pub(super) async fn run_plan(&mut self, id: i64, plan: &Plan, options: &Options) -> Result<Finish, Failure> {
        let left = plan.steps.len();
        self.emit.send(EventBody::VerbStarted { plan: plan.digest(), steps: left, expected_s: plan.estimate_s() });
        let mut engine = self.engine(options)?;
        let work = Box::pin(engine.execute(id, plan));
        let mut report = match self.watched(plan) {
            Some(watched) => watched.beside(work, &self.lease, &self.emit).await?,
            None => work.await?,
        };
        self.mention_loss(&mut report);
        self.conclude(plan, report, options).await
    }

    async fn conclude(&mut self, plan: &Plan, report: Report, options: &Options) -> Result<Finish, Failure> {
        let outage_s = report.outage_s;
        let with = |code: u8, mut error: ErrorInfo| {
            error.code = code;
            Some(error)
        };
        self.remember(plan, &report)?;
        match report.ended {
            Ended::Done { unproven: Some(error), .. } => {
                return Box::pin(self.unproven(plan, error, outage_s, options)).await;
            }
            Ended::Done { untidy: Some(error), .. } => self.finish(exit::UNTIDY, outage_s, with(exit::UNTIDY, error)),
            Ended::Done { .. } if plan.undoes.is_some() && plan.verb != "rollback" && plan.verb != "abort" => {
                // A resumed undoing of a failed verb.
                self.finish(exit::DONE, outage_s, None)
            }
            Ended::Done { .. } => self.finish(exit::DONE, outage_s, None),
            Ended::Undone(error) => self.finish(exit::UNDONE, outage_s, with(exit::UNDONE, error)),
            Ended::Failed(error) => {
                self.show_checks(plan);
                self.finish(exit::UNPROVEN, outage_s, with(exit::UNPROVEN, error))
            }
            Ended::Stopped(None) => {
                let error = ErrorInfo {
                    message: format!("finish {}", plan.verb),
                    causes: vec!["stopped on request".into()],
                    ..ErrorInfo::default()
                };
                self.finish(exit::PARTWAY, outage_s, with(exit::PARTWAY, error))
            }
            Ended::Stopped(Some(error)) => self.finish(exit::PARTWAY, outage_s, with(exit::PARTWAY, error)),
            Ended::Stuck(error) => self.finish(exit::STUCK, outage_s, with(exit::STUCK, error)),
        }
        .inspect(|finish| {
            if finish.code == exit::DONE && (plan.verb == "verify" || plan.verb == "promote") {
                self.show_checks(plan);
            }
        })
    }

    /// After going live with failing checks: ask, roll back or keep, as the inventory says.
    async fn unproven(
        &mut self,
        plan: &Plan,
        mut error: ErrorInfo,
        outage_s: f64,
        options: &Options,
    ) -> Result<Finish, Failure> {
        self.show_checks(plan);
        error.code = exit::UNPROVEN;
        let back = match self.spec.promote.if_check_fails {
            // Only a promotion can be taken back.
            _ if plan.verb != "promote" => false,
            IfCheckFails::Keep => false,
            IfCheckFails::Rollback => true,
            IfCheckFails::Ask => {
                let question = format!("Checks failed after going live. Roll {} back now?", self.spec.name);
                self.app.front.ask(&question, exit::PARTWAY).unwrap_or(false)
            }
        };
        if !back {
            return self.finish(exit::UNPROVEN, outage_s, Some(error));
        }
        let approved = Options { yes: true, ..options.clone() };
        let mut finish = self.way_back(Verb::Rollback, &approved).await?;
        if finish.code == exit::DONE {
            finish.code = exit::UNPROVEN;
            finish.error = Some(error);
        }
        finish.outage_s += outage_s;
        Ok(finish)
    }

    /// Notes in the run's facts what later verbs need to know of this plan's end.
    fn remember(&mut self, plan: &Plan, report: &Report) -> Result<(), Failure> {
        let mut record = self.record.clone();
        if let Some(checks) = self.last_checks(plan)
            && matches!(plan.verb.as_str(), "verify" | "promote")
            && plan.undoes.is_none()
        {
            let promoted = checks.1 == Side::Promoted && self.record.strategy != Strategy::InPlace;
            let passed = checks.0.passed();
            record.verification =
                Some(Verification { time: jiff::Timestamp::now(), passed, summary: checks.0.summary(), promoted });
            if promoted {
                record.unproven = (!passed).then(|| checks.0.summary());
            }
        }
        match (&report.ended, plan.verb.as_str()) {
            (Ended::Done { unproven: Some(error), .. }, "promote") => {
                record.unproven = Some(error.causes.join(": "));
            }
            (Ended::Done { .. }, "rollback") => {
                record.unproven = None;
                record.verification = None;
            }
            // The clone was restarted: nothing is known of it.
            (Ended::Undone(_) | Ended::Done { .. }, "promote") if self.state()? == State::Upgraded => {
                record.verification = None;
            }
            (Ended::Done { .. }, "clone") => record.boot_s = self.measured_boot()?,
            _ => {}
        }
        // The journal has the address that a DHCP server gave last.
        if let (Some(_), Some(address)) = (&record.clone.by, hypervisors::net::known_address(&record.clone)) {
            record.clone.address = address;
            record.addressing.clone = address;
        }
        if record != self.record && self.journal.run(&self.run.id)?.is_some_and(|run| run.closed.is_none()) {
            self.journal.set_facts(&self.lease, &serde_json::to_value(&record)?)?;
        }
        self.record = record;
        Ok(())
    }

    /// Seconds from the clone's start to its being reachable.
    fn measured_boot(&self) -> Result<Option<f64>, Failure> {
        let Some(past) = self.pasts()?.into_iter().rfind(|past| past.plan.verb == "clone") else { return Ok(None) };
        let of = |kind: &str| {
            past.plan.steps.iter().zip(&past.histories).find_map(|(step, past)| {
                (step.op.action().kind() == kind).then(|| past.done.as_ref()?["elapsed_s"].as_f64()).flatten()
            })
        };
        Ok(of("guest.start").zip(of("guest.settle")).map(|(start, settle)| start + settle))
    }

    /// The report of the plan's checks, if it has any and they were made.
    fn last_checks(&self, plan: &Plan) -> Option<(CheckReport, Side)> {
        let checks = plan.steps.iter().find_map(|step| match &step.op {
            Op::Do(Action::RunChecks(checks)) => Some(checks),
            _ => None,
        })?;
        let bytes = std::fs::read(self.record.run_dir.join(format!("{}.json", checks.report))).ok()?;
        Some((serde_json::from_slice(&bytes).ok()?, checks.side))
    }

    fn show_checks(&self, plan: &Plan) {
        if let Some((report, _)) = self.last_checks(plan) {
            for check in report.checks {
                self.emit.send(EventBody::Check { check });
            }
        }
    }

    /// Number of the next report of checks.
    pub(super) fn checks_number(&self) -> Result<usize, Failure> {
        let made = self.journal.plans(&self.run.id)?;
        Ok(made.iter().filter(|plan| matches!(plan.verb.as_str(), "verify" | "promote")).count() + 1)
    }

    fn tried(&self, verb: Verb) -> Result<bool, Failure> {
        Ok(self.journal.plans(&self.run.id)?.iter().any(|plan| plan.verb == verb.word()))
    }

    pub(super) fn finish(&self, code: u8, outage_s: f64, error: Option<ErrorInfo>) -> Result<Finish, Failure> {
        let state = self.state()?;
        // The engine may have marked it since it was read.
        let run = self.journal.run(&self.run.id)?.unwrap_or_else(|| self.run.clone());
        let next = super::query::next(&run, state, self.active()?.as_ref(), self.record.strategy);
        Ok(Finish {
            run: Some(self.run.id.clone()),
            state: Some(state),
            code,
            outage_s,
            error,
            next,
            record: Some(self.record.clone()),
            planned: false,
        })
    }

    /// What promotion rests on.
    async fn now(&self, options: &Options) -> Result<promote::Now, Failure> {
        let name = &self.spec.name;
        let world = self.world(options)?;
        let (definition, replaces) = self.promoted_definition(options).await?;
        let kernel = self.new_kernel().await?.map(|new| {
            let parts = [Some(new.kernel), new.initrd, new.arguments].into_iter().flatten();
            let all = hypervisors::host::printable(&parts.collect::<Vec<_>>().join(", "));
            format!("production gets the clone's kernel of the host: {all}")
        });
        let pasts = self.pasts()?;
        let rewrite = pasts
            .iter()
            .flat_map(|past| (0..past.plan.steps.len()).map(move |index| (past, index)))
            .find(|(past, index)| matches!(&past.plan.steps[*index].op, Op::Do(Action::Rewrite(_))))
            .map(|(past, index)| StepRef { plan: past.id, index })
            .ok_or_else(|| Failure::new(exit::JOURNAL, "find what clone changed in the guest"))?;
        let recorded = files::Restore::recorded(&world, rewrite)?;
        let links = files::Restore::links(&world, rewrite)?;
        let clone = self.root(false).await?;
        let clones: Vec<_> = self.record.sides().map(|(.., clone)| clone).collect();
        let disarmed = pasts
            .iter()
            .flat_map(|past| past.plan.steps.iter().enumerate().map(move |(index, step)| (past.id, index, step)))
            .filter_map(|(plan, index, step)| match &step.op {
                Op::Do(Action::DisarmFsck(step)) if clones.contains(&&step.volume) => {
                    Some((step.volume.clone(), StepRef { plan, index }))
                }
                _ => None,
            })
            .collect();
        let restored = promote::restoration(&clone, &recorded)?;
        let lost = crate::guest::mounts::lost_links(&clone, &links)?;
        let mut pending = Vec::new();
        let rules = promote::carry_rules(&self.spec, &self.record);
        self.nothing_nested(&rules).await?;
        for rule in rules {
            let count = rule.pending(&world).await?;
            pending.push((format!("/{}", rule.path), Some(count)));
        }
        let original = self.root(true).await?;
        let queues = crate::guest::queues::found(&original)?;
        Ok(promote::Now {
            autostart: self.hypervisor.autostart(name).await?,
            definition,
            replaces,
            restore: restored.edits,
            notes: restored.notes.into_iter().chain(lost.warnings).chain(kernel).collect(),
            links,
            rewrite,
            disarmed,
            pending,
            queues: queues.into_iter().map(|queue| (queue.service, queue.messages)).collect(),
            saves: promote::saves(&self.record, &*self.hypervisor).await?,
            conffiles: super::query::conffiles(&pasts).iter().filter(|file| !file.older).count(),
        })
    }

    /// Carry rules stay on one file system: a volume nested below one would be left behind without a word.
    async fn nothing_nested(&self, rules: &[carry::Carry]) -> Result<(), Failure> {
        let Some((original, _)) = self.record.root() else { return Ok(()) };
        let storage = self.hypervisor.storage(original.kind)?;
        let Some(facts) = storage.inspect(original).await? else { return Ok(()) };
        let opened = storage.open(original, Access::Glance).await?;
        for nested in facts.nested.iter().chain(opened.nested()) {
            let own = rules.iter().any(|rule| nested == Path::new(&rule.path));
            if let Some(rule) = rules.iter().find(|rule| !own && nested.starts_with(&rule.path)) {
                return Err(Failure::new(exit::REFUSED, format!("promote {}", self.spec.name))
                    .cause(format!(
                        "/{} is a volume of its own: the rule for /{} does not reach into it",
                        nested.display(),
                        rule.path
                    ))
                    .place(format!("guests.{}.carry in the inventory", self.spec.name))
                    .help(format!("add a rule for /{}, or exclude it and carry its siblings", nested.display())));
            }
        }
        Ok(())
    }

    /// The root of the original or of the clone, as it lies on the host now, whoever runs on it.
    async fn root(&self, original: bool) -> Result<Tree, Failure> {
        let (old, new) = self.record.root().ok_or_else(|| Failure::new(exit::JOURNAL, "find the root volume"))?;
        let volume = if original { old } else { new };
        let opened = self.hypervisor.storage(volume.kind)?.open(volume, Access::Glance).await?;
        Ok(Tree::open(opened.path())?.keeping(opened))
    }
}
