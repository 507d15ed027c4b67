//! What is known of a jail and its host before anything is planned, and what is refused. Reads both, changes nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hypervisors::host::Command;
use hypervisors::jail::ifconfig::{self, Interface};
use hypervisors::storage::zfs::{self, Dataset};
use hypervisors::{Definition, DiskSource, GuestFacts, GuestLink, Host, Hypervisor, Power};

use crate::guest::keys;
use crate::inventory::{GuestSpec, NetworkRule, Strategy};
use crate::lifecycle::app::App;
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::preflight::Findings;
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::transfer::check::{all_have, unanswered};
use crate::lifecycle::transfer::way_in;

/// Everything a plan for a jail rests on.
#[derive(Debug)]
pub struct Facts {
    /// What the inventory declares.
    pub spec: GuestSpec,
    /// The host of jails.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Its directory of trees.
    pub trees: PathBuf,
    /// Its interfaces.
    interfaces: Vec<Interface>,
    /// Its jails.
    neighbours: Vec<GuestFacts>,
    /// The jail, as its configuration and the kernel say.
    pub platform: GuestFacts,
    /// Its definition.
    pub definition: Definition,
    /// Its tree.
    pub root: PathBuf,
    /// The dataset that this is.
    pub dataset: Option<Dataset>,
    /// The pool that the directory of trees is in.
    pool: Option<String>,
    /// Datasets within it, and clones of its snapshots.
    in_the_way: Vec<Dataset>,
    /// The address by which it is reached.
    pub address: Ipv4Addr,
    /// Public ssh host keys.
    pub host_keys: Vec<String>,
    /// Its name, as its host knows it.
    pub hostname: String,
}

async fn ask(host: &dyn Host, doing: &str, argv: &[&str]) -> Result<String, Failure> {
    let command = Command::new(argv.iter().copied()).timeout(Duration::from_secs(60));
    Ok(host.run(&command).await?.checked(doing, &command)?.text())
}

/// Arguments: tree. Keys are public, whatever a link in the tree makes of their names.
const KEYS: &str = "cat \"$1\"/etc/ssh/ssh_host_*_key.pub 2>/dev/null; exit 0";

impl Facts {
    /// Reads everything but what lies within the jail.
    ///
    /// # Errors
    /// The host does not answer, or has no such jail with a tree and an address.
    pub async fn gather(app: &App, spec: &GuestSpec) -> Result<Self, Failure> {
        let name = &spec.name;
        let refuse = |doing: &str, why: String, help: String| {
            Failure::new(exit::REFUSED, format!("{doing} {name}"))
                .cause(why)
                .place(format!("guests.{name} in the inventory"))
                .help(help)
        };
        let hypervisor = app.hypervisor(&spec.host)?;
        let host = hypervisor.host();
        let neighbours = hypervisor.list().await?;
        let (platform, definition) = match (hypervisor.facts(name).await?, hypervisor.definition(name).await?) {
            (Some(platform), Some(definition)) => (platform, definition),
            _ => {
                let jails: Vec<&str> = neighbours.iter().map(|jail| jail.name.as_str()).collect();
                let help = format!(
                    "the jails there: {}; a server that shall become one has a source = {{ … }} and strategy = \"transfer\"",
                    jails.join(", ")
                );
                return Err(refuse("find", format!("{} has no jail of that name", spec.host), help));
            }
        };
        let root = platform.disks.iter().find_map(|disk| match &disk.source {
            DiskSource::Directory(path) => Some(path.clone()),
            _ => None,
        });
        let root = root.ok_or_else(|| {
            refuse(
                "find the tree of",
                "its definition has no path".into(),
                "give it one: path = \"/usr/jails/…\"".into(),
            )
        })?;
        let trees = app.inventory.hosts.get(&spec.host).and_then(|host| host.jails.clone()).ok_or_else(|| {
            Failure::new(exit::REFUSED, format!("clone {name}"))
                .cause("its host names no directory that the clone's tree could go into")
                .place(format!("hosts.{} in the inventory", spec.host))
                .help("jails = \"/usr/jails\"")
        })?;
        let addresses = platform.nics.iter().flat_map(|nic| &nic.addresses);
        let address = addresses.filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        });
        let address = address.into_iter().next().ok_or_else(|| {
            refuse(
                "find the address of",
                "it has no IPv4 address of its own in its definition".into(),
                "give it one: ip4.addr = \"em0|192.0.2.12/32\"".into(),
            )
        })?;
        let dataset = zfs::at(&*host, &root).await?;
        let in_the_way = match &dataset {
            Some(dataset) => zfs::in_the_way(&*host, dataset).await?,
            None => Vec::new(),
        };
        let pool = zfs::holding(&*host, &trees).await?;
        let pool = pool.and_then(|dataset| Some(dataset.name.split('/').next()?.to_owned()));
        let interfaces = ifconfig::read(&ask(&*host, "look at the host's interfaces", &["ifconfig", "-a"]).await?);
        let public =
            ask(&*host, "read the jail's host keys", &["sh", "-c", KEYS, "sh", &root.to_string_lossy()]).await?;
        let hostname = ask(&*host, "ask for the jail's name", &["jls", "-j", name, "host.hostname"]).await;
        Ok(Self {
            spec: spec.clone(),
            hostname: hostname.unwrap_or_else(|_| name.clone()).trim().to_owned(),
            host_keys: keys::keys_of(&public),
            hypervisor,
            trees,
            interfaces,
            neighbours,
            platform,
            definition,
            root,
            dataset,
            pool,
            in_the_way,
            address,
        })
    }

    /// The way into the original, or into its clone.
    pub fn link(&self, name: &str, address: IpAddr, known_hosts: PathBuf, control_dir: &Path) -> GuestLink {
        way_in(&self.spec.ssh, name, address, known_hosts, control_dir)
    }

    /// What can be looked at from outside. The rest is within the jail, which has to run for it ([`Facts::inside`]).
    pub fn check(&self, strategy: Strategy, findings: &mut Findings) {
        let (name, host) = (&self.spec.name, &self.spec.host);
        if strategy != Strategy::Snapshot {
            findings.refuse(
                "strategy",
                format!("a jail is cloned by snapshot, not by {}", crate::lifecycle::strategy_word(strategy)),
                "leave clone.strategy out",
            );
        }
        if self.platform.power != Power::On {
            findings.refuse(
                "power",
                format!("{name} does not run: what its clone has to do could not be measured"),
                format!("start it on {host}: service jail onestart {name}"),
            );
        }
        match &self.dataset {
            None => findings.refuse(
                "storage",
                format!(
                    "{} is no dataset of ZFS, and a directory is not cloned under a jail that runs",
                    self.root.display()
                ),
                "give the jail a dataset of its own (zfs create), and move its files there",
            ),
            Some(dataset) if !dataset.name.contains('/') => findings.refuse(
                "storage",
                format!("{} is a whole pool", dataset.name),
                "give the jail a dataset of its own: zfs create POOL/jails/NAME",
            ),
            Some(dataset) if self.pool.as_deref() != dataset.name.split('/').next() => findings.refuse(
                "storage",
                format!("{} is not in the pool of {}, which a clone cannot leave", self.trees.display(), dataset.name),
                format!("jails = \"…\" of hosts.{host}: a directory of that pool"),
            ),
            Some(dataset) => findings.pass("storage", format!("the dataset {}", dataset.name)),
        }
        if let Some(other) = self.in_the_way.first() {
            findings.refuse(
                "storage",
                match &other.origin {
                    Some(origin) => {
                        format!("{} is a clone of {origin}, and would keep the original at commit", other.name)
                    }
                    None => format!("{} is a dataset within it, which would not be in the clone", other.name),
                },
                match &other.origin {
                    Some(_) => format!("zfs promote {0}, or zfs destroy {0}, if it is of no use any more", other.name),
                    None => "move it out of the jail's dataset, or upgrade the jail by hand".to_owned(),
                },
            );
        }
        if name.contains('.') {
            let why = format!("a clone of a jail called {name} cannot be named");
            findings.refuse("name", why, "give the jail a name without a dot");
        }
        if self.host_keys.is_empty() {
            findings.refuse("host_keys", format!("{name} has no ssh host keys in /etc/ssh"), "let its sshd make some");
        }
        if self.spec.clone.network == NetworkRule::Fenced {
            findings.refuse("network", "a jail's clone cannot be fenced", "leave clone.network out");
        }
    }

    /// Whether the clone's address is free, as its host sees it.
    ///
    /// # Errors
    /// The host cannot be asked.
    pub async fn check_address(&self, address: IpAddr, findings: &mut Findings) -> Result<(), Failure> {
        let has = |jail: &&GuestFacts| jail.nics.iter().any(|nic| nic.addresses.contains(&address));
        if let Some(jail) = self.neighbours.iter().find(has) {
            findings.refuse(
                "address",
                format!("{address} is an address of the jail {}", jail.name),
                "choose a free address",
            );
            return Ok(());
        }
        unanswered(&*self.hypervisor.host(), &self.interfaces, address, "--ip", findings).await
    }

    /// What is to be known from within: its release. Carry rules need rsync on both sides.
    ///
    /// # Errors
    /// There is no way into it.
    pub async fn inside(
        &self,
        guest: &dyn Host,
        record: &RunFacts,
        findings: &mut Findings,
    ) -> Result<String, Failure> {
        let release = ["sh", "-c", "freebsd-version -u 2>/dev/null || uname -r"];
        let release = ask(guest, "ask the jail for its release", &release).await.map_err(|failure| {
            let entry = format!("guests.{}.ssh in the inventory", self.spec.name);
            let by_hand = format!("ssh -o BatchMode=yes {}@{} uname -sr", record.original.user, self.address);
            failure.place(entry).help(format!("this has to work without a question: {by_hand}"))
        })?;
        if !self.spec.carry.is_empty() {
            let why = ["carry", "which carry rules need on both sides", "pkg install"];
            all_have([&*self.hypervisor.host(), guest], "rsync", why, findings).await?;
        }
        Ok(release.trim().to_owned())
    }
}
