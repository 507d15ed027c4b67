//! `target/bench.json`: what was measured, the samples beside it, and what was hoped for.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

/// The most that a key may be.
const TARGETS: [(&str, f64); 10] = [
    ("batch_over_ideal", 1.15),
    ("batch_cost_ratio_10000_over_100", 1.2),
    ("batch_rss_mib_10000", 200.0),
    ("clone_over_script", 1.10),
    ("outage_over_hand", 1.10),
    ("status_ms", 15.0),
    ("peak_rss_mib", 40.0),
    ("dump_rss_mib", 64.0),
    ("xen_clone_over_script", 1.10),
    ("xen_outage_promote_over_hand", 1.10),
];

/// The least that a key has to be.
const LEAST: [(&str, f64); 3] =
    [("virtclone_over_us", 5.0), ("dump_over_pipeline", 0.95), ("dump_parallel_over_bare", 0.95)];

/// The file, with what this run has measured so far.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    values: Map<String, Value>,
    measured: Vec<&'static str>,
}

impl Results {
    /// The file as it is; nothing measured yet.
    pub fn read() -> Result<Results> {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let path = target.join("bench.json");
        let values = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        Ok(Results { path, values, measured: Vec::new() })
    }

    /// Writes the file.
    pub fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.values)? + "\n";
        fs::write(&self.path, text).with_context(|| format!("writing {}", self.path.display()))
    }

    /// Keeps the median of single samples.
    pub fn single(&mut self, key: &'static str, samples: &[f64]) {
        self.keep(key, median(samples.to_vec()), json!(samples.iter().copied().map(rounded).collect::<Vec<_>>()));
    }

    /// Keeps the median quotient of pairs: `(product, hand)` in seconds; or `(hand, product)`, which is what each moved in a second.
    pub fn ratio(&mut self, key: &'static str, pairs: &[(f64, f64)]) {
        let quotients = pairs.iter().map(|(above, below)| above / below).collect();
        let samples: Vec<[f64; 2]> = pairs.iter().map(|(a, b)| [rounded(*a), rounded(*b)]).collect();
        self.keep(key, median(quotients), json!(samples));
    }

    /// Keeps something that is no number.
    pub fn record(&mut self, key: &'static str, value: Value) {
        println!("{key:<28} {value}");
        self.values.insert(key.to_owned(), value);
    }

    fn keep(&mut self, key: &'static str, value: f64, samples: Value) {
        let hoped = match (of(&TARGETS, key), of(&LEAST, key)) {
            (Some(most), _) => format!("  (at most {most:.2})"),
            (None, Some(least)) => format!("  (at least {least:.2})"),
            (None, None) => String::new(),
        };
        println!("{key:<28} {value:>8.2}{hoped}");
        self.values.insert(key.to_owned(), json!((value * 100.0).round() / 100.0));
        self.values.insert(format!("{key}_samples"), samples);
        self.measured.push(key);
    }

    /// The keys measured now that are above what they may be, or below what they have to be.
    pub fn missed(&self) -> Vec<&'static str> {
        let missed = |key: &str| {
            let Some(value) = self.values[key].as_f64() else { return true };
            of(&TARGETS, key).is_some_and(|most| value > most) || of(&LEAST, key).is_some_and(|least| value < least)
        };
        self.measured.iter().copied().filter(|key| missed(key)).collect()
    }
}

fn of(hopes: &[(&str, f64)], key: &str) -> Option<f64> {
    hopes.iter().find(|(known, _)| *known == key).map(|(_, hope)| *hope)
}

/// To a thousandth: the samples are seconds or larger numbers.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    match samples.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => samples[middle],
        _ => f64::midpoint(samples[middle - 1], samples[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_of_odd_and_even() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
