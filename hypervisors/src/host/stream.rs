//! A command whose standard input and output are pipes to us ([`Host::stream`](super::Host::stream)): what flows through is
//! never kept. What it says on standard error is, up to a bound, and is told line by line while it runs.
//!
//! Invariants: as [`execute`](super::local::execute)'s. No way out leaves the command's process group behind: a time-out ends
//! it, and so does dropping [`Running`] before [`Running::ended`] has returned. Each command is reported once.

use std::fmt;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::process::{Child, ChildStderr};

use super::Command;
use super::local::{Call, DRAIN, Group, Kept, code, end, spawn};
use super::record::{CommandRecord, report};
use super::{Output, Stdin, Stdout};
use crate::{Error, Result};

/// What a pipe holds, where the kernel grants it (`fcntl(2)`, F_SETPIPE_SZ): fewer turns for the same bytes.
const PIPE: i32 = 1 << 20;
/// A longer line is told in parts.
const LINE: usize = 4096;

/// A started command, with the ends of its pipes.
pub struct Stream {
    /// What it reads. Dropping it is the end of its input.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it prints. Dropping it makes its next write fail.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// The command itself; dropping it kills it.
    pub running: Running,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("running", &self.running).finish_non_exhaustive()
    }
}

/// Makes a result of how the command ended, or a failure to run it (over ssh).
pub(super) type Sort = Box<dyn FnOnce(Output) -> Result<Output> + Send>;

/// A command that runs. It has to be polled ([`Running::ended`]) while its pipes are used: when nobody reads what it says on
/// standard error, it stands still.
pub struct Running {
    child: Child,
    stderr: Option<ChildStderr>,
    group: Option<Group>,
    sort: Option<Sort>,
    heard: Kept,
    begun: Instant,
    timeout: Duration,
    doing: String,
    host: String,
    argv: Vec<String>,
    reported: bool,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("host", &self.host).field("argv", &self.argv).finish_non_exhaustive()
    }
}

impl Stream {
    /// Starts a command; both its ends are pipes, whatever it says of them.
    pub(super) fn start(call: &Call<'_>, sort: Sort) -> Result<Self> {
        let command = Command { stdin: Stdin::Bytes(Vec::new()), stdout: Stdout::Capture, ..call.command.clone() };
        let begun = Instant::now();
        let record = |status, said: String| CommandRecord {
            host: call.host.to_owned(),
            argv: call.shown.to_vec(),
            status,
            elapsed: begun.elapsed(),
            stdout_tail: Vec::new(),
            stderr_tail: said.into_bytes(),
        };
        let (mut child, group) = match spawn(&Call { command: &command, ..*call }) {
            Ok(started) => started,
            Err(error) => {
                report(&record(None, error.cause.to_string()));
                return Err(error);
            }
        };
        let (Some(stdin), Some(stdout), stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(Error::refused(call.doing(), "it was started without pipes"));
        };
        // As large as the kernel lets us.
        for pipe in [stdin.as_fd(), stdout.as_fd()] {
            let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE));
        }
        let running = Running {
            child,
            stderr,
            group: Some(group),
            sort: Some(sort),
            heard: Kept::new(command.limit),
            begun,
            timeout: command.timeout,
            doing: call.doing(),
            host: call.host.to_owned(),
            argv: call.shown.to_vec(),
            reported: false,
        };
        Ok(Self { stdin: Box::new(stdin), stdout: Box::new(stdout), running })
    }
}

impl Running {
    /// Waits for its end, and hands on what it says on standard error, line by line (a part of a line after 4096 bytes; lossy
    /// UTF-8, as it came: make it printable before it is shown). `Ok` whatever its exit status; errors as
    /// [`Host::run`](super::Host::run)'s. In the result, standard output is empty; of a standard error beyond the command's
    /// limit the middle is left out.
    pub async fn ended(mut self, mut on_line: impl FnMut(&str) + Send) -> Result<Output> {
        let left = self.timeout.saturating_sub(self.begun.elapsed());
        let waited = {
            let (child, heard) = (&mut self.child, &mut self.heard);
            let listening = listen(self.stderr.take(), heard, &mut on_line);
            tokio::pin!(listening);
            let work = async {
                let mut silent = false;
                let status = loop {
                    tokio::select! {
                        () = &mut listening, if !silent => silent = true,
                        status = child.wait() => break status,
                    }
                };
                if !silent {
                    let _ = tokio::time::timeout(DRAIN, &mut listening).await;
                }
                status
            };
            tokio::time::timeout(left, work).await
        };
        let result = match waited {
            Ok(Ok(status)) => {
                if let Some(group) = &mut self.group {
                    group.is_gone();
                }
                let heard = std::mem::replace(&mut self.heard, Kept::new(0));
                let tail = heard.tail();
                let (stderr, truncated) = heard.ends();
                self.tell(Some(code(status)), tail);
                let output = Output { status: code(status), stdout: Vec::new(), stderr, truncated };
                return match self.sort.take() {
                    Some(sort) => sort(output),
                    None => Ok(output),
                };
            }
            Ok(Err(error)) => format!("its end could not be waited for: {error}"),
            Err(_) => {
                if let Some(group) = self.group.take() {
                    end(&mut self.child, group).await;
                }
                format!("not done after {:?}; it was ended", self.timeout)
            }
        };
        self.tell(None, result.clone().into_bytes());
        Err(Error::unknown(self.doing.clone(), result))
    }

    fn tell(&mut self, status: Option<i32>, stderr_tail: Vec<u8>) {
        if !std::mem::replace(&mut self.reported, true) {
            report(&CommandRecord {
                host: self.host.clone(),
                argv: self.argv.clone(),
                status,
                elapsed: self.begun.elapsed(),
                stdout_tail: Vec::new(),
                stderr_tail,
            });
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its group, if it still runs, is killed by the field's own drop.
        self.tell(None, b"it was given up".to_vec());
    }
}

async fn listen(stderr: Option<ChildStderr>, heard: &mut Kept, on_line: &mut (impl FnMut(&str) + Send)) {
    let Some(mut stderr) = stderr else { return };
    let (mut buffer, mut line) = (vec![0; 16 << 10], Vec::new());
    // A read error ends the stream as its end does; the command's status tells the rest.
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        heard.take(&buffer[..count]);
        for byte in &buffer[..count] {
            if matches!(byte, b'\n' | b'\r') || line.len() == LINE {
                if !line.is_empty() {
                    on_line(&String::from_utf8_lossy(&line));
                }
                line.clear();
            }
            if !matches!(byte, b'\n' | b'\r') {
                line.push(*byte);
            }
        }
    }
    if !line.is_empty() {
        on_line(&String::from_utf8_lossy(&line));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::AsyncWriteExt;

    use super::super::record::{CommandObserver, observed};
    use super::super::{Host, LocalHost};
    use super::*;
    use crate::Cause;

    fn host() -> LocalHost {
        LocalHost::new("here")
    }
    fn sh(script: &str) -> Command {
        Command::new(["sh", "-c", script])
    }
    async fn gone(pid: i32) -> bool {
        for _ in 0..100 {
            // A killed orphan may stay a zombie where no init reaps it.
            if !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    #[tokio::test]
    async fn bytes_flow_both_ways_and_what_it_says_is_told_as_it_says_it() {
        let Stream { mut stdin, mut stdout, running } =
            host().stream(&sh("echo begun >&2; tr a-z A-Z; printf 'un\\rdeux' >&2; exit 5")).await.unwrap();
        let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
        let mut read = String::new();
        let talk = async {
            // Told while it still waits for its input.
            assert_eq!(lines.recv().await.as_deref(), Some("begun"));
            stdin.write_all("it flows\n".repeat(100_000).as_bytes()).await.unwrap();
            drop(stdin);
        };
        let (ended, (), read_bytes) = tokio::join!(
            running.ended(move |line| sender.send(line.to_owned()).unwrap()),
            talk,
            stdout.read_to_string(&mut read)
        );
        let output = ended.unwrap();
        assert_eq!((output.status, output.stderr.as_slice()), (5, &b"begun\nun\rdeux"[..]));
        assert_eq!(read_bytes.unwrap(), 900_000);
        assert_eq!(read, "IT FLOWS\n".repeat(100_000));
        assert_eq!((lines.recv().await.as_deref(), lines.recv().await.as_deref()), (Some("un"), Some("deux")));
    }

    #[tokio::test]
    async fn a_great_talker_is_bounded_and_its_end_is_kept() {
        let mut command = sh("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo the end >&2");
        command.limit = 1000;
        let (mut most, mut last) = (0, String::new());
        let Stream { stdin, stdout, running } = host().stream(&command).await.unwrap();
        drop((stdin, stdout));
        let output = running
            .ended(|line| {
                most = most.max(line.len());
                line.clone_into(&mut last);
            })
            .await
            .unwrap();
        assert!(output.truncated && output.stderr.len() < 6000);
        assert!(output.stderr.ends_with(b"the end\n"));
        assert_eq!((most, last.as_str()), (LINE, "the end"));
    }

    #[tokio::test]
    async fn it_is_reported_once_however_it_ends() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let observer: CommandObserver = Arc::new(move |record| sink.lock().unwrap().push(record.clone()));
        observed(observer, async {
            let stream = host().stream(&sh("echo said >&2; exit 3")).await.unwrap();
            stream.running.ended(|_| ()).await.unwrap();
            drop(host().stream(&sh("sleep 100")).await.unwrap());
            let error = host().stream(&Command::new(["no-such-program-here"])).await.unwrap_err();
            assert!(matches!(error.cause, Cause::NotFound(_)), "{error:?}");
        })
        .await;
        let seen = seen.lock().unwrap();
        assert_eq!(seen.iter().map(|record| record.status).collect::<Vec<_>>(), [Some(3), None, None]);
        assert_eq!(seen[0].stderr_tail, b"said\n");
    }

    #[tokio::test]
    async fn dropped_or_out_of_time_its_whole_group_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("trap '' TERM; sleep 100 & echo $! >{}; echo up >&2; wait; sleep 100", file.display());
        for timeout in [None, Some(Duration::from_millis(200))] {
            let command = sh(&script).timeout(timeout.unwrap_or(Duration::from_secs(60)));
            let stream = host().stream(&command).await.unwrap();
            let up = Arc::new(tokio::sync::Notify::new());
            let told = Arc::clone(&up);
            let ended = stream.running.ended(move |_| told.notify_one());
            match timeout {
                None => tokio::select! {
                    ended = ended => panic!("{ended:?}"),
                    () = up.notified() => (),
                },
                Some(_) => assert!(ended.await.unwrap_err().is_unknown()),
            }
            let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
            assert!(gone(pid).await, "{timeout:?}");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_holds_the_pipe_does_not_hold_us() {
        let begun = Instant::now();
        let stream = host().stream(&sh("sleep 3 & exit 0")).await.unwrap();
        assert_eq!(stream.running.ended(|_| ()).await.unwrap().status, 0);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}
