//! Looks at the world with the world's own tools: what guests serve, what libvirt and btrfs have. Changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Lab;
use super::guest::PROBE_PASSWORD;
use crate::command::run;

impl Lab {
    /// How many messages user `probe` sees in the inbox, by IMAP over TLS.
    ///
    /// # Errors
    /// Nobody answers, or not as an IMAP server does.
    pub fn messages(&self, address: &str) -> Result<u32> {
        let answer = run("curl")
            .args(["--silent", "--show-error", "--insecure", "--max-time", "10"])
            .args(["--user", &format!("probe:{PROBE_PASSWORD}"), &format!("imaps://{address}/")])
            .args(["--request", "STATUS INBOX (MESSAGES)"])
            .output()?;
        let number = answer.split_once("MESSAGES ").and_then(|(_, rest)| rest.split(')').next());
        number.and_then(|number| number.trim().parse().ok()).with_context(|| format!("an IMAP answer: {answer:?}"))
    }

    /// The page that the web server gives.
    ///
    /// # Errors
    /// None is given.
    pub fn page(&self, address: &str) -> Result<String> {
        let url = format!("http://{address}/");
        run("curl").args(["--silent", "--show-error", "--fail", "--max-time", "10", &url]).output()
    }

    /// The code name of the release a guest runs: bookworm, trixie.
    ///
    /// # Errors
    /// It does not answer, or has no /etc/os-release.
    pub fn release(&self, address: &str) -> Result<String> {
        let text = self.ssh(address, ["cat", "/etc/os-release"])?;
        let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        name.map(str::to_owned).with_context(|| format!("no code name in {text}"))
    }

    /// What systemd says of a unit: active, inactive, failed …
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn unit(&self, address: &str, unit: &str) -> Result<String> {
        // `is-active` exits 3 for all but active; `show` always says.
        self.ssh(address, ["systemctl", "show", "--property=ActiveState", "--value", unit])
    }

    /// All domains and their states: `mercure` → `running`.
    ///
    /// # Errors
    /// The lab's libvirtd does not answer.
    pub fn domains(&self) -> Result<BTreeMap<String, String>> {
        let names = self.virsh(["list", "--all", "--name"])?;
        let names = names.lines().filter(|name| !name.is_empty());
        names.map(|name| Ok((name.to_owned(), self.virsh(["domstate", name])?.trim().to_owned()))).collect()
    }

    /// A running domain's id (its controller's process): another one after every start.
    ///
    /// # Errors
    /// As `virsh domid`.
    pub fn domain_id(&self, name: &str) -> Result<String> {
        self.virsh(["domid", name]).map(|id| id.trim().to_owned())
    }

    /// The names below `pool/guests`: the guests' roots and volumes.
    ///
    /// # Errors
    /// The pool is not there.
    pub fn trees(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(self.path("pool/guests"))?;
        let mut names =
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }
}

/// Asks again until it holds.
///
/// # Errors
/// It did not within the time given; the last reason.
pub fn until<T>(patience: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if begun.elapsed() > patience => bail!("{error:#} (asked for {} s)", patience.as_secs()),
            Err(_) => std::thread::sleep(Duration::from_millis(300)),
        }
    }
}
