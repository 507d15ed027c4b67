//! What a shell, a path or a terminal would act upon, in every string of an inventory, found by walking a text that has every
//! key: each is refused with its key, or comes out as one string.

use std::collections::BTreeMap;

use toml::Value;

use super::load::parse_text;
use super::read::key_word;

/// Keys that the reference example does not have; with it, all of them.
const MORE: &str = r#"
[hosts.far]
hypervisor = "libvirt"
uri = "xen+ssh://far/system"
ssh = { address = "far.example", user = "adm", key = "/root/key", port = 22 }
links = { xenbr0 = "eth1" }
[hosts.sky]
hypervisor = "vsphere"
url = "https://vcenter.example"
thumbprint = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
credentials = { command = ["pass", "vc"] }
[hosts.toy]
hypervisor = "sim"
state = "/tmp/world"
part = "second"
[guests.all]
host = "far"
runs_on = "toy"
tags = ["a", "b"]
kernel = "host"
disks.xvda1 = { rule = "clone", volume = "/dev/vg/all", copy = "/dev/etherd/{run}" }
upgrade = { recipe = "script", run = ["/bin/upgrade", "now"], reboot_timeout = "5m" }
carry = [{ kind = "rsync", path = "/home/", exclude = ["*.tmp"] }]
checks = [
  { kind = "http", name = "site", path = "/x", host = "www.example", contains = "hello", deadline = "20s" },
  { kind = "https", tls = "any" },
  { kind = "dns", query = "example.org", record = "MX", expect = ["10 mail.example.org"] },
  { kind = "imap", login = { user = "probe", password_file = "/etc/probe" }, mailbox = "INBOX.x", tls = "strict", messages = "any" },
  { kind = "smtp", rcpt = "probe@example.org" },
  { kind = "command", name = "c", run = ["/usr/bin/true", "x"], contains = "ok" },
  { kind = "units", ignore = ["x.service"] },
  { kind = "kernel", modules = ["xen"] },
]
[guests.all.clone]
hostname = "saturne"
mac = "00:16:3e:00:05:70"
network = "fenced"
allow = ["10.0.6.0/24:53", "db.example"]
ip = ["eth0=.16"]
interface = "em0"
[guests.all.source]
ssh = { address = "server.example" }
prune = ["usr/src", "kernel*"]
[[guests.all.hooks]]
name = "export"
at = "volumes"
on = "host"
run = ["/bin/export", "{run}"]
undo = ["/bin/unexport", "{run}"]
timeout = "30s"
"#;

/// With what it is made of, for messages.
const HOSTILE: [&str; 12] = [
    "$(touch canary)",
    "`touch canary`",
    "x; touch canary",
    "x && touch canary",
    "x\ntouch canary",
    "'\"",
    "-rf",
    "--rsh=touch canary",
    "../../etc/passwd",
    "a\0b",
    "\u{1b}[2J",
    "\u{202e}x",
];

/// Keys whose values become names of things, options of tools or parts of paths: none of these passes.
const NAMES: [&str; 16] = [
    "ssh.user",
    "ssh.address",
    "host",
    "runs_on",
    "hostname",
    "mac",
    "ip[0]",
    "allow[0]",
    "off[0]",
    "while_verifying[0]",
    "to",
    "recipe",
    "url",
    "thumbprint",
    "part",
    "parking",
];

/// Every string of a value, with its key as messages have it.
fn leaves(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(key.to_owned()),
        Value::Array(all) => {
            for (index, value) in all.iter().enumerate() {
                leaves(value, &format!("{key}[{index}]"), found);
            }
        }
        Value::Table(all) => {
            for (name, value) in all {
                let name = key_word(name);
                leaves(value, &if key.is_empty() { name } else { format!("{key}.{name}") }, found);
            }
        }
        _ => {}
    }
}

/// The value at a key.
fn at<'v>(value: &'v mut Value, key: &str) -> &'v mut Value {
    let mut place = value;
    for part in key.split('.') {
        let (name, indices) = part.split_once('[').unwrap_or((part, ""));
        place = place.get_mut(name.trim_matches('"')).unwrap();
        for index in indices.split('[').filter(|index| !index.is_empty()) {
            place = place.get_mut(index.trim_end_matches(']').parse::<usize>().unwrap()).unwrap();
        }
    }
    place
}

/// Every string of the model.
fn strings(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => found.push(text.clone()),
        serde_json::Value::Array(all) => all.iter().for_each(|value| strings(value, found)),
        serde_json::Value::Object(all) => all.iter().for_each(|(key, value)| {
            found.push(key.clone());
            strings(value, found);
        }),
        _ => {}
    }
}

#[test]
fn every_string_is_refused_by_its_key_or_stays_one_string() {
    let example = include_str!("../../tests/fixtures/inventory/example.toml");
    let mut whole: Value = toml::from_str::<toml::Table>(&format!("{example}{MORE}")).unwrap().into();
    assert!(
        parse_text(&toml::to_string(&whole).unwrap()).is_ok(),
        "{}",
        parse_text(&toml::to_string(&whole).unwrap()).unwrap_err()
    );
    let mut keys = Vec::new();
    leaves(&whole, "", &mut keys);
    assert!(keys.len() > 100, "{}", keys.len());
    let mut passed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for key in &keys {
        let sound = at(&mut whole, key).clone();
        for hostile in HOSTILE {
            // A path stays one, so that not its form alone is refused.
            let text = match sound.as_str() {
                Some(path) if path.starts_with('/') => format!("/{hostile}"),
                _ => hostile.to_owned(),
            };
            *at(&mut whole, key) = Value::String(text.clone());
            match parse_text(&toml::to_string(&whole).unwrap()) {
                Err(error) => {
                    let said = error.to_string();
                    assert!(said.contains(key.as_str()), "{key} = {text:?} is refused without its key:\n{said}");
                    let hidden = |c| hypervisors::host::is_hidden(c) && c != '\n';
                    assert!(!said.contains(hidden), "{key} = {text:?} is shown as it is: {said:?}");
                }
                Ok(inventory) => {
                    let mut found = Vec::new();
                    strings(&serde_json::to_value(&inventory).unwrap(), &mut found);
                    assert!(found.contains(&text), "{key} = {text:?} is neither refused nor there");
                    assert!(!text.contains('\0'), "{key} takes a NUL");
                    passed.entry(key).or_default().push(hostile);
                }
            }
        }
        *at(&mut whole, key) = sound;
    }
    for (key, hostile) in &passed {
        let name = !key.contains(".checks[") && NAMES.iter().any(|name| key.ends_with(&format!(".{name}")));
        assert!(!name, "{key} takes {hostile:?}");
    }
    // Words of commands take everything but a NUL.
    assert_eq!(passed["guests.all.hooks[0].run[1]"].len(), HOSTILE.len() - 1);
}

#[test]
fn names_of_hosts_guests_and_disks_are_refused_with_their_place() {
    for hostile in HOSTILE {
        let name = serde_json::to_string(hostile).unwrap();
        for text in [
            format!("version = 1\n[hosts]\n{name} = {{ hypervisor = \"sim\" }}\n"),
            format!("version = 1\n[hosts.a]\nhypervisor = \"sim\"\n[guests.{name}]\nhost = \"a\"\n"),
        ] {
            // TOML itself refuses some of these.
            let said = parse_text(&text).unwrap_err().to_string();
            assert!(said.contains("inventory.toml:"), "{hostile:?}: {said}");
            assert!(!said.contains(|c| hypervisors::host::is_hidden(c) && c != '\n'), "{said:?}");
        }
    }
}
