//! Base systems for the machines of [`super::jails`]: the server is a FreeBSD whose administrator changed some of it, the host of jails has
//! sources of its own release and of an old one with their buildworld, of the server's, and of one that is too new for it.
//!
//! They are small ones, which the stand-ins lay, build and install (`integration/jailhost/README.md`, "Worlds").

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::jails;
use crate::command::run;

/// What the server runs.
pub const OLD: &str = "12.4-RELEASE";
/// What a server runs that is older than etcupdate(8), freebsd-version(1) and pkg(8).
pub const ANCIENT: &str = "8.4-RELEASE";
/// What such a one can be brought to; its source is in `/usr/src9` of the host of jails, built.
pub const AGED: &str = "9.3-RELEASE";
/// What the host of jails runs; its source is in `/usr/src`, built.
pub const NEW: &str = "13.2-RELEASE";
/// Newer than the host's kernel; its source is in `/usr/src14`.
pub const NEWER: &str = "14.1-RELEASE";

/// Runs a stand-in on the tree of a machine.
fn play(root: &Path, argv: &[&str]) -> Result<()> {
    let state = root.join("var/db/jailhost");
    let stand_in = run(jails::program()?).args(argv).env("JAILHOST_ROOT", root).env("JAILHOST_STATE", state);
    stand_in.output().map(drop)
}

/// The sources of the host of jails.
///
/// # Errors
/// They cannot be laid.
pub fn sources(root: &Path) -> Result<()> {
    play(root, &["lay", NEW])?;
    play(root, &["make", "-C", "/usr/src", "buildworld"])?;
    play(root, &["lay", AGED, "/usr/src9"])?;
    play(root, &["make", "-C", "/usr/src9", "buildworld"])?;
    play(root, &["lay", OLD, "/usr/src12"])?;
    play(root, &["lay", NEWER, "/usr/src14"])
}

/// A server's base system of a release ([`OLD`], [`ANCIENT`]), and packages.
///
/// # Errors
/// A file cannot be written.
pub fn server(root: &Path, release: &str) -> Result<()> {
    let write = |path: &str, text: &str| {
        let at = root.join(path);
        fs::create_dir_all(at.parent().unwrap_or(root))?;
        fs::write(&at, text).with_context(|| format!("writing /{path}"))
    };
    play(root, &["lay", release])?;
    play(root, &["make", "-C", "/usr/src", "buildworld"])?;
    play(root, &["make", "-C", "/usr/src", "installworld", "DESTDIR=/"])?;
    let stock = root.join("usr/src/etc-tree/etc");
    let kept = ["group", "master.passwd"].map(|name| stock.join(name));
    for file in &kept {
        fs::remove_file(file)?;
    }
    run("cp").args(["--archive", "-T"]).arg(&stock).arg(root.join("etc")).output()?;
    for directory in ["usr/src", "usr/obj"] {
        fs::remove_dir_all(root.join(directory))?;
        fs::create_dir(root.join(directory))?;
    }
    // Its accounts, in FreeBSD's form.
    let accounts = fs::read_to_string(root.join("etc/passwd"))?;
    let account = |line: &str| -> Option<String> {
        let mut fields = line.splitn(5, ':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(format!("{name}:*:{uid}:{gid}::0:0:{}\n", fields.next()?))
    };
    write("etc/master.passwd", &accounts.lines().filter_map(account).collect::<String>())?;
    // Changed where the release changes it too, and elsewhere.
    let change = |path: &str, from: &str, to: &str| {
        let text = fs::read_to_string(root.join(path))?;
        anyhow::ensure!(text.contains(from), "/{path} has no {from}");
        write(path, &text.replace(from, to))
    };
    change("etc/newsyslog.conf", &format!("# of {release}"), "# ServerA keeps its logs")?;
    change("etc/login.conf", "umask=022", "umask=027")?;
    // What the new release has no more.
    write("usr/bin/gone", "of old\n")?;
    write("lib/libedit.so.7", "of old\n")?;
    fs::create_dir_all(root.join("usr/share/gone"))?;
    packages(root, release).with_context(|| format!("installing packages of {release}"))?;
    // Debian's lead out of a jail's tree, where FreeBSD has directories.
    for (link, to) in [("var/run", "../run"), ("var/lock", "../run/lock")] {
        fs::remove_file(root.join(link))?;
        symlink(to, root.join(link))?;
    }
    Ok(())
}

/// Two packages, as pkg(8) knows them, or as a directory for each told before there was one.
fn packages(root: &Path, release: &str) -> Result<()> {
    let registered = root.join("var/db/pkg");
    if release == ANCIENT {
        // And a file that has to come with the new release.
        fs::remove_file(root.join("etc/syslog.conf"))?;
        return ["nginx-1.4.1", "pcre-8.32"].iter().try_for_each(|name| Ok(fs::create_dir_all(registered.join(name))?));
    }
    let pkg = root.join("usr/local/sbin/pkg-static");
    fs::create_dir_all(pkg.with_file_name(""))?;
    fs::write(&pkg, "#!/bin/sh\nexec /usr/local/jailhost/pkg-static \"$@\"\n")?;
    fs::set_permissions(pkg, fs::Permissions::from_mode(0o555))?;
    fs::create_dir_all(&registered)?;
    fs::write(registered.join("local.sqlite"), "")?;
    let names = "pkg 1.20.9 FreeBSD:12:amd64\nnginx 1.24.0 FreeBSD:12:amd64\n";
    Ok(fs::write(registered.join("jailhost"), names)?)
}
