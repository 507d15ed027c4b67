//! `jailhost lay RELEASE [DIRECTORY]`: sources of a release, small ones, in /usr/src or elsewhere, for `make` and `etcupdate` to work with.
//!
//! * `sys/conf/newvers.sh`, `sys/sys/param.h`, `Makefile.inc1`, `UPDATING`: what tells a source's release.
//! * `world/`: what `installworld` installs. Every file says its release.
//! * `etc-tree/`: what `etcupdate` and `mergemaster` take for `make distribution`.
//! * Where processes are real (see `persona.rs`) a jail runs some of these programs: there they are this machine's own, the release
//!   behind their end, and `sbin/init`, which no jail runs, is left out.
//! * `ObsoleteFiles.inc`, `tools/build/mk/OptionalObsoleteFiles.inc`.

use std::os::unix::fs::PermissionsExt as _;

use crate::host::Host;
use crate::persona::Real;
use crate::say;

/// Programs of a world that a jail of this machine runs.
const RUN: &[&str] = &["bin/sh", "bin/ls", "usr/bin/su", "usr/bin/passwd"];

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let (release, source) = match arguments {
        [release] => (release, "/usr/src"),
        [release, source] => (release, source.as_str()),
        _ => {
            say::err("usage: jailhost lay RELEASE [DIRECTORY]\n");
            return 64;
        }
    };
    match lay(host, release, source) {
        Ok(()) => 0,
        Err(wrong) => say::wrong(&format!("{source}: {wrong}")),
    }
}

/// The first number of the release whose source this is.
pub fn major(host: &Host, source: &str) -> u32 {
    let text = host.read(format!("{source}/sys/conf/newvers.sh")).unwrap_or_default();
    let revision = text.split_once("REVISION=\"").map_or("", |(_, rest)| rest);
    revision.split(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok()).unwrap_or(13)
}

fn lay(host: &Host, release: &str, source: &str) -> std::io::Result<()> {
    let (revision, branch) = release.split_once('-').unwrap_or((release, "RELEASE"));
    let (major, minor) = revision.split_once('.').unwrap_or((revision, "0"));
    let number = format!("{major}{minor:0>2}001");
    let write = |path: &str, text: &str| {
        let at = host.path(format!("{source}/{path}"));
        std::fs::create_dir_all(at.parent().unwrap_or(&at))?;
        std::fs::write(at, text)
    };
    write("Makefile.inc1", "# jailhost\n")?;
    write("Makefile", ".include \"Makefile.inc1\"\n")?;
    write("UPDATING", &format!("Updating Information for users of FreeBSD {revision}.\n"))?;
    write(
        "sys/conf/newvers.sh",
        &format!(
            "TYPE=\"FreeBSD\"\nREVISION=\"{revision}\"\nBRANCH=\"{branch}\"\nRELEASE=\"${{REVISION}}-${{BRANCH}}\"\n"
        ),
    )?;
    write("sys/sys/param.h", &format!("#undef __FreeBSD_version\n#define __FreeBSD_version {number}\n"))?;
    write("ObsoleteFiles.inc", "OLD_FILES+=usr/bin/gone\nOLD_LIBS+=lib/libedit.so.7\nOLD_DIRS+=usr/share/gone\n")?;
    write(
        "tools/build/mk/OptionalObsoleteFiles.inc",
        ".if ${MK_SENDMAIL} == no\nOLD_FILES+=usr/sbin/sendmail\n.endif\n",
    )?;
    let stamped = [
        "bin/sh",
        "bin/ls",
        "lib/libc.so.7",
        "lib/libcrypt.so.5",
        "lib/libthr.so.3",
        "libexec/ld-elf.so.1",
        "sbin/init",
        "usr/bin/su",
        "usr/bin/passwd",
        "usr/lib/librt.so.1",
        "usr/sbin/sendmail",
        "usr/sbin/syslogd",
        "usr/share/misc/magic",
    ];
    let real = host.persona.processes == Real::Real;
    for path in stamped.into_iter().filter(|path| !(real && *path == "sbin/init")) {
        let (at, own) = (format!("world/{path}"), host.path(format!("/{path}")));
        let stamp = format!("{path} of FreeBSD {release}\n");
        match std::fs::read(&own) {
            Ok(mut program) if real && RUN.contains(&path) => {
                // What stands behind the end of a program is nothing to it.
                program.extend_from_slice(stamp.as_bytes());
                write(&at, "")?;
                let laid = host.path(format!("{source}/{at}"));
                std::fs::write(&laid, program)?;
                std::fs::set_permissions(laid, own.metadata()?.permissions())?;
            }
            _ => write(&at, &stamp)?,
        }
    }
    let since = |first: u32| major.parse().is_ok_and(|major: u32| major >= first);
    if since(10) {
        write(
            "world/bin/freebsd-version",
            &format!("#!/bin/sh\nUSERLAND_VERSION=\"{release}\"\necho \"${{USERLAND_VERSION}}\"\n"),
        )?;
        let version = host.path(format!("{source}/world/bin/freebsd-version"));
        std::fs::set_permissions(version, std::fs::Permissions::from_mode(0o555))?;
    }
    write("world/usr/include/osreldate.h", &format!("#undef __FreeBSD_version\n#define __FreeBSD_version {number}\n"))?;
    std::fs::create_dir_all(host.path(format!("{source}/world/var/empty")))?;
    write("etc/rc.d/Makefile", "# jailhost\n")?;
    write("etc/rc.d/sshd", &format!("#!/bin/sh\n# of {release}\n"))?;
    write("etc/rc.d/syslogd", &format!("#!/bin/sh\n# of {release}\n"))?;
    let passwd = "root::0:0::0:0:Charlie &:/root:/bin/sh\ndaemon:*:1:1::0:0:Owner of many system processes:/root:/usr/sbin/nologin\n";
    let etc = [
        (
            "etc/defaults/rc.conf",
            format!("# of {release}\nsshd_enable=\"NO\"\nsendmail_enable=\"NO\"\njail_list=\"\"\n"),
        ),
        ("etc/group", "wheel:*:0:root\ndaemon:*:1:\n".to_owned()),
        ("etc/login.conf", format!("# of {release}\ndefault:\\\n\t:umask=022:\n")),
        ("etc/mail/aliases", format!("# of {release}\npostmaster: root\n")),
        (
            "etc/master.passwd",
            [
                passwd,
                if since(9) { "auditdistd:*:78:77::0:0:Auditdistd:/var/empty:/usr/sbin/nologin\n" } else { "" },
                if since(13) { "_ntp:*:123:123::0:0:NTP:/var/db/ntp:/usr/sbin/nologin\n" } else { "" },
            ]
            .concat(),
        ),
        ("etc/motd.template", format!("FreeBSD {release}\n")),
        (
            "etc/newsyslog.conf",
            format!(
                "# of {release}\n/var/log/maillog\t\t\t640  7\t   *\t@T00  JC\n/var/log/messages\t\t\t644  5\t   1000\t@0101T JC\n"
            ),
        ),
        ("etc/rc.d/sshd", format!("#!/bin/sh\n# of {release}\n")),
        ("etc/rc.d/syslogd", format!("#!/bin/sh\n# of {release}\n")),
        ("etc/services", format!("# of {release}\nssh 22/tcp\n")),
        ("etc/syslog.conf", "*.err\t/dev/console\n".to_owned()),
    ];
    for (path, text) in etc {
        write(&format!("etc-tree/{path}"), &text)?;
    }
    Ok(())
}
