//! The checks that compare the inside of a guest with its baseline: units, ports and packages, the kernel.

use std::collections::{BTreeMap, BTreeSet};

use hypervisors::Host;

use super::baseline::Baseline;
use super::inside::{self, Socket, Units};
use super::line::Fault;
use super::{Side, Target};

/// Ports at and above this are drawn by the system at each start (`ip_local_port_range`): rpc.statd, avahi and the like.
const DRAWN: u16 = 32768;

fn inside_of(target: &Target) -> Result<&dyn Host, Fault> {
    target.inside.as_deref().ok_or_else(|| Fault::fixed("there is no way into the guest"))
}

fn baseline_of(target: &Target) -> Result<&Baseline, Fault> {
    target.baseline.as_ref().ok_or_else(|| Fault::fixed("there is no baseline to compare with"))
}

/// `postfix@-.service` and `postfix.service` are both `postfix`.
fn stem(unit: &str) -> &str {
    let unit = unit.strip_suffix(".service").unwrap_or(unit);
    unit.split_once('@').map_or(unit, |(stem, _)| stem)
}

impl Target {
    /// The quarantined service among these units or processes, if this is a clone.
    pub(crate) fn quarantined_one<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
        if self.side != Side::Clone {
            return None;
        }
        names
            .into_iter()
            .map(stem)
            .find(|name| self.quarantined.iter().any(|off| stem(off) == *name))
            .map(str::to_owned)
    }

    /// The quarantined service that would serve a port: by the baseline's sockets, else by custom.
    pub(crate) fn quarantined_port(&self, port: u16) -> Option<String> {
        let sockets = self.baseline.as_ref().and_then(|baseline| baseline.sockets.as_ref());
        let mut owners = sockets.into_iter().flatten().filter(|socket| socket.port == port).peekable();
        if owners.peek().is_some_and(|socket| socket.unit.is_some() || socket.process.is_some()) {
            return owners.find_map(|socket| self.quarantined_socket(socket));
        }
        let custom: &[&str] = match port {
            25 | 465 | 587 => &["postfix", "exim4", "exim", "sendmail", "opensmtpd", "qmail"],
            110 | 143 | 993 | 995 => {
                &["dovecot", "courier-imap", "courier-imap-ssl", "courier-pop", "courier-pop-ssl", "cyrus-imapd"]
            }
            80 | 443 => &["nginx", "apache2", "httpd", "lighttpd"],
            53 => &["bind9", "named", "unbound", "nsd", "dnsmasq"],
            _ => &[],
        };
        self.quarantined_one(custom.iter().copied())
    }

    fn quarantined_socket(&self, socket: &Socket) -> Option<String> {
        // Postfix's daemon is called master: only its unit tells.
        self.quarantined_one(socket.unit.as_deref().into_iter().chain(socket.process.as_deref()))
    }
}

/// No unit failed that was not failed before; what was enabled and ran runs.
pub(crate) async fn units(target: &Target, ignore: &[String]) -> Result<String, Fault> {
    let host = inside_of(target)?;
    let before = baseline_of(target)?.units.as_ref();
    let Some(now) = inside::units(host).await? else {
        return match before {
            Some(_) => Err(Fault::new("systemd does not answer any more")),
            None => Ok("no systemd here: nothing to compare".into()),
        };
    };
    let none = Units::default();
    let before = before.unwrap_or(&none);
    let compared = compare_units(before, &now, |unit| {
        ignore.iter().any(|name| name == unit || stem(name) == stem(unit)) || target.quarantined_one([unit]).is_some()
    });
    if let Some(unit) = compared.failed.first() {
        let words = inside::last_words(host, unit).await.map(|words| format!(": {words}")).unwrap_or_default();
        let more = match compared.failed.len() {
            1 => String::new(),
            _ => format!("; failed as well: {}", compared.failed[1..].join(", ")),
        };
        return Err(Fault::new(format!("{unit} failed{words}{more}")));
    }
    if !compared.stopped.is_empty() {
        return Err(Fault::new(format!("not running: {}", compared.stopped.join(", "))));
    }
    let mut detail = format!("{} running, none failed anew", now.running.len());
    if !compared.gone.is_empty() {
        detail = format!("{detail}; no longer there: {}", compared.gone.join(", "));
    }
    Ok(detail)
}

#[derive(Debug, Default, PartialEq, Eq)]
struct ComparedUnits {
    failed: Vec<String>,
    stopped: Vec<String>,
    gone: Vec<String>,
}

/// Units started on demand come and go, and upgrades rename instances: only what is enabled is expected to run, and a
/// unit that does not exist any more is told, not a failure (its ports and packages are looked at by `baseline`).
fn compare_units(before: &Units, now: &Units, skip: impl Fn(&str) -> bool) -> ComparedUnits {
    let among = |unit: &str, units: &BTreeSet<String>| {
        let template = unit.split_once('@').map(|(stem, _)| format!("{stem}@.service"));
        units.contains(unit) || template.is_some_and(|template| units.contains(&template))
    };
    let mut compared = ComparedUnits {
        failed: now.failed.iter().filter(|unit| !before.failed.contains(*unit) && !skip(unit)).cloned().collect(),
        ..ComparedUnits::default()
    };
    let login_prompt = |unit: &str| stem(unit).contains("getty");
    for unit in before.running.iter().filter(|unit| {
        let well = [&now.running, &now.ended, &now.failed].iter().any(|units| units.contains(*unit));
        among(unit, &before.enabled) && !well && !skip(unit) && !login_prompt(unit)
    }) {
        let list = if among(unit, &now.installed) { &mut compared.stopped } else { &mut compared.gone };
        list.push(unit.clone());
    }
    compared
}

/// Every port that was listened on is; packages that went are told.
pub(crate) async fn ports_and_packages(target: &Target, ignore: &[u16]) -> Result<String, Fault> {
    let host = inside_of(target)?;
    let before = baseline_of(target)?;
    let mut detail = Vec::new();
    if let Some(sockets) = &before.sockets {
        let now =
            inside::sockets(host).await?.ok_or_else(|| Fault::new("its sockets cannot be listed (ss is missing)"))?;
        let ports = compare_ports(sockets, &now, |socket| target.quarantined_socket(socket).is_some(), ignore);
        let held = match ports.held.as_slice() {
            [] => String::new(),
            [port] => format!("{port} is held"),
            held => format!("{} are held", held.join(", ")),
        };
        if !ports.missing.is_empty() {
            let held = if held.is_empty() { held } else { format!(" ({held})") };
            return Err(Fault::new(format!("not listening: {}{held}", ports.missing.join(", "))));
        }
        detail.push(format!("{} ports as before", ports.same));
        detail.extend(Some(held).filter(|held| !held.is_empty()));
    }
    if !before.packages.is_empty() {
        detail.push(compare_packages(&before.packages, &inside::packages(host).await?));
    }
    Ok(if detail.is_empty() { "nothing to compare".into() } else { detail.join("; ") })
}

#[derive(Debug, PartialEq, Eq)]
struct ComparedPorts {
    same: usize,
    missing: Vec<String>,
    held: Vec<String>,
}

/// By protocol and port; addresses differ on a clone.
fn compare_ports(before: &[Socket], now: &[Socket], held: impl Fn(&Socket) -> bool, ignore: &[u16]) -> ComparedPorts {
    let listening: BTreeSet<(&str, u16)> = now.iter().map(|socket| (socket.protocol.as_str(), socket.port)).collect();
    let mut wanted: BTreeMap<(u16, &str), bool> = BTreeMap::new();
    for socket in before {
        // DHCP clients listen while they ask.
        let passing = socket.port >= DRAWN || (socket.protocol == "udp" && [68, 546].contains(&socket.port));
        if !passing && !ignore.contains(&socket.port) {
            *wanted.entry((socket.port, &socket.protocol)).or_default() |= held(socket);
        }
    }
    let mut compared = ComparedPorts { same: 0, missing: Vec::new(), held: Vec::new() };
    for ((port, protocol), held) in wanted {
        let shown = if protocol == "tcp" { port.to_string() } else { format!("{port}/{protocol}") };
        match (listening.contains(&(protocol, port)), held) {
            (true, _) => compared.same += 1,
            (false, true) => compared.held.push(shown),
            (false, false) => compared.missing.push(shown),
        }
    }
    compared
}

fn compare_packages(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> String {
    let gone: Vec<&str> = before.keys().filter(|name| !now.contains_key(*name)).map(String::as_str).collect();
    let upgraded = before.iter().filter(|(name, old)| now.get(*name).is_some_and(|new| new != *old)).count();
    let mut text = format!("{upgraded} packages changed");
    if !gone.is_empty() {
        let more = if gone.len() > 5 { ", …" } else { "" };
        text = format!("{text}, {} gone: {}{more}", gone.len(), gone[..gone.len().min(5)].join(", "));
    }
    text
}

/// The kernel's own word; containers have none.
pub(crate) async fn kernel(target: &Target, newer: bool, modules: &[String]) -> Result<String, Fault> {
    let host = inside_of(target)?;
    let now = inside::kernel(host).await?.ok_or_else(|| Fault::new("uname does not answer"))?;
    if newer {
        let before =
            baseline_of(target)?.kernel.as_deref().ok_or_else(|| Fault::fixed("the baseline has no kernel"))?;
        if inside::kernel_order(&now, before) != std::cmp::Ordering::Greater {
            return Err(Fault::new(format!("{now} runs; the original runs {before}")));
        }
    }
    if !modules.is_empty() {
        let loaded = inside::loaded_modules(host).await?;
        let is_missing = |module: &&String| !loaded.contains(&module.replace('-', "_"));
        let missing: Vec<&str> = modules.iter().filter(is_missing).map(String::as_str).collect();
        if !missing.is_empty() {
            return Err(Fault::new(format!("{now} runs without {}", missing.join(", "))));
        }
    }
    Ok(now)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn units_are_compared() {
        let before = Units {
            running: set(&["cron.service", "dovecot.service", "postfix@-.service", "dbus.service", "old.service"]),
            failed: set(&["sick.service"]),
            enabled: set(&["cron.service", "dovecot.service", "postfix.service", "old.service"]),
            ..Units::default()
        };
        let now = Units {
            running: set(&["postfix.service"]),
            failed: set(&["dovecot.service", "sick.service", "quiet.service"]),
            installed: set(&["cron.service", "dbus.service", "postfix.service"]),
            ..Units::default()
        };
        let compared = compare_units(&before, &now, |unit| unit == "quiet.service");
        assert_eq!(compared.failed, ["dovecot.service"]);
        assert_eq!(compared.stopped, ["cron.service"], "dbus starts on demand");
        assert_eq!(compared.gone, ["old.service"], "postfix@- was renamed and is not enabled by itself");
    }

    #[test]
    fn ports_are_compared() {
        let socket = |protocol: &str, port, unit: &str| Socket {
            protocol: protocol.into(),
            port,
            address: "0.0.0.0".into(),
            process: None,
            unit: Some(unit.into()),
        };
        let before = [
            socket("tcp", 22, "ssh.service"),
            socket("tcp", 25, "postfix@-.service"),
            socket("tcp", 110, "dovecot.service"),
            socket("tcp", 143, "dovecot.service"),
            socket("udp", 68, "networking.service"),
            socket("udp", 123, "ntp.service"),
            socket("tcp", 41234, "rpc-statd.service"),
            socket("tcp", 9, "discard.service"),
        ];
        let now = [socket("tcp", 22, "ssh.service"), socket("tcp", 123, "other.service")];
        let held = |socket: &Socket| stem(socket.unit.as_deref().unwrap()) == "postfix";
        let ports = compare_ports(&before, &now, held, &[9]);
        let texts = |ports: &[&str]| ports.iter().map(|port| (*port).to_owned()).collect::<Vec<_>>();
        assert_eq!(ports, ComparedPorts { same: 1, missing: texts(&["110", "123/udp", "143"]), held: texts(&["25"]) });
    }

    #[test]
    fn packages_that_went_are_told() {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        let text = compare_packages(&map(&[("a", "1"), ("b", "1"), ("c", "1")]), &map(&[("a", "2"), ("b", "1")]));
        assert_eq!(text, "1 packages changed, 1 gone: c");
    }
}
