//! The cells of the lifecycle page's table for volumes like LVM's, walked by one guest: data is written on both sides before
//! each verb and compared afterwards. Written once, for volumes that are simulated (sim ring) and for real ones (dom0 ring).
//!
//! A guest writes files of its own, each with contents that follow from its name, and `last`, which every write
//! overwrites: on both sides of a snapshot the same blocks then hold different things.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::Said;
use anyhow::{Context as _, Result, ensure};

/// Where a guest `mercure` is walked: volumes `mercure`, `mercure-mail` (detached) and `mercure-swap`.
pub trait Stage {
    /// Runs the product, with `--json`.
    fn ctl(&self, args: &[&str]) -> Result<Said>;
    /// A running guest writes the file of this name, and `last`; synced.
    fn write(&self, guest: &str, name: &str) -> Result<()>;
    /// The files that a running guest finds: their names; `!NAME` for one whose contents are not its own; `last=NAME`.
    fn read(&self, guest: &str) -> Result<Vec<String>>;
    /// The volumes there are, each with its marks: `NAME`, or `NAME MARK`.
    fn volumes(&self) -> Result<Vec<String>>;
    /// A guest's stored definition, byte for byte.
    fn definition(&self, guest: &str) -> Result<String>;
    /// Everything else: definitions, power, marks, what is mounted, production's files with owners, modes, times and
    /// checksums. What guests wrote is left out, and the clone's own files.
    fn around(&self) -> Result<BTreeMap<String, String>>;
}

/// How a guest's volumes are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The strategy.
    pub strategy: &'static str,
    /// Snapshots with areas of their own, merged by draining; else thin.
    pub thick: bool,
}

/// The volumes of the guest, nothing else, no marks.
const OWN: [&str; 3] = ["mercure", "mercure-mail", "mercure-swap"];

/// A run by a way on a stage.
pub struct Walk<'a> {
    stage: &'a dyn Stage,
    way: Way,
}

impl<'a> Walk<'a> {
    /// By a strategy, on volumes of a kind.
    pub fn new(stage: &'a dyn Stage, strategy: &'static str, thick: bool) -> Self {
        Self { stage, way: Way { strategy, thick } }
    }

    /// Clone, upgrade, abort: what production wrote stays.
    pub fn abort_before_promotion(&self) -> Result<()> {
        let origin = self.way.strategy == "origin";
        let before = self.stage.around()?;
        self.write("mercure", "a")?;
        let said = self.good("clone", "cloned")?;
        ensure!((outage(&said)? > 0.0) == origin, "{said}");
        let down = while_down(&said)?;
        let kinds: Vec<&str> = down.iter().map(String::as_str).collect();
        ensure!(kinds.contains(&"storage.snapshot") == origin, "{kinds:?}: {said}");
        ensure!(!kinds.contains(&"swap.fresh"), "swap space does not wait for production to be down: {said}");
        let run = self.run()?;
        self.write("mercure", "production")?;
        self.write(&run, "clone")?;
        self.good("upgrade", "upgraded")?;
        self.reads("mercure", &["a", "last=production", "production"])?;
        let said = self.good("abort", "aborted")?;
        ensure!((outage(&said)? > 0.0) == origin, "{said}");
        self.reads("mercure", &["a", "last=production", "production"])?;
        self.back(&before)
    }

    /// Clone to promote, rollback, to promote again, abort: the original as it was, with what it had written until then.
    pub fn rollback_and_abort(&self) -> Result<()> {
        let before = self.stage.around()?;
        let had = self.stage.read("mercure")?;
        let kept = |more: &[&str]| also(&had, more);
        self.good("clone", "cloned")?;
        let run = self.run()?;
        self.write("mercure", "meanwhile")?;
        self.write(&run, "beside")?;
        self.good("upgrade", "upgraded")?;
        self.good("verify", "verified")?;
        let verified = self.stage.around()?;
        self.good("promote", "promoted")?;
        self.reads("mercure", &kept(&["beside", "last=beside"]))?;
        self.write("mercure", "promoted")?;

        self.good("rollback", "upgraded")?;
        self.reads("mercure", &kept(&["meanwhile", "last=meanwhile"]))?;
        self.reads(&run, &kept(&["beside", "promoted", "last=promoted"]))?;
        same(&verified, &self.stage.around()?, "rolled back")?;
        self.write("mercure", "again")?;

        self.good("verify", "verified")?;
        self.good("promote", "promoted")?;
        self.reads("mercure", &kept(&["beside", "promoted", "last=promoted"]))?;
        self.write("mercure", "late")?;
        let said = self.good("abort", "aborted")?;
        ensure!(outage(&said)? > 0.0, "{said}");
        self.reads("mercure", &kept(&["again", "meanwhile", "last=again"]))?;
        self.back(&before)
    }

    /// Rolled back, and then aborted.
    pub fn abort_after_rollback(&self) -> Result<()> {
        let before = self.stage.around()?;
        let had = self.stage.read("mercure")?;
        self.good("clone", "cloned")?;
        self.good("upgrade", "upgraded")?;
        self.good("verify", "verified")?;
        self.good("promote", "promoted")?;
        self.write("mercure", "gone")?;
        self.good("rollback", "upgraded")?;
        self.write("mercure", "here")?;
        self.good("abort", "aborted")?;
        self.reads("mercure", &also(&had, &["here", "last=here"]))?;
        self.back(&before)
    }

    /// Clone to commit: the clone's content under the original's names, by the original's definition. Last of a walk: the
    /// guest is upgraded.
    pub fn commit(&self) -> Result<()> {
        let definition = self.stage.definition("mercure")?;
        let had = self.stage.read("mercure")?;
        self.good("clone", "cloned")?;
        let run = self.run()?;
        self.write("mercure", "lost")?;
        self.write(&run, "new")?;
        self.good("upgrade", "upgraded")?;
        self.good("verify", "verified")?;
        self.good("promote", "promoted")?;
        self.reads("mercure", &also(&had, &["new", "last=new"]))?;
        self.write("mercure", "live")?;
        let said = self.good("commit", "committed")?;
        let fold = self.way.thick && self.way.strategy == "snapshot";
        ensure!((outage(&said)? > 0.0) == fold, "{said}");
        self.reads("mercure", &also(&had, &["live", "new", "last=live"]))?;
        self.own_volumes()?;
        let now = self.stage.definition("mercure")?;
        ensure!(now == definition, "the definition is not as clone found it:\n{now}");
        self.upgraded(true)
    }

    /// In place, there and back: given up before it began, given up after it, and kept. Last of a walk.
    pub fn in_place(&self) -> Result<()> {
        let before = self.stage.around()?;
        let said = self.ctl("clone", &[])?;
        ensure!(said.code == 7 && ending(&said)?["error"].to_string().contains("--accept-loss"), "{said}");

        // Nothing was changed yet: nothing is merged, and nothing production wrote is lost.
        self.leads("clone", &["--accept-loss"], "cloned")?;
        self.write("mercure", "early")?;
        let said = self.good("abort", "aborted")?;
        ensure!(outage(&said)? == 0.0, "{said}");
        self.reads("mercure", &["early", "last=early"])?;
        self.back(&before)?;

        self.leads("clone", &["--accept-loss"], "cloned")?;
        self.write("mercure", "between")?;
        let said = self.leads("upgrade", &["--yes"], "upgraded")?;
        ensure!(outage(&said)? > 0.0, "{said}");
        self.good("verify", "verified")?;
        for verb in ["promote", "rollback"] {
            let said = self.ctl(verb, &[])?;
            ensure!(said.code == 9, "{said}");
        }
        self.write("mercure", "late")?;
        self.upgraded(true)?;
        self.good("abort", "aborted")?;
        self.reads("mercure", &["early", "last=early"])?;
        self.upgraded(false)?;
        self.back(&before)?;

        self.leads("clone", &["--accept-loss"], "cloned")?;
        self.leads("upgrade", &["--yes"], "upgraded")?;
        self.good("verify", "verified")?;
        self.write("mercure", "kept")?;
        let said = self.good("commit", "committed")?;
        ensure!(outage(&said)? == 0.0, "{said}");
        self.reads("mercure", &["early", "kept", "last=kept"])?;
        self.upgraded(true)?;
        self.own_volumes()
    }

    /// Runs a verb with an approval.
    pub fn ctl(&self, verb: &str, more: &[&str]) -> Result<Said> {
        let mut args = vec!["--json", verb, "mercure"];
        if matches!(verb, "clone" | "promote" | "rollback" | "abort" | "commit") {
            args.push("--yes");
        }
        args.extend(more);
        self.stage.ctl(&args)
    }
    /// Runs a verb that has to succeed and lead to this state.
    pub fn good(&self, verb: &str, state: &str) -> Result<Said> {
        self.leads(verb, &[], state)
    }
    /// The same with more arguments.
    pub fn leads(&self, verb: &str, more: &[&str], state: &str) -> Result<Said> {
        let said = self.ctl(verb, more)?;
        ensure!(said.code == 0 && ending(&said)?["state"] == state, "{:?}: {said}", self.way);
        Ok(said)
    }
    /// Name of the clone.
    pub fn run(&self) -> Result<String> {
        let status = self.stage.ctl(&["--json", "status"])?.expect(0)?.json()?;
        let run = status["runs"].as_array().and_then(|runs| runs.iter().find(|run| run["guest"] == "mercure"));
        Ok(run.and_then(|run| run["run"].as_str()).context("an open run")?.to_owned())
    }
    /// A running guest writes.
    pub fn write(&self, guest: &str, name: &str) -> Result<()> {
        self.stage.write(guest, name).with_context(|| format!("{:?}: {guest} writes {name}", self.way))
    }
    /// A running guest finds these, and nothing else.
    pub fn reads<S: AsRef<str>>(&self, guest: &str, wanted: &[S]) -> Result<()> {
        let found = self.stage.read(guest)?;
        let mut wanted: Vec<&str> = wanted.iter().map(AsRef::as_ref).collect();
        wanted.sort_unstable();
        ensure!(found == wanted, "{:?}: {guest} finds {found:?} instead of {wanted:?}", self.way);
        Ok(())
    }
    /// Whether production's system is the new one.
    fn upgraded(&self, wanted: bool) -> Result<()> {
        let release = self.stage.around()?.remove("release").unwrap_or_default();
        ensure!(release.contains("trixie") == wanted, "{:?}: {release}", self.way);
        Ok(())
    }
    /// Only the guest's own volumes are there, unmarked.
    pub fn own_volumes(&self) -> Result<()> {
        let volumes = self.stage.volumes()?;
        ensure!(volumes == OWN, "{:?}: {volumes:?}", self.way);
        Ok(())
    }
    /// Everything is as it was before the run.
    pub fn back(&self, before: &BTreeMap<String, String>) -> Result<()> {
        self.own_volumes()?;
        same(before, &self.stage.around()?, &format!("{:?}, aborted", self.way))
    }
}

/// The last event of a verb.
pub fn ending(said: &Said) -> Result<serde_json::Value> {
    said.events()?.pop().context("an event")
}

/// How long production was down.
pub fn outage(said: &Said) -> Result<f64> {
    ending(said)?["outage_s"].as_f64().with_context(|| format!("an outage in {said}"))
}

/// The kinds of the steps that were taken while production was down.
pub fn while_down(said: &Said) -> Result<Vec<String>> {
    let (mut down, mut kinds) = (false, Vec::new());
    for event in said.events()? {
        match event["event"].as_str() {
            Some("outage_started") => down = true,
            Some("outage_ended") => down = false,
            Some("step_started") if down => kinds.extend(event["step"]["kind"].as_str().map(str::to_owned)),
            _ => {}
        }
    }
    Ok(kinds)
}

/// What a guest had, and more; a `last=` of the latter counts.
pub fn also(had: &[String], more: &[&str]) -> Vec<String> {
    let had = had.iter().map(String::as_str).filter(|name| !name.starts_with("last="));
    let all: BTreeSet<&str> = had.chain(more.iter().copied()).collect();
    all.into_iter().map(str::to_owned).collect()
}

/// Insists that nothing differs.
pub fn same(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>, about: &str) -> Result<()> {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let differs = names.into_iter().filter(|name| before.get(*name) != now.get(*name));
    let lines: Vec<String> =
        differs.map(|name| format!("  {name}: {:?} -> {:?}", before.get(name), now.get(name))).collect();
    ensure!(lines.is_empty(), "{about}: the world differs:\n{}", lines.join("\n"));
    Ok(())
}
