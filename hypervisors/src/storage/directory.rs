//! Plain directories: copied with `cp` (reflinked where the file system can), which takes its guest's pause.
//!
//! A copy keeps owners, modes, ACLs, xattrs, hard links, times and holes; file attributes of `chattr(1)` are not kept. What is
//! mounted beneath a source is not part of it, so such a source is refused; removal never crosses a mount.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;

use super::marked::{TreeKind, TreeStorage, free_and_used, mounted_beneath, on_btrfs};
use super::{VolumeFacts, VolumeKind};
use crate::host::Command;
use crate::{Error, Host, Result};

/// The driver for plain directories.
pub type DirectoryStorage = TreeStorage<Directory>;

/// A copy may take long; it ends by itself or with its controller.
const COPY: Duration = Duration::from_secs(24 * 3600);
const DELETE: Duration = Duration::from_secs(2 * 3600);
/// How long counting the used space may take before the whole file system's use stands in for it.
const COUNT: Duration = Duration::from_secs(60);
/// Bytes a second that a copy, and a reflinked copy, are expected to do at least.
const COPY_RATE: f64 = 150e6;
const REFLINK_RATE: f64 = 2e9;

/// What a plain directory does in its own way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Directory;

#[async_trait]
impl TreeKind for Directory {
    const KIND: VolumeKind = VolumeKind::Directory;

    async fn look(&self, host: &dyn Host, path: &str) -> Result<VolumeFacts> {
        let doing = format!("inspect {path}");
        let (free_bytes, used_there) = free_and_used(Path::new(path)).map_err(|error| Error::io(&doing, error))?;
        let reflinks = on_btrfs(Path::new(path)).map_err(|error| Error::io(&doing, error))?;
        let count = Command::new(["du", "-s", "--block-size=1", "--", path]).timeout(COUNT);
        let used_bytes = match host.run(&count).await {
            // Its status tells of files that vanished meanwhile, which a living guest's do; the sum is still printed.
            Ok(output) => output.text().split('\t').next().and_then(|number| number.parse::<u64>().ok()),
            Err(error) if error.is_unknown() => None,
            Err(error) => return Err(error),
        };
        let bytes = used_bytes.unwrap_or(used_there);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let pause_s = 1.0 + bytes as f64 / if reflinks { REFLINK_RATE } else { COPY_RATE };
        Ok(VolumeFacts {
            used_bytes,
            free_bytes,
            snapshot_bytes: if reflinks { 0 } else { bytes },
            pause_s,
            nested: Vec::new(),
            fill_percent: None,
            mark: None,
            block: None,
        })
    }

    async fn empty(&self, _host: &dyn Host, path: &str) -> Result<()> {
        std::fs::create_dir(path).map_err(|error| Error::io(format!("make {path}"), error))
    }

    async fn copy(&self, host: &dyn Host, from: &str, to: &str) -> Result<()> {
        let doing = format!("copy {from} to {to}");
        if let Some(point) = mounted_beneath(Path::new(from), false).map_err(|error| Error::io(&doing, error))? {
            let point = crate::host::printable(&point.display().to_string());
            return Err(Error::refused(doing, format!("something is mounted on {point}"))
                .help("unmount it here, or declare it as a disk of the guest"));
        }
        // `-a` alone forgives lost xattrs; naming them does not.
        let options = ["-a", "--preserve=xattr", "--reflink=auto", "--sparse=auto", "-T", "--"];
        let command = Command::new(["cp"].into_iter().chain(options).chain([from, to])).timeout(COPY);
        host.run(&command).await?.checked(doing, &command).map(drop)
    }

    async fn delete(&self, host: &dyn Host, path: &str) -> Result<()> {
        let command = Command::new(["rm", "-rf", "--one-file-system", "--", path]).timeout(DELETE);
        host.run(&command).await?.checked(format!("remove {path}"), &command).map(drop).map_err(|error| {
            error.help(format!("files with the immutable attribute keep it there: chattr -R -ia {path}"))
        })
    }
}
