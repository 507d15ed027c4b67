//! A run on a guest itself: each verb's look at it, and its plan.

use std::path::Path;
use std::sync::Arc;

use hypervisors::host::{Command, printable};

use super::{Facts, Machine, check, linked, plan, worked_on};
use crate::engine::{Emitter, PlanStep};
use crate::inventory::values::AddressWish;
use crate::inventory::{GuestSpec, HypervisorKind, Strategy};
use crate::journal::Journal;
use crate::lifecycle::app::{App, Beginning};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::held::Held;
use crate::lifecycle::invocation::{Finish, Options};
use crate::lifecycle::page::Proposal;
use crate::lifecycle::preflight::Findings;
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::state::{State, Verb};
use crate::recipe::conffiles;
use crate::recipe::yum::Seen;
use crate::steps::StepError;
use crate::steps::machine::inside::{self, RestoreInside};
use crate::steps::server::running;

/// A failure of a step's own look, before there is a plan.
pub(super) fn failed(name: &str, error: &StepError) -> Failure {
    let failure = Failure::new(exit::REFUSED, format!("look at {name}")).cause(error.to_string());
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// The addresses that are wished for the clone.
fn wishes(spec: &GuestSpec, options: &Options) -> Vec<AddressWish> {
    match options.ip.is_empty() {
        true => spec.clone.ip.iter().filter_map(|wish| wish.parse().ok()).collect(),
        false => options.ip.clone(),
    }
}

impl App {
    /// Whether nothing of a guest can be opened from here: its host offers its machines whole, or lets nobody at its hypervisor.
    pub(in crate::lifecycle) fn is_machine(&self, spec: &GuestSpec) -> bool {
        self.inventory
            .hosts
            .get(&spec.host)
            .is_some_and(|host| matches!(host.hypervisor, HypervisorKind::None | HypervisorKind::Vsphere))
    }

    /// `clone` of a guest that is upgraded itself.
    pub(in crate::lifecycle) async fn clone_machine(
        &self,
        spec: &GuestSpec,
        strategy: Option<Strategy>,
        existing: Option<Arc<dyn Journal>>,
        options: &Options,
        emit: &Arc<Emitter>,
    ) -> Result<Finish, Failure> {
        let facts = Facts::gather(self, spec).await?;
        let mut findings = Findings::default();
        check::for_clone(&facts, strategy, options.accept_loss, &mut findings);
        let record = facts.record(&self.state, &self.scratch);
        if strategy == Some(Strategy::Linked) {
            return self.clone_linked(spec, &facts, (record, findings), existing, options, emit).await;
        }
        let machine = record.of_machine()?.clone();
        let (plan, page) = plan::clone(spec, &record, &machine, &facts.seen);
        let proposal = Proposal { plan, page, findings: findings.0, manners: self.manners() };
        let beginning =
            Beginning { record, host_keys: facts.host_keys.clone(), definition: None, clone_has_keys: true };
        self.begin(spec, existing, proposal, beginning, options, emit).await
    }

    /// `clone` of a machine by strategy `linked`.
    async fn clone_linked(
        &self,
        spec: &GuestSpec,
        facts: &Facts,
        (record, mut findings): (RunFacts, Findings),
        existing: Option<Arc<dyn Journal>>,
        options: &Options,
        emit: &Arc<Emitter>,
    ) -> Result<Finish, Failure> {
        // A refusal explains more than a plan that cannot be made.
        let refuse = |findings: &Findings| match findings.refusal() {
            Some(finding) => Err(crate::lifecycle::app::refused("clone", &spec.name, finding)),
            None => Ok(()),
        };
        refuse(&findings)?;
        let there = inside::files_of(&*facts.guest).await.map_err(|error| failed(&spec.name, &error))?;
        let wishes = wishes(spec, options);
        let all = match self.hypervisor(&spec.host)?.machines() {
            Some(machines) => machines.all().await?,
            None => Vec::new(),
        };
        let drawn = linked::macs(spec, linked::of_machine(facts)?, &all, &options.mac)?;
        let mut record = linked::record(facts, &there.tree, record, &wishes, drawn)?;
        linked::check(facts, &there.tree, &record, &mut findings).await?;
        refuse(&findings)?;
        let adapted = linked::adapt(facts, &there.tree, &record)?;
        record.quarantined.clone_from(&adapted.held);
        let (plan, page) = linked::clone(spec, &record, adapted)?;
        let proposal = Proposal { plan, page, findings: findings.0, manners: self.manners() };
        // It gets keys of its own, which promotion takes back.
        let beginning =
            Beginning { record, host_keys: facts.host_keys.clone(), definition: None, clone_has_keys: false };
        self.begin(spec, existing, proposal, beginning, options, emit).await
    }

    /// Whether a guest could be upgraded now, for `doctor`.
    pub(in crate::lifecycle) async fn machine_fits(
        &self,
        spec: &GuestSpec,
        findings: &mut Findings,
    ) -> Result<(), Failure> {
        let facts = Facts::gather(self, spec).await?;
        check::for_clone(&facts, spec.clone.strategy, true, findings);
        check::newer(&*facts.guest, &facts.seen, findings).await?;
        Ok(())
    }
}

impl Held<'_> {
    fn machine(&self) -> Result<Machine, Failure> {
        self.record.of_machine().cloned()
    }

    /// Whether the run's snapshot stands; where there is none to be, or a clone is worked on, `None`.
    async fn snapshot(&self, machine: &Machine, options: &Options) -> Result<Option<bool>, Failure> {
        let Some(vm) = machine.vm.as_ref().filter(|_| machine.linked.is_none()) else { return Ok(None) };
        let made = plan::made(&self.spec, &self.record, vm, &self.pasts()?)?;
        let stands = made.stands(&self.world(options)?).await;
        stands.map(Some).map_err(|error| failed(&self.spec.name, &error))
    }

    /// `upgrade` of the guest itself.
    pub(in crate::lifecycle) async fn upgrade_machine(&mut self, options: &Options) -> Result<Finish, Failure> {
        let machine = self.machine()?;
        let guest = self.hypervisor.guest(worked_on(&self.record))?;
        let seen = Seen::look(&*guest).await?;
        let mut findings = Findings::default();
        if self.snapshot(&machine, options).await? == Some(false) {
            findings.refuse(
                "snapshot",
                format!("the snapshot {} is gone: nothing would lead back", self.run.id),
                format!("upgradectl abort {0} closes the run; then clone {0} again", self.spec.name),
            );
        }
        check::look(&seen, &mut findings);
        // One that runs by now, or was to, is gone on with.
        let under_way = seen.kernel != machine.kernel || plan::booted(&self.pasts()?);
        let offered = match findings.refusal() {
            None => check::newer(&*guest, &seen, &mut findings).await?,
            Some(_) => false,
        };
        if offered && seen.may_lose(&machine.kernel) {
            findings.refuse(
                "yum.limit",
                format!("one more kernel would push {} out, which is there to fall back to", machine.kernel),
                "raise installonly_limit in the file of yum or dnf, or commit first",
            );
        }
        let newer = offered || under_way;
        let number = self.journal.plans(&self.run.id)?.len() + 1;
        let older = match crate::lifecycle::query::conffiles_before(&self.pasts()?) {
            Some(older) => older,
            None => conffiles::leftovers(&*guest).await?,
        };
        let look = plan::Look { seen, newer, older };
        let (plan, page) = plan::upgrade(&self.spec, &self.record, &machine, &look, number);
        self.propose(plan, page, findings.0, options).await
    }

    /// What `verify` proves of the kernel beside the checks.
    pub(in crate::lifecycle) fn kernel_proof(&self) -> Result<Option<PlanStep>, Failure> {
        let Some(machine) = &self.record.machine else { return Ok(None) };
        let link = match self.state()? {
            State::Promoted => &self.record.original,
            _ => worked_on(&self.record),
        };
        Ok(plan::booted(&self.pasts()?).then(|| machine.proof(&self.record, link, true)))
    }

    /// `promote` of a machine's clone.
    pub(in crate::lifecycle) async fn promote_machine(&mut self, options: &Options) -> Result<Finish, Failure> {
        let name = self.spec.name.clone();
        let machine = self.machine()?;
        let linked = machine.linked.as_ref().ok_or_else(|| Failure::new(exit::BUG, "promote a guest itself"))?;
        let machines = self.hypervisor.machines().ok_or_else(|| {
            Failure::new(exit::REFUSED, format!("promote {name}"))
                .cause(format!("{} has no API for whole machines any more", self.record.host))
                .place(format!("hosts.{} in the inventory", self.record.host))
        })?;
        let mut findings = Findings::default();
        let (original, clone) =
            (self.hypervisor.guest(&self.record.original)?, self.hypervisor.guest(&self.record.clone)?);
        let queues =
            crate::lifecycle::transfer::queues((&*original, Path::new("")), &*clone, Path::new(""), &mut findings)
                .await?;
        let services = running(&*original).await.map_err(|error| failed(&name, &error))?;
        if !queues.is_empty() || !self.spec.carry.is_empty() {
            let there = inside::files_of(&*original).await.map_err(|error| failed(&name, &error))?;
            if !crate::guest::container::has_systemd(&there.tree)? {
                findings.refuse("carry", check::unstoppable(&name, &queues), "abort, and upgrade it in place");
            }
        }
        if let Some(vm) = &machine.vm
            && let (Some(ours), Some(theirs)) =
                (machines.machine(&linked.uuid).await?, machines.machine(&vm.uuid).await?)
        {
            check::unchanged(linked, &theirs, &ours, &mut findings);
            let (now, had) = (&theirs.machine.name, linked::vm_name(vm));
            if *now != had {
                let what =
                    format!("{} was called {had} when it was cloned, and is called {now} now", theirs.machine.path);
                findings.refuse("name", what, format!("name it {had} again; or abort, and clone again"));
            }
        }
        let rewrite = linked::rewriting(&self.pasts()?)?;
        let world = self.world(options)?;
        let inside = machines.enter(&linked.uuid, &name).await?;
        let restored =
            RestoreInside::restored(&*inside, &world, rewrite).await.map_err(|error| failed(&name, &error))?;
        for note in &restored.notes {
            findings.warn("identity", note.clone());
        }
        let number = self.checks_number()?;
        let now = linked::Now { rewrite, restored: restored.edits, services, queues };
        let (plan, page) = linked::promote(&self.spec, &self.record, &now, number)?;
        self.propose(plan, page, findings.0, options).await
    }

    /// `commit` of the guest itself.
    pub(in crate::lifecycle) async fn commit_machine(&mut self, options: &Options) -> Result<Finish, Failure> {
        if options.rename {
            return Err(Failure::new(exit::USAGE, format!("commit {}", self.spec.name))
                .cause("the guest has the names it always had")
                .place("--rename")
                .help("leave it out"));
        }
        if self.machine()?.linked.is_some() {
            if let Some(why) = &self.record.unproven {
                self.emit.warning(format!("the promotion is unproven: {why}"));
            }
            let (plan, page) = linked::commit(&self.spec, &self.record)?;
            return self.propose(plan, page, Vec::new(), options).await;
        }
        let mut findings = Findings::default();
        if self.snapshot(&self.machine()?, options).await? == Some(false) {
            findings.warn("snapshot", format!("the snapshot {} is gone already: somebody removed it", self.run.id));
        }
        let (plan, page) = plan::commit(&self.spec, &self.record, &self.machine()?, &self.pasts()?)?;
        self.propose(plan, page, findings.0, options).await
    }

    /// `abort` of the guest itself.
    pub(in crate::lifecycle) async fn abort_machine(&mut self, options: &Options) -> Result<Finish, Failure> {
        let (machine, name) = (self.machine()?, self.spec.name.clone());
        if machine.linked.is_some() {
            return self.way_back(Verb::Abort, options).await;
        }
        let mut findings = Findings::default();
        if machine.vm.is_some() {
            let pasts = self.pasts()?;
            let (touched, stands) = (plan::touched(&pasts), self.snapshot(&machine, options).await? == Some(true));
            if !touched || stands {
                if !stands {
                    findings.warn("snapshot", format!("there is no snapshot {} to be removed", self.run.id));
                }
                let (plan, page) = plan::back(&self.spec, &self.record, &machine, &pasts)?;
                return self.propose(plan, page, findings.0, options).await;
            }
            let what = format!("the snapshot {} is gone: what can be taken back without it is", self.run.id);
            findings.warn("snapshot", what);
        }
        let guest = self.hypervisor.guest(&self.record.original)?;
        let command = Command::new(["uname", "-r"]);
        let runs = match guest.run(&command).await {
            Ok(output) => printable(output.checked("ask for the running kernel", &command)?.text().trim()),
            Err(error) if error.is_unknown() => {
                return Err(Failure::new(exit::REFUSED, format!("abort {name}"))
                    .cause(format!("{name} does not answer at {}", self.record.original.address))
                    .cause(error.to_string())
                    .help(format!(
                        "the new kernel was to be booted once: power {name} off and on by who runs the machine, and {} comes up (or \
                         choose it at the console's boot menu); then abort again. If it does not, the backup is the way back",
                        machine.kernel
                    )));
            }
            Err(error) => return Err(error.into()),
        };
        let made = plan::abort(&self.spec, &self.record, &machine, &self.pasts()?, &runs);
        let (plan, page) = made.ok_or_else(|| {
            Failure::new(exit::STATE, format!("abort {name}"))
                .cause("a step that cannot be taken back was begun")
                .help(format!("go on: upgradectl resume {name}"))
        })?;
        self.propose(plan, page, findings.0, options).await
    }
}
