//! `service`: `service jail …` as `rc.d/jail` does it, and any other script of `/etc/rc.d` as a light that is on or off.

use std::io::Read;

use super::conf::{Conf, Jail};
use super::{jls, obsolete, running, starting};
use crate::host::Host;
use crate::tools::rcconf::RcConf;
use crate::{faults, say};

const USAGE: &str =
    "\nservice -e\nservice -R\nservice [-v] -l | -r\nservice [-v] <rc.d script> start|stop|etc.\nservice -h\n\n";

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).filter(|argument| *argument != "-v").collect();
    match arguments.as_slice() {
        ["-l"] => {
            let mut scripts = scripts(host);
            scripts.sort();
            say::out(&scripts.iter().map(|script| format!("{script}\n")).collect::<String>());
            0
        }
        ["-e"] => {
            let rc = RcConf::of(host, &host.root);
            for script in scripts(host).iter().filter(|script| rc.is_yes(&format!("{script}_enable"))) {
                say::out(&format!("{}/{script}\n", directory(host, script).unwrap_or("/etc/rc.d")));
            }
            0
        }
        [option, ..] if option.starts_with('-') => {
            say::err(USAGE);
            1
        }
        [script, action, rest @ ..] => {
            if directory(host, script).is_none() && *script != "jail" {
                say::err(&format!("{script} does not exist in /etc/rc.d or the local startup\n"));
                say::err("directories (/usr/local/etc/rc.d), or is not executable\n");
                return 1;
            }
            if *script == "jail" { jails(host, action, rest) } else { other(host, script, action) }
        }
        _ => {
            say::err(USAGE);
            1
        }
    }
}

fn scripts(host: &Host) -> Vec<String> {
    let mut scripts = Vec::new();
    for directory in ["/etc/rc.d", "/usr/local/etc/rc.d"] {
        let Ok(entries) = std::fs::read_dir(host.path(directory)) else { continue };
        scripts.extend(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()));
    }
    scripts.sort();
    scripts
}

fn directory(host: &Host, script: &str) -> Option<&'static str> {
    ["/etc/rc.d", "/usr/local/etc/rc.d"]
        .into_iter()
        .find(|directory| host.path(format!("{directory}/{script}")).is_file())
}

/// `onestart` is `start` whatever rc.conf says.
fn verb(action: &str) -> (&str, bool) {
    let action = action.strip_prefix("quiet").unwrap_or(action);
    for front in ["one", "force"] {
        if let Some(verb) = action.strip_prefix(front) {
            return (verb, true);
        }
    }
    (action, false)
}

fn disabled(script: &str, verb: &str, variable: &str) {
    say::out(&format!(
        "Cannot '{verb}' {script}. Set {variable} to YES in /etc/rc.conf or use 'one{verb}' instead of '{verb}'.\n"
    ));
}

/// `rc.d/jail`. Its status is 0 whether the jails started or not: the truth is in jls.
fn jails(host: &Host, action: &str, names: &[&str]) -> u8 {
    let rc = RcConf::of(host, &host.root);
    let (verb, forced) = verb(action);
    if !forced && verb != "status" && !rc.is_yes("jail_enable") {
        disabled("jail", verb, "jail_enable");
        return 1;
    }
    match verb {
        "start" => start(host, &rc, names),
        "stop" => stop(host, &rc, names),
        "restart" => {
            stop(host, &rc, names);
            start(host, &rc, names);
        }
        "status" => say::out(&jls::table(&running::all(host), true)),
        verb => {
            say::err(&format!("/etc/rc.d/jail: unknown directive '{verb}'.\n"));
            say::err(
                "Usage: /etc/rc.d/jail [fast|force|one|quiet](start|stop|restart|rcvar|enable|disable|delete|enabled|describe|extracommands|config|console|status)\n",
            );
            return 1;
        }
    }
    0
}

/// Which jails are meant: those named, else `jail_list`, else all of the configuration.
fn meant(host: &Host, rc: &RcConf, names: &[&str]) -> Vec<String> {
    if !names.is_empty() {
        return names.iter().map(|name| (*name).to_owned()).collect();
    }
    let listed: Vec<String> = rc.get("jail_list").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    if !listed.is_empty() {
        return listed;
    }
    let conf_file = rc.get("jail_conf").filter(|file| !file.is_empty()).unwrap_or_else(|| "/etc/jail.conf".to_owned());
    Conf::read(host, &conf_file).map(|conf| conf.names()).unwrap_or_default()
}

/// A jail's configuration, where `rc.d/jail` looks for it: rc.conf, `/etc/jail.NAME.conf`, `/etc/jail.conf.d`, `/etc/jail.conf`.
fn configuration(host: &Host, rc: &RcConf, name: &str) -> Result<Option<Jail>, String> {
    if let Some(path) = obsolete::conf(host, rc, name) {
        return Conf::read(host, &path)?.jail(name);
    }
    let whole = rc.get("jail_conf").filter(|file| !file.is_empty()).unwrap_or_else(|| "/etc/jail.conf".to_owned());
    for file in [format!("/etc/jail.{name}.conf"), format!("/etc/jail.conf.d/{name}.conf"), whole] {
        if host.path(&file).exists() {
            return Conf::read(host, &file)?.jail(name);
        }
    }
    Ok(None)
}

fn start(host: &Host, rc: &RcConf, names: &[&str]) {
    say::out("Starting jails:");
    let (mut wanted, mut obsolete) = (Vec::new(), false);
    for name in meant(host, rc, names) {
        // What a jail depends on starts with it; jail(8) knows that from the one file.
        obsolete = obsolete::is_one(rc, &name);
        if !obsolete && let Ok(Some(jail)) = configuration(host, rc, &name) {
            wanted.extend(jail.list("depend").iter().filter(|other| running::find(host, other).is_none()).cloned());
        }
        if !wanted.contains(&name) {
            wanted.push(name);
        }
    }
    for name in wanted {
        if running::find(host, &name).is_some() {
            say::out(&format!(" cannot start jail  \"{name}\": \njail: \"{name}\" already exists\n"));
            continue;
        }
        if faults::lies() {
            say::out(&format!(" {name}"));
            continue;
        }
        let outcome = (|| {
            let jail = configuration(host, rc, &name)?.ok_or_else(|| format!("\"{name}\" not found"))?;
            Ok(jail)
        })()
        .map_err(|wrong: String| format!("jail: {wrong}"));
        let output = tempfile::tempfile().ok();
        match outcome.and_then(|jail| starting::create(host, &jail, output.as_ref())) {
            Ok(_) => say::out(&format!(" {name}")),
            Err(wrong) => {
                say::out(&format!(" cannot start jail  \"{name}\": \n{}{wrong}\n", printed(output)));
            }
        }
    }
    say::out(".\n");
    // Of the last jail it looked at.
    if obsolete {
        obsolete::warn();
    }
}

/// What the jail's commands printed.
fn printed(output: Option<std::fs::File>) -> String {
    use std::io::Seek;
    let mut text = String::new();
    if let Some(mut output) = output
        && output.rewind().is_ok()
    {
        let _ = output.read_to_string(&mut text);
    }
    text
}

fn stop(host: &Host, rc: &RcConf, names: &[&str]) {
    say::out("Stopping jails:");
    let wanted: Vec<String> = if names.is_empty() && rc.get("jail_list").unwrap_or_default().trim().is_empty() {
        running::all(host).into_iter().rev().map(|jail| jail.name).collect()
    } else {
        meant(host, rc, names).into_iter().rev().collect()
    };
    for name in wanted {
        let Some(jail) = running::find(host, &name) else { continue };
        let conf = configuration(host, rc, &name).ok().flatten();
        let output = tempfile::tempfile().ok();
        match starting::remove(host, &jail, conf.as_ref(), output.as_ref()) {
            Ok(()) => say::out(&format!(" {name}")),
            Err(wrong) => say::out(&format!(" cannot stop jail  \"{name}\": \n{}{wrong}\n", printed(output))),
        }
    }
    say::out(".\n");
}

/// Another script: running or not is a file of the state.
fn other(host: &Host, script: &str, action: &str) -> u8 {
    let rc = RcConf::of(host, &host.root);
    let (verb, forced) = verb(action);
    // Within a jail the lights are its own.
    let within = std::env::var("JAILHOST_JAIL").map(|jail| format!("{jail}.")).unwrap_or_default();
    let light = format!("services/{within}{script}");
    let runs = host.of_state(&light).exists();
    let variable = format!("{script}_enable");
    if !forced && ["start", "stop", "restart", "reload"].contains(&verb) && !rc.is_yes(&variable) {
        disabled(script, verb, &variable);
        return 1;
    }
    let on = |host: &Host| host.write_state(&light, "700\n");
    match verb {
        "start" if runs => {
            say::out(&format!("{script} already running? (pid=700).\n"));
            return 1;
        }
        "start" => {
            say::out(&format!("Starting {script}.\n"));
            if !faults::lies() {
                on(host);
            }
        }
        "stop" | "restart" | "reload" if !runs => {
            say::out(&format!("{script} not running? (check /var/run/{script}.pid).\n"));
            if verb == "restart" {
                say::out(&format!("Starting {script}.\n"));
                on(host);
                return 0;
            }
            return 1;
        }
        "stop" => {
            say::out(&format!("Stopping {script}.\nWaiting for PIDS: 700.\n"));
            if !faults::lies() {
                host.remove_state(&light);
            }
        }
        "restart" => say::out(&format!("Stopping {script}.\nWaiting for PIDS: 700.\nStarting {script}.\n")),
        "reload" => {}
        "status" if runs => say::out(&format!("{script} is running as pid 700.\n")),
        "status" => {
            say::out(&format!("{script} is not running.\n"));
            return 1;
        }
        "rcvar" => {
            let value = rc.get(&variable).unwrap_or_else(|| "NO".to_owned());
            say::out(&format!("# {script}\n#\n{variable}=\"{value}\"\n#   (default: \"\")\n\n"));
        }
        verb => {
            say::err(&format!("/etc/rc.d/{script}: unknown directive '{verb}'.\n"));
            return 1;
        }
    }
    0
}
