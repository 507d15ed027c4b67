//! `/etc/hosts` (hosts(5)): addresses that change, and the clone's name, which must resolve in the clone.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::hostname::{check, current, label, renamed};
use super::splice::{Changes, Line, Splices, Word, becomes, words};
use super::tree::Overlay;
use super::{CloneSpec, GuestError};

const HOSTS: &str = "etc/hosts";
/// Where Debian's installer puts the name of a machine without a permanent address.
const SELF: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));

/// Plans the edits of this concern.
pub fn rewrite(edits: &mut Overlay<'_>, spec: &CloneSpec) -> Result<(), GuestError> {
    let path = Path::new(HOSTS);
    let changes = Changes::new(spec)?;
    if let Some(text) = edits.text(path)? {
        let mut splices = Splices::new(&text);
        for (line, ip, words) in entries(&text) {
            match changes.address(ip) {
                Some(Some(new)) => splices.replace(words[0].range(), new.to_string(), becomes(ip, Some(new))),
                Some(None) => splices.comment_out(line.range, becomes(ip, None)),
                None => {}
            }
        }
        if let Some((text, why)) = splices.finish() {
            edits.set_text(path, text, why)?;
        }
    }
    match &spec.hostname {
        Some(new) => rename(edits, path, new),
        None => Ok(()),
    }
}

/// Makes the new name resolve: replaced where the old one stood for this machine, else added.
fn rename(edits: &mut Overlay<'_>, path: &Path, new: &str) -> Result<(), GuestError> {
    check(new)?;
    let old = current(edits)?;
    let text = edits.text(path)?;
    let why = format!("name {new} resolves");
    let Some(text) = text else {
        return edits.set_text(path, format!("127.0.0.1\tlocalhost\n127.0.1.1\t{}\n", both(new)), why);
    };
    let interfaces = super::network::interfaces(edits)?;
    let own: BTreeSet<IpAddr> = interfaces.iter().flat_map(|i| i.addresses.iter().map(|address| address.ip)).collect();
    let mut splices = Splices::new(&text);
    let mut resolves = false;
    let mut place = None;
    for (line, ip, words) in entries(&text) {
        if !ip.is_loopback() && !own.contains(&ip) {
            continue;
        }
        let there: BTreeSet<String> = words[1..].iter().map(|word| word.text.to_ascii_lowercase()).collect();
        resolves |= there.contains(&new.to_ascii_lowercase());
        for word in &words[1..] {
            let with = old.as_deref().filter(|old| *old != new).and_then(|old| renamed(word.text, old, new));
            if let Some(with) = with.filter(|with| with != word.text) {
                resolves |= with == new;
                // A name that is there already is not written twice.
                if !there.contains(&with.to_ascii_lowercase()) {
                    splices.replace(word.range(), with, &why);
                }
            }
        }
        if ip.is_ipv4() && ip.is_loopback() {
            let last = words.last().map_or(line.range.end, |word| word.range().end);
            if ip == SELF || !matches!(place, Some((SELF, _, _))) {
                place = Some((ip, last, line.range.end));
            }
        }
    }
    if !resolves {
        let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
        let names = both(new);
        match place {
            Some((SELF, last, _)) => splices.replace(last..last, format!(" {names}"), &why),
            Some((_, _, after)) => splices.replace(after..after, format!("{end}127.0.1.1\t{names}"), &why),
            None => {
                let gap = if text.is_empty() || text.ends_with('\n') { "" } else { end };
                splices.replace(text.len()..text.len(), format!("{gap}127.0.1.1\t{names}{end}"), &why);
            }
        }
    }
    match splices.finish() {
        Some((text, why)) => edits.set_text(path, text, why),
        None => Ok(()),
    }
}

/// The name, and its first label if it has more.
fn both(name: &str) -> String {
    if name.contains('.') { format!("{name} {}", label(name)) } else { name.to_owned() }
}

/// Lines with an address, and their words without a comment; lines of another form are left alone.
fn entries(text: &str) -> Vec<(Line, IpAddr, Vec<Word<'_>>)> {
    let mut found = Vec::new();
    let mut start = 0;
    for (at, physical) in text.split_inclusive('\n').enumerate() {
        let body = physical.trim_end_matches(['\n', '\r']);
        let range = start..start + body.find('#').unwrap_or(body.len());
        let line = Line { range: start..start + body.len(), number: at + 1 };
        start += physical.len();
        let words = words(text, range);
        if let Some(ip) = words.first().and_then(|word| word.text.parse().ok()) {
            found.push((line, ip, words));
        }
    }
    found
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::guest::{AddressChange, Tree};

    /// `/etc/hosts` as Debian's installer (netcfg) writes it for a static address.
    const INSTALLED: &str = "127.0.0.1\tlocalhost\n10.0.5.12\tmercure.example.org\tmercure\n\n\
        # The following lines are desirable for IPv6 capable hosts\n::1     localhost ip6-localhost ip6-loopback\n\
        ff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n";

    fn change(old: &str, new: Option<&str>) -> AddressChange {
        let new = new.map(|new| new.parse().unwrap());
        AddressChange { interface: "eth0".into(), old: old.parse().unwrap(), new }
    }

    fn run(hosts: &str, spec: &CloneSpec) -> String {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/hosts", hosts);
        write("etc/hostname", "mercure\n");
        write("etc/network/interfaces", "iface eth0 inet static\n address 10.0.5.16/24\n");
        let tree = Tree::open(root.path()).unwrap();
        for round in 0..2 {
            let mut edits = Overlay::new(&tree);
            rewrite(&mut edits, spec).unwrap();
            super::super::hostname::rewrite(&mut edits, spec).unwrap();
            assert_eq!(crate::guest::apply(&tree, &edits.into_edits()).unwrap(), round == 0);
        }
        std::fs::read_to_string(root.path().join("etc/hosts")).unwrap()
    }

    #[test]
    fn the_address_follows_and_the_rest_stays() {
        let spec = CloneSpec { addresses: vec![change("10.0.5.12", Some("10.0.5.16"))], ..CloneSpec::default() };
        assert_eq!(run(INSTALLED, &spec), INSTALLED.replace("10.0.5.12", "10.0.5.16"));
        let spec = CloneSpec { addresses: vec![change("10.0.5.12", None)], ..CloneSpec::default() };
        assert_eq!(run(INSTALLED, &spec), INSTALLED.replace("10.0.5.12", "# upgradectl: 10.0.5.12"));
        let crlf = "10.0.5.12 a # 10.0.5.12\r\n10.0.5.120 b\r\n";
        let spec = CloneSpec { addresses: vec![change("10.0.5.12", Some("10.0.5.16"))], ..CloneSpec::default() };
        assert_eq!(run(crlf, &spec), "10.0.5.16 a # 10.0.5.12\r\n10.0.5.120 b\r\n");
    }

    #[test]
    fn the_new_name_resolves() {
        let spec = CloneSpec {
            addresses: vec![change("10.0.5.12", Some("10.0.5.16"))],
            hostname: Some("merkur2".into()),
            ..CloneSpec::default()
        };
        let expected =
            INSTALLED.replace("10.0.5.12\tmercure.example.org\tmercure", "10.0.5.16\tmerkur2.example.org\tmerkur2");
        assert_eq!(run(INSTALLED, &spec), expected);
        let only = CloneSpec { hostname: Some("merkur2.example.org".into()), ..CloneSpec::default() };
        assert_eq!(
            run("127.0.0.1 localhost\n192.0.2.9 mercure-old\n", &only),
            "127.0.0.1 localhost\n127.0.1.1\tmerkur2.example.org merkur2\n192.0.2.9 mercure-old\n"
        );
        assert_eq!(run("127.0.1.1 other # c\n", &only), "127.0.1.1 other merkur2.example.org merkur2 # c\n");
        assert_eq!(run("", &only), "127.0.1.1\tmerkur2.example.org merkur2\n");
    }
}
