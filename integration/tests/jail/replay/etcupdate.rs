//! `etcupdate.txt`: a jail's /etc merged from one release to the next.

use super::compare::Rule;
use super::recording::Recording;
use super::stage::Stage;
use super::{NotApplying, replay};

const NOT_APPLYING: &[NotApplying] = &[(
    "etcupdate resolve -D /data/jails/ServerA </dev/null",
    "the real one asks for ever; the stand-in says so and exits 70, asserted below",
)];

/// The name of the directory that a new tree is made in.
pub(super) const RULES: &[Rule] = &[|line| {
    let is_own = |word: &str| word.split('/').next().is_some_and(|name| name.len() > 3);
    let mut parts = line.split("/etcupdate-");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        assert!(is_own(part), "{line}");
        plain += &format!("/etcupdate-NAME/{}", part.split_once('/').map_or("", |(_, rest)| rest));
    }
    plain
}];

/// The releases' trees, as far as the recording shows them.
pub(super) fn trees(stage: &Stage) {
    let filler = |front: &str, lines: usize| (1..=lines).map(|n| format!("{front}{n}\n")).collect::<String>();
    let users = |from: usize, to: usize| {
        (from..=to).map(|n| format!("u{n}:*:{n}:{n}::0:0:User:/nonexistent:/usr/sbin/nologin\n")).collect::<String>()
    };
    let last_users = "hast:*:845:845::0:0:HAST unprivileged user:/var/empty:/usr/sbin/nologin\n\
        tests:*:977:977::0:0:Unprivileged user for tests:/nonexistent:/usr/sbin/nologin\n\
        nobody:*:65534:65534::0:0:Unprivileged user:/nonexistent:/usr/sbin/nologin\n";
    let last_groups = "tests:*:977:\nnogroup:*:65533:\nnobody:*:65534:\n";
    let groups = |from: usize, to: usize| (from..=to).map(|n| format!("g{n}:*:{n}:\n")).collect::<String>();
    let rotated = |maillog: &str| {
        format!(
            "# configuration file for newsyslog\n# contents of maillog, messages, and lpd-errs to be confidential.  In the\n{}\
             /var/log/debug.log\t\t\t600  7     1000 *     JC\n/var/log/init.log\t\t\t644  3\t   1000\t*     J\n\
             /var/log/kerberos.log\t\t\t600  7\t   1000\t*     J\n{maillog}\n/var/log/messages\t\t\t644  5\t   1000\t@0101T JC\n\
             /var/log/monthly.log\t\t\t640  12\t   *\t$M1D0 JN\n/var/log/devd.log\t\t\t644  3\t   1000\t*     JC\n# the end\n",
            filler("# ", 20)
        )
    };
    let logged = |lines: usize| {
        format!(
            "{}!*\ninclude\t\t\t\t\t\t/etc/syslog.d\ninclude\t\t\t\t\t\t/usr/local/etc/syslog.d\n",
            filler("# ", lines)
        )
    };
    let newd = "_newd:*:601:601::0:0:New daemon:/nonexistent:/usr/sbin/nologin\n";
    for (tree, is_new) in [("old", false), ("new", true)] {
        let write = |path: &str, text: &str| stage.write(&format!("/data/{tree}/{path}"), text);
        let insert = |text: &str| if is_new { text.to_owned() } else { String::new() };
        write(".cshrc", "alias h history\n");
        write(".profile", "PATH=/sbin\n");
        write("etc/defaults/rc.conf", &format!("# {tree}\n"));
        write("etc/group", &format!("{}{}{}{last_groups}", groups(1, 13), insert("_newd:*:601:\n"), groups(14, 36)));
        write("etc/login.conf", &format!("default:\\\n\t:umask={}:\n", if is_new { "027" } else { "022" }));
        write("etc/mail/aliases", &format!("# {tree}\n"));
        write(
            "etc/master.passwd",
            &format!("# $FreeBSD$\n#\n{}{}{}{last_users}", users(1, 8), insert(newd), users(9, 24)),
        );
        let maillog = if is_new {
            "/var/log/maillog\t640  14    *    @T00  JC"
        } else {
            "/var/log/maillog\t\t\t640  7\t   *\t@T00  JC"
        };
        write("etc/newsyslog.conf", &rotated(maillog));
        write("etc/services", &format!("# {tree}\nssh 22/tcp\n"));
        write("etc/syslog.conf", &format!("{}{}", insert("# another line\n"), logged(32)));
        write(if is_new { "etc/rc.d/newthing" } else { "etc/rc.d/gptboot" }, "#!/bin/sh\n");
    }
    stage.sh("cd $JAILHOST_ROOT/data && tar -C old -cf old.tbz . && tar -C new -cf new.tbz . && mkdir -p jails && cp -a old jails/ServerA");
    stage.sh("cd $J && echo more >> .cshrc && echo more >> .profile && echo 'admins:*:2000:root' >> etc/group
         sed -i 's/022/077/' etc/login.conf && echo '*.* @loghost' >> etc/syslog.conf && mkdir -p var/db
         echo 'alice:$6$x$y:1001:1001::0:0:Alice:/home/alice:/bin/sh' >> etc/master.passwd
         sed -i 's|^/var/log/maillog.*|/var/log/maillog 640 30 * @T00 J|' etc/newsyslog.conf");
}

#[test]
fn configuration_is_merged_as_recorded() {
    let recording = Recording::read("etcupdate.txt");
    let stage = Stage::new();
    trees(&stage);
    let endless = NOT_APPLYING[0].0;
    replay(&stage, &recording, NOT_APPLYING, RULES, |stage, case| {
        if case.command == endless {
            let got = stage.sh("etcupdate resolve -D $J < /dev/null; test $? = 70");
            assert!(got.contains("asks this for ever"), "{got}");
        }
    });
    // The order that the real one does not take.
    stage.sh("! etcupdate -D $J status > /dev/null 2>&1");
}
