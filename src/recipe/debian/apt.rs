//! How apt and dpkg are called, and what they print. Pure.
//!
//! Progress is read from what apt and dpkg print anyway. `APT::Status-Fd=1` is not used: apt closes that descriptor
//! for dpkg's maintainer scripts, and every one that prints fails ("echo: I/O error", recorded with apt 2.6.1 in
//! `fixtures/apt-2.6/status-fd-1.txt`). `Dpkg::Use-Pty=0` keeps the output free of terminal control.

use hypervisors::host::printable;

use super::sources::without_login;

/// The two halves of a release upgrade (release notes, "minimal system upgrade", then full upgrade).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Only what needs no new and removes no package.
    Minimal,
    /// The rest.
    Full,
}

/// Nobody is asked anything: the kept answers are recorded as conffiles to decide.
pub fn environment() -> Vec<(String, String)> {
    [
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("APT_LISTCHANGES_FRONTEND", "none"),
        ("UCF_FORCE_CONFFOLD", "1"),
        ("NEEDRESTART_MODE", "l"),
        ("NEEDRESTART_SUSPEND", "1"),
        ("DPKG_FORCE", "confdef,confold"),
        ("LC_ALL", "C.UTF-8"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn apt_get(options: &[&str], words: &[&str]) -> Vec<String> {
    let mut argv = vec!["apt-get", "-y"];
    for option in ["Dpkg::Use-Pty=0", "DPkg::Lock::Timeout=600"].iter().chain(options) {
        argv.extend(["-o", option]);
    }
    argv.extend(words);
    argv.into_iter().map(str::to_owned).collect()
}

const KEEP_OLD: &[&str] = &["Dpkg::Options::=--force-confdef", "Dpkg::Options::=--force-confold"];

/// `apt-get update`, failing if any repository fails (apt ≥ 2.1; for older ones [`Transcript::cause`] tells).
pub fn update() -> Vec<String> {
    apt_get(&["APT::Update::Error-Mode=any"], &["update"])
}

/// One half of the upgrade.
pub fn upgrade(phase: Phase) -> Vec<String> {
    match phase {
        Phase::Minimal => apt_get(KEEP_OLD, &["upgrade", "--without-new-pkgs"]),
        Phase::Full => apt_get(KEEP_OLD, &["full-upgrade"]),
    }
}

/// `dpkg --configure -a`: finishes what an interruption left; answers come from `DPKG_FORCE` (dpkg ≥ 1.19.5).
pub fn configure() -> Vec<String> {
    ["dpkg", "--configure", "-a"].map(str::to_owned).into()
}

/// `apt-get -f install`: mends dependencies.
pub fn fix() -> Vec<String> {
    apt_get(KEEP_OLD, &["-f", "install"])
}

/// Removes what nothing needs any more.
pub fn autoremove() -> Vec<String> {
    apt_get(KEEP_OLD, &["autoremove"])
}

/// Empties the package cache.
pub fn clean() -> Vec<String> {
    apt_get(&[], &["clean"])
}

/// A repository that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Base URI, without login.
    pub uri: String,
    /// Suite.
    pub suite: String,
    /// apt's reason.
    pub why: String,
}

/// A package that dpkg gave up on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Broken {
    package: String,
    why: String,
    said: Option<String>,
}

/// What apt and dpkg have printed so far, read line by line as it comes.
#[derive(Debug, Default)]
pub struct Transcript {
    unfinished: Vec<u8>,
    /// Lines since dpkg took up a package; bounded.
    block: Vec<String>,
    broken: Vec<Broken>,
    awaits_why: bool,
    unreachable: Vec<Unreachable>,
    error: Option<String>,
    last: Option<String>,
    total: u32,
    removals: u32,
    fetched: u32,
    unpacked: u32,
    configured: u32,
    doing: &'static str,
}

/// Longest line that is looked at (bytes), and most lines of one package's output.
const LINE: usize = 4096;
const BLOCK: usize = 60;
/// Most packages, and most repositories, that are told of.
const TOLD: usize = 1000;

impl Transcript {
    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || byte == b'\r' {
                let line = String::from_utf8_lossy(&self.unfinished).into_owned();
                self.unfinished.clear();
                self.line(&line);
            } else if self.unfinished.len() < LINE {
                self.unfinished.push(byte);
            }
        }
    }

    fn line(&mut self, line: &str) {
        let text = line.trim();
        if text.is_empty() {
            return;
        }
        let folded = line.starts_with(' ');
        if self.awaits_why {
            self.awaits_why = false;
            if folded && let Some(broken) = self.broken.last_mut() {
                broken.why = printable(text);
                return;
            }
        }
        if folded && let Some(unreachable) = self.unreachable.last_mut().filter(|u| u.why.is_empty()) {
            unreachable.why = printable(text);
            return;
        }
        self.last = Some(printable(text));
        let counted = self.counts(text);
        if let Some((package, _)) = text
            .strip_prefix("dpkg: error processing package ")
            .or_else(|| text.strip_prefix("dpkg: error processing archive "))
            .and_then(|rest| rest.split_once(" (--"))
        {
            let package = printable(package.rsplit('/').next().unwrap_or(package));
            if self.broken.len() < TOLD {
                self.broken.push(Broken { package, why: String::new(), said: telling(&self.block) });
                self.awaits_why = true;
            }
            self.block.clear();
        } else if let Some(rest) = text.strip_prefix("Err:") {
            let mut words = rest.split_ascii_whitespace().skip(1);
            if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
                let (uri, suite) = (printable(&without_login(uri)), printable(suite));
                if self.unreachable.len() == TOLD {
                    return;
                }
                self.unreachable.push(Unreachable { uri, suite, why: String::new() });
            }
        } else if let Some(error) = text.strip_prefix("E: ") {
            if !error.starts_with("Sub-process") {
                self.error.get_or_insert_with(|| printable(error));
            }
        } else if !counted && self.block.len() < BLOCK {
            self.block.push(printable(text));
        }
    }

    /// Counts a line that tells how far it is; whether it was one.
    fn counts(&mut self, text: &str) -> bool {
        let starts = |prefix: &str| text.starts_with(prefix);
        if starts("Get:") {
            self.fetched += 1;
            self.doing = "downloading";
        } else if starts("Unpacking ") {
            self.unpacked += 1;
            self.doing = "unpacking";
        } else if starts("Setting up ") {
            self.configured += 1;
            self.doing = "configuring";
        } else if starts("Removing ") {
            self.doing = "removing";
        } else if starts("Processing triggers") {
            self.doing = "triggers";
        } else if text.contains(" upgraded, ") && text.contains(" newly installed, ") {
            let number = |part: &str| part.split_ascii_whitespace().next().and_then(|n| n.parse::<u32>().ok());
            let count = |what: &str| text.split(", ").find(|part| part.contains(what)).and_then(number).unwrap_or(0);
            let kept = ["upgraded", "newly installed", "reinstalled", "downgraded"];
            let parts = text.split(", ").filter(|part| !part.contains("to remove"));
            self.total = parts
                .filter(|part| kept.iter().any(|word| part.ends_with(word)))
                .filter_map(number)
                .fold(0u32, u32::saturating_add);
            self.removals = count("to remove");
            self.fetched = 0;
        } else {
            return false;
        }
        self.block.clear();
        true
    }

    /// What is happening and how far it is, as far as told. Downloads count for a quarter of the whole.
    pub fn progress(&self) -> (String, Option<f64>) {
        let total = self.total;
        let done = |n: u32| f64::from(n.min(total)) / f64::from(total.max(1));
        let fraction = 0.25 * if self.unpacked > 0 { 1.0 } else { done(self.fetched) }
            + 0.45 * done(self.unpacked)
            + 0.30 * done(self.configured);
        let fraction = (total > 0).then_some(fraction.min(1.0));
        let of = |n: u32| format!("{} {} of {total}", self.doing, n.min(total));
        let what = match self.doing {
            "downloading" if total == 0 => "reading the package lists".to_owned(),
            "downloading" => of(self.fetched),
            "unpacking" if total > 0 => of(self.unpacked),
            "configuring" if total > 0 => of(self.configured),
            "removing" => "removing packages".to_owned(),
            "triggers" => "processing triggers".to_owned(),
            "" => "starting apt".to_owned(),
            doing => doing.to_owned(),
        };
        (what, fraction)
    }

    /// Repositories that could not be read.
    pub fn unreachable(&self) -> &[Unreachable] {
        &self.unreachable
    }

    /// Packages that dpkg gave up on, in order, each once; those that only wait for another come last.
    pub fn broken(&self) -> Vec<&str> {
        let waits = |broken: &&Broken| broken.why.starts_with("dependency problems");
        let mut names: Vec<&str> = Vec::new();
        let (first, rest) = (self.broken.iter().filter(|b| !waits(b)), self.broken.iter().filter(waits));
        for broken in first.chain(rest) {
            if !names.contains(&broken.package.as_str()) {
                names.push(&broken.package);
            }
        }
        names
    }

    /// Why it failed, in one line, if it can be told.
    pub fn cause(&self) -> Option<String> {
        let waits = |broken: &&Broken| broken.why.starts_with("dependency problems");
        if let Some(broken) = self.broken.iter().find(|b| !waits(b)).or(self.broken.first()) {
            let said = broken.said.as_deref().unwrap_or(&broken.why);
            return Some(format!("{}: {said}", broken.package));
        }
        if let Some(unreachable) = self.unreachable.first() {
            return Some(format!("{} {}: {}", unreachable.uri, unreachable.suite, unreachable.why));
        }
        self.error.clone().or_else(|| self.last.clone())
    }
}

/// The line of a maintainer script's output that tells most: the last that speaks of something fatal, else of an
/// error, else the last one.
fn telling(block: &[String]) -> Option<String> {
    let noise = |line: &&String| {
        !["See \"systemctl", "(Reading database", "Job for ", "invoke-rc.d:"].iter().any(|p| line.starts_with(p))
            && !line.contains("Main process exited")
            && !line.contains("Failed with result")
            && !line.contains("(code=exited")
    };
    let lines: Vec<&String> = block.iter().filter(noise).collect();
    let with = |words: &[&str]| {
        lines.iter().rev().find(|line| {
            let line = line.to_ascii_lowercase();
            words.iter().any(|word| line.contains(word))
        })
    };
    let line = with(&["fatal", "emerg", "unknown setting"])
        .or_else(|| with(&["error", "cannot", "can't", "unable", "failed", "invalid", "denied", "no such"]))
        .or(lines.last())
        .copied()
        .or(block.last())?;
    Some(without_frame(line).chars().take(300).collect())
}

/// A message without syslog's prefix and severity, and with its file at the end:
/// `… doveconf: Fatal: Error in configuration file F line 3: Unknown setting: x` → `Unknown setting: x (F line 3)`.
fn without_frame(line: &str) -> String {
    let mut text = line;
    if let Some((head, rest)) = text.split_once("]: ")
        && head.rsplit_once('[').is_some_and(|(_, pid)| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()))
    {
        text = rest;
    }
    if let Some((_, rest)) = text.split_once("Fatal: ") {
        text = rest;
    }
    let Some((place, what)) = text.strip_prefix("Error in configuration file ").and_then(|rest| rest.split_once(": "))
    else {
        return text.to_owned();
    };
    let what = match what.split_once(": ") {
        Some((key, rest)) if rest.contains(key) => rest,
        _ => what,
    };
    format!("{what} ({place})")
}

#[cfg(test)]
#[path = "apt_tests.rs"]
mod tests;
