//! The demo is a test: what it claims holds, from the first act to the last.

use anyhow::{Result, ensure};
use integration::command::run;
use integration::lab::Lab;

#[test]
fn the_demo_keeps_what_it_claims() -> Result<()> {
    let lab = Lab::numbered(1)?;
    let played = run(env!("CARGO_BIN_EXE_demo")).env("UPGRADECTL_LAB_NUMBER", lab.number().to_string()).finish()?;
    let (out, err) = (String::from_utf8_lossy(&played.stdout), String::from_utf8_lossy(&played.stderr));
    // It leaves its lab up, for a look.
    if std::env::var_os("UPGRADECTL_LAB_KEEP").is_none() {
        lab.down()?;
    }
    ensure!(played.status.success() && out.contains("claims asserted"), "{out}\n{err}");
    Ok(())
}
