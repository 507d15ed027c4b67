//! Jails as the kernel has them: `jls -n`. Pure.
//!
//! A line for each jail, `name=value` words with quotes where a value holds blanks; a name alone is a flag (jls(8)).

use std::collections::BTreeMap;

/// A jail that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its number.
    pub jid: u32,
    /// Its name; for a jail within a jail that of its parents too.
    pub name: String,
    /// Its root on the host.
    pub path: String,
    /// Its addresses, separated by commas.
    pub addresses: Vec<String>,
    /// It has a network stack of its own.
    pub vnet: bool,
}

/// Reads the output of `jls -n`.
pub fn read(text: &str) -> Result<Vec<Running>, String> {
    text.lines().filter(|line| !line.trim().is_empty()).map(one).collect()
}

fn one(line: &str) -> Result<Running, String> {
    let words = words(line).ok_or_else(|| format!("jls printed a line with an open quote: {line:?}"))?;
    let values: BTreeMap<&str, &str> = words.iter().filter_map(|word| word.split_once('=')).collect();
    let need =
        |name: &str| values.get(name).copied().ok_or_else(|| format!("jls printed a jail without {name}: {line:?}"));
    let list = |name: &str| {
        let values = values.get(name).copied().unwrap_or_default();
        values.split(',').filter(|address| !address.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    Ok(Running {
        jid: need("jid")?.parse().map_err(|_| format!("jls printed a jail without a number: {line:?}"))?,
        name: need("name")?.to_owned(),
        path: need("path")?.to_owned(),
        addresses: list("ip4.addr").into_iter().chain(list("ip6.addr")).collect(),
        vnet: values.get("vnet").is_some_and(|vnet| *vnet == "new" || *vnet == "1"),
    })
}

/// Words as jls quotes them: a value with blanks or quotes stands in quotes, with backslashes within.
fn words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (_, '\\') => word.push(chars.next()?),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, c) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (_, c) => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    quote.is_none().then_some(words)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// As a stock FreeBSD 13.2 printed it.
    const RECORDED: &str = "devfs_ruleset=0 nodying enforce_statfs=2 host=new ip4=disable ip6=disable jid=1 name=ServerA osreldate=1302001 osrelease=13.2-RELEASE parent=0 path=/data/jails/ServerA nopersist securelevel=-1 sysvmsg=disable sysvsem=disable sysvshm=disable vnet=inherit allow.nochflags allow.nomlock allow.nomount allow.mount.nodevfs allow.mount.nonullfs allow.mount.noprocfs allow.mount.notmpfs allow.noquotas allow.noraw_sockets allow.noread_msgbuf allow.reserved_ports allow.set_hostname allow.nosocket_af allow.suser allow.nosysvipc allow.unprivileged_proc_debug children.cur=0 children.max=0 cpuset.id=3 host.domainname=\"\" host.hostid=0 host.hostname=jailhost host.hostuuid=00000000-0000-0000-0000-000000000000 ip4.addr=10.0.2.112 ip4.saddrsel ip6.addr= ip6.saddrsel\n";

    #[test]
    fn what_jls_prints_is_read() {
        let jails = read(RECORDED).unwrap();
        let jail = Running {
            jid: 1,
            name: "ServerA".into(),
            path: "/data/jails/ServerA".into(),
            addresses: vec!["10.0.2.112".into()],
            vnet: false,
        };
        assert_eq!(jails, [jail]);
        assert_eq!(read("\n").unwrap(), []);
        let two = read("jid=2 name=\"a b\" path='/x y' ip4.addr=10.0.0.1,10.0.0.2 ip6.addr=::1 vnet=new\n").unwrap();
        assert_eq!(
            (two[0].name.as_str(), two[0].path.as_str(), two[0].addresses.len(), two[0].vnet),
            ("a b", "/x y", 3, true)
        );
        for bad in ["jid=1 path=/x", "name=a path=/x jid=x", "jid=1 name=\"a path=/x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
