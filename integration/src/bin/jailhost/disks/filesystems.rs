//! Which file systems there are: the file `filesystems` of the state, or else what this machine has mounted.
//!
//! A line is `DEVICE MOUNTPOINT TYPE OPTIONS BEHIND [unmounted]`. Device, type (`ufs`) and options (`local,soft-updates`)
//! are what the pretended system calls them; BEHIND is the block device of this machine with an ext4 that dump reads, or `-`.

use std::path::Path;

use crate::host::Host;

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// `/dev/vtbd2`.
    pub device: String,
    /// `/src`.
    pub mountpoint: String,
    /// `ufs`.
    pub kind: String,
    /// `local`, `soft-updates` …
    pub options: Vec<String>,
    /// The block device of this machine.
    pub behind: Option<String>,
    /// Whether it is mounted, as the pretended system sees it.
    pub is_mounted: bool,
}

/// All of them, mounted or not.
pub fn all(host: &Host) -> Vec<Filesystem> {
    table(host).into_iter().chain(super::zfs::mounted(host)).collect()
}

/// Those of the table.
fn table(host: &Host) -> Vec<Filesystem> {
    match std::fs::read_to_string(host.of_state("filesystems")) {
        Ok(text) => text.lines().filter_map(line).collect(),
        Err(_) => of_this_machine(),
    }
}

fn line(line: &str) -> Option<Filesystem> {
    if line.trim_start().starts_with('#') {
        return None;
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let [device, mountpoint, kind, options, behind, rest @ ..] = words.as_slice() else { return None };
    Some(Filesystem {
        device: (*device).to_owned(),
        mountpoint: (*mountpoint).to_owned(),
        kind: (*kind).to_owned(),
        options: options
            .split(',')
            .filter(|option| *option != "-")
            .map(|option| option.replace("journaled-soft", "journaled soft"))
            .collect(),
        behind: (*behind != "-").then(|| (*behind).to_owned()),
        is_mounted: rest != ["unmounted"],
    })
}

fn text(of: &Filesystem) -> String {
    let options = if of.options.is_empty() { "-".to_owned() } else { of.options.join(",").replace(' ', "-") };
    let end = if of.is_mounted { "" } else { " unmounted" };
    format!("{} {} {} {options} {}{end}\n", of.device, of.mountpoint, of.kind, of.behind.as_deref().unwrap_or("-"))
}

/// ext2 to ext4 pass for UFS.
fn of_this_machine() -> Vec<Filesystem> {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [device, mountpoint, kind, options, ..] = words.as_slice() else { return None };
        let is_ext = kind.starts_with("ext") && device.starts_with("/dev/");
        if !is_ext && *mountpoint != "/" {
            return None;
        }
        let mut shown = vec!["local".to_owned()];
        if options.split(',').any(|option| option == "ro") {
            shown.push("read-only".to_owned());
        }
        if is_ext {
            shown.push("soft-updates".to_owned());
        }
        Some(Filesystem {
            device: (*device).to_owned(),
            mountpoint: mountpoint.replace("\\040", " "),
            kind: if is_ext { "ufs" } else { kind }.to_owned(),
            options: shown,
            behind: is_ext.then(|| (*device).to_owned()),
            is_mounted: true,
        })
    };
    text.lines().filter_map(of).collect()
}

/// Notes whether a file system of the table is mounted; false if the table does not have it.
pub fn set_mounted(host: &Host, what: &str, is_mounted: bool) -> bool {
    let _lock = host.lock();
    let mut all = table(host);
    let what = host.pretended(what);
    let Some(found) = all.iter_mut().find(|of| of.device == what || of.mountpoint == what) else { return false };
    found.is_mounted = is_mounted;
    host.write_state("filesystems", &all.iter().map(text).collect::<String>());
    true
}

/// What fstab(5) says: device, mount point, type.
pub fn fstab(host: &Host) -> Vec<(String, String, String)> {
    let text = host.read("/etc/fstab").unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            Some((words.next()?, words.next()?, words.next()?))
        })
        .collect()
}

/// The file system that a path of the pretended system is on.
pub fn holding(host: &Host, path: &str) -> Option<Filesystem> {
    let path = host.pretended(path);
    let at = Path::new(&path);
    let mounted = all(host).into_iter().filter(|of| of.is_mounted);
    mounted
        .filter(|of| of.device == path || at.starts_with(&of.mountpoint))
        .max_by_key(|of| (of.device == path, of.mountpoint.len()))
}
