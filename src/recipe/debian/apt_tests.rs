//! Tests of what apt and dpkg print, over recorded output (`fixtures/README.md`).
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

fn read(text: &str) -> Transcript {
    let mut transcript = Transcript::default();
    // Pieces as they come over a link: split anywhere.
    text.as_bytes().chunks(7).for_each(|piece| transcript.feed(piece));
    transcript
}

#[test]
fn progress_of_a_real_upgrade_grows_to_the_end() {
    let text = include_str!("../fixtures/apt-2.6/full-upgrade.txt");
    let mut transcript = Transcript::default();
    let (mut last, mut seen) = (0.0, Vec::new());
    for line in text.split_inclusive('\n') {
        transcript.feed(line.as_bytes());
        let (what, fraction) = transcript.progress();
        let fraction = fraction.unwrap_or(0.0);
        assert!(fraction >= last, "{line}: {fraction} after {last}");
        last = fraction;
        seen.push(what);
    }
    assert!(last > 0.99, "{last}");
    assert!(seen.contains(&"unpacking 40 of 83".to_owned()));
    assert!(seen.contains(&"configuring 83 of 83".to_owned()));
    assert_eq!(transcript.broken(), Vec::<&str>::new());
    assert_eq!(transcript.unreachable(), []);
}

#[test]
fn the_minimal_upgrade_counts_its_packages() {
    let transcript = read(include_str!("../fixtures/apt-2.6/upgrade.txt"));
    assert_eq!((transcript.total, transcript.unpacked, transcript.configured), (91, 91, 91));
}

#[test]
fn an_unreachable_repository_is_named() {
    let transcript = read(include_str!("../fixtures/apt-2.6/update-failure.txt"));
    let named: Vec<_> = transcript.unreachable().iter().map(|u| (u.uri.as_str(), u.suite.as_str())).collect();
    assert_eq!(named, [("http://deb.example/debian", "nosuch"), ("http://127.0.0.1:9/debian", "trixie")]);
    let cause = transcript.cause().unwrap();
    assert!(cause.starts_with("http://deb.example/debian nosuch: 404 "), "{cause}");
}

#[test]
fn a_postinst_failure_is_told_in_one_line() {
    let transcript = read(include_str!("../fixtures/apt-2.6/status-fd-1.txt"));
    let expected = "base-files: /var/lib/dpkg/info/base-files.postinst: 49: echo: echo: I/O error";
    assert_eq!(transcript.cause().unwrap(), expected);
    assert_eq!(transcript.broken(), ["base-files"]);
}

#[test]
fn the_failure_of_dovecot_is_told_in_one_line() {
    let transcript = read(include_str!("../fixtures/apt-2.6/dovecot-failure.txt"));
    let expected = "dovecot-core: Unknown setting: mail_location (/etc/dovecot/conf.d/10-mail.conf line 30)";
    assert_eq!(transcript.cause().unwrap(), expected);
    assert_eq!(transcript.broken(), ["dovecot-core"]);
}

#[test]
fn hostile_output_is_bounded_and_printable() {
    let mut transcript = Transcript::default();
    transcript.feed(&vec![b'x'; 1 << 20]);
    assert!(transcript.unfinished.len() <= LINE);
    transcript.feed(b"\nE: \x1b[2Jnothing works\n");
    assert_eq!(transcript.cause().unwrap(), "\u{fffd}[2Jnothing works");
    let mut transcript = read("99999999999 upgraded, 4294967295 newly installed, 7 reinstalled, 0 to remove\n");
    transcript.feed(b"Setting up x (1) ...\n");
    assert!(transcript.progress().1.unwrap() <= 1.0);
    for _ in 0..1000 {
        transcript.feed(b"noise\n");
    }
    assert!(transcript.block.len() <= BLOCK);
}

#[test]
fn waiting_packages_do_not_hide_the_broken_one() {
    let text = "Setting up a (1) ...\ndpkg: error processing package b (--configure):\n dependency problems - leaving unconfigured\n\
                Setting up a (1) ...\na: error: no such user\nbye\ndpkg: error processing package a (--configure):\n \
                installed a package post-installation script subprocess returned error exit status 1\n\
                E: Sub-process /usr/bin/dpkg returned an error code (1)\n";
    let transcript = read(text);
    assert_eq!(transcript.cause().unwrap(), "a: a: error: no such user");
    assert_eq!(transcript.broken(), ["a", "b"]);
}

#[test]
fn frames_are_taken_off_messages() {
    let line = "Nov 22 21:04:11 echelon dovecot[214]: doveconf: Fatal: Error in configuration file \
                /etc/dovecot/conf.d/10-mail.conf line 30: mail_location: Unknown setting: mail_location";
    assert_eq!(without_frame(line), "Unknown setting: mail_location (/etc/dovecot/conf.d/10-mail.conf line 30)");
    assert_eq!(without_frame("plain: words [x]: y"), "plain: words [x]: y");
}
