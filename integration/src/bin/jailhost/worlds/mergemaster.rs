//! `mergemaster`, as far as it works without being asked: `-a`, with `-D`, `-m`, `-t`. What differs stays in the temproot.
//! Unproven but for the missing sources.

use super::make;
use crate::host::Host;
use crate::{faults, say};

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let (mut destination, mut source, mut temproot, mut auto) =
        (String::new(), "/usr/src".to_owned(), "/var/tmp/temproot".to_owned(), false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            return say::not_played(argument);
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            let mut value = || {
                let own: String = letters.by_ref().collect();
                if own.is_empty() { rest.next().cloned().unwrap_or_default() } else { own }
            };
            match letter {
                'a' => auto = true,
                'D' => destination = value(),
                'm' => source = value(),
                't' => temproot = value(),
                'c' | 's' | 'v' => {}
                letter => return say::not_played(&format!("-{letter}")),
            }
        }
    }
    if !host.path(&source).is_dir() {
        say::out(&format!("\n*** {source} was not found.\n    **** No suitable {source} found, exiting\n"));
        return 1;
    }
    if !auto {
        return say::not_played("questions (no -a)");
    }
    if host.read(format!("{destination}/etc/fstab")).is_ok_and(|text| text.contains("nodev")) {
        say::out("\n*** You have the deprecated option 'nodev' in your fstab\n");
        return 1;
    }
    let tree = host.path(format!("{source}/etc-tree"));
    let temporary = host.path(&temproot);
    let _ = std::fs::remove_dir_all(&temporary);
    say::out(&format!(
        "\n*** Creating the temporary root environment in {temproot}\n *** {temproot} ready for use\n *** Creating and populating directory structure in {temproot}\n"
    ));
    let mut left = Vec::new();
    for file in make::files(&tree) {
        let (new, installed) = (tree.join(&file), host.path(&destination).join(&file));
        if faults::lies() || std::fs::read(&new).ok() == std::fs::read(&installed).ok() {
            continue;
        }
        if let Err(wrong) = make::put(&new, &temporary.join(&file)) {
            return say::wrong(&format!("{temproot}: {}", say::reason(&wrong)));
        }
        left.push(format!("   {temproot}/{}\n", file.display()));
    }
    say::out("\n*** Beginning comparison\n\n*** Comparison complete\n");
    if left.is_empty() {
        say::out(&format!("*** {temproot} is empty, deleting\n"));
        let _ = std::fs::remove_dir_all(&temporary);
    } else {
        say::out(&format!("\n*** Files that remain for you to merge by hand:\n{}", left.concat()));
    }
    0
}
