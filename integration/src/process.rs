//! Processes that a lab starts and leaves running.
//!
//! Invariant: a process is ended only if its id *and* its start time are those noted when the lab started it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
        anyhow::ensure!(state != "X" && !(state == "Z" && threads(id) <= 1), "process {id} has ended");
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
        if self.signal(Signal::SIGTERM, Duration::from_secs(10)) { Ok(()) } else { self.kill() }
    }

    /// Kills it, without asking.
    ///
    /// # Errors
    /// It is there still after 10 s.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL, Duration::from_secs(10)).then_some(()).with_context(|| self.undying())
    }

    /// Signals it and waits: whether it has ended in time.
    fn signal(&self, signal: Signal, patience: Duration) -> bool {
        let begun = Instant::now();
        if let (true, Ok(id)) = (self.is_alive(), i32::try_from(self.id)) {
            let _ = kill(Pid::from_raw(id), signal);
        }
        while self.is_alive() {
            if begun.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    fn undying(&self) -> String {
        format!("process {} does not end", self.id)
    }

    /// Writes it down, for [`Process::noted`].
    ///
    /// # Errors
    /// The file could not be written.
    pub fn note(&self, file: &Path) -> Result<()> {
        Ok(fs::write(file, format!("{} {}\n", self.id, self.started))?)
    }

    /// The process in a file, alive or not.
    pub fn noted(file: &Path) -> Option<Process> {
        let note = fs::read_to_string(file).ok()?;
        let (id, started) = note.trim().split_once(' ')?;
        Some(Process { id: id.parse().ok()?, started: started.parse().ok()? })
    }
}

/// How many threads a process has. One that is killed may look like a zombie while its other threads end, and until the
/// last has ended it holds its files and ports.
fn threads(id: u32) -> usize {
    fs::read_dir(format!("/proc/{id}/task")).map_or(0, Iterator::count)
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
    use std::process::Command;

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
