//! sshd's own addresses: `ListenAddress` in `etc/ssh/sshd_config` and `etc/ssh/sshd_config.d/*.conf`.
//!
//! An sshd that is told to listen on the original's address only does not start on the clone. Every other byte of a file
//! stays; a file that names no changed address is not touched, so that dpkg still knows it as pristine.
//! Forms: sshd_config(5), `ListenAddress` (host, host:port, `[host]:port`, each with an optional `rdomain`).

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::tree::Overlay;
use super::{AddressChange, COMMENT, CloneSpec, GuestError};

/// Plans the edits of sshd's configuration.
pub fn rewrite(edits: &mut Overlay<'_>, spec: &CloneSpec) -> Result<(), GuestError> {
    if spec.addresses.is_empty() {
        return Ok(());
    }
    let mut files = vec![PathBuf::from("etc/ssh/sshd_config")];
    let drop_in = Path::new("etc/ssh/sshd_config.d");
    files.extend(
        edits
            .list(drop_in)?
            .into_iter()
            .map(|name| drop_in.join(name))
            .filter(|path| path.extension() == Some(OsStr::new("conf"))),
    );
    for path in files {
        let Some(text) = edits.text(&path)? else { continue };
        if let Some((new, why)) = rewritten(&text, &spec.addresses) {
            edits.set_text(&path, new, why)?;
        }
    }
    Ok(())
}

/// The text with the changed addresses, and why; `None` if it names none of them.
fn rewritten(text: &str, changes: &[AddressChange]) -> Option<(String, String)> {
    let mut new = String::with_capacity(text.len());
    let mut why = Vec::new();
    for line in text.split_inclusive('\n') {
        let found = listen_host(line)
            .and_then(|(at, ip)| changes.iter().find(|change| change.old == ip).map(|change| (at, change)));
        match found {
            None => new.push_str(line),
            Some((at, change)) => {
                if let Some(ip) = change.new {
                    new.push_str(&line[..at.start]);
                    new.push_str(&written(ip, &line[at.clone()], &line[at.end..]));
                    new.push_str(&line[at.end..]);
                    why.push(format!("sshd listens on {ip} instead of {}", change.old));
                } else {
                    new.push_str(COMMENT);
                    new.push_str(line);
                    why.push(format!("sshd does not listen on {}", change.old));
                }
            }
        }
    }
    why.dedup();
    (!why.is_empty()).then(|| (new, why.join(", ")))
}

/// An address in the form the old one had. An IPv6 address in the place of a bare `host:port` gets its brackets.
fn written(ip: IpAddr, old: &str, rest: &str) -> String {
    match ip {
        IpAddr::V6(ip) if rest.starts_with(':') && !old.contains(':') => format!("[{ip}]"),
        ip => ip.to_string(),
    }
}

/// Where in a line the address of a `ListenAddress` stands (without brackets, port and zone), and the address.
fn listen_host(line: &str) -> Option<(std::ops::Range<usize>, IpAddr)> {
    let start = line.len() - line.trim_start().len();
    let keyword = line.get(start..start + "ListenAddress".len())?;
    if !keyword.eq_ignore_ascii_case("ListenAddress") {
        return None;
    }
    let mut at = start + keyword.len();
    let gap = line[at..].find(|c: char| !(c.is_ascii_whitespace() || c == '=' || c == '"'))?;
    if gap == 0 {
        return None;
    }
    at += gap;
    let word = &line[at..];
    let word = &word[..word.find(|c: char| c.is_ascii_whitespace() || c == '"' || c == '#').unwrap_or(word.len())];
    let host = if let Some(inner) = word.strip_prefix('[') {
        at += 1;
        &inner[..inner.find(']')?]
    } else if word.parse::<IpAddr>().is_ok() || word.contains('%') {
        word
    } else {
        word.rsplit_once(':').map_or(word, |(host, _)| host)
    };
    let host = host.split_once('%').map_or(host, |(host, _)| host);
    Some((at..at + host.len(), host.parse().ok()?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn change(old: &str, new: Option<&str>) -> AddressChange {
        AddressChange { interface: "eth0".into(), old: old.parse().unwrap(), new: new.map(|ip| ip.parse().unwrap()) }
    }

    /// Forms of sshd_config(5) of OpenSSH 9.2 (Debian 12) and of the stock file's comments.
    #[test]
    fn every_form_is_rewritten_and_nothing_else() {
        let text = "Port 22\n#ListenAddress 10.0.5.12\nListenAddress 10.0.5.12\n\tlistenaddress = 10.0.5.12:2222\r\n\
                    ListenAddress \"10.0.5.12\" # here\nListenAddress 10.0.5.123\nListenAddress [2001:db8::12]:22 rdomain x\n\
                    ListenAddress 2001:db8:0::12\nListenAddress 0.0.0.0\nListenAddresses 10.0.5.12\nListenAddress 10.0.6.1";
        let changes = [
            change("10.0.5.12", Some("10.0.5.16")),
            change("2001:db8::12", Some("2001:db8::16")),
            change("10.0.6.1", None),
        ];
        let (new, why) = rewritten(text, &changes).unwrap();
        assert_eq!(
            new,
            "Port 22\n#ListenAddress 10.0.5.12\nListenAddress 10.0.5.16\n\tlistenaddress = 10.0.5.16:2222\r\n\
             ListenAddress \"10.0.5.16\" # here\nListenAddress 10.0.5.123\nListenAddress [2001:db8::16]:22 rdomain x\n\
             ListenAddress 2001:db8::16\nListenAddress 0.0.0.0\nListenAddresses 10.0.5.12\n\
             # upgradectl: ListenAddress 10.0.6.1"
        );
        assert!(why.contains("does not listen on 10.0.6.1"), "{why}");
        assert_eq!(rewritten(&new, &changes), None);
    }

    #[test]
    fn a_file_that_names_none_is_not_touched() {
        assert_eq!(rewritten("ListenAddress ::\nListenAddress\n[", &[change("10.0.5.12", None)]), None);
        assert_eq!(
            rewritten("ListenAddress 10.0.5.12:22\n", &[change("10.0.5.12", Some("2001:db8::1"))]).unwrap().0,
            "ListenAddress [2001:db8::1]:22\n"
        );
    }
}
