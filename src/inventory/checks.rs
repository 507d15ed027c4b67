//! Reading `checks`: each kind has its own keys.

use super::read::{Item, Section};
use crate::verify::{Check, CheckKind, HttpCheck, Login, MailboxCheck, RecordType, TlsMode, When};

const WHEN: [(&str, When); 3] = [("clone", When::Clone), ("promoted", When::Promoted), ("both", When::Both)];
const TLS: [(&str, TlsMode); 2] = [("strict", TlsMode::Strict), ("any", TlsMode::Any)];
const RECORDS: [(&str, RecordType); 4] =
    [("A", RecordType::A), ("AAAA", RecordType::Aaaa), ("MX", RecordType::Mx), ("SOA", RecordType::Soa)];
const KINDS: [&str; 12] =
    ["tcp", "ssh", "http", "https", "dns", "smtp", "imap", "pop3", "command", "units", "baseline", "kernel"];

/// Reads the checks of a guest; names must differ.
pub(super) fn checks(list: &Item<'_>) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for item in list.items() {
        let Some(check) = check(&item) else { continue };
        if checks.iter().any(|other| other.name == check.name) {
            let help = format!("tell them apart: {{ name = \"…\", kind = \"{}\", … }}", check.kind.word());
            item.problem(format!("a second check is named {:?}", check.name), Some(help));
        }
        checks.push(check);
    }
    checks
}

fn check(item: &Item<'_>) -> Option<Check> {
    let section = item.section()?;
    let kinds: Vec<(&str, &str)> = KINDS.iter().map(|kind| (*kind, *kind)).collect();
    let word = section.need("kind", "kind = \"http\"")?.choice(&kinds)?;
    let name = section.parse("name", name).unwrap_or_else(|| word.to_owned());
    let when = section.choice("when", &WHEN).unwrap_or_default();
    let deadline_s = section.seconds("deadline");
    let kind = kind(word, &section);
    section.finish(&format!("a check of kind \"{word}\""));
    Some(Check { name, kind: kind?, when, deadline_s })
}

fn kind(word: &str, section: &Section<'_>) -> Option<CheckKind> {
    let port = || section.integer("port", 1..=65535);
    Some(match word {
        "tcp" => CheckKind::Tcp { port: section.need("port", "port = 5432")?.integer(1..=65535)? },
        "ssh" => CheckKind::Ssh { port: port() },
        "http" => CheckKind::Http(http(section, port(), false)),
        "https" => CheckKind::Https(http(section, port(), true)),
        "dns" => {
            let query = section.need("query", "query = \"www.example.org\"").and_then(|item| item.parse(dns_name));
            let record = section.choice("record", &RECORDS).unwrap_or(RecordType::A);
            let expect = section.strings("expect");
            let port = port();
            CheckKind::Dns { query: query?, record, expect, port }
        }
        "smtp" => CheckKind::Smtp {
            port: port(),
            rcpt: section.parse("rcpt", mail_address),
            starttls: section.flag("starttls"),
            tls: section.choice("tls", &TLS).unwrap_or(TlsMode::Any),
        },
        "imap" => CheckKind::Imap(mailbox(section, port(), true)),
        "pop3" => CheckKind::Pop3(mailbox(section, port(), false)),
        "command" => {
            let run = section.need("run", "run = [\"/usr/bin/true\"]").and_then(|item| item.argv());
            let status = section.integer("status", 0..=255).unwrap_or(0);
            let contains = section.string("contains");
            CheckKind::Command { run: run?, status, contains }
        }
        "units" => CheckKind::Units { ignore: section.strings("ignore") },
        "baseline" => CheckKind::Baseline {
            ignore: section
                .get("ignore")
                .map(|item| item.items().iter().filter_map(|port| port.integer(1..=65535)).collect())
                .unwrap_or_default(),
        },
        "kernel" => CheckKind::Kernel { newer: section.flag("newer"), modules: section.strings("modules") },
        _ => return None,
    })
}

fn http(section: &Section<'_>, port: Option<u16>, tls: bool) -> HttpCheck {
    HttpCheck {
        port,
        path: section.parse("path", http_path).unwrap_or_else(|| "/".into()),
        host: section.parse("host", dns_name),
        status: section.integer("status", 100..=599),
        contains: section.string("contains"),
        tls: if tls { section.choice("tls", &TLS).unwrap_or(TlsMode::Strict) } else { TlsMode::Any },
    }
}

fn mailbox(section: &Section<'_>, port: Option<u16>, imap: bool) -> MailboxCheck {
    let login = section.section("login").and_then(|section| {
        let user = section.need("user", "user = \"probe\"").and_then(|item| item.parse(line));
        let file = section
            .need("password_file", "a file whose first line is the password")
            .and_then(|item| item.parse(super::read::absolute_path));
        section.finish("login");
        Some(Login { user: user?, password_file: file? })
    });
    let messages_min = section.integer("messages_min", 0..=i64::from(u32::MAX));
    let messages = section.choice("messages", &[("baseline", true), ("any", false)]);
    if login.is_none() && (messages_min.is_some() || messages.is_some()) {
        section.problem(
            "messages can only be counted after a login",
            Some("login = { user = \"…\", password_file = \"/…\" }"),
        );
    }
    MailboxCheck {
        port,
        implicit_tls: section.flag("implicit_tls"),
        tls: section.choice("tls", &TLS).unwrap_or(TlsMode::Any),
        mailbox: if imap { section.parse("mailbox", line).unwrap_or_else(|| "INBOX".into()) } else { "INBOX".into() },
        messages_baseline: messages.unwrap_or(login.is_some() && messages_min.is_none()),
        login,
        messages_min,
    }
}

fn name(text: &str) -> Result<String, String> {
    let sound = text.len() <= 40 && !text.chars().any(char::is_control);
    if sound { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a name of at most 40 characters")) }
}

/// Text that can be sent inside a protocol line.
fn line(text: &str) -> Result<String, String> {
    let sound = text.len() <= 200 && text.bytes().all(|b| (0x20..0x7f).contains(&b));
    if sound { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a line of plain ASCII")) }
}

fn http_path(text: &str) -> Result<String, String> {
    let sound = text.len() <= 2000 && text.starts_with('/') && text.bytes().all(|b| (0x21..0x7f).contains(&b));
    if sound {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a path such as \"/index.html\" (percent-encoded)"))
    }
}

/// A name that DNS and HTTP take: labels of letters, digits, hyphens and underscores.
fn dns_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let sound = text.len() <= 253 && text.trim_end_matches('.').split('.').all(label);
    if sound { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a domain name")) }
}

fn mail_address(text: &str) -> Result<String, String> {
    let sound = text.len() <= 254
        && text.contains('@')
        && text.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'<' && b != b'>');
    if sound { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a mail address")) }
}
