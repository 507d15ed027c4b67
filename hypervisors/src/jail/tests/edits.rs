//! Edits of one jail: what changes is what was asked for, and nothing else.

use super::super::conf::edit::{Change, Setting};
use super::super::conf::{Config, Dialect, Files};
use super::{config, exported};
use crate::{Mark, Role};

const OPERATOR: &str = include_str!("../../../tests/fixtures/jail/operator.conf");

fn set(name: &str, values: &[&str]) -> Change {
    Change::Set(name.into(), Setting::Values(values.iter().map(|value| (*value).to_owned()).collect()))
}

fn flag(name: &str, on: bool) -> Change {
    Change::Set(name.into(), Setting::Flag(on))
}

fn mark(role: Role) -> Mark {
    Mark { run: "ServerA--k3f9".into(), role }
}

/// The lines that only one of two texts has.
fn changed(before: &str, after: &str) -> String {
    similar::TextDiff::from_lines(before, after)
        .iter_all_changes()
        .filter(|change| change.tag() != similar::ChangeTag::Equal)
        .map(|change| format!("{}{}", change.tag(), change.to_string_lossy()))
        .collect()
}

fn edited(jail: &str, changes: &[Change]) -> String {
    changed(OPERATOR, &config(OPERATOR).edit(jail, changes).unwrap().text)
}

#[test]
fn a_value_changes_where_it_stands_and_its_comment_stays() {
    assert_eq!(
        edited("ServerA", &[set("ip4.addr", &["em0|10.11.12.99/24", "em1|192.168.1.13/24"])]),
        "-\tip4.addr\t= \"em0|10.11.12.13/24\",\t\t// the world\n+\tip4.addr\t= \"em0|10.11.12.99/24\",\t\t// the world\n"
    );
    assert_eq!(
        edited("ServerA", &[set("ip4.addr", &["em0|10.11.12.13/24", "em1|192.168.1.99/24"])]),
        "-\t\t\t  'em1|192.168.1.13/24';\t// backup\n+\t\t\t  'em1|192.168.1.99/24';\t// backup\n"
    );
    // += is a list too.
    assert_eq!(
        edited("ServerC", &[set("ip4.addr", &["em0|10.11.12.15/24", "em0|10.11.12.17/32"])]),
        "-    ip4.addr += 'em0|10.11.12.16/32';\n+    ip4.addr += 'em0|10.11.12.17/32';\n"
    );
    assert_eq!(
        edited("ServerC", &[set("ip4.addr", &["em0|10.11.12.17/32"])]),
        "-    ip4.addr = 'em0|10.11.12.15/24';\n-    ip4.addr += 'em0|10.11.12.16/32';\n+    ip4.addr = 'em0|10.11.12.17/32';\n"
    );
}

#[test]
fn what_comes_from_all_jails_is_overridden_in_the_jail() {
    assert_eq!(edited("ServerC", &[set("path", &["/data/clone $1"])]), "+    path = \"/data/clone \\$1\";\n");
    assert_eq!(edited("ServerA", &[flag("exec.clean", false)]), "+\texec.noclean;\n");
    assert_eq!(
        edited("ServerB", &[set("path", &["/x"])]),
        "-ServerB { host.hostname = ServerB.example; ip4.addr = \"em0|10.11.12.14/24\"; securelevel = 2; }\n\
         +ServerB { host.hostname = ServerB.example; ip4.addr = \"em0|10.11.12.14/24\"; securelevel = 2; path = \"/x\"; }\n"
    );
    assert_eq!(edited("empty", &[set("path", &["/x"])]), "-empty {}\n+empty { path = \"/x\";}\n");
    assert_eq!(edited("blank", &[set("path", &["/x"])]), "+\tpath = \"/x\";\n");
    // It says so already.
    assert_eq!(edited("ServerA", &[set("path", &["/data/jails/ServerA"]), flag("mount.devfs", true)]), "");
}

#[test]
fn flags_and_quotes_keep_their_form() {
    assert_eq!(edited("ServerC", &[flag("mount.devfs", true)]), "-    mount.nodevfs;\n+    mount.devfs;\n");
    assert_eq!(
        edited("ServerC", &[set("host.hostname", &["it's"])]),
        "-    host.hostname = 'ServerC.example';\n+    host.hostname = 'it\\'s';\n"
    );
    assert_eq!(
        edited("ServerB", &[set("host.hostname", &["new.example"]), set("securelevel", &["a b"])]),
        "-ServerB { host.hostname = ServerB.example; ip4.addr = \"em0|10.11.12.14/24\"; securelevel = 2; }\n\
         +ServerB { host.hostname = new.example; ip4.addr = \"em0|10.11.12.14/24\"; securelevel = \"a b\"; }\n"
    );
}

#[test]
fn what_a_jail_sets_itself_is_taken_out() {
    let gone = |name: &str| Change::Remove(name.into());
    assert_eq!(
        edited("ServerA", &[gone("allow.raw_sockets"), gone("ip6.addr")]),
        "-\tip6.addr\t= \"em0|2001:db8::d/64\";\n\
         -\tmount.fstab\t= \"/etc/fstab.ServerA\"; allow.raw_sockets;\n\
         +\tmount.fstab\t= \"/etc/fstab.ServerA\";\n"
    );
    assert_eq!(
        edited("ServerA", &[gone("mount.fstab")]),
        "-\tmount.fstab\t= \"/etc/fstab.ServerA\"; allow.raw_sockets;\n+\tallow.raw_sockets;\n"
    );
    assert_eq!(
        edited("ServerC", &[gone("ip4.addr")]),
        "-    ip4.addr = 'em0|10.11.12.15/24';\n-    ip4.addr += 'em0|10.11.12.16/32';\n"
    );
    assert_eq!(edited("ServerC", &[Change::Inherit("mount.devfs".into())]), "-    mount.nodevfs;\n");
    let wrong = config(OPERATOR).edit("ServerC", &[gone("mount.devfs")]).unwrap_err();
    assert!(wrong.what.contains("not in its own block") && wrong.place.line == 5, "{wrong}");
    let wrong = config(OPERATOR).edit("ServerC", &[Change::Inherit("path".into())]).unwrap_err();
    assert!(wrong.help.is_some() && wrong.place.line == 6, "{wrong}");
    let wrong = config(OPERATOR).edit("ServerC", &[Change::Inherit("vnet".into())]).unwrap_err();
    assert!(wrong.what.contains("does not set"), "{wrong}");
    // A comment in the middle of a statement would go with it.
    let wrong = config(OPERATOR).edit("ServerA", &[gone("ip4.addr")]).unwrap_err();
    assert!(wrong.what.contains("comment") && wrong.place.line == 12, "{wrong}");
}

#[test]
fn what_follows_by_variables_is_told_and_what_changes_otherwise_is_an_error() {
    let text = "path = \"/data/${host.hostname}\";\n$log = \"$path.log\";\nexec.consolelog = $log;\na { host.hostname = a; }\nb { host.hostname = b; }\n";
    let edited = config(text).edit("a", &[set("host.hostname", &["c"])]).unwrap();
    assert_eq!(edited.followed, ["exec.consolelog", "path"]);
    assert_eq!(exported(&edited.config, "a"), "name=a:path=/data/c:exec.consolelog=/data/c.log:host.hostname=c");
    assert_eq!(changed(text, &edited.text), "-a { host.hostname = a; }\n+a { host.hostname = c; }\n");
}

#[test]
fn what_stands_below_the_jails_counts_more_and_is_refused() {
    for below in ["* { path = /all; }", "* { path += /more; }", "\"*\" { ip4.addr = 1.2.3.4; path = /x; }"] {
        let wrong = config(&format!("a {{ path = /a; }}\n{below}\n")).edit("a", &[set("path", &["/b"])]).unwrap_err();
        assert!(wrong.what.contains("in spite of") && wrong.place.line == 2, "{below}: {wrong}");
    }
    // To the old jail(8) a parameter outside of jails is such a wildcard.
    let text = "a { path = /a; }\npath = /all;\n".to_owned();
    let files = Files::from([("/etc/jail.conf".to_owned(), text)]);
    let old = Config::read("/etc/jail.conf", &files, Dialect::Plain).unwrap();
    assert!(old.edit("a", &[set("path", &["/b"])]).is_err());
    assert_eq!(old.effective("a").unwrap().text("path"), Some("/all"));
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    let config = config(OPERATOR);
    for change in [
        set("path", &[]),
        set("path", &["a\u{7}b"]),
        set("pa th", &["x"]),
        set("", &["x"]),
        set("name", &["other"]),
        set("jid", &["3"]),
    ] {
        assert!(config.edit("ServerA", std::slice::from_ref(&change)).is_err(), "{change:?}");
    }
    assert!(config.edit("nowhere", &[]).is_err());
    assert_eq!(config.edit("ServerA", &[]).unwrap().text, OPERATOR);
}

#[test]
fn a_copy_stands_after_its_model_and_goes_without_a_trace() {
    let whole = config(OPERATOR);
    let copy = whole
        .copy(
            "ServerC",
            "ServerC--k3f9",
            &[
                Change::Mark(Some(mark(Role::Clone))),
                set("ip4.addr", &["em0|10.11.12.99/24"]),
                set("host.hostname", &["ServerC.example"]),
                flag("persist", true),
            ],
        )
        .unwrap();
    assert_eq!(
        changed(OPERATOR, &copy.text),
        "+ServerC--k3f9\n+{\n+\t# upgradectl run ServerA--k3f9 role clone\n+    host.hostname = 'ServerC.example';\n\
         +    ip4.addr = 'em0|10.11.12.99/24';\n+    mount.nodevfs;\n\
         +    $note = \"old\"; exec.prestart = \"/bin/echo $note\";\n+    persist;\n+}\n"
    );
    assert_eq!(copy.followed, ["path"]);
    assert_eq!(copy.config.effective("ServerC--k3f9").unwrap().text("path"), Some("/data/jails/ServerC--k3f9"));
    assert_eq!(copy.config.mark("ServerC--k3f9").unwrap(), Some(mark(Role::Clone)));
    assert_eq!(copy.mentions.len(), 1, "{:?}", copy.mentions);
    assert_eq!(copy.config.remove("ServerC--k3f9").unwrap().text, OPERATOR);

    for jail in ["ServerA", "ServerB", "ServerC", "empty", "blank"] {
        let copy = whole.copy(jail, "new", &[]).unwrap();
        assert_eq!(copy.config.remove("new").unwrap().text, OPERATOR, "{jail}");
    }
    for (from, to) in [("ServerA", "ServerB"), ("ServerA", "*"), ("ServerA", "a b"), ("ServerA", ""), ("none", "x")] {
        assert!(whole.copy(from, to, &[]).is_err(), "{from} {to}");
    }
}

/// The mark is not copied, and a copy of a marked jail is marked as it is asked.
#[test]
fn marks_are_set_changed_and_removed_without_a_trace() {
    for jail in ["ServerA", "ServerB", "ServerC", "empty", "blank"] {
        let there = config(OPERATOR).edit(jail, &[Change::Mark(Some(mark(Role::Clone)))]).unwrap();
        assert_eq!(there.config.mark(jail).unwrap(), Some(mark(Role::Clone)), "{jail}");
        let other = there.config.edit(jail, &[Change::Mark(Some(mark(Role::Production)))]).unwrap();
        assert_eq!(other.config.mark(jail).unwrap(), Some(mark(Role::Production)), "{jail}");
        let copy = other.config.copy(jail, "copy", &[]).unwrap();
        assert_eq!(copy.config.mark("copy").unwrap(), None, "{jail}");
        let none = other.config.edit(jail, &[Change::Mark(None)]).unwrap();
        assert_eq!(none.text, OPERATOR, "{jail}");
    }
    assert!(config("a {\n# upgradectl run nonsense\n}").mark("a").is_err());
    let hostile = Mark { run: "x */ evil".into(), role: Role::Clone };
    assert!(config("a { }").edit("a", &[Change::Mark(Some(hostile))]).is_err());
}

#[test]
fn a_new_name_is_one_word_and_the_old_one_is_looked_for() {
    let edited = config(OPERATOR).rename("ServerA", "mail").unwrap();
    assert_eq!(changed(OPERATOR, &edited.text), "-ServerA {\n+mail {\n");
    assert_eq!(edited.followed, ["path"]);
    let lines: Vec<usize> = edited.mentions.iter().map(|place| place.line).collect();
    // host.hostname, the fstab, and the words of exec.prestop.
    assert_eq!(lines, [11, 15, 16]);
    assert_eq!(edited.config.rename("mail", "ServerA").unwrap().text, OPERATOR);

    let quoted = config("'odd' { path = \"/$name\"; }").rename("odd", "x+y").unwrap();
    assert_eq!(quoted.text, "'x+y' { path = \"/$name\"; }");
    assert_eq!(config("odd { }").rename("odd", "x+y").unwrap().text, "\"x+y\" { }");

    let needed = config("a { }\nb { depend = a; }\n");
    assert_eq!(needed.rename("a", "c").unwrap_err().place.line, 2);
    assert_eq!(needed.remove("a").unwrap_err().place.line, 2);
    assert!(needed.remove("b").is_ok());
    // Of one that cannot be read too, as far as it names it to the letter.
    assert!(config("a { }\nb { }\nb { depend = a; }\n").remove("a").is_err());
    assert!(config("a { }\nb { path = $none; }\nb { depend = $none; }\n").remove("a").is_ok());
    let within = config("a { }\na.b { }\n");
    assert!(within.rename("a", "c").is_err() && within.remove("a").is_err());
    // A wildcard that is for one of the two names.
    let wild = config("\"web.*\" { persist; }\nweb.one { }\n");
    assert!(wild.rename("web.one", "other").unwrap_err().what.contains("wildcard"));
    let holds = config("a { path = /a; b { } }");
    assert!(holds.rename("a", "c").is_err() && holds.copy("a", "c", &[]).is_err() && holds.remove("a").is_err());
}

#[test]
fn a_jail_goes_with_its_lines_and_comments_of_others_stay() {
    let text = "a { } # first\n# about b\nb {\n\tpersist;\n}\n\nc { } d { }\n";
    let gone = |jail: &str| config(text).remove(jail).unwrap().text;
    assert_eq!(gone("a"), "# first\n# about b\nb {\n\tpersist;\n}\n\nc { } d { }\n");
    assert_eq!(gone("b"), "a { } # first\n# about b\n\nc { } d { }\n");
    assert_eq!(gone("c"), "a { } # first\n# about b\nb {\n\tpersist;\n}\n\nd { }\n");
    assert_eq!(gone("d"), "a { } # first\n# about b\nb {\n\tpersist;\n}\n\nc { }\n");
}

#[test]
fn a_block_is_put_back_byte_for_byte_while_others_changed() {
    let whole = config(OPERATOR);
    let block = whole.block("ServerA").unwrap().to_owned();
    let ours = whole.edit("ServerA", &[set("ip6.addr", &["::1"]), flag("vnet", true)]).unwrap().config;
    let theirs = ours.edit("ServerB", &[set("securelevel", &["3"])]).unwrap();
    let back = theirs.config.with_block("ServerA", &block).unwrap();
    assert_eq!(back.text, OPERATOR.replace("securelevel = 2", "securelevel = 3"));
    for hostile in ["ServerA { } ServerX { }", "ServerA { }\npath = /x;", "ServerX { }", "", "ServerA {"] {
        assert!(whole.with_block("ServerA", hostile).is_err(), "{hostile:?}");
    }
}

#[test]
fn a_jail_of_an_included_file_is_edited_there() {
    let all = super::files("included", "/etc");
    let config = Config::read("/etc/jail.conf", &all, Dialect::Including).unwrap();
    let edited = config.edit("two", &[set("path", &["/data/three"])]).unwrap();
    assert_eq!(edited.file, "/etc/jail.extra.conf");
    assert_eq!(edited.text, "two {\n\t$base = /data;\n\tpath = \"/data/three\";\n}\n");
    // What an include says after it counts more.
    let wrong = config.edit("mine", &[set("securelevel", &["3"])]).map(|edited| edited.text);
    assert!(wrong.is_ok_and(|text| text.contains(".include \"limits\"; securelevel = \"3\"; }")));
}
