//! `make demo`: a mail server goes from Debian 12 to 13, and back, and there again, while mail keeps coming in.
//!
//! Everything is real: the guests, the package upgrade, the failure in it, the mail. Every line that begins with `ok`
//! was asserted on the world itself (libvirt, ssh, IMAP, HTTP, the mail archive), not read from the product's output.
//! The first one that does not hold ends the demo, which exits 1 then and leaves the lab as it is, for a look.
//!
//! `UPGRADECTL_LAB_NUMBER` chooses another lab than 0.

mod acts;
mod stage;

use std::process::ExitCode;

use anyhow::Context as _;
use integration::lab::Lab;

fn lab() -> anyhow::Result<Lab> {
    let number = std::env::var("UPGRADECTL_LAB_NUMBER").unwrap_or_else(|_| "0".to_owned());
    Lab::numbered(number.parse().context("UPGRADECTL_LAB_NUMBER is not a number")?)
}

fn main() -> ExitCode {
    match lab().and_then(acts::play) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            eprintln!("the lab is as it was then; look around, then: make clean-lab");
            ExitCode::FAILURE
        }
    }
}
