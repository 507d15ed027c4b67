//! The operations on machines. Each looks first, asks only for what differs, and waits for the server's task.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::Value;
use tokio::time::sleep;
use vim_rs::core::client::{VimClient as _, unmarshal};
use vim_rs::mo::{SearchIndex, VirtualMachine, VirtualMachineSnapshot};
use vim_rs::types::enums::MoTypesEnum;
use vim_rs::types::structs::{ManagedObjectReference, VirtualMachineCloneSpec, VirtualMachineConfigSpec};

use super::edit::{Disks, Plug};
use super::facts::{self, ABOVE, Above, MACHINE};
use super::props::{self, Request, Seen};
use super::session::Session;
use super::{Trouble, Vsphere, edit, guest, task, wrong};
use crate::machines::{GuestLogin, Machine, MachineFacts, Machines, NewMachine, NicEdit};
use crate::{Cause, Change, Error, Host, Mark, Power, Result};

/// Pause between two looks at a guest that shuts down.
const LOOK: Duration = Duration::from_secs(2);

/// A machine with its properties, ready to be worked on.
pub(super) struct Found {
    session: Arc<Session>,
    seen: Seen,
    pub(super) facts: MachineFacts,
}

impl Found {
    fn vm(&self) -> VirtualMachine {
        VirtualMachine::new(self.session.clone(), &self.seen.reference.value)
    }

    fn has(&self, snapshot: &str) -> bool {
        self.facts.snapshots.iter().any(|known| known.id == snapshot)
    }

    /// Calls a method of the machine that begins a task, and waits for its end.
    async fn ask(&self, doing: &str, method: &str, request: Result<Request, Trouble>) -> Result<Value> {
        ask(&self.session, doing, &self.seen.reference.value, method, request).await
    }

    /// Waits for the end of a task that was asked for. What holds another one up is told instead of that there is one.
    async fn ended(&self, doing: &str, task: Result<ManagedObjectReference, Trouble>) -> Result<Value> {
        if task.as_ref().is_err_and(|trouble| trouble.is("TaskInProgress")) {
            task::answered(&self.session, doing, &self.seen.reference).await?;
        }
        task::ended(&self.session, doing, task).await
    }

    async fn reconfigure(&self, doing: &str, spec: &Value) -> Result<Change> {
        let request = Request::new("ReconfigVMRequestType").typed::<VirtualMachineConfigSpec>("spec", spec);
        self.ask(doing, "ReconfigVM_Task", request).await?;
        Ok(Change::Changed)
    }
}

/// Calls a method of a machine that begins a task, and waits for its end.
async fn ask(
    session: &Arc<Session>,
    doing: &str,
    machine: &str,
    method: &str,
    request: Result<Request, Trouble>,
) -> Result<Value> {
    let request = request.map_err(|trouble| wrong(doing, trouble))?;
    let asked = session.invoke("", "VirtualMachine", machine, method, Some(&request)).await;
    let task = asked.and_then(|bytes| unmarshal(session.transport(), &bytes)).map_err(Trouble::from);
    task::ended(session, doing, task).await
}

impl Vsphere {
    /// All machines with these properties, and what is above them.
    pub(super) async fn everything(&self, doing: &str, paths: &[&str]) -> Result<(Vec<Seen>, Above)> {
        let session = self.session().await?;
        let mut kinds = vec![("VirtualMachine", paths)];
        kinds.extend(ABOVE);
        let found = props::all(&session, &kinds).await.map_err(|trouble| wrong(doing, trouble))?;
        let mut above = Above::default();
        let (machines, rest): (Vec<Seen>, Vec<Seen>) =
            found.into_iter().partition(|seen| seen.reference.r#type == MoTypesEnum::VirtualMachine);
        rest.iter().for_each(|seen| above.add(seen));
        Ok((machines, above))
    }

    /// The server's reference of a machine.
    pub(super) async fn known(
        &self,
        session: &Arc<Session>,
        uuid: &str,
    ) -> Result<Option<ManagedObjectReference>, Trouble> {
        let known = || self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(found) = known().get(uuid).cloned() {
            return Ok(Some(found));
        }
        let Some(index) = &session.service_content().search_index else {
            return Err(Trouble::malformed("the service has no search index"));
        };
        let found = SearchIndex::new(session.clone(), &index.value).find_by_uuid(None, uuid, true, Some(true)).await?;
        if let Some(found) = &found {
            known().insert(uuid.to_owned(), found.clone());
        }
        Ok(found)
    }

    pub(super) async fn look(&self, doing: &str, uuid: &str) -> Result<Option<Found>> {
        let session = self.session().await?;
        let uuid = uuid.to_ascii_lowercase();
        let found = self.looked(&session, &uuid).await.map_err(|trouble| wrong(doing, trouble))?;
        let Some((seen, above, networks)) = found else {
            self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&uuid);
            return Ok(None);
        };
        let facts = facts::machine(&seen, &above, &networks).ok_or_else(|| {
            Error::new(
                doing,
                Cause::Malformed(
                    "the API does not tell its UUID, name, power state and devices, or not in a form that is known"
                        .into(),
                ),
            )
        })?;
        if facts.machine.uuid != uuid {
            self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&uuid);
            return Ok(None);
        }
        Ok(Some(Found { session, seen, facts }))
    }

    async fn looked(
        &self,
        session: &Arc<Session>,
        uuid: &str,
    ) -> Result<Option<(Seen, Above, HashMap<String, String>)>, Trouble> {
        let Some(reference) = self.known(session, uuid).await? else { return Ok(None) };
        let Some((seen, rest)) = props::with_above(session, &reference, MACHINE, ABOVE).await? else { return Ok(None) };
        let mut above = Above::default();
        rest.iter().for_each(|seen| above.add(seen));
        let networks = self.portgroups(session, [&seen]).await?;
        Ok(Some((seen, above, networks)))
    }

    /// Names of the port groups that machines are plugged into, by key.
    pub(super) async fn portgroups<'a>(
        &self,
        session: &Arc<Session>,
        machines: impl IntoIterator<Item = &'a Seen>,
    ) -> Result<HashMap<String, String>, Trouble> {
        let devices = machines.into_iter().flat_map(facts::devices);
        let mut keys: Vec<&str> = devices.filter_map(facts::portgroup).collect();
        keys.sort_unstable();
        keys.dedup();
        let references: Vec<_> =
            keys.iter().map(|key| props::reference(MoTypesEnum::DistributedVirtualPortgroup, *key)).collect();
        let seen = props::of_each(session, &references, "DistributedVirtualPortgroup", &["name"]).await?;
        Ok(seen
            .into_iter()
            .filter_map(|seen| Some((seen.reference.value.clone(), seen.text("name")?.to_owned())))
            .collect())
    }

    pub(super) async fn need(&self, doing: &str, uuid: &str) -> Result<Found> {
        self.look(doing, uuid)
            .await?
            .ok_or_else(|| Error::not_found(doing, format!("no machine has the instance UUID {uuid}")))
    }

    /// The network of a name that a machine's host has.
    async fn plug(&self, doing: &str, found: &Found, name: &str) -> Result<Plug> {
        let bad = |trouble| wrong(doing, trouble);
        let session = &found.session;
        let host = props::of(session, &found.seen.reference, &["runtime.host"]).await.map_err(bad)?;
        let host: Option<ManagedObjectReference> =
            host.and_then(|seen| props::typed(seen.properties.get("runtime.host")?).ok());
        let Some(host) = host else { return Err(Error::refused(doing, "the API does not tell which host it is on")) };
        let networks = props::of(session, &host, &["network"]).await.map_err(bad)?;
        let networks: Vec<ManagedObjectReference> =
            networks.and_then(|seen| props::typed(seen.properties.get("network")?).ok()).unwrap_or_default();
        let seen = props::of_each(session, &networks, "ManagedEntity", &["name"]).await.map_err(bad)?;
        let named: Vec<&Seen> = seen.iter().filter(|seen| seen.text("name") == Some(name)).collect();
        let [network] = named.as_slice() else {
            let mut names: Vec<&str> = seen.iter().filter_map(|seen| seen.text("name")).collect();
            names.sort_unstable();
            let why = match named.len() {
                0 => format!("its host has no network {name:?}"),
                many => format!("its host has {many} networks {name:?}"),
            };
            return Err(Error::refused(doing, why).help(format!("networks there: {}", names.join(", "))));
        };
        if network.reference.r#type != MoTypesEnum::DistributedVirtualPortgroup {
            return Ok(Plug::Network(name.to_owned()));
        }
        let told =
            props::of(session, &network.reference, &["key", "config.distributedVirtualSwitch"]).await.map_err(bad)?;
        let malformed =
            || Error::new(doing, Cause::Malformed(format!("the port group {name:?} tells no key or no switch")));
        let told = told.ok_or_else(malformed)?;
        let switch: ManagedObjectReference = told
            .properties
            .get("config.distributedVirtualSwitch")
            .and_then(|value| props::typed(value).ok())
            .ok_or_else(malformed)?;
        let switch = props::of(session, &switch, &["uuid"]).await.map_err(bad)?.ok_or_else(malformed)?;
        let key = told.text("key").ok_or_else(malformed)?.to_owned();
        Ok(Plug::Portgroup { key, switch: switch.text("uuid").ok_or_else(malformed)?.to_owned() })
    }

    async fn cloned(&self, doing: &str, uuid: &str, from: &str, new: &NewMachine, disks: Disks) -> Result<Change> {
        let (machines, _) =
            self.everything(doing, &["name", "parent", "config.instanceUuid", "config.extraConfig"]).await?;
        let found = self.need(doing, uuid).await?;
        let Some(folder) = facts::folder(&found.seen) else {
            return Err(Error::refused(doing, "it is in a vApp: its clone would have no folder"));
        };
        let namesake = |seen: &&Seen| {
            seen.text("name") == Some(&new.name) && facts::folder(seen).is_some_and(|place| place == folder)
        };
        if let Some(there) = machines.iter().find(namesake) {
            return match (facts::mark(there), facts::uuid(there)) {
                (Some(mark), Some(uuid)) if mark == new.mark => {
                    self.called(&found.session, doing, &there.reference, &uuid, new).await?;
                    Ok(Change::Unchanged)
                }
                _ => Err(Error::refused(doing, format!("there is another machine {} in its folder", new.name))),
            };
        }
        if !found.has(from) {
            return Err(Error::not_found(doing, format!("it has no snapshot {from}")));
        }
        let cards = edit::unplugged(facts::devices(&found.seen));
        let spec = edit::clone(disks, from, cards, new);
        let request = Request::new("CloneVMRequestType")
            .with("folder", folder)
            .with("name", new.name.clone())
            .typed::<VirtualMachineCloneSpec>("spec", &spec);
        let cloned = found.ask(doing, "CloneVM_Task", request).await?;
        let cloned: ManagedObjectReference =
            props::typed(&cloned).map_err(|trouble| Error::unknown(doing, trouble.cause.to_string()))?;
        let seen = props::of(&found.session, &cloned, &["config.instanceUuid"])
            .await
            .map_err(|trouble| wrong(doing, trouble))?;
        let uuid = seen.as_ref().and_then(facts::uuid);
        let uuid = uuid.ok_or_else(|| Error::unknown(doing, "the clone tells no UUID"))?;
        self.called(&found.session, doing, &cloned, &uuid, new).await?;
        Ok(Change::Created)
    }

    /// Gives a clone its UUID, if the server gave it one of its own: "vCenter may assign or change it"
    /// (`VirtualMachineConfigSpec.instanceUuid`, which is changed whether the machine is on or off).
    async fn called(
        &self,
        session: &Arc<Session>,
        doing: &str,
        clone: &ManagedObjectReference,
        uuid: &str,
        new: &NewMachine,
    ) -> Result<()> {
        if uuid.eq_ignore_ascii_case(&new.uuid) {
            return Ok(());
        }
        let mut spec = edit::config();
        spec["instanceUuid"] = new.uuid.clone().into();
        let request = Request::new("ReconfigVMRequestType").typed::<VirtualMachineConfigSpec>("spec", &spec);
        ask(session, doing, &clone.value, "ReconfigVM_Task", request).await.map(drop)
    }

    async fn powered(&self, uuid: &str, on: bool) -> Result<Change> {
        let doing = if on { format!("start {uuid}") } else { format!("end {uuid}") };
        let found = self.need(&doing, uuid).await?;
        let doing = format!("{} {}", if on { "start" } else { "end" }, found.facts.machine.path);
        let (vm, power) = (found.vm(), found.facts.power);
        let asked = match (on, power) {
            (true, Power::On) | (false, Power::Off) => return Ok(Change::Unchanged),
            (true, _) => vm.power_on_vm_task(None).await.map_err(Trouble::from),
            (false, _) => vm.power_off_vm_task().await.map_err(Trouble::from),
        };
        found.ended(&doing, asked).await?;
        Ok(Change::Changed)
    }
}

#[async_trait]
impl Machines for Vsphere {
    async fn find(&self, wanted: &str) -> Result<Machine> {
        let doing = format!("find {wanted} on {}", self.address.name);
        let paths = ["name", "parent", "parentVApp", "config.instanceUuid", "config.uuid"];
        let (machines, above) = self.everything(&doing, &paths).await?;
        let is = |seen: &&Seen| match wanted.starts_with('/') {
            true => above.path(seen) == wanted.trim_end_matches('/'),
            false => {
                let uuid = |name: &str| seen.text(name).is_some_and(|uuid| uuid.eq_ignore_ascii_case(wanted));
                seen.text("name") == Some(wanted) || uuid("config.instanceUuid") || uuid("config.uuid")
            }
        };
        let found: Vec<&Seen> = machines.iter().filter(is).collect();
        match found.as_slice() {
            [] => Err(Error::not_found(doing, "there is no such machine")
                .help("name it by its path (/DC0/vm/web1), its instance UUID or its name; it may be hidden from the user that logs in")),
            [one] => facts::which(one, &above)
                .ok_or_else(|| Error::refused(doing, "it has no instance UUID: it is being made, or its files cannot be reached")),
            several => {
                let tell = |seen: &&Seen| {
                    format!("{} ({})", above.path(seen), facts::uuid(seen).unwrap_or_else(|| "no UUID".into()))
                };
                let mut told: Vec<String> = several.iter().map(tell).collect();
                told.sort();
                Err(Error::refused(doing, format!("{} machines are meant: {}", told.len(), told.join(", ")))
                    .help("name it by its path, or by its instance UUID"))
            }
        }
    }

    async fn machine(&self, uuid: &str) -> Result<Option<MachineFacts>> {
        Ok(self.look(&format!("look at {uuid}"), uuid).await?.map(|found| found.facts))
    }

    async fn all(&self) -> Result<Vec<MachineFacts>> {
        let doing = format!("list the machines of {}", self.address.name);
        let (seen, above) = self.everything(&doing, MACHINE).await?;
        let session = self.session().await?;
        let networks = self.portgroups(&session, &seen).await.map_err(|trouble| wrong(doing, trouble))?;
        Ok(seen.iter().filter_map(|seen| facts::machine(seen, &above, &networks)).collect())
    }

    async fn busy(&self, uuid: &str) -> Result<bool> {
        let doing = format!("look at the tasks of {uuid}");
        let found = self.need(&doing, uuid).await?;
        task::works_on(&found.session, &doing, &found.seen.reference).await
    }

    async fn snapshot(&self, uuid: &str, name: &str, description: &str, quiesce: bool) -> Result<String> {
        let doing = format!("make the snapshot {name} of {uuid}");
        let found = self.need(&doing, uuid).await?;
        if quiesce && !(found.facts.power == Power::On && found.facts.tools.running) {
            return Err(Error::refused(doing, "its file systems cannot be quiesced: the tools do not run")
                .help("without quiescing the snapshot is what a power cut would leave"));
        }
        let asked =
            found.vm().create_snapshot_task(name, Some(description), false, quiesce).await.map_err(Trouble::from);
        let made = found.ended(&doing, asked).await?;
        let id = made.get("value").and_then(Value::as_str).filter(|id| !id.is_empty());
        id.map(str::to_owned).ok_or_else(|| Error::unknown(doing, "the API gave no id of it"))
    }

    async fn revert(&self, uuid: &str, snapshot: &str) -> Result<Change> {
        let doing = format!("bring {uuid} back to {snapshot}");
        let found = self.need(&doing, uuid).await?;
        if !found.has(snapshot) {
            return Err(Error::not_found(doing, format!("it has no snapshot {snapshot}")));
        }
        let of = VirtualMachineSnapshot::new(found.session.clone(), snapshot);
        let asked = of.revert_to_snapshot_task(None, Some(true)).await.map_err(Trouble::from);
        found.ended(&doing, asked).await?;
        Ok(Change::Changed)
    }

    async fn remove_snapshot(&self, uuid: &str, snapshot: &str) -> Result<Change> {
        let doing = format!("remove {snapshot} of {uuid}");
        let Some(found) = self.look(&doing, uuid).await? else { return Ok(Change::Unchanged) };
        if !found.has(snapshot) {
            return Ok(Change::Unchanged);
        }
        let of = VirtualMachineSnapshot::new(found.session.clone(), snapshot);
        let asked = of.remove_snapshot_task(false, Some(true)).await.map_err(Trouble::from);
        found.ended(&doing, asked).await?;
        Ok(Change::Removed)
    }

    async fn clone_linked(&self, uuid: &str, snapshot: &str, new: &NewMachine) -> Result<Change> {
        self.cloned(&format!("clone {uuid} as {}", new.name), uuid, snapshot, new, Disks::Linked).await
    }

    async fn clone_full(&self, uuid: &str, snapshot: &str, new: &NewMachine) -> Result<Change> {
        self.cloned(&format!("copy {uuid} as {}", new.name), uuid, snapshot, new, Disks::Own).await
    }

    async fn edit_nics(&self, uuid: &str, edits: &[NicEdit]) -> Result<Change> {
        let doing = format!("edit the network cards of {uuid}");
        let found = self.need(&doing, uuid).await?;
        let mut changes = Vec::new();
        for edit in edits {
            let nic = found.facts.nics.iter().find(|nic| nic.key == edit.key);
            let key = |device: &&Value| device.get("key").and_then(Value::as_i64) == Some(edit.key.into());
            let (Some(nic), Some(device)) = (nic, facts::devices(&found.seen).find(key)) else {
                let known: Vec<String> =
                    found.facts.nics.iter().map(|nic| format!("{} ({})", nic.key, nic.label)).collect();
                return Err(Error::not_found(doing, format!("it has no card {}, but {}", edit.key, known.join(", "))));
            };
            let retyped = edit
                .mac
                .and(edit.mac_type.as_ref())
                .is_some_and(|wanted| !nic.mac_type.as_ref().is_some_and(|now| now.eq_ignore_ascii_case(wanted)));
            let changes_it = retyped || edit.mac.is_some_and(|mac| nic.mac != Some(mac));
            if changes_it && found.facts.power != Power::Off {
                return Err(Error::refused(doing, "a hardware address is changed only while the machine is off"));
            }
            let plug = match &edit.network {
                Some(name) if *name != nic.network => Some(self.plug(&doing, &found, name).await?),
                _ => None,
            };
            changes.extend(edit::nic(device, edit, plug.as_ref()));
        }
        if changes.is_empty() {
            return Ok(Change::Unchanged);
        }
        let mut spec = edit::config();
        spec["deviceChange"] = changes.into();
        found.reconfigure(&doing, &spec).await
    }

    async fn set_mark(&self, uuid: &str, mark: Option<&Mark>) -> Result<Change> {
        let doing = format!("{} {uuid}", if mark.is_some() { "mark" } else { "unmark" });
        let found = self.need(&doing, uuid).await?;
        if found.facts.mark.as_ref() == mark {
            return Ok(Change::Unchanged);
        }
        let mut spec = edit::config();
        spec["extraConfig"] = edit::marked(mark);
        found.reconfigure(&doing, &spec).await
    }

    async fn rename(&self, uuid: &str, name: &str) -> Result<Change> {
        let doing = format!("rename {uuid} to {name}");
        let found = self.need(&doing, uuid).await?;
        if found.facts.machine.name == name {
            return Ok(Change::Unchanged);
        }
        found.ended(&doing, found.vm().rename_task(name).await.map_err(Trouble::from)).await?;
        Ok(Change::Changed)
    }

    async fn resize(&self, uuid: &str, memory_bytes: Option<u64>, cpus: Option<u32>) -> Result<Change> {
        let doing = format!("change memory and processors of {uuid}");
        let found = self.need(&doing, uuid).await?;
        let mut spec = edit::config();
        if let Some(bytes) = memory_bytes.filter(|bytes| *bytes != found.facts.memory_bytes) {
            if bytes % (1 << 20) != 0 {
                return Err(Error::refused(doing, format!("{bytes} bytes are no whole MiB")));
            }
            spec["memoryMB"] = (bytes >> 20).into();
        }
        if let Some(cpus) = cpus.filter(|cpus| *cpus != found.facts.cpus) {
            spec["numCPUs"] = cpus.into();
        }
        if spec == edit::config() {
            return Ok(Change::Unchanged);
        }
        if found.facts.power != Power::Off {
            return Err(Error::refused(doing, "they are changed only while the machine is off"));
        }
        found.reconfigure(&doing, &spec).await
    }

    async fn power_on(&self, uuid: &str) -> Result<Change> {
        self.powered(uuid, true).await
    }

    async fn power_off(&self, uuid: &str) -> Result<Change> {
        self.powered(uuid, false).await
    }

    async fn shutdown_guest(&self, uuid: &str, patience: Duration) -> Result<Change> {
        let doing = format!("shut {uuid} down");
        let found = self.need(&doing, uuid).await?;
        if found.facts.power == Power::Off {
            return Ok(Change::Unchanged);
        }
        if !found.facts.tools.running {
            return Err(Error::refused(doing, "its tools do not run: the guest cannot be asked")
                .help("shut it down from inside, or end it by power off"));
        }
        found.vm().shutdown_guest().await.map_err(|trouble| wrong(&*doing, trouble))?;
        let until = Instant::now() + patience;
        loop {
            let state = props::of(&found.session, &found.seen.reference, &["runtime.powerState"]).await;
            let state = state.map_err(|trouble| Error::unknown(&*doing, wrong("look at it", trouble).to_string()))?;
            if state.is_some_and(|seen| seen.text("runtime.powerState") == Some("poweredOff")) {
                return Ok(Change::Changed);
            }
            if Instant::now() >= until {
                return Err(Error::unknown(
                    doing,
                    format!("it was asked, and is still on after {} s", patience.as_secs()),
                ));
            }
            sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    async fn promote_disks(&self, uuid: &str) -> Result<Change> {
        let doing = format!("give {uuid} disks of its own");
        let found = self.need(&doing, uuid).await?;
        if found.facts.disks.iter().all(|disk| disk.parents.is_empty()) {
            return Ok(Change::Unchanged);
        }
        if !found.facts.snapshots.is_empty() {
            let names: Vec<&str> = found.facts.snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
            return Err(Error::refused(
                doing,
                format!("it has snapshots, whose disks would stay shared: {}", names.join(", ")),
            ));
        }
        let request = Request::new("PromoteDisksRequestType").with("unlink", true);
        found.ask(&doing, "PromoteDisks_Task", Ok(request)).await?;
        let after = self.need(&doing, uuid).await?;
        match after.facts.borrowed().as_slice() {
            [] => Ok(Change::Changed),
            left => Err(Error::unknown(doing, format!("its disks still stand on {}", left.join(", ")))),
        }
    }

    async fn consolidate(&self, uuid: &str) -> Result<Change> {
        let doing = format!("fold the disks of {uuid}");
        let found = self.need(&doing, uuid).await?;
        if !found.facts.needs_consolidation {
            return Ok(Change::Unchanged);
        }
        found.ended(&doing, found.vm().consolidate_vm_disks_task().await.map_err(Trouble::from)).await?;
        Ok(Change::Changed)
    }

    async fn remove(&self, uuid: &str, run: &str) -> Result<Change> {
        let doing = format!("remove {uuid} with its disks");
        let Some(found) = self.look(&doing, uuid).await? else { return Ok(Change::Unchanged) };
        let doing = format!("remove {} with its disks", found.facts.machine.path);
        match &found.facts.mark {
            Some(mark) if mark.run == run => {}
            Some(mark) => return Err(Error::refused(doing, format!("it belongs to the run {}", mark.run))),
            None => return Err(Error::refused(doing, format!("it has not the mark of {run}: it was not made for it"))),
        }
        if found.facts.power != Power::Off {
            return Err(Error::refused(doing, "it is on"));
        }
        found.ended(&doing, found.vm().destroy_task().await.map_err(Trouble::from)).await?;
        Ok(Change::Removed)
    }

    fn inside(&self, uuid: &str, login: GuestLogin) -> Arc<dyn Host> {
        Arc::new(guest::Inside::new(self.clone(), uuid, login))
    }

    async fn enter(&self, uuid: &str, guest: &str) -> Result<Arc<dyn Host>> {
        let doing = format!("enter {guest} by its tools");
        let Some(credentials) = self.guests.get(guest) else {
            return Err(Error::refused(doing, "the inventory has no login of its system").help(format!(
                "guests.{guest}: guest_login = {{ file = \"/etc/upgradectl/{guest}\" }}, two lines: user, password"
            )));
        };
        let login = credentials.read(&format!("read the login of {guest}")).await?;
        Ok(self.inside(uuid, GuestLogin { user: login.user, password: login.password }))
    }

    fn calls(&self) -> BTreeMap<String, u64> {
        self.counted()
    }

    async fn close(&self) -> Result<()> {
        let Some(session) = self.session.lock().await.take() else { return Ok(()) };
        session.close().await.map_err(|trouble| wrong(format!("log out of {}", self.address.name), trouble))
    }
}
