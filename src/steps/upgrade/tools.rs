//! VMware's tools applied again at the next boot: the hook that does it in the guest, before the network, and the wait for its end.

use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hypervisors::host::{Command, printable_tail, shell_quote};
use hypervisors::{Cause, Change, GuestLink, Host};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::kernel::{BOOT, newest, path, script};
use super::{guest, name, with_clone};
use crate::recipe::yum::{self, Init};
use crate::steps::{Done, Manners, Probe, Step, StepError, World};

/// Where the hook and what it writes lie in the guest.
pub(super) const DIRECTORY: &str = "/var/lib/upgradectl/tools";

/// Has VMware's tools applied at the next boot into the new kernel, before the network (kind `tools.hook`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolsHook {
    /// Inventory host.
    pub host: String,
    /// How to get into the guest.
    pub link: GuestLink,
    /// The run.
    pub run: String,
    /// The kernel that runs before.
    pub before: String,
    /// What starts services there.
    pub init: Init,
    /// The program that applies them, and its arguments.
    pub program: Vec<String>,
    /// Modules that have to be there afterwards.
    pub modules: Vec<String>,
    /// How often it is tried.
    pub attempts: u32,
}

impl ToolsHook {
    fn render(&self, template: &str, kernel: &str) -> Result<String, StepError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().trim_blocks(true).keep_trailing_newline(true).build();
        environment
            .set_syntax(syntax.map_err(|error| StepError::Memory(format!("the syntax of our templates: {error}")))?);
        let quoted = |word: &str| shell_quote(&[word]);
        let modules: Vec<String> = self.modules.iter().map(|module| yum::names(module).join(",")).collect();
        let starter = match self.init {
            Init::Systemd => "systemd",
            Init::Sysv => "sysv",
            Init::RcLocal => "rc.local",
        };
        let values = context! {
            run => &self.run,
            kernel => quoted(kernel),
            fallback => quoted(&path(&self.before)),
            attempts => self.attempts,
            directory => DIRECTORY,
            starter => starter,
            program => shell_quote(&self.program),
            modules => shell_quote(&modules),
        };
        environment
            .render_str(template, values)
            .map_err(|error| StepError::Memory(format!("a template of ours: {error}")))
    }

    /// What starts it: a file with its mode and, where there is one, links to it.
    fn starter(&self) -> (&'static str, u32, Vec<&'static str>) {
        match self.init {
            Init::Systemd => (
                "/etc/systemd/system/upgradectl-tools.service",
                0o644,
                vec!["/etc/systemd/system/multi-user.target.wants/upgradectl-tools.service"],
            ),
            Init::Sysv => (
                "/etc/rc.d/init.d/upgradectl-tools",
                0o755,
                vec![
                    "/etc/rc.d/rc2.d/S09upgradectl-tools",
                    "/etc/rc.d/rc3.d/S09upgradectl-tools",
                    "/etc/rc.d/rc4.d/S09upgradectl-tools",
                    "/etc/rc.d/rc5.d/S09upgradectl-tools",
                ],
            ),
            Init::RcLocal => ("/etc/rc.d/rc.local", 0o755, Vec::new()),
        }
    }
}

const AGAIN: &str = include_str!("../../../templates/tools/again");
const UNIT: &str = include_str!("../../../templates/tools/upgradectl-tools.service");
const INIT: &str = include_str!("../../../templates/tools/upgradectl-tools.init");

/// A local script that goes on with the hook, as the field does it: a copy is kept beside it, and moved back. Its last line may not be
/// ended. Arguments: the hook's directory, the local script.
const RC_LOCAL: &str = "f=$2; k=$f.upgradectl; test -e $k || { cp -a $f $k.new && sync && mv -f $k.new $k; } || exit; \
    cat $k >$f.upgradectl-new && printf '\\nsh %s/again\\n' \"$1\" >>$f.upgradectl-new && \
    { cp -a --attributes-only $k $f.upgradectl-new 2>/dev/null; chmod 755 $f.upgradectl-new; } && \
    sync && mv -f $f.upgradectl-new $f && sync";

/// Takes away what starts the hook, and all it wrote.
const AWAY: &str = "rm -f /etc/systemd/system/multi-user.target.wants/upgradectl-tools.service /etc/systemd/system/upgradectl-tools.service \
    /etc/rc.d/rc[2345].d/S09upgradectl-tools /etc/rc.d/init.d/upgradectl-tools; \
    f=/etc/rc.d/rc.local; test ! -e $f.upgradectl || mv -f $f.upgradectl $f; \
    rm -rf \"$1\"; rmdir /var/lib/upgradectl 2>/dev/null; test ! -d /run/systemd/system || systemctl daemon-reload; sync";

#[async_trait]
impl Step for ToolsHook {
    fn title(&self) -> String {
        "have VMware's tools applied at the next boot, before the network".into()
    }
    fn undo_title(&self) -> String {
        "remove what would do it".into()
    }
    fn taken_back(&self) -> String {
        "remove what applies VMware's tools".into()
    }
    fn commands(&self, _manners: &Manners) -> Vec<Vec<String>> {
        vec![self.program.clone()]
    }
    async fn probe(&self, world: &World) -> Result<Probe, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let hook = guest.read_file(Path::new(&format!("{DIRECTORY}/again")), 1 << 20).await?;
        let (starter, ..) = self.starter();
        let starts = match self.init {
            Init::RcLocal => guest.read_file(Path::new("/etc/rc.d/rc.local.upgradectl"), 1 << 20).await?.is_some(),
            _ => guest.read_file(Path::new(starter), 1 << 20).await?.is_some(),
        };
        Ok(match (hook, starts) {
            (Some(_), true) => Probe::Present,
            (None, false) => Probe::Absent,
            _ => Probe::Partial,
        })
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let kernel = newest(&*guest, &self.before).await?;
        let again = self.render(AGAIN, &kernel)?;
        script(
            &*guest,
            "make a directory for the hook",
            "umask 077; mkdir -p \"$1\"; rm -f \"$1\"/tried \"$1\"/state",
            &[DIRECTORY],
        )
        .await?;
        guest.write_file(Path::new(&format!("{DIRECTORY}/boot")), BOOT.as_bytes(), 0o600).await?;
        guest.write_file(Path::new(&format!("{DIRECTORY}/again")), again.as_bytes(), 0o700).await?;
        let (file, mode, links) = self.starter();
        match self.init {
            Init::RcLocal => {
                script(&*guest, "have the local script go on with it", RC_LOCAL, &[DIRECTORY, file]).await?;
            }
            Init::Systemd | Init::Sysv => {
                let template = if self.init == Init::Systemd { UNIT } else { INIT };
                guest.write_file(Path::new(file), self.render(template, &kernel)?.as_bytes(), mode).await?;
                let words: Vec<&str> = [file].into_iter().chain(links).collect();
                let link = "f=$1; shift; for l; do mkdir -p \"${l%/*}\" && ln -sf \"$f\" \"$l\" || exit; done; sync";
                script(&*guest, "have it started at the boot", link, &words).await?;
            }
        }
        Ok(Done::new(Change::Created).with(json!({ "kernel": kernel })))
    }
    async fn undo(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        script(&*guest(world, &self.host, &self.link)?, "remove the hook", AWAY, &[DIRECTORY]).await?;
        Ok(Change::Removed.into())
    }
}

/// Waits until the hook has succeeded and the guest runs the new kernel with it (kind `tools.applied`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolsApplied {
    /// Inventory host.
    pub host: String,
    /// How to get into the guest.
    pub link: GuestLink,
    /// The kernel that ran before.
    pub before: String,
    /// How long it may take, in seconds.
    pub timeout_s: u64,
}

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(20);
/// So many looks at a guest whose hook was not begun: half a minute.
const PASSED_BY: u32 = 15;

/// What the hook has come to, and the kernel that runs.
const STATE: &str = "cat \"$1/state\" 2>/dev/null || echo open; cat \"$1/tried\" 2>/dev/null || echo 0; uname -r";

#[async_trait]
impl Step for ToolsApplied {
    fn title(&self) -> String {
        "wait until VMware's tools are applied, and the reboot after it".into()
    }
    fn undo_title(&self) -> String {
        "-".into()
    }
    async fn probe(&self, _world: &World) -> Result<Probe, StepError> {
        Ok(Probe::Absent)
    }
    async fn apply(&self, world: &World, _found: &Value) -> Result<Done, StepError> {
        let guest = guest(world, &self.host, &self.link)?;
        let begun = Instant::now();
        let (mut asked, mut idle) = (false, 0);
        loop {
            // Asked anew again and again of a machine that goes down and comes up: an answer is not waited for long.
            let command = Command::new(["sh", "-c", STATE, "sh", DIRECTORY]).timeout(LOOK);
            let told =
                guest.run(&command).await.and_then(|told| told.checked("ask what became of VMware's tools", &command));
            let said = match told {
                Ok(told) => {
                    let text = told.text();
                    let mut lines = text.lines().map(str::trim);
                    let (state, tried, kernel) =
                        (lines.next().unwrap_or(""), lines.next().unwrap_or(""), lines.next().unwrap_or(""));
                    let old = kernel == self.before;
                    idle = if state == "open" && tried == "0" { idle + 1 } else { 0 };
                    match state {
                        "done" if !old => {
                            return Ok(Done::new(Change::Changed)
                                .with(json!({ "attempts": tried.parse::<u32>().unwrap_or(0), "kernel": kernel })));
                        }
                        "failed" => return Err(self.failed(world, &*guest, tried).await),
                        // It is over, or was never begun, and the old kernel came up: power was cut in between.
                        "done" | "open" if old && !asked => {
                            asked = true;
                            self.boot_again(&*guest).await?;
                            "it is booted once more".to_owned()
                        }
                        // The new kernel runs, can be reached, and what applies them was not begun: its boot passed it by.
                        "open" if !asked && idle >= PASSED_BY => {
                            asked = true;
                            self.boot_again(&*guest).await?;
                            "their hook was passed by: it is booted once more".to_owned()
                        }
                        _ => format!("attempt {tried}, {kernel} runs"),
                    }
                }
                // It answers, or does not, or refuses a login, while it goes down and comes up.
                Err(error) if error.is_unknown() => "it does not answer: it boots, or applies them".to_owned(),
                Err(error) if matches!(error.cause, Cause::Refused(_)) => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            if begun.elapsed() >= Duration::from_secs(self.timeout_s) {
                return Err(StepError::Unknown(format!(
                    "VMware's tools are not applied after {} s: {said}",
                    self.timeout_s
                )));
            }
            let fraction = begun.elapsed().as_secs_f64() / Duration::from_secs(self.timeout_s.max(1)).as_secs_f64();
            world.progress(format!("waiting for VMware's tools: {said}"), Some(fraction.min(1.0)));
            tokio::time::sleep(super::POLL * 2).await;
        }
    }
    async fn undo(&self, _world: &World, _found: &Value) -> Result<Done, StepError> {
        with_clone()
    }
}

impl ToolsApplied {
    async fn boot_again(&self, guest: &dyn Host) -> Result<(), StepError> {
        let kernel = newest(guest, &self.before).await?;
        script(guest, "have the new kernel booted once more", BOOT, &["once", &format!("/boot/vmlinuz-{kernel}")])
            .await?;
        let reboot = "if test -d /run/systemd/system; then systemctl --no-block reboot; else shutdown -r now; fi";
        match script(guest, "reboot", reboot, &[]).await {
            Err(error) if !error.is_unknown() => Err(error),
            _ => Ok(()),
        }
    }

    async fn failed(&self, world: &World, guest: &dyn Host, tried: &str) -> StepError {
        let log =
            guest.read_file(Path::new(&format!("{DIRECTORY}/log")), 1 << 20).await.ok().flatten().unwrap_or_default();
        let guest_name = name(world);
        StepError::failed(
            format!("VMware's tools could not be applied, {tried} times: {}", printable_tail(&log, 4)),
            format!(
                "its log: {DIRECTORY}/log in the guest; upgradectl upgrade {guest_name} tries again, upgradectl abort {guest_name} goes back"
            ),
        )
    }
}

#[cfg(test)]
#[path = "tools_tests.rs"]
mod tests;
