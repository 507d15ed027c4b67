//! The platform against a host of jails in memory, whose files are real and lie in a directory; it answers as the recorded
//! FreeBSD 13.2 does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::Jails;
use crate::host::{Command, Host, Job, JobStatus, LocalHost, Output};
use crate::net::RealNet;
use crate::{
    Cause, Change, Definition, DefinitionEdit, DiskEdit, Hypervisor, Mark, NewAddress, NewGuest, Power, Result, Role,
    VolumeKind, VolumeRef,
};

#[derive(Debug, Default)]
struct State {
    /// Names of running jails and their roots.
    running: BTreeMap<String, (u32, String)>,
    next: u32,
    /// Jails that do not stop when asked.
    deaf: Vec<String>,
    /// Jails that do not start.
    broken: Vec<String>,
}

/// `service jail`, `jls -n`, `jail -R`, `uname`; the rest is this machine's.
#[derive(Debug)]
struct FakeHost {
    real: LocalHost,
    state: Mutex<State>,
    release: &'static str,
}

impl FakeHost {
    fn answer(&self, argv: &[&str]) -> Option<(i32, String, String)> {
        let mut state = self.state.lock().unwrap();
        let said = |status: i32, out: &str, err: &str| Some((status, out.to_owned(), err.to_owned()));
        match argv {
            ["uname", "-sr"] => said(0, &format!("FreeBSD {}\n", self.release), ""),
            ["jls", "-n"] => {
                let line = |(name, (jid, path)): (&String, &(u32, String))| {
                    format!(
                        "nodying jid={jid} name={name} path={path} vnet=inherit host.hostname={name} ip4.addr=10.0.2.112 ip6.addr=\n"
                    )
                };
                said(0, &state.running.iter().map(line).collect::<String>(), "")
            }
            ["service", "jail", "onestart", name] if state.broken.iter().any(|broken| broken == name) => {
                let out = format!(
                    "Starting jails: cannot start jail  \"{name}\": \njail: {name}: mount.devfs: /x/dev: No such file or directory\n.\n"
                );
                said(0, &out, "")
            }
            ["service", "jail", "onestart", name] => {
                state.next += 1;
                let jail = (state.next, format!("/data/jails/{name}"));
                state.running.insert((*name).to_owned(), jail);
                said(0, &format!("Starting jails: {name}.\n"), "")
            }
            ["service", "jail", "onestop", name] => {
                if !state.deaf.iter().any(|deaf| deaf == name) {
                    state.running.remove(*name);
                }
                said(0, &format!("Stopping jails: {name}.\n"), "")
            }
            ["jail", "-R", jid] => {
                state.running.retain(|_, (number, _)| number.to_string() != *jid);
                said(0, "", "")
            }
            ["sh", "-c", script, ..] if script.contains("mount -p") => said(0, "", ""),
            _ => None,
        }
    }
}

#[async_trait]
impl Host for FakeHost {
    fn name(&self) -> &str {
        "jailhost"
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        let argv: Vec<&str> = command.argv.iter().map(String::as_str).collect();
        match self.answer(&argv) {
            Some((status, out, err)) => {
                Ok(Output { status, stdout: out.into_bytes(), stderr: err.into_bytes(), truncated: false })
            }
            None => self.real.run(command).await,
        }
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.real.read_file(path, limit).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        self.real.write_file(path, bytes, mode).await
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        self.real.job_start(job).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        self.real.job_status(id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        self.real.job_forget(id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        self.real.job_output(id, from).await
    }
}

struct World {
    directory: tempfile::TempDir,
    fake: Arc<FakeHost>,
    jails: Jails,
}

const SHARED: &str = "exec.start = \"/bin/sh /etc/rc\";\nexec.stop = \"/bin/sh /etc/rc.shutdown jail\";\nexec.clean;\nmount.devfs;\n\
path = \"/data/jails/$name\";\nServerA {\n  host.hostname = \"ServerA.example\";\n  ip4.addr = \"vtnet0|10.0.2.112/32\";\n}\n";

impl World {
    fn new(files: &[(&str, &str)]) -> Self {
        Self::of("13.2-RELEASE", files)
    }
    fn of(release: &'static str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir_all(directory.path().join("etc")).unwrap();
        let fake = Arc::new(FakeHost { real: LocalHost::new("jailhost"), state: Mutex::default(), release });
        let jails = Jails::beneath(fake.clone(), Arc::new(RealNet), directory.path().to_owned());
        Self { directory, fake, jails }
    }
    fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.directory.path().join(path.trim_start_matches('/'))).ok()
    }
    fn clone() -> NewGuest {
        NewGuest {
            container: None,
            name: "ServerB--k3f9".into(),
            root: "/data/jails/ServerB--k3f9".into(),
            hostname: "ServerB.example".into(),
            addresses: vec![NewAddress {
                interface: Some("em0".into()),
                ip: "10.0.2.113".parse().unwrap(),
                prefix: 24,
            }],
            mark: Some(Mark { run: "ServerB--k3f9".into(), role: Role::Clone }),
        }
    }
}

#[tokio::test]
async fn jails_are_listed_with_their_facts() {
    let bare = "jail_enable=\"YES\"\njail_list=\"ServerA other\"\n";
    let own = "web { path = /srv/web; host.hostname = web; ip4.addr = \"em1|192.0.2.1/24\", \"192.0.2.2\"; }\n";
    let world = World::new(&[("/etc/jail.conf", SHARED), ("/etc/rc.conf", bare), ("/etc/jail.web.conf", own)]);
    world.jails.start("ServerA").await.unwrap();
    world.fake.state.lock().unwrap().running.insert("ioc-x".into(), (9, "/iocage/jails/x/root".into()));
    let all = world.jails.list().await.unwrap();
    let names: Vec<&str> = all.iter().map(|guest| guest.name.as_str()).collect();
    assert_eq!(names, ["ServerA", "ioc-x", "web"]);
    assert!(all[0].power == Power::On && all[0].autostart && !all[2].autostart && all[2].power == Power::Off);
    assert_eq!(all[0].disks[0].source, crate::DiskSource::Directory("/data/jails/ServerA".into()));
    assert_eq!(all[2].nics.iter().map(|nic| nic.bridge.as_str()).collect::<Vec<_>>(), ["em1", ""]);
    assert_eq!(all[1].nics[0].addresses.len(), 1, "a stranger's address is taken too");
    assert!(world.jails.facts("none").await.unwrap().is_none());
}

#[tokio::test]
async fn a_clone_is_defined_in_a_file_of_its_own_and_goes_without_a_trace() {
    let rc = "jail_enable=\"YES\" # all of them\n";
    let world = World::new(&[("/etc/jail.conf", SHARED), ("/etc/rc.conf", rc)]);
    let definition = world.jails.compose(&World::clone()).await.unwrap();
    insta::assert_snapshot!(definition.text);
    assert_eq!(world.jails.define(&definition).await.unwrap(), Change::Created);
    assert_eq!(world.jails.define(&definition).await.unwrap(), Change::Unchanged);
    assert_eq!(world.text("/etc/jail.conf").unwrap(), SHARED);
    let facts = world.jails.facts("ServerB--k3f9").await.unwrap().unwrap();
    assert_eq!(facts.mark.unwrap().role, Role::Clone);
    assert!(!facts.autostart, "every jail of /etc/jail.conf starts with the host; a clone does not");
    assert!(world.jails.facts("ServerA").await.unwrap().unwrap().autostart);
    assert_eq!(world.jails.start("ServerB--k3f9").await.unwrap(), Change::Changed);
    assert_eq!(world.jails.start("ServerB--k3f9").await.unwrap(), Change::Unchanged);
    assert!(matches!(world.jails.undefine("ServerB--k3f9").await.unwrap_err().cause, Cause::Refused(_)));
    assert_eq!(world.jails.shutdown("ServerB--k3f9", Duration::from_secs(5)).await.unwrap(), Change::Changed);
    assert_eq!(world.jails.undefine("ServerB--k3f9").await.unwrap(), Change::Removed);
    assert_eq!(world.jails.undefine("ServerB--k3f9").await.unwrap(), Change::Unchanged);
    assert!(world.text("/etc/jail.ServerB--k3f9.conf").is_none());
    assert_eq!(world.text("/etc/rc.conf").unwrap(), rc);
}

#[tokio::test]
async fn production_is_defined_where_the_host_has_its_jails() {
    let production = || NewGuest { name: "ServerB".into(), mark: None, ..World::clone() };
    let listed = "jail_enable=YES\njail_list=\"ServerA\"\n";
    let world = World::new(&[("/etc/jail.conf", SHARED), ("/etc/rc.conf", listed)]);
    let definition = world.jails.compose(&production()).await.unwrap();
    world.jails.define(&definition).await.unwrap();
    let text = world.text("/etc/jail.conf").unwrap();
    assert!(text.starts_with(SHARED));
    insta::assert_snapshot!(text[SHARED.len()..]);
    assert!(!world.jails.autostart("ServerB").await.unwrap());
    assert_eq!(world.jails.set_autostart("ServerB", true).await.unwrap(), Change::Changed);
    assert_eq!(world.text("/etc/rc.conf").unwrap(), "jail_enable=YES\njail_list=\"ServerA ServerB\"\n");
    assert_eq!(world.jails.set_autostart("ServerB", true).await.unwrap(), Change::Unchanged);
    world.jails.undefine("ServerB").await.unwrap();
    assert_eq!(world.text("/etc/jail.conf").unwrap(), SHARED);
    assert_eq!(world.text("/etc/rc.conf").unwrap(), listed);

    let each = World::new(&[("/etc/jail.conf.d/ServerA.conf", "ServerA { path = /x; }\n")]);
    let definition = each.jails.compose(&production()).await.unwrap();
    each.jails.define(&definition).await.unwrap();
    assert!(each.text("/etc/jail.conf.d/ServerB.conf").unwrap().contains("exec.start"), "nothing else says it");

    let empty = World::new(&[]);
    let definition = empty.jails.compose(&production()).await.unwrap();
    assert_eq!(empty.jails.define(&definition).await.unwrap(), Change::Created);
    assert!(empty.text("/etc/jail.conf").unwrap().contains("ServerB {"));
    let refused = empty.jails.set_autostart("ServerB", true).await.unwrap_err();
    assert!(refused.help.unwrap().contains("jail_enable=YES"));
    assert_eq!(empty.jails.undefine("ServerB").await.unwrap(), Change::Removed);
    assert!(empty.text("/etc/jail.conf").is_none(), "as it was");
}

/// A host whose jails are all of the old way.
const OLD_WAY: &str = "hostname=\"jailhost\"\njail_enable=\"YES\"\njail_list=\"mercure\"\njail_devfs_enable=\"YES\"\n\
    jail_mercure_rootdir=\"/data/jails/mercure\"\njail_mercure_hostname=\"mercure.example\"\njail_mercure_ip=\"em0|10.0.5.12\"\n\
    sshd_enable=\"YES\"\n";

#[tokio::test]
async fn a_host_of_variables_gets_variables() {
    let world = World::new(&[("/etc/rc.conf", OLD_WAY)]);
    let clone = world.jails.compose(&World::clone()).await.unwrap();
    insta::assert_snapshot!(clone.text);
    assert_eq!(world.jails.define(&clone).await.unwrap(), Change::Created);
    assert_eq!(world.jails.define(&clone).await.unwrap(), Change::Unchanged);
    assert_eq!(world.text("/etc/rc.conf").unwrap(), format!("{OLD_WAY}{}\n", clone.text));
    assert_eq!(world.jails.definition("ServerB--k3f9").await.unwrap().unwrap(), clone);
    let all = world.jails.list().await.unwrap();
    let names: Vec<&str> = all.iter().map(|guest| guest.name.as_str()).collect();
    assert_eq!(names, ["ServerB--k3f9", "mercure"], "its mark tells its name");
    assert_eq!(all[0].mark.as_ref().unwrap().role, Role::Clone);
    assert!(!all[0].autostart && all[1].autostart);
    assert_eq!(all[1].nics[0].addresses, ["10.0.5.12".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(world.jails.start("ServerB--k3f9").await.unwrap(), Change::Changed);
    assert!(matches!(world.jails.undefine("ServerB--k3f9").await.unwrap_err().cause, Cause::Refused(_)));
    world.jails.shutdown("ServerB--k3f9", Duration::from_secs(5)).await.unwrap();

    // In its server's place, beside its own clone.
    let mark = Some(Mark { run: "ServerB--k3f9".into(), role: Role::Production });
    let production = NewGuest { name: "ServerB".into(), mark, ..World::clone() };
    let production = world.jails.compose(&production).await.unwrap();
    world.jails.undefine("ServerB--k3f9").await.unwrap();
    assert_eq!(world.text("/etc/rc.conf").unwrap(), OLD_WAY);
    world.jails.define(&production).await.unwrap();
    world.jails.set_autostart("ServerB", true).await.unwrap();
    assert!(world.jails.autostart("ServerB").await.unwrap());
    let unmarked = DefinitionEdit { mark: Some(None), ..DefinitionEdit::default() };
    let last = world.jails.derive(&production, &unmarked).unwrap();
    assert_eq!(world.jails.define(&last).await.unwrap(), Change::Changed);
    assert!(!world.text("/etc/rc.conf").unwrap().contains('#'));
    assert_eq!(world.jails.undefine("ServerB").await.unwrap(), Change::Removed);
    assert_eq!(world.text("/etc/rc.conf").unwrap(), OLD_WAY, "out of jail_list too");

    // As a clone found it, byte for byte.
    let found = world.jails.definition("mercure").await.unwrap().unwrap();
    let moved = DefinitionEdit {
        addresses: BTreeMap::from([("10.0.5.12".parse().unwrap(), Some("10.0.5.99".parse().unwrap()))]),
        ..DefinitionEdit::default()
    };
    world.jails.define(&world.jails.derive(&found, &moved).unwrap()).await.unwrap();
    assert!(world.text("/etc/rc.conf").unwrap().contains("jail_mercure_ip=\"em0|10.0.5.99\"\nsshd"));
    world.jails.define(&found).await.unwrap();
    assert_eq!(world.text("/etc/rc.conf").unwrap(), OLD_WAY);

    // An empty list begins with it; one that is not set is the operator's to make.
    for (list, may) in [("jail_list=\"\"\n", true), ("", false)] {
        let alone = OLD_WAY.replace("jail_list=\"mercure\"\n", list);
        let world = World::new(&[("/etc/rc.conf", &alone)]);
        let on = world.jails.set_autostart("mercure", true).await;
        assert_eq!(on.is_ok(), may, "{on:?}");
        if may {
            assert!(world.text("/etc/rc.conf").unwrap().contains("jail_list=\"mercure\"\n"));
            world.jails.set_autostart("mercure", false).await.unwrap();
        }
        assert_eq!(world.text("/etc/rc.conf").unwrap(), alone);
    }

    // With one jail.conf the host's way is another.
    let both = World::new(&[("/etc/rc.conf", OLD_WAY), ("/etc/jail.conf", SHARED)]);
    assert!(both.jails.compose(&World::clone()).await.unwrap().text.starts_with("ServerB--k3f9 {"));
    let named = Definition { name: "ServerA".into(), text: clone.text.replace("ServerB__k3f9", "ServerA") };
    assert!(both.jails.define(&named).await.unwrap_err().to_string().contains("a jail.conf defines"));
    // Divided between files: left alone.
    let divided = World::new(&[("/etc/rc.conf", OLD_WAY), ("/etc/rc.conf.local", "jail_mercure_fib=1\n")]);
    assert!(divided.jails.definition("mercure").await.unwrap_err().to_string().contains("stand in /etc/rc.conf"));
}

#[tokio::test]
async fn a_definition_is_derived_and_put_back_byte_for_byte() {
    let world = World::new(&[("/etc/jail.conf", SHARED)]);
    let old = world.jails.definition("ServerA").await.unwrap().unwrap();
    let edit = DefinitionEdit {
        mark: Some(Some(Mark { run: "ServerA--k3f9".into(), role: Role::Production })),
        addresses: BTreeMap::from([("10.0.2.112".parse().unwrap(), Some("10.0.2.9".parse().unwrap()))]),
        disks: BTreeMap::from([(
            "/".to_owned(),
            DiskEdit::Source(VolumeRef {
                kind: VolumeKind::Directory,
                path: PathBuf::from("/data/jails/ServerA--k3f9"),
            }),
        )]),
        ..DefinitionEdit::default()
    };
    let new = world.jails.derive(&old, &edit).unwrap();
    insta::assert_snapshot!(new.text);
    assert_eq!(world.jails.define(&new).await.unwrap(), Change::Changed);
    assert_ne!(world.text("/etc/jail.conf").unwrap(), SHARED);
    world.jails.define(&old).await.unwrap();
    assert_eq!(world.text("/etc/jail.conf").unwrap(), SHARED);
    let renamed = DefinitionEdit { name: Some("ServerC".into()), ..DefinitionEdit::default() };
    assert!(world.jails.derive(&old, &renamed).unwrap().text.starts_with("ServerC {"));
    let foreign = Definition { name: "ServerA".into(), text: "ServerX { path = /x; }".into() };
    assert!(matches!(world.jails.define(&foreign).await.unwrap_err().cause, Cause::Malformed(_)));
}

/// Runs a command of the test's own in a directory; `None` if there is no such program.
fn run(directory: &Path, line: &[&str]) -> Option<String> {
    let mut command = std::process::Command::new(line[0]);
    let output =
        command.args(&line[1..]).current_dir(directory).env("HOME", directory).env("LC_ALL", "C").output().ok()?;
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn definitions_under_git_or_subversion_are_committed_alone() {
    let listed = "jail_enable=YES\njail_list=\"ServerA\"\n";
    let production = || NewGuest { name: "ServerB".into(), mark: None, ..World::clone() };
    // What a run does: a clone in a file of its own, production in jail.conf and in jail_list, and back.
    let work = async |world: &World| {
        let occasion = crate::occasion::Occasion::new("ServerB--k3f9: a step");
        let run = async {
            let clone = world.jails.compose(&World::clone()).await.unwrap();
            world.jails.define(&clone).await.unwrap();
            world.jails.undefine("ServerB--k3f9").await.unwrap();
            world.jails.define(&world.jails.compose(&production()).await.unwrap()).await.unwrap();
            world.jails.set_autostart("ServerB", true).await.unwrap();
            world.jails.undefine("ServerB").await.unwrap();
        };
        Arc::clone(&occasion).during(run).await;
        occasion.notices()
    };
    let world = World::new(&[("/etc/jail.conf", SHARED), ("/etc/rc.conf", listed), ("/etc/other", "theirs\n")]);
    let etc = world.directory.path().join("etc");
    let git = |words: &[&str]| {
        run(&etc, &[&["git", "-c", "user.name=op", "-c", "user.email=op@example.org"], words].concat())
    };
    match git(&["init", "--quiet"]) {
        None => eprintln!("SKIPPED: needs git"),
        Some(_) => {
            git(&["add", "."]);
            git(&["commit", "--quiet", "-m", "as it is"]);
            std::fs::write(etc.join("other"), "half done\n").unwrap();
            assert_eq!(work(&world).await, Vec::<String>::new());
            let log = git(&["log", "--reverse", "--name-status", "--format=%an: %s"]).unwrap();
            let step = "upgradectl: ServerB--k3f9: a step";
            let lines: Vec<&str> = log.lines().filter(|line| !line.is_empty()).skip(4).collect();
            let own = "jail.ServerB--k3f9.conf";
            let changed = [
                format!("A\t{own}"),
                format!("D\t{own}"),
                "M\tjail.conf".into(),
                "M\trc.conf".into(),
                "M\trc.conf".into(),
                "M\tjail.conf".into(),
            ];
            assert_eq!(lines, changed.iter().flat_map(|line| [step, line]).collect::<Vec<_>>());
            assert_eq!(git(&["status", "--porcelain"]).unwrap(), " M other\n", "what others do stays theirs");
            // What somebody has not committed is not committed by us.
            std::fs::write(etc.join("jail.conf"), format!("{SHARED}# half done\n")).unwrap();
            let told = work(&world).await;
            assert!(told.len() == 2 && told[0].contains("jail.conf is not committed: it had changes"), "{told:?}");
            assert_eq!(git(&["diff", "--", "jail.conf"]).unwrap().matches("+# half done").count(), 1);
        }
    }
    let world = World::new(&[("/etc/jail.conf", SHARED), ("/etc/rc.conf", listed)]);
    let top = world.directory.path();
    if run(top, &["svnadmin", "create", "repository"]).is_none() {
        eprintln!("SKIPPED: needs svnadmin");
        return;
    }
    let url = format!("file://{}", top.join("repository").display());
    run(top, &["svn", "import", "--quiet", "-m", "as it is", "etc", &url]);
    run(top, &["svn", "checkout", "--quiet", "--force", &url, "etc"]);
    assert_eq!(work(&world).await, Vec::<String>::new());
    assert_eq!(run(top, &["svn", "status", "etc"]).unwrap(), "");
    assert_eq!(run(top, &["svn", "log", "--quiet", &url]).unwrap().matches("\nr").count(), 7);
}

#[tokio::test]
async fn a_jail_with_a_network_of_its_own_is_shown_and_left_alone() {
    let own = "web { path = /srv/web; vnet; vnet.interface = epair0b; }\ndb { path = /srv/db; vnet = new; }\n\
        off { path = /srv/off; novnet; ip4.addr = 10.0.0.1; }\nin { path = /srv/in; vnet = inherit; }\n";
    let rc = "jail_list=\"web old\"\njail_enable=YES\njail_old_rootdir=/o\njail_old_hostname=old\njail_old_vnet_interface=epair1b\n";
    let world = World::new(&[("/etc/jail.conf", own), ("/etc/rc.conf", rc)]);
    let all = world.jails.list().await.unwrap();
    let vnet: Vec<(&str, bool)> = all.iter().map(|guest| (guest.name.as_str(), guest.vnet)).collect();
    assert_eq!(vnet, [("db", true), ("in", false), ("off", false), ("old", true), ("web", true)]);
    assert!(world.jails.facts("web").await.unwrap().unwrap().vnet);
    let left = |error: crate::Error| {
        assert!(error.to_string().contains("vnet") && error.help.is_some(), "{error}");
    };
    for name in ["web", "db", "old"] {
        let now = world.jails.definition(name).await.unwrap().unwrap();
        assert_eq!(world.jails.define(&now).await.unwrap(), Change::Unchanged);
        let mark = Some(Some(Mark { run: "x--k3f9".into(), role: Role::Production }));
        let other = world.jails.derive(&now, &DefinitionEdit { mark, ..DefinitionEdit::default() }).unwrap();
        left(world.jails.define(&other).await.unwrap_err());
        left(world.jails.undefine(name).await.unwrap_err());
    }
    left(world.jails.set_autostart("web", false).await.unwrap_err());
    assert_eq!(
        (world.text("/etc/jail.conf").unwrap(), world.text("/etc/rc.conf").unwrap()),
        (own.to_owned(), rc.to_owned())
    );
}

#[tokio::test]
async fn the_list_of_jails_decides_what_happened() {
    let world = World::new(&[("/etc/jail.conf", SHARED)]);
    world.fake.state.lock().unwrap().broken.push("ServerA".into());
    let error = world.jails.start("ServerA").await.unwrap_err();
    assert!(error.to_string().contains("mount.devfs: /x/dev: No such file or directory"), "{error}");
    world.fake.state.lock().unwrap().broken.clear();
    world.jails.start("ServerA").await.unwrap();
    world.fake.state.lock().unwrap().deaf.push("ServerA".into());
    let error = world.jails.shutdown("ServerA", Duration::from_millis(20)).await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    assert_eq!(world.jails.power("ServerA").await.unwrap(), Power::On);
    assert_eq!(world.jails.destroy("ServerA").await.unwrap(), Change::Changed);
    assert_eq!(world.jails.destroy("ServerA").await.unwrap(), Change::Unchanged);
    assert!(matches!(world.jails.start("nosuch").await.unwrap_err().cause, Cause::NotFound(_)));
}

#[tokio::test]
async fn what_is_not_ours_to_touch_is_refused() {
    let bastille = "web { path = /usr/local/bastille/jails/web/root; }\n";
    let world =
        World::new(&[("/etc/jail.conf", bastille), ("/etc/rc.conf", "jail_old_rootdir=/o\njail_old_hostname=old\n")]);
    let error = world.jails.facts("web").await.unwrap_err();
    assert!(error.to_string().contains("Bastille") && error.help.is_some(), "{error}");
    let old = NewGuest { name: "old".into(), ..World::clone() };
    let definition = world.jails.compose(&old).await.unwrap();
    assert!(world.jails.define(&definition).await.unwrap_err().to_string().contains("jail_ variables"));
    let linux = World::of("x", &[]);
    let error = {
        let fake = FakeHost { real: LocalHost::new("here"), state: Mutex::default(), release: "" };
        let jails = Jails::beneath(Arc::new(NotFreeBsd(fake)), Arc::new(RealNet), linux.directory.path().to_owned());
        jails.list().await.unwrap_err()
    };
    assert!(error.to_string().contains("no FreeBSD"), "{error}");
    let broken = World::new(&[("/etc/jail.conf", "a { path = /x }")]);
    assert!(broken.jails.list().await.unwrap_err().to_string().contains("/etc/jail.conf:1:"));
}

#[derive(Debug)]
struct NotFreeBsd(FakeHost);

#[async_trait]
impl Host for NotFreeBsd {
    fn name(&self) -> &str {
        "linux"
    }
    fn is_local(&self) -> bool {
        false
    }
    async fn run(&self, command: &Command) -> Result<Output> {
        self.0.real.run(command).await
    }
    async fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        self.0.read_file(path, limit).await
    }
    async fn write_file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<Change> {
        self.0.write_file(path, bytes, mode).await
    }
    async fn job_start(&self, job: &Job) -> Result<Change> {
        self.0.job_start(job).await
    }
    async fn job_status(&self, id: &str) -> Result<JobStatus> {
        self.0.job_status(id).await
    }
    async fn job_forget(&self, id: &str) -> Result<Change> {
        self.0.job_forget(id).await
    }
    async fn job_output(&self, id: &str, from: u64) -> Result<Vec<u8>> {
        self.0.job_output(id, from).await
    }
}

/// What a clone's definition is made of.
fn beside() -> DefinitionEdit {
    let volume = VolumeRef { kind: VolumeKind::Directory, path: "/data/jails/ServerA--k3f9".into() };
    DefinitionEdit {
        name: Some("ServerA--k3f9".into()),
        mark: Some(Some(Mark { run: "ServerA--k3f9".into(), role: Role::Clone })),
        disks: BTreeMap::from([("/".to_owned(), DiskEdit::Source(volume))]),
        addresses: BTreeMap::from([
            ("10.0.2.112".parse().unwrap(), Some("10.0.2.113".parse().unwrap())),
            ("10.0.2.114".parse().unwrap(), None),
        ]),
        ..DefinitionEdit::default()
    }
}

#[tokio::test]
async fn a_copy_says_what_the_host_says_of_the_original() {
    let shared = SHARED.replace(
        "ServerA {",
        "exec.consolelog = \"/var/log/jail_$name.log\";\nexec.prestart = \"pfctl -f /etc/pf.$name\";\nallow.raw_sockets;\n\
         mount += \"/data/mail $path/var/mail nullfs rw 0 0\";\nServerA {\n  jid = 7;\n  ip4.addr += \"10.0.2.114\";",
    );
    let shared = shared.replace("ip4.addr = ", "ip4.addr += ");
    let world = World::new(&[("/etc/jail.conf", &shared)]);
    let copy = world.jails.copy_of("ServerA", &beside()).await.unwrap();
    assert_eq!(
        copy.text,
        "ServerA--k3f9 {\n\t# upgradectl run ServerA--k3f9 role clone\n\tpath = \"/data/jails/ServerA--k3f9\";\n\
         \texec.start = \"/bin/sh /etc/rc\";\n\texec.stop = \"/bin/sh /etc/rc.shutdown jail\";\n\texec.clean;\n\tmount.devfs;\n\
         \texec.consolelog = \"/var/log/jail_ServerA.log\";\n\tallow.raw_sockets;\n\tip4.addr = \"vtnet0|10.0.2.113/32\";\n\
         \thost.hostname = \"ServerA.example\";\n}"
    );
    world.jails.define(&copy).await.unwrap();
    let facts = world.jails.facts("ServerA--k3f9").await.unwrap().unwrap();
    assert_eq!(facts.nics[0].addresses, ["10.0.2.113".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(world.jails.undefine("ServerA--k3f9").await.unwrap(), Change::Removed);
}

#[tokio::test]
async fn what_would_still_mean_the_old_tree_is_refused() {
    let refused = async |line: &str, fstab: &str| {
        let shared = SHARED.replace("ServerA {\n", &format!("ServerA {{\n  {line}\n"));
        let world = World::new(&[("/etc/jail.conf", &shared), ("/etc/fstab.ServerA", fstab)]);
        match world.jails.copy_of("ServerA", &beside()).await {
            Ok(copy) => Ok(copy.text),
            Err(error) => Err(format!("{error} {}", error.help.as_deref().unwrap_or_default())),
        }
    };
    let why = refused("mount = \"/data/mail /data/jails/ServerA/var/mail nullfs rw 0 0\";", "").await.unwrap_err();
    assert!(why.contains("mount = ") && why.contains("write $path there"), "{why}");
    let why = refused("exec.poststart = \"/etc/rc.jail /data/jails/ServerA\";", "").await.unwrap_err();
    assert!(why.contains("exec.poststart"), "{why}");
    let fstab = "# /data/jails/ServerA\n/data/mail\t/data/jails/ServerA/var/mail nullfs rw 0 0\n";
    let why = refused("mount.fstab = \"/etc/fstab.$name\";", fstab).await.unwrap_err();
    assert!(why.contains("/etc/fstab.ServerA") && why.contains("mount +="), "{why}");
    for (line, fstab) in [
        ("mount = \"/data/mail $path/var/mail nullfs rw 0 0\";", ""),
        (
            "mount.fstab = \"/etc/fstab.$name\";",
            "# /data/jails/ServerA\n/data/mail /data/jails/ServerA2/mail nullfs rw 0 0\n",
        ),
        ("exec.poststart = \"/etc/rc.jail /data/jails/ServerAB\";", ""),
    ] {
        let text = refused(line, fstab).await.unwrap();
        assert!(!text.contains("mount =") && !text.contains("fstab") && !text.contains("poststart"), "{text}");
    }
    let variables = "jail_enable=\"YES\"\njail_list=\"ServerA\"\njail_ServerA_rootdir=\"/data/jails/ServerA\"\njail_ServerA_hostname=\"a.example\"\njail_ServerA_ip=\"10.0.2.112\"\n";
    let world = World::new(&[("/etc/rc.conf", variables)]);
    let error = world.jails.copy_of("ServerA", &beside()).await.unwrap_err();
    assert!(error.to_string().contains("variables of rc.conf"), "{error}");
}

#[tokio::test]
async fn a_stored_definition_may_use_what_stands_outside_of_it() {
    let shared = SHARED.replace("ServerA {", "$if = \"vtnet0\";\nServerA {").replace("vtnet0|10", "$if|10");
    let world = World::new(&[("/etc/jail.conf", &shared)]);
    let stored = world.jails.definition("ServerA").await.unwrap().unwrap();
    let edit = DefinitionEdit { disks: beside().disks, ..DefinitionEdit::default() };
    assert!(world.jails.derive(&stored, &edit).is_err(), "alone it means nothing");
    let moved = world.jails.redefined(&stored, &edit).await.unwrap();
    assert!(moved.text.contains("path = \"/data/jails/ServerA--k3f9\"") && moved.text.contains("$if|10.0.2.112/32"));
}
