//! What of the facts speaks against an upgrade, each refusal with its remedy. Pure.

use std::path::Path;

use super::elf::compat;
use super::{Facts, Method, Release, Wanted, look};
use crate::recipe::Finding;

/// The first release with etcupdate(8) in its base system.
pub const ETCUPDATE: u32 = 10;

/// What was found. `root`: the jail's tree, `scratch`: the run's own directory on the jail host.
pub fn preflight(facts: &Facts, wanted: &Wanted, root: &Path, scratch: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let named = match &wanted.method {
        Method::Source(source) => vec![Some(&source.src), source.obj.as_ref(), wanted.base.as_ref()],
        Method::Binary(_) => Vec::new(),
    };
    let named = named.into_iter().flatten().map(|path| path.as_path());
    for path in [root, scratch].into_iter().chain(named) {
        if !look::plain(path) {
            found.push(Finding::refuse(
                "freebsd.path",
                format!("{} cannot be handed to make", path.display()),
                "let it be an absolute path of letters, digits and . _ - +",
            ));
        }
    }
    let Some(target) = facts.target(&wanted.method) else {
        found.push(no_target(wanted));
        return found;
    };
    found.push(release(facts, &target));
    found.push(kernel(facts, &target));
    if let Method::Source(source) = &wanted.method {
        found.push(objects(facts, wanted, &source.src.display().to_string()));
        found.extend(src_conf(facts));
    }
    found.push(securelevel(facts));
    found.extend(flags(facts));
    found.push(links(facts));
    found.extend(merge(facts, wanted, &target));
    found.push(packages(facts, wanted));
    found.extend(foreign(facts, &target));
    found
}

fn no_target(wanted: &Wanted) -> Finding {
    match &wanted.method {
        Method::Source(source) => Finding::refuse(
            "freebsd.source",
            format!("{} is no source of FreeBSD (no sys/conf/newvers.sh or sys/sys/param.h)", source.src.display()),
            "put the release's source there, or name it: upgrade.src",
        ),
        Method::Binary(_) => Finding::refuse(
            "freebsd.release",
            "the release to upgrade to cannot be told",
            "upgrade.to = \"14.1-RELEASE\"",
        ),
    }
}

fn release(facts: &Facts, target: &Release) -> Finding {
    const ID: &str = "freebsd.release";
    match &facts.tree.release {
        None => Finding::refuse(
            ID,
            "the jail's release cannot be told (neither bin/freebsd-version nor usr/include/osreldate.h)",
            "is it a FreeBSD system, and whole?",
        ),
        Some(now) if now.osrel > target.osrel => {
            Finding::refuse(ID, format!("the jail runs {now}, newer than {target}"), "FreeBSD cannot be downgraded")
        }
        Some(now) if now.name == target.name => {
            Finding::warn(ID, format!("the jail runs {now} already"), "it is installed again")
        }
        Some(now) => Finding::pass(ID, format!("{now} to {target}")),
    }
}

/// A jail's programs talk to the host's kernel, which must not be older than they are.
fn kernel(facts: &Facts, target: &Release) -> Finding {
    const ID: &str = "freebsd.kernel";
    let host = &facts.host;
    let running = &host.running;
    match host.kernel {
        None => Finding::refuse(
            ID,
            "the host does not tell its kernel's version (uname -K)",
            "the jail host has to be FreeBSD 12 or newer",
        ),
        Some(kernel) if kernel >= target.osrel => {
            Finding::pass(ID, format!("the host runs {running}, the jail gets {target}"))
        }
        Some(_) => {
            let newer =
                Release::named(&host.installed).is_some_and(|installed| installed.osrel / 1000 >= target.osrel / 1000);
            let remedy = if newer && host.installed != *running {
                format!("boot the host into its installed kernel, {}", host.installed)
            } else {
                "upgrade the host first, or take the source of its own release".to_owned()
            };
            Finding::refuse(
                ID,
                format!("the host runs {running}, older than {target}: a jail must not be newer"),
                remedy,
            )
        }
    }
}

fn objects(facts: &Facts, wanted: &Wanted, src: &str) -> Finding {
    const ID: &str = "freebsd.world";
    let source = &facts.source;
    let place = source.objects.as_ref().map_or(String::new(), |path| format!(" in {}", path.display()));
    let name = source.release.as_ref().map_or("", |release| &release.name);
    if source.complete() {
        return Finding::pass(ID, format!("{name} is built{place}"));
    }
    let what = match &source.built {
        Some(built) if built != name => format!("{built} is built{place}, the source is {name}"),
        _ => format!("no finished buildworld of {name}{place}"),
    };
    if wanted.build {
        return Finding::warn(ID, what, "it is built first, which takes hours");
    }
    Finding::refuse(ID, what, format!("on the host: make -C {src} buildworld; or let it be done: upgrade.build = true"))
}

fn src_conf(facts: &Facts) -> Option<Finding> {
    let without = &facts.host.without;
    (!without.is_empty()).then(|| {
        Finding::warn(
            "freebsd.src_conf",
            format!(
                "the host's src.conf leaves out {}: delete-old takes that away from the jail too",
                without.join(" ")
            ),
            "if the jail needs it: take the option out and build the world again",
        )
    })
}

fn securelevel(facts: &Facts) -> Finding {
    const ID: &str = "freebsd.securelevel";
    match facts.host.securelevel {
        Some(level) if level > 0 => Finding::refuse(
            ID,
            format!("the host's securelevel is {level}: files of the base system cannot be replaced (schg)"),
            "kern_securelevel_enable=\"NO\" in the host's rc.conf, and a reboot",
        ),
        Some(level) => Finding::pass(ID, format!("securelevel {level}")),
        None => Finding::warn(ID, "the host's securelevel cannot be told", "above 0 the upgrade stops part-way"),
    }
}

fn flags(facts: &Facts) -> Option<Finding> {
    let flags = &facts.tree.flags;
    (!flags.is_empty()).then(|| {
        let more = if flags.len() >= 40 { " at least" } else { "" };
        Finding::warn(
            "freebsd.flags",
            format!("{}{more} files cannot be changed: {}", flags.len(), some(flags)),
            "chflags noschg is a step",
        )
    })
}

/// make and etcupdate follow links: one that leads out of the tree would have them write into the host.
fn links(facts: &Facts) -> Finding {
    const ID: &str = "freebsd.links";
    let outside = &facts.tree.outside;
    if outside.is_empty() {
        return Finding::pass(ID, "no directory of the base system leads out of the tree");
    }
    Finding::refuse(
        ID,
        format!("links that lead out of the tree: {}", some(outside)),
        "in the clone: make each a relative link (ln -sfn ../target), or a directory; a hook at before-upgrade repeats it",
    )
}

fn merge(facts: &Facts, wanted: &Wanted, target: &Release) -> Vec<Finding> {
    const ID: &str = "freebsd.merge";
    let host = &facts.host;
    if matches!(wanted.method, Method::Binary(_)) {
        return vec![if host.has("freebsd-update") {
            Finding::warn(ID, "freebsd-update keeps changed configuration files", "what it keeps is listed; unproven")
        } else {
            Finding::refuse(ID, "the host has no freebsd-update", "method = \"installworld\" with a source")
        }];
    }
    if target.major() < ETCUPDATE {
        return vec![if host.has("mergemaster") {
            Finding::warn(
                ID,
                format!("{target} has no etcupdate: mergemaster -a, which merges nothing"),
                "every changed file is listed; unproven",
            )
        } else {
            Finding::refuse(
                ID,
                format!("{target} has no etcupdate, and the host no mergemaster"),
                "upgrade to a release from 10.0 on",
            )
        }];
    }
    if !host.has("etcupdate") {
        return vec![Finding::refuse(ID, "the host has no etcupdate", "the jail host has to be FreeBSD 12 or newer")];
    }
    let now = facts.tree.release.as_ref().map_or("its release".to_owned(), |release| release.name.clone());
    let help = "base = a tarball of the old release's /etc (etcupdate build, or its base distribution), or its source";
    let base = match (&wanted.base, &facts.base_source) {
        _ if facts.tree.base => {
            Finding::pass("freebsd.base", "the jail has the tree that its configuration files came from")
        }
        (None, _) => Finding::refuse(
            "freebsd.base",
            format!("nothing to compare the jail's configuration files with: no tree of {now}"),
            help,
        ),
        (Some(base), Some(release))
            if facts.tree.release.as_ref().is_some_and(|now| now.osrel / 1000 != release.osrel / 1000) =>
        {
            Finding::warn(
                "freebsd.base",
                format!("{} is {release}, the jail {now}", base.display()),
                "files may count as changed that are not",
            )
        }
        (Some(base), Some(release)) => {
            Finding::pass("freebsd.base", format!("compared with {release} ({})", base.display()))
        }
        (Some(base), None) if facts.base_file => {
            Finding::pass("freebsd.base", format!("compared with {}", base.display()))
        }
        (Some(base), None) => Finding::refuse(
            "freebsd.base",
            format!("{} is neither a file nor a source of FreeBSD", base.display()),
            help,
        ),
    };
    vec![Finding::pass(ID, "etcupdate"), base]
}

fn packages(facts: &Facts, wanted: &Wanted) -> Finding {
    const ID: &str = "freebsd.packages";
    let tree = &facts.tree;
    match (tree.pkg, wanted.packages) {
        (true, true) => Finding::pass(ID, "packages are reinstalled for the new base system"),
        (true, false) => {
            Finding::warn(ID, "packages stay as they are (packages = false)", "old libraries stay with them")
        }
        (false, _) if tree.old_packages > 0 => Finding::warn(
            ID,
            format!("about {} packages from before pkg(8): nothing can reinstall them", tree.old_packages),
            "they need the compat libraries; old libraries stay",
        ),
        (false, _) => Finding::warn(ID, "the jail has no packages that pkg(8) knows", "old libraries stay"),
    }
}

fn foreign(facts: &Facts, target: &Release) -> Vec<Finding> {
    let foreign = &facts.foreign;
    let host = &facts.host;
    let mut found: Vec<Finding> = foreign
        .older
        .iter()
        .map(|(major, (count, one))| {
            let what = format!("{count} binaries for FreeBSD {major} below /usr/local ({one})");
            let feature = format!("compat_freebsd{major}");
            let runs = host.compat.is_empty() || host.compat.contains(&feature) || *major >= target.major();
            let kernel = if runs { String::new() } else { format!("; the host's kernel lacks COMPAT_FREEBSD{major}") };
            Finding::warn("freebsd.compat", what, format!("those that stay need {}{kernel}", compat(*major)))
        })
        .collect();
    if foreign.narrow > 0 && host.arch == "amd64" {
        let without = ["WITHOUT_LIB32"].iter().any(|option| host.without.iter().any(|set| set == option));
        let what = format!("{} binaries for 32-bit machines below /usr/local", foreign.narrow);
        let lost =
            without || (!host.compat.is_empty() && !host.compat.iter().any(|name| name == "compat_freebsd_32bit"));
        found.push(if lost {
            Finding::warn(
                "freebsd.lib32",
                format!("{what} will not run"),
                "a world with lib32, and a kernel with COMPAT_FREEBSD32",
            )
        } else {
            Finding::warn(
                "freebsd.lib32",
                format!("{what} run by lib32"),
                "packages that are reinstalled are for amd64",
            )
        });
    }
    found
}

/// The first names of a list.
fn some(names: &[String]) -> String {
    let shown = names.iter().take(6).cloned().collect::<Vec<_>>().join(" ");
    if names.len() > 6 { format!("{shown} and {} more", names.len() - 6) } else { shown }
}
