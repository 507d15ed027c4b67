//! Queues of mail and jobs at the promotion of a linked clone and on its way back: what was accepted is neither lost nor done twice.
//!
//! Original and promoted clone have one address: on the way back they are never both up. What the promoted one has in its queues is
//! fetched while it is up, from services that have stopped; it waits in the run's directory on this machine, and is put into the original
//! before the services there start. What the original had beside it was dealt with meanwhile: it is laid aside there, not removed. The
//! original has to serve again, whatever becomes of it: what does not come back is told of, and kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use hypervisors::host::{Command, Stdin, Stdout, printable_tail};
use hypervisors::transfer::mirror::{Mirror, mirror};
use hypervisors::{Change, GuestLink, Host, Power};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::across::{EmptyQueues, SHELL, StopInside, guest};
use super::linked::Which;
use crate::steps::server::running;
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// What a service has of its own in a queue, and no message: a process id, statistics.
const OWN: &str = "sm-client.*";
/// How long queues may take from or to this machine.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Arguments: root, directories in it. An archive of those that are there, on standard output.
const PACK: &str = "cd \"$1/\" || exit 1; shift; n=$#; for d do test -d \"$d\" && set -- \"$@\" \"$d\"; done; shift $n; \
    test $# -gt 0 || { echo 'none of them is there' >&2; exit 1; }; exec tar -cf - --numeric-owner --one-file-system -- \"$@\"";

/// Arguments: an own directory, which is made anew. The archive on standard input is laid out in it.
const UNPACK: &str = "umask 077; rm -rf -- \"$1\" && mkdir -p -- \"$1\" && exec tar -C \"$1\" -xpf - --numeric-owner";

/// Arguments: what goes, then what may be there. The latter, line by line, as far as they are.
const TIDY: &str = "rm -rf -- \"$1\" \"$2\"; shift 2; for d do test -d \"$d\" && echo \"$d\"; done; exit 0";

/// Where queues wait on this machine, between two guests that are not up at one time.
fn parcel(world: &World) -> PathBuf {
    world.run_dir.join("queues.tar")
}

/// Keeps what could not be put back, where no other way back takes it for its own; where.
fn set_by(parcel: &Path) -> Result<PathBuf, StepError> {
    let places = (1_u32..).map(|number| parcel.with_file_name(format!("queues-{number}.tar")));
    let place = places.take(10_000).find(|place| !place.exists()).unwrap_or_else(|| parcel.with_extension("old"));
    std::fs::rename(parcel, &place).map_err(|error| hypervisors::Error::io("keep queues that were fetched", error))?;
    Ok(place)
}

fn shown(paths: &[String]) -> String {
    paths.iter().map(|path| format!("/{path}")).collect::<Vec<_>>().join(", ")
}

/// Mirrors queues of the original, whose services are stopped, to its clone, whose services are stopped (kind `machine.queues`). Taken
/// back, the clone's are emptied: what is in them is its original's to work on again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarryQueues {
    /// The clone.
    pub of: Which,
    /// How to get into the original.
    pub from: GuestLink,
    /// How to get into the clone.
    pub to: GuestLink,
    /// Directories on both, without slashes at their ends: `var/spool/mqueue`.
    pub paths: Vec<String>,
}

#[async_trait]
impl Step for CarryQueues {
    fn title(&self) -> String {
        format!("bring {} of {} over", shown(&self.paths), self.from.name)
    }
    fn undo_title(&self) -> String {
        "empty the clone's".into()
    }
    fn taken_back(&self) -> String {
        format!("empty the mail and job queues of {}", self.of.shown)
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        let command = |path: &String| {
            let words = ["rsync", "-aHx", "--numeric-ids", "--delete", &format!("--exclude={OWN}"), "--"];
            let ends = [&self.from, &self.to].map(|end| format!("{}:/{path}/", end.name));
            words.into_iter().map(str::to_owned).chain(ends).collect()
        };
        self.paths.iter().map(command).collect()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let (from, to) = (guest(world, &self.of.host, &self.from)?, guest(world, &self.of.host, &self.to)?);
        for path in &self.paths {
            bring(&*from, &*to, &format!("/{path}"), path, None).await?;
        }
        Ok(Change::Changed.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        EmptyQueues { of: self.of.clone(), guest: self.from.name.clone() }.apply(world, &Value::Null).await
    }
}

/// Makes a queue what a directory elsewhere is.
async fn bring(from: &dyn Host, to: &dyn Host, place: &str, path: &str, aside: Option<&str>) -> Result<(), StepError> {
    let what = Mirror {
        from: place,
        root: Path::new("/"),
        below: path,
        exclude: &[OWN.to_owned()],
        backup: aside,
        shell: Path::new(SHELL),
        whole: false,
    };
    Ok(mirror(from, to, &what, false).await.map(drop)?)
}

/// From here on the clone's queues are the ones that count (kind `machine.return_queues`). Doing it changes nothing; taken back, what
/// was fetched of them ([`FetchQueues`]) is put into the original, whose services are stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnQueues {
    /// Inventory host.
    pub host: String,
    /// How to get into the original.
    pub to: GuestLink,
    /// As in [`CarryQueues`].
    pub paths: Vec<String>,
    /// The services that were stopped there: nothing comes back under one that runs.
    pub services: Vec<String>,
}

impl ReturnQueues {
    /// Puts them there; what could not be put, and where what the original had lies.
    async fn put(&self, world: &World, original: &dyn Host) -> Result<(Vec<String>, Vec<String>), StepError> {
        if let Some(service) = running(original).await?.into_iter().find(|name| self.services.contains(name)) {
            return Err(StepError::failed(format!("{service} runs there again"), ""));
        }
        let staging = format!("/var/db/upgradectl-{}-queues", world.run);
        let mut unpack = Command::new(["sh", "-c", UNPACK, "sh", &staging]).timeout(PATIENCE);
        unpack.stdin = Stdin::File(parcel(world));
        original.run(&unpack).await?.checked(format!("put queues into {}", self.to.name), &unpack)?;
        let (mut failed, mut asides) = (Vec::new(), Vec::new());
        for path in &self.paths {
            let aside = format!("/var/db/upgradectl-{}-aside/{path}", world.run);
            match bring(original, original, &format!("{staging}/{path}"), path, Some(&aside)).await {
                Ok(()) => asides.push(aside),
                Err(error) if error.is_unknown() => return Err(error),
                Err(error) => failed.push(format!("/{path}: {error}")),
            }
        }
        let words = ["sh", "-c", TIDY, "sh", SHELL, &staging].map(str::to_owned);
        let tidy = Command::new(words.into_iter().chain(asides)).timeout(PATIENCE);
        let there = original.run(&tidy).await?.checked(format!("tidy up in {}", self.to.name), &tidy)?.text();
        Ok((failed, there.lines().map(str::to_owned).collect()))
    }
}

#[async_trait]
impl Step for ReturnQueues {
    fn title(&self) -> String {
        format!("hand {} over to the promoted guest", shown(&self.paths))
    }
    fn undo_title(&self) -> String {
        "bring them back to the original".into()
    }
    fn taken_back(&self) -> String {
        format!("put what the promoted guest had in {} into the original", shown(&self.paths))
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        // What an earlier way back left is not what this promotion's guest will have.
        let parcel = parcel(world);
        if parcel.exists() {
            set_by(&parcel)?;
        }
        Ok(Change::Unchanged.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let parcel = parcel(world);
        if !parcel.exists() {
            return Ok(Change::Unchanged.into());
        }
        let original = guest(world, &self.host, &self.to)?;
        let (failed, asides) = match self.put(world, &*original).await {
            Ok(put) => put,
            Err(error) if error.is_unknown() => return Err(error),
            Err(error) => (vec![error.to_string()], Vec::new()),
        };
        let mut done = Done::new(Change::Changed);
        done.warnings.extend(asides.iter().map(|aside| {
            format!("what the promoted guest has dealt with meanwhile is laid aside on {}: {aside}", self.to.name)
        }));
        if failed.is_empty() {
            std::fs::remove_file(&parcel).map_err(|error| hypervisors::Error::io("remove what was put back", error))?;
            return Ok(done);
        }
        let why = printable_tail(failed.join("; ").as_bytes(), 3);
        Ok(done.warn(format!(
            "what the promoted guest had in its queues did not all come back ({why}); it is kept: {}",
            set_by(&parcel)?.display()
        )))
    }
}

/// Fetches the queues of a promoted clone that is about to be shut down; its services are stopped before (kind `machine.fetch_queues`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchQueues {
    /// The clone.
    pub of: Which,
    /// How to get into it, at the address of production.
    pub from: GuestLink,
    /// As in [`CarryQueues`].
    pub paths: Vec<String>,
}

#[async_trait]
impl Step for FetchQueues {
    fn title(&self) -> String {
        format!("stop the services of the promoted guest, and fetch {}", shown(&self.paths))
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let machine = super::machines(world, &self.of.host)?.machine(&self.of.uuid).await?;
        if machine.is_none_or(|facts| facts.power != Power::On) {
            let what = format!("{} is not on: what its queues may have got stays on its disks", self.of.shown);
            return Ok(Done::new(Change::Unchanged).warn(what));
        }
        let stopped = StopInside { host: self.of.host.clone(), link: self.from.clone() };
        let stopped = stopped.apply(world, &Value::Null).await?;
        let (inside, parcel) = (guest(world, &self.of.host, &self.from)?, parcel(world));
        // What is there is whole.
        let part = parcel.with_extension("part");
        let words = ["sh", "-c", PACK, "sh", ""].into_iter().chain(self.paths.iter().map(String::as_str));
        let mut pack = Command::new(words).timeout(PATIENCE);
        pack.stdout = Stdout::File(part.clone());
        inside.run(&pack).await?.checked(format!("fetch the queues of {}", self.of.shown), &pack)?;
        let kept = std::fs::File::open(&part).and_then(|file| file.sync_all().and(file.metadata()));
        let kept = kept.and_then(|facts| std::fs::rename(&part, &parcel).map(|()| facts.len()));
        let bytes = kept.map_err(|error| hypervisors::Error::io("keep the queues that were fetched", error))?;
        let done = Done::new(Change::Changed).with(json!({ "bytes": bytes }));
        Ok(stopped.warnings.into_iter().fold(done, Done::warn))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        Ok(Change::Unchanged.into())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use hypervisors::host::LocalHost;

    use super::*;

    #[tokio::test]
    async fn what_is_packed_is_laid_out_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to, file) = (dir.path().join("from"), dir.path().join("to"), dir.path().join("parcel"));
        std::fs::create_dir_all(from.join("var/spool/postfix/deferred/A")).unwrap();
        std::fs::write(from.join("var/spool/postfix/deferred/A/-ABC"), "letter").unwrap();
        std::fs::write(from.join("secret"), "x").unwrap();
        std::fs::create_dir_all(to.join("left")).unwrap();
        let here = LocalHost::new("here");
        let root = from.to_string_lossy().into_owned();
        let mut pack = Command::new(["sh", "-c", PACK, "sh", &root, "var/spool/postfix/deferred", "var/spool/cups"]);
        pack.stdout = Stdout::File(file.clone());
        assert_eq!(here.run(&pack).await.unwrap().status, 0);
        let mut unpack = Command::new(["sh", "-c", UNPACK, "sh", &to.to_string_lossy()]);
        unpack.stdin = Stdin::File(file.clone());
        for _ in 0..2 {
            assert_eq!(here.run(&unpack).await.unwrap().status, 0);
            let letter = std::fs::read(to.join("var/spool/postfix/deferred/A/-ABC")).unwrap();
            assert_eq!(letter, b"letter");
            assert!(!to.join("left").exists() && !to.join("secret").exists());
        }
        let mut none = Command::new(["sh", "-c", PACK, "sh", &root, "var/spool/cups"]);
        none.stdout = Stdout::File(file);
        assert_eq!(here.run(&none).await.unwrap().status, 1);
    }

    #[test]
    fn what_did_not_come_back_is_not_put_back_later() {
        let dir = tempfile::tempdir().unwrap();
        let parcel = dir.path().join("queues.tar");
        for (number, text) in [(1, "one"), (2, "two")] {
            std::fs::write(&parcel, text).unwrap();
            let place = set_by(&parcel).unwrap();
            assert_eq!(place, dir.path().join(format!("queues-{number}.tar")));
            assert!(!parcel.exists() && std::fs::read_to_string(place).unwrap() == text);
        }
    }

    #[test]
    fn scripts_survive_a_csh_login_shell() {
        assert!([PACK, UNPACK, TIDY].iter().all(|script| !script.contains(['!', '\n'])));
    }
}
