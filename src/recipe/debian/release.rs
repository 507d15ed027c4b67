//! The releases of Debian that an upgrade can start from or lead to. Pure.
//!
//! Debian supports upgrades from one stable release to the next only (release notes, "Upgrades from Debian N").

use std::fmt;

/// A stable release of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// Major version: 12.
    pub version: u32,
    /// Code name: `bookworm`.
    pub codename: &'static str,
}

/// Known releases, oldest first, without gaps.
pub const RELEASES: &[Release] = &[
    Release { version: 10, codename: "buster" },
    Release { version: 11, codename: "bullseye" },
    Release { version: 12, codename: "bookworm" },
    Release { version: 13, codename: "trixie" },
    Release { version: 14, codename: "forky" },
];

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Debian {} ({})", self.version, self.codename)
    }
}

impl Release {
    /// The release of that code name.
    pub fn named(codename: &str) -> Option<Self> {
        RELEASES.iter().find(|release| release.codename == codename).copied()
    }
    /// The release after this one.
    pub fn next(self) -> Option<Self> {
        RELEASES.iter().find(|release| release.version == self.version + 1).copied()
    }
    /// The release before this one.
    pub fn previous(self) -> Option<Self> {
        RELEASES.iter().find(|release| release.version + 1 == self.version).copied()
    }
    /// The release an `os-release(5)` file describes, or why it is none that can be upgraded.
    pub fn of_os_release(text: &str) -> Result<Self, String> {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(|v| v.trim().trim_matches(['"', '\'']))
        };
        let pretty = value("PRETTY_NAME").or_else(|| value("ID")).unwrap_or("an unknown system");
        if value("ID") != Some("debian") {
            return Err(format!("the guest runs {pretty}, not Debian"));
        }
        let Some(id) = value("VERSION_ID") else {
            return Err(format!("the guest runs {pretty}, which is not a stable release"));
        };
        RELEASES
            .iter()
            .find(|release| id.split('.').next() == Some(release.version.to_string().as_str()))
            .copied()
            .ok_or_else(|| format!("the guest runs {pretty}, which is not a release this recipe knows"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn reads_os_release() {
        let text = include_str!("../fixtures/os-release-debian-12");
        assert_eq!(Release::of_os_release(text).unwrap().codename, "bookworm");
        let sid = "PRETTY_NAME=\"Debian GNU/Linux forky/sid\"\nNAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=forky\nID=debian\n";
        assert!(Release::of_os_release(sid).unwrap_err().contains("not a stable release"));
        assert!(Release::of_os_release("ID=ubuntu\nVERSION_ID=\"24.04\"\n").unwrap_err().contains("not Debian"));
        assert!(Release::of_os_release("").is_err());
        assert!(Release::of_os_release("ID=debian\nVERSION_ID=9\n").is_err());
    }

    #[test]
    fn releases_are_consecutive() {
        for pair in RELEASES.windows(2) {
            assert_eq!(pair[0].next(), Some(pair[1]));
            assert_eq!(pair[1].previous(), Some(pair[0]));
        }
    }
}
