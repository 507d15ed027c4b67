//! The parameters that jail(8) of 13.2 knows. Any other is an error.

/// Those with a value.
const VALUES: &[&str] = &[
    "children.max",
    "command",
    "cpuset.id",
    "depend",
    "devfs_ruleset",
    "enforce_statfs",
    "exec.consolelog",
    "exec.created",
    "exec.fib",
    "exec.jail_user",
    "exec.poststart",
    "exec.poststop",
    "exec.prepare",
    "exec.prestart",
    "exec.prestop",
    "exec.release",
    "exec.start",
    "exec.stop",
    "exec.system_user",
    "exec.timeout",
    "host",
    "host.domainname",
    "host.hostid",
    "host.hostname",
    "host.hostuuid",
    "interface",
    "ip4",
    "ip4.addr",
    "ip6",
    "ip6.addr",
    "jid",
    "mount",
    "mount.fstab",
    "name",
    "osreldate",
    "osrelease",
    "path",
    "securelevel",
    "stop.timeout",
    "sysvmsg",
    "sysvsem",
    "sysvshm",
    "vnet.interface",
];

/// Those that are or are not, `no` before their last part.
const SWITCHES: &[&str] = &[
    "allow.chflags",
    "allow.dying",
    "allow.mlock",
    "allow.mount",
    "allow.mount.devfs",
    "allow.mount.fdescfs",
    "allow.mount.fusefs",
    "allow.mount.linprocfs",
    "allow.mount.linsysfs",
    "allow.mount.nullfs",
    "allow.mount.procfs",
    "allow.mount.tmpfs",
    "allow.mount.zfs",
    "allow.nfsd",
    "allow.quotas",
    "allow.raw_sockets",
    "allow.read_msgbuf",
    "allow.reserved_ports",
    "allow.set_hostname",
    "allow.socket_af",
    "allow.suser",
    "allow.sysvipc",
    "allow.unprivileged_proc_debug",
    "allow.vmm",
    "exec.clean",
    "exec.system_jail_user",
    "ip4.saddrsel",
    "ip6.saddrsel",
    "ip_hostname",
    "mount.devfs",
    "mount.fdescfs",
    "mount.procfs",
    "persist",
    "vnet",
];

/// What a name in a configuration stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A parameter with a value.
    Value,
    /// A parameter that is switched on by its name and off by its name with `no`; `vnet` also takes a value.
    Switch { name: String, on: bool },
    /// A name that jail(8) does not have.
    Unknown,
}

/// Looks a name up.
pub fn meaning(name: &str) -> Meaning {
    if VALUES.contains(&name) {
        return Meaning::Value;
    }
    if SWITCHES.contains(&name) {
        return Meaning::Switch { name: name.to_owned(), on: true };
    }
    let at = name.rfind('.').map_or(0, |dot| dot + 1);
    if let Some(rest) = name[at..].strip_prefix("no") {
        let positive = format!("{}{rest}", &name[..at]);
        if SWITCHES.contains(&positive.as_str()) {
            return Meaning::Switch { name: positive, on: false };
        }
    }
    Meaning::Unknown
}

/// A switch as a configuration names it.
pub fn switch(name: &str, on: bool) -> String {
    let at = name.rfind('.').map_or(0, |dot| dot + 1);
    if on { name.to_owned() } else { format!("{}no{}", &name[..at], &name[at..]) }
}

#[cfg(test)]
mod tests {
    use super::{Meaning, meaning, switch};

    #[test]
    fn switches_are_turned_off_by_a_no_in_their_last_part() {
        assert_eq!(meaning("mount.nodevfs"), Meaning::Switch { name: "mount.devfs".to_owned(), on: false });
        assert_eq!(meaning("nopersist"), Meaning::Switch { name: "persist".to_owned(), on: false });
        assert_eq!(meaning("notes"), Meaning::Unknown);
        assert_eq!(switch("allow.chflags", false), "allow.nochflags");
    }
}
