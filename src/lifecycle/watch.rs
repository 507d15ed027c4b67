//! `watch`: the fill of every open run's snapshots is looked at, and something is done before one is lost.
//!
//! ```text
//! fuller than extend_at ─▶ extended, as far as there is room and no further than it can fill
//! no room, nearly full  ─▶ the clone is paused: that buys time, production goes on filling it
//! room again            ─▶ extended, and the clone goes on
//! full                  ─▶ lost, and told: the clone is lost with it, production is not, abort cleans up
//! ```
//!
//! Between verbs `watch` does this, with the run's lease for each single action; while a verb is at work its own process
//! does ([`Watched::beside`]), and `watch` only looks. Every action is journalled as a note, its intent first. What is
//! done follows from the world alone, so that one cut short needs no resuming: the next look decides anew.

use std::sync::Arc;
use std::time::Duration;

use hypervisors::storage::CowSize;
use hypervisors::{Hypervisor, Power, VolumeRef};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;

use super::app::App;
use super::error::{Failure, exit};
use super::fill::{Need, Policy, Seen, VolumeInfo};
use super::query::{self, HolderInfo};
use super::record::RunFacts;
use super::state::State;
use crate::engine::{Emitter, EventBody, lease};
use crate::inventory::{GuestSpec, Strategy};
use crate::journal::{EventKind, EventRecord, Journal, Lease, RunRecord};

/// How often the engine looks while a verb is at work.
const IN_A_VERB: Duration = Duration::from_secs(5);
/// A look that takes longer tells nothing any more.
const LOOK: Duration = Duration::from_secs(60);
/// What room that is there only in part brings is looked at again at once, this often.
const ROUNDS: usize = 3;

/// One look at every run that was asked for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Watching {
    /// When.
    pub time: Timestamp,
    /// The runs.
    pub runs: Vec<RunWatch>,
}

impl Watching {
    /// 0; 6 if a person has to decide; else why something could not be looked at.
    pub fn exit_code(&self) -> u8 {
        if self.runs.iter().any(|run| run.needs_a_person) {
            return exit::UNDECIDED;
        }
        self.runs.iter().map(|run| run.trouble_code).find(|code| *code != exit::DONE).unwrap_or(exit::DONE)
    }
}

/// How one run's snapshots stand, and what was done about it.
#[derive(Clone, Debug, Serialize)]
pub struct RunWatch {
    /// Run id.
    pub run: String,
    /// Guest.
    pub guest: String,
    /// State.
    pub state: String,
    /// Who is at it: then nothing is done here.
    pub holder: Option<HolderInfo>,
    /// The clone is paused because its snapshot would fill.
    pub paused: bool,
    /// Its volumes.
    pub volumes: Vec<VolumeInfo>,
    /// What was done in this look.
    pub did: Vec<Did>,
    /// What is to be known as long as it lasts.
    pub warnings: Vec<String>,
    /// A person has to make room, or give the run up.
    pub needs_a_person: bool,
    /// Why it could not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    #[serde(skip)]
    trouble_code: u8,
}

impl RunWatch {
    /// A run that was not looked at yet.
    pub fn new(run: &str, guest: &str, state: &str) -> Self {
        Self {
            run: run.to_owned(),
            guest: guest.to_owned(),
            state: state.to_owned(),
            holder: None,
            paused: false,
            volumes: Vec::new(),
            did: Vec::new(),
            warnings: Vec::new(),
            needs_a_person: false,
            trouble: None,
            trouble_code: exit::DONE,
        }
    }
}

/// One action, as it is journalled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Did {
    /// What.
    pub action: Action,
    /// To which volume.
    pub volume: Option<String>,
    /// It succeeded.
    pub done: bool,
    /// In words.
    pub text: String,
}

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A snapshot is given more room.
    Extend,
    /// The clone is paused.
    Pause,
    /// The clone goes on.
    Resume,
    /// A snapshot was lost: that is told once.
    Lost,
}

/// What one look saw.
struct Look {
    volumes: Vec<VolumeInfo>,
    needs: Vec<(VolumeRef, Need)>,
    power: Power,
}

impl Look {
    fn lost(&self) -> Option<(&VolumeRef, &str)> {
        self.needs.iter().find_map(|(volume, need)| match need {
            Need::Lost(why) => Some((volume, why.as_str())),
            _ => None,
        })
    }
    fn quiet(&self) -> bool {
        self.needs.iter().all(|(_, need)| *need == Need::Nothing)
    }
}

/// A run whose snapshots are watched.
pub(super) struct Watched {
    journal: Arc<dyn Journal>,
    hypervisor: Arc<dyn Hypervisor>,
    record: RunFacts,
    policy: Policy,
    /// How long until the next look.
    every: Duration,
    /// Whether the clone may be paused now.
    may_pause: bool,
}

impl Watched {
    /// `spec`: the guest as the inventory declares it, if it still does.
    pub(super) fn new(
        journal: Arc<dyn Journal>,
        hypervisor: Arc<dyn Hypervisor>,
        record: RunFacts,
        spec: Option<&GuestSpec>,
        every: Duration,
    ) -> Self {
        let policy = Policy::of(&spec.map(|spec| spec.clone.snapshot).unwrap_or_default());
        Self { journal, hypervisor, record, policy, every, may_pause: true }
    }

    fn run(&self) -> &str {
        &self.record.clone.name
    }

    async fn look(&self) -> Result<Look, Failure> {
        match tokio::time::timeout(LOOK, self.try_look()).await {
            Ok(look) => look,
            Err(_) => Err(Failure::new(exit::REFUSED, format!("look at the snapshots of {}", self.run()))
                .cause(format!("no answer within {} s", LOOK.as_secs()))),
        }
    }

    async fn try_look(&self) -> Result<Look, Failure> {
        let mut seen = Seen::read(&self.record.run_dir);
        let (mut facts, now) = (Vec::new(), Timestamp::now());
        for volume in self.record.disks.iter().filter_map(|disk| disk.target.as_ref()) {
            let found = self.hypervisor.storage(volume.kind)?.inspect(volume).await?;
            seen.note(&volume.to_string(), found.as_ref(), now);
            facts.push((volume, found));
        }
        seen.write(&self.record.run_dir);
        let mut look = Look { volumes: Vec::new(), needs: Vec::new(), power: self.hypervisor.power(self.run()).await? };
        for (volume, found) in facts {
            let info = seen.info(&volume.to_string());
            if let Some(found) = found {
                let need = self.policy.need(&found, info.full_in_s, self.every.as_secs_f64());
                look.needs.push((volume.clone(), need));
            }
            look.volumes.push(info);
        }
        Ok(look)
    }

    /// Looks, and does what has to be done, under a lease of the run.
    async fn tend(&self, lease: &Lease) -> Result<(Look, Vec<Did>), Failure> {
        let (mut look, mut all) = (self.look().await?, Vec::new());
        for _ in 0..ROUNDS {
            let did = self.act(lease, &look).await?;
            if did.is_empty() {
                break;
            }
            look = self.look().await?;
            let failed = did.iter().any(|did| !did.done);
            all.extend(did);
            if failed {
                break;
            }
        }
        Ok((look, all))
    }

    async fn act(&self, lease: &Lease, look: &Look) -> Result<Vec<Did>, Failure> {
        let mut did = Vec::new();
        let mut hold = None;
        for (volume, need) in &look.needs {
            match need {
                Need::Nothing => {}
                Need::Lost(why) => did.extend(self.tell(lease, volume, why)?),
                Need::Extend { by, urgent } => {
                    let grown = self.extend(lease, volume, *by).await?;
                    if !grown.done && *urgent {
                        hold.get_or_insert(volume);
                    }
                    did.push(grown);
                }
                Need::Room { urgent, .. } => {
                    if *urgent {
                        hold.get_or_insert(volume);
                    }
                }
            }
        }
        match (hold, look.power) {
            (Some(volume), Power::On) if self.may_pause => did.push(self.pause(lease, volume, look).await?),
            (None, Power::Paused) if look.quiet() && self.paused_here()? => did.push(self.resume(lease).await?),
            _ => {}
        }
        Ok(did)
    }

    async fn extend(&self, lease: &Lease, volume: &VolumeRef, by: CowSize) -> Result<Did, Failure> {
        let amount = match by {
            CowSize::Bytes(bytes) => format!("by {} MiB", bytes.div_ceil(1 << 20)),
            CowSize::Covering => "so that it cannot fill".to_owned(),
        };
        let text = format!("extend {volume} {amount}");
        self.note(lease, Action::Extend, Some(volume), "intent", &text)?;
        let result = match self.hypervisor.storage(volume.kind) {
            Ok(storage) => storage.extend(volume, by, self.run()).await,
            Err(error) => Err(error),
        };
        let result = result.map(|_| format!("extended {volume} {amount}"));
        self.outcome(lease, Action::Extend, Some(volume), &text, result)
    }

    async fn pause(&self, lease: &Lease, volume: &VolumeRef, look: &Look) -> Result<Did, Failure> {
        let text = format!("pause {}", self.run());
        self.note(lease, Action::Pause, Some(volume), "intent", &text)?;
        let full = look.volumes.iter().find(|info| info.name == volume.to_string()).and_then(|info| info.fill_percent);
        let result = self.hypervisor.pause(self.run()).await.map(|_| {
            let full = full.map(|percent| format!("{percent:.0} % full")).unwrap_or_else(|| "nearly full".to_owned());
            format!("paused {}: {volume} is {full} and there is no room to extend it", self.run())
        });
        self.outcome(lease, Action::Pause, Some(volume), &text, result)
    }

    async fn resume(&self, lease: &Lease) -> Result<Did, Failure> {
        let text = format!("let {} go on", self.run());
        self.note(lease, Action::Resume, None, "intent", &text)?;
        let result = self.hypervisor.resume(self.run()).await.map(|_| format!("{} goes on: there is room", self.run()));
        self.outcome(lease, Action::Resume, None, &text, result)
    }

    /// A loss is told once in the journal.
    fn tell(&self, lease: &Lease, volume: &VolumeRef, why: &str) -> Result<Option<Did>, Failure> {
        let told = |event: &EventRecord| {
            event.data["watch"] == json!(Action::Lost) && event.data["volume"] == volume.to_string()
        };
        if self.journal.events(self.run())?.iter().any(told) {
            return Ok(None);
        }
        let text = format!("{volume} is lost: {why}");
        self.note(lease, Action::Lost, Some(volume), "done", &text)?;
        Ok(Some(Did { action: Action::Lost, volume: Some(volume.to_string()), done: true, text }))
    }

    fn outcome(
        &self,
        lease: &Lease,
        action: Action,
        volume: Option<&VolumeRef>,
        tried: &str,
        result: hypervisors::Result<String>,
    ) -> Result<Did, Failure> {
        let (stage, text) = match &result {
            Ok(text) => ("done", text.clone()),
            Err(error) if error.is_unknown() => ("unknown", format!("{tried}: {error}")),
            Err(error) => ("failed", format!("{tried}: {error}")),
        };
        self.note(lease, action, volume, stage, &text)?;
        Ok(Did { action, volume: volume.map(ToString::to_string), done: result.is_ok(), text })
    }

    fn note(
        &self,
        lease: &Lease,
        action: Action,
        volume: Option<&VolumeRef>,
        stage: &str,
        text: &str,
    ) -> Result<(), Failure> {
        let volume = volume.map(ToString::to_string);
        let data = json!({ "watch": action, "stage": stage, "volume": volume, "text": text });
        self.journal.append(lease, None, None, EventKind::Note, &data)?;
        Ok(())
    }

    /// Whether it was paused by us, and not since let go.
    fn paused_here(&self) -> Result<bool, Failure> {
        Ok(paused_by_us(&self.journal.events(self.run())?))
    }

    /// What is to be known as long as it lasts, and whether a person has to decide.
    fn warnings(&self, look: &Look, paused: bool) -> (Vec<String>, bool) {
        let (run, guest) = (self.run(), &self.record.original.name);
        let mut warnings = Vec::new();
        let mut person = paused;
        for ((volume, need), full) in look.needs.iter().map(|(volume, need)| {
            let info = look.volumes.iter().find(|info| info.name == volume.to_string());
            ((volume, need), info.and_then(|info| info.fill_percent).unwrap_or_default())
        }) {
            match need {
                Need::Nothing => {}
                Need::Lost(why) => {
                    person = true;
                    warnings.push(if self.record.strategy == Strategy::Snapshot {
                        format!(
                            "{volume} is lost ({why}), and {run} with it. {guest} was not touched; upgradectl abort {guest} \
                             cleans up"
                        )
                    } else {
                        format!("{volume} is lost ({why}): look at {guest}")
                    });
                }
                Need::Extend { .. } => warnings.push(format!("{volume} is {full:.0} % full")),
                Need::Room { urgent, own, free_bytes } => {
                    person |= *urgent;
                    let room = match own {
                        true => format!("cannot be extended: {} MiB are free in its volume group", free_bytes >> 20),
                        false => "lies in a pool that is nearly full: extend the pool".to_owned(),
                    };
                    warnings.push(format!("{volume} is {full:.0} % full and {room}"));
                }
            }
        }
        if paused && look.lost().is_none() {
            warnings.push(format!(
                "{run} is paused. That only buys time: what {guest} writes fills the snapshot too. Make room, and it goes \
                 on; or upgradectl abort {guest}"
            ));
        }
        (warnings, person)
    }

    /// Watches while something is done on this run under its lease; the last look has ended when this returns.
    pub(super) async fn beside<T>(mut self, work: impl Future<Output = T>, lease: &Lease, emit: &Emitter) -> T {
        self.every = IN_A_VERB;
        let ended = Notify::new();
        let work = async {
            let result = work.await;
            ended.notify_one();
            result
        };
        let watching = async {
            let (mut told, mut at_work) = (Vec::new(), true);
            while at_work {
                // The last look is behind the last step: what was lost in it is known when the verb concludes.
                tokio::select! {
                    () = ended.notified() => at_work = false,
                    () = tokio::time::sleep(self.every) => {}
                }
                // What cannot be looked at now is looked at again soon; the step in hand tells of real trouble.
                if let Ok((look, did)) = self.tend(lease).await {
                    let paused = look.power == Power::Paused && self.paused_here().unwrap_or(false);
                    let done = did.into_iter().map(|did| did.text);
                    let (warnings, _) = self.warnings(&look, paused);
                    done.chain(warnings.iter().filter(|text| !told.contains(*text)).cloned())
                        .for_each(|message| emit.send(EventBody::Warning { message }));
                    told = warnings;
                }
            }
        };
        tokio::join!(work, watching).0
    }

    /// The clone is not paused any more if there is room now. Says why it cannot be worked with, if so. `act`: something may
    /// be done about it.
    pub(super) async fn usable(&self, lease: &Lease, act: bool) -> Result<Option<String>, Failure> {
        let look = if act { self.tend(lease).await?.0 } else { self.look().await? };
        if let Some((volume, why)) = look.lost() {
            return Ok(Some(format!(
                "{volume}: {why}; the clone is lost with it, {} is not",
                self.record.original.name
            )));
        }
        let paused = look.power == Power::Paused && self.paused_here()?;
        Ok(paused.then(|| format!("{} is paused: its snapshot is nearly full and there is no room", self.run())))
    }

    /// The clone may not be paused: it is about to be stopped.
    pub(super) fn without_pausing(mut self) -> Self {
        self.may_pause = false;
        self
    }
}

/// Whether the clone was paused by a watch, and not since let go by one. Pure.
fn paused_by_us(events: &[EventRecord]) -> bool {
    events.iter().filter(|event| event.kind == EventKind::Note).fold(false, |paused, event| {
        match (event.data["watch"].as_str(), event.data["stage"].as_str()) {
            (Some("pause"), Some("failed")) | (Some("resume"), Some("done")) => false,
            (Some("pause"), _) => true,
            _ => paused,
        }
    })
}

impl App {
    /// Looks at the snapshots of the open runs (or of the one that `word` means) and does what has to be done. `every`: how
    /// long until the next look.
    ///
    /// # Errors
    /// If the journal cannot be used; what is wrong with a run is told of the run.
    pub async fn watch(&self, word: Option<&str>, every: Duration) -> Result<Watching, Failure> {
        let mut watching = Watching { time: Timestamp::now(), runs: Vec::new() };
        if self.journal_read_only()?.is_none() {
            return Ok(watching);
        }
        let journal = self.journal()?;
        for run in query::open_runs(&*journal, word)? {
            let mut line = RunWatch::new(&run.id, &run.guest, &run.state);
            if let Err(Failure(error)) = self.watch_run(&journal, &run, every, &mut line).await {
                line.trouble = Some(format!("cannot {}: {}", error.message, error.causes.join(": ")));
                line.trouble_code = error.code;
            }
            watching.runs.push(line);
        }
        Ok(watching)
    }

    async fn watch_run(
        &self,
        journal: &Arc<dyn Journal>,
        run: &RunRecord,
        every: Duration,
        line: &mut RunWatch,
    ) -> Result<(), Failure> {
        let record: RunFacts = serde_json::from_value(run.facts.clone())?;
        let hypervisor = self.sides(&record)?.clone;
        let spec = self.inventory.guests.get(&run.guest);
        let watched = Watched::new(journal.clone(), hypervisor, record, spec, every);
        let mut look = watched.look().await?;
        let ending = matches!(State::parse(&run.state), Some(State::Aborting | State::Committing));
        let ours = look.power == Power::Paused && watched.paused_here()?;
        if (!look.quiet() || ours) && !ending {
            // Nothing is taken from a verb at work; of one whose process is gone, the lease is borrowed.
            if let Some(borrowed) = lease::borrow(&**journal, &run.id)? {
                let open = journal.run(&run.id)?.is_some_and(|run| run.closed.is_none());
                let tended = if open { Some(watched.tend(&borrowed.lease).await) } else { None };
                borrowed.give_back(&**journal)?;
                if let Some((seen, did)) = tended.transpose()? {
                    (look, line.did) = (seen, did);
                }
            }
        }
        line.holder = journal
            .holder(&run.id)?
            .1
            .filter(|holder| !holder.is_gone() && !holder.brief)
            .map(|holder| HolderInfo { host: holder.host, pid: holder.pid, user: holder.user });
        line.paused = look.power == Power::Paused && watched.paused_here()?;
        (line.warnings, line.needs_a_person) = watched.warnings(&look, line.paused);
        line.volumes = look.volumes;
        Ok(())
    }
}

/// A note of a watch, for the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Noted {
    /// When it began.
    pub time: Timestamp,
    /// `extend`, `pause`, `resume`, `lost`.
    pub action: String,
    /// Volume.
    pub volume: Option<String>,
    /// `done`, `failed`, `unknown`; `begun` if that is all that is known.
    pub outcome: String,
    /// In words.
    pub text: String,
}

/// What watches did in a run, oldest first. Pure.
pub fn notes(events: &[EventRecord]) -> Vec<Noted> {
    let mut notes: Vec<Noted> = Vec::new();
    for event in events.iter().filter(|event| event.kind == EventKind::Note) {
        let word = |key: &str| event.data[key].as_str().map(str::to_owned);
        let (Some(action), Some(stage), Some(text)) = (word("watch"), word("stage"), word("text")) else { continue };
        let volume = word("volume");
        let begun = notes.last_mut().filter(|last| {
            last.outcome == "begun" && stage != "intent" && (&last.action, &last.volume) == (&action, &volume)
        });
        match begun {
            Some(last) => (last.outcome, last.text) = (stage, text),
            None => {
                let outcome = if stage == "intent" { "begun".to_owned() } else { stage };
                notes.push(Noted { time: event.time, action, volume, outcome, text });
            }
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(notes: &[(&str, &str)]) -> Vec<EventRecord> {
        let event = |(action, stage): &(&str, &str)| EventRecord {
            seq: 1,
            epoch: 1,
            time: Timestamp::UNIX_EPOCH,
            plan: None,
            step: None,
            kind: EventKind::Note,
            data: json!({ "watch": action, "stage": stage, "volume": "v", "text": format!("{action} {stage}") }),
        };
        notes.iter().map(event).collect()
    }

    #[test]
    fn a_pause_is_ours_from_its_intent_until_the_clone_goes_on() {
        for (notes, ours) in [
            (&[][..], false),
            (&[("pause", "intent")], true),
            (&[("pause", "intent"), ("pause", "failed")], false),
            (&[("pause", "intent"), ("pause", "unknown")], true),
            (&[("pause", "intent"), ("pause", "done"), ("extend", "intent"), ("resume", "intent")], true),
            (&[("pause", "intent"), ("pause", "done"), ("resume", "intent"), ("resume", "done")], false),
        ] {
            assert_eq!(paused_by_us(&events(notes)), ours, "{notes:?}");
        }
    }

    #[test]
    fn an_intent_and_its_result_are_one_entry_and_one_cut_short_says_so() {
        let noted = notes(&events(&[
            ("extend", "intent"),
            ("extend", "intent"),
            ("extend", "done"),
            ("pause", "intent"),
            ("pause", "failed"),
            ("lost", "done"),
        ]));
        let short: Vec<_> = noted.iter().map(|note| (note.action.as_str(), note.outcome.as_str())).collect();
        assert_eq!(short, [("extend", "begun"), ("extend", "done"), ("pause", "failed"), ("lost", "done")]);
        assert_eq!(noted[1].text, "extend done");
    }
}
