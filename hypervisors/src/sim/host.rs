//! The simulated machine itself: a few commands, files below `hostfs/`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::leased;
use super::tree;
use super::world::{Locked, Sim, read_bounded, replace};
use crate::host::{Command, Job, JobStatus, Output};
use crate::{Cause, Change, Error, Host, Result};

/// The machine of a simulated world. Programs are `true`, `false`, `echo`, and files below `hostfs/`: these stand for hooks
/// and scripts and are not interpreted, but a line `exit N` in them is their status.
#[derive(Clone, Debug)]
pub struct SimHost {
    sim: Sim,
    name: String,
}

impl SimHost {
    pub(super) fn new(sim: &Sim) -> Self {
        let name = match sim.part_name() {
            "" => sim.config().unwrap_or_default().name,
            name => name.to_owned(),
        };
        Self { sim: sim.clone(), name }
    }
    fn no_jobs<T>(&self) -> Result<T> {
        let why = "the simulated machine has no detached work, only its guests have";
        Err(Error::new(format!("use detached work on {}", self.name), Cause::Unsupported(why.into())))
    }
}

#[async_trait]
impl Host for SimHost {
    fn name(&self) -> &str {
        &self.name
    }
    fn is_local(&self) -> bool {
        true
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        let line: String = leased::shown(&command.argv).chars().take(200).collect();
        let act = |world: &mut Locked| {
            world.settle_host_leased(Duration::ZERO)?;
            match leased::asked(&command.argv) {
                Some(asked) => world.host_leased(asked, command),
                None => program(world, &command.argv),
            }
        };
        if leased::only_looks(&command.argv) {
            self.sim.observe("host.run", &line, act).await
        } else {
            self.sim.effect("host.run", &line, act).await
        }
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.sim
            .observe("host.read_file", &path.display().to_string(), |world| {
                tree::resolve(&world.sim.hostfs(), path, true)
                    .and_then(|place| read_bounded(&place, limit))
                    .map_err(|error| Error::io(format!("read {}", path.display()), error))
            })
            .await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        self.sim
            .effect("host.write_file", &path.display().to_string(), |world| {
                let place = tree::resolve(&world.sim.hostfs(), path, true);
                place
                    .and_then(|place| write(&place, bytes, mode))
                    .map_err(|error| Error::io(format!("write {}", path.display()), error))
            })
            .await
    }
    async fn job_start(&self, _job: &Job) -> Result<Change> {
        self.no_jobs()
    }
    async fn job_status(&self, _id: &str) -> Result<JobStatus> {
        Ok(JobStatus::Absent)
    }
    async fn job_forget(&self, _id: &str) -> Result<Change> {
        Ok(Change::Unchanged)
    }
    async fn job_output(&self, _id: &str, _from: u64) -> Result<Vec<u8>> {
        self.no_jobs()
    }
}

/// Runs one of the machine's few programs.
pub(super) fn program(world: &mut Locked, argv: &[String]) -> Result<Output> {
    let said = |text: String| Output { stdout: text.into_bytes(), ..Output::default() };
    let first = argv.first().map_or("", String::as_str);
    match first.rsplit('/').next().unwrap_or(first) {
        "true" => return Ok(said(String::new())),
        "false" => return Ok(Output { status: 1, ..Output::default() }),
        "echo" => return Ok(said(argv[1..].join(" ") + "\n")),
        "sim" => {
            if let [_, resume, guest] = argv
                && resume == "resume"
            {
                world.wake(guest)?;
            }
            return Ok(said(String::new()));
        }
        _ => {}
    }
    let script = tree::resolve(&world.sim.hostfs(), Path::new(first), true)
        .and_then(|path| read_bounded(&path, 1 << 20))
        .ok()
        .flatten();
    let Some(script) = script else {
        let name = first.rsplit('/').next().unwrap_or(first);
        return Err(Error::not_found(format!("run {name}"), "there is no such program"));
    };
    let text = String::from_utf8_lossy(&script);
    let status = text.lines().find_map(|line| line.trim().strip_prefix("exit ")?.trim().parse().ok());
    Ok(Output { status: status.unwrap_or(0), ..Output::default() })
}

/// Replaces a file as [`Host::write_file`] promises, within a directory that exists or is made.
pub(super) fn write(place: &Path, bytes: &[u8], mode: u32) -> std::io::Result<Change> {
    let before = read_bounded(place, u64::MAX - 1)?;
    let same_mode = fs::metadata(place).is_ok_and(|meta| meta.permissions().mode() & 0o7777 == mode);
    if same_mode && before.as_deref() == Some(bytes) {
        return Ok(Change::Unchanged);
    }
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    replace(place, bytes)?;
    fs::set_permissions(place, fs::Permissions::from_mode(mode))?;
    Ok(if before.is_some() { Change::Changed } else { Change::Created })
}
