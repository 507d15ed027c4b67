//! Steps of the Debian recipe, after the release notes: sources, update, minimal and full upgrade, clean-up, conffiles.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use hypervisors::host::JobStatus;
use hypervisors::{Change, GuestLink, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{At, Work, guest, name, probe_job, two_hours, went_down, with_clone};
use crate::recipe::debian::apt::{self, Phase, Transcript};
use crate::recipe::debian::{self, Release, sources};
use crate::recipe::{conffiles, job};
use crate::steps::{Done, Probe, Step, StepError, World};

fn release(codename: &str) -> Result<Release, StepError> {
    Release::named(codename)
        .ok_or_else(|| StepError::failed(format!("{codename} is not a known release of Debian"), "mend upgrade.to"))
}

/// Runs a command of apt or dpkg as a job, with progress; the failure in one line.
async fn package_work(
    world: &World,
    at: At<'_>,
    job: &str,
    argv: &[String],
    patience_s: u64,
) -> Result<(job::End, Transcript), StepError> {
    let mut transcript = Transcript::default();
    let what = argv.first().map_or("its work", String::as_str);
    let work = Work { at, what, job, argv, env: &apt::environment(), patience_s };
    let mut take = |bytes: &[u8]| {
        transcript.feed(bytes);
        let (what, fraction) = transcript.progress();
        world.progress(what, fraction);
    };
    let end = work.run(world, &mut take).await?;
    match end.status {
        Some(0) => Ok((end, transcript)),
        None => Err(went_down(world, &argv.join(" "))),
        Some(status) => {
            let why = transcript.cause().unwrap_or_else(|| format!("{} ended with status {status}", argv.join(" ")));
            let guest = guest(world, at.host, at.link)?;
            Err(unreachable(guest.as_ref(), &transcript)
                .await
                .unwrap_or_else(|| StepError::failed(why, help(world, &transcript))))
        }
    }
}

/// How to look and how to go on.
fn help(world: &World, transcript: &Transcript) -> String {
    let guest = name(world);
    let look = if transcript.broken().is_empty() { "apt-get check" } else { "dpkg --audit" };
    format!(
        "look: upgradectl ssh {guest} -- {look}\n\
         mend: add a hook (at = \"before-upgrade\"), then upgradectl upgrade {guest}; or mend it there, \
         then upgradectl resume {guest}"
    )
}

/// The failure of a repository, with the line that names it.
async fn unreachable(guest: &dyn Host, transcript: &Transcript) -> Option<StepError> {
    let first = transcript.unreachable().first()?;
    let place = debian::locate(guest, &first.uri, &first.suite).await;
    let place = place.map_or(String::new(), |place| format!(" ({place})"));
    Some(StepError::failed(
        format!("{} {}: {}{place}", first.uri, first.suite, first.why),
        "make the repository reachable from the clone, or disable its line in the original and clone again",
    ))
}

/// Takes the package sources from one release to the next; third parties and backports are disabled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebianSources {
    /// Inventory host.
    pub host: String,
    /// How to get into the clone.
    pub link: GuestLink,
    /// Code name of the release it runs.
    pub from: String,
    /// Code name of the release it gets.
    pub to: String,
    /// What changes, for the plan ([`debian::source_diff`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// A package source file as it was found: its mode and the SHA-256 of its kept bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct FoundSource {
    mode: u32,
    sha256: String,
}

impl DebianSources {
    async fn files(&self, guest: &dyn Host) -> Result<Vec<debian::SourceFile>, StepError> {
        Ok(debian::source_files(guest, release(&self.from)?, release(&self.to)?).await?)
    }
    fn found(found: &Value) -> Result<BTreeMap<String, FoundSource>, StepError> {
        BTreeMap::deserialize(found)
            .map_err(|error| StepError::Memory(format!("what was found of the package sources: {error}")))
    }
}

#[async_trait]
impl Step for DebianSources {
    fn title(&self) -> String {
        format!("take the package sources from {} to {}", self.from, self.to)
    }
    fn undo_title(&self) -> String {
        "the sources as they were".into()
    }
    fn diff(&self) -> Option<String> {
        self.diff.clone()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let files = self.files(guest(world, &self.host, &self.link)?.as_ref()).await?;
        let done = files.iter().all(|file| file.after.text == file.before);
        Ok(if done { Probe::Present } else { Probe::Absent })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let mut found = serde_json::Map::new();
        for file in self.files(guest(world, &self.host, &self.link)?.as_ref()).await? {
            let sha256 = world.memory.keep(file.before.as_bytes())?;
            found.insert(file.path, json!(FoundSource { mode: file.mode, sha256 }));
        }
        Ok(found.into())
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let found = Self::found(found)?;
        let files = self.files(guest.as_ref()).await?;
        let pending = || files.iter().filter(|file| file.after.text != file.before);
        for file in pending() {
            let same = found.get(&file.path).is_some_and(|f| f.sha256 == crate::recipe::sha256(file.before.as_bytes()));
            if !same {
                return Err(StepError::Changed(format!("{} is not as it was when the step began", file.path)));
            }
        }
        let mut done = Done::new(Change::Unchanged);
        for file in pending() {
            guest.write_file(Path::new(&file.path), file.after.text.as_bytes(), file.mode).await?;
            done.change = Change::Changed;
            for note in file.after.notes.iter().filter(|note| note.action == sources::Action::Disabled) {
                done = done.warn(format!("{}:{}: {} is disabled ({})", file.path, note.line, note.entry, note.why));
            }
        }
        Ok(done)
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let mut change = Change::Unchanged;
        for (path, file) in Self::found(found)? {
            let bytes = world.memory.recall(&file.sha256)?;
            if guest.read_file(Path::new(&path), 1 << 20).await?.as_deref() != Some(bytes.as_slice()) {
                guest.write_file(Path::new(&path), &bytes, file.mode).await?;
                change = Change::Changed;
            }
        }
        Ok(change.into())
    }
}

/// Reads the package lists (`apt-get update`); fails if any repository does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebianUpdate {
    /// Inventory host.
    pub host: String,
    /// How to get into the clone.
    pub link: GuestLink,
    /// Id of the job in the clone, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
    /// How long it may take, in seconds.
    #[serde(default = "two_hours")]
    pub patience_s: u64,
}

#[async_trait]
impl Step for DebianUpdate {
    fn title(&self) -> String {
        "read the package lists".into()
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        vec![apt::update()]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        probe_job(guest(world, &self.host, &self.link)?.as_ref(), &self.job).await
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let (_, transcript) =
            package_work(world, At::new(&self.host, &self.link), &self.job, &apt::update(), self.patience_s).await?;
        // Old versions of apt end with 0 although a repository failed.
        match unreachable(guest.as_ref(), &transcript).await {
            Some(error) => Err(error),
            None => Ok(Change::Changed.into()),
        }
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// One half of the upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebianUpgrade {
    /// Inventory host.
    pub host: String,
    /// How to get into the clone.
    pub link: GuestLink,
    /// Minimal or full.
    pub phase: Phase,
    /// Code name of the release it leads to.
    pub to: String,
    /// Id of the job in the clone, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
    /// How long it may take, in seconds.
    #[serde(default = "two_hours")]
    pub patience_s: u64,
}

impl DebianUpgrade {
    /// What still speaks against the upgrade being done, though its job ended well.
    async fn amiss(&self, guest: &dyn Host) -> Result<Option<String>, StepError> {
        if let Some(what) = debian::audit(guest).await? {
            return Ok(Some(format!("dpkg calls packages half-done: {what}")));
        }
        if self.phase == Phase::Full {
            let now = debian::current(guest).await?;
            if now.codename != self.to {
                return Ok(Some(format!("the clone still runs {now}")));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Step for DebianUpgrade {
    fn title(&self) -> String {
        match self.phase {
            Phase::Minimal => "upgrade what needs no new packages".into(),
            Phase::Full => format!("upgrade the rest to {}", self.to),
        }
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        vec![apt::upgrade(self.phase)]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let probe = probe_job(guest.as_ref(), &self.job).await?;
        if probe == Probe::Present && self.amiss(guest.as_ref()).await?.is_some() {
            return Ok(Probe::Partial);
        }
        Ok(probe)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let guest = guest.as_ref();
        let (attempt, status) = job::newest(guest, &self.job).await?;
        if matches!(status, JobStatus::Lost) || matches!(status, JobStatus::Ended { status, .. } if status != 0) {
            mend(world, At::new(&self.host, &self.link), &format!("{}-mend-{attempt}", self.job), self.patience_s)
                .await?;
        }
        let (_, transcript) =
            package_work(world, At::new(&self.host, &self.link), &self.job, &apt::upgrade(self.phase), self.patience_s)
                .await?;
        match self.amiss(guest).await? {
            Some(why) => Err(StepError::failed(why, help(world, &transcript))),
            None => Ok(Change::Changed.into()),
        }
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// dpkg's own continuation, then apt's.
async fn mend(world: &World, at: At<'_>, job: &str, patience_s: u64) -> Result<(), StepError> {
    package_work(world, at, &format!("{job}-configure"), &apt::configure(), patience_s).await?;
    package_work(world, at, &format!("{job}-fix"), &apt::fix(), patience_s).await?;
    Ok(())
}

/// Finishes what a failed upgrade left half-done (`dpkg --configure -a`, `apt-get -f install`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebianConfigure {
    /// Inventory host.
    pub host: String,
    /// How to get into the clone.
    pub link: GuestLink,
    /// Id of the job in the clone, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
    /// How long it may take, in seconds.
    #[serde(default = "two_hours")]
    pub patience_s: u64,
}

#[async_trait]
impl Step for DebianConfigure {
    fn title(&self) -> String {
        "finish half-done packages".into()
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        vec![apt::configure(), apt::fix()]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let probe = probe_job(guest.as_ref(), &format!("{}-fix", self.job)).await?;
        let clean = debian::audit(guest.as_ref()).await?.is_none();
        Ok(if probe == Probe::Present && !clean { Probe::Partial } else { probe })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        mend(world, At::new(&self.host, &self.link), &self.job, self.patience_s).await?;
        Ok(Change::Changed.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// Removes what nothing needs any more, and the package cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebianClean {
    /// Inventory host.
    pub host: String,
    /// How to get into the clone.
    pub link: GuestLink,
    /// Id of the job in the clone, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
    /// How long it may take, in seconds.
    #[serde(default = "two_hours")]
    pub patience_s: u64,
}

#[async_trait]
impl Step for DebianClean {
    fn title(&self) -> String {
        "remove packages that nothing needs any more".into()
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        vec![apt::autoremove(), apt::clean()]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        probe_job(guest(world, &self.host, &self.link)?.as_ref(), &format!("{}-clean", self.job)).await
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        package_work(world, At::new(&self.host, &self.link), &self.job, &apt::autoremove(), self.patience_s).await?;
        package_work(
            world,
            At::new(&self.host, &self.link),
            &format!("{}-clean", self.job),
            &apt::clean(),
            self.patience_s,
        )
        .await?;
        Ok(Change::Changed.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// Records the configuration files that the upgrade left undecided: [`Done::data`] is the list of
/// [`conffiles::Conffile`], their bytes are in the run's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectConffiles {
    /// Inventory host.
    pub host: String,
    /// How to get into the clone.
    pub link: GuestLink,
    /// What lay there when the upgrade was planned ([`conffiles::leftovers`]).
    #[serde(default)]
    pub older: BTreeMap<String, String>,
}

#[async_trait]
impl Step for CollectConffiles {
    fn title(&self) -> String {
        "record the configuration files left undecided".into()
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        vec![conffiles::find_argv()]
    }
    /// It only looks, so there is nothing of it to find.
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let keep = |bytes: &[u8]| world.memory.keep(bytes);
        let files = conffiles::collect(guest.as_ref(), &self.older, &keep).await?;
        let undecided = files.iter().filter(|file| !file.older).count();
        let done = Done::new(Change::Unchanged).with(json!(files));
        Ok(if undecided == 0 {
            done
        } else {
            done.warn(format!("configuration files undecided: {undecided} (upgradectl conffiles list {})", name(world)))
        })
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}
