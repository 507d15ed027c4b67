//! The upgrade stage of a stopped jail: its base system brought to a release from the host, ending before its first start.
//!
//! The order is that of FreeBSD's own UPDATING: accounts, world, configuration, what is obsolete, packages, old libraries.

use std::path::Path;

use hypervisors::Host;

use crate::engine::{OnFailure, PlanStep, Stage, Undo};
use crate::inventory::{FreebsdWorld, WorldMethod};
use crate::recipe::freebsd::{self, Facts, Method, Source, Wanted};
use crate::recipe::{self};
use crate::steps::Action;
use crate::steps::world::{self, Tree};

/// How long a world may be built, installed, and packages fetched, in seconds.
const BUILD_S: u64 = 48 * 3600;
const INSTALL_S: u64 = 6 * 3600;
const PACKAGES_S: u64 = 12 * 3600;

/// What the inventory wants, in the recipe's words.
pub fn wanted(spec: &FreebsdWorld) -> Wanted {
    let method = match spec.method {
        WorldMethod::Installworld => Method::Source(Source { src: spec.src.clone(), obj: spec.obj.clone() }),
        WorldMethod::FreebsdUpdate => Method::Binary(spec.to.clone()),
    };
    Wanted { method, build: spec.build, base: spec.base.clone(), packages: spec.packages }
}

/// Looks at the jail host, the source and the tree of the stopped jail, and says what speaks against the upgrade.
///
/// # Errors
/// If the jail host cannot be reached.
pub async fn preflight(
    host: &dyn Host,
    root: &Path,
    scratch: &Path,
    spec: &FreebsdWorld,
) -> Result<(Facts, Vec<recipe::Finding>), hypervisors::Error> {
    let wanted = wanted(spec);
    let facts = freebsd::look(host, root, &wanted).await?;
    let found = freebsd::preflight(&facts, &wanted, root, scratch);
    Ok((facts, found))
}

fn step(stage: Stage, action: impl Into<Action>, estimate_s: f64) -> PlanStep {
    PlanStep::new(stage, action, estimate_s).undo(Undo::WithClone).on_failure(OnFailure::Stop)
}

/// What is the same in all steps of one upgrade.
struct Upgrade<'a> {
    tree: Tree,
    facts: &'a Facts,
    spec: &'a FreebsdWorld,
    release: freebsd::Release,
    job: &'a dyn Fn(&str) -> String,
}

/// The steps of the upgrade stage. `host`: the jail host's name in the inventory; `jail`: the run's id; `root`, `scratch`: the jail's
/// tree and the run's own directory on it; `job` makes the id of a job, unique to this plan. Without a release to go to (preflight
/// refuses that) there are none.
pub fn steps(
    host: &str,
    jail: &str,
    root: &Path,
    scratch: &Path,
    recipe: &FreebsdWorld,
    facts: &Facts,
    job: &dyn Fn(&str) -> String,
) -> Vec<PlanStep> {
    let tree = Tree { host: host.to_owned(), run: jail.to_owned(), root: root.to_owned(), scratch: scratch.to_owned() };
    let wanted = wanted(recipe);
    let Some(release) = facts.target(&wanted.method) else { return Vec::new() };
    let upgrade = Upgrade { tree, facts, spec: recipe, release, job };
    match wanted.method {
        Method::Source(source) => upgrade.by_source(&source),
        Method::Binary(_) => upgrade.by_binaries(),
    }
}

impl Upgrade<'_> {
    fn job(&self, what: &str) -> String {
        (self.job)(what)
    }

    /// Where tarballs of configuration files are kept for all jails of the host: beside the runs' own directories.
    fn tarball(&self, release: &str) -> std::path::PathBuf {
        let shared = self.tree.scratch.parent().unwrap_or(&self.tree.scratch);
        shared.join(format!("etc-{release}.tbz"))
    }

    fn by_source(&self, source: &Source) -> Vec<PlanStep> {
        let (tree, release) = (&self.tree, &self.release.name);
        let mut steps = Vec::new();
        if self.spec.build && !self.facts.source.complete() {
            let build = world::BuildWorld {
                host: tree.host.clone(),
                source: source.clone(),
                jobs: self.facts.host.cpus,
                job: self.job("buildworld"),
                patience_s: BUILD_S,
            };
            // It stays, for the next jail.
            steps.push(step(Stage::Prepare, build, 4.0 * 3600.0).undo(Undo::Nothing));
        }
        if !self.facts.tree.flags.is_empty() {
            let clear = world::ClearFlags { tree: tree.clone(), release: release.clone() };
            steps.push(step(Stage::Prepare, clear, 20.0));
        }
        let install = world::InstallWorld {
            tree: tree.clone(),
            source: source.clone(),
            release: release.clone(),
            osrel: self.release.osrel,
            job: self.job("installworld"),
            patience_s: INSTALL_S,
        };
        let old_era = self.facts.tree.release.as_ref().is_none_or(|now| now.major() < 10);
        if self.release.major() >= 10 {
            steps.extend(self.etc_trees(source));
            steps.push(step(Stage::Recipe, self.etc_update(true), 10.0));
            steps.push(step(Stage::Recipe, install, 300.0));
            steps.push(step(Stage::Recipe, self.etc_update(false), 20.0));
            if old_era {
                let rcd = world::ReplaceRcd { tree: tree.clone(), from: None, release: release.clone() };
                steps.push(step(Stage::Recipe, rcd, 2.0));
            }
        } else {
            let merge = world::MergeMaster {
                tree: tree.clone(),
                source: source.clone(),
                release: release.clone(),
                job: self.job("mergemaster"),
            };
            let rcd = world::ReplaceRcd { tree: tree.clone(), from: Some(source.clone()), release: release.clone() };
            steps.push(step(Stage::Recipe, install, 300.0));
            steps.push(step(Stage::Recipe, merge, 60.0));
            steps.push(step(Stage::Recipe, rcd, 5.0));
        }
        let old = world::DeleteOld { tree: tree.clone(), source: source.clone(), job: self.job("delete-old") };
        steps.push(step(Stage::Recipe, old, 60.0));
        let packages = self.packages();
        if !packages.is_empty() {
            steps.extend(packages);
            let libs = world::DeleteOldLibs {
                tree: tree.clone(),
                source: source.clone(),
                major: self.release.major(),
                job: self.job("delete-old-libs"),
            };
            steps.push(step(Stage::Recipe, libs, 60.0));
        }
        steps.push(self.collect());
        steps
    }

    /// What etcupdate merges from, and what it compares with.
    fn etc_trees(&self, source: &Source) -> Vec<PlanStep> {
        let mut steps = Vec::new();
        let tree = |source: Source, release: &str, built| world::EtcTree {
            tree: self.tree.clone(),
            source,
            release: release.to_owned(),
            built,
            tarball: self.tarball(release),
        };
        if let Some(base) = self.spec.base.as_ref().filter(|_| !self.facts.tree.base) {
            let mut tarball = base.clone();
            if let Some(old) = &self.facts.base_source {
                let from = tree(Source { src: base.clone(), obj: None }, &old.name, false);
                tarball = from.tarball.clone();
                steps.push(step(Stage::Prepare, from, 60.0).undo(Undo::Nothing));
            }
            steps.push(step(Stage::Prepare, world::EtcBase { tree: self.tree.clone(), tarball }, 5.0));
        }
        let new = tree(source.clone(), &self.release.name, true);
        steps.push(step(Stage::Prepare, new, 60.0).undo(Undo::Nothing));
        steps
    }

    fn etc_update(&self, pre_world: bool) -> world::EtcUpdate {
        world::EtcUpdate {
            tree: self.tree.clone(),
            release: self.release.name.clone(),
            tarball: self.tarball(&self.release.name),
            pre_world,
            // Releases before 14 have an id in each file, which differs from release to release.
            ignore_ids: self.facts.tree.release.as_ref().is_none_or(|now| now.major() < 14),
            job: self.job(if pre_world { "accounts" } else { "etcupdate" }),
        }
    }

    fn by_binaries(&self) -> Vec<PlanStep> {
        let from = self.facts.tree.release.as_ref().map_or(String::new(), |now| now.name.clone());
        let part = |old_libs, what: &str| world::FreebsdUpdate {
            tree: self.tree.clone(),
            from: from.clone(),
            to: self.release.name.clone(),
            old_libs,
            job: self.job(what),
            patience_s: INSTALL_S,
        };
        let mut steps = vec![step(Stage::Recipe, part(false, "freebsd-update"), 1800.0)];
        let packages = self.packages();
        if !packages.is_empty() {
            steps.extend(packages);
            if self.facts.foreign.older.is_empty() {
                steps.push(step(Stage::Recipe, part(true, "freebsd-update-libs"), 60.0));
            }
        }
        steps.push(self.collect());
        steps
    }

    fn packages(&self) -> Vec<PlanStep> {
        if !self.spec.packages || !self.facts.tree.pkg {
            return Vec::new();
        }
        let (tree, release) = (self.tree.clone(), self.release.name.clone());
        let shared = tree.scratch.parent().unwrap_or(&tree.scratch).join(format!("packages-{release}"));
        let (job, patience_s) = (self.job("fetch"), PACKAGES_S);
        let fetch = world::FetchPackages { tree: tree.clone(), release: release.clone(), shared, job, patience_s };
        let packages = world::Packages { tree, release, job: self.job("packages"), patience_s, fetched: true };
        vec![step(Stage::Recipe, fetch, 300.0), step(Stage::Recipe, packages, 300.0)]
    }

    fn collect(&self) -> PlanStep {
        step(Stage::Settle, world::CollectUndecided { tree: self.tree.clone() }, 2.0)
    }
}
