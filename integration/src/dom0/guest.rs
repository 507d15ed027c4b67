//! Paravirtual guests of trolls: a root on a logical volume, a definition for libvirt or xl, and what they answer.
//!
//! Kernel and initrd are dom0's (/boot/vmlinuz-guest, /boot/initrd-guest.img). Two guests of [`MEMORY`] fit beside each
//! other. A guest boots to ssh in about one minute on an idle machine, and up to three on a shared one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Dom0, Toolstack, session};
use crate::cli::Said;
use crate::ssh;

/// What a guest needs, MiB.
pub const MEMORY: u16 = 400;

/// The least that a guest's volume must have, as LVM reads it: the image's size.
pub const LEAST: &str = "640m";

/// A guest's kernel command line. Emulated, the mitigations only cost.
const LINUX: &str = "root=/dev/xvda ro console=hvc0 mitigations=off";

/// How long a guest may take for a boot.
const BOOT: Duration = Duration::from_secs(600);

/// A guest: its name, and the last octet of its address and of its MAC.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// Domain name and hostname.
    pub name: &'static str,
    /// 12 for 10.0.5.12.
    pub host: u8,
}

/// The guest of most tests, 10.0.5.12.
pub const MERCURE: Guest = Guest { name: "mercure", host: 12 };

impl Guest {
    /// Its address.
    pub fn address(&self) -> String {
        format!("10.0.5.{}", self.host)
    }

    /// Its MAC, after the rule that `derive` looks for: last octet of the address in hex.
    pub fn mac(&self) -> String {
        format!("00:16:3e:00:05:{:02x}", self.host)
    }

    /// Its definition for libvirt, its root on a device.
    pub fn xml(&self, device: &str) -> String {
        format!(
            "<domain type='xen'>
  <name>{name}</name>
  <memory unit='MiB'>{MEMORY}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='xenpv'>linux</type>
    <kernel>/boot/vmlinuz-guest</kernel>
    <initrd>/boot/initrd-guest.img</initrd>
    <cmdline>{LINUX}</cmdline>
  </os>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='block' device='disk'>
      <driver name='phy'/>
      <source dev='{device}'/>
      <target dev='xvda' bus='xen'/>
    </disk>
    <interface type='bridge'>
      <mac address='{mac}'/>
      <source bridge='xenbr0'/>
    </interface>
    <console type='pty'>
      <target type='xen' port='0'/>
    </console>
  </devices>
</domain>
",
            name = self.name,
            mac = self.mac(),
        )
    }

    /// Its configuration for xl, its root on a device.
    pub fn cfg(&self, device: &str) -> String {
        format!(
            r#"name = "{name}"
type = "pv"
kernel = "/boot/vmlinuz-guest"
ramdisk = "/boot/initrd-guest.img"
extra = "{LINUX}"
memory = {MEMORY}
vcpus = 1
disk = [ "phy:{device},xvda,w" ]
vif = [ "mac={mac},bridge=xenbr0" ]
on_reboot = "restart"
on_crash = "destroy"
"#,
            name = self.name,
            mac = self.mac(),
        )
    }
}

impl Dom0 {
    /// Copies the image of a guest into a volume, which it fills, and makes it this guest: name, address, identities of
    /// its own.
    ///
    /// # Errors
    /// The volume is smaller than [`LEAST`], or does not exist.
    pub fn place(&self, guest: &Guest, volume: &str) -> Result<()> {
        let device = self.vg().device(volume);
        self.output(["dd", "if=/dev/vdc", &format!("of={device}"), "bs=4M", "oflag=direct", "status=none"])?;
        self.output(["resize2fs", &device])?;
        let (name, address) = (guest.name, guest.address());
        self.vg()
            .mounted(
                volume,
                &format!(
                    "echo {name} > etc/hostname
sed -i 's,10[.]0[.]5[.]12/,{address}/,' etc/network/interfaces
printf '127.0.0.1\\tlocalhost\\n{address}\\t{name}.lab {name}\\n' > etc/hosts
rm -f etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C root@{name} -f etc/ssh/ssh_host_ed25519_key
sed 's/-//g' /proc/sys/kernel/random/uuid > etc/machine-id"
                ),
            )
            .map(drop)
            .with_context(|| format!("making {name} what it is"))
    }

    /// Defines a guest for the toolstack of this boot, with its root on a volume: an inactive domain of libvirt, or
    /// `/etc/xen/NAME.cfg`. With `autostart` it starts with dom0.
    ///
    /// # Errors
    /// As `virsh define`, or the file could not be written.
    pub fn define(&self, guest: &Guest, volume: &str, autostart: bool) -> Result<()> {
        self.define_for(self.toolstack()?, guest, volume, autostart)
    }

    /// As [`Dom0::define`], for a toolstack: xl's files may be written before its boot.
    ///
    /// # Errors
    /// As [`Dom0::define`].
    pub fn define_for(&self, toolstack: Toolstack, guest: &Guest, volume: &str, autostart: bool) -> Result<()> {
        let (name, device) = (guest.name, self.vg().device(volume));
        if toolstack == Toolstack::Libvirt {
            let file = format!("/root/{name}.xml");
            self.upload(&file, guest.xml(&device))?;
            self.virsh(["define", &file])?;
            if autostart {
                self.virsh(["autostart", name])?;
            }
        } else {
            let file = format!("/etc/xen/{name}.cfg");
            self.upload(&file, guest.cfg(&device))?;
            if autostart {
                self.output(["ln", "-sf", &file, "/etc/xen/auto/"])?;
            }
        }
        Ok(())
    }

    /// Starts a defined guest; it boots on its own from here.
    ///
    /// # Errors
    /// As `virsh start` or `xl create`.
    pub fn start(&self, name: &str) -> Result<()> {
        if self.toolstack()? == Toolstack::Libvirt {
            self.virsh(["start", name]).map(drop)
        } else {
            self.output(["xl", "create", &format!("/etc/xen/{name}.cfg")]).map(drop)
        }
    }

    /// Lets guests reach the package mirror, until the next boot.
    ///
    /// # Errors
    /// As `systemctl start`.
    pub fn open_mirror(&self) -> Result<()> {
        self.output(["systemctl", "start", "guests-nat"]).map(drop)
    }

    /// Runs virsh in trolls; what it printed.
    ///
    /// # Errors
    /// As [`Dom0::output`].
    pub fn virsh<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<String> {
        self.output(["virsh", "--quiet", "--connect", "xen:///system"].into_iter().chain(args))
    }

    /// The guests that `xl list` shows, libvirt's too, and their states: `mercure` → `-b----`. One that is being
    /// removed is shown for a while (`--ps-d`).
    ///
    /// # Errors
    /// As `xl list`.
    pub fn domains(&self) -> Result<BTreeMap<String, String>> {
        Ok(domains(&self.output(["xl", "list"])?))
    }

    /// Runs a command in a guest, as root by ssh through trolls: what it said and its exit code.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn in_guest<'a>(&self, address: &str, argv: impl IntoIterator<Item = &'a str>) -> Result<Said> {
        let argv: Vec<&str> = argv.into_iter().collect();
        let begun = Instant::now();
        let proxy = format!("ProxyCommand={}", session::proxy(self)?);
        let output = ssh::client(&self.key())
            .args(["-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8"])
            .args(["-o", &proxy])
            .arg(format!("root@{address}"))
            .arg("--")
            .args(ssh::words(argv.iter().copied()))
            .finish()?;
        let said = Said::of(format!("ssh {address} {}", argv.join(" ")), &output, begun.elapsed());
        // ssh's own failures, ssh(1) EXIT STATUS.
        anyhow::ensure!(said.code != 255, "{said}\n{address} does not answer");
        Ok(said)
    }

    /// Waits until a guest's boot is over: ssh answers, and systemd says running or degraded.
    ///
    /// # Errors
    /// Not within ten minutes, or the domain is not there any more; the last reason.
    pub fn wait_for_guest(&self, guest: &Guest) -> Result<()> {
        let begun = Instant::now();
        loop {
            let state = self.in_guest(&guest.address(), ["systemctl", "is-system-running"]);
            let reason = match state {
                Ok(said) if ["running", "degraded"].contains(&said.stdout.trim()) => return Ok(()),
                Ok(said) => format!("{said}"),
                Err(error) => format!("{error:#}"),
            };
            if begun.elapsed() > BOOT || !self.domains()?.contains_key(guest.name) {
                bail!("{} does not come up: {reason}", guest.name);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// Reads `xl list`: a heading, then name, id, memory, processors, state, time; dom0 itself left out.
fn domains(list: &str) -> BTreeMap<String, String> {
    let rows = list.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() == 6 && row[1] != "0").map(|row| (row[0].to_owned(), row[4].to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_read_from_xl_list() {
        let list = "Name                                        ID   Mem VCPUs\tState\tTime(s)
Domain-0                                     0  1500     1     r-----     562.4
g1                                          12   512     1     --ps--      68.9
g2                                          13   400     1     -b----       7.7";
        let expected = [("g1", "--ps--"), ("g2", "-b----")].map(|(name, state)| (name.to_owned(), state.to_owned()));
        assert_eq!(domains(list), expected.into());
    }
}
