//! `netstat -rn` and `route`: the default route of this machine, through `ip`, or a file `gateway` of the state.

use std::process::Command;

use crate::host::Host;
use crate::persona::Real;
use crate::{faults, say};

/// The gateway of the default route.
fn gateway(host: &Host) -> Option<String> {
    if host.persona.network != Real::Real {
        return Some(host.state_text("gateway").trim().to_owned()).filter(|text| !text.is_empty());
    }
    let said = Command::new("ip").args(["-4", "route", "show", "default"]).output().ok()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    text.split_ascii_whitespace().skip_while(|word| *word != "via").nth(1).map(str::to_owned)
}

/// `netstat -rn`.
pub fn netstat(host: &Host, arguments: &[String]) -> u8 {
    let letters: String = arguments.iter().map(|argument| argument.trim_start_matches('-')).collect();
    if letters.chars().any(|letter| !"rn".contains(letter)) || !letters.contains('r') {
        return say::not_played(&arguments.join(" "));
    }
    say::out("Routing tables\n\nInternet:\nDestination        Gateway            Flags     Netif Expire\n");
    if let Some(gateway) = gateway(host) {
        say::out(&format!("{:<18} {gateway:<18} UGS         em0\n", "default"));
    }
    0
}

/// `route add|delete default [GATEWAY]`.
pub fn route(host: &Host, arguments: &[String]) -> u8 {
    let words: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| *word != "-n" && *word != "-q").collect();
    if faults::lies() {
        return 0;
    }
    let real = host.persona.network == Real::Real;
    let ip = |words: &[&str]| Command::new("ip").args(words).output().is_ok_and(|run| run.status.success());
    match words.as_slice() {
        ["delete", "default", ..] => {
            let Some(was) = gateway(host) else {
                say::err("route: route has not been found\ndelete net default fib 0: not in table\n");
                return 1;
            };
            if real {
                let _ = ip(&["route", "del", "default"]);
            } else {
                host.remove_state("gateway");
            }
            say::out(&format!("delete net default: gateway {was}\n"));
            0
        }
        ["add", "default", to] => {
            if gateway(host).is_some() {
                say::err("route: route already in table\n");
                return 1;
            }
            if real && !ip(&["route", "add", "default", "via", to]) {
                say::err("route: writing to routing socket: Network is unreachable\n");
                return 1;
            }
            if !real {
                host.write_state("gateway", &format!("{to}\n"));
            }
            say::out(&format!("add net default: gateway {to}\n"));
            0
        }
        _ => say::not_played(&words.join(" ")),
    }
}
