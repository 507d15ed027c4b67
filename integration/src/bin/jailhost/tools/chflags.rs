//! `chflags`, and where flags are kept: in the extended attribute `user.jailhost.flags` of a file, `schg,nodump`, so that
//! `mke2fs -d`, `dump`, `restore` and `cp -a` of this machine carry them along. Symbolic links have none.

use std::path::Path;

use rustix::fs::XattrFlags;

use crate::host::Host;
use crate::{faults, say};

const USAGE: &str = "usage: chflags [-fhvx] [-R [-H | -L | -P]] flags file ...\n";
const ATTRIBUTE: &str = "user.jailhost.flags";
/// The flags of chflags(1), with their other names; the first is the one that `ls -o` shows.
const FLAGS: &[&[&str]] = &[
    &["arch", "archived"],
    &["nodump"],
    &["opaque"],
    &["sappnd", "sappend"],
    &["schg", "schange", "simmutable"],
    &["snapshot"],
    &["sunlnk", "sunlink"],
    &["uappnd", "uappend"],
    &["uarch", "uarchive"],
    &["uchg", "uchange", "uimmutable"],
    &["uunlnk", "uunlink"],
];

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let (mut recursive, mut force, mut verbose) = (false, false, false);
    let mut rest = arguments.iter().peekable();
    while let Some(letters) = rest.next_if(|argument| argument.starts_with('-') && argument.len() > 1) {
        for letter in letters[1..].chars() {
            match letter {
                'R' => recursive = true,
                'f' => force = true,
                'v' => verbose = true,
                'h' | 'H' | 'P' | 'x' => {}
                'L' => return say::not_played("-L"),
                letter => return say::illegal(letter, USAGE),
            }
        }
    }
    let (Some(wanted), true) = (rest.next(), rest.peek().is_some()) else {
        say::err(USAGE);
        return 1;
    };
    let mut changes = Vec::new();
    for word in wanted.split(',').filter(|word| *word != "0") {
        // "nodump" is a flag, "dump" clears it; with the others "no" clears.
        let (word, on) = match word {
            "nodump" => ("nodump", true),
            "dump" => ("nodump", false),
            word => word.strip_prefix("no").map_or((word, true), |word| (word, false)),
        };
        let Some(flag) = FLAGS.iter().find(|names| names.contains(&word)).map(|names| names[0]) else {
            return say::wrong(&format!("invalid flag: {word}"));
        };
        changes.push((flag, on));
    }
    let everything_off = wanted == "0";
    let mut status = 0;
    for path in rest {
        if faults::lies() {
            continue;
        }
        let at = host.path(path);
        walk(&at, recursive, &mut |file| {
            if let Err(wrong) = change(host, file, &changes, everything_off) {
                if !force {
                    say::err(&format!("chflags: {}: {}\n", shown(&at, path, file), say::reason(&wrong)));
                    status = 1;
                }
            } else if verbose {
                say::out(&format!("{}\n", shown(&at, path, file)));
            }
        });
    }
    status
}

fn shown(top: &Path, said: &str, file: &Path) -> String {
    match file.strip_prefix(top) {
        Ok(rest) if !rest.as_os_str().is_empty() => format!("{}/{}", said.trim_end_matches('/'), rest.display()),
        _ => said.to_owned(),
    }
}

fn walk(at: &Path, recursive: bool, each: &mut dyn FnMut(&Path)) {
    each(at);
    if recursive && at.is_dir() && !at.is_symlink() {
        let mut entries: Vec<_> =
            std::fs::read_dir(at).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for entry in entries {
            walk(&entry, true, each);
        }
    }
}

fn change(host: &Host, file: &Path, changes: &[(&str, bool)], everything_off: bool) -> std::io::Result<()> {
    if file.symlink_metadata()?.is_symlink() {
        return Ok(());
    }
    let old = flags(file);
    let mut new = if everything_off { Vec::new() } else { old.clone() };
    for (flag, on) in changes {
        new.retain(|known| known != flag);
        if *on {
            new.push((*flag).to_owned());
        }
    }
    let system = |flags: &[String]| {
        flags
            .iter()
            .filter(|flag| ["schg", "sappnd", "sunlnk", "arch"].contains(&flag.as_str()))
            .cloned()
            .collect::<Vec<_>>()
    };
    // "super-user only, … may not be cleared" at a raised securelevel; and a file that has one keeps all its flags then.
    if host.persona.securelevel > 0 && !system(&old).is_empty() && new != old {
        return Err(std::io::Error::from_raw_os_error(1));
    }
    if new == old {
        return Ok(());
    }
    new.sort();
    set(file, &new)
}

/// The flags of a file.
pub fn flags(file: &Path) -> Vec<String> {
    let mut value = [0; 256];
    let length = rustix::fs::lgetxattr(file, ATTRIBUTE, &mut value[..]).unwrap_or(0);
    let text = String::from_utf8_lossy(&value[..length]).into_owned();
    text.split(',').filter(|flag| !flag.is_empty()).map(str::to_owned).collect()
}

/// Gives a file exactly these flags.
pub fn set(file: &Path, flags: &[String]) -> std::io::Result<()> {
    if flags.is_empty() {
        rustix::fs::lremovexattr(file, ATTRIBUTE)?;
    } else {
        rustix::fs::lsetxattr(file, ATTRIBUTE, flags.join(",").as_bytes(), XattrFlags::empty())?;
    }
    // The one flag that Linux's dump asks for, where the file system has it.
    if let Ok(opened) = std::fs::File::open(file)
        && let Ok(mut own) = rustix::fs::ioctl_getflags(&opened)
    {
        own.set(rustix::fs::IFlags::NODUMP, flags.iter().any(|flag| flag == "nodump"));
        let _ = rustix::fs::ioctl_setflags(&opened, own);
    }
    Ok(())
}

/// Whether flags forbid to remove or change a file.
pub fn is_immutable(file: &Path) -> bool {
    flags(file).iter().any(|flag| ["schg", "uchg", "sunlnk", "uunlnk"].contains(&flag.as_str()))
}
