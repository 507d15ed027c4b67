//! What `xl list` and `xl list -l` print (Xen 4.17), and what libxl's messages mean. Pure.
//!
//! Both show every domain of the machine, whoever started it: libvirt's too. A domain that is being made or remade shows
//! 0 MiB; one that has shut down and is not cleaned up yet is still listed (`--ps--`).

use std::path::PathBuf;

use serde::Deserialize;

use crate::host::printable;
use crate::{MacAddr, Power};

/// A line of `xl list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Name.
    pub name: String,
    /// Number, new at each start.
    pub id: u32,
    /// Memory in MiB; 0 while it is made.
    pub memory_mib: u64,
    /// Processors; 0 while it is made.
    pub vcpus: u32,
    /// Its power state. Unfinished states count as on: its disks are open or about to be.
    pub power: Power,
    /// It has shut down, and is still there.
    pub down: bool,
}

/// Reads what `xl list` prints. Domain 0 is left out.
pub fn table(text: &str) -> Result<Vec<Domain>, String> {
    let mut domains = Vec::new();
    for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
        let domain = row(line).ok_or_else(|| format!("xl list has the line {:?}", printable(line)))?;
        if domain.id != 0 {
            domains.push(domain);
        }
    }
    match text.starts_with("Name") {
        true => Ok(domains),
        false => Err("xl list has no heading".to_owned()),
    }
}

fn row(line: &str) -> Option<Domain> {
    // a name may hold blanks; the columns after it do not
    let mut rest = line.trim_end();
    let mut last = || {
        let (before, word) = rest.rsplit_once(char::is_whitespace)?;
        rest = before.trim_end();
        Some(word)
    };
    let (_seconds, state, vcpus, memory, id) = (last()?, last()?, last()?, last()?, last()?);
    if state.len() < 6 || !state.bytes().all(|byte| b"rbpscd-".contains(&byte)) {
        return None;
    }
    let memory_mib = memory.parse().ok()?;
    let has = |letter| state.contains(letter);
    let down = has('s') || has('c') || has('d');
    let power = if has('p') && !down && memory_mib > 0 { Power::Paused } else { Power::On };
    let (id, vcpus) = (id.parse().ok()?, vcpus.parse().ok()?);
    Some(Domain { name: rest.to_owned(), id, memory_mib, vcpus, power, down })
}

/// What `xl list -l` tells of a domain beyond its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Number.
    pub id: u32,
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: Option<String>,
    /// Its disks: path on the host, device in the guest, read-only.
    pub disks: Vec<(PathBuf, String, bool)>,
    /// Its cards: hardware address, bridge.
    pub nics: Vec<(Option<MacAddr>, String)>,
}

/// Reads what `xl list -l` prints. Domain 0 is left out.
pub fn details(json: &str) -> Result<Vec<Details>, String> {
    // with no domain to tell of, or one that goes meanwhile, it may print nothing
    if json.trim().is_empty() {
        return Ok(Vec::new());
    }
    let listed: Vec<Listed> = serde_json::from_str(json).map_err(|error| format!("xl list -l: {error}"))?;
    Ok(listed.into_iter().filter(|listed| listed.domid != 0).map(Listed::details).collect())
}

#[derive(Deserialize)]
struct Listed {
    domid: u32,
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    c_info: Info,
    #[serde(default)]
    disks: Vec<JsonDisk>,
    #[serde(default)]
    nics: Vec<JsonNic>,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    name: String,
    uuid: Option<String>,
}

#[derive(Deserialize)]
struct JsonDisk {
    #[serde(default)]
    pdev_path: String,
    #[serde(default)]
    vdev: String,
    #[serde(default)]
    readwrite: i64,
}

#[derive(Deserialize)]
struct JsonNic {
    mac: Option<String>,
    #[serde(default)]
    bridge: String,
}

impl Listed {
    fn details(self) -> Details {
        let disks = self.config.disks.into_iter().filter(|disk| !disk.pdev_path.is_empty());
        Details {
            id: self.domid,
            name: self.config.c_info.name,
            uuid: self.config.c_info.uuid.map(|uuid| uuid.to_ascii_lowercase()),
            disks: disks
                .map(|disk| (PathBuf::from("/dev").join(disk.pdev_path), disk.vdev, disk.readwrite == 0))
                .collect(),
            nics: self
                .config
                .nics
                .into_iter()
                .map(|nic| (nic.mac.and_then(|mac| mac.parse().ok()), nic.bridge))
                .collect(),
        }
    }
}

/// The line of a failed `xl create` that says why, without libxl's file names, and what helps against it. libxl tells the cause
/// first and then, in as many lines, that it cleaned up.
pub fn reason(stderr: &str) -> (String, Option<&'static str>) {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let says = |line: &&&str| line.contains("error:") || line.contains("error near");
    let first = lines.iter().position(|line| line.contains(" script: "));
    let first = first.or_else(|| lines.iter().position(|line| says(&line)));
    let Some(first) = first else { return (printable(lines.last().unwrap_or(&"it said nothing")), None) };
    let mut why = message(lines[first]).to_owned();
    if let Some(more) =
        lines.get(first + 1).filter(|line| line.starts_with("and ") && lines[first].contains(" script: "))
    {
        why = format!("{why} {more}");
    }
    let help = [
        ("already exists", "xl list shows it; it was not started here"),
        ("failed to stat", "is the volume there and active? lvs, lvchange -ay"),
        ("ut of memory", "give the guest less memory, or dom0: xl list, xl info, xl mem-set Domain-0"),
        ("Cannot allocate", "give the guest less memory, or dom0: xl list, xl info, xl mem-set Domain-0"),
        ("in a guest domain", "another guest has it open: xl block-list"),
    ];
    let help = help.iter().find(|(sign, _)| why.contains(sign)).map(|(_, help)| *help);
    (printable(&why).chars().take(300).collect(), help)
}

/// `libxl: error: libxl_device.c:455:function: Disk vdev=…` → `Disk vdev=…`.
fn message(line: &str) -> &str {
    let Some(("libxl" | "xc", rest)) = line.split_once(": error: ") else { return line };
    let rest = rest.strip_prefix("panic: ").unwrap_or(rest);
    let place = rest.split_once(": ").filter(|(place, _)| place.contains(".c:"));
    place.map_or(rest, |(_, said)| said)
}
