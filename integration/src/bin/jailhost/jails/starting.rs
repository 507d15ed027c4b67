//! What creating and removing a jail does, in jail(8)'s order.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::conf::{Jail, Value};
use super::jexec;
use super::parameters;
use super::running::{self, Running};
use crate::host::Host;
use crate::networks::interfaces;
use crate::persona::Real;
use crate::{faults, say, tools};

/// Creates a jail. What went wrong is said as jail(8) says it, and the jail is not there. `output` is where what it runs prints to;
/// none is where this program prints to.
pub fn create(host: &Host, jail: &Jail, output: Option<&File>) -> Result<Running, String> {
    let name = &jail.name;
    if running::find(host, name).is_some() {
        return Err(format!("jail: \"{name}\" already exists"));
    }
    let wrong = |text: String| format!("jail: {name}: {text}");
    let path = jail.value("path").ok_or_else(|| wrong("no path specified".to_owned()))?.to_owned();
    if !path.starts_with('/') {
        return Err(wrong(format!("path {path}: not an absolute pathname")));
    }
    let mut made = Running { name: name.clone(), path: path.clone(), ..Running::default() };
    addresses(host, jail, &mut made).map_err(wrong)?;
    let prepared = prepare(host, jail, &mut made, output);
    if let Err(text) = prepared {
        undo(host, &mut made);
        return Err(wrong(text));
    }
    {
        let _lock = host.lock();
        made.jid = running::next(host, "next-jid", 1);
        made.cpuset = running::next(host, "next-cpuset", 3);
        made.hostname = jail.value("host.hostname").unwrap_or_default().to_owned();
        made.others = others(jail);
        if !faults::lies() {
            made.keep(host);
        }
    }
    let started = run_all(host, jail, &made, &["exec.created"], output)
        .and_then(|()| run_all(host, jail, &made, &["exec.start", "command"], output))
        .and_then(|()| run_all(host, jail, &made, &["exec.poststart"], output));
    if let Err(text) = started {
        let _ = remove(host, &made, None, output);
        return Err(wrong(text));
    }
    // What the jail's own rc does to its name.
    if jail.list("exec.start").iter().any(|command| command.contains("/etc/rc"))
        && let Some(own) = tools::rcconf::RcConf::of(host, &host.path(&path)).get("hostname")
        && !own.is_empty()
    {
        made.hostname = own;
    }
    made.commands = jail.list("exec.start").to_vec();
    let has_processes = !made.commands.is_empty() || jail.is_on("persist");
    if !has_processes {
        // It ends with its last process.
        let _ = remove(host, &made, None, output);
        return Ok(made);
    }
    if faults::lies() {
        undo(host, &mut made);
    } else {
        made.keep(host);
    }
    Ok(made)
}

/// Removes a running jail; `jail` is its configuration, if it has one.
pub fn remove(host: &Host, running: &Running, jail: Option<&Jail>, output: Option<&File>) -> Result<(), String> {
    let name = &running.name;
    if faults::lies() {
        return Ok(());
    }
    if let Some(jail) = jail {
        run_all(host, jail, running, &["exec.prestop", "exec.stop"], output)
            .map_err(|text| format!("jail: {name}: {text}"))?;
    }
    if host.persona.processes == Real::Real {
        let patience = jail.and_then(|jail| jail.value("stop.timeout")).and_then(|s| s.parse().ok()).unwrap_or(10);
        end_processes(&host.path(&running.path), Duration::from_secs(patience));
    }
    running.forget(host);
    undo(host, &mut running.clone());
    if let Some(jail) = jail {
        run_all(host, jail, running, &["exec.poststop"], output).map_err(|text| format!("jail: {name}: {text}"))?;
    }
    Ok(())
}

/// The aliases of `ip4.addr` and `ip6.addr` that name an interface, or of `interface`.
fn addresses(host: &Host, jail: &Jail, made: &mut Running) -> Result<(), String> {
    for (parameter, family) in [("ip4.addr", "inet"), ("ip6.addr", "inet6")] {
        for value in
            jail.list(parameter).iter().flat_map(|value| value.split(',')).map(str::trim).filter(|v| !v.is_empty())
        {
            let (interface, rest) = match value.split_once('|') {
                Some((interface, rest)) => (Some(interface.to_owned()), rest),
                None => (jail.value("interface").map(str::to_owned), value),
            };
            // jail(8): behind the address may stand words for ifconfig(8).
            let (rest, mask) = rest.split_once(" netmask ").map_or((rest, None), |(rest, mask)| (rest, Some(mask)));
            let (address, prefix) =
                rest.split_once('/').map_or((rest, None), |(address, prefix)| (address, Some(prefix)));
            let prefix = prefix.map(str::to_owned).or_else(|| {
                let mask: std::net::Ipv4Addr = mask?.parse().ok()?;
                Some(u32::from(mask).leading_ones().to_string())
            });
            let whole = if family == "inet" { 32 } else { 128 };
            let bad = || format!("{parameter}: not an IPv{} address: {address}", if family == "inet" { 4 } else { 6 });
            let parsed: std::net::IpAddr = address.parse().map_err(|_| bad())?;
            if parsed.is_ipv4() != (family == "inet") {
                return Err(bad());
            }
            let prefix: u8 = match prefix {
                None => whole,
                Some(prefix) => prefix
                    .parse()
                    .ok()
                    .filter(|p| *p <= whole)
                    .ok_or_else(|| format!("{parameter}: bad netmask \"{prefix}\""))?,
            };
            if family == "inet" {
                made.ip4.push(address.to_owned())
            } else {
                made.ip6.push(address.to_owned())
            }
            let Some(interface) = interface else { continue };
            let added = interfaces::add(host, &interface, parsed, prefix);
            if let Err(text) = added {
                undo(host, made);
                say::err(&format!("ifconfig: {text}\n"));
                return Err(format!("/sbin/ifconfig {interface} {family} {address}/{prefix} alias: failed"));
            }
            if added == Ok(true) {
                made.aliases.push(format!("{interface}|{address}/{prefix}"));
            }
        }
    }
    Ok(())
}

/// Mounts and the commands before the jail is there.
fn prepare(host: &Host, jail: &Jail, made: &mut Running, output: Option<&File>) -> Result<(), String> {
    let path = made.path.clone();
    if let Some(fstab) = jail.value("mount.fstab") {
        let text = host.read(fstab).map_err(|wrong| format!("mount.fstab: {fstab}: {}", say::reason(&wrong)))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for target in lines.filter_map(|line| line.split_whitespace().nth(1)) {
            if !host.path(target).is_dir() {
                return Err(format!("mount.fstab: {target}: No such file or directory"));
            }
        }
    }
    if jail.is_on("mount.devfs") {
        let dev = host.path(format!("{path}/dev"));
        if !dev.is_dir() {
            return Err(format!("mount.devfs: {path}/dev: No such file or directory"));
        }
        if host.persona.processes == Real::Real {
            let done = Command::new("/bin/mount").arg("--bind").arg("/dev").arg(&dev).status();
            if !done.is_ok_and(|status| status.success()) {
                return Err(format!("/sbin/mount -t devfs -oruleset=4 . {path}/dev: failed"));
            }
        }
        made.devfs = true;
    }
    if !host.path(&path).is_dir() {
        return Err(format!("path {path}: No such file or directory"));
    }
    run_all(host, jail, made, &["exec.prepare", "exec.prestart"], output)
}

/// Takes back mounts and addresses.
fn undo(host: &Host, made: &mut Running) {
    if made.devfs && host.persona.processes == Real::Real {
        let _ = Command::new("/bin/umount").arg("--lazy").arg(host.path(format!("{}/dev", made.path))).status();
    }
    made.devfs = false;
    for alias in made.aliases.drain(..) {
        let Some((interface, (address, _))) =
            alias.split_once('|').and_then(|(i, rest)| Some((i, rest.split_once('/')?)))
        else {
            continue;
        };
        if let Ok(address) = address.parse() {
            let _ = interfaces::remove(host, interface, address);
        }
    }
}

/// Runs the commands of some parameters, in their order. Those of `exec.start`, `exec.stop` and `command` run within.
fn run_all(host: &Host, jail: &Jail, made: &Running, parameters: &[&str], output: Option<&File>) -> Result<(), String> {
    for parameter in parameters {
        let within = ["exec.start", "exec.stop", "command"].contains(parameter);
        for command in jail.list(parameter) {
            // A fault of its own: `exec.start NAME = exit 1`.
            if let Some(status) = faults::meet(host, parameter, &[jail.name.clone(), command.clone()])
                && status != 0
            {
                return Err(format!("{command}: failed"));
            }
            // A jail for one command: what is played there does its work.
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            let noted = host.persona.processes == Real::Noted;
            if *parameter == "command" && (noted || jexec::is_played(host, made, &words)) {
                match jexec::noted(host, made, &words) {
                    0 => continue,
                    _ => return Err(format!("{command}: failed")),
                }
            }
            if noted {
                continue;
            }
            let mut run = if within {
                let mut run = Command::new("setsid");
                run.args(["--wait", "chroot"])
                    .arg(host.path(&made.path))
                    .args(["/bin/sh", "-c", command])
                    .current_dir("/");
                if jail.is_on("exec.clean") {
                    run.env_clear()
                        .env("HOME", "/root")
                        .env("SHELL", "/bin/sh")
                        .env("USER", "root")
                        .env("TERM", "dumb");
                    run.env("PATH", "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin");
                }
                run
            } else {
                let mut run = Command::new("/bin/sh");
                run.args(["-c", command]);
                run
            };
            run.process_group(0).stdin(Stdio::null());
            let log = jail
                .value("exec.consolelog")
                .filter(|_| within)
                .and_then(|log| std::fs::OpenOptions::new().append(true).create(true).open(host.path(log)).ok());
            for file in [log.as_ref(), output].into_iter().flatten().take(1) {
                let (Ok(out), Ok(err)) = (file.try_clone(), file.try_clone()) else { continue };
                run.stdout(out).stderr(err);
            }
            let status = run.status().map_err(|wrong| format!("{command}: {}", say::reason(&wrong)))?;
            if !status.success() {
                return Err(format!("{command}: failed"));
            }
        }
    }
    Ok(())
}

/// Asks all processes whose root is that directory to end, and makes them.
fn end_processes(root: &Path, patience: Duration) {
    let begun = Instant::now();
    let mut asked = false;
    loop {
        let within = processes(root);
        if within.is_empty() {
            return;
        }
        let signal = if begun.elapsed() < patience { nix::sys::signal::SIGTERM } else { nix::sys::signal::SIGKILL };
        if !asked || signal == nix::sys::signal::SIGKILL {
            for process in within {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), signal);
            }
            asked = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The processes whose root is a directory.
pub fn processes(root: &Path) -> Vec<i32> {
    let Ok(root) = root.canonicalize() else { return Vec::new() };
    if root == Path::new("/") {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    ids.filter(|id| std::fs::read_link(format!("/proc/{id}/root")).is_ok_and(|of| of == root)).collect()
}

/// What jls shows of a jail beyond what is its own field.
fn others(jail: &Jail) -> Vec<String> {
    let shown = |name: &str| {
        let own = ["ip4.addr", "ip6.addr", "host.hostname", "name", "path", "command", "depend", "interface"];
        !own.contains(&name)
            && !["exec.", "mount", "stop.", "vnet.", "ip_hostname"].iter().any(|front| name.starts_with(front))
    };
    let shown = jail.parameters.iter().filter(|(name, _)| shown(name));
    shown
        .map(|(name, value)| match value {
            Value::On(on) => parameters::switch(name, *on),
            Value::List(values) => format!("{name}={}", values.join(",")),
        })
        .collect()
}
