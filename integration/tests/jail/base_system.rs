//! The base system of a jail, upgraded from its host: what has to be there afterwards, and what stops it on the way.

use anyhow::{Result, ensure};
use integration::lab::jails::JAILHOST;
use integration::lab::worlds::{AGED, NEW, NEWER, OLD};
use integration::struck::{At, goes_on};
use integration::transfer::trial::Trial;
use integration::transfer::upgraded::is_upgraded;

/// What the recipe needs in the inventory beside its name: the jail has no tree to compare its configuration files with.
pub const BASE: &str = "base = \"/usr/src12\"";

/// A jail that is older than etcupdate(8) is brought to a release that is, too, by a controller that is killed in some of its steps: its
/// files are compared and not put together, what it lacks comes.
pub fn goes_by_mergemaster(trial: &Trial, places: impl Fn(usize) -> Vec<At>) -> Result<()> {
    trial.world("src = \"/usr/src9\"")?;
    let said = trial.says("plan upgrade ServerA", 0)?;
    ensure!(said.stdout.contains(&format!("8.4 to {AGED}")), "from and to: {said}");
    goes_on(trial, "upgrade ServerA", places)?;
    let tree = trial.tree()?;
    let host = |command: &str| trial.on(JAILHOST.host, &format!("cd {tree} && {command}"));
    let world =
        host("cat usr/include/osreldate.h; tail -c 60 bin/sh; ls bin/freebsd-version usr/bin/gone 2>/dev/null; true")?;
    ensure!(world.contains("903001") && world.contains(&format!("bin/sh of FreeBSD {AGED}")), "{world}");
    ensure!(!world.contains("freebsd-version") && !world.contains("gone"), "{world}");
    let etc = host(
        "head -1 etc/newsyslog.conf etc/motd.template; cat etc/syslog.conf; grep -c ^auditdistd: etc/master.passwd; ls etc/rc.d",
    )?;
    ensure!(
        etc.contains("ServerA keeps its logs") && etc.contains("FreeBSD 8.4-RELEASE"),
        "what is there stays: {etc}"
    );
    ensure!(etc.contains("/dev/console\n1\nsshd\nsyslogd"), "what was missing came, and rc.d whole: {etc}");
    let kept = trial.on(JAILHOST.host, "ls /usr/jails/.upgradectl/ServerA--*/backup/rc.d")?;
    ensure!(kept.contains("cron"), "the old rc.d is kept: {kept}");
    let listed = trial.says("conffiles list ServerA", 0)?;
    for file in ["/etc/newsyslog.conf", "/etc/motd.template"] {
        ensure!(listed.stdout.contains(file), "{file} is not in the queue: {listed}");
    }
    Ok(())
}

/// A text without the line ends that a terminal's width puts into it.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What speaks against an upgrade is told before anything is touched; what breaks off in its middle is gone on with.
pub fn goes_wrong_and_on(trial: &Trial, tree: &str) -> Result<()> {
    let refused = |keys: &str, why: &str| -> Result<()> {
        trial.world(keys)?;
        let said = trial.says("upgrade ServerA", 7)?;
        ensure!(words(&said.stderr).contains(why), "{keys}: {said}");
        ensure!(said.stderr.contains("help: "), "without a remedy: {said}");
        Ok(())
    };
    let newer = format!("older than {NEWER}: a jail must not be newer");
    refused(&format!("src = \"/usr/src14\", {BASE}"), &newer)?;
    refused("packages = true", "nothing to compare the jail's configuration files with")?;
    trial.on(JAILHOST.host, "rm -rf /usr/obj/usr")?;
    refused(BASE, &format!("no finished buildworld of {NEW}"))?;
    ensure!(trial.on(JAILHOST.host, &format!("tail -c 40 {tree}/bin/sh"))?.contains(OLD), "nothing was touched");

    // It is built; then the install is cut off when the tree calls itself new already, and most of it is not.
    trial.world(&format!("{BASE}, build = true"))?;
    trial.on(JAILHOST.host, "echo 'make installworld = die-after 900' > /var/db/jailhost/faults")?;
    let said = trial.says("upgrade ServerA", 8)?;
    ensure!(words(&said.stderr).contains("make installworld ended with status 137"), "{said}");
    let half = trial.on(JAILHOST.host, &format!("cd {tree}; cat bin/freebsd-version; tail -c 60 usr/sbin/syslogd"))?;
    ensure!(half.contains(NEW) && half.contains(&format!("syslogd of FreeBSD {OLD}")), "{half}");
    ensure!(trial.on(JAILHOST.host, "jls -n name")?.trim().is_empty(), "half a world is not started");

    // The jail does not start, and nobody says so but the list of jails.
    trial.on(JAILHOST.host, "echo 'service onestart = lie x2' > /var/db/jailhost/faults")?;
    let said = trial.says("resume ServerA", 8)?;
    ensure!(said.stderr.contains("start ServerA--"), "{said}");
    trial.says("resume ServerA", 0)?;
    is_upgraded(trial, tree)
}
