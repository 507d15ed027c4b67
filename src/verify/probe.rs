//! One attempt at one check.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hypervisors::host::{Command, printable_tail};
use hypervisors::{Cause, Host};

use super::baseline::Measure;
use super::check::{Check, CheckKind, MailboxCheck, RecordType};
use super::inside::short;
use super::line::{Fault, Lines};
use super::mail::{self, Peer};
use super::{Target, compare, dns, http, tls};

/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for a whole conversation, however slowly the server speaks.
const CONVERSATION: Duration = Duration::from_secs(15);

/// A passed attempt.
pub(crate) struct Seen {
    /// What it showed, for the report.
    pub detail: String,
    /// The same for a baseline.
    pub measure: Measure,
}

/// What a conversation showed.
#[derive(Default)]
struct Shown {
    detail: Option<String>,
    said: Option<String>,
    messages: Option<u64>,
    status: Option<u16>,
    notes: Vec<String>,
}

/// Makes a check once. A conversation over the network is bounded in time; commands in the guest bound themselves.
pub(crate) async fn attempt(target: &Target, check: &Check) -> Result<Seen, Fault> {
    let start = Instant::now();
    let shown = match &check.kind {
        CheckKind::Command { run, status, contains } => command(target, run, *status, contains.as_deref()).await?,
        CheckKind::Units { ignore } => told(compare::units(target, ignore).await?),
        CheckKind::Baseline { ignore } => told(compare::ports_and_packages(target, ignore).await?),
        CheckKind::Kernel { newer, modules } => told(compare::kernel(target, *newer, modules).await?),
        CheckKind::Ssh { port } => {
            let place = SocketAddr::new(target.address, port.unwrap_or(target.ssh_port));
            bounded(place, ssh_banner(target, place)).await?;
            login(target).await?
        }
        kind => {
            let place = SocketAddr::new(target.address, kind.port().unwrap_or(0));
            bounded(place, converse(target, check, kind, place)).await?
        }
    };
    let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let said = shown.said.unwrap_or_else(|| format!("answered in {elapsed_ms} ms"));
    let mut detail = shown.detail.unwrap_or_else(|| said.clone());
    for note in shown.notes {
        detail = format!("{detail}; {note}");
    }
    let measure = Measure { passed: true, detail: said, elapsed_ms, messages: shown.messages, status: shown.status };
    Ok(Seen { detail, measure })
}

fn told(detail: String) -> Shown {
    Shown { detail: Some(detail), ..Shown::default() }
}

/// Bounds a conversation and names its place in every fault.
async fn bounded<T>(place: SocketAddr, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout(CONVERSATION, work).await {
        Ok(result) => result.map_err(|fault| match fault.fixed {
            true => fault,
            false => Fault::new(format!("{place} {}", fault.why)),
        }),
        Err(_) => Err(Fault::new(format!("{place} took longer than {} s", CONVERSATION.as_secs()))),
    }
}

async fn connect(target: &Target, place: SocketAddr) -> Result<Box<dyn hypervisors::net::Stream>, Fault> {
    target.net.connect(place, CONNECT).await.map_err(|error| match error.cause {
        Cause::Refused(_) => Fault::new("refused"),
        Cause::Unknown(_) => Fault::new("does not answer"),
        cause => Fault::new(format!("cannot be reached: {}", short(&cause.to_string()))),
    })
}

async fn converse(target: &Target, whole: &Check, kind: &CheckKind, place: SocketAddr) -> Result<Shown, Fault> {
    let name = target.hostname.as_deref();
    let peer = |tls| Peer { name, address: target.address, tls };
    match kind {
        CheckKind::Tcp { .. } => connect(target, place).await.map(|_| Shown::default()),
        CheckKind::Http(check) | CheckKind::Https(check) => {
            let stream = connect(target, place).await?;
            let literal = match target.address {
                std::net::IpAddr::V4(address) => address.to_string(),
                std::net::IpAddr::V6(address) => format!("[{address}]"),
            };
            let host = check.host.as_deref().or(name).unwrap_or(&literal);
            let mut notes = Vec::new();
            let stream = match kind {
                CheckKind::Https(_) => {
                    let wanted = check.host.as_deref().or(name);
                    let (stream, note) = tls::connect(stream, wanted, target.address, check.tls).await?;
                    notes.extend(Some(note).filter(|note| !note.is_empty()));
                    stream
                }
                _ => stream,
            };
            let (status, bytes) = http::fetch(&mut Lines::new(stream), check, host).await?;
            let detail = Some(format!("{status}, {bytes} bytes"));
            Ok(Shown { detail, said: Some(format!("answered {status}")), status: Some(status), notes, messages: None })
        }
        CheckKind::Dns { query, record, expect, .. } => ask(target, place, query, *record, expect).await,
        CheckKind::Smtp { rcpt, starttls, tls, .. } => {
            let lines = Lines::new(connect(target, place).await?);
            let notes = mail::smtp(lines, peer(*tls), rcpt.as_deref(), *starttls).await?;
            let detail = rcpt.as_ref().map(|rcpt| format!("accepts {rcpt}"));
            Ok(Shown { detail, notes, ..Shown::default() })
        }
        CheckKind::Imap(check) | CheckKind::Pop3(check) => {
            let stream = connect(target, place).await?;
            let mut early = Vec::new();
            let stream = match check.implicit_tls {
                true => {
                    let (stream, note) = tls::connect(stream, name, target.address, check.tls).await?;
                    early.extend(Some(note).filter(|note| !note.is_empty()));
                    stream
                }
                false => stream,
            };
            let lines = Lines::new(stream);
            let mut seen = match kind {
                CheckKind::Imap(_) => mail::imap(lines, peer(check.tls), check).await?,
                _ => mail::pop3(lines, peer(check.tls), check).await?,
            };
            seen.notes.splice(0..0, early);
            messages(target, &whole.name, check, seen)
        }
        CheckKind::Ssh { .. }
        | CheckKind::Command { .. }
        | CheckKind::Units { .. }
        | CheckKind::Baseline { .. }
        | CheckKind::Kernel { .. } => Err(Fault::fixed("is not made over the network")),
    }
}

/// Judges the number of messages: against `messages_min`, and against the baseline.
fn messages(target: &Target, name: &str, check: &MailboxCheck, seen: mail::Mailbox) -> Result<Shown, Fault> {
    let Some(count) = seen.messages else {
        return Ok(Shown { notes: seen.notes, ..Shown::default() });
    };
    let plural = |count: u64| format!("{count} message{}", if count == 1 { "" } else { "s" });
    if check.messages_min.is_some_and(|least| count < least) {
        let least = check.messages_min.unwrap_or_default();
        return Err(Fault::new(format!("shows {}, not at least {least}", plural(count))));
    }
    if check.messages_baseline
        && let Some(before) = target.measured(name).and_then(|measure| measure.messages)
        && count < before
    {
        return Err(Fault::new(format!("shows {} where the original showed {before}", plural(count))));
    }
    let said = Some(format!("showed {}", plural(count)));
    Ok(Shown { detail: Some(plural(count)), said, messages: Some(count), status: None, notes: seen.notes })
}

async fn ask(
    target: &Target,
    place: SocketAddr,
    query: &str,
    record: RecordType,
    expect: &[String],
) -> Result<Shown, Fault> {
    let id = rand::random();
    let question =
        dns::question(id, query, record).ok_or_else(|| Fault::fixed(format!("{query:?} cannot be asked")))?;
    let answer = target.net.ask(place, &question, CONNECT).await.map_err(|_| Fault::new("does not answer"))?;
    let found = dns::answers(id, record, &answer).map_err(Fault::new)?;
    if found.is_empty() {
        return Err(Fault::new(format!("has no such record of {query}")));
    }
    let bare = |text: &str| text.trim_end_matches('.').to_ascii_lowercase();
    if let Some(missing) = expect.iter().find(|wanted| !found.iter().any(|got| bare(got) == bare(wanted))) {
        return Err(Fault::new(format!("gave {}, not {missing}", short(&found.join(", ")))));
    }
    Ok(told(short(&found.join(", "))))
}

async fn ssh_banner(target: &Target, place: SocketAddr) -> Result<(), Fault> {
    let mut lines = Lines::new(connect(target, place).await?);
    // RFC 4253 §4.2: other lines may come before the version.
    for _ in 0..50 {
        if lines.line().await?.starts_with("SSH-") {
            return Ok(());
        }
    }
    Err(Fault::new("did not greet as an ssh server"))
}

async fn login(target: &Target) -> Result<Shown, Fault> {
    let Some(inside) = &target.inside else { return Ok(told("greets".into())) };
    let output = run(inside.as_ref(), &Command::new(["true"]).timeout(CONVERSATION)).await?;
    match output.status {
        0 => Ok(told("expected host key".into())),
        status => Err(Fault::new(format!("login works, but `true` ended with {status}"))),
    }
}

async fn command(target: &Target, argv: &[String], wanted: i32, contains: Option<&str>) -> Result<Shown, Fault> {
    let Some(inside) = &target.inside else { return Err(Fault::fixed("there is no way into the guest")) };
    let command = Command::new(argv.iter().cloned());
    let output = run(inside.as_ref(), &command).await?;
    if output.status != wanted {
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        let said = printable_tail(said, 2);
        let program = command.program();
        return Err(Fault::new(format!("{program} ended with {}, not {wanted}: {said}", output.status)));
    }
    if let Some(text) = contains
        && !output.text().contains(text)
    {
        let said = printable_tail(&output.stdout, 2);
        return Err(Fault::new(format!("{} did not print {text:?}: {said}", command.program())));
    }
    Ok(Shown {
        detail: Some(format!("ended with {wanted}")),
        said: Some(format!("ended with {wanted}")),
        ..Shown::default()
    })
}

async fn run(host: &dyn Host, command: &Command) -> Result<hypervisors::host::Output, Fault> {
    host.run(command).await.map_err(Fault::from)
}
