//! The report's guest with its hypervisor's help: a snapshot leads back. The vCenter is simulated, and what it does to the machine the lab
//! does to the guest behind it; the guest's dnf and rpm are real, its kernel is played.

use anyhow::{Result, ensure};
use integration::lab::redhat::{NEW, OLD, WEB1};
use integration::struck::{BOTH, goes_on};
use integration::vcenter::Speaks;

use super::WEB;
use super::trial::{Trial, flat};

#[test]
fn needs_root_a_snapshot_leads_back_from_a_kernel_and_goes_with_commit() -> Result<()> {
    let trial = Trial::new(Speaks::Json, "{ strategy = \"in-place\" }", "")?;
    let snapshots = || trial.snapshots();

    let said = trial.says("plan clone web1 --accept-loss", 0)?;
    ensure!(said.stdout.contains(WEB) && snapshots()?.is_empty(), "looking touches nothing: {said}");
    let said = trial.says("clone web1 --accept-loss --yes", 0)?;
    let made = snapshots()?;
    ensure!(made.len() == 1 && made[0].1.starts_with("web1--"), "{made:?}: {said}");

    // Given up before anything was done to the guest: there is nothing to bring back.
    trial.says("abort web1", 0)?;
    ensure!(snapshots()?.is_empty(), "{:?}", snapshots()?);

    goes_on(&trial, "clone web1 --accept-loss --yes", |_| BOTH.to_vec())?;
    trial.says("upgrade web1 --yes", 0)?;
    ensure!(trial.kernel()? == NEW);
    trial.on("rm -rf /usr/sbin/sshd; echo wrecked > /root/wrecked")?;
    // The session has expired, and the guest is beyond help.
    trial.vcenter.tell("expire")?;
    trial.lab.virsh(["destroy", WEB1.name])?;
    goes_on(&trial, "abort web1 --yes", |_| BOTH.to_vec())?;
    ensure!(trial.kernel()? == OLD);
    ensure!(
        trial.on("ls /root")?.find("wrecked").is_none() && trial.on("cat /usr/lib/lab-base/version")?.trim() == "1"
    );
    ensure!(snapshots()?.is_empty(), "{:?}", snapshots()?);

    trial.says("clone web1 --accept-loss --yes", 0)?;
    // The task that removes the snapshot fails once.
    trial.says("upgrade web1 --yes", 0)?;
    trial.says("verify web1", 0)?;
    trial.vcenter.tell("fail RemoveSnapshot_Task")?;
    trial.says("commit web1 --yes", 8)?;
    // A person has to answer first.
    trial.vcenter.tell("ask RemoveSnapshot_Task The datastore is full. Retry?")?;
    let said = trial.says("resume web1", 8)?;
    ensure!(flat(&said.stderr).contains("The datastore is full. Retry?") && snapshots()?.len() == 1, "{said}");
    trial.vcenter.tell("answer")?;
    trial.says("resume web1", 0)?;
    ensure!(snapshots()?.is_empty() && trial.kernel()? == NEW);
    ensure!(trial.on("grubby --default-kernel")?.trim() == format!("/boot/vmlinuz-{NEW}"));
    Ok(())
}
