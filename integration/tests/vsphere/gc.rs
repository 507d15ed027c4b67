//! What a lost state directory leaves on a vCenter is found by its marks, and goes when nothing stands on it.

use anyhow::{Context as _, Result, ensure};
use hypervisors::Machines as _;
use hypervisors::machines::NewMachine;
use integration::cli::Said;

use super::WEB;
use super::trial::{AS_IT_WAS, Trial};

/// What was said, whatever the width of the terminal.
fn flat(said: &Said) -> String {
    said.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn needs_root_a_clone_and_its_snapshot_are_found_by_their_marks() -> Result<()> {
    let trial = Trial::new("{ strategy = \"linked\", ip = [\".51\"] }", "")?;
    let before = trial.on(AS_IT_WAS)?;
    let original = trial.machine(WEB)?;
    trial.says("clone web1 --yes", 0)?;
    let run = trial.run()?;
    let said = trial.says("gc --yes", 0)?;
    ensure!(said.stdout.contains("nothing is left over"), "what an open run has: {said}");

    // Somebody's own machine, upon the run's snapshot.
    let mine = NewMachine {
        name: "mine".into(),
        uuid: "5c1f3b2a-0000-8000-a000-000000000001".into(),
        mark: "web1--zzzz.clone".parse().map_err(anyhow::Error::msg)?,
    };
    let snapshot = trial.snapshots()?.pop().context("the run's snapshot")?.0;
    trial.api(async |platform| {
        platform.clone_linked(&original.machine.uuid, &snapshot, &mine).await?;
        platform.set_mark(&mine.uuid, None).await.map(drop)
    })?;
    std::fs::remove_dir_all(trial.product.state())?;

    let said = trial.says("gc --yes", 0)?;
    ensure!(flat(&said).contains("is not known here") && trial.machine(&run).is_ok(), "{said}");
    let said = trial.says("gc --from-world --yes", 0)?;
    ensure!(flat(&said).contains("/DC0/vm/mine stands on its disks"), "{said}");
    ensure!(trial.machine(&run).is_err() && trial.machine("mine").is_ok() && trial.snapshots()?.len() == 1, "{said}");
    trial.api(async |platform| {
        platform.set_mark(&mine.uuid, Some(&mine.mark)).await?;
        platform.remove(&mine.uuid, &mine.mark.run).await.map(drop)
    })?;
    trial.says("gc --from-world --yes", 0)?;
    ensure!(trial.snapshots()?.is_empty(), "{:?}", trial.snapshots()?);
    ensure!(trial.machine(WEB)? == original && trial.on(AS_IT_WAS)? == before, "the original was touched");

    // A mark on what no run made is taken off.
    trial.api(async |platform| platform.set_mark(&original.machine.uuid, Some(&mine.mark)).await.map(drop))?;
    let said = trial.says("gc --from-world --yes", 0)?;
    ensure!(flat(&said).contains("not as its run made it") && trial.machine(WEB)?.mark.is_some(), "{said}");
    trial.says(&format!("gc --adopt {WEB}"), 0)?;
    ensure!(trial.machine(WEB)? == original);
    Ok(())
}
