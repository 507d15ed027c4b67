//! What the crash proof counts: every test of it leaves its figures in a file of its own below `target/tmp/crash`, from
//! which `integration/test` makes `target/crash.json`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The figures of one test.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Instants at which something can strike.
    pub points: usize,
    /// Strikes that hit the instant they were meant for, one after the other, of each kind.
    pub hit: usize,
    /// After how many of them `resume` (or the verb again) led to where the verb leads.
    pub resumed_ok: usize,
    /// After how many of them `abort` led back to the original; where it is rightly refused, going on counts.
    pub aborted_ok: usize,
}

/// Keeps the figures of a test; `tmp`: its `$CARGO_TARGET_TMPDIR`.
///
/// # Errors
/// They cannot be written.
pub fn count(tmp: &str, backend: &str, verb: &str, test: &str, figures: Figures) -> Result<()> {
    let dir = Path::new(tmp).join("crash");
    let Figures { points, hit, resumed_ok, aborted_ok } = figures;
    fs::create_dir_all(&dir)?;
    let file = dir.join(test.replace("::", "-"));
    fs::write(&file, format!("{backend} {verb} {points} {hit} {resumed_ok} {aborted_ok}\n"))
        .with_context(|| format!("writing {}", file.display()))
}
