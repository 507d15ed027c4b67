//! A batch of real guests: side by side, each as by itself.

use std::fs;

use anyhow::{Result, ensure};
use integration::cli::Upgradectl;
use integration::lab::guest::{Guest, TINY};
use integration::lab::{Lab, inventory};
use serde_json::Value;

const GUESTS: [Guest; 3] =
    [TINY, Guest { name: "second", host: 30, ..TINY }, Guest { name: "third", host: 40, ..TINY }];

#[test]
fn three_guests_are_cloned_and_verified_in_one_batch() -> Result<()> {
    let lab = Lab::numbered(1)?.standing(&GUESTS)?;
    let before = lab.domains()?;
    let product = Upgradectl::in_lab(&lab)?;
    let text = inventory::text(&lab, &GUESTS);
    fs::write(
        lab.inventory(),
        text.replace(r#"recipe = "debian", to = "trixie""#, r#"recipe = "script", run = ["true"]"#),
    )?;
    let file = lab.path("night.toml");
    fs::write(
        &file,
        "version = 1\n[batch]\nname = \"night\"\nverbs = [\"clone\", \"upgrade\", \"verify\"]\nparallel = 3\nper_disk = 2\n\
         [[batch.items]]\nhost = \"here\"\n",
    )?;
    let file = file.to_string_lossy();
    let plan = product.run(["batch", "plan", &file])?.expect(0)?;
    ensure!(plan.stdout.matches("ready").count() == 3, "{plan}");
    ensure!(lab.domains()? == before, "looking touches nothing");

    let said = product.run(["batch", "run", &file, "--yes"])?.expect(0)?;
    ensure!(said.stdout.contains("3 of 3 ended well"), "{said}");
    ensure!(lab.domains()?.len() == 6, "three originals and three clones: {:?}", lab.domains()?);
    for guest in GUESTS {
        ensure!(product.run(["ssh", guest.name, "--", "hostname"])?.expect(0)?.stdout.trim() == guest.name);
    }
    let report = product.run(["batch", "report", &file, "--json"])?.expect(0)?;
    let report: Value = serde_json::from_str(&report.stdout)?;
    for item in report["items"].as_array().into_iter().flatten() {
        ensure!(item["state"] == "verified" && item["outage_s"] == 0.0, "{item}");
    }

    product.run(["batch", "abort", &file, "--yes"])?.expect(0)?;
    ensure!(lab.domains()? == before, "{:?}", lab.domains()?);
    Ok(())
}
