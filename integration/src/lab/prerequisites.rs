//! What a lab needs of the machine. It installs nothing: `integration/prerequisites` does.

use anyhow::{Result, bail, ensure};

/// Programs a lab calls, and the Debian package that has each.
const TOOLS: &[(&str, &str)] = &[
    ("libvirtd", "libvirt-daemon-system"),
    ("virsh", "libvirt-clients"),
    ("mmdebstrap", "mmdebstrap"),
    ("btrfs", "btrfs-progs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("losetup", "mount"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("rsync", "rsync"),
    ("curl", "curl"),
    ("dnsmasq", "dnsmasq-base"),
];

/// libvirt's container controller, which no PATH names.
const CONTROLLER: &str = "/usr/lib/libvirt/libvirt_lxc";

/// Whether a lab can be built here.
///
/// # Errors
/// Names everything that is missing and how to get it.
pub fn check() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "a lab needs root: it makes mounts, a bridge and guests");
    let mut missing = missing(TOOLS);
    if !std::path::Path::new(CONTROLLER).exists() {
        missing.push("libvirt_lxc (libvirt-daemon-driver-lxc)".to_owned());
    }
    if !missing.is_empty() {
        bail!("missing: {}; run integration/prerequisites", missing.join(", "));
    }
    Ok(())
}

/// Which of these programs are not here, each with its Debian package.
pub fn missing(tools: &[(&str, &str)]) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |tool: &str| {
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|directory| directory.join(tool).is_file())
    };
    tools.iter().filter(|(tool, _)| !there(tool)).map(|(tool, package)| format!("{tool} ({package})")).collect()
}
