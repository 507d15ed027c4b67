//! Connection URIs (libvirt.org/uri.html, remote.html): which machine one leads to, and the one that leads to a machine by
//! ssh. Pure.

use std::fmt;

use crate::host::SshTarget;

/// The parts of `driver[+transport]://[user@][host[:port]]/path[?query]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// `xen`, `lxc`, `qemu` …
    pub driver: String,
    /// `ssh`, `tls`, `unix` …; empty: libvirt's own choice.
    pub transport: String,
    /// Login name; empty: none.
    pub user: String,
    /// Machine, an IPv6 address without its brackets; empty: this one.
    pub host: String,
    /// Port; `None`: the transport's own.
    pub port: Option<u16>,
    /// `/system`, `/session`.
    pub path: String,
    /// Parameters, in order, as they stand there (escaped).
    pub query: Vec<(String, String)>,
}

impl std::str::FromStr for Uri {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{text:?} is not a connection URI such as xen+ssh://host/system: {why}");
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(bad("it holds blanks or control characters"));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("there is no \"://\""))?;
        let (driver, transport) = scheme.split_once('+').unwrap_or((scheme, ""));
        let word = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if driver.is_empty() || !word(driver) || !word(transport) {
            return Err(bad("its driver or transport is no word"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (user, machine) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (host, port) = match machine.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| bad("a bracket is open"))?;
                (host, port.strip_prefix(':'))
            }
            None => match machine.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (machine, None),
            },
        };
        let port = port.map(str::parse).transpose().map_err(|_| bad("its port is no number"))?;
        if host.starts_with('-') || user.starts_with('-') {
            return Err(bad("a name begins with a dash"));
        }
        let parameter = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), value.to_owned())
        };
        Ok(Self {
            driver: driver.to_owned(),
            transport: transport.to_owned(),
            user: user.to_owned(),
            host: host.to_owned(),
            port,
            path: path.to_owned(),
            query: query.split('&').filter(|pair| !pair.is_empty()).map(parameter).collect(),
        })
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.driver)?;
        if !self.transport.is_empty() {
            write!(f, "+{}", self.transport)?;
        }
        f.write_str("://")?;
        if !self.user.is_empty() {
            write!(f, "{}@", self.user)?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)?;
        for (index, (key, value)) in self.query.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl Uri {
    /// Whether it leads to another machine.
    pub fn is_remote(&self) -> bool {
        !self.host.is_empty()
    }

    /// Whether ssh carries it.
    pub fn by_ssh(&self) -> bool {
        matches!(self.transport.as_str(), "ssh" | "libssh" | "libssh2")
    }

    /// A parameter, as it stands there with its escapes taken out.
    pub fn parameter(&self, key: &str) -> Option<String> {
        self.query.iter().find(|(name, _)| name == key).map(|(_, value)| unescape(value))
    }

    /// What leads to the same daemon on its own machine, by its socket if that has a place of its own.
    #[must_use]
    pub fn at_home(&self) -> Self {
        let socket = self.query.iter().filter(|(key, _)| key == "socket").cloned().collect();
        let (driver, path) = (self.driver.clone(), self.path.clone());
        let nobody = String::new();
        Self { driver, transport: nobody.clone(), user: nobody.clone(), host: nobody, port: None, path, query: socket }
    }

    fn with(mut self, key: &str, value: &str) -> Self {
        if self.parameter(key).is_none() {
            self.query.push((key.to_owned(), escape(value)));
        }
        self
    }

    /// The same by ssh to a machine: its login, its port, its key. Nobody is ever asked for a password.
    #[must_use]
    pub fn over_ssh(self, target: &SshTarget) -> Self {
        let key = target.key.as_ref().map(|key| key.to_string_lossy().into_owned());
        let uri = Self {
            transport: "ssh".into(),
            user: target.user.clone(),
            host: target.address.clone(),
            port: (target.port != 22).then_some(target.port),
            ..self
        };
        match key {
            Some(key) => uri.with("keyfile", &key),
            None => uri,
        }
        .quiet()
    }

    /// The same, asking nobody for anything: a terminal, if there is one, is not libvirt's to ask on.
    #[must_use]
    pub fn quiet(self) -> Self {
        if self.by_ssh() { self.with("no_tty", "1") } else { self }
    }
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match escaped.filter(|_| byte == b'%') {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn target(address: &str, port: u16, key: Option<&str>) -> SshTarget {
        SshTarget {
            name: "perceval".into(),
            address: address.into(),
            port,
            user: "root".into(),
            key: key.map(Into::into),
            sudo: false,
            known_hosts: None,
            alias: None,
            control_dir: "/run/upgradectl".into(),
            legacy: false,
        }
    }

    #[test]
    fn what_is_read_is_written_again() {
        for text in [
            "xen:///system",
            "lxc+unix:///system?socket=/run/lab/libvirt-sock",
            "qemu+ssh://adm@perceval:2222/system?keyfile=/root/a%20b&no_tty=1",
            "xen+tls://[2001:db8::5]:16514/system",
            "test:///default",
        ] {
            assert_eq!(text.parse::<Uri>().unwrap().to_string(), text);
        }
        let uri: Uri = "qemu+ssh://adm@perceval:2222/system?keyfile=/root/a%20b".parse().unwrap();
        assert_eq!((uri.user.as_str(), uri.port, uri.by_ssh(), uri.is_remote()), ("adm", Some(2222), true, true));
        assert_eq!(uri.parameter("keyfile").as_deref(), Some("/root/a b"));
        for wrong in ["", "xen", "xen://h ost/", "+ssh://h/", "xen+ssh://-oX/system", "xen+ssh://h:x/", "xen://[::1/"] {
            assert!(wrong.parse::<Uri>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_daemon_is_found_from_its_own_machine() {
        let home = |uri: &str| uri.parse::<Uri>().unwrap().at_home().to_string();
        assert_eq!(home("xen+ssh://root@far:2222/system?keyfile=/k&no_tty=1"), "xen:///system");
        assert_eq!(home("lxc:///system?socket=/run/lab/sock"), "lxc:///system?socket=/run/lab/sock");
    }

    #[test]
    fn a_local_uri_is_led_over_ssh() {
        let over = |uri: &str, target| uri.parse::<Uri>().unwrap().over_ssh(&target).to_string();
        assert_eq!(over("xen:///system", target("perceval", 22, None)), "xen+ssh://root@perceval/system?no_tty=1");
        assert_eq!(
            over("lxc+unix:///system?socket=/run/x", target("fd00::5", 2222, Some("/root/a&b"))),
            "lxc+ssh://root@[fd00::5]:2222/system?socket=/run/x&keyfile=/root/a%26b&no_tty=1"
        );
        assert_eq!("xen+ssh://h/system".parse::<Uri>().unwrap().quiet().to_string(), "xen+ssh://h/system?no_tty=1");
        assert_eq!("xen:///system".parse::<Uri>().unwrap().quiet().to_string(), "xen:///system");
    }
}
