//! Takes a lab down: what `up` made, what an `up` that broke off left, and what the product made in it.

use std::fs;

use anyhow::{Result, bail, ensure};

use super::register::Register;
use super::{Lab, daemon, network, storage};

/// Takes down whatever is there. Every part is tried, whatever another part said.
///
/// # Errors
/// All that went wrong, in one message.
pub fn down(lab: &Lab) -> Result<()> {
    // Made before anything else and removed after everything else: without it there is nothing.
    if !lab.dir().exists() {
        return Ok(());
    }
    let mut troubles = Vec::new();
    let mut part = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            troubles.push(format!("{what}: {error:#}"));
        }
    };
    part("guests and libvirtd", daemon::down(lab));
    part("network", network::down(lab));
    part("what labs share", Register::of_this_machine().leave(lab.number()));
    part("storage", storage::down(lab));
    if !troubles.is_empty() {
        bail!("taking lab {} down: {}", lab.number(), troubles.join("; "));
    }
    remove_directory(lab)?;
    let left = leftovers(lab);
    ensure!(left.is_empty(), "lab {} left: {}", lab.number(), left.join("; "));
    Ok(())
}

/// Removes the lab's directory, never through a mount.
fn remove_directory(lab: &Lab) -> Result<()> {
    let mounts = storage::mounts_below(lab.dir())?;
    ensure!(mounts.is_empty(), "still mounted: {mounts:?}");
    if lab.dir().exists() {
        fs::remove_dir_all(lab.dir())?;
    }
    if let Some(base) = lab.dir().parent() {
        // Shared by all labs: goes with the last.
        let _ = fs::remove_dir(base);
    }
    Ok(())
}

/// What of a lab is on the machine, a line each.
pub fn leftovers(lab: &Lab) -> Vec<String> {
    let mut left = Vec::new();
    if daemon::is_up(lab) {
        left.push("libvirtd runs".to_owned());
    }
    left.extend(daemon::controllers(lab).iter().map(|process| format!("a guest's controller runs: {process:?}")));
    if network::bridge_exists(lab) {
        left.push(format!("bridge {}", lab.bridge()));
    }
    left.extend(
        network::rules(lab).unwrap_or_default().into_iter().map(|(table, rule)| format!("iptables {table}: {rule}")),
    );
    left.extend(
        storage::mounts_below(lab.dir()).unwrap_or_default().iter().map(|at| format!("mount {}", at.display())),
    );
    left.extend(storage::loops(lab).unwrap_or_default().into_iter().map(|device| format!("loop device {device}")));
    if lab.dir().exists() {
        left.push(format!("directory {}", lab.dir().display()));
    }
    left
}
