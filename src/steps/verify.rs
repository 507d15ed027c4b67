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
            address: hypervisors::net::address(&*hypervisor.net(), &self.link).await?,
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
            address: hypervisors::net::address(&*hypervisor.net(), &self.link).await?,
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;

    use hypervisors::Hypervisor;
    use hypervisors::host::{Command, LocalHost};
    use hypervisors::sim::{Sim, seed};

    use super::*;
    use crate::steps::{Memory, StepRef};
    use crate::verify::{CheckKind, MailboxCheck, TlsMode, When};

    /// These steps remember nothing.
    struct Nothing;
    impl Memory for Nothing {
        fn keep(&self, _: &[u8]) -> Result<String, StepError> {
            Err(StepError::Memory("nothing is kept".into()))
        }
        fn recall(&self, _: &str) -> Result<Vec<u8>, StepError> {
            Err(StepError::Memory("nothing is kept".into()))
        }
        fn found(&self, _: StepRef) -> Result<Option<Value>, StepError> {
            Ok(None)
        }
        fn done(&self, _: StepRef) -> Result<Option<Value>, StepError> {
            Ok(None)
        }
    }

    fn world(directory: &tempfile::TempDir) -> (Arc<Sim>, World, GuestLink) {
        let sim = Arc::new(seed(&directory.path().join("sim")).unwrap());
        let run_dir = directory.path().join("run");
        std::fs::create_dir(&run_dir).unwrap();
        let known_hosts = run_dir.join("known_hosts");
        let key = directory.path().join("sim/volumes/mercure/etc/ssh/ssh_host_ed25519_key.pub");
        std::fs::write(&known_hosts, format!("mercure {}", std::fs::read_to_string(key).unwrap())).unwrap();
        let link = GuestLink {
            name: "mercure".into(),
            address: "10.0.5.12".parse().unwrap(),
            by: None,
            port: 22,
            user: "root".into(),
            key: None,
            sudo: false,
            known_hosts,
            control_dir: run_dir.clone(),
            legacy: false,
        };
        let platform: Arc<dyn Hypervisor> = sim.clone();
        let world = World {
            hypervisors: BTreeMap::from([("here".to_owned(), platform)]),
            controller: Arc::new(LocalHost::new("controller")),
            run_dir,
            run: "mercure--k3f9".into(),
            memory: Arc::new(Nothing),
            progress: Arc::new(|_, _| ()),
            observer: Arc::new(|_| ()),
            last: Value::Null,
            decision: None,
            leased: Arc::new(crate::steps::leased::Keeper::new(|_| ())),
            stop: Arc::new(AtomicBool::new(false)),
        };
        (sim, world, link)
    }

    fn imap() -> Check {
        let mailbox = MailboxCheck {
            port: None,
            implicit_tls: false,
            tls: TlsMode::Any,
            login: None,
            mailbox: "INBOX".into(),
            messages_min: None,
            messages_baseline: false,
        };
        Check { name: "imap".into(), kind: CheckKind::Imap(mailbox), when: When::Both, deadline_s: None }
    }

    #[tokio::test]
    async fn checks_against_the_baseline_on_the_simulated_platform() {
        let directory = tempfile::tempdir().unwrap();
        let (sim, world, link) = world(&directory);
        let baseline = TakeBaseline::new("here", &link, "mercure", &[imap()]);
        assert_eq!(baseline.probe(&world).await.unwrap(), Probe::Absent);
        let done = baseline.apply(&world, &Value::Null).await.unwrap();
        assert_eq!(done.warnings, Vec::<String>::new());
        assert!(done.data["packages"].as_u64().unwrap() > 0 && done.data["sockets"].as_u64().unwrap() > 0, "{done:?}");
        assert!(done.data["running_units"].as_u64().unwrap() > 0, "{done:?}");
        assert_eq!(baseline.probe(&world).await.unwrap(), Probe::Present);

        let checks = |number: u32| {
            let report = format!("checks-{number}");
            RunChecks::new("here", &link, "mercure", Side::Promoted, &[imap()], Vec::new(), 1, &report)
        };
        let first = checks(1);
        let done = first.apply(&world, &Value::Null).await.unwrap();
        assert_eq!(done.data["summary"], "4 passed");
        assert_eq!(first.probe(&world).await.unwrap(), Probe::Present);
        assert!(world.run_dir.join("checks-1.xml").exists());

        let guest = sim.guest(&link).unwrap();
        guest.run(&Command::new(["systemctl", "stop", "dovecot"])).await.unwrap();
        let second = checks(2);
        let error = second.apply(&world, &Value::Null).await.unwrap_err();
        assert!(matches!(&error, StepError::Unproven(why) if why == "3 failed, 1 passed"), "{error:?}");
        assert_eq!(second.probe(&world).await.unwrap(), Probe::Absent);
        let text = std::fs::read_to_string(world.run_dir.join("checks-2.json")).unwrap();
        assert!(text.contains("not listening") && text.contains("not running: dovecot.service"), "{text}");

        second.undo(&world, &Value::Null).await.unwrap();
        assert_eq!(second.undo(&world, &Value::Null).await.unwrap().change, Change::Unchanged);
        assert!(!world.run_dir.join("checks-2.xml").exists());
        baseline.undo(&world, &Value::Null).await.unwrap();
        assert_eq!(baseline.probe(&world).await.unwrap(), Probe::Absent);
    }

    #[tokio::test]
    async fn names_of_files_stay_names() {
        let directory = tempfile::tempdir().unwrap();
        let (_, world, link) = world(&directory);
        let baseline = TakeBaseline { file: "../x.json".into(), ..TakeBaseline::new("here", &link, "", &[]) };
        assert!(baseline.probe(&world).await.is_err() && baseline.undo(&world, &Value::Null).await.is_err());
    }
}
