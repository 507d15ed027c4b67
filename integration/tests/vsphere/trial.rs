//! The report's guest, its hypervisor, and the program: the vCenter is simulated, and what it does to a machine the lab does to the
//! guest behind it (`integration/vcenter/behind.sh`); the guest's dnf and rpm are real, its kernel is played.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use hypervisors::machines::MachineFacts;
use hypervisors::vsphere::{Trust, Vsphere};
use hypervisors::{Hypervisor as _, Machines as _};
use integration::cli::{Said, Upgradectl};
use integration::command::run;
use integration::lab::redhat::{self, RECIPE, WEB1};
use integration::lab::{Lab, Standing, known};
use integration::struck::Stage;
use integration::vcenter::{Speaks, Vcenter};

use super::{WEB, platform};

/// What stands behind a machine.
const BEHIND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vcenter/behind.sh");

/// What of a system may not change while its clone is worked on: not even when it was started.
pub const AS_IT_WAS: &str = "cut -d ' ' -f 22 /proc/1/stat; sha256sum /etc/hostname /etc/machine-id /etc/network/interfaces \
    /etc/ssh/ssh_host_*; rpm -qa | sort | sha256sum";

/// A text without the line ends that a terminal's width puts into it.
pub fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub struct Trial {
    pub vcenter: Vcenter,
    pub lab: Standing,
    pub product: Upgradectl,
    nobr: String,
    told: PathBuf,
    api: tokio::runtime::Runtime,
}

impl Trial {
    /// `strategy`: the guest's `clone`, and lines of its own.
    pub fn new(speaks: Speaks, strategy: &str, lines: &str) -> Result<Self> {
        let vcenter = Vcenter::start(speaks)?;
        let lab = Lab::numbered(1)?.standing(&[WEB1])?;
        let login = lab.path("guest-login");
        fs::write(&login, "root\nsecret\n")?;
        fs::set_permissions(&login, fs::Permissions::from_mode(0o600))?;
        let lines = format!("vm = \"{WEB}\"\n{RECIPE}\nguest_login = {{ file = \"{}\" }}\n{lines}", login.display());
        redhat::declare(&lab, &lines)?;
        let host = format!(
            "cloud = {{ hypervisor = \"vsphere\", url = \"{}\", ca = \"{}\", credentials = {{ file = \"{}\" }} }}",
            vcenter.url()?,
            vcenter.ca().display(),
            vcenter.credentials().display()
        );
        let mut text = fs::read_to_string(lab.inventory())?;
        for (plain, ours) in [
            ("cloud = { hypervisor = \"none\" }", host.as_str()),
            ("clone = { strategy = \"in-place\" }", &format!("clone = {strategy}")),
        ] {
            ensure!(text.contains(plain), "{text}");
            text = text.replace(plain, ours);
        }
        fs::write(lab.inventory(), text)?;
        let nobr = format!("{}x", lab.bridge());
        run("ip").args(["link", "add", &nobr, "type", "bridge"]).output()?;
        run("ip").args(["link", "set", &nobr, "up"]).output()?;
        let state = lab.path("behind");
        fs::create_dir(&state)?;
        fs::write(state.join("plain.xml"), lab.virsh(["dumpxml", "--inactive", WEB1.name])?)?;
        let program = state.join("program");
        let told = [
            ("pool", lab.path("pool").display().to_string()),
            ("uri", lab.uri()),
            ("bridge", lab.bridge()),
            ("nobr", nobr.clone()),
            ("state", state.display().to_string()),
        ];
        let told: String = told.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
        fs::write(&program, format!("#!/bin/sh\nset -e\n{told}{}", fs::read_to_string(BEHIND)?))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let vm = vcenter.tell(&format!("behind DC0_H0_VM0 root secret {}", program.display()))?;
        fs::write(state.join(vm), WEB1.name)?;
        let product =
            Upgradectl::in_lab(&lab)?.under(known::to(&lab)).env("UPGRADECTL_LOG", "hypervisors::vsphere=debug");
        let (told, api) = (lab.path("told"), tokio::runtime::Runtime::new()?);
        Ok(Self { vcenter, lab, product, nobr, told, api })
    }

    /// Types a command; tells how often it called the API.
    pub fn says(&self, line: &str, code: i32) -> Result<Said> {
        let said = self.product.run(line.split(' '))?;
        let calls = said.stderr.matches("call=").count();
        eprintln!("{line}: {} calls of the API, {:.1} s", calls, said.took.as_secs_f64());
        ensure!(calls < 400 && (calls > 0 || !line.starts_with("clone")), "{calls} calls: {said}");
        said.expect(code).with_context(|| self.vcenter.log())
    }

    /// In the guest at an address of the lab.
    pub fn at(&self, host: u8, script: &str) -> Result<String> {
        self.lab.ssh(&self.lab.address(host), ["sh", "-c", script])
    }

    /// In the guest at its own address.
    pub fn on(&self, script: &str) -> Result<String> {
        self.at(WEB1.host, script)
    }

    pub fn kernel(&self) -> Result<String> {
        Ok(self.on("uname -r")?.trim().to_owned())
    }

    /// The id of the open run.
    pub fn run(&self) -> Result<String> {
        let said = self.product.run(["--json", "status"])?.expect(0)?;
        let told: serde_json::Value = serde_json::from_str(&said.stdout)?;
        let run = told["runs"][0]["run"].as_str().with_context(|| format!("no open run: {told}"))?;
        Ok(run.to_owned())
    }

    /// By the API, past the product.
    pub fn api<T, E>(&self, ask: impl AsyncFnOnce(Vsphere) -> Result<T, E>) -> Result<T>
    where
        anyhow::Error: From<E>,
    {
        let platform = platform(&self.vcenter, Trust::File(self.vcenter.ca()))?;
        Ok(self.api.block_on(ask(platform))?)
    }

    /// A machine as the API tells of it.
    pub fn machine(&self, name: &str) -> Result<MachineFacts> {
        self.api(async |platform| {
            let machine = platform.find(name).await?;
            platform.machine(&machine.uuid).await?.with_context(|| format!("{name} is gone"))
        })
    }

    /// Ids and names of the machine's snapshots.
    pub fn snapshots(&self) -> Result<Vec<(String, String)>> {
        let facts = self.machine(WEB)?;
        Ok(facts.snapshots.into_iter().map(|one| (one.id, one.name)).collect())
    }
}

impl Stage for Trial {
    fn guest(&self) -> &str {
        WEB1.name
    }
    fn product(&self) -> &Upgradectl {
        &self.product
    }
    fn told(&self) -> &Path {
        &self.told
    }
    /// Machines, and what stands behind them.
    fn world(&self) -> Result<String> {
        let names = self.api(async |platform| platform.list().await)?.into_iter().map(|guest| guest.name);
        let machine = self.machine(WEB)?;
        let all = (names.collect::<Vec<_>>(), &machine.nics, &machine.snapshots, &machine.mark, machine.power);
        Ok(format!("{all:?}\n{:?}\n{}", self.lab.domains()?, self.on(AS_IT_WAS)?))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = run("ip").args(["link", "del", &self.nobr]).output();
    }
}
