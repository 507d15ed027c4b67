//! What listens in a simulated guest: sshd's banner, SMTP, HTTP, POP3 and IMAP, each as far as a check talks to it.
//!
//! Mail is delivered into `home/USER/Maildir/new`, or queued in `var/spool/postfix/incoming` for anyone else. Passwords for
//! POP3 and IMAP stand in `etc/sim-passwd`, `USER:PASSWORD` lines.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream, DuplexStream};

use super::tree;
use super::world::{Sim, now_ms, read_bounded};
use crate::{Error, Result};

/// A client's line is never longer (RFC 5321: 1000; generous).
const LINE: u64 = 4096;
/// A mail is never larger.
const MAIL: usize = 1 << 20;

/// A kind of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Ssh,
    Smtp,
    Http,
    Pop3,
    Imap,
}

const PORTS: [(u16, &str, Service); 5] = [
    (22, "ssh.service", Service::Ssh),
    (25, "postfix.service", Service::Smtp),
    (80, "nginx.service", Service::Http),
    (110, "dovecot.service", Service::Pop3),
    (143, "dovecot.service", Service::Imap),
];

/// Ports on which these units listen, with the unit.
pub(super) fn listening(units: &BTreeSet<String>) -> impl Iterator<Item = (u16, &'static str)> {
    PORTS.into_iter().filter(|(_, unit, _)| units.contains(*unit)).map(|(port, unit, _)| (port, unit))
}

/// What answers on a port, if its unit runs.
pub(super) fn behind(port: u16, units: &BTreeSet<String>) -> Option<Service> {
    PORTS.into_iter().find(|(at, unit, _)| *at == port && units.contains(*unit)).map(|(_, _, service)| service)
}

/// Where a service runs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub sim: Sim,
    pub guest: String,
    /// The guest's root directory.
    pub root: PathBuf,
    pub service: Service,
}

/// Talks to one client to its end.
pub(super) async fn serve(place: Place, stream: DuplexStream) {
    let mut client = Client { stream: BufStream::new(stream) };
    let talked = match place.service {
        Service::Ssh => client.say("SSH-2.0-sim").await,
        Service::Smtp => place.smtp(&mut client).await,
        Service::Http => place.http(&mut client).await,
        Service::Pop3 => place.pop3(&mut client).await,
        Service::Imap => place.imap(&mut client).await,
    };
    if let Err(error) = talked {
        tracing::debug!(guest = place.guest, %error, "a simulated client went away");
    }
}

struct Client {
    stream: BufStream<DuplexStream>,
}

impl Client {
    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(line.as_bytes()).await?;
        self.stream.write_all(b"\r\n").await?;
        self.stream.flush().await
    }
    /// The next line without its end; `None` when the client is done.
    async fn hear(&mut self) -> io::Result<Option<String>> {
        let mut bytes = Vec::new();
        (&mut self.stream).take(LINE).read_until(b'\n', &mut bytes).await?;
        let text = String::from_utf8_lossy(&bytes);
        Ok((!bytes.is_empty()).then(|| text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// The first word in upper case, and the rest.
fn command(line: &str) -> (String, &str) {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    (word.to_ascii_uppercase(), rest.trim())
}

impl Place {
    fn path(&self, path: &str) -> io::Result<PathBuf> {
        tree::resolve(&self.root, Path::new(path), true)
    }

    async fn smtp(&self, client: &mut Client) -> io::Result<()> {
        let host = fs::read_to_string(self.path("etc/hostname")?).unwrap_or_default();
        let host = host.trim();
        client.say(&format!("220 {host} ESMTP Postfix (Debian/GNU)")).await?;
        let mut to = Vec::new();
        while let Some(line) = client.hear().await? {
            let (word, rest) = command(&line);
            match word.as_str() {
                "EHLO" => {
                    client.say(&format!("250-{host}")).await?;
                    client.say("250-PIPELINING").await?;
                    client.say("250 8BITMIME").await?;
                }
                "HELO" => client.say(&format!("250 {host}")).await?,
                "MAIL" | "NOOP" => client.say("250 2.1.0 Ok").await?,
                "RSET" => {
                    to.clear();
                    client.say("250 2.0.0 Ok").await?;
                }
                "RCPT" => {
                    let address = rest.split(['<', '>']).nth(1).unwrap_or_default();
                    to.push(address.split('@').next().unwrap_or_default().to_owned());
                    client.say("250 2.1.5 Ok").await?;
                }
                "DATA" if to.is_empty() => client.say("503 5.5.1 Error: need RCPT command").await?,
                "DATA" => {
                    client.say("354 End data with <CR><LF>.<CR><LF>").await?;
                    let Some(text) = hear_mail(client).await? else { return Ok(()) };
                    match self.deliver(&to, &text).await {
                        Ok(id) => client.say(&format!("250 2.0.0 Ok: queued as {id}")).await?,
                        Err(error) => client.say(&format!("451 4.3.0 Error: {error}")).await?,
                    }
                    to.clear();
                }
                "QUIT" => return client.say("221 2.0.0 Bye").await,
                _ => client.say("502 5.5.2 Error: command not recognized").await?,
            }
        }
        Ok(())
    }

    async fn deliver(&self, to: &[String], text: &str) -> Result<String> {
        self.sim
            .effect("mail.deliver", &format!("{}: {}", self.guest, to.join(", ")), |world| {
                let doing = format!("deliver a mail in {}", self.guest);
                let id = format!("{:X}", now_ms());
                for user in to {
                    let plain = super::definition::plain_name(user);
                    let home = self.path(&format!("home/{user}/Maildir")).ok().filter(|dir| plain && dir.is_dir());
                    let queue = self.path("var/spool/postfix/incoming").map_err(|error| Error::io(&doing, error))?;
                    let dir = home.map_or(queue, |home| home.join("new"));
                    fs::create_dir_all(&dir).map_err(|error| Error::io(&doing, error))?;
                    let name = (0..).map(|n| dir.join(format!("{id}.{n}.sim"))).find(|path| !path.exists());
                    fs::write(name.unwrap_or(dir), text).map_err(|error| Error::io(&doing, error))?;
                    world.midpoint(&doing)?;
                }
                Ok(id)
            })
            .await
    }

    async fn http(&self, client: &mut Client) -> io::Result<()> {
        let Some(request) = client.hear().await? else { return Ok(()) };
        while client.hear().await?.is_some_and(|line| !line.is_empty()) {}
        let path = request.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/");
        let file = if path.ends_with('/') { format!("{path}index.html") } else { path.to_owned() };
        let body = self.path("var/www/html").and_then(|pages| tree::resolve(&pages, Path::new(&file), true));
        let body = body.and_then(|path| read_bounded(&path, 1 << 20));
        let (status, body) = match body {
            Ok(Some(body)) => ("200 OK", body),
            _ => ("404 Not Found", b"<h1>404 Not Found</h1>\n".to_vec()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n",
            body.len()
        );
        client.say(&head).await?;
        if !request.starts_with("HEAD") {
            client.stream.write_all(&body).await?;
        }
        client.stream.shutdown().await
    }

    fn password_is(&self, user: &str, password: &str) -> bool {
        let text = self.path("etc/sim-passwd").and_then(fs::read_to_string).unwrap_or_default();
        text.lines().any(|line| line.split_once(':') == Some((user, password)))
    }

    /// Mails in a user's inbox, and their bytes.
    fn inbox(&self, user: &str) -> (usize, u64) {
        let dir = |part: &str| self.path(&format!("home/{user}/Maildir/{part}")).and_then(fs::read_dir);
        let entries = ["new", "cur"].into_iter().flat_map(|part| dir(part).into_iter().flatten().flatten());
        let sizes: Vec<u64> = entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).collect();
        (sizes.len(), sizes.iter().sum())
    }

    async fn pop3(&self, client: &mut Client) -> io::Result<()> {
        client.say("+OK Dovecot (Debian) ready.").await?;
        let (mut user, mut inside) = (String::new(), false);
        while let Some(line) = client.hear().await? {
            let (word, rest) = command(&line);
            match word.as_str() {
                "USER" => {
                    user = rest.to_owned();
                    client.say("+OK").await?;
                }
                "PASS" => {
                    inside = self.password_is(&user, rest);
                    client.say(if inside { "+OK Logged in." } else { "-ERR [AUTH] Authentication failed." }).await?;
                }
                "STAT" if inside => {
                    let (count, bytes) = self.inbox(&user);
                    client.say(&format!("+OK {count} {bytes}")).await?;
                }
                "CAPA" => {
                    for line in ["+OK", "CAPA", "USER", "."] {
                        client.say(line).await?;
                    }
                }
                "NOOP" => client.say("+OK").await?,
                "QUIT" => return client.say("+OK Logging out").await,
                _ => client.say("-ERR Unknown command.").await?,
            }
        }
        Ok(())
    }

    async fn imap(&self, client: &mut Client) -> io::Result<()> {
        client.say("* OK [CAPABILITY IMAP4rev1] Dovecot (Debian) ready.").await?;
        let mut user: Option<String> = None;
        while let Some(line) = client.hear().await? {
            let (tag, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let (word, rest) = command(rest);
            match (word.as_str(), &user) {
                ("CAPABILITY", _) => {
                    client.say("* CAPABILITY IMAP4rev1").await?;
                    client.say(&format!("{tag} OK Capability completed.")).await?;
                }
                ("LOGIN", _) => {
                    let (name, password) = rest.split_once(' ').unwrap_or((rest, ""));
                    let (name, password) = (name.trim_matches('"'), password.trim_matches('"'));
                    if self.password_is(name, password) {
                        user = Some(name.to_owned());
                        client.say(&format!("{tag} OK Logged in")).await?;
                    } else {
                        client.say(&format!("{tag} NO [AUTHENTICATIONFAILED] Authentication failed.")).await?;
                    }
                }
                ("STATUS", Some(user)) => {
                    client.say(&format!("* STATUS INBOX (MESSAGES {})", self.inbox(user).0)).await?;
                    client.say(&format!("{tag} OK Status completed.")).await?;
                }
                ("SELECT" | "EXAMINE", Some(user)) => {
                    client.say(&format!("* {} EXISTS", self.inbox(user).0)).await?;
                    client.say(&format!("{tag} OK [READ-WRITE] Select completed.")).await?;
                }
                ("NOOP", _) => client.say(&format!("{tag} OK NOOP completed.")).await?,
                ("LOGOUT", _) => {
                    client.say("* BYE Logging out").await?;
                    return client.say(&format!("{tag} OK Logout completed.")).await;
                }
                _ => client.say(&format!("{tag} BAD Error in IMAP command.")).await?,
            }
        }
        Ok(())
    }
}

/// The lines of a mail up to the single dot.
async fn hear_mail(client: &mut Client) -> io::Result<Option<String>> {
    let mut text = String::new();
    while let Some(line) = client.hear().await? {
        if line == "." {
            return Ok(Some(text));
        }
        if text.len() + line.len() > MAIL {
            return Ok(None);
        }
        text += line.strip_prefix('.').unwrap_or(&line);
        text.push('\n');
    }
    Ok(None)
}
