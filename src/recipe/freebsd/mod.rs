//! The base system of a stopped FreeBSD jail, upgraded from its host.
//!
//! * [`release`]: versions, as the source, the kernel and the tree tell them.
//! * [`etcupdate`], [`world`], [`update`]: what the tools print.
//! * [`look`]: what is to be known of host, source and tree; [`elf`]: what the binaries of third parties were built for.
//! * [`preflight`](preflight()): what of it speaks against the upgrade, each with its remedy.
//!
//! Everything below the jail's root is hostile: it is read bounded, never through a link that leads out of the tree, and never
//! run on the host. Scripts hold neither newline nor exclamation mark: root's login shell there may be a csh.

pub mod elf;
pub mod etcupdate;
pub mod look;
mod preflight;
pub mod release;
pub mod update;
pub mod world;

#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use look::{Facts, look};
pub use preflight::preflight;
pub use release::Release;

/// What the inventory wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// How the base system is upgraded.
    pub method: Method,
    /// A missing buildworld is made.
    pub build: bool,
    /// The tree that the jail's configuration files came from, for the first three-way merge: a tarball, or the old source.
    pub base: Option<PathBuf>,
    /// Packages are reinstalled for the new base system.
    pub packages: bool,
}

/// How the base system is upgraded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By `make installworld` from a built source.
    Source(Source),
    /// By freebsd-update(8), to this release (`14.1-RELEASE`); `None`: to the host's.
    Binary(Option<String>),
}

/// A source tree on the jail host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The tree.
    pub src: PathBuf,
    /// Where its object trees are, if not `/usr/obj`. An environment variable by build(7), never one of make's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obj: Option<PathBuf>,
}

impl Source {
    /// What make needs in its environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let obj = self.obj.iter();
        obj.map(|obj| ("MAKEOBJDIRPREFIX".to_owned(), obj.display().to_string())).collect()
    }
    /// `make -C SRC WORDS`.
    pub fn make(&self, words: &[&str]) -> Vec<String> {
        let src = self.src.display().to_string();
        ["make", "-C", &src].into_iter().chain(words.iter().copied()).map(str::to_owned).collect()
    }
}
