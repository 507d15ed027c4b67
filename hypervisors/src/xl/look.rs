//! What there is: definitions, the domains they run as, and commands to xl whose effect is looked for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cfg::Wrong;
use super::domains::{self, Details, Domain};
use super::facts::{self, CfgFacts};
use super::{POLL, QUICK, SLOW, Xl};
use crate::host::{Command, LEASE_VARIABLE, Output, printable};
use crate::{Cause, Change, Disk, DiskSource, Error, GuestFacts, Nic, Power, Result};

impl Xl {
    pub(super) async fn xl(&self, doing: &str, limit: Duration, words: &[&str]) -> Result<(Command, Output)> {
        let command = Command::new(["xl"].iter().chain(words).copied()).timeout(limit);
        let output = self.host.run(&command).await.map_err(|error| Error { doing: doing.to_owned(), ..error })?;
        Ok((command, output))
    }

    /// The machine's domains, without domain 0.
    pub(super) async fn domains(&self, doing: &str) -> Result<Vec<Domain>> {
        let (command, output) = self.xl(doing, QUICK, &["list"]).await?;
        domains::table(&output.checked(doing, &command)?.text()).map_err(|why| Error::new(doing, Cause::Malformed(why)))
    }

    /// What there is to know of them beyond that.
    pub(super) async fn details(&self, doing: &str) -> Result<Vec<Details>> {
        let mut last = None;
        // a domain that goes while it is looked at makes it fail
        for _ in 0..3 {
            let (command, output) = self.xl(doing, QUICK, &["list", "-l"]).await?;
            match output.checked(doing, &command) {
                Ok(output) => {
                    let read = domains::details(&output.text());
                    return read.map_err(|why| Error::new(doing, Cause::Malformed(why)));
                }
                Err(error) => last = Some(error),
            }
            sleep(POLL).await;
        }
        Err(last.unwrap_or_else(|| Error::unknown(doing, "xl list -l gave nothing")))
    }

    /// A guest's stored text and what it says; `None` if it is not defined.
    pub(super) async fn stored(&self, guest: &str) -> Result<Option<(PathBuf, String, CfgFacts)>> {
        let path = self.places.definition(guest)?;
        let text = self.shelf.read(&path).await?;
        let Some(text) = text else { return Ok(None) };
        let facts = read(&path, &text)?;
        if facts.name != guest {
            let why = format!("{} defines {:?}", path.display(), facts.name);
            return Err(Error::new(format!("read the definition of {guest}"), Cause::Malformed(why))
                .help("give the file the guest's name, or the guest the file's"));
        }
        Ok(Some((path, text, facts)))
    }

    pub(super) async fn defined(&self, doing: &str, guest: &str) -> Result<(PathBuf, String, CfgFacts)> {
        let not_found = || {
            let path = self.places.definitions.join(format!("{guest}.cfg"));
            Error::not_found(doing, format!("no guest is defined as {guest:?}: there is no {}", path.display()))
        };
        self.stored(guest).await?.ok_or_else(not_found)
    }

    /// The domain that a defined guest runs as; `None` if it does not run. An error if that cannot be told: a domain of its name
    /// that is another, or one of its UUID with another name.
    pub(super) async fn running(&self, doing: &str, guest: &CfgFacts) -> Result<Option<Domain>> {
        let domains = self.domains(doing).await?;
        let named = domains.iter().find(|domain| domain.name == guest.name);
        if domains.is_empty() || (named.is_none() && guest.uuid.is_none()) {
            return Ok(None);
        }
        let details = self.details(doing).await?;
        let Some(domain) = named else {
            let other = details.iter().find(|details| details.uuid == guest.uuid && details.name != guest.name);
            // one that started between the two looks has its own name
            return match other {
                None => Ok(None),
                Some(other) => {
                    let why = format!("it runs under another name, {:?}", other.name);
                    Err(Error::refused(doing, why).help(format!("xl rename {} {}", other.id, guest.name)))
                }
            };
        };
        match details.iter().find(|details| details.id == domain.id) {
            Some(details) => self.same(doing, guest, details).await.map(|()| Some(domain.clone())),
            // while it is made, only its line is there
            None => Ok(Some(domain.clone())),
        }
    }

    /// Whether a domain of a guest's name is that guest.
    pub(super) async fn same(&self, doing: &str, guest: &CfgFacts, domain: &Details) -> Result<()> {
        let (name, id) = (&guest.name, domain.id);
        let uuid = domain.uuid.as_deref().unwrap_or_default();
        if self.shelf.exists(&self.places().await?.of_libvirt(id, uuid)).await? {
            let why = format!("domain {id} has its name, and libvirt runs it");
            return Err(Error::refused(doing, why).help(format!("virsh -c xen:///system dominfo {name}")));
        }
        if guest.uuid.as_deref().is_some_and(|wanted| wanted != uuid) {
            let why = format!("domain {id} has its name but is another: its UUID is {uuid}");
            return Err(Error::refused(doing, why).help(format!("xl list -l {name}; rename one of them")));
        }
        Ok(())
    }

    /// The domain a guest runs as, by name alone where it is not defined.
    pub(super) async fn domain(&self, doing: &str, guest: &str) -> Result<Option<Domain>> {
        match self.stored(guest).await? {
            Some((_, _, facts)) => self.running(doing, &facts).await,
            None => Ok(self.domains(doing).await?.into_iter().find(|domain| domain.name == guest)),
        }
    }

    /// The domain of a defined guest, to be acted on.
    pub(super) async fn own_domain(&self, doing: &str, guest: &str) -> Result<Option<Domain>> {
        let domain = self.domain(doing, guest).await?;
        if domain.is_some() && self.stored(guest).await?.is_none() {
            let why = format!("it runs, and has no definition in {}", self.places.definitions.display());
            return Err(Error::refused(doing, why).help("it is somebody else's; it is not touched"));
        }
        Ok(domain)
    }

    /// Runs an xl command on a domain and waits until `done` is true of what is there under its number, whatever the command says.
    pub(super) async fn change(
        &self,
        doing: &str,
        words: &[&str],
        id: u32,
        patience: Duration,
        done: impl Fn(Option<&Domain>) -> bool,
    ) -> Result<Change> {
        let number = id.to_string();
        let (command, output) = self.xl(doing, SLOW, &[words, &[&number]].concat()).await?;
        let until = Instant::now() + patience;
        loop {
            let domains = self.domains(doing).await?;
            if done(domains.iter().find(|domain| domain.id == id)) {
                return Ok(Change::Changed);
            }
            if output.status != 0 {
                output.checked(doing, &command)?;
                return Err(Error::unknown(doing, "xl failed"));
            }
            if Instant::now() >= until {
                return Err(Error::unknown(doing, "xl agreed, but the guest is as before"));
            }
            sleep(POLL).await;
        }
    }

    /// Refuses if another domain writes to one of a guest's disks. xl refuses it too, but only after it has made the domain.
    pub(super) async fn disks_free(&self, doing: &str, guest: &CfgFacts) -> Result<()> {
        for details in self.details(doing).await? {
            for disk in &guest.disks {
                let Some(path) = facts::path(&disk.source) else { continue };
                let ours = self.shelf.real(path).await;
                let mut shared = None;
                for (other, vdev, readonly) in &details.disks {
                    let both_read = *readonly && disk.readonly;
                    if !both_read && (other == path || self.shelf.real(other).await == ours) {
                        shared = Some((other, vdev, readonly));
                        break;
                    }
                }
                if let Some((_, vdev, _)) = shared {
                    let why = format!(
                        "its disk {} ({}) is {vdev} of {:?}, which runs",
                        disk.name,
                        path.display(),
                        details.name
                    );
                    return Err(Error::refused(doing, why).help(format!("xl block-list {}", details.id)));
                }
            }
        }
        Ok(())
    }

    /// `xl create`, such that the xl that then waits for the guest's end neither ends with us nor counts as a command of ours.
    pub(super) async fn create(&self, doing: &str, path: &Path) -> Result<Output> {
        let path = path.to_str().ok_or_else(|| Error::refused(doing, "the path of its definition is not UTF-8"))?;
        let scope = ["systemd-run", "--scope", "--quiet", "--collect"];
        let argv = scope.into_iter().take(if self.in_service { scope.len() } else { 0 }).chain(["xl", "create", path]);
        let command = Command::new(argv).timeout(SLOW).env(LEASE_VARIABLE, "");
        self.host.run(&command).await.map_err(|error| Error { doing: doing.to_owned(), ..error })
    }

    pub(super) async fn known(&self, path: &Path, facts: CfgFacts, power: Power) -> Result<GuestFacts> {
        let autostart = match &self.places().await?.auto {
            Some(auto) => Some(self.shelf.links(auto, path).await?),
            None => None,
        };
        Ok(GuestFacts {
            uuid: facts.uuid,
            power,
            autostart: autostart.is_some_and(|links| !links.on.is_empty() || !links.copies.is_empty()),
            memory_bytes: facts.memory_bytes,
            vcpus: facts.vcpus,
            disks: facts.disks,
            nics: facts.nics,
            managed_save: self.image(&facts.name).await?.is_some(),
            mark: facts.mark,
            kernel: facts.kernel,
            vnet: false,
            name: facts.name,
        })
    }
}

/// The equivalent of a failed text for people: place, cause, help.
pub(super) fn malformed(path: &Path, wrong: Wrong) -> Error {
    let why = match wrong.line {
        0 => wrong.what,
        line => format!("line {line}: {}", wrong.what),
    };
    let error = Error::new(format!("read {}", path.display()), Cause::Malformed(printable(&why)));
    match wrong.help {
        Some(help) => error.help(help),
        None => error,
    }
}

pub(super) fn read(path: &Path, text: &str) -> Result<CfgFacts> {
    facts::read(text).map_err(|wrong| malformed(path, wrong))
}
/// A domain that has no definition here, as far as xl tells.
pub(super) fn stranger(domain: &Domain, details: Option<&Details>) -> GuestFacts {
    let disks = details.map(|details| details.disks.as_slice()).unwrap_or_default();
    let nics = details.map(|details| details.nics.as_slice()).unwrap_or_default();
    let disk = |(index, (path, vdev, readonly)): (usize, &(PathBuf, String, bool))| Disk {
        name: vdev.clone(),
        source: if path.starts_with("/dev") { DiskSource::Block(path.clone()) } else { DiskSource::File(path.clone()) },
        root: index == 0,
        readonly: *readonly,
        shareable: false,
    };
    GuestFacts {
        name: domain.name.clone(),
        uuid: details.and_then(|details| details.uuid.clone()),
        power: domain.power,
        autostart: false,
        memory_bytes: domain.memory_mib << 20,
        vcpus: domain.vcpus,
        disks: disks.iter().enumerate().map(disk).collect(),
        nics: nics
            .iter()
            .map(|(mac, bridge)| Nic {
                name: None,
                mac: *mac,
                bridge: bridge.clone(),
                filter: None,
                addresses: Vec::new(),
            })
            .collect(),
        managed_save: false,
        mark: None,
        kernel: None,
        vnet: false,
    }
}
