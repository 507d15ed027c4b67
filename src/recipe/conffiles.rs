//! Configuration files that an upgrade left undecided: what is in force, and what lies beside it.
//!
//! dpkg(1) keeps the old file and leaves the new one as `.dpkg-dist` (or `.dpkg-new` while undecided); where the new
//! one was taken, the old lies as `.dpkg-old`. ucf(1) does the same with `.ucf-dist`, `.ucf-new`, `.ucf-old`; rpm(8) with `.rpmnew`
//! (kept), and `.rpmsave` and `.rpmorig` (replaced). Looked for below `/etc` and `/usr/local/etc`. May not: decide anything, or follow links.

use std::collections::BTreeMap;
use std::path::Path;

use hypervisors::host::{Command, printable};
use hypervisors::{Cause, Error, Host, Result};
use serde::{Deserialize, Serialize};

/// Largest file that is kept for comparison (bytes), and most files that are looked at.
const FILE_LIMIT: u64 = 1 << 20;
const FILES: usize = 1000;

/// Which side is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The old file was kept; the package's lies beside it.
    Kept,
    /// The package's file was taken; the old one lies beside it.
    Replaced,
}

/// One undecided file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conffile {
    /// The file in force.
    pub path: String,
    /// The one beside it.
    pub beside: String,
    /// Which is which.
    pub kind: Kind,
    /// Package it belongs to, if dpkg says so (ucf's files are unknown to it).
    pub package: Option<String>,
    /// SHA-256 of the file in force; `None`: it is gone, too large or no file.
    pub in_force: Option<String>,
    /// SHA-256 of the one beside it; `None` likewise.
    pub other: Option<String>,
    /// It lay there, the same, before this upgrade.
    pub older: bool,
    /// Neither is kept: they hold passwords.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

const SUFFIXES: &[(&str, Kind)] = &[
    (".dpkg-dist", Kind::Kept),
    (".dpkg-new", Kind::Kept),
    (".dpkg-old", Kind::Replaced),
    (".ucf-dist", Kind::Kept),
    (".ucf-new", Kind::Kept),
    (".ucf-old", Kind::Replaced),
    (".rpmnew", Kind::Kept),
    (".rpmsave", Kind::Replaced),
    (".rpmorig", Kind::Replaced),
];

/// Whether it lies there by rpm's doing.
fn by_rpm(beside: &str) -> bool {
    beside.rsplit_once('.').is_some_and(|(_, suffix)| suffix.starts_with("rpm"))
}

/// The argv that lists them, NUL-separated.
pub fn find_argv() -> Vec<String> {
    let mut argv = vec!["find", "/etc", "/usr/local/etc", "-xdev", "-type", "f", "("];
    let names: Vec<String> = SUFFIXES.iter().map(|(suffix, _)| format!("*{suffix}")).collect();
    for (index, name) in names.iter().enumerate() {
        argv.extend(if index > 0 { vec!["-o", "-name", name] } else { vec!["-name", name] });
    }
    argv.extend([")", "-print0"]);
    argv.into_iter().map(str::to_owned).collect()
}

/// The argv that tells which package owns which conffile.
const OWNERS: &[&str] = &["dpkg-query", "-W", "-f=${Package}\n${Conffiles}\n"];

/// Packages by the conffiles they own, from [`OWNERS`]: a name, then lines ` PATH MD5 [obsolete]`.
pub(crate) fn parse_owners(text: &str) -> BTreeMap<&str, &str> {
    let mut package = "";
    let mut owners = BTreeMap::new();
    for line in text.lines() {
        match line.strip_prefix(' ') {
            Some(rest) => {
                owners.extend(rest.split(' ').next().filter(|path| path.starts_with('/')).map(|path| (path, package)));
            }
            None if !line.is_empty() => package = line,
            None => {}
        }
    }
    owners
}

/// The file in force for one that lies beside it.
fn in_force(beside: &str) -> Option<(&str, Kind)> {
    SUFFIXES.iter().find_map(|(suffix, kind)| Some((beside.strip_suffix(suffix)?, *kind)))
}

async fn paths(guest: &dyn Host) -> Result<Vec<String>> {
    let command = Command::new(find_argv());
    let answer = guest.run(&command).await?;
    // find(1) ends with 1 when one of the two directories is missing.
    let answer = if answer.status == 1 { answer } else { answer.checked("look for conffiles", &command)? };
    let mut paths: Vec<String> =
        answer.text().split('\0').filter(|path| path.starts_with('/')).map(str::to_owned).collect();
    paths.sort();
    if paths.len() > FILES || answer.truncated {
        return Err(Error::refused("look for conffiles", format!("more than {FILES} undecided files lie in /etc"))
            .help("remove old *.dpkg-old and *.ucf-old files in the clone"));
    }
    Ok(paths)
}

/// A file's bytes, if it is one of sensible size.
async fn bytes(guest: &dyn Host, path: &str) -> Result<Option<Vec<u8>>> {
    match guest.read_file(Path::new(path), FILE_LIMIT).await {
        Err(error) if error.is_unknown() || matches!(error.cause, Cause::Refused(_)) => Err(error),
        answer => Ok(answer.unwrap_or(None)),
    }
}

/// What lies there now, path to SHA-256: the plan of an upgrade holds it, so that [`collect`] knows what is older.
pub async fn leftovers(guest: &dyn Host) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for path in paths(guest).await? {
        if let Some(bytes) = bytes(guest, &path).await? {
            found.insert(path, super::sha256(&bytes));
        }
    }
    Ok(found)
}

/// Every undecided file, in path order. Both sides are given to `keep`, which stores them under the SHA-256 it returns.
pub async fn collect<E: From<Error>>(
    guest: &dyn Host,
    older: &BTreeMap<String, String>,
    keep: &(dyn Fn(&[u8]) -> Result<String, E> + Sync),
) -> Result<Vec<Conffile>, E> {
    let paths = paths(guest).await?;
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let mut owners = String::new();
    if paths.iter().any(|path| !by_rpm(path)) {
        let mut command = Command::new(OWNERS.iter().copied());
        command.limit = 16 << 20;
        owners = guest.run(&command).await?.checked("tell the owners of conffiles", &command)?.text();
    }
    let mut owners: BTreeMap<String, String> =
        parse_owners(&owners).into_iter().map(|(path, package)| (path.to_owned(), package.to_owned())).collect();
    for beside in paths.iter().filter(|path| by_rpm(path)) {
        let Some((path, _)) = in_force(beside) else { continue };
        let command = Command::new(["rpm", "-qf", "--qf", "%{NAME}\n", path]);
        let answer = guest.run(&command).await?;
        if answer.status == 0 {
            owners.insert(path.to_owned(), answer.text().lines().next().unwrap_or_default().to_owned());
        }
    }
    let mut found = Vec::new();
    for beside in paths {
        let Some((path, kind)) = in_force(&beside) else { continue };
        let current = bytes(guest, path).await?.map(|bytes| keep(&bytes)).transpose()?;
        let other = bytes(guest, &beside).await?.map(|bytes| keep(&bytes)).transpose()?;
        found.push(Conffile {
            path: path.to_owned(),
            kind,
            package: owners.get(path).cloned(),
            in_force: current,
            older: other.is_some() && older.get(&beside) == other.as_ref(),
            other,
            beside,
            secret: false,
        });
    }
    Ok(found)
}

/// `conffiles list`: one line each, aligned; older ones last.
pub fn list(files: &[Conffile]) -> String {
    let width = files.iter().map(|file| printable(&file.path).chars().count()).max().unwrap_or(0);
    let line = |file: &Conffile| {
        let what = match file.kind {
            Kind::Kept => "kept",
            Kind::Replaced => "replaced",
        };
        let package = file.package.as_deref().map_or(String::new(), printable);
        let older = if file.older { "  (older)" } else { "" };
        let line = format!("{:width$}  {what:8}  {package}{older}", printable(&file.path));
        format!("{}\n", line.trim_end())
    };
    let (old, new): (Vec<&Conffile>, Vec<&Conffile>) = files.iter().partition(|file| file.older);
    new.into_iter().chain(old).map(line).collect()
}

/// `conffiles show`: what the other side would change in the file in force, as a unified diff fit for a terminal.
/// `in_force` and `other` are the bytes kept under their SHA-256, if there are any.
pub fn show(file: &Conffile, in_force: Option<&[u8]>, other: Option<&[u8]>) -> String {
    if file.secret {
        let (path, beside) = (printable(&file.path), printable(&file.beside));
        return format!("{path}: it holds passwords, and is not kept; the other one is {beside}\n");
    }
    let (Some(current), Some(other)) = (in_force, other) else {
        return format!("{}: one of the two is gone or larger than 1 MiB\n", printable(&file.path));
    };
    let (Ok(current), Ok(other)) = (std::str::from_utf8(current), std::str::from_utf8(other)) else {
        return format!("{}: not text\n", printable(&file.path));
    };
    if current == other {
        return format!("{}: both are the same\n", printable(&file.path));
    }
    let diff = similar::TextDiff::configure().timeout(super::DIFF).diff_lines(current, other);
    let diff = diff.unified_diff().header(&file.path, &file.beside).to_string();
    diff.lines().map(|line| printable(line) + "\n").collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn file(path: &str, older: bool) -> Conffile {
        Conffile {
            path: path.to_owned(),
            beside: format!("{path}.ucf-dist"),
            kind: Kind::Kept,
            package: Some("dovecot-core".to_owned()),
            in_force: None,
            other: None,
            older,
            secret: false,
        }
    }

    #[test]
    fn suffixes_tell_which_side_is_in_force() {
        assert_eq!(in_force("/etc/a.dpkg-old"), Some(("/etc/a", Kind::Replaced)));
        assert_eq!(in_force("/etc/dovecot/conf.d/10-mail.conf.ucf-dist").unwrap().1, Kind::Kept);
        assert_eq!(in_force("/etc/yum.conf.rpmnew"), Some(("/etc/yum.conf", Kind::Kept)));
        assert!(by_rpm("/etc/x.rpmsave") && !by_rpm("/etc/rpm.dpkg-old"));
        assert_eq!(in_force("/etc/a.bak"), None);
        assert!(find_argv().join(" ").contains("( -name *.dpkg-dist -o -name *.dpkg-new -o"));
    }

    #[test]
    fn owners_are_read() {
        let owners =
            parse_owners("adduser\n\n /etc/adduser.conf abc\n /etc/deluser.conf def obsolete\napt\n\n /etc/x 1\n");
        assert_eq!(owners.len(), 3);
        assert_eq!((owners["/etc/deluser.conf"], owners["/etc/x"]), ("adduser", "apt"));
    }

    #[test]
    fn older_ones_come_last() {
        let text = list(&[file("/etc/a", true), file("/etc/long/b", false)]);
        assert_eq!(text, "/etc/long/b  kept      dovecot-core\n/etc/a       kept      dovecot-core  (older)\n");
    }

    #[test]
    fn a_shown_diff_cannot_drive_a_terminal() {
        let shown = show(&file("/etc/a", false), Some(b"x = 1\n"), Some(b"x = 2\x1b[2J\n"));
        assert!(shown.contains("-x = 1\n+x = 2\u{fffd}[2J\n"), "{shown}");
        assert!(show(&file("/etc/a", false), Some(b"\xff"), Some(b"x")).contains("not text"));
        assert!(show(&file("/etc/a", false), None, Some(b"x")).contains("gone"));
    }
}
