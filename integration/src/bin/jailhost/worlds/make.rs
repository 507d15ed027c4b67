//! `make` in a source directory: `buildworld`, `installworld`, `check-old`, `delete-old`, `delete-old-libs`, `-V`.
//!
//! The sources hold the world they build as a tree, `world/` (see `lay.rs`); `buildworld` copies it below /usr/obj, and only a
//! finished copy has the mark that `installworld` looks for. Whatever is installed prints a line, so that a fault after so
//! many bytes leaves a world half installed.

use std::path::{Path, PathBuf};

use super::{lay, obsolete};
use crate::disks::time::Time;
use crate::host::Host;
use crate::tools::chflags;
use crate::{faults, say};

/// What a 13.2 installs with schg, from the recording.
const SCHG: &[&str] = &[
    "lib/libc.so.7",
    "lib/libcrypt.so.5",
    "lib/libthr.so.3",
    "libexec/ld-elf.so.1",
    "sbin/init",
    "usr/bin/chpass",
    "usr/bin/crontab",
    "usr/bin/login",
    "usr/bin/opieinfo",
    "usr/bin/opiepasswd",
    "usr/bin/passwd",
    "usr/bin/su",
    "usr/lib/librt.so.1",
    "var/empty",
];

/// From which release on objects are in a directory by architecture, which make calls OBJTOP. Unproven.
const UNIFIED: u32 = 12;

const LINE: &str = "--------------------------------------------------------------\n";

#[derive(Default)]
struct Asked {
    directory: Option<String>,
    targets: Vec<String>,
    variables: Vec<(String, String)>,
    shown: Vec<String>,
    batch: bool,
}

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let mut asked = Asked::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = |option: &str| match argument.strip_prefix(option) {
            Some("") => rest.next().cloned().unwrap_or_default(),
            own => own.unwrap_or_default().to_owned(),
        };
        match argument.as_str() {
            option if option.starts_with("-C") => asked.directory = Some(value("-C")),
            option if option.starts_with("-j") => drop(value("-j")),
            option if option.starts_with("-D") => asked.batch |= value("-D") == "BATCH_DELETE_OLD_FILES",
            option if option.starts_with("-V") => asked.shown.push(value("-V")),
            "-s" | "-k" | "-B" => {}
            option if option.starts_with('-') => return say::not_played(option),
            argument => match argument.split_once('=') {
                Some((name, value)) => asked.variables.push((name.to_owned(), value.to_owned())),
                None => asked.targets.push(argument.to_owned()),
            },
        }
    }
    let directory = asked
        .directory
        .clone()
        .unwrap_or_else(|| host.pretended(&std::env::current_dir().unwrap_or_default().display().to_string()));
    let source = host.pretended(&directory);
    // Who names the source by its place on this machine is told its objects so.
    let shown = |path: String| if directory == source { path } else { host.path(path).display().to_string() };
    if !asked.shown.is_empty() {
        for name in &asked.shown {
            let is_known = name.ends_with("OBJDIR") || name == "OBJTOP" && lay::major(host, &source) >= UNIFIED;
            let value = if is_known { shown(object(host, &source)) } else { String::new() };
            say::out(&format!("{value}\n"));
        }
        return 0;
    }
    let is_rcd = source.ends_with("/etc/rc.d") && host.path(format!("{source}/Makefile")).exists();
    let known = ["buildworld", "installworld", "check-old", "delete-old", "delete-old-libs"];
    for target in &asked.targets {
        let destination = asked.variables.iter().find(|(name, _)| name == "DESTDIR").map(|(_, value)| value.clone());
        if let (true, "install", Some(to)) = (is_rcd, target.as_str(), &destination) {
            if let Err(wrong) = scripts(host, &source, to) {
                say::err(&format!(
                    "install: {to}: {}\n*** Error code 71\n\nStop.\nmake: stopped in {source}\n",
                    say::reason(&wrong)
                ));
                return 1;
            }
            continue;
        }
        if !known.contains(&target.as_str()) || !host.path(format!("{source}/Makefile.inc1")).exists() {
            say::err(&format!("make: don't know how to make {target}. Stop\n\nmake: stopped in {source}\n"));
            return 2;
        }
        let status = match (target.as_str(), destination) {
            ("buildworld", _) => build(host, &source),
            (_, None) => return say::not_played("the host's own world (no DESTDIR)"),
            ("installworld", Some(to)) => install(host, &source, &to),
            (target, Some(to)) => old(host, &source, &to, target, asked.batch),
        };
        if status != 0 {
            return status;
        }
    }
    0
}

/// Where the sources' objects are.
fn object(host: &Host, source: &str) -> String {
    let prefix = std::env::var("MAKEOBJDIRPREFIX").unwrap_or_else(|_| "/usr/obj".to_owned());
    if lay::major(host, source) < UNIFIED {
        return format!("{prefix}{source}");
    }
    let arch = &host.persona.arch;
    format!("{prefix}{source}/{arch}.{arch}")
}

fn framed(text: &str) {
    say::out(&format!("{LINE}>>> {text}\n{LINE}"));
}

/// `install` in etc/rc.d, where releases before 12 have it.
fn scripts(host: &Host, source: &str, destination: &str) -> std::io::Result<()> {
    let from = host.path(source);
    for file in files(&from).into_iter().filter(|file| file != Path::new("Makefile")) {
        put(&from.join(&file), &host.path(destination).join("etc/rc.d").join(file))?;
    }
    Ok(())
}

/// `buildworld`.
fn build(host: &Host, source: &str) -> u8 {
    let object = host.path(object(host, source));
    framed(&format!("World build started on {}", Time::now().dated()));
    let mark = object.join("world.finished");
    let _ = std::fs::remove_file(&mark);
    let world = host.path(source).join("world");
    // Where real objects are: the version early, a program of usr.bin late.
    let early = put(&world.join("bin/freebsd-version"), &object.join("bin/freebsd-version/freebsd-version"));
    let _ = put(&world.join("usr/include/osreldate.h"), &object.join("include/osreldate.h"));
    let _ = early;
    let _ = put(&world.join("bin/sh"), &object.join("bin/sh/sh"));
    for file in files(&world) {
        say::out(&format!("cc -O2 -pipe -o {}\n", file.display()));
        let (from, to) = (world.join(&file), object.join("world").join(&file));
        if let Err(wrong) = put(&from, &to) {
            say::err(&format!("*** Error code 1: {}\n\nStop.\nmake: stopped in {source}\n", say::reason(&wrong)));
            return 2;
        }
    }
    framed(&format!("World build completed on {}", Time::now().dated()));
    if !faults::lies() {
        let _ = put(&world.join("bin/sh"), &object.join("usr.bin/yes/yes"));
        let _ = std::fs::write(mark, "");
    }
    0
}

/// `installworld`: every file over what is there, flags taken off before and put on after.
fn install(host: &Host, source: &str, destination: &str) -> u8 {
    let object = host.path(object(host, source));
    if !object.join("world.finished").exists() {
        let object = host.pretended(&object.display().to_string());
        say::err(&format!(
            "make[1]: \"{source}/Makefile.inc1\": {object}: no world has been built\n*** Error code 1\n\nStop.\nmake: stopped in {source}\n"
        ));
        return 1;
    }
    framed("Install check world");
    framed("Making hierarchy");
    framed(&format!("Installing everything started on {}", Time::now().dated()));
    let (world, root) = (object.join("world"), host.path(destination));
    for file in if faults::lies() { Vec::new() } else { files(&world) } {
        let to = root.join(&file);
        let shown = format!("{destination}/{}", file.display());
        let is_protected = chflags::is_immutable(&to);
        if is_protected && host.persona.securelevel > 0 {
            say::err(&format!(
                "install: {shown}: chflags: Operation not permitted\n*** Error code 71\n\nStop.\nmake[4]: stopped in {source}\n*** Error code 1\n\nStop.\nmake: stopped in {source}\n"
            ));
            return 1;
        }
        let schg = SCHG.iter().any(|name| Path::new(name) == file);
        say::out(&format!(
            "install  -o root -g wheel -m {}{} {shown}\n",
            if schg { "555 -fschg -S" } else { "555" },
            file.display()
        ));
        let done = if is_protected { chflags::set(&to, &[]) } else { Ok(()) }
            .and_then(|()| put(&world.join(&file), &to))
            .and_then(|()| if schg { chflags::set(&to, &["schg".to_owned()]) } else { Ok(()) });
        if let Err(wrong) = done {
            say::err(&format!(
                "install: {shown}: {}\n*** Error code 71\n\nStop.\nmake: stopped in {source}\n",
                say::reason(&wrong)
            ));
            return 1;
        }
    }
    framed(&format!("Installing everything completed on {}", Time::now().dated()));
    0
}

/// Copies a file or a link in the place of another, by a rename.
pub fn put(from: &Path, to: &Path) -> std::io::Result<()> {
    if let Some(above) = to.parent() {
        std::fs::create_dir_all(above)?;
    }
    if from.symlink_metadata()?.is_dir() {
        return std::fs::create_dir_all(to);
    }
    let beside = to.with_file_name(format!("INS@{}", std::process::id()));
    let _ = std::fs::remove_file(&beside);
    if from.is_symlink() {
        std::os::unix::fs::symlink(std::fs::read_link(from)?, &beside)?;
    } else {
        std::fs::copy(from, &beside)?;
    }
    std::fs::rename(beside, to)
}

/// The files of a tree, and its empty directories, by their paths from its top, sorted.
pub fn files(top: &Path) -> Vec<PathBuf> {
    fn visit(top: &Path, at: &Path, found: &mut Vec<PathBuf>) {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(at).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort();
        if entries.is_empty() && at != top {
            found.extend(at.strip_prefix(top).map(Path::to_owned));
        }
        for entry in entries {
            if entry.is_dir() && !entry.is_symlink() {
                visit(top, &entry, found);
            } else {
                found.extend(entry.strip_prefix(top).map(Path::to_owned));
            }
        }
    }
    let mut found = Vec::new();
    visit(top, top, &mut found);
    found
}

/// `check-old`, `delete-old`, `delete-old-libs`.
fn old(host: &Host, source: &str, destination: &str, target: &str, batch: bool) -> u8 {
    let old = obsolete::read(host, &host.path(source));
    let root = host.path(destination);
    let there = |paths: &[String], directories: bool| -> Vec<String> {
        let is = |path: &&String| root.join(path).symlink_metadata().is_ok_and(|of| of.is_dir() == directories);
        paths.iter().filter(is).cloned().collect()
    };
    let (files, libraries, directories) =
        (there(&old.files, false), there(&old.libraries, false), there(&old.directories, true));
    let libraries_hint = "To remove old libraries run 'make delete-old-libs'.\n";
    let list = |paths: &[String]| paths.iter().map(|path| format!("{destination}/{path}\n")).collect::<String>();
    let remove = |paths: &[String]| {
        for path in paths {
            let at = root.join(path);
            if !batch {
                // It asks for each; at the end of its input the answer is no.
                say::out(&format!("remove {destination}/{path}? "));
            } else if !faults::lies() {
                let _ = chflags::set(&at, &[]);
                let _ = std::fs::remove_file(&at).or_else(|_| std::fs::remove_dir(&at));
            }
        }
    };
    match target {
        "check-old" => {
            say::out(&format!(
                ">>> Checking for old files\n{}>>> Checking for old libraries\n{}",
                list(&files),
                list(&libraries)
            ));
            say::out(&format!(">>> Checking for old directories\n{}", list(&directories)));
            say::out(&format!("To remove old files and directories run 'make delete-old'.\n{libraries_hint}"));
        }
        "delete-old" => {
            say::out(">>> Removing old files (only deletes safe to delete libs)\n");
            remove(&files);
            say::out(">>> Old files removed\n>>> Removing old directories\n");
            remove(&directories);
            say::out(&format!(">>> Old directories removed\n{libraries_hint}"));
        }
        _ => {
            say::out(
                ">>> Removing old libraries\nPlease be sure no application still uses those libraries, else you\ncan not start such an application. Consult UPDATING for more\ninformation regarding how to cope with the removal/revision bump\nof a specific library.\n",
            );
            remove(&libraries);
            say::out(">>> Old libraries removed\n");
        }
    }
    0
}
