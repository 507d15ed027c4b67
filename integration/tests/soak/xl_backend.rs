//! The xl backend in trolls: its own test for a real dom0 (`hypervisors/tests/dom0_xen.rs`) is built here and runs there, on a
//! guest with two roots.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use integration::command::run;
use integration::dom0::guest::{LEAST, MERCURE};
use integration::dom0::{Toolstack, ring};

/// The test's program.
fn built() -> Result<PathBuf> {
    let words = ["test", "--package", "hypervisors", "--test", "dom0_xen", "--no-run", "--message-format", "json"];
    let printed = run("cargo").args(words).output()?;
    let messages = printed.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let programs = messages.filter(|message| message["target"]["name"] == "dom0_xen");
    let mut programs = programs.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    programs.next().context("cargo built no dom0_xen")
}

#[test]
fn a_guest_of_xl_goes_through_all_that_the_backend_does() -> Result<()> {
    let dom0 = ring::standing(Toolstack::Xl)?;
    for volume in ["mercure", "other"] {
        dom0.vg().thick(volume, LEAST)?;
        dom0.place(&MERCURE, volume)?;
    }
    dom0.define(&MERCURE, "mercure", false)?;
    run("strip").args(["--strip-debug", "-o"]).arg(dom0.share("dom0_xen")).arg(built()?).output()?;
    let (other, address) = (dom0.vg().device("other"), format!("{}:22", MERCURE.address()));
    let given = [
        "UPGRADECTL_XEN_GUEST=/etc/xen/mercure.cfg".to_owned(),
        format!("UPGRADECTL_XEN_OTHER={other}"),
        format!("UPGRADECTL_XEN_ADDRESS={address}"),
    ];
    let given = given.iter().map(String::as_str);
    let said = dom0.run(["env"].into_iter().chain(given).chain(["/share/dom0_xen", "--nocapture"]))?.expect(0)?;
    eprint!("{}", said.stderr);
    ensure!(said.stdout.contains("1 passed") && !said.stderr.contains("SKIPPED"), "{said}");
    ensure!(!dom0.domains()?.contains_key("mercure"), "it left a guest");
    Ok(())
}
