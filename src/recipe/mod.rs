//! How an operating system is upgraded, inside a running clone reached as a [`hypervisors::Host`].
//!
//! * [`debian`]: release upgrades of Debian: preflight, package sources, what apt and dpkg print.
//! * [`freebsd`]: the base system of a stopped jail, from its host.
//! * [`conffiles`]: the configuration files that an upgrade left undecided.
//! * [`yum`]: an update with a new kernel, of the Red Hat family.
//! * [`script`]: any other upgrade, as a program of the operator's.
//! * [`job`]: long work that goes on in the clone when the link is lost.
//!
//! May not: know plans or journals (the steps of `crate::steps::upgrade` do), or touch anything but the clone.
//! Everything the clone says is hostile: bounded when read, made printable when shown.

pub mod conffiles;
pub mod debian;
pub mod freebsd;
pub mod job;
pub mod script;
pub mod yum;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long the shortest difference of two files is looked for; after that a longer one is told.
const DIFF: Duration = Duration::from_secs(1);

/// What a preflight check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// The operator should know.
    Warn,
    /// The upgrade must not begin.
    Refuse,
}

/// One preflight check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable name of the check: `debian.release`.
    pub id: String,
    /// What it came to.
    pub verdict: Verdict,
    /// What was seen, in one line.
    pub detail: String,
    /// What the operator can do; empty when it passed.
    pub remedy: String,
}

impl Finding {
    fn new(id: &str, verdict: Verdict, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        let detail = hypervisors::host::printable(&detail.into());
        Self { id: id.to_owned(), verdict, detail, remedy: hypervisors::host::printable(&remedy.into()) }
    }
    fn pass(id: &str, detail: impl Into<String>) -> Self {
        Self::new(id, Verdict::Pass, detail, "")
    }
    fn warn(id: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, Verdict::Warn, detail, remedy)
    }
    fn refuse(id: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, Verdict::Refuse, detail, remedy)
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
