//! Steps on a guest as its platform knows it: definition, power, autostart.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::{Cause, Change, Definition, DefinitionEdit, DiskEdit, GuestFacts, GuestLink, Power};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Act, Done, Manners, Probe, Side, Step, StepError, World, sha256};

/// Stores a definition, in place of the one of the same name if there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Define {
    /// Inventory host.
    pub host: String,
    /// What is stored.
    pub definition: Definition,
    /// SHA-256 of the definition it replaces, as the plan saw it; `None`: there was none.
    pub replaces: Option<String>,
    /// Where the disks pointed before, by name: a definition that someone else changed meanwhile and that is kept
    /// (`--theirs`) is pointed back there when this is taken back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disks_before: BTreeMap<String, DiskEdit>,
}

/// Whether two definitions say the same, blanks at line ends and at the end aside.
fn same(a: &str, b: &str) -> bool {
    a.trim_end() == b.trim_end()
}

/// The diff shown when someone else changed a definition.
fn three_way(name: &str, before: &str, ours: &str, theirs: &str) -> String {
    let show = |title: &str, from: &str, to: &str| {
        similar::TextDiff::from_lines(from, to)
            .unified_diff()
            .header(&format!("{name} as it was"), &format!("{name} {title}"))
            .to_string()
    };
    format!("{}{}", show("as upgradectl wrote it", before, ours), show("as it is now", before, theirs))
}

impl Define {
    /// [`StepError::Foreign`] if taking this back would overwrite what someone else made of the definition since.
    /// `found` and `last` are what its capture and its application returned.
    ///
    /// # Errors
    /// The platform does not answer, or the journal has not kept what it should.
    pub async fn foreign(&self, world: &World, found: &Value, last: &Value) -> Result<Option<StepError>, StepError> {
        let name = &self.definition.name;
        let Some(current) = world.hypervisor(&self.host)?.definition(name).await? else { return Ok(None) };
        let before: Option<String> = super::read(&found["before"])?;
        let before = before.map(|sha| world.recall_text(&sha)).transpose()?;
        let stored = match last["data"]["stored"].as_str() {
            Some(sha) => world.recall_text(sha)?,
            None => self.definition.text.clone(),
        };
        let known = [before.as_deref().unwrap_or(&stored), &stored, &self.definition.text];
        Ok((!known.iter().any(|text| same(text, &current.text))).then(|| StepError::Foreign {
            what: format!("the definition of {name}"),
            diff: three_way(name, before.as_deref().unwrap_or_default(), &stored, &current.text),
        }))
    }
}

#[async_trait]
impl Step for Define {
    fn title(&self) -> String {
        match self.replaces {
            Some(_) => format!("change the definition of {}", self.definition.name),
            None => format!("define {}", self.definition.name),
        }
    }
    fn undo_title(&self) -> String {
        if self.replaces.is_some() { "the definition as it was".into() } else { "undefine it".into() }
    }
    fn taken_back(&self) -> String {
        match self.replaces {
            Some(_) => format!("give {} its definition back", self.definition.name),
            None => format!("undefine {}", self.definition.name),
        }
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        manners.act(&self.host, Act::Define(self.replaces.is_some()), &self.definition.name)
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let current = world.hypervisor(&self.host)?.definition(&self.definition.name).await?;
        Ok(match current {
            Some(current) if same(&current.text, &self.definition.text) => Probe::Present,
            _ => Probe::Absent,
        })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let current = world.hypervisor(&self.host)?.definition(&self.definition.name).await?;
        let digest = current.as_ref().map(|definition| sha256(definition.text.as_bytes()));
        if digest != self.replaces {
            let what = if digest.is_some() { "changed" } else { "was removed" };
            return Err(StepError::Changed(format!(
                "the definition of {} {what} since the plan was made",
                self.definition.name
            )));
        }
        let before = current.map(|definition| world.memory.keep(definition.text.as_bytes())).transpose()?;
        Ok(json!({ "before": before }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let change = hypervisor.define(&self.definition).await?;
        let stored = hypervisor.definition(&self.definition.name).await?.map(|definition| definition.text);
        let kept = world.memory.keep(stored.unwrap_or_default().as_bytes())?;
        Ok(Done::new(change).with(json!({ "stored": kept })))
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let name = &self.definition.name;
        let before: Option<String> = super::read(&found["before"])?;
        let before = before.map(|sha| world.recall_text(&sha)).transpose()?;
        let current = hypervisor.definition(name).await?.map(|definition| definition.text);
        let (Some(current), before) = (current, before) else {
            // It is gone; what was there before comes back.
            return match found["before"].as_str() {
                Some(sha) => {
                    let text = world.recall_text(sha)?;
                    Ok(hypervisor.define(&Definition { name: name.clone(), text }).await?.into())
                }
                None => Ok(Change::Unchanged.into()),
            };
        };
        if before.as_deref().is_some_and(|before| same(before, &current)) {
            return Ok(Change::Unchanged.into());
        }
        if let Some(foreign) = self.foreign(world, found, &world.last).await? {
            match world.decision {
                Some(Side::Ours) => {}
                Some(Side::Theirs) if before.is_none() => {
                    return Ok(Done::new(Change::Unchanged).warn(format!("{name}: left as it is")));
                }
                // Their change stays; what it stands on goes back all the same, or production would stand on the clone.
                Some(Side::Theirs) if !self.disks_before.is_empty() => {
                    let disks = self.disks_before.clone();
                    let edit = DefinitionEdit { disks, mark: Some(None), ..DefinitionEdit::default() };
                    let theirs = Definition { name: name.clone(), text: current };
                    let kept = hypervisor.derive(&theirs, &edit)?;
                    return Ok(Done::new(hypervisor.define(&kept).await?).warn(format!("{name}: the change stays")));
                }
                Some(Side::Theirs) | None => return Err(foreign),
            }
        }
        match before {
            Some(text) => Ok(hypervisor.define(&Definition { name: name.clone(), text }).await?.into()),
            None => Ok(hypervisor.undefine(name).await?.into()),
        }
    }
}

/// Removes a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undefine {
    /// Inventory host.
    pub host: String,
    /// Platform name.
    pub guest: String,
}

#[async_trait]
impl Step for Undefine {
    fn title(&self) -> String {
        format!("undefine {}", self.guest)
    }
    fn undo_title(&self) -> String {
        "define it again".into()
    }
    fn taken_back(&self) -> String {
        format!("define {} again", self.guest)
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        manners.act(&self.host, Act::Undefine, &self.guest)
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let defined = world.hypervisor(&self.host)?.definition(&self.guest).await?.is_some();
        Ok(if defined { Probe::Absent } else { Probe::Present })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let current = world.hypervisor(&self.host)?.definition(&self.guest).await?;
        let before = current.map(|definition| world.memory.keep(definition.text.as_bytes())).transpose()?;
        Ok(json!({ "before": before }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(world.hypervisor(&self.host)?.undefine(&self.guest).await?.into())
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let Some(sha) = found["before"].as_str() else { return Ok(Change::Unchanged.into()) };
        let hypervisor = world.hypervisor(&self.host)?;
        let text = world.recall_text(sha)?;
        if hypervisor.definition(&self.guest).await?.is_some_and(|current| same(&current.text, &text)) {
            return Ok(Change::Unchanged.into());
        }
        Ok(hypervisor.define(&Definition { name: self.guest.clone(), text }).await?.into())
    }
}

/// Pause before a failed start is tried again.
const AGAIN: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 500 });

/// Starts a guest. A platform that is busy with other guests may fail at what it does a moment later (libvirt-lxc loses
/// a control group to the clean-up after another guest), so a failure that is no refusal is tried again once.
/// A guest that is not off and writes to a disk of this one, by their definitions. No platform minds.
fn shared<'a>(guests: &'a [GuestFacts], name: &str) -> Option<(&'a str, String)> {
    let own = guests.iter().find(|guest| guest.name == name)?;
    let writes = |guest: &'a GuestFacts| guest.disks.iter().filter(|disk| !disk.readonly && !disk.shareable);
    let others = guests.iter().filter(|other| other.name != name && other.power != Power::Off);
    let mut disks = others.flat_map(|other| writes(other).map(|disk| (other.name.as_str(), disk)));
    let (other, disk) = disks.find(|(_, theirs)| writes(own).any(|disk| disk.source == theirs.source))?;
    Some((other, format!("the same {}", disk.name)))
}

async fn start(world: &World, host: &str, guest: &str) -> Result<Done, StepError> {
    let hypervisor = world.hypervisor(host)?;
    if let Some((other, disk)) = shared(&hypervisor.list().await?, guest) {
        return Err(StepError::failed(
            format!("{guest} is not started: {other} runs, and writes to {disk}"),
            format!("look at the definitions of {other} and {guest}, and mend the one that is wrong"),
        ));
    }
    match hypervisor.start(guest).await {
        Err(error) if matches!(error.cause, Cause::Platform(_)) => {
            tokio::time::sleep(AGAIN).await;
            Ok(Done::new(hypervisor.start(guest).await?).warn(format!("{guest} started at the second try: {error}")))
        }
        result => Ok(result?.into()),
    }
}

/// Starts a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Inventory host.
    pub host: String,
    /// Platform name.
    pub guest: String,
    /// How long its shutdown may take when this is taken back, in seconds.
    pub patience_s: u64,
    /// Ended as by a power cut if that takes longer (clones only: production is never cut).
    pub force: bool,
}

#[async_trait]
impl Step for Start {
    fn title(&self) -> String {
        format!("start {}", self.guest)
    }
    fn undo_title(&self) -> String {
        "stop it".into()
    }
    fn taken_back(&self) -> String {
        format!("stop {}", self.guest)
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        manners.act(&self.host, Act::Start, &self.guest)
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        Ok(match world.hypervisor(&self.host)?.power(&self.guest).await? {
            Power::On => Probe::Present,
            Power::Off | Power::Paused => Probe::Absent,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        start(world, &self.host, &self.guest).await
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        stop(world, &self.host, &self.guest, self.patience_s, self.force).await
    }
}

/// Stops a guest: asks it to shut down and waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Inventory host.
    pub host: String,
    /// Platform name.
    pub guest: String,
    /// How long it may take, in seconds.
    pub patience_s: u64,
    /// Ended as by a power cut if it takes longer (clones only: production is never cut).
    pub force: bool,
    /// The way into it, to see whether it is still going down when this is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<GuestLink>,
}

impl Stop {
    /// Whether the guest was off already, by what was captured: it is not started when the stop is taken back.
    pub fn found_off(found: &Value) -> bool {
        super::read(&found["was"]).is_ok_and(|was: Power| was == Power::Off)
    }

    /// A shutdown that was asked for cannot be called back: waits until the guest is off, or is seen to stay up.
    async fn outlast(&self, world: &World) -> Result<(), StepError> {
        let Some(link) = &self.link else { return Ok(()) };
        let hypervisor = world.hypervisor(&self.host)?;
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(self.patience_s)
            && hypervisor.power(&self.guest).await? != Power::Off
        {
            let command = Command::new(["systemctl", "is-system-running"]).timeout(Duration::from_secs(5));
            if let Ok(output) = hypervisor.guest(link)?.run(&command).await
                && !output.text().contains("stopping")
            {
                return Ok(());
            }
            world.progress(format!("{} is still going down", self.guest), None);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }
}

async fn stop(world: &World, host: &str, guest: &str, patience_s: u64, force: bool) -> Result<Done, StepError> {
    let hypervisor = world.hypervisor(host)?;
    if hypervisor.power(guest).await? == Power::Off {
        return Ok(Change::Unchanged.into());
    }
    match hypervisor.shutdown(guest, Duration::from_secs(patience_s)).await {
        Ok(change) => Ok(change.into()),
        Err(error) if error.is_unknown() && hypervisor.power(guest).await? == Power::Off => Ok(Change::Changed.into()),
        Err(error) if force => {
            let why = format!("{guest} did not shut down ({error}) and was ended");
            Ok(Done::new(hypervisor.destroy(guest).await?).warn(why))
        }
        Err(error) if error.is_unknown() => Err(StepError::failed(
            format!("{guest} did not shut down within {patience_s} s"),
            "look at its console for what holds it up",
        )),
        Err(error) => Err(error.into()),
    }
}

#[async_trait]
impl Step for Stop {
    fn title(&self) -> String {
        format!("stop {}", self.guest)
    }
    fn undo_title(&self) -> String {
        "start it".into()
    }
    fn taken_back(&self) -> String {
        format!("start {} again", self.guest)
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        manners.act(&self.host, Act::Shutdown, &self.guest)
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        Ok(match world.hypervisor(&self.host)?.power(&self.guest).await? {
            Power::Off => Probe::Present,
            Power::On | Power::Paused => Probe::Absent,
        })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        Ok(json!({ "was": world.hypervisor(&self.host)?.power(&self.guest).await? }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        stop(world, &self.host, &self.guest, self.patience_s, self.force).await
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let was: Power = super::read(&found["was"])?;
        if was == Power::Off {
            return Ok(Change::Unchanged.into());
        }
        if world.last.is_null() {
            self.outlast(world).await?;
        }
        start(world, &self.host, &self.guest).await
    }
}

/// Sets whether a guest starts with its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autostart {
    /// Inventory host.
    pub host: String,
    /// Platform name.
    pub guest: String,
    /// Whether it does from now on.
    pub on: bool,
}

#[async_trait]
impl Step for Autostart {
    fn title(&self) -> String {
        format!("autostart of {} {}", self.guest, if self.on { "on" } else { "off" })
    }
    fn undo_title(&self) -> String {
        "as it was".into()
    }
    fn taken_back(&self) -> String {
        format!("autostart of {} as it was", self.guest)
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        manners.act(&self.host, Act::Autostart(self.on), &self.guest)
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let on = world.hypervisor(&self.host)?.autostart(&self.guest).await?;
        Ok(if on == self.on { Probe::Present } else { Probe::Absent })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        Ok(json!({ "was": world.hypervisor(&self.host)?.autostart(&self.guest).await? }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(world.hypervisor(&self.host)?.set_autostart(&self.guest, self.on).await?.into())
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let was: bool = super::read(&found["was"])?;
        if hypervisor.definition(&self.guest).await?.is_none() {
            return Ok(Change::Unchanged.into());
        }
        Ok(hypervisor.set_autostart(&self.guest, was).await?.into())
    }
}
