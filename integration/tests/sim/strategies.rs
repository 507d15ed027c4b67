//! The strategies on volumes like LVM's, thick and thin: every cell of the lifecycle page's table ([`integration::walk`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use hypervisors::storage::Copies;
use integration::cli::Said;
use integration::walk::{Stage, Walk};
use serde_json::Value;

use crate::bench::{Bench, Ending as _};

const BOTH: [Copies; 2] = [Copies::Dependents, Copies::Peers];

/// The volume a guest's root stands on, by its definition.
fn root_of(bench: &Bench, guest: &str) -> Result<String> {
    let definition: Value = serde_json::from_str(&bench.definition(guest)?)?;
    let disks = definition["disks"].as_array().unwrap();
    Ok(disks.iter().find(|disk| disk["name"] == "/").unwrap()["volume"].as_str().unwrap().to_owned())
}

fn file(bench: &Bench, guest: &str, name: &str) -> Result<PathBuf> {
    Ok(bench.volume(&root_of(bench, guest)?, name))
}

impl Stage for Bench {
    fn ctl(&self, args: &[&str]) -> Result<Said> {
        Ok(self.ctl_run(args))
    }
    fn write(&self, guest: &str, name: &str) -> Result<()> {
        for file_name in [name, "last"] {
            fs::write(file(self, guest, &format!("root-{file_name}"))?, name)?;
        }
        Ok(())
    }
    fn read(&self, guest: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(file(self, guest, "")?)? {
            let path = entry?.path();
            let Some(name) = path.file_name().unwrap().to_str().unwrap().strip_prefix("root-") else { continue };
            let text = fs::read_to_string(&path)?;
            found.push(match name {
                "last" => format!("last={text}"),
                _ if text == name => text,
                _ => format!("!{name}"),
            });
        }
        found.sort();
        Ok(found)
    }
    fn volumes(&self) -> Result<Vec<String>> {
        let mut volumes = Vec::new();
        for entry in fs::read_dir(self.path("world/volumes"))? {
            let name = entry?.file_name().into_string().unwrap();
            let Some(volume) = name.strip_suffix(".json") else { continue };
            let meta: Value = serde_json::from_slice(&fs::read(self.path("world/volumes").join(&name))?)?;
            let mark = meta["mark"].as_str().map(|mark| format!(" {mark}")).unwrap_or_default();
            volumes.push(format!("{volume}{mark}"));
        }
        volumes.sort();
        Ok(volumes)
    }
    fn definition(&self, guest: &str) -> Result<String> {
        Ok(fs::read_to_string(self.path(&format!("world/definitions/{guest}.json")))?)
    }
    fn around(&self) -> Result<BTreeMap<String, String>> {
        let mut around = self.picture().0;
        around.retain(|name, _| !name.contains("/root-") && !name.contains("/var/lib/upgradectl"));
        // In place there is no clone.
        if let Some(clone) = self.run().and_then(|run| root_of(self, run["run"].as_str()?).ok()) {
            let clone = format!("volumes/{clone}/");
            around.retain(|name, _| !name.starts_with(&clone));
        }
        let release = fs::read_to_string(file(self, "mercure", "etc/os-release")?)?;
        around.insert("release".into(), release);
        Ok(around)
    }
}

/// Walks on volumes of both kinds, by these strategies.
fn on_both(strategies: &[&'static str], walk: impl Fn(&Walk<'_>) -> Result<()>) -> Result<()> {
    for copies in BOTH {
        for strategy in strategies {
            let bench = Bench::with_copies(copies, strategy);
            walk(&Walk::new(&bench, strategy, copies == Copies::Dependents))?;
            bench.no_conflicts(&format!("{copies:?} {strategy}"));
        }
    }
    Ok(())
}

#[test]
fn abort_before_promotion_keeps_what_production_wrote() -> Result<()> {
    on_both(&["snapshot", "origin"], |walk| walk.abort_before_promotion())
}

#[test]
fn promote_and_commit() -> Result<()> {
    on_both(&["snapshot", "origin"], |walk| {
        walk.commit()?;
        // A new run may begin.
        walk.good("clone", "cloned").map(drop)
    })
}

#[test]
fn rollback_and_abort_after_promotion() -> Result<()> {
    on_both(&["snapshot", "origin"], |walk| {
        walk.rollback_and_abort()?;
        walk.abort_after_rollback()
    })
}

#[test]
fn in_place_leads_forward_and_back() -> Result<()> {
    on_both(&["in-place"], |walk| walk.in_place())
}

#[test]
fn trees_know_one_strategy_only() {
    for strategy in ["origin", "in-place"] {
        let bench = Bench::new();
        let before = bench.picture();
        let said = bench.verb_with("clone", &["--strategy", strategy, "--accept-loss"]);
        assert_eq!(said.code, 7, "{said}");
        assert!(said.ending()["error"].to_string().contains("strategy"), "{said}");
        before.assert_same(&bench.picture(), strategy);
    }
}

#[test]
fn what_is_kept_after_promotion_is_what_production_stood_on() -> Result<()> {
    for strategy in ["snapshot", "origin"] {
        let bench = Bench::with_copies(Copies::Dependents, strategy);
        bench.good_way_to("verified");
        let stood_on = root_of(&bench, "mercure")?;
        let said = bench.ctl_run(&["promote", "mercure", "--yes"]);
        assert_eq!(said.code, 0, "{said}");
        let words: Vec<&str> = said.stdout.split_whitespace().skip_while(|word| *word != "kept:").collect();
        let kept = words[1].trim_end_matches('.').rsplit('/').next();
        assert_eq!(kept, Some(stood_on.as_str()), "{strategy}: {said}");
        assert_ne!(root_of(&bench, "mercure")?, stood_on);
    }
    Ok(())
}
