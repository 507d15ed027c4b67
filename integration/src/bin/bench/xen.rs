//! What is measured on the dom0 lab, and how: mercure boots there, on a thick volume, under libvirt.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use integration::cli::Said;
use integration::dom0::guest::{LEAST, MERCURE};
use integration::dom0::tale::{CLONE, Tale, Thickness};
use integration::dom0::{Dom0, Toolstack, ring, session};
use integration::lab::look::until;
use serde_json::{Value, json};

use crate::prober::{EMULATED, Prober};
use crate::results::Results;

/// Pairs per ratio.
const PAIRS: usize = 2;

/// What Debian has for the same purpose.
const PACKAGES: &str = "virtinst guestfs-tools";

/// What they make is waited for so many times as long as ours took: their appliance is a machine emulated in an emulated one
/// here. The figure is a lower bound then, and marked as one.
const LONG_ENOUGH: f64 = 10.0;

/// The clone's name where somebody else makes it.
const BY_HAND: &str = "byhand";

/// mercure, booted, on a host with nothing else, cloned by a strategy. The upgrade is a program that does nothing: both
/// sides boot the same system.
fn mercure<'a>(dom0: &'a Dom0, strategy: &str) -> Result<Tale<'a>> {
    ring::tidy(dom0)?;
    let tale = Tale::begin(dom0, Toolstack::Libvirt, Thickness::Thick, LEAST)?;
    tale.inventory(&format!(
        "kernel = \"host\"
upgrade = {{ recipe = \"script\", run = [\"true\"] }}
clone = {{ ip = [\".16\"], strategy = \"{strategy}\" }}"
    ))?;
    tale.start()?;
    Ok(tale)
}

/// The commands of every verb of a run with strategy `snapshot`.
pub fn commands(dom0: &Dom0, results: &mut Results) -> Result<()> {
    let _tale = mercure(dom0, "snapshot")?;
    let mut verbs = serde_json::Map::new();
    for verb in ["clone", "upgrade", "verify", "promote", "rollback", "abort"] {
        let said =
            dom0.upgradectl_with(&["UPGRADECTL_LOG=hypervisors=debug"], [verb, MERCURE.name, "--yes"])?.expect(0)?;
        verbs.insert(verb.to_owned(), share(&said).with_context(|| format!("what {verb} logged"))?);
    }
    results.record("xen_commands", Value::Object(verbs));
    Ok(())
}

/// A command in the product's own log: when it ended, in seconds since midnight, how long it took, and which program it was.
#[derive(Debug, PartialEq)]
struct Ran {
    ended: f64,
    took: f64,
    program: String,
}

/// Reads a line of the log: `2026-11-26T02:30:25.853960Z DEBUG … command host="trolls" argv=["blkid", …] … elapsed_ms=157`.
fn ran(line: &str) -> Option<Ran> {
    let (stamp, rest) = line.split_once(' ')?;
    let time = stamp.split_once('T')?.1.strip_suffix('Z')?;
    let ended = time.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))?;
    let took = rest.rsplit_once("elapsed_ms=")?.1.trim().parse::<f64>().ok()? / 1000.0;
    let program = rest.split_once("argv=[\"")?.1.split('"').next()?.to_owned();
    let host = rest.split_once("host=\"")?.1.split('"').next()?;
    Some(Ran { ended, took, program: format!("{program} on {host}") })
}

/// How many commands a verb ran, for what part of its time at least one ran, and the three that took most of it.
fn share(said: &Said) -> Result<Value> {
    let mut all: Vec<Ran> = said.stderr.lines().filter_map(ran).collect();
    ensure!(!all.is_empty(), "there is no command in it: {said}");
    let mut programs = BTreeMap::<String, f64>::new();
    for one in &all {
        *programs.entry(one.program.clone()).or_default() += one.took;
    }
    let mut slowest: Vec<(String, f64)> = programs.into_iter().collect();
    slowest.sort_by(|one, other| other.1.total_cmp(&one.1));
    let slowest: Vec<String> = slowest.iter().take(3).map(|(program, took)| format!("{program} {took:.1} s")).collect();
    let took = said.took.as_secs_f64();
    Ok(json!({
        "commands": all.len(),
        "seconds": (took * 10.0).round() / 10.0,
        "share": (busy(&mut all) / took * 100.0).round() / 100.0,
        "slowest": slowest,
    }))
}

/// The time in which at least one of them ran, in seconds.
fn busy(all: &mut [Ran]) -> f64 {
    all.sort_by(|one, other| (one.ended - one.took).total_cmp(&(other.ended - other.took)));
    let mut until = f64::NEG_INFINITY;
    let mut busy = 0.0;
    for one in all.iter() {
        let begun = (one.ended - one.took).max(until);
        busy += (one.ended - begun).max(0.0);
        until = until.max(one.ended);
    }
    busy
}

/// `clone` against the script, in turn, each beside the running original.
pub fn clone(dom0: &Dom0, results: &mut Results) -> Result<()> {
    let tale = mercure(dom0, "snapshot")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/clone-xen-by-hand");
    std::fs::copy(script, dom0.share("clone-by-hand"))?;
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        let said = tale.verb("clone", &[])?;
        tale.verb("abort", &["--yes"])?;
        let begun = Instant::now();
        dom0.output(["/share/clone-by-hand", MERCURE.name, &MERCURE.address(), CLONE, BY_HAND, "/root/by-hand"])?;
        pairs.push((said.took.as_secs_f64(), begun.elapsed().as_secs_f64()));
        ensure!(
            dom0.output(["grep", "-c", "enabled", "/root/by-hand/baseline"])? != "0",
            "the script took no baseline"
        );
        dom0.virsh(["destroy", BY_HAND])?;
        forget_by_hand(dom0)?;
    }
    results.ratio("xen_clone_over_script", &pairs);
    Ok(())
}

/// Removes the clone that the product did not make.
fn forget_by_hand(dom0: &Dom0) -> Result<()> {
    dom0.virsh(["undefine", BY_HAND])?;
    // The disk backend lets go of it a moment after the guest is gone.
    dom0.sh(&format!(
        "rm -rf /root/by-hand; for try in 1 2 3 4 5; do lvremove -qy vg1/{BY_HAND} && exit; sleep 2; done; exit 1"
    ))
    .map(drop)
}

/// The outage of `clone` where the original moves to a snapshot: it goes down for it.
pub fn origin(dom0: &Dom0, results: &mut Results) -> Result<()> {
    let tale = mercure(dom0, "origin")?;
    let original = session::forward(dom0, &format!("{}:22", MERCURE.address()))?;
    let mut samples = Vec::new();
    for _ in 0..PAIRS {
        let prober = Prober::watch(original, EMULATED)?;
        tale.verb("clone", &["--yes"])?;
        samples.push(prober.longest_gap()?);
        tale.verb("abort", &["--yes"])?;
        dom0.wait_for_guest(&MERCURE)?;
    }
    results.single("xen_outage_clone_origin_s", &samples);
    Ok(())
}

/// The outage of `promote` against stopping and starting the same guest by hand.
pub fn outage(dom0: &Dom0, results: &mut Results) -> Result<()> {
    let tale = mercure(dom0, "snapshot")?;
    let original = session::forward(dom0, &format!("{}:22", MERCURE.address()))?;
    for verb in ["clone", "upgrade"] {
        tale.verb(verb, &[])?;
    }
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        tale.verb("verify", &[])?;
        let prober = Prober::watch(original, EMULATED)?;
        tale.verb("promote", &["--yes"])?;
        let promoted = prober.longest_gap()?;
        tale.verb("rollback", &["--yes"])?;
        dom0.wait_for_guest(&MERCURE)?;

        let prober = Prober::watch(original, EMULATED)?;
        dom0.virsh(["shutdown", MERCURE.name])?;
        while dom0.virsh(["domstate", MERCURE.name])? != "shut off" {
            std::thread::sleep(Duration::from_millis(200));
        }
        // libvirt may say "shut off" while it still puts the domain away.
        until(Duration::from_secs(30), || dom0.virsh(["start", MERCURE.name]))?;
        dom0.wait_for_guest(&MERCURE)?;
        pairs.push((promoted, prober.longest_gap()?));
    }
    results.ratio("xen_outage_promote_over_hand", &pairs);
    Ok(())
}

/// What Debian's own tools take for a second guest with a name and address of its own, against `clone`. They want the
/// original to be off for the whole copy; the product's guest goes on. Theirs is not even started here, ours has booted.
pub fn virt_clone(dom0: &Dom0, results: &mut Results) -> Result<()> {
    // Their triggers would make an initrd, for half an hour.
    dom0.sh(&format!(
        "export DEBIAN_FRONTEND=noninteractive
        sed -i s/=yes/=no/ /etc/initramfs-tools/update-initramfs.conf
        dpkg --status {PACKAGES} > /dev/null 2>&1 || {{ apt-get update -qq; apt-get install -qq -y --no-install-recommends {PACKAGES}; }}"
    ))?;
    let tale = mercure(dom0, "snapshot")?;
    let said = tale.verb("clone", &[])?;
    tale.verb("abort", &["--yes"])?;
    dom0.virsh(["shutdown", MERCURE.name])?;
    while dom0.virsh(["domstate", MERCURE.name])? != "shut off" {
        std::thread::sleep(Duration::from_millis(200));
    }
    let begun = Instant::now();
    let (device, original) = (dom0.vg().device(BY_HAND), MERCURE.address());
    dom0.vg().thick(BY_HAND, LEAST)?;
    dom0.output([
        "virt-clone",
        "--quiet",
        "--connect",
        "xen:///system",
        "--original",
        MERCURE.name,
        "--name",
        BY_HAND,
        "--file",
        &device,
        "--check",
        "path_exists=off",
    ])?;
    // Its appliance gets what memory dom0 has to spare.
    let edit = |file: &str| format!("{file}:s/{}/{CLONE}/", original.replace('.', "\\."));
    let interfaces = edit("/etc/network/interfaces");
    let left = LONG_ENOUGH * said.took.as_secs_f64() - begun.elapsed().as_secs_f64();
    let sysprep = dom0.run([
        "timeout",
        &format!("{:.0}", left.max(1.0)),
        "env",
        "LIBGUESTFS_BACKEND=direct",
        "LIBGUESTFS_MEMSIZE=400",
        "virt-sysprep",
        "--quiet",
        "--format",
        "raw",
        "--add",
        &device,
        "--hostname",
        BY_HAND,
        "--edit",
        &interfaces,
        "--edit",
        &edit("/etc/hosts"),
    ])?;
    let theirs = begun.elapsed().as_secs_f64();
    let ended = sysprep.code == 124;
    if ended {
        eprintln!("virt-sysprep was ended after {theirs:.0} s: virtclone_over_us is a lower bound");
    } else {
        let made =
            sysprep.expect(0).and_then(|_| dom0.vg().mounted(BY_HAND, "cat etc/hostname etc/network/interfaces"))?;
        ensure!(made.starts_with(BY_HAND) && made.contains(CLONE), "what they made: {made}");
    }
    forget_by_hand(dom0)?;
    results.ratio("virtclone_over_us", &[(theirs, said.took.as_secs_f64())]);
    results.record("virtclone_is_lower_bound", json!(ended));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_their_time_is_counted_once() {
        let line = |at: &str, ms: u32| {
            format!(
                "2026-11-26T02:30:{at}Z DEBUG hypervisors::host::record: command host=\"trolls\" argv=[\"lvs\", \"-a\"] status=Some(0) elapsed_ms={ms}"
            )
        };
        let first = ran(&line("25.500000", 500)).unwrap_or_else(|| panic!("a command"));
        assert_eq!(first, Ran { ended: 9025.5, took: 0.5, program: "lvs on trolls".into() });
        assert_eq!(ran("mercure is cloned"), None);
        let mut all = vec![first];
        // One within it, one that overlaps, one after a pause.
        all.extend(
            ["25.400000", "26.000000", "28.000000"]
                .iter()
                .zip([100, 700, 1000])
                .filter_map(|(at, ms)| ran(&line(at, ms))),
        );
        assert!((busy(&mut all) - 2.0).abs() < 1e-6);
    }
}
