//! Leased changes on real guests: the guest takes back by itself what nobody renews, with its own systemd.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::lab::look::until;
use integration::verb::event;

use super::trial::{QUICK, Trial};

/// A pair in the original around `clone`, leased for so long; `wait` holds the verb up right after it.
fn leased(lease: &str) -> String {
    format!(
        r#"{QUICK}
[[guests.tiny.hooks]]
name = "pause"
around = ["clone"]
on = "original"
before = ["sh", "-c", "echo before >> /root/log; touch /root/paused"]
after = ["sh", "-c", "echo after $HOME >> /root/log; rm -f /root/paused; sleep 600 > /dev/null 2>&1 & echo $! > /root/left"]
lease = "{lease}"
[[guests.tiny.hooks]]
name = "wait"
at = "before-clone"
on = "original"
run = ["sh", "-c", "sleep $(cat /root/wait)"]
"#
    )
}

/// What stands of it in the guest.
fn stands(trial: &Trial) -> Result<String> {
    let look = "ls -d /root/paused /var/lib/upgradectl /run/upgradectl* 2>/dev/null; \
                ls /etc/systemd/system | grep upgradectl; systemctl list-timers --all --no-legend | grep upgradectl; \
                systemctl list-units --all --no-legend 'upgradectl-leased*'; true";
    trial.lab.ssh(&trial.address(), ["sh", "-c", look])
}

fn log(trial: &Trial) -> Result<String> {
    trial.lab.ssh(&trial.address(), ["cat", "/root/log"])
}

/// Nothing of it stands, after this was done.
fn over(trial: &Trial, done: &str) -> Result<()> {
    ensure!(log(trial)? == done, "{}", log(trial)?);
    ensure!(stands(trial)?.is_empty(), "{}", stands(trial)?);
    Ok(())
}

/// `clone` begun, held up, and killed for good after so many seconds; the change is made, and was not taken back.
fn killed(trial: &Trial, after: u64) -> Result<()> {
    let mut verb = trial.begin("clone tiny")?;
    verb.until(event("step_started", "hook", "run the hook wait on tiny"))?;
    std::thread::sleep(Duration::from_secs(after));
    ensure!(stands(trial)?.contains("/root/paused") && log(trial)? == "before", "{}", stands(trial)?);
    verb.kill()
}

/// One lab for all of it.
#[test]
fn a_guest_takes_back_what_nobody_renews() -> Result<()> {
    let trial = Trial::tiny()?;
    let (lab, address) = (&trial.lab, trial.address());
    let wait = |seconds: &str| lab.ssh(&address, ["sh", "-c", &format!("echo {seconds} > /root/wait")]).map(drop);

    // More than its time has passed, and it stands: it is renewed. Then the controller is killed for good.
    trial.declare(&leased("6s"))?;
    wait("60")?;
    killed(&trial, 9)?;
    until(Duration::from_secs(15), || over(&trial, "before\nafter /root"))?;
    // What the reversal started outlives its unit.
    lab.ssh(&address, ["sh", "-c", "kill -0 $(cat /root/left) && kill $(cat /root/left)"])?;

    // Whoever comes later finds it gone, and makes it again for what is left to be done. In the end nothing of it is there.
    wait("0")?;
    let said = trial.says("resume tiny", 0)?;
    ensure!(said.stderr.contains("took it back by itself"), "{said}");
    over(&trial, "before\nafter /root\nbefore\nafter /root")?;
    // Nor in the clone, whose copy had it: it does not take back what was done to the original.
    let clone = trial.clone_address();
    until(Duration::from_secs(10), || {
        let look = "ls /var/lib/upgradectl/leased /etc/systemd/system | grep -c leased; true";
        ensure!(lab.ssh(&clone, ["sh", "-c", look])? == "0");
        Ok(())
    })?;
    ensure!(lab.ssh(&clone, ["cat", "/root/log"])? == "before\nafter /root\nbefore");
    trial.says("abort tiny", 0)?;

    // The guest goes down before its time has come.
    lab.ssh(&address, ["rm", "/root/log"])?;
    trial.declare(&leased("12s"))?;
    wait("60")?;
    killed(&trial, 0)?;
    lab.virsh(["destroy", "tiny"])?;
    ensure!(trial.root().join("root/paused").exists(), "it was taken back before the reboot");
    trial.start()?;
    until(Duration::from_secs(30), || over(&trial, "before\nafter /root"))?;
    trial.says("abort tiny", 0)?;
    over(&trial, "before\nafter /root\nafter /root")
}
