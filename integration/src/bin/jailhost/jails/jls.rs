//! `jls`: the running jails, in a table, verbose, as `name=value`, as JSON.

use super::running::{self, Running};
use crate::host::Host;
use crate::say;

const USAGE: &str = "usage: jls [-dhNnqv] [-j jail] [param ...]\n";

/// How they are shown.
#[derive(Default)]
struct Asked {
    by_name: bool,
    named: bool,
    settable: bool,
    quoted: bool,
    header: bool,
    verbose: bool,
    json: bool,
    pretty: bool,
    jail: Option<String>,
    parameters: Vec<String>,
}

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let asked = match asked(host, arguments) {
        Ok(asked) => asked,
        Err(status) => return status,
    };
    let mut status = 0;
    let mut jails = running::all(host);
    if let Some(wanted) = &asked.jail {
        jails = running::find(host, wanted).into_iter().collect();
        if jails.is_empty() {
            status = say::wrong(&format!("jail \"{wanted}\" not found"));
        }
    }
    if asked.named || asked.settable || !asked.parameters.is_empty() {
        if asked.json {
            return say::not_played("--libxo json with parameters");
        }
        return status.max(parameters(host, &asked, &jails));
    }
    let text = match (asked.json, asked.verbose) {
        (true, verbose) => json(&jails, verbose, asked.pretty),
        (false, true) => verbose(&jails),
        (false, false) => table(&jails, asked.by_name),
    };
    say::out(&text);
    status
}

/// The plain table, with names instead of numbers if wanted.
pub fn table(jails: &[Running], by_name: bool) -> String {
    let mut text = if by_name {
        " JID             IP Address      Hostname                      Path\n".to_owned()
    } else {
        "   JID  IP Address      Hostname                      Path\n".to_owned()
    };
    for jail in jails {
        let first = jail.ip4.first().map_or("-", String::as_str);
        text += &if by_name {
            format!(" {:<15.15} {first:<15.15} {:<29.29} {:.74}\n", jail.name, jail.hostname, jail.path)
        } else {
            format!("{:>6}  {first:<15.15} {:<29.29} {:.74}\n", jail.jid, jail.hostname, jail.path)
        };
    }
    text
}

fn verbose(jails: &[Running]) -> String {
    let mut text = "   JID  Hostname                      Path\n        Name                          State\n        CPUSetID\n        IP Address(es)\n".to_owned();
    for jail in jails {
        text += &format!("{:>6}  {:<29.29} {:.74}\n", jail.jid, jail.hostname, jail.path);
        text += &format!("        {:<29.29} ACTIVE\n        {}\n", jail.name, jail.cpuset);
        for address in jail.ip4.iter().chain(&jail.ip6) {
            text += &format!("        {address}\n");
        }
    }
    text
}

fn json(jails: &[Running], verbose: bool, pretty: bool) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    if !pretty {
        let one = |jail: &Running| {
            if verbose {
                let list = |addresses: &[String]| addresses.iter().map(|a| quoted(a)).collect::<Vec<_>>().join(",");
                format!(
                    "{{\"jid\":{},\"hostname\":{},\"path\":{},\"name\":{},\"state\":\"ACTIVE\",\"cpusetid\":{},\"ipv4_addrs\":[{}],\"ipv6_addrs\":[{}]}}",
                    jail.jid,
                    quoted(&jail.hostname),
                    quoted(&jail.path),
                    quoted(&jail.name),
                    jail.cpuset,
                    list(&jail.ip4),
                    list(&jail.ip6)
                )
            } else {
                let first = jail.ip4.first().map_or("-", String::as_str);
                format!(
                    "{{\"jid\":{},\"ipv4\":{},\"hostname\":{},\"path\":{}}}",
                    jail.jid,
                    quoted(first),
                    quoted(&jail.hostname),
                    quoted(&jail.path)
                )
            }
        };
        let all: Vec<String> = jails.iter().map(one).collect();
        return format!("{{\"__version\": \"2\", \"jail-information\": {{\"jail\": [{}]}}}}\n", all.join(", "));
    }
    let mut all = Vec::new();
    for jail in jails {
        let mut lines = vec![format!("        \"jid\": {}", jail.jid)];
        if !verbose {
            lines.push(format!("        \"ipv4\": {}", quoted(jail.ip4.first().map_or("-", String::as_str))));
        }
        lines.push(format!("        \"hostname\": {}", quoted(&jail.hostname)));
        lines.push(format!("        \"path\": {}", quoted(&jail.path)));
        if verbose {
            lines.push(format!("        \"name\": {}", quoted(&jail.name)));
            lines.push("        \"state\": \"ACTIVE\"".to_owned());
            lines.push(format!("        \"cpusetid\": {}", jail.cpuset));
            for (key, addresses) in [("ipv4_addrs", &jail.ip4), ("ipv6_addrs", &jail.ip6)] {
                let listed: Vec<String> =
                    addresses.iter().map(|address| format!("          {}", quoted(address))).collect();
                let listed = if listed.is_empty() { String::new() } else { format!("{}\n", listed.join(",\n")) };
                lines.push(format!("        \"{key}\": [\n{listed}        ]"));
            }
        }
        all.push(format!("      {{\n{}\n      }}", lines.join(",\n")));
    }
    let all = if all.is_empty() { String::new() } else { format!("{}\n", all.join(",\n")) };
    format!("{{\n  \"__version\": \"2\", \n  \"jail-information\": {{\n    \"jail\": [\n{all}    ]\n  }}\n}}\n")
}

/// Every parameter of a jail, in the order of `jls -n`: name, value (None for a switch, whose name says it), whether `-s` has it.
fn every(host: &Host, jail: &Running) -> Vec<(String, Option<String>, bool)> {
    let mut all: Vec<(String, Option<String>, bool)> = Vec::new();
    let number = |n: u32| Some(n.to_string());
    let text = |text: &str| Some(text.to_owned());
    let mut add = |name: &str, value: Option<String>, settable: bool| all.push((name.to_owned(), value, settable));
    add("devfs_ruleset", text("0"), true);
    add("nodying", None, false);
    add("enforce_statfs", text("2"), true);
    add("host", text("new"), true);
    add("ip4", text("disable"), true);
    add("ip6", text("disable"), true);
    add("jid", number(jail.jid), true);
    add("name", text(&jail.name), true);
    add("osreldate", text(&host.persona.osreldate), true);
    add("osrelease", text(&host.persona.kernel), true);
    add("parent", text("0"), false);
    add("path", text(&jail.path), true);
    add("nopersist", None, true);
    add("securelevel", Some(host.persona.securelevel.to_string()), true);
    for name in ["sysvmsg", "sysvsem", "sysvshm"] {
        add(name, text("disable"), true);
    }
    add("vnet", text("inherit"), true);
    let switches = "allow.nochflags allow.nomlock allow.nomount allow.mount.nodevfs allow.mount.nonullfs allow.mount.noprocfs \
         allow.mount.notmpfs allow.noquotas allow.noraw_sockets allow.noread_msgbuf allow.reserved_ports allow.set_hostname \
         allow.nosocket_af allow.suser allow.nosysvipc allow.unprivileged_proc_debug";
    for name in switches.split_whitespace() {
        add(name, None, true);
    }
    add("children.cur", text("0"), false);
    add("children.max", text("0"), true);
    add("cpuset.id", number(jail.cpuset), false);
    add("host.domainname", text("\"\""), true);
    add("host.hostid", text("0"), true);
    add("host.hostname", text(&jail.hostname), true);
    add("host.hostuuid", text("00000000-0000-0000-0000-000000000000"), true);
    add("ip4.addr", Some(jail.ip4.join(",")), false);
    add("ip4.saddrsel", None, false);
    add("ip6.addr", Some(jail.ip6.join(",")), false);
    add("ip6.saddrsel", None, false);
    for other in &jail.others {
        let (name, value) = other.split_once('=').map_or((other.as_str(), None), |(n, v)| (n, Some(v.to_owned())));
        let positive = |name: &str| match super::parameters::meaning(name) {
            super::parameters::Meaning::Switch { name, .. } => name,
            _ => name.to_owned(),
        };
        if name == "vnet" || name == "novnet" {
            continue;
        }
        if let Some(known) = all.iter_mut().find(|(known, ..)| positive(known) == positive(name)) {
            (known.0, known.1) = (name.to_owned(), value);
        }
    }
    all
}

fn parameters(host: &Host, asked: &Asked, jails: &[Running]) -> u8 {
    if asked.header && !asked.parameters.is_empty() {
        say::out(&format!("{}\n", asked.parameters.join(" ")));
    }
    for jail in jails {
        let all = every(host, jail);
        let mut shown = Vec::new();
        if asked.parameters.is_empty() || asked.parameters == ["all"] {
            for (name, value, settable) in &all {
                if *settable || !asked.settable {
                    shown.push(value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
                }
            }
        }
        for wanted in asked.parameters.iter().filter(|wanted| *wanted != "all") {
            let Some((name, value, _)) =
                all.iter().find(|(name, ..)| name == wanted || super::parameters::meaning(name) == switch_of(wanted))
            else {
                return say::wrong(&format!("unknown parameter: {wanted}"));
            };
            let plain = value.clone().unwrap_or_else(|| (name == wanted).to_string());
            let plain = if asked.quoted && plain.contains(' ') { format!("\"{plain}\"") } else { plain };
            shown.push(match value {
                Some(_) if asked.named => format!("{name}={plain}"),
                None if asked.named => name.clone(),
                _ => plain,
            });
        }
        say::out(&format!("{}\n", shown.join(" ")));
    }
    0
}

/// What the negative of a switch means.
fn switch_of(wanted: &str) -> super::parameters::Meaning {
    super::parameters::Meaning::Switch { name: wanted.to_owned(), on: false }
}

fn asked(host: &Host, arguments: &[String]) -> Result<Asked, u8> {
    let mut asked = Asked::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let form = match argument.as_str() {
            "--libxo" => rest.next().cloned(),
            argument => argument.strip_prefix("--libxo=").map(str::to_owned),
        };
        if let Some(form) = form {
            if host.persona.major() < 11 {
                return Err(say::illegal('-', USAGE));
            }
            for part in form.split(',') {
                match part {
                    "json" => asked.json = true,
                    "pretty" => asked.pretty = true,
                    "text" => {}
                    part => return Err(say::not_played(&format!("--libxo {part}"))),
                }
            }
            continue;
        }
        let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            asked.parameters.push(argument.clone());
            asked.parameters.extend(rest.cloned());
            break;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            match letter {
                'd' => {}
                'h' => asked.header = true,
                'N' => asked.by_name = true,
                'n' => asked.named = true,
                'q' => asked.quoted = true,
                's' => (asked.settable, asked.named) = (true, true),
                'v' => asked.verbose = true,
                'j' => {
                    let own: String = letters.by_ref().collect();
                    let value = if own.is_empty() { rest.next().cloned() } else { Some(own) };
                    asked.jail = Some(value.ok_or_else(|| {
                        say::err(&format!("jls: option requires an argument -- j\n{USAGE}"));
                        1
                    })?);
                }
                letter => return Err(say::illegal(letter, USAGE)),
            }
        }
    }
    Ok(asked)
}
