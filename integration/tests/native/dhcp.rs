//! A clone whose address a DHCP server chooses, on a real link.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use integration::lab::{dhcp, look};
use integration::verb::event;

use super::picture::Picture;
use super::trial::{QUICK, Trial};

fn address(trial: &Trial) -> Result<String> {
    let run = trial.run()?.context("no run is open")?;
    run["clone"]["address"].as_str().map(str::to_owned).context("no address")
}

#[test]
fn a_clone_by_dhcp_is_found_by_its_hardware_address() -> Result<()> {
    let trial = Trial::tiny()?;
    let lab = &trial.lab;
    fs::write(lab.inventory(), trial.inventory("", QUICK).replace("ip = [\".24\"]", "ip = [\"dhcp\"]"))?;
    let before = Picture::of(lab, "tiny", &trial.root())?;
    dhcp::up(lab, 100, 109)?;

    // The controller dies between start and learning; the rest is done on resumption.
    let mut verb = trial.begin("clone tiny")?;
    verb.until(event("step_started", "net.learn_address", ""))?;
    verb.kill()?;
    ensure!(trial.state()? == "cloning");
    trial.says("resume tiny", 0)?;
    let first = address(&trial)?;
    let in_range = |address: &str, from: u8| (from..from + 10).any(|host| lab.address(host) == address);
    ensure!(in_range(&first, 100), "{first}");
    ensure!(trial.says("ssh tiny -- cat /etc/hostname", 0)?.stdout.trim() == "tiny");
    ensure!(lab.ssh(&first, ["grep", "-c", "inet dhcp", "/etc/network/interfaces"])? == "1");

    // The server forgets all and gives others: the reboot of the upgrade brings a new address.
    dhcp::up(lab, 110, 119)?;
    trial.says("upgrade tiny", 0)?;
    let second = address(&trial)?;
    ensure!(in_range(&second, 110) && second != first, "{first}, then {second}");
    trial.says("verify tiny", 0)?;

    trial.says("promote tiny --yes", 0)?;
    ensure!(lab.ssh(&trial.address(), ["ls", "/root"])? == "upgraded");
    ensure!(lab.ssh(&trial.address(), ["sh", "-c", "grep -c dhcp /etc/network/interfaces || true"])? == "0");
    ensure!(lab.ssh(&second, ["true"]).is_err(), "the clone's address is given up");
    trial.says("rollback tiny --yes", 0)?;
    before.still(lab, "tiny")?;
    let third = address(&trial)?;
    ensure!(lab.ssh(&third, ["ls", "/root"])? == "upgraded", "{third}");

    // A reboot that nobody of ours asks for, and another lease with it.
    dhcp::up(lab, 120, 129)?;
    lab.virsh(["destroy", &trial.name()?])?;
    lab.virsh(["start", &trial.name()?])?;
    look::until(std::time::Duration::from_secs(60), || trial.says("ssh tiny -- systemctl is-active ssh", 0).map(drop))?;
    trial.says("verify tiny", 0)?;
    ensure!(in_range(&address(&trial)?, 120), "{}", address(&trial)?);
    trial.says("abort tiny", 0)?;
    before.still(lab, "tiny")?;
    dhcp::down(lab)
}
