//! Mail as a measure: numbered mails go to production all the time, and in the end each accepted one must have been
//! delivered, once.
//!
//! What counts as *accepted* is the server's 250 after the message (RFC 5321 §4.2.5: from then on it is responsible).
//! A mail that was refused or could not be handed over is sent again under its number. If the line went dead between
//! the final dot and the answer, nobody can know: that number is *unclear*, may arrive once or not at all, and is not
//! used again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// The header that bears the number.
const HEADER: &str = "X-Lab-Number";

/// How long a server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause between two mails.
const PAUSE: Duration = Duration::from_millis(250);

/// What became of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Accepted,
    NotAccepted,
    Unclear,
}

/// What was sent.
#[derive(Debug, Default, Clone)]
pub struct Sent {
    /// Numbers the server took.
    pub accepted: Vec<u32>,
    /// Numbers whose fate is unknown.
    pub unclear: Vec<u32>,
    /// Attempts that failed and were repeated.
    pub failed_attempts: u32,
    /// The longest time between two accepted mails.
    pub longest_gap: Duration,
}

/// Sends in the background until stopped.
#[derive(Debug)]
pub struct Sender {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Sent>,
}

impl Sender {
    /// Begins to send to a recipient at an address, port 25.
    ///
    /// # Errors
    /// The address is none.
    pub fn start(address: &str, recipient: &str) -> Result<Sender> {
        let server = SocketAddr::new(address.parse().context("the mail server's address")?, 25);
        let (recipient, stop) = (recipient.to_owned(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut sent, mut number, mut last) = (Sent::default(), 1, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                match send(server, &recipient, number) {
                    Attempt::Accepted => {
                        sent.longest_gap = sent.longest_gap.max(last.elapsed());
                        last = Instant::now();
                        sent.accepted.push(number);
                        number += 1;
                    }
                    Attempt::Unclear => {
                        sent.unclear.push(number);
                        number += 1;
                    }
                    Attempt::NotAccepted => sent.failed_attempts += 1,
                }
                std::thread::sleep(PAUSE);
            }
            sent
        });
        Ok(Sender { stop, thread })
    }

    /// Ends the sending.
    ///
    /// # Errors
    /// The sending thread panicked.
    pub fn stop(self) -> Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the mail sender panicked"))
    }
}

/// One attempt to hand over one mail.
fn send(server: SocketAddr, recipient: &str, number: u32) -> Attempt {
    let Ok(mut stream) = hand_over_envelope(server, recipient) else { return Attempt::NotAccepted };
    let message = format!(
        "From: lab@controller.example\r\nTo: {recipient}\r\nSubject: mail {number}\r\nMessage-ID: <{number}.{}@controller.example>\r\n{HEADER}: {number}\r\n\r\nmail {number}\r\n.\r\n",
        std::process::id()
    );
    // Once the dot may be on its way, only an answer tells.
    if stream.get_mut().write_all(message.as_bytes()).is_err() {
        return Attempt::Unclear;
    }
    match reply(&mut stream) {
        Ok(250) => {
            let _ = stream.get_mut().write_all(b"QUIT\r\n");
            Attempt::Accepted
        }
        Ok(_) => Attempt::NotAccepted,
        Err(_) => Attempt::Unclear,
    }
}

/// The dialogue up to `354 go on`.
fn hand_over_envelope(server: SocketAddr, recipient: &str) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(stream);
    let greeting = reply(&mut stream)?;
    ensure!(greeting == 220, "greeted with {greeting}");
    for (line, expected) in [
        ("HELO controller.example".to_owned(), 250),
        ("MAIL FROM:<lab@controller.example>".to_owned(), 250),
        (format!("RCPT TO:<{recipient}>"), 250),
        ("DATA".to_owned(), 354),
    ] {
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        let answer = reply(&mut stream)?;
        ensure!(answer == expected, "{line}: {answer}");
    }
    Ok(stream)
}

/// The code of a reply, of several lines perhaps.
fn reply(stream: &mut BufReader<TcpStream>) -> Result<u16> {
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line)? > 0, "the server closed the connection");
        if line.as_bytes().get(3) != Some(&b'-') {
            return line.get(..3).unwrap_or_default().parse().with_context(|| format!("reply {line:?}"));
        }
    }
}

/// Compares what was sent with a maildir, waiting for deliveries under way.
///
/// # Errors
/// An accepted mail is missing or there twice, an unclear one twice; all of them named.
pub fn assert_once_each(sent: &Sent, maildir: &Path, patience: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let delivered = delivered(maildir)?;
        let count = |number: &u32| delivered.get(number).copied().unwrap_or(0);
        let missing: Vec<_> = sent.accepted.iter().filter(|number| count(number) == 0).collect();
        let repeated: Vec<_> = delivered.iter().filter(|(_, times)| **times > 1).map(|(number, _)| number).collect();
        if missing.is_empty() && repeated.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > patience || !repeated.is_empty() {
            bail!(
                "of {} accepted mails, lost: {missing:?}, delivered more than once: {repeated:?}",
                sent.accepted.len()
            );
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// How often each number is in a maildir (`new` and `cur`).
///
/// # Errors
/// The maildir could not be read.
pub fn delivered(maildir: &Path) -> Result<BTreeMap<u32, u32>> {
    let mut counts = BTreeMap::new();
    for part in ["new", "cur"] {
        let directory = maildir.join(part);
        for entry in fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))? {
            let text = fs::read(entry?.path())?;
            let text = String::from_utf8_lossy(&text);
            if let Some(number) =
                text.lines().find_map(|line| line.strip_prefix(HEADER)?.strip_prefix(':')?.trim().parse().ok())
            {
                *counts.entry(number).or_insert(0) += 1;
            }
        }
    }
    Ok(counts)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn maildir(numbers: &[u32]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for part in ["new", "cur"] {
            fs::create_dir(place.path().join(part)).unwrap();
        }
        for (index, number) in numbers.iter().enumerate() {
            let part = ["new", "cur"][index % 2];
            fs::write(place.path().join(part).join(index.to_string()), format!("To: x\n{HEADER}: {number}\n\nx\n"))
                .unwrap();
        }
        place
    }

    fn verdict(accepted: &[u32], unclear: &[u32], there: &[u32]) -> Result<()> {
        let sent = Sent { accepted: accepted.to_vec(), unclear: unclear.to_vec(), ..Sent::default() };
        assert_once_each(&sent, maildir(there).path(), Duration::ZERO)
    }

    #[test]
    fn each_accepted_mail_is_there_once() {
        verdict(&[1, 2, 3], &[], &[3, 1, 2]).unwrap();
        assert!(verdict(&[1, 2, 3], &[], &[1, 3]).unwrap_err().to_string().contains("lost: [2]"));
        assert!(verdict(&[1, 2], &[], &[1, 2, 2]).unwrap_err().to_string().contains("more than once: [2]"));
    }

    #[test]
    fn an_unclear_mail_may_be_lost_but_not_doubled() {
        verdict(&[1], &[2], &[1]).unwrap();
        verdict(&[1], &[2], &[1, 2]).unwrap();
        assert!(verdict(&[1], &[2], &[1, 2, 2]).is_err());
    }
}
