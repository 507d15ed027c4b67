//! `sysctl`: the few variables that are asked for, `-n` for their values alone. Nothing can be set.

use crate::disks::time::Time;
use crate::host::Host;
use crate::say;

/// What old programs a GENERIC kernel runs.
const FEATURES: [&str; 10] = [
    "compat_freebsd4",
    "compat_freebsd5",
    "compat_freebsd6",
    "compat_freebsd7",
    "compat_freebsd9",
    "compat_freebsd10",
    "compat_freebsd11",
    "compat_freebsd12",
    "compat_freebsd_32bit",
    "inet",
];

/// When this machine was booted.
fn booted() -> i64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0)
}

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let (mut only_values, mut only_names) = (false, false);
    let mut quiet = false;
    let mut status = 0;
    for argument in arguments {
        if let Some(letters) = argument.strip_prefix('-') {
            for letter in letters.chars() {
                match letter {
                    'n' => only_values = true,
                    'N' => only_names = true,
                    'q' | 'i' => quiet = true,
                    letter => return say::not_played(&format!("-{letter}")),
                }
            }
            continue;
        }
        if argument.contains('=') {
            return say::not_played("setting a variable");
        }
        if argument == "kern.features" {
            for feature in FEATURES {
                let name = format!("kern.features.{feature}");
                say::out(&match (only_names, only_values) {
                    (true, _) => format!("{name}\n"),
                    (_, true) => "1\n".to_owned(),
                    _ => format!("{name}: 1\n"),
                });
            }
            continue;
        }
        match value(host, argument) {
            Some(_) if only_names => say::out(&format!("{argument}\n")),
            Some(value) if only_values => say::out(&format!("{value}\n")),
            Some(value) => say::out(&format!("{argument}: {value}\n")),
            None => {
                if !quiet {
                    say::err(&format!("sysctl: unknown oid '{argument}'\n"));
                }
                status = u8::from(!quiet);
            }
        }
    }
    status
}

fn value(host: &Host, name: &str) -> Option<String> {
    let persona = &host.persona;
    let booted = booted();
    Some(match name {
        "kern.securelevel" => persona.securelevel.to_string(),
        "kern.osreldate" => persona.osreldate.clone(),
        "kern.osrelease" => persona.kernel.clone(),
        "kern.ostype" => "FreeBSD".to_owned(),
        "kern.hostname" => persona.hostname.clone(),
        "hw.machine" | "hw.machine_arch" => persona.arch.clone(),
        "security.jail.jailed" => u8::from(is_jailed(host)).to_string(),
        "security.jail.jail_max_af_ips" => "255".to_owned(),
        "hw.ncpu" => std::thread::available_parallelism().map_or(1, usize::from).to_string(),
        "kern.boottime" => format!("{{ sec = {booted}, usec = 0 }} {}", Time::of(booted).text()),
        "net.inet.ip.forwarding" => "0".to_owned(),
        "vfs.usermount" => "0".to_owned(),
        _ => return None,
    })
}

/// Whether this runs in a jail: started for one, or in a root that is no file system's own (a login in a jail that is played by chroot).
pub fn is_jailed(host: &Host) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let root = || std::fs::metadata("/").map_or(2, |root| root.ino());
    // The first inode of ext4, xfs, btrfs.
    let chrooted = || host.persona.processes == crate::persona::Real::Real && ![2, 128, 256].contains(&root());
    std::env::var_os("JAILHOST_JAIL").is_some() || chrooted()
}
