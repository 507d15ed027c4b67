//! Versions of FreeBSD. Pure.
//!
//! `13.2-RELEASE-p4` for people; for comparisons `__FreeBSD_version` (`osreldate`), which grows with every change that programs can
//! see: 410000 for 4.10, 1302001 for 13.2 (Porter's Handbook, chapter of `__FreeBSD_version` values).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of the base system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// As people say it: `13.2-RELEASE-p4`.
    pub name: String,
    /// `__FreeBSD_version`.
    pub osrel: u32,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Release {
    /// 13 of 13.2.
    pub fn major(&self) -> u32 {
        self.osrel / 100_000
    }
    /// The release that `sys/conf/newvers.sh` and `sys/sys/param.h` describe.
    pub fn of_source(newvers: &str, param: &str) -> Option<Self> {
        let (revision, branch) = (value(newvers, "REVISION")?, value(newvers, "BRANCH")?);
        Some(Self { name: name(&format!("{revision}-{branch}"))?, osrel: defined(param)? })
    }
    /// The release of a tree, by its `bin/freebsd-version` and `usr/include/osreldate.h`. Before 10.0 there was no
    /// freebsd-version(1): the name is made of the number.
    pub fn of_tree(freebsd_version: &str, osreldate: &str) -> Option<Self> {
        let osrel = defined(osreldate);
        let told = value(freebsd_version, "USERLAND_VERSION").and_then(name);
        match (told, osrel) {
            (Some(name), Some(osrel)) => Some(Self { name, osrel }),
            (None, Some(osrel)) => Some(Self { name: spelled(osrel), osrel }),
            (Some(name), None) => Some(Self { osrel: roughly(&name)?, name }),
            (None, None) => None,
        }
    }
    /// A release by its name alone: the number is that of its first day, roughly.
    pub fn named(text: &str) -> Option<Self> {
        let name = name(text)?;
        Some(Self { osrel: roughly(&name)?, name })
    }
}

/// The first assignment of a shell variable, without its quotes and without a default's frame (`${X:-VALUE}`).
fn value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix('='))?;
    let bare = line.trim().trim_matches(['"', '\'']);
    let inner = bare.strip_prefix("${").and_then(|rest| rest.split_once(":-")).map(|(_, value)| value);
    Some(inner.map_or(bare, |value| value.trim_end_matches('}')))
}

/// `#define __FreeBSD_version 1302001`.
fn defined(text: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let define = (words.next()?, words.next()?) == ("#define", "__FreeBSD_version");
        let number: u32 = define.then(|| words.next()?.parse().ok()).flatten()?;
        (100_000..10_000_000).contains(&number).then_some(number)
    })
}

/// A name that looks like one; it becomes part of file names.
fn name(text: &str) -> Option<String> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let sound = text.len() <= 60 && text.bytes().all(known) && text.starts_with(|c: char| c.is_ascii_digit());
    sound.then(|| text.to_owned())
}

/// 1302001 is 13.2; 492000 is 4.9 or 4.11, as versions of 4.x cannot be told apart by their digits.
fn spelled(osrel: u32) -> String {
    let (major, rest) = (osrel / 100_000, osrel % 100_000);
    if major < 5 { format!("{major}.x") } else { format!("{major}.{}", rest / 1000) }
}

fn roughly(name: &str) -> Option<u32> {
    let number = name.split('-').next()?;
    let (major, minor) = number.split_once('.')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    // 4.x counted otherwise: 410000 is 4.1, 490000 is 4.9, 491000 is 4.10.
    let within = if major < 5 { (minor.min(9) * 10_000) + minor.saturating_sub(9) * 1000 } else { minor * 1000 };
    (1..100).contains(&major).then(|| major * 100_000 + within.min(99_999))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_source_says_what_it_is() {
        let newvers = "TYPE=\"FreeBSD\"\nREVISION=\"13.2\"\nBRANCH=\"RELEASE-p4\"\nif [ -n \"${BRANCH_OVERRIDE}\" ]; then\n\tBRANCH=${BRANCH_OVERRIDE}\nfi\n";
        let param = "/* x */\n#define\t__FreeBSD_version 1302001\t/* Master, propagated to newvers */\n#undef x\n";
        let release = Release::of_source(newvers, param).unwrap();
        assert_eq!((release.name.as_str(), release.osrel, release.major()), ("13.2-RELEASE-p4", 1_302_001, 13));
        let overridden = "REVISION=\"12.1\"\nBRANCH=${BRANCH_OVERRIDE:-RELEASE}\n";
        assert_eq!(Release::of_source(overridden, param).unwrap().name, "12.1-RELEASE");
        assert_eq!(Release::of_source("REVISION=\"13.2\"\nBRANCH=\"$(rm -rf /)\"\n", param), None);
        assert_eq!(Release::of_source(newvers, "#define __FreeBSD_version many\n"), None);
    }

    #[test]
    fn a_tree_says_what_it_is() {
        let script = "#!/bin/sh\nset -e\nUSERLAND_VERSION=\"13.2-RELEASE\"\n";
        let header = "#undef __FreeBSD_version\n#define __FreeBSD_version 1302001\n";
        assert_eq!(Release::of_tree(script, header).unwrap().osrel, 1_302_001);
        assert_eq!(Release::of_tree(script, "").unwrap().osrel, 1_302_000);
        let old = Release::of_tree("", "#define __FreeBSD_version 491000\n").unwrap();
        assert_eq!((old.name.as_str(), old.major()), ("4.x", 4));
        assert_eq!(Release::of_tree("", "#define __FreeBSD_version 602000\n").unwrap().name, "6.2");
        assert_eq!(Release::of_tree("", ""), None);
        assert!(Release::named("4.10-RELEASE").unwrap().osrel == 491_000 && Release::named("x").is_none());
    }
}
