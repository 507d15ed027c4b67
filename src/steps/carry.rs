//! Data brought from the original to the clone by rule, first while both run, then from the stopped original.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::{Command, SshHost};
use hypervisors::storage::Access;
use hypervisors::{Change, GuestLink, VolumeRef};
use rustix::fs::StatVfsMountFlags;
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

/// What helps where the directory is not in the original.
const FROM_HELP: &str = "mend the carry rule in the inventory";

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

    /// Opens the directory in a guest's tree beneath its root, so that no link in the guest, present or made meanwhile, leads
    /// rsync out of it.
    fn directory(&self, tree: &Tree, side: &str, help: &str) -> Result<OwnedFd, StepError> {
        tree.directory(self.path.as_ref())?
            .ok_or_else(|| StepError::failed(format!("/{} is not in the {side}", self.path), help))
    }

    async fn rsync(&self, world: &World, more: &[&str]) -> Result<String, StepError> {
        let (from, to) = match (self.last, more.contains(&"--dry-run")) {
            (_, true) => (Access::Glance, Access::Glance),
            (true, _) => (Access::Read, Access::Write),
            (false, _) => (Access::Glance, Access::Write),
        };
        let target = files::open_for(world, &self.host, &self.to, to).await?;
        let directory = self.directory(
            &target,
            "clone",
            "make the directory there (a hook at = \"after-upgrade\"), or mend the carry rule",
        )?;
        let to = Place::of(world, "to", &self.to, &directory)?;
        let (argv, places) =
            match self.through.as_ref().filter(|_| from == Access::Glance && !more.contains(&"--dry-run")) {
                Some(link) => {
                    let (shell, destination) = SshHost::for_guest(link).for_rsync()?;
                    let shell = format!("--rsh={shell}");
                    let mut more = [more, &["--protect-args", shell.as_str()]].concat();
                    if link.sudo {
                        more.push("--rsync-path=sudo -n rsync");
                    }
                    (self.argv(&format!("{destination}:/{}", self.path), &to.path, &more), vec![&to])
                }
                None if from == Access::Read => {
                    let source = left::open(world, &self.host, &self.from).await?;
                    let copied = match self.directory(&source.tree, "original", FROM_HELP) {
                        Ok(from) => {
                            self.between(world, source.volume(&self.from), &from, (&to, &directory), more).await
                        }
                        Err(error) => Err(error),
                    };
                    return source.closing(world, &self.host, copied).await;
                }
                None => {
                    let source = files::open_for(world, &self.host, &self.from, from).await?;
                    let from = self.directory(&source, "original", FROM_HELP)?;
                    return self.between(world, &self.from, &from, (&to, &directory), more).await;
                }
            };
        self.copy(world, &places, argv, &directory).await
    }

    async fn between(
        &self,
        world: &World,
        volume: &VolumeRef,
        from: &OwnedFd,
        (to, directory): (&Place, &OwnedFd),
        more: &[&str],
    ) -> Result<String, StepError> {
        let from = Place::of(world, "from", volume, from)?;
        let argv = self.argv(&from.path, &to.path, more);
        self.copy(world, &[&from, to], argv, directory).await
    }

    async fn copy(
        &self,
        world: &World,
        places: &[&Place],
        argv: Vec<String>,
        to: &OwnedFd,
    ) -> Result<String, StepError> {
        let command = Command::new(argv.clone());
        let patience = Duration::from_secs(24 * 3600);
        let output = world.controller.run(&Command::new(attached(places, argv)).timeout(patience)).await?;
        // 24: files vanished while they were copied; natural while the original runs.
        if output.status == 24 && !self.last {
            return Ok(output.text());
        }
        let text = output.checked(format!("carry /{}", self.path), &command)?.text();
        if self.last {
            // What is journalled as carried survives a power cut.
            rustix::fs::syncfs(to)
                .map_err(|error| hypervisors::Error::io("write the carried files out", error.into()))?;
        }
        Ok(text)
    }
}

/// Mounts each place of `DEVICE POINT TYPE OPTIONS PATH INODE` and becomes what follows `--`.
const ATTACH: &str = r#"while [ "$1" != -- ]; do
    mount -n -t "$3" -o "$4" "$1" "$2"
    [ "$(stat -c %i "$2$5")" = "$6" ] || { echo "$1 has something else at $5" >&2; exit 1; }
    shift 6
done
shift
exec "$@""#;

/// A directory that rsync works in.
///
/// rsync (seen: 3.5.0) resolves the paths it is given, magic links included, and works at what the kernel prints for them.
/// For a directory of a detached mount that is a path from the mount's own root, `/home` say, and leads to the *host's*
/// `/home`. Such a mount is made once more where a path leads to it: in a mount namespace that only rsync sees and that ends
/// with it. No guest runs on it, so nothing moves in it meanwhile; that it is the same directory is looked at all the same.
struct Place {
    /// A path that leads there, read by rsync's namespace.
    path: String,
    /// What [`ATTACH`] has to mount first.
    mount: Vec<String>,
}

impl Place {
    fn of(world: &World, side: &str, volume: &VolumeRef, directory: &OwnedFd) -> Result<Self, StepError> {
        let doing = |error| StepError::Platform(hypervisors::Error::io(format!("find the way into {volume}"), error));
        let errno = |errno: rustix::io::Errno| doing(errno.into());
        let magic = format!("/proc/{}/fd/{}", std::process::id(), directory.as_raw_fd());
        let printed = std::fs::read_link(&magic).map_err(doing)?;
        let here = rustix::fs::fstat(directory).map_err(errno)?;
        let same = |there: std::fs::Metadata| (there.dev(), there.ino()) == (here.st_dev, here.st_ino);
        if std::fs::metadata(&printed).is_ok_and(same) {
            return Ok(Self { path: magic, mount: Vec::new() });
        }
        let read_only = rustix::fs::fstatvfs(directory).map_err(errno)?.f_flag.contains(StatVfsMountFlags::RDONLY);
        let (kind, options) = match (rustix::fs::fstatfs(directory).map_err(errno)?.f_type as u32, read_only) {
            (0xef53, true) => ("ext4", "ro,noload"),
            (0xef53, false) => ("ext4", "rw"),
            (0x5846_5342, true) => ("xfs", "ro,norecovery,nouuid"),
            (0x5846_5342, false) => ("xfs", "rw,nouuid"),
            _ => ("", ""),
        };
        if volume.kind.opens_under_a_guest() || kind.is_empty() {
            return Err(StepError::failed(
                format!("rsync cannot be shown the way into {volume}"),
                "take the carry rule out of the inventory",
            ));
        }
        let point = world.run_dir.join("carry").join(side);
        std::fs::create_dir_all(&point).map_err(doing)?;
        let point = point.to_string_lossy().into_owned();
        let below = printed.to_string_lossy().into_owned();
        let device = volume.path.to_string_lossy().into_owned();
        let options = format!("{options},nosuid,nodev,noexec");
        let path = format!("{point}{below}");
        Ok(Self { path, mount: vec![device, point, kind.to_owned(), options, below, here.st_ino.to_string()] })
    }
}

/// The command in a namespace in which these places are.
fn attached(places: &[&Place], command: Vec<String>) -> Vec<String> {
    if places.iter().all(|place| place.mount.is_empty()) {
        return command;
    }
    let head = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-euc", ATTACH, "sh"].map(str::to_owned);
    let mounts = places.iter().flat_map(|place| place.mount.iter().cloned());
    head.into_iter().chain(mounts).chain(["--".to_owned()]).chain(command).collect()
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
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        if self.last {
            left::forget(world, &self.host, &self.from).await?;
        }
        Ok(Change::Unchanged.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_path_leads_to_is_attached() {
        let rsync = || vec!["rsync".to_owned(), "--".to_owned()];
        let plain = Place { path: "/proc/1/fd/3".into(), mount: Vec::new() };
        assert_eq!(attached(&[&plain], rsync()), rsync());
        let mount = ["/dev/vg1/o", "/run/from", "ext4", "ro,noload", "/home", "12"].map(str::to_owned).to_vec();
        let detached = Place { path: "/run/from/home".into(), mount: mount.clone() };
        let command = attached(&[&detached, &plain], rsync());
        assert!(command.starts_with(&["unshare".to_owned(), "--mount".to_owned()]));
        assert!(command.ends_with(&[mount, vec!["--".to_owned()], rsync()].concat()), "{command:?}");
    }
}
