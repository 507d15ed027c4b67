//! The lab's own libvirtd, in a mount namespace of its own (`libvirtd.sh` says what is mounted there and why).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Lab;
use crate::process::Process;

/// Becomes libvirtd; read it for what the namespace looks like.
const SCRIPT: &str = include_str!("libvirtd.sh");

/// Sockets in the laid-over /run/libvirt, for root alone; what it has to say goes to `LAB/libvirtd.log`.
const CONFIG: &str = r#"listen_tls = 0
listen_tcp = 0
unix_sock_dir = "/run/libvirt"
unix_sock_rw_perms = "0700"
unix_sock_ro_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:stderr"
"#;

/// Starts the daemon and waits until it answers.
///
/// # Errors
/// It does not answer within 20 s; the end of its log is in the error.
pub fn up(lab: &Lab) -> Result<()> {
    let log = lab.path("libvirtd.log");
    let script = lab.path("libvirtd.sh");
    fs::write(&script, SCRIPT)?;
    fs::write(lab.path("libvirtd.conf"), CONFIG)?;
    let out = fs::OpenOptions::new().create(true).append(true).open(&log)?;
    // Every program of this chain becomes the next one: the id stays libvirtd's.
    let child = Command::new("setsid")
        .args(["unshare", "--mount", "--propagation", "slave", "sh"])
        .arg(&script)
        .arg(lab.dir())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("starting libvirtd")?;
    Process::find(child.id())?.note(&note(lab))?;
    let begun = Instant::now();
    while lab.virsh(["uri"]).is_err() {
        if begun.elapsed() > Duration::from_secs(20) || !is_up(lab) {
            bail!("libvirtd does not answer; {} says:\n{}", log.display(), fs::read_to_string(&log)?);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Where the daemon's process is noted.
fn note(lab: &Lab) -> PathBuf {
    lab.path("libvirtd.process")
}

/// Whether the daemon that the lab started is alive.
pub fn is_up(lab: &Lab) -> bool {
    Process::noted(&note(lab)).is_some_and(|process| process.is_alive())
}

/// Stops every guest and the daemon. Guests that outlived a killed daemon are found by starting it again.
///
/// # Errors
/// A guest or the daemon does not end.
pub fn down(lab: &Lab) -> Result<()> {
    if !is_up(lab) && !controllers(lab).is_empty() {
        up(lab).context("starting libvirtd again to stop what it left")?;
    }
    if is_up(lab) {
        for name in lab.virsh(["list", "--name"])?.lines().filter(|name| !name.is_empty()) {
            lab.virsh(["destroy", name])?;
        }
    }
    if let Some(process) = Process::noted(&note(lab)) {
        process.end()?;
        fs::remove_file(note(lab))?;
    }
    for controller in controllers(lab) {
        controller.end()?;
    }
    Ok(())
}

/// libvirt_lxc processes of this lab: named by the daemon's pid files, and holding the lab's pool in their mounts.
pub fn controllers(lab: &Lab) -> Vec<Process> {
    let Ok(entries) = fs::read_dir(lab.path("run/lxc")) else { return Vec::new() };
    let pool = lab.path("pool");
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pid"))
        .filter_map(|entry| fs::read_to_string(entry.path()).ok()?.trim().parse().ok())
        .filter(|id| fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim() == "libvirt_lxc"))
        .filter(|id| {
            fs::read_to_string(format!("/proc/{id}/mountinfo"))
                .is_ok_and(|table| table.lines().any(|line| line.split(' ').nth(4) == pool.to_str()))
        })
        .filter_map(|id| Process::find(id).ok())
        .collect()
}
