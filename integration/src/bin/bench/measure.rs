//! What is measured on the native lab, and how.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use integration::cli::Upgradectl;
use integration::command::run;
use integration::lab::guest::{self, Guest, TINY};
use integration::lab::{Lab, inventory};
use nix::sys::resource::{UsageWho, getrusage};

use crate::prober::{NATIVE, Prober, answers};
use crate::results::Results;

/// Pairs per ratio.
const PAIRS: usize = 7;

/// How often `status` is asked.
const ASKED: usize = 31;

const MIB: f64 = 1048576.0;

/// First argument of the helper that [`memory`] starts: this program again, see [`memory_of`].
pub const MEMORY_OF: &str = "--memory-of";

/// The script that clones by hand.
const BY_HAND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/clone-by-hand");

pub fn binary_path() -> Result<String> {
    std::env::var("UPGRADECTL_BIN").context("UPGRADECTL_BIN is not set; run this by make")
}

/// The program's size.
pub fn binary(_lab: &Lab, results: &mut Results) -> Result<()> {
    results.single("binary_mib", &[fs::metadata(binary_path()?)?.len() as f64 / MIB]);
    Ok(())
}

/// `clone` against the script, in turn, each on a world without clones.
pub fn clone(lab: &Lab, results: &mut Results) -> Result<()> {
    let lab = lab.clone().standing(&[TINY])?;
    let product = Upgradectl::in_lab(&lab)?;
    let mut pairs = Vec::new();
    // The first pair warms the caches.
    for round in 0..=PAIRS {
        let said = product.run(["clone", "tiny"])?.expect(0)?;
        product.run(["abort", "tiny", "--yes"])?.expect(0)?;
        let hand = clone_by_hand(&lab).context("cloning by hand")?;
        if round > 0 {
            pairs.push((said.took.as_secs_f64(), hand));
        }
    }
    results.ratio("clone_over_script", &pairs);
    Ok(())
}

/// Clones by the script and removes the clone. How long the script took, in seconds.
fn clone_by_hand(lab: &Lab) -> Result<f64> {
    let (root, work) = (TINY.root(lab), lab.path("by-hand"));
    let begun = Instant::now();
    run(BY_HAND)
        .arg(lab.uri())
        .arg(lab.key())
        .arg(&root)
        .args([TINY.name, &lab.address(TINY.host), &lab.address(TINY.host + 4), "byhand"])
        .arg(&work)
        .output()?;
    let took = begun.elapsed().as_secs_f64();
    let copy = root.with_file_name("byhand-root");
    ensure!(fs::metadata(work.join("baseline"))?.len() > 1000, "the script took no baseline");
    lab.virsh(["destroy", "byhand"])?;
    lab.virsh(["undefine", "byhand"])?;
    for tree in [copy.join("var/cache"), copy] {
        run("btrfs").args(["--quiet", "subvolume", "delete"]).arg(tree).output()?;
    }
    fs::remove_dir_all(work)?;
    Ok(took)
}

/// The outage of `promote` against stopping and starting the same guest by hand. Both sides boot the same system: the
/// upgrade is a program that does nothing.
pub fn outage(lab: &Lab, results: &mut Results) -> Result<()> {
    let lab = lab.clone().standing(&[TINY])?;
    let product = Upgradectl::in_lab(&lab)?;
    let text = inventory::text(&lab, &[TINY]);
    let nothing = text.replace(r#"recipe = "debian", to = "trixie""#, r#"recipe = "script", run = ["true"]"#);
    ensure!(text != nothing, "the lab's inventory declares another recipe");
    fs::write(lab.inventory(), nothing)?;
    quick_neighbours(&lab)?;
    for verb in ["clone", "upgrade"] {
        product.run([verb, "tiny"])?.expect(0)?;
    }
    let address = lab.address(TINY.host);
    let socket: SocketAddr = format!("{address}:22").parse()?;
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        product.run(["verify", "tiny"])?.expect(0)?;
        let prober = Prober::watch(socket, NATIVE)?;
        product.run(["promote", "tiny", "--yes"])?.expect(0)?;
        let promoted = prober.longest_gap()?;
        product.run(["rollback", "tiny", "--yes"])?.expect(0)?;
        guest::wait_settled(&lab, &address, Duration::from_secs(60))?;
        pairs.push((promoted, by_hand(&lab, &address)?));
    }
    results.ratio("outage_over_hand", &pairs);
    Ok(())
}

/// Stops and starts tiny as one does by hand; its outage, in seconds.
fn by_hand(lab: &Lab, address: &str) -> Result<f64> {
    let socket: SocketAddr = format!("{address}:22").parse()?;
    let prober = Prober::watch(socket, NATIVE)?;
    lab.virsh(["shutdown", TINY.name])?;
    while lab.virsh(["domstate", TINY.name])? != "shut off" {
        std::thread::sleep(Duration::from_millis(50));
    }
    lab.virsh(["start", TINY.name])?;
    while !answers(socket, NATIVE) {
        std::thread::sleep(Duration::from_millis(10));
    }
    guest::wait_settled(lab, address, Duration::from_secs(60))?;
    prober.longest_gap()
}

/// The machine asks again for a silent neighbour after 20 ms instead of 1 s (arp(7)), or that second would be most of
/// what the prober measures.
fn quick_neighbours(lab: &Lab) -> Result<()> {
    let setting = Path::new("/proc/sys/net/ipv4/neigh").join(lab.bridge()).join("retrans_time_ms");
    fs::write(&setting, "20").with_context(|| format!("writing {}", setting.display()))
}

/// `status` with three open runs.
pub fn status(lab: &Lab, results: &mut Results) -> Result<()> {
    let guests = [TINY, Guest { name: "second", host: 30, ..TINY }, Guest { name: "third", host: 40, ..TINY }];
    let lab = lab.clone().standing(&guests)?;
    let product = Upgradectl::in_lab(&lab)?;
    for guest in guests {
        product.run(["clone", guest.name])?.expect(0)?;
    }
    let mut samples = Vec::new();
    for _ in 0..ASKED {
        let said = product.run(["status"])?.expect(0)?;
        ensure!(guests.iter().all(|guest| said.stdout.contains(guest.name)), "{said}");
        samples.push(said.took.as_secs_f64() * 1000.0);
    }
    results.single("status_ms", &samples);
    Ok(())
}

/// The most memory over a clone and an upgrade from Debian 12 to 13.
pub fn memory(lab: &Lab, results: &mut Results) -> Result<()> {
    let lab = lab.clone().standing(&[TINY])?;
    let mut most: f64 = 0.0;
    for verb in ["clone", "upgrade"] {
        let said = run(std::env::current_exe()?)
            .arg(MEMORY_OF)
            .arg(binary_path()?)
            .args([verb, "tiny"])
            .env("UPGRADECTL_INVENTORY", lab.inventory())
            .env("UPGRADECTL_STATE", lab.state())
            .output()?;
        let kib: f64 = said.lines().last().and_then(|line| line.parse().ok()).context("no size was printed")?;
        most = most.max(kib / 1024.0);
    }
    results.single("peak_rss_mib", &[most]);
    Ok(())
}

/// Runs a command and prints the maximum resident set, in KiB, of it and what it waited for (getrusage(2),
/// `RUSAGE_CHILDREN`: the largest process of them). A process of its own: it may have no other children.
pub fn memory_of(command: &[String]) -> Result<ExitCode> {
    let (program, args) = command.split_first().context("no command")?;
    let status = Command::new(program).args(args).status().with_context(|| format!("starting {program}"))?;
    println!("{}", getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss());
    Ok(ExitCode::from(u8::from(!status.success())))
}
