//! Machines that are worked on, that ask something, that are not there, and a snapshot that somebody removed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hypervisors::{Cause, Change, Hypervisor as _, Machines as _, Power};
use integration::lab::redhat::{NEW, OLD};
use integration::vcenter::Speaks;

use super::trial::{Trial, flat};
use super::{WEB, lab};

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_asks_is_told_with_its_question_and_goes_on_when_it_is_answered() -> Result<()> {
    let (vcenter, platform) = lab(Speaks::Soap)?;
    let uuid = platform.find(WEB).await?.uuid;
    platform.power_off(&uuid).await?;
    assert!(!platform.busy(&uuid).await?);
    vcenter.tell("ask PowerOnVM_Task Did you move it, or copy it?")?;
    // The task that it holds up, and what is asked for beside that.
    for _ in 0..2 {
        let asks = platform.power_on(&uuid).await.unwrap_err();
        assert!(asks.is_unknown() && asks.to_string().contains("Did you move it, or copy it?"), "{asks}");
        assert!(asks.help.as_deref().is_some_and(|help| help.contains("answer it")), "{asks:?}");
        assert!(platform.busy(&uuid).await? && platform.power(WEB).await? == Power::Off);
    }
    vcenter.tell("answer")?;
    let begun = Instant::now();
    while platform.busy(&uuid).await? {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not go on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(platform.power(WEB).await?, Power::On);
    assert_eq!(platform.power_on(&uuid).await?, Change::Unchanged);
    platform.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_not_there_is_not_off() -> Result<()> {
    let (vcenter, platform) = lab(Speaks::Soap)?;
    vcenter.tell("folder web")?;
    let uuid = vcenter.tell("machine web web1")?;
    assert_eq!(platform.power("web1").await?, Power::Off);
    platform.rename(&uuid, "web2").await?;
    for name in ["web1", "/DC0/vm/web/web1", "00000000-0000-0000-0000-000000000000"] {
        let gone = platform.power(name).await.unwrap_err();
        assert!(matches!(gone.cause, Cause::NotFound(_)) && gone.to_string().contains(name), "{gone}");
        assert!(platform.start(name).await.is_err() && platform.destroy(name).await.is_err());
    }
    platform.close().await?;
    Ok(())
}

#[test]
fn needs_root_a_snapshot_that_comes_late_or_was_removed_loses_nothing() -> Result<()> {
    let trial = Trial::new(Speaks::Soap, "{ strategy = \"in-place\" }", "")?;
    let uuid = trial.machine(WEB)?.machine.uuid;
    let removed = || -> Result<String> {
        let (id, run) = trial.snapshots()?.pop().context("the run's snapshot")?;
        trial.api(async |platform| platform.remove_snapshot(&uuid, &id).await.map(drop))?;
        Ok(run)
    };

    // The controller goes while the snapshot is being made: the task is still running when the verb is gone on with.
    trial.vcenter.tell("late CreateSnapshot_Task 15000")?;
    let mut child = trial.product.command(["clone", "web1", "--accept-loss", "--yes"]).spawn()?;
    let begun = Instant::now();
    while !trial.api(async |platform| platform.busy(&uuid).await)? {
        ensure!(begun.elapsed() < Duration::from_secs(120), "nothing works on the machine");
        std::thread::sleep(Duration::from_millis(200));
    }
    child.kill()?;
    child.wait()?;
    ensure!(trial.snapshots()?.is_empty(), "it was to come late");
    let said = trial.says("resume web1 --yes", 0)?;
    ensure!(trial.snapshots()?.len() == 1 && said.took > Duration::from_secs(3), "it was not waited for: {said}");

    // Removed before anything was done.
    let run = removed()?;
    let said = trial.says("upgrade web1 --yes", 7)?;
    ensure!(flat(&said.to_string()).contains(&format!("the snapshot {run} is gone")), "{said}");
    let said = trial.says("abort web1 --yes", 0)?;
    ensure!(flat(&said.to_string()).contains("there is no snapshot") && trial.kernel()? == OLD, "{said}");

    // Removed when the guest was upgraded: back without it, as far as that goes.
    trial.says("clone web1 --accept-loss --yes", 0)?;
    trial.on("echo mine > /root/mine")?;
    trial.says("upgrade web1 --yes", 0)?;
    let run = removed()?;
    let said = trial.says("abort web1 --yes", 0)?;
    ensure!(flat(&said.to_string()).contains(&format!("the snapshot {run} is gone")), "{said}");
    ensure!(trial.kernel()? == OLD && trial.on("cat /root/mine")?.trim() == "mine", "{said}");

    // Removed before it would have gone anyway.
    trial.says("clone web1 --accept-loss --yes", 0)?;
    trial.says("upgrade web1 --yes", 0)?;
    trial.says("verify web1", 0)?;
    let run = removed()?;
    let said = trial.says("commit web1 --yes", 0)?;
    ensure!(
        flat(&said.to_string()).contains(&format!("the snapshot {run} is gone")) && trial.kernel()? == NEW,
        "{said}"
    );
    ensure!(trial.on("grubby --default-kernel")?.trim() == format!("/boot/vmlinuz-{NEW}"));
    Ok(())
}
