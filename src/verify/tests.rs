//! Checks against real servers on loopback, good and hostile, over the real network, and real commands on this machine.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use hypervisors::host::LocalHost;
use hypervisors::net::RealNet;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

use super::*;
use hypervisors::net::Stream;

fn target(side: Side) -> Target {
    Target {
        name: "mercure--k3f9".into(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        ssh_port: 22,
        net: Arc::new(RealNet),
        inside: None,
        side,
        quarantined: Vec::new(),
        baseline: None,
        hostname: Some("mercure.example".into()),
    }
}

fn check(kind: CheckKind) -> Check {
    Check { name: kind.word().into(), kind, when: When::Both, deadline_s: Some(0) }
}

async fn judged(target: Target, kind: CheckKind) -> CheckResult {
    let report = run_checks(&Arc::new(target), &[check(kind)], Duration::ZERO, |_| ()).await;
    report.checks.into_iter().next().unwrap()
}

async fn verdict(kind: CheckKind) -> (Verdict, String) {
    let result = judged(target(Side::Clone), kind).await;
    (result.verdict, result.detail)
}

/// A server that serves connections one after the other; gives its port.
async fn serve<F, R>(mut handler: F) -> u16
where
    F: FnMut(tokio::net::TcpStream) -> R + Send + 'static,
    R: Future<Output = Option<()>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            handler(stream).await;
        }
    });
    port
}

/// A server that says this and closes.
async fn says(bytes: impl Into<Vec<u8>>) -> u16 {
    let bytes = bytes.into();
    serve(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            stream.write_all(&bytes).await.ok()?;
            let mut rest = Vec::new();
            // Reads what the client says, so that closing is no reset.
            let _ = tokio::time::timeout(Duration::from_millis(200), stream.read_to_end(&mut rest)).await;
            Some(())
        }
    })
    .await
}

/// A certificate for a name, valid for years around now or expired.
fn acceptor(name: &str, expired: bool) -> TlsAcceptor {
    let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    if expired {
        parameters.not_before = rcgen::date_time_ymd(2019, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2020, 2, 3);
    }
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

fn page(port: u16) -> HttpCheck {
    HttpCheck { port: Some(port), path: "/".into(), host: None, status: None, contains: None, tls: TlsMode::Strict }
}

#[tokio::test]
async fn tcp_tells_open_from_closed() {
    let port = says("").await;
    assert_eq!(verdict(CheckKind::Tcp { port }).await.0, Verdict::Passed);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let (verdict, detail) = verdict(CheckKind::Tcp { port: free }).await;
    assert_eq!((verdict, detail), (Verdict::Failed, format!("127.0.0.1:{free} refused")));
}

#[tokio::test]
async fn a_service_that_comes_up_late_passes_within_the_deadline() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let _ = listener.accept().await;
    });
    let late = Check { deadline_s: Some(10), ..check(CheckKind::Tcp { port }) };
    let report = run_checks(&Arc::new(target(Side::Clone)), &[late], Duration::ZERO, |_| ()).await;
    assert_eq!(report.checks[0].verdict, Verdict::Passed, "{report:?}");
    assert!(report.checks[0].elapsed_s >= 1.0);
}

#[tokio::test]
async fn pages_are_judged_by_status_and_content() {
    let get = |answer: &'static str, edit: fn(&mut HttpCheck)| async move {
        let mut check = page(says(answer).await);
        edit(&mut check);
        verdict(CheckKind::Http(check)).await
    };
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(get(plain, |_| ()).await, (Verdict::Passed, "200, 5 bytes".into()));
    let contains = |check: &mut HttpCheck| check.contains = Some("hell".into());
    assert_eq!(get(plain, contains).await.0, Verdict::Passed);
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
    assert_eq!(get(chunks, contains).await, (Verdict::Passed, "200, 5 bytes".into()));
    assert_eq!(get("HTTP/1.0 200 OK\r\n\r\nhello", contains).await.0, Verdict::Passed);
    assert!(get("HTTP/1.1 200 OK\r\n\r\nother", contains).await.1.contains("does not contain \"hell\""));
    assert!(get("HTTP/1.1 502 Bad\r\n\r\n", |_| ()).await.1.ends_with("answered 502"));
    let gone = |check: &mut HttpCheck| check.status = Some(410);
    assert_eq!(get("HTTP/1.1 410 Gone\r\n\r\n", gone).await.0, Verdict::Passed);
    assert!(get(plain, gone).await.1.ends_with("answered 200, not 410"));
    assert!(get("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", |_| ()).await.1.contains("broke off"));
    let (verdict, detail) = get("SSH-2.0-\u{1b}]0;x\u{7}\r\n", |_| ()).await;
    assert_eq!(verdict, Verdict::Failed);
    assert!(detail.contains("sent no HTTP answer") && !detail.contains('\u{1b}'), "{detail}");
}

async fn tls_page(name: &'static str, expired: bool) -> u16 {
    let acceptor = acceptor(name, expired);
    serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut tls = acceptor.accept(stream).await.ok()?;
            let mut request = [0; 4096];
            let count = tls.read(&mut request).await.ok()?;
            assert!(String::from_utf8_lossy(&request[..count]).contains("Host: mercure.example\r\n"));
            tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.ok()?;
            tls.shutdown().await.ok()
        }
    })
    .await
}

#[tokio::test]
async fn certificates_are_judged_flaw_by_flaw() {
    let port = tls_page("mercure.example", false).await;
    let (verdict_strict, detail) = verdict(CheckKind::Https(page(port))).await;
    assert_eq!(verdict_strict, Verdict::Failed);
    assert!(
        detail.contains("certificate") && !detail.contains("is not for") && !detail.contains("expired"),
        "{detail}"
    );
    let any = |port| CheckKind::Https(HttpCheck { tls: TlsMode::Any, ..page(port) });
    assert_eq!(verdict(any(port)).await, (Verdict::Passed, "200, 2 bytes".into()));

    let port = tls_page("other.example", true).await;
    let (_, detail) = verdict(CheckKind::Https(page(port))).await;
    assert!(detail.contains("expired on 2020-02-03") && detail.contains("is not for mercure.example"), "{detail}");
    let (verdict, detail) = verdict(any(port)).await;
    assert_eq!((verdict, detail.as_str()), (Verdict::Passed, "200, 2 bytes; certificate expired on 2020-02-03"));
}

fn mailbox(port: u16, password: &tempfile::NamedTempFile) -> MailboxCheck {
    MailboxCheck {
        port: Some(port),
        implicit_tls: false,
        tls: TlsMode::Any,
        login: Some(Login { user: "probe".into(), password_file: password.path().into() }),
        mailbox: "INBOX".into(),
        messages_min: None,
        messages_baseline: true,
    }
}

fn password() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s3\"cret\nnot this\n").unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// Speaks by a script: each line received is answered by the function; `None` goes on by TLS after "go ahead".
async fn converse_by<S: Stream>(stream: S, greeting: &str, answer: impl Fn(&str) -> Option<String>) -> Option<S> {
    let mut stream = BufReader::new(stream);
    stream.write_all(greeting.as_bytes()).await.ok()?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match answer(line.trim_end()) {
            Some(text) => stream.write_all(text.as_bytes()).await.ok()?,
            None => return Some(stream.into_inner()),
        }
    }
}

/// An IMAP server like dovecot's: no login before STARTTLS.
async fn imap_server(messages: u32) -> u16 {
    let acceptor = acceptor("mercure", false);
    serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let before = |line: &str| match line {
                "a1 STARTTLS" => None,
                _ => Some("a2 NO [PRIVACYREQUIRED] not without TLS\r\n".to_owned()),
            };
            let mut stream = converse_by(stream, "* OK [CAPABILITY IMAP4rev1] ready.\r\n", before).await?;
            stream.write_all(b"a1 OK Begin TLS\r\n").await.ok()?;
            let tls = acceptor.accept(stream).await.ok()?;
            let after = |line: &str| {
                Some(match line {
                    r#"a2 LOGIN "probe" "s3\"cret""# => "* CAPABILITY x\r\na2 OK Logged in\r\n".to_owned(),
                    r#"a3 STATUS "INBOX" (MESSAGES)"# => {
                        format!("* STATUS INBOX (MESSAGES {messages})\r\na3 OK done\r\n")
                    }
                    other => format!("{} NO {other}\r\n", other.split(' ').next().unwrap_or("*")),
                })
            };
            converse_by(tls, "", after).await.map(|_| ())
        }
    })
    .await
}

/// The demonstration's catch: the mailbox shows nothing where the original shows three.
#[tokio::test]
async fn a_mailbox_that_lost_its_messages_fails() {
    let password = password();
    let imap = |port| check(CheckKind::Imap(mailbox(port, &password)));
    let original = Arc::new(target(Side::Promoted));
    let baseline = take_baseline(&original, &[imap(imap_server(3).await)]).await.unwrap();
    assert_eq!(baseline.checks["imap"].messages, Some(3), "{baseline:?}");

    let against = |port| {
        let target = Target { baseline: Some(baseline.clone()), ..target(Side::Clone) };
        let check = imap(port);
        async move { run_checks(&Arc::new(target), &[check], Duration::ZERO, |_| ()).await.checks.remove(0) }
    };
    let lost = against(imap_server(0).await).await;
    assert_eq!(lost.verdict, Verdict::Failed);
    assert!(lost.detail.ends_with("shows 0 messages where the original showed 3"), "{lost:?}");
    let same = against(imap_server(3).await).await;
    assert_eq!((same.verdict, same.detail.as_str()), (Verdict::Passed, "3 messages"));
    assert_eq!(same.baseline.as_deref(), Some("showed 3 messages"));
}

#[tokio::test]
async fn passwords_are_not_shown_and_open_files_are_told() {
    let password = password();
    let echo = serve(|stream| async {
        let answer = |line: &str| {
            Some(match line.split(' ').next() {
                Some("PASS") => format!("-ERR no such user with {line}\r\n"),
                Some("STLS") => "-ERR no TLS here\r\n".into(),
                _ => "+OK\r\n".into(),
            })
        };
        converse_by(stream, "+OK ready\r\n", answer).await.map(|_| ())
    })
    .await;
    let (failed, detail) = verdict(CheckKind::Pop3(mailbox(echo, &password))).await;
    assert_eq!(failed, Verdict::Failed);
    assert!(detail.contains("refused the login of probe") && !detail.contains("s3\"cret"), "{detail}");

    std::fs::set_permissions(password.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let good = serve(|stream| async {
        let answer = |line: &str| {
            Some(match line {
                "STLS" => "-ERR no TLS here\r\n".to_owned(),
                "STAT" => "+OK 3 1200\r\n".to_owned(),
                _ => "+OK\r\n".to_owned(),
            })
        };
        converse_by(stream, "+OK ready\r\n", answer).await.map(|_| ())
    })
    .await;
    let (passed, detail) = verdict(CheckKind::Pop3(mailbox(good, &password))).await;
    assert_eq!(passed, Verdict::Passed);
    assert!(detail.starts_with("3 messages; ") && detail.contains("can be read by everyone"), "{detail}");
    assert!(detail.contains("login without TLS"), "{detail}");
    let strict = MailboxCheck { tls: TlsMode::Strict, ..mailbox(good, &password) };
    assert!(verdict(CheckKind::Pop3(strict)).await.1.contains("offers no TLS"));

    let none = MailboxCheck { messages_min: Some(9), ..mailbox(good, &password) };
    assert!(verdict(CheckKind::Pop3(none)).await.1.contains("shows 3 messages, not at least 9"));
    let missing = Login { user: "probe".into(), password_file: "/nonexistent/password".into() };
    let missing = MailboxCheck { login: Some(missing), ..mailbox(good, &password) };
    assert!(verdict(CheckKind::Pop3(missing)).await.1.starts_with("cannot read /nonexistent/password"));
}

async fn smtp_server(rcpt: &'static str) -> u16 {
    serve(move |stream| async move {
        let answer = move |line: &str| {
            Some(match line.split([' ', ':']).next() {
                Some("EHLO") => "250-mercure\r\n250-PIPELINING\r\n250 8BITMIME\r\n".to_owned(),
                Some("MAIL" | "RSET") => "250 2.1.0 Ok\r\n".to_owned(),
                Some("RCPT") => rcpt.to_owned(),
                // Nothing may ever be sent.
                Some("DATA" | "BDAT") => panic!("the check sent a message"),
                _ => "221 Bye\r\n".to_owned(),
            })
        };
        converse_by(stream, "220-hello\r\n220 mercure ESMTP\r\n", answer).await.map(|_| ())
    })
    .await
}

#[tokio::test]
async fn smtp_asks_whether_a_recipient_is_accepted() {
    let smtp = |port, rcpt: Option<&str>, starttls| CheckKind::Smtp {
        port: Some(port),
        rcpt: rcpt.map(str::to_owned),
        starttls,
        tls: TlsMode::Any,
    };
    let port = smtp_server("250 2.1.5 Ok\r\n").await;
    let rcpt = Some("postmaster@resel.example");
    assert_eq!(verdict(smtp(port, rcpt, false)).await, (Verdict::Passed, "accepts postmaster@resel.example".into()));
    assert_eq!(verdict(smtp(port, None, false)).await.0, Verdict::Passed);
    let (failed, detail) = verdict(smtp(port, rcpt, true)).await;
    assert_eq!(failed, Verdict::Failed);
    assert!(detail.contains("answered STARTTLS with 221 Bye"), "{detail}");
    let port = smtp_server("550 5.1.1 unknown user\r\n").await;
    assert!(verdict(smtp(port, rcpt, false)).await.1.ends_with("with 550 5.1.1 unknown user"));
    // What is said before TLS must not count as said in TLS (CVE-2011-0411).
    let port = says("220 x\r\n250 x\r\n220 go\r\n250 injected\r\n").await;
    assert!(verdict(smtp(port, None, true)).await.1.contains("plain text after STARTTLS"));
}

#[tokio::test]
async fn hostile_servers_cost_neither_memory_nor_time_nor_the_terminal() {
    let smtp = |port| CheckKind::Smtp { port: Some(port), rcpt: None, starttls: false, tls: TlsMode::Any };
    let (_, detail) = verdict(smtp(says(vec![b'2'; 100_000]).await)).await;
    assert!(detail.contains("a line of more than"), "{detail}");
    let (_, detail) = verdict(smtp(says("220-more\r\n".repeat(5000)).await)).await;
    assert!(detail.contains("endless answer"), "{detail}");
    let (_, detail) = verdict(smtp(says("554 \u{1b}[2J\u{202e}go away\r\n").await)).await;
    assert!(detail.contains("go away") && !detail.contains(['\u{1b}', '\u{202e}']), "{detail}");
    let (_, detail) = verdict(smtp(says([0xff, 0xfe, 0, b'\n']).await)).await;
    assert!(detail.contains("sent no SMTP answer"), "{detail}");
    let (_, detail) =
        verdict(CheckKind::Http(page(says("HTTP/1.1 200 OK\r\nx: y\r\n".to_owned() + &"a: b\r\n".repeat(500)).await)))
            .await;
    assert!(detail.contains("more than 200 headers"), "{detail}");
    let huge = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n";
    assert!(verdict(CheckKind::Http(page(says(huge).await))).await.1.contains("chunk without a size"));
}

/// One byte a second: the conversation ends in time, not when the server likes.
#[tokio::test]
async fn slow_drip_ends_in_time() {
    let port = serve(|mut stream| async move {
        loop {
            stream.write_all(b"2").await.ok()?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    let start = Instant::now();
    let (verdict, detail) =
        verdict(CheckKind::Smtp { port: Some(port), rcpt: None, starttls: false, tls: TlsMode::Any }).await;
    assert_eq!(verdict, Verdict::Failed);
    assert!(detail.contains("took longer than 15 s"), "{detail}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn dns_is_asked_by_udp() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut question).await {
            let mut answer = question[..count].to_vec();
            (answer[2], answer[7]) = (0x81, 1);
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            let _ = socket.send_to(&answer, from).await;
        }
    });
    let ask = |expect: &[&str]| CheckKind::Dns {
        query: "www.example.org".into(),
        record: RecordType::A,
        expect: expect.iter().map(|text| (*text).to_owned()).collect(),
        port: Some(port),
    };
    assert_eq!(verdict(ask(&[])).await, (Verdict::Passed, "192.0.2.7".into()));
    assert_eq!(verdict(ask(&["192.0.2.7"])).await.0, Verdict::Passed);
    assert!(verdict(ask(&["192.0.2.8"])).await.1.contains("gave 192.0.2.7, not 192.0.2.8"));
}

fn here() -> Target {
    Target { inside: Some(Arc::new(LocalHost::new("here"))), ..target(Side::Clone) }
}

#[tokio::test]
async fn commands_are_judged_by_status_and_output() {
    let command = |run: &[&str], status, contains: Option<&str>| CheckKind::Command {
        run: run.iter().map(|word| (*word).to_owned()).collect(),
        status,
        contains: contains.map(str::to_owned),
    };
    let run = |kind| async { judged(here(), kind).await };
    assert_eq!(run(command(&["echo", "a b"], 0, Some("a b"))).await.verdict, Verdict::Passed);
    assert!(run(command(&["echo", "a"], 0, Some("b"))).await.detail.contains("did not print \"b\""));
    let failed = run(command(&["sh", "-c", "printf '\\033[2Joops' >&2; exit 3"], 0, None)).await;
    assert_eq!((failed.verdict, failed.detail.as_str()), (Verdict::Failed, "sh ended with 3, not 0: \u{fffd}[2Joops"));
    assert_eq!(run(command(&["false"], 1, None)).await.verdict, Verdict::Passed);
}

#[tokio::test]
async fn commands_of_checks_are_recorded() {
    let seen = Arc::new(std::sync::Mutex::new(0));
    let observer = Arc::clone(&seen);
    let kind = CheckKind::Command { run: vec!["true".into()], status: 0, contains: None };
    observed(Arc::new(move |_| *observer.lock().unwrap() += 1), judged(here(), kind)).await;
    assert_eq!(*seen.lock().unwrap(), 1);
}

/// The real `ss` and `dpkg-query` of this machine.
#[tokio::test]
async fn a_port_that_is_gone_fails_unless_its_service_is_held() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let drawn = listener.local_addr().unwrap().port();
    let fixed = (20_000..30_000).find_map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).ok()).unwrap();
    let port = fixed.local_addr().unwrap().port();
    let mut baseline = take_baseline(&Arc::new(here()), &[]).await.unwrap();
    let sockets = baseline.sockets.as_mut().unwrap();
    assert!(sockets.iter().any(|socket| socket.port == port) && sockets.iter().any(|socket| socket.port == drawn));
    sockets.retain(|socket| socket.port == port || socket.port == drawn);
    for socket in sockets {
        socket.unit = Some("postfix@-.service".into());
    }
    assert!(baseline.kernel.is_some() && baseline.hostname.is_some());
    drop((fixed, listener));

    let kind = || CheckKind::Baseline { ignore: Vec::new() };
    let gone = judged(Target { baseline: Some(baseline.clone()), ..here() }, kind()).await;
    assert_eq!((gone.verdict, gone.detail), (Verdict::Failed, format!("not listening: {port}")));
    let off = vec!["postfix".to_owned()];
    let held = judged(Target { baseline: Some(baseline.clone()), quarantined: off.clone(), ..here() }, kind()).await;
    assert_eq!(held.verdict, Verdict::Passed);
    assert!(held.detail.contains(&format!("{port} is held")), "{held:?}");
    // On the promoted side nothing is quarantined.
    let promoted = Target { baseline: Some(baseline), quarantined: off, side: Side::Promoted, ..here() };
    assert_eq!(judged(promoted, kind()).await.verdict, Verdict::Failed);
}

#[tokio::test]
async fn quarantined_services_are_held_and_promised_checks_come_later() {
    let off = |side| Target { quarantined: vec!["postfix.service".into()], ..target(side) };
    let smtp = CheckKind::Smtp { port: None, rcpt: None, starttls: false, tls: TlsMode::Any };
    let held = judged(off(Side::Clone), smtp.clone()).await;
    assert_eq!(held.verdict, Verdict::Held);
    assert_eq!(held.detail, "postfix is quarantined; runs after promotion");
    let later = Check { when: When::Promoted, ..check(smtp.clone()) };
    let clone_only = Check { when: When::Clone, ..check(smtp) };
    let report = run_checks(&Arc::new(off(Side::Clone)), &[later], Duration::ZERO, |_| ()).await;
    assert_eq!((report.checks[0].verdict, report.passed()), (Verdict::Later, true));
    let report = run_checks(&Arc::new(off(Side::Promoted)), &[clone_only], Duration::ZERO, |_| ()).await;
    assert!(report.checks.is_empty());
}

#[tokio::test]
async fn failures_stand_beside_what_the_original_showed() {
    let port = says("").await;
    let baseline = take_baseline(&Arc::new(target(Side::Promoted)), &[check(CheckKind::Tcp { port })]).await.unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let clone = Target { baseline: Some(baseline), ..target(Side::Clone) };
    let failed = judged(clone, CheckKind::Tcp { port: free }).await;
    assert!(failed.detail.contains(" refused; the original answered in "), "{failed:?}");
}
