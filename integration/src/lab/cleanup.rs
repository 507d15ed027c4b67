//! Takes a lab down: what `up` made, what an `up` that broke off left, and what the product made in it.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::register::Register;
use super::{Lab, daemon, dhcp, network, storage};
use crate::command::run;

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
    connections(lab);
    part("guests and libvirtd", daemon::down(lab));
    part("dnsmasq", dhcp::down(lab));
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

/// Ends the ssh connections that the product shares between its commands. They outlive it for a while, and their bound
/// sockets hold the mount they are on (unix(7)).
fn connections(lab: &Lab) {
    let Ok(entries) = fs::read_dir(lab.state().join("run")) else { return };
    for entry in entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket())) {
        let socket = format!("ControlPath={}", entry.path().display());
        // One that has ended by itself left its socket, which holds nothing.
        if run("ssh").args(["-F", "none", "-O", "exit", "-o", &socket, "anyone"]).succeeds() {
            // It has been told, and ends when it has tidied up.
            let begun = Instant::now();
            while entry.path().exists() && begun.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
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
    if dhcp::is_up(lab) {
        left.push("dnsmasq runs".to_owned());
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
