//! libvirt (LXC here; Xen and QEMU by the same code) through the `virt` crate.
//!
//! Definitions are kept as the text libvirt gives (inactive, with secrets: they may hold keys, so they are never
//! logged) and edited by cuts on that text ([`edit`]). Every change is read back before it counts as done. What a
//! guest is, is decided by what libvirt says of it; what the platform can do, by the connection's kind.
//!
//! * [`xml`], [`edit`], [`uri`]: pure, on text.
//! * `connection`: calls with a time limit, errors in our words, reconnecting.
//!
//! This module never starts a process. A connection by ssh makes libvirt's own library start one (`ssh`, asking nobody).

mod compose;
mod connection;
pub mod edit;
mod late;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
mod tree;
pub mod uri;
pub mod xml;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use virt::connect::Connect;
use virt::domain::{Domain, DomainState};
use virt::error::ErrorNumber;
use virt::sys::{VIR_DOMAIN_UNDEFINE_KEEP_NVRAM, VIR_DOMAIN_XML_INACTIVE, VIR_DOMAIN_XML_SECURE};

use self::connection::{Connection, Failure, Handle, find, is};
use self::xml::DomainFacts;
use crate::host::{Command, SshHost};
use crate::{
    Capabilities, Cause, Change, Definition, DefinitionEdit, Disk, Error, FreeMemory, GuestFacts, GuestLink, Host,
    Hypervisor, Net, NewGuest, Power, Result, Storage, VolumeKind, VolumeRef, sight, storage,
};

/// A call that only looks or notes something.
const QUICK: Duration = Duration::from_secs(60);
/// A call that starts or ends a guest.
const SLOW: Duration = Duration::from_secs(300);
/// How often a guest that shuts down is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Thaws the domain that its second argument names, by the connection of the first, unless it is not paused.
const RESUME: &str = r#"state=$(LC_ALL=C virsh -q -c "$1" domstate "$2") || exit
[ "$state" != paused ] || virsh -q -c "$1" resume "$2""#;

/// The guests of one libvirt connection.
pub struct Libvirt {
    uri: String,
    host: Arc<dyn Host>,
    net: Arc<dyn Net>,
    storages: Vec<Arc<dyn Storage>>,
    connection: Connection,
    /// Digests of the definitions libvirt gave us: set again, they must come back byte for byte.
    given: Mutex<HashSet<[u8; 32]>>,
}

impl fmt::Debug for Libvirt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Libvirt").field("uri", &self.uri).finish_non_exhaustive()
    }
}

type Called<T> = std::result::Result<T, Failure>;

impl Libvirt {
    /// The guests behind a connection URI (`lxc:///system`). Connects when first needed.
    pub fn new(uri: &str, host: Arc<dyn Host>, net: Arc<dyn Net>, storages: Vec<Arc<dyn Storage>>) -> Self {
        let connection = Connection::new(uri);
        Self { uri: uri.to_owned(), host, net, storages, connection, given: Mutex::default() }
    }

    async fn call<T: Send + 'static>(
        &self,
        doing: String,
        limit: Duration,
        work: impl FnOnce(&Connect) -> Called<T> + Send + 'static,
    ) -> Result<T> {
        self.connection.call(doing, limit, work).await
    }

    /// Does something with a defined guest; an undefined one is an error.
    async fn with<T: Send + 'static>(
        &self,
        doing: String,
        guest: &str,
        limit: Duration,
        work: impl FnOnce(&Domain, &str) -> Called<T> + Send + 'static,
    ) -> Result<T> {
        let (guest, about) = (guest.to_owned(), doing.clone());
        let work = move |connect: &Connect| match find(connect, &guest)? {
            Some(domain) => work(&domain, &about),
            None => Err(Error::not_found(about, format!("no guest is defined as {guest:?}")).into()),
        };
        self.call(doing, limit, work).await
    }

    fn remember(&self, text: &str) {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(Sha256::digest(text).into());
    }

    fn remembers(&self, text: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(text).into();
        self.given.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest)
    }
}

/// The equivalent `virsh` command, for people.
pub fn virsh(uri: &str, words: &[&str]) -> Vec<String> {
    ["virsh", "-c", uri].iter().chain(words).map(|word| (*word).to_owned()).collect()
}

/// `driver[+transport]://…`: the driver.
fn driver(uri: &str) -> &str {
    uri.split([':', '+']).next().unwrap_or_default()
}

fn dump(domain: &Domain) -> Called<String> {
    Ok(domain.xml_desc(VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE)?)
}

fn malformed(doing: &str, why: String) -> Error {
    Error::new(doing, Cause::Malformed(crate::host::printable(&why)))
}

fn read(doing: &str, text: &str) -> Result<DomainFacts> {
    xml::read(text).map_err(|why| malformed(doing, why))
}

/// Power state (virDomainState). A state that libvirt cannot tell is an error, never a guess.
fn power_of(domain: &Domain, doing: &str) -> Called<Power> {
    let (state, _) = domain.state()?;
    Ok(match state.known() {
        Some(DomainState::Running | DomainState::Blocked | DomainState::Shutdown) => Power::On,
        Some(DomainState::Paused | DomainState::PMSuspended) => Power::Paused,
        // a crashed guest may be preserved with its disks open
        Some(DomainState::Shutoff | DomainState::Crashed | DomainState::NoState) => {
            if domain.is_active()? {
                Power::On
            } else {
                Power::Off
            }
        }
        None => return Err(Error::unknown(doing, "libvirt could not tell the guest's state").into()),
    })
}

/// A question that a driver need not know: no means no.
fn optional(answer: std::result::Result<bool, virt::error::Error>) -> Called<bool> {
    match answer {
        Err(error) if is(&error, ErrorNumber::NoSupport) || is(&error, ErrorNumber::OperationInvalid) => Ok(false),
        other => Ok(other?),
    }
}

fn facts_of(connect: &Connect, domain: &Domain, doing: &str) -> Called<GuestFacts> {
    let mut facts = read(doing, &dump(domain)?)?;
    for (nic, _) in facts.nics.iter_mut().zip(&facts.on_network).filter(|(_, network)| **network) {
        // a network that is not there or has no bridge keeps its name
        if let Ok(network) = connect.lookup_network_by_name(&nic.bridge).map(Handle::new) {
            nic.bridge = network.bridge_name().unwrap_or(std::mem::take(&mut nic.bridge));
        }
    }
    Ok(GuestFacts {
        name: facts.name,
        uuid: facts.uuid,
        power: power_of(domain, doing)?,
        // a transient guest cannot have it
        autostart: optional(domain.autostart())?,
        memory_bytes: facts.memory_bytes,
        vcpus: facts.vcpus,
        disks: facts.disks,
        nics: facts.nics,
        managed_save: optional(domain.has_managed_save(0))?,
        mark: facts.mark,
        kernel: facts.kernel,
        vnet: false,
    })
}

#[async_trait]
impl Hypervisor for Libvirt {
    fn host(&self) -> Arc<dyn Host> {
        Arc::clone(&self.host)
    }

    fn net(&self) -> Arc<dyn Net> {
        Arc::clone(&self.net)
    }

    fn capabilities(&self) -> Capabilities {
        let driver = driver(&self.uri);
        Capabilities {
            shares_host_kernel: driver == "lxc",
            // libvirt's Xen driver starts a rebooting guest anew from the stored definition
            reboots_from_memory: driver != "xen",
            can_pause: true,
        }
    }

    fn platform(&self) -> &'static str {
        "libvirt"
    }

    async fn list(&self) -> Result<Vec<GuestFacts>> {
        let doing = format!("list the guests of {}", self.uri);
        let about = doing.clone();
        self.call(doing, QUICK, move |connect| {
            let domains: Vec<_> = connect.list_all_domains(0)?.into_iter().map(Handle::new).collect();
            let mut guests = Vec::with_capacity(domains.len());
            for domain in &domains {
                match facts_of(connect, domain, &about) {
                    Ok(facts) => guests.push(facts),
                    // it went while we were looking
                    Err(Failure::Libvirt(error)) if is(&error, ErrorNumber::NoDomain) => {}
                    Err(failure) => return Err(failure),
                }
            }
            guests.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(guests)
        })
        .await
    }

    async fn facts(&self, guest: &str) -> Result<Option<GuestFacts>> {
        let (doing, guest) = (format!("look at {guest}"), guest.to_owned());
        let about = doing.clone();
        self.call(doing, QUICK, move |connect| match find(connect, &guest)? {
            Some(domain) => facts_of(connect, &domain, &about).map(Some),
            None => Ok(None),
        })
        .await
    }

    async fn definition(&self, guest: &str) -> Result<Option<Definition>> {
        let name = guest.to_owned();
        let text = self
            .call(format!("read the definition of {guest}"), QUICK, move |connect| {
                find(connect, &name)?.map(|domain| dump(&domain)).transpose()
            })
            .await?;
        if let Some(text) = &text {
            self.remember(text);
        }
        Ok(text.map(|text| Definition { name: guest.to_owned(), text }))
    }

    async fn compose(&self, guest: &NewGuest) -> Result<Definition> {
        let doing = format!("write a definition of {}", guest.name);
        if driver(&self.uri) != "lxc" {
            let why = format!("only containers are defined from nothing, not guests of {}", self.uri);
            return Err(Error::new(doing, Cause::Unsupported(why)));
        }
        let text = compose::container(guest).map_err(|why| malformed(&doing, why))?;
        Ok(Definition { name: guest.name.clone(), text })
    }

    fn derive(&self, original: &Definition, edit: &DefinitionEdit) -> Result<Definition> {
        let doing = format!("edit the definition of {}", original.name);
        let text = edit::apply(&original.text, edit).map_err(|why| malformed(&doing, why))?;
        Ok(Definition { name: edit.name.clone().unwrap_or_else(|| original.name.clone()), text })
    }

    async fn define(&self, definition: &Definition) -> Result<Change> {
        let doing = format!("define {}", definition.name);
        let wanted = read(&doing, &definition.text)?;
        if wanted.name != definition.name {
            return Err(malformed(&doing, format!("its definition is that of {:?}", wanted.name)));
        }
        let (text, about, exact) = (definition.text.clone(), doing.clone(), self.remembers(&definition.text));
        let (change, stored) = self
            .call(doing, QUICK, move |connect| {
                let existing = find(connect, &wanted.name)?;
                if let Some(domain) = &existing {
                    let uuid = domain.uuid_string()?;
                    if wanted.uuid.as_ref().is_some_and(|wanted| !wanted.eq_ignore_ascii_case(&uuid)) {
                        let why = format!("another guest has this name, with the UUID {uuid}");
                        return Err(Error::refused(about, why).into());
                    }
                    if dump(domain)? == text {
                        return Ok((Change::Unchanged, text));
                    }
                }
                drop(Handle::new(connect.define_domain_xml(&text)?));
                let domain = find(connect, &wanted.name)?;
                let stored = dump(&*domain.ok_or_else(|| Error::not_found(&*about, "it is not there afterwards"))?)?;
                let wrong = compare(&wanted, &read(&about, &stored)?);
                if !wrong.is_empty() {
                    let why = format!("libvirt stored something else: {}", wrong.join(", "));
                    return Err(malformed(&about, why).into());
                }
                if exact && let Some(line) = first_difference(&text, &stored) {
                    let why = format!("libvirt no longer stores this definition as it once gave it: {line}");
                    return Err(malformed(&about, why).help("compare with virsh dumpxml --inactive").into());
                }
                Ok((if existing.is_some() { Change::Changed } else { Change::Created }, stored))
            })
            .await?;
        self.remember(&stored);
        Ok(change)
    }

    async fn undefine(&self, guest: &str) -> Result<Change> {
        let doing = format!("undefine {guest}");
        let (guest, about, uefi) = (guest.to_owned(), doing.clone(), driver(&self.uri) == "qemu");
        self.call(doing, QUICK, move |connect| {
            let Some(domain) = find(connect, &guest)? else { return Ok(Change::Unchanged) };
            if domain.is_active()? {
                return Err(Error::refused(about, "it is on").help(format!("virsh shutdown {guest}")).into());
            }
            if optional(domain.has_managed_save(0))? {
                let help = format!("virsh managedsave-remove {guest}");
                return Err(Error::refused(about, "a saved memory image exists").help(help).into());
            }
            if uefi {
                domain.undefine_flags(VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)?
            } else {
                domain.undefine()?
            }
            if find(connect, &guest)?.is_some() {
                return Err(Error::unknown(about, "it is still defined afterwards").into());
            }
            Ok(Change::Removed)
        })
        .await
    }

    async fn power(&self, guest: &str) -> Result<Power> {
        let doing = format!("see whether {guest} runs");
        let (guest, about) = (guest.to_owned(), doing.clone());
        self.call(doing, QUICK, move |connect| match find(connect, &guest)? {
            Some(domain) => power_of(&domain, &about),
            None => Ok(Power::Off),
        })
        .await
    }

    async fn start(&self, guest: &str) -> Result<Change> {
        let name = guest.to_owned();
        self.with(format!("start {guest}"), guest, SLOW, move |domain, doing| {
            match power_of(domain, doing)? {
                Power::On => return Ok(Change::Unchanged),
                Power::Paused => thaw(domain)?,
                Power::Off if optional(domain.has_managed_save(0))? => {
                    let why = "a saved memory image exists, which starting would resume on disks that may have changed";
                    let help = format!("virsh managedsave-remove {name}, or virsh start {name} to resume it");
                    return Err(Error::refused(doing, why).help(help).into());
                }
                // The platform's own restart (`on_reboot`), or a person, may be faster.
                Power::Off => {
                    if raced(domain.create(), domain, doing, Power::On)? == Change::Unchanged {
                        return Ok(Change::Unchanged);
                    }
                }
            }
            reached(domain, doing, Power::On)
        })
        .await
    }

    async fn shutdown(&self, guest: &str, patience: Duration) -> Result<Change> {
        let doing = format!("shut {guest} down");
        let until = Instant::now() + patience;
        let asked = self
            .with(doing.clone(), guest, QUICK, |domain, doing| match power_of(domain, doing)? {
                Power::Off => Ok(false),
                Power::Paused => Err(Error::refused(doing, "it is paused and cannot hear").into()),
                Power::On => raced(domain.shutdown(), domain, doing, Power::Off).map(|_| true),
            })
            .await;
        match asked {
            Ok(false) => return Ok(Change::Unchanged),
            Err(error) if matches!(error.cause, Cause::NotFound(_)) => return Ok(Change::Unchanged),
            Err(error) if !error.is_unknown() => return Err(error),
            Ok(true) | Err(_) => {}
        }
        loop {
            // a daemon that restarts meanwhile is waited for
            match self.power(guest).await {
                Ok(Power::Off) => return Ok(Change::Changed),
                Err(error) if !error.is_unknown() => return Err(error),
                _ if Instant::now() >= until => {
                    let why = format!("it was asked and is not off after {} s", patience.as_secs());
                    return Err(Error::unknown(doing, why).help(
                        "it may still be doing so (a guest that is booting first boots to the end); look again",
                    ));
                }
                _ => sleep(POLL).await,
            }
        }
    }

    async fn destroy(&self, guest: &str) -> Result<Change> {
        let doing = format!("power {guest} off");
        let (guest, about) = (guest.to_owned(), doing.clone());
        self.call(doing, SLOW, move |connect| {
            let Some(domain) = find(connect, &guest)? else { return Ok(Change::Unchanged) };
            if power_of(&domain, &about)? == Power::Off {
                return Ok(Change::Unchanged);
            }
            raced(domain.destroy(), &domain, &about, Power::Off)?;
            // a transient guest is gone with it
            match find(connect, &guest)? {
                Some(domain) => reached(&domain, &about, Power::Off),
                None => Ok(Change::Changed),
            }
        })
        .await
    }

    async fn pause(&self, guest: &str) -> Result<Change> {
        self.with(format!("pause {guest}"), guest, QUICK, |domain, doing| match power_of(domain, doing)? {
            Power::Paused => Ok(Change::Unchanged),
            Power::Off => Err(Error::refused(doing, "it is off").into()),
            Power::On => {
                domain.suspend()?;
                reached(domain, doing, Power::Paused)
            }
        })
        .await
    }

    async fn resume(&self, guest: &str) -> Result<Change> {
        self.with(format!("resume {guest}"), guest, QUICK, |domain, doing| match power_of(domain, doing)? {
            Power::On => Ok(Change::Unchanged),
            Power::Off => Err(Error::refused(doing, "it is off").into()),
            Power::Paused => {
                thaw(domain)?;
                reached(domain, doing, Power::On)
            }
        })
        .await
    }

    async fn resume_command(&self, guest: &str) -> Result<Option<Vec<String>>> {
        // libvirt's library is not virsh, which Debian has in a package of its own.
        if self.host.run(&Command::new(["sh", "-c", "command -v virsh"])).await?.status != 0 {
            return Ok(None);
        }
        let there = self.uri.parse::<uri::Uri>().map_or_else(|_| self.uri.clone(), |uri| uri.at_home().to_string());
        Ok(Some(["sh", "-c", RESUME, "resume", &there, guest].map(str::to_owned).to_vec()))
    }

    async fn autostart(&self, guest: &str) -> Result<bool> {
        let name = guest.to_owned();
        self.call(format!("see whether {guest} starts with its host"), QUICK, move |connect| {
            find(connect, &name)?.map_or(Ok(false), |domain| optional(domain.autostart()))
        })
        .await
    }

    async fn set_autostart(&self, guest: &str, on: bool) -> Result<Change> {
        let word = if on { "on" } else { "off" };
        self.with(format!("switch autostart of {guest} {word}"), guest, QUICK, move |domain, doing| {
            if domain.autostart()? == on {
                return Ok(Change::Unchanged);
            }
            domain.set_autostart(on)?;
            if domain.autostart()? != on {
                return Err(Error::unknown(doing, "it is as before afterwards").into());
            }
            Ok(Change::Changed)
        })
        .await
    }

    async fn volume(&self, disk: &Disk) -> Result<VolumeRef> {
        storage::behind(&*self.host, disk).await
    }

    fn storage(&self, kind: VolumeKind) -> Result<Arc<dyn Storage>> {
        storage::driver(&self.storages, kind, &*self.host)
    }

    fn guest(&self, link: &GuestLink) -> Result<Arc<dyn Host>> {
        Ok(crate::net::inside(link, self.net.clone(), SshHost::for_guest))
    }

    /// A dom0's own memory is not its guests': there the hypervisor is asked.
    async fn free_memory(&self) -> Result<Option<FreeMemory>> {
        let available = sight::available(&*self.host).await?;
        if driver(&self.uri) != "xen" {
            return Ok(available.map(|free_bytes| FreeMemory { free_bytes, more_bytes: 0 }));
        }
        let doing = format!("ask {} for free memory", self.uri);
        let free_bytes = self.call(doing, QUICK, |connect| Ok(connect.free_memory()?)).await?;
        Ok(Some(FreeMemory { free_bytes, more_bytes: available.unwrap_or(0) }))
    }
}

fn thaw(domain: &Domain) -> Called<()> {
    let (state, _) = domain.state()?;
    if state.is(DomainState::PMSuspended) {
        domain.pm_wakeup(0)?
    } else {
        domain.resume().map(|_| ())?
    }
    Ok(())
}

/// A refusal because somebody was faster is none: the state decides, and nothing was changed by us.
fn raced<T>(
    result: std::result::Result<T, virt::error::Error>,
    domain: &Domain,
    doing: &str,
    wanted: Power,
) -> Called<Change> {
    match result {
        Ok(_) => Ok(Change::Changed),
        Err(error) if is(&error, ErrorNumber::OperationInvalid) && power_of(domain, doing)? == wanted => {
            Ok(Change::Unchanged)
        }
        Err(error) => Err(error.into()),
    }
}

fn reached(domain: &Domain, doing: &str, wanted: Power) -> Called<Change> {
    match power_of(domain, doing)? {
        found if found == wanted => Ok(Change::Changed),
        found => Err(Error::unknown(doing, format!("libvirt agreed, but the guest is {found:?} afterwards")).into()),
    }
}

/// What libvirt stored other than it was told; what it fills in by itself (UUID, hardware addresses) does not count.
fn compare(wanted: &DomainFacts, stored: &DomainFacts) -> Vec<String> {
    let mut wanted = wanted.clone();
    wanted.uuid = wanted.uuid.map(|uuid| uuid.to_ascii_lowercase()).or_else(|| stored.uuid.clone());
    wanted.current_memory_bytes = wanted.current_memory_bytes.or(stored.current_memory_bytes);
    for (wanted, stored) in wanted.nics.iter_mut().zip(&stored.nics) {
        wanted.mac = wanted.mac.or(stored.mac);
    }
    edit::differences(&wanted, stored)
}

/// The first line in which two texts differ, in words that hold nothing of the texts (they may hold secrets).
fn first_difference(wanted: &str, stored: &str) -> Option<String> {
    if wanted == stored {
        return None;
    }
    let same = wanted.lines().zip(stored.lines()).take_while(|(a, b)| a == b).count();
    let element = |text: &str| {
        let line = text.lines().nth(same).unwrap_or_default().trim_start();
        line.strip_prefix('<').unwrap_or_default().split([' ', '>', '/']).next().unwrap_or_default().to_owned()
    };
    Some(format!("line {} (<{}> before, <{}> now)", same + 1, element(wanted), element(stored)))
}
