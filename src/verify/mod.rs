//! Checks of a guest from the outside and the inside, and the baseline they are compared with.
//!
//! Sees an address, a [`hypervisors::Net`] and a [`hypervisors::Host`], whatever the platform. Changes nothing in the
//! guest and sends nothing to anybody. Every server is hostile: what it says is bounded in size and time and made
//! printable before it stands in a report. Passwords are read on the controller and are never stored or shown.

mod baseline;
mod check;
mod compare;
pub(crate) mod dns;
mod http;
pub mod inside;
mod line;
mod mail;
mod probe;
mod report;
mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypervisors::host::{current_observer, observed};
use hypervisors::{Host, Net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

pub use baseline::{Baseline, Measure, take_baseline};
pub use check::{Check, CheckKind, HttpCheck, Login, MailboxCheck, RecordType, TlsMode, When, with_standard};
pub use report::{CheckResult, Report, Verdict};

/// Which of the pair is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The clone, at its own address, quarantined.
    Clone,
    /// Whoever holds the production address: the promoted guest, or the original.
    Promoted,
}

/// What is checked, and from where.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name for reports: the run's or the guest's.
    pub name: String,
    /// Address to connect to.
    pub address: IpAddr,
    /// Port of its sshd.
    pub ssh_port: u16,
    /// The network it is reached by.
    pub net: Arc<dyn Net>,
    /// Its inside; without it, checks that need it fail.
    pub inside: Option<Arc<dyn Host>>,
    /// Which of the pair it is.
    pub side: Side,
    /// Services that are off in the clone now (`postfix`, `cron.service`); those started for `verify` are not among them.
    pub quarantined: Vec<String>,
    /// What it is compared with.
    pub baseline: Option<Baseline>,
    /// Its host name, for virtual hosts and certificates.
    pub hostname: Option<String>,
}

impl Target {
    fn measured(&self, check: &str) -> Option<&Measure> {
        self.baseline.as_ref()?.checks.get(check)
    }
}

/// Work for a task of its own, whose commands are recorded as those of the task that spawns it.
fn reported<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let observer = current_observer();
    async move {
        match observer {
            Some(observer) => observed(observer, work).await,
            None => work.await,
        }
    }
}

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes all checks at the same time. One that fails is tried again until it passes or its deadline (its own, else
/// `deadline`) has passed: services come up slowly. `progress` is told how many are done.
pub async fn run_checks(
    target: &Arc<Target>,
    checks: &[Check],
    deadline: Duration,
    progress: impl Fn(usize),
) -> Report {
    let (time, start) = (Timestamp::now(), Instant::now());
    // What is meant for the clone alone has nothing to say of the promoted guest.
    let meant = |check: &&Check| (check.when, target.side) != (When::Clone, Side::Promoted);
    let checks: Vec<&Check> = checks.iter().filter(meant).collect();
    let mut tasks = JoinSet::new();
    for (index, check) in checks.iter().enumerate() {
        let (target, check) = (Arc::clone(target), (*check).clone());
        tasks.spawn(reported(async move { (index, judge(&target, &check, deadline).await) }));
    }
    let mut results: Vec<Option<CheckResult>> = vec![None; checks.len()];
    let mut done = 0;
    while let Some(joined) = tasks.join_next().await {
        if let Ok((index, result)) = joined {
            results[index] = Some(result);
        }
        done += 1;
        progress(done);
    }
    let broken =
        |check: &Check| result(target, check, Verdict::Failed, "the check itself broke off: a bug".into(), 0.0);
    let checks = results.into_iter().zip(checks).map(|(result, check)| result.unwrap_or_else(|| broken(check)));
    Report {
        schema: 1,
        name: target.name.clone(),
        address: target.address,
        side: target.side,
        time,
        baseline_time: target.baseline.as_ref().map(|baseline| baseline.time),
        checks: checks.collect(),
        elapsed_s: start.elapsed().as_secs_f64(),
    }
}

fn result(target: &Target, check: &Check, verdict: Verdict, detail: String, elapsed_s: f64) -> CheckResult {
    let baseline = target.measured(&check.name).map(|measure| measure.detail.clone());
    CheckResult { name: check.name.clone(), kind: check.kind.word().into(), verdict, detail, baseline, elapsed_s }
}

async fn judge(target: &Target, check: &Check, deadline: Duration) -> CheckResult {
    let start = Instant::now();
    let finish = |verdict, detail| result(target, check, verdict, detail, start.elapsed().as_secs_f64());
    if let Some((verdict, why)) = not_now(target, check).await {
        return finish(verdict, why);
    }
    let deadline = check.deadline_s.map_or(deadline, Duration::from_secs);
    loop {
        match probe::attempt(target, check).await {
            Ok(seen) => return finish(Verdict::Passed, inside::short(&seen.detail)),
            Err(fault) if fault.fixed || start.elapsed() + PAUSE >= deadline => {
                return finish(Verdict::Failed, failure(target, check, fault.why));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Whether a check cannot be made on this side, and why.
async fn not_now(target: &Target, check: &Check) -> Option<(Verdict, String)> {
    if (check.when, target.side) == (When::Promoted, Side::Clone) {
        return Some((Verdict::Later, "when = \"promoted\"".into()));
    }
    if let Some(service) = check.kind.port().and_then(|port| target.quarantined_port(port)) {
        return Some((Verdict::Held, format!("{service} is quarantined; runs after promotion")));
    }
    if let (CheckKind::Kernel { .. }, Some(inside)) = (&check.kind, &target.inside)
        && inside::is_container(inside.as_ref()).await.unwrap_or(false)
    {
        return Some((Verdict::Later, "a container: it runs its host's kernel".into()));
    }
    None
}

/// A failure beside what the original showed.
fn failure(target: &Target, check: &Check, why: String) -> String {
    let why = inside::short(&why);
    match target.measured(&check.name) {
        // The number is in the message already.
        Some(measure) if measure.messages.is_some() && why.contains("the original showed") => why,
        Some(measure) if measure.passed => format!("{why}; the original {}", measure.detail),
        Some(_) => format!("{why}; the original failed as well"),
        None => why,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
