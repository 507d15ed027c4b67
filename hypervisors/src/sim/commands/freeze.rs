//! A guest's file systems frozen, as by the script that the product brings: until it is asked to thaw, or by its own timer.

use super::super::world::{Frozen, Runtime, now_ms};
use super::{Inside, out};
use crate::host::Output;

/// The name the script is run under.
const NAME: &str = "upgradectl-freeze";

/// The arguments of the script, if that is what a shell is given.
pub(super) fn script<'a>(args: &'a [&'a str]) -> Option<&'a [&'a str]> {
    match args {
        ["-c", _, NAME, rest @ ..] => Some(rest),
        _ => None,
    }
}

/// Whether a command is that script.
pub(in super::super) fn is_script(argv: &[String]) -> bool {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    words.split_first().is_some_and(|(program, args)| *program == "sh" && script(args).is_some())
}

impl Runtime {
    /// Whether nothing can be written now.
    pub fn is_frozen(&self) -> bool {
        self.frozen.as_ref().is_some_and(|frozen| now_ms() < frozen.until_ms)
    }
}

impl Inside<'_> {
    pub(super) fn freeze(&mut self, args: &[&str]) -> Output {
        match args {
            ["can", ..] if self.config.fsfreeze => out("can /\n"),
            ["can" | "freeze", ..] if !self.config.fsfreeze => out("none no fsfreeze\n"),
            ["freeze", name, seconds, ..] => {
                let asked = seconds.parse::<u64>().unwrap_or_default() * 1000;
                let for_ms = self.config.freeze_ms.unwrap_or(asked);
                self.runtime.frozen = Some(Frozen { name: (*name).to_owned(), until_ms: now_ms() + for_ms });
                out("frozen /\n")
            }
            ["thaw", name, ..] => match self.runtime.frozen.take_if(|frozen| frozen.name == *name) {
                None => out("gone\n"),
                Some(frozen) if now_ms() < frozen.until_ms => out("thawed\n"),
                Some(_) => out("fired 42.00\n"),
            },
            _ => super::fail(2, "sh: what is wanted?"),
        }
    }
}
