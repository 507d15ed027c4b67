//! Guest images: a Debian root per directory of `integration/guests`, built once and kept as a tar file in the
//! [`cache`](crate::cache).

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache;
use crate::root::{self, Format};

/// The tar file of an image, built now if the cache does not have it.
///
/// # Errors
/// mmdebstrap failed: no mirror, or a mistake in the image's directory.
pub fn tar(image: &str) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests").join(image);
    cache::kept(image, &root::hash(&source, Format::Tar)?, ".tar", |unfinished| {
        eprintln!("lab: building the image {image}: a minute, once");
        root::build(&source, Format::Tar, unfinished)
    })
}
