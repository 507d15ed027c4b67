//! A run on a guest itself: each verb's look at it, and its plan.

use std::sync::Arc;

use hypervisors::host::{Command, printable};

use super::{Facts, Machine, check, plan};
use crate::engine::{Emitter, PlanStep};
use crate::inventory::{GuestSpec, HypervisorKind, Strategy};
use crate::journal::Journal;
use crate::lifecycle::app::{App, Beginning};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::held::Held;
use crate::lifecycle::invocation::{Finish, Options};
use crate::lifecycle::page::Proposal;
use crate::lifecycle::preflight::Findings;
use crate::recipe::conffiles;
use crate::recipe::yum::Seen;

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
        let machine = record.of_machine()?.clone();
        let (plan, page) = plan::clone(spec, &record, &machine, &facts.seen);
        let proposal = Proposal { plan, page, findings: findings.0, manners: self.manners() };
        let beginning =
            Beginning { record, host_keys: facts.host_keys.clone(), definition: None, clone_has_keys: true };
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

    /// `upgrade` of the guest itself.
    pub(in crate::lifecycle) async fn upgrade_machine(&mut self, options: &Options) -> Result<Finish, Failure> {
        let machine = self.machine()?;
        let guest = self.hypervisor.guest(&self.record.original)?;
        let seen = Seen::look(&*guest).await?;
        let mut findings = Findings::default();
        check::look(&seen, &mut findings);
        // One that runs by now, or was to, is gone on with.
        let under_way = seen.kernel != machine.kernel || plan::booted(&self.pasts()?);
        let newer = match findings.refusal() {
            None => check::newer(&*guest, &seen, &mut findings).await? || under_way,
            Some(_) => under_way,
        };
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
        Ok(plan::booted(&self.pasts()?).then(|| machine.proof(&self.record, true)))
    }

    /// `commit` of the guest itself.
    pub(in crate::lifecycle) async fn commit_machine(&mut self, options: &Options) -> Result<Finish, Failure> {
        if options.rename {
            return Err(Failure::new(exit::USAGE, format!("commit {}", self.spec.name))
                .cause("the guest has the names it always had")
                .place("--rename")
                .help("leave it out"));
        }
        let (plan, page) = plan::commit(&self.spec, &self.record, &self.machine()?, &self.pasts()?)?;
        self.propose(plan, page, Vec::new(), options).await
    }

    /// `abort` of the guest itself.
    pub(in crate::lifecycle) async fn abort_machine(&mut self, options: &Options) -> Result<Finish, Failure> {
        let (machine, name) = (self.machine()?, self.spec.name.clone());
        if machine.vm.is_some() {
            let (plan, page) = plan::back(&self.spec, &self.record, &machine, &self.pasts()?)?;
            return self.propose(plan, page, Vec::new(), options).await;
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
        self.propose(plan, page, Vec::new(), options).await
    }
}
