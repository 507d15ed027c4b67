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
        self.each(world, "stop", &self.units).await?;
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
}
