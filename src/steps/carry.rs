//! Data brought from the original to the clone by rule, first while both run, then from the stopped original.
//!
//! Volumes that are opened as mounts are shown to rsync ([`hypervisors::storage::Shown`]); of others a path leads to them.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::{Command, SshHost};
use hypervisors::storage::{Access, Opened, Place, Shown};
use hypervisors::{Change, GuestLink, VolumeRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Probe, Step, StepError, World, files, left};
use crate::guest::Tree;

/// Mirrors a subtree with rsync: one file system, numeric ids, hard links, ACLs, extended attributes; what the
/// source has not is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carry {
    /// Inventory host.
    pub host: String,
    /// Root volume of the original.
    pub from: VolumeRef,
    /// Root volume of the clone.
    pub to: VolumeRef,
    /// Directory in the guest, without leading slash.
    pub path: String,
    /// rsync exclude patterns.
    pub exclude: Vec<String>,
    /// The last copy, from the stopped original: what it left behind must be whole.
    pub last: bool,
    /// In advance, where a running original's volume cannot be read from outside: through the original itself, which then
    /// needs rsync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<GuestLink>,
}

impl Carry {
    fn argv(&self, from: &str, to: &str, more: &[&str]) -> Vec<String> {
        let mut argv: Vec<String> =
            ["rsync", "-aHAXx", "--numeric-ids", "--delete", "--stats"].map(str::to_owned).to_vec();
        argv.extend(more.iter().map(|&flag| flag.to_owned()));
        argv.extend(self.exclude.iter().map(|pattern| format!("--exclude={pattern}")));
        argv.extend(["--".to_owned(), format!("{from}/"), format!("{to}/")]);
        argv
    }

    /// How many files would be copied or deleted now.
    pub async fn pending(&self, world: &World) -> Result<u64, StepError> {
        let output = self.rsync(world, &["--dry-run", "--itemize-changes"]).await?;
        Ok(output.lines().filter(|line| line.starts_with(['>', '*', 'c', 'h'])).count() as u64)
    }

    /// The directory in a guest's tree, opened beneath its root, so that no link in the guest, present or made meanwhile, leads
    /// rsync out of it.
    fn place(&self, world: &World, side: Side, tree: &Tree, opened: Opened) -> Result<Place, StepError> {
        let (name, word, help) = match side {
            Side::From => ("from", "original", "mend the carry rule in the inventory"),
            Side::To => (
                "to",
                "clone",
                "make the directory there (a hook at = \"after-upgrade\"), or mend the carry rule in the inventory",
            ),
        };
        let directory = tree
            .directory(self.path.as_ref())?
            .ok_or_else(|| StepError::failed(format!("/{} is not in the {word}", self.path), help))?;
        Ok(Place { opened, directory, point: world.run_dir.join("carry").join(name) })
    }

    async fn rsync(&self, world: &World, more: &[&str]) -> Result<String, StepError> {
        let (from, to) = match (self.last, more.contains(&"--dry-run")) {
            (_, true) => (Access::Glance, Access::Glance),
            (true, _) => (Access::Read, Access::Write),
            (false, _) => (Access::Glance, Access::Write),
        };
        let opened = world.hypervisor(&self.host)?.storage(self.to.kind)?.open(&self.to, to).await?;
        let to = self.place(world, Side::To, &files::tree_of(&opened)?, opened)?;
        match self.through.as_ref().filter(|_| from == Access::Glance && !more.contains(&"--dry-run")) {
            Some(link) => {
                let (shell, destination) = SshHost::for_guest(link).for_rsync()?;
                let shell = format!("--rsh={shell}");
                let mut more = [more, &["--protect-args", shell.as_str()]].concat();
                if link.sudo {
                    more.push("--rsync-path=sudo -n rsync");
                }
                self.copy(world, Source::Elsewhere(format!("{destination}:/{}", self.path)), to, &more).await
            }
            None if from == Access::Read => {
                let left = left::open(world, &self.host, &self.from).await?;
                let from = self.place(world, Side::From, &left.tree, left.opened)?;
                self.copy(world, Source::Here(from), to, more).await
            }
            None => {
                let opened = world.hypervisor(&self.host)?.storage(self.from.kind)?.open(&self.from, from).await?;
                let from = self.place(world, Side::From, &files::tree_of(&opened)?, opened)?;
                self.copy(world, Source::Here(from), to, more).await
            }
        }
    }

    async fn copy(&self, world: &World, from: Source, to: Place, more: &[&str]) -> Result<String, StepError> {
        let doing = format!("carry /{}", self.path);
        // Goes last: a volume is let go of when nothing in it is open any more.
        let shown;
        let written = to.directory.try_clone().map_err(|error| hypervisors::Error::io(&doing, error))?;
        let path = |place: &Place| way_to(place).map_err(|error| hypervisors::Error::io(&doing, error));
        let to_path = path(&to)?;
        let (from_path, from) = match from {
            Source::Here(place) => (path(&place)?, Some(place)),
            Source::Elsewhere(path) => (path, None),
        };
        let command = Command::new(self.argv(&from_path, &to_path, more)).timeout(Duration::from_secs(24 * 3600));
        let (mounts, _kept): (Vec<Place>, Vec<Place>) =
            from.into_iter().chain([to]).partition(|place| place.opened.is_mount());
        let output = match mounts.is_empty() {
            true => world.controller.run(&command).await?,
            false => {
                shown = Shown::new(&doing, mounts).await?;
                let argv = shown.argv(command.argv.clone());
                world.controller.run(&Command { argv, ..command.clone() }).await?
            }
        };
        // 24: files vanished while they were copied; natural while the original runs.
        if output.status == 24 && !self.last {
            return Ok(output.text());
        }
        let text = output.checked(&doing, &command)?.text();
        if self.last {
            // What is journalled as carried survives a power cut.
            rustix::fs::syncfs(&written)
                .map_err(|error| hypervisors::Error::io("write the carried files out", error.into()))?;
        }
        Ok(text)
    }
}

/// Which guest of the two.
#[derive(Clone, Copy)]
enum Side {
    From,
    To,
}

/// What is copied.
enum Source {
    Here(Place),
    /// What rsync finds by itself: `HOST:/PATH`.
    Elsewhere(String),
}

/// The path at which rsync finds a directory: where it is shown, if that is a mount; else by the descriptor. rsync resolves
/// that (see [`Shown`]), so what the kernel prints for it has to be the same directory on this machine.
fn way_to(place: &Place) -> io::Result<String> {
    if place.opened.is_mount() {
        std::fs::create_dir_all(&place.point)?;
        return Ok(place.point.to_string_lossy().into_owned());
    }
    let magic = format!("/proc/{}/fd/{}", std::process::id(), place.directory.as_raw_fd());
    let (here, there) = (rustix::fs::fstat(&place.directory)?, std::fs::metadata(std::fs::read_link(&magic)?)?);
    if (there.dev(), there.ino()) != (here.st_dev, here.st_ino) {
        return Err(io::Error::other("no path of this machine leads to the directory"));
    }
    Ok(magic)
}

#[async_trait]
impl Step for Carry {
    fn title(&self) -> String {
        let when = if self.last { "carry the rest of" } else { "carry in advance" };
        format!("{when} /{}", self.path)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, _manners: &super::Manners) -> Vec<Vec<String>> {
        let (from, to) = (self.from.path.join(&self.path), self.to.path.join(&self.path));
        vec![self.argv(&from.to_string_lossy(), &to.to_string_lossy(), &[])]
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let stats = self.rsync(world, &[]).await?;
        let files = stats
            .lines()
            .find_map(|line| line.strip_prefix("Number of regular files transferred: "))
            .and_then(|count| count.replace([',', '.'], "").trim().parse::<u64>().ok());
        Ok(Done::new(Change::Changed).with(json!({ "files": files })))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}
