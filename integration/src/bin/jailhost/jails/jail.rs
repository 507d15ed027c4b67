//! `jail`: -c, -m, -r, -R, -rc, -e, by the names of a jail.conf(5) or, with -c, by `name=value` arguments.

use super::conf::{Conf, Jail, Value};
use super::running;
use super::starting;
use crate::host::Host;
use crate::say;

const USAGE: &str = "usage: jail [-dhilqv] [-J jid_file] [-u username] [-U username]
            -[cmr] param=value ... [command=command ...]
       jail [-dqv] [-f file] -[cmr] [jail]
       jail [-qv] [-f file] -[rR] ['*' | jail ...]
       jail [-dhilqv] [-J jid_file] [-u username] [-U username]
            [-n jailname] [-s securelevel]
            path hostname [ip[,...]] command ...
       jail [-f file] -e separator
";

/// What is asked for.
#[derive(Default)]
struct Asked {
    create: bool,
    modify: bool,
    remove: bool,
    only_kernel: bool,
    quiet: bool,
    print_jid: bool,
    file: Option<String>,
    separator: Option<String>,
    rest: Vec<String>,
}

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let asked = match asked(arguments) {
        Ok(asked) => asked,
        Err(status) => return status,
    };
    let file = asked.file.clone().unwrap_or_else(|| "/etc/jail.conf".to_owned());
    if let Some(separator) = &asked.separator {
        return show(host, &file, separator);
    }
    if !asked.create && !asked.modify && !asked.remove {
        say::err(USAGE);
        return 1;
    }
    if asked.create && asked.rest.first().is_some_and(|first| first.contains('=')) {
        return create_by_parameters(host, &asked);
    }
    if asked.remove && !asked.create {
        return remove(host, &asked, &file);
    }
    let conf = match Conf::read(host, &file) {
        Ok(conf) => conf,
        Err(wrong) => return say::wrong(&wrong),
    };
    let wanted = if asked.rest.is_empty() || asked.rest == ["*"] { conf.names() } else { asked.rest.clone() };
    let mut status = 0;
    for name in with_dependencies(&conf, &wanted) {
        let jail = match conf.jail(&name) {
            Ok(Some(jail)) => jail,
            Ok(None) => {
                status = say::wrong(&format!("\"{name}\" not found"));
                continue;
            }
            Err(wrong) => {
                status = say::wrong(&wrong);
                continue;
            }
        };
        if asked.remove {
            if let Some(old) = running::find(host, &name)
                && let Err(wrong) = starting::remove(host, &old, Some(&jail), None)
            {
                say::err(&format!("{wrong}\n"));
                return 1;
            }
        } else if asked.modify && running::find(host, &name).is_some() {
            return say::not_played("-m of a running jail");
        } else if asked.modify && !asked.create {
            status = say::wrong(&format!("\"{name}\" not found"));
            continue;
        } else if !wanted.contains(&name) && running::find(host, &name).is_some() {
            continue;
        }
        status = status.max(create(host, &asked, &jail));
    }
    status
}

fn create(host: &Host, asked: &Asked, jail: &Jail) -> u8 {
    match starting::create(host, jail, None) {
        Ok(made) => {
            if asked.print_jid {
                say::out(&format!("{}\n", made.jid));
            } else if !asked.quiet {
                say::out(&format!("{}: created\n", made.name));
            }
            0
        }
        Err(wrong) => {
            say::err(&format!("{wrong}\n"));
            1
        }
    }
}

fn create_by_parameters(host: &Host, asked: &Asked) -> u8 {
    let mut jail = Jail::default();
    let mut arguments = asked.rest.iter();
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some(("command", first)) => {
                let mut command = first.to_owned();
                for word in arguments.by_ref() {
                    command += &format!(" {word}");
                }
                ("command".to_owned(), Value::List(vec![command]))
            }
            Some((name, value)) => (name.to_owned(), Value::List(vec![value.to_owned()])),
            None => match super::parameters::meaning(argument) {
                super::parameters::Meaning::Switch { name, on } => (name, Value::On(on)),
                _ => return say::wrong(&format!("unknown parameter: {argument}")),
            },
        };
        if super::parameters::meaning(&name) == super::parameters::Meaning::Unknown {
            return say::wrong(&format!("unknown parameter: {name}"));
        }
        jail.parameters.push((name, value));
    }
    jail.name = jail.value("name").unwrap_or_default().to_owned();
    if jail.name.is_empty() {
        return say::not_played("a jail without a name");
    }
    create(host, asked, &jail)
}

fn remove(host: &Host, asked: &Asked, file: &str) -> u8 {
    let conf = Conf::read(host, file).ok().filter(|_| !asked.only_kernel);
    let wanted: Vec<String> = match asked.rest.as_slice() {
        [] => return say::not_played("-r without a name"),
        [all] if all == "*" => running::all(host).into_iter().rev().map(|jail| jail.name).collect(),
        names => names.to_vec(),
    };
    let mut status = 0;
    for name in wanted {
        let Some(jail) = running::find(host, &name) else {
            status = say::wrong(&format!("\"{name}\" not found"));
            continue;
        };
        let known = conf.as_ref().and_then(|conf| conf.jail(&jail.name).ok().flatten());
        match starting::remove(host, &jail, known.as_ref(), None) {
            Ok(()) if asked.quiet => {}
            Ok(()) => say::out(&format!("{}: removed\n", jail.name)),
            Err(wrong) => {
                say::err(&format!("{wrong}\n"));
                status = 1;
            }
        }
    }
    status
}

/// `-e`: every jail of the configuration, a line each.
fn show(host: &Host, file: &str, separator: &str) -> u8 {
    let conf = match Conf::read(host, file) {
        Ok(conf) => conf,
        Err(wrong) => return say::wrong(&wrong),
    };
    for name in conf.names() {
        let jail = match conf.jail(&name) {
            Ok(jail) => jail.unwrap_or_default(),
            Err(wrong) => return say::wrong(&wrong),
        };
        let shown = jail.parameters.iter().map(|(name, value)| match value {
            Value::On(on) => super::parameters::switch(name, *on),
            Value::List(values) => format!("{name}={}", quoted(&values.join(","))),
        });
        say::out(&format!("{}\n", shown.collect::<Vec<_>>().join(separator)));
    }
    0
}

fn quoted(value: &str) -> String {
    if value.is_empty() || value.contains(char::is_whitespace) { format!("\"{value}\"") } else { value.to_owned() }
}

/// Jails with those that they `depend` on, which come first.
pub fn with_dependencies(conf: &Conf, wanted: &[String]) -> Vec<String> {
    fn visit(conf: &Conf, name: &str, order: &mut Vec<String>, under_way: &mut Vec<String>) {
        if order.iter().chain(under_way.iter()).any(|known| known == name) {
            return;
        }
        under_way.push(name.to_owned());
        if let Ok(Some(jail)) = conf.jail(name) {
            for other in jail.list("depend").iter().flat_map(|list| list.split(',')) {
                visit(conf, other.trim(), order, under_way);
            }
        }
        under_way.pop();
        order.push(name.to_owned());
    }
    let mut order = Vec::new();
    for name in wanted {
        visit(conf, name, &mut order, &mut Vec::new());
    }
    order
}

fn asked(arguments: &[String]) -> Result<Asked, u8> {
    let mut asked = Asked::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            asked.rest.push(argument.clone());
            asked.rest.extend(arguments.cloned());
            break;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            let mut value = || {
                let rest: String = letters.by_ref().collect();
                let value = if rest.is_empty() { arguments.next().cloned() } else { Some(rest) };
                value.ok_or_else(|| {
                    say::err(&format!("jail: option requires an argument -- {letter}\n{USAGE}"));
                    1
                })
            };
            match letter {
                'c' => asked.create = true,
                'm' => asked.modify = true,
                'r' => asked.remove = true,
                'R' => (asked.remove, asked.only_kernel) = (true, true),
                'q' => asked.quiet = true,
                'i' => asked.print_jid = true,
                'v' => {}
                'f' => asked.file = Some(value()?),
                'e' => asked.separator = Some(value()?),
                'd' | 'h' | 'l' | 'J' | 'u' | 'U' | 'n' | 's' | 'p' | 'C' => {
                    return Err(say::not_played(&format!("-{letter}")));
                }
                letter => return Err(say::illegal(letter, USAGE)),
            }
        }
    }
    Ok(asked)
}
