//! The native lab: libvirt LXC guests on a btrfs file system in a loop file, behind a bridge with NAT.
//!
//! ```text
//!  the machine ──NAT── ucl-br0 10.0.5.1/24 ──┬── mercure 10.0.5.12   pool/guests/mercure, pool/guests/mercure-mail
//!                                            └── its clones          pool/guests/mercure--RUN …
//!  a private libvirtd (own mount namespace)      lxc:///system?socket=LAB/run/libvirt-sock
//! ```
//!
//! Parts, in the order in which [`Lab::up`] builds them: [`prerequisites`], [`storage`], [`register`], [`network`], [`daemon`],
//! [`image`] (once, cached outside the lab), [`guest`], [`inventory`]; [`dhcp`] only where a test asks for it. [`cleanup`] takes all of it down again, whatever
//! part of it is there, and nothing else.
//!
//! Invariants: labs are told apart by their number ([`Lab::numbered`]); the lab owns one directory, one bridge, one /24,
//! one loop device and the iptables rules with its comment; what it shares with other labs is in the [`register`], and it
//! touches nothing else of the machine. Nothing in a lab is worth keeping.

pub mod cleanup;
pub mod daemon;
pub mod dhcp;
pub mod guest;
pub mod image;
pub mod inventory;
pub mod jails;
pub mod known;
pub mod look;
pub mod network;
pub mod prerequisites;
pub mod redhat;
pub mod register;
pub mod storage;
pub mod worlds;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::command::run;
use guest::Guest;

/// Where labs live if `UPGRADECTL_LAB` does not say otherwise.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/upgradectl-lab";

/// How many labs a machine may have.
pub const LABS: u8 = 10;

/// A lab, up or down.
#[derive(Debug, Clone)]
pub struct Lab {
    number: u8,
    dir: PathBuf,
}

impl Lab {
    /// Lab `number` (0 to 9): directory `DIR/NUMBER`, bridge `ucl-brNUMBER`, network `10.0.(5+NUMBER).0/24`.
    ///
    /// # Errors
    /// The number is too large, or the directory's name too long for a socket in it (unix(7): 108 bytes).
    pub fn numbered(number: u8) -> Result<Lab> {
        Ok(Lab { number, dir: directory(number, "")? })
    }

    /// Its number.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its directory, or something in it.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.join(below)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// An address of its network: `address(12)` is 10.0.5.12 in lab 0.
    pub fn address(&self, host: u8) -> String {
        format!("10.0.{}.{host}", 5 + self.number)
    }

    /// Its bridge.
    pub fn bridge(&self) -> String {
        format!("ucl-br{}", self.number)
    }

    /// The mark on its iptables rules.
    pub fn comment(&self) -> String {
        format!("upgradectl-lab-{}", self.number)
    }

    /// How libvirt's clients reach its daemon.
    pub fn uri(&self) -> String {
        format!("lxc:///system?socket={}", self.path("run/libvirt-sock").display())
    }

    /// The key that its guests know.
    pub fn key(&self) -> PathBuf {
        self.path("key")
    }

    /// The inventory that `up` writes.
    pub fn inventory(&self) -> PathBuf {
        self.path("inventory.toml")
    }

    /// The product's state directory, when it is driven in this lab.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Builds the lab with these guests and starts them; what is left of an earlier lab of this number goes first.
    /// Returns when all of them answer by ssh and have settled.
    ///
    /// # Errors
    /// Whatever could not be built; the rest stays for a look until [`Lab::down`] or the next `up`.
    pub fn up(&self, guests: &[Guest]) -> Result<()> {
        let begun = Instant::now();
        prerequisites::check()?;
        self.down()?;
        let images =
            timed("images", || guests.iter().map(|guest| image::tar(guest.image)).collect::<Result<Vec<_>>>())?;
        timed("storage", || storage::up(self))?;
        timed("network", || register::Register::of_this_machine().join(self.number).and_then(|()| network::up(self)))?;
        timed("libvirtd", || daemon::up(self))?;
        timed("key", || guest::make_key(self))?;
        for (guest, image) in guests.iter().zip(images) {
            timed(&format!("placing {}", guest.name), || guest::place(self, guest, &image))?;
        }
        for guest in guests {
            guest::start(self, guest.name)?;
        }
        for guest in guests {
            let address = self.address(guest.host);
            timed(&format!("{} to ssh", guest.name), || guest::wait_for_ssh(self, &address, Duration::from_secs(90)))?;
            timed(&format!("{} settled", guest.name), || guest::wait_settled(self, &address, Duration::from_secs(90)))?;
        }
        inventory::write(self, guests)?;
        eprintln!("lab: {} up in {:.1} s", self.number, begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Adds a guest to a lab that is up, and waits until it has settled. The inventory is not changed.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn add(&self, guest: &Guest) -> Result<()> {
        guest::place(self, guest, &image::tar(guest.image)?)?;
        guest::start(self, guest.name)?;
        let address = self.address(guest.host);
        guest::wait_for_ssh(self, &address, Duration::from_secs(90))?;
        guest::wait_settled(self, &address, Duration::from_secs(90))
    }

    /// As [`Lab::up`], for a test: the lab goes when the value does, unless `UPGRADECTL_LAB_KEEP` is set.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn standing(self, guests: &[Guest]) -> Result<Standing> {
        let standing = Standing { lab: self };
        standing.lab.up(guests)?;
        Ok(standing)
    }

    /// Takes down all that is there of this lab.
    ///
    /// # Errors
    /// What could not be removed, all of it in one message; calling again goes on.
    pub fn down(&self) -> Result<()> {
        cleanup::down(self)
    }

    /// What of this lab is on the machine now, a line each; empty after [`Lab::down`].
    pub fn leftovers(&self) -> Vec<String> {
        cleanup::leftovers(self)
    }

    /// Runs virsh against the lab's daemon.
    ///
    /// # Errors
    /// As [`crate::command::Run::output`].
    pub fn virsh<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<String> {
        run("virsh").args(["--quiet", "--connect", &self.uri()]).args(args).output()
    }

    /// Runs a command in a guest by ssh as root. The words are quoted for the remote shell.
    ///
    /// # Errors
    /// As [`crate::command::Run::output`].
    pub fn ssh<'a>(&self, address: &str, command: impl IntoIterator<Item = &'a str>) -> Result<String> {
        guest::ssh(self, address, command).output()
    }
}

/// The directory of lab `number` of a kind.
///
/// # Errors
/// As [`Lab::numbered`].
pub fn directory(number: u8, kind: &str) -> Result<PathBuf> {
    let base = std::env::var_os("UPGRADECTL_LAB").map_or_else(|| DEFAULT_DIRECTORY.into(), PathBuf::from);
    ensure!(number < LABS, "lab numbers end at {}", LABS - 1);
    ensure!(base.is_absolute(), "UPGRADECTL_LAB must be an absolute path");
    ensure!(base.as_os_str().len() <= 60, "UPGRADECTL_LAB is too long: sockets in it would not work");
    Ok(base.join(format!("{kind}{number}")))
}

/// A lab that is up for as long as this value lives.
#[derive(Debug)]
pub struct Standing {
    lab: Lab,
}

impl std::ops::Deref for Standing {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        if std::env::var_os("UPGRADECTL_LAB_KEEP").is_some() {
            eprintln!("lab: {} is kept: {}", self.lab.number, self.lab.dir.display());
        } else if let Err(error) = self.lab.down() {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Says how long a part took.
///
/// # Errors
/// The part's.
pub fn timed<T>(what: &str, part: impl FnOnce() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let result = part();
    let how = if result.is_ok() { "" } else { " (failed)" };
    eprintln!("lab: {what:<20} {:>6.1} s{how}", begun.elapsed().as_secs_f64());
    result
}
