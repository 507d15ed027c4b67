//! Quarantine: services that must not run in a clone beside the original, switched off before its first start.
//!
//! The shipped list is `templates/quarantine.toml`; the inventory adds to it. Units are masked (a link to /dev/null in
//! `etc/systemd/system`, systemctl(1) `mask`), which a package upgrade respects; what stood there is in the edit's image
//! of before, so that promotion gives it back. Masking NAME.service also covers the unit systemd makes of an init script
//! (systemd-sysv-generator(8)). Where systemd is not installed, the start links of `etc/rc?.d` become stop links as well:
//! update-rc.d(8) leaves a script alone that has links.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;

use super::mounts::UNIT_DIRECTORIES;
use super::tree::{FileImage, Overlay};
use super::{CloneSpec, GuestError, Tree};

const SUFFIXES: [&str; 5] = [".service", ".timer", ".socket", ".path", ".target"];
const INIT_SCRIPTS: &str = "etc/init.d";
/// Either is systemd itself.
const SYSTEMD: [&str; 2] = ["usr/lib/systemd/systemd", "lib/systemd/systemd"];

/// The shipped tables.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tables {
    service: Vec<Rule>,
    pub(super) queue: Vec<QueueRule>,
}

/// Services that are switched off for one reason; the template says what the names mean.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    names: Vec<String>,
    #[serde(default)]
    present: Vec<PathBuf>,
    reason: String,
}

/// Where a service keeps what it has accepted and not yet done; the template says what the keys mean.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QueueRule {
    pub(super) service: String,
    pub(super) units: Vec<String>,
    pub(super) spools: Vec<String>,
    pub(super) below: Vec<String>,
    #[serde(default)]
    pub(super) count: Vec<String>,
    pub(super) messages: String,
}

/// The shipped tables, read once.
pub(super) fn tables() -> Result<&'static Tables, GuestError> {
    static TABLES: OnceLock<Result<Tables, String>> = OnceLock::new();
    let read = || toml::from_str(include_str!("../../templates/quarantine.toml")).map_err(|error| error.to_string());
    TABLES.get_or_init(read).as_ref().map_err(|why| GuestError::Syntax {
        path: "templates/quarantine.toml".into(),
        line: 0,
        why: why.clone(),
    })
}

/// Names of services on the shipped list, and why each is switched off.
pub(super) fn shipped() -> Result<impl Iterator<Item = (&'static str, &'static str)>, GuestError> {
    let rules = tables()?.service.iter();
    Ok(rules.flat_map(|rule| rule.names.iter().map(|name| (name.as_str(), rule.reason.as_str()))))
}

/// One unit that is switched off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Unit name with suffix: `postfix@.service`.
    pub unit: String,
    /// Why, in a few words: `delivers mail`.
    pub reason: String,
    /// By the shipped list, not by the inventory.
    pub shipped: bool,
}

/// What is switched off in a clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// Units in name order.
    pub units: Vec<Held>,
    /// Names of the inventory that nothing installed answers to.
    pub unknown: Vec<String>,
}

impl Quarantine {
    /// The first unit of a service that is switched off; `service` with or without suffix or instance.
    pub fn holds(&self, service: &str) -> Option<&Held> {
        let template = service
            .split_once('@')
            .and_then(|(start, instance)| Some(format!("{start}@{}", &instance[instance.rfind('.')?..])));
        self.units.iter().find(|held| match has_suffix(service) {
            true => held.unit == service || Some(&held.unit) == template.as_ref(),
            false => base(&held.unit) == base(service),
        })
    }
}

/// Plans the masks of all that is quarantined.
pub fn rewrite(edits: &mut Overlay<'_>, spec: &CloneSpec) -> Result<(), GuestError> {
    let quarantine = planned(edits.tree(), &spec.quarantine)?;
    if quarantine.units.is_empty() {
        return Ok(());
    }
    for directory in ["etc/systemd", UNIT_DIRECTORIES[0]] {
        if edits.image(Path::new(directory))?.is_none() {
            edits.put(Path::new(directory), Some(edits.tree().new_directory(0o755)), "quarantine: place for masks")?;
        }
    }
    for held in &quarantine.units {
        let mask = FileImage::Symlink { target: "/dev/null".into() };
        let path = Path::new(UNIT_DIRECTORIES[0]).join(&held.unit);
        edits.put(&path, Some(mask), format!("quarantine: {}", held.reason))?;
    }
    if !has_systemd(edits.tree())? {
        for runlevel in ["2", "3", "4", "5"] {
            stop_links(edits, &Path::new("etc").join(format!("rc{runlevel}.d")), &quarantine)?;
        }
    }
    Ok(())
}

/// Turns the start links of quarantined scripts in a runlevel's directory into stop links.
fn stop_links(edits: &mut Overlay<'_>, directory: &Path, quarantine: &Quarantine) -> Result<(), GuestError> {
    for name in edits.list(directory)? {
        let Some((script, text)) = name.to_str().and_then(|name| Some((start_link(name)?, name))) else { continue };
        let Some(held) = quarantine.holds(&format!("{script}.service")) else { continue };
        let start = directory.join(text);
        let Some(image @ FileImage::Symlink { .. }) = edits.image(&start)? else { continue };
        let stop = directory.join(format!("K01{script}"));
        let why = format!("quarantine: {}", held.reason);
        edits.put(&start, None, why.clone())?;
        if edits.image(&stop)?.is_none() {
            edits.put(&stop, Some(image), why)?;
        }
    }
    Ok(())
}

/// The script a start link is of: `S20exim4` is of `exim4`.
pub(super) fn start_link(name: &str) -> Option<&str> {
    let rest = name.strip_prefix('S')?;
    let digits = rest.get(..2)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| &rest[2..]).filter(|script| !script.is_empty())
}

/// What is switched off in a clone of this guest: the shipped list as far as it applies, and the inventory's names.
pub fn planned(tree: &Tree, extra: &[String]) -> Result<Quarantine, GuestError> {
    let installed = installed(tree)?;
    let mut units: BTreeMap<String, Held> = BTreeMap::new();
    let mut hold = |unit: &str, reason: &str, shipped: bool| {
        let held = || Held { unit: unit.to_owned(), reason: reason.to_owned(), shipped };
        units.entry(unit.to_owned()).or_insert_with(held);
    };
    for rule in &tables()?.service {
        let mut applies = installed.iter().any(|unit| rule.names.iter().any(|name| stands_for(name, unit)));
        for path in &rule.present {
            applies = applies || tree.exists(path)?;
        }
        if !applies {
            continue;
        }
        let ahead = rule.names.iter().filter(|name| has_suffix(name));
        let there = installed.iter().filter(|unit| rule.names.iter().any(|name| stands_for(name, unit)));
        for unit in ahead.chain(there) {
            hold(unit, &rule.reason, true);
        }
    }
    let mut unknown = Vec::new();
    for name in extra {
        let found: Vec<&String> = installed.iter().filter(|unit| stands_for(name, unit)).collect();
        if found.is_empty() {
            unknown.push(name.clone());
        }
        for unit in found {
            hold(unit, "named in the inventory", false);
        }
    }
    Ok(Quarantine { units: units.into_values().collect(), unknown })
}

/// Names of installed units that can be switched off; an init script counts as the service of its name.
pub fn installed(tree: &Tree) -> Result<BTreeSet<String>, GuestError> {
    let mut units = BTreeSet::new();
    for directory in UNIT_DIRECTORIES {
        let names = tree.list(Path::new(directory))?.into_iter().filter_map(|name| name.into_string().ok());
        units.extend(names.filter(|name| has_suffix(name) && is_unit_name(name)));
    }
    let no_scripts = ["README", "skeleton", "functions", "rc", "rcS", "single", "halt", "reboot"];
    for name in tree.list(Path::new(INIT_SCRIPTS))?.into_iter().filter_map(|name| name.into_string().ok()) {
        if is_unit_name(&name) && !name.contains('.') && !no_scripts.contains(&name.as_str()) {
            units.insert(format!("{name}.service"));
        }
    }
    Ok(units)
}

/// Where it is looked for what is switched off, relative to the root.
pub(super) fn looked_at() -> Result<Vec<PathBuf>, GuestError> {
    let present = tables()?.service.iter().flat_map(|rule| rule.present.iter().cloned());
    let fixed = UNIT_DIRECTORIES.iter().chain(&SYSTEMD).map(PathBuf::from);
    Ok(fixed.chain([INIT_SCRIPTS.into()]).chain(present).collect())
}

/// Timers that start with the guest and are not in the quarantine: what a clone does by itself, for its plan.
pub fn timers(tree: &Tree, quarantine: &Quarantine) -> Result<BTreeSet<String>, GuestError> {
    let mut timers = BTreeSet::new();
    for directory in UNIT_DIRECTORIES {
        for wants in tree.list(Path::new(directory))? {
            if wants.to_str().is_some_and(|name| name.ends_with(".wants")) {
                let names = tree.list(&Path::new(directory).join(wants))?;
                timers.extend(names.into_iter().filter_map(|name| name.into_string().ok()).filter(|name| {
                    name.ends_with(".timer")
                        && is_unit_name(name)
                        && !quarantine.units.iter().any(|held| held.unit == *name)
                }));
            }
        }
    }
    Ok(timers)
}

pub(super) fn has_systemd(tree: &Tree) -> Result<bool, GuestError> {
    for path in SYSTEMD {
        if tree.exists(Path::new(path))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_suffix(name: &str) -> bool {
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// Whether a name of a rule or of the inventory stands for a unit.
fn stands_for(name: &str, unit: &str) -> bool {
    if has_suffix(name) { name == unit } else { base(unit) == name }
}

/// A unit's name without suffix and instance.
fn base(unit: &str) -> &str {
    let stem = SUFFIXES.iter().find_map(|suffix| unit.strip_suffix(suffix)).unwrap_or(unit);
    stem.split_once('@').map_or(stem, |(base, _)| base)
}

/// Characters and length of systemd.unit(5).
fn is_unit_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Files of Debian 12 packages by `dpkg-deb -c`: postfix 3.7.11-0+deb12u1, cron 3.0pl1-162, exim4-base 4.96-15+deb12u10.
    fn root(systemd: bool) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        put("etc/init.d/exim4");
        put("etc/init.d/README");
        fs::create_dir_all(root.path().join("etc/rc2.d")).unwrap();
        symlink("../init.d/exim4", root.path().join("etc/rc2.d/S20exim4")).unwrap();
        symlink("../init.d/ssh", root.path().join("etc/rc2.d/S16ssh")).unwrap();
        if systemd {
            for unit in [
                "postfix.service",
                "postfix@.service",
                "postfix-resolvconf.path",
                "cron.service",
                "ssh.service",
                "mine.timer",
            ] {
                put(&format!("usr/lib/systemd/system/{unit}"));
            }
            put("usr/lib/systemd/systemd");
            put("etc/systemd/system/cron.service");
            fs::create_dir_all(root.path().join("etc/systemd/system/timers.target.wants")).unwrap();
            for timer in ["mine.timer", "certbot.timer"] {
                symlink("/x", root.path().join("etc/systemd/system/timers.target.wants").join(timer)).unwrap();
            }
        }
        root
    }

    fn plan(root: &Path, extra: &[&str]) -> Vec<super::super::FileEdit> {
        let tree = Tree::open(root).unwrap();
        let mut edits = Overlay::new(&tree);
        let extra = extra.iter().map(|name| (*name).to_owned()).collect();
        rewrite(&mut edits, &CloneSpec { quarantine: extra, ..CloneSpec::default() }).unwrap();
        edits.into_edits()
    }

    #[test]
    fn shipped_tables_are_sound() {
        let tables = tables().unwrap();
        let mut names = BTreeSet::new();
        for rule in &tables.service {
            assert!(!rule.reason.is_empty() && !rule.names.is_empty());
            for name in &rule.names {
                assert!(is_unit_name(name) && names.insert(name), "{name} is a name, and once");
            }
        }
        for queue in &tables.queue {
            for unit in &queue.units {
                assert!(names.contains(unit), "the service of a known queue is quarantined: {unit}");
            }
        }
    }

    #[test]
    fn installed_units_are_masked_once_and_keep_what_was_there() {
        let root = root(true);
        let tree = Tree::open(root.path()).unwrap();
        let first = plan(root.path(), &["mine", "nothing"]);
        let masked: Vec<_> = first.iter().map(|edit| edit.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(
            masked,
            ["cron.service", "exim4-base.timer", "exim4.service", "mine.timer", "postfix.service", "postfix@.service"]
        );
        assert!(first[0].before.is_some(), "the administrator's cron.service");
        super::super::apply(&tree, &first).unwrap();
        assert_eq!(
            fs::read_link(root.path().join("etc/systemd/system/postfix@.service")).unwrap(),
            Path::new("/dev/null")
        );
        assert_eq!(plan(root.path(), &["mine", "nothing"]), []);

        let quarantine = planned(&tree, &["mine".into(), "nothing".into()]).unwrap();
        assert_eq!(quarantine.unknown, ["nothing"]);
        assert_eq!(quarantine.holds("postfix").unwrap().reason, "delivers mail");
        assert!(quarantine.holds("postfix@-.service").is_some(), "by its template");
        assert_eq!(quarantine.holds("mine.service"), None, "only its timer");
        assert!(!quarantine.holds("mine").unwrap().shipped);
        assert_eq!(quarantine.holds("ssh"), None);
        assert_eq!(timers(&tree, &quarantine).unwrap(), BTreeSet::from(["certbot.timer".to_owned()]));
    }

    #[test]
    fn without_systemd_start_links_become_stop_links() {
        let root = root(false);
        let tree = Tree::open(root.path()).unwrap();
        super::super::apply(&tree, &plan(root.path(), &[])).unwrap();
        let links = tree.list(Path::new("etc/rc2.d")).unwrap();
        assert_eq!(links, ["K01exim4", "S16ssh"]);
        assert_eq!(fs::read_link(root.path().join("etc/rc2.d/K01exim4")).unwrap(), Path::new("../init.d/exim4"));
        assert!(root.path().join("etc/systemd/system/exim4.service").is_symlink(), "the upgrade may bring systemd");
        assert_eq!(plan(root.path(), &[]), []);
    }

    #[test]
    fn a_package_manager_is_quarantined_before_it_has_timers() {
        let root = root(true);
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(root.path().join("usr/bin/apt-get"), "").unwrap();
        let quarantine = planned(&Tree::open(root.path()).unwrap(), &[]).unwrap();
        assert!(quarantine.holds("apt-daily-upgrade.timer").is_some());
    }
}
