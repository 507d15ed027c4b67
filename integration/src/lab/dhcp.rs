//! A DHCP server on the lab's bridge, for the tests that want one: dnsmasq without its DNS.
//!
//! Invariant: as the daemon, it is ended only if its id and its start time are those noted.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Lab, look};
use crate::process::Process;

const NOTE: &str = "dnsmasq.process";

/// Starts it; it gives the addresses from `first` to `last`, and knows no earlier leases. One that runs already ends.
///
/// # Errors
/// It does not start; what it said is in the error.
pub fn up(lab: &Lab, first: u8, last: u8) -> Result<()> {
    down(lab)?;
    let path = |name: &str| lab.path(name).display().to_string();
    for name in ["dnsmasq.leases", "dnsmasq.pid"] {
        let _ = fs::remove_file(lab.path(name));
    }
    let log = fs::File::create(lab.path("dnsmasq.log"))?;
    Command::new("setsid")
        .args(["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0"])
        .args(["--bind-interfaces", "--except-interface=lo", "--dhcp-authoritative", "--no-ping", "--log-facility=-"])
        .arg(format!("--interface={}", lab.bridge()))
        .arg(format!("--dhcp-range={},{},255.255.255.0,2m", lab.address(first), lab.address(last)))
        .arg(format!("--dhcp-option=option:router,{}", lab.address(1)))
        .arg(format!("--dhcp-leasefile={}", path("dnsmasq.leases")))
        .arg(format!("--pid-file={}", path("dnsmasq.pid")))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting dnsmasq")?;
    let id = look::until(Duration::from_secs(10), || {
        let said = fs::read_to_string(lab.path("dnsmasq.log"))?;
        let id = fs::read_to_string(lab.path("dnsmasq.pid")).with_context(|| format!("dnsmasq says: {said}"))?;
        Ok(id.trim().parse::<u32>()?)
    })?;
    Process::find(id)?.note(&lab.path(NOTE))
}

/// Ends it, if it runs.
///
/// # Errors
/// It does not end.
pub fn down(lab: &Lab) -> Result<()> {
    let Some(process) = Process::noted(&lab.path(NOTE)) else { return Ok(()) };
    process.end()?;
    ensure!(!process.is_alive(), "dnsmasq runs on");
    Ok(fs::remove_file(lab.path(NOTE))?)
}

/// Whether it runs.
pub fn is_up(lab: &Lab) -> bool {
    Process::noted(&lab.path(NOTE)).is_some_and(|process| process.is_alive())
}
