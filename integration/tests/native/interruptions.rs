//! What happens when the link, the controller or its lock goes, in the middle of a verb.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use integration::command::run;
use integration::lab::look::until;
use integration::verb::event;

use super::picture::{Picture, autostart};
use super::trial::{QUICK, Trial};

/// An upgrade that takes eight seconds and counts its beginnings and ends.
const LONG: &str = r#"upgrade = { recipe = "script", run = ["sh", "-c", "echo begun >> /root/log; sleep 8; echo ended >> /root/log"] }"#;

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until the long upgrade has begun in the clone.
fn begun(trial: &Trial) -> Result<()> {
    let log = trial.lab.path(format!("pool/guests/{}-root/root/log", trial.name()?));
    until(PATIENCE, || Ok(std::fs::read_to_string(&log)?)).map(drop)
}

fn log(trial: &Trial) -> Result<String> {
    trial.lab.ssh(&trial.clone_address(), ["cat", "/root/log"])
}

#[test]
fn an_upgrade_outlives_its_link_and_its_controller() -> Result<()> {
    let trial = Trial::tiny()?;
    let lab = &trial.lab;
    trial.declare(LONG)?;
    trial.says("clone tiny", 0)?;

    // The link goes for ten seconds, longer than the job runs.
    let name = trial.name()?;
    let interfaces = lab.virsh(["domiflist", &name])?;
    let port = interfaces.split_whitespace().next().context("no interface")?.to_owned();
    let verb = trial.begin("upgrade tiny")?;
    begun(&trial)?;
    run("ip").args(["link", "set", &port, "down"]).output()?;
    std::thread::sleep(Duration::from_secs(10));
    run("ip").args(["link", "set", &port, "up"]).output()?;
    let (code, events) = verb.end()?;
    ensure!(code == 0, "{:#?}", events.last());
    ensure!(log(&trial)? == "begun\nended", "{}", log(&trial)?);
    ensure!(trial.state()? == "upgraded");

    // The controller is killed: the job goes on, and resume waits for it instead of beginning again.
    let verb = trial.begin("upgrade tiny")?;
    until(PATIENCE, || {
        ensure!(log(&trial)? == "begun\nended\nbegun");
        Ok(())
    })?;
    verb.kill()?;
    let run = trial.run()?.context("no run")?;
    ensure!(run["state"] == "upgrading" && run["interrupted"] == true, "{run:#}");
    // Production serves: a unit that runs every minute leaves this to a person.
    trial.says("resume --interrupted", 0)?;
    ensure!(trial.state()? == "upgrading");
    trial.says("resume tiny", 0)?;
    ensure!(log(&trial)? == "begun\nended\nbegun\nended", "{}", log(&trial)?);
    ensure!(trial.state()? == "upgraded");
    trial.says("abort tiny", 0).map(drop)
}

#[test]
fn one_controller_at_a_time() -> Result<()> {
    let trial = Trial::tiny()?;
    trial.declare(LONG)?;
    trial.says("clone tiny", 0)?;
    let first = trial.begin("upgrade tiny")?;
    begun(&trial)?;

    for second in ["upgrade tiny", "abort tiny", "resume tiny", "clone tiny"] {
        let asked = Instant::now();
        let said = trial.says(second, 5)?;
        ensure!(asked.elapsed() < Duration::from_secs(3), "{second} took {:?}", asked.elapsed());
        ensure!(said.stderr.contains("cause:") && said.stderr.contains("--take-over"), "{said}");
    }
    let run = trial.run()?.context("no run")?;
    ensure!(run["holder"]["pid"].is_u64() && run["interrupted"] == false, "{run:#}");
    // Looking takes no lock.
    trial.says("log tiny", 0)?;

    // The second ends the first, and goes on with the same job.
    trial.says("resume tiny --take-over", 0)?;
    let (code, events) = first.end()?;
    ensure!(code != 0, "the first went on: {:#?}", events.last());
    ensure!(log(&trial)? == "begun\nended", "{}", log(&trial)?);

    // One that is willing to wait gets its turn.
    let first = trial.begin("upgrade tiny")?;
    until(PATIENCE, || {
        ensure!(log(&trial)?.matches("begun").count() == 2);
        Ok(())
    })?;
    trial.says("verify tiny --wait 60s", 0)?;
    ensure!(first.end()?.0 == 0);
    trial.says("abort tiny", 0).map(drop)
}

#[test]
fn a_promotion_whose_controller_is_killed_ends_as_declared() -> Result<()> {
    let trial = Trial::tiny()?;
    let (lab, address) = (&trial.lab, trial.address());
    let before = Picture::of(lab, "tiny", &trial.root())?;
    trial.all(&["clone tiny", "upgrade tiny", "verify tiny"])?;

    // What is killed: before the outage, in it, after going live. What is declared. Where that leads.
    let stopping_clone = ("step_started", "guest.stop", "");
    let restoring = ("step_finished", "files.restore", "");
    let outage = ("outage_started", "", "");
    let stopped = ("step_finished", "guest.stop", "stop tiny");
    let defining = ("step_started", "guest.define", "");
    let defined = ("step_finished", "guest.define", "");
    let starting = ("step_started", "guest.start", "");
    let started = ("step_finished", "guest.start", "");
    let proving = ("step_started", "verify.checks", "");
    for (instant, declared, leads_to) in [
        (stopping_clone, "", "upgraded"),
        (restoring, "resume", "promoted"),
        (outage, "", "upgraded"),
        (outage, "wait", "promoting"),
        (stopped, "resume", "promoted"),
        (defining, "rollback", "upgraded"),
        (defined, "", "upgraded"),
        (starting, "rollback", "upgraded"),
        (started, "", "promoted"),
        (proving, "rollback", "upgraded"),
    ] {
        let what = format!("killed at {instant:?}, declared {declared:?}");
        let promote = if declared.is_empty() {
            String::new()
        } else {
            format!("promote = {{ if_interrupted = \"{declared}\" }}")
        };
        trial.declare(&format!("{QUICK}\n{promote}"))?;
        let mut verb = trial.begin("promote tiny --yes")?;
        verb.until(event(instant.0, instant.1, instant.2))?;
        verb.kill()?;
        let run = trial.run()?.context("no run")?;
        ensure!(run["state"] == "promoting" && run["interrupted"] == true, "{what}: {run:#}");

        trial.says("resume --interrupted", 0).with_context(|| what.clone())?;
        let state = trial.state()?;
        ensure!(state == leads_to, "{what} led to {state}");
        match state.as_str() {
            // Nobody decided: a person does.
            "promoting" => drop(trial.says("rollback tiny --yes", 0).with_context(|| what.clone())?),
            "promoted" => {
                ensure!(lab.ssh(&address, ["ls", "/root"])? == "upgraded", "{what}");
                ensure!(autostart(lab, "tiny")?, "{what}: autostart is off");
                trial.says("rollback tiny --yes", 0).with_context(|| what.clone())?;
            }
            _ => {}
        }
        // Production is the original, and nothing of it is changed.
        ensure!(lab.ssh(&address, ["ls", "/root"])?.is_empty(), "{what}");
        before.still(lab, "tiny").with_context(|| what.clone())?;
        trial.says("resume --interrupted", 0)?;
        trial.says("verify tiny", 0).with_context(|| what.clone())?;
    }
    trial.says("abort tiny", 0)?;
    before.still(lab, "tiny")
}

#[test]
fn a_rollback_and_an_abort_whose_controller_is_killed_are_finished() -> Result<()> {
    let trial = Trial::tiny()?;
    let (lab, address) = (&trial.lab, trial.address());
    let before = Picture::of(lab, "tiny", &trial.root())?;
    trial.all(&["clone tiny", "upgrade tiny", "verify tiny", "promote tiny --yes"])?;

    let mut verb = trial.begin("rollback tiny --yes")?;
    verb.until(event("outage_started", "", ""))?;
    verb.kill()?;
    // Production is down: the unit finishes it without being asked.
    trial.says("resume --interrupted", 0)?;
    ensure!(trial.state()? == "upgraded" && lab.ssh(&address, ["ls", "/root"])?.is_empty());
    before.still(lab, "tiny")?;

    trial.all(&["verify tiny", "promote tiny --yes"])?;
    let mut verb = trial.begin("abort tiny --yes")?;
    verb.until(event("outage_started", "", ""))?;
    verb.until(event("step_undone", "", ""))?;
    verb.kill()?;
    trial.says("resume --interrupted", 0)?;
    ensure!(trial.run()?.is_none());
    ensure!(lab.ssh(&address, ["ls", "/root"])?.is_empty() && lab.domains()?.keys().eq(["tiny"]));
    before.still(lab, "tiny")?;

    // A clone that was begun is left as it is, and goes either way.
    let mut verb = trial.begin("clone tiny")?;
    verb.until(event("step_started", "guest.settle", ""))?;
    verb.kill()?;
    trial.says("resume --interrupted", 0)?;
    ensure!(trial.state()? == "cloning");
    trial.says("resume tiny", 0)?;
    ensure!(trial.state()? == "cloned");
    trial.says("abort tiny", 0)?;
    let mut verb = trial.begin("clone tiny")?;
    verb.until(event("step_started", "files.rewrite", ""))?;
    verb.kill()?;
    trial.says("abort tiny", 0)?;
    ensure!(lab.domains()?.keys().eq(["tiny"]) && lab.trees()? == ["tiny"]);
    before.still(lab, "tiny")
}
