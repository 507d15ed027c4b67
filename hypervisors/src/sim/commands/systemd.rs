//! `systemctl`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use super::{Inside, fail, operands, out};
use crate::Result;
use crate::host::Output;
use crate::sim::boot::{fails, meets_condition, unit_state};
use crate::sim::tree;
use crate::sim::world::now_ms;

impl Inside<'_> {
    pub(super) fn systemctl(&mut self, args: &[&str]) -> Result<Output> {
        // `-p X`, `-n X` and the like take a word.
        let mut words = Vec::new();
        let mut rest = args.iter();
        while let Some(word) = rest.next() {
            if matches!(*word, "-p" | "-n" | "-o" | "-t") {
                rest.next();
            } else {
                words.push(*word);
            }
        }
        let words = operands(&words);
        let Some((verb, units)) = words.split_first() else { return Ok(self.list_units(args)) };
        let units: Vec<String> = units.iter().map(|unit| with_suffix(unit)).collect();
        if args.contains(&"--wait") && self.config.systemd < 232 {
            return Ok(fail(1, "systemctl: unrecognized option '--wait'"));
        }
        Ok(match *verb {
            "is-system-running" => self.is_system_running(args.contains(&"--wait")),
            "list-units" => self.list_units(args),
            "list-unit-files" => self.list_unit_files(args),
            "is-active" => self.is_active(&units),
            "is-enabled" => self.is_enabled(&units),
            "is-failed" => self.is_failed(&units),
            "show" => self.show(args, &units),
            "daemon-reload" | "reset-failed" => {
                if *verb == "reset-failed" {
                    self.runtime.failed.retain(|unit| !units.is_empty() && !units.contains(unit));
                }
                out("")
            }
            "start" | "restart" | "reload" | "try-restart" | "reload-or-restart" => self.start(&units),
            "stop" => {
                self.stop(&units);
                out("")
            }
            "mask" | "unmask" | "enable" | "disable" => self.link(verb, &units, args.contains(&"--now")),
            "reboot" => return self.reboot(),
            "poweroff" | "halt" => {
                self.world.halt(&self.guest, true)?;
                self.runtime = self.world.runtime(&self.guest)?;
                out("")
            }
            _ => fail(1, format!("Unknown command verb '{verb}'.")),
        })
    }

    /// Down and up again: with the definition it was started with, where the platform reboots from memory.
    fn reboot(&mut self) -> Result<Output> {
        let live = self.runtime.live.clone().unwrap_or_default();
        let stored = self.world.definition(&self.guest)?;
        let text = match stored {
            Some(stored) if !self.config.capabilities.reboots_from_memory => stored,
            _ => live,
        };
        self.world.halt(&self.guest, true)?;
        if let Err(error) = self.world.boot(&self.guest, &text) {
            // It went down and does not come up: the caller learns that by looking, as in a real world.
            self.world.conflicts.push(error.to_string());
        }
        self.runtime = self.world.runtime(&self.guest)?;
        Ok(out(""))
    }

    fn booting(&self) -> bool {
        now_ms() < self.runtime.booted_ms + self.config.boot_ms
    }

    fn is_system_running(&self, wait: bool) -> Output {
        let (status, word) = match (self.booting() && !wait, self.runtime.failed.is_empty()) {
            (true, _) => (1, "starting"),
            (false, true) => (0, "running"),
            (false, false) => (1, "degraded"),
        };
        Output { status, ..out(format!("{word}\n")) }
    }

    fn list_units(&self, args: &[&str]) -> Output {
        let option = |name: &str| args.iter().find_map(|word| word.strip_prefix(name));
        if option("--type=").is_some_and(|kind| kind != "service") {
            return out("");
        }
        let state = if args.contains(&"--failed") { Some("failed") } else { option("--state=") };
        let mut text = String::new();
        if state.is_none_or(|state| state == "running" || state == "active") {
            for unit in &self.runtime.units {
                text += &format!("{unit} loaded active running {}\n", description(unit));
            }
        }
        if state.is_none_or(|state| state == "failed") {
            for unit in &self.runtime.failed {
                text += &format!("{unit} loaded failed failed {}\n", description(unit));
            }
        }
        if state.is_none() && args.contains(&"--all") {
            let root = self.root();
            for unit in self.unit_files().iter().filter(|unit| self.active(unit) == "inactive") {
                let load = if unit_state(&root, unit) == "masked" { "masked" } else { "loaded" };
                text += &format!("{unit} {load} inactive dead {}\n", description(unit));
            }
        }
        out(text)
    }

    fn unit_files(&self) -> BTreeSet<String> {
        let root = self.root();
        let dirs = ["etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system"];
        let names = dirs.iter().flat_map(|dir| tree::names(&root, dir));
        names.filter(|name| name.ends_with(".service")).collect()
    }

    fn list_unit_files(&self, args: &[&str]) -> Output {
        let root = self.root();
        let wanted = args.iter().find_map(|word| word.strip_prefix("--state="));
        let units = self.unit_files().into_iter().map(|unit| (unit_state(&root, &unit), unit));
        let shown = units.filter(|(state, _)| wanted.is_none_or(|wanted| wanted == *state));
        out(shown.map(|(state, unit)| format!("{unit} {state} enabled\n")).collect::<String>())
    }

    fn active(&self, unit: &str) -> &'static str {
        match (self.runtime.units.contains(unit), self.runtime.failed.contains(unit)) {
            (true, _) => "active",
            (false, true) => "failed",
            (false, false) => "inactive",
        }
    }

    fn is_active(&self, units: &[String]) -> Output {
        let states: Vec<&str> = units.iter().map(|unit| self.active(unit)).collect();
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        Output { status: if states.contains(&"active") { 0 } else { 3 }, ..out(text) }
    }

    fn is_failed(&self, units: &[String]) -> Output {
        let states: Vec<&str> = units.iter().map(|unit| self.active(unit)).collect();
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        Output { status: i32::from(!states.contains(&"failed")), ..out(text) }
    }

    fn is_enabled(&self, units: &[String]) -> Output {
        let root = self.root();
        let mut all = Output { status: 1, ..Output::default() };
        for unit in units {
            match unit_state(&root, unit) {
                "not-found" => {
                    let said = format!("Failed to get unit file state for {unit}: No such file or directory");
                    all.stderr.extend(fail(1, said).stderr);
                }
                state => {
                    all.stdout.extend(format!("{state}\n").into_bytes());
                    if state == "enabled" {
                        all.status = 0;
                    }
                }
            }
        }
        all
    }

    fn show(&self, args: &[&str], units: &[String]) -> Output {
        let mut wanted: Vec<&str> = Vec::new();
        for (index, word) in args.iter().enumerate() {
            let list = word.strip_prefix("--property=").or_else(|| word.strip_prefix("-p").filter(|w| !w.is_empty()));
            let list = if *word == "-p" { args.get(index + 1).copied() } else { list };
            wanted.extend(list.into_iter().flat_map(|list| list.split(',')));
        }
        let bare = args.contains(&"--value");
        let root = self.root();
        let mut blocks = Vec::new();
        for unit in units {
            let file = unit_state(&root, unit);
            let active = self.active(unit);
            let load = match file {
                "not-found" | "masked" => file,
                _ => "loaded",
            };
            let sub = match active {
                "active" => "running",
                "failed" => "failed",
                _ => "dead",
            };
            let shown = if file == "not-found" { "" } else { file };
            let all = [
                ("Id", unit.as_str()),
                ("LoadState", load),
                ("ActiveState", active),
                ("SubState", sub),
                ("UnitFileState", shown),
            ];
            let lines = all.iter().filter(|(key, _)| wanted.is_empty() || wanted.contains(key));
            let line =
                |(key, value): &(&str, &str)| if bare { format!("{value}\n") } else { format!("{key}={value}\n") };
            blocks.push(lines.map(line).collect::<String>());
        }
        out(blocks.join("\n"))
    }

    fn start(&mut self, units: &[String]) -> Output {
        let root = self.root();
        for unit in units {
            match unit_state(&root, unit) {
                "masked" => return fail(1, format!("Failed to start {unit}: Unit {unit} is masked.")),
                "not-found" => return fail(5, format!("Failed to start {unit}: Unit {unit} not found.")),
                _ if fails(&self.config, unit) => {
                    self.runtime.units.remove(unit);
                    self.runtime.failed.insert(unit.clone());
                    let said = format!("Job for {unit} failed because the control process exited with error code.");
                    return fail(1, said);
                }
                // A condition that is not met is no failure.
                _ if !meets_condition(&root, unit) => {}
                _ => {
                    self.runtime.failed.remove(unit);
                    self.runtime.units.insert(unit.clone());
                }
            }
        }
        out("")
    }

    fn stop(&mut self, units: &[String]) {
        for unit in units {
            self.runtime.units.remove(unit);
            self.runtime.failed.remove(unit);
        }
    }

    fn link(&mut self, verb: &str, units: &[String], now: bool) -> Output {
        let system = match self.place("/etc/systemd/system", true) {
            Ok(system) => system,
            Err(error) => return fail(1, format!("Failed to {verb}: {error}")),
        };
        for unit in units {
            let wants = system.join("multi-user.target.wants").join(unit);
            let done = match verb {
                "mask" if unit_state(&self.root(), unit) == "masked" => Ok(()),
                "mask" => symlink("/dev/null", system.join(unit)),
                "unmask" if unit_state(&self.root(), unit) == "masked" => fs::remove_file(system.join(unit)),
                "enable" => symlink(format!("/lib/systemd/system/{unit}"), wants),
                "disable" => fs::remove_file(wants),
                _ => Ok(()),
            };
            match done {
                Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists) && verb == "enable" => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound && verb == "disable" => {}
                Err(error) => return fail(1, format!("Failed to {verb} unit {unit}: {error}")),
                Ok(()) => {}
            }
        }
        match (verb, now) {
            ("mask" | "disable", true) => self.stop(units),
            ("enable", true) => return self.start(units),
            _ => {}
        }
        out("")
    }
}

fn with_suffix(unit: &str) -> String {
    if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") }
}

fn description(unit: &str) -> &str {
    unit.strip_suffix(".service").unwrap_or(unit)
}
