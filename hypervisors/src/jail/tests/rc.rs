//! rc.conf: what is known of its variables, what its lines are about, the jails it defines, edits.

use super::super::conf::{Config, Dialect, Files};
use super::super::rc::kind::Kind;
use super::super::rc::{Rc, Value, is_yes};
use super::exported;

const SERVER: &str = include_str!("../../../tests/fixtures/jail/rc/server.conf");
const CODE: &str = include_str!("../../../tests/fixtures/jail/rc/code.conf");
const OLD: &str = include_str!("../../../tests/fixtures/jail/rc/old-jails.conf");

fn rc(text: &str) -> Rc {
    Rc::parse("/etc/rc.conf", text).unwrap()
}

fn is(text: &str) -> Value {
    Value::Is(text.to_owned())
}

#[test]
fn plain_values_are_known_and_code_is_told_of() {
    let rc = rc(CODE);
    assert_eq!(rc.value("base"), is("/data"));
    assert_eq!(rc.value("plain"), is("word"));
    assert_eq!(rc.value("joined"), is("/data/word/end"));
    assert_eq!(rc.value("twice"), is("two"));
    assert_eq!(rc.value("last"), is("kept"));
    assert_eq!(rc.value("nothing"), Value::Unset);
    for unknown in
        ["computed", "ticks", "default", "unknown", "conditional", "loop1", "inside", "cased", "after", "exported"]
    {
        // A name that a loop makes is not seen; nothing is claimed of it either.
        let value = rc.value(unknown);
        assert!(
            matches!(value, Value::Unknown(_)) || unknown == "loop1" && value == Value::Unset,
            "{unknown}: {value:?}"
        );
    }
    let told: Vec<(usize, &str)> = rc.code().map(|(place, why)| (place.line, why)).collect();
    assert_eq!(
        told,
        [
            (6, "a value that only sh can tell"),
            (7, "a value that only sh can tell"),
            (8, "a value that only sh can tell"),
            (9, "a value that only sh can tell"),
            (10, "a condition or a loop"),
            (14, "a condition or a loop"),
            (17, "a function or a group"),
            (20, "a command"),
            (21, "a condition or a loop"),
            (25, "a command"),
            (27, "a command"),
        ]
    );
}

#[test]
fn quotes_and_lines_are_read_as_sh_reads_them() {
    let known = [
        ("a=b", "b"),
        ("a='b c'", "b c"),
        ("a=\"b \\\"c\\\" \\$d \\e\"", "b \"c\" $d \\e"),
        ("a=b\\ c", "b c"),
        ("a=b\\\nc", "bc"),
        ("a=\"b\\\nc\"", "bc"),
        ("a=\"b\nc\"", "b\nc"),
        ("a=", ""),
        ("a=\"\"", ""),
        ("a=b#c", "b#c"),
        ("a=b # c", "b"),
        ("a=b;a=c", "c"),
        ("b=1 a=\"$b\"", "1"),
        ("a='$b `c`'", "$b `c`"),
        ("a=b$", "b$"),
        ("a=\"5 % $ of\"", "5 % $ of"),
        ("a=äö", "äö"),
        ("a=\"ä\\ö\"", "ä\\ö"),
        ("  a=b\r\n", "b"),
    ];
    for (text, value) in known {
        assert_eq!(rc(text).value("a"), is(value), "{text:?}");
    }
    for text in [
        "a=$(x \")\" )",
        "a=${b:-c}",
        "a=`x`",
        "a=$1",
        "a=~/x",
        "a=b c",
        "a=b | c",
        "a=b&",
        "export a=b",
        "read a",
        "a=b >x",
    ] {
        assert!(matches!(rc(text).value("a"), Value::Unknown(_)), "{text:?}");
    }
    for (text, line, column) in [("x=1\na=\"b", 2, 3), ("a='b", 1, 3), ("a=$(b", 1, 3), ("if \"", 1, 4)] {
        let wrong = Rc::parse("/etc/rc.conf", text).unwrap_err();
        assert_eq!((wrong.place.line, wrong.place.column), (line, column), "{text:?}: {wrong}");
        assert!(wrong.help.is_some());
    }
    // What follows a here-document is left alone.
    assert_eq!(rc("cat <<E\na=b\nE\nb=c\n").value("b").text(), None);
    assert_eq!(rc("x &\na=b\n").value("a"), is("b"));
    assert!(matches!(rc("x &&\na=b\n").value("a"), Value::Unknown(_)));
    assert_eq!(["YES", "on", "True", "1", "NO", "yess", ""].map(is_yes), [true, true, true, true, false, false, false]);
}

#[test]
fn every_line_of_a_server_is_taken_for_what_it_is() {
    let rc = rc(SERVER);
    let kinds = rc.kinds();
    let mut told = 0;
    for (index, line) in SERVER.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let Some((_, words)) = line.split_once('#') else { continue };
        // The one that goes over two lines is told of where it ends.
        let number = if line.starts_with(" fine") { index } else { index + 1 };
        let found: Vec<Kind> = kinds.iter().filter(|kind| kind.line == number).map(|kind| kind.kind).collect();
        let word = |word| match word {
            "hardware" => Some(Kind::Hardware),
            "network" => Some(Kind::Network),
            "jail" => Some(Kind::Jail),
            "other" => Some(Kind::Other),
            "service" => Some(Kind::Service),
            _ => None,
        };
        let wanted: Vec<Kind> = match words.contains("of a service") {
            true => vec![Kind::Service],
            false => words.split_whitespace().filter_map(word).collect(),
        };
        assert_eq!(found, wanted, "{line}");
        told += 1;
    }
    assert_eq!(told, SERVER.lines().count() - 2);
    assert!(self::rc(CODE).kinds().iter().filter(|kind| kind.name.is_none()).all(|kind| kind.kind == Kind::Other));
}

#[test]
fn addresses_of_interfaces_are_found_numbered_and_replaced() {
    let rc = rc(SERVER);
    let found: Vec<(String, Option<u32>, String)> =
        rc.aliases().into_iter().map(|alias| (alias.variable, alias.number, alias.ip.to_string())).collect();
    let expected = [
        ("ifconfig_em0", None, "10.11.12.13"),
        ("ifconfig_em0_alias0", Some(0), "10.11.12.20"),
        ("ifconfig_em0_alias1", Some(1), "10.11.12.21"),
    ];
    assert_eq!(found, expected.map(|(name, number, ip)| (name.to_owned(), number, ip.to_owned())));
    assert_eq!((rc.next_alias("em0").unwrap(), rc.next_alias("em1").unwrap()), (2, 0));
    let ip = |text: &str| text.parse().unwrap();
    let new = rc.set_address("ifconfig_em0", ip("10.11.12.13"), ip("10.11.12.213")).unwrap();
    // Two blanks stay two.
    assert_eq!(new.text(), SERVER.replace("inet 10.11.12.13  netmask", "inet 10.11.12.213  netmask"));
    assert_eq!(new.set_address("ifconfig_em0", ip("10.11.12.213"), ip("10.11.12.13")).unwrap().text(), SERVER);
    assert!(rc.set_address("ifconfig_em0", ip("10.11.12.14"), ip("10.11.12.213")).is_err());
    assert!(rc.set_address("ifconfig_em0", ip("10.11.12.13"), ip("::1")).is_err());
    // The mask is no address.
    assert!(rc.set_address("ifconfig_em0", ip("255.255.255.0"), ip("1.2.3.4")).is_err());
    let gap = self::rc("ifconfig_em0_alias0=\"inet 1.2.3.4\"\nifconfig_em0_alias2=\"inet 1.2.3.5\"\n");
    let wrong = gap.next_alias("em0").unwrap_err();
    assert!(wrong.place.line == 2 && wrong.what.contains("alias1"), "{wrong}");
    let six = self::rc("ifconfig_em0_ipv6=\"inet6 2001:db8::1/64\"\nipv6_ifconfig_em1=\"2001:db8::2\"\n");
    assert_eq!(six.aliases().len(), 2);
}

fn generated(jail: &str, fstab: bool) -> Option<String> {
    let text = rc(OLD).generated(jail, &|_| fstab).unwrap()?;
    let config = Config::read("/gen", &Files::from([("/gen".to_owned(), text)]), Dialect::Plain).unwrap();
    Some(exported(&config, jail))
}

#[test]
fn jails_of_the_old_way_become_what_rc_d_jail_makes_of_them() {
    let rc = rc(OLD);
    assert_eq!(rc.jail_list().unwrap().unwrap(), ["mercure", "web_one", "plain"]);
    assert!(rc.jail_enable().unwrap());
    assert_eq!(
        generated("mercure", true).unwrap(),
        "name=mercure:host.hostname=mercure.example:path=/data/jails/mercure:interface=em0:\
         ip4.addr=em0|10.0.5.12/32,em1|10.0.6.12/24,\"em0|10.0.5.13 netmask 255.255.255.0\":ip6.addr=em0|2001:db8::12/128:\
         exec.start=\"sleep 2\",\"/bin/sh /etc/rc\",\"/bin/sh /root/after\":allow.raw_sockets=1:exec.clean:exec.system_user=root:\
         exec.jail_user=root:exec.prestart=/bin/first,/bin/second:exec.stop=\"/bin/sh /etc/rc.shutdown jail\":\
         exec.consolelog=/var/log/jail_mercure_console.log:mount.fstab=/etc/fstab.mercure:mount.devfs:allow.set_hostname=0:\
         allow.sysvipc=0:enforce_statfs=2:children.max=2"
    );
    // A dot in the list is an underscore everywhere; no address: a network of its own.
    assert_eq!(
        generated("web_one", false).unwrap(),
        "name=web_one:host.hostname=web.example:path=/data/jails/web:vnet:vnet.interface=epair0b,epair1b:exec.clean:\
         exec.system_user=root:exec.jail_user=root:exec.start=/bin/init:exec.stop=\"\":\
         exec.consolelog=/var/log/jail_web_one_console.log:allow.set_hostname=1:allow.sysvipc=0:enforce_statfs=2"
    );
    // Without a hostname it is not defined this way, but by a file.
    assert_eq!(generated("plain", true), None);
    assert_eq!(
        rc.jail_files("plain").unwrap(),
        ["/etc/jail.plain.conf", "/etc/jail.conf.d/plain.conf", "/etc/jail.conf"]
    );
    let moved = self::rc("jail_conf=/usr/local/etc/jail.conf\njail_x_y_conf=/x\n");
    assert_eq!(moved.jail_files("x-y").unwrap(), ["/x", "/etc/jail.conf.d/x-y.conf", "/usr/local/etc/jail.conf"]);
    assert_eq!(moved.jail_list().unwrap(), None);
    let alike =
        self::rc("jail_list='a a_b'\njail_a_ip=1\njail_a_b_ip=2\njail_a_rootdir=3\njail_a_ip=4\njail_ab_ip=5\n");
    assert_eq!(alike.jail_variables("a").unwrap(), ["jail_a_ip", "jail_a_rootdir"]);
    assert_eq!(alike.jail_variables("a_b").unwrap(), ["jail_a_b_ip"]);
    let code = self::rc("jail_list=$(ls /data/jails)\njail_a_rootdir=`x`\n");
    assert!(code.jail_list().is_err() && code.is_old_style("a").is_err());
}

#[test]
fn a_variable_is_set_where_it_stands_last() {
    let set = |text: &str, name: &str, value: &str| rc(text).set(name, value).unwrap().text().to_owned();
    assert_eq!(set(SERVER, "sshd_enable", "NO"), SERVER.replace("sshd_enable=\"YES\"", "sshd_enable=\"NO\""));
    assert_eq!(set("a=1\na='2' # c\n", "a", "x y"), "a=1\na='x y' # c\n");
    assert_eq!(set("a=1 b=2;c=3\n", "b", "4"), "a=1 b=4;c=3\n");
    assert_eq!(set("a=1\n", "a", "2 3"), "a=\"2 3\"\n");
    assert_eq!(set("a='1'\n", "a", "it's $5 `x` \"q\" \\"), "a=\"it's \\$5 \\`x\\` \\\"q\\\" \\\\\"\n");
    assert_eq!(set("a=1", "b", "2"), "a=1\nb=\"2\"");
    assert_eq!(set("", "b", "2"), "b=\"2\"\n");
    assert_eq!(set("a=1\n", "a", "1"), "a=1\n");
    for (name, value) in
        [("a b", "1"), ("", "1"), ("1a", "x"), ("a", "x\ny"), ("computed", "x"), ("conditional", "x"), ("after", "x")]
    {
        assert!(rc(CODE).set(name, value).is_err(), "{name}");
    }
    let wrong = rc(CODE).set("conditional", "NO").unwrap_err();
    assert!(wrong.place.line == 10 && wrong.help.is_some(), "{wrong}");
}

#[test]
fn a_variable_goes_with_its_line_and_not_with_a_comment() {
    let unset = |text: &str, name: &str| rc(text).unset(name).unwrap().text().to_owned();
    assert_eq!(unset("a=1\nb=2\nc=3\n", "b"), "a=1\nc=3\n");
    assert_eq!(unset("a=1\nb=2 # why\nb=3\n", "b"), "a=1\n# why\n");
    assert_eq!(unset("a=1; b=2; c=3\n", "b"), "a=1; c=3\n");
    assert_eq!(unset("a=1; b=2\n", "a"), "b=2\n");
    assert_eq!(unset("a=1 b=2 c=3\n", "b"), "a=1 c=3\n");
    assert_eq!(unset("a=1\nb=2", "b"), "a=1");
    assert_eq!(unset("a=1\n", "b"), "a=1\n");
    assert_eq!(unset("a=\"1\n2\"\nb=1\n", "a"), "b=1\n");
}

#[test]
fn words_of_a_list_come_and_go() {
    let add = |text: &str| rc(text).add_word("l", "new").unwrap().text().to_owned();
    assert_eq!(add("l=\"a b\" # c\n"), "l=\"a b new\" # c\n");
    assert_eq!(add("l=\"a new b\"\n"), "l=\"a new b\"\n");
    assert_eq!(add("l=\"\"\n"), "l=\"new\"\n");
    assert_eq!(add("l=a\n"), "l=\"a new\"\n");
    assert_eq!(add("x=1\n"), "x=1\nl=\"new\"\n");
    // A variable in it stays one.
    assert_eq!(add("b=a\nl=\"$b newer\"\n"), "b=a\nl=\"$b newer new\"\n");
    let gone = |text: &str| rc(text).remove_word("l", "new").unwrap().text().to_owned();
    assert_eq!(gone("l=\"a  new  b\"\n"), "l=\"a   b\"\n");
    assert_eq!(gone("l=\"new b\"\n"), "l=\"b\"\n");
    assert_eq!(gone("l=\"a new\"\n"), "l=\"a\"\n");
    assert_eq!(gone("l='new'\n"), "l=''\n");
    assert_eq!(gone("l=new\n"), "l=\"\"\n");
    assert_eq!(gone("l=\"newer anew new-1\"\n"), "l=\"newer anew new-1\"\n");
    assert_eq!(gone("n=new\nl=\"a $n\"\n"), "n=new\nl=\"a\"\n");
    assert_eq!(gone("x=1\n"), "x=1\n");
    for bad in ["", "a b", "$x", "`x`", "a\"b"] {
        assert!(rc("").add_word("l", bad).is_err() && rc("").remove_word("l", bad).is_err(), "{bad:?}");
    }
}
