//! `mount`, `umount`, `df`, `fstyp` and `tunefs -p`: showing file systems.

use super::filesystems::{self, Filesystem};
use crate::host::Host;
use crate::jails::running;
use crate::persona::Real;
use crate::say;

/// `mount`: shows; with the name of one that the table calls unmounted, that is mounted again.
pub fn mount(host: &Host, arguments: &[String]) -> u8 {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (as_fstab, kind) = match arguments.as_slice() {
        [] | ["-v"] => (false, None),
        ["-p"] => (true, None),
        ["-t", kind] => (false, Some(*kind)),
        ["-p", "-t", kind] | ["-t", kind, "-p"] => (true, Some(*kind)),
        [what] if !what.starts_with('-') => {
            if filesystems::set_mounted(host, what, true) {
                return 0;
            }
            return say::wrong(&format!("{what}: unknown special file or file system"));
        }
        _ => return say::not_played(&arguments.join(" ")),
    };
    let jails = running::all(host).into_iter().filter(|jail| jail.devfs).map(|jail| Filesystem {
        device: "devfs".to_owned(),
        mountpoint: format!("{}/dev", jail.path),
        kind: "devfs".to_owned(),
        options: Vec::new(),
        behind: None,
        is_mounted: true,
    });
    let all = filesystems::all(host).into_iter().chain(jails);
    for of in all.filter(|of| of.is_mounted && kind.is_none_or(|kind| kind.split(',').any(|kind| kind == of.kind))) {
        if as_fstab {
            say::out(&as_fstab_line(&of));
        } else {
            let options: Vec<&str> =
                std::iter::once(of.kind.as_str()).chain(of.options.iter().map(String::as_str)).collect();
            say::out(&format!("{} on {} ({})\n", of.device, of.mountpoint, options.join(", ")));
        }
    }
    0
}

fn as_fstab_line(of: &Filesystem) -> String {
    let tabs = |text: &str| match text.len() {
        0..8 => "\t\t\t",
        8..16 => "\t\t",
        16..24 => "\t",
        _ => " ",
    };
    let access = if of.options.iter().any(|option| option == "read-only") { "ro" } else { "rw" };
    let (device, mountpoint) = (&of.device, &of.mountpoint);
    format!("{device}{}{mountpoint}{}{}\t{access}\t\t0 0\n", tabs(device), tabs(mountpoint), of.kind)
}

/// `umount`.
pub fn umount(host: &Host, arguments: &[String]) -> u8 {
    let [what] = arguments else { return say::not_played("this way of calling umount") };
    if let Some(mut jail) =
        running::all(host).into_iter().find(|jail| jail.devfs && host.pretended(what) == format!("{}/dev", jail.path))
    {
        if host.persona.processes == Real::Real {
            let _ = std::process::Command::new("/bin/umount").arg(host.path(what)).status();
        }
        jail.devfs = false;
        jail.keep(host);
        return 0;
    }
    if filesystems::holding(host, what).is_some_and(|of| of.mountpoint == host.pretended(what) || of.device == *what)
        && filesystems::set_mounted(host, what, false)
    {
        return 0;
    }
    say::wrong(&format!("{what}: not a file system root directory"))
}

/// `df -k`.
pub fn df(host: &Host, arguments: &[String]) -> u8 {
    let mut paths = Vec::new();
    for argument in arguments {
        match argument.as_str() {
            "-k" | "-P" | "-kP" | "-Pk" | "-l" => {}
            option if option.starts_with('-') => return say::not_played(option),
            path => paths.push(path),
        }
    }
    let mut status = 0;
    let mut found = Vec::new();
    if paths.is_empty() {
        found = filesystems::all(host).into_iter().filter(|of| of.is_mounted).collect();
    }
    for path in paths {
        let absolute = match std::fs::canonicalize(path) {
            Ok(at) if !path.starts_with('/') => at.to_string_lossy().into_owned(),
            _ => path.to_owned(),
        };
        let path = absolute.as_str();
        let known = host.path(path).exists() || filesystems::all(host).iter().any(|of| of.device == path);
        match filesystems::holding(host, path).filter(|_| known) {
            Some(of) => found.push(of),
            None => status = say::wrong(&format!("{path}: No such file or directory")),
        }
    }
    let mut rows = vec![["Filesystem", "1024-blocks", "Used", "Avail"].map(str::to_owned)];
    let mut ends = vec!["Capacity  Mounted on".to_owned()];
    for of in &found {
        let Ok(sizes) = nix::sys::statvfs::statvfs(&host.path(&of.mountpoint)) else { continue };
        let unit = sizes.fragment_size();
        let kib = |blocks: u64| blocks * unit / 1024;
        let (total, free, available) = (kib(sizes.blocks()), kib(sizes.blocks_free()), kib(sizes.blocks_available()));
        let used = total - free;
        // As df(1) rounds: up from half.
        let percent = (used * 100 + (used + available) / 2).checked_div(used + available).unwrap_or(100);
        rows.push([of.device.clone(), total.to_string(), used.to_string(), available.to_string()]);
        ends.push(format!("{percent:>5}%    {}", of.mountpoint));
    }
    let width = |column: usize, least: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(least);
    let widths = [width(0, 10), width(1, 11), width(2, 5), width(3, 6)];
    if found.is_empty() {
        return status;
    }
    for (row, end) in rows.iter().zip(&ends) {
        let [name, total, used, available] = row;
        let [w0, w1, w2, w3] = widths;
        say::out(&format!("{name:<w0$} {total:>w1$} {used:>w2$} {available:>w3$} {end}\n"));
    }
    status
}

/// `fstyp DEVICE`.
pub fn fstyp(host: &Host, arguments: &[String]) -> u8 {
    let Some(device) = arguments.last() else {
        say::err("usage: fstyp [-l] [-s] [-u] special\n");
        return 1;
    };
    match filesystems::all(host).into_iter().find(|of| of.device == *device) {
        Some(of) => {
            say::out(&format!("{}\n", of.kind));
            0
        }
        None => say::wrong(&format!("{device}: filesystem not recognized")),
    }
}

/// `tunefs -p`.
pub fn tunefs(host: &Host, arguments: &[String]) -> u8 {
    let [print, what] = arguments else { return say::not_played("anything but -p") };
    if print != "-p" {
        return say::not_played(print);
    }
    let found = filesystems::all(host)
        .into_iter()
        .find(|of| (of.device == *what || of.mountpoint == *what) && of.kind == "ufs");
    let Some(of) = found else { return say::wrong(&format!("{what}: could not read superblock to fill out disk")) };
    let is = |option: &str| if of.options.iter().any(|known| known == option) { "enabled" } else { "disabled" };
    let lines = [
        ("POSIX.1e ACLs: (-a)", is("acls")),
        ("NFSv4 ACLs: (-N)", is("nfsv4acls")),
        ("MAC multilabel: (-l)", is("multilabel")),
        ("soft updates: (-n)", is("soft-updates")),
        ("soft update journaling: (-j)", is("journaled soft-updates")),
        ("gjournal: (-J)", is("gjournal")),
        ("trim: (-t)", is("trim")),
        ("maximum blocks per file in a cylinder group: (-e)", "4096"),
        ("average file size: (-f)", "16384"),
        ("average number of files in a directory: (-s)", "64"),
        ("minimum percentage of free space: (-m)", "8%"),
        ("space to hold for metadata blocks: (-k)", "2616"),
        ("optimization preference: (-o)", "time"),
        ("volume label: (-L)", ""),
    ];
    for (name, value) in lines {
        say::err(&format!("tunefs: {name:<50} {value}\n"));
    }
    0
}
