//! The simulated platform: definitions and power.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::definition;
use super::guest::SimGuest;
use super::host::SimHost;
use super::net::SimNet;
use super::storage::SimStorage;
use super::world::{HostConfig, Locked, Sim};
use crate::storage;
use crate::{
    Bridged, Capabilities, Change, Definition, DefinitionEdit, Disk, DiskSource, Error, GuestFacts, GuestLink, Host,
    Hypervisor, MacAddr, Net, Power, Result, Sight, Storage, VolumeKind, VolumeRef,
};

impl Locked {
    /// A definition, if it is one of the host that is asked.
    fn defined_here(&self, guest: &str) -> Result<Option<String>> {
        if self.part_of(guest)? != self.sim.part_name() {
            return Ok(None);
        }
        self.definition(guest)
    }

    fn facts(&self, guest: &str) -> Result<Option<GuestFacts>> {
        let Some(text) = self.defined_here(guest)? else { return Ok(None) };
        let parsed = definition::parse(&text)?;
        let runtime = self.runtime(guest)?;
        Ok(Some(GuestFacts {
            name: guest.to_owned(),
            uuid: parsed.uuid.clone(),
            power: runtime.power,
            autostart: runtime.autostart,
            memory_bytes: parsed.memory_bytes,
            vcpus: parsed.vcpus,
            disks: parsed.disks(|volume| self.sim.source(volume))?,
            nics: parsed.nics(),
            managed_save: false,
            mark: parsed.mark(),
            kernel: parsed.kernel.clone(),
            vnet: false,
        }))
    }

    fn stored(&self, doing: &str, guest: &str) -> Result<String> {
        self.defined_here(guest)?.ok_or_else(|| Error::not_found(doing, format!("{guest} is not defined")))
    }

    /// Stores a definition as libvirt does: the UUID decides which guest it is.
    pub fn define(&self, definition: &Definition) -> Result<Change> {
        let name = &definition.name;
        let doing = format!("define {name}");
        let parsed = definition::parse(&definition.text)?;
        if parsed.name != *name {
            return Err(Error::refused(doing, format!("its text defines {}", parsed.name)));
        }
        for other in self.defined()? {
            let theirs = definition::parse(&self.definition(&other)?.unwrap_or_default())?;
            if other == *name && theirs.uuid != parsed.uuid {
                return Err(Error::refused(doing, format!("{name} exists already with another UUID")));
            }
            if other != *name && theirs.uuid.is_some() && theirs.uuid == parsed.uuid {
                return Err(Error::refused(doing, format!("{other} exists already with this UUID")));
            }
        }
        let before = self.definition(name)?;
        if before.is_some() && self.defined_here(name)?.is_none() {
            return Err(Error::refused(doing, "another host of this world has a guest of that name"));
        }
        if before.as_ref() == Some(&definition.text) {
            return Ok(Change::Unchanged);
        }
        self.set_part(name, self.sim.part_name())?;
        self.set_definition(name, Some(&definition.text))?;
        Ok(if before.is_some() { Change::Changed } else { Change::Created })
    }

    fn start(&mut self, guest: &str) -> Result<Change> {
        let doing = format!("start {guest}");
        let text = self.stored(&doing, guest)?;
        let mut runtime = self.runtime(guest)?;
        match runtime.power {
            Power::On => return Ok(Change::Unchanged),
            Power::Paused => {
                runtime.power = Power::On;
                self.set_runtime(guest, &runtime)?;
            }
            Power::Off => self.boot(guest, &text)?,
        }
        Ok(Change::Changed)
    }

    /// How a guest stands for the host that is asked: off, if it is another's.
    fn seen(&self, guest: &str) -> Result<super::world::Runtime> {
        match self.part_of(guest)? == self.sim.part_name() {
            true => self.runtime(guest),
            false => Ok(super::world::Runtime::default()),
        }
    }

    fn stop(&mut self, guest: &str, clean: bool) -> Result<Change> {
        if self.seen(guest)?.power == Power::Off {
            return Ok(Change::Unchanged);
        }
        self.midpoint(&format!("stop {guest}"))?;
        self.halt(guest, clean)?;
        Ok(Change::Changed)
    }

    /// As [`Sim::reboot_host`].
    pub fn reboot(&mut self) -> Result<()> {
        for (guest, _) in self.running()? {
            if self.part_of(&guest)? == self.sim.part_name() {
                self.halt(&guest, false)?;
            }
        }
        self.deactivate_skipped()?;
        for guest in self.defined()? {
            if self.seen(&guest)?.autostart
                && let Err(error) = self.start(&guest)
            {
                self.conflicts.push(error.to_string());
            }
        }
        Ok(())
    }

    fn freeze(&mut self, guest: &str, doing: &str, from: Power, to: Power) -> Result<Change> {
        let mut runtime = self.seen(guest)?;
        if runtime.power == to {
            return Ok(Change::Unchanged);
        }
        if runtime.power != from {
            return Err(Error::refused(format!("{doing} {guest}"), "it is not running"));
        }
        runtime.power = to;
        self.set_runtime(guest, &runtime)?;
        Ok(Change::Changed)
    }

    /// A paused guest goes on; any other is left alone.
    pub(super) fn wake(&mut self, guest: &str) -> Result<()> {
        if self.seen(guest)?.power == Power::Paused {
            self.freeze(guest, "resume", Power::Paused, Power::On)?;
        }
        Ok(())
    }
}

impl Sim {
    /// The machine loses power and comes back: every guest is off, then those with autostart start. A guest that cannot
    /// start stays off, as at a real boot. A snapshot among peers that was not secured is not there afterwards.
    pub async fn reboot_host(&self) -> Result<()> {
        self.effect("reboot_host", "host", Locked::reboot).await
    }
}

#[async_trait]
impl Hypervisor for Sim {
    fn host(&self) -> Arc<dyn Host> {
        self.real_host().unwrap_or_else(|| Arc::new(SimHost::new(self)))
    }
    fn net(&self) -> Arc<dyn Net> {
        Arc::new(SimNet(self.clone()))
    }
    fn capabilities(&self) -> Capabilities {
        self.config().unwrap_or_default().capabilities
    }
    fn platform(&self) -> &'static str {
        "sim"
    }

    async fn list(&self) -> Result<Vec<GuestFacts>> {
        self.observe("list", "guests", |world| {
            let mut all = Vec::new();
            for guest in world.defined()? {
                all.extend(world.facts(&guest)?);
            }
            Ok(all)
        })
        .await
    }
    async fn facts(&self, guest: &str) -> Result<Option<GuestFacts>> {
        self.observe("facts", guest, |world| world.facts(guest)).await
    }
    async fn definition(&self, guest: &str) -> Result<Option<Definition>> {
        self.observe("definition", guest, |world| {
            Ok(world.defined_here(guest)?.map(|text| Definition { name: guest.to_owned(), text }))
        })
        .await
    }
    fn derive(&self, original: &Definition, edit: &DefinitionEdit) -> Result<Definition> {
        let text = definition::derive(&original.text, edit, &self.named_in()?)?;
        Ok(Definition { name: definition::parse(&text)?.name, text })
    }
    async fn define(&self, definition: &Definition) -> Result<Change> {
        self.effect("define", &definition.name, |world| world.define(definition)).await
    }
    async fn undefine(&self, guest: &str) -> Result<Change> {
        self.effect("undefine", guest, |world| {
            if world.defined_here(guest)?.is_none() {
                return Ok(Change::Unchanged);
            }
            if world.runtime(guest)?.power != Power::Off {
                return Err(Error::refused(format!("undefine {guest}"), "it is running"));
            }
            world.forget_runtime(guest)?;
            world.midpoint(&format!("undefine {guest}"))?;
            world.set_definition(guest, None)?;
            world.set_part(guest, "")?;
            Ok(Change::Removed)
        })
        .await
    }

    async fn power(&self, guest: &str) -> Result<Power> {
        self.observe("power", guest, |world| Ok(world.seen(guest)?.power)).await
    }
    async fn start(&self, guest: &str) -> Result<Change> {
        self.effect("start", guest, |world| world.start(guest)).await
    }
    async fn shutdown(&self, guest: &str, patience: Duration) -> Result<Change> {
        let HostConfig { shutdown_ms, .. } = self.config()?;
        let needed = Duration::from_millis(shutdown_ms);
        if shutdown_ms > 0 && self.power(guest).await? != Power::Off {
            tokio::time::sleep(needed.min(patience)).await;
        }
        self.effect("shutdown", guest, |world| {
            if world.seen(guest)?.power != Power::Off && needed > patience {
                let why = format!("it did not shut down within {} s", patience.as_secs());
                return Err(Error::unknown(format!("shut down {guest}"), why));
            }
            world.stop(guest, true)
        })
        .await
    }
    async fn destroy(&self, guest: &str) -> Result<Change> {
        self.effect("destroy", guest, |world| world.stop(guest, false)).await
    }
    async fn pause(&self, guest: &str) -> Result<Change> {
        if !self.capabilities().can_pause {
            return Err(Error::new(format!("pause {guest}"), crate::Cause::Unsupported("it cannot be paused".into())));
        }
        self.effect("pause", guest, |world| world.freeze(guest, "pause", Power::On, Power::Paused)).await
    }
    async fn resume(&self, guest: &str) -> Result<Change> {
        self.effect("resume", guest, |world| world.freeze(guest, "resume", Power::Paused, Power::On)).await
    }
    async fn resume_command(&self, guest: &str) -> Result<Option<Vec<String>>> {
        Ok(Some(["sim", "resume", guest].map(str::to_owned).to_vec()))
    }
    async fn autostart(&self, guest: &str) -> Result<bool> {
        self.observe("autostart", guest, |world| Ok(world.seen(guest)?.autostart)).await
    }
    async fn set_autostart(&self, guest: &str, on: bool) -> Result<Change> {
        self.effect("set_autostart", guest, |world| {
            let mut runtime = world.seen(guest)?;
            if runtime.autostart == on {
                return Ok(Change::Unchanged);
            }
            world.stored(&format!("set autostart of {guest}"), guest)?;
            runtime.autostart = on;
            world.set_runtime(guest, &runtime)?;
            Ok(Change::Changed)
        })
        .await
    }

    async fn volume(&self, disk: &Disk) -> Result<VolumeRef> {
        if let Some(host) = self.real_host() {
            return storage::behind(&*host, disk).await;
        }
        let doing = format!("find the volume of {}", disk.name);
        let DiskSource::Directory(path) = &disk.source else {
            return Err(Error::new(
                doing,
                crate::Cause::Unsupported("the simulated world has only directories".into()),
            ));
        };
        let name = definition::volume_name(path, &self.volumes())?;
        self.observe("volume", &name, |world| {
            world.settle_merges()?;
            match world.volume(&name)? {
                Some(_) => Ok(self.volume_ref(&name)),
                None => Err(Error::not_found(doing, format!("volume {name} does not exist"))),
            }
        })
        .await
    }
    fn storage(&self, kind: VolumeKind) -> Result<Arc<dyn Storage>> {
        if let Some(drivers) = self.real_storage() {
            return storage::driver(&drivers, kind, &*self.host());
        }
        match kind {
            VolumeKind::Sim => Ok(Arc::new(SimStorage(self.clone()))),
            other => Err(Error::new(
                "find the storage driver",
                crate::Cause::Unsupported(format!("the simulated world has no {other:?} volumes")),
            )),
        }
    }
    fn guest(&self, link: &GuestLink) -> Result<Arc<dyn Host>> {
        let sim = self.clone();
        Ok(crate::net::inside(link, Arc::new(SimNet(self.clone())), move |link| SimGuest::new(&sim, link)))
    }

    /// Volumes are seen alike by every host of the world.
    async fn sight(&self, path: &Path) -> Result<Option<Sight>> {
        let Ok(name) = definition::volume_name(path, &self.volumes()) else { return Ok(None) };
        self.observe("sight", &name, |world| {
            Ok(world.volume(&name)?.map(|volume| Sight {
                kind: "directory".into(),
                size_bytes: 0,
                identity: volume.id.clone(),
                head: volume.id,
            }))
        })
        .await
    }
    async fn bridged(&self, bridge: &str, _mac: MacAddr) -> Result<Bridged> {
        Ok(if bridge == self.config()?.bridge { Bridged::Heard } else { Bridged::Absent })
    }
}
