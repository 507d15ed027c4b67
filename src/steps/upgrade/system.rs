//! Steps on the running clone as a machine: reboot it, wait until it has settled, run a program of the operator's.
//!
//! *Settled* means that ssh answers and `systemctl is-system-running` says running or degraded; ssh alone answers
//! while the boot jobs still run.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use hypervisors::host::{Command, printable_tail};
use hypervisors::{Cause, Change, Error, GuestLink, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{At, Work, guest, name, probe_job, two_hours, went_down, with_clone};
use crate::recipe::script::LastLine;
use crate::steps::{Done, Probe, Step, StepError, World};

/// A login that is refused while the machine boots (`pam_nologin`) is tried again for so long.
const LOGIN_GRACE: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 45 });
/// How often a guest that boots is looked at.
const GLANCE: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 100 });

/// How long a short command may take.
const SHORT: Duration = Duration::from_secs(20);

/// Runs a short command in the guest; its standard output, trimmed, whatever its status.
async fn ask(guest: &dyn Host, argv: &[&str]) -> Result<String, Error> {
    let command = Command::new(argv.iter().copied()).timeout(SHORT);
    Ok(guest.run(&command).await?.text().trim().to_owned())
}

/// What tells one boot from the next: the kernel's boot id and, for containers (which share it with their host), when
/// process 1 was started (field 22 of proc(5)'s `stat`, the 20th after the name in parentheses).
async fn boot(guest: &dyn Host) -> Result<String, Error> {
    let id = ask(guest, &["cat", "/proc/sys/kernel/random/boot_id"]).await?;
    let stat = ask(guest, &["cat", "/proc/1/stat"]).await?;
    let started = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19)).unwrap_or("");
    if id.is_empty() {
        return Err(Error::new("tell one boot of the clone from the next", Cause::Malformed("no boot id".into())));
    }
    Ok(format!("{id} {started}"))
}

/// Whether the guest has settled, and what it says. `wait`: it is waited for inside, for a while; every look from outside is
/// a login, and a guest that boots does better without.
async fn settled(guest: &dyn Host, wait: bool) -> Result<(bool, String), StepError> {
    let words = ["systemctl", "is-system-running", "--wait"];
    let begun = Instant::now();
    let answer = match ask(guest, &words[..if wait { 3 } else { 2 }]).await {
        // systemd before 232 does not know how to wait.
        Ok(state) if state.is_empty() && wait => ask(guest, &words[..2]).await,
        answer => answer,
    };
    let state = match answer {
        // No systemd: that ssh answers is all that can be told.
        Err(Error { cause: Cause::NotFound(_), .. }) => return Ok((true, "running".into())),
        Err(error) if error.is_unknown() && begun.elapsed() >= SHORT => "starting".into(),
        answer => answer?,
    };
    match state.as_str() {
        "running" | "degraded" | "offline" => Ok((true, state)),
        "maintenance" => Err(StepError::failed(
            "the clone booted into rescue or emergency mode",
            "look at its console, or at journalctl -xb in it",
        )),
        _ => Ok((false, if state.is_empty() { "starting".into() } else { state })),
    }
}

/// Waits until the guest has settled and, if `before` is given, until it was booted anew.
async fn wait(world: &World, guest: &dyn Host, before: Option<&str>, timeout_s: u64) -> Result<String, StepError> {
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(timeout_s);
    let mut refused: Option<Instant> = None;
    loop {
        let look = async {
            match before {
                Some(before) if boot(guest).await? == before => Ok((false, "going down".to_owned())),
                _ => settled(guest, true).await,
            }
        };
        let said = match look.await {
            Ok((true, state)) => return Ok(state),
            Ok((false, state)) => state,
            Err(error) if error.is_unknown() => error.to_string(),
            Err(StepError::Platform(error)) if matches!(error.cause, Cause::Refused(_)) => {
                let key = error.to_string().to_ascii_lowercase().contains("host key");
                if key || refused.get_or_insert_with(Instant::now).elapsed() >= LOGIN_GRACE {
                    return Err(error.into());
                }
                error.to_string()
            }
            Err(error) => return Err(error),
        };
        if Instant::now() >= deadline {
            return Err(StepError::Unknown(format!("the clone has not settled after {timeout_s} s: {said}")));
        }
        let fraction = begun.elapsed().as_secs_f64() / Duration::from_secs(timeout_s.max(1)).as_secs_f64();
        world.progress(format!("waiting for the clone: {said}"), Some(fraction.min(1.0)));
        tokio::time::sleep(GLANCE).await;
    }
}

/// Reboots the clone and waits until it has settled. One that stays off is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reboot {
    /// Inventory host.
    pub host: String,
    /// How to get into the clone.
    pub link: GuestLink,
    /// Instance UUID of the machine, where its platform has an API for such: what it is called there is for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// How long it may take, in seconds.
    pub timeout_s: u64,
}

#[async_trait]
impl Step for Reboot {
    fn title(&self) -> String {
        format!("reboot {}", self.link.name)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        vec![vec!["systemctl".into(), "reboot".into()]]
    }
    /// Whether it happened is told by comparing with what was captured, so `apply` decides; unreachable counts as begun.
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        match boot(guest(world, &self.host, &self.link)?.as_ref()).await {
            Ok(_) => Ok(Probe::Absent),
            Err(error) if error.is_unknown() => Ok(Probe::Partial),
            Err(error) => Err(error.into()),
        }
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        Ok(json!({ "boot": boot(guest(world, &self.host, &self.link)?.as_ref()).await? }))
    }
    async fn apply(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let before = found["boot"].as_str().ok_or_else(|| StepError::Memory("no boot id was captured".into()))?;
        let now = match boot(guest.as_ref()).await {
            Ok(now) => Some(now),
            Err(error) if error.is_unknown() => None,
            Err(error) => return Err(error.into()),
        };
        let done = now.as_deref().is_some_and(|now| now != before);
        if now.is_some() && !done {
            let command = Command::new(["systemctl", "reboot"]).timeout(Duration::from_secs(20));
            let answer = match guest.run(&command).await {
                // No systemd.
                Err(Error { cause: Cause::NotFound(_), .. }) => {
                    guest.run(&Command::new(["shutdown", "-r", "now"]).timeout(Duration::from_secs(20))).await
                }
                answer => answer,
            };
            match answer {
                // The link may go before the answer comes; what counts is the next boot.
                Ok(answer) if answer.status == 0 || answer.status == 255 => {}
                Ok(answer) => drop(answer.checked("reboot the clone", &command)?),
                Err(error) if error.is_unknown() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let at = At { host: &self.host, link: &self.link, vm: self.vm.as_deref() };
        let back = || wait(world, guest.as_ref(), Some(before), self.timeout_s);
        let (state, started) = tokio::select! {
            state = back() => (state?, false),
            // Cut short, or its definition says so (`on_reboot`); or a slow host is in the middle of its own restart, and
            // then it is faster.
            () = at.stays_off(world) => {
                let started = world.hypervisor(&self.host)?.start(at.domain(world).await?).await?;
                (back().await?, started != Change::Unchanged)
            }
        };
        let change = if done { Change::Unchanged } else { Change::Changed };
        let done = Done::new(change).with(json!({ "state": state }));
        Ok(if started {
            done.warn(format!("{} stayed off after its reboot, and was started", self.link.name))
        } else {
            done
        })
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// Waits until ssh answers with the expected host key and the guest has settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    /// Inventory host.
    pub host: String,
    /// How to get into the guest.
    pub link: GuestLink,
    /// Instance UUID of the machine, where its platform has an API for such: what it is called there is for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// How long it may take, in seconds.
    pub timeout_s: u64,
}

#[async_trait]
impl Step for Settle {
    fn title(&self) -> String {
        format!("wait until {} has settled", self.link.name)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        vec![["systemctl", "is-system-running", "--wait"].map(str::to_owned).to_vec()]
    }
    /// Not reachable yet is what it waits for: only a settled guest is Present.
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        match settled(guest(world, &self.host, &self.link)?.as_ref(), false).await {
            Ok((true, _)) => Ok(Probe::Present),
            _ => Ok(Probe::Absent),
        }
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let at = At { host: &self.host, link: &self.link, vm: self.vm.as_deref() };
        let state = tokio::select! {
            state = wait(world, guest.as_ref(), None, self.timeout_s) => state?,
            () = at.stays_off(world) => {
                let name = &self.link.name;
                return Err(StepError::failed(format!("{name} is not running"), format!("look at its console: why did {name} stop?")));
            }
        };
        let done = Done::new(Change::Unchanged).with(json!({ "state": state }));
        Ok(if state == "degraded" { done.warn(failed_units(guest.as_ref()).await) } else { done })
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// Takes away what a run kept in a guest that is not given up with it: records of its jobs, and of VMware's tools (kind `guest.forget`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    /// Inventory host.
    pub host: String,
    /// How to get into the guest.
    pub link: GuestLink,
    /// What the ids of the run's jobs begin with.
    pub jobs: String,
}

/// Arguments: directories and beginnings of names.
const FORGET: &str = "for p; do rm -rf \"$p\" || exit; done; rmdir \"$0\" \"${0%/*}\" 2>/dev/null; exit 0";

#[async_trait]
impl Step for Forget {
    fn title(&self) -> String {
        format!("remove what was kept in {}", self.link.name)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let list = Command::new(["ls", hypervisors::host::job::DIRECTORY]);
        let listed = guest.run(&list).await?.text();
        let ours = listed.lines().filter(|id| id.strip_prefix(&self.jobs).is_some_and(|rest| rest.starts_with('-')));
        let paths = ours.map(|id| format!("{}/{id}", hypervisors::host::job::DIRECTORY));
        let words = ["sh".to_owned(), "-c".to_owned(), FORGET.to_owned(), hypervisors::host::job::DIRECTORY.to_owned()];
        let command = Command::new(words.into_iter().chain(paths).chain([super::tools::DIRECTORY.to_owned()]));
        guest.run(&command).await?.checked("remove what was kept in the guest", &command)?;
        Ok(Change::Removed.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// Names the units that failed, in one line.
async fn failed_units(guest: &dyn Host) -> String {
    let text = ask(guest, &["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).await.unwrap_or_default();
    let units: Vec<&str> = text.lines().filter_map(|line| line.split_ascii_whitespace().next()).take(8).collect();
    printable_tail(format!("settled with failed units: {}", units.join(" ")).as_bytes(), 1)
}

/// Runs a program of the operator's in the clone; its exit status decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Inventory host.
    pub host: String,
    /// How to get into the clone.
    pub link: GuestLink,
    /// Program and arguments, placeholders replaced.
    pub argv: Vec<String>,
    /// Id of the job in the clone, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
    /// How long it may take, in seconds.
    #[serde(default = "two_hours")]
    pub patience_s: u64,
}

#[async_trait]
impl Step for Script {
    fn title(&self) -> String {
        format!("run {} in {}", self.argv.first().map_or("nothing", String::as_str), self.link.name)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        vec![self.argv.clone()]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        probe_job(guest(world, &self.host, &self.link)?.as_ref(), &self.job).await
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let mut last = LastLine::default();
        let mut take = |bytes: &[u8]| {
            last.feed(bytes);
            world.progress(last.get(), None);
        };
        let at = At::new(&self.host, &self.link);
        let program = self.argv.first().map_or("", String::as_str);
        let work = Work { at, what: program, job: &self.job, argv: &self.argv, env: &[], patience_s: self.patience_s };
        let end = work.run(world, &mut take).await?;
        match end.status {
            Some(0) => Ok(Change::Changed.into()),
            None => Err(went_down(world, program)),
            Some(status) => Err(StepError::failed(
                format!("{program} ended with status {status}: {}", last.get()),
                format!("look: upgradectl ssh {0}; then upgradectl resume {0} runs it again", name(world)),
            )),
        }
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}
