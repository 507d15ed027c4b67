//! Edits of files made at random: what was asked is read back, every other byte stays, and the way back leads to the same bytes.

use proptest::prelude::*;

use super::super::conf::Config;
use super::super::conf::edit::{Change, Setting};
use super::config;

const JAILS: [&str; 3] = ["one", "web.two", "x-3"];
const NAMES: [&str; 7] =
    ["path", "host.hostname", "ip4.addr", "mount.devfs", "exec.start", "allow.raw_sockets", "exec.consolelog"];

/// What may stand between statements.
fn between() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        " ",
        "\n",
        "\n\t",
        "\n\n    ",
        " # c; }\n",
        "\n// x {\n\t",
        "/* \"a */",
        "\n/* two\nlines */\n",
        ";",
    ])
}

/// A value as it may be written.
fn written() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "\"em0|10.0.5.12/24\"",
        "10.0.5.12",
        "'a b'",
        "\"$name.x\"",
        "/data/$name",
        "\"it's \\\"q\\\"\"",
        "''",
        "true",
        "\"{;}#//\"",
        "'$name'",
        "a\\ b",
        "\"${name}\"/x",
        "0",
    ])
    .prop_map(str::to_owned)
}

/// What a value may be asked to be.
fn asked() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z0-9./|_-]{1,12}", "[ -~äß]{0,12}", Just("a\tb\nc".to_owned()), Just("//x/*y*/$z".to_owned())]
}

fn statement() -> impl Strategy<Value = String> {
    let names = prop::sample::select(NAMES.to_vec());
    let values = prop::collection::vec(written(), 0..3);
    (names, prop::sample::select(vec![" = ", "=", " += ", "\t=\n\t"]), values, prop::sample::select(vec![", ", ","]))
        .prop_map(|(name, sign, values, comma)| match values.is_empty() {
            true => format!("{name};"),
            false => format!("{name}{sign}{};", values.join(comma)),
        })
}

fn block(name: &'static str) -> impl Strategy<Value = String> {
    (prop::collection::vec((between(), statement()), 0..5), between(), prop::sample::select(vec!["", "'", "\""]))
        .prop_map(move |(items, last, quote)| {
            let items: String = items.into_iter().map(|(blank, item)| format!("{blank}{item}")).collect();
            format!("{quote}{name}{quote} {{{items}{last}}}")
        })
}

/// A file of all jails, with parameters for all before them and wildcards that only some fit.
fn file() -> impl Strategy<Value = String> {
    let all = prop::collection::vec((statement(), between()), 0..3);
    let wild = prop_oneof![Just(String::new()), statement().prop_map(|item| format!("\"web.*\" {{ {item} }}\n"))];
    (all, wild, block(JAILS[0]), between(), block(JAILS[1]), between(), block(JAILS[2]), between()).prop_map(
        |(all, wild, one, a, two, b, three, c)| {
            let all: String = all.into_iter().map(|(item, blank)| format!("{item}{blank}\n")).collect();
            format!("{all}{wild}{one}{a}{two}{b}{three}{c}")
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let names = prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned);
    let setting = prop_oneof![
        prop::collection::vec(asked(), 1..4).prop_map(Setting::Values),
        any::<bool>().prop_map(Setting::Flag),
    ];
    prop_oneof![
        4 => (names.clone(), setting).prop_map(|(name, setting)| Change::Set(name, setting)),
        1 => names.clone().prop_map(Change::Remove),
        1 => names.prop_map(Change::Inherit),
    ]
}

/// Where a jail's block stands.
fn place(config: &Config, text: &str, jail: &str) -> std::ops::Range<usize> {
    let block = config.block(jail).unwrap();
    let start = block.as_ptr() as usize - config.text("/etc/jail.conf").as_ptr() as usize;
    assert_eq!(&text[start..start + block.len()], block);
    start..start + block.len()
}

/// The comments of a piece of text, in order.
fn comments(text: &str) -> usize {
    ["# c; }", "// x {", "/* \"a */", "/* two\nlines */"].iter().map(|comment| text.matches(comment).count()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn an_edit_says_what_was_asked_and_nothing_else_moves(
        text in file(),
        jail in prop::sample::select(JAILS.to_vec()),
        change in change(),
    ) {
        let before = config(&text);
        let at = place(&before, &text, jail);
        let old = before.effective(jail).unwrap();
        let Ok(edited) = before.edit(jail, std::slice::from_ref(&change)) else {
            // Only these can be refused here: there is nothing to take out, or a wildcard sets it.
            prop_assert!(!matches!(change, Change::Set(..)), "{:?} of {}", change, text);
            return Ok(());
        };
        let after = place(&edited.config, &edited.text, jail);
        prop_assert_eq!(&text[..at.start], &edited.text[..after.start]);
        prop_assert_eq!(&text[at.end..], &edited.text[after.end..]);
        prop_assert_eq!(comments(&text), comments(&edited.text), "{}\n{}", text, edited.text);
        let new = edited.config.effective(jail).unwrap();
        let name = match &change {
            Change::Set(name, Setting::Values(values)) => {
                prop_assert_eq!(new.list(name), values.iter().map(String::as_str).collect::<Vec<_>>());
                name
            }
            Change::Set(name, Setting::Flag(on)) => {
                prop_assert_eq!(new.flag(name), *on);
                name
            }
            Change::Remove(name) => {
                prop_assert!(new.get(name).is_none());
                name
            }
            Change::Inherit(name) => name,
            Change::Mark(_) => unreachable!(),
        };
        let own = |param: &super::super::conf::effective::Parameter| (param.name.clone(), param.values.clone());
        for param in new.params.iter().filter(|param| param.name.replace("no", "") != name.replace("no", "")) {
            let was = old.get(&param.name).map(own);
            prop_assert!(was == Some(own(param)) || edited.followed.contains(&param.name), "{}", param.name);
        }
        // Back, with other jails changed meanwhile or not.
        let back = edited.config.with_block(jail, before.block(jail).unwrap()).unwrap();
        prop_assert_eq!(&back.text, &text);
        // The same again changes nothing.
        if !matches!(change, Change::Inherit(_)) {
            prop_assert_eq!(edited.config.edit(jail, &[change]).unwrap().text, edited.text);
        }
    }

    #[test]
    fn what_is_added_goes_without_a_trace(text in file(), jail in prop::sample::select(JAILS.to_vec()), value in asked()) {
        let before = config(&text);
        // A parameter that the file never has.
        let added = before.edit(jail, &[Change::Set("osrelease".into(), Setting::Values(vec![value]))]).unwrap();
        let gone = added.config.edit(jail, &[Change::Inherit("osrelease".into())]).unwrap();
        prop_assert_eq!(gone.text, text);
    }

    #[test]
    fn a_copy_and_a_new_name_are_taken_back_without_a_trace(text in file(), jail in prop::sample::select(JAILS.to_vec())) {
        let before = config(&text);
        let new = if jail.contains('.') { "web.new" } else { "new" };
        let copy = before.copy(jail, new, &[Change::Set("vnet".into(), Setting::Flag(true))]).unwrap();
        prop_assert!(copy.config.effective(new).unwrap().flag("vnet"));
        prop_assert_eq!(&copy.config.remove(new).unwrap().text, &text);
        let renamed = before.rename(jail, new).unwrap();
        prop_assert_eq!(&renamed.config.rename(new, jail).unwrap().text, &text);
    }
}
