//! Every step of every verb of a server that becomes a jail: the controller is killed there, and both ways out lead where they lead.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use integration::command::run;
use integration::crash::{self, Figures};
use integration::lab::jails::{JAILHOST, SERVER};
use integration::lab::worlds::OLD;
use integration::struck::{At, BOTH, gives_up, goes_on};
use integration::transfer::kept::Kept;
use integration::transfer::trial::Trial;
use integration::transfer::upgraded::is_upgraded;
use integration::verb::Verb;

fn count(verb: &str, test: &str, figures: Figures) -> Result<()> {
    crash::count(env!("CARGO_TARGET_TMPDIR"), "jail", verb, &format!("jail-{verb}-{test}"), figures)
}

/// What an upgrade of the base system needs.
const WORLD: &str = "base = \"/usr/src12\"";

#[test]
fn a_transfer_killed_in_every_step_is_gone_on_with() -> Result<()> {
    let trial = Trial::new(OLD)?;
    trial.world(WORLD)?;
    let (host, server) = (trial.host()?, trial.server(SERVER.host)?);
    let strike = |line: &str| -> Result<()> {
        let verb = line.split(' ').next().unwrap_or_default();
        let hit = goes_on(&trial, line, |_| BOTH.to_vec())?;
        count(verb, "goes-on", Figures { points: hit, hit, resumed_ok: hit, aborted_ok: 0 })
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
    // The same base system once more, into a jail that runs; then from promoted back to the beginning.
    trial.says("upgrade ServerA", 0)?;
    is_upgraded(&trial, &trial.tree()?)?;
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

/// A lab, what there was in it, and a verb that is struck and given up.
struct GivenUp {
    trial: Trial,
    before: String,
}

impl GivenUp {
    fn new() -> Result<Self> {
        let trial = Trial::new(OLD)?;
        trial.world(WORLD)?;
        let before = trial.everything()?;
        Ok(Self { trial, before })
    }

    fn strike(&self, line: &str, back: impl Fn() -> Result<()>, places: impl Fn(usize) -> Vec<At>) -> Result<()> {
        let (points, hit) = gives_up(&self.trial, line, &self.before, back, places)?;
        let verb = line.split(' ').next().unwrap_or_default();
        count(verb, "given-up", Figures { points, hit, resumed_ok: 0, aborted_ok: hit })
    }
}

#[test]
fn a_clone_and_an_upgrade_killed_in_every_step_are_given_up() -> Result<()> {
    let lot = GivenUp::new()?;
    let trial = &lot.trial;
    lot.strike("clone ServerA", || Ok(()), |_| BOTH.to_vec())?;
    trial.says("clone ServerA", 0)?;
    let cloned = Kept::of(trial, "cloned")?;
    lot.strike("upgrade ServerA", || cloned.back(), |_| BOTH.to_vec())?;
    // In the middle of work that goes on by itself.
    cloned.back()?;
    trial.on(JAILHOST.host, "echo 'make installworld = hang 900' > /var/db/jailhost/faults")?;
    trial.killed("upgrade ServerA", "world.install", "", Duration::from_secs(3))?;
    let said = trial.says("upgrade ServerA", 7)?;
    ensure!(said.stderr.contains("an earlier attempt is still at work"), "{said}");
    trial.says("abort ServerA --yes", 0)?;
    let left = trial.on(JAILHOST.host, "ps axo args | grep '[i]nstallworld'; ls /var/lib/upgradectl/jobs; true")?;
    ensure!(left.trim().is_empty() && lot.before == trial.everything()?, "{left}");
    Ok(())
}

#[test]
fn a_promotion_killed_in_every_step_is_given_up() -> Result<()> {
    let lot = GivenUp::new()?;
    for line in ["clone ServerA", "upgrade ServerA", "verify ServerA"] {
        lot.trial.says(line, 0)?;
    }
    let verified = Kept::of(&lot.trial, "verified")?;
    // Production is down on both ways: one point of each step, by turns; of the way back, of every third.
    lot.strike("promote ServerA --yes", || verified.back(), |step| vec![BOTH[step % 2]])?;
    let promoted = || verified.back().and_then(|()| lot.trial.says("promote ServerA --yes", 0).map(drop));
    let third = |step| if step % 3 == 0 { vec![BOTH[step / 3 % 2]] } else { Vec::new() };
    lot.strike("rollback ServerA --yes", promoted, third)
}

#[test]
fn a_server_with_nothing_but_a_console_comes_back() -> Result<()> {
    let trial = Trial::new(OLD)?;
    let inventory = fs::read_to_string(trial.lab.inventory())?;
    let console =
        |line: &str| if line.starts_with("parking") { "console = true\n".to_owned() } else { format!("{line}\n") };
    fs::write(trial.lab.inventory(), inventory.lines().map(console).collect::<String>())?;
    let before = (trial.host()?, trial.server(SERVER.host)?);
    for line in ["clone ServerA", "upgrade ServerA", "verify ServerA"] {
        trial.says(line, 0)?;
    }
    let said = trial.says("promote ServerA --yes", 0)?;
    ensure!(trial.on(SERVER.host, "sysctl -n security.jail.jailed")?.trim() == "1", "the jail answers: {said}");
    // Somebody goes to the machine and types what the way back shows.
    let mut verb = Verb::begin("rollback", &mut trial.product.command(["rollback", "ServerA", "--yes", "--json"]))?;
    let shown = |seen: &serde_json::Value| {
        seen["detail"].as_str().and_then(|text| text.strip_prefix("on the console of ServerA: ").map(str::to_owned))
    };
    let line = shown(verb.until(|seen| shown(seen).is_some())?).context("a line to type")?;
    eprintln!("typed at the console: {line}");
    let init = fs::read_to_string(format!("/proc/{0}/task/{0}/children", trial.lab.domain_id(SERVER.name)?))?;
    let path = "PATH=/usr/local/jailhost:/usr/sbin:/usr/bin:/sbin:/bin";
    run("nsenter").args(["--target", init.trim(), "--all", "env", "-i", path, "sh", "-c", &line]).output()?;
    let (code, events) = verb.end()?;
    ensure!(code == 0, "{:#?}", events.last());
    ensure!(trial.server(SERVER.host)? == before.1, "as it was:\n{}", trial.server(SERVER.host)?);
    trial.says("abort ServerA --yes", 0)?;
    ensure!(before == (trial.host()?, trial.server(SERVER.host)?), "given up");
    Ok(())
}
