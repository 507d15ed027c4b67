//! A vCenter as a [`Hypervisor`]: machines are guests, by path, instance UUID or name. Volumes are the platform's own and are not
//! worked on from here: clones and snapshots are whole machines' ([`crate::Machines`]).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::Vsphere;
use super::definition::{self, Text};
use crate::host::{Command, Job, JobStatus, Output};
use crate::machines::{MachineFacts, Machines, NicEdit};
use crate::storage::{Storage, VolumeKind, VolumeRef};
use crate::{
    Bridged, Capabilities, Cause, Change, Definition, DefinitionEdit, Disk, DiskSource, Error, FreeMemory, GuestFacts,
    GuestLink, Host, Hypervisor, MacAddr, Net, Nic, Power, Result, Sight,
};

fn unsupported<T>(doing: impl Into<String>, why: &str) -> Result<T> {
    Err(Error::new(doing, Cause::Unsupported(why.to_owned())))
}

fn guest(facts: &MachineFacts) -> GuestFacts {
    let disks = facts.disks.iter().enumerate().map(|(at, disk)| Disk {
        name: disk.label.clone(),
        source: DiskSource::Other(disk.file.clone()),
        root: at == 0,
        readonly: false,
        shareable: disk.shared,
    });
    let nics = facts.nics.iter().map(|nic| Nic {
        name: None,
        mac: nic.mac,
        bridge: nic.network.clone(),
        filter: None,
        addresses: Vec::new(),
    });
    GuestFacts {
        name: facts.machine.name.clone(),
        uuid: Some(facts.machine.uuid.clone()),
        power: facts.power,
        autostart: false,
        memory_bytes: facts.memory_bytes,
        vcpus: facts.cpus,
        disks: disks.collect(),
        nics: nics.collect(),
        managed_save: facts.power == Power::Paused,
        mark: facts.mark.clone(),
        kernel: None,
        vnet: false,
    }
}

impl Vsphere {
    /// The machine that a guest's name means; `None` if there is none.
    async fn named(&self, guest: &str) -> Result<Option<MachineFacts>> {
        match self.find(guest).await {
            Ok(machine) => self.machine(&machine.uuid).await,
            Err(Error { cause: Cause::NotFound(_), .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn must(&self, doing: &str, guest: &str) -> Result<String> {
        let found = self.named(guest).await?;
        Ok(found.ok_or_else(|| self.unknown(doing, guest))?.machine.uuid)
    }

    fn unknown(&self, doing: &str, guest: &str) -> Error {
        Error::not_found(doing, format!("{} has no machine {guest}", self.address.name))
    }
}

#[async_trait]
impl Hypervisor for Vsphere {
    fn host(&self) -> Arc<dyn Host> {
        Arc::new(NoShell { name: self.address.name.clone() })
    }
    fn net(&self) -> Arc<dyn Net> {
        self.net.clone()
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { shares_host_kernel: false, reboots_from_memory: false, can_pause: false }
    }
    fn platform(&self) -> &'static str {
        "vsphere"
    }
    fn machines(&self) -> Option<Arc<dyn Machines>> {
        Some(Arc::new(self.clone()))
    }

    async fn list(&self) -> Result<Vec<GuestFacts>> {
        let all = self.all().await?;
        let mut guests: Vec<GuestFacts> = all.iter().filter(|facts| !facts.template).map(guest).collect();
        guests.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(guests)
    }
    async fn facts(&self, name: &str) -> Result<Option<GuestFacts>> {
        Ok(self.named(name).await?.map(|facts| guest(&facts)))
    }
    async fn definition(&self, guest: &str) -> Result<Option<Definition>> {
        self.named(guest).await?.map(|facts| Text::of(&facts).write()).transpose()
    }
    fn derive(&self, original: &Definition, edit: &DefinitionEdit) -> Result<Definition> {
        definition::derive(original, edit)
    }
    /// Changes the machine of that UUID where it differs; a machine is made by cloning, not by defining it.
    async fn define(&self, definition: &Definition) -> Result<Change> {
        let doing = format!("define {}", definition.name);
        let wanted = Text::read(&doing, definition)?;
        let Some(facts) = self.machine(&wanted.uuid).await? else {
            return Err(Error::not_found(doing, format!("no machine has the instance UUID {}", wanted.uuid)));
        };
        let edit = |card: &definition::Card| NicEdit {
            key: card.key,
            connected: None,
            start_connected: Some(card.start_connected),
            network: Some(card.network.clone()),
            mac: card.mac,
            mac_type: None,
        };
        let edits: Vec<NicEdit> = wanted.nics.iter().map(edit).collect();
        let done = [
            self.set_mark(&wanted.uuid, wanted.mark.as_ref()).await?,
            self.rename(&wanted.uuid, &wanted.name).await?,
            self.edit_nics(&wanted.uuid, &edits).await?,
            self.resize(&wanted.uuid, Some(wanted.memory_bytes), Some(wanted.cpus)).await?,
        ];
        tracing::debug!(machine = facts.machine.path, ?done, "defined");
        Ok(if done.iter().all(|change| *change == Change::Unchanged) { Change::Unchanged } else { Change::Changed })
    }
    async fn undefine(&self, guest: &str) -> Result<Change> {
        unsupported(format!("undefine {guest}"), "a machine goes together with its disks")
    }

    async fn power(&self, guest: &str) -> Result<Power> {
        // One that is not there, or goes by another name by now, is not off: whoever was told so would start something.
        match self.named(guest).await? {
            Some(facts) => Ok(facts.power),
            None => Err(self.unknown(&format!("ask for the power of {guest}"), guest)),
        }
    }
    async fn start(&self, guest: &str) -> Result<Change> {
        let uuid = self.must(&format!("start {guest}"), guest).await?;
        self.power_on(&uuid).await
    }
    async fn shutdown(&self, guest: &str, patience: Duration) -> Result<Change> {
        let uuid = self.must(&format!("shut {guest} down"), guest).await?;
        self.shutdown_guest(&uuid, patience).await
    }
    async fn destroy(&self, guest: &str) -> Result<Change> {
        let uuid = self.must(&format!("end {guest}"), guest).await?;
        self.power_off(&uuid).await
    }
    async fn pause(&self, guest: &str) -> Result<Change> {
        unsupported(format!("pause {guest}"), "a machine can be suspended to disk, not paused")
    }
    async fn resume(&self, guest: &str) -> Result<Change> {
        match self.power(guest).await? {
            Power::On => Ok(Change::Unchanged),
            _ => Err(Error::refused(format!("resume {guest}"), "it is off")),
        }
    }
    async fn resume_command(&self, _guest: &str) -> Result<Option<Vec<String>>> {
        Ok(None)
    }
    /// Hosts and clusters decide by rules of their own which machines start with them.
    async fn autostart(&self, _guest: &str) -> Result<bool> {
        Ok(false)
    }
    async fn set_autostart(&self, guest: &str, on: bool) -> Result<Change> {
        match on {
            false => Ok(Change::Unchanged),
            true => unsupported(format!("switch autostart of {guest} on"), "that is a rule of its host or cluster"),
        }
    }

    async fn volume(&self, disk: &Disk) -> Result<VolumeRef> {
        unsupported(format!("recognise the volume of {}", disk.name), "the disks of a machine are the platform's own")
    }
    fn storage(&self, kind: VolumeKind) -> Result<Arc<dyn Storage>> {
        unsupported(
            format!("use {kind:?} volumes of {}", self.address.name),
            "the disks of a machine are the platform's own",
        )
    }
    fn guest(&self, link: &GuestLink) -> Result<Arc<dyn Host>> {
        Ok(crate::net::inside(link, self.net.clone(), crate::host::SshHost::for_guest))
    }
    async fn sight(&self, _path: &Path) -> Result<Option<Sight>> {
        Ok(None)
    }
    async fn bridged(&self, _bridge: &str, _mac: MacAddr) -> Result<Bridged> {
        Ok(Bridged::Unknown)
    }
    async fn free_memory(&self) -> Result<Option<FreeMemory>> {
        Ok(None)
    }
}

/// The vCenter as a machine: no command is run there.
#[derive(Debug)]
struct NoShell {
    name: String,
}

impl NoShell {
    fn refuse<T>(&self, doing: &str) -> Result<T> {
        unsupported(format!("{doing} on {}", self.name), "a vCenter is reached by its API alone")
    }
}

#[async_trait]
impl Host for NoShell {
    fn name(&self) -> &str {
        &self.name
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        self.refuse(&format!("run {}", command.program()))
    }
    async fn read_file(&self, _path: &Path, _limit: u64) -> Result<Option<Vec<u8>>> {
        self.refuse("read a file")
    }
    async fn write_file(&self, _path: &Path, _bytes: &[u8], _mode: u32) -> Result<Change> {
        self.refuse("write a file")
    }
    async fn job_start(&self, _job: &Job) -> Result<Change> {
        self.refuse("start work")
    }
    async fn job_status(&self, _id: &str) -> Result<JobStatus> {
        self.refuse("look at work")
    }
    async fn job_forget(&self, _id: &str) -> Result<Change> {
        self.refuse("forget work")
    }
    async fn job_output(&self, _id: &str, _from: u64) -> Result<Vec<u8>> {
        self.refuse("follow work")
    }
}
