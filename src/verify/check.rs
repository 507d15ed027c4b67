//! What a check is: plain data, as the inventory declares it and as plans store it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One check of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Name in reports; the kind's word if the inventory gives none. Unique per guest.
    pub name: String,
    /// What is checked, and how.
    #[serde(flatten)]
    pub kind: CheckKind,
    /// On which side it can be made.
    #[serde(default)]
    pub when: When,
    /// How long a service may take to come up before the check fails, in seconds; the step's deadline if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
}

/// On which side a check can be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before promotion only.
    Clone,
    /// After promotion only: it needs the production address or detached data. `later` on the clone.
    Promoted,
    /// On both sides.
    #[default]
    Both,
}

/// The kinds of checks and what each needs. Ports default to the protocol's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CheckKind {
    /// A TCP connection is accepted.
    Tcp {
        /// Port to connect to.
        port: u16,
    },
    /// sshd answers with its banner and a login with the expected host key works.
    Ssh {
        /// Port; the guest link's own if absent.
        port: Option<u16>,
    },
    /// A page over plain HTTP.
    Http(HttpCheck),
    /// A page over TLS.
    Https(HttpCheck),
    /// A DNS server's answer, asked by UDP.
    Dns {
        /// Name to ask for.
        query: String,
        /// Record type.
        record: RecordType,
        /// Answers that must be among those given; empty: any answer will do.
        expect: Vec<String>,
        /// Port, default 53.
        port: Option<u16>,
    },
    /// A mail server that accepts a recipient; nothing is ever sent.
    Smtp {
        /// Port, default 25.
        port: Option<u16>,
        /// Recipient that must be accepted.
        rcpt: Option<String>,
        /// Goes on by STARTTLS after the greeting.
        starttls: bool,
        /// What is asked of the certificate.
        tls: TlsMode,
    },
    /// An IMAP server, optionally with a login.
    Imap(MailboxCheck),
    /// A POP3 server, optionally with a login.
    Pop3(MailboxCheck),
    /// A command inside the guest.
    Command {
        /// Program and arguments.
        run: Vec<String>,
        /// Exit status expected.
        status: i32,
        /// Text its standard output must contain.
        contains: Option<String>,
    },
    /// systemd units: none failed that was not failed before, those that ran run.
    Units {
        /// Units that are not looked at.
        ignore: Vec<String>,
    },
    /// Listening ports and installed packages against the original's.
    Baseline {
        /// Ports that are not looked at.
        ignore: Vec<u16>,
    },
    /// The running kernel.
    Kernel {
        /// It must be newer than the original's.
        newer: bool,
        /// Modules that must be loaded.
        modules: Vec<String>,
    },
}

impl CheckKind {
    /// The word of the inventory.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Ssh { .. } => "ssh",
            Self::Http(_) => "http",
            Self::Https(_) => "https",
            Self::Dns { .. } => "dns",
            Self::Smtp { .. } => "smtp",
            Self::Imap(_) => "imap",
            Self::Pop3(_) => "pop3",
            Self::Command { .. } => "command",
            Self::Units { .. } => "units",
            Self::Baseline { .. } => "baseline",
            Self::Kernel { .. } => "kernel",
        }
    }

    /// The TCP port it talks to, if it talks to one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp { port } => Some(*port),
            Self::Http(http) => Some(http.port.unwrap_or(80)),
            Self::Https(http) => Some(http.port.unwrap_or(443)),
            Self::Dns { port, .. } => Some(port.unwrap_or(53)),
            Self::Smtp { port, .. } => Some(port.unwrap_or(25)),
            Self::Imap(mail) => Some(mail.port.unwrap_or(if mail.implicit_tls { 993 } else { 143 })),
            Self::Pop3(mail) => Some(mail.port.unwrap_or(if mail.implicit_tls { 995 } else { 110 })),
            Self::Ssh { .. }
            | Self::Command { .. }
            | Self::Units { .. }
            | Self::Baseline { .. }
            | Self::Kernel { .. } => None,
        }
    }
}

/// A page that is fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// Port, default 80 or 443.
    pub port: Option<u16>,
    /// Path with query, begins with `/`.
    pub path: String,
    /// Virtual host; the guest's host name, else its address, if absent.
    pub host: Option<String>,
    /// Status expected; any of 2xx and 3xx if absent.
    pub status: Option<u16>,
    /// Text the body must contain.
    pub contains: Option<String>,
    /// What is asked of the certificate.
    pub tls: TlsMode,
}

/// What is asked of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// Trusted by the controller, in date, for the name asked for.
    Strict,
    /// Any certificate will do; one out of date is told.
    Any,
}

/// A mailbox server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailboxCheck {
    /// Port, default 143 or 993, 110 or 995.
    pub port: Option<u16>,
    /// TLS from the first byte instead of STARTTLS.
    pub implicit_tls: bool,
    /// What is asked of the certificate.
    pub tls: TlsMode,
    /// Logs in and counts messages.
    pub login: Option<Login>,
    /// Mailbox that is counted (IMAP).
    pub mailbox: String,
    /// At least this many messages.
    pub messages_min: Option<u64>,
    /// At least as many messages as the original had when the baseline was taken.
    pub messages_baseline: bool,
}

/// A login; the password stays in its file on the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// User name.
    pub user: String,
    /// File on the controller whose first line is the password.
    pub password_file: PathBuf,
}

/// Record types that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RecordType {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Mail exchanger.
    Mx,
    /// Start of authority.
    Soa,
}

/// The checks of a guest with those that are always made (`ssh`, `units`, `baseline`) added where they are not declared.
pub fn with_standard(declared: &[Check]) -> Vec<Check> {
    let plain = |kind: CheckKind| Check { name: kind.word().to_owned(), kind, when: When::Both, deadline_s: None };
    let has = |word: &str| declared.iter().any(|check| check.kind.word() == word);
    let mut all = Vec::new();
    if !has("ssh") {
        all.push(plain(CheckKind::Ssh { port: None }));
    }
    all.extend_from_slice(declared);
    if !has("units") {
        all.push(plain(CheckKind::Units { ignore: Vec::new() }));
    }
    if !has("baseline") {
        all.push(plain(CheckKind::Baseline { ignore: Vec::new() }));
    }
    all
}
