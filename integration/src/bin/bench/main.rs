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
//! Copying file systems (real dump, restore and sshd; ext4 on loop devices), pairs `[hand, product]`:
//!
//! ```text
//! dump_over_pipeline       our throughput against the bare `ssh … dump | restore`, one file system
//! dump_parallel_over_bare  the same, three beside each other against three bare pipelines beside each other
//! dump_parallel_speedup    ours: three after each other against three beside each other
//! dump_rss_mib             the most memory it had while 4 GiB were moved, MiB
//! ```
//!
//! Batches of simulated guests (the better part of an hour; only if they are named, `batch` names them all). Costs are
//! processor seconds of the controller, pairs `[many, hundred]` of one guest:
//!
//! ```text
//! batch_over_ideal                 a night of twelve guests of very different lengths on two hosts against the shortest possible
//! batch_over_ideal_unknown_lengths the same, if nobody says what they take
//! batch_cost_ratio_10000_over_100  what cloning one guest of ten thousand costs against one of a hundred; 1000 likewise
//! batch_wall_ratio_10000_over_100  the same by the clock
//! batch_rss_mib_10000              the most memory with ten thousand guests, MiB; 100 likewise
//! ```
//!
//! On the emulated Xen host, with a guest that boots (minutes a sample; only if they are named, `xen` names them all):
//!
//! ```text
//! xen_commands                  how many commands a verb runs, what part of its time they run, and the slowest programs
//! xen_clone_over_script         `clone mercure` against `integration/bench/clone-xen-by-hand`
//! xen_outage_clone_origin_s     mercure's outage in `clone` with strategy `origin`, seen from outside, seconds
//! xen_outage_promote_over_hand  mercure's outage in `promote` against `virsh shutdown`, wait, `virsh start`
//! virtclone_over_us             `virt-clone` and `virt-sysprep` (of Debian, installed for it) against `clone mercure`
//! ```
//!
//! `bench [KEY…]` measures these alone. `UPGRADECTL_LAB_NUMBER` chooses another native lab than 0, and a standing dom0 lab
//! instead of one that is built and taken down.

mod batch;
mod copying;
mod measure;
mod prober;
mod results;
mod xen;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use integration::dom0::{Dom0, Toolstack, ring};
use integration::lab::Lab;
use results::Results;

/// A measurement and the key it is written under.
type Measurement<L> = (&'static str, fn(&L, &mut Results) -> Result<()>);

/// On the native lab.
const NATIVE: &[Measurement<Lab>] = &[
    ("binary_mib", measure::binary),
    ("clone_over_script", measure::clone),
    ("outage_over_hand", measure::outage),
    ("status_ms", measure::status),
    ("peak_rss_mib", measure::memory),
];

/// On file systems of this machine.
const COPYING: &[Measurement<()>] = &[
    ("dump_over_pipeline", copying::single),
    ("dump_parallel_over_bare", copying::beside),
    ("dump_parallel_speedup", copying::speedup),
    ("dump_rss_mib", copying::memory),
];

/// On simulated fleets.
const FLEETS: &[Measurement<()>] =
    &[("batch_over_ideal", batch::ideal), ("batch_cost_ratio_10000_over_100", batch::scale)];

/// All of [`FLEETS`].
const ALL_OF_FLEETS: &str = "batch";

/// On the dom0 lab.
const XEN: &[Measurement<Dom0>] = &[
    ("xen_commands", xen::commands),
    ("xen_clone_over_script", xen::clone),
    ("xen_outage_clone_origin_s", xen::origin),
    ("xen_outage_promote_over_hand", xen::outage),
    ("virtclone_over_us", xen::virt_clone),
];

/// All of [`XEN`].
const ALL_OF_XEN: &str = "xen";

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((measure::MEMORY_OF, command)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return measure::memory_of(command);
    }
    if let Some((copying::COPY, asked)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return copying::copy(asked);
    }
    let known = NATIVE
        .iter()
        .map(|(key, _)| *key)
        .chain(COPYING.iter().map(|(key, _)| *key))
        .chain(XEN.iter().map(|(key, _)| *key))
        .chain(FLEETS.iter().map(|(key, _)| *key))
        .chain([ALL_OF_XEN, ALL_OF_FLEETS]);
    let known: Vec<&str> = known.collect();
    for key in &args {
        ensure!(known.contains(&key.as_str()), "there is no measurement {key}; there are {}", known.join(", "));
    }
    let named = |key: &str| args.iter().any(|wanted| wanted == key);
    let number = std::env::var("UPGRADECTL_LAB_NUMBER").ok();
    let mut results = Results::read()?;

    let lab = Lab::numbered(number.as_deref().unwrap_or("0").parse().context("UPGRADECTL_LAB_NUMBER is no number")?)?;
    let wanted = NATIVE.iter().filter(|(key, _)| args.is_empty() || named(key));
    measure_all(wanted, &lab, &mut results)?;

    let wanted = COPYING.iter().filter(|(key, _)| args.is_empty() || named(key));
    measure_all(wanted, &(), &mut results)?;

    let wanted = FLEETS.iter().filter(|(key, _)| named(key) || named(ALL_OF_FLEETS));
    measure_all(wanted, &(), &mut results)?;

    let wanted: Vec<_> = XEN.iter().filter(|(key, _)| named(key) || named(ALL_OF_XEN)).collect();
    if !wanted.is_empty() {
        let dom0 = ring::standing(Toolstack::Libvirt)?;
        let measured = measure_all(wanted.into_iter(), &dom0, &mut results);
        if number.is_none() {
            dom0.down()?;
        }
        measured?;
    }

    let missed = results.missed();
    if !missed.is_empty() {
        bail!("missed: {}", missed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn measure_all<'a, L: 'a>(
    wanted: impl Iterator<Item = &'a Measurement<L>>,
    lab: &L,
    results: &mut Results,
) -> Result<()> {
    for (key, measurement) in wanted {
        measurement(lab, results).with_context(|| format!("measuring {key}"))?;
        results.write()?;
    }
    Ok(())
}
