//! `sha256 -q FILE` (md5(1)): the digest alone.

use sha2::{Digest as _, Sha256};

use crate::host::Host;
use crate::say;

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let [quiet, file] = arguments else { return say::not_played("sha256") };
    if quiet != "-q" {
        return say::not_played("sha256");
    }
    match std::fs::read(host.path(file)) {
        Ok(bytes) => {
            say::out(&format!("{}\n", digest(&bytes)));
            0
        }
        Err(wrong) => say::wrong(&format!("{file}: {}", say::reason(&wrong))),
    }
}

/// In hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
