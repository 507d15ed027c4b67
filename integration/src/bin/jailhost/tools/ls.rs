//! `ls` with the letters `1 A a d l o s`, for its `-o`: the flags of files. Other letters are GNU's business.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use super::chflags;
use crate::host::Host;
use crate::say;

/// A file to show: its name and where it is.
type Entry = (String, PathBuf);

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let mut letters = String::new();
    let mut names = Vec::new();
    for argument in arguments {
        match argument.strip_prefix('-') {
            Some(own) if !own.is_empty() => letters += own,
            _ => names.push(argument.clone()),
        }
    }
    if letters.chars().any(|letter| !"1Aadlos".contains(letter)) {
        return say::wrong(&say::reason(&std::process::Command::new("/bin/ls").args(arguments).exec()));
    }
    let has = |letter: char| letters.contains(letter);
    if names.is_empty() {
        names.push(".".to_owned());
    }
    names.sort();
    let mut status = 0;
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    for name in &names {
        let at = host.path(name);
        match at.symlink_metadata() {
            Err(wrong) => status = say::wrong(&format!("{name}: {}", say::reason(&wrong))),
            Ok(metadata) if metadata.is_dir() && !has('d') => directories.push((name.clone(), at)),
            Ok(_) => files.push((name.clone(), at)),
        }
    }
    show(&files, &letters);
    for (at, (name, directory)) in directories.iter().enumerate() {
        if names.len() > 1 {
            say::out(&format!("{}{name}:\n", if at > 0 || !files.is_empty() { "\n" } else { "" }));
        }
        let mut entries: Vec<Entry> = match std::fs::read_dir(directory) {
            Ok(entries) => {
                entries.flatten().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect()
            }
            Err(wrong) => {
                status = say::wrong(&format!("{name}: {}", say::reason(&wrong)));
                continue;
            }
        };
        entries.retain(|(name, _)| has('a') || has('A') || !name.starts_with('.'));
        if has('a') {
            entries.push((".".to_owned(), directory.clone()));
            entries.push(("..".to_owned(), directory.join("..")));
        }
        entries.sort();
        if has('l') || has('s') || has('o') {
            let blocks: u64 = entries.iter().filter_map(|(_, at)| at.symlink_metadata().ok()).map(|m| m.blocks()).sum();
            say::out(&format!("total {}\n", blocks / 2));
        }
        show(&entries, &letters);
    }
    status
}

fn show(entries: &[Entry], letters: &str) {
    if !letters.contains('l') && !letters.contains('o') {
        for (name, at) in entries {
            let blocks = at.symlink_metadata().map_or(0, |metadata| metadata.blocks()) / 2;
            let size = if letters.contains('s') { format!("{blocks} ") } else { String::new() };
            say::out(&format!("{size}{name}\n"));
        }
        return;
    }
    let rows: Vec<[String; 7]> = entries.iter().filter_map(|(name, at)| row(name, at)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let [blocks, links, owner, group, flags, size] = [0, 2, 3, 4, 5, 6].map(width);
    for (row, (name, at)) in rows.iter().zip(entries.iter().filter(|(_, at)| at.symlink_metadata().is_ok())) {
        let front = if letters.contains('s') { format!("{:>blocks$} ", row[0]) } else { String::new() };
        let middle = if letters.contains('o') { format!("{:<flags$} ", row[5]) } else { String::new() };
        let link = std::fs::read_link(at).map(|target| format!(" -> {}", target.display())).unwrap_or_default();
        let when = at.symlink_metadata().map_or(0, |metadata| metadata.mtime());
        say::out(&format!(
            "{front}{:<10}  {:>links$} {:<owner$}  {:<group$}  {middle}{:>size$} {} {name}{link}\n",
            row[1].trim_end(),
            row[2],
            row[3],
            row[4],
            row[6],
            date(when)
        ));
    }
}

/// Blocks, mode, links, owner, group, flags, size.
fn row(_: &str, at: &Path) -> Option<[String; 7]> {
    let of = at.symlink_metadata().ok()?;
    let flags = chflags::flags(at).join(",");
    let flags = if flags.is_empty() { "-".to_owned() } else { flags };
    // A snapshot is as large as its file system.
    Some([
        (of.blocks() / 2).to_string(),
        mode(&of),
        of.nlink().to_string(),
        user(of.uid()),
        group(of.gid()),
        flags,
        of.len().to_string(),
    ])
}

/// `drwxr-xr-x`, with a `+` no more than the real one without ACLs.
pub fn mode(of: &std::fs::Metadata) -> String {
    let kind = of.file_type();
    let first = match () {
        () if kind.is_dir() => 'd',
        () if kind.is_symlink() => 'l',
        () if kind.is_fifo() => 'p',
        () if kind.is_socket() => 's',
        () if kind.is_block_device() => 'b',
        () if kind.is_char_device() => 'c',
        () => '-',
    };
    let bits = of.permissions().mode();
    let mut text = String::from(first);
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits_of = bits >> shift;
        text.push(if bits_of & 4 != 0 { 'r' } else { '-' });
        text.push(if bits_of & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits_of & 1 != 0, bits & special != 0) {
            (true, true) => set,
            (false, true) => unset,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// The name of a user. 0 is root on both systems.
pub fn user(id: u32) -> String {
    nix::unistd::User::from_uid(id.into()).ok().flatten().map_or_else(|| id.to_string(), |user| user.name)
}

/// The name of a group: FreeBSD's for those that Linux calls otherwise.
pub fn group(id: u32) -> String {
    match id {
        0 => "wheel".to_owned(),
        5 => "operator".to_owned(),
        id => nix::unistd::Group::from_gid(id.into()).ok().flatten().map_or_else(|| id.to_string(), |group| group.name),
    }
}

/// `Nov 22 01:43`, or with the year where it is half a year away.
fn date(seconds: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let far = (i64::try_from(now).unwrap_or(0) - seconds).abs() > 182 * 86400;
    let time = crate::disks::time::Time::of(seconds);
    let middle = if far { format!(" {}", time.year) } else { format!("{:02}:{:02}", time.hour, time.minute) };
    format!("{} {:>2} {middle}", time.month_name(), time.day)
}
