//! What the original was like: taken before anything is changed, compared with the clone and with the promoted guest.

use std::collections::BTreeMap;
use std::sync::Arc;

use hypervisors::Result;
use hypervisors::host::Command;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::Target;
use super::check::{Check, CheckKind};
use super::inside::{self, Socket, Units};
use super::probe;

/// What the original was like. Stored as `baseline.json` of the run; fields are added, never renamed or dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Format of this record, 1.
    pub format: u32,
    /// Name of the guest.
    pub name: String,
    /// When it was taken.
    pub time: Timestamp,
    /// Host name, as the guest has it.
    pub hostname: Option<String>,
    /// `PRETTY_NAME` of os-release(5).
    pub release: Option<String>,
    /// Release of the running kernel.
    pub kernel: Option<String>,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: Option<String>,
    /// Listening sockets; `None`: could not be told.
    pub sockets: Option<Vec<Socket>>,
    /// Services; `None` without systemd.
    pub units: Option<Units>,
    /// Installed packages, name to version.
    pub packages: BTreeMap<String, String>,
    /// What the checks showed, by name.
    pub checks: BTreeMap<String, Measure>,
}

/// What a check showed on the original.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// It passed.
    pub passed: bool,
    /// What it showed, as a fragment after "the original": `answered in 3 ms`.
    pub detail: String,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// Messages in the mailbox.
    pub messages: Option<u64>,
    /// HTTP status.
    pub status: Option<u16>,
}

/// Takes the baseline of a running original. Checks that fail there are recorded as failing; it fails only if the guest
/// cannot be asked at all.
pub async fn take_baseline(target: &Arc<Target>, checks: &[Check]) -> Result<Baseline> {
    let mut baseline = Baseline {
        format: 1,
        name: target.name.clone(),
        time: Timestamp::now(),
        hostname: None,
        release: None,
        kernel: None,
        boot_id: None,
        sockets: None,
        units: None,
        packages: BTreeMap::new(),
        checks: BTreeMap::new(),
    };
    if let Some(inside) = &target.inside {
        let host = inside.as_ref();
        let line = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let name = host.run(&Command::new(["uname", "-n"])).await?;
        baseline.hostname = line(inside::short(&name.text()));
        // The connection that answered is shared by what follows.
        let (release, boot_id);
        (release, baseline.kernel, boot_id, baseline.sockets, baseline.units, baseline.packages) = tokio::try_join!(
            inside::small_file(host, "/etc/os-release"),
            inside::kernel(host),
            inside::small_file(host, "/proc/sys/kernel/random/boot_id"),
            inside::sockets(host),
            inside::units(host),
            inside::packages(host),
        )?;
        baseline.release = inside::parse_release(&release);
        baseline.boot_id = line(inside::short(&boot_id));
    }
    let mut tasks = JoinSet::new();
    for check in checks {
        // These three compare with the baseline; they measure nothing of their own.
        if matches!(check.kind, CheckKind::Units { .. } | CheckKind::Baseline { .. } | CheckKind::Kernel { .. }) {
            continue;
        }
        let (target, check) = (Arc::clone(target), check.clone());
        tasks.spawn(super::reported(async move {
            let measure = match probe::attempt(&target, &check).await {
                Ok(seen) => seen.measure,
                Err(fault) => Measure { detail: fault.why, ..Measure::default() },
            };
            (check.name, measure)
        }));
    }
    while let Some(joined) = tasks.join_next().await {
        // A panic in a check is a bug; its measurement is missing, the baseline is not.
        if let Ok((name, measure)) = joined {
            baseline.checks.insert(name, measure);
        }
    }
    Ok(baseline)
}
