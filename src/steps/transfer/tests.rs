//! What is asked of both sides, and in which order, without them.

use std::collections::BTreeMap;

use super::super::Manner;
use super::super::shown::Toolstack;
use super::*;
use hypervisors::transfer::System;

fn moved(mount: &str) -> Moved {
    Moved {
        mount: mount.into(),
        device: format!("/dev/da0{}", mount.replace('/', "-")),
        used_bytes: 1 << 30,
        snapshot: true,
    }
}

fn step() -> Transfer {
    Transfer {
        host: "bsdhost".into(),
        source: GuestLink {
            name: "servera".into(),
            address: "10.0.0.9".parse().unwrap(),
            by: None,
            port: 22,
            user: "root".into(),
            key: None,
            sudo: false,
            known_hosts: "/var/lib/upgradectl/known".into(),
            control_dir: "/run/upgradectl".into(),
            legacy: true,
        },
        run: "servera--k3f9".into(),
        root: "/jails/servera--k3f9".into(),
        scratch: "/jails/.upgradectl/servera--k3f9".into(),
        dialect: Dialect { system: System::Freebsd, snapshot: true, cache: true, dumpdates: true },
        method: Method::Dump,
        apart: Vec::new(),
        filesystems: vec![moved("/usr/local/a b"), moved("/usr"), moved("/var")],
        level: 0,
        keeps_symtable: false,
        compression: None,
        bandwidth: None,
        patience_s: 7200,
    }
}

#[test]
fn a_mount_point_comes_after_what_it_is_in() {
    let step = step();
    let waves: Vec<Vec<&str>> =
        step.waves().iter().map(|wave| wave.iter().map(|one| one.mount.to_str().unwrap()).collect()).collect();
    assert_eq!(waves, [vec!["/usr", "/var"], vec!["/usr/local/a b"]]);
    let root = Transfer { filesystems: vec![moved("/")], ..step };
    assert_eq!(root.filesystems[0].place(&root.root).path(), Path::new("/jails/servera--k3f9"));
    assert_eq!(root.waves().len(), 1);
}

#[test]
fn the_pipeline_is_shown_as_it_is_typed() {
    let manner = Manner { toolstack: Toolstack::Sim, reached: vec!["ssh".into(), "bsdhost".into()] };
    let far = Manners(BTreeMap::from([("bsdhost".to_owned(), manner)]));
    let mut shown = String::new();
    for (step, manners) in [
        (step(), far.clone()),
        (Transfer { level: 1, compression: Some(Compression::Zstd), ..step() }, far),
        (Transfer { source: GuestLink { port: 2222, sudo: true, ..step().source }, ..step() }, Manners::default()),
    ] {
        for argv in step.commands(&manners) {
            assert_eq!(argv[..2], ["sh", "-c"]);
            shown += &format!("{}\n", argv[2]);
        }
    }
    insta::assert_snapshot!(shown);
    let by_rsync = Transfer { method: Method::Rsync, ..step() };
    let typed: Vec<String> = by_rsync.commands(&Manners::default()).iter().map(|argv| argv.join(" ")).collect();
    assert_eq!(typed[0], "rsync -aHAXSx --numeric-ids --delete -- root@10.0.0.9:/usr/ /jails/servera--k3f9/usr/");
}

#[test]
fn names_of_stamps_are_told_apart() {
    let names =
        ["/", "/root", "/usr/local", "/usr-local", "/usr%2flocal", "/a b"].map(|mount| stamp::name(mount.as_ref()));
    assert_eq!(names, ["@root", "root", "usr%2flocal", "usr-local", "usr%252flocal", "a%20b"]);
}

#[test]
fn a_stored_step_is_read_again() {
    let step = step();
    let action = super::super::Action::from(step.clone());
    let text = serde_json::to_string(&action).unwrap();
    assert!(text.contains("\"kind\":\"transfer.filesystems\""), "{text}");
    let super::super::Action::Transfer(read) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
    assert_eq!(read, step);
}
