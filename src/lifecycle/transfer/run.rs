//! A transfer under way: each verb's look at the server and the jail, and its plan.

use std::path::Path;
use std::sync::Arc;

use hypervisors::{Host, Power};

use super::{Facts, Transfer, check, clone, commit, container, parking, promote, upgrade};
use crate::engine::Emitter;
use crate::inventory::GuestSpec;
use crate::inventory::values::AddressWish;
use crate::journal::Journal;
use crate::lifecycle::app::{App, Beginning};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::held::Held;
use crate::lifecycle::invocation::{Finish, Options};
use crate::lifecycle::page::Proposal;
use crate::lifecycle::preflight::{Findings, Verdict};
use crate::lifecycle::state::{State, Verb};
use crate::steps::{server, sha256};

impl App {
    /// `clone` by transfer.
    pub(in crate::lifecycle) async fn clone_by_transfer(
        &self,
        spec: &GuestSpec,
        existing: Option<Arc<dyn Journal>>,
        options: &Options,
        emit: &Arc<Emitter>,
    ) -> Result<Finish, Failure> {
        let facts = Facts::gather(self, spec).await?;
        let declared: Vec<AddressWish> = spec.clone.ip.iter().filter_map(|wish| wish.parse().ok()).collect();
        let wishes = if options.ip.is_empty() { declared } else { options.ip.clone() };
        let mut record = clone::record(&facts, &wishes, &self.state, &self.scratch)?;
        let mut findings = Findings::default();
        check::for_clone(&facts, &record, record.transferred()?, &mut findings).await?;
        if let Some(finding) = findings.refusal() {
            let found = findings.0.iter().filter(|finding| finding.verdict == Verdict::Refused).count();
            let failure = crate::lifecycle::app::refused("clone", &spec.name, finding);
            return Err(if found > 1 { failure.cause(format!("and {} more", found - 1)) } else { failure });
        }
        let definition = facts.hypervisor.compose(&clone::guest(&record, false)?).await?;
        let steps = super::tree::steps(&facts, &record).await?;
        record.quarantined.clone_from(&steps.held);
        let (plan, page) = clone::plan(&facts, &record, definition, steps.moves, steps.adapts)?;
        let proposal = Proposal { plan, page, findings: findings.0, manners: self.manners() };
        // A container gets keys of its own, which promotion takes back; a jail has the server's.
        let clone_has_keys = facts.linux.is_none();
        let beginning = Beginning { record, host_keys: facts.host_keys.clone(), definition: None, clone_has_keys };
        self.begin(spec, existing, proposal, beginning, options, emit).await
    }

    /// Whether a server could be transferred now, for `doctor`.
    pub(in crate::lifecycle) async fn transfer_fits(
        &self,
        spec: &GuestSpec,
        findings: &mut Findings,
    ) -> Result<(), Failure> {
        let facts = Facts::gather(self, spec).await?;
        let wishes: Vec<AddressWish> = spec.clone.ip.iter().filter_map(|wish| wish.parse().ok()).collect();
        if wishes.is_empty() {
            findings
                .warn("address", format!("none is declared for the clone: upgradectl clone {} --ip .113", spec.name));
            return Ok(());
        }
        let record = clone::record(&facts, &wishes, &self.state, &self.scratch)?;
        check::for_clone(&facts, &record, record.transferred()?, findings).await
    }
}

impl Held<'_> {
    /// `upgrade` of a jail.
    pub(in crate::lifecycle) async fn upgrade_jail(&mut self, options: &Options) -> Result<Finish, Failure> {
        let running = self.clone.power(&self.record.clone.name).await? == Power::On;
        let number = self.journal.plans(&self.run.id)?.len() + 1;
        let mut base = super::tree::upgrade(&self.spec, &self.record, &self.hypervisor, number).await?;
        let findings = std::mem::take(&mut base.findings);
        let (plan, page) = upgrade::plan(&self.spec, &self.record, base, running)?;
        self.propose(plan, page, findings, options).await
    }

    /// `promote` of a transfer.
    pub(in crate::lifecycle) async fn promote_transferred(&mut self, options: &Options) -> Result<Finish, Failure> {
        let name = self.spec.name.clone();
        let run = self.record.transferred()?.clone();
        let mut findings = Findings::default();
        if self.hypervisor.definition(&name).await?.is_some() {
            findings.refuse(
                "name",
                format!("{} has a guest called {name} by now", self.record.host),
                "rename it, or take its definition away",
            );
        }
        let world = self.world(options)?;
        let there = run.server.at_home(&world).await.map_err(|error| failed(&name, &error))?;
        let host = there.ok_or_else(|| {
            Failure::new(exit::REFUSED, format!("promote {name}"))
                .cause(format!("the server does not answer at {}", run.server.source.address))
                .help("look at it: its services are stopped and its address is given up over ssh")
        })?;
        let services = server::running(&*host).await.map_err(|error| failed(&name, &error))?;
        let parked = match &run.container {
            Some(_) => {
                let (edits, diff) = container::parked(&*host, &run).await?;
                promote::Parked { rc_conf: Default::default(), edits: Some(edits), diff }
            }
            None => parked_by_rc_conf(&name, &*host, &run, &services).await?,
        };
        let jails = self.hypervisor.host();
        let queues = super::queues::mirrored((&*host, Path::new("/")), &*jails, &run.root, &mut findings).await?;
        let pasts = self.pasts()?;
        let (identity, notes) = match &run.container {
            Some(own) => container::identity(&self.record, own, &pasts, &world).await?,
            None => super::tree::identity(&self.record, &pasts, &world, &self.hypervisor).await?,
        };
        for note in notes {
            findings.warn("identity", note);
        }
        let now = promote::Now {
            definition: self.hypervisor.compose(&clone::guest(&self.record, true)?).await?,
            services,
            queues,
            parked,
            identity,
        };
        let number = self.checks_number()?;
        let (plan, page) = promote::plan(&self.spec, &self.record, now, number)?;
        self.propose(plan, page, findings.0, options).await
    }

    /// `commit` of a transfer.
    pub(in crate::lifecycle) async fn commit_transferred(&mut self, options: &Options) -> Result<Finish, Failure> {
        if options.rename {
            return Err(Failure::new(exit::USAGE, format!("commit {}", self.spec.name))
                .cause("the guest keeps the path of its tree")
                .place("--rename")
                .help("leave it out"));
        }
        let (plan, page) = commit::plan(&self.spec, &self.record, &*self.hypervisor).await?;
        self.propose(plan, page, Vec::new(), options).await
    }

    /// Whether a verb finds its jail as it needs it: the upgrade wants it stopped, and stops it.
    pub(in crate::lifecycle) fn jail_may_be_off(&self, verb: Verb, state: State) -> bool {
        self.is_of_jail() && (matches!(verb, Verb::Upgrade) || matches!(state, State::Cloned | State::Upgrading))
    }
}

/// How a FreeBSD server is configured while it is parked.
async fn parked_by_rc_conf(
    name: &str,
    host: &dyn Host,
    run: &Transfer,
    services: &[String],
) -> Result<promote::Parked, Failure> {
    let bytes = host.read_file(Path::new("/etc/rc.conf"), 1 << 20).await?.unwrap_or_default();
    let before = String::from_utf8_lossy(&bytes).into_owned();
    let after = parking::rc_conf(&before, &run.server_interface, run.parking.as_ref(), services).map_err(|wrong| {
        Failure::new(exit::REFUSED, format!("promote {name}"))
            .cause(format!("the server's rc.conf cannot be given its parking address: {wrong}"))
            .help(wrong.help.unwrap_or_else(|| "write the values out there".to_owned()))
    })?;
    let diff = similar::TextDiff::from_lines(&before, &after)
        .unified_diff()
        .header("/etc/rc.conf of the server", "/etc/rc.conf of the server, parked")
        .to_string();
    Ok(promote::Parked { rc_conf: (sha256(before.as_bytes()), after), edits: None, diff })
}

fn failed(name: &str, error: &crate::steps::StepError) -> Failure {
    let failure = Failure::new(exit::REFUSED, format!("look at the server of {name}")).cause(error.to_string());
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}
