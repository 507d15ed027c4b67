//! ssh's own troubles, told from those of the command it ran.

use super::SshTarget;
use crate::host::{Output, printable, printable_tail};
use crate::{Error, Result};

/// What the wrapper says of a 255 that is the command's.
pub(super) const OWN_255: &[u8] = b"upgradectl-status-255\n";

/// What ssh or the wrapper gave back, sorted into a result of the command or a failure to run it.
pub(super) fn sort(target: &SshTarget, program: &str, mut output: Output) -> Result<Output> {
    let doing = || format!("run {} on {}", printable(program), target.name);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if output.status == 255 {
        if output.stderr.ends_with(OWN_255) {
            output.stderr.truncate(output.stderr.len() - OWN_255.len());
            return Ok(output);
        }
        let shown = printable_tail(&output.stderr, 2);
        if has(&["Host key verification failed", "REMOTE HOST IDENTIFICATION", "host key is known for"]) {
            let file = target.known_hosts.as_ref().map_or("known_hosts".into(), |file| file.display().to_string());
            let name = target.alias.as_deref().unwrap_or(&target.address);
            return Err(Error::refused(doing(), format!("its host key is not the expected one: {shown}"))
                .help(format!("compare the key of {} with the one recorded for {name} in {file}", target.address)));
        }
        if has(&["Permission denied", "Too many authentication failures"]) {
            return Err(Error::refused(doing(), format!("login as {} was refused: {shown}", target.user)).help(
                format!(
                    "put the public key into ~{}/.ssh/authorized_keys there, or name another user or key",
                    target.user
                ),
            ));
        }
        if has(&["Could not resolve hostname", "Bad configuration option", "no matching", "command-line: line"]) {
            return Err(Error::refused(doing(), shown).help(format!("check the ssh settings of {}", target.name)));
        }
        let why = if shown.is_empty() { "the connection was lost without a word".to_owned() } else { shown };
        return Err(Error::unknown(doing(), why));
    }
    if target.sudo && output.status == 1 && has(&["sudo: a password is required", "sudo: a terminal is required"]) {
        return Err(Error::refused(doing(), format!("sudo wants a password of {}", target.user))
            .help(format!("allow {} there to run commands without a password (NOPASSWD in sudoers)", target.user)));
    }
    let last = said.trim_end().lines().next_back().unwrap_or("");
    let missing = matches!(output.status, 127 | 1)
        && last.contains(program)
        && (last.ends_with("not found") || (output.status == 127 && last.ends_with("No such file or directory")))
        && (output.status == 127 || last == format!("sudo: {program}: command not found"));
    if missing {
        return Err(Error::not_found(doing(), format!("{} is not installed", printable(program))).help(format!(
            "install {} on {}",
            printable(program),
            target.name
        )));
    }
    Ok(output)
}
