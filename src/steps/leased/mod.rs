//! Leased changes: changes that live inside one verb and that their own machine takes back where nobody is left to do it.
//!
//! The reversal is installed on the changed machine before the change is made, and looked at there again and again by a timer
//! unit of systemd, or by at(1): it is carried out once it has not been renewed for so long. While a verb runs a [`Keeper`]
//! renews it; when the engine takes the change back itself, nothing of it stays.
//!
//! ```text
//! /var/lib/upgradectl/leased/ID/      0700; whoever is at it holds a flock(2) on it
//!     tick                            the reversal, as a script: looks whether it is due
//!     grace keeper machine (job)      seconds; systemd or at; its machine-id; the number of at's job
//! /run/upgradectl-leased-ID           the boot and the second of its uptime at which it is due
//! /etc/systemd/system/upgradectl-leased-ID.{timer,service}
//! ```
//!
//! * Time is the machine's uptime, never its clock, which may be wrong after a boot. A boot begins it anew.
//! * Making, renewing, taking back and the machine's own taking back exclude each other by the lock. A reversal may run twice,
//!   one after the other (a crash between it and its removal): that has to be harmless.
//! * The machine-id says whose it is: a clone finds its original's in its copy of the files, and drops it unused.
//! * What must not come back by a clock is never leased: masks of the quarantine, fences.

mod keeper;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hypervisors::host::{Command, printable, shell_quote};
use hypervisors::{Host, Hypervisor};
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::{StepError, World, sha256};

pub use keeper::Keeper;

const COMMON: &str = include_str!("common.sh");
const CHANGE: &str = include_str!("change.sh");
const TICK: &str = include_str!("tick.sh");
/// The name the script is run under.
pub const NAME: &str = "upgradectl-leased";
/// Where reversals stand on a machine.
pub const DIRECTORY: &str = "/var/lib/upgradectl/leased";

/// A change that its machine takes back by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leased {
    /// What it is called: unique within a run, with its place and its reversal.
    pub name: String,
    /// The machine.
    pub place: Place,
    /// What takes it back: runs there without anybody's help, and may run twice.
    pub reversal: Vec<String>,
    /// Taken back so many seconds after it was last renewed, at the latest.
    pub seconds: u64,
    /// Time-out of the change and of the reversal, in seconds.
    pub limit_s: u64,
}

/// What a renewal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The change stands for another while.
    Renewed,
    /// The machine has taken it back.
    Gone,
    /// Something is being done about it right now.
    Busy,
}

/// A reversal that stands on a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Its id there.
    pub id: String,
    /// Whose it is, by its id.
    pub run: String,
    /// Seconds until the machine carries it out; `None`: nothing there looks at it any more.
    pub left_s: Option<i64>,
    /// What it is, for people.
    pub about: String,
}

/// The script with its arguments.
fn script(words: &[&str]) -> Command {
    let head = ["sh".to_owned(), "-c".to_owned(), format!("{COMMON}{CHANGE}"), NAME.to_owned()];
    Command::new(head.into_iter().chain(words.iter().map(|word| (*word).to_owned())))
}

/// Seconds between two looks: so many that one is never late by more than a quarter.
fn tick(seconds: u64) -> u64 {
    (seconds / 4).clamp(1, 60)
}

impl Leased {
    /// Its id on the machine.
    pub fn id(&self, run: &str) -> String {
        let place = self.place.word();
        let words = [self.name.as_str(), place].into_iter().chain(self.reversal.iter().map(String::as_str));
        let text: Vec<&str> = words.collect();
        format!("{run}-{}", &sha256(text.join("\0").as_bytes())[..8])
    }

    /// The reversal as the machine runs it.
    fn file(&self, run: &str) -> Result<String, StepError> {
        if self.reversal.is_empty() || self.reversal.iter().any(|word| word.contains('\0')) {
            return Err(StepError::failed(
                format!("what takes {} back cannot be run", self.name),
                "name a program and its arguments",
            ));
        }
        let (id, limit) = (self.id(run), self.limit_s);
        let about = printable(&format!("{}: {}", self.name, shell_quote(&self.reversal)));
        let argv = shell_quote(&self.reversal);
        Ok(format!("# {about}\nasked=$1 id={id} limit={limit}\nset -- {argv}\n{COMMON}{TICK}"))
    }

    /// What keeps time on the machine, or why nothing does.
    ///
    /// # Errors
    /// If it cannot be reached.
    pub async fn possible(machine: &dyn Host) -> Result<Result<String, String>, StepError> {
        let command = script(&["can"]);
        let output = machine.run(&command).await?.checked("look what keeps time there", &command)?;
        let text = printable(output.text().trim());
        Ok(match text.strip_prefix("none ") {
            Some(why) => Err(why.to_owned()),
            None => Ok(text),
        })
    }

    /// Makes the change by a command, with its reversal standing before. Repeating it begins its time anew. False: nothing on
    /// the machine keeps time (why), and the change was made without.
    pub async fn make(&self, world: &World, argv: &[String]) -> Result<Result<(), String>, StepError> {
        let machine = self.place.of(world)?;
        if let Err(why) = Self::possible(&*machine).await? {
            let command = Command::new(argv.to_vec()).timeout(Duration::from_secs(self.limit_s));
            machine.run(&command).await?.checked(format!("run {}", self.name), &command)?;
            return Ok(Err(why));
        }
        let tick = tick(self.seconds);
        let (id, grace) = (self.id(&world.run), self.seconds - tick.min(self.seconds));
        let numbers = [grace, tick, self.limit_s].map(|number| number.to_string());
        let mut words = vec!["make", &id];
        words.extend(numbers.iter().chain(argv).map(String::as_str));
        let command = script(&words).stdin(self.file(&world.run)?).timeout(self.patience());
        machine.run(&command).await?.checked(format!("run {}", self.name), &Command::new(argv.to_vec()))?;
        world.leased.hold(self, world);
        Ok(Ok(()))
    }

    /// Takes the change back by its reversal, and the reversal away.
    pub async fn take_back(&self, world: &World) -> Result<(), StepError> {
        self.take(world, &self.reversal).await
    }

    /// Takes the reversal away: the change was taken back by other means.
    pub async fn forget(&self, world: &World) -> Result<(), StepError> {
        self.take(world, &["true".to_owned()]).await
    }

    /// Runs a program, and takes the reversal away.
    async fn take(&self, world: &World, program: &[String]) -> Result<(), StepError> {
        let (id, limit) = (self.id(&world.run), self.limit_s.to_string());
        world.leased.let_go(&id);
        let mut words = vec!["take", &id, &limit];
        words.extend(program.iter().map(String::as_str));
        let command = script(&words).timeout(self.patience());
        let machine = self.place.of(world)?;
        let output = machine.run(&command).await;
        let named = Command::new(program.to_vec());
        let output = output.and_then(|output| output.checked(format!("take {} back", self.name), &named));
        if output.is_err() {
            // It goes on being cared for until the verb ends: what failed may be tried again.
            world.leased.hold(self, world);
        }
        output?;
        Ok(())
    }

    /// Takes up the care for a change that was made by an earlier process. False: the machine has taken it back.
    pub async fn hold(&self, world: &World) -> Result<bool, StepError> {
        let renewal = self.renew(&world.hypervisors, &world.controller, &world.run).await?;
        if renewal != Renewal::Gone {
            world.leased.hold(self, world);
        }
        Ok(renewal != Renewal::Gone)
    }

    /// Begins its time anew.
    async fn renew(
        &self,
        hypervisors: &BTreeMap<String, Arc<dyn Hypervisor>>,
        controller: &Arc<dyn Host>,
        run: &str,
    ) -> Result<Renewal, StepError> {
        let machine = self.place.among(hypervisors, controller)?;
        let command = script(&["renew", &self.id(run)]).timeout(Duration::from_secs(20));
        let output = machine.run(&command).await?.checked(format!("renew {}", self.name), &command)?;
        match output.text().trim() {
            "renewed" => Ok(Renewal::Renewed),
            "gone" => Ok(Renewal::Gone),
            "busy" => Ok(Renewal::Busy),
            _ => Err(StepError::Unknown(format!("{} did not say whether {} stands", self.place.word(), self.name))),
        }
    }

    /// How long the scripts may take: until they have the lock, and the command.
    fn patience(&self) -> Duration {
        Duration::from_secs(self.limit_s.saturating_mul(2).saturating_add(60))
    }

    /// What the machine promises, in a line.
    pub fn promise(&self) -> String {
        let (place, time) = (self.place.word(), human(self.seconds));
        format!("{}: taken back by {place} itself at the latest {time} after the controller is gone", self.name)
    }
}

/// `90 s`, `10 min`, `2 h`.
fn human(seconds: u64) -> String {
    match seconds {
        s if s >= 3600 && s % 3600 == 0 => format!("{} h", s / 3600),
        s if s >= 60 && s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

/// The reversals that stand on a machine.
///
/// # Errors
/// If it cannot be reached.
pub async fn standing(machine: &dyn Host) -> Result<Vec<Standing>, hypervisors::Error> {
    let command = script(&["list"]);
    let output = machine.run(&command).await?.checked("look for leased changes", &command)?;
    Ok(output.text().lines().filter_map(parse).collect())
}

/// A line of the script's list. The machine may say what it likes.
fn parse(line: &str) -> Option<Standing> {
    let mut words = line.splitn(3, ' ');
    let (id, left) = (words.next()?, words.next()?);
    let (run, _) = id.rsplit_once('-')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (!run.is_empty() && id.chars().all(plain)).then(|| Standing {
        id: id.to_owned(),
        run: run.to_owned(),
        left_s: left.parse().ok(),
        about: printable(words.next().unwrap_or_default()).chars().take(200).collect(),
    })
}

/// Carries out the reversal that stands under an id, at once, by what stands there.
///
/// # Errors
/// If it fails or cannot be reached.
pub async fn carry_out(machine: &dyn Host, id: &str) -> Result<(), hypervisors::Error> {
    let command = Command::new(["sh", &format!("{DIRECTORY}/{id}/tick"), "now"]).timeout(Duration::from_secs(3600));
    machine.run(&command).await?.checked(format!("take back {id}"), &command)?;
    Ok(())
}

#[cfg(test)]
mod tests;
