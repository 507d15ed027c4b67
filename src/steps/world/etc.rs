//! Configuration files, merged three ways by etcupdate(8): what the old release shipped, what the jail has, what the new one ships.
//!
//! A conflict is settled for now with the jail's own file, as a conffile is: the new one is laid aside for `conffiles`, databases are
//! made anew, the conflict is removed. The order of the last two matters: a merge refuses to begin while conflicts lie there, so one
//! that is still there is settled again.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use hypervisors::host::printable_tail;
use hypervisors::{Change, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::packages::{passing, passing_argv};
use super::{Tree, UNDECIDED, Work, accounts, act, ask, machine, present, shown, typed, unfinished, with_clone};
use crate::recipe::freebsd::Source;
use crate::recipe::freebsd::etcupdate::{self, Action, How, Told};
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Makes the tarball of a release's configuration files, once for all jails of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcTree {
    /// The jail that it is made for first.
    #[serde(flatten)]
    pub tree: Tree,
    /// Source of the release.
    #[serde(flatten)]
    pub source: Source,
    /// The release.
    pub release: String,
    /// Generated files are taken from its buildworld.
    pub built: bool,
    /// Where it goes.
    pub tarball: PathBuf,
}

/// Ends with 0 if the tarball `$1` is there and nothing of the source `$2` that goes into it is newer.
const FRESH: &str = "test -s \"$1\" || exit 1; for f in \"$2/sys/conf/newvers.sh\" \"$2/etc\" \"$2/libexec/rc\"; do \
    test -e \"$f\" || continue; test -z \"$(find \"$f\" -newer \"$1\" 2>/dev/null | head -n 1)\" || exit 1; done";

/// Arguments: the tarball, a directory to work in, another tarball, the command that makes that.
const MAKE: &str = "t=$1 d=$2 n=$3; shift 3; mkdir -p \"$d\" \"${t%/*}\" || exit 1; \"$@\" || exit $?; \
    test -s \"$n\" || { echo \"no $n was made\" >&2; exit 1; }; mv -f \"$n\" \"$t\"";

impl EtcTree {
    fn command(&self, tarball: &Path) -> Vec<String> {
        let command = etcupdate::build(&self.source.src, &self.work(), tarball, self.built);
        typed(&self.source.env(), command)
    }
    /// Its own, so that the host's own trees and log are let be.
    fn work(&self) -> PathBuf {
        self.tree.scratch.join("etcupdate/build")
    }
}

#[async_trait]
impl Step for EtcTree {
    fn title(&self) -> String {
        format!("make the tree of configuration files of {}", self.release)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        vec![manners.on(&self.tree.host, self.command(&self.tarball))]
    }
    fn shared(&self) -> Option<String> {
        Some(format!("{}:{}", self.tree.host, self.tarball.display()))
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = machine(world, &self.tree.host)?;
        let answer = ask(host.as_ref(), FRESH, &[&shown(&self.tarball), &shown(&self.source.src)]).await?;
        Ok(present(answer.status == 0))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = machine(world, &self.tree.host)?;
        let mut new = self.tarball.clone().into_os_string();
        new.push(format!(".{}", self.tree.run));
        let command = self.command(Path::new(&new));
        let (tarball, work) = (shown(&self.tarball), shown(&self.work()));
        let new = shown(Path::new(&new));
        let mut arguments: Vec<&str> = vec![&tarball, &work, &new];
        arguments.extend(command.iter().map(String::as_str));
        let doing = format!("make the tree of configuration files of {}", self.release);
        act(host.as_ref(), &doing, MAKE, &arguments).await?;
        Ok(Change::Created.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// Tells the jail's etcupdate what its configuration files came from. Never once it knows: it would be replaced without a word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcBase {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
    /// Tarball of the old release's configuration files.
    pub tarball: PathBuf,
}

/// Ends with 0 if etcupdate has a tree to compare with.
const BASED: &str = "test -d \"$1/var/db/etcupdate/current\" || test -d \"$1/var/db/etcupdate/old\"";

#[async_trait]
impl Step for EtcBase {
    fn title(&self) -> String {
        format!("tell etcupdate what the configuration files of {} came from", self.tree.run)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        vec![manners.on(&self.tree.host, etcupdate::extract(&self.tree.root, &self.tarball))]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = machine(world, &self.tree.host)?;
        Ok(present(ask(host.as_ref(), BASED, &[&shown(&self.tree.root)]).await?.status == 0))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        if self.probe(world).await? == Probe::Present {
            return Ok(Change::Unchanged.into());
        }
        let host = machine(world, &self.tree.host)?;
        let argv = etcupdate::extract(&self.tree.root, &self.tarball);
        let arguments: Vec<&str> = argv.iter().map(String::as_str).collect();
        act(host.as_ref(), "make the old configuration files known to etcupdate", "\"$@\"", &arguments).await?;
        match self.probe(world).await? {
            Probe::Present => Ok(Change::Created.into()),
            _ => Err(StepError::failed(
                "etcupdate extract ended with 0, but left no tree to compare with",
                format!("is {} a tarball of configuration files? (etcupdate build makes one)", self.tarball.display()),
            )),
        }
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// Merges the new release's configuration files into the jail's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcUpdate {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
    /// The release.
    pub release: String,
    /// Tarball of its configuration files.
    pub tarball: PathBuf,
    /// Before the world is installed: accounts and groups only.
    pub pre_world: bool,
    /// Lines that differ in their `$FreeBSD$` alone are the same.
    pub ignore_ids: bool,
    /// Id of the job there, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
}

/// Arguments: root, directory to lay new versions aside in. Settles every conflict with the jail's own file; the paths are noted in
/// `$2.list`, each ended by a NUL.
const SETTLE: &str = r#"r=$(cd -P "$1" && pwd -P) || exit 1; s=$2; c=$r/var/db/etcupdate/conflicts; test -d "$c" || exit 0; test "$(cd -P "$c" && pwd -P)" = "$c" || { echo "$c leads elsewhere" >&2; exit 1; }; mkdir -p "$s" && cd "$c" || exit 1; find . -type f -exec sh -c 'r=$1 s=$2; shift 2; c=$r/var/db/etcupdate; own() { test -L "$1$2" && return 1; test -f "$1$2" && test "$(cd -P "$1${2%/*}" && pwd -P)" = "$1${2%/*}"; }; for f do f=${f#.}; mkdir -p "$s${f%/*}" || exit 1; if own "$c/current" "$f"; then cp -p "$c/current$f" "$s$f" || exit 1; fi; if own "$r" "$f"; then case $f in /etc/master.passwd) pwd_mkdb -p -d "$r/etc" "$r$f";; /etc/login.conf) cap_mkdb "$r$f";; /etc/services) services_mkdb -q -o "$r/var/db/services.db" "$r$f";; esac || exit 1; fi; printf "%s\0" "$f" >>"$s.list" && rm -f "$c/conflicts$f" || exit 1; done' sh "$r" "$s" {} +"#;

/// Prints what was laid aside.
pub(super) const LISTED: &str = "test -f \"$1.list\" || exit 0; cat \"$1.list\"";

impl EtcUpdate {
    fn how(&self, dry: bool) -> How {
        How { pre_world: self.pre_world, dry, ignore_ids: self.ignore_ids }
    }
    fn argv(&self, dry: bool) -> Vec<String> {
        etcupdate::merge(&self.tree.root, &self.tarball, self.how(dry))
    }
    async fn settle(&self, host: &dyn Host) -> Result<(), StepError> {
        let (root, aside) = (shown(&self.tree.root), shown(&self.tree.scratch.join(UNDECIDED)));
        act(host, "settle the conflicts of etcupdate", SETTLE, &[&root, &aside]).await?;
        Ok(())
    }
    async fn left(&self, host: &dyn Host) -> Result<Told, StepError> {
        let argv = etcupdate::status(&self.tree.root);
        let arguments: Vec<&str> = argv.iter().map(String::as_str).collect();
        Ok(Told::read(&act(host, "ask etcupdate what is left", "\"$@\"", &arguments).await?.text()))
    }
}

#[async_trait]
impl Step for EtcUpdate {
    fn title(&self) -> String {
        let run = &self.tree.run;
        if self.pre_world {
            format!("merge the accounts of {} into those of {run}", self.release)
        } else {
            format!("merge the configuration files of {} into those of {run}", self.release)
        }
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        let mut commands = vec![self.argv(false), etcupdate::status(&self.tree.root)];
        if !self.pre_world {
            commands.push(passing_argv(&self.tree, &["/usr/bin/newaliases"]));
        }
        commands.into_iter().map(|command| manners.on(&self.tree.host, command)).collect()
    }
    /// A dry run tells: with nothing to do it says nothing, with conflicts left over it refuses.
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = machine(world, &self.tree.host)?;
        let argv = self.argv(true);
        let arguments: Vec<&str> = argv.iter().map(String::as_str).collect();
        let answer = ask(host.as_ref(), "\"$@\"", &arguments).await?;
        let told = Told::read(&answer.text());
        Ok(match answer.status {
            0 if told.actions.is_empty() => Probe::Present,
            0 => Probe::Absent,
            _ if told.no_base() => Probe::Absent,
            _ => Probe::Partial,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = machine(world, &self.tree.host)?;
        let host = host.as_ref();
        self.settle(host).await?;
        let mut printed = Vec::new();
        let mut take =
            |bytes: &[u8]| printed.extend_from_slice(&bytes[..bytes.len().min((4 << 20) - printed.len().min(4 << 20))]);
        let argv = self.argv(false);
        let work = Work { host: &self.tree.host, job: &self.job, argv: &argv, env: &[], patience_s: 3600 };
        let end = work.run(world, &mut take).await?;
        let told = Told::read(&String::from_utf8_lossy(&printed));
        if told.no_base() {
            return Err(StepError::failed(
                format!("etcupdate has nothing to compare the configuration files of {} with", self.tree.run),
                "upgrade.base = a tarball of the old release's configuration files, or its source",
            ));
        }
        if !end.well() {
            return Err(unfinished(world, &self.tree.host, "etcupdate", &end, &printable_tail(&printed, 2)));
        }
        self.settle(host).await?;
        if !self.pre_world {
            accounts::complete(host, &self.tree).await?;
        }
        let left = self.left(host).await?;
        let conflicts: Vec<&str> = left.conflicts().collect();
        if !conflicts.is_empty() {
            return Err(StepError::failed(
                format!("etcupdate still has conflicts: {}", conflicts.join(" ")),
                format!("look: etcupdate status -D {}", self.tree.root.display()),
            ));
        }
        let count = |action| told.count(action);
        let data = json!({
            "added": count(Action::Added), "updated": count(Action::Updated), "merged": count(Action::Merged),
            "deleted": count(Action::Deleted), "conflicts": told.conflicts().collect::<Vec<_>>(),
        });
        let mut done = Done::new(Change::Changed).with(data);
        if !self.pre_world && (told.wants_newaliases() || left.wants_newaliases()) {
            let answer = passing(host, &self.tree, &["/usr/bin/newaliases"]).await?;
            if answer.status != 0 {
                let why = printable_tail(&answer.stderr, 1);
                done = done.warn(format!("the aliases' database was not made anew: newaliases in the jail ({why})"));
            }
        }
        for warning in told.warnings.iter().filter(|warning| !warning.contains("newaliases")).take(20) {
            done = done.warn(format!("etcupdate: {warning}"));
        }
        Ok(done)
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

#[cfg(test)]
pub(super) const SCRIPTS: &[&str] = &[FRESH, MAKE, BASED, SETTLE, LISTED];
