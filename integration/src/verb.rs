//! A verb that is under way: watched by its events, and ended in the middle.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A verb that is under way.
#[derive(Debug)]
pub struct Verb {
    line: String,
    child: Child,
    events: mpsc::Receiver<String>,
    seen: Vec<Value>,
}

impl Verb {
    /// Starts a command that prints events (`--json`), and `line` for people.
    ///
    /// # Errors
    /// It could not be started.
    pub fn begin(line: &str, command: &mut Command) -> Result<Verb> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting upgradectl {line}"))?;
        // Read at once: a full pipe would hold the verb up.
        let (lines, events) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        Ok(Verb { line: line.to_owned(), child, events, seen: Vec::new() })
    }

    /// Reads events up to one for which this holds.
    ///
    /// # Errors
    /// It ends without one.
    pub fn until(&mut self, holds: impl Fn(&Value) -> bool) -> Result<&Value> {
        while let Ok(line) = self.events.recv() {
            let event: Value = serde_json::from_str(&line)?;
            let found = holds(&event);
            self.seen.push(event);
            if found {
                return self.seen.last().context("just seen");
            }
        }
        anyhow::bail!("upgradectl {} ended without that event: {:#?}", self.line, self.seen.last())
    }

    /// Reads up to so many events: how many there were before it ended.
    ///
    /// # Errors
    /// What it prints is no event.
    pub fn pass(&mut self, events: usize) -> Result<usize> {
        let before = self.seen.len();
        for line in self.events.iter().take(events) {
            self.seen.push(serde_json::from_str(&line)?);
        }
        Ok(self.seen.len() - before)
    }

    /// Ends it as `kill -9` does, if it still runs: `None`. Otherwise its exit code and all of its events.
    ///
    /// # Errors
    /// As [`Verb::pass`].
    pub fn kill_or_end(mut self) -> Result<Option<(i32, Vec<Value>)>> {
        self.child.kill()?;
        let Some(code) = self.child.wait()?.code() else { return Ok(None) };
        self.pass(usize::MAX)?;
        Ok(Some((code, self.seen)))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.id().cast_signed()), signal)?)
    }

    /// Ends it as `kill -9` does: no handler, no last words.
    ///
    /// # Errors
    /// It had ended before.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        let status = self.child.wait()?;
        ensure!(status.code().is_none(), "upgradectl {} had ended before it was killed: {status}", self.line);
        Ok(())
    }

    /// Reads the rest; its exit code and all of its events.
    ///
    /// # Errors
    /// As [`Verb::pass`].
    pub fn end(mut self) -> Result<(i32, Vec<Value>)> {
        for line in self.events {
            self.seen.push(serde_json::from_str(&line)?);
        }
        Ok((self.child.wait()?.code().unwrap_or(-1), self.seen))
    }
}

/// Whether an event is of this kind, about a step of this kind (empty: any, or none) with a title that ends so.
pub fn event<'a>(event: &'a str, kind: &'a str, title: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |seen| {
        let step = &seen["step"];
        seen["event"] == event
            && (kind.is_empty() || step["kind"] == kind)
            && step["title"].as_str().unwrap_or_default().ends_with(title)
    }
}
