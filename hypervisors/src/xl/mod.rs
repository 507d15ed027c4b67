//! Plain Xen: `xl` and its `.cfg` files, on the dom0 this program runs on or on one it reaches by ssh.
//!
//! xl keeps no definitions: a guest is a file `NAME.cfg` in a directory of the operator's, perhaps under git or subversion. They are
//! edited by cuts on their text ([`edit`]), replaced whole, and committed where they are versioned ([`crate::versions`]).
//!
//! * Exit statuses of xl say little (1 and 3 for many things, 0 before a guest is really gone): after every command that changes
//!   something, the list of domains decides.
//! * `xl list` shows every domain of the machine, libvirt's too. One is taken for a guest of ours only if it has the name of a
//!   definition and is not known to be another (a UUID of its own, libvirt's data beside it); the others are listed, so that
//!   their names, disks and addresses count as taken, and never touched. A domain is addressed by its number, not its name.
//! * xl reboots a guest from memory. Storing the definition of a running guest therefore hands it to `xl config-update` too, before
//!   the file is replaced, so that a reboot from inside never brings back what the definition no longer says.
//!
//! * [`cfg`] (by `parse`), [`spec`], [`facts`], [`edit`], [`domains`]: pure, on text.
//! * `look`: what there is; `files`, `shelf`: the directories.

pub mod cfg;
pub mod domains;
pub mod edit;
pub mod facts;
mod files;
mod look;
pub(crate) mod parse;
mod shelf;
pub mod spec;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use self::domains::Domain;
use self::files::Places;
use self::look::{malformed, read, stranger};
use self::shelf::Shelf;
use crate::host::SshHost;
use crate::versions;
use crate::{
    Capabilities, Cause, Change, Definition, DefinitionEdit, Disk, Error, FreeMemory, GuestFacts, GuestLink, Host,
    Hypervisor, Net, Power, Result, Storage, VolumeKind, VolumeRef, sight, storage,
};

/// Settings of xendomains(8).
const DEFAULTS: &str = "/etc/default/xendomains";
/// A command that only looks or notes something.
const QUICK: Duration = Duration::from_secs(60);
/// A command that starts or ends a guest.
const SLOW: Duration = Duration::from_secs(300);
/// How often a guest that is changing is looked at.
const POLL: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 250 });
/// How long a guest that has shut down may take to be cleaned up by the xl that waits for it.
const CLEANUP: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 15_000 });

/// Thaws the domain that its argument names, unless it is not paused; one that shuts down shows `--ps--`.
const RESUME: &str = r#"xl info > /dev/null || exit
xl list "$1" | awk 'NR == 2 && $3 > 0 && $5 == "--p---" { found = 1 } END { exit !found }' || exit 0
xl unpause "$1""#;

/// The guests of this dom0 whose definitions lie in one directory.
#[derive(Debug)]
pub struct Xl {
    host: Arc<dyn Host>,
    net: Arc<dyn Net>,
    storages: Vec<Arc<dyn Storage>>,
    /// Where everything is; of another machine only the definitions are known before it is asked.
    places: Places,
    there: OnceCell<Places>,
    shelf: Shelf,
    /// We are a service of systemd: the xl that stays with a guest must not end with us.
    in_service: bool,
}

impl Xl {
    /// The guests whose definitions lie in a directory of a dom0.
    pub fn new(
        definitions: impl Into<PathBuf>,
        host: Arc<dyn Host>,
        net: Arc<dyn Net>,
        storages: Vec<Arc<dyn Storage>>,
    ) -> Self {
        let here = |path| match host.is_local() {
            true => std::fs::read_to_string(path).unwrap_or_default(),
            false => String::new(),
        };
        let (defaults, group) = (here(DEFAULTS), here("/proc/self/cgroup"));
        let places = Places::new(definitions, &defaults);
        let shelf = Shelf::new(&host);
        Self { host, net, storages, places, there: OnceCell::new(), shelf, in_service: is_service(&group) }
    }

    /// Where everything is, asked of another machine once.
    async fn places(&self) -> Result<&Places> {
        if self.host.is_local() {
            return Ok(&self.places);
        }
        let ask = async || {
            let defaults = self.host.read_file(Path::new(DEFAULTS), 1 << 20).await?.unwrap_or_default();
            Ok(Places::new(&self.places.definitions, &String::from_utf8_lossy(&defaults)))
        };
        self.there.get_or_try_init(ask).await
    }

    /// The memory image that xendomains would resume instead of starting the guest.
    async fn image(&self, guest: &str) -> Result<Option<PathBuf>> {
        match self.places().await?.image(guest) {
            Some(image) if self.shelf.is_file(&image).await? => Ok(Some(image)),
            _ => Ok(None),
        }
    }
}

/// Whether a process of this cgroup (cgroups(7)) belongs to a service of systemd, which ends all of it when its main process ends.
fn is_service(cgroup: &str) -> bool {
    cgroup.lines().any(|line| line.starts_with("0::") && line.ends_with(".service"))
}
#[async_trait]
impl Hypervisor for Xl {
    fn host(&self) -> Arc<dyn Host> {
        Arc::clone(&self.host)
    }

    fn net(&self) -> Arc<dyn Net> {
        Arc::clone(&self.net)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shares_host_kernel: false, reboots_from_memory: true, can_pause: true }
    }

    fn platform(&self) -> &'static str {
        "xl"
    }

    /// Running domains without a definition here are listed too: what they have is taken.
    async fn list(&self) -> Result<Vec<GuestFacts>> {
        let doing = format!("list the guests of {}", self.host.name());
        let mut defined = Vec::new();
        for path in self.shelf.all(&self.places.definitions).await? {
            // it may go while we look
            let Some(text) = self.shelf.read(&path).await? else { continue };
            let facts = read(&path, &text).map_err(|error| match error.help.is_some() {
                true => error,
                false => error.help("an unreadable definition may hold a disk or an address: mend it, or rename it"),
            })?;
            defined.push((path, facts));
        }
        let domains = self.domains(&doing).await?;
        let details = if domains.is_empty() { Vec::new() } else { self.details(&doing).await? };
        let mut guests = Vec::new();
        let mut taken = Vec::new();
        for (path, facts) in defined {
            let domain = domains.iter().find(|domain| domain.name == facts.name);
            let others = domain.and_then(|domain| details.iter().find(|details| details.id == domain.id));
            if domain.is_some()
                && match others {
                    None => true,
                    Some(other) => self.same(&doing, &facts, other).await.is_ok(),
                }
            {
                taken.extend(domain.map(|domain| domain.id));
            }
            guests.push(self.known(&path, facts, domain.map_or(Power::Off, |domain| domain.power)).await?);
        }
        for domain in domains.iter().filter(|domain| !taken.contains(&domain.id)) {
            guests.push(stranger(domain, details.iter().find(|details| details.id == domain.id)));
        }
        guests.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(guests)
    }

    async fn facts(&self, guest: &str) -> Result<Option<GuestFacts>> {
        let Some((path, _, facts)) = self.stored(guest).await? else { return Ok(None) };
        let domain = self.running(&format!("look at {guest}"), &facts).await?;
        self.known(&path, facts, domain.map_or(Power::Off, |domain| domain.power)).await.map(Some)
    }

    async fn definition(&self, guest: &str) -> Result<Option<Definition>> {
        let path = self.places.definition(guest)?;
        let text = self.shelf.read(&path).await?;
        Ok(text.map(|text| Definition { name: guest.to_owned(), text }))
    }

    fn derive(&self, original: &Definition, edit: &DefinitionEdit) -> Result<Definition> {
        let text = edit::apply(&original.text, edit).map_err(|wrong| {
            let error = malformed(&self.places.definitions.join(format!("{}.cfg", original.name)), wrong);
            Error { doing: format!("edit the definition of {}", original.name), ..error }
        })?;
        Ok(Definition { name: edit.name.clone().unwrap_or_else(|| original.name.clone()), text })
    }

    /// A running guest's next reboot is by the new definition too (`xl config-update`, before the file is replaced: interrupted
    /// between the two, the change is seen as not made, and is made again).
    async fn define(&self, definition: &Definition) -> Result<Change> {
        let name = &definition.name;
        let doing = format!("define {name}");
        let path = self.places.definition(name)?;
        let wanted = read(&path, &definition.text)?;
        if wanted.name != *name {
            return Err(Error::new(doing, Cause::Malformed(format!("its definition is that of {:?}", wanted.name))));
        }
        let current = self.definition(name).await?;
        if let Some(current) = &current {
            if current.text == definition.text {
                return Ok(Change::Unchanged);
            }
            let uuid = facts::read(&current.text).ok().and_then(|facts| facts.uuid);
            if let (Some(uuid), Some(other)) = (uuid, &wanted.uuid)
                && uuid != *other
            {
                return Err(Error::refused(doing, format!("another guest has this name, with the UUID {uuid}")));
            }
        }
        let before = versions::before(&self.host, &path).await;
        let domain = self.running(&doing, &wanted).await?;
        let draft = self.shelf.draft(&path, &definition.text).await?;
        if let Some(domain) = domain.filter(|domain| !domain.down) {
            let at = draft.path.to_string_lossy().into_owned();
            let id = domain.id.to_string();
            let told = async {
                let (command, output) = self.xl(&doing, QUICK, &["config-update", &id, &at]).await?;
                // gone meanwhile, it starts by the file
                if output.status != 0 && self.running(&doing, &wanted).await?.is_some() {
                    output.checked(format!("{doing}: hand it to the running guest"), &command)?;
                }
                Ok(())
            };
            if let Err(error) = told.await {
                self.shelf.drop_draft(draft).await;
                return Err(error);
            }
        }
        let existed = self.shelf.put(draft).await?;
        if self.definition(name).await?.is_none_or(|stored| stored.text != definition.text) {
            return Err(Error::unknown(doing, "somebody else wrote it at the same time"));
        }
        let run = wanted.mark.as_ref().map(|mark| format!("{}: ", mark.run)).unwrap_or_default();
        versions::commit(before, format!("{run}{} {name}", if existed { "change" } else { "define" })).await;
        Ok(if existed { Change::Changed } else { Change::Created })
    }

    async fn undefine(&self, guest: &str) -> Result<Change> {
        let doing = format!("undefine {guest}");
        let Some((path, _, facts)) = self.stored(guest).await? else { return Ok(Change::Unchanged) };
        if let Some(domain) = self.running(&doing, &facts).await? {
            return Err(Error::refused(doing, "it is on").help(format!("xl shutdown {}", domain.name)));
        }
        if let Some(image) = self.image(guest).await? {
            let help = format!("rm {}, or xl restore it", image.display());
            return Err(Error::refused(doing, "a saved memory image exists").help(help));
        }
        let before = versions::before(&self.host, &path).await;
        let links = match &self.places().await?.auto {
            Some(auto) => self.shelf.links(auto, &path).await?,
            None => files::Links::default(),
        };
        self.shelf.remove(&path).await?;
        for link in links.on.iter().chain(&links.off) {
            self.shelf.unlink(link).await?;
        }
        let run = facts.mark.map(|mark| format!("{}: ", mark.run)).unwrap_or_default();
        versions::commit(before, format!("{run}remove {guest}")).await;
        Ok(Change::Removed)
    }

    async fn power(&self, guest: &str) -> Result<Power> {
        let domain = self.domain(&format!("see whether {guest} runs"), guest).await?;
        Ok(domain.map_or(Power::Off, |domain| domain.power))
    }

    async fn start(&self, guest: &str) -> Result<Change> {
        let doing = format!("start {guest}");
        let (path, _, facts) = self.defined(&doing, guest).await?;
        let until = Instant::now() + CLEANUP;
        loop {
            match self.running(&doing, &facts).await? {
                None => break,
                Some(domain) if domain.down && Instant::now() < until => sleep(POLL).await,
                Some(domain) if domain.down => {
                    let why = format!("it has shut down as domain {}, and xl has not cleaned that up", domain.id);
                    return Err(Error::refused(doing, why).help(format!("xl destroy {}", domain.id)));
                }
                Some(domain) if domain.power == Power::Paused => return self.resume(guest).await,
                Some(_) => return Ok(Change::Unchanged),
            }
        }
        if let Some(image) = self.image(guest).await? {
            let why = "a saved memory image exists, which belongs to disks as they were";
            let help = format!("rm {0}, or xl restore {0} to resume it", image.display());
            return Err(Error::refused(doing, why).help(help));
        }
        self.disks_free(&doing, &facts).await?;
        let output = self.create(&doing, &path).await?;
        if self.running(&doing, &facts).await?.is_some() {
            return Ok(Change::Changed);
        }
        if output.status == 0 {
            return Err(Error::new(doing, Cause::Platform("it started and is gone again".to_owned()))
                .help(format!("look at /var/log/xen/xl-{guest}.log and at its console")));
        }
        let (stderr, help) = domains::reason(&String::from_utf8_lossy(&output.stderr));
        let error = Error::new(doing, Cause::Command { program: "xl".to_owned(), status: output.status, stderr });
        Err(match help {
            Some(help) => error.help(help),
            None => error,
        })
    }

    async fn shutdown(&self, guest: &str, patience: Duration) -> Result<Change> {
        let doing = format!("shut {guest} down");
        let until = Instant::now() + patience;
        let Some(domain) = self.own_domain(&doing, guest).await? else { return Ok(Change::Unchanged) };
        if domain.power == Power::Paused {
            return Err(Error::refused(doing, "it is paused and cannot hear"));
        }
        let id = domain.id.to_string();
        if !domain.down {
            let asked = self.xl(&doing, QUICK, &["shutdown", &id]).await;
            match asked {
                Ok((command, output)) if output.status != 0 => {
                    // it may have gone by itself
                    if self.own_domain(&doing, guest).await?.is_some_and(|now| now.id == domain.id && !now.down) {
                        let error = output.checked(doing, &command).err();
                        return Err(error.map_or_else(
                            || Error::unknown("", ""),
                            |error| error.help(format!("a guest without Xen's drivers hears only xl shutdown -F {id}")),
                        ));
                    }
                }
                Err(error) if !error.is_unknown() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        let keeps = self.stored(guest).await?.is_some_and(|(_, text, _)| keeps_dead(&text));
        let mut down_since = None;
        loop {
            let now = match self.domains(&doing).await {
                Ok(domains) => Some(domains.into_iter().find(|now| now.id == domain.id || now.name == domain.name)),
                Err(error) if !error.is_unknown() => return Err(error),
                Err(_) => None,
            };
            match &now {
                Some(None) => return Ok(Change::Changed),
                Some(Some(now)) if now.down && now.id == domain.id => {
                    let since = *down_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= CLEANUP && !keeps {
                        // the xl that started it is gone; what it would do is this
                        return self.change(&doing, &["destroy"], domain.id, CLEANUP, |now| now.is_none()).await;
                    }
                }
                Some(Some(_)) | None => down_since = None,
            }
            if Instant::now() >= until {
                let why = format!("it was asked and is not off after {} s", patience.as_secs());
                let help = match now {
                    Some(Some(now)) if now.id != domain.id => "it came up again as another domain: see its on_poweroff",
                    Some(Some(now)) if now.down => "it has shut down; its on_poweroff keeps what is left of it",
                    _ => "it may still be doing so (a guest that is booting first boots to the end); look again",
                };
                return Err(Error::unknown(doing, why).help(help));
            }
            sleep(POLL).await;
        }
    }

    async fn destroy(&self, guest: &str) -> Result<Change> {
        let doing = format!("power {guest} off");
        match self.own_domain(&doing, guest).await? {
            None => Ok(Change::Unchanged),
            Some(domain) => self.change(&doing, &["destroy"], domain.id, CLEANUP, |now| now.is_none()).await,
        }
    }

    async fn pause(&self, guest: &str) -> Result<Change> {
        let doing = format!("pause {guest}");
        match self.own_domain(&doing, guest).await? {
            None => Err(Error::refused(doing, "it is off")),
            Some(domain) if domain.down || domain.memory_mib == 0 => {
                Err(Error::refused(doing, "it is going down or coming up"))
            }
            Some(domain) if domain.power == Power::Paused => Ok(Change::Unchanged),
            Some(domain) => {
                let paused = |now: Option<&Domain>| now.is_some_and(|now| now.power == Power::Paused);
                self.change(&doing, &["pause"], domain.id, CLEANUP, paused).await
            }
        }
    }

    async fn resume(&self, guest: &str) -> Result<Change> {
        let doing = format!("resume {guest}");
        match self.own_domain(&doing, guest).await? {
            None => Err(Error::refused(doing, "it is off")),
            Some(domain) if domain.power == Power::On => Ok(Change::Unchanged),
            Some(domain) => {
                let on = |now: Option<&Domain>| now.is_some_and(|now| now.power == Power::On);
                self.change(&doing, &["unpause"], domain.id, CLEANUP, on).await
            }
        }
    }

    async fn resume_command(&self, guest: &str) -> Result<Option<Vec<String>>> {
        Ok(Some(["sh", "-c", RESUME, "resume", guest].map(str::to_owned).to_vec()))
    }

    async fn autostart(&self, guest: &str) -> Result<bool> {
        let path = self.places.definition(guest)?;
        let Some(auto) = &self.places().await?.auto else { return Ok(false) };
        if !self.shelf.exists(&path).await? {
            return Ok(false);
        }
        let links = self.shelf.links(auto, &path).await?;
        Ok(!links.on.is_empty() || !links.copies.is_empty())
    }

    /// A link that somebody made stays there hidden while it is switched off, and comes back as it was.
    async fn set_autostart(&self, guest: &str, on: bool) -> Result<Change> {
        let doing = format!("switch autostart of {guest} {}", if on { "on" } else { "off" });
        let (path, _, _) = self.defined(&doing, guest).await?;
        let Some(auto) = &self.places().await?.auto else {
            return match on {
                false => Ok(Change::Unchanged),
                true => Err(Error::refused(doing, "xendomains starts no guests here")
                    .help("set XENDOMAINS_AUTO in /etc/default/xendomains")),
            };
        };
        let links = self.shelf.links(auto, &path).await?;
        if let Some(copy) = links.copies.first() {
            let why = format!("{} is a copy of the definition, which does not follow it", copy.display());
            return Err(Error::refused(doing, why).help(format!("ln -sf {} {}", path.display(), copy.display())));
        }
        match (on, links.on.is_empty()) {
            (true, false) | (false, true) => return Ok(Change::Unchanged),
            (true, true) if links.off.is_empty() => self.shelf.link(auto, &path).await?,
            (true, true) => {
                for link in &links.off {
                    self.shelf.put_back(link).await?;
                }
            }
            // ours can be made again just so
            (false, false) if self.shelf.is_ours(&links.on, auto, &path).await? => {
                self.shelf.unlink(&links.on[0]).await?;
            }
            (false, false) => {
                for link in &links.on {
                    self.shelf.put_aside(link).await?;
                }
            }
        }
        Ok(Change::Changed)
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

    /// A dom0's own memory is not its guests': the hypervisor has theirs.
    async fn free_memory(&self) -> Result<Option<FreeMemory>> {
        let doing = format!("ask {} for free memory", self.host.name());
        let (command, output) = self.xl(&doing, QUICK, &["info"]).await?;
        let free_bytes = parse::free_memory(&output.checked(doing, &command)?.text());
        let more_bytes = sight::available(&*self.host).await?.unwrap_or(0);
        Ok(free_bytes.map(|free_bytes| FreeMemory { free_bytes, more_bytes }))
    }
}

/// Whether a definition keeps a domain that has shut down (`on_poweroff`, xl.cfg(5); the default destroys it).
fn keeps_dead(text: &str) -> bool {
    let action = cfg::Cfg::parse(text).and_then(|cfg| cfg.text("on_poweroff"));
    action.is_ok_and(|action| action.is_some_and(|action| action != "destroy"))
}
