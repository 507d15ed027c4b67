//! The lab's network: a bridge, and NAT so that its guests reach the package mirror.
//!
//! Invariant: every iptables rule bears the lab's comment, and only such rules are removed. `ip_forward` belongs to all
//! labs together: [`super::register`].

use std::path::Path;

use anyhow::Result;

use super::Lab;
use crate::command::run;

/// Makes the bridge and the rules.
///
/// # Errors
/// As `ip` and `iptables`.
pub fn up(lab: &Lab) -> Result<()> {
    let (bridge, comment) = (lab.bridge(), lab.comment());
    let net = format!("{}/24", lab.address(0));
    run("ip").args(["link", "add", &bridge, "type", "bridge"]).output()?;
    run("ip").args(["address", "add", &format!("{}/24", lab.address(1)), "dev", &bridge]).output()?;
    run("ip").args(["link", "set", &bridge, "up"]).output()?;
    let mark = ["-m", "comment", "--comment", &comment];
    let iptables = |rule: &[&str]| run("iptables").arg("--wait").args(rule).args(mark).output();
    // First in FORWARD: a firewall of the machine (docker's, say) may drop what it does not know.
    iptables(&["-t", "nat", "-A", "POSTROUTING", "-s", &net, "!", "-o", &bridge, "-j", "MASQUERADE"])?;
    iptables(&["-I", "FORWARD", "-i", &bridge, "-j", "ACCEPT"])?;
    iptables(&["-I", "FORWARD", "-o", &bridge, "-j", "ACCEPT"])?;
    Ok(())
}

/// Removes the bridge, what hangs on it, and the rules.
///
/// # Errors
/// As `ip` and `iptables`.
pub fn down(lab: &Lab) -> Result<()> {
    let bridge = lab.bridge();
    if bridge_exists(lab) {
        let ports = run("ip").args(["-oneline", "link", "show", "master", &bridge]).output()?;
        for port in ports.lines().filter_map(|line| line.split([' ', '@', ':']).nth(2)) {
            // A dying guest takes its port along; it may be gone by now.
            run("ip").args(["link", "delete", port]).succeeds();
        }
        run("ip").args(["link", "delete", &bridge]).output()?;
    }
    for (table, rule) in rules(lab)? {
        let words = rule.split(' ').map(|word| word.trim_matches('"')).skip(1);
        run("iptables").args(["--wait", "-t", table, "-D"]).args(words).output()?;
    }
    Ok(())
}

/// Whether the lab's bridge is there.
pub fn bridge_exists(lab: &Lab) -> bool {
    Path::new("/sys/class/net").join(lab.bridge()).exists()
}

/// The rules with the lab's comment: table, and the rule as `iptables -S` prints it.
///
/// # Errors
/// As `iptables -S`.
pub fn rules(lab: &Lab) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for table in ["nat", "filter"] {
        let list = run("iptables").args(["--wait", "-t", table, "-S"]).output()?;
        let ours = |line: &&str| line.split(' ').any(|word| word.trim_matches('"') == lab.comment());
        found.extend(list.lines().filter(ours).map(|line| (table, line.to_owned())));
    }
    Ok(found)
}
