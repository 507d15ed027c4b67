//! Detached work inside simulated guests. A job's record lies with its guest's root volume, as a real one's state
//! lies in the guest's files; so it outlives the controller, and the guest's restart.
//!
//! The work's effect is brought about when someone first looks after its time has passed, or half of it when the guest
//! goes down before that.

use serde::{Deserialize, Serialize};

use super::commands::{self, Inside};
use super::definition::Parsed;
use super::world::{Locked, Runtime, now_ms};
use crate::host::{Job, JobStatus};
use crate::{Change, Error, Result};

/// A job as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    argv: Vec<String>,
    started_ms: u64,
    ends_ms: u64,
    state: State,
    /// What it printed, once it has ended.
    output: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Running,
    Ended(i32),
    Lost,
}

impl Locked {
    /// Ends what has had its time; with `going_down`, loses the rest half-way.
    pub fn settle_jobs(&mut self, guest: &str, parsed: &Parsed, runtime: &Runtime, going_down: bool) -> Result<()> {
        let Some(volume) = parsed.root().map(|disk| disk.volume.clone()) else { return Ok(()) };
        let records = self.volume(&volume)?.unwrap_or_default().jobs;
        for (id, mut record) in records {
            let due = now_ms() >= record.ends_ms;
            if record.state != State::Running || !(due || going_down) {
                continue;
            }
            let config = self.sim.config()?;
            let mut inside = Inside {
                world: self,
                guest: guest.to_owned(),
                parsed: parsed.clone(),
                runtime: runtime.clone(),
                config,
                half: !due,
            };
            let output = inside.run(&record.argv)?;
            record.output = String::from_utf8_lossy(&output.stdout).into_owned();
            record.output += &String::from_utf8_lossy(&output.stderr);
            record.state = if due { State::Ended(output.status) } else { State::Lost };
            let mut meta = self.volume(&volume)?.unwrap_or_default();
            meta.jobs.insert(id, record);
            self.set_volume(&volume, &meta)?;
        }
        Ok(())
    }
}

impl Inside<'_> {
    fn volume_name(&self) -> String {
        self.parsed.root().map(|disk| disk.volume.clone()).unwrap_or_default()
    }

    /// How long a job takes in this guest.
    fn job_ms(&self) -> u64 {
        let guest = self.guest.split("--").next().unwrap_or_default();
        self.config.job_ms_of.get(guest).copied().unwrap_or(self.config.job_ms)
    }

    /// Starts a job; nothing if its id exists.
    pub fn job_start(&mut self, job: &Job) -> Result<Change> {
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if job.id.is_empty() || !job.id.chars().all(valid) {
            return Err(Error::refused(format!("start job {:?}", job.id), "its id is not of a-z, 0-9 and -"));
        }
        let volume = self.volume_name();
        let mut meta = self.world.volume(&volume)?.unwrap_or_default();
        if meta.jobs.contains_key(&job.id) {
            return Ok(Change::Unchanged);
        }
        let now = now_ms();
        let record = Record {
            argv: job.argv.clone(),
            started_ms: now,
            ends_ms: now + self.job_ms(),
            state: State::Running,
            output: String::new(),
        };
        meta.jobs.insert(job.id.clone(), record);
        self.world.set_volume(&volume, &meta)?;
        Ok(Change::Created)
    }

    fn job(&mut self, id: &str) -> Result<Option<Record>> {
        self.world.settle_jobs(&self.guest, &self.parsed, &self.runtime, false)?;
        self.runtime = self.world.runtime(&self.guest)?;
        Ok(self.world.volume(&self.volume_name())?.unwrap_or_default().jobs.remove(id))
    }

    fn printed(&self, record: &Record) -> Vec<u8> {
        if record.state != State::Running {
            return record.output.clone().into_bytes();
        }
        let part = now_ms().saturating_sub(record.started_ms) as f64 / self.job_ms().max(1) as f64;
        commands::progress(self, &record.argv, part).into_bytes()
    }

    /// How a job stands.
    pub fn job_status(&mut self, id: &str) -> Result<JobStatus> {
        let Some(record) = self.job(id)? else { return Ok(JobStatus::Absent) };
        let printed = self.printed(&record);
        let tail = |limit: usize| printed[printed.len().saturating_sub(limit)..].to_vec();
        Ok(match record.state {
            State::Running => JobStatus::Running { tail: tail(8 << 10) },
            State::Ended(status) => JobStatus::Ended { status, tail: tail(64 << 10) },
            State::Lost => JobStatus::Lost,
        })
    }

    /// Forgets a job that does not run.
    pub fn job_forget(&mut self, id: &str) -> Result<Change> {
        match self.job(id)? {
            None => Ok(Change::Unchanged),
            Some(Record { state: State::Running, .. }) => {
                Err(Error::refused(format!("forget job {id}"), "it is still running"))
            }
            Some(_) => {
                let volume = self.volume_name();
                let mut meta = self.world.volume(&volume)?.unwrap_or_default();
                meta.jobs.remove(id);
                self.world.set_volume(&volume, &meta)?;
                Ok(Change::Removed)
            }
        }
    }

    /// What a job printed from byte `from` on.
    pub fn job_output(&mut self, id: &str, from: u64) -> Result<Vec<u8>> {
        let Some(record) = self.job(id)? else { return Ok(Vec::new()) };
        let printed = self.printed(&record);
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(printed.len());
        Ok(printed[from..printed.len().min(from + (256 << 10))].to_vec())
    }
}
