//! Taking the baseline and making the checks. Both only read the guest; what they leave is files of the run directory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::{Change, GuestLink};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Probe, Step, StepError, World};
use crate::verify::{self, Baseline, Check, Report, Side, Target, Verdict};

/// A baseline or report is far smaller; a larger file is not ours.
const LIMIT: u64 = 16 << 20;

/// Takes the baseline of the original (kind `verify.baseline`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeBaseline {
    /// Inventory name of the host that runs the original.
    pub host: String,
    /// The way into the original.
    pub link: GuestLink,
    /// Host name of the original, for virtual hosts and certificates.
    pub hostname: String,
    /// The checks that are measured.
    pub checks: Vec<Check>,
    /// File in the run directory: `baseline.json`.
    pub file: String,
}

/// Makes the checks and compares with the baseline (kind `verify.checks`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunChecks {
    /// Inventory name of the host that runs what is checked.
    pub host: String,
    /// The way into what is checked.
    pub link: GuestLink,
    /// Host name of the original, for virtual hosts and certificates.
    pub hostname: String,
    /// Which of the pair is checked.
    pub side: Side,
    /// The checks, in the order of the report.
    pub checks: Vec<Check>,
    /// Services that are off in the clone while it is checked.
    pub quarantined: Vec<String>,
    /// How long services may take to come up, in seconds.
    pub deadline_s: u64,
    /// Name of the report's files in the run directory, without suffix: `checks-2`.
    pub report: String,
    /// File of the baseline in the run directory.
    pub baseline: String,
}

/// The baseline's file in the run directory.
const BASELINE: &str = "baseline.json";

impl TakeBaseline {
    /// Measures the declared checks and those that are always made.
    pub fn new(host: &str, original: &GuestLink, hostname: &str, declared: &[Check]) -> Self {
        Self {
            host: host.into(),
            link: original.clone(),
            hostname: hostname.into(),
            checks: verify::with_standard(declared),
            file: BASELINE.into(),
        }
    }
}

impl RunChecks {
    /// Makes the declared checks and those that are always made; `report` names the files (`checks-2`).
    #[expect(clippy::too_many_arguments, reason = "each is a fact of the step; a builder would say no more")]
    pub fn new(
        host: &str,
        link: &GuestLink,
        hostname: &str,
        side: Side,
        declared: &[Check],
        quarantined: Vec<String>,
        deadline_s: u64,
        report: &str,
    ) -> Self {
        Self {
            host: host.into(),
            link: link.clone(),
            hostname: hostname.into(),
            side,
            checks: verify::with_standard(declared),
            quarantined,
            deadline_s,
            report: report.into(),
            baseline: BASELINE.into(),
        }
    }
}

/// A file of the run directory; names come from stored plans and are taken as names only.
fn file(world: &World, name: &str) -> Result<PathBuf, StepError> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(StepError::failed(format!("{name:?} is not the name of a file"), "the stored plan is damaged"));
    }
    Ok(world.run_dir.join(name))
}

async fn read<T: for<'de> Deserialize<'de>>(world: &World, name: &str) -> Result<Option<T>, StepError> {
    let bytes = world.controller.read_file(&file(world, name)?, LIMIT).await?;
    // A file that cannot be read as what it should be is as good as none: it is made again.
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

async fn write(world: &World, name: &str, bytes: &[u8]) -> Result<Change, StepError> {
    Ok(world.controller.write_file(&file(world, name)?, bytes, 0o600).await?)
}

fn named(hostname: &str) -> Option<String> {
    (!hostname.is_empty()).then(|| hostname.to_owned())
}

fn remove(world: &World, name: &str) -> Result<Change, StepError> {
    let path = file(world, name)?;
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(Change::Removed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Change::Unchanged),
        Err(error) => Err(hypervisors::Error::io(format!("remove {}", path.display()), error).into()),
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, StepError> {
    serde_json::to_vec_pretty(value).map_err(|error| StepError::Failed { why: error.to_string(), help: None })
}

#[async_trait]
impl Step for TakeBaseline {
    fn title(&self) -> String {
        format!("take the baseline of {}", self.link.name)
    }

    fn undo_title(&self) -> String {
        "-".into()
    }

    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let found: Option<Baseline> = read(world, &self.file).await?;
        Ok(if found.is_some() { Probe::Present } else { Probe::Absent })
    }

    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        world.progress(format!("asking {} what it runs", self.link.name), None);
        let target = Arc::new(Target {
            name: self.link.name.clone(),
            address: self.link.address,
            ssh_port: self.link.port,
            net: hypervisor.net(),
            inside: Some(hypervisor.guest(&self.link)?),
            side: Side::Promoted,
            quarantined: Vec::new(),
            baseline: None,
            hostname: named(&self.hostname),
        });
        let baseline = verify::take_baseline(&target, &self.checks).await?;
        write(world, &self.file, &to_json(&baseline)?).await?;
        let failing = baseline.checks.iter().filter(|(_, measure)| !measure.passed);
        let mut done = Done::new(Change::Created).with(json!({
            "packages": baseline.packages.len(),
            "sockets": baseline.sockets.as_ref().map(Vec::len),
            "running_units": baseline.units.as_ref().map(|units| units.running.len()),
            "release": baseline.release,
        }));
        for (name, measure) in failing {
            done = done.warn(format!("check {name} fails on the original: {}", measure.detail));
        }
        Ok(done)
    }

    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(remove(world, &self.file)?.into())
    }
}

impl RunChecks {
    fn json_name(&self) -> String {
        format!("{}.json", self.report)
    }

    fn done(&self, change: Change, report: &Report) -> Done {
        Done::new(change).with(json!({
            "report": self.json_name(),
            "summary": report.summary(),
            "passed": report.count(Verdict::Passed),
            "failed": report.count(Verdict::Failed),
            "held": report.count(Verdict::Held),
            "later": report.count(Verdict::Later),
            "time": report.time,
        }))
    }
}

#[async_trait]
impl Step for RunChecks {
    fn title(&self) -> String {
        format!("check {} at {}", self.link.name, self.link.address)
    }

    fn undo_title(&self) -> String {
        "-".into()
    }

    /// Present is a stored report without a failed check.
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let report: Option<Report> = read(world, &self.json_name()).await?;
        Ok(if report.is_some_and(|report| report.passed()) { Probe::Present } else { Probe::Absent })
    }

    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let baseline: Option<Baseline> = read(world, &self.baseline).await?;
        let target = Arc::new(Target {
            name: self.link.name.clone(),
            address: self.link.address,
            ssh_port: self.link.port,
            net: hypervisor.net(),
            inside: Some(hypervisor.guest(&self.link)?),
            side: self.side,
            quarantined: self.quarantined.clone(),
            hostname: named(&self.hostname),
            baseline,
        });
        let all = self.checks.len();
        let progress = |done: usize| {
            world.progress(format!("{done} of {all} checks done"), Some(done as f64 / all.max(1) as f64));
        };
        let deadline = Duration::from_secs(self.deadline_s);
        let report = verify::run_checks(&target, &self.checks, deadline, progress).await;
        write(world, &format!("{}.xml", self.report), report.junit().as_bytes()).await?;
        // Last: it is what `probe` looks at.
        write(world, &self.json_name(), &to_json(&report)?).await?;
        match report.passed() {
            true => Ok(self.done(Change::Created, &report)),
            false => Err(StepError::Unproven(report.summary())),
        }
    }

    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        remove(world, &format!("{}.xml", self.report))?;
        Ok(remove(world, &self.json_name())?.into())
    }
}
