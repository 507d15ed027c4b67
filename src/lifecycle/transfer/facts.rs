//! What is known of a server before anything is planned, and of the host it goes to. Reads both, changes nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hypervisors::host::{Command, SshHost};
use hypervisors::jail::ifconfig::{self, Configured, Interface};
use hypervisors::storage::zfs;
use hypervisors::transfer::{FileSystem, Source, System, Usage};
use hypervisors::{GuestFacts, GuestLink, Host, Hypervisor};

use super::container::Linux;
use crate::guest::keys;
use crate::inventory::{CopyMethod, GuestSpec, SourceSpec, SshSpec};
use crate::lifecycle::app::App;
use crate::lifecycle::error::{Failure, exit};
use crate::steps::transfer::Method;
use crate::verify::inside;

/// Everything a plan of a transfer rests on.
#[derive(Debug)]
pub struct Facts {
    /// What the inventory declares.
    pub spec: GuestSpec,
    /// Of the server.
    pub declared: SourceSpec,
    /// The host of jails, or of containers.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Its directory of trees.
    pub trees: PathBuf,
    /// Space there; `None`: there is no such directory.
    pub space: Option<Usage>,
    /// The dataset of ZFS that it is, if it is one.
    pub dataset: Option<String>,
    /// Its interfaces.
    pub host_interfaces: Vec<Interface>,
    /// Its release.
    pub host_release: String,
    /// Its guests.
    pub neighbours: Vec<GuestFacts>,
    /// The server, by the way in that the operator has.
    pub server: Arc<dyn Host>,
    /// Its address in production.
    pub address: Ipv4Addr,
    /// Its file systems.
    pub source: Source,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
    /// Its way out.
    pub gateway: Option<Ipv4Addr>,
    /// Its name.
    pub hostname: String,
    /// Its rc.conf.
    pub rc_conf: String,
    /// Its public ssh host keys.
    pub host_keys: Vec<String>,
    /// Addresses its sshd listens on; `None`: that cannot be told.
    pub sshd: Option<Vec<String>>,
    /// What is to be known of a server that becomes a container; `None`: it becomes a jail.
    pub linux: Option<Linux>,
}

/// The way out of a machine: the gateway of the default route.
const GATEWAY: &str = "netstat -rn | awk '$1 == \"default\" && $2 !~ /:/ { print $2; exit }'";

/// The same of a Linux.
const LINUX_GATEWAY: &str = "ip -4 route show default | awk '$2 == \"via\" { print $3; exit }'";

/// Interfaces of a machine.
async fn interfaces(host: &dyn Host, system: System, doing: &str) -> Result<Vec<Interface>, Failure> {
    match system {
        System::Freebsd => Ok(ifconfig::read(&ask(host, doing, &["ifconfig", "-a"]).await?)),
        System::Linux => Ok(addresses(&ask(host, doing, &["ip", "-o", "address", "show"]).await?)),
    }
}

/// Reads `ip -o address show` (ip-address(8)): a line for each address, `2: eth0    inet 10.0.5.12/24 brd …`. Link-local ones are left out,
/// and lines that are not understood, as they come from a guest.
fn addresses(text: &str) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, name, "inet" | "inet6", address, ..] = words.as_slice() else { continue };
        let Some((ip, prefix)) = address.split_once('/') else { continue };
        let (Ok(ip), Ok(prefix)) = (ip.parse::<IpAddr>(), prefix.parse::<u8>()) else { continue };
        let local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        // What a router or a server of addresses gave is theirs to give.
        let lent = ip.is_ipv6() && words.contains(&"dynamic");
        if local || lent || prefix > if ip.is_ipv4() { 32 } else { 128 } {
            continue;
        }
        let name = name.split('@').next().unwrap_or(name);
        let at = interfaces.iter().position(|one| one.name == name).unwrap_or_else(|| {
            interfaces.push(Interface { name: name.to_owned(), addresses: Vec::new() });
            interfaces.len() - 1
        });
        interfaces[at].addresses.push(Configured { ip, prefix });
    }
    interfaces
}

async fn ask(host: &dyn Host, doing: &str, argv: &[&str]) -> Result<String, Failure> {
    let command = Command::new(argv.iter().copied()).timeout(Duration::from_secs(60));
    Ok(host.run(&command).await?.checked(doing, &command)?.text())
}

/// A machine that could not be looked at, with what to try by hand.
fn unreached(error: hypervisors::Error, entry: &str) -> Failure {
    let failure = Failure::from(error);
    match failure.0.help {
        Some(_) => failure,
        None => failure
            .place(format!("{entry} in the inventory"))
            .help("this has to work without a question: ssh -o BatchMode=yes root@ADDRESS uname -sr"),
    }
}

/// Space in a directory of a machine; `None`: there is none.
async fn space(host: &dyn Host, directory: &Path) -> Result<Option<Usage>, Failure> {
    let path = directory.to_string_lossy();
    let command = Command::new(["sh", "-c", "test -d \"$1\" || exit 98; df -k \"$1\"", "sh", &path]);
    let output = host.run(&command).await?;
    if output.status == 98 {
        return Ok(None);
    }
    let text = output.checked("look at the space for jails", &command)?.text();
    Ok(hypervisors::transfer::df(&text).into_values().next())
}

/// The IPv4 address that a name or address of the inventory means.
async fn resolve(spec: &GuestSpec, name: &str) -> Result<Ipv4Addr, Failure> {
    let refuse = |why: String| {
        Failure::new(exit::REFUSED, format!("find {}", spec.name))
            .cause(why)
            .place(format!("guests.{}.source.ssh in the inventory", spec.name))
            .help("give the server's own IPv4 address as its address")
    };
    if let Ok(ip) = name.parse::<IpAddr>() {
        return match ip {
            IpAddr::V4(ip) => Ok(ip),
            IpAddr::V6(_) => Err(refuse(format!("{ip} is an IPv6 address"))),
        };
    }
    let found = tokio::net::lookup_host((name, 22)).await.map_err(|error| refuse(error.to_string()))?;
    let mut found = found.filter_map(|address| match address.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    found.next().ok_or_else(|| refuse(format!("{name} has no IPv4 address")))
}

impl Facts {
    /// Reads everything.
    ///
    /// # Errors
    /// A machine does not answer, or is not what the inventory says.
    pub async fn gather(app: &App, spec: &GuestSpec) -> Result<Self, Failure> {
        let refuse = |why: &str, help: &str| {
            Failure::new(exit::REFUSED, format!("transfer {}", spec.name))
                .cause(why)
                .place(format!("guests.{} in the inventory", spec.name))
                .help(help)
        };
        let declared = spec.source.clone().ok_or_else(|| {
            refuse(
                "it names no server to transfer from",
                "source = { ssh = { address = \"server.example\" }, parking = \"…\" }",
            )
        })?;
        let hypervisor = app.hypervisor(&spec.host)?;
        let declared_host = app.inventory.hosts.get(&spec.host);
        let (trees, example) = match hypervisor.platform() {
            "jail" => (declared_host.and_then(|host| host.jails.clone()), "jails = \"/usr/jails\""),
            "libvirt" if hypervisor.capabilities().shares_host_kernel && hypervisor.host().is_local() => {
                (declared_host.and_then(|host| host.trees.clone()), "trees = \"/srv/guests\"")
            }
            _ => {
                return Err(refuse(
                    "its host takes no server over by transfer: hosts of jails do, and libvirt's containers on this machine",
                    "host = \"…\", one with hypervisor = \"jail\", or with libvirt and uri = \"lxc:///system\"",
                ));
            }
        };
        let trees = trees.ok_or_else(|| {
            Failure::new(exit::REFUSED, format!("transfer {}", spec.name))
                .cause("its host names no directory that the server's tree could go into")
                .place(format!("hosts.{} in the inventory", spec.host))
                .help(example)
        })?;
        let container = hypervisor.platform() != "jail";
        let host = hypervisor.host();
        let neighbours = hypervisor.list().await.map_err(|error| unreached(error, &format!("hosts.{}", spec.host)))?;
        let host_release = ask(&*host, "ask the host for its release", &["uname", "-r"]).await?.trim().to_owned();
        let system = if container { System::Linux } else { System::Freebsd };
        let host_interfaces = interfaces(&*host, system, "look at the host's interfaces").await?;
        let space = space(&*host, &trees).await?;
        // Containers' trees are btrfs or directories of this machine.
        let dataset = if container { None } else { zfs::at(&*host, &trees).await?.map(|dataset| dataset.name) };

        let name = declared.ssh.address.clone().unwrap_or_default();
        let address = resolve(spec, &name).await?;
        let server: Arc<dyn Host> = Arc::new(SshHost::new(app.login(&spec.name, &declared.ssh)));
        let source =
            Source::look(&*server).await.map_err(|error| unreached(error, &format!("guests.{}.source", spec.name)))?;
        let interfaces = interfaces(&*server, source.system, "look at the server's interfaces").await?;
        let gateway = match source.system {
            System::Freebsd => GATEWAY,
            System::Linux => LINUX_GATEWAY,
        };
        let gateway = ask(&*server, "ask the server for its way out", &["sh", "-c", gateway]).await?;
        let linux = match (container, source.system) {
            (true, System::Linux) => {
                let home = interfaces.iter().find(|one| one.addresses.iter().any(|own| own.ip == IpAddr::V4(address)));
                Some(Linux::look(&*server, home.map(|home| home.name.as_str())).await?)
            }
            _ => None,
        };
        let hostname = ask(&*server, "ask the server for its name", &["hostname"]).await?.trim().to_owned();
        let rc_conf = server.read_file(Path::new("/etc/rc.conf"), 1 << 20).await?.unwrap_or_default();
        let rc_conf = String::from_utf8(rc_conf).map_err(|_| {
            Failure::new(exit::REFUSED, format!("read /etc/rc.conf of {}", spec.name))
                .cause("it is not UTF-8")
                .help("convert it there: iconv -t UTF-8")
        })?;
        let public =
            ask(&*server, "read the server's host keys", &["sh", "-c", "cat /etc/ssh/ssh_host_*_key.pub"]).await?;
        Ok(Self {
            sshd: inside::sockets(&*server).await?.map(|sockets| {
                let ours =
                    sockets.into_iter().filter(|socket| socket.protocol == "tcp" && socket.port == declared.ssh.port);
                ours.map(|socket| socket.address).collect()
            }),
            host_keys: keys::keys_of(&public),
            gateway: gateway.trim().parse().ok(),
            spec: spec.clone(),
            declared,
            hypervisor,
            trees,
            space,
            dataset,
            host_interfaces,
            host_release,
            neighbours,
            server,
            address,
            source,
            interfaces,
            hostname,
            rc_conf,
            linux,
        })
    }

    /// How the server's file systems are copied: as declared, else by dump where it reads all of them.
    pub fn method(&self) -> Method {
        let chosen = self.declared.filesystems.clone();
        let goes = |one: &&FileSystem| chosen.is_empty() || chosen.contains(&one.mount);
        let system = self.source.system;
        let dumps = || {
            self.source.dump.is_some() && self.source.filesystems.iter().filter(goes).all(|one| one.dumpable(system))
        };
        match self.declared.method {
            Some(CopyMethod::Dump) => Method::Dump,
            Some(CopyMethod::Rsync) => Method::Rsync,
            None if self.linux.is_none() || (dumps() && self.restores()) => Method::Dump,
            None => Method::Rsync,
        }
    }

    /// Whether a container's host has a restore(8).
    fn restores(&self) -> bool {
        self.linux.as_ref().is_none_or(|linux| linux.restores)
    }

    /// Whether a file system can go over.
    pub fn copies(&self, one: &FileSystem) -> bool {
        match self.method() {
            Method::Dump => one.dumpable(self.source.system),
            Method::Rsync => true,
        }
    }

    /// The server's interface that has its production address, and the length of the prefix there.
    pub fn home(&self) -> Option<(&Interface, u8)> {
        self.interfaces.iter().find_map(|interface| {
            let own = interface.addresses.iter().find(|own| own.ip == IpAddr::V4(self.address))?;
            Some((interface, own.prefix))
        })
    }

    /// File systems that go over, the root first: those that are declared, else all that dump reads.
    pub fn moved(&self) -> Vec<PathBuf> {
        let mut moved = self.declared.filesystems.clone();
        if moved.is_empty() {
            moved =
                self.source.filesystems.iter().filter(|one| self.copies(one)).map(|one| one.mount.clone()).collect();
        }
        moved.sort();
        moved.dedup();
        moved
    }

    /// The way into a machine of the run.
    pub fn link(&self, name: &str, address: IpAddr, known_hosts: PathBuf, control_dir: &Path) -> GuestLink {
        way_in(&self.declared.ssh, name, address, known_hosts, control_dir)
    }
}

/// The way into a machine at an address, by a login of the inventory.
pub(in crate::lifecycle) fn way_in(
    login: &SshSpec,
    name: &str,
    address: IpAddr,
    known_hosts: PathBuf,
    control_dir: &Path,
) -> GuestLink {
    GuestLink {
        name: name.to_owned(),
        address,
        by: None,
        port: login.port,
        user: login.user.clone(),
        key: login.key.clone(),
        sudo: login.sudo,
        known_hosts,
        control_dir: control_dir.to_owned(),
        legacy: login.legacy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_interfaces_are_read() {
        // iproute2 6.1 (Debian 12), in a container.
        let text = "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever\n\
            2: eth0@if7    inet 10.0.6.31/24 brd 10.0.6.255 scope global eth0\\       valid_lft forever preferred_lft forever\n\
            2: eth0@if7    inet6 fe80::216:3eff:fe00:51f/64 scope link \\       valid_lft forever preferred_lft forever\n\
            3: x inet 10.0.0.1/99 y\nnonsense\n";
        let found = addresses(text);
        let shown: Vec<(&str, usize)> = found.iter().map(|one| (one.name.as_str(), one.addresses.len())).collect();
        assert_eq!(shown, [("lo", 1), ("eth0", 1)]);
        assert_eq!(found[1].addresses[0], Configured { ip: IpAddr::from([10, 0, 6, 31]), prefix: 24 });
    }
}
