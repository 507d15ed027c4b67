//! What a lost state directory leaves on a vCenter is found by its marks, and goes when nothing stands on it.

use anyhow::{Context as _, Result, ensure};
use hypervisors::Machines as _;
use hypervisors::machines::NewMachine;
use integration::vcenter::Speaks;

use super::WEB;
use super::trial::{AS_IT_WAS, Trial, flat};

#[test]
fn needs_root_a_clone_and_its_snapshot_are_found_by_their_marks() -> Result<()> {
    let trial = Trial::new(Speaks::Json, "{ strategy = \"linked\", ip = [\".51\"] }", "")?;
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
    // All that is remembered; the lab itself ends the connections that stand.
    for file in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let _ = std::fs::remove_file(trial.product.state().join(file));
    }
    ensure!(trial.run().is_err(), "the run is remembered");

    let said = trial.says("gc --yes", 0)?;
    ensure!(flat(&said.stdout).contains("is not known here") && trial.machine(&run).is_ok(), "{said}");
    let said = trial.says("gc --from-world --yes", 0)?;
    ensure!(flat(&said.stdout).contains("/DC0/vm/mine stands on its disks"), "{said}");
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
    ensure!(flat(&said.stdout).contains("not as its run made it") && trial.machine(WEB)?.mark.is_some(), "{said}");
    trial.says(&format!("gc --adopt {WEB}"), 0)?;
    ensure!(trial.machine(WEB)? == original);
    Ok(())
}
