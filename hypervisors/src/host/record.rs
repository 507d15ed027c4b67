//! What is known about the commands of this program: the record each leaves for the log, and the mark by which
//! another controller finds and ends the commands of one that died.
//!
//! Invariant: a record never holds the environment or standard input, which may carry secrets.

use std::ffi::OsStr;
use std::future::Future;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// The environment variable that every child gets once [`set_lease_marker`] was called.
pub const LEASE_VARIABLE: &str = "UPGRADECTL_LEASE";

static LEASE: RwLock<Option<String>> = RwLock::new(None);

/// What was run, and how it ended.
#[derive(Clone, Debug)]
pub struct CommandRecord {
    /// The machine's name.
    pub host: String,
    /// Program and arguments, as asked for (without the ssh around it).
    pub argv: Vec<String>,
    /// Exit status (128 + signal if killed); `None` if it did not start or its end is not known.
    pub status: Option<i32>,
    /// How long it took.
    pub elapsed: Duration,
    /// The end of what it printed, at most 4 KiB, as it came.
    pub stdout_tail: Vec<u8>,
    /// The end of what it printed on standard error, at most 4 KiB, as it came; why it did not start, if it did not.
    pub stderr_tail: Vec<u8>,
}

/// Gets the record of every command that ends.
pub type CommandObserver = Arc<dyn Fn(&CommandRecord) + Send + Sync>;

tokio::task_local! {
    static OBSERVER: CommandObserver;
}

/// Runs `work` with every command it runs reported to `observer`. A task that `work` spawns reports only if it is
/// itself wrapped (with [`current_observer`]).
pub async fn observed<F: Future>(observer: CommandObserver, work: F) -> F::Output {
    OBSERVER.scope(observer, work).await
}

/// The observer of the current task, to be handed to a task it spawns.
pub fn current_observer() -> Option<CommandObserver> {
    OBSERVER.try_with(Arc::clone).ok()
}

/// Tells the log and the task's observer.
pub(crate) fn report(record: &CommandRecord) {
    let elapsed_ms = u64::try_from(record.elapsed.as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(host = record.host, argv = ?record.argv, status = ?record.status, elapsed_ms, "command");
    if let Some(observer) = current_observer() {
        observer(record);
    }
}

/// Sets the value of [`LEASE_VARIABLE`] for every command from now on: a word unique to this controller and its lease.
pub fn set_lease_marker(marker: impl Into<String>) {
    *LEASE.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(marker.into());
}

/// The value set by [`set_lease_marker`].
pub(crate) fn lease_marker() -> Option<String> {
    LEASE.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
}

/// Kills every process of this machine that was started with this lease marker, except `not` and this process itself, and
/// waits up to 2 s for each to be gone. Detached jobs do not carry the marker and go on. Returns how many were killed.
/// Blocks; call it off the async threads.
///
/// A pidfd is opened before the marker is read, so that a pid taken over by another process is never hit
/// (`pidfd_open(2)`; the marker is the environment at exec, `proc(5)`).
pub fn end_marked(marker: &str, not: i32) -> io::Result<usize> {
    let wanted = format!("{LEASE_VARIABLE}={marker}");
    let mut ended = 0;
    // A marked process may fork while we look; its children carry the mark too, so look until none is left.
    for _ in 0..20 {
        let mut found = 0;
        for entry in std::fs::read_dir("/proc")? {
            let Ok(entry) = entry else { continue };
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if pid == not || u32::try_from(pid).is_ok_and(|pid| pid == std::process::id()) {
                continue;
            }
            let Ok(process) = pidfd(pid) else { continue };
            if has_variable(pid, wanted.as_bytes()) && kill(&process).is_ok() {
                found += 1;
                wait_gone(&process, Duration::from_secs(2));
            }
        }
        if found == 0 {
            return Ok(ended);
        }
        ended += found;
    }
    Err(io::Error::other(format!("processes marked {marker} keep appearing")))
}

fn has_variable(pid: i32, wanted: &[u8]) -> bool {
    let mut environment = Vec::new();
    let Ok(file) = std::fs::File::open(format!("/proc/{pid}/environ")) else { return false };
    // Gone meanwhile, or not ours to read: not one of ours either.
    if file.take(4 << 20).read_to_end(&mut environment).is_err() {
        return false;
    }
    environment.split(|byte| *byte == 0).any(|variable| OsStr::from_bytes(variable) == OsStr::from_bytes(wanted))
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes a pid and flags and returns a new descriptor or -1; no memory is shared.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: the descriptor was just returned to us and nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn kill(process: &OwnedFd) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is a live pidfd; a null siginfo is allowed (pidfd_send_signal(2)).
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, no_info, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn wait_gone(process: &OwnedFd, patience: Duration) {
    let mut poll = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let millis = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one valid pollfd. A pidfd becomes readable when its process has ended.
    unsafe { libc::poll(&raw mut poll, 1, millis) };
}
