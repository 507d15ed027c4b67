//! Reading `[guests]`, with `[defaults]` beneath each.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::checks::checks;
use super::hosts::{credentials, ssh};
use super::model::*;
use super::read::{Item, Place, Problems, Section, absolute_path, did_you_mean, key_word};
use super::values::{AddressWish, Allowed, Size, parse_bytes};

/// Shortest and longest time that a change can be leased for, in seconds.
const LEASE_S: (u64, u64) = (5, 24 * 3600);

/// Host names that exist, for references.
pub(super) struct Known<'a> {
    pub hosts: &'a [String],
}

impl Known<'_> {
    /// A reference to a host; one that does not exist is a problem.
    fn host(&self, item: Option<Item<'_>>) -> Option<String> {
        let item = item?;
        let name = item.string()?;
        if !self.hosts.contains(&name) {
            let help = did_you_mean(&name, self.hosts.iter().map(String::as_str))
                .unwrap_or_else(|| format!("declare it: [hosts.{}]", key_word(&name)));
            item.problem(format!("there is no host {name:?}"), Some(help));
        }
        Some(name)
    }
}

/// Reads one guest; `partial` for `[defaults]` itself, where nothing has to be there.
pub(super) fn guest(name: &str, section: Section<'_>, known: &Known<'_>, partial: bool) -> Option<GuestSpec> {
    let host = match partial {
        true => section.get("host"),
        false => section.need("host", "host = \"…\", a name of [hosts]"),
    };
    let host = known.host(host);
    let runs_on = known.host(section.get("runs_on"));
    let (disks, paths) = section.section("disks").map(|section| disks(&section)).unwrap_or_default();
    let spec = GuestSpec {
        name: name.to_owned(),
        runs_on: runs_on.or_else(|| host.clone()).unwrap_or_default(),
        host: host.clone().unwrap_or_default(),
        ssh: section.section("ssh").map(|section| ssh(section, false)).unwrap_or_default(),
        disks,
        paths,
        quarantine: section.section("quarantine").map(quarantine).unwrap_or_default(),
        upgrade: section.get("upgrade").and_then(|item| upgrade(item.section()?)),
        promote: section.section("promote").map(promote).unwrap_or_default(),
        checks: section.get("checks").map(|item| checks(&item)).unwrap_or_default(),
        carry: section.get("carry").map(|item| item.items().iter().filter_map(carry).collect()).unwrap_or_default(),
        clone: section.section("clone").map(|section| clone(section, known)).unwrap_or_default(),
        hooks: section.get("hooks").map(|item| hooks(&item)).unwrap_or_default(),
        kernel: section.choice("kernel", &[("host", KernelPlace::Host)]),
        source: section.get("source").and_then(|item| source(item.section()?)),
        vm: section.string("vm"),
        guest_login: section.section("guest_login").and_then(credentials),
        tags: section.strings("tags"),
    };
    section.finish("a guest");
    host.map(|_| spec)
}

/// A name of a host or guest: becomes part of object names, so it is kept plain.
pub(super) fn check_name(problems: &Problems<'_>, place: &Place, name: &str) {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let sound = name.len() <= 50
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(known)
        && !name.contains("--");
    if !sound {
        let help = "letters, digits, \".\", \"_\" and \"-\", at most 50, without \"--\" (it ends the name in a run id)";
        problems.add(place, format!("{name:?} cannot be used as a name"), Some(help.into()));
    }
}

/// A word, or a table with the word and the paths.
fn disks(section: &Section<'_>) -> (BTreeMap<String, DiskRule>, BTreeMap<String, DiskPaths>) {
    let words = [("clone", DiskRule::Clone), ("swap", DiskRule::Swap), ("detach", DiskRule::Detach)];
    let (mut rules, mut all) = (BTreeMap::new(), BTreeMap::new());
    for (name, item) in section.entries() {
        if !item.is_table() {
            rules.extend(item.choice(&words).map(|rule| (name, rule)));
            continue;
        }
        let Some(table) = item.section() else { continue };
        rules.extend(table.choice("rule", &words).map(|rule| (name.clone(), rule)));
        let paths = DiskPaths { volume: table.path("volume"), copy: table.path("copy") };
        table.finish("a disk");
        if paths != DiskPaths::default() {
            all.insert(name, paths);
        }
    }
    (rules, all)
}

fn quarantine(section: Section<'_>) -> Quarantine {
    let units = |key| {
        let items = section.get(key).map(|item: Item<'_>| item.items()).unwrap_or_default();
        items.iter().filter_map(|item| item.parse(unit_name)).collect()
    };
    let spec = Quarantine { off: units("off"), while_verifying: units("while_verifying") };
    section.finish("quarantine");
    spec
}

/// A service as the init system names it; becomes a file name in the clone.
fn unit_name(text: &str) -> Result<String, String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-@:\\".contains(c);
    let sound = text.len() <= 200 && text.chars().all(known) && !text.starts_with(['-', '.']);
    if sound { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a service name")) }
}

fn upgrade(section: Section<'_>) -> Option<UpgradeSpec> {
    let words = ["debian", "yum-kernel", "freebsd-world", "script"].map(|word| (word, word));
    let word = section.need("recipe", "one of debian, yum-kernel, freebsd-world, script")?.choice(&words)?;
    let recipe = match word {
        "debian" => {
            section.need("to", "to = \"trixie\"").and_then(|item| item.parse(release)).map(|to| Recipe::Debian { to })
        }
        "yum-kernel" => Some(Recipe::YumKernel(YumKernel {
            tools: section.argv("tools"),
            tools_attempts: section.integer("tools_attempts", 1..=10).unwrap_or(YumKernel::default().tools_attempts),
        })),
        "freebsd-world" => Some(Recipe::FreebsdWorld(freebsd_world(&section))),
        _ => section
            .need("run", "run = [\"/usr/local/sbin/upgrade\"]")
            .and_then(|item| item.argv())
            .map(|run| Recipe::Script { run }),
    };
    let reboot_timeout_s = section.seconds("reboot_timeout");
    section.finish(&format!("the recipe \"{word}\""));
    Some(UpgradeSpec { recipe: recipe?, reboot_timeout_s })
}

/// Each method has keys of its own; one of the other's is unknown.
fn freebsd_world(section: &Section<'_>) -> FreebsdWorld {
    let methods = [("installworld", WorldMethod::Installworld), ("freebsd-update", WorldMethod::FreebsdUpdate)];
    let method = section.choice("method", &methods).unwrap_or_default();
    let packages = section.get("packages").and_then(|item| item.boolean()).unwrap_or(true);
    let src = PathBuf::from("/usr/src");
    match method {
        WorldMethod::Installworld => FreebsdWorld {
            method,
            src: section.path("src").unwrap_or(src),
            obj: section.path("obj"),
            build: section.flag("build"),
            base: section.path("base"),
            packages,
            to: None,
        },
        WorldMethod::FreebsdUpdate => {
            let to = section.parse("to", freebsd_release);
            FreebsdWorld { method, src, obj: None, build: false, base: None, packages, to }
        }
    }
}

/// As freebsd-update(8) is told it: without a patch level.
fn freebsd_release(text: &str) -> Result<String, String> {
    let number = |text: &str| !text.is_empty() && text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let branch = |text: &str| {
        let (word, count) = text.split_at(text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len()));
        matches!((word, count), ("RELEASE", "")) || (matches!(word, "BETA" | "RC") && number(count))
    };
    let sound = text.split_once('-').is_some_and(|(version, rest)| {
        version.split_once('.').is_some_and(|(major, minor)| number(major) && number(minor)) && branch(rest)
    });
    if sound { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a release such as \"14.1-RELEASE\"")) }
}

fn release(text: &str) -> Result<String, String> {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let sound = text.len() <= 40 && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(known);
    if sound {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not the code name of a release such as \"trixie\""))
    }
}

fn promote(section: Section<'_>) -> PromoteSpec {
    let fails = [("ask", IfCheckFails::Ask), ("rollback", IfCheckFails::Rollback), ("keep", IfCheckFails::Keep)];
    let interrupted =
        [("rollback", IfInterrupted::Rollback), ("resume", IfInterrupted::Resume), ("wait", IfInterrupted::Wait)];
    let spec = PromoteSpec {
        if_check_fails: section.choice("if_check_fails", &fails).unwrap_or_default(),
        if_interrupted: section.choice("if_interrupted", &interrupted),
    };
    section.finish("promote");
    spec
}

fn carry(item: &Item<'_>) -> Option<CarryRule> {
    let section = item.section()?;
    let kind = section.need("kind", "kind = \"rsync\"")?.choice(&[("rsync", ())]);
    let path = section.need("path", "path = \"/var/spool/app/\"").and_then(|item| item.parse(absolute_path));
    let exclude = section.strings("exclude");
    section.finish("carry");
    kind?;
    Some(CarryRule::Rsync { path: path?, exclude })
}

fn clone(section: Section<'_>, known: &Known<'_>) -> CloneDefaults {
    let strategies = [
        ("snapshot", Strategy::Snapshot),
        ("origin", Strategy::Origin),
        ("transfer", Strategy::Transfer),
        ("linked", Strategy::Linked),
        ("in-place", Strategy::InPlace),
    ];
    let ip = section.get("ip").map(|item| item.items()).unwrap_or_default();
    let wish = |item: &Item<'_>| item.parse(|text| text.parse::<AddressWish>().map(|_| text.to_owned()));
    let allow = section.get("allow").map(|item| item.items()).unwrap_or_default();
    let place = |item: &Item<'_>| item.parse(|text| text.parse::<Allowed>().map(|_| text.to_owned()));
    let spec = CloneDefaults {
        strategy: section.choice("strategy", &strategies),
        ip: ip.iter().filter_map(wish).collect(),
        mac: section.parse("mac", mac).unwrap_or_default(),
        hostname: section.parse("hostname", hostname).flatten(),
        runs_on: known.host(section.get("runs_on")),
        memory_bytes: section.parse("memory", parse_bytes),
        network: section
            .choice("network", &[("open", NetworkRule::Open), ("fenced", NetworkRule::Fenced)])
            .unwrap_or_default(),
        allow: allow.iter().filter_map(place).collect(),
        snapshot: section.section("snapshot").map(snapshot).unwrap_or_default(),
        interface: section.string("interface"),
        portgroup: section.string("portgroup"),
    };
    section.finish("clone");
    spec
}

fn mac(text: &str) -> Result<MacRule, String> {
    match text {
        "derive" => Ok(MacRule::Derive),
        "random" => Ok(MacRule::Random),
        _ => text.parse().map(MacRule::Fixed).map_err(|error| format!("{error}, nor \"derive\" or \"random\"")),
    }
}

fn hostname(text: &str) -> Result<Option<String>, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    match text {
        "keep" => Ok(None),
        _ if text.len() <= 64 && text.split('.').all(label) => Ok(Some(text.to_owned())),
        _ => Err(format!("{text:?} is neither \"keep\" nor a host name")),
    }
}

fn snapshot(section: Section<'_>) -> SnapshotPolicy {
    let size = |key| section.parse(key, |text| text.parse::<Size>());
    let spec = SnapshotPolicy {
        size: size("size"),
        extend_at: section.integer("extend_at", 50..=99),
        extend_by: size("extend_by"),
    };
    section.finish("snapshot");
    spec
}

fn source(section: Section<'_>) -> Option<SourceSpec> {
    let login = match section.section("ssh") {
        Some(login) => Some(ssh(login, true)),
        None => {
            section.problem("the key \"ssh\" is missing", Some("ssh = { address = \"server.example\" }"));
            None
        }
    };
    let filesystems = section.get("filesystems").map(|item| item.items()).unwrap_or_default();
    let spec = SourceSpec {
        ssh: login.unwrap_or_default(),
        filesystems: filesystems.iter().filter_map(|item| item.parse(absolute_path)).collect(),
        method: section.choice("method", &[("dump", CopyMethod::Dump), ("rsync", CopyMethod::Rsync)]),
        parking: section.parse("parking", |text| text.parse().map_err(|_| format!("{text:?} is not an address"))),
        console: section.flag("console"),
        prune: section.get("prune").map(|item| item.items().iter().filter_map(|item| item.parse(beneath)).collect()),
        compress: section.flag("compress"),
        bandwidth: section.parse("bandwidth", parse_bytes),
    };
    section.finish("source");
    Some(spec)
}

/// Something in a guest's tree: without a way out of it, and with a `*` in the last part only.
fn beneath(text: &str) -> Result<String, String> {
    let mut parts: Vec<&str> = text.strip_suffix('/').unwrap_or(text).split('/').collect();
    let last = parts.pop().unwrap_or_default();
    let named = |part: &str| {
        !["", ".", ".."].contains(&part) && !part.contains(|c: char| c.is_control() || "[]?\\".contains(c))
    };
    let above = parts.iter().all(|part| named(part) && !part.contains('*'));
    match above && named(last) && !last.trim_matches(['*', '.']).is_empty() {
        true => Ok(text.to_owned()),
        false => {
            Err(format!("{text:?} is no path in the guest's tree: \"usr/src\", \"tmp/\" to empty it, \"kernel*\""))
        }
    }
}

fn hooks(list: &Item<'_>) -> Vec<Hook> {
    let mut hooks: Vec<Hook> = Vec::new();
    for item in list.items() {
        let Some(hook) = item.section().and_then(hook) else { continue };
        if hooks.iter().any(|other| other.name == hook.name) {
            item.problem(format!("a second hook is named {:?}", hook.name), None);
        }
        hooks.push(hook);
    }
    hooks
}

fn hook(section: Section<'_>) -> Option<Hook> {
    let places = [
        ("host", HookPlace::Host),
        ("clone", HookPlace::Clone),
        ("original", HookPlace::Original),
        ("controller", HookPlace::Controller),
    ];
    let name = section.need("name", "a name that plans can show").and_then(|item| item.string());
    let on = section.need("on", "one of host, clone, original, controller").and_then(|item| item.choice(&places));
    let timeout_s = section.seconds("timeout");
    let around = section.get("around");
    let at = section.get("at");
    let time = match (&around, &at) {
        (Some(around), None) => hook_around(around, &section),
        (None, Some(at)) => hook_at(at, &section),
        _ => {
            let help = "around = [\"clone\"] with before and after, or at = \"after-upgrade\" with run";
            section.problem("needs exactly one of around and at", Some(help));
            // Which keys belong is not known: none is called unknown.
            return None;
        }
    };
    section.finish(if around.is_some() { "a hook around verbs" } else { "a hook at a point" });
    Some(Hook { name: name?, on: on?, when: time?, timeout_s })
}

fn hook_around(around: &Item<'_>, section: &Section<'_>) -> Option<HookTime> {
    let words = Verb::ALL.map(|verb| (verb.word(), verb));
    let verbs: Vec<Verb> = around.items().iter().filter_map(|item| item.choice(&words)).collect();
    let before = hook_argv(section.get("before"));
    let after = hook_argv(section.get("after"));
    if before.is_none() && after.is_none() {
        section.problem("has neither before nor after", Some("before = [\"program\", \"argument\"]"));
    }
    let lease_s = section.get("lease").and_then(|item| lease(&item, after.is_some()));
    Some(HookTime::Around { verbs, before, after, lease_s })
}

/// Seconds that a change stands which nobody renews.
fn lease(item: &Item<'_>, after: bool) -> Option<u64> {
    if !after {
        item.problem(
            "there is nothing to take back: it needs an after",
            Some("after = [\"program\", \"argument\"]".into()),
        );
    }
    let (least, most) = LEASE_S;
    item.parse(|text| match super::values::parse_duration(text)?.as_secs() {
        seconds if (least..=most).contains(&seconds) => Ok(seconds),
        _ => Err(format!("{text:?} is not between {least}s and {}h", most / 3600)),
    })
}

fn hook_at(at: &Item<'_>, section: &Section<'_>) -> Option<HookTime> {
    let points = [("before", HookPoint::Before), ("after", HookPoint::After)];
    let all: Vec<(String, (HookPoint, Verb))> = points
        .iter()
        .flat_map(|(word, point)| Verb::ALL.map(|verb| (format!("{word}-{}", verb.word()), (*point, verb))))
        .collect();
    let mut words: Vec<(&str, (HookPoint, Verb))> = all.iter().map(|(word, value)| (word.as_str(), *value)).collect();
    words.push(("volumes", (HookPoint::Volumes, Verb::Clone)));
    words.push(("merge", (HookPoint::Merge, Verb::Commit)));
    let chosen = at.choice(&words);
    let run = hook_argv(section.need("run", "run = [\"program\", \"argument\"]"));
    let undo = hook_argv(section.get("undo"));
    let (point, verb) = chosen?;
    let word = match point {
        HookPoint::Volumes => "volumes",
        HookPoint::Merge => "merge",
        HookPoint::Before | HookPoint::After => "",
    };
    if !word.is_empty() && undo.is_none() {
        section.problem(format!("at = \"{word}\" needs an undo"), Some("undo = [\"program\", \"argument\"]"));
    }
    Some(HookTime::At { point, verb, run: run?, undo })
}

/// A command with placeholders; one that is nearly a placeholder is a slip.
fn hook_argv(item: Option<Item<'_>>) -> Option<Vec<String>> {
    const KNOWN: [&str; 7] =
        ["run", "clone", "original", "clone_address", "original_address", "runs_on", "clone_runs_on"];
    let item = item?;
    let argv = item.argv()?;
    for argument in &argv {
        for inner in argument.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(inner, _)| inner) {
            let slip = !KNOWN.contains(&inner) && inner.len() > 3;
            if let Some(help) = did_you_mean(inner, KNOWN).filter(|_| slip) {
                item.problem(format!("there is no placeholder {{{}}}", inner.escape_debug()), Some(help));
            }
        }
    }
    Some(argv)
}
