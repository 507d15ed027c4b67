//! Tests of `hypervisors` that need a real Xen host: built here, run in trolls.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use integration::cli::Said;
use integration::command::run;
use integration::dom0::Dom0;

/// Builds a test of `hypervisors` (`tests/NAME.rs`).
fn built(name: &str) -> Result<PathBuf> {
    let words = ["test", "--package", "hypervisors", "--test", name, "--no-run", "--message-format", "json"];
    let printed = run("cargo").args(words).output()?;
    let messages = printed.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let programs = messages.filter(|message| message["target"]["name"] == name);
    let mut programs = programs.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    programs.next().with_context(|| format!("cargo built no {name}"))
}

/// Runs one in trolls, its tests one after the other; all of them have to run and to pass.
pub fn passes(dom0: &Dom0, name: &str, environment: &[String]) -> Result<Said> {
    run("strip").args(["--strip-debug", "-o"]).arg(dom0.share(name)).arg(built(name)?).output()?;
    let program = format!("/share/{name}");
    let words = ["env"].into_iter().chain(environment.iter().map(String::as_str));
    let said = dom0.run(words.chain([program.as_str(), "--nocapture", "--test-threads=1"]))?.expect(0)?;
    eprint!("{}", said.stderr);
    ensure!(!said.stdout.contains(" 0 passed") && !said.stderr.contains("SKIPPED"), "{said}");
    Ok(said)
}
