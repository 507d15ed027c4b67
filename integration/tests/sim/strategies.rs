//! The strategies on volumes like LVM's, thick and thin: every cell of the lifecycle page's table, with data written on both
//! sides before each verb and compared afterwards.

use std::fs;

use hypervisors::storage::Copies;
use integration::cli::Said;
use serde_json::Value;

use crate::bench::{Bench, Ending as _, Picture};

const BOTH: [Copies; 2] = [Copies::Dependents, Copies::Peers];

/// The volume a guest's root stands on, by its definition.
fn root_of(bench: &Bench, guest: &str) -> String {
    let text = fs::read_to_string(bench.path(&format!("world/definitions/{guest}.json"))).unwrap();
    let definition: Value = serde_json::from_str(&text).unwrap();
    let disks = definition["disks"].as_array().unwrap();
    disks.iter().find(|disk| disk["name"] == "/").unwrap()["volume"].as_str().unwrap().to_owned()
}

/// The guest writes a file of this name.
fn writes(bench: &Bench, guest: &str, name: &str) {
    fs::write(bench.volume(&root_of(bench, guest), &format!("root-{name}")), name).unwrap();
}

/// Names that a guest can read.
fn reads(bench: &Bench, guest: &str) -> Vec<String> {
    let root = bench.volume(&root_of(bench, guest), "");
    let names = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter_map(|name| Some(name.strip_prefix("root-")?.to_owned())).collect();
    names.sort();
    names
}

fn volumes(bench: &Bench) -> Vec<String> {
    let names = fs::read_dir(bench.path("world/volumes")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> =
        names.map(|name| name.into_string().unwrap()).filter(|n| !n.ends_with(".json")).collect();
    names.sort();
    names
}

/// The world without what guests wrote: definitions, power, marks, identity.
fn frame(picture: &Picture) -> Picture {
    let mut picture = picture.clone();
    picture.0.retain(|name, _| !name.contains("/root-"));
    picture
}

/// The same, the clone's own files left out: they were rewritten and written back.
fn around(bench: &Bench, run: &str) -> Picture {
    let mut picture = frame(&bench.picture());
    let clone = format!("volumes/{}/", root_of(bench, run));
    picture.0.retain(|name, _| !name.starts_with(&clone) && !name.contains("/var/lib/upgradectl"));
    picture
}

fn has(bench: &Bench, file: &str) -> bool {
    bench.volume(&root_of(bench, "mercure"), file).exists()
}

/// `clone`, which asks where it stops production.
fn cloned(bench: &Bench) -> Said {
    let said = bench.verb_with("clone", &["--yes"]);
    assert_eq!((said.code, said.state().as_deref()), (0, Some("cloned")), "{said}");
    said
}

const OWN: [&str; 3] = ["mercure", "mercure-mail", "mercure-swap"];

#[test]
fn abort_before_promotion_keeps_what_production_wrote() {
    for copies in BOTH {
        for strategy in ["snapshot", "origin"] {
            let about = format!("{copies:?} {strategy}");
            let bench = Bench::with_copies(copies, strategy);
            let before = frame(&bench.picture());
            writes(&bench, "mercure", "a");
            let said = cloned(&bench);
            let down = said.ending()["outage_s"].as_f64().unwrap();
            assert_eq!(down > 0.0, strategy == "origin", "{about}: {said}");
            let run = bench.run_id();
            writes(&bench, "mercure", "production");
            writes(&bench, &run, "clone");
            bench.good("upgrade", "upgraded");
            assert_eq!(reads(&bench, "mercure"), ["a", "production"], "{about}");
            let said = bench.verb("abort");
            assert_eq!(said.code, 0, "{about}: {said}");
            assert_eq!(said.ending()["outage_s"].as_f64().unwrap() > 0.0, strategy == "origin", "{about}: {said}");
            assert_eq!(reads(&bench, "mercure"), ["a", "production"], "{about}");
            assert_eq!(volumes(&bench), OWN, "{about}");
            before.assert_same(&frame(&bench.picture()), &about);
            bench.no_conflicts(&about);
        }
    }
}

#[test]
fn promote_and_commit() {
    for copies in BOTH {
        for strategy in ["snapshot", "origin"] {
            let about = format!("{copies:?} {strategy}");
            let bench = Bench::with_copies(copies, strategy);
            let definition = fs::read_to_string(bench.path("world/definitions/mercure.json")).unwrap();
            cloned(&bench);
            let run = bench.run_id();
            writes(&bench, "mercure", "production");
            writes(&bench, &run, "clone");
            bench.good("upgrade", "upgraded");
            bench.good("verify", "verified");
            bench.good("promote", "promoted");
            assert_eq!(reads(&bench, "mercure"), ["clone"], "{about}");
            writes(&bench, "mercure", "promoted");
            let said = bench.good("commit", "committed");
            let fold = copies == Copies::Dependents && strategy == "snapshot";
            assert_eq!(said.ending()["outage_s"].as_f64().unwrap() > 0.0, fold, "{about}: {said}");
            assert_eq!(reads(&bench, "mercure"), ["clone", "promoted"], "{about}");
            assert_eq!(volumes(&bench), OWN, "{about}");
            let now = fs::read_to_string(bench.path("world/definitions/mercure.json")).unwrap();
            assert_eq!(now, definition, "{about}: the definition as clone found it");
            assert!(has(&bench, "etc/debian_version"), "{about}");
            assert_eq!(bench.state(), "none");
            bench.no_conflicts(&about);
            // A new run may begin.
            cloned(&bench);
        }
    }
}

#[test]
fn rollback_and_abort_after_promotion() {
    for copies in BOTH {
        for strategy in ["snapshot", "origin"] {
            let about = format!("{copies:?} {strategy}");
            let bench = Bench::with_copies(copies, strategy);
            let before = frame(&bench.picture());
            cloned(&bench);
            let run = bench.run_id();
            writes(&bench, "mercure", "production");
            writes(&bench, &run, "clone");
            bench.good("upgrade", "upgraded");
            bench.good("verify", "verified");
            let verified = around(&bench, &run);
            bench.keep("verified");
            bench.good("promote", "promoted");
            writes(&bench, "mercure", "promoted");
            bench.keep("promoted");

            bench.good("rollback", "upgraded");
            assert_eq!(reads(&bench, "mercure"), ["production"], "{about}");
            assert_eq!(reads(&bench, &run), ["clone", "promoted"], "{about}");
            verified.assert_same(&around(&bench, &run), &format!("{about}, rolled back"));
            let said = bench.verb("abort");
            assert_eq!(said.code, 0, "{about}: {said}");
            assert_eq!(reads(&bench, "mercure"), ["production"], "{about}, rolled back and aborted");
            before.assert_same(&frame(&bench.picture()), &format!("{about}, rolled back and aborted"));

            bench.back_to("promoted");
            let said = bench.verb("abort");
            assert_eq!(said.code, 0, "{about}: {said}");
            assert_eq!(reads(&bench, "mercure"), ["production"], "{about}, aborted");
            assert_eq!(volumes(&bench), OWN, "{about}");
            before.assert_same(&frame(&bench.picture()), &format!("{about}, aborted"));
            bench.no_conflicts(&about);
        }
    }
}

#[test]
fn in_place_leads_forward_and_back() {
    for copies in BOTH {
        let about = format!("{copies:?} in-place");
        let bench = Bench::with_copies(copies, "in-place");
        let before = frame(&bench.picture());
        let said = bench.verb("clone");
        assert_eq!(said.code, 7, "{about}: {said}");
        assert!(said.ending()["error"].to_string().contains("--accept-loss"), "{about}: {said}");
        let said = bench.verb_with("clone", &["--accept-loss"]);
        assert_eq!((said.code, said.state().as_deref()), (0, Some("cloned")), "{about}: {said}");
        writes(&bench, "mercure", "early");
        bench.keep("cloned");
        // Nothing was changed yet: nothing is merged, and nothing production wrote is lost.
        let said = bench.verb("abort");
        assert_eq!((said.code, said.ending()["outage_s"].as_f64()), (0, Some(0.0)), "{about}: {said}");
        assert_eq!(reads(&bench, "mercure"), ["early"], "{about}");
        before.assert_same(&frame(&bench.picture()), &format!("{about}, not begun"));

        bench.back_to("cloned");
        let said = bench.verb_with("upgrade", &["--yes"]);
        assert_eq!((said.code, said.state().as_deref()), (0, Some("upgraded")), "{about}: {said}");
        assert!(said.ending()["outage_s"].as_f64().unwrap() > 0.0, "{about}: {said}");
        bench.good("verify", "verified");
        for verb in ["promote", "rollback"] {
            assert_eq!(bench.verb(verb).code, 9, "{about}: {verb}");
        }
        bench.keep("verified");
        let said = bench.good("commit", "committed");
        assert_eq!(said.ending()["outage_s"].as_f64(), Some(0.0), "{about}: {said}");
        assert_eq!(
            (volumes(&bench), reads(&bench, "mercure")),
            (OWN.map(str::to_owned).to_vec(), vec!["early".to_owned()])
        );

        bench.back_to("verified");
        writes(&bench, "mercure", "late");
        let said = bench.verb("abort");
        assert_eq!(said.code, 0, "{about}: {said}");
        assert_eq!(reads(&bench, "mercure"), Vec::<String>::new(), "{about}: as clone found it");
        assert_eq!(volumes(&bench), OWN, "{about}");
        before.assert_same(&frame(&bench.picture()), &about);
        bench.no_conflicts(&about);
    }
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
