//! A server becomes a jail and takes the server's place: the whole way, over a real sshd, with a real dump, in the native lab.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::lab::jails::{JAILHOST, SERVER};
use integration::lab::worlds::{ANCIENT, OLD};
use integration::struck::{At, BOTH, goes_on};
use integration::transfer::trial::{CLONE, PARKED, Trial};
use integration::verb::{Verb, event};

use super::base_system;

/// In every fourth step; in all of them, and twice: `make soak`.
fn now_and_then(step: usize) -> Vec<At> {
    if step % 4 == 2 { vec![BOTH[step / 4 % 2]] } else { Vec::new() }
}

#[test]
fn needs_root_a_server_becomes_a_jail_and_goes_back() -> Result<()> {
    let trial = Trial::new(OLD)?;
    let (host, server) = (trial.host()?, trial.server(SERVER.host)?);
    trial.on(SERVER.host, "echo mine > /usr/local/etc/mine; ln /usr/local/etc/mine /usr/local/etc/mine2")?;

    // Looking touches nothing.
    let said = trial.says("plan clone ServerA", 0)?;
    ensure!(said.stdout.contains("goes over") && trial.host()? == host, "{said}");

    trial.on(SERVER.host, "mkdir -p /var/spool/mqueue /var/at/jobs; echo old > /var/spool/mqueue/qfOld; echo old > /var/at/jobs/c000010190aaaa; echo 1 > /var/at/jobs/.lockfile")?;
    let said = trial.says("clone ServerA", 0)?;
    let tree = trial.tree()?;
    ensure!(
        trial.on(JAILHOST.host, &format!("ls {tree}/var/spool/mqueue; ls {tree}/var/at/jobs"))?.is_empty(),
        "what waits is the server's to send"
    );
    ensure!(trial.on(JAILHOST.host, "jls -n name")?.trim().is_empty(), "it is left stopped: {said}");
    let inside = trial.on(
        JAILHOST.host,
        &format!("cat {tree}/etc/rc.conf; ls -A {tree}/usr/ports {tree}/restoresymtable 2>&1; true"),
    )?;
    ensure!(inside.contains("# upgradectl: ifconfig_fxp0") && inside.contains("sendmail_enable=\"NONE\""), "{inside}");
    ensure!(inside.contains("No such file"), "what restore leaves is gone: {inside}");
    ensure!(trial.on(JAILHOST.host, &format!("cat {tree}/usr/local/etc/mine2"))? == "mine");

    trial.says("upgrade ServerA", 0)?;
    ensure!(trial.on(CLONE, "sysctl -n security.jail.jailed")?.trim() == "1");
    trial.says("verify ServerA", 0)?;
    ensure!(trial.server(SERVER.host)? == server, "the server serves as before:\n{}", trial.server(SERVER.host)?);

    trial.on(
        SERVER.host,
        "echo late > /var/mail/late; rm /var/spool/mqueue/qfOld; echo waits > /var/spool/mqueue/qfA; echo sent > /var/spool/mqueue/qfB; \
         cd /var/at/jobs && rm c000010190aaaa && echo runs > c000020190bbbb && echo waits > c000030190cccc",
    )?;
    let said = trial.says("promote ServerA --yes", 0)?;
    ensure!(said.stdout.contains("without its services, at"), "{said}");
    ensure!(
        trial.on(SERVER.host, "cat /var/mail/late")? == "late",
        "what the server wrote meanwhile was carried: {said}"
    );
    ensure!(trial.on(SERVER.host, "sysctl -n security.jail.jailed")?.trim() == "1", "the jail answers in its place");
    ensure!(
        trial.on(SERVER.host, "grep ^sendmail_enable /etc/rc.conf | tail -1")? == "sendmail_enable=\"YES\"",
        "out of quarantine"
    );
    let parked = trial.server(PARKED)?;
    ensure!(
        parked.contains("cron is not running") && parked.contains(&format!("inet {}", trial.lab.address(PARKED))),
        "{parked}"
    );
    ensure!(trial.on(SERVER.host, "ls /var/spool/mqueue")?.trim() == "qfA\nqfB", "its queue is the server's");
    ensure!(trial.on(SERVER.host, "ls /var/at/jobs")?.trim() == "c000020190bbbb\nc000030190cccc", "so are its jobs");
    trial.on(SERVER.host, "cd /var/at/jobs && rm c000020190bbbb && echo new > c000040190dddd")?;
    trial.on(SERVER.host, "echo promoted > /root/promoted; cd /var/spool/mqueue && rm qfB && echo new > qfC")?;

    trial.says("rollback ServerA --yes", 0)?;
    let queue = trial.on(
        SERVER.host,
        "ls /var/spool/mqueue; rm -rf /var/spool/mqueue/*; ls /var/db/upgradectl-*-aside/var/spool/mqueue",
    )?;
    ensure!(queue == "qfA\nqfC\nqfB", "what the jail accepted came back, what it sent is laid aside: {queue}");
    let jobs = trial.on(SERVER.host, "ls /var/at/jobs; ls /var/db/upgradectl-*-aside/var/at/jobs")?;
    ensure!(
        jobs.trim() == "c000030190cccc\nc000040190dddd\nc000020190bbbb",
        "no job is lost, none is done twice: {jobs}"
    );
    trial.on(SERVER.host, "rm -rf /var/db/upgradectl-*-aside")?;
    ensure!(trial.server(SERVER.host)? == server, "as it was:\n{}", trial.server(SERVER.host)?);
    ensure!(
        trial
            .on(CLONE, "cat /root/promoted; grep ^sendmail_enable /etc/rc.conf | tail -1")?
            .starts_with("promoted\nsendmail_enable=\"NONE\"")
    );
    trial.says("abort ServerA --yes", 0)?;
    ensure!(trial.host()? == host, "as it was:\n{}", trial.host()?);
    ensure!(trial.server(SERVER.host)? == server, "as it was:\n{}", trial.server(SERVER.host)?);
    Ok(())
}

#[test]
fn needs_root_what_goes_wrong_on_the_way_is_told_and_taken_back() -> Result<()> {
    let trial = Trial::new(OLD)?;
    // Its host has jails of the old way only: it becomes one of them.
    let old = "jail_old_rootdir=\"/usr/old\"\njail_old_hostname=\"old.lab\"\njail_old_ip=\"em0|192.0.2.9\"\n\
        jail_alone_rootdir=\"/usr/alone\"\njail_alone_hostname=\"alone.lab\"\n";
    trial.on(JAILHOST.host, &format!("printf '%s' '{old}' >> /etc/rc.conf"))?;
    let (host, server) = (trial.host()?, trial.server(SERVER.host)?);
    let fault = |host: u8, line: &str| trial.on(host, &format!("echo '{line}' > /var/db/jailhost/faults"));
    let as_before = |what: &str| -> Result<()> {
        ensure!(trial.host()? == host, "{what}:\n{}", trial.host()?);
        ensure!(trial.server(SERVER.host)? == server, "{what}:\n{}", trial.server(SERVER.host)?);
        Ok(())
    };

    // Refused before anything is touched: an address that is taken, no way back.
    let said = trial.says("clone ServerA --ip .30", 7)?;
    ensure!(said.stderr.contains("is an address of jailhost itself"), "{said}");
    let inventory = fs::read_to_string(trial.lab.inventory())?;
    fs::write(
        trial.lab.inventory(),
        inventory
            .lines()
            .filter(|line| !line.starts_with("parking"))
            .fold(String::new(), |all, line| all + line + "\n"),
    )?;
    let said = trial.says("clone ServerA", 7)?;
    ensure!(said.stderr.contains("it has neither a"), "{said}");
    fs::write(trial.lab.inventory(), &inventory)?;
    for line in ["plan clone ServerA", "doctor"] {
        let said = trial.product.run(line.split(' '))?;
        ensure!(said.stdout.contains("vnet, left alone: alone of jailhost"), "{said}");
    }
    as_before("refused")?;

    // The stream is cut in the middle of /usr.
    fault(SERVER.host, "dump /dev/ada0p3 = die-after 3000000")?;
    let said = trial.says("clone ServerA", 1)?;
    ensure!(said.stderr.contains("/usr"), "{said}");
    as_before("the stream was cut")?;

    trial.says("clone ServerA", 0)?;
    let clone = trial.host()?;
    ensure!(clone.contains("# upgradectl run ServerA--") && clone.contains("jail_ServerA__"), "{clone}");
    ensure!(clone.contains(old) && !clone.contains("jail.conf"), "{clone}");
    base_system::goes_wrong_and_on(&trial, &trial.tree()?)?;
    trial.says("verify ServerA", 0)?;

    // In the server's place it does not start: the server is back, with its services and its address.
    fault(JAILHOST.host, "service onestart = lie x2")?;
    let said = trial.says("promote ServerA --yes", 1)?;
    ensure!(trial.server(SERVER.host)? == server, "{said}\n{}", trial.server(SERVER.host)?);
    // Once more, and given up from there; the controller is killed now and then on both ways.
    trial.says("verify ServerA", 0)?;
    goes_on(&trial, "promote ServerA --yes", now_and_then)?;
    let promoted = trial.host()?;
    ensure!(promoted.contains("role production\njail_ServerA_rootdir=\"/usr/jails/ServerA--"), "{promoted}");
    ensure!(promoted.contains("jail_list=\"ServerA\"") && promoted.contains(old), "{promoted}");
    ensure!(trial.on(SERVER.host, "sysctl -n security.jail.jailed")?.trim() == "1", "the jail answers in its place");
    goes_on(&trial, "abort ServerA --yes", now_and_then)?;
    as_before("given up from promoted")
}

#[test]
fn needs_root_a_killed_controller_and_a_lost_state_lose_nothing() -> Result<()> {
    let trial = Trial::new(ANCIENT)?;
    // Its host keeps each jail in a dataset of its own.
    trial.on(JAILHOST.host, "printf 'zroot/jails\\t/usr/jails\\t-\\t-\\n' > /var/db/jailhost/zfs")?;
    let said = trial.says("plan clone ServerA", 0)?;
    ensure!(said.stdout.contains("zroot/jails/ServerA--"), "the plan names the dataset: {said}");
    let (host, server) = (trial.host()?, trial.server(SERVER.host)?);

    // In the middle of /usr: what is whole is not copied again.
    let tree = |run: &str| format!("copy /usr of ServerA to /usr/jails/{run}");
    let mut verb = Verb::begin("clone", trial.product.command(["clone", "ServerA"]).arg("--json"))?;
    let run = verb.until(|seen| seen["run"].is_string())?["run"].as_str().unwrap_or_default().to_owned();
    verb.until(event("step_started", "transfer.filesystems", &tree(&run)))?;
    std::thread::sleep(Duration::from_secs(1));
    verb.kill()?;
    ensure!(trial.says("status", 0)?.stdout.contains("INTERRUPTED"));
    let events = trial.says("resume ServerA --json", 0)?.events()?;
    let copied = |of: &str| events.iter().any(|seen| event("step_started", "transfer.filesystems", of)(seen));
    ensure!(copied(&tree(&run)) && !copied(&format!("copy / of ServerA to /usr/jails/{run}")), "{events:#?}");
    let datasets =
        trial.on(JAILHOST.host, "zfs list -H -o name,mountpoint,org.upgradectl:run -r zroot/jails | tr '\\t' ' '")?;
    ensure!(datasets.contains(&format!("zroot/jails/{run} /usr/jails/{run} {run}.clone")), "{datasets}");
    base_system::goes_by_mergemaster(&trial, now_and_then)?;
    trial.says("verify ServerA", 0)?;

    // While the server is on its way to its parking address: nobody comes back, but the minute's look does.
    trial.killed("promote ServerA --yes", "server.park", "", Duration::from_millis(1500))?;
    trial.says("resume --interrupted", 0)?;
    ensure!(trial.server(SERVER.host)? == server, "as it was:\n{}", trial.server(SERVER.host)?);
    ensure!(trial.on(CLONE, "sysctl -n security.jail.jailed")?.trim() == "1", "the clone is back");

    // Nothing is known any more, but what is marked is found.
    for entry in fs::read_dir(trial.lab.state())?.filter_map(Result::ok).filter(|entry| entry.file_name() != "run") {
        // What is in `run` are the sockets of connections that stand; a lab ends them by these.
        if entry.path().is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    let said = trial.says("gc --from-world --yes", 0)?;
    ensure!(trial.host()? == host, "{said}\n{}", trial.host()?);
    ensure!(trial.server(SERVER.host)? == server, "as it was:\n{}", trial.server(SERVER.host)?);
    Ok(())
}
