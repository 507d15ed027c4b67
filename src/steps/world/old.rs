//! What the new release has no more.

use std::path::Path;

use async_trait::async_trait;
use hypervisors::Change;
use hypervisors::host::printable_tail;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Tree, Work, act, machine, present, shown, typed, unfinished, with_clone};
use crate::recipe::freebsd::world::{self as printed, Old, Transcript};
use crate::recipe::freebsd::{Source, elf};
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Names that are kept of what was removed.
const NAMES: usize = 2000;

/// Removes files and directories that the new release has no more; libraries stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteOld {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
    /// The source of the release that it has now.
    #[serde(flatten)]
    pub source: Source,
    /// Id of the job there, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
}

/// Removes libraries that the new release has no more, once nothing below `/usr/local` was built for an older one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteOldLibs {
    /// The jail.
    #[serde(flatten)]
    pub tree: Tree,
    /// The source of the release that it has now.
    #[serde(flatten)]
    pub source: Source,
    /// Major version of that release.
    pub major: u32,
    /// Id of the job there, `[a-z0-9-]+`, unique to this step of this plan.
    pub job: String,
}

fn destdir(root: &Path) -> String {
    format!("DESTDIR={}", root.display())
}

fn delete(source: &Source, what: &str, root: &Path) -> Vec<String> {
    source.make(&[what, "-DBATCH_DELETE_OLD_FILES", &destdir(root)])
}

/// What `make check-old` finds.
async fn check(world: &World, tree: &Tree, source: &Source) -> Result<Old, StepError> {
    let host = machine(world, &tree.host)?;
    let argv = typed(&source.env(), source.make(&["check-old", &destdir(&tree.root)]));
    let arguments: Vec<&str> = argv.iter().map(String::as_str).collect();
    let answer = act(host.as_ref(), "look for what the new release has no more", "\"$@\"", &arguments).await?;
    Ok(printed::check_old(&answer.text(), &shown(&tree.root)))
}

/// Brings a delete target to its end.
async fn run(world: &World, tree: &Tree, source: &Source, what: &str, job: &str) -> Result<(), StepError> {
    let (mut transcript, mut said) = (Transcript::default(), Vec::new());
    let mut take = |bytes: &[u8]| {
        transcript.feed(bytes);
        said.extend_from_slice(&bytes[..bytes.len().min((4usize << 20).saturating_sub(said.len()))]);
        world.progress(transcript.progress(), None);
    };
    let (argv, env) = (delete(source, what, &tree.root), source.env());
    let work = Work { host: &tree.host, job, argv: &argv, env: &env, patience_s: 3600 };
    let end = work.run(world, &mut take).await?;
    if !end.well() {
        return Err(unfinished(world, &tree.host, &format!("make {what}"), &end, transcript.cause()));
    }
    if !printed::deleted(&String::from_utf8_lossy(&said)) {
        return Err(StepError::failed(
            format!("make {what} ended with 0 before its end: {}", printable_tail(&said, 1)),
            format!("look: make -C {} check-old {}", source.src.display(), destdir(&tree.root)),
        ));
    }
    Ok(())
}

#[async_trait]
impl Step for DeleteOld {
    fn title(&self) -> String {
        format!("remove from {} what the new release has no more", self.tree.run)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        vec![
            manners.on(&self.tree.host, typed(&self.source.env(), delete(&self.source, "delete-old", &self.tree.root))),
        ]
    }
    /// Directories that are not empty stay: they do not count.
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        Ok(present(check(world, &self.tree, &self.source).await?.files.is_empty()))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let before = check(world, &self.tree, &self.source).await?;
        run(world, &self.tree, &self.source, "delete-old", &self.job).await?;
        let after = check(world, &self.tree, &self.source).await?;
        let gone = before.files.len().saturating_sub(after.files.len());
        let names: Vec<&String> = before.files.iter().take(NAMES).collect();
        let done = Done::new(Change::Removed).with(json!({ "files": names, "libraries": after.libraries }));
        Ok(match after.files.as_slice() {
            [] => done,
            [first, ..] => done.warn(format!("{gone} old files are removed, {} stay ({first} …)", after.files.len())),
        })
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

#[async_trait]
impl Step for DeleteOldLibs {
    fn title(&self) -> String {
        format!("remove from {} libraries that nothing uses any more", self.tree.run)
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    fn commands(&self, manners: &Manners) -> Vec<Vec<String>> {
        vec![
            manners.on(
                &self.tree.host,
                typed(&self.source.env(), delete(&self.source, "delete-old-libs", &self.tree.root)),
            ),
        ]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        Ok(present(check(world, &self.tree, &self.source).await?.libraries.is_empty()))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = machine(world, &self.tree.host)?;
        let foreign = elf::look(host.as_ref(), &self.tree.root, self.major).await?;
        let before = check(world, &self.tree, &self.source).await?;
        if let Some((major, (count, one))) = foreign.older.iter().next() {
            return Ok(Done::new(Change::Unchanged).with(json!({ "libraries": before.libraries })).warn(format!(
                "{} old libraries stay: {count} binaries are for FreeBSD {major} ({one}); bring those up to date or install \
                 {}, then make -C {} delete-old-libs {}",
                before.libraries.len(),
                elf::compat(*major),
                self.source.src.display(),
                destdir(&self.tree.root)
            )));
        }
        run(world, &self.tree, &self.source, "delete-old-libs", &self.job).await?;
        Ok(Done::new(Change::Removed).with(json!({ "libraries": before.libraries })))
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}
