//! A jail whose base system was upgraded from its host.

use anyhow::{Result, ensure};

use super::trial::{CLONE, Trial};
use crate::lab::jails::JAILHOST;
use crate::lab::worlds::NEW;

/// Looks at an upgraded jail, from its host and from within.
pub fn is_upgraded(trial: &Trial, tree: &str) -> Result<()> {
    let host = |command: &str| trial.on(JAILHOST.host, &format!("cd {tree} && {command}"));
    ensure!(trial.on(CLONE, "freebsd-version -u")?.trim() == NEW, "it runs the new release");
    let world = host("tail -c 40 lib/libc.so.7; tail -c 60 bin/sh; ls -lo lib/libc.so.7")?;
    ensure!(world.contains(&format!("libc.so.7 of FreeBSD {NEW}")) && world.contains(" schg "), "{world}");
    ensure!(world.contains(&format!("bin/sh of FreeBSD {NEW}")), "{world}");
    ensure!(
        host("ls usr/bin/gone lib/libedit.so.7 usr/share/gone 2>/dev/null; true")?.is_empty(),
        "what is old is gone"
    );
    let packages = host("cat var/db/pkg/jailhost")?;
    ensure!(packages.lines().all(|line| line.ends_with(" FreeBSD:13:amd64")), "{packages}");
    // Updated, put together, and undecided: the jail's own stays.
    let etc = host("head -1 etc/motd.template etc/login.conf etc/newsyslog.conf; cat etc/login.conf; ls etc/mail")?;
    ensure!(etc.contains(&format!("FreeBSD {NEW}\n")) && etc.contains("aliases.db"), "{etc}");
    ensure!(etc.contains(&format!("# of {NEW}\ndefault")) && etc.contains("umask=027"), "{etc}");
    ensure!(etc.contains("# ServerA keeps its logs"), "{etc}");
    let accounts = host("grep -c ^_ntp: etc/master.passwd; grep -c ^sshd: etc/master.passwd; tail -1 etc/passwd")?;
    ensure!(accounts.starts_with("1\n1\n_ntp:"), "accounts of the release come to those of the jail: {accounts}");
    ensure!(host("find var/db/etcupdate/conflicts -type f 2>/dev/null; true")?.is_empty(), "conflicts are settled");
    let left = trial.on(JAILHOST.host, "jls -n name; mount -p | grep -c '_upgrade\\|/dev devfs' || true")?;
    ensure!(!left.contains("_upgrade"), "the passing jail is gone: {left}");

    let listed = trial.says("conffiles list ServerA", 0)?;
    for file in ["/etc/newsyslog.conf", "/etc/master.passwd"] {
        ensure!(listed.stdout.contains(file), "{file} is not in the queue: {listed}");
    }
    ensure!(!listed.stdout.contains("/etc/login.conf"), "{listed}");
    let shown = trial.says("conffiles show ServerA /etc/newsyslog.conf", 0)?;
    ensure!(
        shown.stdout.contains("ServerA keeps its logs") && shown.stdout.contains(&format!("# of {NEW}")),
        "{shown}"
    );
    let shown = trial.says("conffiles show ServerA /etc/master.passwd", 0)?;
    ensure!(shown.stdout.contains("it holds passwords, and is not kept"), "{shown}");
    Ok(())
}
