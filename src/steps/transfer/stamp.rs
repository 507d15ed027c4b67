//! What is known of each file system's copy, on the machine of the tree: so it goes with the tree, and a controller that lost its
//! own state finds it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hypervisors::Host;
use hypervisors::host::Command;
use serde::{Deserialize, Serialize};

use super::{Moved, Transfer};
use crate::steps::StepError;

/// Largest stamp that is read.
const LIMIT: u64 = 64 << 10;

/// What a finished copy is a copy of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Name of the server.
    pub source: String,
    /// Mount point there.
    pub mount: PathBuf,
    /// Device there.
    pub device: String,
    /// Tree the copy is in.
    pub root: PathBuf,
    /// The dump's date as it told it, for a later level.
    pub date: Option<String>,
    /// Bytes that flowed.
    pub bytes: u64,
}

impl Stamp {
    pub(super) fn is_of(&self, step: &Transfer, moved: &Moved) -> bool {
        self.source == step.source.name
            && (&self.mount, &self.device, &self.root) == (&moved.mount, &moved.device, &step.root)
    }
}

/// The name of a mount point in files: no two have the same.
pub(super) fn name(mount: &Path) -> String {
    let bytes = mount.as_os_str().as_bytes();
    let below = bytes.strip_prefix(b"/").unwrap_or(bytes);
    if below.is_empty() {
        return "@root".into();
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let part = |byte: &u8| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") };
    below.iter().map(part).collect()
}

/// The directory of stamps.
pub(super) struct Stamps {
    host: Arc<dyn Host>,
    directory: PathBuf,
}

impl Stamps {
    pub(super) fn new(host: Arc<dyn Host>, directory: PathBuf) -> Self {
        Self { host, directory }
    }

    fn path(&self, moved: &Moved, what: &str) -> PathBuf {
        self.directory.join(format!("{}.{what}", name(&moved.mount)))
    }
    fn of_level(&self, moved: &Moved, level: u8, what: &str) -> PathBuf {
        self.path(moved, &format!("{level}.{what}"))
    }
    /// TMPDIR of its restore.
    pub(super) fn temporary(&self, moved: &Moved) -> PathBuf {
        self.path(moved, "tmp")
    }

    async fn sh(&self, doing: &str, script: &str, paths: &[PathBuf]) -> Result<(), StepError> {
        let mut argv = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned(), "sh".to_owned()];
        for path in paths {
            let text = path.to_str().ok_or_else(|| hypervisors::Error::refused(doing, "a path is not UTF-8"))?;
            argv.push(text.to_owned());
        }
        let command = Command::new(argv);
        self.host.run(&command).await?.checked(doing, &command)?;
        Ok(())
    }

    /// Makes the directory.
    pub(super) async fn make_room(&self) -> Result<(), StepError> {
        let doing = format!("make {} on {}", self.directory.display(), self.host.name());
        self.sh(&doing, "umask 077; mkdir -p -- \"$1\"", std::slice::from_ref(&self.directory)).await
    }

    /// A finished copy's stamp. One that cannot be read is none.
    pub(super) async fn done(&self, moved: &Moved, level: u8) -> Result<Option<Stamp>, StepError> {
        let bytes = self.host.read_file(&self.of_level(moved, level, "done"), LIMIT).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
    /// Whether it was begun, and is not done.
    pub(super) async fn is_begun(&self, moved: &Moved, level: u8) -> Result<bool, StepError> {
        Ok(self.host.read_file(&self.of_level(moved, level, "begun"), LIMIT).await?.is_some())
    }
    /// From here on its directory may hold anything.
    pub(super) async fn begin(&self, moved: &Moved, level: u8) -> Result<(), StepError> {
        self.host.write_file(&self.of_level(moved, level, "begun"), b"\n", 0o600).await?;
        Ok(())
    }
    /// Its directory holds the copy.
    pub(super) async fn finish(&self, moved: &Moved, level: u8, stamp: &Stamp) -> Result<(), StepError> {
        let text = serde_json::to_vec_pretty(stamp).map_err(|error| StepError::Memory(error.to_string()))?;
        self.host.write_file(&self.of_level(moved, level, "done"), &text, 0o600).await?;
        let doing = format!("close the copy of {} on {}", moved.mount.display(), self.host.name());
        let paths = [self.of_level(moved, level, "begun"), self.temporary(moved)];
        self.sh(&doing, "rm -f -- \"$1\"; rm -rf -- \"$2\"", &paths).await
    }
    /// Its directory was emptied: what was copied into it, or into directories below, is gone.
    pub(super) async fn forget(&self, moved: &Moved) -> Result<(), StepError> {
        let doing = format!("forget the copy of {} on {}", moved.mount.display(), self.host.name());
        let name = name(&moved.mount);
        match name.as_str() {
            "@root" => self.sh(&doing, "rm -f -- \"$1\"/*.done", std::slice::from_ref(&self.directory)).await,
            _ => self.sh(&doing, "rm -f -- \"$1\".?.done \"$1\"%2f*.done", &[self.directory.join(name)]).await,
        }
    }

    /// Whether `.snap` on the server is ours to remove.
    pub(super) async fn made_snap(&self, moved: &Moved) -> Result<bool, StepError> {
        Ok(self.host.read_file(&self.path(moved, "snap"), LIMIT).await?.is_some())
    }
    /// `.snap` will be ours.
    pub(super) async fn makes_snap(&self, moved: &Moved) -> Result<(), StepError> {
        self.host.write_file(&self.path(moved, "snap"), b"\n", 0o600).await?;
        Ok(())
    }
    /// It is no more.
    pub(super) async fn unmade_snap(&self, moved: &Moved) -> Result<(), StepError> {
        let doing = format!("forget .snap of {} on {}", moved.mount.display(), self.host.name());
        self.sh(&doing, "rm -f -- \"$1\"", &[self.path(moved, "snap")]).await
    }
}
