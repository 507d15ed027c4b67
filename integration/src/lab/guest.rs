//! Guests: copies of an image on the pool, made themselves (name, address, keys), and started.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Lab, storage};
use crate::command::{Run, run};
use crate::ssh;

/// A guest to place in a lab.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// Domain name and hostname.
    pub name: &'static str,
    /// Its image: a directory of `integration/guests`.
    pub image: &'static str,
    /// The last octet of its address, and of its MAC.
    pub host: u8,
    /// Memory, MiB.
    pub memory: u16,
    /// Where its data volume is mounted in it: a subvolume of its own, see [`Guest::data_volume`].
    pub data: Option<&'static str>,
}

/// The demo's mail server. Its list archive is on a volume of its own.
pub const MERCURE: Guest = Guest { name: "mercure", image: "mercure", host: 12, memory: 512, data: Some("/srv/mail") };

/// The smallest guest.
pub const TINY: Guest = Guest { name: "tiny", image: "tiny", host: 20, memory: 256, data: None };

/// The password of user `probe` in [`MERCURE`].
pub const PROBE_PASSWORD: &str = "probe-me";

/// `nobody` and `nogroup`: whom postfix writes list archives as. The same number in every Debian.
const NOBODY: u32 = 65534;

impl Guest {
    /// Its MAC, after the rule that `derive` looks for: last octet of the address in hex.
    pub fn mac(&self) -> String {
        format!("00:16:3e:00:05:{:02x}", self.host)
    }

    /// Its root.
    pub fn root(&self, lab: &Lab) -> PathBuf {
        lab.path("pool/guests").join(self.name)
    }

    /// Its data volume, named after where it is mounted: `mercure-mail` for /srv/mail.
    pub fn data_volume(&self, lab: &Lab) -> Option<PathBuf> {
        let last = Path::new(self.data?).file_name()?.to_str()?;
        Some(lab.path("pool/guests").join(format!("{}-{last}", self.name)))
    }

    /// Its domain's definition in this lab.
    pub fn definition(&self, lab: &Lab) -> String {
        let data = self.data.zip(self.data_volume(lab)).map_or_else(String::new, |(target, volume)| {
            format!(
                "\n    <filesystem type='mount'>\n      <source dir='{}'/>\n      <target dir='{target}'/>\n    </filesystem>",
                volume.display()
            )
        });
        format!(
            "<domain type='lxc'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type>exe</type>
    <init>/sbin/init</init>
  </os>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <filesystem type='mount'>
      <source dir='{root}'/>
      <target dir='/'/>
    </filesystem>{data}
    <interface type='bridge'>
      <mac address='{mac}'/>
      <source bridge='{bridge}'/>
    </interface>
    <console type='pty'/>
  </devices>
</domain>
",
            name = self.name,
            memory = self.memory,
            root = self.root(lab).display(),
            mac = self.mac(),
            bridge = lab.bridge(),
        )
    }
}

/// Makes the key that guests of the lab know.
///
/// # Errors
/// As ssh-keygen.
pub fn make_key(lab: &Lab) -> Result<()> {
    run("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "upgradectl lab", "-f"])
        .arg(lab.key())
        .output()
        .map(drop)
}

/// Puts a copy of an image on the pool, makes it this guest, and defines it (autostart on, not yet started).
///
/// # Errors
/// A file could not be written, or libvirt refuses the definition.
pub fn place(lab: &Lab, guest: &Guest, tar: &Path) -> Result<()> {
    let image = lab.path("pool/images").join(guest.image);
    if !image.exists() {
        storage::subvolume(&image)?;
        run("tar")
            .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xf"])
            .arg(tar)
            .arg("-C")
            .arg(&image)
            .output()?;
    }
    let root = guest.root(lab);
    storage::snapshot(&image, &root)?;
    // A nested subvolume, as people have them: a snapshot of the root alone would miss what is in it.
    storage::turn_into_subvolume(&root.join("var/cache"))?;
    if let Some(data) = guest.data_volume(lab) {
        storage::subvolume(&data)?;
        for directory in ["archive", "archive/new", "archive/cur", "archive/tmp"] {
            fs::create_dir(data.join(directory))?;
            chown(data.join(directory), Some(NOBODY), Some(NOBODY))?;
        }
    }
    make_it(lab, guest, &root).with_context(|| format!("making {} what it is", guest.name))?;
    let definition = lab.path(format!("{}.xml", guest.name));
    fs::write(&definition, guest.definition(lab))?;
    let path = definition.to_str().context("the lab's path is not text")?;
    lab.virsh(["define", path])?;
    lab.virsh(["autostart", guest.name])?;
    Ok(())
}

/// Writes what makes a copy this guest.
pub(super) fn make_it(lab: &Lab, guest: &Guest, root: &Path) -> Result<()> {
    let (name, address) = (guest.name, lab.address(guest.host));
    let write = |path: &str, content: String| {
        fs::write(root.join(path), content).with_context(|| format!("writing /{path}"))?;
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o644)).map_err(anyhow::Error::from)
    };
    write("etc/hostname", format!("{name}\n"))?;
    // Without its own name here dovecot waits 20 s for a resolver.
    write("etc/hosts", format!("127.0.0.1\tlocalhost\n{address}\t{name}.lab {name}\n"))?;
    write(
        "etc/network/interfaces",
        format!(
            "# The lab's network.\nauto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n    address {address}/24\n    gateway {}\n",
            lab.address(1)
        ),
    )?;
    let sshd = fs::read_to_string(root.join("etc/ssh/sshd_config"))?;
    write("etc/ssh/sshd_config", sshd.replace("#ListenAddress 0.0.0.0\n", &format!("ListenAddress {address}\n")))?;
    write("etc/machine-id", fs::read_to_string("/proc/sys/kernel/random/uuid")?.replace('-', ""))?;
    write("etc/resolv.conf", resolver()?)?;
    for entry in fs::read_dir(root.join("etc/ssh"))?.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(entry.path())?;
        }
    }
    run("ssh-keygen").args(["-q", "-A", "-f"]).arg(root).output()?;
    let ssh = root.join("root/.ssh");
    fs::create_dir_all(&ssh)?;
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700))?;
    fs::copy(lab.key().with_extension("pub"), ssh.join("authorized_keys"))?;
    Ok(())
}

/// The machine's resolver, as a guest can use it: where the machine asks its own systemd-resolved (127.0.0.53), the
/// servers that one asks.
fn resolver() -> Result<String> {
    let text = fs::read_to_string("/etc/resolv.conf")?;
    let loopback = text.lines().any(|line| line.starts_with("nameserver 127.") || line.starts_with("nameserver ::1"));
    if loopback { fs::read_to_string("/run/systemd/resolve/resolv.conf").or(Ok(text)) } else { Ok(text) }
}

/// Starts a guest.
///
/// # Errors
/// As `virsh start`; the guest's own log is in the error.
pub fn start(lab: &Lab, name: &str) -> Result<()> {
    let started = lab.virsh(["start", name]);
    started.map(drop).with_context(|| {
        let log = fs::read_to_string(lab.path(format!("log/lxc/{name}.log"))).unwrap_or_default();
        format!("starting {name}; its log:\n{log}")
    })
}

/// A command in a guest, by ssh as root.
pub fn ssh<'a>(lab: &Lab, address: &str, command: impl IntoIterator<Item = &'a str>) -> Run {
    let timing = ["-o", "ConnectTimeout=3", "-o", "ServerAliveInterval=5"];
    ssh::client(&lab.key()).args(timing).arg(format!("root@{address}")).arg("--").args(ssh::words(command))
}

/// Waits until a guest answers by ssh.
///
/// # Errors
/// Not within the time given.
pub fn wait_for_ssh(lab: &Lab, address: &str, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        match ssh(lab, address, ["true"]).output() {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > patience => return Err(error.context(format!("{address} does not answer"))),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Waits until a guest's boot is over: `systemctl is-system-running` says running or degraded.
///
/// # Errors
/// Not within the time given.
pub fn wait_settled(lab: &Lab, address: &str, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let answer = ssh(lab, address, ["systemctl", "is-system-running"]).finish()?;
        let state = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
        if state == "running" || state == "degraded" {
            return Ok(());
        }
        if begun.elapsed() > patience {
            bail!("{address} has not settled: {state}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_follow_the_address() {
        assert_eq!(MERCURE.mac(), "00:16:3e:00:05:0c");
    }
}
