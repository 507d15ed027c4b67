//! A run on a jail: each verb's look at it, and its plan.

use std::path::Path;
use std::sync::Arc;

use super::{Facts, JailTree, both, clone, commit, promote};
use crate::engine::{Emitter, PlanStep, Stage};
use crate::guest::freebsd::JailSpec;
use crate::inventory::values::AddressWish;
use crate::inventory::{GuestSpec, Strategy};
use crate::journal::Journal;
use crate::lifecycle::app::{App, Beginning, refused, write_private};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::held::Held;
use crate::lifecycle::invocation::{Finish, Options};
use crate::lifecycle::page::Proposal;
use crate::lifecycle::preflight::{Findings, Verdict};
use crate::lifecycle::transfer::tree::{identity, told};
use crate::steps::reduce;

impl App {
    /// Whether a guest is a jail that is there: its host is one of jails, and no server is to become one.
    pub(in crate::lifecycle) fn is_jail(&self, spec: &GuestSpec) -> Result<bool, Failure> {
        Ok(self.hypervisor(&spec.host)?.platform() == "jail" && spec.source.is_none())
    }

    /// `clone` of a jail.
    pub(in crate::lifecycle) async fn clone_jail(
        &self,
        spec: &GuestSpec,
        strategy: Strategy,
        existing: Option<Arc<dyn Journal>>,
        options: &Options,
        emit: &Arc<Emitter>,
    ) -> Result<Finish, Failure> {
        let facts = Facts::gather(self, spec).await?;
        let declared: Vec<AddressWish> = spec.clone.ip.iter().filter_map(|wish| wish.parse().ok()).collect();
        let wishes = if options.ip.is_empty() { declared } else { options.ip.clone() };
        let mut record = clone::record(&facts, &wishes, &self.state, &self.scratch)?;
        let mut findings = Findings::default();
        facts.check(strategy, &mut findings);
        facts.check_address(record.addressing.clone, &mut findings).await?;
        let definition = facts.hypervisor.copy_of(&spec.name, &clone::edit(&record)).await;
        let wrong = |findings: &Findings| {
            let finding = findings.refusal()?;
            let found = findings.0.iter().filter(|finding| finding.verdict == Verdict::Refused).count();
            let failure = refused("clone", &spec.name, finding);
            Some(if found > 1 { failure.cause(format!("and {} more", found - 1)) } else { failure })
        };
        if let Some(failure) = wrong(&findings) {
            return Err(failure);
        }
        let definition = definition?;
        let guest = self.way_into(&facts, &record)?;
        record.codename = facts.inside(&*guest, &record, &mut findings).await?;
        if let Some(failure) = wrong(&findings) {
            return Err(failure);
        }
        let jail = JailSpec {
            addresses: record.addressing.changes.clone(),
            hostname: spec.clone.hostname.clone(),
            quarantine: spec.quarantine.off.clone(),
            is_jail: true,
            ..JailSpec::default()
        };
        // In the jail as it runs: what differs in its clone, because it changed meanwhile, stops the step.
        let reduced = reduce::reduced(&*guest, Path::new("/"), &jail).await.map_err(told)?;
        record.quarantined = reduced.held.iter().map(|held| held.unit.clone()).collect();
        let root = JailTree::of(&record)?.root;
        let adapt = PlanStep::new(Stage::Adapt, reduce::Reduce::planned(&record.host, root, jail, &reduced), 1.0);
        let (plan, page) = clone::plan(&facts, &record, definition, adapt)?;
        let proposal = Proposal { plan, page, findings: findings.0, manners: self.manners() };
        let beginning = Beginning {
            record,
            host_keys: facts.host_keys.clone(),
            definition: Some(facts.definition.text.clone()),
            clone_has_keys: true,
        };
        self.begin(spec, existing, proposal, beginning, options, emit).await
    }

    /// The way into the original, before there is a run: what is known of its keys lies in the scratch directory.
    fn way_into(
        &self,
        facts: &Facts,
        record: &crate::lifecycle::record::RunFacts,
    ) -> Result<Arc<dyn hypervisors::Host>, Failure> {
        let mut link = record.original.clone();
        link.known_hosts = self.scratch.join(format!("known_hosts.{}", facts.spec.name));
        write_private(&link.known_hosts, &crate::guest::keys::known_hosts(&facts.spec.name, &facts.host_keys))?;
        Ok(facts.hypervisor.guest(&link)?)
    }

    /// Whether a jail could be cloned now, for `doctor`.
    pub(in crate::lifecycle) async fn jail_fits(
        &self,
        spec: &GuestSpec,
        strategy: Strategy,
        findings: &mut Findings,
    ) -> Result<(), Failure> {
        let facts = Facts::gather(self, spec).await?;
        facts.check(strategy, findings);
        let wishes: Vec<AddressWish> = spec.clone.ip.iter().filter_map(|wish| wish.parse().ok()).collect();
        if wishes.is_empty() {
            findings
                .warn("address", format!("none is declared for the clone: upgradectl clone {} --ip .113", spec.name));
            return Ok(());
        }
        let record = clone::record(&facts, &wishes, &self.state, &self.scratch)?;
        facts.check_address(record.addressing.clone, findings).await?;
        if findings.refusal().is_none() {
            facts.hypervisor.copy_of(&spec.name, &clone::edit(&record)).await?;
            facts.inside(&*self.way_into(&facts, &record)?, &record, findings).await?;
        }
        Ok(())
    }
}

impl Held<'_> {
    /// Whether the run is on a jail, a server's or one that was there.
    pub(in crate::lifecycle) fn is_of_jail(&self) -> bool {
        match &self.record.transfer {
            Some(run) => run.container.is_none(),
            None => self.hypervisor.platform() == "jail",
        }
    }

    /// `promote` of a jail's clone.
    pub(in crate::lifecycle) async fn promote_jail(&mut self, options: &Options) -> Result<Finish, Failure> {
        let name = self.spec.name.clone();
        let mut findings = Findings::default();
        let definition = self.promoted_definition(options).await?;
        let host = self.hypervisor.host();
        let (original, copy) = both(&self.record)?;
        let queues =
            crate::lifecycle::transfer::queues((&*host, &original.path), &*host, &copy.path, &mut findings).await?;
        let (pasts, world) = (self.pasts()?, self.world(options)?);
        let (identity, notes) = identity(&self.record, &pasts, &world, &self.hypervisor).await?;
        for note in notes {
            findings.warn("identity", note);
        }
        if let Some(finding) = findings.refusal() {
            return Err(refused("promote", &name, finding));
        }
        let now = promote::Now { definition, queues, identity };
        let number = self.checks_number()?;
        let (plan, page) = promote::plan(&self.spec, &self.record, now, number)?;
        self.propose(plan, page, findings.0, options).await
    }

    /// `commit` of a jail.
    pub(in crate::lifecycle) async fn commit_jail(&mut self, options: &Options) -> Result<Finish, Failure> {
        if options.rename {
            return Err(Failure::new(exit::USAGE, format!("commit {}", self.spec.name))
                .cause("the jail keeps the path of its tree")
                .place("--rename")
                .help("leave it out"));
        }
        let (plan, page) = commit::plan(&self.spec, &self.record, &*self.hypervisor).await?;
        self.propose(plan, page, Vec::new(), options).await
    }
}
