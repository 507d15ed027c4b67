//! What is measured of batches, on simulated fleets: how near a night comes to the shortest possible one, and what a guest
//! costs the controller among ever more of them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hypervisors::sim::{PER_HOST, Sim};
use integration::cli::Upgradectl;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;
use tempfile::TempDir;

use crate::measure::{MEMORY_OF, binary_path};
use crate::results::Results;

/// Where fleets are made: ten thousand guests are some gigabytes, too many for memory.
const PLACE: &str = "/var/tmp";
/// Nights per ratio.
const NIGHTS: usize = 3;
/// Guests that are worked on at a time.
const PARALLEL: usize = 2;

struct Fleet {
    dir: TempDir,
    product: Upgradectl,
}

impl Fleet {
    fn new(guests: usize) -> Result<Self> {
        let dir = tempfile::tempdir_in(PLACE)?;
        let product = Upgradectl::new(dir.path().join("inventory.toml"), dir.path().join("state"))?;
        product.run(["init", "--sim", "--guests", &guests.to_string()])?.expect(0)?;
        Ok(Self { dir, product })
    }

    fn batch(&self, text: &str) -> Result<String> {
        let path = self.dir.path().join("night.toml");
        fs::write(&path, format!("version = 1\n[batch]\nname = \"night\"\n{text}"))?;
        Ok(path.to_string_lossy().into_owned())
    }
}

/// Twelve guests of very different lengths on two hosts: the night against the least time in which what its guests took
/// could have been done. Once with lengths that the operator says, once with none.
pub fn ideal(_: &(), results: &mut Results) -> Result<()> {
    for (key, said) in [("batch_over_ideal", true), ("batch_over_ideal_unknown_lengths", false)] {
        let mut pairs = Vec::new();
        for night in 0..NIGHTS {
            pairs.push(one_night(night, said)?);
        }
        results.ratio(key, &pairs);
    }
    Ok(())
}

/// Milliseconds of each job, six guests a host: from a moment to a quarter of the night, the long ones last.
const JOBS: [u64; 12] = [60, 200, 120, 400, 1200, 2400, 80, 150, 300, 800, 1000, 2000];

fn one_night(night: usize, said: bool) -> Result<(f64, f64)> {
    let fleet = Fleet::new(PER_HOST + 6)?;
    let mut items = String::new();
    for (index, ms) in JOBS.iter().enumerate() {
        let (host, place) = (index / 6, index % 6);
        let guest = format!("g{:04}", host * PER_HOST + place + 1);
        let world = Sim::open(&fleet.dir.path().join(format!("state/fleet/node{}", host + 1)))?;
        // Other lengths in other nights, of the same sum.
        let ms = if night.is_multiple_of(2) { *ms } else { JOBS[(index / 6) * 6 + (place + night) % 6] };
        world.configure(|config| {
            config.job_ms_of.insert(guest.clone(), ms);
        })?;
        let expected = if said { format!("expected = \"{}s\"\n", ms / 20) } else { String::new() };
        items.push_str(&format!("[[batch.items]]\nguest = \"{guest}\"\n{expected}"));
    }
    let head = "verbs = [\"clone\", \"upgrade\", \"verify\"]\nparallel = 4\nper_host = 2\n";
    let file = fleet.batch(&format!("{head}{items}"))?;
    let took = fleet.product.run(["batch", "run", &file, "--yes"])?.expect(0)?.took;
    let report = fleet.product.run(["--json", "batch", "report", &file])?.expect(0)?;
    let report: Value = serde_json::from_str(&report.stdout)?;
    let lengths: Vec<f64> =
        report["items"].as_array().context("no items")?.iter().filter_map(|item| item["elapsed_s"].as_f64()).collect();
    ensure!(lengths.len() == 12, "{report}");
    let host = |range: std::ops::Range<usize>| lengths[range].iter().sum::<f64>() / 2.0;
    let longest = lengths.iter().copied().fold(0.0, f64::max);
    Ok((took.as_secs_f64(), longest.max(host(0..6)).max(host(6..12))))
}

/// A batch of clones of so many guests: processor seconds and wall seconds of one guest, and the most memory, MiB.
fn cost(guests: usize) -> Result<(f64, f64, f64)> {
    let fleet = Fleet::new(guests)?;
    let file =
        fleet.batch(&format!("verbs = [\"clone\"]\nparallel = {PARALLEL}\n[[batch.items]]\ntag = \"fleet\"\n"))?;
    let inventory = fleet.dir.path().join("inventory.toml");
    let before = processor()?;
    let begun = Instant::now();
    // A process of its own: the most memory that children had is told of all of them together.
    let output = Command::new(std::env::current_exe()?)
        .args([MEMORY_OF, &binary_path()?, "--quiet", "batch", "run", &file, "--yes"])
        .env("UPGRADECTL_INVENTORY", inventory)
        .env("UPGRADECTL_STATE", fleet.product.state())
        .stderr(Stdio::inherit())
        .output()?;
    let wall = begun.elapsed().as_secs_f64();
    let spent = (processor()? - before).as_secs_f64();
    ensure!(output.status.success(), "the batch ended with {}", output.status);
    let words = String::from_utf8(output.stdout)?;
    let kib: f64 = words.lines().last().context("no memory was told")?.trim().parse()?;
    let many = guests as f64;
    Ok((spent / many, wall / many, kib / 1024.0))
}

/// Processor time of all children so far.
fn processor() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let of = |time: nix::sys::time::TimeVal| -> Result<Duration> {
        Ok(Duration::new(time.tv_sec().try_into()?, u32::try_from(time.tv_usec())? * 1000))
    };
    Ok(of(usage.user_time())? + of(usage.system_time())?)
}

/// What one guest of ten thousand, and of a thousand, costs against one of a hundred; and the memory for ten thousand.
pub fn scale(_: &(), results: &mut Results) -> Result<()> {
    ensure!(Path::new(PLACE).is_dir(), "there is no {PLACE}");
    // The first one warms the caches.
    cost(100)?;
    let hundred = cost(100)?;
    let thousand = cost(1000)?;
    let ten_thousand = cost(10_000)?;
    results.ratio("batch_cost_ratio_1000_over_100", &[(thousand.0, hundred.0)]);
    results.ratio("batch_cost_ratio_10000_over_100", &[(ten_thousand.0, hundred.0)]);
    results.ratio("batch_wall_ratio_10000_over_100", &[(ten_thousand.1, hundred.1)]);
    results.single("batch_rss_mib_100", &[hundred.2]);
    results.single("batch_rss_mib_10000", &[ten_thousand.2]);
    Ok(())
}
