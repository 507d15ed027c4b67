//! `gc`: objects that bear a mark and belong to no open run: found, judged, removed after confirmation, or adopted.
//!
//! What may go is judged in [`super::judge`], and once more by a fresh look right before the volumes go. Directories of
//! closed runs are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hypervisors::storage::{Copies, look_anew, one_look};
use hypervisors::{DefinitionEdit, Power, Storage, VolumeKind, VolumeRef};
use serde::Serialize;
use serde_json::json;

use super::app::App;
use super::error::{Failure, exit};
pub use super::judge::{Kind, Leftover};
use super::judge::{Known, Marked, Survey, guest_of, judge, place};
use super::judge_machines::Machines;
use super::record::RunFacts;
use crate::engine::{ErrorInfo, lease};
use crate::journal::{EventKind, RunRecord};
use crate::steps::leased::{carry_out, standing};
use crate::steps::machine::remove;

/// What is asked of `gc`.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The state directory was lost: runs that are not known here are over.
    pub from_world: bool,
    /// Take the mark off this object instead: a volume's path or name, or a guest's.
    pub adopt: Option<String>,
    /// Approves the list just shown.
    pub yes: bool,
    /// List only.
    pub dry_run: bool,
}

/// What `gc` found and did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Collected {
    /// Version of this structure.
    pub schema: u32,
    /// What was found, definitions first on each host.
    pub found: Vec<Leftover>,
    /// Hosts that could not be looked at, with the reason; nothing is removed there.
    pub unreachable: Vec<String>,
    /// Objects removed.
    pub removed: Vec<String>,
    /// Object adopted.
    pub adopted: Option<String>,
    /// What could not be removed, or was not approved.
    pub error: Option<ErrorInfo>,
    /// Exit code.
    pub exit_code: u8,
}

impl App {
    /// Looks for leftovers on every host of the inventory; changes nothing.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn leftovers(&self, from_world: bool) -> Result<Collected, Failure> {
        let runs = match self.journal_read_only()? {
            Some(journal) => journal.runs(false)?,
            None => Vec::new(),
        };
        let known = |run: &str| known(&runs, run);
        let mut collected = Collected { schema: 1, ..Collected::default() };
        let (surveys, unreachable) = self.surveys(&runs).await;
        for survey in surveys {
            let mut found = judge(&survey, &known, from_world);
            for leftover in &mut found {
                let seen = survey.volumes.iter().find(|one| Some(&one.volume) == leftover.volume.as_ref());
                leftover.size_bytes = seen.and_then(|one| one.used_bytes);
            }
            collected.found.extend(found);
        }
        let left = self.left_leased(&runs).await;
        collected.found.extend(left.iter().map(|one| one.leftover(from_world)));
        let told = |(host, Failure(error)): (String, Failure)| {
            format!("{host}: {}: {}", error.message, error.causes.join(": "))
        };
        collected.unreachable = unreachable.into_iter().map(told).collect();
        Ok(collected)
    }

    /// Shows the leftovers, asks, and removes those that may be removed; or adopts one object.
    ///
    /// # Errors
    /// If the journal cannot be used, or the object to adopt cannot be; trouble with one object is in the result.
    pub async fn gc(&self, wish: &Wish, show: &(dyn Fn(&Collected) + Sync)) -> Result<Collected, Failure> {
        one_look(self.collect(wish, show)).await
    }

    async fn collect(&self, wish: &Wish, show: &(dyn Fn(&Collected) + Sync)) -> Result<Collected, Failure> {
        if let Some(object) = &wish.adopt {
            return self.adopt(object).await;
        }
        let mut collected = self.leftovers(wish.from_world).await?;
        show(&collected);
        let chosen: Vec<Leftover> = collected.found.iter().filter(|one| one.removable).cloned().collect();
        if wish.dry_run || chosen.is_empty() {
            return Ok(collected);
        }
        if !wish.yes {
            let (cause, help) = match self.front.confirm("remove") {
                Some(true) => ("", ""),
                Some(false) => ("not approved", "nothing was changed"),
                None => ("it needs an approval, and nobody can be asked here", "read the list, then gc --yes"),
            };
            if !cause.is_empty() {
                return Err(Failure::new(exit::UNDECIDED, "remove leftovers").cause(cause).help(help));
            }
        }
        self.note(&chosen).await?;
        let hosts: BTreeSet<&String> = chosen.iter().map(|one| &one.host).collect();
        // A definition on one host may name a volume of another.
        // A snapshot is what its clone stands on.
        for kind in [Kind::Machine, Kind::Snapshot, Kind::Definition, Kind::Volume] {
            for host in &hosts {
                let chosen: Vec<&Leftover> =
                    chosen.iter().filter(|one| one.kind == kind && one.host == **host).collect();
                if chosen.is_empty() {
                    continue;
                }
                if let Err(Failure(mut error)) = self.remove(host, &chosen, wish, &mut collected.removed).await {
                    error.code = exit::UNTIDY;
                    collected.exit_code = exit::UNTIDY;
                    collected.error.get_or_insert(error);
                }
            }
        }
        let reversals = chosen.iter().filter(|one| one.kind == Kind::Reversal);
        if let Err(Failure(mut error)) = self.carry_out(reversals, &mut collected.removed).await {
            error.code = exit::UNTIDY;
            collected.exit_code = exit::UNTIDY;
            collected.error.get_or_insert(error);
        }
        Ok(collected)
    }

    /// Carries reversals out, those that still stand: with that they are gone.
    async fn carry_out(
        &self,
        chosen: impl Iterator<Item = &Leftover>,
        removed: &mut Vec<String>,
    ) -> Result<(), Failure> {
        for one in chosen {
            let machine =
                self.machine(&one.host).ok_or_else(|| Failure::new(exit::BUG, format!("reach {}", one.host)))?;
            if standing(&*machine).await?.iter().any(|standing| standing.id == one.object) {
                carry_out(&*machine, &one.object).await?;
            }
            removed.push(one.object.clone());
        }
        Ok(())
    }

    /// Removes what was chosen on one host, of one kind, after a fresh look.
    async fn remove(
        &self,
        host: &str,
        chosen: &[&Leftover],
        wish: &Wish,
        removed: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let fresh = |survey: &Survey, runs: &[RunRecord]| -> Vec<Leftover> {
            let again = judge(survey, &|run| known(runs, run), wish.from_world);
            let same = |one: &&Leftover| {
                chosen.iter().any(|c| (c.kind, &c.object, &c.run) == (one.kind, &one.object, &one.run))
            };
            again.iter().filter(|one| one.removable).filter(same).cloned().collect()
        };
        let runs = match self.journal_read_only()? {
            Some(journal) => journal.runs(false)?,
            None => Vec::new(),
        };
        look_anew();
        let (surveys, unreachable) = self.surveys(&runs).await;
        let Some(survey) = surveys.into_iter().find(|survey| survey.host == host) else {
            let failed = unreachable.into_iter().find(|(name, _)| name == host).map(|(_, failure)| failure);
            return Err(failed.unwrap_or_else(|| Failure::new(exit::BUG, format!("look at {host} again"))));
        };
        let found = fresh(&survey, &runs);
        for one in found.iter().filter(|one| one.kind == Kind::Definition) {
            if survey.hypervisor.power(&one.object).await? != Power::Off {
                survey.hypervisor.destroy(&one.object).await?;
            }
            survey.hypervisor.undefine(&one.object).await?;
            removed.push(one.object.clone());
        }
        if let Some(machines) = survey.hypervisor.machines() {
            for one in &found {
                let Some(of) = &one.machine else { continue };
                match &of.snapshot {
                    Some(snapshot) => drop(remove(&*machines, &of.uuid, Some(snapshot.clone())).await?),
                    None => {
                        machines.power_off(&of.uuid).await?;
                        machines.remove(&of.uuid, &one.run).await?;
                    }
                }
                removed.push(one.object.clone());
            }
        }
        // Those whose definition could not go are named by it still, and not found here. Snapshots go before their origin.
        let standing = |one: &&Leftover| {
            let seen = survey.volumes.iter().find(|seen| Some(&seen.volume) == one.volume.as_ref());
            seen.is_some_and(|seen| !seen.snapshots.is_empty())
        };
        let (origins, others): (Vec<&Leftover>, Vec<&Leftover>) = found.iter().partition(standing);
        for one in others.into_iter().chain(origins) {
            let Some(volume) = &one.volume else { continue };
            survey.hypervisor.storage(volume.kind)?.remove(volume, &one.run).await?;
            removed.push(one.object.clone());
        }
        Ok(())
    }

    /// Writes into the journal of each run that is known here what is about to be removed.
    async fn note(&self, chosen: &[Leftover]) -> Result<(), Failure> {
        let Some(journal) = self.journal_read_only()? else { return Ok(()) };
        let runs = journal.runs(false)?;
        let mut by_run: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for one in chosen.iter().filter(|one| known(&runs, &one.run) == Known::Closed) {
            by_run.entry(&one.run).or_default().push(&one.object);
        }
        if by_run.is_empty() {
            return Ok(());
        }
        let journal = self.journal()?;
        for (run, objects) in by_run {
            let lease = lease::take(&*journal, run, false, Duration::ZERO).await?;
            let note = json!({ "verb": "gc", "removes": objects });
            let noted = journal.append(&lease, None, None, EventKind::Note, &note);
            journal.release(&lease)?;
            noted?;
        }
        Ok(())
    }

    /// Takes the mark off an object.
    async fn adopt(&self, object: &str) -> Result<Collected, Failure> {
        let runs = match self.journal_read_only()? {
            Some(journal) => journal.runs(false)?,
            None => Vec::new(),
        };
        let fail = |code| Failure::new(code, format!("adopt {object}"));
        let mut candidates = Vec::new();
        let (surveys, unreachable) = self.surveys(&runs).await;
        if let Some((_, failure)) = unreachable.into_iter().next() {
            return Err(failure);
        }
        for survey in surveys {
            // Objects of open runs are looked at too, to say why not.
            let all = judge(&survey, &|_| Known::No, false);
            let fits = |one: &Leftover| {
                let name = Path::new(&one.object).file_name().is_some_and(|name| name == object);
                one.object == object || (matches!(one.kind, Kind::Volume | Kind::Machine) && name)
            };
            candidates.extend(all.into_iter().filter(fits).map(|one| (survey.hypervisor.clone(), one)));
        }
        // A guest is often called like one of its volumes, which also has a path.
        if candidates.iter().any(|(_, one)| one.object == object) {
            candidates.retain(|(_, one)| one.object == object);
        }
        let (hypervisor, one) = match candidates.as_slice() {
            [] => {
                return Err(fail(exit::USAGE).cause("no marked object of that name").help("upgradectl gc lists them"));
            }
            [one] => one,
            several => {
                let names: Vec<&str> = several.iter().map(|(_, one)| one.object.as_str()).collect();
                return Err(fail(exit::USAGE)
                    .cause(format!("that may be any of {}", names.join(", ")))
                    .help("give the whole path"));
            }
        };
        if known(&runs, &one.run) == Known::Open {
            return Err(fail(exit::STATE)
                .cause(format!("{} is open", one.run))
                .help(format!("end the run first: upgradectl status {}", guest_of(&one.run))));
        }
        if let Some(of) = &one.machine {
            if of.snapshot.is_some() {
                return Err(fail(exit::USAGE)
                    .cause("a snapshot of a machine is known by its description")
                    .help("give it another description in the platform's own client"));
            }
            let machines = hypervisor.machines().ok_or_else(|| fail(exit::BUG))?;
            machines.set_mark(&of.uuid, None).await?;
        } else if let Some(volume) = &one.volume {
            hypervisor.storage(volume.kind)?.mark(volume, None).await?;
        } else {
            let definition = hypervisor.definition(&one.object).await?;
            let definition = definition.ok_or_else(|| fail(exit::STATE).cause("it is not defined any more"))?;
            let edit = DefinitionEdit { mark: Some(None), ..DefinitionEdit::default() };
            hypervisor.define(&hypervisor.derive(&definition, &edit)?).await?;
        }
        Ok(Collected { schema: 1, adopted: Some(one.object.clone()), ..Collected::default() })
    }

    /// Looks at every host of the inventory; those that cannot be looked at, with the reason.
    async fn surveys(&self, runs: &[RunRecord]) -> (Vec<Survey>, Vec<(String, Failure)>) {
        let (mut surveys, mut unreachable) = (Vec::<Survey>::new(), Vec::new());
        let holds = |host: &&String| self.inventory.guests.values().any(|spec| spec.host == **host);
        let mut hosts: Vec<&String> = self.inventory.hosts.keys().collect();
        hosts.sort_by_key(|host| !holds(host));
        // Two hosts of one machine see the same volumes: they are told of once.
        let mut told: BTreeSet<PathBuf> = BTreeSet::new();
        for host in hosts {
            match self.survey(host, runs).await {
                Ok(mut survey) => {
                    survey.volumes.retain(|one| told.insert(one.volume.path.clone()));
                    surveys.push(survey);
                }
                Err(failure) => unreachable.push((host.clone(), failure)),
            }
        }
        let records: Vec<RunFacts> =
            runs.iter().filter_map(|run| serde_json::from_value(run.facts.clone()).ok()).collect();
        for at in 0..surveys.len() {
            let others = || surveys.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, survey)| survey);
            let guests = others().flat_map(|survey| survey.guests.clone()).collect();
            let volumes = others().flat_map(|survey| survey.volumes.clone()).collect();
            let host = surveys[at].host.clone();
            let declared = |silent: &String| {
                let mut specs = self.inventory.guests.values().filter(|spec| spec.host == host);
                specs.any(|spec| spec.runs_on == *silent || spec.clone.runs_on.as_ref() == Some(silent))
            };
            let placed = |silent: &String| {
                let mut records = records.iter().filter(|record| record.host == host);
                records.any(|record| [record.production_host(), record.clone_host()].contains(&silent.as_str()))
            };
            let silent = unreachable.iter().map(|(name, _)| name).filter(|name| declared(name) || placed(name));
            let silent = silent.cloned().collect();
            surveys[at].elsewhere = (guests, volumes);
            surveys[at].silent = silent;
        }
        (surveys, unreachable)
    }

    /// Looks at one host: its guests, and the marked volumes beside those that the inventory, marks or runs name.
    async fn survey(&self, host: &str, runs: &[RunRecord]) -> Result<Survey, Failure> {
        let hypervisor = self.hypervisor(host)?;
        let (mut guests, mut machines) = (Vec::new(), Machines::default());
        match hypervisor.machines() {
            Some(platform) => {
                let open = runs.iter().filter(|run| run.closed.is_none());
                let facts = open.filter_map(|run| serde_json::from_value::<RunFacts>(run.facts.clone()).ok());
                let held = facts.filter(|facts| facts.host == host).filter_map(|facts| facts.machine);
                machines.held = held.flat_map(|machine| machine.uuids()).collect();
                machines.all = platform.all().await?;
            }
            None => guests = hypervisor.list().await?,
        }
        let declared = |name: &str| self.inventory.guests.get(name).is_some_and(|spec| spec.host == host);
        let mut paths: BTreeSet<PathBuf> = guests
            .iter()
            .filter(|guest| guest.mark.is_some() || declared(&guest.name))
            .flat_map(|guest| guest.disks.iter().filter_map(|disk| place(&disk.source)).map(Path::to_owned))
            .collect();
        for run in runs {
            // Facts of a run that an older program wrote and this one cannot read only hide its directories.
            let Ok(facts) = serde_json::from_value::<RunFacts>(run.facts.clone()) else { continue };
            if facts.host == host {
                paths.extend(facts.copies().flat_map(|(_, old, new)| [old.path.clone(), new.path.clone()]));
            }
        }
        // Another machine's cannot be looked at from here; its driver says that there is nothing.
        let elsewhere = !hypervisor.host().is_local();
        let mut directories: BTreeSet<&Path> =
            paths.iter().filter_map(|path| path.parent()).filter(|directory| elsewhere || directory.is_dir()).collect();
        let declared = self.inventory.hosts.get(host);
        directories
            .extend(declared.into_iter().flat_map(|spec| [spec.jails.as_deref(), spec.trees.as_deref()]).flatten());
        let mut volumes = BTreeMap::new();
        for kind in [
            VolumeKind::Btrfs,
            VolumeKind::Directory,
            VolumeKind::LvmThick,
            VolumeKind::LvmThin,
            VolumeKind::Zfs,
            VolumeKind::Sim,
        ] {
            let Ok(storage) = hypervisor.storage(kind) else { continue };
            for directory in &directories {
                for (volume, mark) in storage.marked(directory).await? {
                    // What is only begun has no kind yet: every driver tells of it.
                    if !volumes.contains_key(&volume.path) {
                        volumes.insert(volume.path.clone(), look(&*storage, Marked::new(volume, mark)).await);
                    }
                }
            }
        }
        let volumes = volumes.into_values().collect();
        let elsewhere = (Vec::new(), Vec::new());
        Ok(Survey { host: host.to_owned(), hypervisor, guests, volumes, machines, elsewhere, silent: Vec::new() })
    }
}

fn known(runs: &[RunRecord], run: &str) -> Known {
    match runs.iter().find(|record| record.id == run) {
        None => Known::No,
        Some(record) if record.closed.is_some() => Known::Closed,
        Some(_) => Known::Open,
    }
}

/// What its driver knows of a marked volume.
async fn look(storage: &dyn Storage, mut marked: Marked) -> Marked {
    let facts = match storage.inspect(&marked.volume).await {
        Ok(facts) => facts,
        Err(_) => return marked,
    };
    // Whoever makes or removes it marks it last, and first.
    marked.half_made = facts.as_ref().is_none_or(|facts| facts.mark.is_none());
    marked.used_bytes = facts.as_ref().and_then(|facts| facts.used_bytes);
    let Some(block) = facts.and_then(|facts| facts.block) else { return marked };
    if storage.copies() == Copies::Dependents {
        marked.snapshots = block.snapshots;
    }
    marked.merging = match block.origin.zip(marked.volume.path.parent()) {
        Some((origin, directory)) => {
            let origin = VolumeRef { path: directory.join(origin), ..marked.volume.clone() };
            let facts = storage.inspect(&origin).await.ok().flatten();
            facts.and_then(|facts| facts.block).is_some_and(|block| block.merge.is_some())
        }
        None => block.merge.is_some(),
    };
    marked
}
