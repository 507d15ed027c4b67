//! What a machine tells about itself from the inside: sockets, units, packages, release.
//!
//! Parsers are pure; a line that makes no sense is passed over, since it comes from a guest. Text that can reach a
//! terminal is made printable here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use hypervisors::host::{Command, printable};
use hypervisors::{Cause, Host, Result};
use serde::{Deserialize, Serialize};

/// A listening socket; loopback counts as well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Socket {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Port.
    pub port: u16,
    /// Local address as `ss` prints it (`0.0.0.0`, `[::]`, `127.0.0.1%lo`).
    pub address: String,
    /// Process that holds it, if it could be told.
    pub process: Option<String>,
    /// systemd unit of that process, if it could be told.
    pub unit: Option<String>,
}

/// Services as systemd sees them. Empty where there is no systemd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Units {
    /// Running services.
    pub running: BTreeSet<String>,
    /// Failed services.
    pub failed: BTreeSet<String>,
    /// Services that did their work and ended well (`active (exited)`).
    pub ended: BTreeSet<String>,
    /// Services that start at boot (templates as `name@.service`).
    pub enabled: BTreeSet<String>,
    /// Services that are installed, started or not.
    pub installed: BTreeSet<String>,
}

/// How long a question to the guest may take; a guest that boots on a busy host is slow to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a command and gives its output; `None` if there is no such program or it reports failure.
async fn ask(host: &dyn Host, argv: &[&str]) -> Result<Option<String>> {
    let mut command = Command::new(argv.iter().copied()).timeout(PATIENCE).env("LC_ALL", "C.UTF-8");
    command.limit = 4 << 20;
    match host.run(&command).await {
        Ok(output) if output.status == 0 => Ok(Some(output.text())),
        Ok(_) => Ok(None),
        Err(error) if matches!(error.cause, Cause::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Listening sockets, by `ss -lntup` (ss(8)) and `ps -o unit` (ps(1)), on FreeBSD by `sockstat -46l` (sockstat(1)). `None` if they
/// cannot be told.
pub async fn sockets(host: &dyn Host) -> Result<Option<Vec<Socket>>> {
    let Some(ss) = ask(host, &["ss", "-H", "-l", "-n", "-t", "-u", "-p"]).await? else {
        return Ok(ask(host, &["sockstat", "-46l"]).await?.map(|text| parse_sockstat(&text)));
    };
    let units = ask(host, &["ps", "-e", "-o", "pid=,unit="]).await?.unwrap_or_default();
    Ok(Some(parse_ss(&ss, &parse_ps_units(&units))))
}

/// Services, by `systemctl list-units` and `list-unit-files` (systemctl(1)). `None` without systemd.
pub async fn units(host: &dyn Host) -> Result<Option<Units>> {
    let list = ["systemctl", "list-units", "--type=service", "--all", "--plain", "--no-legend", "--no-pager", "--full"];
    let Some(listed) = ask(host, &list).await? else { return Ok(None) };
    let files = ["systemctl", "list-unit-files", "--type=service", "--plain", "--no-legend", "--no-pager"];
    let files = ask(host, &files).await?.unwrap_or_default();
    let mut units = parse_units(&listed);
    (units.enabled, units.installed) = parse_unit_files(&files);
    Ok(Some(units))
}

/// Installed packages with their versions, by dpkg, rpm or FreeBSD's pkg. Empty if none is there.
pub async fn packages(host: &dyn Host) -> Result<BTreeMap<String, String>> {
    let dpkg = ["dpkg-query", "-W", "-f=${db:Status-Abbrev}\\t${Package}\\t${Version}\\n"];
    if let Some(text) = ask(host, &dpkg).await? {
        return Ok(parse_packages(&text));
    }
    let rpm = ["rpm", "-qa", "--qf", "ii \\t%{NAME}\\t%{VERSION}-%{RELEASE}\\n"];
    if let Some(text) = ask(host, &rpm).await? {
        return Ok(parse_packages(&text));
    }
    // One that is not installed yet would ask whether it shall be, and takes silence for a no.
    let pkg = ["pkg", "query", "-a", "ii \t%n\t%v"];
    Ok(ask(host, &pkg).await?.map(|text| parse_packages(&text)).unwrap_or_default())
}

/// The running kernel's release, by `uname -r`.
pub async fn kernel(host: &dyn Host) -> Result<Option<String>> {
    Ok(ask(host, &["uname", "-r"]).await?.map(|text| short(text.trim())))
}

/// Modules loaded into the running kernel, or built into it with parameters (directories of `/sys/module`).
pub async fn loaded_modules(host: &dyn Host) -> Result<BTreeSet<String>> {
    let listed = ask(host, &["ls", "/sys/module"]).await?.unwrap_or_default();
    Ok(listed.lines().map(|line| line.trim().to_owned()).collect())
}

/// Whether the machine is a container, which shares its host's kernel (`/run/systemd/container`, systemd.io/CONTAINER_INTERFACE).
pub async fn is_container(host: &dyn Host) -> Result<bool> {
    Ok(!small_file(host, "/run/systemd/container").await?.trim().is_empty())
}

/// The reason systemd's journal gives for a unit's failure: its last line, if there is one.
pub async fn last_words(host: &dyn Host, unit: &str) -> Option<String> {
    let argv = ["journalctl", "-u", unit, "-p", "err", "-n", "1", "-o", "cat", "--no-pager", "-q"];
    let text = ask(host, &argv).await.ok().flatten()?;
    let line = text.lines().rfind(|line| !line.trim().is_empty())?;
    Some(short(line.trim()))
}

/// A small file of the machine, as text; empty if it is not there.
pub async fn small_file(host: &dyn Host, path: &str) -> Result<String> {
    let bytes = host.read_file(Path::new(path), 1 << 16).await?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Printable and short enough for a table.
pub(crate) fn short(text: &str) -> String {
    let text = printable(text);
    if text.chars().count() <= 160 { text } else { text.chars().take(159).chain(['…']).collect() }
}

/// Reads `ss -H -l -n -t -u -p`; `units` by process id.
pub fn parse_ss(text: &str, units: &BTreeMap<u32, String>) -> Vec<Socket> {
    let socket = |line: &str| {
        let mut fields = line.split_whitespace();
        let protocol = fields.next().filter(|word| ["tcp", "udp"].contains(word))?.to_owned();
        let (address, port) = fields.nth(3)?.rsplit_once(':')?;
        let users = fields.nth(1).unwrap_or_default();
        let process = users.split('"').nth(1).map(short);
        let pid = users.split("pid=").nth(1).and_then(|rest| rest.split([',', ')']).next()?.parse().ok());
        let unit = pid.and_then(|pid: u32| units.get(&pid).cloned());
        Some(Socket { protocol, port: port.parse().ok()?, address: short(address), process, unit })
    };
    let mut sockets: Vec<Socket> = text.lines().filter_map(socket).collect();
    sockets.sort();
    sockets
}

/// Reads `sockstat -46l` of FreeBSD: a line `USER COMMAND PID FD PROTO LOCAL FOREIGN` for each socket.
pub fn parse_sockstat(text: &str) -> Vec<Socket> {
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, command, _, _, protocol, local, _] = *fields.as_slice() else { return None };
        let protocol = ["tcp", "udp"].into_iter().find(|word| protocol.starts_with(word))?.to_owned();
        let (address, port) = local.rsplit_once(':')?;
        let process = (command != "?").then(|| short(command));
        Some(Socket { protocol, port: port.parse().ok()?, address: short(address), process, unit: None })
    };
    let mut sockets: Vec<Socket> = text.lines().filter_map(socket).collect();
    sockets.sort();
    sockets.dedup();
    sockets
}

/// Reads `ps -e -o pid=,unit=`.
pub fn parse_ps_units(text: &str) -> BTreeMap<u32, String> {
    let pair = |line: &str| {
        let (pid, unit) = line.trim().split_once(char::is_whitespace)?;
        Some((pid.parse().ok()?, short(unit.trim()))).filter(|(_, unit)| unit != "-")
    };
    text.lines().filter_map(pair).collect()
}

/// Reads `systemctl list-unit-files`: what is enabled (`generated`: an init script), and all.
pub fn parse_unit_files(text: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut enabled, mut all) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        if let (Some(name), Some(state)) = (fields.next(), fields.next()) {
            all.insert(short(name));
            if ["enabled", "enabled-runtime", "generated"].contains(&state) {
                enabled.insert(short(name));
            }
        }
    }
    (enabled, all)
}

/// Reads `systemctl list-units --plain --no-legend`; `enabled` and `installed` stay empty.
pub fn parse_units(text: &str) -> Units {
    let mut units = Units::default();
    for line in text.lines() {
        // Old versions print a mark before the name in spite of --plain.
        let mut fields = line.trim_start_matches(['●', '*', '×', ' ']).split_whitespace();
        let (Some(name), Some(_load), Some(active), Some(sub)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let set = match (active, sub) {
            ("failed", _) => &mut units.failed,
            ("active", "running") => &mut units.running,
            ("active", _) => &mut units.ended,
            _ => continue,
        };
        set.insert(short(name));
    }
    units
}

/// Reads lines `STATUS\tNAME\tVERSION`; only what is installed counts.
pub fn parse_packages(text: &str) -> BTreeMap<String, String> {
    let package = |line: &str| {
        let mut fields = line.split('\t');
        let installed = fields.next()?.chars().nth(1)? == 'i';
        let (name, version) = (fields.next()?, fields.next()?);
        installed.then(|| (short(name), short(version)))
    };
    text.lines().filter_map(package).collect()
}

/// `PRETTY_NAME` of os-release(5).
pub fn parse_release(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(short(value.trim_matches(['"', '\''])))
}

/// Compares kernel releases: runs of digits as numbers, the rest as text.
pub fn kernel_order(a: &str, b: &str) -> std::cmp::Ordering {
    let chunks = |text: &str| -> Vec<(u64, String)> {
        let mut chunks = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let word_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (word, tail) = rest.split_at(word_end);
            let digits_end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
            let (digits, tail) = tail.split_at(digits_end);
            chunks.push((digits.parse().unwrap_or(0), word.to_owned()));
            rest = tail;
        }
        chunks
    };
    let (a, b) = (chunks(a), chunks(b));
    // The separators count only where the numbers do not decide.
    let numbers = |chunks: &[(u64, String)]| chunks.iter().map(|chunk| chunk.0).collect::<Vec<_>>();
    numbers(&a).cmp(&numbers(&b)).then_with(|| a.cmp(&b))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn fixture(name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/guest-debian12").join(name);
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn sockets_of_a_debian_guest() {
        let sockets = parse_ss(&fixture("ss.txt"), &parse_ps_units(&fixture("ps-unit.txt")));
        assert_eq!(sockets.len(), 12);
        let smtp = sockets.iter().find(|socket| socket.port == 25).unwrap();
        assert_eq!((smtp.process.as_deref(), smtp.unit.as_deref()), (Some("master"), Some("postfix@-.service")));
        let web = sockets.iter().find(|socket| socket.address == "[::]" && socket.port == 80).unwrap();
        assert_eq!((web.process.as_deref(), web.unit.as_deref()), (Some("nginx"), Some("nginx.service")));
    }

    #[test]
    fn sockets_without_process_or_sense() {
        let text =
            "udp UNCONN 0 0 127.0.0.1%lo:323 0.0.0.0:*\ntcp LISTEN 0 5 *:99999 *:*\nnl UNCONN 0 0 rtnl:x *\n\ntcp\n";
        let sockets = parse_ss(text, &BTreeMap::new());
        assert_eq!(sockets.len(), 1);
        assert_eq!((sockets[0].port, sockets[0].address.as_str()), (323, "127.0.0.1%lo"));
    }

    #[test]
    fn sockets_of_a_freebsd_guest() {
        let text = "USER     COMMAND    PID   FD PROTO  LOCAL ADDRESS         FOREIGN ADDRESS      \n\
            root     sshd       795   4  tcp4   10.0.5.113:22         *:*\n\
            root     syslogd    690   6  udp6   *:514                 *:*\n\
            ?        ?          ?     ?  tcp4   *:2049                *:*\nodd\nroot x 1 2 icm4 *:* *:*\n";
        let sockets = parse_sockstat(text);
        assert_eq!(sockets.len(), 3);
        let ssh = sockets.iter().find(|socket| socket.port == 22).unwrap();
        assert_eq!(
            (ssh.protocol.as_str(), ssh.address.as_str(), ssh.process.as_deref()),
            ("tcp", "10.0.5.113", Some("sshd"))
        );
        assert!(sockets.iter().any(|socket| socket.port == 2049 && socket.process.is_none()));
    }

    #[test]
    fn units_of_a_debian_guest() {
        let units = parse_units(&fixture("list-units.txt"));
        assert!(units.running.contains("dovecot.service") && units.running.contains("postfix@-.service"));
        assert!(units.ended.contains("postfix.service") && !units.running.contains("fstrim.service"));
        let (enabled, installed) = parse_unit_files(&fixture("list-unit-files.txt"));
        assert!(enabled.contains("dovecot.service") && enabled.contains("getty@.service"));
        assert!(installed.contains("dbus.service") && !enabled.contains("dbus.service"));
        assert!(units.failed.is_empty());
        let failed = parse_units("● dovecot.service loaded failed failed Dovecot\nodd\n");
        assert_eq!(failed.failed.iter().collect::<Vec<_>>(), ["dovecot.service"]);
    }

    #[test]
    fn packages_and_release() {
        let packages = parse_packages(&fixture("dpkg-query.txt"));
        assert_eq!(packages["base-files"], "12.4+deb12u15");
        assert!(parse_packages("rc \told\t1\nii \t\u{1b}[31mx\t1\n").keys().eq(["\u{fffd}[31mx"].iter()));
        assert_eq!(parse_release(&fixture("os-release.txt")).unwrap(), "Debian GNU/Linux 12 (bookworm)");
    }

    #[test]
    fn kernels_are_compared_as_numbers() {
        use std::cmp::Ordering::*;
        assert_eq!(kernel_order("6.12.9-amd64", "6.1.0-25-amd64"), Greater);
        assert_eq!(kernel_order("2.6.32-431.el6.x86_64", "2.6.32-1000.el6.x86_64"), Less);
        assert_eq!(kernel_order("6.1.0-25-amd64", "6.1.0-25-amd64"), Equal);
        assert_eq!(kernel_order("99999999999999999999999", ""), Greater);
    }
}
