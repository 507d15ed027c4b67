//! Jails of the old way as definitions: written, changed where they stand, taken out, by hand and at random.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use super::super::rc::variables::{compose, derived, is_variables};
use super::super::rc::{Rc, Value};
use crate::{Definition, DefinitionEdit, DiskEdit, Mark, NewAddress, NewGuest, Role, VolumeKind, VolumeRef};

const OLD: &str = include_str!("../../../tests/fixtures/jail/rc/old-jails.conf");

fn rc(text: &str) -> Rc {
    Rc::parse("/etc/rc.conf", text).unwrap()
}

fn guest(name: &str, mark: Option<Role>) -> NewGuest {
    let address = |ip: &str, prefix| NewAddress { interface: Some("em0".into()), ip: ip.parse().unwrap(), prefix };
    NewGuest {
        name: name.into(),
        root: "/data/jails/ServerB--k3f9".into(),
        hostname: "ServerB.example".into(),
        addresses: vec![address("10.0.2.113", 24), address("2001:db8::113", 128)],
        mark: mark.map(|role| Mark { run: "ServerB--k3f9".into(), role }),
        container: None,
    }
}

const CLONE: &str = "# upgradectl run ServerB--k3f9 role clone\njail_ServerB__k3f9_rootdir=\"/data/jails/ServerB--k3f9\"\n\
    jail_ServerB__k3f9_hostname=\"ServerB.example\"\njail_ServerB__k3f9_ip=\"em0|10.0.2.113/24,em0|2001:db8::113/128\"";

#[test]
fn a_new_jail_says_what_the_host_does_not_say_for_all() {
    let clone = compose(&rc(OLD), &guest("ServerB--k3f9", Some(Role::Clone))).unwrap();
    assert_eq!(clone.text, CLONE, "devfs is said for all jails");
    assert!(compose(&rc(""), &guest("a", None)).unwrap().text.ends_with("\njail_a_devfs_enable=\"YES\""));
    assert!(
        is_variables(CLONE)
            && !is_variables("jail_x { path = /x; }")
            && !is_variables("# nothing")
            && !is_variables("a=1")
    );
    for name in ["", "a.b", "a/b", "a b"] {
        assert!(compose(&rc(""), &guest(name, None)).is_err(), "{name:?}");
    }
    for hostname in ["a\"; exec.prestart = \"id", "$name", "a\nb", "a\\b", "`id`"] {
        let hostile = NewGuest { hostname: hostname.into(), ..guest("a", None) };
        assert!(compose(&rc(""), &hostile).is_err(), "rc.d/jail writes it into a jail.conf as it is: {hostname}");
    }
    let alone = NewGuest { addresses: Vec::new(), ..guest("a", None) };
    assert!(compose(&rc(""), &alone).unwrap_err().what.contains("no address"));
}

#[test]
fn a_jail_comes_beside_others_and_goes_without_a_trace() {
    for text in [OLD, OLD.trim_end(), "", "jail_ServerB_rootdir=/b\njail_ServerB_hostname=b # of old\n"] {
        let before = rc(text);
        let after = before.with_jail("ServerB--k3f9", CLONE).unwrap();
        assert_eq!(after.jail_text("ServerB--k3f9").unwrap().unwrap(), CLONE);
        assert_eq!(after.jail_mark("ServerB--k3f9").unwrap().unwrap().role, Role::Clone);
        assert_eq!(after.with_jail("ServerB--k3f9", CLONE).unwrap().text(), after.text());
        for (jail, own) in before.old_jails().unwrap().iter().map(|jail| (jail, before.jail_text(jail).unwrap())) {
            assert_eq!(after.jail_text(jail).unwrap(), own, "{jail} is another jail");
        }
        assert!(after.old_jails().unwrap().contains(&"ServerB--k3f9".to_owned()), "its mark tells its name");
        assert_eq!(after.without_jail("ServerB--k3f9").unwrap().text(), text);
    }
    assert_eq!(rc(OLD).without_jail("nosuch").unwrap().text(), OLD);
}

#[test]
fn what_is_no_definition_of_the_jail_is_refused() {
    for text in [
        "",
        "jail_b_rootdir=/b",
        "jail_a_rootdir=/a\njail_a_hostname=a\nx=1",
        "jail_a_rootdir=/a\n\njail_a_hostname=a",
        "# why\njail_a_rootdir=/a\njail_a_hostname=a",
        "jail_a_rootdir=/a\n# upgradectl run a--k3f9 role clone\njail_a_hostname=a",
        "jail_a_rootdir=/a\njail_a_hostname=a\n",
        "jail_a_rootdir=/a; jail_a_hostname=a",
        "jail_a_rootdir=/a\njail_a_hostname=$(hostname)",
        "jail_a_rootdir=/a",
    ] {
        assert!(rc("").with_jail("a", text).is_err(), "{text:?}");
    }
    // Code has a part in it: left alone.
    let code = rc("jail_a_rootdir=/a\njail_a_hostname=a\njail_a_ip=$(x)\n");
    assert!(code.with_jail("a", "jail_a_rootdir=/b\njail_a_hostname=a").is_err());
    // Another variable is made of it.
    let made = rc("jail_a_rootdir=/a\njail_a_hostname=a\njail_b_rootdir=$jail_a_rootdir/b\njail_b_hostname=b\n");
    let wrong = made.with_jail("a", "jail_a_rootdir=/x\njail_a_hostname=a").unwrap_err();
    assert!(wrong.what.contains("something else"), "{wrong}");
    assert!(made.without_jail("a").is_err());
}

#[test]
fn a_jail_is_changed_where_it_stands() {
    let text = "hostname=h\n# the old one\njail_a_rootdir=/a # big\n  jail_a_hostname='a.example'; sshd_enable=YES\njail_a_ip=\"10.0.0.1\"\nlast=1\n";
    let old = Definition { name: "a".into(), text: rc(text).jail_text("a").unwrap().unwrap() };
    assert_eq!(old.text, "jail_a_rootdir=/a\njail_a_hostname='a.example'\njail_a_ip=\"10.0.0.1\"");
    let edit = DefinitionEdit {
        mark: Some(Some(Mark { run: "a--k3f9".into(), role: Role::Production })),
        addresses: BTreeMap::from([("10.0.0.1".parse().unwrap(), Some("10.0.0.9".parse().unwrap()))]),
        disks: BTreeMap::from([(
            "/".to_owned(),
            DiskEdit::Source(VolumeRef { kind: VolumeKind::Directory, path: PathBuf::from("/a--k3f9") }),
        )]),
        ..DefinitionEdit::default()
    };
    let new = derived(&old, &edit).unwrap();
    let after = rc(text).with_jail("a", &new.text).unwrap();
    assert_eq!(
        after.text(),
        "hostname=h\n# the old one\n# upgradectl run a--k3f9 role production\njail_a_rootdir=/a--k3f9 # big\n  jail_a_hostname='a.example'; sshd_enable=YES\njail_a_ip=\"10.0.0.9\"\nlast=1\n"
    );
    assert_eq!(after.with_jail("a", &old.text).unwrap().text(), text);
    let more = format!("{}\njail_a_fib=\"1\"", old.text);
    let with_more = rc(text).with_jail("a", &more).unwrap();
    assert!(with_more.text().contains("jail_a_ip=\"10.0.0.1\"\njail_a_fib=\"1\"\nlast"), "{}", with_more.text());
    assert_eq!(with_more.with_jail("a", &old.text).unwrap().text(), text);
    let renamed = derived(&old, &DefinitionEdit { name: Some("b-c".into()), ..DefinitionEdit::default() }).unwrap();
    assert!(renamed.name == "b-c" && renamed.text.starts_with("jail_b_c_rootdir=/a\n"), "{}", renamed.text);
    let gone = rc(text).without_jail("a").unwrap();
    assert_eq!(gone.text(), "hostname=h\n# the old one\n# big\n  sshd_enable=YES\nlast=1\n");
}

/// A file in which the jail `web`, others, and all else stand in any order.
fn file() -> impl Strategy<Value = String> {
    let own = [
        "rootdir=/web",
        "hostname='w.example'",
        "ip=\"em0|10.0.0.1\"",
        "exec_start=\"/bin/sh /etc/rc\"",
        "ip=10.0.0.2",
    ];
    let other = [
        "jail_web_2_rootdir=/web2\njail_web_2_hostname=w2",
        "jail_db_rootdir=/db; jail_db_hostname=db",
        "jail_list=\"web db\"",
        "# a comment \"",
        "",
        "if true; then\n\tx=1\nfi",
        "sshd_enable=YES # why",
    ];
    let own = prop::sample::select(own.to_vec()).prop_map(|line| format!("jail_web_{line}"));
    let more = prop::sample::select(vec!["", " # comment", "; a=1"]);
    let line = prop_oneof![
        3 => (own, more).prop_map(|(line, more)| line + more),
        2 => prop::sample::select(other.to_vec()).prop_map(str::to_owned),
    ];
    (prop::collection::vec(line, 0..9), any::<bool>())
        .prop_map(|(lines, end)| lines.join("\n") + if end && !lines.is_empty() { "\n" } else { "" })
}

proptest! {
    #[test]
    fn a_new_jail_comes_and_goes_without_a_trace(text in file()) {
        let before = rc(&text);
        let after = before.with_jail("ServerB--k3f9", CLONE).unwrap();
        prop_assert_eq!(after.jail_text("ServerB--k3f9").unwrap().unwrap(), CLONE);
        prop_assert_eq!(after.jail_text("web").unwrap(), before.jail_text("web").unwrap());
        let back = after.without_jail("ServerB--k3f9").unwrap();
        prop_assert_eq!(back.text(), text);
    }

    #[test]
    fn a_jail_is_another_and_as_it_was_and_gone(text in file(), root in "/[a-z]{1,8}", ip in 1u8..250) {
        let before = rc(&text);
        let Some(old) = before.jail_text("web").unwrap() else { return Ok(()) };
        let old = Definition { name: "web".into(), text: old };
        let edit = DefinitionEdit {
            mark: Some(Some(Mark { run: "web--k3f9".into(), role: Role::Production })),
            addresses: BTreeMap::from([("10.0.0.1".parse().unwrap(), Some(format!("10.0.0.{ip}").parse().unwrap()))]),
            disks: BTreeMap::from([("/".to_owned(), DiskEdit::Source(VolumeRef { kind: VolumeKind::Directory, path: root.clone().into() }))]),
            ..DefinitionEdit::default()
        };
        let new = derived(&old, &edit).unwrap();
        let after = before.with_jail("web", &new.text).unwrap();
        prop_assert_eq!(after.value("jail_web_rootdir"), Value::Is(root));
        prop_assert_eq!(after.jail_text("web_2").unwrap(), before.jail_text("web_2").unwrap());
        let back = after.with_jail("web", &old.text).unwrap();
        prop_assert_eq!(back.text(), &text);
        let gone = after.without_jail("web").unwrap();
        prop_assert!(!gone.text().contains("jail_web_r") && !gone.text().contains("upgradectl"));
        prop_assert_eq!(gone.text().matches("comment").count(), text.matches("comment").count());
        prop_assert_eq!(gone.jail_text("db").unwrap(), before.jail_text("db").unwrap());
    }
}
