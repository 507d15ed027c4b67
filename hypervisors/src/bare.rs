//! A place that runs guests and offers nothing: no definitions, no volumes, no power. What is known of a guest there is what it says
//! over ssh, as with a provider whose hypervisor nobody outside may ask.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::host::{Command, Job, JobStatus, Output};
use crate::{
    Capabilities, Cause, Change, Definition, DefinitionEdit, Disk, Error, GuestFacts, GuestLink, Host, Hypervisor, Net,
    Power, Result, Storage, VolumeKind, VolumeRef, host::SshHost,
};

/// The platform of a host with `hypervisor = "none"`.
#[derive(Debug)]
pub struct Bare {
    nobody: Arc<Nobody>,
    net: Arc<dyn Net>,
}

/// The machine that runs the guests, as far as anyone here can use it.
#[derive(Debug)]
struct Nobody(String);

impl Bare {
    /// Of this name in the inventory.
    pub fn new(name: &str, net: Arc<dyn Net>) -> Self {
        Self { nobody: Arc::new(Nobody(name.to_owned())), net }
    }

    fn cannot<T>(&self, doing: String) -> Result<T> {
        self.nobody.cannot(doing)
    }
}

impl Nobody {
    fn cannot<T>(&self, doing: String) -> Result<T> {
        let why = format!("{} has no hypervisor that can be asked (hypervisor = \"none\")", self.0);
        Err(Error::new(doing, Cause::Unsupported(why)))
    }
}

#[async_trait]
impl Host for Nobody {
    fn name(&self) -> &str {
        &self.0
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        self.cannot(format!("run {} there", command.program()))
    }
    async fn read_file(&self, path: &Path, _limit: u64) -> Result<Option<Vec<u8>>> {
        self.cannot(format!("read {} there", path.display()))
    }
    async fn write_file(&self, path: &Path, _bytes: &[u8], _mode: u32) -> Result<Change> {
        self.cannot(format!("write {} there", path.display()))
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        self.cannot(format!("start {} there", job.id))
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        self.cannot(format!("look at {id} there"))
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        self.cannot(format!("forget {id} there"))
    }
    async fn job_output(&self, id: &str, _from: u64) -> Result<Vec<u8>> {
        self.cannot(format!("follow {id} there"))
    }
}

#[async_trait]
impl Hypervisor for Bare {
    fn host(&self) -> Arc<dyn Host> {
        self.nobody.clone()
    }
    fn net(&self) -> Arc<dyn Net> {
        self.net.clone()
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { shares_host_kernel: false, reboots_from_memory: false, can_pause: false }
    }
    fn platform(&self) -> &'static str {
        "none"
    }
    /// None that could be told.
    async fn list(&self) -> Result<Vec<GuestFacts>> {
        Ok(Vec::new())
    }
    /// Nothing could be told.
    async fn facts(&self, _guest: &str) -> Result<Option<GuestFacts>> {
        Ok(None)
    }
    async fn definition(&self, _guest: &str) -> Result<Option<Definition>> {
        Ok(None)
    }
    fn derive(&self, original: &Definition, _edit: &DefinitionEdit) -> Result<Definition> {
        self.cannot(format!("edit the definition of {}", original.name))
    }
    async fn define(&self, definition: &Definition) -> Result<Change> {
        self.cannot(format!("define {}", definition.name))
    }
    async fn undefine(&self, guest: &str) -> Result<Change> {
        self.cannot(format!("undefine {guest}"))
    }
    /// Nobody says that it is off.
    async fn power(&self, _guest: &str) -> Result<Power> {
        Ok(Power::On)
    }
    async fn start(&self, guest: &str) -> Result<Change> {
        self.cannot(format!("start {guest}"))
    }
    async fn shutdown(&self, guest: &str, _patience: Duration) -> Result<Change> {
        self.cannot(format!("shut {guest} down"))
    }
    async fn destroy(&self, guest: &str) -> Result<Change> {
        self.cannot(format!("end {guest}"))
    }
    async fn pause(&self, guest: &str) -> Result<Change> {
        self.cannot(format!("pause {guest}"))
    }
    async fn resume(&self, guest: &str) -> Result<Change> {
        self.cannot(format!("resume {guest}"))
    }
    async fn resume_command(&self, _guest: &str) -> Result<Option<Vec<String>>> {
        Ok(None)
    }
    async fn autostart(&self, _guest: &str) -> Result<bool> {
        Ok(true)
    }
    async fn set_autostart(&self, guest: &str, _on: bool) -> Result<Change> {
        self.cannot(format!("have {guest} started with its host"))
    }
    async fn volume(&self, disk: &Disk) -> Result<VolumeRef> {
        self.cannot(format!("find the volume of {}", disk.name))
    }
    fn storage(&self, kind: VolumeKind) -> Result<Arc<dyn Storage>> {
        self.cannot(format!("find a driver for volumes of kind {kind:?}").to_lowercase())
    }
    fn guest(&self, link: &GuestLink) -> Result<Arc<dyn Host>> {
        Ok(crate::net::inside(link, self.net.clone(), SshHost::for_guest))
    }
}
