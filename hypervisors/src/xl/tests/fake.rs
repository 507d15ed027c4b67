//! A Xen in memory: takes exactly the commands that the backend gives `xl`, and answers like the recorded one (fixture `xl.txt`,
//! to which `recording.rs` holds it). Files, git and subversion are real.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;

use crate::host::{Command, Host, Job, JobStatus, LocalHost, Output};
use crate::xl::cfg::Cfg;
use crate::xl::facts;
use crate::{Change, Result};

/// A domain's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Runs,
    Paused,
    /// Being made: shows 0 MiB.
    Made,
    /// Shut down, and listed as long as this many looks.
    Down(u32),
}

#[derive(Clone, Debug)]
pub struct FakeDomain {
    pub id: u32,
    pub name: String,
    pub uuid: String,
    pub mib: u64,
    pub life: Life,
    /// What a reboot from inside uses.
    pub memory: String,
    /// What it was started with.
    pub began: String,
    pub libvirt: bool,
    pub disks: Vec<PathBuf>,
}

#[derive(Debug, Default)]
pub struct State {
    pub domains: Vec<FakeDomain>,
    pub next_id: u32,
    pub free_mib: u64,
    /// Devices there are, by their device mapper names.
    pub devices: BTreeMap<PathBuf, String>,
    /// Files that are only in this world.
    pub files: BTreeMap<String, String>,
    /// Looks for which a domain that shut down stays listed; `None`: for ever, nobody cleans it up.
    pub lingers: Option<u32>,
    /// Names of guests that do not hear a shutdown.
    pub deaf: BTreeSet<String>,
    /// A domain that starts is gone again at once.
    pub crashes: bool,
    pub commands: Vec<Vec<String>>,
}

/// Set: the machine counts as another one.
pub const FAR: &str = "UPGRADECTL_TEST_FAR";

/// A machine with this Xen.
#[derive(Debug)]
pub struct FakeXen {
    pub state: Mutex<State>,
    pub real: LocalHost,
    /// Whether files are this machine's to open; else everything goes by commands, as over ssh.
    pub local: bool,
}

impl FakeXen {
    pub fn new() -> Self {
        let state = State { next_id: 1, free_mib: 1466, lingers: Some(2), ..State::default() };
        Self { state: Mutex::new(state), real: LocalHost::new("trolls"), local: std::env::var_os(FAR).is_none() }
    }
    pub fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap())
    }
    /// Gives `xl` a command.
    pub fn xl(&self, words: &[&str]) -> (i32, String) {
        self.with(|state| state.xl(words))
    }
}

fn wrong_id(name: &str) -> (i32, String) {
    (1, format!("{name} is an invalid domain identifier (rc=-6)\n"))
}

impl State {
    fn find(&mut self, name: &str) -> Option<&mut FakeDomain> {
        let id: Option<u32> = name.parse().ok();
        self.domains.iter_mut().find(|domain| id.map_or(domain.name == name, |id| domain.id == id))
    }

    fn xl(&mut self, words: &[&str]) -> (i32, String) {
        match words {
            ["list"] => (0, self.list()),
            ["list", "-l"] => (0, self.list_long(None)),
            ["list", "-l", name] if self.find(name).is_some() => (0, self.list_long(Some(name))),
            ["list", name] | ["list", "-l", name] => wrong_id(name),
            ["create", file] => self.create(file),
            ["shutdown", name] => {
                let (lingers, deaf) = (self.lingers.unwrap_or(u32::MAX), self.deaf.clone());
                let Some(domain) = self.find(name) else { return wrong_id(name) };
                if !deaf.contains(&domain.name) {
                    domain.life = Life::Down(lingers);
                }
                (0, format!("Shutting down domain {}\n", domain.id))
            }
            ["destroy", name] => {
                let Some(id) = self.find(name).map(|domain| domain.id) else { return wrong_id(name) };
                self.end(id);
                (0, String::new())
            }
            ["pause" | "unpause", name] => {
                let Some(domain) = self.find(name) else { return wrong_id(name) };
                domain.life = if words[0] == "pause" { Life::Paused } else { Life::Runs };
                (0, String::new())
            }
            ["rename", name, new] => {
                let taken = *new == "Domain-0" || self.domains.iter().any(|domain| domain.name == *new);
                let Some(domain) = self.find(name) else { return wrong_id(name) };
                if taken {
                    let id = domain.id;
                    let said = format!(
                        "libxl: error: libxl_domain.c:81:libxl__domain_rename: Domain {id}:Domain with name \"{new}\" already exists.\nCan't rename domain '{name}'.\n"
                    );
                    return (1, said);
                }
                (*new).clone_into(&mut domain.name);
                (0, String::new())
            }
            ["config-update", name, file] => {
                let warning = "WARNING: xl now has better capability to manage domain configuration, avoid using this command when possible\n";
                let text = self.text(file);
                let Some(domain) = self.find(name) else {
                    let (status, said) = wrong_id(name);
                    return (status, format!("{warning}{said}"));
                };
                domain.memory = text.unwrap();
                (0, format!("{warning}setting dom{} configuration\n", domain.id))
            }
            ["domid", name] => match self.find(name) {
                Some(domain) => (0, format!("{}\n", domain.id)),
                None => (1, format!("Can't get domid of domain name '{name}', maybe this domain does not exist.\n")),
            },
            ["domname", "0"] => (0, "Domain-0\n".to_owned()),
            other => panic!("the backend gave xl {other:?}"),
        }
    }

    fn text(&self, file: &str) -> Option<String> {
        self.files.get(file).cloned().or_else(|| std::fs::read_to_string(file).ok())
    }

    fn end(&mut self, id: u32) {
        let (gone, kept) = std::mem::take(&mut self.domains).into_iter().partition(|domain| domain.id == id);
        self.domains = kept;
        self.free_mib += gone.iter().map(|domain: &FakeDomain| domain.mib).sum::<u64>();
    }

    fn list(&mut self) -> String {
        let mut out = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n".to_owned();
        let mut row = |name: &str, id, mib, vcpus, state: &str| {
            out += &format!("{name:<40} {id:>5} {mib:>5} {vcpus:>5}     {state}  {:>8.1}\n", 52.4);
        };
        row("Domain-0", 0, 1500, 1, "r-----");
        let mut gone = Vec::new();
        for domain in &mut self.domains {
            match domain.life {
                Life::Runs => row(&domain.name, domain.id, domain.mib, 1, "-b----"),
                Life::Paused => row(&domain.name, domain.id, domain.mib, 1, "--p---"),
                Life::Made => row(&domain.name, domain.id, 0, 0, "--p---"),
                Life::Down(0) => gone.push(domain.id),
                Life::Down(looks) => {
                    row(&domain.name, domain.id, domain.mib, 1, "--ps--");
                    domain.life = Life::Down(if looks == u32::MAX { looks } else { looks - 1 });
                }
            }
        }
        gone.into_iter().for_each(|id| self.end(id));
        out
    }

    fn list_long(&self, only: Option<&str>) -> String {
        let wanted = |domain: &&FakeDomain| only.is_none_or(|name| domain.name == name) && domain.life != Life::Made;
        let mut all: Vec<serde_json::Value> = Vec::new();
        if only.is_none() {
            all.push(serde_json::json!({"domid": 0, "config": {"c_info": {"type": "pv", "name": "Domain-0"}}}));
        }
        for domain in self.domains.iter().filter(wanted) {
            let said = facts::read(&domain.began).ok();
            let disks = said.iter().flat_map(|facts| &facts.disks).map(|disk| {
                let path = facts::path(&disk.source);
                serde_json::json!({"pdev_path": path, "vdev": disk.name, "format": "raw", "readwrite": i32::from(!disk.readonly)})
            });
            let nics = said.iter().flat_map(|facts| &facts.nics).enumerate().map(|(devid, nic)| {
                serde_json::json!({"devid": devid, "mac": nic.mac, "bridge": nic.bridge, "nictype": "vif"})
            });
            all.push(serde_json::json!({"domid": domain.id, "config": {
                "c_info": {"type": "pv", "name": domain.name, "uuid": domain.uuid},
                "disks": disks.collect::<Vec<_>>(), "nics": nics.collect::<Vec<_>>(), "on_reboot": "restart",
            }}));
        }
        format!("{}\n\n", serde_json::to_string_pretty(&all).unwrap())
    }

    fn create(&mut self, file: &str) -> (i32, String) {
        let Some(text) = self.text(file) else {
            return (3, format!("Failed to read config file: {file}: No such file or directory\n"));
        };
        let parsing = format!("Parsing config from {file}\n");
        if let Err(wrong) = Cfg::parse(&text) {
            let line = text.lines().nth(wrong.line.saturating_sub(1)).unwrap_or_default();
            let near = line.split_once("= ").map_or(line, |(_, near)| near);
            let said = format!(
                "{file}:{}: config parsing error near `{near}': lexical error\nFailed to parse config: Invalid argument\n",
                wrong.line
            );
            return (1, parsing + &said);
        }
        let id = self.next_id;
        self.next_id += 1;
        match self.make(id, &text, false) {
            Ok(()) => (0, parsing),
            Err(why) => {
                let end = format!(
                    "libxl: error: libxl_domain.c:1183:libxl__destroy_domid: Domain {id}:Non-existant domain\nlibxl: error: libxl_domain.c:1137:domain_destroy_callback: Domain {id}:Unable to destroy guest\nlibxl: error: libxl_domain.c:1064:domain_destroy_cb: Domain {id}:Destruction of domain failed\n"
                );
                (3, parsing + &why + &end)
            }
        }
    }

    /// Makes a domain of a configuration, or says what libxl says.
    pub fn make(&mut self, id: u32, text: &str, libvirt: bool) -> std::result::Result<(), String> {
        let facts = facts::read(text).map_err(|wrong| wrong.to_string())?;
        if self.domains.iter().any(|domain| domain.name == facts.name) {
            return Err(format!(
                "libxl: error: libxl_domain.c:81:libxl__domain_rename: Domain {id}:Domain with name \"{}\" already exists.\nlibxl: error: libxl_create.c:1296:initiate_domain_create: Domain {id}:cannot make domain: -6\n",
                facts.name
            ));
        }
        let disks: Vec<PathBuf> = facts.disks.iter().filter_map(|disk| facts::path(&disk.source).cloned()).collect();
        for (index, disk) in disks.iter().enumerate() {
            if !self.devices.contains_key(disk) {
                return Err(format!(
                    "libxl: error: libxl_device.c:455:libxl__device_disk_set_backend: Disk vdev={} failed to stat: {}: No such file or directory\nlibxl: error: libxl_create.c:1318:initiate_domain_create: Domain {id}:Unable to set disk defaults for disk {index}\n",
                    facts.disks[index].name,
                    disk.display()
                ));
            }
        }
        let mib = facts.memory_bytes >> 20;
        if mib > self.free_mib {
            return Err(format!(
                "xc: error: panic: xg_dom_boot.c:119: xc_dom_boot_mem_init: can't allocate low memory for domain: Out of memory\nlibxl: error: libxl_dom.c:586:libxl__build_dom: xc_dom_boot_mem_init failed: Cannot allocate memory\nlibxl: error: libxl_create.c:1640:domcreate_rebuild_done: Domain {id}:cannot (re-)build domain: -3\n"
            ));
        }
        if let Some(disk) = disks.iter().find(|disk| self.domains.iter().any(|other| other.disks.contains(disk))) {
            return Err(format!(
                "libxl: error: libxl_exec.c:117:libxl_report_child_exitstatus: /etc/xen/scripts/block add [3510] exited with error status 1\nlibxl: error: libxl_device.c:1337:device_hotplug_child_death_cb: script: Device /dev/{} is mounted in a guest domain,\nand so cannot be mounted now.\nlibxl: error: libxl_create.c:1672:domcreate_launch_dm: Domain {id}:unable to add disk devices\n",
                self.devices[disk]
            ));
        }
        if self.crashes {
            return Ok(());
        }
        self.free_mib -= mib;
        let uuid = facts.uuid.unwrap_or_else(|| format!("00000000-0000-4000-8000-{id:012}"));
        let (memory, began) = (text.to_owned(), text.to_owned());
        self.domains.push(FakeDomain {
            id,
            name: facts.name,
            uuid,
            mib,
            life: Life::Runs,
            memory,
            began,
            libvirt,
            disks,
        });
        Ok(())
    }

    /// A reboot from inside: the domain is made anew from what is in memory. Tells whether it came up.
    pub fn reboot(&mut self, name: &str) -> bool {
        let old = self.find(name).unwrap().clone();
        self.end(old.id);
        let id = self.next_id;
        self.next_id += 1;
        self.make(id, &old.memory, old.libvirt).is_ok()
    }
}

#[async_trait]
impl Host for FakeXen {
    fn name(&self) -> &str {
        self.real.name()
    }
    fn is_local(&self) -> bool {
        self.local
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        if command.program() != "xl" {
            return self.real.run(command).await;
        }
        let words: Vec<&str> = command.argv.iter().skip(1).map(String::as_str).collect();
        let (status, said) = self.with(|state| {
            state.commands.push(command.argv.clone());
            state.xl(&words)
        });
        let (stdout, stderr) =
            if status == 0 { (said.into_bytes(), Vec::new()) } else { (Vec::new(), said.into_bytes()) };
        Ok(Output { status, stdout, stderr, truncated: false })
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.real.read_file(path, limit).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        self.real.write_file(path, bytes, mode).await
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        self.real.job_start(job).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        self.real.job_status(id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        self.real.job_forget(id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        self.real.job_output(id, from).await
    }
}
