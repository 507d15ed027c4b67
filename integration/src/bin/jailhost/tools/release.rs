//! `uname` and `freebsd-version`.

use crate::host::Host;
use crate::jails::running;
use crate::say;

/// `uname`.
pub fn uname(host: &Host, arguments: &[String]) -> u8 {
    let persona = &host.persona;
    let mut letters = String::new();
    for argument in arguments {
        match argument.strip_prefix('-') {
            Some(own) if !own.is_empty() => letters += own,
            _ => {
                say::err("usage: uname [-abiKmnoprsUv]\n");
                return 1;
            }
        }
    }
    if let Some(letter) = letters.chars().find(|letter| !"abiKmnoprsUv".contains(*letter)) {
        return say::illegal(letter, "usage: uname [-abiKmnoprsUv]\n");
    }
    if letters.contains('b') {
        return say::not_played("-b");
    }
    if letters.is_empty() {
        letters.push('s');
    }
    if letters.contains('a') {
        letters += "snrvm";
    }
    let version = format!("FreeBSD {} {}", persona.kernel, persona.ident);
    // In the order of the real one, whatever the order of the letters.
    let parts: [(&str, &str); 9] = [
        ("so", "FreeBSD"),
        ("n", &persona.hostname),
        ("r", &persona.kernel),
        ("v", &version),
        ("m", &persona.arch),
        ("p", &persona.arch),
        ("i", &persona.ident),
        ("U", &persona.osreldate),
        ("K", &persona.osreldate),
    ];
    let said: Vec<&str> =
        parts.iter().filter(|(of, _)| of.chars().any(|l| letters.contains(l))).map(|(_, part)| *part).collect();
    say::out(&format!("{}\n", said.join(" ")));
    0
}

/// `freebsd-version`: of the installed kernel, the running one, the userland, and jails.
pub fn freebsd_version(host: &Host, arguments: &[String]) -> u8 {
    const USAGE: &str = "usage: freebsd-version [-kru] [-j jail]\n";
    let mut letters = String::new();
    let mut jails = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.strip_prefix('-') {
            Some("j") => jails.extend(rest.next().cloned()),
            Some(own) if !own.is_empty() => letters += own,
            _ => {
                say::err(USAGE);
                return 1;
            }
        }
    }
    if let Some(letter) = letters.chars().find(|letter| !"kru".contains(*letter)) {
        return say::illegal(letter, USAGE);
    }
    let userland = || userland(host, "").unwrap_or_else(|| host.persona.release.clone());
    for (letter, version) in [('k', host.persona.kernel.clone()), ('r', host.persona.kernel.clone()), ('u', userland())]
    {
        if letters.contains(letter) || (letters.is_empty() && jails.is_empty() && letter == 'u') {
            say::out(&format!("{version}\n"));
        }
    }
    let mut status = 0;
    for wanted in jails {
        // The real one runs the jail's own freebsd-version.
        let Some(jail) = running::find(host, &wanted) else {
            say::err(&format!("jexec: jail \"{wanted}\" not found\n"));
            status = 1;
            continue;
        };
        match self::userland(host, &jail.path) {
            Some(version) => say::out(&format!("{version}\n")),
            None => {
                say::err("jexec: execvp: freebsd-version: No such file or directory\n");
                status = 1;
            }
        }
    }
    status
}

/// What `bin/freebsd-version` of a tree calls its userland.
pub fn userland(host: &Host, tree: &str) -> Option<String> {
    let text = host.read(format!("{tree}/bin/freebsd-version")).ok()?;
    let (_, rest) = text.split_once("USERLAND_VERSION=\"")?;
    Some(rest.split('"').next()?.to_owned())
}
