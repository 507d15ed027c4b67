//! A guest of the Red Hat family that nobody's hypervisor can be asked about: dnf, rpm and a repository with a newer kernel are real;
//! kernel, boot loader, modules and VMware's tools are played (`guests/redhat`).

use std::fs;

use anyhow::Result;

use super::guest::Guest;
use super::{Lab, known};

/// The guest.
pub const WEB1: Guest = Guest { name: "web1", image: "redhat", host: 50, memory: 512, data: None };

/// The kernel that it runs in the beginning.
pub const OLD: &str = "5.14.0-70.el9.x86_64";
/// The one that its repository has.
pub const NEW: &str = "5.14.0-162.el9.x86_64";

/// How it is upgraded.
pub const RECIPE: &str = "upgrade = { recipe = \"yum-kernel\", reboot_timeout = \"120s\" }";

/// Writes its inventory: at a host that offers nothing, with these lines of its own.
///
/// # Errors
/// A file could not be written.
pub fn declare(lab: &Lab, lines: &str) -> Result<()> {
    let (key, address) = (lab.key().display().to_string(), lab.address(WEB1.host));
    let text = format!(
        "version = 1\n\n[hosts]\ncloud = {{ hypervisor = \"none\" }}\n\n[guests.web1]\nhost = \"cloud\"\n\
         ssh = {{ address = \"{address}\", user = \"root\", key = \"{key}\" }}\nclone = {{ strategy = \"in-place\" }}\n{lines}\n"
    );
    fs::write(lab.inventory(), text)?;
    known::write(lab, &[(address, WEB1.root(lab))])
}

/// Makes its tools those of a distribution before yum knew `--disableexcludes`.
///
/// # Errors
/// It does not answer.
pub fn age(lab: &Lab) -> Result<()> {
    let script =
        "cp -L /usr/bin/dnf /usr/local/lib/lab/dnf && rm /usr/bin/dnf && cp /usr/local/lib/lab/yum /usr/local/bin/yum";
    lab.ssh(&lab.address(WEB1.host), ["sh", "-c", script]).map(drop)
}
