//! Leased changes on real guests: the guest takes back by itself what nobody renews, with its own systemd.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::lab::look::until;

use super::trial::{QUICK, Trial, event};

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

/// `clone` begun, held up, and killed for good after so many seconds.
fn killed(trial: &Trial, after: u64) -> Result<()> {
    let mut verb = trial.begin("clone tiny")?;
    verb.until(event("step_started", "hook", "run the hook wait on tiny"))?;
    std::thread::sleep(Duration::from_secs(after));
    ensure!(stands(trial)?.contains("/root/paused"), "{}", stands(trial)?);
    verb.kill()
}

#[test]
fn a_guest_takes_back_what_nobody_renews() -> Result<()> {
    let trial = Trial::tiny()?;
    let (lab, address) = (&trial.lab, trial.address());
    trial.declare(&leased("8s"))?;
    let wait = |seconds: &str| lab.ssh(&address, ["sh", "-c", &format!("echo {seconds} > /root/wait")]).map(drop);

    // Twice its time, and it stands: it is renewed. In the end nothing of it is there.
    wait("16")?;
    let said = trial.says("clone tiny", 0)?;
    ensure!(!said.stderr.contains("reversal"), "{said}");
    ensure!(log(&trial)? == "before\nafter /root", "{}", log(&trial)?);
    ensure!(stands(&trial)?.is_empty(), "{}", stands(&trial)?);
    // Nor in the clone, whose copy had it.
    let clone = trial.clone_address();
    until(Duration::from_secs(10), || {
        let left =
            lab.ssh(&clone, ["sh", "-c", "ls /var/lib/upgradectl/leased /etc/systemd/system | grep -c leased; true"])?;
        ensure!(left == "0", "{left}");
        Ok(())
    })?;
    ensure!(
        lab.ssh(&clone, ["cat", "/root/log"])? == "before",
        "the clone does not take back what was done to the original"
    );
    trial.says("abort tiny", 0)?;

    // The controller is killed for good.
    lab.ssh(&address, ["rm", "/root/log"])?;
    wait("60")?;
    killed(&trial, 1)?;
    until(Duration::from_secs(20), || {
        ensure!(log(&trial)? == "before\nafter /root" && stands(&trial)?.is_empty(), "{}", stands(&trial)?);
        Ok(())
    })?;
    // What the reversal started outlives its unit.
    lab.ssh(&address, ["sh", "-c", "kill -0 $(cat /root/left) && kill $(cat /root/left)"])?;
    trial.says("abort tiny", 0)?;
    ensure!(stands(&trial)?.is_empty(), "{}", stands(&trial)?);
    Ok(())
}

#[test]
fn a_guest_that_reboots_takes_back_what_nobody_renews() -> Result<()> {
    let trial = Trial::tiny()?;
    let (lab, address) = (&trial.lab, trial.address());
    trial.declare(&leased("20s"))?;
    lab.ssh(&address, ["sh", "-c", "echo 60 > /root/wait"])?;
    killed(&trial, 0)?;
    lab.virsh(["destroy", "tiny"])?;
    ensure!(trial.root().join("root/paused").exists(), "it was taken back before the reboot");
    trial.start()?;
    until(Duration::from_secs(40), || {
        ensure!(log(&trial)? == "before\nafter /root" && stands(&trial)?.is_empty(), "{}", stands(&trial)?);
        Ok(())
    })?;
    // Whoever comes later finds it gone, and makes it again for what is left to be done.
    lab.ssh(&address, ["sh", "-c", "echo 0 > /root/wait"])?;
    let said = trial.says("resume tiny", 0)?;
    ensure!(said.stderr.contains("took it back by itself"), "{said}");
    ensure!(log(&trial)? == "before\nafter /root\nbefore\nafter /root", "{}", log(&trial)?);
    ensure!(stands(&trial)?.is_empty(), "{}", stands(&trial)?);
    trial.says("abort tiny", 0).map(drop)
}
