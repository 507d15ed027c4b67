//! Services that a verification needs, started in the clone for that time alone. The fence around it is in [`super::fence`].

use std::path::Path;

use async_trait::async_trait;
use hypervisors::host::Command;
use hypervisors::{Change, GuestLink, Host};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Done, Probe, Step, StepError, World};

async fn run(guest: &dyn Host, argv: &[&str]) -> Result<String, StepError> {
    let command = Command::new(argv.iter().copied());
    Ok(guest.run(&command).await?.checked(argv.join(" "), &command)?.text())
}

/// While this exists the services may start. In a directory that no reboot survives: a clone that goes down while
/// nobody watches comes up without them, unmasked as they are, for the fence is gone as well.
const VERIFYING: &str = "/run/upgradectl-verifying";
const CONDITION: &str = "[Unit]\nConditionPathExists=/run/upgradectl-verifying\n";

/// Where a unit's condition is written.
fn condition(unit: &str) -> (String, String) {
    let directory = format!("/etc/systemd/system/{unit}.d");
    let file = format!("{directory}/upgradectl-verifying.conf");
    (directory, file)
}

/// Starts quarantined services of the clone; taken back, they are stopped and masked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartWhileVerifying {
    host: String,
    link: GuestLink,
    /// What is started.
    units: Vec<String>,
    /// What is masked of these services: the units themselves, their templates, sockets, timers.
    masked: Vec<String>,
}

/// The service a unit belongs to: `postfix` of `postfix.service`, `postfix@.service`, `postfix@`.
pub fn service(unit: &str) -> &str {
    let name = unit.rsplit_once('.').map_or(unit, |(name, kind)| match kind {
        "service" | "socket" | "timer" | "path" => name,
        _ => unit,
    });
    name.split('@').next().unwrap_or(name)
}

fn full(name: &str) -> String {
    if name.rsplit_once('.').is_some_and(|(_, kind)| matches!(kind, "service" | "socket" | "timer" | "path")) {
        name.to_owned()
    } else {
        format!("{name}.service")
    }
}

/// The properties in which systemd keeps what stops when a unit is stopped.
const DEPENDENTS: &str = "ConsistsOf,BoundBy,RequiredBy";

/// The units named by `systemctl show --property`, lines as `ConsistsOf=postfix@-.service`.
fn dependents(shown: &str) -> impl Iterator<Item = &str> {
    shown.lines().filter_map(|line| line.split_once('=')).flat_map(|(_, units)| units.split_whitespace())
}

impl StartWhileVerifying {
    /// Of this clone, these services of those that are off.
    pub fn new(host: &str, link: &GuestLink, services: &[String], off: &[String]) -> Self {
        let wanted = |unit: &&String| services.iter().any(|name| service(name) == service(unit));
        Self {
            host: host.to_owned(),
            link: link.clone(),
            units: services.iter().map(|name| full(name)).collect(),
            masked: off.iter().filter(wanted).map(|unit| full(unit)).collect(),
        }
    }

    /// Stops the services and all that stops with them, and returns when nothing of it runs.
    ///
    /// systemd stops what is `PartOf=` a unit, bound to it or requires it, but waits for the unit it was told alone
    /// (systemd.unit(5)): Debian's postfix.service is gone at once, while postfix@-.service, the mail server, takes its
    /// time. The fence must not go before it. So they are stopped by their names as well.
    async fn stop(&self, world: &World) -> Result<(), StepError> {
        let guest = world.hypervisor(&self.host)?.guest(&self.link)?;
        let mut units = self.units.clone();
        let mut looked_at = 0;
        while let Some(unit) = units.get(looked_at) {
            looked_at += 1;
            let shown = run(&*guest, &["systemctl", "show", "--property", DEPENDENTS, "--", unit]).await?;
            for name in dependents(&shown) {
                if !units.iter().any(|known| known == name) {
                    units.push(name.to_owned());
                }
            }
        }
        let argv: Vec<&str> = ["systemctl", "stop", "--"].into_iter().chain(units.iter().map(String::as_str)).collect();
        run(&*guest, &argv).await.map(drop)
    }

    async fn each(&self, world: &World, verb: &str, units: &[String]) -> Result<(), StepError> {
        let guest = world.hypervisor(&self.host)?.guest(&self.link)?;
        for unit in units {
            run(&*guest, &["systemctl", verb, unit]).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Step for StartWhileVerifying {
    fn title(&self) -> String {
        format!("start {} for the verification", self.units.join(", "))
    }
    fn undo_title(&self) -> String {
        "stop and mask them again".into()
    }
    fn commands(&self, _manners: &super::Manners) -> Vec<Vec<String>> {
        let argv = |verb: &str, unit: &String| vec!["systemctl".to_owned(), verb.to_owned(), unit.clone()];
        let unmask = self.masked.iter().map(|unit| argv("unmask", unit));
        unmask.chain(self.units.iter().map(|unit| argv("start", unit))).collect()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = world.hypervisor(&self.host)?.guest(&self.link)?;
        for unit in &self.masked {
            let (directory, file) = condition(unit);
            run(&*guest, &["mkdir", "-p", &directory]).await?;
            guest.write_file(Path::new(&file), CONDITION.as_bytes(), 0o644).await?;
        }
        run(&*guest, &["touch", VERIFYING]).await?;
        self.each(world, "unmask", &self.masked).await?;
        self.each(world, "start", &self.units).await?;
        Ok(Change::Changed.into())
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        self.stop(world).await?;
        self.each(world, "mask", &self.masked).await?;
        let guest = world.hypervisor(&self.host)?.guest(&self.link)?;
        for unit in &self.masked {
            let (directory, file) = condition(unit);
            run(&*guest, &["rm", "-f", &file]).await?;
            // One that was there before has other files in it, or is missed by nobody.
            guest.run(&Command::new(["rmdir", &directory])).await?;
        }
        run(&*guest, &["rm", "-f", VERIFYING]).await?;
        Ok(Change::Changed.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_belongs_to_its_service() {
        for unit in
            ["postfix", "postfix@", "postfix.service", "postfix@.service", "postfix@-.service", "postfix.socket"]
        {
            assert_eq!(service(unit), "postfix");
        }
        assert_eq!(service("foo.bar"), "foo.bar");
    }

    #[test]
    fn what_stops_with_a_unit_is_read() {
        let shown = "ConsistsOf=postfix@-.service a.socket\nBoundBy=\nRequiredBy=b.service\n";
        let read: Vec<&str> = dependents(shown).collect();
        assert_eq!(read, ["postfix@-.service", "a.socket", "b.service"]);
    }
}
