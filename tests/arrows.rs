//! Arrows between modules point one way only. The compiler does not enforce that within a crate; this test reads the
//! sources and does. The law is the module doc of `src/lib.rs`; [`allowed`] and [`allowed_in_hypervisors`] are its
//! letter.
//!
//! Paths are read as tokens, comments and literals left out, groups (`use a::{b, c}`) spelled out, `super` followed
//! up. Test code (`#[cfg(test)]` items, files of tests) may see more: it brings the platforms in, and holds things to
//! what they are made for. A macro that builds a path from pieces would not be seen; there is none.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

/// A path used in a source file: `use` or in an expression.
#[derive(Debug, PartialEq)]
struct Used {
    line: usize,
    path: Vec<String>,
    in_test: bool,
}

/// What each module of `upgradectl` may see of its siblings. Own paths are always allowed.
fn allowed(module: &str) -> &'static [&'static str] {
    match module {
        // Of `lifecycle` the exit codes only; see `forbidden`.
        "main" => &["cli", "output", "lifecycle"],
        "cli" => &["output", "batch", "lifecycle", "inventory", "engine", "journal", "steps", "verify"],
        "output" => &["batch", "lifecycle", "inventory", "engine", "journal", "steps", "verify"],
        "batch" => &["lifecycle", "inventory", "engine", "journal", "verify"],
        "lifecycle" => &["inventory", "engine", "journal", "steps", "recipe", "verify", "guest"],
        "inventory" => &["verify"],
        "engine" => &["journal", "steps", "verify"],
        "steps" => &["recipe", "verify", "guest"],
        // A door from outside to every parser, which nothing of ours goes through.
        "fuzz" => &["batch", "inventory", "engine", "steps", "recipe", "verify", "guest"],
        // `journal` knows nothing of ours; `guest`, `verify` and `recipe` stand on `hypervisors` alone.
        _ => &[],
    }
}

/// What of the crate `hypervisors` those see that work on a directory, a `Host` or an address, whatever the platform.
const NO_PLATFORM: [&str; 11] =
    ["host", "net", "error", "Host", "Net", "MacAddr", "GuestLink", "Cause", "Error", "Result", "Change"];

fn sees_of_hypervisors(module: &str, file: &str, name: &str) -> bool {
    match module {
        "journal" | "main" => false,
        "inventory" => name == "MacAddr",
        // rc.conf(5) is a text of the guest's own.
        // So are the shell variables of /etc/sysconfig, which are read alike.
        "guest" if name == "jail" => file.starts_with("src/guest/freebsd/") || file == "src/guest/sysconfig.rs",
        "guest" | "verify" | "recipe" => NO_PLATFORM.contains(&name),
        // One place makes platforms of hosts; `init` fills a simulated world, which is what it is asked for.
        _ if name == "sim" && file == "src/lifecycle/init.rs" => true,
        _ => !["libvirt", "xl", "vsphere", "sim", "*", "as"].contains(&name) || file == "src/lifecycle/world.rs",
    }
}

/// What each module of `hypervisors` may see of its siblings; the types of the crate's root are open to all.
fn allowed_in_hypervisors(module: &str) -> &'static [&'static str] {
    match module {
        "lib" => &["error", "host", "machines", "net", "sight", "storage", "libvirt", "xl", "sim"],
        "host" => &["error"],
        "net" | "sight" | "storage" | "transfer" => &["error", "host"],
        "vsphere" => &["error", "host", "machines", "net", "sight", "storage"],
        "bare" => &["host", "net"],
        "libvirt" | "sim" => &["error", "host", "net", "sight", "storage"],
        "versions" => &["host", "occasion"],
        "xl" => &["error", "host", "net", "sight", "storage", "versions"],
        "jail" => &["host", "net", "sight", "storage", "versions"],
        // Made of two platforms, whatever they are.
        "placed" => &["error", "host", "net", "sight", "storage"],
        "fuzz" => &["host", "net", "sight", "storage", "jail", "libvirt", "transfer", "xl"],
        _ => &[],
    }
}

/// Why `used` may not stand in `file` (a path from the top of the tree); `None` if it may.
fn forbidden(file: &str, used: &Used) -> Option<String> {
    let of_platforms = file.starts_with("hypervisors/");
    let path: Vec<&str> = used.path.iter().map(String::as_str).collect();
    if used.in_test {
        return None;
    }
    let says = path.join("::");
    if starts_process(&path) && file != "hypervisors/src/host/local.rs" {
        return Some(format!("{says}: only hypervisors/src/host/local.rs starts processes; use Host::run"));
    }
    let modules = module_path(file);
    let module = modules.first().map_or("lib", String::as_str);
    match path.as_slice() {
        ["upgradectl", ..] if of_platforms => Some(format!("{says}: hypervisors knows nothing of upgradectl")),
        ["crate", name, ..] if of_platforms => {
            let item = name.starts_with(char::is_uppercase) || *name == "self";
            let open = item || *name == module || allowed_in_hypervisors(module).contains(name);
            (!open).then(|| format!("{says}: {module} may not see {name}"))
        }
        [_, "lifecycle", below, ..] if module == "main" && *below != "error" => {
            Some(format!("{says}: main parses, runs and ends with the exit code, no more"))
        }
        ["crate" | "upgradectl", name, ..] => {
            let open = *name == module || allowed(module).contains(name);
            (!open).then(|| format!("{says}: {module} may not see {name}"))
        }
        ["hypervisors", name, ..] if !of_platforms => {
            let open = sees_of_hypervisors(module, file, name);
            (!open).then(|| format!("{says}: {module} may not see {name} of hypervisors"))
        }
        _ => None,
    }
}

fn starts_process(path: &[&str]) -> bool {
    let process = path.windows(2).any(|pair| matches!(pair, ["process", "Command" | "*"]));
    let raw = matches!(path.first(), Some(&"libc" | &"nix"))
        && path.iter().any(|name| ["fork", "vfork", "system", "popen", "posix_spawn"].contains(name));
    let exec = matches!(path.first(), Some(&"libc" | &"nix")) && path.iter().any(|name| name.starts_with("exec"));
    process || raw || exec
}

/// The module a file is: `src/guest/tree/apply.rs` → `guest tree apply`; the crate's root is empty.
fn module_path(file: &str) -> Vec<String> {
    let inside = file.split_once("src/").map_or(file, |(_, inside)| inside);
    let inside = inside.trim_end_matches(".rs").trim_end_matches("/mod");
    if inside == "lib" { Vec::new() } else { inside.split('/').map(str::to_owned).collect() }
}

fn file_of_tests(file: &str) -> bool {
    file.split('/').any(|part| part == "tests") || file.ends_with("/tests.rs") || file.ends_with("_tests.rs")
}

/// Every path of a source text that begins with a name this test judges.
fn paths(file: &str, text: &str) -> Vec<Used> {
    let tokens = tokens(text);
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| word.as_str());
    let mut used = Vec::new();
    let mut modules = module_path(file);
    // For each open brace: whether a module or an item of tests begins there.
    let mut braces: Vec<(bool, bool)> = Vec::new();
    let (mut next_is_module, mut next_is_test) = (false, false);
    let mut at = 0;
    while at < tokens.len() {
        match word(at) {
            "#" if word(at + 1) == "[" && word(at + 2) == "cfg" && word(at + 4) == "test" => next_is_test = true,
            "mod" if word(at + 2) == "{" => {
                modules.push(word(at + 1).to_owned());
                next_is_module = true;
            }
            "{" => {
                braces.push((next_is_module, next_is_test));
                (next_is_module, next_is_test) = (false, false);
            }
            "}" => {
                if let Some((true, _)) = braces.pop() {
                    modules.pop();
                }
            }
            // `#[cfg(test)] mod tests;` and `#[cfg(test)] use …;`
            ";" => next_is_test = false,
            "crate" | "super" | "hypervisors" | "upgradectl" | "std" | "tokio" | "process" | "nix" | "libc"
                if at == 0 || word(at - 1) != "::" =>
            {
                let in_test = file_of_tests(file) || next_is_test || braces.iter().any(|(_, test)| *test);
                let mut found = Vec::new();
                spell(&tokens, &mut { at }, &[], &mut found);
                for path in found.into_iter().filter_map(|path| from_root(path, &modules)) {
                    used.push(Used { line: tokens[at].0, path, in_test });
                }
            }
            _ => {}
        }
        at += 1;
    }
    used
}

/// Follows `super` up; `None` if the path stays below the crate's root.
fn from_root(path: Vec<String>, modules: &[String]) -> Option<Vec<String>> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    if ups == 0 {
        return Some(path);
    }
    let kept = modules.len().checked_sub(ups)?;
    let full = modules[..kept].iter().chain(&path[ups..]);
    Some(std::iter::once("crate".to_owned()).chain(full.cloned()).collect())
}

/// Spells out the path that begins at `at`, a group as one path for each member.
fn spell(tokens: &[(usize, String)], at: &mut usize, before: &[String], found: &mut Vec<Vec<String>>) {
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| word.as_str());
    let mut path = before.to_vec();
    loop {
        match word(*at) {
            "{" => {
                *at += 1;
                while !["}", ""].contains(&word(*at)) {
                    if word(*at) == "," {
                        *at += 1;
                    } else {
                        spell(tokens, at, &path, found);
                    }
                }
                *at += 1;
                return;
            }
            // `a::{self as b}` names `a`.
            "self" if !path.is_empty() => {}
            part => path.push(part.to_owned()),
        }
        *at += 1;
        if word(*at) != "::" {
            break;
        }
        *at += 1;
    }
    if word(*at) == "as" {
        // A crate or its root under another name would hide what is used.
        path.push("as".to_owned());
        *at += 2;
    }
    found.push(path);
    // Nothing but `,` and `}` ends a member of a group; elsewhere the caller goes on by itself.
    while !before.is_empty() && ![",", "}", ""].contains(&word(*at)) {
        *at += 1;
    }
}

/// Words and signs of a Rust text with their lines; comments, strings, characters and lifetimes left out.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let name = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if rest[0] == b'"' || rest.starts_with(b"b\"") || rest.starts_with(b"c\"") {
            quoted(rest, b'"')
        } else if rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || character(rest)) {
            quoted(rest, b'\'')
        } else if rest.starts_with(b"::") {
            tokens.push((line, "::".to_owned()));
            2
        } else if name(rest[0]) {
            let length = rest.iter().position(|b| !name(*b)).unwrap_or(rest.len());
            tokens.push((line, String::from_utf8_lossy(&rest[..length]).into_owned()));
            length
        } else {
            if !rest[0].is_ascii_whitespace() {
                tokens.push((line, char::from(rest[0]).to_string()));
            }
            1
        };
        line += rest[..length].iter().filter(|b| **b == b'\n').count();
        at += length;
    }
    tokens
}

/// Whether a quote begins a character (`'x'`, of any length in UTF-8) and not a lifetime.
fn character(rest: &[u8]) -> bool {
    let length = match rest.get(1) {
        Some(0xf0..) => 4,
        Some(0xe0..) => 3,
        Some(0xc0..) => 2,
        _ => 1,
    };
    rest.get(1 + length) == Some(&b'\'')
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = rest.iter().position(|b| *b == quote).unwrap_or(0) + 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let start = if rest.starts_with(b"br") || rest.starts_with(b"cr") { 2 } else { usize::from(rest[0] == b'r') };
    let hashes = rest[start..].iter().take_while(|b| **b == b'#').count();
    if start == 0 || rest.get(start + hashes) != Some(&b'"') {
        return None;
    }
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = start + hashes + 1;
    let length = rest[body..].windows(end.len()).position(|window| window == end)?;
    Some(body + length + end.len())
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (2, 1);
    while at < rest.len() && depth > 0 {
        if rest[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if rest[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
        } else {
            at += 1;
        }
    }
    at.min(rest.len())
}

/// The Rust files below a folder of the project, as paths from its top.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    walk(&top.join(folder), &mut files);
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(top).unwrap().to_str().unwrap().to_owned(), text)
    };
    files.into_iter().map(read).collect()
}

fn faults(file: &str, text: &str) -> Vec<String> {
    let told = |used: &Used| forbidden(file, used).map(|why| format!("{file}:{}: {why}", used.line));
    paths(file, text).iter().filter_map(told).collect()
}

#[test]
fn arrows_point_down() {
    let mut seen = 0;
    let mut all = Vec::new();
    for (file, text) in sources("src").into_iter().chain(sources("hypervisors/src")) {
        seen += paths(&file, &text).len();
        all.extend(faults(&file, &text));
    }
    assert!(seen > 200, "only {seen} paths were read: this test does not see the sources any more");
    assert!(all.is_empty(), "forbidden arrows:\n{}", all.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let folders = ["src", "hypervisors", "integration/src", "integration/tests", "tests"];
    let all = folders.iter().flat_map(|folder| sources(folder));
    let long = all
        .filter(|(_, text)| text.lines().count() > 600)
        .map(|(file, text)| format!("{file}: {} lines", text.lines().count()))
        .collect::<Vec<_>>();
    assert!(long.is_empty(), "files of more than one thought:\n{}", long.join("\n"));
}

#[test]
fn forbidden_arrows_are_caught() {
    let cases = [
        ("src/journal/sqlite.rs", "use crate::engine::Plan;"),
        ("src/journal/mod.rs", "use hypervisors::Error;"),
        ("src/engine/plan.rs", "use crate::{journal::Journal, lifecycle::{app::App}};"),
        ("src/engine/mod.rs", "use super::cli;"),
        ("src/engine/plan.rs", "mod inner { use super::super::super::output::x; }"),
        ("src/guest/mod.rs", "fn f() { let x = hypervisors::libvirt::Libvirt::new(); }"),
        ("src/guest/mod.rs", "use hypervisors::storage::Storage;"),
        ("src/guest/tree.rs", "use hypervisors::*;"),
        ("src/guest/tree.rs", "use hypervisors as h;"),
        ("src/verify/mod.rs", "use hypervisors::{Host, sim::{self, Sim}};"),
        ("src/verify/mod.rs", "use crate::guest::Tree;"),
        ("src/recipe/mod.rs", "use crate as c;"),
        ("src/inventory/load.rs", "use crate::steps::Step;"),
        ("src/lifecycle/app.rs", "use hypervisors::libvirt::Libvirt;"),
        ("src/lifecycle/app.rs", "use hypervisors::{self as h};"),
        ("src/lifecycle/app.rs", "const A: char = '\"'; use crate::cli::Cli; const B: char = '\"';"),
        ("src/lifecycle/app.rs", "fn f<'a>(x: &'a str) { crate::output::show(x) } // 'b"),
        ("src/steps/hook.rs", "fn f() { std::process::Command::new(\"true\"); }"),
        ("src/steps/hook.rs", "use std::{fs, process::{self, Command}};"),
        ("src/steps/hook.rs", "use std::process; fn f() { process::Command::new(\"true\"); }"),
        ("src/steps/hook.rs", "use tokio::process::Command;"),
        ("src/steps/hook.rs", "use nix::unistd::{execv, getpid};"),
        ("src/main.rs", "use upgradectl::{lifecycle::app::App};"),
        ("hypervisors/src/host/ssh.rs", "use crate::libvirt::Libvirt;"),
        ("hypervisors/src/libvirt/mod.rs", "use crate::{Error, sim::Sim};"),
        ("hypervisors/src/lib.rs", "use upgradectl::steps::Step;"),
        ("hypervisors/src/storage/btrfs.rs", "#[cfg(test)] use x::y; use tokio::process::Command;"),
    ];
    for (file, text) in cases {
        assert!(!faults(file, text).is_empty(), "{file}: {text}");
    }
    assert_eq!(
        faults("src/journal/mod.rs", "\n\n/* x */ use\n crate::cli::Cli;")[0].split(": ").next().unwrap(),
        "src/journal/mod.rs:4"
    );
}

#[test]
fn sound_arrows_are_let_through() {
    let cases = [
        ("src/engine/execute.rs", "use crate::journal::Journal; use crate::engine::Plan; use super::plan;"),
        ("src/guest/tree/apply.rs", "use crate::guest::{FileEdit, GuestError}; use super::super::network;"),
        ("src/guest/mod.rs", "//! see [`crate::lifecycle`]\n/* crate::cli::x /* */ crate::cli */"),
        ("src/guest/mod.rs", "const X: &str = \"crate::cli \\\" \"; const Y: &str = r#\"use crate::cli::\"#;"),
        ("src/guest/mod.rs", "#[cfg(test)] mod tests { use hypervisors::sim::Sim; use std::process::Command; }"),
        ("src/guest/tests.rs", "use hypervisors::sim::Sim;"),
        ("src/lifecycle/world.rs", "use hypervisors::{libvirt::Libvirt, sim::Sim};"),
        ("src/lifecycle/init.rs", "use hypervisors::sim::{Sim, seed};"),
        ("src/lifecycle/state.rs", "fn f() { std::process::exit(1) } use std::process::ExitCode;"),
        ("src/main.rs", "use upgradectl::{cli::Cli, lifecycle::error::exit, output};"),
        ("hypervisors/src/libvirt/mod.rs", "use crate::{Cause, host::SshHost, storage};"),
        ("hypervisors/src/sim/boot.rs", "pub(in crate::sim) fn f() {} pub(crate) fn g() {}"),
        ("hypervisors/src/host/local.rs", "use tokio::process::Command;"),
    ];
    for (file, text) in cases {
        assert_eq!(faults(file, text), [""; 0], "{file}: {text}");
    }
}
