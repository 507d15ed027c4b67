//! A machine: run a command there, read and write its files. [`Host::run`] and [`Host::stream`] are the only
//! places in the whole program that start a process.
//!
//! Commands are argument vectors everywhere; where ssh forces a shell, one quoting function stands between.
//! Output is captured up to a bound and made printable before anyone shows it.

pub(crate) mod files;
pub mod job;
mod local;
mod quote;
mod record;
mod ssh;
mod stream;

pub use local::{LocalHost, become_command};
pub(crate) use local::{blocking, replace};
pub use quote::shell_quote;
#[cfg(feature = "vsphere")]
pub(crate) use record::report;
pub use record::{
    CommandObserver, CommandRecord, LEASE_VARIABLE, current_observer, end_marked, observed, set_lease_marker,
};
pub use ssh::{SshHost, SshTarget};
pub use stream::{Running, Stream};

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Cause, Change, Error, MacAddr, Result};

/// A command to run: argv, never a shell line.
#[derive(Clone, Debug)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Additional environment variables.
    pub env: Vec<(String, String)>,
    /// What it reads.
    pub stdin: Stdin,
    /// Where its standard output goes.
    pub stdout: Stdout,
    /// Ended (its whole process group) after this long; the result is then [`Cause::Unknown`].
    pub timeout: Duration,
    /// Bytes of stdout and of stderr that are kept; more is read and dropped (the beginning is kept).
    pub limit: usize,
}

/// What a command reads.
#[derive(Clone, Debug, Default)]
pub enum Stdin {
    /// Nothing (`/dev/null`).
    #[default]
    Null,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A file of the controller's machine.
    File(PathBuf),
}

/// Where a command's standard output goes.
#[derive(Clone, Debug, Default)]
pub enum Stdout {
    /// Captured, up to the limit.
    #[default]
    Capture,
    /// A file of the controller's machine, created with mode 0600 or truncated.
    File(PathBuf),
}

impl Command {
    /// A command with a time-out of 60 s and 1 MiB of kept output.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            stdin: Stdin::Null,
            stdout: Stdout::Capture,
            timeout: Duration::from_secs(60),
            limit: 1 << 20,
        }
    }
    /// Sets the time-out.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }
    /// Gives it bytes to read.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }
    /// The program's name without its path.
    pub fn program(&self) -> &str {
        let first = self.argv.first().map_or("", String::as_str);
        first.rsplit('/').next().unwrap_or(first)
    }
}

/// What a command that was run gave back, whatever its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 128 + signal number if it was killed.
    pub status: i32,
    /// Captured standard output.
    pub stdout: Vec<u8>,
    /// Captured standard error.
    pub stderr: Vec<u8>,
    /// Something beyond the limit was dropped.
    pub truncated: bool,
}

impl Output {
    /// Standard output as text (lossy).
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
    /// Turns a failure status into an error that names what was attempted.
    pub fn checked(self, doing: impl Into<String>, command: &Command) -> Result<Self> {
        if self.status == 0 {
            return Ok(self);
        }
        let said = if self.stderr.is_empty() { &self.stdout } else { &self.stderr };
        Err(Error::new(
            doing,
            Cause::Command {
                program: command.program().to_owned(),
                status: self.status,
                stderr: printable_tail(said, 3),
            },
        ))
    }
}

/// The last non-empty `lines` lines of command output, each at most 300 characters, joined by " / ", control and
/// escape characters replaced, so that it may be shown on a terminal.
pub fn printable_tail(bytes: &[u8], lines: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let kept: Vec<String> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| printable(line.trim()).chars().take(300).collect())
        .collect();
    kept[kept.len().saturating_sub(lines)..].join(" / ")
}

/// Text with everything that does something to a terminal instead of being shown ([`is_hidden`]) replaced by `\u{fffd}`; tabs
/// become spaces.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if is_hidden(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Whether a character is not shown but changes how others are: control characters (C0, DEL, C1: terminal escapes), what
/// turns the direction of text, what breaks lines unseen, and what takes no room at all (Unicode tags, zero width blanks).
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Long work that goes on in a machine when the link is lost: run detached there, re-attached to by its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// `[a-z0-9-]+`, unique per machine and work: starting a job whose id exists does nothing.
    pub id: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
}

/// How a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// No such job on that machine.
    Absent,
    /// Running (or its machine rebooted under it if `lost`).
    Running {
        /// The end of what it printed, at most 8 KiB.
        tail: Vec<u8>,
    },
    /// Ended, with its exit status.
    Ended {
        /// Exit status; 128 + signal if killed.
        status: i32,
        /// The end of what it printed, at most 64 KiB.
        tail: Vec<u8>,
    },
    /// It was started but neither runs nor left a status: the machine went down under it.
    Lost,
}

/// A machine.
#[async_trait]
pub trait Host: Send + Sync + fmt::Debug {
    /// The name for messages and logs.
    fn name(&self) -> &str;
    /// Whether this is the controller's own machine (paths can be opened directly).
    fn is_local(&self) -> bool;
    /// Runs a command to its end. `Ok` whatever its exit status; `Err` if it could not be started
    /// ([`Cause::NotFound`]: no such program; [`Cause::Refused`]: login refused, host key mismatch) or if the link
    /// was lost or time ran out ([`Cause::Unknown`]).
    async fn run(&self, command: &Command) -> Result<Output>;
    /// Starts a command whose standard input and output are pipes to us, for what is too much to keep; its `stdin` and
    /// `stdout` fields are not looked at. `Err` as [`Host::run`] if it could not be started; over ssh most of that is known
    /// only when it ends ([`Running::ended`]).
    async fn stream(&self, command: &Command) -> Result<Stream> {
        let doing = format!("stream {} on {}", printable(command.program()), self.name());
        Err(Error::new(doing, Cause::Unsupported("this machine has no commands with pipes".into())))
    }
    /// A file's bytes; `None` if it does not exist; an error if it is larger than `limit` bytes.
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>>;
    /// Replaces a file atomically (temporary file, fsync, rename), with this mode, owned by the user logged in as.
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change>;
    /// Starts detached work. Repeating it while the job exists does nothing.
    async fn job_start(&self, job: &Job) -> Result<Change>;
    /// Looks at detached work.
    async fn job_status(&self, id: &str) -> Result<JobStatus>;
    /// Forgets an ended job's record; a running one is an error.
    async fn job_forget(&self, id: &str) -> Result<Change>;
    /// Follows the output of a job: bytes `from..` of what it printed (at most 256 KiB), for progress.
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>>;
}

/// A guest that is found by its hardware address each time it is used: its address is a DHCP server's to choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByMac {
    /// Its hardware address, which is fixed.
    pub mac: MacAddr,
    /// Interface of this machine that is on its link.
    pub via: String,
    /// File of this machine that keeps the address it was last found at.
    pub known: PathBuf,
}

/// How to get into a running guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestLink {
    /// Name for messages: the guest's or the run's.
    pub name: String,
    /// Address to connect to; where [`GuestLink::by`] is set, the last one that was told to people.
    pub address: IpAddr,
    /// How the guest is found, if its address is not fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<ByMac>,
    /// Port of sshd.
    pub port: u16,
    /// Login name.
    pub user: String,
    /// Private key file; the agent's or default keys if absent.
    pub key: Option<PathBuf>,
    /// Commands are run by `sudo -n`.
    pub sudo: bool,
    /// Host keys expected there, in known_hosts format under the alias [`GuestLink::name`]; learnt from the
    /// guest's own disk, so there is no blind trust.
    pub known_hosts: PathBuf,
    /// Directory for ssh control sockets.
    pub control_dir: PathBuf,
    /// Offers the algorithms of sshd before 2014 too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub legacy: bool,
}
