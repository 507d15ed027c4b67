//! The one door through which the world is changed: latency, injected faults, the trace.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::world::{Locked, Sim, now_ms, read_json, write_json};
use crate::{Cause, Error, MacAddr, Power, Result};

/// A failure that waits for an operation; consumed by the one it strikes. `faults.json` is a list of these:
/// `[{"op": "start", "object": "mercure", "nth": 2, "how": "kill_after"}, {"op": "guest.run", "how": {"delay_ms": 50}}]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Operation, as it stands in the trace: `start`, `storage.snapshot`, `guest.run` …
    pub op: String,
    /// Strikes only an operation whose object (guest, volume, `GUEST: COMMAND`) contains this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Which matching operation from now on, counted from 1.
    #[serde(default = "next")]
    pub nth: u32,
    /// What happens.
    pub how: How,
}

fn next() -> u32 {
    1
}

/// What an injected fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Nothing is done; the error says so.
    Fail,
    /// Nothing is done; the error is [`Cause::Unknown`].
    UnknownBefore,
    /// It is done; the error is [`Cause::Unknown`].
    UnknownAfter,
    /// Half of it is done, then it fails. An operation without halves: as [`How::UnknownAfter`].
    Partial,
    /// The controller's process gets SIGKILL before anything is done.
    KillBefore,
    /// The same half-way (an operation without halves: afterwards).
    KillMid,
    /// The same when it is done.
    KillAfter,
    /// It takes this much longer, in milliseconds; the world is not locked meanwhile.
    DelayMs(u64),
}

/// One line of `trace.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceEntry {
    /// Counts from 1 without gaps.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub time_ms: u64,
    /// Operation.
    pub op: String,
    /// What it was done to.
    pub object: String,
    /// `ok`, or the error.
    pub outcome: String,
    /// The fault that struck it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<How>,
    /// What a real world would not survive, as it is afterwards: two owners of an address, two guests on a volume; and a
    /// guest that did not come up again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// The guests that are on or paused afterwards.
    pub running: Vec<Running>,
}

/// A guest that runs, in the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its name.
    pub guest: String,
    /// Whether it is on or paused (a paused one answers for no address).
    pub power: Power,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its hardware addresses.
    pub macs: Vec<MacAddr>,
}

impl Sim {
    /// Adds a fault.
    pub fn inject(&self, fault: Fault) -> Result<()> {
        let _lock = self.lock()?;
        let mut faults = self.faults()?;
        faults.push(fault);
        write_json(&self.dir().join("faults.json"), &faults)
    }

    /// The faults that have not struck yet.
    pub fn faults(&self) -> Result<Vec<Fault>> {
        Ok(read_json(&self.dir().join("faults.json"))?.unwrap_or_default())
    }

    /// Everything that was done to the world, oldest first. A line torn by a crash is left out.
    pub fn trace(&self) -> Result<Vec<TraceEntry>> {
        let _lock = self.lock()?;
        match std::fs::read_to_string(self.dir().join("trace.jsonl")) {
            Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(Error::io("read the trace", error)),
        }
    }

    /// Changes the world. `op` is `storage.snapshot` or plain `start`; errors read `snapshot OBJECT`.
    pub(super) async fn effect<T>(
        &self,
        op: &str,
        object: &str,
        act: impl FnOnce(&mut Locked) -> Result<T> + Send,
    ) -> Result<T> {
        self.perform(op, object, true, act).await
    }

    /// Looks at the world: as [`Sim::effect`], but in the trace only if a fault strikes.
    pub(super) async fn observe<T>(
        &self,
        op: &str,
        object: &str,
        act: impl FnOnce(&mut Locked) -> Result<T> + Send,
    ) -> Result<T> {
        self.perform(op, object, false, act).await
    }

    async fn perform<T>(
        &self,
        op: &str,
        object: &str,
        traced: bool,
        act: impl FnOnce(&mut Locked) -> Result<T> + Send,
    ) -> Result<T> {
        let doing = format!("{} {object}", op.rsplit('.').next().unwrap_or(op));
        let latency = self.config()?.latency_ms;
        if latency > 0 {
            tokio::time::sleep(Duration::from_millis(latency)).await;
        }
        let fault = self.lock()?.take_fault(op, object)?;
        if let Some(How::DelayMs(ms)) = fault {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        let mut world = self.lock()?;
        let result = match fault {
            Some(How::Fail) => Err(Error::new(doing, Cause::Platform("injected failure".into()))),
            Some(How::UnknownBefore) => Err(Error::unknown(doing, "the link was lost (injected)")),
            Some(How::KillBefore) => return die(doing),
            _ => {
                world.fault = fault.filter(|how| matches!(how, How::Partial | How::KillMid));
                let result = act(&mut world);
                let missed = world.fault.take();
                match missed.or(fault) {
                    Some(How::KillAfter) => return die(doing),
                    Some(How::KillMid) if missed.is_some() => return die(doing),
                    Some(How::Partial) if missed.is_none() => result,
                    Some(How::UnknownAfter | How::Partial) => {
                        result.and_then(|_| Err(Error::unknown(doing, "the link was lost (injected)")))
                    }
                    _ => result,
                }
            }
        };
        if traced || fault.is_some() {
            let outcome = result.as_ref().err().map_or_else(|| "ok".to_owned(), ToString::to_string);
            world.trace(op, object, outcome, fault)?;
        }
        result
    }
}

/// SIGKILL to this process: what a crash test wants to survive.
fn die<T>(doing: String) -> Result<T> {
    kill(Pid::this(), Signal::SIGKILL)
        .map_err(|errno| Error::io(format!("die at {doing}"), errno.into()))
        .and_then(|()| Err(Error::unknown(doing, "the process outlived SIGKILL")))
}

impl Locked {
    /// The middle of an operation, where [`How::Partial`] and [`How::KillMid`] strike.
    pub fn midpoint(&mut self, doing: &str) -> Result<()> {
        match self.fault.take() {
            Some(How::Partial) => Err(Error::new(doing, Cause::Platform("injected failure half-way".into()))),
            Some(How::KillMid) => die(doing.to_owned()),
            _ => Ok(()),
        }
    }

    fn take_fault(&self, op: &str, object: &str) -> Result<Option<How>> {
        let mut faults = self.sim.faults()?;
        let matches = |fault: &Fault| fault.op == op && fault.object.as_ref().is_none_or(|part| object.contains(part));
        let mut struck = None;
        let before = faults.clone();
        for index in (0..faults.len()).rev() {
            if !matches(&faults[index]) {
                continue;
            }
            if faults[index].nth > 1 {
                faults[index].nth -= 1;
            } else {
                struck = Some(index);
            }
        }
        // Of several that are due, the first in the list strikes; the others wait for the next operation.
        let how = struck.map(|index| faults.remove(index).how);
        if faults != before {
            write_json(&self.sim.dir().join("faults.json"), &faults)?;
        }
        Ok(how)
    }

    pub fn trace(&mut self, op: &str, object: &str, outcome: String, fault: Option<How>) -> Result<()> {
        let running = self.running()?;
        let mut conflicts = std::mem::take(&mut self.conflicts);
        conflicts.extend(self.standing_conflicts(&running)?);
        let running = running.into_iter().map(|(guest, runtime)| Running {
            guest,
            power: runtime.power,
            addresses: runtime.nics.iter().flat_map(|nic| nic.addresses.iter().map(|(ip, _)| *ip)).collect(),
            macs: runtime.nics.iter().map(|nic| nic.mac).collect(),
        });
        let mut entry = TraceEntry {
            seq: 0,
            time_ms: now_ms(),
            op: op.to_owned(),
            object: object.to_owned(),
            outcome,
            fault,
            conflicts,
            running: running.collect(),
        };
        self.append(&mut entry).map_err(|error| Error::io("write the trace", error))
    }

    /// Appends one line by a single write. The number follows from the last whole line.
    fn append(&self, entry: &mut TraceEntry) -> std::io::Result<()> {
        const TAIL: u64 = 64 << 10;
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).open(self.sim.dir().join("trace.jsonl"))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        #[derive(Deserialize)]
        struct Numbered {
            seq: u64,
        }
        let numbered = |line: &[u8]| serde_json::from_slice::<Numbered>(line).ok();
        entry.seq = tail.rsplit(|byte| *byte == b'\n').find_map(numbered).map_or(1, |last| last.seq + 1);
        let torn = tail.last().is_some_and(|byte| *byte != b'\n');
        let mut line = if torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, entry)?;
        line.push(b'\n');
        file.write_all(&line)
    }
}
