//! What is known of a guest before anything is planned: what it says over ssh, by the way in that the operator has. Changes nothing.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hypervisors::host::{Command, SshHost};
use hypervisors::machines::MachineFacts;
use hypervisors::{GuestLink, Host};

use super::{Machine, Vm};
use crate::guest::keys;
use crate::inventory::{GuestSpec, SshSpec, Strategy};
use crate::lifecycle::address::Addressing;
use crate::lifecycle::app::App;
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::record::RunFacts;
use crate::recipe::yum::Seen;

/// Everything a plan rests on.
#[derive(Debug)]
pub struct Facts {
    /// What the inventory declares.
    pub spec: GuestSpec,
    /// The guest.
    pub guest: Arc<dyn Host>,
    /// Its address.
    pub address: IpAddr,
    /// Its name.
    pub hostname: String,
    /// Its public ssh host keys.
    pub host_keys: Vec<String>,
    /// What an update of its kernel rests on.
    pub seen: Seen,
    /// The machine, as its platform's API tells of it; `None`: there is none.
    pub machine: Option<MachineFacts>,
}

/// The address that a name or address of the inventory means; IPv4 before IPv6.
async fn resolve(guest: &str, name: &str) -> Result<IpAddr, Failure> {
    if let Ok(ip) = name.parse() {
        return Ok(ip);
    }
    let refuse = |why: String| {
        Failure::new(exit::REFUSED, format!("find {guest}"))
            .cause(why)
            .place(format!("guests.{guest}.ssh in the inventory"))
            .help("give its address: ssh = { address = \"203.0.113.7\" }")
    };
    let found: Vec<IpAddr> = tokio::net::lookup_host((name, 22))
        .await
        .map_err(|error| refuse(error.to_string()))?
        .map(|address| address.ip())
        .collect();
    let first = found.iter().find(|ip| ip.is_ipv4()).or(found.first()).copied();
    first.ok_or_else(|| refuse(format!("{name} has no address")))
}

/// The machine as its platform's API tells of it; `None`: the guest's host has no such API.
async fn machine(app: &App, spec: &GuestSpec) -> Result<Option<MachineFacts>, Failure> {
    let Some(machines) = app.hypervisor(&spec.host)?.machines() else { return Ok(None) };
    let wanted = spec.vm.as_deref().unwrap_or(&spec.name);
    let place = |failure: Failure| failure.place(format!("guests.{}.vm in the inventory", spec.name));
    let found = machines.find(wanted).await.map_err(|error| place(error.into()))?;
    let facts = machines.machine(&found.uuid).await?;
    facts.map(Some).ok_or_else(|| {
        place(Failure::new(exit::REFUSED, format!("find {wanted}")).cause(format!("{} has it no more", spec.host)))
    })
}

impl Facts {
    /// Reads everything.
    ///
    /// # Errors
    /// The guest does not answer, or the inventory does not say where it is.
    pub async fn gather(app: &App, spec: &GuestSpec) -> Result<Self, Failure> {
        let name = &spec.name;
        let machine = machine(app, spec).await?;
        let told = machine.as_ref().and_then(|machine| {
            machine.addresses.iter().find(|ip| ip.is_ipv4()).or(machine.addresses.first()).map(IpAddr::to_string)
        });
        let Some(where_it_is) = spec.ssh.address.clone().or(told) else {
            let why = match &machine {
                Some(_) => format!("the tools in {name} report no address to {}", spec.host),
                None => format!("{} has no hypervisor to ask for its address", spec.host),
            };
            return Err(Failure::new(exit::REFUSED, format!("find {name}"))
                .cause(format!("{why}, and the inventory does not give one"))
                .place(format!("guests.{name} in the inventory"))
                .help("ssh = { address = \"web1.example\" }"));
        };
        let address = resolve(name, &where_it_is).await?;
        let login = SshSpec { address: Some(where_it_is.clone()), ..spec.ssh.clone() };
        let guest: Arc<dyn Host> = Arc::new(SshHost::new(app.login(name, &login)));
        let ask = |doing: &'static str, script: &'static str| {
            let guest = guest.clone();
            async move {
                let command = Command::new(["sh", "-c", script]).timeout(Duration::from_secs(60));
                guest.run(&command).await?.checked(doing, &command).map(|output| output.text())
            }
        };
        let unreached = |error: hypervisors::Error| {
            let failure = Failure::from(error);
            match failure.0.help {
                Some(_) => failure,
                None => failure.place(format!("guests.{name}.ssh in the inventory")).help(format!(
                    "this has to work without a question: ssh -o BatchMode=yes {}@{where_it_is} uname -r",
                    spec.ssh.user
                )),
            }
        };
        let hostname = ask("ask the guest for its name", "hostname").await.map_err(unreached)?.trim().to_owned();
        let public = ask("read the guest's host keys", "cat /etc/ssh/ssh_host_*_key.pub").await?;
        Ok(Self {
            host_keys: keys::keys_of(&public),
            seen: Seen::look(&*guest).await?,
            spec: spec.clone(),
            hostname: hypervisors::host::printable(&hostname),
            machine,
            guest,
            address,
        })
    }

    /// What is remembered of a run that begins now, with `GUEST--RUN` for its id.
    pub fn record(&self, state: &Path, control_dir: &Path) -> RunFacts {
        let (spec, run) = (&self.spec, format!("{}--{}", self.spec.name, crate::engine::plan::PLACEHOLDER));
        let run_dir: PathBuf = state.join("runs").join(&run);
        let link = |name: &str, file: &str| GuestLink {
            name: name.to_owned(),
            address: self.address,
            by: None,
            port: spec.ssh.port,
            user: spec.ssh.user.clone(),
            key: spec.ssh.key.clone(),
            sudo: spec.ssh.sudo,
            known_hosts: run_dir.join(file),
            control_dir: control_dir.to_owned(),
            legacy: spec.ssh.legacy,
        };
        let (original, clone) = (link(&spec.name, "known_hosts.original"), link(&run, "known_hosts"));
        RunFacts {
            strategy: Strategy::InPlace,
            copying: hypervisors::storage::Copies::default(),
            host: spec.host.clone(),
            production_on: None,
            clone_on: None,
            definition: String::new(),
            disks: Vec::new(),
            addressing: Addressing {
                changes: Vec::new(),
                macs: std::collections::BTreeMap::new(),
                by_card: Vec::new(),
                original: self.address,
                clone: self.address,
                dhcp: Vec::new(),
                by: None,
                original_places: Vec::new(),
                clone_places: Vec::new(),
            },
            original,
            clone,
            quarantined: Vec::new(),
            fenced: false,
            hostname: self.hostname.clone(),
            codename: String::new(),
            run_dir,
            verification: None,
            unproven: None,
            boot_s: None,
            transfer: None,
            machine: Some(Box::new(Machine {
                kernel: self.seen.kernel.clone(),
                release: self.seen.release.clone(),
                modules: self.seen.loaded.iter().cloned().collect(),
                tools: self.seen.running,
                linked: None,
                vm: self.machine.as_ref().map(|facts| Vm {
                    uuid: facts.machine.uuid.clone(),
                    path: facts.machine.path.clone(),
                    quiesce: facts.tools.running,
                }),
            })),
        }
    }
}
