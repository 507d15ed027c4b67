//! One invocation of a changing verb: find the run, take its lease, look, plan, ask, store, execute, conclude.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use rand::Rng;

use super::address;
use super::clone::{self, CloneWishes};
use super::error::{Failure, exit};
use super::facts::Facts;
use super::held::Held;
pub use super::invocation::{Finish, Front, Options};
use super::leased;
use super::page::Proposal;
use super::placement;
use super::preflight::{self, Finding, Findings, Verdict};
use super::query;
use super::record::RunFacts;
use super::state::{State, Verb};
use super::world::Sides;
use crate::engine::{Emitter, EventBody, Sink, lease};
use crate::inventory::values::AddressWish;
use crate::inventory::{GuestSpec, Inventory, Strategy};
use crate::journal::{Holder, Journal, JournalError, RunRecord, SqliteJournal};

/// What a plan that was shown, or need not be, waits for.
pub(super) enum Offer {
    /// The invocation ends here.
    Ended(Box<Finish>),
    /// Nothing: it may be carried out.
    Approved,
    /// The word of a person.
    Asking,
}

/// What a new run begins with.
pub(super) struct Beginning {
    /// What is remembered of it, with `GUEST--RUN` for its id.
    pub(super) record: RunFacts,
    /// Public ssh host keys of the original.
    pub(super) host_keys: Vec<String>,
    /// The original's definition, where it has one.
    pub(super) definition: Option<String>,
    /// The clone has the original's host keys.
    pub(super) clone_has_keys: bool,
}

/// The program, apart from its command line.
pub struct App {
    /// What the operator declared.
    pub inventory: Inventory,
    /// State directory.
    pub state: PathBuf,
    /// Scratch directory (ssh control sockets).
    pub scratch: PathBuf,
    /// Where events go.
    pub sink: Sink,
    /// Who is asked.
    pub front: Arc<dyn Front>,
    /// Set by Ctrl-C: stop after the step in hand.
    pub stop: Arc<AtomicBool>,
}

impl App {
    /// Opens the journal for writing.
    ///
    /// # Errors
    /// Exit code 11 with the place.
    pub fn journal(&self) -> Result<Arc<dyn Journal>, Failure> {
        #[cfg(test)]
        if let Some(journal) = crate::journal::memory::installed() {
            return Ok(journal);
        }
        let journal = Arc::new(SqliteJournal::open(&self.state)?);
        #[cfg(debug_assertions)]
        let journal = crate::journal::faults::wrapped(journal);
        Ok(journal)
    }

    /// The journal for reading; `None` if there is none yet.
    ///
    /// # Errors
    /// Exit code 11 with the place.
    pub fn journal_read_only(&self) -> Result<Option<Arc<dyn Journal>>, Failure> {
        #[cfg(test)]
        if let Some(journal) = crate::journal::memory::installed() {
            return Ok(Some(journal));
        }
        Ok(SqliteJournal::open_read_only(&self.state)?.map(|journal| Arc::new(journal) as Arc<dyn Journal>))
    }

    /// The guest that a word on the command line means: its name, its run, or the end of the run's id.
    ///
    /// # Errors
    /// An unknown guest, with suggestions.
    pub fn guest(&self, word: &str, journal: Option<&dyn Journal>) -> Result<(String, Option<RunRecord>), Failure> {
        if let Some(run) = journal.map(|journal| journal.open_of(word)).transpose()?.flatten() {
            return Ok((run.guest.clone(), Some(run)));
        }
        if self.inventory.guests.contains_key(word) {
            return Ok((word.to_owned(), None));
        }
        // It is not a guest: a run's id, or the end of one.
        let runs = journal.map(|journal| journal.runs(true)).transpose()?.unwrap_or_default();
        if let Some(run) = runs.into_iter().find(|run| query::means(run, word)) {
            return Ok((run.guest.clone(), Some(run)));
        }
        let near = self
            .inventory
            .guests
            .keys()
            .map(|name| (strsim::damerau_levenshtein(name, word), name))
            .filter(|(distance, _)| *distance <= 2)
            .min();
        let names: Vec<&str> = self.inventory.guests.keys().map(String::as_str).collect();
        let help = match near {
            Some((_, name)) => format!("did you mean {name}?"),
            None if names.is_empty() => "the inventory declares no guests".to_owned(),
            None => format!("the guests there: {}", names.join(", ")),
        };
        Err(Failure::new(exit::USAGE, format!("find {word}"))
            .cause("no guest or open run of that name")
            .place("the inventory")
            .help(help))
    }

    pub(super) fn spec(&self, guest: &str) -> Result<&GuestSpec, Failure> {
        self.inventory.guests.get(guest).ok_or_else(|| {
            Failure::new(exit::USAGE, format!("find {guest}"))
                .cause("it is not in the inventory any more")
                .help("put it back: its open run needs it")
        })
    }

    /// Everything a plan for a guest without a run rests on.
    pub(super) async fn gather(&self, spec: &GuestSpec) -> Result<Facts, Failure> {
        let (hypervisor, paths) = self.production(spec).await?;
        Facts::gather(spec, &hypervisor, paths).await
    }

    /// Carries a verb out, from the command line to its exit code. The last event is `verb_finished`.
    pub async fn change(&self, verb: Verb, word: &str, options: &Options) -> Finish {
        let started = Instant::now();
        let emit = Arc::new(Emitter::new(self.sink.clone(), word, verb.word()));
        // What the plan rests on is asked once; the engine's steps look for themselves.
        let work = hypervisors::storage::one_look(self.try_change(verb, word, options, &emit));
        let finish = match Box::pin(work).await {
            Ok(finish) => finish,
            Err(Failure(error)) => Finish { code: error.code, error: Some(error), ..Finish::default() },
        };
        if !options.dry_run {
            emit.send(finish.event(started.elapsed()));
        }
        finish
    }

    async fn try_change(
        &self,
        verb: Verb,
        word: &str,
        options: &Options,
        emit: &Arc<Emitter>,
    ) -> Result<Finish, Failure> {
        if verb == Verb::Clone {
            return self.clone_guest(word, options, emit).await;
        }
        let journal = self.journal()?;
        let (guest, run) = self.guest(word, Some(&*journal))?;
        let Some(run) = run else {
            return Err(Failure::new(exit::STATE, format!("{} {guest}", verb.word()))
                .cause(format!("{guest} has no open run"))
                .help(format!("begin one: upgradectl clone {guest} --ip .N")));
        };
        emit.set_run(&run.id);
        let mut held = self.hold(journal, run, options, emit).await?;
        let result = held.verb(verb, options).await;
        // Losing the lease or the journal here is told by the verb's own result.
        let _ = held.journal.release(&held.lease);
        result
    }

    /// Takes the lease of a run and reads it again under it.
    pub(super) async fn hold<'a>(
        &'a self,
        journal: Arc<dyn Journal>,
        run: RunRecord,
        options: &Options,
        emit: &Arc<Emitter>,
    ) -> Result<Held<'a>, Failure> {
        let lease = lease::take(&*journal, &run.id, options.take_over, options.wait).await?;
        hypervisors::host::set_lease_marker(Holder::this_process().marker);
        let look = || -> Result<_, Failure> {
            let run = journal.run(&run.id)?.ok_or_else(|| JournalError::Missing(run.id.clone()))?;
            let mut record: RunFacts = serde_json::from_value(run.facts.clone())?;
            record.unproven = query::unproven(&record, &query::pasts(&*journal, &run.id)?);
            let spec = self.spec(&run.guest)?.clone();
            let sides = self.sides(&record)?;
            Ok((run, record, spec, sides))
        };
        match look() {
            Ok((run, record, spec, Sides { production: hypervisor, clone })) => {
                Ok(Held { app: self, journal, lease, record, spec, hypervisor, clone, emit: emit.clone(), run })
            }
            Err(failure) => {
                // A process that goes on with other guests must not keep it.
                let _ = journal.release(&lease);
                Err(failure)
            }
        }
    }

    async fn clone_guest(&self, word: &str, options: &Options, emit: &Arc<Emitter>) -> Result<Finish, Failure> {
        let existing = if options.dry_run { self.journal_read_only()? } else { Some(self.journal()?) };
        let (guest, run) = self.guest(word, existing.as_deref())?;
        if let Some(run) = run {
            let state = State::parse(&run.state);
            let next: Vec<&str> =
                state.map_or(&[] as &[Verb], |s| s.verbs(false, false)).iter().map(|v| v.word()).collect();
            if let (_, Some(holder)) = existing.as_ref().map_or(Ok((0, None)), |journal| journal.holder(&run.id))?
                && !holder.is_gone()
            {
                return Err(JournalError::Held(holder.into()).into());
            }
            return Err(Failure::new(exit::STATE, format!("clone {guest}"))
                .cause(format!("{} is open: {}", run.id, run.state))
                .help(format!("go on with it ({}), or: upgradectl abort {guest}", next.join(", "))));
        }
        let mut spec = self.spec(&guest)?.clone();
        if let Some(host) = &options.runs_on {
            // An unknown host is told as such.
            self.hypervisor(host)?;
            spec.clone.runs_on = Some(host.clone());
        }
        let spec = &spec;
        let declared = options.strategy.or(spec.clone.strategy);
        if self.is_machine(spec) {
            return self.clone_machine(spec, declared, existing, options, emit).await;
        }
        let strategy = declared.unwrap_or(Strategy::Snapshot);
        if strategy == Strategy::Transfer {
            return self.clone_by_transfer(spec, existing, options, emit).await;
        }
        if self.is_jail(spec)? {
            return self.clone_jail(spec, strategy, existing, options, emit).await;
        }
        let mut facts = self.gather(spec).await?;
        let declared: Vec<AddressWish> = spec.clone.ip.iter().filter_map(|wish| wish.parse().ok()).collect();
        let wishes = if options.ip.is_empty() { declared } else { options.ip.clone() };
        let addressing = match strategy {
            Strategy::InPlace => address::unchanged(&facts)?,
            _ => address::choose(&facts, &wishes, &options.mac)?,
        };
        facts.size_copies(strategy).await?;
        let record = clone::record(&facts, &addressing, strategy, &self.state, &self.scratch)?;
        let sides = self.sides(&record)?;
        facts.hypervisor = sides.production.clone();
        facts.clone_side = sides.clone.clone();
        facts.look_around().await?;
        let mut wishes = CloneWishes {
            hostname: options.hostname.clone(),
            skeletons: clone::skeletons(&facts).await?,
            fence: clone::fence(&facts, &addressing).await?,
            freeze: None,
        };
        let mut findings = Findings::default();
        // Before there is a run, what is known of the original's keys lies in the scratch directory.
        let mut link = record.original.clone();
        link.known_hosts = self.scratch.join(format!("known_hosts.{guest}"));
        write_private(&link.known_hosts, &crate::guest::keys::known_hosts(&guest, &facts.host_keys))?;
        preflight::for_clone(&facts, &addressing, strategy, options.accept_loss, &link, &mut findings).await?;
        placement::check(&facts, &record, &self.hypervisor(&record.host)?, &mut findings).await?;
        if findings.refusal().is_none() {
            match clone::freeze(&facts, strategy, &link).await {
                Some(Ok(freeze)) => {
                    findings.pass("freeze", format!("frozen for the snapshot, at most {} s", freeze.seconds));
                    wishes.freeze = Some(freeze);
                }
                Some(Err(why)) => findings.warn("freeze", format!("paused for the snapshot, not frozen: {why}")),
                None => {}
            }
        }
        let planned = clone::plan(&facts, &record, &wishes);
        // A refusal explains more than a plan that cannot be made.
        if let (Err(_), Some(finding)) = (&planned, findings.refusal()) {
            return Err(refused("clone", &guest, finding));
        }
        let (plan, page) = planned?;
        leased::check(&plan, &self.platforms(&record)?, Some(&link), &mut findings).await;
        let proposal = Proposal { plan, page, findings: findings.0, manners: self.manners() };
        let beginning = Beginning {
            record,
            host_keys: facts.host_keys.clone(),
            definition: Some(facts.definition.text.clone()),
            // The guest is reached as the run's, by its own keys.
            clone_has_keys: strategy == Strategy::InPlace,
        };
        // The look at the original ends here: by strategy `origin` its volume is about to be written to.
        drop(facts);
        self.begin(spec, existing, proposal, beginning, options, emit).await
    }

    /// Shows the plan of a new run, asks, and carries it out.
    pub(super) async fn begin(
        &self,
        spec: &GuestSpec,
        existing: Option<Arc<dyn Journal>>,
        proposal: Proposal,
        beginning: Beginning,
        options: &Options,
        emit: &Arc<Emitter>,
    ) -> Result<Finish, Failure> {
        if let Some(finish) = self.approve(&proposal, options, emit)? {
            return Ok(finish);
        }
        let journal = existing.ok_or_else(|| Failure::new(exit::BUG, "open the journal"))?;
        let guest = &spec.name;
        let run = format!("{guest}--{}", random_id());
        let (plan, record) = clone::bind(&proposal.plan, &beginning.record, &run)?;
        private_dir(&record.run_dir)?;
        let known = |name: &str| crate::guest::keys::known_hosts(name, &beginning.host_keys);
        write_private(&record.original.known_hosts, &known(guest))?;
        if beginning.clone_has_keys {
            write_private(&record.clone.known_hosts, &known(&run))?;
        }
        let holder = Holder::this_process();
        hypervisors::host::set_lease_marker(&holder.marker);
        let lease = journal.open_run(&run, guest, &plan.during, &serde_json::to_value(&record)?, &holder)?;
        if let Some(definition) = &beginning.definition {
            journal.put_blob(definition.as_bytes())?;
        }
        emit.set_run(&run);
        let run = journal.run(&run)?.ok_or_else(|| JournalError::Missing(run))?;
        // The paths on other hosts have the run's name by now.
        let Sides { production: hypervisor, clone } = self.sides(&record)?;
        let mut held =
            Held { app: self, journal, lease, run, record, spec: spec.clone(), hypervisor, clone, emit: emit.clone() };
        let result = held.execute_new(&plan, options).await;
        let _ = held.journal.release(&held.lease);
        result
    }

    /// Shows the plan and asks. `Some`: the invocation ends here.
    pub(super) fn approve(
        &self,
        proposal: &Proposal,
        options: &Options,
        emit: &Emitter,
    ) -> Result<Option<Finish>, Failure> {
        match self.offer(proposal, options, emit)? {
            Offer::Ended(finish) => Ok(Some(*finish)),
            Offer::Approved => Ok(None),
            Offer::Asking => self.confirm(proposal, emit).map(|()| None),
        }
    }

    /// Shows the plan, if it is not approved by the command line.
    pub(super) fn offer(&self, proposal: &Proposal, options: &Options, emit: &Emitter) -> Result<Offer, Failure> {
        let Proposal { plan, page, findings, .. } = proposal;
        for finding in findings.iter().filter(|finding| finding.verdict != Verdict::Passed) {
            emit.send(EventBody::Preflight {
                id: finding.id.clone(),
                verdict: if finding.verdict == Verdict::Warning { "warning" } else { "refused" }.to_owned(),
                detail: finding.detail.clone(),
                remedy: finding.remedy.clone(),
            });
        }
        let refusal = findings.iter().find(|finding| finding.verdict == Verdict::Refused);
        if options.dry_run {
            self.front.show(proposal, false);
            let error = refusal.map(|finding| refused(&plan.verb, &plan.guest, finding).0);
            let code = error.as_ref().map_or(exit::DONE, |error| error.code);
            return Ok(Offer::Ended(Box::new(Finish { code, error, planned: true, ..Finish::default() })));
        }
        if let Some(finding) = refusal {
            return Err(refused(&plan.verb, &plan.guest, finding));
        }
        let digest = plan.digest();
        if let Some(wanted) = &options.approve {
            if *wanted == digest {
                return Ok(Offer::Approved);
            }
            self.front.show(proposal, false);
            return Err(Failure::new(exit::UNDECIDED, format!("{} {}", plan.verb, plan.guest))
                .cause(format!("plan {wanted} was approved, but the facts changed: the plan is {digest} now"))
                .help(format!("read the page above, then --approve {digest}")));
        }
        if page.confirm.is_none() {
            return Ok(Offer::Approved);
        }
        self.front.show(proposal, !options.yes);
        Ok(if options.yes { Offer::Approved } else { Offer::Asking })
    }

    /// Asks for the approval of a plan that was shown.
    pub(super) fn confirm(&self, proposal: &Proposal, emit: &Emitter) -> Result<(), Failure> {
        let Proposal { plan, page, .. } = proposal;
        let Some(word) = &page.confirm else { return Ok(()) };
        let digest = plan.digest();
        emit.send(EventBody::ApprovalNeeded { plan: digest.clone() });
        match self.front.confirm(word) {
            Some(true) => Ok(()),
            Some(false) => Err(Failure::new(exit::UNDECIDED, format!("{} {}", plan.verb, plan.guest))
                .cause("not approved")
                .help("nothing was changed")),
            None => Err(Failure::new(exit::UNDECIDED, format!("{} {}", plan.verb, plan.guest))
                .cause("it needs an approval, and nobody can be asked here")
                .help(format!("read the page, then --approve {digest} (or --yes)"))),
        }
    }
}

pub(super) fn refused(verb: &str, guest: &str, finding: &Finding) -> Failure {
    let remedy = finding.remedy.clone().unwrap_or_default();
    Failure::new(exit::REFUSED, format!("{verb} {guest}"))
        .cause(finding.detail.clone())
        .place(finding.id.clone())
        .help(format!("{remedy}; nothing was changed").trim_start_matches("; ").to_owned())
}

fn random_id() -> String {
    const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut rng = rand::rng();
    (0..4).map(|_| char::from(CROCKFORD[rng.random_range(0..32)])).collect()
}

fn private_dir(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        Failure::new(exit::JOURNAL, format!("make {}", path.display()))
            .cause(error.to_string())
            .help("look at the directory's permissions and space")
    })
}

/// The journal is about to rest on it: it is there after a power cut, too.
fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;

    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
}

pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    if let Some(parent) = path.parent() {
        private_dir(parent)?;
    }
    write_durably(path, text.as_bytes()).map_err(|error| {
        Failure::new(exit::JOURNAL, format!("write {}", path.display()))
            .cause(error.to_string())
            .help("look at the directory's permissions and space")
    })
}
