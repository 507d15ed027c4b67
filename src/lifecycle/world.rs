//! Platforms by host name, from the inventory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hypervisors::host::LocalHost;
use hypervisors::libvirt::Libvirt;
use hypervisors::net::RealNet;
use hypervisors::sim::Sim;
use hypervisors::storage::{BtrfsStorage, DirectoryStorage, LvmStorage};
use hypervisors::xl::Xl;
use hypervisors::{Host, Hypervisor, Storage};

use super::error::{Failure, exit};
use crate::inventory::{HostSpec, HypervisorKind};

/// The platforms of the hosts asked for. Nothing is connected to yet.
///
/// # Errors
/// A platform that is not there, with its place in the inventory.
pub fn platforms<'a>(
    hosts: impl Iterator<Item = (&'a String, &'a HostSpec)>,
    state: &Path,
) -> Result<BTreeMap<String, Arc<dyn Hypervisor>>, Failure> {
    hosts.map(|(name, spec)| Ok((name.clone(), platform(name, spec, state)?))).collect()
}

/// The controller's own machine.
pub fn controller() -> Arc<dyn Host> {
    Arc::new(LocalHost::new("controller"))
}

fn platform(name: &str, spec: &HostSpec, state: &Path) -> Result<Arc<dyn Hypervisor>, Failure> {
    let refuse = |why: String, help: &str| {
        Failure::new(exit::REFUSED, format!("use host {name}"))
            .cause(why)
            .place(format!("hosts.{name} in the inventory"))
            .help(help)
    };
    if spec.ssh.is_some() && spec.hypervisor != HypervisorKind::Sim {
        return Err(refuse(
            "volumes of a remote host cannot be opened from here".to_owned(),
            "run upgradectl on that host, and take its ssh out of the inventory",
        ));
    }
    match spec.hypervisor {
        HypervisorKind::Libvirt => {
            let host: Arc<dyn Host> = Arc::new(LocalHost::new(name));
            let uri = spec.uri.as_deref().unwrap_or("lxc:///system");
            Ok(Arc::new(Libvirt::new(uri, host.clone(), Arc::new(RealNet), storages(&host))))
        }
        HypervisorKind::Xl => {
            let host: Arc<dyn Host> = Arc::new(LocalHost::new(name));
            let definitions = spec.definitions.clone().unwrap_or_else(|| "/etc/xen".into());
            Ok(Arc::new(Xl::new(definitions, host.clone(), Arc::new(RealNet), storages(&host))))
        }
        HypervisorKind::Sim => {
            let dir = spec.state.clone().unwrap_or_else(|| state.join("sim"));
            let sim = Sim::open(&dir).map_err(|error| {
                Failure::from(error)
                    .during(format!("open the simulated world of {name}"))
                    .help("make one: upgradectl init --sim")
            })?;
            Ok(Arc::new(sim))
        }
        other => Err(refuse(
            format!("the platform {other:?} is not built yet").to_lowercase(),
            "platforms here: libvirt, xl, sim",
        )),
    }
}

/// The drivers for volumes of this machine.
fn storages(host: &Arc<dyn Host>) -> Vec<Arc<dyn Storage>> {
    vec![
        Arc::new(BtrfsStorage::new(host.clone())),
        Arc::new(DirectoryStorage::new(host.clone())),
        Arc::new(LvmStorage::thick(host.clone())),
        Arc::new(LvmStorage::thin(host.clone())),
    ]
}
