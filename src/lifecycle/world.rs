//! Platforms by host name, from the inventory; and a guest's platform, of the host that holds its volumes and the one that
//! runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hypervisors::bare::Bare;
use hypervisors::host::{LocalHost, SshHost, SshTarget};
use hypervisors::jail::Jails;
use hypervisors::libvirt::Libvirt;
use hypervisors::libvirt::uri::Uri;
use hypervisors::net::{Linked, RealNet};
use hypervisors::sim::Sim;
use hypervisors::storage::{BtrfsStorage, DirectoryStorage, LvmStorage};
use hypervisors::xl::Xl;
use hypervisors::{DiskSource, Host, Hypervisor, Net, Placed, Storage};

use super::app::App;
use super::error::{Failure, exit};
use super::record::RunFacts;
use crate::inventory::{Credentials, GuestSpec, HostSpec, HypervisorKind, SshSpec};
use crate::steps::{Manner, Manners, Toolstack};

/// Directory of the definitions of an xl host that names none.
const XL: &str = "/etc/xen";
/// Connection of a libvirt host that names none.
const LIBVIRT: &str = "lxc:///system";

/// The platforms of a run: production's and the clone's. What both have of their own is where they are defined and run; the
/// volumes are the same host's.
#[derive(Clone, Debug)]
pub struct Sides {
    /// That production is defined and runs on.
    pub production: Arc<dyn Hypervisor>,
    /// That the clone is defined and runs on.
    pub clone: Arc<dyn Hypervisor>,
}

/// The controller's own machine.
pub fn controller() -> Arc<dyn Host> {
    Arc::new(LocalHost::new("controller"))
}

/// The beginning of a command line that leads to a machine.
fn typed(target: &SshTarget) -> Vec<String> {
    let mut words = vec!["ssh".to_owned()];
    if target.port != 22 {
        words.extend(["-p".to_owned(), target.port.to_string()]);
    }
    words.push(match target.user.as_str() {
        "root" => target.address.clone(),
        user => format!("{user}@{}", target.address),
    });
    if target.sudo {
        words.push("sudo".to_owned());
    }
    words
}

fn refuse(name: &str, why: impl Into<String>, help: &str) -> Failure {
    Failure::new(exit::REFUSED, format!("use host {name}"))
        .cause(why.into())
        .place(format!("hosts.{name} in the inventory"))
        .help(help)
}

impl App {
    /// The platform of a host, with its own volumes if it is this machine. Nothing is connected to yet.
    pub(super) fn hypervisor(&self, host: &str) -> Result<Arc<dyn Hypervisor>, Failure> {
        let guests = self.inventory.guests.values().filter(|guest| guest.host == host);
        let logins = guests.filter_map(|guest| Some((guest.name.clone(), guest.guest_login.clone()?))).collect();
        platform(host, self.host_spec(host)?, &self.state, &self.scratch, logins)
    }

    /// How a machine that is no host of the inventory is logged in to.
    pub(super) fn login(&self, name: &str, ssh: &SshSpec) -> SshTarget {
        target(name, ssh, &self.scratch)
    }

    fn host_spec(&self, host: &str) -> Result<&HostSpec, Failure> {
        self.inventory.hosts.get(host).ok_or_else(|| {
            Failure::new(exit::USAGE, format!("use host {host}"))
                .cause("it is not in the inventory")
                .help("put it into [hosts]")
        })
    }

    /// How commands are typed for the hosts of the inventory.
    pub(super) fn manners(&self) -> Manners {
        let manner = |(name, spec): (&String, &HostSpec)| {
            let (toolstack, target) = match spec.hypervisor {
                HypervisorKind::Libvirt => {
                    let (uri, target) = connection(name, spec, &self.scratch).ok()?;
                    (Toolstack::Libvirt { uri: uri.to_string() }, target)
                }
                HypervisorKind::Xl => {
                    let definitions = spec.definitions.clone().unwrap_or_else(|| XL.into());
                    let target = spec.ssh.as_ref().map(|ssh| target(name, ssh, &self.scratch));
                    (Toolstack::Xl { definitions }, target)
                }
                HypervisorKind::Jail => {
                    (Toolstack::Jail, spec.ssh.as_ref().map(|ssh| target(name, ssh, &self.scratch)))
                }
                HypervisorKind::Sim => (Toolstack::Sim, None),
                _ => return None,
            };
            Some((name.clone(), Manner { toolstack, reached: target.map(|target| typed(&target)).unwrap_or_default() }))
        };
        Manners(self.inventory.hosts.iter().filter_map(manner).collect())
    }

    /// The platform of guests that a host runs, and whose volumes another holds.
    pub(super) fn placed(
        &self,
        volumes: &str,
        runs: &str,
        paths: BTreeMap<PathBuf, PathBuf>,
    ) -> Result<Arc<dyn Hypervisor>, Failure> {
        holds_volumes(volumes, self.host_spec(volumes)?)?;
        let holds = self.hypervisor(volumes)?;
        if volumes == runs && paths.is_empty() {
            return Ok(holds);
        }
        if volumes != runs {
            runs_others(runs, self.host_spec(runs)?)?;
        }
        let runs = if volumes == runs { holds.clone() } else { self.hypervisor(runs)? };
        Ok(Arc::new(Placed::new(holds, runs, paths)))
    }

    /// A guest's platform before there is a run, and the paths by which its definition names volumes that have another on
    /// the host that holds them.
    pub(super) async fn production(
        &self,
        spec: &GuestSpec,
    ) -> Result<(Arc<dyn Hypervisor>, BTreeMap<PathBuf, PathBuf>), Failure> {
        let mut paths = BTreeMap::new();
        if spec.paths.values().any(|paths| paths.volume.is_some()) {
            let facts = self.hypervisor(&spec.runs_on)?.facts(&spec.name).await?;
            for disk in facts.into_iter().flat_map(|facts| facts.disks) {
                let volume = spec.paths.get(&disk.name).and_then(|paths| paths.volume.clone());
                if let (
                    Some(volume),
                    DiskSource::Directory(there) | DiskSource::Block(there) | DiskSource::File(there),
                ) = (volume, disk.source)
                {
                    paths.insert(volume, there);
                }
            }
        }
        Ok((self.placed(&spec.host, &spec.runs_on, paths.clone())?, paths))
    }

    /// The platforms of a run, by what it remembers.
    pub(super) fn sides(&self, record: &RunFacts) -> Result<Sides, Failure> {
        let side = |host: &str| self.placed(&record.host, host, record.paths_on(host));
        Ok(Sides { production: side(record.production_host())?, clone: side(record.clone_host())? })
    }

    /// The platforms that the steps of a run name.
    pub(super) fn platforms(&self, record: &RunFacts) -> Result<BTreeMap<String, Arc<dyn Hypervisor>>, Failure> {
        let names = [record.host.as_str(), record.production_host(), record.clone_host()];
        let side = |host: &str| self.placed(&record.host, host, record.paths_on(host));
        names.into_iter().map(|host| Ok((host.to_owned(), side(host)?))).collect()
    }
}

/// Volumes are opened where they lie: a host that holds some has to be this machine.
fn holds_volumes(name: &str, spec: &HostSpec) -> Result<(), Failure> {
    let remote = match spec.hypervisor {
        // A jail's tree is worked on where it is.
        HypervisorKind::Sim | HypervisorKind::Jail | HypervisorKind::None => false,
        HypervisorKind::Libvirt => spec.ssh.is_some() || libvirt_uri(name, spec)?.is_remote(),
        _ => spec.ssh.is_some(),
    };
    if !remote {
        return Ok(());
    }
    Err(refuse(
        name,
        "it is another machine, and holds volumes: those cannot be opened from here",
        "run upgradectl on that host, and take its ssh out of the inventory there; or name as the guest's host the one that \
         holds its volumes, and this one as its runs_on",
    ))
}

/// A host that offers its own machines whole, or nothing, runs no guest whose volumes another holds.
fn runs_others(name: &str, spec: &HostSpec) -> Result<(), Failure> {
    match spec.hypervisor {
        HypervisorKind::None | HypervisorKind::Vsphere => Err(refuse(
            name,
            "it runs no guest whose volumes another host holds",
            "runs_on names a host of the platform that the guest's own has",
        )),
        _ => Ok(()),
    }
}

fn libvirt_uri(name: &str, spec: &HostSpec) -> Result<Uri, Failure> {
    spec.uri.as_deref().unwrap_or(LIBVIRT).parse().map_err(|why: String| {
        refuse(name, why, "uri = \"xen:///system\", or \"xen+ssh://host/system\" for another machine")
    })
}

fn target(name: &str, ssh: &SshSpec, scratch: &Path) -> SshTarget {
    SshTarget {
        name: name.to_owned(),
        address: ssh.address.clone().unwrap_or_default(),
        port: ssh.port,
        user: ssh.user.clone(),
        key: ssh.key.clone(),
        sudo: ssh.sudo,
        known_hosts: None,
        alias: None,
        control_dir: scratch.to_owned(),
        legacy: ssh.legacy,
    }
}

/// The connection of a libvirt host, and the way to run a command there; `None`: it is this machine.
fn connection(name: &str, spec: &HostSpec, scratch: &Path) -> Result<(Uri, Option<SshTarget>), Failure> {
    let uri = libvirt_uri(name, spec)?;
    let one = "leave ssh out, or leave the machine out of the uri (uri = \"xen:///system\" and ssh = { address = … })";
    match &spec.ssh {
        Some(ssh) if uri.is_remote() => {
            let told = |what: &str, a: &str, b: &str| format!("its uri and its ssh name different {what}: {a} and {b}");
            let address = ssh.address.as_deref().unwrap_or_default();
            if uri.host != address {
                return Err(refuse(name, told("machines", &uri.host, address), one));
            }
            if uri.by_ssh() && !uri.user.is_empty() && uri.user != ssh.user {
                return Err(refuse(name, told("users", &uri.user, &ssh.user), one));
            }
            if uri.by_ssh() && uri.port.unwrap_or(22) != ssh.port {
                let (a, b) = (uri.port.unwrap_or(22).to_string(), ssh.port.to_string());
                return Err(refuse(name, told("ports", &a, &b), one));
            }
            Ok((uri.quiet(), Some(target(name, ssh, scratch))))
        }
        Some(ssh) if ssh.legacy => {
            Err(refuse(name, "libvirt's own ssh cannot be told to use old algorithms", "leave legacy out"))
        }
        Some(ssh) => {
            let target = target(name, ssh, scratch);
            Ok((uri.over_ssh(&target), Some(target)))
        }
        None if uri.is_remote() && uri.by_ssh() => {
            let ssh = SshSpec {
                address: Some(uri.host.clone()),
                port: uri.port.unwrap_or(22),
                user: if uri.user.is_empty() { SshSpec::default().user } else { uri.user.clone() },
                key: uri.parameter("keyfile").map(PathBuf::from),
                ..SshSpec::default()
            };
            // The same login for both, whoever runs this.
            let uri = Uri { user: ssh.user.clone(), ..uri }.quiet();
            Ok((uri, Some(target(name, &ssh, scratch))))
        }
        None if uri.is_remote() => Err(refuse(
            name,
            "libvirt alone cannot tell what that machine sees of a volume or of a bridge",
            "add a way to run commands there: ssh = { address = … }",
        )),
        None => Ok((uri, None)),
    }
}

fn platform(
    name: &str,
    spec: &HostSpec,
    state: &Path,
    scratch: &Path,
    logins: BTreeMap<String, Credentials>,
) -> Result<Arc<dyn Hypervisor>, Failure> {
    let net: Arc<dyn Net> = match spec.links.is_empty() {
        true => Arc::new(RealNet),
        false => Arc::new(Linked::new(Arc::new(RealNet), spec.links.clone())),
    };
    match spec.hypervisor {
        HypervisorKind::Libvirt => {
            let (uri, target) = connection(name, spec, scratch)?;
            let (host, storages) = machine(name, target);
            Ok(Arc::new(Libvirt::new(&uri.to_string(), host, net, storages)))
        }
        HypervisorKind::Xl => {
            let (host, storages) = machine(name, spec.ssh.as_ref().map(|ssh| target(name, ssh, scratch)));
            let definitions = spec.definitions.clone().unwrap_or_else(|| XL.into());
            Ok(Arc::new(Xl::new(definitions, host, net, storages)))
        }
        HypervisorKind::Sim => {
            let dir = spec.state.clone().unwrap_or_else(|| state.join("sim"));
            let sim = Sim::open(&dir).map_err(|error| {
                Failure::from(error)
                    .during(format!("open the simulated world of {name}"))
                    .help("make one: upgradectl init --sim")
            })?;
            Ok(Arc::new(match &spec.part {
                Some(part) => sim.part(part),
                None => sim,
            }))
        }
        HypervisorKind::Jail => {
            let (host, _) = machine(name, spec.ssh.as_ref().map(|ssh| target(name, ssh, scratch)));
            Ok(Arc::new(Jails::new(host, net)))
        }
        HypervisorKind::None => Ok(Arc::new(Bare::new(name, net))),
        HypervisorKind::Vsphere => vsphere(name, spec, net, logins),
    }
}

#[cfg(feature = "vsphere")]
fn vsphere(
    name: &str,
    spec: &HostSpec,
    net: Arc<dyn Net>,
    logins: BTreeMap<String, Credentials>,
) -> Result<Arc<dyn Hypervisor>, Failure> {
    use hypervisors::vsphere::{Address, Credentials as Read, Trust, Vsphere};

    let example = "credentials = { file = \"/etc/upgradectl/vcenter\" }: two lines, user and password";
    let read = |named: &Credentials| match named {
        Credentials::File(path) => Read::File(path.clone()),
        Credentials::Command(argv) => Read::Command(argv.clone()),
    };
    let credentials = spec.credentials.as_ref().ok_or_else(|| refuse(name, "it names no credentials", example))?;
    let credentials = read(credentials);
    let trust = match (&spec.thumbprint, &spec.ca) {
        (Some(thumbprint), _) => Trust::Thumbprint(thumbprint.clone()),
        (None, Some(path)) => Trust::File(path.clone()),
        (None, None) => Trust::Machine,
    };
    let url = spec.url.clone().unwrap_or_default();
    let vsphere = Vsphere::new(Address { name: name.to_owned(), url, trust, credentials }, net);
    Ok(Arc::new(vsphere.entering(logins.iter().map(|(guest, login)| (guest.clone(), read(login))).collect())))
}

#[cfg(not(feature = "vsphere"))]
fn vsphere(
    name: &str,
    _spec: &HostSpec,
    _net: Arc<dyn Net>,
    _logins: BTreeMap<String, Credentials>,
) -> Result<Arc<dyn Hypervisor>, Failure> {
    Err(refuse(name, "this build has no vsphere", "cargo build --features vsphere"))
}

/// A machine, and the drivers for its volumes: another machine's cannot be opened from here.
fn machine(name: &str, target: Option<SshTarget>) -> (Arc<dyn Host>, Vec<Arc<dyn Storage>>) {
    if let Some(target) = target {
        return (Arc::new(SshHost::new(target)), Vec::new());
    }
    let host: Arc<dyn Host> = Arc::new(LocalHost::new(name));
    let storages: Vec<Arc<dyn Storage>> = vec![
        Arc::new(BtrfsStorage::new(host.clone())),
        Arc::new(DirectoryStorage::new(host.clone())),
        Arc::new(LvmStorage::thick(host.clone())),
        Arc::new(LvmStorage::thin(host.clone())),
    ];
    (host, storages)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn spec(uri: Option<&str>, ssh: Option<SshSpec>) -> HostSpec {
        HostSpec {
            hypervisor: HypervisorKind::Libvirt,
            uri: uri.map(str::to_owned),
            ssh,
            definitions: None,
            jails: None,
            trees: None,
            state: None,
            part: None,
            links: BTreeMap::new(),
            url: None,
            ca: None,
            thumbprint: None,
            credentials: None,
        }
    }

    fn ssh(address: &str) -> SshSpec {
        SshSpec { address: Some(address.into()), key: Some("/root/key".into()), ..SshSpec::default() }
    }

    fn connect(uri: Option<&str>, ssh: Option<SshSpec>) -> Result<(String, Option<SshTarget>), String> {
        match connection("perceval", &spec(uri, ssh), Path::new("/run/upgradectl")) {
            Ok((uri, target)) => Ok((uri.to_string(), target)),
            Err(Failure(error)) => {
                assert!(error.place.is_some_and(|place| place.contains("perceval")) && error.help.is_some());
                Err(error.causes.join(": "))
            }
        }
    }

    #[test]
    fn a_libvirt_host_is_here_or_reached_by_ssh() {
        let (uri, here) = connect(None, None).unwrap();
        assert!(uri == LIBVIRT && here.is_none());
        let (uri, there) = connect(Some("xen:///system"), Some(ssh("perceval"))).unwrap();
        assert_eq!(uri, "xen+ssh://root@perceval/system?keyfile=/root/key&no_tty=1");
        assert_eq!(there.unwrap().address, "perceval");
        let (uri, there) = connect(Some("xen+ssh://adm@perceval:2222/system?keyfile=/k"), None).unwrap();
        assert_eq!(uri, "xen+ssh://adm@perceval:2222/system?keyfile=/k&no_tty=1");
        let there = there.unwrap();
        assert_eq!((there.user.as_str(), there.port, there.key), ("adm", 2222, Some("/k".into())));
        let (uri, there) = connect(Some("xen+tls://perceval/system"), Some(ssh("perceval"))).unwrap();
        assert!(uri == "xen+tls://perceval/system" && there.is_some());
        assert_eq!(
            connect(Some("xen+ssh://perceval/system"), None).unwrap().0,
            "xen+ssh://root@perceval/system?no_tty=1"
        );
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (uri, ssh, why) in [
            ("xen+ssh://galaad/system", Some(ssh("perceval")), "different machines"),
            ("xen+ssh://adm@perceval/system", Some(ssh("perceval")), "different users"),
            ("xen+ssh://perceval:2222/system", Some(ssh("perceval")), "different ports"),
            ("xen+tls://perceval/system", None, "libvirt alone cannot tell"),
            ("xen", None, "not a connection URI"),
            ("xen:///system", Some(SshSpec { legacy: true, ..ssh("perceval") }), "old algorithms"),
        ] {
            let said = connect(Some(uri), ssh).unwrap_err();
            assert!(said.contains(why), "{uri}: {said}");
        }
    }

    #[test]
    fn a_host_that_holds_volumes_is_this_machine() {
        assert!(holds_volumes("here", &spec(None, None)).is_ok());
        for remote in [spec(None, Some(ssh("h"))), spec(Some("xen+ssh://h/system"), None)] {
            let Failure(error) = holds_volumes("perceval", &remote).unwrap_err();
            assert!(error.code == exit::REFUSED && error.help.unwrap().contains("runs_on"));
        }
    }
}
