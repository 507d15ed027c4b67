//! A server's file systems, copied while it runs into a tree on another machine: dump there, restore here; or rsync on both.
//!
//! ```text
//! SCRATCH/transfer/        on the machine of the tree
//!   usr.0.begun            /usr is being copied; what its directory holds is no copy
//!   usr.0.done             it is one: what was copied, as a Stamp
//!   usr.snap               we made .snap on the server
//!   usr.tmp/               restore's TMPDIR
//! /var/lib/upgradectl/transfer/RUN/   on the server, while another level is to come: dump's dates
//! ```
//!
//! Invariants: a file system is begun before anything of it is in its directory, and done only when dump, restore and the comparison
//! say so. restore never runs into a directory that is not empty: what stands there unasked for stops the step, what we began
//! ourselves is emptied (rsync goes on with it). A file system that is done is not copied again. One that fails does not stop the others.

mod mirroring;
mod moving;
mod stamp;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use hypervisors::host::shell_quote;
use hypervisors::transfer::{Compression, Dialect, DumpLine, Place, Since, mounted};
use hypervisors::{Change, GuestLink, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Manners, Probe, Step, StepError, World};
use moving::Moving;
use stamp::Stamps;

/// Copies file systems of a server into a tree, several at a time: a mount point's parent first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Inventory host of the tree.
    pub host: String,
    /// How to get into the server.
    pub source: GuestLink,
    /// Run, which is the clone's name.
    pub run: String,
    /// Root of the tree, on the host.
    pub root: PathBuf,
    /// The run's own directory there.
    pub scratch: PathBuf,
    /// What the server's dump understands.
    pub dialect: Dialect,
    /// By which programs.
    #[serde(default, skip_serializing_if = "Method::is_dump")]
    pub method: Method,
    /// What is copied.
    pub filesystems: Vec<Moved>,
    /// Other file systems of the server, which are not gone into; those that are mounted are known anyway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<PathBuf>,
    /// 0: all of it. 1: what changed since level 0, which a step before this one copied with `keeps_symtable`.
    pub level: u8,
    /// Another level is to come: what restore and dump need for it is kept.
    pub keeps_symtable: bool,
    /// Packed on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Bytes a second over the wire at most, all of them together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// How long one may take, in seconds.
    #[serde(default = "three_days")]
    pub patience_s: u64,
}

/// By which programs file systems are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// dump(8) into restore(8).
    #[default]
    Dump,
    /// rsync(1) on both sides, all of it through us; level 0 alone.
    Rsync,
}

impl Method {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_dump(&self) -> bool {
        *self == Self::Dump
    }
}

/// A file system that is copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Mount point on the server; the copy is at the same place in the tree.
    pub mount: PathBuf,
    /// Device it is dumped by.
    pub device: String,
    /// Bytes in use when it was planned, for the room it needs.
    pub used_bytes: u64,
    /// From a snapshot; if there can be none, the step fails. Otherwise live: what changes meanwhile may be missing.
    pub snapshot: bool,
}

fn three_days() -> u64 {
    3 * 24 * 3600
}

impl Moved {
    /// Where its copy is, in a tree.
    pub fn place(&self, root: &Path) -> Place {
        let below = self.mount.strip_prefix("/").unwrap_or(&self.mount).to_owned();
        Place { root: root.to_owned(), below }
    }
}

impl Transfer {
    fn stamps(&self, host: Arc<dyn Host>) -> Stamps {
        Stamps::new(host, self.scratch.join("transfer"))
    }

    fn names(&self) -> String {
        let names: Vec<String> = self.filesystems.iter().map(|one| one.mount.display().to_string()).collect();
        names.join(", ")
    }

    /// Those that can be copied at the same time, in order: a mount point has to be there before something is copied into it.
    fn waves(&self) -> Vec<Vec<&Moved>> {
        let depth = |one: &Moved| {
            let above = |other: &&Moved| other.mount != one.mount && one.mount.starts_with(&other.mount);
            self.filesystems.iter().filter(above).count()
        };
        let mut waves: Vec<Vec<&Moved>> = Vec::new();
        for one in &self.filesystems {
            let depth = depth(one);
            waves.resize_with(waves.len().max(depth + 1), Vec::new);
            waves[depth].push(one);
        }
        waves.retain(|wave| !wave.is_empty());
        waves
    }

    /// What dump is asked for one of them.
    fn dump_line<'a>(&'a self, moved: &'a Moved, level: u8, since: Since) -> DumpLine<'a> {
        DumpLine { dialect: &self.dialect, level, device: &moved.device, snapshot: moved.snapshot, since }
    }

    /// Whether dump has to know dates.
    fn dated(&self) -> bool {
        self.keeps_symtable || self.level > 0
    }

    /// The file on the server that dump keeps its dates in.
    fn dates(&self, moved: &Moved) -> String {
        format!("{}/{}", self.dates_directory(), stamp::name(&moved.mount))
    }
    fn dates_directory(&self) -> String {
        format!("/var/lib/upgradectl/transfer/{}", self.run)
    }

    /// The pipeline of one of them, as one would type it here.
    fn pipeline(&self, moved: &Moved, manners: &Manners) -> Vec<String> {
        let since = match (self.dated(), self.dialect.dumpdates, self.level) {
            (true, true, _) => Since::Dates(self.dates(moved)),
            (true, false, 1..) => Since::Told("DATE OF LEVEL 0".into()),
            _ => Since::Nothing,
        };
        let (pack, unpack) = match self.compression {
            None => ("", ""),
            Some(Compression::Zstd) => (" | zstd -1", "zstd -d | "),
            Some(Compression::Gzip) => (" | gzip -1", "gzip -d | "),
        };
        let sudo = if self.source.sudo { "sudo " } else { "" };
        let dump = format!("{sudo}{}{pack}", shell_quote(&self.dump_line(moved, self.level, since).argv()));
        let destination = format!("{}@{}", self.source.user, self.source.address);
        let mut ssh = vec!["ssh".to_owned()];
        if self.source.port != 22 {
            ssh.extend(["-p".to_owned(), self.source.port.to_string()]);
        }
        ssh.extend([destination, dump]);
        let place = shell_quote(&[moved.place(&self.root).path().display().to_string()]);
        let temporary = shell_quote(&[self.scratch.join("transfer").display().to_string()]);
        let restore =
            format!("cd {place} && {unpack}TMPDIR={temporary}/{}.tmp restore -rf -", stamp::name(&moved.mount));
        let restore = match manners.on(&self.host, Vec::new()) {
            reached if reached.is_empty() => format!("({restore})"),
            reached => shell_quote(&reached.into_iter().chain([restore]).collect::<Vec<_>>()),
        };
        vec!["sh".into(), "-c".into(), format!("{} | {restore}", shell_quote(&ssh))]
    }
}

#[async_trait]
impl Step for Transfer {
    fn title(&self) -> String {
        let (names, name, root) = (self.names(), &self.source.name, self.root.display());
        match self.level {
            0 => format!("copy {names} of {name} to {root}"),
            _ => format!("copy what changed in {names} of {name} to {root}"),
        }
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        let all = self.waves().concat().into_iter();
        match self.method {
            Method::Dump => all.map(|moved| self.pipeline(moved, manners)).collect(),
            Method::Rsync => all.map(|moved| mirroring::typed(self, moved)).collect(),
        }
    }

    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let stamps = self.stamps(world.hypervisor(&self.host)?.host());
        let (mut begun, mut done) = (false, 0);
        for moved in &self.filesystems {
            match stamps.done(moved, self.level).await? {
                Some(stamp) if stamp.is_of(self, moved) => done += 1,
                _ => begun |= stamps.is_begun(moved, self.level).await?,
            }
        }
        Ok(match done {
            done if done == self.filesystems.len() => Probe::Present,
            0 if !begun => Probe::Absent,
            _ => Probe::Partial,
        })
    }

    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let (source, target) = (hypervisor.guest(&self.source)?, hypervisor.host());
        let mounts = mounted(&*source).await?;
        for moved in &self.filesystems {
            // A subvolume is where it is, on the device of what it is in.
            let holds = mounts.iter().filter(|mount| moved.mount.starts_with(&mount.point));
            let now = holds.max_by_key(|mount| mount.point.components().count()).map(|mount| mount.device.as_str());
            if now != Some(&moved.device) {
                let (mount, device, name) = (moved.mount.display(), &moved.device, &self.source.name);
                let now = now.unwrap_or("nothing");
                return Err(StepError::Changed(format!("{mount} of {name} is on {now} now, and not on {device}")));
            }
        }
        let stamps = self.stamps(Arc::clone(&target));
        stamps.make_room().await?;
        let moving = Moving { step: self, world, source: &*source, target: &*target, stamps: &stamps, mounts: &mounts };
        let (mut moved, mut told) = (Vec::new(), Vec::new());
        for wave in self.waves() {
            for outcome in moving.wave(&wave).await? {
                told.extend(outcome.told.iter().map(|line| format!("{}: {line}", outcome.mount.display())));
                moved.push(outcome);
            }
        }
        if !self.keeps_symtable {
            moving.forget_dates().await?;
        }
        let change = if moved.is_empty() { Change::Unchanged } else { Change::Created };
        let done = Done::new(change).with(json!({ "filesystems": moved }));
        Ok(told.into_iter().fold(done, Done::warn))
    }

    /// The copy goes with its tree; what was left on the server goes here.
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let hypervisor = world.hypervisor(&self.host)?;
        let (source, target) = (hypervisor.guest(&self.source)?, hypervisor.host());
        let stamps = self.stamps(Arc::clone(&target));
        let moving = Moving { step: self, world, source: &*source, target: &*target, stamps: &stamps, mounts: &[] };
        for moved in &self.filesystems {
            if stamps.made_snap(moved).await? {
                moving.unmake_snap(moved).await?;
            }
        }
        moving.forget_dates().await?;
        Ok(Change::Unchanged.into())
    }
}
