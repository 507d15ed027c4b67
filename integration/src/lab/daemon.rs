//! The lab's own libvirtd, in a mount namespace of its own (`libvirtd.sh` says what is mounted there and why).
//!
//! Invariant: a process is ended only if its id *and* its start time are those noted when the lab started it.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Lab;

/// Where the daemon's process is noted.
const NOTE: &str = "libvirtd.process";

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
    Process::find(child.id())?.note(lab, NOTE)?;
    let begun = Instant::now();
    while lab.virsh(["uri"]).is_err() {
        if begun.elapsed() > Duration::from_secs(20) || !is_up(lab) {
            bail!("libvirtd does not answer; {} says:\n{}", log.display(), fs::read_to_string(&log)?);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Whether the daemon that the lab started is alive.
pub fn is_up(lab: &Lab) -> bool {
    Process::noted(lab, NOTE).is_some_and(|process| process.is_alive())
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
    if let Some(process) = Process::noted(lab, NOTE) {
        process.end()?;
        fs::remove_file(lab.path(NOTE))?;
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

/// A process, told from a later one with the same id by its start time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    id: u32,
    started: u64,
}

impl Process {
    /// The living process with this id.
    ///
    /// # Errors
    /// There is none.
    pub fn find(id: u32) -> Result<Process> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).with_context(|| format!("process {id}"))?;
        let (state, started) = state_and_start(&stat).with_context(|| format!("reading /proc/{id}/stat"))?;
        anyhow::ensure!(state != "Z" && state != "X", "process {id} has ended");
        Ok(Process { id, started })
    }

    /// Whether it still runs (a zombie does not).
    pub fn is_alive(&self) -> bool {
        Process::find(self.id).is_ok_and(|found| found == *self)
    }

    /// Ends it: asked for 10 s, then killed.
    ///
    /// # Errors
    /// It is there still.
    pub fn end(&self) -> Result<()> {
        let id = Pid::from_raw(self.id.try_into()?);
        for (signal, patience) in [(Signal::SIGTERM, 10), (Signal::SIGKILL, 5)] {
            let begun = Instant::now();
            if self.is_alive() {
                let _ = kill(id, signal);
            }
            while begun.elapsed() < Duration::from_secs(patience) {
                if !self.is_alive() {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        bail!("process {} does not end", self.id)
    }

    /// Writes it down in a file of the lab.
    pub(super) fn note(&self, lab: &Lab, file: &str) -> Result<()> {
        Ok(fs::write(lab.path(file), format!("{} {}\n", self.id, self.started))?)
    }

    /// What was written down there.
    pub(super) fn noted(lab: &Lab, file: &str) -> Option<Process> {
        let note = fs::read_to_string(lab.path(file)).ok()?;
        let (id, started) = note.trim().split_once(' ')?;
        Some(Process { id: id.parse().ok()?, started: started.parse().ok()? })
    }
}

/// State and start time from /proc/PID/stat (proc_pid_stat(5): fields 3 and 22; the name in field 2 may hold spaces).
fn state_and_start(stat: &str) -> Option<(&str, u64)> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ');
    Some((fields.next()?, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_read_behind_a_name_with_parentheses() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 991234 0 0 18446744073709551615";
        assert_eq!(state_and_start(stat), Some(("S", 991_234)));
    }

    #[test]
    fn a_process_is_itself_and_no_later_one() {
        let me = Process::find(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!Process { started: me.started + 1, ..me }.is_alive());
    }

    #[test]
    fn a_child_is_ended_and_its_zombie_counts_as_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        process.end().unwrap();
        assert!(!process.is_alive());
        child.wait().unwrap();
    }
}
