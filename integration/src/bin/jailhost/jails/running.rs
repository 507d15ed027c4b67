//! The running jails: a file `jails/NAME` of the state each, lines `key = value`.

use crate::host::Host;

/// A running jail.
#[derive(Debug, Clone, Default)]
pub struct Running {
    /// Its number, never used twice.
    pub jid: u32,
    /// Its name.
    pub name: String,
    /// What jls shows: the jail's own rc.conf overrides `host.hostname`.
    pub hostname: String,
    /// Its directory.
    pub path: String,
    /// Its cpuset's number.
    pub cpuset: u32,
    /// `ip4.addr` without interfaces and masks.
    pub ip4: Vec<String>,
    /// `ip6.addr` likewise.
    pub ip6: Vec<String>,
    /// The aliases that go when it goes: `INTERFACE|ADDRESS/PREFIX`.
    pub aliases: Vec<String>,
    /// Where devfs is mounted for it, if it is.
    pub devfs: bool,
    /// What it was told to run, for a jail whose processes are only noted.
    pub commands: Vec<String>,
    /// Other parameters that jls shows: `name=value`, or a switch.
    pub others: Vec<String>,
}

impl Running {
    fn text(&self) -> String {
        let mut text = format!(
            "jid = {}\nhostname = {}\npath = {}\ncpuset = {}\ndevfs = {}\n",
            self.jid, self.hostname, self.path, self.cpuset, self.devfs
        );
        let lists = [
            ("ip4", &self.ip4),
            ("ip6", &self.ip6),
            ("alias", &self.aliases),
            ("command", &self.commands),
            ("other", &self.others),
        ];
        for (key, values) in lists {
            for value in values {
                text += &format!("{key} = {value}\n");
            }
        }
        text
    }

    fn parse(name: &str, text: &str) -> Self {
        let mut jail = Self { name: name.to_owned(), ..Self::default() };
        for (key, value) in text.lines().filter_map(|line| line.split_once(" = ")) {
            let value = value.to_owned();
            match key {
                "jid" => jail.jid = value.parse().unwrap_or_default(),
                "hostname" => jail.hostname = value,
                "path" => jail.path = value,
                "cpuset" => jail.cpuset = value.parse().unwrap_or_default(),
                "devfs" => jail.devfs = value == "true",
                "ip4" => jail.ip4.push(value),
                "ip6" => jail.ip6.push(value),
                "alias" => jail.aliases.push(value),
                "command" => jail.commands.push(value),
                "other" => jail.others.push(value),
                _ => {}
            }
        }
        jail
    }

    /// Writes it down.
    pub fn keep(&self, host: &Host) {
        host.write_state(&format!("jails/{}", self.name), &self.text());
    }

    /// It runs no more.
    pub fn forget(&self, host: &Host) {
        host.remove_state(&format!("jails/{}", self.name));
    }
}

/// All of them, by number.
pub fn all(host: &Host) -> Vec<Running> {
    let Ok(entries) = std::fs::read_dir(host.of_state("jails")) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut jails: Vec<Running> = names
        .filter(|name| !name.contains(".new"))
        .map(|name| Running::parse(&name, &host.state_text(&format!("jails/{name}"))))
        .collect();
    jails.sort_by_key(|jail| jail.jid);
    jails
}

/// One by its name or number.
pub fn find(host: &Host, wanted: &str) -> Option<Running> {
    all(host).into_iter().find(|jail| jail.name == wanted || jail.jid.to_string() == wanted)
}

/// The next number, of jails and of cpusets.
pub fn next(host: &Host, counter: &str, first: u32) -> u32 {
    let next = host.state_text(counter).trim().parse().unwrap_or(first);
    host.write_state(counter, &format!("{}\n", next + 1));
    next
}
