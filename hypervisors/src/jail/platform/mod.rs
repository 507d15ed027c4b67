//! FreeBSD jails as a platform: on the host this program reaches, by its own programs and files.
//!
//! * The truth about a jail is `jls`: `service jail onestart` ends with 0 when nothing was started, and so does stopping what is not
//!   there. After every command that changes something, the list of jails decides.
//! * Definitions are blocks of jail.conf(5). A clone's stands in a file of its own (`/etc/jail.NAME.conf`), which rc.d/jail reads
//!   first for that jail and does not start with the host; any other's stands where the host has its jails: in a file of
//!   `/etc/jail.conf.d` if it has files there, else in `/etc/jail.conf`.
//! * On a host that has no jail.conf, and jails of the old way (`jail_NAME_…` variables of rc.conf(5)), a new jail is of that way too, a clone
//!   as well: it starts with the host only if `jail_list` names it.
//! * A jail with a network stack of its own (vnet) is listed and left alone: what addresses it has is set within it.
//! * Jails that Bastille or iocage keep are listed, since what they have is taken, and refused.
//!
//! `texts`: files; `running`: what jls prints; `guests`: facts of the two together; `copied`: the definition of a clone; `trees`: what runs made.

mod copied;
mod guests;
mod running;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
mod texts;
mod trees;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use self::running::Running;
use self::texts::{Shelf, Texts, wrong};
use self::trees::Trees;
pub use self::trees::{RUNS, passing_jail};
use super::address;
use super::conf::edit::{Change as ConfChange, Setting};
use super::conf::{Config, Dialect, Effective, Files, NewJail, name_of};
use super::rc::{Value, variables};
use crate::host::{Command, Output, SshHost, printable_tail};
use crate::{
    Capabilities, Cause, Change, Definition, DefinitionEdit, Disk, DiskEdit, DiskSource, Error, GuestFacts, GuestLink,
    Host, Hypervisor, Net, NewGuest, Power, Result, Role, Storage, VolumeKind, VolumeRef, storage,
};

/// A command that only looks.
const QUICK: Duration = Duration::from_secs(60);
/// A command that starts a jail: its `exec.start` runs to the end.
const SLOW: Duration = Duration::from_secs(900);
/// How often a jail that is stopping is looked at.
const POLL: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 250 });
/// The name of a definition read by itself.
const ALONE: &str = "the definition";

/// The first line of a shared file that was not there: it goes with the last jail in it.
const OURS: &str = "# Made by upgradectl, for want of a jail.conf.";

/// Arguments: a jail's root. Unmounts what is mounted within, innermost first, and fails if something stays.
const UNMOUNT: &str = "within() { mount -p | awk -v r=\"$1/\" 'index($2, r) == 1 { print $2 }' | sort -r; }; \
    within \"$1\" | while IFS= read -r d; do umount \"$d\" || umount -f \"$d\"; done; test -z \"$(within \"$1\")\"";

/// The jails of a host.
#[derive(Debug)]
pub struct Jails {
    host: Arc<dyn Host>,
    net: Arc<dyn Net>,
    shelf: Shelf,
    version: OnceCell<String>,
}

impl Jails {
    /// The jails of a machine.
    pub fn new(host: Arc<dyn Host>, net: Arc<dyn Net>) -> Self {
        Self::beneath(host, net, PathBuf::from("/"))
    }

    /// The same, whose files lie beneath a directory.
    pub fn beneath(host: Arc<dyn Host>, net: Arc<dyn Net>, prefix: PathBuf) -> Self {
        let shelf = Shelf::new(&host, prefix);
        Self { host, net, shelf, version: OnceCell::new() }
    }

    async fn run(&self, doing: &str, timeout: Duration, words: &[&str]) -> Result<(Command, Output)> {
        let command = Command::new(words.iter().copied()).timeout(timeout);
        let output = self.host.run(&command).await.map_err(|error| Error { doing: doing.to_owned(), ..error })?;
        Ok((command, output))
    }

    /// The release of the running kernel: `13.2-RELEASE-p4` (freebsd-version(1), uname(1)).
    async fn version(&self) -> Result<&str> {
        let ask = async || {
            let doing = format!("ask {} for its release", self.host.name());
            let (command, output) = self.run(&doing, QUICK, &["uname", "-sr"]).await?;
            let text = output.checked(&*doing, &command)?.text();
            match text.trim().split_once(' ') {
                Some(("FreeBSD", release)) => Ok(release.to_owned()),
                _ => Err(Error::refused(doing, format!("it is no FreeBSD: uname -sr says {:?}", text.trim()))
                    .help("hypervisor = \"jail\" is for a FreeBSD host of jails")),
            }
        };
        self.version.get_or_try_init(ask).await.map(String::as_str)
    }

    async fn texts(&self) -> Result<Texts> {
        self.shelf.read(self.version().await?).await
    }

    /// Jails that are there, whoever started them.
    async fn running(&self, doing: &str) -> Result<Vec<Running>> {
        let (command, output) = self.run(doing, QUICK, &["jls", "-n"]).await?;
        let text = output.checked(doing, &command)?.text();
        running::read(&text).map_err(|what| Error::new(doing, Cause::Malformed(what)))
    }

    async fn is_running(&self, doing: &str, guest: &str) -> Result<bool> {
        Ok(self.running(doing).await?.iter().any(|jail| jail.name == guest))
    }

    /// A jail's configuration; refused if there is none.
    async fn defined(&self, doing: &str, guest: &str) -> Result<(Texts, Config)> {
        let texts = self.texts().await?;
        match texts.config_of(guest).map_err(|error| wrong(doing, error))? {
            Some(config) => Ok((texts, config)),
            None => {
                Err(Error::not_found(doing, format!("{} has no jail of that name in its jail.conf", self.host.name())))
            }
        }
    }
}

impl Jails {
    /// Stores a definition by variables of rc.conf.
    async fn define_variables(&self, doing: &str, definition: &Definition) -> Result<Change> {
        let bad = |error| wrong(doing, error);
        let (name, texts) = (&definition.name, self.texts().await?);
        let there = texts.definition_of(name).map_err(bad)?;
        if there.as_ref() == Some(&definition.text) {
            return Ok(Change::Unchanged);
        }
        if there.is_some_and(|there| !variables::is_variables(&there)) {
            return Err(Error::refused(doing, "a jail.conf defines a jail of that name"));
        }
        if let Some(config) = texts.config_of(name).map_err(bad)? {
            may_change(doing, &config, name)?;
        }
        let (path, rc) = texts.rc_of(name).map_err(bad)?;
        let edited = rc.with_jail(name, &definition.text).map_err(bad)?;
        let before = texts.files.get(path).map(String::as_str);
        let new = !texts.rc.is_old_style(name).map_err(bad)?;
        self.shelf.write(path, before, edited.text()).await?;
        match self.definition(name).await? {
            Some(stored) if stored.text == definition.text => Ok(if new { Change::Created } else { Change::Changed }),
            _ => Err(Error::unknown(doing, format!("{path} has it, and rc.d/jail would not find it there"))),
        }
    }
}

/// Refuses to touch a jail that is left alone.
fn may_change(doing: &str, config: &Config, guest: &str) -> Result<()> {
    let help = "upgrade it by hand, or give it an address of the host's instead of vnet";
    guests::left_alone(config, guest).map_or(Ok(()), |why| Err(Error::refused(doing, why).help(help)))
}

/// The file that a new definition goes into.
fn file_for(texts: &Texts, name: &str, role: Option<Role>) -> String {
    let directory = texts.files.keys().any(|path| path.starts_with("/etc/jail.conf.d/"));
    match role {
        Some(Role::Clone) => format!("/etc/jail.{name}.conf"),
        _ if directory => format!("/etc/jail.conf.d/{name}.conf"),
        _ => match texts.rc.value("jail_conf").text() {
            Some(path) => path.to_owned(),
            None => "/etc/jail.conf".to_owned(),
        },
    }
}

/// Whether a file is one jail's alone.
fn is_own(file: &str, name: &str) -> bool {
    file == format!("/etc/jail.{name}.conf") || file == format!("/etc/jail.conf.d/{name}.conf")
}

/// The configuration of which a new file would be the root, with that file.
fn with_file(texts: &Texts, file: &str) -> std::result::Result<Config, super::Wrong> {
    let mut files = texts.files.clone();
    files.entry(file.to_owned()).or_default();
    Config::read(file, &files, texts.dialect)
}

fn values(of: impl IntoIterator<Item = String>) -> Setting {
    Setting::Values(of.into_iter().collect())
}

#[async_trait]
impl Hypervisor for Jails {
    fn host(&self) -> Arc<dyn Host> {
        Arc::clone(&self.host)
    }

    fn net(&self) -> Arc<dyn Net> {
        Arc::clone(&self.net)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { shares_host_kernel: true, reboots_from_memory: false, can_pause: false }
    }

    fn platform(&self) -> &'static str {
        "jail"
    }

    async fn list(&self) -> Result<Vec<GuestFacts>> {
        let doing = format!("list the jails of {}", self.host.name());
        let (texts, running) = (self.texts().await?, self.running(&doing).await?);
        guests::all(&texts, &running).map_err(|error| wrong(doing, error))
    }

    async fn facts(&self, guest: &str) -> Result<Option<GuestFacts>> {
        let doing = format!("look at {guest}");
        let texts = self.texts().await?;
        let Some(config) = texts.config_of(guest).map_err(|error| wrong(&*doing, error))? else { return Ok(None) };
        let running = self.running(&doing).await?;
        if let Some(managed) = guests::kept_elsewhere(&texts, &config, guest) {
            return Err(Error::refused(doing, managed.why).help(managed.help));
        }
        guests::one(&texts, &config, guest, &running).map(Some).map_err(|error| wrong(doing, error))
    }

    async fn definition(&self, guest: &str) -> Result<Option<Definition>> {
        let doing = format!("read the definition of {guest}");
        let texts = self.texts().await?;
        let text = texts.definition_of(guest).map_err(|error| wrong(doing, error))?;
        Ok(text.map(|text| Definition { name: guest.to_owned(), text }))
    }

    async fn compose(&self, guest: &NewGuest) -> Result<Definition> {
        let doing = format!("write a definition of {}", guest.name);
        let texts = self.texts().await?;
        if texts.is_old_way().map_err(|error| wrong(&*doing, error))? {
            return variables::compose(&texts.rc, guest).map_err(|error| wrong(doing, error));
        }
        let file = file_for(&texts, &guest.name, guest.mark.as_ref().map(|mark| mark.role));
        let config = with_file(&texts, &file).map_err(|error| wrong(&*doing, error))?;
        let mut wanted = vec![
            ("path", values([guest.root.to_string_lossy().into_owned()])),
            ("host.hostname", values([guest.hostname.clone()])),
        ];
        for (name, of_family) in [("ip4.addr", true), ("ip6.addr", false)] {
            let addresses = guest.addresses.iter().filter(|address| address.ip.is_ipv4() == of_family);
            let written: Vec<String> = addresses
                .map(|address| {
                    let on = address.interface.as_ref().map(|name| format!("{name}|")).unwrap_or_default();
                    format!("{on}{}/{}", address.ip, address.prefix)
                })
                .collect();
            if !written.is_empty() {
                wanted.push((name, Setting::Values(written)));
            }
        }
        let usual = vec![
            ("exec.start", values(["/bin/sh /etc/rc".to_owned()])),
            ("exec.stop", values(["/bin/sh /etc/rc.shutdown jail".to_owned()])),
            ("exec.clean", Setting::Flag(true)),
            ("mount.devfs", Setting::Flag(true)),
        ];
        let jail = NewJail { name: &guest.name, mark: guest.mark.as_ref(), wanted, usual };
        let text = config.block_for(&jail).map_err(|error| wrong(doing, error))?;
        Ok(Definition { name: guest.name.clone(), text: text.trim_end_matches('\n').to_owned() })
    }

    /// On the block alone: what the host's wildcards say of it is not known here, and what is asked for is set in the block.
    fn derive(&self, original: &Definition, edit: &DefinitionEdit) -> Result<Definition> {
        let doing = format!("edit the definition of {}", original.name);
        let derived = if variables::is_variables(&original.text) { variables::derived } else { derived };
        derived(original, edit).map_err(|error| wrong(doing, error))
    }

    async fn copy_of(&self, guest: &str, edit: &DefinitionEdit) -> Result<Definition> {
        self.copied(guest, edit).await
    }

    async fn redefined(&self, stored: &Definition, edit: &DefinitionEdit) -> Result<Definition> {
        let doing = format!("edit the definition of {}", stored.name);
        let bad = |error| wrong(&*doing, error);
        let texts = self.texts().await?;
        let there = texts.config_of(&stored.name).map_err(bad)?;
        match there.filter(|config| config.block(&stored.name).is_ok_and(|block| block == stored.text)) {
            Some(config) if !variables::is_variables(&stored.text) => edited(config, &stored.name, edit).map_err(bad),
            _ => self.derive(stored, edit),
        }
    }

    async fn define(&self, definition: &Definition) -> Result<Change> {
        let name = &definition.name;
        let doing = format!("define {name}");
        let bad = |error| wrong(&*doing, error);
        if variables::is_variables(&definition.text) {
            return self.define_variables(&doing, definition).await;
        }
        let named = name_of(&definition.text).map_err(bad)?;
        if named != *name {
            return Err(Error::new(doing, Cause::Malformed(format!("its definition is that of {named:?}"))));
        }
        let texts = self.texts().await?;
        if texts.rc.is_old_style(name).map_err(bad)? {
            return Err(Error::refused(doing, "rc.conf defines a jail of that name, by jail_ variables"));
        }
        if let Some(config) = texts.config_of(name).map_err(bad)? {
            if config.block(name).map_err(bad)? == definition.text {
                return Ok(Change::Unchanged);
            }
            may_change(&doing, &config, name)?;
            let edited = config.with_block(name, &definition.text).map_err(bad)?;
            let before = texts.files.get(&edited.file).map(String::as_str);
            return self.shelf.write(&edited.file, before, &edited.text).await;
        }
        let role = mark_of(&definition.text).map_err(bad)?;
        let file = file_for(&texts, name, role);
        let config = with_file(&texts, &file).map_err(bad)?;
        let edited = config.add(&file, &definition.text).map_err(bad)?;
        let before = texts.files.get(&file).map(String::as_str);
        let text = match before {
            None if !is_own(&file, name) => format!("{OURS}\n{}", edited.text),
            _ => edited.text,
        };
        self.shelf.write(&file, before, &text).await?;
        // rc.d/jail looks into another file first, perhaps.
        match self.definition(name).await? {
            Some(stored) if stored.text == definition.text => Ok(Change::Created),
            _ => Err(Error::unknown(doing, format!("{file} has it, and rc.d/jail would not find it there"))),
        }
    }

    async fn undefine(&self, guest: &str) -> Result<Change> {
        let doing = format!("undefine {guest}");
        let bad = |error| wrong(&*doing, error);
        let texts = self.texts().await?;
        let Some(config) = texts.config_of(guest).map_err(bad)? else { return Ok(Change::Unchanged) };
        may_change(&doing, &config, guest)?;
        if self.is_running(&doing, guest).await? {
            return Err(Error::refused(doing, "it runs").help(format!("service jail onestop {guest}")));
        }
        // Before its definition: a jail of the list that is not defined would be an error at each start of the host.
        let (path, rc) = texts.rc_with("jail_list").map_err(bad)?;
        let without = rc.remove_word("jail_list", guest).map_err(bad)?;
        if without.text() != rc.text() {
            self.shelf.write(path, Some(rc.text()), without.text()).await?;
        }
        if texts.rc.is_old_style(guest).map_err(bad)? {
            let texts = self.texts().await?;
            let (path, rc) = texts.rc_of(guest).map_err(bad)?;
            let without = rc.without_jail(guest).map_err(bad)?;
            return self.shelf.write(path, Some(rc.text()), without.text()).await.map(|_| Change::Removed);
        }
        let edited = config.remove(guest).map_err(bad)?;
        let before = texts.files.get(&edited.file).map_or("", String::as_str);
        let empty = edited.text.trim();
        if empty == OURS || (is_own(&edited.file, guest) && empty.is_empty()) {
            return self.shelf.remove(&edited.file, before).await;
        }
        self.shelf.write(&edited.file, Some(before), &edited.text).await.map(|_| Change::Removed)
    }

    async fn power(&self, guest: &str) -> Result<Power> {
        let running = self.is_running(&format!("see whether {guest} runs"), guest).await?;
        Ok(if running { Power::On } else { Power::Off })
    }

    async fn start(&self, guest: &str) -> Result<Change> {
        let doing = format!("start {guest}");
        self.defined(&doing, guest).await?;
        if self.is_running(&doing, guest).await? {
            return Ok(Change::Unchanged);
        }
        let (_, output) = self.run(&doing, SLOW, &["service", "jail", "onestart", guest]).await?;
        if self.is_running(&doing, guest).await? {
            return Ok(Change::Changed);
        }
        let said = [output.stdout, output.stderr].concat();
        Err(Error::new(doing, Cause::Platform(printable_tail(&said, 4))))
    }

    async fn shutdown(&self, guest: &str, patience: Duration) -> Result<Change> {
        let doing = format!("shut {guest} down");
        if !self.is_running(&doing, guest).await? {
            return Ok(Change::Unchanged);
        }
        let until = Instant::now() + patience;
        let asked = self.run(&doing, patience, &["service", "jail", "onestop", guest]).await;
        let said = match asked {
            Ok((_, output)) => printable_tail(&[output.stdout, output.stderr].concat(), 4),
            Err(error) if error.is_unknown() => error.cause.to_string(),
            Err(error) => return Err(error),
        };
        loop {
            if !self.is_running(&doing, guest).await? {
                return Ok(Change::Changed);
            }
            if Instant::now() >= until {
                return Err(Error::unknown(doing, format!("it was asked and is still there: {said}")));
            }
            sleep(POLL).await;
        }
    }

    /// `jail -R` runs no command of the jail's and leaves its mounts, which go here.
    async fn destroy(&self, guest: &str) -> Result<Change> {
        let doing = format!("end {guest}");
        let Some(jail) = self.running(&doing).await?.into_iter().find(|jail| jail.name == guest) else {
            return Ok(Change::Unchanged);
        };
        let (command, output) = self.run(&doing, QUICK, &["jail", "-R", &jail.jid.to_string()]).await?;
        if self.is_running(&doing, guest).await? {
            output.checked(&*doing, &command)?;
            return Err(Error::unknown(doing, "it is still there"));
        }
        let (command, output) = self.run(&doing, QUICK, &["sh", "-c", UNMOUNT, "sh", &jail.path]).await?;
        output.checked(format!("{doing}: unmount what was mounted in it"), &command)?;
        Ok(Change::Changed)
    }

    async fn pause(&self, guest: &str) -> Result<Change> {
        Err(Error::new(format!("pause {guest}"), Cause::Unsupported("jails cannot be paused".into())))
    }

    async fn resume(&self, guest: &str) -> Result<Change> {
        let doing = format!("resume {guest}");
        match self.is_running(&doing, guest).await? {
            true => Ok(Change::Unchanged),
            false => Err(Error::refused(doing, "it is off")),
        }
    }

    async fn resume_command(&self, _guest: &str) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    async fn autostart(&self, guest: &str) -> Result<bool> {
        let doing = format!("see whether {guest} starts with its host");
        let bad = |error| wrong(&*doing, error);
        let texts = self.texts().await?;
        match texts.config_of(guest).map_err(bad)? {
            Some(config) => guests::autostart(&texts, &config, guest).map_err(bad),
            None => Ok(false),
        }
    }

    async fn set_autostart(&self, guest: &str, on: bool) -> Result<Change> {
        let doing = format!("switch autostart of {guest} {}", if on { "on" } else { "off" });
        let bad = |error| wrong(&*doing, error);
        let (texts, config) = self.defined(&doing, guest).await?;
        if guests::autostart(&texts, &config, guest).map_err(bad)? == on {
            return Ok(Change::Unchanged);
        }
        may_change(&doing, &config, guest)?;
        let listed = texts.rc.jail_list().map_err(bad)?;
        if on && !texts.rc.jail_enable().map_err(bad)? {
            return Err(Error::refused(doing, "this host starts no jails: jail_enable is not YES")
                .help("sysrc jail_enable=YES, if they shall start with it"));
        }
        // Where there is no jail.conf an empty list starts no other jail than the one that comes into it.
        let old = texts.rc.is_old_style(guest).map_err(bad)?;
        let may_begin = old && texts.is_old_way().map_err(bad)? && texts.rc.value("jail_list") != Value::Unset;
        if listed.is_none() && !may_begin {
            let help = "name the jails that start with the host: sysrc jail_list=\"…\"";
            let why = match old {
                true => "jail_list is not set: no jail of rc.conf starts",
                false => "jail_list is not set: all jails of /etc/jail.conf start",
            };
            return Err(Error::refused(doing, why).help(help));
        }
        let (path, rc) = texts.rc_with("jail_list").map_err(bad)?;
        let edited = match on {
            true => rc.add_word("jail_list", guest),
            false => rc.remove_word("jail_list", guest),
        };
        let edited = edited.map_err(bad)?;
        self.shelf.write(path, Some(rc.text()), edited.text()).await.map(|_| Change::Changed)
    }

    async fn volume(&self, disk: &Disk) -> Result<VolumeRef> {
        match &disk.source {
            DiskSource::Directory(path) => Ok(VolumeRef { kind: VolumeKind::Directory, path: path.clone() }),
            other => Err(Error::new(
                format!("recognise the volume of {}", disk.name),
                Cause::Unsupported(format!("a jail's root is a directory, not {other:?}")),
            )),
        }
    }

    fn storage(&self, kind: VolumeKind) -> Result<Arc<dyn Storage>> {
        let drivers: [Arc<dyn Storage>; 2] =
            [Arc::new(Trees::new(&self.host)), Arc::new(storage::ZfsStorage::new(&self.host))];
        storage::driver(&drivers, kind, &*self.host)
    }

    fn guest(&self, link: &GuestLink) -> Result<Arc<dyn Host>> {
        Ok(crate::net::inside(link, self.net.clone(), SshHost::for_guest))
    }

    async fn sight(&self, _path: &Path) -> Result<Option<crate::sight::Sight>> {
        Ok(None)
    }
}

/// The role that a definition's run mark gives.
fn mark_of(block: &str) -> std::result::Result<Option<Role>, super::Wrong> {
    let files = Files::from([(ALONE.to_owned(), block.to_owned())]);
    let config = Config::read(ALONE, &files, Dialect::Including)?;
    let mark = config.jails().first().map(|jail| config.mark(jail)).transpose()?.flatten();
    Ok(mark.map(|mark| mark.role))
}

fn derived(original: &Definition, edit: &DefinitionEdit) -> std::result::Result<Definition, super::Wrong> {
    let files = Files::from([(ALONE.to_owned(), original.text.clone())]);
    edited(Config::read(ALONE, &files, Dialect::Including)?, &original.name, edit)
}

/// The block of a jail of a configuration, edited.
fn edited(mut config: Config, guest: &str, edit: &DefinitionEdit) -> std::result::Result<Definition, super::Wrong> {
    let mut name = guest.to_owned();
    if let Some(new) = edit.name.as_ref().filter(|new| **new != name) {
        config = config.rename(&name, new)?.config;
        name.clone_from(new);
    }
    let mut changes = Vec::new();
    if let Some(mark) = &edit.mark {
        changes.push(ConfChange::Mark(mark.clone()));
    }
    for edit in edit.disks.values() {
        if let DiskEdit::Source(volume) = edit {
            changes.push(ConfChange::Set("path".to_owned(), values([volume.path.to_string_lossy().into_owned()])));
        }
    }
    for (family, new) in addressed(&config.effective(&name)?, edit)? {
        changes.push(match new.is_empty() {
            true => ConfChange::Remove(family.to_owned()),
            false => ConfChange::Set(family.to_owned(), Setting::Values(new)),
        });
    }
    let config = config.edit(&name, &changes)?.config;
    Ok(Definition { text: config.block(&name)?.to_owned(), name })
}

/// What becomes of a jail's addresses, by their parameter; those without a change left out.
fn addressed(
    effective: &Effective,
    edit: &DefinitionEdit,
) -> std::result::Result<Vec<(&'static str, Vec<String>)>, super::Wrong> {
    let bad = |what| super::Wrong::new(super::Place::whole(ALONE), what);
    let mut changed = Vec::new();
    for family in ["ip4.addr", "ip6.addr"] {
        let old: Vec<String> = effective.list(family).into_iter().map(str::to_owned).collect();
        let mut new = Vec::new();
        for value in &old {
            for address in address::read(value).map_err(bad)? {
                match edit.addresses.get(&address.ip) {
                    None => new.push(address.to_string()),
                    Some(None) => {}
                    Some(Some(ip)) => new.push(address.with_ip(*ip).map_err(bad)?.to_string()),
                }
            }
        }
        if new != old && edit.addresses.iter().any(|(from, _)| from.is_ipv4() == (family == "ip4.addr")) {
            changed.push((family, new));
        }
    }
    Ok(changed)
}
