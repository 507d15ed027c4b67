//! Every step of every verb of a server that becomes a jail: the controller is killed there, and both ways out lead where they lead.

use anyhow::{Result, ensure};
use integration::crash::{self, Figures};
use integration::lab::jails::SERVER;
use integration::transfer::struck::{BOTH, goes_on};
use integration::transfer::trial::Trial;
use integration::transfer::upgraded::is_upgraded;

/// What an upgrade of the base system needs.
const WORLD: &str = "base = \"/usr/src12\"";

#[test]
fn a_transfer_killed_in_every_step_is_gone_on_with() -> Result<()> {
    let trial = Trial::new()?;
    trial.world(WORLD)?;
    let (host, server) = (trial.host()?, trial.server(SERVER.host)?);
    let strike = |line: &str| -> Result<()> {
        let verb = line.split(' ').next().unwrap_or_default();
        let hit = goes_on(&trial, line, |_| BOTH.to_vec())?;
        let figures = Figures { points: hit, hit, resumed_ok: hit, aborted_ok: 0 };
        crash::count(env!("CARGO_TARGET_TMPDIR"), "jail", verb, &format!("jail-{verb}-goes-on"), figures)
    };
    strike("clone ServerA")?;
    ensure!(trial.server(SERVER.host)? == server, "cloned:\n{}", trial.server(SERVER.host)?);
    strike("upgrade ServerA")?;
    is_upgraded(&trial, &trial.tree()?)?;
    strike("verify ServerA")?;
    strike("promote ServerA --yes")?;
    ensure!(trial.on(SERVER.host, "sysctl -n security.jail.jailed")?.trim() == "1", "the jail answers in its place");
    strike("rollback ServerA --yes")?;
    ensure!(trial.server(SERVER.host)? == server, "rolled back:\n{}", trial.server(SERVER.host)?);
    // From promoted back to the beginning.
    trial.says("verify ServerA", 0)?;
    trial.says("promote ServerA --yes", 0)?;
    strike("abort ServerA --yes")?;
    ensure!(trial.host()? == host, "given up:\n{}", trial.host()?);
    ensure!(trial.server(SERVER.host)? == server, "given up:\n{}", trial.server(SERVER.host)?);
    for line in ["clone ServerA", "upgrade ServerA", "verify ServerA", "promote ServerA --yes"] {
        trial.says(line, 0)?;
    }
    strike("commit ServerA --yes")?;
    ensure!(trial.says("status", 0)?.stdout.contains("no open runs"));
    let host = trial.host()?;
    ensure!(host.contains("ServerA {") && !host.contains("upgradectl run"), "its mark is gone: {host}");
    Ok(())
}
