//! `sockstat`: the listening sockets of this machine, through `ss`; in a jail those on its addresses.

use std::process::Command;

use crate::host::Host;
use crate::say;

/// `sockstat -46l`.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let letters: String = arguments.iter().map(|argument| argument.trim_start_matches('-')).collect();
    if letters.chars().any(|letter| !"46l".contains(letter)) || !letters.contains('l') {
        return say::not_played(&arguments.join(" "));
    }
    say::out("USER     COMMAND    PID   FD PROTO  LOCAL ADDRESS         FOREIGN ADDRESS      \n");
    let Ok(said) = Command::new("ss").args(["-H", "-l", "-n", "-t", "-u", "-p"]).output() else { return 0 };
    for line in String::from_utf8_lossy(&said.stdout).lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [protocol, _, _, _, local, ..] = *fields.as_slice() else { continue };
        let Some((address, port)) = local.rsplit_once(':') else { continue };
        let address = address.split('%').next().unwrap_or_default();
        // A jail sees no others than its own; whose they are is told by the process, which it sees only if it is its own.
        let process = fields.get(6).and_then(|users| users.split('"').nth(1));
        if crate::tools::sysctl::is_jailed(host) && process.is_none() {
            continue;
        }
        let (family, address) = match address {
            "[::]" => ("6", "*"),
            "0.0.0.0" | "*" => ("4", "*"),
            address if address.starts_with('[') => ("6", address.trim_matches(['[', ']'])),
            address => ("4", address),
        };
        let process = process.unwrap_or("?");
        say::out(&format!(
            "root     {process:<10} 1     3  {protocol}{family}   {:<21} *:*\n",
            format!("{address}:{port}")
        ));
    }
    0
}
