//! Edits of rc.conf files made at random: the variable is what was asked, every other byte stays, and the way back is the same.

use proptest::prelude::*;

use super::super::rc::{Rc, Value};

const NAMES: [&str; 5] = ["sshd_enable", "jail_list", "hostname", "ifconfig_em0", "x"];

fn line() -> impl Strategy<Value = String> {
    let value = prop::sample::select(vec![
        "YES",
        "\"a b\"",
        "'c d'",
        "\"it's\"",
        "\"$hostname x\"",
        "a\\ b",
        "''",
        "\"two\\\nlines\"",
    ]);
    let assign = (prop::sample::select(NAMES.to_vec()), value).prop_map(|(name, value)| format!("{name}={value}"));
    let more = prop::sample::select(vec!["", " # comment \"", "; other=1", " second=2"]);
    prop_oneof![
        6 => (assign, more).prop_map(|(assign, more)| assign + more),
        1 => prop::sample::select(vec![
            "", "# a comment", "if true; then\n\tinside=1\nfi", ". /etc/rc.conf.site", "\t", "f() { local=1; }",
        ]).prop_map(str::to_owned),
    ]
}

fn file() -> impl Strategy<Value = String> {
    (prop::collection::vec(line(), 0..6), any::<bool>())
        .prop_map(|(lines, end)| lines.join("\n") + if end && !lines.is_empty() { "\n" } else { "" })
}

fn parse(text: &str) -> Rc {
    Rc::parse("/etc/rc.conf", text).unwrap()
}

proptest! {
    #[test]
    fn a_variable_is_set_and_set_back(text in file(), name in prop::sample::select(NAMES.to_vec()), value in "[ -~ä]{0,12}") {
        let before = parse(&text);
        if matches!(before.value(name), Value::Unknown(_)) {
            prop_assert!(text.contains("$hostname") && before.set(name, &value).is_err());
            return Ok(());
        }
        let after = before.set(name, &value).unwrap();
        prop_assert_eq!(after.value(name), Value::Is(value.clone()));
        let again = after.set(name, &value).unwrap();
        prop_assert_eq!(again.text(), after.text());
        match before.value(name) {
            // What was not there goes without a trace.
            Value::Unset => {
                let back = after.unset(name).unwrap();
                prop_assert_eq!(back.text(), text);
            }
            Value::Is(old) => prop_assert_eq!(after.set(name, &old).unwrap().value(name), Value::Is(old)),
            Value::Unknown(_) => {}
        }
    }

    #[test]
    fn a_word_comes_and_goes_without_a_trace(text in file()) {
        let before = parse(&text);
        let Ok(after) = before.add_word("jail_list", "k3f9") else { return Ok(()) };
        prop_assert!(after.words("jail_list").ends_with(&["k3f9".to_owned()]));
        let back = after.remove_word("jail_list", "k3f9").unwrap();
        prop_assert_eq!(back.words("jail_list"), before.words("jail_list"));
        let in_quotes = text.contains("jail_list=\"") || text.contains("jail_list='c");
        if in_quotes && before.value("jail_list").text().is_some() && !text.contains("jail_list=YES") && !text.contains("jail_list=a") {
            prop_assert_eq!(back.text(), text);
        }
    }

    #[test]
    fn what_is_unset_is_gone_and_all_else_stays(text in file(), name in prop::sample::select(NAMES.to_vec())) {
        let before = parse(&text);
        let Ok(after) = before.unset(name) else { return Ok(()) };
        prop_assert_eq!(after.value(name), Value::Unset);
        prop_assert_eq!(before.text().matches('#').count(), after.text().matches('#').count());
        prop_assert_eq!(before.assigns().filter(|it| it.name != name).count(), after.assigns().count());
    }
}
