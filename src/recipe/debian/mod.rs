//! Release upgrades of Debian, as the release notes describe them: sources, minimal upgrade, full upgrade.
//!
//! * [`release`]: which release leads to which. * [`sources`]: package sources rewritten. * [`apt`]: what is called
//!   and what it prints. * [`mod@preflight`]: what is refused before anything is touched.
//!
//! The steps that use these are in `crate::steps::upgrade`.

pub mod apt;
pub mod preflight;
pub mod release;
pub mod sources;

use std::path::Path;

use hypervisors::host::{Command, printable_tail};
use hypervisors::{Cause, Error, Host, Result};

pub use preflight::preflight;
pub use release::Release;

/// Largest source, pin or os-release file that is read.
const FILE_LIMIT: u64 = 1 << 20;

/// A package source file and what it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Absolute path in the guest.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// How it is written.
    pub format: sources::Format,
    /// What is there.
    pub before: String,
    /// What it becomes; equal to `before` if nothing is to be done.
    pub after: sources::Rewrite,
}

/// One file below `/etc/apt`, as `find` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    path: String,
    mode: u32,
    link: bool,
}

/// Runs a command in the guest; its standard output as text, or an error that names what was attempted.
async fn output(guest: &dyn Host, doing: &str, argv: &[&str]) -> Result<String> {
    let command = Command::new(argv.iter().copied()).env("LC_ALL", "C.UTF-8");
    Ok(guest.run(&command).await?.checked(doing, &command)?.text())
}

/// Reads a text file of the guest; an error if it is not there or not text.
async fn text(guest: &dyn Host, path: &str) -> Result<String> {
    let doing = || format!("read {path} in {}", guest.name());
    let bytes = guest.read_file(Path::new(path), FILE_LIMIT).await?;
    let bytes = bytes.ok_or_else(|| Error::not_found(doing(), "no such file"))?;
    String::from_utf8(bytes).map_err(|_| Error::new(doing(), Cause::Malformed("not text in UTF-8".to_owned())))
}

/// The release the guest runs now. An error with [`Cause::Refused`] if it runs none that is known.
pub async fn current(guest: &dyn Host) -> Result<Release> {
    let text = text(guest, "/etc/os-release").await?;
    Release::of_os_release(&text).map_err(|why| Error::refused("tell the release of the guest", why))
}

/// The argv that lists what is below `/etc/apt`: type, octal mode and path of each, NUL-separated.
const LIST: &[&str] =
    &["find", "/etc/apt", "-maxdepth", "2", "(", "-type", "f", "-o", "-type", "l", ")", "-printf", "%y %m %p\\0"];

async fn listed(guest: &dyn Host) -> Result<Vec<Listed>> {
    let found = output(guest, "list /etc/apt", LIST).await?;
    let mut files: Vec<Listed> = found.split('\0').filter_map(parse_listed).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn parse_listed(line: &str) -> Option<Listed> {
    let (kind, rest) = line.split_once(' ')?;
    let (mode, path) = rest.split_once(' ')?;
    let mode = u32::from_str_radix(mode, 8).ok()?;
    path.starts_with("/etc/apt/").then(|| Listed { path: path.to_owned(), mode, link: kind == "l" })
}

/// Whether apt reads package sources from that file.
fn is_source(path: &str) -> Option<sources::Format> {
    let inside = path.strip_prefix("/etc/apt/")?;
    match inside.strip_prefix("sources.list.d/") {
        Some(name) if !name.contains('/') => sources::Format::of(name),
        None if inside == "sources.list" => Some(sources::Format::OneLine),
        _ => None,
    }
}

/// Every package source file of the guest and what it becomes on the way from `from` to `to`, in path order. A link
/// is refused: rewriting it would replace it by a file.
pub async fn source_files(guest: &dyn Host, from: Release, to: Release) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for Listed { path, mode, link } in listed(guest).await? {
        let Some(format) = is_source(&path) else { continue };
        if link {
            return Err(Error::refused("rewrite package sources", format!("{path} is a symbolic link"))
                .help(format!("put the file itself at {path}")));
        }
        let before = text(guest, &path).await?;
        let after = sources::rewrite(format, &before, from, to);
        files.push(SourceFile { path, mode, format, before, after });
    }
    Ok(files)
}

/// Whether dpkg has anything half-done; `Some` is what it says, in one line.
pub async fn audit(guest: &dyn Host) -> Result<Option<String>> {
    let command = Command::new(["dpkg", "--audit"]).env("LC_ALL", "C.UTF-8");
    let answer = guest.run(&command).await?;
    if answer.status == 0 && answer.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let packages: Vec<&str> = std::str::from_utf8(&answer.stdout)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix(' ')?.split_ascii_whitespace().next())
        .take(8)
        .collect();
    let said = if answer.stdout.is_empty() { &answer.stderr } else { &answer.stdout };
    Ok(Some(if packages.is_empty() { printable_tail(said, 2) } else { packages.join(" ") }))
}

/// The place (`FILE:LINE`) of the package source that names a repository, if it is found.
pub async fn locate(guest: &dyn Host, uri: &str, suite: &str) -> Option<String> {
    for Listed { path, .. } in listed(guest).await.ok()? {
        let Some(format) = is_source(&path) else { continue };
        let Ok(text) = text(guest, &path).await else { continue };
        let same = |other: &String| sources::without_login(other).trim_end_matches('/') == uri.trim_end_matches('/');
        let found = sources::entries(format, &text)
            .into_iter()
            .find(|entry| entry.uris.iter().any(same) && entry.suites.iter().any(|s| s == suite));
        if let Some(entry) = found {
            return Some(format!("{path}:{}", entry.line));
        }
    }
    None
}

/// What happens to the package sources, as unified diffs for people.
pub fn source_diff(files: &[SourceFile]) -> String {
    let changed = files.iter().filter(|file| file.before != file.after.text);
    let diff = changed.map(|file| {
        let diff = similar::TextDiff::configure().timeout(super::DIFF).diff_lines(&file.before, &file.after.text);
        diff.unified_diff().context_radius(0).header(&file.path, &file.path).to_string()
    });
    diff.collect::<String>().lines().map(|line| hypervisors::host::printable(line) + "\n").collect()
}
