//! Runs the machine's own tools: argv only, everything they said in the error.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// A command that is described in the error it causes.
#[derive(Debug)]
pub struct Run {
    command: Command,
    words: Vec<String>,
    input: Vec<u8>,
}

/// Begins a command: `run("ip").args(["link", "show"]).output()?`.
pub fn run(program: impl AsRef<OsStr>) -> Run {
    let mut command = Command::new(program.as_ref());
    command.env("LC_ALL", "C").stdin(Stdio::null());
    Run { command, words: vec![program.as_ref().to_string_lossy().into_owned()], input: Vec::new() }
}

impl Run {
    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.words.push(arg.as_ref().to_string_lossy().into_owned());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Run {
        for arg in args {
            self = self.arg(arg);
        }
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    /// Gives the command something to read.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.input = bytes.into();
        self
    }

    /// The command line, for people.
    pub fn line(&self) -> String {
        self.words.join(" ")
    }

    /// Runs it to the end, whatever its exit code.
    ///
    /// # Errors
    /// It could not be started.
    pub fn finish(mut self) -> Result<Output> {
        let line = self.line();
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.input.is_empty() {
            return self.command.output().with_context(|| format!("starting {line}"));
        }
        let mut child = self.command.stdin(Stdio::piped()).spawn().with_context(|| format!("starting {line}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command may end without reading: its exit code says what that means.
            let _ = stdin.write_all(&self.input);
        }
        child.wait_with_output().with_context(|| format!("waiting for {line}"))
    }

    /// Runs it and returns what it printed, trimmed at the end.
    ///
    /// # Errors
    /// It could not be started or did not exit 0; the end of what it printed is in the error.
    pub fn output(self) -> Result<String> {
        let line = self.line();
        let output = self.finish()?;
        if !output.status.success() {
            bail!(
                "{line}: {}\n{}{}",
                output.status,
                tail(&String::from_utf8_lossy(&output.stdout)),
                tail(&String::from_utf8_lossy(&output.stderr))
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Whether it could be started and exited 0.
    pub fn succeeds(self) -> bool {
        self.finish().is_ok_and(|output| output.status.success())
    }
}

/// The last lines of a long text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].iter().fold(String::new(), |all, line| all + "  " + line + "\n")
}
