//! The report's guest with its hypervisor's help: a snapshot leads back. The vCenter is simulated, and what it does to the machine the lab
//! does to the guest behind it; the guest's dnf and rpm are real, its kernel is played.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use hypervisors::Machines as _;
use integration::cli::{Said, Upgradectl};
use integration::lab::redhat::{self, NEW, OLD, RECIPE, WEB1};
use integration::lab::{Lab, Standing, known};
use integration::vcenter::Vcenter;

use super::{WEB, platform};

struct Trial {
    vcenter: Vcenter,
    lab: Standing,
    product: Upgradectl,
}

impl Trial {
    fn new() -> Result<Self> {
        let vcenter = Vcenter::start()?;
        let lab = Lab::numbered(1)?.standing(&[WEB1])?;
        redhat::declare(&lab, &format!("vm = \"{WEB}\"\n{RECIPE}"))?;
        let text = fs::read_to_string(lab.inventory())?;
        let host = format!(
            "cloud = {{ hypervisor = \"vsphere\", url = \"{}\", ca = \"{}\", credentials = {{ file = \"{}\" }} }}",
            vcenter.url()?,
            vcenter.ca().display(),
            vcenter.credentials().display()
        );
        ensure!(text.contains("cloud = { hypervisor = \"none\" }"), "{text}");
        fs::write(lab.inventory(), text.replace("cloud = { hypervisor = \"none\" }", &host))?;
        let program = lab.path("behind");
        fs::write(&program, behind(&lab))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        vcenter.tell(&format!("behind DC0_H0_VM0 {}", program.display()))?;
        vcenter.tell("tools DC0_H0_VM0 on")?;
        let product =
            Upgradectl::in_lab(&lab)?.under(known::to(&lab)).env("UPGRADECTL_LOG", "hypervisors::vsphere=debug");
        Ok(Self { vcenter, lab, product })
    }
    /// Types a command; tells how often it called the API.
    fn says(&self, line: &str, code: i32) -> Result<Said> {
        let said = self.product.run(line.split(' '))?;
        let calls = said.stderr.matches("call=").count();
        eprintln!("{line}: {} calls of the API, {:.1} s", calls, said.took.as_secs_f64());
        ensure!(calls < 200 && (calls > 0 || !line.starts_with("clone")), "{calls} calls: {said}");
        said.expect(code)
    }
    fn on(&self, script: &str) -> Result<String> {
        self.lab.ssh(&self.lab.address(WEB1.host), ["sh", "-c", script])
    }
    fn kernel(&self) -> Result<String> {
        Ok(self.on("uname -r")?.trim().to_owned())
    }
    /// Ids and names of the machine's snapshots.
    async fn snapshots(&self) -> Result<Vec<(String, String)>> {
        let platform = platform(&self.vcenter, hypervisors::vsphere::Trust::File(self.vcenter.ca()))?;
        let machine = platform.find(WEB).await?;
        let facts = platform.machine(&machine.uuid).await?.context("the machine is gone")?;
        Ok(facts.snapshots.into_iter().map(|one| (one.id, one.name)).collect())
    }
}

/// What the machine's snapshots are to the guest behind it: copies of its root.
fn behind(lab: &Lab) -> String {
    let (root, kept) = (WEB1.root(lab), lab.path("pool/kept"));
    let (root, kept, uri) = (root.display(), kept.display(), lab.uri());
    format!(
        "#!/bin/sh\nset -e\ncase $1 in\n\
         snapshot) mkdir -p {kept}; btrfs -q subvolume snapshot {root} {kept}/$2 ;;\n\
         revert) virsh -q -c '{uri}' destroy web1 || true\n\
           for nested in {root}/var/cache {root}; do ! btrfs subvolume show $nested > /dev/null 2>&1 || btrfs -q subvolume delete $nested; done\n\
           btrfs -q subvolume snapshot {kept}/$2 {root}; rmdir {root}/var/cache; mkdir {root}/var/cache ;;\n\
         remove) btrfs -q subvolume delete {kept}/$2 ;;\n\
         on) virsh -q -c '{uri}' domstate web1 | grep -q running || virsh -q -c '{uri}' start web1 ;;\nesac\n"
    )
}

#[test]
fn needs_root_a_snapshot_leads_back_from_a_kernel_and_goes_with_commit() -> Result<()> {
    let trial = Trial::new()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let snapshots = || runtime.block_on(trial.snapshots());

    let said = trial.says("plan clone web1 --accept-loss", 0)?;
    ensure!(said.stdout.contains(WEB) && snapshots()?.is_empty(), "looking touches nothing: {said}");
    let said = trial.says("clone web1 --accept-loss --yes", 0)?;
    let made = snapshots()?;
    ensure!(made.len() == 1 && made[0].1.starts_with("web1--"), "{made:?}: {said}");

    // Given up before anything was done to the guest: there is nothing to bring back.
    trial.says("abort web1", 0)?;
    ensure!(snapshots()?.is_empty(), "{:?}", snapshots()?);

    trial.says("clone web1 --accept-loss --yes", 0)?;
    trial.says("upgrade web1 --yes", 0)?;
    ensure!(trial.kernel()? == NEW);
    trial.on("rm -rf /usr/sbin/sshd; echo wrecked > /root/wrecked")?;
    // The session has expired, and the guest is beyond help.
    trial.vcenter.tell("expire")?;
    trial.lab.virsh(["destroy", WEB1.name])?;
    let said = trial.says("abort web1 --yes", 0)?;
    ensure!(trial.kernel()? == OLD, "{said}");
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
    trial.says("resume web1", 0)?;
    ensure!(snapshots()?.is_empty() && trial.kernel()? == NEW);
    ensure!(trial.on("grubby --default-kernel")?.trim() == format!("/boot/vmlinuz-{NEW}"));
    Ok(())
}
