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

/// What ends the controller at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `kill -9`.
    Kills,
    /// The machine is gone, and with it what was in its memory.
    PowerCuts,
}

/// Keeps the figures of a test; `tmp`: its `$CARGO_TARGET_TMPDIR`.
///
/// # Errors
/// They cannot be written.
pub fn count(tmp: &str, backend: &str, verb: &str, test: &str, figures: Figures) -> Result<()> {
    let Figures { points, hit, resumed_ok, aborted_ok } = figures;
    note(tmp, test, &format!("{backend} {verb} {points} {hit} {resumed_ok} {aborted_ok}\n"))
}

/// Keeps how often a test ended the controller, and after how many of these a way out was gone to where it leads.
///
/// # Errors
/// They cannot be written.
pub fn count_ends(tmp: &str, end: End, test: &str, tried: usize, survived: usize) -> Result<()> {
    let name = match end {
        End::Kills => "kills",
        End::PowerCuts => "power_cuts",
    };
    note(tmp, &format!("{test}-{name}"), &format!("{name} {tried} {survived}\n"))
}

fn note(tmp: &str, test: &str, line: &str) -> Result<()> {
    let dir = Path::new(tmp).join("crash");
    fs::create_dir_all(&dir)?;
    let file = dir.join(test.replace("::", "-"));
    fs::write(&file, line).with_context(|| format!("writing {}", file.display()))
}
