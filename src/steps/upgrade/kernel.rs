//! Steps around the first boot of a new kernel in a guest that has no copy: its initial ramdisk looked into before, booted once with
//! the old one as the fallback, proven after, and made the default in the end.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::{Command, printable};
use hypervisors::{Change, GuestLink, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{guest, name, with_clone};
use crate::recipe::yum::{self, version};
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

pub(super) const BOOT: &str = include_str!("boot.sh");

/// Runs a script of ours in a guest; its standard output.
pub(super) async fn script(guest: &dyn Host, doing: &str, script: &str, words: &[&str]) -> Result<String, StepError> {
    let argv = ["sh", "-c", script, "sh"].into_iter().chain(words.iter().copied());
    let command = Command::new(argv).timeout(Duration::from_secs(300));
    Ok(guest.run(&command).await?.checked(doing, &command)?.text())
}

async fn running(guest: &dyn Host) -> Result<String, StepError> {
    let command = Command::new(["uname", "-r"]);
    Ok(printable(guest.run(&command).await?.checked("ask for the running kernel", &command)?.text().trim()))
}

/// The newest kernel that a package put into /boot, of the running one's flavour.
///
/// # Errors
/// None is newer.
pub(super) async fn newest(guest: &dyn Host, before: &str) -> Result<String, StepError> {
    let told = script(guest, "look for kernels in /boot", BOOT, &["owned"]).await?;
    version::newest(told.lines().map(str::trim), before).map(str::to_owned).ok_or_else(|| {
        StepError::failed(
            format!("/boot has no kernel newer than {before}"),
            "look at what the update said: upgradectl log -v",
        )
    })
}

/// Has a kernel booted from now on.
async fn make_default(guest: &dyn Host, release: &str) -> Result<(), StepError> {
    script(guest, &format!("make {release} the default"), BOOT, &["set", &path(release)]).await.map(drop)
}

/// Has a kernel booted from now on, and none once.
pub(super) async fn fall_back(guest: &dyn Host, release: &str) -> Result<(), StepError> {
    script(guest, "forget the new kernel", BOOT, &["never"]).await?;
    make_default(guest, release).await
}

pub(super) fn path(release: &str) -> String {
    format!("/boot/vmlinuz-{release}")
}

/// The command that makes a kernel the default, as it is shown.
pub(super) fn set_default(release: &str) -> Vec<String> {
    ["grubby", "--set-default", &path(release)].map(str::to_owned).to_vec()
}

/// Looks for the new kernel's initial ramdisk, and in it for the modules without which its root is not found (kind `kernel.initramfs`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveInitramfs {
    /// Inventory host.
    pub host: String,
    /// How to get into the guest.
    pub link: GuestLink,
    /// The kernel that runs before.
    pub before: String,
    /// The modules, where they are known.
    pub drivers: Vec<String>,
}

/// Arguments: the kernel. Names of the modules in its initial ramdisk, and of those it has built in.
const MODULES: &str = "PATH=$PATH:/usr/sbin:/sbin:/usr/bin; \
    for f in /boot/initramfs-$1.img /boot/initrd-$1.img; do test -f \"$f\" || continue; \
    if command -v lsinitrd >/dev/null 2>&1; then lsinitrd \"$f\" || exit; \
    else (zcat \"$f\" 2>/dev/null || cat \"$f\") | cpio -t 2>/dev/null || exit; fi; \
    cat /lib/modules/$1/modules.builtin 2>/dev/null; exit 0; done; \
    echo \"/boot has no initial ramdisk of $1\" >&2; exit 1";

/// Names of modules among paths that end in `NAME.ko`, compressed or not; `-` and `_` are the same.
fn modules(listing: &str) -> BTreeSet<String> {
    let one = |word: &str| {
        let file = word.rsplit('/').next()?;
        let (name, rest) = file.split_once(".ko")?;
        (rest.is_empty() || rest.starts_with('.')).then(|| name.replace('-', "_"))
    };
    listing.split_ascii_whitespace().filter_map(one).collect()
}

/// Modules of `wanted` that are not there, under none of their names.
fn missing<'a>(wanted: &'a [String], there: &BTreeSet<String>) -> Vec<&'a str> {
    let known = |module: &str| yum::names(module).iter().any(|name| there.contains(&name.replace('-', "_")));
    wanted.iter().map(String::as_str).filter(|module| !known(module)).collect()
}

#[async_trait]
impl Step for ProveInitramfs {
    fn title(&self) -> String {
        match self.drivers.as_slice() {
            [] => "look for the new initial ramdisk".into(),
            drivers => format!("look for {} in the new initial ramdisk", drivers.join(", ")),
        }
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let kernel = newest(&*guest, &self.before).await?;
        let there = modules(
            &script(&*guest, &format!("look into the initial ramdisk of {kernel}"), MODULES, &[&kernel]).await?,
        );
        match missing(&self.drivers, &there).as_slice() {
            [] => Ok(Done::new(Change::Unchanged).with(json!({ "kernel": kernel }))),
            gone => Err(StepError::failed(
                format!("the initial ramdisk of {kernel} has no {}: it would not find its root", gone.join(", ")),
                format!(
                    "it was not rebooted. Make it anew in the guest (dracut -f --add-drivers \"{}\" /boot/initramfs-{kernel}.img {kernel}; \
                     mkinitrd before EL 6), then upgradectl resume {}",
                    gone.join(" "),
                    name(world)
                ),
            )),
        }
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// Has the new kernel booted the next time only; the one that runs stays the default (kind `kernel.boot_once`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootOnce {
    /// Inventory host.
    pub host: String,
    /// How to get into the guest.
    pub link: GuestLink,
    /// The kernel that runs before.
    pub before: String,
}

#[async_trait]
impl Step for BootOnce {
    fn title(&self) -> String {
        format!("boot the new kernel once, {} otherwise", self.before)
    }
    fn undo_title(&self) -> String {
        format!("{} is booted", self.before)
    }
    fn taken_back(&self) -> String {
        format!("make {} the kernel that is booted", self.before)
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        vec![set_default(&self.before), ["grub2-reboot", "ENTRY"].map(str::to_owned).to_vec()]
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        // The loader forgets it as soon as it has done it.
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let kernel = newest(&*guest, &self.before).await?;
        make_default(&*guest, &self.before).await?;
        script(&*guest, &format!("have {kernel} booted once"), BOOT, &["once", &path(&kernel)]).await?;
        Ok(Done::new(Change::Changed).with(json!({ "kernel": kernel })))
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        fall_back(&*guest(world, &self.host, &self.link)?, &self.before).await?;
        Ok(Change::Changed.into())
    }
}

/// Makes the kernel that runs the one that is booted from now on (kind `kernel.default`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeDefault {
    /// Inventory host.
    pub host: String,
    /// How to get into the guest.
    pub link: GuestLink,
    /// The kernel that was the default before.
    pub before: String,
}

#[async_trait]
impl Step for MakeDefault {
    fn title(&self) -> String {
        "make the running kernel the default".into()
    }
    fn undo_title(&self) -> String {
        format!("{} is the default", self.before)
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        vec![["grubby", "--set-default", "/boot/vmlinuz-RUNNING"].map(str::to_owned).to_vec()]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let default = script(&*guest, "ask for the default kernel", BOOT, &["default"]).await?;
        Ok(if default.trim() == path(&running(&*guest).await?) { Probe::Present } else { Probe::Absent })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let kernel = running(&*guest).await?;
        make_default(&*guest, &kernel).await?;
        Ok(Change::Changed.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        make_default(&*guest, &self.before).await?;
        Ok(Change::Changed.into())
    }
}

/// What a boot has to be proven for (kind `kernel.prove`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProveKernel {
    /// Inventory host.
    pub host: String,
    /// How to get into the guest.
    pub link: GuestLink,
    /// The kernel that ran before.
    pub before: String,
    /// A newer one has to run; else that one.
    pub newer: bool,
    /// Modules that were loaded before: they have to be there for a newer kernel, and loaded.
    pub modules: Vec<String>,
    /// VMware's tools ran before.
    pub tools: bool,
}

/// Arguments: the kernel. Its modules, by path or by name.
const PRESENT: &str =
    "find \"/lib/modules/$1/\" -name '*.ko*' 2>/dev/null; cat \"/lib/modules/$1/modules.builtin\" 2>/dev/null; exit 0";
/// What is loaded, or built in with parameters.
const LOADED: &str = "PATH=$PATH:/sbin:/usr/sbin; lsmod 2>/dev/null | awk 'NR > 1 { print $1 }'; exit 0";
const TOOLS: &str =
    "PATH=$PATH:/sbin:/usr/sbin; for p in vmtoolsd vmware-guestd; do pgrep -x $p && exit 0; done; exit 0";

impl ProveKernel {
    /// What the kernel that runs has not of what was there before, and what helps.
    async fn lacks(&self, guest: &dyn Host, now: &str, name: &str) -> Result<Option<(String, String)>, StepError> {
        let there = modules(&script(guest, "look for the kernel's modules", PRESENT, &[now]).await?);
        let gone = missing(&self.modules, &there);
        if !gone.is_empty() {
            return Ok(Some((
                format!("{now} has no module {}", gone.join(", ")),
                format!("apply VMware's tools again in the guest, or upgradectl abort {name}"),
            )));
        }
        let loaded = script(guest, "look for loaded modules", LOADED, &[]).await?;
        let loaded: BTreeSet<String> = loaded.lines().map(|line| line.trim().replace('-', "_")).collect();
        let builtin = guest
            .read_file(Path::new(&format!("/lib/modules/{now}/modules.builtin")), 1 << 20)
            .await?
            .unwrap_or_default();
        let all: BTreeSet<String> = loaded.into_iter().chain(modules(&String::from_utf8_lossy(&builtin))).collect();
        let idle = missing(&self.modules, &all);
        if !idle.is_empty() {
            return Ok(Some((
                format!("{now} has not loaded {}, which was loaded before", idle.join(", ")),
                format!("look: upgradectl ssh {name} -- dmesg; or upgradectl abort {name}"),
            )));
        }
        let silent = self.tools && script(guest, "look for VMware's tools", TOOLS, &[]).await?.trim().is_empty();
        Ok(silent.then(|| {
            (
                "VMware's tools ran before and do not run now".into(),
                format!("start them (service vmware-tools start), then upgradectl resume {name}"),
            )
        }))
    }

    /// A new kernel has to have everything. The way back is not shut by what the old one does not load by itself: it is told.
    fn proven(&self, now: &str, lacks: Option<(String, String)>) -> Result<Done, StepError> {
        let done = Done::new(Change::Unchanged).with(json!({ "kernel": now, "modules": self.modules }));
        match lacks {
            Some((why, help)) if self.newer => Err(StepError::failed(why, help)),
            Some((why, _)) => Ok(done.warn(why)),
            None => Ok(done),
        }
    }
}

#[async_trait]
impl Step for ProveKernel {
    fn title(&self) -> String {
        match self.newer {
            true => format!("prove that a kernel newer than {} runs, with its modules", self.before),
            false => format!("prove that {} runs", self.before),
        }
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let (now, guest_name) = (running(&*guest).await?, name(world));
        let order = version::kernels(&now, &self.before);
        if self.newer && order != Ordering::Greater {
            return Err(StepError::failed(
                format!("{now} runs, which is not newer than {}", self.before),
                format!(
                    "look at why the new one did not come up: upgradectl ssh {guest_name}; upgradectl abort {guest_name} goes back"
                ),
            ));
        }
        if !self.newer && order != Ordering::Equal {
            return Err(StepError::failed(
                format!("{now} runs, not {}", self.before),
                "choose it at the console's boot menu",
            ));
        }
        let lacks = self.lacks(&*guest, &now, guest_name).await?;
        self.proven(&now, lacks)
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
