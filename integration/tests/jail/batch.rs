//! Three servers become jails in one night: the example that ships.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use integration::lab::jails::{JAILHOST, MORE, SERVER};
use integration::lab::worlds::OLD;
use integration::transfer::trial::Trial;
use serde_json::Value;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../templates/consolidation.toml");

fn states(report: &Value) -> Vec<String> {
    let items = report["items"].as_array().into_iter().flatten();
    items
        .map(|item| format!("{} {}", item["guest"].as_str().unwrap_or("?"), item["outcome"].as_str().unwrap_or("?")))
        .collect()
}

#[test]
fn needs_root_three_servers_become_jails_in_one_night() -> Result<()> {
    let trial = Trial::three(OLD)?;
    let hosts = [SERVER.host, MORE[0].host, MORE[1].host];
    let before = hosts.map(|host| trial.server(host));
    let host = trial.host()?;
    // As it ships, but that nobody waits for another, so that the one that fails is the only one.
    let file = trial.lab.path("consolidation.toml");
    let text =
        fs::read_to_string(EXAMPLE)?.replace("after = [\"ServerB\"]", "#").replace("on_failure = \"abort\"", "#");
    fs::write(&file, text)?;
    let file = file.to_string_lossy().into_owned();

    let plan = trial.says(&format!("batch plan {file}"), 0)?;
    ensure!(plan.stdout.matches("ready").count() == 3 && trial.host()? == host, "{plan}");

    // One restore of the six fails; the other two servers do not mind.
    trial.on(JAILHOST.host, "echo 'restore = exit 1 \"no space\"' > /var/db/jailhost/faults")?;
    let said = trial.says(&format!("batch run {file} --yes"), 12)?;
    let report: Value = serde_json::from_str(&trial.says(&format!("--json batch report {file}"), 0)?.stdout)?;
    ensure!(report["well"] == 2 && report["failed"] == 1, "{:?}\n{said}", states(&report));
    let failed = report["items"].as_array().into_iter().flatten().find(|item| item["outcome"] == "failed");
    let failed = failed.context("who failed?")?;
    ensure!(failed["run"].is_null() || failed["state"] == "aborted", "it was undone: {failed}");

    let said = trial.says(&format!("batch resume {file} --failed"), 0)?;
    let status = trial.says("--json status", 0)?;
    let runs: Value = serde_json::from_str(&status.stdout)?;
    let runs = runs["runs"].as_array().context("no runs")?.clone();
    ensure!(runs.len() == 3 && runs.iter().all(|run| run["state"] == "verified"), "{said}\n{status}");

    // What they share was made once: the trees of both releases' configuration files, and what was fetched.
    let shared = trial
        .on(JAILHOST.host, "cd /usr/jails/.upgradectl && ls; cat /usr/jails/Server*/var/db/jailhost/fetched | wc -l")?;
    ensure!(shared.matches(".tbz").count() == 2, "{shared}");
    ensure!(shared.trim().ends_with("\n2"), "pkg and nginx, once each: {shared}");
    let made: u32 = runs
        .iter()
        .map(|run| trial.says(&format!("log {}", run["guest"].as_str().unwrap_or_default()), 0))
        .collect::<Result<Vec<_>>>()?
        .iter()
        .map(|log| made(&log.stdout))
        .sum();
    ensure!(made == 2, "of three upgrades two steps have made a tree of configuration files: {made}");

    for (host, before) in hosts.into_iter().zip(before) {
        ensure!(trial.server(host)? == before?, "the servers serve as before");
    }
    trial.says(&format!("batch abort {file} --yes"), 0)?;
    ensure!(trial.host()? == host, "as it was:\n{}", trial.host()?);
    Ok(())
}

/// How many trees of configuration files a run's log says it has made.
fn made(log: &str) -> u32 {
    let steps = log.lines().filter(|line| line.contains("tree of configuration files"));
    // The outcome may stand on the next line of a long title.
    steps.filter(|line| line.contains("created")).count().try_into().unwrap_or(u32::MAX)
}
