//! `ss` and `ip`.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Inside, fail, out};
use crate::host::Output;
use crate::sim::rules::{self, Rule};
use crate::sim::{addresses, services};

impl Inside<'_> {
    /// Listening sockets of the running services.
    pub(super) fn ss(&self, args: &[&str]) -> Output {
        let has = |short: char, long: &str| {
            args.iter().any(|word| *word == long || (!word.starts_with("--") && word.contains(short)))
        };
        // With both protocols, ss(8) puts the protocol into a column of its own.
        let netid = if has('u', "--udp") && has('t', "--tcp") { "tcp " } else { "" };
        let mut text = String::new();
        if has('t', "--tcp") || !has('u', "--udp") {
            for (port, unit) in services::listening(&self.runtime.units) {
                let name = unit.trim_end_matches(".service");
                let users = format!("users:((\"{name}\",pid={},fd=3))", pid(unit));
                let users = if has('p', "--processes") { users } else { String::new() };
                text += &format!("{netid}LISTEN 0 128 0.0.0.0:{port} 0.0.0.0:* {users}\n");
            }
        }
        out(text)
    }

    /// `ps -e -o pid=,unit=`.
    pub(super) fn ps(&self) -> Output {
        let line = |unit: &String| format!("{:>7} {unit}\n", pid(unit));
        out(format!("      1 init.scope\n{}", self.runtime.units.iter().map(line).collect::<String>()))
    }

    /// `printenv SSH_CONNECTION`, as sshd(8) sets it.
    pub(super) fn printenv(&self, args: &[&str]) -> Output {
        let (["SSH_CONNECTION"], Some(from), Some((to, _))) =
            (args, self.config.addresses.first(), self.runtime.nics.iter().find_map(|nic| nic.addresses.first()))
        else {
            return fail(1, "");
        };
        out(format!("{from} 40022 {to} 22\n"))
    }

    /// Whether answers to the controller leave the guest.
    pub fn answers_controller(&self) -> bool {
        let to = self.config.addresses.first().map(|own| SocketAddr::new(*own, 40_022));
        to.is_none_or(|to| rules::let_out(&self.runtime.rules, 0, "tcp", to))
    }

    /// `ip rule`: show, add, del by preference, help.
    fn rule(&mut self, ipv6: bool, args: &[&str]) -> Output {
        match args {
            [] | ["show"] => {
                let own = "32766:\tfrom all lookup main\n32767:\tfrom all lookup default\n";
                let mut rules: Vec<&Rule> = self.runtime.rules.iter().filter(|rule| rule.ipv6() == ipv6).collect();
                rules.sort_by_key(|rule| rule.pref());
                let ours: String = rules.into_iter().map(Rule::shown).collect();
                out(format!("0:\tfrom all lookup local\n{ours}{own}"))
            }
            ["add", words @ ..] => match Rule::parse(ipv6, words) {
                Ok(rule) if self.runtime.rules.contains(&rule) => fail(2, "RTNETLINK answers: File exists"),
                Ok(rule) => {
                    self.runtime.rules.push(rule);
                    out("")
                }
                Err(why) => fail(255, why),
            },
            ["del", "pref", pref] => {
                let pref = pref.parse().unwrap_or_default();
                match self.runtime.rules.iter().position(|rule| rule.is(ipv6, pref)) {
                    Some(at) => {
                        self.runtime.rules.remove(at);
                        out("")
                    }
                    None => fail(2, "RTNETLINK answers: No such file or directory"),
                }
            }
            ["help"] => fail(
                255,
                "Usage: ip rule { add | del } SELECTOR ACTION\n            [ ipproto PROTOCOL ] [ dport NUMBER ] [ uidrange NUMBER-NUMBER ]",
            ),
            _ => fail(255, "ip rule: not understood in the simulated world"),
        }
    }

    /// `ip -j addr show`, `ip -j route show`, `ip route get ADDRESS`, `ip [-4|-6] rule …`; changes of routes are accepted
    /// and traced.
    pub(super) fn ip(&mut self, args: &[&str]) -> Output {
        match args {
            ["rule", rest @ ..] | ["-4", "rule", rest @ ..] => return self.rule(false, rest),
            ["-6", "rule", rest @ ..] => return self.rule(true, rest),
            _ => {}
        }
        if ["add", "replace", "del", "flush"].iter().any(|verb| args.contains(verb)) {
            return out("");
        }
        if let ["route", "get", address] = args {
            let Some(nic) = self.runtime.nics.first() else {
                return fail(2, "RTNETLINK answers: Network is unreachable");
            };
            let own = nic.addresses.first().map_or_else(String::new, |(ip, _)| format!(" src {ip}"));
            return out(format!("{address} dev {}{own} uid 0 \n    cache \n", nic.name));
        }
        if !args.contains(&"-j") {
            return fail(1, "ip: only -j is understood in the simulated world");
        }
        if args.contains(&"addr") || args.contains(&"address") || args.contains(&"a") {
            return out(self.addresses().to_string() + "\n");
        }
        if args.contains(&"route") || args.contains(&"r") {
            let route = |c: addresses::Configured| {
                c.gateway.map(|gateway| json!({"dst": "default", "gateway": gateway, "dev": c.name, "flags": []}))
            };
            let routes: Vec<Value> = addresses::read(&self.root()).into_iter().filter_map(route).collect();
            return out(Value::from(routes).to_string() + "\n");
        }
        fail(1, "ip: not understood in the simulated world")
    }

    fn addresses(&self) -> Value {
        let mut links = vec![json!({
            "ifindex": 1, "ifname": "lo", "flags": ["LOOPBACK", "UP", "LOWER_UP"], "mtu": 65536, "operstate": "UNKNOWN",
            "link_type": "loopback", "address": "00:00:00:00:00:00",
            "addr_info": [{"family": "inet", "local": "127.0.0.1", "prefixlen": 8, "scope": "host", "label": "lo"}],
        })];
        for (index, nic) in self.runtime.nics.iter().enumerate() {
            let info = |(ip, prefix): &(std::net::IpAddr, u8)| {
                let family = if ip.is_ipv4() { "inet" } else { "inet6" };
                json!({"family": family, "local": ip, "prefixlen": prefix, "scope": "global", "label": nic.name})
            };
            links.push(json!({
                "ifindex": index + 2, "ifname": nic.name, "flags": ["BROADCAST", "MULTICAST", "UP", "LOWER_UP"],
                "mtu": 1500, "operstate": "UP", "link_type": "ether", "address": nic.mac,
                "addr_info": nic.addresses.iter().map(info).collect::<Vec<_>>(),
            }));
        }
        Value::from(links)
    }
}

/// A number for a service's main process, always the same.
fn pid(unit: &str) -> u32 {
    unit.bytes().fold(100, |sum, byte| (sum * 7 + u32::from(byte)) % 30_000 + 100)
}
