//! A guest whose volumes lie on one host while another defines and runs it: one [`Hypervisor`] of the two.
//!
//! Definition, power, memory and bridges are those of the host that runs it; volumes and what is in them, those of the
//! host that holds them. That host's paths are the ones every caller sees: where the running host knows a volume by
//! another path (`/dev/etherd/e3.6` for `/dev/vg1/mercure`), the paths are exchanged here, on the way into a definition and
//! on the way out of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::sight::{Bridged, FreeMemory, Sight};
use crate::{
    Capabilities, Change, Definition, DefinitionEdit, Disk, DiskEdit, DiskSource, GuestFacts, GuestLink, Host,
    Hypervisor, MacAddr, Net, NewGuest, Power, Result, Storage, VolumeKind, VolumeRef,
};

/// The two hosts of a guest, and the paths by which the one that runs it knows the volumes of the other.
#[derive(Clone, Debug)]
pub struct Placed {
    volumes: Arc<dyn Hypervisor>,
    runs: Arc<dyn Hypervisor>,
    paths: BTreeMap<PathBuf, PathBuf>,
}

impl Placed {
    /// Volumes of the one host, run by the other (which may be the same). `paths`: where that one sees a volume, by the
    /// volume's path; what is not named has the same path there.
    pub fn new(volumes: Arc<dyn Hypervisor>, runs: Arc<dyn Hypervisor>, paths: BTreeMap<PathBuf, PathBuf>) -> Self {
        Self { volumes, runs, paths }
    }

    /// Where the host that runs guests sees a volume.
    pub fn there<'a>(&'a self, volume: &'a Path) -> &'a Path {
        self.paths.get(volume).map_or(volume, PathBuf::as_path)
    }

    fn here(&self, disk: Disk) -> Disk {
        let of = |path: PathBuf| match self.paths.iter().find(|(_, there)| **there == path) {
            Some((volume, _)) => volume.clone(),
            None => path,
        };
        let source = match disk.source {
            DiskSource::Directory(path) => DiskSource::Directory(of(path)),
            DiskSource::Block(path) => DiskSource::Block(of(path)),
            DiskSource::File(path) => DiskSource::File(of(path)),
            other => other,
        };
        Disk { source, ..disk }
    }

    fn facts_here(&self, facts: GuestFacts) -> GuestFacts {
        let disks = facts.disks.into_iter().map(|disk| self.here(disk)).collect();
        GuestFacts { disks, ..facts }
    }
}

#[async_trait]
impl Hypervisor for Placed {
    fn host(&self) -> Arc<dyn Host> {
        self.runs.host()
    }
    fn net(&self) -> Arc<dyn Net> {
        self.runs.net()
    }
    fn capabilities(&self) -> Capabilities {
        self.runs.capabilities()
    }
    fn platform(&self) -> &'static str {
        self.runs.platform()
    }
    async fn list(&self) -> Result<Vec<GuestFacts>> {
        Ok(self.runs.list().await?.into_iter().map(|facts| self.facts_here(facts)).collect())
    }
    async fn facts(&self, guest: &str) -> Result<Option<GuestFacts>> {
        Ok(self.runs.facts(guest).await?.map(|facts| self.facts_here(facts)))
    }
    async fn definition(&self, guest: &str) -> Result<Option<Definition>> {
        self.runs.definition(guest).await
    }
    async fn compose(&self, guest: &NewGuest) -> Result<Definition> {
        self.runs.compose(guest).await
    }
    fn derive(&self, original: &Definition, edit: &DefinitionEdit) -> Result<Definition> {
        let there = |edit: &DiskEdit| match edit {
            DiskEdit::Source(volume) => {
                DiskEdit::Source(VolumeRef { path: self.there(&volume.path).to_owned(), ..volume.clone() })
            }
            DiskEdit::Remove => DiskEdit::Remove,
        };
        let disks = edit.disks.iter().map(|(name, edit)| (name.clone(), there(edit))).collect();
        self.runs.derive(original, &DefinitionEdit { disks, ..edit.clone() })
    }
    async fn define(&self, definition: &Definition) -> Result<Change> {
        self.runs.define(definition).await
    }
    async fn undefine(&self, guest: &str) -> Result<Change> {
        self.runs.undefine(guest).await
    }
    async fn power(&self, guest: &str) -> Result<Power> {
        self.runs.power(guest).await
    }
    async fn start(&self, guest: &str) -> Result<Change> {
        self.runs.start(guest).await
    }
    async fn shutdown(&self, guest: &str, patience: Duration) -> Result<Change> {
        self.runs.shutdown(guest, patience).await
    }
    async fn destroy(&self, guest: &str) -> Result<Change> {
        self.runs.destroy(guest).await
    }
    async fn pause(&self, guest: &str) -> Result<Change> {
        self.runs.pause(guest).await
    }
    async fn resume(&self, guest: &str) -> Result<Change> {
        self.runs.resume(guest).await
    }
    async fn resume_command(&self, guest: &str) -> Result<Option<Vec<String>>> {
        self.runs.resume_command(guest).await
    }
    async fn autostart(&self, guest: &str) -> Result<bool> {
        self.runs.autostart(guest).await
    }
    async fn set_autostart(&self, guest: &str, on: bool) -> Result<Change> {
        self.runs.set_autostart(guest, on).await
    }
    async fn volume(&self, disk: &Disk) -> Result<VolumeRef> {
        self.volumes.volume(&self.here(disk.clone())).await
    }
    fn storage(&self, kind: VolumeKind) -> Result<Arc<dyn Storage>> {
        self.volumes.storage(kind)
    }
    fn guest(&self, link: &GuestLink) -> Result<Arc<dyn Host>> {
        self.runs.guest(link)
    }
    fn holder(&self) -> Option<Arc<dyn Hypervisor>> {
        Some(Arc::clone(&self.volumes))
    }
    /// By the path it has on the host that runs guests.
    async fn sight(&self, path: &Path) -> Result<Option<Sight>> {
        self.runs.sight(self.there(path)).await
    }
    async fn bridged(&self, bridge: &str, mac: MacAddr) -> Result<Bridged> {
        self.runs.bridged(bridge, mac).await
    }
    async fn free_memory(&self) -> Result<Option<FreeMemory>> {
        self.runs.free_memory().await
    }
}
