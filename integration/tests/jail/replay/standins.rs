//! What no recording shows: strictness, faults, older hosts, real processes and addresses.

use super::stage::Stage;

/// A host with one jail that can be started.
fn with_a_jail() -> Stage {
    let stage = Stage::new();
    stage.directories(&["/data/jails/ServerA/dev", "/data/jails/ServerA/etc", "/data/jails/ServerA/tmp"]);
    let conf = "exec.start = \"/bin/sh /etc/rc\"; exec.stop = \"/bin/sh /etc/rc.shutdown\"; mount.devfs; path = \"/data/jails/$name\";\n\
        ServerA { host.hostname = a.example; ip4.addr = \"vtnet0|10.0.2.112/32\"; }\n";
    stage.write("/etc/jail.conf", conf);
    stage
}

#[test]
fn what_is_not_documented_is_an_error() {
    let stage = with_a_jail();
    for (command, status, says) in [
        ("jail -Z", 1, "jail: illegal option -- Z"),
        ("jail -c nosuch", 1, "jail: \"nosuch\" not found"),
        ("jls -x", 1, "jls: illegal option -- x"),
        ("jls -n nosuch", 0, ""),
        ("jexec -q ServerA true", 1, "jexec: illegal option -- q"),
        ("dump -0 --level 1 /src", 1, "dump: illegal option -- -"),
        ("restore -f -", 1, "none of i, R, r, t or x"),
        ("chflags noschgg /etc", 1, "chflags: invalid flag: schgg"),
        ("ifconfig vtnet9 inet 10.0.0.1 alias", 1, "ifconfig: interface vtnet9 does not exist"),
        ("etcupdate status -t x", 1, "Illegal option -t"),
        ("etcupdate -D /data/jails/ServerA status", 1, "usage: etcupdate"),
        ("sysctl nosuch.variable", 1, "sysctl: unknown oid 'nosuch.variable'"),
        // Documented, and not played: never a status of the real program.
        ("jail -d -m ServerA", 70, "jailhost: jail: -d is documented but not played"),
        ("sysctl kern.securelevel=1", 70, "not played"),
    ] {
        let (output, got) = stage.try_sh(&stage.moved(command));
        assert!(got == status && output.contains(says), "{command}: {got}\n{output}");
    }
    stage.write("/etc/jail.conf", "ServerA { path = /x; mount.devsf; }\n");
    let (output, status) = stage.try_sh("jail -c ServerA");
    assert!(status == 1 && output.contains("unknown parameter: mount.devsf"), "{output}");
}

#[test]
fn faults_strike_once_and_as_asked() {
    let stage = with_a_jail();
    stage.state(
        "faults",
        "service onestart = lie\njail -r = exit 7 \"no\" x2\njls -v = die-after 10\nexec.start ServerA = exit 1\njexec = kill\n",
    );
    let (output, status) = stage.try_sh("service jail onestart ServerA; jls -j ServerA");
    assert!(output.contains("Starting jails: ServerA.\n") && status == 1, "{output}");
    let (output, status) = stage.try_sh("jail -c ServerA; jls -j ServerA; ifconfig vtnet0");
    assert!(output.contains("jail: ServerA: /bin/sh /etc/rc: failed") && status == 0, "{output}");
    assert!(!output.contains("inet 10.0.2.112") && output.contains("not found"), "nothing is left of it: {output}");
    stage.sh("jail -c ServerA");
    assert_eq!(stage.try_sh("jail -r ServerA"), ("jail: no\n".to_owned(), 7));
    assert_eq!(stage.try_sh("jail -r ServerA").1, 7);
    assert_eq!(stage.try_sh("jexec ServerA true; exit $?").1, 137);
    let (output, _) = stage.try_sh("jls -v | cat; exit ${PIPESTATUS[0]}");
    assert!(output.starts_with("   JID  Ho") && !output.contains("stname"), "{output}");
    assert_eq!(stage.try_sh("jail -r ServerA"), ("ServerA: removed\n".to_owned(), 0));
    stage.state("faults", "jail -c = explode\n");
    let (output, status) = stage.try_sh("jls");
    assert!(status == 70 && output.contains("no such action"), "{output}");
}

#[test]
fn older_hosts_have_less() {
    let stage = Stage::new();
    stage.state("persona", "release = \"4.10-RELEASE\"\narch = \"i386\"\nhostname = \"ServerA\"\n");
    assert_eq!(stage.sh("uname -srm"), "FreeBSD 4.10-RELEASE i386\n");
    for letter in ["L", "C 16", "D /tmp/x"] {
        let (output, status) = stage.try_sh(&format!("dump -0a -{letter} -f - /usr"));
        assert!(status == 1 && output.starts_with("dump: illegal option -- "), "{output}");
    }
    assert_eq!(stage.try_sh("service -l"), ("sh: service: not found\n".to_owned(), 127));
    stage.state("persona", "relase = \"4.10-RELEASE\"\n");
    assert_eq!(stage.try_sh("uname").1, 70, "a slip in the persona is told");
}

#[test]
fn jails_of_rc_conf_and_of_directories() {
    let stage = with_a_jail();
    stage.directories(&["/data/jails/Old/dev", "/data/jails/B/dev"]);
    let rc = "jail_enable=\"YES\"\njail_list=\"Old B\"\njail_Old_rootdir=\"/data/jails/Old\"\njail_Old_hostname=\"old.example\"\n\
        jail_Old_ip=\"10.0.2.9\"\njail_interface=\"vtnet0\"\njail_Old_devfs_enable=\"YES\"\n";
    stage.write("/etc/rc.conf", rc);
    stage.write("/etc/jail.conf.d/B.conf", "B { path = /data/jails/B; host.hostname = b; persist; depend = Old; }\n");
    let (output, _) = stage.try_sh("service jail start; jls -n name path; ifconfig vtnet0 | grep inet");
    // B is the last one it looks at, and is none.
    assert!(!output.contains("is obsolete"), "{output}");
    assert!(output.contains("/var/run/jail.Old.conf is created and used for jail Old."), "{output}");
    assert!(output.contains("name=Old path=/data/jails/Old\nname=B path=/data/jails/B\n"), "{output}");
    assert!(output.contains("inet 10.0.2.9 netmask 0xffffffff"), "{output}");
    let (output, _) = stage.try_sh("service jail stop; jls; ifconfig vtnet0 | grep inet");
    assert!(
        output.contains("Stopping jails: B") && output.contains(" Old.\n") && !output.contains("10.0.2.9"),
        "{output}"
    );
}

#[test]
fn a_jail_of_variables_becomes_what_rc_d_jail_makes_of_it() {
    let stage = Stage::new();
    stage.directories(&["/data/jails/web--1/dev"]);
    stage.write(
        "/etc/rc.conf",
        "jail_list=\"\"\njail_devfs_enable=\"YES\"\njail_web__1_rootdir=\"/data/jails/web--1\"\njail_web__1_hostname=\"w\"\n\
         jail_web__1_ip=\"vtnet0|10.0.2.9/24,vtnet0|10.0.2.10\"\njail_web__1_ip_multi0=\"vtnet0|10.0.2.11/255.255.255.0\"\n\
         jail_web__1_exec_start=\"/bin/true\"\njail_web__1_parameters=\"children.max=2;\"\n",
    );
    let (output, _) = stage.try_sh("service jail onestart web--1; ls /var/run; jls -n name ip4.addr children.max; ifconfig vtnet0 | grep -c 'inet 10.0.2.[19]'");
    assert!(
        output.contains("Starting jails: web--1.\n/etc/rc.d/jail: WARNING: Per-jail configuration via jail_*"),
        "{output}"
    );
    assert!(output.contains("name=web--1 ip4.addr=10.0.2.9,10.0.2.10,10.0.2.11 children.max=2\n3\n"), "{output}");
    let written = stage.sh("cat $JAILHOST_ROOT/var/run/jail.web--1.conf");
    for line in [
        "# Generated by rc.d/jail",
        "web--1 {",
        "ip4.addr += \"vtnet0|10.0.2.10/32\";",
        "netmask 255.255.255.0",
        "exec.clean;",
    ] {
        assert!(written.contains(line), "{line}: {written}");
    }
    // Without an address it is one with a network of its own; of no host name it is none.
    stage.write("/etc/rc.conf", "jail_a_rootdir=/data/jails/a\n");
    let (output, status) = stage.try_sh("service jail onestart a");
    assert!(output.contains("not found") && status == 0, "{output}");
}

#[test]
fn flags_and_objects_can_be_looked_for() {
    let stage = with_a_jail();
    stage.sh("jailhost lay 14.1-RELEASE && make -C /usr/src buildworld > /dev/null && make -C /usr/src installworld DESTDIR=$J > /dev/null");
    // By the place on this machine, as a product does that knows nothing of the pretended root; and by the host's own names.
    let (output, _) = stage.try_sh(
        "o=$(make -C $JAILHOST_ROOT/usr/src -V OBJTOP); grep ^USERLAND $o/bin/freebsd-version/freebsd-version; test -e $o/usr.bin/yes/yes && echo whole
         make -C /usr/src -V .OBJDIR; find $J -xdev '(' -path $J/usr ')' -prune -o -flags +schg -print | sort; find -x $J -name sh
         sysctl -N kern.features | grep -c compat_freebsd; sysctl -n kern.boottime | cut -d' ' -f1-2; freebsd-version -u; sysctl -n kern.osreldate",
    );
    let expected = "USERLAND_VERSION=\"14.1-RELEASE\"\nwhole\n/usr/obj/usr/src/amd64.amd64\n/data/jails/ServerA/lib/libc.so.7\n\
        /data/jails/ServerA/lib/libcrypt.so.5\n/data/jails/ServerA/lib/libthr.so.3\n/data/jails/ServerA/libexec/ld-elf.so.1\n\
        /data/jails/ServerA/sbin/init\n/data/jails/ServerA/var/empty\n/data/jails/ServerA/bin/sh\n9\n{ sec\n13.2-RELEASE\n1302001\n";
    assert_eq!(output, expected);
    stage.sh("chflags -R noschg $J && ! find $J -flags +schg -print | grep . && rm -rf $J && test ! -e $J");
}

#[test]
fn a_jail_for_one_command() {
    let stage = with_a_jail();
    stage.sh("jailhost lay 14.1-RELEASE && make -C /usr/src buildworld installworld DESTDIR=$J > /dev/null");
    stage.write("/data/jails/ServerA/etc/mail/aliases", "root: alice\n");
    stage.write("/data/jails/ServerA/var/db/pkg/jailhost", "pkg 1.19 FreeBSD:13:amd64\nnginx 1.24 FreeBSD:13:amd64\n");
    let passing = |command: &str| {
        stage.try_sh(&format!("jail -c name=up path=/data/jails/ServerA host.hostname=up ip4=inherit ip6=inherit mount.devfs exec.clean command={command}"))
    };
    assert_eq!(passing("/usr/bin/newaliases"), ("up: created\n".to_owned(), 0));
    stage.sh("grep -q alice $J/etc/mail/aliases.db");
    assert_eq!(passing("/usr/local/sbin/pkg-static install -fy pkg").1, 0);
    let (output, status) = passing("/usr/local/sbin/pkg-static upgrade -fy");
    assert!(status == 0 && output.contains("Reinstalling nginx-1.24"), "{output}");
    stage.sh("test $(grep -c FreeBSD:14:amd64 $J/var/db/pkg/jailhost) = 2");
    stage.state("faults", "pkg-static upgrade = exit 1 \"Unable to update repository FreeBSD\"\n");
    let (output, status) = passing("/usr/local/sbin/pkg-static upgrade -fy");
    assert!(status == 1 && output.contains("Unable to update repository"), "{output}");
    // Nothing is left of any of them.
    stage.sh("! jls -j up jid 2> /dev/null; ! mount -p | grep devfs");
}
