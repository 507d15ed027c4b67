//! The inside of a simulated guest, reached as by ssh: by an address somebody has to answer for, behind a host key
//! that has to be expected.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::commands::{Inside, is_freeze, only_looks};
use super::host;
use super::leased;
use super::tree;
use super::world::{Locked, Sim, read_bounded};
use crate::host::{Command, Job, JobStatus, Output, Stdout};
use crate::{Change, Error, GuestLink, Host, Result};

/// A way into whichever guest answers for an address when it is used.
#[derive(Clone, Debug)]
pub struct SimGuest {
    sim: Sim,
    link: GuestLink,
}

impl SimGuest {
    pub(super) fn new(sim: &Sim, link: &GuestLink) -> Self {
        Self { sim: sim.clone(), link: link.clone() }
    }

    /// Connects: address, sshd, host key.
    fn enter<'w>(&self, world: &'w mut Locked) -> Result<Inside<'w>> {
        let doing = format!("connect to {} at {}", self.link.name, self.link.address);
        let Some((guest, _)) = world.owners(self.link.address)?.into_iter().next() else {
            return Err(Error::unknown(doing, "connection timed out"));
        };
        let mut inside = Inside::enter(world, &guest)?;
        if !inside.answers_controller() {
            return Err(Error::unknown(doing, "connection timed out"));
        }
        if !inside.runtime.units.contains("ssh.service") {
            return Err(Error::unknown(doing, "connection refused"));
        }
        if !self.key_is_known(&inside.root()) {
            return Err(Error::refused(doing, "host key verification failed")
                .help("another guest may answer there; the key is learnt from the guest's own disk"));
        }
        inside.world.settle_jobs(&guest, &inside.parsed, &inside.runtime, false)?;
        inside.runtime = inside.world.runtime(&guest)?;
        inside.settle_leased(Duration::ZERO)?;
        Ok(inside)
    }

    /// Connects to write. What a frozen guest is to write waits, longer than anybody.
    fn enter_to_write<'w>(&self, world: &'w mut Locked) -> Result<Inside<'w>> {
        let inside = self.enter(world)?;
        if inside.runtime.is_frozen() {
            return Err(Error::unknown(format!("write in {}", self.link.name), "it took too long: it is frozen"));
        }
        Ok(inside)
    }

    /// Whether a host key of the guest is expected under the link's name.
    fn key_is_known(&self, root: &Path) -> bool {
        let known = read_bounded(&self.link.known_hosts, 1 << 20).ok().flatten().unwrap_or_default();
        let known = String::from_utf8_lossy(&known);
        let named = |hosts: &str| hosts.split(',').any(|host| host == self.link.name);
        let lines = known.lines().filter_map(|line| line.split_once(' ')).filter(|(hosts, _)| named(hosts));
        let expected: Vec<String> = lines.map(|(_, key)| key_of(key)).collect();
        let keys = tree::names(root, "etc/ssh").into_iter();
        let keys = keys.filter(|name| name.starts_with("ssh_host_") && name.ends_with("_key.pub"));
        let place = |name: String| tree::resolve(root, &Path::new("etc/ssh").join(name), true);
        let texts = keys.filter_map(|name| place(name).and_then(|path| read_bounded(&path, 1 << 16)).ok().flatten());
        let texts = texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        texts.map(|text| key_of(&text)).any(|key| !key.is_empty() && expected.contains(&key))
    }

    fn object(&self, what: &str) -> String {
        format!("{}: {}", self.link.name, what.chars().take(200).collect::<String>())
    }
}

/// Type and key, without the comment.
fn key_of(text: &str) -> String {
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

#[async_trait]
impl Host for SimGuest {
    fn name(&self) -> &str {
        &self.link.name
    }
    fn is_local(&self) -> bool {
        false
    }

    async fn run(&self, command: &Command) -> Result<Output> {
        if command.argv.iter().any(|word| word == "--wait") {
            self.wait_for_boot(command).await?;
        }
        let object = self.object(&leased::shown(&command.argv));
        let act = |world: &mut Locked| {
            let writes = !only_looks(&command.argv) && !is_freeze(&command.argv);
            let mut inside = if writes { self.enter_to_write(world)? } else { self.enter(world)? };
            // A fault that strikes half-way leaves half of an upgrade; other commands have no halves.
            inside.half = inside.world.fault.is_some();
            let output = match leased::asked(&command.argv) {
                Some(asked) => inside.leased(asked, &command.stdin)?,
                None => inside.run(&command.argv)?,
            };
            inside.world.midpoint(&format!("run {}", command.program()))?;
            Ok(output)
        };
        let mut output = if only_looks(&command.argv) {
            self.sim.observe("guest.run", &object, act).await?
        } else {
            self.sim.effect("guest.run", &object, act).await?
        };
        if let Stdout::File(path) = &command.stdout {
            let bytes = std::mem::take(&mut output.stdout);
            host::write(path, &bytes, 0o600).map_err(|error| Error::io(format!("write {}", path.display()), error))?;
        }
        for stream in [&mut output.stdout, &mut output.stderr] {
            output.truncated |= stream.len() > command.limit;
            stream.truncate(command.limit);
        }
        Ok(output)
    }

    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.sim
            .observe("guest.read_file", &self.object(&path.display().to_string()), |world| {
                let inside = self.enter(world)?;
                if let Some(text) = inside.made_up(path) {
                    return Ok(Some(text.into_bytes()));
                }
                inside
                    .place(path, true)
                    .and_then(|place| read_bounded(&place, limit))
                    .map_err(|error| Error::io(format!("read {}", path.display()), error))
            })
            .await
    }

    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        self.sim
            .effect("guest.write_file", &self.object(&path.display().to_string()), |world| {
                let inside = self.enter_to_write(world)?;
                inside
                    .place(path, true)
                    .and_then(|place| host::write(&place, bytes, mode))
                    .map_err(|error| Error::io(format!("write {}", path.display()), error))
            })
            .await
    }

    async fn job_start(&self, job: &Job) -> Result<Change> {
        self.sim
            .effect("guest.job_start", &self.object(&job.id), |world| self.enter_to_write(world)?.job_start(job))
            .await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        self.sim.observe("guest.job_status", &self.object(id), |world| self.enter(world)?.job_status(id)).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        self.sim.effect("guest.job_forget", &self.object(id), |world| self.enter(world)?.job_forget(id)).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        self.sim.observe("guest.job_output", &self.object(id), |world| self.enter(world)?.job_output(id, from)).await
    }
}

impl SimGuest {
    /// `systemctl is-system-running --wait` returns when the guest has booted, or not in time.
    async fn wait_for_boot(&self, command: &Command) -> Result<()> {
        let left = {
            let mut world = self.sim.lock()?;
            let inside = self.enter(&mut world)?;
            if inside.config.systemd < 232 {
                return Ok(());
            }
            let up = inside.runtime.booted_ms + inside.config.boot_ms;
            std::time::Duration::from_millis(up.saturating_sub(super::world::now_ms()))
        };
        tokio::time::sleep(left.min(command.timeout)).await;
        if left > command.timeout {
            return Err(Error::unknown(format!("run {}", command.program()), "it did not end in time"));
        }
        Ok(())
    }
}
