//! `rm` that refuses what flags protect, as the real one does. GNU's long options are GNU's business.

use std::os::unix::process::CommandExt;
use std::path::Path;

use super::chflags;
use crate::host::Host;
use crate::{faults, say};

const USAGE: &str = "usage: rm [-f | -i] [-dIPRrvWx] file ...\n       unlink [--] file\n";

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    if arguments.iter().any(|argument| argument.starts_with("--") && argument.len() > 2) {
        return say::wrong(&say::reason(&std::process::Command::new("/bin/rm").args(arguments).exec()));
    }
    let (mut recursive, mut force) = (false, false);
    let mut rest = arguments.iter().peekable();
    while let Some(letters) = rest.next_if(|argument| argument.starts_with('-') && argument.len() > 1) {
        if letters == "--" {
            break;
        }
        for letter in letters[1..].chars() {
            match letter {
                'r' | 'R' => recursive = true,
                'f' => force = true,
                'd' | 'P' | 'v' | 'x' => {}
                'i' | 'I' | 'W' => return say::not_played(&format!("-{letter}")),
                letter => return say::illegal(letter, USAGE),
            }
        }
    }
    if rest.peek().is_none() {
        if force {
            return 0;
        }
        say::err(USAGE);
        return 64;
    }
    let mut good = true;
    for name in rest {
        let at = host.path(name);
        if faults::lies()
            || (force && at.symlink_metadata().is_err_and(|wrong| wrong.kind() == std::io::ErrorKind::NotFound))
        {
            continue;
        }
        good &= remove(&at, name, recursive);
    }
    u8::from(!good)
}

/// Removes a file, or a tree as far as it goes; what stays is told, deepest first.
fn remove(at: &Path, name: &str, recursive: bool) -> bool {
    let complain = |wrong: &str| {
        say::err(&format!("rm: {name}: {wrong}\n"));
        false
    };
    let of = match at.symlink_metadata() {
        Ok(of) => of,
        Err(wrong) => return complain(&say::reason(&wrong)),
    };
    if !of.is_dir() {
        if chflags::is_immutable(at) || at.parent().is_some_and(chflags::is_immutable) {
            return complain("Operation not permitted");
        }
        return std::fs::remove_file(at).map_or_else(|wrong| complain(&say::reason(&wrong)), |()| true);
    }
    if !recursive {
        return complain("is a directory");
    }
    let mut entries: Vec<_> = std::fs::read_dir(at).into_iter().flatten().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        remove(&entry.path(), &format!("{name}/{}", entry.file_name().to_string_lossy()), true);
    }
    if chflags::is_immutable(at) || at.parent().is_some_and(chflags::is_immutable) {
        return complain("Operation not permitted");
    }
    std::fs::remove_dir(at).map_or_else(|wrong| complain(&say::reason(&wrong)), |()| true)
}
