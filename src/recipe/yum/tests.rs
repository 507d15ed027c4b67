#![expect(clippy::unwrap_used, reason = "tests")]
use super::*;

pub(crate) fn seen() -> Seen {
    Seen {
        kernel: "2.6.18-128.el5".into(),
        owner: Some("kernel".into()),
        user: "0".into(),
        uuid: None,
        release: "CentOS release 5.3 (Final)".into(),
        tool: Some(Tool { program: "yum".into(), past: None }),
        loader: Some(Loader::Grub2),
        grubby: true,
        init: Some(Init::Sysv),
        tools: Tools::Tar,
        again: Some("/usr/sbin/vmware-tools-upgrader".into()),
        running: true,
        loaded: ["vmxnet3".to_owned()].into(),
        drivers: ["pvscsi".to_owned()].into(),
        kernels: config::packages("kernel\t0\t2.6.18\t128.el5\tx86_64\n"),
        excludes: Vec::new(),
        digests: BTreeMap::new(),
        locked: false,
        locked5: false,
        limit: Some(5),
        network_mounts: Vec::new(),
        other_disks: Vec::new(),
        boot: Some((50_000, 20_000)),
        unread: Vec::new(),
    }
}

fn refused(seen: &Seen) -> Vec<String> {
    let all = findings(seen);
    assert!(all.iter().filter(|it| it.verdict != Verdict::Pass).all(|it| !it.remedy.is_empty()));
    all.into_iter().filter(|it| it.verdict == Verdict::Refuse).map(|it| it.id).collect()
}

#[test]
fn each_thing_that_stands_in_the_way_is_told() {
    assert!(refused(&seen()).is_empty());
    type Change = fn(&mut Seen);
    let cases: [(&str, Change); 10] = [
        ("yum.root", |it| it.user = "500".into()),
        ("yum.tool", |it| it.tool = None),
        ("yum.kernel", |it| it.owner = None),
        ("yum.lock", |it| it.locked5 = true),
        ("yum.limit", |it| it.limit = Some(1)),
        ("yum.grubby", |it| it.grubby = false),
        ("yum.loader", |it| it.loader = None),
        ("yum.tools", |it| it.running = false),
        ("yum.mounts", |it| it.network_mounts = vec!["/srv (nas:/srv)".into()]),
        ("yum.boot", |it| it.boot = Some((1000, 20_000))),
    ];
    for (id, change) in cases {
        let mut seen = seen();
        change(&mut seen);
        assert_eq!(refused(&seen), [id]);
    }
}

#[test]
fn mounts_a_boot_waits_for() {
    let (network, disks) = mounts(
        "LABEL=/ / ext3 defaults 1 1\nnas:/srv /srv nfs defaults 0 0\nnas:/a /a nfs noauto 0 0\n# x y nfs\n/dev/sdb1 /b ext3 defaults 0 0\n",
    );
    assert_eq!(network, ["/srv (nas:/srv)"]);
    assert_eq!(disks, ["/b (/dev/sdb1)"]);
    let (network, disks) =
        mounts("/dev/sda2 / ext3 defaults 1 1\n/dev/sda1 /boot ext3 defaults 1 2\n/dev/vg/x /x xfs _netdev 0 0\n");
    assert_eq!(network, ["/x (/dev/vg/x)"]);
    assert!(disks.is_empty());
}

#[test]
fn commands_that_ask_nothing() {
    let tool = |program: &str| Tool { program: program.into(), past: Some("--disableexcludes=all".into()) };
    assert_eq!(tool("yum").update(&[], &[]), ["yum", "-y", "update"]);
    let words = tool("dnf").update(&["kernel".into()], &["--disableexcludes=all"]);
    assert_eq!(words, ["dnf", "-y", "--disableexcludes=all", "upgrade", "kernel"]);
}

#[test]
fn tools_are_applied_again_only_where_their_modules_are_built_for_one_kernel() {
    assert_eq!(seen().tools_again().unwrap(), ["/usr/sbin/vmware-tools-upgrader", "-p", "-d"]);
    assert!(Seen { tools: Tools::Open, ..seen() }.tools_again().is_none());
    let own = Seen { again: Some("/usr/bin/vmware-config-tools.pl".into()), ..seen() };
    assert_eq!(own.tools_again().unwrap(), ["/usr/bin/vmware-config-tools.pl", "--default"]);
    assert_eq!(names("pvscsi"), ["pvscsi", "vmw_pvscsi"]);
    assert_eq!(names("vmw_balloon"), ["vmmemctl", "vmw_balloon"]);
    assert_eq!(names("ext3"), ["ext3"]);
}

/// `2.6.18-128.el5PAE` is of kernel-PAE; the ordinary kernel of the same release is another one.
#[test]
fn kernels_of_a_flavour_are_found_by_their_own_package() {
    let kernels = config::packages(
        "kernel-PAE\t0\t2.6.18\t128.el5\ti686\nkernel-PAE\t0\t2.6.18\t238.el5\ti686\n\
         kernel\t0\t2.6.18\t300.el5\ti686\nkernel-headers\t0\t2.6.18\t400.el5\ti386\n",
    );
    let pae = Seen {
        kernel: "2.6.18-128.el5PAE".into(),
        owner: Some("kernel-PAE".into()),
        kernels: kernels.clone(),
        ..seen()
    };
    assert!(refused(&pae).is_empty());
    assert_eq!(pae.waiting().as_deref(), Some("2.6.18-238.el5PAE"));
    assert_eq!(Seen { kernels, ..seen() }.waiting().as_deref(), Some("2.6.18-300.el5.i686"));
}

/// yum(8) protects what runs, and nobody else.
#[test]
fn the_kernel_to_fall_back_to_is_not_pushed_out() {
    let before = "2.6.18-128.el5";
    let has = |releases: &[&str], limit| Seen {
        kernel: "2.6.18-238.el5".into(),
        kernels: config::packages(
            &releases.iter().map(|release| format!("kernel\t0\t2.6.18\t{release}\tx86_64\n")).collect::<String>(),
        ),
        limit,
        ..seen()
    };
    for (releases, limit, lost) in [
        (&["128.el5", "238.el5"][..], Some(2), true),
        (&["128.el5", "238.el5"], Some(3), false),
        (&["128.el5", "238.el5"], None, false),
        (&["128.el5", "200.el5", "238.el5"], None, true),
        (&["99.el5", "128.el5", "238.el5"], Some(3), false),
        (&["99.el5", "128.el5", "238.el5"], Some(2), true),
        (&["128.el5", "200.el5", "238.el5"], Some(0), false),
    ] {
        assert_eq!(has(releases, limit).may_lose(before), lost, "{releases:?}, {limit:?}");
    }
    let runs = Seen { kernel: before.into(), ..has(&["128.el5", "200.el5"], Some(2)) };
    assert!(!runs.may_lose(before), "it runs");
}

/// The script on this machine, with a tool of the family's before its own, and a BIOS of VMware's that dmidecode(8) alone can read.
#[test]
fn how_each_tool_looks_past_excludes() {
    const BIOS: &str = "echo '# SMBIOS implementations newer than this'\n\
        case $2 in system-manufacturer) echo 'VMware, Inc.' ;; system-uuid) echo 564D1F5A ;; esac";
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    for (program, help, past) in [
        ("dnf", "", None),
        ("dnf", "  --disableexcludes [repo]", Some("--disableexcludes=all")),
        ("dnf5", "  --disableexcludes is no more", Some("--setopt=disable_excludes=*")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            (program, format!("echo '{help}'")),
            ("uname", "echo 1-of-no-package".to_owned()),
            // It tells of a file that is gone as well.
            ("rpm", "echo kernel".to_owned()),
            ("dmidecode", BIOS.to_owned()),
            ("cat", "case $1 in /sys/class/dmi/*) exit 1 ;; esac; exec /bin/cat \"$@\"".to_owned()),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        if program == "dnf5" {
            symlink("dnf5", dir.path().join("dnf")).unwrap();
        }
        for shell in ["dash", "bash"] {
            let path = format!("{}:/usr/bin:/bin", dir.path().display());
            let ended = std::process::Command::new(shell).args(["-c", LOOK]).env("PATH", path).output().unwrap();
            assert!(ended.status.success(), "{shell}: {}", String::from_utf8_lossy(&ended.stderr));
            let told = String::from_utf8(ended.stdout).unwrap();
            let value = |key: &str| told.lines().find_map(|line| line.strip_prefix(&format!("{key}\t")));
            assert_eq!(
                (value("past"), value("kernel"), value("owner")),
                (past, Some("1-of-no-package"), None),
                "{told}"
            );
            assert_eq!((value("tool"), value("uuid")), (Some("dnf"), Some("564D1F5A")));
        }
    }
}
