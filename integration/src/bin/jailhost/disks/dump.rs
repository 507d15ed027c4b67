//! `dump` with FreeBSD's command line. The stream is that of Linux's dump, of an ext4; what is said is what FreeBSD says.

use std::fs::File;
use std::io::{BufReader, Read};
use std::process::{Command, Stdio};

use super::dump_asked::{self, Asked};
use super::dump_said::{Told, message};
use super::filesystems::{self, Filesystem};
use super::time::Time;
use super::{dumpdates, snapshots};
use crate::host::Host;
use crate::{faults, say};

const REAL: &str = "/usr/sbin/dump";

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let mut asked = match dump_asked::asked(host, arguments) {
        Ok(asked) => asked,
        Err(status) => return status,
    };
    asked.what = host.pretended(&asked.what);
    let found = find(host, &asked.what);
    let is_mounted = found.as_ref().is_some_and(|of| of.is_mounted);
    let read_only = found.as_ref().is_some_and(|of| of.options.iter().any(|option| option == "read-only"));
    let mut snapshot = asked.snapshot;
    let mut inode = 0;
    if snapshot && !is_mounted {
        message("WARNING: Cannot use -L on an unmounted filesystem.");
        snapshot = false;
    } else if snapshot && read_only {
        message("WARNING: Cannot use -L on a read-only filesystem.");
        snapshot = false;
    } else if !snapshot && is_mounted && !read_only && host.persona.major() >= 5 {
        message("WARNING: should use -L when dumping live read-write filesystems!");
    }
    let Some(of) = found else {
        let known = host.path(&asked.what).exists() || filesystems::all(host).iter().any(|of| of.device == asked.what);
        let wrong = if known {
            format!("{}: unknown file system", asked.what)
        } else {
            format!("Cannot open {}: No such file or directory", asked.what)
        };
        return say::wrong(&wrong);
    };
    let Some(behind) = of.behind.clone() else {
        say::err(&format!("jailhost: dump: no device of this machine behind {}\n", of.device));
        return 70;
    };
    if snapshot && !asked.size_only {
        match take_snapshot(host, &of) {
            Ok(Some(number)) => inode = number,
            Ok(None) => snapshot = false,
            Err(status) => return status,
        }
    }
    run(host, &asked, &of, behind, snapshot.then_some(inode))
}

/// A mount point stands in fstab(5); a device is any that is UFS.
fn find(host: &Host, what: &str) -> Option<Filesystem> {
    let all: Vec<Filesystem> = filesystems::all(host).into_iter().filter(|of| of.kind == "ufs").collect();
    let fstab = filesystems::fstab(host);
    let device = fstab
        .iter()
        .find(|(_, mountpoint, kind)| mountpoint == what && kind == "ufs")
        .map_or(what, |(device, ..)| device);
    let mut named =
        all.into_iter().filter(|of| of.device == device || of.device.replacen("/dev/", "/dev/r", 1) == device);
    named.next()
}

/// The snapshot's inode; none if there is no place for one, which downgrades the dump.
fn take_snapshot(host: &Host, of: &Filesystem) -> Result<Option<u64>, u8> {
    let place = format!("{}/.snap", of.mountpoint.trim_end_matches('/'));
    if !host.path(&place).is_dir() {
        message(&format!("WARNING: -L requested but snapshot location {place}"));
        message("         is not a directory: dump downgraded, -L ignored");
        return Ok(None);
    }
    let file = format!("{place}/dump_snapshot");
    let cannot = |wrong: &str| {
        say::err(&format!("dump: Cannot create {file}: {wrong}\n\n"));
        Err(1)
    };
    if !nix::unistd::geteuid().is_root() && host.root.as_os_str() == "/" {
        say::err("sh: /sbin/mksnap_ffs: Permission denied\n");
        return cannot("Permission denied");
    }
    if let Err(wrong) = snapshots::make(host, &file) {
        say::err(&format!("mksnap_ffs: Cannot create snapshot {file}: {wrong}\n"));
        return cannot("No such file or directory");
    }
    let inode = snapshots::inode(host, &file);
    // As the real one: the file is opened and unlinked before anything is read.
    let _ = std::fs::remove_file(host.path(&file));
    Ok(Some(inode))
}

/// Where the stream goes.
enum Target {
    Inherited,
    Copied,
    File(File),
    Pipe(std::process::Child),
}

fn run(host: &Host, asked: &Asked, of: &Filesystem, behind: String, snapshot: Option<u64>) -> u8 {
    let dates_file = asked.dates.clone().unwrap_or_else(|| "/etc/dumpdates".to_owned());
    let base = match &asked.since {
        Some(since) => Some((asked.level.saturating_sub(1), since.clone())),
        None => dumpdates::base(host, &dates_file, &of.device, asked.level),
    };
    let output = asked.file.clone().unwrap_or_else(|| "/dev/sa0".to_owned());
    let target = match target(host, asked, &output) {
        Ok(target) => target,
        Err(status) => return status,
    };
    sync(host, of, &behind);
    let copy = snapshot.filter(|_| host.persona.snapshot == "copy").map(|_| snapshots::Copy::of(host, of, &behind));
    if asked.size_only {
        return estimate(host, asked, of, &behind, base, output);
    }
    let source = match &copy {
        Some(Ok(copy)) => copy.device.clone(),
        Some(Err(wrong)) => {
            say::err(&format!("jailhost: dump: {wrong}\n"));
            return 70;
        }
        None => behind,
    };
    let mut real = Command::new(REAL);
    real.arg(format!("-{}", asked.level))
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    real.args(["-f", "-"]);
    if asked.level > 0 {
        // At a level that honors nodump Linux's dump lets restore remove such files; FreeBSD's leaves them as they are.
        real.args(["-h", &(asked.level + 1).to_string()]);
    } else if let Some(level) = asked.honor {
        real.args(["-h", &level.to_string()]);
    }
    if let Some(block) = &asked.block {
        real.args(["-b", block]);
    }
    if let (Some((_, since)), true) = (&base, asked.level > 0) {
        real.args(["-T", &format!("{since} +0000")]);
    } else if asked.level > 0 {
        real.args(["-T", &format!("{} +0000", Time::of(0).text())]);
    }
    if let Some(inode) = snapshot {
        // FreeBSD's restore meets the snapshot's inode in the stream and says so; here it finds it in the label.
        real.args(["-L", &format!("snapshot {inode}")]);
    }
    real.arg(&source);
    let mut piped = None;
    match target {
        Target::Inherited => drop(real.stdout(Stdio::inherit())),
        Target::Copied => drop(real.stdout(Stdio::piped())),
        Target::File(file) => drop(real.stdout(file)),
        Target::Pipe(mut child) => {
            if let Some(stdin) = child.stdin.take() {
                real.stdout(stdin);
            }
            piped = Some(child);
        }
    }
    let mut child = match real.spawn() {
        Ok(child) => child,
        Err(wrong) => {
            say::err(&format!("jailhost: {REAL}: {wrong}\n"));
            return 70;
        }
    };
    drop(real);
    let status = std::thread::scope(|scope| {
        if let Some(stdout) = child.stdout.take() {
            scope.spawn(move || copy_out(stdout));
        }
        let told = child
            .stderr
            .take()
            .map(|stderr| Told::new(host, asked, of, snapshot, base, output, dates_file).all(BufReader::new(stderr)));
        let status = child.wait().ok().and_then(|status| status.code()).unwrap_or(3);
        if let Some(told) = told
            && status == 0
        {
            told.end();
        }
        status
    });
    if let Some(mut piped) = piped {
        let _ = piped.wait();
    }
    u8::try_from(status).unwrap_or(3)
}

/// `-S`: how much it would be.
fn estimate(
    host: &Host,
    asked: &Asked,
    of: &Filesystem,
    behind: &str,
    base: Option<(u8, String)>,
    output: String,
) -> u8 {
    let since = base.as_ref().filter(|_| asked.level > 0).map(|(_, since)| format!("{since} +0000"));
    let mut real = Command::new(REAL);
    real.arg(format!("-{}", asked.level))
        .arg("-S")
        .env("TZ", "UTC")
        .args(since.iter().flat_map(|since| ["-T", since]))
        .arg(behind);
    let bytes = match real.output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().parse::<u64>().unwrap_or(0)
        }
        Ok(output) => return say::wrong(&String::from_utf8_lossy(&output.stderr)),
        Err(wrong) => return say::wrong(&wrong.to_string()),
    };
    let mut told = Told::new(host, asked, of, None, base, output, String::new());
    told.head();
    told.one("mapping (Pass I) [regular files]");
    told.one("mapping (Pass II) [directories]");
    told.one(&format!("estimated {} blocks.", bytes / 1024));
    0
}

fn target(host: &Host, asked: &Asked, output: &str) -> Result<Target, u8> {
    if let Some(pipe) = &asked.pipe {
        let child = Command::new("/bin/sh").args(["-c", pipe]).stdin(Stdio::piped()).spawn();
        return child.map(Target::Pipe).map_err(|wrong| say::wrong(&say::reason(&wrong)));
    }
    match output {
        "-" if say::is_counted() || faults::lies() => Ok(Target::Copied),
        "-" => Ok(Target::Inherited),
        file => match File::create(if file.starts_with("/dev/") { file.into() } else { host.path(file) }) {
            Ok(file) => Ok(Target::File(file)),
            Err(wrong) => {
                message(&format!("Cannot open output \"{file}\": {}.", say::reason(&wrong)));
                message("The ENTIRE dump is aborted.");
                Err(3)
            }
        },
    }
}

/// Hands the stream on, as far as faults let it.
fn copy_out(mut from: impl Read) {
    let mut block = vec![0; 1 << 18];
    let mut passed = 0;
    while let Ok(length @ 1..) = from.read(&mut block) {
        // A lie: all but the first 256 KiB is lost on the way, and nobody says so.
        if faults::lies() && passed > 0 {
            continue;
        }
        if say::bytes(&block[..length]).is_err() {
            return;
        }
        passed += length;
    }
}

/// What was written is on the device, and what was read of the device before is read again.
fn sync(host: &Host, of: &Filesystem, behind: &str) {
    if let Ok(mounted) = File::open(host.path(&of.mountpoint)) {
        let _ = nix::unistd::syncfs(&mounted);
    }
    let _ = Command::new("/usr/sbin/blockdev").args(["--flushbufs", behind]).stderr(Stdio::null()).status();
}
