//! `pkg` and `pkg-static`: `-N`, `info`, `install -f pkg`, `upgrade -f`, with `-F`, in the host or with `-c DIRECTORY`, `-j JAIL`. The
//! packages of a tree are lines `NAME VERSION ABI` of its `var/db/pkg/jailhost`. What is fetched lies in its cache, as pkg names it there
//! (`NAME-VERSION~HASH.pkg`, and a link without the hash); a line in `fetched` of the state tells each time. Unproven but for the missing pkg.

use crate::host::Host;
use crate::jails::running;
use crate::tools::{release, sha256};
use crate::{faults, say};

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let mut tree = String::new();
    let mut rest = arguments.iter().map(String::as_str);
    let command = loop {
        match rest.next() {
            Some("-c" | "-r") => tree = host.pretended(rest.next().unwrap_or_default()),
            Some("-j") => {
                let wanted = rest.next().unwrap_or_default();
                let Some(jail) = running::find(host, wanted) else {
                    return say::wrong(&format!("jail '{wanted}' not found"));
                };
                tree = jail.path;
            }
            Some("-o") => drop(rest.next()),
            Some(command) => break command,
            None => {
                say::err(
                    "pkg: not enough arguments\nUsage: pkg [-v] [-d] [-l] [-N] [-j <jail name or id>|-c <chroot path>|-r <rootdir>] <command> [<args>]\n",
                );
                return 64;
            }
        }
    };
    let database = format!("{tree}/var/db/pkg/jailhost");
    let Ok(text) = host.read(&database) else { return say::wrong("pkg is not installed") };
    let userland = release::userland(host, &tree).unwrap_or_else(|| host.persona.release.clone());
    let abi = format!("FreeBSD:{}:{}", userland.split('.').next().unwrap_or_default(), host.persona.arch);
    let packages: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let (options, others): (Vec<&str>, Vec<&str>) = rest.partition(|word| word.starts_with('-'));
    if let Some(other) = options.iter().find(|word| !word[1..].chars().all(|c| "fFy".contains(c))) {
        return say::not_played(other);
    }
    let fetch_only = options.iter().any(|word| word.contains('F'));
    let reinstall = |names: &[&str]| -> u8 {
        let mut text = String::new();
        for package in &packages {
            let [name, version, old] = package.as_slice() else { continue };
            if (names.is_empty() || names.contains(name))
                && let Err(wrong) = fetch(host, &tree, name, version, &abi)
            {
                return say::wrong(&say::reason(&wrong));
            }
            if fetch_only {
                continue;
            }
            let of = if (names.is_empty() || names.contains(name)) && !faults::lies() { &abi } else { *old };
            text += &format!("{name} {version} {of}\n");
            if of != *old {
                say::out(&format!("[1/1] Reinstalling {name}-{version}...\n[1/1] Extracting {name}-{version}: done\n"));
            }
        }
        if fetch_only {
            return 0;
        }
        std::fs::write(host.path(&database), text).map_or_else(|wrong| say::wrong(&say::reason(&wrong)), |()| 0)
    };
    match (command, others.as_slice()) {
        ("-N", []) => {
            say::err(&format!("pkg: {} packages installed\n", packages.len()));
            0
        }
        ("info", []) => {
            let line =
                |package: &Vec<&str>| format!("{}-{}\n", package.first().unwrap_or(&""), package.get(1).unwrap_or(&""));
            say::out(&packages.iter().map(line).collect::<String>());
            0
        }
        ("install", names) if !names.is_empty() => reinstall(names),
        ("upgrade", names) => reinstall(names),
        (command, _) => say::not_played(command),
    }
}

/// Brings a package into the tree's cache, unless the very same is there.
fn fetch(host: &Host, tree: &str, name: &str, version: &str, abi: &str) -> std::io::Result<()> {
    let (cache, content) = (host.path(format!("{tree}/var/cache/pkg")), format!("{name} {version} {abi}\n"));
    let file = format!("{name}-{version}~{}.pkg", &sha256::digest(content.as_bytes())[..10]);
    if std::fs::read_to_string(cache.join(&file)).is_ok_and(|there| there == content) {
        return Ok(());
    }
    std::fs::create_dir_all(&cache)?;
    std::fs::write(cache.join(&file), content)?;
    let link = cache.join(format!("{name}-{version}.pkg"));
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(&file, link)?;
    say::out(&format!("[1/1] Fetching {file}: 100%    1 KiB   1.0kB/s    00:01    \n"));
    let mut log = std::fs::OpenOptions::new().create(true).append(true).open(host.state.join("fetched"))?;
    std::io::Write::write_all(&mut log, format!("{tree} {file}\n").as_bytes())
}
