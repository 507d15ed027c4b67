//! Packages for the new base system, in a passing jail.
//!
//! The jail is not started yet, and nothing of its tree may run on the host: `pkg -c` would only change the root, and the packages'
//! scripts would see the host's processes. So a jail of another name is made for the time of one command: the same tree, the host's
//! addresses (what it downloads needs a network, and the clone's own address is not configured yet), a devfs with the rules for jails.
//! No service starts in it. It ends with its command; what is left of one that was cut short is removed by the next.

use async_trait::async_trait;
use hypervisors::host::Output;
use hypervisors::jail::passing_jail;
use hypervisors::{Change, Host};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Tree, Work, ask, machine, noted, noting, present, shown, unfinished, with_clone};
use crate::recipe::script::LastLine;
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Name of the note of packages that were reinstalled.
const PACKAGES: &str = "packages";

/// Arguments: name, root, program and arguments. Runs it in a passing jail; its exit status.
pub(super) const PASSING: &str = "n=$1 r=$2; shift 2; tidy() { jls -j \"$n\" jid >/dev/null 2>&1 && jail -r \"$n\" >/dev/null 2>&1; i=0; \
    while test $i -lt 5 && mount -p | awk -v d=\"$r/dev\" '$2 == d { f = 1 } END { exit 1 - f }'; do \
    umount \"$r/dev\" || break; i=$((i+1)); done; }; trap '' HUP; tidy; c=$1; shift; \
    jail -c name=\"$n\" path=\"$r\" host.hostname=\"$n\" ip4=inherit ip6=inherit mount.devfs exec.clean command=\"$c\" \"$@\"; \
    s=$?; tidy; exit $s";

/// A command in a passing jail, as one would type it.
pub(super) fn passing_argv(tree: &Tree, command: &[&str]) -> Vec<String> {
    let name = passing_jail(&tree.run);
    let mut argv =
        vec!["jail".to_owned(), "-c".to_owned(), format!("name={name}"), format!("path={}", tree.root.display())];
    let parameters = ["ip4=inherit", "ip6=inherit", "mount.devfs", "exec.clean"].map(str::to_owned);
    argv.push(format!("host.hostname={name}"));
    argv.extend(parameters);
    if let Some((program, arguments)) = command.split_first() {
        argv.push(format!("command={program}"));
        argv.extend(arguments.iter().map(|word| (*word).to_owned()));
    }
    argv
}

/// Runs a short command in a passing jail.
pub(super) async fn passing(host: &dyn Host, tree: &Tree, command: &[&str]) -> Result<Output, StepError> {
    let (name, root) = (passing_jail(&tree.run), shown(&tree.root));
    let arguments: Vec<&str> = [name.as_str(), &root].into_iter().chain(command.iter().copied()).collect();
    ask(host, PASSING, &arguments).await
}

/// Reinstalls the jail's packages for its new base system: pkg(8) itself if that was not done, then all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
    /// The release that they are for.
    pub release: String,
    /// Id of the job there, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
    /// How long it may take, in seconds.
    pub patience_s: u64,
    /// They were fetched before, with pkg itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fetched: bool,
}

pub(super) const ITSELF: &[&str] = &["/usr/local/sbin/pkg-static", "install", "-fy", "pkg"];
pub(super) const FETCH: &[&str] = &["/usr/local/sbin/pkg-static", "upgrade", "-fFy"];
const ALL: &[&str] = &["/usr/local/sbin/pkg-static", "upgrade", "-fy"];

/// Runs a long command in a passing jail; `note`: its end is noted under this name, for this release.
pub(super) async fn in_passing(
    world: &World,
    tree: &Tree,
    job: &str,
    command: &[&str],
    note: Option<(&str, &str)>,
    patience_s: u64,
) -> Result<(), StepError> {
    let (name, root) = (passing_jail(&tree.run), shown(&tree.root));
    let head = ["sh", "-c", PASSING, "sh", &name, &root].into_iter();
    let mut argv: Vec<String> = head.chain(command.iter().copied()).map(str::to_owned).collect();
    if let Some((what, release)) = note {
        argv = noting(&tree.scratch, what, release, &argv);
    }
    let mut last = LastLine::default();
    let mut take = |bytes: &[u8]| {
        last.feed(bytes);
        world.progress(last.get(), None);
    };
    let work = Work { host: &tree.host, job, argv: &argv, env: &[], patience_s };
    let end = work.run(world, &mut take).await?;
    if end.well() {
        return Ok(());
    }
    let words = command.join(" ");
    Err(match unfinished(world, &tree.host, &words, &end, last.get()) {
        StepError::Failed { why, help } => StepError::Failed {
            why,
            help: help.map(|help| format!("{help}\nor leave them as they are: upgrade.packages = false")),
        },
        other => other,
    })
}

#[async_trait]
impl Step for Packages {
    fn title(&self) -> String {
        format!("reinstall the packages of {} for {}", self.tree.run, self.release)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        let commands = if self.fetched { &[ALL][..] } else { &[ITSELF, ALL] };
        commands.iter().map(|command| manners.on(&self.tree.host, passing_argv(&self.tree, command))).collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = machine(world, &self.tree.host)?;
        Ok(present(noted(host.as_ref(), &self.tree.scratch, PACKAGES, &self.release).await?))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let (tree, patience_s) = (&self.tree, self.patience_s);
        if !self.fetched {
            in_passing(world, tree, &format!("{}-pkg", self.job), ITSELF, None, patience_s).await?;
        }
        in_passing(world, tree, &self.job, ALL, Some((PACKAGES, &self.release)), patience_s).await?;
        Ok(Change::Changed.into())
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}
