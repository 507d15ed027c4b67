//! Jails as rc.d/jail finds them: `jail_list`, the file of each, and the old way of `jail_NAME_…` variables, which rc.d/jail turns
//! into a jail.conf(5) of its own at each start and calls obsolete. Pure.
//!
//! The old way counts for a jail as soon as both its `rootdir` and its `hostname` are set; whatever a jail.conf says of it is not
//! read then. [`Rc::generated`] writes what rc.d/jail would, so that both ways are read by one reader afterwards.

use super::super::wrong::{Place, Wrong};
use super::{Rc, Value, is_yes};

/// Default of `jail_conf`.
const JAIL_CONF: &str = "/etc/jail.conf";
/// What rc.d/jail waits for duplicate address detection with the kernel's default of `net.inet6.ip6.dad_count`, 1.
const DAD_WAIT: &str = "sleep 2";

/// A jail's name as rc.d/jail gives it to jail(8): dots and slashes become underscores.
pub fn jail_name(word: &str) -> String {
    word.replace(['.', '/'], "_")
}

/// The part of a variable's name that stands for a jail.
pub(super) fn part(jail: &str) -> String {
    jail.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

impl Rc {
    /// The jails of `jail_list`, in order; `None`: rc.d/jail starts all that `jail_conf` defines.
    pub fn jail_list(&self) -> Result<Option<Vec<String>>, Wrong> {
        self.plain("jail_list")?;
        let words: Vec<String> = self.words("jail_list").iter().map(|word| jail_name(word)).collect();
        Ok((!words.is_empty()).then_some(words))
    }

    /// Whether jails start with the host.
    pub fn jail_enable(&self) -> Result<bool, Wrong> {
        Ok(self.plain("jail_enable")?.is_some_and(|value| is_yes(&value)))
    }

    /// Files that may define a jail, the first that is there counts: rc.d/jail's order. Older hosts do not look into
    /// /etc/jail.conf.d.
    pub fn jail_files(&self, jail: &str) -> Result<Vec<String>, Wrong> {
        let own = self.plain(&format!("jail_{}_conf", part(jail)))?;
        let shared = self.plain("jail_conf")?.unwrap_or_else(|| JAIL_CONF.to_owned());
        Ok(vec![
            own.unwrap_or_else(|| format!("/etc/jail.{jail}.conf")),
            format!("/etc/jail.conf.d/{jail}.conf"),
            shared,
        ])
    }

    /// The variables of one jail, in the order of the file; those of another jail, of `jail_list` or with a root of its own, whose
    /// name only begins like it are not among them.
    pub fn jail_variables(&self, jail: &str) -> Result<Vec<&str>, Wrong> {
        let own = format!("jail_{}_", part(jail));
        let others = self.longer(jail)?;
        let mut found: Vec<&str> = Vec::new();
        for name in self.assigns().map(|assign| assign.name.as_str()) {
            let is_other = others.iter().any(|other| name.starts_with(other));
            if name.starts_with(&own) && !is_other && !found.contains(&name) {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// Whether a jail is defined the old way.
    pub fn is_old_style(&self, jail: &str) -> Result<bool, Wrong> {
        let set = |name: &str| Ok::<_, Wrong>(self.plain(&format!("jail_{}_{name}", part(jail)))?.is_some());
        Ok(set("rootdir")? && set("hostname")?)
    }

    /// The jail.conf(5) that rc.d/jail makes of a jail's variables; `None` if it is not defined the old way. `fstab`: whether a
    /// file is there, which is then mounted by.
    pub fn generated(&self, jail: &str, fstab: &dyn Fn(&str) -> bool) -> Result<Option<String>, Wrong> {
        if !self.is_old_style(jail)? {
            return Ok(None);
        }
        let old = Old { rc: self, part: part(jail) };
        let mut out = format!("{jail} {{\n");
        let mut line = |text: &str| {
            out.push('\t');
            out.push_str(text);
            out.push_str(";\n");
        };
        for (variable, name) in [("hostname", "host.hostname"), ("rootdir", "path")] {
            if let Some(value) = old.either(variable)? {
                line(&format!("{name} = \"{value}\""));
            }
        }
        match old.own("ip")? {
            Some(ip) => {
                let interface = old.either("interface")?;
                if let Some(interface) = &interface {
                    line(&format!("interface = \"{interface}\""));
                }
                let mut wait = false;
                for words in std::iter::once(ip).chain(old.numbered_own("ip_multi")?) {
                    for address in words.split(',').map(str::trim_ascii).filter(|word| !word.is_empty()) {
                        let Some((family, value)) = address_of(address, interface.as_deref()) else { continue };
                        wait |= family == 6;
                        line(&format!("ip{family}.addr += \"{value}\""));
                    }
                }
                if wait {
                    line(&format!("exec.start += \"{DAD_WAIT}\""));
                }
                if let Some(fib) = old.either("fib")? {
                    line(&format!("exec.fib = \"{fib}\""));
                }
                let only = old.yes("socket_unixiproute_only", true)?;
                line(&format!("allow.raw_sockets = {}", u8::from(!only)));
            }
            None => {
                line("vnet");
                let interfaces = old.either("vnet_interface")?.unwrap_or_default();
                let quoted: Vec<String> =
                    interfaces.split_ascii_whitespace().map(|name| format!("\"{name}\"")).collect();
                if !quoted.is_empty() {
                    line(&format!("vnet.interface = {}", quoted.join(", ")));
                }
            }
        }
        line("exec.clean");
        line("exec.system_user = \"root\"");
        line("exec.jail_user = \"root\"");
        for name in ["prestart", "poststart", "prestop", "poststop"] {
            for command in old.numbered(&format!("exec_{name}"))? {
                line(&format!("exec.{name} += \"{command}\""));
            }
        }
        let (start, stop) = old.commands()?;
        line(&format!("exec.start += \"{start}\""));
        for command in old.numbered("exec_afterstart")? {
            line(&format!("exec.start += \"{command}\""));
        }
        line(&format!("exec.stop = \"{stop}\""));
        let log = old.either("consolelog")?.unwrap_or_else(|| format!("/var/log/jail_{jail}_console.log"));
        line(&format!("exec.consolelog = \"{log}\""));
        let table = old.either("fstab")?.unwrap_or_else(|| format!("/etc/fstab.{jail}"));
        if fstab(&table) {
            line(&format!("mount.fstab = \"{table}\""));
        }
        if old.yes("devfs_enable", false)? {
            line("mount.devfs");
            if let Some(ruleset) =
                old.either("devfs_ruleset")?.filter(|set| set.starts_with(|c: char| c.is_ascii_digit()))
            {
                line(&format!("devfs_ruleset = \"{ruleset}\""));
            }
        }
        for (variable, name) in
            [("fdescfs_enable", "mount.fdescfs"), ("procfs_enable", "mount.procfs"), ("mount_enable", "allow.mount")]
        {
            if old.yes(variable, false)? {
                line(name);
            }
        }
        for (variable, name) in [("set_hostname_allow", "allow.set_hostname"), ("sysvipc_allow", "allow.sysvipc")] {
            line(&format!("{name} = {}", u8::from(old.yes(variable, false)?)));
        }
        line(&format!("enforce_statfs = \"{}\"", old.either("enforce_statfs")?.unwrap_or_else(|| "2".to_owned())));
        for name in ["osreldate", "osrelease"] {
            if let Some(value) = old.either(name)? {
                line(&format!("{name} = \"{value}\""));
            }
        }
        for word in old.either("parameters")?.unwrap_or_default().split_ascii_whitespace() {
            line(word.strip_suffix(';').unwrap_or(word));
        }
        out.push_str("}\n");
        Ok(Some(out))
    }

    /// A variable that is set and not empty; an error if only sh can tell.
    fn plain(&self, name: &str) -> Result<Option<String>, Wrong> {
        match self.value(name) {
            Value::Unknown(place) => Err(unknown(place, name)),
            known => Ok(known.text().map(str::to_owned)),
        }
    }
}

fn unknown(place: Place, name: &str) -> Wrong {
    Wrong::new(place, format!("{name} is set by code here, which is not evaluated")).help("write the value out")
}

/// The variables of one jail.
struct Old<'r> {
    rc: &'r Rc,
    part: String,
}

impl Old<'_> {
    fn own(&self, name: &str) -> Result<Option<String>, Wrong> {
        self.rc.plain(&format!("jail_{}_{name}", self.part))
    }

    /// The jail's variable, or else that of all jails.
    fn either(&self, name: &str) -> Result<Option<String>, Wrong> {
        match self.own(name)? {
            None => self.rc.plain(&format!("jail_{name}")),
            own => Ok(own),
        }
    }

    fn yes(&self, name: &str, default: bool) -> Result<bool, Wrong> {
        Ok(self.either(name)?.map_or(default, |value| is_yes(&value)))
    }

    /// `NAME0`, `NAME1` … up to the first that is missing; 0 may be.
    fn numbered(&self, name: &str) -> Result<Vec<String>, Wrong> {
        let mut found = Vec::new();
        for number in 0.. {
            match self.either(&format!("{name}{number}"))? {
                Some(value) => found.push(value),
                None if number > 0 => break,
                None => {}
            }
        }
        Ok(found)
    }

    /// The same of the jail's own, where 0 may not be missing.
    fn numbered_own(&self, name: &str) -> Result<Vec<String>, Wrong> {
        let mut found = Vec::new();
        while let Some(value) = self.own(&format!("{name}{}", found.len()))? {
            found.push(value);
        }
        Ok(found)
    }

    /// What starts and what stops it.
    fn commands(&self) -> Result<(String, String), Wrong> {
        if let Some(exec) = self.own("exec")? {
            return Ok((exec, String::new()));
        }
        let stop = self.own("exec_stop")?;
        Ok(match self.own("exec_start")? {
            Some(start) => (start, stop.unwrap_or_default()),
            None => ("/bin/sh /etc/rc".to_owned(), stop.unwrap_or_else(|| "/bin/sh /etc/rc.shutdown jail".to_owned())),
        })
    }
}

/// An address of `ip` or `ip_multiN` as it goes into `ip4.addr` or `ip6.addr`, and its family.
fn address_of(word: &str, default: Option<&str>) -> Option<(u8, String)> {
    let (interface, rest) = match word.rsplit_once('|') {
        Some((before, rest)) => (before.split('|').next(), rest),
        None => (None, word),
    };
    let interface = interface.filter(|name| !name.is_empty()).or(default);
    let end = rest.find(['/', ' ']).unwrap_or(rest.len());
    let (ip, mask) = rest.split_at(end);
    let family = if ip.matches('.').count() >= 3 { 4 } else { 6 };
    if family == 6 && !ip.contains(':') {
        return None;
    }
    let netmask = mask.strip_prefix('/').filter(|mask| family == 4 && mask.matches('.').count() >= 3);
    let mask = match (netmask, mask) {
        (Some(netmask), _) => format!(" netmask {netmask}"),
        (None, "") => if family == 4 { "/32" } else { "/128" }.to_owned(),
        (None, mask) => mask.to_owned(),
    };
    Some((family, format!("{}{ip}{mask}", interface.map(|name| format!("{name}|")).unwrap_or_default())))
}
