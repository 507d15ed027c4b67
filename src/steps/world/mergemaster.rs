//! Releases older than 10 have no etcupdate: mergemaster(8) without questions, and rc.d replaced whole.
//!
//! `mergemaster -a` merges nothing: it leaves each file that differs from the release's in its temporary root. What the jail does not
//! have at all is installed from there, accounts and groups that it lacks are added, the rest goes into the queue.

use async_trait::async_trait;
use hypervisors::Change;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::accounts::ADD;
use super::packages::{passing, passing_argv};
use super::{NOTE, NOTES, Tree, UNDECIDED, Work, act, ask, machine, noted, present, shown, unfinished, with_clone};
use crate::recipe::freebsd::{Source, etcupdate};
use crate::recipe::script::LastLine;
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Name of the note of files that were compared and queued.
const MERGED: &str = "mergemaster";

/// Compares the jail's configuration files with the release's. Unproven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeMaster {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
    /// The source of the release.
    #[serde(flatten)]
    pub source: Source,
    /// The release.
    pub release: String,
    /// Id of the job there, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
}

/// Arguments: root, temporary root, directory to lay new versions aside in. Repeating it is harmless. [`ADD`] goes before it.
const TAKE: &str = r#"r=$(cd -P "$1" && pwd -P) || exit 1; t=$2 s=$3; mkdir -p "$s"; test -d "$t" || exit 0; add "$r/etc/group" "$t/etc/group" 3 && add "$r/etc/master.passwd" "$t/etc/master.passwd" 10 || exit 1; cd "$t" && find . -type f -exec sh -c 'r=$1 t=$2 s=$3; shift 3; for f do f=${f#.}; case $f in *.db) continue;; esac; if test -e "$r$f" || test -L "$r$f"; then cmp -s "$t$f" "$r$f" && continue; mkdir -p "$s${f%/*}" && cp -p "$t$f" "$s$f" && printf "%s\0" "$f" >>"$s.list" || exit 1; else mkdir -p "$r${f%/*}" && cp -p "$t$f" "$r$f" || exit 1; fi; done' sh "$r" "$t" "$s" {} + || exit 1; pwd_mkdb -p -d "$r/etc" "$r/etc/master.passwd" && cap_mkdb "$r/etc/login.conf" || exit 1; services_mkdb -q -o "$r/var/db/services.db" "$r/etc/services" 2>/dev/null; exit 0"#;

impl MergeMaster {
    fn temproot(&self) -> std::path::PathBuf {
        self.tree.scratch.join("mergemaster")
    }
    fn argv(&self) -> Vec<String> {
        let (src, root, temproot) = (shown(&self.source.src), shown(&self.tree.root), shown(&self.temproot()));
        ["mergemaster", "-a", "-m", &src, "-D", &root, "-t", &temproot].map(str::to_owned).to_vec()
    }
}

#[async_trait]
impl Step for MergeMaster {
    fn title(&self) -> String {
        format!("compare the configuration files of {} with those of {}", self.tree.run, self.release)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        let commands = [self.argv(), passing_argv(&self.tree, &["/usr/bin/newaliases"])];
        commands.map(|command| manners.on(&self.tree.host, command)).to_vec()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = machine(world, &self.tree.host)?;
        Ok(present(noted(host.as_ref(), &self.tree.scratch, MERGED, &self.release).await?))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = machine(world, &self.tree.host)?;
        let mut last = LastLine::default();
        let mut take = |bytes: &[u8]| {
            last.feed(bytes);
            world.progress(last.get(), None);
        };
        let argv = self.argv();
        let work = Work { host: &self.tree.host, job: &self.job, argv: &argv, env: &[], patience_s: 3600 };
        let end = work.run(world, &mut take).await?;
        if !end.well() {
            return Err(unfinished(world, &self.tree.host, "mergemaster", &end, last.get()));
        }
        let (root, temproot) = (shown(&self.tree.root), shown(&self.temproot()));
        let aside = shown(&self.tree.scratch.join(UNDECIDED));
        act(host.as_ref(), "take over what mergemaster left", &format!("{ADD}{TAKE}"), &[&root, &temproot, &aside])
            .await?;
        let notes = shown(&self.tree.scratch.join(NOTES));
        act(host.as_ref(), "note that files were compared", NOTE, &[&notes, MERGED, &self.release]).await?;
        let answer = passing(host.as_ref(), &self.tree, &["/usr/bin/newaliases"]).await?;
        let done = Done::new(Change::Changed);
        Ok(if answer.status == 0 {
            done
        } else {
            done.warn("the aliases' database was not made anew: newaliases in the jail")
        })
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

/// Replaces rc.d whole; what was there is kept in the scratch. A jail of the time before etcupdate has start scripts that no merge
/// brings up to date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceRcd {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
    /// The source to install it from; `None`: it is taken from the tree that etcupdate merged.
    pub from: Option<Source>,
    /// The release.
    pub release: String,
}

/// Arguments: root, the new rc.d, directory for the old one. Prints scripts that only the old one has.
const REPLACE: &str = "r=$(cd -P \"$1\" && pwd -P) || exit 1; n=$2 b=$3; test -n \"$(ls \"$n\" 2>/dev/null)\" || \
    { echo \"$n is empty\" >&2; exit 1; }; mkdir -p \"$b\" || exit 1; \
    if test -d \"$b/rc.d\" || test -d \"$r/etc/rc.d\"; then :; else mkdir \"$b/rc.d\" || exit 1; fi; \
    if test -d \"$b/rc.d\"; then :; else rm -rf \"$b/rc.d.new\"; cp -Rp \"$r/etc/rc.d\" \"$b/rc.d.new\" && \
    mv \"$b/rc.d.new\" \"$b/rc.d\" || exit 1; fi; \
    rm -rf \"$r/etc/rc.d.upgradectl\" && cp -Rp \"$n\" \"$r/etc/rc.d.upgradectl\" && rm -rf \"$r/etc/rc.d\" && \
    mv \"$r/etc/rc.d.upgradectl\" \"$r/etc/rc.d\" || exit 1; \
    cd \"$b/rc.d\" && for f in *; do test -e \"$f\" && test -e \"$n/$f\" || echo \"$f\"; done | grep -v '^[*]$'; exit 0";

/// Ends with 0 if rc.d is the new one.
const REPLACED: &str = "test -d \"$2\" && test -d \"$3/rc.d\" && diff -r \"$2\" \"$1/etc/rc.d\" >/dev/null 2>&1";

impl ReplaceRcd {
    fn release_scripts(&self) -> String {
        match &self.from {
            None => shown(&etcupdate::current(&self.tree.root).join("etc/rc.d")),
            Some(_) => shown(&self.tree.scratch.join("rcd/etc/rc.d")),
        }
    }
    fn backup(&self) -> String {
        shown(&self.tree.scratch.join("backup"))
    }
    fn install(&self, source: &Source) -> Vec<String> {
        let part = Source { src: source.src.join("etc/rc.d"), obj: source.obj.clone() };
        part.make(&["install", &format!("DESTDIR={}", self.tree.scratch.join("rcd").display())])
    }
}

#[async_trait]
impl Step for ReplaceRcd {
    fn title(&self) -> String {
        format!("replace the start scripts in rc.d of {} by those of {}", self.tree.run, self.release)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        let rcd = shown(&self.tree.root.join("etc/rc.d"));
        let mut commands: Vec<Vec<String>> = self.from.iter().map(|source| self.install(source)).collect();
        commands.push(["cp", "-Rp", &rcd, &format!("{}/rc.d", self.backup())].map(str::to_owned).to_vec());
        commands.push(["rm", "-r", &rcd].map(str::to_owned).to_vec());
        commands.push(["cp", "-Rp", &self.release_scripts(), &rcd].map(str::to_owned).to_vec());
        commands.into_iter().map(|command| manners.on(&self.tree.host, command)).collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = machine(world, &self.tree.host)?;
        let answer =
            ask(host.as_ref(), REPLACED, &[&shown(&self.tree.root), &self.release_scripts(), &self.backup()]).await?;
        Ok(present(answer.status == 0))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = machine(world, &self.tree.host)?;
        if let Some(source) = &self.from {
            let argv = self.install(source);
            let new = self.release_scripts();
            let mut arguments = vec![new.as_str()];
            arguments.extend(argv.iter().map(String::as_str));
            act(host.as_ref(), "install the new rc.d", "rm -rf \"$1\"; mkdir -p \"$1\"; shift; \"$@\"", &arguments)
                .await?;
        }
        let arguments = [shown(&self.tree.root), self.release_scripts(), self.backup()];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let answer = act(host.as_ref(), "replace rc.d", REPLACE, &arguments).await?;
        let text = hypervisors::host::printable(&answer.text().replace('\n', " "));
        let gone: Vec<&str> = text.split_ascii_whitespace().collect();
        let done = Done::new(Change::Changed).with(json!({ "gone": gone }));
        Ok(if gone.is_empty() {
            done
        } else {
            let some = gone.iter().take(12).copied().collect::<Vec<_>>().join(" ");
            done.warn(format!(
                "start scripts that {} does not have, kept in {}/rc.d: {some}",
                self.release,
                self.backup()
            ))
        })
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

#[cfg(test)]
pub(super) const SCRIPTS: &[&str] = &[TAKE, REPLACE, REPLACED];
