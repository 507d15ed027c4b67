//! The controller's own machine, and the one place where a process is started ([`spawn`]; ssh and streams go through it too).
//!
//! Invariants: each command has a process group of its own, and no way out of [`execute`] leaves that group behind: a
//! time-out ends it (SIGTERM, 2 s, SIGKILL), a dropped future kills it. Output beyond the limit is read and dropped, so
//! that a talkative command neither blocks nor fills memory.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;

use super::record::{CommandRecord, LEASE_VARIABLE, lease_marker, report};
use super::{Command, Host, Job, JobStatus, Output, Stdin, Stdout, Stream, job};
use crate::{Cause, Change, Error, Result};

/// Between SIGTERM and SIGKILL.
const TERM_PATIENCE: Duration = Duration::from_secs(2);
/// How long output is read on after the command itself has ended: something it left behind may hold the pipes open (an ssh
/// control master does), and what the command wrote is in the pipe already.
pub(super) const DRAIN: Duration = Duration::from_millis(250);
/// Bytes of each output kept for the record.
const TAIL: usize = 4096;

/// The controller's own machine.
#[derive(Clone, Debug)]
pub struct LocalHost {
    name: String,
    jobs: PathBuf,
}

impl LocalHost {
    /// This machine, under a name for messages.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), jobs: PathBuf::from(job::DIRECTORY) }
    }
    /// Keeps jobs in another directory than [`job::DIRECTORY`].
    #[must_use]
    pub fn jobs_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.jobs = directory.into();
        self
    }
}

#[async_trait]
impl Host for LocalHost {
    fn name(&self) -> &str {
        &self.name
    }
    fn is_local(&self) -> bool {
        true
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        execute(&Call { host: &self.name, shown: &command.argv, command, local: true }).await
    }
    async fn stream(&self, command: &Command) -> Result<Stream> {
        Stream::start(&Call { host: &self.name, shown: &command.argv, command, local: true }, Box::new(Ok))
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let doing = format!("read {} on {}", path.display(), self.name);
        let path = path.to_owned();
        blocking(doing, move |doing| read_bounded(&path, limit, doing)).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        let doing = format!("write {} on {}", path.display(), self.name);
        let (path, bytes) = (path.to_owned(), bytes.to_owned());
        blocking(doing, move |doing| replace(&path, &bytes, mode).map_err(|error| Error::io(doing, error))).await
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        job::start(self, &self.jobs, job).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        job::status(self, &self.jobs, id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        job::forget(self, &self.jobs, id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        job::output(self, &self.jobs, id, from).await
    }
}

/// A process to start, and how it is named to people.
pub(crate) struct Call<'a> {
    /// The machine it is for.
    pub host: &'a str,
    /// What the record and errors show (for ssh: the remote command).
    pub shown: &'a [String],
    /// What is really started here.
    pub command: &'a Command,
    /// It does its work on this machine, so its messages are wanted in English. Otherwise no locale is set, because ssh would
    /// hand ours on to the guest, whose own locale decides what packages make of themselves.
    pub local: bool,
}

impl Call<'_> {
    /// What is attempted, for errors.
    pub(super) fn doing(&self) -> String {
        let program = self.shown.first().map_or("", String::as_str);
        format!("run {} on {}", super::printable(program), self.host)
    }
}

/// Starts a process, feeds it, waits for it, and reports it. See [`Host::run`].
pub(crate) async fn execute(call: &Call<'_>) -> Result<Output> {
    let begun = Instant::now();
    let mut tails = (Vec::new(), Vec::new());
    let result = supervise(call, &mut tails).await;
    let (stdout_tail, mut stderr_tail) = tails;
    if let (Err(error), true) = (&result, stderr_tail.is_empty()) {
        stderr_tail = error.cause.to_string().into_bytes();
    }
    report(&CommandRecord {
        host: call.host.to_owned(),
        argv: call.shown.to_vec(),
        status: result.as_ref().ok().map(|output| output.status),
        elapsed: begun.elapsed(),
        stdout_tail,
        stderr_tail,
    });
    result
}

async fn supervise(call: &Call<'_>, tails: &mut (Vec<u8>, Vec<u8>)) -> Result<Output> {
    let command = call.command;
    let doing = || call.doing();
    let (mut child, mut group) = spawn(call)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());

    let feed = async {
        if let (Some(mut pipe), Stdin::Bytes(bytes)) = (stdin, &command.stdin) {
            // A command that does not read all of it is its own business: its status tells.
            let _ = pipe.write_all(bytes).await;
            let _ = pipe.shutdown().await;
        }
    };
    let (mut out, mut err) = (Kept::new(command.limit), Kept::new(command.limit));
    let waited = {
        let streams = async { tokio::join!(feed, out.fill(stdout), err.fill(stderr)) };
        tokio::pin!(streams);
        let work = async {
            let mut drained = false;
            let status = loop {
                tokio::select! {
                    _ = &mut streams, if !drained => drained = true,
                    status = child.wait() => break status,
                }
            };
            if !drained {
                let _ = tokio::time::timeout(DRAIN, &mut streams).await;
            }
            status
        };
        tokio::time::timeout(command.timeout, work).await
    };
    *tails = (out.tail(), err.tail());
    match waited {
        Ok(Ok(status)) => {
            group.is_gone();
            let truncated = out.dropped || err.dropped;
            Ok(Output { status: code(status), stdout: out.head, stderr: err.head, truncated })
        }
        Ok(Err(error)) => Err(Error::unknown(doing(), format!("its end could not be waited for: {error}"))),
        Err(_) => {
            end(&mut child, group).await;
            Err(Error::unknown(doing(), format!("not done after {:?}; it was ended", command.timeout)))
        }
    }
}

/// Starts a process in a group of its own.
pub(super) fn spawn(call: &Call<'_>) -> Result<(Child, Group)> {
    let program = || super::printable(call.command.program());
    let child = prepare(call, &|| call.doing())?.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::not_found(call.doing(), format!("{} is not installed", program()))
            .help(format!("install {} on {}", program(), call.host)),
        _ => Error::io(call.doing(), error),
    })?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    Ok((child, group))
}

/// Ends a process and its group: asked first, then killed.
pub(super) async fn end(child: &mut Child, group: Group) {
    group.signal(Signal::SIGTERM);
    let _ = tokio::time::timeout(TERM_PATIENCE, child.wait()).await;
    drop(group);
}

fn prepare(call: &Call<'_>, doing: &impl Fn() -> String) -> Result<tokio::process::Command> {
    let command = call.command;
    let [program, arguments @ ..] = command.argv.as_slice() else {
        return Err(Error::refused(doing(), "the command is empty"));
    };
    if command.argv.iter().any(|argument| argument.contains('\0')) {
        return Err(Error::refused(doing(), "an argument holds a NUL character"));
    }
    let mut process = tokio::process::Command::new(program);
    process.args(arguments).process_group(0).kill_on_drop(true).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        if name == "LANG" || name == "LANGUAGE" || name.to_string_lossy().starts_with("LC_") {
            process.env_remove(name);
        }
    }
    if call.local {
        process.env("LC_ALL", "C.UTF-8");
    }
    if let Some(marker) = lease_marker() {
        process.env(LEASE_VARIABLE, marker);
    }
    process.envs(command.env.iter().map(|(key, value)| (key, value)));
    match &command.stdin {
        Stdin::Null => process.stdin(Stdio::null()),
        Stdin::Bytes(_) => process.stdin(Stdio::piped()),
        Stdin::File(path) => {
            let file = std::fs::File::open(path)
                .map_err(|error| Error::io(format!("{}: open {}", doing(), path.display()), error))?;
            process.stdin(file)
        }
    };
    match &command.stdout {
        Stdout::Capture => process.stdout(Stdio::piped()),
        Stdout::File(path) => {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)
                .map_err(|error| Error::io(format!("{}: create {}", doing(), path.display()), error))?;
            process.stdout(file)
        }
    };
    Ok(process)
}

/// The process group of a command; killed when dropped, unless the command has ended.
#[derive(Debug)]
pub(super) struct Group(Option<Pid>);

impl Group {
    /// The command has ended and was waited for; what it left behind is its own business.
    pub(super) fn is_gone(&mut self) {
        self.0 = None;
    }
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // ESRCH: it is gone already, which is what we want.
            let _ = killpg(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// The kept part of an output stream: its beginning, and the last [`TAIL`] bytes of what was dropped.
#[derive(Debug)]
pub(super) struct Kept {
    head: Vec<u8>,
    rest: VecDeque<u8>,
    limit: usize,
    dropped: bool,
}

impl Kept {
    pub(super) fn new(limit: usize) -> Self {
        Self { head: Vec::new(), rest: VecDeque::new(), limit, dropped: false }
    }
    async fn fill(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let mut buffer = vec![0; 16 << 10];
        // A read error ends the stream as its end does; the command's status tells the rest.
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            self.take(&buffer[..count]);
        }
    }
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let room = (self.limit - self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        if room < bytes.len() {
            self.dropped = true;
            self.rest.extend(&bytes[room..]);
            self.rest.drain(..self.rest.len().saturating_sub(TAIL));
        }
    }
    /// The beginning, and if something was dropped, a line that says so and the end; whether something was.
    pub(super) fn ends(self) -> (Vec<u8>, bool) {
        let mut bytes = self.head;
        if self.dropped {
            bytes.extend_from_slice(b"\n[...]\n");
            bytes.extend(self.rest);
        }
        (bytes, self.dropped)
    }
    pub(super) fn tail(&self) -> Vec<u8> {
        let from_head = TAIL.saturating_sub(self.rest.len()).min(self.head.len());
        self.head[self.head.len() - from_head..].iter().chain(&self.rest).copied().collect()
    }
}

pub(super) fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Runs file work off the async threads; `work` gets the words for its errors.
pub(crate) async fn blocking<T: Send + 'static>(
    doing: String,
    work: impl FnOnce(&str) -> Result<T> + Send + 'static,
) -> Result<T> {
    let words = doing.clone();
    tokio::task::spawn_blocking(move || work(&words))
        .await
        .unwrap_or_else(|error| Err(Error::new(doing, Cause::Platform(format!("a worker thread failed: {error}")))))
}

fn read_bounded(path: &Path, limit: u64, doing: &str) -> Result<Option<Vec<u8>>> {
    // O_NONBLOCK: a FIFO in its place must not hang us.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::io(doing, error)),
    };
    let facts = file.metadata().map_err(|error| Error::io(doing, error))?;
    if facts.is_dir() || std::os::unix::fs::FileTypeExt::is_fifo(&facts.file_type()) {
        return Err(Error::refused(doing, "it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| Error::io(doing, error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(Error::refused(doing, format!("it is larger than {limit} bytes")));
    }
    Ok(Some(bytes))
}

/// Replaces a file so that a crash leaves either the old or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Change> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no directory or no name"));
    };
    let before = match std::fs::symlink_metadata(path) {
        Ok(facts) => Some(facts),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(facts) = &before {
        let same = facts.is_file()
            && facts.permissions().mode() & 0o7777 == mode
            && facts.len() == bytes.len() as u64
            && std::fs::read(path)? == bytes;
        if same {
            return Ok(Change::Unchanged);
        }
    }
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.upgradectl", std::process::id()));
    let temporary = directory.join(temporary);
    let write = || {
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(directory)?.sync_all()
    };
    if let Err(error) = write() {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(if before.is_some() { Change::Changed } else { Change::Created })
}

/// Becomes another program in place of this one (`ssh` for a person); returns only if that failed.
pub fn become_command(argv: &[String]) -> std::io::Error {
    use std::os::unix::process::CommandExt as _;
    match argv.split_first() {
        Some((program, rest)) => std::process::Command::new(program).args(rest).exec(),
        None => std::io::ErrorKind::InvalidInput.into(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::record::{end_marked, observed, set_lease_marker};
    use super::*;

    fn host() -> LocalHost {
        LocalHost::new("here")
    }
    fn sh(script: &str) -> Command {
        Command::new(["sh", "-c", script])
    }
    fn alive(pid: i32) -> bool {
        // A killed orphan may stay a zombie where no init reaps it.
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }
    async fn pid_in(path: &Path) -> i32 {
        loop {
            if let Ok(Ok(pid)) = std::fs::read_to_string(path).map(|text| text.trim().parse()) {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn gives_status_and_both_outputs() {
        let command = sh("cat; echo $WORD >&2; exit 7").stdin("in").env("WORD", "a b");
        let output = host().run(&command).await.unwrap();
        assert_eq!((output.status, output.stdout.as_slice(), output.stderr.as_slice()), (7, &b"in"[..], &b"a b\n"[..]));
        assert_eq!(host().run(&sh("kill -9 $$")).await.unwrap().status, 137);
    }

    #[tokio::test]
    async fn keeps_the_beginning_and_drops_the_rest() {
        let mut command = sh("head -c 3000000 /dev/zero; echo end");
        command.limit = 1000;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let observer: super::super::CommandObserver = Arc::new(move |record| sink.lock().unwrap().push(record.clone()));
        let output = observed(observer, host().run(&command)).await.unwrap();
        assert_eq!((output.stdout.len(), output.truncated, output.status), (1000, true, 0));
        let records = seen.lock().unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].argv, command.argv);
        assert_eq!(records[0].stdout_tail.len(), TAIL);
        assert!(records[0].stdout_tail.ends_with(b"\0end\n"));
    }

    #[tokio::test]
    async fn a_missing_program_is_not_found() {
        let error = host().run(&Command::new(["no-such-program-here"])).await.unwrap_err();
        assert!(matches!(error.cause, Cause::NotFound(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_timeout_ends_the_whole_group_and_is_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("trap '' TERM; sleep 100 & echo $! >{}; wait; sleep 100", file.display());
        let error = host().run(&sh(&script).timeout(Duration::from_millis(300))).await.unwrap_err();
        assert!(error.is_unknown(), "{error:?}");
        let pid = pid_in(&file).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!alive(pid));
    }

    #[tokio::test]
    async fn a_dropped_future_kills_the_group() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("sleep 100 & echo $! >{}; wait", file.display());
        let task = tokio::spawn(async move { host().run(&sh(&script)).await });
        let pid = pid_in(&file).await;
        assert!(alive(pid));
        task.abort();
        let _ = task.await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!alive(pid));
    }

    #[tokio::test]
    async fn a_daemon_that_holds_the_pipe_does_not_hold_us() {
        let begun = Instant::now();
        let output = host().run(&sh("sleep 3 & echo done")).await.unwrap();
        assert_eq!(output.text(), "done\n");
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn marked_children_are_found_and_ended() {
        let marker = format!("test-{}", std::process::id());
        set_lease_marker(marker.clone());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("setsid sleep 100 & echo $! >{}", file.display());
        host().run(&sh(&script).env(LEASE_VARIABLE, "test-alone")).await.unwrap();
        let pid = pid_in(&file).await;
        assert_eq!(end_marked("test-alone", pid).unwrap(), 0, "the excepted process was hit");
        assert!(alive(pid));
        assert_eq!(end_marked("test-alone", 0).unwrap(), 1);
        assert!(!alive(pid));
        let inherited = host().run(&sh("echo $UPGRADECTL_LEASE")).await.unwrap();
        assert_eq!(inherited.text().trim(), marker);
    }

    #[tokio::test]
    async fn files_are_replaced_whole_and_read_within_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert_eq!(host().read_file(&path, 10).await.unwrap(), None);
        assert_eq!(host().write_file(&path, b"one", 0o640).await.unwrap(), Change::Created);
        assert_eq!(host().write_file(&path, b"one", 0o640).await.unwrap(), Change::Unchanged);
        assert_eq!(host().write_file(&path, b"one", 0o600).await.unwrap(), Change::Changed);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(host().read_file(&path, 3).await.unwrap().unwrap(), b"one");
        assert!(matches!(host().read_file(&path, 2).await.unwrap_err().cause, Cause::Refused(_)));
        // A link is replaced, never written through.
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        host().write_file(&link, b"two", 0o600).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "a temporary file was left");
    }

    #[tokio::test]
    async fn output_goes_to_a_file_and_input_comes_from_one() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        std::fs::write(&from, "bytes").unwrap();
        let mut command = Command::new(["cat"]);
        command.stdin = Stdin::File(from);
        command.stdout = Stdout::File(to.clone());
        assert!(host().run(&command).await.unwrap().stdout.is_empty());
        assert_eq!(std::fs::read(&to).unwrap(), b"bytes");
        assert_eq!(std::fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
