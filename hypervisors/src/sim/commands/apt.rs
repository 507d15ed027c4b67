//! `apt-get`: a repository in which every package has one version per release.
//!
//! A package of release 12 has a version ending in `+deb12`. `update` records the release that the sources name;
//! `upgrade` and `full-upgrade` bring packages to it. An upgrade can fail at one package ([`UpgradeFailure`]), run out of
//! space, or be cut in half by its guest going down, and leaves the database as dpkg would.
//!
//! [`UpgradeFailure`]: crate::sim::UpgradeFailure

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::dpkg::Package;
use super::{Inside, fail, out};
use crate::Result;
use crate::host::Output;
use crate::sim::rules;

/// Where `update` remembers the release; stands for the downloaded lists.
const LISTS: &str = "/var/lib/apt/lists/release";
/// Where the mirror is.
const MIRROR: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 80)), 80);
/// Releases by suite; versions end in `+debN`.
const SUITES: [(&str, u32); 5] = [("buster", 10), ("bullseye", 11), ("bookworm", 12), ("trixie", 13), ("forky", 14)];

/// What an `apt-get` command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request<'a> {
    verb: &'a str,
    names: Vec<&'a str>,
    simulate: bool,
    status_fd: bool,
    take_new_conffiles: bool,
}

fn request<'a>(args: &[&'a str]) -> Request<'a> {
    let mut request = Request::default();
    let mut rest = args.iter();
    while let Some(word) = rest.next() {
        let option = match *word {
            "-o" | "--option" => rest.next().copied().unwrap_or_default(),
            "-t" | "-c" | "--target-release" => {
                rest.next();
                continue;
            }
            "-s" | "--simulate" | "--dry-run" | "--just-print" | "-d" | "--download-only" => {
                request.simulate = true;
                continue;
            }
            word if word.starts_with('-') => word,
            word if request.verb.is_empty() => {
                request.verb = word;
                continue;
            }
            word => {
                request.names.push(word);
                continue;
            }
        };
        request.status_fd |= option.contains("APT::Status-Fd");
        request.take_new_conffiles |= option.contains("--force-confnew");
    }
    request
}

/// What an upgrade would do now: indices into the packages, and the release.
struct Work {
    packages: Vec<Package>,
    upgrade: Vec<usize>,
    kept_back: Vec<usize>,
    release: u32,
}

impl Inside<'_> {
    pub(super) fn apt_get(&mut self, args: &[&str]) -> Result<Output> {
        let request = request(args);
        let done = match request.verb {
            "update" => self.update(),
            "upgrade" | "full-upgrade" | "dist-upgrade" | "install" => return self.upgrade(&request),
            "autoremove" | "clean" | "autoclean" | "check" => Ok(out("Reading package lists...\n")),
            _ => Ok(fail(100, format!("E: Invalid operation {}", request.verb))),
        };
        Ok(done.unwrap_or_else(|error| fail(100, format!("E: {error}"))))
    }

    fn update(&self) -> io::Result<Output> {
        let Some((suite, release)) = self.suite() else {
            return Ok(fail(100, "E: The list of sources could not be read."));
        };
        if !rules::let_out(&self.runtime.rules, self.apt_user(), "tcp", MIRROR.into()) {
            return Ok(fail(
                100,
                "E: Failed to fetch http://mirror.example/debian: cannot connect (113: No route to host)",
            ));
        }
        self.write(LISTS, &format!("{release}\n"))?;
        Ok(out(format!("Get:1 http://mirror.example/debian {suite} InRelease [151 kB]\nReading package lists...\n")))
    }

    /// Whom apt downloads as: `_apt`, or root where there is none.
    fn apt_user(&self) -> u32 {
        let passwd = self.read("/etc/passwd").unwrap_or_default();
        let line = passwd.lines().find_map(|line| line.strip_prefix("_apt:x:"));
        line.and_then(|rest| rest.split(':').next()?.parse().ok()).unwrap_or(0)
    }

    /// The newest suite that the sources name (one-line and deb822 format).
    fn suite(&self) -> Option<(&'static str, u32)> {
        let mut text = self.read("/etc/apt/sources.list").unwrap_or_default();
        let parts = self.place("/etc/apt/sources.list.d", true).and_then(fs::read_dir).into_iter().flatten().flatten();
        for part in parts {
            text += &self.read(PathBuf::from("/etc/apt/sources.list.d").join(part.file_name())).unwrap_or_default();
        }
        let lines = text.lines().filter(|line| line.starts_with("deb ") || line.starts_with("Suites:"));
        let words = lines.flat_map(str::split_whitespace);
        let suite = |word: &str| SUITES.into_iter().find(|(name, _)| *name == word);
        words.filter_map(suite).max_by_key(|(_, release)| *release)
    }

    fn work(&self, request: &Request<'_>) -> io::Result<Work> {
        let mut packages = self.packages()?;
        let release = self.read(LISTS).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let (mut upgrade, mut kept_back) = (Vec::new(), Vec::new());
        let naming = request.verb == "install";
        for (index, package) in packages.iter().enumerate() {
            if release_of(&package.version) >= release || (naming && !request.names.contains(&package.name.as_str())) {
                continue;
            }
            // What `upgrade` keeps back because it would need new packages: here, the libraries.
            if package.held() || (request.verb == "upgrade" && package.name.starts_with("lib")) {
                kept_back.push(index);
            } else {
                upgrade.push(index);
            }
        }
        for name in request.names.iter().filter(|_| naming) {
            if !packages.iter().any(|package| package.name == *name) {
                upgrade.push(packages.len());
                packages.push(Package::installed(name, "0"));
            }
        }
        Ok(Work { packages, upgrade, kept_back, release })
    }

    fn upgrade(&mut self, request: &Request<'_>) -> Result<Output> {
        let work = match self.work(request) {
            Ok(work) => work,
            Err(error) => return Ok(fail(100, format!("E: {error}"))),
        };
        if work.packages.iter().any(Package::half_done) {
            let said = "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem.";
            return Ok(fail(100, said));
        }
        if request.simulate {
            return Ok(out(simulated(&work)));
        }
        let (volume, _) = self.mounted("/var/cache/apt".as_ref());
        let mut meta = self.world.volume(&volume)?.unwrap_or_default();
        let needed = self.config.package_bytes * work.upgrade.len() as u64;
        if self.world.room(&volume, &meta)? < needed {
            return Ok(fail(100, "E: You don't have enough free space in /var/cache/apt/archives/."));
        }
        let (output, count) = match self.install(request, work) {
            Ok(done) => done,
            Err(error) => return Ok(fail(100, format!("E: {error}"))),
        };
        meta.written_bytes += self.config.package_bytes * count;
        self.world.set_volume(&volume, &meta)?;
        Ok(output)
    }

    /// Upgrades package after package; how many were touched.
    fn install(&self, request: &Request<'_>, mut work: Work) -> io::Result<(Output, u64)> {
        let mut text = headline(&work);
        let total = work.upgrade.len();
        let cut = if self.half { total / 2 } else { total };
        let mut stopped = None;
        let mut count = 0;
        for (done, &index) in work.upgrade.iter().enumerate() {
            let package = &mut work.packages[index];
            package.version = upgraded(&package.version, work.release);
            count += 1;
            text += &progress_lines(package, done, total, request.status_fd);
            if done == cut {
                package.set_state("half-configured");
                stopped = Some(fail(143, ""));
                break;
            }
            if package.name == "base-files" {
                self.set_release(work.release)?;
            }
            if let Some(message) = self.broken(&package.name) {
                package.set_state("half-configured");
                let name = &package.name;
                stopped = Some(fail(
                    100,
                    format!(
                        "dpkg: error processing package {name} (--configure):\n {message}\nE: Sub-process /usr/bin/dpkg returned an error code (1)"
                    ),
                ));
                break;
            }
        }
        self.set_packages(&work.packages)?;
        if count > 0 && stopped.is_none() {
            for path in &self.config.conffiles {
                text += &self.conffile(path, work.release, request.take_new_conffiles)?;
            }
        }
        Ok((Output { stdout: text.into_bytes(), ..stopped.unwrap_or_default() }, count))
    }

    /// What dpkg(1) does with a changed configuration file under `--force-confold` or `--force-confnew`.
    fn conffile(&self, path: &std::path::Path, release: u32, take_new: bool) -> io::Result<String> {
        let Ok(old) = self.read(path) else { return Ok(String::new()) };
        let new = format!("# as shipped with Debian {release}\n");
        let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
        if old == new || self.read(beside(".dpkg-dist")).is_ok_and(|dist| dist == new) {
            return Ok(String::new());
        }
        if take_new {
            self.write(beside(".dpkg-old"), &old)?;
            self.write(path, &new)?;
        } else {
            self.write(beside(".dpkg-dist"), &new)?;
        }
        Ok(format!(
            "Configuration file '{}'\n ==> Modified (by you or by a script) since installation.\n",
            path.display()
        ))
    }

    fn set_release(&self, release: u32) -> io::Result<()> {
        let suite = SUITES.into_iter().find(|(_, number)| *number == release).map_or("sid", |(name, _)| name);
        self.write("/etc/os-release", &os_release(suite, release))?;
        self.write("/etc/debian_version", &format!("{release}.1\n"))
    }
}

/// `/etc/os-release` of a release.
pub(in crate::sim) fn os_release(suite: &str, release: u32) -> String {
    format!(
        "PRETTY_NAME=\"Debian GNU/Linux {release} ({suite})\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"{release}\"\nVERSION=\"{release} ({suite})\"\nVERSION_CODENAME={suite}\nID=debian\nHOME_URL=\"https://www.debian.org/\"\n"
    )
}

/// What a detached command has printed when this part of its time has passed; the start of what it prints in the end.
pub(in crate::sim) fn progress(inside: &Inside<'_>, argv: &[String], fraction: f64) -> String {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let Some(at) = words.iter().position(|word| *word == "apt-get" || word.ends_with("/apt-get")) else {
        return String::new();
    };
    let request = request(&words[at + 1..]);
    if !matches!(request.verb, "upgrade" | "full-upgrade" | "dist-upgrade" | "install") {
        return String::new();
    }
    let Ok(mut work) = inside.work(&request) else { return String::new() };
    if work.packages.iter().any(Package::half_done) {
        return String::new();
    }
    let total = work.upgrade.len();
    let done = (total as f64 * fraction.clamp(0.0, 1.0)) as usize;
    let mut text = headline(&work);
    for (count, &index) in work.upgrade.iter().take(done).enumerate() {
        let package = &mut work.packages[index];
        package.version = upgraded(&package.version, work.release);
        text += &progress_lines(package, count, total, request.status_fd);
    }
    text
}

fn headline(work: &Work) -> String {
    let (total, kept) = (work.upgrade.len(), work.kept_back.len());
    format!(
        "Reading package lists...\nBuilding dependency tree...\n{total} upgraded, 0 newly installed, 0 to remove and {kept} not upgraded.\n"
    )
}

/// `pmstatus:PACKAGE:PERCENT:TEXT` is apt's own form (README.progress-reporting of apt).
fn progress_lines(package: &Package, done: usize, total: usize, status_fd: bool) -> String {
    let Package { name, version, .. } = package;
    let percent = done as f64 * 100.0 / total.max(1) as f64;
    let status =
        if status_fd { format!("pmstatus:{name}:{percent:.4}:Configuring {name} (amd64)\n") } else { String::new() };
    format!("{status}Setting up {name} ({version}) ...\n")
}

fn simulated(work: &Work) -> String {
    let line = |index: &usize| {
        let Package { name, version, .. } = &work.packages[*index];
        let new = upgraded(version, work.release);
        format!("Inst {name} [{version}] ({new} Debian:{} [amd64])\n", work.release)
    };
    headline(work) + &work.upgrade.iter().map(line).collect::<String>()
}

fn release_of(version: &str) -> u32 {
    version.rsplit_once("+deb").and_then(|(_, release)| release.parse().ok()).unwrap_or(0)
}

fn upgraded(version: &str, release: u32) -> String {
    let base = version.rsplit_once("+deb").map_or(version, |(base, _)| base);
    format!("{base}+deb{release}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_understood() {
        let words = ["-y", "-o", "Dpkg::Options::=--force-confold", "-oAPT::Status-Fd=3", "full-upgrade"];
        let expected = Request { verb: "full-upgrade", status_fd: true, ..Request::default() };
        assert_eq!(request(&words), expected);
        let words = ["-s", "-t", "trixie", "install", "postfix"];
        let expected = Request { verb: "install", names: vec!["postfix"], simulate: true, ..Request::default() };
        assert_eq!(request(&words), expected);
        assert!(request(&["-o", "Dpkg::Options::=--force-confnew", "upgrade"]).take_new_conffiles);
    }

    #[test]
    fn versions_follow_the_release() {
        assert_eq!(upgraded("3.7.11-0+deb12", 13), "3.7.11-0+deb13");
        assert_eq!((release_of("1.0+deb12"), release_of("1.0")), (12, 0));
    }
}
