//! `sysrc`: reads and edits rc.conf(5) files.

use std::path::PathBuf;

use super::rcconf::{self, RcConf};
use crate::host::Host;
use crate::{faults, say};

const USAGE: &str = "Usage: sysrc [OPTIONS] name[[+|-]=value] ...
Try `sysrc --help' for more information.
";

#[derive(Default)]
struct Asked {
    all: bool,
    check: bool,
    delete: bool,
    ignore: bool,
    only_value: bool,
    only_name: bool,
    quiet: bool,
    root: Option<String>,
    file: Option<String>,
    rest: Vec<String>,
}

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let asked = match asked(arguments) {
        Ok(asked) => asked,
        Err(status) => return status,
    };
    let root = host.path(asked.root.as_deref().unwrap_or("/"));
    let file: PathBuf = asked.file.as_ref().map_or_else(|| root.join("etc/rc.conf"), |file| host.path(file));
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let rc = match &asked.file {
        Some(_) => RcConf { defaults: Vec::new(), own: rcconf::assignments(&text) },
        None => RcConf::of(host, &root),
    };
    if asked.all {
        let mut names: Vec<&String> = rc.own.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        for name in names {
            show(&asked, name, &rc.get(name).unwrap_or_default());
        }
        return 0;
    }
    if asked.rest.is_empty() {
        say::err(USAGE);
        return 1;
    }
    let mut status = 0;
    let mut text = text;
    for item in &asked.rest {
        status = status.max(one(&asked, item, &rc, &mut text));
    }
    if !asked.check && !faults::lies() && text != std::fs::read_to_string(&file).unwrap_or_default() {
        let written = file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&file, &text));
        if let Err(wrong) = written {
            say::err(&format!("sysrc: cannot create {}: {}\n", file.display(), say::reason(&wrong)));
            return 1;
        }
    }
    status
}

fn show(asked: &Asked, name: &str, value: &str) {
    match (asked.only_value, asked.only_name) {
        (true, _) => say::out(&format!("{value}\n")),
        (_, true) => say::out(&format!("{name}\n")),
        _ => say::out(&format!("{name}: {value}\n")),
    }
}

/// A name, `name=value`, `name+=value` or `name-=value`.
fn one(asked: &Asked, item: &str, rc: &RcConf, text: &mut String) -> u8 {
    let Some((name, value)) = item.split_once('=') else {
        let known = if asked.delete {
            rcconf::assignments(text).into_iter().rev().find(|(name, _)| name == item).map(|(_, v)| v)
        } else {
            rc.get(item)
        };
        let Some(value) = known else {
            if asked.ignore {
                return 0;
            }
            // As it was recorded: the script is called by its interpreter's name.
            say::err(&format!("sh: unknown variable '{item}'\n"));
            return 1;
        };
        if asked.delete {
            *text = text
                .split_inclusive('\n')
                .filter(|line| rcconf::assignment(line).is_none_or(|(name, _)| name != item))
                .collect();
        } else {
            show(asked, item, &value);
        }
        return 0;
    };
    let (name, added, taken) = match (name.strip_suffix('+'), name.strip_suffix('-')) {
        (Some(name), _) => (name, true, false),
        (_, Some(name)) => (name, false, true),
        _ => (name, false, false),
    };
    let old = rc.get(name).unwrap_or_default();
    let mut words: Vec<&str> = old.split_whitespace().collect();
    let new = if added {
        words.extend(value.split_whitespace().filter(|word| !old.split_whitespace().any(|known| known == *word)));
        words.join(" ")
    } else if taken {
        words.retain(|word| !value.split_whitespace().any(|gone| gone == *word));
        words.join(" ")
    } else {
        value.to_owned()
    };
    if asked.check {
        return u8::from(rc.get(name).as_deref() != Some(&new));
    }
    set(text, name, &new);
    if !asked.quiet {
        match asked.only_value {
            true => say::out(&format!("{new}\n")),
            false => say::out(&format!("{name}: {old} -> {new}\n")),
        }
    }
    0
}

/// Changes the last assignment of a name, or adds one.
fn set(text: &mut String, name: &str, value: &str) {
    let quoted = value.replace('"', "\\\"");
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let line = format!("{name}=\"{quoted}\"\n");
    match lines.iter().rposition(|line| rcconf::assignment(line).is_some_and(|(known, _)| known == name)) {
        Some(at) => lines[at] = line,
        None => {
            if lines.last().is_some_and(|last| !last.ends_with('\n')) {
                lines.push("\n".to_owned());
            }
            lines.push(line);
        }
    }
    *text = lines.concat();
}

fn asked(arguments: &[String]) -> Result<Asked, u8> {
    let mut asked = Asked::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            asked.rest.push(argument.clone());
            continue;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            let mut value = || {
                let own: String = letters.by_ref().collect();
                if own.is_empty() { rest.next().cloned() } else { Some(own) }
            };
            match letter {
                'a' => asked.all = true,
                'c' => asked.check = true,
                'x' => asked.delete = true,
                'i' => asked.ignore = true,
                'n' => asked.only_value = true,
                'N' => asked.only_name = true,
                'q' => asked.quiet = true,
                'R' => asked.root = value(),
                'f' => asked.file = value(),
                'A' | 'd' | 'D' | 'e' | 'E' | 'F' | 'h' | 'j' | 'l' | 'L' | 's' | 'v' => {
                    return Err(say::not_played(&format!("-{letter}")));
                }
                letter => return Err(say::illegal(letter, USAGE)),
            }
        }
    }
    Ok(asked)
}
