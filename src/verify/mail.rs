//! Mail servers: SMTP (RFC 5321), IMAP (RFC 9051), POP3 (RFC 1939), as much as a check needs. Nothing is ever sent to
//! anybody; passwords go to the server only and are taken out of whatever it answers.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::io::AsyncReadExt as _;

use super::check::{Login, MailboxCheck, TlsMode};
use super::inside::short;
use super::line::{Fault, Lines};
use super::tls;

/// Lines of one answer that are taken.
const ANSWER: usize = 1000;

/// What a mailbox server showed.
pub(crate) struct Mailbox {
    /// Messages, if there was a login.
    pub messages: Option<u64>,
    /// Remarks: on the certificate, on the password file.
    pub notes: Vec<String>,
}

/// Whom the conversation is with, for certificates.
#[derive(Clone, Copy)]
pub(crate) struct Peer<'a> {
    pub name: Option<&'a str>,
    pub address: IpAddr,
    pub tls: TlsMode,
}

impl Peer<'_> {
    async fn start_tls(&self, lines: Lines, notes: &mut Vec<String>) -> Result<Lines, Fault> {
        let (stream, note) = tls::connect(lines.into_stream()?, self.name, self.address, self.tls).await?;
        notes.extend(Some(note).filter(|note| !note.is_empty()));
        Ok(Lines::new(stream))
    }
}

/// Greets, asks whether `rcpt` would be accepted, takes it back and leaves. Gives remarks.
pub(crate) async fn smtp(
    mut lines: Lines,
    peer: Peer<'_>,
    rcpt: Option<&str>,
    starttls: bool,
) -> Result<Vec<String>, Fault> {
    const EHLO: &str = "EHLO upgradectl.invalid\r\n";
    let mut notes = Vec::new();
    smtp_answer(&mut lines, "the greeting", 220).await?;
    lines.send(EHLO).await?;
    smtp_answer(&mut lines, "EHLO", 250).await?;
    if starttls {
        lines.send("STARTTLS\r\n").await?;
        smtp_answer(&mut lines, "STARTTLS", 220).await?;
        lines = peer.start_tls(lines, &mut notes).await?;
        lines.send(EHLO).await?;
        smtp_answer(&mut lines, "EHLO", 250).await?;
    }
    if let Some(rcpt) = rcpt {
        lines.send("MAIL FROM:<>\r\n").await?;
        smtp_answer(&mut lines, "MAIL FROM:<>", 250).await?;
        lines.send(&format!("RCPT TO:<{rcpt}>\r\n")).await?;
        smtp_answer(&mut lines, &format!("RCPT TO:<{rcpt}>"), 250).await?;
        lines.send("RSET\r\n").await?;
        smtp_answer(&mut lines, "RSET", 250).await?;
    }
    // The verdict is in; a server that does not say goodbye is no failure.
    let _ = lines.send("QUIT\r\n").await;
    Ok(notes)
}

async fn smtp_answer(lines: &mut Lines, to: &str, wanted: u16) -> Result<(), Fault> {
    for _ in 0..ANSWER {
        let line = lines.line().await?;
        let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
        match (code, line.as_bytes().get(3)) {
            (Some(_), Some(b'-')) => {}
            (Some(code), _) if code == wanted || (wanted == 250 && code == 251) => return Ok(()),
            (Some(_), _) => return Err(Fault::new(format!("answered {to} with {}", short(&line)))),
            (None, _) => return Err(Fault::new(format!("sent no SMTP answer: {}", short(&line)))),
        }
    }
    Err(Fault::new("sent an endless answer"))
}

/// Greets; logs in and counts if the check has a login.
pub(crate) async fn imap(mut lines: Lines, peer: Peer<'_>, check: &MailboxCheck) -> Result<Mailbox, Fault> {
    let greeting = lines.line().await?;
    if !greeting.starts_with("* OK") {
        return Err(Fault::new(format!("did not greet as an IMAP server: {}", short(&greeting))));
    }
    let mut mailbox = Mailbox { messages: None, notes: Vec::new() };
    if let Some(login) = &check.login {
        let password = password(login, &mut mailbox.notes).await?;
        if !check.implicit_tls {
            lines.send("a1 STARTTLS\r\n").await?;
            match imap_answer(&mut lines, "a1", "").await {
                Ok(_) => lines = peer.start_tls(lines, &mut mailbox.notes).await?,
                Err(fault) => without_tls(peer.tls, &fault, &mut mailbox.notes)?,
            }
        }
        lines.send(&format!("a2 LOGIN {} {}\r\n", quoted(&login.user), quoted(&password))).await?;
        let refused = |fault| refused(fault, login, &password);
        imap_answer(&mut lines, "a2", "").await.map_err(refused)?;
        lines.send(&format!("a3 STATUS {} (MESSAGES)\r\n", quoted(&check.mailbox))).await?;
        let said = imap_answer(&mut lines, "a3", "* STATUS ").await?;
        let count = said.and_then(|line| {
            let (_, after) = line.rsplit_once("(MESSAGES ")?;
            after.trim_end().strip_suffix(')')?.parse().ok()
        });
        mailbox.messages = Some(count.ok_or_else(|| Fault::new("did not tell the number of messages"))?);
    }
    let _ = lines.send("a9 LOGOUT\r\n").await;
    Ok(mailbox)
}

/// Reads up to the tagged answer; gives the last untagged line with this beginning.
async fn imap_answer(lines: &mut Lines, tag: &str, wanted: &str) -> Result<Option<String>, Fault> {
    let mut found = None;
    for _ in 0..ANSWER {
        let line = lines.line().await?;
        if let Some(rest) = line.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' ')) {
            return match rest.starts_with("OK") {
                true => Ok(found),
                false => Err(Fault::new(format!("answered {}", short(rest)))),
            };
        }
        if !wanted.is_empty() && line.starts_with(wanted) {
            found = Some(line);
        }
    }
    Err(Fault::new("sent an endless answer"))
}

/// Greets; logs in and counts if the check has a login.
pub(crate) async fn pop3(mut lines: Lines, peer: Peer<'_>, check: &MailboxCheck) -> Result<Mailbox, Fault> {
    pop3_answer(&mut lines).await?;
    let mut mailbox = Mailbox { messages: None, notes: Vec::new() };
    if let Some(login) = &check.login {
        let password = password(login, &mut mailbox.notes).await?;
        if !check.implicit_tls {
            lines.send("STLS\r\n").await?;
            match pop3_answer(&mut lines).await {
                Ok(_) => lines = peer.start_tls(lines, &mut mailbox.notes).await?,
                Err(fault) => without_tls(peer.tls, &fault, &mut mailbox.notes)?,
            }
        }
        let refused = |fault| refused(fault, login, &password);
        lines.send(&format!("USER {}\r\n", login.user)).await?;
        pop3_answer(&mut lines).await.map_err(refused)?;
        lines.send(&format!("PASS {password}\r\n")).await?;
        pop3_answer(&mut lines).await.map_err(refused)?;
        lines.send("STAT\r\n").await?;
        let said = pop3_answer(&mut lines).await?;
        let count = said.split_whitespace().next().and_then(|count| count.parse().ok());
        mailbox.messages = Some(count.ok_or_else(|| Fault::new("did not tell the number of messages"))?);
    }
    let _ = lines.send("QUIT\r\n").await;
    Ok(mailbox)
}

async fn pop3_answer(lines: &mut Lines) -> Result<String, Fault> {
    let line = lines.line().await?;
    match line.strip_prefix("+OK") {
        Some(rest) => Ok(rest.to_owned()),
        None => Err(Fault::new(format!("answered {}", short(&line)))),
    }
}

/// A server that offers no TLS: told, and refused where the certificate matters.
fn without_tls(mode: TlsMode, fault: &Fault, notes: &mut Vec<String>) -> Result<(), Fault> {
    if mode == TlsMode::Strict {
        return Err(Fault::new(format!("offers no TLS: {}", fault.why)));
    }
    notes.push("login without TLS".into());
    Ok(())
}

fn refused(fault: Fault, login: &Login, password: &str) -> Fault {
    let why = fault.why.replace(password, "…");
    Fault::new(format!("refused the login of {}: {why}", login.user))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The first line of a password file on the controller.
async fn password(login: &Login, notes: &mut Vec<String>) -> Result<String, Fault> {
    let path: &Path = &login.password_file;
    let unread = |error: std::io::Error| Fault::fixed(format!("cannot read {}: {error}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(unread)?;
    let metadata = file.metadata().await.map_err(unread)?;
    if metadata.permissions().mode() & 0o004 != 0 {
        notes.push(format!("{} can be read by everyone", path.display()));
    }
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).await.map_err(unread)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() || line.chars().any(char::is_control) {
        return Err(Fault::fixed(format!("{} has no password in its first line", path.display())));
    }
    Ok(line.to_owned())
}
