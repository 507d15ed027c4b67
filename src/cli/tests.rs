#![expect(clippy::unwrap_used, reason = "tests")]

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::{Cli, Command};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_definitions_fit_together() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_one_line_of_help_that_fits() {
    for verb in Cli::command().get_subcommands() {
        let about = verb.get_about().unwrap().to_string();
        assert!(about.len() <= 76 && !about.contains('\n'), "{}: {about}", verb.get_name());
    }
}

#[test]
fn what_the_interface_page_says_can_be_typed() {
    for line in [
        "upgradectl clone mercure --ip .16 --ip eth1=10.0.6.16 --mac 00:16:3e:00:05:70 --strategy in-place",
        "upgradectl clone mercure --hostname other --wait 10m --take-over --ours --approve 5f2c91",
        "upgradectl plan clone mercure --ip .16",
        "upgradectl plan -v promote mercure",
        "upgradectl --json --state /tmp/s promote mercure --yes",
        "upgradectl promote mercure --dry-run --color never",
        "upgradectl run mercure --promote",
        "upgradectl rollback mercure --restore-detached /srv/mail --restore-detached xvdb1 --yes",
        "upgradectl plan abort mercure --restore-detached /srv/mail",
        "upgradectl resume mercure",
        "upgradectl resume --interrupted",
        "upgradectl skip mercure --step 3 --reason done",
        "upgradectl status mercure --live",
        "upgradectl log k3f9 --step 3.7",
        "upgradectl watch",
        "upgradectl --json watch mercure --every 10s",
        "upgradectl watch --once",
        "upgradectl conffiles show mercure /etc/a",
        "upgradectl ssh mercure --original -- journalctl -u dovecot",
        "upgradectl init --sim",
        "upgradectl doctor mercure",
        "upgradectl gc --from-world",
        "upgradectl gc --adopt mercure--k3f9-xvda1",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn bad_usage_ends_with_2_and_says_what_would_do() {
    for (line, said) in [
        ("upgradectl clon mercure", "'clone'"),
        ("upgradectl clone", "<GUEST>"),
        ("upgradectl clone mercure --ip 10.0.5", "\".16\""),
        ("upgradectl promote mercure --wait 3", "\"90s\""),
        ("upgradectl promote mercure --yes --approve 5f2c91", "--approve"),
        ("upgradectl promote mercure --approve yes", "six digits"),
        ("upgradectl promote mercure --ours --theirs", "--theirs"),
        ("upgradectl resume", "<GUEST"),
        ("upgradectl skip mercure --step 3", "--reason"),
        ("upgradectl log mercure --step 0", "step 7 of plan 3"),
    ] {
        let error = parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(said), "{line}: {error}");
    }
    assert_eq!(parse("upgradectl --help").unwrap_err().kind(), ErrorKind::DisplayHelp);
}

#[test]
fn what_comes_after_two_dashes_is_the_guest_s() {
    let Command::Ssh(ssh) = parse("upgradectl ssh mercure -- ls --json -v").unwrap().command else {
        panic!("ssh is ssh")
    };
    assert!(format!("{ssh:?}").contains(r#"["ls", "--json", "-v"]"#), "{ssh:?}");
}
