//! Who holds a lease, and whether that process is proven gone.
//!
//! A process is known by boot id, process id and start time together: a process id alone is reused.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

/// A process that holds (or held) a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Machine name, for people.
    pub host: String,
    /// `/etc/machine-id` (empty if there is none): tells machines apart.
    pub machine: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub started: u64,
    /// Login name, for people.
    pub user: String,
    /// Value of `UPGRADECTL_LEASE` in the environment of its children.
    pub marker: String,
    /// It holds the lease for one short action only: whoever wants it waits a little.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub brief: bool,
}

impl Holder {
    /// This process.
    pub fn this_process() -> Self {
        let pid = std::process::id().cast_signed();
        let started = start_time(pid).unwrap_or(0);
        let boot = read("/proc/sys/kernel/random/boot_id");
        Self {
            host: nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            machine: read("/etc/machine-id"),
            marker: format!("{}.{pid}.{started}", &boot[..boot.len().min(8)]),
            boot,
            pid,
            started,
            brief: false,
            user: std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| login()),
        }
    }

    /// Whether the process is proven gone: its machine has booted since, or no such process with that start time exists
    /// on this machine. A holder on another machine is never proven gone from here.
    pub fn is_gone(&self) -> bool {
        let here = Self::this_process();
        if self.machine != here.machine || (self.machine.is_empty() && self.host != here.host) {
            return false;
        }
        self.boot != here.boot || start_time(self.pid) != Some(self.started)
    }

    /// Whether it is this very process.
    pub fn is_this_process(&self) -> bool {
        let here = Self::this_process();
        (&self.boot, self.pid, self.started) == (&here.boot, here.pid, here.started)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of {} on {}", self.pid, self.user, self.host)
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn login() -> String {
    let uid = nix::unistd::getuid();
    nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// Start time of a process; `None` if it does not exist or is a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_not_gone_and_a_reused_pid_is() {
        let mut holder = Holder::this_process();
        assert!(!holder.is_gone() && holder.is_this_process());
        holder.started += 1;
        assert!(holder.is_gone());
    }

    #[test]
    fn an_ended_child_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let mut holder = Holder::this_process();
        holder.pid = child.id().cast_signed();
        child.wait().unwrap();
        assert!(holder.is_gone());
    }

    #[test]
    fn another_machine_is_never_proven_gone() {
        let holder = Holder { machine: "elsewhere".into(), host: "far".into(), ..Holder::this_process() };
        assert!(!holder.is_gone());
    }
}
