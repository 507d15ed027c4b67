//! The power goes in the middle of a verb, on real volumes ([`crate::world`]): what was synced is there afterwards, guests
//! are off but for those that start with their host, and a way out is gone from there.
//!
//! What goes on by itself after the boot is the unit that the product ships (templates/systemd).

use std::process::Command;

use anyhow::{Result, ensure};
use integration::crash::{self, End};
use integration::dom0::session;
use integration::ssh;
use integration::verb::{Verb, event};
use integration::walk::{Stage as _, Walk, also, ending};

use crate::world::World;

/// Installs the shipped units as their heads say.
const UNITS: &str = "
install -m 755 /usr/local/bin/upgradectl /usr/local/sbin/upgradectl
install -m 644 /share/upgradectl-resume.service /share/upgradectl-resume.timer /etc/systemd/system
systemctl daemon-reload
systemctl enable --quiet --now upgradectl-resume.timer
systemctl enable --quiet upgradectl-resume.service
sync";

/// Takes them away.
const NO_UNITS: &str = "
systemctl disable --quiet --now upgradectl-resume.timer upgradectl-resume.service
rm -f /etc/systemd/system/upgradectl-resume.* /usr/local/sbin/upgradectl
systemctl daemon-reload";

/// Runs a verb until an event, and cuts the power.
fn cut(world: &World, verb: &str, at: &[(&str, &str)]) -> Result<()> {
    let mut command: Command = session::shell(&world.dom0)?;
    command.arg("root@127.0.0.1").arg("--");
    command.args(ssh::words(["env", "NO_COLOR=1", "upgradectl", "--json", verb, "mercure", "--yes"]));
    let mut going = Verb::begin(verb, &mut command)?;
    for (what, step) in at {
        going.until(event(what, step, ""))?;
    }
    world.dom0.power_cycle()?;
    // ssh waits for a machine that does not answer any more.
    going.kill_or_end().map(drop)
}

fn state(world: &World) -> Result<String> {
    let status = world.ctl(&["--json", "status"])?.expect(0)?.json()?;
    Ok(status["runs"][0]["state"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_power_cut_in_a_verb_loses_nothing() -> Result<()> {
    let world = World::new(true, "", "")?;
    let walk = Walk::new(&world, "snapshot", true);
    let before = world.around()?;
    // The world was made just now; what is tried is what happens to the product's own writes.
    world.dom0.output(["sync"])?;
    let mut cuts = 0;
    let mut cut = |verb: &str, at: &[(&str, &str)]| {
        cuts += 1;
        cut(&world, verb, at)
    };

    // While the snapshots are made: back.
    walk.write("mercure", "a")?;
    cut("clone", &[("step_started", "storage.snapshot")])?;
    walk.good("abort", "aborted")?;
    walk.reads("mercure", &["a", "last=a"])?;
    walk.back(&before)?;

    // While the clone is defined: on.
    cut("clone", &[("step_started", "guest.define")])?;
    let said = walk.ctl("resume", &[])?;
    ensure!(said.code == 0 && ending(&said)?["state"] == "cloned", "{said}");
    let run = walk.run()?;
    walk.write("mercure", "lost")?;
    walk.write(&run, "new")?;
    walk.good("upgrade", "upgraded")?;
    walk.good("verify", "verified")?;

    // While production is down, nobody there: the host's own boot takes it up.
    for file in ["upgradectl-resume.service", "upgradectl-resume.timer"] {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../templates/systemd/");
        std::fs::copy(format!("{unit}{file}"), world.dom0.share(file))?;
    }
    world.dom0.sh(UNITS)?;
    cut("promote", &[("outage_started", ""), ("step_finished", "guest.stop")])?;
    let settled = state(&world)?;
    ensure!(["upgraded", "verified"].contains(&settled.as_str()), "the unit left it {settled}");
    walk.reads("mercure", &["a", "last=lost", "lost"])?;
    world.dom0.sh(NO_UNITS)?;

    walk.good("verify", "verified")?;
    walk.good("promote", "promoted")?;
    walk.write("mercure", "live")?;

    // While the merge drains: production stands on what is merged, and there is no way but on.
    world.dom0.slow_volumes(4 << 20)?;
    cut("commit", &[("step_finished", "storage.merge")])?;
    let said = walk.ctl("abort", &[])?;
    ensure!(said.code == 9, "{said}");
    let said = walk.ctl("resume", &[])?;
    ensure!(said.code == 0 && ending(&said)?["state"] == "committed", "{said}");
    walk.reads("mercure", &also(&["a".to_owned()], &["live", "new", "last=live"]))?;
    walk.own_volumes()?;
    crash::count_ends(env!("CARGO_TARGET_TMPDIR"), End::PowerCuts, "dom0-power", cuts, cuts)
}
