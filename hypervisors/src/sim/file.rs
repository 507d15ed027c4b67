//! The files of the world: read as a whole, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Cause, Error, Result};

/// A file of the world is never larger.
pub(super) const FILE_LIMIT: u64 = 16 << 20;

/// A file's bytes, `None` if it does not exist, an error if it is larger than `limit`.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(Some(bytes))
}

/// Replaces a file by rename, keeping it whole at every instant (of this kernel; there is no fsync).
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let doing = || format!("read {}", path.display());
    let Some(bytes) = read_bounded(path, FILE_LIMIT).map_err(|error| Error::io(doing(), error))? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::new(doing(), Cause::Malformed(error.to_string())))
}

pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::new(doing(), Cause::Malformed(error.to_string())))?;
    text.push('\n');
    replace(path, text.as_bytes()).map_err(|error| Error::io(doing(), error))
}
