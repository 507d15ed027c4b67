//! The `jail_NAME_…` variables of rc.conf(5), as `rc.d/jail` turns them into a jail.conf(5). Unproven: written from the
//! script's description, no recording has one.

use crate::tools::rcconf::RcConf;

/// The configuration that `rc.d/jail` writes for a jail of rc.conf; none unless both `_rootdir` and `_hostname` are set.
pub fn conf(rc: &RcConf, name: &str) -> Option<String> {
    let safe = name.replace(['/', '.', '-'], "_");
    let own = |key: &str| rc.get(&format!("jail_{safe}_{key}")).filter(|value| !value.is_empty());
    let either = |key: &str| own(key).or_else(|| rc.get(&format!("jail_{key}")).filter(|value| !value.is_empty()));
    let (rootdir, hostname) = (own("rootdir")?, own("hostname")?);
    let yes =
        |value: Option<String>| value.is_some_and(|v| ["yes", "true", "on", "1"].contains(&v.to_lowercase().as_str()));
    let mut text = format!("{name} {{\n\thost.hostname = \"{hostname}\";\n\tpath = \"{rootdir}\";\n");
    let mut line = |key: &str, value: &str| text += &format!("\t{key} += \"{value}\";\n");
    let interface = either("interface");
    let mut addresses: Vec<String> =
        own("ip").map(|list| list.split(',').map(str::to_owned).collect()).unwrap_or_default();
    for number in 0.. {
        match own(&format!("ip_multi{number}")) {
            Some(address) => addresses.push(address),
            None => break,
        }
    }
    for address in addresses.iter().map(|address| address.trim()) {
        let key = if address.rsplit('|').next().is_some_and(|a| a.contains(':')) { "ip6.addr" } else { "ip4.addr" };
        match &interface {
            Some(interface) if !address.contains('|') => line(key, &format!("{interface}|{address}")),
            _ => line(key, address),
        }
    }
    line("exec.start", &either("exec_start").unwrap_or_else(|| "/bin/sh /etc/rc".to_owned()));
    line("exec.stop", &either("exec_stop").unwrap_or_else(|| "/bin/sh /etc/rc.shutdown".to_owned()));
    for (key, parameter) in [
        ("exec_prestart", "exec.prestart"),
        ("exec_poststart", "exec.poststart"),
        ("exec_prestop", "exec.prestop"),
        ("exec_poststop", "exec.poststop"),
    ] {
        if let Some(command) = either(&format!("{key}0")) {
            line(parameter, &command);
        }
    }
    if yes(either("devfs_enable")) {
        text += "\tmount.devfs;\n";
    }
    if yes(either("mount_enable")) {
        text += &format!("\tmount.fstab = \"{}\";\n", either("fstab").unwrap_or_else(|| format!("/etc/fstab.{name}")));
    }
    if let Some(parameters) = either("parameters") {
        for parameter in parameters.split_whitespace() {
            text += &format!("\t{parameter};\n");
        }
    }
    text += "\texec.clean;\n}\n";
    Some(text)
}
