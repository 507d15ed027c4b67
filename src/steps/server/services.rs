//! The services of a server, stopped for good: what runs there must not write, mail or answer beside the guest that takes its place.

use async_trait::async_trait;
use hypervisors::{Change, Host};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Server, run};
use crate::steps::{Done, Probe, Step, StepError, World};

/// Lists what runs and is to be stopped. With systemd: services that run, then what would start them again; but for what the way in, the
/// network and the machine itself need, and for what refuses to be stopped by hand (`RefuseManualStop`: auditd of Red Hat). With service(8) (FreeBSD 7.3 and later): enabled services whose status says that they run,
/// but for what the way in needs. Older systems: daemons of the base system that act or answer, by their processes.
const LIST: &str = "PATH=$PATH:/sbin:/usr/sbin:/usr/local/sbin:/usr/local/bin; export PATH; \
    if test -d /run/systemd/system && command -v systemctl >/dev/null 2>&1; then for t in service socket,timer,path; do \
    u=$(systemctl list-units --no-legend --plain --full --type=$t --state=running,listening,waiting) || exit 1; echo \"$u\" | awk '{ print $1 }' | \
    grep -v -E '^(sshd?[@.]|systemd-|dbus|[a-z-]*getty@|console-getty|user@|user-runtime|networking|network[.]|ifup|NetworkManager|wpa_supplicant|dhc|wicked|\
netplan|rsyslog|syslog|polkit|udev|multipathd|lvm2|dm-event|mdmonitor|irqbalance|acpid|qemu-guest|open-vm|vgauth|vmtoolsd|apparmor|cloud-|upgradectl)' | \
    while read -r n; do case $(systemctl show -p RefuseManualStop \"$n\" 2>/dev/null </dev/null) in *=yes*) ;; *) echo \"$n\";; esac; done; done; exit 0; \
    elif command -v service >/dev/null 2>&1; then for s in $(service -e); do n=${s##*/}; \
    case $n in sshd|syslogd|devd|moused|powerd|watchdogd|netif|routing|jail) continue;; esac; \
    case $(service \"$n\" onestatus 2>/dev/null </dev/null) in *'is running'*) echo \"$n\";; esac; done; \
    else for n in cron sendmail named inetd lpd portmap; do ps -axo ucomm | grep -q \"^$n *$\" && echo \"$n\"; done; exit 0; fi";

/// Arguments: what (`stop`, `start`), then names: several units of systemd, or one of another system. A unit is kept from starting by a
/// condition that is not met (systemd.unit(5)): a mask would not do where an administrator's own unit lies in its place.
const ACT: &str = "PATH=$PATH:/sbin:/usr/sbin:/usr/local/sbin:/usr/local/bin; export PATH; \
    if test -d /run/systemd/system && command -v systemctl >/dev/null 2>&1; then w=$1; shift; for u do d=/etc/systemd/system/$u.d; case $w in \
    stop) mkdir -p \"$d\" && printf '[Unit]\\nConditionPathExists=/nonexistent/upgradectl\\n' >\"$d/upgradectl-fence.conf\" || exit 1;; \
    start) rm -f \"$d/upgradectl-fence.conf\"; rmdir \"$d\" 2>/dev/null;; esac; done; sync; \
    systemctl daemon-reload && systemctl \"$w\" \"$@\" >/dev/null 2>&1; \
    elif command -v service >/dev/null 2>&1; then service \"$2\" \"one$1\" </dev/null >/dev/null 2>&1; \
    else case $1 in stop) killall -STOP \"$2\";; start) killall -CONT \"$2\";; esac; fi; exit 0";

/// Stops the services of a server; taken back, those that were found running are started, the last one first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopServices {
    /// The server.
    pub server: Server,
    /// As they ran when the plan was made, in the order in which they start.
    pub services: Vec<String>,
}

/// The services of a server that run now, in the order in which they start.
///
/// # Errors
/// It cannot be asked.
pub async fn running(host: &dyn Host) -> Result<Vec<String>, StepError> {
    let doing = format!("ask {} for its services", host.name());
    let text = run(host, &doing, &["sh", "-c", LIST]).await?;
    let known = |name: &&str| {
        name.len() <= 100
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-@:".contains(c))
            && !name.starts_with('-')
    };
    Ok(text.lines().map(str::trim).filter(known).filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn is_unit(name: &str) -> bool {
    [".service", ".socket", ".timer", ".path"].iter().any(|suffix| name.ends_with(suffix))
}

impl StopServices {
    /// Those of the plan that run now.
    async fn still(&self, host: &dyn Host) -> Result<Vec<String>, StepError> {
        let now = running(host).await?;
        Ok(self.services.iter().filter(|name| now.contains(name)).cloned().collect())
    }

    /// Those that are acted on at once: units of systemd all together, others one by one.
    fn at_once(names: &[String]) -> impl Iterator<Item = &[String]> {
        let size = if names.iter().all(|name| is_unit(name)) { names.len().max(1) } else { 1 };
        names.chunks(size)
    }

    async fn act(&self, host: &dyn Host, what: &str, names: &[String]) -> Result<(), StepError> {
        let doing = format!("{what} {} of {}", names.join(", "), self.server.source.name);
        let words = ["sh", "-c", ACT, "sh", what].into_iter().chain(names.iter().map(String::as_str));
        run(host, &doing, &words.collect::<Vec<_>>()).await.map(drop)
    }
}

#[async_trait]
impl Step for StopServices {
    fn title(&self) -> String {
        match self.services.is_empty() {
            true => format!("stop the services of {}: none runs", self.server.source.name),
            false => format!("stop {} of {}", self.services.join(", "), self.server.source.name),
        }
    }
    fn undo_title(&self) -> String {
        "start them again".into()
    }
    fn taken_back(&self) -> String {
        format!("start the services of {} again", self.server.source.name)
    }
    fn commands(&self, _manners: &crate::steps::Manners) -> Vec<Vec<String>> {
        let stop = |name: &String| match is_unit(name) {
            true => ["systemctl", "stop", name].map(str::to_owned).to_vec(),
            false => ["service", name, "onestop"].map(str::to_owned).to_vec(),
        };
        self.services.iter().rev().map(stop).collect()
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let host = self.server.there(world).await?;
        let left = self.still(&*host).await?.len();
        Ok(match left {
            0 => Probe::Present,
            left if left == self.services.len() => Probe::Absent,
            _ => Probe::Partial,
        })
    }
    async fn capture(&self, world: &World) -> Result<Value, StepError> {
        let host = self.server.there(world).await?;
        Ok(json!({ "running": running(&*host).await? }))
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let host = self.server.there(world).await?;
        let mut begun = self.still(&*host).await?;
        begun.reverse();
        for names in Self::at_once(&begun) {
            world.progress(format!("stopping {}", names.join(", ")), None);
            self.act(&*host, "stop", names).await?;
        }
        // What another one starts again (a supervisor, a dependency) would write and answer all the same.
        let left = self.still(&*host).await?;
        match left.is_empty() {
            true => Ok(if begun.is_empty() { Change::Unchanged } else { Change::Changed }.into()),
            false => Err(StepError::failed(
                format!("{} of {} did not stop", left.join(", "), self.server.source.name),
                "stop it by hand, and type the verb again",
            )),
        }
    }
    async fn undo(&self, world: &World, found: &Value) -> Result<Done, StepError> {
        let was: Vec<String> = crate::steps::read(&found["running"])?;
        let host = self.server.there(world).await?;
        let mut change = Change::Unchanged;
        let now = running(&*host).await?;
        // One that runs yet may be kept from starting again already.
        let back = |name: &&String| was.contains(name) && (is_unit(name) || !now.contains(name));
        let back: Vec<String> = self.services.iter().filter(back).cloned().collect();
        for names in Self::at_once(&back) {
            self.act(&*host, "start", names).await?;
            change = Change::Changed;
        }
        let now = running(&*host).await?;
        let missing: Vec<&str> =
            self.services.iter().filter(|name| was.contains(name) && !now.contains(name)).map(String::as_str).collect();
        match missing.as_slice() {
            [] => Ok(change.into()),
            missing => Ok(Done::new(change).warn(format!(
                "{} of {} did not start again",
                missing.join(", "),
                self.server.source.name
            ))),
        }
    }
}
