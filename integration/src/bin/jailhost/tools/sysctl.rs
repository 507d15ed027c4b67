//! `sysctl`: the few variables that are asked for, `-n` for their values alone. Nothing can be set.

use crate::host::Host;
use crate::say;

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let mut only_values = false;
    let mut quiet = false;
    let mut status = 0;
    for argument in arguments {
        if let Some(letters) = argument.strip_prefix('-') {
            for letter in letters.chars() {
                match letter {
                    'n' => only_values = true,
                    'q' | 'i' => quiet = true,
                    letter => return say::not_played(&format!("-{letter}")),
                }
            }
            continue;
        }
        if argument.contains('=') {
            return say::not_played("setting a variable");
        }
        match value(host, argument) {
            Some(value) if only_values => say::out(&format!("{value}\n")),
            Some(value) => say::out(&format!("{argument}: {value}\n")),
            None => {
                if !quiet {
                    say::err(&format!("sysctl: unknown oid '{argument}'\n"));
                }
                status = u8::from(!quiet);
            }
        }
    }
    status
}

fn value(host: &Host, name: &str) -> Option<String> {
    let persona = &host.persona;
    Some(match name {
        "kern.securelevel" => persona.securelevel.to_string(),
        "kern.osreldate" => persona.osreldate.clone(),
        "kern.osrelease" => persona.kernel.clone(),
        "kern.ostype" => "FreeBSD".to_owned(),
        "kern.hostname" => persona.hostname.clone(),
        "hw.machine" | "hw.machine_arch" => persona.arch.clone(),
        "security.jail.jailed" => u8::from(std::env::var_os("JAILHOST_JAIL").is_some()).to_string(),
        "security.jail.jail_max_af_ips" => "255".to_owned(),
        "hw.ncpu" => std::thread::available_parallelism().map_or(1, usize::from).to_string(),
        "net.inet.ip.forwarding" => "0".to_owned(),
        "vfs.usermount" => "0".to_owned(),
        _ => return None,
    })
}
