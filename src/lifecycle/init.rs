//! `init`: an inventory to start from and the state directory, or a simulated world in which the whole lifecycle can be
//! tried without root.
//!
//! Never overwrites: what is there stays and is told as kept. Doing it twice is harmless.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hypervisors::sim::{FleetGuest, PER_HOST, Sim, fleet_of, seed, seed_fleet};
use serde::Serialize;

use super::error::{Failure, exit};
use crate::inventory::STARTER;

/// The inventory of the simulated world that `init --sim` makes.
const SIM: &str = r#"# The inventory of a simulated world: a mail server to practise on. Nothing here is real.
version = 1

[hosts.here]
hypervisor = "sim"

[guests.mercure]
host = "here"
disks = { "/srv/mail" = "detach" }
upgrade = { recipe = "debian", to = "trixie" }
clone = { ip = [".16"] }
carry = [{ kind = "rsync", path = "/home/" }]
checks = [
  { kind = "imap" },
  { kind = "pop3" },
  { kind = "http" },
  { kind = "smtp", rcpt = "probe@mercure.example.org" },
]
"#;

/// What `init` made, and what was there already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Initialised {
    /// Files and directories made.
    pub made: Vec<PathBuf>,
    /// Those that were there and were left as they are.
    pub kept: Vec<PathBuf>,
    /// What to do next, one line each.
    pub next: Vec<String>,
}

impl Initialised {
    fn note(&mut self, path: &Path, made: bool) {
        if made { &mut self.made } else { &mut self.kept }.push(path.to_owned());
    }
}

/// Makes what is missing. `host`: a host of this machine to declare in a new inventory (libvirt).
///
/// # Errors
/// Exit code 2 for an impossible host name, 11 for a directory that cannot be written.
pub fn init(inventory: &Path, state: &Path, host: Option<&str>, sim: bool) -> Result<Initialised, Failure> {
    let text = match (sim, host) {
        (true, _) => SIM.to_owned(),
        (false, None) => STARTER.to_owned(),
        (false, Some(host)) => with_host(host)?,
    };
    let mut done = Initialised { made: Vec::new(), kept: Vec::new(), next: Vec::new() };
    done.note(state, directory(state, 0o700)?);
    if sim {
        let world = state.join("sim");
        let new = Sim::open(&world).is_err();
        if new {
            seed(&world)?;
        }
        done.note(&world, new);
    }
    if let Some(parent) = inventory.parent() {
        directory(parent, 0o755)?;
    }
    let new = write_new(inventory, &text)?;
    done.note(inventory, new);
    let file = inventory.display();
    done.next = match (sim, new) {
        (true, true) => vec![
            "upgradectl plan clone mercure".to_owned(),
            "upgradectl clone mercure, then upgrade, verify, promote, and commit or rollback".to_owned(),
        ],
        (true, false) => vec![format!(
            "{file} was there: add [hosts.here] with hypervisor = \"sim\" and [guests.mercure] to it, or give another \
             file (-i FILE) and init again"
        )],
        (false, true) => vec![
            format!("declare hosts and guests in {file}: every key stands there as a comment"),
            "upgradectl doctor".to_owned(),
        ],
        (false, false) => vec!["upgradectl doctor".to_owned()],
    };
    Ok(done)
}

/// Makes a simulated fleet of so many guests, on hosts of 20 each, its inventory, and a batch file beside that.
///
/// # Errors
/// Exit code 11 for a directory that cannot be written.
pub fn fleet(inventory: &Path, state: &Path, guests: usize) -> Result<Initialised, Failure> {
    let mut done = Initialised { made: Vec::new(), kept: Vec::new(), next: Vec::new() };
    done.note(state, directory(state, 0o700)?);
    let mut text = "# A simulated fleet to practise batches on. Nothing here is real.\nversion = 1\n".to_owned();
    let mut members = String::new();
    for host in 0..guests.div_ceil(PER_HOST) {
        let name = format!("node{}", host + 1);
        let world = state.join("fleet").join(&name);
        let new = Sim::open(&world).is_err();
        if new {
            directory(&world, 0o700)?;
            seed_fleet(&world, host, guests)?;
        }
        done.note(&world, new);
        text.push_str(&format!("\n[hosts.{name}]\nhypervisor = \"sim\"\nstate = {:?}\n", world.display().to_string()));
        for FleetGuest { name: guest, address } in fleet_of(host, guests) {
            let clone = usize::from(address.octets()[3]) + PER_HOST;
            members.push_str(&format!(
                "\n[guests.{guest}]\nhost = {name:?}\ntags = [\"fleet\"]\nupgrade = {{ recipe = \"debian\", to = \"trixie\" }}\n\
                 clone = {{ ip = [\".{clone}\"] }}\nchecks = [{{ kind = \"http\" }}]\n"
            ));
        }
    }
    text.push_str(&members);
    if let Some(parent) = inventory.parent() {
        directory(parent, 0o755)?;
    }
    let new = write_new(inventory, &text)?;
    done.note(inventory, new);
    let batch = inventory.with_file_name("fleet.toml");
    let new = write_new(&batch, FLEET)?;
    done.note(&batch, new);
    let file = batch.display();
    done.next = vec![format!("upgradectl batch plan {file}"), format!("upgradectl batch run {file}")];
    Ok(done)
}

/// The batch file of a simulated fleet.
const FLEET: &str = r#"# Every guest of the fleet is cloned, upgraded and verified: the first alone, then five, then the others.
version = 1

[batch]
name = "fleet"
verbs = ["clone", "upgrade", "verify"]
parallel = 8
per_host = 4
waves = [1, 5, "rest"]
between_waves = "all-well"
stop_at_failed = "20%"

[[batch.items]]
tag = "fleet"
"#;

fn with_host(name: &str) -> Result<String, Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(fits) {
        return Err(Failure::new(exit::USAGE, "name a host")
            .cause(format!("{name:?} is not a host name"))
            .help("letters, digits, hyphens and dots, such as: upgradectl init here"));
    }
    Ok(format!("{STARTER}\n[hosts.\"{name}\"]\nhypervisor = \"libvirt\"\nuri = \"lxc:///system\"\n"))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(exit::JOURNAL, format!("make {}", path.display()))
        .cause(error.to_string())
        .help("run as root, or give other places: -i FILE --state DIR")
}

/// Makes a directory with its parents; `false` if it was there.
fn directory(path: &Path, mode: u32) -> Result<bool, Failure> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(false);
    }
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|error| unwritable(path, &error))?;
    Ok(true)
}

/// Writes a file that is not there yet; `false` if it was there.
fn write_new(path: &Path, text: &str) -> Result<bool, Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(unwritable(path, &error)),
        Ok(mut file) => {
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| unwritable(path, &error))?;
            Ok(true)
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::inventory::{DiskRule, HypervisorKind, load};

    #[test]
    fn a_starter_is_written_once_and_loads() {
        let dir = tempfile::tempdir().unwrap();
        let (inventory, state) = (dir.path().join("etc/inventory.toml"), dir.path().join("state"));
        let first = init(&inventory, &state, None, false).unwrap();
        assert_eq!(first.made, [state.clone(), inventory.clone()]);
        assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(load(&inventory).unwrap().hosts.is_empty());
        std::fs::write(&inventory, "version = 1\n# mine\n").unwrap();
        let again = init(&inventory, &state, Some("here"), false).unwrap();
        assert_eq!((again.made, again.kept), (Vec::new(), vec![state, inventory.clone()]));
        assert!(std::fs::read_to_string(&inventory).unwrap().contains("mine"));
    }

    #[test]
    fn a_host_is_declared_if_it_can_be_one() {
        let dir = tempfile::tempdir().unwrap();
        let inventory = dir.path().join("inventory.toml");
        init(&inventory, &dir.path().join("state"), Some("node-1"), false).unwrap();
        assert_eq!(load(&inventory).unwrap().hosts["node-1"].hypervisor, HypervisorKind::Libvirt);
        let refused = init(&dir.path().join("other.toml"), &dir.path().join("state"), Some("a\"]\nx"), false);
        assert_eq!(refused.unwrap_err().0.code, exit::USAGE);
    }

    #[test]
    fn a_simulated_world_comes_with_its_inventory() {
        let dir = tempfile::tempdir().unwrap();
        let (inventory, state) = (dir.path().join("inventory.toml"), dir.path().join("state"));
        init(&inventory, &state, None, true).unwrap();
        let loaded = load(&inventory).unwrap();
        assert_eq!(loaded.guests["mercure"].disks["/srv/mail"], DiskRule::Detach);
        assert_eq!(loaded.guests["mercure"].checks.len(), 4);
        let mail = state.join("sim/volumes/mercure/etc/postfix/main.cf");
        std::fs::write(&mail, "changed\n").unwrap();
        let again = init(&inventory, &state, None, true).unwrap();
        assert!(again.made.is_empty(), "the world in use stays: {again:?}");
        assert_eq!(std::fs::read_to_string(&mail).unwrap(), "changed\n");
    }

    #[test]
    fn what_cannot_be_written_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let error = init(&dir.path().join("i.toml"), &dir.path().join("file/state"), None, false).unwrap_err().0;
        assert_eq!(error.code, exit::JOURNAL);
        assert!(error.message.contains("file/state") && error.help.is_some(), "{error:?}");
    }
}
