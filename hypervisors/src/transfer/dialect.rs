//! The letters of dump(8), which differ between the systems and their ages, and the command line made of them. Pure.
//!
//! Which letters a dump knows is read from its own usage message; where that is not understood, from the release. Letters
//! that differ in meaning go by the system: Linux' `-L` is a label.

use serde::{Deserialize, Serialize};

use super::PATH;
use crate::host::Command;

/// What the source runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// FreeBSD, of any age.
    Freebsd,
    /// Linux.
    Linux,
}

/// What a source's dump can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialect {
    /// Whose dump it is.
    pub system: System,
    /// `-L` dumps a snapshot (FreeBSD 5 and later).
    pub snapshot: bool,
    /// `-C` caches blocks; used with a snapshot alone, because a cache misses what changes on a live file system (dump.8).
    pub cache: bool,
    /// `-D FILE` is another dumpdates than the site's.
    pub dumpdates: bool,
}

impl Dialect {
    /// Reads what `dump` alone prints; `release` (`13.2-RELEASE`, `6.1.0-13-amd64`) decides what it does not say.
    pub fn of(system: System, release: &str, usage: &str) -> Self {
        let groups: Vec<&str> = usage.split('[').skip(1).filter_map(|group| group.split(']').next()).collect();
        let bundle = groups.iter().find(|group| group.starts_with('-') && group.contains('a') && !group.contains(' '));
        let major: u32 = release.split(['.', '-']).next().and_then(|major| major.parse().ok()).unwrap_or(0);
        let knows = |letter: char, since: u32| match bundle {
            Some(bundle) => {
                bundle.contains(letter) || groups.iter().any(|group| group.starts_with(&format!("-{letter} ")))
            }
            None => major >= since,
        };
        match system {
            System::Freebsd => Self { system, snapshot: knows('L', 5), cache: knows('C', 5), dumpdates: knows('D', 6) },
            System::Linux => {
                Self { system, snapshot: false, cache: false, dumpdates: bundle.is_none() || knows('D', 0) }
            }
        }
    }
}

/// How a dump knows what was dumped before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// It need not, and no later one will ask: nothing is written down on the source.
    Nothing,
    /// By a dumpdates file of our own on the source, which this dump also enters itself into (`-u -D`).
    Dates(String),
    /// By the date that the dump before it told (`-T`), where dump has no `-D`: the site's own dumpdates stays as it is.
    Told(String),
}

/// What is asked of dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpLine<'a> {
    /// What it understands.
    pub dialect: &'a Dialect,
    /// 0, or 1: what changed since 0.
    pub level: u8,
    /// Device of the file system. A mount point works only if it stands in fstab (recorded on 13.2).
    pub device: &'a str,
    /// By a snapshot.
    pub snapshot: bool,
    /// What went before.
    pub since: Since,
}

impl DumpLine<'_> {
    /// The argv: to standard output, without end of tape (`-a`), files flagged `nodump` left out (`-h 0`; FreeBSD only: what
    /// a Linux server's chattr said could not be told when both sides are compared).
    pub fn argv(&self) -> Vec<String> {
        let mut argv = vec!["dump".to_owned(), format!("-{}", self.level), "-a".to_owned()];
        let mut add = |words: &[&str]| argv.extend(words.iter().map(|word| (*word).to_owned()));
        if self.snapshot && self.dialect.snapshot {
            add(&["-L"]);
            if self.dialect.cache {
                add(&["-C", "32"]);
            }
        }
        if self.dialect.system == System::Freebsd {
            add(&["-h", "0"]);
        }
        match &self.since {
            Since::Nothing => (),
            Since::Dates(file) => add(&["-u", "-D", file]),
            Since::Told(date) => add(&["-T", date]),
        }
        add(&["-f", "-", self.device]);
        argv
    }

    /// The command for the source. A mounted ext4 writes past what the kernel keeps of the device, from which Linux' dump reads:
    /// that is let go of first, or an earlier dump would be read once more. Where it compresses, the pipe's status is the compressor's, and dump's own is said on
    /// standard error ([`DUMP_STATUS`]).
    pub fn command(&self, compression: Option<Compression>) -> Command {
        let fresh = match self.dialect.system {
            System::Freebsd => "",
            System::Linux => FRESH,
        };
        let script = match compression {
            None => format!("{PATH}{fresh}exec \"$@\""),
            Some(compression) => {
                format!("{PATH}{fresh}{{ \"$@\"; echo \"{DUMP_STATUS}$?\" >&2; }} | {}", compression.packs())
            }
        };
        Command::new(["sh", "-c", &script, "sh"].map(str::to_owned).into_iter().chain(self.argv()))
    }
}

/// The device is the last argument.
const FRESH: &str = "for d in \"$@\"; do :; done; sync; blockdev --flushbufs \"$d\" >/dev/null 2>&1; ";

/// Before dump's exit status, where it is not the command's own.
pub(super) const DUMP_STATUS: &str = "upgradectl-dump-status ";

/// How the stream is packed on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// zstd(1), level 1.
    Zstd,
    /// gzip(1), level 1: every system has it.
    Gzip,
}

impl Compression {
    /// The better of what both sides have.
    pub fn common(source: &[Self], target: &[Self]) -> Option<Self> {
        [Self::Zstd, Self::Gzip].into_iter().find(|one| source.contains(one) && target.contains(one))
    }
    /// The program.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
    /// Packs its input.
    pub(super) fn packs(self) -> &'static str {
        match self {
            Self::Zstd => "zstd -q -1 -c",
            Self::Gzip => "gzip -1 -c",
        }
    }
    /// Unpacks its input.
    pub(super) fn unpacks(self) -> &'static str {
        match self {
            Self::Zstd => "zstd -q -d -c",
            Self::Gzip => "gzip -d -c",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FreeBSD 13.2, recorded; Debian 12's dump 0.4b47.
    const USAGE_13: &str = "usage: dump [-0123456789acLnSu] [-B records] [-b blocksize] [-C cachesize]\n            [-D dumpdates] \
        [-d density] [-f file | -P pipecommand] [-h level]\n            [-s feet] [-T date] filesystem\n       dump -W | -w\n";
    const USAGE_LINUX: &str = "dump 0.4b47 (using libext2fs 1.47.0 of 5-Feb-2023)\nusage:\tdump [-level#] [-acmMnqSuv] [-A file] \
        [-B records] [-b blocksize]\n\t     [-d density] [-D file] [-e inode#,inode#,...] [-E file]\n\t     [-f file] [-h level] \
        [-I nr errors] [-j zlevel] [-Q file]\n\t     [-s feet] [-T date] [-y] [-z zlevel] filesystem\n\tdump [-W | -w]\n";
    /// After the manual page of FreeBSD 4.7, SYNOPSIS.
    const USAGE_4: &str = "usage: dump [-0123456789acknSu] [-B records] [-b blocksize] [-d density] [-f file]\n            \
        [-h level] [-s feet] [-T date] filesystem\n       dump [-W | -w]\n";

    fn line(dialect: &Dialect, level: u8, snapshot: bool, since: Since) -> String {
        DumpLine { dialect, level, device: "/dev/da0s1a", snapshot, since }.argv().join(" ")
    }

    #[test]
    fn each_dump_is_spoken_to_in_its_letters() {
        let new = Dialect::of(System::Freebsd, "13.2-RELEASE", USAGE_13);
        assert_eq!(new, Dialect { system: System::Freebsd, snapshot: true, cache: true, dumpdates: true });
        assert_eq!(line(&new, 0, true, Since::Nothing), "dump -0 -a -L -C 32 -h 0 -f - /dev/da0s1a");
        assert_eq!(
            line(&new, 1, true, Since::Dates("/d".into())),
            "dump -1 -a -L -C 32 -h 0 -u -D /d -f - /dev/da0s1a"
        );
        assert_eq!(line(&new, 0, false, Since::Nothing), "dump -0 -a -h 0 -f - /dev/da0s1a");
        let old = Dialect::of(System::Freebsd, "4.7-RELEASE", USAGE_4);
        assert_eq!(old, Dialect { system: System::Freebsd, snapshot: false, cache: false, dumpdates: false });
        let date = "Sun Nov 22 01:43:12 2026";
        assert_eq!(
            line(&old, 1, true, Since::Told(date.into())),
            format!("dump -1 -a -h 0 -T {date} -f - /dev/da0s1a")
        );
        let linux = Dialect::of(System::Linux, "6.1.0-13-amd64", USAGE_LINUX);
        assert_eq!(linux, Dialect { system: System::Linux, snapshot: false, cache: false, dumpdates: true });
        assert_eq!(line(&linux, 0, true, Since::Nothing), "dump -0 -a -f - /dev/da0s1a");
    }

    #[test]
    fn a_usage_that_is_not_understood_leaves_it_to_the_release() {
        for (release, snapshot, dumpdates) in
            [("4.10-RELEASE", false, false), ("5.4-RELEASE", true, false), ("6.2", true, true)]
        {
            let dialect = Dialect::of(System::Freebsd, release, "dump: not found");
            assert_eq!((dialect.snapshot, dialect.dumpdates), (snapshot, dumpdates), "{release}");
        }
        assert!(!Dialect::of(System::Freebsd, "", "").snapshot);
    }

    #[test]
    fn a_packed_dump_says_its_own_status() {
        let dialect = Dialect::of(System::Linux, "6", USAGE_LINUX);
        let line = DumpLine { dialect: &dialect, level: 0, device: "/dev/a b", snapshot: false, since: Since::Nothing };
        let argv = line.command(Some(Compression::Gzip)).argv;
        assert!(argv[2].ends_with("{ \"$@\"; echo \"upgradectl-dump-status $?\" >&2; } | gzip -1 -c"), "{}", argv[2]);
        assert_eq!(argv.last().map(String::as_str), Some("/dev/a b"));
        assert_eq!(
            Compression::common(&[Compression::Gzip], &[Compression::Zstd, Compression::Gzip]),
            Some(Compression::Gzip)
        );
        assert_eq!(Compression::common(&[Compression::Zstd], &[]), None);
    }
}
