//! A server moves from its production address to its parking address, at once and for its next boots.
//!
//! The move is made by the server itself, detached: it waits for our word from the other side, and goes back if that does not come.
//! After our word nothing goes back by itself: a timer must never bring a second owner of an address.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::{Change, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{MODE, Server, run, text};
use crate::guest::{FileEdit, far};
use crate::steps::files::reversed;
use crate::steps::{Done, Probe, Step, StepError, World, sha256};

const RC_CONF: &str = "/etc/rc.conf";
/// How long the server waits for our word, in seconds.
const WORD_S: u64 = 60;
const LOOK_AGAIN: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });
/// How long a server without a parking address may take to be brought back at its console, in seconds.
const CONSOLE_S: u64 = 1800;

/// Arguments: directory, `there` or `back`, seconds to wait, interface, parking address, its netmask, gateway, then the old
/// addresses, three words each: family, address, prefix length. `-` for what there is not.
const MOVE: &str = include_str!("move.sh");

/// An address that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Old {
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
}

/// Where the server goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parking {
    /// The address.
    pub ip: Ipv4Addr,
    /// Its netmask.
    pub netmask: Ipv4Addr,
    /// The way out from there, if there is one.
    pub gateway: Option<Ipv4Addr>,
}

/// Moves a server to its parking address, or off the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Park {
    /// The server.
    pub server: Server,
    /// Its interface.
    pub interface: String,
    /// The addresses it gives up, the primary one first.
    pub old: Vec<Old>,
    /// Where it goes; `None`: off the network, and back at its console only.
    pub parking: Option<Parking>,
    /// SHA-256 of its rc.conf as the plan saw it; of a Linux server, nothing.
    pub rc_before: String,
    /// Its rc.conf from then on.
    pub rc_after: String,
    /// What becomes of a Linux server's network configuration; FreeBSD's is its rc.conf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edits: Option<Vec<FileEdit>>,
    /// The difference, for people.
    pub diff: String,
}

impl Park {
    fn moved(&self, direction: &str, wait_s: u64) -> Vec<String> {
        let dash = || "-".to_owned();
        let parking = self.parking.as_ref();
        let mut words = vec![
            self.server.directory(),
            direction.to_owned(),
            wait_s.to_string(),
            self.interface.clone(),
            parking.map_or_else(dash, |parking| parking.ip.to_string()),
            parking.map_or_else(dash, |parking| parking.netmask.to_string()),
            parking.and_then(|parking| parking.gateway).map_or_else(dash, |gateway| gateway.to_string()),
        ];
        for old in &self.old {
            let family = if old.ip.is_ipv4() { "inet" } else { "inet6" };
            words.extend([family.to_owned(), old.ip.to_string(), old.prefix.to_string()]);
        }
        words
    }

    /// Lets the server begin to move, by itself.
    async fn begin(&self, host: &dyn Host, direction: &str, wait_s: u64) -> Result<(), StepError> {
        let directory = self.server.directory();
        let doing = format!("move {}", self.server.source.name);
        run(host, &doing, &["mkdir", "-p", "-m", "0700", &directory]).await?;
        let script = format!("{directory}/move.sh");
        host.write_file(Path::new(&script), MOVE.as_bytes(), 0o700).await?;
        // A word that was given in an earlier attempt is not for this one.
        let detach = "rm -rf \"$1/decided\"; nohup sh \"$1/move.sh\" \"$@\" </dev/null >\"$1/log\" 2>&1 & exit 0";
        let mut argv = vec!["sh", "-c", detach, "sh"];
        let words = self.moved(direction, wait_s);
        argv.extend(words.iter().map(String::as_str));
        run(host, &doing, &argv).await.map(drop)
    }

    /// Waits for the server at its parking address.
    async fn arrives(&self, world: &World) -> Result<Option<Arc<dyn Host>>, StepError> {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(WORD_S) {
            if let Some(host) = self.server.parked(world).await? {
                return Ok(Some(host));
            }
            world.progress(format!("waiting for {} at its parking address", self.server.source.name), None);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(None)
    }

    /// Waits for the server at its production address.
    async fn comes_home(&self, world: &World, patience_s: u64, what: &str) -> Result<Option<Arc<dyn Host>>, StepError> {
        let begun = Instant::now();
        self.server.look_anew().await;
        while begun.elapsed() < Duration::from_secs(patience_s) {
            if let Some(host) = self.server.at_home(world).await? {
                return Ok(Some(host));
            }
            world.progress(what.to_owned(), None);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(None)
    }

    /// It comes up parked from now on.
    async fn configure(&self, host: &dyn Host) -> Result<Change, StepError> {
        match &self.edits {
            Some(edits) => Self::put(host, edits).await,
            None => self.rc(host, &self.rc_after).await,
        }
    }

    /// It comes up as before from now on. `before`: its rc.conf.
    async fn configure_back(&self, host: &dyn Host, before: &str) -> Result<Change, StepError> {
        match &self.edits {
            Some(edits) => Self::put(host, &reversed(edits)).await,
            None => self.rc(host, before).await,
        }
    }

    async fn put(host: &dyn Host, edits: &[FileEdit]) -> Result<Change, StepError> {
        let changed = far::put(host, Path::new("/"), edits).await?;
        Ok(if changed { Change::Changed } else { Change::Unchanged })
    }

    async fn rc(&self, host: &dyn Host, wanted: &str) -> Result<Change, StepError> {
        let mode = run(host, "look at rc.conf", &["sh", "-c", MODE, "sh", RC_CONF]).await?;
        let mode = u32::from_str_radix(mode.trim(), 8).unwrap_or(0o644);
        Ok(host.write_file(Path::new(RC_CONF), wanted.as_bytes(), mode).await?)
    }
}

#[async_trait]
impl Step for Park {
    fn title(&self) -> String {
        let name = &self.server.source.name;
        match &self.parking {
            Some(parking) => format!("move {name} to its parking address {}", parking.ip),
            None => format!("take {name} off the network"),
        }
    }
    fn undo_title(&self) -> String {
        "move it back".into()
    }
    fn taken_back(&self) -> String {
        format!("move {} back to {}", self.server.source.name, self.server.source.address)
    }
    fn commands(&self, _manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        let words = |line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        if self.edits.is_some() {
            let old = self
                .old
                .iter()
                .map(|old| words(format!("ip address del {}/{} dev {}", old.ip, old.prefix, self.interface)));
            let new = self.parking.iter().map(|parking| {
                words(format!("ip address add {}/{} dev {}", parking.ip, parking.netmask, self.interface))
            });
            return old.chain(new).collect();
        }
        let old = self.old.iter().map(|old| {
            let family = if old.ip.is_ipv4() { "inet" } else { "inet6" };
            words(format!("ifconfig {} {family} {} -alias", self.interface, old.ip))
        });
        let new = self.parking.iter().map(|parking| {
            words(format!("ifconfig {} inet {} netmask {} alias", self.interface, parking.ip, parking.netmask))
        });
        old.chain(new).collect()
    }
    fn diff(&self) -> Option<String> {
        Some(self.diff.clone())
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = match self.server.found(world).await? {
            Some((_, true)) => return Ok(Probe::Absent),
            Some((host, false)) => host,
            // Nobody is there who could be asked.
            None if self.parking.is_none() => return Ok(Probe::Present),
            None => {
                let why = format!("{} answers at neither of its addresses", self.server.source.name);
                return Ok(Probe::Unknown(why));
            }
        };
        let decided = run(
            &*host,
            "look for our word",
            &[
                "sh",
                "-c",
                "test -d \"$1/decided\" && test ! -e \"$1/decided/back\" && echo yes; exit 0",
                "sh",
                &self.server.directory(),
            ],
        )
        .await?;
        let configured = match &self.edits {
            Some(edits) => far::left(&*host, Path::new("/"), edits).await?.is_empty(),
            None => text(&*host, RC_CONF).await?.is_some_and(|now| now == self.rc_after),
        };
        let whole = decided.trim() == "yes" && configured;
        Ok(if whole { Probe::Present } else { Probe::Partial })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let host = self.server.there(world).await?;
        if let Some(edits) = &self.edits {
            if far::left(&*host, Path::new("/"), edits).await?.len() != edits.len() {
                let name = &self.server.source.name;
                return Err(StepError::Changed(format!(
                    "the network of {name} is configured otherwise since the plan was made"
                )));
            }
            return Ok(json!({ "files": edits.len() }));
        }
        let now = text(&*host, RC_CONF).await?.unwrap_or_default();
        if sha256(now.as_bytes()) != self.rc_before {
            return Err(StepError::Changed(format!(
                "{RC_CONF} of {} changed since the plan was made",
                self.server.source.name
            )));
        }
        Ok(json!({ "rc_conf": world.memory.keep(now.as_bytes())? }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let name = &self.server.source.name;
        let home = self.server.at_home(world).await?;
        if self.parking.is_none() {
            if let Some(host) = home {
                self.configure(&*host).await?;
                self.begin(&*host, "there", 0).await?;
            }
            let begun = Instant::now();
            while self.server.at_home(world).await?.is_some() {
                if begun.elapsed() > Duration::from_secs(WORD_S) {
                    return Err(StepError::failed(
                        format!("{name} did not leave the network"),
                        "look at it on its console",
                    ));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            return Ok(Change::Changed.into());
        }
        if let Some(host) = home {
            self.begin(&*host, "there", WORD_S).await?;
        }
        let Some(parked) = self.arrives(world).await? else {
            let back =
                self.comes_home(world, 2 * WORD_S, &format!("waiting for {name} to come back by itself")).await?;
            let parking = self.parking.map(|parking| parking.ip.to_string()).unwrap_or_default();
            return Err(match back {
                Some(_) => StepError::failed(
                    format!("{name} was not reached at {parking}, and took its own address back"),
                    "see that the parking address can be reached from here, or choose another one in the inventory",
                ),
                None => StepError::Unknown(format!(
                    "{name} answers neither at {parking} nor at {}",
                    self.server.source.address
                )),
            });
        };
        // Whoever makes the directory first decides: we, now or in an earlier attempt, or the server that has waited long enough.
        let decide = "mkdir \"$1/decided\" 2>/dev/null; test ! -e \"$1/decided/back\"";
        let command =
            Command::new(["sh", "-c", decide, "sh", &self.server.directory()]).timeout(Duration::from_secs(30));
        if parked.run(&command).await?.status != 0 {
            self.comes_home(world, 2 * WORD_S, &format!("waiting for {name} to come back by itself")).await?;
            let why = format!("{name} waited too long for our word, and took its own address back");
            return Err(StepError::failed(why, "type the verb again"));
        }
        self.configure(&*parked).await?;
        self.server.look_anew().await;
        Ok(Change::Changed.into())
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let name = &self.server.source.name;
        let before = match found["rc_conf"].as_str() {
            Some(sha) => world.recall_text(sha)?,
            None if !found["files"].is_null() => String::new(),
            None => return Ok(Change::Unchanged.into()),
        };
        let mut change = Change::Unchanged;
        let home = match self.server.found(world).await? {
            Some((home, true)) => Some(home),
            elsewhere => {
                change = Change::Changed;
                let what = match elsewhere {
                    Some((parked, _)) => {
                        self.configure_back(&*parked, &before).await?;
                        self.begin(&*parked, "back", 0).await?;
                        format!("waiting for {name} at {}", self.server.source.address)
                    }
                    None if self.parking.is_some() => {
                        return Err(StepError::Unknown(format!("{name} answers at neither of its addresses")));
                    }
                    None => format!(
                        "on the console of {name}: sh {0}/move.sh {0} back 0 {1}",
                        self.server.directory(),
                        self.moved("back", 0)[3..].join(" ")
                    ),
                };
                let patience = if self.parking.is_some() { 2 * WORD_S } else { CONSOLE_S };
                self.comes_home(world, patience, &what).await?
            }
        };
        let Some(home) = home else {
            return Err(StepError::failed(
                format!("{name} did not come back to {}", self.server.source.address),
                format!("look at it on its console: sh {}/move.sh is what moves it", self.server.directory()),
            ));
        };
        if self.configure_back(&*home, &before).await? != Change::Unchanged {
            change = Change::Changed;
        }
        let tidy = "rm -rf -- \"$1\" && { rmdir -- \"${1%/*}\" 2>/dev/null; exit 0; }";
        run(&*home, &format!("tidy {name} up"), &["sh", "-c", tidy, "sh", &self.server.directory()]).await?;
        Ok(change.into())
    }
}
