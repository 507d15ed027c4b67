//! Machines of a lab that ssh knows, as an operator has them in known_hosts.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::Lab;
use crate::command::run;

/// Writes a client's configuration in which these machines are known, each by its address and its root; see [`to`].
///
/// # Errors
/// A key cannot be read, or a file not be written.
pub fn write(lab: &Lab, machines: &[(String, PathBuf)]) -> Result<()> {
    let etc = lab.path("ssh");
    run("cp").args(["--archive", "-T", "/etc/ssh"]).arg(&etc).output()?;
    let mut known = String::new();
    for (address, root) in machines {
        known += &format!("{address} {}\n", fs::read_to_string(root.join("etc/ssh/ssh_host_ed25519_key.pub"))?.trim());
    }
    Ok(fs::write(etc.join("ssh_known_hosts"), known)?)
}

/// What runs a program in a mount namespace of its own in which the machines of the lab are known to ssh.
pub fn to(lab: &Lab) -> Vec<String> {
    let script = "mount --bind \"$1\" /etc/ssh && shift && exec \"$@\"";
    let etc = lab.path("ssh").display().to_string();
    ["unshare", "--mount", "sh", "-c", script, "sh", &etc].map(str::to_owned).to_vec()
}
