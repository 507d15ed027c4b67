//! The corpus: every construct of jail.conf(5), each file with what it must come to.

use super::super::conf::{Config, Dialect};
use super::{exported, files};

const DIALECTS: [(Dialect, &str); 2] = [(Dialect::Plain, "plain"), (Dialect::Including, "including")];

/// What a file says of itself: the jails it must have, in order, and what each must come to.
fn expected(text: &str, dialect: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| {
        let (which, rest) = line.strip_prefix("# expect")?.split_once(' ')?;
        let (jail, said) = rest.split_once(": ")?;
        (which.is_empty() || which == format!("-{dialect}")).then(|| (jail.to_owned(), said.to_owned()))
    });
    lines.collect()
}

#[test]
fn every_file_comes_to_what_it_says() {
    let mut read = 0;
    for (name, text) in files(".", "").into_iter().filter(|(name, _)| name.ends_with(".conf")) {
        if name.starts_with("/included") || name.starts_with("/rc") {
            continue;
        }
        for (dialect, word) in DIALECTS {
            let expected = expected(&text, word);
            let files = [(name.clone(), text.clone())].into();
            let config = match Config::read(&name, &files, dialect) {
                Ok(config) => config,
                Err(wrong) => {
                    assert!(expected.is_empty(), "{wrong}");
                    continue;
                }
            };
            for (jail, said) in &expected {
                assert_eq!(&exported(&config, jail), said, "{name}: {jail}, {word}");
                read += 1;
            }
            let jails = config.jails();
            assert!(expected.iter().all(|(jail, _)| jails.contains(&jail.as_str())), "{name}: {jails:?}");
            assert!(expected.len() == jails.len() || name == "/operator.conf", "{name}: {jails:?}");
        }
    }
    assert!(read > 40, "only {read} expectations were read");
}

#[test]
fn flags_are_true_or_false_as_jail_judges_them() {
    let text = include_str!("../../../tests/fixtures/jail/booleans.conf");
    let effective = super::config(text).effective("galaad").unwrap();
    let flags = text.lines().find_map(|line| line.strip_prefix("# flags galaad: ")).unwrap();
    for flag in flags.split(' ') {
        let name = flag.trim_start_matches('!');
        assert_eq!(effective.flag(name), !flag.starts_with('!'), "{flag}");
    }
}

#[test]
fn includes_are_asked_for_and_then_read() {
    let all = files("included", "/etc");
    let root = "/etc/jail.conf";
    let only_root = [(root.to_owned(), all[root].clone())].into();
    let wanted = Config::wanted(root, &only_root, Dialect::Including).unwrap();
    assert_eq!(
        wanted,
        [
            "/etc/common.conf",
            "/etc/jail.conf.d/*.conf",
            "/etc/jail.[a-m]*.conf",
            "/usr/local/etc/jail.conf.d/*.conf",
            "/etc/limits",
        ]
    );
    let missing = Config::read(root, &only_root, Dialect::Including).unwrap_err();
    assert_eq!((missing.place.line, missing.place.column), (4, 10));
    assert!(missing.what.contains("/etc/common.conf"), "{missing}");

    let config = Config::read(root, &all, Dialect::Including).unwrap();
    let expected = expected(&all[root], "including");
    assert_eq!(config.jails(), ["one", "two", "mine"]);
    for (jail, said) in expected {
        assert_eq!(exported(&config, &jail), said, "{jail}");
    }
    assert_eq!(config.file_of("one").unwrap(), "/etc/jail.conf.d/one.conf");
    let two = config.effective("two").unwrap();
    assert_eq!(two.get("path").unwrap().places[0].to_string(), "/etc/jail.extra.conf:3:2");
    assert_eq!(two.get("exec.clean").unwrap().places[0].to_string(), "/etc/common.conf:1:1");

    // The old jail(8) knows no includes.
    let wrong = Config::read(root, &all, Dialect::Plain).unwrap_err();
    assert!(wrong.what.contains(".include") && wrong.place.line == 4, "{wrong}");
}

#[test]
fn every_parameter_tells_where_it_comes_from() {
    let text = include_str!("../../../tests/fixtures/jail/operator.conf");
    let config = super::config(text);
    let effective = config.effective("ServerC").unwrap();
    let places = |name: &str| {
        let param = effective.get(name).unwrap();
        (param.own, param.places.iter().map(|place| (place.line, place.column)).collect::<Vec<_>>())
    };
    assert_eq!(places("path"), (false, vec![(6, 1)]));
    assert_eq!(places("ip4.addr"), (true, vec![(24, 5), (25, 5)]));
    assert_eq!(places("mount.devfs"), (true, vec![(26, 5)]));
    assert_eq!(places("name"), (true, vec![(21, 1)]));
    assert_eq!(effective.text("exec.prestart"), Some("/bin/echo old"));
    assert!(effective.get("note").is_none());
}

/// The file of the recording is the one that was recorded.
#[test]
fn the_recorded_jails_are_exported_as_recorded() {
    let text = include_str!("../../../tests/fixtures/jail/recorded.conf");
    let config = super::config(text);
    assert_eq!(config.effective("ServerA").unwrap().list("ip4.addr"), ["vtnet0|10.0.2.112/32"]);
    assert_eq!(config.effective("ServerB").unwrap().text("path"), Some("/data/jails/ServerB"));
}
