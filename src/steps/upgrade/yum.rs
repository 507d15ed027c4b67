//! Steps of an update by yum(8) or dnf(8) in a guest that has no copy: packages, and the exclude that hides kernels lifted for as long.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hypervisors::host::{Command, JobStatus, printable};
use hypervisors::{Change, GuestLink, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::kernel::{BOOT, fall_back, path, set_default};
use super::{At, POLL, Work, guest, name, probe_job, two_hours, went_down};
use crate::recipe::job;
use crate::recipe::script::LastLine;
use crate::recipe::yum::Tool;
use crate::steps::leased::Leased;
use crate::steps::place::Place;
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Updates packages as a detached job in the guest (kind `yum.update`). The package of a kernel makes that the default by itself: the
/// job ends with the old one as the default again, whether anybody is left to see it or not. What was updated stays: `undo` waits until
/// nothing more is done, has the old kernel booted, and names the transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct YumUpdate {
    /// Inventory host.
    pub host: String,
    /// How to get into the guest.
    pub link: GuestLink,
    /// Instance UUID of the machine, where its platform has an API for such: what it is called there is for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// What updates packages there.
    pub tool: Tool,
    /// Names of packages; empty: all.
    pub packages: Vec<String>,
    /// Switches before the verb (`--disableexcludes=all`).
    pub options: Vec<String>,
    /// The kernel that runs before: it stays the default.
    pub before: String,
    /// Id of the job in the guest, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
    /// How long it may take, in seconds.
    #[serde(default = "two_hours")]
    pub patience_s: u64,
}

impl YumUpdate {
    fn argv(&self) -> Vec<String> {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        self.tool.update(&self.packages, &options)
    }

    /// What the job runs.
    fn work(&self) -> Vec<String> {
        let keep = ["sh", "-c", BOOT, "sh", "keep", &path(&self.before)].map(str::to_owned);
        keep.into_iter().chain(self.argv()).collect()
    }

    /// Waits until its job does nothing more in the guest.
    async fn idle(&self, guest: &dyn Host, progress: &(dyn Fn(String, f64) + Sync)) -> Result<(), StepError> {
        let (begun, patience) = (Instant::now(), Duration::from_secs(self.patience_s));
        while let (_, JobStatus::Running { .. }) = job::newest(guest, &self.job).await? {
            if begun.elapsed() >= patience {
                return Err(StepError::failed(
                    format!("{} still works in {}", self.tool.program, self.link.name),
                    format!(
                        "wait for its end, or end it (the job {} there); then upgradectl retry {}",
                        self.job, self.link.name
                    ),
                ));
            }
            let fraction = begun.elapsed().as_secs_f64() / patience.as_secs_f64();
            progress(format!("{} still works: its end is waited for", self.tool.program), fraction);
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Number of the last transaction (`history info` of yum(8) and dnf(8), which begins `Transaction ID : 42`); `None` before yum 3.2.25,
    /// which kept none.
    async fn transaction(&self, guest: &dyn Host) -> Result<Option<u64>, StepError> {
        let command = Command::new([self.tool.program.as_str(), "history", "info"]).env("LC_ALL", "C");
        let told = guest.run(&command).await?;
        let number = |line: &str| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "Transaction ID").then(|| value.trim().parse().ok()).flatten()
        };
        Ok((told.status == 0).then(|| told.text().lines().find_map(number)).flatten())
    }
}

#[async_trait]
impl Step for YumUpdate {
    fn title(&self) -> String {
        match self.packages.as_slice() {
            [] => format!("update all packages of {} ({})", self.link.name, self.tool.program),
            some => format!("update {} ({})", some.join(" "), self.tool.program),
        }
    }
    fn undo_title(&self) -> String {
        format!("{} is booted; updated packages stay", self.before)
    }
    fn taken_back(&self) -> String {
        format!("make {} the kernel that is booted, and leave packages as they were updated", self.before)
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        vec![self.argv(), set_default(&self.before)]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        probe_job(guest(world, &self.host, &self.link)?.as_ref(), &self.job).await
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        Ok(json!({ "transaction": self.transaction(&*guest).await? }))
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let mut last = LastLine::default();
        let mut take = |bytes: &[u8]| {
            last.feed(bytes);
            world.progress(last.get(), None);
        };
        let at = At { host: &self.host, link: &self.link, vm: self.vm.as_deref() };
        let env = [("LC_ALL".to_owned(), "C".to_owned())];
        let (what, argv) = (self.tool.program.as_str(), self.work());
        let work = Work { at, what, job: &self.job, argv: &argv, env: &env, patience_s: self.patience_s };
        let end = work.run(world, &mut take).await?;
        match end.status {
            Some(0) => {}
            None => return Err(went_down(world, &self.tool.program)),
            Some(status) => {
                return Err(StepError::failed(
                    format!("{} ended with status {status}: {}", self.argv().join(" "), last.get()),
                    format!("look: upgradectl ssh {0}; mend it there, then upgradectl resume {0}", name(world)),
                ));
            }
        }
        let before = found["transaction"].as_u64();
        let after =
            self.transaction(&*guest(world, &self.host, &self.link)?).await?.filter(|after| Some(*after) != before);
        let change = if after.is_some() || before.is_none() { Change::Changed } else { Change::Unchanged };
        Ok(Done::new(change).with(json!({ "transaction": after })))
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        self.idle(&*guest, &|what, fraction| world.progress(what, Some(fraction))).await?;
        fall_back(&*guest, &self.before).await?;
        let stay = "packages stay as they were updated: what brings them back is the backup of who runs the machine";
        let done = Done::new(Change::Changed);
        Ok(match world.last["data"]["transaction"].as_u64() {
            Some(number) => done.warn(format!("{stay}; to try: {} history undo {number}", self.tool.program)),
            None if world.last.is_null() => done,
            None => done.warn(stay),
        })
    }
}

/// Lines of a file, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// The first.
    pub first: usize,
    /// The last.
    pub last: usize,
    /// What they say.
    pub says: Vec<String>,
}

/// Comments out the lines of a file that hide kernels, and nothing else, for as long as the verb lasts (kind `yum.exclude`). A leased
/// change: the guest puts them back by itself where nobody is left to do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiftExclude {
    /// Inventory host.
    pub host: String,
    /// How to get into the guest.
    pub link: GuestLink,
    /// The file.
    pub file: PathBuf,
    /// The lines, in their order.
    pub lines: Vec<Lines>,
    /// SHA-256 of the file when the plan was made.
    pub sha256: String,
    /// The run: it names the kept copy, which lies beside the file.
    pub run: String,
    /// Put back by the guest so many seconds after it was last renewed, at the latest.
    pub lease_s: u64,
}

const EXCLUDE: &str = include_str!("exclude.sh");

impl LiftExclude {
    fn argv(&self, verb: &str) -> Vec<String> {
        let file = self.file.display().to_string();
        let kept = format!("{file}.{}", self.run);
        let lines: Vec<String> = self.lines.iter().map(|at| format!("{}-{}", at.first, at.last)).collect();
        let words = ["sh", "-c", EXCLUDE, "upgradectl-exclude", verb, &file, &kept, &lines.join(",")];
        words.map(str::to_owned).into_iter().collect()
    }

    fn change(&self) -> Leased {
        Leased {
            name: format!("the exclude in {}", self.file.display()),
            place: Place::Guest { host: self.host.clone(), link: self.link.clone() },
            reversal: self.argv("restore"),
            seconds: self.lease_s,
            limit_s: 60,
        }
    }
}

#[async_trait]
impl Step for LiftExclude {
    fn title(&self) -> String {
        let lines = self.lines.iter().map(|at| match at.first == at.last {
            true => at.first.to_string(),
            false => format!("{} to {}", at.first, at.last),
        });
        let lines: Vec<String> = lines.collect();
        let one = self.lines.len() == 1 && self.lines[0].first == self.lines[0].last;
        let (word, lines) = (if one { "line" } else { "lines" }, lines.join(", "));
        format!("comment {word} {lines} of {} out", self.file.display())
    }
    fn undo_title(&self) -> String {
        "the file as it was".into()
    }
    fn diff(&self) -> Option<String> {
        let file = self.file.display();
        let hunk = |at: &Lines| {
            let count = at.says.len();
            let all = |sign: &str| at.says.iter().map(|line| format!("{sign}{line}\n")).collect::<String>();
            format!("@@ -{0},{count} +{0},{count} @@\n{1}{2}", at.first, all("-"), all("+#"))
        };
        let hunks: String = self.lines.iter().map(hunk).collect();
        Some(printable_lines(&format!("--- {file}\n+++ {file}, while kernels are updated\n{hunks}")))
    }
    fn leased(&self) -> Option<Leased> {
        Some(self.change())
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let command = Command::new(self.argv("state"));
        let told =
            guest(world, &self.host, &self.link)?.run(&command).await?.checked("look at the exclude", &command)?;
        Ok(match told.text().trim() {
            "absent" => Probe::Absent,
            "lifted" => Probe::Present,
            "begun" | "foreign" => Probe::Partial,
            other => Probe::Unknown(format!("the guest says of its exclude: {}", printable(other))),
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let mut argv = self.argv("lift");
        argv.push(self.sha256.clone());
        let done = Done::new(Change::Changed);
        Ok(match self.change().make(world, &argv).await? {
            Ok(()) => done,
            Err(why) => done.warn(format!(
                "{} cannot put the exclude back by itself ({why}): without the controller, nobody does",
                self.link.name
            )),
        })
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        self.change().take_back(world).await?;
        Ok(Change::Changed.into())
    }
}

/// Printable, line by line.
fn printable_lines(text: &str) -> String {
    text.lines().map(|line| printable(line) + "\n").collect()
}

#[cfg(test)]
#[path = "yum_tests.rs"]
mod tests;
