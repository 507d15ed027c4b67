//! A real machine's mishaps in the middle of a verb: a full disk, a clock that jumps, a controller that stands still, the
//! clone's ssh server gone, the clone itself gone while dpkg works in it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration::command::run;
use integration::lab::look::until;
use integration::process::Process;
use integration::verb::event;
use nix::sys::signal::Signal;

use super::picture::Picture;
use super::trial::{QUICK, Trial};

const PATIENCE: Duration = Duration::from_secs(60);

/// An upgrade that takes six seconds and counts its beginnings and ends.
const LONG: &str = r#"upgrade = { recipe = "script", run = ["sh", "-c", "echo begun >> /root/log; sleep 6; echo ended >> /root/log"] }"#;

/// A file system of its own for the state directory, of a few MiB. Goes when it is dropped.
struct Small {
    at: PathBuf,
}

impl Small {
    fn mounted(at: PathBuf) -> Result<Self> {
        fs::create_dir_all(&at)?;
        run("mount").args(["-t", "tmpfs", "-o", "size=4m,mode=700", "upgradectl-state"]).arg(&at).output()?;
        Ok(Self { at })
    }

    /// Writes until there is no room.
    fn fill(&self) -> Result<()> {
        run("dd").args(["if=/dev/zero", "bs=4k", "status=none"]).arg(format!("of={}", self.fat().display())).succeeds();
        let room = nix::sys::statvfs::statvfs(&self.at)?;
        ensure!(room.blocks_available() == 0, "{} blocks are free", room.blocks_available());
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.fat())?)
    }

    fn fat(&self) -> PathBuf {
        self.at.join("fat")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = run("umount").arg(&self.at).output();
    }
}

#[test]
fn a_state_directory_without_room_stops_a_verb_and_loses_nothing() -> Result<()> {
    let trial = Trial::tiny()?;
    let lab = &trial.lab;
    let small = Small::mounted(trial.product.state().to_owned())?;
    let before = Picture::of(lab, "tiny", &trial.root())?;

    // Nothing begins that cannot be written down.
    small.fill()?;
    let said = trial.says("clone tiny", 11)?;
    ensure!(said.stderr.contains("full") || said.stderr.contains("space"), "{said}");
    ensure!(lab.domains()?.keys().eq(["tiny"]) && lab.trees()? == ["tiny"]);
    small.free()?;
    trial.all(&["clone tiny", "upgrade tiny", "verify tiny"])?;

    // It fills while production is down: what is under way stops, and goes on once there is room.
    for (kind, instant) in [("step_finished", "guest.stop"), ("step_started", "guest.start")] {
        let mut verb = trial.begin("promote tiny --yes")?;
        verb.until(event("outage_started", "", ""))?;
        verb.until(event(kind, instant, ""))?;
        small.fill()?;
        let (code, events) = verb.end()?;
        ensure!(code == 11, "{instant}: {code}: {:#?}", events.last());
        // Looking needs no room.
        let state = trial.state()?;
        ensure!(state == "promoting", "{instant}: {state}");
        small.free()?;
        trial.says("resume --interrupted", 0)?;
        match trial.state()?.as_str() {
            "promoted" => drop(trial.says("rollback tiny --yes", 0)?),
            "upgraded" | "verified" => {}
            other => anyhow::bail!("{instant}: {other}"),
        }
        before.still(lab, "tiny")?;
        ensure!(lab.ssh(&trial.address(), ["ls", "/root"])?.is_empty());
        trial.says("verify tiny", 0)?;
    }
    trial.says("abort tiny", 0)?;
    before.still(lab, "tiny")
}

/// The library that tells a program another time (faketime(1)).
fn faketime() -> Result<PathBuf> {
    let lib = fs::read_dir("/usr/lib")?.filter_map(Result::ok);
    let mut found = lib.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists());
    found.next().context("faketime is not installed; run integration/prerequisites test")
}

#[test]
fn a_clock_that_jumps_decides_nothing() -> Result<()> {
    let mut trial = Trial::tiny()?;
    trial.declare(LONG)?;
    let before = Picture::of(&trial.lab, "tiny", &trial.root())?;
    let clock = trial.lab.path("clock");
    let set = |offset: &str| fs::write(&clock, offset);
    set("+0")?;
    trial.product = trial
        .product
        .clone()
        .env("LD_PRELOAD", faketime()?.to_str().context("its path is text")?)
        .env("FAKETIME_TIMESTAMP_FILE", clock.to_str().context("its path is text")?)
        .env("FAKETIME_NO_CACHE", "1")
        // What a step of the clock leaves alone (clock_gettime(2)).
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");

    // Forwards and back by more than a year, at every other event of every verb.
    for line in ["clone tiny", "upgrade tiny", "verify tiny", "promote tiny --yes", "rollback tiny --yes"] {
        let mut verb = trial.begin(line)?;
        for offset in ["+400d", "-400d"].iter().cycle() {
            set(offset)?;
            let seen = verb.pass(2)?;
            if seen < 2 {
                break;
            }
        }
        let (code, events) = verb.end()?;
        ensure!(code == 0, "{line}: {:#?}", events.last());
        ensure!(
            events
                .last()
                .is_some_and(|last| last["elapsed_s"].as_f64().is_none_or(|took| (0.0..600.0).contains(&took)))
        );
    }
    let stamps = trial.says("log tiny --json", 0)?;
    ensure!(stamps.stdout.contains("2027-") || stamps.stdout.contains("2028-"), "the clock did not jump: {stamps}");

    // A year later, or a year before it began, a controller that is gone is gone, and one that is there is there.
    for (offset, other) in [("+400d", "-400d"), ("-400d", "+400d")] {
        set(offset)?;
        let count = log(&trial)?.matches("begun").count();
        let verb = trial.begin("upgrade tiny")?;
        until(PATIENCE, || {
            ensure!(log(&trial)?.matches("begun").count() > count);
            Ok(())
        })?;
        set(other)?;
        trial.says("resume tiny", 5)?;
        verb.kill()?;
        trial.says("resume tiny", 0)?;
        let log = log(&trial)?;
        ensure!(log.matches("begun").count() == count + 1 && log.ends_with("ended"), "{log}");
    }
    trial.says("status", 0)?;
    trial.says("abort tiny", 0)?;
    before.still(&trial.lab, "tiny")
}

/// What the long upgrade wrote in the clone, read on the host: whoever asks the clone may be what is broken.
fn log(trial: &Trial) -> Result<String> {
    let log = trial.lab.path(format!("pool/guests/{}-root/root/log", trial.name()?));
    Ok(fs::read_to_string(log).unwrap_or_default().trim().to_owned())
}

/// The processes that a process has started, and theirs.
fn descendants(of: u32) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{of}/task"))?.filter_map(Result::ok) {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            found.extend(Process::find(child));
            found.extend(descendants(child).unwrap_or_default());
        }
    }
    Ok(found)
}

#[test]
fn a_holder_that_stands_still_is_ended_with_all_it_started() -> Result<()> {
    let trial = Trial::tiny()?;
    trial.declare(LONG)?;
    trial.says("clone tiny", 0)?;
    let first = trial.begin("upgrade tiny")?;
    until(PATIENCE, || {
        ensure!(log(&trial)? == "begun");
        Ok(())
    })?;
    // Stopped in the middle of a command of its own.
    let controller = Process::find(first.id())?;
    let started = until(PATIENCE, || {
        let started = descendants(first.id())?;
        ensure!(!started.is_empty(), "it has no command under way");
        Ok(started)
    })?;
    first.signal(Signal::SIGSTOP)?;

    trial.says("resume tiny", 5)?;
    ensure!(controller.is_alive());
    trial.says("resume tiny --take-over", 0)?;
    ensure!(!controller.is_alive(), "the first is still there");
    ensure!(!started.iter().any(Process::is_alive), "what the first had started is still there: {started:?}");
    ensure!(log(&trial)? == "begun\nended" && trial.state()? == "upgraded", "{}", log(&trial)?);
    drop(first.end()?);
    trial.says("abort tiny", 0).map(drop)
}

#[test]
fn an_upgrade_outlives_the_ssh_server_of_its_guest() -> Result<()> {
    let trial = Trial::tiny()?;
    trial.declare(LONG)?;
    trial.says("clone tiny", 0)?;
    let clone = trial.clone_address();
    let verb = trial.begin("upgrade tiny")?;
    until(PATIENCE, || {
        ensure!(log(&trial)? == "begun");
        Ok(())
    })?;
    // Server and sessions, for five seconds: longer than what is repeated at once.
    let script = "systemd-run --quiet --unit=gone sh -c 'systemctl kill --signal=KILL ssh; systemctl stop ssh; pkill -KILL sshd; sleep 5; systemctl start ssh'";
    trial.lab.ssh(&clone, ["sh", "-c", script])?;
    let (code, events) = verb.end()?;
    ensure!(code == 0, "{:#?}", events.last());
    ensure!(log(&trial)? == "begun\nended", "{}", log(&trial)?);
    trial.says("abort tiny", 0).map(drop)
}

/// A package that takes its time in the middle of being configured, and leaves a trace only when it is.
const PACKAGE: &str = r#"set -e
mkdir -p /root/slow/DEBIAN
printf 'Package: slow\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: slow\n' > /root/slow/DEBIAN/control
printf '#!/bin/sh\n[ -e /root/quick ] || sleep 60\ntouch /root/configured\n' > /root/slow/DEBIAN/postinst
chmod 755 /root/slow/DEBIAN/postinst
dpkg-deb --build /root/slow /root/slow.deb > /dev/null
rm -r /root/slow
"#;

#[test]
fn a_clone_that_is_gone_while_dpkg_works_in_it_goes_on_or_back() -> Result<()> {
    let trial = Trial::tiny()?;
    let lab = &trial.lab;
    lab.ssh(&trial.address(), ["sh", "-c", PACKAGE])?;
    let before = Picture::of(lab, "tiny", &trial.root())?;
    trial.declare(
        r#"upgrade = { recipe = "script", run = ["sh", "-c", "dpkg --configure -a; dpkg --install /root/slow.deb"] }"#,
    )?;
    for back in [true, false] {
        trial.says("clone tiny", 0)?;
        let name = trial.name()?;
        let root = lab.path(format!("pool/guests/{name}-root"));
        let dpkg = || -> Result<String> {
            let status = run("dpkg-query").arg(format!("--admindir={}", root.join("var/lib/dpkg").display()));
            status.args(["--show", "--showformat=${db:Status-Status}", "slow"]).output()
        };
        let verb = trial.begin("upgrade tiny")?;
        until(PATIENCE, || {
            let status = dpkg()?;
            ensure!(status == "half-configured", "{status}");
            Ok(())
        })?;
        lab.virsh(["destroy", &name])?;
        let (code, events) = verb.end()?;
        let last = events.last().context("an event")?;
        ensure!(code == 8, "{code}: {last:#}");
        ensure!(trial.state()? == "upgrading" && dpkg()? == "half-configured");
        before.still(lab, "tiny")?;
        if back {
            trial.says("abort tiny", 0)?;
            before.still(lab, "tiny")?;
            continue;
        }
        fs::write(root.join("root/quick"), "")?;
        trial.says("resume tiny", 0)?;
        ensure!(trial.state()? == "upgraded" && dpkg()? == "installed" && root.join("root/configured").exists());
        trial.says("verify tiny", 0)?;
        trial.says("abort tiny", 0)?;
    }
    before.still(lab, "tiny")?;
    trial.declare(QUICK)
}
