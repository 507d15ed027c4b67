//! `jexec`: a command in a running jail: chrooted where processes are real; else what the stand-ins know of it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::running::{self, Running};
use crate::host::Host;
use crate::persona::Real;
use crate::say;

const USAGE: &str = "usage: jexec [-l] [-d working-directory] [-u username | -U username] jail
       [command ...]
";

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let mut rest = arguments.iter();
    let mut is_login = false;
    let wanted = loop {
        match rest.next().map(String::as_str) {
            Some("-l") => is_login = true,
            Some(option) if ["-d", "-u", "-U"].contains(&option) => return say::not_played(option),
            Some(option) if option.starts_with('-') => {
                return say::illegal(option.chars().nth(1).unwrap_or('-'), USAGE);
            }
            Some(name) => break name,
            None => {
                say::err(USAGE);
                return 1;
            }
        }
    };
    let Some(jail) = running::find(host, wanted) else {
        return say::wrong(&format!("jail \"{wanted}\" not found"));
    };
    let command: Vec<String> = rest.cloned().collect();
    if host.persona.processes == Real::Real && !is_played(host, &jail, &command) {
        return within(host, &jail, &command, is_login);
    }
    noted(host, &jail, &command)
}

/// The programs that are played in a jail, with its tree as their root.
const PLAYED: [&str; 8] = ["freebsd-version", "newaliases", "pkg", "pkg-static", "service", "sysctl", "sysrc", "uname"];

/// Whether a program of a jail is played although jails are real: the tree has none that this machine could run.
pub fn is_played(host: &Host, jail: &Running, command: &[String]) -> bool {
    let Some(program) = command.first() else { return false };
    let name = program.rsplit('/').next().unwrap_or_default();
    let places = ["", "/sbin/", "/bin/", "/usr/sbin/", "/usr/bin/", "/usr/local/sbin/", "/usr/local/bin/"];
    let begins = |at: &str, with: &[u8]| {
        std::fs::read(host.path(format!("{}{at}", jail.path))).is_ok_and(|text| text.starts_with(with))
    };
    let shell = begins("/bin/sh", b"\x7fELF");
    let runs = |place: &&str| {
        let at = if program.starts_with('/') { program.clone() } else { format!("{place}{program}") };
        begins(&at, b"\x7fELF") || (shell && begins(&at, b"#!"))
    };
    PLAYED.contains(&name) && !places.iter().any(runs)
}

fn within(host: &Host, jail: &Jail, command: &[String], is_login: bool) -> u8 {
    let command = if command.is_empty() { &["/bin/sh".to_owned()] } else { command };
    let mut run = Command::new("chroot");
    run.arg(host.path(&jail.path)).args(command).current_dir("/");
    if is_login {
        run.env_clear().env("HOME", "/root").env("SHELL", "/bin/sh").env("USER", "root");
        run.env("PATH", "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin");
    }
    say::wrong(&say::reason(&run.exec()))
}

type Jail = Running;

/// What can be said of a jail without processes: its name, what it was told to run, and the stand-ins with its tree as their root.
pub fn noted(host: &Host, jail: &Jail, command: &[String]) -> u8 {
    let Some((program, arguments)) = command.split_first() else {
        return say::not_played("a shell in a jail without processes");
    };
    let name = program.rsplit('/').next().unwrap_or_default();
    match name {
        "true" => 0,
        "false" => 1,
        "hostname" => {
            say::out(&format!("{}\n", jail.hostname));
            0
        }
        "ps" => {
            say::out("PID TT  STAT    TIME COMMAND\n");
            for (at, command) in jail.commands.iter().enumerate() {
                say::out(&format!("{} u0  S+J  0:00.01 {command}\n", 700 + at));
            }
            0
        }
        name if PLAYED.contains(&name) => {
            let own = std::env::current_exe();
            let run = own.and_then(|own| {
                let mut run = Command::new(own);
                run.arg0("jailhost").arg(name).args(arguments);
                run.env("JAILHOST_ROOT", host.path(&jail.path)).env("JAILHOST_JAIL", &jail.name).status()
            });
            match run {
                Ok(status) => u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
                Err(wrong) => say::wrong(&say::reason(&wrong)),
            }
        }
        _ => {
            say::err(&format!(
                "jailhost: jexec: {program} in a jail whose processes are only noted (persona: processes = \"real\")\n"
            ));
            70
        }
    }
}
