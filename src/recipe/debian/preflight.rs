//! What is looked at before a release upgrade, each refusal with its remedy. Nothing is changed.
//!
//! Space: an upgrade downloads about a third of what is installed and grows it by about a sixth; with 128 MiB
//! each on top, that is what must be free on the file systems of `/var` and `/usr`.

use std::collections::BTreeMap;

use hypervisors::{Cause, Error, Host, Result};

use super::release::{RELEASES, Release};
use super::sources::Action;
use super::{audit, is_source, listed, output, source_files, text};
use crate::recipe::Finding;

/// Free space wanted in a separate `/boot` of a guest with its own kernel (release notes).
const BOOT_BYTES: u64 = 300 << 20;
const MARGIN_BYTES: u64 = 128 << 20;

/// Looks at a guest that shall be taken to the release `to` (a code name). `continuing`: an upgrade of this run was
/// interrupted, so half-done packages are expected.
pub async fn preflight(guest: &dyn Host, to: &str, continuing: bool) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    let target = Release::named(to);
    let now = match super::current(guest).await {
        Ok(now) => Some(now),
        Err(Error { cause: Cause::Refused(why) | Cause::NotFound(why), .. }) => {
            let remedy = "this recipe upgrades Debian only: use recipe = \"script\"";
            found.push(Finding::refuse("debian.release", why, remedy));
            return Ok(found);
        }
        Err(error) => return Err(error),
    };
    found.push(path_to(now, target, to));
    let (Some(now), Some(target)) = (now, target) else { return Ok(found) };

    let from = if now == target { target.previous().unwrap_or(target) } else { now };
    let looked = tokio::try_join!(
        audit(guest),
        output(guest, "list the packages", PACKAGES),
        output(guest, "list packages on hold", &["apt-mark", "showhold"]),
        sources(guest, from, target),
        pins(guest, from, target),
    );
    let (audited, packages, held, sources, pins) = looked?;
    found.push(match audited {
        None => Finding::pass("debian.dpkg", "dpkg has nothing half-done"),
        Some(what) if continuing => {
            Finding::warn("debian.dpkg", format!("half-done: {what}"), "the upgrade goes on with them first")
        }
        Some(what) => Finding::refuse(
            "debian.dpkg",
            format!("half-done: {what}"),
            "in the original: dpkg --configure -a, apt-get -f install; then clone again",
        ),
    });
    let packages = parse_packages(&packages);
    found.push(half_installed(&packages, continuing));
    found.push(holds(&held));
    found.extend(sources);
    found.push(pins);
    found.extend(space(guest, &packages).await?);
    Ok(found)
}

fn path_to(now: Option<Release>, target: Option<Release>, to: &str) -> Finding {
    const ID: &str = "debian.release";
    let known = RELEASES.iter().map(|release| release.codename).collect::<Vec<_>>().join(", ");
    match (now, target) {
        (_, None) => Finding::refuse(ID, format!("{to} is not a release this recipe knows"), format!("one of {known}")),
        (None, _) => Finding::refuse(ID, "the guest's release is unknown", format!("one of {known}")),
        (Some(now), Some(target)) if now == target => {
            Finding::warn(ID, format!("the guest runs {now} already"), "its packages are brought up to date")
        }
        (Some(now), Some(target)) if now.next() == Some(target) => Finding::pass(ID, format!("{now} to {target}")),
        (Some(now), Some(target)) if target < now => {
            Finding::refuse(ID, format!("{target} is older than {now}"), "Debian cannot be downgraded")
        }
        (Some(now), Some(target)) => {
            let next = now.next().map_or(String::new(), |next| format!("upgrade to {} first", next.codename));
            Finding::refuse(ID, format!("{now} to {target} skips a release, which Debian does not support"), next)
        }
    }
}

/// The argv for state, name and size (KiB) of every package.
const PACKAGES: &[&str] = &["dpkg-query", "-W", "-f=${db:Status-Abbrev}\t${Package}\t${Installed-Size}\n"];

/// A line of [`PACKAGES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    state: String,
    name: String,
    kib: u64,
}

pub(crate) fn parse_packages(text: &str) -> Vec<Package> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.split('\t');
            let (state, name) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            Some(Package { state, name, kib: parts.next().and_then(|kib| kib.trim().parse().ok()).unwrap_or(0) })
        })
        .collect()
}

/// `dpkg-query(1)`: the second letter is the state, the third an error flag.
fn half_installed(packages: &[Package], continuing: bool) -> Finding {
    const ID: &str = "debian.half_installed";
    let broken: Vec<&str> = packages
        .iter()
        .filter(|package| {
            let state = package.state.as_bytes();
            matches!(state.get(1), Some(b'H' | b'U' | b'F' | b'W')) || state.get(2) == Some(&b'R')
        })
        .map(|package| package.name.as_str())
        .collect();
    if broken.is_empty() {
        return Finding::pass(ID, format!("{} packages, none half-installed", packages.len()));
    }
    let what = format!("half-installed: {}", some(&broken));
    if continuing {
        return Finding::warn(ID, what, "the upgrade goes on with them first");
    }
    Finding::refuse(ID, what, "in the original: dpkg --configure -a, or reinstall them; then clone again")
}

fn holds(text: &str) -> Finding {
    let held: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if held.is_empty() {
        return Finding::pass("debian.holds", "no package on hold");
    }
    let names = some(&held);
    Finding::refuse("debian.holds", format!("on hold: {names}"), format!("in the guest: apt-mark unhold {names}"))
}

/// The first names of a list.
fn some(names: &[&str]) -> String {
    let shown = names.iter().take(8).copied().collect::<Vec<_>>().join(" ");
    if names.len() > 8 { format!("{shown} and {} more", names.len() - 8) } else { shown }
}

async fn sources(guest: &dyn Host, from: Release, to: Release) -> Result<Vec<Finding>> {
    const ID: &str = "debian.sources";
    let files = match source_files(guest, from, to).await {
        Ok(files) => files,
        Err(Error { doing, cause: cause @ (Cause::Refused(_) | Cause::Malformed(_)), help }) => {
            let remedy = help.unwrap_or_else(|| "write the file in UTF-8".to_owned());
            return Ok(vec![Finding::refuse(ID, format!("{doing}: {cause}"), remedy)]);
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    let mut own = 0;
    for file in &files {
        for note in &file.after.notes {
            let place = format!("{}:{}", file.path, note.line);
            match note.action {
                Action::Rewritten => own += 1,
                Action::Disabled => found.push(Finding::warn(
                    "debian.third_party",
                    format!("{place}: {} is disabled during the upgrade ({})", note.entry, note.why),
                    format!("enable it again after the upgrade, for {}", to.codename),
                )),
            }
        }
    }
    let after = files.iter().flat_map(|file| super::sources::entries(file.format, &file.after.text));
    let main = after.filter(|entry| entry.suites.iter().any(|suite| suite == to.codename)).count();
    found.insert(
        0,
        if main == 0 {
            Finding::refuse(
                ID,
                format!("no package source leads to {}", to.codename),
                format!("have a line with Debian's archive for {} in /etc/apt/sources.list", from.codename),
            )
        } else {
            Finding::pass(ID, format!("{own} entries go from {} to {}", from.codename, to.codename))
        },
    );
    Ok(found)
}

/// Pins and a default release that name the old suite hold the upgrade back.
async fn pins(guest: &dyn Host, from: Release, to: Release) -> Result<Finding> {
    let mut places = Vec::new();
    for file in listed(guest).await? {
        let inside = file.path.trim_start_matches("/etc/apt/");
        let pins = inside == "preferences" || inside.starts_with("preferences.d/");
        let config = inside == "apt.conf" || inside.starts_with("apt.conf.d/");
        if !(pins || config) || file.link || is_source(&file.path).is_some() {
            continue;
        }
        let Ok(text) = text(guest, &file.path).await else { continue };
        for line in naming(&text, from.codename, config) {
            places.push(format!("{}:{line}", file.path));
        }
    }
    if places.is_empty() {
        return Ok(Finding::pass("debian.pins", format!("no pin names {}", from.codename)));
    }
    let names: Vec<&str> = places.iter().map(String::as_str).collect();
    Ok(Finding::warn(
        "debian.pins",
        format!("{} names {} and may hold packages back", some(&names), from.codename),
        format!("in the clone: change it to {} or remove it", to.codename),
    ))
}

/// Lines (from 1) of a preferences file, or of an apt.conf with `Default-Release`, that name a suite.
fn naming(text: &str, codename: &str, config: bool) -> Vec<usize> {
    let speaks = |line: &str| {
        let line = line.trim_start();
        if config {
            !line.starts_with("//") && !line.starts_with('#') && line.contains("Default-Release")
        } else {
            line.to_ascii_lowercase().starts_with("pin:")
        }
    };
    let lines = text.lines().enumerate();
    lines.filter(|(_, line)| speaks(line) && line.contains(codename)).map(|(index, _)| index + 1).collect()
}

/// A line of `df -P -B1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    available: u64,
    mounted: String,
}

pub(crate) fn parse_df(text: &str) -> Vec<FileSystem> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let percent = words.iter().position(|word| word.ends_with('%'))?;
            let available = words.get(percent.checked_sub(1)?)?.parse().ok()?;
            Some(FileSystem { available, mounted: words.get(percent + 1..)?.join(" ") })
        })
        .collect()
}

async fn space(guest: &dyn Host, packages: &[Package]) -> Result<Vec<Finding>> {
    let kernel =
        packages.iter().any(|package| package.name.starts_with("linux-image-") && package.state.starts_with("ii"));
    let mut argv = vec!["df", "-P", "-B1", "/usr", "/var"];
    if kernel {
        argv.push("/boot");
    }
    let systems = parse_df(&output(guest, "tell the free space", &argv).await?);
    let installed = packages.iter().map(|package| package.kib).fold(0u64, u64::saturating_add).saturating_mul(1024);
    Ok(judge_space(&systems, installed))
}

/// `systems`: of `/usr`, `/var` and, for a guest with its own kernel, `/boot`.
fn judge_space(systems: &[FileSystem], installed: u64) -> Vec<Finding> {
    const ID: &str = "debian.space";
    let mib = |bytes: u64| bytes >> 20;
    let [usr, var, boot @ ..] = systems else {
        return vec![Finding::warn(ID, "the free space cannot be told", "look with df -h")];
    };
    let mut wanted: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (system, bytes) in [(usr, installed / 6 + MARGIN_BYTES), (var, installed / 3 + MARGIN_BYTES)] {
        let entry = wanted.entry(&system.mounted).or_insert((system.available, 0));
        entry.1 = entry.1.saturating_add(bytes);
    }
    if let Some(boot) = boot.first().filter(|boot| boot.mounted == "/boot") {
        wanted.insert(&boot.mounted, (boot.available, BOOT_BYTES));
    }
    wanted
        .into_iter()
        .map(|(mounted, (available, bytes))| {
            let detail = format!("{mounted} has {} MiB free, about {} MiB are needed", mib(available), mib(bytes));
            if available >= bytes {
                Finding::pass(ID, detail)
            } else {
                Finding::refuse(ID, detail, format!("make room on {mounted}: apt-get clean, or grow the volume"))
            }
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::recipe::Verdict;

    fn verdict(now: &str, to: &str) -> (Verdict, String) {
        let finding = path_to(Release::named(now), Release::named(to), to);
        (finding.verdict, finding.remedy)
    }

    #[test]
    fn one_release_after_another() {
        assert_eq!(verdict("bookworm", "trixie").0, Verdict::Pass);
        assert_eq!(verdict("trixie", "trixie").0, Verdict::Warn);
        assert_eq!(verdict("bullseye", "trixie"), (Verdict::Refuse, "upgrade to bookworm first".to_owned()));
        assert_eq!(verdict("trixie", "bookworm").0, Verdict::Refuse);
        assert_eq!(verdict("trixie", "sid").0, Verdict::Refuse);
    }

    #[test]
    fn half_installed_and_held_packages_are_named() {
        let packages = parse_packages("ii \tadduser\t428\niU \tdovecot-core\t10\nrc \told\t\niHR\tx\t1\n");
        let finding = half_installed(&packages, false);
        assert_eq!((finding.verdict, finding.detail.as_str()), (Verdict::Refuse, "half-installed: dovecot-core x"));
        assert_eq!(half_installed(&packages, true).verdict, Verdict::Warn);
        assert_eq!(half_installed(&packages[..1], false).verdict, Verdict::Pass);
        assert_eq!(holds("\n").verdict, Verdict::Pass);
        assert_eq!(holds("nginx\nphp\n").detail, "on hold: nginx php");
    }

    #[test]
    fn pins_that_name_the_old_suite_are_found() {
        let text = "Package: *\nPin: release n=bookworm\nPin-Priority: 990\n# Pin: bookworm\n";
        assert_eq!(naming(text, "bookworm", false), [2]);
        assert_eq!(naming("APT::Default-Release \"bookworm\";\n// Default-Release bookworm\n", "bookworm", true), [1]);
    }

    #[test]
    fn space_is_summed_per_file_system() {
        let df = "Filesystem 1-blocks Used Available Capacity Mounted on\n\
                  /dev/xvda1 8000000000 1 900000000 30% /\n/dev/xvda1 8000000000 1 900000000 30% /\n\
                  /dev/xvda2 500000000 1 100000000 30% /boot\n";
        let systems = parse_df(df);
        assert_eq!(systems[0], FileSystem { available: 900_000_000, mounted: "/".to_owned() });
        let verdicts = |installed| judge_space(&systems, installed).iter().map(|f| f.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(600 << 20), [Verdict::Pass, Verdict::Refuse]);
        assert_eq!(verdicts(2 << 30), [Verdict::Refuse, Verdict::Refuse]);
        assert_eq!(judge_space(&systems[..2], 600 << 20).len(), 1);
        assert_eq!(judge_space(&[], 1).first().unwrap().verdict, Verdict::Warn);
    }
}
