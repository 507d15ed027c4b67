//! What a jail would stumble over or send mail about: file systems, clocks, consoles and packet filters it does not have.
//!
//! * fstab(5): every entry; a jail's file systems are mounted by its host. Network mounts are told.
//! * crontab(5) of the system: `adjkerntz` and `save-entropy`, which are about the machine's clock and randomness.
//! * periodic.conf(5): reports on disks, interfaces, packet filters and the kernel's messages. mailq and the like stay: a jail
//!   has its mail.
//! * newsyslog.conf(5) and syslog.conf(5): the log of pflogd, and /dev/console.
//! * resolv.conf(5) is kept; a missing one is the host's. Of localtime and root's mail it is told if they are missing.

use std::collections::BTreeSet;
use std::path::Path;

use hypervisors::jail::rc::{Statement, Value};

use super::rc::{parse, reduced};
use super::{COMMENT, FileImage, Files, GuestError, JailSpec, with_lines, without};

/// Reports that are on by default and that a jail cannot make; names of periodic.conf(5) of 10.x and later.
const REPORTS: [&str; 10] = [
    "daily_backup_efi_enable",
    "daily_backup_gpart_enable",
    "daily_status_disks_enable",
    "daily_status_network_enable",
    "security_status_chkmounts_enable",
    "security_status_ipfdenied_enable",
    "security_status_ipfwdenied_enable",
    "security_status_ipfwlimit_enable",
    "security_status_kernelmsg_enable",
    "security_status_pfdenied_enable",
];
/// Beginnings of the names of reports that are on only where someone has set them so.
const DEVICES: [&str; 12] = [
    "daily_scrub_zfs_",
    "daily_status_ata_raid_",
    "daily_status_gconcat_",
    "daily_status_gmirror_",
    "daily_status_graid",
    "daily_status_gstripe_",
    "daily_status_mfi",
    "daily_status_ntpd_",
    "daily_status_smart_",
    "daily_status_zfs_",
    "daily_trim_zfs_",
    "weekly_noid_",
];

/// Plans the reduction.
pub(super) fn reduce(files: &mut Files<'_>, spec: &JailSpec) -> Result<(), GuestError> {
    fstab(files)?;
    periodic(files)?;
    let command = |line: &str| {
        line.split_ascii_whitespace().nth(6).map(|word| word.rsplit('/').next().unwrap_or(word).to_owned())
    };
    let clock =
        |line: &str| command(line).is_some_and(|command| ["adjkerntz", "save-entropy"].contains(&command.as_str()));
    comment_out(files, "etc/crontab", "clock and randomness are the jail host's", clock)?;
    let pflog = |line: &str| line.split_ascii_whitespace().any(|word| word == "/var/run/pflogd.pid");
    comment_out(files, "etc/newsyslog.conf", "the packet filter is the jail host's", pflog)?;
    let console = |line: &str| line.split_ascii_whitespace().last() == Some("/dev/console");
    comment_out(files, "etc/syslog.conf", "a jail has no console", console)?;
    resolver(files, spec)?;
    tell(files)
}

fn comment_out(files: &mut Files<'_>, path: &str, why: &str, goes: impl Fn(&str) -> bool) -> Result<(), GuestError> {
    let path = Path::new(path);
    match files.text(path)?.and_then(|text| without(&text, goes)) {
        Some(new) => files.set(path, &new, why),
        None => Ok(()),
    }
}

fn fstab(files: &mut Files<'_>) -> Result<(), GuestError> {
    let path = Path::new("etc/fstab");
    let Some(text) = files.text(path)? else { return Ok(()) };
    let Some(new) = without(&text, |_| true) else { return Ok(()) };
    for (index, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if let [what, place, "nfs" | "smbfs" | "nullfs" | "cifs", ..] = fields[..]
            && !what.starts_with('#')
        {
            let what = hypervisors::host::printable(&format!("{what} on {place}"));
            files.note(format!("/etc/fstab:{}: {what} is for the jail host to mount", index + 1));
        }
    }
    files.keep_original(path)?;
    files.set(path, &new, "file systems are mounted by the jail host")
}

fn periodic(files: &mut Files<'_>) -> Result<(), GuestError> {
    let path = Path::new("etc/periodic.conf");
    if !matches!(files.edits.image(path), Ok(None | Some(FileImage::Regular { .. }))) {
        files.note("etc/periodic.conf: is not a regular file; it is left alone");
        return Ok(());
    }
    let text = files.text(path)?.unwrap_or_default();
    let rc = match parse(path, &text) {
        Ok(rc) => rc,
        Err(error) => {
            files.note(format!("{error}; it is left alone"));
            return Ok(());
        }
    };
    let device = |statement: &Statement| match statement {
        Statement::Assign(assign) => DEVICES.iter().any(|start| assign.name.starts_with(start)),
        Statement::Code(_) => false,
    };
    let gone: BTreeSet<usize> = (0..rc.statements().len()).filter(|index| device(&rc.statements()[*index])).collect();
    let text = reduced(path, &rc, &gone)?.unwrap_or(text);
    let is_off = |name: &&str| matches!(rc.value(name), Value::Is(value) if value.eq_ignore_ascii_case("no"));
    let unknown = |name: &&str| matches!(rc.value(name), Value::Unknown(_));
    let missing = REPORTS.iter().filter(|name| !is_off(name) && !unknown(name));
    let mut lines: Vec<String> = missing.map(|name| format!("{name}=\"NO\"")).collect();
    if !lines.is_empty() {
        lines.insert(0, format!("{COMMENT}a jail has no disks, interfaces, packet filters and kernel of its own"));
        let new = with_lines(&text, &lines);
        return files.set(path, &new, "no reports on what is the jail host's");
    }
    if text != rc.text() { files.set(path, &text, "no reports on what is the jail host's") } else { Ok(()) }
}

fn resolver(files: &mut Files<'_>, spec: &JailSpec) -> Result<(), GuestError> {
    let path = Path::new("etc/resolv.conf");
    if let (Ok(None), Some(text)) = (files.edits.image(path), &spec.resolv_conf) {
        return files.set(path, text, "there is none: the jail host's");
    }
    Ok(())
}

/// Tells what is missing.
fn tell(files: &mut Files<'_>) -> Result<(), GuestError> {
    if let Ok(None) = files.edits.image(Path::new("etc/localtime")) {
        files.note("/etc/localtime: there is none; the jail's time is UTC");
    }
    let mut aliases = None;
    for path in ["etc/mail/aliases", "etc/aliases"] {
        if aliases.is_none() && matches!(files.edits.image(Path::new(path)), Ok(Some(FileImage::Regular { .. }))) {
            aliases = files.text(Path::new(path))?.map(|text| (path, text));
        }
    }
    if let Some((path, text)) = aliases {
        let of_root =
            |line: &str| line.split_once(':').is_some_and(|(name, to)| name.trim() == "root" && !to.trim().is_empty());
        if !text.lines().any(of_root) {
            files.note(format!("/{path}: root's mail goes to nobody; it stays in the jail"));
        }
    }
    Ok(())
}
