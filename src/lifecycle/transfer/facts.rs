//! What is known of a server before anything is planned, and of the host of jails it goes to. Reads both, changes nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hypervisors::host::{Command, SshHost};
use hypervisors::jail::ifconfig::{self, Interface};
use hypervisors::storage::zfs;
use hypervisors::transfer::{Source, Usage};
use hypervisors::{GuestFacts, GuestLink, Host, Hypervisor};

use crate::guest::keys;
use crate::inventory::{GuestSpec, SourceSpec};
use crate::lifecycle::app::App;
use crate::lifecycle::error::{Failure, exit};
use crate::verify::inside;

/// Everything a plan of a transfer rests on.
#[derive(Debug)]
pub struct Facts {
    /// What the inventory declares.
    pub spec: GuestSpec,
    /// Of the server.
    pub declared: SourceSpec,
    /// The host of jails.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Its directory of jails.
    pub jails: PathBuf,
    /// Space there; `None`: there is no such directory.
    pub space: Option<Usage>,
    /// The dataset of ZFS that it is, if it is one.
    pub dataset: Option<String>,
    /// Its interfaces.
    pub host_interfaces: Vec<Interface>,
    /// Its release.
    pub host_release: String,
    /// Its jails.
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
}

/// The way out of a machine: the gateway of the default route.
const GATEWAY: &str = "netstat -rn | awk '$1 == \"default\" && $2 !~ /:/ { print $2; exit }'";

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
        if hypervisor.platform() != "jail" {
            return Err(refuse(
                "its host is no host of jails: only those take a server over by transfer",
                "host = \"…\", one with hypervisor = \"jail\"",
            ));
        }
        let jails = app.inventory.hosts.get(&spec.host).and_then(|host| host.jails.clone());
        let jails = jails.ok_or_else(|| {
            Failure::new(exit::REFUSED, format!("transfer {}", spec.name))
                .cause("its host names no directory of jails")
                .place(format!("hosts.{} in the inventory", spec.host))
                .help("jails = \"/usr/jails\"")
        })?;
        let host = hypervisor.host();
        let neighbours = hypervisor.list().await.map_err(|error| unreached(error, &format!("hosts.{}", spec.host)))?;
        let host_release = ask(&*host, "ask the host for its release", &["uname", "-r"]).await?.trim().to_owned();
        let host_interfaces = ifconfig::read(&ask(&*host, "look at the host's interfaces", &["ifconfig", "-a"]).await?);
        let space = space(&*host, &jails).await?;
        let dataset = zfs::at(&*host, &jails).await?.map(|dataset| dataset.name);

        let name = declared.ssh.address.clone().unwrap_or_default();
        let address = resolve(spec, &name).await?;
        let server: Arc<dyn Host> = Arc::new(SshHost::new(app.login(&spec.name, &declared.ssh)));
        let source =
            Source::look(&*server).await.map_err(|error| unreached(error, &format!("guests.{}.source", spec.name)))?;
        let interfaces = ifconfig::read(&ask(&*server, "look at the server's interfaces", &["ifconfig", "-a"]).await?);
        let gateway = ask(&*server, "ask the server for its way out", &["sh", "-c", GATEWAY]).await?;
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
            jails,
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
        })
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
            let dumpable = self.source.filesystems.iter().filter(|one| one.dumpable(self.source.system));
            moved = dumpable.map(|one| one.mount.clone()).collect();
        }
        moved.sort();
        moved.dedup();
        moved
    }

    /// The way into a machine of the run.
    pub fn link(&self, name: &str, address: IpAddr, known_hosts: PathBuf, control_dir: &Path) -> GuestLink {
        let login = &self.declared.ssh;
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
}
