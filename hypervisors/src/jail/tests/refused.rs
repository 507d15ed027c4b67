//! What jail(8) refuses, or reads otherwise than it is written, is refused with its place and what helps.

use super::super::conf::{Config, Dialect, Files};
use super::config;

fn read(text: &str, dialect: Dialect) -> Result<Config, super::super::Wrong> {
    Config::read("/etc/jail.conf", &Files::from([("/etc/jail.conf".to_owned(), text.to_owned())]), dialect)
}

#[test]
fn what_is_no_jail_conf_is_refused_with_its_place() {
    let refused = [
        ("a { path = /x }", 1, 15, "semicolon", "semicolon"),
        ("a {\n  path = /x\n  persist;\n}", 3, 3, "semicolon", "semicolon"),
        ("a {\n", 2, 1, "ends within a jail", "}"),
        ("a { } }", 1, 7, "\"}\"", ""),
        ("a = ;", 1, 5, "value", "quotes"),
        ("a { x = 1,; }", 1, 11, "value", ""),
        ("a { x = 1 2; }", 1, 11, "semicolon", ""),
        ("a { x {y}; }", 1, 9, "should stand", ""),
        ("= x;", 1, 1, "name", ""),
        ("foo.* { }", 1, 1, "several words", "one pair of quotes"),
        ("a/b { }", 1, 1, "several words", "one pair of quotes"),
        ("\"a$x\" { }", 1, 1, "several words", ""),
        ("$a { }", 1, 4, "\"{\"", ""),
        ("\"\" { }", 1, 1, "without a name", ""),
        ("a { x = \"open;\n }", 1, 9, "does not end", "same quote"),
        ("a { x = 'open;\n }", 1, 9, "does not end", "same quote"),
        ("x = 1; /* open", 1, 8, "does not end", "*/"),
        ("x = ${open;", 1, 5, "does not end", "}"),
        ("x = \"${open\";", 1, 6, "does not end", "}"),
        ("x = ${a\\}b};", 1, 8, "backslash", ""),
        ("x = ä;", 1, 5, "stops reading", "quotes"),
        ("x = \\ä;", 1, 6, "stops reading", "quotes"),
        ("x = \u{1};", 1, 5, "outside quotes", "quotes"),
        ("x = '\\0';", 1, 5, "NUL", ""),
        ("x = '\\xff';", 1, 5, "UTF-8", "characters themselves"),
        ("x = 1\\", 1, 6, "backslash ends the file", ""),
        ("\u{feff}x;", 1, 1, "byte order mark", "out"),
        (".include \"$x\";", 1, 10, "variable", "write the path out"),
        (".include = \"x\";", 1, 1, "no include", ".include \"file\""),
        (".include \"none\";", 1, 10, "/etc/none", "make the file"),
    ];
    for (text, line, column, what, help) in refused {
        let wrong = read(text, Dialect::Including).map(|_| text).unwrap_err();
        assert_eq!((wrong.place.line, wrong.place.column), (line, column), "{text:?}: {wrong}");
        assert!(wrong.what.contains(what), "{text:?}: {wrong}");
        assert!(wrong.help.as_deref().unwrap_or_default().contains(help), "{text:?}: {wrong:?}");
        assert!(wrong.to_string().starts_with("/etc/jail.conf:"), "{wrong}");
    }
}

#[test]
fn what_only_the_newer_one_reads_is_refused_for_the_older() {
    for (text, what) in [("a { b { } }", "jail within a jail"), (".include \"x\";", ".include"), ("x;\r\n", "Windows")]
    {
        let wrong = read(text, Dialect::Plain).unwrap_err();
        assert!(wrong.what.contains(what) && wrong.help.is_some(), "{text:?}: {wrong:?}");
    }
    assert!(read("a { b { } }\r\n", Dialect::Including).is_ok());
}

#[test]
fn a_jail_that_jail_cannot_make_is_refused_and_the_others_are_read() {
    let refused = [
        ("a { path = $none; }", "no value"),
        ("a { persist; path = \"x${persist}\"; }", "no value"),
        ("a { $x = \"$y\"; $y = \"$x\"; path = $x; }", "made of itself"),
        ("a { path = \"/x/$path\"; }", "made of itself"),
        ("a { $l = 1, 2; path = \"/x$l\"; }", "list"),
        ("a { $path = /x; }", "name of a parameter"),
        ("a { $x = 1; x = 2; }", "name of a parameter"),
        ("a { name = b; }", "second time"),
        ("7 { jid = 8; }", "second time"),
    ];
    for (text, what) in refused {
        let config = config(&format!("{text}\nother {{ path = /other; }}"));
        let name = config.jails()[0].to_owned();
        let wrong = config.effective(&name).unwrap_err();
        assert!(wrong.what.contains(what) && wrong.place.line == 1, "{text}: {wrong}");
        assert_eq!(config.effective("other").unwrap().text("path"), Some("/other"));
    }
    let twice = config("a { }\na { persist; }");
    assert_eq!(twice.effective("a").unwrap_err().place.line, 2);
    assert!(twice.effective("none").unwrap_err().what.contains("no jail"));
    assert!(config("* { }").effective("*").is_err());
}

/// A variable of a variable of a variable …, each twice the one before.
#[test]
fn variables_cannot_grow_without_end() {
    let mut text = String::from("$v0 = \"xxxxxxxxxxxxxxxx\";\n");
    for n in 1..40 {
        text += &format!("$v{n} = \"$v{0}$v{0}\";\n", n - 1);
    }
    let long = config(&format!("{text}a {{ path = $v39; }}"));
    assert!(long.effective("a").unwrap_err().what.contains("too long"));
    let mut deep = String::from("$v0 = x;\n");
    for n in 1..200 {
        deep += &format!("$v{n} = $v{};\n", n - 1);
    }
    assert!(config(&format!("path = $v199; {deep} a {{ }}")).effective("a").is_err());
}

#[test]
fn files_that_include_each_other_are_refused() {
    let files = Files::from([
        ("/etc/jail.conf".to_owned(), ".include \"other\";".to_owned()),
        ("/etc/other".to_owned(), ".include \"jail.conf\", \"jail.conf\";".to_owned()),
    ]);
    let wrong = Config::read("/etc/jail.conf", &files, Dialect::Including).unwrap_err();
    assert!(wrong.what.contains("include each other"), "{wrong}");
}
