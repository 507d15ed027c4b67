//! `make bench`: measures the product on labs of this machine and writes `target/bench.json`.
//!
//! One object; a run replaces only the keys it measured. Beside each key, `KEY_samples` has the raw samples; for a ratio
//! these are pairs `[product, hand]` in seconds, taken in turn, and the key is the median of their quotients.
//!
//! ```text
//! clone_over_script  `clone tiny` against `integration/bench/clone-by-hand`, the same work without checks and without undo
//! outage_over_hand   tiny's outage in `promote`, seen by a prober outside, against `virsh shutdown`, wait, `virsh start`
//! status_ms          `status` with three open runs, milliseconds
//! peak_rss_mib       the most memory the product had over a clone and a Debian upgrade of tiny, MiB
//! binary_mib         size of the program, MiB
//! ```
//!
//! `bench [KEY…]` measures these alone. `UPGRADECTL_LAB_NUMBER` chooses another lab than 0.

mod measure;
mod prober;
mod results;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use integration::lab::Lab;
use results::Results;

/// A measurement and the key it is written under.
type Measurement = (&'static str, fn(&Lab, &mut Results) -> Result<()>);

const ALL: [Measurement; 5] = [
    ("binary_mib", measure::binary),
    ("clone_over_script", measure::clone),
    ("outage_over_hand", measure::outage),
    ("status_ms", measure::status),
    ("peak_rss_mib", measure::memory),
];

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((measure::MEMORY_OF, command)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return measure::memory_of(command);
    }
    for key in &args {
        ensure!(ALL.iter().any(|(known, _)| known == key), "there is no measurement {key}");
    }
    let number = std::env::var("UPGRADECTL_LAB_NUMBER").unwrap_or_else(|_| "0".to_owned());
    let lab = Lab::numbered(number.parse().context("UPGRADECTL_LAB_NUMBER is not a number")?)?;
    let mut results = Results::read()?;
    for (key, measurement) in ALL {
        if args.is_empty() || args.iter().any(|wanted| wanted == key) {
            measurement(&lab, &mut results).with_context(|| format!("measuring {key}"))?;
            results.write()?;
        }
    }
    let missed = results.missed();
    if !missed.is_empty() {
        bail!("missed: {}", missed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}
