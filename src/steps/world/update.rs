//! The base system by freebsd-update(8), for hosts without a source. Unproven.

use async_trait::async_trait;
use hypervisors::Change;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Tree, UNDECIDED, Work, act, machine, noted, noting, present, shown, unfinished, with_clone};
use crate::recipe::freebsd::{look, update};
use crate::recipe::script::LastLine;
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Brings the base system to a release, or removes what that has no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreebsdUpdate {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
    /// The release that the jail had when this was planned.
    pub from: String,
    /// The release that it gets: `14.1-RELEASE`.
    pub to: String,
    /// The last part only, once packages are rebuilt: old libraries go.
    pub old_libs: bool,
    /// Id of the job there, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
    /// How long it may take, in seconds.
    pub patience_s: u64,
}

/// Arguments: directory to work in, its configuration, how many installs at most, what stops them, the release for `upgrade` (empty:
/// none), then freebsd-update with its options. Keys and server are the host's own.
pub(super) const RUN: &str = "w=$1 c=$2 m=$3 e=$4 r=$5; shift 5; umask 077; mkdir -p \"$w\" || exit 1; \
    { printf '%s\\n' CONF_LINES; grep -E '^(KeyPrint|ServerName) ' /etc/freebsd-update.conf 2>/dev/null; } >\"$c\"; PAGER=cat EDITOR=true; export PAGER EDITOR; \
    if test -n \"$r\"; then yes | \"$@\" -r \"$r\" upgrade || exit $?; fi; \
    i=0; while test $i -lt $m; do i=$((i+1)); \"$@\" install >\"$w/said\" 2>&1; s=$?; cat \"$w/said\"; \
    grep -q 'No updates are available' \"$w/said\" && exit 0; test $s -eq 0 || exit $s; grep -q \"$e\" \"$w/said\" && exit 0; done; exit 0";

impl FreebsdUpdate {
    fn note(&self) -> &'static str {
        if self.old_libs { "freebsd-update-libs" } else { "freebsd-update" }
    }
    fn typed(&self, words: &[&str]) -> Vec<String> {
        let (work, conf) = (self.tree.scratch.join("freebsd-update"), self.tree.scratch.join("freebsd-update.conf"));
        update::argv(&self.tree.root, &work, &conf, &self.from, words)
    }
    fn argv(&self) -> Vec<String> {
        let (work, conf) =
            (shown(&self.tree.scratch.join("freebsd-update")), shown(&self.tree.scratch.join("freebsd-update.conf")));
        let (most, to) = if self.old_libs { ("1", "") } else { ("3", self.to.as_str()) };
        // A job reads nothing: the configuration is part of the script.
        let script = RUN.replace("CONF_LINES", &quoted_conf());
        let head = ["sh", "-c", &script, "sh", &work, &conf, most, "rebuild all installed", to].map(str::to_owned);
        let command: Vec<String> = head.into_iter().chain(self.typed(&[])).collect();
        noting(&self.tree.scratch, self.note(), &self.to, &command)
    }
}

/// The configuration's lines as words of a shell.
fn quoted_conf() -> String {
    update::CONF.lines().map(|line| format!("'{line}'")).collect::<Vec<_>>().join(" ")
}

#[async_trait]
impl Step for FreebsdUpdate {
    fn title(&self) -> String {
        let run = &self.tree.run;
        if self.old_libs {
            format!("remove from {run} libraries that {} does not have", self.to)
        } else {
            format!("bring {run} from {} to {} by freebsd-update", self.from, self.to)
        }
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        let mut commands = Vec::new();
        if !self.old_libs {
            commands.push(self.typed(&["-r", &self.to, "upgrade"]));
        }
        commands.push(self.typed(&["install"]));
        commands.into_iter().map(|command| manners.on(&self.tree.host, command)).collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = machine(world, &self.tree.host)?;
        Ok(present(noted(host.as_ref(), &self.tree.scratch, self.note(), &self.to).await?))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = machine(world, &self.tree.host)?;
        let (mut last, mut said) = (LastLine::default(), Vec::new());
        let mut take = |bytes: &[u8]| {
            last.feed(bytes);
            said.extend_from_slice(&bytes[..bytes.len().min((4usize << 20).saturating_sub(said.len()))]);
            world.progress(last.get(), None);
        };
        let argv = self.argv();
        let work = Work { host: &self.tree.host, job: &self.job, argv: &argv, env: &[], patience_s: self.patience_s };
        let end = work.run(world, &mut take).await?;
        if !end.well() {
            return Err(unfinished(world, &self.tree.host, "freebsd-update", &end, last.get()));
        }
        if self.old_libs {
            return Ok(Change::Removed.into());
        }
        let now = look::tree(host.as_ref(), &self.tree.root).await?.release;
        let is_it =
            |name: &str| name.strip_prefix(&self.to).is_some_and(|rest| rest.is_empty() || rest.starts_with("-p"));
        let there = now.as_ref().is_some_and(|now| is_it(&now.name));
        if !there {
            let now = now.map_or("no release that can be told".to_owned(), |now| now.name);
            return Err(StepError::failed(
                format!("freebsd-update ended with 0, but the jail is {now}, not {}: {}", self.to, last.get()),
                "method = \"installworld\" with a source, or look at what it printed: upgradectl log",
            ));
        }
        let kept = update::kept(&String::from_utf8_lossy(&said));
        if !kept.is_empty() {
            let aside = shown(&self.tree.scratch.join(UNDECIDED));
            let mut arguments = vec![aside.as_str()];
            arguments.extend(kept.iter().take(500).map(String::as_str));
            let script = "s=$1; shift; mkdir -p \"$s\" && printf '%s\\0' \"$@\" >>\"$s.list\"";
            act(host.as_ref(), "note the files that were kept", script, &arguments).await?;
        }
        Ok(Done::new(Change::Changed).with(json!({ "kept": kept })))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}
