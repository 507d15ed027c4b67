//! Runs the product as a user would: the built binary, an inventory, a state directory; what it said and its exit code.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;

/// The product with an inventory and a state directory.
#[derive(Debug, Clone)]
pub struct Upgradectl {
    binary: PathBuf,
    inventory: PathBuf,
    state: PathBuf,
    environment: Vec<(String, String)>,
    under: Vec<String>,
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Said {
    /// The command line, for people.
    pub line: String,
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// What it printed as its result.
    pub stdout: String,
    /// What it printed as progress and errors.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Upgradectl {
    /// The binary that `$UPGRADECTL_BIN` names.
    ///
    /// # Errors
    /// It names none: `make test` and `make demo` build it first and set it.
    pub fn new(inventory: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Result<Upgradectl> {
        let binary = std::env::var_os("UPGRADECTL_BIN").context("UPGRADECTL_BIN is not set; run this by make")?;
        let binary = PathBuf::from(binary);
        ensure!(binary.is_file(), "UPGRADECTL_BIN: there is no {}", binary.display());
        Ok(Upgradectl {
            binary,
            inventory: inventory.into(),
            state: state.into(),
            environment: Vec::new(),
            under: Vec::new(),
        })
    }

    /// The product in a lab: its inventory and a state directory in it.
    ///
    /// # Errors
    /// As [`Upgradectl::new`].
    pub fn in_lab(lab: &Lab) -> Result<Upgradectl> {
        Upgradectl::new(lab.inventory(), lab.state())
    }

    /// Sets an environment variable for its runs (a failpoint, say).
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Upgradectl {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it by another program, which gets the product and its arguments as its last ones.
    #[must_use]
    pub fn under<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Upgradectl {
        self.under = words.into_iter().map(Into::into).collect();
        self
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The command, for callers that want to start, kill or feed it themselves.
    pub fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = match self.under.split_first() {
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command
            .args(args)
            .env("UPGRADECTL_INVENTORY", &self.inventory)
            .env("UPGRADECTL_STATE", &self.state)
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs it to the end and keeps what it said.
    ///
    /// # Errors
    /// It could not be started.
    pub fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Said> {
        self.run_with(args, false)
    }

    /// As [`Upgradectl::run`], and shows what it says while it says it.
    ///
    /// # Errors
    /// It could not be started.
    pub fn show<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Said> {
        self.run_with(args, true)
    }

    fn run_with<'a>(&self, args: impl IntoIterator<Item = &'a str>, echo: bool) -> Result<Said> {
        let args: Vec<&str> = args.into_iter().collect();
        let line = format!("upgradectl {}", args.join(" "));
        let begun = Instant::now();
        let mut child = self
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let stderr =
            std::thread::spawn(move || err.map_or_else(String::new, |err| read(err, echo.then(std::io::stderr))));
        let stdout = out.map_or_else(String::new, |out| read(out, echo.then(std::io::stdout)));
        let stderr = stderr.join().map_err(|_| anyhow::anyhow!("reading stderr of {line} panicked"))?;
        let status = child.wait().with_context(|| format!("waiting for {line}"))?;
        Ok(Said { line, code: status.code().unwrap_or(-1), stdout, stderr, took: begun.elapsed() })
    }
}

/// Reads to the end, writing along.
fn read(from: impl Read, mut along: Option<impl Write>) -> String {
    let (mut all, mut from) = (Vec::new(), BufReader::new(from));
    loop {
        let before = all.len();
        if from.read_until(b'\n', &mut all).unwrap_or(0) == 0 {
            return String::from_utf8_lossy(&all).into_owned();
        }
        if let Some(along) = &mut along {
            let _ = along.write_all(&all[before..]).and_then(|()| along.flush());
        }
    }
}

impl Said {
    /// What a finished command did.
    pub fn of(line: String, output: &Output, took: Duration) -> Said {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Said { line, code, stdout: text(&output.stdout), stderr: text(&output.stderr), took }
    }

    /// Insists on an exit code.
    ///
    /// # Errors
    /// It was another; all that was said is in the error.
    pub fn expect(self, code: i32) -> Result<Said> {
        ensure!(self.code == code, "{self}\nexit code {} instead of {code}", self.code);
        Ok(self)
    }

    /// Its result as one JSON object (`plan`, `status`, `log` … with `--json`).
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("the result of {self} as JSON"))
    }

    /// Its events, one a line (changing verbs with `--json`).
    ///
    /// # Errors
    /// A line is no JSON, or the last is not `verb_finished`.
    pub fn events(&self) -> Result<Vec<Value>> {
        let parse = |line| serde_json::from_str::<Value>(line).with_context(|| format!("an event: {line}"));
        let events = self.stdout.lines().map(parse).collect::<Result<Vec<_>>>()?;
        let last = events.last().and_then(|event| event["event"].as_str());
        ensure!(last == Some("verb_finished"), "the last event of {self} is {last:?}");
        Ok(events)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$ {}\n{}{}[{}]", self.line, self.stdout, self.stderr, self.code)
    }
}
